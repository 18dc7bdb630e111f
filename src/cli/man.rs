//! The man page: clap_mangen renders the pieces, and this puts them on one page, each command a section. Pure.

use super::{help, parse};
use clap::Command;
use clap_mangen::Man;
use std::io;

/// `oardocker(1)` in roff.
pub fn page() -> io::Result<String> {
    let program = parse::program();
    let man = Man::new(program.clone()).title("OARDOCKER");
    let mut out = piece(|out| man.render_title(out))?;
    out.push_str(&piece(|out| man.render_name_section(out))?);
    out.push_str(&piece(|out| man.render_synopsis_section(out))?);
    out.push_str(&piece(|out| man.render_description_section(out))?);
    out.push_str(&piece(|out| man.render_options_section(out))?);
    out.push_str(".SH COMMANDS\n");
    for command in program.get_subcommands() {
        let man = Man::new(command.clone());
        let usage = help::usage(Some(command.get_name()));
        out.push_str(&format!(".SS {}\n", usage.trim_start_matches("Usage: ").replace('-', "\\-")));
        out.push_str(&piece(|out| man.render_description_section(out))?.replacen(".SH DESCRIPTION\n", "", 1));
        out.push_str(&piece(|out| man.render_options_section(out))?.replacen(".SH OPTIONS\n", "", 1));
        out.push_str(&examples(command));
    }
    out.push_str(".SH EXAMPLES\n");
    out.push_str(&examples(&program));
    out.push_str(
        ".SH EXIT STATUS\n0: success; 1: a command failed; 2: the line is refused; 130: interrupted; of exec and connect: that \
         of what they ran.\n.SH ENVIRONMENT\nEvery option has a variable: OARDOCKER_DOCKER_HOST, OARDOCKER_START_NODES, ...\n",
    );
    Ok(out)
}

/// What clap_mangen writes, without the definition of a quote that it puts in front of each piece but the first.
fn piece(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<String> {
    let mut out = Vec::new();
    render(&mut out)?;
    let text = String::from_utf8_lossy(&out).into_owned();
    let begins = if text.contains(".TH") { 0 } else { text.find(".SH").unwrap_or(0) };
    Ok(text[begins..].to_owned())
}

/// As they stand, line by line.
fn examples(command: &Command) -> String {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines = text.trim_start_matches("Examples:\n").replace('\\', "\\\\").replace('-', "\\-");
    format!(".PP\n.nf\n{lines}\n.fi\n")
}
