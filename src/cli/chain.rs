//! Splits a line into links, a command each, which clap has no notion of. Pure: what the options are is asked of clap's definitions.
//!
//! The grammar is that of oar-docker 1.6.5 (Python's click in chain mode), which fingers and scripts know: options stand before
//! arguments, a value is whatever token comes next, `-n=4` is the value `=4`, `exec` and `reset` take all that follows. So a link's
//! options are written anew for clap, which would read some of them differently: `--name=VALUE` each, then `--` and the arguments.
//! `docs/cli.md` states the grammar; the recorded cases in `tests/cli` hold it.

use super::values::is_host;
use clap::{Arg, ArgAction, Command};
use std::collections::BTreeSet;

/// The options of one link.
#[derive(Debug, Default)]
pub(super) struct Options<'a> {
    /// As clap reads them.
    pub(super) words: Vec<String>,
    /// Parameters that were given.
    pub(super) given: BTreeSet<&'a str>,
    /// Which of `--help` and `--version` came first.
    pub(super) page: Option<Page>,
    /// Whether a `--` has ended them.
    pub(super) ended: bool,
}

/// What is shown instead of running anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Help,
    Version,
}

/// What is wrong with a link's options, with the name as it was given.
#[derive(Debug)]
pub(super) enum Wrong<'a> {
    NoSuchOption(String),
    NeedsValue(String, &'a Arg),
    TakesNoValue(String),
}

/// The parameter that an option sets. Where one option says yes and one says no, the id of the second is the parameter, and that of
/// the first has `-on` behind it.
pub(super) fn param(arg: &Arg) -> &str {
    arg.get_id().as_str().trim_end_matches("-on")
}

impl<'a> Options<'a> {
    /// Reads the options at the head of `tokens`; also what is left.
    pub(super) fn split<'t>(command: &'a Command, mut tokens: &'t [String]) -> Result<(Self, &'t [String]), Wrong<'a>> {
        let mut found = Self::default();
        while let Some((token, rest)) = tokens.split_first() {
            if token == "--" {
                found.ended = true;
                return Ok((found, rest));
            }
            if !token.starts_with('-') || token.len() < 2 {
                break;
            }
            tokens = match token.strip_prefix("--") {
                Some(long) => found.long(command, long, rest)?,
                None => found.letters(command, &token[1..], rest)?,
            };
        }
        Ok((found, tokens))
    }

    fn long<'t>(&mut self, command: &'a Command, text: &str, rest: &'t [String]) -> Result<&'t [String], Wrong<'a>> {
        let (name, inline) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let shown = format!("--{name}");
        let named =
            |arg: &&Arg| arg.get_long() == Some(name) || arg.get_all_aliases().unwrap_or_default().contains(&name);
        let Some(arg) = command.get_arguments().find(named) else { return Err(Wrong::NoSuchOption(shown)) };
        match (arg.get_action().takes_values(), inline) {
            (false, None) => self.flag(arg),
            (false, Some(_)) => return Err(Wrong::TakesNoValue(shown)),
            (true, Some(value)) => self.value(arg, value),
            (true, None) => return self.next(arg, shown, rest),
        }
        Ok(rest)
    }

    /// `-Xgn4`: flags, and at most one value at the end.
    fn letters<'t>(
        &mut self,
        command: &'a Command,
        letters: &str,
        rest: &'t [String],
    ) -> Result<&'t [String], Wrong<'a>> {
        for (at, letter) in letters.char_indices() {
            let shown = format!("-{letter}");
            let Some(arg) = command.get_arguments().find(|arg| arg.get_short() == Some(letter)) else {
                return Err(Wrong::NoSuchOption(shown));
            };
            if !arg.get_action().takes_values() {
                self.flag(arg);
                continue;
            }
            return match &letters[at + letter.len_utf8()..] {
                "" => self.next(arg, shown, rest),
                attached => {
                    self.value(arg, attached);
                    Ok(rest)
                }
            };
        }
        Ok(rest)
    }

    fn next<'t>(&mut self, arg: &'a Arg, shown: String, rest: &'t [String]) -> Result<&'t [String], Wrong<'a>> {
        let Some((value, rest)) = rest.split_first() else { return Err(Wrong::NeedsValue(shown, arg)) };
        self.value(arg, value);
        Ok(rest)
    }

    fn flag(&mut self, arg: &'a Arg) {
        match arg.get_action() {
            ArgAction::Help => _ = self.page.get_or_insert(Page::Help),
            ArgAction::Version => _ = self.page.get_or_insert(Page::Version),
            _ => {
                self.given.insert(param(arg));
                self.words.push(long(arg));
            }
        }
    }

    /// The last of several values counts, and what was wrong with the others does not; a list has them all.
    fn value(&mut self, arg: &'a Arg, value: &str) {
        let (head, word) = (long(arg) + "=", long(arg) + "=" + value);
        let before = self.words.iter_mut().find(|word| word.starts_with(&head));
        match before.filter(|_| !matches!(arg.get_action(), ArgAction::Append)) {
            Some(before) => *before = word,
            None => self.words.push(word),
        }
        self.given.insert(param(arg));
    }
}

/// The name by which clap knows an option.
pub(super) fn long(arg: &Arg) -> String {
    format!("--{}", arg.get_long().unwrap_or_default())
}

/// Splits off a command's arguments; what is left begins with the next command.
pub(super) fn arguments<'t>(program: &Command, command: &Command, tokens: &'t [String]) -> (Vec<String>, &'t [String]) {
    let (mut taken, mut rest) = (Vec::new(), tokens);
    for positional in command.get_positionals() {
        let count = if takes_one(positional) {
            rest.len().min(1)
        } else if positional.is_trailing_var_arg_set() {
            // `exec node1 -- ls`: the dashes only separate.
            if !taken.is_empty() && rest.first().is_some_and(|token| token == "--") {
                rest = &rest[1..];
            }
            rest.len()
        } else {
            rest.iter().take_while(|token| is_host(token) && program.find_subcommand(token).is_none()).count()
        };
        taken.extend_from_slice(&rest[..count]);
        rest = &rest[count..];
    }
    (taken, rest)
}

/// Whether an argument is one token, and not several.
pub(super) fn takes_one(positional: &Arg) -> bool {
    positional.get_num_args().is_none_or(|count| count.max_values() == 1)
}
