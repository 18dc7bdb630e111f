//! One cgroup, as one thing in however many hierarchies hold it: cgroups-rs does the work, in hierarchies below a root that is given.
//!
//! Directories are made and removed here, and so is what that crate lacks: decision 13 has the cases.

use super::Layout;
use crate::error::{Doing as _, Error, Result};
use crate::host::Ids;
use cgroups_rs::CgroupPid;
use cgroups_rs::fs::blkio::BlkIoController;
use cgroups_rs::fs::cgroup::Cgroup;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::devices::{DevicePermissions, DeviceType, DevicesController};
use cgroups_rs::fs::freezer::FreezerController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::systemd::SystemdController;
use cgroups_rs::fs::{ControllIdentifier, Controller, Hierarchy, MaxValue, Subsystem};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A device or many, as v1 lists them: kind, major and minor number (-1 is any), what may be done.
pub(super) type Device = (DeviceType, i64, i64, &'static [DevicePermissions]);

/// The controllers of v2 that a node can hand on to its jobs.
const HANDED_DOWN: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// What says on v1 who is in a cgroup.
const V1_MEMBERS: [&str; 2] = ["cgroup.procs", "tasks"];

/// The same on v2, where the kernel does not tell what else is to be given with it.
const V2_MEMBERS: [&str; 3] = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];

/// A killed process stays in its cgroup until the kernel is done with it, and v1 has no event that tells when.
const DYING: Duration = Duration::from_secs(10);

/// The mounted hierarchies.
#[derive(Debug, Clone)]
pub(super) struct Mounted {
    pub(super) root: PathBuf,
    pub(super) layout: Layout,
}

impl Mounted {
    /// The directories that a hierarchy each is mounted at, with its name; symbolic links are second names for the same.
    fn dirs(&self) -> Vec<(String, PathBuf)> {
        if self.layout == Layout::Unified {
            return vec![("unified".into(), self.root.clone())];
        }
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut found: Vec<(String, PathBuf)> = entries
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .map(|e| (e.file_name().to_string_lossy().into_owned(), e.path()))
            .filter(|(_, p)| p.join("cgroup.procs").exists() || p.join("tasks").exists())
            .collect();
        found.sort();
        found
    }

    /// The controllers of v2 that the host has.
    fn controllers(&self) -> Vec<String> {
        words(&self.root.join("cgroup.controllers")).into_iter().chain(["freezer".into()]).collect()
    }
}

impl Hierarchy for Mounted {
    fn subsystems(&self) -> Vec<Subsystem> {
        let v2 = self.layout == Layout::Unified;
        // Each directory as such comes first: it is there whatever controllers there are.
        let plain = |(_, dir): &(String, PathBuf)| generic(dir, v2);
        let dirs = self.dirs();
        let known = dirs.iter().flat_map(|(name, dir)| {
            let names = if v2 { self.controllers() } else { name.split(',').map(ToOwned::to_owned).collect() };
            names.into_iter().filter_map(|name| subsystem(&name, dir, v2)).collect::<Vec<_>>()
        });
        dirs.iter().map(plain).chain(known).collect()
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn root_control_group(&self) -> Cgroup {
        Cgroup::load(Box::new(self.clone()), "")
    }

    fn parent_control_group(&self, path: &str) -> Cgroup {
        Cgroup::load(Box::new(self.clone()), Path::new(path).parent().unwrap_or(Path::new("")))
    }

    fn v2(&self) -> bool {
        self.layout == Layout::Unified
    }
}

/// Has all files of a cgroup belong to somebody else.
fn withhold(dir: &Path, owner: u32) -> Result<()> {
    let doing = || format!("cannot keep the limits of cgroup {}", dir.display());
    for entry in fs::read_dir(dir).doing(doing)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            chown(entry.path(), Some(owner), Some(owner)).doing(doing)?;
        }
    }
    Ok(())
}

/// The files of a v2 cgroup that go with it to who may manage it.
fn delegated() -> Vec<String> {
    let told = words(Path::new("/sys/kernel/cgroup/delegate"));
    if told.is_empty() { V2_MEMBERS.map(ToOwned::to_owned).into() } else { told }
}

