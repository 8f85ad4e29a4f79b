//! A guide that is sent ahead: it stands in a user namespace, a new one, whose ids are mapped while this process still prepares
//! what shall run there, or one that is there; and clones that when it is told.
//!
//! It runs on this process's memory and descriptors, on a stack of its own, and costs a third of a fork. While both run it
//! makes system calls by rustix alone, which knows no `errno`, and allocates nothing; while it answers, this process waits.

use std::ffi::{CStr, CString, c_int, c_void};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

use super::child::Child;
use super::namespace::flag_names;
use super::process::{ChildPlan, Sealed};
use super::{Error, Result};

/// Bytes. What it does needs some hundred; pages that nobody touches cost nothing.
const STACK: usize = 128 << 10;

/// A child in another user namespace, which it keeps.
#[derive(Debug)]
pub struct Guide {
    child: Child,
    /// The clone in whose network namespace it is at work now.
    raising: Option<OwnedFd>,
    /// This process's end of the conversation.
    here: OwnedFd,
    /// The guide's end, and all that it knows: they stay where they are while it lives.
    _there: OwnedFd,
    _namespace: Option<OwnedFd>,
    _post: Box<Post>,
    _stack: Box<[MaybeUninit<u8>]>,
}

/// What a guide begins with.
#[derive(Debug)]
struct Post {
    socket: RawFd,
    parent: Pid,
    /// The user namespace that it goes to; it was born in its own without.
    join: Option<RawFd>,
}

/// What it is asked for, and what came of it. The address is the message, and the answer a byte.
///
/// A message of the size of a descriptor is one: that of a process whose loopback interface is to be brought up, while this
/// process goes on.
enum Request<'a> {
    /// Clones a child of this process.
    Clone {
        plan: &'a ChildPlan<'a>,
        /// Into a user namespace of its own, below the guide's.
        below: bool,
        made: std::result::Result<Option<Child>, Errno>,
    },
    /// Writes files, as one who stands there.
    Write {
        files: &'a [(CString, String)],
        done: std::result::Result<(), Errno>,
    },
}

impl Guide {
    /// Sends one into a user namespace of its own, which has no ids yet.
    ///
    /// # Errors
    /// clone(2)'s for `CLONE_NEWUSER`.
    pub fn send() -> Result<Self> {
        Self::begin(None)
    }

    /// Sends one into this user namespace, which is below ours. What keeps it out is said when it shall clone.
    ///
    /// # Errors
    /// clone(2)'s.
    pub fn send_to(namespace: OwnedFd) -> Result<Self> {
        Self::begin(Some(namespace))
    }

