//! From argument vector to a chain of invocations. Pure but for looking at `--workdir`.
//!
//! The grammar is that of oar-docker 1.6.5 (Python's click in chain mode), which fingers and scripts know:
//! options stand before arguments, a value is whatever token comes next, `exec` and `reset` take all that follows.
//! `docs/cli.md` states it; the recorded cases in `tests/cli` hold it.

use super::grammar::{self, Args, Cmd, Default, Kind, Opt};
use super::python::{close_matches, repr};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;

/// The environment variables that count.
pub type Env = BTreeMap<String, String>;

/// One command of the chain with all its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Invocation {
    /// Which.
    pub command: &'static str,
    /// Under their parameter names.
    pub params: Map<String, Value>,
}

/// A whole line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Options before the first command.
    pub global: Map<String, Value>,
    /// In order.
    pub chain: Vec<Invocation>,
}

/// What a line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    /// Run it.
    Run(Line),
    /// Show the page of a command, or the program's.
    Help(Option<&'static str>),
    /// Show the version.
    Version,
}

/// Why a line is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One of the kinds of `docs/cli.md`.
    pub kind: &'static str,
    /// The command at fault; none means the program's own level.
    pub command: Option<&'static str>,
    /// One sentence or two.
    pub message: String,
}

/// One level: the program itself, or one command.
#[derive(Clone, Copy)]
struct Level {
    command: Option<&'static Cmd>,
}

/// An occurrence of an option on the line.
enum Given {
    Value(String),
    Flag(bool),
}

/// What one pass over a level's tokens found.
struct Tokens {
    given: Vec<(&'static Opt, Given)>,
    /// The first of `--help` and `--version`.
    page: Option<&'static str>,
    rest: Vec<String>,
}

impl Level {
    fn options(self) -> &'static [Opt] {
        self.command.map_or(grammar::GLOBAL, |c| c.options)
    }

