//! What `start --plan` shows: a plan in words, or as JSON.

use super::table;
use crate::cluster::contents::Source;
use crate::cluster::plan::{Host, Plan};
use crate::error::{Doing as _, Result};
use crate::host::{IDS, Ids};
use crate::workdir;

/// The whole plan.
pub fn json(plan: &Plan) -> Result<String> {
    serde_json::to_string_pretty(plan).map(|text| text + "\n").doing(|| "cannot write the plan".into())
}

/// What a user would want to know of it.
pub fn text(plan: &Plan) -> String {
    let facts = [
        ("Network", vec![format!("{}, reached by {}", plan.subnet, reached_by(plan))]),
        ("Users", vec![users(plan)]),
        ("Ports", ports(plan)),
        ("Shared", shared(plan)),
        ("/home", vec![home(plan)]),
        ("Files", vec![files(plan)]),
    ];
    let lines = facts.iter().flat_map(|(what, lines)| {
        lines.iter().enumerate().map(move |(i, line)| format!("{:<9}{line}\n", if i == 0 { *what } else { "" }))
    });
    let rows: Vec<Vec<String>> = plan.hosts.iter().map(row).collect();
    let headings = ["Host", "IP", "Image", "First process", "Cgroups"];
    format!("{}\n{}", lines.collect::<String>(), table::render(&headings, &rows))
}

/// Whether the hosts' root is a user without root.
fn is_a_user_s(plan: &Plan) -> bool {
    plan.hosts.iter().any(|host| host.spec.ids.is_some_and(Ids::are_a_user_s))
}

fn reached_by(plan: &Plan) -> String {
    match plan.access.as_ref().map(|access| &access.users) {
        None | Some(None) => "everybody on this host".into(),
        Some(Some(_)) if is_a_user_s(plan) => "you".into(),
        Some(Some(users)) => {
            let users = users.iter().map(|id| format!("account {id}"));
            ["root".to_owned()].into_iter().chain(users).collect::<Vec<_>>().join(" and ")
        }
    }
}

/// Whose the hosts' accounts are on this machine.
fn users(plan: &Plan) -> String {
    match plan.hosts.first().and_then(|host| host.spec.ids) {
        // Nobody can be kept from a network of one's own engine.
        _ if plan.access.is_none() || is_a_user_s(plan) => "root is you, the others are yours in /etc/subuid".into(),
        Some(ids) => format!("their own, {} to {} of this host", ids.first, ids.of(IDS - 1)),
        None => "those of this host: their root is its root".into(),
    }
}

fn home(plan: &Plan) -> String {
    let frontend = plan.hosts.iter().find(|host| host.name == "frontend").filter(|_| plan.home.is_some());
    frontend.map_or_else(|| "empty".into(), |host| format!("that of {}", image(host)))
}

/// How many, and where most of them are.
fn files(plan: &Plan) -> String {
    let files = &plan.contents.files;
    let dir =
        files.first().and_then(|file| file.path.parent()).map_or_else(String::new, |dir| dir.display().to_string());
    format!("{} in {dir} (--json names them)", files.len())
}

/// Its name for the user.
fn image(host: &Host) -> &str {
    let name = host.spec.image.name.as_str();
    workdir::owned(name).map_or(name, |(_, name)| name)
}

fn ports(plan: &Plan) -> Vec<String> {
    let of = |host: &Host| {
        let name = host.name.clone();
        let line = move |p: &crate::net::Port| {
            let address = if p.any { "0.0.0.0" } else { "127.0.0.1" };
            format!("{address}:{} -> {name}:{}", p.host, p.container)
        };
        host.spec.plug.ports.iter().map(line).collect::<Vec<_>>()
    };
    plan.hosts.iter().flat_map(of).collect()
}

/// The user's folders, with where the first host sees each.
fn shared(plan: &Plan) -> Vec<String> {
    let of = |shared: &crate::cluster::contents::Shared| {
        let Source::Volume(source) = &shared.source else { return None };
        let mounts = &plan.hosts.first()?.spec.mounts;
        let plain = mounts.iter().find(|m| shared.place.as_os_str() == m.source.as_str());
        let copy = plan.contents.copies.iter().find(|copy| copy.lower == shared.place).and_then(|copy| {
            let merged = copy.dir.join("merged");
            mounts.iter().find(|m| merged.as_os_str() == m.source.as_str())
        });
        let read_only = plain.is_some_and(|m| m.options.iter().any(|o| o == "ro"));
        let mode = if copy.is_some() {
            "cow"
        } else if read_only {
            "ro"
        } else {
            "rw"
        };
        plain.or(copy).map(|m| format!("{source} -> {} ({mode})", m.target))
    };
    plan.contents.shared.iter().filter_map(of).collect()
}

fn row(host: &Host) -> Vec<String> {
    let spec = &host.spec;
    let address = spec.plug.subnet.host(spec.plug.index).map_or_else(|e| e.to_string(), |ip| ip.to_string());
    let view = &spec.cgroup_view;
    let controllers = view.controllers.iter().map(|c| c.name.clone());
    let seen = [view.kind.to_owned()].into_iter().chain(controllers).collect::<Vec<_>>().join(" ");
    vec![host.name.clone(), address, image(host).to_owned(), spec.process.args.join(" "), seen]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::plan::tests::sample;

    /// What a user sees of a cluster of two nodes with a folder of his own.
    const SHOWN: &str = "\
Network  10.158.0.0/22, reached by root and account 1000
Users    their own, 1000000 to 1065535 of this host
Ports    127.0.0.1:40080 -> frontend:80
Shared   /src -> /x (cow)
/home    empty
Files    18 in /o/data/clusters/ab12 (--json names them)
";

    #[test]
    fn a_plan_in_words() {
        let text = text(&sample());
        assert!(text.starts_with(SHOWN), "{text}");
        let host = text.lines().find(|line| line.starts_with("node2")).unwrap();
        let words: Vec<_> = host.split_whitespace().collect();
        assert_eq!(words, ["node2", "10.158.0.6", "oardocker/t-node:latest", "/sbin/init", "cgroup2", "cpuset"]);
    }

    #[test]
    fn a_plan_as_json_has_everything() {
        let value: serde_json::Value = serde_json::from_str(&json(&sample()).unwrap()).unwrap();
        assert_eq!(value["hosts"][3]["spec"]["hostname"], "node1");
        assert_eq!(value["subnet"], "10.158.0.0/22");
        assert_eq!(value["contents"]["copies"][0]["host"], "server");
        assert!(value["contents"]["files"].as_array().unwrap().len() > 10);
    }
}
