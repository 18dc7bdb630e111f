//! `oardocker reset`: restarts hosts of the cluster.

use super::Context;
use crate::cluster;
use crate::engine::State;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::time::Duration;

/// Parameters.
#[derive(Debug, Deserialize)]
pub(super) struct Params {
    hostnames: Vec<String>,
    time: u64,
    #[serde(default)]
    stopped: bool,
}

pub(super) async fn run(context: &mut Context, params: Params) -> Result<()> {
    let workdir = context.locked_workdir().await?;
    let engine = context.engine().await?;
    let containers = cluster::containers(engine.as_ref(), &workdir.env_id).await?;
    let known: Vec<String> = containers.keys().cloned().collect();
    if known.is_empty() {
        return Err(Error::new("the cluster is not running").hint("run `oardocker start` first"));
    }
    if let Some(name) = params.hostnames.iter().find(|n| !known.contains(n)) {
        return Err(
            Error::new(format!("there is no host {name} in this cluster")).hint(format!("hosts: {}", known.join(", ")))
        );
    }
    let mut names = if params.hostnames.is_empty() { known } else { params.hostnames };
    names.sort();
    names.dedup();
    names.retain(|name| !params.stopped || containers[name].state != State::Running);
    if names.is_empty() {
        return Ok(());
    }
    let ui = context.ui.clone();
    let runner = context.runner(&workdir).await?;
    ui.progress("shutting down");
    let outcome = runner.reset(&names, Duration::from_secs(params.time)).await;
    ui.progress_end();
    outcome
}
