//! From argument vector to a chain of commands: [`chain`](super::chain) splits the line, clap reads each link, and what is wrong is
//! told in oar-docker's order. Pure but for looking at `--workdir`.

use super::chain::{self, Options, Page};
use super::commands::{Command, Global};
use super::python::{close_matches, repr};
use super::values::{self, Wrong};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, CommandFactory as _, FromArgMatches as _, ValueHint};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error as _;

/// The environment variables that count.
pub type Env = BTreeMap<String, String>;

/// Manage a small OAR development cluster, without a Docker daemon
///
/// Commands are run in the order in which they are given; the first that fails ends the line. Options of a command go before its
/// arguments. Every option has an environment variable: OARDOCKER_DOCKER_HOST, OARDOCKER_START_NODES, ...
#[derive(Debug, clap::Parser)]
#[command(
    name = "oardocker",
    version,
    disable_version_flag = true,
    args_override_self = true,
    disable_help_subcommand = true,
    override_usage = "oardocker [OPTIONS] COMMAND1 [ARGS]... [COMMAND2 [ARGS]...]...",
    after_help = "Examples:
  oardocker init build install oar-2.6.1.tar.gz start -n 4 connect
      from nothing to a shell
  oardocker exec frontend oarstat
      one command
  oardocker stop
      leave nothing behind"
)]
struct Program {
    #[command(flatten)]
    global: Global,
    /// Print version.
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// A command with the name that it was called by.
#[derive(Debug, Clone, PartialEq)]
pub struct Invocation {
    /// As typed.
    pub name: String,
    /// With its parameters.
    pub command: Command,
}

/// A whole line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Options before the first command.
    pub global: Global,
    /// In order.
    pub chain: Vec<Invocation>,
}

/// What a line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    /// Run it.
    Run(Box<Line>),
    /// Show the page of a command, or the program's.
    Help(Option<String>),
    /// Show the version.
    Version,
}

/// Why a line is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One of the kinds of `docs/cli.md`.
    pub kind: &'static str,
    /// The command at fault; none means the program's own level.
    pub command: Option<String>,
    /// One sentence or two.
    pub message: String,
}

/// All commands, options and arguments: what parsing, help, completion and the man page are made from.
pub fn program() -> clap::Command {
    let mut program = Program::command();
    program.build();
    // Its page is the same for both names.
    let help = |arg: clap::Arg| arg.help("Print help").long_help(None::<&str>);
    program.mut_arg("help", help).mut_subcommands(|command| command.mut_arg("help", help))
}

/// Reads lines.
#[derive(Debug)]
pub struct Parser {
    program: clap::Command,
}

impl Default for Parser {
    fn default() -> Self {
        Self { program: program() }
    }
}

impl Parser {
    /// Parses a whole line.
    pub fn parse(&mut self, args: &[String], env: &Env) -> Result<Parsed, Refusal> {
        if args.is_empty() {
            return Err(Refusal { kind: "no_args", command: None, message: String::new() });
        }
        let (read, mut rest) = self.link(None, args, env)?;
        let global = match read {
            Link::Page(page) => return Ok(page),
            Link::Late(refusal) => return Err(refusal),
            Link::Read(program) => program.global,
        };
        if rest.is_empty() {
            return Err(Refusal { kind: "missing_command", command: None, message: "Missing command.".into() });
        }
        let (mut chain, mut late, mut before) = (Vec::new(), None, None);
        while let Some((name, tokens)) = rest.split_first() {
            if self.program.find_subcommand(name).is_none() {
                return self.not_a_command(rest, before, env);
            }
            let (read, next) = self.link(Some(name), tokens, env)?;
            match read {
                Link::Page(page) => return Ok(page),
                Link::Late(refusal) => _ = late.get_or_insert(refusal),
                Link::Read(program) => {
                    chain.extend(program.command.map(|command| Invocation { name: name.clone(), command }));
                }
            }
            (before, rest) = (Some(name.as_str()), next);
        }
        late.map_or_else(|| Ok(Parsed::Run(Box::new(Line { global, chain }))), Err)
    }

    fn level(&self, name: Option<&str>) -> &clap::Command {
        name.and_then(|name| self.program.find_subcommand(name)).unwrap_or(&self.program)
    }

