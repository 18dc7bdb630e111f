//! What instructions mean: each shapes the configuration of the image to be, or is a change of its filesystem, whose key hashes all
//! that goes into it.

use super::config::{self, Configured as _};
use super::copy::{self, Source};
use super::dockerfile::lines::Document;
use super::dockerfile::mount::Mount;
use super::dockerfile::{Action, Argument, Copy, Dockerfile, Run, RunNetwork, Stage, Step, Words};
use super::mode::Mode;
use super::pattern::cleaned;
use super::remote::{GitSource, is_url};
use super::shell::{Quotes, Shell};
use super::tree::Tree;
use crate::engine::{Image, ProcessSpec, sha256};
use crate::error::{Error, Result};
use crate::host::Accounts;
use crate::rooted::Root;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// What an instruction does to the filesystem.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Run(Box<Running>),
    Copy(Box<Copying>),
    Directories(Vec<Directory>),
}

/// A RUN.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) argv: Vec<String>,
    /// A file that stands in the Dockerfile and is what runs: its name and content.
    pub(super) script: Option<(String, String)>,
    pub(super) mounts: Vec<Mount>,
    pub(super) network: RunNetwork,
}

/// A COPY or ADD.
#[derive(Debug, Clone)]
pub(super) struct Copying {
    pub(super) plan: copy::Plan,
    /// A stage or image to copy from; none: the context.
    pub(super) from: Option<String>,
    /// `--chown`, by the names of the image.
    pub(super) owner: Option<String>,
}

/// A directory that has to be there.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) path: String,
    /// Whose it becomes where it is missing, by the names of the image.
    pub(super) owner: Option<String>,
}

/// Variables that need no ARG and are part of nothing that is built.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What the kernel takes as one argument, in bytes.
const LONGEST: usize = 128 << 10;

/// Whether an ARG means something without being declared.
pub(super) fn is_predefined(name: &str) -> bool {
    PROXIES.contains(&name) || name.starts_with("BUILD") || name.starts_with("TARGET")
}

/// What a stage can name besides its own: the context, and the images of `--from`.
pub(super) struct Around<'a> {
    pub(super) context: &'a Tree,
    pub(super) images: &'a BTreeMap<String, Image>,
}

/// The platform of this machine.
pub(super) fn platform() -> String {
    format!("linux/{}", config::ARCHITECTURE)
}

/// The value of a text, with its variables.
fn expand(shell: Shell, text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    shell
        .word(text, lookup)
        .map_err(|e| Error::new(format!("cannot understand {:?}: {e}", super::dockerfile::short(text))))
}

/// The values of the arguments before FROM.
pub(super) fn globals(file: &Dockerfile, given: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for of in ["BUILD", "TARGET"] {
        for (name, value) in [
            ("PLATFORM", platform()),
            ("OS", "linux".into()),
            ("ARCH", config::ARCHITECTURE.into()),
            ("VARIANT", String::new()),
        ] {
            values.insert(format!("{of}{name}"), value);
        }
    }
    let target = file.stages.last().and_then(|stage| stage.name.clone()).unwrap_or_else(|| "default".into());
    values.insert("TARGETSTAGE".into(), target);
    for (name, value) in given {
        if let Some(known) = values.get_mut(name) {
            value.clone_into(known);
        }
    }
    let shell = Shell::new(file.directives.escape);
    for argument in &file.global_args {
        let value = match (given.get(&argument.name), &argument.default) {
            (Some(value), _) => Some(value.clone()),
            (None, Some(default)) => Some(expand(shell, default, &|name| values.get(name).cloned())?),
            (None, None) => None,
        };
        values.extend(value.map(|value| (argument.name.clone(), value)));
    }
    Ok(values)
}

