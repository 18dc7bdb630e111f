//! What takes how long while a cluster starts: spans of the kernel's monotonic clock, ours and those of the hosts' systemd.

use super::{container_id, session};
use crate::engine::Engine;
use nix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;

/// What a host's systemd has started, and when, in microseconds of the clock that this host has too.
const UNITS: [&str; 7] = [
    "/bin/systemctl",
    "show",
    "--property=Id",
    "--property=InactiveExitTimestampMonotonic",
    "--property=ActiveEnterTimestampMonotonic",
    "--",
    "*.service",
];

/// More is nobody's boot.
const MOST_UNITS: usize = 200;

/// A time of the monotonic clock, in microseconds.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every kernel has this clock");
    u64::try_from(time.tv_sec()).unwrap_or_default() * 1_000_000
        + u64::try_from(time.tv_nsec()).unwrap_or_default() / 1000
}

/// One thing that took its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Whose; none: all the cluster's.
    pub host: Option<String>,
    /// A phase of `start`, or a unit of a host.
    pub what: String,
    /// Whether it is a unit of systemd.
    pub unit: bool,
    /// Times of [`now`].
    pub begin: u64,
    /// When it was done.
    pub end: u64,
}

impl Span {
    /// A phase that ends now.
    pub fn phase(host: Option<&str>, what: &str, begin: u64) -> Self {
        Self { host: host.map(Into::into), what: what.into(), unit: false, begin, end: now() }
    }
}

/// The services of hosts that have booted. A host that does not tell has none.
pub async fn units(engine: &dyn Engine, env_id: &str, hosts: &[String]) -> Vec<Span> {
    let all = hosts.iter().map(async |host| {
        let asked = session::capture(engine, &container_id(env_id, host), &UNITS).await;
        asked.map_or_else(|_| Vec::new(), |(_, out, _)| parse(host, &out))
    });
    futures::future::join_all(all).await.concat()
}

fn parse(host: &str, out: &str) -> Vec<Span> {
    let unit = |text: &str| {
        let values: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let time = |name: &str| values.get(name)?.parse().ok().filter(|time| *time > 0);
        let (begin, end) = (time("InactiveExitTimestampMonotonic")?, time("ActiveEnterTimestampMonotonic")?);
        // The host may say anything.
        let name: String = values.get("Id")?.chars().filter(|c| !c.is_control()).take(100).collect();
        (end >= begin).then(|| Span { host: Some(host.into()), what: name, unit: true, begin, end })
    };
    out.split("\n\n").filter_map(unit).take(MOST_UNITS).collect()
}

/// The phases in the order of their begin: name, how many hosts had it, and in microseconds the sum, and from the first begin to the last end.
pub fn sums(spans: &[Span]) -> Vec<(&str, usize, u64, u64)> {
    let mut order: Vec<&Span> = spans.iter().filter(|span| !span.unit).collect();
    order.sort_by_key(|span| span.begin);
    let mut names: Vec<&str> = Vec::new();
    order.iter().for_each(|span| {
        if !names.contains(&span.what.as_str()) {
            names.push(&span.what);
        }
    });
    let sum = |name: &str| {
        let of: Vec<&&Span> = order.iter().filter(|span| span.what == name).collect();
        let (begin, end) = (of.iter().map(|s| s.begin).min(), of.iter().map(|s| s.end).max());
        (of.len(), of.iter().map(|s| s.end - s.begin).sum(), end.unwrap_or_default() - begin.unwrap_or_default())
    };
    names
        .into_iter()
        .map(|name| {
            let (count, all, wall) = sum(name);
            (name, count, all, wall)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_began_and_came_up() {
        let out = "Id=a.service\nInactiveExitTimestampMonotonic=5\nActiveEnterTimestampMonotonic=9\n\n\
                   Id=b.service\nInactiveExitTimestampMonotonic=0\nActiveEnterTimestampMonotonic=0\n\n\
                   Id=c\u{1b}[2J.service\nActiveEnterTimestampMonotonic=9\nInactiveExitTimestampMonotonic=9\n\nnonsense\n";
        let found = parse("node1", out);
        let told: Vec<_> = found.iter().map(|s| (s.what.as_str(), s.begin, s.end)).collect();
        assert_eq!(told, [("a.service", 5, 9), ("c[2J.service", 9, 9)]);
    }

    #[test]
    fn sums_of_phases() {
        let span = |host: &str, what: &str, begin, end| Span {
            host: Some(host.into()),
            what: what.into(),
            unit: what == "u",
            begin,
            end,
        };
        let spans =
            [span("a", "boot", 5, 10), span("a", "create", 0, 4), span("b", "create", 1, 5), span("a", "u", 6, 7)];
        assert_eq!(sums(&spans), [("create", 2, 8, 5), ("boot", 1, 5, 5)]);
    }
}
