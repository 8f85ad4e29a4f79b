//! The mounts of a `config.json`, in its order, each target resolved inside the new root by descriptors.
//!
//! Source: OCI runtime specification, config.md, "Mounts".

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::cgroup;
use crate::error::Fail;
use crate::spec::oci::{Kind, Mount, Oci, Options};
use crate::sys;
use crate::sys::fs::Root;
use crate::sys::mount::{Detached, Parameter, Recursive};

/// The longest value that fsconfig(2) takes, in bytes, with the NUL byte behind it.
const LONGEST: usize = 256;

/// Mounts all of them. `trees` are the id-mapped ones, which the host's side has made, by their positions.
///
/// # Errors
/// The first that fails, with its position.
pub fn all(oci: &Oci, root: &Root, mut trees: Vec<(usize, OwnedFd)>) -> Result<()> {
    for (at, mount) in oci.mounts.iter().enumerate() {
        let tree = trees
            .iter()
            .position(|(of, _)| *of == at)
            .map(|found| trees.swap_remove(found).1);
        one(oci, mount, root, tree).with_context(|| {
            format!(
                "mounts[{at}]: mounting {} on `{}`",
                mount.kind, mount.target
            )
        })?;
    }
    Ok(())
}

fn one(oci: &Oci, mount: &Mount, root: &Root, tree: Option<OwnedFd>) -> Result<()> {
    let options = &mount.options;
    if options.remount {
        let at = root.open(Path::new(&mount.target), OFlags::PATH)?;
        return attributes(at.as_fd(), options);
    }
    let placed = if let Some(tree) = tree {
        place(sys::mount::received(tree), options, mount, root)?
    } else if let Some(recursive) = options.bind {
        bound(&mount.source, recursive, mount, root)?
    } else {
        match mount.kind.as_str() {
            "cgroup" | "cgroup2" => control_groups(oci, mount, root)?,
            _ => fresh(mount, root)?,
        }
    };
    for propagation in &options.propagation {
        sys::mount::propagate(
            placed.as_fd(),
            propagation.flag,
            depth(propagation.recursive),
        )?;
    }
    Ok(())
}

fn depth(recursive: bool) -> Recursive {
    if recursive {
        Recursive::Yes
    } else {
        Recursive::No
    }
}

/// A copy of what the host has at `source`.
fn bound(source: &str, recursive: bool, mount: &Mount, root: &Root) -> Result<OwnedFd> {
    let tree = sys::mount::clone_trusted(Path::new(source), depth(recursive)).map_err(|error| {
        let fail = match error.errno {
            Errno::NOENT => Fail::usage(format!("`{source}`: no such file or directory")),
            Errno::ACCESS => Fail::denied(format!("`{source}`: permission denied")),
            errno => Fail::system(format!("`{source}` cannot be mounted ({errno})")),
        };
        anyhow::Error::from(error).context(fail)
    })?;
    place(tree, &mount.options, mount, root)
}

/// Sets what the options say of a detached mount, and puts it on its target.
fn place(tree: Detached, options: &Options, mount: &Mount, root: &Root) -> Result<OwnedFd> {
    attributes(tree.made()?, options)?;
    let directory = tree.file_type()? == FileType::Directory;
    let target = Path::new(&mount.target);
    if target == Path::new("/") {
        return Err(Fail::unsupported("nothing can be mounted over the root itself").into());
    }
    let at = if directory {
        root.make_dir_all(target, Mode::from_raw_mode(0o755))?
    } else {
        root.make_file(target)?
    };
    Ok(tree.attach(at.as_fd())?)
}

/// What the options change of a mount that is there.
fn attributes(mount: std::os::fd::BorrowedFd<'_>, options: &Options) -> Result<()> {
    if options.set | options.clear != 0 {
        let change =
            |clear| sys::mount::change_attributes(mount, options.set, clear, Recursive::No);
        match change(options.clear) {
            // Everybody writes `rw`; a source that the host has locked as read-only stays so, as with mount(8).
            Err(error) if error.errno == Errno::PERM && options.writable => {
                change(options.clear & !u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()))?;
            }
            done => done?,
        }
    }
    if options.set_all | options.clear_all != 0 {
        sys::mount::change_attributes(mount, options.set_all, options.clear_all, Recursive::Yes)?;
    }
    Ok(())
}

