//! Starting, stopping and restarting a cluster: the only place that changes anything.

use super::facts::{self, Facts, RoleImages};
use super::files::Files;
use super::notify::Notify;
use super::place::Place;
use super::plan::{self, Host, Plan};
use super::request::Request;
use super::timeline::{self, Span};
use super::{container_id, containers, init, keeper, old_folder, require_its_engine, session, userns};
use crate::cgroup::Cgroups;
use crate::engine::{Engine, Images, State};
use crate::error::{Error, Result};
use crate::host::{Ids, Machine, Powers};
use futures::stream::{FuturesUnordered, StreamExt as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A host that has not booted after this time does not boot.
const BOOT: Duration = Duration::from_secs(120);

/// All hosts boot at once, most of them done when the server is half way, with a database to start and a scheduling to do; and every job waits
/// for it later. So it gets this many times what each of the others gets of the processors, as long as there are too few.
const SERVER_PREFERENCE: u32 = 8;

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
    /// Something of a start is done.
    Span(Span),
}

/// Hears events.
pub type Listener = dyn Fn(Event) + Send + Sync;

/// What is needed to run the cluster of one environment.
#[derive(Clone)]
pub struct Runner {
    /// Of the environment.
    pub env_id: String,
    /// Where its files are.
    pub files: Files,
    /// Where that is.
    pub machine: Machine,
    /// To make them.
    pub powers: Arc<dyn Powers>,
    /// Of the containers.
    pub engine: Arc<dyn Engine>,
    /// Of their images.
    pub images: Arc<dyn Images>,
    /// Under `--cgroup-path`.
    pub cgroups: Cgroups,
    /// For progress.
    pub listener: Arc<Listener>,
    /// Whether the user still wants it. What an engine was asked for is waited for all the same, so that nothing appears later.
    pub cancel: CancellationToken,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("env_id", &self.env_id).finish_non_exhaustive()
    }
}

impl Runner {
    /// Starts a cluster and waits until OAR accepts jobs. Whatever fails, nothing of it stays, but for hosts that have all booted:
    /// what is broken then is OAR, and can be looked at.
    pub async fn start(&self, request: &Request) -> Result<()> {
        match self.try_start(request).await {
            Ok(None) => Ok(()),
            Ok(Some(broken)) => Err(broken.error.hint(LOOK)),
            Err(e) => {
                // The first error is the one worth showing; a second stop will tell what this one could not remove.
                let _ = self.stop(None).await;
                Err(e)
            }
        }
    }

    /// The value is why OAR does not work on hosts that do.
    async fn try_start(&self, request: &Request) -> Result<Option<Broken>> {
        let begun = timeline::now();
        let images = facts::images(self.images.as_ref(), request).await?;
        self.took(None, "images", begun);
        let begun = timeline::now();
        self.place().claim(&self.engine.info().docker_host)?;
        let subnet = self.engine.create_network(&self.env_id, &request.access()).await?;
        // Held as long as we start: by then containers have the ids.
        let chosen = userns::choose(self.engine.as_ref(), &self.machine, &self.env_id, request.userns).await?;
        self.took(None, "network", begun);
        let begun = timeline::now();
        let facts = Facts::collect(request, &self.machine, &self.cgroups, images, subnet, chosen.ids)?;
        let plan = plan::plan(request, &facts);
        self.prepare(&plan, request, facts.ids).await?;
        self.load(&facts.images).await?;
        self.took(None, "files", begun);
        let sockets = self.listen(&plan, facts.ids)?;
        // In an old folder it is OAR that looks for the nodes: it should find them at the first time.
        let started = self.launch(&plan, (!facts.old).then_some("server")).await?;
        self.still_wanted()?;
        keeper::summon(&self.machine, &self.files, &self.env_id, &request.global)?;
        if !request.wait {
            return Ok(None);
        }
        self.wait_booted(sockets, &started).await?;
        let begun = timeline::now();
        let names: Vec<String> = plan.hosts.iter().map(|host| host.name.clone()).collect();
        let broken = self.wait_alive(&names, &names).await?;
        self.took(None, "Alive", begun);
        self.still_wanted()?;
        if broken.is_none() {
            (self.listener)(Event::Ready);
        }
        Ok(broken)
    }

    fn took(&self, host: Option<&str>, what: &str, begun: u64) {
        (self.listener)(Event::Span(Span::phase(host, what, begun)));
    }

    fn place(&self) -> Place {
        Place::new(&self.files, self.powers.clone())
    }

    /// The host's part.
    async fn prepare(&self, plan: &Plan, request: &Request, ids: Option<Ids>) -> Result<()> {
        let notes = self.place().make(&plan.contents, &request.env_dir, request.user)?;
        notes.into_iter().for_each(|note| (self.listener)(Event::Note(note)));
        plan.hosts.iter().try_for_each(|host| self.cgroups.create(&self.env_id, &host.name, ids))?;
        if let Some(server) = self.cgroups.group(&self.env_id, "server") {
            server.prefer(SERVER_PREFERENCE)?;
        }
        self.fill_home(plan.home.as_deref(), ids).await
    }

