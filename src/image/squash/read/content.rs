//! The content of files in a squashfs: their blocks, and the fragments that the ends of several share.

use std::io;
use std::rc::Rc;

use super::{Body, Inode, NONE, Place, Tree, damaged};
use crate::image::squash::{ReadAt, number, short};

/// Places in long files that are kept, of so many files.
const FILES: usize = 32;
/// One place is kept for so many blocks of a file.
const STRIDE: u64 = 256;
const PLAIN: u32 = 1 << 24;

/// Places in the list of a file's blocks, by its [`Body::File`]'s `sizes`: one for each [`STRIDE`], with where the block is.
pub(super) type Marks = (Place, Vec<(Place, u64)>);

impl<F: ReadAt> Tree<F> {
    /// Content of a file from `offset` on, at most `length` bytes; fewer only at its end.
    ///
    /// # Errors
    /// `InvalidInput` for what is no file; as [`Tree::inode`].
    pub fn read(&mut self, inode: &Inode, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        let Body::File { size, .. } = inode.body else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let end = size.min(offset.saturating_add(length.into()));
        let mut bytes = Vec::new();
        let mut at = offset;
        while at < end {
            let (index, within) = (at / u64::from(self.block), at % u64::from(self.block));
            let block = self.content(inode, index)?;
            let wanted = (end - at).min(u64::from(self.block) - within);
            let (from, count) = (usize::try_from(within), usize::try_from(wanted));
            let (from, count) = (from.unwrap_or(0), count.unwrap_or(0)); // both below 1 MiB
            let part = match &block {
                Some(block) => block
                    .get(from..from + count)
                    .ok_or_else(|| damaged("a file is shorter than it says"))?,
                None => &[],
            };
            bytes.extend(part);
            bytes.resize(bytes.len() + count - part.len(), 0); // a hole
            at += wanted;
        }
        Ok(bytes)
    }

    /// One block of a file; `None` for a hole. The last one may be shorter.
    fn content(&mut self, inode: &Inode, index: u64) -> io::Result<Option<Rc<Vec<u8>>>> {
        let Body::File {
            size,
            start,
            fragment: (fragment, offset),
            sizes,
        } = inode.body
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let block = u64::from(self.block);
        if fragment != NONE && index >= size / block {
            let tail = usize::try_from(size % block).unwrap_or(0);
            let whole = self.fragment(fragment)?;
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let part = from.checked_add(tail).and_then(|end| whole.get(from..end));
            let part = part.ok_or_else(|| damaged("the end of a file is not in its fragment"))?;
            return Ok(Some(Rc::new(part.to_vec())));
        }
        let (at, stored) = self.stored(sizes, start, index)?;
        if stored == 0 {
            return Ok(None);
        }
        self.block_at(at, stored).map(Some)
    }

    /// Where a file's block is, and its size as the inode has it. Places on the way are kept.
    pub(super) fn stored(
        &mut self,
        sizes: Place,
        start: u64,
        index: u64,
    ) -> io::Result<(u64, u32)> {
        let known = self.marks.iter().position(|(place, _)| *place == sizes);
        let (_, mut marks) = known
            .and_then(|known| self.marks.remove(known))
            .unwrap_or((sizes, vec![(sizes, start)]));
        let last = marks.len() as u64 - 1;
        let nearest = (index / STRIDE).min(last);
        let (mut place, mut at) = marks[usize::try_from(nearest).unwrap_or(0)];
        let mut number = nearest * STRIDE;
        let stored = loop {
            if number.is_multiple_of(STRIDE) && number / STRIDE == marks.len() as u64 {
                marks.push((place, at));
            }
            let stored = self.long(&mut place)?;
            if number == index {
                break stored;
            }
            at += u64::from(stored & !PLAIN);
            number += 1;
        };
        self.marks.truncate(FILES - 1);
        self.marks.push_front((sizes, marks));
        Ok((at, stored))
    }

    fn block_at(&mut self, at: u64, stored: u32) -> io::Result<Rc<Vec<u8>>> {
        if let Some((found, _)) = self.contents.get(at) {
            return Ok(found);
        }
        let length = stored & !PLAIN;
        if length > self.block {
            return Err(damaged("a block is larger than it may be"));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.raw(&mut bytes, at)?;
        if stored & PLAIN == 0 {
            bytes = self.unpack(&bytes, usize::try_from(self.block).unwrap_or(0))?;
        }
        let block = Rc::new(bytes);
        self.contents.put(at, block.clone(), 0);
        Ok(block)
    }

    fn fragment(&mut self, index: u32) -> io::Result<Rc<Vec<u8>>> {
        let (list, count) = self.fragments;
        if index >= count {
            return Err(damaged("a fragment is not in its table"));
        }
        let entry: [u8; 16] = self.indexed(list, u64::from(index) * 16)?;
        self.block_at(number(&entry, 0), short(&entry, 8))
    }
}
