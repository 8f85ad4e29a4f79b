//! The interface of a container, made before the helper is there that serves it, so that the program need not wait.
//!
//! It has the addresses and routes that the helper would give it, and no cable yet. What the program sends waits where
//! packets wait for a neighbour's answer, until the helper opens the device: design/005. Nothing is started here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::{Chosen, link, probe, slirp};
use crate::spec::Publish;
use crate::sys;
use crate::sys::netlink::{Attributes, Family, Message, Netlink};

/// Bytes in a packet: what pasta takes, and we ask of slirp4netns.
const MTU: u32 = 65520;
/// Milliseconds after which a neighbour is asked again, and how often: the kernel's 3 seconds, in smaller steps.
const ASK_AGAIN_MS: u64 = 15;
const ASK_TIMES: u32 = 200;
/// A host with more routes than this is a router; its helper may take them over itself.
const MOST_ROUTES: usize = 64;

const GETADDR: u16 = 22;
const GETROUTE: u16 = 26;
/// `RT_TABLE_MAIN`, `RTN_UNICAST`, `RTPROT_KERNEL`: rtnetlink(7).
const MAIN: u8 = 254;
const UNICAST: u8 = 1;
const BY_KERNEL: u8 = 2;
/// `RTNH_F_ONLINK`.
const ONLINK: u32 = 4;
/// `IFA_F_TEMPORARY | IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE`.
const PASSING: u32 = 0x01 | 0x08 | 0x20 | 0x40;

/// An interface with all that it is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Addresses, each with the length of its network's prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Routes, those without a gateway first.
    pub routes: Vec<Route>,
}

/// A route of the interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads; all zeros with the length 0 is everywhere.
    pub destination: IpAddr,
    /// The length of the destination's prefix.
    pub length: u8,
    /// By way of whom.
    pub gateway: Option<IpAddr>,
    /// The gateway is on the cable although no address says so.
    pub onlink: bool,
}

impl Link {
    /// What can be made ahead of the helper that was chosen. None where that helper has not come up here yet, for it is
    /// waited for then, and passed over if it fails; where it is told by the user what to do; where ports are published, which
    /// the user takes for open when the command says that the container runs; and where the host's network is unusual.
    #[must_use]
    pub fn plan(chosen: &Chosen, ports: &[Publish]) -> Option<Self> {
        // KERNEL(5.16): before, what waits for a neighbour is dropped soon after the device has lost its cable.
        let waits = || Path::new("/proc/sys/net/ipv4/conf/all/arp_evict_nocarrier").exists();
        if !ports.is_empty()
            || !chosen.is_plain()
            || !probe::has_come_up(chosen.program()?)
            || !waits()
        {
            return None;
        }
        match chosen {
            Chosen::Pasta { .. } => Self::of_host().ok().flatten(),
            Chosen::Slirp { .. } => {
                let addresses = slirp::addresses(&[]);
                Some(Self {
                    name: slirp::INTERFACE.to_owned(),
                    addresses: vec![(addresses.container.into(), 24)],
                    routes: vec![Route {
                        destination: Ipv4Addr::UNSPECIFIED.into(),
                        length: 0,
                        gateway: Some(addresses.gateway.into()),
                        onlink: false,
                    }],
                })
            }
            Chosen::Host | Chosen::None | Chosen::Joined | Chosen::Named { .. } => None,
        }
    }

    /// As pasta does it: the name, addresses and routes of the host's interface to the world.
    fn of_host() -> Result<Option<Self>> {
        let netlink = Netlink::open(Family::Route)?;
        let all = |what: &str, kind: u16, size: usize| {
            // The family 0 is all of them.
            netlink.dump(Message::new(what, kind, 0).body(&vec![0; size]))
        };
        let found = all("netlink(GETROUTE)", GETROUTE, 12)?;
        if found.len() > 16 * MOST_ROUTES {
            return Ok(None);
        }
        let Some(routes) = found
            .iter()
            .map(|body| HostRoute::read(body))
            .collect::<Option<Vec<_>>>()
        else {
            return Ok(None);
        };
        let addresses: Vec<HostAddress> = all("netlink(GETADDR)", GETADDR, 8)?
            .iter()
            .filter_map(|body| HostAddress::read(body))
            .collect();
        let Some((index, link)) = choose(&routes, &addresses) else {
            return Ok(None);
        };
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let name = rustix::net::netdevice::index_to_name(socket.as_fd(), index)?;
        Ok(Some(Self { name, ..link }))
    }

    /// Makes it, in the network namespace of this process; nothing is left when that fails.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make(&self) -> Result<()> {
        sys::net::make_tap(&self.name)?;
        let netlink = Netlink::open(Family::Route)?;
        let made = self.furnish(&netlink);
        if made.is_err() {
            link::remove(&netlink, &self.name)?;
        }
        made
    }

    fn furnish(&self, netlink: &Netlink) -> Result<()> {
        let name = &self.name;
        let has_v6 = self.addresses.iter().any(|(address, _)| address.is_ipv6());
        // That there is no cable yet is no reason to forget who waits.
        let mut kept = vec![format!("ipv4/conf/{name}/arp_evict_nocarrier")];
        if has_v6 {
            kept.push(format!("ipv6/conf/{name}/ndisc_evict_nocarrier"));
        }
        for setting in kept {
            let path = format!("/proc/sys/net/{setting}");
            std::fs::write(&path, "0").with_context(|| format!("writing {path}"))?;
        }
        let index = link::index_of(netlink, name)?;
        link::ask_often(netlink, index, has_v6, ASK_AGAIN_MS, ASK_TIMES)?;
        link::raise_with_mtu(netlink, index, MTU)?;
        for (address, length) in &self.addresses {
            link::add_address(netlink, name, *address, *length)?;
        }
        for route in &self.routes {
            link::add_route(netlink, index, route)?;
        }
        Ok(())
    }
}

