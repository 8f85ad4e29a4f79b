//! Names on named networks: containers by name, alias and short id; everything else is asked for outside.
//!
//! What a query means is decided in [`answer`], which is pure; [`Resolver`] moves the messages. Sockets that listen
//! are in the networks' namespace, sockets that ask are on the host's network: so its servers are reached as the host
//! reaches them, 127.0.0.53 too, and `/etc/resolv.conf` is read for every question that goes there.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use simple_dns::rdata::{A, AAAA, PTR, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};

use super::Endpoint;
use crate::net::names;

/// How long one server is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// So many questions wait for an answer at once; the oldest goes for a new one.
const WAITING: usize = 256;
/// So many TCP connections at once, and how long one may be silent.
const CONNECTIONS: usize = 64;
const SILENCE: Duration = Duration::from_secs(10);
/// The longest message there is.
const LONGEST: usize = 65_535;

/// A container, as far as names go.
#[derive(Debug, Clone)]
pub struct Known<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Whom it wants to be asked for other names.
    pub dns: &'a [IpAddr],
    /// Where it is.
    pub endpoints: &'a [Endpoint],
}

/// What to do about a query.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// This is the answer.
    Reply(Vec<u8>),
    /// One of these knows.
    Forward(Vec<SocketAddr>),
    /// Nothing: it is no query.
    Ignore,
}

/// Decides about a query that came from `from` on the network `network`. `host` are the host's servers.
fn answer(
    query: &[u8],
    network: &str,
    from: IpAddr,
    known: &[Known<'_>],
    host: impl FnOnce() -> Vec<SocketAddr>,
) -> Verdict {
    let Ok(packet) = Packet::parse(query) else {
        return failure(query, RCODE::FormatError);
    };
    if packet.has_flags(PacketFlag::RESPONSE) {
        return Verdict::Ignore;
    }
    let asker = known.iter().find(|one| {
        let mut mine = one.endpoints.iter().filter(|at| at.network == network);
        mine.any(|at| at.addresses().any(|address| address == from))
    });
    let Some(asker) = asker else {
        return failure(query, RCODE::Refused);
    };
    let [question] = packet.questions.as_slice() else {
        return failure(query, RCODE::FormatError);
    };
    let asked = question.qname.to_string();
    let reachable = |at: &&Endpoint| {
        asker
            .endpoints
            .iter()
            .any(|mine| mine.network == at.network)
    };
    let mut reply = Packet::new_reply(packet.id());
    reply.questions.push(question.clone());
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE | PacketFlag::AUTHORITATIVE_ANSWER);
    if packet.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    let mut is_ours = false;
    let mut found: Vec<RData<'_>> = Vec::new();
    let pointed = pointed_at(&asked);
    for one in known {
        for at in one.endpoints.iter().filter(reachable) {
            if pointed.is_some_and(|address| at.addresses().any(|mine| mine == address)) {
                is_ours = true;
                if let (true, Ok(name)) = (wants(question.qtype, TYPE::PTR), Name::new(one.name)) {
                    found.push(RData::PTR(PTR(name)));
                }
            }
            let short = one.id.get(..12).unwrap_or(one.id);
            let mut names = [one.name, short]
                .into_iter()
                .chain(at.aliases.iter().map(String::as_str));
            if names.any(|name| name.eq_ignore_ascii_case(&asked)) {
                is_ours = true;
                if let (true, Some((address, _))) = (wants(question.qtype, TYPE::A), at.ip) {
                    found.push(RData::A(A::from(address)));
                }
                if let (true, Some((address, _))) = (wants(question.qtype, TYPE::AAAA), at.ip6) {
                    found.push(RData::AAAA(AAAA::from(address)));
                }
            }
        }
    }
    if is_ours {
        // Whoever stops or starts is known at once: nobody keeps an answer.
        for data in found {
            let name = question.qname.clone();
            reply
                .answers
                .push(ResourceRecord::new(name, CLASS::IN, 0, data));
        }
        return reply
            .build_bytes_vec_compressed()
            .map_or(Verdict::Ignore, Verdict::Reply);
    }
    // What an internal network has no way to, it has no names of.
    if asker.endpoints.iter().all(|at| at.internal) {
        return failure(query, RCODE::NameError);
    }
    let servers = if asker.dns.is_empty() {
        host()
    } else {
        asker
            .dns
            .iter()
            .map(|ip| SocketAddr::new(*ip, 53))
            .collect()
    };
    if servers.is_empty() {
        return failure(query, RCODE::ServerFailure);
    }
    Verdict::Forward(servers)
}

