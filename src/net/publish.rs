//! Ports of the host for a container: found free, held until the helper has them, and who has them when it is not so.
//!
//! A helper opens its sockets itself. Until it has done that, a socket of ours is bound to each port but does not
//! listen: nobody who is not told to (`SO_REUSEADDR`) gets the port meanwhile, and the kernel gives it to nobody
//! who asks for any. Source: socket(7), and `inet_csk_bind_conflict()` in the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Result;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::error::Fail;
use crate::spec::{Bound, HostPort, Port, Protocol, Publish};
use crate::sys;

/// So many connections wait to be accepted; the kernel's own limit may be lower.
const BACKLOG: i32 = 4096;

/// A port of the host that nobody else gets while this lives.
#[derive(Debug)]
pub struct Reserved {
    /// What it will be.
    pub bound: Bound,
    /// What was asked for.
    pub wanted: Publish,
    socket: OwnedFd,
}

impl AsFd for Reserved {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Reserved {
    /// Makes it the socket that serves the port, where no helper opens one beside it.
    ///
    /// # Errors
    /// `Conflict` when somebody was quicker.
    pub fn listen(&self) -> Result<()> {
        let on_host = Port {
            number: self.bound.host,
            ..self.bound.port
        };
        let done = match on_host.protocol {
            Protocol::Tcp => rustix::net::listen(&self.socket, BACKLOG),
            // Nobody else may have it beside us any more.
            Protocol::Udp => sockopt::set_socket_reuseaddr(&self.socket, false),
        };
        done.map_err(|errno| match errno {
            Errno::ADDRINUSE => taken(self.bound.address, on_host).into(),
            errno => sys::Error::new(format!("listen({on_host})"), errno).into(),
        })
    }
}

/// Takes a port of the host for each.
///
/// # Errors
/// `Conflict` with who has it, `Denied` (`RL-N03`) for one that is root's, `Usage` for an address that is not the
/// host's.
pub fn reserve(all: &[Publish]) -> Result<Vec<Reserved>> {
    // Fixed ones first, so that no port that is free to choose takes theirs.
    let mut order: Vec<(usize, &Publish)> = all.iter().enumerate().collect();
    order.sort_by_key(|(_, one)| !matches!(one.host, HostPort::Fixed { .. }));
    let mut taken = Vec::with_capacity(all.len());
    for (at, one) in order {
        taken.push((at, reserve_one(one)?));
    }
    taken.sort_by_key(|(at, _)| *at);
    Ok(taken.into_iter().map(|(_, one)| one).collect())
}

/// As [`reserve`], for one.
///
/// # Errors
/// As there.
pub fn reserve_one(wanted: &Publish) -> Result<Reserved> {
    let reserved = |(socket, address, host)| Reserved {
        bound: Bound {
            address,
            host,
            port: wanted.port,
        },
        wanted: *wanted,
        socket,
    };
    match wanted.host {
        HostPort::Any => bind(wanted, 0)
            .map(reserved)
            .map_err(|error| refused(wanted, 0, &error).into()),
        HostPort::Fixed { port } => bind(wanted, port)
            .map(reserved)
            .map_err(|error| refused(wanted, port, &error).into()),
        HostPort::Among { first, last } => {
            for port in first..=last {
                match bind(wanted, port) {
                    Ok(found) => return Ok(reserved(found)),
                    Err(error) if error.errno == Errno::ADDRINUSE => {}
                    Err(error) => return Err(refused(wanted, port, &error).into()),
                }
            }
            Err(Fail::conflict(format!(
                "all ports from {first} to {last} of the host are taken"
            ))
            .hint("give a wider range, or let rl choose: -p CONTAINER_PORT")
            .code("RL-N08")
            .into())
        }
    }
}

/// The socket, the address that it really has, and the port.
fn bind(wanted: &Publish, port: u16) -> Result<(OwnedFd, Option<IpAddr>, u16), sys::Error> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match wanted.address {
        Some(address) => bind_to(wanted, SocketAddr::from((address, port)))
            .map(|(socket, port)| (socket, wanted.address, port)),
        None => match bind_to(wanted, both) {
            Ok((socket, port)) => Ok((socket, None, port)),
            // No IPv6 on this machine.
            Err(error) if matches!(error.errno, Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
                let any = Ipv4Addr::UNSPECIFIED;
                let (socket, port) = bind_to(wanted, SocketAddr::from((any, port)))?;
                Ok((socket, Some(IpAddr::V4(any)), port))
            }
            Err(error) => Err(error),
        },
    }
}

