//! Starting, stopping and restarting a cluster: the only place that changes anything.

use super::facts::{self, Facts};
use super::files::Files;
use super::notify::Notify;
use super::plan::{self, Host};
use super::request::Request;
use super::volume::Mode;
use super::{container_id, containers, cow, init, keeper, old_folder, require_its_engine, session};
use crate::cgroup::Cgroups;
use crate::engine::{Engine, State};
use crate::error::{Error, Result};
use futures::stream::{FuturesUnordered, StreamExt as _};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A host that has not booted after this time does not boot.
const BOOT: Duration = Duration::from_secs(120);

/// The way into a cluster whose OAR is broken.
const LOOK: &str = "the cluster is left up: look around with `oardocker connect -l root server` (/var/log/oar.log, \
                    `journalctl -u oar-server`), and end it with `oardocker stop`";

/// What does not work of OAR on hosts that have booted.
struct Broken {
    error: Error,
    /// Its server, not only some nodes.
    server: bool,
}

/// What happens on the way, for the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A container runs.
    Started(String),
    /// Its systemd has started everything.
    Booted(String),
    /// OAR accepts jobs.
    Ready,
    /// Something the user should know once.
    Note(String),
    /// A container is gone.
    Removed(String),
    /// A container runs again.
    Restarted(String),
}

/// Hears events.
pub type Listener = dyn Fn(Event) + Send + Sync;

/// What is needed to run clusters.
#[derive(Clone)]
pub struct Runner {
    /// Of the containers.
    pub engine: Arc<dyn Engine>,
    /// Under `--cgroup-path`.
    pub cgroups: Cgroups,
    /// For progress.
    pub listener: Arc<Listener>,
    /// Whether the user still wants it. What an engine was asked for is waited for all the same, so that nothing appears later.
    pub cancel: CancellationToken,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("cgroups", &self.cgroups).finish_non_exhaustive()
    }
}

impl Runner {
    /// Starts a cluster and waits until OAR accepts jobs. Whatever fails, nothing of it stays, but for hosts that have all booted:
    /// what is broken then is OAR, and can be looked at.
    ///
    /// `image` names a role's image in the engine.
    pub async fn start(&self, request: &Request, image: &(dyn Fn(&str) -> String + Sync), wait: bool) -> Result<()> {
        match self.try_start(request, image, wait).await {
            Ok(None) => Ok(()),
            Ok(Some(broken)) => Err(broken.error.hint(LOOK)),
            Err(e) => {
                // The first error is the one worth showing; a second stop will tell what this one could not remove.
                let _ = self.stop(&request.env_id, None).await;
                Err(e)
            }
        }
    }

    /// The value is why OAR does not work on hosts that do.
    async fn try_start(
        &self,
        request: &Request,
        image: &(dyn Fn(&str) -> String + Sync),
        wait: bool,
    ) -> Result<Option<Broken>> {
        let images = facts::images(self.engine.as_ref(), image).await?;
        let chain = images.get("frontend").and_then(|image| image.chain.clone());
        let env = images.iter().map(|(role, image)| (role.clone(), image.env.clone())).collect();
        let files = Files::new(&request.env_id);
        files.claim(&self.engine.info().docker_host)?;
        let subnet = self.engine.create_network(&request.env_id, &plan::access(request)).await?;
        let facts = Facts::collect(request, images, subnet)?;
        let hosts = plan::hosts(request, &self.cgroups, &facts);
        let names: Vec<String> = hosts.iter().map(|h| h.name.clone()).collect();
        files.create(request, &names, &facts.hosts, &env)?;
        let cow = request.volumes.iter().any(|v| v.mode == Mode::CopyOnWrite);
        for name in &names {
            self.cgroups.create(&request.env_id, name)?;
            if cow {
                cow::mount_all(&request.env_id, name, &request.volumes)?;
            }
        }
        self.fill_home(&files, chain).await?;
        self.still_wanted()?;
        let mut sockets = Vec::new();
        for name in &names {
            sockets.push((name.clone(), Notify::bind(&files.notify_dir(name))?));
        }
        self.launch(&hosts, &files, image).await?;
        self.still_wanted()?;
        keeper::summon(&request.env_id, &request.global)?;
        if !wait {
            return Ok(None);
        }
        self.wait_booted(&request.env_id, sockets).await?;
        let broken = self.wait_alive(&request.env_id, &names).await?;
        self.still_wanted()?;
        if broken.is_none() {
            (self.listener)(Event::Ready);
        }
        Ok(broken)
    }

    async fn fill_home(&self, files: &Files, frontend: Option<String>) -> Result<()> {
        let step = self.engine.begin_step(frontend.as_deref()).await?;
        let filled = files.fill_home(&step.root);
        let aborted = self.engine.abort_step(step).await;
        filled.and(aborted)
    }

