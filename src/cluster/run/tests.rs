//! Clusters on the fake engine: what `start` makes, and that whatever fails nothing of it stays. No root is needed.

use super::*;
use crate::cluster::plan::tests::{image, request};
use crate::cluster::{HOST_LABEL, ROLES};
use crate::engine::ProcessSpec;
use crate::engine::fake::{Answer, Fake, Trouble};
use crate::host::{Owners, Plain};
use crate::rooted::Root;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Does nothing that needs root, and can refuse the call of one number, counted from 1.
#[derive(Debug, Default)]
struct NoPowers {
    refused: usize,
    calls: AtomicUsize,
}

impl NoPowers {
    fn call(&self, what: &str) -> Result<()> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if number == self.refused { Err(Error::new(format!("no power: {what}"))) } else { Ok(()) }
    }
}

impl Powers for NoPowers {
    fn disarm(&self, dir: &Path) -> Result<()> {
        self.call(&format!("disarm {}", dir.display()))
    }
    fn pin(&self, _: &OwnedFd, place: &Path, _: &Owners) -> Result<Option<Plain>> {
        self.call(&format!("pin {}", place.display()))?;
        fs::create_dir_all(place).map(|()| None).map_err(|e| Error::new(e.to_string()))
    }
    fn overlay(&self, _: &str, place: &Path) -> Result<()> {
        self.call(&format!("overlay {}", place.display()))
    }
    fn give(&self, _: &fs::File, id: u32) -> Result<()> {
        self.call(&format!("give to {id}"))
    }
}

/// A machine with an environment whose images are built.
struct World {
    dir: tempfile::TempDir,
    fake: Arc<Fake>,
    machine: Machine,
    events: Arc<Mutex<Vec<Event>>>,
    cancel: CancellationToken,
}

/// A server on which everything works.
fn healthy(_: &ProcessSpec) -> Answer {
    Answer::default()
}

impl World {
    async fn new(program: fn(&ProcessSpec) -> Answer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cgroups = dir.path().join("cgroup");
        fs::create_dir_all(cgroups.join("cpuset")).unwrap();
        for file in ["cpuset/tasks", "cpuset/cgroup.procs"] {
            fs::write(cgroups.join(file), "").unwrap();
        }
        for folder in ["env/init-scripts", "src"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("env/init-scripts/nodes_alive.sh"), "").unwrap();
        let fake = Arc::new(Fake::with_program(program).unwrap());
        for role in ROLES {
            let mut made = image(role, &["/sbin/init"]);
            if role == "frontend" {
                made.image.layers.push(home(fake.as_ref(), dir.path()).await);
            }
            fake.put_image(&made.name, &made.image, &BTreeMap::new()).await.unwrap();
        }
        fake.expect(None);
        let machine = Machine::below(dir.path());
        Self { dir, fake, machine, events: Arc::default(), cancel: CancellationToken::new() }
    }

    fn runner(&self) -> Runner {
        self.runner_with(NoPowers::default())
    }

    fn runner_with(&self, powers: NoPowers) -> Runner {
        let events = self.events.clone();
        Runner {
            env_id: "ab12".into(),
            files: Files::new(&self.machine, "ab12"),
            machine: self.machine.clone(),
            powers: Arc::new(powers),
            engine: self.fake.clone(),
            images: self.fake.clone(),
            cgroups: Cgroups::detect(&self.dir.path().join("cgroup")).unwrap(),
            listener: Arc::new(move |event| events.lock().unwrap().push(event)),
            cancel: self.cancel.clone(),
        }
    }

    fn request(&self) -> Request {
        let env_dir = Arc::new(Root::beneath(&self.dir.path().join("env")).unwrap());
        let source = format!("{}:/x:cow", self.dir.path().join("src").display());
        Request { env_dir, volumes: vec![crate::cluster::volume::parse(&source).unwrap()], ..request() }
    }

    async fn start(&self) -> Result<()> {
        self.runner().start(&self.request()).await
    }

    /// Nothing of a cluster is there, in the engine or on the host.
    fn assert_clean(&self, when: &str) {
        assert_eq!(self.fake.left(), Vec::<String>::new(), "{when}");
        let data = self.machine.data_dir();
        let names = |dir: &str| fs::read_dir(data.join(dir)).into_iter().flatten().flatten().count();
        assert_eq!((names("clusters"), names("hosts")), (0, 0), "{when}");
        assert!(!self.dir.path().join("cgroup/cpuset/oardocker").exists(), "{when}");
    }
}

/// A layer with somebody's home.
async fn home(images: &dyn Images, scratch: &Path) -> crate::engine::Layer {
    let step = images.begin_step(None).await.unwrap();
    fs::create_dir_all(step.root.join("home/docker")).unwrap();
    fs::write(step.root.join("home/docker/hello"), "hello").unwrap();
    let blob = scratch.join("blob");
    let layer = crate::image::layer::write(&step.changes, &blob, None).unwrap();
    images.put_layer(&layer, &blob).await.unwrap();
    images.commit_step(step, &layer).await.unwrap();
    layer
}

