//! One call of a program inside: what the kernel shall answer to it, or what it is answered here.
//!
//! Whatever is not understood, not found or not ours goes to the kernel, which says what it says without us. What the
//! caller's memory says is read once; files are then known by descriptors, and looked at by these alone.

mod files;
mod identity;
mod paths;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::Result;
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::Emulator;
use crate::sys::notify::{self, Answer, Notice};

/// Calls that only older machines have.
#[cfg(target_arch = "x86_64")]
mod old {
    pub use libc::{
        SYS_chown, SYS_creat, SYS_lchown, SYS_lstat, SYS_mkdir, SYS_mknod, SYS_open, SYS_stat,
        SYS_symlink,
    };
}
#[cfg(not(target_arch = "x86_64"))]
#[allow(non_upper_case_globals, reason = "as libc names them")]
mod old {
    pub const SYS_chown: i64 = -2;
    pub const SYS_creat: i64 = -3;
    pub const SYS_lchown: i64 = -4;
    pub const SYS_lstat: i64 = -5;
    pub const SYS_mkdir: i64 = -6;
    pub const SYS_mknod: i64 = -7;
    pub const SYS_open: i64 = -8;
    pub const SYS_stat: i64 = -9;
    pub const SYS_symlink: i64 = -10;
}

/// The longest path, with its NUL byte (linux/limits.h).
const PATH_MAX: usize = 4096;

/// What becomes of a call. An error on the way there means [`Outcome::Kernel`].
enum Outcome {
    /// The kernel makes it.
    Kernel,
    /// This is its result.
    Value(i64),
    /// It fails.
    Refused(Errno),
    /// Its result is this descriptor, which an exec closes or not.
    Descriptor(OwnedFd, bool),
}

type Judged = Result<Outcome, Errno>;

/// Who calls.
#[derive(Clone, Copy)]
struct Caller<'a> {
    listener: BorrowedFd<'a>,
    id: u64,
    pid: i32,
}

/// A file that a call names.
#[derive(Clone, Copy)]
struct Named {
    directory: i32,
    /// Address of the path.
    path: u64,
    follow: bool,
    /// An empty path is the directory itself.
    empty: bool,
}

impl Named {
    fn at(directory: u64, path: u64, flags: u64) -> Self {
        let flags = AtFlags::from_bits_retain(low(flags));
        Self {
            directory: low(directory).cast_signed(),
            path,
            follow: !flags.contains(AtFlags::SYMLINK_NOFOLLOW),
            empty: flags.contains(AtFlags::EMPTY_PATH),
        }
    }

    fn here(path: u64) -> Self {
        Self {
            directory: libc::AT_FDCWD,
            path,
            follow: true,
            empty: false,
        }
    }

    fn not_followed(self) -> Self {
        Self {
            follow: false,
            ..self
        }
    }
}

/// How a caller wants to know of a file.
#[derive(Clone, Copy)]
enum Wanted {
    Stat,
    Statx { flags: i32, mask: u32 },
}

/// What a caller makes.
enum New {
    Directory(u32),
    /// Its target's address.
    Link(u64),
    Node(u32, u64),
}

fn low(argument: u64) -> u32 {
    u32::try_from(argument & 0xffff_ffff).expect("it was masked")
}

impl Caller<'_> {
    /// The text at this address of its memory.
    fn text(self, address: u64) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        let mut page = [0_u8; PATH_MAX];
        while text.len() < PATH_MAX {
            let at = address.checked_add(text.len() as u64).ok_or(Errno::FAULT)?;
            // Not beyond the page, and of that what most paths need first.
            let rest = 4096 - usize::try_from(at % 4096).map_err(|_| Errno::FAULT)?;
            let most = if text.is_empty() { rest.min(256) } else { rest };
            let length = notify::read_memory(self.pid, at, &mut page[..most])?;
            if let Some(end) = page[..length].iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&page[..end]);
                return Ok(text);
            }
            if length == 0 {
                return Err(Errno::FAULT);
            }
            text.extend_from_slice(&page[..length]);
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Writes into its memory, where it still waits.
    fn tell(self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.waits()?;
        notify::write_memory(self.pid, address, bytes)
    }

    fn waits(self) -> Result<(), Errno> {
        if notify::is_valid(self.listener, self.id) {
            Ok(())
        } else {
            Err(Errno::SRCH)
        }
    }
}

