//! The little that is said to network interfaces directly.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{Error, Result};

/// Of linux/sockios.h; the C libraries do not agree on their type.
const SIOCGIFFLAGS: rustix::ioctl::Opcode = 0x8913;
const SIOCSIFFLAGS: rustix::ioctl::Opcode = 0x8914;

/// Brings `lo` up in the network namespace of this process, if it is not. Source: netdevice(7), SIOCSIFFLAGS.
///
/// # Errors
/// `EPERM` when the namespace belongs to another user namespace.
pub fn raise_loopback() -> Result<()> {
    loopback().map_err(|(call, errno)| Error::new(call, errno))
}

/// The same for who may not allocate. The kernel takes 0.2 ms for it, and for one that is up already 1 µs to say so.
pub(super) fn loopback() -> std::result::Result<(), (&'static str, Errno)> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
        .map_err(|errno| ("socket(AF_INET)", errno))?;
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: the call takes and fills in an `ifreq`.
    let get = unsafe { rustix::ioctl::Updater::<SIOCGIFFLAGS, _>::new(&mut request) };
    // SAFETY: as above.
    unsafe { rustix::ioctl::ioctl(&socket, get) }
        .map_err(|errno| ("ioctl(SIOCGIFFLAGS)", errno))?;
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the flags fit the field's 16 bits"
    )]
    let up = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel has filled in this member of the union.
    if unsafe { request.ifr_ifru.ifru_flags } & up == up {
        return Ok(());
    }
    request.ifr_ifru.ifru_flags = up;
    // SAFETY: the call takes an `ifreq`.
    let set = unsafe { rustix::ioctl::Setter::<SIOCSIFFLAGS, _>::new(request) };
    // SAFETY: as above.
    unsafe { rustix::ioctl::ioctl(&socket, set) }.map_err(|errno| ("ioctl(SIOCSIFFLAGS)", errno))
}

/// Makes the Ethernet device `name` in the network namespace of this process, which stays, without a cable, until somebody
/// opens it by that name. Source: the kernel's Documentation/networking/tuntap.rst.
///
/// # Errors
/// `ENOENT`, `EACCES` without `/dev/net/tun`; `EPERM`, `EBUSY`; `EINVAL` for a name that is too long.
pub fn make_tap(name: &str) -> Result<()> {
    let device = super::fs::open_trusted(Path::new("/dev/net/tun"), OFlags::RDWR)?;
    let kind = libc::IFF_TAP | libc::IFF_NO_PI;
    set_flags(
        &device,
        (libc::TUNSETIFF as libc::Ioctl, "TUNSETIFF"),
        name,
        kind,
    )?;
    // SAFETY: TUNSETPERSIST takes a plain number.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST as libc::Ioctl, 1) };
    answered(done, || format!("ioctl(TUNSETPERSIST, {name:?})"))
}

/// One of the calls that take an interface's name and 16 bits of flags.
fn set_flags(
    to: &impl AsRawFd,
    (number, call): (libc::Ioctl, &str),
    name: &str,
    flags: i32,
) -> Result<()> {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Error::new(format!("ioctl({call}, {name:?})"), Errno::INVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the flags fit the field's 16 bits"
    )]
    let flags = flags as libc::c_short;
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: the call reads and writes an `ifreq`, which lives.
    let done = unsafe { libc::ioctl(to.as_raw_fd(), number, ptr::from_mut(&mut request)) };
    answered(done, || format!("ioctl({call}, {name:?})"))
}

fn answered(done: i32, call: impl FnOnce() -> String) -> Result<()> {
    if done == 0 {
        return Ok(());
    }
    let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
    Err(Error::new(call(), errno))
}
