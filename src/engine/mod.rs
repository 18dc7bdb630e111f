//! What oardocker asks of a container engine: images, build steps, nodes and exec sessions.
//!
//! The trait has few verbs and speaks of values that every engine can give. Adapters know nothing of OAR, and nothing above
//! this room knows an engine's name.

pub mod containerd;
pub mod docker;
mod family;
mod feed;
pub mod io;
mod oci;
pub mod rootless;
mod seccomp;
pub mod select;
pub mod space;
mod step;
mod store;

use crate::cgroup::View;
use crate::error::Result;
use crate::net::{Access, Port, Subnet};
use async_trait::async_trait;
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

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

/// What an image is put under its name for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Other images start from it.
    Build,
    /// Containers are made of it, so an engine prepares all that it can before they are.
    Run,
}

/// One layer of an image: the digest of its tar, of its compressed blob, and the blob's size in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// sha256 of the uncompressed tar.
    pub diff_id: String,
    /// sha256 of the gzip-compressed tar.
    pub digest: String,
    /// Size of the compressed blob in bytes.
    pub size: u64,
}

/// The chain id of a stack of layers (OCI image spec): the name of the snapshot that holds them all.
pub fn chain_id(diff_ids: impl IntoIterator<Item = impl AsRef<str>>) -> Option<String> {
    diff_ids.into_iter().fold(None, |parent, diff_id| {
        Some(match parent {
            None => diff_id.as_ref().to_owned(),
            Some(parent) => sha256(format!("{parent} {}", diff_id.as_ref()).as_bytes()),
        })
    })
}

/// `sha256:<hex>` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// An image: its configuration and its layers from the bottom up.
#[derive(Debug, Clone)]
pub struct Image {
    /// The OCI image configuration; its rootfs section is filled in by the engine from `layers`.
    pub config: ImageConfiguration,
    /// From the bottom up.
    pub layers: Vec<Layer>,
}

impl Image {
    /// The snapshot that holds all layers.
    pub fn chain_id(&self) -> Option<String> {
        chain_id(self.layers.iter().map(|l| &l.diff_id))
    }
}

/// What a list of images tells without reading any blob.
#[derive(Debug, Clone)]
pub struct ImageRecord {
    /// As in `oardocker/trixie-node:latest`.
    pub name: String,
    /// Digest of the manifest.
    pub id: String,
    /// When the image was last put under its name.
    pub created: SystemTime,
    /// Labels that were given at [`Engine::put_image`].
    pub labels: BTreeMap<String, String>,
}

/// A writable root filesystem on top of a stack of layers, mounted on the host.
#[derive(Debug, Clone)]
pub struct StepRoot {
    /// The engine's name for it.
    pub key: String,
    /// The whole tree, as a step sees it.
    pub root: PathBuf,
    /// Only what this step changed, in overlay form; equal to `root` when there is no layer below.
    pub changes: PathBuf,
    /// Chain id of the layers below.
    pub parent: Option<String>,
}

/// A process: the arguments are exact, nothing is split or expanded.
#[derive(Debug, Clone, Default)]
pub struct ProcessSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// Working directory inside.
    pub cwd: String,
    /// Numeric user id.
    pub uid: u32,
    /// Numeric primary group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Columns and rows of its pseudo terminal; none: it has none.
    pub terminal: Option<(u16, u16)>,
}

/// A mount inside a container, in the order in which they are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where, inside.
    pub target: String,
    /// Filesystem type, or `bind`.
    pub kind: String,
    /// Host path for a bind.
    pub source: String,
    /// Mount options.
    pub options: Vec<String>,
}

impl Mount {
    /// A bind mount of a host path.
    pub fn bind(source: impl Into<String>, target: impl Into<String>, read_only: bool) -> Self {
        let access = if read_only { "ro" } else { "rw" };
        Self {
            target: target.into(),
            kind: "bind".into(),
            source: source.into(),
            options: vec!["rbind".into(), "rprivate".into(), access.into()],
        }
    }
}

/// What a container finds in its own filesystem when it runs for the first time, as if its image had it: its programs may change
/// it, put another file in its place or remove it, and a restart keeps what they did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// Absolute.
    pub path: &'static str,
    /// What is there.
    pub content: Content,
}

/// What a [`Seed`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A text that all may read.
    Text(String),
    /// A link to this path.
    Link(String),
}

/// What a node, and a session in it, may do beyond what every container may: mounting, and priorities.
pub const NODE_CAPABILITIES: [&str; 2] = ["CAP_SYS_ADMIN", "CAP_SYS_NICE"];

/// How a container reaches the world.
#[derive(Debug, Clone)]
pub enum Network {
    /// Through a network namespace on the host.
    Namespace(PathBuf),
    /// Through a network that the engine has made.
    Plug(Plug),
}

