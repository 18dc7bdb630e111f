//! Limits of the host that a cluster of many hosts runs into: known beforehand, raised where root may, else told.

use crate::error::{Error, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs;

/// A limit, what one host of a cluster takes of it, and what the rest of the machine may have taken already.
///
/// Counted on a booted cluster of trixie with OAR (6 inotify instances and 20 watches a host, 8 threads and 12 of its shim), and
/// rounded up generously: by half for the instances, which are the ones that run out.
struct Limit {
    /// As sysctl has it.
    name: &'static str,
    /// What it is about.
    of: &'static str,
    each: u64,
    others: u64,
    /// What a host needs at least: where root may not raise the limit, a cluster is refused only for this.
    least: u64,
}

const LIMITS: [Limit; 7] = [
    Limit {
        name: "fs.inotify.max_user_instances",
        of: "inotify instances of one account",
        each: 9,
        others: 32,
        least: 6,
    },
    Limit {
        name: "fs.inotify.max_user_watches",
        of: "inotify watches of one account",
        each: 64,
        others: 8192,
        least: 20,
    },
    Limit { name: "kernel.keys.root_maxkeys", of: "kernel keys of root", each: 4, others: 200, least: 0 },
    Limit { name: "kernel.pid_max", of: "process ids", each: 64, others: 4096, least: 20 },
    Limit { name: "kernel.threads-max", of: "threads", each: 64, others: 4096, least: 20 },
    Limit {
        name: "net.ipv4.neigh.default.gc_thresh3",
        of: "entries of the ARP tables",
        each: 8,
        others: 128,
        least: 0,
    },
    // Shims, daemons and hosts open files, and the kernel has one table of them.
    Limit { name: "fs.file-max", of: "open files", each: 512, others: 16_384, least: 256 },
];

/// Ports that a bridge of the kernel has.
const BRIDGE_PORTS: u64 = 1023;

/// What this process opens for a host of a cluster: sockets, requests to the engine.
const FILES: u64 = 8;

/// Reads and sets limits by their sysctl names.
pub trait Table {
    /// The value now; none where the kernel has no such limit, or none that is a number.
    fn get(&self, name: &str) -> Option<u64>;
    /// Whether it could be set.
    fn set(&self, name: &str, value: u64) -> bool;
}

/// The kernel's own.
#[derive(Debug)]
pub struct Kernel {
    /// Whether they are ours to set: not without root.
    pub writable: bool,
}

fn file(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

impl Table for Kernel {
    fn get(&self, name: &str) -> Option<u64> {
        fs::read_to_string(file(name)).ok()?.trim().parse().ok()
    }

    fn set(&self, name: &str, value: u64) -> bool {
        self.writable && fs::write(file(name), value.to_string()).is_ok()
    }
}

/// Raises what is too small for so many hosts. A line about each limit that was raised; those that could not be are an error.
pub fn provide(hosts: u32, table: &dyn Table) -> Result<Vec<String>> {
    let hosts = u64::from(hosts);
    if hosts > BRIDGE_PORTS {
        return Err(Error::new(format!("{hosts} hosts are too many: a bridge of the kernel has {BRIDGE_PORTS} ports"))
            .hint(format!("start {} nodes at most", BRIDGE_PORTS - 3)));
    }
    let (mut lines, mut small) = (Vec::new(), Vec::new());
    for limit in &LIMITS {
        let needed = hosts * limit.each + limit.others;
        let Some(now) = table.get(limit.name).filter(|now| *now < needed) else { continue };
        // In steps, so that the next larger cluster finds it large enough.
        let value = needed.next_power_of_two();
        if table.set(limit.name, value) {
            lines
                .push(format!("raised {} from {now} to {value}: {hosts} hosts need {needed} {}", limit.name, limit.of));
        } else if hosts * limit.least <= now {
            lines.push(format!(
                "{hosts} hosts may need {needed} {}, and {now} are allowed: if services fail, as root: sysctl -w {}={value}",
                limit.of, limit.name
            ));
        } else {
            small.push((limit, now, needed, value));
        }
    }
    if small.is_empty() {
        return Ok(lines);
    }
    let what: Vec<String> =
        small.iter().map(|(limit, now, needed, _)| format!("{needed} {} ({now} are allowed)", limit.of)).collect();
    let error = Error::new(format!("{hosts} hosts need {}", what.join(", ")));
    Err(small
        .iter()
        .fold(error, |e, (limit, _, _, value)| e.hint(format!("as root: sysctl -w {}={value}", limit.name))))
}

/// Lets this process open as many files as it may, and tells if that is not enough for so many hosts.
pub fn open_files(hosts: u32) -> Result<()> {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    let needed = u64::from(hosts) * FILES + 256;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() || hard < needed {
        return Err(Error::new(format!("{hosts} hosts need {needed} open files, and this shell allows {hard}"))
            .hint(format!("raise it first: ulimit -n {needed}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::HashMap;

    struct Fake {
        values: RefCell<HashMap<String, u64>>,
        writable: bool,
    }

    impl Table for Fake {
        fn get(&self, name: &str) -> Option<u64> {
            self.values.borrow().get(name).copied()
        }
        fn set(&self, name: &str, value: u64) -> bool {
            self.writable && self.values.borrow_mut().insert(name.into(), value).is_some()
        }
    }

    fn fake(writable: bool) -> Fake {
        let values = [("fs.inotify.max_user_instances".to_owned(), 128), ("kernel.pid_max".to_owned(), 4_194_304)];
        Fake { values: RefCell::new(values.into()), writable }
    }

    #[test]
    fn what_is_too_small_is_raised_and_told() {
        let table = fake(true);
        assert_eq!(provide(4, &table).unwrap(), Vec::<String>::new(), "a small cluster needs nothing");
        let lines = provide(103, &table).unwrap();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("raised fs.inotify.max_user_instances from 128 to 1024"), "{lines:?}");
        assert_eq!(provide(103, &table).unwrap(), Vec::<String>::new(), "once is enough");
    }

    #[test]
    fn what_cannot_be_raised_is_an_error_with_the_sysctl() {
        let error = provide(103, &fake(false)).unwrap_err();
        assert!(error.to_string().contains("inotify instances of one account (128 are allowed)"), "{error}");
        assert_eq!(error.hints(), ["as root: sysctl -w fs.inotify.max_user_instances=1024"]);
        // What might just do is tried.
        let lines = provide(13, &fake(false)).unwrap();
        assert!(lines[0].contains("may need 149 inotify instances of one account, and 128 are allowed"), "{lines:?}");
        assert!(provide(1024, &fake(true)).unwrap_err().to_string().contains("1023 ports"));
    }
}
