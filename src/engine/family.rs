//! The processes of one exec session, as the host's /proc shows them: a signal reaches all of them, and when the first one has ended
//! the others are hung up, as they are when a terminal goes away. Who detaches on purpose stays: with nohup, setsid or systemd-run.
//!
//! Knows numbers of processes; knows neither engines nor what runs.

use crate::error::{Doing as _, Result};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// How long a session that has ended is listened to for what others who have its streams say, in one silence.
const SILENCE: Duration = Duration::from_millis(250);

/// What a shell has just started in the background may be the shell still, or one of those: so long they are waited for.
const ON_THEIR_WAY: Duration = Duration::from_millis(250);
/// The same for what is read from a slow disk.
const READ_FROM_DISK: Duration = Duration::from_secs(3);
/// How long what is hung up may take to end.
const LAST_WORDS: Duration = Duration::from_millis(250);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// What the kernel shows to programs on every machine that we run on.
const TICKS_PER_SECOND: f64 = 100.0;
/// How long an engine may take to tell the process of a session that it has begun.
const TICKS_OF_ASKING: u64 = 300;
const SHELLS: [&str; 4] = ["sh", "bash", "dash", "zsh"];
const BRIEF: [&str; 2] = ["nohup", "setsid"];

/// What is heard of a session: each piece of output, from when it comes until it is passed on.
#[derive(Debug, Default)]
pub(super) struct Heard {
    something: Notify,
    on_its_way: AtomicUsize,
}

impl Heard {
    /// A piece has come. It has been passed on when the value is dropped: whoever reads slowly is no silence.
    pub(super) fn piece(self: &Arc<Self>) -> PassedOn {
        self.on_its_way.fetch_add(1, Ordering::SeqCst);
        self.something.notify_one();
        PassedOn(self.clone())
    }

    async fn silence(&self) {
        while tokio::time::timeout(SILENCE, self.something.notified()).await.is_ok()
            || self.on_its_way.load(Ordering::SeqCst) > 0
        {}
    }
}

/// Dropped when a piece has been passed on.
#[derive(Debug)]
pub(super) struct PassedOn(Arc<Heard>);

impl Drop for PassedOn {
    fn drop(&mut self) {
        self.0.on_its_way.fetch_sub(1, Ordering::SeqCst);
        self.0.something.notify_one();
    }
}

/// A session's processes.
#[derive(Debug)]
pub(super) struct Family {
    /// The session's first process, which is the leader of a session of the kernel's and of a process group.
    leader: i32,
    /// The first process of the container, which gets the orphans.
    init: i32,
    /// The leader's program.
    program: PathBuf,
    /// What the leader wrote to when it began; none where it was faster than we.
    outputs: Vec<PathBuf>,
    /// A time before the leader began, in the kernel's ticks since the machine did.
    before: u64,
}

/// What the kernel tells of a process.
struct Member {
    pid: i32,
    group: i32,
    session: i32,
    /// It has ended, and nobody has asked how.
    zombie: bool,
    /// It cannot go on before something has been read.
    reads: bool,
    /// When it began, in ticks.
    began: u64,
}

impl Family {
    /// Of a process that runs in the container whose first process is `init`.
    pub(super) fn of(leader: u32, init: u32) -> Option<Self> {
        let (leader, init) = (i32::try_from(leader).ok()?, i32::try_from(init).ok()?);
        if leader < 2 || init < 2 {
            return None;
        }
        let outputs = [1, 2].into_iter().filter_map(|fd| output(leader, fd)).collect();
        let before = ticks().saturating_sub(TICKS_OF_ASKING);
        Some(Self { leader, init, program: program(leader).unwrap_or_default(), outputs, before })
    }

    /// The number of the first one.
    pub(super) fn leader(&self) -> u32 {
        self.leader.unsigned_abs()
    }

    /// Sends a signal to all of them, while the first one runs; whether that is so.
    pub(super) fn signal(&self, number: i32) -> bool {
        // A number that is free may be somebody else's by now.
        if !member(self.leader).is_some_and(|m| !m.zombie && m.session == self.leader) {
            return false;
        }
        let Ok(signal) = Signal::try_from(number) else { return true };
        // Shells give their jobs groups of their own, and su and sudo sessions; an end of one of these would hide them.
        let others: Vec<Member> = self.all().into_iter().filter(|m| m.group != self.leader).collect();
        let _ = killpg(Pid::from_raw(self.leader), signal);
        for member in others {
            let _ = kill(Pid::from_raw(member.pid), signal);
        }
        true
    }

