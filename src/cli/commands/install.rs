//! `oardocker install SRC`: OAR on the images of the environment.

use super::{Context, scratch, stop};
use crate::cli::ui;
use crate::cluster::images;
use crate::error::Result;
use crate::image::build::{Options, short};
use crate::source;
use serde::Deserialize;

/// Parameters.
#[derive(Debug, Deserialize)]
pub(super) struct Params {
    src: String,
}

pub(super) async fn run(context: &mut Context, params: Params) -> Result<()> {
    let workdir = context.locked_workdir().await?;
    // What is wrong with the source is found before anything is stopped.
    let ui = context.ui.clone();
    let opened = source::open(&params.src, &workdir.path("postinstall"), &|line| ui.progress(line)).await;
    ui.progress_end();
    let source = opened?;
    let engine = context.engine().await?;
    let roles: Vec<&str> = workdir.manifest.install_on.iter().map(String::as_str).collect();
    images::require(engine.as_ref(), &workdir, &roles, "base").await?;
    stop::quietly(context, &workdir).await?;
    context.ui.line(&format!("Installing {} from {source}", workdir.manifest.install_software_name));
    let builder = context.builder(&workdir, Options::default(), false).await?;
    let outcome = match source.prepare(&scratch(&workdir.env_id)) {
        Ok(source) => images::install(&builder, &workdir, &source).await,
        Err(e) => Err(e),
    };
    context.ui.progress_end();
    let ended = context.end_steps(&workdir).await;
    for (name, id, comment) in outcome? {
        let saved = context.ui.paint_out(ui::GREEN, "Saved");
        context.ui.line(&format!("Image {name} ({}) --> {saved}: {comment}", short(&id)));
    }
    ended
}
