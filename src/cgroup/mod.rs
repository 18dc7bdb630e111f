//! The host's cgroups under `--cgroup-path`, and the part of them that belongs to one cluster.
//!
//! ```text
//! <controller>/oardocker/<env id>/<node>       v1 and hybrid: one such path per controller
//! oardocker/<env id>/<node>                    v2
//! ```
//! The root is a parameter, so that everything here can be tested on plain directories.

use crate::error::{Context as _, Error, Result};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

/// The controllers of v2 that a node can hand on to its jobs.
const HANDED_DOWN: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// What of the host's devices a cluster has at most, as v1 writes it: what OCI runtimes and engines give every container, and tun
/// and fuse. A container's root may rewrite its own list, but not to more than this.
const DEVICES: [&str; 13] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
    "c 10:200 rwm",
    "c 10:229 rwm",
];

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
        Ok(Self { root: root.into(), layout, for_jobs, foreign: false })
    }

    /// The same where the engine makes the containers' cgroups: nothing is made or removed.
    pub fn of_the_engine(self) -> Self {
        Self { foreign: true, ..self }
    }

    /// Fails where a container's systemd could not have cgroups of its own: v1 has no safe way to leave some to a user.
    pub fn require_delegation(&self) -> Result<()> {
        if !self.foreign || self.layout == Layout::Unified {
            return Ok(());
        }
        Err(Error::new("without root a cluster needs a host with unified (v2) cgroups, and this one has v1")
            .hint("boot the host with systemd.unified_cgroup_hierarchy=1 on the kernel's command line, or run oardocker as root"))
    }

    /// Directories of ours that hold a hierarchy each; symbolic links are second names for the same.
    fn hierarchies(&self) -> Vec<PathBuf> {
        if self.foreign {
            return Vec::new();
        }
        if self.layout == Layout::Unified {
            return vec![self.root.clone()];
        }
        let mut found: Vec<PathBuf> = fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .map(|e| e.path())
            .filter(|p| p.join("cgroup.procs").exists() || p.join("tasks").exists())
            .collect();
        found.sort();
        found
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
        (!self.foreign).then(|| node_path(env_id, node))
    }

    /// The path, below any controller, that containers of an environment have theirs in; none where the engine finds them a place.
    pub fn parent(&self, env_id: &str) -> Option<String> {
        (!self.foreign).then(|| format!("/{OURS}/{env_id}"))
    }

    /// Creates a node's directories in every hierarchy. A v1 cpuset starts empty and would hold no process.
    pub fn create(&self, env_id: &str, node: &str) -> Result<()> {
        self.create_path(&node_path(env_id, node))
    }

    /// Creates the directories that those of an environment's containers are made in.
    pub fn create_parent(&self, env_id: &str) -> Result<()> {
        self.create_path(&format!("/{OURS}/{env_id}"))
    }

    fn create_path(&self, path: &str) -> Result<()> {
        for hierarchy in self.hierarchies() {
            let mut dir = hierarchy.clone();
            for (depth, part) in path[1..].split('/').enumerate() {
                let parent = dir.clone();
                dir.push(part);
                let new = match fs::create_dir(&dir) {
                    Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                        return Err(e).doing(|| format!("cannot create cgroup {}", dir.display()));
                    }
                    outcome => outcome.is_ok(),
                };
                if self.layout == Layout::Unified {
                    hand_down(&parent);
                }
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    inherit(&parent.join(file), &dir.join(file), self.layout, depth < 2)?;
                }
                // Of an environment as a whole, and while nothing is below it: the kernel wants it so.
                if new && depth == 1 {
                    restrict_devices(&dir)?;
                }
            }
        }
        Ok(())
    }

    /// Removes the directories of a whole environment, from the inside out.
    pub fn remove(&self, env_id: &str) -> Result<()> {
        let mut errors = Vec::new();
        for hierarchy in self.hierarchies() {
            let ours = hierarchy.join(OURS);
            errors.extend(remove_tree(&ours.join(env_id)).err());
            // The last cluster takes the common parent along; others keep it busy.
            let _ = fs::remove_dir(&ours);
        }
        Error::all(errors)
    }

    /// The same. It is patient with dying processes, so not on the thread that hears Ctrl-C.
    pub async fn remove_patiently(&self, env_id: &str) -> Result<()> {
        let (cgroups, id) = (self.clone(), env_id.to_owned());
        tokio::task::spawn_blocking(move || cgroups.remove(&id)).await.doing(|| "cannot remove cgroups".into())?
    }

    /// Cgroups of an environment that exist.
    pub fn exists(&self, env_id: &str) -> bool {
        self.hierarchies().iter().any(|h| h.join(OURS).join(env_id).exists())
    }
}

