//! The managed containerd: the host's own `containerd` binary, run as a private daemon where none answers.
//!
//! ```text
//! <runtime dir>/containerd/containerd.sock   its socket; shims live below as well and outlive it
//!                         /containerd.pid
//!                         /lock              held while one oardocker looks and starts
//! <data dir>/containerd/root                 images and snapshots
//!                      /config.toml
//!                      /containerd.log
//! ```

use crate::error::{Doing as _, Error, Result};
use crate::host::{self, Machine};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A private daemon boots in 0.03 s here; a busy machine may need a hundred times that.
const BOOT: Duration = Duration::from_secs(10);

/// Makes sure that the managed containerd runs. True when it had to be started.
pub fn ensure(machine: &Machine) -> Result<bool> {
    if answers(machine) {
        return Ok(false);
    }
    let dir = private_dir(&machine.runtime_dir().join("containerd"))?;
    if machine.delegated_cgroup().is_some() {
        // Who keeps the namespaces is about to start it again.
        let gone = || {
            host::holder_of(machine).is_none().then(|| "has ended with its namespaces: run the command again".into())
        };
        return await_answer(machine, &watch(&dir)?, gone).map(|()| true);
    }
    let lock = File::create(dir.join("lock")).doing(|| format!("cannot create a lock in {}", dir.display()))?;
    let _lock = host::lock(lock).doing(|| format!("cannot take the lock in {}", dir.display()))?;
    if answers(machine) {
        return Ok(false);
    }
    spawn(machine, &dir)?;
    Ok(true)
}

/// Runs it as a child, for who keeps a user's namespaces.
pub fn run(machine: &Machine) -> Result<Child> {
    spawn(machine, &private_dir(&machine.runtime_dir().join("containerd"))?)
}

/// Whether there is a `containerd` program to run.
pub fn installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join("containerd").is_file())
}

/// Ends the managed containerd, if it runs. Its images stay on disk. Without root the namespaces end as well.
pub(super) fn shut_down(machine: &Machine) -> Result<()> {
    let holder = machine.delegated_cgroup().and_then(|_| host::holder_of(machine));
    let Some(pid) = holder.or_else(|| running_pid(machine)) else { return Ok(()) };
    let pidfd = rustix::process::pidfd_open(pid_of(pid), rustix::process::PidfdFlags::empty());
    kill(Pid::from_raw(pid), Signal::SIGTERM).doing(|| format!("cannot end the managed containerd (pid {pid})"))?;
    if let Ok(fd) = pidfd {
        let borrowed = std::os::fd::AsFd::as_fd(&fd);
        let mut fds = [nix::poll::PollFd::new(borrowed, nix::poll::PollFlags::POLLIN)];
        let _ = nix::poll::poll(&mut fds, nix::poll::PollTimeout::from(10_000_u16));
    }
    let _ = fs::remove_dir_all(machine.runtime_dir().join("containerd"));
    if holder.is_some() { host::stop_unit(machine) } else { Ok(()) }
}

fn pid_of(pid: i32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(pid).expect("a pid from a pid file is positive")
}

fn running_pid(machine: &Machine) -> Option<i32> {
    let file = machine.runtime_dir().join("containerd/containerd.pid");
    let pid: i32 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (pid > 0 && command.trim() == "containerd").then_some(pid)
}

fn answers(machine: &Machine) -> bool {
    std::os::unix::net::UnixStream::connect(machine.managed_socket()).is_ok()
}

fn private_dir(dir: &Path) -> Result<PathBuf> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .doing(|| format!("cannot create {}", dir.display()))?;
    Ok(dir.into())
}

/// Sockets have to be short; a path from an environment variable may be anything.
pub fn require_short_socket(machine: &Machine) -> Result<()> {
    let socket = machine.managed_socket();
    if socket.as_os_str().len() <= 100 {
        return Ok(());
    }
    Err(Error::new(format!("{} is too long for a socket", socket.display()))
        .hint("set OARDOCKER_RUNTIME_DIR to a shorter path"))
}

/// Tells of sockets that appear in a directory.
fn watch(dir: &Path) -> Result<Inotify> {
    let watch =
        Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).doing(|| "cannot watch a directory".into())?;
    watch
        .add_watch(dir, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)
        .doing(|| format!("cannot watch {}", dir.display()))?;
    Ok(watch)
}

fn spawn(machine: &Machine, dir: &Path) -> Result<Child> {
    let data = private_dir(&machine.data_dir().join("containerd"))?;
    let (config, log) = (data.join("config.toml"), data.join("containerd.log"));
    let socket = machine.managed_socket();
    require_short_socket(machine)?;
    let text = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\", \
         \"io.containerd.internal.v1.restart\", \"io.containerd.snapshotter.v1.aufs\", \
         \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.devmapper\", \
         \"io.containerd.snapshotter.v1.zfs\"]\n[grpc]\naddress = {:?}\n",
        data.join("root").to_string_lossy(),
        dir.join("state").to_string_lossy(),
        socket.to_string_lossy(),
    );
    fs::write(&config, text).doing(|| format!("cannot write {}", config.display()))?;
    let log_file = File::create(&log).doing(|| format!("cannot create {}", log.display()))?;
    let _ = fs::remove_file(&socket);
    let watch = watch(dir)?;

    let mut command = Command::new("containerd");
    command
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log_file.try_clone().doing(|| "cannot duplicate a file".into())?)
        .stderr(log_file)
        .current_dir("/")
        .process_group(0);
    host::shed_descriptors(&mut command);
    let mut child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new("no containerd answers, and there is no `containerd` program to start")
                .hint("install it: apt install containerd runc")
                .hint("or name a running one: --docker-host containerd:///run/containerd/containerd.sock")
        }
        _ => Error::new(format!("cannot start containerd: {e}")),
    })?;
    let pid_file = dir.join("containerd.pid");
    fs::write(&pid_file, child.id().to_string()).doing(|| format!("cannot write {}", pid_file.display()))?;
    let ended = || child.try_wait().ok().flatten().map(|status| format!("ended at once ({status})"));
    match await_answer(machine, &watch, ended) {
        Ok(()) => Ok(child),
        Err(e) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(with_log(e, &log))
        }
    }
}

/// Waits until it answers, or has `ended`.
fn await_answer(machine: &Machine, watch: &Inotify, mut ended: impl FnMut() -> Option<String>) -> Result<()> {
    let (socket, deadline) = (machine.managed_socket(), Instant::now() + BOOT);
    loop {
        if fs::metadata(&socket).is_ok_and(|m| m.file_type().is_socket()) && answers(machine) {
            return Ok(());
        }
        if let Some(how) = ended() {
            return Err(Error::new(format!("the managed containerd {how}")));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::new(format!("the managed containerd did not answer within {BOOT:?}")));
        }
        // Wakes at the creation of the socket; the short bound notices a daemon that died, or a bind not yet listening.
        let fd = std::os::fd::AsFd::as_fd(watch);
        let mut fds = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
        let _ = nix::poll::poll(&mut fds, nix::poll::PollTimeout::from(left.as_millis().min(50) as u16));
        let _ = watch.read_events();
    }
}

fn with_log(error: Error, log: &Path) -> Error {
    let text = fs::read_to_string(log).unwrap_or_default();
    let tail: Vec<String> = text.lines().rev().take(10).map(Into::into).collect();
    error.detail(tail.into_iter().rev()).hint(format!("its log is {}", log.display()))
}
