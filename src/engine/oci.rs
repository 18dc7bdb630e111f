//! A container in the words of the OCI runtime spec, and the media types of the image spec.

use super::{Mount, NODE_CAPABILITIES, NodeSpec, ProcessSpec, StepNetwork, StepSpec, seccomp};
use crate::cgroup::View;
use crate::error::Result;
use crate::host::{Ids, Line, Map};
use crate::net::Namespaces;
use serde_json::{Value, json};
use std::path::Path;

/// Media types of what we write.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// What Docker gives a container by default, but for making devices: a node could leave one in a folder of the host.
pub(super) const CAPABILITIES: [&str; 13] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

const MASKED: [&str; 8] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Character devices that every container may use, besides those that the runtime adds by itself: tun and fuse.
pub(super) const DEVICES: [(i64, i64); 2] = [(10, 200), (10, 229)];

/// A session in a node.
pub(super) fn session(p: &ProcessSpec) -> Value {
    process(p, &NODE_CAPABILITIES)
}

fn process(p: &ProcessSpec, capabilities: &[&str]) -> Value {
    let all: Vec<&str> = CAPABILITIES.iter().chain(capabilities).copied().collect();
    let mut process = json!({
        "terminal": p.terminal.is_some(),
        "user": {"uid": p.uid, "gid": p.gid, "additionalGids": p.groups},
        "args": p.args,
        "env": p.env,
        "cwd": if p.cwd.is_empty() { "/" } else { &p.cwd },
        "capabilities": {
            "bounding": all,
            // Only root's processes hold them; others can still gain them through setuid programs such as sudo.
            "effective": if p.uid == 0 { all.clone() } else { vec![] },
            "permitted": if p.uid == 0 { all.clone() } else { vec![] },
        },
        "noNewPrivileges": false,
    });
    if let Some((columns, rows)) = p.terminal {
        process["consoleSize"] = json!({"width": columns, "height": rows});
    }
    process
}

/// The bundle of a node. `root` is the root filesystem, absolute or relative to the bundle.
pub(super) fn node(spec: &NodeSpec, root: &Path, namespaces: &Namespaces) -> Result<Value> {
    let mut mounts = own_mounts();
    mounts.extend(cgroup_mounts(&spec.cgroup_view));
    mounts.extend(spec.mounts.iter().map(mount));
    let process = process(&spec.process, &NODE_CAPABILITIES);
    if spec.ids.is_some() {
        mounts.iter_mut().for_each(keep_locked);
    }
    let mut bundle =
        bundle(&process, &spec.hostname, &mounts, root, Some(json!({"type": "network", "path": namespaces.network})));
    bundle["linux"]["sysctl"] = json!(spec.sysctls);
    if let (Some(ids), Some(path)) = (spec.ids, &namespaces.user) {
        in_user_namespace(&mut bundle, ids, path)?;
    }
    Ok(in_cgroup(bundle, spec.cgroup.as_deref()))
}

/// Runtimes make a bind read-only by mounting it anew, with all its flags: in a user namespace, the caller's too, none may be left out.
fn keep_locked(mount: &mut Value) {
    let is =
        |mount: &Value, option: &str| mount["options"].as_array().is_some_and(|all| all.iter().any(|o| o == option));
    if !(is(mount, "ro") && mount["type"] == "bind") {
        return;
    }
    let source = mount["source"].as_str().unwrap_or_default().to_owned();
    if let Some(options) = mount["options"].as_array_mut() {
        options.extend(crate::host::locked_options(Path::new(&source)).into_iter().map(Value::from));
    }
}

fn in_user_namespace(bundle: &mut Value, ids: Ids, path: &Path) -> Result<()> {
    // runc 1.1.15 wants those of the namespace, line by line.
    let map = Map::of(ids)?;
    let mappings = |lines: &[Line]| -> Vec<Value> {
        let line = |(inside, outside, count): &Line| json!({"containerID": inside, "hostID": outside, "size": count});
        lines.iter().map(line).collect()
    };
    let linux = &mut bundle["linux"];
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.push(json!({"type": "user", "path": path}));
    }
    linux["uidMappings"] = mappings(map.users()).into();
    linux["gidMappings"] = mappings(map.groups()).into();
    linux["seccomp"] = seccomp::of(Some(ids));
    Ok(())
}

/// The bundle of a build step.
pub(super) fn step(spec: &StepSpec, root: &Path) -> Value {
    let capabilities: Vec<&str> = spec.capabilities.iter().map(String::as_str).collect();
    let mut mounts = own_mounts();
    mounts.extend(spec.mounts.iter().map(mount));
    mounts.iter_mut().for_each(keep_locked);
    let process = process(&spec.process, &capabilities);
    let network = match &spec.network {
        StepNetwork::At(path) => Some(json!({"type": "network", "path": path})),
        StepNetwork::Nothing => Some(json!({"type": "network"})),
        StepNetwork::Host => None,
    };
    let mut bundle = bundle(&process, "build", &mounts, root, network);
    bundle["linux"]["seccomp"] = seccomp::of_step();
    in_cgroup(bundle, spec.cgroup.as_deref())
}

