//! Bridges, `veth` pairs, addresses, routes and packet rules, as messages to the kernel.
//!
//! Numbers and layouts: rtnetlink(7), `linux/if_link.h`, `linux/netfilter/nf_tables.h`.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use crate::error::Fail;
use crate::net::ahead::Route;
use crate::net::nft::{self, Meta, Policy};
use crate::sys::netlink::{CREATE, EXCLUSIVE, Message, Netlink};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
const SETNEIGHTBL: u16 = 67;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const IFF_UP: u32 = 1;
/// `IFA_F_NODAD`: an address that we have given out ourselves is nobody else's, and is usable at once.
const NODAD: u8 = 2;

/// A hardware address.
pub type Mac = [u8; 6];

/// `struct ifinfomsg`.
fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for field in [index, flags, change] {
        body.extend_from_slice(&field.to_ne_bytes());
    }
    body
}

/// The number of the interface `name`; `None` when there is none.
///
/// # Errors
/// The kernel's.
pub fn index(netlink: &Netlink, name: &str) -> Result<Option<u32>> {
    let message = Message::new(format!("netlink(GETLINK, {name})"), GETLINK, 0)
        .body(&link(0, 0, 0))
        .text(IFLA_IFNAME, name);
    match netlink.get(message) {
        Ok(body) => Ok(body
            .get(4..8)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_ne_bytes)),
        Err(error) if error.errno == Errno::NODEV => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The number of an interface that must be there.
///
/// # Errors
/// `System` when it is not; the kernel's.
pub fn index_of(netlink: &Netlink, name: &str) -> Result<u32> {
    index(netlink, name)?.ok_or_else(|| Fail::system(format!("interface {name} is gone")).into())
}

/// Removes the interface `name`; one that is not there is no error.
///
/// # Errors
/// The kernel's.
pub fn remove(netlink: &Netlink, name: &str) -> Result<()> {
    let Some(index) = index(netlink, name)? else {
        return Ok(());
    };
    let message =
        Message::new(format!("netlink(DELLINK, {name})"), DELLINK, 0).body(&link(index, 0, 0));
    match netlink.ask(message) {
        Err(error) if error.errno != Errno::NODEV => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes a bridge and returns its number.
///
/// # Errors
/// `Unsupported` where the kernel has no bridges.
pub fn add_bridge(netlink: &Netlink, name: &str) -> Result<u32> {
    let message = Message::new(
        format!("netlink(NEWLINK, bridge {name})"),
        NEWLINK,
        CREATE | EXCLUSIVE,
    )
    .body(&link(0, 0, 0))
    .text(IFLA_IFNAME, name)
    .nest(IFLA_LINKINFO, |info| info.text(INFO_KIND, "bridge"));
    netlink
        .ask(message)
        .map_err(|error| no_kind(error, "bridge"))?;
    index_of(netlink, name)
}

/// A kernel that lacks a kind of interface says so by EOPNOTSUPP; an ordinary user cannot have it loaded.
fn no_kind(error: crate::sys::Error, module: &str) -> anyhow::Error {
    if error.errno != Errno::OPNOTSUPP {
        return error.into();
    }
    anyhow::Error::from(error).context(
        Fail::unsupported(format!(
            "named networks need `{module}` interfaces, which this kernel does not have now"
        ))
        .hint(format!(
            "ask your administrator: modprobe {module} (to stay: echo {module} > /etc/modules-load.d/rl.conf)"
        ))
        .hint("or run without a named network")
        .code("RL-N09"),
    )
}

/// A pair of interfaces: one port of a bridge, the other in a container.
#[derive(Debug)]
pub struct Pair<'a> {
    /// The name of the bridge's end.
    pub outer: &'a str,
    /// The number of the bridge.
    pub bridge: u32,
    /// The name of the container's end.
    pub inner: &'a str,
    /// The container's network namespace.
    pub namespace: BorrowedFd<'a>,
    /// The hardware address of the container's end.
    pub mac: Mac,
    /// Bytes in a packet.
    pub mtu: u32,
}

/// Makes the pair, the bridge's end up. `outside` and `inside` are sockets of the two namespaces.
///
/// # Errors
/// The kernel's.
pub fn add_pair(outside: &Netlink, inside: &Netlink, pair: &Pair<'_>) -> Result<()> {
    let make = || {
        let namespace = pair.namespace.as_raw_fd().to_ne_bytes();
        Message::new(
            format!("netlink(NEWLINK, veth {} {})", pair.outer, pair.inner),
            NEWLINK,
            CREATE | EXCLUSIVE,
        )
        .body(&link(0, IFF_UP, IFF_UP))
        .text(IFLA_IFNAME, pair.outer)
        .put(IFLA_MTU, &pair.mtu.to_ne_bytes())
        .put(IFLA_MASTER, &pair.bridge.to_ne_bytes())
        .nest(IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, "veth").nest(INFO_DATA, |data| {
                data.nest(VETH_PEER, |peer| {
                    peer.body(&link(0, 0, 0))
                        .text(IFLA_IFNAME, pair.inner)
                        .put(IFLA_MTU, &pair.mtu.to_ne_bytes())
                        .put(IFLA_ADDRESS, &pair.mac)
                        .put(IFLA_NET_NS_FD, &namespace)
                })
            })
        })
    };
    // What a network process that was killed has left: the kernel removes it a little later by itself.
    remove(outside, pair.outer)?;
    remove(inside, pair.inner)?;
    outside.ask(make()).map_err(|error| no_kind(error, "veth"))
}

