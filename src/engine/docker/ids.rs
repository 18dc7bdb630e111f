//! Nodes with ids of their own: Podman is told which, and a Docker Engine with `userns-remap` has some for all of its containers.

use super::Docker;
use crate::engine::{Engine as _, IdsOrWhy};
use crate::error::{Doing as _, Error, Result};
use crate::host::{self, IDS, Ids};
use serde_json::{Value, json};
use std::path::Path;

/// What Podman tells of itself.
#[derive(Debug, serde::Deserialize)]
struct About {
    store: Stored,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    graph_root: String,
}

impl Docker {
    /// Ids for a cluster, or why there are none.
    pub(super) async fn free_ids(&self, id: &str) -> Result<IdsOrWhy> {
        let name = &self.info.name;
        let remapped = self.remapped().await?;
        if !self.podman && remapped.is_none() {
            return Ok(Err(format!("{name} runs without userns-remap")));
        }
        // Runtimes leave a v2 cgroup to its container, and on v1 and hybrid hosts we do, where we know its place.
        if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() && !self.takes_cgroup_paths().await? {
            let why = format!("{name} has systemd make its cgroups, which on this host are then the host's root's");
            return if self.podman {
                Ok(Err(why))
            } else {
                Err(Error::new(why).hint("give it the cgroup driver cgroupfs"))
            };
        }
        match remapped {
            Some(dir) => remapped_ids(dir)
                .map(|ids| Ok((ids, None)))
                .ok_or_else(|| Error::new(format!("{name} does not tell which ids its userns-remap gives: {dir}"))),
            None => self.own_ids(id).await,
        }
    }

    /// Podman's: any that are free.
    async fn own_ids(&self, id: &str) -> Result<IdsOrWhy> {
        let about: Option<About> = self.get_libpod("info").await?;
        let about = about.ok_or_else(|| Error::new("Podman tells nothing of itself"))?;
        let known: Vec<Ids> = self.containers().await?.iter().filter_map(crate::engine::ContainerInfo::ids).collect();
        let (machine, id) = (self.machine.clone(), id.to_owned());
        let look = move || match host::probe_user_namespaces(Path::new(&about.store.graph_root)) {
            Err(e) => Ok(Err(e.to_string())),
            Ok(()) => host::reserve_ids(&machine, &id, &known).map(|(ids, held)| Ok((ids, Some(held)))),
        };
        tokio::task::spawn_blocking(look).await.doing(|| "cannot look for free ids".into())?
    }

    /// The directory of an Engine with `userns-remap`; none without that, and of Podman.
    async fn remapped(&self) -> Result<Option<&str>> {
        let ask = async || {
            let about = self.api.info().await;
            let about = about.doing(|| format!("cannot ask {} whether it has user namespaces", self.info.name))?;
            let options = about.security_options.unwrap_or_default();
            let remaps = options.iter().any(|option| option.split(',').any(|o| o == "name=userns"));
            Ok::<_, Error>(remaps.then(|| about.docker_root_dir.unwrap_or_default()))
        };
        if self.podman {
            return Ok(None);
        }
        Ok(self.remap.get_or_try_init(ask).await?.as_deref())
    }

    /// Fails where a container with the host's ids is wanted of an Engine that has others for all.
    pub(super) async fn require_ids(&self, ids: Option<Ids>) -> Result<()> {
        if ids.is_some() || self.remapped().await?.is_none() {
            return Ok(());
        }
        Err(Error::new(format!(
            "{} runs with userns-remap, and its images belong to other ids than the host's",
            self.info.name
        ))
        .hint("leave --userns=off away, or use another engine: --docker-host managed"))
    }
}

/// What Podman is to be told of a container's ids.
pub(super) fn mappings(ids: Ids) -> Value {
    let map = json!([{"container_id": 0, "host_id": ids.first, "size": IDS}]);
    json!({"HostUIDMapping": false, "HostGIDMapping": false, "UIDMap": map.clone(), "GIDMap": map})
}

/// An Engine with `userns-remap` keeps all in a directory that is named after its ids, such as `/var/lib/docker/231072.231072`.
fn remapped_ids(dir: &str) -> Option<Ids> {
    let (users, groups) = Path::new(dir).file_name()?.to_str()?.split_once('.')?;
    (users == groups).then(|| users.parse().ok().map(|first| Ids { first }))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_s_ids_are_in_the_name_of_its_directory() {
        assert_eq!(remapped_ids("/var/lib/docker/231072.231072"), Some(Ids { first: 231_072 }));
        for other in ["/var/lib/docker", "/var/lib/docker/1.2", "/x/a.a", ""] {
            assert_eq!(remapped_ids(other), None, "{other}");
        }
    }
}