    /// Creates and starts all containers at the same time, the slowest role first.
    async fn launch(&self, hosts: &[Host], files: &Files, image: &(dyn Fn(&str) -> String + Sync)) -> Result<()> {
        let mut starting: FuturesUnordered<_> = hosts
            .iter()
            .map(|host| async {
                self.still_wanted()?;
                self.engine.create(&host.spec, &image(&host.role), &files.console(&host.name)).await?;
                self.still_wanted()?;
                self.engine.start(&host.spec.id).await?;
                (self.listener)(Event::Started(host.name.clone()));
                Ok::<_, Error>(())
            })
            .collect();
        let mut errors = Vec::new();
        while let Some(outcome) = starting.next().await {
            errors.extend(outcome.err());
        }
        Error::all(errors)
    }

    /// Waits for every host's READY=1; a host that ends or takes too long is named with the end of its journal.
    async fn wait_booted(&self, env_id: &str, sockets: Vec<(String, Notify)>) -> Result<()> {
        let mut booting: FuturesUnordered<_> = sockets
            .iter()
            .map(|(name, socket)| async move {
                let id = container_id(env_id, name);
                let outcome = tokio::select! {
                    ready = socket.ready() => ready,
                    ended = self.engine.wait(&id) => Err(match ended {
                        Ok(code) => Error::new(format!("{name} ended while booting, with code {code}")),
                        Err(e) => e.within(format!("cannot tell whether {name} boots")),
                    }),
                    () = self.cancel.cancelled() => Err(Error::interrupted()),
                    () = tokio::time::sleep(BOOT) => {
                        Err(Error::new(format!("{name} did not come up within {} s", BOOT.as_secs())))
                    }
                };
                (name, outcome)
            })
            .collect();
        while let Some((name, outcome)) = booting.next().await {
            match outcome {
                Ok(()) => (self.listener)(Event::Booted(name.clone())),
                Err(e) if self.cancel.is_cancelled() => return Err(e),
                Err(e) => return Err(e.detail(self.last_words(env_id, name).await)),
            }
        }
        Ok(())
    }

    /// Has the server mark the nodes Alive, as all of them have booted. The value is what of OAR does not work.
    async fn wait_alive(&self, env_id: &str, names: &[String]) -> Result<Option<Broken>> {
        let nodes: Vec<&str> = names.iter().map(String::as_str).filter(|n| n.starts_with("node")).collect();
        let server = container_id(env_id, "server");
        let mut args = vec!["/bin/bash", "-c", old_folder::WAIT_ALIVE, "wait_alive.sh"];
        args.extend(&nodes);
        let asked = self.cancel.run_until_cancelled(session::capture(self.engine.as_ref(), &server, &args)).await;
        let (code, out, err) = asked.unwrap_or_else(|| Err(Error::interrupted()))?;
        if code != 0 {
            let mut said = session::plain_lines(&err);
            // Nothing but which unit it was: what the host has logged may tell more.
            if said.len() < 2 {
                said.extend(self.journal(env_id, "server").await);
            }
            let error = Error::new("the hosts have booted, but OAR's server does not work").detail(said);
            return Ok(Some(Broken { error, server: true }));
        }
        let left: Vec<&str> = out.split_whitespace().collect();
        if let Some(name) = left.first() {
            let error =
                Error::new(format!("the hosts have booted, but OAR does not have as Alive: {}", left.join(", ")));
            let error = error.detail(self.journal(env_id, name).await);
            return Ok(Some(Broken { error, server: false }));
        }
        let (_, manager, _) =
            session::capture(self.engine.as_ref(), &server, &["/bin/cat", "/run/oardocker-job-manager"]).await?;
        if manager.trim() == "none" {
            old_folder::unconfine(self.engine.as_ref(), env_id, names).await?;
            (self.listener)(Event::Note(
                "OAR has no job manager for this host's cgroups: jobs run, but are not confined to their cores".into(),
            ));
        }
        Ok(None)
    }