    fn name(self) -> Option<&'static str> {
        self.command.map(|c| c.name)
    }

    fn refuse(self, kind: &'static str, message: String) -> Refusal {
        Refusal { kind, command: self.name(), message }
    }

    /// All long option names with their dashes.
    fn long_names(self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for option in self.options() {
            names.extend(option.long.iter().map(|l| format!("--{l}")));
            if let Kind::Pair(negative) = option.kind {
                names.push(format!("--{negative}"));
            }
        }
        names.push("--help".into());
        if self.command.is_none() {
            names.push("--version".into());
        }
        names
    }

    fn no_such_option(self, name: &str) -> Refusal {
        let names = self.long_names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let similar = if name.starts_with("--") { close_matches(name, &names) } else { Vec::new() };
        let hint = match similar.as_slice() {
            [] => String::new(),
            [one] => format!(" Did you mean {}?", repr(one)),
            many => format!(" (Did you mean one of: {}?)", many.iter().map(|n| repr(n)).collect::<Vec<_>>().join(", ")),
        };
        self.refuse("no_such_option", format!("No such option {}.{hint}", repr(name)))
    }

    fn tokenize(self, mut tokens: std::collections::VecDeque<String>) -> Result<Tokens, Refusal> {
        let mut found = Tokens { given: Vec::new(), page: None, rest: Vec::new() };
        while let Some(token) = tokens.front().cloned() {
            if token == "--" {
                tokens.pop_front();
                break;
            }
            if !token.starts_with('-') || token.chars().count() < 2 {
                break;
            }
            tokens.pop_front();
            if let Some(long) = token.strip_prefix("--") {
                self.long(long, &mut tokens, &mut found)?;
            } else {
                self.cluster(&token[1..], &mut tokens, &mut found)?;
            }
        }
        found.rest = tokens.into();
        Ok(found)
    }

    fn long(
        self,
        text: &str,
        tokens: &mut std::collections::VecDeque<String>,
        found: &mut Tokens,
    ) -> Result<(), Refusal> {
        let (name, inline) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v)));
        let shown = format!("--{name}");
        let no_value = |inline: Option<&str>| match inline {
            Some(_) => Err(self.refuse("takes_no_value", format!("Option {} does not take a value.", repr(&shown)))),
            None => Ok(()),
        };
        if name == "help" || (name == "version" && self.command.is_none()) {
            no_value(inline)?;
            found.page.get_or_insert(if name == "help" { "help" } else { "version" });
            return Ok(());
        }
        for option in self.options() {
            let negative = matches!(option.kind, Kind::Pair(n) if n == name);
            if !negative && !option.long.contains(&name) {
                continue;
            }
            let given = if option.takes_value() {
                let value = inline.map(ToOwned::to_owned).or_else(|| tokens.pop_front());
                Given::Value(value.ok_or_else(|| self.needs_value(&shown))?)
            } else {
                no_value(inline)?;
                Given::Flag(!negative)
            };
            found.given.push((option, given));
            return Ok(());
        }
        Err(self.no_such_option(&shown))
    }

    fn needs_value(self, shown: &str) -> Refusal {
        self.refuse("needs_value", format!("Option {} requires an argument.", repr(shown)))
    }

    /// `-Xgn4`: flags, and at most one value at the end.
    fn cluster(
        self,
        letters: &str,
        tokens: &mut std::collections::VecDeque<String>,
        found: &mut Tokens,
    ) -> Result<(), Refusal> {
        for (at, letter) in letters.char_indices() {
            if letter == 'h' {
                found.page.get_or_insert("help");
                continue;
            }
            let shown = format!("-{letter}");
            let Some(option) = self.options().iter().find(|o| o.short == Some(letter)) else {
                return Err(self.no_such_option(&shown));
            };
            if !option.takes_value() {
                found.given.push((option, Given::Flag(true)));
                continue;
            }
            let attached = &letters[at + letter.len_utf8()..];
            let value = if attached.is_empty() { tokens.pop_front() } else { Some(attached.to_owned()) };
            found.given.push((option, Given::Value(value.ok_or_else(|| self.needs_value(&shown))?)));
            return Ok(());
        }
        Ok(())
    }

    /// The variable of a parameter: `OARDOCKER_START_NODES`.
    fn variable(self, option: &Opt) -> String {
        let command = self.name().map(|n| format!("{n}_")).unwrap_or_default();
        format!("oardocker_{command}{}", option.param).to_uppercase()
    }

    /// Values in the order in which mistakes are reported: options given, arguments, options not given.
    fn values(
        self,
        tokens: &Tokens,
        env: &Env,
        arguments: &mut Map<String, Value>,
    ) -> Result<Map<String, Value>, Refusal> {
        let mut params = Map::new();
        for (option, _) in &tokens.given {
            if params.contains_key(option.param) {
                continue;
            }
            let mut all = tokens.given.iter().filter(|(o, _)| o.param == option.param);
            let value = if option.default == Default::List {
                let items = all.map(|(_, g)| self.convert(option, g)).collect::<Result<Vec<_>, _>>()?;
                Value::Array(items)
            } else {
                let last = all.next_back().map(|(_, g)| g).expect("it was given at least once");
                self.convert(option, last)?
            };
            params.insert(option.param.into(), value);
        }
        self.check_arguments(arguments)?;
        for option in self.options() {
            if params.contains_key(option.param) {
                continue;
            }
            let value = match env.get(&self.variable(option)).filter(|v| !v.is_empty()) {
                Some(text) => self.of_environment(option, text)?,
                None => match option.default {
                    Default::None => Value::Null,
                    Default::Text(t) => json!(t),
                    Default::Int(n) => json!(n),
                    Default::Bool(b) => json!(b),
                    Default::List => json!([]),
                },
            };
            params.insert(option.param.into(), value);
        }
        for option in self.options().iter().filter(|o| o.new) {
            if matches!(params.get(option.param), Some(Value::Null | Value::Bool(false))) {
                params.remove(option.param);
            }
        }
        params.append(arguments);
        Ok(params)
    }

    fn check_arguments(self, arguments: &Map<String, Value>) -> Result<(), Refusal> {
        let Some(command) = self.command else { return Ok(()) };
        let missing = |name: &str| self.refuse("missing_argument", format!("Missing argument '{name}'."));
        match command.args {
            Args::One(param, _) if !arguments.contains_key(param) => return Err(missing(&param.to_uppercase())),
            Args::HostAndRest if !arguments.contains_key("hostname") => return Err(missing("HOSTNAME")),
            _ => {}
        }
        Ok(())
    }

    fn unknown_host(self, host: &str) -> Refusal {
        let command = self.name().unwrap_or_default();
        let advice = if grammar::command(host).is_some() {
            format!(" To chain after {command}, name a host first: {command} frontend {host}.")
        } else {
            let similar = close_matches(host, &["frontend", "server", "rsyslog", "node1"]);
            let similar: Vec<_> = similar.iter().map(|n| repr(n)).collect();
            if similar.is_empty() { String::new() } else { format!(" Did you mean {}?", similar.join(" or ")) }
        };
        let known = "hosts are frontend, server, rsyslog, node1, node2, ...";
        self.refuse("bad_value", format!("Invalid value for 'HOSTNAME': {} is not a host; {known}{advice}", repr(host)))
    }

    fn bad(self, option: &Opt, what: &str) -> Refusal {
        self.refuse("bad_value", format!("Invalid value for {}: {what}", option.names()))
    }

    fn convert(self, option: &Opt, given: &Given) -> Result<Value, Refusal> {
        match given {
            Given::Flag(on) => Ok(json!(on)),
            Given::Value(text) => convert(option.kind, text).map_err(|what| self.bad(option, &what)),
        }
    }

    fn of_environment(self, option: &Opt, text: &str) -> Result<Value, Refusal> {
        match option.kind {
            Kind::Flag | Kind::Pair(_) => boolean(text).map(|b| json!(b)).map_err(|what| self.bad(option, &what)),
            _ if option.default == Default::List => text
                .split_whitespace()
                .map(|item| self.convert(option, &Given::Value(item.to_owned())))
                .collect::<Result<Vec<_>, _>>()
                .map(Value::Array),
            _ => self.convert(option, &Given::Value(text.to_owned())),
        }
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
        "" | "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
        _ => Err(format!(
            "{} is not a valid boolean. Recognized values: , 0, 1, f, false, n, no, off, on, t, true, y, yes",
            repr(text)
        )),
    }
}

