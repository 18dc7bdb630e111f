//! Where oardocker keeps things on the host, outside any workdir: one place for every path.

use crate::error::{Context as _, Result};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Set when the namespaces of a user's own engine were entered.
static ROOTLESS: OnceLock<()> = OnceLock::new();

/// Whether root is only root in a user's namespaces: nothing of the host's network and cgroups can be made.
pub fn is_rootless() -> bool {
    ROOTLESS.get().is_some()
}

pub(super) fn set_rootless() {
    let _ = ROOTLESS.set(());
}

/// Runtime files: gone at reboot. Sockets, mounts, named network namespaces, per-cluster files.
pub fn runtime_dir() -> PathBuf {
    env_dir("OARDOCKER_RUNTIME_DIR", || session_dir().map(|dir| dir.join("oardocker")), "/run/oardocker")
}

/// Lasting files: the managed containerd's root.
pub fn data_dir() -> PathBuf {
    env_dir("OARDOCKER_DATA_DIR", own_data_dir, "/var/lib/oardocker")
}

/// Where the programs of this user's login session keep their sockets.
pub(super) fn session_dir() -> Option<PathBuf> {
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

/// Makes a directory that nobody but root can look into, also when it was there before.
pub(super) fn private_dir(dir: &Path) -> Result<()> {
    let doing = || format!("cannot create {}", dir.display());
    std::fs::create_dir_all(dir).doing(doing)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).doing(doing)
}

/// What a variable names, else the user's own place without root, else the system's.
fn env_dir(name: &str, own: impl Fn() -> Option<PathBuf>, default: &str) -> PathBuf {
    variable(name).or_else(|| own().filter(|_| is_rootless())).unwrap_or_else(|| default.into())
}