    fn begin(join: Option<OwnedFd>) -> Result<Self> {
        let failed = |errno| Error::new("socketpair()", errno);
        let (here, there) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed)?;
        let mut stack = Box::new_uninit_slice(STACK);
        let mut post = Box::new(Post {
            socket: there.as_raw_fd(),
            parent: rustix::process::getpid(),
            join: join.as_ref().map(AsRawFd::as_raw_fd),
        });
        let mut pidfd: RawFd = -1;
        let new = if join.is_none() {
            libc::CLONE_NEWUSER
        } else {
            0
        };
        let flags = new | libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_PIDFD | libc::SIGCHLD;
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        // SAFETY: a stack grows down from its end, whose place the C library rounds. The function, the stack and the
        // post live until the child has been waited for (`Drop`); the last three arguments are the pidfd's place, and a
        // thread area and a number's place that the flags do not ask for.
        let pid = unsafe {
            libc::clone(
                wait_and_clone,
                top,
                flags,
                ptr::from_mut(&mut *post).cast(),
                ptr::from_mut(&mut pidfd),
                ptr::null_mut::<c_void>(),
                ptr::null_mut::<libc::pid_t>(),
            )
        };
        let child = super::process::child(i64::from(pid), pidfd)
            .and_then(|child| child.ok_or(Errno::INVAL))
            .map_err(|errno| Error::new(format!("clone({})", flag_names(new)), errno))?;
        Ok(Self {
            child,
            raising: None,
            here,
            _there: there,
            _namespace: join,
            _post: post,
            _stack: stack,
        })
    }

    /// Whose ids are to be mapped.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.child.pid
    }

    /// As [`super::process::spawn_sealed`], in the guide's user namespace, or in a new one `below` it: a child of this process.
    ///
    /// # Errors
    /// clone3(2)'s; setns(2)'s of the guide; `ESRCH` when it is gone.
    pub fn spawn_sealed(&mut self, sealed: &Sealed<'_>, below: bool) -> Result<Child> {
        let doing = |errno| Error::new(format!("clone3({})", flag_names(sealed.namespaces)), errno);
        let plan = ChildPlan::of(sealed)?;
        let mut request = Request::Clone {
            plan: &plan,
            below,
            made: Ok(None),
        };
        self.ask(&mut request).map_err(doing)?;
        match request {
            Request::Clone { made, .. } => made.map_err(doing)?.ok_or(doing(Errno::SRCH)),
            Request::Write { .. } => Err(doing(Errno::SRCH)),
        }
    }

    /// Writes these files in turn, each at once: with the rights that it has in its user namespace.
    ///
    /// # Errors
    /// open(2)'s and write(2)'s; `ESRCH` when it is gone.
    pub fn write(&mut self, files: &[(CString, String)]) -> Result<()> {
        let doing = |errno| {
            let names: Vec<_> = files
                .iter()
                .map(|(path, _)| path.to_string_lossy())
                .collect();
            Error::new(format!("write({})", names.join(", ")), errno)
        };
        let mut request = Request::Write {
            files,
            done: Err(Errno::SRCH),
        };
        self.ask(&mut request).map_err(doing)?;
        match request {
            Request::Write { done, .. } => done.map_err(doing),
            Request::Clone { .. } => Err(doing(Errno::SRCH)),
        }
    }

    /// Has the loopback interface brought up in the network namespace of `clone`, while this process goes on. Whoever needs it
    /// looks whether it is.
    pub fn raise_loopback(&mut self, clone: &Child) {
        // Its own copy: that of the clone may be closed before this is done.
        let Ok(clone) = rustix::io::fcntl_dupfd_cloexec(&clone.pidfd, 0) else {
            return;
        };
        let number = clone.as_raw_fd().to_ne_bytes();
        if rustix::io::write(&self.here, &number).is_ok() {
            self.raising = Some(clone);
        }
    }

    /// Sends a request and waits until it is answered: it is the guide's meanwhile.
    fn ask(&mut self, request: &mut Request<'_>) -> std::result::Result<(), Errno> {
        let address = (ptr::from_mut(request) as usize as u64).to_ne_bytes();
        rustix::io::write(&self.here, &address)?;
        let raised = match self.raising.take() {
            Some(_clone) => self.hear(),
            None => Ok(()),
        };
        if let Err(errno) = raised.and_then(|()| self.hear()) {
            // Not before it is gone is the request this process's again.
            self.child.kill();
            let _ = self.child.wait(); // our own child
            return Err(errno);
        }
        Ok(())
    }

    /// Waits for its next word.
    fn hear(&self) -> std::result::Result<(), Errno> {
        let mut fds = [
            PollFd::new(&self.here, PollFlags::IN),
            PollFd::new(&self.child.pidfd, PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None))?;
        if fds[0].revents().is_empty() {
            return Err(Errno::SRCH); // it was killed, and touches nothing any more
        }
        rustix::io::read(&self.here, &mut [0_u8; 1]).map(|_| ())
    }
}

impl Drop for Guide {
    /// It is gone when this returns: nobody who is root over its namespace may find this process's memory there.
    fn drop(&mut self) {
        if let Some(_clone) = self.raising.take() {
            let _ = self.hear(); // killed before, it would leave descriptors open
        }
        self.child.kill();
        let _ = self.child.wait(); // our own child
    }
}

