//! Requests that bollard cannot make: containers in states that it does not know, and terminals, in whose streams it looks for
//! frames.

use super::http::{self, Answer};
use super::{Docker, LIMIT, OLDEST_API, OLDEST_PODMAN};
use crate::error::{Doing as _, Error, Result};
use hyper::upgrade::Upgraded;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// One container of a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
}

/// What we need to know of a container. Podman has states of its own, such as `stopped`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) name: String,
    /// RFC 3339.
    pub(super) created: String,
    pub(super) state: Status,
    pub(super) config: Config,
}

/// Of its first process.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Status {
    #[serde(rename = "Status")]
    pub(super) said: String,
    pub(super) running: bool,
    pub(super) pid: i64,
    pub(super) exit_code: i64,
}

/// As it was created.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Config {
    #[serde(default)]
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) image: String,
}

impl Docker {
    /// Ids of all containers with a label.
    pub(super) async fn ids(&self, label: &str) -> Result<Vec<String>> {
        // {"label":["..."]}, as a part of a URL.
        let filter = format!("%7B%22label%22%3A%5B%22{label}%22%5D%7D");
        let listed: Option<Vec<Listed>> = self.get(&format!("containers/json?all=true&filters={filter}")).await?;
        Ok(listed.unwrap_or_default().into_iter().map(|c| c.id).collect())
    }

    /// One container; none when there is none.
    pub(super) async fn inspect(&self, id: &str) -> Result<Option<Container>> {
        self.get(&format!("containers/{id}/json")).await
    }

    /// Makes a connection of its own, and waits until it has been answered.
    pub(super) async fn knock(&self) -> Result<()> {
        self.ask(Method::GET, "/_ping", None).await.map(drop).doing(|| format!("{} does not answer", self.info.name))
    }

    /// Creates a container by Podman's own API.
    pub(super) async fn create_libpod(&self, container: &serde_json::Value) -> Result<()> {
        let doing = || format!("{} refuses it", self.info.name);
        let path = format!("/v{OLDEST_PODMAN}.0.0/libpod/containers/create");
        let answer = self.ask(Method::POST, &path, Some(container.to_string())).await.doing(doing)?;
        if answer.status == StatusCode::CREATED {
            return Ok(());
        }
        let said: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
        let text = said.as_ref().and_then(|v| v["cause"].as_str().or(v["message"].as_str()));
        Err(Error::new(text.map_or_else(|| answer.text(), ToOwned::to_owned))).doing(doing)
    }

    /// An answer; none when the engine says that it is not there.
    async fn get<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<Option<T>> {
        let doing = || format!("cannot ask {} for {path}", self.info.name);
        let answer = self.ask(Method::GET, &format!("/{}/{path}", version()), None).await.doing(doing)?;
        match answer.status {
            StatusCode::OK => serde_json::from_slice(&answer.body).doing(doing).map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(Error::new(answer.text())).doing(doing),
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<String>) -> Result<Answer> {
        in_time(http::ask(&self.socket, method, path, body)).await
    }

    /// Starts a session with a terminal: the connection is then what the terminal says, and hears, and nothing else.
    pub(super) async fn start_terminal(&self, exec: &str) -> Result<TokioIo<Upgraded>> {
        let path = format!("/{}/exec/{exec}/start", version());
        let body = r#"{"Detach":false,"Tty":true}"#.to_owned();
        let started = in_time(http::upgrade(&self.socket, &path, body)).await;
        started.doing(|| format!("{} did not start the session", self.info.name))
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::new(format!("it does not answer within {LIMIT} s"));
    tokio::time::timeout(Duration::from_secs(LIMIT), work).await.map_err(late)?
}

fn version() -> String {
    format!("v{}.{}", OLDEST_API.0, OLDEST_API.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_nobody_knows_is_read() {
        let text = r#"{"Id": "1f", "Name": "/x", "Created": "2026-01-02T03:04:05.6Z", "Config": {"Labels": null, "Image": "i"},
                       "State": {"Status": "stopped", "Running": false, "Pid": 0, "ExitCode": 137, "More": []}}"#;
        let container: Container = serde_json::from_str(text).unwrap();
        assert_eq!((container.state.said.as_str(), container.state.exit_code), ("stopped", 137));
    }
}
