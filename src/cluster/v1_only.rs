//! Hosts with v1 cgroups only: systemd refuses to run there after version 255, so its image must not be started.

use super::init::is_init;
use crate::cgroup::{Cgroups, Layout};
use crate::engine::Images;
use crate::error::{Error, Result};
use crate::rooted::Root;
use std::path::Path;

/// The last version of systemd that boots without v2.
const LAST: u32 = 255;

/// Refuses the first of these images (title and name in the store) that cannot boot on this host.
pub async fn check(store: &dyn Images, cgroups: &Cgroups, images: &[(String, String)]) -> Result<()> {
    if cgroups.layout != Layout::Legacy {
        return Ok(());
    }
    for (title, name) in images {
        let Some(image) = store.image(name).await? else { continue };
        let step = store.begin_step(image.chain_id().as_deref()).await?;
        let version = Root::open(&step.root).and_then(|root| systemd_version(&root));
        store.abort_step(step).await?;
        if let Some(version) = version?.filter(|v| *v > LAST) {
            return Err(refusal(title, version));
        }
    }
    Ok(())
}

/// Keeps systemd to the v1 hierarchies on such a host. It would mount the v2 hierarchy, too, which is a single one there, the
/// same in every container: services of one name would share a cgroup, where systemd finds foreign processes that it cannot
/// see, never sees the service end, and leaves its cgroups behind.
pub fn kept_to_v1(mut process: Vec<String>, cgroups: &Cgroups) -> Vec<String> {
    if cgroups.layout == Layout::Legacy && is_init(&process) {
        // In a container, systemd reads its own command line where it would read the kernel's.
        process.push("systemd.legacy_systemd_cgroup_controller=1".into());
    }
    process
}

fn refusal(title: &str, version: u32) -> Error {
    Error::new(format!(
        "image {title} has systemd {version}, which cannot boot on this host: it has v1 cgroups only, and systemd refuses them after {LAST}"
    ))
    .hint("boot the host with unified cgroups: systemd.unified_cgroup_hierarchy=1 on the kernel's command line")
    .hint("or use an older Debian: oardocker init -f -e bookworm")
}

/// The version of the systemd in an image's tree: from the package database, else from the name of its library.
fn systemd_version(root: &Root) -> Result<Option<u32>> {
    let status = root.text("/var/lib/dpkg/status")?.unwrap_or_default();
    Ok(from_dpkg(&status).or_else(|| from_library(root)))
}

fn from_dpkg(status: &str) -> Option<u32> {
    let package = status.split("\n\n").find(|p| p.lines().any(|l| l == "Package: systemd"))?;
    let installed = package.lines().any(|l| l.starts_with("Status: ") && l.ends_with(" installed"));
    let version = package.lines().find_map(|l| l.strip_prefix("Version: ")).filter(|_| installed)?;
    leading_number(version)
}

/// `libsystemd-shared-257.so`, in Debian `libsystemd-shared-257.9-1.so`.
fn from_library(root: &Root) -> Option<u32> {
    let lib = Path::new("/usr/lib");
    // A directory that is not there has no names.
    let names = |dir: &Path| root.names(dir).unwrap_or_default();
    let dirs = names(lib).into_iter().map(|multiarch| lib.join(multiarch).join("systemd")).chain([lib.join("systemd")]);
    dirs.flat_map(|dir| names(&dir)).find_map(|name| leading_number(name.to_str()?.strip_prefix("libsystemd-shared-")?))
}

fn leading_number(text: &str) -> Option<u32> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_version_is_found_in_either_place() {
        let tree = tempfile::tempdir().unwrap();
        let found = || systemd_version(&Root::open(tree.path()).unwrap()).unwrap();
        assert_eq!(found(), None);
        let library = tree.path().join("usr/lib/x86_64-linux-gnu/systemd");
        fs::create_dir_all(&library).unwrap();
        fs::write(library.join("libsystemd-core-9.so"), "").unwrap();
        fs::write(library.join("libsystemd-shared-257.so"), "").unwrap();
        assert_eq!(found(), Some(257));
        fs::create_dir_all(tree.path().join("var/lib/dpkg")).unwrap();
        let status = "Package: libsystemd0\nStatus: install ok installed\nVersion: 1\n\n\
                      Package: systemd\nStatus: install ok installed\nArchitecture: amd64\nVersion: 252.39-1~deb12u1\n";
        fs::write(tree.path().join("var/lib/dpkg/status"), status).unwrap();
        assert_eq!(found(), Some(252));
        assert_eq!(from_dpkg(&status.replace("install ok installed", "deinstall ok config-files")), None);
    }

    #[test]
    fn the_refusal_names_what_and_why() {
        let text = refusal("oardocker/trixie-node:latest", 257).to_string();
        assert!(text.contains("oardocker/trixie-node:latest has systemd 257"), "{text}");
    }
}
