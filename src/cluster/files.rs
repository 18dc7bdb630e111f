//! The files of one cluster on the host, made at start and gone after stop.
//!
//! ```text
//! <data dir>/clusters/<env id>/engine         --docker-host of the engine that it runs on
//!                             /hosts resolv.conf nodes cow_volumes system.conf profile.sh environment ssh_environment env.json
//!                             /home            shared by frontend and nodes
//!                             /log/cluster.log what the log host collected
//!                             /notify/<host>/s the socket on which a host's systemd says that it has booted
//!                             /cow/<host>/<n>  overlay mounts of `-v ...:cow`
//! ```

use super::request::Request;
use crate::engine::host::{data_dir, own_data_dir};
use crate::error::{Context as _, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the notify directory is mounted inside: systemd's place for things of the host.
pub const NOTIFY_DIR_INSIDE: &str = "/run/host";
/// The socket inside.
pub const NOTIFY_INSIDE: &str = "/run/host/s";

/// Files that outlive the cluster, in the env dir.
pub const HISTORIES: [&str; 4] =
    ["/root/.bash_history", "/root/.python_history", "/home/docker/.bash_history", "/home/docker/.python_history"];

/// Owner of user docker's histories; the base image makes it the first user.
const DOCKER_ID: u32 = 1000;

/// Paths of one cluster.
#[derive(Debug, Clone)]
pub struct Files {
    dir: PathBuf,
}

/// A history on the host: the nodes share theirs.
pub fn history(root: &Path, host: &str, path: &str) -> PathBuf {
    root.join(super::role(host)).join(&path[1..])
}

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

    /// The directory with a host's notify socket.
    pub fn notify_dir(&self, host: &str) -> PathBuf {
        self.path("notify").join(host)
    }

    /// Which engine the cluster runs on, as `--docker-host` takes it.
    pub fn engine(&self) -> Option<String> {
        fs::read_to_string(self.path("engine")).ok()
    }

    /// Output of a host's first process.
    pub fn console(&self, host: &str) -> PathBuf {
        self.path("console").join(host)
    }

    /// Notes the engine, before anything of the cluster is made there.
    pub fn claim(&self, docker_host: &str) -> Result<()> {
        let path = self.path("engine");
        let doing = || format!("cannot write {}", path.display());
        fs::create_dir_all(&self.dir).doing(doing)?;
        fs::write(&path, docker_host).doing(doing)
    }

    /// Makes all but /home and the mounts.
    pub fn create(&self, request: &Request, hosts: &[String], hosts_file: &str, resolv_conf: &str) -> Result<()> {
        for dir in [self.dir.clone(), self.log_dir(), self.home(), self.path("console")]
            .into_iter()
            .chain(hosts.iter().map(|h| self.notify_dir(h)))
        {
            fs::create_dir_all(&dir).doing(|| format!("cannot create {}", dir.display()))?;
        }
        let nodes: String = (1..=request.nodes).map(|i| format!("node{i}\n")).collect();
        for (name, text) in [
            ("hosts", hosts_file),
            ("resolv.conf", resolv_conf),
            ("nodes", &nodes),
            ("cow_volumes", ""),
            ("system.conf", &system_conf(&request.envs)),
            ("profile.sh", &profile(&request.envs)),
            ("environment", &environment(&request.envs)),
            ("ssh_environment", &ssh_environment(&request.envs)),
            ("env.json", &serde_json::to_string(&request.envs).doing(|| "cannot store the variables".into())?),
        ] {
            let path = self.path(name);
            fs::write(&path, text).doing(|| format!("cannot write {}", path.display()))?;
        }
        for host in hosts {
            for path in HISTORIES {
                let file = history(&request.histories, host, path);
                crate::workdir::refuse_links(&request.histories, &file)?;
                touch(&file, path.starts_with("/home/"))?;
            }
        }
        Ok(())
    }

    /// Fills /home with what the frontend's image has there.
    pub fn fill_home(&self, image_root: &Path) -> Result<()> {
        let from = image_root.join("home/.");
        let status = Command::new("cp").arg("-a").arg(&from).arg(self.home()).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(status.to_string()),
            Err(e) => Err(e.to_string()),
        }
        .doing(|| format!("cannot copy {} to {}", from.display(), self.home().display()))
    }

    /// Removes everything.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).doing(|| format!("cannot remove {}", self.dir.display()))
            }
            _ => Ok(()),
        }
    }
}

fn touch(path: &Path, of_docker: bool) -> Result<()> {
    let doing = || format!("cannot create {}", path.display());
    // Docker made a directory of a file that was missing when it was mounted.
    if path.is_dir() {
        fs::remove_dir(path).doing(doing)?;
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).doing(doing)?;
    }
    fs::OpenOptions::new().append(true).create(true).open(path).doing(doing)?;
    if of_docker {
        std::os::unix::fs::chown(path, Some(DOCKER_ID), Some(DOCKER_ID)).doing(doing)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).doing(doing)
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

/// Shell quoting.
fn profile(envs: &[(String, String)]) -> String {
    envs.iter().map(|(k, v)| format!("export {k}='{}'\n", v.replace('\'', "'\\''"))).collect()
}

/// pam_env's form, for sessions that are no logins.
fn environment(envs: &[(String, String)]) -> String {
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
        assert_eq!(profile(&envs), "export A='it'\\''s \"50%\" = x'\n");
    }

    #[test]
    fn nodes_share_their_history() {
        let of = |host| history(Path::new("/t"), host, "/root/.bash_history");
        assert_eq!(of("node1"), of("node2"));
        assert_ne!(of("node1"), of("server"));
    }
}
