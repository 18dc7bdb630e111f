//! Builds images: finds what each one starts from, runs independent ones at the same time, caches every step.
//!
//! A step's result is kept as an image named `oardocker.cache/<key>`, where the key hashes all that went into the step:
//! so a killed build loses one step, and the engine's own garbage collection owns the space.

use super::dockerfile::{Action, Dockerfile, Step, Words};
use super::users::Accounts;
use super::{bootstrap, copy, dockerfile, expand, layer, registry, unpack};
use crate::engine::space;
use crate::engine::{ContainerSpec, Engine, Image, Layer, Mount, Network as Reach, ProcessSpec, Purpose, StepRoot};
use crate::error::{Context as _, Error, Result};
use crate::rooted::Root;
use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use oci_spec::image::{Arch, ImageConfiguration, Os};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Name prefix of cached steps.
pub const CACHE: &str = "oardocker.cache/";

const CACHE_LABEL: &str = "oardocker.layer";

/// How many lines of a failed step's output are repeated below the error.
const TAIL: usize = 15;

/// One image to build.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Short name for prefixes: the role, or the base image's name.
    pub title: String,
    /// Names under which other Dockerfiles find it in FROM.
    pub known_as: Vec<String>,
    /// Name in the engine.
    pub tag: String,
    /// Folder with the Dockerfile; the build context.
    pub context: Arc<Root>,
    /// Values for its `ARG`s.
    pub args: BTreeMap<String, String>,
    /// Labels for the engine.
    pub labels: BTreeMap<String, String>,
    /// What for.
    pub purpose: Purpose,
}

/// How to build.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Run every step.
    pub no_cache: bool,
    /// Look for a newer base image.
    pub pull: bool,
    /// Leave images that are there as they are.
    pub keep: bool,
    /// Values for `ARG`s.
    pub args: BTreeMap<String, String>,
    /// Names in FROM lines that mean an image with another name in the engine.
    pub elsewhere: BTreeMap<String, String>,
}

/// Gives build steps a network of their own: what they listen on must not meet the host or another build.
#[async_trait]
pub trait Network: Send + Sync {
    /// A network namespace for this step.
    async fn attach(&self, name: &str) -> Result<PathBuf>;
    /// Gives it back.
    async fn detach(&self, name: &str) -> Result<()>;
    /// Files to mount: host path and path inside (name resolution).
    fn files(&self) -> Vec<(PathBuf, String)>;
    /// Variables that have to do with it: proxies. They are no part of what is built.
    fn variables(&self) -> Vec<(String, String)>;
}

/// Hears what a build says: the title of the image, and a line.
pub type Listener = dyn Fn(&str, &str) + Send + Sync;

