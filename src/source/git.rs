//! Git working trees and remote repositories.

use crate::error::{Context as _, Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// `git+URL` or `git+URL@ref`: the repository, and the branch, tag or commit.
pub(super) fn parse(text: &str) -> (String, Option<String>) {
    // The part in which an @ begins a ref: behind the host, whose own @ belongs to a user.
    let path = match text.find("://") {
        Some(at) => text[at + 3..].find('/').map_or(text.len(), |slash| at + 3 + slash),
        None => text.find(':').unwrap_or(0),
    };
    match text[path..].rfind('@') {
        Some(at) if path + at + 1 < text.len() => {
            (text[..path + at].to_owned(), Some(text[path + at + 1..].to_owned()))
        }
        _ => (text.to_owned(), None),
    }
}

/// Clones a repository below `cache`, or updates the clone of the last time; checks the ref out.
pub(super) fn fetch(url: &str, reference: Option<&str>, cache: &Path, say: &dyn Fn(&str)) -> Result<PathBuf> {
    let doing = || format!("cannot fetch {url}");
    fs::create_dir_all(cache).doing(doing)?;
    let tree = cache.join("oar-git");
    let same = tree.join(".git").exists()
        && git(&tree, &["config", "--get", "remote.origin.url"]).is_ok_and(|known| known.trim() == url);
    if same {
        say(&format!("Updating {} from {url}", tree.display()));
        git(&tree, &["fetch", "--quiet", "--tags", "--force", "--prune", "origin"]).doing(doing)?;
        git(&tree, &["remote", "set-head", "origin", "--auto"]).doing(doing)?;
    } else {
        say(&format!("Cloning {url}"));
        match fs::remove_dir_all(&tree) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).doing(doing),
            _ => {}
        }
        // Beside its place first: a clone that was killed must not look like one.
        let new = cache.join("oar-git.new");
        let _ = fs::remove_dir_all(&new);
        git(cache, &["clone", "--quiet", "--", url, "oar-git.new"]).doing(doing)?;
        fs::rename(&new, &tree).doing(doing)?;
    }
    let wanted = reference.unwrap_or("HEAD");
    let branch = format!("refs/remotes/origin/{wanted}");
    if git(&tree, &["rev-parse", "--verify", "--quiet", &branch]).is_ok() {
        let name = if wanted == "HEAD" {
            let full = git(&tree, &["symbolic-ref", "--short", &branch]).doing(doing)?;
            full.trim().trim_start_matches("origin/").to_owned()
        } else {
            wanted.to_owned()
        };
        git(&tree, &["checkout", "--quiet", "--force", "-B", &name, &branch]).doing(doing)?;
    } else {
        git(&tree, &["checkout", "--quiet", "--force", "--detach", wanted])
            .map_err(|e| e.hint(format!("is {wanted:?} a branch, a tag or a commit of {url}?")))
            .doing(doing)?;
    }
    git(&tree, &["clean", "-qfdx"]).doing(doing)?;
    Ok(tree)
}

/// Copies what git tracks, with the edits that are not committed, and the history for `git describe`.
pub(super) fn copy_tree(path: &Path, scratch: &Path) -> Result<(PathBuf, TempDir)> {
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
    Ok((tree, copy))
}

/// Runs git in a directory; its output.
pub(super) fn git(dir: &Path, args: &[&str]) -> Result<String> {
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

    #[test]
    fn refs_of_urls() {
        for (text, url, reference) in [
            ("https://host/oar.git", "https://host/oar.git", None),
            ("https://host/oar.git@2.5.9", "https://host/oar.git", Some("2.5.9")),
            ("ssh://git@host/oar.git", "ssh://git@host/oar.git", None),
            ("ssh://git@host/oar.git@feature/x", "ssh://git@host/oar.git", Some("feature/x")),
            ("git@host:oar.git@main", "git@host:oar.git", Some("main")),
            ("file:///a/b@c", "file:///a/b", Some("c")),
            ("https://host/oar.git@", "https://host/oar.git@", None),
        ] {
            assert_eq!(parse(text), (url.to_owned(), reference.map(ToOwned::to_owned)), "{text}");
        }
    }
}
