//! `FROM debian:<suite>` without a registry: mmdebstrap makes the root filesystem, apt checks the archive's signatures.

use super::layer;
use crate::engine::Layer;
use crate::error::{Doing as _, Error, Result};
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// Suites that nobody signs any more: their keys have expired, and are not among those that apt trusts.
const ARCHIVED: [&str; 3] = ["jessie", "stretch", "buster"];

/// Lets apt accept a good signature by a key that has expired since; the base images use it too.
const GPGV: &str = include_str!("../../images/debian/gpgv_expired_keys");

/// What Debian's own slim images lack too; dpkg goes on leaving it out in what is built upon it.
const LEFT_OUT: [&str; 4] = ["/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*"];

/// Of that, what stays.
const KEPT: [&str; 2] = ["/usr/share/locale/locale.alias", "/usr/share/doc/*/copyright"];

/// How long mmdebstrap may take to end when it is asked to.
const LAST_FAVOUR: Duration = Duration::from_secs(20);

/// Debian's keys, those of suites out of support apart.
const KEYRINGS: &str =
    "/usr/share/keyrings/debian-archive-keyring.gpg,/usr/share/keyrings/debian-archive-removed-keys.gpg";

/// Where the packages of a suite are.
pub fn mirror(suite: &str) -> String {
    if let Some(mirror) = std::env::var("OARDOCKER_MIRROR").ok().filter(|m| !m.is_empty()) {
        return mirror;
    }
    let host = if ARCHIVED.contains(&suite) { "archive.debian.org" } else { "deb.debian.org" };
    format!("http://{host}/debian")
}

/// The suite in `debian:<suite>`, if the name is one.
pub fn suite(image: &str) -> Option<&str> {
    let suite = image.strip_prefix("debian:").or_else(|| image.strip_prefix("docker.io/library/debian:"))?;
    let suite = suite.strip_suffix("-slim").unwrap_or(suite);
    suite.chars().all(|c| c.is_ascii_lowercase()).then_some(suite)
}

/// What mmdebstrap is told about the packages' origin. `gpgv` is a file with [`GPGV`].
fn origin(suite: &str, mirror: &str, gpgv: &Path) -> Vec<String> {
    if !ARCHIVED.contains(&suite) {
        return vec![suite.into(), "-".into(), mirror.into()];
    }
    vec![
        "--aptopt=Acquire::Check-Valid-Until \"false\"".into(),
        format!("--aptopt=Apt::Key::gpgvcommand \"{}\"", gpgv.display()),
        suite.into(),
        "-".into(),
        format!("deb [signed-by={KEYRINGS}] {mirror} {suite} main"),
    ]
}

/// A program in a file that apt's own user may run.
fn program(text: &str) -> std::io::Result<tempfile::TempPath> {
    let mut file =
        tempfile::Builder::new().prefix("oardocker-gpgv-").permissions(Permissions::from_mode(0o755)).tempfile()?;
    file.write_all(text.as_bytes())?;
    Ok(file.into_temp_path())
}

/// Makes the layer of a minimal Debian.
pub async fn bootstrap(
    suite: &str,
    to: &Path,
    line: &(dyn Fn(&str) + Sync),
    cancel: &CancellationToken,
) -> Result<Layer> {
    let mirror = mirror(suite);
    let doing = || format!("cannot bootstrap debian:{suite} from {mirror}");
    line(&format!("Bootstrapping debian:{suite} from {mirror} with mmdebstrap"));
    let tar = tempfile::NamedTempFile::new_in(to.parent().unwrap_or(Path::new("/tmp"))).doing(doing)?;
    let gpgv = program(GPGV).doing(doing)?;
    let mut command = Command::new("mmdebstrap");
    command
        // An index that cannot be had is an error, and not an old one or none.
        .args(["--aptopt=APT::Update::Error-Mode \"any\"", "--aptopt=Acquire::Retries \"3\""])
        .args(["--variant=minbase", "--mode=root", "--format=tar", "--include=ca-certificates"])
        // The runtime makes /dev anew in every container; without root nobody could unpack devices.
        .arg("--skip=output/dev")
        // Package files are written once and flushed with the layer; fsync for each costs most of the time.
        .arg("--dpkgopt=force-unsafe-io")
        .args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")))
        .args(KEPT.map(|path| format!("--dpkgopt=path-include={path}")))
        // mmdebstrap copies these two from the host; in an image they are only mount points.
        .arg("--customize-hook=rm -f \"$1/etc/resolv.conf\" \"$1/etc/hostname\"; : > \"$1/etc/resolv.conf\"; : > \"$1/etc/hosts\"")
        .args(origin(suite, &mirror, &gpgv))
        .env("SOURCE_DATE_EPOCH", super::EPOCH.to_string())
        .stdin(Stdio::null())
        .stdout(tar.reopen().doing(doing)?)
        .stderr(Stdio::piped())
        .env("TMPDIR", to.parent().unwrap_or(Path::new("/tmp")))
        // A signal for us is ours to pass on.
        .process_group(0)
        .kill_on_drop(true);
    // SAFETY: prctl is safe between fork and exec. It cleans up after itself when we are killed.
    unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?)) };
    let mut child = command
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
        loop {
            let next = tokio::select! {
                next = lines.next_line() => next,
                () = cancel.cancelled() => {
                    end(&mut child).await;
                    return Err(Error::interrupted());
                }
            };
            let Ok(Some(text)) = next else { break };
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

/// Has mmdebstrap end, which takes away what it has mounted.
async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
    }
    if tokio::time::timeout(LAST_FAVOUR, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
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
        let gpgv = Path::new("/x/gpgv");
        assert_eq!(origin("trixie", "http://m", gpgv), ["trixie", "-", "http://m"]);
        let archived = origin("buster", "http://m", gpgv);
        assert!(archived.contains(&"--aptopt=Apt::Key::gpgvcommand \"/x/gpgv\"".to_owned()), "{archived:?}");
        assert!(archived.last().unwrap().ends_with("removed-keys.gpg] http://m buster main"), "{archived:?}");
    }
}
