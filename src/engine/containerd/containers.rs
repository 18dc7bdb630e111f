//! Nodes: containers, and their tasks.

use super::images::system_time;
use super::streams::Fifos;
use super::{Containerd, SNAPSHOTTER, ids, managed, snapshots};
use crate::engine::io::Session;
use crate::engine::{ContainerInfo, Content, Engine, EngineInfo, IdsOrWhy, Image, NodeSpec, ProcessSpec, State, oci};
use crate::error::{Doing as _, Error, Result};
use crate::host::Ids;
use crate::net::{Access, Subnet};
use crate::rooted::Root;
use async_trait::async_trait;
use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::snapshots::MountsRequest;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest, DeleteTaskRequest,
    GetContainerRequest, KillRequest, ListContainersRequest, ListTasksRequest, StartRequest, WaitRequest,
};
use containerd_client::types::Mount;
use containerd_client::types::v1::Status as TaskStatus;
use prost_types::Any;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::sync::mpsc;
use tonic::Code;

const RUNTIME: &str = "io.containerd.runc.v2";
const SIGKILL: i32 = 9;

/// How long containerd may take to give up a task that nobody waits for, at most.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// Where the standard streams of a first process go.
pub(super) enum Stdio<'a> {
    /// Appended to a file by the shim, so that it outlives us.
    Log(&'a Path),
    /// Both streams, chunk by chunk; the channel closes when the process has closed them.
    Chunks(mpsc::Sender<Vec<u8>>),
}

#[async_trait]
impl Engine for Containerd {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    async fn load_image(&self, _: &str, _: &Image) -> Result<()> {
        // It is the image store as well, and the layers are unpacked snapshots already: nothing is left to prepare.
        Ok(())
    }

