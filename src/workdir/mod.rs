//! The folder the user works in, and the env dir `.oardocker/` in it.
//!
//! ```text
//! .oardocker/env_name  env_id        which environment, and which copy of it
//!           /manifest.json           what to build, install and publish
//!           /images/<role>/          build contexts
//!           /init-scripts/           mounted into the nodes
//!           /tmp/<host>/             shell histories
//! ```

pub mod manifest;
pub mod templates;

use crate::error::{Doing as _, Error, Result};
use crate::host::{self, Machine, make_dir, private_dir};
use crate::rooted::Root;
use manifest::Manifest;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An initialized env dir, locked for this process.
#[derive(Debug)]
pub struct Workdir {
    env_dir: Root,
    /// As in `trixie`.
    pub env_name: String,
    /// Up to eight hexadecimal digits; everything of this environment carries it.
    pub env_id: String,
    /// What the environment consists of.
    pub manifest: Manifest,
}

/// Keeps other oardockers out; given up when dropped.
pub struct Lock {
    _held: host::Lock,
    claim: Option<Claim>,
}

/// What a lock says to the next one who gets it.
#[derive(Debug)]
struct Claim {
    path: PathBuf,
    /// What it says when nobody is at work.
    idle: String,
    /// What an oardocker that was killed had noted, until it has been cleaned up after.
    killed: Option<Vec<u32>>,
}

impl Lock {
    fn new(held: host::Lock) -> Self {
        Self { _held: held, claim: None }
    }

    /// What an oardocker that had this claim and was killed had noted.
    pub fn killed(&self) -> Option<&[u32]> {
        self.claim.as_ref()?.killed.as_deref()
    }

    /// Leaves numbers for the next oardocker, in case that this one is killed; not in place of those that nobody has looked at yet.
    pub fn note(&self, numbers: &[u32]) -> Result<()> {
        match &self.claim {
            Some(claim) if claim.killed.is_none() => claim.at_work(numbers),
            _ => Ok(()),
        }
    }

    /// The killed one has been cleaned up after.
    pub fn settled(&mut self, numbers: &[u32]) -> Result<()> {
        let Some(claim) = &mut self.claim else { return Ok(()) };
        claim.killed = None;
        self.note(numbers)
    }
}

impl Claim {
    fn at_work(&self, numbers: &[u32]) -> Result<()> {
        let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        let text = format!("{}\n{AT_WORK} {}", self.idle, numbers.join(" "));
        fs::write(&self.path, text).doing(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before it is given up. One that is left as it was costs the next oardocker a look.
        if let Some(claim) = self.claim.as_ref().filter(|claim| claim.killed.is_none()) {
            let _ = fs::write(&claim.path, &claim.idle);
        }
    }
}

/// The second line of a claim while an oardocker works: whoever has the lock and finds it knows that one was killed.
const AT_WORK: &str = "at work";

/// The env dir of a workdir.
pub fn env_dir(root: &Path) -> PathBuf {
    root.join(".oardocker")
}

/// Locks a file or a directory that is open; `waiting` is called when another oardocker has it.
pub async fn lock(file: File, shown: &Path, waiting: impl FnOnce()) -> Result<Lock> {
    let doing = || format!("cannot lock {}", shown.display());
    match host::try_lock(file).doing(doing)? {
        Ok(lock) => Ok(Lock::new(lock)),
        Err(file) => {
            waiting();
            host::lock_patiently(file).await.map(Lock::new).doing(doing)
        }
    }
}

fn claims(machine: &Machine) -> PathBuf {
    machine.data_dir().join("locks")
}

/// Everything of an environment is named by its id, so an id belongs to one folder: a copy of it must get its own.
pub async fn claim(machine: &Machine, root: &Path, env_id: &str, waiting: impl FnOnce()) -> Result<Lock> {
    let path = claims(machine).join(env_id);
    let doing = || format!("cannot write {}", path.display());
    if !machine.data_dir().exists() {
        // What is for root alone is below it; owners of git trees work in there.
        make_dir(machine.data_dir(), 0o755)?;
    }
    // Whoever could open a claim could keep it locked.
    private_dir(&claims(machine))?;
    let file = fs::OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path).doing(doing)?;
    let mut lock = lock(file, &path, waiting).await?;
    let text = fs::read_to_string(&path).doing(doing)?;
    let (owner, killed) = claimed(&text);
    // A new claim is empty, and an empty path would be the current directory.
    let still = owner.is_absolute() && has_id(&owner, env_id);
    if still && owner.canonicalize().ok() != root.canonicalize().ok() {
        return Err(Error::new(format!(
            "{} is a copy of {}: both have the environment id {env_id}",
            root.display(),
            owner.display()
        ))
        .hint(format!("give this one its own: rm {} && oardocker init -f", env_dir(root).join("env_id").display())));
    }
    let claim = Claim { path, idle: root.to_string_lossy().into_owned(), killed };
    claim.at_work(claim.killed.as_deref().unwrap_or_default())?;
    lock.claim = Some(claim);
    Ok(lock)
}

