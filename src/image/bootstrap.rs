//! `FROM debian:<suite>` without a registry: mmdebstrap makes the root filesystem, apt checks the archive's signatures.

use super::layer;
use crate::engine::Layer;
use crate::error::{Context as _, Error, Result};
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

/// Where the packages of a suite are.
pub fn mirror(suite: &str) -> String {
    if let Some(mirror) = std::env::var("OARDOCKER_MIRROR").ok().filter(|m| !m.is_empty()) {
        return mirror;
    }
    match suite {
        // Out of support, so only the archive has them.
        "jessie" | "stretch" | "buster" => "http://archive.debian.org/debian".into(),
        _ => "http://deb.debian.org/debian".into(),
    }
}

/// The suite in `debian:<suite>`, if the name is one.
pub fn suite(image: &str) -> Option<&str> {
    let suite = image.strip_prefix("debian:").or_else(|| image.strip_prefix("docker.io/library/debian:"))?;
    let suite = suite.strip_suffix("-slim").unwrap_or(suite);
    suite.chars().all(|c| c.is_ascii_lowercase()).then_some(suite)
}

/// Makes the layer of a minimal Debian.
pub async fn bootstrap(suite: &str, to: &Path, line: &(dyn Fn(&str) + Sync)) -> Result<Layer> {
    let mirror = mirror(suite);
    let doing = || format!("cannot bootstrap debian:{suite} from {mirror}");
    line(&format!("Bootstrapping debian:{suite} from {mirror} with mmdebstrap"));
    let tar = tempfile::NamedTempFile::new_in(to.parent().unwrap_or(Path::new("/tmp"))).doing(doing)?;
    let mut child = Command::new("mmdebstrap")
        .args(["--variant=minbase", "--mode=root", "--format=tar", "--include=ca-certificates"])
        // Package files are written once and flushed with the layer; fsync for each costs most of the time.
        .arg("--dpkgopt=force-unsafe-io")
        .args(["--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-include=/usr/share/locale/locale.alias"])
        // mmdebstrap copies these two from the host; in an image they are only mount points.
        .arg("--customize-hook=rm -f \"$1/etc/resolv.conf\" \"$1/etc/hostname\"; : > \"$1/etc/resolv.conf\"; : > \"$1/etc/hosts\"")
        .args([suite, "-", &mirror])
        .env("SOURCE_DATE_EPOCH", super::EPOCH.to_string())
        .stdin(Stdio::null())
        .stdout(tar.reopen().doing(doing)?)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new("mmdebstrap is not installed").hint("install it: apt install mmdebstrap")
            }
            _ => Error::new(e.to_string()),
        })
        .doing(doing)?;
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(text)) = lines.next_line().await {
            // Its progress bars rewrite one line again and again.
            if let Some(last) = text.rsplit('\r').find(|t| !t.trim().is_empty() && !t.contains("...%")) {
                line(last);
                said.push(last.to_owned());
            }
        }
    }
    let status = child.wait().await.doing(doing)?;
    if !status.success() {
        let tail = said.len().saturating_sub(12);
        return Err(Error::new(format!("mmdebstrap failed ({status})"))
            .detail(said.split_off(tail))
            .hint(format!("can this machine reach {mirror}? OARDOCKER_MIRROR names another one")))
        .doing(doing);
    }
    let (file, to) = (tar.reopen().doing(doing)?, to.to_owned());
    tokio::task::spawn_blocking(move || layer::from_tar(file, &to)).await.doing(doing)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_and_mirrors() {
        assert_eq!(suite("debian:trixie"), Some("trixie"));
        assert_eq!(suite("debian:bookworm-slim"), Some("bookworm"));
        assert_eq!(suite("debian:12"), None);
        assert_eq!(suite("oardocker/debian12"), None);
        assert_eq!(mirror("stretch"), "http://archive.debian.org/debian");
        assert_eq!(mirror("trixie"), "http://deb.debian.org/debian");
    }
}
