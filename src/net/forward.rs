//! Published ports: what comes to a socket of the host goes on to a container, from inside of its network.
//!
//! For the network process, where the sockets are the owners', who hold them too (when it is killed, who connects meanwhile
//! waits for the next one), and for `rl:[ports]`. A container does not see who the sender is. What one side does not take is not read from the other:
//! no more than [`CHUNK`] bytes wait for a connection and each way.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::Resource;
use rustix::time::Timespec;

use crate::spec::{Bound, Protocol};

/// So many bytes are read at once; a UDP message is never longer.
const CHUNK: usize = 64 << 10;
/// How often one connection reads and writes before another has its turn.
const ROUNDS: usize = 16;
/// So many TCP connections at once; more wait to be accepted.
const CONNECTIONS: usize = 1024;
/// So many senders of UDP are remembered; the one that was silent for longest goes for a new one.
const FLOWS: usize = 512;
/// How long a sender of UDP is remembered. Docker's.
const SILENCE: Duration = Duration::from_secs(90);
/// How long nothing is accepted when the system has no descriptor left.
const REST: Duration = Duration::from_secs(1);

/// A way to open sockets where the containers are.
pub trait Reach {
    /// A connection that is being made to an address there; it blocks nobody.
    ///
    /// # Errors
    /// The system's.
    fn connection(&mut self, to: SocketAddr) -> Result<TcpStream>;

    /// A socket that sends UDP to an address there and hears its answers; it blocks nobody.
    ///
    /// # Errors
    /// The system's.
    fn datagrams(&mut self, to: SocketAddr) -> Result<UdpSocket>;
}

/// Where something can happen.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// A socket of the host.
    Door(u64),
    /// One end of a connection.
    Connection(u64),
    /// The container's answers to one sender of UDP.
    Flow(u64),
}

/// A published port.
#[derive(Debug)]
struct Door {
    number: u64,
    /// The container's id.
    id: String,
    /// The container's port.
    port: u16,
    socket: Listening,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Bytes on their way from one end to the other.
#[derive(Debug, Default)]
struct Way {
    /// What the other end did not take yet.
    waiting: Vec<u8>,
    /// No more will come, and the other end was told so.
    shut: bool,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    id: String,
    address: IpAddr,
    /// Whoever came to the host.
    near: TcpStream,
    /// The container.
    far: TcpStream,
    connected: bool,
    inwards: Way,
    outwards: Way,
}

#[derive(Debug)]
struct Flow {
    number: u64,
    id: String,
    address: IpAddr,
    door: u64,
    client: SocketAddr,
    /// Connected to the container.
    socket: UdpSocket,
    until: Instant,
}

/// All published ports.
#[derive(Debug)]
pub struct Forward {
    doors: Vec<Door>,
    connections: Vec<Connection>,
    flows: Vec<Flow>,
    last: u64,
    most: usize,
    /// Until when nothing is accepted.
    rest: Option<Instant>,
    buffer: Vec<u8>,
}

impl Forward {
    /// None yet. The process may have as many descriptors as it can from now on.
    pub fn new() -> Self {
        let mut limit = rustix::process::getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        let _ = rustix::process::setrlimit(Resource::Nofile, limit); // then it is as it was
        let limit = rustix::process::getrlimit(Resource::Nofile).current;
        // Two for each connection; as many again for everything else.
        let most = limit.map_or(CONNECTIONS, |limit| {
            usize::try_from(limit / 4).unwrap_or(CONNECTIONS)
        });
        Self {
            doors: Vec::new(),
            connections: Vec::new(),
            flows: Vec::new(),
            last: 0,
            most: most.clamp(1, CONNECTIONS),
            rest: None,
            buffer: vec![0; CHUNK],
        }
    }

    /// Serves a port of the container `id`. `socket` is bound, and listens when it is one for TCP.
    ///
    /// # Errors
    /// fcntl(2).
    pub fn open(&mut self, id: &str, bound: &Bound, socket: OwnedFd) -> Result<()> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        self.last += 1;
        self.doors.push(Door {
            number: self.last,
            id: id.to_owned(),
            port: bound.port.number,
            socket: match bound.port.protocol {
                Protocol::Tcp => Listening::Tcp(socket.into()),
                Protocol::Udp => Listening::Udp(socket.into()),
            },
        });
        Ok(())
    }

    /// The container has no ports any more.
    pub fn close(&mut self, id: &str) {
        self.doors.retain(|one| one.id != id);
        self.keep(id, &[]);
    }

    /// The container has these addresses and no others: what goes elsewhere ends.
    pub fn keep(&mut self, id: &str, addresses: &[IpAddr]) {
        self.connections
            .retain(|one| one.id != id || addresses.contains(&one.address));
        self.flows
            .retain(|one| one.id != id || addresses.contains(&one.address));
    }

