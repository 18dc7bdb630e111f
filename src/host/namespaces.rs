//! User namespaces with ids that we choose, and what belongs to one: a network namespace, and mounts that show files with other owners.
//!
//! The kernel makes them for a process with one thread only, and has its parent say which ids they have. So each is made by a child
//! that does nothing else, and lives on in what is mounted or opened of it.

use super::ids::{IDS, Ids};
use crate::error::{Doing as _, Error, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

/// How ids inside are numbered outside: first inside, first outside, how many.
pub type Line = (u32, u32, u32);

/// Which ids a namespace has, or as which a mount shows the owners of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    users: Vec<Line>,
    groups: Vec<Line>,
}

impl Map {
    /// A range, from 0 on.
    pub fn of(ids: Ids) -> Result<Self> {
        if !ids.are_a_user_s() {
            let lines = vec![(0, ids.first, IDS)];
            return Ok(Self { users: lines.clone(), groups: lines });
        }
        let read = |file: &str| {
            let path = format!("/proc/self/{file}");
            fs::read_to_string(&path).doing(|| format!("cannot read {path}"))
        };
        Ok(Self { users: same(&read("uid_map")?, ids.count()), groups: same(&read("gid_map")?, ids.count()) })
    }

    /// Its users.
    pub fn users(&self) -> &[Line] {
        &self.users
    }

    /// Its groups.
    pub fn groups(&self) -> &[Line] {
        &self.groups
    }

    /// Files of a range as they are, and those of one other user, and group if there is one, as if `inside` of the range had them.
    pub fn exchanging(ids: Ids, user: u32, group: Option<u32>, inside: u32) -> Self {
        let lines = |other: Option<u32>| {
            let own = ids.first..ids.first + IDS;
            let place = ids.of(inside);
            let Some(other) = other.filter(|other| !own.contains(other)) else {
                return vec![(ids.first, ids.first, IDS)];
            };
            let after = place + 1;
            let all = [(own.start, own.start, inside), (other, place, 1), (after, after, own.end - after)];
            all.into_iter().filter(|(_, _, count)| *count > 0).collect()
        };
        Self { users: lines(Some(user)), groups: lines(group) }
    }

    /// The same, with files of the host's root as if root of the range had them.
    pub fn with_root(mut self, ids: Ids) -> Self {
        for lines in [&mut self.users, &mut self.groups] {
            if lines.iter().any(|(from, _, _)| *from == 0) {
                continue;
            }
            // What the range itself has as root goes: an id is shown once.
            for line in lines.iter_mut().filter(|(_, to, _)| *to == ids.first) {
                *line = (line.0 + 1, line.1 + 1, line.2 - 1);
            }
            lines.insert(0, (0, ids.first, 1));
        }
        self
    }

    /// The same, with files of all others as they are: of accounts that a node does not have. Otherwise nobody could write to a file whose
    /// group is another one, and an overlay could not read it: it reads as the host's root, whose power ends where an id is no account's.
    pub fn with_others(mut self) -> Self {
        for lines in [&mut self.users, &mut self.groups] {
            let both = lines.iter().flat_map(|(from, to, count)| [(*from, *count), (*to, *count)]);
            let mut taken: Vec<(u32, u32)> = both.collect();
            taken.sort_unstable();
            let mut next = 0;
            // The last number is no account's.
            for (start, count) in taken.into_iter().chain([(u32::MAX, 0)]) {
                if next < start {
                    lines.push((next, next, start - next));
                }
                next = next.max(start + count);
            }
        }
        self
    }

    /// Whether the host's root, or its group, is somebody else there.
    pub fn shows_root(&self) -> bool {
        self.users.iter().chain(&self.groups).any(|(from, to, _)| *from == 0 && *to != 0)
    }
}

/// A user of this process's namespace, as the one above it numbers them.
pub fn number_outside(user: u32) -> Option<u32> {
    outside(&fs::read_to_string("/proc/self/uid_map").ok()?, user)
}

fn outside(map: &str, user: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let fields: Vec<u32> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let &[first, outside, count] = fields.as_slice() else { return None };
        user.checked_sub(first).filter(|offset| *offset < count).map(|offset| outside + offset)
    })
}

/// So many ids as a namespace has them whose map this is. The kernel wants those apart that are apart in there.
fn same(text: &str, ids: u32) -> Vec<Line> {
    let line = |line: &str| {
        let fields: Vec<u32> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let &[first, _, count] = fields.as_slice() else { return None };
        let count = count.min(ids.saturating_sub(first));
        (count > 0).then_some((first, first, count))
    };
    text.lines().filter_map(line).collect()
}

fn text(lines: &[Line]) -> String {
    lines.iter().map(|(inside, outside, count)| format!("{inside} {outside} {count}\n")).collect()
}

