//! Named networks: bridges that containers join, find each other on by name, and leave by one shared way out.
//!
//! ```text
//!  owner of a container                 rl:[network]                         its inside (one network namespace)
//!  (monitor, or `run --rm`)             server/                              inside.rs
//!     │ Reserve(guest) ───────────────────▶│ addresses, names
//!     │◀──────────────────── Endpoints ────│
//!     │ clone3 …                           │
//!     │ Plug(pid) ────────────────────────▶│ bridge, veth, addresses, route ───▶ rlb… ── veth ──▶ eth0 of the
//!     │◀──────────────────── Endpoints ────│ uplink: pasta or slirp4netns ─────▶ uplink0         container
//!     │ Publish(port), a socket ──────────▶│ takes connections on the host's socket, makes others inside
//!     │   the connection stays open        │ answers DNS on the bridge's address, asks on the host's network
//!     ▼   its end is the container's end   ▼ ends with the last connection
//! ```
//!
//! The process knows only what its connections told it: when it is killed, the owners start another and tell it again.
//! The user namespaces of the network and of each container are siblings. A `veth` goes from one to the other because
//! the messages are sent by a process that stands outside of both and owns both (`sys::netlink`).

pub mod client;
pub mod config;
mod dns;
mod inside;
pub mod server;
pub mod subnet;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::error::Fail;
use crate::spec::{Bound, Joined};

/// A container that wants to join networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name, which others find it by.
    pub name: String,
    /// Who is asked for names that are not containers'; the host's servers when empty.
    pub dns: Vec<IpAddr>,
    /// Which networks, and how.
    pub joined: Vec<Joined>,
    /// Where it was before the process was killed: the same addresses, if they are free.
    pub before: Vec<Endpoint>,
}

/// A container's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network's name.
    pub network: String,
    /// The network's id.
    pub network_id: String,
    /// The interface inside, such as `eth0`.
    pub interface: String,
    /// Names of the container on this network, beside its own and its id.
    pub aliases: Vec<String>,
    /// Its address, and the length of the subnet's prefix.
    pub ip: Option<(Ipv4Addr, u8)>,
    /// Its IPv6 address, on a network that has such.
    pub ip6: Option<(Ipv6Addr, u8)>,
    /// The bridge's addresses.
    pub gateways: Vec<IpAddr>,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The network has no way out.
    pub internal: bool,
}

impl Endpoint {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let four = self.ip.map(|(address, _)| IpAddr::V4(address));
        four.into_iter()
            .chain(self.ip6.map(|(address, _)| IpAddr::V6(address)))
    }

    /// The hardware address as text.
    #[must_use]
    pub fn mac_text(&self) -> String {
        let bytes: Vec<String> = self.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.join(":")
    }
}

/// A container on networks, as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// The container's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub endpoints: Vec<Endpoint>,
}

/// What the network process is asked.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Addresses for a container that is about to start; the connection stands for it from then on.
    Reserve(Box<Guest>),
    /// The container's first process: its network namespace is joined to the networks.
    Plug { pid: i32 },
    /// A port of the container; the socket of the host that leads to it comes with this.
    Publish(Bound),
    /// Its ports are closed.
    Withdraw,
    /// A container has another name now.
    Rename { id: String, name: String },
    /// One more network for a container that runs.
    Connect { id: String, joined: Box<Joined> },
    /// One network less.
    Disconnect { id: String, network: String },
    /// Who is where?
    List,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    /// Where the container is, and lines for the user about what could not be had.
    Endpoints(Vec<Endpoint>, Vec<String>),
    /// Who is where.
    Present(Vec<Present>),
    /// It was done.
    Done,
    /// It was not.
    Failed(Fail),
}
