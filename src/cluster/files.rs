//! The files of one cluster on the host, made at start and gone after stop. They are root's alone, and mounted so that set-uid
//! programs and devices that a node leaves there mean nothing on the host.
//!
//! ```text
//! <data dir>/hosts/<env id>                   the names of the nodes, for completion: what everybody may read
//! <data dir>/clusters/<env id>/engine         --docker-host of the engine that it runs on
//!                             /ports          ports of the host that it publishes
//!                             /hosts nodes cow_volumes system.conf ssh_environment env.json image_env.json
//!                             /profile/<role>  what login shells read
//!                             /home            shared by frontend and nodes
//!                             /log/cluster.log what the log host collected
//!                             /console/<host>  what a host's first process said
//!                             /kmsg/<host>     the same of a systemd that has no journal yet
//!                             /notify/<host>/s the socket on which a host's systemd says that it has booted
//!                             /wake/<node>     a node that the server wakes
//!                             /keeper          the socket of the process that hears of it, and keeper.log
//!                             /pins/...        what of the user's is shared, mounted: see [`crate::rooted::pin`]
//!                             /cow/<host>/<n>  overlay mounts of `-v ...:cow`
//! ```

use super::request::Request;
use crate::error::{Context as _, Result};
use crate::host::{self, data_dir, make_dir, own_data_dir, private_dir, write_file};
use crate::rooted::{Root, own_path, pin};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the notify directory is mounted inside: systemd's place for things of the host.
pub const NOTIFY_DIR_INSIDE: &str = "/run/host";
/// The socket inside.
pub const NOTIFY_INSIDE: &str = "/run/host/s";

/// Files that outlive the cluster, in the env dir.
pub const HISTORIES: [&str; 4] =
    ["/root/.bash_history", "/root/.python_history", "/home/docker/.bash_history", "/home/docker/.python_history"];

/// The variables of the roles' images.
const IMAGE_ENV: &str = "image_env.json";

/// Owner of user docker's histories; the base image makes it the first user.
const DOCKER_ID: u32 = 1000;

/// Paths of one cluster.
#[derive(Debug, Clone)]
pub struct Files {
    dir: PathBuf,
}

/// Where a history is in the env dir, and below the pins: the nodes share theirs.
fn history(host: &str, path: &str) -> PathBuf {
    Path::new("tmp").join(super::role(host)).join(&path[1..])
}

/// How much of what a first process said is looked at, in bytes: a node may say gigabytes.
const LAST_WORDS: u64 = 64 << 10;

impl Files {
    /// The paths; nothing is made.
    pub fn new(env_id: &str) -> Self {
        Self::below(&data_dir(), env_id)
    }

    /// Those of a cluster without root, for who is not in its namespaces.
    pub fn own(env_id: &str) -> Option<Self> {
        own_data_dir().map(|data| Self::below(&data, env_id))
    }

    fn below(data: &Path, env_id: &str) -> Self {
        Self { dir: data.join("clusters").join(env_id) }
    }

    /// The directory of them all.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A plain file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What login shells of a role's hosts read.
    pub fn profile(&self, role: &str) -> PathBuf {
        self.path("profile").join(role)
    }

