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

use crate::engine::host::data_dir;
use crate::error::{Context as _, Error, Result};
use manifest::Manifest;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// An initialized env dir, locked for this process.
#[derive(Debug)]
pub struct Workdir {
    env_dir: PathBuf,
    /// As in `trixie`.
    pub env_name: String,
    /// Up to eight hexadecimal digits; everything of this environment carries it.
    pub env_id: String,
    /// What the environment consists of.
    pub manifest: Manifest,
}

/// Keeps other oardockers out; given up when dropped.
pub struct Lock(#[allow(dead_code, reason = "held, not used")] Flock<File>);

/// The env dir of a workdir.
pub fn env_dir(root: &Path) -> PathBuf {
    root.join(".oardocker")
}

/// Locks a file or a directory; `waiting` is called when another oardocker has it.
pub async fn lock(path: &Path, waiting: impl FnOnce()) -> Result<Lock> {
    let doing = || format!("cannot lock {}", path.display());
    match Flock::lock(File::open(path).doing(doing)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Lock(lock)),
        Err((file, nix::Error::EWOULDBLOCK)) => {
            waiting();
            // Not on the thread that listens for Ctrl-C.
            let lock = tokio::task::spawn_blocking(move || Flock::lock(file, FlockArg::LockExclusive));
            lock.await.doing(doing)?.map(Lock).map_err(|(_, e)| e).doing(doing)
        }
        Err((_, e)) => Err(e).doing(doing),
    }
}

fn claims() -> PathBuf {
    data_dir().join("locks")
}

/// Everything of an environment is named by its id, so an id belongs to one folder: a copy of it must get its own.
pub async fn claim(root: &Path, env_id: &str, waiting: impl FnOnce()) -> Result<Lock> {
    let path = claims().join(env_id);
    let doing = || format!("cannot write {}", path.display());
    fs::create_dir_all(claims()).doing(doing)?;
    fs::OpenOptions::new().append(true).create(true).open(&path).doing(doing)?;
    let lock = lock(&path, waiting).await?;
    let owner = PathBuf::from(fs::read_to_string(&path).doing(doing)?);
    // A new claim is empty, and an empty path would be the current directory.
    let still = owner.is_absolute()
        && fs::read_to_string(env_dir(&owner).join("env_id")).is_ok_and(|id| id.trim().eq_ignore_ascii_case(env_id));
    if still && owner.canonicalize().ok() != root.canonicalize().ok() {
        return Err(Error::new(format!(
            "{} is a copy of {}: both have the environment id {env_id}",
            root.display(),
            owner.display()
        ))
        .hint(format!("give this one its own: rm {} && oardocker init -f", env_dir(root).join("env_id").display())));
    }
    fs::write(&path, root.to_string_lossy().as_bytes()).doing(doing)?;
    Ok(lock)
}

/// The folder that an environment's id belongs to, while that is so.
pub fn owner(env_id: &str) -> Option<PathBuf> {
    let root = PathBuf::from(fs::read_to_string(claims().join(env_id)).ok()?);
    let id = fs::read_to_string(env_dir(&root).join("env_id")).ok()?;
    id.trim().eq_ignore_ascii_case(env_id).then_some(root)
}

/// Whether an oardocker works in another environment right now.
pub fn others_at_work(env_id: &str) -> bool {
    fs::read_dir(claims())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name() != env_id)
        .any(|e| File::open(e.path()).is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err()))
}

/// Refuses symbolic links between `base` and `path`: who wrote the folder may not lead root elsewhere.
pub fn refuse_links(base: &Path, path: &Path) -> Result<()> {
    for part in path.ancestors().take_while(|p| p.starts_with(base)) {
        if fs::symlink_metadata(part).is_ok_and(|m| m.is_symlink()) {
            return Err(Error::new(format!("{} is a symbolic link", part.display()))
                .hint("root does not write through links in .oardocker: remove it"));
        }
    }
    Ok(())
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock")
    }
}

impl Workdir {
    /// Opens an initialized workdir.
    pub fn open(root: &Path) -> Result<Self> {
        let env_dir = env_dir(root);
        if !env_dir.join("env_id").is_file() || !env_dir.join("env_name").is_file() {
            return Err(Error::new(format!("there is no oardocker environment in {}", root.display()))
                .hint("run `oardocker init` to create one here")
                .hint("or name its folder: oardocker --workdir DIRECTORY ..."));
        }
        let read = |name: &str| {
            let path = env_dir.join(name);
            fs::read_to_string(&path).map(|t| t.trim().to_owned()).doing(|| format!("cannot read {}", path.display()))
        };
        let (env_name, env_id) = (read("env_name")?, read("env_id")?);
        if env_id.is_empty() || env_id.len() > 8 || !env_id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::new(format!(
                "{} holds {env_id:?}; it must be one to eight hexadecimal digits",
                env_dir.join("env_id").display()
            ))
            .hint("remove the file and run `oardocker init -f`"));
        }
        if env_name.is_empty() || !env_name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return Err(Error::new(format!(
                "{} holds {env_name:?}; it must be lower case letters, digits and dashes",
                env_dir.join("env_name").display()
            )));
        }
        let manifest = Manifest::read(&env_dir.join("manifest.json"))?;
        Ok(Self { env_dir, env_name, env_id: env_id.to_lowercase(), manifest })
    }

    /// A path in the env dir.
    pub fn path(&self, name: &str) -> PathBuf {
        self.env_dir.join(name)
    }

    /// Folders with a Dockerfile, in the manifest's order.
    pub fn roles(&self) -> Result<Vec<String>> {
        let dir = self.path("images");
        let mut found: Vec<String> = fs::read_dir(&dir)
            .doing(|| format!("cannot read {}", dir.display()))?
            .flatten()
            .filter(|e| e.path().join("Dockerfile").is_file())
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        if found.is_empty() {
            return Err(Error::new(format!("no folder of {} holds a Dockerfile", dir.display())));
        }
        let place = |role: &String| self.manifest.build_order.iter().position(|r| r == role).unwrap_or(usize::MAX);
        found.sort_by_key(|role| (place(role), role.clone()));
        Ok(found)
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

    /// As the engine knows it: two workdirs with the same environment have their own images.
    pub fn engine_name(&self, role: &str, tag: &str) -> String {
        format!("{}.env/{}", self.env_id, self.image_name(role, tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_refused_at_every_depth() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join(".oardocker");
        fs::create_dir_all(base.join("tmp/frontend")).unwrap();
        let file = base.join("tmp/frontend/history");
        refuse_links(&base, &file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert!(refuse_links(&base, &file).is_err());
        std::os::unix::fs::symlink("/etc", base.join("tmp/node")).unwrap();
        assert!(refuse_links(&base, &base.join("tmp/node/passwd")).is_err());
    }
}
