//! What people do in a cluster that runs, beyond jobs: they edit, install, stop and shut down, and expect that it stays so.

use super::{job_field, job_state, ready, sql, submit, wait_state};
use crate::support::{Workdir, alone, eventually, require_root, texts};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn a_cluster_to_live_in() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let line = format!("umask 077; exec '{}' start -n 2 -e TZ=Asia/Tokyo", workdir.program().display());
    let out = workdir.around("sh").args(["-c", &line]).output().unwrap();
    assert!(out.status.success(), "{}", texts(&out).1);

    files_of_a_careful_user(&workdir);
    resources(&workdir);
    tools(&workdir);
    configuration(&workdir);
    stopped_server(&workdir);
    all_at_once(&workdir);
    logs(&workdir);
    energy_saving(&workdir);
    workdir.ok(&["stop"]);
}

/// A umask of 077 is for the user's own files.
fn files_of_a_careful_user(workdir: &Workdir) {
    let modes = "stat -c '%a %n' /etc/hosts /etc/resolv.conf /etc/environment /etc/profile.d/oardocker_env.sh /var/lib/container/nodes";
    for host in ["frontend", "node1"] {
        let text = workdir.root_sh(host, modes);
        assert!(text.lines().all(|l| l.starts_with("644 ")), "{host}: {text}");
    }
    assert_eq!(workdir.ok(&["exec", "-l", "user1", "--no-tty", "frontend", "getent hosts node1 | wc -l"]), "1\n");
    assert_eq!(workdir.sh("frontend", "ssh node1 hostname"), "node1\n");
    // The zone of -e is that of all programs.
    assert_eq!(workdir.sh("node1", "env -u TZ date +%Z"), "JST\n");
    assert_eq!(
        workdir.root_sh("server", "systemd-run -q --wait --pipe date +%Z; cat /etc/timezone"),
        "JST\nAsia/Tokyo\n"
    );
    let id = submit(workdir, "oarsub -l core=1,walltime=0:5 'date +%Z'");
    wait_state(workdir, &id, "Terminated");
    assert_eq!(workdir.sh("frontend", &format!("cat OAR.{id}.stdout")), "JST\n");
}

/// One for each CPU that is online and allowed, by its own number.
fn resources(workdir: &Workdir) {
    let online = workdir.host_sh("cat /sys/devices/system/cpu/online");
    let cpus: Vec<String> = online
        .trim()
        .split(',')
        .flat_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            first.parse::<u32>().unwrap()..=last.parse::<u32>().unwrap()
        })
        .map(|n| n.to_string())
        .collect();
    let listed = sql(workdir, "SELECT cpuset FROM resources WHERE network_address = 'node2' ORDER BY cpuset::int");
    assert_eq!(listed.lines().collect::<Vec<_>>(), cpus);
    // Of a server that may use the last one only.
    let last = cpus.last().unwrap();
    let script = format!(
        "sed 's/^}} | psql .*/}} | cat/' /var/lib/container/init-scripts/create_resources.sh > /tmp/c.sh; \
         taskset -c {last} bash /tmp/c.sh | grep -o 'ARRAY\\[.*\\] AS'"
    );
    assert_eq!(workdir.root_sh("server", &script), format!("ARRAY[{last}] AS\n"));
}

/// Packages, patch, languages, and OAR's user commands where an administrator wants them.
fn tools(workdir: &Workdir) {
    for language in ["en_US.UTF-8", "fr_FR.UTF-8"] {
        let line = format!(
            "export LC_ALL={language}; printf 'f\\n\u{e9}\\n' | sort | tr -d '\\n'; [[ \u{e9} < f ]] && echo yes"
        );
        assert_eq!(workdir.sh("node1", &line), "\u{e9}fyes\n", "{language}");
    }
    workdir.root_sh("node1", "apt-get install -y -q at >/dev/null 2>&1; command -v at patch");
    let nodes = workdir.sh("server", "oarnodes -s");
    assert!(nodes.contains("node2"), "{nodes}");
    let text =
        workdir.sh("server", "cd /tmp; oarsub -l core=1,walltime=0:5 true; oarstat >/dev/null; man -w oarsub oarnodes");
    let id = text.lines().find_map(|l| l.strip_prefix("OAR_JOB_ID=")).unwrap_or_else(|| panic!("{text}"));
    wait_state(workdir, id, "Terminated");
    // The generation of resources by the REST API.
    let generate = "curl -s -u oar:oar -H 'Content-Type: application/json' \
                    -d '{\"resources\": \"-H 2 -C 1 -c 2 --host-prefix new\"}' \
                    http://frontend:6668/oarapi-priv/resources/generate.json";
    let text = workdir.sh("frontend", generate);
    assert!(text.contains("new1") && text.contains("new2"), "{text}");
}

