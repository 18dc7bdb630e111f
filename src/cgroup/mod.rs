//! The host's cgroups under `--cgroup-path`, and the part of them that belongs to one cluster.
//!
//! ```text
//! <controller>/oardocker/<env id>/<node>       v1 and hybrid: one such path per controller
//! oardocker/<env id>/<node>                    v2
//! ```
//! The root is a parameter, so that everything here can be tested on plain directories.

mod group;

use crate::error::{Doing as _, Error, Result};
use crate::host::Ids;
use cgroups_rs::fs::devices::{DevicePermissions, DeviceType};
use group::{Device, Mounted};
pub use group::{Group, Limits, Usage};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// How the host mounts its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// v1 controllers only.
    Legacy,
    /// v1 controllers, and v2 without any.
    Hybrid,
    /// v2 only.
    Unified,
}

/// The directory of all that is ours.
const OURS: &str = "oardocker";

/// The controllers that OAR's v1 job manager uses; a host may lack some.
const FOR_JOBS: [&str; 7] = ["cpuset", "cpu", "cpuacct", "memory", "devices", "freezer", "blkio"];

/// What of the host's devices a cluster has at most, as v1 writes it: what OCI runtimes and engines give every container, and tun
/// and fuse. A container's root may rewrite its own list, but not to more than this.
const DEVICES: [Device; 13] = {
    use DevicePermissions::{MkNod, Read, Write};
    use DeviceType::{Block, Char};
    const FULLY: &[DevicePermissions] = &[Read, Write, MkNod];
    [
        (Char, -1, -1, &[MkNod]),
        (Block, -1, -1, &[MkNod]),
        (Char, 1, 3, FULLY),
        (Char, 1, 5, FULLY),
        (Char, 1, 7, FULLY),
        (Char, 1, 8, FULLY),
        (Char, 1, 9, FULLY),
        (Char, 5, 0, FULLY),
        (Char, 5, 1, FULLY),
        (Char, 5, 2, FULLY),
        (Char, 136, -1, FULLY),
        (Char, 10, 200, FULLY),
        (Char, 10, 229, FULLY),
    ]
};

/// What a container sees of the cgroups: its own part, as if that were the whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct View {
    /// Type of the filesystem at /sys/fs/cgroup: `cgroup2`, or `cgroup` for v1.
    pub kind: &'static str,
    /// v1 controllers at other places.
    pub controllers: Vec<Controller>,
}

/// A v1 controller in a [`View`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Controller {
    /// As in `cpuset`.
    pub name: String,
    /// The container's own directory on the host.
    pub host: PathBuf,
    /// Where the container sees it.
    pub target: String,
}

/// The mounted cgroup filesystem.
#[derive(Debug, Clone)]
pub struct Cgroups {
    root: PathBuf,
    /// What was found there.
    pub layout: Layout,
    /// Controllers of v1 that jobs are confined with.
    for_jobs: Vec<&'static str>,
    /// Whether the engine makes the containers' cgroups, so that there are none of ours.
    foreign: bool,
    /// The cgroup that is the root of all of ours, as the kernel names it: the empty one, or what a user without root was given.
    above: String,
}

fn node_path(env_id: &str, node: &str) -> String {
    format!("/{OURS}/{env_id}/{node}")
}

impl Cgroups {
    /// Looks at what is mounted.
    pub fn detect(root: &Path) -> Result<Self> {
        let layout = if root.join("cgroup.controllers").exists() {
            Layout::Unified
        } else if root.join("unified/cgroup.procs").exists() {
            Layout::Hybrid
        } else if root.join("cpuset/tasks").exists() || root.join("memory/tasks").exists() {
            Layout::Legacy
        } else {
            return Err(Error::new(format!("there is no cgroup filesystem at {}", root.display()))
                .hint("give its path with --cgroup-path; it is /sys/fs/cgroup on every current system"));
        };
        let there = |c: &&str| layout != Layout::Unified && root.join(c).join("tasks").exists();
        let for_jobs = FOR_JOBS.into_iter().filter(there).collect();
        Ok(Self { root: root.into(), layout, for_jobs, foreign: false, above: String::new() })
    }

