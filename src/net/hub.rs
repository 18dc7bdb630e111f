//! Where a network's bridge and its rules are: in the host's own network, or without root in a namespace that stands for it. What leaves
//! that one goes through `pasta`.

use super::{links, netns_dir};
use crate::error::{Doing as _, Error, Result};
use crate::host::Machine;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The value. None: the host's own.
#[derive(Debug, Clone)]
pub(super) struct Hub(Option<PathBuf>);

impl Hub {
    /// The host's own.
    pub(super) fn host() -> Self {
        Self(None)
    }

    /// That of a network on this machine. Nothing is made yet.
    pub(super) fn of(machine: &Machine, id: &str) -> Self {
        Self(machine.delegated_cgroup().map(|_| netns_dir(machine, id).join(".hub")))
    }

    /// The path of the namespace that was made for it.
    pub(super) fn own(&self) -> Option<&Path> {
        self.0.as_deref()
    }

    /// The namespace, for who moves interfaces there; for the calling thread if it is the host's.
    pub(super) fn open(&self) -> Result<File> {
        let path = self.own().unwrap_or(Path::new("/proc/thread-self/ns/net"));
        File::open(path).doing(|| format!("cannot open the network namespace {}", path.display()))
    }

    /// Makes the namespace, if it is not the host's.
    pub(super) async fn make(&self) -> Result<()> {
        let Some(path) = self.own() else { return Ok(()) };
        links::pin_new_namespace(path).await?;
        links::raise_loopback(self).await
    }

    /// Does something there: on a thread of its own if it is not here.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let Some(path) = self.own() else { return work() };
        let entered = || {
            let doing = || format!("cannot enter {}", path.display());
            setns(File::open(path).doing(doing)?, CloneFlags::CLONE_NEWNET).doing(doing)?;
            work()
        };
        let done = std::thread::scope(|scope| scope.spawn(entered).join());
        done.unwrap_or_else(|_| Err(Error::new("the thread that works in a network namespace ended early")))
    }
}
