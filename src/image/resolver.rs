//! Names of hosts → addresses, without getaddrinfo(3).
//!
//! A static glibc loads NSS modules for getaddrinfo, which can crash the program. So: literal addresses,
//! `/etc/hosts`, `localhost`, then the program `getent`, which knows everything that NSS knows (LDAP, mDNS,
//! systemd-resolved); where there is none, plain DNS over UDP as `/etc/resolv.conf` says. No TCP, no DNSSEC,
//! and nothing is cached beyond one [`Resolver`].

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::ResolvedSocketAddrs;
use ureq::unversioned::transport::NextTimeout;

use super::program;
use crate::error::Fail;

/// The longest that a look-up takes when nobody says otherwise.
const LIMIT: Duration = Duration::from_secs(15);
/// Most addresses kept of a host.
const MAX_ADDRESSES: usize = 8;

/// Looks up names and remembers the answers for its own lifetime; clones share the memory.
#[derive(Debug, Clone, Default)]
pub struct Resolver {
    known: Arc<Mutex<HashMap<String, Vec<IpAddr>>>>,
}

impl ureq::unversioned::resolver::Resolver for Resolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri
            .host()
            .ok_or_else(|| ureq::Error::BadUri(uri.to_string()))?;
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            _ => 443,
        };
        let port = uri.port_u16().unwrap_or(default_port);
        let limit = if timeout.after.is_not_happening() {
            LIMIT
        } else {
            *timeout.after
        };
        let found = self
            .look_up(host, limit)
            .map_err(|fail| ureq::Error::Other(Box::new(fail)))?;
        let sockets = found
            .into_iter()
            .map(|address| SocketAddr::new(address, port));
        let mut addresses = self.empty();
        for address in config.ip_family().keep_wanted(sockets).take(MAX_ADDRESSES) {
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err(ureq::Error::HostNotFound);
        }
        Ok(addresses)
    }
}

impl Resolver {
    /// The addresses of `host`, best first; at least one.
    ///
    /// # Errors
    /// [`crate::error::Kind::Network`] that says who was asked.
    pub fn look_up(&self, host: &str, limit: Duration) -> Result<Vec<IpAddr>, Fail> {
        // Held while asking: eight threads that want one host ask once.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(addresses) = known.get(host) {
            return Ok(addresses.clone());
        }
        let addresses = look_up(host, limit)?;
        known.insert(host.to_owned(), addresses.clone());
        Ok(addresses)
    }
}

fn look_up(host: &str, limit: Duration) -> Result<Vec<IpAddr>, Fail> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse() {
        return Ok(vec![address]);
    }
    // It becomes a word of a command line and of a DNS question.
    if !is_host_name(host) {
        return Err(Fail::usage(format!(
            "`{}` is not a host name",
            host.escape_debug()
        )));
    }
    let hosts = std::fs::read("/etc/hosts").unwrap_or_default(); // without the file there are no names in it
    let listed = in_hosts_file(&String::from_utf8_lossy(&hosts), host);
    if !listed.is_empty() {
        return Ok(listed);
    }
    if is_localhost(host) {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let until = Instant::now() + limit;
    match ask_getent(host, limit) {
        Getent::Found(addresses) => return Ok(addresses),
        Getent::Unknown => {
            return Err(unknown(
                host,
                "the system's name services (getent) do not know it",
            ));
        }
        Getent::Slow => {
            return Err(unknown(
                host,
                "the system's name services did not answer in time",
            ));
        }
        Getent::Unusable => {}
    }
    let text = std::fs::read("/etc/resolv.conf").unwrap_or_default(); // its absence means the default server
    let resolv_conf = ResolvConf::parse(&String::from_utf8_lossy(&text));
    let servers: Vec<SocketAddr> = resolv_conf
        .servers
        .iter()
        .map(|address| SocketAddr::new(*address, 53))
        .collect();
    ask_dns(host, &resolv_conf, &servers, until)
}

fn unknown(host: &str, why: &str) -> Fail {
    let config = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(); // as good as empty
    if names_no_server(&config) {
        return Fail::network(format!(
            "cannot find the address of `{host}`: /etc/resolv.conf names no server"
        ))
        .hint("ask your administrator to name one there: nameserver ADDRESS")
        .hint("for what runs inside: --dns ADDRESS")
        .code("RL-N05");
    }
    Fail::network(format!("cannot find the address of `{host}`: {why}"))
        .hint("check the name, /etc/resolv.conf, and the network of this machine")
        .hint("a compute node without network? pull on the login node: the store is shared")
        .code("RL-N06")
}

