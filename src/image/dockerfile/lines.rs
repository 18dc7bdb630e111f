//! A Dockerfile's text as logical lines: parser directives, comments, continuations, and the bodies of here-documents.

use super::super::shell::{Quotes, Shell};
use super::fault::Fault;

/// One instruction as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct Line {
    /// Of its first line, from 1.
    pub number: usize,
    /// Of its last line before here-documents.
    pub last: usize,
    /// Joined, without comments.
    pub text: String,
    /// What its `<<` words stand for.
    pub documents: Vec<Document>,
    /// Whether an empty line is within it.
    pub has_gap: bool,
    /// Comments right above it.
    pub comments: Vec<String>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct Document {
    /// The word that ends it: its file's name.
    pub name: String,
    /// With its last newline.
    pub text: String,
    /// Whether variables are expanded: the word was not quoted.
    pub expand: bool,
    /// Whether tabs in front of lines go: `<<-`.
    pub chomp: bool,
}

impl Document {
    /// What its file holds.
    pub(in crate::image) fn content(&self) -> String {
        if !self.chomp {
            return self.text.clone();
        }
        self.text.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// What directives at the top say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct Directives {
    /// The escape character.
    pub escape: char,
    /// `# check=`.
    pub check: Option<String>,
}

/// The file in lines.
pub(in crate::image) fn split(text: &str) -> Result<(Directives, Vec<Line>), Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { lines: text.split_inclusive('\n').enumerate().collect(), at: 0 };
    let directives = reader.directives()?;
    let mut lines = Vec::new();
    let mut comments = Vec::new();
    while let Some((number, line)) = reader.next() {
        let line = line.trim_end_matches(['\r', '\n']).trim_start();
        if let Some(comment) = line.strip_prefix('#') {
            comments.push(comment.trim().to_owned());
        } else if !line.is_empty() {
            lines.push(reader.line(number, line, directives.escape, std::mem::take(&mut comments))?);
        }
    }
    Ok((directives, lines))
}

struct Reader<'a> {
    lines: Vec<(usize, &'a str)>,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Number, from 1, and text of the next line.
    fn next(&mut self) -> Option<(usize, &'a str)> {
        let (number, line) = *self.lines.get(self.at)?;
        self.at += 1;
        Some((number + 1, line))
    }

    fn directives(&mut self) -> Result<Directives, Fault> {
        let mut found = Directives { escape: '\\', check: None };
        let mut seen = Vec::new();
        for (number, line) in &self.lines {
            let Some((key, value)) = directive(line) else { break };
            if !matches!(key.as_str(), "syntax" | "escape" | "check") {
                break;
            }
            if seen.contains(&key) {
                return Err(Fault::at(number + 1, format!("a second parser directive {key}")));
            }
            match key.as_str() {
                "escape" => {
                    found.escape = match value {
                        "\\" => '\\',
                        "`" => '`',
                        other => {
                            let what = format!("escape={other}: the escape character is either \\ or `");
                            return Err(Fault::at(number + 1, what));
                        }
                    }
                }
                "check" => found.check = Some(value.to_owned()),
                // Which frontend is meant: the language is one.
                _ => {}
            }
            seen.push(key);
        }
        Ok(found)
    }

    /// One logical line that begins with this one.
    fn line(&mut self, number: usize, first: &str, escape: char, comments: Vec<String>) -> Result<Line, Fault> {
        let (mut text, mut goes_on) = continued(first, escape);
        let mut has_gap = false;
        while goes_on {
            let Some((_, line)) = self.next() else { break };
            let line = line.trim_end_matches(['\r', '\n']);
            if line.trim_start().starts_with('#') {
                continue;
            }
            if line.trim().is_empty() {
                has_gap = true;
                continue;
            }
            let (more, on) = continued(line, escape);
            text.push_str(&more);
            goes_on = on;
        }
        let last = self.at;
        let mut documents = if may_have_documents(&text) { documents(&text) } else { Vec::new() };
        for document in &mut documents {
            document.text = self.body(number, document)?;
        }
        Ok(Line { number, last, text, documents, has_gap, comments })
    }

    fn body(&mut self, number: usize, document: &Document) -> Result<String, Fault> {
        let mut body = String::new();
        while let Some((_, line)) = self.next() {
            let end = line.trim_end_matches(['\r', '\n']);
            if document.name == if document.chomp { end.trim_start_matches('\t') } else { end } {
                return Ok(body);
            }
            body.push_str(line);
        }
        let what = format!("the here-document {:?} is not ended by a line {:?}", document.name, document.name);
        Err(Fault::at(number, what).about("<<"))
    }
}

