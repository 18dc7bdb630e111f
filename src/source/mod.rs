//! Where OAR comes from: something on the host that an install container can read, or the suite's own packages.
//!
//! Knows tar files, directories, git and HTTP; knows no container. The user's files are never written to.

mod git;
mod http;
mod tarball;

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// The file by which an OAR source tree is known: OAR 2's version, or OAR 3's package.
const MARKS: [&str; 2] = ["sources/core/common-libs/lib/OAR/Version.pm", "oar/__init__.py"];

/// The word for Debian's packages. A file of that name is `./deb`.
pub const PACKAGES: &str = "deb";

/// What the user named, looked at and found to be OAR.
#[derive(Debug)]
pub struct Source {
    /// File or directory on the host; of packages, their name.
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tarball,
    Directory,
    Git,
    Packages,
}

/// What the install script is given.
#[derive(Debug)]
pub struct Prepared {
    /// What to mount read-only.
    pub form: Form,
    /// A temporary copy, removed with this value.
    _copy: Option<tempfile::TempDir>,
}

/// A source as the install container sees it.
#[derive(Debug)]
pub enum Form {
    /// A tarball on the host.
    File(PathBuf),
    /// A directory on the host.
    Directory(PathBuf),
    /// Nothing to mount.
    Packages,
}

/// Opens what the user named: a path, the URL of a tarball, `git+URL[@ref]` or `deb`. What comes from afar is kept in
/// `cache`.
pub async fn open(text: &str, cache: &Path, say: &(dyn Fn(&str) + Sync)) -> Result<Source> {
    if text == PACKAGES {
        return Ok(Source { path: PACKAGES.into(), kind: Kind::Packages });
    }
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
            .hint("SRC is a tarball, a directory with OAR's sources, a git working tree, or the word deb")
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
    pub fn prepare(&self, scratch: &Path) -> Result<Prepared> {
        let path = self.path.clone();
        let (form, copy) = match self.kind {
            Kind::Tarball => (Form::File(path), None),
            Kind::Directory => (Form::Directory(path), None),
            Kind::Packages => (Form::Packages, None),
            Kind::Git => {
                let (path, copy) = git::copy_tree(&path, scratch)?;
                (Form::Directory(path), Some(copy))
            }
        };
        Ok(Prepared { form, _copy: copy })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Packages => write!(f, "Debian's packages"),
            _ => write!(f, "{}", self.path.display()),
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

    fn prepared(path: &Path, scratch: &Path) -> Prepared {
        local(&path.to_string_lossy()).unwrap().prepare(scratch).unwrap()
    }

    fn directory(prepared: &Prepared) -> &Path {
        match &prepared.form {
            Form::Directory(path) => path,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn deb_is_a_word() {
        let tmp = tempfile::tempdir().unwrap();
        let source = open("deb", tmp.path(), &|_| ()).await.unwrap();
        assert_eq!(source.to_string(), "Debian's packages");
        assert!(matches!(source.prepare(tmp.path()).unwrap().form, Form::Packages));
        for path in ["./deb", "Deb", "deb/"] {
            assert!(open(path, tmp.path(), &|_| ()).await.unwrap_err().to_string().contains("No such file"), "{path}");
        }
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
        assert!(matches!(prepared(&path, dir).form, Form::File(_)));
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
        assert_eq!(directory(&prepared(&tree, tmp.path())), tree.canonicalize().unwrap());
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
        let source = prepared(&tree, &tmp.path().join("scratch"));
        let copy = directory(&source).to_owned();
        assert!(!copy.join("product.o").exists());
        assert_eq!(fs::read_to_string(copy.join(MARKS[0])).unwrap(), "edited");
        assert_eq!(git::git(&copy, &["describe", "--tags"]).unwrap().trim(), "2.6.1");
        assert!(git::git(&copy, &["fsck"]).is_ok());
        drop(source);
        assert!(!copy.exists());
        assert!(tree.join("product.o").exists());
    }
}
