//! Files through descriptors: [`Root`] is a directory that no path can leave.
//!
//! Every path that an image, an archive or a container names is resolved by openat2(2) with
//! `RESOLVE_IN_ROOT`: `..`, absolute links and magic links lead to nowhere outside.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Error, Result};

/// How paths are resolved below a [`Root`].
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// How many links that lead nowhere are followed for one path; the kernel follows as many.
const LINKS: u32 = 40;

/// A directory that paths cannot leave.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Root {
    /// The directory at `path`, which is trusted: it is resolved as the host sees it.
    ///
    /// # Errors
    /// open(2).
    pub fn open_trusted(path: &Path) -> Result<Self> {
        let fd = open_trusted(path, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Self { fd })
    }

    /// The directory that `fd` stands for.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens `path` as the inside sees it: this directory is `/`, links are followed within it.
    ///
    /// # Errors
    /// openat2(2).
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        self.open_with(path, flags, Mode::empty())
    }

    /// As [`Root::open`]; `mode` is for files that `flags` create.
    ///
    /// # Errors
    /// As [`Root::open`].
    pub fn open_with(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        openat2(self.fd.as_fd(), path, flags, mode, INSIDE)
    }

    /// Opens the parent directory of `path` and returns it with the last component.
    /// `None` stands for the root itself and for paths that end in `..`.
    ///
    /// # Errors
    /// As [`Root::open`].
    pub fn open_parent<'p>(&self, path: &'p Path) -> Result<Option<(OwnedFd, &'p OsStr)>> {
        let Some(name) = path.file_name() else {
            return Ok(None);
        };
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        Ok(Some((
            self.open(parent, OFlags::PATH | OFlags::DIRECTORY)?,
            name,
        )))
    }

    /// Makes the directory `path` and all above it, and opens it. Links are followed inside, and what they lead
    /// to is made where it is missing.
    ///
    /// # Errors
    /// mkdirat(2), openat2(2); `ENOTDIR` where a file stands in the way.
    pub fn make_dir_all(&self, path: &Path, mode: Mode) -> Result<OwnedFd> {
        self.make_dirs(path, mode, LINKS)
    }

    fn make_dirs(&self, path: &Path, mode: Mode, links: u32) -> Result<OwnedFd> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Error {
                errno: Errno::NOENT,
                ..
            }) => {}
            done => return done,
        }
        let mut at = self.open(Path::new("."), OFlags::PATH | OFlags::DIRECTORY)?;
        let mut done = PathBuf::new();
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::CurDir | Component::RootDir | Component::Prefix(_) => continue,
                Component::ParentDir => OsStr::new(".."),
            };
            let parent = done.clone();
            done.push(name);
            // From the root each time: a link met on the way is resolved inside, never from where it stands.
            at = match self.open(&done, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(next) => next,
                Err(Error {
                    errno: Errno::NOENT,
                    ..
                }) => match rustix::fs::mkdirat(&at, name, mode) {
                    Ok(()) => self.open(&done, OFlags::PATH | OFlags::DIRECTORY)?,
                    Err(Errno::EXIST) => match dangling(at.as_fd(), name, &parent, links)? {
                        Some(target) => self.make_dirs(&target, mode, links - 1)?,
                        None => self.open(&done, OFlags::PATH | OFlags::DIRECTORY)?,
                    },
                    Err(errno) => return Err(Error::new(format!("mkdirat({done:?})"), errno)),
                },
                Err(error) => return Err(error),
            };
        }
        Ok(at)
    }

    /// Opens the file at `path` as a mount target, made empty when it is not there. Links are followed as by
    /// [`Root::make_dir_all`]: `/etc/resolv.conf` often leads to a file of the host's that the image came from.
    ///
    /// # Errors
    /// As [`Root::make_dir_all`].
    pub fn make_file(&self, path: &Path) -> Result<OwnedFd> {
        let mut path = path.to_owned();
        for links in (0..=LINKS).rev() {
            match self.open(&path, OFlags::PATH) {
                Err(Error {
                    errno: Errno::NOENT,
                    ..
                }) => {}
                done => return done,
            }
            let parent = path.parent().unwrap_or(Path::new("")).to_owned();
            let at = self.make_dir_all(&parent.join("."), Mode::from_raw_mode(0o755))?;
            if let Some(name) = path.file_name()
                && let Some(target) = dangling(at.as_fd(), name, &parent, links)?
            {
                path = target;
                continue;
            }
            let made = self.open_with(
                &path,
                OFlags::CREATE | OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
                Mode::from_raw_mode(0o644),
            )?;
            drop(made);
            return self.open(&path, OFlags::PATH);
        }
        Err(Error::new(format!("openat2({path:?})"), Errno::LOOP))
    }

    /// Reads a regular file of at most `limit` bytes; `None` when there is none.
    ///
    /// # Errors
    /// openat2(2), read(2); `EINVAL` for anything but a regular file, `EFBIG` for one above `limit`.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        use std::io::Read as _;
        // NONBLOCK: a FIFO that an image put there must not stop us.
        let fd = match self.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(fd) => fd,
            Err(Error {
                errno: Errno::NOENT | Errno::NOTDIR,
                ..
            }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let failed = |errno| Error::new(format!("read({path:?})"), errno);
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(failed(Errno::INVAL));
        }
        let mut content = Vec::new();
        let mut file = std::fs::File::from(fd).take(limit + 1);
        file.read_to_end(&mut content)
            .map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        if content.len() as u64 > limit {
            Err(failed(Errno::FBIG))
        } else {
            Ok(Some(content))
        }
    }
}

