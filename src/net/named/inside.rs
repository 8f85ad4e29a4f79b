//! Sockets inside other network namespaces, and the process that keeps the shared one.
//!
//! [`Inside`] is a child of the network process, alone in a user and network namespace of its own: it is what pasta
//! and slirp4netns attach to, and it opens sockets there. Nothing else runs in it.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::error::{self, Fail};
use crate::net::ahead::Link;
use crate::net::forward::{self, Reach};
use crate::net::link;
use crate::spec::Protocol;
use crate::sys;
use crate::sys::netlink::{Family, Netlink};
use crate::sys::process::Child;
use crate::sys::socket::Channel;

/// Which socket is wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Wanted {
    /// An interface, and no socket.
    Link(Link),
    Route,
    Netfilter,
    Datagrams(SocketAddr),
    Connections(SocketAddr),
    /// One that connects, or sends, to an address.
    To(Protocol, SocketAddr),
}

/// The shared network namespace.
#[derive(Debug)]
pub struct Inside {
    /// The process in it.
    pub child: Child,
    channel: Channel,
}

impl Inside {
    /// Makes the namespace. It goes with this process.
    ///
    /// # Errors
    /// The kernel's, as for any container.
    pub fn start() -> Result<Self> {
        let (channel, there) = Channel::pair().context("making a socket pair")?;
        let Some(child) = sys::process::fork()? else {
            drop(channel);
            serve(there)
        };
        drop(there);
        let mut inside = Self { child, channel };
        inside
            .answer()
            .context("making the namespace of the networks")?;
        Ok(inside)
    }

    /// A socket for interfaces and addresses.
    ///
    /// # Errors
    /// The system's.
    pub fn route(&mut self) -> Result<Netlink> {
        self.socket(&Wanted::Route).map(Netlink::from_fd)
    }

    /// A socket for packet rules.
    ///
    /// # Errors
    /// The system's.
    pub fn netfilter(&mut self) -> Result<Netlink> {
        self.socket(&Wanted::Netfilter).map(Netlink::from_fd)
    }

    /// A UDP and a TCP socket on the port for DNS.
    ///
    /// # Errors
    /// The system's.
    pub fn dns(&mut self, address: IpAddr) -> Result<(UdpSocket, TcpListener)> {
        let at = SocketAddr::new(address, 53);
        let datagrams = UdpSocket::from(self.socket(&Wanted::Datagrams(at))?);
        let connections = TcpListener::from(self.socket(&Wanted::Connections(at))?);
        datagrams.set_nonblocking(true)?;
        connections.set_nonblocking(true)?;
        Ok((datagrams, connections))
    }

    /// Makes an interface there.
    ///
    /// # Errors
    /// Those of [`Link::make`].
    pub fn link(&mut self, link: &Link) -> Result<()> {
        self.ask(&Wanted::Link(link.clone())).map(drop)
    }

    fn socket(&mut self, wanted: &Wanted) -> Result<OwnedFd> {
        self.ask(wanted)?
            .ok_or_else(|| Fail::system("no socket came").into())
    }

    fn ask(&mut self, wanted: &Wanted) -> Result<Option<OwnedFd>> {
        let text = serde_json::to_vec(wanted).context("writing a message")?;
        self.channel
            .send(&text, None)
            .context("asking for a socket")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Option<OwnedFd>> {
        let (message, fd) = self
            .channel
            .receive()?
            .ok_or_else(|| Fail::system("the networks' own process is gone"))?;
        let failed: Option<Fail> = serde_json::from_slice(&message).context("reading a message")?;
        failed.map_or(Ok(fd), |fail| Err(fail.into()))
    }
}

impl Reach for Inside {
    fn connection(&mut self, to: SocketAddr) -> Result<TcpStream> {
        self.socket(&Wanted::To(Protocol::Tcp, to))
            .map(TcpStream::from)
    }

