//! What the user asks of `start`, checked: a value.

use super::volume::Volume;
use std::path::PathBuf;

/// What the user asked for, checked.
#[derive(Debug, Clone)]
pub struct Request {
    /// Of the workdir.
    pub env_id: String,
    /// How many compute nodes.
    pub nodes: u32,
    /// Shared folders.
    pub volumes: Vec<Volume>,
    /// Variables for services, logins and sessions.
    pub envs: Vec<(String, String)>,
    /// Published ports of the frontend.
    pub ports: Vec<u16>,
    /// Added to each of them.
    pub offset: u16,
    /// On all addresses.
    pub any: bool,
    /// `.oardocker/init-scripts`.
    pub init_scripts: PathBuf,
    /// `.oardocker/tmp`, with the shell histories.
    pub histories: PathBuf,
}
