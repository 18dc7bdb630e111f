//! What a source is, as one number: two that have the same make the same when they are installed.

use super::Form;
use crate::error::{Doing as _, Result};
use crate::rooted::{Root, link_target, open_plain};
use rustix::fs::FileType;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// What git itself keeps beside the files, and what of it says which commit they are.
const REPOSITORY: &str = ".git";
const NAMES: [&str; 3] = ["HEAD", "packed-refs", "refs"];

/// None for Debian's packages, which change without us.
pub(super) fn of(form: &Form) -> Result<Option<String>> {
    let mut hash = Sha256::new();
    match form {
        Form::Packages => return Ok(None),
        Form::File(path) => {
            let doing = || format!("cannot read {}", path.display());
            content(&mut hash, &mut File::open(path).doing(doing)?).doing(doing)?;
        }
        Form::Directory(path) => {
            let root = Root::beneath(path)?;
            // What was copied for us has the time of the copy; in a tree as it is, make looks at times.
            let timed = root.entry(Path::new(REPOSITORY)).is_err();
            tree(&mut hash, &root, Path::new(""), timed).doing(|| format!("cannot read {}", path.display()))?;
        }
    }
    Ok(Some(hex::encode(hash.finalize())))
}

fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn content(hash: &mut Sha256, file: &mut impl Read) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    while let n @ 1.. = file.read(&mut buffer)? {
        hash.update(&buffer[..n]);
    }
    Ok(())
}

fn tree(hash: &mut Sha256, root: &Root, dir: &Path, timed: bool) -> io::Result<()> {
    for name in root.names(dir)? {
        let path = dir.join(&name);
        if dir == Path::new(REPOSITORY) && !NAMES.iter().any(|known| *known == name) {
            continue;
        }
        let (fd, stat) = root.entry(&path)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        field(hash, path.as_os_str().as_bytes());
        hash.update(stat.st_mode.to_le_bytes());
        match kind {
            FileType::Directory => tree(hash, root, &path, timed)?,
            FileType::Symlink => field(hash, link_target(&fd)?.as_bytes()),
            FileType::RegularFile => {
                if timed {
                    hash.update(stat.st_mtime.to_le_bytes());
                    hash.update(stat.st_mtime_nsec.to_le_bytes());
                }
                hash.update(stat.st_size.to_le_bytes());
                content(hash, &mut open_plain(&fd, &stat)?)?;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_counts_changes_it() {
        let dir = tempfile::tempdir().unwrap();
        let (top, file) = (dir.path(), dir.path().join("d/f"));
        fs::create_dir(top.join("d")).unwrap();
        fs::write(&file, "1").unwrap();
        let now = || of(&Form::Directory(top.into())).unwrap().unwrap();
        let touch = |seconds| {
            File::open(&file)
                .unwrap()
                .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
                .unwrap();
        };
        touch(1);
        let first = now();
        assert_eq!(now(), first);
        touch(2);
        let mut seen = vec![first, now()];
        fs::write(&file, "2").unwrap();
        touch(2);
        seen.push(now());
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        seen.push(now());
        std::os::unix::fs::symlink("f", top.join("d/l")).unwrap();
        seen.push(now());
        fs::create_dir_all(top.join(".git/objects")).unwrap();
        fs::write(top.join(".git/HEAD"), "a").unwrap();
        let with_git = now();
        touch(3);
        fs::write(top.join(".git/index"), "x").unwrap();
        fs::write(top.join(".git/objects/o"), "x").unwrap();
        assert_eq!(now(), with_git, "times of a copy and git's own files mean nothing");
        seen.push(with_git);
        fs::write(top.join(".git/HEAD"), "b").unwrap();
        seen.push(now());
        assert_eq!(seen.iter().collect::<std::collections::BTreeSet<_>>().len(), seen.len());
        assert_eq!(of(&Form::Packages).unwrap(), None);
    }
}
