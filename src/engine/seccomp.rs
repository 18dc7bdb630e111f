//! System calls that containers are refused, in the form of the OCI runtime spec, which Docker and Podman read as well.
//!
//! Where root is the host's: what reaches beyond a container. A node with ids of its own is also refused what containerd's default profile
//! refuses to a container with its capabilities, but for pivot_root and personality(2), which concern itself alone. Lists of what is refused,
//! not of what is allowed: libseccomp takes 30 ms to compile four hundred names, at each start and each session.

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

/// Answered at once in a build step: what it has made is flushed when it is kept (unmounting an overlay does that), and a step
/// that is cut off before is made again. Package managers and databases ask for it after each file.
const FLUSHES: [&str; 6] = ["fdatasync", "fsync", "sync", "sync_file_range", "sync_file_range2", "syncfs"];

/// What may be asked of bpf(2): maps and programs, and attaching them to cgroups of one's own, as systemd and OAR do for devices.
/// Not detaching, which would take away the runtime's own rules, and nothing that runs a program elsewhere or finds others'.
const BPF: [u64; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 18, 22, 35];

/// Refused in a user namespace, too: the kernel is asked much there that was root's alone before.
const REFUSED_IN_USER_NAMESPACES: [&str; 26] = [
    // Nothing of it works there, whatever is asked.
    "bpf",
    "clock_settime",
    "clock_settime64",
    "delete_module",
    "finit_module",
    "init_module",
    "ioperm",
    "iopl",
    "reboot",
    "settimeofday",
    "stime",
    // Ways into the kernel that have been open more than once.
    "fanotify_mark",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "kcmp",
    "migrate_pages",
    "move_pages",
    "pidfd_getfd",
    "process_madvise",
    "set_mempolicy_home_node",
    "userfaultfd",
    // Of other times.
    "sysfs",
    "ustat",
    "vm86",
    "vm86old",
];

/// Sockets to the host of a virtual machine.
const AF_VSOCK: u64 = 40;

/// The profile of a node whose root is nobody on the host.
fn strict() -> Value {
    let names: Vec<&str> = REFUSED.iter().chain(&REFUSED_IN_USER_NAMESPACES).copied().collect();
    of_rules(&[no_keys(), refused(&names), refused_if("socket", "SCMP_CMP_EQ", AF_VSOCK)])
}

/// The profile of a node with these ids.
pub(super) fn of(ids: Option<Ids>) -> Value {
    if ids.is_some() { strict() } else { profile() }
}

fn no_keys() -> Value {
    json!({"names": KEYS, "action": "SCMP_ACT_ERRNO", "errnoRet": nix::libc::ENOSYS})
}

/// The profile of build steps.
pub(super) fn of_step() -> Value {
    let mut profile = of(None);
    if let Some(rules) = profile["syscalls"].as_array_mut() {
        rules.push(json!({"names": FLUSHES, "action": "SCMP_ACT_ERRNO", "errnoRet": 0}));
    }
    profile
}

/// The profile of containers whose root is the host's.
pub(super) fn profile() -> Value {
    let mut rules = vec![no_keys(), refused(&REFUSED)];
    let last = BPF[BPF.len() - 1];
    let others = (0..last).filter(|command| !BPF.contains(command));
    rules.extend(others.map(|command| refused_if("bpf", "SCMP_CMP_EQ", command)));
    // Also those with bits that the kernel does not look at.
    rules.push(refused_if("bpf", "SCMP_CMP_GT", last));
    of_rules(&rules)
}

fn refused(names: &[&str]) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": nix::libc::EPERM})
}

/// Refused where its first argument is such.
fn refused_if(call: &str, op: &str, value: u64) -> Value {
    let mut rule = refused(&[call]);
    rule["args"] = json!([{"index": 0, "value": value, "op": op}]);
    rule
}

fn of_rules(rules: &[Value]) -> Value {
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
    fn nodes_with_ids_of_their_own_are_refused_more() {
        let refused = |profile: Value| -> Vec<String> {
            let profile: oci_spec::runtime::LinuxSeccomp = serde_json::from_value(profile).unwrap();
            let rules = profile.syscalls().as_ref().unwrap().iter().filter(|rule| rule.args().is_none());
            rules.flat_map(|rule| rule.names().clone()).collect()
        };
        let (own, hosts) = (refused(of(Some(Ids { first: 1_000_000 }))), refused(of(None)));
        assert!(hosts.iter().all(|name| own.contains(name)), "nothing is open in them alone");
        assert!(own.contains(&"bpf".into()) && !hosts.contains(&"bpf".into()));
        // What systemd, debuggers and jobs need.
        for needed in ["mount", "pivot_root", "ptrace", "name_to_handle_at", "set_mempolicy", "personality", "socket"] {
            assert!(!own.contains(&needed.into()), "{needed}");
        }
    }

    #[test]
    fn flushing_costs_nothing_in_a_build_step_only() {
        let answered = |profile: Value| -> Vec<String> {
            let profile: oci_spec::runtime::LinuxSeccomp = serde_json::from_value(profile).unwrap();
            let rules = profile.syscalls().iter().flatten().filter(|rule| rule.errno_ret() == Some(0));
            rules.flat_map(|rule| rule.names().clone()).collect()
        };
        assert!(answered(of_step()).contains(&"fsync".into()));
        assert!(answered(of(None)).is_empty() && answered(strict()).is_empty());
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
