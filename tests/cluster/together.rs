//! More than one at a time: two clusters on one host, two commands on one cluster.

use super::{ready, sql, submit, wait_state};
use crate::support::{Workdir, alone, assert_same_state, eventually, host_state, require_root, runtime_dir, texts};
use std::fs;
use std::process::{Child, Stdio};

#[test]
fn two_clusters_on_one_host() {
    require_root();
    let _alone = alone();
    let (first, second) = (ready("trixie"), ready("bookworm"));
    first.ok(&["stop"]);
    second.ok(&["stop"]);
    let before = host_state();

    first.ok(&["start", "-n", "2"]);
    // The ports are the first one's, and that is said.
    let text = second.fails(1, &["start", "-n", "2"]);
    assert!(text.contains("--port-bindings-offset"), "{text}");
    second.ok(&["start", "-n", "2", "--port-bindings-offset", "52000"]);
    let jobs =
        [&first, &second].map(|cluster| submit(cluster, "oarsub -l nodes=2,walltime=0:5 'sort -u $OAR_NODEFILE'"));
    for (cluster, id) in [&first, &second].into_iter().zip(&jobs) {
        wait_state(cluster, id, "Terminated");
        assert_eq!(cluster.sh("frontend", &format!("cat OAR.{id}.stdout")), "node1\nnode2\n");
    }
    // The one is no part of the other's network.
    let address = second.sh("node1", "getent hosts node1 | cut -d' ' -f1");
    let ssh = format!("timeout 3 bash -c 'exec 3<>/dev/tcp/{}/22' 2>/dev/null && echo reached; true", address.trim());
    assert_eq!(second.sh("node2", &ssh), "reached\n");
    assert_eq!(first.sh("node2", &ssh), "");

    first.ok(&["stop"]);
    assert_eq!(second.sh("node2", "hostname"), "node2\n");
    second.ok(&["reset", "node2"]);
    second.ok(&["stop"]);
    assert_same_state(&before, &host_state());
}

/// Who does not wait gets a cluster that becomes ready by itself.
#[test]
fn a_cluster_that_nobody_waits_for() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["start", "-n", "2", "--no-wait"]);
    // One that boots long after the server has looked for it first.
    let task = |verb: &str| {
        let socket = runtime_dir().join("containerd/containerd.sock");
        let node = format!("oardocker-{}-node2", workdir.env_id());
        let line = format!("ctr -a {} -n oardocker tasks {verb} {node}", socket.display());
        workdir.host_sh(&line);
    };
    task("pause");
    let states = || sql(&workdir, "SELECT DISTINCT network_address, state FROM resources ORDER BY 1");
    eventually("the other one is Alive", 30, || {
        let up = workdir.root_sh("server", "systemctl is-active oar-server; true") == "active\n";
        (up && states() == "node1|Alive\nnode2|Suspected\n").then_some(())
    });
    task("resume");
    eventually("it is found soon after it has booted", 30, || (states() == "node1|Alive\nnode2|Alive\n").then_some(()));
    let id = submit(&workdir, "oarsub -l nodes=2,walltime=0:5 'sort -u $OAR_NODEFILE'");
    wait_state(&workdir, &id, "Terminated");
    assert_eq!(workdir.sh("frontend", &format!("cat OAR.{id}.stdout")), "node1\nnode2\n");
    workdir.ok(&["stop"]);
}

/// A command that waits says so, and goes on when the other one has ended.
#[test]
fn a_command_waits_for_the_one_before() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let spawn = |args: &[&str]| -> Child {
        workdir.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let start = spawn(&["start", "-n", "1"]);
    let cluster = workdir.engine.data_dir().join("clusters").join(workdir.env_id());
    eventually("the cluster is being made", 20, || cluster.join("env.json").exists().then_some(()));
    let stop = spawn(&["stop"]);
    let (start, stop) = (start.wait_with_output().unwrap(), stop.wait_with_output().unwrap());
    assert!(start.status.success(), "the one that came first is not disturbed: {}", texts(&start).1);
    let (out, err) = texts(&stop);
    assert!(stop.status.success(), "{err}");
    assert!((out.clone() + &err).contains("Waiting for another oardocker that works in this folder ..."), "{out}{err}");
    assert!(
        workdir.ok(&["status"]).lines().all(|line| !line.starts_with("node1 ")),
        "the second did its work after it"
    );
}

/// The variable that other clients of containerd have as well.
#[test]
fn containerd_address_chooses_the_engine() {
    require_root();
    let _alone = alone();
    let workdir = Workdir::named("trixie");
    workdir.ok(&["init", "-f"]);
    // It runs from here on.
    workdir.ok(&["status"]);
    let socket = runtime_dir().join("containerd/containerd.sock");
    let with = |address: &str, more: &[&str]| {
        let mut command = workdir.command(&[more, &["status"]].concat());
        command.env("OARDOCKER_DOCKER_HOST", "auto").env("CONTAINERD_ADDRESS", address);
        let out = command.output().unwrap();
        (out.status.code(), texts(&out).0 + &texts(&out).1)
    };
    let (code, text) = with(socket.to_str().unwrap(), &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&format!("{} (CONTAINERD_ADDRESS)", socket.display())), "{text}");
    // One that is not there is an error, and no other engine is taken instead.
    let (code, text) = with("/nowhere/containerd.sock", &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("/nowhere/containerd.sock"), "{text}");
    // What is said on the command line has the last word.
    let (code, text) = with("/nowhere/containerd.sock", &["--docker-host", "managed"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(fs::exists(&socket).unwrap());
}
