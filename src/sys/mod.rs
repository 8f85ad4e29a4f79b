//! The only `unsafe` of the house: system calls with types, one call to a function, named after it.
//!
//! Knows nothing of containers. An [`Error`] prints the call as strace would:
//! `mount("overlay", "/…/merged"): EPERM (Operation not permitted)`.

pub mod bpf;
mod child;
mod classic;
pub mod confine;
pub mod fs;
pub mod guide;
#[cfg(target_env = "musl")]
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod net;
pub mod netlink;
pub mod notify;
pub mod process;
pub mod schedule;
pub mod signal;
pub mod socket;
pub mod tied;
pub mod tree;
pub mod tty;
mod walk;

use rustix::io::Errno;

/// A system call that failed: the call as text, and the kernel's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The call with its telling arguments, such as `openat2("/etc/passwd")`.
    pub call: String,
    /// The kernel's answer.
    pub errno: Errno,
}

impl Error {
    /// A call and its answer.
    pub fn new(call: impl Into<String>, errno: Errno) -> Self {
        Self {
            call: call.into(),
            errno,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {} ({})",
            self.call,
            nix_name(self.errno),
            description(self.errno)
        )
    }
}

impl std::error::Error for Error {}

/// What every function here returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Fills `bytes` with what nobody can guess. Source: getrandom(2).
///
/// # Errors
/// The kernel's.
pub fn random(bytes: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[done..], rustix::rand::GetRandomFlags::empty()) {
            Ok(length) => done += length,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new("getrandom()", errno)),
        }
    }
    Ok(())
}

/// `EPERM`.
fn nix_name(errno: Errno) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno.raw_os_error()))
}

/// `Operation not permitted`.
fn description(errno: Errno) -> &'static str {
    nix::errno::Errno::from_raw(errno.raw_os_error()).desc()
}

/// The errno somewhere in a chain of causes, be it ours, std's or rustix's.
#[must_use]
pub fn errno_of(error: &anyhow::Error) -> Option<Errno> {
    error.chain().find_map(|cause| {
        cause
            .downcast_ref::<Error>()
            .map(|error| error.errno)
            .or_else(|| cause.downcast_ref::<Errno>().copied())
            .or_else(|| {
                cause
                    .downcast_ref::<std::io::Error>()
                    .and_then(Errno::from_io_error)
            })
    })
}
