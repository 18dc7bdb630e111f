//! Without root: the namespaces of the user's own Podman.
//!
//! Podman keeps a user namespace, with the ids that `/etc/subuid` gives the user, and a mount namespace, in which all of the
//! user's containers are made. Whoever enters both is root there: mounts and files of foreign owners can be made, and Podman sees
//! them. So this comes before everything else, and the rest of oardocker hardly knows the difference; what differs is in
//! [`Machine`].

use super::address::{Address, parse};
use super::docker::ping::{Pong, ping_alone};
use crate::error::{Doing as _, Error, Result};
use crate::host::{Machine, podman_socket, session_dir, starts_inside};
use nix::sched::{CloneFlags, setns};
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// What Debian's users and groups need.
const IDS: u64 = 65_536;

/// This machine; the namespaces are entered if oardocker is not run by root and this `--docker-host` means an engine of the same user. Namespaces are
/// entered by thread: this must be called while there is only one.
pub fn enter(docker_host: &str) -> Result<Machine> {
    if nix::unistd::geteuid().is_root() {
        return Ok(Machine::new(starts_inside()));
    }
    let socket = match parse(docker_host)? {
        Address::Docker(path) => Some(path),
        Address::Auto => of_environment(),
        Address::Managed | Address::Containerd(_) => None,
    };
    let Some(socket) = socket else { return Ok(Machine::new(false)) };
    let doing = || format!("cannot use the container engine at {}", socket.display());
    let pong = ping_alone(&socket).doing(doing)?;
    if pong.owner != nix::unistd::geteuid().as_raw() {
        // Root's, which is of no use to anybody else: select says so.
        return Ok(Machine::new(false));
    }
    if session_dir().is_none() {
        let id = nix::unistd::geteuid();
        return Err(Error::new("the variable XDG_RUNTIME_DIR is not set: this is no login session").hint(format!(
            "log in as yourself, or if you have a session elsewhere: export XDG_RUNTIME_DIR=/run/user/{id}"
        )));
    }
    let holder = holder(&pong).doing(doing)?;
    join(&holder).doing(|| format!("cannot enter the namespaces of process {holder}, which are Podman's"))?;
    Ok(Machine::new(true))
}

/// What `auto` means without root: DOCKER_HOST, or the user's Podman if it is there.
fn of_environment() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    if variable("CONTAINERD_ADDRESS").is_some() {
        return None;
    }
    match variable("DOCKER_HOST") {
        Some(host) => host.strip_prefix("unix://").map(PathBuf::from),
        None => podman_socket().filter(|path| UnixStream::connect(path).is_ok()),
    }
}

/// A process that is in Podman's namespaces: the service itself, or where systemd listens for it the one that Podman keeps for
/// holding them.
fn holder(pong: &Pong) -> Result<String> {
    if pong.podman.is_none() {
        return Err(Error::new("it is not Podman, and without root only Podman can be used")
            .hint("start Podman, and unset DOCKER_HOST: systemctl --user start podman.socket"));
    }
    let keeper = session_dir().and_then(|dir| fs::read_to_string(dir.join("libpod/tmp/pause.pid")).ok());
    let own = fs::read_link("/proc/self/ns/user").doing(|| "cannot read /proc/self/ns/user".into())?;
    let found = [Some(pong.listener.to_string()), keeper.map(|pid| pid.trim().to_owned())]
        .into_iter()
        .flatten()
        .find(|pid| fs::read_link(format!("/proc/{pid}/ns/user")).is_ok_and(|theirs| theirs != own));
    let enough = |pid: &String| ["uid_map", "gid_map"].iter().all(|map| ids(&format!("/proc/{pid}/{map}")) >= IDS);
    found.filter(enough).ok_or_else(|| {
        Error::new(format!("it has no user namespace with {IDS} ids"))
            .hint("it needs lines for you in /etc/subuid and /etc/subgid, and newuidmap; then: podman system migrate")
    })
}

/// How many ids a map of a user namespace has.
fn ids(map: &str) -> u64 {
    let text = fs::read_to_string(map).unwrap_or_default();
    text.lines().filter_map(|l| l.split_whitespace().nth(2)?.parse::<u64>().ok()).sum()
}

fn join(pid: &str) -> Result<()> {
    let open = |kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        File::open(&path).doing(|| format!("cannot open {path}"))
    };
    let (user, mounts) = (open("user")?, open("mnt")?);
    let here = std::env::current_dir().doing(|| "cannot tell the current directory".into())?;
    setns(&user, CloneFlags::CLONE_NEWUSER).doing(|| "user namespace".into())?;
    setns(&mounts, CloneFlags::CLONE_NEWNS).doing(|| "mount namespace".into())?;
    // It begins at the root there.
    std::env::set_current_dir(&here).doing(|| format!("cannot go back to {}", here.display())).map_err(|e| {
        e.hint("if it was mounted after Podman's first command: stop what Podman runs, then `podman system migrate`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_all_lines_of_a_map_count() {
        let dir = tempfile::tempdir().unwrap();
        let map = dir.path().join("uid_map");
        std::fs::write(&map, "         0       1000          1\n         1     100000      65535\n").unwrap();
        assert_eq!(ids(map.to_str().unwrap()), IDS);
        // The host's own, and one that has ended.
        std::fs::write(&map, "         0          0 4294967295\n").unwrap();
        assert!(ids(map.to_str().unwrap()) >= IDS);
        assert_eq!(ids("/nowhere/uid_map"), 0);
    }

    #[test]
    fn an_engine_that_is_not_podman_is_of_no_use() {
        let pong = Pong { podman: None, api: "1.41".into(), listener: 1, owner: 0 };
        let why = holder(&pong).unwrap_err().to_string();
        assert!(why.contains("it is not Podman"), "{why}");
    }
}
