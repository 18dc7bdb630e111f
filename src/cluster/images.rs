//! The images of an environment: which there are, building them, installing OAR on them.

use super::{COMMENT_LABEL, ENV_LABEL, refresh};
use crate::cgroup::Cgroups;
use crate::engine::{Engine, Image, ImageRecord, Images, Layer, Mount, ProcessSpec, sha256};
use crate::error::{Doing as _, Error, Result};
use crate::host::{Machine, write_file};
use crate::image::build::Builder;
use crate::image::cache;
use crate::image::name::Name;
use crate::image::order::{self, Definition};
use crate::image::run::Sandbox;
use crate::image::uplink::Uplink;
use crate::net::{self, Access, Network, Outlet, ProxyRelay};
use crate::rooted::Root;
use crate::source::{Form, Listing, PACKAGES, Prepared};
use crate::workdir::{Workdir, templates};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::{Mutex, OnceCell};

/// Where an install script finds its source.
const SOURCE_INSIDE: &str = "/tmp/postinstall";

/// The images that belong to this environment.
pub async fn of_environment(store: &dyn Images, env_id: &str) -> Result<Vec<ImageRecord>> {
    let mut images = store.images().await?;
    images.retain(|i| i.labels.get(ENV_LABEL).is_some_and(|id| id == env_id));
    images.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(images)
}

/// Fails with the names of the images that are missing and the command that makes them.
pub async fn require(store: &dyn Images, workdir: &Workdir, roles: &[&str], tag: &str) -> Result<()> {
    let have: Vec<String> = of_environment(store, &workdir.env_id).await?.into_iter().map(|i| i.name).collect();
    let missing: Vec<(&str, &str)> = roles
        .iter()
        .map(|role| (*role, if workdir.build_tag(role) == "latest" { "latest" } else { tag }))
        .filter(|(role, tag)| !have.contains(&workdir.engine_name(role, tag)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = missing.iter().map(|(role, tag)| workdir.image_name(role, tag)).collect();
    let unbuilt = roles.iter().any(|r| !have.contains(&workdir.engine_name(r, workdir.build_tag(r))));
    let error = Error::new(format!("missing images: {}", names.join(", ")));
    Err(if unbuilt {
        error.hint(match workdir.manifest.install_script {
            Some(_) => "run `oardocker build` first, then `oardocker install SRC`",
            None => "run `oardocker build` first",
        })
    } else {
        error.hint("run `oardocker install SRC` first")
    })
}

/// The definitions of an environment, base images first.
pub fn definitions(workdir: &Workdir, scratch: &Path, given: &BTreeMap<String, String>) -> Result<Vec<Definition>> {
    let mut definitions = Vec::new();
    let mut bases = Vec::new();
    let mut args = workdir.manifest.build_args.clone();
    args.extend(given.clone());
    for role in workdir.roles()? {
        let context = workdir.context(&role)?;
        for from in order::from(&context, &args)? {
            let Some(base) = templates::base_image(&from).filter(|_| !bases.contains(&from)) else { continue };
            let folder = scratch.join(from.replace(['/', ':'], "-"));
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).doing(|| format!("cannot create {}", folder.display()))?;
            let folder = Arc::new(Root::beneath(&folder)?);
            base.extract(&folder)?;
            definitions.push(Definition {
                title: from.rsplit('/').next().unwrap_or(&from).to_owned(),
                known_as: vec![Name::new(&from)],
                tag: Name::new(&from).to_string(),
                context: folder,
                args: base.build_args.clone(),
                labels: BTreeMap::from([("oardocker.base".into(), "true".into())]),
            });
            bases.push(from);
        }
        let tag = workdir.build_tag(&role);
        let mut known_as = vec![Name::new(&workdir.image_name(&role, tag))];
        if role == "base" {
            known_as.push(Name::new(&workdir.image_name(&role, "latest")));
        }
        definitions.push(Definition {
            title: role.clone(),
            known_as,
            tag: workdir.engine_name(&role, tag),
            context,
            args: args.clone(),
            labels: BTreeMap::from([(ENV_LABEL.into(), workdir.env_id.clone())]),
        });
    }
    Ok(definitions)
}

/// Builds an environment's images, and has the engine know those that are ready: what nothing is installed on. Names and
/// ids, in the order of the definitions.
pub async fn build(
    builder: &Builder,
    engine: &dyn Engine,
    workdir: &Workdir,
    of: &[Definition],
) -> Result<Vec<(String, String)>> {
    let before = of_environment(builder.images.as_ref(), &workdir.env_id).await?;
    let built = builder.build(of).await?;
    for role in workdir.roles()?.iter().filter(|role| *role != "base" && workdir.build_tag(role) == "latest") {
        let name = workdir.engine_name(role, "latest");
        let Some(image) = builder.images.image(&name).await? else { continue };
        let same = |(tag, id): &(String, String)| before.iter().any(|r| r.name == *tag && r.id == *id);
        if built.iter().any(|new| new.0 == name && same(new)) {
            // The engine has it, unless somebody took it away.
            engine.load_image(&name, &image).await?;
        } else {
            load(builder, engine, role, &name, &image).await?;
        }
    }
    Ok(built)
}

/// Has the engine know an image that is ready to run; says so where that takes its time.
async fn load(builder: &Builder, engine: &dyn Engine, title: &str, name: &str, image: &Image) -> Result<()> {
    if builder.cancel.is_cancelled() {
        return Err(Error::interrupted());
    }
    let info = engine.info();
    if info.copies_images {
        (builder.listener)(title, &format!("Copying the image into {}", info.name));
    }
    engine.load_image(name, image).await
}

/// Forgets images of an environment, in the engine and in the store. `shared` ones were never in the engine.
pub async fn remove(store: &dyn Images, engine: &dyn Engine, own: &[String], shared: &[String]) -> Result<()> {
    let (mut gone, mut errors) = (shared.to_vec(), Vec::new());
    for name in own {
        match engine.unload_image(name).await {
            Ok(()) => gone.push(name.clone()),
            Err(e) => errors.push(e),
        }
    }
    errors.extend(store.remove_images(&gone).await.err());
    Error::all(errors)
}

/// The script in the images that installs.
pub fn installer(workdir: &Workdir) -> Result<&str> {
    let script = workdir.manifest.install_script.as_deref();
    script.ok_or_else(|| Error::new(format!("environment {} has nothing to install", workdir.env_name)))
}

/// An image with OAR.
#[derive(Debug)]
pub struct Installed {
    /// Its name for the user.
    pub name: String,
    /// Its id.
    pub id: String,
    /// What the script says is on it.
    pub comment: String,
    /// What the script wants its user to know.
    pub notes: Vec<String>,
}

/// What an install script says of its end: what is on the image, and what its user should know.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Said {
    comment: String,
    notes: Vec<String>,
}