/// A container's place on a network of [`Engine::create_network`].
#[derive(Debug, Clone)]
pub struct Plug {
    /// The id that the network was created with.
    pub network: String,
    /// As the network was given.
    pub subnet: Subnet,
    /// Number of the address in it, from 1.
    pub index: u32,
    /// Ports that the host answers on. One container of a network may have some.
    pub ports: Vec<Port>,
}

/// A container: a node of a cluster, or one build step.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// Unique in the engine.
    pub id: String,
    /// Host name inside.
    pub hostname: String,
    /// First process.
    pub process: ProcessSpec,
    /// After the engine's /proc, /dev, /sys, and the cgroup view.
    pub mounts: Vec<Mount>,
    /// Files of its own.
    pub seeds: Vec<Seed>,
    /// Its network.
    pub network: Network,
    /// Path below every cgroup controller, such as `/oardocker/1f2e/node1`: the container is there or below it.
    pub cgroup: String,
    /// What it sees of that; none: whatever the runtime shows.
    pub cgroup_view: Option<View>,
    /// Capabilities beyond the usual ones.
    pub capabilities: Vec<String>,
    /// Labels to find it by.
    pub labels: BTreeMap<String, String>,
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

/// The verbs. Everything an engine makes carries the labels it was given, so that a later command finds it again.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Which engine this is.
    fn info(&self) -> &EngineInfo;

    /// All images of oardocker.
    async fn images(&self) -> Result<Vec<ImageRecord>>;
    /// One image with its configuration.
    async fn image(&self, name: &str) -> Result<Option<Image>>;
    /// Stores configuration and manifest and puts the image under a name. Returns the image's id.
    async fn put_image(
        &self,
        name: &str,
        image: &Image,
        labels: &BTreeMap<String, String>,
        purpose: Purpose,
    ) -> Result<String>;
    /// Forgets names; what nothing else refers to is freed.
    async fn remove_images(&self, names: &[String]) -> Result<()>;
    /// Whether the layers are unpacked, ready to be built upon.
    async fn has_chain(&self, chain_id: &str) -> Result<bool>;
    /// Stores a layer blob from a file, checked against its digest.
    async fn put_layer(&self, layer: &Layer, file: &Path) -> Result<()>;

    /// Makes and mounts a writable root on top of a stack of layers.
    async fn begin_step(&self, parent: Option<&str>) -> Result<StepRoot>;
    /// Runs a container on the step's root until its process ends; both of its streams go to `output`. Its exit code.
    async fn run_step(&self, step: &StepRoot, spec: &ContainerSpec, output: mpsc::Sender<Vec<u8>>) -> Result<u32>;
    /// Keeps what the step changed as a layer: the blob was stored with [`Engine::put_layer`]. Returns the chain id.
    async fn commit_step(&self, step: StepRoot, layer: &Layer) -> Result<String>;
    /// Throws the step away, with what still runs in it.
    async fn abort_step(&self, step: StepRoot) -> Result<()>;

    /// Makes a network that these accounts of the host can reach; one of the same id is replaced. Its addresses.
    async fn create_network(&self, id: &str, access: &Access) -> Result<Subnet>;
    /// Removes a network with all that it consists of, whoever made it. None there is fine.
    async fn remove_network(&self, id: &str) -> Result<()>;

    /// Creates a container on an image; its cgroups exist already. What its first process says goes to the file `console`,
    /// also after this oardocker has ended.
    async fn create(&self, spec: &ContainerSpec, image: &str, console: &Path) -> Result<()>;
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
    /// Starts the first process again, in the same filesystem.
    async fn restart(&self, id: &str, console: &Path) -> Result<()>;

    /// Runs a process in a running container, with the given ends; returns its exit code.
    async fn exec(&self, id: &str, process: &ProcessSpec, session: io::Session) -> Result<u32>;

    /// Throws away build steps of oardockers that were killed.
    async fn recover(&self) -> Result<()>;
    /// Requests that the engine is at work on for clients that are gone, where that can be: numbers of its own.
    fn orphans(&self) -> Result<Vec<u32>>;
    /// Waits until nothing can appear any more that such a client asked for, but for those `old` ones; whether that is so.
    async fn settled(&self, old: &[u32]) -> Result<bool>;

    /// Gives up what protects half-done work; call when the work is done or given up.
    async fn release(&self) -> Result<()>;
    /// Ends what oardocker runs of the engine itself, when no environment is left that could need it.
    async fn retire(&self) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_follow_the_image_spec() {
        let a = sha256(b"a");
        let b = sha256(b"b");
        assert_eq!(chain_id(Vec::<String>::new()), None);
        assert_eq!(chain_id([&a]), Some(a.clone()));
        assert_eq!(chain_id([&a, &b]), Some(sha256(format!("{a} {b}").as_bytes())));
    }
}
