//! A process of ours on the host for as long as a cluster is there: it starts nodes again that OAR has shut down and wakes, as the
//! service processor of a real node would. It waits for files in a directory that only the server sees, and runs
//! `oardocker reset --stopped NODE`: all the rest is that command's. It ends when `stop` hangs up on it, or when its directory goes.

use super::files::Files;
use crate::error::{Doing as _, Error, Result};
use crate::host::{self, Machine};
use crate::rooted::{Root, own_path};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags};
use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

/// The variable that makes an oardocker a keeper, with the environment's id.
pub const VARIABLE: &str = "_OARDOCKER_KEEPER";

/// Where the server puts a file for each node that it wakes.
pub const WAKE_DIR_INSIDE: &str = "/var/lib/container/wake";

/// How long a keeper may take to end.
const ENDING: Duration = Duration::from_secs(10);

/// Starts the keeper of a cluster. `global` are the options with which its commands find the cluster.
pub fn summon(machine: &Machine, files: &Files, env_id: &str, global: &[OsString]) -> Result<()> {
    let doing = || "cannot start what wakes nodes".to_owned();
    let log = std::fs::File::create(files.path("keeper.log")).doing(doing)?;
    let mut command = if machine.delegated_cgroup().is_some() {
        // Not in the session of who starts it, where it would stay without a cluster. Another program starts it there.
        host::in_scope(machine, std::env::current_exe().doing(doing)?)
    } else {
        let mut command = Command::new(machine.program());
        command.arg0("oardocker");
        command
    };
    command.args(global).env(VARIABLE, env_id).current_dir("/").stdin(Stdio::null());
    command.envs(machine.inherited());
    host::shed_descriptors(&mut command);
    command.stdout(log.try_clone().doing(doing)?).stderr(log);
    command.spawn().map(drop).doing(doing)
}

/// Has the keeper end, and waits for that. None there is fine.
pub async fn dismiss(files: &Files) -> Result<()> {
    let Ok(dir) = opened(files.dir()) else { return Ok(()) };
    let Ok(mut keeper) = UnixStream::connect(own_path(&dir).join("keeper")).await else { return Ok(()) };
    // It says nothing: the end of the connection is that of the process.
    match tokio::time::timeout(ENDING, keeper.read(&mut [0])).await {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::new(format!("what wakes nodes is still there after {} s", ENDING.as_secs()))),
    }
}

fn opened(dir: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

/// What a keeper does. `global` goes in front of each command.
pub fn keep(machine: &Machine, env_id: &str, global: &[OsString]) -> Result<()> {
    let files = Files::new(machine, env_id);
    let doing = || format!("cannot keep {env_id}");
    // The terminal that goes away is not ours.
    nix::unistd::setsid().doing(doing)?;
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).doing(doing)?;
    let events = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE_SELF;
    watch.add_watch(&files.wake_dir(), events | AddWatchFlags::IN_ONLYDIR).doing(doing)?;
    let dir = opened(files.dir()).doing(doing)?;
    let dismissed = UnixListener::bind(own_path(&dir).join("keeper")).doing(doing)?;
    let mut running: Option<(Child, OwnedFd)> = None;
    loop {
        // One at a time; what comes meanwhile waits in the directory.
        if running.is_none() {
            let Ok(names) = asked_for(&files) else { return Ok(()) };
            // One that could not be run is no reason to hear of no other.
            running = if names.is_empty() { None } else { reset(machine, global, &names).ok() };
        }
        let ended = running.as_ref().map(|(_, pidfd)| pidfd.as_fd());
        let mut fds =
            vec![PollFd::new(dismissed.as_fd(), PollFlags::POLLIN), PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        fds.extend(ended.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e).doing(doing),
        }
        let came: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if came[0] {
            // Whoever dismisses us keeps others from working on the cluster: a reset that waits for that is not wanted any more.
            if let Some((child, _)) = &mut running {
                let _ = kill(Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)), Signal::SIGTERM);
                let _ = child.wait();
            }
            let _last = dismissed.accept();
            return Ok(());
        }
        while watch.read_events().is_ok_and(|events| !events.is_empty()) {}
        if came.get(2) == Some(&true)
            && let Some((mut child, _)) = running.take()
        {
            let _ = child.wait();
        }
    }
}

/// The nodes for which there are files, which are taken away.
fn asked_for(files: &Files) -> Result<Vec<String>> {
    let dir = Root::open(&files.wake_dir())?;
    let known = files.nodes()?;
    let mut nodes = Vec::new();
    for name in dir.names(Path::new("/")).doing(|| "cannot read who is to be woken".into())? {
        // The directory is the server's, which may write anything there; and OAR may know nodes that are none of ours.
        nodes.extend(known.iter().filter(|node| name.to_str() == Some(node)).cloned());
        dir.remove(Path::new(&name))?;
    }
    Ok(nodes)
}

fn reset(machine: &Machine, global: &[OsString], nodes: &[String]) -> Result<(Child, OwnedFd)> {
    let doing = || "cannot run oardocker reset".to_owned();
    let mut command = Command::new(machine.program());
    command.arg0("oardocker");
    command.args(global).args(["reset", "--stopped"]).args(nodes).env_remove(VARIABLE).stdin(Stdio::null());
    let child = command.spawn().doing(doing)?;
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::new("it has no process id")).doing(doing)?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    Ok((child, pidfd.map_err(std::io::Error::from).doing(doing)?))
}
