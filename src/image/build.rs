//! Builds images: runs independent ones at the same time, and caches every step.
//!
//! A step's result is kept as an image named `oardocker.cache/<key>`, where the key hashes all that went into the step:
//! so a killed build loses one step, and the engine's own garbage collection owns the space.

use super::dockerfile::Dockerfile;
use super::evaluate::{Change, Evaluation, new_config, set};
use super::order::{Base, Definition, bases, order, parse};
use super::report::{Lines, short};
use super::users::Accounts;
use super::{bootstrap, copy, layer, registry, unpack};
use crate::engine::space;
use crate::engine::{ContainerSpec, Engine, Image, Layer, Mount, Network as Reach, ProcessSpec, Purpose, StepRoot};
use crate::error::{Context as _, Error, Result};
use crate::rooted::Root;
use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
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

fn unshare(e: &Error) -> Error {
    let mut copy = Error::new(e.to_string()).code(e.exit_code()).detail(e.details().to_vec());
    for hint in e.hints() {
        copy = copy.hint(hint);
    }
    copy
}
