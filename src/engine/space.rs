//! Full disks: whoever meets one says something else ("exit code 100"); here the error is told which file system it was.

use crate::error::Error;
use nix::sys::statvfs::statvfs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A file system with less than that, in bytes or in files, is full for a build.
const FEW_BYTES: u64 = 16 << 20;
const FEW_FILES: u64 = 64;

/// A file system without room, in the user's words.
#[derive(Debug)]
struct Full(String);

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Full {}

/// What programs say when there is no room.
const COMPLAINTS: [&str; 4] =
    ["no space left on device", "disk quota exceeded", "enough free space", "not enough space"];

/// Names the file system below `dir` in an error, if that being full is why it happened.
pub fn explain(error: Error, dir: &Path) -> Error {
    let Ok(stat) = statvfs(dir) else { return error };
    // Whoever was nearer has said it.
    if error.cause::<Full>().is_some() {
        return error;
    }
    let free = stat.blocks_available() * stat.fragment_size();
    let no_files = stat.files() > 0 && stat.files_available() < FEW_FILES;
    let full = matches!(error.io_kind(), Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded));
    // Programs of build steps and daemons only have words.
    let said = full || error.details().iter().chain([&error.to_string()]).any(|line| complains(line));
    if free >= FEW_BYTES && !no_files && !said {
        return error;
    }
    let total = stat.blocks() * stat.fragment_size();
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let place = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let name = mounted(&table, &place).map_or_else(String::new, |(device, at)| format!("{device} at {}", at.display()));
    let lack = if no_files && free >= FEW_BYTES {
        format!("the file system {name} has room for no more files ({} are there)", stat.files())
    } else {
        format!("the file system {name} is full ({} MB of {} MB free)", free >> 20, total >> 20)
    };
    error
        .because(Full(lack))
        .hint("make room there and do it again, which goes on where this ended: an environment needs some 4 GB")
}

fn complains(line: &str) -> bool {
    let line = line.to_lowercase();
    COMPLAINTS.iter().any(|complaint| line.contains(complaint))
}

/// What is mounted at the place nearest above a path: device and mount point.
fn mounted(table: &str, path: &Path) -> Option<(String, PathBuf)> {
    let mounts = table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let at = PathBuf::from(crate::host::unescape(left.split(' ').nth(4)?.as_bytes()));
        Some((right.split(' ').nth(1)?.to_owned(), at))
    });
    // Of two at one place the later one is seen.
    mounts.filter(|(_, at)| path.starts_with(at)).max_by_key(|(_, at)| at.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_is_named() {
        let table = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /var/lib rw shared:3 - xfs /dev/sda2 rw\n\
                     3 1 0:3 / /var/library rw - tmpfs tmpfs rw\n4 1 0:4 / /var/lib rw - btrfs /dev/sdb rw\n";
        let found = |path: &str| mounted(table, Path::new(path)).map(|(device, _)| device);
        assert_eq!(found("/var/lib/x").as_deref(), Some("/dev/sdb"));
        assert_eq!(found("/var/library").as_deref(), Some("tmpfs"));
        assert_eq!(found("/home").as_deref(), Some("/dev/sda1"));
    }

    #[test]
    fn other_errors_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(explain(Error::new("exit code 7"), dir.path()).to_string(), "exit code 7");
        let full = Error::new("exit code 100").detail(["E: You don't have enough free space in /var/cache".to_owned()]);
        let text = explain(full, dir.path()).to_string();
        let told = |e: Error| explain(e, dir.path()).to_string();
        let once = explain(Error::new("x").because(std::io::Error::from(ErrorKind::StorageFull)), dir.path());
        assert_eq!(told(once.clone().within("again")), format!("again: {once}"), "who was nearer has said it");
        assert!(text.starts_with("exit code 100: the file system ") && text.ends_with(" MB free)"), "{text}");
    }
}
