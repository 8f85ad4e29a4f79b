//! Writes a squashfs: content as it comes, then the tables. Nothing is read back, and what is held in memory is a few dozen bytes
//! for each file and some blocks that are being packed.
//!
//! Source: Linux, `fs/squashfs/squashfs_fs.h`, and Documentation/filesystems/squashfs.rst. Version 4.0, little-endian.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};

use super::{SUPERBLOCK, TAIL};
use crate::error::Fail;
use crate::image::entries::{Entry, Kind};

/// Bytes of one block of content; mksquashfs' default.
const BLOCK: usize = 128 << 10;
const BLOCK_LOG: u16 = 17;
/// Bytes of one block of a table.
const METADATA: usize = 8 << 10;
/// Blocks that are packed at the same time, by as many threads as there are processors.
const BATCH: usize = 16;
/// A block of content, or of a table, that is stored as it is.
const PLAIN: u32 = 1 << 24;
const PLAIN_METADATA: u16 = 1 << 15;
/// No fragment, no attributes.
const NONE: u32 = u32::MAX;
/// No such table.
const NO_TABLE: u64 = u64::MAX;
const NO_XATTRS: u16 = 0x200;
/// Most entries below one header of a directory.
const RUN: usize = 256;
/// The file's size is a multiple of this, as mksquashfs makes it: loop devices are read by pages.
const PAGE: u64 = 4096;

/// How blocks are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Read by every reader there is.
    Gzip,
    /// Smaller and several times as quick to read; Linux 4.14, squashfuse 0.1.101.
    #[default]
    Zstd,
}

impl Compression {
    fn number(self) -> u16 {
        match self {
            Compression::Gzip => 1,
            Compression::Zstd => 6,
        }
    }

    /// The block, packed; `None` when that makes it no smaller.
    fn pack(self, block: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let packed = match self {
            Compression::Gzip => {
                let level = flate2::Compression::new(9);
                let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), level);
                packer.write_all(block)?;
                packer.finish()?
            }
            Compression::Zstd => zstd::bulk::compress(block, 12)?,
        };
        Ok((packed.len() < block.len()).then_some(packed))
    }
}

/// A file that was written, for the directories that name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Where the inode's block begins in its table, and where it begins in that.
    block: u32,
    offset: u16,
    number: u32,
    /// What the directory says it is: the kind without attributes.
    kind: u16,
}

/// A table of packed blocks of 8 KiB.
#[derive(Debug)]
struct Table {
    compression: Compression,
    packed: Vec<u8>,
    open: Vec<u8>,
}

impl Table {
    fn new(compression: Compression) -> Self {
        Self {
            compression,
            packed: Vec::new(),
            open: Vec::new(),
        }
    }

    /// Where the next byte goes: the block's beginning, and the place in it.
    fn position(&self) -> Result<(u32, u16)> {
        let too_large = || Fail::unsupported("the image has too many files for a squashfs");
        Ok((
            u32::try_from(self.packed.len()).map_err(|_| too_large())?,
            u16::try_from(self.open.len()).map_err(|_| too_large())?,
        ))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.open.extend(bytes);
        while self.open.len() >= METADATA {
            let rest = self.open.split_off(METADATA);
            self.close()?;
            self.open = rest;
        }
        Ok(())
    }

    /// Packs the block that is open; it is the last one unless it is full.
    fn close(&mut self) -> io::Result<()> {
        if self.open.is_empty() {
            return Ok(());
        }
        let block = std::mem::take(&mut self.open);
        let packed = self.compression.pack(&block)?;
        let (bytes, flag) = match &packed {
            Some(packed) => (packed, 0),
            None => (&block, PLAIN_METADATA),
        };
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX); // at most 8 KiB
        self.packed.extend((length | flag).to_le_bytes());
        self.packed.extend(bytes);
        Ok(())
    }
}

