//! `rl:[network]`: serves the named networks of one store, from the first container on them to the last.
//!
//! One thread, one poll loop. It writes nothing down: what it knows it was told by the owners of containers, whose
//! connections are the containers' places. What it has made goes with it, killed or not: interfaces with the network
//! namespace of its child (`inside`), child and uplink by PDEATHSIG.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::config::{self, Config, Subnet};
use super::dns::{self, Known, Resolver};
use super::inside::{Container, Inside};
use super::{Endpoint, Guest, Present, Reply, Request};
use crate::error::{self, Fail};
use crate::net::forward::{self, Forward};
use crate::net::link::{self, Pair};
use crate::net::{self, Uplink};
use crate::paths::{self, Store};
use crate::spec::{Bound, Joined};
use crate::sys;
use crate::sys::netlink::Netlink;
use crate::sys::socket::Channel;

/// The word after the program's name that makes it this process. Not for people.
pub const NETWORK: &str = "__network";

/// A network helper that ends sooner would do so again.
const STEADY: Duration = Duration::from_secs(5);
/// How long whoever has started it may take to connect.
const FIRST: Duration = Duration::from_secs(30);

/// The whole of it, for `words` = store. Leaves by `_exit`.
pub fn main(words: &[String]) -> ! {
    let code = match run(words) {
        Ok(()) => 0,
        // Those who were connected were told.
        Err(_) => 125,
    };
    sys::process::exit_now(code)
}

fn run(words: &[String]) -> Result<()> {
    let [root] = words else {
        return Err(Fail::usage("the network process is started by rl itself").into());
    };
    let listener = UnixListener::from(sys::process::inherited(3)?);
    let store = Store::at(PathBuf::from(root));
    match Server::prepare(store.clone(), &listener) {
        Ok(mut server) => server.serve(),
        Err(error) => {
            let fail = error::flatten(&error);
            refuse(&store, &listener, &fail)?;
            Err(error)
        }
    }
}

/// Tells everybody who has come why there are no networks.
fn refuse(store: &Store, listener: &UnixListener, fail: &Fail) -> Result<()> {
    let tell = |stream: std::os::unix::net::UnixStream| -> Result<()> {
        let mut channel = Channel::from_fd(stream.into());
        channel.receive()?;
        channel.send(&serde_json::to_vec(&Reply::Failed(fail.clone()))?, None)?;
        Ok(())
    };
    let (first, _) = listener.accept()?;
    let _ = tell(first); // it may have been killed
    let (socket, lock) = paths::network_socket(store)?;
    let _lock = super::client::lock_file(&lock)?;
    listener.set_nonblocking(true)?;
    let _ = std::fs::remove_file(socket); // the next one who needs a network begins anew
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(false)?;
        let _ = tell(stream); // as above
    }
    Ok(())
}

/// A network that containers are on.
#[derive(Debug)]
struct Bridge {
    config: Config,
    /// The interface's number.
    index: u32,
}

/// One connection.
#[derive(Debug)]
struct Client {
    channel: Channel,
    member: Option<Member>,
    over: bool,
}

/// A container.
#[derive(Debug)]
struct Member {
    guest: Guest,
    endpoints: Vec<Endpoint>,
    /// Its network namespace, when it has told it.
    container: Option<Container>,
    /// The network that its default route leads to.
    route: Option<String>,
}

struct Server<'a> {
    store: Store,
    listener: &'a UnixListener,
    inside: Inside,
    route: Netlink,
    netfilter: Netlink,
    uplink: Option<Uplink>,
    uplink_since: Instant,
    /// The interfaces that the rules let packets out by.
    opened: BTreeSet<&'static str>,
    bridges: BTreeMap<String, Bridge>,
    clients: Vec<Client>,
    resolver: Resolver,
    forward: Forward,
}

/// Where something can happen.
enum Source {
    Listener,
    Uplink,
    Inside,
    Client(usize),
    Dns(dns::Source),
    Port(forward::Source),
}

/// The interface of the bridge's end: 13 of at most 15 bytes.
fn outer(id: &str, network_id: &str) -> String {
    let part = |text: &str| text.get(..6).unwrap_or(text).to_owned();
    format!("v{}{}", part(id), part(network_id))
}

