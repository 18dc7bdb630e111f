//! A cluster on containerd on a host where Docker runs: its bridge, its dropping of what is forwarded for others, its rules.

use super::{ready, submit, wait_state};
use crate::support::{Daemon, Workdir, alone, assert_same_state, eventually, host_state, require_root, texts};
use std::process::{Command, Output};

/// A host of its own, as a network namespace, with one neighbour that stands for the world.
struct Host;

const NAME: &str = "oardocker-test-docker";
const WORLD: &str = "oardocker-test-world";

impl Host {
    fn new() -> Self {
        Self::remove();
        for args in [
            format!("netns add {NAME}"),
            format!("netns add {WORLD}"),
            format!("-n {NAME} link set lo up"),
            format!("-n {NAME} link add up0 type veth peer name up0 netns {WORLD}"),
            format!("-n {NAME} addr add 192.0.2.1/24 dev up0"),
            format!("-n {WORLD} addr add 192.0.2.2/24 dev up0"),
            format!("-n {NAME} link set up0 up"),
            format!("-n {WORLD} link set up0 up"),
            format!("-n {NAME} route add default via 192.0.2.2"),
        ] {
            let out = Command::new("ip").args(args.split(' ')).output().unwrap();
            assert!(out.status.success(), "ip {args}: {}", texts(&out).1);
        }
        // Docker closes the host's forwarding when it is the one that switches it on.
        let host = Self;
        host.ok("sysctl", &["-q", "-w", "net.ipv4.ip_forward=0"]);
        host
    }

    fn remove() {
        for name in [NAME, WORLD] {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }

    /// Only the network is that host's: the cgroups and mounts stay as they are.
    #[allow(clippy::unused_self, reason = "the host has to be there")]
    fn run(&self, program: &str, args: &[&str]) -> Output {
        Command::new("nsenter").arg(format!("--net=/run/netns/{NAME}")).arg(program).args(args).output().unwrap()
    }

    fn ok(&self, program: &str, args: &[&str]) -> String {
        let out = self.run(program, args);
        let (stdout, stderr) = texts(&out);
        assert!(out.status.success(), "{program} {args:?}: {stdout}{stderr}");
        stdout
    }

    /// All rules but ours, which nft holds in tables of their own.
    fn rules(&self) -> String {
        self.ok("iptables", &["-w", "-S"]) + &self.ok("iptables", &["-w", "-t", "nat", "-S"])
    }

    #[allow(clippy::unused_self, reason = "the host has to be there")]
    fn oardocker(&self, workdir: &Workdir, args: &[&str]) -> String {
        let mut inside = workdir.around("nsenter");
        inside.arg(format!("--net=/run/netns/{NAME}")).arg(workdir.program()).args(args);
        let out = inside.output().unwrap();
        let (stdout, stderr) = texts(&out);
        assert!(out.status.success(), "oardocker {args:?}: {stdout}{stderr}");
        stdout
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        Self::remove();
    }
}

/// Whether the neighbour gets an answer at this port of the host.
fn reached_from_the_world(port: u16) -> bool {
    let mut curl = Command::new("ip");
    curl.args(["netns", "exec", WORLD, "curl", "-s", "--max-time", "3", "-o", "/dev/null"]);
    curl.arg(format!("http://192.0.2.1:{port}/")).status().unwrap().success()
}

#[test]
fn beside_docker() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let state = host_state();
    {
        let host = Host::new();
        let _docker = Daemon::docker_in(NAME);
        // Docker may still be arranging them when it first answers.
        let rules = eventually("Docker's rules stay the same for a second", 20, || {
            let first = host.rules();
            std::thread::sleep(std::time::Duration::from_secs(1));
            Some(host.rules()).filter(|second| *second == first)
        });
        assert!(rules.contains("-P FORWARD DROP") && rules.contains("-N DOCKER-USER"), "that is Docker: {rules}");
        host.ok("sysctl", &["-q", "-w", "net.bridge.bridge-nf-call-iptables=1"]);

        host.oardocker(&workdir, &["start", "-n", "2"]);
        let id = submit(&workdir, "oarsub -l nodes=2,walltime=0:5 'oarsh node2 hostname; oarsh node1 hostname'");
        wait_state(&workdir, &id, "Terminated");
        assert_eq!(workdir.sh("frontend", &format!("cat OAR.{id}.stdout")), "node2\nnode1\n");
        let ping = workdir.root_sh("node1", "ping -c 1 -W 5 192.0.2.2 && ping -c 1 -W 5 node2");
        assert_eq!(ping.matches("1 received").count(), 2, "{ping}");
        let page = host.ok("curl", &["-s", "--max-time", "20", "http://127.0.0.1:46668/oarapi/resources.json"]);
        assert!(page.contains("node2"), "{page}");
        assert_ne!(host.rules(), rules, "without rules of ours this could not have worked");

        // Ports are the host's own, unless -g opens them to the world.
        assert!(!reached_from_the_world(46668), "a port that was not opened");
        host.oardocker(&workdir, &["start", "-n", "1", "-g"]);
        assert!(reached_from_the_world(46668), "-g opens the REST API");
        assert!(reached_from_the_world(40080), "-g opens the web server");

        host.oardocker(&workdir, &["stop"]);
        let after = host.rules();
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(&after), lines(&rules), "Docker's own rules are as before");
    }
    assert_same_state(&state, &host_state());
}
