//! The texts of `/etc/hosts` and `/etc/resolv.conf` for one container. Pure but for [`Host::read`].

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use super::named::Endpoint;
use super::{Chosen, pasta, slirp};
use crate::error::Fail;
use crate::spec::Names;

/// What the host has.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// `/etc/hosts`.
    pub hosts: String,
    /// The address that packets leave from.
    pub address: Option<IpAddr>,
    /// All IPv4 addresses of its own that are not loopback's.
    pub addresses: Vec<Ipv4Addr>,
    /// The IPv4 gateway of the default route.
    pub gateway: Option<Ipv4Addr>,
}

impl Host {
    /// Reads the two files; one that is not there is empty. Nothing is known of addresses.
    #[must_use]
    pub fn files() -> Self {
        Self {
            resolv_conf: std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            hosts: std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
            address: None,
            addresses: Vec::new(),
            gateway: None,
        }
    }

    /// Reads the two files, and asks the kernel for addresses.
    #[must_use]
    pub fn read() -> Self {
        Self {
            address: outgoing_address(),
            addresses: local_addresses(
                &std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default(),
            ),
            gateway: default_gateway(
                &std::fs::read_to_string("/proc/net/route").unwrap_or_default(),
            ),
            ..Self::files()
        }
    }
}

/// Those that `/proc/net/fib_trie` has as local: a line with the address, the next one with its kind.
fn local_addresses(trie: &str) -> Vec<Ipv4Addr> {
    let mut all: Vec<Ipv4Addr> = Vec::new();
    let mut last = None;
    for line in trie.lines() {
        if let Some(address) = line.trim_start().strip_prefix("|-- ") {
            last = address.trim().parse().ok();
        } else if line.contains("/32 host LOCAL")
            && let Some(address) = last
            && !Ipv4Addr::is_loopback(&address)
            && !all.contains(&address)
        {
            all.push(address);
        }
    }
    all
}

/// Source: proc_net(5), `/proc/net/route`: addresses in hexadecimal, in the machine's byte order.
fn default_gateway(routes: &str) -> Option<Ipv4Addr> {
    routes.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok();
        let gateway = number(2)?;
        (number(1)? == 0 && gateway != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    })
}

/// The address of the interface with the default route: a connected UDP socket sends nothing.
fn outgoing_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // TEST-NET-3 (RFC 5737): any address that only a default route leads to.
    let somewhere = std::net::SocketAddr::from(([203, 0, 113, 1], 9));
    socket.connect(somewhere).ok()?; // no route, no address
    socket.local_addr().ok().map(|address| address.ip())
}

/// The text of `/etc/resolv.conf`.
#[must_use]
pub fn resolv_conf(names: &Names, chosen: &Chosen, host: &Host) -> String {
    let words = |key: &str| -> Vec<&str> {
        let lines = host
            .resolv_conf
            .lines()
            .filter_map(|line| line.trim().strip_prefix(key));
        lines.flat_map(str::split_whitespace).collect()
    };
    let mut text = String::new();
    let search: Vec<&str> = if names.search.is_empty() {
        words("search ")
    } else {
        names
            .search
            .iter()
            .map(String::as_str)
            .filter(|domain| *domain != ".")
            .collect()
    };
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    for server in servers(names, chosen, &host.resolv_conf) {
        let _ = writeln!(text, "nameserver {server}");
    }
    let mut options: Vec<&str> = if names.options.is_empty() {
        words("options ")
    } else {
        names.options.iter().map(String::as_str).collect()
    };
    // The name of a container has no dot: it is asked for as it is before the domains to search, as docker has it.
    if matches!(chosen, Chosen::Named { .. })
        && !names
            .options
            .iter()
            .any(|option| option.starts_with("ndots:"))
    {
        options.retain(|option| !option.starts_with("ndots:"));
        options.push("ndots:0");
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

/// So many servers are asked by the C library. Source: resolv.conf(5), `MAXNS`.
const SERVERS: usize = 3;

/// The addresses in its `nameserver` lines.
pub fn name_servers(resolv_conf: &str) -> impl Iterator<Item = &str> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next())
}

/// The host's name servers that do not listen on its loopback only, as systemd-resolved's does.
#[must_use]
pub fn reachable_servers(resolv_conf: &str) -> Vec<String> {
    name_servers(resolv_conf)
        .filter(|server| {
            !server
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
        })
        .map(str::to_owned)
        .collect()
}

