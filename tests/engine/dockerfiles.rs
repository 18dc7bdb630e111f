//! The Dockerfile language, case by case: `tests/dockerfiles/NAME` is a build context with a Dockerfile that is about one rule.
//!
//! `setup` in it is a shell script that makes what git cannot keep. Each image must be what Debian's buildah makes of the same context, to
//! the last attribute; where that cannot build it, or does not do what BuildKit does, `expected` says in its first line why, and then what
//! there is beyond the image `base`, in the words of `tests/dockerfiles/describe`. One that cannot be built has a file `error` instead, with what
//! the build says, line by line.

use super::ctr;
use crate::support::{Engine, Workdir, alone, data_dir, require_root, texts};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

/// The time of all files that are copied, in seconds since 1970; what a setup makes has that of the test.
const LONG_AGO: &str = "@1000000000";

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dockerfiles")
}

/// Those that can be built, or those that cannot.
fn names(wrong: bool) -> Vec<String> {
    let entries = fs::read_dir(cases()).unwrap().map(Result::unwrap);
    let folders = entries.filter(|e| e.file_type().unwrap().is_dir() && e.path().join("error").exists() == wrong);
    let mut names: Vec<String> = folders.map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn sh(dir: &Path, line: &str) -> String {
    let out = Command::new("sh").args(["-ec", line]).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "{line} in {}: {}", dir.display(), texts(&out).1);
    texts(&out).0
}

/// A workdir whose images are these cases.
fn workdir(engine: Engine, name: &str, names: &[String]) -> Workdir {
    let workdir = Workdir::on(engine, name);
    let env = workdir.root.join(".oardocker");
    let _ = fs::remove_dir_all(&env);
    fs::create_dir_all(env.join("images")).unwrap();
    fs::write(env.join("env_name"), "cases\n").unwrap();
    let id = name.bytes().fold(5381_u32, |h, b| h.wrapping_mul(33) ^ u32::from(b));
    fs::write(env.join("env_id"), format!("{id:08x}\n")).unwrap();
    fs::write(env.join("manifest.json"), "{}").unwrap();
    for case in names {
        prepare(case, &env.join("images").join(case));
    }
    workdir
}

fn prepare(case: &str, to: &Path) {
    let from = cases().join(case);
    fs::create_dir(to).unwrap();
    let all = "find . -mindepth 1 -maxdepth 1 ! -name expected ! -name setup ! -name error -exec cp -a -t \"$TO\" {} +";
    sh(&from, &all.replace("$TO", to.to_str().unwrap()));
    sh(to, &format!("find . -exec chown -h 0:0 {{}} + -exec touch -h -d {LONG_AGO} {{}} +"));
    if let Ok(setup) = fs::read_to_string(from.join("setup")) {
        sh(to, &setup);
    }
}

fn buildah(args: &[&str]) -> Output {
    let dir = data_dir().join("buildah");
    let (root, run) = (dir.join("root"), dir.join("run"));
    let mut command = Command::new("buildah");
    command.arg("--root").arg(root).arg("--runroot").arg(run).args(args);
    command.output().expect("buildah is missing: run `make deps`")
}

/// Has buildah build a case.
fn build_there(context: &Path, case: &str) -> Result<(), String> {
    let tag = format!("oardocker/cases-{case}");
    let options =
        ["bud", "-q", "--isolation", "chroot", "--layers=false", "--format", "docker", "--pull-never", "-t", &tag];
    let out = buildah(&[&options[..], &[context.to_str().unwrap()]].concat());
    if out.status.success() { Ok(()) } else { Err(format!("buildah cannot build it: {}", texts(&out).1)) }
}

fn describe(archive: &Path) -> BTreeSet<String> {
    let out = Command::new(cases().join("describe")).arg(archive).output().unwrap();
    assert!(out.status.success(), "{}", texts(&out).1);
    texts(&out).0.lines().map(str::to_owned).collect()
}

/// What buildah has made of a case.
fn theirs(context: &Path, case: &str, dir: &Path) -> Result<BTreeSet<String>, String> {
    if case != "base" {
        build_there(context, case)?;
    }
    let archive = dir.join(format!("{case}.theirs"));
    let out =
        buildah(&["push", "-q", &format!("oardocker/cases-{case}"), &format!("docker-archive:{}", archive.display())]);
    if !out.status.success() {
        return Err(texts(&out).1);
    }
    let described = describe(&archive);
    fs::remove_file(archive).unwrap();
    Ok(described)
}