    /// Has the engine know the images; most often it does already.
    async fn load(&self, images: &RoleImages) -> Result<()> {
        for role in images.values() {
            self.still_wanted()?;
            self.engine.load_image(&role.name, &role.image).await?;
        }
        Ok(())
    }

    fn listen(&self, plan: &Plan, ids: Option<Ids>) -> Result<Vec<(String, Notify)>> {
        let bind = |name: &String| Ok((name.clone(), Notify::bind(&self.files.notify_dir(name), ids)?));
        plan.hosts.iter().map(|host| bind(&host.name)).collect()
    }

    async fn fill_home(&self, frontend: Option<&str>, ids: Option<Ids>) -> Result<()> {
        let step = self.images.begin_step(frontend).await?;
        let filled = self.place().fill_home(&step.root, ids);
        let aborted = self.images.abort_step(step).await;
        filled.and(aborted)
    }

    /// Creates and starts all containers at the same time, but for one which everything waits for in the end: the others begin when
    /// that is made. When each was started, by [`timeline::now`].
    async fn launch(&self, plan: &Plan, first: Option<&str>) -> Result<BTreeMap<String, u64>> {
        let (made, is_first) = (CancellationToken::new(), |host: &Host| Some(host.name.as_str()) == first);
        if !plan.hosts.iter().any(is_first) {
            made.cancel();
        }
        let mut starting: FuturesUnordered<_> = plan
            .hosts
            .iter()
            .map(|host| async {
                // Also where it cannot be made.
                let guard = is_first(host).then(|| made.clone().drop_guard());
                if guard.is_none() {
                    made.cancelled().await;
                }
                self.still_wanted()?;
                let begun = timeline::now();
                self.engine.create(&host.spec).await?;
                self.own_cgroup(&host.name, &host.spec.id, host.spec.ids, false).await?;
                self.took(Some(&host.name), "create", begun);
                drop(guard);
                self.still_wanted()?;
                let begun = timeline::now();
                self.engine.start(&host.spec.id).await?;
                self.took(Some(&host.name), "start", begun);
                (self.listener)(Event::Started(host.name.clone()));
                Ok::<_, Error>((host.name.clone(), timeline::now()))
            })
            .collect();
        let (mut started, mut errors) = (BTreeMap::new(), Vec::new());
        while let Some(outcome) = starting.next().await {
            match outcome {
                Ok((name, at)) => drop(started.insert(name, at)),
                Err(e) => errors.push(e),
            }
        }
        Error::all(errors).map(|()| started)
    }

    /// Makes the cgroups that a host with ids of its own is to have, before its runtime does, whose they would be. When a host ends, the
    /// runtime takes them away (`gone`).
    async fn own_cgroup(&self, name: &str, id: &str, ids: Option<Ids>, gone: bool) -> Result<()> {
        let Some(ids) = ids else { return Ok(()) };
        match self.engine.cgroup(id).await? {
            Some(below) => self.cgroups.create(&self.env_id, &format!("{name}/{below}"), Some(ids)),
            None if gone => self.cgroups.create(&self.env_id, name, Some(ids)),
            None => Ok(()),
        }
    }

    /// Waits for every host's READY=1; a host that ends or takes too long is named with the end of its journal.
    async fn wait_booted(&self, sockets: Vec<(String, Notify)>, started: &BTreeMap<String, u64>) -> Result<()> {
        let mut booting: FuturesUnordered<_> = sockets
            .iter()
            .map(|(name, socket)| async move {
                let id = container_id(&self.env_id, name);
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
                Ok(()) => {
                    if let Some(begun) = started.get(name) {
                        self.took(Some(name), "boot", *begun);
                    }
                    (self.listener)(Event::Booted(name.clone()));
                }
                Err(e) if self.cancel.is_cancelled() => return Err(e),
                Err(e) => return Err(e.detail(self.last_words(name).await)),
            }
        }
        Ok(())
    }

    /// Has the server mark the nodes Alive, as all of them have booted, some just now. The value is what of OAR does not work.
    async fn wait_alive(&self, names: &[String], booted: &[String]) -> Result<Option<Broken>> {
        let nodes: Vec<&str> = names.iter().map(String::as_str).filter(|n| n.starts_with("node")).collect();
        let server = container_id(&self.env_id, "server");
        let mut args = vec!["/bin/bash", "-c", old_folder::WAIT_ALIVE, "wait_alive.sh"];
        args.extend(&nodes);
        let asked = self.cancel.run_until_cancelled(session::capture(self.engine.as_ref(), &server, &args)).await;
        let (code, out, err) = asked.unwrap_or_else(|| Err(Error::interrupted()))?;
        if code != 0 {
            let mut said = session::plain_lines(&err);
            // Nothing but which unit it was: what the host has logged may tell more.
            if said.len() < 2 {
                said.extend(self.journal("server").await);
            }
            let error = Error::new("the hosts have booted, but OAR's server does not work").detail(said);
            return Ok(Some(Broken { error, server: true }));
        }
        let mut words = out.split_whitespace();
        let manager = words.next();
        let left: Vec<&str> = words.collect();
        if let Some(name) = left.first() {
            let error =
                Error::new(format!("the hosts have booted, but OAR does not have as Alive: {}", left.join(", ")));
            let error = error.detail(self.journal(name).await);
            return Ok(Some(Broken { error, server: false }));
        }
        if manager == Some("none") {
            // What others have become is their own, and not to be waited for.
            old_folder::unconfine(self.engine.as_ref(), &self.env_id, booted).await?;
            let note = "OAR has no job manager for this host's cgroups: jobs run, but are not confined to their cores";
            let advice = if self.machine.is_rootless() { self.cgroups.advice() } else { "" };
            (self.listener)(Event::Note(format!("{note}{advice}")));
        }
        Ok(None)
    }

