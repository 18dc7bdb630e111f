//! Variables and quotes in Dockerfile arguments. Pure.

/// Replaces `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME:+other}`; `\$` stays a dollar sign; quotes are removed, and
/// single ones protect.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    words(text, lookup, false).pop().unwrap_or_default()
}

/// The pairs of ENV and LABEL: `A=1 B="x y"`, or the old form `A some words`.
pub fn pairs(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let text = text.trim();
    let first = text.split(char::is_whitespace).next().unwrap_or_default();
    if !first.contains('=') {
        let rest = text[first.len()..].trim();
        return vec![(first.to_owned(), expand(rest, lookup))];
    }
    words(text, lookup, true)
        .into_iter()
        .filter_map(|w| w.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
        .collect()
}

/// Splits at blanks outside quotes when asked to.
fn words(text: &str, lookup: &dyn Fn(&str) -> Option<String>, split: bool) -> Vec<String> {
    let mut result = Vec::new();
    let mut word = String::new();
    let mut started = false;
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        started = true;
        match c {
            '\\' if quote != Some('\'') => match chars.next() {
                Some(next) => {
                    if quote == Some('"') && !matches!(next, '"' | '$' | '\\') {
                        word.push('\\');
                    }
                    word.push(next);
                }
                None => word.push('\\'),
            },
            '"' | '\'' if quote.is_none() => quote = Some(c),
            c if Some(c) == quote => quote = None,
            '$' if quote != Some('\'') => word.push_str(&variable(&mut chars, lookup)),
            c if split && quote.is_none() && c.is_whitespace() => {
                if !word.is_empty() {
                    result.push(std::mem::take(&mut word));
                }
                started = false;
            }
            c => word.push(c),
        }
    }
    if started || !split {
        result.push(word);
    }
    result
}

fn variable(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    if chars.peek() == Some(&'{') {
        chars.next();
        let mut inside = String::new();
        let mut depth = 1;
        for c in chars.by_ref() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            inside.push(c);
        }
        let end = inside.find(|c| !is_name(&c)).unwrap_or(inside.len());
        let (name, modifier) = inside.split_at(end);
        let value = lookup(name).filter(|v| !v.is_empty());
        return if let Some(default) = modifier.strip_prefix(":-") {
            value.unwrap_or_else(|| expand(default, lookup))
        } else if let Some(other) = modifier.strip_prefix(":+") {
            value.map_or_else(String::new, |_| expand(other, lookup))
        } else {
            value.unwrap_or_default()
        };
    }
    let mut name = String::new();
    while let Some(c) = chars.next_if(is_name) {
        name.push(c);
    }
    if name.is_empty() { "$".into() } else { lookup(&name).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".into()),
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
            ("${A:+yes}", "yes"),
            ("${NONE:+yes}", ""),
            ("\\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A\"", "1"),
            ("a$", "a$"),
        ] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }

    #[test]
    fn pairs_of_env() {
        let p = |t| pairs(t, &env).into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
        assert_eq!(p("A=1 B=\"x y\" C=a\\ b"), ["A=1", "B=x y", "C=a b"]);
        assert_eq!(p("COLOR blue sky"), ["COLOR=blue sky"]);
        assert_eq!(p("X=$A Y='$A'"), ["X=1", "Y=$A"]);
        assert_eq!(p("A=1    B=2 "), ["A=1", "B=2"]);
    }
}
