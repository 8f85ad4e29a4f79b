//! Calls about who a process is: its ids and groups, and what an execve(2) makes of them.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::Result;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Caller, Judged, Named, Outcome, low};
use crate::stage::emulation::identity::{Change, Identity};
use crate::stage::emulation::{Emulator, own};
use crate::sys::notify;

/// The most supplementary groups (linux/limits.h).
const GROUPS_MAX: u32 = 65_536;

impl Emulator {
    pub(super) fn who(&self, caller: Caller<'_>) -> Result<Identity, Errno> {
        let (number, _) = notify::lock_limit(caller.pid)?;
        Ok(self.identities.of(number).clone())
    }

    fn become_one(&mut self, caller: Caller<'_>, new: &Identity) -> Result<(), Errno> {
        let (_, hard) = notify::lock_limit(caller.pid)?;
        let number = self.identities.number(new)?;
        caller.waits()?;
        notify::set_lock_limit(caller.pid, number, hard).map_err(|_| Errno::AGAIN)
    }

    pub(super) fn identity(&mut self, caller: Caller<'_>, number: i64, a: [u64; 6]) -> Judged {
        let who = self.who(caller)?;
        let ids = |count: usize| a[..count].iter().copied().map(low).collect::<Vec<u32>>();
        let value = |id: u32| Ok(Outcome::Value(id.into()));
        let change = match number {
            libc::SYS_getuid => return value(who.uid.real),
            libc::SYS_geteuid => return value(who.uid.effective),
            libc::SYS_getgid => return value(who.gid.real),
            libc::SYS_getegid => return value(who.gid.effective),
            libc::SYS_getresuid | libc::SYS_getresgid => {
                let ids = if number == libc::SYS_getresuid {
                    who.uid
                } else {
                    who.gid
                };
                for (address, id) in a.into_iter().zip([ids.real, ids.effective, ids.saved]) {
                    caller.tell(address, &id.to_ne_bytes())?;
                }
                return Ok(Outcome::Value(0));
            }
            libc::SYS_getgroups => return Self::groups(caller, &who, a),
            libc::SYS_setuid => Change::User(ids(1)),
            libc::SYS_setreuid => Change::User(ids(2)),
            libc::SYS_setresuid => Change::User(ids(3)),
            libc::SYS_setgid => Change::Group(ids(1)),
            libc::SYS_setregid => Change::Group(ids(2)),
            libc::SYS_setresgid => Change::Group(ids(3)),
            libc::SYS_setfsuid => Change::FileUser(low(a[0])),
            libc::SYS_setfsgid => Change::FileGroup(low(a[0])),
            libc::SYS_setgroups => {
                let count = low(a[0]);
                if count > GROUPS_MAX {
                    return Ok(Outcome::Refused(Errno::INVAL));
                }
                let mut bytes = vec![0_u8; 4 * usize::try_from(count).map_err(|_| Errno::INVAL)?];
                if !bytes.is_empty()
                    && notify::read_memory(caller.pid, a[1], &mut bytes)? < bytes.len()
                {
                    return Ok(Outcome::Refused(Errno::FAULT));
                }
                let groups = bytes.as_chunks::<4>().0;
                Change::Groups(groups.iter().map(|id| u32::from_ne_bytes(*id)).collect())
            }
            libc::SYS_prctl => Change::Keep(a[1] != 0),
            libc::SYS_capset => {
                // Effective, permitted, inheritable; twice, the low halves first.
                let mut sets = [0_u8; 24];
                if notify::read_memory(caller.pid, a[1], &mut sets)? < sets.len() {
                    return Ok(Outcome::Kernel);
                }
                let half =
                    |at: usize| u32::from_ne_bytes(sets[at..at + 4].try_into().expect("4 bytes"));
                Change::Capabilities(u64::from(half(4)) | u64::from(half(16)) << 32)
            }
            _ => return Ok(Outcome::Kernel),
        };
        let new = match who.changed(&change) {
            Ok(new) => new,
            Err(errno) => return Ok(Outcome::Refused(errno)),
        };
        if new != who
            && let Err(errno) = self.become_one(caller, &new)
        {
            return Ok(Outcome::Refused(errno));
        }
        match change {
            // They answer who it was.
            Change::FileUser(_) => value(who.uid.file),
            Change::FileGroup(_) => value(who.gid.file),
            Change::User(_) | Change::Group(_) | Change::Groups(_) => Ok(Outcome::Value(0)),
            // The kernel has a say as well.
            Change::Keep(_) | Change::Capabilities(_) => Ok(Outcome::Kernel),
        }
    }

    fn groups(caller: Caller<'_>, who: &Identity, a: [u64; 6]) -> Judged {
        let count = who.groups.len();
        let room = low(a[0]).cast_signed();
        let answer = Outcome::Value(i64::try_from(count).map_err(|_| Errno::INVAL)?);
        if room == 0 {
            return Ok(answer);
        }
        if usize::try_from(room).map_or(true, |room| room < count) {
            return Ok(Outcome::Refused(Errno::INVAL));
        }
        let bytes: Vec<u8> = who.groups.iter().flat_map(|id| id.to_ne_bytes()).collect();
        if !bytes.is_empty() {
            caller.tell(a[1], &bytes)?;
        }
        Ok(answer)
    }

    /// An exec, which the kernel makes: a set-id file gives its owner's rights. Should it fail, they stay, which the
    /// container's root could have had anyway.
    pub(super) fn execute(&mut self, caller: Caller<'_>, named: Named) -> Judged {
        let who = self.who(caller)?;
        let file = self.locate(caller, named)?;
        let stat = rustix::fs::fstat(&file)?;
        let (mut user, mut group) = (None, None);
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_mode & 0o6000 != 0
            && self.gives_rights(caller, &file)
        {
            let owner = self.seen(file.as_fd(), &stat)?;
            user = (stat.st_mode & 0o4000 != 0).then_some(owner.uid);
            group = (stat.st_mode & 0o2010 == 0o2010).then_some(owner.gid);
        }
        let new = who.executing(user, group);
        if new != who {
            self.become_one(caller, &new)?;
        }
        Ok(Outcome::Kernel)
    }

    /// Whether the set-id bits of this file count. Source: execve(2).
    fn gives_rights(&self, caller: Caller<'_>, file: &OwnedFd) -> bool {
        let nosuid = rustix::fs::StatVfsMountFlags::NOSUID;
        let is_script = || {
            let mut start = [0_u8; 2];
            let read = rustix::fs::open(
                own(file.as_fd()),
                OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .and_then(|file| rustix::io::pread(&file, &mut start, 0));
            read.is_err() || &start == b"#!"
        };
        rustix::fs::fstatvfs(file).is_ok_and(|vfs| !vfs.f_flag.contains(nosuid))
            && self
                .status(caller, "NoNewPrivs:")
                .is_ok_and(|value| value == "0")
            && !is_script()
    }
}
