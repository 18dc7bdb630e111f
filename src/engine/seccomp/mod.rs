//! System calls that no container needs and that reach beyond it, since its root is the host's: a list of what is refused, in the
//! form of the OCI runtime spec, which Docker and Podman read as well.

use serde_json::{Value, json};

/// Keys are counted and shown by account, and root's are the host's. As if the kernel had none: programs that can do without, such
/// as the runtime of a container in a node, then do.
const KEYS: [&str; 3] = ["add_key", "keyctl", "request_key"];

/// Refused as a whole.
const REFUSED: [&str; 14] = [
    // Tells of, and hands out, files of the whole filesystem below a mount.
    "fanotify_init",
    "open_by_handle_at",
    // Looks into the kernel and into every process.
    "lookup_dcookie",
    "perf_event_open",
    "syslog",
    // Of the host as a whole.
    "acct",
    "kexec_file_load",
    "kexec_load",
    "nfsservctl",
    "quotactl",
    "quotactl_fd",
    "swapoff",
    "swapon",
    "vhangup",
];

/// What may be asked of bpf(2): maps and programs, and attaching them to cgroups of one's own, as systemd and OAR do for devices.
/// Not detaching, which would take away the runtime's own rules, and nothing that runs a program elsewhere or finds others'.
const BPF: [u64; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 18, 22, 35];

/// The profile.
pub(super) fn profile() -> Value {
    let mut rules = vec![
        json!({"names": KEYS, "action": "SCMP_ACT_ERRNO", "errnoRet": nix::libc::ENOSYS}),
        json!({"names": REFUSED, "action": "SCMP_ACT_ERRNO", "errnoRet": nix::libc::EPERM}),
    ];
    let bpf = |op: &str, command: u64| {
        json!({"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": nix::libc::EPERM,
            "args": [{"index": 0, "value": command, "op": op}]})
    };
    let last = BPF[BPF.len() - 1];
    rules.extend((0..last).filter(|command| !BPF.contains(command)).map(|command| bpf("SCMP_CMP_EQ", command)));
    // Also those with bits that the kernel does not look at.
    rules.push(bpf("SCMP_CMP_GT", last));
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures(), "syscalls": rules})
}

/// This one and those whose programs it runs, too: their calls have other numbers.
fn architectures() -> &'static [&'static str] {
    if cfg!(target_arch = "x86_64") {
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    } else if cfg!(target_arch = "aarch64") {
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    } else {
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_valid_for_the_oci_types() {
        let profile: oci_spec::runtime::LinuxSeccomp = serde_json::from_value(profile()).unwrap();
        let rules = profile.syscalls().as_ref().unwrap();
        assert!(rules[0].names().iter().any(|n| n == "keyctl"));
        // BPF_PROG_LOAD and BPF_PROG_ATTACH pass; BPF_PROG_DETACH and BPF_RAW_TRACEPOINT_OPEN do not.
        let refused: Vec<u64> = rules[2..].iter().map(|r| r.args().as_ref().unwrap()[0].value()).collect();
        assert!(refused.contains(&9) && refused.contains(&17) && refused.contains(&28));
        assert!(!refused.contains(&5) && !refused.contains(&8));
    }
}