impl Said {
    /// As a kept install has it.
    pub(super) fn of(labels: &BTreeMap<String, String>) -> Option<Self> {
        serde_json::from_str(labels.get(SAID_LABEL)?).ok()
    }
}

/// Label of a kept install: what its script said.
const SAID_LABEL: &str = "oardocker.said";

/// The largest label that a containerd takes, in bytes, with room for its name.
const LARGEST_LABEL: usize = 4000;

/// What a script may do that a RUN may not: mount.
pub(super) const INSTALL_CAPABILITY: &str = "CAP_SYS_ADMIN";

/// Where the roles, of which each is installed by itself, leave each other what they need not all make.
const SHARED_INSIDE: &str = "/run/oardocker/install";

/// What it finds mounted in any case.
pub(super) fn install_mounts() -> Vec<Mount> {
    let tmpfs = |target: &str, mode: &str| Mount {
        target: target.into(),
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        options: ["nosuid", "nodev", mode].map(Into::into).to_vec(),
    };
    vec![tmpfs("/tmp", "mode=1777"), tmpfs("/run", "mode=755")]
}

/// A script in an image that installs, as root.
pub(super) fn install_process(image: &Image, args: Vec<String>) -> ProcessSpec {
    ProcessSpec {
        args,
        env: image.env().into_iter().chain(["HOME=/root".to_owned()]).collect(),
        cwd: "/root".into(),
        ..ProcessSpec::default()
    }
}