    async fn unload_image(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn create_network(&self, id: &str, access: &Access) -> Result<Subnet> {
        self.make_network(id, access).await
    }

    async fn remove_network(&self, id: &str) -> Result<()> {
        self.drop_network(id).await
    }

    async fn reserve_ids(&self, id: &str) -> Result<IdsOrWhy> {
        self.free_ids(id).await
    }

    async fn create(&self, spec: &NodeSpec) -> Result<()> {
        let namespaces = self.plug_in(spec).await?;
        self.client.hold_lease().await?;
        let doing = || format!("cannot create container {}", spec.id);
        let mounts = snapshots::prepare(&self.client, &spec.id, spec.image.chain.as_deref()).await.doing(doing)?;
        let labels = spec.all_labels().into_iter().collect();
        if let Some(ids) = spec.ids {
            ids::give_top(&mounts, ids).doing(doing)?;
        }
        let mut container = Container {
            image: spec.image.name.clone(),
            snapshotter: SNAPSHOTTER.into(),
            snapshot_key: spec.id.clone(),
            ..container(&spec.id, labels, &oci::node(spec, Path::new("rootfs"), &namespaces)?).doing(doing)?
        };
        if let (Some(ids), Some(runtime)) = (spec.ids, &mut container.runtime) {
            runtime.options = Some(ids::options(ids));
        }
        self.client.containers().create(CreateContainerRequest { container: Some(container) }).await.doing(doing)?;
        let pid = self.boot(&spec.id, spec.ids, mounts, &spec.console).await.doing(doing)?;
        furnish(pid, spec).doing(doing)
    }

    async fn require_host_ids(&self) -> Result<()> {
        if self.machine.delegated_cgroup().is_none() {
            return Ok(());
        }
        Err(Error::new("without root nodes always have a user namespace").hint("leave --userns=off out"))
    }

    async fn cgroup(&self, _: &str) -> Result<Option<String>> {
        Ok(None)
    }

    async fn start(&self, id: &str) -> Result<()> {
        let request = StartRequest { container_id: id.into(), exec_id: String::new() };
        self.client.tasks().start(request).await.map(drop).doing(|| format!("cannot start container {id}"))
    }

    async fn wait(&self, id: &str) -> Result<u32> {
        let request = WaitRequest { container_id: id.into(), exec_id: String::new() };
        Ok(self
            .client
            .ends()
            .wait(request)
            .await
            .doing(|| format!("cannot wait for container {id}"))?
            .into_inner()
            .exit_status)
    }

    async fn end_task(&self, id: &str, grace: Option<(i32, Duration)>) -> Result<()> {
        let ended = self.wait(id);
        tokio::pin!(ended);
        if let Some((polite, patience)) = grace {
            self.signal(id, "", polite).await?;
            if tokio::time::timeout(patience, &mut ended).await.is_ok() {
                return self.delete_task(id).await;
            }
        }
        self.signal(id, "", SIGKILL).await?;
        // A task that was never started has nothing to wait for; deleting tells.
        let _ = tokio::time::timeout(Duration::from_secs(10), ended).await;
        self.delete_task(id).await
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let snapshot = match self.client.containers().get(GetContainerRequest { id: id.into() }).await {
            Ok(answer) => answer.into_inner().container.is_some_and(|c| !c.snapshot_key.is_empty()),
            // A killed oardocker got no further than the snapshot.
            Err(status) if status.code() == Code::NotFound => {
                ids::forget(&self.machine, id);
                return snapshots::remove(&self.client, id).await;
            }
            Err(status) => return Err(status).doing(|| format!("cannot look up container {id}")),
        };
        let task = self.has_task(id).await;
        match self.end_task(id, None).await {
            Err(e) if self.has_task(id).await => return Err(e),
            _ => {}
        }
        match self.client.containers().delete(DeleteContainerRequest { id: id.into() }).await {
            Err(status) if status.code() != Code::NotFound => {
                return Err(status).doing(|| format!("cannot remove container {id}"));
            }
            _ => {}
        }
        if snapshot {
            snapshots::remove(&self.client, id).await?;
        }
        let (id, machine) = (id.to_owned(), self.machine.clone());
        let settle = move || {
            ids::forget(&machine, &id);
            unmounted(&id);
            if !task {
                end_shim(&id);
            }
        };
        tokio::task::spawn_blocking(settle).await.doing(|| "cannot watch the mounts".into())
    }

    async fn containers(&self) -> Result<Vec<ContainerInfo>> {
        let doing = || "cannot list containers of containerd".to_owned();
        let containers = self
            .client
            .containers()
            .list(ListContainersRequest { filters: Vec::new() })
            .await
            .doing(doing)?
            .into_inner()
            .containers;
        let tasks =
            self.client.tasks().list(ListTasksRequest { filter: String::new() }).await.doing(doing)?.into_inner().tasks;
        // containerd 1.6 names the container in `id`, newer ones in `container_id` too.
        let tasks: HashMap<_, _> = tasks.into_iter().map(|t| (t.id.clone(), t)).collect();
        Ok(containers
            .into_iter()
            .map(|c| {
                let task = tasks.get(&c.id);
                let state = match task.map(containerd_client::types::v1::Process::status) {
                    Some(TaskStatus::Running | TaskStatus::Paused | TaskStatus::Pausing) => State::Running,
                    Some(TaskStatus::Stopped) => State::Exited(task.map_or(0, |t| t.exit_status)),
                    _ => State::Created,
                };
                ContainerInfo {
                    pid: task.filter(|_| state == State::Running).map_or(0, |t| t.pid),
                    state,
                    image: c.image,
                    created: c.created_at.map_or(UNIX_EPOCH, system_time),
                    labels: c.labels.into_iter().collect(),
                    id: c.id,
                }
            })
            .collect())
    }

    async fn restart(&self, id: &str, console: &Path) -> Result<()> {
        let request = MountsRequest { snapshotter: SNAPSHOTTER.into(), key: id.into() };
        let mounts = self
            .client
            .snapshots()
            .mounts(request)
            .await
            .doing(|| format!("cannot find the filesystem of container {id}"))?
            .into_inner()
            .mounts;
        let ids = self.ids_of(id).await?;
        self.boot(id, ids, mounts, console).await.doing(|| format!("cannot restart container {id}"))?;
        self.start(id).await
    }

    async fn exec(&self, id: &str, process: &ProcessSpec, session: Session) -> Result<u32> {
        self.run_session(id, process, session).await
    }

    fn orphans(&self) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    async fn settled(&self, _: &[u32]) -> Result<bool> {
        // It gives up what a client asked for that is gone, and removing a container waits for that.
        Ok(true)
    }

    async fn retire(&self) -> Result<()> {
        if self.managed { managed::shut_down(&self.machine) } else { Ok(()) }
    }
}

impl Containerd {
    /// Makes a node's task, on layers that its own ids have where it has some. The process waits to be started.
    async fn boot(&self, id: &str, ids: Option<Ids>, mounts: Vec<Mount>, console: &Path) -> Result<u32> {
        let Some(ids) = ids else { return self.create_task(id, mounts, Stdio::Log(console)).await };
        let shown = ids::show(&self.machine, id, ids, mounts).await?;
        let pid = self.create_task(id, shown.mounts.clone(), Stdio::Log(console)).await;
        // The overlay has them by now.
        drop(shown);
        // Without root there is no going without.
        pid.map_err(|e| {
            if ids.are_a_user_s() {
                return e;
            }
            e.hint(
                "user namespaces need runc 1.1 or newer, and directories above containerd's state that others may pass through; \
                 without them: oardocker start --userns=off",
            )
        })
    }

