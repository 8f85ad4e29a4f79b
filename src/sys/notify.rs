//! System calls that wait for another process to judge them: seccomp_unotify(2), and the memory of who calls.
//!
//! Knows what the kernel hands over and takes back, and nothing of what a call means.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;

use rustix::io::Errno;

use super::confine::Instruction;
use super::{Error, Result};

// linux/seccomp.h: _IOWR('!', 0, struct seccomp_notif) and its kin. The size is part of each number.
const RECEIVE: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
const IS_VALID: libc::Ioctl = 0x4008_2102_u32 as libc::Ioctl;
const ADD_DESCRIPTOR: libc::Ioctl = 0x4018_2103_u32 as libc::Ioctl;
const SET_FLAGS: libc::Ioctl = 0x4008_2104_u32 as libc::Ioctl;

/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const CONTINUE: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SEND`.
const AND_SEND: u32 = 2;
/// Wakes who waits on the same processor: the caller sleeps meanwhile. KERNEL(6.6): unknown before.
const SYNC_WAKE_UP: u64 = 1;

/// A call that waits.
#[derive(Debug, Clone, Copy)]
pub struct Notice {
    /// Names it in the answer.
    pub id: u64,
    /// The thread that calls, as this process sees it.
    pub pid: i32,
    /// The number of the call.
    pub number: i64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// What becomes of a call.
#[derive(Debug)]
pub enum Answer {
    /// The kernel makes it, as if nobody had asked.
    Continue,
    /// It is not made, and returns this.
    Value(i64),
    /// It is not made, and fails so.
    Error(Errno),
}

/// seccomp(2) `SECCOMP_SET_MODE_FILTER` with `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
///
/// # Errors
/// As [`super::confine::seccomp`]; `EBUSY` where a listener is there already.
pub fn listen(program: &[Instruction], flags: libc::c_ulong) -> Result<OwnedFd> {
    let flags = flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let fd = super::confine::load(program, flags)?;
    let fd = i32::try_from(fd).map_err(|_| Error::new("seccomp()", Errno::BADF))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the answers quicker, where the kernel can.
pub fn wake_synchronously(listener: BorrowedFd<'_>) {
    // SAFETY: the ioctl takes its number by value, and nothing else.
    let _ = unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS, SYNC_WAKE_UP) }; // it works without
}

/// The next call that waits; `None` when who called is gone by now.
///
/// # Errors
/// The kernel's.
pub fn receive(listener: BorrowedFd<'_>) -> Result<Option<Notice>> {
    // SAFETY: all-zero bytes are a valid `seccomp_notif`, and the kernel insists on them.
    let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: `raw` lives, and has the size that the number of the ioctl tells.
    let done = unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, ptr::from_mut(&mut raw)) };
    match check(done.into()) {
        Ok(_) => Ok(Some(Notice {
            id: raw.id,
            pid: i32::try_from(raw.pid).unwrap_or(0),
            number: raw.data.nr.into(),
            args: raw.data.args,
        })),
        Err(Errno::NOENT | Errno::INTR) => Ok(None),
        Err(errno) => Err(Error::new("ioctl(SECCOMP_IOCTL_NOTIF_RECV)", errno)),
    }
}

/// Whether the caller still waits: what was read of it until now is its own.
#[must_use]
pub fn is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: `id` lives across the call.
    let done = unsafe { libc::ioctl(listener.as_raw_fd(), IS_VALID, ptr::from_ref(&id)) };
    done == 0
}