/// Everything a build needs from outside.
#[derive(Clone)]
pub struct Builder {
    /// Where images live.
    pub engine: Arc<dyn Engine>,
    /// For RUN.
    pub network: Arc<dyn Network>,
    /// For layer files on their way.
    pub scratch: PathBuf,
    /// Path of the steps' cgroups below every controller.
    pub cgroup: String,
    /// For output.
    pub listener: Arc<Listener>,
    /// How.
    pub options: Options,
    /// Whether the user still wants it; what is at work is ended, and waited for.
    pub cancel: CancellationToken,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("scratch", &self.scratch)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What a definition starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Base {
    /// Another definition, by index.
    Built(usize),
    /// Something outside: local, in a registry, or bootstrapped.
    Outside(String),
}

type Building = Shared<BoxFuture<'static, Result<Arc<Image>, Arc<Error>>>>;

impl Builder {
    /// Builds all definitions. Returns tags and image ids in their order.
    pub async fn build(&self, definitions: &[Definition]) -> Result<Vec<(String, String)>> {
        let mut parsed = Vec::new();
        for d in definitions {
            if d.context.entry(Path::new(".dockerignore")).is_ok() {
                return Err(Error::new(format!("{}/.dockerignore is not supported", d.context.path().display()))
                    .hint("move what should not be copied out of this folder"));
            }
            parsed.push(parse(&d.context)?);
        }
        let bases = bases(definitions, &parsed);
        let order = order(definitions, &bases)?;
        let cache = Arc::new(self.load_cache().await?);
        let mut building: HashMap<usize, Building> = HashMap::new();
        for i in order {
            let (me, definition, file) = (self.clone(), definitions[i].clone(), parsed[i].clone());
            let (base, cache) = (bases[i].clone(), cache.clone());
            let parent = match &base {
                Base::Built(p) => building.get(p).cloned(),
                Base::Outside(_) => None,
            };
            let work = async move {
                if me.options.keep
                    && let Some(image) = me.engine.image(&definition.tag).await.map_err(Arc::new)?
                {
                    (me.listener)(&definition.title, "It is already there");
                    return Ok(Arc::new(image));
                }
                let from = match (parent, base) {
                    (Some(parent), _) => (*parent.await?).clone(),
                    (None, Base::Outside(name)) => me.resolve(&definition, &name).await.map_err(Arc::new)?,
                    (None, Base::Built(_)) => unreachable!("parents come first in the order"),
                };
                me.one(&definition, &file, from, &cache).await.map(Arc::new).map_err(Arc::new)
            };
            building.insert(i, work.boxed().shared());
        }
        // All of them to their ends, also when one fails: nothing may be at work on the engine when it is torn down.
        let outcomes = futures::future::join_all((0..definitions.len()).map(|i| building[&i].clone())).await;
        let mut done = Vec::new();
        for (outcome, definition) in outcomes.into_iter().zip(definitions) {
            let told = |e: Arc<Error>| space::explain(unshare(&e), &self.scratch);
            outcome.map_err(|e| told(e).within(format!("cannot build {}", definition.title)))?;
            done.push((definition.tag.clone(), String::new()));
        }
        let ids: HashMap<_, _> = self.engine.images().await?.into_iter().map(|r| (r.name, r.id)).collect();
        for (tag, id) in &mut done {
            *id = ids.get(tag).cloned().unwrap_or_default();
        }
        Ok(done)
    }

    async fn load_cache(&self) -> Result<HashMap<String, Layer>> {
        if self.options.no_cache {
            return Ok(HashMap::new());
        }
        Ok(self
            .engine
            .images()
            .await?
            .into_iter()
            .filter_map(|record| {
                let key = record.name.strip_prefix(CACHE)?.to_owned();
                Some((key, serde_json::from_str(record.labels.get(CACHE_LABEL)?).ok()?))
            })
            .collect())
    }

    /// FROM an image that is not among the definitions: local, else registry, else bootstrap.
    async fn resolve(&self, definition: &Definition, name: &str) -> Result<Image> {
        if name == "scratch" {
            return Ok(Image { config: new_config(), layers: Vec::new() });
        }
        let say = |line: &str| (self.listener)(&definition.title, line);
        if let Some(elsewhere) = self.options.elsewhere.get(name) {
            let image = self.engine.image(elsewhere).await?;
            return image.ok_or_else(|| Error::new(format!("image {elsewhere} has just been removed")));
        }
        if !self.options.pull
            && let Some(image) = self.engine.image(name).await?
        {
            return Ok(image);
        }
        let mut labels = BTreeMap::from([("oardocker.base".to_owned(), "true".to_owned())]);
        let image = match registry::pull(self.engine.as_ref(), name, &self.scratch, &self.cancel).await {
            Ok(image) => {
                say(&format!("Pulled {name}"));
                image
            }
            Err(why) if self.cancel.is_cancelled() => return Err(why),
            Err(why) => match bootstrap::suite(name) {
                Some(suite) => {
                    say(&format!("No registry gives {name} ({why})"));
                    self.bootstrap(definition, suite, &mut labels).await?
                }
                None => return Err(why.hint(format!("build or load {name} first, or correct the FROM line"))),
            },
        };
        self.engine.put_image(name, &image, &labels, Purpose::Build).await?;
        Ok(image)
    }

