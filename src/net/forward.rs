//! Getting along with Docker: where it runs, the host's iptables drop what they forward for other bridges, also between two
//! ports of one bridge. Two rules per network let ours through; what may come in is still up to our own nft table.

use crate::error::{Doing as _, Error, Result};
use std::process::Command;

/// Chains that can hold our rules, best first: Docker promises not to touch the first one.
const CHAINS: [&str; 2] = ["DOCKER-USER", "FORWARD"];

/// Every rule of ours carries it as a comment.
fn mark(id: &str) -> String {
    format!("oardocker_{id}")
}

/// The chain that needs our rules, told from all rules of the filter table: none where forwarding is free. Pure.
fn chain(rules: &str) -> Option<&'static str> {
    let dropping = rules.lines().any(|l| l == "-P FORWARD DROP");
    let docker = rules.lines().any(|l| l == "-N DOCKER-USER");
    (dropping || docker).then_some(CHAINS[usize::from(!docker)])
}

/// The rules of a network as arguments that add or delete them. Pure.
fn ours(id: &str, rules: &str) -> Vec<Vec<String>> {
    let mark = mark(id);
    let words = |l: &str| l.split_whitespace().map(|w| w.trim_matches('"').to_owned()).collect::<Vec<_>>();
    rules.lines().map(words).filter(|w| w.first().is_some_and(|f| f == "-A") && w.contains(&mark)).collect()
}

/// Lets a bridge's packets through, both ways.
pub(super) fn open(id: &str, bridge: &str) -> Result<()> {
    let Some(chain) = rules().as_deref().and_then(chain) else { return Ok(()) };
    for side in ["-i", "-o"] {
        iptables(&["-I", chain, side, bridge, "-m", "comment", "--comment", &mark(id), "-j", "ACCEPT"])
            .doing(|| format!("cannot let packets of {bridge} through {chain}"))?;
    }
    Ok(())
}

/// Removes a network's rules.
pub(super) fn close(id: &str) -> Result<()> {
    let mut errors = Vec::new();
    for mut rule in ours(id, &rules().unwrap_or_default()) {
        rule[0] = "-D".into();
        let arguments: Vec<&str> = rule.iter().map(String::as_str).collect();
        errors.extend(iptables(&arguments).map(drop).doing(|| format!("cannot remove a rule of {}", rule[1])).err());
    }
    Error::all(errors)
}

/// All rules of the filter table; none where there is no iptables, and so nothing that Docker could have set up.
fn rules() -> Option<String> {
    iptables(&["-S"]).ok()
}

fn iptables(arguments: &[&str]) -> Result<String> {
    // Waits, in seconds, for others that change rules at this moment.
    let out =
        Command::new("iptables").args(["-w", "60"]).args(arguments).output().doing(|| "cannot run iptables".into())?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(Error::new(String::from_utf8_lossy(&out.stderr).trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_needed_where_forwarding_is_not_free() {
        assert_eq!(chain("-P INPUT ACCEPT\n-P FORWARD ACCEPT\n"), None);
        assert_eq!(chain("-P FORWARD DROP\n"), Some("FORWARD"));
        assert_eq!(chain("-P FORWARD DROP\n-N DOCKER-USER\n-A DOCKER-USER -j RETURN\n"), Some("DOCKER-USER"));
    }

    #[test]
    fn only_rules_of_the_network_itself_are_removed() {
        let rules = "-N oardocker_ab\n-A DOCKER-USER -i oard-ab -m comment --comment oardocker_ab -j ACCEPT\n\
                     -A FORWARD -o oard-ab -m comment --comment \"oardocker_ab\" -j ACCEPT\n\
                     -A DOCKER-USER -i oard-abc -m comment --comment oardocker_abc -j ACCEPT\n-A DOCKER-USER -j RETURN\n";
        let found: Vec<String> = ours("ab", rules).iter().map(|r| r.join(" ")).collect();
        assert_eq!(
            found,
            [
                "-A DOCKER-USER -i oard-ab -m comment --comment oardocker_ab -j ACCEPT",
                "-A FORWARD -o oard-ab -m comment --comment oardocker_ab -j ACCEPT"
            ]
        );
    }
}
