//! From what the user asked for to the containers that make it so. Pure.

use super::contents::{self, Contents};
use super::facts::{Facts, RoleImage};
use super::request::Request;
use super::volume::Mode;
use super::{ENV_LABEL, HOST_LABEL, container_id, cow, files, init, keeper, old_folder, role, userns, v1_only};
use crate::cgroup::{Cgroups, Controller, Layout, View};
use crate::engine::{Content, Mount, NodeImage, NodeSpec, Plug, ProcessSpec, Seed};
use crate::host::Ids;
use crate::net::{self, Access, Subnet};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A whole cluster, decided.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Of the workdir.
    pub env_id: String,
    /// Who reaches its network; none: nobody can be kept from it.
    pub access: Option<Access>,
    /// The addresses of that.
    pub subnet: Subnet,
    /// What is on the host before there are hosts of the cluster.
    pub contents: Contents,
    /// The filesystem that /home is taken from; none: the frontend's image is empty.
    pub home: Option<String>,
    /// In the order in which they are started.
    pub hosts: Vec<Host>,
}

/// One host of the cluster.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// As in `node1`.
    pub name: String,
    /// As in `node`.
    pub role: String,
    /// The container.
    pub spec: NodeSpec,
}

/// Decides everything.
pub fn plan(request: &Request, facts: &Facts) -> Plan {
    let hosts: Vec<Host> =
        super::numbered(request.nodes).map(|(name, index)| host(request, facts, name, index)).collect();
    let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
    Plan {
        env_id: request.env_id.clone(),
        access: (!facts.rootless || facts.ids.is_some_and(Ids::are_a_user_s)).then(|| request.access()),
        subnet: facts.subnet,
        contents: contents::contents(request, facts, &names),
        home: facts.images["frontend"].image.chain_id(),
        hosts,
    }
}

fn host(request: &Request, facts: &Facts, name: String, index: u32) -> Host {
    let role = role(&name).to_owned();
    let image = &facts.images[&role];
    let spec = NodeSpec {
        id: container_id(&request.env_id, &name),
        hostname: name.clone(),
        image: NodeImage { name: image.name.clone(), chain: image.image.chain_id(), volumes: image.image.volumes() },
        ids: facts.ids,
        process: process(image, &facts.cgroups),
        mounts: mounts(request, facts, &name),
        seeds: seeds(request, facts),
        sysctls: sysctls(facts),
        plug: Plug {
            network: request.env_id.clone(),
            subnet: facts.subnet,
            index,
            ports: if name == "frontend" { request.ports() } else { Vec::new() },
        },
        cgroup: facts.cgroups.node(&request.env_id, &name),
        cgroup_view: view(&facts.cgroups, &request.env_id, &name),
        labels: BTreeMap::from([(ENV_LABEL.to_owned(), request.env_id.clone()), (HOST_LABEL.to_owned(), name.clone())]),
        console: facts.files.console(&name),
    };
    let mut host = Host { name, role, spec };
    if facts.old {
        old_folder::adapt(&mut host.spec, &facts.cgroups, &request.env_id);
    }
    userns::adapt(&mut host.spec);
    host
}

fn process(image: &RoleImage, cgroups: &Cgroups) -> ProcessSpec {
    let mut env = image.image.env();
    env.retain(|e| !e.starts_with("container="));
    env.push("container=oci".into());
    // Before there is a journal, systemd would say what is wrong on a console that containers lack.
    env.push("SYSTEMD_LOG_TARGET=journal-or-kmsg".into());
    env.push(format!("NOTIFY_SOCKET={}", files::NOTIFY_INSIDE));
    let args = v1_only::kept_to_v1(init::first_process(&image.image), cgroups);
    ProcessSpec { args, env, ..ProcessSpec::default() }
}

/// systemd 257 refuses v1, every systemd from 232 on runs on v2, and a host that has v2 can give it to a container. OAR's v1
/// job manager finds its controllers beside that.
fn view(cgroups: &Cgroups, env_id: &str, host: &str) -> View {
    let kind = match cgroups.layout {
        Layout::Legacy => "cgroup",
        Layout::Hybrid | Layout::Unified => "cgroup2",
    };
    let controllers = if host == "rsyslog" { Vec::new() } else { cgroups.for_jobs(env_id, host) };
    let at_its_place = |(name, host): (String, PathBuf)| {
        let target = format!("/dev/oar_cgroups_links/{name}");
        Controller { name, host, target }
    };
    View { kind, controllers: controllers.into_iter().map(at_its_place).collect() }
}

