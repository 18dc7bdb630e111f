//! What every image store and every engine promises, asked of the fake, of containerd, of Docker and of Podman in the same words: so
//! that what a unit test sees on the fake is what a user sees.

use crate::support::{Engine, require_root};
use async_trait::async_trait;
use oardocker::cgroup::{Cgroups, View};
use oardocker::engine::fake::{Answer, Fake};
use oardocker::engine::io::{Chunk, Session};
use oardocker::engine::select::{self, Backend};
use oardocker::engine::{
    Content, Image, Images, Layer, Mount, NodeImage, NodeSpec, Plug, ProcessSpec, Seed, State, StepNetwork, StepSpec,
    address,
};
use oardocker::error::Result;
use oardocker::host::{Ids, Machine};
use oardocker::image::build::{Builder, Options};
use oardocker::image::layer;
use oardocker::image::name::Name;
use oardocker::image::order::Definition;
use oardocker::image::uplink::Uplink;
use oardocker::net::{Access, Subnet};
use oardocker::rooted::Root;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// As an environment's id.
const ID: &str = "c0117ac7";
const NAME: &str = "c0117ac7.env/oardocker/contract:latest";
const NODE: &str = "oardocker-c0117ac7-node1";

/// Ends with 3 when it is asked to.
const FIRST: &str = "trap 'exit 3' TERM; while :; do sleep 1000 & wait $!; done";
const SAYS: &str = "echo out; echo err >&2; exit 7";

/// A store and an engine, and what they can be asked.
struct Subject {
    backend: Backend,
    dir: tempfile::TempDir,
    /// Whether programs run.
    real: bool,
}

