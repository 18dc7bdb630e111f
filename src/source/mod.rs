//! Where OAR comes from: something on the host that an install container can read.
//!
//! Knows tar files, directories and git; knows no container. The user's files are never written to.

use crate::error::{Context as _, Error, Result};
use flate2::read::MultiGzDecoder;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Opens what the user named.
pub fn open(text: &str) -> Result<Source> {
    if text.starts_with("git+") || text.contains("://") {
        return Err(Error::new(format!("{text} cannot be installed yet: this version takes files and directories"))
            .hint("download it, or clone it, and give its path"));
    }
    let path = fs::canonicalize(text).map_err(|e| {
        Error::new(format!("cannot open {text}: {e}"))
            .hint("SRC is a tarball, a directory with OAR's sources, or a git working tree")
    })?;
    if !path.is_dir() {
        check_tarball(&path)?;
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
            Kind::Git => copy_git_tree(&self.path, scratch),
        }
    }
}

fn not_oar(path: &Path) -> Error {
    Error::new(format!("{} holds no OAR sources", path.display()))
        .hint(format!("an OAR source tree has the file {} or {}", MARKS[0], MARKS[1]))
}

/// Reads the whole archive, so that a truncated download is found before anything is built on it.
fn check_tarball(path: &Path) -> Result<()> {
    let broken = |e: std::io::Error| {
        Error::new(format!("{} is not a complete tar or tar.gz file: {e}", path.display()))
            .hint("was the download cut short?")
    };
    let doing = || format!("cannot open {}", path.display());
    let mut head = [0; 2];
    let n = File::open(path).doing(doing)?.read(&mut head).doing(doing)?;
    let file = BufReader::with_capacity(1 << 20, File::open(path).doing(doing)?);
    let reader: Box<dyn Read> =
        if n == 2 && head == [0x1f, 0x8b] { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut archive = tar::Archive::new(reader);
    let (mut tops, mut marked, mut entries) = (std::collections::BTreeSet::new(), false, 0_u64);
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.into_owned();
        let mut parts = name.components();
        let top = parts.next().map(|c| c.as_os_str().to_owned()).unwrap_or_default();
        if name.is_absolute() || name.components().any(|c| c == std::path::Component::ParentDir) {
            return Err(Error::new(format!("{} holds {}, which leads out of it", path.display(), name.display())));
        }
        marked |= MARKS.iter().any(|m| parts.as_path() == Path::new(m));
        if !entry.header().entry_type().is_pax_global_extensions() {
            tops.insert(top);
        }
        entries += 1;
    }
    // The end of the archive, and of the compression, has to be there as well.
    let mut rest = archive.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(broken)?;
    if entries == 0 {
        return Err(broken(std::io::Error::other("it is empty")));
    }
    if !marked || tops.len() != 1 {
        return Err(not_oar(path));
    }
    Ok(())
}

fn copy_git_tree(path: &Path, scratch: &Path) -> Result<Mountable> {
    let doing = || format!("cannot copy the git working tree {}", path.display());
    fs::create_dir_all(scratch).doing(doing)?;
    let copy = tempfile::Builder::new().prefix("source-").tempdir_in(scratch).doing(doing)?;
    let tree = copy.path().join("oar");
    // Tracked files as they are now, edits included; the history comes along for `git describe`.
    git(path, &["clone", "--quiet", "--no-checkout", "--shared", ".", &tree.to_string_lossy()]).doing(doing)?;
    let files = git(path, &["ls-files", "-z"]).doing(doing)?;
    for name in files.split('\0').filter(|n| !n.is_empty()) {
        let (from, to) = (path.join(name), tree.join(name));
        let Ok(meta) = fs::symlink_metadata(&from) else { continue };
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).doing(doing)?;
        }
        if meta.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from).doing(doing)?, &to).doing(doing)?;
        } else if meta.is_file() {
            fs::copy(&from, &to).doing(doing)?;
        }
    }
    // Inside the container the objects are not where the clone borrows them from.
    git(&tree, &["repack", "-a", "-d", "-q"]).doing(doing)?;
    let _ = fs::remove_file(tree.join(".git/objects/info/alternates"));
    git(&tree, &["reset", "--quiet"]).doing(doing)?;
    Ok(Mountable { path: tree, is_file: false, _copy: Some(copy) })
}

fn git(dir: &Path, args: &[&str]) -> Result<String> {
    let out = Command::new("git")
        // The tree may belong to the user who called sudo.
        .args(["-c", "safe.directory=*", "-C"])
        .arg(dir)
        .args(args)
        .output()
        .map_err(|e| Error::new(format!("cannot run git: {e}")).hint("install it: apt install git"))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(Error::new(format!("git {}: {}", args[0], String::from_utf8_lossy(&out.stderr).trim())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;

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
        open(&text.to_string_lossy()).unwrap_err().to_string()
    }

    fn mountable(path: &Path, scratch: &Path) -> Mountable {
        open(&path.to_string_lossy()).unwrap().prepare(scratch).unwrap()
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
            git(&tree, args).unwrap();
        }
        fs::write(tree.join("product.o"), "").unwrap();
        fs::write(tree.join(MARKS[0]), "edited").unwrap();
        let source = mountable(&tree, &tmp.path().join("scratch"));
        assert!(!source.path.join("product.o").exists());
        assert_eq!(fs::read_to_string(source.path.join(MARKS[0])).unwrap(), "edited");
        assert_eq!(git(&source.path, &["describe", "--tags"]).unwrap().trim(), "2.6.1");
        assert!(git(&source.path, &["fsck"]).is_ok());
        let copy = source.path.clone();
        drop(source);
        assert!(!copy.exists());
        assert!(tree.join("product.o").exists());
    }
}
