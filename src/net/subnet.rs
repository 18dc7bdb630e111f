//! Which addresses a network gets.

use crate::error::{Context as _, Error, Result};
use std::fmt;
use std::net::Ipv4Addr;

/// Networks are cut from here: 10.158.0.0/15, a range that no common tool takes by default.
const POOL: (u32, u8) = (u32::from_be_bytes([10, 158, 0, 0]), 15);

/// 1,022 addresses each.
const PREFIX: u8 = 22;

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet(u32);

impl Subnet {
    /// The first of all that may be given.
    pub fn first() -> Self {
        Self(POOL.0)
    }

    /// The bridge's own address.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.0 + 1)
    }

    /// Length of the prefix in bits.
    pub fn prefix(&self) -> u8 {
        PREFIX
    }

    /// The address of the container number `index`, from 1.
    pub fn host(&self, index: u32) -> Result<Ipv4Addr> {
        let last = (1 << (32 - PREFIX)) - 2;
        if index == 0 || index + 1 > last {
            return Err(Error::new(format!("a network has room for {} containers", last - 1)));
        }
        Ok(Ipv4Addr::from(self.0 + 1 + index))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{PREFIX}", Ipv4Addr::from(self.0))
    }
}

/// A free subnet; the same id tries the same ones first. `taken` are networks, as in `10.158.4.0/22`, that have no route yet.
pub(super) fn choose(id: &str, taken: &[String]) -> Result<Subnet> {
    let text = std::fs::read_to_string("/proc/net/route").doing(|| "cannot read /proc/net/route".into())?;
    let used: Vec<_> = routes(&text).into_iter().chain(taken.iter().filter_map(|t| network(t))).collect();
    first_free(id, &used).ok_or_else(|| {
        Error::new("every network in 10.158.0.0/15 is in use").hint("stop clusters that are not needed any more")
    })
}

/// Destination and mask of each route but the default one.
fn routes(table: &str) -> Vec<(u32, u32)> {
    // The kernel prints the numbers in memory order.
    let number = |hex: &str| u32::from_str_radix(hex, 16).ok().map(u32::swap_bytes);
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            Some((number(fields.get(1)?)?, number(fields.get(7)?)?))
        })
        .filter(|(_, mask)| *mask != 0)
        .collect()
}

/// Address and mask of `10.158.4.0/22`; none of what is not IPv4.
fn network(text: &str) -> Option<(u32, u32)> {
    let (address, prefix) = text.split_once('/')?;
    let prefix: u32 = prefix.parse().ok().filter(|p| (1..=32).contains(p))?;
    Some((address.parse::<Ipv4Addr>().ok()?.into(), u32::MAX << (32 - prefix)))
}

fn first_free(id: &str, used: &[(u32, u32)]) -> Option<Subnet> {
    let count = 1_u32 << (PREFIX - POOL.1);
    let start = id.bytes().fold(5381_u32, |h, b| h.wrapping_mul(33) ^ u32::from(b));
    let mask = u32::MAX << (32 - PREFIX);
    (0..count).map(|i| POOL.0 + ((start.wrapping_add(i) % count) << (32 - PREFIX))).map(Subnet).find(|s| {
        // Two networks overlap when they agree under the wider mask.
        used.iter().all(|(net, m)| (net ^ s.0) & m & mask != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_network_is_avoided() {
        let first = first_free("abc", &[]).unwrap();
        let second = first_free("abc", &[(first.0, u32::MAX << 10)]).unwrap();
        assert_ne!(first, second);
        // A narrower and a wider route hit as well.
        assert_ne!(first_free("abc", &[(first.0 + 256, u32::MAX << 8)]).unwrap(), first);
        assert_eq!(first_free("abc", &[(POOL.0, u32::MAX << 17)]), None);
    }

    #[test]
    fn the_routing_table_is_read() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(routes(text), [(0xC000_0200, 0xFFFF_FF00)]);
    }

    #[test]
    fn networks_are_read() {
        assert_eq!(network("10.0.0.0/8"), Some((0x0A00_0000, 0xFF00_0000)));
        for bad in ["fd00::/64", "10.0.0.0", "10.0.0.0/0", "10.0.0.0/33"] {
            assert_eq!(network(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses() {
        let subnet = Subnet(POOL.0);
        assert_eq!(subnet.to_string(), "10.158.0.0/22");
        assert_eq!(subnet.gateway().to_string(), "10.158.0.1");
        assert_eq!(subnet.host(1).unwrap().to_string(), "10.158.0.2");
        assert_eq!(subnet.host(300).unwrap().to_string(), "10.158.1.45");
        assert!(subnet.host(1021).is_ok());
        assert!(subnet.host(1022).is_err());
        assert!(subnet.host(0).is_err());
    }
}
