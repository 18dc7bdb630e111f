//! Which addresses a network gets: a piece of a pool that nothing on this host has a route of its own for.

use crate::error::{Doing as _, Error, Result};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::OnceLock;

/// Where networks are cut from when nobody says: a range that no common tool takes by default.
const POOL: Subnet = Subnet { base: u32::from_be_bytes([10, 158, 0, 0]), prefix: 15 };

/// A piece of a pool, in bits: 1,022 addresses. A smaller pool is one piece.
const PIECE: u8 = 22;

/// The smallest pool has room for a few nodes.
const SMALLEST: u8 = 28;

/// What the user has said.
static POOLS: OnceLock<Vec<Subnet>> = OnceLock::new();

/// Cuts networks from these ranges from now on, as in `10.1.0.0/16,192.168.7.0/24`.
pub fn use_pools(text: &str) -> Result<()> {
    let mut pools =
        text.split([',', ' ']).filter(|p| !p.is_empty()).map(Subnet::from_str).collect::<Result<Vec<_>>>()?;
    if pools.is_empty() {
        return Err(Error::usage("--network needs a range of addresses").hint(EXAMPLE));
    }
    // The widest first: a cluster that has room there may not have it in the others.
    pools.sort_by_key(|pool| pool.prefix);
    let _ = POOLS.set(pools);
    Ok(())
}

const EXAMPLE: &str = "write it as in --network 10.1.0.0/16, or several with commas";

fn pools() -> &'static [Subnet] {
    POOLS.get().map_or(std::slice::from_ref(&POOL), Vec::as_slice)
}

/// Fails when no network can have so many containers.
pub fn require_room(containers: u32) -> Result<()> {
    let room = pools().iter().map(|p| p.piece().room()).max().unwrap_or(0);
    if containers <= room {
        return Ok(());
    }
    Err(Error::new(format!("the cluster needs {containers} addresses, and a network of {} has {room}", told(pools())))
        .hint("name a wider range with --network, or start fewer nodes"))
}

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

impl Subnet {
    /// The first of all that are given by default.
    pub fn first() -> Self {
        POOL.piece()
    }

    /// The bridge's own address.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// Length of the prefix in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// How many containers have an address in it.
    fn room(self) -> u32 {
        (1 << (32 - self.prefix)) - 3
    }

    /// The address of the container number `index`, from 1.
    pub fn host(&self, index: u32) -> Result<Ipv4Addr> {
        if index == 0 || index > self.room() {
            return Err(Error::new(format!("a network has room for {} containers", self.room())));
        }
        Ok(Ipv4Addr::from(self.base + 1 + index))
    }

    /// The first piece of it.
    fn piece(self) -> Self {
        Self { prefix: self.prefix.max(PIECE), ..self }
    }

