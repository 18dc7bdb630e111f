//! The process that keeps a user's namespaces, as a service of the user's systemd: it makes them, with a containerd inside that it starts
//! again should it be killed, until it is asked to end. All that runs in them is in its cgroup or bound to its unit, and ends with it.

use super::{own, requirements};
use crate::engine::containerd;
use crate::error::{Doing as _, Error, Result};
use crate::host::{self, Machine, Range, Root};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The variable that makes an oardocker a holder.
pub const VARIABLE: &str = "_OARDOCKER_HOLDER";

/// Its own cgroup in that of its unit: a cgroup that is divided has no processes itself.
pub(super) const LEAF: &str = "/holder";

/// Some kernels refuse the namespace, others what is done in it first.
const FORBIDDEN: &str = "the host forbids user namespaces to users (sysctl kernel.unprivileged_userns_clone or \
                         kernel.apparmor_restrict_unprivileged_userns): ask the administrator";

/// A containerd that ends sooner than this after it was started may do so again and again.
const AT_ONCE: Duration = Duration::from_secs(5);

/// How often that is seen without giving up, a second apart.
const ATTEMPTS: u32 = 20;

/// What a holder does, until it is asked to end.
pub fn hold() -> Result<()> {
    let machine = Machine::new(Root::User { cgroup: PathBuf::new() });
    std::env::set_current_dir("/").doing(|| "cannot go to /".into())?;
    let ids = requirements::check(machine.data_dir(), Path::new(own::CGROUPS))?;
    take_leaf()?;
    enter_new(&ids)?;
    own_run_dir(machine.data_dir())?;
    // From here on they are waited for, and come to nobody else.
    let mut awaited = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD].into_iter().for_each(|signal| awaited.add(signal));
    awaited.thread_block().doing(|| "cannot wait for signals".into())?;
    let (mut begun, mut failed) = (Instant::now(), 0);
    let mut running = containerd::run_managed(&machine)?;
    let _declared = host::declare_holder(&machine)?;
    tell_ready()?;
    loop {
        let signal = awaited.wait().doing(|| "cannot wait for signals".into())?;
        if signal != Signal::SIGCHLD {
            end(&mut running);
            return Ok(());
        }
        if let Ok(Some(_)) = running.try_wait() {
            failed = if begun.elapsed() < AT_ONCE { failed + 1 } else { 0 };
            running = again(&machine, &mut failed)?;
            begun = Instant::now();
        }
    }
}

/// Starts containerd anew. The nodes go on without it, and would not without us: so not once only.
fn again(machine: &Machine, failed: &mut u32) -> Result<Child> {
    loop {
        if *failed > 0 {
            std::thread::sleep(Duration::from_secs(1));
        }
        match containerd::run_managed(machine) {
            Err(_) if *failed < ATTEMPTS => *failed += 1,
            outcome => return outcome.doing(|| "containerd has ended, and cannot be started again".into()),
        }
    }
}

fn end(containerd: &mut Child) {
    let _ = kill(Pid::from_raw(i32::try_from(containerd.id()).unwrap_or(0)), Signal::SIGTERM);
    let _ = containerd.wait();
}

fn take_leaf() -> Result<()> {
    let doing = || "cannot divide the cgroup that systemd has left to you".to_owned();
    let text = fs::read_to_string("/proc/self/cgroup").doing(doing)?;
    let unit = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or_else(|| Error::new("it is none of v2"))
        .doing(doing)?;
    let leaf = PathBuf::from(format!("{}{unit}{LEAF}", own::CGROUPS));
    fs::create_dir_all(&leaf).doing(doing)?;
    fs::write(leaf.join("cgroup.procs"), std::process::id().to_string()).doing(doing)
}

/// Makes the namespaces and enters them. Which ids they have is said from outside, by programs that may.
fn enter_new((users, groups): &requirements::Ranges) -> Result<()> {
    let (user, group, pid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw(), std::process::id());
    let script =
        format!("read _ && newuidmap {pid} {} && newgidmap {pid} {}", lines(user, users), lines(group, groups));
    let doing = || "cannot make a user namespace with the ids of /etc/subuid and /etc/subgid".to_owned();
    let mut mapper = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .doing(doing)?;
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|e| {
            let error = Error::new(format!("the kernel refuses it: {e}"));
            match e {
                nix::Error::ENOSPC => error.hint("as root: sysctl -w user.max_user_namespaces=10000"),
                nix::Error::EPERM | nix::Error::EACCES => error.hint(FORBIDDEN),
                _ => error,
            }
        })
        .doing(doing)?;
    if let Some(mut order) = mapper.stdin.take() {
        order.write_all(b"\n").doing(doing)?;
    }
    let out = mapper.wait_with_output().doing(doing)?;
    if !out.status.success() {
        return Err(Error::new(String::from_utf8_lossy(&out.stderr).trim().to_owned())).doing(doing);
    }
    // What is mounted on the host from now on is seen here too, and not the other way round.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .doing(|| "cannot make the mounts of a namespace its own".into())
        .map_err(|e| e.hint(FORBIDDEN))
}

/// What newuidmap is told: the account itself is root, and others follow.
fn lines(own: u32, ranges: &[Range]) -> String {
    let mut text = format!("0 {own} 1");
    let mut next = 1;
    for range in ranges {
        text.push_str(&format!(" {next} {} {}", range.first, range.count));
        next += range.count;
    }
    text
}

/// Puts a `/run` of our own in the place of the host's, with all that is there but for `/run/containerd`: there, and nowhere else, containerd
/// makes the sockets of its shims and runc keeps what it knows.
fn own_run_dir(data: &Path) -> Result<()> {
    let (place, run) = (data.join("run"), Path::new("/run"));
    let doing = || "cannot make a /run for containerd".to_owned();
    fs::create_dir_all(&place).doing(doing)?;
    mount(Some("tmpfs"), &place, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
        .doing(doing)?;
    for entry in fs::read_dir(run).doing(doing)?.flatten() {
        let (from, to) = (entry.path(), place.join(entry.file_name()));
        let Ok(kind) = entry.file_type() else { continue };
        if entry.file_name() == "containerd" {
            continue;
        }
        if kind.is_symlink() {
            let _ = fs::read_link(&from).and_then(|target| symlink(target, &to));
            continue;
        }
        let made = if kind.is_dir() { fs::create_dir(&to) } else { File::create(&to).map(drop) };
        made.doing(doing)?;
        // One that has gone meanwhile, or is not ours to see, is missing here.
        let _ = mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>);
    }
    mount(Some(&place), run, None::<&str>, MsFlags::MS_MOVE, None::<&str>).doing(doing)?;
    fs::remove_dir(&place).doing(doing)
}

/// Says to systemd that we are ready.
fn tell_ready() -> Result<()> {
    let doing = || "cannot tell systemd that the namespaces are there".to_owned();
    let socket =
        std::env::var_os("NOTIFY_SOCKET").ok_or_else(|| Error::new("NOTIFY_SOCKET is not set")).doing(doing)?;
    UnixDatagram::unbound().and_then(|sender| sender.send_to(b"READY=1", socket)).map(drop).doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_each_other() {
        let ranges = [Range { first: 200_000, count: 60_000 }, Range { first: 300_000, count: 5_535 }];
        assert_eq!(lines(1000, &ranges), "0 1000 1 1 200000 60000 60001 300000 5535");
    }
}
