//! Who this oardocker is, and what one that it starts has of it.

use super::{data_dir, runtime_dir};
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::OnceLock;

/// Set when the namespaces of a user's own engine were entered.
static ROOTLESS: OnceLock<()> = OnceLock::new();

/// Whether root is only root in a user's namespaces: nothing of the host's network and cgroups can be made.
pub fn is_rootless() -> bool {
    ROOTLESS.get().is_some()
}

/// Says so, once and for the whole program.
pub fn set_rootless() {
    let _ = ROOTLESS.set(());
}

/// Says in an oardocker that another one has started that it is inside already.
const INSIDE: &str = "_OARDOCKER_INSIDE";

/// Whether this one was started inside the namespaces of a user's own engine, as another one says. Root's own is not.
pub fn starts_inside() -> bool {
    let own = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_all = own.split_whitespace().nth(2).is_some_and(|count| count == "4294967295");
    std::env::var_os(INSIDE).is_some() && !is_all
}

/// What an oardocker that we start must know to find what we find, wherever it works.
pub fn inherited() -> std::io::Result<Vec<(&'static str, OsString)>> {
    let mut all = vec![
        ("OARDOCKER_DATA_DIR", std::path::absolute(data_dir())?.into()),
        ("OARDOCKER_RUNTIME_DIR", std::path::absolute(runtime_dir())?.into()),
    ];
    if is_rootless() {
        all.push((INSIDE, "1".into()));
    }
    Ok(all)
}

/// Has a program that outlives us have none of the descriptors that our caller left open, such as a script's lock.
pub fn shed_descriptors(command: &mut Command) {
    // SAFETY: the system call is safe between fork and exec, and marks only. A kernel that lacks it says so, and all stays as it was.
    unsafe {
        command.pre_exec(|| {
            nix::libc::close_range(3, nix::libc::c_uint::MAX, nix::libc::CLOSE_RANGE_CLOEXEC as nix::libc::c_int);
            Ok(())
        });
    }
}

/// The account that called sudo. Root itself has none.
pub fn invoking_user() -> Option<u32> {
    std::env::var("SUDO_UID").ok()?.parse().ok().filter(|uid| *uid != 0 && nix::unistd::geteuid().is_root())
}
