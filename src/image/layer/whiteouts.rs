//! What a layer takes away: the signs of the archive become those that overlay file systems know.
//!
//! Source: OCI image specification, layer.md, "Whiteouts"; Linux, Documentation/filesystems/overlayfs.rst.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;

use anyhow::Result;
use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::{Unpacker, WHITEOUT, mode_of, reopen, shown, split};
use crate::error::Fail;

/// Marks a directory that hides all that lies below it.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The attribute by which overlay mounted with `userxattr` knows an opaque directory.
pub(super) const OVERLAY_OPAQUE: &str = "user.overlay.opaque";
/// The attribute of a file that stands for a deleted name, since Linux 6.7.
pub(super) const OVERLAY_WHITEOUT: &str = "user.overlay.whiteout";

impl Unpacker<'_> {
    /// `.wh.HIDDEN` in `parent`: the lower layers' `HIDDEN` is gone, this layer's own stays.
    pub(super) fn whiteout(&mut self, parent: &[u8], name: &[u8], hidden: &[u8]) -> Result<()> {
        if name == OPAQUE {
            let dir = self.open_dir(parent)?;
            let dir = reopen(dir.as_fd()).map_err(|errno| self.failed("openat", parent, errno))?;
            return self.opaque(dir.as_fd(), parent);
        }
        // Aufs kept notes of its own under this prefix.
        if hidden.starts_with(WHITEOUT) {
            self.report.skipped_others += 1;
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Fail::corrupt(format!(
                "the layer has a whiteout without a name, `{}`",
                shown(parent)
            ))
            .into());
        }
        self.hide(parent, hidden)
    }

    /// Puts a whiteout in the place of `name`, unless this layer has something there.
    pub(super) fn hide(&mut self, parent: &[u8], name: &[u8]) -> Result<()> {
        let dir = self.open_dir(parent)?;
        let at = OsStr::from_bytes(name);
        let mut path = parent.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        if self.whiteout_nodes {
            // Anybody may make this one device since Linux 5.8 (mknod(2)).
            match rustix::fs::mknodat(&*dir, at, FileType::CharacterDevice, Mode::empty(), 0) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => return self.hide_below(dir.as_fd(), &path),
                Err(Errno::PERM) => self.whiteout_nodes = false,
                Err(errno) => return Err(self.failed("mknodat", &path, errno)),
            }
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&*dir, at, flags, mode_of(0o600)) {
            Ok(file) => file,
            Err(Errno::EXIST) => return self.hide_below(dir.as_fd(), &path),
            Err(errno) => return Err(self.failed("openat", &path, errno)),
        };
        rustix::fs::fsetxattr(&file, OVERLAY_WHITEOUT, b"y", XattrFlags::empty())
            .map_err(|errno| self.failed("fsetxattr", &path, errno))?;
        // Overlay looks for such files only in directories that say so.
        let dir = reopen(dir.as_fd()).map_err(|errno| self.failed("openat", parent, errno))?;
        match rustix::fs::fsetxattr(&dir, OVERLAY_OPAQUE, b"x", XattrFlags::CREATE) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(self.failed("fsetxattr", parent, errno)),
        }
    }

    /// This layer has something at `path`: as a directory, it no longer shows what lies below it.
    fn hide_below(&mut self, parent: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        let (_, name) = split(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(parent, OsStr::from_bytes(name), flags, Mode::empty()) {
            Ok(dir) => self.opaque(dir.as_fd(), path),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(errno) => Err(self.failed("openat", path, errno)),
        }
    }

    pub(super) fn opaque(&self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        rustix::fs::fsetxattr(dir, OVERLAY_OPAQUE, b"y", XattrFlags::empty()).map_err(|errno| {
            let error = self.failed("fsetxattr", path, errno);
            if errno == Errno::NOTSUP {
                return error.context(
                    Fail::unsupported("the file system of the store has no extended attributes")
                        .hint("name another place with --root DIR or RL_ROOT")
                        .code("RL-F03"),
                );
            }
            error
        })
    }
}

/// Either form of whiteout.
pub(super) fn is_whiteout(parent: BorrowedFd<'_>, name: &OsStr, stat: &rustix::fs::Stat) -> bool {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::CharacterDevice {
        return stat.st_rdev == 0;
    }
    if kind != FileType::RegularFile || stat.st_size != 0 {
        return false;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).is_ok_and(|file| {
        rustix::fs::fgetxattr(&file, OVERLAY_WHITEOUT, &mut [0_u8; 8][..]).is_ok()
    })
}