fn names_no_server(config: &str) -> bool {
    let mut lines = config.lines().map(str::split_ascii_whitespace);
    !lines.any(|mut words| words.next() == Some("nameserver"))
}

fn is_host_name(host: &str) -> bool {
    host.len() <= 253
        && host.trim_end_matches('.').split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

/// Whether `host` always means this machine. Source: RFC 6761, section 6.3.
#[must_use]
pub fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Source: hosts(5).
fn in_hosts_file(text: &str, host: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_ascii_whitespace();
            let address = words.next()?.parse().ok()?; // zone ids and mistakes are skipped, as glibc does
            words
                .any(|name| name.eq_ignore_ascii_case(host))
                .then_some(address)
        })
        .take(MAX_ADDRESSES)
        .collect()
}

enum Getent {
    Found(Vec<IpAddr>),
    Unknown,
    Slow,
    /// There is none, or it is one that cannot do this.
    Unusable,
}

fn ask_getent(host: &str, limit: Duration) -> Getent {
    let mut command = Command::new("getent");
    match program::ask(command.args(["ahosts", host]), b"", limit) {
        Ok(answer) => {
            let found = in_getent_output(&String::from_utf8_lossy(&answer.stdout));
            match answer.status.code() {
                Some(0) if !found.is_empty() => Getent::Found(found),
                Some(2) => Getent::Unknown, // getent(1): the key was not found
                Some(_) | None => Getent::Unusable,
            }
        }
        Err(error) if error.kind() == ErrorKind::TimedOut => Getent::Slow,
        Err(_) => Getent::Unusable,
    }
}

/// `192.0.2.1       STREAM example.org`, three lines for each address.
fn in_getent_output(text: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in text
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().next()?.parse().ok())
    {
        if !found.contains(&address) && found.len() < MAX_ADDRESSES {
            found.push(address);
        }
    }
    found
}

/// The part of resolv.conf(5) that matters here.
#[derive(Debug, PartialEq, Eq)]
struct ResolvConf {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: u32,
}

impl ResolvConf {
    fn parse(text: &str) -> Self {
        let mut conf = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    conf.servers
                        .extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                Some("search" | "domain") => {
                    conf.search = words
                        .map(|word| word.trim_matches('.').to_owned())
                        .filter(|word| is_host_name(word))
                        .take(6)
                        .collect();
                }
                Some("options") => words.for_each(|word| conf.option(word)),
                Some(_) | None => {}
            }
        }
        conf.servers.truncate(3);
        if conf.servers.is_empty() {
            conf.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        conf
    }

    fn option(&mut self, word: &str) {
        let Some((name, Ok(value))) = word
            .split_once(':')
            .map(|(name, value)| (name, value.parse::<u32>()))
        else {
            return;
        };
        match name {
            "ndots" => self.ndots = value.min(15) as usize,
            "timeout" => self.timeout = Duration::from_secs(u64::from(value.clamp(1, 30))),
            "attempts" => self.attempts = value.clamp(1, 5),
            _ => {}
        }
    }

    /// The full names to ask for, in order.
    fn candidates(&self, host: &str) -> Vec<String> {
        if let Some(absolute) = host.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let mut names: Vec<String> = self
            .search
            .iter()
            .map(|domain| format!("{host}.{domain}"))
            .filter(|name| is_host_name(name))
            .collect();
        let dots = host.matches('.').count();
        let position = if dots >= self.ndots { 0 } else { names.len() };
        names.insert(position, host.to_owned());
        names
    }
}

const A: u16 = 1;
const AAAA: u16 = 28;

fn ask_dns(
    host: &str,
    conf: &ResolvConf,
    servers: &[SocketAddr],
    until: Instant,
) -> Result<Vec<IpAddr>, Fail> {
    let mut answered = false;
    for name in conf.candidates(host) {
        let mut found = Vec::new();
        for kind in [A, AAAA] {
            if let Some(addresses) = ask_servers(&name, kind, conf, servers, until) {
                answered = true;
                found.extend(addresses);
            }
        }
        if !found.is_empty() {
            found.truncate(MAX_ADDRESSES);
            return Ok(found);
        }
    }
    let list: Vec<String> = servers
        .iter()
        .map(|server| server.ip().to_string())
        .collect();
    Err(unknown(
        host,
        &if answered {
            format!(
                "the DNS servers of /etc/resolv.conf ({}) do not know it",
                list.join(", ")
            )
        } else {
            format!(
                "no DNS server of /etc/resolv.conf ({}) answered",
                list.join(", ")
            )
        },
    ))
}

