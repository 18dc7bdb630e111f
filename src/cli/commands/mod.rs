//! One file per command; what they share is the context: workdir, engine, terminal.

mod build;
mod clean;
pub(super) mod completion;
mod connect;
mod destroy;
mod exec;
mod init;
mod install;
mod logs;
mod reset;
mod start;
mod status;
mod stop;
mod update;

use super::parse::Invocation;
use super::ui::{self, Ui};
use super::values;
use crate::cgroup::Cgroups;
use crate::cluster::files::Files;
use crate::cluster::images::{StepUplink, remove_steps, steps_id};
use crate::cluster::run::{Event, Runner};
use crate::cluster::timeline::Span;
use crate::engine::select::{self, Backend};
use crate::engine::{Engine, address};
use crate::error::{Doing as _, Error, Result};
use crate::host::{self, Machine};
use crate::image::build::{Builder, Options};
use crate::net;
use crate::workdir::{self, Lock, Workdir};
use clap::ValueHint;
use clap_complete::{ArgValueCandidates, CompletionCandidate};
use serde::Serialize;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// Options that stand before the first command.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
pub struct Global {
    /// Changes the folder to operate on.
    #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath, value_parser = values::directory)]
    workdir: Option<PathBuf>,
    /// The engine: auto, managed, containerd://PATH or unix://PATH.
    #[arg(long, value_name = "TEXT", default_value = "auto", add = ArgValueCandidates::new(engines))]
    pub(super) docker_host: String,
    /// The cgroup file system path.
    #[arg(long, value_name = "TEXT", default_value = "/sys/fs/cgroup", value_hint = ValueHint::AnyPath,
          value_parser = values::path)]
    cgroup_path: PathBuf,
    /// The range of addresses that networks are cut from, such as 172.30.0.0/16; 10.158.0.0/15 without it.
    #[arg(long = "network", value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    networks: Option<String>,
    /// Accepted for old scripts; no docker client is used.
    #[arg(long, value_name = "TEXT", default_value = "docker")]
    docker_binary: String,
    /// Tell the engine and how long each command took.
    #[arg(long)]
    pub(super) verbose: bool,
    /// Accepted for old scripts; errors always show their causes.
    #[arg(long)]
    debug: bool,
    /// Parse the line, print it as JSON and do nothing.
    #[arg(long)]
    #[serde(skip)]
    pub(super) dry_run: bool,
}

fn engines() -> Vec<CompletionCandidate> {
    ["auto", "managed", "containerd:///run/containerd/containerd.sock"].map(Into::into).into()
}

/// A command with its parameters.
#[derive(Debug, Clone, PartialEq, clap::Subcommand, Serialize)]
#[serde(rename_all = "lowercase", tag = "command", content = "params")]
#[allow(missing_docs, reason = "each file says what its command does")]
pub enum Command {
    Build(build::Params),
    Clean(clean::Params),
    Completion(completion::Params),
    Connect(connect::Params),
    Destroy(destroy::Params),
    Exec(exec::Params),
    Init(init::Params),
    Install(install::Params),
    Logs(logs::Params),
    Reset(reset::Params),
    Start(start::Params),
    Status(status::Params),
    Stop(stop::Params),
    Update(update::Params),
}

impl Command {
    /// Whether it needs a container engine.
    pub(super) fn needs_engine(&self) -> bool {
        !matches!(self, Self::Init(_) | Self::Completion(_))
    }

    /// Whether it may stay open for hours, with nothing half done: the cluster must be manageable from another terminal then.
    fn stays(&self) -> bool {
        self.is_session() || matches!(self, Self::Logs(_))
    }

    /// Whether it passes its signals on to what it runs.
    pub(super) fn is_session(&self) -> bool {
        matches!(self, Self::Exec(_) | Self::Connect(_))
    }

    /// Whether it only looks: then it can end at once.
    pub(super) fn only_looks(&self) -> bool {
        matches!(self, Self::Logs(_) | Self::Status(_))
    }

