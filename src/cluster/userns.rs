//! Whether the hosts of a cluster have users and groups of their own on this machine, so that their root is nobody here; and what differs
//! inside of such a host.

use crate::engine::{Content, Engine, NodeSpec, Seed};
use crate::error::{Error, Result};
use crate::host::{Ids, Machine, Reservation};
use crate::workdir::manifest::Userns;

/// What a cluster gets.
#[derive(Debug)]
pub struct Chosen {
    /// Its ids; none: the host's.
    pub ids: Option<Ids>,
    /// Held until containers have them.
    _held: Option<Reservation>,
    /// What the user should know.
    pub note: Option<String>,
}

/// Decides, with what the engine has to offer.
pub async fn choose(engine: &dyn Engine, machine: &Machine, env_id: &str, wish: Userns) -> Result<Chosen> {
    // In a user's own engine root is that user's already.
    let hosts_own = Chosen { ids: None, _held: None, note: None };
    if machine.is_rootless() {
        return Ok(hosts_own);
    }
    if wish == Userns::Off {
        return engine.require_host_ids().await.map(|()| hosts_own);
    }
    match engine.reserve_ids(env_id).await? {
        Ok((ids, held)) => Ok(Chosen { ids: Some(ids), _held: held, note: None }),
        Err(why) if wish == Userns::Require => Err(Error::new(format!("nodes cannot have user namespaces: {why}"))
            .hint("docs/security.md says what that needs, and what a node's root can do without")
            .hint("to go without: oardocker start --userns=off")),
        Err(why) => {
            let note = format!(
                "the root of the nodes is the host's, as they have no user namespaces: {why} (--userns=off is silent)"
            );
            Ok(Chosen { ids: None, _held: None, note: Some(note) })
        }
    }
}

/// On v1 the kernel lets nobody but the host's root move processes of others. OAR's login shell moves itself into its job's cgroups, as
/// root, though process and files are oar's own: so it does that as oar. This is done in each host before anything of OAR runs, as OAR may
/// come with the image, from a tree that is installed, or from packages; and whatever the env dir's scripts are.
const UNIT: (&str, &str) = ("/etc/systemd/system/oardocker-own-moves.service", include_str!("own_moves.service"));
const WANTED: (&str, &str) = (
    "/etc/systemd/system/sysinit.target.wants/oardocker-own-moves.service",
    "/etc/systemd/system/oardocker-own-moves.service",
);

/// Gives such a host what it needs beyond what others have.
pub fn adapt(host: &mut NodeSpec) {
    if host.ids.is_none() || host.cgroup_view.controllers.is_empty() {
        return;
    }
    host.seeds.push(Seed { path: UNIT.0, content: Content::Text(UNIT.1.into()) });
    host.seeds.push(Seed { path: WANTED.0, content: Content::Link(WANTED.1.into()) });
}