/// The image of a case as an OCI archive.
fn exported(workdir: &Workdir, case: &str, dir: &Path) -> PathBuf {
    let archive = dir.join(format!("{case}.tar"));
    let name = format!("{}.env/oardocker/cases-{case}:latest", workdir.env_id());
    ctr(&["images", "export", archive.to_str().unwrap(), &name]);
    archive
}

/// What differs, line by line; nothing if all is right.
fn compared(
    case: &str,
    ours: &BTreeSet<String>,
    base: &BTreeSet<String>,
    theirs: impl FnOnce() -> Result<BTreeSet<String>, String>,
) -> String {
    let difference = |from: &BTreeSet<String>, to: &BTreeSet<String>| {
        let (new, gone) =
            (to.difference(from).map(|l| format!("+ {l}\n")), from.difference(to).map(|l| format!("- {l}\n")));
        new.chain(gone).collect::<String>()
    };
    let Ok(expected) = fs::read_to_string(cases().join(case).join("expected")) else {
        return match theirs() {
            Ok(theirs) => difference(&theirs, ours),
            Err(why) => why,
        };
    };
    let beyond = ours.difference(base).cloned();
    let lost = base.difference(ours).map(|line| format!("- {line}"));
    let found: BTreeSet<String> = beyond.chain(lost).collect();
    difference(&expected.lines().skip(1).map(str::to_owned).collect(), &found)
}

