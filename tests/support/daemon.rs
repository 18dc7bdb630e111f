//! Docker Engine and Podman's API service, run for one test: the real ones from Debian, with data of their own.

use super::{Engine, eventually};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running engine; it ends with the value.
pub struct Daemon {
    engine: Engine,
    child: Child,
    command: Command,
    dir: PathBuf,
    data: PathBuf,
    /// The host's interfaces before it came.
    links: Vec<String>,
    /// The host's iptables before it came.
    rules: Option<String>,
}

/// Podman's configuration. On hybrid hosts crun refuses to run; not every root may raise its limits to Podman's defaults.
fn containers_conf() -> String {
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    format!(
        "[containers]\ndefault_ulimits = [\"nofile={soft}:{hard}\", \"nproc=4096:4096\"]\n\
         [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n"
    )
}

/// The host's rules for iptables-restore, which empties the tables that are named in them: those that were not there, too.
fn iptables_save() -> String {
    let out = Command::new("iptables-save").output().expect("these tests need iptables: run `make deps`");
    let mut rules = String::from_utf8(out.stdout).unwrap();
    for table in ["*filter\n", "*nat\n"] {
        if !rules.contains(table) {
            rules.push_str(&format!("{table}COMMIT\n"));
        }
    }
    rules
}

impl Daemon {
    /// Starts Docker or Podman and waits until it answers.
    pub fn start(engine: Engine) -> Self {
        let dir = engine.daemon_dir();
        let data = super::data_root().join(engine.name());
        end_leftover(&dir, &data);
        fs::create_dir_all(&dir).unwrap();
        let rules = iptables_save();
        let command = match engine {
            Engine::Containerd | Engine::Rootless | Engine::Own => panic!("that has no daemon here"),
            Engine::Docker => {
                // Without a bridge of its own, and leaving the policy of the host's FORWARD alone.
                dockerd(&dir, &data, &["--bridge=none", "--ip-forward=false"])
            }
            Engine::Podman => {
                forget_addresses();
                let conf = dir.join("containers.conf");
                fs::write(&conf, containers_conf()).unwrap();
                let mut command = Command::new("podman");
                command
                    .env("CONTAINERS_CONF", conf)
                    .arg("--root")
                    .arg(&data)
                    .arg("--runroot")
                    .arg(dir.join("run"))
                    .arg("--tmpdir")
                    .arg(dir.join("tmp"))
                    .arg("--network-config-dir")
                    .arg(data.join("networks"))
                    .args(["system", "service", "--time=0"])
                    .arg(format!("unix://{}", dir.join("sock").display()));
                command
            }
        };
        Self::run(engine, command, dir, data, Some(rules))
    }

    /// Docker with its bridge, in the network namespace of this name.
    pub fn docker_in(netns: &str) -> Self {
        let dir = PathBuf::from(format!("{}.netns", Engine::Docker.daemon_dir().display()));
        let data = super::data_root().join("docker-in-netns");
        end_leftover(&dir, &data);
        fs::create_dir_all(&dir).unwrap();
        let inner = dockerd(&dir, &data, &[]);
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{netns}")).arg(inner.get_program()).args(inner.get_args());
        Self::run(Engine::Docker, command, dir, data, None)
    }

    /// Docker with `userns-remap`: all of its containers have ids from this one on. An account of the system has them as long as the
    /// value that comes with it.
    pub fn docker_remapped(first: u32) -> (Self, Subordinate) {
        let dir = PathBuf::from(format!("{}.remap", Engine::Docker.daemon_dir().display()));
        let data = super::data_root().join("docker-remapped");
        end_leftover(&dir, &data);
        fs::create_dir_all(&dir).unwrap();
        let ids = Subordinate::give("games", first, data.clone());
        let rules = iptables_save();
        let more = ["--bridge=none", "--ip-forward=false", "--userns-remap=games"];
        let command = dockerd(&dir, &data, &more);
        (Self::run(Engine::Docker, command, dir, data, Some(rules)), ids)
    }

    fn run(engine: Engine, mut command: Command, dir: PathBuf, data: PathBuf, rules: Option<String>) -> Self {
        // Podman would make the directories above it for root alone, too, and other users' tests are below them.
        fs::create_dir_all(&data).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        // For tests/forget, should nobody be left to do it.
        if let Some(rules) = &rules {
            fs::write(dir.join("rules"), rules).unwrap();
        }
        let links = links();
        let child = spawn(&mut command);
        let mut daemon = Self { engine, child, command, dir, data, links, rules };
        daemon.answers();
        daemon
    }