fn tmpfs(target: &str, mode: &str) -> Mount {
    Mount {
        target: target.into(),
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        options: vec!["nosuid".into(), "nodev".into(), format!("mode={mode}")],
    }
}

/// The files that users edit, so no mounts: nobody can put another file in the place of one.
fn seeds(request: &Request, facts: &Facts) -> Vec<Seed> {
    let mut seeds = vec![
        Seed { path: "/etc/hosts", content: Content::Text(facts.hosts.clone()) },
        Seed { path: "/etc/resolv.conf", content: Content::Text(facts.resolv_conf.clone()) },
        Seed { path: "/etc/environment", content: Content::Text(contents::environment(&request.envs)) },
    ];
    if let Some(zone) = &facts.zone {
        seeds.push(Seed { path: "/etc/timezone", content: Content::Text(format!("{zone}\n")) });
        seeds.push(Seed { path: "/etc/localtime", content: Content::Link(format!("/usr/share/zoneinfo/{zone}")) });
    }
    seeds
}

/// Data is acknowledged at once: ssh, with which OAR starts all of a job, writes twice before it reads, and otherwise waits 40 ms for
/// the delayed acknowledgement of its first words.
fn sysctls(facts: &Facts) -> BTreeMap<&'static str, String> {
    let prompt = facts.prompt_acks.then(|| (net::PROMPT_ACKS, u8::MAX.to_string()));
    prompt.into_iter().collect()
}