/// A user namespace, as long as the value.
#[derive(Debug)]
pub struct UserNamespace {
    holder: Holder,
}

impl UserNamespace {
    /// One with these ids.
    pub fn new(map: &Map) -> Result<Self> {
        let doing = || "cannot create a user namespace".to_owned();
        let mut holder = Holder::begin().doing(doing)?;
        holder
            .answer()
            .map_err(|e| match e.raw_os_error() {
                Some(nix::libc::ENOSPC) => "the host allows none (sysctl user.max_user_namespaces)".into(),
                _ => e.to_string(),
            })
            .doing(doing)?;
        for (file, lines) in [("uid_map", &map.users), ("gid_map", &map.groups)] {
            fs::write(holder.path(file), text(lines))
                .doing(|| format!("cannot say which ids a user namespace has ({file})"))?;
        }
        Ok(Self { holder })
    }

    /// Mounts it, and a new network namespace that belongs to it, at paths of ours.
    pub fn pin_with_network(mut self, user: &Path, network: &Path) -> Result<()> {
        let doing = || "cannot create a network namespace in a user namespace".to_owned();
        self.holder.go_on().doing(doing)?;
        self.holder.answer().doing(doing)?;
        for (kind, place) in [("user", user), ("net", network)] {
            pin_namespace(&self.holder.path(&format!("ns/{kind}")), place)?;
        }
        Ok(())
    }

    /// Opens it.
    pub fn open(self) -> Result<File> {
        File::open(self.holder.path("ns/user")).doing(|| "cannot open a user namespace".into())
    }
}

/// Mounts a namespace of a process at a path of ours, so that it lives on there.
pub fn pin_namespace(of: &str, place: &Path) -> Result<()> {
    let doing = || format!("cannot mount {}", place.display());
    File::create(place).doing(doing)?;
    mount(Some(of), place, None::<&str>, MsFlags::MS_BIND, None::<&str>).doing(doing)
}

/// The child. It is killed with the value; when we are killed it notices that nobody is at the other end of its pipe.
#[derive(Debug)]
struct Holder {
    pid: Pid,
    answers: File,
    orders: File,
}

impl Holder {
    fn begin() -> std::io::Result<Self> {
        let (answers, tells) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let (hears, orders) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        // The child must run none of our handlers.
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
        // SAFETY: the child makes system calls and nothing else, until it ends.
        let forked = unsafe { fork() };
        if let Ok(ForkResult::Child) = forked {
            hold(tells.as_raw_fd(), hears.as_raw_fd(), orders.as_raw_fd());
        }
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
        match forked? {
            ForkResult::Parent { child } => Ok(Self { pid: child, answers: answers.into(), orders: orders.into() }),
            ForkResult::Child => unreachable!("it has ended"),
        }
    }

    fn path(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.pid)
    }

    /// Waits until the child has done a step.
    fn answer(&mut self) -> std::io::Result<()> {
        let mut code = [0; 4];
        self.answers.read_exact(&mut code)?;
        match i32::from_ne_bytes(code) {
            0 => Ok(()),
            code => Err(std::io::Error::from_raw_os_error(code)),
        }
    }

    fn go_on(&mut self) -> std::io::Result<()> {
        self.orders.write_all(&[0])
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// The child's life: a user namespace, then on the next order a network namespace in that, then waiting to be killed.
fn hold(tells: i32, hears: i32, orders: i32) -> ! {
    // SAFETY: plain system calls on descriptors that are open and memory that is this function's.
    unsafe {
        // Kernels before 5.9 cannot do what follows.
        nix::libc::close(orders);
        // Other threads may be at the same: of their pipes and of ours nobody but us is to have the other end.
        let (low, high) = (i64::from(tells.min(hears)), i64::from(tells.max(hears)));
        for (first, last) in [(0, low - 1), (low + 1, high - 1), (high + 1, i64::from(u32::MAX))] {
            if first <= last {
                nix::libc::close_range(first as u32, last as u32, 0);
            }
        }
        for flag in [nix::libc::CLONE_NEWUSER, nix::libc::CLONE_NEWNET] {
            let code = if nix::libc::unshare(flag) == 0 { 0 } else { *nix::libc::__errno_location() };
            let told = nix::libc::write(tells, (&raw const code).cast(), 4);
            let mut order = 0_u8;
            if code != 0 || told != 4 || nix::libc::read(hears, (&raw mut order).cast(), 1) != 1 {
                nix::libc::_exit(0);
            }
        }
        nix::libc::_exit(0)
    }
}

/// A copy of a mount, mounted nowhere yet.
#[derive(Debug)]
pub struct MountCopy(OwnedFd);

impl MountCopy {
    /// Of what is open, with all that is mounted below it if that is wanted.
    pub fn of(open: &impl AsFd, whole: bool) -> std::io::Result<Self> {
        let below = if whole { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        Ok(Self(open_tree(open, "", flags | below)?))
    }

    /// Shows the owners of files as a namespace has them.
    pub fn show_as(&self, namespace: &File, whole: bool) -> std::io::Result<()> {
        let (set, fd) = (nix::libc::MOUNT_ATTR_IDMAP, namespace.as_raw_fd());
        self.set(nix::libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: fd as u64 }, whole)
    }

    /// Has nobody write there who has it from us, whatever they mount anew in namespaces of theirs.
    pub fn lock_read_only(&self) -> std::io::Result<()> {
        let set = nix::libc::MOUNT_ATTR_RDONLY;
        self.set(nix::libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 }, true)
    }

    fn set(&self, attributes: nix::libc::mount_attr, whole: bool) -> std::io::Result<()> {
        let below = if whole { nix::libc::AT_RECURSIVE } else { 0 };
        let size = size_of::<nix::libc::mount_attr>();
        // SAFETY: the system call reads the path and the attributes, of the size that it is told.
        let code = unsafe {
            nix::libc::syscall(
                nix::libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                nix::libc::AT_EMPTY_PATH | below,
                &raw const attributes,
                size,
            )
        };
        if code == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }

    /// Mounts it.
    pub fn attach(self, place: &Path) -> Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        let moved = move_mount(&self.0, "", rustix::fs::CWD, place, flags).map_err(std::io::Error::from);
        moved.doing(|| format!("cannot mount {}", place.display()))
    }
}

