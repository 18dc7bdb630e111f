//! Throwing away what oardockers that were killed left in the engine.

use super::client::Client;
use super::{snapshots, streams, tasks};
use crate::engine::step::{self, Maker};
use crate::error::Result;

/// Build steps, FIFOs and leases.
pub(super) async fn run(client: &Client) -> Result<()> {
    steps(client).await?;
    streams::Fifos::recover();
    client.recover_leases().await
}

/// Build steps only.
pub(super) async fn steps(client: &Client) -> Result<()> {
    for key in step::abandoned(Maker::Containerd) {
        step(client, &key).await?;
    }
    Ok(())
}

/// One step, with what runs in it.
pub(super) async fn step(client: &Client, key: &str) -> Result<()> {
    tasks::remove(client, key).await?;
    snapshots::abort_step(client, key).await
}
