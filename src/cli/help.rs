//! Help pages: clap renders them. Pure: text in a width.

use super::parse;
use clap::Command;
use clap::builder::Styles;

/// How a page is shown.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Columns.
    pub width: usize,
    /// Whether headings are coloured.
    pub color: bool,
}

/// The first line of a page, repeated by usage errors.
pub fn usage(command: Option<&str>) -> String {
    level(command).render_usage().to_string()
}

/// The page of a command, or of the program.
pub fn page(command: Option<&str>, style: Style) -> String {
    let level = level(command);
    let heading = |text: &str| if style.color { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() };
    let commands =
        if level.has_subcommands() { format!("\n\n{}\n{{subcommands}}", heading("Commands:")) } else { String::new() };
    let template = format!(
        "{{usage-heading}} {{usage}}\n\n{{about-with-newline}}\n{}\n{{options}}{commands}\n",
        heading("Options:")
    );
    // Lines of an example stay whole, however narrow the page.
    let examples = level.get_after_help().map(ToString::to_string).unwrap_or_default();
    let examples = examples.replacen("Examples:", &heading("Examples:"), 1);
    let page = level.styles(Styles::plain()).help_template(template).term_width(style.width).render_help();
    let page = if style.color { page.ansi().to_string() } else { page.to_string() };
    format!("{page}\n{examples}\n")
}

/// The definition of a command with the whole text about it, as its page has it.
fn level(command: Option<&str>) -> Command {
    let program = parse::program();
    let level = command.and_then(|name| program.find_subcommand(name)).unwrap_or(&program).clone();
    match level.get_long_about().cloned() {
        Some(about) => level.about(about),
        None => level,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_fit_their_width() {
        let program = parse::program();
        for width in [64, 80, 120] {
            for command in program.get_subcommands().map(|c| Some(c.get_name())).chain([None]) {
                let page = page(command, Style { width, color: false });
                let (text, examples) = page.split_once("Examples:").unwrap();
                for line in text.lines().filter(|l| !l.contains("Usage")) {
                    assert!(line.chars().count() <= width, "{width}: {line}");
                }
                assert!(text.contains("-h, --help") && examples.contains("  oardocker "), "{page}");
            }
        }
    }
}
