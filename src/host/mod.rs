//! This machine, below everything else: where oardocker keeps things, and what it asks of the kernel for them.
//!
//! Knows no workdir, no engine and no cluster.

mod accounts;
mod files;
mod locks;
mod machine;
mod mounts;
mod paths;
mod powers;
mod process;
mod zone;

pub use accounts::{Accounts, User};
pub use files::{make_dir, private_dir, remove_dir, write_file};
pub use locks::{Lock, is_locked, lock, lock_patiently, share, try_lock};
pub use machine::{Machine, starts_inside};
pub use mounts::{overlay_features, restrict, unescape, unmount_below};
pub use paths::{own_data_dir, podman_socket, session_dir};
pub use powers::{Own, Powers};
pub use process::{invoking_user, shed_descriptors};
pub use zone::{is_zone, time_zone};
