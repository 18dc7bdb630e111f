//! The system calls of containers, in the form of the OCI runtime spec, which Docker and Podman read as well.
//!
//! A node with ids of its own has what containerd gives by default to a container with its capabilities (its pkg contrib/seccomp), with
//! what the kernel refuses there anyway taken away, and with pivot_root and memory policies, which systemd's and OAR's jobs use. Where
//! root is the host's, what reaches beyond a container is refused, and nothing else: build steps run any program.

use crate::host::Ids;
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

/// What a node with ids of its own may call: all of Linux to this day, but for what no container needs.
const ALLOWED: &str = include_str!("allowed.txt");

/// The execution domains that personality(2) may set: Linux, 32 bits, another name of the kernel, both, and asking.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Sockets to the host of a virtual machine.
const AF_VSOCK: u64 = 40;

/// The profile of a node whose root is nobody on the host.
fn strict() -> Value {
    let names: Vec<&str> = ALLOWED.split_whitespace().collect();
    let allowed = |call: &str, op: &str, value: u64| json!({"names": [call], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": value, "op": op}]});
    let mut rules = vec![
        no_keys(),
        json!({"names": names, "action": "SCMP_ACT_ALLOW"}),
        allowed("socket", "SCMP_CMP_NE", AF_VSOCK),
    ];
    rules.extend(PERSONALITIES.map(|domain| allowed("personality", "SCMP_CMP_EQ", domain)));
    let default = nix::libc::EPERM;
    json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": default, "architectures": architectures(), "syscalls": rules})
}

/// The profile of a node with these ids.
pub(super) fn of(ids: Option<Ids>) -> Value {
    if ids.is_some() { strict() } else { profile() }
}

fn no_keys() -> Value {
    json!({"names": KEYS, "action": "SCMP_ACT_ERRNO", "errnoRet": nix::libc::ENOSYS})
}

/// The profile of containers whose root is the host's.
pub(super) fn profile() -> Value {
    let mut rules =
        vec![no_keys(), json!({"names": REFUSED, "action": "SCMP_ACT_ERRNO", "errnoRet": nix::libc::EPERM})];
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
    fn nodes_with_ids_of_their_own_may_call_what_is_listed() {
        let profile: oci_spec::runtime::LinuxSeccomp = serde_json::from_value(strict()).unwrap();
        assert_eq!(profile.default_action(), oci_spec::runtime::LinuxSeccompAction::ScmpActErrno);
        let rules = profile.syscalls().as_ref().unwrap();
        let names: Vec<&str> = rules[1].names().iter().map(String::as_str).collect();
        assert!(names.is_sorted(), "one place for each");
        for needed in ["mount", "clone3", "setns", "openat2", "ptrace", "name_to_handle_at", "set_mempolicy"] {
            assert!(names.contains(&needed), "{needed}");
        }
        let refused = REFUSED.iter().chain(&KEYS).copied();
        let more = [
            "bpf",
            "userfaultfd",
            "io_uring_setup",
            "init_module",
            "clock_settime",
            "kcmp",
            "reboot",
            "iopl",
            "socket",
        ];
        for never in refused.chain(more) {
            assert!(!names.contains(&never), "{never}");
        }
    }

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
