//! What the tests share: running the binary, a private data directory, looking at the host, a pseudo terminal.

pub mod browser;
mod daemon;
pub mod machine;

pub use daemon::{Daemon, get};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_oardocker");

/// One test at a time, with its engine; one that fails leaves no cluster that the next falls over.
pub struct Alone {
    begun: Instant,
    _daemon: Option<Daemon>,
    _one: MutexGuard<'static, ()>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            machine::end();
            Engine::Containerd.sweep();
            println!("{}", free_space());
        }
        // Also of those that pass, whose output is not shown.
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        let _ = writeln!(std::io::stderr(), "{:7.1} s  {name}", self.begun.elapsed().as_secs_f64());
    }
}

/// Clusters are looked at as a whole, host included: one at a time.
pub fn alone() -> Alone {
    Engine::Containerd.alone()
}

/// A full disk makes any test fail, and not always with its name.
fn free_space() -> String {
    let out = Command::new("df").arg("-h").arg(data_root()).output().unwrap();
    texts(&out).0
}

/// Fails where the tests of this tier cannot run, and says what is missing.
pub fn require_root() {
    assert!(nix::unistd::geteuid().is_root(), "these tests need root: sudo make test");
    for program in ["containerd", "runc", "nft", "mmdebstrap", "ip", "ctr"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
        assert!(found.status.success(), "these tests need {program}: run `make deps`");
    }
}

/// The engines that every end-to-end test can run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The containerd that oardocker runs itself.
    Containerd,
    Docker,
    Podman,
    /// The Podman of a user who is not root, on a machine of its own.
    Rootless,
    /// A containerd that oardocker runs for a user who is not root, there.
    Own,
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Rootless => "rootless",
            Self::Own => "own",
        }
    }

    /// OARDOCKER_DATA_DIR: Docker and Podman share the store, so that images are built once for both.
    pub fn data_dir(self) -> PathBuf {
        match self {
            Self::Containerd => data_root(),
            Self::Docker | Self::Podman => data_root().join("compat"),
            // The user's home.
            Self::Rootless | Self::Own => data_root().join(self.name()),
        }
    }

    /// OARDOCKER_RUNTIME_DIR.
    pub fn runtime_dir(self) -> PathBuf {
        if self == Self::Containerd { runtime_dir() } else { PathBuf::from(format!("{}.c", runtime_dir().display())) }
    }

    /// Whose it is, on the machine of users who are not root.
    pub fn user(self) -> Option<machine::User> {
        match self {
            Self::Rootless => Some(machine::ALICE),
            Self::Own => Some(machine::BOB),
            _ => None,
        }
    }

    /// Where the daemon of the tests keeps its socket.
    fn daemon_dir(self) -> PathBuf {
        PathBuf::from(format!("{}.{}", runtime_dir().display(), self.name()))
    }

    /// The value of --docker-host.
    pub fn host(self) -> String {
        match self {
            Self::Containerd => "managed".into(),
            _ => format!("unix://{}", self.daemon_dir().join("sock").display()),
        }
    }

    /// Stops the clusters that still run on it.
    pub fn sweep(self) {
        for entry in fs::read_dir(self.data_dir().join("workdirs")).into_iter().flatten().flatten() {
            let workdir = Workdir { root: entry.path(), engine: self };
            let id = fs::read_to_string(workdir.root.join(".oardocker/env_id")).unwrap_or_default();
            let cluster = self.data_dir().join("clusters").join(id.trim());
            if fs::read_to_string(cluster.join("engine")).is_ok_and(|host| host == self.host()) {
                let out = workdir.run(&["stop"]);
                println!("swept {}: {}", workdir.root.display(), out.status);
            }
        }
    }

    /// The engine for one test, which has it and the host to itself. Only the machine of the user without root is kept, for as
    /// long as tests want it one after the other: it takes half a minute to boot.
    pub fn alone(self) -> Alone {
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        if self.user().is_some() {
            machine::keep();
        } else {
            machine::end();
        }
        let daemon = matches!(self, Self::Docker | Self::Podman).then(|| Daemon::start(self));
        Alone { begun, _daemon: daemon, _one: one }
    }
}