#[tokio::test]
async fn a_cluster_starts_and_stops() {
    let world = World::new(healthy).await;
    world.start().await.unwrap();
    let calls = world.fake.calls();
    let place = |what: &str| calls.iter().position(|call| call == what).unwrap_or_else(|| panic!("{what}: {calls:?}"));
    assert!(
        place("create_network ab12") < place("create server")
            && place("create node2") < place("start oardocker-ab12-node2")
    );
    assert!(calls.iter().all(|call| !call.starts_with("remove")), "{calls:?}");
    let files = Files::new(&world.machine, "ab12");
    assert_eq!(fs::read_to_string(files.home().join("docker/hello")).unwrap(), "hello");
    assert_eq!(files.nodes().unwrap(), ["node1", "node2"]);
    assert_eq!(files.engine().unwrap().as_deref(), Some("fake"));
    let hosts = containers(world.fake.as_ref(), "ab12").await.unwrap();
    assert_eq!(hosts.keys().collect::<Vec<_>>(), ["frontend", "node1", "node2", "rsyslog", "server"]);
    assert!(hosts.values().all(|c| c.state == State::Running && c.labels.contains_key(HOST_LABEL)));
    let events = std::mem::take(&mut *world.events.lock().unwrap());
    assert_eq!(events.last(), Some(&Event::Ready));
    assert_eq!(events.iter().filter(|e| matches!(e, Event::Booted(_))).count(), 5);
    assert!(world.dir.path().join("cgroup/cpuset/oardocker/ab12/node2").is_dir());
    world.runner().stop(None).await.unwrap();
    world.assert_clean("after stop");
    world.runner().stop(None).await.unwrap();
}

/// How many calls a start makes, of the engine and of root's powers.
async fn counted() -> (Vec<String>, usize) {
    let world = World::new(healthy).await;
    let powers = Arc::new(NoPowers::default());
    let runner = Runner { powers: powers.clone(), ..world.runner() };
    runner.start(&world.request()).await.unwrap();
    (world.fake.calls(), powers.calls.load(Ordering::Relaxed))
}

/// Whether a start can go on without an answer: a host that has booted is not waited for any more.
fn may_be_overheard(call: &str) -> bool {
    call.starts_with("wait ")
}

#[tokio::test]
async fn whatever_an_engine_refuses_nothing_stays() {
    let (calls, _) = counted().await;
    assert!(calls.len() > 25, "{calls:?}");
    let world = World::new(healthy).await;
    for trouble in [Trouble::Fail, Trouble::FailAfter] {
        for number in 1..=calls.len() {
            world.fake.expect(Some(trouble(number)));
            let outcome = world.start().await;
            let call = world.fake.calls().get(number - 1).cloned().unwrap_or_default();
            let when = format!("{:?}: {call}", trouble(number));
            world.fake.expect(None);
            match outcome {
                Ok(()) => {
                    assert!(may_be_overheard(&call), "{when}");
                    world.runner().stop(None).await.unwrap();
                }
                Err(e) => assert!(e.to_string().contains("the fake"), "{when}: {e}"),
            }
            if call.starts_with("abort_step") {
                // A step that cannot be thrown away now is, when its oardocker has ended, by the next one.
                world.fake.recover().await.unwrap();
            }
            world.assert_clean(&when);
        }
    }
}

#[tokio::test]
async fn an_engine_that_goes_away_is_cleaned_up_after_when_it_is_back() {
    let (calls, _) = counted().await;
    let world = World::new(healthy).await;
    for number in 1..=calls.len() {
        world.fake.expect(Some(Trouble::Lose(number)));
        let outcome = world.start().await;
        let when = format!("gone at call {number}: {:?}", world.fake.calls().get(number - 1));
        assert!(outcome.is_err(), "{when}");
        world.fake.expect(None);
        // What the next command does first.
        world.fake.recover().await.unwrap();
        world.runner().stop(None).await.unwrap();
        world.assert_clean(&when);
    }
}

