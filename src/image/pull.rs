//! Brings an image into the store: from a registry, or from anything else that gives blobs.
//!
//! A layer that is finished is kept, whatever becomes of the others; the image is listed when all of it
//! is there. What has no place yet is in [`super::scratch`].

use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::attached;
use super::config::ImageConfig;
use super::ingest::{self, Expected, LayerProgress, Phase, Progress};
use super::layer::Ids;
use super::manifest::{self, Descriptor, Document};
use super::parallel;
use super::partial::Part;
use super::platform::Platform;
use super::policy::{Origin, Policy};
use super::reference::{Digest, Reference};
use super::registry::{BlobBody, Client, ClientOptions, Wanted, is_resumable};
use super::scratch::{self, Scratch};
use super::store::add::{Added, Blobs, NewImage, keep_blob, keep_layer};
use super::store::{Images, LayerInfo, StoredImage};
use crate::error::{Fail, Kind, kind};
use crate::paths::Store;

/// Layers that are fetched at the same time when nobody chooses.
pub const PARALLEL: usize = 3;
/// How often layers that somebody removes meanwhile are fetched again.
const ROUNDS: usize = 3;

/// How often one layer's broken transfer is taken up again.
const RESUMES: u32 = 5;
/// How many indexes may lead from one to another.
const DEPTH: usize = 4;

/// What is to be pulled, and how.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// The image.
    pub reference: Reference,
    /// For which platform; this machine's by default.
    pub platform: Option<Platform>,
    /// How to talk to registries: which may be insecure, logins, proxies.
    pub client: ClientOptions,
    /// How ownership is kept.
    pub ids: Ids,
    /// Remove the layers as they were transferred once they are unpacked.
    pub drops_blobs: bool,
}

/// Pulls an image: what is missing of it is fetched, and its name stands for it from then on.
///
/// # Errors
/// Those of the registry, and of [`bring`].
pub fn pull(store: &Store, request: &PullRequest, progress: &dyn Progress) -> Result<StoredImage> {
    let reference = &request.reference;
    let pulling = || format!("pulling `{}`", reference.familiar());
    let endpoints = request
        .client
        .registries
        .endpoints(reference)
        .with_context(pulling)?;
    let mut left = endpoints.len();
    for endpoint in &endpoints {
        left -= 1;
        let mut options = request.client.clone();
        if endpoint.insecure {
            options.insecure.push(endpoint.registry.clone());
        }
        let client = Client::new(&endpoint.registry, options)?;
        let pulled = pull_from(&client, &endpoint.repository, store, request, progress);
        for note in client.take_notes() {
            progress.message(&note);
        }
        match pulled {
            // What is wrong here is wrong wherever it comes from.
            Err(error) if left > 0 && !matches!(kind(&error), Kind::System | Kind::Unsupported) => {
                progress.message(&format!(
                    "going on without the mirror {}/{}: {}",
                    endpoint.registry,
                    endpoint.repository,
                    crate::error::flatten(&error).message
                ));
            }
            done => return done.with_context(pulling),
        }
    }
    Err(Fail::not_found("registries.conf leaves no place to pull from").into())
}

