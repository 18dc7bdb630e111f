//! A container in the words of the OCI runtime spec, and the media types of the image spec.

use super::{ContainerSpec, ProcessSpec};
use serde_json::{Value, json};
use std::path::Path;

/// Media types of what we write.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

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

pub(super) fn process(p: &ProcessSpec, capabilities: &[String]) -> Value {
    let all: Vec<&str> = CAPABILITIES.into_iter().chain(capabilities.iter().map(String::as_str)).collect();
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

/// The whole bundle. `root` is the root filesystem, absolute or relative to the bundle; `netns` a network namespace's path.
pub(super) fn container(spec: &ContainerSpec, root: &Path, netns: &Path) -> Value {
    let mut mounts = vec![
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
    ];
    if let Some(view) = &spec.cgroup_view {
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": view.kind, "source": view.kind,
            "options": ["nosuid", "noexec", "nodev", "relatime", "rw"]}));
        mounts.extend(view.controllers.iter().map(|c| {
            json!({"destination": c.target, "type": "bind", "source": c.host, "options": ["rbind", "rprivate", "rw"]})
        }));
    }
    mounts.extend(
        spec.mounts
            .iter()
            .map(|m| json!({"destination": m.target, "type": m.kind, "source": m.source, "options": m.options})),
    );
    let mut namespaces: Vec<Value> =
        ["pid", "ipc", "uts", "mount", "cgroup"].iter().map(|kind| json!({"type": kind})).collect();
    namespaces.push(json!({"type": "network", "path": netns}));
    let mut devices = vec![json!({"allow": false, "access": "rwm"})];
    devices.extend(
        DEVICES
            .iter()
            .map(|(major, minor)| json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"})),
    );
    json!({
        "ociVersion": "1.0.2",
        "process": process(&spec.process, &spec.capabilities),
        "root": {"path": root, "readonly": false},
        "hostname": spec.hostname,
        "mounts": mounts,
        "linux": {
            "cgroupsPath": spec.cgroup,
            "namespaces": namespaces,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "resources": {"devices": devices},
            "seccomp": super::seccomp::profile(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spec_is_valid_for_the_oci_types() {
        let spec = ContainerSpec {
            id: "x".into(),
            hostname: "node1".into(),
            process: ProcessSpec { args: vec!["/sbin/init".into()], uid: 0, ..ProcessSpec::default() },
            mounts: vec![crate::engine::Mount::bind("/a", "/b", true)],
            seeds: Vec::new(),
            network: crate::engine::Network::Namespace("/run/netns/x".into()),
            cgroup_view: Some(crate::cgroup::View { kind: "cgroup2", controllers: Vec::new() }),
            cgroup: "/oardocker/x/node1".into(),
            capabilities: vec!["CAP_SYS_ADMIN".into()],
            labels: Default::default(),
        };
        let parsed: oci_spec::runtime::Spec =
            serde_json::from_value(container(&spec, Path::new("rootfs"), Path::new("/n"))).unwrap();
        let linux = parsed.linux().as_ref().unwrap();
        assert!(linux.readonly_paths().as_ref().unwrap().iter().any(|p| p == "/proc/sys"));
        assert!(linux.seccomp().is_some());
        let caps = parsed.process().as_ref().unwrap().capabilities().as_ref().unwrap();
        let bounding = caps.bounding().as_ref().unwrap();
        assert!(bounding.contains(&oci_spec::runtime::Capability::SysAdmin));
        assert!(!bounding.contains(&oci_spec::runtime::Capability::SysModule), "no wider than asked");
        assert!(!bounding.contains(&oci_spec::runtime::Capability::Mknod));
    }
}