fn bind_to(wanted: &Publish, address: SocketAddr) -> Result<(OwnedFd, u16), sys::Error> {
    let failed = |errno| {
        sys::Error::new(
            format!("bind({address}, {})", wanted.port.protocol.word()),
            errno,
        )
    };
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let kind = match wanted.port.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket =
        rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).map_err(failed)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, wanted.address.is_some()).map_err(failed)?;
    }
    // Connections that have ended keep their port for a minute; without this a restart would have to wait for them.
    // One that listens refuses all the same. UDP has no such rest, and there two sockets could share a port.
    let is_restart = address.port() != 0 && wanted.port.protocol == Protocol::Tcp;
    sockopt::set_socket_reuseaddr(&socket, is_restart).map_err(failed)?;
    rustix::net::bind(&socket, &address).map_err(failed)?;
    // From now on the helper, which says so too, may bind it beside us.
    sockopt::set_socket_reuseaddr(&socket, true).map_err(failed)?;
    let name = rustix::net::getsockname(&socket).map_err(failed)?;
    let name = SocketAddr::try_from(name).map_err(failed)?;
    Ok((socket, name.port()))
}

/// Why the host's port cannot be had, and what to do.
fn refused(wanted: &Publish, number: u16, error: &sys::Error) -> Fail {
    let port = Port {
        number,
        protocol: wanted.port.protocol,
    };
    match error.errno {
        Errno::ADDRINUSE => taken(wanted.address, port),
        Errno::ACCESS | Errno::PERM => {
            let first = first_unprivileged();
            Fail::denied(format!("port {port} of the host is root's: you may publish ports from {first} on"))
                .hint(format!("publish a higher one: -p {}:{}", u32::from(number) + 8000, wanted.port.number))
                .hint(format!("or your administrator allows it: sysctl net.ipv4.ip_unprivileged_port_start={number} (to stay: in a file below /etc/sysctl.d)"))
                .code("RL-N03")
        }
        Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT => Fail::usage(format!(
            "-p: the host has no address `{}`",
            wanted
                .address
                .map(|address| address.to_string())
                .unwrap_or_default()
        ))
        .hint("see which ones it has: ip address"),
        _ => Fail::system(format!("port {port} of the host cannot be had: {error}")),
    }
}

/// The failure when somebody has the port.
#[must_use]
pub fn taken(address: Option<IpAddr>, port: Port) -> Fail {
    let who = owner(port).map_or_else(String::new, |who| format!(" by {who}"));
    let at = address.map_or_else(String::new, |address| format!(" on {address}"));
    Fail::conflict(format!("port {port} of the host{at} is taken{who}"))
        .hint("publish another one, or let rl choose: -p CONTAINER_PORT")
        .hint(format!(
            "see who has it: ss -l{}np sport = :{}",
            match port.protocol {
                Protocol::Tcp => "t",
                Protocol::Udp => "u",
            },
            port.number
        ))
        .code("RL-N08")
}

fn first_unprivileged() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

/// Who has the port: a container by name, a process of the user's, or another user. Source: proc_net(5).
fn owner(port: Port) -> Option<String> {
    let word = port.protocol.word();
    let sockets = ["", "6"].into_iter().find_map(|six| {
        let text = std::fs::read_to_string(format!("/proc/net/{word}{six}")).ok()?;
        socket_of(&text, port)
    })?;
    let (uid, inode) = sockets;
    let link = format!("socket:[{inode}]");
    let holders: Vec<i32> = std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            // Those of others cannot be looked at.
            let fds = std::fs::read_dir(entry.path().join("fd")).ok()?;
            let has = fds.flatten().any(|fd| {
                std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == link.as_str())
            });
            has.then_some(pid)
        })
        .collect();
    // On named networks the network process has it too.
    let container = holders.iter().find_map(|pid| container_above(*pid));
    match holders.first().copied().or_else(|| helper_of(port)) {
        Some(pid) => container
            .or_else(|| container_above(pid))
            .or_else(|| Some(process(pid))),
        None if uid == rustix::process::getuid().as_raw() => None,
        None => Some(format!("a process of user {uid}")),
    }
}

/// pasta lets nobody look at its descriptors: but it was told the port.
fn helper_of(port: Port) -> Option<i32> {
    let flag = match port.protocol {
        Protocol::Tcp => "-t",
        Protocol::Udp => "-u",
    };
    let number = port.number.to_string();
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            let mut words = line.split('\0');
            if !words.next()?.ends_with("pasta") {
                return None;
            }
            let words: Vec<&str> = words.collect();
            let has = words.windows(2).any(|pair| {
                let spec = pair[1].rsplit('/').next().unwrap_or_default();
                pair[0] == flag && spec.split(':').next() == Some(&number)
            });
            has.then_some(pid)
        })
}

/// The container whose helper this process is.
fn container_above(pid: i32) -> Option<String> {
    let parent = |pid: i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        rest.split_whitespace().nth(1)?.parse().ok()
    };
    let title = |pid: i32| -> Option<String> {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let first = line.split('\0').next()?.to_owned();
        first.strip_prefix("rl:[monitor] ").map(str::to_owned)
    };
    // On named networks its owner has the port itself.
    let name = title(pid).or_else(|| title(parent(pid)?))?;
    Some(format!("the container `{name}`"))
}

