//! Processes: the sealed start in new namespaces, waiting, leaving.
//!
//! [`spawn_sealed`] is the only code that runs between a clone and an exec. What it does there is
//! system calls on memory that was prepared before: it neither allocates nor locks.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;

pub use super::child::{Child, Exit, open, signal_pidfd};
use super::namespace::flag_names;
use super::{Error, Result};

/// How many threads this process has.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// fork(2) for a process that provably has one thread: the child may go on with ordinary code.
/// Returns `None` in the child.
///
/// # Errors
/// `EBUSY` when there is a second thread; the kernel's.
pub fn fork() -> Result<Option<Child>> {
    if threads() != 1 {
        return Err(Error::new("fork() of a process with threads", Errno::BUSY));
    }
    // Not clone3(2): the container's own filter answers ENOSYS to it, since it cannot see its flags.
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child gets a copy of this memory and goes on behind this call; `pidfd` lives.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, ptr::from_mut(&mut pidfd), 0, 0) };
    child(pid, pidfd).map_err(|errno| Error::new("clone(CLONE_PIDFD)", errno))
}

/// What a clone's answer means: `None` in the child.
pub(super) fn child(answer: i64, pidfd: RawFd) -> std::result::Result<Option<Child>, Errno> {
    let pid = check(answer)?;
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Errno::INVAL)?;
    Ok(Some(Child { pid, pidfd }))
}

/// setns(2), of whatever kind the namespace is.
pub(super) fn join(namespace: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    // SAFETY: setns takes plain numbers.
    check(unsafe { libc::syscall(libc::SYS_setns, namespace.as_raw_fd(), 0) }).map(|_| ())
}

/// The child begins in the cgroup of `clone_args.cgroup`. Source: clone(2); libc has no constant of 64 bits.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// clone3(2) in the manner of fork, with a pidfd. Returns `None` in the child.
pub(super) fn clone_like_fork(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
) -> std::result::Result<Option<Child>, Errno> {
    let mut pidfd: RawFd = -1;
    let into = cgroup.map_or(0, |_| CLONE_INTO_CGROUP);
    #[allow(
        clippy::cast_sign_loss,
        reason = "flags and addresses are bit patterns to the kernel"
    )]
    let args = libc::clone_args {
        flags: flags | libc::CLONE_PIDFD as u64 | into,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        // A sibling takes over what this process itself has; the kernel accepts nothing else (clone(2)).
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 {
            libc::SIGCHLD as u64
        } else {
            0
        },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: without CLONE_VM the child gets a copy of this memory and goes on behind this call; `args` and
    // `pidfd` outlive it. The callers see to what the child may do.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            ptr::from_ref(&args),
            size_of::<libc::clone_args>(),
        )
    };
    match child(pid, pidfd) {
        // KERNEL(5.3): unknown before; outer filters, which cannot see its flags, answer the same, or EPERM.
        Err(Errno::NOSYS | Errno::PERM) => classic_clone(flags | args.exit_signal, cgroup),
        done => done,
    }
}

/// clone(2) in its place. It starts no process in another group: `E2BIG`, as clone3(2) before Linux 5.7.
fn classic_clone(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
) -> std::result::Result<Option<Child>, Errno> {
    if cgroup.is_some() {
        return Err(Errno::TOOBIG);
    }
    let mut pidfd: RawFd = -1;
    let flags = flags | libc::CLONE_PIDFD as u64;
    // SAFETY: as for clone3: a copy of this memory, and `pidfd` lives.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, ptr::from_mut(&mut pidfd), 0, 0) };
    child(pid, pidfd)
}

