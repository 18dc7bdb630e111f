//! Where oardocker keeps things on the host, outside any workdir: one place for every path.

use crate::error::{Context as _, Error, Result};
use crate::rooted;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Set when the namespaces of a user's own engine were entered.
static ROOTLESS: OnceLock<()> = OnceLock::new();

/// Whether root is only root in a user's namespaces: nothing of the host's network and cgroups can be made.
pub fn is_rootless() -> bool {
    ROOTLESS.get().is_some()
}

/// Says so, once and for the whole program.
pub fn set_rootless() {
    let _ = ROOTLESS.set(());
}

/// Says in an oardocker that another one has started that it is inside already.
const INSIDE: &str = "_OARDOCKER_INSIDE";

/// Whether this one was started inside the namespaces of a user's own engine, as another one says. Root's own is not.
pub fn starts_inside() -> bool {
    let own = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_all = own.split_whitespace().nth(2).is_some_and(|count| count == "4294967295");
    std::env::var_os(INSIDE).is_some() && !is_all
}

/// What an oardocker that we start must know to find what we find, wherever it works.
pub fn inherited() -> std::io::Result<Vec<(&'static str, OsString)>> {
    let mut all = vec![
        ("OARDOCKER_DATA_DIR", std::path::absolute(data_dir())?.into()),
        ("OARDOCKER_RUNTIME_DIR", std::path::absolute(runtime_dir())?.into()),
    ];
    if is_rootless() {
        all.push((INSIDE, "1".into()));
    }
    Ok(all)
}

/// Has a program that outlives us have none of the descriptors that our caller left open, such as a script's lock.
pub fn shed_descriptors(command: &mut Command) {
    // SAFETY: the system call is safe between fork and exec, and marks only. A kernel that lacks it says so, and all stays as it was.
    unsafe {
        command.pre_exec(|| {
            nix::libc::close_range(3, nix::libc::c_uint::MAX, nix::libc::CLOSE_RANGE_CLOEXEC as nix::libc::c_int);
            Ok(())
        });
    }
}

/// Runtime files: gone at reboot. Sockets, mounts, named network namespaces, per-cluster files.
pub fn runtime_dir() -> PathBuf {
    env_dir("OARDOCKER_RUNTIME_DIR", || session_dir().map(|dir| dir.join("oardocker")), "/run/oardocker")
}

/// Lasting files: the managed containerd's root.
pub fn data_dir() -> PathBuf {
    env_dir("OARDOCKER_DATA_DIR", own_data_dir, "/var/lib/oardocker")
}

/// Where the programs of this user's login session keep their sockets.
pub fn session_dir() -> Option<PathBuf> {
    variable("XDG_RUNTIME_DIR")
}

/// A variable that names a path, unless it is empty.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// The same of this user without root.
pub fn own_data_dir() -> Option<PathBuf> {
    let shared = variable("XDG_DATA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share")));
    shared.map(|dir| dir.join("oardocker"))
}

/// The socket of the managed containerd.
pub fn managed_socket() -> PathBuf {
    runtime_dir().join("containerd/containerd.sock")
}

/// Makes a directory that nobody but root can look into, also when it was there before.
pub fn private_dir(dir: &Path) -> Result<()> {
    make_dir(dir, 0o700)
}

/// Makes a directory with this mode, whatever the umask and an earlier oardocker say.
pub fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    let doing = || format!("cannot create {}", dir.display());
    std::fs::create_dir_all(dir).doing(doing)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).doing(doing)
}

/// Writes a file in a directory of ours with this mode, whatever the umask says.
pub fn write_file(path: &Path, text: &str, mode: u32) -> Result<()> {
    let doing = || format!("cannot write {}", path.display());
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).doing(doing)?;
    file.write_all(text.as_bytes()).doing(doing)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode)).doing(doing)
}

/// Mounts a directory onto itself so that what nodes leave there, set-uid programs and devices, means nothing on the host.
pub fn disarm(dir: &Path) -> Result<()> {
    let doing = || format!("cannot mount {}", dir.display());
    let none = None::<&str>;
    mount(Some(dir), dir, none, MsFlags::MS_BIND, none).doing(doing)?;
    mount(none, dir, none, MsFlags::MS_PRIVATE, none).doing(doing)?;
    restrict(dir, MsFlags::MS_NOSUID | MsFlags::MS_NODEV)
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
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &more[3..];
            }
            None => {
                out.push(*first);
                rest = more;
            }
        }
    }
    OsString::from_vec(out)
}

/// Removes a directory of ours with all that it holds, but nothing that is mounted there. None there is fine.
pub fn remove_dir(dir: &Path) -> Result<()> {
    let doing = || format!("cannot remove {}", dir.display());
    let parent = match std::fs::File::open(dir.parent().unwrap_or(Path::new("/"))) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        outcome => outcome.doing(doing)?,
    };
    rooted::remove_tree(&parent.into(), dir.file_name().unwrap_or(OsStr::new("."))).doing(doing)
}

/// The host's time zone, as in `Europe/Paris`; none where it has none or does not tell its name.
pub fn time_zone() -> Option<String> {
    let link = std::fs::read_link("/etc/localtime").ok();
    let linked = link.and_then(|to| Some(to.to_str()?.split_once("zoneinfo/")?.1.to_owned()));
    let named = || std::fs::read_to_string("/etc/timezone").ok().map(|text| text.trim().to_owned());
    linked.or_else(named).filter(|zone| is_zone(zone))
}

/// Whether a text can be the name of a time zone: it is made part of a path.
pub fn is_zone(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-');
    !text.is_empty() && text.split('/').all(|part| !part.is_empty() && part.chars().all(plain))
}

/// The account that called sudo. Root itself has none.
pub fn invoking_user() -> Option<u32> {
    std::env::var("SUDO_UID").ok()?.parse().ok().filter(|uid| *uid != 0 && nix::unistd::geteuid().is_root())
}

/// What a variable names, else the user's own place without root, else the system's.
fn env_dir(name: &str, own: impl Fn() -> Option<PathBuf>, default: &str) -> PathBuf {
    variable(name).or_else(|| own().filter(|_| is_rootless())).unwrap_or_else(|| default.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_the_table_of_mounts() {
        for (written, meant) in
            [("/a\\040b", "/a b"), ("/a\\134b", "/a\\b"), ("/plain", "/plain"), ("/end\\04", "/end\\04")]
        {
            assert_eq!(unescape(written.as_bytes()), OsStr::new(meant));
        }
    }

    #[test]
    fn names_of_time_zones() {
        for good in ["UTC", "Europe/Paris", "America/Argentina/Buenos_Aires", "Etc/GMT+1"] {
            assert!(is_zone(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "Europe//Paris", ":Europe/Paris", "CET-1CEST,M3.5.0", "a b"] {
            assert!(!is_zone(bad), "{bad}");
        }
    }

    #[test]
    fn modes_are_said() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let (sub, file) = (dir.path().join("sub"), dir.path().join("sub/file"));
        std::fs::create_dir(&sub).unwrap();
        std::fs::set_permissions(&sub, std::fs::Permissions::from_mode(0o777)).unwrap();
        private_dir(&sub).unwrap();
        write_file(&file, "x", 0o644).unwrap();
        assert_eq!((mode(&sub), mode(&file)), (0o700, 0o644));
        write_file(&file, "y", 0o600).unwrap();
        assert_eq!((mode(&file), std::fs::read_to_string(&file).unwrap().as_str()), (0o600, "y"));
        remove_dir(&sub).unwrap();
        remove_dir(&sub).unwrap();
        assert!(!sub.exists());
    }
}
