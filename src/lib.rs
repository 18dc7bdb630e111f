//! oardocker: builds and runs a small, real OAR cluster without a Docker daemon.
//!
//! Arrows point down this table only; `docs/architecture.md` tells more.

pub mod cli;
pub mod workdir;
pub mod source;
pub mod cluster;
pub mod image;
pub mod engine;
pub mod net;
pub mod cgroup;
pub mod error;
