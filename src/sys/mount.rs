//! The mount API that works on descriptors: a mount is made detached, its attributes are set, and only
//! then is it put in its place, which is a descriptor too. No path is resolved twice.
//!
//! Where a kernel or an outer filter lacks a part of it, [`super::classic`] does the same by mount(2).
//!
//! Source: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), mount_setattr(2), move_mount(2).

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, FileType, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use super::classic::{self, Planned};
use super::{Error, Result};

/// A detached mount; it is gone when this is dropped before [`Detached::attach`].
#[derive(Debug)]
pub struct Detached {
    state: State,
    what: String,
}

#[derive(Debug)]
enum State {
    Made(OwnedFd),
    Planned(Planned),
}

/// Whether all of the API is there. Parts of it do not mix with mount(2): that does not reach what is detached.
fn is_modern() -> bool {
    static MODERN: OnceLock<bool> = OnceLock::new();
    *MODERN.get_or_init(|| {
        let nothing = libc::mount_attr {
            attr_set: 0,
            attr_clr: 0,
            propagation: 0,
            userns_fd: 0,
        };
        let answer = |done: i64| match done {
            -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
            _ => 0,
        };
        // SAFETY: no descriptor has the number -1: the call reads its arguments and changes nothing.
        let attributes = answer(unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                -1,
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                ptr::from_ref(&nothing),
                size_of::<libc::mount_attr>(),
            )
        });
        // SAFETY: as above.
        let tree = answer(unsafe { libc::syscall(libc::SYS_open_tree, -1, c"x".as_ptr(), 0) });
        // SAFETY: as above.
        let moved = answer(unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                -1,
                c"x".as_ptr(),
                -1,
                c"x".as_ptr(),
                0,
            )
        });
        // SAFETY: the empty name is of no file system.
        let opened = answer(unsafe { libc::syscall(libc::SYS_fsopen, c"".as_ptr(), 0) });
        // These two answer EPERM by themselves to who may not mount.
        ![attributes, tree].contains(&libc::EPERM)
            && ![attributes, tree, moved, opened].contains(&libc::ENOSYS)
    })
}

/// One parameter of a file system.
#[derive(Debug, Clone, Copy)]
pub enum Parameter<'a> {
    /// `key`
    Flag(&'a str),
    /// `key=value`; the kernel takes at most 255 bytes of value.
    Text(&'a str, &'a str),
}

/// A new file system of the type `kind`.
///
/// # Errors
/// The kernel's, with what it wrote into the context's log.
pub fn new(
    kind: &str,
    parameters: &[Parameter<'_>],
    attributes: MountAttrFlags,
) -> Result<Detached> {
    new_from(kind, kind, parameters, attributes)
}

/// As [`new`]; `source` is a device, or what mount(8) and df(1) show in the first column.
///
/// # Errors
/// As [`new`].
pub fn new_from(
    kind: &str,
    source: &str,
    parameters: &[Parameter<'_>],
    attributes: MountAttrFlags,
) -> Result<Detached> {
    if !is_modern() {
        let words = parameters.iter().map(|parameter| match *parameter {
            Parameter::Flag(key) => key.to_owned(),
            Parameter::Text(key, value) => format!("{key}={value}"),
        });
        return Ok(Detached {
            state: State::Planned(Planned::New {
                kind: kind.to_owned(),
                source: source.to_owned(),
                data: words.collect::<Vec<_>>().join(","),
                attributes,
            }),
            what: kind.to_owned(),
        });
    }
    let failed = |call: &str, errno| Error::new(format!("{call}({kind:?})"), errno);
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| failed("fsopen", errno))?;
    for parameter in [Parameter::Text("source", source)].iter().chain(parameters) {
        let done = match *parameter {
            Parameter::Flag(key) => rustix::mount::fsconfig_set_flag(context.as_fd(), key),
            Parameter::Text(key, value) => {
                rustix::mount::fsconfig_set_string(context.as_fd(), key, value)
            }
        };
        done.map_err(|errno| {
            let shown = match *parameter {
                Parameter::Flag(key) => key.to_owned(),
                Parameter::Text(key, value) => format!("{key}={value}"),
            };
            Error::new(
                format!("fsconfig({kind:?}, {shown:?}){}", log_of(&context)),
                errno,
            )
        })?;
    }
    rustix::mount::fsconfig_create(context.as_fd()).map_err(|errno| {
        Error::new(
            format!("fsconfig({kind:?}, CREATE){}", log_of(&context)),
            errno,
        )
    })?;
    let fd = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|errno| failed("fsmount", errno))?;
    Ok(Detached {
        state: State::Made(fd),
        what: kind.to_owned(),
    })
}