    fn still_wanted(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::interrupted()) } else { Ok(()) }
    }

    /// The end of a host's journal, as far as it can be had.
    async fn journal(&self, name: &str) -> Vec<String> {
        let id = container_id(&self.env_id, name);
        let args = ["/bin/journalctl", "--no-pager", "-n", "15", "-o", "short-monotonic"];
        match session::capture(self.engine.as_ref(), &id, &args).await {
            Ok((0, out, _)) => last_lines(name, &out),
            _ => Vec::new(),
        }
    }

    /// The same, with the end of what the host's first process said itself: one that has ended has no journal to read.
    async fn last_words(&self, name: &str) -> Vec<String> {
        let mut lines = self.journal(name).await;
        lines.extend(last_lines(name, &self.files.last_words(name)));
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
    pub async fn stop(&self, killed: Option<&[u32]>) -> Result<()> {
        require_its_engine(self.engine.as_ref(), &self.files)?;
        let mut errors = Vec::new();
        let (dismissed, removed) = tokio::join!(keeper::dismiss(&self.files), self.remove_containers());
        errors.extend(dismissed.err());
        errors.extend(removed.err());
        if let Some(old) = killed {
            // After the containers, whose ends a client that is gone may have waited for; and what it asked for has come by now.
            errors.extend(self.settle(old).await.err());
            errors.extend(self.remove_containers().await.err());
        }
        errors.extend(self.engine.remove_network(&self.env_id).await.err());
        errors.extend(self.cgroups.remove_patiently(&self.env_id).await.err());
        if errors.is_empty() {
            errors.extend(self.place().remove().err());
        }
        Error::all(errors)
    }

    /// Those that the engine tells of, and those whose names are known. An engine in which one is half made may tell of none until
    /// that one is gone.
    async fn remove_containers(&self) -> Result<()> {
        let listed = containers(self.engine.as_ref(), &self.env_id).await;
        let again = listed.is_err();
        let known: Vec<String> = listed.map(|found| found.into_keys().collect()).unwrap_or_default();
        // A container that was being created when its oardocker was killed may have left only its filesystem.
        let named = std::fs::read_dir(self.files.path("notify")).into_iter().flatten().flatten();
        let named = named.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let names: BTreeSet<String> = named.chain(known.iter().cloned()).collect();
        let mut errors = self.remove_hosts(&names, &known).await;
        if again && errors.is_empty() {
            let left = containers(self.engine.as_ref(), &self.env_id).await?.into_keys().collect();
            errors = self.remove_hosts(&left, &[]).await;
        }
        Error::all(errors)
    }

    /// Removes the containers of these hosts at the same time, and tells of those that are known to have been there.
    async fn remove_hosts(&self, names: &BTreeSet<String>, known: &[String]) -> Vec<Error> {
        let mut removing: FuturesUnordered<_> = names
            .iter()
            .map(|name| async move {
                let outcome = self.engine.remove(&container_id(&self.env_id, name)).await;
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
    pub async fn reset(&self, names: &[String], patience: Duration) -> Result<()> {
        let known = containers(self.engine.as_ref(), &self.env_id).await?;
        let mut restarting: FuturesUnordered<_> = names
            .iter()
            .map(|name| {
                let container = &known[name];
                async move {
                    if container.state == State::Running {
                        old_folder::before_restart(self.engine.as_ref(), container).await;
                    }
                    let grace =
                        (container.state == State::Running).then(|| (init::end_signal(container.pid), patience));
                    self.engine.end_task(&container.id, grace).await?;
                    // Not before: what a systemd that shuts down says is not about the next one.
                    let socket = Notify::bind(&self.files.notify_dir(name), container.ids())?;
                    self.files.clear_kmsg(name)?;
                    self.own_cgroup(name, &container.id, container.ids(), true).await?;
                    self.engine.restart(&container.id, &self.files.console(name)).await?;
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
        self.wait_booted(sockets, &BTreeMap::new()).await?;
        if names.iter().any(|n| n == "server" || n.starts_with("node")) {
            let all: Vec<String> = known
                .iter()
                .filter(|(n, c)| names.contains(n) || c.state == State::Running)
                .map(|(n, _)| n.clone())
                .collect();
            match self.wait_alive(&all, names).await? {
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

#[cfg(test)]
mod tests;
