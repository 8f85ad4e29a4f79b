//! A tar stream as files: where it goes by docker's rules, and who owns it then.
//!
//! Nothing that stands at the destination is followed: a link is replaced, a directory stays a directory.
//! Directories get their modes and times last.

use std::ffi::OsStr;
use std::io::{BufReader, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::View;
use crate::error::Fail;
use crate::image::entries::{Entry, Extent, Kind, Reader};
use crate::image::layer::{self, Ids, OVERRIDE, STEERING, clean, mode_of, split, times};
use crate::stage::emulation::note::Note;
use crate::sys;
use crate::sys::fs::Root;

/// How often a name is made free for a file; somebody else takes it again each time.
const ROUNDS: u32 = 16;

/// Whose the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owners {
    /// Who makes them; without setuid and setgid bits, which would give others the user's rights.
    Mine,
    /// Root's.
    Root,
    /// As the archive has it.
    Kept(Ids),
}

/// What comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// One file or tree of this name, its first entry; empty for a root.
    Tree(Vec<u8>),
    /// A directory's content: its first entry is the directory.
    Content,
    /// Any archive, for a directory that is there.
    Archive,
}

/// What was received.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Received {
    /// Bytes of the archive.
    pub bytes: u64,
    /// Device nodes that were left out: an ordinary user cannot make them.
    pub devices: u64,
    /// Owners that could be kept nowhere.
    pub lost_owners: u64,
}

/// Makes the files that `input` has at `to`.
///
/// # Errors
/// `Usage` and `NotFound` by docker's rules for destinations; `UnexpectedEof` for an empty input; the system's.
pub fn receive(
    view: &View,
    to: &Path,
    shape: &Shape,
    owners: Owners,
    input: impl Read,
) -> Result<Received> {
    let counted = Counted { input, bytes: 0 };
    let mut reader = Reader::new(BufReader::with_capacity(128 << 10, counted));
    let mut entry = Entry::default();
    if !reader.next(&mut entry)? && *shape != Shape::Archive {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))
            .context("receiving files");
    }
    let (ground, top) = destination(view, to, shape, entry.kind == Kind::Directory)?;
    let mut receiver = Receiver {
        view,
        ground,
        top,
        first: entry.path.clone(),
        tree: *shape != Shape::Archive,
        owners,
        parent: None,
        directories: Vec::new(),
        received: Received::default(),
    };
    let mut more = !entry.path.is_empty();
    while more {
        receiver.place(&entry, &mut reader)?;
        more = reader.next(&mut entry)?;
    }
    receiver.finish()?;
    let mut rest = reader.into_inner();
    // Who writes it may have padding left.
    std::io::copy(&mut rest, &mut std::io::sink()).context("reading the end of the archive")?;
    receiver.received.bytes = rest.get_ref().bytes;
    Ok(receiver.received)
}

struct Counted<R> {
    input: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

/// The directory that files are made below.
enum Ground<'v> {
    /// On the host: nothing below it is followed.
    Host(OwnedFd),
    /// In a container: its links may lead to all that it has itself.
    Inside(&'v Root, PathBuf),
}

impl Ground<'_> {
    fn open(&self, path: &[u8]) -> sys::Result<OwnedFd> {
        let path = Path::new(OsStr::from_bytes(if path.is_empty() { b"." } else { path }));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self {
            Ground::Host(at) => {
                let below =
                    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
                sys::fs::openat2(at.as_fd(), path, flags, Mode::empty(), below)
            }
            Ground::Inside(root, at) => root.open(&at.join(path), flags),
        }
    }
}

/// Where the first entry goes: the directory, and the name in it; none when it is that directory.
/// Source: docker's manual, `docker container cp`.
fn destination<'v>(
    view: &'v View,
    to: &Path,
    shape: &Shape,
    is_directory: bool,
) -> Result<(Ground<'v>, Option<Vec<u8>>)> {
    let shown = view.show(to);
    let ground = |fd: OwnedFd, path: &Path| match view {
        View::Host(_) => Ground::Host(fd),
        View::Inside(root, _) => Ground::Inside(root, path.to_owned()),
    };
    let asks_for_directory =
        to.as_os_str().as_bytes().ends_with(b"/") || to.as_os_str().as_bytes().ends_with(b"/.");
    match view.open(to, OFlags::PATH) {
        Ok(fd) => {
            let stat = rustix::fs::fstat(&fd).context("looking at the destination")?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let name = match shape {
                    Shape::Tree(name) if !name.is_empty() => Some(name.clone()),
                    Shape::Tree(_) | Shape::Content | Shape::Archive => None,
                };
                return Ok((ground(fd, to), name));
            }
            if *shape == Shape::Archive {
                return Err(Fail::usage(format!("`{shown}` is not a directory")).into());
            }
            if is_directory {
                return Err(Fail::usage(format!(
                    "`{shown}` is a file: a directory cannot be copied onto it"
                ))
                .into());
            }
        }
        Err(error) if error.errno == Errno::NOTDIR => {
            return Err(Fail::usage(format!("`{shown}` is not a directory")).into());
        }
        Err(error) if error.errno == Errno::NOENT => {
            if *shape == Shape::Archive || (asks_for_directory && !is_directory) {
                return Err(Fail::not_found(format!("there is no directory `{shown}`"))
                    .hint("make it first, or name the copy: leave the slash at the end out")
                    .into());
            }
        }
        Err(error) => {
            return Err(anyhow::Error::from(error)
                .context(Fail::usage(format!("cannot copy to `{shown}`"))));
        }
    }
    let (parent, name) = view.end_of(to)?;
    let fd = view.open(&parent, OFlags::PATH | OFlags::DIRECTORY)?;
    Ok((ground(fd, &parent), Some(name)))
}

