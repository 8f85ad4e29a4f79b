//! Which file a call means: paths and descriptors as the caller sees them.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use anyhow::Result;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::{Caller, Named};
use crate::stage::emulation::Emulator;

impl Emulator {
    /// What a descriptor of the caller's stands for, as an `O_PATH` descriptor.
    pub(super) fn descriptor(&self, caller: Caller<'_>, fd: i32) -> Result<OwnedFd, Errno> {
        if fd == libc::AT_FDCWD {
            return self.of_caller(caller.pid, "cwd", OFlags::PATH);
        }
        self.of_caller(caller.pid, &format!("fd/{fd}"), OFlags::PATH)
    }

    pub(super) fn locate(&mut self, caller: Caller<'_>, named: Named) -> Result<OwnedFd, Errno> {
        let path = if named.empty && named.path == 0 {
            Vec::new()
        } else {
            caller.text(named.path)?
        };
        self.resolve(caller, named, &path)
    }

    /// Finds `path` as the kernel would for the caller: from its root, its working directory or its descriptor. The
    /// magic links of `/proc` are not followed but for the caller's own descriptors, by their usual names.
    fn resolve(&mut self, caller: Caller<'_>, named: Named, path: &[u8]) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            if named.empty {
                return self.descriptor(caller, named.directory);
            }
            return Err(Errno::NOENT);
        }
        if let Some(fd) = own_descriptor(path).filter(|_| named.follow) {
            return self.descriptor(caller, fd);
        }
        self.stand_at_root_of(caller.pid)?;
        let flags = if named.follow {
            OFlags::PATH | OFlags::CLOEXEC
        } else {
            OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW
        };
        let open = |base: BorrowedFd<'_>| {
            let path = OsStr::from_bytes(path);
            rustix::fs::openat2(
                base,
                path,
                flags,
                Mode::empty(),
                ResolveFlags::NO_MAGICLINKS,
            )
        };
        if path[0] == b'/' {
            open(self.processes.as_fd())
        } else {
            open(self.descriptor(caller, named.directory)?.as_fd())
        }
    }

    /// The directory in which a call makes something, and the name there.
    pub(super) fn place(
        &mut self,
        caller: Caller<'_>,
        named: Named,
    ) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let path = caller.text(named.path)?;
        let end = path
            .iter()
            .rposition(|byte| *byte != b'/')
            .ok_or(Errno::EXIST)?;
        let (parent, name) = match path[..=end].iter().rposition(|byte| *byte == b'/') {
            None => (&b"."[..], &path[..]),
            Some(0) => (&b"/"[..], &path[1..]),
            Some(slash) => (&path[..slash], &path[slash + 1..]),
        };
        if matches!(name, b"." | b".." | b"") {
            return Err(Errno::EXIST);
        }
        let name = name.to_vec();
        let named = Named {
            follow: true,
            ..named
        };
        let parent = self.resolve(caller, named, parent)?;
        Ok((parent, name))
    }

    /// Whether the file lies on a mount of the container, or of the caller's own: a descriptor of the host's that it was
    /// given does not.
    pub(super) fn is_inside(
        &mut self,
        caller: Caller<'_>,
        file: BorrowedFd<'_>,
    ) -> Result<bool, Errno> {
        let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        if self.mounts.contains(&stat.stx_mnt_id) {
            return Ok(true);
        }
        // Who stands elsewhere sees only what is mounted below (proc(5), mountinfo).
        let top = std::rc::Rc::clone(&self.top);
        self.stand_at(&top)?;
        self.mounts.clear();
        for table in ["self/mountinfo", &format!("{}/mountinfo", caller.pid)] {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&self.processes, table, flags, Mode::empty())?;
            let text = std::io::read_to_string(std::fs::File::from(file)).map_err(|_| Errno::IO)?;
            let ids = text
                .lines()
                .filter_map(|line| line.split(' ').next()?.parse::<u64>().ok());
            self.mounts.extend(ids);
        }
        Ok(self.mounts.contains(&stat.stx_mnt_id))
    }
}

/// The descriptor that a path of `/proc` or `/dev` means to the one who uses it.
fn own_descriptor(path: &[u8]) -> Option<i32> {
    let number = match path {
        b"/dev/stdin" => return Some(0),
        b"/dev/stdout" => return Some(1),
        b"/dev/stderr" => return Some(2),
        _ => ["/proc/self/fd/", "/proc/thread-self/fd/", "/dev/fd/"]
            .iter()
            .find_map(|prefix| path.strip_prefix(prefix.as_bytes()))?,
    };
    let number: u32 = std::str::from_utf8(number).ok()?.parse().ok()?;
    i32::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_own_descriptors_are_known() {
        let cases = [
            ("/proc/self/fd/7", Some(7)),
            ("/dev/fd/0", Some(0)),
            ("/dev/stderr", Some(2)),
            ("/proc/self/fd/7/x", None),
            ("/proc/self/fd/-1", None),
            ("/proc/self/fd/4294967295", None),
            ("/proc/1/fd/7", None),
            ("fd/7", None),
        ];
        for (path, expected) in cases {
            assert_eq!(own_descriptor(path.as_bytes()), expected, "{path}");
        }
    }
}
