//! OAR 3: installed in its own environment, edited in place there, and by hand on top of an installed trixie.

use super::{chosen_on_a_unified_host, get, interactive, job_state, sql, submit, wait_state};
use crate::support::{Workdir, alone, assert_same_state, eventually, host_state, oar3_tree, require_root};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// PyPI may be behind a proxy whose certificate this host trusts.
fn trust_what_the_host_trusts(workdir: &Workdir, places: &[&str]) {
    for entry in fs::read_dir("/usr/local/share/ca-certificates").into_iter().flatten().flatten() {
        for place in places {
            let dir = workdir.root.join(".oardocker/images").join(place).join("certificates");
            fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
        }
    }
}

/// An initialized and built workdir of environment oar3.
pub fn ready() -> Workdir {
    let workdir = Workdir::named("oar3");
    workdir.ok(&["init", "-f", "-e", "oar3"]);
    trust_what_the_host_trusts(&workdir, &["base/needs"]);
    workdir.ok(&["build", "-q"]);
    workdir
}

/// In one line, and a job runs.
#[test]
fn oar3() {
    require_root();
    let _alone = alone();
    let workdir = ready();
    workdir.ok(&["stop"]);
    let before = host_state();
    assert!(workdir.fails(1, &["install", "deb"]).contains("Debian has no packages of OAR 3"));
    let tree = oar3_tree();
    let begun = Instant::now();
    let text = workdir.ok(&["install", tree.path().to_str().unwrap()]);
    println!("oar3: installed in {:?}", begun.elapsed());
    for role in ["node", "frontend", "server"] {
        assert!(text.contains(&format!("oardocker/oar3-{role}:latest")) && text.contains("OAR 3."), "{text}");
    }
    let begun = Instant::now();
    let started = workdir.ok(&["start", "-n", "3"]);
    println!("oar3: ready after {:?}", begun.elapsed());
    assert!(started.contains("http://localhost:46668/oarapi/"), "{started}");
    let nodes = workdir.sh("frontend", "oarnodes -s");
    assert_eq!(nodes.matches("Alive").count(), 3 * std::thread::available_parallelism().unwrap().get(), "{nodes}");
    let begun = Instant::now();
    let id = submit(&workdir, "oarsub -l nodes=2,walltime=0:5 'sort -u $OAR_NODEFILE'");
    wait_state(&workdir, &id, "Terminated");
    println!("oar3: first job of two nodes done after {:?}", begun.elapsed());
    assert_eq!(workdir.sh("frontend", &format!("cat OAR.{id}.stdout")), "node1\nnode2\n");
    let processes = workdir.root_sh("server", "pgrep -af oar-");
    for name in ["oar-almighty", "oar-appendice-proxy", "oar-bipbip-commander"] {
        assert!(processes.contains(&format!("/usr/local/lib/oar/{name}")), "{processes}");
    }
    // From the server as well.
    assert!(workdir.sh("server", "oarsub -l core=1,walltime=0:5 hostname").contains("OAR_JOB_ID="));
    jobs(&workdir);
    interactive(&workdir);
    rest_api(&workdir, 46668, "/oarapi");
    for (path, said) in
        [("/monika", "oardocker for OAR 3."), ("/drawgantt-svg/", "Drawgantt"), ("/phppgadmin/", "phpPgAdmin")]
    {
        let (status, body) = get(40080, path, "");
        assert!(
            status.contains("200") && body.to_lowercase().contains(&said.to_lowercase()),
            "{path}: {status} {body}"
        );
    }
    updated(&workdir, tree.path());
    // Where v2 is alone it is OAR 3's other job manager.
    assert_eq!(chosen_on_a_unified_host(&workdir), "jobs are confined by: systemd\n");
    edit(tree.path(), "oar/modules/sarko.py");
    let text = workdir.ok(&["install", tree.path().to_str().unwrap()]);
    assert!(text.contains("server | /usr/local/lib/python3") && text.contains("oar/modules/sarko.py\n"), "{text}");
    workdir.ok(&["stop"]);
    assert_same_state(&before, &host_state());
}

fn edit(tree: &Path, file: &str) {
    let path = tree.join(file);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, text + "# edited\n").unwrap();
}

