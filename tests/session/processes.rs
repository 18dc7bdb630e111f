//! What becomes of a session's processes, of what it reads and writes, and what it finds: terminals, variables, files.

use crate::support::{Pty, Workdir, eventually, texts};
use nix::sys::signal::Signal;
use std::io::{Read as _, Seek as _, Write as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A long-running program inside has this argument, and no other program of the tests has.
const NAP: &str = "4711";

fn naps(workdir: &Workdir) -> String {
    workdir.root_sh("node1", &format!("pgrep -cf '[s]leep.{NAP}' || true")).trim().to_owned()
}

/// A session that has said `up`.
fn session(workdir: &Workdir, args: &[&str]) -> Child {
    let mut child = workdir.command(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    assert_eq!(&up, b"up\n");
    child
}

/// Sends a signal to oardocker alone, as `timeout` and job schedulers do.
fn signal(workdir: &Workdir, child: &Child, signal: Signal) {
    if let Some(user) = workdir.engine.user() {
        assert!(user.signal(signal as i32));
        return;
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// Signals reach all that runs in a session.
pub fn signals(workdir: &Workdir) {
    for (sent, inside) in [
        (Signal::SIGINT, "echo up; sleep 4711; echo NO"),
        (Signal::SIGTERM, "echo up; sleep 4711; echo NO"),
        (Signal::SIGHUP, "echo up; sleep 4711 | cat; echo NO"),
        (Signal::SIGTERM, "su root -c 'echo up; sleep 4711; echo NO'; echo NO"),
        (Signal::SIGHUP, "su root -c 'echo up; sleep 4711; echo NO'; echo NO"),
        (Signal::SIGTERM, "set -m; sleep 4711 & echo up; wait; wait; echo NO"),
    ] {
        let begun = Instant::now();
        let mut child = session(workdir, &["exec", "-l", "root", "--no-tty", "node1", inside]);
        // su says what it is about to run before it can be asked to end it.
        std::thread::sleep(Duration::from_millis(300));
        signal(workdir, &child, sent);
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        let status = child.wait().unwrap();
        assert!(!said.contains("NO"), "{sent} in {inside}: {said}");
        assert!(!status.success(), "{sent} in {inside}: {status}");
        assert!(begun.elapsed() < Duration::from_secs(8), "{sent} in {inside}: {:?}", begun.elapsed());
        assert_eq!(naps(workdir), "0", "{sent} in {inside}");
    }
}

/// A session ends with its first process, and takes along what has not detached.
pub fn background(workdir: &Workdir) {
    for (line, left) in [
        ("sleep 4711 & echo ok", "0"),
        ("(sleep 4711 &); echo ok", "0"),
        ("sleep 4711 >/dev/null 2>&1 </dev/null & echo ok", "0"),
        ("python3 -c 'import signal,time; signal.signal(1, print); time.sleep(4711)' & sleep 0.3; echo ok", "0"),
        ("nohup sleep 4711 & echo ok", "1"),
        ("setsid sleep 4711 & echo ok", "1"),
        ("nohup sleep 4711 >/dev/null 2>&1 </dev/null & echo ok", "1"),
    ] {
        let begun = Instant::now();
        let out = workdir.run(&["exec", "-l", "root", "--no-tty", "node1", line]);
        assert!(out.status.success());
        assert_eq!(texts(&out).0, "ok\n", "{line}");
        // The streams of one that has detached are let go after a moment of silence.
        assert!(begun.elapsed() < Duration::from_millis(1500), "{line}: {:?}", begun.elapsed());
        eventually(line, 2, || (naps(workdir) == left).then_some(()));
        workdir.root_sh("node1", &format!("pkill -f '[s]leep.{NAP}' || true"));
    }
    // What comes last is not lost in the silence.
    let lines = workdir.sh("node1", "setsid sleep 5 & for i in $(seq 5); do sleep 0.1; echo $i; done; seq 200000");
    assert!(lines.ends_with("\n200000\n") && lines.lines().count() == 200_005, "{} lines", lines.lines().count());
}

/// Runs a line for bash on the machine of oardocker, with `$oardocker` in it.
fn bash(workdir: &Workdir, line: &str) -> String {
    texts(&workdir.around("bash").args(["-c", line]).env("oardocker", workdir.program()).output().unwrap()).0
}

/// No more is read than what the program takes.
pub fn input(workdir: &Workdir) {
    let three = "node1\nserver\nfrontend\n";
    let loops = "list=$(mktemp); printf 'node1\\nserver\\nfrontend\\n' > $list; ";
    let on_each = "while read h; do $oardocker exec --no-tty $h hostname; done";
    // On the machine without root oardocker's input comes through a program of the machine's, which reads ahead.
    if workdir.engine.user().is_none() {
        assert_eq!(bash(workdir, &format!("{loops} {on_each} < $list")), three, "a file");
        assert_eq!(bash(workdir, &format!("{loops} cat $list | {on_each}")), three, "a pipe");
        let two = "{ $oardocker exec --no-tty node1 'read a; read b; echo $a-$b'; cat; } < $list";
        assert_eq!(bash(workdir, &format!("{loops} {two}")), "node1-server\nfrontend\n", "the rest is the caller's");
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![b'x'; 3 << 20]).unwrap();
        file.rewind().unwrap();
        let mut taking = workdir.command(&["exec", "--no-tty", "node1", "head -c 2000000 | wc -c"]);
        let out = taking.stdin(file.try_clone().unwrap()).output().unwrap();
        assert_eq!(texts(&out).0, "2000000\n");
        let rest = (3 << 20) - file.stream_position().unwrap();
        assert!(
            ((1 << 20) - 8192..=(3 << 20) - 2_000_000).contains(&rest),
            "{rest} bytes are left, but for what head reads at once"
        );
    }
    let quiet = "while read h; do $oardocker exec -n $h 'cat; hostname'; done < $list";
    assert_eq!(bash(workdir, &format!("{loops} {quiet}")), three, "-n");
    let late = "(sleep 0.5; echo late) | $oardocker exec --no-tty node1 'read x; echo $x'";
    assert_eq!(bash(workdir, late), "late\n");
    // What cannot be read is at its end: nothing at all, what nohup gives for a terminal, a directory.
    for stdin in ["<&-", "0>/dev/null", "</"] {
        let line = format!("timeout 20 $oardocker exec --no-tty node1 'cat; echo end' {stdin}");
        assert_eq!(bash(workdir, &line), "end\n", "{stdin}");
    }
}

/// A reader that is slow has made the pipe one that does not wait.
pub fn slow_reader(workdir: &Workdir) {
    if workdir.engine.user().is_some() {
        return;
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    let mut command = workdir.command(&["exec", "--no-tty", "node1", "head -c 3000000 /dev/zero"]);
    let mut child = command.stdout(writer).spawn().unwrap();
    // The writer in there would keep the pipe open.
    drop(command);
    std::thread::sleep(Duration::from_millis(500));
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!((all.len(), child.wait().unwrap().code()), (3_000_000, Some(0)));
    // And one that reads late, when the program and its last words are long over: of what fits on the way, and of what does not.
    let programs =
        [("seq 1000", 1000), ("seq 30000", 30_000), ("seq 150000", 150_000), ("setsid sleep 3 & seq 300000", 300_000)];
    let children: Vec<(Child, usize)> = programs
        .map(|(program, lines)| {
            let words: Vec<&str> = if program.contains('&') { vec![program] } else { program.split(' ').collect() };
            let mut command = workdir.command(&[&["exec", "--no-tty", "node1"], words.as_slice()].concat());
            (command.stdout(Stdio::piped()).spawn().unwrap(), lines)
        })
        .into();
    std::thread::sleep(Duration::from_millis(3500));
    for (mut child, lines) in children {
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(said.lines().count(), lines);
    }
}

/// Writes to /tmp/wrote how many bytes found room on the way to somebody who does not read.
const FILLS: &str = "python3 -c '
import os, time
os.set_blocking(1, False)
wrote, full = 0, 0
while full < 50:
    try:
        wrote, full = wrote + os.write(1, b\"x\" * 4096), 0
    except BlockingIOError:
        full += 1
        time.sleep(0.01)
open(\"/tmp/wrote\", \"w\").write(str(wrote))'";

/// What one session has said and nobody has read keeps no other session of the host from ending.
pub fn late_reader(workdir: &Workdir) {
    if workdir.engine.user().is_some() {
        return;
    }
    workdir.root_sh("node1", "rm -f /tmp/wrote");
    let mut late = workdir.command(&["exec", "--no-tty", "node1", FILLS]).stdout(Stdio::piped()).spawn().unwrap();
    let wrote: usize = eventually("the program has ended", 30, || {
        workdir.sh("node1", "cat /tmp/wrote 2>/dev/null || true").parse().ok()
    });
    let begun = Instant::now();
    workdir.ok(&["exec", "--no-tty", "node1", "true"]);
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    let mut all = Vec::new();
    late.stdout.take().unwrap().read_to_end(&mut all).unwrap();
    assert_eq!((all.len(), late.wait().unwrap().code()), (wrote, Some(0)));
}

/// A terminal has its size before the program looks, and a name that the host knows.
pub fn terminals(workdir: &Workdir) {
    for i in 0..6 {
        let mut pty = Pty::spawn(workdir.command(&["exec", "node1", "stty", "size"]), 101 + i, 37);
        let (code, said) = pty.end(10);
        assert!(code == 0 && said.contains(&format!("37 {}\r\n", 101 + i)), "{said}");
    }
    // The machine without root is reached through a terminal of its own.
    if workdir.engine.user().is_some() {
        return;
    }
    for (name, fallback) in [
        ("xterm-kitty", Some("xterm-256color")),
        ("nonesuch", Some("xterm-256color")),
        ("../etc", Some("xterm-256color")),
        ("foot", None),
        ("alacritty", None),
        ("tmux-256color", None),
    ] {
        let mut command = workdir.around("env");
        command.arg(format!("TERM={name}")).arg(workdir.program()).args(["exec", "node1", "echo =$TERM=; tput cols"]);
        let (code, said) = Pty::spawn(command, 90, 24).end(10);
        assert_eq!(code, 0, "{name}: {said}");
        assert!(said.contains(&format!("={}=\r\n90\r\n", fallback.unwrap_or(name))), "{said}");
        let note = format!("node1 does not know the terminal {name}: TERM is xterm-256color there");
        assert_eq!(said.contains(&note), fallback.is_some(), "{said}");
    }
}

/// What the shell alone understands is hinted at; what the image says is there.
pub fn words_and_variables(workdir: &Workdir) {
    for words in [&["cd", "x"][..], &["A=1", "env"], &["*", "y"], &["source", "f"]] {
        let text = workdir.fails(127, &[&["exec", "node1"], words].concat());
        let hint = format!("for the shell, quote them as one: '{}'", words.join(" "));
        assert!(text.contains(&format!("{}: command not found", words[0])) && text.contains(&hint), "{text}");
    }
    let text = workdir.fails(127, &["exec", "node1", "/no/such"]);
    assert!(text.contains("No such file or directory") && !text.contains("quote them as one"), "{text}");
    assert_eq!(workdir.ok(&["exec", "node1", "printenv", "container", "USER"]), "oci\ndocker\n");
    assert_eq!(workdir.sh("node1", "echo $container"), "oci\n");
}

/// The files that Docker writes are each host's own.
pub fn own_files(workdir: &Workdir) {
    for file in ["hosts", "resolv.conf", "environment"] {
        let line =
            format!("echo '# mine' >> /etc/{file} && sed -i 's/mine/ours/' /etc/{file} && tail -n 1 /etc/{file}");
        assert_eq!(workdir.root_sh("node1", &line), "# ours\n", "{file}");
        assert!(!workdir.root_sh("server", &format!("cat /etc/{file}")).contains("ours"), "{file} of another host");
        assert_eq!(workdir.root_sh("server", &format!("stat -c %a:%U /etc/{file}")), "644:root\n");
    }
    workdir.ok(&["reset", "node1"]);
    for file in ["hosts", "resolv.conf", "environment"] {
        assert!(workdir.root_sh("node1", &format!("cat /etc/{file}")).contains("# ours"), "{file} after a restart");
    }
    assert_eq!(workdir.sh("node1", "getent hosts server | wc -l"), "1\n");
    let zone = workdir.host_sh("readlink /etc/localtime | sed 's,.*zoneinfo/,,'");
    let inside = workdir.sh("node1", "readlink /etc/localtime | sed 's,.*zoneinfo/,,'; date +%Z");
    assert!(zone.trim().is_empty() || inside.starts_with(&zone), "{zone} {inside}");
}
