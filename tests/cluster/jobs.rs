//! The kinds of jobs that OAR knows, each on a real cluster.

use super::{job_field, job_state, ready, submit, wait_state};
use crate::support::{Workdir, alone, assert_same_state, eventually, host_state, require_root};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[test]
fn kinds_of_jobs() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let before = host_state();
    workdir.ok(&["start", "-n", "3"]);
    let reserved = advance_reservation(&workdir);
    // Beside it, as it is for one node, and some seconds away.
    array(&workdir);
    on_the_frontend(&workdir);
    begins_in_time(&workdir, reserved);
    best_effort(&workdir);
    hold_and_resume(&workdir);
    between_nodes(&workdir);
    workdir.ok(&["stop"]);
    assert_same_state(&before, &host_state());
}

/// One job after another: none waits for the schedulings of the one before, and none for a second look of TakTuk's.
#[test]
fn jobs_in_a_row() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    let log = || workdir.root_sh("server", "cat /var/log/oar.log");
    let waits = || log().matches("So we have to wait").count();
    let settings = "grep -E '^(SCHEDULER_MIN_TIME|TAKTUK_CMD)' /etc/oar/oar.conf";
    let trigger = "PGPASSWORD=oar psql -qAt -h localhost -U oar oar -c \"SELECT tgname FROM pg_trigger WHERE tgname ~ 'oardocker'\"";
    let in_a_row = |jobs: u32| {
        for _ in 0..jobs {
            let id = submit(&workdir, "oarsub -l nodes=2,walltime=0:2 true");
            wait_state(&workdir, &id, "Terminated");
        }
    };
    let page = workdir.root.join("start.html");
    workdir.ok(&["start", "-n", "2", "--timeline", page.to_str().unwrap()]);
    let page = std::fs::read_to_string(page).unwrap();
    for part in ["oar-server.service", "rsyslog.service", ">node2<", "title=\"boot: ", "<td>Alive<td>1<td>"] {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
    in_a_row(4);
    assert_eq!(workdir.sh("server", trigger), "oardocker_gantt_date\n");
    assert_eq!(waits(), 0, "{}", log());
    assert!(workdir.root_sh("server", settings).contains("TAKTUK_CMD=\"/usr/bin/taktuk -t 30 -g 0.02 -s\""));
    assert_eq!(workdir.sh("node1", "cat /proc/sys/net/ipv4/tcp_pingpong_thresh 2>/dev/null || echo 255"), "255\n");
    // As OAR ships them, on every host.
    workdir.ok(&["start", "-n", "2", "--stock-timing"]);
    for host in ["server", "frontend", "node1"] {
        let found = workdir.root_sh(host, settings);
        assert!(
            found.contains("CALLS=\"5\"") && found.contains("TAKTUK_CMD=\"/usr/bin/taktuk -t 30 -s\""),
            "{host}: {found}"
        );
    }
    assert_eq!(workdir.sh("server", trigger), "");
    in_a_row(1);
    workdir.ok(&["stop"]);
}

fn output(workdir: &Workdir, id: &str) -> String {
    workdir.sh("frontend", &format!("cat OAR.{id}.stdout"))
}

/// A job that is given a time: its number, and the time.
fn advance_reservation(workdir: &Workdir) -> (String, u64) {
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 20;
    let line = format!("oarsub -r \"$(date -d @{start} '+%F %T')\" -l nodes=1,walltime=0:2 'date +%s; hostname'");
    let id = submit(workdir, &line);
    assert_eq!(job_field(workdir, &id, "reservation"), "Scheduled");
    (id, start)
}

/// It starts then, not before.
fn begins_in_time(workdir: &Workdir, (id, start): (String, u64)) {
    // An idle OAR looks once a minute whether a reservation begins; a submission makes it look at once.
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    eventually("the time has come", 30, || (now() >= start).then_some(()));
    submit(workdir, "oarsub -l core=1,walltime=0:2 true");
    wait_state(workdir, &id, "Terminated");
    let out = output(workdir, &id);
    let (began, host) = out.split_once('\n').unwrap();
    let began: u64 = began.parse().unwrap();
    assert!((start..start + 60).contains(&began), "reserved for {start}, began at {began}");
    assert!(host.starts_with("node"), "{host}");
}

