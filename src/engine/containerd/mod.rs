//! The containerd adapter: gRPC to containerd >= 1.6 with the runc v2 shim, everything in namespace `oardocker`.

mod client;
mod containers;
mod content;
mod exec;
mod images;
mod managed;
mod snapshots;
mod steps;
mod streams;

pub use managed::{ensure as ensure_managed, installed};

use crate::engine::io::Session;
use crate::engine::{
    ContainerInfo, ContainerSpec, Engine, EngineInfo, Image, ImageRecord, Layer, Network, ProcessSpec, Purpose,
    StepRoot,
};
use crate::error::Result;
use crate::net::{self, Access, Subnet};
use async_trait::async_trait;
use client::Client;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;

/// The containerd namespace that holds everything oardocker makes.
pub const NAMESPACE: &str = "oardocker";

/// Layers are read back in overlay form, so it must be this one.
const SNAPSHOTTER: &str = "overlayfs";

/// One connection to one containerd.
#[derive(Debug)]
pub struct Containerd {
    client: Client,
    info: EngineInfo,
    managed: bool,
}

impl Containerd {
    /// Connects and checks that the daemon is recent enough; `managed` says that it is the one that [`ensure_managed`] runs.
    pub async fn connect(socket: &Path, managed: bool) -> Result<Self> {
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
        Ok(Self { client, info, managed })
    }
}

#[async_trait]
impl Engine for Containerd {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    async fn images(&self) -> Result<Vec<ImageRecord>> {
        images::list(&self.client).await
    }

    async fn image(&self, name: &str) -> Result<Option<Image>> {
        images::get(&self.client, name).await
    }

    async fn put_image(
        &self,
        name: &str,
        image: &Image,
        labels: &BTreeMap<String, String>,
        _: Purpose,
    ) -> Result<String> {
        // Its layers are unpacked snapshots already: nothing is left to prepare.
        images::put(&self.client, name, image, labels).await
    }

    async fn remove_images(&self, names: &[String]) -> Result<()> {
        images::remove(&self.client, names).await
    }

    async fn has_chain(&self, chain_id: &str) -> Result<bool> {
        snapshots::exists(&self.client, chain_id).await
    }

    async fn put_layer(&self, layer: &Layer, file: &Path) -> Result<()> {
        content::put_layer(&self.client, layer, file).await
    }

    async fn begin_step(&self, parent: Option<&str>) -> Result<StepRoot> {
        steps::steps(&self.client).await?;
        steps::begin_step(&self.client, parent).await
    }

    async fn run_step(&self, step: &StepRoot, spec: &ContainerSpec, output: mpsc::Sender<Vec<u8>>) -> Result<u32> {
        steps::run_step(&self.client, step, spec, output).await
    }

    async fn commit_step(&self, step: StepRoot, layer: &Layer) -> Result<String> {
        steps::commit_step(&self.client, step, layer).await
    }

    async fn abort_step(&self, step: StepRoot) -> Result<()> {
        steps::step(&self.client, &step.key).await
    }

    async fn create_network(&self, id: &str, access: &Access) -> Result<Subnet> {
        Ok(net::Network::create(id, access).await?.subnet)
    }

    async fn remove_network(&self, id: &str) -> Result<()> {
        if net::Network::exists(id) { net::Network::remove(id).await } else { Ok(()) }
    }

    async fn create(&self, spec: &ContainerSpec, image: &str, console: &Path) -> Result<()> {
        let netns = match &spec.network {
            Network::Namespace(path) => path.clone(),
            Network::Plug(plug) => {
                let network = net::Network::open(&plug.network, plug.subnet);
                let netns = network.attach(&spec.hostname, plug.index).await?;
                network.publish(plug.index, &plug.ports).await?;
                netns
            }
        };
        containers::create(&self.client, spec, image, &netns, console).await
    }

    async fn start(&self, id: &str) -> Result<()> {
        containers::start(&self.client, id).await
    }

    async fn wait(&self, id: &str) -> Result<u32> {
        containers::wait(&self.client, id).await
    }

    async fn end_task(&self, id: &str, grace: Option<(i32, Duration)>) -> Result<()> {
        containers::end(&self.client, id, grace).await
    }

    async fn remove(&self, id: &str) -> Result<()> {
        containers::remove(&self.client, id).await
    }

    async fn containers(&self) -> Result<Vec<ContainerInfo>> {
        containers::list(&self.client).await
    }

    async fn restart(&self, id: &str, console: &Path) -> Result<()> {
        containers::restart(&self.client, id, console).await
    }

    async fn exec(&self, id: &str, process: &ProcessSpec, session: Session) -> Result<u32> {
        exec::exec(&self.client, id, process, session).await
    }

    async fn recover(&self) -> Result<()> {
        steps::run(&self.client).await
    }

    fn orphans(&self) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    async fn settled(&self, _: &[u32]) -> Result<bool> {
        // It gives up what a client asked for that is gone, and removing waits for that: see containers::remove.
        Ok(true)
    }

    async fn release(&self) -> Result<()> {
        self.client.release_lease().await
    }
    async fn retire(&self) -> Result<()> {
        if self.managed { managed::shut_down() } else { Ok(()) }
    }
}
