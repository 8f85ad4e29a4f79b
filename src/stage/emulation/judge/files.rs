//! Calls about files: whose they are and appear to be, and those that are made.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use anyhow::Result;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::{Caller, Judged, Named, New, Outcome, Wanted, low};
use crate::stage::emulation::identity::SAME;
use crate::stage::emulation::note::{self, Device, Note};
use crate::stage::emulation::side::Key;
use crate::stage::emulation::{Emulator, attribute, own};
use crate::sys::notify;

/// The longest list of attributes (linux/limits.h).
const LIST_MAX: usize = 65_536;

impl Emulator {
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
    pub(super) fn seen(&self, file: BorrowedFd<'_>, stat: &Stat) -> Result<Note, Errno> {
        let noted = self.noted(file)?.filter(|_| stat.st_uid == 0);
        Ok(noted.unwrap_or(Note {
            uid: stat.st_uid,
            gid: stat.st_gid,
            device: None,
        }))
    }

    pub(super) fn stat(
        &mut self,
        caller: Caller<'_>,
        named: Named,
        wanted: Wanted,
        to: u64,
    ) -> Judged {
        let file = self.locate(caller, named)?;
        match self.noted(file.as_fd())? {
            None => Ok(Outcome::Kernel),
            Some(note) => show(caller, file.as_fd(), note, wanted, to),
        }
    }

    pub(super) fn fstat(&mut self, caller: Caller<'_>, fd: u64, wanted: Wanted, to: u64) -> Judged {
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
    pub(super) fn list(
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

    pub(super) fn chown(&mut self, caller: Caller<'_>, named: Named, uid: u64, gid: u64) -> Judged {
        let file = self.locate(caller, named)?;
        self.give(caller, file.as_fd(), uid, gid)
    }

    pub(super) fn give(
        &mut self,
        caller: Caller<'_>,
        file: BorrowedFd<'_>,
        uid: u64,
        gid: u64,
    ) -> Judged {
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

    pub(super) fn open(
        &mut self,
        caller: Caller<'_>,
        named: Named,
        flags: u64,
        mode: u64,
    ) -> Judged {
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
    pub(super) fn openat2(&mut self, caller: Caller<'_>, a: [u64; 6]) -> Judged {
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

    pub(super) fn make(&mut self, caller: Caller<'_>, named: Named, new: &New) -> Judged {
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

#[cfg(test)]
mod tests {
    use super::*;

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