fn wants(asked: QTYPE, kind: TYPE) -> bool {
    asked == QTYPE::ANY || asked == QTYPE::TYPE(kind)
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
fn pointed_at(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let mut parts: Vec<&str> = rest.split('.').collect();
        parts.reverse();
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let digits: String = rest.split('.').rev().collect();
    let number = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| IpAddr::V6(Ipv6Addr::from(number)))
}

/// The answer that there is none, out of a query that may be damaged: header and question are the query's.
fn failure(query: &[u8], code: RCODE) -> Verdict {
    let Some(header) = query.get(..12) else {
        return Verdict::Ignore;
    };
    let mut reply = header.to_vec();
    // QR, opcode and RD of the query; RA and the code. Source: RFC 1035, 4.1.1.
    reply[2] = (header[2] & 0x79) | 0x80;
    reply[3] = 0x80 | (code as u16).to_be_bytes()[1];
    reply[4..].fill(0);
    if let Ok(packet) = Packet::parse(query)
        && let [question] = packet.questions.as_slice()
    {
        let mut whole = Packet::new_query(0);
        whole.questions.push(question.clone());
        if let Ok(bytes) = whole.build_bytes_vec() {
            reply[5] = 1;
            reply.extend_from_slice(&bytes[12..]);
        }
    }
    Verdict::Reply(reply)
}

/// The host's servers, as they are now.
fn host_servers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    names::name_servers(&text)
        .filter_map(|server| server.parse().ok())
        .map(|server| SocketAddr::new(server, 53))
        .collect()
}

/// Where something can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A query on a network.
    Query(String),
    /// A connection on a network.
    Connection(String),
    /// An answer from outside: the number of the question.
    Answer(u64),
    /// The client of a connection, by number.
    Client(u64),
    /// The server that is asked for a connection, by number.
    Server(u64),
}

/// A query that somebody outside was asked.
#[derive(Debug)]
struct Asked {
    number: u64,
    socket: UdpSocket,
    network: String,
    client: SocketAddr,
    query: Vec<u8>,
    servers: VecDeque<SocketAddr>,
    until: Instant,
}

/// One TCP connection: messages with their length in front. Source: RFC 1035, 4.2.2.
#[derive(Debug)]
struct Connection {
    number: u64,
    stream: TcpStream,
    network: String,
    from: IpAddr,
    input: Vec<u8>,
    output: Vec<u8>,
    asked: Option<AskedByTcp>,
    until: Instant,
    over: bool,
}

#[derive(Debug)]
struct AskedByTcp {
    stream: TcpStream,
    output: Vec<u8>,
    input: Vec<u8>,
    query: Vec<u8>,
    servers: VecDeque<SocketAddr>,
}

/// All that listens and waits.
#[derive(Debug, Default)]
pub struct Resolver {
    networks: BTreeMap<String, (UdpSocket, TcpListener)>,
    asked: VecDeque<Asked>,
    connections: Vec<Connection>,
    last: u64,
}

impl Resolver {
    /// Answers on these sockets from now on.
    pub fn listen(&mut self, network: &str, sockets: (UdpSocket, TcpListener)) {
        self.networks.insert(network.to_owned(), sockets);
    }

    /// Answers on a network no more.
    pub fn leave(&mut self, network: &str) {
        self.networks.remove(network);
        self.asked.retain(|one| one.network != network);
        self.connections.retain(|one| one.network != network);
    }

    /// What to wait for.
    pub fn sources(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let mut all = Vec::new();
        for (name, (datagrams, connections)) in &self.networks {
            all.push((
                Source::Query(name.clone()),
                datagrams.as_fd(),
                PollFlags::IN,
            ));
            if self.connections.len() < CONNECTIONS {
                let source = Source::Connection(name.clone());
                all.push((source, connections.as_fd(), PollFlags::IN));
            }
        }
        for one in &self.asked {
            all.push((
                Source::Answer(one.number),
                one.socket.as_fd(),
                PollFlags::IN,
            ));
        }
        for one in &self.connections {
            let flags = if !one.output.is_empty() {
                PollFlags::OUT
            } else if one.asked.is_none() {
                PollFlags::IN
            } else {
                PollFlags::empty()
            };
            all.push((Source::Client(one.number), one.stream.as_fd(), flags));
            if let Some(asked) = &one.asked {
                let flags = if asked.output.is_empty() {
                    PollFlags::IN
                } else {
                    PollFlags::OUT
                };
                all.push((Source::Server(one.number), asked.stream.as_fd(), flags));
            }
        }
        all
    }

