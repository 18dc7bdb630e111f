//! Containers in the words of Podman's own API. In Docker's it gives no private cgroup namespace on v1 and hybrid hosts, and a session
//! in such a container would be one in the host's cgroups.

use super::api::{CONSOLE, MARK, capabilities, host_ip, is_read_only};
use super::networks;
use crate::engine::{NodeSpec, oci, seccomp};
use crate::error::{Doing as _, Result};
use crate::host::Machine;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::PathBuf;

/// Podman reads the profile of system calls from a file.
fn seccomp_file(machine: &Machine) -> Result<PathBuf> {
    let (dir, path) = (machine.runtime_dir(), machine.runtime_dir().join("seccomp.json"));
    let doing = || format!("cannot write {}", path.display());
    std::fs::create_dir_all(dir).doing(doing)?;
    // Whole at every moment: containers are created side by side.
    let mut file = tempfile::NamedTempFile::new_in(dir).doing(doing)?;
    file.write_all(seccomp::of(None).to_string().as_bytes()).doing(doing)?;
    file.persist(&path).map_err(|e| e.error).doing(doing)?;
    Ok(path)
}

/// The container as Podman wants it told.
pub(super) fn container(
    machine: &Machine,
    spec: &NodeSpec,
    gate: &[String],
    command: &[String],
    below_ours: bool,
    processes: i64,
) -> Result<Value> {
    let mount = |source: &str, target: &str, read_only: bool| {
        let access = if read_only { "ro" } else { "rw" };
        json!({"type": "bind", "source": source, "destination": target, "options": ["rbind", "rprivate", access]})
    };
    let mut mounts = vec![mount(&spec.console.to_string_lossy(), CONSOLE, false)];
    mounts.extend(spec.mounts.iter().map(|m| {
        if m.kind != "tmpfs" {
            return mount(&m.source, &m.target, is_read_only(m));
        }
        // It forbids programs there unless told otherwise, and copies what the image has.
        let options: Vec<&str> = m.options.iter().map(String::as_str).chain(["exec", "notmpcopyup"]).collect();
        json!({"type": "tmpfs", "source": "tmpfs", "destination": m.target, "options": options})
    }));
    let ports =
        spec.plug.ports.iter().map(
            |p| json!({"host_ip": host_ip(p), "host_port": p.host, "container_port": p.container, "protocol": "tcp"}),
        );
    let devices = oci::DEVICES
        .iter()
        .map(|(major, minor)| json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"}));
    let mut labels = spec.all_labels();
    labels.insert(MARK.into(), "true".into());
    let mut wanted = json!({
        "name": spec.id,
        "image": spec.image.name,
        "hostname": spec.hostname,
        "sysctl": spec.sysctls,
        "user": "0:0",
        "work_dir": "/",
        "entrypoint": gate,
        "command": command,
        "labels": labels,
        "mounts": mounts,
        "cgroupns": {"nsmode": "private"},
        "cap_drop": ["ALL"],
        "cap_add": capabilities(),
        "seccomp_profile_path": seccomp_file(machine)?,
        "apparmor_profile": "unconfined",
        "selinux_opts": ["disable"],
        "resource_limits": {"pids": {"limit": processes}},
        "netns": {"nsmode": "bridge"},
        "networks": {networks::name(&spec.plug.network): {"static_ips": [spec.plug.subnet.host(spec.plug.index)?.to_string()]}},
        "portmappings": ports.collect::<Vec<_>>(),
        "log_configuration": {"driver": "none"},
        // Its own ways with systemd are not needed.
        "systemd": "false",
        "sdnotifyMode": "ignore",
    });
    if let Some(path) = spec.cgroup.as_ref().filter(|_| below_ours) {
        wanted["cgroup_parent"] = json!(path);
    }
    if machine.is_rootless() {
        // Nothing of the host's can be written there, and what is masked keeps systemd from mounting it anew.
        wanted["unmask"] = json!(["ALL"]);
    } else {
        // Without root nothing can be allowed that the user may not do anyway.
        wanted["device_cgroup_rule"] = json!(devices.collect::<Vec<_>>());
    }
    Ok(wanted)
}
