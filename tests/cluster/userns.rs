//! Hosts whose root is nobody on the machine, and those whose root is the machine's.

use super::{ready, ready_on, submit, travel, wait_state};
use crate::support::{Daemon, Engine, Workdir, alone, assert_same_state, host_state, require_root, texts};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

/// Who shares folders, and somebody else; neither has an account.
const CALLER: u32 = 61_234;
const OTHER: u32 = 61_235;

/// The number that a host's root has on the machine.
fn root_of(workdir: &Workdir, host: &str) -> u32 {
    let map = workdir.sh(host, "cat /proc/self/uid_map");
    map.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A program of the system, which is where the rest is as well.
fn run(workdir: &Workdir, variables: &[(&str, &str)], args: &[&str]) -> (i32, String) {
    let out = workdir.command(args).envs(variables.iter().copied()).output().unwrap();
    let (stdout, stderr) = texts(&out);
    (out.status.code().unwrap(), stdout + &stderr)
}

#[test]
fn hosts_have_ids_of_their_own() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let before = host_state();
    workdir.ok(&["start", "-n", "2"]);
    let root = root_of(&workdir, "node1");
    assert!((524_288..=1_879_048_191).contains(&root) && root.is_multiple_of(65_536), "{root}");
    for host in ["frontend", "server", "rsyslog", "node2"] {
        assert_eq!(root_of(&workdir, host), root, "they share /home");
    }
    // On the machine nothing of a host runs as root, and nothing of its own is root's.
    let pid = workdir.host_sh(&format!("pgrep -u {root} -x systemd | head -n 1"));
    assert!(!pid.trim().is_empty(), "systemd runs as {root}");
    let cluster = workdir.engine.data_dir().join("clusters").join(workdir.env_id());
    let owner = |path: &str| fs::symlink_metadata(cluster.join(path)).unwrap().uid();
    assert_eq!([owner("home"), owner("home/docker"), owner("log")], [root, root + 1000, root]);
    assert_eq!([owner("nodes"), owner("hosts"), owner("notify/node1")], [0, 0, 0], "hosts change none of these");
    // Nobody has a key for it: the kernel gives 200 to an account.
    let keys = fs::read_to_string("/proc/keys").unwrap();
    assert!(!keys.lines().any(|l| l.split_whitespace().nth(5) == Some(&root.to_string())), "{keys}");
    // Files of layers, and what is made on top of them, have the owners that they had in the image.
    let owners = "stat -c '%u:%g %a' /etc/shadow /usr/bin/sudo /var/lib/oar; stat -c %U /etc/hosts /etc/resolv.conf";
    assert_eq!(workdir.root_sh("node1", owners).lines().last(), Some("root"));
    assert!(workdir.root_sh("node1", owners).starts_with("0:42 640\n0:0 4755\n"));
    assert!(
        workdir
            .fails(1, &["exec", "-l", "70000", "node1", "true"])
            .contains("hosts with ids of their own have them up to 65535")
    );
    // Streams can be opened by their names.
    assert_eq!(workdir.sh("node1", "echo out > /dev/stdout; echo err > /dev/stderr"), "out\n");

    // Jobs: all that moves processes between cgroups.
    let id = submit(
        &workdir,
        "oarsub -l nodes=2,walltime=0:5 'cat /proc/self/cpuset; for n in $(uniq $OAR_NODEFILE); do oarsh $n hostname; done; \
         OAR_USER_CPUSET=0 oarsh node2 cat /proc/self/cpuset'",
    );
    wait_state(&workdir, &id, "Terminated");
    let said = workdir.sh("frontend", &format!("cat OAR.{id}.stdout OAR.{id}.stderr"));
    assert_eq!(said, format!("/oar/docker_{id}\nnode1\nnode2\n/oar/docker_{id}/0\n"));
    assert!(
        workdir
            .root_sh("node1", "journalctl -b -o cat -u oardocker-job-manager")
            .contains("oar moves its processes itself")
    );

    // A host that is restarted is the same one, in whole.
    workdir.root_sh("node1", "echo kept > /root/kept; useradd -m late");
    workdir.ok(&["reset"]);
    assert_eq!(root_of(&workdir, "node1"), root);
    assert_eq!(
        workdir.root_sh("node1", "cat /root/kept; stat -c %U /root/kept; systemctl is-system-running"),
        "kept\nroot\nrunning\n"
    );
    let id = submit(&workdir, "oarsub -l nodes=2,walltime=0:5 'oarsh node2 hostname'");
    wait_state(&workdir, &id, "Terminated");
    // And a cluster that follows has the same ids.
    workdir.ok(&["start", "-n", "1"]);
    assert_eq!(root_of(&workdir, "node1"), root);
    workdir.ok(&["stop"]);
    assert_same_state(&before, &host_state());
}

