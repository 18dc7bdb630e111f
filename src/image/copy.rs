//! COPY and ADD: which files of the build context, what they hash to, and how they enter the tree.
//!
//! Whatever the context or a tar file holds, nothing outside the image's root is touched.

use super::EPOCH;
use super::extract::{Extractor, Kind, Limited};
use crate::error::{Doing as _, Error, Result};
use crate::rooted::{Root, clear, link_target, open_plain};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, chownat, mkdirat, openat, symlinkat, utimensat,
};
use sha2::{Digest as _, Sha256};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// What is copied where.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The build context.
    pub context: Arc<Root>,
    /// Source files and directories in it, sorted.
    pub sources: Vec<PathBuf>,
    /// Absolute path in the image; a trailing slash means a directory.
    pub dest: String,
    /// Whether tar files are unpacked.
    pub unpack: bool,
    /// Owner of everything; without one it is root's, but for what a tar file brings.
    pub owner: Option<(u32, u32)>,
    /// Mode of everything, if given.
    pub mode: Option<u32>,
}

/// Finds the sources of an instruction in its context.
pub fn sources(context: &Root, patterns: &[String]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for pattern in patterns {
        let at = context.path().display();
        let outside = || Error::new(format!("{pattern:?} leads out of the build context {at}"));
        let parts: Vec<Component<'_>> = Path::new(pattern)
            .components()
            .filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir))
            .collect();
        if parts.contains(&Component::ParentDir) {
            return Err(outside());
        }
        let matches = matching(context, pattern, &parts)?;
        if matches.is_empty() {
            return Err(Error::new(format!("there is no {pattern:?} in the build context {at}")));
        }
        for path in &matches {
            context.handle(path).map_err(|e| match e.raw_os_error() {
                Some(nix::libc::EXDEV | nix::libc::ELOOP) => outside(),
                _ => Error::new(format!("cannot open {} in the build context {at}: {e}", path.display())),
            })?;
        }
        found.extend(matches);
    }
    Ok(found)
}

/// What a pattern means, part by part.
fn matching(context: &Root, pattern: &str, parts: &[Component<'_>]) -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for part in parts {
        let text = part.as_os_str().to_string_lossy();
        found = if text.contains(['*', '?', '[']) {
            let wanted = glob::Pattern::new(&text).map_err(|e| Error::new(format!("bad pattern {pattern:?}: {e}")))?;
            // A plain file has no names in it.
            let names = |dir: &PathBuf| context.names(dir).unwrap_or_default();
            let children = |dir: PathBuf| names(&dir).into_iter().map(move |name| dir.join(name));
            let named = |path: &PathBuf| path.file_name().is_some_and(|n| wanted.matches(&n.to_string_lossy()));
            found.into_iter().flat_map(children).filter(named).collect()
        } else {
            found.into_iter().map(|dir| dir.join(part)).collect()
        };
    }
    found.retain(|path| context.entry(path).is_ok());
    Ok(found)
}

/// The content of the sources as one number: names, kinds, modes, targets and bytes; not times, not owners.
pub fn hash(plan: &Plan) -> Result<String> {
    let mut hash = Sha256::new();
    for source in &plan.sources {
        let doing = || format!("cannot read {}", source.display());
        let (fd, stat) = plan.context.handle(source).doing(doing)?;
        hash_entry(&mut hash, &plan.context, source, &fd, &stat).doing(doing)?;
    }
    Ok(hex::encode(hash.finalize()))
}

fn hash_entry(hash: &mut Sha256, context: &Root, path: &Path, fd: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    field(path.as_os_str().as_bytes());
    field(&(stat.st_mode & if kind == FileType::Symlink { 0o170_000 } else { 0o177_777 }).to_le_bytes());
    match kind {
        FileType::Symlink => field(link_target(fd)?.as_bytes()),
        FileType::Directory => {
            for child in context.names(path)? {
                let child = path.join(child);
                let (fd, stat) = context.entry(&child)?;
                hash_entry(hash, context, &child, &fd, &stat)?;
            }
        }
        FileType::RegularFile => {
            field(&stat.st_size.to_le_bytes());
            let mut file = open_plain(fd, stat)?;
            let mut buffer = vec![0; 64 << 10];
            while let n @ 1.. = file.read(&mut buffer)? {
                hash.update(&buffer[..n]);
            }
        }
        _ => {}
    }
    Ok(())
}

