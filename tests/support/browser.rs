//! A real browser without a screen, Debian's chromium, asked over its DevTools protocol what it shows.

use super::eventually;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// Where chromium reads commands and writes answers with `--remote-debugging-pipe`.
const COMMANDS: i32 = 3;
const ANSWERS: i32 = 4;

pub struct Browser {
    child: Child,
    to: File,
    from: BufReader<File>,
    session: String,
    next: u64,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Opens a page, in a window of the size of a laptop's.
    pub fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let (commands, to) = std::io::pipe().unwrap();
        let (from, answers) = std::io::pipe().unwrap();
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--window-size=1280,800"]);
        command.args(["--remote-debugging-pipe", "--no-first-run", "--disable-dev-shm-usage"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (commands, answers) = (OwnedFd::from(commands), OwnedFd::from(answers));
        // SAFETY: dup2 is safe between fork and exec; copies first, as one may be in the other's place.
        unsafe {
            command.pre_exec(move || {
                let (commands, answers) = (nix::libc::dup(commands.as_raw_fd()), nix::libc::dup(answers.as_raw_fd()));
                let high = |fd| nix::libc::fcntl(fd, nix::libc::F_DUPFD, 10);
                let (commands, answers) = (high(commands), high(answers));
                if nix::libc::dup2(commands, COMMANDS) < 0 || nix::libc::dup2(answers, ANSWERS) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap_or_else(|e| panic!("chromium: {e}: run `make deps`"));
        // The ends that are chromium's go with the command.
        drop(command);
        let (to, from) = (File::from(OwnedFd::from(to)), BufReader::new(File::from(OwnedFd::from(from))));
        let mut browser = Self { child, to, from, session: String::new(), next: 0, _profile: profile };
        let target = browser.ask("Target.createTarget", &json!({"url": url}));
        let attached = browser.ask("Target.attachToTarget", &json!({"targetId": target["targetId"], "flatten": true}));
        attached["sessionId"].as_str().unwrap().clone_into(&mut browser.session);
        browser
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut answer = Vec::new();
            assert!(self.from.read_until(0, &mut answer).unwrap() > 0, "chromium has ended");
            let answer: Value = serde_json::from_slice(answer.strip_suffix(b"\0").unwrap_or(&answer)).unwrap();
            if answer["id"] == self.next {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// Waits until an expression of JavaScript is true in the page.
    #[track_caller]
    pub fn shows(&mut self, what: &str, expression: &str) {
        let guarded = format!("(() => {{ try {{ return !!({expression}); }} catch (e) {{ return false; }} }})()");
        eventually(what, 30, || {
            let answer = self.ask("Runtime.evaluate", &json!({"expression": guarded, "returnByValue": true}));
            (answer["result"]["value"] == true).then_some(())
        });
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