/// Where the link `name` in `at`, the directory at `parent`, leads to as the inside sees it; `None` for no link.
fn dangling(
    at: BorrowedFd<'_>,
    name: &OsStr,
    parent: &Path,
    links: u32,
) -> Result<Option<PathBuf>> {
    let failed = |errno| Error::new(format!("readlinkat({name:?})"), errno);
    match rustix::fs::readlinkat(at, name, Vec::new()) {
        Ok(_) if links == 0 => Err(failed(Errno::LOOP)),
        // An absolute path replaces the parent.
        Ok(text) => Ok(Some(parent.join(OsStr::from_bytes(text.to_bytes())))),
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed(errno)),
    }
}

/// openat2(2) with `O_CLOEXEC`, tried again when it was interrupted or raced with a rename.
///
/// # Errors
/// The kernel's.
pub fn openat2(
    at: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    let mut rounds = 0;
    loop {
        match rustix::fs::openat2(at, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Ok(fd) => return Ok(fd),
            Err(Errno::INTR) => {}
            // The kernel gives up when something was renamed meanwhile (openat2(2), ERRORS).
            Err(Errno::AGAIN) if rounds < 128 => rounds += 1,
            // KERNEL(5.6): unknown before; outer filters say the same, or EPERM.
            Err(Errno::NOSYS | Errno::PERM) => {
                return super::walk::open(at, path, flags, mode, resolve)
                    .map_err(|errno| Error::new(format!("openat({path:?})"), errno));
            }
            Err(errno) => return Err(Error::new(format!("openat2({path:?})"), errno)),
        }
    }
}

/// open(2) with `O_CLOEXEC` of a path that is trusted: ours, or named by the user.
///
/// # Errors
/// The kernel's.
pub fn open_trusted(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))
        .map_err(|errno| Error::new(format!("open({path:?})"), errno))
}

/// Whether the file system of `path` knows POSIX access lists. Source: acl(5), getxattr(2).
#[must_use]
pub fn has_access_lists(path: &Path) -> bool {
    let mut room = [0_u8; 0];
    rustix::fs::getxattr(path, "system.posix_acl_access", &mut room) != Err(Errno::OPNOTSUPP)
}

/// How many directories are open at once while a tree is removed or copied: a tenth of the usual limit.
const DEPTH: usize = 100;

/// Removes the tree `name` in `at` without following a link, however deep it is; nothing happens when there is
/// none. Directories that deny their owner entry are opened up first.
///
/// # Errors
/// unlinkat(2), with the path of the entry that stays; `ENOTEMPTY` on a network file system where a file in it is open.
pub fn remove_tree(at: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    Removal::default().remove(at, name, None, &PathBuf::from(name))
}

