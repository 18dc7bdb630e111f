//! Printing: data on stdout, talk on stderr, colour and live progress on a terminal only.

use super::help::Style;
use crate::error::Error;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

/// ANSI colours.
pub const RED: u8 = 31;
/// For what was made.
pub const GREEN: u8 = 32;
/// For what was replaced.
pub const YELLOW: u8 = 33;
/// For names.
pub const BLUE: u8 = 34;
/// For what was left alone.
pub const MAGENTA: u8 = 35;

/// The terminal, or what stands in for it.
#[derive(Debug)]
pub struct Ui {
    color_out: bool,
    color_err: bool,
    live: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Ui {
    /// Looks at where the streams go.
    pub fn new() -> Self {
        let wanted =
            std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::env::var("TERM").as_deref() != Ok("dumb");
        Self {
            color_out: wanted && std::io::stdout().is_terminal(),
            color_err: wanted && std::io::stderr().is_terminal(),
            live: std::io::stderr().is_terminal() && std::env::var("TERM").as_deref() != Ok("dumb"),
            bar: Mutex::new(None),
        }
    }

    /// Whether a person watches.
    pub fn live(&self) -> bool {
        self.live
    }

    /// How help pages are shown.
    pub fn page_style(&self) -> Style {
        let width = terminal_size().map_or(80, |(columns, _)| usize::from(columns)).clamp(60, 120);
        Style { width, color: self.color_out }
    }

    /// Text in a colour, on a terminal.
    pub fn paint(&self, color: u8, text: &str) -> String {
        if self.color_err { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The same for stdout.
    pub fn paint_out(&self, color: u8, text: &str) -> String {
        if self.color_out { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// What the user asked for. A reader that went away is not an error, but no reason to go on either: false.
    pub fn data(&self, text: &str) -> bool {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
    }

    /// A line on stdout, above a live line if there is one.
    pub fn line(&self, text: &str) {
        let bar = self.bar.lock().expect("nobody panics while printing");
        match &*bar {
            Some(bar) => bar.suspend(|| self.data(&format!("{text}\n"))),
            None => self.data(&format!("{text}\n")),
        };
    }

    /// What the user should know once, on stderr.
    pub fn note(&self, text: &str) {
        self.talk(&format!("{} {text}", self.paint(YELLOW, "note:")));
    }

    /// A line on stderr.
    pub fn talk(&self, text: &str) {
        let print = || {
            let mut err = std::io::stderr().lock();
            let _ = writeln!(err, "{text}");
        };
        let bar = self.bar.lock().expect("nobody panics while printing");
        match &*bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// An error with its details and hints.
    pub fn error(&self, error: &Error) {
        self.talk("");
        for line in error.details() {
            self.talk(&format!("  {line}"));
        }
        self.talk(&format!("{} {error}", self.paint(RED, "Error:")));
        for hint in error.hints() {
            self.talk(&format!("{} {hint}", self.paint(GREEN, "hint:")));
        }
    }

    /// Shows or changes the live line; does nothing where nobody watches.
    pub fn progress(&self, text: &str) {
        if !self.live {
            return;
        }
        let mut bar = self.bar.lock().expect("nobody panics while printing");
        let bar = bar.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>3} {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        bar.set_message(text.to_owned());
    }

    /// Takes the live line away.
    pub fn progress_end(&self) {
        if let Some(bar) = self.bar.lock().expect("nobody panics while printing").take() {
            bar.finish_and_clear();
        }
    }
}

impl Default for Ui {
    fn default() -> Self {
        Self::new()
    }
}

/// Columns and rows of the terminal, if there is one.
pub fn terminal_size() -> Option<(u16, u16)> {
    nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
    for fd in [1, 0, 2] {
        let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the kernel fills the struct that the pointer gives it.
        if unsafe { window_size(fd, &raw mut size) }.is_ok() && size.ws_col > 0 {
            return Some((size.ws_col, size.ws_row));
        }
    }
    None
}
