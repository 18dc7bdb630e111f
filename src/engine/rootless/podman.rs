//! The namespaces of the user's own Podman: a user namespace, and a mount namespace in which all of the user's containers are made.

use super::join;
use crate::engine::docker::ping::{Pong, ping_alone};
use crate::error::{Doing as _, Error, Result};
use crate::host::{Machine, Root, session_dir};
use std::fs;
use std::path::Path;

/// What Debian's users and groups need.
const IDS: u64 = 65_536;

/// Enters those of the Podman that listens there, if it is this user's.
pub(super) fn enter(socket: &Path) -> Result<Machine> {
    let doing = || format!("cannot use the container engine at {}", socket.display());
    let pong = ping_alone(socket).doing(doing)?;
    if pong.owner != nix::unistd::geteuid().as_raw() {
        // Root's, which is of no use to anybody else: select says so.
        return Ok(Machine::new(Root::Host));
    }
    super::requirements::session()?;
    let holder = holder(&pong).doing(doing)?;
    join(&holder).doing(|| format!("cannot enter the namespaces of process {holder}, which are Podman's")).map_err(|e| {
        e.hint("if this directory was mounted after Podman's first command: stop what Podman runs, then `podman system migrate`")
    })?;
    Ok(Machine::new(Root::Podman))
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
