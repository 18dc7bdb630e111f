//! An image store and engine in memory, for tests: no root, no daemon, nothing runs.
//!
//! It keeps what the traits promise (see `tests/engine/contract.rs`, which it passes like the real ones), records what it was asked,
//! and gets into trouble where a test wants that. Trees of build steps are directories without an overlay below: what a step
//! changed is its whole tree. A node boots when it is started: it says READY=1 as systemd does, where its process was told to.

use super::io::{Chunk, Session};
use super::{
    ContainerInfo, Engine, EngineInfo, IdsOrWhy, Image, ImageRecord, Images, Layer, Mount, NodeSpec, ProcessSpec,
    State, StepRoot, StepSpec, chain_id, sha256,
};
use crate::error::{Doing as _, Error, Result};
use crate::net::{Access, Subnet};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};

/// What goes wrong, and at which call, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It is refused, and nothing has been done.
    Fail(usize),
    /// It is done, and the answer is an error.
    FailAfter(usize),
    /// The connection is lost, for this call and all later ones.
    Lose(usize),
    /// It takes this long.
    Delay(usize, Duration),
}

/// What a program says, and its exit code.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// On its standard output.
    pub out: String,
    /// On its standard error.
    pub err: String,
    /// The code.
    pub code: u32,
}

/// What programs do in steps and sessions.
pub type Program = dyn Fn(&ProcessSpec) -> Answer + Send + Sync;

/// Runs before the call of this number.
type Hook = (usize, Box<dyn Fn() + Send + Sync>);

/// A node.
struct Node {
    spec: NodeSpec,
    created: SystemTime,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct Contents {
    images: BTreeMap<String, (Image, ImageRecord)>,
    blobs: BTreeSet<String>,
    chains: BTreeMap<String, PathBuf>,
    steps: BTreeSet<String>,
    loaded: BTreeSet<String>,
    networks: BTreeSet<String>,
    nodes: BTreeMap<String, Node>,
    /// Nodes whose first process ends at once, with this code, and those that never say that they are ready.
    ending: BTreeMap<String, u32>,
    silent: BTreeSet<String>,
    calls: Vec<String>,
    trouble: Option<Trouble>,
    hook: Option<Hook>,
    made: usize,
}

/// The engine.
pub struct Fake {
    info: EngineInfo,
    dir: tempfile::TempDir,
    program: Arc<Program>,
    contents: Mutex<Contents>,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fake").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Fake {
    /// One whose programs all end well and say nothing.
    pub fn new() -> Result<Self> {
        Self::with_program(|_| Answer::default())
    }

    /// One whose programs do this.
    pub fn with_program(program: impl Fn(&ProcessSpec) -> Answer + Send + Sync + 'static) -> Result<Self> {
        let info = EngineInfo {
            name: "fake".into(),
            version: "1".into(),
            docker_host: "fake".into(),
            copies_images: false,
            makes_cgroups: false,
        };
        let dir = tempfile::tempdir().doing(|| "cannot make a directory".into())?;
        Ok(Self { info, dir, program: Arc::new(program), contents: Mutex::default() })
    }

    /// Calls are counted anew, and this goes wrong.
    pub fn expect(&self, trouble: Option<Trouble>) {
        let mut contents = self.contents();
        contents.calls.clear();
        contents.hook = None;
        contents.trouble = trouble;
    }

    /// Calls are counted anew, and before the call of this number something happens.
    pub fn at(&self, call: usize, hook: impl Fn() + Send + Sync + 'static) {
        self.expect(None);
        self.contents().hook = Some((call, Box::new(hook)));
    }

    /// What was asked since then: verb and name.
    pub fn calls(&self) -> Vec<String> {
        self.contents().calls.clone()
    }

    /// Has a node, by its id, end with this code when it is started.
    pub fn ends(&self, id: &str, code: u32) {
        self.contents().ending.insert(id.into(), code);
    }

    /// Has a node, by its id, never say that it is ready.
    pub fn keeps_silent(&self, id: &str) {
        self.contents().silent.insert(id.into());
    }

    /// What is there but images: kind and name.
    pub fn left(&self) -> Vec<String> {
        let contents = self.contents();
        let nodes = contents.nodes.keys().map(|id| format!("node {id}"));
        let networks = contents.networks.iter().map(|id| format!("network {id}"));
        nodes.chain(networks).chain(contents.steps.iter().map(|key| format!("step {key}"))).collect()
    }

