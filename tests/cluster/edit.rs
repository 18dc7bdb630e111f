//! The loop of an OAR developer: edit, install or update, look.

use super::{ready, submit, wait_state};
use crate::support::{
    Workdir, alone, assert_same_state, eventually, host_state, oar_tarball, require_root, texts, unpacked,
};
use std::fs;
use std::path::Path;
use std::time::Instant;

const SCHEDULER: &str = "sources/core/modules/scheduler/oar_meta_sched";
const SUBMISSION: &str = "sources/core/qfunctions/oarsub";
/// The database is made with it, too.
const LIBRARY: &str = "sources/core/common-libs/lib/OAR/IO.pm";
/// Filled in when OAR is built, and kept in two variants.
const SHELL: &str = "sources/core/tools/oarsh/oarsh_shell.in";
const RULES: &str = "sources/core/database/pg_default_admission_rules.sql";

/// What can be put in place: each kind of program, in each kind of place.
const PLAIN: [(&str, &str); 8] = [
    (SUBMISSION, "# edited\n"),
    (LIBRARY, "# edited\n"),
    (SHELL, "# edited in %%OARDIR%%\n"),
    (RULES, "INSERT INTO admission_rules (rule) VALUES ('# edited');\n"),
    ("sources/core/tools/job_resource_manager_systemd.pl", "# edited\n"),
    ("sources/api/lib/OAR/API.pm", "# edited\n"),
    ("sources/visualization_interfaces/DrawGantt-SVG/drawgantt.php.in", "<!-- edited -->\n"),
    ("sources/visualization_interfaces/Monika/monika.css", "/* edited */\n"),
];

fn append(tree: &Path, file: &str, text: &str) {
    let path = tree.join(file);
    let old = fs::read_to_string(&path).unwrap_or_default();
    fs::write(path, old + text).unwrap();
}

/// All that OAR put anywhere, and its database: of a cluster of these images.
fn installed(workdir: &Workdir) -> String {
    // Salts, and the notes of how it got there.
    let files = "cd /; places='usr/local etc opt var/www var/lib/oar'; \
                 find $places -xdev ! -name '*.pyc' ! -name api-users ! -name machine-id -printf '%p %M %u %g %l\\n' | sort; \
                 grep -rIlZ '' --exclude=api-users --exclude=machine-id $places | sort -z | xargs -0 sha256sum";
    let database = "cd /tmp; export PGPASSWORD=oar; pg_dump -h localhost -U oar -s oar | grep -v restrict; \
                    pg_dump -h localhost -U oar -a -t admission_rules -t schema -t queues oar | grep -v restrict";
    workdir.ok(&["start", "-n", "1"]);
    let mut all = workdir.root_sh("server", database);
    for host in ["server", "frontend", "node1"] {
        all += &workdir.root_sh(host, files).lines().map(|line| format!("{host}: {line}\n")).collect::<String>();
    }
    workdir.ok(&["stop"]);
    all
}

/// What has changed in a tree is in the images as if all of it had been installed, whichever way it got there.
#[test]
fn an_edited_tree_is_installed_as_a_whole_one() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let dir = unpacked(&oar_tarball());
    let tree = dir.path();
    let install = |more: &[&str]| {
        let begun = Instant::now();
        let text = workdir.ok(&[&["install"], more, &[tree.to_str().unwrap()]].concat());
        println!("installed in {:?}", begun.elapsed());
        text
    };
    let whole = |text: &str| text.contains("make[1]");
    assert!(whole(&install(&["--no-cache"])));
    // Taken back below.
    append(tree, SCHEDULER, "# edited\n");
    let text = install(&[]);
    assert!(!whole(&text) && text.contains("server | /usr/local/lib/oar/oar_meta_sched\n"), "{text}");
    fs::copy(unpacked(&oar_tarball()).path().join(SCHEDULER), tree.join(SCHEDULER)).unwrap();
    for (file, text) in PLAIN {
        append(tree, file, text);
    }
    let text = install(&[]);
    assert!(!whole(&text), "{text}");
    assert_eq!(install(&[]).matches("Using cache").count(), 3);
    let put = installed(&workdir);
    assert!(whole(&install(&["--no-cache"])));
    let clean = installed(&workdir);
    let differ =
        |a: &str, b: &str| a.lines().filter(|l| !b.lines().any(|k| k == *l)).map(str::to_owned).collect::<Vec<_>>();
    assert!(put == clean, "put: {:#?}\nclean: {:#?}", differ(&put, &clean), differ(&clean, &put));
    // Whatever is made of, or with, something else.
    for (file, text) in [
        ("sources/core/tools/oardo.c.in", "/* edited */\n"),
        ("sources/core/tools/oar.conf.in", "# edited\n"),
        ("sources/core/man/man1/oarsub.pod", "\nedited\n"),
        ("sources/core/common-libs/lib/OAR/New.pm", "package OAR::New;\n1;\n"),
    ] {
        append(tree, file, text);
        let text = install(&[]);
        assert!(
            whole(&text) && text.contains(&format!("Installing all of it, for the sake of {file}")),
            "{file}: {text}"
        );
    }
}

