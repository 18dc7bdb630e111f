//! What must be known before a cluster can be planned: its images, its network, its env dir and the world around it.

use super::request::Request;
use super::{ROLES, init, old_folder, plan};
use crate::engine::{Engine, Image};
use crate::error::{Error, Result};
use crate::net::{self, Subnet};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// What a role's image says of its hosts.
#[derive(Debug, Clone, Default)]
pub struct RoleImage {
    /// Variables.
    pub env: Vec<String>,
    /// The first process.
    pub process: Vec<String>,
    /// Its filesystem; none for an image without layers.
    pub chain: Option<String>,
}

/// The images of all roles.
pub type RoleImages = BTreeMap<String, RoleImage>;

/// All of it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// By role.
    pub images: RoleImages,
    /// Where the cluster's addresses are.
    pub subnet: Subnet,
    /// Whether the env dir is the Python tool's.
    pub old: bool,
    /// The text of /etc/hosts.
    pub hosts: String,
    /// The text of /etc/resolv.conf.
    pub resolv_conf: String,
    /// The time zone, as in `Europe/Paris`.
    pub zone: Option<String>,
}

impl Facts {
    /// Of a cluster whose images and network are known.
    pub fn collect(request: &Request, images: RoleImages, subnet: Subnet) -> Result<Self> {
        let addresses: Vec<(String, Ipv4Addr)> = plan::numbered(request.nodes)
            .map(|(name, index)| Ok((name, subnet.host(index)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            images,
            subnet,
            old: old_folder::is_old(&request.env_dir),
            hosts: net::hosts(&addresses),
            resolv_conf: net::resolv_conf()?.text,
            zone: request.zone.clone(),
        })
    }
}

/// Looks at the images of all roles; `image` names each in the engine.
pub async fn images(engine: &dyn Engine, image: &(dyn Fn(&str) -> String + Sync)) -> Result<RoleImages> {
    let mut images = RoleImages::new();
    for role in ROLES {
        let found = engine.image(&image(role)).await?;
        let found = found.ok_or_else(|| Error::new(format!("image {} is not there", image(role))))?;
        images.insert(role.to_owned(), of(&found));
    }
    Ok(images)
}

fn of(image: &Image) -> RoleImage {
    let config = image.config.config().as_ref();
    RoleImage {
        env: config.and_then(|c| c.env().clone()).unwrap_or_default(),
        process: init::first_process(image),
        chain: image.chain_id(),
    }
}