/// What is edited in /etc/oar is there after a restart, an own job manager with it.
fn configuration(workdir: &Workdir) {
    let edits = "sed 's/^use strict;/use strict; open(my $mark, \">>\", \"\\/tmp\\/mine\"); close($mark);/' \
                 /etc/oar/job_resource_manager.pl > /etc/oar/mine.pl; grep -q tmp/mine /etc/oar/mine.pl || sed -i '2i open(my $mark, \">>\", \"/tmp/mine\"); close($mark);' /etc/oar/mine.pl; \
                 sed -i 's,^JOB_RESOURCE_MANAGER_FILE=.*,JOB_RESOURCE_MANAGER_FILE=\"/etc/oar/mine.pl\",; s/^LOG_LEVEL=.*/LOG_LEVEL=\"2\"/; \
                 s/^#* *SCHEDULER_TIMEOUT=.*/SCHEDULER_TIMEOUT=\"77\"/' /etc/oar/oar.conf; echo '# mine' >> /etc/oar/suspend_resume_manager.pl";
    workdir.root_sh("server", edits);
    workdir.root_sh(
        "node1",
        "sed -i 's/^CPUSET_PATH=/#&/' /etc/oar/oar.conf; echo '# mine' >> /etc/oar/job_resource_manager.pl",
    );
    workdir.ok(&["reset", "server", "node1"]);
    let kept = "grep -hE '^(JOB_RESOURCE_MANAGER_FILE|LOG_LEVEL|SCHEDULER_TIMEOUT)=' /etc/oar/oar.conf | sort; tail -n 1 /etc/oar/suspend_resume_manager.pl";
    assert_eq!(
        workdir.root_sh("server", kept),
        "JOB_RESOURCE_MANAGER_FILE=\"/etc/oar/mine.pl\"\nLOG_LEVEL=\"2\"\nSCHEDULER_TIMEOUT=\"77\"\n# mine\n"
    );
    let kept = "grep -c '^#CPUSET_PATH=' /etc/oar/oar.conf; tail -n 1 /etc/oar/job_resource_manager.pl";
    assert_eq!(workdir.root_sh("node1", kept), "1\n# mine\n");
    workdir.root_sh("node1", "sed -i 's/^#CPUSET_PATH=/CPUSET_PATH=/' /etc/oar/oar.conf");
    let id = submit(workdir, "oarsub -l \"{network_address='node2'}/core=1,walltime=0:5\" 'ls /tmp/mine'");
    wait_state(workdir, &id, "Terminated");
    assert!(job_field(workdir, &id, "exit_code").starts_with("0 "), "the job ran below the user's own manager");
}

/// A server that was stopped on purpose is no reason to fail.
fn stopped_server(workdir: &Workdir) {
    workdir.root_sh("server", "systemctl stop oar-server");
    let boot = || workdir.sh("node1", "stat -c %Y.%Z /proc/1");
    let before = boot();
    let out = workdir.run(&["reset", "node1"]);
    let (stdout, stderr) = texts(&out);
    assert!(out.status.success(), "{stderr}");
    assert!(stdout.contains("node1 --> Restarted"), "{stdout}");
    assert!(
        stderr.contains("note: the hosts have booted, but OAR's server does not work: oar-server.service is "),
        "{stderr}"
    );
    assert!(!stderr.contains("Error:"), "{stderr}");
    assert_ne!(boot(), before);
    workdir.root_sh("server", "systemctl start oar-server");
}

/// All hosts, the server among them; -t is how long one may take to shut down, the others do not wait for it.
fn all_at_once(workdir: &Workdir) {
    let hosts = ["frontend", "node1", "node2", "rsyslog", "server"];
    let boots = || hosts.map(|host| workdir.root_sh(host, "stat -c %Y.%Z /proc/1"));
    let unit = "[Service]\nExecStart=/bin/sleep 1000\nExecStop=/bin/sleep 1000\nTimeoutStopSec=90\n";
    let before = boots();
    workdir.root_sh(
        "node1",
        &format!("printf '{unit}' > /run/systemd/system/slow.service; systemctl daemon-reload; systemctl start slow"),
    );
    let begun = Instant::now();
    let text = workdir.ok(&["reset", "-t", "2"]);
    let took = begun.elapsed();
    for host in hosts {
        assert!(text.contains(&format!("{host} --> Restarted")), "{text}");
    }
    assert!(before.iter().zip(&boots()).all(|(before, after)| before != after), "all have booted again");
    assert!((2..30).contains(&took.as_secs()), "node1 is killed after two seconds, not after 90: {took:?}");
    let id = submit(workdir, "oarsub -l nodes=2,walltime=0:5 'sort -u $OAR_NODEFILE'");
    wait_state(workdir, &id, "Terminated");
}

