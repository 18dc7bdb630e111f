//! The environment definitions inside the binary, and copying one to an env dir.

use super::manifest::Manifest;
use crate::error::{Context as _, Error, Result};
use rust_embed::RustEmbed;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

#[derive(RustEmbed)]
#[folder = "envs"]
struct Envs;

#[derive(RustEmbed)]
#[folder = "images"]
struct Images;

/// Names of the environments, sorted.
pub fn environments() -> Vec<String> {
    let mut names: Vec<String> =
        Envs::iter().filter_map(|p| p.strip_suffix("/manifest.json").map(Into::into)).collect();
    names.sort();
    names
}

/// What `init` did to one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Create,
    /// It was there with the same content.
    Identical,
    /// It was there with other content.
    Overwrite,
    /// It belongs to the user.
    Ignore,
}

/// Copies an environment to `env_dir`; tells of each file.
pub fn copy(env: &str, env_dir: &Path, force: bool, mut tell: impl FnMut(Outcome, &Path)) -> Result<()> {
    let manifest = manifest(env)?;
    if env_dir.join("env_id").exists() && !force {
        return Err(Error::new(format!("{} exists already", env_dir.display()))
            .hint("`oardocker init -f` overwrites its files, but never custom_setup.sh"));
    }
    // A file of the environment itself replaces that of a parent.
    let mut files: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    for layer in manifest.parents.iter().map(String::as_str).chain([env]) {
        let prefix = format!("{layer}/");
        for path in Envs::iter().filter(|p| p.starts_with(&prefix)) {
            let data = Envs::get(&path).map(|f| f.data.into_owned()).unwrap_or_default();
            files.insert(PathBuf::from(&path[prefix.len()..]), data);
        }
    }
    for (name, data) in files {
        let path = env_dir.join(&name);
        super::refuse_links(env_dir, &path)?;
        let doing = || format!("cannot write {}", path.display());
        let outcome = match fs::read(&path) {
            Ok(_) if name.file_name().is_some_and(|n| manifest.ignore_if_exists.iter().any(|i| n == i.as_str())) => {
                Outcome::Ignore
            }
            Ok(old) if old == data => Outcome::Identical,
            Ok(_) => Outcome::Overwrite,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Outcome::Create,
            Err(e) => return Err(e).doing(doing),
        };
        if matches!(outcome, Outcome::Create | Outcome::Overwrite) {
            write(&path, &data).doing(doing)?;
        }
        tell(outcome, &path);
    }
    Ok(())
}

fn manifest(env: &str) -> Result<Manifest> {
    let file = Envs::get(&format!("{env}/manifest.json")).ok_or_else(|| {
        Error::usage(format!("there is no environment {env:?}"))
            .hint(format!("choose from {}", environments().join(", ")))
    })?;
    Manifest::parse(&String::from_utf8_lossy(&file.data))
}

fn write(path: &Path, data: &[u8]) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // Another kind of file in its place, such as a link, must not be written through.
    let _ = fs::remove_file(path);
    fs::write(path, data)?;
    // The binary keeps no modes: what the kernel could run is meant to be run.
    let mode = if data.starts_with(b"#!") { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// A ready-made base image's definition.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct BaseImage {
    folder: String,
    /// Values for its `ARG`s.
    pub build_args: BTreeMap<String, String>,
}

/// The definition of `oardocker/debian13` and its like.
pub fn base_image(name: &str) -> Option<BaseImage> {
    let name = name.strip_suffix(":latest").unwrap_or(name);
    let file = Images::get("manifest.json").expect("images/manifest.json is embedded");
    let mut all: BTreeMap<String, BaseImage> =
        serde_json::from_slice(&file.data).expect("it is valid JSON, tests read it");
    all.remove(name)
}

impl BaseImage {
    /// Writes the build context below `dir`.
    pub fn extract(&self, dir: &Path) -> Result<()> {
        let prefix = format!("{}/", self.folder);
        for path in Images::iter().filter(|p| p.starts_with(&prefix)) {
            let to = dir.join(&path[prefix.len()..]);
            let data = Images::get(&path).map(|f| f.data.into_owned()).unwrap_or_default();
            write(&to, &data).doing(|| format!("cannot write {}", to.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(dir: &Path, force: bool) -> Result<Vec<(Outcome, String)>> {
        let mut told = Vec::new();
        copy("trixie", dir, force, |o, p| told.push((o, p.strip_prefix(dir).unwrap().display().to_string())))?;
        Ok(told)
    }

    #[test]
    fn what_init_does_to_files() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join(".oardocker");
        assert!(init(&dir, false).unwrap().iter().all(|(o, _)| *o == Outcome::Create));
        fs::write(dir.join("env_id"), "1").unwrap();
        assert!(init(&dir, false).is_err());
        fs::write(dir.join("images/node/custom_setup.sh"), "mine").unwrap();
        fs::write(dir.join("images/node/Dockerfile"), "mine").unwrap();
        let told = init(&dir, true).unwrap();
        let of = |name: &str| told.iter().find(|(_, n)| n == name).unwrap().0;
        assert_eq!(of("images/node/custom_setup.sh"), Outcome::Ignore);
        assert_eq!(of("images/node/Dockerfile"), Outcome::Overwrite);
        assert_eq!(of("images/base/Dockerfile"), Outcome::Identical);
        assert_eq!(fs::read(dir.join("images/node/custom_setup.sh")).unwrap(), b"mine");
        let mode = |n: &str| fs::metadata(dir.join(n)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("init-scripts/create_resources.sh"), mode("manifest.json")), (0o755, 0o644));
    }

    #[test]
    fn every_environment_has_what_it_needs() {
        assert!(environments().contains(&"trixie".to_owned()));
        for env in environments() {
            let manifest = manifest(&env).unwrap();
            manifest.ports().unwrap();
            // The others build on an environment in another workdir.
            if let Some(base) = manifest.build_args.get("BASE") {
                assert!(base_image(base).is_some(), "{env} starts from {base}");
            }
        }
    }
}
