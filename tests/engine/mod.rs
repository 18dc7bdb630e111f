//! The engine's verbs against a real managed containerd, and images that real Dockerfiles make.

mod compat;
mod contract;
mod dockerfiles;
mod given;
mod layers;
mod readme;
mod surroundings;

use crate::support::{
    Workdir, alone, assert_same_state, assert_soon_same_state, data_dir, host_state, require_root, runtime_dir, texts,
};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// A workdir with one image.
fn image_workdir(name: &str, dockerfile: &str) -> Workdir {
    let workdir = Workdir::named(name);
    let env = workdir.root.join(".oardocker");
    let _ = fs::remove_dir_all(env.join("images"));
    fs::create_dir_all(env.join("images/one")).unwrap();
    fs::write(env.join("env_name"), "test\n").unwrap();
    let id = name.bytes().fold(5381_u32, |h, b| h.wrapping_mul(33) ^ u32::from(b));
    fs::write(env.join("env_id"), format!("{id:08x}\n")).unwrap();
    fs::write(env.join("manifest.json"), "{}").unwrap();
    fs::write(env.join("images/one/Dockerfile"), dockerfile).unwrap();
    workdir
}

/// Something that no earlier run has cached.
fn nonce() -> String {
    format!("{:?}", std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap())
}

