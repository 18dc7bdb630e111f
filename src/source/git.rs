//! Git working trees and remote repositories.

use crate::error::{Context as _, Error, Result};
use crate::rooted::{Root, link_target, open_plain, own_path};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, openat, symlinkat};
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
    let git = Git { owner, dir: own_path(&dir) };
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
    check_out(&Git { owner, dir: own_path(&fd) }, url, reference).doing(doing)?;
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

/// Copies what git tracks, with the edits that are not committed, and the history for `git describe`. `at` is a path at which
/// the tree's owner can reach it, `copy` a directory of ours that he can.
pub(super) fn copy_tree(tree: &Root, at: &Path, copy: &Path) -> Result<Root> {
    let doing = || format!("cannot copy the git working tree {}", tree.path().display());
    let (_, stat) = tree.entry(Path::new(".git")).doing(doing)?;
    let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
    owner.give(&fs::File::open(copy).doing(doing)?).doing(doing)?;
    let to = copy.join("oar");
    let (theirs, ours) = (Git { owner, dir: at.into() }, Git { owner, dir: to.clone() });
    // Tracked files as they are now, edits included; the history comes along for `git describe`.
    theirs.run(&["clone", "--quiet", "--no-checkout", "--shared", ".", &to.to_string_lossy()]).doing(doing)?;
    let names = theirs.bytes(&["ls-files", "-z"]).doing(doing)?;
    let new = Root::beneath(&to)?;
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        copy_entry(tree, &new, Path::new(OsStr::from_bytes(name))).doing(doing)?;
    }
    // Inside the container the objects are not where the clone borrows them from.
    ours.run(&["repack", "-a", "-d", "-q"]).doing(doing)?;
    new.remove(Path::new(".git/objects/info/alternates")).doing(doing)?;
    ours.run(&["reset", "--quiet"]).doing(doing)?;
    Ok(new)
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

/// Whose a tree is.
#[derive(Debug, Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    fn give(self, fd: &impl AsFd) -> std::io::Result<()> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        // A descriptor that was opened as a path alone is enough.
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        Ok(rustix::fs::chownat(fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
    }
}

/// git in a directory, as the owner of the tree: what the tree's configuration says is its owner's word, not root's.
#[derive(Debug)]
struct Git {
    owner: Owner,
    dir: PathBuf,
}

/// What no configuration of a tree can have git run.
const QUIET: [&str; 3] = ["core.fsmonitor=false", "core.hooksPath=/dev/null", "protocol.ext.allow=never"];

/// Variables of the caller that would lead git elsewhere.
const MISLEADING: [&str; 8] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
];

impl Git {
    /// Runs it; its output as text.
    fn run(&self, args: &[&str]) -> Result<String> {
        self.bytes(args).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Runs it; its output.
    fn bytes(&self, args: &[&str]) -> Result<Vec<u8>> {
        let mut command = Command::new("git");
        // Also where parts of the tree are somebody else's.
        command.args(["-c", "safe.directory=*"]).args(QUIET.iter().flat_map(|setting| ["-c", setting])).args(args);
        command.current_dir(&self.dir).stdin(Stdio::null());
        for name in MISLEADING {
            command.env_remove(name);
        }
        let me = nix::unistd::geteuid();
        if me.is_root() && self.owner.uid != 0 {
            let account = nix::unistd::User::from_uid(self.owner.uid.into()).ok().flatten();
            let home = account.map_or_else(|| "/nonexistent".into(), |user| user.dir);
            command.uid(self.owner.uid).gid(self.owner.gid).env("HOME", home).env_remove("XDG_CONFIG_HOME");
        }
        // SAFETY: prctl is safe between fork and exec. A git that waits for a server ends with us.
        unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?)) };
        let out = command.output().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new("git is not installed").hint("install it: apt install git"),
            _ => Error::new(format!("cannot run git in {}: {e}", self.dir.display())),
        })?;
        if out.status.success() {
            Ok(out.stdout)
        } else {
            Err(Error::new(format!("git {}: {}", args[0], String::from_utf8_lossy(&out.stderr).trim())))
        }
    }
}

/// git in a tree of the tests' own.
#[cfg(test)]
pub(super) fn git(dir: &Path, args: &[&str]) -> Result<String> {
    Git { owner: Owner { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }, dir: dir.into() }
        .run(args)
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
