//! Patterns of paths: wildcards of COPY, the lines of a `.dockerignore`, `--exclude`. Pure.

use regex::bytes::{Regex, RegexBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// Whether a path has wildcards in it.
pub(super) fn is_pattern(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// A pattern for this path alone.
pub(super) fn escaped(path: &str) -> String {
    let escape = |c: char| matches!(c, '\\' | '*' | '?' | '[').then_some('\\').into_iter().chain([c]);
    path.chars().flat_map(escape).collect()
}

/// A path without the escapes of patterns.
pub(super) fn unescaped(text: &str) -> String {
    let (mut plain, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next().or(Some(c)) } else { Some(c) });
    }
    plain
}

/// A path without `.`, `..` and doubled slashes, which never leads above its top. What it says of links is not looked at.
pub(super) fn cleaned(path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// A pattern for one name: no star crosses a slash.
pub(super) fn name(pattern: &str) -> Result<Regex, String> {
    compiled(pattern, false)
}

/// The largest that an expression becomes, in bytes.
const LARGEST: usize = 1 << 20;

fn compiled(pattern: &str, paths: bool) -> Result<Regex, String> {
    let bad = |why: &str| format!("bad pattern {pattern:?}: {why}");
    let mut out = String::from("(?s-u)^");
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if paths && chars.next_if_eq(&'*').is_some() => {
                let slash = chars.next_if_eq(&'/').is_some();
                let first = out.ends_with('^');
                out.push_str(if chars.peek().is_none() || (first && !slash) { ".*" } else { "(?:.*/)?" });
            }
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("(?u:[^/])"),
            '[' => out.push_str(&class(&mut chars).ok_or_else(|| bad("a [ is not closed"))?),
            '\\' => out.push_str(&literal(chars.next().ok_or_else(|| bad("it ends with a \\"))?)),
            c => out.push_str(&literal(c)),
        }
    }
    out.push('$');
    let built = RegexBuilder::new(&out).size_limit(LARGEST).dfa_size_limit(LARGEST).build();
    built.map_err(|e| bad(e.to_string().lines().last().unwrap_or_default()))
}

fn literal(c: char) -> String {
    format!("(?u:{})", regex::escape(c.encode_utf8(&mut [0; 4])))
}

/// What comes after `[`, in Go's form: `^` negates, `\` escapes.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    let mut class = String::from("(?u:[");
    if chars.next_if_eq(&'^').is_some() {
        class.push_str("^/");
    }
    let mut any = false;
    loop {
        match chars.next()? {
            ']' if any => break,
            '-' => class.push('-'),
            '\\' => class.push_str(&format!("\\x{{{:x}}}", u32::from(chars.next()?))),
            c => class.push_str(&format!("\\x{{{:x}}}", u32::from(c))),
        }
        any = true;
    }
    class.push_str("])");
    Some(class)
}

/// Nobody writes as many patterns.
const MOST: usize = 5000;

/// A pattern without `.`, `..` and doubled slashes, unless it leads above the top.
fn below_top(pattern: &str) -> Option<PathBuf> {
    let mut depth = 0_i64;
    for part in Path::new(pattern).components() {
        depth += match part {
            Component::Normal(_) => 1,
            Component::ParentDir => -1,
            _ => 0,
        };
        if depth < 0 {
            return None;
        }
    }
    Some(cleaned(pattern))
}

/// Patterns in order, of which the last one that matches a path or what it is in decides.
#[derive(Debug, Default, Clone)]
pub(super) struct Patterns {
    all: Vec<(bool, Regex)>,
}

impl Patterns {
    /// Of lines, each a pattern, or an exception with a `!` in front.
    pub(super) fn new<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut all = Vec::new();
        for line in lines {
            let line = line.trim();
            let (exception, pattern) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest.trim()));
            if line.is_empty() {
                continue;
            }
            if pattern.is_empty() {
                return Err("an exception `!` needs a pattern".into());
            }
            // What is above the top hides nothing in it.
            let Some(pattern) = below_top(pattern) else { continue };
            let pattern = pattern.to_string_lossy();
            if !pattern.is_empty() {
                all.push((exception, compiled(&pattern, true)?));
            }
            if all.len() > MOST {
                return Err(format!("there are more than {MOST} patterns"));
            }
        }
        Ok(Self { all })
    }

    /// The lines of a `.dockerignore`.
    pub(super) fn ignore_file(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self::new(text.lines().filter(|line| !line.starts_with('#')))
    }

    /// Whether a path below the top is meant.
    pub(super) fn matches(&self, path: &Path) -> bool {
        let mut meant = false;
        for (exception, pattern) in &self.all {
            if meant == *exception {
                let of = |part: &Path| pattern.is_match(part.as_os_str().as_bytes());
                if path.ancestors().filter(|part| *part != OsStr::new("")).any(of) {
                    meant = !exception;
                }
            }
        }
        meant
    }

    /// Whether something below a path that is meant may not be.
    pub(super) fn has_exceptions(&self) -> bool {
        self.all.iter().any(|(exception, _)| *exception)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (pattern, text, expected) in [
            ("*.sh", "a.sh", true),
            ("*.sh", ".sh", true),
            ("*", ".hidden", true),
            ("a?c", "abc", true),
            ("a?c", "aéc", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("a.c", "abc", false),
            ("[]a]", "]", true),
            ("[!a]x", "!x", true),
            ("[!a]x", "bx", false),
            ("foo**.txt", "fooabc.txt", true),
        ] {
            assert_eq!(name(pattern).unwrap().is_match(text.as_bytes()), expected, "{pattern} {text}");
        }
        for bad in ["[", "[a", "a\\", "[z-a]"] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert!(name("*").unwrap().is_match(b"\xff\xfe"));
    }

    #[test]
    fn ignore_files() {
        let ignored = |text: &str, path: &str| Patterns::ignore_file(text).unwrap().matches(Path::new(path));
        for (text, path, expected) in [
            ("*.md", "a.md", true),
            ("*.md", "d/a.md", false),
            ("**/*.md", "d/a.md", true),
            ("**/*.md", "a.md", true),
            ("**.md", "d/a.md", true),
            ("d", "d/deep/file", true),
            ("/d/", "d/file", true),
            ("d/**", "d/file", true),
            ("d/**", "d", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("*\n!keep", "keep", false),
            ("*\n!keep", "other", true),
            ("d\n!d/keep", "d/keep", false),
            ("d\n!d/keep", "d/keep/below", false),
            ("d\n!d/keep", "d/other", true),
            ("!x\nx", "x", true),
            ("# comment\n  x  ", "x", true),
            (" #x", "#x", true),
            ("./x/../y", "y", true),
            ("../x", "x", false),
            (".", "x", false),
            ("", "x", false),
        ] {
            assert_eq!(ignored(text, path), expected, "{text:?} {path}");
        }
        assert!(Patterns::ignore_file("!").is_err() && Patterns::ignore_file("[").is_err());
    }

    #[test]
    fn paths() {
        for (text, expected) in [("./sub/../f", "f"), ("../../x", "x"), ("/a//b/.", "a/b"), ("..", ""), ("a/../..", "")]
        {
            assert_eq!(cleaned(text), Path::new(expected), "{text}");
        }
        assert!(is_pattern("a*") && is_pattern("a[b]") && !is_pattern("a\\*"));
        assert_eq!(unescaped("a\\*b\\\\c"), "a*b\\c");
        for odd in ["a[b]*", "\\", "x?y", "plain"] {
            assert!(!is_pattern(&escaped(odd)) && unescaped(&escaped(odd)) == odd, "{odd}");
        }
    }
}