    /// What becomes of it when it is interrupted.
    pub(super) fn aftermath(&self, name: &str) -> String {
        match self {
            Self::Build(_) | Self::Install(_) | Self::Start(_) => format!("{name} is undone"),
            Self::Update(params) if params.watch => "what changes from now on is not put into the cluster".into(),
            Self::Reset(_) => "some hosts may be down, `oardocker status` tells".into(),
            _ => format!("{name} may be half done, and can be run again"),
        }
    }
}

/// What the commands of one line share.
pub struct Context {
    ui: Arc<Ui>,
    global: Global,
    machine: Machine,
    backend: Option<Backend>,
    locks: Vec<Lock>,
    in_session: bool,
    /// What nothing needs any more, and the environment that was the last one.
    retiring: Option<(Arc<dyn Engine>, String)>,
    cancel: CancellationToken,
    /// What a start has told so far of its times.
    spans: Arc<Mutex<Vec<Span>>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("global", &self.global).finish_non_exhaustive()
    }
}

impl Context {
    /// From the global options.
    pub fn new(ui: Arc<Ui>, machine: Machine, global: Global) -> Self {
        let cancel = CancellationToken::new();
        Self {
            ui,
            global,
            machine,
            backend: None,
            locks: Vec::new(),
            in_session: false,
            retiring: None,
            cancel,
            spans: Arc::default(),
        }
    }

    /// Says that the user does not want the command any more; it ends when nothing of it is at work.
    pub fn cancellation(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Leaves things as they are: the next oardocker has to clean up.
    pub fn abandon(&mut self) {
        std::mem::forget(std::mem::take(&mut self.locks));
    }

    fn root(&self) -> Result<PathBuf> {
        match &self.global.workdir {
            Some(dir) => Ok(dir.clone()),
            None => std::env::current_dir().doing(|| "cannot tell the current directory".into()),
        }
    }

    fn workdir(&self) -> Result<Workdir> {
        Workdir::open(&self.root()?)
    }

    /// The workdir, with other oardockers kept out until this line ends or comes to a session.
    async fn locked_workdir(&mut self) -> Result<Workdir> {
        let workdir = self.workdir()?;
        if self.locks.is_empty() {
            let root = self.root()?;
            let ui = self.ui.clone();
            let waiting = || ui.talk("Waiting for another oardocker that works in this folder ...");
            let dir = workdir.env_dir();
            self.locks.push(self.wanted(workdir::lock(dir.lockable()?, dir.path(), waiting)).await?);
            // Without root nothing of the host is touched; the engine says what is possible then.
            if nix::unistd::geteuid().is_root() {
                let claim = self.wanted(workdir::claim(&self.machine, &root, &workdir.env_id, waiting)).await?;
                self.locks.push(claim);
                self.note()?;
            }
        }
        Ok(workdir)
    }

    /// Goes on with what has nothing half done until the user does not want it any more.
    async fn wanted<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.cancel.run_until_cancelled(work).await.unwrap_or_else(|| Err(Error::interrupted()))
    }

    /// The engine and the store of its images, connected when first needed.
    async fn backend(&mut self) -> Result<Backend> {
        if let Some(backend) = &self.backend {
            return Ok(backend.clone());
        }
        // Whatever wants an engine wants it to stay.
        self.retiring = None;
        let (backend, line) = select::connect(&self.machine, &address::parse(&self.global.docker_host)?).await?;
        // In a session, stderr belongs to the program inside.
        if let Some(line) = line.filter(|_| self.global.verbose || !self.in_session) {
            self.ui.talk(&line);
        }
        self.backend = Some(backend.clone());
        self.note()?;
        Ok(backend)
    }

    async fn engine(&mut self) -> Result<Arc<dyn Engine>> {
        Ok(self.backend().await?.engine)
    }

    /// Where the files of an environment's cluster are.
    fn files(&self, workdir: &Workdir) -> Files {
        Files::new(&self.machine, &workdir.env_id)
    }

    /// Notes what the engine is at work on for others, for who finds that we were killed.
    fn note(&self) -> Result<()> {
        match &self.backend {
            Some(backend) if !self.locks.is_empty() => {
                let orphans = backend.engine.orphans()?;
                self.locks.iter().try_for_each(|lock| lock.note(&orphans))
            }
            _ => Ok(()),
        }
    }