/// The folder that a claim names, and what was noted there by somebody who is, or was, at work.
fn claimed(text: &str) -> (PathBuf, Option<Vec<u32>>) {
    let at_work = text.rsplit_once('\n').and_then(|(root, last)| Some((root, last.strip_prefix(AT_WORK)?)));
    match at_work {
        Some((root, noted)) => (root.into(), Some(noted.split_whitespace().filter_map(|n| n.parse().ok()).collect())),
        None => (text.into(), None),
    }
}

/// Whether a folder has an environment with this id. One that is gone, or cannot be looked into, has none.
fn has_id(root: &Path, env_id: &str) -> bool {
    let id = Root::beneath(&env_dir(root)).and_then(|dir| dir.needed("env_id"));
    id.is_ok_and(|id| id.trim().eq_ignore_ascii_case(env_id))
}

/// What is between an environment's id and the name that its user knows, in the name of an image.
const OWNED: &str = ".env/";

/// The environment's id and the name that its user knows, in an image's name; none where it is no environment's own.
pub fn owned(name: &str) -> Option<(&str, &str)> {
    name.split_once(OWNED)
}

/// The folder that an environment's id belongs to, while that is so.
pub fn owner(machine: &Machine, env_id: &str) -> Option<PathBuf> {
    let (root, _) = claimed(&fs::read_to_string(claims(machine).join(env_id)).ok()?);
    has_id(&root, env_id).then_some(root)
}

/// Whether an oardocker works in another environment right now.
pub fn others_at_work(machine: &Machine, env_id: &str) -> bool {
    fs::read_dir(claims(machine))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name() != env_id)
        .any(|e| host::is_locked(&e.path()).unwrap_or(false))
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lock").field("claim", &self.claim).finish_non_exhaustive()
    }
}