/// What hosts say comes as they say it, until Ctrl-C.
fn logs(workdir: &Workdir) {
    let mut follow = workdir.command(&["logs", "-f", "-n", "0", "node1"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let (heard, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| heard.send(line)));
    // Nothing says when it has begun to follow.
    let line = eventually("what node1 says is shown", 30, || {
        workdir.root_sh("node2", "logger -t test of the other");
        workdir.root_sh("node1", "logger -t test heard");
        said.try_iter().find(|line| line.contains("of the other") || line.contains("test: heard"))
    });
    assert!(line.starts_with("node1 | "), "{line}");
    kill(Pid::from_raw(follow.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(follow.wait().unwrap().code(), Some(130));
}

/// OAR wakes a node that was shut down, and shuts it down itself when it is idle.
fn energy_saving(workdir: &Workdir) {
    let conf = "sed -i 's/^ENERGY_SAVING_INTERNAL=.*/ENERGY_SAVING_INTERNAL=\"yes\"/; \
                s/^#SCHEDULER_NODE_MANAGER_IDLE_TIME=.*/SCHEDULER_NODE_MANAGER_IDLE_TIME=\"3\"/; \
                s/^#SCHEDULER_NODE_MANAGER_SLEEP_TIME=.*/SCHEDULER_NODE_MANAGER_SLEEP_TIME=\"3\"/; \
                s/^#ENERGY_SAVING_WINDOW_TIME=.*/ENERGY_SAVING_WINDOW_TIME=\"2\"/; \
                s/^#SCHEDULER_NODE_MANAGER_WAKEUP_TIME=.*/SCHEDULER_NODE_MANAGER_WAKEUP_TIME=\"5\"/' /etc/oar/oar.conf; \
                systemctl restart oar-server; oarnodesetting --sql '1=1' -p available_upto=2147483646; \
                oarnodesetting -h node2 -s Absent; echo node2 | su oar -c /etc/oar/shut_down_nodes.sh";
    workdir.root_sh("server", conf);
    let runs = || {
        let listed = workdir.ok(&["status"]);
        listed.lines().any(|l| l.starts_with("node2 ") && l.contains(" Up"))
    };
    eventually("node2 is off", 20, || (!runs()).then_some(()));
    let id = submit(workdir, "oarsub -l nodes=2,walltime=0:5 'sort -u $OAR_NODEFILE'");
    // OAR's scheduler looks around once a minute, and may have looked just before.
    let deadline = Instant::now() + Duration::from_secs(120);
    while job_state(workdir, &id) != "Terminated" {
        if Instant::now() > deadline {
            let log = workdir.root_sh(
                "server",
                "grep -v 'Qget\\|Time\\|arko\\|illain' /var/log/oar.log | tail -n 100; oarnodes -s; oarstat -f",
            );
            panic!("the job does not run on both nodes: {}\n{log}", workdir.ok(&["status"]));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(workdir.sh("frontend", &format!("cat OAR.{id}.stdout")), "node1\nnode2\n");
    assert!(runs());
    eventually("OAR has shut it down again", 90, || {
        workdir.root_sh("server", "oarnotify Scheduling");
        (!runs()).then_some(())
    });
    // By hand as well; a name that is none wakes nobody.
    workdir.root_sh("server", "printf '%s\\n' node9 node2 | /etc/oar/wake_up_nodes.sh; mkdir '/var/lib/container/wake/x;y'; touch /var/lib/container/wake/frontend");
    eventually("node2 is back", 30, || runs().then_some(()));
    let keepers = "pgrep -fc '[o]ardocker --workdir .*--cgroup-path [^ ]*$' || true";
    assert_eq!(workdir.host_sh(keepers).trim(), "1");
    workdir.ok(&["stop"]);
    assert_eq!(workdir.host_sh(keepers).trim(), "0");
}