/// Writes one file system.
#[derive(Debug)]
pub struct Writer<'f> {
    out: &'f File,
    at: u64,
    compression: Compression,
    threads: usize,
    inodes: Table,
    directories: Table,
    /// Ids in the order of their first use, and their places in that.
    ids: Vec<u32>,
    places: HashMap<u32, u16>,
    /// Written ones: where, and how many bytes with [`PLAIN`].
    fragments: Vec<(u64, u32)>,
    /// Full ones, whose turn comes with more of them, and the one that is being filled.
    waiting: Vec<Vec<u8>>,
    fragment: Vec<u8>,
    attributes: Table,
    /// Where each set of attributes is, how many they are, and their bytes.
    sets: Vec<(u64, u32, u32)>,
    known_sets: HashMap<Vec<u8>, u32>,
    numbers: u32,
    used: u32,
}

impl<'f> Writer<'f> {
    /// Begins at the start of `out`, an empty file.
    ///
    /// # Errors
    /// The system's.
    pub fn new(out: &'f File, compression: Compression) -> Result<Self> {
        Ok(Self {
            out,
            at: SUPERBLOCK as u64,
            compression,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            inodes: Table::new(compression),
            directories: Table::new(compression),
            ids: Vec::new(),
            places: HashMap::new(),
            fragments: Vec::new(),
            waiting: Vec::new(),
            fragment: Vec::new(),
            attributes: Table::new(compression),
            sets: Vec::new(),
            known_sets: HashMap::new(),
            numbers: 0,
            used: 0,
        })
    }

    /// The number of the next inode; a directory takes it before its files, which name it.
    pub fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    /// A regular file with `links` names.
    ///
    /// # Errors
    /// The system's; a file that shrinks meanwhile gets zeros.
    pub fn file(&mut self, entry: &Entry, content: &mut File, links: u32) -> Result<Node> {
        let (start, mut sparse) = (self.at, 0_u64);
        let mut sizes: Vec<u32> = Vec::new();
        let mut left = entry.size;
        while left >= BLOCK as u64 {
            let count = usize::try_from(left / BLOCK as u64)
                .unwrap_or(BATCH)
                .min(BATCH);
            let mut blocks = Vec::with_capacity(count);
            for _ in 0..count {
                let block = filled(content, BLOCK)?;
                // A hole takes no space.
                let is_hole = block.iter().all(|byte| *byte == 0);
                sparse += if is_hole { BLOCK as u64 } else { 0 };
                blocks.push(if is_hole { Vec::new() } else { block });
            }
            left -= (count * BLOCK) as u64;
            for size in self.blocks(&blocks)? {
                sizes.push(size);
            }
        }
        let tail = usize::try_from(left).unwrap_or(0);
        let (fragment, offset) = if tail == 0 {
            (NONE, 0)
        } else {
            self.tail(&filled(content, tail)?)?
        };
        let xattrs = self.xattrs(entry)?;
        let mut body = Vec::with_capacity(40 + sizes.len() * 4);
        body.extend(start.to_le_bytes());
        body.extend(entry.size.to_le_bytes());
        body.extend(sparse.to_le_bytes());
        for value in [links, fragment, offset, xattrs] {
            body.extend(value.to_le_bytes());
        }
        for size in sizes {
            body.extend(size.to_le_bytes());
        }
        let number = self.number();
        self.inode(entry, 2, true, number, &body)
    }

    /// What has no content: links, devices and pipes.
    ///
    /// # Errors
    /// The system's.
    pub fn special(&mut self, entry: &Entry, links: u32) -> Result<Node> {
        let mut body = links.to_le_bytes().to_vec();
        let kind = match entry.kind {
            Kind::Symlink => {
                let length = u32::try_from(entry.link.len()).context("a link that is too long")?;
                body.extend(length.to_le_bytes());
                body.extend(&entry.link);
                3
            }
            Kind::BlockDevice | Kind::CharDevice => {
                let (major, minor) = entry.device;
                let number = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
                let number = u32::try_from(number).context("a device with too large a number")?;
                body.extend(number.to_le_bytes());
                if entry.kind == Kind::BlockDevice {
                    4
                } else {
                    5
                }
            }
            Kind::Fifo => 6,
            Kind::File | Kind::Directory | Kind::HardLink | Kind::Other => {
                return Err(Fail::system("a file of a kind that has content").into());
            }
        };
        let number = self.number();
        self.inode(entry, kind, false, number, &body)
    }