/// Brings an interface up.
///
/// # Errors
/// The kernel's.
pub fn raise(netlink: &Netlink, name: &str) -> Result<()> {
    let message = Message::new(format!("netlink(NEWLINK, {name} up)"), NEWLINK, 0).body(&link(
        index_of(netlink, name)?,
        IFF_UP,
        IFF_UP,
    ));
    Ok(netlink.ask(message)?)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The kernel's number for the address's family.
fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

/// Gives an interface an address.
///
/// # Errors
/// The kernel's.
pub fn add_address(netlink: &Netlink, name: &str, address: IpAddr, length: u8) -> Result<()> {
    let mut body = vec![family(address), length, NODAD, 0];
    body.extend_from_slice(&index_of(netlink, name)?.to_ne_bytes());
    let bytes = octets(address);
    let mut message = Message::new(
        format!("netlink(NEWADDR, {name} {address}/{length})"),
        NEWADDR,
        CREATE | EXCLUSIVE,
    )
    .body(&body)
    .put(2, &bytes)
    .put(1, &bytes);
    if let IpAddr::V4(address) = address
        && length < 31
    {
        let hosts = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        let broadcast = Ipv4Addr::from(u32::from(address) | hosts);
        message = message.put(4, &broadcast.octets());
    }
    match netlink.ask(message) {
        Err(error) if error.errno != Errno::EXIST => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes `gateway` the way to everywhere.
///
/// # Errors
/// The kernel's.
pub fn default_route(netlink: &Netlink, gateway: IpAddr) -> Result<()> {
    // struct rtmsg: family, lengths of destination and source, tos, table main, protocol boot, scope, unicast.
    let mut body = vec![family(gateway), 0, 0, 0, 254, 3, 0, 1];
    body.extend_from_slice(&[0; 4]);
    let what = format!("netlink(NEWROUTE, default via {gateway})");
    let message = Message::new(what, NEWROUTE, CREATE | EXCLUSIVE)
        .body(&body)
        .put(5, &octets(gateway));
    match netlink.ask(message) {
        Err(error) if error.errno != Errno::EXIST => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Brings the interface `index` up, for packets of so many bytes.
///
/// # Errors
/// The kernel's.
pub fn raise_with_mtu(netlink: &Netlink, index: u32, mtu: u32) -> Result<()> {
    let message = Message::new(format!("netlink(NEWLINK, {index} up)"), NEWLINK, 0)
        .body(&link(index, IFF_UP, IFF_UP))
        .put(IFLA_MTU, &mtu.to_ne_bytes());
    Ok(netlink.ask(message)?)
}

/// Has neighbours on the interface `index` asked for every `again_ms` milliseconds, at most so many times. Source:
/// `linux/neighbour.h`; the settings of the same names below /proc/sys/net/ipv4/neigh are hidden in user namespaces by some kernels.
///
/// # Errors
/// The kernel's.
pub fn ask_often(
    netlink: &Netlink,
    index: u32,
    has_v6: bool,
    again_ms: u64,
    times: u32,
) -> Result<()> {
    let table = |family: u8, name: &str| {
        Message::new(format!("netlink(SETNEIGHTBL, {name})"), SETNEIGHTBL, 0)
            .body(&[family, 0, 0, 0])
            .text(1, name)
            .nest(6, |parameters| {
                parameters
                    .put(1, &index.to_ne_bytes())
                    .put(5, &again_ms.to_ne_bytes())
                    .put(11, &times.to_ne_bytes())
            })
    };
    let mut tables = vec![table(2, "arp_cache")];
    if has_v6 {
        tables.push(table(10, "ndisc_cache"));
    }
    Ok(netlink.batch(tables)?)
}

/// Adds a route by the interface `index`.
///
/// # Errors
/// The kernel's.
pub fn add_route(netlink: &Netlink, index: u32, route: &Route) -> Result<()> {
    // struct rtmsg, as below; what needs no gateway has the scope of the link.
    let scope = if route.gateway.is_none() && route.destination.is_ipv4() {
        253
    } else {
        0
    };
    let mut body = vec![
        family(route.destination),
        route.length,
        0,
        0,
        254,
        3,
        scope,
        1,
    ];
    body.extend_from_slice(&(if route.onlink { 4_u32 } else { 0 }).to_ne_bytes());
    let what = format!("netlink(NEWROUTE, {}/{})", route.destination, route.length);
    let mut message = Message::new(what, NEWROUTE, CREATE | EXCLUSIVE)
        .body(&body)
        .put(4, &index.to_ne_bytes());
    if route.length > 0 {
        message = message.put(1, &octets(route.destination));
    }
    if let Some(gateway) = route.gateway {
        message = message.put(5, &octets(gateway));
    }
    match netlink.ask(message) {
        Err(error) if error.errno != Errno::EXIST => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// How the names of bridges with a way out begin; the rules below know them by it.
pub const OPEN: &str = "rlb";
/// How the names of bridges without one begin.
pub const INTERNAL: &str = "rli";

/// Forbids all forwarding; see [`open_uplink`].
///
/// # Errors
/// `Unsupported` where the kernel has no nf_tables.
pub fn close_forwarding(netfilter: &Netlink) -> Result<()> {
    let messages = vec![
        nft::table(),
        nft::chain("forward", 2, 0, "filter", Policy::Drop),
        nft::chain("masquerade", 4, 100, "nat", Policy::Accept),
        nft::rule("forward", |list| nft::accept(nft::is_answer(list))),
    ];
    nft::commit(netfilter, messages).map_err(|error| anyhow::Error::from(error).context(no_rules()))
}

/// A kernel without packet rules, or not all of them.
#[must_use]
pub fn no_rules() -> Fail {
    Fail::unsupported("named networks need nf_tables with nat and masquerade in the kernel")
        .hint("ask your administrator: modprobe -a nf_tables nft_ct nft_masq nft_chain_nat")
        .code("RL-N09")
}

/// Lets networks that have a way out use `uplink`, each under the uplink's own address.
///
/// # Errors
/// The kernel's.
pub fn open_uplink(netfilter: &Netlink, uplink: &str) -> Result<()> {
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().zip(uplink.bytes()) {
        *to = from;
    }
    let messages = vec![
        nft::rule("forward", |list| {
            // A comparison that is shorter than the name asks for its beginning.
            let list = nft::is(nft::meta(list, Meta::InputName), OPEN.as_bytes());
            nft::accept(nft::is(nft::meta(list, Meta::OutputName), &name))
        }),
        nft::rule("masquerade", |list| {
            let list = nft::is(nft::meta(list, Meta::OutputName), &name);
            nft::masquerade(list)
        }),
    ];
    nft::commit(netfilter, messages).context("letting networks use the way out")
}
