//! git as a program: run as the owner of a tree, with nothing of the tree's configuration that would be run.

use crate::error::{Doing as _, Error, Result};
use nix::sys::resource::Resource;
use rustix::fs::{AtFlags, Gid, Uid};
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Whose a tree is.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Owner {
    /// Gives something that is open to them; who is not root keeps it.
    pub fn give(self, fd: &impl AsFd) -> std::io::Result<()> {
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
pub struct Git {
    /// Who runs it.
    pub owner: Owner,
    /// Where.
    pub dir: PathBuf,
    /// Where that is not in the directory.
    pub repository: Option<PathBuf>,
    /// With nothing of the account's own: no keys, no credentials, no configuration; and no file larger than so many bytes.
    pub alone: Option<u64>,
    /// An ssh agent that it may ask all the same.
    pub agent: Option<PathBuf>,
    /// What a partial clone lacks is not fetched in passing: a remote's configuration names programs.
    pub offline: bool,
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
    /// Of this process's own account, in a directory.
    pub fn own(dir: PathBuf) -> Self {
        let owner = Owner { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        Self { owner, dir, repository: None, offline: false, alone: None, agent: None }
    }

    /// Runs it; its output as text.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.bytes(args).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Runs it; its output.
    pub fn bytes(&self, args: &[&str]) -> Result<Vec<u8>> {
        self.fed(args, &[])
    }

    /// Runs it with something to read; its output.
    pub fn fed(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let doing = || format!("cannot run git in {}", self.dir.display());
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new("git is not installed").hint("install it: apt install git"),
            _ => Error::new(format!("{}: {e}", doing())),
        })?;
        let mut stdin = child.stdin.take();
        let out = std::thread::scope(|scope| {
            // What it does not want to read is no error.
            scope.spawn(move || stdin.take().map(|mut stdin| stdin.write_all(input)));
            child.wait_with_output()
        });
        let out = out.doing(doing)?;
        if out.status.success() {
            Ok(out.stdout)
        } else {
            Err(Error::new(format!("git {}: {}", args[0], String::from_utf8_lossy(&out.stderr).trim())))
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        // Also where parts of the tree are somebody else's.
        command.args(["-c", "safe.directory=*"]).args(QUIET.iter().flat_map(|setting| ["-c", setting]));
        if let Some(repository) = &self.repository {
            command.arg("--git-dir").arg(repository).args(["--work-tree", "."]);
        }
        command.args(args).current_dir(&self.dir);
        for name in MISLEADING {
            command.env_remove(name);
        }
        if self.offline {
            // Only newer gits know the first.
            command.env("GIT_NO_LAZY_FETCH", "1").env("GIT_ALLOW_PROTOCOL", "none");
        }
        let largest = self.alone;
        let me = nix::unistd::geteuid();
        if me.is_root() && self.owner.uid != 0 {
            let account = nix::unistd::User::from_uid(self.owner.uid.into()).ok().flatten();
            let home = account.map_or_else(|| "/nonexistent".into(), |user| user.dir);
            command.uid(self.owner.uid).gid(self.owner.gid).env("HOME", home).env_remove("XDG_CONFIG_HOME");
        }
        // SAFETY: prctl is safe between fork and exec. A git that waits for a server ends with us.
        unsafe {
            command.pre_exec(move || {
                if let Some(largest) = largest {
                    nix::sys::resource::setrlimit(Resource::RLIMIT_FSIZE, largest, largest)?;
                }
                Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?)
            })
        };
        if self.alone.is_some() {
            // Nobody is there to answer.
            command.env("GIT_TERMINAL_PROMPT", "0");
            command.env("HOME", "/nonexistent").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
            command.env_remove("SSH_AUTH_SOCK").env("GIT_SSH_COMMAND", "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts");
            if let Some(agent) = &self.agent {
                command.env("SSH_AUTH_SOCK", agent);
            }
            command.env("GIT_HTTP_LOW_SPEED_LIMIT", "1").env("GIT_HTTP_LOW_SPEED_TIME", "30");
        }
        command
    }
}
