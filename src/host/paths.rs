//! Where oardocker keeps things on this machine, outside any workdir: one place for every path.

use super::is_rootless;
use std::path::PathBuf;

/// Runtime files: gone at reboot. Sockets, mounts, named network namespaces, per-cluster files.
pub fn runtime_dir() -> PathBuf {
    env_dir("OARDOCKER_RUNTIME_DIR", || session_dir().map(|dir| dir.join("oardocker")), "/run/oardocker")
}

/// Lasting files: the managed containerd's root.
pub fn data_dir() -> PathBuf {
    env_dir("OARDOCKER_DATA_DIR", own_data_dir, "/var/lib/oardocker")
}

/// Where the programs of this user's login session keep their sockets.
pub fn session_dir() -> Option<PathBuf> {
    variable("XDG_RUNTIME_DIR")
}

/// A variable that names a path, unless it is empty.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// The same of this user without root.
pub fn own_data_dir() -> Option<PathBuf> {
    let shared = variable("XDG_DATA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share")));
    shared.map(|dir| dir.join("oardocker"))
}

/// The socket of the managed containerd.
pub fn managed_socket() -> PathBuf {
    runtime_dir().join("containerd/containerd.sock")
}

/// What a variable names, else the user's own place without root, else the system's.
fn env_dir(name: &str, own: impl Fn() -> Option<PathBuf>, default: &str) -> PathBuf {
    variable(name).or_else(|| own().filter(|_| is_rootless())).unwrap_or_else(|| default.into())
}
