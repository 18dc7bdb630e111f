//! What a build is given beside its context: secrets, an agent, arguments, servers, caches, the network.

use super::{context, image_workdir, nonce, run_in_image};
use crate::support::{Workdir, alone, require_root, texts};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A program that is ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(program: &str, args: &[&str], dir: &Path, port: u16) -> Server {
    let child = Command::new(program).args(args).current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let server = Server(child.unwrap());
    crate::support::eventually("it listens", 10, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    server
}

/// An image with a shell.
fn shell_workdir(name: &str, rest: &str) -> Workdir {
    let top = format!(
        "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"/bin/busybox --install -s /bin\"]\n\
         ENV NONCE={}\n",
        nonce()
    );
    let workdir = image_workdir(name, &(top + rest));
    std::fs::copy("/bin/busybox", workdir.root.join(".oardocker/images/one/busybox")).unwrap();
    workdir
}

fn sh(dir: &Path, line: &str) {
    assert!(Command::new("sh").args(["-ec", line]).current_dir(dir).status().unwrap().success(), "{line}");
}

#[test]
fn what_servers_have_is_added() {
    require_root();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    sh(
        dir.path(),
        "git init -q -b main r.git; cd r.git; mkdir sub; echo one > sub/f; echo 'sub export-ignore' > .gitattributes; git add .; \
         git -c user.name=a -c user.email=a@b commit -qm x; git tag v1; echo two > sub/f; \
         git -c user.name=a -c user.email=a@b commit -qam y; echo file > ../file.txt; touch -d @1000000000 ../file.txt",
    );
    let base = format!("--base-path={}", dir.path().display());
    let git = ["--reuseaddr", &base, "--export-all", "--listen=127.0.0.1", "--port=45581"];
    let _git = serve("/usr/lib/git-core/git-daemon", &git, dir.path(), 45581);
    let _http = serve("python3", &["-m", "http.server", "45582", "--bind", "127.0.0.1"], dir.path(), 45582);
    let sum = "sha256:1d7a2a5e2a8d5ba7ae5f6a6e0b7dbd1b4a0f6ae83b6b5a6d77ac0dd8ad0a0a63";
    let workdir = shell_workdir(
        "given-servers",
        "ADD http://127.0.0.1:45582/file.txt /u/\nADD git://127.0.0.1:45581/r.git /main\n\
         ADD git://127.0.0.1:45581/r.git#v1:sub /old\nADD --keep-git-dir=true git://127.0.0.1:45581/r.git /kept\n",
    );
    workdir.ok(&["build"]);
    let line =
        "cat /u/file.txt /main/sub/f /old/f; stat -c %a,%Y /u/file.txt; ls -d /main/.git /kept/.git/HEAD 2>&1 || true";
    let said = run_in_image(&workdir, line);
    assert_eq!(said, "file\ntwo\none\n600,1000000000\nls: /main/.git: No such file or directory\n/kept/.git/HEAD\n");
    // What has changed there is seen, and what has not is found again.
    sh(dir.path(), "echo other > file.txt");
    let said = workdir.ok(&["build"]);
    assert_eq!(said.matches("Using cache").count(), 3 - 1, "{said}");
    let wrong = [
        (format!("ADD --checksum={sum} http://127.0.0.1:45582/file.txt /"), "its checksum is sha256:"),
        ("ADD http://127.0.0.1:45582/none /".into(), "the server answered 404"),
        ("ADD http://127.0.0.1:45583/none /".into(), "cannot download http://127.0.0.1:45583/none"),
        ("ADD git://127.0.0.1:45581/r.git#none /".into(), "it has no branch, tag or commit \"none\""),
        ("ADD git://127.0.0.1:45581/none.git /".into(), "git ls-remote"),
    ];
    for (line, expected) in wrong {
        let workdir = shell_workdir("given-servers", &(line.clone() + "\n"));
        let error = workdir.fails(1, &["build", "-q"]);
        assert!(error.contains(expected) && error.contains("/Dockerfile:5:1: ADD"), "{line}: {error}");
    }
    workdir.ok(&["destroy", "-f"]);
}

#[test]
fn secrets_agents_and_caches() {
    require_root();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let agent = dir.path().join("agent");
    let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n\
                  while True: c=s.accept()[0]; c.sendall(b'agent says '+c.recv(99)); c.close()";
    let _agent = Server(Command::new("python3").args(["-c", script]).arg(&agent).spawn().unwrap());
    crate::support::eventually("it listens", 10, || agent.exists().then_some(()));
    std::fs::write(dir.path().join("secret"), "file secret").unwrap();
    let workdir = image_workdir(
        "given-secrets",
        "FROM debian:trixie\nARG WHO=nobody\nRUN --mount=type=secret,id=one,required,uid=33 stat -c %a,%u /run/secrets/one > /a && cat /run/secrets/one >> /a\n\
         RUN --mount=type=secret,id=two,env=WORD echo $WORD $WHO >> /a\n\
         RUN --mount=type=ssh,required perl -MIO::Socket::UNIX -e '$s=IO::Socket::UNIX->new($ENV{SSH_AUTH_SOCK}); print $s \"hello\\n\"; print <$s>' >> /a\n\
         RUN --mount=type=cache,target=/c,id=given --mount=type=cache,target=/d,id=given,sharing=locked \
         --mount=type=tmpfs,target=/d/e echo x >> /c/f && wc -l < /d/f > /count && test -z \"$(ls /d/e)\"\n",
    );
    workdir.ok(&["clean"]);
    let secret = format!("id=one,src={}", dir.path().join("secret").display());
    let agent = format!("default={}", agent.display());
    let error = workdir.fails(1, &["build", "-q"]);
    assert!(error.contains("the build has no secret \"one\"") && error.contains("--secret id=one,src=FILE"), "{error}");
    let error = workdir.fails(1, &["build", "-q", "--secret", "id=one,src=/none"]);
    assert!(error.contains("/none: No such file"), "{error}");
    let args = [
        "build",
        "--no-cache",
        "--secret",
        &secret,
        "--secret",
        "id=two,env=WORD",
        "--ssh",
        &agent,
        "--build-arg",
        "WHO=you",
    ];
    let more = ["--build-arg", "TYPO=1"];
    let out = workdir.command(&[&args[..], &more].concat()).env("WORD", "variable").output().unwrap();
    assert!(out.status.success(), "{}", texts(&out).1);
    assert!(texts(&out).0.contains("No Dockerfile has an ARG TYPO"), "{}", texts(&out).0);
    let said =
        run_in_image(&workdir, "cat /a /count; ls -d /run/secrets /c /run/oardocker 2>&1 | grep -c 'No such' || true");
    let gone = "3\n";
    assert_eq!(said, format!("400,33\nfile secretvariable you\nagent says hello\n1\n{gone}"));
    // A cache outlives the image; nothing else of what was given is anywhere.
    context(&workdir, "again", "");
    let out = workdir.command(&args).env("WORD", "variable").output().unwrap();
    assert!(out.status.success(), "{}", texts(&out).1);
    assert_eq!(run_in_image(&workdir, "cat /count"), "2\n");
    assert!(workdir.ok(&["clean"]).contains("Removed 1 caches of build steps"));
    let found = Command::new("grep").args(["-rl", "file secret"]).arg(crate::support::runtime_dir()).output().unwrap();
    assert_eq!(texts(&found).0, "");
    workdir.ok(&["destroy", "-f"]);
}

#[test]
fn the_network_of_the_host_is_asked_for() {
    require_root();
    let _alone = alone();
    let workdir = shell_workdir("given-network", "RUN --network=host cat /proc/net/dev > /a\n");
    let error = workdir.fails(1, &["build", "-q"]);
    assert!(error.contains("--allow network.host"), "{error}");
    workdir.ok(&["build", "-q", "--allow", "network.host"]);
    let here = std::fs::read_to_string("/proc/net/dev").unwrap();
    let names = |text: &str| {
        text.lines().filter_map(|l| l.split_once(':').map(|(n, _)| n.trim().to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(names(&run_in_image(&workdir, "cat /a")), names(&here));
    workdir.ok(&["destroy", "-f"]);
}

#[test]
fn what_is_wrong_is_found_without_building() {
    require_root();
    let _alone = alone();
    let workdir = image_workdir("given-check", "FROM debian:trixie\nMAINTAINER me\nRUN true\n");
    let said = workdir.ok(&["build", "--check"]);
    assert!(
        said.contains("Dockerfile:2:1: warning MaintainerDeprecated") && said.ends_with("0 errors, 1 warning\n"),
        "{said}"
    );
    let file = workdir.root.join(".oardocker/images/one/Dockerfile");
    std::fs::write(&file, "# check=error=true\nFROM debian:trixie\nMAINTAINER me\n").unwrap();
    assert!(workdir.fails(1, &["build", "--check"]).contains("the Dockerfiles have 0 errors, 1 warning"));
    std::fs::write(&file, "FROM debian:trixie\nRUN true\nCOPY none /x\nFLY away\n").unwrap();
    let out = workdir.run(&["build", "--check"]);
    assert!(
        texts(&out).0.contains("Dockerfile:4:1: error: FLY is no instruction\n    FLY away\n"),
        "{}",
        texts(&out).0
    );
    // A build says the same, with the line.
    let error = workdir.fails(1, &["build"]);
    assert!(error.contains("Dockerfile:4:1: FLY is no instruction") && error.contains("4 | FLY away"), "{error}");
    // A line of 200 kB is told once, and shortly.
    std::fs::write(&file, format!("FROM debian:trixie\nRUN echo {}\n", "x".repeat(200_000))).unwrap();
    let error = workdir.fails(1, &["build", "--check"]);
    let out = workdir.run(&["build", "--check"]);
    assert!(texts(&out).0.contains("the command has 200005 bytes") && texts(&out).0.len() + error.len() < 2000);
}