/// The cluster that runs gets what is edited, and goes on.
fn updated(workdir: &Workdir, tree: &Path) {
    let source = tree.to_str().unwrap();
    let last = |host: &str, file: &str| {
        workdir.root_sh(host, &format!("tail -n 1 /usr/local/lib/python3*/dist-packages/{file}"))
    };
    edit(tree, "oar/cli/oarstat.py");
    let text = workdir.ok(&["update", source]);
    assert!(text.contains("dist-packages/oar/cli/oarstat.py: frontend"), "{text}");
    // The REST API has it loaded, and OAR's server has not.
    assert!(text.contains("restarted oarapi: frontend\n") && !text.contains("oar-server"), "{text}");
    assert_eq!(last("frontend", "oar/cli/oarstat.py"), "# edited\n");
    workdir.sh("frontend", "oarstat");
    edit(tree, "oar/modules/almighty.py");
    let begun = Instant::now();
    let text = workdir.ok(&["update", source]);
    println!("oar3: updated with a restart in {:?}", begun.elapsed());
    assert!(text.contains("restarted oar-server: server\n"), "{text}");
    // OAR's server would go on waiting for messages, for up to five seconds each time.
    let begun = Instant::now();
    for _ in 0..3 {
        workdir.root_sh("server", "sleep 1; systemctl stop oar-server");
        workdir.root_sh("server", "systemctl start oar-server");
    }
    println!("oar3: three times ended and begun in {:?}", begun.elapsed());
    let told = workdir.root_sh("server", "journalctl -u oar-server -o short-unix | grep -E 'systemd.*Stopp(ing|ed) '");
    assert!(told.lines().count() == 8 && stops(&told).iter().all(|stop| *stop < 2.0), "{told}");
    // Its first scheduling waits for nodes when it begins the first time in a boot, and then no more.
    let asked = workdir.root_sh("server", "journalctl -u oar-server -o cat | grep -c 'Got command Finaud'");
    assert_eq!(asked, "1\n");
    let id = submit(workdir, "oarsub -l nodes=1,walltime=0:2 true");
    wait_state(workdir, &id, "Terminated");
    let modules =
        "python3 -c 'import oar.lib.database, sys; print(\"mako\" in sys.modules, \"pygments\" in sys.modules)'";
    assert_eq!(workdir.sh("server", modules), "True False\n");
}

/// How long a unit took each time to end, in seconds, of what systemd has told of that.
fn stops(told: &str) -> Vec<f64> {
    let times: Vec<f64> = told.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    times.chunks_exact(2).map(|pair| pair[1] - pair[0]).collect()
}

/// What users do with jobs, and what holds them together on the nodes.
fn jobs(workdir: &Workdir) {
    let sleeper =
        submit(workdir, "oarsub -l core=1,walltime=0:5 'grep Cpus_allowed_list /proc/self/status; sleep 300'");
    let array = workdir.sh("frontend", "oarsub --array 2 -l core=1,walltime=0:5 'echo $OAR_ARRAY_INDEX'");
    for id in array.lines().filter_map(|l| l.trim().strip_prefix("OAR_JOB_ID=")) {
        wait_state(workdir, id, "Terminated");
    }
    wait_state(workdir, &sleeper, "Running");
    let out = eventually("the job has written", 10, || {
        Some(workdir.sh("frontend", &format!("cat OAR.{sleeper}.stdout"))).filter(|t| !t.is_empty())
    });
    assert!(out.contains("list:\t0\n") || out.contains("list:\t1\n"), "one core only: {out}");
    // Into the job, from outside of it, by the key that OAR has for its user.
    let nodes = "SELECT network_address FROM assigned_resources JOIN resources USING (resource_id) \
                 JOIN jobs ON moldable_job_id = assigned_moldable_job WHERE job_id = ";
    let node = sql(workdir, &format!("{nodes}{sleeper} LIMIT 1")).trim().to_owned();
    let inside =
        workdir.sh("frontend", &format!("OAR_JOB_ID={sleeper} oarsh {node} 'hostname; cat /proc/self/cgroup'"));
    assert!(inside.starts_with(&format!("{node}\n")) && inside.contains(&format!("/oar/docker_{sleeper}")), "{inside}");
    workdir.sh("frontend", &format!("oardel {sleeper}"));
    wait_state(workdir, &sleeper, "Error");
    assert_eq!(workdir.root_sh(&node, "pgrep -af 'sleep 300' | grep -v pgrep; true"), "");

    let all = submit(workdir, "oarsub -l nodes=3,walltime=0:0:20 'sleep 100'");
    wait_state(workdir, &all, "Running");
    let held = submit(workdir, "oarsub -l core=1,walltime=0:5 hostname");
    workdir.sh("frontend", &format!("oarhold {held}"));
    wait_state(workdir, &held, "Hold");
    // The walltime of the one that is in the way.
    wait_state(workdir, &all, "Error");
    assert_eq!(job_state(workdir, &held), "Hold");
    workdir.sh("frontend", &format!("oarresume {held}"));
    wait_state(workdir, &held, "Terminated");
}

