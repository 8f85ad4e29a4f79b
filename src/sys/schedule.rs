//! How the kernel treats a process beside others: its scheduler, its place at the disk, its processors, its personality.
//!
//! All of it concerns the calling thread, which is the process where it is single-threaded.

use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::CpuSet;

use super::{Error, Result};

/// `struct sched_attr` in its first form. Source: sched_setattr(2).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes {
    /// Filled in by [`set_scheduler`].
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For the policies of fair shares.
    pub nice: i32,
    /// For the real-time policies.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub runtime: u64,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub deadline: u64,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub period: u64,
}

fn check(call: impl FnOnce() -> String, answer: i64) -> Result<()> {
    if answer >= 0 {
        return Ok(());
    }
    let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
    Err(Error::new(call(), errno))
}

/// sched_setattr(2).
///
/// # Errors
/// `EPERM` for real-time policies without `CAP_SYS_NICE`, `EINVAL` for values that do not go together.
pub fn set_scheduler(attributes: &Attributes) -> Result<()> {
    let mut attributes = *attributes;
    attributes.size = u32::try_from(size_of::<Attributes>()).unwrap_or(0);
    // SAFETY: the structure lives, has the layout of the first `sched_attr`, and tells its size.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, ptr::from_ref(&attributes), 0) };
    check(
        || format!("sched_setattr({{policy {}}})", attributes.policy),
        done,
    )
}

/// ioprio_set(2) for this thread.
///
/// # Errors
/// `EPERM` for the real-time class without rights, `EINVAL`.
pub fn set_io_priority(class: u32, priority: u32) -> Result<()> {
    /// `IOPRIO_WHO_PROCESS`, `IOPRIO_CLASS_SHIFT` of linux/ioprio.h.
    const WHO_PROCESS: i32 = 1;
    let value = class << 13 | priority;
    // SAFETY: ioprio_set takes plain numbers.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
    check(|| format!("ioprio_set({class}, {priority})"), done)
}

/// sched_setaffinity(2) of the process `pid`, or of this one.
///
/// # Errors
/// `EINVAL` when none of them is allowed here.
pub fn set_affinity(pid: Option<Pid>, processors: &[u32]) -> Result<()> {
    let failed = |errno| Error::new(format!("sched_setaffinity({processors:?})"), errno);
    let mut set = CpuSet::new();
    for processor in processors {
        let number = usize::try_from(*processor).unwrap_or(usize::MAX);
        if number >= CpuSet::MAX_CPU {
            return Err(failed(Errno::INVAL));
        }
        set.set(number);
    }
    rustix::thread::sched_setaffinity(pid, &set).map_err(failed)
}

/// personality(2).
///
/// # Errors
/// `EINVAL` where the kernel does not know it.
pub fn set_personality(persona: u32) -> Result<()> {
    // SAFETY: personality takes a plain number.
    let done = unsafe { libc::personality(libc::c_ulong::from(persona)) };
    check(|| format!("personality({persona:#x})"), i64::from(done))
}

/// keyctl(2) `KEYCTL_JOIN_SESSION_KEYRING`: a new session keyring of this name, which nobody else has a hold of.
///
/// # Errors
/// `ENOSYS` in a kernel without keys, `EDQUOT`.
pub fn new_session_keyring(name: &std::ffi::CStr) -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: the name is a C string that lives.
    let done =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    check(|| format!("keyctl(JOIN_SESSION_KEYRING, {name:?})"), done)
}
