//! Build steps, and throwing away those of oardockers that were killed.

use super::client::Client;
use super::containers::{Stdio, container, create_task, remove, start, wait};
use super::snapshots::{self, commit, prepare};
use super::{SNAPSHOTTER, streams};
use crate::engine::step::{self, Maker};
use crate::engine::{ContainerSpec, Layer, Network, StepRoot};
use crate::error::{Context as _, Error, Result};
use containerd_client::services::v1::CreateContainerRequest;
use containerd_client::types::Mount;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Build steps, FIFOs and leases.
pub(super) async fn run(client: &Client) -> Result<()> {
    steps(client).await?;
    streams::Fifos::recover();
    client.recover_leases().await
}

/// Build steps only.
pub(super) async fn steps(client: &Client) -> Result<()> {
    for key in step::abandoned(Maker::Containerd) {
        step(client, &key).await?;
    }
    Ok(())
}

/// One step, with what runs in it.
pub(super) async fn step(client: &Client, key: &str) -> Result<()> {
    remove(client, key).await?;
    abort_step(client, key).await
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

async fn abort_step(client: &Client, key: &str) -> Result<()> {
    step::unmount(key)?;
    snapshots::remove(client, key).await?;
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

/// Runs a build step's container to its end.
pub(super) async fn run_step(
    client: &Client,
    step: &StepRoot,
    spec: &ContainerSpec,
    output: mpsc::Sender<Vec<u8>>,
) -> Result<u32> {
    let doing = || format!("cannot run a step in container {}", spec.id);
    let Network::Namespace(netns) = &spec.network else {
        return Err(Error::new("steps run in a namespace")).doing(doing);
    };
    let ran = async {
        let container = container(spec, netns)?;
        client.containers().create(CreateContainerRequest { container: Some(container) }).await.doing(doing)?;
        create_task(client, &spec.id, bind_root(&step.root), Stdio::Chunks(output)).await.doing(doing)?;
        start(client, &spec.id).await?;
        wait(client, &spec.id).await
    }
    .await;
    let removed = remove(client, &spec.id).await;
    let code = ran?;
    removed?;
    Ok(code)
}

fn bind_root(root: &Path) -> Vec<Mount> {
    vec![Mount {
        r#type: "bind".into(),
        source: root.to_string_lossy().into_owned(),
        target: String::new(),
        options: vec!["rbind".into(), "rw".into()],
    }]
}
