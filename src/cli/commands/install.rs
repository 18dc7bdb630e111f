//! `oardocker install SRC`: OAR on the images of the environment.

use super::{Context, stop};
use crate::cli::ui;
use crate::cli::values::off;
use crate::cluster::{images, preflight};
use crate::engine::select::Backend;
use crate::error::{Doing as _, Result};
use crate::image::build::Options;
use crate::image::report::short;
use crate::source::{self, Source};
use crate::workdir::Workdir;
use clap::ValueHint;
use serde::Serialize;
use std::path::Path;
use tokio::runtime::Handle;

/// Install and configure OAR from src
///
/// SRC is a tarball, a directory, a git working tree, the URL of a tarball, or git+URL of a repository with @ and a branch or tag
/// if need be. It is never written to. What was installed before, the same source on the same images, is found again. The word deb stands for the Debian packages of the environment's own suite. A running
/// cluster is stopped first.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  oardocker install oar-2.6.1.tar.gz
      from a tarball
  oardocker install . start
      from the working tree, then start
  oardocker install deb
      from Debian's packages
  oardocker install git+https://github.com/oar-team/oar.git@2.5
      a branch of a repository")]
pub struct Params {
    /// Run the install scripts also where the same source was installed on the same images before.
    #[arg(long)]
    #[serde(skip_serializing_if = "off")]
    no_cache: bool,
    /// Where OAR comes from.
    #[arg(value_hint = ValueHint::AnyPath)]
    src: String,
}

pub(super) async fn run(context: &mut Context, params: Params) -> Result<()> {
    let workdir = context.locked_workdir().await?;
    let Backend { engine, images: store } = context.backend().await?;
    preflight::install(engine.as_ref(), store.as_ref(), &workdir, &context.files(&workdir))
        .await?
        .iter()
        .for_each(|line| context.ui.note(line));
    context.end_steps(&workdir).await?;
    let ui = context.ui.clone();
    let place = context.scratch(&workdir);
    let opened = open_source(context, &workdir, &params.src).await;
    ui.progress_end();
    let source = opened?;
    ui.line(&format!("Installing {} from {source}", workdir.manifest.install_software_name));
    let builder = context.builder(&workdir, Options::default(), false).await?;
    let outcome = match source.prepare(&place) {
        Ok(source) => images::install(&builder, engine.as_ref(), &workdir, &source, params.no_cache).await,
        Err(e) => Err(e),
    };
    context.ui.progress_end();
    let ended = context.end_steps(&workdir).await;
    let installed = outcome?;
    // Not before there is something to take its place.
    context.still_wanted()?;
    stop::quietly(context, &workdir).await?;
    for image in &installed {
        let saved = context.ui.paint_out(ui::GREEN, "Saved");
        context.ui.line(&format!("Image {} ({}) --> {saved}: {}", image.name, short(&image.id), image.comment));
    }
    installed.iter().flat_map(|image| &image.notes).for_each(|note| context.ui.note(note));
    ended
}

/// Opens what the user named. git waits for servers, and not on the thread that hears Ctrl-C.
pub(super) async fn open_source(context: &Context, workdir: &Workdir, src: &str) -> Result<Source> {
    let (env_dir, src) = (workdir.env_dir().sub(Path::new("/"))?, src.to_owned());
    let (there, say) = (context.scratch(workdir), context.ui.clone());
    let opening = tokio::task::spawn_blocking(move || {
        let say = |line: &str| say.progress(line);
        Handle::current().block_on(source::open(&src, &env_dir, &there, &say))
    });
    context.wanted(async { opening.await.doing(|| "cannot open the source".into())? }).await
}
