//! The process that serves a squash file where `squashfuse` is not installed: it mounts it, and answers the kernel until it is
//! unmounted or killed. It has been put into the namespaces of its container, where it is root.
//!
//! Source: fuse(4), `include/uapi/linux/fuse.h`. Everything is read-only and never changes, so the kernel may keep all it hears.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::read::{Body, Inode, Tree};
use super::{number, short};
use crate::sys;
use crate::sys::mount::Parameter;

/// What the kernel asks for, by its numbers in `fuse.h`.
mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const READLINK: u32 = 5;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
}

/// The protocol that is spoken; an older kernel speaks its own, with the same messages as far as they are used here.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;
/// Bytes of a request's head, and the most of a request: nothing is written.
const HEAD: usize = 40;
const REQUEST: usize = 64 << 10;
/// Seconds that an answer holds: as long as anybody looks.
const FOREVER: u64 = 1 << 30;
/// The file's number for the kernel: the root is 1, and others are references, from here on.
const ROOT: u64 = 1;
const FIRST: u64 = 2;
/// `FUSE_ASYNC_READ`, `FUSE_PARALLEL_DIROPS`, `FUSE_CACHE_SYMLINKS`.
const WISHES: u32 = 1 | 1 << 18 | 1 << 23;
/// `FOPEN_KEEP_CACHE`, `FOPEN_CACHE_DIR`.
const KEEP: u32 = 1 << 1;
const KEEP_LIST: u32 = 1 << 3;

/// The role: `FILE OFFSET TARGET`, the number of an open file, where in it the file system begins, and where it is mounted.
#[must_use]
pub fn main(words: &[String]) -> ExitCode {
    match run(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE, // there is nobody to tell; who started it sees that nothing is mounted
    }
}

fn run(words: &[String]) -> Result<()> {
    let [file, offset, target] = words else {
        anyhow::bail!("three words are wanted");
    };
    let file = File::from(sys::process::inherited(file.parse()?)?);
    let tree = Tree::open(file, offset.parse()?)?;
    let device = sys::fs::open_trusted(Path::new("/dev/fuse"), OFlags::RDWR)?;
    let descriptor = device.as_raw_fd().to_string();
    let parameters = [
        Parameter::Text("fd", &descriptor),
        Parameter::Text("rootmode", "40000"),
        Parameter::Text("user_id", "0"),
        Parameter::Text("group_id", "0"),
        Parameter::Flag("allow_other"),
        Parameter::Flag("default_permissions"),
    ];
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = sys::mount::new("fuse", &parameters, attributes)?;
    mount.attach_trusted(Path::new(target))?;
    Server { tree, device }.serve()
}

struct Server {
    tree: Tree<File>,
    device: OwnedFd,
}

/// What is said in answer: bytes, nothing at all, or an error number.
enum Answer {
    Bytes(Vec<u8>),
    Silence,
}

impl Server {
    fn serve(&mut self) -> Result<()> {
        let mut request = vec![0; REQUEST];
        loop {
            let length = match rustix::io::read(&self.device, &mut request[..]) {
                Ok(length) => length,
                // One that was taken back, and a signal.
                Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => continue,
                Err(Errno::NODEV) => return Ok(()), // unmounted
                Err(errno) => return Err(sys::Error::new("read(/dev/fuse)", errno).into()),
            };
            let request = &request[..length];
            if length < HEAD {
                anyhow::bail!("the kernel's request is too short");
            }
            let (kind, unique) = (short(request, 4), number(request, 8));
            let answer = self.answer(kind, number(request, 16), &request[HEAD..]);
            let (error, bytes) = match answer {
                Ok(Answer::Silence) => continue,
                Ok(Answer::Bytes(bytes)) => (0, bytes),
                Err(error) => (-errno(&error).raw_os_error(), Vec::new()),
            };
            let length = u32::try_from(16 + bytes.len()).context("an answer that is too long")?;
            let mut reply = Vec::with_capacity(16 + bytes.len());
            reply.extend(length.to_le_bytes());
            reply.extend(error.to_le_bytes());
            reply.extend(unique.to_le_bytes());
            reply.extend(bytes);
            match rustix::io::write(&self.device, &reply) {
                // Who asked is gone meanwhile.
                Ok(_) | Err(Errno::NOENT | Errno::INTR) => {}
                Err(errno) => return Err(sys::Error::new("write(/dev/fuse)", errno).into()),
            }
            if kind == op::DESTROY {
                return Ok(());
            }
        }
    }

