//! The images that are here: names, manifests, configurations and layers on disk.
//!
//! Fetches and unpacks nothing. `images/` is an OCI image layout that other tools read as it is:
//!
//! ```text
//! images/oci-layout
//! images/index.json           one entry for each name; its annotation org.opencontainers.image.ref.name
//!                             is the full name, and is missing where an image lost its last one
//! images/blobs/sha256/HEX     manifests, configurations, layers as they were transferred
//! images/lock                 flock(2) for changes of index.json and for removals
//! layers/HEX/fs               an unpacked layer, HEX from its DiffID
//! layers/HEX/layer.json       see [`LayerInfo`]
//! ```
//!
//! Readers take no lock: index.json is replaced as a whole. Whoever adds an image checks, under the
//! lock, that all its parts are still there ([`Images::add`]), for a removal may have come in between.

pub mod add;
mod index;
pub mod remove;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::config::ImageConfig;
use super::layer::{Ids, Report};
use super::manifest::{self, Descriptor, Document, Index, MAX_DOCUMENT, Manifest};
use super::platform::Platform;
use super::reference::{Digest, Reference};
use crate::error::Fail;
use crate::paths::Store;
use crate::sys;

/// The annotation that names an image in an OCI layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation with the digest that the registry gave for the name: the index's, where there is one.
pub(super) const PULLED: &str = "rl.pulled-digest";
/// The version of `layer.json`.
const LAYER_VERSION: u32 = 1;
/// Most bytes of index.json: some 100,000 names.
const MAX_INDEX: u64 = 64 << 20;

/// `layers/HEX/layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// 1.
    pub version: u32,
    /// How ownership is kept in `fs/`.
    pub ids: Ids,
    /// The layer as it was transferred; the DiffID itself where it was no blob of its own.
    pub digest: Digest,
    /// What unpacking did.
    pub report: Report,
    /// Where the blob is when it was dropped; it may be here all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Reference>,
}

impl LayerInfo {
    /// The description of a layer that was just unpacked.
    #[must_use]
    pub fn new(ids: Ids, digest: Digest, report: Report) -> Self {
        Self {
            version: LAYER_VERSION,
            ids,
            digest,
            report,
            dropped: None,
        }
    }
}

/// An image that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// All its names, in the order they were given.
    pub names: Vec<Reference>,
    /// Digest of the configuration: docker's image id.
    pub id: Digest,
    /// Digest of the manifest.
    pub manifest_digest: Digest,
    /// Digests that registries gave for it, as `docker images --digests` shows them.
    pub repo_digests: Vec<Reference>,
    /// The manifest.
    pub manifest: Manifest,
    /// The configuration.
    pub config: ImageConfig,
    /// The configuration's bytes, which `id` is the digest of.
    pub raw_config: Vec<u8>,
    /// Whether all its layers are unpacked here.
    pub layers_present: bool,
}

impl StoredImage {
    /// RFC 3339; empty where the image does not say.
    #[must_use]
    pub fn created(&self) -> &str {
        self.config.created.as_deref().unwrap_or_default()
    }
}

/// What one container needs of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The container's name, for messages.
    pub container: String,
    /// The image's id.
    pub image: String,
    /// The layers below it, as `sha256:…`.
    pub diff_ids: Vec<String>,
}

/// Names, each with what was found for it.
pub type Named<T> = Vec<(String, T)>;

/// The image store.
#[derive(Debug, Clone)]
pub struct Images {
    pub(super) store: Store,
}

impl Images {
    /// The images of `store`; nothing is read yet.
    #[must_use]
    pub fn open(store: &Store) -> Self {
        Self {
            store: store.clone(),
        }
    }

    /// Finds an image by name, `name@digest`, id or the beginning of an id. With `platform`, one for
    /// another platform does not count.
    ///
    /// # Errors
    /// `Usage` when an id's beginning fits several images, `Corrupt` when files are damaged.
    pub fn find(&self, text: &str, platform: Option<&Platform>) -> Result<Option<StoredImage>> {
        let index = self.read_index()?;
        let found = match self.entry(&index, text)? {
            Some(entry) => Some(self.read_image(&index, entry)?),
            None => None,
        };
        Ok(found
            .filter(|image| platform.is_none_or(|wanted| suits(wanted, &image.config.platform()))))
    }

