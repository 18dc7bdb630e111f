//! `oardocker start`: a cluster that accepts jobs.

use super::{Context, stop};
use crate::cli::values::{self, Given, Variable};
use crate::cli::{plan as shown, timeline};
use crate::cluster::facts::{self, Facts};
use crate::cluster::request::Request;
use crate::cluster::userns;
use crate::cluster::volume::{Mode, Volume};
use crate::cluster::{ROLES, plan, preflight};
use crate::engine::select::Backend;
use crate::error::{Doing as _, Error, Result};
use crate::host;
use crate::net;
use crate::rooted::Root;
use crate::workdir::Workdir;
use crate::workdir::manifest::{Service, Userns};
use clap::ValueHint;
use clap_complete::{ArgValueCandidates, ArgValueCompleter};
use serde::Serialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

/// Create and start the nodes
///
/// Starts the cluster and returns when OAR accepts jobs. A running cluster is stopped first.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  oardocker start -n 5
      a cluster of five nodes
  oardocker start -v $PWD:/data:cow connect
      with this folder, writes go to a copy
  oardocker start -n 5 --plan
      what that would make")]
pub struct Params {
    /// The cluster size.
    #[arg(short, long, value_name = "INTEGER", default_value = "3", value_parser = values::within::<u32>(0, 1000))]
    nodes: u32,
    /// Share a folder of the host with all nodes: HOST:CONTAINER[:ro|rw|cow]; several times.
    #[arg(short = 'v', long = "volume", value_name = "TEXT", value_parser = values::volume,
          add = ArgValueCompleter::new(values::volume_modes))]
    volumes: Vec<Given<Volume>>,
    /// Set an environment variable: KEY=VALUE; several times.
    #[arg(short, long = "env", value_name = "TEXT", value_parser = values::variable)]
    envs: Vec<Given<Variable>>,
    /// Allow the nodes to display X11 applications.
    #[arg(short = 'X', long)]
    enable_x11: bool,
    /// Added to the ports of the frontend that are published.
    // Port 80 is always published, and no port is larger than 65535.
    #[arg(long, value_name = "INTEGER", default_value = "40000", value_parser = values::within::<u16>(0, 65_535 - 80))]
    port_bindings_offset: u16,
    /// Publish ports on all addresses, not only 127.0.0.1.
    #[arg(short = 'g', long, alias = "port_bindings-to-any")]
    port_bindings_to_any: bool,
    /// Whether the root of the nodes is nobody on the host: auto (where engine and kernel can), off or require.
    #[arg(long, value_name = "TEXT", value_parser = values::userns, add = ArgValueCandidates::new(values::all_userns))]
    #[serde(skip_serializing_if = "Option::is_none")]
    userns: Option<Userns>,
    /// Leave OAR's own timing: schedulings are five seconds apart, and what a job waits for is what it waits for on a large cluster.
    #[arg(long)]
    #[serde(skip_serializing_if = "values::off")]
    stock_timing: bool,
    /// Return as soon as the nodes boot; they are Alive some seconds later.
    #[arg(long)]
    #[serde(skip_serializing_if = "values::off")]
    no_wait: bool,
    /// Write what took how long to a page for a browser; with --verbose the sums are printed too.
    #[arg(long, value_name = "FILE.html", value_hint = ValueHint::FilePath, value_parser = values::path)]
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<PathBuf>,
    /// Show what would be made, and make nothing.
    #[arg(long)]
    #[serde(skip_serializing_if = "values::off")]
    plan: bool,
    /// With --plan: everything, as JSON.
    #[arg(long)]
    #[serde(skip_serializing_if = "values::off")]
    json: bool,
}

/// Names and values.
type Variables = Vec<(String, String)>;

/// What the parser lets pass for the sake of old lines, and what cannot work.
pub(super) fn check(params: &Params) -> Result<()> {
    if params.nodes == 0 {
        return Err(Error::usage("a cluster needs one node at least").hint("oardocker start -n 1"));
    }
    if params.json && !params.plan {
        return Err(Error::usage("--json is how --plan shows a plan").hint("oardocker start --plan --json"));
    }
    if params.timeline.is_some() && params.no_wait {
        return Err(Error::usage("--timeline has to see the hosts boot, which --no-wait does not"));
    }
    if let Some(file) = &params.timeline
        && let Err(e) = place_of(file)
    {
        return Err(Error::usage(format!("--timeline: {e}")));
    }
    match params.envs.iter().find(|e| e.value.name.is_empty()) {
        Some(bad) => {
            Err(Error::usage(format!("-e {:?} has no name before the equals sign", bad.text))
                .hint("write -e KEY=VALUE"))
        }
        None => Ok(()),
    }
}