/// What [`spawn_sealed`] starts.
#[derive(Debug)]
pub struct Sealed<'a> {
    /// `CLONE_NEW*` flags. With a user namespace that is entered, neither that kind nor the mount namespace: the guide has made one.
    pub namespaces: i32,
    /// The namespaces of a running container that it goes into.
    pub enter: Option<Enter<'a>>,
    /// The cgroup it begins in; the caller's own where there is none.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The words; the first is the title that `ps` shows.
    pub argv: &'a [CString],
    /// `NAME=value`: its whole environment.
    pub env: &'a [CString],
    /// The child's end of the conversation; it becomes descriptor [`Sealed::socket_at`].
    pub socket: BorrowedFd<'a>,
    /// 3, or behind the descriptors that are passed through.
    pub socket_at: RawFd,
    /// What becomes descriptor 0, 1 and 2 when it is not the caller's own.
    pub stdio: [Option<BorrowedFd<'a>>; 3],
    /// The child dies with this process.
    pub die_with_parent: bool,
}

/// Namespaces that exist already, as files of `/proc/PID/ns`.
#[derive(Debug)]
pub struct Enter<'a> {
    /// Those that belong to no user namespace below ours: joining `user` would take the right to join them away.
    pub first: &'a [BorrowedFd<'a>],
    /// The user namespace, which gives the right to join the others. None: ours does.
    pub user: Option<BorrowedFd<'a>>,
    /// The others, the mount namespace among them.
    pub others: &'a [BorrowedFd<'a>],
    /// A mount namespace is among them: our own file is not to be found in it.
    pub mounts: bool,
}

/// Starts this program anew in new namespaces, from a read-only mount of its own file.
///
/// The file is cloned as a detached, read-only mount in the new mount namespace and executed from there, so
/// that nothing that ever runs inside can write to it through `/proc/PID/exe` (CVE-2019-5736). Where the
/// kernel cannot do that, the start is from a sealed copy in memory.
///
/// With [`Sealed::enter`] a guide goes first: it makes that mount in a copy of the host's mount namespace, which is
/// the container's file system only afterwards, joins the rest, and clones the process as its own sibling: a child
/// of the caller's with a number in the container's pid namespace. The guide then ends.
///
/// # Errors
/// clone3(2)'s, and setns(2)'s of the guide. What fails in the child comes as a message of 4 bytes, the errno,
/// after which it exits with 125.
pub fn spawn_sealed(sealed: &Sealed<'_>) -> Result<Child> {
    let plan = ChildPlan::of(sealed)?;
    if let Some(enter) = &sealed.enter {
        return plan.send_guide(enter);
    }
    #[allow(clippy::cast_sign_loss, reason = "flags are a bit pattern")]
    let flags = sealed.namespaces as u64;
    match clone_like_fork(flags, sealed.cgroup) {
        Ok(Some(child)) => Ok(child),
        Ok(None) => plan.run(None),
        Err(errno) => Err(Error::new(
            format!("clone3({})", flag_names(sealed.namespaces)),
            errno,
        )),
    }
}

/// Everything the child needs, made before the clone.
pub(super) struct ChildPlan<'a> {
    sealed: &'a Sealed<'a>,
    exe: CString,
    device: u64,
    inode: u64,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    parent: i32,
}

impl<'a> ChildPlan<'a> {
    pub(super) fn of(sealed: &'a Sealed<'a>) -> Result<Self> {
        let exe = std::fs::read_link("/proc/self/exe").ok();
        let exe = exe.and_then(|path| CString::new(path.into_os_string().into_vec()).ok());
        let me = rustix::fs::stat("/proc/self/exe")
            .map_err(|errno| Error::new("stat(\"/proc/self/exe\")", errno))?;
        Ok(Self {
            sealed,
            exe: exe.unwrap_or_default(),
            device: me.st_dev,
            inode: me.st_ino,
            argv: pointers(sealed.argv),
            env: pointers(sealed.env),
            parent: rustix::process::getpid().as_raw_nonzero().get(),
        })
    }

