//! A network namespace that reaches out through slirp4netns, where nobody may make a bridge: without root.

use crate::error::{Doing as _, Error, Result};
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

/// slirp4netns that is not ready after this time will not be.
const SETUP: Duration = Duration::from_secs(10);

/// Makes the namespace and gives it a way out, which lasts as long as the value, and as this process.
pub(super) async fn attach(path: &Path) -> Result<Child> {
    super::links::pin_new_namespace(path).await?;
    let doing = || format!("cannot connect {} to the network with slirp4netns", path.display());
    // Not a pipe: nobody would read what it warns of while it works.
    let mut log = tempfile::tempfile().doing(doing)?;
    let mut child = Command::new("slirp4netns")
        .args(["--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path"])
        // Its standard output tells that it is ready; when its standard input is closed, also by our death, it ends.
        .args(["--ready-fd=1", "--exit-fd=0"])
        .arg(path)
        .arg("tap0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log.try_clone().doing(doing)?)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new("it is not installed").hint("install it: apt install slirp4netns")
            }
            _ => Error::new(e.to_string()),
        })
        .doing(doing)?;
    let mut word = [0];
    let stdout = child.stdout.as_mut().expect("it is piped");
    let ready = tokio::time::timeout(SETUP, stdout.read_exact(&mut word)).await;
    if !matches!(ready, Ok(Ok(_))) {
        let mut said = String::new();
        let _ = child.start_kill();
        let _ = log.rewind().and_then(|()| log.read_to_string(&mut said));
        return Err(Error::new("it ended or does not come up").detail(said.lines().map(str::to_owned))).doing(doing);
    }
    Ok(child)
}
