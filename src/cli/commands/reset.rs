//! `oardocker reset`: restarts hosts of the cluster.

use super::Context;
use crate::cli::values;
use crate::cluster;
use crate::engine::State;
use crate::error::{Error, Result};
use clap::ValueHint;
use serde::Serialize;
use std::time::Duration;

/// Restart the containers
///
/// Restarts the named nodes, or all of them. Nothing can be chained after reset.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  oardocker reset
      all nodes
  oardocker reset -t 0 node1 node2
      two of them, at once
  oardocker reset --stopped
      those that were shut down")]
pub struct Params {
    /// Number of seconds to wait for a node to shut down before it is killed.
    #[arg(short, long, value_name = "INTEGER", default_value = "10", value_parser = values::within::<u64>(0, 86_400))]
    time: u64,
    /// Only those that do not run.
    #[arg(long)]
    #[serde(skip_serializing_if = "values::off")]
    stopped: bool,
    /// Which.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_hint = ValueHint::Hostname)]
    hostnames: Vec<String>,
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
