//! A tar into a tree: the layers of images, and what ADD unpacks.
//!
//! Whatever the tar holds, nothing outside the tree is touched: every path is resolved in the kernel as if the tree were `/`. What is
//! there under a name gives way, but for a directory that both have.

use super::mode::Mode as Chmod;
use super::pattern::Patterns;
use crate::error::{Doing as _, Error, Result};
use crate::rooted::{Root, children, remove_tree};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, chownat, mkdirat, openat, symlinkat, utimensat,
};
use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use tar::{Entry, EntryType};

/// What an archive may unpack to where nothing else is said, in bytes: nobody's comes near.
pub(super) const LIMIT: u64 = 64 << 30;

/// What Linux lets a file have, in bytes.
const ATTRIBUTES: usize = 64 << 10;

/// What an entry counts beyond its content, in bytes: an archive of empty files fills a disk as well.
const ENTRY: u64 = 4096;

/// Reads up to so many bytes.
pub(super) struct Limited<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R> Limited<R> {
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Self { inner, left: limit, limit }
    }
}

/// Bytes in a unit that makes them few.
fn shown(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().find(|(shift, _)| bytes >> shift != 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| format!("{bytes} bytes"), |(shift, name)| format!("{} {name}", bytes >> shift))
}

fn too_large(limit: u64) -> io::Error {
    io::Error::other(format!("it unpacks to more than {}", shown(limit)))
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| too_large(self.limit))?;
        Ok(n)
    }
}

/// What the tar is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A layer in OCI form: names that begin with `.wh.` are deletions, and devices, times and attributes are kept.
    Layer,
    /// A tar of the user's, with an owner for everything if one is given. Directories that it does not name have this time.
    Added { owner: Option<(u32, u32)>, time: i64 },
}

/// Where it goes, and what has gone there.
pub(super) struct Extractor {
    root: Root,
    at: PathBuf,
    kind: Kind,
    /// What the tar has brought so far: an opaque directory loses only what comes from below.
    placed: HashSet<PathBuf>,
    /// Their modes and times are set at the end, because a directory may be closed to what comes after it.
    directories: Vec<(PathBuf, Meta)>,
    /// Directories that the tar does not name, and that have got something.
    parents: BTreeSet<PathBuf>,
    /// How many bytes the names alone may still take.
    room: u64,
    limit: u64,
    /// What is left out.
    not: Patterns,
    /// Mode of everything, if given.
    mode: Option<Chmod>,
}

#[derive(Debug, Clone, Default)]
struct Meta {
    mode: u32,
    uid: u32,
    gid: u32,
    time: i64,
    attributes: Vec<(OsString, Vec<u8>)>,
}

impl Meta {
    fn of<R: Read>(entry: &mut Entry<'_, R>, kind: Kind) -> io::Result<Self> {
        let number = |n: u64| u32::try_from(n).map_err(|_| io::Error::other(format!("{n} is no user or group id")));
        let header = entry.header();
        let (mode, uid, gid) = (header.mode()? & 0o7777, header.uid().and_then(number), header.gid().and_then(number));
        let time = header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0);
        let attributes = attributes(entry, kind)?;
        let (uid, gid) = match kind {
            Kind::Layer => (uid?, gid?),
            // Not every program writes them.
            Kind::Added { owner, .. } => owner.unwrap_or_else(|| (uid.unwrap_or(0), gid.unwrap_or(0))),
        };
        Ok(Self { mode, uid, gid, time, attributes })
    }
}

/// Whether an attribute is of the file, and not of the filesystem that it is on or of the machine's rules.
pub(super) fn is_portable(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
}

/// Extended attributes, as pax records have them.
fn attributes<R: Read>(entry: &mut Entry<'_, R>, kind: Kind) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let of_overlays = |name: &[u8]| name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    let is_kept = |name: &[u8]| if matches!(kind, Kind::Layer) { !of_overlays(name) } else { is_portable(name) };
    let (mut attributes, mut size) = (Vec::new(), 0);
    for record in entry.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        if let Some(name) = record.key_bytes().strip_prefix(b"SCHILY.xattr.").filter(|name| is_kept(name)) {
            size += name.len() + record.value_bytes().len();
            if size > ATTRIBUTES {
                return Err(io::Error::other(format!("it has more than {ATTRIBUTES} bytes of attributes")));
            }
            attributes.push((OsStr::from_bytes(name).to_owned(), record.value_bytes().to_vec()));
        }
    }
    Ok(attributes)
}

