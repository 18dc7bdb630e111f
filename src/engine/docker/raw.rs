//! Requests that bollard cannot make: containers in states that it does not know, and terminals, in whose streams it looks for
//! frames.

use super::{Docker, LIMIT, OLDEST_API, OLDEST_PODMAN};
use crate::error::{Context as _, Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// No engine says more before the body of its answer, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// No answer that is read as a whole is longer, in bytes.
const MAX_ANSWER: u64 = 64 << 20;

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
    pub(super) status: String,
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
        let request = "GET /_ping HTTP/1.0\r\nHost: localhost\r\n\r\n";
        self.exchange(request).await.map(drop).doing(|| format!("{} does not answer", self.info.name))
    }

    /// Creates a container by Podman's own API.
    pub(super) async fn create_libpod(&self, container: &serde_json::Value) -> Result<()> {
        let body = container.to_string();
        let head = format!(
            "POST /v{OLDEST_PODMAN}.0.0/libpod/containers/create HTTP/1.0\r\nHost: localhost\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let doing = || format!("{} refuses it", self.info.name);
        let (status, answer) = self.exchange(&(head + &body)).await.doing(doing)?;
        if status == "201" {
            return Ok(());
        }
        let said: Option<serde_json::Value> = serde_json::from_slice(&answer).ok();
        let text = said.as_ref().and_then(|v| v["cause"].as_str().or(v["message"].as_str()));
        let text = text.map_or_else(|| String::from_utf8_lossy(&answer).trim().to_owned(), ToOwned::to_owned);
        Err(Error::new(text)).doing(doing)
    }

    /// An answer; none when the engine says that it is not there.
    async fn get<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<Option<T>> {
        let doing = || format!("cannot ask {} for {path}", self.info.name);
        let request = format!("GET /{}/{path} HTTP/1.0\r\nHost: localhost\r\n\r\n", version());
        let (status, answer) = self.exchange(&request).await.doing(doing)?;
        match status.as_str() {
            "200" => serde_json::from_slice(&answer).doing(doing).map(Some),
            "404" => Ok(None),
            _ => Err(Error::new(String::from_utf8_lossy(&answer).trim().to_owned())).doing(doing),
        }
    }

    /// Sends a request; the status and the body of the answer, or its head where there is no body.
    async fn exchange(&self, request: &str) -> std::io::Result<(String, Vec<u8>)> {
        let exchange = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            // In HTTP/1.0 the end of the connection is the end of the answer.
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.take(MAX_ANSWER).read_to_end(&mut answer).await.map(|_| answer)
        };
        let limit = Duration::from_secs(LIMIT);
        let mut head = tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| Err(too_late()))?;
        let end = head.windows(4).position(|w| w == b"\r\n\r\n").map_or(head.len(), |at| at + 4);
        let body = head.split_off(end);
        let status = status(&head).to_owned();
        Ok((status, if body.is_empty() { head } else { body }))
    }

    /// Starts a session with a terminal: the connection is then what the terminal says, and hears, and nothing else.
    pub(super) async fn start_terminal(&self, exec: &str) -> Result<UnixStream> {
        let doing = || format!("{} did not start the session", self.info.name);
        let mut stream = UnixStream::connect(&self.socket).await.doing(doing)?;
        let body = r#"{"Detach":false,"Tty":true}"#;
        let request = format!(
            "POST /{}/exec/{exec}/start HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            version(),
            body.len()
        );
        stream.write_all(request.as_bytes()).await.doing(doing)?;
        let head = tokio::time::timeout(Duration::from_secs(LIMIT), read_head(&mut stream));
        let head = head.await.unwrap_or_else(|_| Err(too_late())).doing(doing)?;
        if !matches!(status(&head), "101" | "200") {
            let text = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
            return Err(Error::new(text)).doing(doing);
        }
        Ok(stream)
    }
}

async fn read_head(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_HEAD {
            return Err(std::io::Error::other("it answered with something else"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

fn too_late() -> std::io::Error {
    std::io::Error::other(format!("it does not answer within {LIMIT} s"))
}

fn version() -> String {
    format!("v{}.{}", OLDEST_API.0, OLDEST_API.1)
}

/// The status code in the head of an answer.
fn status(head: &[u8]) -> &str {
    head.split(|b| *b == b' ').nth(1).and_then(|code| std::str::from_utf8(code).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes() {
        assert_eq!(status(b"HTTP/1.1 101 UPGRADED\r\nA: b\r\n\r\n"), "101");
        assert_eq!(status(b"nonsense"), "");
    }

    #[test]
    fn a_state_that_nobody_knows_is_read() {
        let text = r#"{"Name": "/x", "Created": "2026-01-02T03:04:05.6Z", "Config": {"Labels": null, "Image": "i"},
                       "State": {"Status": "stopped", "Running": false, "Pid": 0, "ExitCode": 137, "More": []}}"#;
        let container: Container = serde_json::from_str(text).unwrap();
        assert_eq!((container.state.status.as_str(), container.state.exit_code), ("stopped", 137));
    }
}
