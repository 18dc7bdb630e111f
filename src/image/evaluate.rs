//! What instructions mean: each shapes the configuration of the image to be, or is a change of its filesystem, whose key hashes all
//! that goes into it.

use super::dockerfile::{Action, Dockerfile, Step, Words};
use super::users::Accounts;
use super::{copy, expand};
use crate::engine::{Image, ProcessSpec};
use crate::error::{Context as _, Error, Result};
use crate::rooted::Root;
use oci_spec::image::{Arch, ImageConfiguration, Os};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What an instruction does to the filesystem.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Run(Vec<String>),
    Copy(copy::Plan),
    Directory(String),
}

/// The state of a build between two instructions.
pub(super) struct Evaluation {
    pub(super) image: Image,
    args: BTreeMap<String, String>,
    given: BTreeMap<String, String>,
    globals: Vec<(String, Option<String>)>,
    shell: Vec<String>,
    /// `--chown` of the current COPY.
    pub(super) owner: Option<String>,
}

impl Evaluation {
    pub(super) fn new(file: &Dockerfile, from: Image, given: &BTreeMap<String, String>) -> Result<Self> {
        let mut image = from;
        image.config.set_created(Some(
            humantime::format_rfc3339_seconds(
                std::time::UNIX_EPOCH + std::time::Duration::from_secs(super::EPOCH as u64),
            )
            .to_string(),
        ));
        image.config.set_history(None);
        Ok(Self {
            image,
            args: BTreeMap::new(),
            given: given.clone(),
            globals: file.global_args.clone(),
            shell: vec!["/bin/sh".into(), "-c".into()],
            owner: None,
        })
    }

    fn list(&self, field: &str) -> Vec<String> {
        let config = serde_json::to_value(&self.image.config).unwrap_or_default();
        match &config["config"][field] {
            // A set: its names are the keys.
            serde_json::Value::Object(set) => set.keys().cloned().collect(),
            list => serde_json::from_value(list.clone()).unwrap_or_default(),
        }
    }

    fn text(&self, field: &str) -> String {
        let config = serde_json::to_value(&self.image.config).unwrap_or_default();
        config["config"][field].as_str().unwrap_or_default().to_owned()
    }

    fn lookup(&self, name: &str) -> Option<String> {
        let env = self.list("Env");
        env.iter()
            .find_map(|e| e.split_once('=').filter(|(k, _)| *k == name).map(|(_, v)| v.to_owned()))
            .or_else(|| self.args.get(name).cloned())
    }

    /// Applies what only changes the configuration; returns what changes the filesystem.
    pub(super) fn evaluate(&mut self, step: &Step, context: &Arc<Root>) -> Result<Option<Change>> {
        let lookup = |name: &str| self.lookup(name);
        let ex = |text: &str| expand::expand(text, &lookup);
        self.owner = match &step.action {
            Action::Copy { chown: Some(owner), .. } => Some(ex(owner)),
            _ => None,
        };
        let lookup = |name: &str| self.lookup(name);
        let ex = |text: &str| expand::expand(text, &lookup);
        match &step.action {
            Action::Arg(name, default) => {
                let global = self.globals.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.clone());
                let value = self.given.get(name).cloned().or_else(|| default.as_deref().map(ex)).or(global);
                if let Some(value) = value {
                    self.args.insert(name.clone(), value);
                }
            }
            Action::Env(text) => {
                let mut env = self.list("Env");
                for (key, value) in expand::pairs(text, &lookup) {
                    env.retain(|e| e.split_once('=').is_none_or(|(k, _)| k != key));
                    env.push(format!("{key}={value}"));
                }
                set(&mut self.image.config, "Env", json!(env))?;
            }
            Action::Label(text) => {
                let config = serde_json::to_value(&self.image.config).unwrap_or_default();
                let mut labels: BTreeMap<String, String> =
                    serde_json::from_value(config["config"]["Labels"].clone()).unwrap_or_default();
                labels.extend(expand::pairs(text, &lookup));
                set(&mut self.image.config, "Labels", json!(labels))?;
            }
            Action::Run(words) => return Ok(Some(Change::Run(self.argv(words)))),
            Action::Copy { add, chmod, sources, dest, .. } => {
                let mode = chmod
                    .as_ref()
                    .map(|m| {
                        u32::from_str_radix(m, 8).map_err(|_| Error::new(format!("--chmod={m} is not an octal number")))
                    })
                    .transpose()?;
                let patterns: Vec<String> = sources.iter().map(|s| ex(s)).collect();
                let mut dest = ex(dest);
                if !dest.starts_with('/') {
                    let workdir = self.text("WorkingDir");
                    dest = format!("{}/{}", workdir.trim_end_matches('/'), dest.strip_prefix("./").unwrap_or(&dest));
                }
                if dest.ends_with("/.") {
                    dest.pop();
                }
                return Ok(Some(Change::Copy(copy::Plan {
                    sources: copy::sources(context, &patterns)?,
                    context: context.clone(),
                    dest,
                    unpack: *add,
                    owner: None,
                    mode,
                })));
            }
            Action::User(user) => {
                let user = ex(user);
                set(&mut self.image.config, "User", json!(user))?;
            }
            Action::Workdir(dir) => {
                let dir = ex(dir);
                let full = Path::new("/").join(self.text("WorkingDir")).join(dir).to_string_lossy().into_owned();
                set(&mut self.image.config, "WorkingDir", json!(full))?;
                return Ok(Some(Change::Directory(full)));
            }
            Action::Expose(ports) => {
                let mut all = self.list("ExposedPorts");
                all.extend(ports.iter().map(|p| ex(p)).map(|p| if p.contains('/') { p } else { format!("{p}/tcp") }));
                set(&mut self.image.config, "ExposedPorts", json!(all))?;
            }
            Action::Volume(paths) => {
                let mut all = self.list("Volumes");
                all.extend(paths.iter().map(|p| ex(p)));
                set(&mut self.image.config, "Volumes", json!(all))?;
            }
            Action::StopSignal(signal) => {
                let signal = ex(signal);
                set(&mut self.image.config, "StopSignal", json!(signal))?;
            }
            Action::Shell(words) => self.shell.clone_from(words),
            Action::Cmd(words) => {
                let argv = self.argv(words);
                set(&mut self.image.config, "Cmd", json!(argv))?;
            }
            Action::Entrypoint(words) => {
                let argv = self.argv(words);
                set(&mut self.image.config, "Entrypoint", json!(argv))?;
                set(&mut self.image.config, "Cmd", json!([]))?;
            }
            Action::Maintainer(name) => {
                self.image.config.set_author(Some(name.clone()));
            }
        }
        Ok(None)
    }

    fn argv(&self, words: &Words) -> Vec<String> {
        match words {
            Words::Shell(line) => self.shell.iter().cloned().chain([line.clone()]).collect(),
            Words::Exec(argv) => argv.clone(),
        }
    }

    /// Hashes all that goes into a change.
    pub(super) fn key(&self, change: &Change) -> Result<String> {
        let what = match change {
            Change::Run(argv) => json!({"run": argv, "args": self.args, "user": self.text("User"),
                "workdir": self.text("WorkingDir"), "env": self.list("Env")}),
            Change::Copy(plan) => json!({"copy": copy::hash(plan)?, "dest": plan.dest, "unpack": plan.unpack,
                "owner": self.owner, "mode": plan.mode}),
            Change::Directory(path) => json!({"dir": path}),
        };
        let text = json!({"parent": self.image.chain_id(), "what": what}).to_string();
        Ok(crate::engine::sha256(text.as_bytes()).trim_start_matches("sha256:").to_owned())
    }

    pub(super) fn process(&self, args: Vec<String>, root: &Path) -> Result<ProcessSpec> {
        let user = Accounts::read(&Root::open(root)?)?.user(&self.text("User"))?;
        let mut env = self.list("Env");
        for (key, value) in &self.args {
            if !env.iter().any(|e| e.starts_with(&format!("{key}="))) {
                env.push(format!("{key}={value}"));
            }
        }
        if !env.iter().any(|e| e.starts_with("HOME=")) {
            env.push(format!("HOME={}", user.home));
        }
        Ok(ProcessSpec {
            args,
            env,
            cwd: self.text("WorkingDir"),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups,
            terminal: None,
        })
    }
}

