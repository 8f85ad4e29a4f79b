//! `rl:[network]`: serves the named networks of one store, from the first container on them to the last.
//!
//! One thread, one poll loop. It writes nothing down: what it knows it was told by the owners of containers, whose
//! connections are the containers' places. What it has made goes with it, killed or not: interfaces with the network
//! namespace of its child (`inside`), child and uplink by PDEATHSIG.

mod joining;
mod places;

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

use super::config::Config;
use super::dns::{self, Known, Resolver};
use super::inside::{Container, Inside};
use super::{Endpoint, Guest, Present, Reply, Request};
use crate::error::{self, Fail};
use crate::net::Uplink;
use crate::net::forward::{self, Forward};
use crate::net::link;
use crate::paths::{self, Store};
use crate::spec::Bound;
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