    /// The variables of a role's image, as in `PATH=/bin`. A cluster of an older oardocker has none.
    pub fn image_env(&self, role: &str) -> Result<Vec<String>> {
        let path = self.path(IMAGE_ENV);
        let doing = || format!("cannot read {}", path.display());
        let mut all: BTreeMap<String, Vec<String>> = match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            text => serde_json::from_slice(&text.doing(doing)?).doing(doing)?,
        };
        Ok(all.remove(role).unwrap_or_default())
    }

    /// The shared /home.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Where the log host writes.
    pub fn log_dir(&self) -> PathBuf {
        self.path("log")
    }

    /// What all hosts said.
    pub fn log(&self) -> PathBuf {
        self.log_dir().join("cluster.log")
    }

    /// The nodes of the cluster.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let path = self.path("nodes");
        let text = fs::read_to_string(&path).doing(|| format!("cannot read {}", path.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Where the server says which nodes it wakes.
    pub fn wake_dir(&self) -> PathBuf {
        self.path("wake")
    }

    /// The directory with a host's notify socket.
    pub fn notify_dir(&self, host: &str) -> PathBuf {
        self.path("notify").join(host)
    }

    /// Which engine the cluster runs on, as `--docker-host` takes it; none when there is no cluster.
    pub fn engine(&self) -> Result<Option<String>> {
        let path = self.path("engine");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).doing(|| format!("cannot read {}", path.display())),
        }
    }

    /// The ports of the host that the cluster publishes.
    pub fn ports(&self) -> Vec<u16> {
        let text = fs::read_to_string(self.path("ports")).unwrap_or_default();
        text.split_whitespace().filter_map(|p| p.parse().ok()).collect()
    }

    /// What hosts see of the init scripts.
    pub fn init_scripts(&self) -> PathBuf {
        self.path("pins/init-scripts")
    }

    /// What a host sees as its history.
    pub fn history(&self, host: &str, path: &str) -> PathBuf {
        self.path("pins").join(history(host, path))
    }

    /// What hosts see as the shared folder of this number.
    pub fn volume(&self, index: usize) -> PathBuf {
        self.path("pins/volumes").join(index.to_string())
    }

    /// The file for completion.
    fn public(&self) -> PathBuf {
        let (clusters, id) = (self.dir.parent().unwrap_or(Path::new("/")), self.dir.file_name().unwrap_or_default());
        clusters.with_file_name("hosts").join(id)
    }

    /// Names of the nodes, without being root.
    pub fn public_nodes(&self) -> Option<String> {
        fs::read_to_string(self.public()).ok()
    }

    /// Output of a host's first process.
    pub fn console(&self, host: &str) -> PathBuf {
        self.path("console").join(host)
    }

    /// The end of what a host's first process said.
    pub fn last_words(&self, host: &str) -> String {
        let end = |path: PathBuf| -> std::io::Result<Vec<u8>> {
            let mut file = File::open(path)?;
            let begin = file.metadata()?.len().saturating_sub(LAST_WORDS);
            file.seek(std::io::SeekFrom::Start(begin))?;
            let mut bytes = Vec::new();
            file.take(LAST_WORDS).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let text =
            |path| end(path).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned());
        // The kernel's log has a priority in front of each line.
        let kmsg = text(self.kmsg(host));
        let kmsg =
            kmsg.lines().map(|l| l.strip_prefix('<').and_then(|l| l.split_once('>')).map_or(l, |(_, text)| text));
        kmsg.chain(text(self.console(host)).lines()).map(|line| format!("{line}\n")).collect()
    }

    /// Opens what all hosts said. A log host without systemd says it on its console. The log's directory is a node's: what is
    /// there may be anything.
    pub fn open_log(&self) -> Result<File> {
        let doing = || format!("cannot open {}", self.log().display());
        let logs = Root::open(&self.log_dir())?;
        match logs.file(Path::new("cluster.log")) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => File::open(self.console("rsyslog")).doing(doing),
            outcome => outcome.doing(doing),
        }
    }

    /// What a host sees as /dev/kmsg: where a systemd says what is wrong before it has a journal.
    pub fn kmsg(&self, host: &str) -> PathBuf {
        self.path("kmsg").join(host)
    }

    /// Empties it, for a systemd that begins to write at its beginning.
    pub fn clear_kmsg(&self, host: &str) -> Result<()> {
        write_file(&self.kmsg(host), "", 0o600)
    }

    /// Notes the engine, before anything of the cluster is made there.
    pub fn claim(&self, docker_host: &str) -> Result<()> {
        if let Some(clusters) = self.dir.parent() {
            private_dir(clusters)?;
        }
        private_dir(&self.dir)?;
        host::disarm(&self.dir)?;
        write_file(&self.path("engine"), docker_host, 0o600)
    }

    /// Makes all but /home and the mounts of single hosts.
    pub fn create(
        &self,
        request: &Request,
        hosts: &[String],
        hosts_file: &str,
        image_env: &BTreeMap<String, Vec<String>>,
    ) -> Result<()> {
        for dir in ["log", "home", "console", "kmsg", "notify", "cow", "pins", "profile"] {
            private_dir(&self.path(dir))?;
        }
        // OAR's own account writes there, whose number is the image's.
        make_dir(&self.wake_dir(), 0o1777)?;
        for host in hosts {
            make_dir(&self.notify_dir(host), 0o755)?;
            self.clear_kmsg(host)?;
        }
        let nodes: String = (1..=request.nodes).map(|i| format!("node{i}\n")).collect();
        let storing = || "cannot store the variables".to_owned();
        let ports: Vec<String> = super::plan::ports(request).iter().map(|p| p.host.to_string()).collect();
        for (name, text, mode) in [
            ("hosts", hosts_file, 0o644),
            ("nodes", &nodes, 0o644),
            ("cow_volumes", "", 0o644),
            ("system.conf", &system_conf(&request.envs), 0o644),
            ("ssh_environment", &ssh_environment(&request.envs), 0o644),
            ("env.json", &serde_json::to_string(&request.envs).doing(storing)?, 0o600),
            (IMAGE_ENV, &serde_json::to_string(image_env).doing(storing)?, 0o600),
            ("ports", &ports.join(" "), 0o600),
        ] {
            write_file(&self.path(name), text, mode)?;
        }
        for (role, env) in image_env {
            write_file(&self.profile(role), &profile(env, &request.envs), 0o644)?;
        }
        if let Some(dir) = self.public().parent() {
            make_dir(dir, 0o755)?;
        }
        write_file(&self.public(), &nodes, 0o644)?;
        self.open_shared(request)?.iter().try_for_each(|(fd, place)| pin(fd, place))
    }

    /// Opens what of the user's the hosts see, each with the place where they will see it: once, so that no engine follows a
    /// path in a user's folder.
    pub fn open_shared(&self, request: &Request) -> Result<Vec<(OwnedFd, PathBuf)>> {
        let env_dir = &request.env_dir;
        let (scripts, _) = env_dir.make_dir(Path::new("init-scripts"))?;
        let (histories, _) = env_dir.make_dir(Path::new("tmp"))?;
        let doing = || format!("cannot close {}/tmp to others", env_dir.path().display());
        fs::set_permissions(own_path(&histories), std::os::unix::fs::PermissionsExt::from_mode(0o700)).doing(doing)?;
        let mut shared = vec![(scripts, self.init_scripts())];
        for host in super::ROLES {
            for path in HISTORIES {
                let file = touch(env_dir, &history(host, path), path.starts_with("/home/"))?;
                shared.push((file.into(), self.history(host, path)));
            }
        }
        for (i, volume) in request.volumes.iter().enumerate() {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&volume.host, flags, Mode::empty()).map_err(std::io::Error::from);
            shared.push((opened.doing(|| format!("cannot share {}", volume.host))?, self.volume(i)));
        }
        Ok(shared)
    }

    /// Fills /home with what an image's tree has there. A link in the image leads nowhere but into the image.
    pub fn fill_home(&self, image_root: &Path) -> Result<()> {
        let doing = || format!("cannot copy the image's /home to {}", self.home().display());
        let home = Root::open(image_root)?.sub(Path::new("/home")).doing(doing)?.lockable()?;
        // Nobody changes the tree meanwhile: it is a mount of our own.
        let status = Command::new("cp").args(["-a", "."]).arg(self.home()).current_dir(own_path(&home)).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(status.to_string()),
            Err(e) => Err(e.to_string()),
        }
        .doing(doing)
    }

    /// Unmounts and removes everything.
    pub fn remove(&self) -> Result<()> {
        host::unmount_below(&self.dir)?;
        host::remove_dir(&self.public())?;
        host::remove_dir(&self.dir)
    }
}