/// Runs each role's install script on its `:base` image and keeps the result as `:latest`; `again`: also where the same source was
/// installed on the same image before, or one that differs in little.
pub async fn install(
    builder: &Builder,
    engine: &dyn Engine,
    workdir: &Workdir,
    source: &Prepared,
    again: bool,
) -> Result<Vec<Installed>> {
    let script = installer(workdir)?;
    let listing = source.listing()?;
    let job = Job { builder, workdir, source, script, listing: listing.as_ref() };
    let roles = futures::future::try_join_all(workdir.manifest.install_on.iter().map(|role| job.role(role))).await?;
    let mut done = None;
    if !again {
        done = job.found(&roles).await?;
        if done.is_none() {
            done = job.refreshed(&roles).await?;
        }
    }
    let done = if let Some(done) = done {
        done
    } else {
        let shared = builder.scratch_dir("install-")?;
        all_of(roles.iter().map(|role| job.on(role, shared.path()))).await?
    };
    // A tree that has changed meanwhile may be in the images in part: that is not found again.
    let same = listing.is_some() && source.listing()? == listing;
    let mut named = Vec::new();
    for Done { role, image, said, keys } in done {
        let labels = BTreeMap::from([
            (ENV_LABEL.to_owned(), workdir.env_id.clone()),
            (COMMENT_LABEL.to_owned(), said.comment.clone()),
        ]);
        let name = workdir.engine_name(&role, "latest");
        // Loaded first: one that cannot be leaves the role the image that it had.
        load(builder, engine, &role, &name, &image).await?;
        let id = builder.images.put_image(&name, &image, &labels).await?;
        for key in keys.iter().filter(|_| same) {
            keep(builder.images.as_ref(), key, &image, &said).await?;
        }
        let name = workdir.image_name(&role, "latest");
        named.push(Installed { name, id, comment: said.comment, notes: said.notes });
    }
    Ok(named)
}

/// Waits for all, also where one fails: half of the roles with a new OAR and half with an old one is worse than none.
async fn all_of(roles: impl Iterator<Item = impl Future<Output = Result<Done>>>) -> Result<Vec<Done>> {
    futures::future::join_all(roles).await.into_iter().collect()
}

async fn keep(images: &dyn Images, key: &str, image: &Image, said: &Said) -> Result<()> {
    let text = serde_json::to_string(said).doing(|| "cannot write what the script said".into())?;
    if text.len() > LARGEST_LABEL {
        return Ok(());
    }
    cache::keep_with(images, key, image, BTreeMap::from([(SAID_LABEL.to_owned(), text)])).await
}

/// One install.
struct Job<'a> {
    builder: &'a Builder,
    workdir: &'a Workdir,
    source: &'a Prepared,
    script: &'a str,
    listing: Option<&'a Listing>,
}

/// What OAR comes onto.
struct Role {
    name: String,
    image: Image,
    /// What the script is called with.
    argument: String,
    /// What the result of this source is found by.
    exact: String,
    /// What the result of the last complete install of any source is found by.
    anchor: String,
}

/// A role's image with OAR.
struct Done {
    role: String,
    image: Image,
    said: Said,
    /// What it is to be found by from now on.
    keys: Vec<String>,
}

