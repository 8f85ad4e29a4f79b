//! Brings an image of the store to a registry: blobs first, then the manifest, byte for byte as it came.
//!
//! A blob that the registry has, in this repository or in another one of which we know, is not sent.

use std::collections::VecDeque;
use std::fs::File;

use anyhow::{Context as _, Result};

use super::dropped::{self, Clients};
use super::ingest::{LayerProgress, Phase, Progress};
use super::manifest::{Descriptor, Format};
use super::parallel;
use super::reference::{Digest, Reference};
use super::registry::{Blob, Client, ClientOptions, Uploaded};
use super::store::{Images, StoredImage};
use crate::error::Fail;

/// What is to be pushed, and how.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// Where to.
    pub target: Reference,
    /// In the words of which format; the image's own where none is given.
    pub format: Option<Format>,
    /// How to talk to registries.
    pub client: ClientOptions,
}

/// What the registry has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Of the manifest.
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
}

/// A manifest to be written somewhere else.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// As it stands in the store, or written anew in another format.
    pub bytes: Vec<u8>,
    /// Its media type.
    pub media_type: String,
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

impl Outgoing {
    /// Of the manifest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// The manifest of `image`, byte for byte where `format` is none or its own.
    ///
    /// # Errors
    /// `Corrupt` when the stored one is damaged; those of [`super::manifest::Manifest::converted`].
    pub fn of(images: &Images, image: &StoredImage, format: Option<Format>) -> Result<Self> {
        let own = &image.manifest;
        let is_docker = own.kind() == super::manifest::DOCKER_MANIFEST;
        let manifest = match format {
            Some(Format::Oci) if is_docker => own.converted(Format::Oci)?,
            Some(Format::Docker) if !is_docker => own.converted(Format::Docker)?,
            Some(Format::Oci | Format::Docker) | None => {
                return Ok(Self {
                    bytes: images.read_blob(&image.manifest_digest)?,
                    media_type: own.kind().to_owned(),
                    config: own.config.clone(),
                    layers: own.layers.clone(),
                });
            }
        };
        Ok(Self {
            bytes: serde_json::to_vec(&manifest).context("describing the image")?,
            media_type: manifest.kind().to_owned(),
            config: manifest.config,
            layers: manifest.layers,
        })
    }
}

/// Pushes an image. `clients` are for the registries of blobs that were dropped here and are missing there.
///
/// # Errors
/// `Corrupt` when blobs are missing here and there; the registry's.
pub fn push(
    images: &Images,
    image: &StoredImage,
    request: &PushRequest,
    clients: &Clients<'_>,
    progress: &dyn Progress,
) -> Result<Pushed> {
    let target = &request.target;
    // Mirrors are for reading; what is blocked is blocked for both.
    request.client.registries.endpoints(target)?;
    let client = Client::new(&target.registry, request.client.clone())?;
    let pushed = push_to(&client, images, image, request, clients, progress)
        .with_context(|| format!("pushing `{}`", target.familiar()));
    for note in client.take_notes() {
        progress.message(&note);
    }
    pushed
}

fn push_to(
    client: &Client,
    images: &Images,
    image: &StoredImage,
    request: &PushRequest,
    clients: &Clients<'_>,
    progress: &dyn Progress,
) -> Result<Pushed> {
    let target = &request.target;
    let outgoing = Outgoing::of(images, image, request.format)?;
    if let Some(wanted) = &target.digest
        && *wanted != Digest::of(&outgoing.bytes)
    {
        return Err(Fail::usage(format!(
            "the image's digest is {}, not {wanted}",
            Digest::of(&outgoing.bytes)
        ))
        .hint("leave the digest out: the registry computes it")
        .into());
    }
    let dropped = dropped::of(images, image);
    let elsewhere = |blob: &Descriptor| {
        let found = dropped
            .iter()
            .find(|(known, _)| known.digest == blob.digest);
        found
            .map(|(blob, from)| dropped::fetch(images, blob, from, clients))
            .transpose()
    };
    let shipment = Shipment {
        client,
        images,
        repository: &target.repository,
        known: neighbours(images, &target.registry),
        elsewhere: &elsewhere,
    };
    shipment.send(&outgoing, progress)?;
    let digest = client.put_manifest(target, &outgoing.media_type, &outgoing.bytes)?;
    Ok(Pushed {
        digest,
        size: outgoing.bytes.len() as u64,
    })
}

