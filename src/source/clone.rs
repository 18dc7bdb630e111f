//! Git working trees and remote repositories.

use super::history;
use crate::error::{Doing as _, Error, Result};
use crate::host::git::{Git, Owner};
use crate::rooted::{Root, link_target, open_plain, own_path};
use rustix::fs::{FileType, Mode, OFlags, openat, symlinkat};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

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

/// Where a clone is kept in the env dir.
const KEPT: &str = "postinstall";

/// What a clone's own configuration is, whoever wrote another one there: it says nothing that git would run.
const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tbare = false\n";

/// Clones a repository into the env dir, or updates the clone of the last time; checks the ref out.
pub(super) fn fetch(url: &str, reference: Option<&str>, env_dir: &Root, say: &dyn Fn(&str)) -> Result<Root> {
    let doing = || format!("cannot fetch {url}");
    let kept = Path::new(KEPT);
    let (dir, made) = env_dir.make_dir(kept).doing(doing)?;
    let (_, owner) = env_dir.handle(Path::new("/")).doing(doing)?;
    let owner = Owner { uid: owner.st_uid, gid: owner.st_gid };
    if !made.is_empty() {
        owner.give(&dir).doing(doing)?;
    }
    let git = Git { owner, dir: own_path(&dir), repository: None, offline: false, alone: None, agent: None };
    let place = kept.join("oar-git");
    // A link in its place, or one to a repository elsewhere, is none of ours: it goes, and what it leads to stays.
    let there = |name: &str| {
        let found = env_dir.entry(&place.join(name));
        found.is_ok_and(|(_, stat)| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    };
    let known =
        if there("") && there(".git") { env_dir.text(&format!("{KEPT}/oar-git/.oardocker-url"))? } else { None };
    if known.is_some_and(|known| known == url) {
        say(&format!("Updating {} from {url}", env_dir.path().join(&place).display()));
    } else {
        say(&format!("Cloning {url}"));
        // Beside its place first: a clone that was killed must not look like one.
        let new = kept.join("oar-git.new");
        env_dir.remove(&place).doing(doing)?;
        env_dir.remove(&new).doing(doing)?;
        git.run(&["clone", "--quiet", "--no-checkout", "--", url, "oar-git.new"]).doing(doing)?;
        env_dir.replace(&new.join(".oardocker-url"), url.as_bytes(), 0o644).doing(doing)?;
        rustix::fs::renameat(&dir, "oar-git.new", &dir, "oar-git").map_err(std::io::Error::from).doing(doing)?;
    }
    let config =
        format!("{CONFIG}[remote \"origin\"]\n\turl = {url:?}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n");
    env_dir.replace(&place.join(".git/config"), config.as_bytes(), 0o644).doing(doing)?;
    let tree = env_dir.sub(&place).doing(doing)?;
    let fd = tree.lockable()?;
    check_out(
        &Git { owner, dir: own_path(&fd), repository: None, offline: false, alone: None, agent: None },
        url,
        reference,
    )
    .doing(doing)?;
    Ok(tree)
}

fn check_out(git: &Git, url: &str, reference: Option<&str>) -> Result<()> {
    git.run(&["fetch", "--quiet", "--tags", "--force", "--prune", "origin"])?;
    git.run(&["remote", "set-head", "origin", "--auto"])?;
    let wanted = reference.unwrap_or("HEAD");
    let branch = format!("refs/remotes/origin/{wanted}");
    if git.run(&["rev-parse", "--verify", "--quiet", &branch]).is_ok() {
        let name = if wanted == "HEAD" {
            let full = git.run(&["symbolic-ref", "--short", &branch])?;
            full.trim().trim_start_matches("origin/").to_owned()
        } else {
            wanted.to_owned()
        };
        git.run(&["checkout", "--quiet", "--force", "-B", &name, &branch])?;
    } else {
        git.run(&["checkout", "--quiet", "--force", "--detach", wanted])
            .map_err(|e| e.hint(format!("is {wanted:?} a branch, a tag or a commit of {url}?")))?;
    }
    git.run(&["clean", "-qfdx", "--exclude=/.oardocker-url"]).map(drop)
}

/// Copies what git tracks, with the edits that are not committed, and of the history what `git describe` wants. `at` is a path at
/// which the tree's owner can reach it, `copy` a directory of ours that he can.
pub(super) fn copy_tree(tree: &Root, at: &Path, copy: &Path) -> Result<Root> {
    let doing = || format!("cannot copy the git working tree {}", tree.path().display());
    let (_, stat) = tree.entry(Path::new(".git")).doing(doing)?;
    let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
    owner.give(&fs::File::open(copy).doing(doing)?).doing(doing)?;
    let to = copy.join("oar");
    let repository = elsewhere(tree).doing(doing)?;
    if let Some(repository) = &repository {
        owned(repository, owner).doing(doing)?;
    }
    let theirs = Git { owner, dir: at.into(), repository, offline: true, alone: None, agent: None };
    let format = theirs.run(&["rev-parse", "--show-object-format"]).unwrap_or_else(|_| "sha1".into());
    let here = Git { owner, dir: copy.into(), repository: None, offline: true, alone: None, agent: None };
    // Of a git that knows one format only, the option as well.
    let format = (format.trim() != "sha1").then(|| format!("--object-format={}", format.trim()));
    here.run(&[&["init", "--quiet"][..], &format.iter().map(String::as_str).collect::<Vec<_>>(), &["oar"]].concat())
        .doing(doing)?;
    // A submodule that is broken has nothing to copy.
    let names =
        theirs.bytes(&["ls-files", "-z", "--recurse-submodules"]).or_else(|_| theirs.bytes(&["ls-files", "-z"]));
    let new = Root::beneath(&to)?;
    for name in names.doing(doing)?.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        copy_entry(tree, &new, Path::new(OsStr::from_bytes(name))).doing(doing)?;
    }
    history::copy(&theirs, &Git { owner, dir: to, repository: None, offline: true, alone: None, agent: None }, &new)
        .doing(doing)?;
    Ok(new)
}