    /// Clones it from who stands in its user namespace already, or in the one that its own shall be `below`: as a child of
    /// that one's parent.
    pub(super) fn sibling_here(&self, below: bool) -> std::result::Result<Option<Child>, Errno> {
        let stripped = if below { 0 } else { libc::CLONE_NEWUSER };
        let namespaces = self.sealed.namespaces & !stripped;
        #[allow(clippy::cast_sign_loss, reason = "flags are a bit pattern")]
        let flags = (libc::CLONE_PARENT | namespaces) as u64;
        match clone_like_fork(flags, self.sealed.cgroup)? {
            Some(child) => Ok(Some(child)),
            None => self.run(None),
        }
    }

    /// The caller's side of a guide: learns from it who the process is that it has cloned.
    fn send_guide(&self, enter: &Enter<'_>) -> Result<Child> {
        let failed = |call: &str| {
            let call = call.to_owned();
            move |errno| Error::new(call, errno)
        };
        let (news, tell) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed("pipe2()"))?;
        // Its sibling is born where it stands.
        let (made, group) = match clone_like_fork(0, self.sealed.cgroup) {
            Err(Errno::TOOBIG) => (clone_like_fork(0, None), self.sealed.cgroup),
            made => (made, None),
        };
        let Some(guide) = made.map_err(failed("clone3()"))? else {
            let answer = match group
                .map_or(Ok(()), move_into)
                .and_then(|()| self.guide(enter))
            {
                Ok(pid) => pid,
                Err(errno) => -errno.raw_os_error(),
            };
            let bytes = answer.to_ne_bytes();
            // SAFETY: `bytes` lives across the call; the descriptor is open.
            unsafe { libc::write(tell.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
            exit_now(0)
        };
        drop(tell);
        let mut bytes = [0_u8; 4];
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&news, &mut bytes));
        guide.wait()?;
        if length.map_err(failed("read(pipe)"))? != bytes.len() {
            return Err(Error::new("setns()", Errno::SRCH)); // it was killed
        }
        let answer = i32::from_ne_bytes(bytes);
        // A negative number is not asked for: `Pid` takes none.
        let Some(pid) = Pid::from_raw(answer.max(0)) else {
            let errno = Errno::from_raw_os_error(answer.saturating_neg());
            return Err(Error::new("setns()", errno));
        };
        // Our own child: its number is nobody else's before we have waited for it.
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .map_err(failed("pidfd_open()"))?;
        Ok(Child { pid, pidfd })
    }

    /// Joins, clones, and returns the clone's number; in the clone it does not return.
    fn guide(&self, enter: &Enter<'_>) -> std::result::Result<i32, Errno> {
        if enter.user.is_none() && !enter.mounts && enter.first.is_empty() {
            return self.sibling(enter, None);
        }
        // What runs inside may be root over the user namespace that is joined next. Until the exec, which
        // brings new memory, this process has the host's files and the caller's memory: nobody may look into it.
        // SAFETY: prctl with plain numbers.
        check(i64::from(unsafe {
            libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0)
        }))?;
        for namespace in enter.first {
            join(*namespace)?;
        }
        if let Some(user) = enter.user {
            join(user)?;
        }
        // SAFETY: unshare with plain numbers.
        check(i64::from(unsafe { libc::unshare(libc::CLONE_NEWNS) }))?;
        let file = self.sealed_mount().or_else(|_| sealed_copy())?;
        self.sibling(enter, Some(file))
    }

    fn sibling(&self, enter: &Enter<'_>, file: Option<RawFd>) -> std::result::Result<i32, Errno> {
        for namespace in enter.others {
            join(*namespace)?;
        }
        #[allow(clippy::cast_sign_loss, reason = "flags are a bit pattern")]
        let flags = (libc::CLONE_PARENT | self.sealed.namespaces) as u64;
        match clone_like_fork(flags, None)? {
            Some(child) => Ok(child.pid.as_raw_nonzero().get()),
            None => self.run(file),
        }
    }

    fn run(&self, file: Option<RawFd>) -> ! {
        let errno = match self.start(file) {
            Ok(never) => match never {},
            Err(errno) => errno.raw_os_error(),
        };
        report(self.sealed.socket.as_raw_fd(), errno);
        exit_now(125)
    }

    /// `file` is the sealed program, where it has been made already.
    fn start(&self, file: Option<RawFd>) -> std::result::Result<std::convert::Infallible, Errno> {
        if self.sealed.die_with_parent {
            // SAFETY: prctl with plain numbers.
            check(i64::from(unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0)
            }))?;
            // Inside a new pid namespace the parent has no number: then the closed socket tells.
            // SAFETY: getppid has no conditions.
            let parent = unsafe { libc::getppid() };
            if parent != self.parent && parent != 0 {
                return Err(Errno::SRCH);
            }
        }
        keep_capabilities_over_exec()?;
        let file = match file {
            Some(file) => file,
            None => self.sealed_mount().or_else(|_| sealed_copy())?,
        };
        for (to, from) in (0..).zip(&self.sealed.stdio) {
            if let Some(from) = from {
                // SAFETY: dup2 takes plain numbers; 0 to 2 are nobody's `OwnedFd` here.
                check(i64::from(unsafe { libc::dup2(from.as_raw_fd(), to) }))?;
            }
        }
        let at = self.sealed.socket_at;
        // The two that are needed go out of the way of the numbers they are going to get.
        let high = at + 2;
        // SAFETY: fcntl with plain numbers.
        let socket = check(i64::from(unsafe {
            libc::fcntl(self.sealed.socket.as_raw_fd(), libc::F_DUPFD_CLOEXEC, high)
        }))?;
        // SAFETY: as above.
        let file = check(i64::from(unsafe {
            libc::fcntl(file, libc::F_DUPFD_CLOEXEC, high)
        }))?;
        let (socket, file) = (as_fd(socket)?, as_fd(file)?);
        // SAFETY: dup2 with plain numbers; whatever had the target number before belongs to the old program.
        check(i64::from(unsafe { libc::dup2(socket, at) }))?;
        // SAFETY: dup3 with plain numbers.
        check(i64::from(unsafe {
            libc::dup3(file, at + 1, libc::O_CLOEXEC)
        }))?;
        close_from(at + 2)?;
        // SAFETY: `argv` and `env` end with null and point to strings that live; the kernel copies them.
        let failed = unsafe {
            libc::syscall(
                libc::SYS_execveat,
                at + 1,
                c"".as_ptr(),
                self.argv.as_ptr(),
                self.env.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        Err(check(failed).err().unwrap_or(Errno::INVAL))
    }

    /// A descriptor of the program's file on a detached read-only mount.
    fn sealed_mount(&self) -> std::result::Result<RawFd, Errno> {
        // By its path: a descriptor from /proc/self/exe belongs to the old mount namespace (EINVAL).
        // SAFETY: the path is a C string that lives.
        let fd = check(unsafe {
            libc::syscall(
                libc::SYS_open_tree,
                libc::AT_FDCWD,
                self.exe.as_ptr(),
                libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC,
            )
        })?;
        let fd = as_fd(fd)?;
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_RDONLY,
            attr_clr: 0,
            propagation: 0,
            userns_fd: 0,
        };
        // SAFETY: the path is a C string, the structure lives and its size is told.
        check(unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                fd,
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                ptr::from_ref(&attributes),
                size_of::<libc::mount_attr>(),
            )
        })?;
        // SAFETY: all-zero bytes are a valid `stat`.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the path is a C string, `stat` lives.
        let done = unsafe {
            libc::fstatat(
                fd,
                c"".as_ptr(),
                ptr::from_mut(&mut stat),
                libc::AT_EMPTY_PATH,
            )
        };
        check(i64::from(done))?;
        // Somebody may have put another file at the path meanwhile.
        if (stat.st_dev, stat.st_ino) == (self.device, self.inode) {
            Ok(fd)
        } else {
            Err(Errno::STALE)
        }
    }
}