    /// All pieces, from one that depends on the id on.
    fn pieces(self, id: &str) -> impl Iterator<Item = Self> {
        let piece = self.piece();
        let count = 1_u32 << (piece.prefix - self.prefix);
        let start = id.bytes().fold(5381_u32, |h, b| h.wrapping_mul(33) ^ u32::from(b));
        (0..count)
            .map(move |i| Self { base: self.base + ((start.wrapping_add(i) % count) << (32 - piece.prefix)), ..piece })
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    fn has(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == self.base
    }

    fn overlaps(self, other: Self) -> bool {
        // Two networks do when they agree under the wider mask.
        (self.base ^ other.base) & self.mask() & other.mask() == 0
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl serde::Serialize for Subnet {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::usage(format!("{text:?} is no range of addresses: {why}")).hint(EXAMPLE);
        let (address, prefix) = text.split_once('/').ok_or_else(|| bad("it has no length, such as /16"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad("it begins with no IPv4 address"))?;
        let prefix = prefix.parse().ok().filter(|p| (8..=SMALLEST).contains(p));
        let prefix = prefix.ok_or_else(|| bad("its length is not between /8 and /28"))?;
        let subnet = Self { base: address.into(), prefix };
        if subnet.base & !subnet.mask() != 0 {
            let meant = Self { base: subnet.base & subnet.mask(), ..subnet };
            return Err(bad(&format!("{meant} would be one")));
        }
        Ok(subnet)
    }
}

fn told(pools: &[Subnet]) -> String {
    pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What a host's addresses are used for already.
#[derive(Debug, Default)]
struct Used {
    /// Networks, and who has them.
    routes: Vec<(Subnet, String)>,
    /// Addresses that must stay within reach: the next hops of routes, name servers.
    addresses: Vec<Ipv4Addr>,
    /// Networks of the engine's own, which wants no two that overlap.
    taken: Vec<Subnet>,
}

impl Used {
    /// Why a network cannot be had. The kernel goes by the most specific route, so one that is less specific than ours is no reason,
    /// such as that of a VPN to all of 10.0.0.0/8.
    fn clash(&self, subnet: Subnet) -> Option<String> {
        let route = self.routes.iter().find(|(r, _)| r.prefix >= subnet.prefix && r.overlaps(subnet));
        let address = || self.addresses.iter().find(|a| subnet.has(**a));
        let taken = || self.taken.iter().find(|t| t.overlaps(subnet));
        route
            .map(|(route, device)| format!("the route {route} through {device}"))
            .or_else(|| Some(format!("{} is the address of a router or a name server", address()?)))
            .or_else(|| Some(format!("the engine's network {}", taken()?)))
    }
}

/// A free subnet; the same id tries the same ones first. `taken` are networks, as in `10.158.4.0/22`, that have no route yet.
pub(super) fn choose(id: &str, taken: &[String]) -> Result<Subnet> {
    let path = "/proc/net/route";
    let text = std::fs::read_to_string(path).doing(|| format!("cannot read {path}"))?;
    let mut used = routes(&text);
    // It gives its own ones up before it gets others.
    used.routes.retain(|(_, device)| *device != super::bridge(id));
    used.taken = taken.iter().filter_map(|t| network(t)).collect();
    used.addresses.extend(name_servers());
    first_free(id, pools(), &used)
}

fn first_free(id: &str, pools: &[Subnet], used: &Used) -> Result<Subnet> {
    let all = || pools.iter().flat_map(|pool| pool.pieces(id));
    // Best one of which nobody has ever heard.
    let unheard = |s: &Subnet| used.routes.iter().all(|(r, _)| !r.overlaps(*s)) && used.clash(*s).is_none();
    if let Some(found) = all().find(unheard).or_else(|| all().find(|s| used.clash(*s).is_none())) {
        return Ok(found);
    }
    let mut clashes: Vec<String> = all().filter_map(|s| used.clash(s)).collect();
    clashes.sort();
    clashes.dedup();
    let more = if clashes.len() > 3 { ", and others" } else { "" };
    clashes.truncate(3);
    Err(Error::new(format!("every network in {} is in use: {}{more}", told(pools), clashes.join(", ")))
        .hint("stop clusters that are not needed any more, or name another range: --network 172.30.0.0/16"))
}

/// The kernel's table of routes, but for the default ones.
fn routes(table: &str) -> Used {
    // The kernel prints the numbers in memory order.
    let number = |hex: &str| u32::from_str_radix(hex, 16).ok().map(u32::swap_bytes);
    let mut used = Used::default();
    for line in table.lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        let field = |i: usize| fields.get(i).and_then(|f| number(f));
        let (Some(base), Some(gateway), Some(mask)) = (field(1), field(2), field(7)) else { continue };
        if gateway != 0 {
            used.addresses.push(gateway.into());
        }
        if mask != 0 {
            let prefix = u8::try_from(mask.leading_ones()).unwrap_or(32);
            used.routes.push((Subnet { base, prefix }, fields[0].to_owned()));
        }
    }
    used
}

fn name_servers() -> Vec<Ipv4Addr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    super::names::servers(&text).filter_map(|server| server.parse().ok()).collect()
}

/// A network of an engine; none of what is not IPv4.
fn network(text: &str) -> Option<Subnet> {
    let (address, prefix) = text.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|p| (1..=32).contains(p))?;
    let subnet = Subnet { base: address.parse::<Ipv4Addr>().ok()?.into(), prefix };
    Some(Subnet { base: subnet.base & subnet.mask(), ..subnet })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        network(text).unwrap()
    }

