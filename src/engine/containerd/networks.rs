//! Networks: bridges and network namespaces of our own.

use super::Containerd;
use crate::engine::NodeSpec;
use crate::error::Result;
use crate::net::{Access, Network, Subnet};
use std::path::PathBuf;

impl Containerd {
    pub(super) async fn make_network(&self, id: &str, access: &Access) -> Result<Subnet> {
        Ok(Network::create(&self.machine, id, access).await?.subnet)
    }

    pub(super) async fn drop_network(&self, id: &str) -> Result<()> {
        if Network::exists(&self.machine, id) { Network::remove(&self.machine, id).await } else { Ok(()) }
    }

    /// Makes a node's place on its network: the path of its namespace.
    pub(super) async fn plug_in(&self, spec: &NodeSpec) -> Result<PathBuf> {
        let network = Network::open(&self.machine, &spec.plug.network, spec.plug.subnet);
        let netns = network.attach(&spec.hostname, spec.plug.index).await?;
        network.publish(spec.plug.index, &spec.plug.ports).await?;
        Ok(netns)
    }
}
