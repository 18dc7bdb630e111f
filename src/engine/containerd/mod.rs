//! The containerd adapter: gRPC to containerd >= 1.6 with the runc v2 shim, everything in namespace `oardocker`. It is image store and
//! engine at once.

mod client;
mod containers;
mod content;
mod exec;
mod ids;
mod images;
mod managed;
mod networks;
mod snapshots;
mod steps;
mod streams;

pub use managed::{ensure as ensure_managed, installed, require_short_socket, run as run_managed};

use super::EngineInfo;
use super::step::Steps;
use crate::error::Result;
use crate::host::Machine;
use client::Client;
use std::path::Path;

/// The containerd namespace that holds everything oardocker makes.
pub const NAMESPACE: &str = "oardocker";

/// Layers are read back in overlay form, so it must be this one.
const SNAPSHOTTER: &str = "overlayfs";

/// One connection to one containerd.
#[derive(Debug)]
pub struct Containerd {
    client: Client,
    info: EngineInfo,
    machine: Machine,
    steps: Steps,
    managed: bool,
    /// Why nodes have the host's ids, asked for when it is needed.
    no_ids: tokio::sync::OnceCell<Option<String>>,
}

impl Containerd {
    /// Connects and checks that the daemon is recent enough; `managed` says that it is the one that [`ensure_managed`] runs.
    pub async fn connect(machine: &Machine, socket: &Path, managed: bool) -> Result<Self> {
        let client = Client::connect(socket).await?;
        let version = client.check_version().await?;
        client.ensure_namespace().await?;
        let info = EngineInfo {
            name: if managed { "managed containerd" } else { "containerd" }.into(),
            version,
            docker_host: if managed { "managed".into() } else { format!("containerd://{}", socket.display()) },
            copies_images: false,
            makes_cgroups: false,
        };
        Ok(Self {
            client,
            info,
            machine: machine.clone(),
            steps: Steps::new(machine),
            managed,
            no_ids: tokio::sync::OnceCell::new(),
        })
    }
}
