//! A tree to copy from: the build context, less what its `.dockerignore` hides, or the files of a stage or an image.
//!
//! Every path is resolved in the kernel as if the tree were `/`: no link leads out, whoever changes it meanwhile.

use super::pattern::{self, Patterns, cleaned};
use crate::error::{Error, Result};
use crate::rooted::Root;
use rustix::fs::{FileType, Stat};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The tree.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    root: Arc<Root>,
    hidden: Arc<Patterns>,
    /// Whether owners mean something: those of a context are a matter of who has it.
    pub owned: bool,
}

/// Something in it.
#[derive(Debug)]
pub(super) struct Entry {
    /// From the top of what is walked through.
    pub below: PathBuf,
    /// What it is.
    pub stat: Stat,
}

/// Which of what is below the top of a walk is meant.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Only this; none: all.
    pub only: Option<Patterns>,
    /// But not this.
    pub not: Patterns,
}

impl Choice {
    fn takes(&self, below: &Path) -> bool {
        self.only.as_ref().is_none_or(|only| only.matches(below)) && !self.not.matches(below)
    }

    /// Whether something may be taken below what is not.
    fn goes_on(&self, below: &Path) -> bool {
        self.only.is_some() && !self.not.matches(below) || self.not.has_exceptions()
    }
}

/// What kind of a thing.
pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

impl Tree {
    /// A build context; the ignore file of its Dockerfile comes before the general one.
    pub(super) fn context(root: &Root) -> Result<Self> {
        let mut hidden = Patterns::default();
        for name in ["Dockerfile.dockerignore", ".dockerignore"] {
            if let Some(text) = root.text(name)? {
                let told = |e| Error::new(format!("{}: {e}", root.path().join(name).display()));
                hidden = Patterns::ignore_file(&text).map_err(told)?;
                break;
            }
        }
        Ok(Self { root: Arc::new(root.as_top()?), hidden: Arc::new(hidden), owned: false })
    }

    /// The files of an image.
    pub(super) fn image(root: Root) -> Self {
        Self { root: Arc::new(root), hidden: Arc::default(), owned: true }
    }

    /// Its directory.
    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    fn name(&self) -> String {
        if self.owned { "the image".into() } else { format!("the build context {}", self.root.path().display()) }
    }

    /// Whether nothing hides it.
    fn shows(&self, path: &Path, stat: &Stat) -> bool {
        if !self.hidden.matches(path) {
            return true;
        }
        let all = Choice::default();
        kind(stat) == FileType::Directory
            && self.hidden.has_exceptions()
            && self.walk(path, &all).is_ok_and(|entries| !entries.is_empty())
    }

    /// The paths that a source means, as they are written, without `..`. What is named without wildcards has to be there.
    pub(super) fn find(&self, source: &str) -> Result<Vec<PathBuf>> {
        let path = cleaned(source);
        if !pattern::is_pattern(source) {
            let path = PathBuf::from(pattern::unescaped(&path.to_string_lossy()));
            self.look(&path, source)?;
            return Ok(vec![path]);
        }
        let (mut found, mut matched) = (vec![PathBuf::new()], false);
        for part in path.iter().map(|part| part.to_string_lossy()) {
            if matched {
                // Links to directories are followed in front of wildcards only.
                found.retain(|dir| self.root.entry(dir).is_ok_and(|(_, stat)| kind(&stat) == FileType::Directory));
            }
            found = if pattern::is_pattern(&part) {
                matched = true;
                let wanted = pattern::name(&part).map_err(Error::new)?;
                // A plain file has no names in it.
                let names = |dir: &PathBuf| self.root.names(dir).unwrap_or_default();
                let named = |dir: PathBuf| {
                    names(&dir)
                        .into_iter()
                        .filter(|name| wanted.is_match(name.as_bytes()))
                        .map(move |name| dir.join(name))
                        .collect()
                };
                found.into_iter().flat_map(|dir| -> Vec<PathBuf> { named(dir) }).collect()
            } else {
                let part = pattern::unescaped(&part);
                found.into_iter().map(|dir| dir.join(&part)).collect()
            };
        }
        found.retain(|path| self.look(path, source).is_ok());
        Ok(found)
    }

