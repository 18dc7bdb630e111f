//! The whole journey with a real OAR, for every environment that can be built here.

mod archived;
mod broken;
mod browser;
mod coexist;
mod counts;
mod edit;
mod jobs;
pub mod kills;
mod living;
mod oar3;
mod old_folders;
mod together;
mod userns;

use crate::support::{
    Engine, Pty, Workdir, alone, assert_same_state, assert_soon_same_state, data_dir, eventually, host_state,
    oar_tarball, require_root, state_on, texts,
};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

/// An initialized, built and installed workdir. Quick when an earlier run left its images.
pub fn ready(env: &str) -> Workdir {
    ready_on(Engine::Containerd, env)
}

/// The same on any engine.
pub fn ready_on(engine: Engine, env: &str) -> Workdir {
    let workdir = Workdir::on(engine, env);
    workdir.ok(&["init", "-f", "-e", env]);
    let listed = workdir.ok(&["build", "-q", "status"]);
    assert!(listed.contains(&format!("oardocker/{env}-node:base")), "{listed}");
    if let Some(text) = workdir.install_once() {
        for role in ["node", "frontend", "server"] {
            assert!(text.contains(&format!("{role} | OAR 2.6.1 (tarball)")), "prefixed output of {role}: {text}");
        }
    }
    workdir
}

/// Submits a job; its number.
#[track_caller]
pub fn submit(workdir: &Workdir, line: &str) -> String {
    let text = workdir.sh("frontend", line);
    let id = text.lines().find_map(|l| l.trim().strip_prefix("OAR_JOB_ID="));
    id.unwrap_or_else(|| panic!("no job id in: {text}")).to_owned()
}

/// A line of `oarstat -fj`.
pub fn job_field(workdir: &Workdir, id: &str, field: &str) -> String {
    let text = workdir.sh("frontend", &format!("oarstat -fj {id}"));
    let line = text.lines().find_map(|l| l.trim().strip_prefix(&format!("{field} = ")).map(ToOwned::to_owned));
    line.unwrap_or_default()
}

/// What OAR's database answers.
#[track_caller]
pub fn sql(workdir: &Workdir, query: &str) -> String {
    workdir.sh("server", &format!("PGPASSWORD=oar psql -qAt -h localhost -U oar oar -c \"{query}\""))
}

/// The state of a job, as the database has it: who asks OAR's own commands again and again takes the processor from OAR.
pub fn job_state(workdir: &Workdir, id: &str) -> String {
    sql(workdir, &format!("SELECT state FROM jobs WHERE job_id = {id}")).trim().to_owned()
}

/// Waits for a job's state.
#[track_caller]
pub fn wait_state(workdir: &Workdir, id: &str, state: &str) {
    eventually(&format!("job {id} is {state}"), 60, || {
        let now = job_state(workdir, id);
        assert!(
            now != "Error" || state == "Error",
            "job {id} ended in error: {}",
            workdir.sh("frontend", &format!("oarstat -fj {id}"))
        );
        (now == state).then_some(())
    });
}

