//! What `RUN --mount=type=cache` keeps from build to build: directories for root alone, each with a lock.

use super::dockerfile::mount::Sharing;
use crate::engine::sha256;
use crate::error::{Doing as _, Error, Result};
use crate::host::{self, Lock};
use crate::rooted::Root;
use std::fs::File;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// Waits until a cache may be used; its place, which may not be there yet. It is in use as long as the lock is held.
pub(super) async fn take(
    all: &Path,
    id: &str,
    sharing: Sharing,
    cancel: &CancellationToken,
) -> Result<(PathBuf, Lock)> {
    host::private_dir(all)?;
    let name = sha256(id.as_bytes()).trim_start_matches("sha256:")[..32].to_owned();
    let doing = || format!("cannot lock the cache {id:?}");
    let lock = match sharing {
        Sharing::Private => return free(all, &name).doing(doing),
        Sharing::Shared => {
            // Not on the thread that the holder may need to go on.
            let file = lock_file(all, &name)?;
            let shared = tokio::task::spawn_blocking(move || host::share(file));
            let shared = cancel.run_until_cancelled(shared).await.ok_or_else(Error::interrupted)?;
            shared.doing(doing)?.doing(doing)?
        }
        Sharing::Locked => {
            let locked = cancel.run_until_cancelled(host::lock_patiently(lock_file(all, &name)?)).await;
            locked.ok_or_else(Error::interrupted)?.doing(doing)?
        }
    };
    Ok((all.join(&name), lock))
}

fn lock_file(all: &Path, name: &str) -> Result<File> {
    let path = all.join(format!("{name}.lock"));
    let options = File::options().create(true).truncate(false).write(true).to_owned();
    options.open(&path).doing(|| format!("cannot open {}", path.display()))
}

/// The first of a row of caches that nobody uses.
fn free(all: &Path, name: &str) -> Result<(PathBuf, Lock)> {
    for number in 0..1000 {
        let name = format!("{name}.{number}");
        if let Ok(lock) = host::try_lock(lock_file(all, &name)?).doing(|| "cannot look".into())? {
            return Ok((all.join(name), lock));
        }
    }
    Err(Error::new("a thousand steps have private caches of this name"))
}

/// Removes those that no build uses. How many there were.
pub fn remove_unused(all: &Path) -> Result<usize> {
    if !all.exists() {
        return Ok(0);
    }
    let (root, mut removed) = (Root::beneath(all)?, 0);
    let doing = || format!("cannot read {}", all.display());
    for name in root.names(Path::new("/")).doing(doing)? {
        let name = name.to_string_lossy().into_owned();
        // Locks stay: somebody may wait for one.
        let Some(cache) = name.strip_suffix(".lock") else { continue };
        let Ok(_lock) = host::try_lock(lock_file(all, cache)?).doing(doing)? else { continue };
        removed += usize::from(root.entry(Path::new(cache)).is_ok());
        root.remove(Path::new(cache))?;
        // What a build was making of it when it was killed.
        for left in root.names(Path::new("/")).doing(doing)? {
            let text = left.to_string_lossy();
            if text.strip_prefix(cache).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".new")).is_some() {
                root.remove(Path::new(&left))?;
            }
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn caches_are_shared_private_or_one_after_another() {
        let dir = tempfile::tempdir().unwrap();
        let all = dir.path().join("caches");
        let cancel = CancellationToken::new();
        let take = |sharing| take(&all, "id", sharing, &cancel);
        let (one, first) = take(Sharing::Shared).await.unwrap();
        let (two, second) = take(Sharing::Shared).await.unwrap();
        assert_eq!(one, two);
        let (mine, _private) = take(Sharing::Private).await.unwrap();
        let (other, _too) = take(Sharing::Private).await.unwrap();
        assert!(mine != other && mine != one);
        fs::create_dir(&one).unwrap();
        fs::write(one.join("f"), "").unwrap();
        assert_eq!(remove_unused(&all).unwrap(), 0, "all are in use");
        drop((first, second));
        assert_eq!(remove_unused(&all).unwrap(), 1);
        assert!(!one.exists());
        let (_, _locked) = take(Sharing::Locked).await.unwrap();
        cancel.cancel();
        assert_eq!(take(Sharing::Locked).await.unwrap_err().exit_code(), 130, "who waits can be interrupted");
    }
}
