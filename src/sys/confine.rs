//! What a process gives up before it executes a program: limits, ids, capabilities, system calls.
//!
//! All of it concerns the calling thread only, which is the process where it is single-threaded.

use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{Error, Result};

/// One instruction of classic BPF: `struct sock_filter` of linux/filter.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip where a comparison holds.
    pub jt: u8,
    /// Instructions to skip where it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// setrlimit(2). `None` is unlimited.
///
/// # Errors
/// `EPERM` when the hard limit would rise, or above `fs.nr_open` for `nofile`.
pub fn setrlimit(resource: Resource, soft: Option<u64>, hard: Option<u64>) -> Result<()> {
    let limit = Rlimit {
        current: soft,
        maximum: hard,
    };
    rustix::process::setrlimit(resource, limit).map_err(|errno| {
        let shown = |value: Option<u64>| value.map_or("unlimited".to_owned(), |n| n.to_string());
        let call = format!(
            "setrlimit({resource:?}, {{{}, {}}})",
            shown(soft),
            shown(hard)
        );
        Error::new(call, errno)
    })
}

/// setgroups(2).
///
/// # Errors
/// `EPERM` without `CAP_SETGID` or where `/proc/self/setgroups` says `deny`; `EINVAL` for ids that are not mapped.
pub fn setgroups(groups: &[u32]) -> Result<()> {
    let gids: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&gids)
        .map_err(|errno| Error::new(format!("setgroups({groups:?})"), errno))
}

/// setresgid(2), all three the same.
///
/// # Errors
/// `EINVAL` for an id that is not mapped, `EPERM`.
pub fn setresgid(gid: u32) -> Result<()> {
    let id = Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(id, id, id)
        .map_err(|errno| Error::new(format!("setresgid({gid})"), errno))
}

/// setresuid(2), all three the same.
///
/// # Errors
/// `EINVAL` for an id that is not mapped, `EPERM`, `EAGAIN` for `RLIMIT_NPROC`.
pub fn setresuid(uid: u32) -> Result<()> {
    let id = Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(id, id, id)
        .map_err(|errno| Error::new(format!("setresuid({uid})"), errno))
}

/// prctl(2) `PR_SET_KEEPCAPS`: permitted capabilities survive the change away from uid 0.
///
/// # Errors
/// `EPERM` where securebits lock it.
pub fn keep_capabilities() -> Result<()> {
    rustix::thread::set_keep_capabilities(true)
        .map_err(|errno| Error::new("prctl(PR_SET_KEEPCAPS, 1)", errno))
}

/// prctl(2) `PR_CAPBSET_READ`; `None` for a capability that the kernel does not have.
///
/// # Errors
/// Those of prctl(2).
pub fn bounding_set_has(number: u8) -> Result<Option<bool>> {
    match rustix::thread::capability_is_in_bounding_set(one(number)) {
        Ok(has) => Ok(Some(has)),
        Err(Errno::INVAL) => Ok(None),
        Err(errno) => Err(Error::new(
            format!("prctl(PR_CAPBSET_READ, {number})"),
            errno,
        )),
    }
}

/// prctl(2) `PR_CAPBSET_DROP`.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn drop_from_bounding_set(number: u8) -> Result<()> {
    rustix::thread::remove_capability_from_bounding_set(one(number))
        .map_err(|errno| Error::new(format!("prctl(PR_CAPBSET_DROP, {number})"), errno))
}

/// prctl(2) `PR_CAP_AMBIENT_CLEAR_ALL`.
///
/// # Errors
/// `EINVAL` before Linux 4.3.
pub fn clear_ambient_set() -> Result<()> {
    rustix::thread::clear_ambient_capability_set()
        .map_err(|errno| Error::new("prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)", errno))
}

/// capset(2): these capabilities permitted and effective, none inheritable. Bit n is capability n.
///
/// # Errors
/// `EPERM` for one that is not permitted now.
pub fn capset(capabilities: u64) -> Result<()> {
    let set = CapabilitySet::from_bits_retain(capabilities);
    let sets = CapabilitySets {
        effective: set,
        permitted: set,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)
        .map_err(|errno| Error::new(format!("capset({capabilities:#x})"), errno))
}

/// capset(2) with three sets of their own. Bit n is capability n.
///
/// # Errors
/// `EPERM` for one that is not permitted now, or inheritable outside of the bounding set.
pub fn capset_each(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(effective),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::from_bits_retain(inheritable),
    };
    rustix::thread::set_capabilities(None, sets).map_err(|errno| {
        let call = format!("capset({effective:#x}, {permitted:#x}, {inheritable:#x})");
        Error::new(call, errno)
    })
}

/// prctl(2) `PR_CAP_AMBIENT_RAISE`.
///
/// # Errors
/// `EPERM` for one that is not both permitted and inheritable.
pub fn raise_ambient(number: u8) -> Result<()> {
    rustix::thread::configure_capability_in_ambient_set(one(number), true)
        .map_err(|errno| Error::new(format!("prctl(PR_CAP_AMBIENT_RAISE, {number})"), errno))
}

/// capget(2): the permitted capabilities. Bit n is capability n.
///
/// # Errors
/// Those of capget(2).
pub fn permitted_capabilities() -> Result<u64> {
    rustix::thread::capabilities(None)
        .map(|sets| sets.permitted.bits())
        .map_err(|errno| Error::new("capget()", errno))
}

/// prctl(2) `PR_SET_NO_NEW_PRIVS`.
///
/// # Errors
/// Those of prctl(2).
pub fn no_new_privs() -> Result<()> {
    rustix::thread::set_no_new_privs(true)
        .map_err(|errno| Error::new("prctl(PR_SET_NO_NEW_PRIVS, 1)", errno))
}

/// seccomp(2) `SECCOMP_SET_MODE_FILTER`.
///
/// # Errors
/// `EACCES` with neither `CAP_SYS_ADMIN` nor no_new_privs; `EINVAL` for a bad program or an unknown flag.
pub fn seccomp(program: &[Instruction], flags: libc::c_ulong) -> Result<()> {
    load(program, flags).map(|_| ())
}

/// As [`seccomp`], with what the kernel answers: 0, or the descriptor that the flags ask for.
pub(super) fn load(program: &[Instruction], flags: libc::c_ulong) -> Result<i64> {
    let failed = |errno| {
        let call = format!(
            "seccomp(SECCOMP_SET_MODE_FILTER, {flags:#x}, [{} instructions])",
            program.len()
        );
        Error::new(call, errno)
    };
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| failed(Errno::INVAL))?,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: `filter` and the instructions it points to outlive the call, which only reads them;
    // `Instruction` has the layout of `struct sock_filter` and `len` counts what is there.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const filter,
        )
    };
    if result >= 0 {
        return Ok(result);
    }
    let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL);
    Err(failed(errno))
}

fn one(number: u8) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1_u64 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_laid_out_as_the_kernel_has_it() {
        assert_eq!(size_of::<Instruction>(), size_of::<libc::sock_filter>());
        assert_eq!(align_of::<Instruction>(), align_of::<libc::sock_filter>());
        assert_eq!(
            std::mem::offset_of!(Instruction, k),
            std::mem::offset_of!(libc::sock_filter, k)
        );
    }

    #[test]
    fn the_kernel_names_its_last_capability() {
        assert!(bounding_set_has(0).unwrap().is_some());
        assert_eq!(bounding_set_has(63).unwrap(), None);
    }
}
