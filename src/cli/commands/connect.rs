//! `oardocker connect`: a login shell on a host.

use super::Context;
use super::exec::{self, Input};
use crate::error::Result;
use serde::Deserialize;
use std::io::IsTerminal as _;

/// Parameters.
#[derive(Debug, Deserialize)]
pub(super) struct Params {
    user: String,
    workdir: String,
    shell: String,
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
