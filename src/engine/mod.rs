//! What oardocker asks of a container engine, in two trades: [`Images`] keeps and builds images, [`Engine`] runs nodes and sessions.
//!
//! The traits have few verbs and speak of values that every engine can give. Adapters know nothing of OAR, and nothing above
//! this room knows an engine's name.

pub mod address;
mod blob;
pub mod containerd;
pub mod docker;
pub mod fake;
mod family;
mod feed;
mod images;
pub mod io;
mod oci;
pub mod rootless;
mod seccomp;
pub mod select;
pub mod space;
mod spec;
mod step;
mod store;

pub use blob::{Blob, Compression, Layer};
pub use images::{DockerConfig, Image, ImageRecord, Images, StepRoot, chain_id, sha256};
pub use spec::{
    Content, IdsOrWhy, Mount, NODE_CAPABILITIES, NodeImage, NodeSpec, Plug, ProcessSpec, Seed, StepNetwork, StepSpec,
};

use crate::error::Result;
use crate::host::Ids;
use crate::net::{Access, Subnet};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Which engine answered, for messages.
#[derive(Debug, Clone)]
pub struct EngineInfo {
    /// As in "managed containerd" or "Podman".
    pub name: String,
    /// As the engine says it.
    pub version: String,
    /// The value of `--docker-host` that means it.
    pub docker_host: String,
    /// Whether images that are to run are copied into it, which takes seconds.
    pub copies_images: bool,
    /// Whether it makes the containers' cgroups, and not oardocker.
    pub makes_cgroups: bool,
}

/// What runs under a container's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its first process runs.
    Running,
    /// Its first process ended, with this code.
    Exited(u32),
    /// It was created and not started, or its process is gone without a trace.
    Created,
}

/// One container as the engine sees it.
#[derive(Debug, Clone)]
pub struct ContainerInfo {
    /// The id it was created with.
    pub id: String,
    /// The labels it was created with.
    pub labels: BTreeMap<String, String>,
    /// Image name.
    pub image: String,
    /// When it was created.
    pub created: SystemTime,
    /// What runs.
    pub state: State,
    /// Process id of its first process on the host, 0 when nothing runs.
    pub pid: u32,
}

impl ContainerInfo {
    /// Its users and groups on the host; none: the host's.
    pub fn ids(&self) -> Option<Ids> {
        spec::noted_ids(|label| self.labels.get(label))
    }
}

/// The verbs of an engine. Everything that it makes carries the labels it was given, so that a later command finds it again.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Which engine this is.
    fn info(&self) -> &EngineInfo;

    /// Has the engine know an image of [`Images`] under its name, with all that can be prepared before nodes are made of it.
    async fn load_image(&self, name: &str, image: &Image) -> Result<()>;
    /// Has it forget one. None there is fine.
    async fn unload_image(&self, name: &str) -> Result<()>;

    /// Makes a network that these accounts of the host can reach; one of the same id is replaced. Its addresses.
    async fn create_network(&self, id: &str, access: &Access) -> Result<Subnet>;
    /// Removes a network with all that it consists of, whoever made it. None there is fine.
    async fn remove_network(&self, id: &str) -> Result<()>;

    /// Ids of the host for the nodes of a cluster in place of the host's own, as far as this engine and host have user namespaces.
    async fn reserve_ids(&self, id: &str) -> Result<IdsOrWhy>;

    /// Fails where nodes cannot have the host's own.
    async fn require_host_ids(&self) -> Result<()>;

    /// Creates a node; its image is loaded and its cgroups exist already.
    async fn create(&self, spec: &NodeSpec) -> Result<()>;
    /// The name of a created node's cgroup below the one that it was given; none: it is that one, or the engine makes it for the node.
    async fn cgroup(&self, id: &str) -> Result<Option<String>>;
    /// Runs its first process.
    async fn start(&self, id: &str) -> Result<()>;
    /// Waits until the first process ends; its exit code.
    async fn wait(&self, id: &str) -> Result<u32>;
    /// Ends the task, keeps the container's filesystem.
    async fn end_task(&self, id: &str, grace: Option<(i32, Duration)>) -> Result<()>;
    /// Removes the container and its filesystem, killing what still runs.
    async fn remove(&self, id: &str) -> Result<()>;
    /// All containers of oardocker.
    async fn containers(&self) -> Result<Vec<ContainerInfo>>;
    /// Starts the first process again, in the same filesystem. What it says goes to `console`.
    async fn restart(&self, id: &str, console: &Path) -> Result<()>;

    /// Runs a process in a running container, with the given ends; returns its exit code.
    async fn exec(&self, id: &str, process: &ProcessSpec, session: io::Session) -> Result<u32>;

    /// Requests that the engine is at work on for clients that are gone, where that can be: numbers of its own.
    fn orphans(&self) -> Result<Vec<u32>>;
    /// Waits until nothing can appear any more that such a client asked for, but for those `old` ones; whether that is so.
    async fn settled(&self, old: &[u32]) -> Result<bool>;
    /// Ends what oardocker runs of the engine itself, when no environment is left that could need it.
    async fn retire(&self) -> Result<()>;
}
