//! Builds images: runs independent ones at the same time, and caches every step.
//!
//! A step's result is kept under its key (see [`super::cache`]): so a killed build loses one step, and the store's own garbage
//! collection owns the space.

use super::cache::{self, Cache};
use super::extract::LIMIT;
use super::order::{self, Base, Definition, Source, bases, order};
use super::stages::Job;
use super::uplink::Uplink;
use crate::engine::{Image, Images, space};
use crate::error::{Doing as _, Error, Result};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::{TempDir, TempPath};
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
    /// `SOURCE_DATE_EPOCH`: nothing that is built is younger, in seconds since 1970.
    pub epoch: Option<i64>,
    /// What an archive or a download may have at most, in bytes; none: what no honest one reaches.
    pub unpack_limit: Option<u64>,
    /// ARGs that were given by name: a Dockerfile has to know each.
    pub named: Vec<String>,
    /// Whether steps may be in the network of the host.
    pub host_network: bool,
    /// For `RUN --mount=type=secret`, by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// For `RUN --mount=type=ssh`, by id: the sockets of agents.
    pub agents: BTreeMap<String, PathBuf>,
}

impl Options {
    /// What an archive or a download may have at most, in bytes.
    pub(super) fn unpack_limit(&self) -> u64 {
        self.unpack_limit.unwrap_or(LIMIT)
    }
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
    /// Where what `RUN --mount=type=cache` keeps is; for root alone.
    pub caches: PathBuf,
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
        let parsed = definitions.iter().map(|d| order::parse(&d.context).map(Arc::new)).collect::<Result<Vec<_>>>()?;
        for name in self.options.named.iter().filter(|name| !parsed.iter().any(|source| source.takes(name))) {
            (self.listener)("build", &format!("No Dockerfile has an ARG {name}: it is not used"));
        }
        let bases = bases(definitions, &parsed, &self.options.args)?;
        let order = order(definitions, &bases)?;
        let images = self.images.as_ref();
        let cache = if self.options.no_cache { Cache::new() } else { cache::load(images).await? };
        let cache = Arc::new(cache);
        let mut building: HashMap<usize, Building> = HashMap::new();
        for i in order {
            let (me, definition, source) = (self.clone(), definitions[i].clone(), parsed[i].clone());
            let cache = cache.clone();
            let parent = |(name, base): (&String, &Base)| match base {
                Base::Built(p) => building.get(p).map(|parent| (name.clone(), parent.clone())),
                Base::Outside(_) => None,
            };
            let parents: Vec<(String, Building)> = bases[i].iter().filter_map(parent).collect();
            let work = async move {
                if me.options.keep
                    && let Some(image) = me.images.image(&definition.tag).await.map_err(Arc::new)?
                {
                    (me.listener)(&definition.title, "It is already there");
                    return Ok(Arc::new(image));
                }
                let mut known = BTreeMap::new();
                for (name, parent) in parents {
                    known.insert(name, parent.await?);
                }
                me.one(&definition, &source, &known, &cache).await.map(Arc::new).map_err(Arc::new)
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

    /// A directory for what is on its way.
    pub(super) fn scratch(&self) -> Result<&Path> {
        std::fs::create_dir_all(&self.scratch).doing(|| format!("cannot create {}", self.scratch.display()))?;
        Ok(&self.scratch)
    }

    /// A directory for a while.
    pub fn scratch_dir(&self, prefix: &str) -> Result<TempDir> {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir_in(self.scratch()?);
        dir.doing(|| format!("cannot create a directory in {}", self.scratch.display()))
    }

    /// A file for a layer on its way, which goes with its name.
    pub(super) fn scratch_file(&self) -> Result<TempPath> {
        let file = tempfile::Builder::new().prefix("layer-").tempfile_in(self.scratch()?);
        Ok(file.doing(|| format!("cannot create a file in {}", self.scratch.display()))?.into_temp_path())
    }

    /// Builds one image, of which the others of this build are known.
    async fn one(
        &self,
        definition: &Definition,
        source: &Source,
        known: &BTreeMap<String, Arc<Image>>,
        cache: &Cache,
    ) -> Result<Image> {
        match Job::new(self, definition, source, known, cache)?.image().await {
            Err(None) => Job::new(self, definition, source, known, &Cache::new())?.image().await.map_err(|e| {
                e.unwrap_or_else(|| {
                    Error::new("layers that it is built upon are gone").hint("run `oardocker destroy`, then build")
                })
            }),
            outcome => outcome.map_err(|e| e.expect("the other case was handled")),
        }
    }
}

#[cfg(test)]
mod tests;
