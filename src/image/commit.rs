//! A container's changes as an image: one more layer over those of the image that it came from.
//!
//! The layer comes as a tar and is packed, digested, stored and unpacked at once; the image is listed last. Knows
//! nothing of containers.

use std::io::{self, Read, Write};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::changes;
use super::config::{History, ImageConfig, RootFs, RunConfig};
use super::ingest::{self, Expected, Packing, Progress};
use super::layer::Ids;
use super::manifest::{self, Descriptor, Manifest};
use super::platform::Platform;
use super::reference::{Digest, Reference};
use super::scratch::{self, Scratch};
use super::store::add::{Added, Blobs, NewImage, keep_blob, keep_layer};
use super::store::{Images, LayerInfo};
use crate::error::Fail;
use crate::paths::Store;

/// What ends a tar that is complete: whoever writes it may be killed between two files.
const END: &[u8; 17] = b"\nrl: all written.";
/// The message for one that is not.
pub const CUT: &str = "the container's files came to an end too early";

/// In whose words the image is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Format {
    /// The Open Container Initiative's.
    #[default]
    Oci,
    /// Docker's.
    Docker,
}

/// What an image is made with, beside the layer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Recipe {
    /// The id of the image below; none where the layer is the whole image.
    pub base: Option<String>,
    /// What containers get from it, before the changes.
    pub config: RunConfig,
    /// Instructions, see [`changes::apply`].
    pub changes: Vec<String>,
    /// Who made it.
    pub author: Option<String>,
    /// A comment for the history.
    pub message: Option<String>,
    /// What the history says ran.
    pub command: String,
    /// Its name.
    pub reference: Option<Reference>,
    /// In whose words.
    pub format: Format,
}

/// Marks a tar as complete.
///
/// # Errors
/// The output's.
pub fn end(mut out: impl Write) -> io::Result<()> {
    out.write_all(END)?;
    out.flush()
}

