//! Ports of the host's loopback that build steps need: the caller's proxies. In the step's namespace something of ours listens at the
//! same address, so that what the variables say is true there as well.

use crate::error::{Doing as _, Result};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Listens as long as it lives.
#[derive(Debug)]
pub(super) struct Relay(Vec<JoinHandle<()>>);

impl Relay {
    /// In a namespace, for each of these ports.
    pub(super) async fn open(netns: &Path, ports: &[u16]) -> Result<Self> {
        let doing = || format!("cannot listen in {}", netns.display());
        let (ns, wanted) = (File::open(netns).doing(doing)?, ports.to_vec());
        // A thread is in one namespace at a time, so none of the runtime's.
        let listening = std::thread::spawn(move || listen(&ns, &wanted));
        let joined = tokio::task::spawn_blocking(move || listening.join()).await.doing(doing)?;
        let listeners = joined.map_err(|_| "its thread has died".to_owned()).doing(doing)?.doing(doing)?;
        let mut relay = Self(Vec::new());
        for listener in listeners {
            let listener = tokio::net::TcpListener::from_std(listener).doing(doing)?;
            relay.0.push(tokio::spawn(serve(listener)));
        }
        Ok(relay)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

fn listen(ns: &File, ports: &[u16]) -> io::Result<Vec<TcpListener>> {
    setns(ns, CloneFlags::CLONE_NEWNET)?;
    let mut all = Vec::new();
    for port in ports {
        all.push(TcpListener::bind((Ipv4Addr::LOCALHOST, *port))?);
        // Where there is no IPv6, nobody tries it.
        all.extend(TcpListener::bind((Ipv6Addr::LOCALHOST, *port)));
    }
    all.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
    Ok(all)
}

async fn serve(listener: tokio::net::TcpListener) {
    let Ok(address) = listener.local_addr() else { return };
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((mut inner, _)) => {
                    connections.spawn(async move {
                        // Who does not answer hangs up.
                        if let Ok(mut outer) = reach(address).await {
                            let _ = copy_bidirectional(&mut inner, &mut outer).await;
                        }
                    });
                }
                Err(_) => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The host's own loopback, in either family: the name localhost means both.
async fn reach(address: SocketAddr) -> io::Result<TcpStream> {
    let other = SocketAddr::new(
        if address.is_ipv4() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() },
        address.port(),
    );
    match TcpStream::connect(address).await {
        Err(_) => TcpStream::connect(other).await,
        connected => connected,
    }
}
