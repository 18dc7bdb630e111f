//! A layer's tar applied to the tree of the layers below: the way in for what was pulled or bootstrapped.
//!
//! The tree is a build step's root, so a deletion here becomes a whiteout there. Tars are hostile until proven otherwise:
//! every path is resolved as if the tree were `/`, and the whole must have the digest that the image promises.

use super::run::finish;
use crate::engine::{Images, Layer, chain_id};
use crate::error::{Context as _, Error, Result};
use crate::rooted::{Root, children, remove_tree};
use flate2::read::MultiGzDecoder;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, chownat, mkdirat, openat, symlinkat, utimensat,
};
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Entry, EntryType};

/// No layer of ours comes near; a small file that unpacks to more is an attack.
const LIMIT: u64 = 64 << 30;

/// Unpacks a layer whose blob was stored, on top of the layers below. Returns the chain id.
pub async fn unpack(images: &dyn Images, layer: &Layer, blob: &Path, parent: Option<&str>) -> Result<String> {
    let chain = chain_id(parent.into_iter().chain([layer.diff_id.as_str()])).expect("one layer at least");
    if images.has_chain(&chain).await? {
        return Ok(chain);
    }
    let step = images.begin_step(parent).await?;
    let (blob, diff_id, root) = (blob.to_owned(), layer.diff_id.clone(), step.root.clone());
    let applied = tokio::task::spawn_blocking(move || apply(&blob, &diff_id, &root)).await;
    let applied = applied.doing(|| format!("cannot unpack layer {}", layer.digest)).and_then(|applied| applied);
    finish(images, step, applied.map(|()| layer.clone())).await?;
    Ok(chain)
}

/// Hashes and counts what is read.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.bytes += n as u64;
        if self.bytes > LIMIT {
            return Err(io::Error::other("it unpacks to more than 64 GiB"));
        }
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

fn apply(blob: &Path, diff_id: &str, root: &Path) -> Result<()> {
    let doing = || format!("cannot unpack layer {diff_id}");
    let root = Root::open(root)?;
    let file = BufReader::with_capacity(1 << 20, File::open(blob).doing(doing)?);
    let mut archive = Archive::new(Hashing { inner: MultiGzDecoder::new(file), hash: Sha256::new(), bytes: 0 });
    let mut tree = Tree { root, placed: HashSet::new(), directories: Vec::new() };
    for entry in archive.entries().doing(doing)? {
        let mut entry = entry.doing(doing)?;
        let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        tree.place(&mut entry, &name).doing(|| format!("cannot unpack {} of layer {diff_id}", name.display()))?;
    }
    tree.finish().doing(doing)?;
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).doing(doing)?;
    let found = format!("sha256:{}", hex::encode(rest.hash.finalize()));
    if found != diff_id {
        return Err(Error::new(format!("its content has digest {found}"))).doing(doing);
    }
    Ok(())
}

struct Tree {
    root: Root,
    /// What this layer has brought so far: an opaque directory loses only what comes from below.
    placed: HashSet<PathBuf>,
    /// Their modes and times are set at the end, because a directory may be closed to what comes after it.
    directories: Vec<(PathBuf, Meta)>,
}

#[derive(Debug, Clone, Default)]
struct Meta {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: u64,
    attributes: Vec<(OsString, Vec<u8>)>,
}

impl Meta {
    fn of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Self> {
        let mut attributes = Vec::new();
        for record in entry.pax_extensions()?.into_iter().flatten() {
            let record = record?;
            if let Some(name) = record.key_bytes().strip_prefix(b"SCHILY.xattr.") {
                attributes.push((OsStr::from_bytes(name).to_owned(), record.value_bytes().to_vec()));
            }
        }
        let header = entry.header();
        let number = |n: u64| u32::try_from(n).map_err(|_| io::Error::other(format!("{n} is no user or group id")));
        Ok(Self {
            mode: header.mode()? & 0o7777,
            uid: number(header.uid()?)?,
            gid: number(header.gid()?)?,
            mtime: header.mtime()?,
            attributes,
        })
    }
}

