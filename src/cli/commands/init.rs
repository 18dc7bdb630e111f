//! `oardocker init`: copies an environment to the env dir.

use super::Context;
use crate::cli::ui;
use crate::error::{Doing as _, Error, Result};
use crate::rooted::Root;
use crate::workdir::{self, templates};
use clap::builder::PossibleValuesParser;
use serde::Serialize;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use templates::Outcome;

/// Initialize a new environment
///
/// Copies an environment's definition to .oardocker. Files that you changed are overwritten with -f only, custom_setup.sh never.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  oardocker init
      the default environment
  oardocker init -f -e bookworm build
      another one, and build it")]
pub struct Params {
    /// Overwrite an existing environment.
    #[arg(short, long)]
    force: bool,
    /// The environment.
    #[arg(short, long, value_name = "NAME", default_value = "trixie",
          value_parser = PossibleValuesParser::new(templates::environments()))]
    env: String,
}

pub(super) async fn run(context: &mut Context, params: &Params) -> Result<()> {
    let root = context.root()?;
    let path = workdir::env_dir(&root);
    match fs::DirBuilder::new().mode(0o755).create(&path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && !path.is_dir() => {
            return Err(Error::new(format!("{} is not a directory", path.display())).hint("move it away"));
        }
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            return Err(e).doing(|| format!("cannot create {}", path.display()));
        }
        _ => {}
    }
    let env_dir = Root::beneath(&path)?;
    let ui = context.ui.clone();
    let _lock = if context.locks.is_empty() {
        let waiting = || ui.talk("Waiting for another oardocker that works in this folder ...");
        Some(context.wanted(workdir::lock(env_dir.lockable()?, &path, waiting)).await?)
    } else {
        None
    };
    templates::copy(&params.env, &env_dir, params.force, |outcome, name| {
        let (color, word) = match outcome {
            Outcome::Create => (ui::GREEN, "   create"),
            Outcome::Identical => (ui::BLUE, "identical"),
            Outcome::Overwrite => (ui::YELLOW, "overwrite"),
            Outcome::Ignore => (ui::MAGENTA, "   ignore"),
        };
        ui.line(&format!("   {}  .oardocker/{}", ui.paint_out(color, word), name.display()));
    })?;
    // The id comes last: with it the env dir is complete.
    let write = |name: &str, text: &str| env_dir.replace(Path::new(name), format!("{text}\n").as_bytes(), 0o644);
    write("env_name", &params.env)?;
    if env_dir.text("env_id")?.is_none() {
        write("env_id", &format!("{:08x}", rand::random::<u32>()))?;
    }
    ui.line(&format!("Initialized oardocker environment in {}", path.display()));
    Ok(())
}
