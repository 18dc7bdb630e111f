//! `oardocker status`: images and containers of the environment.

use super::Context;
use crate::cli::{table, ui};
use crate::cluster::health::{self, Health};
use crate::cluster::{self, COMMENT_LABEL, images};
use crate::engine::State;
use crate::engine::select::Backend;
use crate::error::Result;
use crate::image::report::short;
use crate::workdir::owned;
use serde::Serialize;
use std::time::SystemTime;

/// Output status of the cluster
///
/// Lists this environment's images and containers.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  oardocker status
      what is there")]
pub struct Params {}

pub(super) async fn run(context: &mut Context) -> Result<()> {
    let workdir = context.workdir()?;
    let Backend { engine, images: store } = context.backend().await?;
    let mut rows = Vec::new();
    let known = |name: &str| owned(name).map_or(name, |(_, name)| name).to_owned();
    for record in images::of_environment(store.as_ref(), &workdir.env_id).await? {
        let size = store.image(&record.name).await?.map_or(0, |i| i.layers.iter().map(|l| l.size).sum::<u64>());
        rows.push(vec![
            known(&record.name),
            short(&record.id).to_owned(),
            ago(record.created),
            bytes(size),
            record.labels.get(COMMENT_LABEL).cloned().unwrap_or_default(),
        ]);
    }
    context.ui.data(&table::render(&["Images", "ID", "Created", "Size", "Comment"], &rows));
    let hosts = std::fs::read_to_string(context.files(&workdir).path("hosts")).unwrap_or_default();
    let address = |name: &str| {
        hosts.lines().find_map(|l| l.split_once(' ').filter(|(_, n)| *n == name)).map_or("", |(ip, _)| ip).to_owned()
    };
    let mut rows = Vec::new();
    let mut all: Vec<_> = cluster::containers(engine.as_ref(), &workdir.env_id).await?.into_iter().collect();
    all.sort_by_key(|(name, _)| {
        (name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0_u32), name.clone())
    });
    let mut health = Health::default();
    for (name, c) in all {
        if name == "server" && c.state == State::Running {
            health = health::of_server(engine.as_ref(), &workdir.env_id, workdir.env_dir()).await;
        }
        let status = match c.state {
            State::Running if name == "server" && health.ended => context.ui.paint_out(ui::RED, "Up, OAR has ended"),
            State::Running => context.ui.paint_out(ui::GREEN, "Up"),
            State::Exited(code) => context.ui.paint_out(ui::RED, &format!("Exit {code}")),
            State::Created => context.ui.paint_out(ui::RED, "Created"),
        };
        rows.push(vec![name.clone(), address(&name), known(&c.image), ago(c.created), c.id, status]);
    }
    let headings = ["Containers", "IP", "Image", "Created", "ID", "Status"];
    context.ui.data(&format!("\n{}", table::render(&headings, &rows)));
    if !health.said.is_empty() {
        context.ui.note("OAR's server tells of errors, the last of them:");
        health.said.iter().for_each(|line| context.ui.note(&format!("  {line}")));
    }
    Ok(())
}

fn ago(time: SystemTime) -> String {
    let seconds = time.elapsed().map_or(0, |d| d.as_secs());
    let (n, unit) = match seconds {
        0..60 => return "just now".into(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" })
}

fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "kB", "MB"] {
        if value < 1000.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} GB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn sizes_and_times() {
        assert_eq!(bytes(1_234_567), "1.2 MB");
        assert_eq!(bytes(0), "0.0 B");
        assert_eq!(ago(SystemTime::now() - Duration::from_secs(3700)), "1 hour ago");
        assert_eq!(ago(SystemTime::now() + Duration::from_secs(5)), "just now");
    }
}