/// Goes into the cgroup whose directory this is.
fn move_into(cgroup: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    let name = c"cgroup.procs".as_ptr();
    // SAFETY: the name is a C string, the directory is open.
    let file = as_fd(check(i64::from(unsafe {
        libc::openat(cgroup.as_raw_fd(), name, flags)
    }))?)?;
    // SAFETY: one byte of a constant. The descriptor goes with the exec.
    check(unsafe { libc::write(file, c"0".as_ptr().cast(), 1) } as i64).map(|_| ())
}

/// Sends a message of 4 bytes, as [`super::socket::Channel`] reads them: the errno.
fn report(to: RawFd, errno: i32) {
    let mut message = [0_u8; 8];
    let (length, body) = message.split_at_mut(4);
    length.copy_from_slice(&4_u32.to_ne_bytes());
    body.copy_from_slice(&errno.to_ne_bytes());
    // SAFETY: `message` lives across the call; the descriptor is open.
    unsafe { libc::write(to, message.as_ptr().cast(), message.len()) };
}

/// This program once more, for a life of its own.
#[derive(Debug)]
pub struct Detached<'a> {
    /// The words; the first is the title that `ps` shows.
    pub argv: &'a [CString],
    /// `NAME=value`.
    pub env: &'a [CString],
    /// Becomes standard input, output and error; `/dev/null`.
    pub null: BorrowedFd<'a>,
    /// Become descriptors 3, 4, …
    pub fds: &'a [BorrowedFd<'a>],
}

