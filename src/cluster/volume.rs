//! `-v HOST[:CONTAINER[:MODE]]`. Pure.

use crate::error::{Error, Result};

/// How a shared folder may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Read only.
    ReadOnly,
    /// Writes reach the host.
    ReadWrite,
    /// Writes go to a copy of each node's own.
    CopyOnWrite,
}

/// One shared folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// On the host.
    pub host: String,
    /// In the nodes.
    pub container: String,
    /// How.
    pub mode: Mode,
}

/// Reads the value of `-v`.
pub fn parse(text: &str) -> Result<Volume> {
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, mode) = match parts.as_slice() {
        [path] => (*path, *path, "rw"),
        [host, container] => (*host, *container, "rw"),
        [host, container, mode] => (*host, *container, *mode),
        _ => return Err(Error::usage(format!("volume {text:?} has more than three parts; write HOST:CONTAINER:MODE"))),
    };
    let mode = match mode {
        "ro" => Mode::ReadOnly,
        "rw" => Mode::ReadWrite,
        "cow" => Mode::CopyOnWrite,
        other => return Err(Error::usage(format!("volume {text:?} has the mode {other:?}; it is ro, rw or cow"))),
    };
    if host.trim().is_empty() || container.trim().is_empty() {
        return Err(Error::usage(format!("volume {text:?} lacks a path; write HOST:CONTAINER:MODE")));
    }
    Ok(Volume { host: host.into(), container: container.into(), mode })
}

impl Volume {
    /// Checks what can only be known where it is used: the host's path, and that the target may be covered.
    pub fn resolve(&self) -> Result<Self> {
        let host = std::fs::canonicalize(&self.host)
            .map_err(|e| Error::new(format!("cannot share {}: {e}", self.host)))?
            .to_string_lossy()
            .into_owned();
        let container = if self.container == self.host { host.clone() } else { self.container.clone() };
        let refuse = |why: &str| Err(Error::new(format!("cannot share {} at {container}: {why}", self.host)));
        if !container.starts_with('/') {
            return refuse("the path in the nodes must begin with a slash");
        }
        if container.split('/').any(|p| p == "..") {
            return refuse("the path in the nodes must not contain `..`");
        }
        let clean: String =
            container.split('/').filter(|p| !p.is_empty() && *p != ".").map(|p| format!("/{p}")).collect();
        let covered = ["", "/proc", "/sys", "/dev", "/run", "/etc", "/usr", "/bin", "/sbin", "/lib", "/var", "/home"];
        if covered.contains(&clean.as_str()) {
            return refuse("the nodes need what is there");
        }
        if self.mode == Mode::CopyOnWrite && !std::path::Path::new(&host).is_dir() {
            return refuse("mode cow needs a directory");
        }
        Ok(Self { host, container: clean, mode: self.mode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(parse("/a").unwrap(), Volume { host: "/a".into(), container: "/a".into(), mode: Mode::ReadWrite });
        assert_eq!(parse("/a:/b:cow").unwrap().mode, Mode::CopyOnWrite);
        for bad in ["", " ", ":", "/a:", ":/b", "/a:/b:rx", "/a:/b:ro:x"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_nodes_need_is_not_covered() {
        for bad in ["/tmp:/", "/tmp://", "/tmp:/etc/", "/tmp:x", "/tmp:/a/../etc", "/nonexistent:/a"] {
            assert!(parse(bad).unwrap().resolve().is_err(), "{bad}");
        }
        assert_eq!(parse("/tmp:/a//b/").unwrap().resolve().unwrap().container, "/a/b");
    }
}
