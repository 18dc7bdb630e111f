//! Words as Dockerfile instructions have them: quotes, escapes, and variables with their modifiers. Pure.
//!
//! The rules are those of the Dockerfile reference: `${V:-w}` `${V-w}` `${V:+w}` `${V+w}` `${V:?m}` `${V?m}` `${V#p}` `${V##p}`
//! `${V%p}` `${V%%p}` `${V/p/w}` `${V//p/w}`. What cannot be understood is an error and never a text.

use regex::Regex;
use std::iter::Peekable;
use std::str::Chars;

/// Finds a variable's value.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How words are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shell {
    /// What takes the meaning of the next character away.
    pub escape: char,
    /// What becomes of quotes.
    pub quotes: Quotes,
}

/// What becomes of quotes, and of what is escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quotes {
    /// They group, and go.
    Gone,
    /// They group, and stay, as do escapes and variables.
    Kept,
    /// They are characters like others.
    Plain,
}

impl Shell {
    /// Words with this escape character.
    pub(super) fn new(escape: char) -> Self {
        Self { escape, quotes: Quotes::Gone }
    }

    fn keeps(self) -> bool {
        self.quotes == Quotes::Kept
    }

    /// One text, with its variables.
    pub(super) fn word(self, text: &str, lookup: Lookup<'_>) -> Result<String, String> {
        Reader::new(self, text, lookup).until(None, self.keeps()).map(|(word, _)| word)
    }

    /// The words of a text: a variable may stand for several.
    pub(super) fn words(self, text: &str, lookup: Lookup<'_>) -> Result<Vec<String>, String> {
        Reader::new(self, text, lookup).until(None, self.keeps()).map(|(_, words)| words.done())
    }
}

/// Words on their way.
#[derive(Debug, Default)]
struct Words {
    all: Vec<String>,
    now: String,
}

impl Words {
    /// A text that may hold several words.
    fn split(&mut self, text: &str) {
        text.chars().for_each(|c| self.character(c));
    }

    fn character(&mut self, c: char) {
        if c.is_whitespace() { self.end() } else { self.now.push(c) }
    }

    /// An empty word is none.
    fn end(&mut self) {
        if !self.now.is_empty() {
            self.all.push(std::mem::take(&mut self.now));
        }
    }

    /// A text that is part of one word.
    fn whole(&mut self, text: &str) {
        self.now.push_str(text);
    }

    fn done(mut self) -> Vec<String> {
        self.end();
        self.all
    }
}

struct Reader<'a> {
    shell: Shell,
    chars: Peekable<Chars<'a>>,
    lookup: Lookup<'a>,
    /// Substitutions within each other.
    depth: u32,
}

/// A text does not grow beyond this, in bytes: a few lines that name each other would fill the memory.
const LARGEST: usize = 1 << 20;
const TOO_LARGE: &str = "it grows beyond 1 MiB";

/// Nobody writes more substitutions within each other.
const DEPTH: u32 = 50;

impl<'a> Reader<'a> {
    fn new(shell: Shell, text: &'a str, lookup: Lookup<'a>) -> Self {
        Self { shell, chars: text.chars().peekable(), lookup, depth: 0 }
    }

