//! This machine, below everything else: where oardocker keeps things, and what it asks of the kernel for them.
//!
//! Knows no workdir, no engine and no cluster.

mod accounts;
mod files;
pub mod git;
mod ids;
mod locks;
mod machine;
mod mounts;
mod namespaces;
mod paths;
mod powers;
mod process;
mod subids;
mod units;
mod zone;

pub use accounts::{Accounts, User};
pub use files::{make_dir, private_dir, remove_dir, write_file};
pub use ids::{IDS, Ids, Reservation, hash, reserve as reserve_ids};
pub use locks::{Lock, is_locked, lock, lock_patiently, share, try_lock};
pub use machine::{Machine, Root, whose_root};
pub use mounts::{locked_options, overlay_features, restrict, unescape, unmount_below};
pub use namespaces::{
    Line, Map, MountCopy, UserNamespace, number_outside, pin_namespace, probe as probe_user_namespaces,
};
pub use paths::{own_data_dir, podman_socket, session_dir};
pub use powers::{Own, Owners, Plain, Powers};
pub use process::{invoking_group, invoking_user, primary_group, shed_descriptors};
pub use subids::{Range, free as free_subids, subordinate};
pub use units::{declare_holder, holder_of, in_scope, start_unit, stop_unit};
pub use zone::{is_zone, time_zone};