    fn still_wanted(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::interrupted()) } else { Ok(()) }
    }

    /// The end of a host's journal, as far as it can be had.
    async fn journal(&self, env_id: &str, name: &str) -> Vec<String> {
        let id = container_id(env_id, name);
        let args = ["/bin/journalctl", "--no-pager", "-n", "15", "-o", "short-monotonic"];
        match session::capture(self.engine.as_ref(), &id, &args).await {
            Ok((0, out, _)) => last_lines(name, &out),
            _ => Vec::new(),
        }
    }

    /// The same, with the end of what the host's first process said itself: one that has ended has no journal to read.
    async fn last_words(&self, env_id: &str, name: &str) -> Vec<String> {
        let mut lines = self.journal(env_id, name).await;
        lines.extend(last_lines(name, &Files::new(env_id).last_words(name)));
        lines
    }

    /// Waits for what a killed oardocker had asked of the engine, so that nothing of it appears after a stop. `old` is what the
    /// engine was at work on before.
    async fn settle(&self, old: &[u32]) -> Result<()> {
        if !self.engine.settled(old).await? {
            let name = &self.engine.info().name;
            let note = format!(
                "{name} is still at work for a client that is gone: if that was a killed oardocker, `oardocker stop` once more later"
            );
            (self.listener)(Event::Note(note));
        }
        Ok(())
    }

    /// Removes everything of a cluster, whoever left it in whatever state. Nothing there is fine. `killed` says that an oardocker
    /// was, and what the engine was at work on for others before.
    pub async fn stop(&self, env_id: &str, killed: Option<&[u32]>) -> Result<()> {
        require_its_engine(self.engine.as_ref(), env_id)?;
        let mut errors = Vec::new();
        let (dismissed, removed) = tokio::join!(keeper::dismiss(env_id), self.remove_containers(env_id));
        errors.extend(dismissed.err());
        errors.extend(removed.err());
        if let Some(old) = killed {
            // After the containers, whose ends a client that is gone may have waited for; and what it asked for has come by now.
            errors.extend(self.settle(old).await.err());
            errors.extend(self.remove_containers(env_id).await.err());
        }
        let files = Files::new(env_id);
        errors.extend(self.engine.remove_network(env_id).await.err());
        errors.extend(self.cgroups.remove_patiently(env_id).await.err());
        if errors.is_empty() {
            errors.extend(files.remove().err());
        }
        Error::all(errors)
    }

    /// Those that the engine tells of, and those whose names are known. An engine in which one is half made may tell of none until
    /// that one is gone.
    async fn remove_containers(&self, env_id: &str) -> Result<()> {
        let listed = containers(self.engine.as_ref(), env_id).await;
        let again = listed.is_err();
        let known: Vec<String> = listed.map(|found| found.into_keys().collect()).unwrap_or_default();
        // A container that was being created when its oardocker was killed may have left only its filesystem.
        let named = std::fs::read_dir(Files::new(env_id).path("notify")).into_iter().flatten().flatten();
        let named = named.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let names: BTreeSet<String> = named.chain(known.iter().cloned()).collect();
        let mut errors = self.remove_hosts(env_id, &names, &known).await;
        if again && errors.is_empty() {
            let left = containers(self.engine.as_ref(), env_id).await?.into_keys().collect();
            errors = self.remove_hosts(env_id, &left, &[]).await;
        }
        Error::all(errors)
    }

    /// Removes the containers of these hosts at the same time, and tells of those that are known to have been there.
    async fn remove_hosts(&self, env_id: &str, names: &BTreeSet<String>, known: &[String]) -> Vec<Error> {
        let mut removing: FuturesUnordered<_> = names
            .iter()
            .map(|name| async move {
                let outcome = self.engine.remove(&container_id(env_id, name)).await;
                if outcome.is_ok() && known.contains(name) {
                    (self.listener)(Event::Removed(name.clone()));
                }
                outcome
            })
            .collect();
        let mut errors = Vec::new();
        while let Some(outcome) = removing.next().await {
            errors.extend(outcome.err());
        }
        errors
    }

    /// Restarts hosts; each shuts down within `patience` or is killed.
    pub async fn reset(&self, env_id: &str, names: &[String], patience: Duration) -> Result<()> {
        let known = containers(self.engine.as_ref(), env_id).await?;
        let files = Files::new(env_id);
        let mut restarting: FuturesUnordered<_> = names
            .iter()
            .map(|name| {
                let (files, container) = (&files, &known[name]);
                async move {
                    if container.state == State::Running {
                        old_folder::before_restart(self.engine.as_ref(), container).await;
                    }
                    let grace =
                        (container.state == State::Running).then(|| (init::end_signal(container.pid), patience));
                    self.engine.end_task(&container.id, grace).await?;
                    // Not before: what a systemd that shuts down says is not about the next one.
                    let socket = Notify::bind(&files.notify_dir(name))?;
                    files.clear_kmsg(name)?;
                    self.engine.restart(&container.id, &files.console(name)).await?;
                    (self.listener)(Event::Restarted(name.clone()));
                    Ok::<_, Error>((name.clone(), socket))
                }
            })
            .collect();
        let (mut sockets, mut errors) = (Vec::new(), Vec::new());
        while let Some(outcome) = restarting.next().await {
            match outcome {
                Ok(socket) => sockets.push(socket),
                Err(e) => errors.push(e),
            }
        }
        Error::all(errors)?;
        self.wait_booted(env_id, sockets).await?;
        if names.iter().any(|n| n == "server" || n.starts_with("node")) {
            let all: Vec<String> = known
                .iter()
                .filter(|(n, c)| names.contains(n) || c.state == State::Running)
                .map(|(n, _)| n.clone())
                .collect();
            match self.wait_alive(env_id, &all).await? {
                None => {}
                Some(broken) if !broken.server || names.iter().any(|n| n == "server") => {
                    return Err(broken.error.hint(LOOK));
                }
                // A server that nobody restarted may be stopped, or broken, on purpose.
                Some(Broken { error, .. }) => {
                    let why = error.details().first().map_or_else(String::new, |line| format!(": {line}"));
                    (self.listener)(Event::Note(format!("{error}{why}")));
                }
            }
        }
        Ok(())
    }
}

/// The last lines of a text, with the host's name in front.
fn last_lines(name: &str, text: &str) -> Vec<String> {
    let lines: Vec<String> = session::plain_lines(text).iter().map(|l| format!("{name} | {l}")).collect();
    lines[lines.len().saturating_sub(15)..].to_vec()
}