/// Lets the children of a v2 cgroup use its controllers. What the host does not give, the nodes do not have, and `start` says
/// then that jobs are not confined.
fn hand_down(dir: &Path) {
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let (available, given) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let has = |list: &str, name: &str| list.split_whitespace().any(|c| c == name);
    for controller in HANDED_DOWN.iter().filter(|c| has(&available, c) && !has(&given, c)) {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Takes from a cgroup of v1's controller of devices what no container may have.
fn restrict_devices(dir: &Path) -> Result<()> {
    let (deny, allow) = (dir.join("devices.deny"), dir.join("devices.allow"));
    if !deny.exists() {
        return Ok(());
    }
    let write = |path: &Path, text: &str| {
        fs::write(path, text).doing(|| format!("cannot write {text:?} to {}", path.display()))
    };
    write(&deny, "a")?;
    DEVICES.iter().try_for_each(|device| write(&allow, device))
}

/// Gives a v1 cpuset what its parent has: where others are below it, again each time, since v1 takes a CPU that goes off out of all
/// cpusets and gives it back to none.
fn inherit(from: &Path, to: &Path, layout: Layout, again: bool) -> Result<()> {
    if layout == Layout::Unified || !to.exists() {
        return Ok(());
    }
    let has = fs::read_to_string(to).unwrap_or_default();
    if !again && !has.trim().is_empty() {
        return Ok(());
    }
    let value = fs::read_to_string(from).doing(|| format!("cannot read {}", from.display()))?;
    if value.trim() == has.trim() {
        return Ok(());
    }
    fs::write(to, value.trim()).doing(|| format!("cannot write {}", to.display()))
}

/// A killed process stays in its cgroup until the kernel is done with it, and v1 has no event that tells when.
const DYING: Duration = Duration::from_secs(10);

fn remove_tree(dir: &Path) -> Result<()> {
    let deadline = Instant::now() + DYING;
    loop {
        match try_remove(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(nix::libc::EBUSY) && Instant::now() < deadline => {
                // The containers are gone; what an engine that died has forgotten in our cgroups goes now.
                kill_all(dir);
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(e) => {
                return Err(e)
                    .doing(|| format!("cannot remove cgroup {}", dir.display()))
                    .map_err(|e| e.detail(processes(dir)));
            }
        }
    }
}

fn try_remove(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        try_remove(&entry.path())?;
    }
    fs::remove_dir(dir)
}

fn kill_all(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        kill_all(&child.path());
    }
    let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|p| p.parse().ok()).filter(|p| *p > 0) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Who is still in there, for the error.
fn processes(dir: &Path) -> Vec<String> {
    let children = fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
    let below = children.flat_map(|e| processes(&e.path()));
    let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let line = |pid: &str| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("{}: process {pid} {}", dir.display(), name.trim())
    };
    pids.lines().map(line).chain(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn v2_controllers_are_handed_down_to_the_node() {
        let dir = tree(&["cgroup.procs"]);
        fs::write(dir.path().join("cgroup.controllers"), "cpuset memory hugetlb").unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "memory").unwrap();
        let cgroups = Cgroups::detect(dir.path()).unwrap();
        cgroups.create("ab", "node1").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap(), "+cpuset");
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
        cgroups.create("ab", "node1").unwrap();
        cgroups.create("ab", "node2").unwrap();
        let cpus = |group: &str| fs::read_to_string(below(group).join("cpuset.cpus")).unwrap().trim().to_owned();
        assert_eq!([cpus("oardocker"), cpus("oardocker/ab"), cpus("oardocker/ab/node2")], ["0-1", "0-1", "0-1"]);
        assert_eq!(cpus("oardocker/ab/node1"), "0", "what a node that runs has is its own");
    }

    #[test]
    fn a_node_appears_in_every_hierarchy_and_goes_again() {
        let dir = tree(&["unified/cgroup.procs", "cpuset/tasks", "memory/tasks", "other/file"]);
        let cgroups = Cgroups::detect(dir.path()).unwrap();
        cgroups.create("ab", "node1").unwrap();
        cgroups.create("cd", "node1").unwrap();
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
