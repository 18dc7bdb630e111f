//! Waiting for an engine that is still at work for clients that are gone.
//!
//! A request outlives the client that made it: the engine goes on, and what was asked for appears when nobody looks any more. The
//! kernel knows of such requests: the engine keeps its end of the connection for as long as it is at work on it.

use super::Docker;
use crate::error::{Doing as _, Result};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::unix::nlas::Nla;
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest, UnixResponse};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

/// How long to wait. A session whose program goes on without its client never ends by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// The kernel has no event for the end of a connection between two others.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a connection is whose client cannot hear any more: shut down both ways.
const GONE: u8 = 3;

/// Room for one message of the kernel's answer, in bytes.
const ANSWER: usize = 64 << 10;

impl Docker {
    /// The requests that the engine is at work on for clients that are gone.
    pub(super) fn abandoned_requests(&self) -> Result<Vec<u32>> {
        abandoned(&self.socket)
    }

    /// Waits until the engine is done with such requests, but for the `old` ones; whether it is.
    pub(super) async fn settle(&self, old: &[u32]) -> Result<bool> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        // Requests that nobody has looked at yet come before this one.
        self.knock().await?;
        while abandoned(&self.socket)?.iter().any(|request| !old.contains(request)) {
            if tokio::time::Instant::now() > deadline {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(true)
    }
}

/// The engine's connections on this socket that have no client any more, by their inodes.
fn abandoned(engine: &Path) -> Result<Vec<u32>> {
    let doing = || "cannot ask the kernel for connections".to_owned();
    let file = std::fs::metadata(engine).doing(|| format!("cannot look at {}", engine.display()))?;
    // As the kernel numbers devices inside.
    let device = (nix::sys::stat::major(file.dev()) << 20) | nix::sys::stat::minor(file.dev());
    let wanted = (file.ino(), device);
    let ours = |socket: &UnixResponse| {
        socket.nlas.iter().any(|nla| place(nla) == Some(wanted)) && socket.shutdown_state() == Some(GONE)
    };
    Ok(connections().doing(doing)?.iter().filter(|socket| ours(socket)).map(|socket| socket.header.inode).collect())
}

/// Inode and device of the file that a socket has its name from.
fn place(nla: &Nla) -> Option<(u64, u64)> {
    let Nla::Vfs(_) = nla else { return None };
    let mut bytes = [0; 8];
    nla.emit_value(&mut bytes);
    let (inode, device) = bytes.split_at(4);
    let number = |bytes: &[u8]| u64::from(u32::from_ne_bytes(bytes.try_into().expect("four bytes")));
    Some((number(inode), number(device)))
}

/// All established connections between programs of this host.
fn connections() -> std::io::Result<Vec<UnixResponse>> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request =
        UnixRequest { state_flags: StateFlags::ESTABLISHED, inode: 0, show_flags: ShowFlags::VFS, cookie: [0xff; 8] };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::UnixRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    send(socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; ANSWER];
    loop {
        let n = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..n];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(std::io::Error::other)?;
            let length = (message.header.length as usize).next_multiple_of(4).max(4);
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(socket)) => found.push(*socket),
                _ => {}
            }
            rest = &rest[length.min(rest.len())..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// How many there are, once nothing else has the sockets: another test's thread that starts a program has them all for a moment.
    fn counted(path: &Path, expected: usize) -> usize {
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        loop {
            let found = abandoned(path).unwrap().len();
            if found == expected || std::time::Instant::now() > deadline {
                return found;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_request_whose_client_is_gone_is_seen_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (client, other) = (UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap());
        let (served, _other_served) = (listener.accept().unwrap(), listener.accept().unwrap());
        assert_eq!(abandoned(&path).unwrap().len(), 0);
        drop(client);
        assert_eq!(counted(&path, 1), 1);
        drop(served);
        assert_eq!(counted(&path, 0), 0);
        drop(other);
    }
}
