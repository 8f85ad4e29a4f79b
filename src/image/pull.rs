//! Brings an image into the store: from a registry, or from anything else that gives blobs.
//!
//! A layer that is finished is kept, whatever becomes of the others; the image is listed when all of it
//! is there. What has no place yet is in [`super::scratch`].

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Mutex;

use anyhow::{Context as _, Result};

use super::config::ImageConfig;
use super::ingest::{self, Expected, LayerProgress, Phase, Progress};
use super::layer::Ids;
use super::manifest::{self, Descriptor, Document};
use super::reference::Digest;
use super::scratch::{self, Scratch};
use super::store::{self, Added, Images, LayerInfo, NewImage, StoredImage};
use crate::error::{Fail, Kind, kind};
use crate::paths::Store;

/// Layers that are fetched at the same time.
pub const PARALLEL: usize = 3;
/// How often layers that somebody removes meanwhile are fetched again.
const ROUNDS: usize = 3;

/// Where layers come from.
pub trait Source: Sync {
    /// The bytes of `layer`, which are checked by whoever reads them.
    ///
    /// # Errors
    /// The source's.
    fn blob(&self, layer: &Descriptor) -> Result<Box<dyn Read + '_>>;
}

/// Fetches the layers that are missing and lists the image.
///
/// # Errors
/// Those of [`ingest::ingest`] and of the source; the first one of several.
pub fn bring(
    store: &Store,
    new: &NewImage<'_>,
    source: &dyn Source,
    ids: Ids,
    progress: &dyn Progress,
) -> Result<StoredImage> {
    scratch::sweep(store)?;
    let images = Images::open(store);
    let Document::Manifest(manifest) = manifest::parse(new.manifest, Some(new.media_type))? else {
        return Err(Fail::corrupt("an index of images is not an image").into());
    };
    let config = ImageConfig::parse(new.config, &manifest)?;
    let mut layers: Vec<(&Digest, &Descriptor)> = Vec::new();
    for (diff_id, layer) in config.rootfs.diff_ids.iter().zip(&manifest.layers) {
        // Some builders repeat an empty layer.
        if !layers
            .iter()
            .any(|(known, other)| *known == diff_id && other.digest == layer.digest)
        {
            layers.push((diff_id, layer));
        }
    }
    for round in 0..ROUNDS {
        let missing = match images.add(new)? {
            Added::Done(image) => {
                if round == 0 {
                    show_existing(&layers, &[], progress);
                }
                return Ok(*image);
            }
            Added::Missing(missing) => missing,
        };
        if round == 0 {
            show_existing(&layers, &missing, progress);
        }
        let jobs = layers
            .iter()
            .filter(|(diff_id, _)| missing.contains(diff_id))
            .map(|(diff_id, layer)| Job {
                diff_id,
                layer,
                progress: progress.layer(&layer.digest, Some(layer.size)),
            })
            .collect();
        fetch_all(&images, store, jobs, source, ids)?;
    }
    Err(
        Fail::conflict("its layers are removed as fast as they are fetched")
            .hint("another `rl rmi` or `rl image prune` is at work: try again when it is done")
            .into(),
    )
}

fn show_existing(layers: &[(&Digest, &Descriptor)], missing: &[Digest], progress: &dyn Progress) {
    for (diff_id, layer) in layers {
        if !missing.contains(diff_id) {
            let progress = progress.layer(&layer.digest, Some(layer.size));
            progress.phase(Phase::Exists);
            progress.done();
        }
    }
}

struct Job<'j> {
    diff_id: &'j Digest,
    layer: &'j Descriptor,
    progress: Box<dyn LayerProgress>,
}

fn fetch_all(
    images: &Images,
    store: &Store,
    jobs: VecDeque<Job<'_>>,
    source: &dyn Source,
    ids: Ids,
) -> Result<()> {
    let threads = jobs.len().min(PARALLEL);
    let state: Mutex<(VecDeque<Job<'_>>, Option<anyhow::Error>)> = Mutex::new((jobs, None));
    // A thread that panicked while it held the lock left nothing half done in these two.
    let locked = || {
        state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    };
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let job = {
                    let mut state = locked();
                    // After a failure nothing new is begun, but what is under way is finished and kept.
                    match &state.1 {
                        Some(_) => None,
                        None => state.0.pop_front(),
                    }
                };
                let Some(job) = job else {
                    return;
                };
                if let Err(error) = fetch(images, store, &job, source, ids) {
                    locked().1.get_or_insert(error);
                }
            }
        };
        for _ in 1..threads {
            // Fewer threads are slower, and that is all.
            let _ = std::thread::Builder::new()
                .name("layer".to_owned())
                .spawn_scoped(scope, work);
        }
        work();
    });
    match locked().1.take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Fetches, unpacks and keeps one layer, or what of it is missing.
fn fetch(
    images: &Images,
    store: &Store,
    job: &Job<'_>,
    source: &dyn Source,
    ids: Ids,
) -> Result<()> {
    let Job {
        diff_id,
        layer,
        progress,
    } = job;
    progress.phase(Phase::Waiting);
    let scratch = Scratch::claim(store, diff_id.hex())?;
    let blob = images.blob_path(&layer.digest);
    let has_tree = images.layer_dir(diff_id).exists();
    let aside = scratch.path().join("blob");
    let tree = scratch.path().join("fs");
    let mut expected = Expected {
        digest: Some(layer.digest.clone()),
        size: Some(layer.size),
        diff_id: Some((*diff_id).clone()),
    };
    let keep = |ingested: ingest::Ingested| {
        store::keep_layer(
            images,
            &scratch,
            diff_id,
            &LayerInfo::new(ids, ingested.digest, ingested.report),
        )
    };
    let doing = || format!("fetching layer {}", layer.digest.short());

    if has_tree && blob.exists() {
        progress.phase(Phase::Exists);
    } else if has_tree {
        expected.diff_id = None;
        let source = source.blob(layer).with_context(doing)?;
        ingest::copy_blob(source, &aside, &expected, progress.as_ref()).with_context(doing)?;
        std::fs::File::open(&aside)?.sync_all()?;
        store::keep_blob(images, &aside, &layer.digest)?;
    } else {
        if let Ok(file) = std::fs::File::open(&blob) {
            match ingest::ingest(file, None, &tree, ids, &expected, progress.as_ref()) {
                Ok(ingested) => {
                    keep(ingested)?;
                    progress.done();
                    return Ok(());
                }
                // The stored blob is damaged: a good one takes its place.
                Err(error) if kind(&error) == Kind::Corrupt => {
                    scratch.clear_tree()?;
                }
                Err(error) => {
                    return Err(error.context(format!("unpacking layer {}", layer.digest.short())));
                }
            }
        }
        let source = source.blob(layer).with_context(doing)?;
        let ingested = ingest::ingest(
            source,
            Some(&aside),
            &tree,
            ids,
            &expected,
            progress.as_ref(),
        )
        .with_context(doing)?;
        store::keep_blob(images, &aside, &layer.digest)?;
        keep(ingested)?;
    }
    progress.done();
    Ok(())
}