/// A running cluster gets what was edited, and goes on.
#[test]
fn a_running_cluster_is_updated() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let before = host_state();
    let dir = unpacked(&oar_tarball());
    let tree = dir.path().to_str().unwrap();
    let text = workdir.fails(1, &["update", tree]);
    assert!(text.contains("the cluster is not running"), "{text}");
    // From a tarball there is nothing to compare with.
    workdir.ok(&["start", "-n", "2"]);
    let text = workdir.fails(1, &["update", tree]);
    assert!(text.contains("cannot be updated") && text.contains("oardocker install DIRECTORY start"), "{text}");
    workdir.ok(&["install", tree, "start", "-n", "2"]);
    assert!(workdir.ok(&["update", tree]).contains("The cluster has all of it."));
    let job = submit(&workdir, "oarsub -l nodes=1,walltime=0:5 'sleep 1234'");
    wait_state(&workdir, &job, "Running");

    append(dir.path(), LIBRARY, "# edited\n");
    append(dir.path(), SHELL, "# edited\n");
    let begun = Instant::now();
    let text = workdir.ok(&["update", tree]);
    println!("updated in {:?}", begun.elapsed());
    assert!(text.contains("put /usr/local/lib/site_perl/OAR/IO.pm: frontend, server\n"), "{text}");
    assert!(
        text.contains("restarted oar-server: server\n")
            && text.contains("oarsh_shell: frontend, node1, node2, server\n"),
        "{text}"
    );
    let last = |host: &str, file: &str| workdir.root_sh(host, &format!("tail -n 1 {file}"));
    assert_eq!(last("server", "/usr/local/lib/site_perl/OAR/IO.pm"), "# edited\n");
    wait_state(&workdir, &job, "Running");
    let id = submit(&workdir, "oarsub -l nodes=1,walltime=0:2 true");
    wait_state(&workdir, &id, "Terminated");

    // What does not compile goes nowhere.
    append(dir.path(), SUBMISSION, "sub {\n");
    let text = workdir.fails(1, &["update", tree]);
    assert!(text.contains("/usr/local/lib/oar/oarsub line ") && text.contains("as it was"), "{text}");
    submit(&workdir, "oarsub -l core=1,walltime=0:2 true");
    // What was changed there by hand stays; what cannot be put there is named, and the rest is put.
    workdir.root_sh("frontend", "echo '# by hand' >> /usr/local/lib/oar/oarstat");
    let original = unpacked(&oar_tarball());
    fs::copy(original.path().join(SUBMISSION), dir.path().join(SUBMISSION)).unwrap();
    append(dir.path(), "sources/core/qfunctions/oarstat", "# edited\n");
    append(dir.path(), "Makefile", "# edited\n");
    append(dir.path(), SCHEDULER, "# edited\n");
    let out = workdir.run(&["update", tree]);
    let text = texts(&out).0 + &texts(&out).1;
    assert_eq!(out.status.code(), Some(1), "{text}");
    for said in [
        "/usr/local/lib/oar/oarstat was changed on frontend and is left as it is",
        "put /usr/local/lib/oar/oarstat: server",
        "put /usr/local/lib/oar/oar_meta_sched: server",
        "  Makefile\n",
    ] {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
    // And taken back.
    fs::copy(original.path().join("Makefile"), dir.path().join("Makefile")).unwrap();
    fs::copy(original.path().join(LIBRARY), dir.path().join(LIBRARY)).unwrap();
    workdir.ok(&["update", tree]);
    assert_eq!(last("server", "/usr/local/lib/site_perl/OAR/IO.pm"), "return 1;\n");

    // At every save, until it is ended.
    let mut watch = workdir.command(&["update", "--watch", tree]).spawn().unwrap();
    let edited = || last("server", "/usr/local/lib/oar/oar_meta_sched");
    append(dir.path(), SCHEDULER, "# saved\n");
    eventually("the first save is there", 20, || (edited() == "# saved\n").then_some(()));
    append(dir.path(), SCHEDULER, "# again\n");
    eventually("the second save is there", 20, || (edited() == "# again\n").then_some(()));
    // Others have the cluster meanwhile.
    workdir.ok(&["status"]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(watch.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(watch.wait().unwrap().code().is_some());
    workdir.ok(&["stop"]);
    assert_same_state(&before, &host_state());
}