    /// A directory of this number in the directory `parent`, after all that is in it, sorted by name.
    ///
    /// # Errors
    /// The system's.
    pub fn directory(
        &mut self,
        entry: &Entry,
        number: u32,
        parent: u32,
        children: &[(Vec<u8>, Node)],
    ) -> Result<Node> {
        let (block, offset) = self.directories.position()?;
        let mut length = 3_u32; // `.` and `..`, as Linux counts them
        let mut rest = children;
        // The first name behind each border of a block, so that a reader need not look at those before.
        let (mut index, mut marks, mut marked) = (Vec::new(), 0_u16, block);
        while let Some((name, first)) = rest.first() {
            let (here, _) = self.directories.position()?;
            if here != marked && marks < u16::MAX {
                let size = u32::try_from(name.len() - 1).unwrap_or(0); // at most 255
                for value in [length - 3, here, size] {
                    index.extend(value.to_le_bytes());
                }
                index.extend(name);
                (marked, marks) = (here, marks + 1);
            }
            let near = |node: &Node| {
                let delta = i64::from(node.number) - i64::from(first.number);
                i16::try_from(delta)
                    .ok()
                    .filter(|_| node.block == first.block)
            };
            let fits = rest
                .iter()
                .take(RUN)
                .take_while(|(_, node)| near(node).is_some());
            let (run, others) = rest.split_at(fits.count());
            let mut bytes = Vec::new();
            let count = u32::try_from(run.len() - 1).unwrap_or(0); // at most 255
            for value in [count, first.block, first.number] {
                bytes.extend(value.to_le_bytes());
            }
            for (name, node) in run {
                let size = u16::try_from(name.len() - 1).context("a name that is too long")?;
                bytes.extend(node.offset.to_le_bytes());
                bytes.extend(near(node).unwrap_or(0).to_le_bytes());
                bytes.extend(node.kind.to_le_bytes());
                bytes.extend(size.to_le_bytes());
                bytes.extend(name);
            }
            length += u32::try_from(bytes.len()).context("a directory that is too large")?;
            self.directories.write(&bytes)?;
            rest = others;
        }
        let below = children.iter().filter(|(_, node)| node.kind == 1).count();
        let links = u32::try_from(below + 2).unwrap_or(u32::MAX);
        let xattrs = self.xattrs(entry)?;
        let mut body = Vec::with_capacity(24);
        for value in [links, length, block, parent] {
            body.extend(value.to_le_bytes());
        }
        body.extend(marks.to_le_bytes());
        body.extend(offset.to_le_bytes());
        body.extend(xattrs.to_le_bytes());
        body.extend(index);
        self.inode(entry, 1, true, number, &body)
    }

    /// The parent of the root: a number that no inode has.
    #[must_use]
    pub fn beyond(&self) -> u32 {
        self.numbers + 1
    }

    /// Writes the tables, and `tail` behind the file system, where readers of squashfs do not look.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(mut self, root: Node, time: i64, tail: &[u8]) -> Result<()> {
        if !self.fragment.is_empty() {
            let last = std::mem::take(&mut self.fragment);
            self.waiting.push(last);
        }
        self.write_fragments()?;
        let inodes = self.table(|this| &mut this.inodes)?;
        let directories = self.table(|this| &mut this.directories)?;
        let fragments: Vec<u8> = self
            .fragments
            .iter()
            .flat_map(|(at, size)| {
                let (at, size) = (at.to_le_bytes(), u64::from(*size).to_le_bytes());
                at.into_iter().chain(size)
            })
            .collect();
        let fragment_count = u32::try_from(self.fragments.len()).context("too many fragments")?;
        let fragments = self.indexed(&fragments, &[])?;
        let ids: Vec<u8> = self.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let ids = self.indexed(&ids, &[])?;
        let xattrs = if self.sets.is_empty() {
            NO_TABLE
        } else {
            let values = self.table(|this| &mut this.attributes)?;
            let mut head = values.to_le_bytes().to_vec();
            let count = u32::try_from(self.sets.len()).context("too many attributes")?;
            head.extend(count.to_le_bytes());
            head.extend(0_u32.to_le_bytes());
            let sets: Vec<u8> = self
                .sets
                .iter()
                .flat_map(|(at, count, size)| {
                    let (count, size) = (count.to_le_bytes(), size.to_le_bytes());
                    at.to_le_bytes().into_iter().chain(count).chain(size)
                })
                .collect();
            self.indexed(&sets, &head)?
        };
        let used = self.at;
        self.at = used.next_multiple_of(PAGE);
        if tail.is_empty() {
            self.out.set_len(self.at)?;
        } else {
            self.put(tail)?;
            self.put(&(tail.len() as u64).to_le_bytes())?;
            self.put(TAIL)?;
        }

