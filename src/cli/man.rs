//! The man page, from the same table as the help pages. Pure.

use super::grammar::{self, Opt};
use super::help;

/// `oardocker(1)` in roff.
pub fn page() -> String {
    let mut out =
        String::from(".TH OARDOCKER 1\n.SH NAME\noardocker \\- manage a small OAR development cluster\n.SH SYNOPSIS\n");
    out.push_str(&format!("{}\n.SH OPTIONS\n", escape(help::usage(None).trim_start_matches("Usage: "))));
    out.push_str(&options(grammar::GLOBAL));
    out.push_str(".SH COMMANDS\n");
    for command in grammar::COMMANDS {
        out.push_str(&format!(".SS {}\n", escape(help::usage(Some(command)).trim_start_matches("Usage: "))));
        out.push_str(&format!("{}.\n{}\n", escape(command.summary), escape(command.about)));
        out.push_str(&options(command.options));
        for (line, meaning) in command.examples {
            out.push_str(&format!(".PP\n{}:\n.nf\n    {}\n.fi\n", escape(meaning), escape(line)));
        }
    }
    out.push_str(
        ".SH EXIT STATUS\n0: success; 1: a command failed; 2: the line is refused; 130: interrupted; of exec and connect: that \
         of what they ran.\n.SH ENVIRONMENT\nEvery option has a variable: OARDOCKER_DOCKER_HOST, OARDOCKER_START_NODES, ...\n",
    );
    out
}

fn options(options: &[Opt]) -> String {
    let line = |option: &Opt| {
        let (left, right) = help::row(option);
        format!(".TP\n\\fB{}\\fR\n{}\n", escape(&left), escape(&right))
    };
    options.iter().map(line).collect()
}

/// Backslashes and dashes mean something to roff, and so does a dot or a quote at the beginning of a line.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
