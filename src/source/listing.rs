//! What is in a source, entry by entry: two sources that have the same make the same when they are installed.

use super::Form;
use crate::error::{Doing as _, Result};
use crate::rooted::{Root, link_target, open_plain};
use rustix::fs::FileType;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// What git itself keeps beside the files, and what of it says which commit they are.
const REPOSITORY: &str = ".git";
const NAMES: [&str; 3] = ["HEAD", "packed-refs", "refs"];

/// The entries of a source by their paths, and what each is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing(BTreeMap<String, What>);

/// One entry: its mode in octal, what is in it, and since when if that counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct What {
    mode: String,
    content: String,
    time: String,
}

impl Listing {
    /// None for Debian's packages, which change without us.
    pub(super) fn of(form: &Form) -> Result<Option<Self>> {
        let mut all = Self::default();
        match form {
            Form::Packages => return Ok(None),
            Form::File(path) => {
                let doing = || format!("cannot read {}", path.display());
                let content = digest(&mut File::open(path).doing(doing)?).doing(doing)?;
                all.0.insert(String::new(), What { content, ..What::default() });
            }
            Form::Directory(path) => {
                let root = Root::beneath(path)?;
                // What was copied for us has the time of the copy; in a tree as it is, make looks at times.
                let timed = root.entry(Path::new(REPOSITORY)).is_err();
                all.add(&root, Path::new(""), timed).doing(|| format!("cannot read {}", path.display()))?;
            }
        }
        Ok(Some(all))
    }

    fn add(&mut self, root: &Root, dir: &Path, timed: bool) -> io::Result<()> {
        for name in root.names(dir)? {
            let path = dir.join(&name);
            if dir == Path::new(REPOSITORY) && !NAMES.iter().any(|known| *known == name) {
                continue;
            }
            let (fd, stat) = root.entry(&path)?;
            let mut time = String::new();
            let content = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    self.add(root, &path, timed)?;
                    String::new()
                }
                FileType::Symlink => link_target(&fd)?.as_bytes().escape_ascii().to_string(),
                FileType::RegularFile => {
                    if timed {
                        time = format!("{}.{}", stat.st_mtime, stat.st_mtime_nsec);
                    }
                    digest(&mut open_plain(&fd, &stat)?)?
                }
                _ => String::new(),
            };
            let key = path.as_os_str().as_bytes().escape_ascii().to_string();
            self.0.insert(key, What { mode: format!("{:o}", stat.st_mode), content, time });
        }
        Ok(())
    }

    /// A line for each entry.
    pub fn text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (path, what)| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}\t{}\t{}\t{path}", what.mode, what.content, what.time);
            text
        })
    }

    /// Reads that; what is no such text lists nothing.
    pub fn read(text: &str) -> Self {
        let line = |line: &str| {
            let mut parts = line.splitn(4, '\t').map(ToOwned::to_owned);
            let (mode, content, time) = (parts.next()?, parts.next()?, parts.next()?);
            Some((parts.next()?, What { mode, content, time }))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// Whether there is an entry of this name.
    pub fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// All of it as one number.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(self.text().as_bytes()))
    }

    /// The files that differ from those of an earlier state of this source.
    pub fn changed_since<'a>(&'a self, before: &Self) -> Changes<'a> {
        let gone = before.0.keys().filter(|path| !self.0.contains_key(*path)).cloned();
        let mut changes = Changes { others: gone.collect(), ..Changes::default() };
        for (path, what) in &self.0 {
            match before.0.get(path) {
                Some(same) if same == what => {}
                Some(other) if other.mode != what.mode || path.contains('\\') => changes.others.push(path.clone()),
                Some(other) if other.content == what.content => changes.touched.push(path),
                Some(_) => changes.contents.push(path),
                None => changes.others.push(path.clone()),
            }
        }
        changes
    }
}

/// How two listings differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// Entries whose content is another.
    pub contents: Vec<&'a str>,
    /// Entries that have only been written again.
    pub touched: Vec<&'a str>,
    /// Entries that are new, gone, or something else now.
    pub others: Vec<String>,
}

fn digest(file: &mut impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    while let n @ 1.. = file.read(&mut buffer)? {
        hash.update(&buffer[..n]);
    }
    Ok(hex::encode(hash.finalize()))
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
        let list = || Listing::of(&Form::Directory(top.into())).unwrap().unwrap();
        let now = || list().digest();
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
        assert_eq!(Listing::of(&Form::Packages).unwrap(), None);
        let before = Listing::read(&list().text());
        assert_eq!(before, list());
        fs::write(&file, "3").unwrap();
        fs::write(top.join("new"), "").unwrap();
        fs::remove_file(top.join("d/l")).unwrap();
        let (list, others) = (list(), vec!["d/l".to_owned(), "new".to_owned()]);
        assert_eq!(list.changed_since(&before), Changes { contents: vec!["d/f"], touched: vec![], others });
    }
}