/// Public, private, and with a token for what changes something.
fn rest_api(workdir: &Workdir, port: u16, path: &str) {
    let (status, body) = get(port, &format!("{path}/resources/"), "");
    assert!(
        status.contains("200") && body.replace(' ', "").contains("\"network_address\":\"node2\""),
        "{status} {body}"
    );
    assert!(get(port, &format!("{path}-priv/jobs/"), "").0.contains("401"));
    // docker:docker
    let basic = "Authorization: Basic ZG9ja2VyOmRvY2tlcg==\r\n";
    let (status, _) = get(port, &format!("{path}-priv/jobs/"), basic);
    assert!(status.contains("200"), "{status}");
    let post = |token: &str| {
        let job = "{\\\"resource\\\": [\\\"nodes=1\\\"], \\\"command\\\": \\\"hostname\\\"}";
        let line = format!(
            "curl -s -H 'Authorization: {token}' -H 'Content-Type: application/json' -d \"{job}\" http://localhost:6668{path}-priv/jobs/"
        );
        workdir.sh("frontend", &line)
    };
    let token = workdir.sh("frontend", "oarsub --api-token");
    let token =
        token.lines().find_map(|l| l.trim().strip_prefix("OAR_API_TOKEN=")).unwrap_or_else(|| panic!("{token}"));
    let answer: serde_json::Value = serde_json::from_str(&post(&format!("Bearer {token}"))).unwrap();
    let id = answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}")).to_string();
    wait_state(workdir, &id, "Terminated");
    let job = workdir.sh("frontend", &format!("oarstat -fj {id}"));
    assert!(job.lines().any(|l| matches!(l.trim(), "owner = docker" | "user = docker")), "{job}");
    assert!(!post("Bearer nonsense").contains("\"id\""));
}

/// A tree at /data is what runs, without a word in it, and its own tests can be run.
#[test]
fn oar3_from_a_tree_that_is_edited() {
    require_root();
    let _alone = alone();
    let workdir = ready();
    let tree = oar3_tree();
    workdir.ok(&["install", tree.path().to_str().unwrap()]);
    let listed = || {
        let mut names: Vec<_> = walk(tree.path());
        names.sort();
        names
    };
    let before = listed();
    workdir.ok(&["start", "-n", "1", "-v", &format!("{}:/data", tree.path().display())]);
    for host in ["server", "frontend", "node1"] {
        assert_eq!(
            workdir.sh(host, "python3 -c 'import oar; print(oar.__file__)'"),
            "/data/oar/__init__.py\n",
            "{host}"
        );
    }
    let id = submit(&workdir, "oarsub -l core=1,walltime=0:5 hostname");
    wait_state(&workdir, &id, "Terminated");

    // Commands and admission rules as they are edited, daemons after a restart.
    let rule = tree.path().join("etc/oar/admission_rules.d/01_default_queue.py");
    fs::write(&rule, fs::read_to_string(&rule).unwrap() + "\nprint('a rule of mine')\n").unwrap();
    assert!(workdir.sh("frontend", "oarsub -l core=1,walltime=0:5 hostname").contains("a rule of mine"));
    let almighty = tree.path().join("oar/modules/almighty.py");
    let text = fs::read_to_string(&almighty).unwrap();
    fs::write(&almighty, text.replace("\"Start Almighty\"", "\"Start my Almighty\"")).unwrap();
    workdir.root_sh("server", "systemctl restart oar-server");
    workdir.root_sh("server", "grep -q 'Start my Almighty' /var/log/oar.log");

    let ran = workdir.root_sh("server", "oar3-tests tests/lib tests/modules/test_leon.py 2>&1 | tail -n 3");
    assert!(ran.contains(" passed") && !ran.contains("failed") && !ran.contains("error"), "{ran}");
    workdir.ok(&["stop"]);
    assert_eq!(listed(), before, "nothing is written to the tree");
}