    /// Loses all layers, as somebody who cleans up behind our back does.
    pub fn lose_layers(&self) {
        self.contents().chains.clear();
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().expect("no panics under this lock")
    }

    /// A call: what happens before it is done. The value is the error to answer with after.
    async fn call(&self, what: String) -> Result<Result<()>> {
        let (trouble, number) = {
            let mut contents = self.contents();
            contents.calls.push(what.clone());
            let number = contents.calls.len();
            if let Some((_, hook)) = contents.hook.as_ref().filter(|(at, _)| *at == number) {
                hook();
            }
            (contents.trouble, number)
        };
        match trouble {
            Some(Trouble::Fail(at)) if at == number => Err(Error::new(format!("the fake refuses: {what}"))),
            Some(Trouble::FailAfter(at)) if at == number => {
                Ok(Err(Error::new(format!("the fake does not tell the outcome: {what}"))))
            }
            Some(Trouble::Lose(at)) if at <= number => Err(Error::new(format!("the fake is gone: {what}"))),
            Some(Trouble::Delay(at, time)) if at == number => {
                tokio::time::sleep(time).await;
                Ok(Ok(()))
            }
            _ => Ok(Ok(())),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A name that nothing else has.
    fn fresh(&self, kind: &str) -> String {
        let mut contents = self.contents();
        contents.made += 1;
        format!("{kind}-{}", contents.made)
    }

    fn node<T>(&self, id: &str, of: impl FnOnce(&Node) -> T) -> Result<T> {
        self.contents().nodes.get(id).map(of).ok_or_else(|| Error::new(format!("there is no container {id}")))
    }

    /// Runs the first process of a node that has none.
    fn boot(&self, id: &str) -> Result<()> {
        let contents = self.contents();
        let node = contents.nodes.get(id).ok_or_else(|| Error::new(format!("there is no container {id}")))?;
        if *node.state.borrow() == State::Running {
            return Err(Error::new(format!("container {id} runs already")));
        }
        if let Some(code) = contents.ending.get(id) {
            node.state.send_replace(State::Exited(*code));
            return Ok(());
        }
        node.state.send_replace(State::Running);
        if !contents.silent.contains(id) {
            say_ready(&node.spec);
        }
        Ok(())
    }

    fn remove_step(&self, key: &str) {
        self.contents().steps.remove(key);
        let _ = fs::remove_dir_all(self.path(key));
    }
}

/// What systemd says when the default target is reached, to the socket that it was told of.
fn say_ready(spec: &NodeSpec) {
    let Some(inside) = spec.process.env.iter().find_map(|e| e.strip_prefix("NOTIFY_SOCKET=")) else { return };
    let place = |m: &Mount| {
        Some(Path::new(&m.source).join(inside.strip_prefix(&m.target).filter(|_| m.kind == "bind")?.strip_prefix('/')?))
    };
    let host = spec.mounts.iter().find_map(place);
    if let (Some(path), Ok(socket)) = (host, UnixDatagram::unbound()) {
        let _ = socket.send_to(b"READY=1", path);
    }
}

/// Copies a small tree of directories and files, with their times.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
        fs::File::open(&target)?.set_modified(entry.metadata()?.modified()?)?;
    }
    Ok(())
}

#[async_trait]
impl Images for Fake {
    async fn images(&self) -> Result<Vec<ImageRecord>> {
        self.call("images".into()).await??;
        Ok(self.contents().images.values().map(|(_, record)| record.clone()).collect())
    }

    async fn image(&self, name: &str) -> Result<Option<Image>> {
        self.call(format!("image {name}")).await??;
        Ok(self.contents().images.get(name).map(|(image, _)| image.clone()))
    }

    async fn put_image(&self, name: &str, image: &Image, labels: &BTreeMap<String, String>) -> Result<String> {
        let after = self.call(format!("put_image {name}")).await?;
        let (id, _) = image.configuration().doing(|| format!("cannot store image {name}"))?;
        let (created, labels) = (SystemTime::now(), labels.clone());
        let record = ImageRecord { name: name.into(), id: id.clone(), created, labels };
        self.contents().images.insert(name.into(), (image.clone(), record));
        after.map(|()| id)
    }

