//! The way out of a namespace of a user's without root, and in to its published ports: `pasta`, which speaks for it with sockets of the
//! host. It is a scope of the user's systemd, so that it ends with all the rest.

use super::Port;
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

/// Connects a namespace. The host answers on these ports for it, which is to know what to do with them.
pub(super) async fn attach(machine: &Machine, namespace: &Path, ports: &[Port]) -> Result<()> {
    let doing = || "cannot connect a network to the host's with pasta".to_owned();
    let mut command = tokio::process::Command::from(in_scope(machine, "pasta"));
    command.args(arguments(ports)).arg("--pid").arg(pid_file(namespace)).arg("--netns").arg(namespace);
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

/// What it is told: nothing of the host's loopback is reached from inside, and of the inside what is published.
fn arguments(ports: &[Port]) -> Vec<String> {
    let mut all: Vec<String> =
        ["--config-net", "--no-map-gw", "--quiet", "--ipv4-only", "--mtu", "65520"].map(Into::into).into();
    for kind in ["-u", "-T", "-U"] {
        all.extend([kind.to_owned(), "none".into()]);
    }
    if ports.is_empty() {
        all.extend(["-t".to_owned(), "none".into()]);
    }
    for port in ports {
        let address = if port.any { "" } else { "127.0.0.1/" };
        all.extend(["-t".to_owned(), format!("{address}{}", port.host)]);
    }
    all
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
    fn ports_are_the_host_s_loopback_s_unless_asked() {
        let told = |any| arguments(&[Port { host: 40_080, container: 80, any }]).join(" ");
        assert!(told(false).ends_with("-t 127.0.0.1/40080"), "{}", told(false));
        assert!(told(true).ends_with("-t 40080"), "{}", told(true));
        let none = arguments(&[]).join(" ");
        assert!(none.ends_with("-t none") && none.contains("-T none") && none.contains("--no-map-gw"), "{none}");
    }
}
