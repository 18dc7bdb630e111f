//! Snapshots: unpacked layers, and the writable roots of build steps, which are mounted on the host.
//!
//! ```text
//! <runtime dir>/steps/<key>/lock    held by the oardocker that builds; free means: left over by a killed one
//!                          /root    the mounted tree
//! ```

use super::client::Client;
use super::{LAYER, SNAPSHOTTER};
use crate::engine::host::runtime_dir;
use crate::engine::{Layer, StepRoot};
use crate::error::{Context as _, Error, Result};
use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::types::{Descriptor, Mount};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tonic::Code;

/// Locks of the steps of this process, by key.
static HELD: Mutex<Vec<(String, Flock<File>)>> = Mutex::new(Vec::new());

pub(super) async fn exists(client: &Client, name: &str) -> Result<bool> {
    let request = StatSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: name.into() };
    match client.snapshots().stat(request).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status).doing(|| format!("cannot look up snapshot {name}")),
    }
}

/// A new writable snapshot.
pub(super) async fn prepare(client: &Client, key: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
    let request = PrepareSnapshotRequest {
        snapshotter: SNAPSHOTTER.into(),
        key: key.into(),
        parent: parent.unwrap_or_default().into(),
        labels: HashMap::new(),
    };
    let answer = client.snapshots().prepare(request).await.doing(|| format!("cannot prepare snapshot {key}"))?;
    Ok(answer.into_inner().mounts)
}

pub(super) async fn remove(client: &Client, key: &str) -> Result<()> {
    let request = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() };
    match client.snapshots().remove(request).await {
        Err(status) if status.code() != Code::NotFound => Err(status).doing(|| format!("cannot remove snapshot {key}")),
        _ => Ok(()),
    }
}

async fn commit(client: &Client, key: &str, name: &str) -> Result<()> {
    let request = CommitSnapshotRequest {
        snapshotter: SNAPSHOTTER.into(),
        name: name.into(),
        key: key.into(),
        labels: HashMap::new(),
    };
    match client.snapshots().commit(request).await {
        Ok(_) => Ok(()),
        // Another build made the very same layer at the same time.
        Err(status) if status.code() == Code::AlreadyExists => remove(client, key).await,
        Err(status) => Err(status).doing(|| format!("cannot commit snapshot {name}")),
    }
}

/// Lets containerd unpack a stored layer.
pub(super) async fn unpack(client: &Client, layer: &Layer, parent: Option<&str>) -> Result<String> {
    client.hold_lease().await?;
    let name = crate::engine::chain_id(parent.into_iter().chain([layer.diff_id.as_str()])).expect("one layer at least");
    if exists(client, &name).await? {
        return Ok(name);
    }
    let key = new_key("unpack");
    let mounts = prepare(client, &key, parent).await?;
    let diff = Descriptor {
        media_type: LAYER.into(),
        digest: layer.digest.clone(),
        size: layer.size as i64,
        annotations: HashMap::new(),
    };
    let request = ApplyRequest { diff: Some(diff), mounts, payloads: HashMap::new(), sync_fs: false };
    let applied = client.diff().apply(request).await.doing(|| format!("cannot unpack layer {}", layer.digest));
    let found = match applied {
        Ok(answer) => answer.into_inner().applied.map(|d| d.digest).unwrap_or_default(),
        Err(e) => {
            let _ = remove(client, &key).await;
            return Err(e);
        }
    };
    if found != layer.diff_id {
        let _ = remove(client, &key).await;
        return Err(Error::new(format!("layer {} unpacks to {found}, not to {}", layer.digest, layer.diff_id)));
    }
    commit(client, &key, &name).await?;
    Ok(name)
}

pub(super) async fn begin_step(client: &Client, parent: Option<&str>) -> Result<StepRoot> {
    client.hold_lease().await?;
    let key = new_key("step");
    let dir = step_dir(&key);
    let root = dir.join("root");
    fs::create_dir_all(&root).doing(|| format!("cannot create {}", root.display()))?;
    hold(&key)?;
    let begun = async {
        let mounts = prepare(client, &key, parent).await?;
        let changes = changes_dir(&mounts)?;
        mount_on_host(&mounts, &root)?;
        Ok(StepRoot { key: key.clone(), root: root.clone(), changes, parent: parent.map(Into::into) })
    }
    .await;
    if begun.is_err() {
        let _ = abort_step(client, &key).await;
    }
    begun
}

