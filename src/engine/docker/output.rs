//! What a session says, on its way to a caller who may read slowly, or late.
//!
//! Docker tells the ends of a container's sessions one after the other, and each only when all that its program said has left the
//! engine. One slow reader would keep every other session of the host from ending. So what a program that has ended left behind is
//! taken from the engine at once, and waits here.

use crate::engine::family::{Heard, PassedOn};
use crate::engine::io::Chunk;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

/// How much waits for the caller while the program runs, in bytes. Then the program has to wait.
const WHILE_IT_RUNS: usize = 64 << 10;
/// How much more when it has ended: an engine keeps less than 2 MiB, and who still writes then has detached.
const WHEN_IT_HAS_ENDED: usize = 4 << 20;

/// What whoever sees the program end has to know of its output, and to tell.
#[derive(Debug, Clone)]
pub(super) struct Room {
    bytes: Arc<Semaphore>,
    pub(super) heard: Arc<Heard>,
}

impl Room {
    pub(super) fn program_has_ended(&self) {
        self.bytes.add_permits(WHEN_IT_HAS_ENDED);
    }
}

/// A piece, and what is given back when it has been passed on.
type Piece = (Chunk, PassedOn, Option<OwnedSemaphorePermit>);

/// What waits, and the task that passes it on.
#[derive(Debug)]
pub(super) struct Output {
    room: Room,
    waiting: mpsc::UnboundedSender<Piece>,
    passing: JoinHandle<()>,
}

impl Output {
    pub(super) fn to(caller: mpsc::Sender<Chunk>) -> Self {
        let (waiting, mut pieces) = mpsc::unbounded_channel::<Piece>();
        let passing = tokio::spawn(async move {
            while let Some((chunk, ..)) = pieces.recv().await {
                // Nobody listens any more; go on taking so that the process does not block.
                let _ = caller.send(chunk).await;
            }
        });
        let room = Room { bytes: Arc::new(Semaphore::new(WHILE_IT_RUNS)), heard: Arc::default() };
        Self { room, waiting, passing }
    }

    pub(super) fn room(&self) -> Room {
        self.room.clone()
    }

    /// Waits until there is room for a piece.
    pub(super) async fn pass(&self, chunk: Chunk) {
        let piece = self.room.heard.piece();
        let (Chunk::Out(bytes) | Chunk::Err(bytes)) = &chunk;
        let size = u32::try_from(bytes.len().min(WHILE_IT_RUNS)).unwrap_or(u32::MAX);
        let room = self.room.bytes.clone().acquire_many_owned(size).await.ok();
        let _ = self.waiting.send((chunk, piece, room));
    }

    /// Waits until the caller has all.
    pub(super) async fn end(self) {
        drop(self.waiting);
        let _ = self.passing.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_program_left_behind_waits_here() {
        let (caller, mut reads) = mpsc::channel(1);
        let output = Output::to(caller);
        let begin = std::time::Instant::now();
        let pass = async |n: usize| {
            for _ in 0..n {
                output.pass(Chunk::Out(vec![b'x'; 16 << 10])).await;
            }
        };
        // One is with the caller, one on its way there.
        let more = tokio::time::timeout(std::time::Duration::from_millis(200), pass(8)).await;
        assert!(more.is_err(), "a program that runs waits for who reads");
        output.room().program_has_ended();
        pass(128).await;
        assert!(begin.elapsed().as_secs() < 5);
        let end = tokio::spawn(output.end());
        let mut bytes = 0;
        while let Some(Chunk::Out(piece)) = reads.recv().await {
            bytes += piece.len();
        }
        end.await.unwrap();
        assert!((130 << 14..=136 << 14).contains(&bytes), "{bytes}");
    }
}