/// Two clusters never have the same ids, whatever their names hash to.
#[test]
fn clusters_have_different_ids() {
    require_root();
    let _alone = alone();
    let (first, second) = (ready("trixie"), ready("bookworm"));
    first.ok(&["start", "-n", "1"]);
    second.ok(&["start", "-n", "1", "--port-bindings-offset", "52000"]);
    let roots: BTreeSet<u32> = [&first, &second].map(|cluster| root_of(cluster, "node1")).into();
    assert_eq!(roots.len(), 2);
    // What somebody else has is left alone: here a process in a namespace with the first one's ids.
    let root = root_of(&first, "node1");
    first.ok(&["stop"]);
    let taken = format!("0 {root} 65536");
    let mut holder = std::process::Command::new("unshare").args(["--user", "sleep", "100"]).spawn().unwrap();
    let map = format!("/proc/{}/uid_map", holder.id());
    crate::support::eventually("it has its ids", 5, || fs::write(&map, &taken).ok());
    first.ok(&["start", "-n", "1"]);
    let other = root_of(&first, "node1");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_ne!(other, root);
    first.ok(&["stop"]);
    second.ok(&["stop"]);
}

/// A folder with files of the caller, of root and of somebody else.
fn folder(dir: &Path, name: &str) -> String {
    let folder = dir.join(name);
    fs::create_dir(&folder).unwrap();
    for (file, owner) in [("mine", CALLER), ("root", 0), ("other", OTHER)] {
        fs::write(folder.join(file), format!("{file}\n")).unwrap();
        fs::set_permissions(folder.join(file), fs::Permissions::from_mode(0o600)).unwrap();
        chown(folder.join(file), Some(owner), Some(owner)).unwrap();
    }
    // As after `chown CALLER`, without a group.
    fs::write(folder.join("zgroup"), "zgroup\n").unwrap();
    fs::set_permissions(folder.join("zgroup"), fs::Permissions::from_mode(0o640)).unwrap();
    chown(&folder, Some(CALLER), Some(0)).unwrap();
    folder.display().to_string()
}