/// `# key=value`.
fn directive(line: &str) -> Option<(String, &str)> {
    let (key, value) = line.trim_start().strip_prefix('#')?.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let is_name = key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(|c| c.is_ascii_alphanumeric());
    (is_name && !value.is_empty()).then(|| (key.to_ascii_lowercase(), value))
}

/// A line without its continuation, and whether it has one. Two escapes are none.
fn continued(line: &str, escape: char) -> (String, bool) {
    let bare = line.trim_end_matches([' ', '\t']);
    match bare.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest.to_owned(), true),
        _ => (line.to_owned(), false),
    }
}

/// Whether `<<` means something here: in the arguments of these, but for a JSON array.
fn may_have_documents(text: &str) -> bool {
    let (mut keyword, mut rest) = super::split_keyword(text);
    if keyword.eq_ignore_ascii_case("onbuild") {
        (keyword, rest) = super::split_keyword(rest);
    }
    ["run", "copy", "add"].iter().any(|k| keyword.eq_ignore_ascii_case(k))
        && text.contains("<<")
        && serde_json::from_str::<Vec<String>>(rest).is_err()
}

fn documents(text: &str) -> Vec<Document> {
    let shell = Shell { escape: '\\', quotes: Quotes::Kept };
    // What cannot be split is the shell's to complain about.
    let words = shell.words(text, &|_| None).unwrap_or_default();
    words.iter().filter_map(|word| document(word)).collect()
}

/// What a word such as `3<<-"EOF"` announces.
pub(in crate::image) fn document(word: &str) -> Option<Document> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let kept = Shell { escape: '\\', quotes: Quotes::Kept }.words(rest, &|_| None).ok()?;
    let bare = Shell::new('\\').words(rest, &|name| Some(format!("${name}"))).ok()?;
    let ([kept], [bare]) = (kept.as_slice(), bare.as_slice()) else { return None };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Some(Document { name: bare.clone(), text: String::new(), expand: quotes(kept) == quotes(bare), chomp })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        split(text).unwrap().1.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn comments_and_continuations() {
        let text = "# first\nFROM a\n\nRUN one ; \\\n  # in between\n\n  two \\  \n three\n# last\nUSER x\n";
        let (_, lines) = split(text).unwrap();
        assert_eq!(lines[1].text, "RUN one ;   two  three");
        assert_eq!((lines[1].number, lines[1].last, lines[1].has_gap), (4, 8, true));
        assert_eq!((lines[2].number, lines[2].comments.as_slice()), (10, &["last".to_owned()][..]));
        assert_eq!(texts("RUN a \\\\\nUSER b"), ["RUN a \\\\", "USER b"], "two escapes are no continuation");
        assert_eq!(texts("\u{feff}FROM a\r\nRUN b \\\r\n c\r\n"), ["FROM a", "RUN b  c"]);
        assert_eq!(texts("RUN a \\"), ["RUN a "]);
    }

    #[test]
    fn directives() {
        let (directives, lines) =
            split("# Escape = `\n# syntax=docker/dockerfile:1\n# check=error=true\nRUN a `\n b\\\n").unwrap();
        assert_eq!(directives, Directives { escape: '`', check: Some("error=true".into()) });
        assert_eq!(lines[0].text, "RUN a  b\\");
        let (directives, _) = split("# a comment\n# escape=`\nRUN a").unwrap();
        assert_eq!(directives.escape, '\\', "after a comment there are no directives");
        for bad in ["# escape=x\n", "# escape=`\n# ESCAPE=`\n"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn here_documents() {
        let (_, lines) = split("RUN cat > f <<EOT && cat <<-'B' \nUSER nobody\nEOT\n\tone\n\tB\nUSER x\n").unwrap();
        let of = |d: &Document| (d.name.clone(), d.content(), d.expand);
        assert_eq!(of(&lines[0].documents[0]), ("EOT".into(), "USER nobody\n".into(), true));
        assert_eq!(of(&lines[0].documents[1]), ("B".into(), "one\n".into(), false));
        assert_eq!(lines[1].text, "USER x");
        assert!(split("RUN cat <<EOF\nnever").unwrap_err().what.contains("is not ended by a line"));
        assert_eq!(texts("RUN [\"cat\", \"<<EOF\"]\nUSER x").len(), 2);
        assert_eq!(texts("ENV A=<<EOF\nUSER x").len(), 2);
        assert_eq!(texts("RUN cat <<<x\nUSER x").len(), 2);
        assert_eq!(texts("COPY << EOF /x\nbody\nEOF\nUSER x").len(), 2);
    }
}
