//! What the tests share: running the binary, a private data directory, looking at the host, a pseudo terminal.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_oardocker");

/// Clusters are looked at as a whole, host included: one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fails where the tests of this tier cannot run, and says what is missing.
pub fn require_root() {
    assert!(nix::unistd::geteuid().is_root(), "these tests need root: sudo make test");
    for program in ["containerd", "runc", "nft", "mmdebstrap", "ip", "ctr"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
        assert!(found.status.success(), "these tests need {program}: run `make deps`");
    }
}

/// Where the tests keep engine, images and workdirs; survives between runs, so that the second one is quick.
pub fn data_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/test-data")
}

/// Short, because sockets live below it; one per checkout, because a containerd belongs to one data directory.
pub fn runtime_dir() -> PathBuf {
    let sum = env!("CARGO_MANIFEST_DIR").bytes().fold(5381_u32, |h, b| h.wrapping_mul(33) ^ u32::from(b));
    PathBuf::from(format!("/run/oardocker-test-{sum:08x}"))
}

/// OAR's sources, fetched by `make deps`.
pub fn oar_tarball() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/oar.tar.gz");
    assert!(path.is_file(), "{} is missing: run `make deps`", path.display());
    path
}

/// A workdir and how to call the program in it.
pub struct Workdir {
    pub root: PathBuf,
}

impl Workdir {
    /// A workdir of a fixed name, so that what a killed run left is found again.
    pub fn named(name: &str) -> Self {
        let root = data_dir().join("workdirs").join(name);
        fs::create_dir_all(&root).unwrap();
        Self { root }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(args)
            .current_dir(&self.root)
            .env("OARDOCKER_DATA_DIR", data_dir())
            .env("OARDOCKER_RUNTIME_DIR", runtime_dir())
            .env("OARDOCKER_DOCKER_HOST", "managed")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs, fails the test unless the program succeeds, returns its output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let (stdout, stderr) = texts(&out);
        assert!(out.status.success(), "oardocker {args:?}: {}\n{stdout}\n{stderr}", out.status);
        stdout
    }

    /// Runs, fails the test unless the program ends with this code; returns what it said on stderr.
    #[track_caller]
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let out = self.run(args);
        let (stdout, stderr) = texts(&out);
        assert_eq!(out.status.code(), Some(code), "oardocker {args:?}\n{stdout}\n{stderr}");
        stderr
    }

    /// A line for the shell of a host, as user docker.
    #[track_caller]
    pub fn sh(&self, host: &str, line: &str) -> String {
        self.ok(&["exec", "--no-tty", host, line])
    }

    /// The same as root.
    #[track_caller]
    pub fn root_sh(&self, host: &str, line: &str) -> String {
        self.ok(&["exec", "-l", "root", "--no-tty", host, line])
    }

    pub fn env_id(&self) -> String {
        fs::read_to_string(self.root.join(".oardocker/env_id")).unwrap().trim().to_owned()
    }
}

