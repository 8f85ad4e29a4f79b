//! The files of a squashfs as a tar stream, for a machine that mounts none: the layer unpacker makes them.
//!
//! Reads the file in the order of its directories; holds one name of each inode with several, and 256 names of each directory
//! on the way down.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::FileType;

use super::ReadAt;
use super::read::{Body, Inode, Named, Tree};
use crate::error::Fail;
use crate::image::entries::{Entry, Extent, Kind};
use crate::image::layer::{self, Ids, Report};
use crate::image::pack::Writer;
use crate::stage::SquashFile;
use crate::sys::fs::Root;

/// Names that are taken from a directory at once.
const NAMES: usize = 256;
/// Bytes of a file that are read at once; a multiple of the tar block.
const PIECE: u32 = 1 << 20;
/// Directories in each other, after which it must be a loop.
const DEPTH: usize = 4096;
/// A file in more pieces than these is written whole, holes and all. As [`Writer`] does.
const EXTENTS: usize = 10_000;

/// Makes the files of a squashfs in the empty directory `into`.
///
/// # Errors
/// `Corrupt` for a damaged file; those of [`layer::unpack`].
pub fn unpack(squash: &SquashFile, into: &Path, ids: Ids) -> Result<Report> {
    let shown = squash.file.display();
    let file = File::open(&squash.file).with_context(|| format!("opening `{shown}`"))?;
    let tree = Tree::open(file, squash.offset).with_context(|| format!("reading `{shown}`"))?;
    let stream = Stream::new(tree).with_context(|| format!("reading `{shown}`"))?;
    let root = Root::open_trusted(into)?;
    // Owners that take no attribute are links' and devices', and not worth a file beside the copy.
    let (report, _) = layer::unpack(BufReader::with_capacity(1 << 16, stream), &root, ids)
        .with_context(|| format!("unpacking `{shown}`"))?;
    Ok(report)
}

/// A directory on the way down: where its listing goes on, and the names that are next.
struct Level {
    inode: Inode,
    path: Vec<u8>,
    from: u64,
    names: VecDeque<Named>,
}

/// What is left of a regular file: pieces of its content, and zeros up to the next block of the tar.
struct Content {
    inode: Inode,
    extents: VecDeque<Extent>,
    padding: usize,
}

/// The tar stream.
struct Stream<F> {
    tree: Tree<F>,
    levels: Vec<Level>,
    content: Option<Content>,
    /// The first name of each inode that has several.
    linked: HashMap<u32, Vec<u8>>,
    /// So many directories were met.
    directories: u32,
    /// Bytes to hand out, and how many were.
    ready: Vec<u8>,
    done: usize,
    ended: bool,
}

impl<F: ReadAt> Stream<F> {
    fn new(mut tree: Tree<F>) -> io::Result<Self> {
        let inode = tree.inode(tree.root())?;
        let mut stream = Self {
            tree,
            levels: Vec::new(),
            content: None,
            linked: HashMap::new(),
            directories: 0,
            ready: Vec::new(),
            done: 0,
            ended: false,
        };
        stream.entry(inode, b"./".to_vec())?;
        Ok(stream)
    }

    /// Fills `ready` with what comes next.
    fn fill(&mut self) -> io::Result<()> {
        self.ready.clear();
        self.done = 0;
        if let Some(mut content) = self.content.take() {
            return self.piece(&mut content).map(|is_left| {
                self.content = is_left.then_some(content);
            });
        }
        let Some(level) = self.levels.last_mut() else {
            self.ready.resize(1024, 0); // two empty blocks are the end
            self.ended = true;
            return Ok(());
        };
        if level.names.is_empty() {
            let names = &mut level.names;
            self.tree.list(&level.inode, level.from, &mut |named| {
                names.push_back(named);
                names.len() < NAMES
            })?;
        }
        let Some(named) = level.names.pop_front() else {
            self.levels.pop();
            return Ok(());
        };
        level.from = named.next;
        let path = [&level.path[..], &named.name].concat();
        let inode = self.tree.inode(named.reference)?;
        self.entry(inode, path)
    }

