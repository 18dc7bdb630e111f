//! What the values of options mean, and how a wrong one is told. Pure but for looking at `--workdir`.

use super::python::{close_matches, repr};
use crate::cluster::volume::{self, Volume};
use crate::workdir::manifest::Userns;
use clap_complete::CompletionCandidate;
use serde::{Serialize, Serializer};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

/// Offered instead of names of files: the shells' scripts complete those in the shell's own way.
pub(super) const FILES: &str = ":files";

/// The same of directories.
pub(super) const DIRECTORIES: &str = ":directories";

/// Why a value is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// Told at once, as oar-docker did.
    Now(String),
    /// oar-docker found it out only when the command ran: told when the syntax of the whole line is right.
    Late(String),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Now(what) | Self::Late(what)) = self;
        f.write_str(what)
    }
}

impl std::error::Error for Wrong {}

/// A value that is shown as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given<T> {
    /// As given.
    pub text: String,
    /// What it means.
    pub value: T,
}

impl<T> Given<T> {
    /// Of `text` what it means.
    pub(super) fn new(text: &str, value: T) -> Self {
        Self { text: text.to_owned(), value }
    }
}

impl<T> Serialize for Given<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// Of `-e KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Before the first equals sign; an old line may have none.
    pub name: String,
    /// After it.
    pub value: String,
}

/// How many lines of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// Every one.
    All,
    /// This many, of the end.
    Last(usize),
}

/// Whether a flag that oar-docker did not have is left out of what `--dry-run` shows.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
pub(super) fn off(flag: &bool) -> bool {
    !flag
}

/// As Python reads a flag's variable.
pub(super) fn boolean(text: &str) -> Result<bool, Wrong> {
    match text.trim().to_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
        "" | "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
        _ => Err(Wrong::Now(format!(
            "{} is not a valid boolean. Recognized values: , 0, 1, f, false, n, no, off, on, t, true, y, yes",
            repr(text)
        ))),
    }
}

/// A whole number between the two. One that does not fit any type becomes the largest there is, which every range refuses.
pub(super) fn within<T: TryFrom<i64>>(low: i64, high: i64) -> impl Fn(&str) -> Result<T, Wrong> + Clone {
    move |text| {
        let trimmed = text.trim();
        let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Wrong::Now(format!("{} is not a valid integer.", repr(text))));
        }
        let limit = if trimmed.starts_with('-') { i64::MIN } else { i64::MAX };
        let number = trimmed.parse::<i64>().unwrap_or(limit);
        let within = (low..=high).contains(&number).then(|| T::try_from(number).ok()).flatten();
        within.ok_or_else(|| Wrong::Late(format!("{number} is not in the range {low} to {high}.")))
    }
}

/// Any path, also an empty one, which clap's own parser refuses.
#[allow(clippy::unnecessary_wraps, reason = "clap wants a result")]
pub(super) fn path(text: &str) -> Result<PathBuf, Wrong> {
    Ok(text.into())
}

/// An existing directory; its real path.
pub(super) fn directory(text: &str) -> Result<PathBuf, Wrong> {
    let wrong = |what: &str| Wrong::Now(format!("Directory {} {what}.", repr(text)));
    let missing = |_| wrong("does not exist");
    let kind = std::fs::metadata(text).map_err(missing)?.file_type();
    if kind.is_file() {
        return Err(wrong("is a file"));
    }
    if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
        return Err(wrong("is not a directory"));
    }
    let path = std::fs::canonicalize(text).map_err(missing)?;
    if path.to_str().is_some() { Ok(path) } else { Err(wrong("has a name that is not UTF-8")) }
}

/// `HOST[:CONTAINER[:MODE]]`.
pub(super) fn volume(text: &str) -> Result<Given<Volume>, Wrong> {
    volume::parse(text).map(|volume| Given::new(text, volume)).map_err(|e| Wrong::Late(format!("{e}.")))
}