/// Where blobs go, and where they are.
pub struct Shipment<'s> {
    /// The registry.
    pub client: &'s Client,
    /// Where blobs are looked for.
    pub images: &'s Images,
    /// Of the registry.
    pub repository: &'s str,
    /// Blobs and other repositories of the registry that should have them, see [`neighbours`].
    pub known: Vec<(Digest, String)>,
    /// Gets a blob that is not in the store, if it is anywhere.
    pub elsewhere: &'s (dyn Fn(&Descriptor) -> Result<Option<File>> + Sync),
}

impl std::fmt::Debug for Shipment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shipment({})", self.repository)
    }
}

impl Shipment<'_> {
    /// Brings all blobs of an image there; its manifest may follow.
    ///
    /// # Errors
    /// `Corrupt` when blobs are missing here and there; the registry's.
    pub fn send(&self, outgoing: &Outgoing, progress: &dyn Progress) -> Result<()> {
        let mut blobs: Vec<&Descriptor> = Vec::new();
        for blob in outgoing.layers.iter().chain([&outgoing.config]) {
            if !blobs.iter().any(|other| other.digest == blob.digest) {
                blobs.push(blob);
            }
        }
        let jobs: VecDeque<_> = blobs
            .into_iter()
            .map(|blob| {
                let is_layer = blob.digest != outgoing.config.digest;
                let shown = is_layer.then(|| progress.layer(&blob.digest, Some(blob.size)));
                (blob, shown)
            })
            .collect();
        parallel::each("push", self.client.parallel(), jobs, |(blob, shown)| {
            self.send_blob(blob, shown.as_deref())
        })
    }

    fn send_blob(&self, blob: &Descriptor, shown: Option<&dyn LayerProgress>) -> Result<()> {
        let path = self.images.blob_path(&blob.digest);
        let mut file = match File::open(&path) {
            Ok(file) => Some(file),
            // The registry may have it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).with_context(|| format!("opening `{}`", path.display()));
            }
        };
        if let Some(file) = &file
            && file.metadata()?.len() != blob.size
        {
            return Err(damaged(blob, "is damaged").into());
        }
        let begun = std::sync::atomic::AtomicBool::new(false);
        let sent = |count| {
            if let Some(shown) = shown {
                if !begun.swap(true, std::sync::atomic::Ordering::Relaxed) {
                    shown.phase(Phase::Uploading);
                }
                shown.advance(count);
            }
        };
        let mut known = self.known.iter();
        let from = known
            .find(|(digest, _)| *digest == blob.digest)
            .map(|(_, repository)| &**repository);
        let upload = |file: Option<&File>| {
            let wanted = Blob {
                digest: &blob.digest,
                file,
                size: blob.size,
                from,
            };
            self.client.upload(self.repository, &wanted, &sent)
        };
        let mut outcome = upload(file.as_ref())?;
        if matches!(outcome, Uploaded::Missing) {
            file = (self.elsewhere)(blob)?;
            if file.is_some() {
                outcome = upload(file.as_ref())?;
            }
        }
        match outcome {
            Uploaded::Missing => {
                return Err(
                    damaged(blob, "is not here in the form in which registries have it").into(),
                );
            }
            Uploaded::Exists => shown.inspect(|shown| shown.phase(Phase::Exists)),
            Uploaded::Mounted(_) => shown.inspect(|shown| shown.phase(Phase::Mounted)),
            Uploaded::Sent => shown,
        };
        if let Some(shown) = shown {
            shown.done();
        }
        Ok(())
    }
}

fn damaged(blob: &Descriptor, how: &str) -> Fail {
    Fail::corrupt(format!("layer {} {how}", blob.digest))
        .hint("`rl pull --blobs=keep` of the image fetches what is missing of it")
}

/// Blobs and the repositories of `registry` that had them once: what was pulled from there or pushed to it.
#[must_use]
pub fn neighbours(images: &Images, registry: &str) -> Vec<(Digest, String)> {
    let mut known = Vec::new();
    // Without them more is sent: a damaged image is no reason not to push a good one.
    for image in images
        .list()
        .map_or_else(|_| Vec::new(), |(images, _)| images)
    {
        for name in &image.repo_digests {
            if name.registry == registry {
                for blob in image.manifest.layers.iter().chain([&image.manifest.config]) {
                    known.push((blob.digest.clone(), name.repository.clone()));
                }
            }
        }
    }
    known
}
