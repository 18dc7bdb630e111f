//! `oardocker connect`: a login shell on a host.

use super::Context;
use super::exec::{self, Input};
use crate::cli::values;
use crate::error::Result;
use clap::ValueHint;
use serde::Serialize;
use std::io::IsTerminal as _;

/// Connect to a node
///
/// Opens a shell. Options go before HOSTNAME; what follows HOSTNAME is the next command.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  oardocker connect
      a shell on the frontend as user docker
  oardocker connect -l root node1
      a root shell on node1")]
pub struct Params {
    /// Log in as this user.
    #[arg(short = 'l', long, value_name = "TEXT", default_value = "docker", value_hint = ValueHint::Username)]
    user: String,
    /// Start in this directory.
    #[arg(short, long, value_name = "TEXT", default_value = "~")]
    workdir: String,
    /// Run this shell.
    #[arg(short, long, value_name = "TEXT", default_value = "bash")]
    shell: String,
    /// Where.
    #[arg(default_value = "frontend", value_hint = ValueHint::Hostname, value_parser = values::host)]
    hostname: String,
}

pub(super) async fn run(context: &mut Context, params: Params) -> Result<u8> {
    // The shell is run as a login shell, so that it has the cluster's variables; the message of the day comes first.
    let line = format!("cat /etc/motd 2>/dev/null; exec {}", params.shell);
    let args = vec!["/bin/bash".into(), "-lc".into(), line];
    let tty = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let input = if tty { Input::Terminal } else { Input::File };
    exec::attach(context, &params.hostname, &params.user, &params.workdir, args, input).await
}