fn touch(env_dir: &Root, path: &Path, of_docker: bool) -> Result<File> {
    let doing = || format!("cannot create {}", env_dir.path().join(path).display());
    // Docker made a directory of a file that was missing when it was mounted.
    if env_dir.is_dir(path) {
        env_dir.remove(path)?;
    }
    let mut file = env_dir.append(path, 0o600)?;
    // A second name of a file of somebody else would give that one to the nodes.
    if std::os::unix::fs::MetadataExt::nlink(&file.metadata().doing(doing)?) != 1 {
        env_dir.remove(path)?;
        file = env_dir.append(path, 0o600)?;
    }
    if of_docker {
        let owner = (Some(Uid::from_raw(DOCKER_ID)), Some(Gid::from_raw(DOCKER_ID)));
        rustix::fs::fchown(&file, owner.0, owner.1).map_err(std::io::Error::from).doing(doing)?;
    }
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600)).doing(doing)?;
    Ok(file)
}

/// systemd's quoting: in double quotes, with C escapes; a percent sign begins a specifier.
fn system_conf(envs: &[(String, String)]) -> String {
    let quoted: Vec<String> = envs
        .iter()
        .map(|(k, v)| {
            format!("\"{k}={}\"", v.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('\n', "\\n"))
        })
        .collect();
    format!("[Manager]\nDefaultEnvironment={}\n", quoted.join(" "))
}