/// KERNEL(5.8): a pidfd names no namespaces before.
fn raise_loopback_of(clone: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    rustix::thread::move_into_thread_name_spaces(clone, ThreadNameSpaceType::NETWORK)?;
    super::net::loopback().map_err(|(_, errno)| errno)
}

/// The kernel takes each write to such a file for a whole.
fn write_whole(path: &CStr, text: &str) -> std::result::Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::retry_on_intr(|| rustix::io::write(&file, text.as_bytes())).map(|_| ())
}

/// All that a guide does.
extern "C" fn wait_and_clone(post: *mut c_void) -> c_int {
    // SAFETY: `Guide::begin` passes it, and nobody writes to it.
    let post = unsafe { &*post.cast::<Post>() };
    // SAFETY: both are open for as long as the guide lives.
    let socket = unsafe { BorrowedFd::borrow_raw(post.socket) };
    let joined = post.join.map_or(Ok(()), |namespace| {
        // SAFETY: as above.
        let namespace = unsafe { BorrowedFd::borrow_raw(namespace) };
        rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::User))
    });
    // After that: the kernel forgets it with a change of rights.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)); // takes any signal
    if rustix::process::getppid() != Some(post.parent) {
        return 0;
    }
    let mut message = [0_u8; size_of::<u64>()];
    loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut message)) {
            Ok(length) if length == size_of::<RawFd>() => {
                let [a, b, c, d, ..] = message;
                // SAFETY: it is open until the answer is heard.
                let clone = unsafe { BorrowedFd::borrow_raw(RawFd::from_ne_bytes([a, b, c, d])) };
                let _ = raise_loopback_of(clone); // it does that itself then
            }
            Ok(length) if length == message.len() => {
                #[allow(clippy::cast_possible_truncation, reason = "it was a `usize`")]
                let request = u64::from_ne_bytes(message) as usize as *mut Request<'_>;
                // SAFETY: who has sent the address waits for the answer, and touches nothing meanwhile.
                match unsafe { &mut *request } {
                    Request::Clone { plan, below, made } => {
                        *made = joined.and_then(|()| plan.sibling_here(*below));
                    }
                    Request::Write { files, done } => {
                        *done = files
                            .iter()
                            .try_for_each(|(path, text)| write_whole(path, text));
                    }
                }
            }
            Ok(_) | Err(_) => return 0,
        }
        // With the answer the request is not its own any more.
        if rustix::io::write(socket, &[0]).is_err() {
            return 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn one_that_was_killed_is_no_one_to_wait_for() {
        let mut guide = Guide::send().unwrap();
        let (socket, argv) = (
            std::fs::File::open("/dev/null").unwrap(),
            [CString::default()],
        );
        let sealed = Sealed {
            namespaces: libc::CLONE_NEWUSER | libc::CLONE_NEWNS,
            enter: None,
            cgroup: None,
            argv: &argv,
            env: &[],
            socket: socket.as_fd(),
            socket_at: 3,
            stdio: [None; 3],
            die_with_parent: true,
        };
        guide.child.kill();
        guide.child.wait().unwrap();
        let error = guide.spawn_sealed(&sealed, false).unwrap_err();
        assert_eq!(error.errno, Errno::SRCH);
    }

    #[test]
    fn it_stands_in_a_user_namespace_without_ids_and_is_gone_when_dropped() {
        let guide = Guide::send().unwrap();
        let process = format!("/proc/{}", guide.pid().as_raw_nonzero());
        let namespace = |of: &str| std::fs::read_link(format!("{of}/ns/user")).unwrap();
        assert_ne!(namespace(&process), namespace("/proc/self"));
        let map = std::fs::read_to_string(format!("{process}/uid_map")).unwrap();
        assert_eq!(map, "");
        drop(guide);
        assert!(!std::fs::exists(process).unwrap());
    }
}