/// A new file system.
fn fresh(mount: &Mount, root: &Root) -> Result<OwnedFd> {
    let options = &mount.options;
    let target = Path::new(&mount.target);
    if options.data.iter().any(|word| word.len() >= LONGEST) {
        return by_string(mount, root);
    }
    let parameters: Vec<Parameter<'_>> = options
        .flags
        .iter()
        .chain(&options.data)
        .map(|word| match word.split_once('=') {
            Some((key, value)) => Parameter::Text(key, value),
            None => Parameter::Flag(word),
        })
        .collect();
    let source = if mount.source.is_empty() {
        &mount.kind
    } else {
        &mount.source
    };
    let set = MountAttrFlags::from_bits_retain(
        u32::try_from(options.set).unwrap_or(0), // its bits are below 2^32 (linux/mount.h)
    );
    let made = match sys::mount::new_from(&mount.kind, source, &parameters, set) {
        // These belong to namespaces that the container shares with somebody else: it sees what they see.
        Err(error)
            if error.errno == Errno::PERM
                && ["sysfs", "mqueue", "proc"].contains(&mount.kind.as_str()) =>
        {
            return instead(mount, root)
                .map_err(|_| anyhow::Error::from(error))
                .context("the kernel refuses a new one, and the host's cannot be shown");
        }
        done => done?,
    };
    if options.set_all | options.clear_all != 0 {
        sys::mount::change_attributes(
            made.made()?,
            options.set_all,
            options.clear_all,
            Recursive::Yes,
        )?;
    }
    let at = root.make_dir_all(target, Mode::from_raw_mode(0o755))?;
    if options.copy_up {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let from = root.open(target, flags)?;
        // Through a mount that may be written to, whatever the options say.
        let into = rustix::fs::openat(made.made()?, ".", flags, Mode::empty())
            .context("opening the new file system")?;
        let read_only = options.set & u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
        if read_only != 0 {
            sys::mount::change_attributes(made.made()?, 0, read_only, Recursive::No)?;
        }
        let before = rustix::fs::fstat(&into).context("looking at the new file system")?;
        sys::fs::copy_tree(from.as_fd(), into.as_fd())?;
        if options.data.iter().any(|word| word.starts_with("mode=")) {
            // The copy has the old directory's permissions; these were asked for.
            rustix::fs::fchmod(&into, Mode::from_raw_mode(before.st_mode & 0o7777))
                .context("setting the new file system's mode")?;
        }
        if read_only != 0 {
            sys::mount::change_attributes(made.made()?, read_only, 0, Recursive::No)?;
        }
    }
    Ok(made.attach(at.as_fd())?)
}

/// The host's own in place of a new one that the kernel refuses.
fn instead(mount: &Mount, root: &Root) -> Result<OwnedFd> {
    let source = match mount.kind.as_str() {
        "sysfs" => "/sys",
        "mqueue" => "/dev/mqueue",
        // A new /proc is refused where parts of the old one are covered: showing it whole would uncover nothing.
        _ => "/proc",
    };
    if source == "/proc" {
        return Err(Fail::unsupported("parts of /proc are hidden here").into());
    }
    bound(source, true, mount, root)
}

/// mount(2): for options that are too long otherwise.
fn by_string(mount: &Mount, root: &Root) -> Result<OwnedFd> {
    let options = &mount.options;
    let target = Path::new(&mount.target);
    let at = root.make_dir_all(target, Mode::from_raw_mode(0o755))?;
    sys::mount::mount_by_string(
        &mount.kind,
        &mount.source,
        at.as_fd(),
        &options.data.join(","),
    )?;
    let placed = root.open(target, OFlags::PATH | OFlags::DIRECTORY)?;
    attributes(placed.as_fd(), options)?;
    Ok(placed)
}

/// The tree of control groups: the container's own part of it, with a cgroup namespace.
fn control_groups(oci: &Oci, mount: &Mount, root: &Root) -> Result<OwnedFd> {
    if !cgroup::is_v2() {
        return bound(cgroup::MOUNT, true, mount, root);
    }
    let mut new = mount.clone();
    "cgroup2".clone_into(&mut new.kind);
    "cgroup".clone_into(&mut new.source);
    match fresh(&new, root) {
        Err(error) if matches!(sys::errno_of(&error), Some(Errno::PERM | Errno::BUSY)) => {
            let own = cgroup::of_process("self").filter(|_| oci.namespace(Kind::Cgroup).is_some());
            let source = own.unwrap_or_else(|| cgroup::MOUNT.into());
            bound(&source.to_string_lossy(), true, mount, root)
        }
        done => done,
    }
}
