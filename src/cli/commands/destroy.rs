//! `oardocker destroy`: the cluster and all images of the environment.

use super::{Context, stop};
use crate::cli::ui::{self, Ui};
use crate::cluster::images;
use crate::engine::select::Backend;
use crate::error::{Error, Result};
use crate::image::cache::CACHE;
use crate::image::report::short;
use crate::workdir::owned;
use serde::Serialize;
use std::io::BufRead as _;

/// Stop containers and remove all images
///
/// Stops the cluster and removes this environment's images. Asks first.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  oardocker destroy -f
      without a question")]
pub struct Params {
    /// Do not ask.
    #[arg(short, long)]
    #[serde(skip)]
    pub(super) force: bool,
}

/// Asks; an answer that is no, or none at all, aborts.
pub(super) fn confirm(ui: &Ui) -> Result<()> {
    loop {
        ui.data("Are you sure you want to destroy all images? [y/N]: ");
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        match (read, answer.trim().to_lowercase().as_str()) {
            (Ok(1..), "y" | "yes") => return Ok(()),
            (Ok(1..), "" | "n" | "no") => return Err(Error::new("aborted")),
            (Ok(1..), _) => {
                ui.data("Error: invalid input\n");
            }
            _ => {
                ui.data("\n");
                return Err(Error::new("aborted: no answer").hint("`oardocker destroy -f` does not ask"));
            }
        }
    }
}

pub(super) async fn run(context: &mut Context) -> Result<()> {
    let workdir = context.locked_workdir().await?;
    stop::quietly(context, &workdir).await?;
    let Backend { engine, images: store } = context.backend().await?;
    let own = images::of_environment(store.as_ref(), &workdir.env_id).await?;
    let names: Vec<String> = own.iter().map(|r| r.name.clone()).collect();
    // Base images and cached steps are shared; the last environment takes them along.
    let foreign = |id: &String| *id != workdir.env_id;
    let others = crate::workdir::others_at_work(&context.machine, &workdir.env_id)
        || store.images().await?.iter().any(|r| r.labels.get(crate::cluster::ENV_LABEL).is_some_and(foreign));
    let mut shared = Vec::new();
    if !others {
        let all = store.images().await?.into_iter().map(|r| r.name);
        shared.extend(all.filter(|n| n.starts_with(CACHE) || owned(n).is_none()));
    }
    images::remove(store.as_ref(), engine.as_ref(), &names, &shared).await?;
    for record in own {
        let removed = context.ui.paint_out(ui::BLUE, "Removed");
        let name = owned(&record.name).map_or(record.name.as_str(), |(_, name)| name);
        context.ui.line(&format!("Image {name} ({}) --> {removed}", short(&record.id)));
    }
    if !others {
        context.close().await;
        context.retire_at_end(engine, workdir.env_id.clone());
    }
    Ok(())
}
