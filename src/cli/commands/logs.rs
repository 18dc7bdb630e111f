//! `oardocker logs`: what the log host collected.

use super::Context;
use crate::cluster;
use crate::cluster::files::Files;
use crate::error::{Context as _, Error, Result};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::Deserialize;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::Arc;

/// Lines that `-f` shows of the past when nothing else is said.
const TAIL: usize = 10;

/// Parameters.
#[derive(Debug, Deserialize)]
pub(super) struct Params {
    lines: Option<String>,
    no_tail: bool,
    follow: bool,
    #[serde(default)]
    hostnames: Vec<String>,
}

pub(super) async fn run(context: &mut Context, params: Params) -> Result<()> {
    let workdir = context.workdir()?;
    let engine = context.engine().await?;
    let known: Vec<String> = cluster::containers(engine.as_ref(), &workdir.env_id).await?.into_keys().collect();
    if known.is_empty() {
        return Err(
            Error::new("the cluster is not running, and its logs go with it").hint("run `oardocker start` first")
        );
    }
    if let Some(name) = params.hostnames.iter().find(|n| !known.contains(n)) {
        return Err(
            Error::new(format!("there is no host {name} in this cluster")).hint(format!("hosts: {}", known.join(", ")))
        );
    }
    let count = match params.lines.as_deref() {
        _ if params.no_tail => None,
        Some("all") => None,
        Some(n) => Some(n.parse::<usize>().doing(|| format!("bad number of lines {n:?}"))?),
        None => params.follow.then_some(TAIL),
    };
    let path = Files::new(&workdir.env_id).log();
    let mut reader = BufReader::new(File::open(&path).doing(|| format!("cannot open {}", path.display()))?);
    let wanted = |line: &str| params.hostnames.is_empty() || params.hostnames.iter().any(|h| host(line) == h);
    let mut past: Vec<String> = Vec::new();
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).doing(|| format!("cannot read {}", path.display()))? > 0 {
        let text = String::from_utf8_lossy(&line).into_owned();
        if wanted(&text) {
            past.push(text);
        }
        line.clear();
    }
    let from = count.map_or(0, |n| past.len().saturating_sub(n));
    context.ui.data(&past[from..].concat());
    if params.follow {
        follow(context, &path, reader, &wanted).await?;
    }
    Ok(())
}

/// Lines begin with `HOST | `.
fn host(line: &str) -> &str {
    line.split(" | ").next().unwrap_or_default()
}

async fn follow(
    context: &Context,
    path: &Path,
    mut reader: BufReader<File>,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<()> {
    let doing = || format!("cannot follow {}", path.display());
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).doing(doing)?;
    inotify
        .add_watch(path, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_ATTRIB)
        .doing(doing)?;
    let inotify = Arc::new(inotify);
    let mut line = Vec::new();
    loop {
        while reader.read_until(b'\n', &mut line).doing(doing)? > 0 {
            if line.last() != Some(&b'\n') {
                break;
            }
            let text = String::from_utf8_lossy(&line).into_owned();
            if wanted(&text) && !context.ui.data(&text) {
                return Ok(());
            }
            line.clear();
        }
        if !path.exists() {
            context.ui.talk("The cluster was stopped.");
            return Ok(());
        }
        let watch = inotify.clone();
        tokio::task::spawn_blocking(move || watch.read_events()).await.doing(doing)?.doing(doing)?;
    }
}
