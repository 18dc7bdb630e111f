//! `oardocker build`: the images of the environment.

use super::{Context, stop};
use crate::cli::ui;
use crate::cluster::{elsewhere, images, preflight};
use crate::error::Result;
use crate::image::build::Options;
use crate::image::report::short;
use clap::ArgAction::SetFalse;
use serde::Serialize;
use std::collections::BTreeMap;

/// Build base images
///
/// Builds one image per folder of .oardocker/images. Steps whose inputs did not change are taken from the cache; images that do
/// not depend on each other are built at the same time. A running cluster is stopped first.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  oardocker build
      build all images
  oardocker build --no-cache
      from scratch")]
pub struct Params {
    /// Remove the containers of failed steps too; always done.
    #[arg(long)]
    force_rm: bool,
    /// Run every step again.
    #[arg(long)]
    no_cache: bool,
    /// Look for newer base images.
    #[arg(long)]
    pull: bool,
    /// Show the images only, not the output of the steps.
    #[arg(short, long)]
    quiet: bool,
    /// Remove the containers of steps; always done.
    #[arg(id = "rm-on", long = "rm", overrides_with = "rm")]
    #[serde(skip)]
    _rm_on: bool,
    /// Accepted for old scripts.
    #[arg(long = "no-rm", action = SetFalse, overrides_with = "rm-on")]
    rm: bool,
    /// Build images that are already there; done without it too.
    #[arg(id = "rebuild-on", long = "rebuild", overrides_with = "rebuild")]
    #[serde(skip)]
    _rebuild_on: bool,
    /// Leave images as they are that are already there.
    #[arg(long = "no-rebuild", action = SetFalse, overrides_with = "rebuild-on")]
    rebuild: bool,
}

pub(super) async fn run(context: &mut Context, params: Params) -> Result<()> {
    let workdir = context.locked_workdir().await?;
    let engine = context.engine().await?;
    preflight::build(engine.as_ref(), &workdir, &context.files(&workdir))?
        .iter()
        .for_each(|line| context.ui.note(line));
    context.end_steps(&workdir).await?;
    let options = Options {
        no_cache: params.no_cache,
        pull: params.pull,
        keep: !params.rebuild,
        args: BTreeMap::from([("OARDOCKER_ENV_ID".to_owned(), workdir.env_id.clone())]),
        elsewhere: BTreeMap::new(),
    };
    let mut builder = context.builder(&workdir, options, params.quiet).await?;
    // Whatever fails from here on, the files that the builder has made go again.
    let outcome = match images::definitions(&workdir, &builder.scratch) {
        Ok(definitions) => match elsewhere::find(builder.images.as_ref(), &context.machine, &definitions).await {
            Ok((names, lines)) => {
                lines.iter().for_each(|line| context.ui.line(line));
                builder.options.elsewhere = names;
                images::build(&builder, engine.as_ref(), &workdir, &definitions).await.map(|built| (definitions, built))
            }
            Err(e) => Err(e),
        },
        Err(e) => Err(e),
    };
    context.ui.progress_end();
    let ended = context.end_steps(&workdir).await;
    let (definitions, built) = outcome?;
    // Not before there is something to take its place.
    context.still_wanted()?;
    stop::quietly(context, &workdir).await?;
    for (definition, (_, id)) in definitions.iter().zip(built) {
        let saved = context.ui.paint_out(ui::GREEN, "Saved");
        context.ui.line(&format!("Image {} ({}) --> {saved}", definition.known_as[0], short(&id)));
    }
    ended
}