#[tokio::test]
async fn whatever_the_host_refuses_nothing_stays() {
    let (_, powers) = counted().await;
    assert!(powers > 20, "{powers}");
    let world = World::new(healthy).await;
    for refused in 1..=powers {
        let outcome = world.runner_with(NoPowers { refused, ..NoPowers::default() }).start(&world.request()).await;
        assert!(outcome.unwrap_err().to_string().contains("no power"), "{refused}");
        world.assert_clean(&format!("power {refused}"));
    }
    // A place that cannot be written to, cgroups that cannot be made, and a keeper that cannot be run.
    let cgroup = world.dir.path().join("cgroup/cpuset/oardocker");
    fs::write(&cgroup, "").unwrap();
    assert!(world.start().await.unwrap_err().to_string().contains("cannot create cgroup"));
    // What is in the way cannot be taken away either, so the files stay, to tell the next one.
    assert!(Files::new(&world.machine, "ab12").engine().unwrap().is_some());
    fs::remove_file(&cgroup).unwrap();
    world.runner().stop(None).await.unwrap();
    world.assert_clean("no cgroups");
    let runner = Runner { machine: world.machine.clone().with_program("/nonexistent"), ..world.runner() };
    let error = runner.start(&world.request()).await.unwrap_err();
    assert!(error.to_string().contains("cannot start what wakes nodes"), "{error}");
    world.assert_clean("no keeper");
    let source = world.dir.path().join("src");
    fs::remove_dir(&source).unwrap();
    assert!(world.start().await.unwrap_err().to_string().contains("cannot share"));
    world.assert_clean("no source");
}

#[tokio::test]
async fn an_interrupted_start_is_undone_wherever_it_is() {
    let (calls, _) = counted().await;
    for number in 1..=calls.len() {
        let world = World::new(healthy).await;
        let cancel = world.cancel.clone();
        world.fake.at(number, move || cancel.cancel());
        let outcome = world.start().await;
        let when = format!("interrupted at call {number}: {:?}", world.fake.calls().get(number - 1));
        assert_eq!(outcome.unwrap_err().exit_code(), 130, "{when}");
        world.assert_clean(&when);
    }
}

#[tokio::test]
async fn a_host_that_does_not_boot_is_named() {
    let world = World::new(healthy).await;
    world.fake.ends("oardocker-ab12-node2", 7);
    let error = world.start().await.unwrap_err();
    assert_eq!(error.to_string(), "node2 ended while booting, with code 7");
    world.assert_clean("a host has ended");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_says_nothing_is_waited_for_and_named() {
    let world = World::new(healthy).await;
    world.fake.keeps_silent("oardocker-ab12-rsyslog");
    let error = world.start().await.unwrap_err();
    assert_eq!(error.to_string(), "rsyslog did not come up within 120 s");
    world.assert_clean("a host is silent");
}

#[tokio::test]
async fn who_does_not_wait_gets_hosts_that_boot() {
    let world = World::new(healthy).await;
    world.fake.keeps_silent("oardocker-ab12-server");
    world.runner().start(&Request { wait: false, ..world.request() }).await.unwrap();
    assert_eq!(containers(world.fake.as_ref(), "ab12").await.unwrap().len(), 5);
    assert!(!world.events.lock().unwrap().contains(&Event::Ready));
    world.runner().stop(None).await.unwrap();
    world.assert_clean("after stop");
}

#[tokio::test]
async fn what_is_on_the_host_has_the_modes_of_the_plan() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new(healthy).await;
    let request = world.request();
    let runner = world.runner();
    runner.start(&request).await.unwrap();
    let images = facts::images(world.fake.as_ref(), &request).await.unwrap();
    let subnet = crate::net::Subnet::first();
    let facts = Facts::collect(&request, &world.machine, &runner.cgroups, images, subnet, None).unwrap();
    let contents = plan::plan(&request, &facts).contents;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    // /home is as the image has it.
    let dirs = contents.dirs.iter().filter(|dir| dir.path != runner.files.home());
    dirs.for_each(|dir| assert_eq!(mode(&dir.path), dir.mode, "{}", dir.path.display()));
    contents.files.iter().for_each(|file| assert_eq!(mode(&file.path), file.mode, "{}", file.path.display()));
    // Nobody else comes as far as that.
    assert_eq!(mode(&world.machine.data_dir().join("clusters")), 0o700);
    assert_eq!(mode(runner.files.dir()), 0o700);
    let env = world.dir.path().join("env");
    assert_eq!(mode(&env.join("tmp")), 0o700);
    assert_eq!(mode(&env.join("tmp/node/root/.bash_history")), 0o600);
}

