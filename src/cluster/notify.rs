//! How a host's systemd tells that it has booted: a datagram on a socket that is mounted into the container.

use crate::error::{Doing as _, Error, Result};
use crate::host::Ids;
use crate::rooted::{own_path, remove_tree};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::ffi::OsStr;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;

/// The listening end. It is read from the first moment on: the kernel queues ten messages, then systemd waits.
#[derive(Debug)]
pub struct Notify {
    reader: JoinHandle<std::io::Error>,
    ready: tokio::sync::watch::Receiver<bool>,
}

impl Notify {
    /// Binds the socket in a host's notify directory, replacing that of an earlier oardocker. It is the host's root's.
    pub fn bind(dir: &Path, ids: Option<Ids>) -> Result<Self> {
        let doing = || format!("cannot listen on {}/s", dir.display());
        let socket = listen(dir, ids).doing(doing)?;
        let socket = UnixDatagram::from_std(socket).doing(doing)?;
        let (sender, ready) = tokio::sync::watch::channel(false);
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                match socket.recv(&mut buffer).await {
                    Ok(n) if is_ready(&buffer[..n]) => {
                        sender.send_replace(true);
                    }
                    Ok(_) => {}
                    Err(e) => return e,
                }
            }
        });
        Ok(Self { reader, ready })
    }

    /// Waits for READY=1: all that the default target wants has been started.
    pub async fn ready(&self) -> Result<()> {
        let outcome = self.ready.clone().wait_for(|ready| *ready).await.map(drop);
        outcome.map_err(|_| Error::new("cannot hear from a host: its socket failed"))
    }
}

/// The directory is a node's as well: nothing in it is followed, and the mode is the socket's before it has a name.
fn listen(dir: &Path, ids: Option<Ids>) -> std::io::Result<std::os::unix::net::UnixDatagram> {
    let dir =
        rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    remove_tree(&dir, OsStr::new("s"))?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
    bind(socket.as_raw_fd(), &UnixAddr::new(&own_path(&dir).join("s"))?)?;
    if let Some(ids) = ids {
        let (user, group) = (rustix::fs::Uid::from_raw(ids.first), rustix::fs::Gid::from_raw(ids.first));
        rustix::fs::chownat(&dir, "s", Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(socket.into())
}

impl Drop for Notify {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn is_ready(message: &[u8]) -> bool {
    message.split(|b| *b == b'\n').any(|line| line == b"READY=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn other_messages_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let notify = Notify::bind(dir.path(), None).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        for message in ["STATUS=READY=1 soon", "X_SYSTEMD_UNIT_ACTIVE=basic.target\nNOTREADY=1"] {
            sender.send_to(message.as_bytes(), dir.path().join("s")).await.unwrap();
        }
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(50), notify.ready()).await;
        assert!(waiting.is_err(), "not yet");
        sender.send_to(b"STATUS=up\nREADY=1", dir.path().join("s")).await.unwrap();
        notify.ready().await.unwrap();
        Notify::bind(dir.path(), None).unwrap();
        let mode =
            |path: &Path| std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
        assert_eq!(mode(&dir.path().join("s")) & 0o777, 0o600);
        // What a node has put in its place is not followed, and keeps its mode.
        let file = tempfile::NamedTempFile::new().unwrap();
        let before = mode(file.path());
        std::fs::remove_file(dir.path().join("s")).unwrap();
        std::os::unix::fs::symlink(file.path(), dir.path().join("s")).unwrap();
        Notify::bind(dir.path(), None).unwrap();
        assert!(file.path().is_file());
        assert_eq!(mode(file.path()), before);
    }
}
