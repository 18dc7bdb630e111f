//! Without root: namespaces of the user's, in which whoever enters them is root over the ids that `/etc/subuid` gives the user.
//!
//! Mounts, files of foreign owners and networks can be made there, and the engine of the same namespaces sees them. So this comes before
//! everything else, and the rest of oardocker hardly knows the difference; what differs is in [`Machine`]. They are those of the user's
//! Podman (`podman`), or oardocker's own (`own`), which one process keeps that the user's systemd runs (`holder`).

mod holder;
mod own;
mod podman;
mod requirements;

pub use holder::{VARIABLE as HOLDER, hold};

use super::address::{Address, parse, socket_of};
use crate::error::{Doing as _, Result};
use crate::host::{Machine, Root, podman_socket, whose_root};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// This machine; namespaces are entered if oardocker is not run by root and this `--docker-host` means an engine of the same user. Namespaces
/// are entered by thread: this must be called while there is only one.
pub fn enter(docker_host: &str) -> Result<Machine> {
    if nix::unistd::geteuid().is_root() {
        return Ok(Machine::new(whose_root()));
    }
    match parse(docker_host)? {
        Address::Docker(path) => podman::enter(&path),
        Address::Auto => match of_environment()? {
            Environment::Socket(path) => podman::enter(&path),
            Environment::Nothing => own::enter(),
            // Root's, which is of no use to anybody else: select says so.
            Environment::Containerd => Ok(Machine::new(Root::Host)),
        },
        Address::Managed => own::enter(),
        Address::Containerd(_) => Ok(Machine::new(Root::Host)),
    }
}

/// What `auto` finds without root.
enum Environment {
    /// `DOCKER_HOST`, or the user's Podman that answers.
    Socket(PathBuf),
    /// `CONTAINERD_ADDRESS`.
    Containerd,
    Nothing,
}

fn of_environment() -> Result<Environment> {
    let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    if variable("CONTAINERD_ADDRESS").is_some() {
        return Ok(Environment::Containerd);
    }
    let host = variable("DOCKER_HOST").map(|host| socket_of(&host)).transpose()?;
    let podman = || podman_socket().filter(|path| UnixStream::connect(path).is_ok());
    Ok(host.or_else(podman).map_or(Environment::Nothing, Environment::Socket))
}

/// Enters the user and the mount namespace of a process. It begins at the root there; so from here on in the same directory.
fn join(pid: &str) -> Result<()> {
    let open = |kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        File::open(&path).doing(|| format!("cannot open {path}"))
    };
    let (user, mounts) = (open("user")?, open("mnt")?);
    let here = std::env::current_dir().doing(|| "cannot tell the current directory".into())?;
    setns(&user, CloneFlags::CLONE_NEWUSER).doing(|| "user namespace".into())?;
    setns(&mounts, CloneFlags::CLONE_NEWNS).doing(|| "mount namespace".into())?;
    std::env::set_current_dir(&here).doing(|| format!("cannot go back to {}", here.display()))
}
