//! A machine with users who are not root: a node of a cluster of ours, whose cgroups are v2 and whose systemd gives its users sessions.
//! alice has a Podman, bob has what a containerd of his own needs. What runs there goes through `oardocker exec`.

use super::{BINARY, Engine, Workdir};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    pub name: &'static str,
    pub id: u32,
    engine: Engine,
}

pub const ALICE: User = User { name: "alice", id: 1500, engine: Engine::Rootless };
pub const BOB: User = User { name: "bob", id: 1501, engine: Engine::Own };

/// Makes the node's image such a machine.
const SETUP: &str = r"#!/bin/bash
set -e
# On some machines one of forty connections to the mirror is never answered, from the host as well.
printf 'Acquire::Retries 6;\nAcquire::http::Timeout 10;\n' > /etc/apt/apt.conf.d/patient
apt-get update
apt-get install -y --no-install-recommends podman netavark iptables uidmap slirp4netns dbus-user-session libpam-systemd runc crun- \
    mmdebstrap debian-archive-keyring containerd passt nftables acl
apt-get clean
useradd --uid 1500 --shell /bin/bash alice
useradd --uid 1501 --shell /bin/bash bob
systemctl unmask systemd-logind.service
mkdir -p /var/lib/systemd/linger
touch /var/lib/systemd/linger/alice /var/lib/systemd/linger/bob
";

/// What a machine has and a container lacks.
const BOOT: &str = r#"
awk '$2 ~ "^/(proc|sys)/" && $2 !~ "^/sys/fs/cgroup" {print $2}' /proc/self/mounts | xargs -r umount -l
mount --make-rshared /
"#;

/// A user's things.
const SETTLE: &str = r#"
mkdir -p HOME/.config/containers
printf '[storage]\ndriver = "overlay"\n' > HOME/.config/containers/storage.conf
usermod --home HOME NAME
chown NAME:NAME HOME HOME/workdirs HOME/workdirs/* HOME/.config HOME/.config/*
systemctl restart user@ID.service
"#;

/// Runs a program as a user, as after a login.
const AS_USER: &str = r#"#!/bin/sh
exec setpriv --reuid ID --regid ID --init-groups env -i HOME="${0%/as-user}" USER=NAME XDG_RUNTIME_DIR=/run/user/ID \
    DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/ID/bus PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin TERM="$TERM" "$@"
"#;

/// What alice's Podman and oardocker have, a line each.
const STATE_OF_PODMAN: &str = r"
cd /
HOME/as-user podman ps --all --format 'container: {{.Names}}'
HOME/as-user podman network ls --format 'network: {{.Name}}'
grep oardocker /proc/$(cat /run/user/1500/libpod/tmp/pause.pid)/mounts | grep -v ' /etc/' | sed 's/^/mount: /'
# Podman keeps what watched a session for five minutes, and does not look after its children at once.
ps -u alice -o args= | grep -vE '^(/usr/bin/podman$|/usr/bin/podman .*system service|/lib/systemd/systemd|\(sd-pam\)|/usr/bin/dbus-daemon)' |
    grep -vE -- ' --exec-attach |^ps -u alice|<defunct>' | sed 's/^/process: /'
find /sys/fs/cgroup/user.slice -name 'libpod-*' ! -name 'libpod-conmon-*' | sed 's/^/cgroup: /'
";

/// What bob's containerd and oardocker have.
const STATE_OF_CONTAINERD: &str = r#"
cd /
holder=$(pgrep -u bob -f '^[^ ]*oardocker --holder' || true)
if [ -n "$holder" ]; then
    inside() { HOME/as-user nsenter -t $holder -U -m --preserve-credentials "$@"; }
    ours() { inside ctr -a /run/user/1501/oardocker/containerd/containerd.sock -n oardocker "$@" | sed "s/^/$1: /"; }
    ours containers ls -q; ours tasks ls -q; ours leases ls -q; ours snapshots ls | grep Active || true
    inside grep -E 'oardocker/(netns|clusters|steps|layers|runtime)' /proc/self/mounts | sed 's/^/mount: /' || true
fi
ps -u bob -o args= | grep -vE '^(/lib/systemd/systemd|\(sd-pam\)|/usr/bin/dbus-daemon|ps -u bob|.*/oardocker --holder$|containerd --config)|<defunct>' | sed 's/^/process: /' || true
find /sys/fs/cgroup/user.slice/user-1501.slice -path '*/oardocker/*' | sed 's/^/cgroup: /'
systemctl --machine=bob@.host --user list-units --plain --no-legend 'run-*' | sed 's/^/unit: /'
"#;