impl<'a> Server<'a> {
    fn prepare(store: Store, listener: &'a UnixListener) -> Result<Self> {
        let mut inside = Inside::start()?;
        let (route, netfilter) = (inside.route()?, inside.netfilter()?);
        link::close_forwarding(&netfilter)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            store,
            listener,
            inside,
            route,
            netfilter,
            uplink: None,
            uplink_since: Instant::now(),
            opened: BTreeSet::new(),
            bridges: BTreeMap::new(),
            clients: Vec::new(),
            resolver: Resolver::default(),
            forward: Forward::new(),
        })
    }

    fn serve(&mut self) -> Result<()> {
        let first = Instant::now() + FIRST;
        let mut had_one = false;
        loop {
            had_one |= !self.clients.is_empty();
            if self.clients.is_empty() && (had_one || Instant::now() >= first) && self.is_over()? {
                return Ok(());
            }
            let deadlines = [self.resolver.deadline(), self.forward.deadline()];
            let until = match (had_one, deadlines.into_iter().flatten().min()) {
                (true, deadline) => deadline,
                (false, deadline) => Some(deadline.map_or(first, |one| one.min(first))),
            };
            for source in self.wait(until)? {
                match source {
                    Source::Listener => self.welcome()?,
                    Source::Uplink => self.lose_uplink()?,
                    // Everything went with it: the owners begin anew.
                    Source::Inside => return Err(Fail::system("the namespace is gone").into()),
                    Source::Client(at) => self.hear(at),
                    Source::Dns(source) => {
                        let known = known(&self.clients);
                        self.resolver.turn(&source, &known);
                    }
                    Source::Port(source) => {
                        let clients = &self.clients;
                        let target = |id: &str| target(clients, id);
                        self.forward.turn(source, &mut self.inside, &target);
                    }
                }
            }
            self.resolver.expire();
            self.forward.expire();
            self.part()?;
        }
    }

    /// Nobody is there. Under the lock nobody comes either, or is taken in.
    fn is_over(&mut self) -> Result<bool> {
        let (socket, lock) = paths::network_socket(&self.store)?;
        let _lock = super::client::lock_file(&lock)?;
        self.welcome()?;
        if self.clients.is_empty() {
            let _ = std::fs::remove_file(socket); // somebody may have cleaned up
            return Ok(true);
        }
        Ok(false)
    }

    fn wait(&self, until: Option<Instant>) -> Result<Vec<Source>> {
        let mut sources = vec![
            (Source::Listener, self.listener.as_fd(), PollFlags::IN),
            (
                Source::Inside,
                self.inside.child.pidfd.as_fd(),
                PollFlags::IN,
            ),
        ];
        if let Some(uplink) = &self.uplink {
            sources.push((Source::Uplink, uplink.child.pidfd.as_fd(), PollFlags::IN));
        }
        for (at, client) in self.clients.iter().enumerate() {
            sources.push((Source::Client(at), client.channel.as_fd(), PollFlags::IN));
        }
        for (source, fd, flags) in self.resolver.sources() {
            sources.push((Source::Dns(source), fd, flags));
        }
        for (source, fd, flags) in self.forward.sources() {
            sources.push((Source::Port(source), fd, flags));
        }
        let mut fds: Vec<PollFd<'_>> = sources
            .iter()
            .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok()); // seconds are no overflow
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(sys::Error::new("poll()", errno).into()),
        }
        let happened: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        Ok(sources
            .into_iter()
            .zip(happened)
            .filter(|(_, happened)| *happened)
            .map(|((source, ..), _)| source)
            .collect())
    }

    fn welcome(&mut self) -> Result<()> {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(false)?;
            self.clients.push(Client {
                channel: Channel::from_fd(stream.into()),
                member: None,
                over: false,
            });
        }
        Ok(())
    }

    /// Containers that have ended give their places back.
    fn part(&mut self) -> Result<()> {
        let gone: Vec<Member> = self
            .clients
            .iter_mut()
            .filter(|client| client.over)
            .filter_map(|client| client.member.take())
            .collect();
        self.clients.retain(|client| !client.over);
        for member in gone {
            self.release(&member)?;
        }
        Ok(())
    }

    fn release(&mut self, member: &Member) -> Result<()> {
        self.forward.close(&member.guest.id);
        for endpoint in &member.endpoints {
            link::remove(&self.route, &outer(&member.guest.id, &endpoint.network_id))?;
        }
        self.remove_empty()
    }

    /// Removes the bridges that nobody is on.
    fn remove_empty(&mut self) -> Result<()> {
        let used: BTreeSet<String> = members(&self.clients)
            .flat_map(|member| member.endpoints.iter().map(|one| one.network.clone()))
            .collect();
        let empty: Vec<String> = self
            .bridges
            .keys()
            .filter(|name| !used.contains(*name))
            .cloned()
            .collect();
        for name in empty {
            self.resolver.leave(&name);
            if let Some(bridge) = self.bridges.remove(&name) {
                link::remove(&self.route, &bridge.config.bridge())?;
            }
        }
        Ok(())
    }

    fn hear(&mut self, at: usize) {
        let Ok(Some((message, fd))) = self.clients[at].channel.receive() else {
            self.clients[at].over = true;
            return;
        };
        let reply = serde_json::from_slice(&message)
            .context("reading a message")
            .and_then(|request| self.act(at, request, fd))
            .unwrap_or_else(|error| Reply::Failed(error::flatten(&error)));
        let client = &mut self.clients[at];
        let sent = serde_json::to_vec(&reply)
            .ok()
            .and_then(|text| client.channel.send(&text, None).ok());
        client.over |= sent.is_none();
    }

    fn act(&mut self, at: usize, request: Request, fd: Option<OwnedFd>) -> Result<Reply> {
        match request {
            Request::Reserve(guest) => self.reserve(at, *guest),
            Request::Plug { pid } => self.plug(at, pid),
            Request::Publish(bound) => self.publish(at, &bound, fd),
            Request::Withdraw => {
                if let Some(member) = &self.clients[at].member {
                    self.forward.close(&member.guest.id);
                }
                Ok(Reply::Done)
            }
            Request::Rename { id, name } => {
                if let Some(at) = self.position(&id)
                    && let Some(member) = &mut self.clients[at].member
                {
                    member.guest.name = name;
                }
                Ok(Reply::Done)
            }
            Request::Connect { id, joined } => self.connect(&id, &joined),
            Request::Disconnect { id, network } => self.disconnect(&id, &network),
            Request::List => Ok(Reply::Present(
                members(&self.clients)
                    .map(|member| Present {
                        id: member.guest.id.clone(),
                        name: member.guest.name.clone(),
                        endpoints: member.endpoints.clone(),
                    })
                    .collect(),
            )),
        }
    }

    fn publish(&mut self, at: usize, bound: &Bound, fd: Option<OwnedFd>) -> Result<Reply> {
        let Some(member) = &self.clients[at].member else {
            return Err(Fail::system("a port without a container").into());
        };
        let socket = fd.ok_or_else(|| {
            let port = bound.port;
            Fail::system(format!(
                "port {port} cannot be published: the network process has too many files open"
            ))
            .hint("publish fewer ports, or raise the limit: ulimit -Hn")
        })?;
        self.forward.open(&member.guest.id, bound, socket)?;
        Ok(Reply::Done)
    }

    fn position(&self, id: &str) -> Option<usize> {
        let is_it = |client: &Client| {
            let member = client.member.as_ref();
            !client.over && member.is_some_and(|member| member.guest.id == id)
        };
        self.clients.iter().position(is_it)
    }

    fn reserve(&mut self, at: usize, guest: Guest) -> Result<Reply> {
        let mut endpoints = Vec::new();
        for joined in &guest.joined {
            let before = guest
                .before
                .iter()
                .find(|one| one.network == joined.network);
            endpoints.push(self.place(&guest.id, joined, before, &endpoints)?);
        }
        self.clients[at].member = Some(Member {
            guest,
            endpoints: endpoints.clone(),
            container: None,
            route: None,
        });
        Ok(Reply::Endpoints(endpoints, Vec::new()))
    }

    /// Chooses a container's place on one network; `others` are those it has already.
    fn place(
        &self,
        id: &str,
        joined: &Joined,
        before: Option<&Endpoint>,
        others: &[Endpoint],
    ) -> Result<Endpoint> {
        let config = match self.bridges.get(&joined.network) {
            Some(bridge) => bridge.config.clone(),
            None => config::find(&self.store, &joined.network)?,
        };
        let used: BTreeMap<IpAddr, String> = members(&self.clients)
            .filter(|member| member.guest.id != id)
            .flat_map(|member| {
                let here = member
                    .endpoints
                    .iter()
                    .filter(|one| one.network == config.name);
                here.flat_map(Endpoint::addresses)
                    .map(|address| (address, member.guest.name.clone()))
            })
            .collect();
        let wanted = [joined.ip.map(IpAddr::V4), joined.ip6.map(IpAddr::V6)];
        let (mut ip, mut ip6) = (None, None);
        for (is_v4, wanted) in [true, false].into_iter().zip(wanted) {
            let Some(subnet) = config.subnet(is_v4) else {
                if let Some(wanted) = wanted {
                    return Err(Fail::usage(format!(
                        "{wanted}: the network `{}` has no IPv6",
                        config.name
                    ))
                    .hint("make it with --ipv6")
                    .into());
                }
                continue;
            };
            let before = before
                .into_iter()
                .flat_map(Endpoint::addresses)
                .find(|one| one.is_ipv4() == is_v4 && subnet.subnet.is_host(*one));
            match address(&config, subnet, wanted, before, &used)? {
                IpAddr::V4(address) => ip = Some((address, subnet.subnet.length)),
                IpAddr::V6(address) => ip6 = Some((address, subnet.subnet.length)),
            }
        }
        let taken: BTreeSet<&str> = others.iter().map(|one| one.interface.as_str()).collect();
        let interface = (0..=others.len())
            .map(|number| format!("eth{number}"))
            .find(|name| !taken.contains(name.as_str()))
            .unwrap_or_default();
        // Docker's: a prefix of its own, then the address.
        let mut mac = [2, 0x42, 0, 0, 0, 0];
        if let Some((address, _)) = ip {
            mac[2..].copy_from_slice(&address.octets());
        }
        Ok(Endpoint {
            network: config.name,
            network_id: config.id,
            interface,
            aliases: joined.aliases.clone(),
            ip,
            ip6,
            gateways: config.subnets.iter().map(|one| one.gateway).collect(),
            mac: joined.mac.unwrap_or(mac),
            internal: config.internal,
        })
    }

    fn plug(&mut self, at: usize, pid: i32) -> Result<Reply> {
        let container = Container::of(pid)?;
        let mut notices = Vec::new();
        let Some(mut member) = self.clients[at].member.take() else {
            return Err(Fail::system("a container without a place").into());
        };
        let mut done = Ok(());
        for endpoint in &member.endpoints {
            done = self.join(&member.guest.id, &container, endpoint, &mut notices);
            if done.is_err() {
                break;
            }
        }
        member.container = Some(container);
        let done = done.and_then(|()| settle_route(&mut member));
        let endpoints = member.endpoints.clone();
        self.clients[at].member = Some(member);
        done.map(|()| Reply::Endpoints(endpoints, notices))
    }

    fn join(
        &mut self,
        id: &str,
        container: &Container,
        endpoint: &Endpoint,
        notices: &mut Vec<String>,
    ) -> Result<()> {
        let (bridge, mtu) = self.bridge(&endpoint.network, notices)?;
        link::add_pair(
            &self.route,
            &container.route,
            &Pair {
                outer: &outer(id, &endpoint.network_id),
                bridge,
                inner: &endpoint.interface,
                namespace: container.namespace.as_fd(),
                mac: endpoint.mac,
                mtu,
            },
        )?;
        let inner = &endpoint.interface;
        if let Some((address, length)) = endpoint.ip {
            link::add_address(&container.route, inner, address.into(), length)?;
        }
        if let Some((address, length)) = endpoint.ip6 {
            link::add_address(&container.route, inner, address.into(), length)?;
        }
        link::raise(&container.route, inner)
    }

    /// The bridge of a network, made when it is not there: its number, and how long packets may be.
    fn bridge(&mut self, name: &str, notices: &mut Vec<String>) -> Result<(u32, u32)> {
        if let Some(bridge) = self.bridges.get(name) {
            let (found, is_open) = ((bridge.index, bridge.config.mtu), !bridge.config.internal);
            if is_open {
                self.open(notices);
            }
            return Ok(found);
        }
        let config = config::find(&self.store, name)?;
        let interface = config.bridge();
        link::remove(&self.route, &interface)?;
        let index = link::add_bridge(&self.route, &interface)?;
        for one in &config.subnets {
            link::add_address(&self.route, &interface, one.gateway, one.subnet.length)?;
        }
        link::raise(&self.route, &interface)?;
        if let Some(subnet) = config.subnet(true) {
            let sockets = self.inside.dns(subnet.gateway)?;
            self.resolver.listen(name, sockets);
        }
        if !config.internal {
            self.open(notices);
        }
        let mtu = config.mtu;
        self.bridges
            .insert(name.to_owned(), Bridge { config, index });
        Ok((index, mtu))
    }

    /// Sees to it that there is a way out. Without one containers still reach each other.
    fn open(&mut self, notices: &mut Vec<String>) {
        if self.uplink.is_some() {
            return;
        }
        let pid = self.inside.child.pid;
        let shared = net::share(pid, &mut |link| self.inside.link(link));
        let opened = shared.and_then(|(uplink, interface, why)| {
            if let Some(why) = why {
                let code = why.code.map(|code| format!(" (rl explain {code})"));
                notices.push(format!(
                    "{}: using {}{}",
                    why.message,
                    uplink.name,
                    code.unwrap_or_default()
                ));
            }
            if self.opened.insert(interface) {
                link::open_uplink(&self.netfilter, interface)?;
            }
            Ok(uplink)
        });
        match opened {
            Ok(uplink) => {
                self.uplink = Some(uplink);
                self.uplink_since = Instant::now();
            }
            Err(error) => {
                let fail = error::flatten(&error);
                let code = fail.code.map(|code| format!(" (rl explain {code})"));
                notices.push(format!(
                    "{}: containers on named networks reach each other, but nothing outside{}",
                    fail.message,
                    code.unwrap_or_default()
                ));
            }
        }
    }

    /// The helper has ended. Another one takes its place, unless one that had come up ended soon: then the next container
    /// that comes tries again.
    fn lose_uplink(&mut self) -> Result<()> {
        let Some(uplink) = self.uplink.take() else {
            return Ok(());
        };
        // Nobody is at a terminal here. That it failed is noted: the next one is waited for, and passed over if it fails too.
        let _ = uplink.lost(&self.inside.child.pidfd);
        let was_ahead = uplink.ahead;
        uplink.stop();
        for interface in &self.opened {
            link::remove(&self.route, interface)?; // one that was made ahead stays otherwise
        }
        if was_ahead || self.uplink_since.elapsed() > STEADY {
            self.open(&mut Vec::new());
        }
        Ok(())
    }

    fn connect(&mut self, id: &str, joined: &Joined) -> Result<Reply> {
        let Some(at) = self.position(id) else {
            return Ok(Reply::Done);
        };
        let Some(mut member) = self.clients[at].member.take() else {
            return Ok(Reply::Done);
        };
        let done = self.connect_member(&mut member, joined);
        let endpoints = member.endpoints.clone();
        self.clients[at].member = Some(member);
        // What did not become a port of its bridge leaves none behind.
        self.remove_empty()?;
        done.map(|notices| Reply::Endpoints(endpoints, notices))
    }

    fn connect_member(&mut self, member: &mut Member, joined: &Joined) -> Result<Vec<String>> {
        if member
            .endpoints
            .iter()
            .any(|one| one.network == joined.network)
        {
            return Err(Fail::conflict(format!(
                "container `{}` is on network `{}` already",
                member.guest.name, joined.network
            ))
            .into());
        }
        let mut notices = Vec::new();
        let endpoint = self.place(&member.guest.id, joined, None, &member.endpoints)?;
        if let Some(container) = &member.container {
            self.join(&member.guest.id, container, &endpoint, &mut notices)?;
        }
        member.endpoints.push(endpoint);
        member.guest.joined.push(joined.clone());
        settle_route(member)?;
        Ok(notices)
    }

    fn disconnect(&mut self, id: &str, network: &str) -> Result<Reply> {
        let Some(at) = self.position(id) else {
            return Ok(Reply::Done);
        };
        let Some(member) = &mut self.clients[at].member else {
            return Ok(Reply::Done);
        };
        let found = member
            .endpoints
            .iter()
            .position(|one| one.network == network);
        if let Some(found) = found {
            let endpoint = member.endpoints.remove(found);
            member.guest.joined.retain(|one| one.network != network);
            link::remove(&self.route, &outer(id, &endpoint.network_id))?;
            settle_route(member)?;
        }
        let endpoints = member.endpoints.clone();
        let left: Vec<IpAddr> = endpoints.iter().flat_map(Endpoint::addresses).collect();
        self.forward.keep(id, &left);
        self.remove_empty()?;
        Ok(Reply::Endpoints(endpoints, Vec::new()))
    }
}

