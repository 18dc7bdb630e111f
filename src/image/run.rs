//! What changes the filesystem: runs a step on its root, and keeps what it has changed as a layer.

use super::build::Builder;
use super::copy::{self, Supply};
pub use super::dockerfile::RunNetwork;
use super::evaluate::{Around, Change, Copying, Directory, Evaluation, Running};
use super::layer;
use super::mounts::Mounted;
use super::order::Definition;
use super::place::set_made;
use super::remote::Fetched;
use super::report::Lines;
use super::tree::Tree;
use crate::engine::{Images, Layer, Mount, ProcessSpec, StepNetwork, StepRoot, StepSpec, space};
use crate::error::{Doing as _, Error, Result};
use crate::host::Accounts;
use crate::rooted::Root;
use std::path::Path;
use tempfile::TempPath;
use tokio::sync::mpsc;

/// How many lines of a failed step's output are repeated below the error.
const TAIL: usize = 15;

/// What a step's container may do beyond a plain RUN.
#[derive(Debug, Default)]
pub struct Sandbox {
    /// More mounts.
    pub mounts: Vec<Mount>,
    /// More capabilities.
    pub capabilities: Vec<String>,
    /// What it reaches.
    pub network: RunNetwork,
}

impl Builder {
    /// Makes one layer.
    pub(super) async fn run(
        &self,
        definition: &Definition,
        state: &Evaluation,
        change: &Change,
        around: &Around<'_>,
        fetched: Vec<Fetched>,
    ) -> Result<Layer> {
        let step = self.images.begin_step(state.image.chain_id().as_deref()).await?;
        let outcome = async {
            match change {
                Change::Run(run) => self.run_mounted(&step, definition, state, run, around).await?,
                Change::Copy(copying) => self.copy(&step, &definition.title, copying, around, fetched).await?,
                Change::Directories(all) => {
                    let root = Root::open(&step.root)?;
                    for Directory { path, owner } in all {
                        make_directory(&root, path, owner.as_deref())?;
                    }
                }
            }
            Ok(())
        }
        .await;
        self.finish(step, outcome).await
    }

    /// A RUN, with all that it wants mounted.
    async fn run_mounted(
        &self,
        step: &StepRoot,
        definition: &Definition,
        state: &Evaluation,
        run: &Running,
        around: &Around<'_>,
    ) -> Result<()> {
        let mut process = state.process(run.argv.clone(), &Root::open(&step.root)?)?;
        let mut mounted = Mounted::default();
        let made = self.mount(&mut mounted, step, run, &process.cwd, around).await;
        let ran = if let Err(e) = made {
            Err(e)
        } else {
            process.env.append(&mut mounted.env);
            let mounts = std::mem::take(&mut mounted.mounts);
            let sandbox = Sandbox { mounts, network: run.network, ..Sandbox::default() };
            self.run_in(step, process, sandbox, &definition.title).await
        };
        let unmounted = self.unmount(mounted).await;
        let (code, tail) = ran?;
        if code != 0 {
            return Err(Error::new(format!("the command ended with exit code {code}")).detail(tail));
        }
        unmounted
    }

    /// A COPY or ADD.
    async fn copy(
        &self,
        step: &StepRoot,
        title: &str,
        copying: &Copying,
        around: &Around<'_>,
        fetched: Vec<Fetched>,
    ) -> Result<()> {
        let mut plan = copying.plan.clone();
        if let Some(owner) = copying.owner.as_deref() {
            plan.owner = Some(owner_of(&Root::open(&step.root)?, owner)?);
        }
        let mut of_image = None;
        if let Some(name) = &copying.from {
            let chain = around.images.get(name).and_then(crate::engine::Image::chain_id);
            of_image = Some(self.images.begin_step(chain.as_deref()).await?);
        }
        let (context, root, limit) = (around.context.clone(), step.root.clone(), self.options.unpack_limit());
        let other = of_image.as_ref().map(|step| step.root.clone());
        let (listener, title) = (self.listener.clone(), title.to_owned());
        let work = move || {
            let tree = other.map_or(Ok(context), |root| Root::open(&root).map(Tree::image))?;
            for pattern in plan.without_match(&tree)? {
                listener(&title, &format!(" ---> Nothing matches {pattern}"));
            }
            copy::apply(&plan, &Supply { tree: &tree, fetched: &fetched, limit }, &root)
        };
        let copied = tokio::task::spawn_blocking(work).await.doing(|| "copy".into()).and_then(|copied| copied);
        if let Some(other) = of_image {
            let ended = self.images.abort_step(other).await;
            copied?;
            return ended;
        }
        copied
    }

