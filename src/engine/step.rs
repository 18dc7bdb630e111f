//! Build steps on the host: a lock that tells whether their oardocker lives, and a mounted tree.
//!
//! ```text
//! <runtime dir>/steps/<key>/lock    held by the oardocker that builds; free means: left over by a killed one
//!                          /root    the mounted tree
//! ```

use crate::error::{Context as _, Result};
use crate::host::{is_rootless, runtime_dir};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Locks of the steps of this process, by key.
static HELD: Mutex<Vec<(String, Flock<File>)>> = Mutex::new(Vec::new());

/// Who makes a step, which is who can throw it away: each has parts of it elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) enum Maker {
    Containerd,
    Store,
}

impl Maker {
    fn prefix(self) -> &'static str {
        match self {
            Self::Containerd => "oardocker-step-",
            Self::Store => "oardocker-store-",
        }
    }

    /// A name for a step that no other has.
    pub(super) fn new_key(self) -> String {
        format!("{}{}-{:08x}", self.prefix(), std::process::id(), rand::random::<u32>())
    }
}

/// The step's own directory.
pub(super) fn dir(key: &str) -> PathBuf {
    runtime_dir().join("steps").join(key)
}

/// Where its tree is mounted.
pub(super) fn root(key: &str) -> PathBuf {
    dir(key).join("root")
}

/// Makes the step's directory and keeps its lock until [`forget`].
pub(super) fn hold(key: &str) -> Result<()> {
    let (root, steps) = (root(key), runtime_dir().join("steps"));
    // What images hold, set-uid programs among it, is for root alone.
    crate::host::private_dir(&steps)?;
    crate::host::private_dir(&dir(key))?;
    fs::create_dir_all(&root).doing(|| format!("cannot create {}", root.display()))?;
    // Locked before it gets its name: whoever finds it free finds it abandoned.
    let (early, path) = (steps.join(format!(".{key}")), dir(key).join("lock"));
    let doing = || format!("cannot lock {}", path.display());
    let file = File::create(&early).doing(doing)?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e).doing(doing)?;
    fs::rename(&early, &path).doing(doing)?;
    HELD.lock().expect("no panics under this lock").push((key.to_owned(), lock));
    Ok(())
}

/// Removes the step's directory and gives up its lock.
pub(super) fn forget(key: &str) -> Result<()> {
    let dir = dir(key);
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).doing(|| format!("cannot remove {}", dir.display()));
        }
        _ => {}
    }
    let _ = fs::remove_file(runtime_dir().join("steps").join(format!(".{key}")));
    HELD.lock().expect("no panics under this lock").retain(|(k, _)| k != key);
    Ok(())
}

/// The steps of a maker whose oardocker is gone.
pub(super) fn abandoned(maker: Maker) -> Vec<String> {
    let entries = fs::read_dir(runtime_dir().join("steps")).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|key| {
            let Some(rest) = key.strip_prefix(maker.prefix()) else { return false };
            match File::open(dir(key).join("lock")) {
                Ok(file) => Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok(),
                // Killed before it had a lock.
                Err(_) => !Path::new("/proc").join(rest.split('-').next().unwrap_or_default()).exists(),
            }
        })
        .collect()
}

/// Unmounts the tree; nothing mounted is fine.
pub(super) fn unmount(key: &str) -> Result<()> {
    let root = root(key);
    match umount2(&root, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(nix::Error::EBUSY) => {
            // Something on the host looks into it; detached, it goes when that ends.
            umount2(&root, MntFlags::MNT_DETACH).doing(|| format!("cannot unmount {}", root.display()))
        }
        Err(e) => Err(e).doing(|| format!("cannot unmount {}", root.display())),
    }
}

/// Shows a directory as the step's tree. Devices that an image holds cannot be opened there.
pub(super) fn mount_bind(source: &Path, key: &str) -> Result<()> {
    let root = root(key);
    let doing = || format!("cannot mount {}", root.display());
    mount(Some(source), &root, None::<&str>, MsFlags::MS_BIND, None::<&str>).doing(doing)?;
    crate::host::restrict(&root, MsFlags::MS_NODEV)
}

/// Mounts an overlay as the step's tree. Lower directories go by file descriptor: their paths would not fit in the one
/// page that mount(2) reads.
pub(super) fn mount_overlay(options: &[String], key: &str) -> Result<()> {
    let root = root(key);
    let mut held = Vec::new();
    let mut short = |path: &str| -> Result<String> {
        let dir = File::open(path).doing(|| format!("cannot open {path}"))?;
        let name = format!("/proc/self/fd/{}", dir.as_raw_fd());
        held.push(dir);
        Ok(name)
    };
    let mut data = Vec::new();
    if is_rootless() {
        data.push("userxattr".to_owned());
    }
    data.extend(crate::host::overlay_features(if is_rootless() {
        &["index"]
    } else {
        &["redirect_dir", "metacopy", "index"]
    }));
    for option in options {
        data.push(match option.strip_prefix("lowerdir=") {
            Some(lower) => {
                let dirs = lower.split(':').map(&mut short).collect::<Result<Vec<_>>>()?;
                format!("lowerdir={}", dirs.join(":"))
            }
            None => option.clone(),
        });
    }
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::MS_NODEV, Some(data.join(",").as_str()))
        .doing(|| format!("cannot mount {}", root.display()))
}