impl Emulator {
    /// Answers it.
    ///
    /// # Errors
    /// Those of the listener.
    pub fn judge(&mut self, listener: BorrowedFd<'_>, notice: &Notice) -> Result<()> {
        let caller = Caller {
            listener,
            id: notice.id,
            pid: notice.pid,
        };
        let outcome = self.outcome(caller, notice).unwrap_or(Outcome::Kernel);
        let answer = match outcome {
            Outcome::Kernel => Answer::Continue,
            Outcome::Value(value) => Answer::Value(value),
            Outcome::Refused(errno) => Answer::Error(errno),
            Outcome::Descriptor(fd, close_on_exec) => {
                match notify::answer_with(listener, notice.id, fd.as_fd(), close_on_exec) {
                    Ok(()) | Err(Errno::NOENT) => return Ok(()),
                    Err(errno) => Answer::Error(errno),
                }
            }
        };
        Ok(notify::answer(listener, notice.id, &answer)?)
    }

    fn outcome(&mut self, caller: Caller<'_>, notice: &Notice) -> Judged {
        let a = notice.args;
        let plain = |path| Named::here(path);
        match notice.number {
            old::SYS_stat => self.stat(caller, plain(a[0]), Wanted::Stat, a[1]),
            old::SYS_lstat => self.stat(caller, plain(a[0]).not_followed(), Wanted::Stat, a[1]),
            libc::SYS_fstat => self.fstat(caller, a[0], Wanted::Stat, a[1]),
            libc::SYS_newfstatat => {
                self.stat(caller, Named::at(a[0], a[1], a[3]), Wanted::Stat, a[2])
            }
            libc::SYS_statx => {
                let wanted = Wanted::Statx {
                    flags: low(a[2]).cast_signed()
                        & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH),
                    mask: low(a[3]),
                };
                self.stat(caller, Named::at(a[0], a[1], a[2]), wanted, a[4])
            }
            old::SYS_chown => self.chown(caller, plain(a[0]), a[1], a[2]),
            old::SYS_lchown => self.chown(caller, plain(a[0]).not_followed(), a[1], a[2]),
            libc::SYS_fchownat => self.chown(caller, Named::at(a[0], a[1], a[4]), a[2], a[3]),
            libc::SYS_fchown => {
                // EBADF for what was opened by O_PATH is the kernel's to say; it asks again as root's.
                let file = self.descriptor(caller, low(a[0]).cast_signed())?;
                self.give(caller, file.as_fd(), a[1], a[2])
            }
            old::SYS_open => self.open(caller, Named::here(a[0]), a[1], a[2]),
            libc::SYS_openat => self.open(caller, Named::at(a[0], a[1], 0), a[2], a[3]),
            old::SYS_creat => {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC;
                self.open(caller, Named::here(a[0]), flags.bits().into(), a[1])
            }
            libc::SYS_openat2 => self.openat2(caller, a),
            old::SYS_mkdir => self.make(caller, plain(a[0]), &New::Directory(low(a[1]))),
            libc::SYS_mkdirat => {
                self.make(caller, Named::at(a[0], a[1], 0), &New::Directory(low(a[2])))
            }
            old::SYS_symlink => self.make(caller, plain(a[1]), &New::Link(a[0])),
            libc::SYS_symlinkat => self.make(caller, Named::at(a[1], a[2], 0), &New::Link(a[0])),
            old::SYS_mknod => self.make(caller, plain(a[0]), &New::Node(low(a[1]), a[2])),
            libc::SYS_mknodat => self.make(
                caller,
                Named::at(a[0], a[1], 0),
                &New::Node(low(a[2]), a[3]),
            ),
            libc::SYS_listxattr => self.list(caller, Some(plain(a[0])), 0, a[1], a[2]),
            libc::SYS_llistxattr => {
                self.list(caller, Some(plain(a[0]).not_followed()), 0, a[1], a[2])
            }
            libc::SYS_flistxattr => self.list(caller, None, a[0], a[1], a[2]),
            libc::SYS_execve => self.execute(caller, plain(a[0])),
            libc::SYS_execveat => self.execute(caller, Named::at(a[0], a[1], a[4])),
            libc::SYS_chroot => {
                self.roots_move = true;
                Ok(Outcome::Kernel)
            }
            _ => self.identity(caller, notice.number, a),
        }
    }

    /// A line of the caller's `/proc/PID/status`.
    fn status(&self, caller: Caller<'_>, name: &str) -> Result<String, Errno> {
        let file = self.of_caller(caller.pid, "status", OFlags::RDONLY)?;
        let mut text = [0_u8; 4096];
        let length = rustix::io::read(&file, &mut text)?;
        let text = String::from_utf8_lossy(&text[..length]);
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value
            .map(|value| value.trim().to_owned())
            .ok_or(Errno::NODATA)
    }
}