/// Where a tree's repository is, if it is not in the tree: a worktree and a submodule have a file that tells. What that says of a
/// place relative to the tree is true at its own place only, and not where we show it to its owner.
fn elsewhere(tree: &Root) -> Result<Option<PathBuf>> {
    if !tree.is_file(Path::new(".git")) {
        return Ok(None);
    }
    let text = tree.needed(".git")?;
    let place = text.trim_end_matches(['\n', '\r']).strip_prefix("gitdir: ");
    let place = place.ok_or_else(|| Error::new(format!("{}/.git names no repository", tree.path().display())))?;
    Ok(Some(tree.path().join(place)))
}

/// Fails when a repository elsewhere is not of the account that the tree says: its configuration would be somebody else's word.
fn owned(repository: &Path, owner: Owner) -> Result<()> {
    let root = Root::open(repository)?;
    // A worktree has its own part of the repository, and names the rest.
    let common = root.text("/commondir")?.map(|text| repository.join(text.trim_end_matches('\n')));
    for dir in [Some(repository.to_owned()), common].into_iter().flatten() {
        let doing = || format!("cannot look at {}", dir.display());
        let uid = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&dir).doing(doing)?);
        if uid != owner.uid {
            return Err(Error::new(format!(
                "its repository {} belongs to user {uid}, and the tree's .git to {}",
                dir.display(),
                owner.uid
            ))
            .hint("clone the repository, or give both to one account"));
        }
    }
    Ok(())
}

/// Copies a file or a link. One that was deleted, or is something else, is left out.
fn copy_entry(tree: &Root, new: &Root, name: &Path) -> Result<()> {
    let doing = || format!("cannot copy {}", name.display());
    let (fd, stat) = match tree.entry(name) {
        Err(e) if matches!(e.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENOTDIR)) => return Ok(()),
        found => found.doing(doing)?,
    };
    let (dir, made) = new.make_dir(name.parent().unwrap_or(Path::new("/")))?;
    let owner = new.handle(Path::new("/")).map(|(_, top)| Owner { uid: top.st_uid, gid: top.st_gid }).doing(doing)?;
    for path in made {
        owner.give(&new.make_dir(&path)?.0).doing(doing)?;
    }
    let file_name = name.file_name().unwrap_or_default();
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => symlinkat(link_target(&fd).doing(doing)?, &dir, file_name).map_err(std::io::Error::from),
        FileType::RegularFile => {
            let mut from = open_plain(&fd, &stat).doing(doing)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let to = openat(&dir, file_name, flags, Mode::from_raw_mode(0o600)).map_err(std::io::Error::from);
            let mut to = fs::File::from(to.doing(doing)?);
            std::io::copy(&mut from, &mut to).doing(doing)?;
            owner.give(&to).doing(doing)?;
            rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o777)).map_err(std::io::Error::from)
        }
        _ => Ok(()),
    }
    .doing(doing)
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
