//! Two small things that users of the old program see: how Python quotes a string, and which names it finds similar.

use std::collections::HashMap;

/// A string as Python's `repr` shows it.
pub fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if printable(c) => out.push(c),
            c if (c as u32) < 0x100 => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if (c as u32) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push(quote);
    out
}

/// Close to Python's notion: no controls, no separators but the blank, no format or private characters.
fn printable(c: char) -> bool {
    if c == ' ' {
        return true;
    }
    !(c.is_control()
        || c.is_whitespace()
        || matches!(c as u32,
            0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f
            | 0xd800..=0xf8ff | 0xfeff | 0xfff0..=0xfffb | 0xfffe | 0xffff | 0xe0000..=0x10_ffff))
}

/// The up to three names that are most similar, by Ratcliff and Obershelp's measure of at least 0.6, sorted by name.
pub fn close_matches<'a>(word: &str, names: &[&'a str]) -> Vec<&'a str> {
    let word: Vec<char> = word.chars().collect();
    let mut scored: Vec<(f64, &str)> = names
        .iter()
        .map(|n| (ratio(&n.chars().collect::<Vec<_>>(), &word), *n))
        .filter(|(score, _)| *score >= 0.6)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(a.1)));
    scored.truncate(3);
    let mut best: Vec<&str> = scored.into_iter().map(|(_, n)| n).collect();
    best.sort_unstable();
    best
}

fn ratio(a: &[char], b: &[char]) -> f64 {
    if a.is_empty() && b.is_empty() {
        return 1.0;
    }
    2.0 * matching(a, b) as f64 / (a.len() + b.len()) as f64
}

/// Length of the longest common block, plus those to its left and right.
#[allow(clippy::many_single_char_names, reason = "two texts, and places in them")]
fn matching(a: &[char], b: &[char]) -> usize {
    let mut best = (0, 0, 0);
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for (i, x) in a.iter().enumerate() {
        let mut next = HashMap::new();
        for (j, y) in b.iter().enumerate().filter(|(_, y)| *y == x) {
            debug_assert_eq!(x, y);
            let length = j.checked_sub(1).and_then(|k| lengths.get(&k)).copied().unwrap_or(0) + 1;
            next.insert(j, length);
            if length > best.2 {
                best = (i + 1 - length, j + 1 - length, length);
            }
        }
        lengths = next;
    }
    let (i, j, n) = best;
    if n == 0 {
        return 0;
    }
    n + matching(&a[..i], &b[..j]) + matching(&a[i + n..], &b[j + n..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        for (text, expected) in [
            ("abc", "'abc'"),
            ("it's", "\"it's\""),
            ("it's \"x\"", "'it\\'s \"x\"'"),
            ("\x1b[31m", "'\\x1b[31m'"),
            ("a\\b\t", "'a\\\\b\\t'"),
            ("été", "'été'"),
            ("\u{ad}\u{202e}", "'\\xad\\u202e'"),
        ] {
            assert_eq!(repr(text), expected);
        }
    }

    #[test]
    fn similar_names() {
        assert_eq!(close_matches("--node", &["--nodes", "--env", "--volume"]), ["--nodes"]);
        assert_eq!(close_matches("--x", &["--nodes"]), Vec::<&str>::new());
        assert_eq!(close_matches("restart", &["reset", "start", "status", "stop"]), ["reset", "start", "status"]);
    }
}
