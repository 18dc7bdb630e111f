//! How an exec session is wired, in terms that every engine can serve.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// A piece of output of an exec session.
#[derive(Debug)]
pub enum Chunk {
    /// Standard output, or the terminal.
    Out(Vec<u8>),
    /// Standard error, never used with a terminal.
    Err(Vec<u8>),
}

/// What a session reads.
#[derive(Debug)]
pub enum Stdin {
    /// What is typed, piece by piece; closing the channel is the end of file.
    Keys(mpsc::Receiver<Vec<u8>>),
    /// A file, of which no more is taken than the process takes.
    File(Arc<OwnedFd>),
}

/// The ends of an exec session.
#[derive(Debug)]
pub struct Session {
    /// What the process reads. None: nothing at all.
    pub stdin: Option<Stdin>,
    /// What the process writes.
    pub output: mpsc::Sender<Chunk>,
    /// Columns and rows of the terminal, now and whenever they change.
    pub size: Option<watch::Receiver<(u16, u16)>>,
    /// The first process of the container, by its number on the host: what the session leaves behind is hung up. None: let it be.
    pub init: Option<u32>,
    /// Signals to pass on, to all processes of the session.
    pub signals: Option<mpsc::Receiver<i32>>,
}

impl Session {
    /// A session without input whose output is collected by the caller.
    pub fn output_only(output: mpsc::Sender<Chunk>) -> Self {
        Self { stdin: None, output, size: None, init: None, signals: None }
    }
}
