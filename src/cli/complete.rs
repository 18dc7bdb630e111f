//! What could stand at the end of an unfinished line: [`chain`](super::chain) finds the link that it is in, clap_complete offers
//! what can stand there. Pure, but for what it is told of the running cluster.

use super::chain::{self, Options, Wrong};
use super::parse;
use super::values::{DIRECTORIES, FILES};
use clap::{Command, ValueHint};
use clap_complete::{ArgValueCandidates, ArgValueCompleter, engine};
use std::ffi::{OsStr, OsString};

/// The offer for the last of `words`, which may be empty, for the scripts: `:files`, `:directories`, or a line
/// `WORD<tab>DESCRIPTION` each. `hosts` are those of the running cluster.
pub fn offer(words: &[String], hosts: &[String]) -> String {
    let program = parse::program();
    let (typed, before) = words.split_last().map_or(("", words), |(typed, before)| (typed.as_str(), before));
    let Some((link, head)) = link(&program, before) else { return String::new() };
    let is_option = head.is_empty() && typed.starts_with('-');
    // Letters that are no options begin nothing.
    let letters = is_option && !typed.starts_with("--") && typed.len() > 1;
    if letters && matches!(Options::split(&link, &[typed.to_owned()]), Err(Wrong::NoSuchOption(_))) {
        return String::new();
    }
    let mut link = link.disable_help_subcommand(true).mut_args(|arg| match arg.get_value_hint() {
        ValueHint::AnyPath => candidate(arg, FILES),
        ValueHint::DirPath => candidate(arg, DIRECTORIES),
        ValueHint::Hostname => candidates(arg, hosts.to_vec()),
        ValueHint::Username => candidates(
            arg,
            ["docker", "oar", "root", "user1", "user2", "user3", "user4", "user5"].map(Into::into).into(),
        ),
        _ => arg,
    });
    // Of a dash alone clap_complete makes letters only.
    let begun = if is_option && typed == "-" { vec!["--", "-"] } else { vec![typed] };
    let mut out = String::new();
    for typed in begun {
        let line = [link.get_name()].into_iter().chain(head.iter().map(String::as_str)).chain([typed]);
        let line: Vec<OsString> = line.map(Into::into).collect();
        let last = line.len() - 1;
        for candidate in engine::complete(&mut link, line, last, None).unwrap_or_default() {
            let word = candidate.get_value().to_string_lossy();
            if let Some(kind) =
                [FILES, DIRECTORIES].iter().find(|kind| word.ends_with(**kind) && (!is_option || word != **kind))
            {
                return format!("{kind}\n");
            }
            // Options are offered to who has begun one.
            if (word.starts_with('-') == typed.starts_with('-') || !head.is_empty())
                && !out.contains(&format!("{word}\t"))
            {
                out.push_str(&format!(
                    "{word}\t{}\n",
                    candidate.get_help().map(ToString::to_string).unwrap_or_default()
                ));
            }
        }
    }
    out
}

/// One that stands for others, so that what is typed does not choose it.
fn candidate(arg: clap::Arg, word: &'static str) -> clap::Arg {
    arg.add(ArgValueCompleter::new(move |_: &OsStr| vec![word.into()]))
}

fn candidates(arg: clap::Arg, words: Vec<String>) -> clap::Arg {
    arg.add(ArgValueCandidates::new(move || words.iter().map(Into::into).collect()))
}

/// The link that the next word is in, with the commands that could stand there too, and the words of it that decide what the
/// next one can be. None where the line cannot be right.
fn link(program: &Command, words: &[String]) -> Option<(Command, Vec<String>)> {
    let dashes = || "--".to_owned();
    let (mut level, mut rest) = (program, words);
    loop {
        let (options, tokens) = match Options::split(level, rest) {
            Ok(split) => split,
            Err(Wrong::NeedsValue(_, arg)) => return Some((level.clone(), vec![chain::long(arg)])),
            Err(_) => return None,
        };
        let (taken, next) =
            if level.has_subcommands() { (Vec::new(), tokens) } else { chain::arguments(program, level, tokens) };
        if let Some((name, next)) = next.split_first() {
            (level, rest) = (program.find_subcommand(name)?, next);
            continue;
        }
        let mut head: Vec<String> = [dashes()].into_iter().filter(|_| options.ended || !taken.is_empty()).collect();
        let chained = |level: Command| level.subcommands(program.get_subcommands().cloned());
        return Some(match level.get_positionals().next() {
            None if level.has_subcommands() => (level.clone(), head),
            None => (chained(level.clone()), head),
            // What it takes one of, it has.
            Some(_) if one_each(level) && level.get_positionals().count() == taken.len() => {
                (chained(Command::new("oardocker")), vec![dashes()])
            }
            Some(first) if !chain::takes_one(first) && !first.is_trailing_var_arg_set() => {
                (chained(level.clone()), head)
            }
            Some(_) => {
                head.extend(taken);
                (level.clone(), head)
            }
        });
    }
}

/// Whether each of its arguments is one token.
fn one_each(level: &Command) -> bool {
    level.get_positionals().all(chain::takes_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(Into::into).collect();
        let hosts = ["frontend", "node1", "node2"].map(Into::into);
        offer(&words, &hosts).lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn commands_in_every_position_of_a_chain() {
        assert_eq!(at("st"), ["start", "status", "stop"]);
        assert_eq!(at("init -f bu"), ["build"]);
        assert_eq!(at("init -f -e trixie build install x.tar.gz sta"), ["start", "status"]);
        assert_eq!(at("start -n 4 connect frontend sto"), ["stop"]);
        assert_eq!(at("--verbose --workdir /tmp des"), ["destroy"]);
        assert_eq!(at("bogus x"), Vec::<String>::new());
    }

    #[test]
    fn options_and_their_values() {
        assert_eq!(at("start --no"), ["--nodes", "--no-wait"]);
        assert_eq!(at("build --no-r"), ["--no-rm", "--no-rebuild"]);
        assert_eq!(at("--work"), ["--workdir"]);
        assert_eq!(at("--workdir "), [":directories"]);
        assert_eq!(at("--workdir=/t"), [":directories"]);
        assert_eq!(at("init -e b"), ["bookworm", "bullseye", "buster"]);
        assert_eq!(at("init --env=tri"), ["--env=trixie"]);
        assert_eq!(at("start -v /a:/b:"), ["/a:/b:ro", "/a:/b:rw", "/a:/b:cow"]);
        assert_eq!(at("start -v /a"), [":files"]);
        assert_eq!(at("start -n "), Vec::<String>::new());
        assert_eq!(at("start -Xgv "), [":files"]);
        assert_eq!(at("start -n4 con"), ["connect"]);
        assert_eq!(at("completion z"), ["zsh"]);
        assert_eq!(at("destroy -"), ["--force", "--help", "-f", "-h"]);
        assert_eq!(at("destroy -x"), Vec::<String>::new());
        assert_eq!(at("install --n"), ["--no-cache"]);
    }

    #[test]
    fn hosts_where_hosts_stand() {
        assert_eq!(at("connect n"), ["node1", "node2"]);
        assert_eq!(at("connect -l root fr"), ["frontend"]);
        assert_eq!(at("exec no"), ["node1", "node2"]);
        assert_eq!(at("exec node1 l"), [":files"]);
        assert_eq!(at("exec node1 ls -l"), [":files"]);
        assert_eq!(at("reset node1 no"), ["node1", "node2"]);
        assert_eq!(at("logs node1 st"), ["start", "status", "stop"]);
        assert_eq!(at("logs fr"), ["frontend"]);
        assert_eq!(at("install x"), [":files"]);
    }
}
