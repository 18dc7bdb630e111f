//! Paths inside a tree that is not ours: an image's, a node's, a user's folder. The kernel resolves them below one descriptor, so
//! that no link leads out, whoever changes the tree meanwhile; what is read is a plain file of bounded size.

use crate::error::{Doing as _, Error, Result};
use nix::mount::{MsFlags, mount};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, mkdirat, openat, openat2, statat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// No text that we read of somebody else's tree is larger, in bytes; the largest is dpkg's list of packages.
const LARGEST_TEXT: u64 = 64 << 20;

/// Links that are followed one after another; the kernel's own limit is 40.
const LINKS: usize = 40;

/// A directory, and what is below it.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
    resolve: ResolveFlags,
    /// The user and group that what is made here is for.
    owner: u32,
}

impl Root {
    /// The tree of an image or a node: links are followed as if the directory were `/`.
    pub fn open(path: &Path) -> Result<Self> {
        Self::with(path, OFlags::empty(), ResolveFlags::IN_ROOT)
    }

    /// A user's folder, which must not be a link itself: links that lead out of it are refused.
    pub fn beneath(path: &Path) -> Result<Self> {
        Self::with(path, OFlags::NOFOLLOW, ResolveFlags::BENEATH).map_err(|e| {
            let link = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
            if link { Error::new(format!("{} is a symbolic link", path.display())).hint(NO_LINKS) } else { e }
        })
    }

    fn with(path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | flags;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(io::Error::from)
            .doing(|| format!("cannot open {}", path.display()))?;
        Ok(Self { fd, path: path.into(), resolve, owner: 0 })
    }

    /// Has what is made here belong to a user and group of this number: a node's root has one of its own. 0 is who we are.
    pub fn given_to(self, owner: u32) -> Self {
        Self { owner, ..self }
    }

    fn give(&self, made: &impl AsFd) -> io::Result<()> {
        let owner = (self.owner != 0).then_some(self.owner);
        owner.map_or(Ok(()), |owner| std::os::unix::fs::fchown(made, Some(owner), Some(owner)))
    }

    /// A directory of this tree as a tree of its own, resolved in the same way.
    pub fn sub(&self, path: &Path) -> Result<Self> {
        let fd = self.at(path, OFlags::PATH | OFlags::DIRECTORY).map_err(|e| self.told(path, e))?;
        Ok(Self { fd, path: self.shown(path), resolve: self.resolve, owner: self.owner })
    }

    /// The same directory, whose links are followed as if it were `/`.
    pub fn as_top(&self) -> Result<Self> {
        let doing = || format!("cannot open {}", self.path.display());
        let fd = self.fd.try_clone().doing(doing)?;
        Ok(Self { fd, path: self.path.clone(), resolve: ResolveFlags::IN_ROOT, owner: self.owner })
    }

