//! mount(2) in the place of the descriptor mount API, where a kernel or an outer filter lacks any part of that.
//!
//! Nothing can be prepared out of sight here: a mount is planned, and made where it belongs when it is attached. A target is
//! still a descriptor, named by its link in `/proc/self/fd`, so that no path from outside is resolved twice.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags};

use super::mount::Recursive;
use super::{Error, Result};

/// A mount that is not made yet.
#[derive(Debug)]
pub enum Planned {
    /// A new file system.
    New {
        /// Its type.
        kind: String,
        /// What mount(8) and df(1) show in the first column.
        source: String,
        /// Its parameters, as mount(2) takes them.
        data: String,
        /// Restrictions.
        attributes: MountAttrFlags,
    },
    /// What is there already, once more.
    Bind {
        /// What.
        source: OwnedFd,
        /// The mounts below come along.
        recursive: Recursive,
        /// Restrictions, and whether they are for the mounts below too.
        attributes: Option<(MountAttrFlags, Recursive)>,
        /// How it propagates.
        propagation: Option<MountPropagationFlags>,
    },
}

impl Planned {
    /// A bind of the file at `path` below `at`.
    ///
    /// # Errors
    /// open(2).
    pub fn bind(at: BorrowedFd<'_>, path: &Path, recursive: Recursive) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let source = match path.as_os_str().is_empty() {
            true => at
                .try_clone_to_owned()
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE)),
            false => rustix::fs::openat(at, path, flags, Mode::empty()),
        };
        Ok(Self::Bind {
            source: source.map_err(|errno| Error::new(format!("open({path:?})"), errno))?,
            recursive,
            attributes: None,
            propagation: None,
        })
    }

    /// Makes the mount over what `target` stands for, and opens it.
    ///
    /// # Errors
    /// mount(2).
    pub fn attach(self, target: BorrowedFd<'_>) -> Result<OwnedFd> {
        let over = by_number(target);
        match self {
            Self::New {
                kind,
                source,
                data,
                attributes,
            } => {
                let done = nix::mount::mount(
                    Some(source.as_str()),
                    &over,
                    Some(kind.as_str()),
                    classic(attributes),
                    Some(data.as_str()),
                );
                done.map_err(|errno| failed(format!("mount({kind:?}, {data:?})"), errno))?;
                topmost(target)
            }
            Self::Bind {
                source,
                recursive,
                attributes,
                propagation,
            } => {
                let from = by_number(source.as_fd());
                change(Some(&from), &over, MsFlags::MS_BIND | also_below(recursive))?;
                let made = topmost(target)?;
                if let Some((attributes, recursive)) = attributes {
                    restrict(made.as_fd(), attributes, recursive)?;
                }
                if let Some(propagation) = propagation {
                    propagate(made.as_fd(), propagation)?;
                }
                Ok(made)
            }
        }
    }
}

/// Adds restrictions to the mount that `mount` is the root of. Those that are there stay: a user namespace may not lift them.
///
/// # Errors
/// mount(2).
pub fn restrict(
    mount: BorrowedFd<'_>,
    attributes: MountAttrFlags,
    recursive: Recursive,
) -> Result<()> {
    let remount = |path: &Path| -> Result<()> {
        let stat = rustix::fs::statvfs(path)
            .map_err(|errno| Error::new(format!("statvfs({path:?})"), errno))?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | classic(attributes);
        change(None, path, flags | kept(stat.f_flag))
    };
    remount(&by_number(mount))?;
    if recursive == Recursive::Yes {
        for below in mounts_below(&path_of(mount)?) {
            match remount(&below) {
                // Another mount hides it: nobody inside can reach it either.
                Err(error) if matches!(error.errno, Errno::INVAL | Errno::NOENT) => {}
                done => done?,
            }
        }
    }
    Ok(())
}

