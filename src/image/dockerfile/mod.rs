//! A Dockerfile as a list of steps. Pure: takes text, gives values or an error with its line.

use crate::error::{Error, Result};
use parse_dockerfile::{Command, Flag, Instruction, JsonOrStringArray, Source, UnescapedString};

/// One build: where it starts and what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// `ARG`s before `FROM`.
    pub global_args: Vec<(String, Option<String>)>,
    /// The image below, not yet expanded.
    pub from: String,
    /// In order.
    pub steps: Vec<Step>,
}

/// One instruction, with its place for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Line of its keyword, from 1.
    pub line: usize,
    /// As written, on one line.
    pub text: String,
    /// What it does.
    pub action: Action,
}

/// Arguments of RUN, CMD and ENTRYPOINT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Words {
    /// A line for the shell.
    Shell(String),
    /// The exact argument vector.
    Exec(Vec<String>),
}

/// What an instruction does. Texts are not yet expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A build argument and its default.
    Arg(String, Option<String>),
    /// `KEY=VALUE ...`, to be split and expanded.
    Env(String),
    /// `KEY=VALUE ...`, to be split and expanded.
    Label(String),
    /// Runs a command.
    Run(Words),
    /// Copies from the build context.
    Copy {
        /// ADD unpacks local tar files.
        add: bool,
        /// `--chown`.
        chown: Option<String>,
        /// `--chmod`.
        chmod: Option<String>,
        /// Paths in the context.
        sources: Vec<String>,
        /// Path in the image.
        dest: String,
    },
    /// Changes the user of later steps and of the container.
    User(String),
    /// Changes the directory, creating it.
    Workdir(String),
    /// Documents a port.
    Expose(Vec<String>),
    /// Marks a volume.
    Volume(Vec<String>),
    /// The signal that ends the container.
    StopSignal(String),
    /// The shell of shell forms.
    Shell(Vec<String>),
    /// Default command.
    Cmd(Words),
    /// Entry point.
    Entrypoint(Words),
    /// The author.
    Maintainer(String),
}

/// Parses a Dockerfile; `file` is its name for messages.
pub fn parse(file: &str, text: &str) -> Result<Dockerfile> {
    let at = |line: usize, what: String| Error::new(format!("{file}:{line}: {what}"));
    let parsed = parse_dockerfile::parse(text).map_err(|e| Error::new(format!("{file}: {e}")))?;
    let mut global_args = Vec::new();
    let mut from = None;
    let mut steps = Vec::new();
    for (i, instruction) in parsed.instructions.iter().enumerate() {
        let start = span_start(instruction);
        let line =
            text[..start].lines().count() + usize::from(text[..start].is_empty() || text[..start].ends_with('\n'));
        let end = parsed.instructions.get(i + 1).map_or(text.len(), span_start);
        let shown = one_line(&text[start..end]);
        let unsupported = |what: &str| at(line, format!("{what} is not supported"));
        let action = match instruction {
            Instruction::From(f) => {
                if from.is_some() {
                    return Err(unsupported("a second FROM (a build of several stages)"));
                }
                if let Some(flag) = f.options.first() {
                    return Err(unsupported(&format!("FROM --{}", flag.name.value)));
                }
                from = Some(f.image.value.to_string());
                continue;
            }
            Instruction::Arg(a) => {
                let (name, value) = match a.arguments.value.split_once('=') {
                    Some((name, value)) => (name, Some(unquote(value))),
                    None => (&*a.arguments.value, None),
                };
                if from.is_none() {
                    global_args.push((name.trim().to_owned(), value));
                    continue;
                }
                Action::Arg(name.trim().to_owned(), value)
            }
            Instruction::Env(e) => Action::Env(e.arguments.value.to_string()),
            Instruction::Label(l) => Action::Label(l.arguments.value.to_string()),
            Instruction::Run(r) => {
                if let Some(flag) = r.options.first() {
                    return Err(unsupported(&format!("RUN --{}", flag.name.value)));
                }
                if !r.here_docs.is_empty() {
                    return Err(unsupported("a here-document"));
                }
                Action::Run(words(&r.arguments))
            }
            Instruction::Copy(c) => copy(false, &c.options, &c.src, &c.dest).map_err(|w| unsupported(&w))?,
            Instruction::Add(a) => copy(true, &a.options, &a.src, &a.dest).map_err(|w| unsupported(&w))?,
            Instruction::User(u) => Action::User(u.arguments.value.to_string()),
            Instruction::Workdir(w) => Action::Workdir(w.arguments.value.to_string()),
            Instruction::Expose(e) => Action::Expose(e.arguments.iter().map(|a| a.value.to_string()).collect()),
            Instruction::Volume(v) => Action::Volume(match &v.arguments {
                JsonOrStringArray::Json(a) => a.value.iter().map(|s| s.value.to_string()).collect(),
                JsonOrStringArray::String(a) => a.iter().map(|s| s.value.to_string()).collect(),
            }),
            Instruction::Stopsignal(s) => Action::StopSignal(s.arguments.value.to_string()),
            Instruction::Shell(s) => Action::Shell(s.arguments.iter().map(|a| a.value.to_string()).collect()),
            Instruction::Cmd(c) => Action::Cmd(words(&c.arguments)),
            Instruction::Entrypoint(e) => Action::Entrypoint(words(&e.arguments)),
            Instruction::Maintainer(m) => Action::Maintainer(unquote(&m.name.value)),
            Instruction::Healthcheck(_) => return Err(unsupported("HEALTHCHECK")),
            Instruction::Onbuild(_) => return Err(unsupported("ONBUILD")),
            _ => return Err(unsupported("this instruction")),
        };
        if from.is_none() {
            return Err(at(line, "FROM must come first".into()));
        }
        steps.push(Step { line, text: shown, action });
    }
    let from = from.ok_or_else(|| Error::new(format!("{file}: there is no FROM in it")))?;
    Ok(Dockerfile { global_args, from, steps })
}