    fn datagrams(&mut self, to: SocketAddr) -> Result<UdpSocket> {
        self.socket(&Wanted::To(Protocol::Udp, to))
            .map(UdpSocket::from)
    }
}

/// The child's whole life.
fn serve(mut channel: Channel) -> ! {
    let mut next: Result<Option<OwnedFd>> = enter().map(|()| None);
    loop {
        let (fail, fd) = match next {
            Ok(fd) => (None, fd),
            Err(error) => (Some(error::flatten(&error)), None),
        };
        let said = serde_json::to_vec::<Option<Fail>>(&fail)
            .ok()
            .and_then(|text| channel.send(&text, fd.as_ref().map(|fd| fd.as_fd())).ok());
        drop(fd);
        let heard = said.and_then(|()| channel.receive().ok().flatten());
        let Some((message, _)) = heard else {
            sys::process::exit_now(0) // the network process has ended
        };
        next = serde_json::from_slice(&message)
            .context("reading a message")
            .and_then(open);
    }
}

fn enter() -> Result<()> {
    sys::process::die_with_parent()?;
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    sys::process::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
        // Packets go from one interface to another; which ones may is up to the rules.
        ("/proc/sys/net/ipv4/ip_forward", "1".to_owned()),
    ] {
        std::fs::write(file, text).with_context(|| format!("writing {file}"))?;
    }
    // A host without IPv6, or whose bridges know no rules, has no such file, and no such packets.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
    // The rules are for what goes from network to network, not for what stays on one bridge.
    for kind in ["iptables", "ip6tables", "arptables"] {
        let _ = std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{kind}"), "0");
    }
    Ok(sys::net::raise_loopback()?)
}

fn open(wanted: Wanted) -> Result<Option<OwnedFd>> {
    let doing = |at: SocketAddr| move || format!("opening a socket for {at}");
    Ok(Some(match wanted {
        Wanted::Link(link) => return link.make().map(|()| None),
        Wanted::Route => Netlink::open(Family::Route)?.into_fd(),
        Wanted::Netfilter => Netlink::open(Family::Netfilter)
            .with_context(link::no_rules)?
            .into_fd(),
        Wanted::Datagrams(at) => UdpSocket::bind(at).with_context(doing(at))?.into(),
        Wanted::Connections(at) => TcpListener::bind(at).with_context(doing(at))?.into(),
        Wanted::To(protocol, to) => forward::begin(protocol, to).with_context(doing(to))?,
    }))
}

/// The network namespace of a container, and a socket for interfaces in it.
#[derive(Debug)]
pub struct Container {
    /// The namespace.
    pub namespace: OwnedFd,
    /// The socket.
    pub route: Netlink,
}

impl Container {
    /// That of the process `pid`, whose owner waits for our answer: so it is still the one that is meant.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(pid: i32) -> Result<Self> {
        let open = |kind: &str| {
            sys::fs::open_trusted(Path::new(&format!("/proc/{pid}/ns/{kind}")), OFlags::RDONLY)
        };
        let (user, namespace) = (open("user")?, open("net")?);
        let (mut here, mut there) = Channel::pair().context("making a socket pair")?;
        let Some(child) = sys::process::fork()? else {
            drop(here);
            let opened = (|| -> Result<Netlink> {
                // Container root has all rights over a process in its user namespace, but not over this memory.
                rustix::process::set_dumpable_behavior(
                    rustix::process::DumpableBehavior::NotDumpable,
                )?;
                sys::process::setns(user.as_fd(), libc::CLONE_NEWUSER)?;
                sys::process::setns(namespace.as_fd(), libc::CLONE_NEWNET)?;
                Ok(Netlink::open(Family::Route)?)
            })();
            let (text, fd) = match opened {
                Ok(socket) => (String::new(), Some(socket)),
                Err(error) => (format!("{error:#}"), None),
            };
            let _ = there.send(text.as_bytes(), fd.as_ref().map(|fd| fd.as_fd())); // the silence says it
            sys::process::exit_now(0)
        };
        drop(there);
        let answer = here.receive();
        child.wait()?;
        let doing = "entering the container's network namespace";
        match answer.context(doing)? {
            Some((_, Some(fd))) => Ok(Self {
                namespace,
                route: Netlink::from_fd(fd),
            }),
            Some((text, None)) => {
                Err(Fail::system(format!("{doing}: {}", String::from_utf8_lossy(&text))).into())
            }
            None => Err(Fail::system(format!("{doing}: the process is gone")).into()),
        }
    }
}