/// `None` when nobody answered.
fn ask_servers(
    name: &str,
    kind: u16,
    conf: &ResolvConf,
    servers: &[SocketAddr],
    until: Instant,
) -> Option<Vec<IpAddr>> {
    for _ in 0..conf.attempts {
        for server in servers {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            // An unreachable server is one that did not answer: the next one is asked.
            if let Ok(found) = ask_server(name, kind, *server, conf.timeout.min(left)) {
                return Some(found);
            }
        }
    }
    None
}

fn ask_server(
    name: &str,
    kind: u16,
    server: SocketAddr,
    limit: Duration,
) -> std::io::Result<Vec<IpAddr>> {
    let until = Instant::now() + limit;
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    // Connected, so that the kernel drops what others send.
    socket.connect(server)?;
    // SipHash with a key from the system's random source: the id must not be guessable.
    let random = std::hash::RandomState::new().build_hasher().finish();
    let id = u16::from_le_bytes([random.to_le_bytes()[0], random.to_le_bytes()[1]]);
    let question = question(id, name, kind);
    socket.send(&question)?;
    let mut buffer = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let count = socket.recv(&mut buffer)?;
        match read_reply(&buffer[..count], &question, kind) {
            Reply::Addresses(found) => return Ok(found),
            Reply::Refused => return Err(ErrorKind::ConnectionRefused.into()),
            Reply::NotOurs => {}
        }
    }
}

/// One question, recursion desired. Source: RFC 1035, section 4.
fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut packet = Vec::with_capacity(name.len() + 18);
    packet.extend(id.to_be_bytes());
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        packet.extend(label.len().to_le_bytes().first()); // at most 63: `is_host_name`
        packet.extend(label.bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend(1_u16.to_be_bytes());
    packet
}

#[derive(Debug, PartialEq, Eq)]
enum Reply {
    /// Perhaps none: the name does not exist, or has none of this kind.
    Addresses(Vec<IpAddr>),
    /// This server cannot say.
    Refused,
    NotOurs,
}

/// Takes all addresses of the answer: a server that recurses has followed the aliases.
fn read_reply(packet: &[u8], question: &[u8], kind: u16) -> Reply {
    let body = question.len();
    let ours = packet.len() >= body
        && packet[..2] == question[..2]
        && packet[2] & 0x80 != 0
        && packet[4..6] == [0, 1]
        && packet[12..body].eq_ignore_ascii_case(&question[12..]);
    if !ours {
        // A server that fails early may leave the question out.
        let early = packet.len() >= 12 && packet[..2] == question[..2] && packet[2] & 0x80 != 0;
        return if early && packet[3] & 0x0f != 0 {
            Reply::Refused
        } else {
            Reply::NotOurs
        };
    }
    match packet[3] & 0x0f {
        0 => {}
        3 => return Reply::Addresses(Vec::new()), // no such name
        _ => return Reply::Refused,
    }
    let count = u16::from_be_bytes([packet[6], packet[7]]);
    let mut found = Vec::new();
    let mut at = body;
    for _ in 0..count {
        // A truncated reply is good for what it has.
        let Some(next) = read_record(packet, at, kind, &mut found) else {
            break;
        };
        at = next;
    }
    Reply::Addresses(found)
}

fn read_record(packet: &[u8], at: usize, kind: u16, found: &mut Vec<IpAddr>) -> Option<usize> {
    let at = skip_name(packet, at)?;
    let head = packet.get(at..at + 10)?;
    let (record, class) = (
        u16::from_be_bytes([head[0], head[1]]),
        u16::from_be_bytes([head[2], head[3]]),
    );
    let length = usize::from(u16::from_be_bytes([head[8], head[9]]));
    let data = packet.get(at + 10..at + 10 + length)?;
    if record == kind && class == 1 {
        if let Ok(four) = <[u8; 4]>::try_from(data) {
            found.push(Ipv4Addr::from(four).into());
        } else if let Ok(sixteen) = <[u8; 16]>::try_from(data) {
            found.push(Ipv6Addr::from(sixteen).into());
        }
    }
    Some(at + 10 + length)
}

fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn literals_and_localhost_need_nobody() {
        for (host, first) in [
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "::1"),
            ("192.0.2.7", "192.0.2.7"),
            ("x.localhost", "127.0.0.1"),
        ] {
            let found = Resolver::default().look_up(host, LIMIT).unwrap();
            assert_eq!(found[0].to_string(), first);
        }
        for bad in ["-x", "a b", "", "a..b", "$(id)"] {
            assert!(Resolver::default().look_up(bad, LIMIT).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_hosts_file_is_read_as_glibc_reads_it() {
        let text = "# 1.1.1.1 web\n127.0.0.1\tlocalhost\n\n10.0.0.1 Web.lan web # alias\n::2 web\nbad web\n";
        assert_eq!(
            in_hosts_file(text, "WEB"),
            [
                "10.0.0.1".parse::<IpAddr>().unwrap(),
                "::2".parse().unwrap()
            ]
        );
        assert!(in_hosts_file(text, "alias").is_empty());
    }

    #[test]
    fn the_output_of_getent_has_each_address_once() {
        let text = "2001:db8::1     STREAM x\n2001:db8::1     DGRAM\n192.0.2.1       STREAM\n";
        let found: Vec<String> = in_getent_output(text)
            .iter()
            .map(IpAddr::to_string)
            .collect();
        assert_eq!(found, ["2001:db8::1", "192.0.2.1"]);
    }

    #[test]
    fn resolv_conf_says_whom_to_ask_for_what() {
        let conf = ResolvConf::parse(
            "nameserver 192.0.2.1\nnameserver ::1\n; x\nsearch a.example b.example.\noptions ndots:2 timeout:1 attempts:9 rotate\n",
        );
        assert_eq!(conf.servers.len(), 2);
        assert_eq!((conf.ndots, conf.attempts), (2, 5));
        assert_eq!(
            conf.candidates("w.x"),
            ["w.x.a.example", "w.x.b.example", "w.x"]
        );
        assert_eq!(conf.candidates("w.x.y")[0], "w.x.y");
        assert_eq!(conf.candidates("w."), ["w"]);
        assert_eq!(
            ResolvConf::parse("").servers,
            [IpAddr::from(Ipv4Addr::LOCALHOST)]
        );
    }

    fn reply(question: &[u8], code: u8, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut packet = question.to_vec();
        packet[2] |= 0x80;
        packet[3] = code;
        packet[7] = u8::try_from(records.len()).unwrap();
        for (kind, data) in records {
            packet.extend([0xc0, 12]);
            packet.extend(kind.to_be_bytes());
            packet.extend([0, 1, 0, 0, 0, 60]);
            packet.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            packet.extend(*data);
        }
        packet
    }

    #[test]
    fn a_dns_server_is_asked_over_udp() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            for _ in 0..2 {
                let (count, client) = server.recv_from(&mut buffer).unwrap();
                let question = buffer[..count].to_vec();
                let mut foreign = reply(&question, 0, &[(A, &[9, 9, 9, 9])]);
                foreign[0] ^= 0xff;
                server.send_to(&foreign, client).unwrap();
                let alias: (u16, &[u8]) = (5, b"\x01x\x00");
                let answer = reply(&question, 0, &[alias, (A, &[192, 0, 2, 1])]);
                server.send_to(&answer, client).unwrap();
            }
        });
        let conf = ResolvConf::parse("");
        let until = Instant::now() + Duration::from_secs(20);
        let found = ask_dns("web.example", &conf, &[address], until).unwrap();
        serving.join().unwrap();
        assert_eq!(found, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_name_that_dns_does_not_know_is_an_error_that_names_the_server() {
        let question = question(7, "x.y", A);
        let cases = [
            (3, Reply::Addresses(Vec::new())),
            (2, Reply::Refused),
            (5, Reply::Refused),
        ];
        for (code, expected) in cases {
            assert_eq!(
                read_reply(&reply(&question, code, &[]), &question, A),
                expected
            );
        }
        let conf = ResolvConf::parse("options attempts:1");
        let fail = ask_dns("x.y", &conf, &[], Instant::now()).expect_err("nobody answers");
        assert!(
            fail.message.contains("x.y") && fail.message.contains("answered"),
            "{fail}"
        );
    }

    proptest! {
        #[test]
        fn no_reply_makes_it_panic(
            tail in proptest::collection::vec(any::<u8>(), 0..60), count in any::<u8>(), cut in 0..60_usize
        ) {
            let question = question(7, "x.y", A);
            let mut packet = reply(&question, 0, &[]);
            packet[7] = count;
            packet.extend(tail);
            packet.truncate(cut);
            let _ = read_reply(&packet, &question, A);
        }
    }
}