    /// When something has to be given up at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let asked = self.asked.iter().map(|one| one.until);
        asked
            .chain(self.connections.iter().map(|one| one.until))
            .min()
    }

    /// Gives up what has waited too long: the next server, or the answer that there is none.
    pub fn expire(&mut self) {
        let now = Instant::now();
        let late: Vec<u64> = self
            .asked
            .iter()
            .filter(|one| one.until <= now)
            .map(|one| one.number)
            .collect();
        for number in late {
            if let Some(at) = self.asked.iter().position(|one| one.number == number)
                && let Some(one) = self.asked.remove(at)
            {
                self.ask(one.network, one.client, one.query, one.servers);
            }
        }
        self.connections.retain(|one| one.until > now);
    }

    /// Does what there is to do at `source`.
    pub fn turn(&mut self, source: &Source, known: &[Known<'_>]) {
        match source {
            Source::Query(network) => self.query(network, known),
            Source::Connection(network) => self.welcome(network),
            Source::Answer(number) => self.answered(*number),
            Source::Client(number) | Source::Server(number) => {
                let is_client = matches!(source, Source::Client(_));
                let found = self
                    .connections
                    .iter_mut()
                    .find(|one| one.number == *number);
                if let Some(one) = found {
                    one.over |= one.turn(is_client, known).is_none();
                }
                self.connections.retain(|one| !one.over);
            }
        }
    }

    fn query(&mut self, network: &str, known: &[Known<'_>]) {
        let mut buffer = [0; 4096];
        // What came at once is answered at once, but not for ever.
        for _ in 0..64 {
            let Some((socket, _)) = self.networks.get(network) else {
                return;
            };
            // Nothing more, or a sender that is gone (ICMP).
            let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                return;
            };
            let query = &buffer[..length];
            match answer(query, network, client.ip(), known, host_servers) {
                Verdict::Reply(reply) => {
                    let _ = socket.send_to(&fitting(reply), client); // it asks again
                }
                Verdict::Forward(servers) => {
                    self.ask(network.to_owned(), client, query.to_vec(), servers.into());
                }
                Verdict::Ignore => {}
            }
        }
    }

    /// Asks the first of the servers that can be asked; the client hears when there is none.
    fn ask(
        &mut self,
        network: String,
        client: SocketAddr,
        query: Vec<u8>,
        mut servers: VecDeque<SocketAddr>,
    ) {
        while let Some(server) = servers.pop_front() {
            if let Ok(socket) = question(server, &query) {
                self.last += 1;
                self.asked.push_back(Asked {
                    number: self.last,
                    socket,
                    network,
                    client,
                    query,
                    servers,
                    until: Instant::now() + PATIENCE,
                });
                if self.asked.len() > WAITING {
                    self.asked.pop_front();
                }
                return;
            }
        }
        if let (Verdict::Reply(reply), Some((socket, _))) = (
            failure(&query, RCODE::ServerFailure),
            self.networks.get(&network),
        ) {
            let _ = socket.send_to(&reply, client); // it asks again
        }
    }

    fn answered(&mut self, number: u64) {
        let Some(at) = self.asked.iter().position(|one| one.number == number) else {
            return;
        };
        let mut buffer = vec![0; LONGEST];
        match self.asked[at].socket.recv(&mut buffer) {
            // The socket is connected: it is the server's, and to this question when it has its number.
            Ok(length) if buffer[..length].get(..2) == self.asked[at].query.get(..2) => {
                if let Some(one) = self.asked.remove(at)
                    && let Some((socket, _)) = self.networks.get(&one.network)
                {
                    let _ = socket.send_to(&buffer[..length], one.client); // it asks again
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // Nobody is there.
            Err(_) => {
                if let Some(one) = self.asked.remove(at) {
                    self.ask(one.network, one.client, one.query, one.servers);
                }
            }
        }
    }

    fn welcome(&mut self, network: &str) {
        let Some((_, listener)) = self.networks.get(network) else {
            return;
        };
        let Ok((stream, from)) = listener.accept() else {
            return;
        };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        self.last += 1;
        self.connections.push(Connection {
            number: self.last,
            stream,
            network: network.to_owned(),
            from: from.ip(),
            input: Vec::new(),
            output: Vec::new(),
            asked: None,
            until: Instant::now() + SILENCE,
            over: false,
        });
    }
}

/// What is too long for a datagram is cut, and its reader told to ask by TCP (RFC 1035, 4.2.1).
fn fitting(mut reply: Vec<u8>) -> Vec<u8> {
    if reply.len() > 512
        && let Verdict::Reply(empty) = failure(&reply, RCODE::NoError)
    {
        reply = empty;
        reply[2] |= 2;
    }
    reply
}

fn question(server: SocketAddr, query: &[u8]) -> std::io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    socket.send(query)?;
    Ok(socket)
}

/// A message with its length in front.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), message].concat()
}

