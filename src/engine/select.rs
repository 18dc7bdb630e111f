//! Which engine: the meaning of `--docker-host`.

use super::Engine;
use super::containerd::{self, Containerd};
use super::host::managed_socket;
use crate::error::{Error, Result};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where containerd listens on every distribution.
const SYSTEM_SOCKET: &str = "/run/containerd/containerd.sock";

/// A parsed `--docker-host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// CONTAINERD_ADDRESS or the system's containerd if it answers, else a managed one.
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
    match address {
        Address::Docker(path) => Err(Error::new(format!(
            "the Docker-compatible engine at {} cannot be used yet: this version drives containerd only",
            path.display()
        ))
        .hint("leave --docker-host away, or use --docker-host managed")),
        Address::Containerd(path) => {
            require_root()?;
            Ok((Arc::new(Containerd::connect(path, "containerd").await?), None))
        }
        Address::Managed => {
            require_root()?;
            let (engine, line) = managed().await?;
            Ok((engine, line.filter(|l| l.starts_with("Started"))))
        }
        Address::Auto => {
            require_root()?;
            if let Some(path) = std::env::var_os("CONTAINERD_ADDRESS").filter(|v| !v.is_empty()).map(PathBuf::from) {
                let engine = Containerd::connect(&path, "containerd").await?;
                let line =
                    format!("Using containerd {} at {} (CONTAINERD_ADDRESS)", engine.info().version, path.display());
                return Ok((Arc::new(engine), Some(line)));
            }
            if UnixStream::connect(SYSTEM_SOCKET).is_ok() {
                let engine = Containerd::connect(Path::new(SYSTEM_SOCKET), "containerd").await?;
                let line = format!("Using containerd {} at {SYSTEM_SOCKET}", engine.info().version);
                return Ok((Arc::new(engine), Some(line)));
            }
            managed().await
        }
    }
}

async fn managed() -> Result<(Arc<dyn Engine>, Option<String>)> {
    let started = tokio::task::spawn_blocking(containerd::ensure_managed)
        .await
        .map_err(|e| Error::new(format!("cannot start containerd: {e}")))??;
    let engine = Containerd::connect(&managed_socket(), "managed containerd").await?;
    let verb = if started { "Started" } else { "Using" };
    let line = format!("{verb} managed containerd {} at {}", engine.info().version, managed_socket().display());
    Ok((Arc::new(engine), Some(line)))
}

fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new("containerd, network namespaces and cgroups need root, and you are not")
        .hint("run it with sudo: sudo oardocker ...")
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
