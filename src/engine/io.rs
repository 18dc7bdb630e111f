//! How an exec session is wired, in terms that every engine can serve.

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