/// One submission, three jobs with indices of their own.
fn array(workdir: &Workdir) {
    let text = workdir
        .sh("frontend", "oarsub --array 3 -l core=1,walltime=0:2 'echo $OAR_ARRAY_ID $OAR_ARRAY_INDEX $OAR_JOB_ID'");
    let value = |line: &str, name: &str| line.trim().strip_prefix(name).map(ToOwned::to_owned);
    let ids: Vec<String> = text.lines().filter_map(|l| value(l, "OAR_JOB_ID=")).collect();
    let array = text.lines().find_map(|l| value(l, "OAR_ARRAY_ID=")).unwrap();
    assert_eq!(ids.len(), 3, "{text}");
    for (index, id) in ids.iter().enumerate() {
        wait_state(workdir, id, "Terminated");
        assert_eq!(output(workdir, id), format!("{array} {} {id}\n", index + 1));
    }
}

/// A best-effort job has to go when another needs its resources.
fn best_effort(workdir: &Workdir) {
    let guest = submit(workdir, "oarsub -t besteffort -l nodes=3,walltime=0:5 'sleep 1234'");
    wait_state(workdir, &guest, "Running");
    let id = submit(workdir, "oarsub -l nodes=3,walltime=0:5 hostname");
    wait_state(workdir, &id, "Terminated");
    assert_eq!(job_state(workdir, &guest), "Error", "best-effort jobs that were killed end so");
    for node in ["node1", "node2", "node3"] {
        assert_eq!(workdir.root_sh(node, "pgrep -f 'sleep 123[4]' | wc -l"), "0\n", "its processes are gone");
    }
}

/// A job on hold stands still, all of it, and goes on afterwards.
fn hold_and_resume(workdir: &Workdir) {
    let id = submit(workdir, "oarsub -l core=1,walltime=0:5 'while sleep 0.1; do echo tick; done'");
    wait_state(workdir, &id, "Running");
    let ticks = || output(workdir, &id).lines().count();
    eventually("the job writes", 20, || (ticks() > 3).then_some(()));
    workdir.sh("frontend", &format!("oarhold -r {id}"));
    wait_state(workdir, &id, "Suspended");
    let still = ticks();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(ticks(), still, "a job on hold writes nothing");
    workdir.sh("frontend", &format!("oarresume {id}"));
    wait_state(workdir, &id, "Running");
    eventually("the job goes on", 20, || (ticks() > still + 3).then_some(()));
    workdir.sh("frontend", &format!("oardel {id}"));
}

/// Jobs of type cosystem and deploy have nodes, but run on the frontend.
fn on_the_frontend(workdir: &Workdir) {
    for kind in ["cosystem", "deploy"] {
        let line = format!("oarsub -t {kind} -l nodes=1,walltime=0:2 'hostname; id -un; sort -u $OAR_NODEFILE'");
        let id = submit(workdir, &line);
        wait_state(workdir, &id, "Terminated");
        let out = output(workdir, &id);
        assert!(out.starts_with("frontend\ndocker\nnode"), "{kind}: {out}");
    }
}

/// From one node of a job to another: inside the job there too.
fn between_nodes(workdir: &Workdir) {
    let id = submit(
        workdir,
        "oarsub -l nodes=2/core=1,walltime=0:2 \
         'oarsh $(sort -u $OAR_NODEFILE | tail -n 1) \"hostname; cat /proc/self/cpuset\"; sleep 600'",
    );
    wait_state(workdir, &id, "Running");
    let hosts = job_field(workdir, &id, "assigned_hostnames");
    let (first, second) = hosts.split_once('+').unwrap();
    let out = eventually("the job has begun", 20, || Some(output(workdir, &id)).filter(|t| t.lines().count() == 2));
    assert_eq!(out, format!("{second}\n/oar/docker_{id}\n"));
    // From outside with the job's number, and on from there.
    let line = format!("OAR_JOB_ID={id} oarsh {first} 'oarsh {second} \"hostname; cat /proc/self/cpuset\"'");
    assert_eq!(workdir.sh("frontend", &line), out);
    workdir.sh("frontend", &format!("oardel {id}"));
    // Without a job there is no way in.
    eventually("the job is over", 20, || (job_state(workdir, &id) != "Running").then_some(()));
    let refused = workdir.sh("frontend", &format!("OAR_JOB_ID={id} oarsh {first} hostname 2>&1 || true"));
    assert!(!refused.contains("node"), "{refused}");
}
