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

use crate::error::{Doing as _, Result};
use crate::host::{Machine, own_data_dir, write_file};
use crate::rooted::Root;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};

/// Where the notify directory is mounted inside: systemd's place for things of the host.
pub const NOTIFY_DIR_INSIDE: &str = "/run/host";
/// The socket inside.
pub const NOTIFY_INSIDE: &str = "/run/host/s";

/// Files that outlive the cluster, in the env dir.
pub const HISTORIES: [&str; 4] =
    ["/root/.bash_history", "/root/.python_history", "/home/docker/.bash_history", "/home/docker/.python_history"];

/// The variables of the roles' images.
pub(super) const IMAGE_ENV: &str = "image_env.json";

/// Paths of one cluster.
#[derive(Debug, Clone)]
pub struct Files {
    dir: PathBuf,
}

/// Where a history is in the env dir, and below the pins: the nodes share theirs.
pub(super) fn history(host: &str, path: &str) -> PathBuf {
    Path::new("tmp").join(super::role(host)).join(&path[1..])
}

/// How much of what a first process said is looked at, in bytes: a node may say gigabytes.
const LAST_WORDS: u64 = 64 << 10;

impl Files {
    /// The paths; nothing is made.
    pub fn new(machine: &Machine, env_id: &str) -> Self {
        Self::below(machine.data_dir(), env_id)
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
    pub(super) fn public(&self) -> PathBuf {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_s_log_is_a_file_of_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(&dir.path().join("data"), "ab12");
        fs::create_dir_all(dir.path().join("secret")).unwrap();
        fs::create_dir_all(files.log_dir()).unwrap();
        fs::write(dir.path().join("secret/key"), "secret").unwrap();
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
