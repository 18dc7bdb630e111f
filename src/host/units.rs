//! Programs that outlive a command of a user without root: units of the user's systemd, which ends them with the user's last session, and
//! gives them cgroups that are the user's to divide.

use super::Machine;
use crate::error::{Doing as _, Error, Result};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// How many seconds a unit may take to be ready.
const READY: u32 = 60;

/// Starts the unit that keeps this machine's namespaces: an oardocker with these variables. It returns when that says that it is ready.
/// What it says goes to `log`.
pub fn start_unit(machine: &Machine, program: &Path, variables: &[(&str, &OsStr)], log: &Path) -> Result<()> {
    let doing = || format!("cannot start {} with your systemd", machine.unit());
    let mut command = Command::new("systemd-run");
    command.args(["--user", "--quiet", "--collect", "--service-type=notify"]).arg(format!("--unit={}", machine.unit()));
    command.arg("--description=oardocker: a user's containers");
    // What is ended from outside is ended at once: nodes are asked by `oardocker stop`, and by nobody else.
    for property in ["Delegate=yes", "KillSignal=SIGKILL", &format!("TimeoutStartSec={READY}")] {
        command.arg(format!("--property={property}"));
    }
    for stream in ["StandardOutput", "StandardError"] {
        command.arg(format!("--property={stream}=append:{}", log.display()));
    }
    for (name, value) in variables {
        let mut setting = std::ffi::OsString::from(format!("--setenv={name}="));
        setting.push(value);
        command.arg(setting);
    }
    // The word is for who looks at processes.
    command.arg("--").arg(program).arg("--holder");
    run(command).doing(doing)
}

/// Ends it with all that is in it, and waits for that. None there is fine.
pub fn stop_unit(machine: &Machine) -> Result<()> {
    let mut command = Command::new("systemctl");
    command.args(["--user", "--quiet", "stop", &machine.unit()]);
    match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status() {
        // 5: it is not known.
        Ok(status) if status.success() || status.code() == Some(5) => Ok(()),
        Ok(status) => Err(Error::new(format!("systemctl ended with {status}"))),
        Err(e) => Err(Error::new(e.to_string())),
    }
    .doing(|| format!("cannot stop {}", machine.unit()))
}

/// A command as a scope of the user's systemd, which ends with the unit of this machine's namespaces.
pub fn in_scope(machine: &Machine, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("systemd-run");
    command.args(["--user", "--scope", "--quiet", "--collect"]);
    command.arg(format!("--property=BindsTo={}", machine.unit())).arg("--").arg(program);
    command
}

fn run(mut command: Command) -> Result<()> {
    let out = command.stdin(Stdio::null()).stdout(Stdio::null()).output().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::new("there is no systemd-run"),
        _ => Error::new(e.to_string()),
    })?;
    if out.status.success() {
        return Ok(());
    }
    Err(Error::new(String::from_utf8_lossy(&out.stderr).trim().to_owned()))
}