    /// Where a path leads in this tree once all links are followed, also where what they name is not there.
    pub fn resolved(&self, path: &Path) -> io::Result<PathBuf> {
        let parts = |path: &Path| path.components().rev().map(|c| c.as_os_str().to_owned()).collect::<Vec<_>>();
        let (mut todo, mut done, mut links) = (parts(path), PathBuf::new(), 0);
        while let Some(part) = todo.pop() {
            match part.as_bytes() {
                b"/" | b"." => continue,
                b".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(&part),
            }
            let (fd, stat) = match self.entry(&done) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                found => found?,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                links += 1;
                if links > LINKS {
                    return Err(rustix::io::Errno::LOOP.into());
                }
                let target = link_target(&fd)?;
                let target = Path::new(&target);
                done.pop();
                if target.is_absolute() {
                    done.clear();
                }
                todo.extend(parts(target));
            }
        }
        Ok(done)
    }

    /// Where it is on the host, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory as a file that can be locked.
    pub fn lockable(&self) -> Result<File> {
        let fd =
            self.at(Path::new("/"), OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| self.told(Path::new("/"), e))?;
        Ok(fd.into())
    }

    fn shown(&self, path: &Path) -> PathBuf {
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Why a path cannot be opened, in the user's words.
    fn told(&self, path: &Path, error: rustix::io::Errno) -> Error {
        let shown = self.shown(path);
        let told = Error::new(format!("cannot open {}: {}", shown.display(), explain(error)));
        if is_outward(error) { told.hint(NO_LINKS) } else { told }
    }

    fn at(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        loop {
            let relative = relative(path);
            match openat2(self.fd.as_fd(), relative, flags | OFlags::CLOEXEC, Mode::empty(), self.resolve) {
                // Something in the tree was renamed at this moment: the kernel wants to be asked again.
                Err(rustix::io::Errno::AGAIN) => {}
                outcome => return outcome,
            }
        }
    }

    /// Opens what is there without touching it: neither a FIFO nor a device notices.
    pub fn handle(&self, path: &Path) -> io::Result<(OwnedFd, Stat)> {
        let fd = self.at(path, OFlags::PATH)?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok((fd, stat))
    }

    /// The same of a link itself.
    pub fn entry(&self, path: &Path) -> io::Result<(OwnedFd, Stat)> {
        let fd = self.at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok((fd, stat))
    }

    /// Opens a plain file for reading, following links inside the tree. What is something else is refused before it is opened.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        let (fd, stat) = self.handle(path)?;
        open_plain(&fd, &stat)
    }

    /// Reads a text, following links inside the tree.
    pub fn read(&self, path: &str) -> io::Result<String> {
        let bytes = self.read_bytes(Path::new(path))?;
        String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
    }

    /// Reads a file of bounded size.
    pub fn read_bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(path)?.take(LARGEST_TEXT + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LARGEST_TEXT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it is larger than {} MiB", LARGEST_TEXT >> 20),
            ));
        }
        Ok(bytes)
    }

    /// Reads a text, with the path in the error; none when there is no such file.
    pub fn text(&self, path: &str) -> Result<Option<String>> {
        match self.read(path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.unreadable(path, &e)),
        }
    }

    fn unreadable(&self, path: &str, error: &io::Error) -> Error {
        let shown = self.shown(Path::new(path));
        let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
        let why = code.map_or_else(|| error.to_string(), explain);
        let told = Error::new(format!("cannot read {}: {why}", shown.display()));
        if code.is_some_and(is_outward) { told.hint(NO_LINKS) } else { told }
    }

    /// Reads a text that has to be there.
    pub fn needed(&self, path: &str) -> Result<String> {
        self.text(path)?.ok_or_else(|| self.unreadable(path, &io::Error::from_raw_os_error(nix::libc::ENOENT)))
    }

    /// Whether there is a directory, following links inside the tree.
    pub fn is_dir(&self, path: &Path) -> bool {
        self.at(path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
    }

    /// Whether there is a plain file, following links inside the tree.
    pub fn is_file(&self, path: &Path) -> bool {
        self.handle(path).is_ok_and(|(_, stat)| plain(&stat).is_ok())
    }

    /// Mode of what is there, kind included, following links inside the tree.
    pub fn mode(&self, path: &Path) -> Option<u32> {
        self.handle(path).ok().map(|(_, stat)| stat.st_mode)
    }

    /// Names in a directory, sorted.
    pub fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let mut names = children(&self.at(path, OFlags::RDONLY | OFlags::DIRECTORY)?)?;
        names.sort_unstable();
        Ok(names)
    }

    /// Opens a directory, creating it and its parents. The second value lists those that were created.
    pub fn make_dir(&self, path: &Path) -> Result<(OwnedFd, Vec<PathBuf>)> {
        let doing = || format!("cannot create {} in {}", path.display(), self.path.display());
        let mut made = Vec::new();
        let mut so_far = PathBuf::from("/");
        let mut dir = self.at(&so_far, OFlags::PATH | OFlags::DIRECTORY).map_err(io::Error::from).doing(doing)?;
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
                    match mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) => made.push(so_far.clone()),
                        // Another one made it at the same time, or it is a link to nothing: opening tells.
                        Err(rustix::io::Errno::EXIST) => {}
                        Err(e) => return Err(io::Error::from(e)).doing(doing),
                    }
                    let fd = self.at(&so_far, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| self.told(&so_far, e))?;
                    if made.last() == Some(&so_far) {
                        // The mode is said, not left to the umask.
                        rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755)).map_err(io::Error::from).doing(doing)?;
                        self.give(&fd).doing(doing)?;
                    }
                    fd
                }
                Err(e) => return Err(self.told(&so_far, e)),
            };
        }
        Ok((dir, made))
    }

    /// Puts a file in place of whatever is there, a directory apart.
    pub fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
        let doing = || format!("cannot write {}", self.shown(path).display());
        let (dir, _) = self.make_dir(path.parent().unwrap_or(Path::new("/")))?;
        let name = path.file_name().unwrap_or_default();
        let write = || -> io::Result<()> {
            clear(&dir, name)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(openat(&dir, name, flags, Mode::from_raw_mode(0o600))?);
            file.write_all(bytes)?;
            self.give(&file)?;
            Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
        };
        write().doing(doing)
    }

    /// Puts a link in place of whatever is there, a directory apart.
    pub fn link(&self, path: &Path, target: &Path) -> Result<()> {
        let doing = || format!("cannot make the link {}", self.shown(path).display());
        let (dir, _) = self.make_dir(path.parent().unwrap_or(Path::new("/")))?;
        let name = path.file_name().unwrap_or_default();
        let make = || -> io::Result<()> {
            clear(&dir, name)?;
            rustix::fs::symlinkat(target, &dir, name)?;
            let owner = (self.owner != 0).then_some(self.owner);
            let (user, group) = (owner.map(rustix::fs::Uid::from_raw), owner.map(rustix::fs::Gid::from_raw));
            Ok(rustix::fs::chownat(&dir, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?)
        };
        make().doing(doing)
    }

    /// Opens a plain file for appending, creating it: never a link's target, nor anything that blocks.
    pub fn append(&self, path: &Path, mode: u32) -> Result<File> {
        let doing = || format!("cannot open {}", self.shown(path).display());
        let (dir, _) = self.make_dir(path.parent().unwrap_or(Path::new("/")))?;
        let flags =
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat(&dir, path.file_name().unwrap_or_default(), flags, Mode::from_raw_mode(mode));
        let fd = fd.map_err(|e| self.told(path, e))?;
        plain(&rustix::fs::fstat(&fd).map_err(io::Error::from).doing(doing)?).doing(doing)?;
        Ok(fd.into())
    }

    /// Removes what is there, a directory with all that it holds. Nothing there is fine.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let doing = || format!("cannot remove {}", self.shown(path).display());
        let parent = path.parent().unwrap_or(Path::new("/"));
        let dir = match self.at(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            outcome => outcome.map_err(|e| self.told(parent, e))?,
        };
        remove_tree(&dir, path.file_name().unwrap_or_default()).doing(doing)
    }
}

