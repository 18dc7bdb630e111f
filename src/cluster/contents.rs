//! What is made of a cluster on the host before its hosts are: directories, files, and what of the user's they see. Pure.

use super::facts::Facts;
use super::files::{self, Files};
use super::request::Request;
use super::volume::{Mode, Volume};
use super::{ROLES, cow};
use crate::host::Ids;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// As `chmod` has it.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn octal<S: serde::Serializer>(mode: &u32, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{mode:04o}"))
}

/// A directory to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dir {
    /// Where.
    pub path: PathBuf,
    /// Its mode.
    #[serde(serialize_with = "octal")]
    pub mode: u32,
    /// The account and group that it belongs to.
    pub owner: u32,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct File {
    /// Where.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
    /// Its mode.
    #[serde(serialize_with = "octal")]
    pub mode: u32,
    /// The account and group that it belongs to.
    pub owner: u32,
}

/// Something of the user's, shown at a place of ours: it is opened once, so that no engine follows a path in a user's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shared {
    /// What.
    pub source: Source,
    /// Where the hosts' mounts begin.
    pub place: PathBuf,
    /// The ids of the hosts that see it, if they have their own: whose files are shown as whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Ids>,
    /// Whether no host may write there.
    pub read_only: bool,
}

/// Where something of the user's is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A directory below the env dir, made if it is missing.
    Directory(PathBuf),
    /// A shell's history below the env dir, made if it is missing: root's, or user docker's.
    History {
        /// Its path.
        path: PathBuf,
        /// Whose, as the machine numbers accounts.
        owner: u32,
    },
    /// A path on the host.
    Volume(String),
}

/// All of it, in the order in which it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// First.
    pub dirs: Vec<Dir>,
    /// Then.
    pub files: Vec<File>,
    /// Then.
    pub shared: Vec<Shared>,
    /// Copies of each host's own of shared folders.
    pub copies: Vec<cow::Copy>,
}

/// Decides.
pub(super) fn contents(request: &Request, facts: &Facts, hosts: &[String]) -> Contents {
    let at = &facts.files;
    Contents {
        dirs: dirs(at, hosts, facts.ids),
        files: written(request, facts, hosts),
        shared: shared(at, &request.volumes, facts.ids),
        copies: cow::copies(at, hosts, &request.volumes, facts.rootless),
    }
}

/// User docker of the hosts; the base image makes it the first user.
pub(super) const DOCKER: u32 = 1000;

/// A user or group of the hosts, as the machine numbers it.
pub(super) fn id(ids: Option<Ids>, inside: u32) -> u32 {
    ids.map_or(inside, |ids| ids.of(inside))
}

/// Whose that is which hosts may not write to.
fn stranger(ids: Option<Ids>) -> u32 {
    ids.map_or(0, Ids::stranger)
}

/// The hosts' root writes in two of them.
fn dirs(at: &Files, hosts: &[String], ids: Option<Ids>) -> Vec<Dir> {
    let root = id(ids, 0);
    let dir = |path: PathBuf, mode, owner| Dir { path, mode, owner };
    let written = [at.log_dir(), at.home()].map(|path| dir(path, 0o700, root));
    let own = ["console", "kmsg", "notify", "cow", "pins", "profile"].map(|name| dir(at.path(name), 0o700, 0));
    // OAR's own account writes there, whose number is the image's.
    let wake = dir(at.wake_dir(), 0o1777, stranger(ids));
    let notify = hosts.iter().map(|host| dir(at.notify_dir(host), 0o755, stranger(ids)));
    let public = at.public().parent().map(|path| dir(path.into(), 0o755, 0));
    written.into_iter().chain(own).chain([wake]).chain(notify).chain(public).collect()
}

