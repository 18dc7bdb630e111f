//! `oardocker logs`: what the log host collected.

use super::Context;
use crate::cli::values::{self, Given, Lines};
use crate::cluster;
use crate::error::{Doing as _, Error, Result};
use crate::rooted::own_path;
use clap::ValueHint;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::Serialize;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

/// Lines that `-f` shows of the past when nothing else is said.
const TAIL: usize = 10;

/// A line that is longer, in bytes, is shown in pieces.
const LONGEST: usize = 1 << 20;

/// Fetch the logs of all nodes or only some
///
/// Shows what the log host collected. Host names may follow.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  oardocker logs -n 20 server
      the last lines of the server
  oardocker logs -f
      follow all")]
pub struct Params {
    /// Number of journal entries to show.
    #[arg(short = 'n', long, value_name = "TEXT", value_parser = values::lines)]
    lines: Option<Given<Lines>>,
    /// Show all lines, even in follow mode.
    #[arg(long)]
    no_tail: bool,
    /// Follow log output.
    #[arg(short, long)]
    follow: bool,
    /// Of these only.
    #[arg(value_hint = ValueHint::Hostname)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
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
    let count = match params.lines.map(|lines| lines.value) {
        _ if params.no_tail => None,
        Some(Lines::All) => None,
        Some(Lines::Last(n)) => Some(n),
        None => params.follow.then_some(TAIL),
    };
    let files = context.files(&workdir);
    let path = files.log();
    let file = files.open_log()?;
    let watched = own_path(&file);
    let mut reader = BufReader::new(file);
    let wanted = |line: &str| params.hostnames.is_empty() || params.hostnames.iter().any(|h| host(line) == h);
    let mut past: VecDeque<String> = VecDeque::new();
    let mut line = Vec::new();
    while read_line(&mut reader, &mut line).doing(|| format!("cannot read {}", path.display()))? > 0 {
        let text = String::from_utf8_lossy(&line).into_owned();
        line.clear();
        match count {
            _ if !wanted(&text) => {}
            None if !context.ui.data(&text) => return Ok(()),
            None | Some(0) => {}
            Some(n) => {
                past.drain(..(past.len() + 1).saturating_sub(n));
                past.push_back(text);
            }
        }
    }
    context.ui.data(&past.into_iter().collect::<String>());
    if params.follow {
        follow(context, &watched, reader, &wanted).await?;
    }
    Ok(())
}

/// Reads on to the end of a line, of which it takes no more than [`LONGEST`]: what a node writes may have no end.
fn read_line(reader: &mut BufReader<File>, line: &mut Vec<u8>) -> std::io::Result<usize> {
    let room = LONGEST.saturating_sub(line.len()) as u64;
    reader.take(room).read_until(b'\n', line)
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
        while read_line(&mut reader, &mut line).doing(doing)? > 0 {
            if line.last() != Some(&b'\n') && line.len() < LONGEST {
                break;
            }
            let text = String::from_utf8_lossy(&line).into_owned();
            if wanted(&text) && !context.ui.data(&text) {
                return Ok(());
            }
            line.clear();
        }
        if reader.get_ref().metadata().doing(doing)?.nlink() == 0 {
            context.ui.talk("The cluster was stopped.");
            return Ok(());
        }
        let watch = inotify.clone();
        tokio::task::spawn_blocking(move || watch.read_events()).await.doing(doing)?.doing(doing)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_line_is_of_the_host_in_front_of_it() {
        assert_eq!(host("node1 | 2026 sshd: node2 | x"), "node1");
        assert_eq!(host("no host at all"), "no host at all");
    }

    #[test]
    fn a_line_without_an_end_comes_in_pieces() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![b'a'; LONGEST + 5]).unwrap();
        file.write_all(b"\nnode1 | b\nnode1 | unfin").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let mut reader = BufReader::new(file.try_clone().unwrap());
        let mut line = Vec::new();
        let mut next = |line: &mut Vec<u8>| {
            let n = read_line(&mut reader, line).unwrap();
            (n, String::from_utf8(std::mem::take(line)).unwrap())
        };
        assert_eq!(next(&mut line).0, LONGEST);
        assert_eq!(next(&mut line).1, "aaaaa\n");
        assert_eq!(next(&mut line).1, "node1 | b\n");
        assert_eq!(next(&mut line).1, "node1 | unfin");
        assert_eq!(next(&mut line).0, 0);
    }
}