    fn answer(&mut self, kind: u32, node: u64, body: &[u8]) -> io::Result<Answer> {
        let bytes = match kind {
            op::INIT => init(body)?,
            op::FORGET | op::BATCH_FORGET | op::INTERRUPT => return Ok(Answer::Silence),
            op::LOOKUP => self.lookup(node, body)?,
            op::GETATTR => {
                let inode = self.inode(node)?;
                [
                    &FOREVER.to_le_bytes()[..],
                    &[0; 8],
                    &attributes(&inode, self.block()),
                ]
                .concat()
            }
            op::READLINK => {
                let inode = self.inode(node)?;
                self.tree.link(&inode)?
            }
            op::OPEN => opened(KEEP),
            op::OPENDIR => opened(KEEP | KEEP_LIST),
            op::READ => {
                let inode = self.inode(node)?;
                let (offset, size) = asked(body)?;
                self.tree.read(&inode, offset, size)?
            }
            op::READDIR => self.list(node, body)?,
            op::GETXATTR | op::LISTXATTR => self.xattr(kind, node, body)?,
            op::STATFS => self.statfs(),
            op::RELEASE | op::RELEASEDIR | op::FLUSH | op::DESTROY => Vec::new(),
            _ => return Err(Errno::NOSYS.into()),
        };
        Ok(Answer::Bytes(bytes))
    }

    fn block(&self) -> u32 {
        128 << 10
    }

    fn inode(&mut self, node: u64) -> io::Result<Inode> {
        let reference = match node {
            ROOT => self.tree.root(),
            other => other - FIRST,
        };
        self.tree.inode(reference)
    }

    fn lookup(&mut self, node: u64, body: &[u8]) -> io::Result<Vec<u8>> {
        let name = body.split(|byte| *byte == 0).next().unwrap_or_default();
        let parent = self.inode(node)?;
        let Some(found) = self.tree.find(&parent, name)? else {
            // Number 0 is nothing, and may be kept, too.
            let nothing = [0, 0, FOREVER, 0];
            let mut bytes: Vec<u8> = nothing
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            bytes.resize(128, 0);
            return Ok(bytes);
        };
        let inode = self.tree.inode(found.reference)?;
        let head = [found.reference + FIRST, 0, FOREVER, FOREVER, 0];
        let mut bytes: Vec<u8> = head.iter().flat_map(|value| value.to_le_bytes()).collect();
        bytes.extend(attributes(&inode, self.block()));
        Ok(bytes)
    }

    /// `.` and `..` come first; [`FIRST`] is added to what the listing takes.
    fn list(&mut self, node: u64, body: &[u8]) -> io::Result<Vec<u8>> {
        let inode = self.inode(node)?;
        let (offset, size) = asked(body)?;
        let most = usize::try_from(size).unwrap_or(0);
        let mut bytes = Vec::new();
        for (index, name) in [(1, &b"."[..]), (2, b"..")] {
            let entry = dirent(inode.number, index, 4, name);
            if offset < index && bytes.len() + entry.len() <= most {
                bytes.extend(entry);
            }
        }
        let from = offset.saturating_sub(FIRST);
        self.tree.list(&inode, from, &mut |named| {
            // The types of getdents64(2), from those of the format.
            let kind = [0, 4, 8, 10, 6, 2, 1, 12]
                .get(usize::from(named.kind))
                .copied();
            let entry = dirent(
                named.number,
                named.next + FIRST,
                kind.unwrap_or(0),
                &named.name,
            );
            let fits = bytes.len() + entry.len() <= most;
            if fits {
                bytes.extend(entry);
            }
            fits
        })?;
        Ok(bytes)
    }

