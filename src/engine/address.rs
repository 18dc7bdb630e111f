//! The meaning of `--docker-host`.

use crate::error::{Error, Result};
use std::path::PathBuf;

/// A parsed `--docker-host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// CONTAINERD_ADDRESS, DOCKER_HOST, or the system's containerd if it answers, else a managed one; a Docker-compatible
    /// socket where there is no containerd program.
    Auto,
    /// A containerd of our own.
    Managed,
    /// This containerd.
    Containerd(PathBuf),
    /// This Docker-compatible socket.
    Docker(PathBuf),
}

/// Reads the value of `--docker-host`.
pub fn parse(text: &str) -> Result<Address> {
    if let Some(path) = text.strip_prefix("containerd://").filter(|p| !p.is_empty()) {
        return Ok(Address::Containerd(path.into()));
    }
    if let Some(path) = text.strip_prefix("unix://").filter(|p| !p.is_empty()) {
        return Ok(Address::Docker(path.into()));
    }
    match text {
        "auto" => Ok(Address::Auto),
        "managed" => Ok(Address::Managed),
        _ => Err(Error::usage(format!("--docker-host {text:?} is not understood"))
            .hint("use auto, managed, containerd:///run/containerd/containerd.sock or unix:///run/docker.sock")),
    }
}

/// The socket that a `DOCKER_HOST` means.
pub fn socket_of(docker_host: &str) -> Result<PathBuf> {
    docker_host.strip_prefix("unix://").filter(|path| !path.is_empty()).map(PathBuf::from).ok_or_else(|| {
        Error::new(format!("DOCKER_HOST is {docker_host:?}, and only an engine on this host can be used"))
            .hint("unset it, or choose another engine: --docker-host managed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_s_own_variable_means_a_socket_here_or_nothing() {
        assert_eq!(socket_of("unix:///run/x.sock").unwrap(), std::path::Path::new("/run/x.sock"));
        for elsewhere in ["tcp://192.0.2.1:2375", "ssh://host", "unix://", "/run/x.sock"] {
            let text = socket_of(elsewhere).unwrap_err().to_string();
            assert!(text.contains(elsewhere) && text.contains("only an engine on this host"), "{text}");
        }
    }

    #[test]
    fn docker_host_values() {
        assert_eq!(parse("auto").unwrap(), Address::Auto);
        assert_eq!(parse("managed").unwrap(), Address::Managed);
        assert_eq!(parse("containerd:///x").unwrap(), Address::Containerd("/x".into()));
        assert_eq!(parse("unix://var/run/docker.sock").unwrap(), Address::Docker("var/run/docker.sock".into()));
        for bad in ["", "tcp://1.2.3.4", "containerd://", "/run/x.sock"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