    /// Reads one link, the program's own options or a command; also what is left.
    fn link<'t>(
        &mut self,
        name: Option<&str>,
        tokens: &'t [String],
        env: &Env,
    ) -> Result<(Link, &'t [String]), Refusal> {
        let level = self.level(name);
        let (options, rest) = Options::split(level, tokens).map_err(|wrong| split_refusal(level, name, wrong))?;
        match options.page {
            Some(Page::Version) => return Ok((Link::Page(Parsed::Version), rest)),
            Some(Page::Help) => return Ok((Link::Page(Parsed::Help(name.map(ToOwned::to_owned))), rest)),
            None => {}
        }
        let (arguments, rest) = match name {
            Some(_) => chain::arguments(&self.program, level, rest),
            None => (Vec::new(), rest),
        };
        let mut words: Vec<String> = options
            .words
            .iter()
            .cloned()
            .chain(["--".to_owned()].into_iter().filter(|_| name.is_some()))
            .chain(arguments)
            .collect();
        let more = of_environment(level, name, &options, env);
        // What is wrong on the line is told before what is wrong in the environment.
        let mut late = Vec::new();
        let mut read = self.clap(name, &mut words, &mut late)?;
        let more = more?;
        if !more.is_empty() {
            words.splice(0..0, more);
            read = self.clap(name, &mut words, &mut late)?;
        }
        late.sort_by_key(|(place, _)| *place);
        let link = match (late.into_iter().next(), read) {
            (None, Some(program)) => Link::Read(Box::new(program)),
            (late, _) => Link::Late(late.map(|(_, refusal)| refusal).expect("what is not read is wrong")),
        };
        Ok((link, rest))
    }

    /// Has clap read a link. What is wrong there, but not to be told at once, goes to `late`, with its option's place among all, and
    /// is taken out of the link, so that the rest is read too; none where nothing is left to read.
    fn clap(
        &mut self,
        name: Option<&str>,
        words: &mut Vec<String>,
        late: &mut Vec<(usize, Refusal)>,
    ) -> Result<Option<Program>, Refusal> {
        loop {
            let line = ["oardocker"].into_iter().chain(name).chain(words.iter().map(String::as_str));
            let read =
                self.program.try_get_matches_from_mut(line).and_then(|matches| Program::from_arg_matches(&matches));
            let e = match read {
                Ok(program) => return Ok(Some(program)),
                Err(e) => e,
            };
            let refusal = self.refusal(name, &e);
            let arg = told(&e, ContextKind::InvalidArg);
            let arg = self.level(name).get_arguments().enumerate().find(|(_, known)| known.to_string() == arg);
            let Some((place, arg)) = arg.filter(|_| matches!(wrong(&e), Some(Wrong::Late(_)))) else {
                return Err(refusal);
            };
            late.push((place, refusal.clone()));
            let word = format!("{}={}", chain::long(arg), told(&e, ContextKind::InvalidValue));
            // An argument is read after all options.
            if arg.is_positional() || !words.contains(&word) {
                return Ok(None);
            }
            words.retain(|given| *given != word);
        }
    }

    /// What clap says, in oar-docker's words.
    fn refusal(&self, name: Option<&str>, e: &clap::Error) -> Refusal {
        let told = |kind| told(e, kind);
        let arg = self.level(name).get_arguments().find(|arg| arg.to_string() == told(ContextKind::InvalidArg));
        let (kind, message) = match (e.kind(), arg) {
            (ErrorKind::MissingRequiredArgument, Some(arg)) => {
                ("missing_argument", format!("Missing argument {}.", shown(arg)))
            }
            (ErrorKind::InvalidValue | ErrorKind::ValueValidation, Some(arg)) => {
                let value = told(ContextKind::InvalidValue);
                let what = match (wrong(e), e.get(ContextKind::ValidValue)) {
                    (None, Some(ContextValue::Strings(names))) => {
                        let names: Vec<_> = names.iter().map(|name| repr(name)).collect();
                        format!("{} is not one of {}.", repr(&value), names.join(", "))
                    }
                    (wrong, _) => wrong.map(ToString::to_string).unwrap_or_default(),
                };
                let advice = match name.filter(|_| {
                    arg.get_value_hint() == ValueHint::Hostname && self.program.find_subcommand(&value).is_some()
                }) {
                    Some(name) => format!(" To chain after {name}, name a host first: {name} frontend {value}."),
                    None => String::new(),
                };
                ("bad_value", format!("Invalid value for {}: {what}{advice}", shown(arg)))
            }
            _ => ("bad_value", e.to_string()),
        };
        Refusal { kind, command: name.map(ToOwned::to_owned), message }
    }

    /// A token that stands where a command must. One that looks like an option is read as the program's own first, since
    /// that is what decides between the kinds of error.
    fn not_a_command(&mut self, rest: &[String], before: Option<&str>, env: &Env) -> Result<Parsed, Refusal> {
        let name = &rest[0];
        let refusal = |hint: &str| {
            let message = format!("No such command {}.{hint}", repr(name));
            Refusal { kind: "no_such_command", command: None, message }
        };
        if !name.starts_with('-') || name.len() < 2 {
            let names: Vec<&str> = self.program.get_subcommands().map(clap::Command::get_name).collect();
            let similar: Vec<_> = close_matches(name, &names).into_iter().map(repr).collect();
            let hint =
                if similar.is_empty() { String::new() } else { format!(" Did you mean {}?", similar.join(" or ")) };
            return Err(refusal(&hint));
        }
        let argument =
            before.and_then(|name| self.level(Some(name)).get_positionals().next()).filter(|a| chain::takes_one(a));
        let place = match (before, argument) {
            (Some(before), Some(argument)) => format!(
                " Options of {before} go before {}, global options before the first command.",
                shown(argument).trim_matches('\'')
            ),
            (Some(_), None) => " Global options go before the first command.".to_owned(),
            (None, _) => String::new(),
        };
        match self.link(None, rest, env) {
            Ok((Link::Page(page), _)) => Ok(page),
            Ok(_) => Err(refusal(&place)),
            Err(e) => Err(Refusal { message: e.message + &place, ..e }),
        }
    }
}

