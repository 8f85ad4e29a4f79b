//! Where a container's packets may go.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Protocol;

/// `--egress`: nowhere but to these, and to who has asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Egress {
    /// In the user's order.
    pub allow: Vec<Allowed>,
}

/// One entry of `--egress allow=…`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// Whereto.
    pub to: Destination,
    /// All ports when none is given.
    pub port: Option<u16>,
    /// TCP and UDP when none is given; anything at all when no port is given either.
    pub protocol: Option<Protocol>,
}

/// Where packets go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Destination {
    /// All addresses that the host finds for this name at the start.
    Name(String),
    /// All addresses that begin with so many bits of this one.
    Network(IpAddr, u8),
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            Destination::Name(name) => f.write_str(name)?,
            Destination::Network(IpAddr::V4(address), 32) => write!(f, "{address}")?,
            Destination::Network(IpAddr::V4(address), length) => write!(f, "{address}/{length}")?,
            Destination::Network(IpAddr::V6(address), 128) => write!(f, "[{address}]")?,
            Destination::Network(IpAddr::V6(address), length) => write!(f, "[{address}/{length}]")?,
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match self.protocol {
            Some(Protocol::Tcp) => f.write_str("/tcp"),
            Some(Protocol::Udp) => f.write_str("/udp"),
            None => Ok(()),
        }
    }
}