    /// Where a path leads, and what is there.
    pub(super) fn look(&self, path: &Path, source: &str) -> Result<(PathBuf, Stat)> {
        let of = || format!("cannot open {source:?} in {}", self.name());
        let missing = || Error::new(format!("there is no {source:?} in {}", self.name()));
        let told = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => missing(),
            _ => Error::new(format!("{}: {e}", of())),
        };
        let resolved = self.root.resolved(path).map_err(told)?;
        let (_, stat) = self.root.entry(&resolved).map_err(told)?;
        if self.shows(&resolved, &stat) {
            return Ok((resolved, stat));
        }
        Err(missing().hint("its .dockerignore hides it"))
    }

    /// What is below a directory, parents before children, sorted. A directory that is not taken is there if something in it is.
    pub(super) fn walk(&self, top: &Path, choice: &Choice) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.gather(top, Path::new(""), choice, &mut entries)?;
        Ok(entries)
    }

    fn gather(&self, top: &Path, below: &Path, choice: &Choice, entries: &mut Vec<Entry>) -> io::Result<()> {
        let dir = top.join(below);
        for name in self.root.names(&dir)? {
            let (path, below) = (dir.join(&name), below.join(&name));
            let (_, stat) = self.root.entry(&path)?;
            let taken = choice.takes(&below) && !self.hidden.matches(&path);
            if kind(&stat) != FileType::Directory {
                if taken {
                    entries.push(Entry { below, stat });
                }
                continue;
            }
            if !taken && !choice.goes_on(&below) && !self.hidden.has_exceptions() {
                continue;
            }
            let before = entries.len();
            entries.push(Entry { below: below.clone(), stat });
            self.gather(top, &below, choice, entries)?;
            if !taken && entries.len() == before + 1 {
                entries.pop();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn tree(ignore: &str) -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("c/d/sub")).unwrap();
        fs::write(dir.path().join("secret"), "").unwrap();
        for name in ["a.sh", "b.sh", "x*y", "d/f", "d/sub/g", "d/sub/keep"] {
            fs::write(dir.path().join("c").join(name), "").unwrap();
        }
        symlink("../secret", dir.path().join("c/out")).unwrap();
        symlink("/d/sub", dir.path().join("c/in")).unwrap();
        fs::write(dir.path().join("c/.dockerignore"), ignore).unwrap();
        let root = Root::beneath(&dir.path().join("c")).unwrap();
        let tree = Tree::context(&root).unwrap();
        (dir, tree)
    }

    fn found(tree: &Tree, source: &str) -> Vec<String> {
        tree.find(source).unwrap().iter().map(|p| p.display().to_string()).collect()
    }

    fn walked(tree: &Tree, top: &str, choice: &Choice) -> Vec<String> {
        tree.walk(Path::new(top), choice).unwrap().iter().map(|e| e.below.display().to_string()).collect()
    }

    #[test]
    fn sources_stay_in_the_tree() {
        let (_dir, tree) = tree("");
        for bad in ["../secret", "out", "none", "x/../../secret", "a.sh/x"] {
            let error = tree.find(bad).unwrap_err().to_string();
            assert!(error.starts_with("there is no "), "{bad}: {error}");
        }
        assert_eq!(found(&tree, "*.sh"), ["a.sh", "b.sh"]);
        assert_eq!(found(&tree, "/./d/../a.sh"), ["a.sh"]);
        assert_eq!(found(&tree, "d/*/g"), ["d/sub/g"]);
        assert_eq!(found(&tree, "x\\*y"), ["x*y"]);
        assert_eq!(found(&tree, "none*"), [""; 0]);
        assert_eq!(found(&tree, "in/*"), ["in/g", "in/keep"]);
        assert_eq!(found(&tree, "i*/g"), [""; 0], "what a wildcard finds is no way on if it is a link");
        assert_eq!(tree.look(Path::new("in/g"), "in/g").unwrap().0, Path::new("d/sub/g"));
    }

    #[test]
    fn what_is_hidden_is_not_there() {
        let (_dir, tree) = tree("d\n!d/sub/keep\n*.sh\nout\n");
        assert_eq!(walked(&tree, "", &Choice::default()), [".dockerignore", "d", "d/sub", "d/sub/keep", "in", "x*y"]);
        assert!(tree.find("a.sh").unwrap_err().to_string().contains("there is no"));
        assert_eq!(found(&tree, "d"), ["d"]);
        assert!(tree.find("d/f").is_err() && tree.find("d/sub/keep").is_ok());
    }

    #[test]
    fn only_what_is_wanted_and_its_parents() {
        let (_dir, tree) = tree("");
        let only = |pattern| Choice { only: Some(Patterns::new([pattern]).unwrap()), not: Patterns::default() };
        assert_eq!(walked(&tree, "", &only("d/*/g")), ["d", "d/sub", "d/sub/g"]);
        let not = Choice { only: None, not: Patterns::new(["**/g"]).unwrap() };
        assert_eq!(walked(&tree, "d", &not), ["f", "sub", "sub/keep"]);
    }
}
