//! What the user asks of `start`, checked: a value.

use super::volume::Volume;
use crate::net::{Access, Port};
use crate::rooted::Root;
use crate::workdir::manifest::Userns;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

/// What the user asked for, checked.
#[derive(Debug, Clone)]
pub struct Request {
    /// Of the workdir.
    pub env_id: String,
    /// The names of the roles' images in the store, by role.
    pub images: BTreeMap<&'static str, String>,
    /// How many compute nodes.
    pub nodes: u32,
    /// Shared folders.
    pub volumes: Vec<Volume>,
    /// Variables for services, logins and sessions.
    pub envs: Vec<(String, String)>,
    /// Time zone, as in `Europe/Paris`; none: the images'.
    pub zone: Option<String>,
    /// Published ports of the frontend.
    pub published: Vec<u16>,
    /// Added to each of them.
    pub offset: u16,
    /// On all addresses, and for every account of the host.
    pub any: bool,
    /// The account, besides root, that may reach the cluster otherwise.
    pub user: Option<u32>,
    /// Whether nodes have users of their own.
    pub userns: Userns,
    /// Whether OAR's own timing is left, and jobs wait as on a large cluster.
    pub stock_timing: bool,
    /// Whether `start` returns when all of it is ready, and not before.
    pub wait: bool,
    /// The global options with which another oardocker finds this cluster.
    pub global: Vec<OsString>,
    /// `.oardocker`, with the init scripts and the shell histories.
    pub env_dir: Arc<Root>,
}

impl Request {
    /// The frontend's ports on the host.
    pub fn ports(&self) -> Vec<Port> {
        let port = |container: &u16| Port { host: self.offset + container, container: *container, any: self.any };
        self.published.iter().map(port).collect()
    }

    /// Who on the host may reach the cluster.
    pub fn access(&self) -> Access {
        let users = (!self.any).then(|| self.user.into_iter().collect());
        Access { users, ports: self.ports().iter().map(|p| p.host).collect() }
    }
}
