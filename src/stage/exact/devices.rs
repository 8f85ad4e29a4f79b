//! `/dev` of a container: the default nodes and links, and those of `linux.devices`.
//!
//! A node is made where that is allowed, else the host's is bound. Source: OCI runtime specification, config-linux.md,
//! "Devices" and "Default Devices"; runtime-linux.md, "Dev symbolic links".

use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::Fail;
use crate::spec::oci::{Node, Oci};
use crate::sys;
use crate::sys::fs::Root;
use crate::sys::mount::Recursive;

/// Source: the kernel's admin-guide/devices.txt.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
];

/// Whether the host's own `/dev` is shown: nothing is made in it then.
#[must_use]
pub fn are_the_hosts(oci: &Oci) -> bool {
    oci.mounts
        .iter()
        .any(|mount| mount.options.bind.is_some() && Path::new(&mount.target) == Path::new("/dev"))
}

/// Makes nodes and links.
///
/// # Errors
/// The first that fails, with its path.
pub fn make(oci: &Oci, root: &Root) -> Result<()> {
    for (path, major, minor) in DEFAULT {
        if oci.devices.iter().any(|node| node.path == path) {
            continue;
        }
        let node = Node {
            kind: "c".to_owned(),
            path: path.to_owned(),
            major: Some(major),
            minor: Some(minor),
            file_mode: None,
            uid: None,
            gid: None,
        };
        one(&node, root).with_context(|| format!("making the device `{path}`"))?;
    }
    for (at, node) in oci.devices.iter().enumerate() {
        // It is a link of the container's own devpts.
        if node.path == "/dev/ptmx" {
            continue;
        }
        one(node, root)
            .with_context(|| format!("linux.devices[{at}]: making the device `{}`", node.path))?;
    }
    for (path, text) in LINKS {
        let there = text != "/proc/kcore" || Path::new(text).exists();
        if there {
            link(root, path, text)?;
        }
    }
    if let Some((parent, name)) = root.open_parent(Path::new("/dev/ptmx"))? {
        // An image may bring a node of that name.
        let _ = rustix::fs::unlinkat(&parent, name, AtFlags::empty()); // what cannot go is met by the link
    }
    link(root, "/dev/ptmx", "pts/ptmx")
}

fn link(root: &Root, path: &str, text: &str) -> Result<()> {
    let Some((parent, name)) = root.open_parent(Path::new(path))? else {
        return Ok(());
    };
    match rustix::fs::symlinkat(text, &parent, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(sys::Error::new(format!("symlinkat({text:?}, {path:?})"), errno).into()),
    }
}

fn one(node: &Node, root: &Root) -> Result<()> {
    let path = Path::new(&node.path);
    let directory = path.parent().unwrap_or(Path::new("/"));
    let parent = root.make_dir_all(&directory.join("."), Mode::from_raw_mode(0o755))?;
    let name = path
        .file_name()
        .ok_or_else(|| Fail::usage("the path has no name"))?;
    let kind = match node.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let number = if kind == FileType::Fifo {
        0
    } else {
        rustix::fs::makedev(node.major.unwrap_or(0), node.minor.unwrap_or(0))
    };
    let mode = Mode::from_raw_mode(node.file_mode.unwrap_or(0o666) & 0o7777);
    match rustix::fs::mknodat(&parent, name, kind, mode, number) {
        Ok(()) => {
            let owner = rustix::fs::Uid::from_raw(node.uid.unwrap_or(0));
            let group = rustix::fs::Gid::from_raw(node.gid.unwrap_or(0));
            rustix::fs::chownat(
                &parent,
                name,
                Some(owner),
                Some(group),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .with_context(|| format!("giving it to {}:{}", owner.as_raw(), group.as_raw()))?;
            // A default ACL of the directory may have taken bits away.
            rustix::fs::chmodat(&parent, name, mode, AtFlags::empty())
                .context("setting its permissions")
        }
        Err(Errno::EXIST) => same(node, kind, number, &root.open(path, OFlags::PATH)?),
        Err(Errno::PERM) if kind != FileType::Fifo => bind(node, kind, number, root),
        Err(errno) => Err(sys::Error::new(format!("mknodat({path:?})"), errno).into()),
    }
}

/// In a user namespace no node can be made (mknod(2)): the host's is shown.
fn bind(node: &Node, kind: FileType, number: u64, root: &Root) -> Result<()> {
    let path = Path::new(&node.path);
    let host = sys::mount::clone_trusted(path, Recursive::No).with_context(
        || "no node can be made in a user namespace, and the host has none here to be shown",
    )?;
    same(node, kind, number, &host.made()?)?;
    let at = root.make_file(path)?;
    host.attach(at.as_fd())?;
    Ok(())
}

/// Whether `found` is the device that was asked for.
fn same(node: &Node, kind: FileType, number: u64, found: &impl std::os::fd::AsFd) -> Result<()> {
    let stat = rustix::fs::fstat(found).context("looking at it")?;
    if FileType::from_raw_mode(stat.st_mode) == kind
        && (kind == FileType::Fifo || stat.st_rdev == number)
    {
        return Ok(());
    }
    Err(Fail::usage(format!(
        "what is there is not the device {}:{} of type `{}`",
        node.major.unwrap_or(0),
        node.minor.unwrap_or(0),
        node.kind
    ))
    .into())
}