/// Starts this program anew in a session of its own, with nothing of the caller's but what is named.
///
/// # Errors
/// clone3(2)'s. What fails in the child ends it with 127.
pub fn spawn_detached(detached: &Detached<'_>) -> Result<Child> {
    let (argv, env) = (pointers(detached.argv), pointers(detached.env));
    match clone_like_fork(0, None) {
        Ok(Some(child)) => return Ok(child),
        Ok(None) => {}
        Err(errno) => return Err(Error::new("clone3(CLONE_PIDFD)", errno)),
    }
    let _ = start_detached(detached, &argv, &env); // there is nobody to tell but the exit code
    exit_now(127)
}

fn start_detached(
    detached: &Detached<'_>,
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
) -> std::result::Result<(), Errno> {
    // SAFETY: setsid has no conditions.
    check(i64::from(unsafe { libc::setsid() }))?;
    for to in 0..3 {
        // SAFETY: dup2 takes plain numbers.
        check(i64::from(unsafe {
            libc::dup2(detached.null.as_raw_fd(), to)
        }))?;
    }
    // First out of the way of the numbers that they are going to get.
    for (to, fd) in (100..).zip(detached.fds) {
        // SAFETY: dup3 takes plain numbers.
        check(i64::from(unsafe {
            libc::dup3(fd.as_raw_fd(), to, libc::O_CLOEXEC)
        }))?;
    }
    let mut after = 3;
    for (from, _) in (100..).zip(detached.fds) {
        // SAFETY: dup2 takes plain numbers.
        check(i64::from(unsafe { libc::dup2(from, after) }))?;
        after += 1;
    }
    close_from(after)?;
    // SAFETY: chdir of a C string.
    check(i64::from(unsafe { libc::chdir(c"/".as_ptr()) }))?;
    reset_signals();
    // SAFETY: `argv` and `env` are lists of C strings that end with null; all live.
    check(i64::from(unsafe {
        libc::execve(c"/proc/self/exe".as_ptr(), argv.as_ptr(), env.as_ptr())
    }))?;
    Ok(())
}

