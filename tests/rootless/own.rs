//! The same for a user who has no Podman: on a containerd of the user's own, that oardocker runs.

use crate::cluster::{journey, kills::kill_at_random, volumes};
use crate::session::sessions_on;
use crate::support::Engine;

#[test]
fn killed_at_random() {
    kill_at_random(Engine::Own);
}

#[test]
fn sessions() {
    sessions_on(Engine::Own);
}

#[test]
fn trixie() {
    journey(Engine::Own, "trixie");
}

#[test]
fn volumes_ro_rw_cow() {
    volumes(Engine::Own);
}