/// Where the tests keep engines, images and workdirs; survives between runs, so that the second one is quick.
fn data_root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/test-data")
}

/// OARDOCKER_DATA_DIR of the tests on containerd.
pub fn data_dir() -> PathBuf {
    Engine::Containerd.data_dir()
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

/// A tree of OAR 3, fetched by `make deps`, for this test alone.
pub fn oar3_tree() -> tempfile::TempDir {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/oar3.tar");
    assert!(path.is_file(), "{} is missing: `make deps` says why it could not be had", path.display());
    unpacked(&path)
}

/// What is in the one folder of a tarball.
pub fn unpacked(tarball: &Path) -> tempfile::TempDir {
    let tree = tempfile::tempdir_in(data_dir()).unwrap();
    let mut tar = Command::new("tar");
    let status = tar.args(["--strip-components=1", "-xf"]).arg(tarball).arg("-C").arg(tree.path()).status().unwrap();
    assert!(status.success(), "{} cannot be unpacked", tarball.display());
    // Hosts of a cluster read it.
    fs::set_permissions(tree.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    tree
}

/// A workdir and how to call the program in it.
pub struct Workdir {
    pub root: PathBuf,
    pub engine: Engine,
}

impl Workdir {
    /// A workdir of a fixed name, so that what a killed run left is found again.
    pub fn named(name: &str) -> Self {
        Self::on(Engine::Containerd, name)
    }

    /// The same on any engine.
    pub fn on(engine: Engine, name: &str) -> Self {
        let root = engine.data_dir().join("workdirs").join(name);
        fs::create_dir_all(&root).unwrap();
        let workdir = Self { root, engine };
        workdir.give(&workdir.root);
        workdir
    }

    /// Makes a file the property of who runs oardocker.
    pub fn give(&self, path: &Path) {
        if let Some(user) = self.engine.user() {
            std::os::unix::fs::chown(path, Some(user.id), Some(user.id)).unwrap();
        }
    }

    /// What oardocker is called by: it, or what runs it elsewhere.
    pub fn program(&self) -> PathBuf {
        self.engine.user().map_or_else(|| BINARY.into(), machine::User::program)
    }

    /// A line for the shell of the machine that oardocker runs on.
    #[track_caller]
    pub fn host_sh(&self, line: &str) -> String {
        if self.engine.user().is_some() {
            return machine::sh(line);
        }
        let out = Command::new("sh").args(["-c", line]).output().unwrap();
        assert!(out.status.success(), "{line}: {}", texts(&out).1);
        texts(&out).0
    }

    /// Kills an oardocker that [`Workdir::command`] has started.
    pub fn kill(&self, child: &mut Child) {
        if let Some(user) = self.engine.user() {
            eventually("there is one to kill", 10, || user.signal(9).then_some(()));
        }
        let _ = child.kill();
        child.wait().unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        command.args(args).current_dir(&self.root).stdin(Stdio::null());
        if self.engine.user().is_some() {
            return command;
        }
        command
            .env("OARDOCKER_DATA_DIR", self.engine.data_dir())
            .env("OARDOCKER_RUNTIME_DIR", self.engine.runtime_dir())
            .env("OARDOCKER_DOCKER_HOST", self.engine.host());
        command
    }

    /// Another program, which runs oardocker: in the folder and with the variables of [`Workdir::command`].
    pub fn around(&self, program: &str) -> Command {
        let ours = self.command(&[]);
        let mut command = Command::new(program);
        command.current_dir(&self.root).stdin(Stdio::null());
        command.envs(ours.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        in_time(&mut self.command(args))
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

    /// Installs OAR's tarball, unless this run has and the images are still those; what that said. A running cluster has to be
    /// stopped before.
    #[track_caller]
    pub fn install_once(&self) -> Option<String> {
        static INSTALLED: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if installed.get(&self.root).is_some_and(|before| *before == self.images()) {
            return None;
        }
        let text = self.ok(&["install", oar_tarball().to_str().unwrap()]);
        installed.insert(self.root.clone(), self.images());
        Some(text)
    }

    /// Its images by their ids, not by their age.
    #[track_caller]
    pub fn images(&self) -> String {
        let listed = self.ok(&["status"]);
        let of_image = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ") + "\n";
        listed.lines().filter(|line| line.starts_with("oardocker/")).map(of_image).collect()
    }

    pub fn env_id(&self) -> String {
        fs::read_to_string(self.root.join(".oardocker/env_id")).unwrap().trim().to_owned()
    }
}

/// No command of a test takes longer, on the slowest machine with the slowest network.
const LONGEST: Duration = Duration::from_secs(600);

/// The output of a command. One that hangs is ended, and what runs then is shown: a run that is cut short from outside says nothing.
fn in_time(command: &mut Command) -> Output {
    let child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (pid, shown) = (i32::try_from(child.id()).unwrap(), format!("{command:?}"));
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if ended.recv_timeout(LONGEST) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let all = Command::new("ps").args(["-eo", "pid,ppid,pgid,stat,wchan:32,etimes,args", "--forest"]).output();
        println!("{shown} hangs:\n{}", texts(&all.unwrap()).0);
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    });
    let out = child.wait_with_output().unwrap();
    drop(done);
    watch.join().unwrap();
    out
}

pub fn texts(out: &Output) -> (String, String) {
    (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// Everything on the host and in the tests' containerd that a cluster could leave behind.
pub fn host_state() -> BTreeSet<String> {
    state_on(Engine::Containerd)
}

/// The same for any engine.
pub fn state_on(engine: Engine) -> BTreeSet<String> {
    if let Some(user) = engine.user() {
        return user.state().lines().map(str::to_owned).collect();
    }
    let mut state = BTreeSet::new();
    let foreign = foreign();
    // The common parent of all clusters may be another one's.
    let is_foreign = |text: &str| foreign.iter().any(|id| text.contains(id)) || text.ends_with("/oardocker");
    let mut add = |kind: &str, text: &str| {
        let lines = text.lines().filter(|l| !l.trim().is_empty() && !is_foreign(l));
        state.extend(lines.map(|l| format!("{kind}: {l}")));
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
    // The mount on which named network namespaces are kept comes with the first one that a host ever sees, and stays.
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let ours = mounts.lines().filter(|l| !matches!(l.split(' ').nth(1), Some("/run/netns" | "/var/run/netns")));
    add("mount", &ours.collect::<Vec<_>>().join("\n"));
    for table in output("nft", &["-s", "list", "ruleset"]).split("\ntable ") {
        if !is_foreign(table.lines().next().unwrap_or_default()) {
            let of_a_cluster = table.trim_start_matches("table ").lines().filter(|l| of_a_cluster(l));
            add("nft", &of_a_cluster.collect::<Vec<_>>().join("\n"));
        }
    }
    // Keyrings of accounts that only containers have.
    let keys = fs::read_to_string("/proc/keys").unwrap_or_default();
    let of_containers =
        |l: &&str| l.split_whitespace().nth(5).and_then(|id| id.parse().ok()).is_some_and(|id: u32| id >= 524_288);
    add("key", &keys.lines().filter(of_containers).collect::<Vec<_>>().join("\n"));
    add("cgroup", &output("find", &["/sys/fs/cgroup", "-type", "d", "-path", "*/oardocker*"]));
    if engine == Engine::Containerd {
        let socket = runtime_dir().join("containerd/containerd.sock");
        let ctr = |args: &[&str]| output("ctr", &[&["-a", socket.to_str().unwrap(), "-n", "oardocker"], args].concat());
        add("container", &ctr(&["containers", "ls", "-q"]));
        add("task", &ctr(&["tasks", "ls", "-q"]));
        add("lease", &ctr(&["leases", "ls", "-q"]));
        let snapshots = ctr(&["snapshots", "ls"]);
        add("snapshot", &snapshots.lines().filter(|l| l.contains("Active")).collect::<Vec<_>>().join("\n"));
    } else {
        let names = |path: &str, field: &str| -> String {
            let list: serde_json::Value =
                serde_json::from_str(&get(&engine.daemon_dir().join("sock"), path)).unwrap_or_default();
            list.as_array().into_iter().flatten().map(|item| format!("{}\n", item[field])).collect()
        };
        add("container", &names("/v1.41/containers/json?all=true", "Names"));
        add("network", &names("/v1.41/networks", "Name"));
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        // A zombie has no command line: it ended, and the host's init has not looked yet.
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        // By its program alone: the arguments of anything on this host may name one of these.
        let program = command.split(' ').next().unwrap_or_default();
        let program = program.rsplit('/').next().unwrap_or_default();
        let of_containers = ["containerd-shim-runc-v2", "init", "runc", "conmon", "docker-proxy"];
        if of_containers.contains(&program) {
            // An init has no name of its own, but a place.
            let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            add(
                "process",
                &format!("{command} {}", cgroup.lines().find(|l| l.contains("oardocker")).unwrap_or_default()),
            );
        }
    }
    for dir in ["io", "steps", "netns", "runtime"] {
        let dir = engine.runtime_dir().join(dir);
        add("file", &output("find", &[dir.to_str().unwrap(), "-mindepth", "1", "-not", "-name", "lock"]));
    }
    for dir in ["clusters", "scratch", "store/steps"] {
        let dir = engine.data_dir().join(dir);
        add("file", &output("find", &[dir.to_str().unwrap(), "-mindepth", "1", "-maxdepth", "1"]));
    }
    state
}

/// Whether a line of nft may be a cluster's: those name an interface, an address or an id. The engines have hooks, chains
/// and marks of their own besides, which come with the first network that a host ever sees and stay; netavark keeps the
/// chains of networks that are gone as well.
fn of_a_cluster(rule: &str) -> bool {
    let names_an_address = || {
        rule.split(|c: char| !c.is_ascii_digit() && c != '.')
            .any(|word| word.split('.').filter(|n| !n.is_empty()).count() == 4)
    };
    let of_an_engine = rule.to_uppercase().contains("NETAVARK") || rule.ends_with("jump DOCKER");
    !of_an_engine && (rule.contains('"') || rule.contains("oardocker") || names_an_address())
}

/// Ids and directories of other checkouts and users that are at work on this machine: not ours to judge.
fn foreign() -> Vec<String> {
    let names = |dir: &Path| -> Vec<String> {
        fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
    };
    let mut ours = Vec::new();
    for dir in [data_root().join("workdirs"), Engine::Docker.data_dir().join("workdirs")] {
        for workdir in names(&dir) {
            let id = fs::read_to_string(dir.join(workdir).join(".oardocker/env_id")).unwrap_or_default();
            ours.push(id.trim().to_owned());
        }
    }
    let own_runtime = runtime_dir();
    let own_runtime = own_runtime.file_name().unwrap().to_str().unwrap();
    let bridges = names(Path::new("/sys/class/net")).into_iter();
    let bridges = bridges.filter_map(|n| n.strip_prefix("oard-").map(|id| id.trim_end_matches('s').to_owned()));
    let hierarchies = names(Path::new("/sys/fs/cgroup")).into_iter();
    let cgroups = hierarchies.flat_map(|h| names(&Path::new("/sys/fs/cgroup").join(h).join("oardocker")));
    let runtimes = names(Path::new("/run")).into_iter();
    let runtimes = runtimes.filter(|n| n.starts_with("oardocker") && !n.starts_with(own_runtime));
    let ids = bridges.chain(cgroups.map(|c| c.trim_end_matches('s').to_owned()));
    let mut foreign: Vec<String> = ids.filter(|id| id.len() == 8 && !ours.contains(id)).collect();
    foreign.extend(runtimes.map(|n| format!("/run/{n}/")));
    foreign
}

/// Fails with the differences.
#[track_caller]
pub fn assert_same_state(before: &BTreeSet<String>, after: &BTreeSet<String>) {
    let new: Vec<_> = after.difference(before).collect();
    let gone: Vec<_> = before.difference(after).collect();
    assert!(new.is_empty() && gone.is_empty(), "left behind: {new:#?}\nmissing: {gone:#?}");
}

/// The same, some seconds later at most: what a killed oardocker had asked of an engine, the engine itself gives up.
#[track_caller]
pub fn assert_soon_same_state(before: &BTreeSet<String>, after: impl Fn() -> BTreeSet<String>) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while after() != *before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_same_state(before, &after());
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
            assert!(self.read_some(left), "the program ended; {text:?} is not in: {}", self.seen);
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
