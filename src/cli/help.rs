//! Help pages, made from the grammar. Pure: text in a width.

use super::grammar::{self, Args, Cmd, Default, Kind, Opt};

/// How a page is shown.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Columns.
    pub width: usize,
    /// Whether headings are coloured.
    pub color: bool,
}

/// The first line of a page, repeated by usage errors.
pub fn usage(command: Option<&Cmd>) -> String {
    let Some(command) = command else {
        return "Usage: oardocker [OPTIONS] COMMAND1 [ARGS]... [COMMAND2 [ARGS]...]...".into();
    };
    let args = match command.args {
        Args::None => String::new(),
        Args::One(param, None) => format!(" {}", param.to_uppercase()),
        Args::One(param, Some(_)) => format!(" [{}]", param.to_uppercase()),
        Args::HostAndRest => " HOSTNAME [CMD]...".into(),
        Args::Rest(param) | Args::Hosts(param) => format!(" [{}]...", param.to_uppercase()),
    };
    format!("Usage: oardocker {} [OPTIONS]{args}", command.name)
}

/// A whole page.
pub fn page(command: Option<&Cmd>, style: Style) -> String {
    let heading = |text: &str| if style.color { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() };
    let mut out = format!("{}\n\n", usage(command));
    let (summary, about, options) = match command {
        Some(c) => (format!("{}.", c.summary), c.about, c.options),
        None => (
            "Manage a small OAR development cluster, without a Docker daemon.".to_owned(),
            "Commands are run in the order in which they are given; the first that fails ends the line. Options of a \
             command go before its arguments. Every option has an environment variable: OARDOCKER_DOCKER_HOST, \
             OARDOCKER_START_NODES, ...",
            grammar::GLOBAL,
        ),
    };
    out.push_str(&wrap(&summary, 2, style.width));
    out.push('\n');
    out.push_str(&wrap(about, 2, style.width));
    out.push_str(&format!("\n{}\n", heading("Options:")));
    let mut rows: Vec<(String, String)> = options.iter().map(row).collect();
    if command.is_none() {
        rows.push(("--version".into(), "Show the version and exit.".into()));
    }
    rows.push(("-h, --help".into(), "Show this message and exit.".into()));
    out.push_str(&table(&rows, style.width));
    if command.is_none() {
        out.push_str(&format!("\n{}\n", heading("Commands:")));
        let rows: Vec<_> = grammar::COMMANDS.iter().map(|c| (c.name.to_owned(), format!("{}.", c.summary))).collect();
        out.push_str(&table(&rows, style.width));
    }
    out.push_str(&format!("\n{}\n", heading("Examples:")));
    let examples = command.map_or(
        &[
            ("oardocker init build install oar-2.6.1.tar.gz start -n 4 connect", "from nothing to a shell"),
            ("oardocker exec frontend oarstat", "one command"),
            ("oardocker stop", "leave nothing behind"),
        ][..],
        |c| c.examples,
    );
    for (line, meaning) in examples {
        out.push_str(&format!("  {line}\n      {meaning}\n"));
    }
    out
}

/// Names and description of an option.
pub(super) fn row(option: &Opt) -> (String, String) {
    let metavar = match option.kind {
        Kind::Flag | Kind::Pair(_) => "",
        Kind::Int(..) | Kind::Seconds | Kind::Port => " INTEGER",
        Kind::Dir => " DIRECTORY",
        Kind::Text | Kind::Lines | Kind::Volume | Kind::Env => " TEXT",
        Kind::Choice => " NAME",
    };
    let mut names: Vec<String> = option.short.map(|c| format!("-{c}")).into_iter().collect();
    names.push(format!("--{}", option.long[0]));
    let mut left = format!("{}{metavar}", names.join(", "));
    if let Kind::Pair(negative) = option.kind {
        left.push_str(&format!(" / --{negative}"));
    }
    let default = match (option.default, option.kind) {
        (Default::Text(t), _) => format!("  [default: {t}]"),
        (Default::Int(n), _) => format!("  [default: {n}]"),
        (Default::Bool(true), _) => format!("  [default: {}]", option.long[0]),
        (Default::Bool(false), Kind::Pair(negative)) => format!("  [default: {negative}]"),
        _ => String::new(),
    };
    let choices = match option.kind {
        Kind::Choice => format!("  [{}]", crate::workdir::templates::environments().join(" | ")),
        _ => String::new(),
    };
    (left, format!("{}{choices}{default}", option.help))
}

/// Two columns; a left side that is too long gets a line of its own.
fn table(rows: &[(String, String)], width: usize) -> String {
    // A narrow page gives the left column no more than a third.
    let widest = width / 3 + 4;
    let column = rows.iter().map(|(l, _)| l.chars().count()).filter(|n| *n <= widest).max().unwrap_or(0) + 4;
    let mut out = String::new();
    for (left, right) in rows {
        let text = wrap(right, column, width);
        let text = text.trim_start();
        let used = left.chars().count() + 2;
        if used + 2 > column {
            out.push_str(&format!("  {left}\n{}{text}", " ".repeat(column)));
        } else {
            out.push_str(&format!("  {left}{}{text}", " ".repeat(column - used)));
        }
    }
    out
}

/// Breaks at blanks; ends with a newline.
fn wrap(text: &str, indent: usize, width: usize) -> String {
    let room = width.saturating_sub(indent);
    let mut out = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
            out.push_str(&format!("{}{line}\n", " ".repeat(indent)));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    out.push_str(&format!("{}{line}\n", " ".repeat(indent)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_fit_their_width() {
        for width in [64, 80, 120] {
            for command in grammar::COMMANDS.iter().map(Some).chain([None]) {
                let page = page(command, Style { width, color: false });
                let text = page.split("Examples:").next().unwrap();
                for line in text.lines().filter(|l| !l.contains("Usage")) {
                    assert!(line.chars().count() <= width, "{width}: {line}");
                }
                assert!(page.contains("-h, --help"));
            }
        }
    }
}