    async fn bootstrap(
        &self,
        definition: &Definition,
        suite: &str,
        labels: &mut BTreeMap<String, String>,
    ) -> Result<Image> {
        let file = self.scratch_file()?;
        let title = definition.title.clone();
        let made = bootstrap::bootstrap(suite, &file, &|line| (self.listener)(&title, line), &self.cancel).await;
        let layer = made.map_err(|e| space::explain(e, &self.scratch))?;
        let kept = async {
            self.engine.put_layer(&layer, &file).await?;
            unpack::unpack(self.engine.as_ref(), &layer, &file, None).await
        }
        .await;
        let kept = kept.map_err(|e| space::explain(e, &self.scratch));
        let _ = std::fs::remove_file(&file);
        kept?;
        labels.insert("oardocker.bootstrapped".into(), bootstrap::mirror(suite));
        let mut config = new_config();
        set(&mut config, "Env", json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]))?;
        set(&mut config, "Cmd", json!(["bash"]))?;
        Ok(Image { config, layers: vec![layer] })
    }

    fn scratch_file(&self) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.scratch).doing(|| format!("cannot create {}", self.scratch.display()))?;
        Ok(self.scratch.join(format!("layer-{}-{:08x}", std::process::id(), rand::random::<u32>())))
    }

    /// Builds one image on top of `from`.
    async fn one(
        &self,
        definition: &Definition,
        file: &Dockerfile,
        from: Image,
        cache: &HashMap<String, Layer>,
    ) -> Result<Image> {
        match self.steps(definition, file, from.clone(), cache).await {
            // Somebody removed snapshots behind our back: the cache is worth nothing.
            Err(None) => self.steps(definition, file, from, &HashMap::new()).await.map_err(|e| {
                e.unwrap_or_else(|| {
                    Error::new(format!("the layers of {} are gone", file.from))
                        .hint("run `oardocker destroy`, then build")
                })
            }),
            outcome => outcome.map_err(|e| e.expect("the other case was handled")),
        }
    }

    /// Runs the steps. The error None means that a cached step could not be used after all.
    async fn steps(
        &self,
        definition: &Definition,
        file: &Dockerfile,
        from: Image,
        cache: &HashMap<String, Layer>,
    ) -> Result<Image, Option<Error>> {
        let say = |line: &str| (self.listener)(&definition.title, line);
        let mut given = self.options.args.clone();
        given.extend(definition.args.clone());
        let mut state = Evaluation::new(file, from, &given).map_err(Some)?;
        let total = file.steps.len() + 1;
        say(&format!("Step 1/{total} : FROM {}", file.from));
        let mut verified = false;
        for (i, step) in file.steps.iter().enumerate() {
            if self.cancel.is_cancelled() {
                return Err(Some(Error::interrupted()));
            }
            say(&format!("Step {}/{total} : {}", i + 2, step.text));
            let file = definition.context.path().join("Dockerfile");
            let place = || format!("{}:{}: {}", file.display(), step.line, step.text);
            let change = state.evaluate(step, &definition.context).map_err(|e| Some(e.within(place())))?;
            let Some(change) = change else { continue };
            let key = state.key(&change).map_err(|e| Some(e.within(place())))?;
            if let Some(layer) = cache.get(&key) {
                say(" ---> Using cache");
                state.image.layers.push(layer.clone());
                verified = false;
                continue;
            }
            if !verified {
                if let Some(chain) = state.image.chain_id()
                    && !self.engine.has_chain(&chain).await.map_err(Some)?
                {
                    return Err(None);
                }
                verified = true;
            }
            let layer = self.run(definition, &state, &change).await.map_err(|e| Some(e.within(place())))?;
            state.image.layers.push(layer.clone());
            let text = serde_json::to_string(&layer).map_err(|e| Some(Error::new(e.to_string())))?;
            let labels = BTreeMap::from([(CACHE_LABEL.to_owned(), text)]);
            let name = format!("{CACHE}{key}");
            self.engine.put_image(&name, &state.image, &labels, Purpose::Build).await.map_err(Some)?;
        }
        if let Some(chain) = state.image.chain_id()
            && !self.engine.has_chain(&chain).await.map_err(Some)?
        {
            return Err(None);
        }
        let put = self.put(&definition.title, &definition.tag, &state.image, &definition.labels, definition.purpose);
        let id = put.await.map_err(Some)?;
        say(&format!("Successfully built {}", short(&id)));
        Ok(state.image)
    }

    /// Puts a finished image under its name; says so where that takes its time.
    pub async fn put(
        &self,
        title: &str,
        name: &str,
        image: &Image,
        labels: &BTreeMap<String, String>,
        purpose: Purpose,
    ) -> Result<String> {
        if self.cancel.is_cancelled() {
            return Err(Error::interrupted());
        }
        let info = self.engine.info();
        if purpose == Purpose::Run && info.copies_images {
            (self.listener)(title, &format!("Copying the image into {}", info.name));
        }
        self.engine.put_image(name, image, labels, purpose).await
    }

    /// Makes one layer.
    async fn run(&self, definition: &Definition, state: &Evaluation, change: &Change) -> Result<Layer> {
        let step = self.engine.begin_step(state.image.chain_id().as_deref()).await?;
        let outcome = async {
            match change {
                Change::Run(args) => {
                    let process = state.process(args.clone(), &step.root)?;
                    let sandbox = Sandbox { mounts: Vec::new(), capabilities: Vec::new() };
                    let (code, tail) = self.run_in(&step, process, sandbox, &definition.title).await?;
                    if code != 0 {
                        return Err(Error::new(format!("the command ended with exit code {code}")).detail(tail));
                    }
                }
                Change::Copy(plan) => {
                    let mut plan = plan.clone();
                    if let Some(owner) = state.owner.as_deref() {
                        let user = Accounts::read(&Root::open(&step.root)?)?.user(owner)?;
                        plan.owner = Some((user.uid, user.gid));
                    }
                    let root = step.root.clone();
                    tokio::task::spawn_blocking(move || copy::apply(&plan, &root)).await.doing(|| "copy".into())??;
                }
                Change::Directory(path) => {
                    Root::open(&step.root)?.make_dir(Path::new(path))?;
                }
            }
            self.store(&step).await
        }
        .await;
        self.finish(step, outcome).await
    }

    /// Runs a process in a step's root, line by line; returns the exit code and the last lines.
    pub async fn run_in(
        &self,
        step: &StepRoot,
        mut process: ProcessSpec,
        sandbox: Sandbox,
        title: &str,
    ) -> Result<(u32, Vec<String>)> {
        for (name, value) in self.network.variables() {
            if !process.env.iter().any(|e| e.split_once('=').is_some_and(|(k, _)| k == name)) {
                process.env.push(format!("{name}={value}"));
            }
        }
        let netns = self.network.attach(&step.key).await?;
        let mut mounts: Vec<Mount> = self
            .network
            .files()
            .into_iter()
            .map(|(host, inside)| Mount::bind(host.to_string_lossy(), inside, true))
            .collect();
        mounts.extend(sandbox.mounts);
        let spec = ContainerSpec {
            id: step.key.clone(),
            hostname: "build".into(),
            process,
            mounts,
            seeds: Vec::new(),
            network: Reach::Namespace(netns),
            cgroup: format!("{}/{}", self.cgroup, step.key),
            cgroup_view: None,
            // An image may hold devices; which of them can be opened is another matter.
            capabilities: sandbox.capabilities.into_iter().chain(["CAP_MKNOD".to_owned()]).collect(),
            labels: BTreeMap::from([("oardocker.step".to_owned(), "true".to_owned())]),
        };
        let (sender, mut chunks) = mpsc::channel::<Vec<u8>>(64);
        let listen = async {
            let (mut lines, mut tail) = (Lines::default(), Vec::new());
            let mut hear = |line: String| {
                (self.listener)(title, &line);
                if tail.len() == TAIL {
                    tail.remove(0);
                }
                tail.push(line);
            };
            while let Some(chunk) = chunks.recv().await {
                lines.feed(&chunk).into_iter().for_each(&mut hear);
            }
            lines.rest().into_iter().for_each(&mut hear);
            tail
        };
        let work = async { tokio::join!(self.engine.run_step(step, &spec, sender), listen) };
        // Whoever has the step throws it away, with what runs in it.
        let ended = self.cancel.run_until_cancelled(work).await;
        let (outcome, tail) = ended.unwrap_or_else(|| (Err(Error::interrupted()), Vec::new()));
        let detached = self.network.detach(&step.key).await;
        let code = outcome?;
        detached?;
        Ok((code, tail))
    }

    /// Writes and stores what a step changed.
    pub async fn store(&self, step: &StepRoot) -> Result<Layer> {
        let file = self.scratch_file()?;
        let (changes, to) = (step.changes.clone(), file.clone());
        let layer = tokio::task::spawn_blocking(move || layer::write(&changes, &to)).await.doing(|| "layer".into())?;
        let outcome = match layer {
            Ok(layer) => self.engine.put_layer(&layer, &file).await.map(|()| layer),
            Err(e) => Err(e),
        };
        let _ = std::fs::remove_file(&file);
        outcome
    }

    /// Commits a step whose layer is stored, or throws it away.
    pub async fn finish(&self, step: StepRoot, outcome: Result<Layer>) -> Result<Layer> {
        match outcome {
            Ok(layer) => {
                self.engine.commit_step(step, &layer).await?;
                Ok(layer)
            }
            Err(e) => {
                // Not after it: what is thrown away leaves room.
                let e = space::explain(e, &step.changes);
                // The first error is the one worth showing.
                let _ = self.engine.abort_step(step).await;
                Err(e)
            }
        }
    }
}

