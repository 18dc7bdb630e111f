//! Interfaces and namespaces over netlink.

use super::hub::Hub;
use crate::error::{Doing as _, Error, Result};
use crate::host::{self, Ids, Map, UserNamespace};
use futures::TryStreamExt as _;
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::path::Path;

/// One container's interface.
#[derive(Debug)]
pub(super) struct Veth {
    pub(super) bridge: String,
    pub(super) host_end: String,
    pub(super) group: u32,
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) gateway: Ipv4Addr,
}

/// A link group per network: the kernel deletes all of a group in one go, where one by one each would wait for a grace
/// period.
pub(super) fn group(id: &str) -> u32 {
    host::hash(id) | 0x4000_0000
}

/// A netlink handle of a namespace; the connection ends with the runtime it was made in.
fn handle_in(hub: &Hub) -> Result<Handle> {
    let runtime = tokio::runtime::Handle::current();
    let (connection, handle) = hub.within(|| {
        let _runtime = runtime.enter();
        // The socket belongs to where it is made, whoever uses it later.
        let (connection, handle, _) = new_connection().doing(|| "cannot open a netlink socket".into())?;
        Ok((connection, handle))
    })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// One of the namespace that the calling thread is in.
fn handle() -> Result<Handle> {
    let (connection, handle, _) = new_connection().doing(|| "cannot open a netlink socket".into())?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn look_up(handle: &Handle, name: &str) -> Result<Option<LinkMessage>> {
    let found = handle.link().get().match_name(name).execute().try_next().await;
    match found {
        Ok(link) => Ok(link),
        Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -nix::libc::ENODEV => Ok(None),
        Err(e) => Err(e).doing(|| format!("cannot look up interface {name}")),
    }
}

async fn index(handle: &Handle, name: &str) -> Result<Option<u32>> {
    Ok(look_up(handle, name).await?.map(|link| link.header.index))
}

/// A new namespace has nothing, and that one down.
pub(super) async fn raise_loopback(hub: &Hub) -> Result<()> {
    let doing = || "cannot set up a loopback interface".to_owned();
    handle_in(hub)?.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await.doing(doing)
}

pub(super) async fn create_bridge(hub: &Hub, name: &str, address: Ipv4Addr, prefix: u8) -> Result<()> {
    let doing = || format!("cannot create bridge {name}");
    let handle = handle_in(hub)?;
    handle.link().add(LinkBridge::new(name).mtu(mtu()).build()).execute().await.doing(doing)?;
    // The host has no address there but the one that is given: rules are about that.
    hub.within(|| {
        let ipv6 = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        if !Path::new(&ipv6).exists() {
            return Ok(());
        }
        std::fs::write(&ipv6, "1").doing(|| format!("cannot set {ipv6} to 1"))
    })?;
    handle.link().set(LinkUnspec::new_with_name(name).up().build()).execute().await.doing(doing)?;
    let index = index(&handle, name).await?.ok_or_else(|| Error::new("it vanished")).doing(doing)?;
    handle.address().add(index, IpAddr::V4(address), prefix).execute().await.doing(doing)
}

/// The MTU of the way out: a bridge that is wider loses large packets on hosts whose uplink is a tunnel.
pub fn mtu() -> u32 {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    table
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .find(|f| f.get(1) == Some(&"00000000"))
        .and_then(|f| std::fs::read_to_string(format!("/sys/class/net/{}/mtu", f[0])).ok())
        .and_then(|m| m.trim().parse().ok())
        .unwrap_or(1500)
}

/// The setting of a network namespace that says after how many exchanges of question and answer a connection's acknowledgements may be
/// delayed. Linux has it since 6.3.
pub const PROMPT_ACKS: &str = "net.ipv4.tcp_pingpong_thresh";

/// Whether this kernel has it.
pub fn has_prompt_acks() -> bool {
    Path::new("/proc/sys").join(PROMPT_ACKS.replace('.', "/")).exists()
}

/// Makes a namespace with one interface, in a user namespace that is made at a path of its own if there are ids for it.
pub(super) async fn attach(hub: &Hub, path: &Path, user: Option<(Ids, &Path)>, veth: Veth) -> Result<()> {
    let host = handle_in(hub)?;
    let bridge =
        look_up(&host, &veth.bridge).await?.ok_or_else(|| Error::new(format!("bridge {} is gone", veth.bridge)))?;
    let (mtu, bridge) = (mtu_of(&bridge), bridge.header.index);
    let (path, name, hub) = (path.to_owned(), veth.host_end.clone(), hub.clone());
    let user = user.map(|(ids, place)| (ids, place.to_owned()));
    let group = veth.group;
    on_a_thread(move || {
        make_namespace(&hub, &path, user.as_ref().map(|(ids, place)| (*ids, place.as_path())), &veth, mtu)
    })
    .await?;
    let index = index(&host, &name).await?.ok_or_else(|| Error::new(format!("interface {name} vanished")))?;
    let mut link: LinkMessage = LinkUnspec::new_with_index(index).controller(bridge).up().build();
    link.attributes.push(LinkAttribute::Group(group));
    host.link().set(link).execute().await.doing(|| format!("cannot plug {name} into its bridge"))
}

/// Enters a new namespace with the calling thread, and mounts it at a path.
fn enter_new(path: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).doing(|| "cannot create a network namespace".into())?;
    host::pin_namespace("/proc/thread-self/ns/net", path)
}

/// Makes a namespace with nothing in it.
pub(super) async fn pin_new_namespace(path: &Path) -> Result<()> {
    let path = path.to_owned();
    on_a_thread(move || enter_new(&path)).await
}

/// A namespace is entered by thread, so on one of its own.
async fn on_a_thread(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let (done, made) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = done.send(work());
    });
    made.await.map_err(|_| Error::new("the thread that makes a network namespace ended early"))?
}

