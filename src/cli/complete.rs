//! What could stand at the end of an unfinished line. Pure, but for what it is told of the running cluster.
//!
//! Reads the same table as the parser, and reads it as leniently as a line that is still being typed needs.

use super::grammar::{self, Args, Cmd, Kind, Opt};

/// What the shell should offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// These words, each with a description.
    Words(Vec<(String, String)>),
    /// File names.
    Files,
    /// Directory names.
    Directories,
}

/// The offer for the last of `words`, which may be empty; `hosts` are those of the running cluster.
pub fn offer(words: &[String], hosts: &[String]) -> Offer {
    let Some((partial, before)) = words.split_last() else { return commands("") };
    let mut rest = before;
    let mut level: Option<&'static Cmd> = None;
    loop {
        let options = level.map_or(grammar::GLOBAL, |c| c.options);
        // The options of this level.
        let mut open = true;
        while let Some((token, next)) = rest.split_first() {
            if token == "--" {
                (open, rest) = (false, next);
                break;
            }
            if !token.starts_with('-') || token.len() < 2 {
                open = false;
                break;
            }
            rest = next;
            if let Some(option) = waiting(options, token) {
                let Some((_, next)) = rest.split_first() else { return value(option, partial, "") };
                rest = next;
            }
        }
        if open && rest.is_empty() && partial.starts_with('-') {
            return option_or_its_value(options, level.is_none(), partial);
        }
        // Its arguments.
        if let Some(command) = level {
            match take_arguments(command, rest) {
                Ok(left) => rest = left,
                Err(()) => return argument(command, rest, partial, hosts),
            }
        }
        match rest.split_first() {
            None => {
                let more = level.filter(|c| matches!(c.args, Args::Hosts(_))).map(|_| self::hosts(hosts, partial));
                return merge(more, commands(partial));
            }
            Some((name, next)) => match grammar::command(name) {
                Some(command) => (level, rest) = (Some(command), next),
                None => return Offer::Words(Vec::new()),
            },
        }
    }
}

/// The option whose value must be the next token.
fn waiting(options: &'static [Opt], token: &str) -> Option<&'static Opt> {
    if let Some(long) = token.strip_prefix("--") {
        return options.iter().find(|o| o.takes_value() && o.long.contains(&long));
    }
    let mut letters = token[1..].chars();
    while let Some(letter) = letters.next() {
        let option = options.iter().find(|o| o.short == Some(letter))?;
        if option.takes_value() {
            return letters.as_str().is_empty().then_some(option);
        }
    }
    None
}

/// What is left after a command's arguments; an error when the word being typed is one of them.
fn take_arguments<'a>(command: &Cmd, rest: &'a [String]) -> Result<&'a [String], ()> {
    match command.args {
        Args::None => Ok(rest),
        Args::One(..) => rest.split_first().map(|(_, left)| left).ok_or(()),
        Args::HostAndRest | Args::Rest(_) => Err(()),
        Args::Hosts(_) => {
            let hosts = rest.iter().take_while(|t| grammar::is_host(t) && grammar::command(t).is_none()).count();
            Ok(&rest[hosts..])
        }
    }
}

fn argument(command: &Cmd, rest: &[String], partial: &str, hosts: &[String]) -> Offer {
    match command.args {
        Args::One("hostname", _) | Args::Rest(_) => self::hosts(hosts, partial),
        Args::HostAndRest if rest.is_empty() => self::hosts(hosts, partial),
        _ => Offer::Files,
    }
}

fn option_or_its_value(options: &'static [Opt], is_global: bool, partial: &str) -> Offer {
    if let Some((name, text)) = partial.strip_prefix("--").and_then(|p| p.split_once('=')) {
        return match options.iter().find(|o| o.takes_value() && o.long.contains(&name)) {
            Some(option) => value(option, text, &format!("--{name}=")),
            None => Offer::Words(Vec::new()),
        };
    }
    let mut words: Vec<(String, String)> = Vec::new();
    for option in options {
        words.push((format!("--{}", option.long[0]), option.help.into()));
        if let Kind::Pair(negative) = option.kind {
            words.push((format!("--{negative}"), format!("Not: {}", option.help)));
        }
        words.extend(option.short.map(|c| (format!("-{c}"), option.help.to_owned())));
    }
    words.push(("--help".into(), "Show this message and exit.".into()));
    if is_global {
        words.push(("--version".into(), "Show the version and exit.".into()));
    }
    filter(words, partial)
}

/// The values of an option; `prefix` is what stands before them in the same word.
fn value(option: &Opt, partial: &str, prefix: &str) -> Offer {
    let words = |values: &[&str]| {
        let all = values.iter().map(|v| (format!("{prefix}{v}"), String::new())).collect();
        filter(all, &format!("{prefix}{partial}"))
    };
    match option.kind {
        Kind::Choice => {
            let names = crate::workdir::templates::environments();
            words(&names.iter().map(String::as_str).collect::<Vec<_>>())
        }
        Kind::Dir => Offer::Directories,
        Kind::Volume => match partial.rsplit_once(':') {
            Some((paths, _)) if paths.contains(':') => {
                let modes: Vec<String> = ["ro", "rw", "cow"].iter().map(|m| format!("{paths}:{m}")).collect();
                words(&modes.iter().map(String::as_str).collect::<Vec<_>>())
            }
            _ => Offer::Files,
        },
        Kind::Text if option.param == "docker_host" => {
            words(&["auto", "managed", "containerd:///run/containerd/containerd.sock"])
        }
        Kind::Text if option.param == "user" => {
            words(&["docker", "oar", "root", "user1", "user2", "user3", "user4", "user5"])
        }
        Kind::Text if option.param.ends_with("path") => Offer::Files,
        _ => Offer::Words(Vec::new()),
    }
}

