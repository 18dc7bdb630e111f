//! What an OAR cluster is: hosts with roles, what they share, and when it is ready.
//!
//! [`facts`] collects, [`plan`] decides and changes nothing, [`run`] carries out and undoes. Names no engine, no netlink, no nft.

pub mod contents;
pub mod cow;
pub mod elsewhere;
pub mod facts;
pub mod files;
pub mod health;
pub mod images;
pub mod init;
pub mod keeper;
pub mod limits;
pub mod notify;
pub mod old_folder;
mod place;
pub mod plan;
pub mod preflight;
mod refresh;
pub mod request;
pub mod run;
pub mod session;
pub mod timeline;
pub mod update;
pub mod userns;
pub mod v1_only;
pub mod volume;

use crate::engine::{ContainerInfo, Engine};
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// The roles of a cluster's hosts.
pub const ROLES: [&str; 4] = ["frontend", "server", "node", "rsyslog"];

/// Label with the environment's id.
pub const ENV_LABEL: &str = "oardocker.env";
/// Label with the host name.
pub const HOST_LABEL: &str = "oardocker.host";
/// Label of images: what was installed.
pub const COMMENT_LABEL: &str = "oardocker.comment";

/// The engine's name of a host's container.
pub fn container_id(env_id: &str, host: &str) -> String {
    format!("oardocker-{env_id}-{host}")
}

/// Names of all hosts in the order in which they are started: first what takes longest to become ready.
pub fn names(nodes: u32) -> Vec<String> {
    let fixed = ["server", "frontend", "rsyslog"].into_iter().map(str::to_owned);
    fixed.chain((1..=nodes).map(|i| format!("node{i}"))).collect()
}

/// Names with the number of their address in the cluster's network.
pub fn numbered(nodes: u32) -> impl Iterator<Item = (String, u32)> {
    names(nodes).into_iter().zip(1..)
}

/// The role of a host: node7 is a node.
pub fn role(host: &str) -> &str {
    host.trim_end_matches(|c: char| c.is_ascii_digit())
}

/// Fails when the cluster runs on another engine than this one, which would neither find nor remove it.
pub fn require_its_engine(engine: &dyn Engine, files: &files::Files) -> Result<()> {
    let host = &engine.info().docker_host;
    match files.engine()? {
        Some(other) if other != *host => {
            Err(Error::new(format!("the cluster of this environment runs on another engine: {other}, not {host}"))
                .hint(format!("stop it there first: oardocker --docker-host {other} stop")))
        }
        _ => Ok(()),
    }
}

/// The containers of an environment, by host name.
pub async fn containers(engine: &dyn Engine, env_id: &str) -> Result<BTreeMap<String, ContainerInfo>> {
    Ok(engine
        .containers()
        .await?
        .into_iter()
        .filter(|c| c.labels.get(ENV_LABEL).is_some_and(|id| id == env_id))
        .map(|c| (c.labels.get(HOST_LABEL).cloned().unwrap_or_else(|| c.id.clone()), c))
        .collect())
}
