//! Names to numbers, from an image's own /etc/passwd and /etc/group.

use crate::error::{Error, Result};
use crate::rooted::Root;

/// A user as a process needs it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// Login name; the number when there is none.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// The two files of a root filesystem.
#[derive(Debug, Default)]
pub struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads them; an image may have neither, but one that is there and cannot be read is not an empty one.
    pub fn read(root: &Root) -> Result<Self> {
        let text = |path| root.text(path).map(Option::unwrap_or_default);
        Ok(Self { passwd: text("/etc/passwd")?, group: text("/etc/group")? })
    }

    /// The login shell of a user, if the file names one.
    pub fn shell(&self, user: &User) -> Option<&str> {
        let entry = fields(&self.passwd).find(|f| f[0] == user.name)?;
        entry.get(6).copied().filter(|shell| !shell.is_empty())
    }

    /// Resolves `name`, `uid`, `name:group` or `uid:gid`.
    pub fn user(&self, text: &str) -> Result<User> {
        let (name, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
        let name = if name.is_empty() { "root" } else { name };
        let mut user = self.lookup(name).ok_or_else(|| {
            Error::new(format!("there is no user {name:?}")).hint(format!("users: {}", self.people().join(", ")))
        })?;
        if let Some(group) = group {
            user.gid = self.gid(group)?;
            user.groups = Vec::new();
        }
        Ok(user)
    }

    fn lookup(&self, name: &str) -> Option<User> {
        let number = name.parse::<u32>().ok();
        let entry = fields(&self.passwd).find(|f| f[0] == name || (number.is_some() && f.get(2) == Some(&name)));
        match entry.as_deref() {
            Some([login, _, uid, gid, rest @ ..]) => {
                let gid = gid.parse().ok()?;
                Some(User {
                    name: (*login).to_owned(),
                    uid: uid.parse().ok()?,
                    gid,
                    groups: self.groups_of(login, gid),
                    home: rest.get(1).filter(|h| !h.is_empty()).map_or("/", |h| h).to_owned(),
                })
            }
            _ => number.map(|uid| User { name: name.to_owned(), uid, home: "/".into(), ..User::default() }),
        }
        .or_else(|| (name == "root").then(|| User { name: "root".into(), home: "/root".into(), ..User::default() }))
    }

    /// The id of a group name or number.
    pub fn gid(&self, group: &str) -> Result<u32> {
        fields(&self.group)
            .find(|f| f[0] == group)
            .and_then(|f| f.get(2)?.parse().ok())
            .or_else(|| group.parse().ok())
            .ok_or_else(|| Error::new(format!("there is no group {group:?}")))
    }

    fn groups_of(&self, login: &str, primary: u32) -> Vec<u32> {
        fields(&self.group)
            .filter(|f| f.get(3).is_some_and(|m| m.split(',').any(|x| x == login)))
            .filter_map(|f| f[2].parse().ok())
            .filter(|gid| *gid != primary)
            .collect()
    }

    /// Root and the people, for a hint.
    fn people(&self) -> Vec<&str> {
        let is_person = |uid: u32| uid == 0 || (1000..60_000).contains(&uid);
        let mut names: Vec<_> = fields(&self.passwd)
            .filter(|f| f[0] == "oar" || f.get(2).and_then(|u| u.parse().ok()).is_some_and(is_person))
            .map(|f| f[0])
            .collect();
        names.sort_unstable();
        names
    }
}

fn fields(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|l| !l.is_empty()).map(|l| l.split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/x\n\
                     docker:x:1000:1000::/home/docker:/bin/bash\n"
                .into(),
            group: "root:x:0:\ndocker:x:1000:\nsudo:x:27:docker,other\nbad\n".into(),
        }
    }

    #[test]
    fn names_numbers_and_groups() {
        let docker = accounts().user("docker").unwrap();
        assert_eq!((docker.uid, docker.gid, docker.home.as_str()), (1000, 1000, "/home/docker"));
        assert_eq!(docker.groups, [27]);
        assert_eq!(accounts().user("1000").unwrap(), docker);
        let other = accounts().user("docker:sudo").unwrap();
        assert_eq!((other.gid, other.groups.len()), (27, 0));
        assert_eq!(accounts().user("4711").unwrap().uid, 4711);
        assert_eq!(Accounts::default().user("").unwrap().home, "/root");
        assert_eq!(accounts().shell(&docker), Some("/bin/bash"));
        let error = accounts().user("nobdy").unwrap_err();
        assert_eq!(error.hints(), ["users: docker, root"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(Accounts::read(&root).unwrap().user("root").is_ok(), "an image without any is fine");
        std::fs::create_dir_all(dir.path().join("etc/passwd")).unwrap();
        let error = Accounts::read(&root).unwrap_err();
        assert!(error.to_string().contains("etc/passwd: Is a directory"), "{error}");
        std::fs::remove_dir(dir.path().join("etc/passwd")).unwrap();
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o644);
        nix::unistd::mkfifo(&dir.path().join("etc/passwd"), mode).unwrap();
        assert!(Accounts::read(&root).is_err(), "and nobody waits for a FIFO");
    }
}