impl Extractor {
    pub(super) fn new(root: Root, at: &Path, kind: Kind, limit: u64) -> Self {
        let (placed, directories, parents) = (HashSet::new(), Vec::new(), BTreeSet::new());
        Self {
            root,
            at: at.into(),
            kind,
            placed,
            directories,
            parents,
            room: limit,
            limit,
            not: Patterns::default(),
            mode: None,
        }
    }

    /// Leaves something out, and changes the modes of the rest.
    pub(super) fn with(self, not: Patterns, mode: Option<Chmod>) -> Self {
        Self { not, mode, ..self }
    }

    /// Unpacks all of it.
    pub(super) fn unpack<R: Read>(&mut self, archive: &mut tar::Archive<R>) -> Result<()> {
        for entry in archive.entries().doing(|| "it is no tar".into())? {
            let mut entry = entry.doing(|| "it is damaged".into())?;
            self.room = self.room.checked_sub(ENTRY).ok_or_else(|| Error::new(too_large(self.limit).to_string()))?;
            let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
            if self.not.matches(&super::pattern::cleaned(&name.to_string_lossy())) {
                continue;
            }
            self.place(&mut entry, &name).doing(|| format!("cannot unpack {}", name.display()))?;
        }
        self.finish()
    }

    fn place<R: Read>(&mut self, entry: &mut Entry<'_, R>, name: &Path) -> Result<()> {
        let path = inside(name).ok_or_else(|| Error::new("it leads out of the tree that it is unpacked in"))?;
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let mut meta = Meta::of(entry, self.kind).doing(|| "bad header".into())?;
        if let Some(mode) = self.mode.as_ref().filter(|_| !kind.is_symlink()) {
            meta.mode = mode.of(meta.mode, kind.is_dir());
        }
        let Some(file_name) = path.file_name().map(OsStr::to_owned) else {
            // The tree's own top.
            self.directories.push((self.at.clone(), Meta { attributes: Vec::new(), ..meta }));
            return Ok(());
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        let dir = self.parent(&self.at.join(parent), &meta)?;
        if matches!(self.kind, Kind::Layer) {
            if file_name == ".wh..wh..opq" {
                return self.empty(&dir, parent).doing(|| "cannot empty it".into());
            }
            if let Some(gone) = file_name.as_bytes().strip_prefix(b".wh.") {
                if matches!(gone, b"" | b"." | b"..") {
                    return Err(Error::new("it is no deletion of anything"));
                }
                return remove_tree(&dir, OsStr::from_bytes(gone)).doing(|| "cannot remove it".into());
            }
        }
        if matches!(self.kind, Kind::Layer) {
            self.placed.extend(path.ancestors().map(Path::to_owned));
        }
        self.create(entry, kind, &dir, &file_name, &meta).doing(|| "cannot create it".into())?;
        if kind.is_dir() {
            self.directories.push((self.at.join(path), Meta { attributes: Vec::new(), ..meta }));
        }
        Ok(())
    }

    /// The directory that something goes into. One that has to be made first is like what goes there.
    fn parent(&mut self, path: &Path, like: &Meta) -> Result<OwnedFd> {
        let (dir, made) = self.root.make_dir(path)?;
        if let Kind::Added { .. } = self.kind {
            for path in made {
                let (dir, _) = self.root.make_dir(&path)?;
                own(&dir, OsStr::new("."), like).doing(|| format!("cannot set the owner of {}", path.display()))?;
                self.parents.extend(path.parent().map(Path::to_owned));
            }
            self.parents.insert(path.into());
        }
        Ok(dir)
    }

    fn empty(&self, dir: &OwnedFd, path: &Path) -> io::Result<()> {
        let open = openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for name in children(&open)? {
            if !self.placed.contains(&path.join(&name)) {
                remove_tree(&open, &name)?;
            }
        }
        Ok(())
    }

    fn create<R: Read>(
        &self,
        entry: &mut Entry<'_, R>,
        kind: EntryType,
        dir: &OwnedFd,
        name: &OsStr,
        meta: &Meta,
    ) -> io::Result<()> {
        if kind.is_dir() {
            make_dir(dir, name)?;
            // Now, and not at the end with the rest of it: they would be kept until then.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            return set_attributes(&File::from(openat(dir, name, flags, Mode::empty())?), meta);
        }
        remove_tree(dir, name)?;
        if kind.is_hard_link() {
            return self.link(entry, dir, name);
        }
        if kind.is_file() {
            return write_file(entry, dir, name, meta);
        }
        if kind.is_symlink() {
            let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
            symlinkat(OsStr::from_bytes(&target), dir, name)?;
        } else {
            make_special(entry, kind, dir, name, meta)?;
        }
        own(dir, name, meta)?;
        set_time(dir, name, meta.time)
    }

    /// A second name of something: it has owner, mode and times already.
    fn link<R: Read>(&self, entry: &Entry<'_, R>, dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let target = entry.link_name()?.unwrap_or_default();
        let target = inside(target.strip_prefix("/").unwrap_or(&target))
            .ok_or_else(|| io::Error::other("it is a link that leads out of the tree that it is unpacked in"))?;
        let target = self.at.join(target);
        let (parent, file) = (target.parent().unwrap_or(Path::new("/")), target.file_name().unwrap_or_default());
        let (from, _) = self.root.make_dir(parent).map_err(|e| io::Error::other(e.to_string()))?;
        Ok(rustix::fs::linkat(&from, file, dir, name, AtFlags::empty())?)
    }

    fn finish(&mut self) -> Result<()> {
        // From the inside out, so that setting one does not touch the time of another.
        for (path, meta) in std::mem::take(&mut self.directories).into_iter().rev() {
            self.parents.remove(&path);
            let (dir, _) = self.root.make_dir(&path)?;
            let set = || {
                own(&dir, OsStr::new("."), &meta)?;
                rustix::fs::chmodat(&dir, ".", Mode::from_raw_mode(meta.mode), AtFlags::empty())?;
                set_time(&dir, OsStr::new("."), meta.time)
            };
            set().doing(|| format!("cannot set owner, mode and time of {}", path.display()))?;
        }
        let Kind::Added { time, .. } = self.kind else { return Ok(()) };
        for path in &self.parents {
            let (dir, _) = self.root.make_dir(path)?;
            set_time(&dir, OsStr::new("."), time).doing(|| format!("cannot set the time of {}", path.display()))?;
        }
        Ok(())
    }
}

/// A name in a tar, unless it leads somewhere else.
fn inside(name: &Path) -> Option<PathBuf> {
    let path: PathBuf = name.components().filter(|c| *c != Component::CurDir).collect();
    path.components().all(|c| matches!(c, Component::Normal(_))).then_some(path)
}

fn make_dir(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match mkdirat(dir, name, Mode::from_raw_mode(0o700)) {
        Err(rustix::io::Errno::EXIST) if is_dir(dir, name) => Ok(()),
        Err(rustix::io::Errno::EXIST) => {
            remove_tree(dir, name)?;
            Ok(mkdirat(dir, name, Mode::from_raw_mode(0o700))?)
        }
        outcome => Ok(outcome?),
    }
}

fn write_file(from: &mut impl Read, dir: &OwnedFd, name: &OsStr, meta: &Meta) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(dir, name, flags, Mode::from_raw_mode(0o600))?);
    io::copy(from, &mut file)?;
    own(dir, name, meta)?;
    // After chown, which clears set-id bits and capabilities.
    file.set_permissions(Permissions::from_mode(meta.mode))?;
    set_attributes(&file, meta)?;
    set_time(dir, name, meta.time)
}

