//! Copy-on-write volumes: overlay mounts on the host, one upper directory per host and volume.

use super::files::Files;
use super::volume::{Mode, Volume};
use crate::error::{Doing as _, Result};
use crate::host::{Powers, overlay_features};
use serde::Serialize;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::PathBuf;

/// One host's copy of a shared folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// Whose.
    pub host: String,
    /// The folder, as the user named it.
    pub of: String,
    /// The original, at our place for it.
    pub lower: PathBuf,
    /// Where `upper`, `work` and `merged` are.
    pub dir: PathBuf,
    /// Whether root is only a user's, whose overlays have other attributes.
    pub rootless: bool,
}

fn dir(files: &Files, host: &str, index: usize) -> PathBuf {
    files.path("cow").join(host).join(index.to_string())
}

/// What the container sees.
pub(super) fn merged(files: &Files, host: &str, index: usize) -> PathBuf {
    dir(files, host, index).join("merged")
}

/// The copies of all hosts.
pub(super) fn copies(files: &Files, hosts: &[String], volumes: &[Volume], rootless: bool) -> Vec<Copy> {
    let copied = || volumes.iter().enumerate().filter(|(_, v)| v.mode == Mode::CopyOnWrite);
    let of = |host: &String, i: usize, volume: &Volume| Copy {
        host: host.clone(),
        of: volume.host.clone(),
        lower: files.volume(i),
        dir: dir(files, host, i),
        rootless,
    };
    hosts.iter().flat_map(|host| copied().map(move |(i, volume)| of(host, i, volume))).collect()
}

/// Makes one.
pub(super) fn mount(copy: &Copy, powers: &dyn Powers) -> Result<()> {
    let doing = || format!("cannot mount a copy of {} for {}", copy.of, copy.host);
    for name in ["upper", "work", "merged"] {
        fs::create_dir_all(copy.dir.join(name)).doing(doing)?;
    }
    // The top directory of the copy looks like the original.
    let meta = fs::metadata(&copy.lower).doing(doing)?;
    let upper = copy.dir.join("upper");
    fs::set_permissions(&upper, meta.permissions()).doing(doing)?;
    chown(&upper, Some(meta.uid()), Some(meta.gid())).doing(doing)?;
    powers.overlay(&options(copy), &copy.dir.join("merged")).doing(doing)
}

fn options(copy: &Copy) -> String {
    let escape = |path: PathBuf| path.to_string_lossy().replace('\\', "\\\\").replace(',', "\\,").replace(':', "\\:");
    // Without redirect_dir a directory from below is renamed by copying it, which not every program does. It is root's.
    let renames = if copy.rootless { "userxattr" } else { "redirect_dir=on" };
    let features = overlay_features(if copy.rootless { &["index"] } else { &["metacopy", "index"] });
    format!(
        "lowerdir={},upperdir={},workdir={},{renames},{}",
        escape(copy.lower.clone()),
        escape(copy.dir.join("upper")),
        escape(copy.dir.join("work")),
        features.join(",")
    )
}