fn pull_from(
    client: &Client,
    repository: &str,
    store: &Store,
    request: &PullRequest,
    progress: &dyn Progress,
) -> Result<StoredImage> {
    let reference = &request.reference;
    let platform = request.platform.clone().unwrap_or_else(Platform::host);
    let first = client.manifest(repository, Wanted::of(reference))?;
    let pulled = first.digest.clone();
    let mut fetched = first;
    let mut depth = 0;
    let manifest = loop {
        match manifest::parse(&fetched.bytes, fetched.media_type.as_deref())? {
            Document::Manifest(manifest) => break manifest,
            Document::Index(index) if depth < DEPTH => {
                depth += 1;
                let entry = index.choose(&platform)?;
                fetched = client.manifest(repository, Wanted::Digest(&entry.digest))?;
            }
            Document::Index(_) => {
                return Err(Fail::corrupt("the registry's indexes lead in a circle").into());
            }
        }
    };
    Policy::load()?.check(&Origin::Registry(reference), Some(&fetched.digest), &|| {
        attached::signatures(client, repository, reference, &fetched.digest)
    })?;
    let images = Images::open(store);
    // A newer name for an image that is here needs nothing but its manifest.
    let config_bytes = match images.read_blob(&manifest.config.digest) {
        Ok(bytes) => bytes,
        Err(_) => read_config(client, repository, &manifest.config)?,
    };
    let config = ImageConfig::parse(&config_bytes, &manifest)?;
    let made_for = config.platform();
    let is_other = platform.rank(&made_for).is_none() && !config.os.is_empty();
    if is_other && request.platform.is_some() {
        return Err(Fail::not_found(format!(
            "the image is for {made_for} only, not for {platform}"
        ))
        .code("RL-I02")
        .into());
    }
    let media_type = manifest
        .media_type
        .clone()
        .filter(|text| !text.is_empty())
        .or(fetched.media_type)
        .unwrap_or_else(|| manifest::OCI_MANIFEST.to_owned());
    let new = NewImage {
        manifest: &fetched.bytes,
        media_type: &media_type,
        config: &config_bytes,
        name: Some(reference),
        pulled: Some(&pulled),
        blobs: if request.drops_blobs {
            Blobs::Drop(reference)
        } else {
            Blobs::Keep
        },
    };
    let registry = Registry { client, repository };
    bring(store, &new, &registry, request.ids, progress)
}

/// The image's configuration, with its digest checked.
///
/// # Errors
/// The registry's; `Corrupt`.
pub fn read_config(client: &Client, repository: &str, wanted: &Descriptor) -> Result<Vec<u8>> {
    let registry = Registry { client, repository };
    let mut bytes = Vec::new();
    registry
        .blob(wanted)?
        .take(manifest::MAX_DOCUMENT)
        .read_to_end(&mut bytes)
        .map_err(ingest::read_failed)
        .context("getting the image's configuration")?;
    let digest = Digest::of(&bytes);
    if digest != wanted.digest {
        return Err(Fail::corrupt(format!(
            "the image's configuration {} is damaged: what came has the digest {digest}",
            wanted.digest
        ))
        .hint("try again; if it stays so, the registry or something on the way changes the content")
        .into());
    }
    Ok(bytes)
}

/// Fetches one blob of an image, a manifest among them, from where `from` came from, into the new file `into`. It has its digest.
///
/// # Errors
/// Those of the registry; `Corrupt` when it sends something else.
pub fn fetch_blob(
    from: &Reference,
    blob: &Descriptor,
    is_manifest: bool,
    options: &ClientOptions,
    into: &Path,
) -> Result<()> {
    let endpoints = options.registries.endpoints(from)?;
    let expected = Expected {
        digest: Some(blob.digest.clone()),
        size: Some(blob.size),
        diff_id: None,
    };
    let mut last = Err(Fail::not_found("registries.conf leaves no place to pull from").into());
    for endpoint in &endpoints {
        let mut options = options.clone();
        if endpoint.insecure {
            options.insecure.push(endpoint.registry.clone());
        }
        let client = Client::new(&endpoint.registry, options)?;
        let repository = &endpoint.repository;
        let registry = Registry {
            client: &client,
            repository,
        };
        let fetch = || {
            let source: Box<dyn Read + '_> = if is_manifest {
                let wanted = Wanted::Digest(&blob.digest);
                Box::new(io::Cursor::new(client.manifest(repository, wanted)?.bytes))
            } else {
                registry.blob(blob)?
            };
            ingest::copy_blob(source, into, &expected, &ingest::Silent)?;
            anyhow::Ok(std::fs::File::open(into)?.sync_all()?)
        };
        last =
            fetch().with_context(|| format!("fetching {} of `{}`", blob.digest, from.familiar()));
        if last.is_ok() {
            break;
        }
        let _ = std::fs::remove_file(into); // the next place makes it anew
    }
    last
}

/// The blobs of one repository.
#[derive(Debug)]
pub struct Registry<'c> {
    /// The registry.
    pub client: &'c Client,
    /// Its name there.
    pub repository: &'c str,
}