fn members(clients: &[Client]) -> impl Iterator<Item = &Member> {
    clients
        .iter()
        .filter(|client| !client.over)
        .filter_map(|client| client.member.as_ref())
}

/// Whom names stand for: containers that are on their networks.
fn known(clients: &[Client]) -> Vec<Known<'_>> {
    members(clients)
        .filter(|member| member.container.is_some())
        .map(|member| Known {
            id: &member.guest.id,
            name: &member.guest.name,
            dns: &member.guest.dns,
            endpoints: &member.endpoints,
        })
        .collect()
}

/// Where a container's published ports lead: into the first of its networks that is not internal.
fn target(clients: &[Client], id: &str) -> Option<IpAddr> {
    let member = members(clients).find(|member| member.guest.id == id)?;
    let mut open = member.endpoints.iter().filter(|one| !one.internal);
    open.find_map(|one| one.addresses().next())
}

/// The way to everywhere is by the first network that has a way out.
fn settle_route(member: &mut Member) -> Result<()> {
    let Some(container) = &member.container else {
        return Ok(());
    };
    let by = member.endpoints.iter().find(|one| !one.internal);
    let name = by.map(|one| one.network.clone());
    if name == member.route {
        return Ok(());
    }
    // The old one went with its interface.
    if let Some(endpoint) = by {
        for gateway in &endpoint.gateways {
            link::default_route(&container.route, *gateway)?;
        }
    }
    member.route = name;
    Ok(())
}