#[test]
fn images_are_those_of_a_reference_builder() {
    require_root();
    let _alone = alone();
    let names = names(false);
    assert!(names.len() > 100);
    let workdir = workdir(Engine::Containerd, "dockerfiles", &names);
    let images = workdir.root.join(".oardocker/images");
    // What a cache of RUN holds is not what a step of the builder's cache has seen.
    workdir.ok(&["build", "-q", "--no-cache"]);
    build_there(&images.join("base"), "base").unwrap();
    let dir = tempfile::tempdir_in(data_dir()).unwrap();
    let base = describe(&exported(&workdir, "base", dir.path()));
    let (todo, wrong) = (Mutex::new(names.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = { todo.lock().unwrap().next() } {
                    let archive = exported(&workdir, case, dir.path());
                    let differs =
                        compared(case, &describe(&archive), &base, || theirs(&images.join(case), case, dir.path()));
                    fs::remove_file(archive).unwrap();
                    if !differs.is_empty() {
                        wrong.lock().unwrap().push(format!("{case} (+ is ours):\n{differs}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), names.len(), wrong.join("\n"));
    accepted_elsewhere(&workdir, dir.path());
    buildah(&["rmi", "--all", "--force"]);
    workdir.ok(&["destroy", "-f"]);
}

/// What others make of our images.
fn accepted_elsewhere(workdir: &Workdir, dir: &Path) {
    let listed = ctr(&["images", "check"]);
    let unhappy: Vec<&str> = listed.lines().filter(|l| l.contains("/cases-") && !l.contains("complete (")).collect();
    assert!(unhappy.is_empty(), "{unhappy:?}");
    for case in ["stage-capabilities", "copy-hard-links", "copy-long-name", "run-opaque", "add-special", "copy-names"] {
        let archive = exported(workdir, case, dir);
        // This umoci knows no zstd.
        let line = format!(
            "skopeo inspect oci-archive:{case}.tar > /dev/null && skopeo copy -q --dest-compress-format=gzip oci-archive:{case}.tar oci:{case}:v && \
             umoci unpack --image {case}:v {case}.unpacked > /dev/null && test -e {case}.unpacked/rootfs/bin/busybox && \
             rm -rf {case} {case}.unpacked"
        );
        sh(dir, &line);
        fs::remove_file(archive).unwrap();
    }
    exported(workdir, "copy-all", dir);
    // Its path may have 50 characters.
    let run = tempfile::Builder::new().prefix("oard-").tempdir_in("/run").unwrap();
    let (root, run) = (dir.join("podman"), run.path());
    let podman = format!("podman --storage-driver=vfs --root {} --runroot {}", root.display(), run.display());
    let line = format!(
        "id=$({podman} pull -q oci-archive:copy-all.tar) && {podman} --cgroup-manager=cgroupfs run --rm --ulimit=nofile=1024:1024 --ulimit=nproc=1024:1024 --network=none $id cat l d/b; \
         {podman} rmi -f $id > /dev/null; find /sys/fs/cgroup/*/libpod_parent -depth -type d -exec rmdir {{}} +"
    );
    assert_eq!(sh(dir, &line), "12");
}

#[test]
fn what_cannot_be_built_is_told() {
    require_root();
    let _alone = alone();
    let workdir = workdir(Engine::Containerd, "dockerfiles-wrong", &["base".to_owned()]);
    workdir.ok(&["build", "-q"]);
    let state = crate::support::host_state();
    let wrong = names(true);
    assert!(wrong.len() > 20);
    for case in wrong {
        let folder = workdir.root.join(".oardocker/images").join(&case);
        prepare(&case, &folder);
        let out = workdir.run(&["build", "-q"]);
        let told = texts(&out).1;
        assert_eq!(out.status.code(), Some(1), "{case}: {told}");
        for line in fs::read_to_string(cases().join(&case).join("error")).unwrap().lines() {
            assert!(told.contains(line), "{case}: {line:?} is not in\n{told}");
        }
        assert!(told.len() < 2000, "{case}: {told}");
        fs::remove_dir_all(folder).unwrap();
    }
    crate::support::assert_same_state(&state, &crate::support::host_state());
    workdir.ok(&["destroy", "-f"]);
}

/// Builds all, and says the images by their ids: the digests of their configurations, which hold those of their layers.
fn ids(workdir: &Workdir) -> Vec<String> {
    let out = workdir.command(&["build", "-q", "--no-cache"]).env("SOURCE_DATE_EPOCH", "1200000000").output().unwrap();
    assert!(out.status.success(), "{}", texts(&out).1);
    let said = texts(&out).0;
    let images = said.lines().filter_map(|l| l.strip_prefix("Image oardocker/cases-")?.split_once(":latest ("));
    let dir = tempfile::tempdir_in(data_dir()).unwrap();
    let id = |(case, rest): (&str, &str)| {
        let told = rest.split(')').next().unwrap().to_owned();
        // A containerd's images have the digests of their manifests.
        let of_config = || {
            let archive = exported(workdir, case, dir.path());
            sh(dir.path(), &format!("{} --id {}", cases().join("describe").display(), archive.display()))
                .trim()
                .to_owned()
        };
        format!("{case} {}", if workdir.engine == Engine::Containerd { of_config() } else { told })
    };
    images.map(id).collect()
}

#[test]
fn the_same_input_makes_the_same_digests_on_each_engine() {
    require_root();
    let cases = ["base", "copy-all", "run-removes", "add-tar", "workdir-user", "stage-owner-kept", "copy-fifo-socket"];
    let cases = cases.map(str::to_owned);
    let mut expected = None;
    for (name, engine, day) in [
        ("epoch-a", Engine::Containerd, 1_300_000_000),
        ("epoch-b", Engine::Containerd, 1_400_000_000),
        ("epoch-c", Engine::Docker, 1_500_000_000),
        ("epoch-d", Engine::Podman, 1_600_000_000),
    ] {
        let _alone = engine.alone();
        let workdir = workdir(engine, name, &cases);
        // Another day each time, as after a `git clone`; steps write with the time of the day.
        sh(&workdir.root.join(".oardocker/images"), &format!("find . -exec touch -h -d @{day} {{}} +"));
        let found = ids(&workdir);
        if engine == Engine::Containerd {
            let dir = tempfile::tempdir_in(data_dir()).unwrap();
            let described = describe(&exported(&workdir, "copy-all", dir.path()));
            let files = described.iter().filter(|line| line.starts_with("/w/"));
            assert!(
                files.clone().count() > 4 && files.clone().all(|line| line.contains(" 1200000000")),
                "{described:?}"
            );
        }
        workdir.ok(&["destroy", "-f"]);
        assert_eq!(found.len(), cases.len());
        assert_eq!(&found, expected.get_or_insert(found.clone()), "{name}");
    }
}
