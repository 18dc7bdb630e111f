//! Where oardocker keeps things on the host, outside any workdir: one place for every path.

use crate::error::{Context as _, Result};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Runtime files: gone at reboot. Sockets, mounts, named network namespaces, per-cluster files.
pub fn runtime_dir() -> PathBuf {
    env_dir("OARDOCKER_RUNTIME_DIR", "/run/oardocker")
}

/// Lasting files: the managed containerd's root.
pub fn data_dir() -> PathBuf {
    env_dir("OARDOCKER_DATA_DIR", "/var/lib/oardocker")
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

fn env_dir(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable).filter(|v| !v.is_empty()).map_or_else(|| Path::new(default).into(), PathBuf::from)
}
