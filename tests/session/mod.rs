//! `exec` and `connect` as people use them: terminals, pipes, signals, exit codes.

mod processes;

use crate::cluster::ready_on;
use crate::support::{Engine, Pty, require_root, texts};
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn sessions() {
    sessions_on(Engine::Containerd);
}

#[test]
fn sessions_on_docker() {
    sessions_on(Engine::Docker);
}

#[test]
fn sessions_on_podman() {
    sessions_on(Engine::Podman);
}

#[allow(clippy::too_many_lines, reason = "one cluster, and all that a session is on it")]
pub fn sessions_on(engine: Engine) {
    require_root();
    let _alone = engine.alone();
    let workdir = ready_on(engine, "trixie");
    workdir.ok(&["start", "-n", "1"]);

    // Exit codes, and words against lines.
    assert_eq!(workdir.run(&["exec", "node1", "exit 3"]).status.code(), Some(3));
    assert_eq!(workdir.run(&["exec", "node1", "kill -9 $$"]).status.code(), Some(137));
    assert_eq!(workdir.run(&["exec", "node1", "nosuchprogram", "x"]).status.code(), Some(127));
    assert_eq!(workdir.ok(&["exec", "node1", "printf", "%s|", "a b", "$HOME", "*"]), "a b|$HOME|*|");
    assert_eq!(workdir.ok(&["exec", "node1", "--", "printf", "%s", "-n"]), "-n");
    assert_eq!(workdir.ok(&["exec", "node1", "printf %s \"a  b\" | tr a c"]), "c  b");
    let text = workdir.fails(1, &["exec", "-l", "ghost", "node1", "true"]);
    assert!(text.contains("there is no user \"ghost\"") && text.contains("docker, oar, root, user1"), "{text}");
    let text = workdir.fails(1, &["exec", "-w", "/nowhere", "node1", "true"]);
    assert!(text.contains("there is no directory /nowhere"), "{text}");
    let text = workdir.fails(1, &["exec", "node7", "true"]);
    assert!(
        text.contains("there is no host node7") && text.contains("hosts: frontend, node1, rsyslog, server"),
        "{text}"
    );

    // Output and errors apart, input to its end.
    let out = workdir.run(&["exec", "--no-tty", "node1", "echo out; echo err >&2"]);
    assert_eq!(texts(&out), ("out\n".into(), "err\n".into()));
    let mut child = workdir
        .command(&["exec", "--no-tty", "frontend", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"one\ntwo").unwrap();
    assert_eq!(texts(&child.wait_with_output().unwrap()).0, "one\ntwo");

    // 200 MB, binary, both ways.
    workdir.sh("node1", "head -c 200000000 /dev/urandom > /var/tmp/big");
    let sum = workdir.sh("node1", "sha256sum < /var/tmp/big");
    let through = workdir
        .around("sh")
        .args([
            "-c",
            &format!("{} exec node1 cat /var/tmp/big | tee /dev/stderr | sha256sum", workdir.program().display()),
        ])
        .output()
        .unwrap();
    assert_eq!(texts(&through).0, sum);
    let mut child = workdir
        .command(&["exec", "--no-tty", "node1", "sha256sum"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&through.stderr).unwrap();
    assert_eq!(texts(&child.wait_with_output().unwrap()).0, sum);

    // A reader that goes away ends the program inside.
    let begun = Instant::now();
    let mut child = workdir.command(&["exec", "node1", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    drop(reader);
    // On the machine without root it runs in a session of ours, and that does not die of SIGPIPE.
    let signal = if engine.user().is_some() { 15 } else { 13 };
    assert_eq!(child.wait().unwrap().code(), Some(128 + signal), "as a shell tells of signals");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(workdir.sh("node1", "pgrep -x yes | wc -l").trim(), "0");
    // Also one that does not want to hear of it.
    let mut child = workdir
        .command(&["exec", "node1", "python3", "-c", "while True: print('on and on')"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let begun = Instant::now();
    assert_ne!(child.wait().unwrap().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "nobody reads what it writes");
    assert_eq!(workdir.sh("node1", "pgrep -x python3 | wc -l").trim(), "0");

    // A terminal: size, its changes, Ctrl-C for the program inside, our terminal as it was.
    let mut pty = Pty::spawn(workdir.command(&["connect", "-l", "root", "node1"]), 91, 33);
    pty.expect("root@node1", 10);
    // Bytes that look like the frames of an engine's stream are a program's own.
    pty.send("printf '\\001\\000\\000\\000\\000\\000\\000\\177'; echo not-a-frame\n");
    pty.expect("not-a-frame\r\n", 5);
    pty.send("stty size; echo $TERM\n");
    pty.expect("33 91", 5);
    pty.expect("xterm-256color", 5);
    pty.resize(120, 40);
    std::thread::sleep(Duration::from_millis(300));
    pty.send("stty size\n");
    pty.expect("40 120", 5);
    pty.send("trap 'echo caught' INT; sleep 100\n");
    std::thread::sleep(Duration::from_millis(300));
    pty.send("\x03");
    pty.expect("caught", 5);
    pty.send("exit 4\n");
    assert_eq!(pty.end(10).0, 4);

    let program = format!(
        "before=$(stty -g); '{}' exec node1 tty; '{0}' exec node1 'kill -9 $$'; test \"$before\" = \"$(stty -g)\" && echo restored",
        workdir.program().display()
    );
    let mut shell = workdir.around("sh");
    shell.args(["-c", &program]);
    let mut pty = Pty::spawn(shell, 80, 24);
    pty.expect("/dev/pts/", 10);
    pty.expect("restored", 10);
    pty.end(10);

    // Ctrl-C without a terminal inside reaches the program as well.
    let mut child = workdir
        .command(&["exec", "--no-tty", "node1", "trap 'exit 9' INT; echo up; while :; do sleep 0.1; done"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut up).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));

    processes::signals(&workdir);
    processes::background(&workdir);
    processes::input(&workdir);
    processes::slow_reader(&workdir);
    processes::late_reader(&workdir);
    processes::terminals(&workdir);
    processes::words_and_variables(&workdir);
    processes::own_files(&workdir);

    // A node that dies ends the session, with a message.
    let mut pty = {
        // A chain that came to a session holds no lock: the stop below does not wait for it.
        let mut pty = Pty::spawn(workdir.command(&["start", "-n", "1", "connect", "node1"]), 80, 24);
        pty.expect("docker@node1", 30);
        pty
    };
    let begun = Instant::now();
    workdir.ok(&["stop"]);
    let (code, said) = pty.end(10);
    assert!(begun.elapsed() < Duration::from_secs(8));
    assert_ne!(code, 0);
    assert!(said.contains("Error:") && said.contains("ended"), "{said}");
}
