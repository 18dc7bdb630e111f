//! A machine with a user who is not root and has a Podman: a node of a cluster of ours, whose cgroups are v2 and whose systemd
//! gives its users sessions. What runs there goes through `oardocker exec`.

use super::{BINARY, Engine, Workdir};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The user's id.
pub const ALICE: u32 = 1500;

/// Makes the node's image such a machine.
const SETUP: &str = r"#!/bin/bash
set -e
apt-get update
apt-get install -y --no-install-recommends podman netavark iptables uidmap slirp4netns dbus-user-session libpam-systemd runc crun- \
    mmdebstrap debian-archive-keyring
apt-get clean
useradd --uid 1500 --shell /bin/bash alice
systemctl unmask systemd-logind.service
mkdir -p /var/lib/systemd/linger
touch /var/lib/systemd/linger/alice
systemctl --global enable podman.socket
";

/// What a machine has and a container lacks; then the user's things.
const BOOT: &str = r#"
awk '$2 ~ "^/(proc|sys)/" && $2 !~ "^/sys/fs/cgroup" {print $2}' /proc/self/mounts | xargs -r umount -l
mount --make-rshared /
mkdir -p HOME/.config/containers
printf '[storage]\ndriver = "overlay"\n' > HOME/.config/containers/storage.conf
usermod --home HOME alice
chown alice:alice HOME HOME/workdirs HOME/workdirs/* HOME/.config HOME/.config/*
systemctl restart user@1500.service
"#;

/// Runs a program as the user, as after a login.
const AS_ALICE: &str = r#"#!/bin/sh
exec setpriv --reuid 1500 --regid 1500 --init-groups env -i HOME="${0%/as-alice}" USER=alice XDG_RUNTIME_DIR=/run/user/1500 \
    DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1500/bus PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin TERM="$TERM" "$@"
"#;

/// What the user's Podman and oardocker have, a line each.
const STATE: &str = r"
cd /
HOME/as-alice podman ps --all --format 'container: {{.Names}}'
HOME/as-alice podman network ls --format 'network: {{.Name}}'
grep oardocker /proc/$(cat /run/user/1500/libpod/tmp/pause.pid)/mounts | grep -v ' /etc/' | sed 's/^/mount: /'
# Podman keeps what watched a session for five minutes, and does not look after its children at once.
ps -u alice -o args= | grep -vE '^(/usr/bin/podman$|/usr/bin/podman .*system service|/lib/systemd/systemd|\(sd-pam\)|/usr/bin/dbus-daemon)' |
    grep -vE -- ' --exec-attach |^ps -u alice|<defunct>' | sed 's/^/process: /'
find /sys/fs/cgroup/user.slice -name 'libpod-*' ! -name 'libpod-conmon-*' | sed 's/^/cgroup: /'
find /run/user/1500/oardocker -mindepth 2 ! -name lock 2>/dev/null | sed 's/^/file: /'
cd HOME/.local/share/oardocker 2>/dev/null && find clusters scratch store/steps -mindepth 1 2>/dev/null | sed 's/^/file: /'
true
";

/// Whether it runs; none: an earlier run of the tests that was killed may have left it.
static UP: Mutex<Option<bool>> = Mutex::new(None);

fn workdir() -> Workdir {
    Workdir::named("machine")
}

fn home() -> PathBuf {
    Engine::Rootless.data_dir()
}

fn script(text: &str) -> String {
    text.replace("HOME/", &format!("{}/", home().display())).replace("HOME ", &format!("{} ", home().display()))
}

/// The path of a program that is oardocker, run by that user on that machine, in the same directory.
pub fn program() -> PathBuf {
    home().join("oardocker")
}

/// A line for the machine's shell, as its root.
#[track_caller]
pub fn sh(line: &str) -> String {
    workdir().root_sh("node1", line)
}

/// See [`STATE`].
pub fn state() -> String {
    sh(&script(STATE))
}

/// Boots it, unless it runs. It ends with [`end`], or with the process if that is not killed.
pub fn keep() {
    extern "C" fn at_exit() {
        end();
    }
    let mut up = UP.lock().unwrap_or_else(PoisonError::into_inner);
    if *up != Some(true) {
        // SAFETY: the handler touches nothing that ends before it, and never unwinds.
        let registered = unsafe { nix::libc::atexit(at_exit) };
        assert_eq!(registered, 0);
        // Until it is whole it may be there, and is not to be used.
        *up = None;
        boot();
        *up = Some(true);
    }
}

/// Ends it, if it runs.
pub fn end() {
    let mut up = UP.lock().unwrap_or_else(PoisonError::into_inner);
    if up.replace(false) != Some(false) && workdir().root.join(".oardocker/env_id").exists() {
        let _ = std::panic::catch_unwind(|| workdir().run(&["stop"]));
    }
}

fn boot() {
    let workdir = workdir();
    workdir.ok(&["init", "-f", "-e", "bookworm"]);
    let setup = workdir.root.join(".oardocker/images/node/custom_setup.sh");
    fs::write(&setup, SETUP).unwrap();
    workdir.ok(&["build", "-q"]);
    workdir.install_once();
    let home = home();
    fs::create_dir_all(home.join("workdirs")).unwrap();
    let write = |name: &str, text: &str| {
        let path = home.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("as-alice", AS_ALICE);
    let env: String = workdir
        .command(&[])
        .get_envs()
        .filter_map(|(key, value)| Some(format!("{}='{}' ", key.to_str()?, value?.to_str()?)))
        .collect();
    write(
        "oardocker",
        &format!(
            "#!/bin/sh\nhere=$PWD\nexec env -C '{}' {env} '{BINARY}' exec -l root -w \"$here\" node1 -- '{}' '{BINARY}' \"$@\"\n",
            workdir.root.display(),
            home.join("as-alice").display()
        ),
    );
    let checkout = env!("CARGO_MANIFEST_DIR");
    let (all, own) = (format!("{checkout}:{checkout}:ro"), format!("{0}:{0}:rw", home.display()));
    // A node makes no devices.
    let tun = super::data_root().join("tun");
    let _ = fs::remove_file(&tun);
    let made = std::process::Command::new("mknod").args(["-m", "666"]).arg(&tun).args(["c", "10", "200"]).status();
    assert!(made.unwrap().success());
    let tun = format!("{}:/dev/net/tun", tun.display());
    // A range of ids for its user is needed below its root.
    workdir.ok(&["start", "-n", "1", "--userns=off", "-v", &all, "-v", &own, "-v", &tun]);
    sh(&script(BOOT));
}
