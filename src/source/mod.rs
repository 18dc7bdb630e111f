//! Where OAR comes from: something on the host that an install container can read.
//!
//! Knows tar files, directories, git and HTTP; knows no container. The user's files are never written to.

mod git;
mod http;
mod tarball;

use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The file by which an OAR source tree is known: OAR 2's version, or OAR 3's package.
const MARKS: [&str; 2] = ["sources/core/common-libs/lib/OAR/Version.pm", "oar/__init__.py"];

/// What the user named, looked at and found to be OAR.
#[derive(Debug)]
pub struct Source {
    /// File or directory on the host.
    pub path: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tarball,
    Directory,
    Git,
}

/// A source that can be mounted read-only.
#[derive(Debug)]
pub struct Mountable {
    /// File or directory on the host.
    pub path: PathBuf,
    /// True for a tarball.
    pub is_file: bool,
    /// A temporary copy, removed with this value.
    _copy: Option<tempfile::TempDir>,
}

/// Opens what the user named: a path, the URL of a tarball, or `git+URL[@ref]`. What comes from afar is kept in `cache`.
pub async fn open(text: &str, cache: &Path, say: &(dyn Fn(&str) + Sync)) -> Result<Source> {
    if let Some(repository) = text.strip_prefix("git+") {
        let (url, reference) = git::parse(repository);
        return local(&git::fetch(&url, reference.as_deref(), cache, say)?.to_string_lossy());
    }
    match text.split_once("://") {
        Some(("http" | "https", _)) => {
            Ok(Source { path: http::download(text, cache, say).await?, kind: Kind::Tarball })
        }
        Some(("file", path)) => local(path),
        Some((scheme, _)) => Err(Error::new(format!("{scheme} URLs cannot be installed from"))
            .hint("use http, https or file for tarballs, and git+URL for repositories")),
        None => local(text),
    }
}

fn local(text: &str) -> Result<Source> {
    let path = fs::canonicalize(text).map_err(|e| {
        Error::new(format!("cannot open {text}: {e}"))
            .hint("SRC is a tarball, a directory with OAR's sources, or a git working tree")
    })?;
    if !path.is_dir() {
        tarball::check(&path)?;
        return Ok(Source { path, kind: Kind::Tarball });
    }
    if !MARKS.iter().any(|m| path.join(m).is_file()) {
        return Err(not_oar(&path));
    }
    let kind = if path.join(".git").exists() { Kind::Git } else { Kind::Directory };
    Ok(Source { path, kind })
}

impl Source {
    /// Makes it mountable. Of a git working tree only what git knows is copied, so that build products stay out.
    pub fn prepare(&self, scratch: &Path) -> Result<Mountable> {
        match self.kind {
            Kind::Tarball => Ok(Mountable { path: self.path.clone(), is_file: true, _copy: None }),
            Kind::Directory => Ok(Mountable { path: self.path.clone(), is_file: false, _copy: None }),
            Kind::Git => {
                let (path, copy) = git::copy_tree(&self.path, scratch)?;
                Ok(Mountable { path, is_file: false, _copy: Some(copy) })
            }
        }
    }
}

fn not_oar(path: &Path) -> Error {
    Error::new(format!("{} holds no OAR sources", path.display()))
        .hint(format!("an OAR source tree has the file {} or {}", MARKS[0], MARKS[1]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::fs::File;

    fn oar_tree(dir: &Path) {
        let file = dir.join(MARKS[0]);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "my $OARVersion = \"2.6.1\";").unwrap();
    }

    fn tarball(dir: &Path, top: &str) -> PathBuf {
        let path = dir.join("x.tar.gz");
        let mut builder = tar::Builder::new(GzEncoder::new(File::create(&path).unwrap(), Compression::fast()));
        builder.append_dir_all(top, dir.join("tree")).unwrap();
        builder.into_inner().unwrap().finish().unwrap();
        path
    }

    fn message(text: &Path) -> String {
        local(&text.to_string_lossy()).unwrap_err().to_string()
    }

    fn mountable(path: &Path, scratch: &Path) -> Mountable {
        local(&path.to_string_lossy()).unwrap().prepare(scratch).unwrap()
    }

    #[test]
    fn tarballs() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path();
        fs::create_dir(dir.join("tree")).unwrap();
        let path = tarball(dir, "oar-2.6.1");
        assert!(message(&path).contains("holds no OAR sources"));
        oar_tree(&dir.join("tree"));
        fs::write(dir.join("tree/big"), vec![7; 200_000]).unwrap();
        let path = tarball(dir, "oar-2.6.1");
        assert!(mountable(&path, dir).is_file);
        let bytes = fs::read(&path).unwrap();
        for cut in [0, 1, 10, bytes.len() / 2, bytes.len() - 4] {
            fs::write(&path, &bytes[..cut]).unwrap();
            assert!(message(&path).contains("is not a complete tar"), "cut at {cut}");
        }
        fs::write(&path, "no tar at all, but long enough to be read as one".repeat(40)).unwrap();
        assert!(message(&path).contains("is not a complete tar"));
        assert!(message(&dir.join("none")).contains("No such file"));
    }

    #[test]
    fn of_a_git_tree_only_what_git_tracks() {
        let tmp = tempfile::tempdir().unwrap();
        let tree = tmp.path().join("oar");
        assert!(message(tmp.path()).contains("holds no OAR sources"));
        oar_tree(&tree);
        assert_eq!(mountable(&tree, tmp.path()).path, tree.canonicalize().unwrap());
        for args in [
            &["init", "-q"][..],
            &["add", "."],
            &["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"],
            &["-c", "user.name=a", "-c", "user.email=a@b", "tag", "-am", "x", "2.6.1"],
        ] {
            git::git(&tree, args).unwrap();
        }
        fs::write(tree.join("product.o"), "").unwrap();
        fs::write(tree.join(MARKS[0]), "edited").unwrap();
        let source = mountable(&tree, &tmp.path().join("scratch"));
        assert!(!source.path.join("product.o").exists());
        assert_eq!(fs::read_to_string(source.path.join(MARKS[0])).unwrap(), "edited");
        assert_eq!(git::git(&source.path, &["describe", "--tags"]).unwrap().trim(), "2.6.1");
        assert!(git::git(&source.path, &["fsck"]).is_ok());
        let copy = source.path.clone();
        drop(source);
        assert!(!copy.exists());
        assert!(tree.join("product.o").exists());
    }
}
