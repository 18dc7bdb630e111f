//! Downloading a tarball.

use super::tarball::{self, Tarball};
use crate::error::{Doing as _, Error, Result, root_cause};
use crate::host::make_dir;
use futures::StreamExt as _;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// Downloads to a directory of ours; follows redirects; a download that is cut short is an error. `say` hears the progress.
pub(super) async fn download(url: &str, dir: &Path, say: &dyn Fn(&str)) -> Result<Tarball> {
    let doing = || format!("cannot download {url}");
    make_dir(dir, 0o711)?;
    crate::net::use_tls();
    let client = reqwest::Client::builder().connect_timeout(SILENCE).read_timeout(SILENCE).build().doing(doing)?;
    let answer = client.get(url).send().await.map_err(|e| root_cause(&e)).doing(doing)?;
    if !answer.status().is_success() {
        return Err(Error::new(format!("the server answered {}", answer.status()))).doing(doing);
    }
    let total = answer.content_length();
    let kind = answer.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let part = tempfile::NamedTempFile::new_in(dir).doing(doing)?;
    let mut file = tokio::fs::File::from_std(part.reopen().doing(doing)?);
    let (mut body, mut done) = (answer.bytes_stream(), 0_u64);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|e| root_cause(&e)).doing(doing)?;
        file.write_all(&chunk).await.doing(doing)?;
        done += chunk.len() as u64;
        let of = total.map(|t| format!(" of {:.1}", t as f64 / 1e6)).unwrap_or_default();
        say(&format!("Downloading {url}: {:.1}{of} MB", done as f64 / 1e6));
    }
    file.flush().await.doing(doing)?;
    // What has no name cannot be mounted.
    let place = dir.join("oar-tarball");
    let file = part.persist(&place).map_err(|e| e.error).doing(doing)?;
    tarball::open(file, Some(place), url, dir)
        .map_err(|e| if kind.starts_with("text/") { e.hint(format!("the server calls it {kind}")) } else { e })
}
