//! Which engine: the meaning of `--docker-host`.

use super::Engine;
use super::containerd::{self, Containerd};
use super::docker::Docker;
use super::rootless::podman_socket;
use crate::error::{Error, Result};
use crate::host::{is_rootless, managed_socket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where containerd listens on every distribution.
const SYSTEM_SOCKET: &str = "/run/containerd/containerd.sock";

/// Where Docker Engine and Podman listen for root.
const DOCKER_SOCKETS: [&str; 2] = ["/run/docker.sock", "/run/podman/podman.sock"];

/// A parsed `--docker-host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// CONTAINERD_ADDRESS, DOCKER_HOST, or the system's containerd if it answers, else a managed one; a Docker-compatible
    /// socket where there is no containerd program.
    Auto,
    /// A containerd of our own.
    Managed,
    /// This containerd.
    Containerd(PathBuf),
    /// This Docker-compatible socket.
    Docker(PathBuf),
}

/// Reads the value of `--docker-host`.
pub fn parse(text: &str) -> Result<Address> {
    if let Some(path) = text.strip_prefix("containerd://").filter(|p| !p.is_empty()) {
        return Ok(Address::Containerd(path.into()));
    }
    if let Some(path) = text.strip_prefix("unix://").filter(|p| !p.is_empty()) {
        return Ok(Address::Docker(path.into()));
    }
    match text {
        "auto" => Ok(Address::Auto),
        "managed" => Ok(Address::Managed),
        _ => Err(Error::usage(format!("--docker-host {text:?} is not understood"))
            .hint("use auto, managed, containerd:///run/containerd/containerd.sock or unix:///run/docker.sock")),
    }
}

/// Connects; the second value says in one line which engine `auto` took, or that one had to be started.
pub async fn connect(address: &Address) -> Result<(Arc<dyn Engine>, Option<String>)> {
    require_root()?;
    match address {
        Address::Docker(path) => Ok((Arc::new(Docker::connect(path).await?), None)),
        Address::Containerd(path) => Ok((Arc::new(Containerd::connect(path, false).await?), None)),
        Address::Managed => {
            let (engine, line) = managed().await?;
            Ok((engine, line.filter(|l| l.starts_with("Started"))))
        }
        Address::Auto => auto().await,
    }
}

async fn auto() -> Result<(Arc<dyn Engine>, Option<String>)> {
    let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    if let Some(path) = variable("CONTAINERD_ADDRESS") {
        return taken(Containerd::connect(Path::new(&path), false).await?, " (CONTAINERD_ADDRESS)");
    }
    if let Some(host) = variable("DOCKER_HOST") {
        let path = host.strip_prefix("unix://").ok_or_else(|| {
            Error::new(format!("DOCKER_HOST is {host:?}, and only an engine on this host can be used"))
                .hint("unset it, or choose another engine: --docker-host managed")
        })?;
        return taken(Docker::connect(Path::new(path)).await?, " (DOCKER_HOST)");
    }
    if let Some(socket) = podman_socket().filter(|_| is_rootless()) {
        return taken(Docker::connect(&socket).await?, "");
    }
    if UnixStream::connect(SYSTEM_SOCKET).is_ok() {
        return taken(Containerd::connect(Path::new(SYSTEM_SOCKET), false).await?, "");
    }
    let containerd = containerd::installed();
    match DOCKER_SOCKETS.iter().find(|path| !containerd && UnixStream::connect(path).is_ok()) {
        Some(path) => taken(Docker::connect(Path::new(path)).await?, ""),
        None => managed().await,
    }
}

/// The engine that `auto` took, with the line that says so.
fn taken(engine: impl Engine + 'static, why: &str) -> Result<(Arc<dyn Engine>, Option<String>)> {
    let info = engine.info();
    let line = format!("Using {} {} at {}{why}", info.name, info.version, info.docker_host);
    Ok((Arc::new(engine), Some(line)))
}

async fn managed() -> Result<(Arc<dyn Engine>, Option<String>)> {
    let started = tokio::task::spawn_blocking(containerd::ensure_managed)
        .await
        .map_err(|e| Error::new(format!("cannot start containerd: {e}")))??;
    let engine = Containerd::connect(&managed_socket(), true).await?;
    let verb = if started { "Started" } else { "Using" };
    let line = format!("{verb} managed containerd {} at {}", engine.info().version, managed_socket().display());
    Ok((Arc::new(engine), Some(line)))
}

/// In the namespaces of a user's own Podman we are root as well.
fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new("container engines, network namespaces and cgroups need root, and you are not")
        .hint("run it with sudo: sudo oardocker ...")
        .hint("or use a Podman of your own: systemctl --user start podman.socket (docs/engines.md)")
        .hint("without root these work: init, --dry-run, --help, completion"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_host_values() {
        assert_eq!(parse("auto").unwrap(), Address::Auto);
        assert_eq!(parse("managed").unwrap(), Address::Managed);
        assert_eq!(parse("containerd:///x").unwrap(), Address::Containerd("/x".into()));
        assert_eq!(parse("unix://var/run/docker.sock").unwrap(), Address::Docker("var/run/docker.sock".into()));
        for bad in ["", "tcp://1.2.3.4", "containerd://", "/run/x.sock"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
