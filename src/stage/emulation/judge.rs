//! One call of a program inside: what the kernel shall answer to it, or what it is answered here.
//!
//! Whatever is not understood, not found or not ours goes to the kernel, which says what it says without us. What the
//! caller's memory says is read once; files are then known by descriptors, and looked at by these alone.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use anyhow::Result;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags, XattrFlags};
use rustix::io::Errno;

use super::identity::{Change, Identity, SAME};
use super::note::{self, Device, Note};
use super::side::Key;
use super::{Emulator, attribute, own};
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
/// The most supplementary groups (linux/limits.h).
const GROUPS_MAX: u32 = 65_536;
/// The longest list of attributes (linux/limits.h).
const LIST_MAX: usize = 65_536;

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

    // Whose a process is.

    fn who(&self, caller: Caller<'_>) -> Result<Identity, Errno> {
        let (number, _) = notify::lock_limit(caller.pid)?;
        Ok(self.identities.of(number).clone())
    }

    fn become_one(&mut self, caller: Caller<'_>, new: &Identity) -> Result<(), Errno> {
        let (_, hard) = notify::lock_limit(caller.pid)?;
        let number = self.identities.number(new)?;
        caller.waits()?;
        notify::set_lock_limit(caller.pid, number, hard).map_err(|_| Errno::AGAIN)
    }

    fn identity(&mut self, caller: Caller<'_>, number: i64, a: [u64; 6]) -> Judged {
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
    fn execute(&mut self, caller: Caller<'_>, named: Named) -> Judged {
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

    // Which file is meant.

    /// What a descriptor of the caller's stands for, as an `O_PATH` descriptor.
    fn descriptor(&self, caller: Caller<'_>, fd: i32) -> Result<OwnedFd, Errno> {
        if fd == libc::AT_FDCWD {
            return self.of_caller(caller.pid, "cwd", OFlags::PATH);
        }
        self.of_caller(caller.pid, &format!("fd/{fd}"), OFlags::PATH)
    }

    fn locate(&mut self, caller: Caller<'_>, named: Named) -> Result<OwnedFd, Errno> {
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
    fn place(&mut self, caller: Caller<'_>, named: Named) -> Result<(OwnedFd, Vec<u8>), Errno> {
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
    fn is_inside(&mut self, caller: Caller<'_>, file: BorrowedFd<'_>) -> Result<bool, Errno> {
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

    // Whose a file is.

    fn noted(&self, file: BorrowedFd<'_>) -> Result<Option<Note>, Errno> {
        match attribute(&own(file))? {
            None if !self.side.is_empty() => {
                Ok(self.side.find(Key::of(file, Some(self.root_device))?))
            }
            found => Ok(found),
        }
    }

    /// Owner and group as they appear. A file that is really somebody else's has no note that counts.
    fn seen(&self, file: BorrowedFd<'_>, stat: &Stat) -> Result<Note, Errno> {
        let noted = self.noted(file)?.filter(|_| stat.st_uid == 0);
        Ok(noted.unwrap_or(Note {
            uid: stat.st_uid,
            gid: stat.st_gid,
            device: None,
        }))
    }

    fn stat(&mut self, caller: Caller<'_>, named: Named, wanted: Wanted, to: u64) -> Judged {
        let file = self.locate(caller, named)?;
        match self.noted(file.as_fd())? {
            None => Ok(Outcome::Kernel),
            Some(note) => show(caller, file.as_fd(), note, wanted, to),
        }
    }

    fn fstat(&mut self, caller: Caller<'_>, fd: u64, wanted: Wanted, to: u64) -> Judged {
        // Most files have none: then this is all.
        let path = format!("{}/fd/{}", caller.pid, low(fd));
        if attribute(&path)?.is_none() && self.side.is_empty() {
            return Ok(Outcome::Kernel);
        }
        let file = self.descriptor(caller, low(fd).cast_signed())?;
        match self.noted(file.as_fd())? {
            None => Ok(Outcome::Kernel),
            Some(note) => show(caller, file.as_fd(), note, wanted, to),
        }
    }

    /// The attributes but for ours: copied with a file by others, it would give that an owner.
    fn list(
        &mut self,
        caller: Caller<'_>,
        named: Option<Named>,
        fd: u64,
        to: u64,
        room: u64,
    ) -> Judged {
        let file = match named {
            Some(named) => self.locate(caller, named)?,
            None => self.descriptor(caller, low(fd).cast_signed())?,
        };
        let mut names = vec![0_u8; LIST_MAX];
        let length = rustix::fs::listxattr(own(file.as_fd()), &mut names[..])?;
        let mut kept = Vec::with_capacity(length);
        for name in names[..length].split_inclusive(|byte| *byte == 0) {
            if name.strip_suffix(b"\0") != Some(note::NAME.as_bytes()) {
                kept.extend_from_slice(name);
            }
        }
        if kept.len() == length {
            return Ok(Outcome::Kernel);
        }
        if room != 0 {
            if room < kept.len() as u64 {
                return Ok(Outcome::Refused(Errno::RANGE));
            }
            if !kept.is_empty() {
                caller.tell(to, &kept)?;
            }
        }
        Ok(Outcome::Value(
            i64::try_from(kept.len()).map_err(|_| Errno::RANGE)?,
        ))
    }

    fn chown(&mut self, caller: Caller<'_>, named: Named, uid: u64, gid: u64) -> Judged {
        let file = self.locate(caller, named)?;
        self.give(caller, file.as_fd(), uid, gid)
    }

    fn give(&mut self, caller: Caller<'_>, file: BorrowedFd<'_>, uid: u64, gid: u64) -> Judged {
        let (uid, gid) = (low(uid), low(gid));
        let stat = rustix::fs::fstat(file)?;
        if (uid, gid) == (SAME, SAME) || stat.st_uid != 0 {
            return Ok(Outcome::Kernel);
        }
        let old = self.seen(file, &stat)?;
        let or = |id: u32, old: u32| if id == SAME { old } else { id };
        let new = Note {
            uid: or(uid, old.uid),
            gid: or(gid, old.gid),
            ..old
        };
        let who = self.who(caller)?;
        let may = who.uid.file == 0
            || (who.uid.file == old.uid
                && new.uid == old.uid
                && (new.gid == old.gid || who.is_in(new.gid)));
        if !may {
            return Ok(Outcome::Refused(Errno::PERM));
        }
        if new.is_plain() && self.noted(file)?.is_none() {
            return Ok(Outcome::Kernel);
        }
        if !self.is_inside(caller, file)? {
            return Ok(Outcome::Kernel);
        }
        caller.waits()?;
        // What every change of owner does: the time, set-id bits and capabilities; and overlay makes its copy.
        let nobody = rustix::fs::chownat(file, c"", None, None, AtFlags::EMPTY_PATH);
        match nobody.and_then(|()| self.remember(file, &stat, new)) {
            Ok(()) => Ok(Outcome::Value(0)),
            Err(errno) => Ok(Outcome::Refused(errno)),
        }
    }

    fn remember(&mut self, file: BorrowedFd<'_>, stat: &Stat, note: Note) -> Result<(), Errno> {
        let path = own(file);
        let done = if note.is_plain() {
            rustix::fs::removexattr(&*path, note::NAME)
        } else {
            let kind = FileType::from_raw_mode(stat.st_mode);
            let text = note.text(kind, stat.st_mode);
            rustix::fs::setxattr(&*path, note::NAME, text.as_bytes(), XattrFlags::empty())
        };
        match done {
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::NODATA) => {
                let key = Key::of(file, Some(self.root_device))?;
                self.side.remember(key, note)
            }
            done => done,
        }
    }

    // What is made.

    /// Whose a new file in `parent` is; `None` for root's, which the kernel makes.
    fn heir(&mut self, caller: Caller<'_>, parent: &OwnedFd) -> Result<Option<Note>, Errno> {
        let who = self.who(caller)?;
        let stat = rustix::fs::fstat(parent)?;
        let hands_down = stat.st_mode & 0o2000 != 0;
        if who.makes_roots_files() && !hands_down {
            return Ok(None);
        }
        let gid = if hands_down {
            self.seen(parent.as_fd(), &stat)?.gid
        } else {
            who.gid.file
        };
        let note = Note {
            uid: who.uid.file,
            gid,
            device: None,
        };
        if note.is_plain() || stat.st_uid != 0 || !self.is_inside(caller, parent.as_fd())? {
            return Ok(None);
        }
        Ok(Some(note))
    }

    /// Runs `make` with the caller's umask.
    fn as_caller<T>(
        &self,
        caller: Caller<'_>,
        make: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let umask = self.status(caller, "Umask:")?;
        let umask = u32::from_str_radix(&umask, 8).map_err(|_| Errno::INVAL)?;
        caller.waits()?;
        rustix::process::umask(Mode::from_raw_mode(umask));
        let made = make();
        rustix::process::umask(Mode::empty());
        made
    }

    fn open(&mut self, caller: Caller<'_>, named: Named, flags: u64, mode: u64) -> Judged {
        let flags = OFlags::from_bits_retain(low(flags));
        if flags.contains(OFlags::PATH) {
            return Ok(Outcome::Kernel);
        }
        let mode = Mode::from_raw_mode(low(mode) & 0o7777);
        let closed = flags.contains(OFlags::CLOEXEC);
        let ours = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        let (parent, name, ours) = if flags.contains(OFlags::TMPFILE) {
            (self.locate(caller, named)?, b".".to_vec(), ours)
        } else {
            let (parent, name) = self.place(caller, named)?;
            if name.ends_with(b"/") {
                return Ok(Outcome::Kernel);
            }
            (parent, name, ours | OFlags::EXCL | OFlags::NOFOLLOW)
        };
        let Some(note) = self.heir(caller, &parent)? else {
            return Ok(Outcome::Kernel);
        };
        let name = OsStr::from_bytes(&name);
        // A file that is there is opened by the kernel.
        let file = self.as_caller(caller, || rustix::fs::openat(&parent, name, ours, mode))?;
        let done =
            rustix::fs::fstat(&file).and_then(|stat| self.remember(file.as_fd(), &stat, note));
        if let Err(errno) = done {
            let _ = rustix::fs::unlinkat(&parent, name, AtFlags::empty()); // the error is said
            return Ok(Outcome::Refused(errno));
        }
        Ok(Outcome::Descriptor(file, closed))
    }

    /// Its flags are in memory: `struct open_how` begins with flags, mode and how the path is resolved.
    fn openat2(&mut self, caller: Caller<'_>, a: [u64; 6]) -> Judged {
        let mut how = [0_u8; 24];
        if a[3] < 24 || notify::read_memory(caller.pid, a[2], &mut how)? < 24 {
            return Ok(Outcome::Kernel);
        }
        let [flags, mode, resolve] =
            [0, 8, 16].map(|at| u64::from_ne_bytes(how[at..at + 8].try_into().expect("8 bytes")));
        let bits = OFlags::from_bits_retain(low(flags));
        // A path that must stay somewhere is the kernel's to follow.
        if resolve != 0 || !(bits.contains(OFlags::CREATE) || bits.contains(OFlags::TMPFILE)) {
            return Ok(Outcome::Kernel);
        }
        self.open(caller, Named::at(a[0], a[1], 0), flags, mode)
    }

    fn make(&mut self, caller: Caller<'_>, named: Named, new: &New) -> Judged {
        let (parent, name) = self.place(caller, named)?;
        let target = match new {
            New::Link(target) => caller.text(*target)?,
            New::Directory(_) | New::Node(..) => Vec::new(),
        };
        let device = match new {
            New::Node(mode, number) => device(*mode, *number),
            New::Directory(_) | New::Link(_) => None,
        };
        let heir = self.heir(caller, &parent)?;
        if device.is_some() {
            if !self.who(caller)?.is_privileged() {
                return Ok(Outcome::Refused(Errno::PERM));
            }
            if !self.is_inside(caller, parent.as_fd())? {
                return Ok(Outcome::Kernel);
            }
        }
        let note = match (heir, device) {
            (None, None) => return Ok(Outcome::Kernel),
            (heir, device) => Note {
                device,
                ..heir.unwrap_or_default()
            },
        };
        let at = OsStr::from_bytes(&name);
        let mode = |mode: u32| Mode::from_raw_mode(mode & 0o7777);
        self.as_caller(caller, || match new {
            New::Directory(bits) => rustix::fs::mkdirat(&parent, at, mode(*bits)),
            New::Link(_) => rustix::fs::symlinkat(OsStr::from_bytes(&target), &parent, at),
            // An empty file stands for a device.
            New::Node(bits, _) => {
                let kind = match device {
                    Some(_) => FileType::RegularFile,
                    None => FileType::from_raw_mode(*bits),
                };
                rustix::fs::mknodat(&parent, at, kind, mode(*bits), 0)
            }
        })?;
        let made = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let done = rustix::fs::openat(&parent, at, made, Mode::empty()).and_then(|file| {
            let stat = rustix::fs::fstat(&file)?;
            self.remember(file.as_fd(), &stat, note)
        });
        if let Err(errno) = done {
            let flags = match new {
                New::Directory(_) => AtFlags::REMOVEDIR,
                New::Link(_) | New::Node(..) => AtFlags::empty(),
            };
            let _ = rustix::fs::unlinkat(&parent, at, flags); // the error is said
            return Ok(Outcome::Refused(errno));
        }
        Ok(Outcome::Value(0))
    }
}

/// Tells the caller of a file, with what is remembered of it.
fn show(caller: Caller<'_>, file: BorrowedFd<'_>, note: Note, wanted: Wanted, to: u64) -> Judged {
    let kind = |mode: u32| match note.device {
        Some(device) => mode & 0o7777 | device.file_type().as_raw_mode(),
        None => mode,
    };
    let told = match wanted {
        Wanted::Stat => {
            let bytes = notify::raw_stat(file, |stat| {
                if stat.st_uid == 0 {
                    (stat.st_uid, stat.st_gid) = (note.uid, note.gid);
                    stat.st_mode = kind(stat.st_mode);
                    if let Some(Device { number, .. }) = note.device {
                        stat.st_rdev = libc::makedev(number.0, number.1);
                    }
                }
            })?;
            caller.tell(to, &bytes)
        }
        Wanted::Statx { flags, mask } => {
            let bytes = notify::raw_statx(file, flags, mask, |stat| {
                if stat.stx_uid == 0 {
                    (stat.stx_uid, stat.stx_gid) = (note.uid, note.gid);
                    let mode = kind(stat.stx_mode.into());
                    stat.stx_mode = u16::try_from(mode).unwrap_or(stat.stx_mode);
                    if let Some(Device { number, .. }) = note.device {
                        (stat.stx_rdev_major, stat.stx_rdev_minor) = number;
                    }
                }
            })?;
            caller.tell(to, &bytes)
        }
    };
    match told {
        Ok(()) => Ok(Outcome::Value(0)),
        Err(errno) => Ok(Outcome::Refused(errno)),
    }
}

/// The device that mknod(2) is to make; `None` for what everybody may make. 0:0 is overlay's sign for a removed file.
fn device(mode: u32, number: u64) -> Option<Device> {
    let number = u64::from(low(number));
    let device = |is_block| {
        Some(Device {
            is_block,
            number: (libc::major(number), libc::minor(number)),
        })
    };
    match FileType::from_raw_mode(mode) {
        FileType::CharacterDevice if number != 0 => device(false),
        FileType::BlockDevice => device(true),
        FileType::CharacterDevice
        | FileType::RegularFile
        | FileType::Directory
        | FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::Unknown => None,
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

    #[test]
    fn devices_are_told_from_what_everybody_may_make() {
        let disk = device(0o060_660, libc::makedev(8, 1)).unwrap();
        assert!(disk.is_block && disk.number == (8, 1));
        assert_eq!(
            device(0o020_666, libc::makedev(1, 3)).unwrap().number,
            (1, 3)
        );
        assert_eq!(device(0o020_000, 0), None);
        assert_eq!(device(0o010_644, 5), None);
        assert_eq!(device(0o644, 0), None);
    }
}
