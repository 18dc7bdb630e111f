//! What changes the filesystem: runs a step on its root, and keeps what it has changed as a layer.

use super::build::Builder;
use super::evaluate::{Change, Evaluation};
use super::order::Definition;
use super::report::Lines;
use super::{copy, layer};
use crate::engine::{Images, Layer, Mount, ProcessSpec, StepRoot, StepSpec, space};
use crate::error::{Doing as _, Error, Result};
use crate::host::Accounts;
use crate::rooted::Root;
use std::path::Path;
use tokio::sync::mpsc;

/// How many lines of a failed step's output are repeated below the error.
const TAIL: usize = 15;

/// What a step's container may do beyond a plain RUN.
#[derive(Debug, Default)]
pub struct Sandbox {
    /// More mounts.
    pub mounts: Vec<Mount>,
    /// More capabilities.
    pub capabilities: Vec<String>,
}

impl Builder {
    /// Makes one layer.
    pub(super) async fn run(&self, definition: &Definition, state: &Evaluation, change: &Change) -> Result<Layer> {
        let step = self.images.begin_step(state.image.chain_id().as_deref()).await?;
        let outcome = async {
            match change {
                Change::Run(args) => {
                    let process = state.process(args.clone(), &step.root)?;
                    let sandbox = Sandbox { mounts: Vec::new(), capabilities: Vec::new() };
                    let (code, tail) = self.run_in(&step, process, sandbox, &definition.title).await?;
                    if code != 0 {
                        return Err(Error::new(format!("the command ended with exit code {code}")).detail(tail));
                    }
                }
                Change::Copy(plan) => {
                    let mut plan = plan.clone();
                    if let Some(owner) = state.owner.as_deref() {
                        let user = Accounts::read(&Root::open(&step.root)?)?.user(owner)?;
                        plan.owner = Some((user.uid, user.gid));
                    }
                    let root = step.root.clone();
                    tokio::task::spawn_blocking(move || copy::apply(&plan, &root)).await.doing(|| "copy".into())??;
                }
                Change::Directory(path) => {
                    copy::directory(&Root::open(&step.root)?, Path::new(path))?;
                }
            }
            self.store(&step).await
        }
        .await;
        self.finish(step, outcome).await
    }

    /// Runs a process in a step's root, line by line; returns the exit code and the last lines.
    pub async fn run_in(
        &self,
        step: &StepRoot,
        mut process: ProcessSpec,
        sandbox: Sandbox,
        title: &str,
    ) -> Result<(u32, Vec<String>)> {
        for (name, value) in self.uplink.variables() {
            if !process.env.iter().any(|e| e.split_once('=').is_some_and(|(k, _)| k == name)) {
                process.env.push(format!("{name}={value}"));
            }
        }
        let netns = self.uplink.attach(&step.key).await?;
        let mut mounts: Vec<Mount> = self
            .uplink
            .files()
            .into_iter()
            .map(|(host, inside)| Mount::bind(host.to_string_lossy(), inside, true))
            .collect();
        mounts.extend(sandbox.mounts);
        let spec = StepSpec {
            process,
            mounts,
            netns,
            cgroup: self.cgroup.as_ref().map(|parent| format!("{parent}/{}", step.key)),
            // An image may hold devices; which of them can be opened is another matter.
            capabilities: sandbox.capabilities.into_iter().chain(["CAP_MKNOD".to_owned()]).collect(),
        };
        let (sender, mut chunks) = mpsc::channel::<Vec<u8>>(64);
        let listen = async {
            let (mut lines, mut tail) = (Lines::default(), Vec::new());
            let mut hear = |line: String| {
                (self.listener)(title, &line);
                if tail.len() == TAIL {
                    tail.remove(0);
                }
                tail.push(line);
            };
            while let Some(chunk) = chunks.recv().await {
                lines.feed(&chunk).into_iter().for_each(&mut hear);
            }
            lines.rest().into_iter().for_each(&mut hear);
            tail
        };
        let work = async { tokio::join!(self.images.run_step(step, &spec, sender), listen) };
        // Whoever has the step throws it away, with what runs in it.
        let ended = self.cancel.run_until_cancelled(work).await;
        let (outcome, tail) = ended.unwrap_or_else(|| (Err(Error::interrupted()), Vec::new()));
        let detached = self.uplink.detach(&step.key).await;
        let code = outcome?;
        detached?;
        Ok((code, tail))
    }

    /// Writes and stores what a step changed.
    pub async fn store(&self, step: &StepRoot) -> Result<Layer> {
        let file = self.scratch_file()?;
        let (changes, to) = (step.changes.clone(), file.clone());
        let layer = tokio::task::spawn_blocking(move || layer::write(&changes, &to)).await.doing(|| "layer".into())?;
        let outcome = match layer {
            Ok(layer) => self.images.put_layer(&layer, &file).await.map(|()| layer),
            Err(e) => Err(e),
        };
        let _ = std::fs::remove_file(&file);
        outcome
    }

    /// Commits a step whose layer is stored, or throws it away.
    pub async fn finish(&self, step: StepRoot, outcome: Result<Layer>) -> Result<Layer> {
        finish(self.images.as_ref(), step, outcome).await
    }
}

/// Commits a step whose layer is stored, or throws it away, also when it cannot be committed.
pub(super) async fn finish(images: &dyn Images, step: StepRoot, outcome: Result<Layer>) -> Result<Layer> {
    let left = step.clone();
    let kept = match outcome {
        Ok(layer) => images.commit_step(step, &layer).await.map(|_| layer),
        Err(e) => Err(e),
    };
    let Err(e) = kept else { return kept };
    // Not after it: what is thrown away leaves room.
    let e = space::explain(e, &left.changes);
    // The first error is the one worth showing.
    let _ = images.abort_step(left).await;
    Err(e)
}