fn process(pid: i32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    // A name may contain anything.
    let name: String = name.trim().chars().filter(|c| !c.is_control()).collect();
    format!("`{name}` (process {pid})")
}

/// Whether a program listens on a port of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// On an address that packets from outside reach.
    Yes,
    /// On loopback alone.
    OnLoopback,
    /// Not at all.
    No,
    /// That cannot be seen.
    Unknown,
}

/// Who listens on `port` in the network namespace of the process `pid`.
#[must_use]
pub fn heard(pid: i32, port: Port) -> Heard {
    let kind = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let read = |end: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{kind}{end}"));
    let Ok(mut text) = read("") else {
        return Heard::Unknown;
    };
    text.push_str(&read("6").unwrap_or_default()); // a kernel without IPv6
    listens(&text, port)
}

fn listens(text: &str, port: Port) -> Heard {
    let mut addresses = text
        .lines()
        .filter_map(|line| listener(line, port))
        .peekable();
    if addresses.peek().is_none() {
        return Heard::No;
    }
    // 127.0.0.0/8 and ::1, in the byte order of the machine, as the file has them.
    let is_loopback = |address: &str| {
        let four = |text: &str| {
            u32::from_str_radix(text, 16)
                .unwrap_or_default()
                .to_ne_bytes()
        };
        match address.len() {
            8 => four(address)[0] == 127,
            _ => address.starts_with(&"0".repeat(24)) && four(&address[24..]) == [0, 0, 0, 1],
        }
    };
    match addresses.all(is_loopback) {
        true => Heard::OnLoopback,
        false => Heard::Yes,
    }
}

/// The address in a line of `/proc/net/tcp` or its kin, where somebody listens on `port`.
fn listener(line: &str, port: Port) -> Option<&str> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (address, number) = words.get(1)?.rsplit_once(':')?;
    // 0A: TCP_LISTEN. Each bound UDP socket counts.
    let is_listening = port.protocol != Protocol::Tcp || *words.get(3)? == "0A";
    (is_listening && u16::from_str_radix(number, 16).ok()? == port.number).then_some(address)
}

/// User and inode of the socket that has the port, in the text of `/proc/net/tcp` or its kin.
fn socket_of(text: &str, port: Port) -> Option<(u32, u64)> {
    text.lines().skip(1).find_map(|line| {
        listener(line, port)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        Some((words.get(7)?.parse().ok()?, words.get(9)?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(host: HostPort, protocol: Protocol) -> Publish {
        Publish {
            address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host,
            port: Port {
                number: 80,
                protocol,
            },
        }
    }

    #[test]
    fn a_port_that_is_held_is_given_to_nobody_else() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let held = reserve_one(&publish(HostPort::Any, protocol)).unwrap();
            let port = held.bound.host;
            assert_ne!(port, 0);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            // std's listener sets SO_REUSEADDR, as a helper does.
            match protocol {
                Protocol::Tcp => drop(std::net::TcpListener::bind(address).unwrap()),
                Protocol::Udp => assert!(std::net::UdpSocket::bind(address).is_err()),
            }
            drop(held);
        }
    }

    #[test]
    fn a_port_that_is_taken_says_by_whom() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = reserve_one(&publish(HostPort::Fixed { port }, Protocol::Tcp)).unwrap_err();
        let fail = error.downcast_ref::<Fail>().unwrap();
        let me = std::process::id();
        assert!(
            fail.message.contains(&format!("port {port}/tcp")),
            "{fail:?}"
        );
        assert!(
            fail.message.contains(&format!("(process {me})")),
            "{fail:?}"
        );
        // Both ends of a range of one are taken; the next one is free or somebody else's.
        let only = HostPort::Among {
            first: port,
            last: port,
        };
        assert!(reserve_one(&publish(only, Protocol::Tcp)).is_err());
        let all = Publish {
            address: None,
            ..publish(HostPort::Fixed { port }, Protocol::Tcp)
        };
        assert!(reserve_one(&all).is_err(), "the same port on all addresses");
    }

    #[test]
    fn sockets_are_found_in_the_kernels_table() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:0277 00000000:0000 01 00000000:00000000 00:00000000 00000000  7  0 11 1 0 100 0\n   \
            1: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000  0 4242 1 0 100 0\n";
        let port = |number| Port {
            number,
            protocol: Protocol::Tcp,
        };
        assert_eq!(socket_of(text, port(631)), Some((1000, 4242)));
        assert_eq!(socket_of(text, port(80)), None);
        assert_eq!(socket_of("x\ny z\n", port(80)), None);
    }
}
