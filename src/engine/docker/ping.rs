//! The first question to a socket: whether an engine is there, and which.

use super::http;
use crate::error::{Doing as _, Error, Result};
use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};
use std::path::Path;
use std::time::Duration;

/// An engine that says nothing for so long does not work. systemd may have to start it first, on a slow machine.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// What an engine answers.
#[derive(Debug)]
pub(in crate::engine) struct Pong {
    /// Podman's version; none for Docker, which tells its own elsewhere.
    pub(in crate::engine) podman: Option<String>,
    /// The newest version of the API that it speaks.
    pub(in crate::engine) api: String,
    /// The process that listens, or did when the socket was made.
    pub(in crate::engine) listener: i32,
    /// Its user.
    pub(in crate::engine) owner: u32,
}

/// Asks. Podman's own answer to more than this takes it 0.3 s.
pub(super) async fn ping(socket: &Path) -> Result<Pong> {
    let path = socket.to_owned();
    tokio::task::spawn_blocking(move || super::reach(&path)).await.doing(|| "cannot ask".into())??;
    ping_at(socket).await
}

/// The same while there is no runtime, and without a thread.
pub(in crate::engine) fn ping_alone(socket: &Path) -> Result<Pong> {
    super::reach(socket)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.doing(|| "cannot ask".into())?.block_on(ping_at(socket))
}

async fn ping_at(socket: &Path) -> Result<Pong> {
    let asked = tokio::time::timeout(SILENCE, http::ask(socket, Method::GET, "/_ping", None)).await;
    let answer = asked.map_err(|_| silent())?.map_err(|e| if speaks_otherwise(&e) { stranger() } else { e })?;
    if answer.status != StatusCode::OK {
        return Err(stranger());
    }
    let (listener, owner) = (answer.listener.pid().unwrap_or(0), answer.listener.uid());
    Ok(read(&answer.headers, listener, owner))
}

fn speaks_otherwise(error: &Error) -> bool {
    error.cause::<hyper::Error>().is_some_and(|e| e.is_parse() || e.is_incomplete_message())
}

fn stranger() -> Error {
    Error::new("it does not speak Docker's API").hint("for containerd's own socket write containerd://PATH")
}

/// What to say of an engine that does not answer.
pub(super) fn silent() -> Error {
    Error::new(format!("it does not answer within {} s", SILENCE.as_secs()))
}

fn read(headers: &HeaderMap, listener: i32, owner: u32) -> Pong {
    let header = |name: &str| headers.get(name).and_then(|value| Some(value.to_str().ok()?.to_owned()));
    let (podman, api) = (header("libpod-api-version"), header("api-version").unwrap_or_default());
    Pong { podman, api, listener, owner }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    /// What is made of somebody who answers so.
    async fn of(answer: &'static str) -> Result<Pong> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let pong = ping_at(&path).await;
        serving.abort();
        pong
    }

    #[tokio::test]
    async fn engines_are_told_apart() {
        let podman = of("HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\nLibpod-API-Version: 4.3.1\r\n\r\nOK").await.unwrap();
        assert_eq!((podman.podman.as_deref(), podman.api.as_str()), (Some("4.3.1"), "1.41"));
        assert_eq!(u32::try_from(podman.listener).unwrap(), std::process::id());
        let docker = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 24\r\n\r\nLibpod-API-Version: 4.3.1";
        assert_eq!(of(docker).await.unwrap().podman, None);
        for answer in ["220 mail server ready\r\n", "", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"] {
            let error = of(answer).await.unwrap_err();
            assert!(error.to_string().contains("does not speak Docker's API"), "{answer:?}: {error}");
        }
    }
}
