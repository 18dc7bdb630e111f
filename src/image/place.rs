//! Where something is put in an image's tree: directories that are made for it, and owner, mode and time of what is made.

use super::EPOCH;
use super::copy::Plan;
use super::mode::Mode as Chmod;
use crate::error::{Doing as _, Error, Result};
use crate::rooted::{Root, clear, own_path, remove_tree};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, chmodat, chownat, linkat, mkdirat, mknodat, openat,
    symlinkat, utimensat,
};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// An image's tree, and what is said of a destination in it.
pub(super) struct Place<'a> {
    root: Root,
    plan: &'a Plan,
}

impl<'a> Place<'a> {
    pub(super) fn new(root: Root, plan: &'a Plan) -> Self {
        Self { root, plan }
    }

    fn dest(&self) -> &Path {
        Path::new(&self.plan.dest)
    }

    /// Where a path leads; of `--link`, whatever is no directory on the way goes first.
    fn resolved(&self, path: &Path) -> Result<PathBuf> {
        if self.plan.link {
            let mut so_far = PathBuf::new();
            for part in path.iter().filter(|part| *part != "/") {
                so_far.push(part);
                let in_the_way = self
                    .root
                    .entry(&so_far)
                    .is_ok_and(|(_, stat)| FileType::from_raw_mode(stat.st_mode) != FileType::Directory);
                if in_the_way {
                    self.root.remove(&so_far)?;
                }
            }
            return Ok(path.to_owned());
        }
        self.root.resolved(path).doing(|| format!("cannot follow {}", path.display()))
    }

    /// The destination as a directory.
    pub(super) fn directory(&self) -> Result<OwnedFd> {
        self.open(&self.resolved(self.dest())?)
    }

    /// The destination as a tree of its own: links in it lead nowhere else.
    pub(super) fn top(&self) -> Result<Root> {
        self.root.sub(&Path::new("/").join(self.resolved(self.dest())?))
    }

    /// Whether the destination is a directory already.
    pub(super) fn is_dir(&self) -> bool {
        !self.plan.link && self.root.is_dir(self.dest())
    }

    /// The directory and the name for a file; `into`: the destination is a directory, as one that is there is too.
    pub(super) fn of_file(&self, name: &OsStr, into: bool) -> Result<(OwnedFd, OsString)> {
        if into || self.is_dir() {
            return Ok((self.directory()?, name.to_owned()));
        }
        let path = if self.plan.link {
            self.resolved(self.dest().parent().unwrap_or(Path::new("/")))?.join(self.dest().file_name().unwrap_or(name))
        } else {
            self.resolved(self.dest())?
        };
        let dir = self.open(path.parent().unwrap_or(Path::new("/")))?;
        Ok((dir, path.file_name().unwrap_or(name).to_owned()))
    }

    /// Opens a directory; those that are made for it are like what goes there, and have a time that is the same each day.
    fn open(&self, path: &Path) -> Result<OwnedFd> {
        let path = Path::new("/").join(path);
        let (dir, made) = self.root.make_dir(&path)?;
        let owner = self.plan.owner.unwrap_or((0, 0));
        let mode = Chmod::of_made(self.plan.mode.as_ref());
        set_made(&self.root, &made, owner, mode)?;
        Ok(dir)
    }

