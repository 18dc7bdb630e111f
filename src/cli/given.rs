//! What `build` is given beside the environment: arguments, secrets, agents, limits.

use super::values::Wrong;
use crate::error::{Doing as _, Error, Result};
use crate::image::size::bytes;
use serde::Serialize;
use std::io::Read as _;
use std::path::PathBuf;

/// No secret is larger, in bytes.
const LARGEST_SECRET: u64 = 500 << 10;

/// `NAME=VALUE`, or `NAME` for what the caller's variable says.
pub(super) fn argument(text: &str) -> Result<(String, String), Wrong> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value.to_owned())));
    if name.is_empty() {
        return Err(Wrong::Now(format!("{text:?}: it is NAME=VALUE, or NAME for the variable of that name")));
    }
    let value = value.or_else(|| std::env::var(name).ok());
    let missing = || Wrong::Now(format!("{name} has no value: write {name}=VALUE, or set the variable"));
    Ok((name.to_owned(), value.ok_or_else(missing)?))
}

/// A secret's id, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Secret {
    /// As RUN names it.
    pub id: String,
    from: From,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
enum From {
    File(PathBuf),
    Variable(String),
}

/// `id=ID,src=FILE` or `id=ID,env=NAME`.
pub(super) fn secret(text: &str) -> Result<Secret, Wrong> {
    let wrong = || Wrong::Now(format!("{text:?}: it is id=ID,src=FILE or id=ID,env=NAME"));
    let (mut id, mut from) = (None, None);
    for field in text.split(',') {
        match field.split_once('=').ok_or_else(wrong)? {
            ("id", value) if !value.is_empty() => id = Some(value.to_owned()),
            ("src" | "source", value) if !value.is_empty() => from = Some(From::File(value.into())),
            ("env", value) if !value.is_empty() => from = Some(From::Variable(value.to_owned())),
            ("type", "file" | "env") => {}
            _ => return Err(wrong()),
        }
    }
    let id = id.ok_or_else(wrong)?;
    let from = from.unwrap_or_else(|| From::Variable(id.clone()));
    Ok(Secret { id, from })
}

impl Secret {
    /// What it is.
    pub(super) fn read(&self) -> Result<Vec<u8>> {
        let doing = || format!("cannot read the secret {:?}", self.id);
        match &self.from {
            From::Variable(name) => {
                let value = std::env::var_os(name).ok_or_else(|| Error::new(format!("the variable {name} is not set")));
                Ok(std::os::unix::ffi::OsStringExt::into_vec(value.doing(doing)?))
            }
            From::File(path) => {
                let opened = std::fs::metadata(path).and_then(|meta| Ok((meta.is_file(), std::fs::File::open(path)?)));
                let (is_file, file) =
                    opened.map_err(|e| Error::new(format!("{}: {e}", path.display()))).doing(doing)?;
                if !is_file {
                    return Err(Error::new(format!("{} is no plain file", path.display()))).doing(doing);
                }
                let mut bytes = Vec::new();
                file.take(LARGEST_SECRET + 1).read_to_end(&mut bytes).doing(doing)?;
                if bytes.len() as u64 > LARGEST_SECRET {
                    return Err(Error::new(format!("it has more than {LARGEST_SECRET} bytes"))).doing(doing);
                }
                Ok(bytes)
            }
        }
    }
}

/// `default`, or `ID=SOCKET`: an ssh agent.
pub(super) fn agent(text: &str) -> Result<(String, PathBuf), Wrong> {
    if let Some((id, socket)) = text.split_once('=').filter(|(id, socket)| !id.is_empty() && !socket.is_empty()) {
        return Ok((id.to_owned(), socket.into()));
    }
    let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
    match socket {
        Some(socket) if !text.is_empty() && !text.contains('=') => Ok((text.to_owned(), socket.into())),
        None if text == "default" => Err(Wrong::Now(
            "SSH_AUTH_SOCK is not set: no agent runs, or sudo hides it (sudo --preserve-env=SSH_AUTH_SOCK)".into(),
        )),
        _ => Err(Wrong::Now(format!("{text:?}: it is default, or ID=SOCKET"))),
    }
}

/// A size in bytes: `500m`, `64g`. A tar has 10 KiB at least.
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    let wrong = || Wrong::Now(format!("{text:?}: it is a size in bytes of 20k at least, such as 500m or 64g"));
    bytes(text).filter(|n| *n >= 20 << 10).ok_or_else(wrong)
}

/// `SOURCE_DATE_EPOCH`, in seconds since 1970.
pub(super) fn epoch() -> Result<Option<i64>> {
    let Some(text) = std::env::var("SOURCE_DATE_EPOCH").ok().filter(|text| !text.is_empty()) else { return Ok(None) };
    let number = text.parse().ok().filter(|n| (0..=253_402_300_799_i64).contains(n));
    number.map(Some).ok_or_else(|| {
        Error::usage(format!("SOURCE_DATE_EPOCH is {text:?}"))
            .hint("it is a whole number of seconds since 1970, or not set")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given() {
        assert_eq!(argument("A=b=c").unwrap(), ("A".into(), "b=c".into()));
        assert!(argument("=x").is_err() && argument("NO_SUCH_VARIABLE_HERE").is_err());
        assert_eq!(secret("id=a,src=/f").unwrap().from, From::File("/f".into()));
        assert_eq!(secret("id=a,env=V").unwrap().from, From::Variable("V".into()));
        assert!(secret("src=/f").is_err() && secret("id=").is_err() && secret("x").is_err());
        assert_eq!(agent("a=/s").unwrap(), ("a".into(), "/s".into()));
        assert!(agent("=").is_err());
        assert_eq!((size("500m").unwrap(), size("1GiB").unwrap()), (500 << 20, 1 << 30));
        assert!(size("0").is_err() && size("7").is_err() && size("x").is_err() && size("99999999t").is_err());
    }
}