/// What to do about links that are not followed.
const NO_LINKS: &str = "root follows no link that leads out of a folder of somebody else: remove it";

fn is_outward(error: rustix::io::Errno) -> bool {
    matches!(error, rustix::io::Errno::XDEV | rustix::io::Errno::LOOP)
}

fn explain(error: rustix::io::Errno) -> String {
    if is_outward(error) {
        "a symbolic link leads out of the folder".into()
    } else {
        io::Error::from(error).to_string()
    }
}

/// Opens for reading what a handle refers to.
pub fn open_plain(handle: &OwnedFd, stat: &Stat) -> io::Result<File> {
    plain(stat)?;
    File::open(own_path(handle))
}

/// The target of a link that a handle refers to.
pub fn link_target(handle: &OwnedFd) -> io::Result<OsString> {
    Ok(OsStr::from_bytes(rustix::fs::readlinkat(handle, "", Vec::new())?.to_bytes()).to_owned())
}

fn plain(stat: &Stat) -> io::Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(io::Error::from_raw_os_error(nix::libc::EISDIR)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file")),
    }
}

/// A path that means what a descriptor of this process refers to, whatever its name has become.
pub fn own_path(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Makes what something of its kind can be mounted on.
pub fn make_place(fd: &impl AsFd, place: &Path) -> Result<()> {
    let doing = || format!("cannot mount {}", place.display());
    let stat = rustix::fs::fstat(fd).map_err(io::Error::from).doing(doing)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        std::fs::create_dir_all(place).doing(doing)?;
    } else {
        std::fs::create_dir_all(place.parent().unwrap_or(Path::new("/"))).doing(doing)?;
        File::create(place).doing(doing)?;
    }
    Ok(())
}

/// Shows what a descriptor refers to at a place of ours, with what is mounted below it: others can then be given that place.
pub fn pin(fd: &impl AsFd, place: &Path) -> Result<()> {
    let doing = || format!("cannot mount {}", place.display());
    make_place(fd, place)?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(&own_path(fd)), place, None::<&str>, flags, None::<&str>).doing(doing)
}

/// Removes what is there under this name, unless it is a directory.
pub fn clear(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Err(io::Error::from(rustix::io::Errno::ISDIR))
        }
        Ok(_) => Ok(unlinkat(dir, name, AtFlags::empty())?),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Directories within each other that are held open at a time; those below are moved up first.
const DEPTH: usize = 64;

/// Removes what is there under this name, a directory with all that it holds; what is mounted there is not gone into.
pub fn remove_tree(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let mut deep = vec![name.to_owned()];
    while let Some(name) = deep.pop() {
        remove_within(dir, &name, dir, DEPTH, &mut deep)?;
    }
    Ok(())
}