/// A tree on its way out.
#[derive(Default)]
struct Removal {
    depth: usize,
    /// How many directories were lifted to the top of the tree because they are too deep.
    lifted: u64,
}

impl Removal {
    /// `top` is the tree's first directory, which is none for that directory itself.
    fn remove(
        &mut self,
        at: BorrowedFd<'_>,
        name: &OsStr,
        top: Option<BorrowedFd<'_>>,
        shown: &Path,
    ) -> Result<()> {
        let failed = |call: &str, errno| Error::new(format!("{call}({shown:?})"), errno);
        match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if is_silly(name) => return Ok(()),
            // Linux answers EISDIR for a directory, POSIX says EPERM.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(failed("unlinkat", errno)),
        }
        match rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS) => {}
            Err(errno) => return Err(failed("unlinkat", errno)),
        }
        if let Some(top) = top
            && self.depth >= DEPTH
        {
            return self.lift(at, name, top, shown);
        }
        let dir = open_to_remove(at, name).map_err(|errno| failed("openat", errno))?;
        self.depth += 1;
        self.empty(dir.as_fd(), top.unwrap_or(dir.as_fd()), shown)?;
        self.depth -= 1;
        match rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR) {
            // What was lifted out of it is removed with the top.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("unlinkat", errno)),
        }
    }

    fn empty(&mut self, dir: BorrowedFd<'_>, top: BorrowedFd<'_>, shown: &Path) -> Result<()> {
        let failed = |errno| Error::new(format!("getdents64({shown:?})"), errno);
        for round in 0_u32.. {
            let mut found = false;
            for entry in rustix::fs::Dir::read_from(dir).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let child = OsStr::from_bytes(entry.file_name().to_bytes());
                if child == "." || child == ".." {
                    continue;
                }
                // One that stays so is somebody's open file: it goes when that is closed.
                found |= round < 2 || !is_silly(child);
                match self.remove(dir, child, Some(top), &shown.join(child)) {
                    Err(Error {
                        errno: Errno::ACCESS,
                        ..
                    }) if round == 0 => {
                        let _ = rustix::fs::fchmod(dir, Mode::RWXU); // the second round says why, if it must
                    }
                    done => done?,
                }
            }
            if !found {
                break;
            }
        }
        Ok(())
    }

    /// Moves a directory that is too deep to the top, whose next round removes it: neither descriptors nor
    /// stack nor the length of a path limit how deep a container may have made its directories.
    fn lift(
        &mut self,
        at: BorrowedFd<'_>,
        name: &OsStr,
        top: BorrowedFd<'_>,
        shown: &Path,
    ) -> Result<()> {
        // rename(2) changes `..` in the directory and needs the right to.
        let _ = rustix::fs::chmodat(at, name, Mode::RWXU, AtFlags::empty()); // the next call says why, if it must
        loop {
            self.lifted += 1;
            let to = format!(".lifted-{}", self.lifted);
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(at, name, top, &to, flags) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(Error::new(format!("renameat2({shown:?})"), errno)),
            }
        }
    }
}

/// What NFS and FUSE call a file that is removed while it is open: removing it again makes another one, or is refused.
fn is_silly(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b".nfs") || name.starts_with(b".fuse_hidden")
}

fn open_to_remove(at: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(at, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let _ = rustix::fs::chmodat(at, name, Mode::RWXU, AtFlags::empty()); // the next call says why, if it must
            rustix::fs::openat(at, name, flags, Mode::empty())
        }
        opened => opened,
    }
}

