//! A container's layers as one tree, merged here as overlayfs would: what `export` reads and `diff` compares.
//!
//! Read without a mount, so that it is the same for a running container: the kernel forbids a second overlay over
//! a writable directory that is in use. It is right because rl's overlays neither redirect directories nor
//! keep metadata apart (`userxattr` implies that). Every step is by descriptor and follows no link, so a program
//! that changes the tree meanwhile gains nothing. Source: kernel documentation, filesystems/overlayfs.rst.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::sys;

/// What fuse-overlayfs writes before a deleted name where it may make no device node: an empty file.
const MARK: &[u8] = b".wh.";
/// What is left of its mark for a directory that hides those below, when [`MARK`] is taken off.
const OPAQUE: &[u8] = b".wh..opq";

/// One directory: its parts in the layers, the topmost first.
#[derive(Debug)]
pub struct Dir {
    parts: Vec<OwnedFd>,
}

/// What a name stands for in one layer.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Nothing, and nothing below counts.
    Whiteout,
    /// This, as an `O_PATH` descriptor.
    File(OwnedFd, Stat),
}

impl Dir {
    /// The root of these trees, the topmost first.
    ///
    /// # Errors
    /// open(2).
    pub fn open(trees: &[PathBuf]) -> sys::Result<Self> {
        let open = |path: &PathBuf| sys::fs::open_trusted(path, OFlags::RDONLY | OFlags::DIRECTORY);
        Ok(Self {
            parts: trees.iter().map(open).collect::<sys::Result<_>>()?,
        })
    }

    /// The directory of one tree.
    #[must_use]
    pub fn of(fd: OwnedFd) -> Self {
        Self { parts: vec![fd] }
    }

    /// The directory in the topmost layer that has it, whose owner and mode count.
    #[must_use]
    pub fn top(&self) -> Option<BorrowedFd<'_>> {
        self.parts.first().map(AsFd::as_fd)
    }

    /// All names, sorted, whiteouts included.
    ///
    /// # Errors
    /// getdents64(2).
    pub fn names(&self) -> sys::Result<Vec<Vec<u8>>> {
        let mut names = BTreeMap::new();
        for part in &self.parts {
            let failed = |errno| sys::Error::new("getdents64()", errno);
            for entry in rustix::fs::Dir::read_from(part).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name().to_bytes();
                // fuse-overlayfs' marks stand beside what they hide.
                let name = match name.strip_prefix(MARK) {
                    Some(hidden) if is_mark(part, name) => hidden,
                    _ => name,
                };
                if !matches!(name, b"." | b".." | b"" | OPAQUE) {
                    names.insert(name.to_vec(), ());
                }
            }
        }
        Ok(names.into_keys().collect())
    }

    /// The names as they stand in a directory that is no layer's.
    ///
    /// # Errors
    /// getdents64(2).
    pub fn plain_names(dir: BorrowedFd<'_>) -> sys::Result<Vec<Vec<u8>>> {
        let failed = |errno| sys::Error::new("getdents64()", errno);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort();
        Ok(names)
    }

    /// What `name` is in the merged tree, and its directory where it is one.
    ///
    /// # Errors
    /// The system's.
    pub fn find(&self, name: &[u8]) -> sys::Result<Option<(OwnedFd, Stat, Option<Dir>)>> {
        let mut top = None;
        let mut parts = Vec::new();
        for part in &self.parts {
            match look(part.as_fd(), name)? {
                Found::Nothing => continue,
                Found::Whiteout => break,
                Found::File(fd, stat) => {
                    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                    if top.is_some() && !is_dir {
                        break;
                    }
                    if is_dir {
                        parts.push(listed(fd.as_fd(), name)?);
                    }
                    let ends = !is_dir || is_opaque(parts.last());
                    if top.is_none() {
                        top = Some((fd, stat));
                    }
                    if ends {
                        break;
                    }
                }
            }
        }
        Ok(top.map(|(fd, stat)| (fd, stat, (!parts.is_empty()).then_some(Dir { parts }))))
    }
}

/// What `name` is in this directory of a layer.
///
/// # Errors
/// The system's.
pub fn look(dir: BorrowedFd<'_>, name: &[u8]) -> sys::Result<Found> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |call: &str, errno| {
        sys::Error::new(
            format!("{call}({:?})", String::from_utf8_lossy(name)),
            errno,
        )
    };
    let fd = match rustix::fs::openat(dir, OsStr::from_bytes(name), flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) if is_mark(dir, &[MARK, name].concat()) => return Ok(Found::Whiteout),
        Err(Errno::NOENT) => return Ok(Found::Nothing),
        Err(errno) => return Err(failed("openat", errno)),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|errno| failed("fstat", errno))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let whiteout = (kind == FileType::CharacterDevice && stat.st_rdev == 0)
        || (kind == FileType::RegularFile
            && stat.st_size == 0
            && has(fd.as_fd(), "user.overlay.whiteout"));
    Ok(if whiteout {
        Found::Whiteout
    } else {
        Found::File(fd, stat)
    })
}

/// A directory that can be read, from an `O_PATH` descriptor.
///
/// # Errors
/// openat(2).
pub fn listed(fd: BorrowedFd<'_>, name: &[u8]) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(fd, ".", flags, Mode::empty()).map_err(|errno| {
        sys::Error::new(
            format!("openat({:?})", String::from_utf8_lossy(name)),
            errno,
        )
    })
}

fn is_opaque(dir: Option<&OwnedFd>) -> bool {
    let mut value = [0_u8; 8];
    dir.is_some_and(|dir| {
        ["user.overlay.opaque", "user.fuseoverlayfs.opaque"]
            .iter()
            .any(|name| {
                rustix::fs::fgetxattr(dir, *name, &mut value[..])
                    .is_ok_and(|length| &value[..length] == b"y")
            })
            || is_mark(dir, &[MARK, OPAQUE].concat())
    })
}

/// Whether `name` is an empty file: a mark of fuse-overlayfs, when the name is that of one. Source: its `main.c`,
/// `create_whiteout` and `set_fd_opaque`.
fn is_mark(dir: impl AsFd, name: &[u8]) -> bool {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statat(dir, OsStr::from_bytes(name), flags).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size == 0
    })
}

/// Whether this directory of a layer hides those below it.
#[must_use]
pub fn hides(dir: &OwnedFd) -> bool {
    is_opaque(Some(dir))
}

fn has(fd: BorrowedFd<'_>, name: &str) -> bool {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::getxattr(&*path, name, &mut [0_u8; 8][..]).is_ok()
}
