//! What a cluster costs, in numbers that are the same on every machine: a regression is one, and no noise.

use super::ready;
use crate::support::{Engine, Workdir, alone, require_root};
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io, thread};

/// How many times as much as when this was written is still no regression.
const MARGIN: f64 = 1.25;

/// What is counted, how much it is now, and how much it was.
type Count = (&'static str, usize, usize);

fn is_more(count: &Count) -> bool {
    let (what, found, usual) = *count;
    println!("{what}: {found}, usually {usual}");
    found == 0 || found as f64 > usual as f64 * MARGIN
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

/// The calls of the kernel of one kind that a command makes, with all that it starts.
fn calls(workdir: &Workdir, kind: &str, args: &[&str]) -> usize {
    let list = tempfile::NamedTempFile::new().unwrap();
    let mut traced = workdir.around("strace");
    traced.args(["-f", "-qq", "-e", "signal=none", "-e", &format!("trace={kind}"), "-o"]).arg(list.path());
    traced.arg(workdir.program()).args(args);
    // Cargo's has the loader look in many places.
    traced.env_remove("LD_LIBRARY_PATH");
    assert!(traced.status().expect("this test needs strace: run `make deps`").success());
    // What others interrupt has a second line, and a thread that goes away one of its own. Templates are files in debug builds alone.
    let begins = |line: &str| kind.split(',').any(|call| line.contains(&format!(" {call}(")));
    let templates = concat!(env!("CARGO_MANIFEST_DIR"), "/envs");
    let text = fs::read_to_string(list.path()).unwrap();
    text.lines().filter(|line| begins(line) && !line.contains(templates)).count()
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

    let mut counts: Vec<Count> = Vec::new();
    let one = counter.of(&workdir, &["start", "-n", "1"]);
    // Threads too, and those of this question.
    let processes = |host: &str| number(&workdir.root_sh(host, "cat /proc/sys/kernel/ns_last_pid"));
    counts.push(("processes of a node until it has booted", processes("node1"), 37));
    counts.push(("processes of the log host", processes("rsyslog"), 30));
    // What is not from the image; the journal and all else that is volatile apart.
    let written = "find / -xdev -type f -newermt @$(stat -c %Y /run/systemd/notify) -printf '%s\\n' | \
                   awk '{s += $1} END {print int(s / 1024) + 1}'";
    counts.push(("KiB that a node writes", number(&workdir.root_sh("node1", written)), 42));
    let size = "find / -xdev -type f -printf '%s\\n' | awk '{s += $1} END {print int(s / 1048576)}'";
    counts.push(("MiB of files that a node's image has", number(&workdir.root_sh("node1", size)), 567));
    counts.push(("requests of `exec`", counter.of(&workdir, &["exec", "--no-tty", "node1", "true"]), 9));
    let exec = ["exec", "--no-tty", "node1", "true"];
    counts.push(("files that `exec` opens", calls(&workdir, "open,openat,openat2", &exec), 40));
    counts.push(("programs of `exec`", calls(&workdir, "execve", &exec), 1));
    counts.push(("requests of `status`", counter.of(&workdir, &["status"]), 33));
    counts.push(("requests of `stop`", counter.of(&workdir, &["stop"]), 33));
    let four = counter.of(&workdir, &["start", "-n", "4"]);
    counter.of(&workdir, &["stop"]);
    counts.push(("requests of `start`", one, 57));
    counts.push(("requests of `start` for a node", (four - one) / 3, 5));
    let more: Vec<&Count> = counts.iter().filter(|count| is_more(count)).collect();
    assert!(more.is_empty(), "{more:?}");
}

fn number(text: &str) -> usize {
    text.trim().parse().unwrap_or_else(|_| panic!("no number: {text}"))
}
