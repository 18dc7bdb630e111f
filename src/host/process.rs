//! Who this oardocker is, and what one that it starts has of it.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

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

/// Its group.
pub fn invoking_group() -> Option<u32> {
    std::env::var("SUDO_GID").ok()?.parse().ok().filter(|_| invoking_user().is_some())
}

/// The group that an account's files have when nothing else is said, if this host knows the account.
pub fn primary_group(user: u32) -> Option<u32> {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(user)).ok()??;
    Some(user.gid.as_raw())
}
