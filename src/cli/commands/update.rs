//! `oardocker update [SRC]`: changed source files into a running cluster.

use super::Context;
use super::install::open_source;
use crate::cli::ui;
use crate::cli::values::off;
use crate::cluster::update::{Outcome, Running};
use crate::cluster::{self, images};
use crate::engine::select::Backend;
use crate::error::{Error, Kind, Result};
use crate::source::TreeWatch;
use crate::workdir::Workdir;
use clap::ValueHint;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

/// Editors write a file in several steps, and git many files.
const SETTLED: Duration = Duration::from_millis(100);

/// How many files that cannot be put in place are named.
const MOST_NAMED: usize = 20;

/// Put changed files of src into the running cluster
///
/// SRC is the tree that was installed, a directory or a git working tree; the current one if it is not given. Files of it that have
/// changed since are put in the place of what was installed from them, on all hosts, and what has to read them anew is restarted.
/// What cannot be put so, such as a program in C, is told. The images stay as they are: `install` brings the same into them.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  oardocker update
      the tree in the current folder
  oardocker update --watch ~/oar
      at every save, until Ctrl-C")]
pub struct Params {
    /// Do it again whenever a file of it is saved, until Ctrl-C.
    #[arg(short, long)]
    #[serde(skip_serializing_if = "off")]
    pub(super) watch: bool,
    /// The tree.
    #[arg(value_hint = ValueHint::DirPath, default_value = ".")]
    src: String,
}

pub(super) async fn run(context: &mut Context, params: Params) -> Result<()> {
    if !Path::new(&params.src).is_dir() {
        return Err(Error::usage(format!("{} is no directory", params.src))
            .hint("SRC is the directory or git working tree that was installed; for anything else: oardocker install SRC start"));
    }
    if !params.watch {
        return once(context, &params.src).await;
    }
    let mut watch = TreeWatch::new(Path::new(&params.src))?;
    loop {
        match once(context, &params.src).await {
            Err(e) if context.cancel.is_cancelled() || e.kind() == Kind::Usage => return Err(e),
            Err(e) => context.ui.error(&e),
            Ok(()) => {}
        }
        // Others may want the cluster meanwhile.
        context.locks.clear();
        context.ui.progress("waiting for a change, until Ctrl-C");
        let changed = context.cancel.run_until_cancelled(watch.changed(SETTLED)).await;
        context.ui.progress_end();
        match changed {
            Some(outcome) => outcome?,
            None => return Err(Error::interrupted()),
        }
    }
}

async fn once(context: &mut Context, src: &str) -> Result<()> {
    let workdir = context.locked_workdir().await?;
    images::installer(&workdir)?;
    let Backend { engine, images } = context.backend().await?;
    let hosts = cluster::containers(engine.as_ref(), &workdir.env_id).await?;
    if hosts.is_empty() {
        return Err(Error::new("the cluster is not running").hint("run `oardocker start` first"));
    }
    let begun = Instant::now();
    context.ui.progress("looking for changed files");
    let roles = workdir.manifest.install_on.iter().map(|role| (role.as_str(), workdir.engine_name(role, "latest")));
    let running = Running {
        engine: engine.as_ref(),
        images: images.as_ref(),
        env_id: &workdir.env_id,
        hosts: &hosts,
        roles: roles.collect(),
    };
    let outcome = update(context, &workdir, src, &running).await;
    context.ui.progress_end();
    let _ = std::fs::remove_dir(context.scratch(&workdir));
    tell(context, &outcome?, begun)
}

async fn update(context: &Context, workdir: &Workdir, src: &str, running: &Running<'_>) -> Result<Outcome> {
    let source = open_source(context, workdir, src).await?.prepare(&context.scratch(workdir))?;
    let listing = source.listing()?.unwrap_or_default();
    context.still_wanted()?;
    running.update(&source, &listing).await
}

fn tell(context: &Context, outcome: &Outcome, begun: Instant) -> Result<()> {
    for (line, hosts) in &outcome.said {
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let (word, what) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "kept" => context.ui.note(&format!("{what} was changed on {} and is left as it is", hosts.join(", "))),
            _ => context.ui.line(&format!("{} {what}: {}", context.ui.paint_out(ui::GREEN, word), hosts.join(", "))),
        }
    }
    if outcome.said.is_empty() && outcome.left.is_empty() {
        context.ui.line("The cluster has all of it.");
    } else if context.ui.live() {
        context.ui.line(&format!("Updated in {:.1} s", begun.elapsed().as_secs_f64()));
    }
    if outcome.left.is_empty() {
        return Ok(());
    }
    let mut left: Vec<String> = outcome.left.iter().take(MOST_NAMED).cloned().collect();
    if outcome.left.len() > MOST_NAMED {
        left.push(format!("and {} more", outcome.left.len() - MOST_NAMED));
    }
    let error = Error::new("what has changed there cannot be put into a running cluster");
    Err(error.detail(left).hint("`oardocker install SRC start` has all of them"))
}
