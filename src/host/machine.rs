//! This machine as one oardocker uses it: where it keeps things, and whether its root is the host's. A value, made once and handed
//! to whoever needs it.

use super::ids::hash;
use super::paths;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Says in an oardocker that another one has started whose root it is there already.
const INSIDE: &str = "_OARDOCKER_INSIDE";

/// Ourselves, also after somebody has put a newer one in our place.
const OURSELVES: &str = "/proc/self/exe";

/// Whose root oardocker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// The host's; or nobody's, and then nothing that needs one is possible.
    Host,
    /// A user's, in the namespaces of that user's Podman.
    Podman,
    /// A user's, in namespaces of oardocker's own, with a cgroup (below the mounted root of them) that the user's systemd has left to it.
    User {
        /// That cgroup, as the kernel names it.
        cgroup: PathBuf,
    },
}

/// The value. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Machine {
    data: PathBuf,
    runtime: PathBuf,
    root: Root,
    program: PathBuf,
}

impl Machine {
    /// As the environment's variables and this user's account have it.
    pub fn new(root: Root) -> Self {
        let rootless = root != Root::Host;
        let (data, runtime) = (paths::data_dir(rootless), paths::runtime_dir(rootless));
        Self { data, runtime, root, program: OURSELVES.into() }
    }

    /// One with these directories, whatever the environment says.
    pub fn at(data: PathBuf, runtime: PathBuf) -> Self {
        Self { data, runtime, root: Root::Host, program: OURSELVES.into() }
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

    /// Whether root is only root in a user's namespaces: nothing of the host's network and limits can be changed.
    pub fn is_rootless(&self) -> bool {
        self.root != Root::Host
    }

    /// Whether that is in a Podman's namespaces.
    pub fn is_podmans(&self) -> bool {
        self.root == Root::Podman
    }

    /// The cgroup that a user's systemd has left to oardocker, which is all that there is for it.
    pub fn delegated_cgroup(&self) -> Option<&Path> {
        match &self.root {
            Root::User { cgroup } => Some(cgroup),
            _ => None,
        }
    }

    /// The name of the unit of a user's systemd that keeps the namespaces of this machine's oardocker.
    pub fn unit(&self) -> String {
        format!("oardocker-{:08x}.service", hash(&self.runtime.to_string_lossy()))
    }

    /// What to run for another oardocker.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// What an oardocker that we start must know to find what we find, wherever it works.
    pub fn inherited(&self) -> Vec<(&'static str, OsString)> {
        let mut all = vec![
            ("OARDOCKER_DATA_DIR", self.data.clone().into()),
            ("OARDOCKER_RUNTIME_DIR", self.runtime.clone().into()),
        ];
        match &self.root {
            Root::Host => {}
            Root::Podman => all.push((INSIDE, "podman".into())),
            Root::User { cgroup } => all.push((INSIDE, cgroup.into())),
        }
        all
    }
}

/// Whose root this one is, if it is anybody's: another one has started it inside of a user's namespaces, and says so. The host's own root
/// is nobody else's.
pub fn whose_root() -> Root {
    let own = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_all = own.split_whitespace().nth(2).is_some_and(|count| count == "4294967295");
    match std::env::var_os(INSIDE) {
        None => Root::Host,
        Some(_) if is_all => Root::Host,
        Some(word) if word == "podman" => Root::Podman,
        Some(cgroup) => Root::User { cgroup: cgroup.into() },
    }
}
