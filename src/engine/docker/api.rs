//! What all parts of the adapter know: of the API, and of a node in both of its dialects.

use crate::engine::{Mount, NODE_CAPABILITIES, oci};
use crate::net::Port;
use bollard::errors::Error as ApiError;

/// Label of everything that we make in the engine.
pub(super) const MARK: &str = "oardocker";

/// Where the gate finds the console.
pub(super) const CONSOLE: &str = "/dev/oardocker-console";

/// Whether the engine answered with this HTTP status.
pub(super) fn is(error: &ApiError, status: u16) -> bool {
    matches!(error, ApiError::DockerResponseServerError { status_code, .. } if *status_code == status)
}

/// Exactly those that containerd gives: the engines' own defaults differ.
pub(super) fn capabilities() -> Vec<String> {
    oci::CAPABILITIES.into_iter().chain(NODE_CAPABILITIES).map(str::to_owned).collect()
}

pub(super) fn is_read_only(mount: &Mount) -> bool {
    mount.options.iter().any(|o| o == "ro")
}

/// The address of the host that a port is published on.
pub(super) fn host_ip(port: &Port) -> &'static str {
    if port.any { "0.0.0.0" } else { "127.0.0.1" }
}