/// Whether the directory has no entries.
///
/// # Errors
/// getdents64(2).
pub fn is_empty(dir: BorrowedFd<'_>) -> Result<bool> {
    let failed = |errno| Error::new("getdents64()", errno);
    for entry in rustix::fs::Dir::read_from(dir).map_err(failed)? {
        let name = entry.map_err(failed)?;
        if !matches!(name.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies the tree below `from` into the directory `into`: owners, modes, times, extended attributes of the
/// user's, links as links; data by reflink where the file system shares it. What is there already is replaced.
///
/// # Errors
/// The first call that fails, with the entry's path; `ENAMETOOLONG` for directories nested beyond any use.
pub fn copy_tree(from: BorrowedFd<'_>, into: BorrowedFd<'_>) -> Result<()> {
    copy_below(from, into, Path::new("."), 0, Whiteouts::Files)
}

/// As [`copy_tree`] for the tree of a layer: what it says is deleted goes from `into`.
///
/// # Errors
/// As [`copy_tree`].
pub fn copy_layer(from: BorrowedFd<'_>, into: BorrowedFd<'_>) -> Result<()> {
    copy_below(from, into, Path::new("."), 0, Whiteouts::Deletions)
}

/// What a whiteout is to a copy. Source: kernel documentation, filesystems/overlayfs.rst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whiteouts {
    /// A file like others.
    Files,
    /// A deletion, as overlayfs takes it.
    Deletions,
}

/// Whether overlay takes this file for a deleted name.
fn is_whiteout(dir: BorrowedFd<'_>, name: &OsStr, stat: &rustix::fs::Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => stat.st_rdev == 0,
        FileType::RegularFile if stat.st_size == 0 => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(dir, name, flags, Mode::empty())
                .is_ok_and(|fd| has_value(fd.as_fd(), "user.overlay.whiteout", None))
        }
        FileType::RegularFile
        | FileType::Directory
        | FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::BlockDevice
        | FileType::Unknown => false,
    }
}

/// Whether the attribute is there, with this value where one is given.
fn has_value(fd: BorrowedFd<'_>, name: &str, wanted: Option<&[u8]>) -> bool {
    let mut value = [0_u8; 8];
    rustix::fs::fgetxattr(fd, name, &mut value[..])
        .is_ok_and(|length| wanted.is_none_or(|wanted| &value[..length] == wanted))
}

fn copy_below(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    shown: &Path,
    depth: usize,
    whiteouts: Whiteouts,
) -> Result<()> {
    let failed = |call: &'static str| move |errno| Error::new(format!("{call}({shown:?})"), errno);
    if depth > DEPTH {
        return Err(failed("mkdirat")(Errno::NAMETOOLONG));
    }
    let own = rustix::fs::fstat(from).map_err(failed("fstat"))?;
    for entry in rustix::fs::Dir::read_from(from).map_err(failed("getdents64"))? {
        let entry = entry.map_err(failed("getdents64"))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        copy_entry(from, into, name, &shown.join(name), depth, whiteouts)?;
    }
    copy_attributes(from, into, &own, shown, whiteouts)
}

fn copy_entry(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    name: &OsStr,
    shown: &Path,
    depth: usize,
    whiteouts: Whiteouts,
) -> Result<()> {
    let failed = |call: &'static str| move |errno| Error::new(format!("{call}({shown:?})"), errno);
    let stat =
        rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("fstatat"))?;
    if whiteouts == Whiteouts::Deletions && is_whiteout(from, name, &stat) {
        return remove_tree(into, name);
    }
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let source = rustix::fs::openat(from, name, open | OFlags::DIRECTORY, Mode::empty())
                .map_err(failed("openat"))?;
            let hides = has_value(source.as_fd(), "user.overlay.opaque", Some(b"y"));
            let stands = rustix::fs::statat(into, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::Directory);
            if whiteouts == Whiteouts::Deletions && (hides || stands) {
                remove_tree(into, name)?;
            }
            match rustix::fs::mkdirat(into, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed("mkdirat")(errno)),
            }
            let target = rustix::fs::openat(into, name, open | OFlags::DIRECTORY, Mode::empty())
                .map_err(failed("openat"))?;
            copy_below(source.as_fd(), target.as_fd(), shown, depth + 1, whiteouts)
        }
        FileType::RegularFile => {
            remove_tree(into, name)?;
            let source =
                rustix::fs::openat(from, name, open, Mode::empty()).map_err(failed("openat"))?;
            let create =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = rustix::fs::openat(into, name, create, Mode::RUSR | Mode::WUSR)
                .map_err(failed("openat"))?;
            copy_data(source.as_fd(), target.as_fd()).map_err(failed("copy_file_range"))?;
            copy_attributes(source.as_fd(), target.as_fd(), &stat, shown, whiteouts)
        }
        FileType::Symlink => {
            remove_tree(into, name)?;
            let text =
                rustix::fs::readlinkat(from, name, Vec::new()).map_err(failed("readlinkat"))?;
            rustix::fs::symlinkat(text, into, name).map_err(failed("symlinkat"))?;
            own_by_name(into, name, &stat, shown)
        }
        kind @ (FileType::Fifo
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Socket) => {
            remove_tree(into, name)?;
            match rustix::fs::mknodat(into, name, kind, mode, stat.st_rdev) {
                // A device cannot be made in a user namespace, except the whiteout.
                Err(Errno::PERM) => Ok(()),
                Err(errno) => Err(failed("mknodat")(errno)),
                Ok(()) => own_by_name(into, name, &stat, shown),
            }
        }
        FileType::Unknown => Ok(()),
    }
}