/// What became of a link.
enum Link {
    Read(Box<Program>),
    Page(Parsed),
    /// It is wrong, and that is not told before the syntax of the rest has been looked at.
    Late(Refusal),
}

/// What clap says about an error.
fn told(e: &clap::Error, kind: ContextKind) -> String {
    match e.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.first().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

/// What one of our value parsers had to say.
fn wrong(e: &clap::Error) -> Option<&Wrong> {
    e.source().and_then(|source| source.downcast_ref())
}

/// As in `'-n' / '--nodes'`, or `'HOSTNAME'`.
fn shown(arg: &clap::Arg) -> String {
    if arg.is_positional() {
        return format!("'{}'", arg.get_id().as_str().to_uppercase());
    }
    let short = arg.get_short().map(|c| format!("'-{c}'"));
    short.into_iter().chain([format!("'{}'", chain::long(arg))]).collect::<Vec<_>>().join(" / ")
}

fn split_refusal(level: &clap::Command, name: Option<&str>, wrong: chain::Wrong<'_>) -> Refusal {
    let (kind, message) = match wrong {
        chain::Wrong::TakesNoValue(name) => {
            ("takes_no_value", format!("Option {} does not take a value.", repr(&name)))
        }
        chain::Wrong::NeedsValue(name, _) => ("needs_value", format!("Option {} requires an argument.", repr(&name))),
        chain::Wrong::NoSuchOption(name) => {
            let names: Vec<String> =
                level.get_arguments().filter(|arg| !arg.is_positional()).map(chain::long).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).filter(|_| name.starts_with("--")).collect();
            let hint = match close_matches(&name, &names).as_slice() {
                [] => String::new(),
                [one] => format!(" Did you mean {}?", repr(one)),
                many => {
                    format!(" (Did you mean one of: {}?)", many.iter().map(|n| repr(n)).collect::<Vec<_>>().join(", "))
                }
            };
            ("no_such_option", format!("No such option {}.{hint}", repr(&name)))
        }
    };
    Refusal { kind, command: name.map(ToOwned::to_owned), message }
}