fn span_start(instruction: &Instruction<'_>) -> usize {
    use Instruction as I;
    match instruction {
        I::Add(i) => i.add.span.start,
        I::Arg(i) => i.arg.span.start,
        I::Cmd(i) => i.cmd.span.start,
        I::Copy(i) => i.copy.span.start,
        I::Entrypoint(i) => i.entrypoint.span.start,
        I::Env(i) => i.env.span.start,
        I::Expose(i) => i.expose.span.start,
        I::From(i) => i.from.span.start,
        I::Healthcheck(i) => i.healthcheck.span.start,
        I::Label(i) => i.label.span.start,
        I::Maintainer(i) => i.maintainer.span.start,
        I::Onbuild(i) => i.onbuild.span.start,
        I::Run(i) => i.run.span.start,
        I::Shell(i) => i.shell.span.start,
        I::Stopsignal(i) => i.stopsignal.span.start,
        I::User(i) => i.user.span.start,
        I::Volume(i) => i.volume.span.start,
        I::Workdir(i) => i.workdir.span.start,
        _ => 0,
    }
}

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(|l| l.trim_end_matches('\\').trim_end())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Joins the lines of a shell form; comment lines in between are not part of it.
fn continued(text: &str) -> String {
    text.lines()
        .filter(|l| !l.trim_start().starts_with('#'))
        .map(|l| l.trim_end().strip_suffix('\\').unwrap_or(l))
        .collect()
}

fn words(command: &Command<'_>) -> Words {
    match command {
        Command::Exec(e) => Words::Exec(e.value.iter().map(|s| s.value.to_string()).collect()),
        Command::Shell(s) => Words::Shell(continued(s.value)),
        // The parser's enum may grow; what it calls neither is not written in a Dockerfile of today.
        _ => Words::Exec(Vec::new()),
    }
}

