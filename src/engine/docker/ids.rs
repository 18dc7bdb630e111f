//! Nodes with ids of their own: a Docker Engine with `userns-remap` has some for all of its containers. Podman would take any, but with as
//! many layers as our images have it loses them (decision 14).

use super::Docker;
use crate::engine::IdsOrWhy;
use crate::error::{Doing as _, Error, Result};
use crate::host::{self, Ids};
use std::path::Path;

impl Docker {
    /// Those of all its containers, or why there are none.
    pub(super) async fn their_ids(&self) -> Result<IdsOrWhy> {
        let name = &self.info.name;
        if self.podman {
            return Ok(Err("oardocker has none for Podman".into()));
        }
        let Some(dir) = self.remapped().await? else { return Ok(Err(format!("{name} runs without userns-remap"))) };
        // Runtimes leave a v2 cgroup to its container, and on v1 and hybrid hosts we do, where we know its place.
        if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() && !self.takes_cgroup_paths().await? {
            let why = "its containers' cgroups are made by systemd, and on this host they are the host's root's";
            return Err(
                Error::new(format!("{name} has userns-remap: {why}")).hint("give it the cgroup driver cgroupfs")
            );
        }
        // Shared folders are shown with other owners here as well.
        let shared = self.machine.data_dir().to_owned();
        host::private_dir(&shared.join("clusters"))?;
        let tried = tokio::task::spawn_blocking(move || host::probe_user_namespaces(&shared)).await;
        tried
            .doing(|| "cannot try user namespaces".into())?
            .doing(|| format!("{name} has userns-remap, and cannot be used here"))?;
        let ids = remapped_ids(dir);
        ids.map(|ids| Ok((ids, None)))
            .ok_or_else(|| Error::new(format!("{name} does not tell which ids its userns-remap gives: {dir}")))
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

    /// Containers with the host's ids are not to be had of an Engine that has others for all.
    pub(super) async fn refuse_if_remapped(&self) -> Result<()> {
        if self.remapped().await?.is_none() {
            return Ok(());
        }
        Err(Error::new(format!(
            "{} runs with userns-remap, and its images belong to other ids than the host's",
            self.info.name
        ))
        .hint("leave --userns=off away, or use another engine: --docker-host managed"))
    }
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
