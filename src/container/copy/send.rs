//! A file or a tree as a tar stream, as it is found: links as links, nothing followed below the first name.
//!
//! The tree may change meanwhile: what is gone is passed over, and every step is by descriptor.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{FileType, FsWord, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::View;
use crate::container::diff::{self, Known};
use crate::container::tree::{self, Dir};
use crate::error::Fail;
use crate::image::pack::Writer;
use crate::sys;

/// How deep a tree may be; a path of Linux has at most half as many names.
const DEPTH: usize = 4096;
/// File systems of the kernel's own; what is below is no copy of anything: procfs, sysfs, cgroup, cgroup2, devpts,
/// mqueue, securityfs, debugfs, tracefs, bpf. Source: linux/magic.h.
const KERNEL: [FsWord; 10] = [
    0x9fa0,
    0x6265_6572,
    0x27_e0eb,
    0x6367_7270,
    0x1cd1,
    0x1980_0202,
    0x7363_6673,
    0x6462_6720,
    0x7472_6163,
    0xcafe_4a11,
];

/// Whether the last name may be a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastLink {
    /// It is copied as a link.
    Kept,
    /// What it leads to is copied.
    Followed,
}

/// What was sent.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Sent {
    /// Sockets, which no archive has.
    pub sockets: u64,
}

/// Writes what is at `path` as an archive whose first entry is `name`. `owners` are directories where owners of links are noted.
///
/// # Errors
/// `NotFound`, `Usage` for `file/`; the system's; the output's.
pub fn send(
    view: &View,
    path: &Path,
    links: LastLink,
    name: &[u8],
    owners: &[PathBuf],
    out: impl Write,
) -> Result<Sent> {
    let follow = match links {
        LastLink::Kept => OFlags::NOFOLLOW,
        LastLink::Followed => OFlags::empty(),
    };
    let top = view.open(path, OFlags::PATH | follow).map_err(|error| {
        let shown = view.show(path);
        let fail = match error.errno {
            Errno::NOENT => Fail::not_found(format!("there is no `{shown}`")),
            Errno::NOTDIR => Fail::usage(format!("`{shown}` is not a directory")),
            _ => Fail::system(format!("cannot open `{shown}`")),
        };
        anyhow::Error::from(error).context(fail)
    })?;
    let stat = rustix::fs::fstat(&top).context("looking at a file")?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
        let message = format!("`{}` is a socket, which cannot be copied", view.show(path));
        return Err(Fail::usage(message).into());
    }
    let mut sender = Sender {
        writer: Writer::new(std::io::BufWriter::with_capacity(128 << 10, out)),
        known: Known::of(owners)?,
        sent: Sent::default(),
    };
    sender
        .walk(top, name, &stat, 0)
        .with_context(|| format!("reading `{}`", view.show(path)))?;
    sender.writer.finish()?;
    Ok(sender.sent)
}

struct Sender<W: Write> {
    writer: Writer<W>,
    known: Known,
    sent: Sent,
}

impl<W: Write> Sender<W> {
    /// `above` is the directory's that it is in.
    fn walk(&mut self, fd: OwnedFd, path: &[u8], above: &Stat, depth: usize) -> Result<()> {
        let failed = |call: &str, errno| {
            sys::Error::new(
                format!("{call}({:?})", String::from_utf8_lossy(path)),
                errno,
            )
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| failed("fstat", errno))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Socket {
            self.sent.sockets += 1;
            return Ok(());
        }
        diff::write_file(&mut self.writer, &mut self.known, &fd, path)?;
        if kind != FileType::Directory {
            return Ok(());
        }
        if depth == DEPTH {
            return Err(failed("openat", Errno::NAMETOOLONG).into());
        }
        if (depth == 0 || stat.st_dev != above.st_dev)
            && rustix::fs::fstatfs(&fd).is_ok_and(|stat| KERNEL.contains(&stat.f_type))
        {
            return Ok(());
        }
        let dir = match tree::listed(fd.as_fd(), path) {
            Err(error) if error.errno == Errno::NOENT => return Ok(()),
            dir => dir?,
        };
        drop(fd);
        for name in Dir::plain_names(dir.as_fd())? {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child =
                match rustix::fs::openat(&dir, OsStr::from_bytes(&name), flags, Mode::empty()) {
                    Ok(child) => child,
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(failed("openat", errno).into()),
                };
            self.walk(child, &[path, b"/", &name].concat(), &stat, depth + 1)?;
        }
        Ok(())
    }
}