    /// What to wait for.
    #[must_use]
    pub fn sources(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let mut all = Vec::new();
        let is_open = self.rest.is_none() && self.connections.len() < self.most;
        for door in &self.doors {
            let fd = match &door.socket {
                Listening::Tcp(socket) if is_open => socket.as_fd(),
                Listening::Tcp(_) => continue,
                Listening::Udp(socket) => socket.as_fd(),
            };
            all.push((Source::Door(door.number), fd, PollFlags::IN));
        }
        for one in &self.connections {
            let source = Source::Connection(one.number);
            for (fd, flags) in one.interests() {
                all.push((source, fd, flags));
            }
        }
        for flow in &self.flows {
            let source = Source::Flow(flow.number);
            all.push((source, flow.socket.as_fd(), PollFlags::IN));
        }
        all
    }

    /// When something has to be given up, or begun again, at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let flows = self.flows.iter().map(|one| one.until);
        flows.chain(self.rest).min()
    }

    /// Gives up what was silent for too long.
    pub fn expire(&mut self) {
        let now = Instant::now();
        self.flows.retain(|one| one.until > now);
        self.rest = self.rest.filter(|until| *until > now);
    }

    /// Does what there is to do at `source`. `target` knows a container's address by its id, where it has one that
    /// ports lead to.
    pub fn turn(
        &mut self,
        source: Source,
        inside: &mut dyn Reach,
        target: &dyn Fn(&str) -> Option<IpAddr>,
    ) {
        match source {
            Source::Door(number) => {
                let door = self.doors.iter().position(|one| one.number == number);
                match door.map(|at| &self.doors[at].socket) {
                    Some(Listening::Tcp(_)) => self.accept(number, inside, target),
                    Some(Listening::Udp(_)) => self.datagrams(number, inside, target),
                    None => {}
                }
            }
            Source::Connection(number) => {
                let found = self.connections.iter_mut().find(|one| one.number == number);
                if let Some(one) = found
                    && one.turn(&mut self.buffer)
                {
                    self.connections.retain(|one| one.number != number);
                }
            }
            Source::Flow(number) => self.answers(number),
        }
    }

    fn accept(
        &mut self,
        number: u64,
        inside: &mut dyn Reach,
        target: &dyn Fn(&str) -> Option<IpAddr>,
    ) {
        for _ in 0..ROUNDS {
            let Some(door) = self.doors.iter().find(|one| one.number == number) else {
                return;
            };
            let Listening::Tcp(listener) = &door.socket else {
                return;
            };
            if self.connections.len() >= self.most {
                return;
            }
            let near = match listener.accept() {
                Ok((near, _)) => near,
                // Whoever came is gone again.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.rest = Some(Instant::now() + REST);
                    return;
                }
            };
            let (id, port) = (door.id.clone(), door.port);
            let far = target(&id)
                .and_then(|address| Some((address, connect(&near, inside, address, port).ok()?)));
            let Some((address, far)) = far else {
                reset(&near);
                continue;
            };
            self.last += 1;
            self.connections.push(Connection {
                number: self.last,
                id,
                address,
                near,
                far,
                connected: false,
                inwards: Way::default(),
                outwards: Way::default(),
            });
        }
    }

    fn datagrams(
        &mut self,
        number: u64,
        inside: &mut dyn Reach,
        target: &dyn Fn(&str) -> Option<IpAddr>,
    ) {
        for _ in 0..ROUNDS {
            let Some(door) = self.doors.iter().find(|one| one.number == number) else {
                return;
            };
            let Listening::Udp(socket) = &door.socket else {
                return;
            };
            let Ok((length, client)) = socket.recv_from(&mut self.buffer) else {
                return; // nothing more, or an answer that nobody wanted (ICMP)
            };
            let known = self
                .flows
                .iter()
                .position(|one| one.door == number && one.client == client);
            let at = if let Some(at) = known {
                at
            } else {
                let Some(address) = target(&door.id) else {
                    continue;
                };
                let to = SocketAddr::new(address, door.port);
                let Ok(socket) = inside.datagrams(to) else {
                    continue; // lost, as UDP may be
                };
                if self.flows.len() >= FLOWS
                    && let Some(oldest) =
                        (0..self.flows.len()).min_by_key(|at| self.flows[*at].until)
                {
                    self.flows.swap_remove(oldest);
                }
                self.last += 1;
                self.flows.push(Flow {
                    number: self.last,
                    id: door.id.clone(),
                    address,
                    door: number,
                    client,
                    socket,
                    until: Instant::now() + SILENCE,
                });
                self.flows.len() - 1
            };
            let flow = &mut self.flows[at];
            flow.until = Instant::now() + SILENCE;
            let _ = flow.socket.send(&self.buffer[..length]); // lost, as UDP may be
        }
    }

    fn answers(&mut self, number: u64) {
        let Some(flow) = self.flows.iter_mut().find(|one| one.number == number) else {
            return;
        };
        let door = self.doors.iter().find(|one| one.number == flow.door);
        let Some(Listening::Udp(door)) = door.map(|door| &door.socket) else {
            return;
        };
        for _ in 0..ROUNDS {
            let Ok(length) = flow.socket.recv(&mut self.buffer) else {
                return; // nothing more, or nobody listens there
            };
            flow.until = Instant::now() + SILENCE;
            let _ = door.send_to(&self.buffer[..length], flow.client); // lost, as UDP may be
        }
    }
}

