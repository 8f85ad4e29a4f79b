//! A child process by its pidfd: waiting for it, signalling it, how it ended.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::{Pid, WaitIdStatus};

use super::{Error, Result};

/// A child process, named so that another with the same number is never meant.
#[derive(Debug)]
pub struct Child {
    /// Its number as this process sees it.
    pub pid: Pid,
    /// Refers to this very process, for as long as it is open.
    pub pidfd: OwnedFd,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By `exit(2)` with this code.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// The shell's and docker's number for it: the code, or 128 + the signal.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

impl Child {
    /// Waits for the end and takes the exit status.
    ///
    /// # Errors
    /// waitid(2).
    pub fn wait(&self) -> Result<Exit> {
        use rustix::fd::AsFd as _;
        loop {
            let options = rustix::process::WaitIdOptions::EXITED;
            match rustix::process::waitid(
                rustix::process::WaitId::PidFd(self.pidfd.as_fd()),
                options,
            ) {
                Ok(Some(status)) => return Ok(exit_of(&status)),
                Ok(None) | Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(Error::new(
                        format!("waitid(P_PIDFD, {})", self.pid.as_raw_nonzero()),
                        errno,
                    ));
                }
            }
        }
    }

    /// Sends a signal by number; the process may be gone already.
    ///
    /// # Errors
    /// `EINVAL` for a signal that does not exist, `EPERM`.
    pub fn signal(&self, signal: i32) -> Result<()> {
        signal_pidfd(&self.pidfd, signal)
    }

    /// Whether it has ended, without taking the exit status.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        use rustix::event::{PollFd, PollFlags};
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = rustix::time::Timespec::default();
        matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1..))
    }

    /// Kills it, if it still lives.
    pub fn kill(&self) {
        let _ = self.signal(libc::SIGKILL); // a process that is gone already is what was wanted
    }
}

fn exit_of(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(u8::MAX),
    }
}

/// pidfd_send_signal(2) with any signal number, real-time ones too; a process that is gone is no error.
///
/// # Errors
/// The kernel's.
pub fn signal_pidfd(pidfd: &OwnedFd, signal: i32) -> Result<()> {
    // SAFETY: the descriptor is open for the whole call; a null siginfo asks for the kernel's own.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match super::process::check(done) {
        Ok(_) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(Error::new(format!("pidfd_send_signal({signal})"), errno)),
    }
}

/// pidfd_open(2).
///
/// # Errors
/// The kernel's; `ENOSYS` before Linux 5.3.
pub fn open(pid: Pid) -> Result<OwnedFd> {
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .map_err(|errno| Error::new("pidfd_open()", errno))
}
