//! The first question to a socket: whether an engine is there, and which. Blocking, so that it can be asked before there are threads.

use crate::error::{Error, Result};
use nix::sys::socket::{UnixCredentials, getsockopt, sockopt::PeerCredentials};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
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
pub(in crate::engine) fn ping(socket: &Path) -> Result<Pong> {
    super::reach(socket)?;
    let talk = || -> std::io::Result<(Vec<u8>, UnixCredentials)> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let listener = getsockopt(&stream.as_fd(), PeerCredentials)?;
        // In HTTP/1.0 the end of the connection is the end of the answer.
        stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok((answer, listener))
    };
    let (answer, listener) = talk().map_err(|e| match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => silent(),
        _ => Error::new(e.to_string()),
    })?;
    let text = String::from_utf8_lossy(&answer);
    read(&text, listener.pid(), listener.uid()).ok_or_else(|| {
        Error::new("it does not speak Docker's API").hint("for containerd's own socket write containerd://PATH")
    })
}

/// What to say of an engine that does not answer.
pub(super) fn silent() -> Error {
    Error::new(format!("it does not answer within {} s", SILENCE.as_secs()))
}

fn read(answer: &str, listener: i32, owner: u32) -> Option<Pong> {
    let mut lines = answer.split("\r\n\r\n").next()?.lines();
    let status: Vec<&str> = lines.next()?.split(' ').collect();
    if !status[0].starts_with("HTTP/") || status.get(1) != Some(&"200") {
        return None;
    }
    let headers: Vec<(String, &str)> =
        lines.filter_map(|l| l.split_once(':')).map(|(name, value)| (name.to_lowercase(), value.trim())).collect();
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| (*value).to_owned());
    let (podman, api) = (header("libpod-api-version"), header("api-version").unwrap_or_default());
    Some(Pong { podman, api, listener, owner })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_told_apart() {
        let of = |answer| read(answer, 7, 0);
        let podman = of("HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\nLibpod-API-Version: 4.3.1\r\n\r\nOK").unwrap();
        assert_eq!((podman.podman.as_deref(), podman.api.as_str()), (Some("4.3.1"), "1.41"));
        assert_eq!(of("HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\n\r\nLibpod-API-Version: 4").unwrap().podman, None);
        assert!(of("220 mail server ready\r\n").is_none());
        assert!(of("").is_none());
        assert!(of("HTTP/1.1 403 Forbidden\r\n\r\n").is_none());
    }
}
