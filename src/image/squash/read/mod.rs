//! Reads a squashfs of version 4 packed with gzip or zstd: inodes, directories, content, attributes. Every number in the file
//! is doubted; damage is an `InvalidData`, never a panic, and what is kept in memory does not grow with the file.
//!
//! Source: Linux, `fs/squashfs/squashfs_fs.h` and the readers beside it.

mod content;
mod tables;

use std::collections::VecDeque;
use std::io;

use super::{ReadAt, SUPERBLOCK, number, short};
use content::Marks;
use tables::Cache;

/// Blocks that are kept: of tables, and of content.
const TABLES: usize = 64;
const CONTENTS: usize = 8;
const NONE: u32 = u32::MAX;
/// The largest name, and the largest target of a link.
const NAME: usize = 256;
const LINK: u32 = 65_536;
/// The most bytes of all attributes of one file.
const ATTRIBUTES: usize = 1 << 20;

/// What an inode is, with what is needed to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A directory.
    Directory {
        /// Bytes of its listing.
        size: u32,
        /// Where that begins.
        at: Place,
        /// Where the index into it begins, and its entries.
        index: (Place, u16),
    },
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Where its first block is.
        start: u64,
        /// Fragment and place in it.
        fragment: (u32, u32),
        /// Where the list of its blocks' sizes begins.
        sizes: Place,
    },
    /// A symbolic link: the bytes of its target, and where that is.
    Link(u32, Place),
    /// A device's number, as the kernel packs it.
    Device(u32),
    /// A pipe or a socket.
    Other,
}

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Type and permissions, as in stat(2).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Its number in the file system.
    pub number: u32,
    /// Names.
    pub links: u32,
    /// The rest.
    pub body: Body,
    xattrs: u32,
}

/// A place in a table: where the block begins in the file system, and how far in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    block: u64,
    offset: usize,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: Vec<u8>,
    /// What [`Tree::inode`] takes.
    pub reference: u64,
    /// The inode's number.
    pub number: u32,
    /// The kind of file, 1 to 7.
    pub kind: u16,
    /// Where the listing goes on: what [`Tree::list`] takes.
    pub next: u64,
}

/// An open squashfs.
#[derive(Debug)]
pub struct Tree<F> {
    file: F,
    /// Where it begins in the file, and its bytes.
    base: u64,
    used: u64,
    compression: u16,
    block: u32,
    root: u64,
    inodes: u64,
    directories: u64,
    fragments: (u64, u32),
    ids: Vec<u32>,
    xattrs: Option<(u64, u64, u32)>,
    /// For statfs(2).
    pub files: u32,
    tables: Cache,
    contents: Cache,
    marks: VecDeque<Marks>,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the squashfs is damaged: {what}"),
    )
}

