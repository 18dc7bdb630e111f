//! Files and directories of ours: their modes are said, and what is removed is not followed.

use crate::error::{Doing as _, Result};
use crate::rooted;
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Makes a directory that nobody but root can look into, also when it was there before.
pub fn private_dir(dir: &Path) -> Result<()> {
    make_dir(dir, 0o700)
}

/// Makes a directory with this mode, whatever the umask and an earlier oardocker say.
pub fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    let doing = || format!("cannot create {}", dir.display());
    std::fs::create_dir_all(dir).doing(doing)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).doing(doing)
}

/// Writes a file in a directory of ours with this mode, whatever the umask says.
pub fn write_file(path: &Path, text: &str, mode: u32) -> Result<()> {
    let doing = || format!("cannot write {}", path.display());
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).doing(doing)?;
    file.write_all(text.as_bytes()).doing(doing)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode)).doing(doing)
}

/// Removes a directory of ours with all that it holds, but nothing that is mounted there. None there is fine.
pub fn remove_dir(dir: &Path) -> Result<()> {
    let doing = || format!("cannot remove {}", dir.display());
    let parent = match std::fs::File::open(dir.parent().unwrap_or(Path::new("/"))) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        outcome => outcome.doing(doing)?,
    };
    rooted::remove_tree(&parent.into(), dir.file_name().unwrap_or(OsStr::new("."))).doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_said() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let (sub, file) = (dir.path().join("sub"), dir.path().join("sub/file"));
        std::fs::create_dir(&sub).unwrap();
        std::fs::set_permissions(&sub, std::fs::Permissions::from_mode(0o777)).unwrap();
        private_dir(&sub).unwrap();
        write_file(&file, "x", 0o644).unwrap();
        assert_eq!((mode(&sub), mode(&file)), (0o700, 0o644));
        write_file(&file, "y", 0o600).unwrap();
        assert_eq!((mode(&file), std::fs::read_to_string(&file).unwrap().as_str()), (0o600, "y"));
        remove_dir(&sub).unwrap();
        remove_dir(&sub).unwrap();
        assert!(!sub.exists());
    }
}
