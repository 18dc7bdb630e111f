//! `oardocker stop`: leaves nothing of the cluster.

use super::Context;
use crate::cli::ui::Ui;
use crate::error::Result;
use crate::workdir::Workdir;
use std::sync::Arc;

pub(super) async fn run(context: &mut Context<'_>) -> Result<()> {
    let workdir = context.locked_workdir()?;
    quietly(context, &workdir).await
}

/// What `build`, `install`, `start` and `destroy` do first.
pub(super) async fn quietly(context: &mut Context<'_>, workdir: &Workdir) -> Result<()> {
    let runner = context.runner(Arc::new(Ui::new())).await?;
    let stopped = runner.stop(&workdir.env_id).await;
    let ended = context.end_steps(workdir).await;
    stopped.and(ended)
}
