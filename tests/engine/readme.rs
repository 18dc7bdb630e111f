//! README's lines, as somebody with sudo types them on a Debian that has nothing but that.

use crate::support::{BINARY, alone, require_root, texts};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The lines of the first block of the shell's below a heading.
fn lines(heading: &str) -> Vec<String> {
    let readme = include_str!("../../README.md");
    let section = readme.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let block = section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let text = |line: &str| line.split("  #").next().unwrap().trim().to_owned();
    block.lines().map(text).filter(|l| !l.is_empty() && !l.starts_with('#')).collect()
}

/// A root file system of the test's own, with what a chroot needs mounted.
struct Clean(tempfile::TempDir);

impl Clean {
    fn make() -> Self {
        let clean = Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        let mirror = std::env::var("OARDOCKER_MIRROR").unwrap_or_else(|_| "http://deb.debian.org/debian".into());
        let root = clean.0.path();
        let out = Command::new("mmdebstrap")
            .args(["--variant=minbase", "--include=sudo,ca-certificates", "bookworm"])
            .arg(root)
            .arg(mirror)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", texts(&out).1);
        fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf")).unwrap();
        for (kind, place) in [("proc", "proc"), ("tmpfs", "run"), ("devtmpfs", "dev")] {
            let status = Command::new("mount").args(["-t", kind, kind]).arg(root.join(place)).status().unwrap();
            assert!(status.success(), "{place}");
        }
        let status = Command::new("mount").args(["--rbind", "--make-rslave", "/sys"]).arg(root.join("sys")).status();
        assert!(status.unwrap().success(), "sys");
        // A binary for tests reads what it carries from where it was compiled.
        let sources = root.join(&env!("CARGO_MANIFEST_DIR")[1..]);
        fs::create_dir_all(&sources).unwrap();
        for dir in ["envs", "images"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
            assert!(Command::new("cp").arg("-a").args([from, sources.clone()]).status().unwrap().success());
        }
        clean.sh("root", "useradd --create-home --shell /bin/bash --groups sudo ada; \
                          echo 'ada ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ada; echo 'APT::Get::Assume-Yes \"true\";' > /etc/apt/apt.conf.d/yes; \
                          apt-get -q update >/dev/null");
        clean
    }

    /// A line in a login shell; what it says.
    #[track_caller]
    fn sh(&self, user: &str, line: &str) -> String {
        let mut command = Command::new("chroot");
        command.arg(self.0.path()).args(["su", "-", user, "-c", line]).env("DEBIAN_FRONTEND", "noninteractive");
        let out = command.output().unwrap();
        let (stdout, stderr) = texts(&out);
        assert!(out.status.success(), "{line}: {stdout}\n{stderr}");
        format!("{stdout}{stderr}")
    }
}

impl Drop for Clean {
    fn drop(&mut self) {
        let _ = Command::new("chroot")
            .arg(self.0.path())
            .args(["sh", "-c", "cd /home/ada/oar && oardocker destroy -f"])
            .output();
        for place in ["sys", "dev", "run", "proc"] {
            let _ = Command::new("umount").arg("-lR").arg(self.0.path().join(place)).status();
        }
    }
}

#[test]
fn its_lines_work_for_a_user_with_sudo() {
    require_root();
    let _alone = alone();
    let clean = Clean::make();
    let checkout = clean.0.path().join("home/ada/oardocker");
    for line in lines("Install") {
        if line.starts_with("cargo") {
            // What CI itself has compiled, from the same lock file, is put where cargo would.
            assert_eq!(line, "cargo build --release");
            fs::create_dir_all(checkout.join("target/release")).unwrap();
            fs::copy(BINARY, checkout.join("target/release/oardocker")).unwrap();
        } else {
            fs::create_dir_all(&checkout).unwrap();
            clean.sh("ada", &format!("cd ~/oardocker; {line}"));
        }
    }
    let uses = lines("Use");
    assert_eq!((uses[1].as_str(), uses[2].as_str()), ("oardocker init", "sudo oardocker build"));
    clean.sh("ada", "mkdir oar; cd oar; oardocker init");
    // The bridge to what takes minutes, and is tested elsewhere: sudo finds it, and it finds containerd.
    let text = clean.sh("ada", "cd oar; sudo oardocker status");
    assert!(text.contains("Started managed containerd") && text.contains("Images"), "{text}");
    for line in uses.iter().filter(|l| l.contains("oardocker ")) {
        let words: Vec<&str> = line.split_whitespace().skip_while(|w| *w != "oardocker").skip(1).collect();
        clean.sh("ada", &format!("cd oar; oardocker --dry-run {}", words.join(" ")));
    }
    clean.sh("ada", "cd oar; sudo oardocker destroy -f");
    assert!(Path::new(&clean.0.path().join("usr/local/bin/oardocker")).is_file());
}