fn servers(names: &Names, chosen: &Chosen, resolv_conf: &str) -> Vec<String> {
    // The resolver of named networks asks those of `--dns` itself, for what is no container's name.
    if let Chosen::Named { endpoints } = chosen {
        let gateways = endpoints.iter().flat_map(|one| &one.gateways);
        return gateways
            .filter(|gateway| gateway.is_ipv4())
            .take(SERVERS)
            .map(ToString::to_string)
            .collect();
    }
    if !names.dns.is_empty() {
        return names.dns.iter().map(ToString::to_string).collect();
    }
    match chosen {
        Chosen::Host => name_servers(resolv_conf).map(str::to_owned).collect(),
        Chosen::None | Chosen::Named { .. } => Vec::new(),
        // Its own resolver asks the host's, wherever that listens.
        Chosen::Slirp { options, .. } => vec![slirp::addresses(options).dns.to_string()],
        Chosen::Joined => reachable_servers(resolv_conf),
        Chosen::Pasta { .. } => {
            let reachable = reachable_servers(resolv_conf);
            if reachable.is_empty() {
                vec![pasta::DNS.to_string()]
            } else {
                reachable
            }
        }
    }
}

/// The text of `/etc/hosts`.
///
/// # Errors
/// When `--add-host NAME:host-gateway` means nothing on this network.
pub fn hosts(
    names: &Names,
    chosen: &Chosen,
    host: &Host,
    hostname: Option<&str>,
) -> Result<String, Fail> {
    let mut text = String::new();
    if *chosen == Chosen::Host {
        text.push_str(&host.hosts);
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
    } else {
        text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        text.push_str("fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n");
    }
    for (name, address) in &names.hosts {
        let address = if address == "host-gateway" {
            to_host(chosen, host)
                .ok_or_else(|| no_way_to_host(name))?
                .to_string()
        } else {
            address.clone()
        };
        let _ = writeln!(text, "{address}\t{name}");
    }
    // Podman's name and docker's, unless the user has given them.
    let words: Vec<&str> = ["host.containers.internal", "host.docker.internal"]
        .into_iter()
        .filter(|word| !names.hosts.iter().any(|(name, _)| name == word))
        .collect();
    if let (Some(address), false) = (to_host(chosen, host), words.is_empty()) {
        let _ = writeln!(text, "{address}\t{}", words.join(" "));
    }
    let own = match chosen {
        Chosen::Slirp { options, .. } => Some(IpAddr::V4(slirp::addresses(options).container)),
        Chosen::Pasta { .. } => host.address,
        Chosen::None => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Chosen::Named { endpoints } => {
            let addresses = endpoints.iter().flat_map(Endpoint::addresses);
            for address in addresses {
                let _ = writeln!(text, "{address}\t{}", hostname.unwrap_or_default());
            }
            None
        }
        Chosen::Host | Chosen::Joined => None,
    };
    if let (Some(address), Some(hostname)) = (own, hostname) {
        let _ = writeln!(text, "{address}\t{hostname}");
    }
    Ok(text)
}

/// Where the container finds the host; none where there is no way to it.
fn to_host(chosen: &Chosen, host: &Host) -> Option<IpAddr> {
    match chosen {
        Chosen::Host => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Chosen::None | Chosen::Joined | Chosen::Named { .. } => None,
        Chosen::Slirp { options, .. } => {
            let addresses = slirp::addresses(options);
            if addresses.loopback {
                Some(IpAddr::V4(addresses.gateway))
            } else {
                host.address
            }
        }
        Chosen::Pasta { options, .. } if pasta::maps_gateway(options) => {
            host.gateway.map(IpAddr::V4)
        }
        Chosen::Pasta {
            maps_host: true, ..
        } => Some(IpAddr::V4(pasta::HOST)),
        // The container has the host's first address itself; the others lead to the host.
        Chosen::Pasta { .. } => host
            .addresses
            .iter()
            .map(|address| IpAddr::V4(*address))
            .find(|address| Some(*address) != host.address),
    }
}

