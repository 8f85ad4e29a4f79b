//! Unpacks one layer: a tar stream becomes a directory that overlay can take as a lower one.
//!
//! The archive is hostile: every path is resolved below an open directory that none can leave. Knows
//! nothing of compression, digests or where layers are kept. Source: OCI image specification, layer.md.

#[cfg(test)]
mod tests;

mod directories;
mod owners;
mod whiteouts;

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
use crate::stage::emulation::note;
use crate::stage::emulation::side::Side;
use crate::sys;
use crate::sys::fs::Root;
use directories::CACHED;

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

/// Where fuse-overlayfs and podman keep owner and mode, too.
pub const OVERRIDE: &str = note::NAME;
/// Attributes that steer overlay file systems; none comes from a layer.
pub const STEERING: [&[u8]; 4] = [
    b"user.overlay.",
    b"trusted.overlay.",
    b"user.fuseoverlayfs.",
    b"user.containers.",
];

/// Unpacks the archive `input` into the empty directory `into`, and reads the input to its end. The second value are the
/// owners of what takes no attributes, with `Ids::Single`.
///
/// # Errors
/// `Corrupt` for a damaged or impossible archive, RL-S04 for an owner that is not mapped, RL-F05 when
/// the disk is full; the system's, with the entry's name.
pub fn unpack(input: impl BufRead, into: &Root, ids: Ids) -> Result<(Report, Side)> {
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
    Ok((unpacker.report, unpacker.side))
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
#[must_use]
pub fn clean(path: &[u8]) -> Vec<u8> {
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
#[must_use]
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
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

/// Permission bits, with setuid, setgid and sticky.
#[must_use]
pub fn mode_of(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

/// Both times of a file, from seconds and nanoseconds.
#[must_use]
pub fn times(mtime: (i64, u32)) -> Timestamps {
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
    /// Owners of what takes no attributes.
    side: Side,
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
            side: Side::default(),
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
            Kind::CharDevice | Kind::BlockDevice if self.ids == Ids::Single => {
                self.device(&path, entry)
            }
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

    /// An empty file stands for a device, and its note says which.
    fn device(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let (parent, name) = split(path);
        let parent = self.open_dir(parent)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = OsStr::from_bytes(name);
        let file = self.make(parent.as_fd(), path, "openat", || {
            rustix::fs::openat(&*parent, name, flags, mode_of(0o600))
        })?;
        self.owner(file.as_fd(), path, entry)?;
        self.mode(file.as_fd(), path, entry.mode)?;
        rustix::fs::futimens(&file, &times(entry.mtime))
            .map_err(|errno| self.failed("futimens", path, errno))
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
