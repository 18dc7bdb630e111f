//! The part of a cluster that is on the host, from a plan to files and mounts, and away again.

use super::contents::{self, Contents, Shared, Source};
use super::cow;
use super::files::Files;
use crate::error::{Doing as _, Result};
use crate::host::{self, IDS, Ids, Map, Owners, Plain, Powers, make_dir, private_dir, write_file};
use crate::rooted::{Root, own_path};
use rustix::fs::{Mode, OFlags};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown, lchown};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

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

    /// Makes all but /home. `user` is who asked for it, if that is not root. The value is what they should know.
    pub(super) fn make(&self, contents: &Contents, env_dir: &Root, user: Option<u32>) -> Result<Vec<String>> {
        for dir in &contents.dirs {
            make_dir(&dir.path, dir.mode)?;
            self.give(&dir.path, dir.owner)?;
        }
        for file in &contents.files {
            write_file(&file.path, &file.text, file.mode)?;
            self.give(&file.path, file.owner)?;
        }
        let mut notes = Vec::new();
        for shared in &contents.shared {
            let opened = open(env_dir, shared)?;
            if let Source::History { owner, .. } = shared.source {
                self.powers.give(
                    &File::open(own_path(&opened)).doing(|| format!("cannot open {}", shared.place.display()))?,
                    owner,
                )?;
            }
            let owners = owners(shared, &opened, user)?;
            let owner = rustix::fs::fstat(&opened).map_or(0, |stat| stat.st_uid);
            let refused = self.powers.pin(&opened, &shared.place, &owners)?;
            notes.extend(unmapped(shared, owner));
            notes.extend(note(shared, &owners, user.filter(|user| *user != owner).map(|_| owner), refused));
        }
        contents.copies.iter().try_for_each(|copy| cow::mount(copy, self.powers.as_ref()))?;
        Ok(notes)
    }

    /// Gives something of ours to the hosts' root, where that is not the machine's.
    fn give(&self, path: &Path, owner: u32) -> Result<()> {
        let doing = || format!("cannot give {} to account {owner}", path.display());
        if owner == 0 { Ok(()) } else { self.powers.give(&File::open(path).doing(doing)?, owner) }
    }

    /// Fills /home with what an image's tree has there. A link in the image leads nowhere but into the image.
    pub(super) fn fill_home(&self, image_root: &Path, ids: Option<Ids>) -> Result<()> {
        let doing = || format!("cannot copy the image's /home to {}", self.files.home().display());
        let home = Root::open(image_root)?.sub(Path::new("/home")).doing(doing)?.lockable()?;
        // Nobody changes the tree meanwhile: it is a mount of our own.
        let status = Command::new("cp").args(["-a", "."]).arg(self.files.home()).current_dir(own_path(&home)).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(status.to_string()),
            Err(e) => Err(e.to_string()),
        }
        .doing(doing)?;
        ids.map_or(Ok(()), |ids| shift(&self.files.home(), ids)).doing(doing)
    }

    /// Unmounts and removes everything.
    pub(super) fn remove(&self) -> Result<()> {
        host::unmount_below(self.files.dir())?;
        host::remove_dir(&self.files.public())?;
        host::remove_dir(self.files.dir())
    }
}

/// Whose files user docker of the hosts has: of who shares them, or of the folder's owner.
fn sharer(opened: &OwnedFd, user: Option<u32>) -> std::io::Result<(u32, Option<u32>)> {
    let stat = rustix::fs::fstat(opened)?;
    let account = user.unwrap_or(stat.st_uid);
    let group = user.and_then(|_| host::invoking_group()).or_else(|| host::primary_group(account));
    let group = group.or_else(|| (account == stat.st_uid).then_some(stat.st_gid));
    // The host's group root is given to nobody who is not root.
    Ok((account, group.filter(|group| *group != 0 || account == 0)))
}

/// As whose the hosts see the files of something shared: those of who shares it as user docker's, and the other way round. Of what they
/// only read, root's are root's as well.
fn owners(shared: &Shared, opened: &OwnedFd, user: Option<u32>) -> Result<Owners> {
    let Some(ids) = shared.ids else { return Ok(Owners::Plain) };
    if ids.are_a_user_s() {
        // Without root no disk of the host can show other owners.
        return Ok(if shared.read_only { Owners::Locked } else { Owners::Plain });
    }
    let (account, group) = sharer(opened, user).doing(|| format!("cannot tell whose {} is", shared.place.display()))?;
    let map = Map::exchanging(ids, account, group, contents::DOCKER);
    let scripts = matches!(shared.source, Source::Directory(_));
    let map = if scripts { map.with_root(ids) } else { map }.with_others();
    Ok(Owners::Shown { map, read_only: shared.read_only })
}

