//! Whole trees of the user's: changing their owner.
//!
//! No link is followed, and no other file system is entered.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;

use super::fs::openat2;
use super::{Error, Result};

/// What the kernel shows for ids that are not mapped here. Source: user_namespaces(7), "Unmapped user and group IDs".
const UNMAPPED: u32 = 65_534;

/// Gives `top`, a file or a directory with all that is in it, to `uid` and `gid`. `shown` names it in errors. Set-id bits of
/// files that change hands go, as chown(2) has it.
///
/// Nothing is changed when there are entries that cannot be: they are looked for first.
///
/// # Errors
/// `EPERM` for what belongs to ids that are not mapped here, `EINVAL` when `uid` or `gid` is not, with the entry's path.
pub fn give_away(top: BorrowedFd<'_>, shown: &Path, uid: u32, gid: u32) -> Result<()> {
    let change = Change {
        top,
        shown,
        uid: Uid::from_raw(uid),
        gid: Gid::from_raw(gid),
    };
    // An id that is not mapped looks like `nobody`, who may be mapped as well: only trying tells.
    change.walk(|stat| stat.st_uid == UNMAPPED || stat.st_gid == UNMAPPED)?;
    change.walk(|_| true)
}

struct Change<'a> {
    top: BorrowedFd<'a>,
    shown: &'a Path,
    uid: Uid,
    gid: Gid,
}

impl Change<'_> {
    /// Changes all entries that are `wanted`.
    fn walk(&self, wanted: impl Fn(&Stat) -> bool) -> Result<()> {
        let failed = |errno| Error::new(format!("fstat({:?})", self.shown), errno);
        let stat = rustix::fs::fstat(self.top).map_err(failed)?;
        if wanted(&stat) {
            self.entry(self.top, OsStr::new(""), &stat, Path::new(""))?;
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(());
        }
        // By their paths: neither descriptors nor stack limit how deep a tree may be.
        let mut left = vec![PathBuf::from(".")];
        while let Some(path) = left.pop() {
            self.directory(&path, &wanted, &mut left)?;
        }
        Ok(())
    }

    fn directory(
        &self,
        path: &Path,
        wanted: &impl Fn(&Stat) -> bool,
        left: &mut Vec<PathBuf>,
    ) -> Result<()> {
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = match openat2(self.top, path, flags, Mode::empty(), within) {
            // Another file system is mounted there; or it was removed meanwhile, or became a link.
            Err(error)
                if matches!(
                    error.errno,
                    Errno::XDEV | Errno::NOENT | Errno::NOTDIR | Errno::LOOP
                ) =>
            {
                return Ok(());
            }
            opened => opened?,
        };
        let failed =
            |call: &str, errno| Error::new(format!("{call}({:?})", self.shown.join(path)), errno);
        for entry in
            rustix::fs::Dir::read_from(&dir).map_err(|errno| failed("getdents64", errno))?
        {
            let entry = entry.map_err(|errno| failed("getdents64", errno))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let below = path.join(name);
            let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue, // removed meanwhile
                stat => stat.map_err(|errno| failed("fstatat", errno))?,
            };
            if wanted(&stat) {
                self.entry(dir.as_fd(), name, &stat, &below)?;
            }
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                left.push(below);
            }
        }
        Ok(())
    }

    fn entry(&self, at: BorrowedFd<'_>, name: &OsStr, stat: &Stat, below: &Path) -> Result<()> {
        let is_so = stat.st_uid == self.uid.as_raw() && stat.st_gid == self.gid.as_raw();
        if is_so && stat.st_uid != UNMAPPED && stat.st_gid != UNMAPPED {
            return Ok(());
        }
        let flags = if name.is_empty() {
            AtFlags::EMPTY_PATH
        } else {
            AtFlags::SYMLINK_NOFOLLOW
        };
        match rustix::fs::chownat(at, name, Some(self.uid), Some(self.gid), flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()), // removed meanwhile
            Err(errno) => {
                let path = match below.as_os_str().is_empty() {
                    true => self.shown.to_owned(),
                    false => self.shown.join(below),
                };
                Err(Error::new(format!("fchownat({path:?})"), errno))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    /// Who may not change owners at all can still give what is theirs to themselves, and learns of the rest.
    #[test]
    fn what_is_ours_already_is_passed_over_however_deep_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::fs::metadata(dir.path()).unwrap();
        let mut path = dir.path().to_owned();
        for _ in 0..300 {
            path.push("deep");
        }
        std::fs::create_dir_all(&path).unwrap();
        symlink("/", dir.path().join("link")).unwrap();
        let top = super::super::fs::open_trusted(dir.path(), OFlags::PATH).unwrap();
        give_away(top.as_fd(), dir.path(), own.uid(), own.gid()).unwrap();
        if rustix::process::getuid().is_root() {
            return; // may do everything
        }
        let error = give_away(top.as_fd(), dir.path(), own.uid() + 1, own.gid()).unwrap_err();
        assert_eq!(error.errno, Errno::PERM, "{error}");
    }
}
