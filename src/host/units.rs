//! Programs that outlive a command of a user without root: units of the user's systemd, which ends them with the user's last session, and
//! gives them cgroups that are the user's to divide.

use super::Machine;
use crate::error::{Doing as _, Error, Result};
use nix::fcntl::{FcntlArg, fcntl};
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How many seconds a unit may take to be ready.
const READY: u32 = 60;

/// How long systemd may take to forget a unit that has ended: until then it has no other of that name, and no event tells.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// All units of this machine's oardocker are in one slice, so that they can be ended together.
fn slice(machine: &Machine) -> String {
    // A dash would put it into another one.
    machine.unit().replace('-', "_").replace(".service", ".slice")
}

/// Starts the unit that keeps this machine's namespaces: an oardocker with these variables. It returns when that says that it is ready.
/// What it says goes to `log`.
pub fn start_unit(machine: &Machine, program: &Path, variables: &[(&str, &OsStr)], log: &Path) -> Result<()> {
    let doing = || format!("cannot start {} with your systemd", machine.unit());
    let mut command = Command::new("systemd-run");
    command.args(["--user", "--quiet", "--collect", "--service-type=notify"]).arg(format!("--unit={}", machine.unit()));
    command.arg(format!("--slice={}", slice(machine)));
    command.arg("--description=oardocker: a user's containers");
    // What is ended from outside is ended at once: nodes are asked by `oardocker stop`, and by nobody else.
    for property in ["Delegate=yes", "TasksMax=infinity", "KillSignal=SIGKILL", &format!("TimeoutStartSec={READY}")] {
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
    let deadline = Instant::now() + FORGOTTEN;
    loop {
        match run(&mut command) {
            Err(e) if e.to_string().contains("already") && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            outcome => return outcome.doing(doing),
        }
    }
}

/// Ends it with all that is in it and bound to it, and waits for that. None there is fine.
pub fn stop_unit(machine: &Machine) -> Result<()> {
    let mut command = Command::new("systemctl");
    command.args(["--user", "--quiet", "stop", &slice(machine)]);
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
    command.args(["--user", "--scope", "--quiet", "--collect", "--property=KillSignal=SIGKILL"]);
    command.arg(format!("--slice={}", slice(machine)));
    command.arg(format!("--property=BindsTo={}", machine.unit())).arg("--").arg(program);
    command
}

fn lock_file(machine: &Machine) -> PathBuf {
    machine.runtime_dir().join("holder")
}

fn whole_file() -> nix::libc::flock {
    nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// The process that keeps the namespaces: it has a lock, and the kernel tells whose that is.
pub fn holder_of(machine: &Machine) -> Option<i32> {
    let file = File::options().write(true).open(lock_file(machine)).ok()?;
    let mut lock = whole_file();
    fcntl(&file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    (i32::from(lock.l_type) != nix::libc::F_UNLCK && lock.l_pid > 0).then_some(lock.l_pid)
}

/// Says that this process is the one that others have to enter, as long as the value.
pub fn declare_holder(machine: &Machine) -> Result<File> {
    let path = lock_file(machine);
    let doing = || format!("cannot lock {}", path.display());
    let file = File::options().write(true).create(true).truncate(false).open(&path).doing(doing)?;
    fcntl(&file, FcntlArg::F_SETLK(&whole_file())).doing(doing)?;
    Ok(file)
}

fn run(command: &mut Command) -> Result<()> {
    let out = command.stdin(Stdio::null()).stdout(Stdio::null()).output().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::new("there is no systemd-run"),
        _ => Error::new(e.to_string()),
    })?;
    if out.status.success() {
        return Ok(());
    }
    Err(Error::new(String::from_utf8_lossy(&out.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_process_that_holds_is_told_by_the_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::below(dir.path());
        assert_eq!(holder_of(&machine), None, "there is no file");
        fs::create_dir_all(machine.runtime_dir()).unwrap();
        fs::write(lock_file(&machine), "").unwrap();
        assert_eq!(holder_of(&machine), None, "nobody has it");
        // A lock of one's own is none for who asks; so another process has it.
        let mut child = std::process::Command::new("python3")
            .args([
                "-c",
                "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.lockf(f,fcntl.LOCK_EX); print(1,flush=True); input()",
            ])
            .arg(lock_file(&machine))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        assert_eq!(holder_of(&machine), i32::try_from(child.id()).ok());
        assert!(declare_holder(&machine).is_err(), "there is one at most");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(holder_of(&machine), None, "it goes with its process");
    }
}
