//! `oardocker init`: copies an environment to the env dir.

use super::Context;
use crate::cli::ui;
use crate::error::{Context as _, Error, Result};
use crate::workdir::{self, templates};
use serde::Deserialize;
use std::fs;
use templates::Outcome;

/// Parameters.
#[derive(Debug, Deserialize)]
pub(super) struct Params {
    force: bool,
    env: String,
}

pub(super) async fn run(context: &mut Context, params: &Params) -> Result<()> {
    let root = context.root()?;
    let env_dir = workdir::env_dir(&root);
    if env_dir.exists() && !env_dir.is_dir() {
        return Err(Error::new(format!("{} is not a directory", env_dir.display())).hint("move it away"));
    }
    fs::create_dir_all(&env_dir).doing(|| format!("cannot create {}", env_dir.display()))?;
    let ui = context.ui.clone();
    workdir::refuse_links(&env_dir, &env_dir)?;
    let _lock = if context.locks.is_empty() {
        let waiting = || ui.talk("Waiting for another oardocker that works in this folder ...");
        Some(workdir::lock(&env_dir, waiting).await?)
    } else {
        None
    };
    templates::copy(&params.env, &env_dir, params.force, |outcome, path| {
        let (color, word) = match outcome {
            Outcome::Create => (ui::GREEN, "   create"),
            Outcome::Identical => (ui::BLUE, "identical"),
            Outcome::Overwrite => (ui::YELLOW, "overwrite"),
            Outcome::Ignore => (ui::MAGENTA, "   ignore"),
        };
        let shown = path.strip_prefix(&root).unwrap_or(path);
        ui.line(&format!("   {}  {}", ui.paint_out(color, word), shown.display()));
    })?;
    // The id comes last: with it the env dir is complete.
    let write = |name: &str, text: &str| {
        let path = env_dir.join(name);
        workdir::refuse_links(&env_dir, &path)?;
        fs::write(&path, format!("{text}\n")).doing(|| format!("cannot write {}", path.display()))
    };
    write("env_name", &params.env)?;
    if !env_dir.join("env_id").exists() {
        write("env_id", &format!("{:08x}", rand::random::<u32>()))?;
    }
    ui.line(&format!("Initialized oardocker environment in {}", env_dir.display()));
    Ok(())
}