fn copy(add: bool, flags: &[Flag<'_>], src: &[Source<'_>], dest: &UnescapedString<'_>) -> Result<Action, String> {
    let keyword = if add { "ADD" } else { "COPY" };
    let (mut chown, mut chmod) = (None, None);
    for flag in flags {
        let value = flag.value.as_ref().map(|v| v.value.to_string());
        match &*flag.name.value {
            "chown" => chown = value,
            "chmod" => chmod = value,
            other => return Err(format!("{keyword} --{other}")),
        }
    }
    let mut sources = Vec::new();
    for source in src {
        match source {
            Source::Path(p) if add && (p.value.contains("://") || p.value.starts_with("git@")) => {
                return Err("ADD of a URL (use RUN curl)".into());
            }
            Source::Path(p) => sources.push(p.value.to_string()),
            Source::HereDoc(_) => return Err("a here-document".into()),
            _ => return Err(format!("this source of {keyword}")),
        }
    }
    Ok(Action::Copy { add, chown, chmod, sources, dest: dest.value.to_string() })
}

fn unquote(text: &str) -> String {
    let text = text.trim();
    ['"', '\''].iter().find_map(|q| text.strip_prefix(*q).and_then(|t| t.strip_suffix(*q))).unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(text: &str) -> Vec<Action> {
        parse("Dockerfile", text).unwrap().steps.into_iter().map(|s| s.action).collect()
    }

    #[test]
    fn shell_and_exec_forms() {
        assert_eq!(
            actions("FROM a\nRUN echo \"x y\" && true\nRUN [\"a\", \"b c\"]\nCMD [\"x\"]"),
            [
                Action::Run(Words::Shell("echo \"x y\" && true".into())),
                Action::Run(Words::Exec(vec!["a".into(), "b c".into()])),
                Action::Cmd(Words::Exec(vec!["x".into()])),
            ]
        );
    }

    #[test]
    fn comments_and_continuations() {
        let text = "# first\nFROM a\n\nRUN one ; \\\n  # in between\n  two\n# last\nUSER x\n";
        let steps = parse("Dockerfile", text).unwrap().steps;
        assert_eq!((steps[0].line, steps[0].text.as_str()), (4, "RUN one ; two"));
        assert_eq!((steps[1].line, steps[1].text.as_str()), (8, "USER x"));
        let Action::Run(Words::Shell(line)) = &steps[0].action else { panic!() };
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["one", ";", "two"]);
    }

    #[test]
    fn what_is_not_supported_names_file_and_line() {
        for (text, expected) in [
            ("FROM a\nHEALTHCHECK CMD x", "D:2: HEALTHCHECK is not supported"),
            ("FROM a\n\nFROM b", "D:3: a second FROM (a build of several stages) is not supported"),
            ("FROM a\nRUN --mount=type=cache x", "D:2: RUN --mount is not supported"),
            ("FROM a\nADD http://x/y /z", "D:2: ADD of a URL (use RUN curl) is not supported"),
            ("FROM a\nCOPY --from=b x y", "D:2: COPY --from is not supported"),
            ("FROM a\nONBUILD RUN x", "D:2: ONBUILD is not supported"),
        ] {
            assert_eq!(parse("D", text).unwrap_err().to_string(), expected);
        }
        assert!(parse("D", "RUN x").is_err());
        assert!(parse("D", "").is_err());
        assert!(parse("D", "FROM a\nFLY away").unwrap_err().to_string().starts_with("D: "));
    }

    #[test]
    fn every_instruction_of_the_old_tool() {
        let text = "ARG V=1\nFROM a:${V}\nMAINTAINER Me \"me@x\"\nENV A=1 \\\n B=2\nENV C hello world\nADD . /tmp\n\
                    COPY --chown=a:b --chmod=755 x y/ /z/\nVOLUME /run\nVOLUME [\"/a\", \"/b\"]\nEXPOSE 80 443/tcp\n\
                    STOPSIGNAL SIGRTMIN+3\nWORKDIR /w\nLABEL a=\"b c\"\nSHELL [\"/bin/bash\", \"-c\"]\nENTRYPOINT [\"e\"]";
        let parsed = parse("D", text).unwrap();
        assert_eq!(parsed.global_args, [("V".to_owned(), Some("1".to_owned()))]);
        assert_eq!(parsed.from, "a:${V}");
        assert_eq!(parsed.steps.len(), 13);
    }
}
