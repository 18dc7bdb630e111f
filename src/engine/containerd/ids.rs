//! Nodes with ids of their own: which are free, and root filesystems that belong to them.
//!
//! Layers are the host's root's. The overlay of such a node is mounted on a mount of the directory of all snapshots that shows their
//! files as the node's, and keeps that when it goes: nothing is copied, and one directory changes its owner.
//!
//! ```text
//! <runtime dir>/layers/<container>   the snapshots, shown so, while the container's task is being made
//! ```

use super::{Containerd, SNAPSHOTTER};
use crate::engine::IdsOrWhy;
use crate::engine::spec::noted_ids;
use crate::error::{Doing as _, Error, Result};
use crate::host::{self, Ids, Machine, Map, MountCopy, UserNamespace};
use containerd_client::services::v1::{GetContainerRequest, ListContainersRequest, PluginsRequest};
use containerd_client::types::Mount;
use nix::mount::{MntFlags, umount2};
use nix::unistd::{Gid, Uid};
use prost::Message as _;
use prost_types::Any;
use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::{Path, PathBuf};

/// What the runtime shim is told of a container.
#[allow(missing_docs, unreachable_pub, reason = "the definition has its own")]
mod runc {
    include!(concat!(env!("OUT_DIR"), "/containerd.runc.v1.rs"));
}

impl Containerd {
    /// A range that no container here has, nor anybody else; or why there can be none.
    pub(super) async fn free_ids(&self, id: &str) -> Result<IdsOrWhy> {
        if self.machine.delegated_cgroup().is_some() {
            // All that a user has, in a namespace of the node's own: in ours its root could take away what is read-only.
            return Ok(Ok((Ids::OF_USER, None)));
        }
        if let Some(why) = self.no_ids.get_or_try_init(|| self.probe()).await? {
            return Ok(Err(why.clone()));
        }
        loop {
            let (machine, id, known) = (self.machine.clone(), id.to_owned(), self.known_ids().await?);
            let reserved = tokio::task::spawn_blocking(move || host::reserve_ids(&machine, &id, &known)).await;
            let (ids, held) = reserved.doing(|| "cannot look for free ids".into())??;
            // Another one may have given them to containers since we looked, and before we had the lock.
            if !self.known_ids().await?.contains(&ids) {
                return Ok(Ok((ids, Some(held))));
            }
        }
    }

    /// Those of all containers.
    async fn known_ids(&self) -> Result<Vec<Ids>> {
        let doing = || "cannot list containers of containerd".to_owned();
        let request = ListContainersRequest { filters: Vec::new() };
        let all = self.client.containers().list(request).await.doing(doing)?.into_inner().containers;
        Ok(all.iter().filter_map(|container| noted(&container.labels)).collect())
    }

    async fn probe(&self) -> Result<Option<String>> {
        let filter = format!("type==io.containerd.snapshotter.v1,id=={SNAPSHOTTER}");
        let answer = self.client.introspection().plugins(PluginsRequest { filters: vec![filter] }).await;
        let plugins = answer.doing(|| "cannot ask containerd where its snapshots are".into())?.into_inner().plugins;
        let Some(root) = plugins.first().and_then(|plugin| plugin.exports.get("root")).cloned() else {
            return Ok(Some("containerd does not tell where its snapshots are".into()));
        };
        let snapshots = Path::new(&root).join("snapshots");
        // None have been made yet: the disk is the same.
        let there = if snapshots.exists() { snapshots } else { root.into() };
        let probed = tokio::task::spawn_blocking(move || host::probe_user_namespaces(&there)).await;
        Ok(probed.doing(|| "cannot try user namespaces".into())?.err().map(|e| e.to_string()))
    }

    /// Those of a container.
    pub(super) async fn ids_of(&self, id: &str) -> Result<Option<Ids>> {
        let answer = self.client.containers().get(GetContainerRequest { id: id.into() }).await;
        let container = answer.doing(|| format!("cannot look up container {id}"))?.into_inner().container;
        Ok(container.and_then(|container| noted(&container.labels)))
    }
}

fn noted(labels: &HashMap<String, String>) -> Option<Ids> {
    noted_ids(|label| labels.get(label))
}

/// Has the container's standard streams belong to its root, so that its programs can open them by name.
pub(super) fn options(ids: Ids) -> Any {
    let options = runc::Options { no_new_keyring: true, io_uid: ids.first, io_gid: ids.first };
    Any { type_url: "containerd.runc.v1.Options".into(), value: options.encode_to_vec() }
}