fn make_special<R: Read>(
    entry: &Entry<'_, R>,
    kind: EntryType,
    dir: &OwnedFd,
    name: &OsStr,
    meta: &Meta,
) -> io::Result<()> {
    let file_type = match kind {
        EntryType::Fifo => FileType::Fifo,
        EntryType::Char => FileType::CharacterDevice,
        EntryType::Block => FileType::BlockDevice,
        _ => return Err(io::Error::other(format!("entries of type {kind:?} are not supported"))),
    };
    // Not every program writes them for a FIFO.
    let number = |number: io::Result<Option<u32>>| number.ok().flatten().unwrap_or(0);
    let (major, minor) = (number(entry.header().device_major()), number(entry.header().device_minor()));
    if kind == EntryType::Char && (major, minor) == (0, 0) {
        return Err(io::Error::other("it is the device 0:0, which layers use for what is deleted"));
    }
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(dir, name, file_type, Mode::from_raw_mode(meta.mode), device)?;
    Ok(rustix::fs::chmodat(dir, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())?)
}

fn is_dir(dir: &OwnedFd, name: &OsStr) -> bool {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
}

fn own(dir: &OwnedFd, name: &OsStr, meta: &Meta) -> io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(meta.uid), rustix::fs::Gid::from_raw(meta.gid));
    Ok(chownat(dir.as_fd(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn set_attributes(file: &File, meta: &Meta) -> io::Result<()> {
    use xattr::FileExt as _;
    meta.attributes.iter().try_for_each(|(name, value)| file.set_xattr(name, value))
}

/// In seconds since 1970.
fn set_time(dir: &OwnedFd, name: &OsStr, seconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(dir.as_fd(), name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
