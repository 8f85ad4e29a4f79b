//! `linux.netDevices`: an interface of the host becomes the container's.
//!
//! Source: rtnetlink(7); linux/if_link.h.

use anyhow::Result;

use crate::error::Fail;
use crate::sys::netlink::{Family, Message, Netlink};

const RTM_NEWLINK: u16 = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_PID: u16 = 19;

/// Moves the interface `name` into the network namespace of `pid`, where it is called `inside`.
///
/// # Errors
/// There is none of that name; the kernel's.
pub fn give(name: &str, inside: &str, pid: i32) -> Result<()> {
    // Not by /sys, which shows the network that it was mounted in.
    let netlink = Netlink::open(Family::Route)?;
    let index = crate::net::link::index(&netlink, name)?
        .ok_or_else(|| Fail::not_found(format!("the host has no interface `{name}`")))?;
    // struct ifinfomsg: family, type, index, flags, change.
    let mut body = [0_u8; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let message = Message::new(format!("RTM_NEWLINK({name})"), RTM_NEWLINK, 0)
        .body(&body)
        .put(IFLA_NET_NS_PID, &pid.to_ne_bytes())
        .text(IFLA_IFNAME, inside);
    netlink.ask(message)?;
    Ok(())
}