/// What a step's container may do beyond a plain RUN.
#[derive(Debug, Default)]
pub struct Sandbox {
    /// More mounts.
    pub mounts: Vec<Mount>,
    /// More capabilities.
    pub capabilities: Vec<String>,
}

/// Cuts a stream of bytes into lines; progress bars that return the carriage count as lines.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Complete lines so far.
    pub fn feed(&mut self, chunk: &[u8]) -> Vec<String> {
        self.partial.extend_from_slice(chunk);
        let mut lines = Vec::new();
        while let Some(end) = self.partial.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            lines.push(clean(&line));
        }
        lines
    }

    /// What came after the last newline.
    pub fn rest(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.partial);
        (!rest.is_empty()).then(|| clean(&rest))
    }
}

fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    text.rsplit('\r').next().unwrap_or(text).to_owned()
}

/// First 12 digits of a digest.
pub fn short(digest: &str) -> &str {
    let digits = digest.strip_prefix("sha256:").unwrap_or(digest);
    &digits[..digits.len().min(12)]
}

fn unshare(e: &Error) -> Error {
    let mut copy = Error::new(e.to_string()).code(e.exit_code()).detail(e.details().to_vec());
    for hint in e.hints() {
        copy = copy.hint(hint);
    }
    copy
}

fn parse(context: &Root) -> Result<Dockerfile> {
    dockerfile::parse(&context.path().join("Dockerfile").display().to_string(), &context.needed("Dockerfile")?)
}