/// GET over plain HTTP; status line and body.
pub fn get(port: u16, path: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

/// The same from the machine that oardocker runs on.
fn get_there(workdir: &Workdir, port: u16, path: &str, headers: &str) -> (String, String) {
    let Some(user) = workdir.engine.user() else { return get(port, path, headers) };
    // Whose cluster it is, as nobody else may be let in.
    let (header, name) = (headers.trim(), user.name);
    let curl = format!("curl -s -i --http1.0 -H \"{header}\" \"http://127.0.0.1:{port}{path}\"");
    let text = workdir.host_sh(&format!("su {name} -c '{curl}'"));
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

pub fn journey(engine: Engine, env: &str) {
    require_root();
    let _alone = engine.alone();
    travel(&ready_on(engine, env));
}

/// A cluster's whole day.
pub fn travel(workdir: &Workdir) {
    let engine = workdir.engine;
    workdir.ok(&["stop"]);
    let before = state_on(engine);
    let begun = Instant::now();
    let out = workdir.run(&["start", "-n", "3", "-e", "WHO=it's = me", "-v", "/etc:/host/etc:ro"]);
    let (started, notes) = texts(&out);
    assert!(out.status.success(), "{started}\n{notes}");
    let ready_after = begun.elapsed();
    assert!(started.contains("Network Services") && started.contains("http://localhost:46668/oarapi"), "{started}");

    // Returned means ready: every node is Alive at once, and a job runs.
    let nodes = workdir.sh("frontend", "oarnodes -s");
    assert_eq!(nodes.matches("Alive").count(), 3 * std::thread::available_parallelism().unwrap().get(), "{nodes}");
    let id = submit(workdir, "oarsub -l nodes=2,walltime=0:5 'sort -u $OAR_NODEFILE; echo who=$WHO'");
    wait_state(workdir, &id, "Terminated");
    println!(
        "{} on {}: ready after {ready_after:?}, first job of two nodes done after {:?}",
        workdir.root.display(),
        engine.name(),
        begun.elapsed()
    );
    assert!(job_field(workdir, &id, "exit_code").starts_with("0 "), "the job ends with exit code 0");
    assert_eq!(workdir.sh("frontend", &format!("cat OAR.{id}.stdout")), "node1\nnode2\nwho=it's = me\n");

    // The machine without root has no controllers to leave to its users, which is said.
    assert_eq!(notes.contains("jobs run, but are not confined"), engine.user().is_some(), "{notes}");
    if engine.user().is_none() {
        confinement(workdir);
    }
    interactive(workdir);
    services(workdir);
    inside(workdir);

    // Logs of a node reach us.
    workdir.sh("node2", "logger -t probe marked-7531");
    let line = eventually("the log host has the line", 10, || {
        workdir.ok(&["logs", "node2"]).lines().find(|l| l.contains("marked-7531")).map(ToOwned::to_owned)
    });
    assert!(line.starts_with("node2 | ") && line.contains("probe"), "{line}");
    assert_eq!(workdir.ok(&["logs", "-n", "1", "node2"]).lines().count(), 1);
    assert!(!workdir.ok(&["logs", "server"]).contains("marked-7531"));

    // One node restarted is Alive again and takes jobs.
    let boot = |host: &str| workdir.sh(host, "stat -c %Y /proc/1").trim().to_owned();
    let (other, old) = (boot("node1"), boot("node3"));
    eventually("the clock has moved on", 3, || (workdir.sh("server", "date +%s").trim() != old).then_some(()));
    workdir.ok(&["reset", "node3"]);
    assert_eq!(boot("node1"), other, "only the named host is restarted");
    assert_ne!(boot("node3"), old);
    let id = submit(workdir, "oarsub -l \"{network_address='node3'}/nodes=1,walltime=0:5\" hostname");
    wait_state(workdir, &id, "Terminated");
    assert_eq!(workdir.sh("frontend", &format!("cat OAR.{id}.stdout")), "node3\n");

    // One that was shut down comes back when OAR wakes it.
    let up = || workdir.ok(&["status"]).lines().any(|l| l.starts_with("node2 ") && l.contains(" Up"));
    let _ = workdir.run(&["exec", "-l", "root", "--no-tty", "node2", "systemctl poweroff; sleep 20"]);
    eventually("node2 is off", 20, || (!up()).then_some(()));
    workdir.root_sh(
        "server",
        "oarnodesetting -h node2 -s Absent; echo node2 | su oar -s /bin/sh -c /etc/oar/wake_up_nodes.sh",
    );
    eventually("node2 is back, and Alive", 40, || {
        (up() && !workdir.sh("frontend", "oarnodes -s node2").contains("Absent")).then_some(())
    });

    let listed = workdir.ok(&["status"]);
    assert_eq!(listed.lines().filter(|l| l.contains("oardocker-") && l.contains("Up")).count(), 6, "{listed}");
    assert!(listed.contains("OAR 2.6.1 (tarball)"), "{listed}");
    workdir.ok(&["stop"]);
    assert_same_state(&before, &state_on(engine));
    workdir.ok(&["stop"]);

    // And again.
    workdir.ok(&["start", "-n", "1", "--port-bindings-offset", "50000"]);
    assert!(get_there(workdir, 56668, "/oarapi/resources.json", "").0.contains("200"));
    assert_eq!(workdir.sh("frontend", "ls OAR.* 2>/dev/null | wc -l").trim(), "0", "/home is new with every cluster");
    assert!(workdir.sh("frontend", "cat ~/.bash_history").contains("oarsub -I"), "but shell histories persist");
    // A cluster that lost its oardocker in the middle is cleaned up all the same.
    let mut child = workdir.command(&["start", "-n", "3"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    workdir.kill(&mut child);
    workdir.ok(&["stop"]);
    assert_soon_same_state(&before, || state_on(engine));
}

/// A job of one core sits in the v1 cpuset of that core, and `oardel` kills all of it.
fn confinement(workdir: &Workdir) {
    let id = submit(
        workdir,
        "oarsub -l core=1,walltime=0:5 'grep Cpus_allowed_list /proc/self/status; cat /proc/self/cgroup; \
         nproc; echo ready; bash -c \"exec -a sleeper sleep 997\" & setsid sleep 998 & sleep 999'",
    );
    wait_state(workdir, &id, "Running");
    let out = eventually("the job has begun", 20, || {
        Some(workdir.sh("frontend", &format!("cat OAR.{id}.stdout"))).filter(|t| t.contains("ready"))
    });
    assert!(out.contains("Cpus_allowed_list:\t0\n") || out.contains("Cpus_allowed_list:\t1\n"), "one core only: {out}");
    assert!(out.contains("\n1\nready"), "its programs count one core: {out}");
    for controller in ["cpuset", "memory", "freezer"] {
        assert!(out.contains(&format!(":{controller}:/oar/docker_{id}\n")), "{controller}: {out}");
    }
    let host = workdir
        .sh("frontend", &format!("oarstat -fj {id}"))
        .lines()
        .find_map(|l| l.trim().strip_prefix("assigned_hostnames = ").map(str::to_owned))
        .unwrap();
    let tasks = format!("/dev/oar_cgroups_links/cpuset/oar/docker_{id}/tasks");
    let inside =
        workdir.root_sh(&host, &format!("for p in $(cat {tasks}); do tr '\\0' ' ' < /proc/$p/cmdline; echo; done"));
    for sleeper in ["sleep 997", "sleep 998", "sleep 999"] {
        let sleeper = if sleeper.ends_with("997") { "sleeper 997" } else { sleeper };
        assert!(inside.contains(sleeper), "{sleeper} is not in the job's cpuset: {inside}");
    }
    workdir.sh("frontend", &format!("oardel {id}"));
    eventually("oardel killed every process of the job", 30, || {
        let left = workdir.root_sh(&host, "pgrep -a sleep; pgrep -af 'sleeper 997' | grep -v pgrep; true");
        (!left.contains("99")).then_some(())
    });
    eventually("the job has ended", 30, || {
        matches!(job_state(workdir, &id).as_str(), "Error" | "Terminated").then_some(())
    });
}

/// `oarsub -I` through a pseudo terminal gives a shell on a node and ends cleanly.
fn interactive(workdir: &Workdir) {
    let mut pty = Pty::spawn(workdir.command(&["connect", "frontend"]), 100, 30);
    pty.expect("docker@frontend", 10);
    pty.send("oarsub -I -l nodes=1,walltime=0:5\n");
    pty.expect("Starting...", 40);
    pty.expect("docker@node", 20);
    pty.send("echo on-$(hostname)-$OAR_JOB_ID; tty\n");
    pty.expect("on-node", 10);
    pty.expect("/dev/pts/", 10);
    pty.send("exit\n");
    pty.expect("docker@frontend", 20);
    pty.send("exit 3\n");
    let (code, _) = pty.end(10);
    assert_eq!(code, 3, "connect ends with the shell's exit code");
}

/// What people see in a browser, on 127.0.0.1 only.
fn services(workdir: &Workdir) {
    let (status, body) = get_there(workdir, 46668, "/oarapi/resources/details.json", "");
    assert!(status.contains("200"), "{status} {body}");
    for node in ["node1", "node2", "node3"] {
        assert!(body.contains(&format!("\"network_address\" : \"{node}\"")), "{node} is not in {body}");
    }
    assert!(get_there(workdir, 46668, "/oarapi-priv/jobs.json", "").0.contains("401"));
    // docker:docker
    let (status, _) =
        get_there(workdir, 46668, "/oarapi-priv/jobs.json", "Authorization: Basic ZG9ja2VyOmRvY2tlcg==\r\n");
    assert!(status.contains("200"), "{status}");
    let (status, page) = get_there(workdir, 40080, "/monika", "");
    assert!(status.contains("200") && page.contains("node3"), "{status} {page}");
    let (status, page) = get_there(workdir, 40080, "/drawgantt-svg/", "");
    assert!(status.contains("200") && page.to_lowercase().contains("svg"), "{status} {page}");
    let (status, page) = get_there(workdir, 40080, "/phppgadmin/", "");
    assert!(status.contains("200") && page.contains("phpPgAdmin"), "{status} {page}");
    assert!(php_pg_admin(workdir).contains("node3"), "it shows the table of resources to whom it let in");
    let addresses = workdir.host_sh("hostname -I");
    for address in addresses.split_whitespace().filter(|a| a.contains('.') && !a.starts_with("10.15")) {
        let address = format!("{address}:46668").parse().unwrap();
        assert!(TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_err(), "{address} must not answer");
    }
    let taken = workdir.env_id();
    let other = Workdir::on(workdir.engine, "other");
    if !other.root.join(".oardocker").exists() {
        other.ok(&["init"]);
    }
    let text = other.fails(1, &["start"]);
    assert!(
        text.contains("missing images: oardocker/trixie-frontend:latest") && text.contains("oardocker build"),
        "{text}"
    );
    let text = workdir.fails(2, &["start", "--port-bindings-offset", "60000"]);
    assert!(text.contains("beyond 65535"), "{text}");
    assert_eq!(taken, workdir.env_id());
}

/// Logs in to phpPgAdmin as a browser does; its page of OAR's resources.
fn php_pg_admin(workdir: &Workdir) -> String {
    workdir.sh(
        "frontend",
        "server=server%3A5432%3Aallow base=http://localhost/phppgadmin jar=$(mktemp)\n\
         field=$(curl -sL -c $jar -b $jar \"$base/redirect.php?subject=server&server=$server\" | grep -o 'loginPassword_[0-9a-f]*' | head -n 1)\n\
         curl -sL -c $jar -b $jar -d \"subject=server&server=$server&loginServer=$server&loginUsername=oar&$field=oar\" \
             $base/redirect.php | grep -q 'logged in as user' || echo refused\n\
         curl -sL -b $jar \"$base/display.php?server=$server&database=oar&schema=public&table=resources&subject=table\"",
    )
}

/// What a process inside finds: user, variables, names, network, volumes.
fn inside(workdir: &Workdir) {
    assert_eq!(
        workdir.sh("node1", "id -un; id -Gn; pwd; echo $HOME"),
        "docker\ndocker sudo\n/home/docker\n/home/docker\n"
    );
    assert_eq!(workdir.root_sh("server", "id -un; pwd"), "root\n/root\n");
    assert_eq!(
        workdir.ok(&["exec", "-l", "user3", "-w", "/var/tmp", "--no-tty", "node1", "pwd; id -un"]),
        "/var/tmp\nuser3\n"
    );
    assert_eq!(workdir.sh("node1", "sudo id -u"), "0\n");
    // The variable of -e: logins, services, ssh sessions, plain processes.
    assert_eq!(workdir.ok(&["exec", "--no-tty", "node1", "printenv", "WHO"]), "it's = me\n");
    assert_eq!(workdir.sh("frontend", "ssh node1 printenv WHO"), "it's = me\n");
    assert_eq!(workdir.root_sh("node1", "systemd-run -q --wait --pipe printenv WHO"), "it's = me\n");
    assert_eq!(workdir.root_sh("node1", "su - user1 -c 'echo $WHO'"), "it's = me\n");
    // Names and the way out.
    let hosts = workdir
        .sh("node1", "for h in frontend server rsyslog node1 node2 node3; do getent hosts $h | awk '{print $2}'; done");
    assert_eq!(hosts, "frontend\nserver\nrsyslog\nnode1\nnode2\nnode3\n");
    let out = "curl -sI --connect-timeout 5 --retry 3 http://deb.debian.org/debian/ | head -n 1 | cut -d' ' -f2";
    assert_eq!(workdir.sh("node1", out), "200\n");
    assert!(workdir.sh("node1", "ping -c 1 -W 5 node2").contains("1 received"), "users may ping");
    // /home is shared; a volume that is read-only is.
    workdir.sh("node1", "echo shared > ~/note");
    assert_eq!(workdir.sh("frontend", "cat ~/note"), "shared\n");
    let passwd = workdir.host_sh("cat /etc/passwd");
    assert_eq!(workdir.sh("node2", "cat /host/etc/passwd"), passwd);
    assert!(workdir.root_sh("node2", "touch /host/etc/x 2>&1 || true").contains("Read-only"));
    // systemd runs unmodified and complete.
    for host in ["frontend", "server", "node1", "rsyslog"] {
        assert_eq!(
            workdir.root_sh(host, "systemctl is-system-running || systemctl --failed").trim(),
            "running",
            "{host}"
        );
    }
    // OAR's programs do without TLS, which whoever wants it has.
    let perl = "perl -MOAR::Modules::Judas -MLWP::UserAgent -e 'print grep({/SSL/} keys %INC), \"\\n\"; \
                print LWP::UserAgent->new->get(\"https://127.0.0.1:1\")->status_line'";
    assert_eq!(workdir.sh("server", perl), "\n500 Can't connect to 127.0.0.1:1 (Connection refused)");
    // Capabilities: no wider than needed.
    let capabilities = workdir.root_sh("node1", "grep CapBnd /proc/1/status");
    let bits = u64::from_str_radix(capabilities.split_whitespace().nth(1).unwrap(), 16).unwrap();
    for (name, bit) in [("SYS_MODULE", 16), ("SYS_RAWIO", 17), ("SYS_BOOT", 22), ("SYS_TIME", 25), ("NET_ADMIN", 12)] {
        assert_eq!(bits >> bit & 1, 0, "CAP_{name} must not be there");
    }
}

#[test]
fn trixie() {
    journey(Engine::Containerd, "trixie");
}

#[test]
fn trixie_on_docker() {
    journey(Engine::Docker, "trixie");
}

#[test]
fn trixie_on_podman() {
    journey(Engine::Podman, "trixie");
}

#[test]
fn bookworm() {
    journey(Engine::Containerd, "bookworm");
}

#[test]
fn bullseye() {
    journey(Engine::Containerd, "bullseye");
}

/// OAR from the suite's own packages, the one before 2.6 and the one since.
#[test]
fn debian_packages() {
    require_root();
    let _alone = alone();
    let mut masks = Vec::new();
    for (env, version) in [("bookworm", "2.5.9"), ("trixie", "2.6.1")] {
        let workdir = Workdir::named(env);
        workdir.ok(&["init", "-f", "-e", env, "build", "-q"]);
        let text = workdir.ok(&["install", "deb"]);
        assert!(text.contains("Installing OAR from Debian's packages"), "{text}");
        assert_eq!(text.matches(&format!("Saved: OAR {version} (deb)")).count(), 3, "{text}");
        workdir.ok(&["start", "-n", "2"]);
        let id = submit(&workdir, "oarsub -l nodes=2/core=1,walltime=0:5 'oarsh node2 cat /proc/self/cpuset; nproc'");
        wait_state(&workdir, &id, "Terminated");
        assert_eq!(workdir.sh("frontend", &format!("cat OAR.{id}.stdout")), format!("/oar/docker_{id}\n1\n"));
        let (status, body) = get(46668, "/oarapi/jobs/details.json?state=Terminated", "");
        assert!(status.contains("200") && body.contains("oarsh node2"), "{status} {body}");
        let (status, page) = get(40080, "/monika", "");
        assert!(status.contains("200") && page.contains("node2"), "{status} {page}");
        for host in ["frontend", "server", "node1"] {
            assert_eq!(workdir.root_sh(host, "systemctl is-system-running || systemctl --failed").trim(), "running");
        }
        // On a host with v2 alone only OAR 2.6 confines jobs.
        let choice = if version == "2.5.9" { "none" } else { "systemd" };
        assert_eq!(chosen_on_a_unified_host(&workdir), format!("jobs are confined by: {choice}\n"));
        masks.push(cpu_masks(&workdir, "/usr/local/lib/oardocker/bin/hwloc-calc"));
        if env == "trixie" {
            masks.push(cpu_masks(&workdir, "/usr/bin/hwloc-calc"));
        }
        workdir.ok(&["stop"]);
    }
    assert!(masks[0].contains("ay 0x0002 0x80 0x01"), "{}", masks[0]);
    assert!(masks.iter().all(|m| *m == masks[0]), "our hwloc-calc differs from trixie's: {masks:#?}");
}

/// What a `hwloc-calc` gives OAR 2.6's systemd job manager for some sets of processing units.
fn cpu_masks(workdir: &Workdir, program: &str) -> String {
    workdir.sh(
        "node1",
        &format!(
            "for units in pu:0 'pu:0 pu:1' 'pu:7 pu:8' pu:15 pu:31 pu:32 'pu:63 pu:64' 'pu:1 pu:138'; do for o in cof nof; do\n\
             {program} -i 'node:70 core:2 pu:1' --$o systemd-dbus-api --pi $units\n\
             done; done"
        ),
    )
}

/// What `choose_job_manager.sh` says on a node that has no v1 controllers, only v2's cpuset.
fn chosen_on_a_unified_host(workdir: &Workdir) -> String {
    workdir.root_sh(
        "node1",
        "unshare --mount sh -ec '\
             mount -t tmpfs none /dev/oar_cgroups_links\n\
             echo cpuset cpu > /run/controllers\n\
             mount --bind /run/controllers /sys/fs/cgroup/cgroup.controllers\n\
             bash /var/lib/container/init-scripts/choose_job_manager.sh'",
    )
}

/// What users may edit is used: `custom_setup.sh` of every role at build, the init scripts at start.
#[test]
fn your_own_changes() {
    require_root();
    let _alone = alone();
    let workdir = Workdir::named("custom");
    workdir.ok(&["init", "-f", "-e", "trixie"]);
    let dir = workdir.root.join(".oardocker");
    for role in ["base", "rsyslog", "frontend", "node", "server"] {
        let folder = dir.join("images").join(role);
        // What lies beside it is there, wherever it looks.
        let script = format!(
            "#!/bin/bash\nset -e\necho {role} >> /custom\ncat parts/note $(dirname $0)/note /tmp/note >> /custom\n"
        );
        fs::write(folder.join("custom_setup.sh"), script).unwrap();
        fs::create_dir_all(folder.join("parts")).unwrap();
        fs::write(folder.join("parts/note"), "a").unwrap();
        fs::write(folder.join("note"), "b").unwrap();
    }
    workdir.ok(&["init", "-f", "-e", "trixie"]);
    // Programs of the image's own, and variables.
    let dockerfile = dir.join("images/node/Dockerfile");
    let own = "RUN mkdir /opt/own && printf '#!/bin/sh\\necho own\\n' > /opt/own/tool && chmod 755 /opt/own/tool\n\
               ENV PATH=/opt/own:$PATH FLAVOUR=\"sweet and sour\"\nVOLUME [\"/srv/data\", \"/srv/more\"]\n";
    let text = fs::read_to_string(&dockerfile).unwrap();
    fs::write(&dockerfile, format!("{text}{own}")).unwrap();
    fs::create_dir_all(dir.join("images/shared")).unwrap();
    let queues = dir.join("init-scripts/create_queues.sh");
    let original = fs::read_to_string(&queues).unwrap();
    let out = workdir.run(&["build", "-q", "install", oar_tarball().to_str().unwrap()]);
    assert!(out.status.success(), "{}", texts(&out).1);
    assert!(texts(&out).1.contains("images/shared has no Dockerfile: nothing is built of it"), "{}", texts(&out).1);
    fs::write(&queues, format!("{original}echo mine > /run/queues\n")).unwrap();
    workdir.ok(&["start", "-n", "1"]);
    for (host, role) in [("rsyslog", "rsyslog"), ("frontend", "frontend"), ("node1", "node"), ("server", "server")] {
        assert_eq!(workdir.root_sh(host, "cat /custom"), format!("base\nabb{role}\nabb"), "{host}");
        assert_eq!(workdir.root_sh(host, "find /tmp -name note"), "", "{host}");
    }
    assert_eq!(workdir.sh("node1", "tool; echo $FLAVOUR"), "own\nsweet and sour\n");
    assert_eq!(workdir.ok(&["exec", "node1", "tool"]), "own\n");
    assert_eq!(
        workdir.ok(&[
            "exec",
            "--no-tty",
            "-l",
            "root",
            "node1",
            "sh",
            "-c",
            "tool; echo $FLAVOUR; ls /srv; echo $HOME"
        ]),
        "own\nsweet and sour\ndata\nmore\n/root\n"
    );
    let mut pty = Pty::spawn(workdir.command(&["connect", "node1"]), 80, 24);
    pty.expect("docker@node1", 10);
    pty.send("tool; echo =$FLAVOUR=\n");
    pty.expect("own\r\n=sweet and sour=", 10);
    pty.send("exit\n");
    pty.end(10);
    let mine = dir.join("images/rsyslog/Dockerfile");
    let text = fs::read_to_string(&mine).unwrap();
    fs::remove_file(&mine).unwrap();
    let error = workdir.fails(1, &["build"]);
    assert!(
        error.contains("images/rsyslog/Dockerfile is missing, and manifest.json has rsyslog in build_order"),
        "{error}"
    );
    assert_eq!(workdir.sh("node1", "hostname"), "node1\n", "what runs goes on");
    fs::write(&mine, text).unwrap();
    assert_eq!(workdir.root_sh("server", "cat /run/queues"), "mine\n");
    let listed = workdir.sh("frontend", "oarsub -q Q1 -l core=1 true");
    assert!(listed.contains("OAR_JOB_ID="), "the queue that the script made takes jobs: {listed}");
    workdir.ok(&["destroy", "-f"]);
}

#[test]
fn a_plan_is_what_start_makes_and_makes_nothing() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let before = host_state();
    let shared = tempfile::tempdir_in(data_dir()).unwrap();
    let volume = format!("{}:/mnt/shared:ro", shared.path().display());
    let line = ["start", "-n", "1", "-v", &volume, "-e", "COLOUR=blue"];
    let text = workdir.ok(&[&line[..], &["--plan"]].concat());
    assert!(text.contains(&format!("{} -> /mnt/shared (ro)", shared.path().display())), "{text}");
    assert!(text.contains("127.0.0.1:40080 -> frontend:80"), "{text}");
    let json = workdir.ok(&[&line[..], &["--plan", "--json"]].concat());
    let plan: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_same_state(&before, &host_state());
    assert!(workdir.fails(2, &["start", "--json"]).contains("oardocker start --plan --json"));
    // An environment without images has no plan, and is told so as by `start`.
    let empty = tempfile::tempdir_in(data_dir()).unwrap();
    let nothing = Workdir { root: empty.path().into(), engine: Engine::Containerd };
    nothing.ok(&["init"]);
    assert!(nothing.fails(1, &["start", "--plan"]).contains("missing images: "));

    workdir.ok(&line);
    let hosts: Vec<&str> =
        plan["hosts"].as_array().unwrap().iter().map(|host| host["name"].as_str().unwrap()).collect();
    assert_eq!(hosts, ["server", "frontend", "rsyslog", "node1"]);
    let status = workdir.ok(&["status"]);
    let shown = workdir.ok(&[&line[..], &["--plan"]].concat());
    for host in hosts {
        let row = |text: &str| text.lines().find(|l| l.starts_with(&format!("{host} "))).unwrap().to_owned();
        let address = |text: &str| row(text).split_whitespace().nth(1).unwrap().to_owned();
        assert_eq!(address(&status), address(&text), "the address that was shown is the one it has");
        assert_eq!(address(&shown), address(&text), "also while it runs");
    }
    let mounts = plan["hosts"][3]["spec"]["mounts"].as_array().unwrap();
    let inside = workdir.root_sh("node1", "cat /proc/self/mounts");
    for mount in mounts.iter().map(|mount| mount["target"].as_str().unwrap()) {
        assert!(inside.lines().any(|line| line.split(' ').nth(1) == Some(mount)), "{mount} is not in: {inside}");
    }
    for file in plan["contents"]["files"].as_array().unwrap() {
        let (path, mode) = (file["path"].as_str().unwrap(), file["mode"].as_str().unwrap());
        let meta = fs::metadata(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(format!("{:04o}", meta.permissions().mode() & 0o7777), mode, "{path}");
    }
    workdir.ok(&["stop"]);
    assert_same_state(&before, &host_state());
}

#[test]
fn bad_input_changes_nothing() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let before = host_state();
    let images = workdir.images();
    let empty = tempfile::tempdir().unwrap();
    let nothing = Workdir { root: empty.path().into(), engine: Engine::Containerd };
    let text = nothing.fails(1, &["build", "start"]);
    assert!(text.contains("there is no oardocker environment in") && text.contains("oardocker init"), "{text}");
    assert!(text.contains("Not run: start"), "{text}");
    let tarball = fs::read(oar_tarball()).unwrap();
    let cut = empty.path().join("cut.tar.gz");
    fs::write(&cut, &tarball[..tarball.len() / 2]).unwrap();
    for (args, code, expected) in [
        (&["install", cut.to_str().unwrap()][..], 1, "is not a complete tar or tar.gz file"),
        (&["install", empty.path().to_str().unwrap()], 1, "holds no OAR sources"),
        (&["install", "/nonexistent"], 1, "cannot open /nonexistent: No such file"),
        (&["start", "-v", "/nonexistent:/x"], 1, "cannot share /nonexistent: No such file"),
        (&["start", "-v", "/tmp:/etc"], 1, "the nodes need what is there"),
        (&["exec", "node1", "true"], 1, "the cluster is not running"),
        (&["connect", "node1"], 1, "run `oardocker start` first"),
        (&["logs"], 1, "the cluster is not running"),
        (&["reset", "node1"], 1, "the cluster is not running"),
        (&["start", "-n", "0"], 2, "a cluster needs one node at least"),
        (&["start", "-n", "-1"], 2, "not in the range 0 to 1000"),
        (&["exec", "node1"], 2, "exec needs a command"),
        (&["init"], 1, "exists already"),
        (&["--cgroup-path", "/tmp", "start"], 1, "no cgroup filesystem at /tmp"),
    ] {
        let text = workdir.fails(code, args);
        assert!(text.contains(expected), "{args:?}: {text}");
        assert_eq!(text.matches("Error:").count(), 1, "one error only: {text}");
    }
    let _taken = std::net::TcpListener::bind("127.0.0.1:46668").unwrap();
    let text = workdir.fails(1, &["start"]);
    assert!(text.contains("port 46668 of 127.0.0.1, for port 6668 of the frontend, is taken"), "{text}");
    assert_same_state(&before, &host_state());
    assert_eq!(workdir.images(), images);
}

#[test]
fn a_failing_install_script_leaves_the_images_as_they_were() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    let tmp = tempfile::tempdir().unwrap();
    let tree = tmp.path().join("oar-9");
    let version = tree.join("sources/core/common-libs/lib/OAR/Version.pm");
    fs::create_dir_all(version.parent().unwrap()).unwrap();
    fs::write(version, "my $OARVersion = \"9.9\";\n").unwrap();
    fs::write(tree.join("Makefile"), "%:\n\t@echo the last words; exit 5\n").unwrap();
    let (before, images) = (host_state(), workdir.images());
    let text = workdir.fails(1, &["install", tree.to_str().unwrap()]);
    assert!(
        text.contains("/root/install_oar.sh ended with exit code 2 on") && text.contains("the last words"),
        "{text}"
    );
    assert_same_state(&before, &host_state());
    assert_eq!(workdir.images(), images);
    assert!(!tree.join("Makefiles").exists(), "the user's tree is never written to");
}

#[test]
fn oar_from_a_directory_and_from_a_git_tree() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    let tmp = tempfile::tempdir().unwrap();
    let run = |program: &str, args: &[&str]| {
        let out = std::process::Command::new(program).args(args).current_dir(tmp.path()).output().unwrap();
        assert!(out.status.success(), "{program} {args:?}: {}", texts(&out).1);
        texts(&out).0
    };
    run("tar", &["-xzf", oar_tarball().to_str().unwrap()]);
    let tree = tmp.path().join("oar-2.6.1");
    let listing = || {
        run("sh", &["-c", "find oar-2.6.1 -path '*/.git/*' -prune -o -type f -print0 | sort -z | xargs -0 sha256sum"])
    };
    let before = listing();
    let text = workdir.ok(&["install", tree.to_str().unwrap()]);
    assert!(text.contains("Saved: OAR 2.6.1 (directory)"), "{text}");
    assert_eq!(listing(), before, "the user's tree is never written to");
    // The same again is found, image by image, and what has changed is not.
    let saved = |text: &str| text.lines().filter(|l| l.contains("--> Saved")).map(str::to_owned).collect::<Vec<_>>();
    let found = |text: &str| text.matches("Using cache").count();
    let begun = std::time::Instant::now();
    let again = workdir.ok(&["install", tree.to_str().unwrap()]);
    println!("the same source again: {:?}", begun.elapsed());
    assert_eq!((found(&again), saved(&again)), (3, saved(&text)));
    let changed = tree.join("sources/core/qfunctions/oarsub");
    let original = fs::read(&changed).unwrap();
    fs::write(&changed, [original.clone(), b"# edited\n".to_vec()].concat()).unwrap();
    let edited = workdir.ok(&["install", tree.to_str().unwrap()]);
    assert!(found(&edited) == 0 && saved(&edited) != saved(&text), "{edited}");
    fs::write(&changed, original).unwrap();
    assert_eq!(found(&workdir.ok(&["install", "--no-cache", tree.to_str().unwrap()])), 0);

    let git = |args: &[&str]| {
        run(
            "git",
            &[&["-C", "oar-2.6.1", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*"], args]
                .concat(),
        )
    };
    git(&["init", "-q", "-b", "devel"]);
    git(&["add", "-f", "."]);
    git(&["commit", "-q", "-m", "x"]);
    git(&["tag", "-a", "-m", "x", "2.6.1+test"]);
    // A product of a build on the host, which must not take the place of one made inside.
    fs::write(tree.join("sources/core/tools/oardodo"), "not a program").unwrap();
    let (before, status) = (listing(), git(&["status", "--porcelain"]));
    let text = workdir.ok(&["install", tree.to_str().unwrap(), "start", "-n", "1"]);
    assert!(text.contains("Saved: OAR 2.6.1+test (git branch devel)"), "{text}");
    assert_eq!((listing(), git(&["status", "--porcelain"])), (before, status));
    assert_eq!(workdir.root_sh("node1", "head -c 4 /usr/local/lib/oar/oardodo/oardodo | tail -c 3"), "ELF");
    assert_eq!(workdir.sh("node1", "cat /oar_version"), "2.6.1+test\n");
    // From a repository: cloned once, then updated; a branch, a tag.
    let url = format!("git+file://{}", tree.display());
    let text = workdir.ok(&["install", &url]);
    assert!(text.contains("Saved: OAR 2.6.1+test (git branch devel)"), "{text}");
    assert_eq!(found(&workdir.ok(&["install", &url])), 3);
    git(&["checkout", "-q", "-b", "feature/x"]);
    git(&["commit", "-q", "--allow-empty", "-m", "y"]);
    let clone = workdir.root.join(".oardocker/postinstall/oar-git");
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&clone).unwrap());
    let first = inode();
    let text = workdir.ok(&["install", &format!("{url}@feature/x")]);
    assert!(text.contains("Saved: OAR 2.6.1+test-1-g") && text.contains("(git branch feature/x)"), "{text}");
    assert_eq!(inode(), first, "updated, not cloned again");
    let text = workdir.fails(1, &["install", &format!("{url}@nothing")]);
    assert!(text.contains("is \"nothing\" a branch, a tag or a commit of"), "{text}");
    workdir.ok(&["stop"]);
}

#[test]
fn volumes_ro_rw_cow() {
    volumes(Engine::Containerd);
}

#[test]
fn volumes_ro_rw_cow_on_docker() {
    volumes(Engine::Docker);
}

#[test]
fn volumes_ro_rw_cow_on_podman() {
    volumes(Engine::Podman);
}

pub fn volumes(engine: Engine) {
    require_root();
    let _alone = engine.alone();
    let workdir = ready_on(engine, "trixie");
    workdir.ok(&["stop"]);
    let before = state_on(engine);
    let tmp = tempfile::tempdir_in(&workdir.root).unwrap();
    workdir.give(tmp.path());
    for name in ["ro", "rw", "co w,x:y"] {
        fs::create_dir(tmp.path().join(name)).unwrap();
        fs::write(tmp.path().join(name).join("file"), "original\n").unwrap();
        workdir.give(&tmp.path().join(name));
        workdir.give(&tmp.path().join(name).join("file"));
    }
    fs::create_dir(tmp.path().join("co w,x:y/sub")).unwrap();
    workdir.give(&tmp.path().join("co w,x:y/sub"));
    fs::write(tmp.path().join("co w,x:y/sub/deep"), "deep\n").unwrap();
    // A colon separates the parts of a volume, so an odd name can only come through a link.
    std::os::unix::fs::symlink(tmp.path().join("co w,x:y"), tmp.path().join("cow")).unwrap();
    let volume = |name: &str, mode: &str| format!("{}:/data/{name}:{mode}", tmp.path().join(name).display());
    let (ro, rw, cow) = (volume("ro", "ro"), volume("rw", "rw"), volume("cow", "cow"));
    workdir.ok(&["start", "-n", "2", "-v", &ro, "-v", &rw, "-v", &cow]);
    assert!(workdir.root_sh("node1", "echo x > /data/ro/file || true").is_empty());
    // A directory from below can be renamed, as git and make do; without root only by copying.
    let rename = match engine {
        Engine::Rootless | Engine::Own => "mv /data/cow/sub /data/cow/moved",
        _ => "python3 -c \"import os; os.rename('/data/cow/sub', '/data/cow/moved')\"",
    };
    workdir.root_sh("node1", rename);
    assert_eq!(workdir.root_sh("node1", "cat /data/cow/moved/deep; rm -r /data/cow/moved"), "deep\n");
    workdir.root_sh(
        "node1",
        "echo from-node1 > /data/rw/file; echo from-node1 > /data/cow/file; rm -f /data/cow/gone; mkdir /data/cow/new",
    );
    assert_eq!(
        workdir.sh("node1", "cat /data/ro/file /data/rw/file /data/cow/file"),
        "original\nfrom-node1\nfrom-node1\n"
    );
    assert_eq!(
        workdir.sh("node2", "cat /data/rw/file /data/cow/file; ls /data/cow"),
        "from-node1\noriginal\nfile\nsub\n"
    );
    assert_eq!(fs::read_to_string(tmp.path().join("rw/file")).unwrap(), "from-node1\n");
    assert_eq!(fs::read_to_string(tmp.path().join("cow/file")).unwrap(), "original\n");
    assert!(!tmp.path().join("cow/new").exists(), "writes never reach the host");
    workdir.ok(&["stop"]);
    assert_same_state(&before, &state_on(engine));
    assert_eq!(fs::read_dir(tmp.path().join("cow")).unwrap().count(), 2);
}

/// Answers every request on a loopback port like a web server with a tarball, some odd ones and a redirect.
fn web_server(tarball: Vec<u8>) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 2048];
            let n = stream.read(&mut request).unwrap_or(0);
            let path = String::from_utf8_lossy(&request[..n]).split_whitespace().nth(1).unwrap_or("/").to_owned();
            let ok = |kind: &str, length: usize| {
                format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                )
            };
            let (head, body) = match path.as_str() {
                "/oar.tar.gz" => (ok("application/gzip", tarball.len()), &tarball[..]),
                "/cut.tar.gz" => (ok("application/gzip", tarball.len()), &tarball[..tarball.len() / 2]),
                "/page.tar.gz" => (ok("text/html", 13), &b"<html></html>"[..]),
                "/moved" => (
                    "HTTP/1.1 302 Found\r\nLocation: /oar.tar.gz\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        .into(),
                    &b""[..],
                ),
                _ => ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(), &b""[..]),
            };
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    port
}

