//! `oardocker stop`: leaves nothing of the cluster.

use super::Context;
use crate::error::Result;
use crate::workdir::Workdir;
use serde::Serialize;

/// Stop and remove all nodes
///
/// Removes the cluster: containers, network, mounts and cgroups. Images stay.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  oardocker stop
      back to where you were before start")]
pub struct Params {}

pub(super) async fn run(context: &mut Context) -> Result<()> {
    let workdir = context.locked_workdir().await?;
    quietly(context, &workdir).await
}

/// What `build`, `install`, `start` and `destroy` do first.
pub(super) async fn quietly(context: &mut Context, workdir: &Workdir) -> Result<()> {
    let runner = context.runner(workdir).await?;
    let killed = context.killed();
    let stopped = runner.stop(killed.as_deref()).await;
    let ended = context.end_steps(workdir).await;
    stopped.and(ended)?;
    if killed.is_some() { context.settled() } else { Ok(()) }
}
