//! How much of the disk the images take: unpacked layers and packed blobs, each counted once.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::reference::Digest;
use super::store::{Images, StoredImage};
use crate::paths::Store;

/// A layer's tree or a blob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// By its DiffID.
    Tree(Digest),
    /// By its own digest.
    Blob(Digest),
}

/// All parts that are here, with their bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Space {
    parts: BTreeMap<Part, u64>,
}

impl Space {
    /// Looks at the store. Of a tree counts what unpacking wrote, of a damaged one nothing.
    ///
    /// # Errors
    /// The system's.
    pub fn of(store: &Store) -> Result<Self> {
        let images = Images::open(store);
        let mut parts = BTreeMap::new();
        for digest in names(&store.layers())? {
            let info = images.layer(&digest).ok().flatten();
            let bytes = info.map_or(0, |info| info.report.bytes);
            parts.insert(Part::Tree(digest), bytes);
        }
        for digest in names(&store.images().join("blobs/sha256"))? {
            // It may have been removed this moment.
            let bytes = std::fs::metadata(images.blob_path(&digest)).map_or(0, |meta| meta.len());
            parts.insert(Part::Blob(digest), bytes);
        }
        Ok(Self { parts })
    }

    /// Bytes of all parts.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parts.values().sum()
    }

    /// The parts.
    pub fn into_parts(self) -> impl Iterator<Item = Part> {
        self.parts.into_keys()
    }

    /// Bytes of one part, if it is here.
    #[must_use]
    pub fn bytes(&self, part: &Part) -> Option<u64> {
        self.parts.get(part).copied()
    }

    /// The parts of one image that are here, with their bytes.
    #[must_use]
    pub fn of_image(&self, image: &StoredImage) -> BTreeMap<Part, u64> {
        let trees = image.config.rootfs.diff_ids.iter().cloned().map(Part::Tree);
        let layers = image.manifest.layers.iter().map(|layer| &layer.digest);
        let blobs = layers
            .chain([&image.id, &image.manifest_digest])
            .cloned()
            .map(Part::Blob);
        trees
            .chain(blobs)
            .filter_map(|part| {
                let bytes = *self.parts.get(&part)?;
                Some((part, bytes))
            })
            .collect()
    }
}

/// The entries of a directory that are called by 64 digits.
fn names(dir: &std::path::Path) -> Result<Vec<Digest>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading `{}`", dir.display())),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry
            .with_context(|| format!("reading `{}`", dir.display()))?
            .file_name();
        // Others are none of ours.
        found.extend(Digest::parse(&format!("sha256:{}", name.to_string_lossy())).ok());
    }
    Ok(found)
}
