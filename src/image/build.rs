//! Builds images: runs independent ones at the same time, and caches every step.
//!
//! A step's result is kept under its key (see [`super::cache`]): so a killed build loses one step, and the store's own garbage
//! collection owns the space.

use super::cache::{self, Cache};
use super::dockerfile::Dockerfile;
use super::evaluate::Evaluation;
use super::order::{Base, Definition, bases, order, parse};
use super::report::short;
use super::uplink::Uplink;
use crate::engine::{Image, Images, space};
use crate::error::{Doing as _, Error, Result};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

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

/// Hears what a build says: the title of the image, and a line.
pub type Listener = dyn Fn(&str, &str) + Send + Sync;

/// Everything a build needs from outside.
#[derive(Clone)]
pub struct Builder {
    /// Where images live.
    pub images: Arc<dyn Images>,
    /// For RUN.
    pub uplink: Arc<dyn Uplink>,
    /// For layer files on their way.
    pub scratch: PathBuf,
    /// Path of the steps' cgroups below every controller; none where none can be made.
    pub cgroup: Option<String>,
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
        let images = self.images.as_ref();
        let cache = if self.options.no_cache { Cache::new() } else { cache::load(images).await? };
        let cache = Arc::new(cache);
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
                    && let Some(image) = me.images.image(&definition.tag).await.map_err(Arc::new)?
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
            let told = |e: Arc<Error>| space::explain((*e).clone(), &self.scratch);
            outcome.map_err(|e| told(e).within(format!("cannot build {}", definition.title)))?;
            done.push((definition.tag.clone(), String::new()));
        }
        let ids: HashMap<_, _> = self.images.images().await?.into_iter().map(|r| (r.name, r.id)).collect();
        for (tag, id) in &mut done {
            *id = ids.get(tag).cloned().unwrap_or_default();
        }
        Ok(done)
    }

    /// A place for a layer on its way.
    pub(super) fn scratch_file(&self) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.scratch).doing(|| format!("cannot create {}", self.scratch.display()))?;
        Ok(self.scratch.join(format!("layer-{}-{:08x}", std::process::id(), rand::random::<u32>())))
    }

    /// Builds one image on top of `from`.
    async fn one(&self, definition: &Definition, file: &Dockerfile, from: Image, cache: &Cache) -> Result<Image> {
        match self.steps(definition, file, from.clone(), cache).await {
            // Somebody removed snapshots behind our back: the cache is worth nothing.
            Err(None) => self.steps(definition, file, from, &Cache::new()).await.map_err(|e| {
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
        cache: &Cache,
    ) -> Result<Image, Option<Error>> {
        let say = |line: &str| (self.listener)(&definition.title, line);
        let mut given = self.options.args.clone();
        given.extend(definition.args.clone());
        let mut state = Evaluation::new(file, from, &given);
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
                    && !self.images.has_chain(&chain).await.map_err(Some)?
                {
                    return Err(None);
                }
                verified = true;
            }
            let layer = self.run(definition, &state, &change).await.map_err(|e| Some(e.within(place())))?;
            state.image.layers.push(layer);
            cache::keep(self.images.as_ref(), &key, &state.image).await.map_err(Some)?;
        }
        if let Some(chain) = state.image.chain_id()
            && !self.images.has_chain(&chain).await.map_err(Some)?
        {
            return Err(None);
        }
        if self.cancel.is_cancelled() {
            return Err(Some(Error::interrupted()));
        }
        let put = self.images.put_image(&definition.tag, &state.image, &definition.labels);
        let id = put.await.map_err(Some)?;
        say(&format!("Successfully built {}", short(&id)));
        Ok(state.image)
    }
}

#[cfg(test)]
mod tests;
