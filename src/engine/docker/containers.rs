//! Containers: from our spec to the engine's, and their life.

use super::api::{CONSOLE, MARK, capabilities, host_ip, is, is_read_only};
use super::raw::Container;
use super::{Docker, libpod, networks};
use crate::cgroup::View;
use crate::engine::io::Session;
use crate::engine::{
    ContainerInfo, Content, Engine, EngineInfo, IdsOrWhy, Image, Mount, NodeSpec, ProcessSpec, Seed, State, family,
    oci, seccomp,
};
use crate::error::{Doing as _, Error, Result};
use crate::net::{Access, Subnet};
use async_trait::async_trait;
use bollard::errors::Error as ApiError;
use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig, Mount as ApiMount, MountType, NetworkingConfig, PortBinding,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    WaitContainerOptions, WaitContainerOptionsBuilder,
};
use futures::StreamExt as _;
use std::collections::HashMap;
use std::os::unix::fs::fchown;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// What runs before a container's own first program.
const GATE: &str = include_str!("gate.sh");

/// How long a killed container may take to end.
const DYING: Duration = Duration::from_secs(10);

/// The mount options of a v1 controller's hierarchy, such as `cpu,cpuacct` for cpu.
fn hierarchy(controller: &str, proc_cgroup: &str) -> String {
    let lists = proc_cgroup.lines().filter_map(|l| l.split(':').nth(1));
    lists.into_iter().find(|list| list.split(',').any(|c| c == controller)).unwrap_or(controller).to_owned()
}

fn gate(view: &View, seeds: &[Seed], proc_cgroup: &str) -> Vec<String> {
    let line = |c: &crate::cgroup::Controller| format!("{} {}\n", c.target, hierarchy(&c.name, proc_cgroup));
    let controllers: String = view.controllers.iter().map(line).collect();
    let shell = ["/bin/sh", "-c", GATE, "gate"];
    let seeds = seeds.iter().flat_map(|seed| match &seed.content {
        Content::Text(text) => ["text", seed.path, text],
        Content::Link(target) => ["link", seed.path, target],
    });
    shell.into_iter().chain([view.kind, &controllers, CONSOLE]).chain(seeds).chain(["run"]).map(Into::into).collect()
}

/// No limit of processes, where Podman has one: -1. A host whose v2 lacks the controller can only be told 0, which newer runtimes
/// take as a number where they can.
fn unlimited() -> i64 {
    match std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
        Ok(there) if there.split_whitespace().all(|controller| controller != "pids") => 0,
        _ => -1,
    }
}