    /// All images, in the order of their first names in the store, and the names of those that cannot be read.
    ///
    /// # Errors
    /// `Corrupt` when the list itself is damaged.
    pub fn list(&self) -> Result<(Vec<StoredImage>, Named<anyhow::Error>)> {
        let (mut images, mut damaged) = (Vec::<StoredImage>::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for (name, image) in self.each()? {
            let image = match image {
                Ok(image) => image,
                Err(error) => {
                    damaged.push((name, error));
                    continue;
                }
            };
            if !seen.insert(image.manifest_digest.clone()) {
                continue; // another of its names
            }
            match images.iter_mut().find(|known| known.id == image.id) {
                // The same content, transferred in two ways.
                Some(known) => {
                    known.names.extend(image.names);
                    known.repo_digests.extend(image.repo_digests);
                }
                None => images.push(image),
            }
        }
        Ok((images, damaged))
    }

    /// Each entry of the list by a name or digest, with its image or what is wrong with it.
    ///
    /// # Errors
    /// `Corrupt` when the list itself is damaged.
    pub fn each(&self) -> Result<Named<Result<StoredImage>>> {
        let index = self.read_index()?;
        let one = |entry: &Descriptor| {
            let name =
                name_of(entry).map_or_else(|| entry.digest.to_string(), |name| name.familiar());
            (name, self.read_image(&index, entry))
        };
        Ok(index.manifests.iter().map(one).collect())
    }

    /// Bytes of the image's unpacked files; layers that are not unpacked count nothing.
    ///
    /// # Errors
    /// `Corrupt` for a damaged `layer.json`.
    pub fn size_unpacked(&self, image: &StoredImage) -> Result<u64> {
        let mut sum = 0;
        for diff_id in &image.config.rootfs.diff_ids {
            if let Some(info) = self.layer(diff_id)? {
                sum += info.report.bytes;
            }
        }
        Ok(sum)
    }

    /// What is known of an unpacked layer; `None` when it is not here.
    ///
    /// # Errors
    /// `Corrupt` when the file is damaged or of a newer `rl`.
    pub fn layer(&self, diff_id: &Digest) -> Result<Option<LayerInfo>> {
        let path = self.layer_dir(diff_id).join("layer.json");
        let Some(bytes) = read_limited(&path, MAX_DOCUMENT)? else {
            return Ok(None);
        };
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |error: serde_json::Error| {
            Fail::corrupt(format!("`{}` is damaged: {error}", path.display()))
                .hint("remove the images that have this layer with `rl rmi`, and pull them again")
        };
        let Versioned { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version > LAYER_VERSION {
            return Err(Fail::corrupt(format!(
                "`{}` has version {version}, this `rl` knows {LAYER_VERSION}",
                path.display()
            ))
            .hint("it was written by a newer `rl`; use that one, or another place with --root DIR")
            .into());
        }
        Ok(Some(serde_json::from_slice(&bytes).map_err(damaged)?))
    }

    /// The directory of an unpacked layer; its tree is `fs` below that.
    #[must_use]
    pub fn layer_dir(&self, diff_id: &Digest) -> PathBuf {
        self.store.layers().join(diff_id.hex())
    }

    /// Where the blob with this digest is or would be.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.store.images().join("blobs/sha256").join(digest.hex())
    }

    /// Makes the empty layout where it is missing.
    ///
    /// # Errors
    /// The system's.
    pub fn prepare(&self) -> Result<()> {
        let images = self.store.images();
        self.store.make(&images.join("blobs/sha256"))?;
        self.store.make(&self.store.layers())?;
        let layout = images.join("oci-layout");
        if !layout.exists() {
            let _lock = self.lock()?;
            sys::fs::write_atomically(&layout, &self.aside(), br#"{"imageLayoutVersion":"1.0.0"}"#)
                .with_context(|| format!("writing `{}`", layout.display()))?;
        }
        Ok(())
    }

    /// Where small files are written before they are renamed into place; whoever holds the lock has it.
    fn aside(&self) -> PathBuf {
        self.store.images().join("new")
    }

    /// Reads a small blob and checks its digest.
    ///
    /// # Errors
    /// `Corrupt` when it is missing, too large or not what its name says.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let damaged = |how: &str| {
            Fail::corrupt(format!("the image's file `{}` {how}", path.display()))
                .hint("pull the image again, or remove it with `rl rmi`")
        };
        match read_limited(&path, MAX_DOCUMENT)? {
            None => Err(damaged("is missing").into()),
            Some(bytes) if Digest::of(&bytes) != *digest => Err(damaged("is damaged").into()),
            Some(bytes) => Ok(bytes),
        }
    }

