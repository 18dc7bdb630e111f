//! What the OAR of a running cluster says of itself.

use super::{container_id, session};
use crate::engine::Engine;
use crate::rooted::Root;
use std::time::Duration;

/// The init script that knows where to look, on the server and in the env dir.
const SCRIPT: &str = "wait_oar_server.sh";

/// A server that has not answered by then has other worries.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether OAR's server has ended, and the last errors that it has told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// It ran once, and does not now.
    pub ended: bool,
    /// Lines of its log.
    pub said: Vec<String>,
}

/// Asks a server that runs. A folder whose init scripts cannot tell, and a server that cannot be asked, have nothing to say.
pub async fn of_server(engine: &dyn Engine, env_id: &str, env_dir: &Root) -> Health {
    // The one of the Python tool, and of earlier versions, would wait.
    if !env_dir
        .text(&format!("init-scripts/{SCRIPT}"))
        .ok()
        .flatten()
        .is_some_and(|text| text.contains(&format!("{SCRIPT} state")))
    {
        return Health::default();
    }
    let inside = format!("/var/lib/container/init-scripts/{SCRIPT}");
    let (server, args) = (container_id(env_id, "server"), ["/bin/bash", &inside, "state"]);
    let asked = session::capture_within(PATIENCE, engine, &server, &args).await;
    asked.map_or_else(|_| Health::default(), |(_, out, _)| parse(&out))
}

fn parse(out: &str) -> Health {
    let lines = session::plain_lines(out);
    let ended = lines.first().is_some_and(|line| line == "ended");
    Health { ended, said: lines.into_iter().skip(usize::from(ended)).take(8).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_tells() {
        assert_eq!(parse(""), Health::default());
        assert_eq!(parse("E|\x1b[2Jx\n").said, ["E|[2Jx"]);
        assert_eq!(parse("ended\nE|x\n"), Health { ended: true, said: vec!["E|x".into()] });
        assert_eq!(parse("E|ended\nended\n"), Health { ended: false, said: vec!["E|ended".into(), "ended".into()] });
    }
}