/// All paths below a directory.
fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            all.extend(walk(&entry.path()));
        }
        all.push(entry.path());
    }
    all
}

#[test]
fn oar3_dev() {
    require_root();
    let _alone = alone();
    // `pip install -e` writes to it.
    let tree = oar3_tree();
    let checkout = tree.path().to_str().unwrap();
    let below = super::ready("trixie");
    let workdir = Workdir::named("oar3-dev");
    workdir.ok(&["init", "-f", "-e", "oar3-dev"]);
    let _ = workdir.run(&["stop"]);
    trust_what_the_host_trusts(&workdir, &["frontend", "server"]);
    let begun = Instant::now();
    let text = workdir.ok(&["build", "-q"]);
    let line = format!("oardocker/trixie-server:latest --> that of environment {}", below.env_id());
    assert!(text.contains(&line) && text.contains("OAR 2.6.1"), "{text}");
    println!("oar3: built in {:?}", begun.elapsed());
    assert!(workdir.fails(1, &["install", checkout]).contains("nothing to install"));

    let volume = format!("{checkout}:/data");
    workdir.ok(&["start", "-n", "2", "-v", &volume, "--port-bindings-offset", "52000"]);
    assert!(!workdir.ok(&["status"]).contains("OAR has ended"), "it has not begun");
    let begun = Instant::now();
    workdir.root_sh(
        "server",
        "systemctl start oardocker-resources; cd /data; pip install -e . && systemctl start oar-server",
    );
    workdir.root_sh("frontend", "cd /data; pip install -e . && systemctl start oar-api");
    println!("oar3: installed and started in {:?}", begun.elapsed());

    let processes = workdir.root_sh("server", "pgrep -af oar-");
    for name in ["oar-almighty", "oar-appendice-proxy", "oar-bipbip-commander"] {
        assert!(processes.contains(name), "{processes}");
    }
    let cores = 2 * std::thread::available_parallelism().unwrap().get();
    for command in ["oarnodes", "oarnodes3"] {
        let nodes = workdir.sh("frontend", &format!("{command} -s"));
        assert_eq!(nodes.matches("Alive").count(), cores, "{command}: {nodes}");
    }
    let begun = Instant::now();
    for (command, expected) in [("oarsub", "node1\nnode2\n"), ("oarsub3", "node1\nnode2\n")] {
        let id = submit(&workdir, &format!("{command} -l nodes=2 'sort -u $OAR_NODEFILE'"));
        wait_state(&workdir, &id, "Terminated");
        assert_eq!(workdir.sh("frontend", &format!("cat OAR.{id}.stdout")), expected);
        println!("oar3: a job of {command} done after {:?}", begun.elapsed());
    }
    for (host, command) in
        [("server", "oar3-almighty"), ("server", "oar-almighty"), ("server", "kamelot"), ("server", "kao")]
    {
        workdir.root_sh(host, &format!("test -x $(readlink -f $(command -v {command}))"));
    }
    assert_eq!(sql(&workdir, "SELECT DISTINCT scheduler_policy FROM queues"), "kamelot\n");

    rest_api(&workdir, 58668, "/newoarapi");

    // And back to OAR 2's command for a while.
    assert!(workdir.root_sh("frontend", "oarswitch-cli oarstat 2").contains("oarstat2"));
    workdir.sh("frontend", "oarstat");
    workdir.root_sh("frontend", "oarswitch-cli oarstat");
    workdir.ok(&["stop"]);
}

#[test]
fn an_environment_below_that_is_not_there_is_named() {
    require_root();
    let _alone = alone();
    let workdir = Workdir::named("oar3-alone");
    workdir.ok(&["init", "-f", "-e", "oar3-dev"]);
    let manifest = workdir.root.join(".oardocker/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"BASE_ENV\": \"trixie\"", "\"BASE_ENV\": \"nowhere\"")).unwrap();
    let text = workdir.fails(1, &["build"]);
    assert!(text.contains("no workdir on this machine has the image oardocker/nowhere-rsyslog:latest"), "{text}");
    assert!(text.contains("oardocker init -e nowhere build install SRC"), "{text}");
}