/// Shell quoting. Debian's /etc/profile has forgotten the image's PATH; other variables stay as a session was given them.
fn profile(image: &[String], envs: &[(String, String)]) -> String {
    let path = image.iter().find_map(|e| e.strip_prefix("PATH=")).filter(|path| *path != super::session::PATH);
    let path = path.map(|path| ("PATH".to_owned(), path.to_owned()));
    let quoted = |(k, v): &(String, String)| format!("export {k}='{}'\n", v.replace('\'', "'\\''"));
    path.iter().chain(envs).map(quoted).collect()
}

/// pam_env's form, for sessions that are no logins.
pub(super) fn environment(envs: &[(String, String)]) -> String {
    envs.iter().filter(|(_, v)| !v.contains('\n')).map(|(k, v)| format!("{k}=\"{v}\"\n")).collect()
}

/// sshd's form, for OAR's own logins, through which jobs run: OAR's sshd does not ask PAM.
fn ssh_environment(envs: &[(String, String)]) -> String {
    envs.iter().filter(|(_, v)| !v.contains('\n')).map(|(k, v)| format!("{k}={v}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_quoted_for_each_reader() {
        let envs = [("A".to_owned(), "it's \"50%\" = x".to_owned())];
        assert_eq!(system_conf(&envs), "[Manager]\nDefaultEnvironment=\"A=it's \\\"50%%\\\" = x\"\n");
        assert_eq!(profile(&[], &envs), "export A='it'\\''s \"50%\" = x'\n");
        let image = |path: &str| vec![format!("PATH={path}"), "LANG=C".to_owned()];
        assert_eq!(profile(&image("/opt/bin:/bin"), &[]), "export PATH='/opt/bin:/bin'\n");
        assert_eq!(profile(&image(super::super::session::PATH), &[]), "", "/etc/profile knows better who is root");
    }

    /// An image's tree, a secret of the host beside it, and the files of a cluster.
    fn fixture() -> (tempfile::TempDir, PathBuf, Files) {
        let dir = tempfile::tempdir().unwrap();
        let (image, files) = (dir.path().join("image"), Files::below(&dir.path().join("data"), "ab12"));
        for dir in [&dir.path().join("secret"), &image.join("var/home/docker"), &files.home(), &files.log_dir()] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(dir.path().join("secret/key"), "secret").unwrap();
        (dir, image, files)
    }

    #[test]
    fn an_image_s_home_is_the_image_s_own() {
        let (dir, image, files) = fixture();
        std::os::unix::fs::symlink(dir.path().join("secret"), image.join("home")).unwrap();
        let error = files.fill_home(&image).unwrap_err();
        assert!(error.to_string().contains("cannot copy the image's /home"), "{error}");
        assert_eq!(fs::read_dir(files.home()).unwrap().count(), 0, "nothing of the host came in");
        // A link inside the image is followed inside the image, whatever it would mean outside.
        fs::remove_file(image.join("home")).unwrap();
        std::os::unix::fs::symlink("/var/home", image.join("home")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), image.join("var/home/docker/way")).unwrap();
        files.fill_home(&image).unwrap();
        assert!(files.home().join("docker").is_dir());
        assert!(fs::symlink_metadata(files.home().join("docker/way")).unwrap().is_symlink(), "copied as a link");
    }

    #[test]
    fn a_node_s_log_is_a_file_of_its_directory() {
        let (dir, _, files) = fixture();
        let log = files.log();
        std::os::unix::fs::symlink(dir.path().join("secret/key"), &log).unwrap();
        assert!(files.open_log().is_err(), "a link leads nowhere out");
        fs::remove_file(&log).unwrap();
        nix::unistd::mkfifo(&log, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(files.open_log().is_err(), "and nobody waits for a FIFO");
        fs::remove_file(&log).unwrap();
        fs::write(&log, "line").unwrap();
        assert_eq!(std::io::read_to_string(files.open_log().unwrap()).unwrap(), "line");
    }

    #[test]
    fn nodes_share_their_history() {
        let of = |host| history(host, "/root/.bash_history");
        assert_eq!(of("node1"), of("node2"));
        assert_ne!(of("node1"), of("server"));
    }
}
