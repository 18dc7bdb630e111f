//! What build steps reach, in terms that whoever makes it can give.

use crate::error::Result;
use async_trait::async_trait;
use std::path::PathBuf;

/// Gives build steps a network of their own: what they listen on must not meet the host or another build.
#[async_trait]
pub trait Uplink: Send + Sync {
    /// A network namespace for this step.
    async fn attach(&self, name: &str) -> Result<PathBuf>;
    /// Gives it back.
    async fn detach(&self, name: &str) -> Result<()>;
    /// Files to mount: host path and path inside (name resolution).
    fn files(&self) -> Vec<(PathBuf, String)>;
    /// Variables that have to do with it: proxies. They are no part of what is built.
    fn variables(&self) -> Vec<(String, String)>;
}