#[tokio::test(start_paused = true)]
async fn hosts_are_made_side_by_side() {
    let (calls, _) = counted().await;
    let world = World::new(healthy).await;
    let slow = calls.iter().position(|call| call == "create node1").unwrap() + 1;
    world.fake.expect(Some(Trouble::Delay(slow, Duration::from_secs(30))));
    world.start().await.unwrap();
    let calls = world.fake.calls();
    let place = |what: &str| calls.iter().position(|call| call == what).unwrap();
    assert!(place("start oardocker-ab12-node2") < place("start oardocker-ab12-node1"), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn the_server_is_made_first_where_start_waits_for_it() {
    for old in [false, true] {
        let (calls, _) = counted().await;
        let world = World::new(healthy).await;
        if old {
            fs::remove_file(world.dir.path().join("env/init-scripts/nodes_alive.sh")).unwrap();
        }
        let slow = calls.iter().position(|call| call == "create server").unwrap() + 1;
        world.fake.expect(Some(Trouble::Delay(slow, Duration::from_secs(30))));
        world.start().await.unwrap();
        let calls = world.fake.calls();
        let place = |what: &str| calls.iter().position(|call| call == what).unwrap();
        // In folders of the Python tool the nodes have to be up when OAR looks for them.
        assert_eq!(place("create node1") < place("start oardocker-ab12-server"), old, "{calls:?}");
    }
}

/// A server whose OAR does not work.
fn broken(process: &ProcessSpec) -> Answer {
    let asked = process.args.iter().any(|arg| arg == "wait_alive.sh");
    if asked { Answer { err: "oar.log: no\nline 2\n".into(), code: 1, ..Answer::default() } } else { Answer::default() }
}

#[tokio::test]
async fn a_cluster_whose_oar_is_broken_is_left_up() {
    let world = World::new(broken).await;
    let error = world.start().await.unwrap_err();
    assert!(error.hints().iter().any(|hint| hint.contains("left up")), "{error}");
    assert_eq!(error.details(), ["oar.log: no", "line 2"]);
    assert_eq!(containers(world.fake.as_ref(), "ab12").await.unwrap().len(), 5);
    // Nobody restarted the server: it may be so on purpose.
    world.runner().reset(&["node1".into()], Duration::from_secs(1)).await.unwrap();
    assert!(matches!(world.events.lock().unwrap().last(), Some(Event::Note(text)) if text.ends_with(": oar.log: no")));
    let error = world.runner().reset(&["server".into()], Duration::from_secs(1)).await.unwrap_err();
    assert!(error.to_string().contains("OAR's server does not work"), "{error}");
    world.runner().stop(None).await.unwrap();
    world.assert_clean("after stop");
}

#[tokio::test]
async fn reset_restarts_the_hosts_that_it_is_asked_to() {
    let world = World::new(healthy).await;
    world.start().await.unwrap();
    world.fake.expect(None);
    let names = ["node1".to_owned(), "node2".into()];
    world.runner().reset(&names, Duration::from_secs(1)).await.unwrap();
    let all = world.fake.calls();
    let restarted: Vec<_> = all.iter().filter(|call| call.starts_with("restart ")).collect();
    assert_eq!(restarted.len(), 2, "{all:?}");
    // Each step may fail: the others are restarted all the same, the error is told, and `stop` takes all away.
    for number in 1..=all.len() {
        world.fake.expect(Some(Trouble::Fail(number)));
        let outcome = world.runner().reset(&names, Duration::from_secs(1)).await;
        let calls = world.fake.calls();
        world.fake.expect(None);
        if outcome.is_ok() {
            assert!(may_be_overheard(&calls[number - 1]) || calls[number - 1].contains("journalctl"), "{calls:?}");
        }
        // What could not be done is done by the next one.
        world.runner().reset(&names, Duration::from_secs(1)).await.unwrap();
    }
    world.runner().stop(None).await.unwrap();
    world.assert_clean("after stop");
}

#[tokio::test]
async fn whatever_fails_of_a_stop_the_next_one_does() {
    let world = World::new(healthy).await;
    world.start().await.unwrap();
    world.fake.expect(None);
    world.runner().stop(Some(&[])).await.unwrap();
    let calls = world.fake.calls().len();
    for trouble in [Trouble::Fail, Trouble::FailAfter, Trouble::Lose] {
        for number in 1..=calls {
            world.fake.expect(None);
            world.start().await.unwrap();
            world.fake.expect(Some(trouble(number)));
            let outcome = world.runner().stop(Some(&[])).await;
            let when = format!("{:?}: {:?}", trouble(number), world.fake.calls().get(number - 1));
            world.fake.expect(None);
            if outcome.is_ok() {
                world.assert_clean(&when);
            } else {
                // The files tell the next one where the rest is.
                assert!(Files::new(&world.machine, "ab12").engine().unwrap().is_some(), "{when}");
                world.runner().stop(Some(&[])).await.unwrap();
                world.assert_clean(&when);
            }
        }
    }
}

#[tokio::test]
async fn the_cluster_of_another_engine_is_not_touched() {
    let world = World::new(healthy).await;
    world.start().await.unwrap();
    let files = Files::new(&world.machine, "ab12");
    fs::write(files.path("engine"), "unix:///other.sock").unwrap();
    world.fake.expect(None);
    let error = world.runner().stop(None).await.unwrap_err();
    assert!(error.to_string().contains("runs on another engine: unix:///other.sock, not fake"), "{error}");
    assert!(world.fake.calls().is_empty());
}
