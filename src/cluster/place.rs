//! The part of a cluster that is on the host, from a plan to files and mounts, and away again.

use super::contents::{Contents, Shared, Source};
use super::cow;
use super::files::Files;
use crate::error::{Doing as _, Result};
use crate::host::{self, Powers, make_dir, private_dir, write_file};
use crate::rooted::{Root, own_path};
use rustix::fs::{Mode, OFlags};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Owner of user docker's histories; the base image makes it the first user.
const DOCKER_ID: u32 = 1000;

/// Where a cluster's files are, and what makes them.
#[derive(Clone)]
pub(super) struct Place {
    files: Files,
    powers: Arc<dyn Powers>,
}

impl Place {
    pub(super) fn new(files: &Files, powers: Arc<dyn Powers>) -> Self {
        Self { files: files.clone(), powers }
    }

    /// Notes the engine, before anything of the cluster is made there.
    pub(super) fn claim(&self, docker_host: &str) -> Result<()> {
        if let Some(clusters) = self.files.dir().parent() {
            private_dir(clusters)?;
        }
        private_dir(self.files.dir())?;
        self.powers.disarm(self.files.dir())?;
        write_file(&self.files.path("engine"), docker_host, 0o600)
    }

    /// Makes all but /home.
    pub(super) fn make(&self, contents: &Contents, env_dir: &Root) -> Result<()> {
        contents.dirs.iter().try_for_each(|dir| make_dir(&dir.path, dir.mode))?;
        contents.files.iter().try_for_each(|file| write_file(&file.path, &file.text, file.mode))?;
        for shared in &contents.shared {
            let opened = open(env_dir, shared, self.powers.as_ref())?;
            self.powers.pin(&opened, &shared.place)?;
        }
        contents.copies.iter().try_for_each(|copy| cow::mount(copy, self.powers.as_ref()))
    }

    /// Fills /home with what an image's tree has there. A link in the image leads nowhere but into the image.
    pub(super) fn fill_home(&self, image_root: &Path) -> Result<()> {
        let doing = || format!("cannot copy the image's /home to {}", self.files.home().display());
        let home = Root::open(image_root)?.sub(Path::new("/home")).doing(doing)?.lockable()?;
        // Nobody changes the tree meanwhile: it is a mount of our own.
        let status = Command::new("cp").args(["-a", "."]).arg(self.files.home()).current_dir(own_path(&home)).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(status.to_string()),
            Err(e) => Err(e.to_string()),
        }
        .doing(doing)
    }

    /// Unmounts and removes everything.
    pub(super) fn remove(&self) -> Result<()> {
        host::unmount_below(self.files.dir())?;
        host::remove_dir(&self.files.public())?;
        host::remove_dir(self.files.dir())
    }
}

/// Opens something of the user's, and makes it where it is ours to make.
pub(super) fn open(env_dir: &Root, shared: &Shared, powers: &dyn Powers) -> Result<OwnedFd> {
    match &shared.source {
        Source::Directory(path) => env_dir.make_dir(path).map(|(dir, _)| dir),
        Source::History { path, docker } => {
            close(env_dir)?;
            touch(env_dir, path, *docker, powers).map(Into::into)
        }
        Source::Volume(path) => {
            let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            opened.map_err(std::io::Error::from).doing(|| format!("cannot share {path}"))
        }
    }
}

/// Keeps others out of the directory with the histories.
fn close(env_dir: &Root) -> Result<()> {
    let (histories, _) = env_dir.make_dir(Path::new("tmp"))?;
    let doing = || format!("cannot close {}/tmp to others", env_dir.path().display());
    fs::set_permissions(own_path(&histories), fs::Permissions::from_mode(0o700)).doing(doing)
}

fn touch(env_dir: &Root, path: &Path, of_docker: bool, powers: &dyn Powers) -> Result<File> {
    let doing = || format!("cannot create {}", env_dir.path().join(path).display());
    // Docker made a directory of a file that was missing when it was mounted.
    if env_dir.is_dir(path) {
        env_dir.remove(path)?;
    }
    let mut file = env_dir.append(path, 0o600)?;
    // A second name of a file of somebody else would give that one to the nodes.
    if file.metadata().doing(doing)?.nlink() != 1 {
        env_dir.remove(path)?;
        file = env_dir.append(path, 0o600)?;
    }
    if of_docker {
        powers.give(&file, DOCKER_ID).doing(doing)?;
    }
    file.set_permissions(fs::Permissions::from_mode(0o600)).doing(doing)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Machine, Own};
    use std::path::PathBuf;

    /// An image's tree, a secret of the host beside it, and the place of a cluster.
    fn fixture() -> (tempfile::TempDir, PathBuf, Place) {
        let dir = tempfile::tempdir().unwrap();
        let (image, files) = (dir.path().join("image"), Files::new(&Machine::below(dir.path()), "ab12"));
        for dir in [&dir.path().join("secret"), &image.join("var/home/docker"), &files.home()] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(dir.path().join("secret/key"), "secret").unwrap();
        (dir, image, Place::new(&files, Arc::new(Own)))
    }

    #[test]
    fn an_image_s_home_is_the_image_s_own() {
        let (dir, image, place) = fixture();
        let files = place.files.clone();
        std::os::unix::fs::symlink(dir.path().join("secret"), image.join("home")).unwrap();
        let error = place.fill_home(&image).unwrap_err();
        assert!(error.to_string().contains("cannot copy the image's /home"), "{error}");
        assert_eq!(fs::read_dir(files.home()).unwrap().count(), 0, "nothing of the host came in");
        // A link inside the image is followed inside the image, whatever it would mean outside.
        fs::remove_file(image.join("home")).unwrap();
        std::os::unix::fs::symlink("/var/home", image.join("home")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), image.join("var/home/docker/way")).unwrap();
        place.fill_home(&image).unwrap();
        assert!(files.home().join("docker").is_dir());
        assert!(fs::symlink_metadata(files.home().join("docker/way")).unwrap().is_symlink(), "copied as a link");
    }
}