    /// A directory below the destination that is known to be there.
    pub(super) fn below(dest: &OwnedFd, below: &Path) -> io::Result<OwnedFd> {
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        let inside = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
        Ok(rustix::fs::openat2(dest, below, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), inside)?)
    }

    /// A directory in another one; something else in its place stays.
    pub(super) fn make_dir(&self, parent: &OwnedFd, name: &OsStr, below: &Path) -> Result<OwnedFd> {
        let path = self.dest().join(below);
        let doing = || format!("cannot make the directory {}", path.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..2 {
            match mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(io::Error::from(e)).doing(doing),
            }
            match openat(parent, name, flags, Mode::empty()) {
                Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) if self.plan.link => {
                    remove_tree(parent, name).doing(doing)?;
                }
                Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                    return Err(in_the_way(parent, name, &path));
                }
                dir => return dir.map_err(io::Error::from).doing(doing),
            }
        }
        Err(Error::new("it was made and is gone")).doing(doing)
    }

    /// Removes what a file takes the place of; a directory stays.
    pub(super) fn clear(&self, dir: &OwnedFd, name: &OsStr) -> Result<()> {
        match clear(dir, name) {
            Err(e) if e.kind() == io::ErrorKind::IsADirectory && self.plan.link => {
                remove_tree(dir, name).doing(|| format!("cannot remove {}", name.display()))
            }
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => Err(Error::new(format!(
                "{} is a directory in the image, and a file cannot take its place",
                name.display()
            ))
            .hint("copy to a path in it, or remove it with RUN first")),
            outcome => outcome.doing(|| format!("cannot replace {}", name.display())),
        }
    }

    /// A directory has got something: its time is the same each day.
    pub(super) fn leave(dir: &OwnedFd) -> io::Result<()> {
        Self::date(dir, OsStr::new("."), EPOCH)
    }

    pub(super) fn own(dir: &OwnedFd, name: &OsStr, (uid, gid): (u32, u32)) -> io::Result<()> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        Ok(chownat(dir.as_fd(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Not for a link.
    pub(super) fn chmod(dir: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())?)
    }

    /// In seconds since 1970.
    pub(super) fn date(dir: &OwnedFd, name: &OsStr, seconds: i64) -> io::Result<()> {
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        Ok(utimensat(dir.as_fd(), name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// A path of this process to something in a directory that it has open; the name may be gone later.
    pub(super) fn path(dir: &OwnedFd, name: &OsStr) -> io::Result<PathBuf> {
        Ok(std::fs::read_link(own_path(dir))?.join(name))
    }

    /// Gives something of ours a second name. Nobody else is at work in the tree.
    pub(super) fn link(first: &Path, dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
        Ok(linkat(rustix::fs::CWD, first, dir, name, AtFlags::empty())?)
    }

    pub(super) fn write(from: &mut (impl Read + ?Sized), dir: &OwnedFd, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(dir, name, flags, Mode::from_raw_mode(0o600))?);
        io::copy(from, &mut file)?;
        Ok(file)
    }

    pub(super) fn set_attributes(file: &File, attributes: &[(OsString, Vec<u8>)]) -> io::Result<()> {
        use xattr::FileExt as _;
        attributes.iter().try_for_each(|(name, value)| file.set_xattr(name, value))
    }

    pub(super) fn symlink(target: &OsStr, dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
        Ok(symlinkat(target, dir, name)?)
    }

    /// A FIFO or a device.
    pub(super) fn special(dir: &OwnedFd, name: &OsStr, kind: FileType, device: u64) -> io::Result<()> {
        if kind == FileType::CharacterDevice && device == 0 {
            return Err(io::Error::other("it is the device 0:0, which layers use for what is deleted"));
        }
        mknodat(dir, name, kind, Mode::from_raw_mode(0o600), device).map_err(|e| match e {
            rustix::io::Errno::PERM => io::Error::other("without root no device can be made"),
            e => e.into(),
        })
    }
}

/// Owner, mode and time of directories that were made, and the time of what has got them: from the inside out, since it must come
/// after their children.
pub(super) fn set_made(root: &Root, made: &[PathBuf], owner: (u32, u32), mode: u32) -> Result<()> {
    for path in made.iter().rev() {
        let (dir, _) = root.make_dir(path)?;
        let (parent, _) = root.make_dir(path.parent().unwrap_or(Path::new("/")))?;
        let set = || -> io::Result<()> {
            Place::own(&dir, OsStr::new("."), owner)?;
            Place::chmod(&dir, OsStr::new("."), mode)?;
            Place::date(&dir, OsStr::new("."), EPOCH)?;
            Place::date(&parent, OsStr::new("."), EPOCH)
        };
        set().doing(|| format!("cannot set owner, mode and time of {}", path.display()))?;
    }
    Ok(())
}

fn in_the_way(dir: &OwnedFd, name: &OsStr, path: &Path) -> Error {
    let target = rustix::fs::readlinkat(dir, name, Vec::new());
    let what = target.map_or_else(|_| "no directory".into(), |to| format!("a link to {}", to.to_string_lossy()));
    Error::new(format!("{} is {what} in the image, and a directory cannot take its place", path.display()))
        .hint("copy to where it leads, or use --link")
}