pub(super) async fn run(context: &mut Context, params: Params) -> Result<()> {
    if params.plan {
        return show(context, &params).await;
    }
    let workdir = context.locked_workdir().await?;
    let request = request(context, &workdir, &params).await?;
    let services = workdir.manifest.services()?;
    let ui = context.ui.clone();
    let (backend, machine) = (context.backend().await?, context.machine.clone());
    let cgroups = context.cgroups(backend.engine.as_ref())?;
    let changes = preflight::start(&backend, &workdir, &machine, &cgroups, &request).await?;
    changes.iter().for_each(|line| ui.note(line));
    context.still_wanted()?;
    stop::quietly(context, &workdir).await?;
    // What the cluster that ran had of it is free now, unless somebody was faster.
    net::check_free(&machine, &workdir.env_id, &[], &request.ports())?;
    let runner = context.runner(&workdir).await?;
    ui.progress("creating the containers");
    context.spans.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let outcome = runner.start(&request).await;
    ui.progress_end();
    let seen = see(context, &workdir, &params, outcome.is_ok()).await;
    outcome.and(seen)?;
    if !request.any && request.user.is_none() && ui.live() && !machine.is_rootless() {
        ui.note("other accounts of this host do not reach the cluster: start it with sudo, or open it with -g");
    }
    context.ui.data(&services_box(&services, params.port_bindings_offset, params.port_bindings_to_any));
    Ok(())
}

/// Shows what took how long, also of a start that failed.
async fn see(context: &Context, workdir: &Workdir, params: &Params, whole: bool) -> Result<()> {
    let mut spans = context.spans.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if context.global.verbose && !spans.is_empty() {
        context.ui.talk(&timeline::lines(&spans));
    }
    let Some((place, name)) = params.timeline.as_deref().map(place_of).transpose()? else { return Ok(()) };
    if let Some(Backend { engine, .. }) = context.backend.as_ref().filter(|_| whole) {
        let hosts = crate::cluster::names(params.nodes);
        spans.extend(crate::cluster::timeline::units(engine.as_ref(), &workdir.env_id, &hosts).await);
    }
    place.replace(Path::new(&name), timeline::page(&spans).as_bytes(), 0o644)
}

/// The directory of a file that is to be written for the user, and its name there.
fn place_of(file: &Path) -> Result<(Root, OsString)> {
    let parent = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().ok_or_else(|| Error::usage(format!("{} is no name of a file", file.display())))?;
    let doing = || format!("cannot write {}", file.display());
    let parent = std::fs::canonicalize(parent).doing(doing)?;
    let place = Root::beneath(&parent).doing(doing)?.given_to(host::invoking_user().unwrap_or(0));
    Ok((place, name.to_owned()))
}

/// Shows what would be made. Nothing is, and a cluster that runs goes on.
async fn show(context: &mut Context, params: &Params) -> Result<()> {
    let workdir = context.workdir()?;
    let request = request(context, &workdir, params).await?;
    let Backend { engine, images } = context.backend().await?;
    let cgroups = context.cgroups(engine.as_ref())?;
    preflight::bootable(images.as_ref(), &workdir, &cgroups).await?;
    let images = facts::images(images.as_ref(), &request).await?;
    let subnet = net::proposed(&workdir.env_id)?;
    let chosen = userns::choose(engine.as_ref(), &context.machine, &workdir.env_id, request.userns).await?;
    chosen.note.iter().for_each(|line| context.ui.note(line));
    let facts = Facts::collect(&request, &context.machine, &cgroups, images, subnet, chosen.ids)?;
    let plan = plan::plan(&request, &facts);
    context.ui.data(&if params.json { shown::json(&plan)? } else { shown::text(&plan) });
    Ok(())
}