/// Lets the caller go on. One that is gone by now is no error.
///
/// # Errors
/// The kernel's.
pub fn answer(listener: BorrowedFd<'_>, id: u64, answer: &Answer) -> Result<()> {
    let (val, error, flags) = match answer {
        Answer::Continue => (0, 0, CONTINUE),
        Answer::Value(value) => (*value, 0, 0),
        Answer::Error(errno) => (0, -errno.raw_os_error(), 0),
    };
    let raw = libc::seccomp_notif_resp {
        id,
        val,
        error,
        flags,
    };
    // SAFETY: `raw` lives, and has the size that the number of the ioctl tells.
    let done = unsafe { libc::ioctl(listener.as_raw_fd(), SEND, ptr::from_ref(&raw)) };
    match check(done.into()) {
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::new("ioctl(SECCOMP_IOCTL_NOTIF_SEND)", errno)),
    }
}

/// Answers with a copy of `fd` in the caller's table, whose number is what the call returns.
///
/// # Errors
/// `EMFILE` for the caller's limit; `ENOENT` when it is gone. KERNEL(5.14): `EINVAL` before.
pub fn answer_with(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    close_on_exec: bool,
) -> std::result::Result<(), Errno> {
    let number = |number: i32| u32::try_from(number).unwrap_or(0);
    let raw = libc::seccomp_notif_addfd {
        id,
        flags: AND_SEND,
        srcfd: number(fd.as_raw_fd()),
        newfd: 0,
        newfd_flags: if close_on_exec {
            number(libc::O_CLOEXEC)
        } else {
            0
        },
    };
    // SAFETY: `raw` lives, and has the size that the number of the ioctl tells.
    let done = unsafe { libc::ioctl(listener.as_raw_fd(), ADD_DESCRIPTOR, ptr::from_ref(&raw)) };
    check(done.into()).map(|_| ())
}

/// process_vm_readv(2) of one piece; how much was there.
///
/// # Errors
/// The kernel's: `EFAULT`, `ESRCH`, `EPERM`.
pub fn read_memory(pid: i32, address: u64, into: &mut [u8]) -> std::result::Result<usize, Errno> {
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let remote = foreign(address, into.len())?;
    // SAFETY: the local piece is `into`; the remote one is an address in another process, which the kernel checks.
    let done = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    let length = check(i64::try_from(done).map_err(|_| Errno::FAULT)?)?;
    usize::try_from(length).map_err(|_| Errno::FAULT)
}

/// process_vm_writev(2) of all of `from`.
///
/// # Errors
/// The kernel's: `EFAULT` (also for a part that could not be written), `ESRCH`, `EPERM`.
pub fn write_memory(pid: i32, address: u64, from: &[u8]) -> std::result::Result<(), Errno> {
    let local = libc::iovec {
        iov_base: from.as_ptr().cast_mut().cast(),
        iov_len: from.len(),
    };
    let remote = foreign(address, from.len())?;
    // SAFETY: the local piece is `from`, and is only read; the remote one is an address in another process, which
    // the kernel checks.
    let done =
        unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) };
    let length = check(i64::try_from(done).map_err(|_| Errno::FAULT)?)?;
    if usize::try_from(length) == Ok(from.len()) {
        Ok(())
    } else {
        Err(Errno::FAULT)
    }
}

fn foreign(address: u64, length: usize) -> std::result::Result<libc::iovec, Errno> {
    let address = usize::try_from(address).map_err(|_| Errno::FAULT)?;
    Ok(libc::iovec {
        iov_base: ptr::without_provenance_mut(address),
        iov_len: length,
    })
}

/// prlimit(2) of `RLIMIT_LOCKS`: what it is for a process, soft and hard. The kernel keeps it over fork and exec, and has
/// not looked at it since Linux 2.4.25 (getrlimit(2)).
///
/// # Errors
/// The kernel's.
pub fn lock_limit(pid: i32) -> std::result::Result<(u64, u64), Errno> {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `now` lives; a null new value asks only.
    let done = unsafe {
        libc::prlimit(
            pid,
            libc::RLIMIT_LOCKS,
            ptr::null(),
            ptr::from_mut(&mut now),
        )
    };
    check(done.into()).map(|_| (now.rlim_cur, now.rlim_max))
}