fn two(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

impl<F: ReadAt> Tree<F> {
    /// Opens the squashfs at `base`.
    ///
    /// # Errors
    /// `Unsupported` for another compression; `InvalidData`; the system's.
    pub(super) fn open(file: F, base: u64) -> io::Result<Self> {
        let mut head = [0_u8; SUPERBLOCK];
        file.read_at(&mut head, base)?;
        let compression = two(&head, 20);
        if let Some(name) = super::foreign(compression) {
            let text = format!("it is packed with {name}, which only squashfuse reads");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let block = short(&head, 12);
        if !block.is_power_of_two() || !(4096..=1 << 20).contains(&block) {
            return Err(damaged("its blocks are of a size that cannot be"));
        }
        let mut tree = Self {
            file,
            base,
            used: number(&head, 40),
            compression,
            block,
            root: number(&head, 32),
            inodes: number(&head, 64),
            directories: number(&head, 72),
            fragments: (number(&head, 80), short(&head, 16)),
            ids: Vec::new(),
            xattrs: None,
            files: short(&head, 4),
            tables: Cache::new(TABLES),
            contents: Cache::new(CONTENTS),
            marks: VecDeque::new(),
        };
        let list = number(&head, 48);
        for index in 0..u64::from(two(&head, 26)) {
            let bytes: [u8; 4] = tree.indexed(list, index * 4)?;
            tree.ids.push(u32::from_le_bytes(bytes));
        }
        let table = number(&head, 56);
        if table != u64::MAX {
            let mut bytes = [0_u8; 16];
            tree.raw(&mut bytes, table)?;
            tree.xattrs = Some((number(&bytes, 0), table + 16, short(&bytes, 8)));
        }
        Ok(tree)
    }

    /// What [`Tree::inode`] takes for the root.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Bytes of the file system.
    pub fn size(&self) -> u64 {
        self.used
    }

    fn raw(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        let end = at.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > self.used) {
            return Err(damaged("something lies behind its end"));
        }
        self.file.read_at(into, self.base + at)
    }

    fn unpack(&self, packed: &[u8], most: usize) -> io::Result<Vec<u8>> {
        use std::io::Read as _;
        if self.compression == 6 {
            return zstd::bulk::decompress(packed, most)
                .map_err(|_| damaged("a block cannot be unpacked"));
        }
        let mut bytes = Vec::new();
        flate2::read::ZlibDecoder::new(packed)
            .take(most as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|_| damaged("a block cannot be unpacked"))?;
        if bytes.len() > most {
            return Err(damaged("a block is larger than it may be"));
        }
        Ok(bytes)
    }

    /// The inode of this reference: of the root, or from a directory.
    ///
    /// # Errors
    /// `InvalidData`; the system's.
    pub fn inode(&mut self, reference: u64) -> io::Result<Inode> {
        let offset = usize::try_from(reference & 0xffff).unwrap_or(0);
        let mut at = Self::place(self.inodes, reference >> 16, offset)?;
        let head: [u8; 16] = self.array(&mut at)?;
        let kind = two(&head, 0);
        let owner = |ids: &[u32], place: u16| {
            let id = ids.get(usize::from(place)).copied();
            id.ok_or_else(|| damaged("an owner is not in its table"))
        };
        let directory = |size: u32, block: u32, offset: u16, index, directories| {
            let listing = Self::place(directories, block.into(), offset.into())?;
            io::Result::Ok(Body::Directory {
                size: size.saturating_sub(3),
                at: listing,
                index,
            })
        };
        let table = self.directories;
        let (links, body, xattrs) = match kind {
            1 => {
                let rest: [u8; 16] = self.array(&mut at)?;
                let (size, offset) = (two(&rest, 8), two(&rest, 10));
                let body = directory(size.into(), short(&rest, 0), offset, (at, 0), table)?;
                (short(&rest, 4), body, NONE)
            }
            8 => {
                let rest: [u8; 24] = self.array(&mut at)?;
                let index = (at, two(&rest, 16));
                let body = directory(
                    short(&rest, 4),
                    short(&rest, 8),
                    two(&rest, 18),
                    index,
                    table,
                )?;
                (short(&rest, 0), body, short(&rest, 20))
            }
            2 => {
                let rest: [u8; 16] = self.array(&mut at)?;
                let body = Body::File {
                    size: short(&rest, 12).into(),
                    start: short(&rest, 0).into(),
                    fragment: (short(&rest, 4), short(&rest, 8)),
                    sizes: at,
                };
                (1, body, NONE)
            }
            9 => {
                let rest: [u8; 40] = self.array(&mut at)?;
                let body = Body::File {
                    size: number(&rest, 8),
                    start: number(&rest, 0),
                    fragment: (short(&rest, 28), short(&rest, 32)),
                    sizes: at,
                };
                (short(&rest, 24), body, short(&rest, 36))
            }
            3 | 10 => {
                let (links, size) = (self.long(&mut at)?, self.long(&mut at)?);
                if size >= LINK {
                    return Err(damaged("a link is too long"));
                }
                let target = at;
                let mut xattrs = NONE;
                if kind == 10 {
                    self.skip(&mut at, size.into())?;
                    xattrs = self.long(&mut at)?;
                }
                (links, Body::Link(size, target), xattrs)
            }
            4 | 5 | 11 | 12 => {
                let (links, device) = (self.long(&mut at)?, self.long(&mut at)?);
                let xattrs = if kind > 7 { self.long(&mut at)? } else { NONE };
                (links, Body::Device(device), xattrs)
            }
            6 | 7 | 13 | 14 => {
                let links = self.long(&mut at)?;
                let xattrs = if kind > 7 { self.long(&mut at)? } else { NONE };
                (links, Body::Other, xattrs)
            }
            _ => return Err(damaged("an inode is of a kind that is not known")),
        };
        Ok(Inode {
            mode: u32::from(two(&head, 2) & 0o7777)
                | type_bits(if kind > 7 { kind - 7 } else { kind }),
            uid: owner(&self.ids, two(&head, 4))?,
            gid: owner(&self.ids, two(&head, 6))?,
            mtime: short(&head, 8),
            number: short(&head, 12),
            links,
            body,
            xattrs,
        })
    }

    /// The target of a link.
    ///
    /// # Errors
    /// `InvalidInput` for something else; as [`Tree::inode`].
    pub fn link(&mut self, inode: &Inode) -> io::Result<Vec<u8>> {
        let Body::Link(size, mut at) = inode.body else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut target = vec![0; usize::try_from(size).unwrap_or(0)];
        self.take(&mut at, &mut target)?;
        Ok(target)
    }

    /// Hands out the names of a directory from `from` on, which is 0 or [`Named::next`], until `each` says no.
    ///
    /// # Errors
    /// `NotADirectory`; as [`Tree::inode`].
    pub fn list(
        &mut self,
        inode: &Inode,
        from: u64,
        each: &mut dyn FnMut(Named) -> bool,
    ) -> io::Result<()> {
        let Body::Directory { size, mut at, .. } = inode.body else {
            return Err(io::ErrorKind::NotADirectory.into());
        };
        let size = u64::from(size);
        // Where a header is in the listing, and how many names below it are done.
        let (mut header, mut done) = (from >> 8, from & 0xff);
        if header >= size {
            return Ok(());
        }
        self.skip(&mut at, header)?;
        while header < size {
            let head: [u8; 12] = self.array(&mut at)?;
            let count = u64::from(short(&head, 0)) + 1;
            if count > 256 {
                return Err(damaged("a directory has a list that is too long"));
            }
            let mut length = 12;
            for index in 0..count {
                let entry: [u8; 8] = self.array(&mut at)?;
                let mut name = vec![0; usize::from(two(&entry, 6)) + 1];
                if name.len() > NAME {
                    return Err(damaged("a name is too long"));
                }
                self.take(&mut at, &mut name)?;
                length += 8 + name.len() as u64;
                if index < done {
                    continue;
                }
                let next = match index + 1 {
                    last if last == count => (header + length) << 8,
                    next => header << 8 | next,
                };
                let delta = two(&entry, 2).cast_signed();
                let named = Named {
                    name,
                    reference: u64::from(short(&head, 4)) << 16 | u64::from(two(&entry, 0)),
                    number: short(&head, 8).wrapping_add_signed(delta.into()),
                    kind: two(&entry, 4),
                    next,
                };
                if !each(named) {
                    return Ok(());
                }
            }
            (header, done) = (header + length, 0);
        }
        Ok(())
    }

    /// The entry of this name.
    ///
    /// # Errors
    /// As [`Tree::list`].
    pub fn find(&mut self, inode: &Inode, name: &[u8]) -> io::Result<Option<Named>> {
        let mut from = 0_u64;
        if let Body::Directory { index, .. } = inode.body {
            // The last header whose first name is not behind this one. Names are sorted.
            let (mut at, count) = index;
            for _ in 0..count {
                let head: [u8; 12] = self.array(&mut at)?;
                let mut first =
                    vec![0; (usize::try_from(short(&head, 8)).unwrap_or(NAME) + 1).min(NAME)];
                self.take(&mut at, &mut first)?;
                if first.as_slice() > name {
                    break;
                }
                from = u64::from(short(&head, 0)) << 8;
            }
        }
        let mut found = None;
        self.list(
            inode,
            from,
            &mut |named| match named.name.as_slice().cmp(name) {
                std::cmp::Ordering::Less => true,
                std::cmp::Ordering::Equal => {
                    found = Some(named);
                    false
                }
                std::cmp::Ordering::Greater => false,
            },
        )?;
        Ok(found)
    }

    /// Bytes of a file's blocks, but for the last.
    pub(super) fn block(&self) -> u32 {
        self.block
    }

    /// Whether this block of a file is a hole.
    ///
    /// # Errors
    /// As [`Tree::read`].
    pub(super) fn is_hole(&mut self, inode: &Inode, index: u64) -> io::Result<bool> {
        let Body::File {
            size,
            start,
            fragment: (fragment, _),
            sizes,
        } = inode.body
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if fragment != NONE && index >= size / u64::from(self.block) {
            return Ok(false);
        }
        Ok(self.stored(sizes, start, index)?.1 == 0)
    }

    /// Extended attributes, with their full names.
    ///
    /// # Errors
    /// As [`Tree::inode`].
    pub fn attributes(&mut self, inode: &Inode) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let Some((values, list, sets)) = self.xattrs.filter(|_| inode.xattrs != NONE) else {
            return Ok(Vec::new());
        };
        if inode.xattrs >= sets {
            return Err(damaged("attributes are not in their table"));
        }
        let set: [u8; 16] = self.indexed(list, u64::from(inode.xattrs) * 16)?;
        let start = number(&set, 0);
        let offset = usize::try_from(start & 0xffff).unwrap_or(0);
        let mut at = Self::place(values, start >> 16, offset)?;
        let (mut all, mut bytes) = (Vec::new(), 0);
        for _ in 0..short(&set, 8).min(4096) {
            let head: [u8; 4] = self.array(&mut at)?;
            let kind = two(&head, 0);
            let prefix: &[u8] = match kind & 0xff {
                0 => b"user.",
                1 => b"trusted.",
                2 => b"security.",
                _ => return Err(damaged("an attribute is of a kind that is not known")),
            };
            let mut name = vec![0; usize::from(two(&head, 2)).min(NAME)];
            self.take(&mut at, &mut name)?;
            let size = self.long(&mut at)?;
            let value = if kind & 0x100 == 0 {
                self.value(&mut at, size)?
            } else {
                // It is kept elsewhere, because others have it as well.
                let place = u64::from_le_bytes(self.array(&mut at)?);
                let offset = usize::try_from(place & 0xffff).unwrap_or(0);
                let mut there = Self::place(values, place >> 16, offset)?;
                let size = self.long(&mut there)?;
                self.value(&mut there, size)?
            };
            bytes += value.len();
            if bytes > ATTRIBUTES {
                return Err(damaged("a file has too many attributes"));
            }
            all.push(([prefix, &name].concat(), value));
        }
        Ok(all)
    }

    fn value(&mut self, at: &mut Place, size: u32) -> io::Result<Vec<u8>> {
        if size > 65_536 {
            return Err(damaged("an attribute is too large"));
        }
        let mut value = vec![0; usize::try_from(size).unwrap_or(0)];
        self.take(at, &mut value)?;
        Ok(value)
    }
}