/// Sets how a mount and those below it propagate.
///
/// # Errors
/// mount(2).
pub fn propagate(mount: BorrowedFd<'_>, propagation: MountPropagationFlags) -> Result<()> {
    let flags = MsFlags::from_bits_truncate(propagation.bits().into());
    change(None, &by_number(mount), flags | MsFlags::MS_REC)
}

fn change(from: Option<&Path>, over: &Path, flags: MsFlags) -> Result<()> {
    nix::mount::mount(from, over, None::<&str>, flags, None::<&str>)
        .map_err(|errno| failed(format!("mount({over:?}, {flags:?})"), errno))
}

fn failed(call: String, errno: nix::errno::Errno) -> Error {
    Error::new(call, Errno::from_raw_os_error(errno as i32))
}

fn also_below(recursive: Recursive) -> MsFlags {
    match recursive {
        Recursive::Yes => MsFlags::MS_REC,
        Recursive::No => MsFlags::empty(),
    }
}

/// The flags of mount(2) for those of mount_setattr(2).
fn classic(attributes: MountAttrFlags) -> MsFlags {
    let table = [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, MsFlags::MS_RDONLY),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, MsFlags::MS_NOSUID),
        (MountAttrFlags::MOUNT_ATTR_NODEV, MsFlags::MS_NODEV),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, MsFlags::MS_NOEXEC),
        (MountAttrFlags::MOUNT_ATTR_NOATIME, MsFlags::MS_NOATIME),
        (
            MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            MsFlags::MS_STRICTATIME,
        ),
        (
            MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            MsFlags::MS_NODIRATIME,
        ),
    ];
    table
        .into_iter()
        .filter(|(new, _)| attributes.contains(*new))
        .map(|(_, old)| old)
        .collect()
}

/// What a mount has already, for a remount that must not take it away.
fn kept(flags: StatVfsMountFlags) -> MsFlags {
    let table = [
        (StatVfsMountFlags::RDONLY, MsFlags::MS_RDONLY),
        (StatVfsMountFlags::NOSUID, MsFlags::MS_NOSUID),
        (StatVfsMountFlags::NODEV, MsFlags::MS_NODEV),
        (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
        (StatVfsMountFlags::NOATIME, MsFlags::MS_NOATIME),
        (StatVfsMountFlags::NODIRATIME, MsFlags::MS_NODIRATIME),
        (StatVfsMountFlags::RELATIME, MsFlags::MS_RELATIME),
    ];
    table
        .into_iter()
        .filter(|(have, _)| flags.contains(*have))
        .map(|(_, keep)| keep)
        .collect()
}

fn by_number(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn path_of(fd: BorrowedFd<'_>) -> Result<PathBuf> {
    let link = by_number(fd);
    std::fs::read_link(&link).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        Error::new(format!("readlink({link:?})"), errno)
    })
}

/// What is mounted over what `target` stands for, which itself still means what is below.
fn topmost(target: BorrowedFd<'_>) -> Result<OwnedFd> {
    // Nobody else is in this mount namespace yet, so the name leads to where it was read.
    let path = path_of(target)?;
    super::fs::open_trusted(&path, OFlags::PATH | OFlags::NOFOLLOW)
}

/// Where something is mounted below `path`. Source: proc_pid_mountinfo(5).
fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let targets = text.lines().filter_map(|line| line.split(' ').nth(4));
    targets
        .map(unescape)
        .filter(|target| target != path && target.starts_with(path))
        .collect()
}

/// `\040` and its like are single bytes. Source: proc_pid_mountinfo(5).
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let number = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match after.get(..3).and_then(number).filter(|_| first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_one_interface_are_those_of_the_other() {
        let strict = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_RDONLY;
        assert_eq!(classic(strict), MsFlags::MS_NOSUID | MsFlags::MS_RDONLY);
        assert_eq!(classic(MountAttrFlags::empty()), MsFlags::empty());
        assert_eq!(unescape("/a\\040b\\134c\\"), Path::new("/a b\\c\\"));
    }
}
