//! Standard streams through FIFOs, the way containerd's shims want them.

use crate::engine::family::Heard;
use crate::engine::io::Chunk;
use crate::error::{Doing as _, Result};
use crate::host::Machine;
use nix::sys::stat::Mode;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// The FIFOs of one process; their directory goes away with the value.
#[derive(Debug)]
pub(super) struct Fifos {
    dir: PathBuf,
    /// Nothing more is read.
    over: Arc<AtomicBool>,
}

impl Fifos {
    pub(super) fn create(machine: &Machine) -> Result<Self> {
        let dir =
            machine.runtime_dir().join("io").join(format!("{}-{:08x}", std::process::id(), rand::random::<u32>()));
        std::fs::create_dir_all(&dir).doing(|| format!("cannot create {}", dir.display()))?;
        let fifos = Self { dir, over: Arc::default() };
        for name in ["stdin", "stdout", "stderr"] {
            let path = fifos.path(name);
            nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600))
                .doing(|| format!("cannot create {}", path.display()))?;
        }
        Ok(fifos)
    }

    /// Removes the FIFOs of oardockers that were killed.
    pub(super) fn recover(machine: &Machine) {
        for entry in std::fs::read_dir(machine.runtime_dir().join("io")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.split('-').next().unwrap_or_default();
            if !Path::new("/proc").join(owner).exists() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Reads a stream to its end on a thread of its own: opening a FIFO waits for the shim. `heard` is told of every piece.
    pub(super) fn reader<T: Send + 'static>(
        &self,
        name: &str,
        heard: Arc<Heard>,
        wrap: impl Fn(Vec<u8>) -> T + Send + 'static,
        to: mpsc::Sender<T>,
    ) -> tokio::task::JoinHandle<()> {
        let (path, over) = (self.path(name), self.over.clone());
        tokio::task::spawn_blocking(move || {
            let Ok(mut fifo) = File::open(&path) else { return };
            let mut buffer = vec![0; 64 << 10];
            while let Ok(n @ 1..) = fifo.read(&mut buffer) {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let _piece = heard.piece();
                if to.blocking_send(wrap(buffer[..n].to_vec())).is_err() {
                    // Nobody listens any more; go on reading so that the process does not block.
                    while !over.load(Ordering::SeqCst) && matches!(fifo.read(&mut buffer), Ok(1..)) {}
                    return;
                }
            }
        })
    }

    /// Feeds stdin until the channel closes; true when the process should then see end of file.
    pub(super) fn writer(path: PathBuf, mut from: mpsc::Receiver<Vec<u8>>) -> tokio::task::JoinHandle<bool> {
        tokio::task::spawn_blocking(move || {
            let Ok(mut fifo) = OpenOptions::new().write(true).open(&path) else { return false };
            while let Some(bytes) = from.blocking_recv() {
                if fifo.write_all(&bytes).is_err() {
                    return false;
                }
            }
            true
        })
    }

    /// Ends the readers although others may still write.
    pub(super) fn let_go(&self) {
        self.over.store(true, Ordering::SeqCst);
        for name in ["stdout", "stderr"] {
            if let Ok(mut fifo) = open_both_ways(&self.path(name)) {
                // What wakes a reader is not kept.
                let _ = fifo.write(&[0]);
            }
        }
    }

    /// Lets threads go that still wait for a shim which never came, or whose process ended.
    pub(super) fn unblock(&self) {
        for name in ["stdin", "stdout", "stderr"] {
            let _ = open_both_ways(&self.path(name));
        }
    }
}

/// Opening for reading and writing at once never waits, and wakes whoever waits for the other end.
fn open_both_ways(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(path)
}

impl Drop for Fifos {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Wraps bytes as standard output.
pub(super) fn out(bytes: Vec<u8>) -> Chunk {
    Chunk::Out(bytes)
}

/// Wraps bytes as standard error.
pub(super) fn err(bytes: Vec<u8>) -> Chunk {
    Chunk::Err(bytes)
}
