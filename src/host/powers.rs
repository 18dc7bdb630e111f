//! What only root may do on this machine, for what is made of a cluster: a trait, so that all the rest can be tried without root.

use super::mounts;
use super::namespaces::{Map, MountCopy, UserNamespace};
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
    /// Shows what is open at a place of ours. The value is what of it is not with the owners that it should have.
    fn pin(&self, opened: &OwnedFd, place: &Path, owners: &Owners) -> Result<Option<Plain>>;
    /// Mounts an overlay.
    fn overlay(&self, options: &str, place: &Path) -> Result<()>;
    /// Gives a file or directory to an account and its group.
    fn give(&self, file: &File, id: u32) -> Result<()>;
}

/// As whose a folder's files are shown to who has them from us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owners {
    /// As they are.
    Plain,
    /// The same, and nobody who has it from us can make it writable.
    Locked,
    /// As those of a node's ids; nobody there can make a read-only one writable.
    Shown {
        /// Which are whose.
        map: Map,
        /// Whether it is one.
        read_only: bool,
    },
}

/// What could not be shown with other owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    /// Only what is mounted below it.
    pub below: bool,
    /// Why.
    pub why: String,
}

fn pin_locked(opened: &OwnedFd, place: &Path) -> Result<()> {
    rooted::make_place(opened, place)?;
    let copy = MountCopy::of(opened, true).doing(|| format!("cannot mount {}", place.display()))?;
    copy.lock_read_only().doing(|| format!("cannot make {} read-only", place.display()))?;
    copy.attach(place)
}

fn pin_shown(opened: &OwnedFd, place: &Path, map: &Map, read_only: bool) -> Result<Option<Plain>> {
    let doing = || format!("cannot mount {}", place.display());
    rooted::make_place(opened, place)?;
    let namespace = UserNamespace::new(map)?.open()?;
    let copy = MountCopy::of(opened, true).doing(doing)?;
    // What is mounted below it may be of a kind that cannot: then all of that is as it is.
    let refused = copy.show_as(&namespace, true).err();
    let below = refused.is_some() && copy.show_as(&namespace, false).is_ok();
    if read_only {
        copy.lock_read_only().doing(doing)?;
    }
    copy.attach(place)?;
    Ok(refused.map(|e| Plain { below, why: e.to_string() }))
}

/// This process's own.
#[derive(Debug)]
pub struct Own;

impl Powers for Own {
    fn disarm(&self, dir: &Path) -> Result<()> {
        mounts::disarm(dir)
    }

    fn pin(&self, opened: &OwnedFd, place: &Path, owners: &Owners) -> Result<Option<Plain>> {
        match owners {
            Owners::Plain => rooted::pin(opened, place).map(|()| None),
            Owners::Locked => pin_locked(opened, place).map(|()| None),
            Owners::Shown { map, read_only } => pin_shown(opened, place, map, *read_only),
        }
    }

    fn overlay(&self, options: &str, place: &Path) -> Result<()> {
        mount(Some("overlay"), place, Some("overlay"), MsFlags::empty(), Some(options))
            .doing(|| format!("cannot mount {}", place.display()))
    }

    fn give(&self, file: &File, id: u32) -> Result<()> {
        std::os::unix::fs::fchown(file, Some(id), Some(id)).doing(|| format!("cannot give a file to account {id}"))
    }
}
