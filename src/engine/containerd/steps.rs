//! Build steps, and throwing away those of oardockers that were killed.

use super::containers::{Stdio, container};
use super::snapshots::{self, commit, prepare};
use super::{Containerd, SNAPSHOTTER};
use crate::engine::step::Maker;
use crate::engine::{Engine as _, Layer, StepRoot, StepSpec, oci};
use crate::error::{Doing as _, Error, Result};
use containerd_client::services::v1::CreateContainerRequest;
use containerd_client::types::Mount;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

impl Containerd {
    /// Throws away the steps of oardockers that were killed.
    pub(super) async fn recover_steps(&self) -> Result<()> {
        for key in self.steps.abandoned(Maker::Containerd) {
            self.throw_away(&key).await?;
        }
        Ok(())
    }

    /// Throws a step away, with what still runs in it.
    pub(super) async fn throw_away(&self, key: &str) -> Result<()> {
        self.remove(key).await?;
        self.discard(key).await
    }

    /// Makes and mounts a snapshot for a step.
    pub(super) async fn mount_step(&self, parent: Option<&str>) -> Result<StepRoot> {
        self.client.hold_lease().await?;
        let key = Maker::Containerd.new_key();
        self.steps.hold(&key)?;
        let begun = async {
            let mounts = prepare(&self.client, &key, parent).await?;
            let changes = changes_dir(&mounts)?;
            let [m] = mounts.as_slice() else { return Err(Error::new("one mount expected of containerd")) };
            if m.r#type == "bind" {
                self.steps.mount_bind(Path::new(&m.source), &key)?;
            } else {
                self.steps.mount_overlay(&m.options, &key)?;
            }
            Ok(StepRoot { root: self.steps.root(&key), key: key.clone(), changes, parent: parent.map(Into::into) })
        }
        .await;
        if begun.is_err() {
            let _ = self.discard(&key).await;
        }
        begun
    }

    /// Commits what it changed.
    pub(super) async fn keep_step(&self, step: &StepRoot, layer: &Layer) -> Result<String> {
        let name = crate::engine::chain_id(step.parent.iter().chain([&layer.diff_id])).expect("one layer at least");
        self.steps.unmount(&step.key)?;
        commit(&self.client, &step.key, &name).await?;
        self.steps.forget(&step.key)?;
        Ok(name)
    }

    /// Removes one in which nothing runs.
    async fn discard(&self, key: &str) -> Result<()> {
        self.steps.unmount(key)?;
        snapshots::remove(&self.client, key).await?;
        self.steps.forget(key)
    }

    /// Runs a build step's container to its end.
    pub(super) async fn run_in_step(
        &self,
        step: &StepRoot,
        spec: &StepSpec,
        output: mpsc::Sender<Vec<u8>>,
    ) -> Result<u32> {
        let id = &step.key;
        let doing = || format!("cannot run a step in container {id}");
        let ran = async {
            let labels = HashMap::from([("oardocker.step".to_owned(), "true".to_owned())]);
            let container = container(id, labels, &oci::step(spec, Path::new("rootfs"))).doing(doing)?;
            self.client
                .containers()
                .create(CreateContainerRequest { container: Some(container) })
                .await
                .doing(doing)?;
            self.create_task(id, bind_root(&step.root), Stdio::Chunks(output)).await.doing(doing)?;
            self.start(id).await?;
            self.wait(id).await
        }
        .await;
        let removed = self.remove(id).await;
        let code = ran?;
        removed?;
        Ok(code)
    }
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

fn bind_root(root: &Path) -> Vec<Mount> {
    vec![Mount {
        r#type: "bind".into(),
        source: root.to_string_lossy().into_owned(),
        target: String::new(),
        options: vec!["rbind".into(), "rw".into()],
    }]
}
