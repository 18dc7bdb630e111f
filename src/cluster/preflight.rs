//! What is refused before anything is made or taken away: one place for `build`, `install` and `start`, so that a cluster that
//! runs is not lost over a mistake.

use super::contents::shared;
use super::files::Files;
use super::request::Request;
use super::{ROLES, images, limits, place, require_its_engine, userns, v1_only};
use crate::cgroup::Cgroups;
use crate::engine::select::Backend;
use crate::engine::{Engine, Images};
use crate::error::Result;
use crate::host::Machine;
use crate::net;
use crate::workdir::Workdir;
use std::path::PathBuf;

/// Whether images can be built here. Returns what the user should know before.
pub fn build(engine: &dyn Engine, workdir: &Workdir, files: &Files) -> Result<Vec<String>> {
    require_its_engine(engine, files)?;
    workdir.roles()?;
    let told = |folder: PathBuf| format!("{} has no Dockerfile: nothing is built of it", folder.display());
    Ok(workdir.unbuilt()?.into_iter().map(told).chain(net::resolv_conf()?.warning).collect())
}

/// Whether something can be installed on the images. Returns what the user should know before.
pub async fn install(engine: &dyn Engine, store: &dyn Images, workdir: &Workdir, files: &Files) -> Result<Vec<String>> {
    require_its_engine(engine, files)?;
    images::installer(workdir)?;
    let roles: Vec<&str> = workdir.manifest.install_on.iter().map(String::as_str).collect();
    images::require(store, workdir, &roles, "base").await?;
    Ok(net::resolv_conf()?.warning.into_iter().collect())
}

/// Whether images are there that this host can boot. Changes nothing that stays.
pub async fn bootable(store: &dyn Images, workdir: &Workdir, cgroups: &Cgroups) -> Result<()> {
    images::require(store, workdir, &ROLES, "latest").await?;
    cgroups.require_delegation()?;
    let booting = ROLES.map(|role| (workdir.image_name(role, "latest"), workdir.engine_name(role, "latest")));
    v1_only::check(store, cgroups, &booting).await
}

/// Whether the cluster that is asked for can be had, but for what the one that runs will give up. Returns what had to be changed on
/// the host, and what else the user should know.
pub async fn start(
    backend: &Backend,
    workdir: &Workdir,
    machine: &Machine,
    cgroups: &Cgroups,
    request: &Request,
) -> Result<Vec<String>> {
    let files = Files::new(machine, &workdir.env_id);
    require_its_engine(backend.engine.as_ref(), &files)?;
    bootable(backend.images.as_ref(), workdir, cgroups).await?;
    let warning = net::resolv_conf()?.warning;
    let chosen = userns::choose(backend.engine.as_ref(), machine, &workdir.env_id, request.userns).await?;
    for shared in shared(&files, &request.volumes, chosen.ids) {
        let opened = place::open(&request.env_dir, &shared)?;
        place::try_giving(&shared, &opened)?;
    }
    net::check_free(machine, &workdir.env_id, &files.ports(), &request.ports())?;
    let hosts = u32::try_from(super::names(request.nodes).len()).unwrap_or(u32::MAX);
    net::require_room(hosts)?;
    limits::open_files(hosts)?;
    let changes = limits::provide(hosts, &limits::Kernel { writable: !machine.is_rootless() })?;
    Ok(warning.into_iter().chain(chosen.note).chain(changes).collect())
}