fn generic(dir: &Path, v2: bool) -> Subsystem {
    Subsystem::Systemd(SystemdController::new(dir.to_owned(), dir.to_owned(), v2))
}

fn subsystem(name: &str, dir: &Path, v2: bool) -> Option<Subsystem> {
    let (at, base) = (dir.to_owned(), dir.to_owned());
    Some(match name {
        "cpuset" => Subsystem::CpuSet(CpuSetController::new(at, base, v2)),
        "cpu" => Subsystem::Cpu(CpuController::new(at, base, v2)),
        "cpuacct" => Subsystem::CpuAcct(CpuAcctController::new(at, base)),
        "memory" => Subsystem::Mem(MemController::new(at, base, v2)),
        "pids" => Subsystem::Pid(PidController::new(at, base, v2)),
        "blkio" | "io" => Subsystem::BlkIo(BlkIoController::new(at, base, v2)),
        "devices" => Subsystem::Devices(DevicesController::new(at, base)),
        "freezer" => Subsystem::Freezer(FreezerController::new(at, base, v2)),
        _ => return None,
    })
}

/// What a cgroup may use at most; none is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Processors, as in 1.5.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// What a cgroup uses now; none where no controller counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub memory: Option<u64>,
    /// Time of processors.
    pub cpu: Option<Duration>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// One cgroup.
#[derive(Debug)]
pub struct Group {
    mounted: Mounted,
    path: String,
    inner: Cgroup,
}

impl Group {
    /// The cgroup at a path below the root of each hierarchy, as in `oardocker/ab/node1`; it need not exist.
    pub(super) fn at(mounted: &Mounted, path: &str) -> Self {
        Self { mounted: mounted.clone(), path: path.to_owned(), inner: Cgroup::load(Box::new(mounted.clone()), path) }
    }

    /// Its directories.
    fn dirs(&self) -> Vec<PathBuf> {
        self.mounted.dirs().into_iter().map(|(_, dir)| dir.join(&self.path)).collect()
    }

    /// Whether any hierarchy has it.
    pub fn exists(&self) -> bool {
        self.inner.exists()
    }

