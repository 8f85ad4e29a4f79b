//! Places under `tmp/` where things are built, each with a lock that says whether its maker still lives.
//!
//! ```text
//! tmp/NAME.lock   an empty file; flock(2) is held as long as the work goes on
//! tmp/NAME/       the work
//! ```
//!
//! The lock comes first and goes last: what lies beside a lock that nobody holds is litter. Entries of
//! `tmp/` without a lock of that name are somebody else's and stay.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;

use super::partial;
use crate::paths::Store;
use crate::sys;

/// A directory under `tmp/` that is ours until this is dropped, which removes what is left of it.
#[derive(Debug)]
pub struct Scratch {
    tmp: PathBuf,
    name: String,
    lock: File,
}

impl Scratch {
    /// Claims `name`, waiting for another process or thread that has it, and makes its empty directory.
    ///
    /// # Errors
    /// The system's.
    pub fn claim(store: &Store, name: &str) -> Result<Self> {
        let tmp = store.tmp();
        store.make(&tmp)?;
        let path = tmp.join(format!("{name}.lock"));
        let lock = lock_file(&path, 0o600)?;
        let scratch = Self {
            tmp,
            name: name.to_owned(),
            lock,
        };
        scratch.clear()?; // what a dead owner left
        let dir = scratch.path();
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("making `{}`", dir.display()))?;
        Ok(scratch)
    }

    /// Claims a name that nobody else has, `what-` and a random number. A pid would not do: stores are
    /// shared between PID namespaces.
    ///
    /// # Errors
    /// The system's.
    pub fn unique(store: &Store, what: &str) -> Result<Self> {
        use std::hash::{BuildHasher as _, Hasher as _};
        let mut hasher = std::hash::RandomState::new().build_hasher();
        hasher.write_u32(
            rustix::process::getpid()
                .as_raw_nonzero()
                .get()
                .cast_unsigned(),
        );
        Self::claim(store, &format!("{what}-{:016x}", hasher.finish()))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.tmp.join(&self.name)
    }

    /// Removes the tree `fs` in it.
    ///
    /// # Errors
    /// The system's.
    pub fn clear_tree(&self) -> Result<()> {
        let dir = sys::fs::open_trusted(&self.path(), OFlags::PATH | OFlags::DIRECTORY)?;
        sys::fs::remove_tree(dir.as_fd(), OsStr::new("fs"))?;
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        let tmp = sys::fs::open_trusted(&self.tmp, OFlags::PATH | OFlags::DIRECTORY)?;
        sys::fs::remove_tree(tmp.as_fd(), OsStr::new(&self.name))?;
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is litter, and the next command tries again.
        if self.clear().is_ok() {
            let _ = std::fs::remove_file(self.tmp.join(format!("{}.lock", self.name)));
        }
        let _ = self.lock.unlock();
    }
}

/// Opens and locks the file at `path`, which others may remove under our hands; where there is none, it is made.
///
/// # Errors
/// The system's.
pub fn lock_file(path: &Path, mode: u32) -> Result<File> {
    loop {
        let file =
            open_lock(path, mode).with_context(|| format!("opening `{}`", path.display()))?;
        file.lock()
            .with_context(|| format!("locking `{}`", path.display()))?;
        if still_there(&file, path) {
            return Ok(file);
        }
    }
}

fn open_lock(path: &Path, mode: u32) -> std::io::Result<File> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(mode)
        .open(path)
}

/// Whether the locked file is the one that others find under its name.
#[must_use]
pub fn still_there(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Whether a living process is at work under `tmp/`.
///
/// # Errors
/// When `tmp/` exists and cannot be read.
pub fn is_busy(store: &Store) -> Result<bool> {
    sweep(store)?;
    let entries = match std::fs::read_dir(store.tmp()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        entries => entries.with_context(|| format!("reading `{}`", store.tmp().display()))?,
    };
    for entry in entries {
        let path = entry?.path();
        let locked = path.extension().is_some_and(|end| end == "lock")
            && File::options()
                .read(true)
                .write(true) // NFS locks nothing else
                .open(&path)
                .is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        if locked {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes what dead processes left under `tmp/`, but for parts of blobs that are not old. What resists stays for the
/// next time.
///
/// # Errors
/// When `tmp/` exists and cannot be read.
pub fn sweep(store: &Store) -> Result<()> {
    partial::sweep(store, false)?;
    let tmp = store.tmp();
    let entries = match std::fs::read_dir(&tmp) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("reading `{}`", tmp.display()))?,
    };
    for entry in entries {
        let Ok(name) = entry?.file_name().into_string() else {
            continue; // ours are text
        };
        let Some(name) = name.strip_suffix(".lock") else {
            continue;
        };
        let path = tmp.join(format!("{name}.lock"));
        // Not created: a lock that vanished meanwhile belongs to work that is done.
        let Ok(lock) = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
        else {
            continue;
        };
        match lock.try_lock() {
            Ok(()) if still_there(&lock, &path) => drop(Scratch {
                tmp: tmp.clone(),
                name: name.to_owned(),
                lock,
            }),
            Ok(()) | Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("rl"));
        (dir, store)
    }

    #[test]
    fn litter_is_swept_and_living_work_is_not() {
        let (_dir, store) = store();
        let alive = Scratch::claim(&store, "alive").unwrap();
        std::fs::write(alive.path().join("x"), "x").unwrap();
        std::fs::create_dir_all(store.tmp().join("dead/deep")).unwrap();
        std::fs::write(store.tmp().join("dead.lock"), "").unwrap();
        std::fs::create_dir(store.tmp().join("foreign")).unwrap();
        sweep(&store).unwrap();
        assert!(alive.path().join("x").exists());
        assert!(!store.tmp().join("dead").exists() && !store.tmp().join("dead.lock").exists());
        assert!(store.tmp().join("foreign").exists());
        drop(alive);
        assert_eq!(std::fs::read_dir(store.tmp()).unwrap().count(), 1);
    }

    #[test]
    fn one_name_has_one_owner_at_a_time() {
        let (_dir, store) = store();
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let scratch = Scratch::claim(&store, "one").unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        assert!(scratch.path().is_dir());
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
