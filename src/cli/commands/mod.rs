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

use super::parse::Invocation;
use super::ui::{self, Ui};
use crate::cgroup::Cgroups;
use crate::cluster;
use crate::cluster::images::{StepNetwork, remove_steps, steps_cgroup};
use crate::cluster::run::{Event, Runner};
use crate::engine::host::data_dir;
use crate::engine::{Engine, select};
use crate::error::{Context as _, Error, Result};
use crate::image::build::{Builder, Options};
use crate::workdir::{self, Lock, Workdir};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Deserialize)]
struct Global {
    workdir: Option<PathBuf>,
    docker_host: String,
    cgroup_path: PathBuf,
    verbose: bool,
}

/// What the commands of one line share.
pub struct Context {
    ui: Arc<Ui>,
    global: Global,
    engine: Option<Arc<dyn Engine>>,
    locks: Vec<Lock>,
    in_session: bool,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("global", &self.global).finish_non_exhaustive()
    }
}

impl Context {
    /// From the global options.
    pub fn new(ui: Arc<Ui>, global: &Map<String, Value>) -> Self {
        let global = serde_json::from_value(Value::Object(global.clone())).expect("the grammar gives all options");
        Self { ui, global, engine: None, locks: Vec::new(), in_session: false }
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
            self.locks.push(workdir::lock(&workdir::env_dir(&root), waiting).await?);
            // Without root nothing of the host is touched; the engine says what is possible then.
            if nix::unistd::geteuid().is_root() {
                self.locks.push(workdir::claim(&root, &workdir.env_id, waiting).await?);
            }
        }
        Ok(workdir)
    }

    /// The engine, connected when first needed.
    async fn engine(&mut self) -> Result<Arc<dyn Engine>> {
        if let Some(engine) = &self.engine {
            return Ok(engine.clone());
        }
        let (engine, line) = select::connect(&select::parse(&self.global.docker_host)?).await?;
        // In a session, stderr belongs to the program inside.
        if let Some(line) = line.filter(|_| self.global.verbose || !self.in_session) {
            self.ui.talk(&line);
        }
        self.engine = Some(engine.clone());
        Ok(engine)
    }

    async fn runner(&mut self) -> Result<Runner> {
        let ui = self.ui.clone();
        let engine = self.engine().await?;
        let cgroups = self.cgroups(engine.as_ref())?;
        Ok(Runner { engine, cgroups, listener: Arc::new(move |event| tell(&ui, &event)) })
    }

    fn cgroups(&self, engine: &dyn Engine) -> Result<Cgroups> {
        let found = Cgroups::detect(&self.global.cgroup_path)?;
        Ok(if engine.info().makes_cgroups { found.of_the_engine() } else { found })
    }

    /// A builder that prints lines with the role in front.
    async fn builder(&mut self, workdir: &Workdir, options: Options, quiet: bool) -> Result<Builder> {
        let engine = self.engine().await?;
        let scratch = scratch(&workdir.env_id);
        let network = Arc::new(StepNetwork::new(&workdir.env_id, &scratch)?);
        let width = workdir.roles()?.iter().map(String::len).max().unwrap_or(0).max("debian13".len());
        let ui = self.ui.clone();
        Ok(Builder {
            engine,
            network,
            scratch,
            cgroup: steps_cgroup(&workdir.env_id),
            listener: Arc::new(move |title, line| {
                if quiet {
                    ui.progress(&format!("{title} | {line}"));
                } else {
                    let prefix = format!("{title:>width$} | ");
                    ui.line(&format!("{}{line}", ui.paint_out(ui::GREEN, &prefix)));
                }
            }),
            options,
        })
    }

    /// After a build or an install, and before the next thing if that was killed: nothing of their steps stays.
    async fn end_steps(&mut self, workdir: &Workdir) -> Result<()> {
        let engine = self.engine().await?;
        let cgroups = self.cgroups(engine.as_ref())?;
        let removed = remove_steps(engine.as_ref(), &cgroups, &workdir.env_id).await;
        let dir = scratch(&workdir.env_id);
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                removed.and(Err(e).doing(|| format!("cannot remove {}", dir.display())))
            }
            _ => removed,
        }
    }

    /// Undoes a command that was interrupted.
    pub async fn undo(&mut self, command: &str) {
        let Ok(workdir) = self.workdir() else { return };
        let Some(engine) = self.engine.clone() else { return };
        // A request that we gave up may still be at work in the engine; it does not tell when that ends.
        let mut outcome = Ok(());
        for attempt in 0..5 {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            outcome = match command {
                "build" | "install" => match engine.recover(true).await {
                    Ok(()) => self.end_steps(&workdir).await,
                    failed => failed,
                },
                "start" | "stop" => match engine.recover(true).await {
                    Ok(()) => stop::quietly(self, &workdir).await,
                    failed => failed,
                },
                _ => Ok(()),
            };
            if outcome.is_ok() && !self.left_over(&workdir).await {
                break;
            }
        }
        if let Err(e) = outcome {
            self.ui.error(&e.hint("run `oardocker stop`"));
        }
        self.close().await;
    }

    /// Whether a container has appeared that was asked for before the interrupt.
    async fn left_over(&self, workdir: &Workdir) -> bool {
        let Some(engine) = &self.engine else { return false };
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster::containers(engine.as_ref(), &workdir.env_id).await.is_ok_and(|found| !found.is_empty())
    }

    /// Gives up what the engine protects for us.
    pub async fn close(&mut self) {
        if let Some(engine) = self.engine.take()
            && let Err(e) = engine.release().await
        {
            self.ui.error(&e);
        }
    }
}