#[test]
fn oar_from_a_url() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    let port = web_server(fs::read(oar_tarball()).unwrap());
    let url = |path: &str| format!("http://127.0.0.1:{port}/{path}");
    let images = workdir.images();
    for (path, expected) in [
        ("cut.tar.gz", "cannot download"),
        ("page.tar.gz", "the server calls it text/html"),
        ("none.tar.gz", "the server answered 404"),
    ] {
        let text = workdir.fails(1, &["install", &url(path)]);
        assert!(text.contains(expected) && text.contains(&url(path)), "{path}: {text}");
    }
    let text = workdir.fails(1, &["install", "http://127.0.0.1:1/oar.tar.gz"]);
    assert!(text.contains("Connection refused"), "{text}");
    assert!(workdir.fails(1, &["install", "ftp://127.0.0.1/x"]).contains("ftp URLs cannot be installed from"));
    assert_eq!(workdir.images(), images);
    for path in ["oar.tar.gz", "moved"] {
        let text = workdir.ok(&["install", &url(path)]);
        assert!(text.contains("Saved: OAR 2.6.1 (tarball)"), "{text}");
    }
}

/// A working tree as large as a kernel's: mounting a copy takes no longer than a small one, and git works in it.
#[test]
fn a_large_tree_in_mode_cow() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let before = host_state();
    let tmp = tempfile::tempdir_in(crate::support::data_dir()).unwrap();
    let tree = tmp.path().join("tree");
    for i in 0..500 {
        let dir = tree.join(format!("d{i}"));
        fs::create_dir_all(&dir).unwrap();
        for j in 0..100 {
            fs::write(dir.join(format!("f{j}")), format!("{i} {j}\n")).unwrap();
        }
    }
    let git = |args: &[&str]| {
        let mut command = std::process::Command::new("git");
        let out = command.args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(args).current_dir(&tree).output();
        let out = out.unwrap();
        assert!(out.status.success(), "git {args:?}: {}", texts(&out).1);
        texts(&out).0
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "x"]);
    let begun = Instant::now();
    workdir.ok(&["start", "-n", "2"]);
    let without = begun.elapsed();
    let begun = Instant::now();
    workdir.ok(&["start", "-n", "2", "-v", &format!("{}:/src:cow", tree.display())]);
    let with = begun.elapsed();
    println!("start without the tree {without:?}, with it {with:?}");
    let git_inside = "git -c safe.directory=/src -C /src";
    let changed = workdir.root_sh(
        "node1",
        &format!(
            "rm -r /src/d7 && mv /src/d8 /src/moved && echo new > /src/d9/f1 && {git_inside} status --short | wc -l"
        ),
    );
    assert_eq!(changed.trim(), "202", "100 files deleted, 100 moved away, one directory new, one file changed");
    assert_eq!(
        workdir.root_sh("node1", &format!("{git_inside} checkout -q . && cat /src/d8/f3 /src/d9/f1")),
        "8 3\n9 1\n"
    );
    assert_eq!(workdir.root_sh("node2", &format!("{git_inside} status --short | wc -l")).trim(), "0");
    workdir.ok(&["stop"]);
    assert_eq!(git(&["status", "--short"]), "", "writes never reach the host");
    assert_same_state(&before, &host_state());
}