/// What the kernel said about a failed configuration, as ` [text]`. Source: fsopen(2), "read".
fn log_of(context: &OwnedFd) -> String {
    let mut line = [0_u8; 512];
    match rustix::io::read(context, &mut line) {
        Ok(length) if length > 2 => {
            let text = String::from_utf8_lossy(&line[2..length]);
            format!(" [{}]", text.trim())
        }
        Ok(_) | Err(_) => String::new(),
    }
}

/// A copy of the mount tree at `path`, which is trusted, detached. `recursive` brings the mounts below along.
///
/// # Errors
/// `EINVAL` without `recursive` where mounts of another user namespace hide below; the kernel's.
pub fn clone_trusted(path: &Path, recursive: Recursive) -> Result<Detached> {
    let what = path.display().to_string();
    if !is_modern() {
        let state = State::Planned(Planned::bind(CWD, path, recursive)?);
        return Ok(Detached { state, what });
    }
    let fd = rustix::mount::open_tree(CWD, path, clone_flags(recursive))
        .map_err(|errno| Error::new(format!("open_tree({path:?})"), errno))?;
    Ok(Detached {
        state: State::Made(fd),
        what,
    })
}

/// As [`clone_trusted`], of what a descriptor stands for.
///
/// # Errors
/// As [`clone_trusted`].
pub fn clone_fd(fd: BorrowedFd<'_>, recursive: Recursive) -> Result<Detached> {
    let what = format!("[{}]", fd.as_raw_fd());
    if !is_modern() {
        let state = State::Planned(Planned::bind(fd, Path::new(""), recursive)?);
        return Ok(Detached { state, what });
    }
    let copy = rustix::mount::open_tree(
        fd,
        "",
        clone_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH,
    )
    .map_err(|errno| Error::new(format!("open_tree([{}])", fd.as_raw_fd()), errno))?;
    Ok(Detached {
        state: State::Made(copy),
        what,
    })
}

fn clone_flags(recursive: Recursive) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    match recursive {
        Recursive::Yes => flags | OpenTreeFlags::AT_RECURSIVE,
        Recursive::No => flags,
    }
}

/// Whether the mounts below are meant too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recursive {
    /// They are.
    Yes,
    /// Only the one.
    No,
}

impl Detached {
    /// Sets attributes before anyone can see the mount.
    ///
    /// # Errors
    /// mount_setattr(2).
    pub fn set(&mut self, set: MountAttrFlags, recursive: Recursive) -> Result<()> {
        match &mut self.state {
            State::Made(fd) => set_attributes(fd.as_fd(), set, recursive),
            State::Planned(Planned::New { attributes, .. }) => {
                *attributes |= set;
                Ok(())
            }
            State::Planned(Planned::Bind { attributes, .. }) => {
                let (had, had_below) = attributes.unwrap_or((MountAttrFlags::empty(), recursive));
                let below = match (had_below, recursive) {
                    (Recursive::No, Recursive::No) => Recursive::No,
                    (Recursive::Yes, _) | (_, Recursive::Yes) => Recursive::Yes,
                };
                *attributes = Some((had | set, below));
                Ok(())
            }
        }
    }

    /// Sets how mounts propagate: `MountPropagationFlags::PRIVATE` and its kin.
    ///
    /// # Errors
    /// mount_setattr(2).
    pub fn set_propagation(&mut self, set: MountPropagationFlags) -> Result<()> {
        match &mut self.state {
            State::Made(fd) => setattr(fd.as_fd(), 0, u64::from(set.bits()), Recursive::Yes),
            State::Planned(Planned::Bind { propagation, .. }) => {
                *propagation = Some(set);
                Ok(())
            }
            // A new file system is private.
            State::Planned(Planned::New { .. }) => Ok(()),
        }
    }