pub(super) async fn commit_step(client: &Client, step: StepRoot, layer: &Layer) -> Result<String> {
    let name = crate::engine::chain_id(step.parent.iter().chain([&layer.diff_id])).expect("one layer at least");
    unmount(&step.root)?;
    commit(client, &step.key, &name).await?;
    forget(&step.key)?;
    Ok(name)
}

pub(super) async fn abort_step(client: &Client, key: &str) -> Result<()> {
    unmount(&step_dir(key).join("root"))?;
    remove(client, key).await?;
    forget(key)
}

/// The steps whose oardocker is gone; with `own`, those of this process count as well.
pub(super) fn abandoned(own: bool) -> Vec<String> {
    if own {
        HELD.lock().expect("no panics under this lock").clear();
    }
    let entries = fs::read_dir(runtime_dir().join("steps")).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let lock = File::open(entry.path().join("lock"));
            lock.is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok())
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn new_key(kind: &str) -> String {
    format!("oardocker-{kind}-{}-{:08x}", std::process::id(), rand::random::<u32>())
}

fn step_dir(key: &str) -> PathBuf {
    runtime_dir().join("steps").join(key)
}

fn hold(key: &str) -> Result<()> {
    let path = step_dir(key).join("lock");
    let file = File::create(&path).doing(|| format!("cannot create {}", path.display()))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| e)
        .doing(|| format!("cannot lock {}", path.display()))?;
    HELD.lock().expect("no panics under this lock").push((key.to_owned(), lock));
    Ok(())
}

fn forget(key: &str) -> Result<()> {
    let dir = step_dir(key);
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).doing(|| format!("cannot remove {}", dir.display()));
        }
        _ => {}
    }
    HELD.lock().expect("no panics under this lock").retain(|(k, _)| k != key);
    Ok(())
}

fn unmount(root: &Path) -> Result<()> {
    match umount2(root, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(nix::Error::EBUSY) => {
            // Something on the host looks into it; detached, it goes when that ends.
            umount2(root, MntFlags::MNT_DETACH).doing(|| format!("cannot unmount {}", root.display()))
        }
        Err(e) => Err(e).doing(|| format!("cannot unmount {}", root.display())),
    }
}

fn changes_dir(mounts: &[Mount]) -> Result<PathBuf> {
    match mounts {
        [m] if m.r#type == "bind" => Ok(PathBuf::from(&m.source)),
        [m] if m.r#type == "overlay" => m
            .options
            .iter()
            .find_map(|o| o.strip_prefix("upperdir="))
            .map(PathBuf::from)
            .ok_or_else(|| Error::new("containerd prepared an overlay without an upper directory")),
        _ => {
            Err(Error::new(format!("containerd's {SNAPSHOTTER} snapshotter asked for a mount that is not understood")))
        }
    }
}

/// Mounts what containerd prepared. Lower directories go by file descriptor: their paths would not fit in the one page
/// that mount(2) reads.
fn mount_on_host(mounts: &[Mount], root: &Path) -> Result<()> {
    let doing = || format!("cannot mount {}", root.display());
    let [m] = mounts else { return Err(Error::new("one mount expected")).doing(doing) };
    if m.r#type == "bind" {
        return mount(Some(m.source.as_str()), root, None::<&str>, MsFlags::MS_BIND, None::<&str>).doing(doing);
    }
    let mut held = Vec::new();
    let mut short = |path: &str| -> Result<String> {
        let dir = File::open(path).doing(|| format!("cannot open {path}"))?;
        let name = format!("/proc/self/fd/{}", dir.as_raw_fd());
        held.push(dir);
        Ok(name)
    };
    let mut data = Vec::new();
    for option in &m.options {
        data.push(match option.strip_prefix("lowerdir=") {
            Some(lower) => {
                let dirs = lower.split(':').map(&mut short).collect::<Result<Vec<_>>>()?;
                format!("lowerdir={}", dirs.join(":"))
            }
            None => option.clone(),
        });
    }
    mount(Some("overlay"), root, Some("overlay"), MsFlags::empty(), Some(data.join(",").as_str())).doing(doing)
}
