//! Without root, on a machine where a user has a Podman: the journeys of the other engines, and what only such a user meets. They
//! are in one place so that they follow each other, on one machine.

mod own;

use crate::cluster::{journey, kills::kill_at_random, volumes};
use crate::session::sessions_on;
use crate::support::{BINARY, Engine, Workdir, eventually, fixture, require_root, state_on, texts};
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

#[test]
fn killed_at_random() {
    kill_at_random(Engine::Rootless);
}

#[test]
fn sessions() {
    sessions_on(Engine::Rootless);
}

#[test]
fn trixie() {
    journey(Engine::Rootless, "trixie");
}

#[test]
fn volumes_ro_rw_cow() {
    volumes(Engine::Rootless);
}

/// A role's own setup, as `init` makes it, before and after the value: the workdir is also that of other tests, and of a run of this one
/// that was killed in the middle.
struct Restored(PathBuf);

impl Restored {
    fn new(path: PathBuf) -> Self {
        let restored = Self(path);
        restored.write();
        restored
    }

    fn write(&self) {
        fs::write(&self.0, fixture("../envs/common/images/node/custom_setup.sh")).unwrap();
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        self.write();
    }
}

#[test]
fn errors_teach_and_a_killed_build_leaves_nothing() {
    require_root();
    let _alone = Engine::Rootless.alone();
    let workdir = Workdir::on(Engine::Rootless, "trixie");
    workdir.ok(&["init", "-f"]);
    let setup = workdir.root.join(".oardocker/images/node/custom_setup.sh");
    let restored = Restored::new(setup.clone());
    workdir.ok(&["build", "-q"]);
    let before = state_on(Engine::Rootless);

    fs::write(&setup, "sleep 1000\n").unwrap();
    let mut build = workdir.command(&["build", "-q"]);
    let mut build = build.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("a step runs", 60, || {
        state_on(Engine::Rootless).iter().any(|l| l.starts_with("process: slirp4netns")).then_some(())
    });
    workdir.kill(&mut build);
    assert_ne!(
        before,
        state_on(Engine::Rootless),
        "the killed build must have left something for this test to mean anything"
    );
    drop(restored);
    workdir.ok(&["build", "-q"]);
    assert_eq!(before, state_on(Engine::Rootless));

    let users_socket = "unix:///run/user/1500/podman/podman.sock";
    let here = workdir.root.display();
    let text =
        workdir.host_sh(&format!("cd {here}; {BINARY} --docker-host {users_socket} status 2>&1 || echo code $?"));
    assert!(text.contains("it is a user's own engine, and you are root") && text.contains("code 1"), "{text}");
    let text = workdir.fails(1, &["--docker-host", "containerd:///run/containerd/containerd.sock", "status"]);
    assert!(text.contains("need root") && text.contains("--docker-host managed"), "{text}");
    let text = workdir.fails(1, &["--docker-host", "unix:///run/user/1500/nothing.sock", "status"]);
    assert!(text.contains("nothing.sock: there is no such socket"), "{text}");
    workdir.host_sh("systemctl --machine=alice@.host --user stop podman.socket podman.service");
    // systemd ends the process that it knows; the one that serves, in the user's namespaces, goes a moment later.
    eventually("nobody listens any more", 10, || {
        workdir.host_sh("pgrep -u alice -f '[p]odman .*system service' || true").is_empty().then_some(())
    });
    let out = workdir.run(&["status"]);
    assert!(out.status.success() && texts(&out).1.contains("Using managed containerd"), "{}", texts(&out).1);
    workdir.host_sh("systemctl --machine=alice@.host --user stop 'oardocker-*'");
    workdir.host_sh("systemctl --machine=alice@.host --user start podman.socket");
}