    /// The mount itself, for what only a descriptor of it can do.
    ///
    /// # Errors
    /// `ENOSYS` where a part of the mount API is missing.
    pub fn made(&self) -> Result<BorrowedFd<'_>> {
        match &self.state {
            State::Made(fd) => Ok(fd.as_fd()),
            State::Planned(_) => Err(Error::new(
                format!("mount_setattr({:?})", self.what),
                Errno::NOSYS,
            )),
        }
    }

    /// What kind of file the mount's root is.
    ///
    /// # Errors
    /// fstat(2).
    pub fn file_type(&self) -> Result<FileType> {
        let fd = match &self.state {
            State::Made(fd) | State::Planned(Planned::Bind { source: fd, .. }) => fd,
            State::Planned(Planned::New { .. }) => return Ok(FileType::Directory),
        };
        let stat = rustix::fs::fstat(fd)
            .map_err(|errno| Error::new(format!("fstat({:?})", self.what), errno))?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    }

    /// Puts the mount over what `target` stands for.
    ///
    /// # Errors
    /// move_mount(2).
    pub fn attach(self, target: BorrowedFd<'_>) -> Result<OwnedFd> {
        let fd = match self.state {
            State::Made(fd) => fd,
            State::Planned(planned) => return planned.attach(target),
        };
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(fd.as_fd(), "", target, "", flags)
            .map_err(|errno| Error::new(format!("move_mount({:?})", self.what), errno))?;
        Ok(fd)
    }

    /// Puts the mount over the directory at `path`, which is trusted.
    ///
    /// # Errors
    /// move_mount(2).
    pub fn attach_trusted(self, path: &Path) -> Result<OwnedFd> {
        let fd = match self.state {
            State::Made(fd) => fd,
            State::Planned(planned) => {
                let target = super::fs::open_trusted(path, OFlags::PATH)?;
                return planned.attach(target.as_fd());
            }
        };
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(fd.as_fd(), "", CWD, path, flags)
            .map_err(|errno| Error::new(format!("move_mount({:?}, {path:?})", self.what), errno))?;
        Ok(fd)
    }
}

/// mount_setattr(2) on what a descriptor stands for: adds `attributes`.
///
/// # Errors
/// The kernel's.
pub fn set_attributes(
    fd: BorrowedFd<'_>,
    attributes: MountAttrFlags,
    recursive: Recursive,
) -> Result<()> {
    if !is_modern() {
        return classic::restrict(fd, attributes, recursive);
    }
    setattr(fd, u64::from(attributes.bits()), 0, recursive)
}

fn setattr(fd: BorrowedFd<'_>, set: u64, propagation: u64, recursive: Recursive) -> Result<()> {
    // An access-time mode is a field, not a bit: it has to be cleared to be set (mount_setattr(2)).
    let atime = u64::from(MountAttrFlags::MOUNT_ATTR__ATIME.bits());
    let clear = if set & atime == 0 { 0 } else { atime };
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation,
        userns_fd: 0,
    };
    setattr_whole(fd, &attributes, recursive)
}

/// mount_setattr(2) with bits that are set and bits that are taken away. An access-time mode is cleared as a whole.
///
/// # Errors
/// `EPERM` for what a user namespace above has locked; the kernel's.
pub fn change_attributes(
    fd: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    recursive: Recursive,
) -> Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation: 0,
        userns_fd: 0,
    };
    setattr_whole(fd, &attributes, recursive)
}

/// mount_setattr(2) with a propagation: one of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`.
///
/// # Errors
/// The kernel's.
pub fn propagate(fd: BorrowedFd<'_>, propagation: u64, recursive: Recursive) -> Result<()> {
    setattr(fd, 0, propagation, recursive)
}

/// mount_setattr(2) `MOUNT_ATTR_IDMAP`: ids on this detached mount are as the user namespace maps them.
///
/// # Errors
/// `EPERM` without rights over the file system, `EINVAL` where it cannot do that.
pub fn map_ids(mount: BorrowedFd<'_>, user: BorrowedFd<'_>, recursive: Recursive) -> Result<()> {
    #[allow(clippy::cast_sign_loss, reason = "an open descriptor is not negative")]
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user.as_raw_fd() as u64,
    };
    setattr_whole(mount, &attributes, recursive)
}

fn setattr_whole(
    fd: BorrowedFd<'_>,
    attributes: &libc::mount_attr,
    recursive: Recursive,
) -> Result<()> {
    let set = attributes.attr_set;
    let recursive = if recursive == Recursive::Yes {
        AtFlags::from_bits_retain(libc::AT_RECURSIVE.cast_unsigned())
    } else {
        AtFlags::empty()
    };
    let flags = AtFlags::EMPTY_PATH | recursive;
    // SAFETY: the empty path is a C string, the structure lives and its size is told.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags.bits(),
            ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        return Ok(());
    }
    let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
    Err(Error::new(format!("mount_setattr({set:#x})"), errno))
}

/// Nothing mounted here shows on the host; what the host mounts later still comes in.
///
/// # Errors
/// mount(2).
pub fn make_all_slave() -> Result<()> {
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .map_err(|errno| Error::new("mount(\"/\", MS_SLAVE|MS_REC)", errno))
}

/// What is mounted on this mount and on those below shows nowhere else, and the other way round.
///
/// # Errors
/// mount_setattr(2).
pub fn make_private(mount: BorrowedFd<'_>) -> Result<()> {
    if !is_modern() {
        return classic::propagate(mount, MountPropagationFlags::PRIVATE);
    }
    setattr(
        mount,
        0,
        u64::from(MountPropagationFlags::PRIVATE.bits()),
        Recursive::Yes,
    )
}

