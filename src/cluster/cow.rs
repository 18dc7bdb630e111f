//! Copy-on-write volumes: overlay mounts on the host, one upper directory per host and volume.

use super::files::Files;
use super::volume::{Mode, Volume};
use crate::error::{Context as _, Result};
use crate::host::{is_rootless, overlay_features};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::path::PathBuf;

fn dir(env_id: &str, host: &str, index: usize) -> PathBuf {
    Files::new(env_id).path("cow").join(host).join(index.to_string())
}

/// What the container sees.
pub fn merged(env_id: &str, host: &str, index: usize) -> PathBuf {
    dir(env_id, host, index).join("merged")
}

/// Mounts a host's copy-on-write volumes.
pub fn mount_all(env_id: &str, host: &str, volumes: &[Volume]) -> Result<()> {
    for (i, volume) in volumes.iter().enumerate().filter(|(_, v)| v.mode == Mode::CopyOnWrite) {
        let dir = dir(env_id, host, i);
        let doing = || format!("cannot mount a copy of {} for {host}", volume.host);
        for name in ["upper", "work", "merged"] {
            fs::create_dir_all(dir.join(name)).doing(doing)?;
        }
        let original = Files::new(env_id).volume(i);
        // The top directory of the copy looks like the original.
        let meta = fs::metadata(&original).doing(doing)?;
        fs::set_permissions(dir.join("upper"), meta.permissions()).doing(doing)?;
        use std::os::unix::fs::MetadataExt as _;
        std::os::unix::fs::chown(dir.join("upper"), Some(meta.uid()), Some(meta.gid())).doing(doing)?;
        let escape = |path: &str| path.replace('\\', "\\\\").replace(',', "\\,").replace(':', "\\:");
        // Without redirect_dir a directory from below is renamed by copying it, which not every program does. It is root's.
        let renames = if is_rootless() { "userxattr" } else { "redirect_dir=on" };
        let features = overlay_features(if is_rootless() { &["index"] } else { &["metacopy", "index"] });
        let options = format!(
            "lowerdir={},upperdir={},workdir={},{renames},{}",
            escape(&original.to_string_lossy()),
            escape(&dir.join("upper").to_string_lossy()),
            escape(&dir.join("work").to_string_lossy()),
            features.join(",")
        );
        mount(Some("overlay"), &dir.join("merged"), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .doing(doing)?;
    }
    Ok(())
}
