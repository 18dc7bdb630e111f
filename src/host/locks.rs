//! Locks on open files: held as long as the value, and gone with the process that had them, however that ended.

use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io;
use std::path::Path;

/// One that is held.
pub type Lock = Flock<File>;

/// Waits until nobody else has it.
pub fn lock(file: File) -> io::Result<Lock> {
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
}

/// The same, but not on the thread that hears Ctrl-C.
pub async fn lock_patiently(file: File) -> io::Result<Lock> {
    tokio::task::spawn_blocking(move || lock(file)).await?
}

/// Waits until others have it only as we do.
pub fn share(file: File) -> io::Result<Lock> {
    Flock::lock(file, FlockArg::LockShared).map_err(|(_, e)| e.into())
}

/// Takes it if nobody else has it, and gives the file back otherwise.
pub fn try_lock(file: File) -> io::Result<Result<Lock, File>> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Ok(lock)),
        Err((file, nix::Error::EWOULDBLOCK)) => Ok(Err(file)),
        Err((_, e)) => Err(e.into()),
    }
}

/// Whether somebody has it; a file that is not there has nobody.
pub fn is_locked(path: &Path) -> io::Result<bool> {
    Ok(try_lock(File::open(path)?)?.is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_as_long_as_its_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = || File::options().append(true).create(true).open(&path).unwrap();
        assert!(is_locked(&path).is_err(), "it is not there");
        let held = try_lock(file()).unwrap().unwrap();
        assert!(is_locked(&path).unwrap() && try_lock(file()).unwrap().is_err());
        drop(held);
        let shared = (share(file()).unwrap(), share(file()).unwrap());
        assert!(is_locked(&path).unwrap());
        drop(shared);
        assert!(lock(file()).is_ok());
    }
}
