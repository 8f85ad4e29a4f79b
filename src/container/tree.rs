//! A container's layers as one tree, merged here as overlayfs would: what `export` reads and `diff` compares.
//!
//! Read without a mount, so that it is the same for a running container: the kernel forbids a second overlay over
//! a writable directory that is in use. It is right because rl's overlays neither redirect directories nor
//! keep metadata apart (`userxattr` implies that). Every step is by descriptor and follows no link, so a program
//! that changes the tree meanwhile gains nothing. Source: kernel documentation, filesystems/overlayfs.rst.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::sys;

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
                if name != b"." && name != b".." {
                    names.insert(name.to_vec(), ());
                }
            }
        }
        Ok(names.into_keys().collect())
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
        rustix::fs::fgetxattr(dir, "user.overlay.opaque", &mut value[..])
            .is_ok_and(|length| &value[..length] == b"y")
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
