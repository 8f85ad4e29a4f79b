//! Blobs whose transfer broke off: what came of them waits under `tmp/` for the next command.
//!
//! ```text
//! tmp/HEX.part    the first bytes of the blob sha256:HEX as they came; flock(2) is held by whoever adds to it
//! ```
//!
//! Nothing in there is believed: a blob is checked as a whole when its rest has come. Nothing is synced either; after
//! a power failure the digest tells.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::reference::Digest;
use super::scratch;
use crate::paths::Store;

/// How long a part waits for its rest.
pub const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
const ENDING: &str = ".part";

/// The beginning of a blob, ours alone until this is dropped. The file stays.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    file: File,
}

impl Part {
    /// Opens the part of this blob, empty where there was none, waiting for whoever has it.
    ///
    /// # Errors
    /// The system's.
    pub fn claim(store: &Store, blob: &Digest) -> Result<Self> {
        let tmp = store.tmp();
        store.make(&tmp)?;
        let path = tmp.join(format!("{}{ENDING}", blob.hex()));
        // As readable as the blob that it becomes.
        let file = scratch::lock_file(&path, 0o644)?;
        Ok(Self { path, file })
    }

    /// Where the bytes are added.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes are there.
    ///
    /// # Errors
    /// The system's.
    pub fn have(&self) -> Result<u64> {
        Ok(self.file.metadata().context("looking at a part")?.len())
    }

    /// Those bytes.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self) -> Result<File> {
        File::open(&self.path).with_context(|| format!("opening `{}`", self.path.display()))
    }

    /// Forgets what is there.
    ///
    /// # Errors
    /// The system's.
    pub fn empty(&self) -> Result<()> {
        self.file
            .set_len(0)
            .with_context(|| format!("emptying `{}`", self.path.display()))
    }

    /// Removes the file: its bytes are bad, or their space is needed.
    pub fn discard(self) {
        let _ = std::fs::remove_file(&self.path); // what stays is swept when it is old
    }
}

/// Whether `name`, an entry of `tmp/`, is a part.
#[must_use]
pub fn is_part(name: &str) -> bool {
    name.strip_suffix(ENDING)
        .is_some_and(|hex| Digest::parse(&format!("sha256:{hex}")).is_ok())
}

/// Whether the part at `path` has waited too long.
#[must_use]
pub fn is_old(path: &Path) -> bool {
    let changed = std::fs::metadata(path).and_then(|meta| meta.modified());
    changed
        .ok()
        .and_then(|time| time.elapsed().ok())
        .is_some_and(|age| age > KEPT)
}

/// Removes the parts that nobody adds to: those that have waited too long, or all. Returns the bytes that are free now.
///
/// # Errors
/// When `tmp/` exists and cannot be read.
pub fn sweep(store: &Store, all: bool) -> Result<u64> {
    let tmp = store.tmp();
    let entries = match std::fs::read_dir(&tmp) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        entries => entries.with_context(|| format!("reading `{}`", tmp.display()))?,
    };
    let mut freed = 0;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if !name.is_some_and(is_part) || !(all || is_old(&path)) {
            continue;
        }
        // What vanishes meanwhile became a blob.
        let Ok(file) = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
        else {
            continue;
        };
        match file.try_lock() {
            Ok(()) if scratch::still_there(&file, &path) => {
                let size = file.metadata().map_or(0, |meta| meta.len());
                if std::fs::remove_file(&path).is_ok() {
                    freed += size;
                }
            }
            Ok(()) | Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_waits_for_its_rest_but_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("rl"));
        let digest = |text: &str| Digest::of(text.as_bytes());
        let old = Part::claim(&store, &digest("old")).unwrap();
        std::fs::write(old.path(), "12345").unwrap();
        old.file
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        let young = Part::claim(&store, &digest("young")).unwrap();
        std::fs::write(young.path(), "123").unwrap();
        let foreign = store.tmp().join("mine.part");
        std::fs::write(&foreign, "").unwrap();

        assert_eq!(sweep(&store, false).unwrap(), 0, "somebody adds to it");
        let paths = (old.path().to_owned(), young.path().to_owned());
        drop((old, young));
        let (old, young) = paths;
        assert_eq!(sweep(&store, false).unwrap(), 5);
        assert!(!old.exists() && young.exists());
        assert_eq!(sweep(&store, true).unwrap(), 3);
        assert!(!young.exists() && foreign.exists());
    }
}