impl AsFd for MountCopy {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Fails where nodes cannot have user namespaces whose root filesystem is an overlay of layers in `dir`. What is mounted for that is seen by
/// a thread alone, and goes with it.
pub fn probe(dir: &Path) -> Result<()> {
    let dir = dir.to_owned();
    let tried = std::thread::spawn(move || try_overlay(&dir)).join();
    tried.unwrap_or_else(|_| Err(Error::new("the thread that tries it ended early")))
}

fn try_overlay(dir: &Path) -> Result<()> {
    // Any will do.
    let ids = Ids { first: 1_878_982_656 };
    let told = |what: &str| format!("{what} {}", dir.display());
    let namespace = UserNamespace::new(&Map::of(ids)?)?.open()?;
    let place = tempfile::tempdir_in("/run").doing(|| "cannot make a directory".into())?;
    let (layer, other) = (place.path().join("layer"), place.path().join("other"));
    [&layer, &other].into_iter().try_for_each(fs::create_dir).doing(|| "cannot make a directory".into())?;
    unshare(CloneFlags::CLONE_NEWNS).doing(|| "cannot create a mount namespace".into())?;
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, private, none).doing(|| "cannot leave the host's mounts".into())?;
    let copy = File::open(dir).and_then(|dir| MountCopy::of(&dir, false)).doing(|| told("cannot copy the mount of"))?;
    copy.show_as(&namespace, false).doing(|| told("the kernel cannot show other owners of the files in"))?;
    // Older kernels take no layer from what is mounted nowhere.
    copy.attach(&layer)?;
    let options = format!("lowerdir={}:{}", layer.display(), other.display());
    mount(Some("overlay"), place.path(), Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str()))
        .doing(|| told("the kernel has no overlay that shows other owners of the files in"))?;
    umount2(place.path(), MntFlags::MNT_DETACH).doing(|| "cannot unmount an overlay".into())?;
    umount2(&layer, MntFlags::MNT_DETACH).doing(|| "cannot unmount layers".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    const RANGE: Ids = Ids { first: 1_000_000 };

    #[test]
    fn maps_show_each_id_once() {
        let map = Map::exchanging(RANGE, 1234, Some(100), 1000);
        assert_eq!(text(&map.users), "1000000 1000000 1000\n1234 1001000 1\n1001001 1001001 64535\n");
        assert_eq!(text(&map.groups).lines().nth(1), Some("100 1001000 1"));
        let with_root = map.with_root(RANGE);
        assert_eq!(text(&with_root.users), "0 1000000 1\n1000001 1000001 999\n1234 1001000 1\n1001001 1001001 64535\n");
        // Root is that account already, and what the range left there before is as it is.
        let of_root = Map::exchanging(RANGE, 0, Some(0), 1000);
        assert_eq!(of_root.clone().with_root(RANGE), of_root);
        let own = Map::exchanging(RANGE, 1_001_000, None, 1000);
        assert_eq!([text(&own.users), text(&own.groups)], ["1000000 1000000 65536\n", "1000000 1000000 65536\n"]);
        let others = Map::exchanging(RANGE, 1234, None, 1000).with_others();
        let rest = "0 0 1234\n1235 1235 998765\n1065536 1065536 4293901759\n";
        assert_eq!(text(&others.users), format!("1000000 1000000 1000\n1234 1001000 1\n1001001 1001001 64535\n{rest}"));
        assert_eq!(text(&others.groups), "1000000 1000000 65536\n0 0 1000000\n1065536 1065536 4293901759\n");
        assert!(
            !others.shows_root()
                && of_root.shows_root()
                && !own.shows_root()
                && Map::exchanging(RANGE, 1, Some(0), 1000).shows_root()
        );
    }

    #[test]
    fn ids_that_are_apart_stay_apart() {
        let own = "         0       1000          1\n         1     100000      65535\n";
        assert_eq!(text(&same(own, 65_535)), "0 0 1\n1 1 65534\n", "the last one is not among them");
        assert_eq!(outside(own, 1000), Some(100_999));
        assert_eq!((outside(own, 0), outside(own, 65_536)), (Some(1000), None));
        let two =
            "         0       1000          1\n         1     100000      60000\n      60001     200000      5535\n";
        assert_eq!(text(&same(two, 65_535)), "0 0 1\n1 1 60000\n60001 60001 5534\n");
        assert_eq!(text(&same(two, 1)), "0 0 1\n");
    }

    #[test]
    #[ignore = "needs root"]
    fn files_are_shown_with_other_owners() {
        let dir = tempfile::tempdir().unwrap();
        let (of, at) = (dir.path().join("of"), dir.path().join("at"));
        for path in [&of, &at] {
            fs::create_dir(path).unwrap();
        }
        for (name, owner) in [("user", 1234), ("root", 0), ("other", 77), ("range", RANGE.of(5))] {
            fs::write(of.join(name), "").unwrap();
            std::os::unix::fs::chown(of.join(name), Some(owner), Some(owner)).unwrap();
        }
        let map = Map::exchanging(RANGE, 1234, Some(1234), 1000);
        let namespace = UserNamespace::new(&map).unwrap().open().unwrap();
        let copy = MountCopy::of(&File::open(&of).unwrap(), true).unwrap();
        copy.show_as(&namespace, true).unwrap();
        copy.lock_read_only().unwrap();
        copy.attach(&at).unwrap();
        let owner = |name: &str| fs::metadata(at.join(name)).unwrap().uid();
        let owners = ["user", "root", "other", "range"].map(owner);
        let written = fs::write(at.join("user"), "x");
        nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert_eq!(owners, [RANGE.of(1000), 65_534, 65_534, RANGE.of(5)]);
        assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }

    #[test]
    #[ignore = "needs root"]
    fn what_is_tried_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        // Other tests mount things of theirs at the same time, elsewhere.
        let mounts = || {
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            table.lines().filter(|line| line.contains(" /run/.tmp")).count()
        };
        let before = mounts();
        // This machine's disk can.
        probe(dir.path()).unwrap();
        let error = probe(Path::new("/proc")).unwrap_err();
        assert!(error.to_string().contains("cannot show other owners of the files in /proc"), "{error}");
        assert_eq!(mounts(), before);
    }

    /// What they are made by ends with who asked for it, also when many are made at once: none has an end of another's pipe.
    #[test]
    #[ignore = "needs root"]
    fn many_at_once_do_not_keep_each_other() {
        let made: Vec<_> =
            (0..8).map(|_| std::thread::spawn(|| UserNamespace::new(&Map::of(RANGE).unwrap()).unwrap())).collect();
        let made: Vec<UserNamespace> = made.into_iter().map(|thread| thread.join().unwrap()).collect();
        for namespace in &made {
            let open = fs::read_dir(namespace.holder.path("fd")).unwrap().count();
            assert_eq!(open, 2, "its own ends and nothing of ours");
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn a_network_namespace_belongs_to_its_user_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let (user, network) = (dir.path().join("user"), dir.path().join("net"));
        UserNamespace::new(&Map::of(RANGE).unwrap()).unwrap().pin_with_network(&user, &network).unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let own = |kind: &str| inode(Path::new(&format!("/proc/self/ns/{kind}")));
        assert!(inode(&user) != own("user") && inode(&network) != own("net"));
        let out = std::process::Command::new("nsenter")
            .args([format!("--user={}", user.display()), format!("--net={}", network.display())])
            .args(["sh", "-c", "cat /proc/self/uid_map; ip link set lo up && echo up"])
            .output()
            .unwrap();
        for place in [&user, &network] {
            nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let words: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(words, ["0", "1000000", "65536", "up"], "{}", String::from_utf8_lossy(&out.stderr));
    }
}
