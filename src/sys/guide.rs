//! A guide that is sent ahead: it stands in a new user namespace, whose ids are mapped while this process still prepares
//! what shall run there, and clones that when it is told.
//!
//! It runs on this process's memory and descriptors, on a stack of its own, and costs a third of a fork. While both run it
//! makes system calls by rustix alone, which knows no `errno`, and allocates nothing; while it clones, this process waits.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal};

use super::child::Child;
use super::namespace::flag_names;
use super::process::{ChildPlan, Sealed};
use super::{Error, Result};

/// Bytes. What it does needs some hundred; pages that nobody touches cost nothing.
const STACK: usize = 128 << 10;

/// A child in a user namespace of its own, which has no ids yet. It keeps that namespace, whether it is told to clone or not.
#[derive(Debug)]
pub struct Guide {
    child: Child,
    /// What it does now.
    errands: Errands,
    /// This process's end of the conversation.
    here: OwnedFd,
    /// The guide's end, and all that it knows: they stay where they are while it lives.
    _there: OwnedFd,
    _post: Box<Post>,
    _stack: Box<[MaybeUninit<u8>]>,
}

/// What a guide begins with.
#[derive(Debug)]
struct Post {
    socket: RawFd,
    parent: Pid,
}

/// What it is told to clone, and what came of it. Its address is the message.
struct Request<'a> {
    plan: &'a ChildPlan<'a>,
    errands: Errands,
    made: std::result::Result<Option<Child>, Errno>,
}

/// What a guide does beside, while the clone is on its way already.
#[derive(Debug, Clone, Copy, Default)]
pub struct Errands {
    /// Brings the loopback interface up in the clone's network namespace, which is new. Whoever needs it looks whether it is.
    pub loopback: bool,
    /// Ends then: its namespace has its ids.
    pub leave: bool,
}

impl Guide {
    /// Sends one ahead.
    ///
    /// # Errors
    /// clone(2)'s for `CLONE_NEWUSER`.
    pub fn send() -> Result<Self> {
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
        });
        let mut pidfd: RawFd = -1;
        let flags = libc::CLONE_NEWUSER
            | libc::CLONE_VM
            | libc::CLONE_FILES
            | libc::CLONE_PIDFD
            | libc::SIGCHLD;
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
            .map_err(|errno| Error::new("clone(CLONE_NEWUSER)", errno))?;
        Ok(Self {
            child,
            errands: Errands::default(),
            here,
            _there: there,
            _post: post,
            _stack: stack,
        })
    }

    /// Whose ids are to be mapped.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.child.pid
    }

    /// As [`super::process::spawn_sealed`], in the guide's user namespace: a child of this process.
    ///
    /// # Errors
    /// clone3(2)'s; `ESRCH` when the guide is gone.
    pub fn spawn_sealed(&mut self, sealed: &Sealed<'_>, errands: Errands) -> Result<Child> {
        let doing = |errno| Error::new(format!("clone3({})", flag_names(sealed.namespaces)), errno);
        let plan = ChildPlan::of(sealed)?;
        let mut request = Request {
            plan: &plan,
            errands,
            made: Ok(None),
        };
        let address = (ptr::from_mut(&mut request) as usize).to_ne_bytes();
        rustix::io::write(&self.here, &address).map_err(doing)?;
        if let Err(errno) = self.hear() {
            // Not before it is gone is the request this process's again.
            self.child.kill();
            let _ = self.child.wait(); // our own child
            return Err(doing(errno));
        }
        let made = request.made.map_err(doing)?.ok_or(doing(Errno::SRCH))?;
        self.errands = errands;
        Ok(made)
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
        if self.errands.loopback {
            let _ = self.hear(); // killed before, it would leave descriptors open
        }
        if !self.errands.leave {
            self.child.kill();
        }
        let _ = self.child.wait(); // our own child
    }
}

/// KERNEL(5.8): a pidfd names no namespaces before.
fn raise_loopback_of(clone: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    let network = rustix::thread::ThreadNameSpaceType::NETWORK;
    rustix::thread::move_into_thread_name_spaces(clone, network)?;
    super::net::loopback().map_err(|(_, errno)| errno)
}

/// All that a guide does.
extern "C" fn wait_and_clone(post: *mut c_void) -> c_int {
    // SAFETY: `Guide::send` passes it, and nobody writes to it.
    let post = unsafe { &*post.cast::<Post>() };
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)); // takes any signal
    if rustix::process::getppid() != Some(post.parent) {
        return 0;
    }
    // SAFETY: it is open for as long as the guide lives.
    let socket = unsafe { BorrowedFd::borrow_raw(post.socket) };
    let mut address = [0_u8; size_of::<usize>()];
    match rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut address)) {
        Ok(length) if length == address.len() => {}
        Ok(_) | Err(_) => return 0,
    }
    let request = usize::from_ne_bytes(address) as *mut Request<'_>;
    // SAFETY: who has sent the address waits for the answer, and touches nothing meanwhile.
    let request = unsafe { &mut *request };
    request.made = request.plan.sibling_here();
    // With the answer the request is not its own any more.
    let errands = request.errands;
    let clone = match &request.made {
        Ok(Some(child)) if errands.loopback => {
            rustix::io::fcntl_dupfd_cloexec(&child.pidfd, 0).ok()
        }
        Ok(_) | Err(_) => None,
    };
    let has_failed = request.made.is_err();
    let say = || rustix::io::write(socket, &[0]).is_ok();
    if !say() || has_failed {
        return 0;
    }
    if errands.loopback {
        if let Some(clone) = &clone {
            let _ = raise_loopback_of(clone.as_fd()); // it does that itself then
        }
        drop(clone); // the descriptors are those of both: nothing of it may stay when it is killed
        if !say() {
            return 0;
        }
    }
    if errands.leave {
        return 0;
    }
    loop {
        rustix::event::pause(); // to be killed: the helpers are at its namespace still
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;

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
        let errands = Errands {
            loopback: true,
            leave: true,
        };
        let error = guide.spawn_sealed(&sealed, errands).unwrap_err();
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