    /// That an oardocker which worked in this workdir was killed, and has not been cleaned up after: what it had noted.
    fn killed(&self) -> Option<Vec<u32>> {
        self.locks.iter().find_map(|lock| lock.killed().map(<[u32]>::to_vec))
    }

    /// It has been cleaned up after.
    fn settled(&mut self) -> Result<()> {
        let orphans = self.backend.as_ref().map_or_else(|| Ok(Vec::new()), |backend| backend.engine.orphans())?;
        self.locks.iter_mut().try_for_each(|lock| lock.settled(&orphans))
    }

    /// Fails when the user does not want it any more.
    fn still_wanted(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::interrupted()) } else { Ok(()) }
    }

    async fn runner(&mut self, workdir: &Workdir) -> Result<Runner> {
        let (ui, spans) = (self.ui.clone(), self.spans.clone());
        let Backend { engine, images } = self.backend().await?;
        Ok(Runner {
            env_id: workdir.env_id.clone(),
            files: self.files(workdir),
            machine: self.machine.clone(),
            powers: Arc::new(host::Own),
            cgroups: self.cgroups(engine.as_ref())?,
            engine,
            images,
            listener: Arc::new(move |event| tell(&ui, &spans, &event)),
            cancel: self.cancel.clone(),
        })
    }

    fn cgroups(&self, engine: &dyn Engine) -> Result<Cgroups> {
        let found = Cgroups::detect(&self.global.cgroup_path)?;
        if let Some(cgroup) = self.machine.delegated_cgroup() {
            return Ok(found.delegated(cgroup));
        }
        Ok(if engine.info().makes_cgroups { found.of_the_engine() } else { found })
    }

    /// A builder that prints lines with the role in front.
    async fn builder(&mut self, workdir: &Workdir, options: Options, quiet: bool) -> Result<Builder> {
        let Backend { engine, images } = self.backend().await?;
        let cgroups = self.cgroups(engine.as_ref())?;
        let steps = steps_id(&workdir.env_id);
        cgroups.create_parent(&steps)?;
        host::make_dir(&self.machine.data_dir().join("scratch"), 0o711)?;
        let scratch = self.scratch(workdir);
        host::make_dir(&scratch, 0o711)?;
        // What images hold is for root alone.
        let scratch = scratch.join("build");
        host::private_dir(&scratch)?;
        let uplink = Arc::new(StepUplink::new(&self.machine, &workdir.env_id, &scratch)?);
        let width = workdir.roles()?.iter().map(String::len).max().unwrap_or(0).max("debian13".len());
        let ui = self.ui.clone();
        Ok(Builder {
            images,
            uplink,
            scratch,
            caches: self.machine.data_dir().join("caches"),
            cgroup: cgroups.parent(&steps),
            listener: Arc::new(move |title, line| {
                if quiet {
                    ui.progress(&format!("{title} | {line}"));
                } else {
                    let prefix = format!("{title:>width$} | ");
                    ui.line(&format!("{}{line}", ui.paint_out(ui::GREEN, &prefix)));
                }
            }),
            options,
            cancel: self.cancel.clone(),
        })
    }

    /// After a build or an install, and before the next thing if that was killed: nothing of their steps stays.
    async fn end_steps(&mut self, workdir: &Workdir) -> Result<()> {
        let Backend { engine, images } = self.backend().await?;
        let cgroups = self.cgroups(engine.as_ref())?;
        let removed = remove_steps(images.as_ref(), &self.machine, &cgroups, &workdir.env_id).await;
        let dir = self.scratch(workdir);
        removed.and(host::unmount_below(&dir).and_then(|()| host::remove_dir(&dir)))
    }

    /// Large layers pass through here, so it must not be a tmpfs.
    fn scratch(&self, workdir: &Workdir) -> PathBuf {
        self.machine.data_dir().join("scratch").join(&workdir.env_id)
    }

    /// The options with which another oardocker finds what this one does.
    fn global_options(&self) -> Result<Vec<OsString>> {
        let docker_host = self.backend.as_ref();
        let docker_host = docker_host.map_or(self.global.docker_host.as_str(), |b| &b.engine.info().docker_host);
        let root = std::path::absolute(self.root()?).doing(|| "cannot tell where the workdir is".into())?;
        let cgroup_path =
            std::path::absolute(&self.global.cgroup_path).doing(|| "cannot tell where cgroups are".into())?;
        let options: [(&str, &OsStr); 3] = [
            ("--workdir", root.as_os_str()),
            ("--docker-host", docker_host.as_ref()),
            ("--cgroup-path", cgroup_path.as_os_str()),
        ];
        Ok(options.into_iter().flat_map(|(name, value)| [name.into(), value.to_owned()]).collect())
    }

    /// Gives up what the engine protects for us.
    pub async fn close(&mut self) {
        self.release().await;
        self.backend = None;
    }

    /// Has an engine end what oardocker runs of it when nothing else is asked for on this line.
    fn retire_at_end(&mut self, engine: Arc<dyn Engine>, last: String) {
        self.retiring = Some((engine, last));
    }

    /// After the last command. The value is 1 if something could not be ended.
    pub async fn end(&mut self) -> u8 {
        self.close().await;
        let Some((engine, last)) = self.retiring.take() else { return 0 };
        // Somebody else may have come meanwhile.
        if crate::workdir::others_at_work(&self.machine, &last) {
            return 0;
        }
        let Err(e) = engine.retire().await else { return 0 };
        self.ui.error(&e);
        e.exit_code()
    }

    async fn release(&self) {
        if let Some(backend) = &self.backend
            && let Err(e) = backend.images.release().await
        {
            self.ui.error(&e);
        }
    }
}