    /// Puts the header of one entry into `ready`, and makes its content next.
    fn entry(&mut self, inode: Inode, path: Vec<u8>) -> io::Result<()> {
        let mut entry = Entry {
            mode: inode.mode & 0o7777,
            uid: inode.uid.into(),
            gid: inode.gid.into(),
            mtime: (inode.mtime.into(), 0),
            path,
            ..Entry::default()
        };
        if inode.links > 1 && !matches!(inode.body, Body::Directory { .. }) {
            if let Some(first) = self.linked.get(&inode.number) {
                entry.kind = Kind::HardLink;
                entry.link.clone_from(first);
                return Writer::new(&mut self.ready).header(&entry);
            }
            self.linked.insert(inode.number, entry.path.clone());
        }
        entry.xattrs = self.tree.attributes(&inode)?;
        let kind = FileType::from_raw_mode(inode.mode);
        match inode.body {
            Body::Directory { .. } => {
                entry.kind = Kind::Directory;
                if !entry.path.ends_with(b"/") {
                    entry.path.push(b'/');
                }
            }
            Body::File { size, .. } => {
                entry.kind = Kind::File;
                entry.size = size;
                entry.extents = self.extents(&inode, size)?;
            }
            Body::Link(..) => {
                entry.kind = Kind::Symlink;
                entry.link = self.tree.link(&inode)?;
            }
            Body::Device(number) => {
                entry.kind = if kind == FileType::BlockDevice {
                    Kind::BlockDevice
                } else {
                    Kind::CharDevice
                };
                // As `new_encode_dev()` of the kernel packs it.
                let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
                entry.device = (major.into(), minor.into());
            }
            Body::Other if kind == FileType::Fifo => entry.kind = Kind::Fifo,
            Body::Other => return Ok(()), // a socket, which no archive holds
        }
        Writer::new(&mut self.ready).header(&entry)?;
        match inode.body {
            Body::Directory { .. } => {
                self.directories += 1;
                if self.levels.len() >= DEPTH || self.directories > self.tree.files {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "directories lie in each other",
                    ));
                }
                self.levels.push(Level {
                    path: entry.path,
                    from: 0,
                    names: VecDeque::new(),
                    inode,
                });
            }
            Body::File { size, .. } => {
                let whole = Extent {
                    offset: 0,
                    length: size,
                };
                let extents = VecDeque::from(entry.extents.unwrap_or_else(|| vec![whole]));
                let length: u64 = extents.iter().map(|extent| extent.length).sum();
                let padding = length.next_multiple_of(512) - length;
                self.content = Some(Content {
                    inode,
                    extents,
                    padding: usize::try_from(padding).unwrap_or(0), // below 512
                });
            }
            Body::Link(..) | Body::Device(_) | Body::Other => {}
        }
        Ok(())
    }

    /// Where a file has data, if it has holes and not too many.
    fn extents(&mut self, inode: &Inode, size: u64) -> io::Result<Option<Vec<Extent>>> {
        let block = u64::from(self.tree.block());
        let mut extents: Vec<Extent> = Vec::new();
        let mut has_holes = false;
        for index in 0..size.div_ceil(block) {
            if self.tree.is_hole(inode, index)? {
                has_holes = true;
                continue;
            }
            let (offset, end) = (index * block, size.min((index + 1) * block));
            match extents.last_mut() {
                Some(last) if last.offset + last.length == offset => {
                    last.length = end - last.offset;
                }
                _ => extents.push(Extent {
                    offset,
                    length: end - offset,
                }),
            }
            if extents.len() > EXTENTS {
                return Ok(None);
            }
        }
        Ok(has_holes.then_some(extents))
    }

    /// Puts the next piece of a file into `ready`; whether more is left.
    fn piece(&mut self, content: &mut Content) -> io::Result<bool> {
        let Some(extent) = content.extents.front_mut() else {
            self.ready.resize(content.padding, 0);
            return Ok(false);
        };
        let length = u32::try_from(extent.length).unwrap_or(PIECE).min(PIECE);
        self.ready = self.tree.read(&content.inode, extent.offset, length)?;
        extent.offset += u64::from(length);
        extent.length -= u64::from(length);
        if extent.length == 0 {
            content.extents.pop_front();
        }
        Ok(true)
    }
}

impl<F: ReadAt> Read for Stream<F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.done == self.ready.len() && !self.ended {
            self.fill().map_err(|error| {
                let is_damage = matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                );
                if !is_damage {
                    return error;
                }
                let fail = Fail::corrupt(format!("the squash file is damaged: {error}"))
                    .hint("copy it anew from where it came");
                io::Error::new(io::ErrorKind::InvalidData, fail)
            })?;
        }
        let count = out.len().min(self.ready.len() - self.done);
        out[..count].copy_from_slice(&self.ready[self.done..self.done + count]);
        self.done += count;
        Ok(count)
    }
}