fn own_by_name(
    into: BorrowedFd<'_>,
    name: &OsStr,
    stat: &rustix::fs::Stat,
    shown: &Path,
) -> Result<()> {
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(stat.st_uid),
        rustix::fs::Gid::from_raw(stat.st_gid),
    );
    match rustix::fs::chownat(into, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        // An owner that is not mapped here, or only one id: it stays the caller's.
        Ok(()) | Err(Errno::INVAL | Errno::PERM) => Ok(()),
        Err(errno) => Err(Error::new(format!("fchownat({shown:?})"), errno)),
    }
}

fn copy_data(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    loop {
        match rustix::fs::copy_file_range(from, None, to, None, 1 << 26) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            // Between some file systems the kernel leaves it to us.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => break,
            Err(errno) => return Err(errno),
        }
    }
    let mut buffer = vec![0_u8; 1 << 17];
    loop {
        let length = rustix::io::read(from, &mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let written = rustix::io::write(to, rest)?;
            rest = &rest[written..];
        }
    }
}

fn copy_attributes(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    stat: &rustix::fs::Stat,
    shown: &Path,
    whiteouts: Whiteouts,
) -> Result<()> {
    let failed = |call: &'static str| move |errno| Error::new(format!("{call}({shown:?})"), errno);
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(stat.st_uid),
        rustix::fs::Gid::from_raw(stat.st_gid),
    );
    match rustix::fs::fchown(to, Some(uid), Some(gid)) {
        // An owner that is not mapped here, or only one id: it stays the caller's.
        Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
        Err(errno) => return Err(failed("fchown")(errno)),
    }
    let mut names = vec![0_u8; 4096];
    let listed = rustix::fs::flistxattr(from, &mut names[..]).unwrap_or(0); // a file system without attributes has none
    for name in names[..listed]
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"user.") || *name == b"security.capability")
        .filter(|name| whiteouts == Whiteouts::Files || !name.starts_with(b"user.overlay."))
    {
        let mut value = vec![0_u8; 65_536];
        if let Ok(length) = rustix::fs::fgetxattr(from, name, &mut value[..]) {
            // An attribute the target cannot hold is not worth losing the file for.
            let _ =
                rustix::fs::fsetxattr(to, name, &value[..length], rustix::fs::XattrFlags::empty());
        }
    }
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(failed("fchmod"))?;
    #[allow(
        clippy::cast_possible_wrap,
        reason = "the kernel gives nanoseconds below 1e9"
    )]
    let time = |seconds: i64, nanoseconds: u64| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as i64,
    };
    let times = rustix::fs::Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::futimens(to, &times).map_err(failed("futimens"))
}

