//! `oardocker completion`: the script, and what the running cluster contributes.

use super::Context;
use crate::cli::python::repr;
use crate::cli::values::Wrong;
use crate::cluster::{self, files::Files};
use crate::host::{Machine, Root};
use crate::workdir::Workdir;
use clap_complete::ArgValueCandidates;
use serde::Serialize;
use std::path::PathBuf;

/// Print the completion script of a shell
///
/// SHELL is bash, zsh or fish. Commands in chain position, options, environments, hosts of the running cluster and volume modes
/// are completed.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  source <(oardocker completion bash)
      in ~/.bashrc
  oardocker completion zsh > ~/.zfunc/_oardocker
      in a folder of $fpath
  oardocker completion fish > ~/.config/fish/completions/oardocker.fish
      for fish")]
pub struct Params {
    /// Which.
    #[arg(value_parser = shell, add = ArgValueCandidates::new(|| SHELLS.map(|(name, _)| name.into()).into()))]
    shell: Shell,
}

/// The name of a shell.
type Shell = &'static str;

const SHELLS: [(Shell, &str); 3] = [("bash", BASH), ("fish", FISH), ("zsh", ZSH)];

fn shell(text: &str) -> Result<Shell, Wrong> {
    let found = SHELLS.into_iter().find(|(name, _)| *name == text).map(|(name, _)| name);
    let names = SHELLS.map(|(name, _)| repr(name)).join(", ");
    found.ok_or_else(|| Wrong::Late(format!("{} is not one of {names}.", repr(text))))
}

pub(super) fn run(context: &Context, params: &Params) {
    SHELLS.iter().filter(|(name, _)| *name == params.shell).for_each(|(_, script)| _ = context.ui.data(script));
}

/// Host names of the cluster of the workdir that the line names; of any cluster when none runs.
pub(in crate::cli) fn hosts(words: &[String]) -> Vec<String> {
    let named = words.windows(2).find(|w| w[0] == "--workdir").map(|w| PathBuf::from(&w[1]));
    let root = named.or_else(|| std::env::current_dir().ok()).unwrap_or_default();
    let nodes = Workdir::open(&root)
        .ok()
        .and_then(|workdir| {
            let all =
                Files::own(&workdir.env_id).into_iter().chain([Files::new(&Machine::new(Root::Host), &workdir.env_id)]);
            all.into_iter().find_map(|files| files.public_nodes())
        })
        .map_or(1, |text| text.lines().count());
    cluster::names(u32::try_from(nodes).unwrap_or(1))
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
