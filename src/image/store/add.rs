//! What comes into the store: a layer or a blob that is finished, and then the image that is made of them.

use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;

use super::index::set_name;
use super::{Images, LayerInfo, PULLED, StoredImage};
use crate::error::Fail;
use crate::image::config::ImageConfig;
use crate::image::manifest::{self, Descriptor, Document};
use crate::image::reference::{Digest, Reference};
use crate::image::scratch::Scratch;
use crate::sys;

/// What becomes of layers as they were transferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blobs<'i> {
    /// Each must be here.
    Keep,
    /// Those that are here stay, those that were dropped are not fetched.
    AsTheyAre,
    /// They go, and are found there again.
    Drop(&'i Reference),
}

/// What is to be added.
#[derive(Debug)]
pub struct NewImage<'i> {
    /// The manifest's bytes.
    pub manifest: &'i [u8],
    /// Its media type.
    pub media_type: &'i str,
    /// The configuration's bytes.
    pub config: &'i [u8],
    /// The name; the image stays nameless without.
    pub name: Option<&'i Reference>,
    /// What the registry called it, where it came from one.
    pub pulled: Option<&'i Digest>,
    /// What becomes of its layers' blobs.
    pub blobs: Blobs<'i>,
}

/// What came of [`Images::add`].
#[derive(Debug)]
pub enum Added {
    /// It is here.
    Done(Box<StoredImage>),
    /// These layers are not, any more; fetch them and try again.
    Missing(Vec<Digest>),
}

impl Images {
    /// Writes the image's manifest and configuration, and lists it under its name.
    ///
    /// # Errors
    /// `Corrupt` when manifest and configuration do not fit; the system's.
    pub fn add(&self, new: &NewImage<'_>) -> Result<Added> {
        let Document::Manifest(manifest) = manifest::parse(new.manifest, Some(new.media_type))?
        else {
            return Err(Fail::corrupt("an index of images is not an image").into());
        };
        let config = ImageConfig::parse(new.config, &manifest)?;
        self.prepare()?;
        let _lock = self.lock()?;
        let missing: Vec<Digest> = config
            .rootfs
            .diff_ids
            .iter()
            .zip(&manifest.layers)
            .filter(|(diff_id, layer)| {
                let has_blob = || match new.blobs {
                    Blobs::Keep => false,
                    Blobs::AsTheyAre | Blobs::Drop(_) => self.dropped_from(diff_id).is_some(),
                };
                !self.layer_dir(diff_id).exists()
                    || !(self.blob_path(&layer.digest).exists() || has_blob())
            })
            .map(|(diff_id, _)| diff_id.clone())
            .collect();
        if !missing.is_empty() {
            return Ok(Added::Missing(missing));
        }
        self.write_blob(new.config)?;
        let digest = self.write_blob(new.manifest)?;
        let mut entry = Descriptor {
            media_type: new.media_type.to_owned(),
            digest,
            size: new.manifest.len() as u64,
            urls: Vec::new(),
            platform: Some(config.platform()),
            artifact_type: None,
            annotations: std::collections::BTreeMap::new(),
        };
        if let Some(pulled) = new.pulled {
            entry
                .annotations
                .insert(PULLED.to_owned(), pulled.to_string());
        }
        let mut index = self.read_index()?;
        set_name(&mut index, entry.clone(), new.name);
        self.write_index(&index)?;
        Ok(Added::Done(Box::new(self.read_image(&index, &entry)?)))
    }

    /// Writes a small blob where it is missing; returns its digest.
    fn write_blob(&self, content: &[u8]) -> Result<Digest> {
        let digest = Digest::of(content);
        let path = self.blob_path(&digest);
        // Written again even when it is there: it costs little and repairs a damaged one.
        sys::fs::write_atomically(&path, &self.aside(), content)
            .with_context(|| format!("writing `{}`", path.display()))?;
        Ok(digest)
    }
}

/// Moves a finished layer into its place: `fs/` in `scratch` and a `layer.json` beside it.
///
/// # Errors
/// The system's.
pub fn keep_layer(
    images: &Images,
    scratch: &Scratch,
    diff_id: &Digest,
    info: &LayerInfo,
) -> Result<()> {
    let from = scratch.path();
    let json = serde_json::to_vec(info).context("describing the layer")?;
    let path = from.join("layer.json");
    std::fs::write(&path, json).with_context(|| format!("writing `{}`", path.display()))?;
    let dir = sys::fs::open_trusted(&from, OFlags::RDONLY | OFlags::DIRECTORY)?;
    // Once for the whole layer, in place of one fsync for each of its files.
    rustix::fs::syncfs(&dir).map_err(|errno| sys::Error::new("syncfs", errno))?;
    rustix::fs::fchmod(&dir, rustix::fs::Mode::from_raw_mode(0o711))
        .map_err(|errno| sys::Error::new("fchmod", errno))?;
    let to = images.layer_dir(diff_id);
    match std::fs::rename(&from, &to) {
        // Somebody was quicker; theirs is as good.
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
        done => done.with_context(|| format!("moving a layer to `{}`", to.display())),
    }?;
    sync_dir(&images.store.layers())
}

/// Moves a finished blob into its place. It is durable with the layer's syncfs or the caller's fsync.
///
/// # Errors
/// The system's.
pub fn keep_blob(images: &Images, from: &Path, digest: &Digest) -> Result<()> {
    let to = images.blob_path(digest);
    std::fs::rename(from, &to).with_context(|| format!("moving a layer to `{}`", to.display()))
}

fn sync_dir(path: &Path) -> Result<()> {
    let dir = sys::fs::open_trusted(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    rustix::fs::fsync(&dir).map_err(|errno| sys::Error::new(format!("fsync({path:?})"), errno))?;
    Ok(())
}