/// The type bits of stat(2) for a kind of file.
fn type_bits(kind: u16) -> u32 {
    match kind {
        1 => 0o040_000,
        2 => 0o100_000,
        3 => 0o120_000,
        4 => 0o060_000,
        5 => 0o020_000,
        6 => 0o010_000,
        _ => 0o140_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::write::{Compression, Writer};
    use crate::image::entries::{Entry, Kind};
    use proptest::prelude::*;
    use std::io::{Read as _, Seek as _, Write as _};

    fn entry(kind: Kind, size: u64) -> Entry {
        Entry {
            kind,
            size,
            mode: 0o755,
            uid: 7,
            mtime: (9, 0),
            xattrs: vec![(b"user.a".to_vec(), b"value".to_vec())],
            ..Entry::default()
        }
    }

    /// A directory of 600 small files, a long one with a hole in it, and a link.
    fn image(compression: Compression) -> Vec<u8> {
        let mut out = tempfile::tempfile().unwrap();
        let mut writer = Writer::new(&out, compression).unwrap();
        let root = writer.number();
        let mut children = Vec::new();
        for index in 0..600 {
            let mut content = tempfile::tempfile().unwrap();
            write!(content, "{index}").unwrap();
            content.rewind().unwrap();
            let length = content.metadata().unwrap().len();
            let node = writer.file(&entry(Kind::File, length), &mut content, 1);
            children.push((
                format!("file-{index:03}-with-a-name").into_bytes(),
                node.unwrap(),
            ));
        }
        let mut content = tempfile::tempfile().unwrap();
        content.write_all(&vec![1; 200_000]).unwrap();
        content.set_len(600_000).unwrap();
        content.rewind().unwrap();
        let node = writer.file(&entry(Kind::File, 600_000), &mut content, 1);
        children.push((b"long".to_vec(), node.unwrap()));
        let mut link = entry(Kind::Symlink, 0);
        link.link = b"target".to_vec();
        children.push((b"sym".to_vec(), writer.special(&link, 1).unwrap()));
        let beyond = writer.beyond();
        let node = writer.directory(&entry(Kind::Directory, 0), root, beyond, &children);
        writer.finish(node.unwrap(), 9, b"{}").unwrap();
        let mut bytes = Vec::new();
        out.rewind().unwrap();
        out.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Reads all that can be read, up to the first error.
    fn walk(bytes: Vec<u8>) -> io::Result<(usize, usize)> {
        let mut tree = Tree::open(bytes, 0)?;
        let root = tree.root();
        let root = tree.inode(root)?;
        let mut all = Vec::new();
        tree.list(&root, 0, &mut |named| {
            all.push(named);
            all.len() < 5000
        })?;
        let mut length = 0;
        for named in &all {
            assert!(
                tree.find(&root, &named.name)?
                    .is_some_and(|found| found.reference == named.reference)
                    || all.len() != 602
            );
            let inode = tree.inode(named.reference)?;
            tree.attributes(&inode)?;
            length += match inode.body {
                Body::File { .. } => tree.read(&inode, 0, 1 << 20)?.len(),
                Body::Link(..) => tree.link(&inode)?.len(),
                Body::Directory { .. } | Body::Device(_) | Body::Other => 0,
            };
        }
        Ok((all.len(), length))
    }

    #[test]
    fn what_was_written_is_read() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let digits = 10 + 90 * 2 + 500 * 3;
            let found = walk(image(compression)).unwrap();
            assert_eq!(found, (602, digits + 600_000 + "target".len()));
            let mut tree = Tree::open(image(compression), 0).unwrap();
            let root = tree.root();
            let root = tree.inode(root).unwrap();
            assert_eq!((root.mode, root.uid, root.mtime), (0o040_755, 7, 9));
            let long = tree.find(&root, b"long").unwrap().unwrap();
            let long = tree.inode(long.reference).unwrap();
            assert_eq!(tree.read(&long, 199_999, 2).unwrap(), [1, 0]);
            assert_eq!(tree.read(&long, 599_999, 9).unwrap(), [0]);
            assert_eq!(
                tree.attributes(&long).unwrap(),
                [(b"user.a".to_vec(), b"value".to_vec())]
            );
            assert!(tree.find(&root, b"no").unwrap().is_none());
            // A listing goes on where it was left.
            let (mut seen, mut from) = (0, 0);
            loop {
                let before = from;
                let list = |named: Named| {
                    from = named.next;
                    false
                };
                let mut list = list;
                tree.list(&root, before, &mut list).unwrap();
                if from == before {
                    break;
                }
                seen += 1;
            }
            assert_eq!(seen, 602);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_bytes_make_it_panic(changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..30), head in prop::collection::vec((0_usize..96, any::<u8>()), 0..3)) {
            static IMAGE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let mut bytes = IMAGE.get_or_init(|| image(Compression::Gzip)).clone();
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            for (at, value) in head {
                bytes[at] = value;
            }
            let _ = walk(bytes); // an error or not: it comes back
        }
    }
}
