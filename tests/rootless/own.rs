//! The same for a user who has no Podman: on a containerd of the user's own, that oardocker runs.

use crate::cluster::{journey, kills::kill_at_random, ready_on, volumes};
use crate::session::sessions_on;
use crate::support::{Engine, Workdir, assert_same_state, eventually, machine, require_root, state_on, texts};
use std::fs;

#[test]
fn killed_at_random() {
    kill_at_random(Engine::Own);
}

#[test]
fn sessions() {
    sessions_on(Engine::Own);
}

#[test]
fn trixie() {
    journey(Engine::Own, "trixie");
}

#[test]
fn volumes_ro_rw_cow() {
    volumes(Engine::Own);
}

/// Processes of bob's that are oardocker's, containerd's or a cluster's, as bob's systemd and its bus are not.
fn left() -> String {
    machine::sh(
        "ps -u bob -o args= | grep -vE '^(/lib/systemd/systemd|\\(sd-pam\\)|/usr/bin/dbus-daemon)|<defunct>' || true",
    )
}

#[test]
fn any_part_that_dies_and_a_session_that_ends() {
    require_root();
    let _alone = Engine::Own.alone();
    let workdir = ready_on(Engine::Own, "trixie");
    workdir.ok(&["stop"]);
    let before = state_on(Engine::Own);

    workdir.ok(&["start", "-n", "1"]);
    machine::sh("pkill -KILL -u bob -x containerd");
    assert_eq!(workdir.sh("node1", "hostname"), "node1\n", "it runs again, and the hosts never stopped");
    machine::sh("pkill -KILL -u bob -f '^[^ ]*pasta '");
    workdir.ok(&["stop"]);
    assert_same_state(&before, &state_on(Engine::Own));

    // What keeps the namespaces: all that is in them goes with it, and the next command need not wait for that.
    workdir.ok(&["start", "-n", "1"]);
    machine::sh("pkill -KILL -u bob -f '^[^ ]*oardocker --holder'");
    workdir.ok(&["start", "-n", "1"]);
    assert_eq!(workdir.sh("node1", "hostname"), "node1\n");
    machine::sh("pkill -KILL -u bob -f '^[^ ]*oardocker --holder'");
    eventually("all of it has ended", 10, || left().is_empty().then_some(()));
    let out = workdir.run(&["exec", "node1", "true"]);
    assert!(texts(&out).1.contains("node1 does not run"), "{}", texts(&out).1);
    workdir.ok(&["stop"]);
    assert_same_state(&before, &state_on(Engine::Own));

    // A last logout, as a reboot to a user.
    workdir.ok(&["start", "-n", "1"]);
    machine::sh("systemctl stop user@1501.service");
    assert_eq!(machine::sh("pgrep -u bob -a || true"), "");
    machine::sh("systemctl start user@1501.service");
    workdir.ok(&["start", "-n", "1"]);
    assert_eq!(workdir.sh("node1", "hostname"), "node1\n");
    workdir.ok(&["stop"]);
    assert_same_state(&before, &state_on(Engine::Own));
}

