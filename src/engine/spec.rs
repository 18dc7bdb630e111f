//! What is to run: a process, a build step, a node. A wrong one does not compile.

use crate::cgroup::View;
use crate::host::{Ids, Reservation};
use crate::net::{Port, Subnet};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A process: the arguments are exact, nothing is split or expanded.
#[derive(Debug, Clone, Default, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seed {
    /// Absolute.
    pub path: &'static str,
    /// What is there.
    pub content: Content,
}

/// What a [`Seed`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// A text that all may read.
    Text(String),
    /// A link to this path.
    Link(String),
}

/// What a node, and a session in it, may do beyond what every container may: mounting, and the priorities of others' processes. In a
/// user namespace nobody raises one, but OAR's login shell has root set those of oar's to what they are, and ends where that fails.
pub const NODE_CAPABILITIES: [&str; 2] = ["CAP_SYS_ADMIN", "CAP_SYS_NICE"];

/// Ids for the nodes of a cluster, held for them until the second value is dropped; or why nodes have the host's.
pub type IdsOrWhy = std::result::Result<(Ids, Option<Reservation>), String>;

/// A container's place on a network of [`super::Engine::create_network`].
#[derive(Debug, Clone, Serialize)]
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

/// What a build step reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepNetwork {
    /// A network namespace on the host.
    At(PathBuf),
    /// Nothing but itself.
    Nothing,
    /// The network of the host.
    Host,
}

/// A process in a build step's root, in a container of its own.
#[derive(Debug, Clone)]
pub struct StepSpec {
    /// The process.
    pub process: ProcessSpec,
    /// After the runtime's /proc, /dev and /sys.
    pub mounts: Vec<Mount>,
    /// What it reaches.
    pub network: StepNetwork,
    /// Path below every cgroup controller; none: where the runtime finds a place for it.
    pub cgroup: Option<String>,
    /// Capabilities beyond the usual ones.
    pub capabilities: Vec<String>,
}

/// The image that a node is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NodeImage {
    /// Its name in the engine.
    pub name: String,
    /// Its filesystem; none for an image without layers.
    pub chain: Option<String>,
    /// Directories that it wants to be there.
    pub volumes: Vec<String>,
}

/// Label of a container: the first of its ids.
const IDS_LABEL: &str = "oardocker.ids";

/// The ids of a container that has these labels.
pub(super) fn noted_ids<'a>(label: impl FnOnce(&str) -> Option<&'a String>) -> Option<Ids> {
    Some(Ids { first: label(IDS_LABEL)?.parse().ok()? })
}

/// A host of a cluster.
#[derive(Debug, Clone, Serialize)]
pub struct NodeSpec {
    /// Unique in the engine.
    pub id: String,
    /// Host name inside.
    pub hostname: String,
    /// What it is made of.
    pub image: NodeImage,
    /// Its users and groups on the host, in a user namespace of its own; none: the host's.
    pub ids: Option<Ids>,
    /// First process.
    pub process: ProcessSpec,
    /// After the engine's /proc, /dev, /sys, and the cgroup view.
    pub mounts: Vec<Mount>,
    /// Files of its own.
    pub seeds: Vec<Seed>,
    /// Settings of the kernel for its own network namespace.
    pub sysctls: BTreeMap<&'static str, String>,
    /// Its place on a network.
    pub plug: Plug,
    /// Path below every cgroup controller, such as `/oardocker/1f2e/node1`: the node is there or below it; none: where the engine
    /// finds a place for it.
    pub cgroup: Option<String>,
    /// What it sees of that.
    pub cgroup_view: View,
    /// Labels to find it by.
    pub labels: BTreeMap<String, String>,
    /// File of the host for what its first process says, also after this oardocker has ended.
    pub console: PathBuf,
}

impl NodeSpec {
    /// Those labels, and what an engine must know of the container later.
    pub(super) fn all_labels(&self) -> BTreeMap<String, String> {
        let ids = self.ids.map(|ids| (IDS_LABEL.to_owned(), ids.first.to_string()));
        self.labels.clone().into_iter().chain(ids).collect()
    }
}