        let id_count = u16::try_from(self.ids.len()).context("too many owners")?;
        let flags = if self.sets.is_empty() { NO_XATTRS } else { 0 };
        let mut head = Vec::with_capacity(SUPERBLOCK);
        head.extend(b"hsqs");
        for value in [self.used, seconds(time), 1 << BLOCK_LOG, fragment_count] {
            head.extend(value.to_le_bytes());
        }
        for value in [self.compression.number(), BLOCK_LOG, flags, id_count, 4, 0] {
            head.extend(value.to_le_bytes());
        }
        let root = u64::from(root.block) << 16 | u64::from(root.offset);
        for value in [
            root,
            used,
            ids,
            xattrs,
            inodes,
            directories,
            fragments,
            NO_TABLE,
        ] {
            head.extend(value.to_le_bytes());
        }
        self.out.write_all_at(&head, 0)?;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Writes blocks of content; a hole is an empty one. Returns their sizes as the inode has them.
    fn blocks(&mut self, blocks: &[Vec<u8>]) -> Result<Vec<u32>> {
        let packed = self.pack_all(blocks)?;
        let mut sizes = Vec::with_capacity(blocks.len());
        for (block, packed) in blocks.iter().zip(packed) {
            let (bytes, flag) = match &packed {
                _ if block.is_empty() => (block, 0),
                Some(packed) => (packed, 0),
                None => (block, PLAIN),
            };
            self.put(bytes)?;
            sizes.push(u32::try_from(bytes.len()).unwrap_or(0) | flag); // at most 128 KiB
        }
        Ok(sizes)
    }