#[test]
fn users_of_one_machine_do_not_meet() {
    require_root();
    let _alone = Engine::Own.alone();
    let (bob, alice) = (ready_on(Engine::Own, "trixie"), ready_on(Engine::Rootless, "trixie"));
    let stopped = [&bob, &alice].map(|workdir| {
        workdir.ok(&["stop"]);
        state_on(workdir.engine)
    });
    bob.ok(&["start", "-n", "1"]);
    // What bob publishes is bob's.
    let page = |user: &str, port: u16| {
        let line =
            format!("su {user} -c 'curl -s -o /dev/null -w %{{http_code}} http://127.0.0.1:{port}/monika' || true");
        machine::sh(&line)
    };
    assert_eq!((page("bob", 40080), page("alice", 40080)), ("200".into(), "000".into()));
    let text = alice.fails(1, &["start", "-n", "1"]);
    assert!(text.contains("port 40080 of 127.0.0.1") && text.contains("--port-bindings-offset"), "{text}");
    alice.ok(&["start", "-n", "1", "--port-bindings-offset", "50000"]);
    // What alice has is not bob's to look at, and the other way round.
    let denied = |user: &str, path: &str| machine::sh(&format!("su {user} -c 'ls {path}' 2>&1 || true"));
    assert!(denied("alice", "/run/user/1501/oardocker/").contains("Permission denied"));
    assert!(denied("bob", "/run/user/1500/oardocker/").contains("Permission denied"));
    alice.ok(&["stop"]);
    assert_eq!(bob.sh("node1", "hostname"), "node1\n");
    // Unless bob gives it to all.
    bob.ok(&["start", "-n", "1", "-g"]);
    assert_eq!((page("bob", 40080), page("alice", 40080)), ("200".into(), "200".into()));
    let address = machine::sh("hostname -I").split_whitespace().next().unwrap().to_owned();
    assert!(machine::sh(&format!("curl -s -o /dev/null -w %{{http_code}} http://{address}:40080/monika")) == "200");
    bob.ok(&["stop"]);
    for (workdir, before) in [&bob, &alice].iter().zip(&stopped) {
        assert_same_state(before, &state_on(workdir.engine));
    }
}

/// What is shared read-only stays so whatever a hostile root does, whose account on the machine is the user's.
#[test]
fn what_is_read_only_stays_read_only() {
    require_root();
    let _alone = Engine::Own.alone();
    let workdir = ready_on(Engine::Own, "trixie");
    let dir = tempfile::tempdir_in(&workdir.root).unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "bob's\n").unwrap();
    workdir.give(dir.path());
    workdir.give(&file);
    let volume = |at: &str, mode: &str| format!("{}:{at}:{mode}", dir.path().display());
    let out = workdir.run(&["start", "-n", "1", "-v", &volume("/ro", "ro"), "-v", &volume("/rw", "rw")]);
    let notes = texts(&out).1;
    assert!(out.status.success() && notes.contains("is yours, and so root's in the nodes"), "{notes}");
    let attack = "mount -o remount,rw /ro; mount -o remount,bind,rw /ro; umount -l /ro; echo evil > /ro/file; \
                  for f in $(awk '$4 ~ /^ro/ && $2 !~ \"^/(proc|sys)\" {print $2}' /proc/self/mounts); do \
                      echo tried $f; mount -o remount,bind,rw $f; if [ -d $f ]; then touch $f/x; else echo >> $f; fi && echo won $f; done";
    let said = workdir.root_sh("node1", &format!("({attack}) 2>/dev/null; true"));
    assert!(said.contains("tried /var/lib/container/nodes") && !said.contains("won"), "{said}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "bob's\n");
    // The account of the note is user docker's outside: with that rule docker writes.
    let docker = notes.split("u:").nth(1).unwrap().split(':').next().unwrap();
    assert!(workdir.run(&["exec", "node1", "touch /rw/docker"]).status.code() == Some(1));
    let acl = format!("setfacl -R -m u:{docker}:rwX,d:u:{docker}:rwX {}", dir.path().display());
    machine::sh(&acl);
    workdir.sh("node1", "touch /rw/docker; echo more >> /rw/file");
    assert_eq!(fs::read_to_string(&file).unwrap(), "bob's\nmore\n");
    workdir.ok(&["stop"]);
}

/// A session of a user who has nothing of it, and a host that lacks what is needed.
#[test]
fn what_is_missing_is_said_in_one_message() {
    require_root();
    let _alone = Engine::Own.alone();
    let workdir = Workdir::on(Engine::Own, "trixie");
    machine::sh("mv /etc/subuid /etc/subuid.kept; systemctl --machine=bob@.host --user stop 'oardocker-*'");
    let out = workdir.run(&["--docker-host", "managed", "status"]);
    machine::sh("mv /etc/subuid.kept /etc/subuid");
    assert_eq!(out.status.code(), Some(1));
    let text = texts(&out).1;
    for part in ["/etc/subuid gives bob 0 ids", "usermod --add-subuids", "sudo"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    workdir.ok(&["status"]);
}
