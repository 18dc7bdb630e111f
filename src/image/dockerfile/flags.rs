//! `--name=value` in front of an instruction's arguments.

use super::fault::Fault;

/// Those of one instruction.
#[derive(Debug)]
pub(super) struct Flags {
    line: usize,
    keyword: String,
    /// Names, and values where there are any.
    all: Vec<(String, Option<String>)>,
}

/// Takes the flags off the arguments.
pub(super) fn split<'a>(line: usize, keyword: &str, arguments: &'a str, escape: char) -> (Flags, &'a str) {
    let mut all = Vec::new();
    let mut rest = arguments.trim_start();
    while let Some(flag) = rest.strip_prefix("--") {
        let (word, after) = word(flag, escape);
        rest = after.trim_start();
        if word.is_empty() {
            break;
        }
        let (name, value) = word.split_once('=').map_or((word.as_str(), None), |(n, v)| (n, Some(v.to_owned())));
        all.push((name.to_owned(), value));
    }
    (Flags { line, keyword: keyword.to_uppercase(), all }, rest)
}

/// One word without its quotes, and what comes after it.
fn word(text: &str, escape: char) -> (String, &str) {
    let (mut word, mut quote) = (String::new(), None);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == escape && quote != Some('\'') => word.extend(chars.next().map(|(_, next)| next)),
            '"' | '\'' if quote.is_none() => quote = Some(c),
            c if Some(c) == quote => quote = None,
            c if quote.is_none() && c.is_whitespace() => return (word, &text[at..]),
            c => word.push(c),
        }
    }
    (word, "")
}

impl Flags {
    fn fault(&self, name: &str, what: impl Into<String>) -> Fault {
        Fault::at(self.line, what).about(format!("--{name}"))
    }

    /// All values of one that may be given several times.
    pub(super) fn several(&mut self, name: &str) -> Result<Vec<String>, Fault> {
        let (found, rest) = std::mem::take(&mut self.all).into_iter().partition::<Vec<_>, _>(|(n, _)| n == name);
        self.all = rest;
        let keyword = self.keyword.clone();
        found
            .into_iter()
            .map(|(_, value)| value.filter(|v| !v.is_empty()))
            .map(|value| value.ok_or_else(|| self.fault(name, format!("{keyword} --{name} needs a value"))))
            .collect()
    }

    /// The value of one that may be given once.
    pub(super) fn one(&mut self, name: &str) -> Result<Option<String>, Fault> {
        let mut found = self.several(name)?;
        if found.len() > 1 {
            return Err(self.fault(name, format!("{} --{name} is given twice", self.keyword)));
        }
        Ok(found.pop())
    }

    /// One that is there or not, or says which.
    pub(super) fn switch(&mut self, name: &str) -> Result<Option<bool>, Fault> {
        for (given, value) in &mut self.all {
            if given == name && value.is_none() {
                *value = Some("true".into());
            }
        }
        match self.one(name)?.as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(self.fault(name, format!("{} --{name}={other}: it is true or false", self.keyword))),
        }
    }

    /// Nothing may be left.
    pub(super) fn done(&self) -> Result<(), Fault> {
        match self.all.first() {
            None => Ok(()),
            Some((name, _)) => Err(self.fault(name, format!("{} has no option --{name}", self.keyword))),
        }
    }
}
