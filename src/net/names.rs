//! Name resolution inside: the text of /etc/hosts and /etc/resolv.conf. Pure, but for reading the host's files.

use crate::error::{Context as _, Result};
use std::net::{IpAddr, Ipv4Addr};

/// The hosts file of a cluster.
pub fn hosts(nodes: &[(String, Ipv4Addr)]) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    for (name, address) in nodes {
        text.push_str(&format!("{address} {name}\n"));
    }
    text
}

/// The host's resolv.conf without servers that only the host itself reaches.
pub fn resolv_conf() -> Result<String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").doing(|| "cannot read /etc/resolv.conf".into())?;
    Ok(match reachable(&text) {
        Some(text) => text,
        // systemd-resolved listens on loopback and keeps the real servers here.
        None => std::fs::read_to_string("/run/systemd/resolve/resolv.conf")
            .ok()
            .and_then(|t| reachable(&t))
            .unwrap_or_default(),
    })
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
    fn loopback_servers_are_left_out() {
        assert_eq!(reachable("# x\nnameserver 127.0.0.53\noptions edns0\n"), None);
        assert_eq!(
            reachable("nameserver 127.0.0.1\nnameserver 10.0.0.1\nsearch x\n").as_deref(),
            Some("nameserver 10.0.0.1\nsearch x\n")
        );
    }
}
