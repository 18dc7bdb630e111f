//! Networks: bridges and network namespaces of our own.

use super::Containerd;
use crate::engine::NodeSpec;
use crate::error::Result;
use crate::net::{Access, Namespaces, Network, Subnet};

impl Containerd {
    pub(super) async fn make_network(&self, id: &str, access: &Access) -> Result<Subnet> {
        Ok(Network::create(&self.machine, id, access).await?.subnet)
    }

    pub(super) async fn drop_network(&self, id: &str) -> Result<()> {
        if Network::exists(&self.machine, id) { Network::remove(&self.machine, id).await } else { Ok(()) }
    }

    /// Makes a node's place on its network.
    pub(super) async fn plug_in(&self, spec: &NodeSpec) -> Result<Namespaces> {
        let network = Network::open(&self.machine, &spec.plug.network, spec.plug.subnet);
        let namespaces = network.attach(&spec.hostname, spec.plug.index, spec.ids).await?;
        network.publish(spec.plug.index, &spec.plug.ports).await?;
        Ok(namespaces)
    }
}
