//! Sessions.

use super::Docker;
use super::containers::is;
use crate::engine::ProcessSpec;
use crate::engine::io::{Chunk, Session};
use crate::error::{Context as _, Error, Result};
use bollard::container::LogOutput;
use bollard::exec::{ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{ExecConfig, ExecInspectResponse};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio_util::io::ReaderStream;

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;
type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Exit code of what SIGKILL ended, perhaps with its whole container.
const KILLED: i64 = 137;

/// The engine closes the streams a moment before it knows the exit code, and has no event for that.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long after a killed process of a container its first one ends, at most, in milliseconds.
const END_OF_ALL: u16 = 500;

impl Docker {
    pub(super) async fn run_session(&self, id: &str, process: &ProcessSpec, session: Session) -> Result<u32> {
        let doing = || format!("cannot run {} in container {id}", process.args.first().map_or("nothing", |a| a));
        let config = ExecConfig {
            attach_stdin: Some(session.stdin.is_some()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(process.tty),
            env: Some(process.env.clone()),
            cmd: Some(process.args.clone()),
            // A name or number alone makes the engine look up the further groups.
            user: Some(if process.groups.is_empty() {
                format!("{}:{}", process.uid, process.gid)
            } else {
                process.uid.to_string()
            }),
            working_dir: Some(if process.cwd.is_empty() { "/".into() } else { process.cwd.clone() }),
            ..ExecConfig::default()
        };
        let exec = self.api.create_exec(id, config).await.doing(doing)?.id;
        let (mut output, input) = if process.tty {
            let (output, input) = self.start_terminal(&exec).await.doing(doing)?.into_split();
            let output = ReaderStream::with_capacity(output, 64 << 10)
                .map_ok(|message| LogOutput::Console { message })
                .map_err(bollard::errors::Error::from);
            (Box::pin(output) as Output, Box::pin(input) as Input)
        } else {
            let options = StartExecOptions { detach: false, tty: false, output_capacity: Some(64 << 10) };
            let StartExecResults::Attached { output, input } =
                self.api.start_exec(&exec, Some(options)).await.doing(doing)?
            else {
                return Err(Error::new("the engine gave no streams")).doing(doing);
            };
            (output, input)
        };
        let helpers = [
            tokio::spawn(feed_stdin(input, session.stdin)),
            tokio::spawn(follow_size(self.api.clone(), exec.clone(), session.size)),
            tokio::spawn(pass_signals(self.api.clone(), exec.clone(), session.signals)),
        ];
        let mut broken = None;
        while let Some(chunk) = output.next().await {
            let chunk = match chunk {
                Ok(LogOutput::StdErr { message }) => Chunk::Err(message.to_vec()),
                Ok(other) => Chunk::Out(other.into_bytes().to_vec()),
                Err(e) => {
                    broken = Some(e);
                    break;
                }
            };
            // Nobody listens any more; go on reading so that the process does not block.
            let _ = session.output.send(chunk).await;
        }
        helpers.iter().for_each(tokio::task::JoinHandle::abort);
        let ended = || format!("container {id} ended during the session");
        let answer = self.last_words(&exec).await;
        let code = match (answer, broken) {
            (Ok(Some(code)), _) => code,
            (_, Some(e)) => return Err(e).doing(|| format!("{} is gone", self.info.name)),
            (Ok(None), None) => return Err(Error::new(ended())),
            (Err(e), None) => return Err(e),
        };
        // The kernel kills every process of a container whose first one ends; which of the two ends is told first is open.
        if code == KILLED && self.has_ended(id).await {
            return Err(Error::new(ended()));
        }
        Ok(u32::try_from(code).unwrap_or(1))
    }

    /// Whether a container's first process ends now. The kernel tells, which knows before the engine does.
    async fn has_ended(&self, id: &str) -> bool {
        let pid = match self.inspect(id).await {
            Ok(Some(container)) if container.state.running => i32::try_from(container.state.pid).ok(),
            _ => None,
        };
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { return true };
        let ends = tokio::task::spawn_blocking(move || {
            let Ok(fd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return true };
            let mut fds = [nix::poll::PollFd::new(fd.as_fd(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, END_OF_ALL).is_ok_and(|n| n > 0)
        });
        ends.await.unwrap_or(false)
    }

    /// The exit code of a session whose streams are closed; none when the engine does not know the session any more.
    async fn last_words(&self, exec: &str) -> Result<Option<i64>> {
        let deadline = tokio::time::Instant::now() + LAST_WORDS;
        loop {
            match self.api.inspect_exec(exec).await {
                Ok(ExecInspectResponse { running: Some(false), exit_code: Some(code), .. }) => return Ok(Some(code)),
                Err(e) if is(&e, 404) => return Ok(None),
                Err(e) => return Err(e).doing(|| format!("{} is gone", self.info.name)),
                Ok(_) if tokio::time::Instant::now() > deadline => return Ok(None),
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }
}

async fn feed_stdin(mut to: Input, stdin: Option<mpsc::Receiver<Vec<u8>>>) {
    let Some(mut stdin) = stdin else { return };
    while let Some(bytes) = stdin.recv().await {
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn follow_size(api: bollard::Docker, exec: String, size: Option<watch::Receiver<(u16, u16)>>) {
    let Some(mut size) = size else { return };
    loop {
        let (width, height) = *size.borrow_and_update();
        let _ = api.resize_exec(&exec, ResizeExecOptions { height, width }).await;
        if size.changed().await.is_err() {
            return;
        }
    }
}

/// The API has no signals for sessions, but tells their process, and we are root.
async fn pass_signals(api: bollard::Docker, exec: String, signals: Option<mpsc::Receiver<i32>>) {
    let Some(mut signals) = signals else { return };
    while let Some(number) = signals.recv().await {
        // A session that was asked for a moment ago has no process yet.
        let pid = loop {
            match api.inspect_exec(&exec).await.map(|e| (e.running, e.pid.and_then(|p| i32::try_from(p).ok()))) {
                // It had one, which is another one's by now, perhaps.
                Ok((Some(false), Some(1..))) => return,
                Ok((_, Some(pid @ 1..))) => break pid,
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(_) => return,
            }
        };
        if let Ok(signal) = Signal::try_from(number) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}
