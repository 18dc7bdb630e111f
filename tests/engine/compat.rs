//! Docker-compatible sockets: what is none, and engines that die.

use super::image_workdir;
use crate::cluster::ready_on;
use crate::support::{Daemon, Engine, alone, assert_same_state, eventually, require_root, state_on, texts};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

/// Answers every request on a socket with the same text; silent when there is none.
fn pretender(name: &str, answer: Option<&'static str>) -> String {
    let path = Engine::Docker.data_dir().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 2048];
            match answer {
                Some(text) => {
                    let _ = stream.read(&mut request).and_then(|_| stream.write_all(text.as_bytes()));
                }
                None => silent.push(stream),
            }
        }
    });
    path.display().to_string()
}

fn version(api: &str, oldest: &str) -> &'static str {
    let body =
        format!("{{\"Version\":\"9.9\",\"ApiVersion\":\"{api}\",\"MinAPIVersion\":\"{oldest}\",\"Components\":[]}}");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length:";
    format!("{head} {}\r\n\r\n{body}", body.len()).leak()
}

#[test]
fn sockets_that_are_no_engine() {
    require_root();
    let workdir = image_workdir("no-engine", "FROM debian:trixie\n");
    let dead = Engine::Docker.data_dir().join("dead.sock");
    fs::create_dir_all(dead.parent().unwrap()).unwrap();
    let _ = fs::remove_file(&dead);
    drop(UnixListener::bind(&dead).unwrap());
    for (path, expected) in [
        ("/nonexistent.sock".to_owned(), "there is no such socket"),
        ("/etc/passwd".into(), "it is not a socket"),
        (dead.display().to_string(), "nobody listens there"),
        (pretender("old.sock", Some(version("1.40", "1.12"))), "Docker Engine 9.9 is too old: it speaks API 1.40"),
        (pretender("new.sock", Some(version("9.9", "9.0"))), "Docker Engine 9.9 is too new"),
        (pretender("odd.sock", Some("220 mail server ready\r\n")), "it does not speak Docker's API"),
        (pretender("mute.sock", None), "it does not answer within 30 s"),
    ] {
        let host = format!("unix://{path}");
        let out = workdir.command(&["status"]).env("OARDOCKER_DOCKER_HOST", &host).output().unwrap();
        let text = texts(&out).1;
        assert_eq!(out.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("cannot use the container engine at {path}: {expected}")), "{text}");
        assert_eq!(text.matches("Error:").count(), 1, "{text}");
        // The same through the variable that every Docker tool reads.
        if path.starts_with("/etc") {
            let mut command = workdir.command(&["status"]);
            let out = command.env("OARDOCKER_DOCKER_HOST", "auto").env("DOCKER_HOST", &host).output().unwrap();
            assert!(texts(&out).1.contains(expected), "{}", texts(&out).1);
        }
    }
    let mut command = workdir.command(&["status"]);
    let out = command.env("OARDOCKER_DOCKER_HOST", "auto").env("DOCKER_HOST", "tcp://127.0.0.1:1").output().unwrap();
    assert!(texts(&out).1.contains("only an engine on this host can be used"), "{}", texts(&out).1);
}

#[test]
fn a_containerd_that_says_nothing_is_not_waited_for() {
    require_root();
    let workdir = image_workdir("mute-engine", "FROM debian:trixie\n");
    let path = pretender("mute-containerd.sock", None);
    let begun = std::time::Instant::now();
    let mut command = workdir.command(&["status"]);
    let out = command.env("OARDOCKER_DOCKER_HOST", format!("containerd://{path}")).output().unwrap();
    let text = texts(&out).1;
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("containerd does not answer within 30 s"), "{text}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn an_engine_that_dies_is_told_and_the_next_command_recovers() {
    require_root();
    let _alone = alone();
    let mut docker = Daemon::start(Engine::Docker);
    let workdir = ready_on(Engine::Docker, "trixie");
    workdir.ok(&["stop"]);
    let before = state_on(Engine::Docker);

    // In the middle of a session.
    workdir.ok(&["start", "-n", "1"]);
    let mut session = workdir.command(&["exec", "--no-tty", "node1", "echo begun; sleep 1000"]);
    let mut session = session.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 6];
    session.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    docker.kill();
    let out = session.wait_with_output().unwrap();
    let text = texts(&out).1;
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("Docker Engine is gone"), "{text}");
    let text = workdir.fails(1, &["status"]);
    assert!(text.contains("nobody listens there"), "{text}");
    docker.restart();
    workdir.ok(&["stop"]);
    assert_same_state(&before, &state_on(Engine::Docker));

    // In the middle of a start.
    let mut start = workdir.command(&["start", "-n", "3"]);
    let start = start.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("containers are made", 20, || {
        state_on(Engine::Docker).iter().any(|l| l.starts_with("container: ")).then_some(())
    });
    docker.kill();
    let out = start.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", texts(&out).1);
    docker.restart();
    workdir.ok(&["stop"]);
    // What Docker itself forgets when it is killed is Docker's: only what is ours has to be gone.
    let ours = |state: std::collections::BTreeSet<String>| {
        let kinds = ["cgroup:", "file:", "mount:", "container:", "network:"];
        let id = workdir.env_id();
        state.into_iter().filter(|l| kinds.iter().any(|k| l.starts_with(k)) && l.contains(&id)).collect()
    };
    assert_same_state(&ours(before), &ours(state_on(Engine::Docker)));
    // Docker that was killed while it published ports may keep them, allocated and with their proxies, until it is restarted.
    workdir.ok(&["start", "-n", "1", "--port-bindings-offset", "51000"]);
    workdir.ok(&["stop"]);
}

#[test]
fn a_cluster_is_left_to_the_engine_that_runs_it() {
    require_root();
    let _alone = alone();
    let docker = Daemon::start(Engine::Docker);
    let workdir = ready_on(Engine::Containerd, "trixie");
    workdir.ok(&["start", "-n", "1"]);
    let there = format!("unix://{}", docker.socket().display());
    for args in [&["stop"][..], &["start"], &["build"], &["exec", "node1", "true"], &["destroy", "-f"]] {
        let out = workdir.command(args).env("OARDOCKER_DOCKER_HOST", &there).output().unwrap();
        let text = texts(&out).1;
        assert_eq!(out.status.code(), Some(1), "{args:?}: {text}");
        assert!(
            text.contains("runs on another engine: managed, not unix://") || args[0] == "start",
            "{args:?}: {text}"
        );
    }
    assert_eq!(workdir.sh("node1", "hostname"), "node1\n", "it runs as before");
    workdir.ok(&["stop"]);
}