impl Source for Registry<'_> {
    fn blob(&self, layer: &Descriptor) -> Result<Box<dyn Read + '_>> {
        self.rest(layer, 0)
    }

    fn rest(&self, layer: &Descriptor, have: u64) -> Result<Box<dyn Read + '_>> {
        let stream = self.client.blob(self.repository, layer, have)?;
        Ok(Box::new(Transfer {
            registry: Registry { ..*self },
            layer: layer.clone(),
            body: stream.body,
            have,
            known: have.saturating_sub(stream.offset),
            resumes: RESUMES,
        }))
    }

    fn is_far(&self) -> bool {
        true
    }

    fn parallel(&self) -> usize {
        self.client.parallel()
    }
}

/// A blob whose transfer is taken up again where it breaks.
struct Transfer<'c> {
    registry: Registry<'c>,
    layer: Descriptor,
    body: BlobBody,
    /// Bytes handed out, and those that nobody wants.
    have: u64,
    /// As many bytes of `body` come again: its server cannot give a part.
    known: u64,
    resumes: u32,
}

impl Transfer<'_> {
    /// Asks for the rest.
    fn resume(&mut self) -> Result<()> {
        let registry = &self.registry;
        let stream = registry
            .client
            .blob(registry.repository, &self.layer, self.have)?;
        self.body = stream.body;
        self.known = self.have.saturating_sub(stream.offset);
        Ok(())
    }
}

impl Read for Transfer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let known = usize::try_from(self.known).unwrap_or(usize::MAX);
            let end = match known {
                0 => buffer.len(),
                known => buffer.len().min(known),
            };
            match self.body.read(&mut buffer[..end]) {
                Ok(count @ 1..) if known > 0 => self.known -= count as u64,
                Ok(count) => {
                    self.have += count as u64;
                    return Ok(count);
                }
                Err(error)
                    if self.resumes > 0 && self.have < self.layer.size && is_resumable(&error) =>
                {
                    self.resumes -= 1;
                    self.resume()
                        .map_err(|error| io::Error::other(crate::error::flatten(&error)))?;
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(io::Error::other(Fail::corrupt(error.to_string())));
                }
                Err(error) => {
                    return Err(io::Error::other(
                        Fail::network(error.to_string())
                            .hint("try again: what came of it is kept and not fetched twice"),
                    ));
                }
            }
        }
    }
}

/// Where layers come from.
pub trait Source: Sync {
    /// The bytes of `layer`, which are checked by whoever reads them.
    ///
    /// # Errors
    /// The source's.
    fn blob(&self, layer: &Descriptor) -> Result<Box<dyn Read + '_>>;

    /// The bytes of `layer` after the first `have`.
    ///
    /// # Errors
    /// The source's.
    fn rest(&self, layer: &Descriptor, have: u64) -> Result<Box<dyn Read + '_>> {
        let mut blob = self.blob(layer)?;
        io::copy(&mut (&mut blob).take(have), &mut io::sink()).map_err(ingest::read_failed)?;
        Ok(blob)
    }

    /// As many blobs are read at the same time.
    fn parallel(&self) -> usize {
        PARALLEL
    }

    /// Whether it takes time to ask again: what came of a transfer that breaks off is kept.
    fn is_far(&self) -> bool {
        false
    }
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
                if let Blobs::Drop(from) = new.blobs {
                    for (diff_id, layer) in &layers {
                        if images.blob_path(&layer.digest).exists() {
                            images.drop_blob(diff_id, &layer.digest, from)?;
                        }
                    }
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
        parallel::each("layer", source.parallel(), jobs, |job| {
            let place = Place {
                images: &images,
                store,
                ids,
            };
            fetch(&place, job, source, progress)?;
            match new.blobs {
                // At once: a quota may have room for one more of them and not for all.
                Blobs::Drop(from) => images.drop_blob(job.diff_id, &job.layer.digest, from),
                Blobs::Keep | Blobs::AsTheyAre => Ok(()),
            }
        })?;
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

/// Where layers go.
struct Place<'p> {
    images: &'p Images,
    store: &'p Store,
    ids: Ids,
}