/// Converts one value, as strictly as the original did.
fn convert(kind: Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Int(..) | Kind::Seconds | Kind::Port => integer(text),
        Kind::Dir => directory(text),
        Kind::Choice => {
            let names = crate::workdir::templates::environments();
            if names.iter().any(|n| n == text) {
                return Ok(json!(text));
            }
            let shown: Vec<_> = names.iter().map(|n| repr(n)).collect();
            Err(format!("{} is not one of {}.", repr(text), shown.join(", ")))
        }
        _ => Ok(json!(text)),
    }
}

/// What the original found out only when the command ran, minutes later perhaps.
fn check(kind: Kind, value: &Value) -> Result<(), String> {
    let text = value.as_str().unwrap_or_default();
    match kind {
        Kind::Int(low, high) => within(value, low, high),
        Kind::Seconds => within(value, 0, 86_400),
        // Port 80 is always published, and no port is larger than 65535.
        Kind::Port => within(value, 0, 65_535 - 80),
        Kind::Volume => crate::cluster::volume::parse(text).map(drop).map_err(|e| format!("{e}.")),
        Kind::Env => match text.trim().split_once('=') {
            Some(("", rest)) if rest.contains('=') => {
                Err(format!("{} begins with an equals sign: write -e {rest}, or --env={rest}.", repr(text)))
            }
            Some((key, _)) if is_variable(key) || key.is_empty() => Ok(()),
            Some((key, _)) => Err(format!("{} is not a name of an environment variable.", repr(key))),
            None => Err(format!("{} is not of the form KEY=VALUE.", repr(text))),
        },
        Kind::Lines if text != "all" && value.is_string() && text.parse::<u32>().is_err() => {
            Err(format!("{} is neither a number of lines nor 'all'.", repr(text)))
        }
        _ => Ok(()),
    }
}