    async fn remove_images(&self, names: &[String]) -> Result<()> {
        let after = self.call(format!("remove_images {}", names.join(" "))).await?;
        let mut contents = self.contents();
        contents.images.retain(|name, _| !names.contains(name));
        let kept: Vec<Image> = contents.images.values().map(|(image, _)| image.clone()).collect();
        let used = |chain: &String| {
            kept.iter().any(|image| {
                (1..=image.layers.len())
                    .any(|n| chain_id(image.layers[..n].iter().map(|l| &l.diff_id)).as_ref() == Some(chain))
            })
        };
        contents.chains.retain(|chain, _| used(chain));
        after
    }

    async fn has_chain(&self, chain_id: &str) -> Result<bool> {
        self.call(format!("has_chain {chain_id}")).await??;
        Ok(self.contents().chains.contains_key(chain_id))
    }

    async fn put_layer(&self, layer: &Layer, file: &Path) -> Result<()> {
        let after = self.call(format!("put_layer {}", layer.digest)).await?;
        let doing = || format!("cannot store layer {}", layer.digest);
        let found = sha256(&fs::read(file).doing(doing)?);
        if found != layer.digest {
            return Err(Error::new(format!("its content has digest {found}"))).doing(doing);
        }
        self.contents().blobs.insert(layer.digest.clone());
        after
    }

    async fn begin_step(&self, parent: Option<&str>) -> Result<StepRoot> {
        let after = self.call(format!("begin_step {}", parent.unwrap_or("on nothing"))).await?;
        let below = match parent {
            None => None,
            Some(chain) => {
                let found = self.contents().chains.get(chain).cloned();
                Some(found.ok_or_else(|| Error::new(format!("the layers {chain} are gone")))?)
            }
        };
        let key = self.fresh("step");
        let root = self.path(&key);
        let made = match below {
            Some(below) => copy_tree(&below, &root),
            None => fs::create_dir(&root),
        };
        made.doing(|| format!("cannot create {}", root.display()))?;
        self.contents().steps.insert(key.clone());
        if let Err(e) = after {
            self.remove_step(&key);
            return Err(e);
        }
        Ok(StepRoot { key, changes: root.clone(), root, parent: parent.map(Into::into) })
    }

    async fn run_step(&self, step: &StepRoot, spec: &StepSpec, output: mpsc::Sender<Vec<u8>>) -> Result<u32> {
        let after = self.call(format!("run_step {}", spec.process.args.join(" "))).await?;
        if !self.contents().steps.contains(&step.key) {
            return Err(Error::new(format!("there is no step {}", step.key)));
        }
        let answer = (self.program)(&spec.process);
        for text in [answer.out, answer.err] {
            let _ = output.send(text.into_bytes()).await;
        }
        after.map(|()| answer.code)
    }

    async fn commit_step(&self, step: StepRoot, layer: &Layer) -> Result<String> {
        let after = self.call(format!("commit_step {}", step.key)).await?;
        let chain = chain_id(step.parent.iter().chain([&layer.diff_id])).expect("one layer at least");
        if !self.contents().blobs.contains(&layer.digest) {
            return Err(Error::new(format!("layer {} was not stored", layer.digest)));
        }
        let kept = self.path(&self.fresh("chain"));
        fs::rename(&step.root, &kept).doing(|| format!("cannot keep {}", step.key))?;
        let mut contents = self.contents();
        contents.steps.remove(&step.key);
        contents.chains.insert(chain.clone(), kept);
        after.map(|()| chain)
    }

    async fn abort_step(&self, step: StepRoot) -> Result<()> {
        let after = self.call(format!("abort_step {}", step.key)).await?;
        self.remove_step(&step.key);
        after
    }

    async fn recover(&self) -> Result<()> {
        let after = self.call("recover".into()).await?;
        let steps = self.contents().steps.clone();
        steps.iter().for_each(|key| self.remove_step(key));
        after
    }

    async fn release(&self) -> Result<()> {
        self.call("release".into()).await?
    }
}

#[async_trait]
impl Engine for Fake {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    async fn load_image(&self, name: &str, _: &Image) -> Result<()> {
        let after = self.call(format!("load_image {name}")).await?;
        self.contents().loaded.insert(name.into());
        after
    }

    async fn unload_image(&self, name: &str) -> Result<()> {
        let after = self.call(format!("unload_image {name}")).await?;
        self.contents().loaded.remove(name);
        after
    }

