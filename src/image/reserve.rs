//! A file that takes up a little of the disk, so that images can be removed when the disk is full.
//!
//! ```text
//! images/reserve     as large as index.json, 64 KiB at least
//! ```
//!
//! The list of images is written aside and renamed, which takes space that a full disk does not have. A shorter list may
//! have the reserve's, which is kept again as soon as there is room.

use std::fs::File;
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::sys;

const LEAST: u64 = 64 << 10;

/// Makes the reserve of the list `index` where it is missing or too small. Where there is no room for it there is none.
pub fn keep(index: &Path) {
    let Some(path) = place(index) else { return };
    let wanted = std::fs::metadata(index)
        .map_or(0, |meta| meta.len())
        .next_multiple_of(LEAST)
        .max(LEAST);
    if std::fs::metadata(&path).is_ok_and(|meta| meta.len() >= wanted) {
        return;
    }
    let made = File::create(&path).is_ok_and(|file| {
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, wanted) {
            // NFS before 4.2, among others.
            Err(Errno::OPNOTSUPP) => {
                let zeros = vec![0; usize::try_from(wanted).unwrap_or(0)];
                std::io::Write::write_all(&mut &file, &zeros).is_ok()
            }
            done => done.is_ok(),
        }
    });
    if !made {
        let _ = std::fs::remove_file(&path); // half of one is none, and the space is needed
    }
}

/// As [`sys::fs::write_atomically`] for the list `index`. The caller holds its lock.
///
/// # Errors
/// The system's.
pub fn write(index: &Path, aside: &Path, content: &[u8]) -> std::io::Result<()> {
    let old = std::fs::metadata(index).map_or(0, |meta| meta.len());
    let written = match sys::fs::write_atomically(index, aside, content) {
        // A longer list is for more images: there is no room for those either.
        Err(error)
            if content.len() as u64 <= old
                && matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::NOSPC | Errno::DQUOT)
                )
                && place(index).is_some_and(|path| std::fs::remove_file(path).is_ok()) =>
        {
            sys::fs::write_atomically(index, aside, content)
        }
        written => written,
    };
    keep(index);
    written
}

fn place(index: &Path) -> Option<std::path::PathBuf> {
    Some(index.parent()?.join("reserve"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_grows_with_the_list() {
        let dir = tempfile::tempdir().unwrap();
        let (index, aside) = (dir.path().join("index.json"), dir.path().join("new"));
        let size = || std::fs::metadata(dir.path().join("reserve")).unwrap().len();
        write(&index, &aside, b"short").unwrap();
        assert_eq!(size(), LEAST);
        write(&index, &aside, &vec![b' '; 100_000]).unwrap();
        assert_eq!(size(), 2 * LEAST);
        assert_eq!(std::fs::read(&index).unwrap().len(), 100_000);
    }
}
