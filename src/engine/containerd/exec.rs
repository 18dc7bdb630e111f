//! Sessions.

use super::Containerd;
use super::client::Client;
use super::streams::{self, Fifos};
use crate::engine::family::{Family, Heard};
use crate::engine::feed::{End, Feed};
use crate::engine::io::{Session, Stdin};
use crate::engine::{Engine as _, ProcessSpec, oci};
use crate::error::{Doing as _, Error, Result};
use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, ResizePtyRequest, StartRequest, WaitRequest,
};
use prost_types::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Exit code of a process that SIGKILL ended.
const KILLED: u32 = 128 + 9;

/// How long after a killed process the end of its container is told, at most.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// How long containerd is listened to when it gives up a session whose streams somebody else has.
const GIVING_UP: Duration = Duration::from_millis(100);

impl Containerd {
    pub(super) async fn run_session(&self, id: &str, process: &ProcessSpec, session: Session) -> Result<u32> {
        let exec_id = format!("exec-{:016x}", rand::random::<u64>());
        let doing = || format!("cannot run {} in container {id}", process.args.first().map_or("nothing", |a| a));
        let fifos = Fifos::create(&self.machine)?;
        let value = serde_json::to_vec(&oci::session(process)).doing(doing)?;
        let request = ExecProcessRequest {
            container_id: id.into(),
            stdin: if session.stdin.is_some() { fifos.text("stdin") } else { String::new() },
            stdout: fifos.text("stdout"),
            stderr: if process.terminal.is_some() { String::new() } else { fifos.text("stderr") },
            terminal: process.terminal.is_some(),
            spec: Some(Any { type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(), value }),
            exec_id: exec_id.clone(),
        };
        self.client.tasks().exec(request).await.doing(doing)?;

        let heard = Arc::<Heard>::default();
        let mut readers = vec![fifos.reader("stdout", heard.clone(), streams::out, session.output.clone())];
        if process.terminal.is_none() {
            readers.push(fifos.reader("stderr", heard.clone(), streams::err, session.output.clone()));
        }
        drop(session.output);
        let started =
            self.client.tasks().start(StartRequest { container_id: id.into(), exec_id: exec_id.clone() }).await;
        if started.is_err() {
            fifos.unblock();
            let _ = delete_process(&self.client, id, &exec_id).await;
        }
        let pid = started.doing(doing)?.into_inner().pid;
        let family = session.init.and_then(|init| Family::of(pid, init)).map(Arc::new);
        let closing = close_stdin(self.client.clone(), id.to_owned(), exec_id.clone());
        let (feed, feeding) = feed_stdin(session.stdin, pid, fifos.path("stdin"), closing).doing(doing)?;
        let helpers = [
            feeding,
            tokio::spawn(follow_size(self.client.clone(), id.to_owned(), exec_id.clone(), session.size)),
            tokio::spawn(pass_signals(family.clone(), session.signals)),
        ];
        let waited = self.client.ends().wait(WaitRequest { container_id: id.into(), exec_id: exec_id.clone() }).await;
        helpers[2].abort();
        if let Some(feed) = feed {
            feed.end().await;
        }
        if let Some(family) = &family {
            family.hang_up().await;
        }
        let deleting = delete_process(&self.client, id, &exec_id);
        let deleted = hear_out(readers, &fifos, family.as_deref().filter(|_| waited.is_ok()), &heard, deleting).await;
        helpers.iter().for_each(JoinHandle::abort);
        fifos.unblock();
        let ended = || format!("container {id} ended during the session");
        let status = waited.doing(ended)?.into_inner().exit_status;
        deleted?;
        // The kernel kills every process of a container whose first one ends; which of the two ends is told first is open.
        if status == KILLED && tokio::time::timeout(LAST_WORDS, self.wait(id)).await.is_ok() {
            return Err(Error::new(ended()));
        }
        Ok(status)
    }
}

/// What a session says after its process has ended, and its end in containerd.
async fn hear_out(
    readers: Vec<JoinHandle<()>>,
    fifos: &Fifos,
    family: Option<&Family>,
    heard: &Heard,
    deleting: impl Future<Output = Result<()>>,
) -> Result<()> {
    let mut reading = futures::future::join_all(readers);
    let Some(family) = family else {
        let deleted = deleting.await;
        if deleted.is_err() {
            fifos.unblock();
            fifos.let_go();
        }
        reading.await;
        return deleted;
    };
    // The shim closes the streams when all that have them are gone. Deleting closes them two seconds later, read or not.
    tokio::select! {
        _ = &mut reading => deleting.await,
        () = family.silent(heard) => {
            fifos.let_go();
            reading.await;
            // containerd goes on without us.
            tokio::time::timeout(GIVING_UP, deleting).await.unwrap_or(Ok(()))
        }
    }
}

/// Keys go through the shim, a file to the process `pid` itself: only that tells how much has been taken. `closing` is the end of either.
fn feed_stdin(
    stdin: Option<Stdin>,
    pid: u32,
    path: PathBuf,
    closing: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<(Option<Feed>, JoinHandle<()>)> {
    Ok(match stdin {
        Some(Stdin::Keys(keys)) => {
            let typed = async move {
                if let Ok(true) = Fifos::writer(path, keys).await {
                    closing.await;
                }
            };
            (None, tokio::spawn(typed))
        }
        Some(Stdin::File(file)) => {
            let (feed, end) = Feed::begin(file, pid)?;
            let fed = async move {
                if let Ok(End::Eof) = end.await {
                    closing.await;
                }
            };
            (Some(feed), tokio::spawn(fed))
        }
        None => (None, tokio::spawn(std::future::ready(()))),
    })
}

async fn delete_process(client: &Client, id: &str, exec_id: &str) -> Result<()> {
    let request = DeleteProcessRequest { container_id: id.into(), exec_id: exec_id.into() };
    client.tasks().delete_process(request).await.map(drop).doing(|| format!("container {id} ended during the session"))
}

/// Tells the process that nothing more is to come.
async fn close_stdin(client: Client, id: String, exec_id: String) {
    let request = CloseIoRequest { container_id: id, exec_id, stdin: true };
    let _ = client.tasks().close_io(request).await;
}

async fn follow_size(
    client: Client,
    id: String,
    exec_id: String,
    size: Option<tokio::sync::watch::Receiver<(u16, u16)>>,
) {
    let Some(mut size) = size else { return };
    loop {
        let (columns, rows) = *size.borrow_and_update();
        let request = ResizePtyRequest {
            container_id: id.clone(),
            exec_id: exec_id.clone(),
            width: columns.into(),
            height: rows.into(),
        };
        let _ = client.tasks().resize_pty(request).await;
        if size.changed().await.is_err() {
            return;
        }
    }
}

async fn pass_signals(family: Option<Arc<Family>>, signals: Option<mpsc::Receiver<i32>>) {
    let (Some(family), Some(mut signals)) = (family, signals) else { return };
    while let Some(number) = signals.recv().await {
        family.signal(number);
    }
}