pub fn texts(out: &Output) -> (String, String) {
    (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// Everything on the host and in the engine that a cluster could leave behind.
pub fn host_state() -> BTreeSet<String> {
    let mut state = BTreeSet::new();
    let mut add = |kind: &str, text: &str| {
        state.extend(text.lines().filter(|l| !l.trim().is_empty()).map(|l| format!("{kind}: {l}")));
    };
    let output = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let links: String = fs::read_dir("/sys/class/net")
        .unwrap()
        .flatten()
        .map(|e| e.file_name().into_string().unwrap() + "\n")
        .collect();
    add("link", &links);
    add("mount", &fs::read_to_string("/proc/mounts").unwrap());
    add("nft", &output("nft", &["list", "ruleset"]));
    add("cgroup", &output("find", &["/sys/fs/cgroup", "-type", "d", "-path", "*/oardocker*"]));
    let socket = runtime_dir().join("containerd/containerd.sock");
    let ctr = |args: &[&str]| output("ctr", &[&["-a", socket.to_str().unwrap(), "-n", "oardocker"], args].concat());
    add("container", &ctr(&["containers", "ls", "-q"]));
    add("task", &ctr(&["tasks", "ls", "-q"]));
    add("lease", &ctr(&["leases", "ls", "-q"]));
    let snapshots = ctr(&["snapshots", "ls"]);
    add("snapshot", &snapshots.lines().filter(|l| l.contains("Active")).collect::<Vec<_>>().join("\n"));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        // A zombie has no command line: it ended, and the host's init has not looked yet.
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains("containerd-shim") || command.contains("/sbin/init") || command.contains("runc") {
            add("process", &command);
        }
    }
    for dir in ["io", "steps", "netns"] {
        add(
            "file",
            &output("find", &[runtime_dir().join(dir).to_str().unwrap(), "-mindepth", "1", "-not", "-name", "lock"]),
        );
    }
    for dir in ["clusters", "scratch"] {
        add("file", &output("find", &[data_dir().join(dir).to_str().unwrap(), "-mindepth", "1", "-maxdepth", "1"]));
    }
    state
}

/// Fails with the differences.
#[track_caller]
pub fn assert_same_state(before: &BTreeSet<String>, after: &BTreeSet<String>) {
    let new: Vec<_> = after.difference(before).collect();
    let gone: Vec<_> = before.difference(after).collect();
    assert!(new.is_empty() && gone.is_empty(), "left behind: {new:#?}\nmissing: {gone:#?}");
}

/// Waits until something holds; for what only becomes true with time, such as a job's state.
#[track_caller]
pub fn eventually<T>(what: &str, seconds: u64, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A program in a pseudo terminal of its own.
pub struct Pty {
    master: fs::File,
    pub child: Child,
    seen: String,
}

impl Pty {
    pub fn spawn(mut command: Command, columns: u16, rows: u16) -> Self {
        let size = nix::pty::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(&size, None).unwrap();
        let stdio = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        command
            .stdin(stdio(&pty.slave))
            .stdout(stdio(&pty.slave))
            .stderr(stdio(&pty.slave))
            .env("TERM", "xterm-256color");
        // SAFETY: both calls are safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                if nix::libc::ioctl(0, nix::libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        Self { master: pty.master.into(), child, seen: String::new() }
    }

    pub fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Tells the terminal a new size, as a window does.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = nix::pty::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the kernel reads the struct that the pointer gives it.
        let outcome = unsafe { nix::libc::ioctl(self.master.as_raw_fd(), nix::libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(outcome, 0);
    }

    /// Reads until the text appears after what was waited for before.
    #[track_caller]
    pub fn expect(&mut self, text: &str, seconds: u64) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{text:?} did not appear in {seconds} s after: {}", self.seen);
            if !self.read_some(left) {
                panic!("the program ended; {text:?} is not in: {}", self.seen);
            }
        }
    }

    fn read_some(&mut self, patience: Duration) -> bool {
        let fd = std::os::fd::AsFd::as_fd(&self.master);
        let mut fds = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
        let timeout = nix::poll::PollTimeout::try_from(patience).unwrap();
        if nix::poll::poll(&mut fds, timeout).unwrap() == 0 {
            return true;
        }
        let mut buffer = [0; 4096];
        match self.master.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
                true
            }
        }
    }

    /// Waits for the end; the exit code, and all that was said since the last `expect`.
    #[track_caller]
    pub fn end(&mut self, seconds: u64) -> (i32, String) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the program did not end in {seconds} s; it said: {}", self.seen);
            self.read_some(Duration::from_millis(50));
        };
        while self.read_some(Duration::from_millis(200)) {
            let fd = std::os::fd::AsFd::as_fd(&self.master);
            let mut fds = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
            if nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).unwrap() == 0 {
                break;
            }
        }
        (status.code().unwrap_or(-1), std::mem::take(&mut self.seen))
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole text of a file below the tests' folder.
pub fn fixture(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)).unwrap()
}
