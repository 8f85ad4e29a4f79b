//! The little that is said to network interfaces directly.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{Error, Result};

/// Of linux/sockios.h; the C libraries do not agree on its type.
const SIOCSIFFLAGS: libc::Ioctl = 0x8914;

/// Brings `lo` up in the network namespace of this process. Source: netdevice(7), SIOCSIFFLAGS.
///
/// # Errors
/// `EPERM` when the namespace belongs to another user namespace.
pub fn raise_loopback() -> Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| Error::new("socket(AF_INET)", errno))?;
    let up = libc::IFF_UP | libc::IFF_RUNNING;
    set_flags(&socket, (SIOCSIFFLAGS, "SIOCSIFFLAGS"), "lo", up)
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
