//! The one error type of the crate: what was being done, to what, why it failed, and what to do instead.
//!
//! A room adds its own sentence with [`Doing::doing`]; only `cli` prints. The kind decides the exit code.

use std::sync::Arc;
use std::{fmt, io};

/// How an error ends the program, unless it says so itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something failed: exit code 1.
    Failure,
    /// The command line asked for something that cannot be: exit code 2.
    Usage,
}

/// An error with its chain of causes and the hints for the user.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    /// The exit code, where the kind's own is not the right one.
    code: Option<u8>,
    /// From the outermost sentence ("cannot start node1") to the root cause.
    chain: Vec<String>,
    /// What a library made of it, of which the last sentence is the text.
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    hints: Vec<String>,
    /// Lines worth showing below the message: the end of a log, of a script's output.
    details: Vec<String>,
}

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure described by one sentence (lower case, no full stop).
    pub fn new(what: impl Into<String>) -> Self {
        let chain = vec![what.into()];
        Self { kind: Kind::Failure, code: None, chain, source: None, hints: Vec::new(), details: Vec::new() }
    }

    /// A misuse of the command line that only showed once the value was looked at.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, ..Self::new(what) }
    }

    /// The user does not want it any more: exit code 130, as after Ctrl-C.
    pub fn interrupted() -> Self {
        Self::new("interrupted").code(130)
    }

    /// Ends the program with this exit code.
    #[must_use]
    pub fn code(mut self, code: u8) -> Self {
        self.code = Some(code);
        self
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds lines to show below the message.
    #[must_use]
    pub fn detail(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(lines);
        self
    }

    /// Puts a sentence in front: what was being done when this happened.
    #[must_use]
    pub fn within(mut self, doing: impl Into<String>) -> Self {
        self.chain.insert(0, doing.into());
        self
    }

    /// Adds a sentence at the end: what was behind it.
    #[must_use]
    pub fn because(mut self, why: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.chain.push(why.to_string());
        self.source = Some(Arc::new(why));
        self
    }

    /// What was behind it, if that is of this type.
    pub fn cause<T: std::error::Error + 'static>(&self) -> Option<&T> {
        self.source.as_deref()?.downcast_ref()
    }

    /// What the kernel said, if it was the kernel.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        let source = self.source.as_deref()?;
        let of_nix = || source.downcast_ref::<nix::Error>().map(|e| io::Error::from(*e).kind());
        source.downcast_ref::<io::Error>().map(io::Error::kind).or_else(of_nix)
    }

    /// Joins the errors of a teardown, which goes on after each of them.
    pub fn all(errors: Vec<Self>) -> Result<()> {
        let mut errors = errors.into_iter();
        let Some(mut first) = errors.next() else { return Ok(()) };
        for other in errors {
            first.details.push(other.to_string());
            first.details.extend(other.details);
            first.hints.extend(other.hints);
        }
        Err(first)
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        self.code.unwrap_or(match self.kind {
            Kind::Failure => 1,
            Kind::Usage => 2,
        })
    }

    /// What the user can do.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// Lines to show below the message.
    pub fn details(&self) -> &[String] {
        &self.details
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain.join(": "))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Turns any error into ours, with a sentence in front.
pub trait Doing<T> {
    /// Says what was being done, in the words "cannot ...".
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Cause>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| e.into().0.within(what()))
    }
}

/// What [`Doing::doing`] accepts: our own error, or one of the libraries we call.
#[derive(Debug)]
pub struct Cause(Error);

impl From<Error> for Cause {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

macro_rules! foreign {
    ($($t:ty),* $(,)?) => { $(
        impl From<$t> for Cause {
            fn from(error: $t) -> Self {
                let text = error.to_string();
                Self(Error { source: Some(Arc::new(error)), ..Error::new(text) })
            }
        }
    )* };
}

foreign!(
    io::Error,
    nix::Error,
    serde_json::Error,
    rtnetlink::Error,
    oci_spec::OciSpecError,
    tokio::task::JoinError,
    std::num::ParseIntError,
    std::string::FromUtf8Error,
    reqwest::Error,
);

impl From<String> for Cause {
    fn from(what: String) -> Self {
        Self(Error::new(what))
    }
}

impl From<&str> for Cause {
    fn from(what: &str) -> Self {
        Self(Error::new(what))
    }
}

impl From<tonic::Status> for Cause {
    fn from(status: tonic::Status) -> Self {
        Self(Error::new(format!("{:?}: {}", status.code(), status.message())))
    }
}

impl From<tonic::transport::Error> for Cause {
    fn from(error: tonic::transport::Error) -> Self {
        Self(Error::new(root_cause(&error)))
    }
}

impl From<hyper::Error> for Cause {
    fn from(error: hyper::Error) -> Self {
        let text = root_cause(&error);
        Self(Error { source: Some(Arc::new(error)), ..Error::new(text) })
    }
}

impl From<cgroups_rs::fs::error::Error> for Cause {
    fn from(error: cgroups_rs::fs::error::Error) -> Self {
        let text = root_cause(&error);
        Self(Error { source: Some(Arc::new(error)), ..Error::new(text) })
    }
}

impl From<hyper::http::Error> for Cause {
    fn from(error: hyper::http::Error) -> Self {
        Self(Error::new(error.to_string()))
    }
}

impl From<bollard::errors::Error> for Cause {
    fn from(error: bollard::errors::Error) -> Self {
        use bollard::errors::Error::{DockerResponseServerError, DockerStreamError};
        Self(Error::new(match error {
            DockerResponseServerError { message, .. } => message,
            DockerStreamError { error } => error,
            other => root_cause(&other),
        }))
    }
}

/// The innermost reason; what libraries put around it says only which of their parts saw it.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_reads_from_the_outside_to_the_cause() {
        let error = std::fs::read("/nonexistent/x").doing(|| "cannot read /nonexistent/x".into()).unwrap_err();
        let error = error.within("cannot start node1").hint("look there");
        assert_eq!(
            error.to_string(),
            "cannot start node1: cannot read /nonexistent/x: No such file or directory (os error 2)"
        );
        assert_eq!(error.hints(), ["look there"]);
        assert_eq!(error.kind(), Kind::Failure);
        assert_eq!(error.io_kind(), Some(io::ErrorKind::NotFound));
        assert!(std::error::Error::source(&error).unwrap().is::<io::Error>());
        let full: Result<()> = Err(nix::Error::ENOSPC).doing(|| "cannot write x".into());
        assert_eq!(full.unwrap_err().io_kind(), Some(io::ErrorKind::StorageFull));
        assert_eq!(Error::new("x").io_kind(), None);
    }

    #[test]
    fn a_teardown_keeps_every_error() {
        assert!(Error::all(vec![]).is_ok());
        let other = Error::new("b").hint("h").detail(["b's journal".into()]);
        let error = Error::all(vec![Error::new("a"), other]).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.details()), ("a", &["b".into(), "b's journal".to_owned()][..]));
        assert_eq!(error.hints(), ["h"]);
    }
}