fn context(workdir: &Workdir, name: &str, text: &str) {
    let path = workdir.root.join(".oardocker/images/one").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    // Images have the times of what is copied.
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(&path).unwrap().set_modified(long_ago).unwrap();
    if text.starts_with("#!") {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn ctr(args: &[&str]) -> String {
    let socket = runtime_dir().join("containerd/containerd.sock");
    let out =
        Command::new("ctr").args(["-a", socket.to_str().unwrap(), "-n", "oardocker"]).args(args).output().unwrap();
    let (stdout, stderr) = texts(&out);
    assert!(out.status.success(), "ctr {args:?}: {stderr}");
    stdout
}

/// Runs a command in the built image with containerd's own client.
fn run_in_image(workdir: &Workdir, command: &str) -> String {
    let image = format!("{}.env/oardocker/test-one:latest", workdir.env_id());
    let name = format!("probe-{}", std::process::id());
    let text = ctr(&["run", "--rm", &image, &name, "sh", "-c", command]);
    // ctr puts containers below a cgroup of the namespace's name, and leaves that.
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = fs::remove_dir(hierarchy.path().join("oardocker"));
    }
    text
}

#[test]
fn a_dockerfile_becomes_an_image_that_containerd_accepts() {
    require_root();
    let _alone = alone();
    let workdir = image_workdir(
        "image",
        "ARG SUITE=trixie\nFROM debian:${SUITE}\nARG WHO=nobody\nENV GREETING=\"hello $WHO\" \\\n    OTHER=x\n\
         # a comment\nCOPY files /opt/files/\nADD --chmod=600 one.txt two.txt /opt/\nWORKDIR /opt/work\n\
         RUN echo \"$GREETING\" > greeting && \\\n    ln -s greeting link && \\\n    mkfifo pipe && ln greeting hard\n\
         RUN [\"/bin/sh\", \"-c\", \"rm /opt/one.txt && rm -r /opt/files/sub && mkdir /opt/files/sub\"]\n\
         RUN setcap cap_net_raw+ep /opt/files/tool 2>/dev/null || true; truncate -s 5M /opt/sparse; \
         printf 'odd' > \"/opt/a b\\\"c\"; cp -a /dev/null /opt/null\n\
         USER daemon\nRUN id -un > /tmp/user\nUSER root\nSHELL [\"/bin/bash\", \"-c\"]\nRUN [[ a == a ]] && echo yes > /opt/bash\n\
         LABEL purpose=\"a test\"\nEXPOSE 80\nVOLUME /data\nSTOPSIGNAL SIGRTMIN+3\nCMD [\"sleep\", \"1\"]\n",
    );
    context(&workdir, "files/tool", "#!/bin/sh\necho tool");
    context(&workdir, "files/sub/old", "old");
    context(&workdir, "one.txt", "1");
    context(&workdir, "two.txt", "2");
    let first = workdir.ok(&["build"]);
    let before = host_state();
    assert_eq!(
        run_in_image(
            &workdir,
            "cd /opt; cat work/greeting work/link bash /tmp/user; ls; ls files/sub; stat -c %a two.txt files/tool"
        ),
        "hello nobody\nhello nobody\nyes\ndaemon\na b\"c\nbash\nfiles\nnull\nsparse\ntwo.txt\nwork\n600\n755\n"
    );
    assert_eq!(run_in_image(&workdir, "cd /opt; stat -c '%h %i' work/greeting work/hard | sort -u | wc -l; stat -c %F work/pipe null; stat -c %s sparse").trim(), "1\nfifo\ncharacter special file\n5242880");
    let checked = ctr(&["images", "check"]);
    let line = checked.lines().find(|l| l.contains("test-one:latest")).unwrap();
    assert!(line.contains("complete") && line.trim_end().ends_with("true"), "{line}");
    for line in checked.lines().skip(1) {
        assert!(line.contains("complete"), "{line}");
    }

    // The same again comes from the cache and has the same id; --no-cache runs every step.
    let id = |text: &str| text.lines().find(|l| l.starts_with("Image ")).unwrap().to_owned();
    let second = workdir.ok(&["build"]);
    assert_eq!(id(&first), id(&second));
    assert_eq!(second.matches("Using cache").count(), 9, "{second}");
    assert!(!workdir.ok(&["build", "--no-cache"]).contains("Using cache"));
    // A changed file runs its step and all that follow.
    let fresh = nonce();
    context(&workdir, "two.txt", &fresh);
    assert_eq!(workdir.ok(&["build"]).matches("Using cache").count(), 1);
    assert_eq!(run_in_image(&workdir, "cat /opt/two.txt"), fresh);
    assert_same_state(&before, &host_state());
}

#[test]
fn a_failing_step_leaves_nothing_and_shows_its_last_lines() {
    require_root();
    let _alone = alone();
    let workdir = image_workdir("failing", "FROM debian:trixie\nRUN echo almost; echo there >&2; exit 7\n");
    // The base has to be there for the state before and after to be alike.
    let text = workdir.fails(1, &["build"]);
    assert!(
        text.contains("Dockerfile:2:1: RUN echo almost; echo there >&2; exit 7: the command ended with exit code 7"),
        "{text}"
    );
    assert!(text.contains("  almost\n") && text.contains("  there\n"), "{text}");
    let before = host_state();
    let images = ctr(&["images", "ls", "-q"]);
    workdir.fails(1, &["build"]);
    assert_same_state(&before, &host_state());
    assert_eq!(ctr(&["images", "ls", "-q"]), images);
    for (dockerfile, expected) in [
        ("FROM debian:trixie\nRUN --security=insecure x\n", "Dockerfile:2:5: RUN --security=insecure is not supported"),
        ("FROM debian:trixie\nCOPY missing /x\n", "there is no \"missing\" in the build context"),
        ("FROM debian:trixie\nCOPY ../../env_id /x\n", "there is no \"../../env_id\" in the build context"),
        ("FROM debian:trixie\nUSER ghost\nRUN true\n", "there is no user \"ghost\""),
        ("FROM oardocker/test-one\n", "go in a circle"),
    ] {
        fs::write(workdir.root.join(".oardocker/images/one/Dockerfile"), dockerfile).unwrap();
        let text = workdir.fails(1, &["build"]);
        assert!(text.contains(expected), "{dockerfile}: {text}");
        assert_same_state(&before, &host_state());
    }
    assert_same_state(&before, &host_state());
}

#[test]
fn a_killed_build_is_cleaned_up_by_the_next_command() {
    require_root();
    let _alone = alone();
    let workdir = image_workdir("killed", "FROM debian:trixie\nRUN echo begun; sleep 1000\n");
    fs::write(workdir.root.join(".oardocker/images/one/Dockerfile"), "FROM debian:trixie\nRUN true\n").unwrap();
    workdir.ok(&["build"]);
    workdir.ok(&["stop"]);
    let before = host_state();
    fs::write(
        workdir.root.join(".oardocker/images/one/Dockerfile"),
        "FROM debian:trixie\nRUN echo begun; sleep 1000\n",
    )
    .unwrap();
    let mut command = workdir.command(&["build"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("| begun") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut reader, &mut line).unwrap() > 0, "the step did not begin");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_ne!(before, host_state(), "the killed build must have left something for this test to mean anything");
    workdir.ok(&["stop"]);
    assert_soon_same_state(&before, host_state);
}

/// Two builds that make the same layers at once, of which one is told to end.
#[test]
fn two_builds_of_one_base_at_once() {
    require_root();
    let _alone = alone();
    let fresh = nonce();
    let large: String = (0..2_000_000).map(|i| format!("{fresh}{i}\n")).collect();
    let twins = ["twin-a", "twin-b"].map(|name| {
        let steps =
            format!("FROM debian:trixie\nRUN echo {fresh} > /one\nCOPY large /large\nRUN sleep 4; echo two > /two\n");
        let workdir = image_workdir(name, &steps);
        context(&workdir, "large", &large);
        workdir
    });
    twins[0].ok(&["status"]);
    let before = host_state();
    let build = |workdir: &Workdir, patience: &str| {
        let mut command = workdir.around("timeout");
        command.args(["-k", "30", patience]).arg(workdir.program()).args(["build", "-q", "--no-cache"]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    for patience in ["100", "1", "3"] {
        let begun = std::time::Instant::now();
        let (first, second) = (build(&twins[0], "100"), build(&twins[1], patience));
        let second = second.wait_with_output().unwrap();
        let took = begun.elapsed();
        let first = first.wait_with_output().unwrap();
        assert!(first.status.success(), "{}", texts(&first).1);
        if patience == "100" {
            assert!(second.status.success(), "{}", texts(&second).1);
            let id = |out: &std::process::Output| texts(out).0.split(['(', ')']).nth(1).map(str::to_owned).unwrap();
            assert_eq!(id(&first), id(&second), "the same image");
        } else {
            assert_eq!(second.status.code(), Some(124), "{}", texts(&second).1);
            assert!(took < std::time::Duration::from_secs(15), "it ended {took:?} after its begin");
        }
    }
    assert_soon_same_state(&before, host_state);
    assert_eq!(run_in_image(&twins[0], "wc -l < /large; cat /two"), "2000000\ntwo\n");
}

#[test]
fn an_image_comes_from_a_registry_on_loopback() {
    require_root();
    let _alone = alone();
    assert!(
        Command::new("sh").args(["-c", "command -v docker-registry"]).output().unwrap().status.success(),
        "run `make deps`"
    );
    let store = tempfile::tempdir().unwrap();
    let config = store.path().join("config.yml");
    fs::write(
        &config,
        format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:45555\n",
            store.path().display()
        ),
    )
    .unwrap();
    let mut registry = Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    crate::support::eventually("the registry answers", 20, || std::net::TcpStream::connect("127.0.0.1:45555").ok());
    let outcome = std::panic::catch_unwind(|| {
        let fresh = nonce();
        let workdir = image_workdir("registry", &format!("FROM debian:trixie\nRUN echo pushed {fresh} > /pushed\n"));
        workdir.ok(&["build"]);
        let local = format!("{}.env/oardocker/test-one:latest", workdir.env_id());
        ctr(&["images", "push", "--plain-http", "127.0.0.1:45555/test/pushed:v1", &local]);
        fs::write(
            workdir.root.join(".oardocker/images/one/Dockerfile"),
            "FROM 127.0.0.1:45555/test/pushed:v1\nRUN cat /pushed\n",
        )
        .unwrap();
        let text = workdir.ok(&["build", "--pull"]);
        assert!(text.contains("Pulled 127.0.0.1:45555/test/pushed:v1"), "{text}");
        assert!(text.contains(&format!("| pushed {fresh}")), "{text}");
        deletions_travel(&workdir);
        fs::write(workdir.root.join(".oardocker/images/one/Dockerfile"), "FROM 127.0.0.1:45555/test/none:v1\n")
            .unwrap();
        let text = workdir.fails(1, &["build"]);
        assert!(text.contains("cannot pull 127.0.0.1:45555/test/none:v1"), "{text}");
    });
    registry.kill().unwrap();
    registry.wait().unwrap();
    outcome.unwrap();
}

/// Deletions, replaced directories, links and capabilities arrive in a containerd that has never seen the image.
fn deletions_travel(workdir: &Workdir) {
    let dockerfile = workdir.root.join(".oardocker/images/one/Dockerfile");
    fs::write(
        &dockerfile,
        format!(
            "FROM debian:trixie\nRUN mkdir -p /d/sub && echo {} > /d/sub/old && echo x > /gone && ln /gone /kept\n\
             RUN rm /gone && rm -r /d/sub && mkdir /d/sub && echo new > /d/sub/new && chmod 4711 /kept\n",
            nonce()
        ),
    )
    .unwrap();
    workdir.ok(&["build"]);
    let local = format!("{}.env/oardocker/test-one:latest", workdir.env_id());
    ctr(&["images", "push", "--plain-http", "127.0.0.1:45555/test/deletions:v1", &local]);
    // As most registries have them, but for the base, which this one has already.
    let line = "skopeo copy -q --src-tls-verify=false --dest-tls-verify=false --dest-compress-format=gzip \
                docker://127.0.0.1:45555/test/deletions:v1 docker://127.0.0.1:45555/test/gzip:v1 && \
                skopeo inspect --raw --tls-verify=false docker://127.0.0.1:45555/test/gzip:v1";
    let out = texts(&Command::new("sh").args(["-c", line]).output().unwrap());
    assert!(out.0.matches("layer.v1.tar+gzip").count() == 2, "{out:?}");
    for name in ["deletions", "gzip"] {
        pulled_afresh(workdir, &format!("127.0.0.1:45555/test/{name}:v1"));
    }
}

fn pulled_afresh(workdir: &Workdir, image: &str) {
    let dockerfile = workdir.root.join(".oardocker/images/one/Dockerfile");
    let data = tempfile::tempdir_in(data_dir()).unwrap();
    let runtime = format!("/run/oardocker-fresh-{}", std::process::id());
    fs::write(&dockerfile, format!("FROM {image}\nRUN ls / /d/sub; cat /kept; stat -c %a /kept\n")).unwrap();
    let fresh = |args: &[&str]| {
        let mut command = workdir.command(args);
        command.env("OARDOCKER_DATA_DIR", data.path()).env("OARDOCKER_RUNTIME_DIR", &runtime).output().unwrap()
    };
    let (text, errors) = texts(&fresh(&["build"]));
    let (_, destroyed) = texts(&fresh(&["destroy", "-f"]));
    assert!(
        !fs::exists(format!("{runtime}/containerd/containerd.sock")).unwrap(),
        "destroy ends the last managed containerd: {destroyed}"
    );
    let _ = fs::remove_dir_all(&runtime);
    let lines: Vec<&str> = text.lines().filter_map(|l| l.trim().strip_prefix("one | ")).collect();
    assert!(lines.contains(&"new") && lines.contains(&"kept") && lines.contains(&"4711"), "{text} {errors}");
    assert!(!lines.contains(&"old") && !lines.contains(&"gone"), "{text}");
}

#[test]
fn destroy_and_clean_remove_what_is_theirs_only() {
    require_root();
    let _alone = alone();
    let other = image_workdir("other-image", "FROM debian:trixie\nRUN echo other > /o\n");
    other.ok(&["build"]);
    let workdir = image_workdir("destroyed", &format!("FROM debian:trixie\nRUN echo {} > /x\n", nonce()));
    workdir.ok(&["build"]);
    let mine = format!("{}.env/", workdir.env_id());
    assert!(ctr(&["images", "ls", "-q"]).contains(&mine));
    // A step that nothing uses any more.
    fs::write(workdir.root.join(".oardocker/images/one/Dockerfile"), "FROM debian:trixie\nRUN true\n").unwrap();
    workdir.ok(&["build"]);
    let text = workdir.ok(&["clean"]);
    assert!(text.contains("Removed") && text.contains("cached build steps"), "{text}");
    assert_eq!(workdir.ok(&["clean"]), "");
    assert!(workdir.ok(&["build"]).contains("Using cache"), "steps in use stay");
    let text = workdir.ok(&["destroy", "-f"]);
    assert!(text.contains("Image oardocker/test-one:latest"), "{text}");
    let images = ctr(&["images", "ls", "-q"]);
    assert!(!images.contains(&mine), "{images}");
    assert!(images.contains(&format!("{}.env/oardocker/test-one:latest", other.env_id())), "{images}");
    assert!(other.ok(&["build"]).contains("Using cache"));
}

#[test]
fn a_copied_workdir_must_get_an_id_of_its_own() {
    require_root();
    let _alone = alone();
    let workdir = image_workdir("original", "FROM debian:trixie\nRUN true\n");
    workdir.ok(&["build"]);
    assert!(workdir.ok(&["build", "--no-rebuild"]).contains("It is already there"));
    let copy = Workdir::named("copy");
    let _ = fs::remove_dir_all(copy.root.join(".oardocker"));
    let status = Command::new("cp").arg("-a").arg(workdir.root.join(".oardocker")).arg(&copy.root).status().unwrap();
    assert!(status.success());
    let text = copy.fails(1, &["stop"]);
    assert!(text.contains("is a copy of") && text.contains("rm "), "{text}");
    fs::write(copy.root.join(".oardocker/env_id"), "c0c0c0c0\n").unwrap();
    copy.ok(&["stop"]);
    workdir.ok(&["stop"]);
}

#[test]
fn an_unreachable_mirror_is_told() {
    require_root();
    let _alone = alone();
    let workdir = image_workdir("mirror", "FROM debian:sid\n");
    let before = host_state();
    let out = workdir.command(&["build"]).env("OARDOCKER_MIRROR", "http://127.0.0.1:1/debian").output().unwrap();
    let text = texts(&out).1;
    assert_eq!(out.status.code(), Some(1));
    assert!(text.contains("cannot bootstrap debian:sid from http://127.0.0.1:1/debian"), "{text}");
    assert!(text.contains("can this machine reach http://127.0.0.1:1/debian?"), "{text}");
    assert_same_state(&before, &host_state());
}

#[test]
fn engines_that_are_not_there_are_told() {
    require_root();
    let _alone = alone();
    let workdir = image_workdir("errors", "FROM debian:trixie\n");
    let with = |host: &str| {
        let out = workdir.command(&["status"]).env("OARDOCKER_DOCKER_HOST", host).output().unwrap();
        assert_eq!(out.status.code(), Some(if host.contains("tcp") { 2 } else { 1 }));
        texts(&out).1
    };
    let missing = with("containerd:///nonexistent.sock");
    assert!(missing.contains("cannot reach containerd at /nonexistent.sock: No such file"), "{missing}");
    assert!(missing.contains("hint: "), "{missing}");
    assert!(with("tcp://1.2.3.4:5").contains("is not understood"));
    // Not containerd at all: something that closes the connection.
    let socket = data_dir().join("mute.sock");
    let _ = fs::remove_file(&socket);
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
        }
    });
    assert!(with(&format!("containerd://{}", socket.display())).contains("containerd"));
    let out = workdir
        .command(&["status"])
        .env("PATH", "/nonexistent")
        .env("OARDOCKER_RUNTIME_DIR", "/run/oardocker-nothing")
        .output()
        .unwrap();
    assert!(texts(&out).1.contains("no `containerd` program to start"), "{}", texts(&out).1);
    let _ = fs::remove_dir_all("/run/oardocker-nothing");
}

#[test]
fn without_root_it_says_what_is_possible() {
    require_root();
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = dir.path().join("oardocker");
    fs::copy(crate::support::BINARY, &program).unwrap();
    let as_nobody = |args: &[&str], session: Option<&str>| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(args);
        command.env_remove("XDG_RUNTIME_DIR").envs(session.map(|dir| ("XDG_RUNTIME_DIR", dir)));
        command.current_dir(dir.path()).output().unwrap()
    };
    assert!(as_nobody(&["init"], None).status.success());
    for (session, why) in
        [(None, "XDG_RUNTIME_DIR is not set"), (Some("/run"), "XDG_RUNTIME_DIR is /run, which is not yours")]
    {
        let out = as_nobody(&["status"], session);
        assert_eq!(out.status.code(), Some(1));
        let text = texts(&out).1;
        assert!(text.contains(why) && text.contains("log in as yourself") && text.contains("sudo"), "{text}");
    }
    let out = as_nobody(&["--docker-host", "containerd:///run/containerd/containerd.sock", "status"], None);
    let text = texts(&out).1;
    assert!(text.contains("need root") && text.contains("sudo oardocker"), "{text}");
}