/// -X with a real X server and a real X client.
#[test]
fn x11() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let socket = std::path::Path::new("/tmp/.X11-unix/X77");
    let mut server = std::process::Command::new("Xvfb")
        .args([":77", "-ac", "-screen", "0", "640x480x24", "-nolisten", "tcp"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("this test needs Xvfb: run `make deps`");
    let outcome = std::panic::catch_unwind(|| {
        eventually("the X server listens", 20, || socket.exists().then_some(()));
        let out = workdir.command(&["start", "-n", "1", "-X"]).env("DISPLAY", ":77").output().unwrap();
        assert!(out.status.success(), "{}", texts(&out).1);
        assert!(socket.exists(), "a node that boots must not clear the host's sockets");
        assert_eq!(workdir.root_sh("node1", "systemctl is-system-running").trim(), "running");
        workdir
            .root_sh("node1", "apt-get update -q >/dev/null && apt-get install -qy --no-install-recommends x11-utils");
        let text = workdir.sh("node1", "xdpyinfo");
        assert!(text.contains("name of display:    :77") && text.contains("640x480 pixels"), "{text}");
        // A login by ssh, as jobs have it, knows the display as well.
        assert_eq!(workdir.sh("frontend", "ssh node1 'echo $DISPLAY'"), ":77\n");
        workdir.ok(&["stop"]);
        let out = workdir.command(&["start", "-X"]).env_remove("DISPLAY").output().unwrap();
        assert!(texts(&out).1.contains("-X needs the variable DISPLAY"), "{}", texts(&out).1);
    });
    server.kill().unwrap();
    server.wait().unwrap();
    let _ = fs::remove_file(socket);
    let _ = fs::remove_file("/tmp/.X77-lock");
    outcome.unwrap();
}