    /// Makes it wherever it is missing, in a parent that exists. A v1 cpuset gets what its parent has; where others will be below
    /// it (`shared`), again each time, since v1 takes a CPU that goes off out of all cpusets and gives it back to none.
    pub(super) fn create(&self, shared: bool) -> Result<()> {
        if self.mounted.layout == Layout::Unified {
            let parent = Path::new(&self.path).parent().unwrap_or(Path::new(""));
            hand_down(&self.mounted.root.join(parent));
        }
        for dir in self.dirs() {
            match fs::create_dir(&dir) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                    return Err(e).doing(|| format!("cannot create cgroup {}", dir.display()));
                }
                _ => {}
            }
        }
        match self.inner.controller_of::<CpuSetController>() {
            Some(cpuset) if self.mounted.layout != Layout::Unified => inherit(cpuset, shared),
            _ => Ok(()),
        }
    }

    /// Its list of devices, if a controller of v1 that has it not yet is there: empty it, then allow these. The kernel wants that
    /// done while nothing is below it.
    pub(super) fn create_with_devices(&self, shared: bool, devices: &[Device]) -> Result<()> {
        let controller = self.inner.controller_of::<DevicesController>().filter(|c| !c.exists());
        self.create(shared)?;
        let Some(controller) = controller.filter(|c| c.path().join("devices.deny").exists()) else { return Ok(()) };
        let (all, any) = (DeviceType::All, DevicePermissions::all());
        let restricted = controller.deny_device(all, -1, -1, &any).and_then(|()| {
            devices
                .iter()
                .try_for_each(|(kind, major, minor, what)| controller.allow_device(*kind, *major, *minor, what))
        });
        restricted.doing(|| format!("cannot restrict the devices of cgroup {}", controller.path().display()))
    }

    /// Gives it to an account, which can make cgroups below it and move its own processes between them.
    pub(super) fn give(&self, ids: Ids) -> Result<()> {
        let owner = ids.of(0);
        for (name, dir) in self.mounted.dirs() {
            let dir = dir.join(&self.path);
            // Its limits are that account's already where it is who made it.
            if ids.are_a_user_s() {
                withhold(&dir, ids.stranger())?;
            }
            let files = if name == "unified" { delegated() } else { V1_MEMBERS.map(ToOwned::to_owned).into() };
            for path in [PathBuf::new()].into_iter().chain(files.iter().map(PathBuf::from)).map(|file| dir.join(file)) {
                match chown(&path, Some(owner), Some(owner)) {
                    // A controller's file that the parent does not hand down.
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    outcome => outcome.doing(|| format!("cannot give {} away", path.display()))?,
                }
            }
        }
        Ok(())
    }

    /// When there are fewer processors than work, this many times what another group gets. Where that is not to be had, all get the same.
    pub fn prefer(&self, times: u32) -> Result<()> {
        for (_, dir) in self.mounted.dirs() {
            for (file, usual) in [("cpu.shares", 1024), ("cpu.weight", 100)] {
                let path = dir.join(&self.path).join(file);
                if path.exists() {
                    let doing = || format!("cannot write {}", path.display());
                    std::fs::write(&path, (usual * times).to_string()).doing(doing)?;
                }
            }
        }
        Ok(())
    }

    /// Moves a process here.
    pub fn add(&self, pid: u32) -> Result<()> {
        let moved = self.inner.add_task_by_tgid(CgroupPid::from(u64::from(pid)));
        moved.doing(|| format!("cannot move process {pid} to cgroup {}", self.path))
    }

    /// Stops all processes here and below, until [`Group::thaw`].
    pub fn freeze(&self) -> Result<()> {
        self.freezer()?.freeze().doing(|| format!("cannot freeze cgroup {}", self.path))
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<()> {
        self.freezer()?.thaw().doing(|| format!("cannot thaw cgroup {}", self.path))
    }

    fn freezer(&self) -> Result<&FreezerController> {
        let none = || Error::new(format!("this host has no freezer for cgroup {}", self.path));
        self.inner.controller_of::<FreezerController>().ok_or_else(none)
    }

    /// Sets limits; one that is none is taken away. Fails where no controller can hold one that is wanted.
    pub fn limit(&self, limits: &Limits) -> Result<()> {
        const PERIOD: u64 = 100_000;
        let doing = |what: &str| format!("cannot limit the {what} of cgroup {}", self.path);
        if let Some(memory) = self.limiter::<MemController>("memory", limits.memory.is_some())? {
            let limit = limits.memory.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
            memory.set_limit(limit).doing(|| doing("memory"))?;
        }
        if let Some(cpu) = self.limiter::<CpuController>("processors", limits.cpus.is_some())? {
            let quota = limits.cpus.map_or(-1, |cpus| (cpus * PERIOD as f64).round() as i64);
            cpu.set_cfs_quota_and_period(Some(quota), Some(PERIOD)).doing(|| doing("processors"))?;
        }
        if let Some(pids) = self.limiter::<PidController>("processes", limits.pids.is_some())? {
            let limit = limits.pids.map_or(MaxValue::Max, |pids| MaxValue::Value(pids.into()));
            pids.set_pid_max(limit).doing(|| doing("processes"))?;
        }
        Ok(())
    }

    fn limiter<'a, T>(&'a self, what: &str, wanted: bool) -> Result<Option<&'a T>>
    where
        &'a T: From<&'a Subsystem>,
        T: Controller + ControllIdentifier,
    {
        match self.controller::<T>() {
            None if wanted => Err(Error::new(format!("this host cannot limit the {what} of cgroup {}", self.path))),
            found => Ok(found),
        }
    }

    /// A controller that has this cgroup: on v2 its parent may not have handed it down, and its files are missing then.
    fn controller<'a, T>(&'a self) -> Option<&'a T>
    where
        &'a T: From<&'a Subsystem>,
        T: Controller + ControllIdentifier,
    {
        let file = format!("{}.max", T::controller_type());
        self.inner.controller_of::<T>().filter(|c| !self.inner.v2() || c.path().join(file).exists())
    }

    /// What it uses.
    pub fn usage(&self) -> Usage {
        let v1_time =
            || self.inner.controller_of::<CpuAcctController>().map(|c| Duration::from_nanos(c.cpuacct().usage));
        let v2_time = || {
            let stat = self.inner.controller_of::<CpuController>()?.cpu().stat;
            let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok());
            micros.map(Duration::from_micros)
        };
        Usage {
            memory: self.controller::<MemController>().map(|c| c.memory_stat().usage_in_bytes),
            cpu: v1_time().or_else(v2_time),
            pids: self.controller::<PidController>().and_then(|c| c.get_pid_current().ok()),
        }
    }

    /// Kills all processes here and below.
    pub fn kill(&self) {
        if self.inner.kill().is_err() {
            self.dirs().iter().for_each(|dir| kill_all(dir));
        }
    }

    /// Removes it with all below it, wherever it can be.
    pub(super) fn delete(&self) -> Result<()> {
        Error::all(self.dirs().iter().filter_map(|dir| self.delete_dir(dir).err()).collect())
    }

    fn delete_dir(&self, dir: &Path) -> Result<()> {
        let deadline = Instant::now() + DYING;
        loop {
            match remove_tree(dir) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                Err(e) if e.raw_os_error() == Some(nix::libc::EBUSY) && Instant::now() < deadline => {
                    // The containers are gone; what an engine that died has forgotten in our cgroups goes now.
                    self.kill();
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

    /// Removes it unless something is in it or below it.
    pub(super) fn remove_if_empty(&self) {
        for dir in self.dirs() {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// The cgroups right below one. Their names are a container's root's: any bytes.
fn below(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path())
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    fs::read_dir(dir)?;
    below(dir).try_for_each(|child| remove_tree(&child))?;
    fs::remove_dir(dir)
}

fn kill_all(dir: &Path) {
    below(dir).for_each(|child| kill_all(&child));
    for pid in words(&dir.join("cgroup.procs")).iter().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 0) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Who is still in there, for the error.
fn processes(dir: &Path) -> Vec<String> {
    let line = |pid: String| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("{}: process {pid} {}", dir.display(), name.trim())
    };
    let here = words(&dir.join("cgroup.procs")).into_iter().map(line);
    here.chain(below(dir).flat_map(|child| processes(&child))).collect()
}

fn words(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().split_whitespace().map(ToOwned::to_owned).collect()
}

/// Lets the children of a v2 cgroup use its controllers. What the host does not give, the nodes do not have, and `start` says
/// then that jobs are not confined.
fn hand_down(dir: &Path) {
    // One with processes of its own would become a threaded one by that, whose children hold no process. The root has no type.
    if dir.join("cgroup.type").exists() && !words(&dir.join("cgroup.procs")).is_empty() {
        return;
    }
    let (available, given) = (words(&dir.join("cgroup.controllers")), words(&dir.join("cgroup.subtree_control")));
    let has = |list: &[String], name: &str| list.iter().any(|word| word == name);
    for controller in HANDED_DOWN.iter().filter(|c| has(&available, c) && !has(&given, c)) {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

fn inherit(cpuset: &CpuSetController, again: bool) -> Result<()> {
    let parent = cpuset.path().parent().unwrap_or(cpuset.base());
    let set = |file: &str, set: &dyn Fn(&str) -> cgroups_rs::fs::error::Result<()>| {
        let path = cpuset.path().join(file);
        if !path.exists() {
            return Ok(());
        }
        let has = fs::read_to_string(&path).unwrap_or_default();
        if !again && !has.trim().is_empty() {
            return Ok(());
        }
        let value =
            fs::read_to_string(parent.join(file)).doing(|| format!("cannot read {}", parent.join(file).display()))?;
        if value.trim() == has.trim() {
            return Ok(());
        }
        set(value.trim()).doing(|| format!("cannot write {}", path.display()))
    };
    set("cpuset.cpus", &|value| cpuset.set_cpus(value))?;
    set("cpuset.mems", &|value| cpuset.set_mems(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// Of the host, as it is.
    fn host() -> Mounted {
        let root = PathBuf::from("/sys/fs/cgroup");
        let layout = super::super::Cgroups::detect(&root).unwrap().layout;
        Mounted { root, layout }
    }

    /// A cgroup of this test's own, with a process in it; both go with it.
    struct Busy(Group, Child);

    impl Busy {
        fn new(name: &str, program: &[&str]) -> Self {
            let mounted = host();
            let parent = format!("oardocker-unit-{name}-{}", std::process::id());
            Group::at(&mounted, &parent).create(true).unwrap();
            let group = Group::at(&mounted, &format!("{parent}/node1"));
            group.create(false).unwrap();
            let child = Command::new(program[0]).args(&program[1..]).spawn().unwrap();
            group.add(child.id()).unwrap();
            Self(group, child)
        }
    }

    impl Drop for Busy {
        fn drop(&mut self) {
            let _ = self.0.thaw();
            let _ = self.1.kill();
            let _ = self.1.wait();
            Group::at(&self.0.mounted, self.0.path.trim_end_matches("/node1")).delete().unwrap();
        }
    }

    fn state(child: &Child) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.rsplit(')').next().unwrap().trim().chars().next().unwrap()
    }

    #[test]
    #[ignore = "needs root"]
    fn a_process_is_moved_counted_frozen_and_killed_on_this_host() {
        let mut busy = Busy::new("life", &["sh", "-c", "while :; do :; done"]);
        let used = || busy.0.usage().cpu.unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(used() > Duration::from_millis(50), "{:?}", used());
        assert!(busy.0.usage().memory.is_some_and(|bytes| bytes < 1 << 30), "{:?}", busy.0.usage());
        busy.0.freeze().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        busy.0.prefer(8).unwrap();
        let told = [("cpu/{}/cpu.shares", "8192"), ("{}/cpu.weight", "800"), ("unified/{}/cpu.weight", "800")].map(
            |(file, value)| {
                let file = Path::new("/sys/fs/cgroup").join(file.replace("{}", &busy.0.path));
                std::fs::read_to_string(file).is_ok_and(|text| text.trim() == value)
            },
        );
        assert!(told.contains(&true), "{told:?}");
        let before = used();
        std::thread::sleep(Duration::from_millis(300));
        assert!(used() < before + Duration::from_millis(20), "it still runs: {:?} {:?}", used(), before);
        busy.0.thaw().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(used() > before + Duration::from_millis(50), "it does not go on");
        assert_eq!(state(&busy.1), 'R');
        busy.0.kill();
        assert!(!busy.1.wait().unwrap().success());
    }

    #[test]
    #[ignore = "needs root"]
    fn limits_hold_on_this_host() {
        let mut busy =
            Busy::new("limits", &["sh", "-c", "sleep 0.5; sleep 0.1 & sleep 0.1 & sleep 0.1 & wait || exit 3"]);
        busy.0.limit(&Limits { memory: Some(1 << 26), cpus: Some(0.5), pids: Some(2) }).unwrap();
        assert_eq!(busy.1.wait().unwrap().code(), Some(2), "a shell that cannot fork ends with 2");
        busy.0.limit(&Limits::default()).unwrap();
    }

    #[test]
    #[ignore = "needs root"]
    fn what_is_below_goes_with_it() {
        let busy = Busy::new("below", &["sleep", "100"]);
        let below = Group::at(&busy.0.mounted, &format!("{}/job", busy.0.path));
        below.create(false).unwrap();
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        below.add(child.id()).unwrap();
        let dir = below.dirs().remove(0);
        let told = processes(dir.parent().unwrap());
        assert!(told.contains(&format!("{}: process {} sleep", dir.display(), child.id())), "{told:?}");
        let waiter = std::thread::spawn(move || child.wait().unwrap());
        busy.0.delete().unwrap();
        assert!(!below.exists() && !busy.0.exists());
        assert!(!waiter.join().unwrap().success(), "it was killed");
    }
}