/// Sets one field of the configuration's `config` section, by its name in the image spec.
pub(super) fn set(config: &mut ImageConfiguration, field: &str, value: serde_json::Value) -> Result<()> {
    let mut whole = serde_json::to_value(&*config).doing(|| "cannot edit the image configuration".into())?;
    let value = match (field, value) {
        // Sets in the image spec are objects with empty values.
        ("ExposedPorts" | "Volumes", serde_json::Value::Array(names)) => {
            names.iter().filter_map(|n| n.as_str()).map(|n| (n.to_owned(), json!({}))).collect()
        }
        (_, value) => value,
    };
    whole["config"][field] = value;
    *config = serde_json::from_value(whole).doing(|| format!("cannot set {field} in the image configuration"))?;
    Ok(())
}

pub(super) fn new_config() -> ImageConfiguration {
    let mut config = ImageConfiguration::default();
    config.set_architecture(if cfg!(target_arch = "aarch64") { Arch::ARM64 } else { Arch::Amd64 });
    config.set_os(Os::Linux);
    config
}

#[cfg(test)]
mod tests {
    use super::super::dockerfile;
    use super::*;

    fn root() -> Arc<Root> {
        Arc::new(Root::beneath(Path::new("/")).unwrap())
    }

    fn evaluation(text: &str) -> Evaluation {
        let file = dockerfile::parse("D", text).unwrap();
        let mut state =
            Evaluation::new(&file, Image { config: new_config(), layers: vec![] }, &BTreeMap::new()).unwrap();
        for step in &file.steps {
            state.evaluate(step, &root()).unwrap();
        }
        state
    }

    #[test]
    fn instructions_shape_the_configuration() {
        let state = evaluation(
            "FROM x\nARG V=3\nENV A=$V B=\"x y\"\nENV A=4\nUSER docker\nWORKDIR /w\nWORKDIR sub\nEXPOSE 80 53/udp\n\
             VOLUME /run\nLABEL l=\"a b\"\nENTRYPOINT [\"e\"]\nCMD run $me\nSTOPSIGNAL SIGRTMIN+3",
        );
        let config = serde_json::to_value(&state.image.config).unwrap()["config"].clone();
        assert_eq!(config["Env"], json!(["B=x y", "A=4"]));
        assert_eq!(config["WorkingDir"], "/w/sub");
        assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}}));
        assert_eq!(config["Cmd"], json!(["/bin/sh", "-c", "run $me"]));
        assert_eq!(config["StopSignal"], "SIGRTMIN+3");
        assert_eq!(config["Labels"], json!({"l": "a b"}));
    }
}
