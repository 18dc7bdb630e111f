//! The network of one cluster or build, for engines that leave it to us: a bridge, a network namespace per container,
//! addresses, NAT and published ports.
//!
//! Every name derives from the network's id, so whoever knows the id can remove everything, also after a crash:
//!
//! ```text
//! bridge oard-<id>             nft table ip oardocker_<id>             iptables rules with the comment oardocker_<id>
//! without root both of them in a namespace that is mounted at .hub below, with a pasta and a door
//! <runtime dir>/netns/<id>/<container>       the mounted namespaces
//!                         /<container>.user  the user namespace that owns it, where there is one
//! <runtime dir>/netns/lock                 held while a free subnet or port is chosen
//! ```

mod door;
mod firewall;
mod forward;
mod http;
mod hub;
mod links;
mod names;
mod pasta;
mod peer;
mod proxy;
mod relay;
mod slirp;
mod subnet;

pub use door::{VARIABLE as DOOR, keep as keep_door};
pub use firewall::{Access, Port};
pub use http::{Answer, download};
pub use links::{PROMPT_ACKS, has_prompt_acks, mtu};
pub use names::{Resolv, hosts, resolv_conf};
pub use proxy::proxies;
pub use subnet::{Subnet, require_room, use_pools};

use crate::error::{Doing as _, Error, Result};
use crate::host::{self, Ids, Machine, private_dir};
use hub::Hub;
use nix::mount::{MntFlags, umount2};
use std::collections::HashMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

/// Where a container's namespaces are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// Its network.
    pub network: PathBuf,
    /// Its users, who own that; none: the host's.
    pub user: Option<PathBuf>,
}

/// One network.
#[derive(Debug, Clone)]
pub struct Network {
    machine: Machine,
    id: String,
    /// The addresses of it.
    pub subnet: Subnet,
}

/// Bridge name of a network id; ids have at most 9 characters, interface names 15.
fn bridge(id: &str) -> String {
    format!("oard-{id}")
}

fn netns_dir(machine: &Machine, id: &str) -> PathBuf {
    machine.runtime_dir().join("netns").join(id)
}

/// Whoever could open what is below could keep its lock.
fn make_netns_dir(machine: &Machine, id: &str) -> Result<()> {
    private_dir(&machine.runtime_dir().join("netns"))?;
    private_dir(&netns_dir(machine, id))
}

impl Network {
    /// Creates the bridge on a free subnet and the NAT. What an earlier one of the same id left is removed first.
    pub async fn create(machine: &Machine, id: &str, access: &Access) -> Result<Self> {
        Self::remove(machine, id).await?;
        make_netns_dir(machine, id)?;
        let hub = Hub::of(machine, id);
        hub.make().await?;
        let lock = lock(machine).await?;
        let subnet = subnet::choose(id, &[])?;
        let created = links::create_bridge(&hub, &bridge(id), subnet.gateway(), subnet.prefix()).await;
        drop(lock);
        created?;
        let network = Self::open(machine, id, subnet);
        if let Err(e) = network.connect(&hub, access).await {
            let _ = Self::remove(machine, id).await;
            return Err(e);
        }
        Ok(network)
    }

    /// Lets the bridge's packets out, and in what is for it.
    async fn connect(&self, hub: &Hub, access: &Access) -> Result<()> {
        let (id, bridge) = (&self.id, bridge(&self.id));
        hub.within(|| {
            firewall::enable_forwarding(&bridge)?;
            firewall::apply(id, &bridge, self.subnet, access)
        })?;
        match hub.own() {
            None => forward::open(id, &bridge),
            Some(namespace) => {
                hub.within(firewall::drop_strays)?;
                pasta::attach(&self.machine, namespace).await
            }
        }
    }

    /// A network that exists already.
    pub fn open(machine: &Machine, id: &str, subnet: Subnet) -> Self {
        Self { machine: machine.clone(), id: id.into(), subnet }
    }

    /// Makes a namespace with one interface, at the address number `index`, in a user namespace of its own if there are ids for one.
    pub async fn attach(&self, name: &str, index: u32, ids: Option<Ids>) -> Result<Namespaces> {
        let address = self.subnet.host(index)?;
        let network = netns_dir(&self.machine, &self.id).join(name);
        let user = ids.map(|ids| (ids, self.user_namespace(name)));
        let veth = links::Veth {
            bridge: bridge(&self.id),
            // Unique on the host: the bridge's id and the container's number.
            host_end: format!("v{}.{index}", self.id),
            group: links::group(&self.id),
            address,
            prefix: self.subnet.prefix(),
            gateway: self.subnet.gateway(),
        };
        links::attach(
            &Hub::of(&self.machine, &self.id),
            &network,
            user.as_ref().map(|(ids, path)| (*ids, path.as_path())),
            veth,
        )
        .await
        .doing(|| format!("cannot connect {name} to the network"))?;
        Ok(Namespaces { network, user: user.map(|(_, path)| path) })
    }

