//! What a host must have for a containerd of the user's own. All that is missing is said at once, as it is asked of an administrator.

use crate::error::{Error, Result};
use crate::host::{IDS, Range, free_subids, session_dir, subordinate};
use nix::sys::statfs::{FsType, statfs};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What Debian calls the packages of the programs that are run.
const PROGRAMS: [(&str, &str); 7] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("newuidmap", "uidmap"),
    ("newgidmap", "uidmap"),
    ("pasta", "passt"),
    ("nft", "nftables"),
    ("systemd-run", "systemd"),
];

/// Filesystems of other machines, and of programs: they keep no foreign owners, and no overlay lies on them.
const REMOTE: [(FsType, &str); 4] =
    [(FsType(0x6969), "NFS"), (FsType(0x6573_5546), "FUSE"), (FsType(0xff53_4d42), "CIFS"), (FsType(0x517b), "SMB")];

/// The user's ranges of ids: users, groups.
pub(super) type Ranges = (Vec<Range>, Vec<Range>);

/// Fails outside of a login session.
pub(super) fn session() -> Result<()> {
    let id = nix::unistd::geteuid();
    let why = match session_dir() {
        None => "the variable XDG_RUNTIME_DIR is not set: this is no login session".to_owned(),
        // As after `su`.
        Some(dir) if std::fs::metadata(&dir).map_or(0, |meta| meta.uid()) != id.as_raw() => {
            format!("XDG_RUNTIME_DIR is {}, which is not yours: this is no login session", dir.display())
        }
        Some(_) => return Ok(()),
    };
    Err(Error::new(why)
        .hint(format!("log in as yourself, or if you have a session elsewhere: export XDG_RUNTIME_DIR=/run/user/{id}"))
        .hint("or run oardocker with sudo"))
}

/// Fails where something is missing; the value are the ids that may be used.
pub(super) fn check(data: &Path, cgroups: &Path) -> Result<Ranges> {
    let user = nix::unistd::geteuid();
    let name = nix::unistd::User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |user| user.name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| find(program, &path).is_some();
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let ids = |file| subordinate(&read(file), &name, user.as_raw());
    let (users, groups) = (ids("/etc/subuid"), ids("/etc/subgid"));
    let wants = Wants {
        packages: PROGRAMS.iter().filter(|(program, _)| !found(program)).copied().collect(),
        users: users.as_ref().err().copied(),
        groups: groups.as_ref().err().copied(),
        free: free_subids(&[&read("/etc/subuid"), &read("/etc/subgid")]),
        unified: cgroups.join("cgroup.controllers").exists(),
        manager: session_dir().is_some_and(|dir| dir.join("systemd/private").exists()),
        remote: filesystem(data)
            .and_then(|kind| REMOTE.iter().find(|(known, _)| *known == kind))
            .map(|(_, name)| *name),
    };
    match (wants.error(&name, data), users, groups) {
        (None, Ok(users), Ok(groups)) => Ok((users, groups)),
        (error, ..) => Err(error.unwrap_or_else(|| Error::new("ids are missing"))),
    }
}

/// A program, also where only an administrator's shell looks: Debian has runc and nft in `/usr/sbin`.
pub(super) fn find(program: &str, path: &std::ffi::OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).chain(SBIN.map(PathBuf::from)).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Directories that a user's `PATH` may lack.
pub(super) const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The filesystem of a path, or of what is there of it.
fn filesystem(path: &Path) -> Option<FsType> {
    path.ancestors().find_map(|dir| statfs(dir).ok()).map(|stat| stat.filesystem_type())
}

/// What is missing.
#[derive(Debug, Default)]
struct Wants {
    /// Programs and their packages.
    packages: Vec<(&'static str, &'static str)>,
    /// How many ids of users there are, if they are too few.
    users: Option<u32>,
    /// The same of groups.
    groups: Option<u32>,
    /// Where ids begin that nobody has.
    free: u32,
    /// Whether the cgroups are v2.
    unified: bool,
    /// Whether the user has a systemd.
    manager: bool,
    /// What kind of remote filesystem the images would be on.
    remote: Option<&'static str>,
}

