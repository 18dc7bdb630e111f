//! Ids of the host that nobody else has: a range for the users and groups of a cluster's hosts.
//!
//! Ranges are where systemd's convention has those of containers (UIDS-GIDS.md there). Nothing on disk says which are taken: the kernel
//! knows those that are in use, engines know those of their containers, and while one is being taken a lock on its number is held.

use super::Machine;
use super::files::private_dir;
use crate::error::{Doing as _, Error, Result};
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{Gid, Group, Uid, User};
use serde::Serialize;
use std::collections::HashSet;
use std::fs::{self, File};
use std::ops::Range;

/// How many ids a range has: all that Debian gives to accounts.
pub const IDS: u32 = 65_536;

/// The numbers of the ranges: from 524288 to 1879048191.
const SLOTS: Range<u32> = 8..28_672;

/// Users and groups from 0 to [`IDS`], as the host numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Ids {
    /// Root's number.
    pub first: u32,
}

impl Ids {
    /// Those of a user without root, as the user's namespace numbers them: all that it has but the last one, whose files are nobody's for
    /// who has these.
    pub const OF_USER: Self = Self { first: 0 };

    /// Whether they are those.
    pub fn are_a_user_s(self) -> bool {
        self == Self::OF_USER
    }

    /// A user or group of the range.
    pub fn of(self, inside: u32) -> u32 {
        self.first + inside
    }

    /// How many there are.
    pub fn count(self) -> u32 {
        if self.are_a_user_s() { IDS - 1 } else { IDS }
    }

    /// Whose the files are that who has these may not change: the machine's root, or what stands for it.
    pub fn stranger(self) -> u32 {
        if self.are_a_user_s() { IDS - 1 } else { 0 }
    }

    fn overlaps(self, other: &Range<u64>) -> bool {
        let own = u64::from(self.first)..u64::from(self.first) + u64::from(IDS);
        own.start < other.end && other.start < own.end
    }
}

/// Keeps others from a range that nothing has yet.
#[derive(Debug)]
pub struct Reservation {
    _lock: File,
}

/// A free range for who has this name, the same one as long as it is free. `known` are those of an engine's containers.
pub fn reserve(machine: &Machine, name: &str, known: &[Ids]) -> Result<(Ids, Reservation)> {
    let mut taken = taken()?;
    let free = |ids: Ids, taken: &[Range<u64>]| {
        !known.contains(&ids) && !taken.iter().any(|range| ids.overlaps(range)) && !is_an_account(ids)
    };
    for slot in candidates(name) {
        let ids = Ids { first: slot * IDS };
        if !free(ids, &taken) {
            continue;
        }
        if let Some(lock) = lock(machine, slot)? {
            // Who had the lock before may have used them since we looked.
            taken = self::taken()?;
            if free(ids, &taken) {
                return Ok((ids, Reservation { _lock: lock }));
            }
        }
    }
    Err(Error::new("no range of 65536 user ids is free on this host"))
}

/// A number for a name, the same on every machine and in every version: FNV-1a.
pub fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// All numbers of ranges, beginning with the name's own.
fn candidates(name: &str) -> impl Iterator<Item = u32> {
    let hash = hash(name);
    let count = SLOTS.end - SLOTS.start;
    (0..count).map(move |i| SLOTS.start + (hash % count + i) % count)
}

/// Whether the host has an account or group at the beginning of a range, as systemd looks for it.
fn is_an_account(ids: Ids) -> bool {
    let found = User::from_uid(Uid::from_raw(ids.first)).is_ok_and(|user| user.is_some());
    found || Group::from_gid(Gid::from_raw(ids.first)).is_ok_and(|group| group.is_some())
}

/// None when another one is about to take it.
fn lock(machine: &Machine, slot: u32) -> Result<Option<File>> {
    // Whoever could open it could hold all of them.
    let dir = machine.runtime_dir().join("ids");
    private_dir(&dir)?;
    let path = dir.join("lock");
    let doing = || format!("cannot lock {}", path.display());
    let file = File::options().write(true).create(true).truncate(false).open(&path).doing(doing)?;
    let byte = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: i64::from(slot),
        l_len: 1,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&byte)) {
        Ok(_) => Ok(Some(file)),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(None),
        Err(e) => Err(e).doing(doing),
    }
}

/// What processes of the host have, and what administrators have promised to accounts.
fn taken() -> Result<Vec<Range<u64>>> {
    let mut taken = Vec::new();
    for path in ["/etc/subuid", "/etc/subgid"] {
        taken.extend(fs::read_to_string(path).unwrap_or_default().lines().filter_map(promised));
    }
    let mut seen: HashSet<_> = fs::read_link("/proc/self/ns/user").into_iter().collect();
    for process in fs::read_dir("/proc").doing(|| "cannot read /proc".into())?.flatten() {
        // Most are in namespaces that were seen; one that ends meanwhile has none.
        let Ok(namespace) = fs::read_link(process.path().join("ns/user")) else { continue };
        if seen.insert(namespace) {
            for map in ["uid_map", "gid_map"] {
                let text = fs::read_to_string(process.path().join(map)).unwrap_or_default();
                taken.extend(text.lines().filter_map(mapped));
            }
        }
    }
    Ok(taken)
}

/// A line of /etc/subuid: `account:first:count`.
fn promised(line: &str) -> Option<Range<u64>> {
    let mut fields = line.split(':').skip(1).map(|field| field.trim().parse::<u64>().ok());
    let (first, count) = (fields.next()??, fields.next()??);
    Some(first..first.saturating_add(count))
}

/// A line of a namespace's map: `inside outside count`. One that has every id is nobody's in particular.
fn mapped(line: &str) -> Option<Range<u64>> {
    let mut fields = line.split_whitespace().skip(1).map(|field| field.parse::<u64>().ok());
    let (first, count) = (fields.next()??, fields.next()??);
    (count < u64::from(u32::MAX)).then(|| first..first.saturating_add(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_range_until_it_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::below(dir.path());
        let (first, held) = reserve(&machine, "ab12", &[]).unwrap();
        assert!(SLOTS.contains(&(first.first / IDS)) && first.first % IDS == 0);
        let (second, _) = reserve(&machine, "ab12", &[]).unwrap();
        assert_ne!(first, second, "one that is being taken is nobody else's");
        drop(held);
        assert_eq!(reserve(&machine, "ab12", &[]).unwrap().0, first);
        assert_ne!(reserve(&machine, "ab12", &[first]).unwrap().0, first, "containers have it");
        assert_ne!(reserve(&machine, "cd34", &[]).unwrap().0, first);
    }

    #[test]
    fn all_ranges_are_containers_by_convention() {
        let all: HashSet<u32> = candidates("ab12").collect();
        assert_eq!(all.len(), (SLOTS.end - SLOTS.start) as usize);
        assert_eq!(
            (all.iter().min().unwrap() * IDS, all.iter().max().unwrap() * IDS + IDS - 1),
            (524_288, 1_879_048_191)
        );
    }

    #[test]
    fn what_others_have_is_read() {
        let ids = |first| Ids { first };
        let subuid = promised("alice:589824:65536").unwrap();
        assert!(ids(589_824).overlaps(&subuid) && !ids(655_360).overlaps(&subuid) && !ids(524_288).overlaps(&subuid));
        assert!(ids(524_288).overlaps(&promised("bob:589823:1").unwrap()));
        assert!(promised("# a remark").is_none() && promised("carol:x:1").is_none());
        assert_eq!(mapped("         0     589824      65536"), Some(589_824..655_360));
        assert_eq!(mapped("         0          0 4294967295"), None, "the host's own");
    }
}
