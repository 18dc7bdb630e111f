//! Every command killed at random instants, on each engine: the next `stop` succeeds, and then nothing is left.

use super::ready_on;
use crate::support::{Engine, Workdir, assert_same_state, oar_tarball, require_root, state_on, texts};
use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A command, and whether it finds a cluster that runs.
struct Case {
    args: &'static [&'static str],
    running: bool,
    /// It is killed within this time, in milliseconds: a bit more than it takes.
    within: u64,
}

/// All commands but `destroy`, after which each point would have to build its images again.
const CASES: [Case; 12] = [
    Case { args: &["start", "-n", "2"], running: false, within: 3000 },
    Case { args: &["start", "-n", "2"], running: true, within: 3500 },
    Case { args: &["stop"], running: true, within: 700 },
    Case { args: &["reset", "node1"], running: true, within: 2500 },
    Case { args: &["install", "--no-cache", "SRC"], running: false, within: 8000 },
    Case { args: &["build", "-q"], running: true, within: 300 },
    Case { args: &["exec", "--no-tty", "node1", "sleep 100"], running: true, within: 500 },
    Case { args: &["connect", "node1"], running: true, within: 300 },
    Case { args: &["logs", "-f"], running: true, within: 300 },
    Case { args: &["status"], running: true, within: 200 },
    Case { args: &["clean"], running: true, within: 300 },
    Case { args: &["init", "-f"], running: false, within: 100 },
];

/// Numbers that look random; the same seed gives the same ones (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

pub fn kill_at_random(engine: Engine) {
    require_root();
    let _alone = engine.alone();
    let workdir = ready_on(engine, "trixie");
    workdir.ok(&["stop"]);
    let before = state_on(engine);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("OARDOCKER_TEST_SEED").unwrap_or(now.as_nanos() as u64 | 1);
    let points = number("OARDOCKER_TEST_KILLS").unwrap_or(CASES.len() as u64);
    println!("{points} kills on {}, OARDOCKER_TEST_SEED={seed}", engine.name());
    let mut random = Random(seed);
    let mut faults = Vec::new();
    for point in 0..points {
        // Each command in its turn, so that a short run has them all.
        let case = &CASES[usize::try_from(point).unwrap() % CASES.len()];
        let delay = Duration::from_millis(random.below(case.within));
        faults.extend(kill_once(&workdir, case, delay, &before).map(|fault| {
            format!("point {point}: {:?} (running: {}) killed after {delay:?}: {fault}", case.args, case.running)
        }));
    }
    assert!(
        faults.is_empty(),
        "seed {seed}: {} of {points} kills were not cleaned up:\n{}",
        faults.len(),
        faults.join("\n")
    );
    // And it still works.
    workdir.ok(&["start", "-n", "1"]);
    assert_eq!(workdir.sh("node1", "hostname"), "node1\n");
    workdir.ok(&["stop"]);
    assert_same_state(&before, &state_on(engine));
}

/// What went wrong, if anything.
fn kill_once(workdir: &Workdir, case: &Case, delay: Duration, before: &BTreeSet<String>) -> Option<String> {
    if case.running {
        workdir.ok(&["start", "-n", "1"]);
    }
    let source = oar_tarball();
    let args: Vec<&str> = case.args.iter().map(|a| if *a == "SRC" { source.to_str().unwrap() } else { a }).collect();
    let begun = Instant::now();
    let mut command = workdir.command(&args);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(delay.saturating_sub(begun.elapsed()));
    // It may have ended by itself before.
    if let Some(user) = workdir.engine.user() {
        user.signal(9);
    }
    let _ = child.kill();
    child.wait().unwrap();
    // A killed init leaves an env dir that the next one completes.
    if case.args[0] == "init" {
        workdir.ok(&["init", "-f"]);
    }
    let out = workdir.run(&["stop"]);
    let after = state_on(workdir.engine);
    let mut faults = Vec::new();
    if !out.status.success() {
        faults.push(format!("`stop` ended with {}: {}", out.status, texts(&out).1));
    }
    if after != *before {
        let new: Vec<_> = after.difference(before).collect();
        let gone: Vec<_> = before.difference(&after).collect();
        faults.push(format!("left behind: {new:#?}, missing: {gone:#?}"));
    }
    // The next point shall not fall over it.
    let _ = workdir.run(&["stop"]);
    (!faults.is_empty()).then(|| faults.join("; "))
}

#[test]
fn killed_at_random() {
    kill_at_random(Engine::Containerd);
}

#[test]
fn killed_at_random_on_docker() {
    kill_at_random(Engine::Docker);
}

#[test]
fn killed_at_random_on_podman() {
    kill_at_random(Engine::Podman);
}
