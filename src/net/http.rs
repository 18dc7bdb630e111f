//! Downloading a file.

use crate::error::{Doing as _, Error, Result, root_cause};
use futures::StreamExt as _;
use std::fs::File;
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt as _;

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// What a server says of a file.
#[derive(Debug, Default)]
pub struct Answer {
    /// `Content-Type`.
    pub kind: String,
    /// `Last-Modified`.
    pub modified: Option<SystemTime>,
    /// The end of the address that redirects have led to.
    pub name: String,
}

/// Downloads to a file; follows redirects; a download that is cut short is an error. `say` hears the progress.
pub async fn download(url: &str, to: File, limit: u64, say: impl Fn(&str)) -> Result<Answer> {
    let doing = || format!("cannot download {url}");
    super::use_tls();
    let client = reqwest::Client::builder().connect_timeout(SILENCE).read_timeout(SILENCE).build().doing(doing)?;
    let answer = client.get(url).send().await.map_err(|e| root_cause(&e)).doing(doing)?;
    if !answer.status().is_success() {
        return Err(Error::new(format!("the server answered {}", answer.status()))).doing(doing);
    }
    let total = answer.content_length();
    let header = |name| answer.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let (kind, modified) = (header("content-type"), httpdate::parse_http_date(&header("last-modified")).ok());
    let name = answer.url().path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default().to_owned();
    let mut file = tokio::fs::File::from_std(to);
    let (mut body, mut done) = (answer.bytes_stream(), 0_u64);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|e| root_cause(&e)).doing(doing)?;
        done += chunk.len() as u64;
        if done > limit {
            return Err(Error::new(format!("it has more than {limit} bytes"))).doing(doing);
        }
        file.write_all(&chunk).await.doing(doing)?;
        let of = total.map(|t| format!(" of {:.1}", t as f64 / 1e6)).unwrap_or_default();
        say(&format!("Downloading {url}: {:.1}{of} MB", done as f64 / 1e6));
    }
    file.flush().await.doing(doing)?;
    Ok(Answer { kind, modified, name })
}