/// What the programs of this contract do.
fn pretended(process: &ProcessSpec) -> Answer {
    match process.args.last().map(String::as_str) {
        Some(FIRST) => Answer { code: 3, ..Answer::default() },
        Some(SAYS) => Answer { code: 7, out: "out\n".into(), err: "err\n".into() },
        _ => Answer::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_of_the_fake() {
    let fake = Arc::new(Fake::with_program(pretended).unwrap());
    let backend = Backend { images: fake.clone(), engine: fake };
    keeps(Subject { backend, dir: tempfile::tempdir().unwrap(), real: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_of_containerd() {
    real(Engine::Containerd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_of_docker() {
    real(Engine::Docker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_of_podman() {
    real(Engine::Podman).await;
}

#[allow(clippy::await_holding_lock, reason = "one test at a time is what it is for")]
async fn real(engine: Engine) {
    require_root();
    let _alone = engine.alone();
    fs::create_dir_all(engine.data_dir()).unwrap();
    let machine = Machine::at(engine.data_dir(), engine.runtime_dir());
    let (backend, _) = select::connect(&machine, &address::parse(&engine.host()).unwrap()).await.unwrap();
    // Layers are on a disk, and not in a tmpfs.
    let dir = tempfile::tempdir_in(engine.data_dir()).unwrap();
    keeps(Subject { backend, dir, real: true }).await;
}

/// The whole contract.
async fn keeps(subject: Subject) {
    // What a killed run of this test left.
    clear(&subject).await;
    let base = base(&subject).await;
    steps(&subject, &base).await;
    images(&subject, &base).await;
    networks(&subject).await;
    nodes(&subject, &base).await;
    clear(&subject).await;
    subject.backend.images.release().await.unwrap();
    subject.backend.images.release().await.unwrap();
}

async fn clear(subject: &Subject) {
    let Backend { images, engine } = &subject.backend;
    images.recover().await.unwrap();
    engine.remove(NODE).await.unwrap();
    engine.remove_network(ID).await.unwrap();
    engine.unload_image(NAME).await.unwrap();
    images.remove_images(&[NAME.to_owned()]).await.unwrap();
    assert!(images.image(NAME).await.unwrap().is_none());
    if subject.real {
        Cgroups::detect(Path::new("/sys/fs/cgroup")).unwrap().remove_patiently(ID).await.unwrap();
    }
}

/// No step of this contract reaches anything.
#[derive(Debug)]
struct NoUplink;

#[async_trait]
impl Uplink for NoUplink {
    async fn attach(&self, _: &str) -> Result<PathBuf> {
        Ok("/proc/self/ns/net".into())
    }
    async fn detach(&self, _: &str) -> Result<()> {
        Ok(())
    }
    fn files(&self) -> Vec<(PathBuf, String)> {
        Vec::new()
    }
    fn variables(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// An image with a shell, where programs run; a builder makes it.
async fn base(subject: &Subject) -> Image {
    let context = subject.dir.path().join("context");
    fs::create_dir_all(&context).unwrap();
    let from = if subject.real { "debian:trixie" } else { "scratch" };
    fs::write(context.join("Dockerfile"), format!("FROM {from}\nWORKDIR /contract\n")).unwrap();
    let builder = Builder {
        images: subject.backend.images.clone(),
        uplink: Arc::new(NoUplink),
        scratch: subject.dir.path().join("scratch"),
        caches: subject.dir.path().join("caches"),
        cgroup: None,
        listener: Arc::new(|title, line| println!("{title} | {line}")),
        options: Options::default(),
        cancel: CancellationToken::new(),
    };
    let definition = Definition {
        title: "contract".into(),
        known_as: vec![Name::new("contract")],
        tag: NAME.into(),
        context: Arc::new(Root::beneath(&context).unwrap()),
        args: BTreeMap::new(),
        labels: BTreeMap::new(),
    };
    builder.build(&[definition]).await.unwrap();
    subject.backend.images.image(NAME).await.unwrap().unwrap()
}

/// Makes the layer of what a step has changed.
async fn layer(subject: &Subject, changes: &Path) -> Layer {
    let blob = subject.dir.path().join("blob");
    let layer = layer::write(changes, &blob, None).unwrap();
    subject.backend.images.put_layer(&layer, &blob).await.unwrap();
    layer
}

async fn steps(subject: &Subject, base: &Image) {
    let images = subject.backend.images.as_ref();
    let below = base.chain_id().unwrap();
    assert!(images.has_chain(&below).await.unwrap());
    assert!(!images.has_chain("sha256:00").await.unwrap());
    assert!(images.begin_step(Some("sha256:00")).await.is_err(), "on layers that are not there");
    // What is below is seen, what is changed is kept; and what is thrown away is not.
    let step = images.begin_step(Some(&below)).await.unwrap();
    assert!(step.root.join("contract").is_dir());
    fs::write(step.root.join("contract/thrown"), "x").unwrap();
    images.abort_step(step.clone()).await.unwrap();
    assert!(!step.root.exists(), "nothing stays of it");
    let step = images.begin_step(Some(&below)).await.unwrap();
    assert!(!step.root.join("contract/thrown").exists());
    fs::write(step.root.join("contract/kept"), "x").unwrap();
    let made = layer(subject, &step.changes).await;
    let chain = images.commit_step(step, &made).await.unwrap();
    assert!(images.has_chain(&chain).await.unwrap());
    let step = images.begin_step(Some(&chain)).await.unwrap();
    assert_eq!(fs::read(step.root.join("contract/kept")).unwrap(), b"x");
    assert_eq!(run(images, &step).await, (7, "errout".into()));
    images.abort_step(step).await.unwrap();
    // A blob is what its digest says.
    let blob = subject.dir.path().join("blob");
    fs::write(&blob, "something else").unwrap();
    let wrong = Layer { digest: format!("sha256:{}", "0".repeat(64)), size: 14, ..made };
    assert!(images.put_layer(&wrong, &blob).await.is_err());
}

/// Runs a program in a step: its code, and what it said, sorted, as two streams come in any order.
async fn run(images: &dyn Images, step: &oardocker::engine::StepRoot) -> (u32, String) {
    let spec = StepSpec {
        process: process(SAYS),
        mounts: Vec::new(),
        network: StepNetwork::At("/proc/self/ns/net".into()),
        cgroup: None,
        capabilities: Vec::new(),
    };
    let (sender, mut chunks) = mpsc::channel(16);
    let listen = async {
        let mut said = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            said.extend(chunk);
        }
        String::from_utf8(said).unwrap()
    };
    let (code, said) = tokio::join!(images.run_step(step, &spec, sender), listen);
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    (code.unwrap(), lines.concat())
}

fn process(line: &str) -> ProcessSpec {
    let args = ["/bin/sh", "-c", line].map(Into::into).to_vec();
    ProcessSpec { args, env: vec!["PATH=/usr/bin:/bin".into()], cwd: "/".into(), ..ProcessSpec::default() }
}

async fn images(subject: &Subject, base: &Image) {
    let images = subject.backend.images.as_ref();
    assert!(images.image("c0117ac7.env/none:latest").await.unwrap().is_none());
    let labels = BTreeMap::from([("oardocker.contract".to_owned(), "yes".to_owned())]);
    let changed = base.labelled("contract", "changed");
    let first = images.put_image(NAME, base, &labels).await.unwrap();
    let second = images.put_image(NAME, &changed, &labels).await.unwrap();
    assert_ne!(first, second);
    let records: Vec<_> = images.images().await.unwrap().into_iter().filter(|record| record.name == NAME).collect();
    assert_eq!(records.len(), 1, "the later one has the name");
    assert_eq!((&records[0].id, &records[0].labels), (&second, &labels));
    let found = images.image(NAME).await.unwrap().unwrap();
    assert_eq!(found.layers, base.layers);
    assert_eq!(found.config.config(), changed.config.config());
    assert_eq!(images.put_image(NAME, &found, &labels).await.unwrap(), second, "what was read is what was written");
    images.remove_images(&["c0117ac7.env/none:latest".to_owned()]).await.unwrap();
    assert!(images.has_chain(&base.chain_id().unwrap()).await.unwrap(), "a name keeps its layers");
}

async fn networks(subject: &Subject) {
    let engine = &subject.backend.engine;
    engine.remove_network(ID).await.unwrap();
    let first = engine.create_network(ID, &Access::root()).await.unwrap();
    // One of the same id is replaced.
    let second = engine.create_network(ID, &Access::root()).await.unwrap();
    assert_eq!(first, second);
    engine.remove_network(ID).await.unwrap();
    engine.remove_network(ID).await.unwrap();
}

fn node(subject: &Subject, image: &Image, subnet: Subnet, cgroups: Option<&Cgroups>) -> NodeSpec {
    let v1 = cgroups.is_some_and(|c| c.layout == oardocker::cgroup::Layout::Legacy);
    NodeSpec {
        id: NODE.into(),
        hostname: "node1".into(),
        image: NodeImage { name: NAME.into(), chain: image.chain_id(), volumes: Vec::new() },
        ids: None,
        process: process(FIRST),
        mounts: Vec::new(),
        seeds: vec![Seed { path: "/etc/hosts", content: Content::Text("10.0.0.1 contract\n".into()) }],
        sysctls: BTreeMap::from([("net.ipv4.ip_default_ttl", "77".to_owned())]),
        plug: Plug { network: ID.into(), subnet, index: 1, ports: Vec::new() },
        cgroup: cgroups.and_then(|c| c.node(ID, "node1")),
        cgroup_view: View { kind: if v1 { "cgroup" } else { "cgroup2" }, controllers: Vec::new() },
        labels: BTreeMap::from([("oardocker.env".to_owned(), ID.to_owned())]),
        console: subject.dir.path().join("console"),
    }
}

async fn state(backend: &Backend) -> Option<State> {
    let found = backend.engine.containers().await.unwrap();
    let found = found.into_iter().find(|c| c.labels.get("oardocker.env").is_some_and(|id| id == ID))?;
    assert_eq!((found.id.as_str(), found.image.as_str()), (NODE, NAME));
    assert_eq!(found.pid > 0, found.state == State::Running);
    Some(found.state)
}

async fn exec(backend: &Backend, line: &str) -> Result<(u32, String, String)> {
    let (sender, mut chunks) = mpsc::channel(16);
    let listen = async {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        while let Some(chunk) = chunks.recv().await {
            match chunk {
                Chunk::Out(bytes) => out.extend(bytes),
                Chunk::Err(bytes) => err.extend(bytes),
            }
        }
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    let process = process(line);
    let (code, (out, err)) = tokio::join!(backend.engine.exec(NODE, &process, Session::output_only(sender)), listen);
    Ok((code?, out, err))
}

async fn nodes(subject: &Subject, image: &Image) {
    let Backend { engine, .. } = &subject.backend;
    let cgroups = subject.real.then(|| Cgroups::detect(Path::new("/sys/fs/cgroup")).unwrap());
    engine.unload_image("c0117ac7.env/none:latest").await.unwrap();
    engine.load_image(NAME, image).await.unwrap();
    engine.load_image(NAME, image).await.unwrap();
    assert!(engine.start(NODE).await.is_err(), "it was not created");
    assert!(exec(&subject.backend, SAYS).await.is_err());
    let subnet = engine.create_network(ID, &Access::root()).await.unwrap();
    if let Some(cgroups) = &cgroups {
        cgroups.create(ID, "node1", None).unwrap();
    }
    let spec = node(subject, image, subnet, cgroups.as_ref());
    engine.create(&spec).await.unwrap();
    assert_eq!(state(&subject.backend).await, Some(State::Created));
    assert!(engine.create(&spec).await.is_err(), "there is one");
    engine.start(NODE).await.unwrap();
    assert_eq!(state(&subject.backend).await, Some(State::Running));
    assert_eq!(exec(&subject.backend, SAYS).await.unwrap(), (7, "out\n".into(), "err\n".into()));
    if subject.real {
        let hosts = exec(&subject.backend, "cat /etc/hosts; hostname; echo kept > /kept").await.unwrap();
        assert_eq!(hosts.1, "10.0.0.1 contract\nnode1\n");
        assert_eq!(exec(&subject.backend, "cat /proc/sys/net/ipv4/ip_default_ttl").await.unwrap().1, "77\n");
    }
    // Who waits hears how it ended; its filesystem stays.
    let ended = async { engine.end_task(NODE, Some((15, Duration::from_secs(20)))).await };
    let (code, ended) = tokio::join!(engine.wait(NODE), ended);
    assert_eq!(code.unwrap(), 3);
    ended.unwrap();
    assert_ne!(state(&subject.backend).await, Some(State::Running));
    engine.end_task(NODE, None).await.unwrap();
    engine.restart(NODE, &spec.console).await.unwrap();
    assert_eq!(state(&subject.backend).await, Some(State::Running));
    if subject.real {
        assert_eq!(exec(&subject.backend, "cat /kept").await.unwrap().1, "kept\n");
    }
    engine.remove(NODE).await.unwrap();
    assert_eq!(state(&subject.backend).await, None);
    engine.remove(NODE).await.unwrap();
    assert!(engine.restart(NODE, &spec.console).await.is_err(), "it is gone");
    assert!(engine.settled(&engine.orphans().unwrap()).await.unwrap());
    engine.require_host_ids().await.unwrap();
    if let Ok((ids, held)) = engine.reserve_ids(ID).await.unwrap() {
        node_of_its_own(subject, &spec, ids).await;
        drop(held);
    }
}

/// One with ids of its own: what it finds is its root's, also in what it has mounted itself.
async fn node_of_its_own(subject: &Subject, spec: &NodeSpec, ids: Ids) {
    let engine = &subject.backend.engine;
    let mut spec = NodeSpec { ids: Some(ids), ..spec.clone() };
    spec.image.volumes = vec!["/run/made".into(), "/opt/made".into()];
    spec.mounts.push(Mount {
        target: "/run".into(),
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        options: vec!["nosuid".into(), "nodev".into(), "mode=755".into()],
    });
    spec.plug.subnet = engine.create_network(ID, &Access::root()).await.unwrap();
    engine.create(&spec).await.unwrap();
    engine.start(NODE).await.unwrap();
    let found = exec(
        &subject.backend,
        "stat -c %u / /etc/hosts /etc/shadow /run/made /opt/made; cut -d' ' -f1- /proc/self/uid_map",
    )
    .await;
    let (code, out, err) = found.unwrap();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(
        (code, words.as_slice()),
        (0, ["0", "0", "0", "0", "0", "0", ids.first.to_string().as_str(), "65536"].as_slice()),
        "{err}"
    );
    let listed = engine.containers().await.unwrap();
    assert_eq!(listed.iter().find(|c| c.id == NODE).unwrap().ids(), Some(ids));
    let (other, _held) = engine.reserve_ids(ID).await.unwrap().unwrap();
    assert_ne!(other, ids, "they are taken");
    engine.remove(NODE).await.unwrap();
}