impl Job<'_> {
    async fn role(&self, role: &str) -> Result<Role> {
        let missing = || Error::new(format!("image {} is not there", self.workdir.image_name(role, "base")));
        let name = self.workdir.engine_name(role, "base");
        let image = self.builder.images.image(&name).await?.ok_or_else(missing)?;
        let argument = match &self.source.form {
            Form::File(_) => format!("{SOURCE_INSIDE}/oar.tar.gz"),
            Form::Directory(_) => format!("{SOURCE_INSIDE}/oar"),
            Form::Packages => PACKAGES.to_owned(),
        };
        let key = |source: Option<String>| {
            let on = image.chain_id();
            let all =
                json!({"install": self.script, "argument": argument, "source": source, "on": on, "env": image.env()});
            sha256(all.to_string().as_bytes()).trim_start_matches("sha256:").to_owned()
        };
        let (exact, anchor) = (key(self.listing.map(Listing::digest)), key(None));
        Ok(Role { name: role.to_owned(), image, argument, exact, anchor })
    }

    /// The results of the same source on the same images, if all are there.
    async fn found(&self, roles: &[Role]) -> Result<Option<Vec<Done>>> {
        let mut all = Vec::new();
        for role in roles.iter().filter(|_| self.listing.is_some()) {
            let kept = cache::find(self.builder.images.as_ref(), &role.exact, &role.image).await?;
            let Some((image, said)) = kept.and_then(|(image, labels)| Some((image, Said::of(&labels)?))) else { break };
            all.push(Done { role: role.name.clone(), image, said, keys: Vec::new() });
        }
        if all.len() < roles.len() {
            return Ok(None);
        }
        for done in &all {
            (self.builder.listener)(&done.role, " ---> Using cache");
            (self.builder.listener)(&done.role, &done.said.comment);
        }
        Ok(Some(all))
    }

    /// The results of another source with the files that differ put in their place, if that does.
    async fn refreshed(&self, roles: &[Role]) -> Result<Option<Vec<Done>>> {
        let (Some(now), Form::Directory(_)) = (self.listing, &self.source.form) else { return Ok(None) };
        let found = roles.iter().map(|role| refresh::find(self.builder.images.as_ref(), &role.anchor, &role.image));
        let found: Option<Vec<_>> = futures::future::try_join_all(found).await?.into_iter().collect();
        let Some(anchors) = found else { return Ok(None) };
        let all_anew = |why: &str| roles.iter().take(1).for_each(|role| (self.builder.listener)(&role.name, why));
        let changed = match refresh::changed(&anchors, now) {
            Ok(changed) => changed,
            Err(path) => {
                all_anew(&format!(" ---> Installing all of it, for the sake of {path}"));
                return Ok(None);
            }
        };
        let attempt = all_of(roles.iter().zip(&anchors).map(async |(role, anchor)| {
            let files: Vec<&str> = changed.iter().copied().filter(|path| anchor.plain.contains(*path)).collect();
            let image = refresh::run(self.builder, &role.name, anchor, self.source, &files).await?;
            (self.builder.listener)(&role.name, &anchor.said.comment);
            Ok(Done { role: role.name.clone(), image, said: anchor.said.clone(), keys: vec![role.exact.clone()] })
        }));
        match attempt.await {
            Ok(done) => Ok(Some(done)),
            Err(e) if self.builder.cancel.is_cancelled() => Err(e),
            // A complete install says better what is wrong, if something is.
            Err(e) => {
                all_anew(&format!(" ---> Installing all of it: {e}"));
                Ok(None)
            }
        }
    }

    /// All of it; `shared` is a directory of the roles among themselves, while that lasts.
    async fn on(&self, role: &Role, shared: &Path) -> Result<Done> {
        let (layer, lines) = self.run(role, shared).await?;
        let mut image = role.image.clone();
        image.layers.push(layer);
        let notes = lines.iter().filter_map(|l| l.strip_prefix("note: ")).map(Into::into).collect();
        let said = Said { comment: comment(&lines, &self.workdir.manifest.install_software_name), notes };
        let keys = self.listing.map(|_| vec![role.exact.clone(), role.anchor.clone()]).unwrap_or_default();
        Ok(Done { role: role.name.clone(), image, said, keys })
    }

    /// Runs the script; its layer, and its last lines.
    async fn run(&self, role: &Role, shared: &Path) -> Result<(Layer, Vec<String>)> {
        let (builder, script) = (self.builder, self.script);
        let Role { name: role, image, argument, .. } = role;
        let process = install_process(image, vec![script.to_owned(), argument.clone()]);
        let mut mounts = install_mounts();
        let mut shared = Mount::bind(shared.to_string_lossy(), SHARED_INSIDE, false);
        shared.options.extend(["nosuid", "nodev"].map(Into::into));
        mounts.push(shared);
        if let Form::File(path) | Form::Directory(path) = &self.source.form {
            mounts.push(Mount::bind(path.to_string_lossy(), argument.as_str(), true));
        }
        let step = builder.images.begin_step(image.chain_id().as_deref()).await?;
        let mut said = Vec::new();
        let outcome = async {
            let sandbox = Sandbox { mounts, capabilities: vec![INSTALL_CAPABILITY.into()], ..Sandbox::default() };
            let (code, tail) = builder.run_in(&step, process, sandbox, role).await?;
            if code != 0 {
                return Err(match why(&tail) {
                    Some((error, said)) => Error::new(format!("{} ({role})", error.trim_end_matches(':'))).detail(said),
                    None => Error::new(format!("{script} ended with exit code {code} on {role}")).detail(tail),
                });
            }
            said = tail;
            if let (Some(listing), Form::Directory(_)) = (self.listing, &self.source.form) {
                refresh::note(&step, listing)?;
            }
            Ok(())
        }
        .await;
        let layer = builder.finish(step, outcome).await?;
        Ok((layer, said))
    }
}

/// The comment is the last line on stdout, but a late word of stderr can come behind it.
fn comment(said: &[String], software: &str) -> String {
    let name = format!("{software} ");
    let last = || said.iter().rev().find(|l| !l.trim().is_empty());
    said.iter().rev().find(|l| l.starts_with(&name)).or_else(last).cloned().unwrap_or_default()
}

