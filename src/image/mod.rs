//! Images from Dockerfiles: parse, evaluate, run the steps, write the layers, remember them by content.
//!
//! Knows Dockerfiles, OCI images and an image store's verbs; knows nothing of OAR.

mod archive;
mod base;
pub mod bootstrap;
pub mod build;
pub mod cache;
pub mod caches;
pub mod check;
mod config;
mod copy;
mod dockerfile;
mod evaluate;
mod extract;
#[cfg(test)]
mod fuzz;
pub mod layer;
mod mode;
mod mounts;
pub mod name;
pub mod order;
mod pattern;
mod place;
pub mod registry;
mod remote;
pub mod report;
pub mod run;
mod shell;
pub mod size;
mod stages;
mod tarfile;
mod tree;
pub mod unpack;
pub mod uplink;

/// The time of everything that `COPY` and `ADD` create, so that the same input makes the same layer:
/// 2020-01-01T00:00:00Z, in seconds since 1970.
pub const EPOCH: i64 = 1_577_836_800;
