//! oardocker: builds and runs a small, real OAR cluster without a Docker daemon. Table of contents:

pub mod engine;
pub mod error;
pub mod image;