fn hosts(hosts: &[String], partial: &str) -> Offer {
    filter(hosts.iter().map(|h| (h.clone(), "host".to_owned())).collect(), partial)
}

fn commands(partial: &str) -> Offer {
    filter(grammar::COMMANDS.iter().map(|c| (c.name.to_owned(), c.summary.to_owned())).collect(), partial)
}

fn filter(mut words: Vec<(String, String)>, partial: &str) -> Offer {
    words.retain(|(w, _)| w.starts_with(partial));
    Offer::Words(words)
}

fn merge(first: Option<Offer>, second: Offer) -> Offer {
    match (first, second) {
        (Some(Offer::Words(mut a)), Offer::Words(b)) => {
            a.extend(b);
            Offer::Words(a)
        }
        (_, second) => second,
    }
}

impl Offer {
    /// For the scripts: `:files`, `:directories`, or a line `WORD<tab>DESCRIPTION` each.
    pub fn render(&self) -> String {
        match self {
            Self::Files => ":files\n".into(),
            Self::Directories => ":directories\n".into(),
            Self::Words(words) => words.iter().map(|(w, d)| format!("{w}\t{d}\n")).collect(),
        }
    }
}

const BASH: &str = r#"_oardocker() {
    local line=${COMP_LINE:0:COMP_POINT} words cur out cut IFS=$' \t\n'
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    cur=${words[-1]}
    out=$(_OARDOCKER_COMPLETE=1 "${words[0]}" "${words[@]:1}" 2>/dev/null)
    # readline replaces what follows the last of its own word breaks, so that is all it may be given.
    cut=${cur%"${cur##*[:=]}"}
    IFS=$'\n'
    case $out in
        :files) compopt -o filenames; COMPREPLY=($(compgen -f -- "${cur#"$cut"}")) ;;
        :directories) compopt -o filenames; COMPREPLY=($(compgen -d -- "${cur#"$cut"}")) ;;
        *) COMPREPLY=($(cut -f1 <<< "$out")); COMPREPLY=("${COMPREPLY[@]#"$cut"}") ;;
    esac
}
complete -F _oardocker oardocker
"#;

const ZSH: &str = r#"#compdef oardocker
_oardocker() {
    local -a lines offers
    lines=("${(@f)$(_OARDOCKER_COMPLETE=1 ${words[1]} "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    case ${lines[1]} in
        '') return 1 ;;
        :files) compset -P '*[:=]'; _files ;;
        :directories) compset -P '*='; _files -/ ;;
        *)
            local line
            for line in "${lines[@]}"; do offers+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}"); done
            _describe oardocker offers ;;
    esac
}
if [ "$funcstack[1]" = _oardocker ]; then _oardocker "$@"; else compdef _oardocker oardocker; fi
"#;

const FISH: &str = r#"function __oardocker_complete
    set -l words (commandline -opc)
    set -l out (env _OARDOCKER_COMPLETE=1 $words[1] $words[2..-1] (commandline -ct) 2>/dev/null)
    switch "$out[1]"
        case ':files'
            __fish_complete_path (commandline -ct)
        case ':directories'
            __fish_complete_directories (commandline -ct)
        case '*'
            printf '%s\n' $out
    end
end
complete -c oardocker -f -a '(__oardocker_complete)'
"#;

/// The script that a shell loads.
pub fn script(shell: &str) -> Option<&'static str> {
    match shell {
        "bash" => Some(BASH),
        "zsh" => Some(ZSH),
        "fish" => Some(FISH),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(Into::into).collect();
        let hosts = ["frontend", "node1", "node2"].map(Into::into);
        match offer(&words, &hosts) {
            Offer::Words(words) => words.into_iter().map(|(w, _)| w).collect(),
            Offer::Files => vec![":files".into()],
            Offer::Directories => vec![":directories".into()],
        }
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
        assert_eq!(at("init -e b"), ["bookworm", "bullseye", "buster"]);
        assert_eq!(at("init --env=tri"), ["--env=trixie"]);
        assert_eq!(at("start -v /a:/b:"), ["/a:/b:ro", "/a:/b:rw", "/a:/b:cow"]);
        assert_eq!(at("start -v /a"), [":files"]);
        assert_eq!(at("start -n "), Vec::<String>::new());
        assert_eq!(at("start -Xgv "), [":files"]);
        assert_eq!(at("start -n4 con"), ["connect"]);
    }

    #[test]
    fn hosts_where_hosts_stand() {
        assert_eq!(at("connect n"), ["node1", "node2"]);
        assert_eq!(at("connect -l root fr"), ["frontend"]);
        assert_eq!(at("exec no"), ["node1", "node2"]);
        assert_eq!(at("exec node1 l"), [":files"]);
        assert_eq!(at("reset node1 no"), ["node1", "node2"]);
        assert_eq!(at("logs node1 st"), ["start", "status", "stop"]);
        assert_eq!(at("logs fr"), ["frontend"]);
        assert_eq!(at("install x"), [":files"]);
    }
}
