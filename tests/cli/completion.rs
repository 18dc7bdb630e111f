//! Completion in real shells, and the man page.

use crate::support::{BINARY, Pty, fixture};
use std::path::Path;
use std::process::Command;

/// A folder in which `oardocker` is on the PATH.
fn path_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(BINARY, dir.path().join("oardocker")).unwrap();
    std::fs::write(dir.path().join("archive.tar.gz"), "").unwrap();
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    dir
}

fn shell(program: &str, args: &[&str], dir: &Path) -> Pty {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    assert!(found.status.success(), "this test needs {program}: run `make deps`");
    let mut command = Command::new(program);
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    command.args(args).current_dir(dir).env("PATH", path).env("PS1", "ready> ").env("HOME", dir);
    Pty::spawn(command, 200, 50)
}

/// Types a line and a tab; the shell must complete it to what is expected.
fn completes(pty: &mut Pty, typed: &str, expected: &str) {
    pty.send(&format!("{typed}\t"));
    pty.expect(expected, 10);
    // Empty the line, and have a new prompt.
    pty.send("\x15\n");
    pty.expect("ready> ", 10);
}

#[test]
fn bash_completes() {
    let dir = path_dir();
    let mut pty = shell("bash", &["--norc", "--noprofile", "-i"], dir.path());
    pty.expect("ready> ", 10);
    pty.send("source <(oardocker completion bash)\n");
    pty.expect("ready> ", 10);
    completes(&mut pty, "oardocker init -f bu", "build");
    completes(&mut pty, "oardocker init -e tri", "trixie");
    completes(&mut pty, "oardocker init --env=tri", "--env=trixie");
    completes(&mut pty, "oardocker start --port-bindings-o", "--port-bindings-offset");
    completes(&mut pty, "oardocker install arch", "archive.tar.gz");
    completes(&mut pty, "oardocker connect -l root fr", "frontend");
    completes(&mut pty, "oardocker start -v /a:/b:c", "/a:/b:cow");
    completes(&mut pty, "oardocker --workdir fol", "folder");
    pty.send("oardocker sta\t\t");
    pty.expect("start   status", 10);
}

#[test]
fn zsh_completes() {
    let dir = path_dir();
    let mut pty = shell("zsh", &["-f", "-i"], dir.path());
    pty.expect("ready> ", 10);
    pty.send("autoload -U compinit; compinit -u -D; source <(oardocker completion zsh); print loa''ded\n");
    pty.expect("loaded", 20);
    completes(&mut pty, "oardocker init -f bu", "build");
    completes(&mut pty, "oardocker init -e tri", "trixie");
    completes(&mut pty, "oardocker install arch", "archive.tar.gz");
    completes(&mut pty, "oardocker connect -l root fr", "frontend");
    completes(&mut pty, "oardocker start -v /a:/b:c", "/a:/b:cow");
}

#[test]
fn fish_completes() {
    let dir = path_dir();
    let candidates = |line: &str| {
        let script = format!("oardocker completion fish | source; complete -C '{line}'");
        let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
        let out = Command::new("fish")
            .args(["--no-config", "-c", &script])
            .env("PATH", path)
            .env("HOME", dir.path())
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout)
            .lines()
            .map(|l| l.split('\t').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(candidates("oardocker init -f bu"), ["build"]);
    assert_eq!(candidates("oardocker init -e tri"), ["trixie"]);
    assert_eq!(candidates("oardocker connect fr"), ["frontend"]);
}

#[test]
fn the_man_page_in_docs_is_that_of_the_definitions() {
    let page = oardocker::cli::man::page().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/oardocker.1");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    assert_eq!(page, fixture("../docs/oardocker.1"), "run UPDATE=1 cargo test man_page");
    let out = Command::new("man").args(["--warnings", "-l"]).arg(&file).env("MANPAGER", "cat").output();
    if let Ok(out) = out {
        assert_eq!(String::from_utf8_lossy(&out.stderr), "");
        assert!(String::from_utf8_lossy(&out.stdout).contains("--port-bindings-offset"));
    }
}