/// Writes `content` to `path` so that a reader sees the old or the new, never a part: written to `aside`,
/// which is on the same file system, synced, renamed. The caller holds the lock that keeps others from
/// `aside`; what a killed one left there is written over by the next.
///
/// # Errors
/// The system's.
pub fn write_atomically(path: &Path, aside: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let parent = path.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
    let written = (|| {
        let mut file = std::fs::File::create(aside)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(aside, path)?;
        std::fs::File::open(parent)?.sync_all()
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(aside); // the first error is the one that matters
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_path_leaves_a_root() {
        let outside = tempfile::tempdir().unwrap();
        let inside = outside.path().join("root");
        std::fs::create_dir_all(inside.join("etc")).unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        symlink("/secret", inside.join("absolute")).unwrap();
        symlink("../../secret", inside.join("etc/dotdot")).unwrap();
        let root = Root::open_trusted(&inside).unwrap();
        for path in ["../secret", "/../secret", "absolute", "etc/dotdot"] {
            assert_eq!(root.read(Path::new(path), 10).unwrap(), None, "{path}");
        }
        std::fs::write(inside.join("secret"), "inner").unwrap();
        assert_eq!(
            root.read(Path::new("absolute"), 10).unwrap().as_deref(),
            Some(&b"inner"[..])
        );
    }

    #[test]
    fn directories_are_made_through_links_inside() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/real", dir.path().join("link")).unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        let root = Root::open_trusted(dir.path()).unwrap();
        root.make_dir_all(Path::new("/link/a/b"), Mode::from_raw_mode(0o755))
            .unwrap();
        assert!(dir.path().join("real/a/b").is_dir());
        root.make_file(Path::new("/link/a/file")).unwrap();
        assert!(dir.path().join("real/a/file").is_file());
    }

    #[test]
    fn what_links_lead_to_is_made_inside() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        std::fs::create_dir_all(inside.join("etc")).unwrap();
        let root = Root::open_trusted(&inside).unwrap();
        for (link, text) in [
            ("etc/resolv.conf", "../run/systemd/stub.conf"),
            ("work", "../../../outside"),
            ("chain", "/chain2/below"),
            ("chain2", "end"),
            ("circle", "circle"),
        ] {
            symlink(text, inside.join(link)).unwrap();
        }
        let mode = Mode::from_raw_mode(0o755);
        root.make_file(Path::new("/etc/resolv.conf")).unwrap();
        assert!(inside.join("run/systemd/stub.conf").is_file());
        root.make_dir_all(Path::new("/work/x"), mode).unwrap();
        assert!(inside.join("outside/x").is_dir());
        root.make_file(Path::new("/chain/file")).unwrap();
        assert!(inside.join("end/below/file").is_file());
        for path in ["/circle", "/circle/below"] {
            assert_eq!(
                root.make_dir_all(Path::new(path), mode).unwrap_err().errno,
                Errno::LOOP
            );
            assert_eq!(
                root.make_file(Path::new(path)).unwrap_err().errno,
                Errno::LOOP
            );
        }
        assert!(!dir.path().join("outside").exists());
    }

    #[test]
    fn a_tree_is_removed_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let keep = dir.path().join("keep");
        std::fs::create_dir_all(dir.path().join("tree/a/b")).unwrap();
        std::fs::create_dir(&keep).unwrap();
        std::fs::write(keep.join("file"), "x").unwrap();
        symlink(&keep, dir.path().join("tree/a/link")).unwrap();
        let at = open_trusted(dir.path(), OFlags::PATH | OFlags::DIRECTORY).unwrap();
        remove_tree(at.as_fd(), OsStr::new("tree")).unwrap();
        assert!(!dir.path().join("tree").exists());
        assert!(keep.join("file").exists());
    }

    #[test]
    fn a_tree_of_any_depth_is_removed_with_few_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let at = open_trusted(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut inner = at.try_clone().unwrap();
        // Deeper than a path is long, and than most processes may have files open.
        for depth in 0..2_000 {
            let name = if depth % 3 == 0 { "tree" } else { ".lifted-1" };
            rustix::fs::mkdirat(&inner, name, Mode::RWXU).unwrap();
            let next = rustix::fs::openat(&inner, name, flags, Mode::empty()).unwrap();
            rustix::fs::mkdirat(&next, "beside", Mode::RWXU).unwrap();
            inner = next;
        }
        drop(inner);
        remove_tree(at.as_fd(), OsStr::new("tree")).unwrap();
        assert!(is_empty(at.as_fd()).unwrap());
    }
}
