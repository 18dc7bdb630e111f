//! Connecting to the engine that `--docker-host` means, with the image store that goes with it.

use super::address::{self, Address};
use super::containerd::{self, Containerd};
use super::docker::Docker;
use super::store::Store;
use super::{Engine, Images};
use crate::error::{Error, Result};
use crate::host::{Machine, podman_socket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

/// Where containerd listens on every distribution.
const SYSTEM_SOCKET: &str = "/run/containerd/containerd.sock";

/// Where Docker Engine and Podman listen for root.
const DOCKER_SOCKETS: [&str; 2] = ["/run/docker.sock", "/run/podman/podman.sock"];

/// Who keeps the images, and who runs what is made of them.
#[derive(Clone)]
pub struct Backend {
    /// The store.
    pub images: Arc<dyn Images>,
    /// The engine.
    pub engine: Arc<dyn Engine>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Backend").field(self.engine.info()).finish()
    }
}

impl Backend {
    /// containerd is both.
    async fn containerd(machine: &Machine, socket: &Path, managed: bool) -> Result<Self> {
        let both = Arc::new(Containerd::connect(machine, socket, managed).await?);
        Ok(Self { images: both.clone(), engine: both })
    }

    /// A Docker-compatible socket, and a store of ours.
    async fn docker(machine: &Machine, socket: &Path) -> Result<Self> {
        let store = Arc::new(Store::open(machine));
        let engine = Arc::new(Docker::connect(machine, socket, store.clone()).await?);
        Ok(Self { images: store, engine })
    }
}

/// Connects; the second value says in one line which engine `auto` took, or that one had to be started.
pub async fn connect(machine: &Machine, address: &Address) -> Result<(Backend, Option<String>)> {
    require_root()?;
    match address {
        Address::Docker(path) => Ok((Backend::docker(machine, path).await?, None)),
        Address::Containerd(path) => Ok((Backend::containerd(machine, path, false).await?, None)),
        Address::Managed => {
            let (backend, line) = managed(machine).await?;
            Ok((backend, line.filter(|l| l.starts_with("Started"))))
        }
        Address::Auto => auto(machine).await,
    }
}

async fn auto(machine: &Machine) -> Result<(Backend, Option<String>)> {
    let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    if let Some(path) = variable("CONTAINERD_ADDRESS") {
        return Ok(taken(Backend::containerd(machine, Path::new(&path), false).await?, " (CONTAINERD_ADDRESS)"));
    }
    if let Some(host) = variable("DOCKER_HOST") {
        return Ok(taken(Backend::docker(machine, &address::socket_of(&host)?).await?, " (DOCKER_HOST)"));
    }
    if let Some(socket) = podman_socket().filter(|_| machine.is_podmans()) {
        return Ok(taken(Backend::docker(machine, &socket).await?, ""));
    }
    if machine.is_rootless() {
        return managed(machine).await;
    }
    if UnixStream::connect(SYSTEM_SOCKET).is_ok() {
        return Ok(taken(Backend::containerd(machine, Path::new(SYSTEM_SOCKET), false).await?, ""));
    }
    let containerd = containerd::installed();
    match DOCKER_SOCKETS.iter().find(|path| !containerd && UnixStream::connect(path).is_ok()) {
        Some(path) => Ok(taken(Backend::docker(machine, Path::new(path)).await?, "")),
        None => managed(machine).await,
    }
}

/// What `auto` took, with the line that says so.
fn taken(backend: Backend, why: &str) -> (Backend, Option<String>) {
    let info = backend.engine.info();
    let line = format!("Using {} {} at {}{why}", info.name, info.version, info.docker_host);
    (backend, Some(line))
}

async fn managed(machine: &Machine) -> Result<(Backend, Option<String>)> {
    let here = machine.clone();
    let started = tokio::task::spawn_blocking(move || containerd::ensure_managed(&here))
        .await
        .map_err(|e| Error::new(format!("cannot start containerd: {e}")))??;
    let socket = machine.managed_socket();
    let backend = Backend::containerd(machine, &socket, true).await?;
    let verb = if started { "Started" } else { "Using" };
    let whose = if machine.is_rootless() { " without root" } else { "" };
    let line = format!("{verb} managed containerd {} at {}{whose}", backend.engine.info().version, socket.display());
    Ok((backend, Some(line)))
}

/// In the namespaces of a user's own Podman we are root as well.
fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new("container engines, network namespaces and cgroups need root, and you are not")
        .hint("run it with sudo: sudo oardocker ...")
        .hint("or use an engine of your own: --docker-host managed, or your Podman: systemctl --user start podman.socket (docs/engines.md)")
        .hint("without root these work: init, --dry-run, --help, completion"))
}