    fn pack_all(&self, blocks: &[Vec<u8>]) -> io::Result<Vec<Option<Vec<u8>>>> {
        let pack = |block: &Vec<u8>| match block.is_empty() {
            true => Ok(None),
            false => self.compression.pack(block),
        };
        let threads = self.threads.min(blocks.len());
        if threads < 2 {
            return blocks.iter().map(pack).collect();
        }
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                match blocks.get(index) {
                    Some(block) => done.push((index, pack(block))),
                    None => return done,
                }
            }
        };
        let mut all: Vec<(usize, io::Result<Option<Vec<u8>>>)> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut all = work();
            for other in others {
                all.extend(other.join().unwrap_or_default());
            }
            all
        });
        if all.len() != blocks.len() {
            return Err(io::Error::other("a thread that packs has failed"));
        }
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, packed)| packed).collect()
    }

    /// Puts the end of a file into a fragment: which, and where in it.
    fn tail(&mut self, bytes: &[u8]) -> Result<(u32, u32)> {
        if self.fragment.len() + bytes.len() > BLOCK {
            let full = std::mem::take(&mut self.fragment);
            self.waiting.push(full);
            if self.waiting.len() == BATCH {
                self.write_fragments()?;
            }
        }
        let index = u32::try_from(self.fragments.len() + self.waiting.len());
        let offset = u32::try_from(self.fragment.len()).unwrap_or(0); // at most 128 KiB
        self.fragment.extend(bytes);
        Ok((index.context("too many fragments")?, offset))
    }

    fn write_fragments(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let mut at = self.at;
        for size in self.blocks(&waiting)? {
            self.fragments.push((at, size));
            at += u64::from(size & !PLAIN);
        }
        Ok(())
    }

    /// The number of a set of attributes.
    fn xattrs(&mut self, entry: &Entry) -> Result<u32> {
        let mut bytes = Vec::new();
        let mut count = 0_u32;
        for (name, value) in &entry.xattrs {
            let prefixes: [(u16, &[u8]); 3] = [(0, b"user."), (1, b"trusted."), (2, b"security.")];
            let known = prefixes.iter().find_map(|(kind, prefix)| {
                let rest = name.strip_prefix(*prefix)?;
                Some((*kind, rest))
            });
            let Some((kind, rest)) = known else {
                continue; // the format has no others
            };
            let length = u16::try_from(rest.len()).context("an attribute with too long a name")?;
            let size = u32::try_from(value.len()).context("an attribute that is too large")?;
            bytes.extend(kind.to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes.extend(rest);
            bytes.extend(size.to_le_bytes());
            bytes.extend(value);
            count += 1;
        }
        if count == 0 {
            return Ok(NONE);
        }
        if let Some(known) = self.known_sets.get(&bytes) {
            return Ok(*known);
        }
        let (block, offset) = self.attributes.position()?;
        let size = u32::try_from(bytes.len()).context("attributes that are too large")?;
        self.attributes.write(&bytes)?;
        let index = u32::try_from(self.sets.len()).context("too many attributes")?;
        let place = u64::from(block) << 16 | u64::from(offset);
        self.sets.push((place, count, size));
        self.known_sets.insert(bytes, index);
        Ok(index)
    }

    /// `is_long`: of the kind that has all fields; only links, devices and pipes are written without.
    fn inode(
        &mut self,
        entry: &Entry,
        kind: u16,
        is_long: bool,
        number: u32,
        body: &[u8],
    ) -> Result<Node> {
        let (block, offset) = self.inodes.position()?;
        let mut bytes = Vec::with_capacity(16 + body.len());
        let written = if is_long { kind + 7 } else { kind };
        let mode = u16::try_from(entry.mode & 0o7777).unwrap_or(0);
        let (uid, gid) = (self.id(entry.uid)?, self.id(entry.gid)?);
        for value in [written, mode, uid, gid] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(seconds(entry.mtime.0).to_le_bytes());
        bytes.extend(number.to_le_bytes());
        bytes.extend(body);
        self.inodes.write(&bytes)?;
        self.used += 1;
        Ok(Node {
            block,
            offset,
            number,
            kind,
        })
    }

    fn id(&mut self, id: u64) -> Result<u16> {
        let id = u32::try_from(id).context("an owner with too large a number")?;
        if let Some(place) = self.places.get(&id) {
            return Ok(*place);
        }
        let place = u16::try_from(self.ids.len())
            .map_err(|_| Fail::unsupported("the image has more owners than a squashfs can have"))?;
        self.ids.push(id);
        self.places.insert(id, place);
        Ok(place)
    }

    /// Writes a table; returns where it begins.
    fn table(&mut self, which: impl Fn(&mut Self) -> &mut Table) -> Result<u64> {
        let table = which(self);
        table.close()?;
        let packed = std::mem::take(&mut table.packed);
        let start = self.at;
        self.put(&packed)?;
        Ok(start)
    }

    /// Writes a table that is found by a list of its blocks; returns where that list begins, with `head` before it.
    fn indexed(&mut self, content: &[u8], head: &[u8]) -> Result<u64> {
        let mut list = head.to_vec();
        for block in content.chunks(METADATA) {
            list.extend(self.at.to_le_bytes());
            let mut table = Table::new(self.compression);
            table.open.extend(block);
            table.close()?;
            self.put(&table.packed)?;
        }
        let start = self.at;
        self.put(&list)?;
        Ok(start)
    }
}

/// Seconds since 1970 as the format has them.
fn seconds(time: i64) -> u32 {
    u32::try_from(time.max(0)).unwrap_or(u32::MAX)
}

/// The next bytes; zeros where there are no more.
fn filled(content: &mut File, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    content.take(length as u64).read_to_end(&mut bytes)?;
    bytes.resize(length, 0);
    Ok(bytes)
}
