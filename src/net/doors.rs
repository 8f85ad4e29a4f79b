//! `rl:[ports]`: carries what comes to a container's published ports, where its network helper does that badly.
//!
//! It is in the container's user and network namespace, holds the host's sockets, and connects to the container from
//! inside. One thread, one poll loop; it ends with whoever has started it.

use std::ffi::CString;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use rustix::event::PollFd;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::time::Timespec;

use super::forward::{self, Forward, Reach};
use super::publish::Reserved;
use crate::spec::{Bound, Protocol};
use crate::sys;
use crate::sys::process::Child;
use crate::sys::tied::Tied;

/// The word that makes it this process. Not for people.
pub const DOORS: &str = "__ports";

/// Starts it for the process `pid`, whose address is `to`, with the ports that are held. Who connects from then on waits at worst.
///
/// # Errors
/// `Conflict` when somebody was quicker with a port; the system's.
pub fn start(pid: Pid, to: IpAddr, ports: &[Reserved]) -> Result<Child> {
    for port in ports {
        port.listen()?;
    }
    let open = |kind: &str| {
        let path = format!("/proc/{}/ns/{kind}", pid.as_raw_nonzero());
        sys::fs::open_trusted(Path::new(&path), OFlags::RDONLY)
    };
    let (user, network) = (open("user")?, open("net")?);
    let doing = "starting the process for published ports";
    let mut words = vec![DOORS.to_owned(), to.to_string()];
    for port in ports {
        let number = port.as_fd().as_raw_fd();
        words.push(serde_json::to_string(&(number, port.bound)).context(doing)?);
    }
    let argv: Vec<CString> = std::iter::once(Ok(c"rl:[ports]".to_owned()))
        .chain(words.into_iter().map(CString::new))
        .collect::<Result<_, _>>()
        .context(doing)?;
    let null = sys::fs::open_trusted(Path::new("/dev/null"), OFlags::RDWR)?;
    let keep: Vec<BorrowedFd<'_>> = ports.iter().map(|port| port.as_fd()).collect();
    Ok(sys::tied::spawn(&Tied {
        program: c"/proc/self/exe",
        argv: &argv,
        env: &[],
        stdin: null.as_fd(),
        stdout: null.as_fd(),
        stderr: null.as_fd(),
        keep: &keep,
        join: &[user.as_fd(), network.as_fd()],
        own_mounts: false,
    })?)
}

/// The whole of it, for `words` = address, and number and description of each socket. Leaves by `_exit`.
pub fn main(words: &[String]) -> ! {
    sys::process::exit_now(match serve(words) {
        Ok(never) => match never {},
        Err(_) => 1, // nobody listens; whoever started it sees its end
    })
}

fn serve(words: &[String]) -> Result<std::convert::Infallible> {
    // Container root has all rights over a process in its user namespace, but not over this memory.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let (to, sockets) = words.split_first().context("no address")?;
    let to: IpAddr = to.parse()?;
    let mut forward = Forward::new();
    for word in sockets {
        let (number, bound): (i32, Bound) = serde_json::from_str(word)?;
        forward.open("", &bound, sys::process::inherited(number)?)?;
    }
    loop {
        for source in wait(&forward)? {
            forward.turn(source, &mut Here, &|_| Some(to));
        }
        forward.expire();
    }
}

fn wait(forward: &Forward) -> Result<Vec<forward::Source>> {
    let sources = forward.sources();
    let mut fds: Vec<PollFd<'_>> = sources
        .iter()
        .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
        .collect();
    let left = forward
        .deadline()
        .map(|until| until.saturating_duration_since(Instant::now()));
    let timeout = left.and_then(|left| Timespec::try_from(left).ok()); // seconds are no overflow
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(sys::Error::new("poll()", errno).into()),
    }
    let happened = sources
        .iter()
        .zip(&fds)
        .filter(|(_, fd)| !fd.revents().is_empty());
    Ok(happened.map(|((source, ..), _)| *source).collect())
}

/// This process's own network.
struct Here;

impl Reach for Here {
    fn connection(&mut self, to: SocketAddr) -> Result<TcpStream> {
        Ok(forward::begin(Protocol::Tcp, to)?.into())
    }

    fn datagrams(&mut self, to: SocketAddr) -> Result<UdpSocket> {
        Ok(forward::begin(Protocol::Udp, to)?.into())
    }
}
