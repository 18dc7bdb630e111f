//! How an exec session is wired, in terms that every engine can serve, and what a runtime's refusals mean.

use super::ProcessSpec;
use crate::error::Error;
use tokio::sync::{mpsc, watch};

/// A piece of output of an exec session.
#[derive(Debug)]
pub enum Chunk {
    /// Standard output, or the terminal.
    Out(Vec<u8>),
    /// Standard error, never used with a terminal.
    Err(Vec<u8>),
}

/// The ends of an exec session.
#[derive(Debug)]
pub struct Session {
    /// What the process reads; closing the channel is its end of file. None: nothing to read at all.
    pub stdin: Option<mpsc::Receiver<Vec<u8>>>,
    /// What the process writes.
    pub output: mpsc::Sender<Chunk>,
    /// Columns and rows of the terminal, now and whenever they change.
    pub size: Option<watch::Receiver<(u16, u16)>>,
    /// Signals to pass on.
    pub signals: Option<mpsc::Receiver<i32>>,
}

impl Session {
    /// A session without input whose output is collected by the caller.
    pub fn output_only(output: mpsc::Sender<Chunk>) -> Self {
        Self { stdin: None, output, size: None, signals: None }
    }
}

/// A runtime's long story about a program that it could not run, cut to what a user needs.
pub(super) fn refusal(text: &str, process: &ProcessSpec) -> Error {
    let program = process.args.first().map_or("", |a| a);
    if text.contains("executable file not found") || text.contains("no such file or directory") {
        Error::new(format!("{program}: command not found"))
    } else if text.contains("permission denied") {
        Error::new(format!("{program}: permission denied"))
    } else {
        Error::new(text)
    }
}
