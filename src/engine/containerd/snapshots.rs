//! Snapshots: unpacked layers, and the writable roots of build steps and containers.

use super::SNAPSHOTTER;
use super::client::Client;
use crate::engine::step::{self, Maker};
use crate::engine::{Layer, StepRoot};
use crate::error::{Context as _, Error, Result};
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::types::Mount;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tonic::Code;

pub(super) async fn exists(client: &Client, name: &str) -> Result<bool> {
    let request = StatSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: name.into() };
    match client.snapshots().stat(request).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status).doing(|| format!("cannot look up snapshot {name}")),
    }
}

/// A new writable snapshot.
pub(super) async fn prepare(client: &Client, key: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
    let request = PrepareSnapshotRequest {
        snapshotter: SNAPSHOTTER.into(),
        key: key.into(),
        parent: parent.unwrap_or_default().into(),
        labels: HashMap::new(),
    };
    let answer = client.snapshots().prepare(request).await.doing(|| format!("cannot prepare snapshot {key}"))?;
    Ok(answer.into_inner().mounts)
}

pub(super) async fn remove(client: &Client, key: &str) -> Result<()> {
    let request = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() };
    match client.snapshots().remove(request).await {
        Err(status) if status.code() != Code::NotFound => Err(status).doing(|| format!("cannot remove snapshot {key}")),
        _ => Ok(()),
    }
}

async fn commit(client: &Client, key: &str, name: &str) -> Result<()> {
    let request = CommitSnapshotRequest {
        snapshotter: SNAPSHOTTER.into(),
        name: name.into(),
        key: key.into(),
        labels: HashMap::new(),
    };
    match client.snapshots().commit(request).await {
        Ok(_) => Ok(()),
        // Another build made the very same layer at the same time.
        Err(status) if status.code() == Code::AlreadyExists => remove(client, key).await,
        Err(status) => Err(status).doing(|| format!("cannot commit snapshot {name}")),
    }
}

pub(super) async fn begin_step(client: &Client, parent: Option<&str>) -> Result<StepRoot> {
    client.hold_lease().await?;
    let key = Maker::Containerd.new_key();
    step::hold(&key)?;
    let begun = async {
        let mounts = prepare(client, &key, parent).await?;
        let changes = changes_dir(&mounts)?;
        let [m] = mounts.as_slice() else { return Err(Error::new("one mount expected of containerd")) };
        if m.r#type == "bind" {
            step::mount_bind(Path::new(&m.source), &key)?;
        } else {
            step::mount_overlay(&m.options, &key)?;
        }
        Ok(StepRoot { root: step::root(&key), key: key.clone(), changes, parent: parent.map(Into::into) })
    }
    .await;
    if begun.is_err() {
        let _ = abort_step(client, &key).await;
    }
    begun
}

pub(super) async fn commit_step(client: &Client, step: StepRoot, layer: &Layer) -> Result<String> {
    let name = crate::engine::chain_id(step.parent.iter().chain([&layer.diff_id])).expect("one layer at least");
    step::unmount(&step.key)?;
    commit(client, &step.key, &name).await?;
    step::forget(&step.key)?;
    Ok(name)
}

pub(super) async fn abort_step(client: &Client, key: &str) -> Result<()> {
    step::unmount(key)?;
    remove(client, key).await?;
    step::forget(key)
}

fn changes_dir(mounts: &[Mount]) -> Result<PathBuf> {
    match mounts {
        [m] if m.r#type == "bind" => Ok(PathBuf::from(&m.source)),
        [m] if m.r#type == "overlay" => m
            .options
            .iter()
            .find_map(|o| o.strip_prefix("upperdir="))
            .map(PathBuf::from)
            .ok_or_else(|| Error::new("containerd prepared an overlay without an upper directory")),
        _ => {
            Err(Error::new(format!("containerd's {SNAPSHOTTER} snapshotter asked for a mount that is not understood")))
        }
    }
}
