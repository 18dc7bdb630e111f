//! `oardocker exec`, and the terminal side of sessions.

use super::Context;
use crate::cli::{ui, values};
use crate::cluster;
use crate::cluster::files::Files;
use crate::cluster::session::{self, Wish};
use crate::engine::io::{Chunk, Session, Stdin};
use crate::error::{Doing as _, Error, Result};
use clap::ArgAction::SetFalse;
use clap::ValueHint;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal as _, Read as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

/// What a program gets whose output nobody reads, and how long it may go on after that.
const LAST_WORDS: [(i32, Duration); 3] = [
    (nix::libc::SIGPIPE, Duration::from_secs(1)),
    (nix::libc::SIGTERM, Duration::from_secs(10)),
    (nix::libc::SIGKILL, Duration::from_secs(10)),
];

/// Run a command in an existing node
///
/// One word is a line for the shell; several words are run exactly as given. Ends with the command's exit code. Of standard input
/// no more is taken than the command takes; signals go to all its processes, and when it ends, those that it left behind are hung
/// up. Nothing can be chained after exec.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  oardocker exec frontend oarnodes -s
      the state of the nodes
  oardocker exec node1 'cat /proc/self/cgroup | sort'
      a line for the shell
  while read h; do oardocker exec -n $h uptime; done < hosts
      one host after the other
  oardocker exec -l root --no-tty server cat /var/log/oar.log > oar.log
      a file, byte by byte")]
pub struct Params {
    /// Run as this user.
    #[arg(short = 'l', long, value_name = "TEXT", default_value = "docker", value_hint = ValueHint::Username)]
    user: String,
    /// Run in this directory.
    #[arg(short, long, value_name = "TEXT", default_value = "~")]
    workdir: String,
    /// Allocate a pseudo-TTY; done without it too.
    #[arg(id = "tty-on", short = 't', long = "tty", overrides_with = "tty")]
    #[serde(skip)]
    _tty_on: bool,
    /// Allocate no pseudo-TTY.
    #[arg(long = "no-tty", action = SetFalse, overrides_with = "tty-on")]
    tty: bool,
    /// Read nothing, as ssh -n; no pseudo-TTY then.
    #[arg(short = 'n', long)]
    #[serde(skip_serializing_if = "values::off")]
    no_stdin: bool,
    /// Where.
    #[arg(value_hint = ValueHint::Hostname, value_parser = values::host)]
    hostname: String,
    /// What.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_hint = ValueHint::AnyPath)]
    cmd: Vec<String>,
}

/// Whether there is anything to run.
pub(super) fn check(params: &Params) -> Result<()> {
    if params.cmd.is_empty() {
        return Err(Error::usage("exec needs a command to run")
            .hint(format!("oardocker exec {} COMMAND, or oardocker connect {0} for a shell", params.hostname)));
    }
    Ok(())
}

pub(super) async fn run(context: &mut Context, params: Params) -> Result<u8> {
    let args = match params.cmd.as_slice() {
        // One word is a line for the shell, several are the exact argument vector.
        [line] => vec!["/bin/bash".into(), "-lc".into(), line.clone()],
        several => several.to_vec(),
    };
    // A terminal inside needs one outside: into a pipe it would turn every newline into two characters.
    let input = match params.tty && std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        _ if params.no_stdin => Input::None,
        true => Input::Terminal,
        false => Input::File,
    };
    attach(context, &params.hostname, &params.user, &params.workdir, args, input).await
}

/// What a session reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// Nothing.
    None,
    /// What is typed; the session has a terminal of its own then.
    Terminal,
    /// Our standard input.
    File,
}