    fn answers(&mut self) {
        fs::write(self.dir.join("pid"), self.child.id().to_string()).unwrap();
        eventually("the engine answers", 30, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the engine ended: {status}\n{}", fs::read_to_string(self.dir.join("log")).unwrap());
            }
            (get(&self.socket(), "/_ping") == "OK").then_some(())
        });
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    /// Ends it the hard way.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// After [`Daemon::kill`], as its service manager does.
    pub fn restart(&mut self) {
        // Its containerd went with it; where nobody reaps that, Docker would wait for it.
        let _ = fs::remove_file(self.dir.join("exec/containerd/containerd.pid"));
        self.child = spawn(&mut self.command);
        self.answers();
    }
}

fn links() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").unwrap().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|e| panic!("{}: {e}: run `make deps`", command.get_program().display()))
}

fn dockerd(dir: &Path, data: &Path, more: &[&str]) -> Command {
    let mut command = Command::new("dockerd");
    command
        .arg("--data-root")
        .arg(data)
        .arg("--exec-root")
        .arg(dir.join("exec"))
        .arg("--pidfile")
        .arg(dir.join("docker.pid"))
        .arg(format!("--host=unix://{}", dir.join("sock").display()))
        .args(more);
    command
}

/// Lines of /etc/subuid and /etc/subgid, and gigabytes of who has those ids, taken away with the value.
pub struct Subordinate {
    line: String,
    data: PathBuf,
}

const SUBORDINATE: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

impl Subordinate {
    fn give(account: &str, first: u32, data: PathBuf) -> Self {
        let line = format!("{account}:{first}:65536\n");
        let ids = Self { line: line.clone(), data };
        // What a killed run of the tests has left.
        ids.take_away();
        for file in SUBORDINATE {
            let before = fs::read_to_string(file).unwrap_or_default();
            fs::write(file, before + &line).unwrap();
        }
        ids
    }

    fn take_away(&self) {
        for file in SUBORDINATE {
            let text = fs::read_to_string(file).unwrap_or_default();
            fs::write(file, text.replace(&self.line, "")).unwrap();
        }
    }
}

impl Drop for Subordinate {
    fn drop(&mut self) {
        self.take_away();
        let _ = fs::remove_dir_all(&self.data);
    }
}

/// An answer of an engine, as text.
pub fn get(socket: &Path, path: &str) -> String {
    let out = Command::new("curl")
        .args(["-s", "--max-time", "20", "--unix-socket"])
        .arg(socket)
        .arg(format!("http://localhost{path}"))
        .output()
        .expect("these tests need curl: run `make deps`");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Ends what a killed test run left of an engine in these directories, and nothing else.
fn end_leftover(dir: &Path, data: &Path) {
    let name = dir.to_str().unwrap();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        // The slash keeps directories apart that begin alike.
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&format!("{name}/")) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
    for mount in fs::read_to_string("/proc/mounts").unwrap_or_default().lines().rev() {
        let target = mount.split(' ').nth(1).unwrap_or_default();
        if Path::new(target).starts_with(dir) || Path::new(target).starts_with(data) {
            let _ = Command::new("umount").args(["-l", target]).status();
        }
    }
    let _ = fs::remove_dir_all(dir);
}

/// Podman keeps the addresses of containers in one file for all of its services, and network namespaces in one directory, also
/// those of containers that are gone since their service was killed.
fn forget_addresses() {
    let running = Command::new("sh").args(["-c", "ps -C conmon -o stat= | grep -v Z"]).output().unwrap();
    if !running.stdout.is_empty() {
        return;
    }
    let _ = fs::remove_file("/run/containers/networks/ipam.db");
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("netns-") {
            let _ = Command::new("umount").arg(entry.path()).stderr(Stdio::null()).status();
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // An engine that is killed with its containers leaves their networks, rules and addresses to the next test.
        if self.rules.is_some() && self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.engine.sweep();
        }
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
        end_leftover(&self.dir, &self.data);
        // An engine that was killed forgets cables that nothing is plugged into any more.
        let unplugged =
            |name: &str| fs::read_to_string(format!("/sys/class/net/{name}/operstate")).is_ok_and(|s| s.trim() != "up");
        for link in links().iter().filter(|l| l.starts_with("veth") && !self.links.contains(l) && unplugged(l)) {
            let _ = Command::new("ip").args(["link", "del", link]).stderr(Stdio::null()).status();
        }
        // Neither engine takes its chains along; in a namespace they go with it.
        if let Some(rules) = &self.rules {
            let mut restore = Command::new("iptables-restore").arg("-w").stdin(Stdio::piped()).spawn().unwrap();
            let _ = std::io::Write::write_all(restore.stdin.as_mut().unwrap(), rules.as_bytes());
            let _ = restore.wait();
        }
    }
}