/// A reader that keeps [`END`] back, and fails where it is missing.
struct Whole<R> {
    input: R,
    buffer: Vec<u8>,
    start: usize,
    ended: bool,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !self.ended && self.buffer.len() - self.start <= END.len() {
            self.buffer.drain(..self.start);
            self.start = 0;
            let have = self.buffer.len();
            self.buffer.resize(have + (128 << 10), 0);
            let read = self.input.read(&mut self.buffer[have..]);
            self.buffer.truncate(have + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => {
                    self.ended = true;
                    if self.buffer != END {
                        return Err(io::Error::other(Fail::system(CUT)));
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let ready = (self.buffer.len() - self.start).saturating_sub(END.len());
        let count = ready.min(out.len());
        out[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }
}

/// Makes the image from the layer's tar, which [`end`] has marked, and returns its id.
///
/// # Errors
/// `Usage` for a wrong change, `NotFound` when the image below is gone; those of [`ingest::ingest`].
pub fn commit(
    store: &Store,
    input: impl Read,
    recipe: &Recipe,
    ids: Ids,
    progress: &dyn Progress,
) -> Result<Digest> {
    let now = jiff::Timestamp::now().to_string();
    let images = Images::open(store);
    let (mut config, mut layers) = below(&images, recipe)?;
    config.created = Some(now.clone());
    config.author = recipe.author.clone().or(config.author);
    config.config = recipe.config.clone();
    for change in &recipe.changes {
        changes::apply(&mut config.config, change)?;
    }
    scratch::sweep(store)?;
    images.prepare()?;
    let scratch = Scratch::unique(store, "commit")?;
    let blob = scratch.path().join("blob");
    let whole = Whole {
        input,
        buffer: Vec::new(),
        start: 0,
        ended: false,
    };
    let packed = flate2::read::GzEncoder::new(whole, flate2::Compression::default());
    // The digest is not known yet; a display needs some name for the layer.
    let shown = progress.layer(&Digest::of(b""), None);
    let tree = scratch.path().join("fs");
    let expected = Expected::default();
    let ingested = ingest::ingest(packed, Some(&blob), &tree, ids, &expected, shown.as_ref())
        .context("making the new layer")?;
    config.rootfs.diff_ids.push(ingested.diff_id.clone());
    config.history.push(History {
        created: Some(now),
        created_by: Some(recipe.command.clone()),
        author: recipe.author.clone(),
        comment: recipe.message.clone(),
        ..History::default()
    });
    let digest = ingested.digest.clone();
    layers.push(layer(recipe.format, digest, ingested.size, Packing::Gzip));
    let config_bytes = serde_json::to_vec(&config).context("describing the image")?;
    let (media_type, config_type) = match recipe.format {
        Format::Oci => (manifest::OCI_MANIFEST, manifest::OCI_CONFIG),
        Format::Docker => (manifest::DOCKER_MANIFEST, manifest::DOCKER_CONFIG),
    };
    let described = Manifest {
        schema_version: 2,
        media_type: Some(media_type.to_owned()),
        config: described(
            config_type.to_owned(),
            Digest::of(&config_bytes),
            config_bytes.len() as u64,
        ),
        layers,
        annotations: std::collections::BTreeMap::new(),
    };
    let manifest_bytes = serde_json::to_vec(&described).context("describing the image")?;
    let new = NewImage {
        manifest: &manifest_bytes,
        media_type,
        config: &config_bytes,
        name: recipe.reference.as_ref(),
        pulled: None,
        blobs: Blobs::AsTheyAre,
    };
    keep_blob(&images, &blob, &ingested.digest)?;
    let info = LayerInfo::new(ids, ingested.digest.clone(), ingested.report);
    keep_layer(&images, &scratch, &ingested.diff_id, &info)?;
    let added = images.add(&new)?;
    shown.done();
    match added {
        Added::Done(image) => Ok(image.id),
        Added::Missing(_) => Err(
            Fail::conflict("a layer of the image below is not here any more")
                .hint("fetch that image again, or make an image of one layer: rl commit --squash")
                .into(),
        ),
    }
}

/// Configuration and layers to go on from.
fn below(images: &Images, recipe: &Recipe) -> Result<(ImageConfig, Vec<Descriptor>)> {
    let Some(id) = &recipe.base else {
        let platform = Platform::host();
        let config = ImageConfig {
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            rootfs: RootFs {
                kind: "layers".to_owned(),
                diff_ids: Vec::new(),
            },
            ..ImageConfig::default()
        };
        return Ok((config, Vec::new()));
    };
    let image = images.find(id, None)?.ok_or_else(|| {
        Fail::not_found("the image that the container came from is not here any more")
            .hint("fetch it again, or make an image of one layer: rl commit --squash")
    })?;
    let mut config = image.config;
    if config
        .history
        .iter()
        .filter(|step| !step.empty_layer)
        .count()
        != image.manifest.layers.len()
    {
        // Tools count: a history that tells of fewer layers than there are is worse than none.
        config.history.clear();
        let step = History {
            comment: Some("a layer of the image below".to_owned()),
            ..History::default()
        };
        config.history.resize(image.manifest.layers.len(), step);
    }
    let layers = image.manifest.layers.into_iter().map(|below| {
        let packing = if below.media_type.ends_with("zstd") {
            Packing::Zstd
        } else if below.media_type.ends_with("gzip") {
            Packing::Gzip
        } else {
            Packing::Plain
        };
        if packing == Packing::Zstd && recipe.format == Format::Docker {
            return Err(Fail::unsupported(
                "docker's format has no layers packed with zstd, and the image below has",
            )
            .hint("leave --format out")
            .into());
        }
        Ok(layer(recipe.format, below.digest, below.size, packing))
    });
    Ok((config, layers.collect::<Result<_>>()?))
}

fn layer(format: Format, digest: Digest, size: u64, packing: Packing) -> Descriptor {
    let (base, gzip) = match format {
        Format::Oci => (manifest::OCI_LAYER, "+gzip"),
        Format::Docker => (manifest::DOCKER_LAYER, ".gzip"),
    };
    let suffix = match packing {
        Packing::Gzip => gzip,
        Packing::Zstd => "+zstd",
        Packing::Plain | Packing::Xz | Packing::Bzip2 => "",
    };
    described(format!("{base}{suffix}"), digest, size)
}

fn described(media_type: String, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type,
        digest,
        size,
        urls: Vec::new(),
        platform: None,
        artifact_type: None,
        annotations: std::collections::BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_without_its_end_is_refused() {
        let read = |bytes: &[u8]| {
            let mut whole = Whole {
                input: bytes,
                buffer: Vec::new(),
                start: 0,
                ended: false,
            };
            let mut out = Vec::new();
            whole.read_to_end(&mut out).map(|_| out)
        };
        for length in [0, 1, 15, 16, 17, 300_000] {
            let content = vec![7_u8; length];
            let mut marked = content.clone();
            end(&mut marked).unwrap();
            assert!(read(&marked).unwrap() == content, "{length}");
            assert!(read(&content).is_err(), "{length}");
            assert!(read(&marked[..marked.len() - 1]).is_err(), "{length}");
        }
    }
}
