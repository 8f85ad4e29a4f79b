//! A directory of images for many users, who read it: on a local disk, on NFS, on Lustre.
//!
//! ```text
//! DIR/images/           an OCI image layout; skopeo may have written it
//! DIR/squash/HEX.sqsh   the image whose configuration has this digest, to be run where it lies
//! DIR/lock              of whoever adds an image; readers do without
//! ```
//!
//! A tree would be of no use to others: its files belong to ids that their user namespaces do not have. In a squashfs
//! owners are numbers, and those who mount it say what they mean. Unpacks and fetches nothing.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::reference::Digest;
use super::store::{Images, StoredImage};
use crate::paths::Store;

/// One such directory.
#[derive(Debug, Clone)]
pub struct Shared {
    store: Store,
}

impl Shared {
    /// The one at `dir`, an absolute path; nothing is read yet.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self {
            store: Store::at(dir.to_owned()),
        }
    }

    /// Makes what is missing of the one at `dir`.
    ///
    /// # Errors
    /// The system's.
    pub fn create(dir: &Path) -> Result<Self> {
        let shared = Self::at(dir);
        for part in [shared.store.images(), shared.store.squash()] {
            std::fs::create_dir_all(&part)
                .with_context(|| format!("making `{}`", part.display()))?;
        }
        Ok(shared)
    }

    /// Its paths.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Its images.
    #[must_use]
    pub fn images(&self) -> Images {
        Images::open(&self.store)
    }

    /// Where the image with this id is or would be as one file.
    #[must_use]
    pub fn squash(&self, id: &Digest) -> PathBuf {
        self.store.squash_of(id.hex())
    }

    /// Bytes of the image: of its file, or of its layers as they were transferred.
    #[must_use]
    pub fn size(&self, image: &StoredImage) -> u64 {
        match std::fs::metadata(self.squash(&image.id)) {
            Ok(meta) => meta.len(),
            Err(_) => image.manifest.layers.iter().map(|layer| layer.size).sum(),
        }
    }

    /// Whether it can be read.
    ///
    /// # Errors
    /// The system's: there is no such directory, or it is closed to the user.
    pub fn look(&self) -> Result<()> {
        let images = self.store.images();
        std::fs::read_dir(&images).with_context(|| format!("reading `{}`", images.display()))?;
        Ok(())
    }

    /// Held while an image is added.
    ///
    /// # Errors
    /// The system's.
    pub fn lock(&self) -> Result<File> {
        let path = self.store.root().join("lock");
        let lock = File::create(&path).with_context(|| format!("opening `{}`", path.display()))?;
        lock.lock()
            .with_context(|| format!("locking `{}`", path.display()))?;
        Ok(lock)
    }
}
