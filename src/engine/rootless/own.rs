//! Namespaces of oardocker's own, one pair for each user and runtime directory, with a containerd in them. The first command that needs them
//! has the user's systemd run a [`super::holder`]; they end with that: at the last `destroy`, with the user's last session, or at a reboot.
//!
//! ```text
//! <runtime dir>/holder       locked by the process that keeps the namespaces ([`crate::host::holder_of`])
//!              /holder.lock  held while one oardocker looks for it and starts it
//!              /holder.log   what it says
//! ```

use super::{holder, join, requirements};
use crate::engine::containerd;
use crate::error::{Doing as _, Error, Result};
use crate::host::{self, Machine, Root};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where hosts mount cgroups.
pub(super) const CGROUPS: &str = "/sys/fs/cgroup";

/// Enters them, made first if they are not there.
pub(super) fn enter() -> Result<Machine> {
    let doing = || "cannot run containers without root".to_owned();
    requirements::session().doing(doing)?;
    see_all_programs();
    // Where directories are is the same for each kind of root that is a user's.
    let machine = Machine::new(Root::User { cgroup: PathBuf::new() });
    let pid = match host::holder_of(&machine) {
        Some(pid) => pid,
        None => begin(&machine).doing(doing)?,
    };
    let cgroup = cgroup_of(pid).doing(doing)?;
    join(&pid.to_string()).doing(|| format!("cannot enter the namespaces of process {pid}, which are yours"))?;
    Ok(Machine::new(Root::User { cgroup }))
}

/// A user's `PATH` may lack directories in which there are programs that we run.
fn see_all_programs() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain(requirements::SBIN.map(PathBuf::from));
    if let Ok(path) = std::env::join_paths(all) {
        // SAFETY: there is one thread.
        unsafe { std::env::set_var("PATH", path) };
    }
}

/// Has the user's systemd run a holder, unless somebody was faster.
fn begin(machine: &Machine) -> Result<i32> {
    let dir = machine.runtime_dir();
    host::private_dir(dir)?;
    host::private_dir(machine.data_dir())?;
    let path = dir.join("holder.lock");
    let lock = File::create(&path).doing(|| format!("cannot create {}", path.display()))?;
    let _lock = host::lock(lock).doing(|| format!("cannot take the lock {}", path.display()))?;
    if let Some(pid) = host::holder_of(machine) {
        return Ok(pid);
    }
    requirements::check(machine.data_dir(), Path::new(CGROUPS))?;
    containerd::require_short_socket(machine)?;
    // One that was killed may not be gone with all that it kept.
    host::stop_unit(machine)?;
    let log = dir.join("holder.log");
    File::create(&log).doing(|| format!("cannot create {}", log.display()))?;
    let program = std::env::current_exe().doing(|| "cannot tell where oardocker is".into())?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let variables: [(&str, &OsStr); 4] = [
        (holder::VARIABLE, OsStr::new("1")),
        ("OARDOCKER_DATA_DIR", machine.data_dir().as_os_str()),
        ("OARDOCKER_RUNTIME_DIR", dir.as_os_str()),
        ("PATH", &path),
    ];
    let begun = host::start_unit(machine, &program, &variables, &log);
    match (begun, host::holder_of(machine)) {
        (Ok(()), Some(pid)) => Ok(pid),
        (begun, _) => {
            let error = begun.err().unwrap_or_else(|| Error::new("it ended at once"));
            let text = fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<String> = text.lines().rev().take(10).map(Into::into).collect();
            Err(error.detail(last.into_iter().rev()).hint(format!("its log is {}", log.display())))
        }
    }
}

/// The cgroup of the unit that a holder is in: it has one of its own in there.
fn cgroup_of(pid: i32) -> Result<PathBuf> {
    let file = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&file).doing(|| format!("cannot read {file}"))?;
    let (unit, in_leaf) =
        unit_of(&text).ok_or_else(|| Error::new(format!("{file} has no cgroup that was left to you: {text:?}")))?;
    if !in_leaf {
        gather(&Path::new(CGROUPS).join(unit.trim_start_matches('/')))?;
    }
    Ok(unit.into())
}

/// Moves all that is in a unit's cgroup itself to the holder's. A systemd puts what it has forked there from both sides, and its own may
/// come when the holder has moved already.
fn gather(unit: &Path) -> Result<()> {
    let doing = || format!("cannot divide the cgroup {}", unit.display());
    let to = unit.join(holder::LEAF.trim_start_matches('/')).join("cgroup.procs");
    loop {
        let left = fs::read_to_string(unit.join("cgroup.procs")).doing(doing)?;
        if left.is_empty() {
            return Ok(());
        }
        for pid in left.lines() {
            match fs::write(&to, pid) {
                // It has ended.
                Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => {}
                outcome => outcome.doing(doing)?,
            }
        }
    }
}

/// Of the text of `/proc/<pid>/cgroup`: the unit, and whether the process is in the holder's part of it.
fn unit_of(text: &str) -> Option<(String, bool)> {
    let own = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (unit, in_leaf) = own.strip_suffix(holder::LEAF).map_or((own, false), |unit| (unit, true));
    (unit.starts_with('/') && unit.ends_with(".service")).then(|| (unit.to_owned(), in_leaf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_s_cgroup_is_above_its_holder_s() {
        let unit = "/user.slice/user-1000.slice/user@1000.service/app.slice/oardocker-1.service";
        assert_eq!(unit_of(&format!("0::{unit}/holder\n")), Some((unit.into(), true)));
        assert_eq!(unit_of(&format!("1:cpu:/\n0::{unit}\n")), Some((unit.into(), false)), "systemd was late");
        for text in ["0::/holder\n", "0::/user.slice/session-1.scope\n", "1:cpuset:/holder\n", ""] {
            assert_eq!(unit_of(text), None, "{text}");
        }
    }
}
