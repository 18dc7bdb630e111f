//! What a cluster costs, in numbers that are the same on every machine: a regression is one, and no noise.

use super::ready;
use crate::support::{Engine, Workdir, alone, require_root};
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{io, thread};

/// How many times as much as when this was written is still no regression.
const MARGIN: f64 = 1.25;

/// Fails when something takes more than it did, and says what it takes now.
#[track_caller]
fn at_most(what: &str, found: usize, usual: usize) {
    println!("{what}: {found}, usually {usual}");
    assert!(found as f64 <= usual as f64 * MARGIN, "{what}: {found}, and it was {usual}");
    assert!(found > 0, "{what}: nothing was counted");
}

/// A socket that passes on to an engine's, and counts the requests: frames of HTTP/2 that begin a stream.
struct Counter {
    socket: PathBuf,
    requests: Arc<AtomicUsize>,
}

impl Counter {
    fn new(dir: &Path, engine: PathBuf) -> Self {
        let (socket, requests) = (dir.join("s"), Arc::new(AtomicUsize::new(0)));
        let (listener, counted) = (UnixListener::bind(&socket).unwrap(), requests.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = UnixStream::connect(&engine) else { return };
                let (mut down, mut up) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = io::copy(&mut server.try_clone().unwrap(), &mut down);
                    let _ = down.shutdown(std::net::Shutdown::Both);
                });
                let counted = counted.clone();
                thread::spawn(move || {
                    let _ = pass(client, &mut up, &counted);
                    let _ = up.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Self { socket, requests }
    }

    /// How many there are of it.
    fn of(&self, workdir: &Workdir, args: &[&str]) -> usize {
        let before = self.requests.load(Ordering::SeqCst);
        let host = format!("containerd://{}", self.socket.display());
        workdir.ok(&[&["--docker-host", host.as_str()], args].concat());
        self.requests.load(Ordering::SeqCst) - before
    }
}

/// The preface of HTTP/2, in bytes.
const PREFACE: usize = 24;
const HEADERS: u8 = 1;

fn pass(mut from: UnixStream, to: &mut UnixStream, requests: &AtomicUsize) -> io::Result<()> {
    let mut preface = [0; PREFACE];
    from.read_exact(&mut preface)?;
    to.write_all(&preface)?;
    loop {
        let mut frame = vec![0; 9];
        from.read_exact(&mut frame)?;
        if frame[3] == HEADERS {
            requests.fetch_add(1, Ordering::SeqCst);
        }
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
        let mut payload = vec![0; length as usize];
        from.read_exact(&mut payload)?;
        frame.extend(payload);
        to.write_all(&frame)?;
    }
}

#[test]
fn what_a_cluster_takes_does_not_grow() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::Containerd.runtime_dir().join("containerd/containerd.sock");
    let counter = Counter::new(dir.path(), engine);

    let one = counter.of(&workdir, &["start", "-n", "1"]);
    let processes = |host: &str| workdir.root_sh(host, "cat /proc/sys/kernel/ns_last_pid").trim().parse().unwrap();
    // Threads too, and those of this question.
    at_most("processes of a node until it has booted", processes("node1"), 60);
    at_most("processes of the log host", processes("rsyslog"), 45);
    // What is not from the image, in KiB: the journal and all else that is volatile apart.
    let written = "find / -xdev -type f -newermt @$(stat -c %Y /run/systemd/notify) -printf '%s\\n' | awk '{s += $1} END {print int(s / 1024) + 1}'";
    at_most("KiB that a node writes", workdir.root_sh("node1", written).trim().parse().unwrap(), 60);
    at_most("requests of `exec`", counter.of(&workdir, &["exec", "--no-tty", "node1", "true"]), 6);
    at_most("requests of `status`", counter.of(&workdir, &["status"]), 12);
    at_most("requests of `stop`", counter.of(&workdir, &["stop"]), 40);
    let four = counter.of(&workdir, &["start", "-n", "4"]);
    at_most("requests of `start`", one, 100);
    at_most("requests of `start` for a node", (four - one) / 3, 10);
    counter.of(&workdir, &["stop"]);
}
