//! What is promised in docs/security.md: against other accounts of the host, against a node whose root is hostile, and against mistakes.

mod late;

use crate::cluster::ready_on;
use crate::support::{
    Engine, Workdir, alone, assert_same_state, eventually, fixture, host_state, oar_tarball, require_root, state_on,
    texts,
};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Accounts that exist nowhere: the one that calls sudo, and a stranger.
const CALLER: u32 = 61_234;
const STRANGER: u32 = 64_242;

/// Runs a line of the host's shell as some account.
fn host_as(uid: u32, line: &str) -> Output {
    let id = uid.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "bash", "-c", line]).current_dir("/");
    command.output().expect("these tests need setpriv: run `make deps`")
}

fn start(workdir: &Workdir, args: &[&str]) -> String {
    let mut command = workdir.command(&[&["start", "-n", "1"], args].concat());
    let out = command.env("SUDO_UID", CALLER.to_string()).output().unwrap();
    let (stdout, stderr) = texts(&out);
    assert!(out.status.success(), "{stdout}{stderr}");
    stderr
}

/// Opens a port as some account; whether somebody answered.
fn reaches(uid: u32, address: &str, port: u16) -> bool {
    host_as(uid, &format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/{port}'")).status.success()
}

fn other_accounts(engine: Engine) {
    require_root();
    let _alone = engine.alone();
    let workdir = ready_on(engine, "trixie");
    workdir.ok(&["stop"]);
    let before = state_on(engine);
    start(&workdir, &["-e", "TOKEN=geheim"]);
    let node = workdir.sh("node1", "getent hosts node1 | cut -d' ' -f1").trim().to_owned();
    for (uid, expected) in [(0, true), (CALLER, true), (STRANGER, false)] {
        for (address, port) in [(node.as_str(), 22), ("127.0.0.1", 46668), ("127.0.0.1", 40080)] {
            assert_eq!(reaches(uid, address, port), expected, "account {uid} at {address}:{port}");
        }
    }
    // The host has no address on the bridge that rules are not about.
    let links = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let bridge = format!("oard-{}", workdir.env_id());
    assert!(engine != Engine::Containerd || !links.contains(&bridge), "{links}");

    // Files: a set-uid program in /home, the variables, the histories.
    workdir.root_sh("node1", "cp /usr/bin/id /home/rootme && chmod 4755 /home/rootme");
    let cluster = engine.data_dir().join("clusters").join(workdir.env_id());
    let program = cluster.join("home/rootme");
    assert_eq!(fs::metadata(&program).unwrap().mode() & 0o7777, 0o4755);
    for path in
        [program.as_path(), &cluster.join("env.json"), &cluster.join("log"), &workdir.root.join(".oardocker/tmp/node")]
    {
        let out = host_as(STRANGER, &format!("stat '{}'", path.display()));
        assert!(!out.status.success(), "a stranger sees {}", path.display());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount =
        mounts.lines().find(|l| l.split(' ').nth(4) == cluster.to_str()).expect("the cluster's files are a mount");
    let options = mount.split(' ').nth(5).unwrap();
    assert!(options.contains("nosuid") && options.contains("nodev"), "{mount}");
    for (path, mode) in [("clusters", 0o700), ("locks", 0o700), ("hosts", 0o755)] {
        assert_eq!(fs::metadata(engine.data_dir().join(path)).unwrap().mode() & 0o777, mode, "{path}");
    }
    assert_eq!(fs::metadata(workdir.root.join(".oardocker/tmp")).unwrap().mode() & 0o777, 0o700);
    if engine == Engine::Containerd {
        let run = engine.runtime_dir();
        for path in ["ids", "netns", "containerd/state/io.containerd.runtime.v2.task/oardocker"] {
            let out = host_as(STRANGER, &format!("ls '{}'", run.join(path).display()));
            assert!(!out.status.success(), "a stranger looks into {path}");
        }
        let socket = run.join("containerd/containerd.sock");
        let out = host_as(STRANGER, &format!("ctr -a '{}' version", socket.display()));
        assert!(!out.status.success(), "a stranger asks containerd");
    }
    // Names of hosts are completed without root all the same.
    let names = engine.data_dir().join("hosts").join(workdir.env_id());
    assert_eq!(fs::metadata(&names).unwrap().mode() & 0o777, 0o644);
    assert_eq!(fs::read_to_string(&names).unwrap(), "node1\n");

    // On purpose.
    workdir.ok(&["stop"]);
    start(&workdir, &["-g"]);
    assert!(reaches(STRANGER, "127.0.0.1", 46668), "-g opens the ports");
    assert!(reaches(STRANGER, &node, 22), "-g opens the addresses");
    workdir.ok(&["stop"]);
    assert_same_state(&before, &state_on(engine));
}

#[test]
fn other_accounts_stay_out() {
    other_accounts(Engine::Containerd);
}

#[test]
fn other_accounts_stay_out_on_docker() {
    other_accounts(Engine::Docker);
}

#[test]
fn other_accounts_stay_out_on_podman() {
    other_accounts(Engine::Podman);
}

/// `own_ids` says whether its nodes are to have user namespaces.
fn hostile_root(engine: Engine, own_ids: bool) {
    require_root();
    let _alone = engine.alone();
    let workdir = ready_on(engine, "trixie");
    workdir.ok(&["stop"]);
    let before = state_on(engine);
    let shared = tempfile::tempdir_in(&workdir.root).unwrap();
    // A device of the host that somebody left in a shared folder: the first disk.
    let disks = fs::read_to_string("/proc/partitions").unwrap();
    let disk: Vec<&str> = disks.lines().nth(2).expect("this host has a disk").split_whitespace().collect();
    let made = Command::new("mknod").arg(shared.path().join("disk")).args(["b", disk[0], disk[1]]).status().unwrap();
    assert!(made.success());
    fs::write(shared.path().join("of-root"), "root's\n").unwrap();
    fs::set_permissions(shared.path().join("of-root"), fs::Permissions::from_mode(0o600)).unwrap();
    let caller = engine.user().map_or(CALLER, |user| user.id);
    chown(shared.path(), Some(caller), Some(caller)).unwrap();
    let read_only = tempfile::tempdir_in(&workdir.root).unwrap();
    chown(read_only.path(), Some(caller), Some(caller)).unwrap();
    let volumes =
        [format!("{}:/shared", shared.path().display()), format!("{}:/readonly:ro", read_only.path().display())];
    let userns = if own_ids { "--userns=require" } else { "--userns=off" };
    workdir.ok(&["start", "-n", "2", userns, "-v", &volumes[0], "-v", &volumes[1]]);
    fs::write(shared.path().join("attack.py"), fixture("safety/attack.py")).unwrap();
    fs::set_permissions(shared.path().join("attack.py"), fs::Permissions::from_mode(0o644)).unwrap();
    let said = workdir.root_sh(
        "node1",
        &format!("python3 /shared/attack.py {} {} {}", disk[0], disk[1], if own_ids { "own" } else { "host" }),
    );
    let worked: Vec<&str> = said.lines().filter(|l| l.starts_with("WORKED")).collect();
    assert!(worked.is_empty(), "node root could: {worked:#?}\n{said}");
    assert!(said.lines().filter(|l| l.starts_with("refused")).count() > 30, "the attacks were not tried: {said}");
    // What is open without user namespaces is told; with them nothing is.
    let open: Vec<&str> = said.lines().filter(|l| l.starts_with("open ")).collect();
    assert!(!own_ids || open.is_empty(), "open in a user namespace: {open:?}\n{said}");
    let told = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md")).unwrap();
    for open in said.lines().filter_map(|l| l.strip_prefix("open ")) {
        assert!(told.contains(&format!("`{open}`")), "docs/security.md does not tell of {open}");
    }
    assert_eq!(workdir.root_sh("node1", "systemctl is-system-running").trim(), "running");

    // What root on the host reads of a node is the node's own, and nobody waits for it.
    workdir.root_sh("rsyslog", "ln -sf /etc/hostname /var/log/oardocker/cluster.log");
    let out = workdir.run(&["logs"]);
    let host = fs::read_to_string("/etc/hostname").unwrap_or_default();
    assert!(host.trim().is_empty() || !texts(&out).0.contains(host.trim()), "{out:?}");
    workdir.root_sh("node2", "mv /etc/passwd /etc/passwd.old && mkfifo /etc/passwd");
    let begun = Instant::now();
    let text = workdir.fails(1, &["exec", "node2", "true"]);
    assert!(text.contains("etc/passwd: it is not a plain file") && begun.elapsed() < Duration::from_secs(5), "{text}");
    // What a node puts in the place of its socket is not followed by a reset.
    let target = shared.path().join("target");
    fs::write(&target, "x").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
    workdir.root_sh("node1", &format!("rm -f /run/host/s; ln -s {} /run/host/s; true", target.display()));
    workdir.ok(&["reset", "node1"]);
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o644);
    workdir.ok(&["stop"]);
    assert_same_state(&before, &state_on(engine));
}

#[test]
fn a_hostile_root_stays_in_its_node() {
    hostile_root(Engine::Containerd, true);
}

/// Whose account on the machine is the user's.
#[test]
fn a_hostile_root_stays_in_its_node_without_root() {
    hostile_root(Engine::Own, true);
}

#[test]
fn a_hostile_root_of_the_host_s_ids_stays_in_its_node() {
    hostile_root(Engine::Containerd, false);
}

#[test]
fn a_hostile_root_stays_in_its_node_on_docker() {
    hostile_root(Engine::Docker, false);
}

#[test]
fn a_hostile_root_stays_in_its_node_on_podman() {
    hostile_root(Engine::Podman, false);
}

/// A mistake costs an error, and not the cluster that runs.
#[test]
fn a_refused_command_leaves_the_cluster_that_runs() {
    require_root();
    let _alone = alone();
    let workdir = ready_on(Engine::Containerd, "trixie");
    workdir.ok(&["start", "-n", "1"]);
    workdir.sh("node1", "echo precious > ~/work");
    let dir = workdir.root.join(".oardocker");
    let boot = workdir.sh("node1", "stat -c %Y /proc/1");
    let tmp = tempfile::tempdir().unwrap();
    let tree = tmp.path().join("oar-9");
    let version = tree.join("sources/core/common-libs/lib/OAR/Version.pm");
    fs::create_dir_all(version.parent().unwrap()).unwrap();
    fs::write(version, "my $OARVersion = \"9.9\";\n").unwrap();
    fs::write(tree.join("Makefile"), "%:\n\t@exit 5\n").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:55080").unwrap();
    let dockerfile = dir.join("images/node/Dockerfile");
    let original = fs::read_to_string(&dockerfile).unwrap();
    let still = |what: &str, code: i32, args: &[&str], expected: &str| {
        let text = workdir.fails(code, args);
        assert!(text.contains(expected), "{what}: {text}");
        assert_eq!(workdir.sh("node1", "cat ~/work; stat -c %Y /proc/1"), format!("precious\n{boot}"), "after {what}");
    };
    still("a taken port", 1, &["start", "--port-bindings-offset", "55000"], "port 55080 of 127.0.0.1");
    still("a folder that is not there", 1, &["start", "-v", "/nonexistent:/x"], "cannot share /nonexistent");
    still("too many nodes", 2, &["start", "-n", "1001"], "not in the range");
    still("no source", 1, &["install", "/nonexistent"], "cannot open /nonexistent");
    still("a source that is none", 1, &["install", "/etc"], "holds no OAR sources");
    still("a source that cannot be installed", 1, &["install", tree.to_str().unwrap()], "ended with exit code");
    fs::write(&dockerfile, format!("{original}RUN exit 3\n")).unwrap();
    still("an image that cannot be built", 1, &["build", "-q"], "exit code 3");
    fs::write(&dockerfile, &original).unwrap();
    let scripts = dir.join("init-scripts");
    fs::rename(&scripts, dir.join("kept")).unwrap();
    std::os::unix::fs::symlink("/etc", &scripts).unwrap();
    still("a link that leads out", 1, &["start"], "a symbolic link leads out of the folder");
    fs::remove_file(&scripts).unwrap();
    fs::rename(dir.join("kept"), &scripts).unwrap();
    drop(taken);
    // Its own ports are no obstacle for the next one.
    workdir.ok(&["start", "-n", "1"]);
    assert_eq!(workdir.sh("node1", "ls ~/work 2>/dev/null; true"), "");
    workdir.ok(&["stop"]);
}

/// Ctrl-C: what was begun is undone when the prompt comes back, and nothing goes on behind it.
#[test]
fn an_interrupted_command_is_undone_before_it_ends() {
    require_root();
    let _alone = alone();
    let workdir = ready_on(Engine::Containerd, "trixie");
    workdir.ok(&["stop"]);
    let before = host_state();
    let dockerfile = workdir.root.join(".oardocker/images/node/Dockerfile");
    let original = fs::read_to_string(&dockerfile).unwrap();
    let nonce = format!("{:?}", std::time::SystemTime::now());
    fs::write(&dockerfile, format!("{original}RUN echo '{nonce}'; echo begun; sleep 1000\n")).unwrap();
    let tarball = oar_tarball();
    for (args, when) in [
        (&["build"][..], "| begun"),
        (&["install", "--no-cache", tarball.to_str().unwrap()], "node | "),
        (&["start", "-n", "3"], "Started"),
    ] {
        let mut command = workdir.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains(when) {
            line.clear();
            assert!(
                std::io::BufRead::read_line(&mut reader, &mut line).unwrap() > 0,
                "{args:?} did not come to {when:?}"
            );
        }
        // Its output is read on, as a terminal does.
        let rest = std::thread::spawn(move || std::io::Read::read_to_string(&mut reader, &mut String::new()));
        let begun = Instant::now();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        let out = child.wait_with_output().unwrap();
        rest.join().unwrap().unwrap();
        let text = texts(&out).1;
        assert_eq!(out.status.code(), Some(130), "{args:?}: {text}");
        assert!(text.contains(&format!("Interrupted: {} is undone", args[0])), "{args:?}: {text}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{args:?} took {:?} to end", begun.elapsed());
        assert_same_state(&before, &host_state());
    }
    fs::write(&dockerfile, &original).unwrap();
    workdir.ok(&["build", "-q"]);
}

/// A first process that ends says why.
#[test]
fn a_node_that_ends_while_booting_has_the_last_word() {
    require_root();
    let _alone = alone();
    let workdir = ready_on(Engine::Containerd, "trixie");
    workdir.ok(&["stop"]);
    let before = host_state();
    let limit = "/proc/sys/fs/inotify/max_user_instances";
    let usual = fs::read_to_string(limit).unwrap();
    let mut child =
        workdir.command(&["start", "-n", "2"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let cluster = workdir.engine.data_dir().join("clusters").join(workdir.env_id());
    // Behind the back of what has just looked at it.
    eventually("the cluster is being made", 20, || cluster.join("kmsg/node1").exists().then_some(()));
    fs::write(limit, "0").unwrap();
    let text = {
        let mut text = String::new();
        std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut text).unwrap();
        text
    };
    fs::write(limit, usual).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{text}");
    assert!(text.contains("ended while booting, with code 255"), "{text}");
    assert!(text.contains("Failed to create control group inotify object: Too many open files"), "{text}");
    assert_same_state(&before, &host_state());
}

/// Limits that are too small for so many hosts are raised, and that is said.
#[test]
fn limits_are_raised_and_told() {
    require_root();
    let _alone = alone();
    let workdir = ready_on(Engine::Containerd, "trixie");
    let limit = Path::new("/proc/sys/fs/inotify/max_user_instances");
    let usual = fs::read_to_string(limit).unwrap();
    fs::write(limit, "40").unwrap();
    let notes = start(&workdir, &[]);
    let raised = fs::read_to_string(limit).unwrap();
    fs::write(limit, usual).unwrap();
    workdir.ok(&["stop"]);
    assert!(notes.contains("raised fs.inotify.max_user_instances from 40 to 128"), "{notes}");
    assert_eq!(raised.trim(), "128");
}
