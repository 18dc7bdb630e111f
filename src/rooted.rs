//! Paths inside the tree of an image or a container: resolved by the kernel as if the tree were `/`, so that no link leads out of it.

use crate::error::{Context as _, Error, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, statat, unlinkat};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// A directory that stands for `/`.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens the directory.
    pub fn open(path: &Path) -> Result<Self> {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(std::io::Error::from)
            .doing(|| format!("cannot open {}", path.display()))?;
        Ok(Self { fd, path: path.into() })
    }

    fn at(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let relative = relative(path);
        openat2(self.fd.as_fd(), relative, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// Reads a file, following links inside the root.
    pub fn read(&self, path: &str) -> std::io::Result<String> {
        let mut text = String::new();
        File::from(self.at(Path::new(path), OFlags::RDONLY)?).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Whether there is a directory, following links inside the root.
    pub fn is_dir(&self, path: &Path) -> bool {
        self.at(path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
    }

    /// Mode of what is there, kind included, following links inside the root.
    pub fn mode(&self, path: &Path) -> Option<u32> {
        let fd = self.at(path, OFlags::PATH).ok()?;
        rustix::fs::fstat(&fd).ok().map(|stat| stat.st_mode)
    }

    /// Opens a directory, creating it and its parents. The second value lists those that were created.
    pub fn make_dir(&self, path: &Path) -> Result<(OwnedFd, Vec<PathBuf>)> {
        let doing = || format!("cannot create {} in {}", path.display(), self.path.display());
        let mut made = Vec::new();
        let mut so_far = PathBuf::from("/");
        let mut dir = self.at(&so_far, OFlags::PATH | OFlags::DIRECTORY).map_err(std::io::Error::from).doing(doing)?;
        for part in path.components() {
            let Component::Normal(name) = part else {
                if part == Component::ParentDir {
                    return Err(Error::new("`..` is not allowed here")).doing(doing);
                }
                continue;
            };
            so_far.push(name);
            dir = match self.at(&so_far, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(fd) => fd,
                Err(rustix::io::Errno::NOENT) => {
                    mkdirat(&dir, name, Mode::from_raw_mode(0o755)).map_err(std::io::Error::from).doing(doing)?;
                    made.push(so_far.clone());
                    self.at(&so_far, OFlags::PATH | OFlags::DIRECTORY).map_err(std::io::Error::from).doing(doing)?
                }
                Err(e) => return Err(std::io::Error::from(e)).doing(doing),
            };
        }
        Ok((dir, made))
    }
}

/// Removes what is there under this name, unless it is a directory.
pub fn clear(dir: &OwnedFd, name: &std::ffi::OsStr) -> std::io::Result<()> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Err(std::io::Error::from(rustix::io::Errno::ISDIR))
        }
        Ok(_) => Ok(unlinkat(dir, name, AtFlags::empty())?),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Removes what is there under this name, a directory with all that it holds.
pub fn remove_tree(dir: &OwnedFd, name: &std::ffi::OsStr) -> std::io::Result<()> {
    match clear(dir, name) {
        Err(e) if e.kind() == std::io::ErrorKind::IsADirectory => {}
        outcome => return outcome,
    }
    let inner =
        openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    for child in children(&inner)? {
        remove_tree(&inner, &child)?;
    }
    Ok(unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

/// Names in a directory that is open for reading.
pub fn children(dir: &OwnedFd) -> std::io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(std::ffi::OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

fn relative(path: &Path) -> &Path {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_do_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "inside").unwrap();
        symlink("/etc/passwd", dir.path().join("absolute")).unwrap();
        symlink("../../../../../../etc/passwd", dir.path().join("relative")).unwrap();
        symlink("/", dir.path().join("all")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(root.read("/absolute").unwrap(), "inside");
        assert_eq!(root.read("relative").unwrap(), "inside");
        root.make_dir(Path::new("/all/new/sub")).unwrap();
        assert!(dir.path().join("new/sub").is_dir());
        assert!(root.make_dir(Path::new("/../x")).is_err());
    }
}
