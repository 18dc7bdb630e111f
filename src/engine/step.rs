//! Build steps on the host: a lock that tells whether their oardocker lives, and a mounted tree.
//!
//! ```text
//! <runtime dir>/steps/<key>/lock    held by the oardocker that builds; free means: left over by a killed one
//!                          /root    the mounted tree
//! ```

use crate::error::{Doing as _, Result};
use crate::host::{self, Machine};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

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

/// The steps on this machine, and the locks of those that are this oardocker's, by key.
#[derive(Debug)]
pub(super) struct Steps {
    machine: Machine,
    held: Mutex<Vec<(String, host::Lock)>>,
}

impl Steps {
    pub(super) fn new(machine: &Machine) -> Self {
        Self { machine: machine.clone(), held: Mutex::default() }
    }

    fn all(&self) -> PathBuf {
        self.machine.runtime_dir().join("steps")
    }

    /// The step's own directory.
    pub(super) fn dir(&self, key: &str) -> PathBuf {
        self.all().join(key)
    }

    /// Where its tree is mounted.
    pub(super) fn root(&self, key: &str) -> PathBuf {
        self.dir(key).join("root")
    }

    /// Makes the step's directory and keeps its lock until [`Self::forget`].
    pub(super) fn hold(&self, key: &str) -> Result<()> {
        let (root, steps) = (self.root(key), self.all());
        // What images hold, set-uid programs among it, is for root alone.
        host::private_dir(&steps)?;
        host::private_dir(&self.dir(key))?;
        fs::create_dir_all(&root).doing(|| format!("cannot create {}", root.display()))?;
        // Locked before it gets its name: whoever finds it free finds it abandoned.
        let (early, path) = (steps.join(format!(".{key}")), self.dir(key).join("lock"));
        let doing = || format!("cannot lock {}", path.display());
        let file = File::create(&early).doing(doing)?;
        let lock = host::try_lock(file).doing(doing)?.map_err(|_| "somebody else has it").doing(doing)?;
        fs::rename(&early, &path).doing(doing)?;
        self.held.lock().expect("no panics under this lock").push((key.to_owned(), lock));
        Ok(())
    }

    /// Removes the step's directory and gives up its lock.
    pub(super) fn forget(&self, key: &str) -> Result<()> {
        let dir = self.dir(key);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).doing(|| format!("cannot remove {}", dir.display()));
            }
            _ => {}
        }
        let _ = fs::remove_file(self.all().join(format!(".{key}")));
        self.held.lock().expect("no panics under this lock").retain(|(k, _)| k != key);
        Ok(())
    }

    /// The steps of a maker whose oardocker is gone.
    pub(super) fn abandoned(&self, maker: Maker) -> Vec<String> {
        let entries = fs::read_dir(self.all()).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|key| {
                let Some(rest) = key.strip_prefix(maker.prefix()) else { return false };
                let gone = || !Path::new("/proc").join(rest.split('-').next().unwrap_or_default()).exists();
                // It may have been killed before it had a lock.
                host::is_locked(&self.dir(key).join("lock")).map_or_else(|_| gone(), |locked| !locked)
            })
            .collect()
    }

    /// Unmounts the tree; nothing mounted is fine.
    pub(super) fn unmount(&self, key: &str) -> Result<()> {
        let root = self.root(key);
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
    pub(super) fn mount_bind(&self, source: &Path, key: &str) -> Result<()> {
        let root = self.root(key);
        let doing = || format!("cannot mount {}", root.display());
        mount(Some(source), &root, None::<&str>, MsFlags::MS_BIND, None::<&str>).doing(doing)?;
        host::restrict(&root, MsFlags::MS_NODEV)
    }

    /// Mounts an overlay as the step's tree. Lower directories go by file descriptor: their paths would not fit in the one
    /// page that mount(2) reads.
    pub(super) fn mount_overlay(&self, options: &[String], key: &str) -> Result<()> {
        let root = self.root(key);
        let mut held = Vec::new();
        let mut short = |path: &str| -> Result<String> {
            let dir = File::open(path).doing(|| format!("cannot open {path}"))?;
            let name = format!("/proc/self/fd/{}", dir.as_raw_fd());
            held.push(dir);
            Ok(name)
        };
        let mut data = Vec::new();
        if self.machine.is_rootless() {
            data.push("userxattr".to_owned());
        }
        data.extend(host::overlay_features(if self.machine.is_rootless() {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_abandoned_when_nobody_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::below(dir.path());
        let steps = Steps::new(&machine);
        let (ours, theirs) = (Maker::Store.new_key(), Maker::Containerd.new_key());
        assert!(steps.abandoned(Maker::Store).is_empty(), "there is no directory yet");
        steps.hold(&ours).unwrap();
        steps.hold(&theirs).unwrap();
        // Seen by another oardocker.
        let others = Steps::new(&machine);
        assert!(others.abandoned(Maker::Store).is_empty());
        drop(steps);
        assert_eq!(others.abandoned(Maker::Store), std::slice::from_ref(&ours));
        assert_eq!(others.abandoned(Maker::Containerd), [theirs]);
        others.forget(&ours).unwrap();
        others.forget(&ours).unwrap();
        assert!(others.abandoned(Maker::Store).is_empty() && !others.dir(&ours).exists());
    }

    #[test]
    fn one_that_was_killed_before_it_had_a_lock_is_known_by_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let steps = Steps::new(&Machine::below(dir.path()));
        let lives = format!("oardocker-store-{}-0", std::process::id());
        // No process has this number: the kernel's largest is 2^22.
        let dead = format!("oardocker-store-{}-0", 1 << 23);
        for key in [&lives, &dead] {
            fs::create_dir_all(steps.root(key)).unwrap();
        }
        assert_eq!(steps.abandoned(Maker::Store), [dead]);
    }
}