/// Takes the first whole message out of what has arrived.
fn unframed(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(input.get(..2)?.try_into().ok()?));
    let message = input.get(2..2 + length)?.to_vec();
    input.drain(..2 + length);
    Some(message)
}

/// A connection that is being made.
fn connection(server: SocketAddr) -> Option<TcpStream> {
    let family = if server.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).ok()?;
    match rustix::net::connect(&socket, &server) {
        Ok(()) | Err(Errno::INPROGRESS) => Some(socket.into()),
        Err(_) => None,
    }
}

/// What a read or write without waiting has brought: `None` when the connection is over.
fn moved(result: std::io::Result<usize>) -> Option<usize> {
    match result {
        Ok(0) => None,
        Ok(length) => Some(length),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Some(0),
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Some(0),
        Err(_) => None,
    }
}

impl Connection {
    /// `None` when it is over.
    fn turn(&mut self, is_client: bool, known: &[Known<'_>]) -> Option<()> {
        self.until = Instant::now() + SILENCE;
        if !is_client {
            return self.serve();
        }
        if !self.output.is_empty() {
            let written = moved(self.stream.write(&self.output))?;
            self.output.drain(..written);
        } else if self.asked.is_none() {
            let mut buffer = [0; 4096];
            let length = moved(self.stream.read(&mut buffer))?;
            self.input.extend_from_slice(&buffer[..length]);
        } else {
            return None; // it has hung up
        }
        if !self.output.is_empty() || self.asked.is_some() {
            return Some(());
        }
        let Some(query) = unframed(&mut self.input) else {
            return Some(());
        };
        match answer(&query, &self.network, self.from, known, host_servers) {
            Verdict::Reply(reply) => self.output = framed(&reply),
            Verdict::Forward(servers) => self.ask(query, servers.into()),
            Verdict::Ignore => return None,
        }
        Some(())
    }

    fn ask(&mut self, query: Vec<u8>, mut servers: VecDeque<SocketAddr>) {
        while let Some(server) = servers.pop_front() {
            if let Some(stream) = connection(server) {
                self.asked = Some(AskedByTcp {
                    stream,
                    output: framed(&query),
                    input: Vec::new(),
                    query,
                    servers,
                });
                return;
            }
        }
        self.asked = None;
        if let Verdict::Reply(reply) = failure(&query, RCODE::ServerFailure) {
            self.output = framed(&reply);
        }
    }

    fn serve(&mut self) -> Option<()> {
        let asked = self.asked.as_mut()?;
        let mut buffer = [0; 4096];
        let done = if asked.output.is_empty() {
            moved(asked.stream.read(&mut buffer)).map(|length| {
                asked.input.extend_from_slice(&buffer[..length]);
            })
        } else {
            moved(asked.stream.write(&asked.output)).map(|length| {
                asked.output.drain(..length);
            })
        };
        if done.is_none() {
            let asked = self.asked.take()?;
            self.ask(asked.query, asked.servers);
        } else if let Some(reply) = unframed(&mut asked.input) {
            self.output = framed(&reply);
            self.asked = None;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::{QCLASS, Question};

    fn endpoint(network: &str, ip: &str, aliases: &[&str], internal: bool) -> Endpoint {
        Endpoint {
            network: network.to_owned(),
            network_id: String::new(),
            interface: "eth0".to_owned(),
            aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
            ip: Some((ip.parse().unwrap(), 24)),
            ip6: None,
            gateways: Vec::new(),
            mac: [0; 6],
            internal,
        }
    }

    fn query(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).unwrap();
        packet.questions.push(Question::new(
            name,
            QTYPE::TYPE(kind),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        packet.build_bytes_vec().unwrap()
    }

    fn shown(query: &[u8], network: &str, from: &str) -> String {
        let front = [endpoint("front", "10.0.0.2", &["www"], false)];
        let both = [
            endpoint("front", "10.0.0.3", &["www", "app"], false),
            endpoint("back", "10.0.1.3", &[], true),
        ];
        let back = [endpoint("back", "10.0.1.4", &["sql"], true)];
        let one = |id, name, endpoints| Known {
            id,
            name,
            dns: &[],
            endpoints,
        };
        let known = [
            one("aaaaaaaaaaaaaaaa", "web", &front[..]),
            one("bbbbbbbbbbbbbbbb", "app-1", &both[..]),
            one("cccccccccccccccc", "db", &back[..]),
        ];
        let host = || vec!["127.0.0.53:53".parse().unwrap()];
        match answer(query, network, from.parse().unwrap(), &known, host) {
            Verdict::Reply(reply) => {
                let reply = Packet::parse(&reply).unwrap();
                assert_eq!(reply.id(), 7);
                assert!(reply.has_flags(PacketFlag::RESPONSE));
                let data = reply.answers.iter().map(|one| {
                    if let RData::A(a) = &one.rdata {
                        Ipv4Addr::from(a.address).to_string()
                    } else if let RData::PTR(name) = &one.rdata {
                        name.0.to_string()
                    } else {
                        format!("{:?}", one.rdata)
                    }
                });
                format!("{:?} {}", reply.rcode(), data.collect::<Vec<_>>().join(" "))
            }
            Verdict::Forward(servers) => format!("forward {servers:?}"),
            Verdict::Ignore => "nothing".to_owned(),
        }
    }

    #[test]
    fn who_shares_a_network_is_found_by_name() {
        for (name, kind, network, from, expected) in [
            ("app-1", TYPE::A, "front", "10.0.0.2", "NoError 10.0.0.3"),
            ("APP", TYPE::A, "front", "10.0.0.2", "NoError 10.0.0.3"),
            (
                "www",
                TYPE::A,
                "front",
                "10.0.0.2",
                "NoError 10.0.0.2 10.0.0.3",
            ),
            (
                "bbbbbbbbbbbb",
                TYPE::A,
                "front",
                "10.0.0.2",
                "NoError 10.0.0.3",
            ),
            ("app-1", TYPE::AAAA, "front", "10.0.0.2", "NoError "),
            ("db", TYPE::A, "front", "10.0.0.3", "NoError 10.0.1.4"),
            ("app-1", TYPE::A, "back", "10.0.1.4", "NoError 10.0.1.3"),
            (
                "db",
                TYPE::A,
                "front",
                "10.0.0.2",
                "forward [127.0.0.53:53]",
            ),
            ("web", TYPE::A, "back", "10.0.1.4", "NameError "),
            ("example.org", TYPE::A, "back", "10.0.1.4", "NameError "),
            (
                "example.org",
                TYPE::A,
                "back",
                "10.0.1.3",
                "forward [127.0.0.53:53]",
            ),
            ("web", TYPE::A, "front", "10.0.0.99", "Refused "),
            ("web", TYPE::A, "back", "10.0.0.2", "Refused "),
            (
                "3.0.0.10.in-addr.arpa",
                TYPE::PTR,
                "front",
                "10.0.0.2",
                "NoError app-1",
            ),
        ] {
            assert_eq!(
                shown(&query(name, kind), network, from),
                expected,
                "{name} {from}"
            );
        }
    }

    #[test]
    fn what_is_no_query_gets_no_long_answer() {
        assert_eq!(shown(&[], "front", "10.0.0.2"), "nothing");
        let mut reply = query("web", TYPE::A);
        reply[2] |= 0x80;
        assert_eq!(shown(&reply, "front", "10.0.0.2"), "nothing");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let _ = answer(&bytes, "n", Ipv4Addr::LOCALHOST.into(), &[], Vec::new);
        }
    }

    #[test]
    fn messages_on_a_stream_are_cut_by_their_length() {
        let mut input = framed(b"one");
        input.extend(framed(b"two"));
        input.truncate(9);
        assert_eq!(unframed(&mut input).as_deref(), Some(&b"one"[..]));
        assert_eq!(unframed(&mut input), None);
        input.push(b'o');
        assert_eq!(unframed(&mut input).as_deref(), Some(&b"two"[..]));
    }

    #[test]
    fn addresses_are_read_out_of_names() {
        assert_eq!(pointed_at("4.3.2.1.in-addr.arpa"), "1.2.3.4".parse().ok());
        let six = format!("1.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
        assert_eq!(pointed_at(&six), "fd00::1".parse().ok());
        assert_eq!(pointed_at("1.d.f.ip6.arpa"), None);
        assert_eq!(pointed_at("example.org"), None);
    }
}