fn in_cgroup(mut bundle: Value, path: Option<&str>) -> Value {
    if let Some(path) = path {
        bundle["linux"]["cgroupsPath"] = json!(path);
    }
    bundle
}

/// What every container has.
fn own_mounts() -> Vec<Value> {
    vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
    ]
}

fn cgroup_mounts(view: &View) -> Vec<Value> {
    let own = json!({"destination": "/sys/fs/cgroup", "type": view.kind, "source": view.kind,
        "options": ["nosuid", "noexec", "nodev", "relatime", "rw"]});
    let controllers = view.controllers.iter().map(
        |c| json!({"destination": c.target, "type": "bind", "source": c.host, "options": ["rbind", "rprivate", "rw"]}),
    );
    [own].into_iter().chain(controllers).collect()
}

fn mount(m: &Mount) -> Value {
    json!({"destination": m.target, "type": m.kind, "source": m.source, "options": m.options})
}

fn bundle(process: &Value, hostname: &str, mounts: &[Value], root: &Path, network: Option<Value>) -> Value {
    let mut namespaces: Vec<Value> =
        ["pid", "ipc", "uts", "mount", "cgroup"].iter().map(|kind| json!({"type": kind})).collect();
    namespaces.extend(network);
    let mut devices = vec![json!({"allow": false, "access": "rwm"})];
    devices.extend(
        DEVICES
            .iter()
            .map(|(major, minor)| json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"})),
    );
    json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": root, "readonly": false},
        "hostname": hostname,
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "resources": {"devices": devices},
            "seccomp": seccomp::profile(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{Capability, Spec};

    /// What it may have at most.
    fn bounding(bundle: &Value) -> std::collections::HashSet<Capability> {
        let parsed: Spec = serde_json::from_value(bundle.clone()).unwrap();
        let capabilities = parsed.process().as_ref().unwrap().capabilities().clone().unwrap();
        capabilities.bounding().clone().unwrap()
    }

    #[test]
    fn bundles_are_valid_for_the_oci_types() {
        let process = ProcessSpec { args: vec!["/sbin/init".into()], uid: 0, ..ProcessSpec::default() };
        let mounts = vec![Mount::bind("/a", "/b", true)];
        let step = StepSpec {
            process: process.clone(),
            mounts: mounts.clone(),
            network: StepNetwork::At("/n".into()),
            cgroup: None,
            capabilities: vec!["CAP_MKNOD".into()],
        };
        let bundle = super::step(&step, Path::new("/root"));
        assert!(bundle["linux"].get("cgroupsPath").is_none());
        assert!(bounding(&bundle).contains(&Capability::Mknod) && !bounding(&bundle).contains(&Capability::SysAdmin));
        let spec = NodeSpec {
            id: "x".into(),
            hostname: "node1".into(),
            image: super::super::NodeImage::default(),
            ids: Some(Ids { first: 1_000_000 }),
            process,
            mounts,
            seeds: Vec::new(),
            sysctls: std::collections::BTreeMap::new(),
            plug: super::super::Plug {
                network: "x".into(),
                subnet: crate::net::Subnet::first(),
                index: 1,
                ports: Vec::new(),
            },
            cgroup_view: View { kind: "cgroup2", controllers: Vec::new() },
            cgroup: Some("/oardocker/x/node1".into()),
            labels: std::collections::BTreeMap::default(),
            console: "/c".into(),
        };
        let namespaces = Namespaces { network: "/n".into(), user: Some("/u".into()) };
        let bundle = node(&spec, Path::new("rootfs"), &namespaces).unwrap();
        let own: Spec = serde_json::from_value(bundle.clone()).unwrap();
        let linux = own.linux().as_ref().unwrap();
        assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 1_000_000);
        assert!(linux.namespaces().as_ref().unwrap().iter().any(|n| n.path().as_deref() == Some(Path::new("/u"))));
        let spec = NodeSpec { ids: None, ..spec };
        let bundle = node(&spec, Path::new("rootfs"), &Namespaces { user: None, ..namespaces }).unwrap();
        let parsed: Spec = serde_json::from_value(bundle.clone()).unwrap();
        let linux = parsed.linux().as_ref().unwrap();
        assert!(linux.readonly_paths().as_ref().unwrap().iter().any(|p| p == "/proc/sys"));
        assert!(linux.seccomp().is_some());
        assert!(bounding(&bundle).contains(&Capability::SysAdmin));
        assert!(!bounding(&bundle).contains(&Capability::SysModule), "no wider than asked");
        assert!(!bounding(&bundle).contains(&Capability::Mknod));
    }
}