    /// The process id of the task, which waits to be started.
    pub(super) async fn create_task(&self, id: &str, rootfs: Vec<Mount>, io: Stdio<'_>) -> Result<u32> {
        let mut request = CreateTaskRequest { container_id: id.into(), rootfs, ..CreateTaskRequest::default() };
        let fifos = match io {
            Stdio::Log(path) => {
                request.stdout = format!("file://{}", path.display());
                request.stderr.clone_from(&request.stdout);
                None
            }
            Stdio::Chunks(to) => {
                let fifos = Fifos::create(&self.machine)?;
                request.stdout = fifos.text("stdout");
                request.stderr = fifos.text("stderr");
                let readers = [
                    fifos.reader("stdout", Arc::default(), std::convert::identity, to.clone()),
                    fifos.reader("stderr", Arc::default(), std::convert::identity, to),
                ];
                Some((fifos, readers))
            }
        };
        let outcome = self.client.tasks().create(request).await;
        if let Some((fifos, readers)) = fifos {
            if outcome.is_err() {
                fifos.unblock();
            }
            tokio::spawn(async move {
                futures::future::join_all(readers).await;
                drop(fifos);
            });
        }
        outcome.map(|answer| answer.into_inner().pid).doing(|| "the runtime refused it".into())
    }

    async fn signal(&self, id: &str, exec_id: &str, signal: i32) -> Result<()> {
        let request =
            KillRequest { container_id: id.into(), exec_id: exec_id.into(), signal: signal as u32, all: false };
        match self.client.tasks().kill(request).await {
            Ok(_) => Ok(()),
            // It has ended already.
            Err(status) if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) => Ok(()),
            Err(status) => Err(status).doing(|| format!("cannot send signal {signal} to container {id}")),
        }
    }

    async fn delete_task(&self, id: &str) -> Result<()> {
        match self.client.tasks().delete(DeleteTaskRequest { container_id: id.into() }).await {
            Err(status) if status.code() != Code::NotFound => {
                Err(status).doing(|| format!("cannot end container {id}"))
            }
            _ => Ok(()),
        }
    }

    async fn has_task(&self, id: &str) -> bool {
        let Ok(answer) = self.client.tasks().list(ListTasksRequest { filter: String::new() }).await else {
            return true;
        };
        answer.into_inner().tasks.iter().any(|t| t.id == id || t.container_id == id)
    }
}

/// Puts a container's own files in its filesystem, and makes the directories that its image calls volumes. Its first process, `pid`,
/// is there and waits to become its program.
fn furnish(pid: u32, spec: &NodeSpec) -> Result<()> {
    let root = Root::open(Path::new(&format!("/proc/{pid}/root")))?.given_to(spec.ids.map_or(0, |ids| ids.first));
    for volume in &spec.image.volumes {
        // In what the node itself has mounted there are only its own accounts.
        let made = root.make_dir(Path::new(volume)).map(drop);
        made.or_else(|e| {
            spec.ids.map_or(Err(e), |ids| ids::as_root_of(ids, || root.make_dir(Path::new(volume)).map(drop)))
        })?;
    }
    spec.seeds.iter().try_for_each(|seed| match &seed.content {
        Content::Text(text) => root.replace(Path::new(seed.path), text.as_bytes(), 0o644),
        Content::Link(target) => root.link(Path::new(seed.path), Path::new(target)),
    })
}

/// What containerd keeps of a container, but for its filesystem.
pub(super) fn container(id: &str, labels: HashMap<String, String>, bundle: &Value) -> Result<Container> {
    let value = serde_json::to_vec(bundle).doing(|| "bad spec".into())?;
    Ok(Container {
        id: id.into(),
        labels,
        runtime: Some(Runtime { name: RUNTIME.into(), options: None }),
        spec: Some(Any { type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(), value }),
        ..Container::default()
    })
}

/// Ends the shim of a container without a task: containerd forgets one whose creator was killed in the middle.
fn end_shim(id: &str) {
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = command.split(|b| *b == 0).collect();
        let shim = words.first().is_some_and(|program| program.ends_with(b"containerd-shim-runc-v2"));
        let has = |name: &str, value: &str| words.windows(2).any(|w| w == [name.as_bytes(), value.as_bytes()]);
        if shim && has("-namespace", super::NAMESPACE) && has("-id", id) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Waits until nothing of a container is mounted: a task whose creator was killed in the middle is given up by containerd
/// some moments after we have removed all that it knows of it.
fn unmounted(id: &str) {
    use std::os::fd::AsFd as _;
    let deadline = Instant::now() + GIVEN_UP;
    let Ok(mut mounts) = std::fs::File::open("/proc/self/mounts") else { return };
    loop {
        let mut text = String::new();
        let read = mounts.rewind().and_then(|()| mounts.read_to_string(&mut text));
        let left = deadline.saturating_duration_since(Instant::now());
        if read.is_err() || left.is_zero() || !text.contains(&format!("/{id}/rootfs ")) {
            return;
        }
        // The kernel wakes us when any mount changes.
        let mut fds = [nix::poll::PollFd::new(mounts.as_fd(), nix::poll::PollFlags::POLLPRI)];
        let _ = nix::poll::poll(&mut fds, nix::poll::PollTimeout::from(left.as_millis().min(1000) as u16));
    }
}