/// The address that a container gets on one subnet.
fn address(
    config: &Config,
    subnet: &Subnet,
    wanted: Option<IpAddr>,
    before: Option<IpAddr>,
    used: &BTreeMap<IpAddr, String>,
) -> Result<IpAddr, Fail> {
    if let Some(wanted) = wanted {
        if !subnet.subnet.is_host(wanted) {
            return Err(Fail::usage(format!(
                "{wanted} is not an address of the network `{}`, which has {}",
                config.name, subnet.subnet
            )));
        }
        let holder = if wanted == subnet.gateway {
            Some("its gateway".to_owned())
        } else {
            used.get(&wanted).map(|name| format!("container `{name}`"))
        };
        return match holder {
            Some(holder) => Err(Fail::conflict(format!(
                "address {wanted} of the network `{}` is in use by {holder}",
                config.name
            ))
            .hint("choose another, or none: then a free one is taken")),
            None => Ok(wanted),
        };
    }
    if let Some(before) = before.filter(|one| *one != subnet.gateway && !used.contains_key(one)) {
        return Ok(before);
    }
    let mut taken: BTreeSet<IpAddr> = used.keys().copied().collect();
    taken.insert(subnet.gateway);
    let range = subnet.range.unwrap_or(subnet.subnet);
    subnet.subnet.free(range, &taken).ok_or_else(|| {
        Fail::conflict(format!(
            "the network `{}` has no free address left in {range}",
            config.name
        ))
        .hint("make a larger one: rl network create --subnet")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::named::subnet::Cidr;

    #[test]
    fn addresses_are_given_out_once() {
        let subnet = Subnet {
            subnet: Cidr::parse("10.1.0.0/29").unwrap(),
            gateway: "10.1.0.1".parse().unwrap(),
            range: None,
        };
        let config = Config {
            version: 1,
            name: "net".to_owned(),
            id: String::new(),
            created: String::new(),
            subnets: vec![subnet.clone()],
            internal: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            mtu: 1500,
        };
        let ip = |last: u8| IpAddr::from([10, 1, 0, last]);
        let used = BTreeMap::from([(ip(2), "web".to_owned()), (ip(4), "db".to_owned())]);
        let show = |wanted, before, used: &BTreeMap<_, _>| {
            address(&config, &subnet, wanted, before, used)
                .map_or_else(|fail| fail.message, |address| address.to_string())
        };
        assert_eq!(show(None, None, &used), "10.1.0.3");
        assert_eq!(show(None, Some(ip(6)), &used), "10.1.0.6");
        assert_eq!(show(None, Some(ip(2)), &used), "10.1.0.3");
        assert_eq!(show(Some(ip(5)), None, &used), "10.1.0.5");
        assert_eq!(
            show(Some(ip(2)), None, &used),
            "address 10.1.0.2 of the network `net` is in use by container `web`"
        );
        assert_eq!(
            show(Some(ip(1)), None, &used),
            "address 10.1.0.1 of the network `net` is in use by its gateway"
        );
        assert_eq!(
            show(Some(ip(9)), None, &used),
            "10.1.0.9 is not an address of the network `net`, which has 10.1.0.0/29"
        );
        let full = (2..=6).map(|last| (ip(last), String::new())).collect();
        assert_eq!(
            show(None, None, &full),
            "the network `net` has no free address left in 10.1.0.0/29"
        );
    }

    #[test]
    fn interface_names_are_short_enough() {
        assert_eq!(outer(&"a".repeat(64), &"b".repeat(64)), "vaaaaaabbbbbb");
    }
}
