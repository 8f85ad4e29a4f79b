//! Signals as messages: blocked, and taken from a descriptor or a wait. No handler ever runs.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;

use rustix::io::Errno;

use super::{Error, Result};

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Its number.
    pub number: i32,
    /// The kernel sent it (a key on the terminal, a child's end), not a process: `si_code` > 0.
    pub from_kernel: bool,
}

/// All signals, blocked for this thread and those it starts, and queued in a descriptor. Source: signalfd(2).
#[derive(Debug)]
pub struct Queue {
    fd: OwnedFd,
    before: libc::sigset_t,
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

impl Queue {
    /// Blocks every signal that can be blocked, except those a fault raises in the faulting thread.
    ///
    /// # Errors
    /// signalfd(2).
    pub fn all() -> Result<Self> {
        // SAFETY: all-zero bytes are a valid `sigset_t`; it is filled next.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set lives.
        unsafe { libc::sigfillset(ptr::from_mut(&mut set)) };
        for fault in [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGTRAP,
            libc::SIGABRT,
        ] {
            // SAFETY: the set lives.
            unsafe { libc::sigdelset(ptr::from_mut(&mut set), fault) };
        }
        // SAFETY: all-zero bytes are a valid `sigset_t`; the call fills it.
        let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: both sets live.
        let done = unsafe {
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                ptr::from_ref(&set),
                ptr::from_mut(&mut before),
            )
        };
        if done != 0 {
            return Err(Error::new(
                "pthread_sigmask()",
                Errno::from_raw_os_error(done),
            ));
        }
        // SAFETY: the set lives; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, ptr::from_ref(&set), libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(Error::new("signalfd()", last_errno()));
        }
        // SAFETY: the kernel has just made it for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, before })
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// read(2).
    pub fn wait(&self) -> Result<Signal> {
        // SAFETY: all-zero bytes are a valid `signalfd_siginfo`; the read fills it.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        loop {
            // SAFETY: the structure lives and its size is told.
            let length = unsafe {
                libc::read(
                    self.fd.as_raw_fd(),
                    ptr::from_mut(&mut info).cast(),
                    size_of::<libc::signalfd_siginfo>(),
                )
            };
            if length > 0 {
                let number = i32::try_from(info.ssi_signo).unwrap_or(0);
                return Ok(Signal {
                    number,
                    from_kernel: info.ssi_code > 0,
                });
            }
            match last_errno() {
                Errno::INTR => {}
                errno => return Err(Error::new("read(signalfd)", errno)),
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the set was filled by `pthread_sigmask`; the old one is not asked for.
        unsafe {
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                ptr::from_ref(&self.before),
                ptr::null_mut(),
            )
        };
    }
}

/// Whether this process was told to ignore a signal, as nohup(1) does.
#[must_use]
pub fn is_ignored(number: i32) -> bool {
    // SAFETY: all-zero bytes are a valid `sigaction`; the call fills it.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action nothing changes; the old one's place lives.
    let done = unsafe { libc::sigaction(number, ptr::null(), ptr::from_mut(&mut action)) };
    done == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// The number of a signal by name or number: `TERM`, `SIGTERM`, `15`, `RTMIN+3`.
#[must_use]
pub fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset = if offset.is_empty() {
            0
        } else {
            offset.strip_prefix('+')?.parse::<i32>().ok()?
        };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        let offset = if offset.is_empty() {
            0
        } else {
            offset.strip_prefix('-')?.parse::<i32>().ok()?
        };
        return (0..=30).contains(&offset).then_some(64 - offset);
    }
    let alias = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        other => other,
    };
    format!("SIG{alias}")
        .parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, expected) in [
            ("TERM", Some(15)),
            ("sigkill", Some(9)),
            ("9", Some(9)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMAX", Some(64)),
            ("CLD", Some(17)),
            ("0", None),
            ("65", None),
            ("NONE", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
