//! NAT, forwarding and published ports: one nft table per network, replaced as a whole; and one more that says who on the host
//! may reach the network, on every engine.

use super::Subnet;
use crate::error::{Doing as _, Error, Result};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// A port of a container that the host answers on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// On the host.
    pub host: u16,
    /// In the container.
    pub container: u16,
    /// On all the host's addresses, not only 127.0.0.1.
    pub any: bool,
}

/// Who on the host reaches a network: its addresses, and the ports that it publishes on loopback. The world is another matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Access {
    /// Accounts, root among them without being named; none: everybody.
    pub users: Option<Vec<u32>>,
    /// Published ports.
    pub ports: Vec<u16>,
}

impl Access {
    /// Root alone, and no ports.
    pub fn root() -> Self {
        Self { users: Some(Vec::new()), ports: Vec::new() }
    }
}

fn table(id: &str) -> String {
    format!("oardocker_{id}")
}

/// Ports of the container at this address.
type Published<'a> = Option<(Ipv4Addr, &'a [Port])>;

/// The table that says who has access, as text. Pure.
fn guard(id: &str, bridge: &str, access: &Access) -> String {
    let table = table(id);
    let fresh = format!("table inet {table}\ndelete table inet {table}\n");
    let Some(users) = &access.users else { return fresh };
    let list = |numbers: &mut dyn Iterator<Item = String>| numbers.collect::<Vec<_>>().join(", ");
    let users = list(&mut [0].iter().chain(users).map(ToString::to_string));
    let mut ports = list(&mut access.ports.iter().map(ToString::to_string));
    if !ports.is_empty() {
        ports = format!(
            "    ip daddr 127.0.0.0/8 tcp dport {{ {ports} }} meta skuid != {{ {users} }} reject with tcp reset\n"
        );
    }
    format!(
        "{fresh}table inet {table} {{
  chain ports {{
    # Before any translation of addresses.
    type filter hook output priority raw; policy accept;
{ports}  }}
  chain addresses {{
    # Answers of the host's services, whoever runs them, are for who asked.
    type filter hook output priority filter; policy accept;
    oifname \"{bridge}\" ct direction original meta skuid != {{ {users} }} reject with icmpx type admin-prohibited
  }}
}}
"
    )
}

/// The whole table as text. Pure.
fn ruleset(id: &str, bridge: &str, subnet: Subnet, published: Published<'_>) -> String {
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
    # And no container may say that it is the host's loopback.
    iifname \"{bridge}\" ip saddr 127.0.0.0/8 drop
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

/// Sets up a network without published ports.
pub(super) fn apply(id: &str, bridge: &str, subnet: Subnet, access: &Access) -> Result<()> {
    let rules = guard(id, bridge, access) + &ruleset(id, bridge, subnet, None);
    nft(&["-f", "-"], &rules).map(drop).doing(|| "cannot set up NAT with nft".into())
}

/// In a namespace that pasta speaks for: its releases of 2023 send segments without any flag, which belong to no connection that is
/// translated. The kernel would take them for its own, and answer that there is no such connection.
pub(super) fn drop_strays() -> Result<()> {
    let rules = "table inet oardocker_strays {
  chain incoming {
    type filter hook prerouting priority mangle; policy accept;
    ct state invalid drop
  }
}
";
    nft(&["-f", "-"], rules).map(drop).doing(|| "cannot set up NAT with nft".into())
}

/// Publishes ports of the container at this address.
pub(super) fn publish(id: &str, bridge: &str, subnet: Subnet, address: Ipv4Addr, ports: &[Port]) -> Result<()> {
    let rules = ruleset(id, bridge, subnet, Some((address, ports)));
    nft(&["-f", "-"], &rules).map(drop).doing(|| "cannot publish ports with nft".into())
}

/// Says who may reach a network that an engine makes.
pub(super) fn restrict(id: &str, bridge: &str, access: &Access) -> Result<()> {
    let rules = guard(id, bridge, access);
    nft(&["-f", "-"], &rules).map(drop).doing(|| "cannot close the network to other accounts with nft".into())
}

pub(super) fn remove(id: &str) -> Result<()> {
    let table = table(id);
    let both = ["ip", "inet"].map(|family| format!("table {family} {table}\ndelete table {family} {table}\n"));
    nft(&["-f", "-"], &both.concat()).map(drop).doing(|| format!("cannot remove nft table {table}"))
}

/// Host ports that oardocker's networks publish, with the network's id.
pub(super) fn published() -> Result<HashMap<u16, String>> {
    let listed = nft(&["-j", "list", "ruleset", "ip"], "").doing(|| "cannot list the nft rules".into())?;
    let listed = serde_json::from_str(&listed).doing(|| "cannot read what nft lists".into())?;
    Ok(ports_in(&listed))
}

fn ports_in(listed: &Value) -> HashMap<u16, String> {
    let rules = listed["nftables"].as_array().into_iter().flatten().map(|item| &item["rule"]);
    let published = |rule: &Value| {
        let id = rule["table"].as_str()?.strip_prefix("oardocker_")?.to_owned();
        let matches = rule["expr"].as_array()?.iter().map(|part| &part["match"]);
        let port = matches.filter(|m| m["left"]["payload"]["field"] == "dport").find_map(|m| m["right"].as_u64())?;
        Some((u16::try_from(port).ok()?, id))
    };
    rules.filter_map(published).collect()
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
    use serde_json::json;

    #[test]
    fn ports_stay_on_loopback_unless_asked() {
        let subnet = Subnet::first();
        let rules = |any| {
            let port = Port { host: 40080, container: 80, any };
            ruleset("x", "b", subnet, Some((Ipv4Addr::new(10, 1, 0, 2), &[port])))
        };
        let closed = rules(false);
        assert!(closed.contains("ip daddr 127.0.0.1 tcp dport 40080 dnat to 10.1.0.2:80"));
        assert!(!closed.contains("fib daddr"));
        let open = rules(true);
        assert_eq!(open.matches("fib daddr type local tcp dport 40080").count(), 2);
    }

    #[test]
    fn other_accounts_are_kept_out_unless_asked() {
        let text = |users| guard("x", "b", &Access { users, ports: vec![40080, 46668] });
        let closed = text(Some(vec![1000]));
        assert!(closed.contains("oifname \"b\" ct direction original meta skuid != { 0, 1000 } reject"), "{closed}");
        assert!(closed.contains("tcp dport { 40080, 46668 } meta skuid != { 0, 1000 } reject"), "{closed}");
        assert_eq!(text(None), "table inet oardocker_x\ndelete table inet oardocker_x\n", "what was there goes");
        let steps = guard("x", "b", &Access::root());
        assert!(steps.contains("meta skuid != { 0 } reject") && !steps.contains("dport"), "{steps}");
    }

    #[test]
    fn published_ports_are_found_again() {
        let rule = |table: &str, expr: Value| json!({"rule": {"family": "ip", "table": table, "chain": "local", "expr": expr}});
        let to = |port: Value| json!({"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": port}});
        let from = json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "127.0.0.1"}});
        let listed = json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "ip", "name": "oardocker_ab12"}},
            rule("other", json!([to(json!(1))])),
            rule("oardocker_ab12", json!([from, to(json!(40080)), {"dnat": {"addr": "10.1.0.2", "port": 80}}])),
            // Not published: who may not reach them.
            rule("oardocker_ab12", json!([to(json!({"set": [40080, 46668]})), {"reject": null}])),
        ]});
        assert_eq!(ports_in(&listed), HashMap::from([(40080, "ab12".to_owned())]));
    }
}
