//! Layers whose blob went when they were unpacked (`--blobs=drop`), and getting one again for `push` and `save`.
//!
//! `layer.json` says where it came from. The registry gives it by digest: what is passed on is byte for byte what was pulled.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::manifest::Descriptor;
use super::pull;
use super::reference::{Digest, Reference};
use super::registry::ClientOptions;
use super::scratch::Scratch;
use super::store::{Images, StoredImage};
use crate::error::{Fail, Kind, kind};
use crate::sys;

/// How to talk to the registry of a name.
pub type Clients<'c> = dyn Fn(&Reference) -> Result<ClientOptions> + Sync + 'c;

impl Images {
    /// Notes in `layer.json` where the blob of this layer comes from, and removes it.
    ///
    /// # Errors
    /// The system's.
    pub fn drop_blob(&self, diff_id: &Digest, blob: &Digest, from: &Reference) -> Result<()> {
        let _lock = self.lock()?;
        // Another one took it away meanwhile, or it was unpacked from another blob than this.
        let Some(mut info) = self.layer(diff_id)? else {
            return Ok(());
        };
        info.dropped = Some(from.clone());
        let path = self.layer_dir(diff_id).join("layer.json");
        let text = serde_json::to_vec(&info).context("describing a layer")?;
        let failed = || format!("writing `{}`", path.display());
        sys::fs::write_atomically(&path, &path.with_extension("new"), &text)
            .with_context(failed)?;
        let path = self.blob_path(blob);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing `{}`", path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Where the blob of this layer came from, if it was dropped.
    #[must_use]
    pub fn dropped_from(&self, diff_id: &Digest) -> Option<Reference> {
        self.layer(diff_id).ok().flatten()?.dropped
    }
}

/// The layers of `image` whose blobs were dropped, with where they are.
#[must_use]
pub fn of(images: &Images, image: &StoredImage) -> Vec<(Descriptor, Reference)> {
    let layers = image
        .config
        .rootfs
        .diff_ids
        .iter()
        .zip(&image.manifest.layers);
    let mut all: Vec<(Descriptor, Reference)> = Vec::new();
    for (diff_id, layer) in layers {
        if !images.blob_path(&layer.digest).exists()
            && !all.iter().any(|(known, _)| known.digest == layer.digest)
            && let Some(from) = images.dropped_from(diff_id)
        {
            all.push((layer.clone(), from));
        }
    }
    all
}

/// Gets a dropped blob into a file without a name.
///
/// # Errors
/// The registry's.
pub fn fetch(
    images: &Images,
    blob: &Descriptor,
    from: &Reference,
    clients: &Clients<'_>,
) -> Result<File> {
    let scratch = Scratch::unique(&images.store, "blob")?;
    let path = scratch.path().join("blob");
    fetch_into(blob, from, clients, &path)?;
    File::open(&path).with_context(|| format!("opening `{}`", path.display()))
}

fn fetch_into(
    blob: &Descriptor,
    from: &Reference,
    clients: &Clients<'_>,
    path: &Path,
) -> Result<()> {
    let fetched = pull::fetch_blob(from, blob, false, &clients(from)?, path);
    fetched.map_err(|error| {
        let digest = &blob.digest;
        let what = format!("layer {digest} is not here: it was dropped, and does not come again");
        let fail = match kind(&error) == Kind::Network {
            true => Fail::network(what),
            false => Fail::not_found(what),
        };
        error.context(
            fail.hint(format!("see whether {from} is still there"))
                .hint("its files are here: `rl export` of a container, and `rl import`, make an image of them"),
        )
    })
}

/// Blobs that are in the store for as long as this lives.
#[derive(Debug)]
pub struct Restored<'i> {
    images: &'i Images,
    blobs: Vec<Digest>,
}

impl<'i> Restored<'i> {
    /// Gets all dropped blobs of `image`; `tell` is given a line for each.
    ///
    /// # Errors
    /// The registry's.
    pub fn new(
        images: &'i Images,
        image: &StoredImage,
        clients: &Clients<'_>,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        let mut restored = Self {
            images,
            blobs: Vec::new(),
        };
        for (blob, from) in of(images, image) {
            let (digest, place) = (blob.digest.short(), from.familiar_name());
            tell(&format!(
                "layer {digest} was dropped and is fetched again from {place}"
            ));
            let scratch = Scratch::claim(&images.store, &format!("blob-{}", blob.digest.hex()))?;
            let path = scratch.path().join("blob");
            fetch_into(&blob, &from, clients, &path)?;
            super::store::add::keep_blob(images, &path, &blob.digest)?;
            restored.blobs.push(blob.digest);
        }
        Ok(restored)
    }
}

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        for blob in &self.blobs {
            // What stays is no harm: `layer.json` still says that it may be missing.
            let _ = std::fs::remove_file(self.images.blob_path(blob));
        }
    }
}