/// A copy of the program in memory that can no longer be changed. Source: memfd_create(2), fcntl(2) F_ADD_SEALS.
fn sealed_copy() -> std::result::Result<RawFd, Errno> {
    // SAFETY: the path is a C string.
    let source = check(i64::from(unsafe {
        libc::open(c"/proc/self/exe".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC)
    }))?;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string.
    let executable = unsafe { libc::memfd_create(c"rl".as_ptr(), flags | libc::MFD_EXEC) };
    let copy = match check(i64::from(executable)) {
        // KERNEL(6.3): MFD_EXEC is unknown before.
        // SAFETY: as above.
        Err(Errno::INVAL) => check(i64::from(unsafe {
            libc::memfd_create(c"rl".as_ptr(), flags)
        }))?,
        done => done?,
    };
    let (source, copy) = (as_fd(source)?, as_fd(copy)?);
    loop {
        // SAFETY: a null offset means the descriptor's own.
        let moved = unsafe { libc::sendfile(copy, source, ptr::null_mut(), 1 << 24) };
        if check(i64::try_from(moved).map_err(|_| Errno::INVAL)?)? == 0 {
            break;
        }
    }
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
    // SAFETY: fcntl with plain numbers.
    check(i64::from(unsafe {
        libc::fcntl(copy, libc::F_ADD_SEALS, seals)
    }))?;
    Ok(copy)
}

/// Lets all capabilities of a user namespace survive an exec by who is not its uid 0, or not yet, as before any id is
/// mapped there. Source: capabilities(7), "Ambient".
pub(super) fn keep_capabilities_over_exec() -> std::result::Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // _LINUX_CAPABILITY_VERSION_3
    let mut header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let mut data = [Data {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: header and data have the layout of capget(2), version 3 has two data elements.
    check(unsafe {
        libc::syscall(
            libc::SYS_capget,
            ptr::from_mut(&mut header),
            data.as_mut_ptr(),
        )
    })?;
    for half in &mut data {
        half.inheritable = half.permitted;
    }
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, ptr::from_mut(&mut header), data.as_ptr()) })?;
    for capability in 0..64_u32 {
        let half = data[if capability < 32 { 0 } else { 1 }];
        if half.permitted & (1 << (capability % 32)) != 0 {
            // SAFETY: prctl with plain numbers.
            let raised = unsafe {
                libc::prctl(
                    libc::PR_CAP_AMBIENT,
                    libc::PR_CAP_AMBIENT_RAISE,
                    libc::c_ulong::from(capability),
                    0,
                    0,
                )
            };
            check(i64::from(raised))?;
        }
    }
    Ok(())
}

fn as_fd(number: i64) -> std::result::Result<RawFd, Errno> {
    RawFd::try_from(number).map_err(|_| Errno::BADF)
}

/// A list as execve(2) wants it, which ends with null; it is good as long as `words` are.
pub(super) fn pointers(words: &[CString]) -> Vec<*const libc::c_char> {
    let each = words.iter().map(|word| word.as_ptr());
    each.chain([ptr::null()]).collect()
}

/// The kernel's answer as a result: -1 means `errno`.
pub(super) fn check(answer: i64) -> std::result::Result<i64, Errno> {
    if answer == -1 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(answer)
    }
}

/// Closes every descriptor from `first` on.
fn close_from(first: RawFd) -> std::result::Result<(), Errno> {
    // SAFETY: close_range with plain numbers; nobody owns what is closed: an exec follows.
    match check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }) {
        // KERNEL(5.9): close_range(2) is missing before.
        Err(Errno::NOSYS | Errno::PERM) => {
            for fd in first..most_descriptors() {
                // SAFETY: as above; closing what is not open does nothing.
                unsafe { libc::close(fd) };
            }
            Ok(())
        }
        done => done.map(|_| ()),
    }
}

/// Marks every descriptor from `first` on as to be closed by the next exec.
///
/// # Errors
/// The kernel's.
pub fn close_on_exec_from(first: RawFd) -> Result<()> {
    cloexec_from(first).map_err(|errno| Error::new(format!("close_range({first}, CLOEXEC)"), errno))
}

