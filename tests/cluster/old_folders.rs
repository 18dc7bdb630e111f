//! Folders made by the Python tool oar-docker 1.6.5, from the real package on PyPI, with a user's edits in them.

use super::{get, submit, wait_state};
use crate::support::{Workdir, alone, data_dir, eventually, host_state, oar_tarball, require_root, texts};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const VERSION: &str = "1.6.5";

/// Runs a program without our variables, some of which are the Python tool's too.
#[track_caller]
fn python_side(program: &Path, args: &[&str], dir: &Path) -> String {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("OARDOCKER_")) {
        command.env_remove(name);
    }
    let out = command.args(args).current_dir(dir).output().unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let (stdout, stderr) = texts(&out);
    assert!(out.status.success(), "{} {args:?}: {}\n{stdout}\n{stderr}", program.display(), out.status);
    stdout
}

/// The Python tool, in a virtual environment that survives between runs.
fn python_tool() -> PathBuf {
    let venv = data_dir().join(format!("oar-docker-{VERSION}"));
    let tool = venv.join("bin/oardocker");
    if !tool.exists() {
        fs::create_dir_all(data_dir()).unwrap();
        python_side(Path::new("python3"), &["-m", "venv", "--clear", venv.to_str().unwrap()], &data_dir());
        python_side(&venv.join("bin/pip"), &["install", "-q", &format!("oar-docker=={VERSION}")], &data_dir());
    }
    tool
}

/// As much of Docker as `init` asks for: it lists containers and images at its end, and there are none.
fn docker_without_anything() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close";
            let _ = write!(stream, "{head}\r\n\r\n[]");
        }
    });
    address
}

/// Replaces text that must be there.
#[track_caller]
fn edit(workdir: &Workdir, file: &str, from: &str, to: &str) {
    let path = workdir.root.join(".oardocker").join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from:?} is not in {file}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
}

/// A folder of the Python tool with what a user may have changed.
fn old_folder(env: &str) -> Workdir {
    // A test that failed may have left its cluster, whose ports are the same.
    for other in ["bookworm", "bullseye"] {
        let _ = Workdir::named(&format!("old-{other}")).run(&["stop"]);
    }
    let workdir = Workdir::named(&format!("old-{env}"));
    // -f keeps the id of an earlier run, and with it the images.
    let told = python_side(
        &python_tool(),
        &["--docker-host", &docker_without_anything(), "init", "-f", "-e", env],
        &workdir.root,
    );
    assert!(told.contains("Initialized oardocker environment in"), "{told}");
    for gone in ["init-scripts/nodes_alive.sh", "images/base/lib"] {
        assert!(!workdir.root.join(".oardocker").join(gone).exists(), "{gone} is ours");
    }
    fs::write(
        workdir.root.join(".oardocker/images/node/custom_setup.sh"),
        "#!/bin/bash\napt-get install -y cowsay\necho mine > /etc/custom\n",
    )
    .unwrap();
    edit(&workdir, "images/server/Dockerfile", "ENV COLOR red\n", "ENV COLOR red\nRUN echo edited > /etc/edited\n");
    edit(
        &workdir,
        "manifest.json",
        "[\"Monika\"",
        "[\"Netcat\", \" (tcp test)\", \"5000\", \"TCP: \"],\n        [\"Monika\"",
    );
    // OAR 2.6.1 has no tools module that can be built.
    for action in ["BUILD", "INSTALL", "SETUP"] {
        let value = action.to_lowercase();
        let line = format!("TOOLS_{action}=\"tools-{value}\"");
        edit(&workdir, "images/frontend/install_oar.sh", &line, &line.replace(&format!("tools-{value}"), ""));
    }
    workdir
}

/// OAR 2.6 is built for v1 cgroups when it is told so; 2.6.1 then looks for two files under names that do not exist.
fn build_for_v1(workdir: &Workdir) {
    let unpacked = "MAJOR_VERSION=$(echo $VERSION";
    let edited = format!(
        "export OAR_CGV1=1\n\
         cp -n $SRCDIR/sources/core/tools/{{oarsh,oarsh-legacy}}/pam_oar_adopt.conf\n\
         sed -i 's/CGV1_OR_SYSTEMD=cgroup$/CGV1_OR_SYSTEMD=cgroups/' $SRCDIR/setup/server.sh.in\n{unpacked}"
    );
    for role in ["frontend", "node", "server"] {
        edit(workdir, &format!("images/{role}/install_oar.sh"), unpacked, &edited);
    }
}

fn build_and_install(workdir: &Workdir, env: &str) {
    let begun = Instant::now();
    let listed = workdir.ok(&["build", "-q", "status"]);
    assert!(listed.contains(&format!("oardocker/{env}-node:base")), "{listed}");
    println!("old {env}: built in {:?}", begun.elapsed());
    let begun = Instant::now();
    let text = workdir.ok(&["install", oar_tarball().to_str().unwrap()]);
    for role in ["node", "frontend", "server"] {
        assert!(text.contains(&format!("oardocker/{env}-{role}:latest")), "{text}");
    }
    assert_eq!(text.matches("--> Saved: OAR 2.6.1 (tarball)").count(), 3, "{text}");
    println!("old {env}: installed in {:?}", begun.elapsed());
}

