//! Networks: a bridge of the engine's for each cluster.

use super::Docker;
use super::api::{MARK, is};
use crate::error::{Doing as _, Result};
use crate::net::{self, Access, Subnet};
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptions;
use std::collections::HashMap;

/// The engine's name of a network; it is the bridge's name, too.
pub(super) fn name(id: &str) -> String {
    format!("oard-{id}")
}

impl Docker {
    pub(super) async fn make_network(&self, id: &str, access: &Access) -> Result<Subnet> {
        self.drop_network(id).await?;
        // Before there is a network to reach.
        net::restrict(&self.machine, id, &name(id), access)?;
        let doing = || format!("cannot create network {}", name(id));
        // Podman makes the bridge when the first container starts, so the routing table does not tell yet.
        let known = self.api.list_networks(None::<ListNetworksOptions>).await.doing(doing)?;
        let taken: Vec<String> =
            known.into_iter().filter_map(|n| n.ipam?.config).flatten().filter_map(|c| c.subnet).collect();
        let (subnet, reserved) = net::reserve(&self.machine, id, &taken).await?;
        let request = NetworkCreateRequest {
            name: name(id),
            driver: Some("bridge".into()),
            ipam: Some(Ipam {
                config: Some(vec![IpamConfig {
                    subnet: Some(subnet.to_string()),
                    gateway: Some(subnet.gateway().to_string()),
                    ..IpamConfig::default()
                }]),
                ..Ipam::default()
            }),
            options: Some(HashMap::from([
                ("com.docker.network.bridge.name".to_owned(), name(id)),
                ("com.docker.network.driver.mtu".to_owned(), net::mtu().to_string()),
            ])),
            labels: Some(HashMap::from([(MARK.to_owned(), "true".to_owned())])),
            ..NetworkCreateRequest::default()
        };
        self.api.create_network(request).await.doing(doing)?;
        drop(reserved);
        Ok(subnet)
    }

    /// Removes all networks of this name: an engine that is asked twice at once may make two.
    pub(super) async fn drop_network(&self, id: &str) -> Result<()> {
        let doing = || format!("cannot remove network {}", name(id));
        let known = self.api.list_networks(None::<ListNetworksOptions>).await.doing(doing)?;
        let ours: Vec<_> = known.into_iter().filter(|n| n.name.as_deref() == Some(&name(id))).collect();
        for network in &ours {
            // A name that two have means neither.
            let own = network.id.as_deref().filter(|_| ours.len() > 1);
            match self.api.remove_network(own.unwrap_or(&name(id))).await {
                Err(e) if !is(&e, 404) => return Err(e).doing(doing),
                _ => {}
            }
        }
        net::forget(&self.machine, id).await
    }
}
