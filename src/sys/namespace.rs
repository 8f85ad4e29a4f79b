//! What the kernel tells of a namespace that is open, and what can be set in ours. Source: ioctl_nsfs(2).

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::Errno;

use super::{Error, Result};

const NS_GET_USERNS: libc::Ioctl = 0xb701;
const NS_GET_PARENT: libc::Ioctl = 0xb702;
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// The user namespace that owns `namespace`.
///
/// # Errors
/// `EPERM` when that is not the caller's or one below it; `ENOTTY` when `namespace` is none.
pub fn owner(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    let fd = ask(namespace, NS_GET_USERNS, "NS_GET_USERNS")?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The user namespace that this one was made in.
///
/// # Errors
/// `EPERM` when that is not the caller's or one below it.
pub fn parent(user: BorrowedFd<'_>) -> Result<OwnedFd> {
    let fd = ask(user, NS_GET_PARENT, "NS_GET_PARENT")?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Which kind of namespace it is: one of the `CLONE_NEW*` flags.
///
/// # Errors
/// `ENOTTY` when it is none.
pub fn kind(namespace: BorrowedFd<'_>) -> Result<i32> {
    ask(namespace, NS_GET_NSTYPE, "NS_GET_NSTYPE")
}

/// `CLONE_NEWUSER|CLONE_NEWNS…`, for messages.
#[must_use]
pub fn flag_names(flags: i32) -> String {
    let names = [
        (libc::CLONE_NEWUSER, "CLONE_NEWUSER"),
        (libc::CLONE_NEWNS, "CLONE_NEWNS"),
        (libc::CLONE_NEWPID, "CLONE_NEWPID"),
        (libc::CLONE_NEWNET, "CLONE_NEWNET"),
        (libc::CLONE_NEWIPC, "CLONE_NEWIPC"),
        (libc::CLONE_NEWUTS, "CLONE_NEWUTS"),
        (libc::CLONE_NEWCGROUP, "CLONE_NEWCGROUP"),
    ];
    names
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| *name)
        .collect::<Vec<_>>()
        .join("|")
}

fn ask(namespace: BorrowedFd<'_>, question: libc::Ioctl, name: &str) -> Result<i32> {
    // SAFETY: these requests take no argument and touch none of our memory.
    let answer = unsafe { libc::ioctl(namespace.as_raw_fd(), question) };
    if answer >= 0 {
        return Ok(answer);
    }
    let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
    Err(Error::new(format!("ioctl({name})"), errno))
}

/// setdomainname(2).
///
/// # Errors
/// The kernel's.
pub fn set_domain_name(name: &str) -> Result<()> {
    // SAFETY: pointer and length belong to one string.
    if unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) } == 0 {
        return Ok(());
    }
    let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
    Err(Error::new(format!("setdomainname({name:?})"), errno))
}