/// One of the host's routes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostRoute {
    /// The number of the interface; 0 where it is of no concern.
    index: u32,
    route: Route,
    by_kernel: bool,
}

impl HostRoute {
    /// The route in an answer, a `struct rtmsg` and attributes; of other tables and kinds a route to nowhere. None: one that cannot
    /// be said in our words, as one by several ways.
    fn read(body: &[u8]) -> Option<Self> {
        let &[family, length, source, tos, table, protocol, _, kind, ..] = body else {
            return None;
        };
        let any = match family {
            2 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            10 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return Some(Self::elsewhere()),
        };
        if table != MAIN || kind != UNICAST {
            return Some(Self::elsewhere());
        }
        let flags = u32::from_ne_bytes(body.get(8..12)?.try_into().ok()?);
        let mut found = Self {
            index: 0,
            route: Route {
                destination: any,
                length,
                gateway: None,
                onlink: flags & ONLINK != 0,
            },
            by_kernel: protocol == BY_KERNEL,
        };
        for (kind, value) in Attributes(body.get(12..)?) {
            match kind {
                1 => found.route.destination = address(value)?,
                4 => found.index = u32::from_ne_bytes(value.try_into().ok()?),
                5 => found.route.gateway = Some(address(value)?),
                // Priority, preferred source, metrics, cache information, the table again, preference: the interface decides alone.
                6 | 7 | 8 | 12 | 15 | 20 => {}
                _ => return None,
            }
        }
        (source == 0 && tos == 0 && found.index != 0).then_some(found)
    }

    fn elsewhere() -> Self {
        Self {
            index: 0,
            route: Route {
                destination: Ipv4Addr::UNSPECIFIED.into(),
                length: 32,
                gateway: None,
                onlink: false,
            },
            by_kernel: true,
        }
    }

    fn is_default(&self) -> bool {
        self.index != 0 && self.route.length == 0
    }
}

/// One of the host's addresses that other machines know.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostAddress {
    index: u32,
    address: IpAddr,
    length: u8,
    /// At the other end of a line of two.
    peer: bool,
}

impl HostAddress {
    /// The address in an answer, a `struct ifaddrmsg` and attributes; none for those of a link or that pass.
    fn read(body: &[u8]) -> Option<Self> {
        let &[_, length, flags, scope, ..] = body else {
            return None;
        };
        let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
        let (mut local, mut other, mut flags) = (None, None, u32::from(flags));
        for (kind, value) in Attributes(body.get(8..)?) {
            match kind {
                1 => other = address(value),
                2 => local = address(value),
                8 => flags = u32::from_ne_bytes(value.try_into().ok()?),
                _ => {}
            }
        }
        let found = Self {
            index,
            address: local.or(other)?,
            length,
            peer: local.is_some() && other.is_some() && local != other,
        };
        (scope == 0 && flags & PASSING == 0).then_some(found)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// The interface that pasta takes, and what goes with it, without the name; none where it is not plain which one that is.
fn choose(routes: &[HostRoute], addresses: &[HostAddress]) -> Option<(u32, Link)> {
    let only = |v6: bool| -> Option<Option<u32>> {
        let mut defaults = routes
            .iter()
            .filter(|one| one.is_default() && one.route.destination.is_ipv6() == v6);
        let first = defaults.next();
        if defaults.next().is_some() || first.is_some_and(|one| one.route.gateway.is_none()) {
            return None;
        }
        Some(first.map(|one| one.index))
    };
    let (four, six) = (only(false)?, only(true)?);
    let mut link = Link {
        name: String::new(),
        addresses: Vec::new(),
        routes: Vec::new(),
    };
    for (v6, index) in [(false, four), (true, six)] {
        let Some(index) = index else { continue };
        let own: Vec<&HostAddress> = addresses
            .iter()
            .filter(|one| one.index == index && one.address.is_ipv6() == v6)
            .collect();
        if own.is_empty() || own.iter().any(|one| one.peer) {
            return None;
        }
        link.addresses
            .extend(own.iter().map(|one| (one.address, one.length)));
        // The kernel makes those of the addresses by itself.
        let taken = routes.iter().filter(|one| {
            one.index == index && one.route.destination.is_ipv6() == v6 && !one.by_kernel
        });
        link.routes.extend(taken.map(|one| one.route.clone()));
    }
    if link.routes.len() > MOST_ROUTES {
        return None;
    }
    link.routes.sort_by_key(|route| route.gateway.is_some());
    Some((four.or(six)?, link))
}
