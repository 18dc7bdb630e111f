//! What differs for env dirs made by the Python tool, which bring no scripts of ours.
//!
//! The rest of what they need is in their base image (`images/debian/setup_old_folders.sh`).

use super::{container_id, session};
use crate::cgroup::{Cgroups, Controller};
use crate::engine::{ContainerInfo, Engine, Mount, NodeSpec};
use crate::error::Result;
use crate::rooted::Root;
use std::path::Path;
use std::time::Duration;

/// How long a host that is about to be restarted may take for a last favour.
const ANSWER: Duration = Duration::from_secs(5);

/// Waits on the server until OAR's database says that all nodes are Alive. Where the env dir has its own `nodes_alive.sh`
/// that one runs instead.
pub const WAIT_ALIVE: &str = include_str!("wait_alive.sh");

/// Whether the init-scripts of an env dir are the Python tool's.
pub fn is_old(env_dir: &Root) -> bool {
    !env_dir.is_file(Path::new("init-scripts/nodes_alive.sh"))
}

/// Gives a host of an old folder what it looks for.
pub fn adapt(host: &mut NodeSpec, cgroups: &Cgroups, env_id: &str) {
    // OAR's v1 oarsh moves into cpusets below this path, which our own init-scripts make a link.
    let cpuset = cgroups.for_jobs(env_id, &host.hostname).into_iter().find(|(name, _)| name == "cpuset");
    if let Some((_, path)) = cpuset.filter(|_| host.hostname != "rsyslog") {
        host.cgroup_view.controllers.push(Controller {
            name: "cpuset".into(),
            host: path,
            target: "/dev/cpuset".into(),
        });
    }
    // Their scripts change the owner of everything next to OAR's keys.
    for mount in host.mounts.iter_mut().filter(|m| m.target.starts_with("/var/lib/oar/.ssh/")) {
        *mount = Mount::bind(&mount.source, &mount.target, false);
    }
}

/// Where no job manager fits the host's cgroups, OAR must not use one: its jobs would fail. Our own init-scripts see to
/// that at boot.
pub async fn unconfine(engine: &dyn Engine, env_id: &str, names: &[String]) -> Result<()> {
    let line = "[ ! -f /etc/oar/oar.conf ] || \
                sed -i 's/^JOB_RESOURCE_MANAGER_PROPERTY_DB_FIELD=/#&/; s/^CPUSET_PATH=/#&/' /etc/oar/oar.conf";
    let work = names.iter().map(|name| async move {
        session::capture(engine, &container_id(env_id, name), &["/bin/sh", "-c", line]).await.map(|_| ())
    });
    futures::future::join_all(work).await.into_iter().collect()
}

/// Their script that installs OAR's keys spoils them when it runs again in the same filesystem, so it must find none. A host
/// that cannot do it any more is restarted all the same.
pub async fn before_restart(engine: &dyn Engine, host: &ContainerInfo) {
    let root = Root::open(Path::new(&format!("/proc/{}/root", host.pid)));
    let ours = Path::new("/var/lib/container/init-scripts/nodes_alive.sh");
    if root.is_ok_and(|root| root.mode(ours).is_none()) {
        let args = ["/bin/rm", "-f", "/var/lib/oar/.ssh/authorized_keys"];
        let _ = tokio::time::timeout(ANSWER, session::capture(engine, &host.id, &args)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::plan::tests::sample;

    #[test]
    fn a_folder_is_old_without_a_script_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let env_dir = Root::beneath(dir.path()).unwrap();
        assert!(is_old(&env_dir));
        let scripts = dir.path().join("init-scripts");
        std::fs::create_dir(&scripts).unwrap();
        // A link may lead anywhere.
        std::os::unix::fs::symlink("/bin/sh", scripts.join("nodes_alive.sh")).unwrap();
        assert!(is_old(&env_dir));
        std::fs::remove_file(scripts.join("nodes_alive.sh")).unwrap();
        std::fs::write(scripts.join("nodes_alive.sh"), "").unwrap();
        assert!(!is_old(&env_dir));
    }

    #[test]
    fn keys_become_writable_and_cpusets_are_where_oar_looks() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("cpuset")).unwrap();
        std::fs::write(dir.path().join("cpuset/tasks"), "").unwrap();
        let cgroups = Cgroups::detect(dir.path()).unwrap();
        for mut host in sample().hosts.into_iter().map(|host| host.spec) {
            let before = host.mounts.clone();
            adapt(&mut host, &cgroups, "ab12");
            let targets: Vec<_> = host.cgroup_view.controllers.iter().map(|c| c.target.as_str()).collect();
            assert_eq!(targets.contains(&"/dev/cpuset"), host.hostname != "rsyslog", "{}", host.hostname);
            for (before, after) in before.iter().zip(&host.mounts) {
                let key = before.target.starts_with("/var/lib/oar/.ssh/");
                assert_eq!((&before.source, &before.target), (&after.source, &after.target));
                assert_eq!(after.options.contains(&"rw".to_owned()), key || before.options.contains(&"rw".to_owned()));
            }
        }
    }
}