/// What a script itself says of its end, in one of its last lines, and what it says after that.
fn why(tail: &[String]) -> Option<(&str, Vec<String>)> {
    let (at, error) =
        tail.iter().enumerate().rev().find_map(|(at, line)| Some((at, line.strip_prefix("install failed: ")?)))?;
    Some((error, tail[at + 1..].to_vec()))
}

/// The network of build steps.
#[derive(Debug)]
pub struct StepUplink {
    machine: Machine,
    id: String,
    files: Vec<(PathBuf, String)>,
    proxies: Vec<(String, String)>,
    relays: Mutex<HashMap<String, ProxyRelay>>,
    way: Way,
}

/// How build steps reach the world.
#[derive(Debug)]
enum Way {
    /// A bridge of their own, made when the first step needs it.
    Bridge { network: OnceCell<Network>, next: AtomicU32, indices: Mutex<HashMap<String, u32>> },
    /// Without root.
    Outlet(Outlet),
}

impl StepUplink {
    /// For the builds of one environment.
    pub fn new(machine: &Machine, env_id: &str, scratch: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for (name, text) in [
            ("hosts", net::hosts(&[("build".into(), "127.0.1.1".parse().expect("an address"))])),
            ("resolv.conf", net::resolv_conf()?.text),
        ] {
            let path = scratch.join(name);
            write_file(&path, &text, 0o644)?;
            files.push((path, format!("/etc/{name}")));
        }
        let id = steps_id(env_id);
        let way = if machine.is_podmans() {
            Way::Outlet(Outlet::new(machine, &id))
        } else {
            Way::Bridge { network: OnceCell::new(), next: AtomicU32::new(1), indices: Mutex::default() }
        };
        Ok(Self { machine: machine.clone(), id, files, proxies: net::proxies(), relays: Mutex::default(), way })
    }
}

/// The id under which an environment's build steps have network and cgroups of their own, apart from its cluster's.
pub fn steps_id(env_id: &str) -> String {
    // No environment is called so: their ids are hexadecimal.
    format!("{env_id}s")
}

/// Removes what the build steps of an environment left, also those of a killed oardocker.
pub async fn remove_steps(store: &dyn Images, machine: &Machine, cgroups: &Cgroups, env_id: &str) -> Result<()> {
    let id = steps_id(env_id);
    let mut errors = Vec::new();
    errors.extend(store.recover().await.err());
    if Network::exists(machine, &id) {
        errors.extend(Network::remove(machine, &id).await.err());
    }
    if cgroups.exists(&id) {
        errors.extend(cgroups.remove_patiently(&id).await.err());
    }
    Error::all(errors)
}

#[async_trait]
impl Uplink for StepUplink {
    async fn attach(&self, name: &str) -> Result<PathBuf> {
        let netns = self.plug(name).await?;
        if let Some(relay) = net::relay_proxies(&netns, &self.proxies).await? {
            self.relays.lock().await.insert(name.into(), relay);
        }
        Ok(netns)
    }

    async fn detach(&self, name: &str) -> Result<()> {
        self.relays.lock().await.remove(name);
        self.unplug(name).await
    }

    fn files(&self) -> Vec<(PathBuf, String)> {
        self.files.clone()
    }

    fn variables(&self) -> Vec<(String, String)> {
        self.proxies.clone()
    }
}

impl StepUplink {
    async fn plug(&self, name: &str) -> Result<PathBuf> {
        let (network, next, indices) = match &self.way {
            Way::Outlet(outlet) => return outlet.attach(name).await,
            Way::Bridge { network, next, indices } => (network, next, indices),
        };
        let network = network
            .get_or_try_init(|| async { Network::create(&self.machine, &self.id, &Access::root()).await })
            .await?;
        // Addresses are used once per build; a build has a few hundred steps at most.
        let index = next.fetch_add(1, Ordering::Relaxed);
        indices.lock().await.insert(name.into(), index);
        Ok(network.attach(name, index, None).await?.network)
    }

    async fn unplug(&self, name: &str) -> Result<()> {
        let (network, indices) = match &self.way {
            Way::Outlet(outlet) => return outlet.detach(name).await,
            Way::Bridge { network, indices, .. } => (network, indices),
        };
        let index = indices.lock().await.remove(name);
        match (network.get(), index) {
            (Some(network), Some(index)) => network.detach(name, index).await,
            _ => Ok(()),
        }
    }
}