/// What is deeper than `depth` goes to `top`, under a name that is added to `deep`.
fn remove_within(dir: &OwnedFd, name: &OsStr, top: &OwnedFd, depth: usize, deep: &mut Vec<OsString>) -> io::Result<()> {
    match clear(dir, name) {
        Err(e) if e.kind() == io::ErrorKind::IsADirectory => {}
        outcome => return outcome,
    }
    if depth == 0 {
        let new = OsString::from(format!(".oardocker-gone-{:016x}", rand::random::<u64>()));
        rustix::fs::renameat(dir, name, top, &new)?;
        deep.push(new);
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let inner = openat2(dir, name, flags, Mode::empty(), inside)?;
    for child in children(&inner)? {
        remove_within(&inner, &child, top, depth - 1, deep)?;
    }
    Ok(unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

/// Names in a directory that is open for reading.
pub fn children(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
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

    #[test]
    fn where_links_lead() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        for (target, name) in [("usr/bin", "bin"), ("/bin", "usr/sbin"), ("../../../none/x", "out"), ("loop", "loop")] {
            symlink(target, dir.path().join(name)).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        for (path, expected) in [
            ("/usr/sbin/f", "usr/bin/f"),
            ("bin/../x", "usr/x"),
            ("out/y", "none/x/y"),
            ("/", ""),
            ("new/./z", "new/z"),
        ] {
            assert_eq!(root.resolved(Path::new(path)).unwrap(), Path::new(expected), "{path}");
        }
        assert!(root.resolved(Path::new("loop/x")).is_err());
    }

    #[test]
    fn of_a_user_s_folder_no_link_leads_out() {
        let tmp = tempfile::tempdir().unwrap();
        let (folder, outside) = (tmp.path().join("folder"), tmp.path().join("outside"));
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "secret").unwrap();
        std::fs::write(folder.join("text"), "text").unwrap();
        symlink("text", folder.join("inside")).unwrap();
        symlink("../outside/secret", folder.join("relative")).unwrap();
        symlink(outside.join("secret"), folder.join("absolute")).unwrap();
        symlink(&outside, folder.join("dir")).unwrap();
        let root = Root::beneath(&folder).unwrap();
        assert_eq!(root.needed("inside").unwrap(), "text");
        for bad in ["relative", "absolute", "dir/secret", "../outside/secret", "sub/../../outside/secret"] {
            let error = root.needed(bad).unwrap_err();
            assert!(error.to_string().contains("leads out of the folder"), "{bad}: {error}");
        }
        assert!(root.make_dir(Path::new("dir/new")).is_err());
        assert!(root.replace(Path::new("dir/secret"), b"x", 0o644).is_err());
        assert!(root.append(Path::new("absolute"), 0o600).is_err());
        // A link in the place of a file is replaced, not written through; one in the way of a removal loses itself alone.
        root.replace(Path::new("absolute"), b"mine", 0o640).unwrap();
        root.remove(Path::new("dir")).unwrap();
        root.remove(Path::new("none/at/all")).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("absolute")).unwrap(), "mine");
        assert_eq!(std::fs::read_to_string(outside.join("secret")).unwrap(), "secret");
        symlink(&folder, tmp.path().join("way")).unwrap();
        let error = Root::beneath(&tmp.path().join("way")).unwrap_err();
        assert!(error.to_string().ends_with("way is a symbolic link"), "{error}");
    }

    #[test]
    fn a_tree_may_be_deeper_than_files_can_be_open() {
        let dir = tempfile::tempdir().unwrap();
        let top: OwnedFd = File::open(dir.path()).unwrap().into();
        mkdirat(&top, "deep", Mode::from_raw_mode(0o755)).unwrap();
        let mut inner = openat(&top, "deep", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            mkdirat(&inner, "d", Mode::from_raw_mode(0o755)).unwrap();
            inner = openat(&inner, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(&top, OsStr::new("deep")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_plain_file_is_neither_read_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
        symlink("/dev/zero", dir.path().join("zero")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(root.text("fifo").unwrap_err().to_string().ends_with("it is not a plain file"));
        assert!(root.append(Path::new("fifo"), 0o600).is_err());
        assert_eq!(root.text("zero").unwrap(), None, "in the tree there is no /dev/zero");
        let sparse = File::create(dir.path().join("huge")).unwrap();
        sparse.set_len(LARGEST_TEXT + 1).unwrap();
        assert!(root.text("huge").unwrap_err().to_string().contains("larger than"));
        let devices = Root::open(Path::new("/dev")).unwrap();
        assert!(devices.text("zero").unwrap_err().to_string().ends_with("it is not a plain file"));
    }
}