#[test]
fn who_shares_a_folder_is_user_docker() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let before = host_state();
    let dir = tempfile::tempdir_in(&workdir.root).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let [rw, ro, cow] = ["rw", "ro", "cow"].map(|name| folder(dir.path(), name));
    let of_root = dir.path().join("of_root").display().to_string();
    fs::create_dir(&of_root).unwrap();
    let tmpfs = dir.path().join("rw/below");
    fs::create_dir(&tmpfs).unwrap();
    let volumes = [
        format!("{rw}:/v/rw"),
        format!("{ro}:/v/ro:ro"),
        format!("{cow}:/v/cow:cow"),
        format!("{of_root}:/v/root"),
        "/proc:/v/plain".into(),
    ];
    let mut args = vec!["start", "-n", "2"];
    volumes.iter().for_each(|v| args.extend(["-v", v]));
    let (code, text) = run(&workdir, &[], &args);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(&format!("{of_root} is root's: what nodes write there is root's as well")), "{text}");
    assert!(text.contains("in /proc all files are nobody's for the nodes, as it cannot show other owners"), "{text}");
    assert_eq!(text.matches("note: ").count(), 2, "{text}");
    for place in ["rw", "ro", "cow"] {
        let owners =
            workdir.sh("node1", &format!("cd /v/{place}; stat -c %U . mine root other; cat mine; cat root 2>&1; true"));
        assert_eq!(owners, "docker\ndocker\nnobody\nnobody\nmine\ncat: root: Permission denied\n", "{place}");
        assert_eq!(
            workdir.sh("node1", &format!("cat /v/{place}/zgroup 2>/dev/null; true")),
            "",
            "nor is docker in group root"
        );
    }
    let written = "cd /v/rw; echo d > docker; mkdir sub; \
                   sudo sh -c 'echo r > sub/by-root; cp /usr/bin/id sub/set-uid; chmod 4755 sub/set-uid; cat root other'; echo $?";
    assert_eq!(workdir.sh("node1", written).lines().last(), Some("1"), "not even its root reads them");
    let root = root_of(&workdir, "node1");
    let owner = |path: String| fs::metadata(path).unwrap().uid();
    assert_eq!(owner(format!("{rw}/docker")), CALLER);
    assert_eq!(
        [owner(format!("{rw}/sub/by-root")), owner(format!("{rw}/sub/set-uid"))],
        [root, root],
        "nobody on the machine"
    );
    // Copies are each host's own, with the same owners.
    workdir.sh("node1", "cd /v/cow; echo changed >> mine; mv mine renamed; mkdir new; sudo touch new/by-root");
    assert_eq!(workdir.sh("node2", "cat /v/cow/mine; ls /v/cow"), "mine\nmine\nother\nroot\nzgroup\n");
    assert_eq!(
        workdir.sh("node1", "stat -c %U /v/cow/renamed /v/cow/new/by-root; cat /v/cow/renamed"),
        "docker\nroot\nmine\nchanged\n"
    );
    // Who called sudo is the one, and the folder may be anybody's.
    fs::write(dir.path().join("of_root/f"), "x").unwrap();
    let (code, text) = run(&workdir, &[("SUDO_UID", &OTHER.to_string())], &["start", "-n", "1", "-v", &volumes[0]]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        workdir.sh("node1", "cd /v/rw; stat -c %U mine root other; cat other"),
        "nobody\nnobody\ndocker\nother\n"
    );
    assert_eq!(
        workdir.root_sh("node1", "stat -c %U /v/rw/sub/by-root"),
        "root\n",
        "what it has left there before is its own"
    );
    // Without user namespaces numbers are numbers.
    workdir.ok(&["start", "-n", "1", "--userns=off", "-v", &volumes[0]]);
    assert_eq!(
        workdir.sh("node1", "stat -c %u /v/rw/mine; cat /proc/self/uid_map | tr -s ' '"),
        format!("{CALLER}\n 0 0 4294967295\n")
    );
    assert!(
        workdir
            .sh("node1", "cat ~/.bash_history; touch ~/.bash_history; stat -c %U ~/.bash_history")
            .contains("docker")
    );
    workdir.ok(&["stop"]);
    assert_same_state(&before, &host_state());
}

/// The option, the variables, the manifest: in this order.
#[test]
fn user_namespaces_are_chosen() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let manifest = workdir.root.join(".oardocker/manifest.json");
    let original = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, original.replacen('{', "{\n  \"userns\": \"off\",", 1)).unwrap();
    // What a plan has is what would be made.
    let planned = |variables: &[(&str, &str)], args: &[&str]| {
        let (code, text) = run(&workdir, variables, &[&["start", "-n", "1"], args, &["--plan", "--json"]].concat());
        assert_eq!(code, 0, "{text}");
        text.lines().any(|l| l.trim().starts_with("\"ids\": ") && !l.contains("null"))
    };
    assert!(!planned(&[], &[]), "the manifest");
    assert!(planned(&[("OARDOCKER_USERNS", "auto")], &[]), "the variable before the manifest");
    assert!(
        !planned(&[("OARDOCKER_USERNS", "auto"), ("OARDOCKER_START_USERNS", "off")], &[]),
        "that of the option before the other"
    );
    assert!(planned(&[("OARDOCKER_START_USERNS", "off")], &["--userns", "require"]), "the option before all");
    fs::write(&manifest, original.replacen('{', "{\n  \"userns\": \"maybe\",", 1)).unwrap();
    assert!(workdir.fails(1, &["start"]).contains("unknown variant `maybe`"));
    fs::write(&manifest, &original).unwrap();
    assert!(planned(&[], &[]), "the default");
    assert!(workdir.ok(&["start", "--plan"]).contains("Users    their own, "));
    assert!(
        workdir
            .ok(&["start", "--plan", "--userns=off"])
            .contains("Users    those of this host: their root is its root")
    );
    for (variables, args) in
        [(&[][..], &["start", "--userns=maybe"][..]), (&[("OARDOCKER_USERNS", "maybe")], &["start"])]
    {
        let (code, text) = run(&workdir, variables, args);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains("\"maybe\" is not one of auto, off and require"), "{text}");
    }
}