/// Makes what `root` stands for the root directory, and lets go of the old one.
///
/// # Errors
/// pivot_root(2), umount2(2).
pub fn pivot(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root).map_err(|errno| Error::new("fchdir(root)", errno))?;
    // The old root lands on top of the new one at the same place, and is taken off from there (pivot_root(2)).
    rustix::process::pivot_root(".", ".")
        .map_err(|errno| Error::new("pivot_root(\".\", \".\")", errno))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .map_err(|errno| Error::new("umount2(\".\", MNT_DETACH)", errno))?;
    rustix::process::chdir("/").map_err(|errno| Error::new("chdir(\"/\")", errno))
}

/// A detached mount that came from another process.
#[must_use]
pub fn received(fd: OwnedFd) -> Detached {
    let what = format!("[{}]", fd.as_raw_fd());
    Detached {
        state: State::Made(fd),
        what,
    }
}

/// How everything below `/` propagates: mount(2) with `flag` and, when it says so, `MS_REC`.
///
/// # Errors
/// mount(2).
pub fn propagate_root(flag: u64, recursive: Recursive) -> Result<()> {
    let mut flags = MountPropagationFlags::from_bits_retain(u32::try_from(flag).unwrap_or(0));
    if recursive == Recursive::Yes {
        flags |= MountPropagationFlags::REC;
    }
    rustix::mount::mount_change("/", flags)
        .map_err(|errno| Error::new(format!("mount(\"/\", {flag:#x})"), errno))
}

/// As [`pivot`], from a tree that is shared with the host: what is unmounted here stays there.
///
/// # Errors
/// As [`pivot`].
pub fn pivot_from_shared(root: BorrowedFd<'_>) -> Result<()> {
    let old = super::fs::open_trusted(
        Path::new("/"),
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY,
    )?;
    rustix::process::fchdir(root).map_err(|errno| Error::new("fchdir(root)", errno))?;
    rustix::process::pivot_root(".", ".")
        .map_err(|errno| Error::new("pivot_root(\".\", \".\")", errno))?;
    rustix::process::fchdir(&old).map_err(|errno| Error::new("fchdir(old root)", errno))?;
    rustix::mount::mount_change(
        ".",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .map_err(|errno| Error::new("mount(\".\", MS_SLAVE|MS_REC)", errno))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .map_err(|errno| Error::new("umount2(\".\", MNT_DETACH)", errno))?;
    rustix::process::chdir("/").map_err(|errno| Error::new("chdir(\"/\")", errno))
}

/// What [`pivot`] does where the root file system of the machine is one that cannot be left: moves the mount to `/` and
/// enters it by chroot(2).
///
/// # Errors
/// mount(2), chroot(2).
pub fn move_to_root(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root).map_err(|errno| Error::new("fchdir(root)", errno))?;
    rustix::mount::mount_move(".", "/")
        .map_err(|errno| Error::new("mount(\".\", \"/\", MS_MOVE)", errno))?;
    enter(root)
}

/// chroot(2) into what `root` stands for.
///
/// # Errors
/// fchdir(2), chroot(2).
pub fn enter(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root).map_err(|errno| Error::new("fchdir(root)", errno))?;
    rustix::process::chroot(".").map_err(|errno| Error::new("chroot(\".\")", errno))?;
    rustix::process::chdir("/").map_err(|errno| Error::new("chdir(\"/\")", errno))
}

/// mount(2) of a file system whose options are too long for fsconfig(2), over what `target` stands for.
///
/// # Errors
/// The kernel's.
pub fn mount_by_string(
    kind: &str,
    source: &str,
    target: BorrowedFd<'_>,
    options: &str,
) -> Result<()> {
    use nix::mount::MsFlags;
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    nix::mount::mount(
        Some(source),
        path.as_str(),
        Some(kind),
        MsFlags::empty(),
        Some(options),
    )
    .map_err(|errno| {
        Error::new(
            format!("mount({kind:?}, {options:?})"),
            Errno::from_raw_os_error(errno as i32),
        )
    })
}

/// mount(2) of an overlay by one string of options: for kernels whose fsconfig cannot take them.
///
/// # Errors
/// The kernel's.
pub fn overlay_by_string(target: &Path, options: &str) -> Result<()> {
    use nix::mount::MsFlags;
    nix::mount::mount(
        Some("overlay"),
        target,
        Some("overlay"),
        MsFlags::empty(),
        Some(options),
    )
    .map_err(|errno| {
        Error::new(
            format!("mount(\"overlay\", {target:?}, {options:?})"),
            Errno::from_raw_os_error(errno as i32),
        )
    })
}