fn within(value: &Value, low: i64, high: i64) -> Result<(), String> {
    match value.as_i64() {
        Some(n) if (low..=high).contains(&n) => Ok(()),
        Some(n) => Err(format!("{n} is not in the range {low} to {high}.")),
        None => Ok(()),
    }
}

/// The second look at a line whose syntax is right: values and hosts that cannot work are refused before anything runs.
fn verify(chain: &[Invocation]) -> Result<(), Refusal> {
    for invocation in chain {
        let level = Level { command: grammar::command(invocation.command) };
        for option in level.options() {
            let value = &invocation.params.get(option.param).cloned().unwrap_or_default();
            let items = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
            for item in items {
                check(option.kind, item).map_err(|what| level.bad(option, &what))?;
            }
        }
        if let Some(host) = invocation.params.get("hostname").and_then(Value::as_str).filter(|h| !grammar::is_host(h)) {
            return Err(level.unknown_host(host));
        }
        if let Some(shell) = invocation.params.get("shell").filter(|_| invocation.command == "completion")
            && shell.as_str().and_then(super::complete::script).is_none()
        {
            let what = format!("Invalid value for 'SHELL': {shell} is not one of 'bash', 'fish', 'zsh'.");
            return Err(level.refuse("bad_value", what));
        }
    }
    Ok(())
}

fn is_variable(key: &str) -> bool {
    !key.is_empty()
        && !key.starts_with(|c: char| c.is_ascii_digit())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A number that does not fit becomes the largest there is, which every range refuses.
fn integer(text: &str) -> Result<Value, String> {
    let trimmed = text.trim();
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{} is not a valid integer.", repr(text)));
    }
    let limit = if trimmed.starts_with('-') { i64::MIN } else { i64::MAX };
    Ok(json!(trimmed.parse::<i64>().unwrap_or(limit)))
}

fn directory(text: &str) -> Result<Value, String> {
    let missing = || format!("Directory {} does not exist.", repr(text));
    if text.is_empty() {
        return Err(missing());
    }
    let meta = std::fs::metadata(text).map_err(|_| missing())?;
    if meta.is_file() {
        return Err(format!("Directory {} is a file.", repr(text)));
    }
    let kind = meta.file_type();
    if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
        return Err(format!("Directory {} is not a directory.", repr(text)));
    }
    let path = std::fs::canonicalize(text).map_err(|_| missing())?;
    path.to_str().map(|p| json!(p)).ok_or_else(|| format!("Directory {} has a name that is not UTF-8.", repr(text)))
}

/// Splits off a command's arguments; what is left starts the next command.
fn take_arguments(command: &Cmd, mut rest: std::collections::VecDeque<String>) -> (Map<String, Value>, Vec<String>) {
    let mut params = Map::new();
    match command.args {
        Args::None => {}
        Args::One(param, default) => {
            if let Some(value) = rest.pop_front().or_else(|| default.map(ToOwned::to_owned)) {
                params.insert(param.into(), json!(value));
            }
        }
        Args::HostAndRest => {
            if let Some(host) = rest.pop_front() {
                params.insert("hostname".into(), json!(host));
            }
            // `exec node1 -- ls`: the dashes only separate.
            if rest.front().is_some_and(|t| t == "--") {
                rest.pop_front();
            }
            params.insert("cmd".into(), json!(rest.drain(..).collect::<Vec<_>>()));
        }
        Args::Rest(param) => {
            params.insert(param.into(), json!(rest.drain(..).collect::<Vec<_>>()));
        }
        Args::Hosts(param) => {
            let mut hosts = Vec::new();
            while rest.front().is_some_and(|t| grammar::is_host(t) && grammar::command(t).is_none()) {
                hosts.extend(rest.pop_front());
            }
            if !hosts.is_empty() {
                params.insert(param.into(), json!(hosts));
            }
        }
    }
    (params, rest.into())
}

