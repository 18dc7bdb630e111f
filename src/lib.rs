//! oardocker: builds and runs a small, real OAR cluster without a Docker daemon.
//!
//! Arrows point down this table only; `docs/architecture.md` tells more.

pub mod cgroup;
pub mod cli;
pub mod cluster;
pub mod engine;
pub mod error;
pub mod host;
pub mod image;
pub mod net;
pub mod rooted;
pub mod source;
pub mod workdir;
