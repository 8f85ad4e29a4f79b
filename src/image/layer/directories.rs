//! The directories of a layer: opened below its root and kept for what comes next, made where the archive has none of its own.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::rc::Rc;

use anyhow::Result;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::whiteouts::is_whiteout;
use super::{Ids, Unpacker, as_path, clean, mode_of, reopen, shown, split, stat_of, times};
use crate::error::Fail;
use crate::image::entries::Entry;
use crate::sys;

/// Open parent directories that are kept.
pub(super) const CACHED: usize = 32;
/// How often a link that leads to nowhere may lead to another.
const LINKS: u32 = 16;

impl Unpacker<'_> {
    pub(super) fn directory(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let (parent, name) = split(path);
        let parent = self.open_dir(parent)?;
        let name = OsStr::from_bytes(name);
        let mut opaque = false;
        let mut fresh = true;
        loop {
            match rustix::fs::mkdirat(&*parent, name, mode_of(entry.mode & 0o1777)) {
                Ok(()) => break,
                Err(Errno::EXIST) => {
                    if let Some(stat) = stat_of(parent.as_fd(), name) {
                        // What it holds stays; owner, mode and times are the newer entry's.
                        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                            fresh = false;
                            break;
                        }
                        opaque = is_whiteout(parent.as_fd(), name, &stat);
                    }
                    self.remove(parent.as_fd(), path)?;
                }
                Err(errno) => return Err(self.failed("mkdirat", path, errno)),
            }
        }
        // Few directories of an image need more than mkdir: no descriptor is opened for the others.
        let plain = fresh
            && !opaque
            && !self.inherits
            && (entry.uid, entry.gid) == (0, 0)
            && entry.xattrs.is_empty()
            && entry.mode & (self.umask | 0o6000) == 0;
        if !plain {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(&*parent, name, flags, Mode::empty())
                .map_err(|errno| self.failed("openat", path, errno))?;
            self.owner(dir.as_fd(), path, entry)?;
            self.mode(dir.as_fd(), path, entry.mode)?;
            self.attributes(dir.as_fd(), entry)?;
            if opaque {
                self.opaque(dir.as_fd(), path)?;
            }
            self.inherits |= entry.mode & 0o2000 != 0;
        }
        self.directories.push((path.to_vec(), entry.mtime));
        Ok(())
    }

    pub(super) fn cached(&self, path: &[u8]) -> Option<Rc<OwnedFd>> {
        self.cache
            .iter()
            .find(|(known, _)| known == path)
            .map(|(_, dir)| Rc::clone(dir))
    }

    /// The directory at the clean path `path`, made with all above it where it is missing.
    pub(super) fn open_dir(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        if let Some(dir) = self.cached(path) {
            return Ok(dir);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let dir = match self.root.open(as_path(path), flags) {
            Ok(dir) => dir,
            Err(sys::Error {
                errno: Errno::NOENT | Errno::NOTDIR,
                ..
            }) => {
                self.make_dirs(path, LINKS)?;
                self.root
                    .open(as_path(path), flags)
                    .map_err(|error| self.failed("openat2", path, error.errno))?
            }
            Err(error) => return Err(self.failed("openat2", path, error.errno)),
        };
        Ok(self.remember(path, dir))
    }

    fn remember(&mut self, path: &[u8], dir: OwnedFd) -> Rc<OwnedFd> {
        let dir = Rc::new(dir);
        let known = (path.to_vec(), Rc::clone(&dir));
        if self.cache.len() < CACHED {
            self.cache.push(known);
        } else {
            self.cache[self.oldest] = known;
            self.oldest = (self.oldest + 1) % CACHED;
        }
        dir
    }

    /// Makes the missing directories of `path`; a link that leads to nowhere gets its target made, inside.
    fn make_dirs(&mut self, path: &[u8], links: u32) -> Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let ends = (0..path.len())
            .filter(|at| path[*at] == b'/')
            .chain([path.len()]);
        for end in ends {
            let prefix = &path[..end];
            match self.root.open(as_path(prefix), flags) {
                Ok(_) => continue,
                Err(sys::Error {
                    errno: Errno::NOENT | Errno::NOTDIR,
                    ..
                }) => {}
                Err(error) => return Err(self.failed("openat2", prefix, error.errno)),
            }
            let (above, name) = split(prefix);
            let name = OsStr::from_bytes(name);
            let parent = self
                .root
                .open(as_path(above), flags)
                .map_err(|error| self.failed("openat2", above, error.errno))?;
            let hidden = match stat_of(parent.as_fd(), name) {
                None => false,
                Some(stat) if is_whiteout(parent.as_fd(), name, &stat) => {
                    self.remove(parent.as_fd(), prefix)?;
                    true
                }
                Some(stat)
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink && links > 0 =>
                {
                    let target = rustix::fs::readlinkat(&parent, name, Vec::new())
                        .map_err(|errno| self.failed("readlinkat", prefix, errno))?;
                    let target = target.to_bytes();
                    let target = if target.starts_with(b"/") {
                        clean(target)
                    } else {
                        clean(&[above, b"/", target].concat())
                    };
                    self.make_dirs(&target, links - 1)?;
                    continue;
                }
                Some(_) => {
                    return Err(Fail::corrupt(format!(
                        "the layer has entries below `{}`, which is not a directory",
                        shown(prefix)
                    ))
                    .into());
                }
            };
            rustix::fs::mkdirat(&parent, name, mode_of(0o755))
                .map_err(|errno| self.failed("mkdirat", prefix, errno))?;
            if hidden || self.inherits || self.umask & 0o755 != 0 {
                let dir = self
                    .root
                    .open(as_path(prefix), OFlags::RDONLY | OFlags::DIRECTORY)?;
                if self.inherits && self.ids == Ids::Mapped {
                    rustix::fs::fchown(&dir, Some(Uid::ROOT), Some(Gid::ROOT))
                        .map_err(|errno| self.failed("fchown", prefix, errno))?;
                }
                self.mode(dir.as_fd(), prefix, 0o755)?;
                if hidden {
                    self.opaque(dir.as_fd(), prefix)?;
                }
            }
        }
        Ok(())
    }

    /// Sets the times of all directories.
    pub(super) fn finish(&mut self) -> Result<()> {
        for (path, mtime) in std::mem::take(&mut self.directories) {
            let done = if path.is_empty() {
                reopen(self.root.as_fd()).and_then(|top| rustix::fs::futimens(&top, &times(mtime)))
            } else {
                let (parent, name) = split(&path);
                // Opened, not made: a directory that was replaced since has no times to get.
                let dir = match self.cached(parent) {
                    Some(dir) => Ok(dir),
                    None => self
                        .root
                        .open(as_path(parent), OFlags::PATH | OFlags::DIRECTORY)
                        .map(|dir| self.remember(parent, dir))
                        .map_err(|error| error.errno),
                };
                dir.and_then(|dir| {
                    let name = OsStr::from_bytes(name);
                    rustix::fs::utimensat(&*dir, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
                })
            };
            match done {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(self.failed("utimensat", &path, errno)),
            }
        }
        Ok(())
    }
}