/// What an oardocker of either has.
const STATE: &str = r"
find /run/user/ID/oardocker -mindepth 2 ! -name lock ! -path '*/oardocker/containerd*' 2>/dev/null | sed 's/^/file: /'
cd HOME/.local/share/oardocker 2>/dev/null && find clusters scratch store/steps -mindepth 1 2>/dev/null | sed 's/^/file: /'
true
";

/// Whether it runs; none: an earlier run of the tests that was killed may have left it.
static UP: Mutex<Option<bool>> = Mutex::new(None);

fn workdir() -> Workdir {
    Workdir::named("machine")
}

impl User {
    fn home(self) -> PathBuf {
        self.engine.data_dir()
    }

    /// A script of ours, about this one.
    fn script(self, text: &str) -> String {
        let home = self.home().display().to_string();
        let text = text.replace("HOME/", &format!("{home}/")).replace("HOME ", &format!("{home} "));
        text.replace("NAME", self.name).replace("ID", &self.id.to_string())
    }

    /// The path of a program that is oardocker, run by this user on that machine, in the same directory.
    pub fn program(self) -> PathBuf {
        self.home().join("oardocker")
    }

    /// What this one's engine and oardocker have.
    pub fn state(self) -> String {
        let engine = if self == ALICE { STATE_OF_PODMAN } else { STATE_OF_CONTAINERD };
        sh(&self.script(&format!("{engine}{STATE}")))
    }

    /// Signals the oardockers that this user has called, and no others of theirs; whether there was one.
    pub fn signal(self, signal: i32) -> bool {
        let line = format!("pkill -{signal} -u {} -f '^[^ ]*oardocker [a-z]' && echo yes || true", self.name);
        sh(&line) == "yes\n"
    }
}

/// A line for the machine's shell, as its root.
#[track_caller]
pub fn sh(line: &str) -> String {
    workdir().root_sh("node1", line)
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
    let checkout = env!("CARGO_MANIFEST_DIR");
    let mut shared = vec![format!("{checkout}:{checkout}:ro")];
    for user in [ALICE, BOB] {
        prepare(&workdir, user);
        shared.push(format!("{0}:{0}:rw", user.home().display()));
    }
    // A node makes no devices.
    let tun = super::data_root().join("tun");
    let _ = fs::remove_file(&tun);
    let made = std::process::Command::new("mknod").args(["-m", "666"]).arg(&tun).args(["c", "10", "200"]).status();
    assert!(made.unwrap().success());
    shared.push(format!("{}:/dev/net/tun", tun.display()));
    // A range of ids for its users is needed below its root.
    let mut start = vec!["start", "-n", "1", "--userns=off"];
    start.extend(shared.iter().flat_map(|volume| ["-v", volume]));
    workdir.ok(&start);
    sh(BOOT);
    [ALICE, BOB].into_iter().for_each(|user| drop(sh(&user.script(SETTLE))));
    sh("systemctl --machine=alice@.host --user start podman.socket");
}

/// A home, and the programs that are run for its user.
fn prepare(workdir: &Workdir, user: User) {
    let home = user.home();
    fs::create_dir_all(home.join("workdirs")).unwrap();
    let write = |name: &str, text: &str| {
        let path = home.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("as-user", &user.script(AS_USER));
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
            home.join("as-user").display()
        ),
    );
}