/// The writable directory of a new snapshot becomes the container's.
pub(super) fn give_top(mounts: &[Mount], ids: Ids) -> Result<()> {
    let [mount] = mounts else { return Err(Error::new("one mount expected of containerd")) };
    let top = if mount.r#type == "bind" {
        mount.source.as_str()
    } else {
        let upper = mount.options.iter().find_map(|option| option.strip_prefix("upperdir="));
        upper.ok_or_else(|| Error::new("containerd prepared an overlay without an upper directory"))?
    };
    let doing = || format!("cannot give {top} to the container");
    let meta = fs::symlink_metadata(top).doing(doing)?;
    lchown(top, Some(ids.of(meta.uid())), Some(ids.of(meta.gid()))).doing(doing)
}

/// Does something in a container's tree as its root, on a thread of its own: accounts are entered by thread.
pub(super) fn as_root_of<T: Send>(ids: Ids, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let entered = || {
        nix::unistd::setfsgid(Gid::from_raw(ids.first));
        nix::unistd::setfsuid(Uid::from_raw(ids.first));
        work()
    };
    let done = std::thread::scope(|scope| scope.spawn(entered).join());
    done.unwrap_or_else(|_| Err(Error::new("the thread that works as a container's root ended early")))
}

/// Mounts for a container's task, as long as the value.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) mounts: Vec<Mount>,
    place: Option<PathBuf>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            unmount(place);
        }
    }
}

/// The mounts of a snapshot with layers that belong to a container's ids.
pub(super) async fn show(machine: &Machine, id: &str, ids: Ids, mut mounts: Vec<Mount>) -> Result<Shown> {
    // Those of a user's own have the right owners already.
    let layers = |option: &String| option.strip_prefix("lowerdir=").filter(|_| !ids.are_a_user_s()).map(str::to_owned);
    let Some(lower) = mounts.iter().flat_map(|mount| &mount.options).find_map(layers) else {
        return Ok(Shown { mounts, place: None });
    };
    let snapshots = common(&lower)?;
    let place = place(machine, id);
    let (at, of) = (place.clone(), snapshots.clone());
    let shown = tokio::task::spawn_blocking(move || mount(ids, &of, &at)).await;
    shown.doing(|| "cannot mount layers".into())??;
    let shown: Vec<String> = lower
        .split(':')
        .map(|layer| place.join(Path::new(layer).strip_prefix(&snapshots).unwrap_or(Path::new(""))))
        .map(|layer| layer.to_string_lossy().into_owned())
        .collect();
    let option = format!("lowerdir={}", shown.join(":"));
    for mount in &mut mounts {
        mount.options.iter_mut().filter(|o| o.starts_with("lowerdir=")).for_each(|o| o.clone_from(&option));
    }
    Ok(Shown { mounts, place: Some(place) })
}

/// The directory of all snapshots: each layer is a directory in one's own there.
fn common(lower: &str) -> Result<PathBuf> {
    let mut dirs = lower.split(':').map(|layer| Path::new(layer).parent().and_then(Path::parent));
    let first = dirs.next().flatten().filter(|dir| dir.is_absolute());
    match first {
        Some(first) if dirs.all(|dir| dir == Some(first)) => Ok(first.to_owned()),
        _ => Err(Error::new(format!("containerd has layers at places that are not understood: {lower}"))
            .hint("start the cluster with the host's ids: oardocker start --userns=off")),
    }
}

fn place(machine: &Machine, id: &str) -> PathBuf {
    machine.runtime_dir().join("layers").join(id)
}

fn mount(ids: Ids, snapshots: &Path, place: &Path) -> Result<()> {
    let doing = || format!("cannot show the layers in {} as a container's", snapshots.display());
    let namespace = UserNamespace::new(&Map::of(ids)?)?.open()?;
    let copy = File::open(snapshots).and_then(|dir| MountCopy::of(&dir, false)).doing(doing)?;
    copy.show_as(&namespace, false).doing(doing)?;
    unmount(place);
    // Nobody else is to see them so.
    host::private_dir(place.parent().unwrap_or(Path::new("/")))?;
    host::private_dir(place)?;
    copy.attach(place)
}

fn unmount(place: &Path) {
    // There may be several, of oardockers that were killed.
    while umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
    let _ = fs::remove_dir(place);
}

/// Takes away what a killed oardocker left of that.
pub(super) fn forget(machine: &Machine, id: &str) {
    let place = place(machine, id);
    if place.exists() {
        unmount(&place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_next_to_each_other() {
        assert_eq!(common("/a/snapshots/9/fs:/a/snapshots/1/fs").unwrap(), Path::new("/a/snapshots"));
        assert_eq!(common("/a/snapshots/9/fs").unwrap(), Path::new("/a/snapshots"));
        for strange in ["/a/snapshots/9/fs:/b/snapshots/1/fs", "9/fs:1/fs", "/", ""] {
            assert!(common(strange).is_err(), "{strange}");
        }
    }
}
