//! Sessions.

use super::Docker;
use super::api::is;
use super::output::{Output, Room};
use crate::engine::ProcessSpec;
use crate::engine::family::{self, Family};
use crate::engine::feed::{End, Feed};
use crate::engine::io::{Chunk, Session, Stdin};
use crate::error::{Doing as _, Error, Result};
use bollard::container::LogOutput;
use bollard::exec::{ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{ExecConfig, ExecInspectResponse};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio_util::io::ReaderStream;

type Streams = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;
type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Exit code of what SIGKILL ended, perhaps with its whole container.
const KILLED: i64 = 137;

/// The engine closes the streams a moment before it knows the exit code, and has no event for that.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long after a killed process of a container its first one ends, at most.
const END_OF_ALL: Duration = Duration::from_millis(500);

impl Docker {
    pub(super) async fn run_session(&self, id: &str, process: &ProcessSpec, session: Session) -> Result<u32> {
        let doing = || format!("cannot run {} in container {id}", process.args.first().map_or("nothing", |a| a));
        let config = ExecConfig {
            attach_stdin: Some(session.stdin.is_some()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(process.terminal.is_some()),
            env: Some(process.env.clone()),
            cmd: Some(command(process)),
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
        let (mut streams, input) = self.open(&exec, process.terminal.is_some()).await.doing(doing)?;
        let (known, family) = watch::channel(None);
        let (output, over) = (Output::to(session.output), Arc::new(Notify::new()));
        let (typed, file) = match session.stdin {
            Some(Stdin::Keys(keys)) => (Some(keys), None),
            Some(Stdin::File(file)) => (None, Some(file)),
            None => (None, None),
        };
        let feeding = Arc::new(Mutex::new(None));
        let helpers = [
            tokio::spawn(feed_stdin(input, typed, file, family.clone(), feeding.clone())),
            tokio::spawn(follow_size(self.api.clone(), exec.clone(), session.size)),
            tokio::spawn(pass_signals(family.clone(), session.signals, over.clone())),
            tokio::spawn(follow_end(self.api.clone(), exec.clone(), session.init, known, output.room(), over.clone())),
        ];
        let mut broken = None;
        loop {
            let chunk = tokio::select! {
                // What has come already comes first.
                biased;
                chunk = streams.next() => chunk,
                () = over.notified() => None,
            };
            let chunk = match chunk {
                Some(Ok(LogOutput::StdErr { message })) => Chunk::Err(message.to_vec()),
                Some(Ok(other)) => Chunk::Out(other.into_bytes().to_vec()),
                Some(Err(e)) => {
                    broken = Some(e);
                    break;
                }
                None => break,
            };
            output.pass(chunk).await;
        }
        helpers.iter().for_each(tokio::task::JoinHandle::abort);
        let fed: Option<Feed> = feeding.lock().await.take();
        if let Some(feed) = fed {
            feed.end().await;
        }
        let ended = || format!("container {id} ended during the session");
        let answer = self.last_words(&exec).await;
        // Perhaps the streams were closed before anybody had looked. Docker still knows the process then.
        let known = family.borrow().clone();
        let told = || match (&answer, session.init) {
            (Ok(Some((_, Some(pid)))), Some(init)) => Family::of(*pid, init).map(Arc::new),
            _ => None,
        };
        if let Some(left) = known.or_else(told) {
            left.hang_up().await;
        }
        output.end().await;
        let code = match (answer, broken) {
            (Ok(Some((code, _))), _) => code,
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

    /// The streams of a session, which begins with that.
    async fn open(&self, exec: &str, terminal: bool) -> Result<(Streams, Input)> {
        if terminal {
            let (output, input) = tokio::io::split(self.start_terminal(exec).await?);
            let output = ReaderStream::with_capacity(output, 64 << 10)
                .map_ok(|message| LogOutput::Console { message })
                .map_err(bollard::errors::Error::from);
            return Ok((Box::pin(output), Box::pin(input)));
        }
        let options = StartExecOptions { detach: false, tty: false, output_capacity: Some(64 << 10) };
        let doing = || "cannot begin a session".to_owned();
        match self.api.start_exec(exec, Some(options)).await.doing(doing)? {
            StartExecResults::Attached { output, input } => Ok((output, input)),
            StartExecResults::Detached => Err(Error::new("the engine gave no streams")),
        }
    }

    /// Whether a container's first process ends now. The kernel tells, which knows before the engine does.
    async fn has_ended(&self, id: &str) -> bool {
        let pid = match self.inspect(id).await {
            Ok(Some(container)) if container.state.running => u32::try_from(container.state.pid).unwrap_or(0),
            _ => 0,
        };
        tokio::time::timeout(END_OF_ALL, family::ended(pid)).await.is_ok()
    }

    /// The exit code, and the process as far as the engine knows it, of a session whose streams are closed; none when the engine does not know the session any more.
    async fn last_words(&self, exec: &str) -> Result<Option<(i64, Option<u32>)>> {
        let deadline = tokio::time::Instant::now() + LAST_WORDS;
        loop {
            match self.api.inspect_exec(exec).await {
                Ok(ExecInspectResponse { running: Some(false), exit_code: Some(code), pid, .. }) => {
                    return Ok(Some((code, pid.and_then(|pid| u32::try_from(pid).ok()))));
                }
                Err(e) if is(&e, 404) => return Ok(None),
                Err(e) => return Err(e).doing(|| format!("{} is gone", self.info.name)),
                Ok(_) if tokio::time::Instant::now() > deadline => return Ok(None),
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }
}

/// The program with its arguments. Not every API can be told how large a terminal is before a program looks at it.
fn command(process: &ProcessSpec) -> Vec<String> {
    let sized = process.terminal.iter().flat_map(|(columns, rows)| {
        let line = format!("stty cols {columns} rows {rows} 2>/dev/null; exec \"$@\"");
        ["/bin/sh".to_owned(), "-c".to_owned(), line, "sh".to_owned()]
    });
    sized.chain(process.args.iter().cloned()).collect()
}

/// Keys go to the engine, a file to the program itself: only that tells how much has been taken. Closing the engine's end is the end
/// of either.
async fn feed_stdin(
    mut to: Input,
    typed: Option<mpsc::Receiver<Vec<u8>>>,
    file: Option<Arc<OwnedFd>>,
    mut family: watch::Receiver<Option<Arc<Family>>>,
    feeding: Arc<Mutex<Option<Feed>>>,
) {
    if let Some(file) = file {
        let leader = match family.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(family)) => family.leader(),
            _ => return,
        };
        let Ok((feed, end)) = Feed::begin(file, leader) else { return };
        *feeding.lock().await = Some(feed);
        if end.await != Ok(End::Eof) {
            return;
        }
    }
    let Some(mut typed) = typed else {
        let _ = to.shutdown().await;
        return;
    };
    while let Some(bytes) = typed.recv().await {
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
async fn pass_signals(
    mut family: watch::Receiver<Option<Arc<Family>>>,
    signals: Option<mpsc::Receiver<i32>>,
    over: Arc<Notify>,
) {
    let Some(mut signals) = signals else { return };
    while let Some(number) = signals.recv().await {
        // A session that was asked for a moment ago has no process yet.
        match family.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(family)) if family.signal(number) => {}
            // Only others still say something, and whoever hears it has had enough.
            Ok(Some(_)) => over.notify_one(),
            _ => return,
        }
    }
}

/// Finds the session's processes, hangs up those that are left when the first one has ended, and says when nothing more is to come.
async fn follow_end(
    api: bollard::Docker,
    exec: String,
    init: Option<u32>,
    known: watch::Sender<Option<Arc<Family>>>,
    room: Room,
    over: Arc<Notify>,
) {
    let Some(init) = init else { return };
    let pid = loop {
        match api.inspect_exec(&exec).await.map(|e| (e.running, e.pid.and_then(|p| u32::try_from(p).ok()))) {
            Ok((_, Some(pid @ 1..))) => break pid,
            // A session that was asked for a moment ago has no process yet, and for Podman one that has ended has none any more.
            Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
            Err(_) => return,
        }
    };
    let Some(family) = Family::of(pid, init).map(Arc::new) else { return };
    known.send_replace(Some(family.clone()));
    if family::ended(pid).await.is_ok() {
        room.program_has_ended();
        family.hang_up().await;
        family.silent(&room.heard).await;
        over.notify_one();
    }
}
