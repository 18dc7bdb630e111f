//! Trees that an OAR developer has: old ones run, and of broken ones it is told where.

use super::{job_field, ready, submit, wait_state};
use crate::support::{
    Workdir, alone, assert_same_state, host_state, oar_tarball, oar3_tree, require_root, texts, unpacked,
};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Replaces the first of a text in a file.
#[track_caller]
fn edit(tree: &Path, file: &str, from: &str, to: &str) {
    let path = tree.join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
    assert!(text.contains(from), "{file} has no {from:?}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// A tree with one wrong line.
fn broken(tarball: &Path, file: &str, from: &str, to: &str) -> tempfile::TempDir {
    let tree = unpacked(tarball);
    edit(tree.path(), file, from, to);
    tree
}

/// Installs a broken tree: it fails, tells why, and leaves what was installed.
#[track_caller]
fn refused(workdir: &Workdir, tree: &tempfile::TempDir, said: &[&str]) {
    let images = ids(workdir);
    let text = workdir.fails(1, &["install", tree.path().to_str().unwrap()]);
    for said in said {
        assert!(text.contains(said), "{said:?} is not in: {text}");
    }
    assert_eq!(ids(workdir), images);
}

/// Names and ids of the images; their age changes by itself.
fn ids(workdir: &Workdir) -> Vec<String> {
    let listed = workdir.ok(&["status"]);
    listed.lines().map(|l| l.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect()
}

/// Starts a cluster whose OAR is broken: it fails soon, tells why, can be looked at, and stops without a trace.
#[track_caller]
fn told_at_start(workdir: &Workdir, said: &[&str]) {
    let before = host_state();
    let begun = Instant::now();
    let text = workdir.fails(1, &["start", "-n", "1"]);
    println!("told after {:?}: {}", begun.elapsed(), said[0]);
    // Half a minute is what is waited for a server that says nothing.
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    for said in said.iter().chain(&["OAR's server does not work", "oardocker connect -l root server", "oardocker stop"])
    {
        assert!(text.contains(said), "{said:?} is not in: {text}");
    }
    assert_eq!(workdir.root_sh("node1", "hostname"), "node1\n");
    workdir.ok(&["stop"]);
    assert_same_state(&before, &host_state());
}

#[test]
fn broken_trees_are_told() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["stop"]);
    let tarball = oar_tarball();

    // What does not compile is not installed.
    let scheduler = "sources/core/modules/scheduler/oar_meta_sched";
    let tree = broken(&tarball, scheduler, "init_conf(", "my $x = ; init_conf(");
    edit(tree.path(), "sources/core/tools/oarsh/oarsh_shell.in", "\nfi\n", "\nfi fi\n");
    edit(tree.path(), "sources/core/modules/runner/oarexec", "\nuse ", "\nmy $x = ; use ");
    refused(
        &workdir,
        &tree,
        &["oar/oar_meta_sched line ", "oar/oarsh_shell: line ", "Error: this OAR does not compile (server)"],
    );
    let structure = "sources/core/database/pg_structure.sql";
    let tree = broken(&tarball, structure, "CREATE TABLE jobs", "CREATE TABEL jobs");
    let line = fs::read_to_string(tree.path().join(structure)).unwrap();
    let line = line.lines().position(|l| l.contains("TABEL")).unwrap() + 1;
    refused(
        &workdir,
        &tree,
        &[&format!("OAR's database cannot be made: pg_structure.sql, line {line}: ERROR:"), "CREATE TABEL jobs ("],
    );
    let rules = "sources/core/database/pg_default_admission_rules.sql";
    refused(&workdir, &broken(&tarball, rules, "if (", "if (("), &["syntax error at admission rule 1 line "]);

    // What compiles and dies is told by the server that it ends, or that it does not.
    let tree = broken(&tarball, scheduler, "init_conf(", "OAR::IO::no_such_thing(1); init_conf(");
    workdir.ok(&["install", tree.path().to_str().unwrap()]);
    told_at_start(
        &workdir,
        &[
            "Undefined subroutine &OAR::IO::no_such_thing called at /usr/local/lib/oar/oar_meta_sched line ",
            "oar-server.service is failed",
        ],
    );
    // So do those that die without a word that is known.
    edit(tree.path(), scheduler, "OAR::IO::no_such_thing(1);", "die 'no more';");
    workdir.ok(&["install", tree.path().to_str().unwrap()]);
    told_at_start(
        &workdir,
        &["no more at /usr/local/lib/oar/oar_meta_sched line ", "has ended at its first scheduling"],
    );
    workdir.ok(&["install", tarball.to_str().unwrap()]);
    let script = workdir.root.join(".oardocker/init-scripts/create_resources.sh");
    let original = fs::read(&script).unwrap();
    fs::write(&script, "#!/bin/bash\necho no resources today\nexit 1\n").unwrap();
    told_at_start(&workdir, &["oardocker-resources.service is failed", "no resources today"]);
    fs::write(&script, original).unwrap();

    // Later ends are told by `status`, and what was wrong in oar.conf by the restart of the server.
    workdir.ok(&["start", "-n", "1"]);
    assert!(!workdir.ok(&["status"]).contains("OAR has ended"));
    workdir.root_sh("server", "sed -i 's/^#*META_SCHED_CMD=.*/META_SCHED_CMD=\"nonsense\"/' /etc/oar/oar.conf");
    let text = workdir.fails(1, &["reset", "server"]);
    assert!(text.contains("META_SCHED_CMD in oar.conf: there is no program /usr/local/lib/oar/nonsense"), "{text}");
    let (listed, notes) = texts(&workdir.run(&["status"]));
    assert!(listed.contains("Up, OAR has ended"), "{listed}");
    assert!(!notes.contains("Error:"), "{notes}");
    workdir.root_sh("server", "sed -i 's/^META_SCHED_CMD=/#&/' /etc/oar/oar.conf; systemctl restart oar-server");
    assert!(!workdir.ok(&["status"]).contains("OAR has ended"));
    // OAR's own check finds the node.
    let id = submit(&workdir, "oarsub -l nodes=1,walltime=0:5 hostname");
    wait_state(&workdir, &id, "Terminated");
    workdir.ok(&["stop"]);
}

#[test]
fn broken_trees_of_oar3_are_told() {
    require_root();
    let _alone = alone();
    let workdir = super::oar3::ready();
    workdir.ok(&["stop"]);
    let tree = oar3_tree();
    let (file, from) = ("oar/kao/meta_sched.py", "    exit_code = 0\n");
    edit(tree.path(), file, from, "    exit_code = = 0\n");
    refused(&workdir, &tree, &["File \"oar/kao/meta_sched.py\", line ", "this OAR cannot be loaded (server)"]);
    edit(tree.path(), file, "= = 0", "= no_such");
    edit(tree.path(), "requirements/base.txt", "requests", "requests\nno-such-package>=1");
    refused(&workdir, &tree, &["this tree needs Python packages that the images lack: no-such-package."]);
    edit(tree.path(), "requirements/base.txt", "\nno-such-package>=1", "");
    workdir.ok(&["install", tree.path().to_str().unwrap()]);
    told_at_start(&workdir, &["meta_sched.py\", line ", "NameError: name 'no_such' is not defined"]);
}

/// Debian 12's adduser locks the account for trees that do not know it, and newer Perl warns at each command.
#[test]
fn old_trees_run() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    let tree = unpacked(&oar_tarball());
    edit(tree.path(), "setup/common.sh.in", "usermod -p '*' ${OAROWNER}", "true");
    edit(
        tree.path(),
        "sources/core/common-libs/lib/OAR/Stat.pm",
        "use OAR::Conf",
        "use OAR::Version qw(nothing);\nuse OAR::Conf",
    );
    let out = workdir.run(&["install", tree.path().to_str().unwrap()]);
    let (_, notes) = texts(&out);
    assert!(out.status.success(), "{notes}");
    assert!(notes.contains("note: this OAR is older than this suite's Perl") && notes.contains("bookworm"), "{notes}");
    workdir.ok(&["start", "-n", "1"]);
    let id = submit(&workdir, "oarsub -l core=1,walltime=0:5 hostname 2>&1");
    wait_state(&workdir, &id, "Terminated");
    assert!(job_field(&workdir, &id, "exit_code").starts_with("0 "));
    workdir.ok(&["stop"]);
    // Nothing of it is left after the next.
    let text = workdir.ok(&["install", oar_tarball().to_str().unwrap()]);
    assert!(text.contains("Saved: OAR 2.6.1 (tarball)"), "{text}");
}

#[test]
fn trees_of_another_oar_are_told_which_environment_is_theirs() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    let text = workdir.fails(1, &["install", oar3_tree().path().to_str().unwrap()]);
    assert!(text.contains("this is OAR 3, and this environment is made for OAR 2"), "{text}");
    assert!(text.contains("oardocker init -e oar3"), "{text}");
    let empty = tempfile::tempdir().unwrap();
    let text = workdir.fails(1, &["install", empty.path().to_str().unwrap()]);
    assert!(text.contains("holds no OAR sources") && text.contains("(OAR 2.5 and 2.6)"), "{text}");
}
