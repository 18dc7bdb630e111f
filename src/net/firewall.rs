//! NAT, forwarding and published ports: one nft table per network, replaced as a whole.

use super::Subnet;
use crate::error::{Context as _, Error, Result};
use std::collections::HashMap;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// A port of a container that the host answers on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// On the host.
    pub host: u16,
    /// In the container.
    pub container: u16,
    /// On all the host's addresses, not only 127.0.0.1.
    pub any: bool,
}

fn table(id: &str) -> String {
    format!("oardocker_{id}")
}

/// Ports of the container at this address.
type Published<'a> = Option<(Ipv4Addr, &'a [Port])>;

/// The whole table as text. Pure.
fn ruleset(id: &str, bridge: &str, subnet: &Subnet, published: Published<'_>) -> String {
    let mut incoming = String::new();
    let mut local = String::new();
    for (address, p) in published.into_iter().flat_map(|(address, ports)| ports.iter().map(move |p| (address, p))) {
        let to = format!("tcp dport {} dnat to {address}:{}", p.host, p.container);
        if p.any {
            incoming.push_str(&format!("    fib daddr type local {to}\n"));
            local.push_str(&format!("    fib daddr type local {to}\n"));
        } else {
            local.push_str(&format!("    ip daddr 127.0.0.1 {to}\n"));
        }
    }
    let table = table(id);
    // Adding before deleting makes the deletion succeed whether or not the table was there, in one transaction.
    format!(
        "table ip {table}\ndelete table ip {table}\ntable ip {table} {{
  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    # route_localnet lets the host's loopback ports be forwarded here; it must not open them to the containers.
    iifname \"{bridge}\" ip daddr 127.0.0.0/8 drop
  }}
  chain incoming {{
    type nat hook prerouting priority dstnat; policy accept;
{incoming}  }}
  chain local {{
    type nat hook output priority -100; policy accept;
{local}  }}
  chain outgoing {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != \"{bridge}\" masquerade
    ip saddr 127.0.0.0/8 oifname \"{bridge}\" masquerade
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname \"{bridge}\" oifname \"{bridge}\" accept
    oifname \"{bridge}\" ct state established,related accept
    oifname \"{bridge}\" ct status dnat accept
    oifname \"{bridge}\" drop
  }}
}}
"
    )
}

pub(super) fn apply(id: &str, bridge: &str, subnet: &Subnet, ports: Published<'_>) -> Result<()> {
    nft(&["-f", "-"], &ruleset(id, bridge, subnet, ports)).map(drop).doing(|| "cannot set up NAT with nft".into())
}

pub(super) fn remove(id: &str) -> Result<()> {
    let table = table(id);
    nft(&["-f", "-"], &format!("table ip {table}\ndelete table ip {table}\n"))
        .map(drop)
        .doing(|| format!("cannot remove nft table {table}"))
}

/// Host ports that oardocker's networks publish, with the network's id.
pub(super) fn published() -> Result<HashMap<u16, String>> {
    Ok(parse_published(&nft(&["list", "ruleset", "ip"], "").doing(|| "cannot list the nft rules".into())?))
}

fn parse_published(text: &str) -> HashMap<u16, String> {
    let mut id = None;
    let mut ports = HashMap::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("table ip ") {
            id = name.strip_prefix("oardocker_").map(|n| n.trim_end_matches([' ', '{']).to_owned());
        }
        let mut words = line.split_whitespace().skip_while(|w| *w != "dport");
        if let (Some(id), Some(port)) = (&id, words.nth(1).and_then(|p| p.parse().ok())) {
            ports.insert(port, id.clone());
        }
    }
    ports
}

fn nft(args: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new("nft is not installed").hint("install it: apt install nftables"),
            _ => Error::new(format!("cannot run nft: {e}")),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).doing(|| "cannot feed nft".into())?;
    }
    let out = child.wait_with_output().doing(|| "cannot run nft".into())?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(Error::new(String::from_utf8_lossy(&out.stderr).trim().to_owned()))
    }
}

/// Lets the host route for the bridge. Forwarding stays on: others on the host may have come to need it.
pub(super) fn enable_forwarding(bridge: &str) -> Result<()> {
    set("/proc/sys/net/ipv4/ip_forward")?;
    set(&format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"))
}

fn set(path: &str) -> Result<()> {
    let doing = || format!("cannot set {path} to 1");
    if std::fs::read_to_string(path).doing(doing)?.trim() != "1" {
        std::fs::write(path, "1").doing(doing)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stay_on_loopback_unless_asked() {
        let subnet = Subnet::first();
        let rules = |any| {
            let port = Port { host: 40080, container: 80, any };
            ruleset("x", "b", &subnet, Some((Ipv4Addr::new(10, 1, 0, 2), &[port])))
        };
        let closed = rules(false);
        assert!(closed.contains("ip daddr 127.0.0.1 tcp dport 40080 dnat to 10.1.0.2:80"));
        assert!(!closed.contains("fib daddr"));
        let open = rules(true);
        assert_eq!(open.matches("fib daddr type local tcp dport 40080").count(), 2);
    }

    #[test]
    fn published_ports_are_found_again() {
        let text = "table ip other {\n  tcp dport 1 dnat to 1.2.3.4:5\n}\ntable ip oardocker_ab12 {\n chain local {\n\
                    \tip daddr 127.0.0.1 tcp dport 40080 dnat to 10.1.0.2:80\n }\n}\n";
        assert_eq!(parse_published(text), HashMap::from([(40080, "ab12".to_owned())]));
    }
}
