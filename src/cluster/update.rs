//! Puts changed source files into a running cluster, in the place of what was installed from them, without stopping it.

use super::session::{self, plain_lines};
use super::{container_id, refresh, role};
use crate::engine::{ContainerInfo, Engine, Images, State};
use crate::error::{Error, Result};
use crate::source::{Listing, Prepared};
use futures::future::{join_all, try_join_all};
use std::collections::{BTreeMap, BTreeSet};

/// In the hosts: what compiles, and what is put in place.
const SCRIPT: &str = "/usr/local/lib/oardocker/update.sh";
/// In the hosts: what was put in place before.
const PUT: &str = "/var/lib/oardocker/put";

/// What became of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What hosts have said: `put FILE`, `kept FILE` or `restarted UNIT`, and who.
    pub said: BTreeMap<String, BTreeSet<String>>,
    /// Source files that cannot be put in place so.
    pub left: BTreeSet<String>,
}

/// What is known of what is installed on the hosts of a role.
struct Notes {
    listing: Listing,
    plain: BTreeSet<String>,
    /// Source files of which others than the installed ones were put there.
    put: BTreeSet<String>,
}

/// A running cluster, by its hosts.
#[allow(missing_debug_implementations, reason = "an engine has none")]
pub struct Running<'a> {
    /// Who runs it.
    pub engine: &'a dyn Engine,
    /// Where its images are.
    pub images: &'a dyn Images,
    /// Of the environment.
    pub env_id: &'a str,
    /// Its hosts.
    pub hosts: &'a BTreeMap<String, ContainerInfo>,
    /// The roles that something is installed on, and the names of their images in the store.
    pub roles: BTreeMap<&'a str, String>,
}

impl Running<'_> {
    /// Puts what differs in this source in place, if all of it compiles.
    pub async fn update(&self, source: &Prepared, listing: &Listing) -> Result<Outcome> {
        let names = self.hosts.iter().filter(|(_, host)| host.state == State::Running).map(|(name, _)| name.as_str());
        let names: Vec<&str> = names.filter(|name| self.roles.contains_key(role(name))).collect();
        // Hosts of a role are made of one image.
        let firsts: BTreeMap<&str, &str> = names.iter().rev().map(|name| (role(name), *name)).collect();
        let notes = try_join_all(firsts.values().map(|name| self.notes(name))).await?;
        let (files, left) = wanted(&notes, listing);
        let mut outcome = Outcome { left, ..Outcome::default() };
        if files.is_empty() {
            return Ok(outcome);
        }
        let archive = source.archive(&files.iter().map(String::as_str).collect::<Vec<_>>())?;
        let checks = try_join_all(firsts.values().map(|name| self.tell(name, "check", &archive))).await?;
        let mut faults: Vec<String> = Vec::new();
        for line in checks.into_iter().flatten() {
            if !faults.contains(&line) {
                faults.push(line);
            }
        }
        if !faults.is_empty() {
            return Err(Error::new("this does not compile; the cluster is as it was").detail(faults));
        }
        let all = join_all(names.iter().map(|name| self.tell(name, "put", &archive))).await;
        for (name, lines) in names.iter().zip(all) {
            for line in lines? {
                outcome.said.entry(line).or_default().insert((*name).to_owned());
            }
        }
        Ok(outcome)
    }

    /// Those of the image, as a host might name any file of the user's; it only tells which of them it has.
    async fn notes(&self, host: &str) -> Result<Notes> {
        let none = || {
            Error::new(format!("what is installed on {host} cannot be updated"))
                .hint("`oardocker install DIRECTORY start`, from a directory or a git working tree; then update works")
        };
        let image = self.images.image(&self.roles[role(host)]).await?.ok_or_else(none)?;
        let (origins, listing) = refresh::notes(self.images, &image).await?.ok_or_else(none)?;
        let id = container_id(self.env_id, host);
        let (_, put, _) = session::capture(self.engine, &id, &["/bin/cat", PUT]).await?;
        let put = refresh::sources_of(&origins, &put);
        Ok(Notes { listing, plain: refresh::plain(&origins), put })
    }

    async fn tell(&self, host: &str, what: &str, archive: &[u8]) -> Result<Vec<String>> {
        let id = container_id(self.env_id, host);
        let args = ["/bin/bash", SCRIPT, what];
        let (code, out, err) = session::capture_fed(self.engine, &id, &args, archive).await?;
        if code != 0 {
            let said = plain_lines(&(out + &err));
            return Err(Error::new(format!("cannot {what} the changed files on {host}: exit code {code}")).detail(said));
        }
        Ok(plain_lines(&out))
    }
}

/// The source files to put in place, and those that differ and cannot be.
fn wanted(notes: &[Notes], now: &Listing) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut files, mut left) = (BTreeSet::new(), BTreeSet::new());
    for note in notes {
        let changes = now.changed_since(&note.listing);
        let known = |path: &str| notes.iter().any(|note| note.plain.contains(path));
        for path in changes.contents {
            if known(path) { &mut files } else { &mut left }.insert(path.to_owned());
        }
        left.extend(changes.others);
        // As it may be again what it was.
        files.extend(note.put.iter().filter(|path| now.has(path)).cloned());
    }
    (files, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_what_is_left_and_what_is_put_back() {
        let notes = |plain: &[&str], put: &[&str]| Notes {
            listing: Listing::read("100644\t1\t\tMakefile\n100644\t1\t\ta\n100644\t1\t\tb\n100644\t1\t\tgone\n"),
            plain: plain.iter().map(|path| (*path).to_owned()).collect(),
            put: put.iter().map(|path| (*path).to_owned()).collect(),
        };
        let now = Listing::read("100644\t2\t\tMakefile\n100644\t2\t\ta\n100644\t1\t5\tb\n100644\t1\t\tnew\n");
        let (files, left) = wanted(&[notes(&["a", "b"], &[]), notes(&["b", "gone"], &["b", "gone"])], &now);
        assert_eq!(files.into_iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(left.into_iter().collect::<Vec<_>>(), ["Makefile", "gone", "new"]);
    }
}
