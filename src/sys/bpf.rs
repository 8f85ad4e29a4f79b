//! One kind of kernel program: which devices the processes of a control group may use.
//!
//! Source: bpf(2); linux/bpf.h, `BPF_PROG_TYPE_CGROUP_DEVICE`, `struct bpf_cgroup_dev_ctx`.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;

use super::{Error, Result};

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination in the lower half, source in the upper.
    pub registers: u8,
    /// Offset of memory, or how many instructions are jumped over.
    pub offset: i16,
    /// Operand.
    pub operand: i32,
}

/// The fields of `union bpf_attr` for `BPF_PROG_LOAD`, as far as they are needed.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The fields for `BPF_PROG_ATTACH`.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Loads the program and attaches it to a control group, beside those that are there: each may forbid.
///
/// # Errors
/// `EPERM` without `CAP_BPF` in the first user namespace; `EINVAL` for a program that the kernel does not understand.
pub fn attach_devices(group: BorrowedFd<'_>, program: &[Instruction]) -> Result<()> {
    let license = c"Apache-2.0";
    let load = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the structure lives and its size is told; what it points to lives and is only read.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_LOAD,
            ptr::from_ref(&load),
            size_of::<Load>(),
        )
    };
    let fd = RawFd::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(Error::new("bpf(BPF_PROG_LOAD, CGROUP_DEVICE)", last()));
    }
    // SAFETY: the kernel has just made it for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let attach = Attach {
        target_fd: group.as_raw_fd().unsigned_abs(),
        attach_bpf_fd: fd.as_raw_fd().unsigned_abs(),
        attach_type: CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI,
    };
    // SAFETY: the structure lives and its size is told.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            ptr::from_ref(&attach),
            size_of::<Attach>(),
        )
    };
    if done < 0 {
        return Err(Error::new("bpf(BPF_PROG_ATTACH, CGROUP_DEVICE)", last()));
    }
    Ok(())
}