/// Parses a whole line.
pub fn parse(args: &[String], env: &Env) -> Result<Parsed, Refusal> {
    let program = Level { command: None };
    if args.is_empty() {
        return Err(program.refuse("no_args", String::new()));
    }
    let tokens = program.tokenize(args.to_vec().into())?;
    match tokens.page {
        Some("version") => return Ok(Parsed::Version),
        Some(_) => return Ok(Parsed::Help(None)),
        None => {}
    }
    let global = program.values(&tokens, env, &mut Map::new())?;
    let mut rest = tokens.rest;
    if rest.is_empty() {
        return Err(program.refuse("missing_command", "Missing command.".into()));
    }
    let mut chain: Vec<Invocation> = Vec::new();
    while let Some(name) = rest.first() {
        let Some(command) = grammar::command(name) else {
            return not_a_command(&rest, chain.last().map(|i| i.command), env);
        };
        let level = Level { command: Some(command) };
        let tokens = level.tokenize(rest[1..].to_vec().into())?;
        if tokens.page.is_some() {
            return Ok(Parsed::Help(Some(command.name)));
        }
        let (mut arguments, next) = take_arguments(command, tokens.rest.clone().into());
        let params = level.values(&tokens, env, &mut arguments)?;
        chain.push(Invocation { command: command.name, params });
        rest = next;
    }
    verify(&chain)?;
    Ok(Parsed::Run(Line { global, chain }))
}

/// A token that stands where a command must. One that looks like an option is read as the program's own first, since
/// that is what decides between the kinds of error.
fn not_a_command(rest: &[String], before: Option<&'static str>, env: &Env) -> Result<Parsed, Refusal> {
    let program = Level { command: None };
    let name = &rest[0];
    let refusal = |message: String| program.refuse("no_such_command", message);
    if name.starts_with('-') && name.chars().count() > 1 {
        let place = match before.and_then(grammar::command) {
            Some(c) => match c.args {
                Args::One(param, _) => {
                    format!(
                        " Options of {} go before {}, global options before the first command.",
                        c.name,
                        param.to_uppercase()
                    )
                }
                _ => " Global options go before the first command.".to_owned(),
            },
            None => String::new(),
        };
        let placed = |mut e: Refusal| {
            e.message.push_str(&place);
            e
        };
        let tokens = program.tokenize(rest.to_vec().into()).map_err(placed)?;
        match tokens.page {
            Some("version") => return Ok(Parsed::Version),
            Some(_) => return Ok(Parsed::Help(None)),
            None => program.values(&tokens, env, &mut Map::new()).map_err(placed)?,
        };
        return Err(refusal(format!("No such command {}.{place}", repr(name))));
    }
    let names: Vec<&str> = grammar::COMMANDS.iter().map(|c| c.name).collect();
    let similar = close_matches(name, &names);
    let hint = match similar.as_slice() {
        [] => String::new(),
        many => format!(" Did you mean {}?", many.iter().map(|n| repr(n)).collect::<Vec<_>>().join(" or ")),
    };
    Err(refusal(format!("No such command {}.{hint}", repr(name))))
}

impl Line {
    /// For `--dry-run`.
    pub fn to_json(&self) -> Value {
        let mut global = self.global.clone();
        global.remove("dry_run");
        let chain: Vec<Value> = self
            .chain
            .iter()
            .map(|i| {
                let mut params = i.params.clone();
                if i.command == "destroy" {
                    params.remove("force");
                }
                json!({"command": i.command, "params": params})
            })
            .collect();
        json!({"global": global, "chain": chain})
    }
}