    fn user_namespace(&self, name: &str) -> PathBuf {
        netns_dir(&self.machine, &self.id).join(format!("{name}.user"))
    }

    /// Removes one namespace and its interface.
    pub async fn detach(&self, name: &str, index: u32) -> Result<()> {
        links::remove(&Hub::of(&self.machine, &self.id), &format!("v{}.{index}", self.id)).await?;
        unmount(&self.user_namespace(name))?;
        unmount(&netns_dir(&self.machine, &self.id).join(name))
    }

    /// Publishes ports of the container number `index`, unless another network has come to publish one of them.
    pub async fn publish(&self, index: u32, ports: &[Port]) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        let address = self.subnet.host(index)?;
        if let Some(namespace) = Hub::of(&self.machine, &self.id).own() {
            return door::open(&self.machine, namespace, address, ports).await;
        }
        let _lock = lock(&self.machine).await?;
        let taken = firewall::published()?;
        if let Some((port, id)) =
            ports.iter().find_map(|p| Some((p.host, taken.get(&p.host).filter(|id| **id != self.id)?)))
        {
            return Err(Error::new(format!("port {port} is taken: the cluster {id} publishes it since a moment ago"))
                .hint("choose other ports with `start --port-bindings-offset 50000`"));
        }
        firewall::publish(&self.id, &bridge(&self.id), self.subnet, address, ports)
    }

    /// Removes everything that belongs to this id, whoever made it.
    pub async fn remove(machine: &Machine, id: &str) -> Result<()> {
        let mut errors = Vec::new();
        if !machine.is_rootless() {
            errors.extend(Self::remove_interfaces(id).await.err());
        }
        // All of a network that is in a namespace goes with that.
        if let Some(namespace) = Hub::of(machine, id).own() {
            errors.extend(pasta::end(namespace).err());
            errors.extend(unmount(namespace).err());
            errors.extend(door::await_end(namespace).await.err());
        }
        let dir = netns_dir(machine, id);
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            errors.extend(unmount(&entry.path()).err());
        }
        match fs::remove_dir(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                errors.push(Error::new(format!("cannot remove {}: {e}", dir.display())));
            }
            _ => {}
        }
        Error::all(errors)
    }

    /// Of the host, with the rules that are about them.
    async fn remove_interfaces(id: &str) -> Result<()> {
        let (mut errors, host) = (Vec::new(), Hub::host());
        errors.extend(forward::close(id).err());
        errors.extend(firewall::remove(id).err());
        errors.extend(links::remove_group(&bridge(id), links::group(id)).await.err());
        // Cables that a killed oardocker had not plugged in yet: the kernel takes them along with their namespaces, but later.
        let prefix = format!("v{id}.");
        for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&prefix) {
                errors.extend(links::remove(&host, &name).await.err());
            }
        }
        Error::all(errors)
    }

    /// Whether anything of this id is there.
    pub fn exists(machine: &Machine, id: &str) -> bool {
        netns_dir(machine, id).exists() || PathBuf::from("/sys/class/net").join(bridge(id)).exists()
    }
}

/// Namespaces that reach out through a program of the user, and not each other: what build steps have without root.
#[derive(Debug)]
pub struct Outlet {
    machine: Machine,
    id: String,
    programs: tokio::sync::Mutex<HashMap<String, tokio::process::Child>>,
}

impl Outlet {
    /// Nothing is made yet. [`Network::remove`] removes what a killed oardocker left.
    pub fn new(machine: &Machine, id: &str) -> Self {
        Self { machine: machine.clone(), id: id.into(), programs: tokio::sync::Mutex::default() }
    }

    /// Makes a namespace. Returns its path.
    pub async fn attach(&self, name: &str) -> Result<PathBuf> {
        make_netns_dir(&self.machine, &self.id)?;
        let path = netns_dir(&self.machine, &self.id).join(name);
        let program = slirp::attach(&path).await?;
        self.programs.lock().await.insert(name.into(), program);
        Ok(path)
    }

