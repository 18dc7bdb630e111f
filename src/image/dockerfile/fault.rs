//! What is wrong in a Dockerfile, and where.

use crate::error::Error;

/// So much of a line is shown, in characters.
const SHOWN: usize = 100;

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct Fault {
    /// In one sentence.
    pub what: String,
    /// Of the instruction's first line, from 1.
    pub line: usize,
    /// A part of the instruction that it is about.
    about: Option<String>,
    hint: Option<String>,
}

impl Fault {
    /// In the instruction that begins on this line.
    pub(in crate::image) fn at(line: usize, what: impl Into<String>) -> Self {
        Self { what: what.into(), line, about: None, hint: None }
    }

    /// About this part of it.
    pub(in crate::image) fn about(self, part: impl Into<String>) -> Self {
        Self { about: Some(part.into()), ..self }
    }

    /// What can be done.
    pub(in crate::image) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// As an error with file, line, column and the line itself.
    pub(in crate::image) fn told(&self, file: &str, text: &str) -> Error {
        let (line, column) = self.place(text);
        let source = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        let error = Error::new(format!("{file}:{line}:{column}: {}", self.what)).detail(shown(source, line, column));
        match &self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// Line and column, from 1, of the part that it is about, or of the instruction.
    pub(in crate::image) fn place(&self, text: &str) -> (usize, usize) {
        let found = self.about.as_deref().filter(|part| !part.is_empty()).and_then(|part| {
            let mut lines = text.lines().enumerate().skip(self.line.saturating_sub(1)).take(1000);
            lines.find_map(|(at, line)| Some((at + 1, line[..line.find(part)?].chars().count() + 1)))
        });
        found.unwrap_or_else(|| {
            let line = text.lines().nth(self.line.saturating_sub(1)).unwrap_or_default();
            (self.line, line.chars().take_while(|c| c.is_whitespace()).count() + 1)
        })
    }
}

/// The line, and a mark below its column.
fn shown(source: &str, line: usize, column: usize) -> [String; 2] {
    let skipped = (column + 20).saturating_sub(SHOWN);
    let part: String = source.chars().skip(skipped).take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let dots = |cut: bool| if cut { "..." } else { "" };
    let number = line.to_string();
    let before = dots(skipped > 0);
    let text = format!("{number} | {before}{part}{}", dots(source.chars().nth(skipped + SHOWN).is_some()));
    [text, format!("{:w$} | {before:>b$}{:>c$}", "", "^", w = number.len(), b = 0, c = column - skipped)]
}

/// A text that is not too long for a message.
pub(in crate::image) fn short(text: &str) -> String {
    let mut chars = text.chars();
    // What a terminal would obey is not passed on.
    let start: String = chars.by_ref().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if chars.next().is_some() { format!("{start}...") } else { start }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_and_the_line_are_shown() {
        let text = "FROM a\n  RUN --mount=type=x \\\n   --security=y z\n";
        let told = Fault::at(2, "no").about("--security").told("D", text);
        assert_eq!(told.to_string(), "D:3:4: no");
        let told = Fault::at(2, "no").told("D", text);
        assert_eq!(told.to_string(), "D:2:3: no");
        assert_eq!(shown("  RUN x", 12, 3), ["12 |   RUN x", "   |   ^"]);
        let long = format!("RUN {}", "x".repeat(200_000));
        assert!(shown(&long, 1, 1)[0].len() < 120 && shown(&long, 1, 150_000)[0].len() < 120);
    }
}
