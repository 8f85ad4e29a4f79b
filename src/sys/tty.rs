//! Terminals: a new pair, its size, raw mode that is always undone.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios};

use super::{Error, Result};

/// The other end of a pseudo-terminal, without a path lookup in whichever `/dev/pts` is mounted.
/// Source: ioctl_tty(2), TIOCGPTPEER.
///
/// # Errors
/// The kernel's.
pub fn peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes flags by value and returns a new descriptor.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if fd < 0 {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        return Err(Error::new("ioctl(TIOCGPTPEER)", errno));
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Unlocks a master that was opened from a `ptmx`. Source: ioctl_tty(2), TIOCSPTLCK.
///
/// # Errors
/// The kernel's.
pub fn unlock(master: BorrowedFd<'_>) -> Result<()> {
    let no: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which lives.
    let done = unsafe {
        libc::ioctl(
            master.as_raw_fd(),
            libc::TIOCSPTLCK,
            std::ptr::from_ref(&no),
        )
    };
    if done == 0 {
        return Ok(());
    }
    Err(Error::new(
        "ioctl(TIOCSPTLCK)",
        Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO),
    ))
}

/// Makes `terminal` the controlling terminal of a new session of the caller's.
///
/// # Errors
/// setsid(2), ioctl_tty(2).
pub fn control(terminal: BorrowedFd<'_>) -> Result<()> {
    rustix::process::setsid().map_err(|errno| Error::new("setsid()", errno))?;
    rustix::process::ioctl_tiocsctty(terminal)
        .map_err(|errno| Error::new("ioctl(TIOCSCTTY)", errno))
}

/// Gives `to` the size of `from`; a terminal without a size leaves it as it is.
pub fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    if let Ok(size) = rustix::termios::tcgetwinsize(from)
        && size.ws_row != 0
    {
        let _ = rustix::termios::tcsetwinsize(to, size); // a terminal that has gone needs no size
    }
}

/// Sets the size in rows and columns.
pub fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) {
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let _ = rustix::termios::tcsetwinsize(terminal, size); // a terminal that has gone needs no size
}

/// Raw mode for as long as it lives.
#[derive(Debug)]
pub struct Raw<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Raw<'a> {
    /// Every byte passes as it is typed, signals' keys too.
    ///
    /// # Errors
    /// `ENOTTY`.
    pub fn enter(terminal: BorrowedFd<'a>) -> Result<Self> {
        let failed = |errno| Error::new("ioctl(TCGETS)", errno);
        let before = rustix::termios::tcgetattr(terminal).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(terminal, OptionalActions::Drain, &raw).map_err(failed)?;
        Ok(Self { terminal, before })
    }

    /// Undoes it where no destructor runs: a panic that aborts.
    pub fn undo(&self) -> impl Fn() + Send + Sync + 'static {
        let before = self.before.clone();
        let terminal = self.terminal.try_clone_to_owned();
        move || {
            if let Ok(terminal) = &terminal {
                // As in `drop`.
                let _ = rustix::termios::tcsetattr(terminal, OptionalActions::Now, &before);
            }
        }
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // A terminal that has gone (hang-up) needs no mode.
        let _ = rustix::termios::tcsetattr(self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Whether it is a terminal.
#[must_use]
pub fn is_terminal(fd: &impl AsFd) -> bool {
    rustix::termios::isatty(fd)
}