/// Puts the sources into the tree at `root`.
pub fn apply(plan: &Plan, root: &Path) -> Result<()> {
    let root = Root::open(root)?;
    let dest = Path::new(&plan.dest);
    let many = plan.sources.len() > 1 || plan.dest.ends_with('/');
    for source in &plan.sources {
        let doing = || format!("cannot copy {} to {}", source.display(), plan.dest);
        let (fd, stat) = plan.context.handle(source).doing(doing)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let dir = make_dir(&root, dest, plan)?;
            copy_children(source, &dir, plan).doing(doing)?;
            set_times(&dir, OsStr::new(".")).doing(doing)?;
        } else if plan.unpack && is_tar(&plan.context, source).doing(doing)? {
            make_dir(&root, dest, plan)?;
            let root = root.sub(Path::new("/"))?;
            unpack(source, root, dest, plan).doing(doing)?;
        } else {
            let name = source.file_name().unwrap_or_default();
            let (parent, name) = if many || root.is_dir(dest) {
                (dest, name)
            } else {
                (dest.parent().unwrap_or(Path::new("/")), dest.file_name().unwrap_or(name))
            };
            let dir = make_dir(&root, parent, plan)?;
            copy_file(&fd, &stat, &dir, name, plan).doing(doing)?;
            set_times(&dir, OsStr::new(".")).doing(doing)?;
        }
    }
    Ok(())
}

/// Makes a directory that is missing, so that it is the same each time.
pub fn directory(root: &Root, path: &Path) -> Result<()> {
    let (_, made) = root.make_dir(path)?;
    date(root, &made)
}

fn make_dir(root: &Root, path: &Path, plan: &Plan) -> Result<OwnedFd> {
    let (dir, made) = root.make_dir(path)?;
    for path in &made {
        let (dir, _) = root.make_dir(path)?;
        own(&dir, OsStr::new("."), plan).doing(|| format!("cannot set the owner of {}", path.display()))?;
    }
    date(root, &made)?;
    Ok(dir)
}

/// Gives directories that were made, and what has got them, their time: from the inside out, since it must come after their children.
fn date(root: &Root, made: &[PathBuf]) -> Result<()> {
    let with_parent = |path: &PathBuf| [path.clone(), path.parent().unwrap_or(Path::new("/")).to_owned()];
    for path in made.iter().rev().flat_map(with_parent) {
        let (dir, _) = root.make_dir(&path)?;
        set_times(&dir, OsStr::new(".")).doing(|| format!("cannot set the time of {}", path.display()))?;
    }
    Ok(())
}

fn copy_children(from: &Path, to: &OwnedFd, plan: &Plan) -> io::Result<()> {
    for name in plan.context.names(from)? {
        let path = from.join(&name);
        let (fd, stat) = plan.context.entry(&path)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                match mkdirat(to, &name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let dir = openat(to, &name, flags, Mode::empty())?;
                own(to, &name, plan)?;
                rustix::fs::fchmod(&dir, Mode::from_raw_mode(plan.mode.unwrap_or(stat.st_mode & 0o7777)))?;
                copy_children(&path, &dir, plan)?;
                set_times(to, &name)?;
            }
            FileType::Symlink => {
                clear(to, &name)?;
                symlinkat(link_target(&fd)?, to, &name)?;
                own(to, &name, plan)?;
                set_times(to, &name)?;
            }
            _ => copy_file(&fd, &stat, to, &name, plan)?,
        }
    }
    Ok(())
}

fn copy_file(from: &OwnedFd, stat: &Stat, to: &OwnedFd, name: &OsStr, plan: &Plan) -> io::Result<()> {
    let mut file = open_plain(from, stat).map_err(|e| {
        if e.raw_os_error().is_some() {
            e
        } else {
            io::Error::other(format!("{} is neither a file, a directory nor a link", name.display()))
        }
    })?;
    clear(to, name)?;
    let mode = plan.mode.unwrap_or(stat.st_mode & 0o7777);
    write_file(&mut file, to, name, mode, plan)
}