/// Fetches, unpacks and keeps one layer, or what of it is missing.
fn fetch(
    place: &Place<'_>,
    job: &Job<'_>,
    source: &dyn Source,
    display: &dyn Progress,
) -> Result<()> {
    let Job {
        diff_id,
        layer,
        progress,
    } = job;
    let Place { images, store, ids } = place;
    progress.phase(Phase::Waiting);
    let scratch = Scratch::claim(store, diff_id.hex())?;
    let blob = images.blob_path(&layer.digest);
    let has_tree = images.layer_dir(diff_id).exists();
    let tree = scratch.path().join("fs");
    let mut expected = Expected {
        digest: Some(layer.digest.clone()),
        size: Some(layer.size),
        diff_id: Some((*diff_id).clone()),
    };
    let keep = |ingested: ingest::Ingested| {
        keep_layer(
            images,
            &scratch,
            diff_id,
            &LayerInfo::new(*ids, ingested.digest, ingested.report),
        )
    };

    if has_tree && blob.exists() {
        progress.phase(Phase::Exists);
        progress.done();
        return Ok(());
    }
    if !has_tree && let Ok(file) = std::fs::File::open(&blob) {
        match ingest::ingest(file, None, &tree, *ids, &expected, progress.as_ref()) {
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
    if has_tree {
        expected.diff_id = None;
    }
    let take = |source: &mut dyn Read, aside: &Path| {
        if has_tree {
            ingest::copy_blob(source, aside, &expected, progress.as_ref())?;
            std::fs::File::open(aside)?.sync_all()?;
            return Ok(None);
        }
        ingest::ingest(
            source,
            Some(aside),
            &tree,
            *ids,
            &expected,
            progress.as_ref(),
        )
        .map(Some)
    };
    let taken = || {
        if !source.is_far() {
            let aside = scratch.path().join("blob");
            let taken = take(&mut source.blob(layer)?, &aside)?;
            keep_blob(images, &aside, &layer.digest)?;
            return Ok(taken);
        }
        let part = Part::claim(store, &layer.digest)?;
        let taken = match resume(&part, layer, source, display, &take) {
            // The first bytes may be the bad ones.
            Err((true, error)) if kind(&error) == Kind::Corrupt => {
                display.message(&format!(
                    "layer {}: what an earlier transfer had left is damaged, it is fetched anew",
                    layer.digest.short()
                ));
                part.empty()?;
                scratch.clear_tree()?;
                resume(&part, layer, source, display, &take)
            }
            taken => taken,
        };
        match taken {
            Ok(taken) => {
                keep_blob(images, part.path(), &layer.digest)?;
                Ok(taken)
            }
            Err((_, error)) => {
                // What the line broke goes on with the next command.
                if kind(&error) != Kind::Network || part.have().is_ok_and(|have| have == 0) {
                    part.discard();
                }
                Err(error)
            }
        }
    };
    let taken: Result<Option<ingest::Ingested>> = taken();
    if let Some(ingested) =
        taken.with_context(|| format!("fetching layer {}", layer.digest.short()))?
    {
        keep(ingested)?;
    }
    progress.done();
    Ok(())
}

/// Hands all of a layer to `take`: what is in `part`, then the rest. With an error comes whether there was anything in
/// `part`.
fn resume<T>(
    part: &Part,
    layer: &Descriptor,
    source: &dyn Source,
    display: &dyn Progress,
    take: &impl Fn(&mut dyn Read, &Path) -> Result<T>,
) -> Result<T, (bool, anyhow::Error)> {
    let begun = |error| (false, error);
    if part.have().map_err(begun)? > layer.size {
        part.empty().map_err(begun)?;
    }
    let have = part.have().map_err(begun)?;
    let whole = || {
        if have == 0 {
            return take(&mut source.blob(layer)?, part.path());
        }
        display.message(&format!(
            "layer {}: {have} of {} bytes are here from an earlier transfer",
            layer.digest.short(),
            layer.size
        ));
        let rest: Box<dyn Read + '_> = if have < layer.size {
            source.rest(layer, have)?
        } else {
            Box::new(io::empty())
        };
        take(&mut part.read()?.take(have).chain(rest), part.path())
    };
    whole().map_err(|error| (have > 0, error))
}

#[cfg(test)]
mod tests {
    use super::super::ingest::Silent;
    use super::*;
    use serde_json::json;
    use std::collections::HashMap;

    /// Blobs in memory; those that are missing fail as a network does.
    struct Memory(HashMap<Digest, Vec<u8>>);

    impl Source for Memory {
        fn blob(&self, layer: &Descriptor) -> Result<Box<dyn Read + '_>> {
            match self.0.get(&layer.digest) {
                Some(bytes) => Ok(Box::new(&bytes[..])),
                None => Err(Fail::network("the line is dead").into()),
            }
        }
    }

    fn layer(name: &str) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, &b"text"[..])
            .unwrap();
        builder.into_inner().unwrap()
    }

    struct Image {
        layers: Vec<Vec<u8>>,
        config: Vec<u8>,
        manifest: Vec<u8>,
    }

    fn image(names: &[&str]) -> Image {
        let layers: Vec<Vec<u8>> = names.iter().map(|name| layer(name)).collect();
        let digests: Vec<String> = layers
            .iter()
            .map(|tar| Digest::of(tar).to_string())
            .collect();
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": digests},
        })
        .to_string();
        let descriptors: Vec<_> = layers
            .iter()
            .map(|tar| json!({
                "mediaType": manifest::OCI_LAYER, "digest": Digest::of(tar).to_string(), "size": tar.len(),
            }))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "config": {
                "mediaType": manifest::OCI_CONFIG,
                "digest": Digest::of(config.as_bytes()).to_string(), "size": config.len(),
            },
            "layers": descriptors,
        })
        .to_string();
        Image {
            layers,
            config: config.into_bytes(),
            manifest: manifest.into_bytes(),
        }
    }

    impl Image {
        fn source(&self) -> Memory {
            Memory(
                self.layers
                    .iter()
                    .map(|tar| (Digest::of(tar), tar.clone()))
                    .collect(),
            )
        }

        fn bring(&self, store: &Store, source: &Memory) -> Result<StoredImage> {
            let name = Reference::parse("a").unwrap();
            let new = NewImage {
                manifest: &self.manifest,
                media_type: manifest::OCI_MANIFEST,
                config: &self.config,
                name: Some(&name),
                pulled: None,
                blobs: Blobs::Keep,
            };
            bring(store, &new, source, Ids::Single, &Silent)
        }
    }

    fn entries(path: &std::path::Path) -> usize {
        std::fs::read_dir(path).map_or(0, Iterator::count)
    }

    #[test]
    fn a_finished_layer_is_kept_when_another_one_fails() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("rl"));
        let image = image(&["a", "b", "c"]);
        let mut source = image.source();
        let lost = source.0.remove(&Digest::of(&image.layers[2])).unwrap();
        let error = image.bring(&store, &source).expect_err("one is lost");
        assert_eq!(kind(&error), Kind::Network);
        assert!(Images::open(&store).list().unwrap().0.is_empty());
        assert_eq!((entries(&store.layers()), entries(&store.tmp())), (2, 0));
        // Only the lost one is asked for.
        let rest = Memory(HashMap::from([(Digest::of(&lost), lost)]));
        assert!(image.bring(&store, &rest).unwrap().layers_present);
    }

    #[test]
    fn content_that_is_not_what_was_promised_is_never_kept() {
        let good = image(&["a"]);
        let digest = Digest::of(&good.layers[0]);
        let other = layer("b");
        let short = good.layers[0][..700].to_vec();
        let long = [&good.layers[0][..], &[0; 512]].concat();
        let mut bomb = zstd::encode_all(io::repeat(0).take(64 << 20), 1).unwrap();
        bomb.resize(good.layers[0].len().max(bomb.len()), 0);
        for (name, bytes) in [
            ("other", other),
            ("short", short),
            ("long", long),
            ("bomb", bomb),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::at(dir.path().join("rl"));
            let source = Memory(HashMap::from([(digest.clone(), bytes)]));
            let error = good.bring(&store, &source).expect_err(name);
            assert_eq!(kind(&error), Kind::Corrupt, "{name}: {error:#}");
            assert_eq!(
                (entries(&store.layers()), entries(&store.tmp())),
                (0, 0),
                "{name}"
            );
            assert_eq!(entries(&store.images().join("blobs/sha256")), 0, "{name}");
        }
    }

    #[test]
    fn many_pulls_of_one_image_do_the_work_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("rl"));
        let image = image(&["a", "b", "c", "d"]);
        let source = image.source();
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| assert!(image.bring(&store, &source).unwrap().layers_present));
            }
        });
        assert_eq!((entries(&store.layers()), entries(&store.tmp())), (4, 0));
        assert_eq!(Images::open(&store).list().unwrap().0.len(), 1);
    }
}