pub(super) fn cloexec_from(first: RawFd) -> std::result::Result<(), Errno> {
    // SAFETY: close_range with plain numbers; with CLOEXEC nothing is closed now.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    match check(done) {
        Ok(_) => Ok(()),
        // KERNEL(5.11): CLOSE_RANGE_CLOEXEC is missing before; outer filters answer EPERM, too.
        Err(Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
            for fd in first..most_descriptors() {
                // SAFETY: fcntl with plain numbers; a descriptor that is not open is refused.
                unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
            }
            Ok(())
        }
        Err(errno) => Err(errno),
    }
}

/// No open descriptor is expected to have this number or a higher one: the hard limit. Source: getrlimit(2).
fn most_descriptors() -> RawFd {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` lives.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, ptr::from_mut(&mut limit)) };
    let most = if done == 0 { limit.rlim_max } else { 65_536 };
    // Not the 1,073,741,816 of some systems: each number is a call.
    RawFd::try_from(most.min(1 << 20)).unwrap_or(65_536)
}

/// Leaves at once: no destructor, no buffer of the parent's is touched.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and has no conditions.
    unsafe { libc::_exit(code) }
}

/// Takes over a descriptor that was passed by number at the start of this process.
///
/// # Errors
/// `EBADF` when it is not open.
pub fn inherited(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: fcntl with plain numbers.
    let flags = check(i64::from(unsafe {
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC)
    }));
    flags.map_err(|errno| Error::new(format!("fcntl({fd}, F_SETFD)"), errno))?;
    // SAFETY: it is open, and the one who calls is the one it was passed to.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// execve(2) of a file that is open: no path is resolved again. Returns only when it fails.
pub fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> Error {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end with null and point to strings that live across the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
    Error::new(format!("execve({path:?})"), errno)
}

/// Gives every signal its default action and blocks none: how a program expects to start.
/// Rust's runtime ignores SIGPIPE, and what is ignored stays so over an exec.
pub fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is always valid; the C library refuses the numbers it keeps for itself.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: all-zero bytes are a valid `sigset_t`, and `sigemptyset` sets it anyway.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set lives.
    unsafe { libc::sigemptyset(ptr::from_mut(&mut none)) };
    // SAFETY: the set lives; the old one is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, ptr::from_ref(&none), ptr::null_mut()) };
}

/// prctl(2) `PR_SET_PDEATHSIG`: this process is killed when its parent dies. A change of ids undoes it.
///
/// # Errors
/// Those of prctl(2).
pub fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|errno| Error::new("prctl(PR_SET_PDEATHSIG, SIGKILL)", errno))
}

/// unshare(2) of a process with one thread.
///
/// # Errors
/// The kernel's.
pub fn unshare(flags: i32) -> Result<()> {
    // SAFETY: unshare with plain numbers; the flags used here do not touch memory or descriptors.
    match check(i64::from(unsafe { libc::unshare(flags) })) {
        Ok(_) => Ok(()),
        Err(errno) => Err(Error::new(format!("unshare({})", flag_names(flags)), errno)),
    }
}

/// setns(2) of a process with one thread; `kind` is a `CLONE_NEW*` flag, or 0 for whatever the descriptor is.
///
/// # Errors
/// The kernel's.
pub fn setns(namespace: BorrowedFd<'_>, kind: i32) -> Result<()> {
    // SAFETY: setns with plain numbers.
    match check(i64::from(unsafe {
        libc::setns(namespace.as_raw_fd(), kind)
    })) {
        Ok(_) => Ok(()),
        Err(errno) => Err(Error::new(format!("setns({})", flag_names(kind)), errno)),
    }
}

/// Becomes the user and group with these numbers, all three of each.
///
/// # Errors
/// `EINVAL` for a number that is not mapped here.
pub fn become_ids(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: the raw call, for this thread: the process has one.
    match check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }) {
        Ok(_) => {}
        Err(errno) => return Err(Error::new(format!("setresgid({gid})"), errno)),
    }
    // SAFETY: as above.
    match check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }) {
        Ok(_) => Ok(()),
        Err(errno) => Err(Error::new(format!("setresuid({uid})"), errno)),
    }
}
