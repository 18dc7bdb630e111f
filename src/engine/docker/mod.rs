//! The adapter for Docker-compatible sockets: Docker Engine >= 20.10 and Podman >= 4, the latter also without root.
//!
//! It is an engine alone: images are in our own [`Store`], and those that nodes are made of enter by the load API. Networks,
//! containers and sessions are the engine's.

mod api;
mod containers;
mod exec;
mod http;
mod ids;
mod images;
mod libpod;
mod networks;
mod output;
pub(super) mod ping;
mod raw;
mod settle;

use super::EngineInfo;
use super::store::Store;
use crate::error::{Doing as _, Error, Result};
use crate::host::Machine;
use bollard::{API_DEFAULT_VERSION, Docker as Api};
use ping::{Pong, SILENCE, ping, silent};
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Oldest API with private cgroup namespaces: Docker 20.10.
const OLDEST_API: (u32, u32) = (1, 41);

/// Oldest Podman with netavark.
const OLDEST_PODMAN: u32 = 4;

/// How long an answer may take, in seconds: hundreds of containers may be asked for at once.
const LIMIT: u64 = 600;

/// For what takes as long as it takes: waiting for a container's end, in seconds.
const FOREVER: u64 = u32::MAX as u64;

/// One connection to one engine.
#[derive(Debug)]
pub struct Docker {
    api: Api,
    /// The same, for waiting.
    patient: Api,
    info: EngineInfo,
    socket: PathBuf,
    machine: Machine,
    /// Where the layers are of images that are loaded.
    store: Arc<Store>,
    podman: bool,
    /// Asked for when it is needed; see [`Docker::takes_cgroup_paths`].
    cgroupfs: tokio::sync::OnceCell<bool>,
    /// The same; see [`Docker::remapped`].
    remap: tokio::sync::OnceCell<Option<String>>,
}

fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|n| n.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

impl Docker {
    /// Connects, and checks that it is an engine that can do what is needed. What it runs is in `store`.
    pub(super) async fn connect(machine: &Machine, socket: &Path, store: Arc<Store>) -> Result<Self> {
        let at = socket.display();
        let doing = || format!("cannot use the container engine at {at}");
        let pong = ping(socket).await.doing(doing)?;
        let api = |limit| Api::connect_with_unix(&socket.to_string_lossy(), limit, API_DEFAULT_VERSION).doing(doing);
        let (api, patient) = (api(LIMIT)?, api(FOREVER)?);
        require_same_mounts(&pong).doing(doing)?;
        let (name, number) = match pong.podman {
            Some(number) => {
                accept("Podman", &number, &pong.api, "").doing(doing)?;
                ("Podman", number)
            }
            None => ("Docker Engine", docker(&api).await.doing(doing)?),
        };
        let rootless = machine.is_rootless();
        if !rootless && pong.owner != 0 {
            return Err(Error::new("it is a user's own engine, and you are root")
                .hint("as that user run oardocker without sudo, or use the system's engine: --docker-host managed"))
            .doing(doing);
        }
        Ok(Self {
            info: EngineInfo {
                name: name.into(),
                version: number,
                docker_host: format!("unix://{at}"),
                copies_images: true,
                makes_cgroups: rootless,
            },
            machine: machine.clone(),
            store,
            socket: socket.into(),
            cgroupfs: tokio::sync::OnceCell::new(),
            remap: tokio::sync::OnceCell::new(),
            podman: name == "Podman",
            patient,
            api,
        })
    }
}

/// What oardocker mounts for a cluster has to be there for the engine as well.
fn require_same_mounts(pong: &Pong) -> Result<()> {
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt"));
    match (of(&pong.listener.to_string()), of("self")) {
        // Who listens may have ended since, or may not be looked at.
        (Ok(theirs), Ok(ours)) if theirs != ours => Err(Error::new(
            "it has mounts of its own, and would not see what oardocker shares",
        )
        .hint("run the engine and oardocker in one mount namespace, or use another engine: --docker-host managed")),
        _ => Ok(()),
    }
}

/// Whether somebody listens, in the user's words.
pub(super) fn reach(socket: &Path) -> Result<()> {
    let start = if nix::unistd::geteuid().is_root() {
        "start one (systemctl start docker, or podman.socket), or leave --docker-host away"
    } else {
        "start your own Podman: systemctl --user start podman.socket"
    };
    match std::fs::metadata(socket) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(Error::new("there is no such socket").hint(start)),
        Err(e) => return Err(Error::new(e.to_string())),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(Error::new("it is not a socket").hint("--docker-host unix://PATH takes the engine's socket"));
        }
        Ok(_) => {}
    }
    UnixStream::connect(socket).map(drop).map_err(|e| match e.kind() {
        ErrorKind::ConnectionRefused => Error::new("nobody listens there").hint(start),
        ErrorKind::PermissionDenied => Error::new("permission denied").hint("run it with sudo: sudo oardocker ..."),
        _ => Error::new(e.to_string()),
    })
}

/// The version of a Docker Engine that is neither too old nor too new.
async fn docker(api: &Api) -> Result<String> {
    let answer = tokio::time::timeout(SILENCE, api.version()).await.map_err(|_| silent())?;
    let answer = answer.doing(|| "it does not tell its version".into())?;
    let number = answer.version.unwrap_or_default();
    let (api, oldest) = (answer.api_version.unwrap_or_default(), answer.min_api_version.unwrap_or_default());
    accept("Docker Engine", &number, &api, &oldest).map(|()| number)
}

/// Refuses engines that are too old, and those too new to be understood.
fn accept(name: &str, version: &str, api: &str, oldest_spoken: &str) -> Result<()> {
    let ours = (API_DEFAULT_VERSION.major_version as u32, API_DEFAULT_VERSION.minor_version as u32);
    if name == "Podman" && numbers(version).0 < OLDEST_PODMAN {
        return Err(Error::new(format!("Podman {version} is too old: {OLDEST_PODMAN}.0 or newer is needed")));
    }
    if numbers(api) < OLDEST_API {
        return Err(Error::new(format!(
            "{name} {version} is too old: it speaks API {api}, and {}.{} (Docker 20.10) or newer is needed",
            OLDEST_API.0, OLDEST_API.1
        )));
    }
    if numbers(oldest_spoken) > ours {
        return Err(Error::new(format!(
            "{name} {version} is too new: it speaks API {oldest_spoken} or newer, and this oardocker up to {}.{}",
            ours.0, ours.1
        ))
        .hint("use a newer oardocker"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_of_the_wrong_age_are_refused() {
        accept("Docker Engine", "20.10.24+dfsg1", "1.41", "1.12").unwrap();
        accept("Podman", "4.3.1", "1.41", "1.24").unwrap();
        let text = |name, version, api, min| accept(name, version, api, min).unwrap_err().to_string();
        assert!(text("Docker Engine", "19.03.1", "1.40", "1.12").contains("too old: it speaks API 1.40"));
        assert!(text("Podman", "3.4.4", "1.40", "1.24").contains("Podman 3.4.4 is too old"));
        assert!(text("Docker Engine", "99.0", "9.9", "9.0").contains("too new: it speaks API 9.0 or newer"));
    }
}
