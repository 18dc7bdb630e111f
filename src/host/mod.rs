//! This machine, below everything else: where oardocker keeps things, and what it asks of the kernel for them.
//!
//! Knows no workdir, no engine and no cluster.

mod files;
mod mounts;
mod paths;
mod process;
mod zone;

pub use files::{make_dir, private_dir, remove_dir, write_file};
pub use mounts::{disarm, overlay_features, restrict, unescape, unmount_below};
pub use paths::{data_dir, managed_socket, own_data_dir, runtime_dir, session_dir};
pub use process::{inherited, invoking_user, is_rootless, set_rootless, shed_descriptors, starts_inside};
pub use zone::{is_zone, time_zone};