    /// Up to a character, or to the end: as one text and as words.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<(String, Words), String> {
        let (mut text, mut words) = (String::new(), Words::default());
        while let Some(c) = self.chars.next() {
            if Some(c) == stop {
                return Ok((text, words));
            }
            if text.len() > LARGEST {
                return Err(TOO_LARGE.into());
            }
            match c {
                '\'' | '"' if self.shell.quotes != Quotes::Plain => {
                    let quoted = if c == '"' { self.double_quoted()? } else { self.single_quoted()? };
                    text.push_str(&quoted);
                    words.whole(&quoted);
                }
                '$' => {
                    let value = self.dollar()?;
                    text.push_str(&value);
                    words.split(&value);
                }
                '<' if self.chars.peek() == Some(&'<') => {
                    // A here-document's word may stand apart from its sign.
                    let mut sign = String::from("<<");
                    self.chars.next();
                    while let Some(blank) = self.chars.next_if(|c| matches!(c, ' ' | '\t')) {
                        sign.push(blank);
                    }
                    text.push_str(&sign);
                    words.whole(&sign);
                }
                c if c == self.shell.escape => {
                    let escaped: String = keep_escapes.then_some(c).into_iter().chain(self.chars.next()).collect();
                    text.push_str(&escaped);
                    words.whole(&escaped);
                }
                c => {
                    text.push(c);
                    words.character(c);
                }
            }
        }
        match stop {
            Some('}') => Err("syntax error: missing '}'".into()),
            Some(stop) => Err(format!("syntax error: there is no {stop:?} after it")),
            None => Ok((text, words)),
        }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        for c in self.chars.by_ref() {
            if c == '\'' {
                return Ok(if self.shell.keeps() { format!("'{text}'") } else { text });
            }
            text.push(c);
        }
        Err("syntax error: a single quote is not closed".into())
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        while let Some(c) = self.chars.next() {
            match c {
                '"' => return Ok(if self.shell.keeps() { format!("\"{text}\"") } else { text }),
                '$' if text.len() > LARGEST => return Err(TOO_LARGE.into()),
                '$' => text.push_str(&self.dollar()?),
                c if c == self.shell.escape => {
                    let escape = self.shell.escape;
                    let next = self.chars.next_if(|next| matches!(next, '"' | '$') || *next == escape);
                    if self.shell.keeps() || next.is_none() {
                        text.push(c);
                    }
                    text.extend(next);
                }
                c => text.push(c),
            }
        }
        Err("syntax error: a double quote is not closed".into())
    }

    /// What comes after a dollar sign.
    fn dollar(&mut self) -> Result<String, String> {
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(if self.shell.keeps() { format!("${name}") } else { (self.lookup)(&name).unwrap_or_default() });
        }
        if self.shell.keeps() {
            return Ok(self.verbatim());
        }
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(format!("more than {DEPTH} substitutions are within each other"));
        }
        let value = self.braces();
        self.depth -= 1;
        value
    }

    /// A name; digits, or one special character, are names of their own.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(c) = self.chars.next_if(|c| "@*#?-$!".contains(*c)) {
            return c.into();
        }
        let number = self.chars.peek().is_some_and(char::is_ascii_digit);
        while let Some(c) =
            self.chars.next_if(|c| if number { c.is_ascii_digit() } else { c.is_alphanumeric() || *c == '_' })
        {
            name.push(c);
        }
        name
    }

    /// What comes after `${`, as it stands, up to its end.
    fn verbatim(&mut self) -> String {
        let (mut text, mut open) = (String::from("${"), 1);
        for c in self.chars.by_ref() {
            open += i32::from(c == '{') - i32::from(c == '}');
            text.push(c);
            if open == 0 {
                break;
            }
        }
        text
    }

    /// What comes after `${`.
    fn braces(&mut self) -> Result<String, String> {
        match self.chars.peek() {
            None => return Err("syntax error: missing '}'".into()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".into()),
            _ => {}
        }
        let name = self.name();
        let value = (self.lookup)(&name);
        match self.chars.next() {
            None => Err("syntax error: missing '}'".into()),
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => match self.chars.next() {
                Some(c @ ('-' | '+' | '?')) => self.instead(&name, value.filter(|v| !v.is_empty()), c, "empty"),
                other => Err(unsupported(&format!(":{}", other.map_or_else(String::new, Into::into)))),
            },
            Some(c @ ('-' | '+' | '?')) => self.instead(&name, value, c, "unset"),
            Some(c @ ('#' | '%')) => {
                let longest = self.chars.next_if_eq(&c).is_some();
                let (pattern, _) = self.until(Some('}'), true)?;
                trimmed(&value.unwrap_or_default(), &pattern, c == '%', longest)
            }
            Some('/') => {
                let all = self.chars.next_if_eq(&'/').is_some();
                let (pattern, _) = self.until(Some('/'), true)?;
                let (new, _) = self.until(Some('}'), true)?;
                let pattern = Regex::new(&expression(&pieces(&pattern), true)).map_err(|e| e.to_string())?;
                let value = value.unwrap_or_default();
                let count = if all { pattern.find_iter(&value).count() } else { 1 };
                if count.saturating_mul(new.len()) > LARGEST {
                    return Err(TOO_LARGE.into());
                }
                let replaced = pattern.replacen(&value, usize::from(!all), regex::NoExpand(&new));
                Ok(replaced.into_owned())
            }
            Some(other) => Err(unsupported(&other.to_string())),
        }
    }

    /// `-`, `+` and `?`.
    fn instead(&mut self, name: &str, value: Option<String>, sign: char, what: &str) -> Result<String, String> {
        let (word, _) = self.until(Some('}'), false)?;
        match (sign, value) {
            ('+', value) => Ok(value.map_or_else(String::new, |_| word)),
            (_, Some(value)) => Ok(value),
            ('-', None) => Ok(word),
            (_, None) if word.is_empty() => Err(format!("{name}: it is not allowed to be {what}")),
            (_, None) => Err(format!("{name}: {word}")),
        }
    }
}

fn unsupported(modifier: &str) -> String {
    format!("syntax error: unsupported modifier {modifier:?} in a substitution")
}

/// A pattern in expressions: `*` and `?` stand for anything, what is escaped for itself.
fn pieces(pattern: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        pieces.push(match c {
            '*' => "*".into(),
            '?' => ".".into(),
            '\\' => chars.next().map_or_else(|| "\\\\".into(), |c| regex::escape(c.encode_utf8(&mut [0; 4]))),
            c => regex::escape(c.encode_utf8(&mut [0; 4])),
        });
    }
    pieces
}