fn tell(ui: &Ui, spans: &Mutex<Vec<Span>>, event: &Event) {
    let container = |name: &str, color: u8, what: &str| {
        ui.line(&format!("Container {name} --> {}", ui.paint_out(color, what)));
    };
    match event {
        Event::Started(name) => {
            container(name, ui::GREEN, "Started");
            ui.progress("booting");
        }
        Event::Booted(name) => ui.progress(&format!("{name} has booted")),
        Event::Ready => ui.progress_end(),
        Event::Note(text) => ui.note(text),
        Event::Removed(name) => container(name, ui::BLUE, "Removed"),
        Event::Restarted(name) => container(name, ui::GREEN, "Restarted"),
        Event::Span(span) => spans.lock().unwrap_or_else(PoisonError::into_inner).push(span.clone()),
    }
}

/// What is refused or asked before anything runs.
pub fn before(context: &Context, chain: &[Invocation]) -> Result<()> {
    if let Some(pools) = &context.global.networks {
        net::use_pools(pools)?;
    }
    for invocation in chain {
        match &invocation.command {
            Command::Start(params) => start::check(params)?,
            Command::Exec(params) => exec::check(params)?,
            _ => {}
        }
    }
    let unforced = |i: &&Invocation| matches!(&i.command, Command::Destroy(params) if !params.force);
    chain.iter().filter(unforced).try_for_each(|_| destroy::confirm(&context.ui))
}

/// Runs one command. The code is 0 but for `exec` and `connect`.
pub async fn run(context: &mut Context, command: Command) -> Result<u8> {
    context.in_session = command.stays();
    if context.in_session {
        context.locks.clear();
        context.release().await;
    }
    match command {
        Command::Build(params) => build::run(context, params).await?,
        Command::Clean(_) => clean::run(context).await?,
        Command::Completion(params) => completion::run(context, &params),
        Command::Connect(params) => return connect::run(context, params).await,
        Command::Destroy(_) => destroy::run(context).await?,
        Command::Exec(params) => return exec::run(context, params).await,
        Command::Init(params) => init::run(context, &params).await?,
        Command::Install(params) => install::run(context, params).await?,
        Command::Logs(params) => logs::run(context, params).await?,
        Command::Reset(params) => reset::run(context, params).await?,
        Command::Start(params) => start::run(context, params).await?,
        Command::Status(_) => status::run(context).await?,
        Command::Stop(_) => stop::run(context).await?,
        Command::Update(params) => update::run(context, params).await?,
    }
    Ok(0)
}