/// What a user without root should know of a folder that is theirs, and so the hosts' root's.
fn unmapped(shared: &Shared, owner: u32) -> Option<String> {
    let Source::Volume(path) = &shared.source else { return None };
    let docker = shared.ids.filter(|ids| ids.are_a_user_s() && owner == 0 && !shared.read_only)?.of(contents::DOCKER);
    let docker = host::number_outside(docker)?;
    Some(format!(
        "{path} is yours, and so root's in the nodes: user docker writes there only what others may. To let docker: setfacl -R -m u:{docker}:rwX,d:u:{docker}:rwX {path}"
    ))
}

/// What the user should know of how something is shared. `foreign` is its owner, if that is not who shares it.
fn note(shared: &Shared, owners: &Owners, foreign: Option<u32>, refused: Option<Plain>) -> Option<String> {
    let path = match &shared.source {
        Source::Volume(path) => path.clone(),
        Source::Directory(path) => path.display().to_string(),
        Source::History { .. } => return None,
    };
    match (refused, owners, foreign) {
        (Some(Plain { below: false, why }), _, _) => {
            Some(format!("in {path} all files are nobody's for the nodes, as it cannot show other owners: {why}"))
        }
        (Some(Plain { below: true, why }), _, _) => Some(format!(
            "below {path} something is mounted that cannot show other owners: in all that is mounted there, files are nobody's for the nodes: {why}"
        )),
        _ if matches!(shared.source, Source::Directory(_)) => None,
        (None, Owners::Shown { read_only: false, .. }, Some(owner)) => {
            Some(format!("{path} is account {owner}'s, not yours: for the nodes its files are nobody's"))
        }
        (None, Owners::Shown { map, read_only: false }, None) if map.shows_root() => Some(format!(
            "{path} is root's: what nodes write there is root's as well, set-uid programs too; share it :ro or :cow, or give it to an account"
        )),
        _ => None,
    }
}

/// Tries whether a history can be given to whom it is for, and leaves it as it was.
pub(super) fn try_giving(shared: &Shared, opened: &OwnedFd) -> Result<()> {
    let Source::History { path, owner } = &shared.source else { return Ok(()) };
    let doing = || format!("cannot give {} to account {owner}, for which it is kept", path.display());
    let stat = rustix::fs::fstat(opened).map_err(std::io::Error::from).doing(doing)?;
    if stat.st_uid == *owner {
        return Ok(());
    }
    fchown(opened, Some(*owner), Some(*owner)).doing(doing)?;
    fchown(opened, Some(stat.st_uid), Some(stat.st_gid)).doing(doing)
}

/// Has what belongs to the accounts of an image belong to those of the hosts. One file may have several names.
fn shift(path: &Path, ids: Ids) -> std::io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let moved = |id: u32| (id < IDS).then(|| ids.of(id));
    lchown(path, moved(meta.uid()), moved(meta.gid()))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            shift(&entry?.path(), ids)?;
        }
    }
    Ok(())
}

/// Opens something of the user's, and makes it where it is ours to make.
pub(super) fn open(env_dir: &Root, shared: &Shared) -> Result<OwnedFd> {
    match &shared.source {
        Source::Directory(path) => env_dir.make_dir(path).map(|(dir, _)| dir),
        Source::History { path, .. } => {
            close(env_dir)?;
            touch(env_dir, path).map(Into::into)
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

fn touch(env_dir: &Root, path: &Path) -> Result<File> {
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
        let error = place.fill_home(&image, None).unwrap_err();
        assert!(error.to_string().contains("cannot copy the image's /home"), "{error}");
        assert_eq!(fs::read_dir(files.home()).unwrap().count(), 0, "nothing of the host came in");
        // A link inside the image is followed inside the image, whatever it would mean outside.
        fs::remove_file(image.join("home")).unwrap();
        std::os::unix::fs::symlink("/var/home", image.join("home")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), image.join("var/home/docker/way")).unwrap();
        place.fill_home(&image, None).unwrap();
        assert!(files.home().join("docker").is_dir());
        assert!(fs::symlink_metadata(files.home().join("docker/way")).unwrap().is_symlink(), "copied as a link");
    }
}