struct Receiver<'v> {
    view: &'v View,
    ground: Ground<'v>,
    top: Option<Vec<u8>>,
    /// What the archive calls its first entry.
    first: Vec<u8>,
    tree: bool,
    owners: Owners,
    /// The directory that was used last.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    directories: Vec<(Vec<u8>, u32, (i64, u32))>,
    received: Received,
}

/// A file that is open for its content.
struct Open {
    file: OwnedFd,
    /// It stood there and cannot be replaced: something is mounted on it, or it is a device.
    stays: bool,
}

impl Receiver<'_> {
    /// Where an entry of this name goes, below the ground.
    fn target(&self, path: &[u8]) -> Result<Vec<u8>> {
        let path = clean(path);
        if !self.tree {
            return Ok(path);
        }
        let first = clean(&self.first);
        let rest = match path.strip_prefix(&first[..]) {
            Some(rest) if rest.is_empty() || first.is_empty() => rest,
            Some(rest) if rest.starts_with(b"/") => &rest[1..],
            Some(_) | None => {
                return Err(Fail::corrupt("an entry is beside the tree that is copied").into());
            }
        };
        Ok(match &self.top {
            Some(top) if rest.is_empty() => top.clone(),
            Some(top) => [&top[..], b"/", rest].concat(),
            None => rest.to_vec(),
        })
    }

    fn place<R: Read>(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<BufReader<Counted<R>>>,
    ) -> Result<()> {
        let path = self.target(&entry.path)?;
        if path.is_empty() {
            // The directory that is there keeps what it is.
            return if entry.kind == Kind::Directory {
                Ok(())
            } else {
                Err(Fail::corrupt("an entry of the archive has no name").into())
            };
        }
        let (above, name) = split(&path);
        let parent = self.parent(above)?;
        let name = OsStr::from_bytes(name);
        match entry.kind {
            Kind::Directory => self.directory(&parent, name, &path, entry),
            Kind::File => self.file(&parent, name, &path, entry, reader),
            Kind::HardLink => {
                let target = self.target(&entry.link)?;
                let (from, target) = split(&target);
                let from = self.open(from)?;
                let target = OsStr::from_bytes(target);
                self.make(parent.as_fd(), name, &path, "linkat", || {
                    rustix::fs::linkat(&from, target, &*parent, name, AtFlags::empty())
                })
            }
            Kind::Symlink => {
                let text = OsStr::from_bytes(&entry.link);
                self.make(parent.as_fd(), name, &path, "symlinkat", || {
                    rustix::fs::symlinkat(text, &*parent, name)
                })?;
                self.own_by_name(parent.as_fd(), name, &path, entry)
            }
            Kind::Fifo => {
                let mode = mode_of(entry.mode & 0o777);
                self.make(parent.as_fd(), name, &path, "mknodat", || {
                    rustix::fs::mknodat(&*parent, name, FileType::Fifo, mode, 0)
                })?;
                self.own_by_name(parent.as_fd(), name, &path, entry)
            }
            Kind::CharDevice | Kind::BlockDevice => {
                self.received.devices += 1;
                Ok(())
            }
            Kind::Other => Ok(()),
        }
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd> {
        self.ground
            .open(path)
            .map_err(|error| self.failed("openat2", path, error.errno))
    }

    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        if let Some((known, fd)) = &self.parent
            && known == path
        {
            return Ok(Rc::clone(fd));
        }
        let fd = match (self.ground.open(path), &self.ground) {
            // Only archives of others lack directories.
            (Err(error), Ground::Inside(root, at)) if error.errno == Errno::NOENT && !self.tree => {
                let path = at.join(OsStr::from_bytes(path));
                root.make_dir_all(&path, Mode::from_raw_mode(0o755))
            }
            (opened, _) => opened,
        };
        let fd = Rc::new(fd.map_err(|error| self.failed("openat2", path, error.errno))?);
        self.parent = Some((path.to_vec(), Rc::clone(&fd)));
        Ok(fd)
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &[u8],
        entry: &Entry,
    ) -> Result<()> {
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(self.failed("mkdirat", path, errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let shown = self.show(path);
                return Err(Fail::usage(format!(
                    "`{shown}` is no directory, and a directory cannot be copied onto it"
                ))
                .hint("remove it first, or copy to another place")
                .into());
            }
            dir => dir.map_err(|errno| self.failed("openat", path, errno))?,
        };
        self.own(dir.as_fd(), path, entry)?;
        Self::attributes(dir.as_fd(), entry);
        self.directories
            .push((path.to_vec(), entry.mode, entry.mtime));
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &[u8],
        entry: &Entry,
        reader: &mut Reader<BufReader<Counted<R>>>,
    ) -> Result<()> {
        let Open { file, stays } = self.create(parent, name, path)?;
        let whole = [Extent {
            offset: 0,
            length: entry.size,
        }];
        if entry.extents.is_some() {
            rustix::fs::ftruncate(&file, entry.size)
                .map_err(|errno| self.failed("ftruncate", path, errno))?;
        }
        for extent in entry.extents.as_deref().unwrap_or(&whole) {
            if entry.extents.is_some() {
                rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(extent.offset))
                    .map_err(|errno| self.failed("lseek", path, errno))?;
            }
            let mut left = extent.length;
            while left > 0 {
                let chunk = reader.chunk()?;
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
                if most == 0 {
                    break;
                }
                match rustix::io::write(&file, &chunk[..most]) {
                    Ok(count) => {
                        reader.consume(count);
                        left -= count as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(self.failed("write", path, errno)),
                }
            }
        }
        if stays {
            return Ok(());
        }
        // In this order: writing and chown take setuid bits and file capabilities away.
        self.own(file.as_fd(), path, entry)?;
        rustix::fs::fchmod(&file, self.mode(entry.mode))
            .map_err(|errno| self.failed("fchmod", path, errno))?;
        Self::attributes(file.as_fd(), entry);
        rustix::fs::futimens(&file, &times(entry.mtime))
            .map_err(|errno| self.failed("futimens", path, errno))
    }

    fn create(&self, parent: &OwnedFd, name: &OsStr, path: &[u8]) -> Result<Open> {
        let create =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..ROUNDS {
            match rustix::fs::openat(parent, name, create, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok(Open { file, stays: false }),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.failed("openat", path, errno)),
            }
            if self.clear(parent.as_fd(), name, path)? {
                continue;
            }
            let flags = OFlags::WRONLY
                | OFlags::TRUNC
                | OFlags::NOFOLLOW
                | OFlags::NONBLOCK
                | OFlags::NOCTTY
                | OFlags::CLOEXEC;
            let file = rustix::fs::openat(parent, name, flags, Mode::empty())
                .map_err(|errno| self.failed("openat", path, errno))?;
            return Ok(Open { file, stays: true });
        }
        Err(self.failed("openat", path, Errno::EXIST))
    }

    /// Makes a name free; says no where what stands there has to stay.
    fn clear(&self, parent: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> Result<bool> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(true),
            Err(errno) => return Err(self.failed("fstatat", path, errno)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let shown = self.show(path);
                return Err(Fail::usage(format!(
                    "`{shown}` is a directory, and a file cannot be copied onto it"
                ))
                .hint("remove it first, or copy to another place")
                .into());
            }
            FileType::CharacterDevice | FileType::BlockDevice => return Ok(false),
            FileType::RegularFile
            | FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::Unknown => {}
        }
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::BUSY) => Ok(false),
            Err(errno) => Err(self.failed("unlinkat", path, errno)),
        }
    }

    /// Runs `call`, which makes what has no content; what stood there is removed.
    fn make(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
        shown: &str,
        call: impl Fn() -> rustix::io::Result<()>,
    ) -> Result<()> {
        for _ in 0..ROUNDS {
            match call() {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) if self.clear(parent, name, path)? => {}
                Err(errno) => return Err(self.failed(shown, path, errno)),
            }
        }
        Err(self.failed(shown, path, Errno::EXIST))
    }

    fn mode(&self, mode: u32) -> Mode {
        mode_of(if self.owners == Owners::Mine {
            mode & 0o1777
        } else {
            mode
        })
    }

    /// Whom a file is given to; none where it is right already.
    fn owner(&self, path: &[u8], entry: &Entry) -> Result<Option<(Uid, Gid)>> {
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        match self.owners {
            Owners::Mine => Ok(None),
            // This process is root, or the one id of a namespace that has no root.
            Owners::Root | Owners::Kept(Ids::Single) => Ok(Some((
                rustix::process::geteuid(),
                rustix::process::getegid(),
            ))),
            Owners::Kept(Ids::Mapped) => match (id(entry.uid), id(entry.gid)) {
                (Some(uid), Some(gid)) => Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid)))),
                _ => Err(self.failed("fchown", path, Errno::INVAL)),
            },
        }
    }

    fn own(&mut self, file: BorrowedFd<'_>, path: &[u8], entry: &Entry) -> Result<()> {
        let Some((uid, gid)) = self.owner(path, entry)? else {
            return Ok(());
        };
        rustix::fs::fchown(file, Some(uid), Some(gid))
            .map_err(|errno| self.failed("fchown", path, errno))?;
        if self.owners == Owners::Kept(Ids::Single) && (entry.uid, entry.gid) != (0, 0) {
            let id = |id: u64| u32::try_from(id).unwrap_or(0);
            let note = Note {
                uid: id(entry.uid),
                gid: id(entry.gid),
                device: None,
            };
            let kind = if entry.kind == Kind::Directory {
                FileType::Directory
            } else {
                FileType::RegularFile
            };
            let note = note.text(kind, entry.mode);
            if rustix::fs::fsetxattr(file, OVERRIDE, note.as_bytes(), XattrFlags::empty()).is_err()
            {
                self.received.lost_owners += 1;
            }
        }
        Ok(())
    }

    fn own_by_name(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
        entry: &Entry,
    ) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((uid, gid)) = self.owner(path, entry)? {
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags)
                .map_err(|errno| self.failed("fchownat", path, errno))?;
            if self.owners == Owners::Kept(Ids::Single) && (entry.uid, entry.gid) != (0, 0) {
                self.received.lost_owners += 1;
            }
        }
        rustix::fs::utimensat(parent, name, &times(entry.mtime), flags)
            .map_err(|errno| self.failed("utimensat", path, errno))
    }

    fn attributes(file: BorrowedFd<'_>, entry: &Entry) {
        for (name, value) in &entry.xattrs {
            if !STEERING.iter().any(|prefix| name.starts_with(prefix)) {
                let name = OsStr::from_bytes(name);
                // An attribute that the file system does not take is not worth losing the file for.
                let _ = rustix::fs::fsetxattr(file, name, value, XattrFlags::empty());
            }
        }
    }

    /// Sets modes and times of all directories, the innermost first: they may deny entry.
    fn finish(&mut self) -> Result<()> {
        for (path, mode, mtime) in std::mem::take(&mut self.directories).into_iter().rev() {
            let (above, name) = split(&path);
            let parent = self.parent(above)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let set = rustix::fs::openat(&*parent, OsStr::from_bytes(name), flags, Mode::empty())
                .and_then(|dir| {
                    rustix::fs::fchmod(&dir, self.mode(mode))?;
                    rustix::fs::futimens(&dir, &times(mtime))
                });
            match set {
                // The container has replaced it meanwhile.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(self.failed("fchmod", &path, errno)),
            }
        }
        Ok(())
    }

    fn show(&self, path: &[u8]) -> String {
        let path = Path::new(OsStr::from_bytes(path));
        match &self.ground {
            Ground::Host(_) => self.view.show(path),
            Ground::Inside(_, at) => self.view.show(&at.join(path)),
        }
    }

    fn failed(&self, call: &str, path: &[u8], errno: Errno) -> anyhow::Error {
        let shown = self.show(path);
        let error = anyhow::Error::from(sys::Error::new(format!("{call}({shown:?})"), errno));
        match (errno, self.owners) {
            (Errno::ROFS, Owners::Root | Owners::Kept(_)) => error.context(
                Fail::denied(format!(
                    "`{shown}` cannot be written: the container has it mounted read-only"
                ))
                .hint("copy to a volume or a tmpfs of the container"),
            ),
            (Errno::NOSPC | Errno::DQUOT, _) => {
                let fail = match self.ground.open(b"") {
                    Ok(place) => layer::disk_full(place.as_fd(), &shown, errno),
                    Err(_) => Fail::system("the disk is full").code("RL-F05"),
                };
                error.context(fail)
            }
            (Errno::INVAL, Owners::Kept(Ids::Mapped)) if call.starts_with("fchown") => error
                .context(
                    Fail::unsupported(format!(
                        "`{shown}` has an owner that your id ranges do not reach"
                    ))
                    .hint("leave --archive out: the files are root's then")
                    .code("RL-S04"),
                ),
            _ => error.context(format!("writing `{shown}`")),
        }
    }
}