/// The image that a stage is on: another stage's name, an image's, or `scratch`.
pub(super) fn base(file: &Dockerfile, stage: &Stage, globals: &BTreeMap<String, String>) -> Result<String> {
    let lookup = |name: &str| globals.get(name).cloned();
    let shell = Shell::new(file.directives.escape);
    let from = expand(shell, &stage.from, &lookup)?;
    if from.is_empty() {
        return Err(Error::new(format!("FROM {} names no image: its variables have no value", stage.from))
            .hint("give each a default with an ARG before FROM"));
    }
    if let Some(platform) = &stage.platform {
        let (wanted, here) = (expand(shell, platform, &lookup)?, self::platform());
        if !is_platform(&wanted) {
            return Err(Error::new(format!("FROM --platform={wanted} is not supported: this machine is {here}"))
                .hint("leave it out, or build on such a machine"));
        }
    }
    Ok(from)
}

/// Whether a platform is this machine's, in any of its spellings.
fn is_platform(wanted: &str) -> bool {
    let wanted = wanted.to_lowercase();
    let names: &[&str] = if config::ARCHITECTURE == "arm64" {
        &["arm64", "arm64/v8", "aarch64"]
    } else {
        &["amd64", "amd64/v1", "x86_64", "x86-64"]
    };
    wanted == "linux" || names.contains(&wanted.strip_prefix("linux/").unwrap_or(&wanted))
}

/// The state of a stage between two instructions.
#[derive(Debug, Clone)]
pub(super) struct Evaluation {
    pub(super) image: Image,
    shell: Shell,
    args: BTreeMap<String, String>,
    given: BTreeMap<String, String>,
    globals: BTreeMap<String, String>,
    has_cmd: bool,
    epoch: Option<i64>,
}

impl Evaluation {
    /// On an image from elsewhere.
    pub(super) fn new(
        file: &Dockerfile,
        from: Image,
        given: &BTreeMap<String, String>,
        globals: &BTreeMap<String, String>,
        epoch: Option<i64>,
    ) -> Self {
        let mut image = from;
        let created = u64::try_from(epoch.unwrap_or(super::EPOCH)).unwrap_or_default();
        let created = std::time::UNIX_EPOCH + std::time::Duration::from_secs(created);
        image.config.set_created(Some(humantime::format_rfc3339_seconds(created).to_string()));
        image.config.set_history(None);
        Self {
            image,
            shell: Shell::new(file.directives.escape),
            args: BTreeMap::new(),
            given: given.clone(),
            globals: globals.clone(),
            has_cmd: false,
            epoch,
        }
    }

    /// A stage on this one: what was declared there is known.
    pub(super) fn next_stage(&self) -> Self {
        Self { has_cmd: false, ..self.clone() }
    }

    /// What the image wants done where it is built upon; it is done once.
    pub(super) fn take_triggers(&mut self) -> Vec<String> {
        self.image.docker.on_build.take().unwrap_or_default()
    }