    /// Runs a process in a step's root, line by line; returns the exit code and the last lines.
    pub async fn run_in(
        &self,
        step: &StepRoot,
        mut process: ProcessSpec,
        sandbox: Sandbox,
        title: &str,
    ) -> Result<(u32, Vec<String>)> {
        for (name, value) in self.uplink.variables() {
            if sandbox.network != RunNetwork::None
                && !process.env.iter().any(|e| e.split_once('=').is_some_and(|(k, _)| k == name))
            {
                process.env.push(format!("{name}={value}"));
            }
        }
        let network = match sandbox.network {
            RunNetwork::Default => StepNetwork::At(self.uplink.attach(&step.key).await?),
            RunNetwork::None => StepNetwork::Nothing,
            RunNetwork::Host => StepNetwork::Host,
        };
        let attached = matches!(network, StepNetwork::At(_));
        let mut mounts: Vec<Mount> = self
            .uplink
            .files()
            .into_iter()
            .map(|(host, inside)| Mount::bind(host.to_string_lossy(), inside, true))
            .collect();
        mounts.extend(sandbox.mounts);
        let spec = StepSpec {
            process,
            mounts,
            network,
            cgroup: self.cgroup.as_ref().map(|parent| format!("{parent}/{}", step.key)),
            // An image may hold devices; which of them can be opened is another matter.
            capabilities: sandbox.capabilities.into_iter().chain(["CAP_MKNOD".to_owned()]).collect(),
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
        let work = async { tokio::join!(self.images.run_step(step, &spec, sender), listen) };
        // Whoever has the step throws it away, with what runs in it.
        let ended = self.cancel.run_until_cancelled(work).await;
        let (outcome, tail) = ended.unwrap_or_else(|| (Err(Error::interrupted()), Vec::new()));
        let detached = if attached { self.uplink.detach(&step.key).await } else { Ok(()) };
        let code = outcome?;
        detached?;
        Ok((code, tail))
    }

    /// Keeps what a step changed as a layer, or throws it away.
    pub async fn finish(&self, step: StepRoot, outcome: Result<()>) -> Result<Layer> {
        let written = match outcome {
            Ok(()) => self.write(&step).await,
            Err(e) => Err(e),
        };
        let images = self.images.as_ref();
        let (layer, file) = match written {
            Ok(written) => written,
            Err(e) => return finish(images, step, Err(e)).await,
        };
        // The blob is read from its own file.
        let (stored, kept) = tokio::join!(images.put_layer(&layer, &file), finish(images, step, Ok(layer.clone())));
        stored.map_err(|e| space::explain(e, &file))?;
        kept
    }

    /// Writes the layer of what a step changed.
    async fn write(&self, step: &StepRoot) -> Result<(Layer, TempPath)> {
        let file = self.scratch_file()?;
        let (changes, to, epoch) = (step.changes.clone(), file.to_path_buf(), self.options.epoch);
        let writing = tokio::task::spawn_blocking(move || layer::write(&changes, &to, epoch));
        Ok((writing.await.doing(|| "layer".into())??, file))
    }
}

/// Makes a directory that is missing, so that it is the same each time.
fn make_directory(root: &Root, path: &str, owner: Option<&str>) -> Result<()> {
    let owner = owner.map_or(Ok((0, 0)), |owner| owner_of(root, owner))?;
    let resolved = root.resolved(Path::new(path)).doing(|| format!("cannot follow {path}"))?;
    let (_, made) = root.make_dir(&Path::new("/").join(resolved))?;
    set_made(root, &made, owner, 0o755)
}

/// `--chown` and USER by an image's own names. Who is given as a number has the group of that number.
fn owner_of(root: &Root, text: &str) -> Result<(u32, u32)> {
    // A group whose variable is empty is none.
    let text = text.strip_suffix(':').unwrap_or(text);
    if let Ok(number) = text.parse() {
        return Ok((number, number));
    }
    let user = Accounts::read(root)?.user(text)?;
    Ok((user.uid, user.gid))
}

/// Commits a step whose layer is stored, or throws it away, also when it cannot be committed.
pub(super) async fn finish(images: &dyn Images, step: StepRoot, outcome: Result<Layer>) -> Result<Layer> {
    let left = step.clone();
    let kept = match outcome {
        Ok(layer) => images.commit_step(step, &layer).await.map(|_| layer),
        Err(e) => Err(e),
    };
    let Err(e) = kept else { return kept };
    // Not after it: what is thrown away leaves room.
    let e = space::explain(e, &left.changes);
    // The first error is the one worth showing.
    let _ = images.abort_step(left).await;
    Err(e)
}