/// What is asked for, checked.
async fn request(context: &mut Context, workdir: &Workdir, params: &Params) -> Result<Request> {
    let (volumes, envs) = wishes(params)?;
    // A wish that names no zone, such as a rule of its own, is for the programs that read TZ.
    let wished = envs.iter().find(|(k, _)| k == "TZ").map(|(_, v)| v.trim_start_matches(':').to_owned());
    let zone = wished.filter(|zone| host::is_zone(zone)).or_else(host::time_zone);
    let ports = workdir.manifest.ports()?;
    for port in &ports {
        if port.checked_add(params.port_bindings_offset).is_none() {
            return Err(Error::usage(format!(
                "port {port} of the frontend plus the offset {} is beyond 65535",
                params.port_bindings_offset
            ))
            .hint("choose a smaller --port-bindings-offset"));
        }
    }
    // The options that the keeper is given name it.
    context.engine().await?;
    Ok(Request {
        env_id: workdir.env_id.clone(),
        images: ROLES.map(|role| (role, workdir.engine_name(role, "latest"))).into(),
        nodes: params.nodes,
        volumes,
        envs,
        zone,
        published: ports,
        offset: params.port_bindings_offset,
        any: params.port_bindings_to_any,
        user: host::invoking_user(),
        userns: wished_userns(params)?.or(workdir.manifest.userns).unwrap_or_default(),
        stock_timing: params.stock_timing,
        wait: !params.no_wait,
        global: context.global_options()?,
        env_dir: Arc::new(workdir.env_dir().sub(Path::new("/"))?),
    })
}

/// What the line says, else the variable that is for every start of a user.
fn wished_userns(params: &Params) -> Result<Option<Userns>> {
    let of_variable = || std::env::var("OARDOCKER_USERNS").ok().filter(|text| !text.is_empty());
    match (params.userns, of_variable()) {
        (None, Some(text)) => Userns::parse(&text).map(Some).doing(|| "OARDOCKER_USERNS".into()),
        (given, _) => Ok(given),
    }
}

/// Shared folders and variables, with what X11 needs of both.
fn wishes(params: &Params) -> Result<(Vec<Volume>, Variables)> {
    let mut volumes = params.volumes.iter().map(|v| v.value.resolve()).collect::<Result<Vec<Volume>>>()?;
    let mut envs = Variables::new();
    for item in &params.envs {
        let Variable { name, value } = &item.value;
        envs.retain(|(k, _)| k != name);
        envs.push((name.clone(), value.clone()));
    }
    if params.enable_x11 {
        let display = std::env::var("DISPLAY").ok().filter(|d| !d.is_empty());
        let display = display.ok_or_else(|| Error::new("-X needs the variable DISPLAY, which is not set"))?;
        envs.push(("DISPLAY".into(), display));
        // Read-only, or a booting node would empty it: systemd-tmpfiles clears that directory. Sockets work all the same.
        volumes.push(
            Volume { host: "/tmp/.X11-unix".into(), container: "/tmp/.X11-unix".into(), mode: Mode::ReadOnly }
                .resolve()?,
        );
    }
    Ok((volumes, envs))
}

/// The box that tells where the services are.
fn services_box(services: &[Service], offset: u16, any: bool) -> String {
    let host = if any {
        nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |h| h.to_string_lossy().into_owned())
    } else {
        "localhost".to_owned()
    };
    let title = services.iter().map(|s| s.title.chars().count()).max().unwrap_or(0) + 2;
    let lines: Vec<String> = services
        .iter()
        .map(|s| format!("{:>title$}: {}{host}:{}{}", s.title, s.scheme, u32::from(s.port) + u32::from(offset), s.path))
        .collect();
    let width = lines.iter().map(|l| l.chars().count()).max().unwrap_or(0).max(30);
    let heading = format!("{:*^width$}", " Network Services ");
    format!("\n{heading}\n\n{}\n\n{}\n\n", lines.join("\n"), "*".repeat(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_box_lines_up() {
        let service = |title: &str, path: &str, port, scheme: &str| Service {
            title: title.into(),
            path: path.into(),
            port,
            scheme: scheme.into(),
        };
        let text = services_box(
            &[service("Monika", "/monika", 80, "http://"), service("Nc", " (tcp)", 5000, "TCP: ")],
            40000,
            false,
        );
        assert!(
            text.contains("  Monika: http://localhost:40080/monika\n      Nc: TCP: localhost:45000 (tcp)\n"),
            "{text}"
        );
    }
}