    fn used(routes: &[&str]) -> Used {
        Used { routes: routes.iter().map(|r| (subnet(r), "tun0".to_owned())).collect(), ..Used::default() }
    }

    fn free(used: &Used) -> Result<Subnet> {
        first_free("abc", &[POOL], used)
    }

    #[test]
    fn a_used_network_is_avoided() {
        let first = free(&Used::default()).unwrap();
        let own = first.to_string();
        assert_ne!(free(&used(&[&own])).unwrap(), first);
        // A narrower one hits as well.
        let narrower = format!("{}/24", Ipv4Addr::from(first.base + 256));
        assert_ne!(free(&used(&[&narrower])).unwrap(), first);
        let router = Used { addresses: vec![first.host(9).unwrap()], ..Used::default() };
        assert_ne!(free(&router).unwrap(), first, "what leads to others stays within reach");
        let engine = Used { taken: vec![subnet("10.158.0.0/16")], ..Used::default() };
        assert!(subnet("10.159.0.0/16").has(free(&engine).unwrap().gateway()));
    }

    #[test]
    fn a_route_that_is_less_specific_is_no_clash() {
        for wide in ["10.0.0.0/8", "10.158.0.0/15", "0.0.0.0/1"] {
            assert_eq!(free(&used(&[wide])).unwrap(), free(&Used::default()).unwrap(), "{wide}");
        }
        // Where there is a choice, not below it.
        let second = free(&used(&["10.158.0.0/16"])).unwrap();
        assert!(subnet("10.159.0.0/16").has(second.gateway()), "{second}");
    }

    #[test]
    fn a_clash_names_the_route() {
        let all: Vec<String> = POOL.pieces("x").map(|s| s.to_string()).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let text = free(&used(&all)).unwrap_err().to_string();
        assert!(
            text.contains("every network in 10.158.0.0/15 is in use: the route 10.158.0.0/22 through tun0"),
            "{text}"
        );
        let own = [subnet("192.168.7.0/24")];
        let text = first_free("abc", &own, &used(&["192.168.7.128/25"])).unwrap_err().to_string();
        assert!(text.ends_with("192.168.7.0/24 is in use: the route 192.168.7.128/25 through tun0"), "{text}");
        assert_eq!(first_free("abc", &own, &Used::default()).unwrap(), own[0], "a small pool is one network");
    }

    #[test]
    fn the_routing_table_is_read() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let used = routes(text);
        assert_eq!(used.routes, [(subnet("192.0.2.0/24"), "eth0".to_owned())]);
        assert_eq!(used.addresses, [Ipv4Addr::new(192, 0, 2, 1)]);
    }

    #[test]
    fn ranges_are_read() {
        for good in ["10.0.0.0/8", "10.1.0.0/16", "192.168.7.0/24", "192.168.7.16/28"] {
            assert_eq!(good.parse::<Subnet>().unwrap().to_string(), good);
        }
        for (bad, why) in [
            ("10.0.0.0", "has no length"),
            ("fd00::/64", "no IPv4 address"),
            ("10.1.2.0/16", "10.1.0.0/16 would be one"),
            ("10.0.0.0/7", "not between"),
            ("10.0.0.0/29", "not between"),
            ("10.0.0.0/x", "not between"),
        ] {
            let error = bad.parse::<Subnet>().unwrap_err();
            assert!(error.to_string().contains(why) && error.exit_code() == 2, "{error}");
        }
        for bad in ["fd00::/64", "10.0.0.0", "10.0.0.0/0", "10.0.0.0/33"] {
            assert_eq!(network(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses() {
        let subnet = Subnet::first();
        assert_eq!(subnet.to_string(), "10.158.0.0/22");
        assert_eq!(subnet.gateway().to_string(), "10.158.0.1");
        assert_eq!(subnet.host(1).unwrap().to_string(), "10.158.0.2");
        assert_eq!(subnet.host(300).unwrap().to_string(), "10.158.1.45");
        assert!(subnet.host(1021).is_ok());
        assert!(subnet.host(1022).is_err());
        assert!(subnet.host(0).is_err());
        assert_eq!("192.168.7.16/28".parse::<Subnet>().unwrap().host(13).unwrap().to_string(), "192.168.7.30");
    }
}