    fn xattr(&mut self, kind: u32, node: u64, body: &[u8]) -> io::Result<Vec<u8>> {
        let inode = self.inode(node)?;
        let all = self.tree.attributes(&inode)?;
        let size = short(body.get(..8).ok_or(Errno::INVAL)?, 0);
        let found = if kind == op::LISTXATTR {
            let with_end = |(name, _): &(Vec<u8>, Vec<u8>)| [name, &b"\0"[..]].concat();
            all.iter().flat_map(with_end).collect()
        } else {
            let name = body[8..]
                .split(|byte| *byte == 0)
                .next()
                .unwrap_or_default();
            let found = all.into_iter().find(|(known, _)| known == name);
            found.ok_or(Errno::NODATA)?.1
        };
        let length = u32::try_from(found.len()).unwrap_or(u32::MAX);
        if size == 0 {
            return Ok([length.to_le_bytes(), [0; 4]].concat());
        }
        if length > size {
            return Err(Errno::RANGE.into());
        }
        Ok(found)
    }

    fn statfs(&self) -> Vec<u8> {
        let blocks = self.tree.size().div_ceil(self.block().into());
        let head = [blocks, 0, 0, self.tree.files.into(), 0];
        let mut bytes: Vec<u8> = head.iter().flat_map(|value| value.to_le_bytes()).collect();
        for value in [self.block(), 256, self.block(), 0] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.resize(80, 0);
        bytes
    }
}

fn errno(error: &io::Error) -> Errno {
    let known = Errno::from_io_error(error);
    let kind = error.kind();
    known.unwrap_or(if kind == io::ErrorKind::NotADirectory {
        Errno::NOTDIR
    } else if kind == io::ErrorKind::InvalidInput {
        Errno::INVAL
    } else {
        Errno::IO
    })
}

fn init(body: &[u8]) -> io::Result<Vec<u8>> {
    if body.len() < 16 || short(body, 0) != MAJOR {
        return Err(Errno::PROTO.into());
    }
    let minor = short(body, 4).min(MINOR);
    let flags = short(body, 12) & WISHES;
    let mut bytes = Vec::with_capacity(64);
    for value in [MAJOR, minor, short(body, 8), flags] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]); // the kernel's own limits for the background
    bytes.extend(4096_u32.to_le_bytes()); // the most that is written at once
    bytes.extend(1_u32.to_le_bytes()); // times in nanoseconds
    bytes.resize(64, 0);
    Ok(bytes)
}

fn opened(flags: u32) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    bytes.extend(flags.to_le_bytes());
    bytes.extend([0; 4]);
    bytes
}

/// Offset and size of `fuse_read_in`.
fn asked(body: &[u8]) -> io::Result<(u64, u32)> {
    let body = body.get(..24).ok_or(Errno::INVAL)?;
    Ok((number(body, 8), short(body, 16)))
}

/// `struct fuse_attr`.
fn attributes(inode: &Inode, block: u32) -> Vec<u8> {
    let (size, device) = match inode.body {
        Body::File { size, .. } => (size, 0),
        Body::Directory { size, .. } => (size.into(), 0),
        Body::Link(size, _) => (size.into(), 0),
        Body::Device(device) => (0, device),
        Body::Other => (0, 0),
    };
    let time = u64::from(inode.mtime);
    let long = [
        u64::from(inode.number),
        size,
        size.div_ceil(512),
        time,
        time,
        time,
    ];
    let mut bytes: Vec<u8> = long.iter().flat_map(|value| value.to_le_bytes()).collect();
    let rest = [
        0,
        0,
        0,
        inode.mode,
        inode.links,
        inode.uid,
        inode.gid,
        device,
        block,
        0,
    ];
    bytes.extend(rest.iter().flat_map(|value: &u32| value.to_le_bytes()));
    bytes
}

/// `struct fuse_dirent`, with its padding.
fn dirent(inode: u32, next: u64, kind: u32, name: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24 + name.len() + 8);
    bytes.extend(u64::from(inode).to_le_bytes());
    bytes.extend(next.to_le_bytes());
    bytes.extend(u32::try_from(name.len()).unwrap_or(0).to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(name);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}