/// The same in a user namespace, which is mounted as well.
fn enter_new_of(ids: Ids, user: &Path, path: &Path) -> Result<()> {
    UserNamespace::new(&Map::of(ids)?)?.pin_with_network(user, path)?;
    let doing = || format!("cannot enter {}", path.display());
    setns(File::open(path).doing(doing)?, CloneFlags::CLONE_NEWNET).doing(doing)
}

fn make_namespace(hub: &Hub, path: &Path, user: Option<(Ids, &Path)>, veth: &Veth, mtu: u32) -> Result<()> {
    let host = hub.open()?;
    match user {
        Some((ids, user)) => enter_new_of(ids, user, path)?,
        None => enter_new(path)?,
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "cannot start a runtime for netlink".into())?;
    runtime.block_on(async {
        let handle = handle()?;
        let doing = || "cannot set up the interface of a container".to_owned();
        handle.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await.doing(doing)?;
        let pair = LinkVeth::new("eth0", &veth.host_end).mtu(mtu).up().build();
        handle.link().add(pair).execute().await.doing(doing)?;
        let out = LinkUnspec::new_with_name(&veth.host_end).setns_by_fd(host.as_raw_fd()).build();
        handle.link().set(out).execute().await.doing(doing)?;
        let index = index(&handle, "eth0").await?.ok_or_else(|| Error::new("eth0 vanished"))?;
        handle.address().add(index, IpAddr::V4(veth.address), veth.prefix).execute().await.doing(doing)?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(veth.gateway).build();
        handle.route().add(route).execute().await.doing(doing)
    })
}

fn mtu_of(link: &LinkMessage) -> u32 {
    let known = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    known.unwrap_or(1500)
}

/// Removes an interface; one that is gone is fine.
pub(super) async fn remove(hub: &Hub, name: &str) -> Result<()> {
    let handle = handle_in(hub)?;
    let Some(index) = index(&handle, name).await? else { return Ok(()) };
    match handle.link().del(index).execute().await {
        Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -nix::libc::ENODEV => Ok(()),
        outcome => outcome.doing(|| format!("cannot remove interface {name}")),
    }
}

/// Removes a bridge and all interfaces of its group.
pub(super) async fn remove_group(bridge: &str, group: u32) -> Result<()> {
    let handle = handle()?;
    let Some(index) = index(&handle, bridge).await? else { return Ok(()) };
    // The bridge joins the group of its ports, then all go together.
    let mut link: LinkMessage = LinkUnspec::new_with_index(index).build();
    link.attributes.push(LinkAttribute::Group(group));
    let doing = || format!("cannot remove bridge {bridge}");
    handle.link().set(link).execute().await.doing(doing)?;
    let mut request = handle.link().del(0);
    request.message_mut().attributes.push(LinkAttribute::Group(group));
    request.execute().await.doing(doing)
}
