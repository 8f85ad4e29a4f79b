//! Unpacks one layer: a tar stream becomes a directory that overlay can take as a lower one.
//!
//! The archive is hostile: every path is resolved below an open directory that none can leave. Knows
//! nothing of compression, digests or where layers are kept. Source: OCI image specification, layer.md.

use std::ffi::OsStr;
use std::io::BufRead;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::entries::{Entry, Kind, Reader};
use crate::error::Fail;
use crate::sys;
use crate::sys::fs::Root;

/// How ownership is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ids {
    /// As it is: a range of ids is mapped.
    Mapped,
    /// In `user.containers.override_stat`: only id 0 exists.
    Single,
}

/// What was done, and what was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Entries in the archive.
    pub entries: u64,
    /// Bytes written to regular files.
    pub bytes: u64,
    /// Device nodes that were left out: an ordinary user cannot make them.
    pub skipped_devices: u64,
    /// Entries that no file system has, such as volume labels.
    pub skipped_others: u64,
    /// Extended attributes that the kernel or the file system did not take.
    pub skipped_xattrs: u64,
    /// Owners that could be kept nowhere (`Ids::Single` on a file system without attributes).
    pub lost_owners: u64,
}

/// Marks a deleted name in a layer.
const WHITEOUT: &[u8] = b".wh.";
/// Marks a directory that hides all that lies below it.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The attribute by which overlay mounted with `userxattr` knows an opaque directory.
const OVERLAY_OPAQUE: &str = "user.overlay.opaque";
/// The attribute of a file that stands for a deleted name, since Linux 6.7.
const OVERLAY_WHITEOUT: &str = "user.overlay.whiteout";
/// Where fuse-overlayfs and podman keep owner and mode, too.
const OVERRIDE: &str = "user.containers.override_stat";
/// Attributes that steer overlay file systems; none comes from a layer.
const STEERING: [&[u8]; 4] = [
    b"user.overlay.",
    b"trusted.overlay.",
    b"user.fuseoverlayfs.",
    b"user.containers.",
];
/// Open parent directories that are kept.
const CACHED: usize = 32;
/// How often a link that leads to nowhere may lead to another.
const LINKS: u32 = 16;

/// Unpacks the archive `input` into the empty directory `into`, and reads the input to its end.
///
/// # Errors
/// `Corrupt` for a damaged or impossible archive, RL-S04 for an owner that is not mapped, RL-F05 when
/// the disk is full; the system's, with the entry's name.
pub fn unpack(input: impl BufRead, into: &Root, ids: Ids) -> Result<Report> {
    let mut unpacker = Unpacker::new(into, ids)?;
    let mut reader = Reader::new(input);
    let mut entry = Entry::default();
    while reader.next(&mut entry).map_err(input_failed)? {
        unpacker.report.entries += 1;
        unpacker.place(&entry, &mut reader)?;
    }
    unpacker.finish()?;
    let mut rest = reader.into_inner();
    loop {
        let count = rest.fill_buf().map_err(input_failed)?.len();
        if count == 0 {
            break;
        }
        rest.consume(count);
    }
    Ok(unpacker.report)
}

/// An error of the stream: a [`Fail`] that a reader put into it comes out as it was.
fn input_failed(error: std::io::Error) -> anyhow::Error {
    match error.downcast::<Fail>() {
        Ok(fail) => fail.into(),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ) =>
        {
            Fail::corrupt(format!("the layer is damaged: {error}"))
                .hint("fetch it again, or ask whoever made the image")
                .into()
        }
        Err(error) => anyhow::Error::from(error).context("reading the layer"),
    }
}

/// `path` without `.`, `..` and empty parts, as seen from the root; empty for the root itself.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut clean: Vec<u8> = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            // Above the root is the root.
            b".." => {
                let cut = clean.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                clean.truncate(cut);
            }
            _ => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(part);
            }
        }
    }
    clean
}

/// Parent and name of a clean path that is not the root.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn as_path(path: &[u8]) -> &Path {
    if path.is_empty() {
        Path::new(".")
    } else {
        Path::new(OsStr::from_bytes(path))
    }
}

fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path).escape_debug())
}