/// A socket of this process's network that is being connected; it blocks nobody.
///
/// # Errors
/// socket(2), connect(2).
pub fn begin(protocol: Protocol, to: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// Begins a connection to the container.
fn connect(
    near: &TcpStream,
    inside: &mut dyn Reach,
    address: IpAddr,
    port: u16,
) -> Result<TcpStream> {
    near.set_nonblocking(true)?;
    let far = inside.connection(SocketAddr::new(address, port))?;
    for end in [near, &far] {
        end.set_nodelay(true)?;
        // Otherwise one whose machine has vanished stays for ever.
        sockopt::set_socket_keepalive(end, true)?;
    }
    Ok(far)
}

/// The other side learns that nobody answers.
fn reset(stream: &TcpStream) {
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO)); // else it sees an end
}

impl Connection {
    /// What to wait for at both ends. Where nothing is wanted, only its breakdown is.
    fn interests(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        if !self.connected {
            return vec![
                (self.near.as_fd(), PollFlags::empty()),
                (self.far.as_fd(), PollFlags::OUT),
            ];
        }
        let one = |from: &Way, to: &Way| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, !from.shut && from.waiting.is_empty());
            flags.set(PollFlags::OUT, !to.waiting.is_empty());
            // Both sides have said that they end: poll(2) would tell that again and again.
            (!flags.is_empty() || !to.shut).then_some(flags)
        };
        let near = one(&self.inwards, &self.outwards);
        let far = one(&self.outwards, &self.inwards);
        [(&self.near, near), (&self.far, far)]
            .into_iter()
            .filter_map(|(stream, flags)| Some((stream.as_fd(), flags?)))
            .collect()
    }

    /// Moves what can be moved; true when it is over.
    fn turn(&mut self, buffer: &mut [u8]) -> bool {
        let done = self.step(buffer);
        if done.is_err() {
            reset(&self.near);
            reset(&self.far);
        }
        done.unwrap_or(true)
    }

    fn step(&mut self, buffer: &mut [u8]) -> std::io::Result<bool> {
        if !self.connected {
            if let Some(error) = self.far.take_error()? {
                return Err(error);
            }
            self.connected = happened(&self.far, PollFlags::OUT).contains(PollFlags::OUT);
        }
        if self.connected {
            self.inwards.carry(&self.near, &self.far, buffer)?;
            self.outwards.carry(&self.far, &self.near, buffer)?;
        }
        if self.inwards.shut && self.outwards.shut {
            return Ok(true);
        }
        for (end, is_shut) in [
            (&self.near, self.outwards.shut),
            (&self.far, self.inwards.shut),
        ] {
            let broken = PollFlags::ERR | PollFlags::HUP;
            if !is_shut && happened(end, PollFlags::empty()).intersects(broken) {
                return Err(ErrorKind::ConnectionReset.into());
            }
        }
        Ok(false)
    }
}

/// What poll(2) says at once.
fn happened(stream: &TcpStream, flags: PollFlags) -> PollFlags {
    let mut fds = [PollFd::new(stream, flags)];
    match rustix::event::poll(&mut fds, Some(&Timespec::default())) {
        Ok(_) => fds[0].revents(),
        Err(Errno::INTR) => PollFlags::empty(),
        Err(_) => PollFlags::ERR,
    }
}

impl Way {
    /// Moves what comes from `from` to `to`, as far as both go along.
    fn carry(
        &mut self,
        mut from: &TcpStream,
        to: &TcpStream,
        buffer: &mut [u8],
    ) -> std::io::Result<()> {
        for _ in 0..ROUNDS {
            if !self.waiting.is_empty() {
                let written = write(to, &self.waiting)?;
                self.waiting.drain(..written);
                if !self.waiting.is_empty() {
                    return Ok(());
                }
                self.waiting = Vec::new();
            }
            if self.shut {
                return Ok(());
            }
            match from.read(buffer) {
                // Said at once: nothing will happen any more that could bring us back here.
                Ok(0) => {
                    self.shut = true;
                    return match to.shutdown(Shutdown::Write) {
                        // It has ended already, both ways.
                        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
                        done => done,
                    };
                }
                Ok(length) => {
                    let written = write(to, &buffer[..length])?;
                    self.waiting.extend_from_slice(&buffer[written..length]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// How many bytes are taken at once.
fn write(mut to: &TcpStream, bytes: &[u8]) -> std::io::Result<usize> {
    match to.write(bytes) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(0)
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ends of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn an_end_is_passed_on_by_whichever_read_meets_it() {
        for length in 0..3 * ROUNDS {
            let ((mut client, near), (far, mut container)) = (pair(), pair());
            client.write_all(&vec![7; length]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut way = Way::default();
            // One byte at a time. As many turns as the bytes and their end need, for nobody asks for one more.
            for _ in 0..(length + 1).div_ceil(ROUNDS) {
                way.carry(&near, &far, &mut [0]).unwrap();
            }
            assert!(way.shut, "{length} bytes");
            let mut came = Vec::new();
            container.read_to_end(&mut came).unwrap();
            assert_eq!(came, vec![7; length]);
        }
    }
}
