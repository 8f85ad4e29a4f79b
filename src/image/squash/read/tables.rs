//! The tables of a squashfs: blocks of 8 KiB, packed one by one, and the values that are read across them.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use super::{Place, Tree, damaged};
use crate::image::squash::ReadAt;

/// Bytes of one block of a table, unpacked.
const METADATA: usize = 8 << 10;

/// The last blocks that were used, by where they are, each with where the next one begins.
#[derive(Debug)]
pub(super) struct Cache {
    most: usize,
    blocks: VecDeque<(u64, Rc<Vec<u8>>, u64)>,
}

impl Cache {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            blocks: VecDeque::new(),
        }
    }

    pub(super) fn get(&mut self, at: u64) -> Option<(Rc<Vec<u8>>, u64)> {
        let index = self.blocks.iter().position(|(place, ..)| *place == at)?;
        let found = self.blocks.remove(index)?;
        let answer = (found.1.clone(), found.2);
        self.blocks.push_front(found);
        Some(answer)
    }

    pub(super) fn put(&mut self, at: u64, block: Rc<Vec<u8>>, next: u64) {
        self.blocks.truncate(self.most - 1);
        self.blocks.push_front((at, block, next));
    }
}

impl<F: ReadAt> Tree<F> {
    /// One block of a table, and where the next one begins.
    fn table(&mut self, at: u64) -> io::Result<(Rc<Vec<u8>>, u64)> {
        if let Some(found) = self.tables.get(at) {
            return Ok(found);
        }
        let mut head = [0_u8; 2];
        self.raw(&mut head, at)?;
        let head = u16::from_le_bytes(head);
        let length = usize::from(head & 0x7fff);
        if length == 0 || length > METADATA {
            return Err(damaged("a table has a block of a size that cannot be"));
        }
        let mut bytes = vec![0; length];
        self.raw(&mut bytes, at + 2)?;
        if head & 0x8000 == 0 {
            bytes = self.unpack(&bytes, METADATA)?;
        }
        let (block, next) = (Rc::new(bytes), at + 2 + length as u64);
        self.tables.put(at, block.clone(), next);
        Ok((block, next))
    }

    /// Reads from a table, and moves on.
    pub(super) fn take(&mut self, place: &mut Place, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < into.len() {
            let (block, next) = self.table(place.block)?;
            let rest = block.get(place.offset..).unwrap_or_default();
            if rest.is_empty() {
                if place.offset > block.len() || block.len() < METADATA {
                    return Err(damaged("a table ends too early"));
                }
                *place = Place {
                    block: next,
                    offset: 0,
                };
                continue;
            }
            let count = rest.len().min(into.len() - done);
            into[done..done + count].copy_from_slice(&rest[..count]);
            (place.offset, done) = (place.offset + count, done + count);
        }
        Ok(())
    }

    pub(super) fn array<const N: usize>(&mut self, place: &mut Place) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.take(place, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn long(&mut self, place: &mut Place) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.array(place)?))
    }

    /// Moves on without unpacking: all blocks but a table's last are full.
    pub(super) fn skip(&mut self, place: &mut Place, bytes: u64) -> io::Result<()> {
        let end = place.offset as u64 + bytes;
        for _ in 0..end / METADATA as u64 {
            let mut head = [0_u8; 2];
            self.raw(&mut head, place.block)?;
            place.block += 2 + u64::from(u16::from_le_bytes(head) & 0x7fff);
        }
        place.offset = usize::try_from(end % METADATA as u64).unwrap_or(0);
        Ok(())
    }

    /// Bytes at `at` of a table that is found by a list of its blocks.
    pub(super) fn indexed<const N: usize>(&mut self, list: u64, at: u64) -> io::Result<[u8; N]> {
        let mut block = [0_u8; 8];
        let entry = list.checked_add(at / METADATA as u64 * 8);
        self.raw(
            &mut block,
            entry.ok_or_else(|| damaged("a list lies nowhere"))?,
        )?;
        let offset = usize::try_from(at % METADATA as u64).unwrap_or(0);
        let block = u64::from_le_bytes(block);
        self.array(&mut Place { block, offset })
    }

    pub(super) fn place(table: u64, block: u64, offset: usize) -> io::Result<Place> {
        let block = table.checked_add(block);
        block
            .map(|block| Place { block, offset })
            .ok_or_else(|| damaged("something lies nowhere"))
    }
}