impl Tree {
    fn place<R: Read>(&mut self, entry: &mut Entry<'_, R>, name: &Path) -> Result<()> {
        let path: PathBuf = name.components().filter(|c| *c != Component::CurDir).collect();
        if path.components().any(|c| !matches!(c, Component::Normal(_))) {
            return Err(Error::new("it leads out of the image"));
        }
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let meta = Meta::of(entry).doing(|| "bad header".into())?;
        let Some(file_name) = path.file_name().map(OsStr::to_owned) else {
            // The image's own top.
            self.directories.push((PathBuf::from("/"), meta));
            return Ok(());
        };
        let (dir, _) = self.root.make_dir(path.parent().unwrap_or(Path::new("/")))?;
        if file_name == ".wh..wh..opq" {
            return self.empty(&dir, path.parent().unwrap_or(Path::new(""))).doing(|| "cannot empty it".into());
        }
        if let Some(gone) = file_name.as_bytes().strip_prefix(b".wh.") {
            if matches!(gone, b"" | b"." | b"..") {
                return Err(Error::new("it is no deletion of anything"));
            }
            return remove_tree(&dir, OsStr::from_bytes(gone)).doing(|| "cannot remove it".into());
        }
        for part in path.ancestors() {
            self.placed.insert(part.to_owned());
        }
        self.create(entry, kind, &dir, &file_name, &meta).doing(|| "cannot create it".into())?;
        if kind.is_dir() {
            self.directories.push((path, meta));
        }
        Ok(())
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
            return match mkdirat(dir, name, Mode::from_raw_mode(0o700)) {
                Err(rustix::io::Errno::EXIST) if is_dir(dir, name) => Ok(()),
                Err(rustix::io::Errno::EXIST) => {
                    remove_tree(dir, name)?;
                    Ok(mkdirat(dir, name, Mode::from_raw_mode(0o700))?)
                }
                outcome => Ok(outcome?),
            };
        }
        remove_tree(dir, name)?;
        if kind.is_hard_link() {
            let target = entry.link_name()?.unwrap_or_default().into_owned();
            let (parent, file) = (target.parent().unwrap_or(Path::new("/")), target.file_name().unwrap_or_default());
            let (from, _) = self.root.make_dir(parent).map_err(|e| io::Error::other(e.to_string()))?;
            // The link is the same file: it has owner, mode and times already.
            return Ok(rustix::fs::linkat(&from, file, dir, name, AtFlags::empty())?);
        }
        if kind.is_file() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(openat(dir, name, flags, Mode::from_raw_mode(0o600))?);
            io::copy(entry, &mut file)?;
            own(dir, name, meta)?;
            // After chown, which clears set-id bits and capabilities.
            file.set_permissions(Permissions::from_mode(meta.mode))?;
            set_attributes(&file, meta)?;
            return set_time(dir, name, meta);
        }
        if kind.is_symlink() {
            let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
            symlinkat(OsStr::from_bytes(&target), dir, name)?;
        } else {
            let file_type = match kind {
                EntryType::Fifo => FileType::Fifo,
                EntryType::Char => FileType::CharacterDevice,
                EntryType::Block => FileType::BlockDevice,
                _ => return Err(io::Error::other(format!("entries of type {kind:?} are not supported"))),
            };
            let (major, minor) = (entry.header().device_major()?, entry.header().device_minor()?);
            let device = rustix::fs::makedev(major.unwrap_or(0), minor.unwrap_or(0));
            rustix::fs::mknodat(dir, name, file_type, Mode::from_raw_mode(meta.mode), device)?;
            rustix::fs::chmodat(dir, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())?;
        }
        own(dir, name, meta)?;
        set_time(dir, name, meta)
    }

    fn finish(&mut self) -> Result<()> {
        // From the inside out, so that setting one does not touch the time of another.
        for (path, meta) in std::mem::take(&mut self.directories).into_iter().rev() {
            let (dir, _) = self.root.make_dir(&path)?;
            let set = || {
                own(&dir, OsStr::new("."), &meta)?;
                rustix::fs::chmodat(&dir, ".", Mode::from_raw_mode(meta.mode), AtFlags::empty())?;
                let open = openat(&dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
                set_attributes(&File::from(open), &meta)?;
                set_time(&dir, OsStr::new("."), &meta)
            };
            set().doing(|| format!("cannot set owner, mode and time of {}", path.display()))?;
        }
        Ok(())
    }
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

fn set_time(dir: &OwnedFd, name: &OsStr, meta: &Meta) -> io::Result<()> {
    let time = Timespec { tv_sec: i64::try_from(meta.mtime).unwrap_or(0), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(dir.as_fd(), name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::fs;
    use tar::{Builder, Header};

    fn header(kind: EntryType, size: usize) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(0o640);
        header.set_mtime(1_000_000_000);
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header
    }

    /// Applies a layer with these entries: name, and content or, for a name that ends in a slash, nothing.
    fn layer(dir: &Path, entries: &[(&str, &str)]) -> Result<()> {
        let mut builder = Builder::new(Vec::new());
        for (name, text) in entries {
            let kind = if name.ends_with('/') { EntryType::Directory } else { EntryType::Regular };
            let mut header = header(kind, text.len());
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        }
        run(dir, builder)
    }

    fn run(dir: &Path, builder: Builder<Vec<u8>>) -> Result<()> {
        let tar = builder.into_inner().unwrap();
        let blob = dir.join("blob");
        let mut gzip = GzEncoder::new(File::create(&blob).unwrap(), Compression::fast());
        io::Write::write_all(&mut gzip, &tar).unwrap();
        gzip.finish().unwrap();
        apply(&blob, &crate::engine::sha256(&tar), &dir.join("root"))
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        dir
    }

    #[test]
    fn deletions_and_opaque_directories() {
        let dir = tree();
        let root = dir.path().join("root");
        layer(dir.path(), &[("d/", ""), ("d/old", "1"), ("d/sub/", ""), ("d/sub/x", "1"), ("gone", "1"), ("t/", "")])
            .unwrap();
        layer(dir.path(), &[(".wh.gone", ""), ("d/new", "2"), ("d/.wh..wh..opq", ""), ("t", "a file now")]).unwrap();
        assert!(!root.join("gone").exists());
        let names: Vec<_> = fs::read_dir(root.join("d")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["new"], "what came from below is gone, what this layer brought stays");
        assert_eq!(fs::read(root.join("t")).unwrap(), b"a file now");
        let meta = fs::metadata(root.join("d/new")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, 0o640);
        assert_eq!(std::os::unix::fs::MetadataExt::mtime(&meta), 1_000_000_000);
    }

    #[test]
    fn hostile_layers_stay_inside() {
        let dir = tree();
        assert!(layer(dir.path(), &[("../evil", "x")]).unwrap_err().to_string().contains("leads out of the image"));
        assert!(layer(dir.path(), &[("/evil", "x")]).is_err());
        for name in [".wh...", ".wh..", ".wh.", "d/.wh..."] {
            assert!(layer(dir.path(), &[("d/", ""), (name, "")]).is_err(), "{name}");
        }
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "1").unwrap();
        let mut builder = Builder::new(Vec::new());
        let mut link = header(EntryType::Symlink, 0);
        link.set_link_name_literal(outside.as_os_str().as_bytes()).unwrap();
        builder.append_data(&mut link, "way", io::empty()).unwrap();
        builder.append_data(&mut header(EntryType::Regular, 1), "way/evil", &b"x"[..]).unwrap();
        builder.append_data(&mut header(EntryType::Regular, 0), "way/.wh.secret", io::empty()).unwrap();
        let _ = run(dir.path(), builder);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        let mut builder = Builder::new(Vec::new());
        let mut hard = header(EntryType::Link, 0);
        hard.set_link_name_literal("../outside/secret").unwrap();
        builder.append_data(&mut hard, "stolen", io::empty()).unwrap();
        assert!(run(dir.path(), builder).is_err());
    }

    #[test]
    fn another_content_than_promised_is_refused() {
        let dir = tree();
        let blob = dir.path().join("blob");
        let mut gzip = GzEncoder::new(File::create(&blob).unwrap(), Compression::fast());
        io::Write::write_all(&mut gzip, &Builder::new(Vec::new()).into_inner().unwrap()).unwrap();
        gzip.finish().unwrap();
        let error = apply(&blob, "sha256:00", &dir.path().join("root")).unwrap_err();
        assert!(error.to_string().contains("its content has digest"), "{error}");
    }
}
