//! What all parts of the adapter know of the API.

use bollard::errors::Error as ApiError;

/// Label of everything that we make in the engine.
pub(super) const MARK: &str = "oardocker";

/// Whether the engine answered with this HTTP status.
pub(super) fn is(error: &ApiError, status: u16) -> bool {
    matches!(error, ApiError::DockerResponseServerError { status_code, .. } if *status_code == status)
}
