//! `oardocker clean`: containers that do not run, and cached steps that nothing uses.

use super::Context;
use crate::cluster;
use crate::engine::State;
use crate::engine::select::Backend;
use crate::error::Result;
use crate::image::cache::CACHE;
use crate::image::caches;
use serde::Serialize;
use std::collections::BTreeSet;

/// Remove stopped containers and images that nothing needs
///
/// Removes this environment's containers that do not run, cached build steps that none of the images uses, and what
/// RUN --mount=type=cache has kept.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  oardocker clean
      free disk space")]
pub struct Params {}

pub(super) async fn run(context: &mut Context) -> Result<()> {
    let workdir = context.locked_workdir().await?;
    let Backend { engine, images } = context.backend().await?;
    images.recover().await?;
    for (name, container) in cluster::containers(engine.as_ref(), &workdir.env_id).await? {
        if container.state != State::Running {
            engine.remove(&container.id).await?;
            context.ui.line(&format!("Container {name} --> removed"));
        }
    }
    let records = images.images().await?;
    let mut used = BTreeSet::new();
    for record in records.iter().filter(|r| !r.name.starts_with(CACHE)) {
        if let Some(image) = images.image(&record.name).await? {
            used.extend(image.layers.into_iter().map(|l| l.diff_id));
        }
    }
    let mut unused = Vec::new();
    for record in records.iter().filter(|r| r.name.starts_with(CACHE)) {
        let top = images.image(&record.name).await?.and_then(|i| i.layers.last().map(|l| l.diff_id.clone()));
        if top.is_none_or(|diff_id| !used.contains(&diff_id)) {
            unused.push(record.name.clone());
        }
    }
    // Also with no names: what older installs have left without any goes then.
    images.remove_images(&unused).await?;
    if !unused.is_empty() {
        context.ui.line(&format!("Removed {} cached build steps", unused.len()));
    }
    let caches = caches::remove_unused(&context.machine.data_dir().join("caches"))?;
    if caches > 0 {
        context.ui.line(&format!("Removed {caches} caches of build steps"));
    }
    Ok(())
}