fn expression(pieces: &[String], longest: bool) -> String {
    let any = if longest { ".*" } else { ".*?" };
    let parts = pieces.iter().map(|piece| if piece == "*" { any } else { piece });
    format!("(?s){}", parts.collect::<String>())
}

/// Without what a pattern finds at the beginning or the end.
fn trimmed(value: &str, pattern: &str, at_end: bool, longest: bool) -> Result<String, String> {
    let mut pieces = pieces(pattern);
    // The shortest end is the shortest beginning of it all turned round.
    let turned = |text: &str| if at_end { text.chars().rev().collect() } else { text.to_owned() };
    if at_end {
        pieces.reverse();
    }
    let pattern = expression(&pieces, longest).replacen("(?s)", "(?s)^", 1);
    let pattern = Regex::new(&pattern).map_err(|e| e.to_string())?;
    Ok(turned(&pattern.replace(&turned(value), "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".into()),
            "P" => Some("a/b/c.tar.gz".into()),
            "W" => Some("two words".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables() {
        for (text, expected) in [
            ("x$A", "x1"),
            ("${A}b", "1b"),
            ("$NONE-", "-"),
            ("${NONE:-d$A}", "d1"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${NONE-d}", "d"),
            ("${A:+yes}", "yes"),
            ("${NONE:+yes}", ""),
            ("${EMPTY:+yes}", ""),
            ("${EMPTY+yes}", "yes"),
            ("${A:?m}", "1"),
            ("${EMPTY?m}", ""),
            ("${P#*/}", "b/c.tar.gz"),
            ("${P##*/}", "c.tar.gz"),
            ("${P%.*}", "a/b/c.tar"),
            ("${P%%.*}", "a/b/c"),
            ("${P%.tar.gz}", "a/b/c"),
            ("${P#?/}", "b/c.tar.gz"),
            ("${P#x}", "a/b/c.tar.gz"),
            ("${P/\\//-}", "a-b/c.tar.gz"),
            ("${P//\\//-}", "a-b-c.tar.gz"),
            ("${P//[/x}", "a/b/c.tar.gz"),
            ("${P/b*/$A}", "a/1"),
            ("${NONE:-${EMPTY:-${A}}}", "1"),
            ("\\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A\"", "1"),
            ("\"a\\b \\\" \\$A\"", "a\\b \" $A"),
            ("a$", "a$"),
            ("a\\", "a"),
            ("$1x$@", "x"),
        ] {
            assert_eq!(Shell::new('\\').word(text, &env).unwrap(), expected, "{text}");
        }
        assert_eq!(Shell::new('`').word("C:\\x`$A", &env).unwrap(), "C:\\x$A");
    }

    #[test]
    fn what_cannot_be_understood_is_an_error() {
        for (text, expected) in [
            ("${NONE:?set it}", "NONE: set it"),
            ("${EMPTY:?}", "EMPTY: it is not allowed to be empty"),
            ("${NONE?}", "NONE: it is not allowed to be unset"),
            ("${A", "syntax error: missing '}'"),
            ("${A:-b", "syntax error: missing '}'"),
            ("${}", "syntax error: bad substitution"),
            ("${A:#b}", "syntax error: unsupported modifier \":#\" in a substitution"),
            ("${A^}", "syntax error: unsupported modifier \"^\" in a substitution"),
            ("\"$A", "syntax error: a double quote is not closed"),
            ("'$A", "syntax error: a single quote is not closed"),
            ("${A/b}", "syntax error: there is no '/' after it"),
        ] {
            assert_eq!(Shell::new('\\').word(text, &env).unwrap_err(), expected, "{text}");
        }
        let huge = |name: &str| (name == "A").then(|| "x".repeat(LARGEST));
        for text in ["$A$A$A", "\"$A$A$A\"", "${A//x/yy}"] {
            assert_eq!(Shell::new('\\').word(text, &huge).unwrap_err(), TOO_LARGE, "{text}");
        }
        let deep = format!("{}x{}", "${N:-".repeat(200), "}".repeat(200));
        assert!(Shell::new('\\').word(&deep, &env).unwrap_err().contains("within each other"));
    }

    #[test]
    fn words_of_a_text() {
        let words = |text| Shell::new('\\').words(text, &env).unwrap();
        assert_eq!(words("a  $W \"$W\" c\\ d ''"), ["a", "two", "words", "two words", "c d"]);
        let raw = Shell { escape: '\\', quotes: Quotes::Kept };
        assert_eq!(
            raw.words("cat > f <<\"E F\" $X ${Y:-a}", &|_| None).unwrap(),
            ["cat", ">", "f", "<<\"E F\"", "$X", "${Y:-a}"]
        );
    }
}