/// The FROM of a build context's Dockerfile, expanded.
pub fn from(context: &Root, args: &BTreeMap<String, String>) -> Result<String> {
    parse(context).map(|parsed| expanded_from(&parsed, args))
}

fn expanded_from(file: &Dockerfile, args: &BTreeMap<String, String>) -> String {
    let default = |name: &str| file.global_args.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.clone());
    expand::expand(&file.from, &|name| args.get(name).cloned().or_else(|| default(name)))
}

fn bases(definitions: &[Definition], parsed: &[Dockerfile]) -> Vec<Base> {
    let tagged = |name: &str| {
        if name.rsplit('/').next().unwrap_or(name).contains(':') { name.to_owned() } else { format!("{name}:latest") }
    };
    parsed
        .iter()
        .zip(definitions)
        .map(|(file, definition)| {
            let from = expanded_from(file, &definition.args);
            definitions
                .iter()
                .position(|d| d.known_as.iter().any(|k| tagged(k) == tagged(&from)))
                .map_or(Base::Outside(from), Base::Built)
        })
        .collect()
}

/// Parents before children.
fn order(definitions: &[Definition], bases: &[Base]) -> Result<Vec<usize>> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < definitions.len() {
        let before = order.len();
        for (i, base) in bases.iter().enumerate() {
            let ready = match base {
                Base::Outside(_) => true,
                Base::Built(p) => order.contains(p),
            };
            if ready && !order.contains(&i) {
                order.push(i);
            }
        }
        if order.len() == before {
            let stuck: Vec<_> =
                (0..definitions.len()).filter(|i| !order.contains(i)).map(|i| definitions[i].title.as_str()).collect();
            return Err(Error::new(format!("the FROM lines of {} go in a circle", stuck.join(", "))));
        }
    }
    Ok(order)
}