fn write_file(from: &mut impl Read, to: &OwnedFd, name: &OsStr, mode: u32, plan: &Plan) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(to, name, flags, Mode::from_raw_mode(0o600))?);
    io::copy(from, &mut file)?;
    own(to, name, plan)?;
    // After chown, which clears set-id bits.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    set_times(to, name)
}

fn own(dir: &OwnedFd, name: &OsStr, plan: &Plan) -> io::Result<()> {
    let (uid, gid) = plan.owner.unwrap_or((0, 0));
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    Ok(chownat(dir.as_fd(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn set_times(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let time = Timespec { tv_sec: EPOCH, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(dir.as_fd(), name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn is_tar(context: &Root, path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    context.file(path)?.take(6).read_to_end(&mut head)?;
    let compressed = [&b"BZh"[..], b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"].iter().any(|magic| head.starts_with(magic));
    if compressed && path.to_string_lossy().contains(".tar") {
        return Err(io::Error::other("ADD unpacks plain and gzip-compressed tar files only: use COPY and RUN tar"));
    }
    let mut archive = tar::Archive::new(opened(context, path)?);
    Ok(archive.entries()?.next().is_some_and(|e| e.is_ok()))
}

fn opened(context: &Root, path: &Path) -> io::Result<Box<dyn Read>> {
    let mut head = [0; 2];
    let n = context.file(path)?.read(&mut head)?;
    let file = io::BufReader::new(context.file(path)?);
    Ok(if n == 2 && head == [0x1f, 0x8b] { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) })
}

fn unpack(source: &Path, root: Root, dest: &Path, plan: &Plan) -> Result<()> {
    let opened = opened(&plan.context, source).doing(|| "cannot open it".into())?;
    let mut archive = tar::Archive::new(Limited::new(opened));
    Extractor::new(root, dest, Kind::Added { owner: plan.owner, time: EPOCH }).unpack(&mut archive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    fn plan(context: &Path, patterns: &[&str], dest: &str) -> Result<Plan> {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let context = Arc::new(Root::beneath(context)?);
        Ok(Plan {
            sources: sources(&context, &patterns)?,
            context,
            dest: dest.into(),
            unpack: true,
            owner: Some((nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw())),
            mode: None,
        })
    }

    #[test]
    fn sources_stay_in_the_context() {
        let dir = tempfile::tempdir().unwrap();
        let context = dir.path().join("c");
        fs::create_dir(&context).unwrap();
        fs::write(dir.path().join("secret"), "").unwrap();
        symlink("../secret", context.join("link")).unwrap();
        for bad in ["../secret", "link", "none", "x/../../secret"] {
            assert!(plan(&context, &[bad], "/").is_err(), "{bad}");
        }
        fs::write(context.join("a.sh"), "").unwrap();
        fs::write(context.join("b.sh"), "").unwrap();
        assert_eq!(plan(&context, &["*.sh"], "/").unwrap().sources.len(), 2);
        assert_eq!(plan(&context, &["/a.sh"], "/").unwrap().sources.len(), 1);
    }

    #[test]
    fn the_rules_of_copy() {
        let dir = tempfile::tempdir().unwrap();
        let (context, root) = (dir.path().join("c"), dir.path().join("r"));
        fs::create_dir_all(context.join("d/sub")).unwrap();
        fs::create_dir_all(root.join("have")).unwrap();
        fs::write(context.join("f"), "f").unwrap();
        fs::write(context.join("d/sub/g"), "g").unwrap();
        let copy = |patterns: &[&str], dest: &str| apply(&plan(&context, patterns, dest).unwrap(), &root).unwrap();
        copy(&["f"], "/new");
        copy(&["f"], "/dir/");
        copy(&["f"], "/have");
        copy(&["d"], "/tree");
        copy(&["f"], "/new");
        assert_eq!(fs::read(root.join("new")).unwrap(), b"f");
        assert_eq!(fs::read(root.join("dir/f")).unwrap(), b"f");
        assert_eq!(fs::read(root.join("have/f")).unwrap(), b"f");
        assert_eq!(fs::read(root.join("tree/sub/g")).unwrap(), b"g");
        assert_eq!(fs::metadata(root.join("tree/sub")).unwrap().mtime(), EPOCH);
        assert_eq!(fs::metadata(root.join("tree")).unwrap().mtime(), EPOCH);
    }

    #[test]
    fn the_hash_sees_content_and_mode_but_not_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let hash_now = || hash(&plan(dir.path(), &["f"], "/").unwrap()).unwrap();
        fs::write(&file, "1").unwrap();
        let first = hash_now();
        File::open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(hash_now(), first);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
        assert_ne!(hash_now(), first);
    }

    #[test]
    fn a_working_directory_is_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        fs::create_dir(dir.path().join("there")).unwrap();
        directory(&root, Path::new("/there/new/sub")).unwrap();
        let time = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mtime();
        assert_eq!([time("there"), time("there/new"), time("there/new/sub")], [EPOCH; 3]);
        directory(&root, Path::new("/there/new")).unwrap();
        assert_ne!(time(""), EPOCH, "nothing was made there");
    }

    #[test]
    fn a_hostile_tar_touches_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let (context, root) = (dir.path().join("c"), dir.path().join("r"));
        fs::create_dir(&context).unwrap();
        fs::create_dir(&root).unwrap();
        let write = |fill: &dyn Fn(&mut tar::Builder<File>)| {
            let mut builder = tar::Builder::new(File::create(context.join("x.tar")).unwrap());
            fill(&mut builder);
            builder.finish().unwrap();
        };
        let entry = |builder: &mut tar::Builder<File>, name: &[u8], kind: tar::EntryType, link: &str| {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o644);
            if !link.is_empty() {
                header.set_link_name_literal(link).unwrap();
            }
            header.set_cksum();
            builder.append(&header, io::empty()).unwrap();
        };
        let regular = tar::EntryType::Regular;
        write(&|b| entry(b, b"../evil", regular, ""));
        assert!(apply(&plan(&context, &["x.tar"], "/").unwrap(), &root).is_err());
        write(&|b| entry(b, b"dev", tar::EntryType::Char, ""));
        assert!(apply(&plan(&context, &["x.tar"], "/").unwrap(), &root).is_err());
        // Modes of directories arrive, closed ones too.
        write(&|b| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o1777);
            header.set_size(0);
            b.append_data(&mut header, "open/", io::empty()).unwrap();
            header.set_mode(0o500);
            b.append_data(&mut header, "closed/", io::empty()).unwrap();
            header.set_entry_type(regular);
            b.append_data(&mut header, "closed/f", io::empty()).unwrap();
        });
        apply(&plan(&context, &["x.tar"], "/").unwrap(), &root).unwrap();
        let mode = |name: &str| fs::metadata(root.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("open"), mode("closed")), (0o1777, 0o500));
        // A directory that both have stays, a link to one is followed, and nothing else takes its place. Times are the same each time,
        // also of what has changed.
        let directory = |b: &mut tar::Builder<File>, name: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            b.append_data(&mut header, name, io::empty()).unwrap();
        };
        fs::write(root.join("open/mine"), "").unwrap();
        symlink("open", root.join("link")).unwrap();
        write(&|b| {
            directory(b, "link/");
            entry(b, b"link/sub/f", regular, "");
            entry(b, b"open/g", regular, "");
        });
        apply(&plan(&context, &["x.tar"], "/").unwrap(), &root).unwrap();
        assert!(root.join("link").is_symlink() && root.join("open/mine").exists());
        for name in ["", "open", "open/sub", "open/sub/f", "open/g"] {
            assert_eq!(fs::metadata(root.join(name)).unwrap().mtime(), EPOCH, "{name}");
        }
        write(&|b| entry(b, b"open", regular, ""));
        assert!(apply(&plan(&context, &["x.tar"], "/").unwrap(), &root).is_err());
        assert!(root.join("open/mine").exists());
        // A link to the outside, then a file through it: the link is followed inside the root.
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        write(&|b| {
            entry(b, b"way", tar::EntryType::Symlink, outside.to_str().unwrap());
            entry(b, b"way/evil", regular, "");
        });
        let _ = apply(&plan(&context, &["x.tar"], "/").unwrap(), &root);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