    /// The same for a user who was given that cgroup, as the kernel names it, and nothing above it.
    pub fn delegated(self, cgroup: &Path) -> Self {
        let above = cgroup.to_string_lossy().trim_end_matches('/').to_owned();
        Self { root: self.root.join(above.trim_start_matches('/')), above, ..self }
    }

    /// The same where the engine makes the containers' cgroups: nothing is made or removed.
    pub fn of_the_engine(self) -> Self {
        Self { foreign: true, ..self }
    }

    /// Fails where a container's systemd could not have cgroups of its own: v1 has no safe way to leave some to a user.
    pub fn require_delegation(&self) -> Result<()> {
        if self.above.is_empty() && !self.foreign || self.layout == Layout::Unified {
            return Ok(());
        }
        Err(Error::new("without root a cluster needs a host with unified (v2) cgroups, and this one has v1")
            .hint("boot the host with systemd.unified_cgroup_hierarchy=1 on the kernel's command line, or run oardocker as root"))
    }

    /// What a user may ask for where the controllers that were given are not those that confine jobs; nothing where they are.
    pub fn advice(&self) -> &'static str {
        let given = std::fs::read_to_string(self.root.join("cgroup.controllers")).unwrap_or_default();
        let has = |name: &str| given.split_whitespace().any(|given| given == name);
        if ["cpuset", "cpu", "memory", "pids"].into_iter().all(has) {
            return "";
        }
        "; as root: systemctl edit user@.service, the lines [Service] and Delegate=cpu cpuset io memory pids, then log in anew"
    }

    fn mounted(&self) -> Mounted {
        Mounted { root: self.root.clone(), layout: self.layout }
    }

    /// A cgroup of a cluster; none where the engine makes them.
    pub fn group(&self, env_id: &str, node: &str) -> Option<Group> {
        (!self.foreign).then(|| Group::at(&self.mounted(), &node_path(env_id, node)[1..]))
    }

    /// The v1 controllers that a node's jobs are confined with: name, and the node's own directory on the host.
    pub fn for_jobs(&self, env_id: &str, node: &str) -> Vec<(String, PathBuf)> {
        if self.foreign {
            return Vec::new();
        }
        let own = |c: &&str| ((*c).to_owned(), self.root.join(c).join(&node_path(env_id, node)[1..]));
        self.for_jobs.iter().map(own).collect()
    }

    /// The path of a node below any controller; none where the engine finds it a place.
    pub fn node(&self, env_id: &str, node: &str) -> Option<String> {
        (!self.foreign).then(|| self.above.clone() + &node_path(env_id, node))
    }

    /// The path, below any controller, that containers of an environment have theirs in; none where the engine finds them a place.
    pub fn parent(&self, env_id: &str) -> Option<String> {
        (!self.foreign).then(|| format!("{}/{OURS}/{env_id}", self.above))
    }

    /// Creates a node's directories in every hierarchy. A v1 cpuset starts empty and would hold no process. With an `owner` the node makes
    /// cgroups of its own there and moves its processes, and its limits stay the host's.
    pub fn create(&self, env_id: &str, node: &str, owner: Option<Ids>) -> Result<()> {
        let path = node_path(env_id, node);
        self.create_path(&path)?;
        match owner {
            Some(owner) if !self.foreign => Group::at(&self.mounted(), &path[1..]).give(owner),
            _ => Ok(()),
        }
    }

    /// Creates the directories that those of an environment's containers are made in.
    pub fn create_parent(&self, env_id: &str) -> Result<()> {
        self.create_path(&format!("/{OURS}/{env_id}"))
    }

    fn create_path(&self, path: &str) -> Result<()> {
        if self.foreign {
            return Ok(());
        }
        let mounted = self.mounted();
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        for (depth, end) in ends.enumerate() {
            let group = Group::at(&mounted, &path[1..end]);
            // What has cgroups of nodes below it gets all that there is each time, and an environment as a whole its devices.
            match depth {
                0 => group.create(true)?,
                1 => group.create_with_devices(true, &DEVICES)?,
                _ => group.create(false)?,
            }
        }
        Ok(())
    }

    /// Removes the directories of a whole environment, from the inside out.
    pub fn remove(&self, env_id: &str) -> Result<()> {
        if self.foreign {
            return Ok(());
        }
        let mounted = self.mounted();
        let removed = Group::at(&mounted, &format!("{OURS}/{env_id}")).delete();
        // The last cluster takes the common parent along; others keep it busy.
        Group::at(&mounted, OURS).remove_if_empty();
        removed
    }

    /// The same. It is patient with dying processes, so not on the thread that hears Ctrl-C.
    pub async fn remove_patiently(&self, env_id: &str) -> Result<()> {
        let (cgroups, id) = (self.clone(), env_id.to_owned());
        tokio::task::spawn_blocking(move || cgroups.remove(&id)).await.doing(|| "cannot remove cgroups".into())?
    }

    /// Cgroups of an environment that exist.
    pub fn exists(&self, env_id: &str) -> bool {
        !self.foreign && Group::at(&self.mounted(), &format!("{OURS}/{env_id}")).exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "0-1\n").unwrap();
        }
        dir
    }

    #[test]
    fn layouts() {
        let unified = tree(&["cgroup.controllers", "cgroup.procs"]);
        let hybrid = tree(&["unified/cgroup.procs", "cpuset/tasks"]);
        let legacy = tree(&["cpuset/tasks", "memory/tasks"]);
        let of = |d: &tempfile::TempDir| Cgroups::detect(d.path()).unwrap().layout;
        assert_eq!((of(&unified), of(&hybrid), of(&legacy)), (Layout::Unified, Layout::Hybrid, Layout::Legacy));
        assert!(Cgroups::detect(tree(&["x"]).path()).is_err());
    }

    #[test]
    fn a_user_s_cgroups_are_below_what_was_given() {
        let dir = tree(&["cgroup.controllers", "user.slice/a.service/cgroup.controllers"]);
        let cgroups = Cgroups::detect(dir.path()).unwrap().delegated(Path::new("/user.slice/a.service"));
        cgroups.create("ab", "node1", None).unwrap();
        assert!(dir.path().join("user.slice/a.service/oardocker/ab/node1").is_dir());
        assert_eq!(cgroups.node("ab", "node1").as_deref(), Some("/user.slice/a.service/oardocker/ab/node1"));
        assert_eq!(cgroups.parent("ab").as_deref(), Some("/user.slice/a.service/oardocker/ab"));
        assert!(cgroups.exists("ab") && cgroups.require_delegation().is_ok());
        let hybrid = Cgroups::detect(tree(&["unified/cgroup.procs", "cpuset/tasks"]).path()).unwrap();
        assert!(hybrid.delegated(Path::new("/a")).require_delegation().is_err());
    }

    #[test]
    fn v2_controllers_are_handed_down_to_the_node() {
        let dir = tree(&["cgroup.procs"]);
        fs::write(dir.path().join("cgroup.controllers"), "cpuset memory hugetlb").unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "memory").unwrap();
        let cgroups = Cgroups::detect(dir.path()).unwrap();
        cgroups.create("ab", "node1", None).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap(), "+cpuset");
    }

    /// On v1 the kernel asks who owns the files, on v2 it lists those that may be given away.
    #[test]
    #[ignore = "needs root"]
    fn a_node_s_cgroup_can_be_given_away_without_its_limits() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tree(&["unified/cgroup.procs", "memory/tasks"]);
        let cgroups = Cgroups::detect(dir.path()).unwrap();
        cgroups.create("ab", "node1", None).unwrap();
        let below = |path: &str| dir.path().join(path);
        let files = ["memory/oardocker/ab/node1", "unified/oardocker/ab/node1"].map(|group| {
            ["tasks", "cgroup.procs", "cgroup.subtree_control", "memory.limit_in_bytes", "memory.max"]
                .map(|f| below(group).join(f))
        });
        files.iter().flatten().for_each(|file| fs::write(file, "").unwrap());
        cgroups.create("ab", "node1", Some(Ids { first: 1_000_000 })).unwrap();
        let given = |group: &str| {
            let mut all: Vec<String> = fs::read_dir(below(group))
                .unwrap()
                .flatten()
                .filter(|e| e.metadata().unwrap().uid() == 1_000_000)
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect();
            all.sort();
            (fs::metadata(below(group)).unwrap().uid() == 1_000_000, all.join(" "))
        };
        assert_eq!(given("memory/oardocker/ab/node1"), (true, "cgroup.procs tasks".into()));
        assert_eq!(given("unified/oardocker/ab/node1"), (true, "cgroup.procs cgroup.subtree_control".into()));
        assert_eq!(given("memory/oardocker/ab"), (false, "node1".into()), "not what is above it");
        // Without root who makes it is who gets it.
        let limit = below("memory/oardocker/ab/node1/memory.limit_in_bytes");
        let owner = |path: &Path| fs::metadata(path).unwrap().uid();
        assert_eq!(owner(&limit), 0);
        cgroups.create("ab", "node1", Some(Ids::OF_USER)).unwrap();
        assert_eq!((owner(&limit), owner(&below("memory/oardocker/ab/node1/tasks"))), (Ids::OF_USER.stranger(), 0));
    }

    /// As where `--cgroup-path` names a scope in which a shell runs.
    #[test]
    fn a_v2_cgroup_with_processes_hands_nothing_down() {
        for (procs, given) in [("4711\n", ""), ("", "+memory")] {
            let dir = tree(&["cgroup.controllers", "cgroup.subtree_control"]);
            for (file, text) in [("cgroup.controllers", "cpuset memory"), ("cgroup.subtree_control", "")] {
                fs::write(dir.path().join(file), text).unwrap();
            }
            fs::write(dir.path().join("cgroup.type"), "domain\n").unwrap();
            fs::write(dir.path().join("cgroup.procs"), procs).unwrap();
            Cgroups::detect(dir.path()).unwrap().create("ab", "node1", None).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap(), given, "{procs:?}");
        }
    }

    #[test]
    fn a_cpu_that_was_off_comes_back_to_later_nodes() {
        let dir = tree(&["unified/cgroup.procs", "cpuset/tasks", "cpuset/cpuset.cpus", "cpuset/cpuset.mems"]);
        let cpuset = dir.path().join("cpuset");
        let below = |path: &str| cpuset.join(path);
        for group in ["oardocker", "oardocker/ab", "oardocker/ab/node1"] {
            fs::create_dir_all(below(group)).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(below(group).join(file), "0\n").unwrap();
            }
        }
        fs::create_dir_all(below("oardocker/ab/node2")).unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            fs::write(below("oardocker/ab/node2").join(file), "\n").unwrap();
        }
        let cgroups = Cgroups::detect(dir.path()).unwrap();
        cgroups.create("ab", "node1", None).unwrap();
        cgroups.create("ab", "node2", None).unwrap();
        let cpus = |group: &str| fs::read_to_string(below(group).join("cpuset.cpus")).unwrap().trim().to_owned();
        assert_eq!([cpus("oardocker"), cpus("oardocker/ab"), cpus("oardocker/ab/node2")], ["0-1", "0-1", "0-1"]);
        assert_eq!(cpus("oardocker/ab/node1"), "0", "what a node that runs has is its own");
    }

    #[test]
    fn a_node_appears_in_every_hierarchy_and_goes_again() {
        let dir = tree(&["unified/cgroup.procs", "cpuset/tasks", "memory/tasks", "other/file"]);
        let cgroups = Cgroups::detect(dir.path()).unwrap();
        cgroups.create("ab", "node1", None).unwrap();
        cgroups.create("cd", "node1", None).unwrap();
        for controller in ["unified", "cpuset", "memory"] {
            assert!(dir.path().join(controller).join("oardocker/ab/node1").is_dir());
        }
        assert!(!dir.path().join("other/oardocker").exists());
        let names: Vec<_> = cgroups.for_jobs("ab", "node1").into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["cpuset", "memory"]);
        cgroups.remove("ab").unwrap();
        assert!(!cgroups.exists("ab"));
        assert!(cgroups.exists("cd"));
        cgroups.remove("cd").unwrap();
        assert!(!dir.path().join("cpuset/oardocker").exists());
        cgroups.remove("cd").unwrap();
    }
}
