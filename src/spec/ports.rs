//! Ports of a container and of the host, as the spec has them. Pure.
//!
//! What is free, and who opens it, is the network's.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::error::Fail;

/// What a port is spoken to with.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The default.
    #[default]
    Tcp,
    /// `/udp`.
    Udp,
}

impl Protocol {
    /// As docker writes it: `tcp`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A port of the container: `80/tcp`. Ordered as docker lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port {
    /// 1 to 65535.
    pub number: u16,
    /// How it is spoken to.
    pub protocol: Protocol,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol.word())
    }
}

impl std::str::FromStr for Port {
    type Err = Fail;

    /// `80`, `80/tcp`, `53/UDP`.
    fn from_str(text: &str) -> Result<Self, Fail> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => {
                return Err(Fail::unsupported(format!(
                    "port `{text}`: no helper carries SCTP without root"
                )));
            }
            other => {
                return Err(
                    Fail::usage(format!("port `{text}`: `{other}` is no protocol"))
                        .hint("known: tcp, udp"),
                );
            }
        };
        match number.parse() {
            Ok(number @ 1..) => Ok(Port { number, protocol }),
            Ok(0) | Err(_) => Err(Fail::usage(format!(
                "port `{text}`: `{number}` is not a number from 1 to 65535"
            ))),
        }
    }
}

/// Which port of the host is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum HostPort {
    /// Any that is free, chosen at each start.
    #[default]
    Any,
    /// This one.
    Fixed {
        /// 1 to 65535.
        port: u16,
    },
    /// The first free one of these, chosen at each start.
    Among {
        /// The lowest.
        first: u16,
        /// The highest.
        last: u16,
    },
}

/// One port of the container that is reached through the host: a range of `-p` makes one for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The host's address that listens; all of them, IPv4 and IPv6, when none is given.
    pub address: Option<IpAddr>,
    /// The host's port.
    pub host: HostPort,
    /// The container's.
    pub port: Port,
}

impl Publish {
    /// The port of the host that both want, whatever else runs.
    #[must_use]
    pub fn collides_with(&self, other: &Publish) -> Option<Port> {
        let (HostPort::Fixed { port: ours }, HostPort::Fixed { port: theirs }) =
            (self.host, other.host)
        else {
            return None;
        };
        let overlap = match (self.address, other.address) {
            (Some(ours), Some(theirs)) => {
                ours == theirs
                    || ours.is_ipv4() == theirs.is_ipv4()
                        && (ours.is_unspecified() || theirs.is_unspecified())
            }
            (None, _) | (_, None) => true,
        };
        let same = ours == theirs && self.port.protocol == other.port.protocol;
        (same && overlap).then_some(Port {
            number: ours,
            protocol: self.port.protocol,
        })
    }
}

/// A [`Publish`] of a container that runs: what was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// As in [`Publish`].
    pub address: Option<IpAddr>,
    /// The host's port.
    pub host: u16,
    /// The container's.
    pub port: Port,
}