/// Runs something on a host with our streams as its own; returns its exit code.
pub(super) async fn attach(
    context: &mut Context,
    hostname: &str,
    user: &str,
    directory: &str,
    args: Vec<String>,
    input: Input,
) -> Result<u8> {
    let workdir = context.workdir()?;
    let (engine, files) = (context.engine().await?, context.files(&workdir));
    let container = session::host(engine.as_ref(), &files, &workdir.env_id, hostname).await?;
    let image_env = files.image_env(cluster::role(hostname))?;
    let tty = input == Input::Terminal;
    let mut envs = variables(&files)?;
    if tty {
        let wanted = std::env::var("TERM").ok().filter(|t| !t.is_empty()).unwrap_or_else(|| "xterm".into());
        let known = session::terminal(&container, &wanted)?;
        if known != wanted {
            context.ui.note(&format!("{hostname} does not know the terminal {wanted}: TERM is {known} there"));
        }
        envs.push(("TERM".into(), known));
    }
    let size = tty.then(follow_size);
    let terminal = size.as_ref().map(|size| *size.borrow());
    let wish = Wish { user: user.into(), workdir: directory.into(), args, terminal, image_env, envs };
    let process = session::process(&container, &wish)?;

    let raw = if tty { Some(RawTerminal::enter()?) } else { None };
    let (output, chunks) = mpsc::channel(16);
    let (signals, passed) = pass_signals(tty);
    let stdin = match input {
        Input::None => None,
        Input::Terminal => Some(Stdin::Keys(read_stdin())),
        Input::File => own_stdin(),
    };
    let session = Session { stdin, output, size, init: Some(container.pid), signals: Some(passed) };
    let (gone, reader_gone) = oneshot::channel();
    let writer = tokio::task::spawn_blocking(move || {
        if !write_output(chunks) {
            let _ = gone.send(());
        }
    });
    let running = engine.exec(&container.id, &process, session);
    tokio::pin!(running);
    let outcome = tokio::select! {
        outcome = &mut running => {
            let _ = writer.await;
            outcome
        }
        // Nobody reads any more, as in `exec ... | head`: what writes inside has to know, as it would here.
        Ok(()) = reader_gone => tokio::select! {
            outcome = &mut running => outcome,
            () = insist(signals) => running.await,
        },
    };
    drop(raw);
    outcome.map(|code| u8::try_from(code).unwrap_or(u8::MAX))
}

/// The cluster's variables, and a language.
fn variables(files: &Files) -> Result<Vec<(String, String)>> {
    let file = files.path("env.json");
    let doing = || format!("cannot read {}", file.display());
    let text = std::fs::read(&file).doing(doing)?;
    let mut all: Vec<(String, String)> = serde_json::from_slice(&text).doing(doing)?;
    if !all.iter().any(|(k, _)| k == "LANG") {
        let lang =
            std::env::var("LANG").ok().filter(|l| matches!(l.as_str(), "C.UTF-8" | "en_US.UTF-8" | "fr_FR.UTF-8"));
        all.push(("LANG".into(), lang.unwrap_or_else(|| "en_US.UTF-8".into())));
    }
    Ok(all)
}

/// The terminal in raw mode until dropped, whatever ends the session.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> Result<Self> {
        let doing = |e: nix::Error| Error::new(format!("cannot set up the terminal: {e}"));
        let before = tcgetattr(std::io::stdin()).map_err(doing)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &raw).map_err(doing)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

/// Our standard input; none where we have none.
fn own_stdin() -> Option<Stdin> {
    std::io::stdin().as_fd().try_clone_to_owned().ok().map(|fd| Stdin::File(Arc::new(fd)))
}

/// Reads on a thread of its own, which is left behind when the session ends first.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        let mut stdin = std::io::stdin().lock();
        loop {
            let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::NONE);
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => {
                    if sender.blocking_send(buffer[..n].to_vec()).is_err() {
                        return;
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// Writes until the session closes its output: true; or until nobody reads ours: false.
fn write_output(mut chunks: mpsc::Receiver<Chunk>) -> bool {
    while let Some(chunk) = chunks.blocking_recv() {
        let written = match chunk {
            Chunk::Out(bytes) => ui::write(std::io::stdout(), &bytes),
            Chunk::Err(bytes) => ui::write(std::io::stderr(), &bytes),
        };
        if written.is_err() {
            return false;
        }
    }
    true
}

/// Ends a program that writes for nobody. Some, such as Python, want no SIGPIPE, and would write on forever.
async fn insist(signals: mpsc::Sender<i32>) {
    for (signal, patience) in LAST_WORDS {
        let _ = signals.send(signal).await;
        tokio::time::sleep(patience).await;
    }
}

fn follow_size() -> watch::Receiver<(u16, u16)> {
    let (sender, receiver) = watch::channel(ui::terminal_size().unwrap_or((80, 24)));
    tokio::spawn(async move {
        let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
        while changes.recv().await.is_some() {
            if let Some(size) = ui::terminal_size()
                && sender.send(size).is_err()
            {
                return;
            }
        }
    });
    receiver
}

/// Without a terminal inside, Ctrl-C reaches us; the program inside should have it.
fn pass_signals(tty: bool) -> (mpsc::Sender<i32>, mpsc::Receiver<i32>) {
    let (sender, receiver) = mpsc::channel(4);
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
    for kind in kinds.into_iter().skip(usize::from(tty)) {
        let sender = sender.clone();
        tokio::spawn(async move {
            let Ok(mut signals) = signal(kind) else { return };
            while signals.recv().await.is_some() {
                if sender.send(kind.as_raw_value()).await.is_err() {
                    return;
                }
            }
        });
    }
    (sender, receiver)
}
