#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "tests")]
//! All integration tests, in tiers. Those that need root, containerd or the Debian mirror fail where these are missing.

mod cli;
mod cluster;
mod engine;
mod rootless;
mod safety;
mod session;
mod support;
