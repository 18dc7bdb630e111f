//! What must be known before a cluster can be planned: its images, its network, its env dir, and the host.

use super::files::Files;
use super::request::Request;
use super::{ROLES, old_folder};
use crate::cgroup::Cgroups;
use crate::engine::{Image, Images};
use crate::error::{Error, Result};
use crate::host::{Ids, Machine};
use crate::net::{self, Subnet};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The image that a role's hosts are made of.
#[derive(Debug, Clone)]
pub struct RoleImage {
    /// Its name in the store and the engine.
    pub name: String,
    /// The image.
    pub image: Image,
}

/// The images of all roles, by role.
pub type RoleImages = BTreeMap<String, RoleImage>;

/// All of it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What the hosts are made of.
    pub images: RoleImages,
    /// Where the cluster's addresses are.
    pub subnet: Subnet,
    /// The host's cgroups.
    pub cgroups: Cgroups,
    /// Where the cluster's files are.
    pub files: Files,
    /// The hosts' users and groups on this machine; none: its own.
    pub ids: Option<Ids>,
    /// Whether root is only a user's.
    pub rootless: bool,
    /// Whether the env dir is the Python tool's.
    pub old: bool,
    /// The text of /etc/hosts.
    pub hosts: String,
    /// The text of /etc/resolv.conf.
    pub resolv_conf: String,
    /// The time zone, as in `Europe/Paris`.
    pub zone: Option<String>,
    /// Whether the kernel can be told to acknowledge data at once.
    pub prompt_acks: bool,
}

impl Facts {
    /// Of a cluster whose images and network are known.
    pub fn collect(
        request: &Request,
        machine: &Machine,
        cgroups: &Cgroups,
        images: RoleImages,
        subnet: Subnet,
        ids: Option<Ids>,
    ) -> Result<Self> {
        let addresses: Vec<(String, Ipv4Addr)> = super::numbered(request.nodes)
            .map(|(name, index)| Ok((name, subnet.host(index)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            images,
            subnet,
            cgroups: cgroups.clone(),
            files: Files::new(machine, &request.env_id),
            ids,
            rootless: machine.is_rootless(),
            old: old_folder::is_old(&request.env_dir),
            hosts: net::hosts(&addresses),
            resolv_conf: net::resolv_conf()?.text,
            zone: request.zone.clone(),
            prompt_acks: net::has_prompt_acks(),
        })
    }
}

/// Looks at the images of all roles.
pub async fn images(images: &dyn Images, request: &Request) -> Result<RoleImages> {
    let mut found = RoleImages::new();
    for role in ROLES {
        let name = request.images[role].clone();
        let image = images.image(&name).await?;
        let image = image.ok_or_else(|| Error::new(format!("image {name} is not there")))?;
        found.insert(role.to_owned(), RoleImage { name, image });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::{image, request};
    use super::*;
    use crate::engine::fake::Fake;

    #[tokio::test]
    async fn an_image_that_is_not_there_is_named() {
        let (fake, request) = (Fake::new().unwrap(), request());
        for role in ROLES {
            let why = super::images(&fake, &request).await.unwrap_err().to_string();
            assert!(why.contains(&request.images[role]) && why.ends_with("is not there"), "{why}");
            fake.put_image(&request.images[role], &image(role, &["/sbin/init"]).image, &BTreeMap::new()).await.unwrap();
        }
        let found = super::images(&fake, &request).await.unwrap();
        assert_eq!(found.len(), ROLES.len());
        assert!(found.iter().all(|(role, image)| image.name == request.images[role.as_str()]));
    }
}