/// Large layers pass through here, so it must not be a tmpfs.
fn scratch(env_id: &str) -> PathBuf {
    data_dir().join("scratch").join(env_id)
}

fn tell(ui: &Ui, event: &Event) {
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
        Event::Note(text) => ui.talk(&format!("{} {text}", ui.paint(ui::YELLOW, "note:"))),
        Event::Removed(name) => container(name, ui::BLUE, "Removed"),
        Event::Restarted(name) => container(name, ui::GREEN, "Restarted"),
    }
}

fn params<T: for<'de> Deserialize<'de>>(invocation: &Invocation) -> T {
    serde_json::from_value(Value::Object(invocation.params.clone())).expect("the grammar gives all parameters")
}

/// What is refused or asked before anything runs.
pub fn before(context: &Context, chain: &[Invocation]) -> Result<()> {
    for invocation in chain {
        match invocation.command {
            "start" => start::check(&params(invocation))?,
            "exec" => exec::check(&params(invocation))?,
            _ => {}
        }
    }
    let unforced = |i: &Invocation| i.command == "destroy" && i.params.get("force") != Some(&Value::Bool(true));
    for _ in chain.iter().filter(|i| unforced(i)) {
        destroy::confirm(&context.ui)?;
    }
    Ok(())
}

/// Whether a command needs a container engine.
pub fn needs_engine(command: &str) -> bool {
    !matches!(command, "init" | "completion")
}

/// Runs one command. The code is 0 but for `exec` and `connect`.
pub async fn run(context: &mut Context, invocation: &Invocation) -> Result<u8> {
    context.in_session = matches!(invocation.command, "exec" | "connect" | "logs");
    if context.in_session {
        // A shell may stay open for hours; the cluster must be manageable from another terminal.
        context.locks.clear();
    }
    match invocation.command {
        "build" => build::run(context, params(invocation)).await?,
        "clean" => clean::run(context).await?,
        "completion" => completion::run(context, &params(invocation)),
        "connect" => return connect::run(context, params(invocation)).await,
        "destroy" => destroy::run(context).await?,
        "exec" => return exec::run(context, params(invocation)).await,
        "init" => init::run(context, &params(invocation)).await?,
        "install" => install::run(context, params(invocation)).await?,
        "logs" => logs::run(context, params(invocation)).await?,
        "reset" => reset::run(context, params(invocation)).await?,
        "start" => start::run(context, params(invocation)).await?,
        "status" => status::run(context).await?,
        "stop" => stop::run(context).await?,
        other => return Err(Error::new(format!("{other} is in the grammar but not implemented"))),
    }
    Ok(0)
}
