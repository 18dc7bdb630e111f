//! Downloading a tarball.

use super::tarball::{self, Tarball};
use crate::error::{Doing as _, Result};
use crate::host::make_dir;
use std::path::Path;

/// Downloads to a directory of ours. `say` hears the progress.
pub(super) async fn download(url: &str, dir: &Path, say: &dyn Fn(&str)) -> Result<Tarball> {
    let doing = || format!("cannot download {url}");
    make_dir(dir, 0o711)?;
    let part = tempfile::NamedTempFile::new_in(dir).doing(doing)?;
    let answer = crate::net::download(url, part.reopen().doing(doing)?, u64::MAX, say).await?;
    // What has no name cannot be mounted.
    let place = dir.join("oar-tarball");
    let file = part.persist(&place).map_err(|e| e.error).doing(doing)?;
    tarball::open(file, Some(place), url, dir).map_err(|e| {
        if answer.kind.starts_with("text/") { e.hint(format!("the server calls it {}", answer.kind)) } else { e }
    })
}