/// Where an engine has none that is told, and a cluster that runs is not lost over it.
#[test]
fn an_engine_without_user_namespaces_says_so() {
    require_root();
    let _alone = Engine::Docker.alone();
    let workdir = ready_on(Engine::Docker, "trixie");
    let (code, text) = run(&workdir, &[], &["start", "-n", "1"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        text.matches("note: the root of the nodes is the host's, as they have no user namespaces: Docker Engine runs without userns-remap").count(),
        1,
        "{text}"
    );
    let text = workdir.fails(1, &["start", "-n", "1", "--userns=require"]);
    assert!(
        text.contains("nodes cannot have user namespaces: Docker Engine runs without userns-remap")
            && text.contains("--userns=off"),
        "{text}"
    );
    assert_eq!(workdir.sh("node1", "hostname"), "node1\n", "the one that ran goes on");
    let (code, text) = run(&workdir, &[("OARDOCKER_USERNS", "off")], &["start", "-n", "1"]);
    assert!(code == 0 && !text.contains("user namespaces"), "{text}");
    workdir.ok(&["stop"]);
}

/// What a Docker Engine gives to all of its containers is a cluster's as well.
#[test]
fn a_docker_that_remaps() {
    const FIRST: u32 = 1_878_917_120;
    require_root();
    let _alone = alone();
    let built = Engine::Docker;
    {
        let _docker = Daemon::start(built);
        ready_on(built, "trixie").ok(&["stop"]);
    }
    let (docker, ids) = Daemon::docker_remapped(FIRST);
    let host = format!("unix://{}", docker.socket().display());
    let workdir = Workdir::on(built, "trixie");
    let variables = [("OARDOCKER_DOCKER_HOST", host.as_str())];
    let ok = |args: &[&str]| {
        let (code, text) = run(&workdir, &variables, args);
        assert_eq!(code, 0, "{args:?}: {text}");
        text
    };
    ok(&["start", "-n", "1", "--userns=require"]);
    assert!(ok(&["exec", "--no-tty", "node1", "cat /proc/self/uid_map"]).contains(&format!(" {FIRST} ")));
    ok(&["reset", "node1"]);
    let job = "oarsub -l nodes=1,walltime=0:5 'cat /proc/self/cpuset; oarsh node1 hostname' >/dev/null
               for _ in $(seq 100); do grep -qs node1 OAR.1.stdout && break; sleep 0.2; done; cat OAR.1.stdout";
    assert_eq!(ok(&["exec", "--no-tty", "frontend", job]), "/oar/docker_1\nnode1\n");
    // Its images belong to those ids: others are not to be had, and that is told before the cluster that runs is stopped.
    let (code, text) = run(&workdir, &variables, &["start", "-n", "1", "--userns=off"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("runs with userns-remap") && text.contains("leave --userns=off away"), "{text}");
    assert_eq!(ok(&["exec", "--no-tty", "node1", "hostname"]), "node1\n");
    ok(&["stop"]);
    drop((docker, ids));
}

/// All of a cluster's day as it was before there were user namespaces.
#[test]
fn trixie_without_user_namespaces() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    let manifest = workdir.root.join(".oardocker/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replacen('{', "{\n  \"userns\": \"off\",", 1)).unwrap();
    assert!(workdir.ok(&["start", "--plan"]).contains("their root is its root"), "that is what it is about");
    travel(&workdir);
}
