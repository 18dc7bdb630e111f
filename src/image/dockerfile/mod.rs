//! A Dockerfile as stages of steps. Pure: takes text, gives values, or a fault with its line.
//!
//! The language is that of the Dockerfile reference, read as BuildKit reads it. Where BuildKit itself leaves an oddity without a
//! word (an ENV that cannot be split, a flag of another instruction), this is an error.

mod fault;
mod flags;
mod instruction;
pub(super) mod lines;
pub(super) mod mount;
mod words;

use super::shell::{Quotes, Shell};
pub(super) use fault::{Fault, short};
use lines::{Directives, Document};
use mount::Mount;

/// One build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dockerfile {
    /// What it says of itself.
    pub directives: Directives,
    /// `ARG`s before the first `FROM`.
    pub global_args: Vec<Argument>,
    /// In order; the last one is the image.
    pub stages: Vec<Stage>,
}

/// What begins with a FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stage {
    /// Of its FROM.
    pub line: usize,
    /// `AS name`, in lower case.
    pub name: Option<String>,
    /// The image below, not yet expanded.
    pub from: String,
    /// `--platform`, not yet expanded.
    pub platform: Option<String>,
    /// In order.
    pub steps: Vec<Step>,
}

/// One instruction, with its place for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// Line of its keyword, from 1.
    pub line: usize,
    /// As written, on one line, short enough for a message.
    pub text: String,
    /// What it does.
    pub action: Action,
}

/// A build argument and its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argument {
    /// Its name.
    pub name: String,
    /// Not yet expanded.
    pub default: Option<String>,
}

/// Arguments of RUN, CMD and ENTRYPOINT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Words {
    /// A line for the shell.
    Shell(String),
    /// The exact argument vector.
    Exec(Vec<String>),
}

/// COPY and ADD.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Copy {
    /// ADD unpacks archives and fetches URLs.
    pub add: bool,
    /// `--from`.
    pub from: Option<String>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// `--checksum`.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub keep_git_dir: bool,
    /// `--unpack`, where it is given.
    pub unpack: Option<bool>,
    /// Paths, and for ADD also URLs.
    pub sources: Vec<String>,
    /// Files that stand in the Dockerfile.
    pub documents: Vec<Document>,
    /// Path in the image.
    pub dest: String,
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// The command.
    pub words: Words,
    /// What its `<<` words stand for.
    pub documents: Vec<Document>,
    /// `--mount`.
    pub mounts: Vec<Mount>,
    /// `--network`.
    pub network: RunNetwork,
}

/// What a RUN reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunNetwork {
    /// A network of its own, and the world.
    #[default]
    Default,
    /// Nothing.
    None,
    /// What the machine reaches, and the machine.
    Host,
}

/// HEALTHCHECK.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Health {
    /// `NONE`, or `CMD` or `CMD-SHELL` and a command.
    pub test: Vec<String>,
    /// Times in nanoseconds, 0 for those that are not given: interval, timeout, start period, start interval.
    pub times: [u64; 4],
    /// `--retries`.
    pub retries: u64,
}

/// What an instruction does. Texts are not yet expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Build arguments.
    Arg(Vec<Argument>),
    /// Variables.
    Env(Vec<(String, String)>),
    /// Labels.
    Label(Vec<(String, String)>),
    /// Runs a command.
    Run(Box<Run>),
    /// Copies from the build context, another stage, another image or the network.
    Copy(Box<Copy>),
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
    /// How it is seen that it works.
    Healthcheck(Health),
    /// What is done where it is built upon.
    Onbuild(String),
}

impl Dockerfile {
    /// The stage of a name or number among those before another, as `--from` and FROM say it.
    pub(super) fn stage(&self, name: &str, before: usize, numbers: bool) -> Option<usize> {
        let earlier = &self.stages[..before.min(self.stages.len())];
        let named = earlier.iter().rposition(|s| s.name.as_deref() == Some(&name.to_lowercase()));
        let number = || name.parse().ok().filter(|n| numbers && *n < earlier.len());
        named.or_else(number)
    }
}

/// Parses a Dockerfile.
pub(super) fn parse(text: &str) -> Result<Dockerfile, Fault> {
    let (directives, lines) = lines::split(text)?;
    let (mut global_args, mut stages) = (Vec::new(), Vec::<Stage>::new());
    for line in &lines {
        let (keyword, _) = split_keyword(&line.text);
        let shown = short(line.text.split_whitespace().collect::<Vec<_>>().join(" ").as_str());
        if keyword.eq_ignore_ascii_case("from") {
            stages.push(instruction::from(line, directives.escape)?);
            continue;
        }
        let action = instruction::action(line, directives.escape)?;
        match (stages.last_mut(), action) {
            (Some(stage), action) => stage.steps.push(Step { line: line.number, text: shown, action }),
            (None, Action::Arg(args)) => global_args.extend(args),
            (None, _) => return Err(Fault::at(line.number, "FROM must come first, or ARG")),
        }
    }
    if stages.is_empty() {
        return Err(Fault::at(1, "there is no FROM in it"));
    }
    Ok(Dockerfile { directives, global_args, stages })
}

/// The instruction that ONBUILD has kept in an image.
pub(super) fn trigger(text: &str) -> Result<Step, Fault> {
    let (directives, lines) = lines::split(text)?;
    let [line] = lines.as_slice() else { return Err(Fault::at(1, "an ONBUILD is one instruction")) };
    let action = instruction::action(line, directives.escape)?;
    Ok(Step { line: 1, text: short(&line.text), action })
}

/// Words as they stand, with their quotes: a here-document's sign and word are one.
fn lines_words(text: &str) -> Vec<String> {
    Shell { escape: '\\', quotes: Quotes::Kept }.words(text, &|_| None).unwrap_or_default()
}

/// The keyword of a line, and the rest.
fn split_keyword(line: &str) -> (&str, &str) {
    let line = line.trim();
    line.split_once(char::is_whitespace).map_or((line, ""), |(keyword, rest)| (keyword, rest.trim()))
}

#[cfg(test)]
mod tests;