impl Workdir {
    /// Opens an initialized workdir.
    pub fn open(root: &Path) -> Result<Self> {
        let path = env_dir(root);
        let none = || {
            Error::new(format!("there is no oardocker environment in {}", root.display()))
                .hint("run `oardocker init` to create one here")
                .hint("or name its folder: oardocker --workdir DIRECTORY ...")
        };
        if fs::symlink_metadata(&path).is_err() {
            return Err(none());
        }
        let env_dir = Root::beneath(&path)?;
        let (Some(env_name), Some(env_id)) = (env_dir.text("env_name")?, env_dir.text("env_id")?) else {
            return Err(none());
        };
        let (env_name, env_id) = (env_name.trim().to_owned(), env_id.trim().to_owned());
        if env_id.is_empty() || env_id.len() > 8 || !env_id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::new(format!(
                "{} holds {env_id:?}; it must be one to eight hexadecimal digits",
                path.join("env_id").display()
            ))
            .hint("remove the file and run `oardocker init -f`"));
        }
        if env_name.is_empty() || !env_name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return Err(Error::new(format!(
                "{} holds {env_name:?}; it must be lower case letters, digits and dashes",
                path.join("env_name").display()
            )));
        }
        let file = path.join("manifest.json");
        let manifest = env_dir.needed("manifest.json")?;
        let manifest = Manifest::parse(&manifest).doing(|| format!("cannot use {}", file.display()))?;
        Ok(Self { env_dir, env_name, env_id: env_id.to_lowercase(), manifest })
    }

    /// The env dir. It is the user's: what is in it is opened through it alone.
    pub fn env_dir(&self) -> &Root {
        &self.env_dir
    }

    /// The build context of a role.
    pub fn context(&self, role: &str) -> Result<Arc<Root>> {
        self.env_dir.sub(&Path::new("images").join(role)).map(Arc::new)
    }

    /// Folders with a Dockerfile, in the manifest's order.
    pub fn roles(&self) -> Result<Vec<String>> {
        let images = self.env_dir.sub(Path::new("images"))?;
        let names = images.names(Path::new("/")).doing(|| format!("cannot read {}", images.path().display()))?;
        let mut found: Vec<String> = names
            .into_iter()
            .filter(|name| images.is_file(&Path::new(name).join("Dockerfile")))
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        if found.is_empty() {
            return Err(Error::new(format!("no folder of {} holds a Dockerfile", images.path().display())));
        }
        if let Some(missing) = self.manifest.build_order.iter().find(|role| !found.contains(role)) {
            let path = images.path().join(missing).join("Dockerfile");
            return Err(Error::new(format!(
                "{} is missing, and manifest.json has {missing} in build_order",
                path.display()
            ))
            .hint(format!("write it, take {missing} out of build_order, or run `oardocker init -f`")));
        }
        let place = |role: &String| self.manifest.build_order.iter().position(|r| r == role).unwrap_or(usize::MAX);
        found.sort_by_key(|role| (place(role), role.clone()));
        Ok(found)
    }

    /// Folders beside those of roles, of which nothing is built.
    pub fn unbuilt(&self) -> Result<Vec<PathBuf>> {
        let images = self.env_dir.sub(Path::new("images"))?;
        let names = images.names(Path::new("/")).doing(|| format!("cannot read {}", images.path().display()))?;
        let folders = names.into_iter().map(PathBuf::from).filter(|name| images.is_dir(name));
        let unbuilt = folders.filter(|name| !images.is_file(&name.join("Dockerfile")));
        Ok(unbuilt.map(|name| images.path().join(name)).collect())
    }

    /// As users and Dockerfiles write it: `oardocker/trixie-node:latest`.
    pub fn image_name(&self, role: &str, tag: &str) -> String {
        if self.env_name == "default" {
            format!("oardocker/{role}:{tag}")
        } else {
            format!("oardocker/{}-{role}:{tag}", self.env_name)
        }
    }

    /// The tag that `build` gives: what OAR is installed on becomes `:base`, the rest is ready.
    pub fn build_tag(&self, role: &str) -> &'static str {
        if self.manifest.install_on.iter().any(|r| r == role) { "base" } else { "latest" }
    }

    /// As the store and the engine know it: two workdirs with the same environment have their own images. See [`owned`].
    pub fn engine_name(&self, role: &str, tag: &str) -> String {
        format!("{}{OWNED}{}", self.env_id, self.image_name(role, tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_tells_of_a_killed_oardocker() {
        assert_eq!(claimed("/a/b"), (PathBuf::from("/a/b"), None));
        assert_eq!(claimed("/a\nb\nat work 7 8"), (PathBuf::from("/a\nb"), Some(vec![7, 8])));
        assert_eq!(claimed("/a\nat work "), (PathBuf::from("/a"), Some(Vec::new())));
        assert_eq!(claimed(""), (PathBuf::new(), None));
    }
}
