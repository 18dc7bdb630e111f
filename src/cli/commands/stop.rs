//! `oardocker stop`: leaves nothing of the cluster.

use super::Context;
use crate::error::Result;
use crate::workdir::Workdir;

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
