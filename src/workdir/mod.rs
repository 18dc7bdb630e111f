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

/// Keeps other oardockers of the same workdir out; given up when dropped.
pub struct Lock(#[allow(dead_code, reason = "held, not used")] Flock<File>);

/// The env dir of a workdir.
pub fn env_dir(root: &Path) -> PathBuf {
    root.join(".oardocker")
}

/// Waits for other oardockers that change this workdir. `waiting` is called when it has to wait.
pub fn lock(root: &Path, waiting: impl FnOnce()) -> Result<Lock> {
    let dir = env_dir(root);
    let doing = || format!("cannot lock {}", dir.display());
    let file = File::open(&dir).doing(doing)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Lock(lock)),
        Err((file, nix::Error::EWOULDBLOCK)) => {
            waiting();
            Flock::lock(file, FlockArg::LockExclusive).map(Lock).map_err(|(_, e)| e).doing(doing)
        }
        Err((_, e)) => Err(e).doing(doing),
    }
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