/// Options that variables give and the line does not: of `start -n` it is `OARDOCKER_START_NODES`.
fn of_environment(
    level: &clap::Command,
    name: Option<&str>,
    options: &Options<'_>,
    env: &Env,
) -> Result<Vec<String>, Refusal> {
    let mut words = Vec::new();
    let command = name.map(|name| format!("{name}_")).unwrap_or_default();
    let has_variable = |arg: &&clap::Arg| !arg.is_positional() && chain::param(arg) == arg.get_id().as_str();
    for arg in level.get_arguments().filter(has_variable).filter(|arg| !options.given.contains(chain::param(arg))) {
        let variable = format!("oardocker_{command}{}", arg.get_id()).to_uppercase();
        let Some(text) = env.get(&variable).filter(|text| !text.is_empty()) else { continue };
        let long = chain::long(arg);
        let boolean = || {
            values::boolean(text).map_err(|what| Refusal {
                kind: "bad_value",
                command: name.map(ToOwned::to_owned),
                message: format!("Invalid value for {}: {what}", shown(twin(level, arg))),
            })
        };
        match arg.get_action() {
            ArgAction::SetTrue => words.extend(boolean()?.then_some(long)),
            ArgAction::SetFalse => words.extend((!boolean()?).then_some(long)),
            ArgAction::Append => words.extend(text.split_whitespace().map(|item| format!("{long}={item}"))),
            ArgAction::Set => words.push(format!("{long}={text}")),
            _ => {}
        }
    }
    Ok(words)
}

/// Of the two options that set a parameter the one that says yes, by which it is called.
fn twin<'a>(level: &'a clap::Command, arg: &'a clap::Arg) -> &'a clap::Arg {
    level.get_arguments().find(|other| chain::param(other) == arg.get_id().as_str()).unwrap_or(arg)
}

impl Line {
    /// For `--dry-run`.
    pub fn to_json(&self) -> Value {
        let chain: Vec<&Command> = self.chain.iter().map(|invocation| &invocation.command).collect();
        json!({"global": self.global, "chain": chain})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str, env: &[(&str, &str)]) -> Refusal {
        let words: Vec<String> = line.split(' ').map(Into::into).collect();
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        match Parser::default().parse(&words, &env) {
            Err(refusal) => refusal,
            Ok(parsed) => panic!("{line} is not refused: {parsed:?}"),
        }
    }

    #[test]
    fn what_is_told_late_hides_nothing_that_is_told_at_once() {
        let told = |line: &str, env: &[(&str, &str)]| {
            let Refusal { kind, command, message } = refusal(line, env);
            format!("{kind} {} {message}", command.unwrap_or_default())
        };
        for line in [
            "start -n 5000 --port-bindings-offset abc stop --help",
            "start -n 5000 --port-bindings-offset abc bogus",
            "start -v /a:/b:zz -e A -n 5000 --port-bindings-offset abc init -e nope",
        ] {
            let text = told(line, &[]);
            assert!(
                text.starts_with("bad_value start") && text.contains("'abc' is not a valid integer"),
                "{line}: {text}"
            );
        }
        let variables = [("OARDOCKER_START_NODES", "5000"), ("OARDOCKER_START_PORT_BINDINGS_OFFSET", "abc")];
        assert!(told("start bogus", &variables).contains("'abc' is not a valid integer"));
        let variable = [("OARDOCKER_CONNECT_USER", "x"), ("OARDOCKER_EXEC_TTY", "maybe")];
        assert!(told("exec nowhere ls", &variable).contains("Invalid value for '-t' / '--tty': 'maybe'"));
        assert!(told("connect nowhere bogus", &variable).starts_with("no_such_command"));
        // Of several the first of the help page.
        assert!(told("start --port-bindings-offset 99999999 -n 5000", &[]).contains("'--nodes'"));
        assert!(told("start -v /a:/b:zz -v /a:/b:zz stop", &[]).contains("it is ro, rw or cow"));
        assert!(told("connect -l root nowhere", &[]).contains("'nowhere' is not a host"));
    }

    #[test]
    fn only_parameters_have_variables() {
        let words = ["--dry-run".to_owned(), "build".to_owned()];
        let env = Env::from([("OARDOCKER_BUILD_RM-ON".to_owned(), "maybe".to_owned())]);
        assert!(Parser::default().parse(&words, &env).is_ok());
    }
}
