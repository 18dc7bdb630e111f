//! Where oardocker keeps things on this machine, outside any workdir: one place for every path.

use std::path::PathBuf;

/// See [`super::Machine::runtime_dir`].
pub(super) fn runtime_dir(rootless: bool) -> PathBuf {
    let own = rootless.then(session_dir).flatten().map(|dir| dir.join("oardocker"));
    env_dir("OARDOCKER_RUNTIME_DIR", own, "/run/oardocker")
}

/// See [`super::Machine::data_dir`].
pub(super) fn data_dir(rootless: bool) -> PathBuf {
    env_dir("OARDOCKER_DATA_DIR", rootless.then(own_data_dir).flatten(), "/var/lib/oardocker")
}

/// Where the programs of this user's login session keep their sockets.
pub fn session_dir() -> Option<PathBuf> {
    variable("XDG_RUNTIME_DIR")
}

/// Where this user's Podman listens.
pub fn podman_socket() -> Option<PathBuf> {
    Some(session_dir()?.join("podman/podman.sock"))
}

/// The lasting files of this user without root.
pub fn own_data_dir() -> Option<PathBuf> {
    let shared = variable("XDG_DATA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share")));
    shared.map(|dir| dir.join("oardocker"))
}

/// A variable that names a path, unless it is empty.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// What a variable names, else the user's own place, else the system's. Programs that we run elsewhere are told of what is there.
fn env_dir(name: &str, own: Option<PathBuf>, default: &str) -> PathBuf {
    let dir = variable(name).or(own).unwrap_or_else(|| default.into());
    std::path::absolute(&dir).unwrap_or(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_place_is_the_same_wherever_it_is_told() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(env_dir("OARDOCKER_NO_SUCH_VARIABLE", Some("./below".into()), "/x"), here.join("below"));
        assert_eq!(env_dir("OARDOCKER_NO_SUCH_VARIABLE", None, "/x"), Path::new("/x"));
    }
}