    pub(super) fn lock(&self) -> Result<File> {
        let images = self.store.images();
        self.store.make(&images)?;
        let path = images.join("lock");
        let lock = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("opening `{}`", path.display()))?;
        lock.lock()
            .with_context(|| format!("locking `{}`", path.display()))?;
        Ok(lock)
    }

    fn index_path(&self) -> PathBuf {
        self.store.images().join("index.json")
    }

    pub(super) fn read_index(&self) -> Result<Index> {
        let path = self.index_path();
        let Some(bytes) = read_limited(&path, MAX_INDEX)? else {
            return Ok(Index {
                schema_version: 2,
                media_type: Some(manifest::OCI_INDEX.to_owned()),
                manifests: Vec::new(),
                annotations: std::collections::BTreeMap::new(),
            });
        };
        let damaged = |how: String| {
            Fail::corrupt(format!("the list of images `{}` {how}", path.display()))
                .hint("move it away, then pull or load the images again; layers that are here are not fetched twice")
        };
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|error| damaged(format!("is damaged: {error}")))?;
        if index.schema_version != 2 {
            return Err(damaged(format!(
                "has version {}, this `rl` knows 2",
                index.schema_version
            ))
            .into());
        }
        Ok(index)
    }

    pub(super) fn read_manifest(&self, entry: &Descriptor) -> Result<Manifest> {
        let bytes = self.read_blob(&entry.digest)?;
        match manifest::parse(&bytes, Some(&entry.media_type))? {
            Document::Manifest(manifest) => Ok(*manifest),
            Document::Index(_) => Err(Fail::corrupt(format!(
                "`{}` is an index of images",
                self.blob_path(&entry.digest).display()
            ))
            .into()),
        }
    }

    pub(super) fn read_image(&self, index: &Index, entry: &Descriptor) -> Result<StoredImage> {
        self.read_parts(index, entry).with_context(|| {
            let name = entry.annotations.get(REF_NAME);
            let name = name.map_or_else(|| entry.digest.to_string(), |name| short(name));
            format!("reading the image `{name}`")
        })
    }

    fn read_parts(&self, index: &Index, entry: &Descriptor) -> Result<StoredImage> {
        let manifest = self.read_manifest(entry)?;
        let raw_config = self.read_blob(&manifest.config.digest)?;
        let config = ImageConfig::parse(&raw_config, &manifest)?;
        let layers_present = config
            .rootfs
            .diff_ids
            .iter()
            .all(|diff_id| self.layer_dir(diff_id).exists());
        let mut names = Vec::new();
        let mut repo_digests: Vec<Reference> = Vec::new();
        for other in index
            .manifests
            .iter()
            .filter(|other| other.digest == entry.digest)
        {
            let Some(name) = name_of(other) else {
                continue;
            };
            let pulled = other
                .annotations
                .get(PULLED)
                .and_then(|text| Digest::parse(text).ok());
            if let Some(digest) = pulled.or_else(|| name.digest.clone()) {
                let name = Reference {
                    tag: None,
                    digest: Some(digest),
                    ..name.clone()
                };
                if !repo_digests.contains(&name) {
                    repo_digests.push(name);
                }
            }
            if name.digest.is_none() {
                names.push(name);
            }
        }
        Ok(StoredImage {
            names,
            id: manifest.config.digest.clone(),
            manifest_digest: entry.digest.clone(),
            repo_digests,
            manifest,
            config,
            raw_config,
            layers_present,
        })
    }
}

/// Whether an image for `offered` is what was wanted; a program for an ancestor is not.
fn suits(wanted: &Platform, offered: &Platform) -> bool {
    wanted.normal().architecture == offered.normal().architecture && wanted.rank(offered).is_some()
}

pub(super) fn name_of(entry: &Descriptor) -> Option<Reference> {
    // Names that other tools put there and that are none for us are as good as no name.
    Reference::parse(entry.annotations.get(REF_NAME)?).ok()
}

/// Docker's short form of a stored name.
fn short(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |name| name.familiar())
}

/// `None` when there is no such file; an error above `limit` bytes.
fn read_limited(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let file = match File::open(path) {
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        file => file.with_context(|| format!("opening `{}`", path.display()))?,
    };
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("reading `{}`", path.display()))?;
    if bytes.len() as u64 > limit {
        return Err(
            Fail::corrupt(format!("`{}` has more than {limit} bytes", path.display())).into(),
        );
    }
    Ok(Some(bytes))
}

pub(super) fn remove_file(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or(OsStr::new(""));
    match sys::fs::open_trusted(parent, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(dir) => Ok(sys::fs::remove_tree(dir.as_fd(), name)?),
        Err(error) if error.errno == Errno::NOENT => Ok(()),
        Err(error) => Err(error.into()),
    }
}
