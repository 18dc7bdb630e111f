//! `oardocker completion`: the script, and what the running cluster contributes.

use super::Context;
use crate::cli::complete;
use crate::cluster::{self, files::Files};
use crate::host::Machine;
use crate::workdir::Workdir;
use serde::Deserialize;
use std::path::PathBuf;

/// Parameters.
#[derive(Debug, Deserialize)]
pub(super) struct Params {
    shell: String,
}

pub(super) fn run(context: &Context, params: &Params) {
    context.ui.data(complete::script(&params.shell).unwrap_or_default());
}

/// Host names of the cluster of the workdir that the line names; of any cluster when none runs.
pub(in crate::cli) fn hosts(words: &[String]) -> Vec<String> {
    let named = words.windows(2).find(|w| w[0] == "--workdir").map(|w| PathBuf::from(&w[1]));
    let root = named.or_else(|| std::env::current_dir().ok()).unwrap_or_default();
    let nodes = Workdir::open(&root)
        .ok()
        .and_then(|workdir| {
            let all =
                Files::own(&workdir.env_id).into_iter().chain([Files::new(&Machine::new(false), &workdir.env_id)]);
            all.into_iter().find_map(|files| files.public_nodes())
        })
        .map_or(1, |text| text.lines().count());
    cluster::names(u32::try_from(nodes).unwrap_or(1))
}