fn mode_of(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

fn times(mtime: (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.0,
        tv_nsec: mtime.1.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

struct Unpacker<'r> {
    root: &'r Root,
    ids: Ids,
    /// Bits that the process takes away from new files.
    umask: u32,
    /// A directory hands its group down (setgid): then every owner and mode is set explicitly.
    inherits: bool,
    /// Clean paths and their open directories; the oldest is replaced.
    cache: Vec<(Vec<u8>, Rc<OwnedFd>)>,
    oldest: usize,
    /// Directories get their times last: what is made in them changes these.
    directories: Vec<(Vec<u8>, (i64, u32))>,
    /// Whether the kernel lets us make the device 0:0; known after the first try.
    whiteout_nodes: bool,
    report: Report,
}

impl<'r> Unpacker<'r> {
    fn new(root: &'r Root, ids: Ids) -> Result<Self> {
        let top = root
            .open(Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY)
            .context("opening the layer's directory")?;
        // The store may lie in a shared folder that hands its group and setgid bit down.
        if ids == Ids::Mapped {
            let _ = rustix::fs::fchown(&top, Some(Uid::ROOT), Some(Gid::ROOT)); // ours already, but for the group
        }
        rustix::fs::fchmod(&top, mode_of(0o755))
            .map_err(|errno| sys::Error::new("fchmod of the layer's directory", errno))?;
        Ok(Self {
            root,
            ids,
            umask: umask(),
            inherits: false,
            cache: Vec::with_capacity(CACHED),
            oldest: 0,
            directories: Vec::new(),
            whiteout_nodes: true,
            report: Report::default(),
        })
    }

    fn place(&mut self, entry: &Entry, reader: &mut Reader<impl BufRead>) -> Result<()> {
        let path = clean(&entry.path);
        if path.is_empty() {
            return self.top(entry);
        }
        let (parent, name) = split(&path);
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(parent, name, hidden);
        }
        match entry.kind {
            Kind::Directory => self.directory(&path, entry),
            Kind::File => self.file(&path, entry, reader),
            Kind::HardLink => self.hard_link(&path, entry),
            Kind::Symlink => self.symlink(&path, entry),
            Kind::Fifo => self.fifo(&path, entry),
            // Overlay's own sign for a deleted name; some tools leave it in their layers.
            Kind::CharDevice if entry.device == (0, 0) => self.hide(parent, name),
            Kind::CharDevice | Kind::BlockDevice => {
                self.report.skipped_devices += 1;
                Ok(())
            }
            Kind::Other => {
                self.report.skipped_others += 1;
                Ok(())
            }
        }
    }

    /// The entry `./`.
    fn top(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(Fail::corrupt(format!(
                "the layer has an entry `{}` that would replace its root directory",
                String::from_utf8_lossy(&entry.path).escape_debug()
            ))
            .into());
        }
        let top = self
            .root
            .open(Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.owner(top.as_fd(), b"", entry)?;
        self.mode(top.as_fd(), b"", entry.mode)?;
        self.attributes(top.as_fd(), entry)?;
        self.inherits |= entry.mode & 0o2000 != 0;
        self.directories.push((Vec::new(), entry.mtime));
        Ok(())
    }

    fn directory(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
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
                        match FileType::from_raw_mode(stat.st_mode) {
                            // What it holds stays; owner, mode and times are the newer entry's.
                            FileType::Directory => {
                                fresh = false;
                                break;
                            }
                            _ => opaque = is_whiteout(parent.as_fd(), name, &stat),
                        }
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

    fn file(
        &mut self,
        path: &[u8],
        entry: &Entry,
        reader: &mut Reader<impl BufRead>,
    ) -> Result<()> {
        let (parent, name) = split(path);
        let parent = self.open_dir(parent)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.make(parent.as_fd(), path, "openat", || {
            rustix::fs::openat(
                &*parent,
                OsStr::from_bytes(name),
                flags,
                mode_of(entry.mode & 0o777),
            )
        })?;
        match &entry.extents {
            None => self.copy(reader, file.as_fd(), path, u64::MAX)?,
            Some(extents) => {
                rustix::fs::ftruncate(&file, entry.size)
                    .map_err(|errno| self.failed("ftruncate", path, errno))?;
                for extent in extents {
                    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(extent.offset))
                        .map_err(|errno| self.failed("lseek", path, errno))?;
                    self.copy(reader, file.as_fd(), path, extent.length)?;
                }
            }
        }
        // In this order: writing and chown take setuid bits and file capabilities away.
        self.owner(file.as_fd(), path, entry)?;
        if self.inherits || entry.mode & (self.umask | 0o7000) != 0 {
            self.mode(file.as_fd(), path, entry.mode)?;
        }
        self.attributes(file.as_fd(), entry)?;
        rustix::fs::futimens(&file, &times(entry.mtime))
            .map_err(|errno| self.failed("futimens", path, errno))?;
        Ok(())
    }

    /// Writes at most `most` bytes of the entry's data at the file's position.
    fn copy(
        &mut self,
        reader: &mut Reader<impl BufRead>,
        file: BorrowedFd<'_>,
        path: &[u8],
        mut most: u64,
    ) -> Result<()> {
        while most > 0 {
            let chunk = reader.chunk().map_err(|error| {
                input_failed(error).context(format!("unpacking `{}`", shown(path)))
            })?;
            if chunk.is_empty() {
                break;
            }
            let chunk = &chunk[..chunk.len().min(usize::try_from(most).unwrap_or(usize::MAX))];
            match rustix::io::write(file, chunk) {
                Ok(count) => {
                    reader.consume(count);
                    most -= count as u64;
                    self.report.bytes += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed("write", path, errno)),
            }
        }
        Ok(())
    }

    fn hard_link(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let target = clean(&entry.link);
        let (parent, name) = split(path);
        if target == path {
            return Ok(());
        }
        let dangling = |why: &str| {
            Fail::corrupt(format!(
                "the layer's hard link `{}` points to `{}`, {why}",
                shown(path),
                shown(&target)
            ))
        };
        if target.is_empty() {
            return Err(dangling("which is a directory").into());
        }
        let parent = self.open_dir(parent)?;
        let (target_parent, target_name) = split(&target);
        // The parent of the target is never made: a link to nothing fails below.
        let from = match self.cached(target_parent) {
            Some(dir) => dir,
            None => match self
                .root
                .open(as_path(target_parent), OFlags::PATH | OFlags::DIRECTORY)
            {
                Ok(dir) => Rc::new(dir),
                Err(sys::Error {
                    errno: Errno::NOENT | Errno::NOTDIR | Errno::LOOP,
                    ..
                }) => return Err(dangling("which the layer does not have").into()),
                Err(error) => return Err(error.into()),
            },
        };
        let link = || {
            // No AT_SYMLINK_FOLLOW: a link to a symbolic link is another name of that.
            rustix::fs::linkat(
                &*from,
                OsStr::from_bytes(target_name),
                &*parent,
                OsStr::from_bytes(name),
                AtFlags::empty(),
            )
        };
        let made = match link() {
            Err(Errno::EXIST) => {
                self.remove(parent.as_fd(), path)?;
                link()
            }
            made => made,
        };
        match made {
            Ok(()) => Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                Err(dangling("which the layer does not have").into())
            }
            Err(Errno::PERM)
                if stat_of(from.as_fd(), OsStr::from_bytes(target_name)).is_some_and(|stat| {
                    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                }) =>
            {
                Err(dangling("which is a directory").into())
            }
            Err(errno) => Err(self.failed("linkat", path, errno)),
        }
    }

    fn symlink(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let (parent, name) = split(path);
        let parent = self.open_dir(parent)?;
        if entry.link.is_empty() {
            return Err(Fail::corrupt(format!(
                "the layer's link `{}` points to nothing",
                shown(path)
            ))
            .into());
        }
        let name = OsStr::from_bytes(name);
        self.make(parent.as_fd(), path, "symlinkat", || {
            rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), &*parent, name)
        })?;
        self.owner_at(parent.as_fd(), path, entry)?;
        self.report.skipped_xattrs += entry.xattrs.len() as u64;
        rustix::fs::utimensat(
            &*parent,
            name,
            &times(entry.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|errno| self.failed("utimensat", path, errno))
    }

    fn fifo(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let (parent, name) = split(path);
        let parent = self.open_dir(parent)?;
        let name = OsStr::from_bytes(name);
        self.make(parent.as_fd(), path, "mknodat", || {
            rustix::fs::mknodat(
                &*parent,
                name,
                FileType::Fifo,
                mode_of(entry.mode & 0o777),
                0,
            )
        })?;
        self.owner_at(parent.as_fd(), path, entry)?;
        // The name was made just now and nobody else writes here: it is no link.
        rustix::fs::chmodat(&*parent, name, mode_of(entry.mode), AtFlags::empty())
            .map_err(|errno| self.failed("fchmodat", path, errno))?;
        rustix::fs::utimensat(
            &*parent,
            name,
            &times(entry.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|errno| self.failed("utimensat", path, errno))
    }

    /// `.wh.HIDDEN` in `parent`: the lower layers' `HIDDEN` is gone, this layer's own stays.
    fn whiteout(&mut self, parent: &[u8], name: &[u8], hidden: &[u8]) -> Result<()> {
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
    fn hide(&mut self, parent: &[u8], name: &[u8]) -> Result<()> {
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

    fn opaque(&self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
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

    /// Runs `call`, which makes `path`; what stood there before is removed.
    fn make<T>(
        &mut self,
        parent: BorrowedFd<'_>,
        path: &[u8],
        name: &str,
        call: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T> {
        let made = match call() {
            Err(Errno::EXIST) => {
                self.remove(parent, path)?;
                call()
            }
            made => made,
        };
        made.map_err(|errno| self.failed(name, path, errno))
    }

    /// Removes what stands at `path`, and forgets all that was known of places below.
    fn remove(&mut self, parent: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        let (_, name) = split(path);
        sys::fs::remove_tree(parent, OsStr::from_bytes(name))
            .with_context(|| format!("replacing `{}`", shown(path)))?;
        // Links may lead here under other names, so all goes.
        self.cache.clear();
        self.oldest = 0;
        Ok(())
    }

    fn cached(&self, path: &[u8]) -> Option<Rc<OwnedFd>> {
        self.cache
            .iter()
            .find(|(known, _)| known == path)
            .map(|(_, dir)| Rc::clone(dir))
    }

    /// The directory at the clean path `path`, made with all above it where it is missing.
    fn open_dir(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
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

    /// Gives the open file its owner, or notes it down where that is impossible.
    fn owner(&mut self, file: BorrowedFd<'_>, path: &[u8], entry: &Entry) -> Result<()> {
        match self.ids {
            Ids::Mapped => {
                let Some((uid, gid)) = self.owner_to_set(path, entry)? else {
                    return Ok(());
                };
                rustix::fs::fchown(file, Some(uid), Some(gid))
                    .map_err(|errno| self.chown_failed(path, entry, errno))
            }
            Ids::Single => {
                if (entry.uid, entry.gid) == (0, 0) {
                    return Ok(());
                }
                let note = format!("{}:{}:0{:o}", entry.uid, entry.gid, entry.mode);
                match rustix::fs::fsetxattr(file, OVERRIDE, note.as_bytes(), XattrFlags::empty()) {
                    Ok(()) => Ok(()),
                    Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => {
                        self.report.lost_owners += 1;
                        Ok(())
                    }
                    Err(errno) => Err(self.failed("fsetxattr", path, errno)),
                }
            }
        }
    }

    /// As [`Unpacker::owner`], for what cannot be opened: links and FIFOs, which take no attribute either.
    fn owner_at(&mut self, parent: BorrowedFd<'_>, path: &[u8], entry: &Entry) -> Result<()> {
        if self.ids == Ids::Single {
            return Ok(());
        }
        let Some((uid, gid)) = self.owner_to_set(path, entry)? else {
            return Ok(());
        };
        let (_, name) = split(path);
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
        if errno != Errno::INVAL {
            return self.failed("fchown", path, errno);
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

    fn mode(&self, file: BorrowedFd<'_>, path: &[u8], mode: u32) -> Result<()> {
        rustix::fs::fchmod(file, mode_of(mode)).map_err(|errno| self.failed("fchmod", path, errno))
    }

    /// Sets the entry's extended attributes; what is refused is counted.
    fn attributes(&mut self, file: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
        for (name, value) in &entry.xattrs {
            if STEERING.iter().any(|prefix| name.starts_with(prefix)) {
                self.report.skipped_xattrs += 1;
                continue;
            }
            let name = OsStr::from_bytes(name);
            if rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()).is_err() {
                self.report.skipped_xattrs += 1;
            }
        }
        Ok(())
    }

    /// Sets the times of all directories.
    fn finish(&mut self) -> Result<()> {
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

    /// An error of the system about `path`, with what can be done when the disk is full.
    fn failed(&self, call: &str, path: &[u8], errno: Errno) -> anyhow::Error {
        let error =
            anyhow::Error::from(sys::Error::new(format!("{call}({:?})", shown(path)), errno));
        match errno {
            Errno::NOSPC | Errno::DQUOT => {
                error.context(disk_full(self.root.as_fd(), &shown(path), errno))
            }
            Errno::NAMETOOLONG | Errno::ILSEQ => {
                error.context(Fail::corrupt("the layer has a name that no file can have"))
            }
            _ => error,
        }
    }
}

/// The failure for a full disk or an exhausted quota: what was written, and what is left there.
pub fn disk_full(place: BorrowedFd<'_>, path: &str, errno: Errno) -> Fail {
    let what = if errno == Errno::DQUOT {
        "your quota is used up"
    } else {
        "the disk is full"
    };
    let left = rustix::fs::fstatvfs(place).map_or(String::new(), |stat| {
        format!(
            " ({} bytes and {} files left)",
            stat.f_bavail.saturating_mul(stat.f_frsize),
            stat.f_favail
        )
    });
    Fail::system(format!("{what} while writing `{path}`{left}"))
        .hint("remove images you do not need with `rl rmi`, or name another place with --root DIR or RL_ROOT")
        .code("RL-F05")
}

fn stat_of(parent: BorrowedFd<'_>, name: &OsStr) -> Option<rustix::fs::Stat> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok() // nothing there: the caller makes it
}

/// Either form of whiteout.
fn is_whiteout(parent: BorrowedFd<'_>, name: &OsStr, stat: &rustix::fs::Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => stat.st_rdev == 0,
        FileType::RegularFile if stat.st_size == 0 => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::empty()).is_ok_and(|file| {
                rustix::fs::fgetxattr(&file, OVERLAY_WHITEOUT, &mut [0_u8; 8][..]).is_ok()
            })
        }
        _ => false,
    }
}

/// The directory behind an `O_PATH` descriptor, for the calls that refuse such ones.
fn reopen(dir: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, ".", flags, Mode::empty())
}

/// The umask of this process, read without changing it; all bits where that is impossible.
fn umask() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .ok() // no /proc: every mode is then set explicitly
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        .unwrap_or(0o777)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    use tar::{Builder, EntryType, Header};

    /// One entry of a test's archive: type, name, link, content, mode.
    struct Item(EntryType, &'static str, &'static str, &'static str, u32);

    const FILE: EntryType = EntryType::Regular;
    const DIR: EntryType = EntryType::Directory;
    const LINK: EntryType = EntryType::Link;
    const SYM: EntryType = EntryType::Symlink;

    fn header(kind: EntryType, name: &str, link: &str, size: usize, mode: u32) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        // Straight into the fields: the crate's own setters refuse `..` and absolute names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_size(size as u64);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_cksum();
        header
    }

    fn archive(items: &[Item]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for Item(kind, name, link, content, mode) in items {
            let header = header(*kind, name, link, content.len(), *mode);
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// A directory with a `secret` beside the layer's root `fs`.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("fs")).unwrap();
            std::fs::write(dir.path().join("secret"), "secret").unwrap();
            Self(dir)
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.0.path().join("fs").join(name)
        }

        fn unpack(&self, tar: &[u8]) -> Result<Report> {
            let root = Root::open_trusted(&self.path("")).unwrap();
            unpack(tar, &root, Ids::Single)
        }

        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| error.to_string())
        }

        fn xattr(&self, name: &str, key: &str) -> Option<String> {
            let mut value = vec![0; 256];
            let length = rustix::fs::lgetxattr(self.path(name), key, &mut value[..]).ok()?;
            value.truncate(length);
            Some(String::from_utf8(value).unwrap())
        }

        fn untouched(&self) {
            assert_eq!(
                std::fs::read_to_string(self.0.path().join("secret")).unwrap(),
                "secret"
            );
            let beside: Vec<_> = std::fs::read_dir(self.0.path()).unwrap().collect();
            assert_eq!(beside.len(), 2, "{beside:?}");
            let links = std::fs::metadata(self.0.path().join("secret"))
                .unwrap()
                .nlink();
            assert_eq!(links, 1);
        }
    }

    #[test]
    fn a_hostile_layer_touches_nothing_outside() {
        let secret = "../secret";
        // Each case, and whether it is refused.
        let cases: &[(&str, &[Item], bool)] = &[
            (
                "dotdot",
                &[Item(FILE, "../secret", "", "evil", 0o644)],
                false,
            ),
            (
                "absolute",
                &[Item(FILE, "/../../secret", "", "evil", 0o644)],
                false,
            ),
            (
                "dotdot in the middle",
                &[Item(FILE, "a/../../../secret", "", "evil", 0o644)],
                false,
            ),
            (
                "through a link",
                &[
                    Item(SYM, "out", "..", "", 0o777),
                    Item(FILE, "out/secret", "", "evil", 0o644),
                ],
                false,
            ),
            (
                "through an absolute link",
                &[
                    Item(SYM, "out", "/..", "", 0o777),
                    Item(FILE, "out/secret", "", "evil", 0o644),
                ],
                false,
            ),
            (
                "over a link",
                &[
                    Item(SYM, "s", secret, "", 0o777),
                    Item(FILE, "s", "", "evil", 0o644),
                ],
                false,
            ),
            (
                "a directory over a link",
                &[
                    Item(SYM, "s", "..", "", 0o777),
                    Item(DIR, "s", "", "", 0o700),
                    Item(FILE, "s/secret", "", "evil", 0o644),
                ],
                false,
            ),
            ("hard link out", &[Item(LINK, "h", secret, "", 0o644)], true),
            (
                "hard link through a link",
                &[
                    Item(SYM, "out", "..", "", 0o777),
                    Item(LINK, "h", "out/secret", "", 0o644),
                ],
                true,
            ),
            (
                "hard link to a link, then written",
                &[
                    Item(SYM, "s", secret, "", 0o777),
                    Item(LINK, "h", "s", "", 0o644),
                    Item(FILE, "h", "", "evil", 0o644),
                ],
                false,
            ),
            (
                "hard link to the root",
                &[Item(LINK, "h", "/", "", 0o644)],
                true,
            ),
            (
                "a file as root",
                &[Item(FILE, ".", "", "evil", 0o644)],
                true,
            ),
            ("a link as root", &[Item(SYM, "/", "..", "", 0o777)], true),
            (
                "whiteout of dotdot",
                &[Item(FILE, ".wh...", "", "", 0o644)],
                true,
            ),
            (
                "whiteout of nothing",
                &[Item(FILE, "a/.wh.", "", "", 0o644)],
                true,
            ),
            (
                "whiteout through a link",
                &[
                    Item(SYM, "out", "..", "", 0o777),
                    Item(FILE, "out/.wh.secret", "", "", 0o644),
                ],
                false,
            ),
            (
                "opaque through a link",
                &[
                    Item(SYM, "out", "../..", "", 0o777),
                    Item(FILE, "out/.wh..wh..opq", "", "", 0o644),
                ],
                false,
            ),
            (
                "links in a circle",
                &[
                    Item(SYM, "a", "b", "", 0),
                    Item(SYM, "b", "a", "", 0),
                    Item(FILE, "a/x", "", "", 0),
                ],
                true,
            ),
            (
                "below a file",
                &[
                    Item(FILE, "a", "", "x", 0o644),
                    Item(FILE, "a/b", "", "x", 0o644),
                ],
                true,
            ),
            ("an empty link", &[Item(SYM, "a", "", "", 0o777)], true),
        ];
        for (name, items, refused) in cases {
            let place = Place::new();
            let done = place.unpack(&archive(items));
            assert_eq!(done.is_err(), *refused, "{name}: {done:?}");
            place.untouched();
        }
    }

    #[test]
    fn the_last_of_entries_with_one_name_stays() {
        let place = Place::new();
        place
            .unpack(&archive(&[
                Item(FILE, "a", "", "old", 0o644),
                Item(FILE, "a", "", "new", 0o600),
                Item(DIR, "d", "", "", 0o755),
                Item(FILE, "d/kept", "", "kept", 0o644),
                Item(DIR, "d/", "", "", 0o700),
                Item(FILE, "e/f", "", "gone", 0o644),
                Item(FILE, "e", "", "file", 0o644),
                Item(FILE, "g", "", "file", 0o644),
                Item(FILE, "./g2/../h", "", "clean", 0o644),
            ]))
            .unwrap();
        assert_eq!(place.read("a"), "new");
        assert_eq!(place.read("d/kept"), "kept");
        assert_eq!(place.path("d").metadata().unwrap().mode() & 0o7777, 0o700);
        assert_eq!(place.read("e"), "file");
        assert_eq!(place.read("h"), "clean");
    }

    #[test]
    fn a_stale_directory_is_never_written_to() {
        let place = Place::new();
        place
            .unpack(&archive(&[
                Item(FILE, "d/one", "", "1", 0o644),
                Item(FILE, "real/x", "", "1", 0o644),
                Item(SYM, "d", "real", "", 0o777),
                Item(FILE, "d/two", "", "2", 0o644),
            ]))
            .unwrap();
        assert_eq!(place.read("real/two"), "2");
        assert!(!place.path("real/one").exists());
    }

    #[test]
    fn links_to_nowhere_get_their_target_inside() {
        let place = Place::new();
        place
            .unpack(&archive(&[
                Item(SYM, "var/run", "/run/inner", "", 0o777),
                Item(FILE, "var/run/x", "", "x", 0o644),
            ]))
            .unwrap();
        assert_eq!(place.read("run/inner/x"), "x");
    }

    #[test]
    fn whiteouts_hide_only_what_lies_below() {
        let place = Place::new();
        place
            .unpack(&archive(&[
                Item(FILE, "etc/.wh.gone", "", "", 0o644),
                Item(FILE, "kept", "", "kept", 0o644),
                Item(FILE, ".wh.kept", "", "", 0o644),
                Item(FILE, ".wh.file", "", "", 0o644),
                Item(FILE, "file", "", "new", 0o644),
                Item(FILE, ".wh.dir", "", "", 0o644),
                Item(DIR, "dir", "", "", 0o755),
                Item(DIR, "dir2", "", "", 0o755),
                Item(FILE, ".wh.dir2", "", "", 0o644),
                Item(FILE, ".wh.dir3", "", "", 0o644),
                Item(FILE, "dir3/x", "", "x", 0o644),
                Item(DIR, "opaque", "", "", 0o755),
                Item(FILE, "opaque/.wh..wh..opq", "", "", 0o644),
                Item(FILE, ".wh..wh.plnk", "", "", 0o644),
            ]))
            .unwrap();
        let gone = place.path("etc/gone").symlink_metadata().unwrap();
        let hidden = gone.file_type().is_char_device() && gone.rdev() == 0
            || place.xattr("etc/gone", OVERLAY_WHITEOUT).is_some();
        assert!(hidden);
        assert_eq!(place.read("kept"), "kept");
        assert_eq!(place.read("file"), "new");
        assert_eq!(place.read("dir3/x"), "x");
        for dir in ["dir", "dir2", "dir3", "opaque"] {
            assert_eq!(
                place.xattr(dir, OVERLAY_OPAQUE).as_deref(),
                Some("y"),
                "{dir}"
            );
        }
        assert_eq!(place.xattr("etc", OVERLAY_OPAQUE), None);
        assert!(!place.path(".wh..wh.plnk").exists());
    }

    #[test]
    fn modes_times_and_owners_are_kept() {
        let place = Place::new();
        let mut builder = Builder::new(Vec::new());
        builder
            .append_pax_extensions([
                ("mtime", &b"1234567890.123456789"[..]),
                ("SCHILY.xattr.user.mine", b"a=b\nc"),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ("SCHILY.xattr.user.containers.override_stat", b"0:0:0777"),
            ])
            .unwrap();
        let mut owned = header(FILE, "d/file", "", 1, 0o4750);
        owned.set_uid(1000);
        owned.set_gid(50);
        owned.set_cksum();
        builder.append(&owned, &b"x"[..]).unwrap();
        builder
            .append(&header(DIR, "d", "", 0, 0o1777), &b""[..])
            .unwrap();
        builder
            .append(&header(SYM, "d/l", "/nowhere", 0, 0o777), &b""[..])
            .unwrap();
        builder
            .append(&header(EntryType::Fifo, "d/p", "", 0, 0o622), &b""[..])
            .unwrap();
        let report = place.unpack(&builder.into_inner().unwrap()).unwrap();
        let file = place.path("d/file").metadata().unwrap();
        assert_eq!(file.mode() & 0o7777, 0o4750);
        assert_eq!(
            (file.mtime(), file.mtime_nsec()),
            (1_234_567_890, 123_456_789)
        );
        assert_eq!(
            place.xattr("d/file", OVERRIDE).as_deref(),
            Some("1000:50:04750")
        );
        assert_eq!(
            place.xattr("d/file", "user.mine").as_deref(),
            Some("a=b\nc")
        );
        assert_eq!(place.xattr("d/file", OVERLAY_OPAQUE), None);
        for name in ["d", "d/l", "d/p"] {
            let mtime = place.path(name).symlink_metadata().unwrap().mtime();
            assert_eq!(mtime, 1_000_000_000, "{name}");
        }
        assert_eq!(place.path("d").metadata().unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(place.path("d/p").metadata().unwrap().mode() & 0o7777, 0o622);
        assert_eq!(
            (report.entries, report.bytes, report.skipped_xattrs),
            (4, 1, 2)
        );
    }

    #[test]
    fn devices_are_left_out_and_counted() {
        let place = Place::new();
        let mut null = header(EntryType::Char, "dev/null", "", 0, 0o666);
        null.set_device_major(1).unwrap();
        null.set_device_minor(3).unwrap();
        null.set_cksum();
        let mut builder = Builder::new(Vec::new());
        builder.append(&null, &b""[..]).unwrap();
        let report = place.unpack(&builder.into_inner().unwrap()).unwrap();
        assert_eq!(report.skipped_devices, 1);
        assert!(!place.path("dev/null").exists());
    }

    #[test]
    fn damaged_archives_are_refused() {
        let whole = archive(&[Item(FILE, "a", "", "content", 0o644)]);
        let mut checksum = whole.clone();
        checksum[0] = b'b';
        let mut huge = header(FILE, "a", "", 0, 0o644);
        huge.as_old_mut().size = *b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff";
        huge.set_cksum();
        let mut nul = Builder::new(Vec::new());
        nul.append_pax_extensions([("path", &b"a\0b"[..])]).unwrap();
        nul.append(&header(FILE, "a", "", 0, 0o644), &b""[..])
            .unwrap();
        let mut long = Builder::new(Vec::new());
        long.append_pax_extensions([("path", "x/".repeat(3000).as_bytes())])
            .unwrap();
        long.append(&header(FILE, "a", "", 0, 0o644), &b""[..])
            .unwrap();
        for (name, tar) in [
            ("in the data", whole[..515].to_vec()),
            ("in the header", whole[..100].to_vec()),
            ("checksum", checksum),
            ("enormous size", huge.as_bytes().to_vec()),
            ("NUL in a name", nul.into_inner().unwrap()),
            ("a name too long", long.into_inner().unwrap()),
            ("no tar at all", b"hello".repeat(300)),
        ] {
            let place = Place::new();
            let error = place.unpack(&tar).expect_err(name);
            assert_eq!(
                crate::error::kind(&error),
                crate::error::Kind::Corrupt,
                "{name}: {error:#}"
            );
            place.untouched();
        }
        assert_eq!(Place::new().unpack(&[]).unwrap(), Report::default());
    }

    #[test]
    fn an_unmapped_owner_is_named() {
        let place = Place::new();
        let mut owned = header(FILE, "far", "", 0, 0o644);
        owned.set_uid(5_000_000_000);
        owned.set_cksum();
        let mut builder = Builder::new(Vec::new());
        builder.append(&owned, &b""[..]).unwrap();
        let root = Root::open_trusted(&place.path("")).unwrap();
        let error =
            unpack(&builder.into_inner().unwrap()[..], &root, Ids::Mapped).expect_err("refused");
        let fail = crate::error::find(&error).unwrap();
        assert_eq!(fail.code.as_deref(), Some("RL-S04"));
        assert!(
            fail.message.contains("`/far`") && fail.message.contains("5000000000"),
            "{fail}"
        );
    }

    #[test]
    fn sparse_files_have_their_holes() {
        let place = Place::new();
        let map = "2\n0\n4\n1048576\n3\n";
        let mut data = map.as_bytes().to_vec();
        data.resize(512, 0);
        data.extend_from_slice(b"headend");
        let mut builder = Builder::new(Vec::new());
        builder
            .append_pax_extensions([
                ("GNU.sparse.major", &b"1"[..]),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"sparse"),
                ("GNU.sparse.realsize", b"1048579"),
            ])
            .unwrap();
        builder
            .append(
                &header(FILE, "GNUSparseFile.0/sparse", "", data.len(), 0o644),
                &data[..],
            )
            .unwrap();
        builder
            .append(&header(FILE, "after", "", 2, 0o644), &b"ok"[..])
            .unwrap();
        place.unpack(&builder.into_inner().unwrap()).unwrap();
        let content = std::fs::read(place.path("sparse")).unwrap();
        assert_eq!(content.len(), 1_048_579);
        assert_eq!(&content[..4], b"head");
        assert_eq!(&content[1_048_576..], b"end");
        assert_eq!(place.read("after"), "ok");
    }
}