fn written(request: &Request, facts: &Facts, hosts: &[String]) -> Vec<File> {
    let at = &facts.files;
    let nodes: String = (1..=request.nodes).map(|i| format!("node{i}\n")).collect();
    let ports: Vec<String> = request.ports().iter().map(|p| p.host.to_string()).collect();
    let images: BTreeMap<&String, Vec<String>> =
        facts.images.iter().map(|(role, image)| (role, image.image.env())).collect();
    let json = |value: serde_json::Result<String>| value.expect("texts can be written as JSON");
    let named = [
        ("hosts", facts.hosts.clone(), 0o644),
        ("nodes", nodes.clone(), 0o644),
        ("cow_volumes", String::new(), 0o644),
        ("system.conf", system_conf(&request.envs), 0o644),
        ("ssh_environment", ssh_environment(&request.envs), 0o644),
        ("env.json", json(serde_json::to_string(&request.envs)), 0o600),
        (files::IMAGE_ENV, json(serde_json::to_string(&images)), 0o600),
        ("ports", ports.join(" "), 0o600),
    ];
    let root = id(facts.ids, 0);
    // Nobody in the hosts may write to these, but that folders of the Python tool change whose the keys' variables are.
    let owner = |name: &str| if facts.old && name == "ssh_environment" { root } else { stranger(facts.ids) };
    let named = named.map(|(name, text, mode)| File { path: at.path(name), text, mode, owner: owner(name) });
    let kmsg = hosts.iter().map(|host| File { path: at.kmsg(host), text: String::new(), mode: 0o600, owner: root });
    let profiles = images.iter().map(|(role, env)| File {
        path: at.profile(role),
        text: profile(env, &request.envs),
        mode: 0o644,
        owner: stranger(facts.ids),
    });
    // Last: completion finds a cluster by it.
    let public = File { path: at.public(), text: nodes, mode: 0o644, owner: 0 };
    named.into_iter().chain(kmsg).chain(profiles).chain([public]).collect()
}

/// What of the user's the hosts see, with the places where they will see it.
pub(super) fn shared(at: &Files, volumes: &[Volume], ids: Option<Ids>) -> Vec<Shared> {
    let source = Source::Directory("init-scripts".into());
    let scripts = Shared { source, place: at.init_scripts(), ids, read_only: true };
    let histories = ROLES.iter().flat_map(|role| {
        files::HISTORIES.iter().map(|path| {
            let owner = id(ids, if path.starts_with("/home/") { DOCKER } else { 0 });
            let source = Source::History { path: files::history(role, path), owner };
            Shared { source, place: at.history(role, path), ids: None, read_only: false }
        })
    });
    let volumes = volumes.iter().enumerate();
    let volumes = volumes.map(|(i, v)| {
        let source = Source::Volume(v.host.clone());
        Shared { source, place: at.volume(i), ids, read_only: v.mode != Mode::ReadWrite }
    });
    [scripts].into_iter().chain(histories).chain(volumes).collect()
}

/// systemd's quoting: in double quotes, with C escapes; a percent sign begins a specifier.
fn system_conf(envs: &[(String, String)]) -> String {
    let quoted: Vec<String> = envs
        .iter()
        .map(|(k, v)| {
            format!("\"{k}={}\"", v.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('\n', "\\n"))
        })
        .collect();
    format!("[Manager]\nDefaultEnvironment={}\n", quoted.join(" "))
}

/// Shell quoting. Debian's /etc/profile has forgotten the image's PATH; other variables stay as a session was given them.
fn profile(image: &[String], envs: &[(String, String)]) -> String {
    let path = image.iter().find_map(|e| e.strip_prefix("PATH=")).filter(|path| *path != super::session::PATH);
    let path = path.map(|path| ("PATH".to_owned(), path.to_owned()));
    let quoted = |(k, v): &(String, String)| format!("export {k}='{}'\n", v.replace('\'', "'\\''"));
    path.iter().chain(envs).map(quoted).collect()
}

/// pam_env's form, for sessions that are no logins.
pub(super) fn environment(envs: &[(String, String)]) -> String {
    envs.iter().filter(|(_, v)| !v.contains('\n')).map(|(k, v)| format!("{k}=\"{v}\"\n")).collect()
}

/// sshd's form, for OAR's own logins, through which jobs run: OAR's sshd does not ask PAM.
fn ssh_environment(envs: &[(String, String)]) -> String {
    envs.iter().filter(|(_, v)| !v.contains('\n')).map(|(k, v)| format!("{k}={v}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_quoted_for_each_reader() {
        let envs = [("A".to_owned(), "it's \"50%\" = x".to_owned())];
        assert_eq!(system_conf(&envs), "[Manager]\nDefaultEnvironment=\"A=it's \\\"50%%\\\" = x\"\n");
        assert_eq!(profile(&[], &envs), "export A='it'\\''s \"50%\" = x'\n");
        let image = |path: &str| vec![format!("PATH={path}"), "LANG=C".to_owned()];
        assert_eq!(profile(&image("/opt/bin:/bin"), &[]), "export PATH='/opt/bin:/bin'\n");
        assert_eq!(profile(&image(super::super::session::PATH), &[]), "", "/etc/profile knows better who is root");
    }
}
