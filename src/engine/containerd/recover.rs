//! Throwing away what oardockers that were killed left in the engine.

use super::client::Client;
use super::{snapshots, streams, tasks};
use crate::engine::step::{self, Maker};
use crate::error::Result;

/// Build steps, FIFOs and leases; with `own`, also the steps of this process.
pub(super) async fn run(client: &Client, own: bool) -> Result<()> {
    steps(client, own).await?;
    streams::Fifos::recover();
    client.recover_leases().await
}

/// Build steps only.
pub(super) async fn steps(client: &Client, own: bool) -> Result<()> {
    for key in step::abandoned(Maker::Containerd, own) {
        tasks::remove(client, &key).await?;
        snapshots::abort_step(client, &key).await?;
    }
    Ok(())
}
