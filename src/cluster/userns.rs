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
    if machine.is_podmans() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::plan::tests::sample;
    use crate::engine::fake::Fake;
    use std::path::Path;

    #[tokio::test]
    async fn what_an_engine_cannot_is_told_once_refused_or_not_missed() {
        let (fake, machine) = (Fake::new().unwrap(), Machine::below(Path::new("/o")));
        let chosen = choose(&fake, &machine, "ab12", Userns::Auto).await.unwrap();
        let note = chosen.note.unwrap();
        assert!(
            chosen.ids.is_none() && note.contains("the fake runs nothing") && note.contains("--userns=off"),
            "{note}"
        );
        let error = choose(&fake, &machine, "ab12", Userns::Require).await.unwrap_err();
        assert!(error.to_string().contains("the fake runs nothing"), "{error}");
        let chosen = choose(&fake, &machine, "ab12", Userns::Off).await.unwrap();
        assert!(chosen.ids.is_none() && chosen.note.is_none());
    }

    /// Where there are v1 controllers and ids of its own, and nowhere else.
    #[test]
    fn oar_moves_its_processes_itself_where_root_may_not() {
        let has = |host: &NodeSpec| host.seeds.iter().any(|seed| seed.path == UNIT.0);
        for mut host in sample().hosts.into_iter().map(|host| host.spec) {
            assert_eq!(has(&host), host.hostname != "rsyslog", "{}", host.hostname);
            host.seeds.clear();
            let mut with_the_host_s_ids = NodeSpec { ids: None, ..host.clone() };
            host.cgroup_view.controllers.clear();
            [&mut host, &mut with_the_host_s_ids].into_iter().for_each(adapt);
            assert!(!has(&host) && !has(&with_the_host_s_ids));
        }
    }

    /// The forms that OAR's `oarsh_shell` has had: of each only what moves processes changes.
    #[test]
    fn lines_that_move_processes_lose_their_oardodo() {
        let dir = tempfile::tempdir().unwrap();
        let shell = dir.path().join("oarsh_shell");
        let before = r#"if $OARDIR/oardodo/oardodo sh -c "mkdir -p $M/cpuset/$C/$U" && \
$OARDIR/oardodo/oardodo sh -c "cat $M/cpuset/$C/cpuset.mems > $M/cpuset/$C/$U/cpuset.mems"
    oardodo sh -c "echo $p > $c/$CPUSETNAME/tasks" || return 1
$OARDIR/oardodo/oardodo renice 0 $$ $PPID
exec $OARDIR/oardodo/oardodo "$@"
export PATH=$OARDIR/oardodo:$PATH
"#;
        let after = before
            .replace("if $OARDIR/oardodo/oardodo sh", "if sh")
            .replace("$OARDIR/oardodo/oardodo sh", "sh")
            .replace("    oardodo sh", "    sh");
        std::fs::write(&shell, before).unwrap();
        // As systemd reads the line.
        let line =
            UNIT.1.lines().find_map(|l| l.strip_prefix("ExecStart=/bin/sh -c '")).unwrap().strip_suffix('\'').unwrap();
        let script =
            line.replace("$$", "$").replace("\\\\", "\\").replace("/usr/lib/oar/oarsh_shell", shell.to_str().unwrap());
        let ran = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
        assert!(ran.success());
        assert_eq!(std::fs::read_to_string(&shell).unwrap(), after);
    }
}
