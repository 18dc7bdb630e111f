//! Name resolution inside: the text of /etc/hosts and /etc/resolv.conf. Pure, but for reading the host's files.

use crate::error::{Doing as _, Result};
use std::net::{IpAddr, Ipv4Addr};

/// The hosts file of a cluster.
pub fn hosts(nodes: &[(String, Ipv4Addr)]) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    for (name, address) in nodes {
        text.push_str(&format!("{address} {name}\n"));
    }
    text
}

/// Where those that listen on the host's loopback keep the servers that they ask themselves.
const BEHIND: [&str; 4] = [
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
    "/run/dnsmasq/resolv.conf",
    "/run/resolvconf/resolv.conf",
];

/// What hosts and build steps are told about name servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolv {
    /// The text of /etc/resolv.conf.
    pub text: String,
    /// That there is no server which they could reach, in the words for the user.
    pub warning: Option<String>,
}

/// The host's resolv.conf without servers that only the host itself reaches.
pub fn resolv_conf() -> Result<Resolv> {
    let text = std::fs::read_to_string("/etc/resolv.conf").doing(|| "cannot read /etc/resolv.conf".into())?;
    let behind = BEHIND.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    Ok(resolv(&text, behind))
}

fn resolv(text: &str, mut behind: impl Iterator<Item = String>) -> Resolv {
    let found = reachable(text).or_else(|| behind.find_map(|text| reachable(&text)));
    let warning = found.is_none().then(|| {
        let servers: Vec<&str> = servers(text).collect();
        let servers = if servers.is_empty() { "none".to_owned() } else { servers.join(", ") };
        format!(
            "/etc/resolv.conf names no server that hosts and build steps reach ({servers}), so names of other machines mean \
             nothing there: add a line such as `nameserver 192.0.2.1` to it"
        )
    });
    Resolv { text: found.unwrap_or_default(), warning }
}

/// The servers that a resolv.conf names.
pub(super) fn servers(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("nameserver")).map(str::trim)
}

/// The text with loopback servers removed; None when no server is left.
fn reachable(text: &str) -> Option<String> {
    let server = |line: &str| line.strip_prefix("nameserver").map(|s| s.trim().to_owned());
    let is_loopback = |s: &str| s.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let kept: Vec<&str> = text
        .lines()
        .filter(|l| !l.starts_with('#') && !l.trim().is_empty())
        .filter(|l| server(l).is_none_or(|s| !is_loopback(&s)))
        .collect();
    kept.iter().any(|l| server(l).is_some()).then(|| kept.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_behind_one_on_loopback_are_found() {
        let behind = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>().into_iter();
        let stub = "nameserver 127.0.0.53\n";
        let found = resolv(stub, behind(&["nameserver 127.0.0.1\n", "# x\nnameserver 192.0.2.7\n"]));
        assert_eq!(found, Resolv { text: "nameserver 192.0.2.7\n".into(), warning: None });
        let lost = resolv(stub, behind(&[]));
        assert!(lost.text.is_empty() && lost.warning.unwrap().contains("reach (127.0.0.53)"));
        assert!(resolv("search lab\n", behind(&[])).warning.unwrap().contains("reach (none)"));
    }

    #[test]
    fn loopback_servers_are_left_out() {
        assert_eq!(reachable("# x\nnameserver 127.0.0.53\noptions edns0\n"), None);
        assert_eq!(
            reachable("nameserver 127.0.0.1\nnameserver 10.0.0.1\nsearch x\n").as_deref(),
            Some("nameserver 10.0.0.1\nsearch x\n")
        );
    }
}
