//! Printing: data on stdout, talk on stderr, colour and live progress on a terminal only.

use super::help::Style;
use crate::error::Error;
use indicatif::{ProgressBar, ProgressStyle};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::IsTerminal as _;
use std::os::fd::AsFd;
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
        write(std::io::stdout(), text.as_bytes()).is_ok()
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
            let _ = write(std::io::stderr(), format!("{text}\n").as_bytes());
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

/// Writes all of it, also where the other side has made the stream one that does not wait: a slow reader is no error.
pub fn write(to: impl AsFd, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&to, bytes) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let mut fds = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut fds, PollTimeout::NONE) {
                    Ok(_) | Err(nix::Error::EINTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_slow_reader_gets_everything() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
        rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
        let bytes = vec![7; 3_000_000];
        let expected = bytes.len();
        let writing = std::thread::spawn(move || write(writer, &bytes));
        std::thread::sleep(Duration::from_millis(50));
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        writing.join().unwrap().unwrap();
        assert_eq!(all.len(), expected);
        // One that went away is an error.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert!(write(writer, b"x").is_err());
    }
}
