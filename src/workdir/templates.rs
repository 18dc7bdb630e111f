//! The environment definitions inside the binary, and copying one to an env dir.

use super::manifest::Manifest;
use crate::error::{Doing as _, Error, Result};
use crate::rooted::Root;
use rust_embed::RustEmbed;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(RustEmbed)]
#[folder = "envs"]
struct Envs;

#[derive(RustEmbed)]
#[folder = "images"]
struct Images;

/// Names of the environments, sorted. What has no parents is a part of others.
pub fn environments() -> Vec<String> {
    let mut names: Vec<String> = Envs::iter()
        .filter_map(|p| p.strip_suffix("/manifest.json").map(Into::into))
        .filter(|name: &String| own_manifest(name).is_some_and(|m| m.contains_key("parents")))
        .collect();
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
pub fn copy(env: &str, env_dir: &Root, force: bool, mut tell: impl FnMut(Outcome, &Path)) -> Result<()> {
    let (manifest, text) = manifest(env)?;
    if env_dir.text("env_id")?.is_some() && !force {
        return Err(Error::new(format!("{} exists already", env_dir.path().display()))
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
    files.insert("manifest.json".into(), text.into_bytes());
    for (name, data) in files {
        let doing = || format!("cannot write {}", env_dir.path().join(&name).display());
        let outcome = match env_dir.read_bytes(&name) {
            Ok(_) if name.file_name().is_some_and(|n| manifest.ignore_if_exists.iter().any(|i| n == i.as_str())) => {
                Outcome::Ignore
            }
            Ok(old) if old == data => Outcome::Identical,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && env_dir.entry(&name).is_err() => Outcome::Create,
            Err(e) if e.kind() == std::io::ErrorKind::IsADirectory => return Err(e).doing(doing),
            // Also what root cannot or must not read, such as a link that leads out.
            _ => Outcome::Overwrite,
        };
        if matches!(outcome, Outcome::Create | Outcome::Overwrite) {
            env_dir.replace(&name, &data, mode(&data))?;
        }
        tell(outcome, &name);
    }
    Ok(())
}

/// An environment's manifest and its text: its own keys, laid over those of its parents.
fn manifest(env: &str) -> Result<(Manifest, String)> {
    let own = own_manifest(env).filter(|m| m.contains_key("parents")).ok_or_else(|| {
        Error::usage(format!("there is no environment {env:?}"))
            .hint(format!("choose from {}", environments().join(", ")))
    })?;
    let mut all = serde_json::Map::new();
    for parent in own["parents"].as_array().into_iter().flatten().filter_map(|p| p.as_str()) {
        all.extend(own_manifest(parent).unwrap_or_default());
    }
    all.extend(own);
    let text = serde_json::to_string_pretty(&all).expect("JSON can be written") + "\n";
    Ok((Manifest::parse(&text)?, text))
}

fn own_manifest(name: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    let file = Envs::get(&format!("{name}/manifest.json"))?;
    Some(serde_json::from_slice(&file.data).expect("it is a JSON object, tests read it"))
}

/// The binary keeps no modes: what the kernel could run is meant to be run.
fn mode(data: &[u8]) -> u32 {
    if data.starts_with(b"#!") { 0o755 } else { 0o644 }
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
    /// Writes the build context to `dir`.
    pub fn extract(&self, dir: &Root) -> Result<()> {
        let prefix = format!("{}/", self.folder);
        for path in Images::iter().filter(|p| p.starts_with(&prefix)) {
            let data = Images::get(&path).map(|f| f.data.into_owned()).unwrap_or_default();
            dir.replace(Path::new(&path[prefix.len()..]), &data, mode(&data))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn init(dir: &Path, force: bool) -> Result<Vec<(Outcome, String)>> {
        let mut told = Vec::new();
        copy("trixie", &Root::beneath(dir)?, force, |o, p| told.push((o, p.display().to_string())))?;
        Ok(told)
    }

    #[test]
    fn what_init_does_to_files() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join(".oardocker");
        fs::create_dir(&dir).unwrap();
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
    fn links_in_the_env_dir_are_not_written_through() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, outside) = (tmp.path().join(".oardocker"), tmp.path().join("outside"));
        fs::create_dir(&dir).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "theirs").unwrap();
        std::os::unix::fs::symlink(outside.join("file"), dir.join("manifest.json")).unwrap();
        init(&dir, true).unwrap();
        assert!(!fs::symlink_metadata(dir.join("manifest.json")).unwrap().is_symlink(), "replaced, not followed");
        fs::remove_dir_all(dir.join("images")).unwrap();
        std::os::unix::fs::symlink(&outside, dir.join("images")).unwrap();
        let error = init(&dir, true).unwrap_err();
        assert!(error.to_string().contains("leads out of the folder"), "{error}");
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "theirs");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }

    /// The environments that are a Debian suite with OAR 2; the others have OAR 3, on their own or on one of these in another workdir.
    fn suites() -> Vec<String> {
        environments().into_iter().filter(|env| !env.starts_with("oar3")).collect()
    }

    #[test]
    fn an_environment_is_its_suite_s_data() {
        assert_eq!(environments(), ["bookworm", "bullseye", "buster", "oar3", "oar3-dev", "stretch", "trixie"]);
        assert_eq!(suites(), ["bookworm", "bullseye", "buster", "stretch", "trixie"]);
        assert_eq!(manifest("oar3").unwrap().0.build_args["BASE"], manifest("trixie").unwrap().0.build_args["BASE"]);
        for env in suites() {
            let (manifest, _) = manifest(&env).unwrap();
            assert_eq!(manifest.services().unwrap().len(), 5);
            assert_eq!(manifest.build_args["ENV_NAME"], env);
            let base = base_image(&manifest.build_args["BASE"]).unwrap();
            assert_eq!(base.build_args["SUITE"], env, "{env} starts from a base of another suite");
        }
        assert!(suites().contains(&manifest("oar3-dev").unwrap().0.build_args["BASE_ENV"]));
    }

    /// Names of scripts that a text finds beside itself, or in the directory that hosts see them in.
    fn named(text: &str) -> Vec<&str> {
        let after = ["${0%/*}/", "/var/lib/container/init-scripts/"];
        let names = after.iter().flat_map(|place| text.split(place).skip(1));
        names
            .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.').next().unwrap())
            .collect()
    }

    #[test]
    fn an_environment_has_the_scripts_that_it_runs() {
        for env in environments() {
            let tmp = tempfile::tempdir().unwrap();
            copy(&env, &Root::beneath(tmp.path()).unwrap(), false, |_, _| ()).unwrap();
            let scripts = tmp.path().join("init-scripts");
            let images = tmp.path().join("images");
            let found =
                std::process::Command::new("find").arg(&scripts).arg(&images).args(["-type", "f"]).output().unwrap();
            let mut seen = 0;
            for path in String::from_utf8(found.stdout).unwrap().lines() {
                let text = fs::read_to_string(path).unwrap();
                for name in named(&text) {
                    seen += 1;
                    assert!(scripts.join(name).is_file(), "{env}: {path} runs {name}, which is not there");
                }
            }
            assert!(seen > 0, "{env}");
        }
    }

    /// What the base image of a suite installs.
    fn packages(suite: &str) -> Vec<String> {
        let suites = suites();
        let mut found = Vec::new();
        for path in Images::iter().filter(|p| p.starts_with("debian/packages/")) {
            let text = String::from_utf8(Images::get(&path).unwrap().data.into_owned()).unwrap();
            for line in text.lines().filter(|l| !l.starts_with('#')) {
                let mut words = line.split(' ');
                let name = words.next().unwrap();
                let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-+.".contains(c);
                assert!(name.len() > 1 && name.chars().all(valid), "{path}: {line:?}");
                let lacking: Vec<&str> = words.map(|w| w.strip_prefix('-').unwrap_or("no dash")).collect();
                assert!(lacking.iter().all(|s| suites.iter().any(|known| known == s)), "{path}: {line:?}");
                if !lacking.contains(&suite) {
                    found.push(name.to_owned());
                }
            }
        }
        found
    }

    #[test]
    fn package_lists() {
        for suite in suites() {
            let packages = packages(&suite);
            for name in ["systemd", "openssh-server", "rsyslog", "taktuk", "hwloc-nox", "postgresql", "phppgadmin"] {
                assert!(packages.iter().any(|p| p == name), "{suite} lacks {name}");
            }
            let of = |names: [&str; 2]| names.map(|n| packages.iter().any(|p| p == n));
            let archived = ["stretch", "buster"].contains(&suite.as_str());
            assert_eq!(of(["pkg-config", "pkgconf"]), [archived, !archived], "{suite}");
            assert_eq!(of(["python", "python-is-python3"]), [archived, !archived], "{suite}");
            assert_eq!(of(["libbpf-dev", "zstd"]), [["bookworm", "trixie"].contains(&suite.as_str()); 2], "{suite}");
        }
    }

    /// `sources.list` after the base image's script, in a root of its own that mmdebstrap left.
    fn sources(suite: &str, left: &str) -> (String, PathBuf, tempfile::TempDir) {
        let root = tempfile::tempdir().unwrap();
        let apt = root.path().join("etc/apt");
        for dir in ["apt.conf.d", "sources.list.d", "preferences.d"] {
            fs::create_dir_all(apt.join(dir)).unwrap();
        }
        fs::write(apt.join("sources.list"), left).unwrap();
        let script = root.path().join("script");
        fs::write(&script, Images::get("debian/apt_sources.sh").unwrap().data).unwrap();
        let done = std::process::Command::new("sh").arg(&script).arg(suite).env("ROOT", root.path()).status().unwrap();
        assert!(done.success());
        (fs::read_to_string(apt.join("sources.list")).unwrap(), apt, root)
    }

    #[test]
    fn sources_of_a_suite() {
        let signed = "deb [signed-by=/a.gpg,/b.gpg] http://archive.debian.org/debian stretch main\n";
        let (text, apt, _root) = sources("stretch", signed);
        assert_eq!(
            text,
            "deb http://archive.debian.org/debian stretch main\n\
             deb http://archive.debian.org/debian-security stretch/updates main\n"
        );
        let conf = fs::read_to_string(apt.join("apt.conf.d/99archive")).unwrap();
        assert!(conf.contains("Check-Valid-Until \"false\"") && conf.contains("gpgv_expired_keys"), "{conf}");
        assert!(!apt.join("sources.list.d/borrowed.list").exists());

        let (text, apt, _root) = sources("bookworm", "deb http://mirror/debian bookworm main\n");
        assert_eq!(
            text,
            "deb http://mirror/debian bookworm main\ndeb http://mirror/debian bookworm-updates main\n\
             deb http://mirror/debian-security bookworm-security main\n"
        );
        assert!(!apt.join("apt.conf.d/99archive").exists());
        let conf = fs::read_to_string(apt.join("apt.conf.d/90oardocker")).unwrap();
        assert!(conf.contains("APT::Update::Error-Mode \"any\";") && conf.contains("Acquire::Retries"), "{conf}");
        let borrowed = fs::read_to_string(apt.join("sources.list.d/borrowed.list")).unwrap();
        assert_eq!(borrowed, "deb http://mirror/debian trixie main\n");
        let (text, apt, _root) = sources("trixie", "");
        assert!(text.starts_with("deb http://deb.debian.org/debian trixie main\n"), "{text}");
        assert!(!apt.join("sources.list.d/borrowed.list").exists());
    }
}
