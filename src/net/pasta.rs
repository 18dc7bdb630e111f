//! The way out of a namespace of a user's without root: `pasta`, which speaks for it with sockets of the host. It is a scope of the user's
//! systemd, so that it ends with all the rest.

use crate::error::{Doing as _, Error, Result};
use crate::host::{Machine, in_scope};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// One that is not ready after this time will not be.
const SETUP: Duration = Duration::from_secs(20);

/// How long one may take to end, in milliseconds.
const ENDING: u16 = 10_000;

fn pid_file(namespace: &Path) -> PathBuf {
    namespace.with_extension("pasta")
}

/// What it is told: no port of either side is one of the other's, and nothing of the host's loopback is reached from inside.
const ARGUMENTS: [&str; 20] = [
    "--config-net",
    // Not the host's own, which would not be reached then.
    "-a",
    "169.254.2.2",
    "-n",
    "24",
    "-g",
    "169.254.2.1",
    "--no-map-gw",
    "--quiet",
    "--ipv4-only",
    "--mtu",
    "65520",
    "-t",
    "none",
    "-u",
    "none",
    "-T",
    "none",
    "-U",
    "none",
];

/// Connects a namespace, where the host has a network that it could be connected with.
pub(super) async fn attach(machine: &Machine, namespace: &Path) -> Result<()> {
    let doing = || "cannot connect a network to the host's with pasta".to_owned();
    let routes = std::fs::read_to_string("/proc/net/route").doing(doing)?;
    let Some(interface) = interface(&routes) else { return Ok(()) };
    let mut command = tokio::process::Command::from(in_scope(machine, "pasta"));
    command.args(ARGUMENTS).args(["-i", interface]).arg("--pid").arg(pid_file(namespace)).arg("--netns").arg(namespace);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // It goes to the background when it is ready.
    let ended = tokio::time::timeout(SETUP, command.kill_on_drop(true).output());
    let out =
        ended.await.map_err(|_| Error::new(format!("it is not ready after {SETUP:?}"))).doing(doing)?.doing(doing)?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    Err(Error::new(format!("it ended ({})", out.status)).detail(said.lines().map(str::to_owned))).doing(doing)
}

/// Of the kernel's routes that of an interface by which others are reached: of the default one, or else of any, as in a laboratory's own
/// network. Its sockets go where the host's do; it wants one to be named.
fn interface(routes: &str) -> Option<&str> {
    let routes: Vec<(&str, &str)> = routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(name, _)| *name != "lo")
        .collect();
    let default = routes.iter().find(|(_, to)| *to == "00000000");
    default.or(routes.first()).map(|(name, _)| *name)
}

/// Ends the one of a namespace, if it runs.
pub(super) fn end(namespace: &Path) -> Result<()> {
    let text = std::fs::read_to_string(pid_file(namespace)).unwrap_or_default();
    let Some(pid) = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw) else { return Ok(()) };
    // Its number may be that of another program by now.
    let Ok(open) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return Ok(()) };
    let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    if !command.split(|byte| *byte == 0).any(|word| word == namespace.as_os_str().as_bytes()) {
        return Ok(());
    }
    let doing = || "cannot end pasta".to_owned();
    kill(Pid::from_raw(pid.as_raw_nonzero().get()), Signal::SIGTERM).doing(doing)?;
    let mut fds = [nix::poll::PollFd::new(open.as_fd(), nix::poll::PollFlags::POLLIN)];
    match nix::poll::poll(&mut fds, nix::poll::PollTimeout::from(ENDING)).doing(doing)? {
        0 => Err(Error::new("it does not end")).doing(doing),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_out_is_that_of_the_default_route_or_any() {
        let head = "Iface\tDestination\tGateway\tFlags\n";
        let lan = format!("{head}lo\t0000007F\t00000000\t0001\nib0\t0000070A\t00000000\t0001\n");
        assert_eq!(interface(&lan), Some("ib0"));
        assert_eq!(interface(&format!("{lan}eth0\t00000000\t0101A8C0\t0003\n")), Some("eth0"));
        assert_eq!(interface(head), None);
    }
}