impl Wants {
    /// One error for all; none if there is nothing.
    fn error(&self, name: &str, data: &Path) -> Option<Error> {
        let mut lines = Vec::new();
        let mut hints = Vec::new();
        let programs: Vec<&str> = self.packages.iter().map(|(program, _)| *program).collect();
        if !programs.is_empty() {
            lines.push(format!("not installed: {}", programs.join(", ")));
            let mut packages: Vec<&str> = self.packages.iter().map(|(_, package)| *package).collect();
            packages.dedup();
            hints.push(format!("apt install {}", packages.join(" ")));
        }
        let needed = IDS - 1;
        for (file, ids) in [("/etc/subuid", self.users), ("/etc/subgid", self.groups)] {
            lines.extend(ids.map(|ids| {
                format!("{file} gives {name} {ids} ids, and a node needs {needed} beside your own: its users are not one but many")
            }));
        }
        if self.users.is_some() || self.groups.is_some() {
            let range = format!("{}-{}", self.free, self.free.saturating_add(IDS - 1));
            hints.push(format!("usermod --add-subuids {range} --add-subgids {range} {name}"));
        }
        if !self.unified {
            lines.push("the host's cgroups are v1, of which none can be left to a user".into());
            hints.push("boot the host with systemd.unified_cgroup_hierarchy=1 on the kernel's command line".into());
        }
        if !self.manager {
            lines.push("there is no systemd of yours, which ends what you run and gives it cgroups".into());
            hints.push(format!("apt install dbus-user-session; loginctl enable-linger {name}   (or log in anew)"));
        }
        let remote = self.remote.map(|kind| {
            lines.push(format!("{} is on {kind}, where images cannot be kept", data.display()));
            format!("set OARDOCKER_DATA_DIR to a directory of a local disk, such as /var/tmp/{name}")
        });
        if lines.is_empty() {
            return None;
        }
        let mut error = Error::new("this host lacks what a cluster without root needs").detail(lines);
        if !hints.is_empty() {
            error = error.hint(format!("ask the administrator for: {}", hints.remove(0)));
            error = hints.into_iter().fold(error, |error, hint| error.hint(format!("and for: {hint}")));
        }
        error = remote.into_iter().fold(error, Error::hint);
        Some(error.hint("or run oardocker with sudo, or with a Podman of your own: systemctl --user start podman.socket (docs/engines.md)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Wants {
        Wants { unified: true, manager: true, ..Wants::default() }
    }

    #[test]
    fn all_that_is_missing_is_said_at_once() {
        let data = Path::new("/home/alice/.local/share/oardocker");
        assert!(whole().error("alice", data).is_none());
        let wants = Wants {
            packages: vec![("newuidmap", "uidmap"), ("newgidmap", "uidmap"), ("pasta", "passt")],
            users: Some(0),
            groups: Some(1000),
            free: 165_536,
            unified: false,
            manager: false,
            remote: Some("NFS"),
        };
        let text = format!("{:?}", wants.error("alice", data).unwrap());
        for part in [
            "not installed: newuidmap, newgidmap, pasta",
            "apt install uidmap passt",
            "/etc/subuid gives alice 0 ids",
            "/etc/subgid gives alice 1000 ids",
            "--add-subuids 165536-231071 --add-subgids 165536-231071 alice",
            "cgroups are v1",
            "enable-linger alice",
            "is on NFS",
            "OARDOCKER_DATA_DIR",
            "sudo",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn each_alone_is_enough() {
        let data = Path::new("/d");
        for wants in [
            Wants { packages: vec![("runc", "runc")], ..whole() },
            Wants { users: Some(0), ..whole() },
            Wants { groups: Some(0), ..whole() },
            Wants { unified: false, ..whole() },
            Wants { manager: false, ..whole() },
            Wants { remote: Some("FUSE"), ..whole() },
        ] {
            assert!(wants.error("alice", data).is_some(), "{wants:?}");
        }
    }
}
