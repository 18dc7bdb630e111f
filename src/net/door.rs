//! Ports that the host answers on for a network that is in a namespace of a user's without root: a process of ours listens on the host,
//! and connects to the container in there. Other accounts of the host find the ports of loopback closed, as the kernel tells it whose a
//! connection is. It is a scope of the user's systemd, and ends when its namespace is given up.
//!
//! ```text
//! <runtime dir>/netns/<id>/.door  locked as long as it is there
//! ```

use super::Port;
use super::peer::Peers;
use crate::error::{Doing as _, Error, Result};
use crate::host::{self, Machine, in_scope};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, setns};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::{AsRawFd as _, FromRawFd as _, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, copy_bidirectional};
use tokio::net::TcpStream;

/// The variable that makes an oardocker such a process, with what it has to do.
pub const VARIABLE: &str = "_OARDOCKER_DOOR";

/// How long one may take to be there.
const SETUP: Duration = Duration::from_secs(20);

/// How long one may take to end.
const ENDING: Duration = Duration::from_secs(10);

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
struct Orders {
    /// Where the containers are.
    namespace: PathBuf,
    ways: Vec<Way>,
}

/// One port.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Way {
    /// The descriptor of what listens.
    listener: RawFd,
    to: SocketAddrV4,
    /// Whether everybody may come.
    any: bool,
}

fn lock_file(namespace: &Path) -> PathBuf {
    namespace.with_file_name(".door")
}

/// Has the host answer on these ports for a container of a namespace.
pub(super) async fn open(machine: &Machine, namespace: &Path, address: Ipv4Addr, ports: &[Port]) -> Result<()> {
    let doing = || "cannot publish ports".to_owned();
    let listeners = ports.iter().map(listen).collect::<Result<Vec<_>>>()?;
    let ways = listeners.iter().zip(ports);
    let ways = ways.map(|(listener, port)| Way {
        listener: listener.as_raw_fd(),
        to: SocketAddrV4::new(address, port.container),
        any: port.any,
    });
    let orders = Orders { namespace: namespace.into(), ways: ways.collect() };
    let lock = File::create(lock_file(namespace)).doing(doing)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(std::io::Error::from)
        .doing(doing)?;
    let handed: Vec<RawFd> = orders.ways.iter().map(|way| way.listener).chain([lock.as_raw_fd()]).collect();
    let mut command = in_scope(machine, std::env::current_exe().doing(doing)?);
    // For who looks at processes.
    command.arg("--door").env(VARIABLE, serde_json::to_string(&orders).doing(doing)?);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/");
    host::shed_descriptors(&mut command);
    // SAFETY: the system call is safe between fork and exec.
    unsafe {
        command.pre_exec(move || {
            handed.iter().try_for_each(|fd| {
                let fd = std::os::fd::BorrowedFd::borrow_raw(*fd);
                Ok(fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).map(drop)?)
            })
        });
    }
    // Its end of the lock is the one that counts from now on.
    let mut child = tokio::process::Command::from(command).spawn().doing(doing)?;
    drop((lock, listeners));
    let (Some(mut word), Some(mut said)) = (child.stdout.take(), child.stderr.take()) else { return Ok(()) };
    match tokio::time::timeout(SETUP, word.read_exact(&mut [0])).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => {
            let mut text = String::new();
            let _ = said.read_to_string(&mut text).await;
            let why = Error::new("what is to answer on them has ended").detail(text.lines().map(str::to_owned));
            Err(why).doing(doing)
        }
        Err(_) => Err(Error::new(format!("what is to answer on them is not there after {SETUP:?}"))).doing(doing),
    }
}

fn listen(port: &Port) -> Result<TcpListener> {
    let ip = if port.any { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    TcpListener::bind((ip, port.host))
        .doing(|| format!("cannot listen on port {} of {ip}", port.host))
        .map_err(|e| e.hint("choose other ports with `start --port-bindings-offset 50000`"))
}

/// Waits until the one of a namespace, which has been given up, has ended.
pub(super) async fn await_end(namespace: &Path) -> Result<()> {
    let Ok(file) = File::open(lock_file(namespace)) else { return Ok(()) };
    let doing = || "what answers on the ports of the host does not end".to_owned();
    match tokio::time::timeout(ENDING, host::lock_patiently(file)).await {
        Ok(locked) => locked.map(drop).doing(doing),
        Err(_) => Err(Error::new(format!("it is still there after {ENDING:?}"))).doing(doing),
    }
}

/// What such a process does, until its namespace is given up.
pub fn keep(orders: &str) -> Result<()> {
    let doing = || "cannot answer on ports of the host".to_owned();
    let orders: Orders = serde_json::from_str(orders).doing(doing)?;
    // The terminal that goes away is not ours.
    nix::unistd::setsid().doing(doing)?;
    // Both belong to the host's network, and the sockets that are made later to the other one.
    let peers = Peers::open().doing(doing)?;
    let watch = Inotify::init(InitFlags::IN_CLOEXEC).doing(doing)?;
    let dir = orders.namespace.parent().unwrap_or(Path::new("/"));
    watch.add_watch(dir, AddWatchFlags::IN_DELETE | AddWatchFlags::IN_DELETE_SELF).doing(doing)?;
    setns(File::open(&orders.namespace).doing(doing)?, CloneFlags::CLONE_NEWNET).doing(doing)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing(doing)?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let peers = Rc::new(peers);
        for way in orders.ways {
            // SAFETY: it was handed to us for this, and nothing else has it.
            let listener = unsafe { TcpListener::from_raw_fd(way.listener) };
            listener.set_nonblocking(true).doing(doing)?;
            let listener = tokio::net::TcpListener::from_std(listener).doing(doing)?;
            tokio::task::spawn_local(answer(listener, way, peers.clone()));
        }
        // Whoever started us waits for this.
        std::io::stdout().write_all(b".").and_then(|()| std::io::stdout().flush()).doing(doing)?;
        let (tell, given_up) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            while orders.namespace.exists() && watch.read_events().is_ok() {}
            let _ = tell.send(());
        });
        let _ = given_up.await;
        Ok(())
    })
}

async fn answer(listener: tokio::net::TcpListener, way: Way, peers: Rc<Peers>) {
    loop {
        let Ok((mut outer, from)) = listener.accept().await else {
            // Too many are open; some will be closed.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if !way.any && !is_ours(&peers, from, outer.local_addr()) {
            continue;
        }
        tokio::task::spawn_local(async move {
            // Who does not answer hangs up.
            if let Ok(mut inner) = TcpStream::connect(way.to).await {
                let _ = copy_bidirectional(&mut outer, &mut inner).await;
            }
        });
    }
}

/// Whether a connection is this account's. The host's root cannot be told from others here.
fn is_ours(peers: &Peers, from: SocketAddr, to: std::io::Result<SocketAddr>) -> bool {
    let (SocketAddr::V4(from), Ok(SocketAddr::V4(to))) = (from, to) else { return false };
    peers.account(from, to).is_ok_and(|account| account == nix::unistd::geteuid().as_raw())
}
