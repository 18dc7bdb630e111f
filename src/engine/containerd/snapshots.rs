//! Snapshots: unpacked layers, and the writable roots on top of them.

use super::SNAPSHOTTER;
use super::client::Client;
use crate::error::{Doing as _, Result};
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::types::Mount;
use std::collections::HashMap;
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

pub(super) async fn commit(client: &Client, key: &str, name: &str) -> Result<()> {
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
