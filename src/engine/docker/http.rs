//! Requests on connections of their own, beside those that bollard keeps: hyper speaks, one request at a time.

use crate::error::{Doing as _, Error, Result};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::path::Path;
use tokio::net::UnixStream;

/// No answer that is read as a whole is longer, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// What an engine answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The process that listens, or did when the socket was made, and its user.
    pub(super) listener: tokio::net::unix::UCred,
}

impl Answer {
    /// What it says, where that is no JSON of ours.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

/// Asks, and reads the whole answer.
pub(super) async fn ask(socket: &Path, method: Method, path: &str, body: Option<String>) -> Result<Answer> {
    let stream = UnixStream::connect(socket).await.doing(|| "cannot connect".into())?;
    let listener = stream.peer_cred().doing(|| "cannot tell who listens".into())?;
    // The connection is for this alone.
    let response = send(stream, request(method, path, "close", body)?).await?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| Error::new(e.to_string()))?.to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body, listener })
}

/// Asks for a connection that is something else from the answer on.
pub(super) async fn upgrade(socket: &Path, path: &str, body: String) -> Result<TokioIo<Upgraded>> {
    let stream = UnixStream::connect(socket).await.doing(|| "cannot connect".into())?;
    let mut request = request(Method::POST, path, "Upgrade", Some(body))?;
    request.headers_mut().insert(UPGRADE, "tcp".parse().expect("a plain word"));
    let response = send(stream, request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::new(response.status().to_string()));
    }
    hyper::upgrade::on(response).await.map(TokioIo::new).doing(|| "the connection was not given".into())
}

fn request(method: Method, path: &str, connection: &str, body: Option<String>) -> Result<Request<Full<Bytes>>> {
    let mut request =
        Request::builder().method(method).uri(path).header(HOST, "localhost").header(CONNECTION, connection);
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    request.body(Full::from(body.unwrap_or_default())).doing(|| format!("cannot ask for {path}"))
}

async fn send(stream: UnixStream, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.doing(|| "cannot begin".into())?;
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.doing(|| "it did not answer".into())
}
