//! How a container reaches the world, and by which names: `--network`, `--dns` and their kin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `--network`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode")]
pub enum Network {
    /// The best that works: pasta, slirp4netns, and with a line that says so the host's.
    #[default]
    Auto,
    /// Through the `pasta` helper.
    Pasta {
        /// Extra words for its command line.
        options: Vec<String>,
    },
    /// Through the `slirp4netns` helper.
    Slirp4netns {
        /// `allow_host_loopback=true`, `mtu=…`, `cidr=…`, `enable_ipv6=…`.
        options: Vec<String>,
    },
    /// The host's own network.
    Host,
    /// Loopback only.
    None,
    /// Another container's.
    Container {
        /// Its id or name.
        id: String,
    },
    /// The network namespace that a file names.
    Path {
        /// Path on the host.
        path: PathBuf,
    },
    /// Networks of `rl network create`; none when it was taken off all of them.
    Named {
        /// Which, and how; the first that has a way out gets the default route.
        networks: Vec<Joined>,
    },
}

/// How a container joins a named network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Joined {
    /// The network's name.
    pub network: String,
    /// `--network-alias`.
    pub aliases: Vec<String>,
    /// `--ip`; a free one by default.
    pub ip: Option<Ipv4Addr>,
    /// `--ip6`; a free one by default, where the network has IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// `--mac-address`; made from the address by default.
    pub mac: Option<[u8; 6]>,
}

/// Names and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Names {
    /// `--add-host`: name and address; `host-gateway` is resolved when the network is known.
    pub hosts: Vec<(String, String)>,
    /// `--dns`; the host's servers when empty.
    pub dns: Vec<IpAddr>,
    /// `--dns-search`.
    pub search: Vec<String>,
    /// `--dns-option`.
    pub options: Vec<String>,
    /// `/etc/hosts` of the image stays as it is.
    pub keep_hosts: bool,
    /// `/etc/resolv.conf` of the image stays as it is (`--dns=none`).
    pub keep_resolv_conf: bool,
}