fn no_way_to_host(name: &str) -> Fail {
    Fail::unsupported(format!(
        "`{name}:host-gateway`: the host has no address that this network can reach"
    ))
    .hint("use --network pasta:--map-gw or slirp4netns:allow_host_loopback=true, which open the host's loopback")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pasta() -> Chosen {
        Chosen::Pasta {
            program: "/usr/bin/pasta".into(),
            options: Vec::new(),
            maps_host: false,
        }
    }

    fn host(resolv_conf: &str) -> Host {
        Host {
            resolv_conf: resolv_conf.to_owned(),
            hosts: "127.0.0.1 box\n".to_owned(),
            address: "192.0.2.7".parse().ok(),
            addresses: Vec::new(),
            gateway: "192.0.2.1".parse().ok(),
        }
    }

    #[test]
    fn name_servers_are_those_the_container_can_reach() {
        let plain = "# c\nsearch a b\nnameserver 9.9.9.9\nnameserver 127.0.0.53\noptions edns0\n";
        let stub = "nameserver 127.0.0.53\n";
        let own = Names {
            dns: vec!["1.1.1.1".parse().unwrap()],
            search: vec![".".to_owned()],
            ..Names::default()
        };
        for (names, chosen, text, expected) in [
            (
                Names::default(),
                pasta(),
                plain,
                "search a b\nnameserver 9.9.9.9\noptions edns0\n",
            ),
            (Names::default(), pasta(), stub, "nameserver 169.254.1.1\n"),
            (
                Names::default(),
                Chosen::Host,
                stub,
                "nameserver 127.0.0.53\n",
            ),
            (
                Names::default(),
                Chosen::None,
                plain,
                "search a b\noptions edns0\n",
            ),
            (own, pasta(), plain, "nameserver 1.1.1.1\noptions edns0\n"),
        ] {
            assert_eq!(resolv_conf(&names, &chosen, &host(text)), expected);
        }
    }

    #[test]
    fn hosts_name_the_container_itself() {
        let names = Names {
            hosts: vec![("db".to_owned(), "10.1.1.1".to_owned())],
            ..Names::default()
        };
        let text = hosts(&names, &pasta(), &host(""), Some("web")).unwrap();
        assert!(text.ends_with("10.1.1.1\tdb\n192.0.2.7\tweb\n"), "{text}");
        let shared = hosts(&names, &Chosen::Host, &host(""), Some("web")).unwrap();
        assert_eq!(
            shared,
            "127.0.0.1 box\n10.1.1.1\tdb\n127.0.0.1\thost.containers.internal host.docker.internal\n"
        );
        let gateway = Names {
            hosts: vec![("h".to_owned(), "host-gateway".to_owned())],
            ..Names::default()
        };
        assert!(hosts(&gateway, &pasta(), &host(""), None).is_err());
    }

    #[test]
    fn the_host_has_a_name_where_there_is_a_way_to_it() {
        let named = |chosen: &Chosen, host: &Host| {
            let text = hosts(&Names::default(), chosen, host, None).unwrap();
            let line = text.lines().find(|line| line.contains("host.docker"));
            line.map(|line| line.split('\t').next().unwrap().to_owned())
        };
        let one = host("");
        let two = Host {
            addresses: vec!["192.0.2.7".parse().unwrap(), "10.1.0.1".parse().unwrap()],
            ..host("")
        };
        let slirp = |options: &[&str]| Chosen::Slirp {
            program: "/usr/bin/slirp4netns".into(),
            options: options.iter().map(|&word| word.to_owned()).collect(),
        };
        let open = Chosen::Pasta {
            program: "/usr/bin/pasta".into(),
            options: vec!["--map-gw".to_owned()],
            maps_host: true,
        };
        let newer = Chosen::Pasta {
            program: "/usr/bin/pasta".into(),
            options: Vec::new(),
            maps_host: true,
        };
        for (chosen, host, expected) in [
            (Chosen::None, &two, None),
            (Chosen::Host, &one, Some("127.0.0.1")),
            (pasta(), &one, None),
            (pasta(), &two, Some("10.1.0.1")),
            (newer, &one, Some("169.254.1.2")),
            (open, &one, Some("192.0.2.1")),
            (slirp(&[]), &one, Some("192.0.2.7")),
            (slirp(&["allow_host_loopback=true"]), &one, Some("10.0.2.2")),
        ] {
            assert_eq!(named(&chosen, host).as_deref(), expected, "{chosen:?}");
        }
    }

    #[test]
    fn the_kernels_tables_are_read() {
        let trie = "Local:\n  |-- 127.0.0.1\n     /32 host LOCAL\n  |-- 10.1.0.1\n     /32 host LOCAL\n  |-- 10.1.0.255\n     /32 link BROADCAST\n";
        assert_eq!(local_addresses(trie), [Ipv4Addr::new(10, 1, 0, 1)]);
        let gateway = u32::from_ne_bytes([192, 0, 2, 1]);
        let routes = format!("Iface Destination Gateway\neth0 00000000 {gateway:08X} 0003\n");
        assert_eq!(default_gateway(&routes), Some(Ipv4Addr::new(192, 0, 2, 1)));
    }
}