/// As [`lock_limit`], and sets it.
///
/// # Errors
/// `EINVAL` for a soft limit above the hard one; the kernel's.
pub fn set_lock_limit(pid: i32, soft: u64, hard: u64) -> std::result::Result<(), Errno> {
    let new = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `new` lives; the old value is not asked for.
    let done = unsafe {
        libc::prlimit(
            pid,
            libc::RLIMIT_LOCKS,
            ptr::from_ref(&new),
            ptr::null_mut(),
        )
    };
    check(done.into()).map(|_| ())
}

/// Sets the soft limit of this process to 0: see [`lock_limit`].
///
/// # Errors
/// The kernel's.
pub fn begin_as_root() -> Result<()> {
    let failed = |errno| Error::new("prlimit(RLIMIT_LOCKS)", errno);
    let (_, hard) = lock_limit(0).map_err(failed)?;
    set_lock_limit(0, 0, hard).map_err(failed)
}

/// What fstat(2) says of `fd`, byte for byte as the kernel writes it into the caller's memory on this machine.
///
/// # Errors
/// The kernel's.
pub fn raw_stat(
    fd: BorrowedFd<'_>,
    change: impl FnOnce(&mut libc::stat),
) -> std::result::Result<[u8; size_of::<libc::stat>()], Errno> {
    // SAFETY: all-zero bytes are a valid `stat`.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string, `stat` lives.
    let done = unsafe {
        libc::fstatat(
            fd.as_raw_fd(),
            c"".as_ptr(),
            ptr::from_mut(&mut stat),
            libc::AT_EMPTY_PATH,
        )
    };
    check(done.into())?;
    change(&mut stat);
    // SAFETY: `stat` has this size and was made of zeroed bytes: all of them are initialized.
    Ok(unsafe { std::mem::transmute::<libc::stat, [u8; size_of::<libc::stat>()]>(stat) })
}

/// As [`raw_stat`], for statx(2) with these flags and this mask.
///
/// # Errors
/// The kernel's: `EINVAL` for wrong flags.
pub fn raw_statx(
    fd: BorrowedFd<'_>,
    flags: i32,
    mask: u32,
    change: impl FnOnce(&mut libc::statx),
) -> std::result::Result<[u8; size_of::<libc::statx>()], Errno> {
    // SAFETY: all-zero bytes are a valid `statx`.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string, `stat` lives.
    let done = unsafe {
        libc::syscall(
            libc::SYS_statx,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags | libc::AT_EMPTY_PATH,
            mask,
            ptr::from_mut(&mut stat),
        )
    };
    check(done)?;
    change(&mut stat);
    // SAFETY: as in `raw_stat`.
    Ok(unsafe { std::mem::transmute::<libc::statx, [u8; size_of::<libc::statx>()]>(stat) })
}

/// The kernel's answer as a result: -1 means `errno`.
fn check(answer: i64) -> std::result::Result<i64, Errno> {
    if answer == -1 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_tell_the_sizes_that_the_kernel_has() {
        let size = |number: libc::Ioctl| usize::try_from(number >> 16 & 0x3fff);
        assert_eq!(size(RECEIVE), Ok(size_of::<libc::seccomp_notif>()));
        assert_eq!(size(SEND), Ok(size_of::<libc::seccomp_notif_resp>()));
        assert_eq!(
            size(ADD_DESCRIPTOR),
            Ok(size_of::<libc::seccomp_notif_addfd>())
        );
    }

    #[test]
    fn memory_is_read_and_written_by_address() {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let mut there = *b"before";
        let address = there.as_mut_ptr() as u64;
        let mut here = [0_u8; 6];
        assert_eq!(read_memory(pid, address, &mut here), Ok(6));
        assert_eq!(&here, b"before");
        write_memory(pid, address, b"after!").unwrap();
        assert_eq!(std::hint::black_box(&there), b"after!");
        assert_eq!(read_memory(pid, 8, &mut here), Err(Errno::FAULT));
    }
}
