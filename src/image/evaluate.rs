//! What instructions mean: each shapes the configuration of the image to be, or is a change of its filesystem, whose key hashes all
//! that goes into it.

use super::dockerfile::{Action, Dockerfile, Step, Words};
use super::{copy, expand};
use crate::engine::{Image, ProcessSpec};
use crate::error::{Error, Result};
use crate::host::Accounts;
use crate::rooted::Root;
use oci_spec::image::{Arch, Config, ImageConfiguration, Os};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
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
    pub(super) fn new(file: &Dockerfile, from: Image, given: &BTreeMap<String, String>) -> Self {
        let mut image = from;
        image.config.set_created(Some(
            humantime::format_rfc3339_seconds(
                std::time::UNIX_EPOCH + std::time::Duration::from_secs(super::EPOCH as u64),
            )
            .to_string(),
        ));
        image.config.set_history(None);
        Self {
            image,
            args: BTreeMap::new(),
            given: given.clone(),
            globals: file.global_args.clone(),
            shell: vec!["/bin/sh".into(), "-c".into()],
            owner: None,
        }
    }

    fn config(&self) -> Config {
        self.image.config.config().clone().unwrap_or_default()
    }

    fn edit(&mut self, change: impl FnOnce(&mut Config) -> &mut Config) {
        let mut config = self.config();
        change(&mut config);
        self.image.config.set_config(Some(config));
    }

    fn env(&self) -> Vec<String> {
        self.config().env().clone().unwrap_or_default()
    }

    fn user(&self) -> String {
        self.config().user().clone().unwrap_or_default()
    }

    fn workdir(&self) -> String {
        self.config().working_dir().clone().unwrap_or_default()
    }

    fn lookup(&self, name: &str) -> Option<String> {
        let env = self.env();
        env.iter()
            .find_map(|e| e.split_once('=').filter(|(k, _)| *k == name).map(|(_, v)| v.to_owned()))
            .or_else(|| self.args.get(name).cloned())
    }

    /// A text with its variables.
    fn expanded(&self, text: &str) -> String {
        expand::expand(text, &|name| self.lookup(name))
    }

    fn all_expanded(&self, texts: &[String]) -> Vec<String> {
        texts.iter().map(|text| self.expanded(text)).collect()
    }

    /// Applies what only changes the configuration; returns what changes the filesystem.
    pub(super) fn evaluate(&mut self, step: &Step, context: &Arc<Root>) -> Result<Option<Change>> {
        self.owner = match &step.action {
            Action::Copy { chown: Some(owner), .. } => Some(self.expanded(owner)),
            _ => None,
        };
        match &step.action {
            Action::Run(words) => Ok(Some(Change::Run(self.argv(words)))),
            Action::Copy { add, chmod, sources, dest, .. } => {
                self.copy(*add, chmod.as_deref(), sources, dest, context).map(|plan| Some(Change::Copy(plan)))
            }
            Action::Workdir(dir) => Ok(Some(Change::Directory(self.enter(dir)))),
            action => {
                self.configure(action);
                Ok(None)
            }
        }
    }

    fn copy(
        &self,
        unpack: bool,
        chmod: Option<&str>,
        sources: &[String],
        dest: &str,
        context: &Arc<Root>,
    ) -> Result<copy::Plan> {
        let octal =
            |m: &str| u32::from_str_radix(m, 8).map_err(|_| Error::new(format!("--chmod={m} is not an octal number")));
        let mode = chmod.map(octal).transpose()?;
        let mut dest = self.expanded(dest);
        if !dest.starts_with('/') {
            let workdir = self.workdir();
            dest = format!("{}/{}", workdir.trim_end_matches('/'), dest.strip_prefix("./").unwrap_or(&dest));
        }
        if dest.ends_with("/.") {
            dest.pop();
        }
        let sources = copy::sources(context, &self.all_expanded(sources))?;
        Ok(copy::Plan { sources, context: context.clone(), dest, unpack, owner: None, mode })
    }

    /// The working directory of what follows.
    fn enter(&mut self, dir: &str) -> String {
        let full = Path::new("/").join(self.workdir()).join(self.expanded(dir)).to_string_lossy().into_owned();
        let dir = full.clone();
        self.edit(|config| config.set_working_dir(Some(dir)));
        full
    }

    fn configure(&mut self, action: &Action) {
        match action {
            Action::Arg(name, default) => self.declare(name, default.as_deref()),
            Action::Env(text) => self.set_variables(text),
            Action::Label(text) => {
                let more = expand::pairs(text, &|name| self.lookup(name));
                let mut labels = self.config().labels().clone().unwrap_or_default();
                labels.extend(more);
                self.edit(|config| config.set_labels(Some(labels)));
            }
            Action::User(user) => {
                let user = self.expanded(user);
                self.edit(|config| config.set_user(Some(user)));
            }
            Action::Expose(ports) => {
                let whole = |p: String| if p.contains('/') { p } else { format!("{p}/tcp") };
                let ports =
                    with(self.config().exposed_ports().as_ref(), self.all_expanded(ports).into_iter().map(whole));
                self.edit(|config| config.set_exposed_ports(Some(ports)));
            }
            Action::Volume(paths) => {
                let volumes = with(self.config().volumes().as_ref(), self.all_expanded(paths));
                self.edit(|config| config.set_volumes(Some(volumes)));
            }
            Action::StopSignal(signal) => {
                let signal = self.expanded(signal);
                self.edit(|config| config.set_stop_signal(Some(signal)));
            }
            Action::Shell(words) => self.shell.clone_from(words),
            Action::Cmd(words) => {
                let argv = self.argv(words);
                self.edit(|config| config.set_cmd(Some(argv)));
            }
            Action::Entrypoint(words) => {
                let argv = self.argv(words);
                self.edit(|config| config.set_entrypoint(Some(argv)).set_cmd(Some(Vec::new())));
            }
            Action::Maintainer(name) => {
                self.image.config.set_author(Some(name.clone()));
            }
            // Those change the filesystem.
            Action::Run(_) | Action::Copy { .. } | Action::Workdir(_) => {}
        }
    }

    /// ARG: what was given, else the default, else what stands before FROM.
    fn declare(&mut self, name: &str, default: Option<&str>) {
        let global = self.globals.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.clone());
        let value = self.given.get(name).cloned().or_else(|| default.map(|text| self.expanded(text))).or(global);
        self.args.extend(value.map(|value| (name.to_owned(), value)));
    }

    /// ENV.
    fn set_variables(&mut self, text: &str) {
        let mut env = self.env();
        for (key, value) in expand::pairs(text, &|name| self.lookup(name)) {
            env.retain(|e| e.split_once('=').is_none_or(|(k, _)| k != key));
            env.push(format!("{key}={value}"));
        }
        self.edit(|config| config.set_env(Some(env)));
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
            Change::Run(argv) => json!({"run": argv, "args": self.args, "user": self.user(),
                "workdir": self.workdir(), "env": self.env()}),
            Change::Copy(plan) => json!({"copy": copy::hash(plan)?, "dest": plan.dest, "unpack": plan.unpack,
                "owner": self.owner, "mode": plan.mode}),
            Change::Directory(path) => json!({"dir": path}),
        };
        let text = json!({"parent": self.image.chain_id(), "what": what}).to_string();
        Ok(crate::engine::sha256(text.as_bytes()).trim_start_matches("sha256:").to_owned())
    }

    pub(super) fn process(&self, args: Vec<String>, root: &Path) -> Result<ProcessSpec> {
        let user = Accounts::read(&Root::open(root)?)?.user(&self.user())?;
        let mut env = self.env();
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
            cwd: self.workdir(),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups,
            terminal: None,
        })
    }
}

/// A set with more names.
fn with(names: Option<&Vec<String>>, more: impl IntoIterator<Item = String>) -> Vec<String> {
    names.into_iter().flatten().cloned().chain(more).collect::<BTreeSet<_>>().into_iter().collect()
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
        let mut state = Evaluation::new(&file, Image { config: new_config(), layers: vec![] }, &BTreeMap::new());
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