/// Of `--userns`.
pub(super) fn userns(text: &str) -> Result<Userns, Wrong> {
    Userns::parse(text).map_err(|e| Wrong::Late(format!("{e}.")))
}

/// What can be completed of that.
pub(super) fn all_userns() -> Vec<CompletionCandidate> {
    Userns::ALL.map(|(word, _)| word.into()).into()
}

/// What can be completed of a volume: its paths, then its mode.
pub(super) fn volume_modes(text: &OsStr) -> Vec<CompletionCandidate> {
    match text.to_str().and_then(|text| text.rsplit_once(':')).filter(|(paths, _)| paths.contains(':')) {
        Some((paths, typed)) => {
            let modes = ["ro", "rw", "cow"].iter().filter(|mode| mode.starts_with(typed));
            modes.map(|mode| format!("{paths}:{mode}").into()).collect()
        }
        None => vec![FILES.into()],
    }
}

/// `KEY=VALUE`.
pub(super) fn variable(text: &str) -> Result<Given<Variable>, Wrong> {
    match text.trim().split_once('=') {
        Some(("", rest)) if rest.contains('=') => {
            Err(format!("{} begins with an equals sign: write -e {rest}, or --env={rest}.", repr(text)))
        }
        Some((name, value)) if is_variable(name) || name.is_empty() => {
            Ok(Given::new(text, Variable { name: name.to_owned(), value: value.to_owned() }))
        }
        Some((name, _)) => Err(format!("{} is not a name of an environment variable.", repr(name))),
        None => Err(format!("{} is not of the form KEY=VALUE.", repr(text))),
    }
    .map_err(Wrong::Late)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A number of lines, or `all`.
pub(super) fn lines(text: &str) -> Result<Given<Lines>, Wrong> {
    let value =
        if text == "all" { Some(Lines::All) } else { text.parse::<u32>().ok().map(|n| Lines::Last(n as usize)) };
    let wrong = || Wrong::Late(format!("{} is neither a number of lines nor 'all'.", repr(text)));
    value.map(|value| Given::new(text, value)).ok_or_else(wrong)
}

/// Names that a cluster's hosts can have, whatever its size: `services` is what very old environments had.
pub(super) fn is_host(name: &str) -> bool {
    matches!(name, "frontend" | "server" | "rsyslog" | "services")
        || name
            .strip_prefix("node")
            .is_some_and(|n| n.parse::<u32>().is_ok_and(|i| (1..=1000).contains(&i)) && !n.starts_with(['0', '+']))
}

/// The name of a host.
pub(super) fn host(text: &str) -> Result<String, Wrong> {
    if is_host(text) {
        return Ok(text.to_owned());
    }
    let similar = close_matches(text, &["frontend", "server", "rsyslog", "node1"]);
    let similar: Vec<_> = similar.iter().map(|n| repr(n)).collect();
    let advice = if similar.is_empty() { String::new() } else { format!(" Did you mean {}?", similar.join(" or ")) };
    let known = "hosts are frontend, server, rsyslog, node1, node2, ...";
    Err(Wrong::Late(format!("{} is not a host; {known}{advice}", repr(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["frontend", "server", "rsyslog", "services", "node1", "node1000"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", "node", "node0", "node01", "node1001", "node+1", "start", "Frontend", "node-1"] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn numbers_of_any_size_are_numbers() {
        let parse = within::<u16>(0, 1000);
        assert_eq!((parse(" +7 "), parse("1000")), (Ok(7), Ok(1000)));
        assert_eq!(parse("-1"), Err(Wrong::Late("-1 is not in the range 0 to 1000.".into())));
        assert!(matches!(parse("99999999999999999999"), Err(Wrong::Late(_))));
        assert!(matches!(parse("0x10"), Err(Wrong::Now(_))));
        assert!(matches!(parse("-"), Err(Wrong::Now(_))));
    }
}