    /// A variable's value.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        let env = self.image.env();
        let of_env = env.iter().find_map(|e| e.split_once('=').filter(|(k, _)| *k == name).map(|(_, v)| v.to_owned()));
        of_env.or_else(|| self.args.get(name).cloned())
    }

    /// A text with its variables.
    fn expanded(&self, text: &str) -> Result<String> {
        expand(self.shell, text, &|name| self.value(name))
    }

    fn all_expanded(&self, texts: &[String]) -> Result<Vec<String>> {
        texts.iter().map(|text| self.expanded(text)).collect()
    }

    fn pairs_expanded(&self, pairs: &[(String, String)]) -> Result<Vec<(String, String)>> {
        let named = pairs.iter().map(|(name, value)| Ok((self.expanded(name)?, self.expanded(value)?)));
        let named: Vec<_> = named.collect::<Result<_>>()?;
        if named.iter().any(|(name, _)| name.is_empty()) {
            return Err(Error::new("a name is empty once its variables have values"));
        }
        Ok(named)
    }

    /// Applies what only changes the configuration; returns what changes the filesystem.
    pub(super) fn evaluate(&mut self, step: &Step, around: &Around<'_>) -> Result<Option<Change>> {
        match &step.action {
            Action::Run(run) => self.running(run).map(|run| Some(Change::Run(Box::new(run)))),
            Action::Copy(copy) => self.copying(copy, around).map(|copy| Some(Change::Copy(Box::new(copy)))),
            Action::Workdir(dir) => self.enter(dir).map(|dir| Some(Change::Directories(vec![dir]))),
            Action::Volume(paths) => self.volumes(paths).map(|dirs| Some(Change::Directories(dirs))),
            action => self.configure(action).map(|()| None),
        }
    }

    fn running(&self, run: &Run) -> Result<Running> {
        let mounts = run.mounts.iter().map(|m| m.expanded(self.shell, &|name| self.value(name)).map_err(Error::new));
        let mounts = mounts.collect::<Result<Vec<_>>>()?;
        let mut script = None;
        let argv = match (&run.words, run.documents.as_slice()) {
            (Words::Shell(line), [only]) if super::dockerfile::lines::document(line).is_some() => {
                let content = only.content();
                if content.starts_with("#!") {
                    let name = format!("/dev/pipes/{}", only.name);
                    script = Some((name.clone(), content));
                    // BuildKit hands the path to the shell.
                    self.argv(&Words::Shell(name))
                } else {
                    self.argv(&Words::Shell(content))
                }
            }
            (Words::Shell(line), documents) => {
                let bodies = documents.iter().map(|d| format!("\n{}{}", d.text, d.name));
                self.argv(&Words::Shell(std::iter::once(line.clone()).chain(bodies).collect()))
            }
            (words, _) => self.argv(words),
        };
        if let Some(long) = argv.iter().find(|word| word.len() >= LONGEST) {
            return Err(Error::new(format!(
                "the command has {} bytes, and Linux takes {} at most",
                long.len(),
                LONGEST - 1
            ))
            .hint("write it to a file with COPY, and RUN that"));
        }
        Ok(Running { argv, script, mounts, network: run.network })
    }

    fn copying(&self, copy: &Copy, around: &Around<'_>) -> Result<Copying> {
        let owner = copy.chown.as_deref().map(|owner| self.expanded(owner)).transpose()?;
        let mode =
            copy.chmod.as_deref().map(|mode| Mode::parse(&self.expanded(mode)?).map_err(Error::new)).transpose()?;
        let exclude = self.all_expanded(&copy.exclude)?;
        let written = self.expanded(&copy.dest)?;
        let dest = self.dest(&written);
        let mut sources = Vec::new();
        for text in self.all_expanded(&copy.sources)? {
            sources.push(self.source(copy, text)?);
        }
        for document in &copy.documents {
            sources.push(Source::Inline { name: document.name.clone(), content: self.content(document)? });
        }
        if sources.len() > 1 && !dest.ends_with('/') {
            return Err(Error::new(format!("{written} is no directory, and {} sources go there", sources.len()))
                .hint(format!("write {written}/")));
        }
        if copy.checksum.is_some() && !matches!(sources.as_slice(), [Source::Url { .. } | Source::Git(_)]) {
            return Err(Error::new("--checksum is for one URL or git repository"));
        }
        let (unpack, link) = (copy.unpack.unwrap_or(copy.add), copy.link);
        let plan = copy::Plan { sources, dest, unpack, link, parents: copy.parents, exclude, owner: None, mode };
        if copy.from.is_none() {
            plan.check(around.context)?;
        }
        Ok(Copying { plan, from: copy.from.clone(), owner })
    }

    fn source(&self, copy: &Copy, text: String) -> Result<Source> {
        if copy.add
            && let Some(git) = GitSource::parse(&text)?
        {
            let checksum = copy.checksum.as_deref().map(|c| self.expanded(c)).transpose()?;
            return Ok(Source::Git(git.with(checksum, copy.keep_git_dir)));
        }
        if copy.add && is_url(&text) {
            let checksum = copy.checksum.as_deref().map(|c| self.expanded(c)).transpose()?;
            // An archive from elsewhere is unpacked only if that is said.
            return Ok(Source::Url { url: text, checksum, unpack: copy.unpack.unwrap_or_default() });
        }
        Ok(Source::Path(text))
    }

    /// A here-document's text: quotes mean nothing in it.
    fn content(&self, document: &Document) -> Result<String> {
        let plain = Shell { escape: '\\', quotes: Quotes::Plain };
        let text = document.content();
        if document.expand { expand(plain, &text, &|name| self.value(name)) } else { Ok(text) }
    }

    /// Where COPY's destination is in the image; a slash at its end stays.
    fn dest(&self, text: &str) -> String {
        let is_dir =
            text.is_empty() || ["/", "/.", "/.."].iter().any(|end| text.ends_with(end)) || matches!(text, "." | "..");
        let whole = if text.starts_with('/') { text.to_owned() } else { format!("{}/{text}", self.image.workdir()) };
        let clean = format!("/{}", cleaned(&whole).display());
        if is_dir && clean != "/" { format!("{clean}/") } else { clean }
    }

    /// The working directory of what follows.
    fn enter(&mut self, dir: &str) -> Result<Directory> {
        let dir = self.expanded(dir)?;
        let whole = Path::new(&self.image.workdir()).join(dir);
        let path = format!("/{}", cleaned(&whole.to_string_lossy()).display());
        self.image.edit(|config| config.set_working_dir(Some(path.clone())));
        Ok(Directory { path, owner: Some(self.image.user()).filter(|user| !user.is_empty()) })
    }

    fn volumes(&mut self, paths: &[String]) -> Result<Vec<Directory>> {
        let paths = self.all_expanded(paths)?;
        if paths.iter().any(String::is_empty) {
            return Err(Error::new("VOLUME names a path that is empty"));
        }
        let volumes = config::with(self.image.runtime().volumes().as_ref(), paths.iter().cloned());
        self.image.edit(|config| config.set_volumes(Some(volumes)));
        let directory = |path: &String| Directory { path: format!("/{}", cleaned(path).display()), owner: None };
        Ok(paths.iter().map(directory).collect())
    }

    fn configure(&mut self, action: &Action) -> Result<()> {
        match action {
            Action::Arg(arguments) => return arguments.iter().try_for_each(|argument| self.declare(argument)),
            Action::Env(pairs) => {
                for (name, value) in self.pairs_expanded(pairs)? {
                    self.image.set_variable(&name, &value);
                }
            }
            Action::Label(pairs) => {
                let mut labels = self.image.runtime().labels().clone().unwrap_or_default();
                labels.extend(self.pairs_expanded(pairs)?);
                self.image.edit(|config| config.set_labels(Some(labels)));
            }
            Action::User(user) => {
                let user = self.expanded(user)?;
                self.image.edit(|config| config.set_user(Some(user)));
            }
            Action::Expose(texts) => return self.expose(texts),
            Action::StopSignal(signal) => {
                let signal = self.expanded(signal)?;
                config::check_signal(&signal).map_err(Error::new)?;
                self.image.edit(|config| config.set_stop_signal(Some(signal)));
            }
            Action::Shell(words) => self.image.docker.shell = Some(words.clone()),
            Action::Cmd(words) => {
                let argv = self.argv(words);
                self.has_cmd = true;
                self.image.edit(|config| config.set_cmd(Some(argv)));
            }
            Action::Entrypoint(words) => {
                let argv = Some(self.argv(words)).filter(|argv| !argv.is_empty());
                let has_cmd = self.has_cmd;
                self.image.edit(|config| config.set_entrypoint(argv));
                if !has_cmd {
                    // That of the image below was for another entry point.
                    self.image.edit(|config| config.set_cmd(None));
                }
            }
            Action::Maintainer(name) => drop(self.image.config.set_author(Some(name.clone()))),
            Action::Healthcheck(health) => self.image.docker.healthcheck = Some(config::health(health)),
            Action::Onbuild(text) => self.image.docker.on_build.get_or_insert_default().push(text.clone()),
            Action::Run(_) | Action::Copy(_) | Action::Workdir(_) | Action::Volume(_) => {
                unreachable!("it changes the filesystem")
            }
        }
        Ok(())
    }

    /// ARG: what was given, else the default, else what stands before FROM.
    fn declare(&mut self, argument: &Argument) -> Result<()> {
        let value = match (self.given.get(&argument.name), &argument.default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => Some(self.expanded(default)?),
            (None, None) => self.globals.get(&argument.name).cloned(),
        };
        self.args.extend(value.map(|value| (argument.name.clone(), value)));
        Ok(())
    }

    fn expose(&mut self, texts: &[String]) -> Result<()> {
        let mut ports = Vec::new();
        for text in texts {
            let words = self.shell.words(text, &|name| self.value(name)).map_err(Error::new)?;
            for word in words {
                ports.extend(config::ports(&word).map_err(Error::new)?);
            }
        }
        let ports = config::with(self.image.runtime().exposed_ports().as_ref(), ports);
        self.image.edit(|config| config.set_exposed_ports(Some(ports)));
        Ok(())
    }

    fn argv(&self, words: &Words) -> Vec<String> {
        match words {
            Words::Shell(line) => {
                let shell = self.image.docker.shell.clone().filter(|shell| !shell.is_empty());
                let shell = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
                shell.into_iter().chain([line.clone()]).collect()
            }
            Words::Exec(argv) => argv.clone(),
        }
    }

    /// Hashes all that goes into a change.
    pub(super) fn key(&self, change: &Change, around: &Around<'_>) -> Result<String> {
        let chain = |from: &Option<String>| from.as_ref().map(|name| around.images.get(name).and_then(Image::chain_id));
        let what = match change {
            Change::Run(run) => {
                let mut mounted = Vec::new();
                for mount in &run.mounts {
                    mounted.push(json!({"mount": mount, "from": chain(&mount.from), "context": copy::mounted(mount, around.context)?}));
                }
                json!({"run": run.argv, "script": run.script, "mounts": mounted, "network": run.network, "args": self.args,
                    "user": self.image.user(), "workdir": self.image.workdir(), "env": self.image.env()})
            }
            Change::Copy(copying) => {
                json!({"copy": copying.plan.key(copying.from.is_none().then_some(around.context))?,
                "from": chain(&copying.from), "owner": copying.owner})
            }
            Change::Directories(all) => {
                json!({"directories": all.iter().map(|d| json!([d.path, d.owner])).collect::<Vec<_>>()})
            }
        };
        let text = json!({"parent": self.image.chain_id(), "epoch": self.epoch, "what": what}).to_string();
        Ok(sha256(text.as_bytes()).trim_start_matches("sha256:").to_owned())
    }

    pub(super) fn process(&self, args: Vec<String>, root: &Root) -> Result<ProcessSpec> {
        let user = Accounts::read(root)?.user(&self.image.user())?;
        let mut env = self.image.env();
        let has =
            |env: &[String], key: &str| env.iter().any(|e| e.split_once('=').is_some_and(|(name, _)| name == key));
        // Programs look for proxies in either case.
        let proxies = self.given.iter().filter(|(name, _)| PROXIES.contains(&name.as_str()));
        let proxies = proxies.flat_map(|(name, value)| [(name.to_lowercase(), value), (name.to_uppercase(), value)]);
        for (key, value) in self.args.iter().map(|(key, value)| (key.clone(), value)).chain(proxies) {
            if !has(&env, &key) {
                env.push(format!("{key}={value}"));
            }
        }
        if !has(&env, "HOME") {
            env.push(format!("HOME={}", user.home));
        }
        if !has(&env, "PATH") {
            env.push(format!("PATH={}", config::PATH));
        }
        let cwd = self.image.workdir();
        Ok(ProcessSpec { args, env, cwd, uid: user.uid, gid: user.gid, groups: user.groups, terminal: None })
    }
}
