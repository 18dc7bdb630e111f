//! OAR 3 from a checkout, on top of an installed trixie in another workdir.

use super::{get, ready, submit};
use crate::support::{Workdir, alone, data_dir, eventually, require_root};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// A copy of the checkout, which `pip install -e` writes to.
fn copy(checkout: &Path) -> PathBuf {
    let copy = data_dir().join("oar3-checkout");
    let _ = fs::remove_dir_all(&copy);
    let status = Command::new("cp").arg("-a").arg(checkout).arg(&copy).status().unwrap();
    assert!(status.success());
    copy
}

/// PyPI may be behind a proxy whose certificate this host trusts.
fn trust_what_the_host_trusts(workdir: &Workdir) {
    for entry in fs::read_dir("/usr/local/share/ca-certificates").into_iter().flatten().flatten() {
        for role in ["frontend", "server"] {
            let dir = workdir.root.join(format!(".oardocker/images/{role}/certificates"));
            fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
        }
    }
}

/// Waits until OAR 3 says that a job has ended well.
fn wait_terminated(workdir: &Workdir, id: &str) {
    eventually(&format!("job {id} is Terminated"), 90, || {
        let text = workdir.sh("frontend", &format!("oarstat -fj {id}"));
        assert!(!text.contains("state = Error"), "{text}");
        text.contains("state = Terminated").then_some(())
    });
}

#[test]
fn oar3_dev() {
    let Some(checkout) = std::env::var_os("OARDOCKER_TEST_OAR3") else {
        println!("oar3: NOT RUN: set OARDOCKER_TEST_OAR3 to a checkout of OAR 3, whose sources are in no registry");
        return;
    };
    require_root();
    let _alone = alone();
    let below = ready("trixie");
    let workdir = Workdir::named("oar3-dev");
    workdir.ok(&["init", "-f", "-e", "oar3-dev"]);
    let _ = workdir.run(&["stop"]);
    trust_what_the_host_trusts(&workdir);
    let begun = Instant::now();
    let text = workdir.ok(&["build", "-q"]);
    let line = format!("oardocker/trixie-server:latest --> that of environment {}", below.env_id());
    assert!(text.contains(&line) && text.contains("OAR 2.6.1"), "{text}");
    println!("oar3: built in {:?}", begun.elapsed());
    assert!(workdir.fails(1, &["install", checkout.to_str().unwrap()]).contains("nothing to install"));

    let volume = format!("{}:/data", copy(Path::new(&checkout)).display());
    workdir.ok(&["start", "-n", "2", "-v", &volume, "--port-bindings-offset", "52000"]);
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
        wait_terminated(&workdir, &id);
        assert_eq!(workdir.sh("frontend", &format!("cat OAR.{id}.stdout")), expected);
        println!("oar3: a job of {command} done after {:?}", begun.elapsed());
    }
    for (host, command) in
        [("server", "oar3-almighty"), ("server", "oar-almighty"), ("server", "kamelot"), ("server", "kao")]
    {
        workdir.root_sh(host, &format!("test -x $(readlink -f $(command -v {command}))"));
    }
    let policies = "PGPASSWORD=oar psql -qAt -h server -U oar oar -c 'SELECT DISTINCT scheduler_policy FROM queues'";
    assert_eq!(workdir.root_sh("server", policies), "kamelot\n");

    let (status, body) = get(58668, "/newoarapi/resources/", "");
    assert!(
        status.contains("200") && body.contains("\"network_address\":\"node2\"")
            || body.contains("\"network_address\": \"node2\""),
        "{status} {body}"
    );
    assert!(get(58668, "/newoarapi-priv/jobs/", "").0.contains("401"));
    // docker:docker
    let (status, _) = get(58668, "/newoarapi-priv/jobs/", "Authorization: Basic ZG9ja2VyOmRvY2tlcg==\r\n");
    assert!(status.contains("200"), "{status}");

    // What changes something wants a token: the private API passes it on.
    let post = |token: &str| {
        let job = "{\\\"resource\\\": [\\\"nodes=1\\\"], \\\"command\\\": \\\"hostname\\\"}";
        let line = format!(
            "curl -s -H 'Authorization: {token}' -H 'Content-Type: application/json' -d \"{job}\" http://localhost:6668/newoarapi-priv/jobs/"
        );
        workdir.sh("frontend", &line)
    };
    let token = workdir.sh("frontend", "oarsub --api-token");
    let token =
        token.lines().find_map(|l| l.trim().strip_prefix("OAR_API_TOKEN=")).unwrap_or_else(|| panic!("{token}"));
    let answer: serde_json::Value = serde_json::from_str(&post(&format!("Bearer {token}"))).unwrap();
    let id = answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}")).to_string();
    wait_terminated(&workdir, &id);
    let job = workdir.sh("frontend", &format!("oarstat -fj {id}"));
    assert!(job.lines().any(|l| matches!(l.trim(), "owner = docker" | "user = docker")), "{job}");
    assert!(!post("Bearer nonsense").contains("\"id\""));

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
