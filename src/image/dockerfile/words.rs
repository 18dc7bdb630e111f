//! The forms that arguments have: JSON arrays, `NAME=value` pairs, words.

use super::Words;
use super::fault::Fault;

/// A JSON array of strings; none for what is another form.
pub(super) fn json(line: usize, text: &str) -> Result<Option<Vec<String>>, Fault> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
    let strings = values.into_iter().map(|v| v.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
    strings.map(Some).ok_or_else(|| Fault::at(line, "only strings may be in a JSON array").about("["))
}

/// Arguments of RUN, CMD and ENTRYPOINT.
pub(super) fn command(line: usize, text: &str) -> Result<Words, Fault> {
    Ok(json(line, text)?.map_or_else(|| Words::Shell(text.to_owned()), Words::Exec))
}

/// A JSON array, or words.
pub(super) fn list(line: usize, text: &str) -> Result<Vec<String>, Fault> {
    Ok(json(line, text)?.unwrap_or_else(|| text.split_whitespace().map(str::to_owned).collect()))
}

/// Words with their quotes: blanks inside quotes and escaped ones do not divide.
pub(super) fn quoted(text: &str, escape: char) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c == escape && quote != Some('\'') => {
                // At the end of the line it means nothing.
                if let Some(next) = chars.next() {
                    word.extend([c, next]);
                }
                continue;
            }
            '"' | '\'' if quote.is_none() => quote = Some(c),
            c if Some(c) == quote => quote = None,
            c if quote.is_none() && c.is_whitespace() => {
                words.extend(Some(std::mem::take(&mut word)).filter(|w| !w.is_empty()));
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    words.extend(Some(word).filter(|w| !w.is_empty()));
    words
}

/// The pairs of ENV and LABEL: `A=1 B="x y"`, or the old form `A some words`.
pub(super) fn pairs(line: usize, keyword: &str, text: &str, escape: char) -> Result<Vec<(String, String)>, Fault> {
    let fault = |what: String, about: &str| Fault::at(line, what).about(about);
    let words = quoted(text, escape);
    let first = words.first().ok_or_else(|| Fault::at(line, format!("{keyword} needs at least one argument")))?;
    if !first.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        if value.trim().is_empty() {
            return Err(
                fault(format!("{keyword} {name} has no value"), name).hint(format!("write {keyword} {name}=value"))
            );
        }
        return Ok(vec![(name.to_owned(), value.trim_start().to_owned())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        None => Err(fault(format!("there is no = in {word:?}"), word).hint(format!("write {keyword} name=value ..."))),
        Some(("", _)) => Err(fault(format!("{keyword} names cannot be empty"), word)),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
    };
    words.iter().map(pair).collect()
}