fn bind(source: &str, target: &str, read_only: bool) -> ApiMount {
    ApiMount {
        target: Some(target.into()),
        source: Some(source.into()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        // Recursive and private is what the engine does when nothing is said.
        ..ApiMount::default()
    }
}

impl Docker {
    /// Whether containers can be put below a cgroup of ours by its path: not where systemd is the one that makes cgroups.
    pub(super) async fn takes_cgroup_paths(&self) -> Result<bool> {
        if self.machine.is_rootless() {
            return Ok(false);
        }
        let ask = async || {
            let about =
                self.api.info().await.doing(|| format!("cannot ask {} for its cgroup driver", self.info.name))?;
            Ok(about.cgroup_driver.is_some_and(|d| d.to_string() == "cgroupfs"))
        };
        self.cgroupfs.get_or_try_init(ask).await.copied()
    }

    fn host_config(spec: &NodeSpec, below_ours: bool) -> HostConfig {
        let (tmpfs, binds): (Vec<&Mount>, Vec<&Mount>) = spec.mounts.iter().partition(|m| m.kind == "tmpfs");
        // The engine forbids programs there unless told otherwise.
        let tmpfs = tmpfs.into_iter().map(|m| (m.target.clone(), m.options.join(",") + ",exec"));
        let mut mounts = vec![bind(&spec.console.to_string_lossy(), CONSOLE, false)];
        mounts.extend(binds.into_iter().map(|m| bind(&m.source, &m.target, is_read_only(m))));
        let ports = spec.plug.ports.iter().map(|p| {
            let binding = PortBinding { host_ip: Some(host_ip(p).into()), host_port: Some(p.host.to_string()) };
            (format!("{}/tcp", p.container), Some(vec![binding]))
        });
        let seccomp = format!("seccomp={}", seccomp::of(spec.ids));
        HostConfig {
            mounts: Some(mounts),
            tmpfs: Some(tmpfs.collect()),
            cgroup_parent: spec.cgroup.clone().filter(|_| below_ours),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            cap_drop: Some(vec!["ALL".into()]),
            cap_add: Some(capabilities()),
            device_cgroup_rules: Some(oci::DEVICES.iter().map(|(a, b)| format!("c {a}:{b} rwm")).collect()),
            pids_limit: Some(unlimited()),
            security_opt: Some(vec![seccomp, "apparmor=unconfined".into(), "label=disable".into()]),
            network_mode: Some(networks::name(&spec.plug.network)),
            sysctls: Some(spec.sysctls.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()),
            port_bindings: Some(ports.collect()),
            log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
            ..HostConfig::default()
        }
    }

    async fn signal(&self, id: &str, signal: i32) -> Result<()> {
        let options = KillContainerOptionsBuilder::default().signal(&signal.to_string()).build();
        match self.api.kill_container(id, Some(options)).await {
            // It does not run, or is gone: what was wanted.
            Err(e) if !(is(&e, 409) || is(&e, 404) || is(&e, 500) && !self.runs(id).await) => {
                Err(e).doing(|| format!("cannot send signal {signal} to container {id}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether its first process runs, as far as the engine says.
    async fn runs(&self, id: &str) -> bool {
        self.inspect(id).await.is_ok_and(|found| found.is_some_and(|c| c.state.running))
    }

    /// Whether the engine knows nothing of it.
    async fn is_gone(&self, id: &str) -> bool {
        self.inspect(id).await.is_ok_and(|found| found.is_none())
    }

    /// Waits until a container is gone that the engine removes already.
    async fn wait_removed(&self, id: &str) -> Result<()> {
        let options = WaitContainerOptionsBuilder::default().condition("removed").build();
        let mut removed = self.patient.wait_container(id, Some(options));
        match tokio::time::timeout(DYING, removed.next()).await {
            // What it says is about the end of the process, or that there is no such container.
            Ok(_) if self.is_gone(id).await => Ok(()),
            _ => Err(Error::new(format!("it is still there after {} s", DYING.as_secs()))),
        }
    }
}

#[async_trait]
impl Engine for Docker {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    async fn load_image(&self, name: &str, image: &Image) -> Result<()> {
        self.ensure_loaded(name, image).await
    }

    async fn unload_image(&self, name: &str) -> Result<()> {
        self.unload(name).await
    }

    async fn create_network(&self, id: &str, access: &Access) -> Result<Subnet> {
        self.make_network(id, access).await
    }

    async fn remove_network(&self, id: &str) -> Result<()> {
        self.drop_network(id).await
    }

    async fn reserve_ids(&self, _: &str) -> Result<IdsOrWhy> {
        self.their_ids().await
    }

    async fn require_host_ids(&self) -> Result<()> {
        self.refuse_if_remapped().await
    }

    async fn create(&self, spec: &NodeSpec) -> Result<()> {
        let doing = || format!("cannot create container {}", spec.id);
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&spec.console);
        let file = file.doing(|| format!("cannot create {}", spec.console.display()))?;
        if let Some(ids) = spec.ids {
            fchown(&file, Some(ids.first), Some(ids.first))
                .doing(|| format!("cannot give {} away", spec.console.display()))?;
        }
        let hierarchies =
            std::fs::read_to_string("/proc/self/cgroup").doing(|| "cannot read /proc/self/cgroup".into())?;
        // The variables are those of the first process alone: sessions would inherit what the engine knows.
        let clean = ["/usr/bin/env".to_owned(), "-i".into()].into_iter().chain(spec.process.env.iter().cloned());
        let command: Vec<String> = clean.chain(spec.process.args.iter().cloned()).collect();
        let gate = gate(&spec.cgroup_view, &spec.seeds, &hierarchies);
        let below_ours = self.takes_cgroup_paths().await?;
        if self.podman {
            let wanted = libpod::container(&self.machine, spec, &gate, &command, below_ours, unlimited());
            return self.create_libpod(&wanted.doing(doing)?).await.doing(doing);
        }
        let endpoint = EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: Some(spec.plug.subnet.host(spec.plug.index)?.to_string()),
                ..EndpointIpamConfig::default()
            }),
            ..EndpointSettings::default()
        };
        let mut labels: HashMap<String, String> = spec.all_labels().into_iter().collect();
        labels.insert(MARK.into(), "true".into());
        let body = ContainerCreateBody {
            hostname: Some(spec.hostname.clone()),
            image: Some(spec.image.name.clone()),
            user: Some("0:0".into()),
            working_dir: Some("/".into()),
            entrypoint: Some(gate),
            cmd: Some(command),
            labels: Some(labels),
            exposed_ports: Some(spec.plug.ports.iter().map(|p| format!("{}/tcp", p.container)).collect()),
            host_config: Some(Self::host_config(spec, below_ours)),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(networks::name(&spec.plug.network), endpoint)])),
            }),
            ..ContainerCreateBody::default()
        };
        let named = CreateContainerOptionsBuilder::default().name(&spec.id).build();
        self.api.create_container(Some(named), body).await.map(drop).doing(doing)
    }

    async fn cgroup(&self, id: &str) -> Result<Option<String>> {
        if !self.takes_cgroup_paths().await? {
            return Ok(None);
        }
        let found = self.inspect(id).await?.ok_or_else(|| Error::new(format!("container {id} is gone")))?;
        Ok(Some(found.id))
    }

    async fn start(&self, id: &str) -> Result<()> {
        let started = self.api.start_container(id, None::<StartContainerOptions>).await;
        // Podman does not say which file netavark has not found; Debian's package does not depend on it.
        let no_iptables = matches!(&started, Err(e) if { let e = e.to_string(); e.contains("netavark") && e.contains("No such file") });
        let started = started.doing(|| format!("cannot start container {id}"));
        if no_iptables { started.map_err(|e| e.hint("netavark needs iptables: apt install iptables")) } else { started }
    }

    async fn wait(&self, id: &str) -> Result<u32> {
        let doing = || format!("cannot wait for container {id}");
        // The kernel is waited for first: an engine goes on waiting for a client that is gone.
        if let Some(container) = self.inspect(id).await?.filter(|c| c.state.running) {
            family::ended(u32::try_from(container.state.pid).unwrap_or(0)).await.doing(doing)?;
        }
        let code = match self.patient.wait_container(id, None::<WaitContainerOptions>).next().await {
            Some(Ok(answer)) => answer.status_code,
            Some(Err(ApiError::DockerContainerWaitError { code, .. })) => code,
            Some(Err(e)) => return Err(e).doing(doing),
            None => return Err(Error::new("the engine hung up")).doing(doing),
        };
        Ok(u32::try_from(code).unwrap_or(1))
    }

    async fn end_task(&self, id: &str, grace: Option<(i32, Duration)>) -> Result<()> {
        if !self.runs(id).await {
            return Ok(());
        }
        let ended = self.wait(id);
        tokio::pin!(ended);
        if let Some((polite, patience)) = grace {
            self.signal(id, polite).await?;
            if tokio::time::timeout(patience, &mut ended).await.is_ok() {
                return Ok(());
            }
        }
        self.signal(id, nix::libc::SIGKILL).await?;
        match tokio::time::timeout(DYING, ended).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(format!("container {id} does not end"))),
        }
    }

    async fn remove(&self, id: &str) -> Result<()> {
        // Podman would ask it to stop, and wait, before it removes it.
        if self.podman {
            self.end_task(id, None).await?;
        }
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.api.remove_container(id, Some(options)).await {
            // Without aardvark-dns, which Debian only suggests, Podman removes it, and then says that it could not take its
            // name out of the DNS that it never gave it.
            Err(_) if self.podman && self.is_gone(id).await => Ok(()),
            // Somebody else is at it, such as a command that was killed a moment ago.
            Err(e) if is(&e, 409) => self.wait_removed(id).await.doing(|| format!("cannot remove container {id}: {e}")),
            Err(e) if !is(&e, 404) => Err(e).doing(|| format!("cannot remove container {id}")),
            _ => Ok(()),
        }
    }

    async fn containers(&self) -> Result<Vec<ContainerInfo>> {
        let ids = self.ids(MARK).await?;
        let found = futures::future::join_all(ids.iter().map(|id| self.inspect(id))).await;
        // One may have been removed since it was listed.
        found.into_iter().filter_map(|container| container.map(|c| c.map(info)).transpose()).collect()
    }

    async fn restart(&self, id: &str, _: &Path) -> Result<()> {
        // The console is one of the mounts that the container was created with.
        self.start(id).await
    }

    async fn exec(&self, id: &str, process: &ProcessSpec, session: Session) -> Result<u32> {
        self.run_session(id, process, session).await
    }

    fn orphans(&self) -> Result<Vec<u32>> {
        self.abandoned_requests()
    }

    async fn settled(&self, old: &[u32]) -> Result<bool> {
        self.settle(old).await
    }

    async fn retire(&self) -> Result<()> {
        // The engine is not ours to end.
        Ok(())
    }
}

fn info(container: Container) -> ContainerInfo {
    let Container { name, created, state, config, .. } = container;
    ContainerInfo {
        id: name.trim_start_matches('/').to_owned(),
        labels: config.labels.unwrap_or_default(),
        image: config.image,
        created: humantime::parse_rfc3339_weak(&created[..19.min(created.len())]).unwrap_or(UNIX_EPOCH),
        pid: u32::try_from(state.pid).unwrap_or(0),
        state: match state.said.as_str() {
            _ if state.running => State::Running,
            "created" | "initialized" | "configured" => State::Created,
            _ => State::Exited(u32::try_from(state.exit_code).unwrap_or(1)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_with_several_controllers_are_named_whole() {
        let text = "5:freezer:/\n4:cpu,cpuacct:/x\n1:name=systemd:/\n0::/\n";
        assert_eq!(hierarchy("cpuacct", text), "cpu,cpuacct");
        assert_eq!(hierarchy("freezer", text), "freezer");
    }
}
