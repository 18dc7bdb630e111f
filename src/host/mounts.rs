//! Mounts that oardocker makes, restricts and takes away.

use crate::error::{Doing as _, Error, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// Mounts a directory onto itself so that what nodes leave there, set-uid programs and devices, means nothing on the host.
pub(super) fn disarm(dir: &Path) -> Result<()> {
    let doing = || format!("cannot mount {}", dir.display());
    let none = None::<&str>;
    mount(Some(dir), dir, none, MsFlags::MS_BIND, none).doing(doing)?;
    mount(none, dir, none, MsFlags::MS_PRIVATE, none).doing(doing)?;
    restrict(dir, MsFlags::MS_NOSUID | MsFlags::MS_NODEV)
}

/// What a mount must keep when it is bound elsewhere and changed there by who has less rights, as options.
pub fn locked_options(place: &Path) -> Vec<&'static str> {
    let has = statvfs(place).map_or_else(|_| FsFlags::empty(), |stat| stat.flags());
    let known = [(FsFlags::ST_NOEXEC, "noexec"), (FsFlags::ST_NOSUID, "nosuid"), (FsFlags::ST_NODEV, "nodev")];
    known.into_iter().filter(|(flag, _)| has.contains(*flag)).map(|(_, option)| option).collect()
}

/// Gives a bind mount more flags than its filesystem has.
pub fn restrict(place: &Path, more: MsFlags) -> Result<()> {
    let doing = || format!("cannot mount {}", place.display());
    // In a user's namespace nothing may be left out that is there.
    let has = statvfs(place).doing(doing)?.flags();
    let known = [
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
    ];
    let kept: MsFlags = known.into_iter().filter(|(flag, _)| has.contains(*flag)).map(|(_, flag)| flag).collect();
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | kept | more;
    mount(None::<&str>, place, None::<&str>, flags, None::<&str>).doing(doing)
}

/// The options that turn these features of overlayfs off, of those that the kernel has: some hosts have them on by default, and a layer
/// could not be read then. What user.* attributes are for has the first two off by itself, and wants to hear nothing of them.
pub fn overlay_features(names: &[&str]) -> Vec<String> {
    let has = |name: &&&str| Path::new("/sys/module/overlay/parameters").join(name).exists();
    names.iter().filter(has).map(|name| format!("{name}=off")).collect()
}

/// Unmounts whatever is mounted at or below a directory of ours.
pub fn unmount_below(dir: &Path) -> Result<()> {
    let found = mounts_below(dir)?;
    let none = None::<&str>;
    // Before anything goes: a mount that is shared with its original would take that along.
    for place in &found {
        let _ = mount(none, place, none, MsFlags::MS_PRIVATE, none);
    }
    let mut errors = Vec::new();
    for place in found.iter().rev() {
        match umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(e) => errors.push(Error::new(format!("cannot unmount {}: {e}", place.display()))),
        }
    }
    Error::all(errors)
}

fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    // The kernel's table has real paths.
    let dir = match dir.canonicalize() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        real => real.doing(|| format!("cannot look at {}", dir.display()))?,
    };
    let path = "/proc/self/mountinfo";
    let table = std::fs::read(path).doing(|| format!("cannot read {path}"))?;
    let places = table.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4)).map(unescape);
    Ok(places.map(PathBuf::from).filter(|place| place.starts_with(&dir)).collect())
}

/// The kernel writes blanks and backslashes in paths as three octal digits.
pub fn unescape(text: &[u8]) -> OsString {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((first, more)) = rest.split_first() {
        let code =
            (*first == b'\\').then(|| more.get(..3)).flatten().and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            out.push(byte);
            rest = &more[3..];
        } else {
            out.push(*first);
            rest = more;
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn paths_in_the_table_of_mounts() {
        for (written, meant) in
            [("/a\\040b", "/a b"), ("/a\\134b", "/a\\b"), ("/plain", "/plain"), ("/end\\04", "/end\\04")]
        {
            assert_eq!(unescape(written.as_bytes()), OsStr::new(meant));
        }
    }
}
