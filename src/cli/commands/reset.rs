//! `oardocker reset`: restarts hosts of the cluster.

use super::Context;
use crate::cluster;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::time::Duration;

/// Parameters.
#[derive(Debug, Deserialize)]
pub(super) struct Params {
    hostnames: Vec<String>,
    time: u64,
}

pub(super) async fn run(context: &mut Context, params: Params) -> Result<()> {
    let workdir = context.locked_workdir().await?;
    let engine = context.engine().await?;
    let known: Vec<String> = cluster::containers(engine.as_ref(), &workdir.env_id).await?.into_keys().collect();
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
    let ui = context.ui.clone();
    let runner = context.runner().await?;
    ui.progress("shutting down");
    let outcome = runner.reset(&workdir.env_id, &names, Duration::from_secs(params.time)).await;
    ui.progress_end();
    outcome
}