    async fn create_network(&self, id: &str, _: &Access) -> Result<Subnet> {
        let after = self.call(format!("create_network {id}")).await?;
        self.contents().networks.insert(id.into());
        after.map(|()| Subnet::first())
    }

    async fn remove_network(&self, id: &str) -> Result<()> {
        let after = self.call(format!("remove_network {id}")).await?;
        self.contents().networks.remove(id);
        after
    }

    async fn reserve_ids(&self, id: &str) -> Result<IdsOrWhy> {
        self.call(format!("reserve_ids {id}")).await??;
        Ok(Err("the fake runs nothing".into()))
    }

    async fn create(&self, spec: &NodeSpec) -> Result<()> {
        let after = self.call(format!("create {}", spec.hostname)).await?;
        let mut contents = self.contents();
        let doing = || format!("cannot create container {}", spec.id);
        if !contents.loaded.contains(&spec.image.name) {
            return Err(Error::new(format!("image {} is not loaded", spec.image.name))).doing(doing);
        }
        if !contents.networks.contains(&spec.plug.network) {
            return Err(Error::new(format!("there is no network {}", spec.plug.network))).doing(doing);
        }
        if contents.nodes.contains_key(&spec.id) {
            return Err(Error::new("there is one")).doing(doing);
        }
        let state = watch::Sender::new(State::Created);
        contents.nodes.insert(spec.id.clone(), Node { spec: spec.clone(), created: SystemTime::now(), state });
        after
    }

    async fn require_host_ids(&self) -> Result<()> {
        Ok(())
    }

    async fn cgroup(&self, _: &str) -> Result<Option<String>> {
        Ok(None)
    }

    async fn start(&self, id: &str) -> Result<()> {
        let after = self.call(format!("start {id}")).await?;
        self.boot(id)?;
        after
    }

    async fn wait(&self, id: &str) -> Result<u32> {
        self.call(format!("wait {id}")).await??;
        let mut state = self.node(id, |node| node.state.subscribe())?;
        let ended = |state: &State| matches!(state, State::Exited(_));
        match state.wait_for(ended).await.map(|state| *state) {
            Ok(State::Exited(code)) => Ok(code),
            // It was removed.
            _ => Ok(137),
        }
    }

    async fn end_task(&self, id: &str, grace: Option<(i32, Duration)>) -> Result<()> {
        let after = self.call(format!("end_task {id}")).await?;
        self.node(id, |node| {
            let code = if grace.is_some() { (self.program)(&node.spec.process).code } else { 137 };
            node.state.send_if_modified(|state| {
                let runs = *state == State::Running;
                if runs {
                    *state = State::Exited(code);
                }
                runs
            })
        })?;
        after
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let after = self.call(format!("remove {id}")).await?;
        self.contents().nodes.remove(id);
        after
    }

    async fn containers(&self) -> Result<Vec<ContainerInfo>> {
        self.call("containers".into()).await??;
        let info = |node: &Node| {
            let state = *node.state.borrow();
            ContainerInfo {
                id: node.spec.id.clone(),
                labels: node.spec.all_labels(),
                image: node.spec.image.name.clone(),
                created: node.created,
                state,
                // No process has this number.
                pid: if state == State::Running { u32::MAX } else { 0 },
            }
        };
        Ok(self.contents().nodes.values().map(info).collect())
    }

    async fn restart(&self, id: &str, _: &Path) -> Result<()> {
        let after = self.call(format!("restart {id}")).await?;
        self.boot(id)?;
        after
    }

    async fn exec(&self, id: &str, process: &ProcessSpec, session: Session) -> Result<u32> {
        let after = self.call(format!("exec {id} {}", process.args.first().map_or("", |a| a))).await?;
        if self.node(id, |node| *node.state.borrow())? != State::Running {
            return Err(Error::new(format!("container {id} does not run")));
        }
        let answer = (self.program)(process);
        let _ = session.output.send(Chunk::Out(answer.out.into_bytes())).await;
        let _ = session.output.send(Chunk::Err(answer.err.into_bytes())).await;
        after.map(|()| answer.code)
    }

    fn orphans(&self) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    async fn settled(&self, _: &[u32]) -> Result<bool> {
        self.call("settled".into()).await??;
        Ok(true)
    }

    async fn retire(&self) -> Result<()> {
        self.call("retire".into()).await?
    }
}
