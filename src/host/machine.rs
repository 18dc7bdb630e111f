//! This machine as one oardocker uses it: where it keeps things, and whether its root is the host's. A value, made once and handed
//! to whoever needs it.

use super::paths;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Says in an oardocker that another one has started that it is inside already.
const INSIDE: &str = "_OARDOCKER_INSIDE";

/// Ourselves, also after somebody has put a newer one in our place.
const OURSELVES: &str = "/proc/self/exe";

/// The value. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Machine {
    data: PathBuf,
    runtime: PathBuf,
    rootless: bool,
    program: PathBuf,
}

impl Machine {
    /// As the environment's variables and this user's account have it. `rootless` says that root is only root in a user's
    /// namespaces: nothing of the host's network and cgroups can be made.
    pub fn new(rootless: bool) -> Self {
        let (data, runtime) = (paths::data_dir(rootless), paths::runtime_dir(rootless));
        Self { data, runtime, rootless, program: OURSELVES.into() }
    }

    /// One with these directories, whatever the environment says.
    pub fn at(data: PathBuf, runtime: PathBuf) -> Self {
        Self { data, runtime, rootless: false, program: OURSELVES.into() }
    }

    /// One that keeps all in a directory and runs nothing of itself.
    #[cfg(test)]
    pub fn below(dir: &Path) -> Self {
        Self::at(dir.join("data"), dir.join("runtime")).with_program("/bin/true")
    }

    /// The same with another program in the place of ours.
    #[cfg(test)]
    pub fn with_program(self, program: &str) -> Self {
        Self { program: program.into(), ..self }
    }

    /// Lasting files: the managed containerd's root, clusters, images of ours.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// Runtime files: gone at reboot. Sockets, mounts, named network namespaces.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime
    }

    /// The socket of the managed containerd.
    pub fn managed_socket(&self) -> PathBuf {
        self.runtime.join("containerd/containerd.sock")
    }

    /// Whether root is only root in a user's namespaces.
    pub fn is_rootless(&self) -> bool {
        self.rootless
    }

    /// What to run for another oardocker.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// What an oardocker that we start must know to find what we find, wherever it works.
    pub fn inherited(&self) -> std::io::Result<Vec<(&'static str, OsString)>> {
        let mut all = vec![
            ("OARDOCKER_DATA_DIR", std::path::absolute(&self.data)?.into()),
            ("OARDOCKER_RUNTIME_DIR", std::path::absolute(&self.runtime)?.into()),
        ];
        if self.rootless {
            all.push((INSIDE, "1".into()));
        }
        Ok(all)
    }
}

/// Whether this one was started inside the namespaces of a user's own engine, as another one says. Root's own is not.
pub fn starts_inside() -> bool {
    let own = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_all = own.split_whitespace().nth(2).is_some_and(|count| count == "4294967295");
    std::env::var_os(INSIDE).is_some() && !is_all
}
