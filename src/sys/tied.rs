//! Programs that work for a container and end with the process that has started them: helpers of networks, ids and file systems.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Errno;

use super::process::{
    Child, check, cloexec_from, clone_like_fork, exit_now, join, keep_capabilities_over_exec,
    pointers, reset_signals,
};
use super::{Error, Result};

/// A program that works for a container and must not outlive this process.
pub struct Tied<'a> {
    /// Absolute path.
    pub program: &'a CStr,
    /// The words; the first is the program's name.
    pub argv: &'a [CString],
    /// `NAME=value`.
    pub env: &'a [CString],
    /// Becomes standard input; `/dev/null`.
    pub stdin: BorrowedFd<'a>,
    /// Becomes standard output.
    pub stdout: BorrowedFd<'a>,
    /// Becomes standard error.
    pub stderr: BorrowedFd<'a>,
    /// Stay open under the same number.
    pub keep: &'a [BorrowedFd<'a>],
    /// Namespaces to join first, the user namespace before the others.
    pub join: &'a [BorrowedFd<'a>],
    /// A copy of the mount namespace of its own: pivot_root(2) in the joined one does not move its root.
    pub own_mounts: bool,
}

/// Starts a program that is killed when this process dies.
///
/// # Errors
/// clone3(2)'s. What fails in the child is written to its standard error, and it exits with 127.
pub fn spawn(tied: &Tied<'_>) -> Result<Child> {
    let (argv, env) = (pointers(tied.argv), pointers(tied.env));
    let parent = rustix::process::getpid().as_raw_nonzero().get();
    match clone_like_fork(0, None) {
        Ok(Some(child)) => return Ok(child),
        Ok(None) => {}
        Err(errno) => return Err(Error::new("clone3(CLONE_PIDFD)", errno)),
    }
    let _ = start(tied, &argv, &env, parent); // its own words are on standard error; the exit code says the rest
    exit_now(127)
}

fn start(
    tied: &Tied<'_>,
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
    parent: i32,
) -> std::result::Result<(), Errno> {
    for namespace in tied.join {
        join(*namespace)?;
    }
    if !tied.join.is_empty() {
        // The user need not be root there: `--userns keep-id`.
        keep_capabilities_over_exec()?;
    }
    if tied.own_mounts {
        // SAFETY: unshare with plain numbers.
        check(i64::from(unsafe { libc::unshare(libc::CLONE_NEWNS) }))?;
    }
    // SAFETY: prctl with plain numbers.
    check(i64::from(unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0)
    }))?;
    // SAFETY: getppid has no conditions.
    if unsafe { libc::getppid() } != parent {
        return Err(Errno::SRCH);
    }
    for (from, to) in [(tied.stdin, 0), (tied.stdout, 1), (tied.stderr, 2)] {
        // SAFETY: dup2 takes plain numbers.
        check(i64::from(unsafe { libc::dup2(from.as_raw_fd(), to) }))?;
    }
    cloexec_from(3)?;
    for fd in tied.keep {
        // SAFETY: fcntl with plain numbers.
        check(i64::from(unsafe {
            libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0)
        }))?;
    }
    reset_signals();
    // SAFETY: program, `argv` and `env` are C strings and lists that end with null; all live.
    check(i64::from(unsafe {
        libc::execve(tied.program.as_ptr(), argv.as_ptr(), env.as_ptr())
    }))?;
    Ok(())
}