    /// Hangs up those that the first process has left behind.
    pub(super) async fn hang_up(&self) {
        // Somebody else has the number by now: nothing is left of the session that had it.
        if member(self.leader).is_some_and(|m| !m.zombie) || self.orphans().is_empty() {
            return;
        }
        let begun = Instant::now();
        while begun.elapsed() < READ_FROM_DISK
            && self.orphans().iter().any(|m| self.is_on_its_way(m, begun.elapsed() > ON_THEIR_WAY))
        {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        // One that is stopped could not hear it, and some hear of nothing for a while, such as a su that ends its shell.
        for signal in [Signal::SIGHUP, Signal::SIGCONT] {
            self.left_behind().for_each(|pid| {
                let _ = kill(pid, signal);
            });
        }
        let deadline = Instant::now() + LAST_WORDS;
        while Instant::now() < deadline && self.left_behind().next().is_some() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.left_behind().for_each(|pid| {
            let _ = kill(pid, Signal::SIGKILL);
        });
    }

    /// Those that were left behind and do not want to stay: they would have to ignore it that they are hung up.
    fn left_behind(&self) -> impl Iterator<Item = Pid> {
        let going = self.orphans().into_iter().filter(|m| !m.zombie && !ignores_hangup(m.pid));
        going.map(|m| Pid::from_raw(m.pid))
    }

    /// Whether a process is about to become another program, which could detach: the kernel has no event for that. `late` a shell
    /// is one that stays, unless its next program is being read.
    fn is_on_its_way(&self, member: &Member, late: bool) -> bool {
        let is = |names: &[&str], program: &Path| names.iter().any(|name| program.ends_with(name));
        program(member.pid).is_some_and(|program| {
            let shell = program == self.program || is(&SHELLS, &program);
            is(&BRIEF, &program) || shell && (!late || member.reads)
        })
    }

    /// Ends when a session that has ended is silent, and somebody who has detached keeps its streams open.
    pub(super) async fn silent(&self, heard: &Heard) {
        loop {
            heard.silence().await;
            if self.holds_output() {
                return;
            }
        }
    }

    /// Whether a process of the container that goes on could still write to what the session reads. Of a leader that was too fast for
    /// us only this is known: who has its streams began later than it.
    fn holds_output(&self) -> bool {
        let unknown = self.outputs.is_empty();
        let of_the_session = |pid: i32, file: &Path| {
            if unknown {
                is_stream(file) && member(pid).is_some_and(|m| m.began >= self.before)
            } else {
                self.outputs.iter().any(|o| o == file)
            }
        };
        let mut all = vec![self.init];
        let mut seen = HashSet::new();
        while let Some(pid) = all.pop() {
            if !seen.insert(pid) {
                continue;
            }
            let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            if open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|file| of_the_session(pid, &file)) {
                return true;
            }
            all.extend(children(pid));
        }
        false
    }

    /// Those that descend from the first process or were left behind by others of its session.
    fn all(&self) -> Vec<Member> {
        let mut found = descendants(self.leader, &|_| true);
        found.extend(self.orphans());
        found
    }

    fn orphans(&self) -> Vec<Member> {
        descendants(self.init, &|m| m.session == self.leader)
    }
}

/// Waits until a process has ended, of whatever parent; one that is not there has. The kernel tells.
pub(super) async fn ended(pid: u32) -> Result<()> {
    let doing = || format!("cannot wait for process {pid}");
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return Ok(()) };
    let fd = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        fd => fd.map_err(std::io::Error::from).doing(doing)?,
    };
    // SAFETY: the descriptor is the value's own, and is neither replaced nor closed before it.
    let ends = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    let ends = ends.map_err(|e| e.to_string()).doing(doing)?;
    ends.readable().await.map(drop).doing(doing)
}

/// The program that a process runs.
fn program(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Whether a process ignores SIGHUP, the first signal.
fn ignores_hangup(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|l| u64::from_str_radix(l.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

/// What a process writes to, if that is a pipe or a terminal.
fn output(pid: i32, fd: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok().filter(|file| is_stream(file))
}

fn is_stream(file: &Path) -> bool {
    file.starts_with("/dev/pts") || file.to_str().is_some_and(|name| name.starts_with("pipe:"))
}

/// The time since the machine began, in the ticks that /proc counts in.
fn ticks() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = text.split(' ').next().and_then(|s| s.parse().ok()).unwrap_or(0.0);
    (seconds * TICKS_PER_SECOND) as u64
}

/// Children of a process that belong, and theirs.
fn descendants(of: i32, belongs: &dyn Fn(&Member) -> bool) -> Vec<Member> {
    let mut found: Vec<Member> = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for child in children(parent).into_iter().filter_map(member).filter(belongs) {
            // Numbers are given anew while we look.
            if found.iter().all(|m| m.pid != child.pid) {
                parents.push(child.pid);
                found.push(child);
            }
        }
    }
    found
}

/// Children of all threads of a process.
fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<i32>>()).collect()
}

fn member(pid: i32) -> Option<Member> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads `/proc/<pid>/stat`: the name, in parentheses, may be anything.
fn parse(pid: i32, stat: &str) -> Option<Member> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let number = |i: usize| fields.get(i)?.parse().ok();
    let began = fields.get(19).and_then(|n| n.parse().ok()).unwrap_or(0);
    let state = *fields.first()?;
    let (zombie, reads) = (matches!(state, "Z" | "X"), state == "D");
    Some(Member { pid, group: number(2)?, session: number(3)?, zombie, reads, began })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_programs_do_not_mislead() {
        let member = parse(7, "7 (a) R 9 (b) S 1 40 50 0 -1 4194304").unwrap();
        assert_eq!((member.group, member.session, member.zombie), (40, 50, false));
        assert!(parse(7, "7 (x) Z 1 40 50").unwrap().zombie);
        assert!(parse(7, "7 (x) D 1 40 50").unwrap().reads && !parse(7, "7 (x) S 1 40 50").unwrap().reads);
        assert!(parse(7, "").is_none() && parse(7, "7 (x) Z").is_none());
    }

    #[test]
    fn nobody_signals_everybody() {
        assert!(Family::of(0, 10).is_none() && Family::of(1, 10).is_none(), "-1 would be all processes of the host");
        assert!(Family::of(10, 0).is_none() && Family::of(10, 1).is_none());
        assert!(Family::of(u32::MAX, 10).is_none());
    }

    #[test]
    fn children_are_found() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(children(me).contains(&i32::try_from(child.id()).unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