fn start(workdir: &Workdir, nodes: &str) -> (String, String) {
    let out = workdir.run(&["start", "-n", nodes, "--port-bindings-offset", "52000", "-e", "WHO=me"]);
    let (stdout, stderr) = texts(&out);
    assert!(out.status.success(), "{stdout}\n{stderr}");
    (stdout, stderr)
}

const UNCONFINED: &str = "jobs run, but are not confined";

/// What every old folder must still do.
fn journey(env: &str, workdir: &Workdir) {
    let begun = Instant::now();
    let (told, notes) = start(workdir, "2");
    println!("old {env}: ready after {:?}", begun.elapsed());
    assert!(told.contains("Netcat: TCP: localhost:57000 (tcp test)"), "{told}");
    assert!(!notes.contains(UNCONFINED), "{notes}");

    let nodes = workdir.sh("frontend", "oarnodes -s");
    assert_eq!(nodes.matches("Alive").count(), 2 * std::thread::available_parallelism().unwrap().get(), "{nodes}");
    let id = submit(workdir, "oarsub -l nodes=2,walltime=0:5 'sort -u $OAR_NODEFILE; echo who=$WHO'");
    wait_state(workdir, &id, "Terminated");
    assert!(workdir.sh("frontend", &format!("cat OAR.{id}.stdout")).starts_with("node1\nnode2\n"));
    println!("old {env}: first job of two nodes done after {:?}", begun.elapsed());
    let id = submit(workdir, "oarsub -l core=1,walltime=0:5 'grep Cpus_allowed_list /proc/self/status'");
    wait_state(workdir, &id, "Terminated");
    let cores = workdir.sh("frontend", &format!("cat OAR.{id}.stdout"));
    assert!(cores.ends_with("\t0\n") || cores.ends_with("\t1\n"), "one core only: {cores}");

    assert_eq!(workdir.root_sh("node2", "cat /etc/custom; command -v /usr/games/cowsay"), "mine\n/usr/games/cowsay\n");
    assert_eq!(workdir.root_sh("server", "cat /etc/edited"), "edited\n");
    assert_eq!(workdir.sh("frontend", "ssh node1 hostname"), "node1\n");
    assert_eq!(workdir.sh("node1", "echo $WHO"), "me\n");
    let (status, page) = get(52080, "/monika", "");
    assert!(status.contains("200") && page.contains("node2"), "{status} {page}");
    assert!(get(58668, "/oarapi/resources.json", "").0.contains("200"));

    // Their log host has no systemd: its console is the log.
    assert_eq!(workdir.root_sh("rsyslog", "cat /proc/1/comm"), "rsyslogd\n");
    workdir.sh("node2", "logger -t probe marked-7532");
    let line = eventually("the log host has the line", 20, || {
        workdir.ok(&["logs", "node2"]).lines().find(|l| l.contains("marked-7532")).map(ToOwned::to_owned)
    });
    assert!(line.starts_with("node2 | ") && line.contains("probe"), "{line}");

    workdir.ok(&["reset", "node2"]);
    let id = submit(workdir, "oarsub -l \"{network_address='node2'}/nodes=1,walltime=0:5\" hostname");
    wait_state(workdir, &id, "Terminated");
    workdir.ok(&["stop"]);
    let left: Vec<String> = host_state().into_iter().filter(|line| line.contains(&workdir.env_id())).collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
}

#[test]
fn old_bookworm() {
    require_root();
    let _alone = alone();
    let workdir = old_folder("bookworm");
    build_and_install(&workdir, "bookworm");
    let (_, notes) = start(&workdir, "1");
    assert!(notes.contains(UNCONFINED), "OAR was built for v2, and this host has its controllers in v1: {notes}");
    let id = submit(&workdir, "oarsub -l core=1,walltime=0:5 'grep Cpus_allowed_list /proc/self/status'");
    wait_state(&workdir, &id, "Terminated");
    assert!(!workdir.sh("frontend", &format!("cat OAR.{id}.stdout")).is_empty());
    build_for_v1(&workdir);
    build_and_install(&workdir, "bookworm");
    journey("bookworm", &workdir);
}

#[test]
fn old_bullseye() {
    require_root();
    let _alone = alone();
    let workdir = old_folder("bullseye");
    build_for_v1(&workdir);
    build_and_install(&workdir, "bullseye");
    journey("bullseye", &workdir);
}

#[test]
fn old_hosts_refuse_a_systemd_that_cannot_boot_there() {
    require_root();
    let _alone = alone();
    let workdir = super::ready("trixie");
    let v1_only = tempfile::tempdir().unwrap();
    fs::create_dir(v1_only.path().join("cpuset")).unwrap();
    fs::write(v1_only.path().join("cpuset/tasks"), "").unwrap();
    let text = workdir.fails(1, &["--cgroup-path", v1_only.path().to_str().unwrap(), "start"]);
    assert!(text.contains("image oardocker/trixie-frontend:latest has systemd 257"), "{text}");
    assert!(text.contains("it has v1 cgroups only") && text.contains("init -f -e bookworm"), "{text}");
}