fn mounts(request: &Request, facts: &Facts, host: &str) -> Vec<Mount> {
    let dir = &facts.files;
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let mut mounts = vec![
        tmpfs("/run", "755"),
        tmpfs("/run/lock", "1777"),
        tmpfs("/tmp", "1777"),
        Mount::bind(text(dir.notify_dir(host)), files::NOTIFY_DIR_INSIDE, false),
        Mount::bind(text(dir.kmsg(host)), "/dev/kmsg", false),
        Mount::bind(text(dir.path("nodes")), "/var/lib/container/nodes", true),
        Mount::bind(text(dir.path("cow_volumes")), "/var/lib/container/cow_volumes", true),
        Mount::bind(text(dir.path("system.conf")), "/etc/systemd/system.conf.d/oardocker.conf", true),
        Mount::bind(text(dir.profile(role(host))), "/etc/profile.d/oardocker_env.sh", true),
        Mount::bind(text(dir.init_scripts()), "/var/lib/container/init-scripts", true),
    ];
    // A mark, for stock_timing.sh.
    if request.stock_timing {
        mounts.push(Mount::bind(text(dir.path("nodes")), "/var/lib/container/stock_timing", true));
    }
    if host == "server" {
        mounts.push(Mount::bind(text(dir.wake_dir()), keeper::WAKE_DIR_INSIDE, false));
        // A mark: nobody on the host sees to it that the nodes become Alive, so the server does.
        if !request.wait {
            mounts.push(Mount::bind(text(dir.path("nodes")), "/var/lib/container/unattended", true));
        }
    }
    if host == "rsyslog" {
        mounts.push(Mount::bind(text(dir.log_dir()), "/var/log/oardocker", false));
    }
    if matches!(role(host), "frontend" | "node") {
        mounts.push(Mount::bind(text(dir.home()), "/home", false));
        mounts.push(Mount::bind(text(dir.path("ssh_environment")), "/var/lib/oar/.ssh/environment", true));
    }
    for history in files::HISTORIES {
        mounts.push(Mount::bind(text(dir.history(host, history)), history, false));
    }
    for (i, volume) in request.volumes.iter().enumerate() {
        mounts.push(match volume.mode {
            Mode::ReadOnly => Mount::bind(text(dir.volume(i)), &volume.container, true),
            Mode::ReadWrite => Mount::bind(text(dir.volume(i)), &volume.container, false),
            Mode::CopyOnWrite => Mount::bind(text(cow::merged(dir, host, i)), &volume.container, false),
        });
    }
    mounts
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::engine::Image;
    use crate::host::Machine;
    use oci_spec::image::{ConfigBuilder, ImageConfiguration};
    use std::path::Path;

    pub(in crate::cluster) fn request() -> Request {
        let images = super::super::ROLES.map(|role| (role, format!("ab12.env/oardocker/t-{role}:latest")));
        Request {
            env_id: "ab12".into(),
            images: images.into(),
            nodes: 2,
            volumes: vec![super::super::volume::parse("/src:/x:cow").unwrap()],
            envs: vec![],
            zone: None,
            published: vec![80],
            offset: 40000,
            any: false,
            user: Some(1000),
            userns: crate::workdir::manifest::Userns::Auto,
            stock_timing: false,
            wait: true,
            global: vec![],
            env_dir: std::sync::Arc::new(crate::rooted::Root::beneath(Path::new("/")).unwrap()),
        }
    }

    fn cgroups(files: &[&str]) -> Cgroups {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        Cgroups::detect(dir.path()).unwrap()
    }

    /// An image whose first process is this one.
    pub(in crate::cluster) fn image(role: &str, process: &[&str]) -> RoleImage {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let config = ConfigBuilder::default().env(words(&["container=docker", "A=1"])).cmd(words(process));
        let mut whole = ImageConfiguration::default();
        whole.set_config(Some(config.build().unwrap()));
        let image = Image::new(whole, Vec::new());
        RoleImage { name: format!("ab12.env/oardocker/t-{role}:latest"), image }
    }

    fn facts(cgroups: &Cgroups, old: bool) -> Facts {
        let roles = super::super::ROLES.map(|role| {
            let process: &[&str] = if role == "rsyslog" { &["rsyslogd", "-n"] } else { &["/sbin/init"] };
            (role.to_owned(), image(role, process))
        });
        Facts {
            images: roles.into(),
            subnet: Subnet::first(),
            cgroups: cgroups.clone(),
            files: files::Files::new(&Machine::below(Path::new("/o")), "ab12"),
            ids: None,
            rootless: false,
            old,
            hosts: "10.158.0.2 server\n".into(),
            resolv_conf: String::new(),
            zone: Some("Europe/Paris".into()),
            prompt_acks: true,
        }
    }

    fn planned(files: &[&str], old: bool) -> Vec<Host> {
        plan(&request(), &facts(&cgroups(files), old)).hosts
    }

    /// On a hybrid host.
    pub(crate) fn sample() -> Plan {
        let facts = facts(&cgroups(&["cpuset/tasks", "unified/cgroup.procs"]), false);
        plan(&request(), &Facts { ids: Some(crate::host::Ids { first: 1_000_000 }), ..facts })
    }

    /// The parts of a plan that the layout of the cgroups and the kind of the folder decide.
    fn told(hosts: &[Host]) -> String {
        let mut text = String::new();
        for host in hosts.iter().filter(|h| h.name != "node2" && h.name != "frontend") {
            let view = &host.spec.cgroup_view;
            let controllers: Vec<_> = view.controllers.iter().map(|c| c.target.as_str()).collect();
            let keys = host.spec.mounts.iter().find(|m| m.target.starts_with("/var/lib/oar/.ssh/"));
            let keys = keys.map_or("none", |m| if m.options.iter().any(|o| o == "ro") { "ro" } else { "rw" });
            let args = host.spec.process.args.join(" ");
            text += &format!("{}: {args}; {} {}; keys {keys}\n", host.name, view.kind, controllers.join(" "));
        }
        text
    }

    /// The server is told when nobody waits, and nobody else.
    #[test]
    fn a_cluster_that_nobody_waits_for_attends_to_itself() {
        let facts = facts(&cgroups(&["cpuset/tasks"]), false);
        for wait in [true, false] {
            let hosts = plan(&Request { wait, ..request() }, &facts).hosts;
            let told = |host: &Host| host.spec.mounts.iter().any(|m| m.target == "/var/lib/container/unattended");
            let names: Vec<_> = hosts.iter().filter(|host| told(host)).map(|host| host.name.as_str()).collect();
            assert_eq!(names, if wait { vec![] } else { vec!["server"] });
        }
    }

    /// Each layout, and a folder of the Python tool: what differs, and nothing else.
    #[test]
    fn plans_of_new_and_old_folders_on_each_layout() {
        let init = "/sbin/init";
        let v1 = "/sbin/init systemd.legacy_systemd_cgroup_controller=1";
        for (files, kind, process, links) in [
            (&["cpuset/tasks"][..], "cgroup", v1, "/dev/oar_cgroups_links/cpuset"),
            (&["cpuset/tasks", "unified/cgroup.procs"], "cgroup2", init, "/dev/oar_cgroups_links/cpuset"),
            (&["cgroup.controllers"], "cgroup2", init, ""),
        ] {
            let new = format!(
                "server: {process}; {kind} {links}; keys none\nrsyslog: rsyslogd -n; {kind} ; keys none\n\
                 node1: {process}; {kind} {links}; keys ro\n"
            );
            assert_eq!(told(&planned(files, false)), new);
            let old = new.replace("keys ro", "keys rw").replace(links, &format!("{links} /dev/cpuset"));
            let expected = if links.is_empty() { new.replace("keys ro", "keys rw") } else { old };
            assert_eq!(told(&planned(files, true)), expected);
            // An engine that makes the cgroups, without root: none of the host's are seen.
            let theirs = Facts { rootless: true, ..facts(&cgroups(files).of_the_engine(), false) };
            let plan = plan(&request(), &theirs);
            assert_eq!(told(&plan.hosts), new.replace(links, ""));
            assert!(plan.contents.copies.iter().all(|copy| copy.rootless));
            assert!(plan.access.is_none() && plan.hosts.iter().all(|host| host.spec.cgroup.is_none()));
        }
        let spec = planned(&["cpuset/tasks"], false).remove(0).spec;
        assert!(spec.process.env.contains(&"container=oci".into()) && spec.process.env.contains(&"A=1".into()));
        assert!(spec.seeds.iter().any(|s| s.path == "/etc/timezone"));
    }

    /// A value in lines, of which none says too much.
    fn flatten(name: &str, value: &serde_json::Value, to: &mut String) {
        let short = value.to_string();
        match value {
            serde_json::Value::Object(fields) if short.len() > 180 => {
                fields.iter().for_each(|(key, value)| flatten(&format!("{name}.{key}"), value, to));
            }
            serde_json::Value::Array(items) if short.len() > 180 => {
                items.iter().enumerate().for_each(|(i, value)| flatten(&format!("{name}.{i}"), value, to));
            }
            _ => *to += &format!("{} = {short}\n", name.trim_start_matches('.')),
        }
    }

    /// All of one plan, to the letter. `UPDATE=1 cargo test golden` writes it anew.
    #[test]
    fn golden() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cluster/plan/golden.txt");
        let plan = sample();
        // The cgroups of the sample are in a directory of this run's own.
        let cpuset = &plan.hosts[0].spec.cgroup_view.controllers[0].host;
        let root = cpuset.to_str().unwrap().split("/cpuset/").next().unwrap().to_owned();
        let mut text = String::new();
        flatten("", &serde_json::to_value(&plan).unwrap(), &mut text);
        let text = text.replace(&root, "/sys/fs/cgroup");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&path).unwrap());
    }

    #[test]
    fn hosts_of_a_cluster() {
        let hosts = planned(&["cpuset/tasks", "unified/cgroup.procs"], false);
        let names: Vec<_> = hosts.iter().map(|h| h.name.as_str()).collect();
        assert_eq!(names, ["server", "frontend", "rsyslog", "node1", "node2"]);
        let spec = |name: &str| &hosts.iter().find(|h| h.name == name).unwrap().spec;
        let has = |name: &str, target: &str| spec(name).mounts.iter().any(|m| m.target == target);
        assert!(has("node1", "/home") && !has("server", "/home"));
        let controllers = |name: &str| spec(name).cgroup_view.controllers.clone();
        assert_eq!(controllers("node1")[0].target, "/dev/oar_cgroups_links/cpuset");
        assert!(controllers("rsyslog").is_empty());
        let cow = |name: &str| spec(name).mounts.last().unwrap().source.clone();
        assert_ne!(cow("node1"), cow("node2"), "every node has its own copy");
        let ports = |name: &str| spec(name).plug.ports.iter().map(|p| (p.host, p.container)).collect::<Vec<_>>();
        assert_eq!(ports("frontend"), [(40080, 80)]);
        assert!(ports("server").is_empty());
    }

    #[test]
    fn the_cgroup_view_follows_the_layout() {
        let kind = |files: &[&str]| planned(files, false)[0].spec.cgroup_view.kind;
        assert_eq!(kind(&["cpuset/tasks"]), "cgroup");
        assert_eq!(kind(&["cpuset/tasks", "unified/cgroup.procs"]), "cgroup2");
        assert_eq!(kind(&["cgroup.controllers"]), "cgroup2");
    }
}
