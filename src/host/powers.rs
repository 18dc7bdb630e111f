//! What only root may do on this machine, for what is made of a cluster: a trait, so that all the rest can be tried without root.

use super::mounts;
use crate::error::{Doing as _, Result};
use crate::rooted;
use nix::mount::{MsFlags, mount};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The things that need root.
pub trait Powers: Send + Sync {
    /// Mounts a directory onto itself so that set-uid programs and devices there mean nothing on the host.
    fn disarm(&self, dir: &Path) -> Result<()>;
    /// Shows what is open at a place of ours.
    fn pin(&self, opened: &OwnedFd, place: &Path) -> Result<()>;
    /// Mounts an overlay.
    fn overlay(&self, options: &str, place: &Path) -> Result<()>;
    /// Gives a file to an account and its group.
    fn give(&self, file: &File, id: u32) -> Result<()>;
}

/// This process's own.
#[derive(Debug)]
pub struct Own;

impl Powers for Own {
    fn disarm(&self, dir: &Path) -> Result<()> {
        mounts::disarm(dir)
    }

    fn pin(&self, opened: &OwnedFd, place: &Path) -> Result<()> {
        rooted::pin(opened, place)
    }

    fn overlay(&self, options: &str, place: &Path) -> Result<()> {
        mount(Some("overlay"), place, Some("overlay"), MsFlags::empty(), Some(options))
            .doing(|| format!("cannot mount {}", place.display()))
    }

    fn give(&self, file: &File, id: u32) -> Result<()> {
        std::os::unix::fs::fchown(file, Some(id), Some(id)).doing(|| format!("cannot give a file to account {id}"))
    }
}
