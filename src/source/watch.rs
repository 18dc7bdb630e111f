//! Hears of changes in a tree.

use crate::error::{Doing as _, Error, Result};
use crate::rooted::{Root, own_path};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::fs::FileType;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// What git itself writes there is no change of the source.
const REPOSITORY: &str = ".git";

/// A tree all of whose directories are watched.
#[derive(Debug)]
pub struct TreeWatch {
    tree: Root,
    events: AsyncFd<std::os::fd::OwnedFd>,
    inotify: Inotify,
}

impl TreeWatch {
    /// From now on.
    pub fn new(path: &Path) -> Result<Self> {
        let doing = || format!("cannot watch {}", path.display());
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).doing(doing)?;
        let fd = inotify.as_fd().try_clone_to_owned().doing(doing)?;
        // SAFETY: the descriptor is the value's own, and is closed with it, not before.
        let events = unsafe { AsyncFd::register(fd) }.map_err(std::io::Error::from).doing(doing)?;
        let watch = Self { tree: Root::beneath(path)?, events, inotify };
        watch.add(Path::new(""))?;
        Ok(watch)
    }

    /// Directories that are watched already stay so.
    fn add(&self, dir: &Path) -> Result<()> {
        let doing = || format!("cannot watch {}", self.tree.path().join(dir).display());
        let (fd, _) = self.tree.handle(dir).doing(doing)?;
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        match self.inotify.add_watch(&own_path(&fd), flags) {
            Err(Errno::ENOSPC) => {
                return Err(Error::new("this user watches too much already"))
                    .doing(doing)
                    .map_err(|e| e.hint("as root: sysctl -w fs.inotify.max_user_watches=1048576"));
            }
            added => added.doing(doing)?,
        };
        for name in self.tree.names(dir).doing(doing)? {
            let path = dir.join(&name);
            // What is gone by now needs no watch.
            let kind = self.tree.entry(&path).map(|(_, stat)| FileType::from_raw_mode(stat.st_mode));
            if matches!(kind, Ok(FileType::Directory)) && name != REPOSITORY {
                match self.add(&path) {
                    Err(_) if self.tree.entry(&path).is_err() => {}
                    added => added?,
                }
            }
        }
        Ok(())
    }

    /// Waits for a change, and until no other has followed for this long.
    pub async fn changed(&mut self, settled: Duration) -> Result<()> {
        self.next().await?;
        while tokio::time::timeout(settled, self.next()).await.is_ok() {}
        self.add(Path::new(""))
    }

    async fn next(&self) -> Result<()> {
        let doing = || format!("cannot watch {}", self.tree.path().display());
        loop {
            let mut ready = self.events.readable().await.doing(doing)?;
            match self.inotify.read_events() {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                events => return events.map(drop).doing(doing),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn every_save_is_heard_and_gits_own_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::create_dir_all(top.join(".git")).unwrap();
        let mut watch = TreeWatch::new(top).unwrap();
        let settled = Duration::from_millis(20);
        fs::write(top.join(".git/index"), "x").unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(100), watch.changed(settled)).await.is_err());
        fs::write(top.join("a/b/f"), "x").unwrap();
        watch.changed(settled).await.unwrap();
        // Also in what was made since.
        fs::create_dir(top.join("a/c")).unwrap();
        watch.changed(settled).await.unwrap();
        fs::write(top.join("a/c/f.new"), "x").unwrap();
        fs::rename(top.join("a/c/f.new"), top.join("a/c/f")).unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.changed(settled)).await.unwrap().unwrap();
    }
}