/// What an instruction does to the filesystem.
#[derive(Debug, Clone)]
enum Change {
    Run(Vec<String>),
    Copy(copy::Plan),
    Directory(String),
}

/// The state of a build between two instructions.
struct Evaluation {
    image: Image,
    args: BTreeMap<String, String>,
    given: BTreeMap<String, String>,
    globals: Vec<(String, Option<String>)>,
    shell: Vec<String>,
    /// `--chown` of the current COPY.
    owner: Option<String>,
}

impl Evaluation {
    fn new(file: &Dockerfile, from: Image, given: &BTreeMap<String, String>) -> Result<Self> {
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
    fn evaluate(&mut self, step: &Step, context: &Arc<Root>) -> Result<Option<Change>> {
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
    fn key(&self, change: &Change) -> Result<String> {
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

    fn process(&self, args: Vec<String>, root: &Path) -> Result<ProcessSpec> {
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
fn set(config: &mut ImageConfiguration, field: &str, value: serde_json::Value) -> Result<()> {
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

fn new_config() -> ImageConfiguration {
    let mut config = ImageConfiguration::default();
    config.set_architecture(if cfg!(target_arch = "aarch64") { Arch::ARM64 } else { Arch::Amd64 });
    config.set_os(Os::Linux);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Arc<Root> {
        Arc::new(Root::beneath(Path::new("/")).unwrap())
    }

    fn definition(title: &str, known_as: &str) -> Definition {
        Definition {
            title: title.into(),
            known_as: vec![known_as.into()],
            tag: known_as.into(),
            context: root(),
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
            purpose: Purpose::Build,
        }
    }

    fn file(from: &str) -> Dockerfile {
        dockerfile::parse("D", &format!("FROM {from}")).unwrap()
    }

    #[test]
    fn parents_come_first_and_circles_are_told() {
        let definitions = [definition("node", "o/t-node:base"), definition("base", "o/t-base")];
        let parsed = [file("o/t-base:latest"), file("debian:trixie")];
        let found = bases(&definitions, &parsed);
        assert_eq!(found, [Base::Built(1), Base::Outside("debian:trixie".into())]);
        assert_eq!(order(&definitions, &found).unwrap(), [1, 0]);
        let parsed = [file("o/t-base"), file("o/t-node:base")];
        let error = order(&definitions, &bases(&definitions, &parsed)).unwrap_err();
        assert_eq!(error.to_string(), "the FROM lines of node, base go in a circle");
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

    #[test]
    fn lines_of_a_stream() {
        let mut lines = Lines::default();
        assert_eq!(lines.feed(b"one\r\ntw"), ["one"]);
        assert_eq!(lines.feed(b"o\n10%\r20%\rdone\nrest"), ["two", "done"]);
        assert_eq!(lines.rest().as_deref(), Some("rest"));
        assert_eq!(lines.rest(), None);
    }
}
