//! Whose a file of a layer is: set where ids are mapped, else noted beside it.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;

use anyhow::Result;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Ids, OVERRIDE, Unpacker, shown, split};
use crate::error::Fail;
use crate::image::entries::{Entry, Kind};
use crate::stage::emulation::note::{Device, Note};
use crate::stage::emulation::side::Key;

impl Unpacker<'_> {
    /// Gives the open file its owner, or notes it down where that is impossible.
    pub(super) fn owner(&mut self, file: BorrowedFd<'_>, path: &[u8], entry: &Entry) -> Result<()> {
        match self.ids {
            Ids::Mapped => {
                let Some((uid, gid)) = self.owner_to_set(path, entry)? else {
                    return Ok(());
                };
                rustix::fs::fchown(file, Some(uid), Some(gid))
                    .map_err(|errno| self.chown_failed(path, entry, errno))
            }
            Ids::Single => {
                let Some(note) = self.noted(entry) else {
                    return Ok(());
                };
                // By that of the root fuse-overlayfs would know that it is to believe all others, which one id cannot.
                if path.is_empty() {
                    self.note_aside(file, note);
                    return Ok(());
                }
                let kind = if entry.kind == Kind::Directory {
                    FileType::Directory
                } else {
                    FileType::RegularFile
                };
                let text = note.text(kind, entry.mode);
                match rustix::fs::fsetxattr(file, OVERRIDE, text.as_bytes(), XattrFlags::empty()) {
                    Ok(()) => Ok(()),
                    Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => {
                        self.note_aside(file, note);
                        Ok(())
                    }
                    Err(errno) => Err(self.failed("fsetxattr", path, errno)),
                }
            }
        }
    }

    /// What has to be remembered of this entry. An owner that no system has is lost.
    pub(super) fn noted(&mut self, entry: &Entry) -> Option<Note> {
        let number = |id: u64| u32::try_from(id).ok();
        let id = |id: u64| number(id).filter(|id| *id != u32::MAX);
        let device = matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice).then_some(());
        let device = device.and_then(|()| {
            Some(Device {
                is_block: entry.kind == Kind::BlockDevice,
                number: (number(entry.device.0)?, number(entry.device.1)?),
            })
        });
        let (Some(uid), Some(gid)) = (id(entry.uid), id(entry.gid)) else {
            self.report.lost_owners += 1;
            return None;
        };
        let note = Note { uid, gid, device };
        (!note.is_plain()).then_some(note)
    }

    fn note_aside(&mut self, file: BorrowedFd<'_>, note: Note) {
        let noted = Key::of(file, None).and_then(|key| self.side.remember(key, note));
        if noted.is_err() {
            self.report.lost_owners += 1;
        }
    }

    /// As [`Unpacker::owner`], for what cannot be opened: links and FIFOs, which take no attribute either.
    pub(super) fn owner_at(
        &mut self,
        parent: BorrowedFd<'_>,
        path: &[u8],
        entry: &Entry,
    ) -> Result<()> {
        let (_, name) = split(path);
        if self.ids == Ids::Single {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Some(note) = self.noted(entry) {
                let file =
                    rustix::fs::openat(parent, OsStr::from_bytes(name), flags, Mode::empty())
                        .map_err(|errno| self.failed("openat", path, errno))?;
                self.note_aside(file.as_fd(), note);
            }
            return Ok(());
        }
        let Some((uid, gid)) = self.owner_to_set(path, entry)? else {
            return Ok(());
        };
        rustix::fs::chownat(
            parent,
            OsStr::from_bytes(name),
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|errno| self.chown_failed(path, entry, errno))
    }

    /// `None` when the file has the right owner from its birth.
    fn owner_to_set(&self, path: &[u8], entry: &Entry) -> Result<Option<(Uid, Gid)>> {
        if (entry.uid, entry.gid) == (0, 0) && !self.inherits {
            return Ok(None);
        }
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        match (id(entry.uid), id(entry.gid)) {
            (Some(uid), Some(gid)) => Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid)))),
            _ => Err(self.chown_failed(path, entry, Errno::INVAL)),
        }
    }

    fn chown_failed(&self, path: &[u8], entry: &Entry, errno: Errno) -> anyhow::Error {
        match errno {
            Errno::INVAL => {}
            // A server answers so that knows nothing of ids which are yours on this machine only.
            Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP => {
                let fail = Fail::unsupported(format!(
                    "the file system of the store keeps no files of other owners (`{}` belongs to {}:{})",
                    shown(path),
                    entry.uid,
                    entry.gid
                ))
                .hint("put the store on a local disk: --root DIR, or RL_ROOT")
                .hint("or have the image as one file, which lies anywhere: rl image convert, then rl run ./FILE")
                .code("RL-F01");
                return self.failed("fchown", path, errno).context(fail);
            }
            _ => return self.failed("fchown", path, errno),
        }
        Fail::unsupported(format!(
            "`{}` belongs to user {} and group {}, which your id ranges do not reach",
            shown(path),
            entry.uid,
            entry.gid
        ))
        .hint("ask your administrator for larger ranges in /etc/subuid and /etc/subgid (`rl doctor` shows the line)")
        .code("RL-S04")
        .into()
    }
}
