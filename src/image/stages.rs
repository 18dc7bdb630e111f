//! One image on its way: the stages of its Dockerfile that the last one needs, at the same time where they do not need each other.

use super::build::Builder;
use super::cache::{self, Cache};
use super::copy::Source as CopySource;
use super::dockerfile::{self, RunNetwork, Step};
use super::evaluate::{self, Around, Change, Copying, Evaluation};
use super::order::{self, Definition, Source, named};
use super::remote::{self, Fetched, Terms};
use super::report::short;
use super::tree::Tree;
use crate::engine::Image;
use crate::error::{Doing as _, Error, Result};
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::OnceCell;

/// Why a stage was not made. None: a cached step could not be used after all.
type Stop = Option<Error>;

/// All that the stages of one image share.
pub(super) struct Job<'a> {
    builder: &'a Builder,
    definition: &'a Definition,
    source: &'a Source,
    given: BTreeMap<String, String>,
    globals: BTreeMap<String, String>,
    context: Tree,
    /// Images of this build, by the names that Dockerfiles have for them.
    known: &'a BTreeMap<String, Arc<Image>>,
    cache: &'a Cache,
    /// One that failed is not tried again.
    stages: Vec<OnceCell<Result<Evaluation, Stop>>>,
    outside: Mutex<BTreeMap<String, Arc<OnceCell<Image>>>>,
    said: AtomicUsize,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        builder: &'a Builder,
        definition: &'a Definition,
        source: &'a Source,
        known: &'a BTreeMap<String, Arc<Image>>,
        cache: &'a Cache,
    ) -> Result<Self> {
        let given = definition.given(&builder.options.args);
        let globals = evaluate::globals(&source.file, &given)?;
        let context = Tree::context(&definition.context)?;
        let stages = source.file.stages.iter().map(|_| OnceCell::new()).collect();
        let (outside, said) = (Mutex::default(), AtomicUsize::new(0));
        Ok(Self { builder, definition, source, given, globals, context, known, cache, stages, outside, said })
    }

    fn say(&self, line: &str) {
        (self.builder.listener)(&self.definition.title, line);
    }

    fn say_step(&self, text: &str) {
        let total: usize = self.source.file.stages.iter().map(|stage| stage.steps.len() + 1).sum();
        let number = self.said.fetch_add(1, Ordering::Relaxed) + 1;
        self.say(&format!("Step {number}/{} : {text}", total.max(number)));
    }

    /// Builds the last stage, and puts the image under its name.
    pub(super) async fn image(&self) -> Result<Image, Stop> {
        // In their order, so that none is begun within another: a file may have thousands.
        let needed = order::needed(self.source, &self.given).map_err(Some)?;
        for made in join_all(needed.iter().map(|index| self.stage(*index))).await {
            made?;
        }
        let image = self.stage(self.stages.len() - 1).await?.image.clone();
        self.verify(&image).await?;
        self.still_wanted()?;
        let put = self.builder.images.put_image(&self.definition.tag, &image, &self.definition.labels);
        let id = put.await.map_err(Some)?;
        self.say(&format!("Successfully built {}", short(&id)));
        Ok(image)
    }

    fn still_wanted(&self) -> Result<(), Stop> {
        if self.builder.cancel.is_cancelled() { Err(Some(Error::interrupted())) } else { Ok(()) }
    }

    /// Fails if somebody removed snapshots behind our back: the cache is worth nothing.
    async fn verify(&self, image: &Image) -> Result<(), Stop> {
        match image.chain_id() {
            Some(chain) if !self.builder.images.has_chain(&chain).await.map_err(Some)? => Err(None),
            _ => Ok(()),
        }
    }

    fn stage(&self, index: usize) -> BoxFuture<'_, Result<&Evaluation, Stop>> {
        let made = self.stages[index].get_or_init(move || self.make(index));
        made.map(|made| made.as_ref().map_err(Clone::clone)).boxed()
    }

    /// An image of a name: of this build, else from elsewhere, asked for once.
    async fn outside(&self, name: &str) -> Result<Image> {
        if let Some(image) = self.known.get(name) {
            return Ok((**image).clone());
        }
        let cell = self.outside.lock().expect("no panics under this lock").entry(name.to_owned()).or_default().clone();
        cell.get_or_try_init(|| self.builder.resolve(self.definition, name)).await.cloned()
    }

    async fn make(&self, index: usize) -> Result<Evaluation, Stop> {
        let stage = &self.source.file.stages[index];
        let told = |e: Error| Some(self.source.told(stage.line, e));
        let base = evaluate::base(&self.source.file, stage, &self.globals).map_err(told)?;
        let mut state = if let Some(other) = self.source.file.stage(&base, index, false) {
            self.stage(other).await?.next_stage()
        } else {
            let image = self.outside(&base).await.map_err(Some)?;
            let epoch = self.builder.options.epoch;
            Evaluation::new(&self.source.file, image, &self.given, &self.globals, epoch)
        };
        let name = stage.name.as_ref().map_or_else(String::new, |name| format!(" AS {name}"));
        self.say_step(&format!("FROM {base}{name}"));
        let triggers = state.take_triggers();
        let trigger = |text: &String| {
            let step =
                dockerfile::trigger(text).map_err(|fault| Error::new(format!("ONBUILD {text}: {}", fault.what)))?;
            Ok(Step { line: stage.line, text: format!("ONBUILD {}", step.text), action: step.action })
        };
        let mut steps = triggers.iter().map(trigger).collect::<Result<Vec<_>>>().map_err(told)?;
        steps.extend(stage.steps.iter().cloned());
        let images = self.named(index, &steps).await?;
        let around = Around { context: &self.context, images: &images };
        self.steps(&mut state, &steps, &around).await?;
        Ok(state)
    }

    /// The stages and images that steps take something from.
    async fn named(&self, index: usize, steps: &[Step]) -> Result<BTreeMap<String, Image>, Stop> {
        let names = steps
            .iter()
            .flat_map(|step| named(step).into_iter().map(move |(name, is_copy)| (name, is_copy, step.line)));
        let one = |(name, is_copy, line): (&str, bool, usize)| {
            let name = name.to_owned();
            async move {
                let image = match self.source.file.stage(&name, index, is_copy) {
                    Some(other) => self.stage(other).await?.image.clone(),
                    None if is_copy && name.parse::<usize>().is_ok() => {
                        let error = Error::new(format!("there is no stage {name} in front of this one"));
                        return Err(Some(self.source.told(line, error)));
                    }
                    None if self.source.file.stages.iter().any(|s| s.name.as_deref() == Some(&name.to_lowercase())) => {
                        let error =
                            Error::new(format!("the stage {name} comes later")).hint("move it in front of this one");
                        return Err(Some(self.source.told(line, error)));
                    }
                    None => self.outside(&name).await.map_err(|e| Some(self.source.told(line, e)))?,
                };
                Ok((name, image))
            }
        };
        // All of them to their ends: none may be at work on the engine when an error is told.
        join_all(names.map(one)).await.into_iter().collect()
    }

    async fn steps(&self, state: &mut Evaluation, steps: &[Step], around: &Around<'_>) -> Result<(), Stop> {
        let mut verified = false;
        for step in steps {
            self.still_wanted()?;
            self.say_step(&step.text);
            let told = |e: Error| Some(self.source.told(step.line, e));
            let Some(mut change) = state.evaluate(step, around).map_err(told)? else { continue };
            self.allowed(&change).map_err(told)?;
            let mut fetched = Vec::new();
            if let Change::Copy(copying) = &mut change {
                fetched = self.look_up(copying).await.map_err(told)?;
            }
            let key = state.key(&change, around).map_err(told)?;
            if let Some(layer) = self.cache.get(&key) {
                self.say(" ---> Using cache");
                state.image.layers.push(layer.clone());
                verified = false;
                continue;
            }
            if !verified {
                self.verify(&state.image).await?;
                verified = true;
            }
            let fetched = self.fetch(&change, fetched).await.map_err(told)?;
            let layer = self.builder.run(self.definition, state, &change, around, fetched).await.map_err(told)?;
            state.image.layers.push(layer);
            cache::keep(self.builder.images.as_ref(), &key, &state.image).await.map_err(Some)?;
        }
        Ok(())
    }

    fn allowed(&self, change: &Change) -> Result<()> {
        let is_host = matches!(change, Change::Run(run) if run.network == RunNetwork::Host);
        if !is_host || self.builder.options.host_network {
            return Ok(());
        }
        Err(Error::new("RUN --network=host is not allowed: it reaches what listens on this machine alone")
            .hint("allow it if you know who wrote it: oardocker build --allow network.host"))
    }

    fn terms(&self) -> Terms {
        let options = &self.builder.options;
        Terms { agent: options.agents.get("default").cloned(), limit: options.unpack_limit() }
    }

    /// Goes on with what has nothing half done in the engine until the user does not want it any more.
    async fn wanted<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        self.builder.cancel.run_until_cancelled(work).await.ok_or_else(Error::interrupted)
    }

    /// What of a COPY is known only once servers are asked; what that brought.
    async fn look_up(&self, copying: &mut Copying) -> Result<Vec<Option<Fetched>>> {
        let (scratch, limit) = (self.builder.scratch()?, self.builder.options.unpack_limit());
        let mut fetched = Vec::new();
        for source in &mut copying.plan.sources {
            match source {
                CopySource::Url { url, checksum: checksum @ None, .. } => {
                    self.say(&format!("Downloading {url}"));
                    let (file, digest) = self.wanted(remote::download(url, None, scratch, limit)).await??;
                    *checksum = Some(digest);
                    fetched.push(Some(file));
                }
                CopySource::Url { .. } => fetched.push(None),
                CopySource::Git(git) => {
                    let (mut asked, scratch) = (git.clone(), scratch.to_owned());
                    let (context, terms) = (self.definition.context.clone(), self.terms());
                    *git = self
                        .wanted(tokio::task::spawn_blocking(move || {
                            remote::resolve(&mut asked, &context, &scratch, &terms).map(|()| asked)
                        }))
                        .await?
                        .doing(|| "ask".into())??;
                    fetched.push(None);
                }
                _ => {}
            }
        }
        Ok(fetched)
    }

    async fn fetch(&self, change: &Change, fetched: Vec<Option<Fetched>>) -> Result<Vec<Fetched>> {
        let Change::Copy(copying) = change else { return Ok(Vec::new()) };
        let (scratch, limit) = (self.builder.scratch()?, self.builder.options.unpack_limit());
        let remote = copying.plan.sources.iter().filter(|s| matches!(s, CopySource::Url { .. } | CopySource::Git(_)));
        let mut all = Vec::new();
        for (source, known) in remote.zip(fetched) {
            all.push(match (source, known) {
                (_, Some(file)) => file,
                (CopySource::Url { url, checksum, .. }, None) => {
                    self.say(&format!("Downloading {url}"));
                    self.wanted(remote::download(url, checksum.as_deref(), scratch, limit)).await??.0
                }
                (CopySource::Git(git), None) => {
                    self.say(&format!("Cloning {}", git.text));
                    let (git, scratch, context) = (git.clone(), scratch.to_owned(), self.definition.context.clone());
                    let terms = self.terms();
                    self.wanted(tokio::task::spawn_blocking(move || remote::fetch(&git, &context, &scratch, &terms)))
                        .await?
                        .doing(|| "fetch".into())??
                }
                _ => unreachable!("others are not fetched"),
            });
        }
        Ok(all)
    }
}