    /// Removes it.
    pub async fn detach(&self, name: &str) -> Result<()> {
        if let Some(mut program) = self.programs.lock().await.remove(name) {
            program.kill().await.doing(|| "cannot end slirp4netns".into())?;
        }
        unmount(&netns_dir(&self.machine, &self.id).join(name))
    }
}

/// What build steps of a namespace reach of the host's loopback: the caller's proxies. It lasts as long as the value.
#[derive(Debug)]
pub struct ProxyRelay(#[allow(dead_code, reason = "held, not used")] relay::Relay);

/// Has proxies that are on the host's loopback answer in a namespace, if there are any.
pub async fn relay_proxies(netns: &Path, proxies: &[(String, String)]) -> Result<Option<ProxyRelay>> {
    let ports = proxy::local_ports(proxies);
    if ports.is_empty() { Ok(None) } else { relay::Relay::open(netns, &ports).await.map(|r| Some(ProxyRelay(r))) }
}

/// A free subnet for a network that an engine makes, which must exist when the second value is dropped. `taken` are the
/// engine's other networks.
pub async fn reserve(machine: &Machine, id: &str, taken: &[String]) -> Result<(Subnet, Reservation)> {
    let lock = lock(machine).await?;
    Ok((subnet::choose(id, taken)?, Reservation { _lock: lock }))
}

/// The subnet that a network would get now.
pub fn proposed(id: &str) -> Result<Subnet> {
    subnet::choose(id, &[])
}

/// Says who on the host may reach a network that an engine makes; without root nobody can be kept from one's own.
pub fn restrict(machine: &Machine, id: &str, bridge: &str, access: &Access) -> Result<()> {
    if machine.is_rootless() { Ok(()) } else { firewall::restrict(id, bridge, access) }
}

/// Forgets that again, and removes what is left of the network when its engine knows nothing of it any more: the bridge of an
/// engine that was killed stays, and the next network of that name would get its addresses.
pub async fn forget(machine: &Machine, id: &str) -> Result<()> {
    if machine.is_rootless() {
        return Ok(());
    }
    let (mut errors, host) = (Vec::new(), Hub::host());
    errors.extend(firewall::remove(id).err());
    let ports = PathBuf::from("/sys/class/net").join(bridge(id)).join("brif");
    for port in fs::read_dir(ports).into_iter().flatten().flatten() {
        errors.extend(links::remove(&host, &port.file_name().to_string_lossy()).await.err());
    }
    errors.extend(links::remove(&host, &bridge(id)).await.err());
    Error::all(errors)
}

/// Keeps others from choosing a subnet.
#[derive(Debug)]
pub struct Reservation {
    _lock: host::Lock,
}

/// Held while something is chosen that no two networks may have.
async fn lock(machine: &Machine) -> Result<host::Lock> {
    let dir = machine.runtime_dir().join("netns");
    private_dir(&dir)?;
    let path = dir.join("lock");
    let file = File::create(&path).doing(|| format!("cannot create {}", path.display()))?;
    host::lock_patiently(file).await.doing(|| format!("cannot lock {}", path.display()))
}

fn unmount(path: &std::path::Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(e) => return Err(e).doing(|| format!("cannot unmount {}", path.display())),
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).doing(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// What TLS is spoken with from now on, for who is about to ask a server.
pub fn use_tls() {
    // There is one already: that is the only way to fail.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Checks that nothing on the host uses these ports: neither a program, nor another cluster's forwarding. The cluster `id`
/// itself has `own` ones, which it will give up.
pub fn check_free(machine: &Machine, id: &str, own: &[u16], ports: &[Port]) -> Result<()> {
    // Without root nobody else's rules can be read.
    let mut forwarded = if machine.is_rootless() { HashMap::new() } else { firewall::published()? };
    forwarded.retain(|_, publisher| publisher != id);
    for port in ports.iter().filter(|p| !own.contains(&p.host)) {
        let ip = if port.any { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
        let taken = if let Some(id) = forwarded.get(&port.host) {
            Some(format!("the cluster {id} publishes it"))
        } else {
            TcpListener::bind((ip, port.host)).err().map(|e| match e.kind() {
                std::io::ErrorKind::PermissionDenied => "ports below 1024 are root's".into(),
                _ => e.to_string(),
            })
        };
        if let Some(why) = taken {
            return Err(Error::new(format!(
                "port {} of {ip}, for port {} of the frontend, is taken: {why}",
                port.host, port.container
            ))
            .hint("choose other ports with `start --port-bindings-offset 50000`"));
        }
    }
    Ok(())
}
