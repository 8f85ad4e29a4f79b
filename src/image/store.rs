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
use super::reference::{Digest, Reference, is_short};
use super::registries::{Meaning, Registries};
use super::scratch::Scratch;
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
/// Everything below the store's root.
const STORED: [&str; 13] = [
    "owners",
    "ids",
    "squash",
    "containers",
    "names",
    "volumes",
    "networks",
    "layers",
    "images",
    "manifests",
    "tmp",
    "events.jsonl",
    "events.jsonl.1",
];
/// The shortest prefix of an id that names an image.
const SHORTEST_ID: usize = 4;

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

/// Whether to remove what others may still want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// `--force`.
    Yes,
    /// Rather refuse.
    No,
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

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name, in docker's short form.
    Untagged(String),
    /// An image.
    Deleted(Digest),
}

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

    /// Gives the image with this id one more name. An image that had the name before loses it.
    ///
    /// # Errors
    /// `NotFound` when no image has the id; the system's.
    pub fn tag(&self, id: &Digest, name: &Reference) -> Result<()> {
        let _lock = self.lock()?;
        let mut index = self.read_index()?;
        let Some(entry) = self.entry_by_id(&index, id.hex())? else {
            return Err(Fail::not_found(format!("no image `{id}`"))
                .hint("`rl images` lists them")
                .into());
        };
        let entry = entry.clone();
        set_name(&mut index, entry, Some(name));
        self.write_index(&index)
    }

    /// Notes that the registry of `name` has the image that is listed under it, as content `digest`.
    ///
    /// # Errors
    /// The system's.
    pub fn note_pushed(&self, name: &Reference, manifest: &Digest, digest: &Digest) -> Result<()> {
        let _lock = self.lock()?;
        let mut index = self.read_index()?;
        let text = name.to_string();
        let mut entries = index.manifests.iter_mut();
        let entry = entries.find(|entry| {
            entry.digest == *manifest && entry.annotations.get(REF_NAME) == Some(&text)
        });
        match entry {
            // It was pushed under a name that it does not have here.
            None => Ok(()),
            Some(entry) => {
                entry
                    .annotations
                    .insert(PULLED.to_owned(), digest.to_string());
                self.write_index(&index)
            }
        }
    }

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

    /// Removes a name, and the image with its last one, as docker does. `used` lists all containers.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when an id stands for several names, or a container needs the image.
    pub fn remove(&self, text: &str, force: Force, used: &[Usage]) -> Result<Vec<Removed>> {
        let lock = self.lock()?;
        let mut index = self.read_index()?;
        let Some(entry) = self.entry(&index, text)?.cloned() else {
            return Err(Fail::not_found(format!("no image `{text}`"))
                .hint("`rl images` lists them")
                .into());
        };
        let text = &*meant(&index, text);
        // A damaged image must be removable: its manifest may be unreadable.
        let image = self.read_image(&index, &entry).ok();
        let same = |other: &Descriptor| {
            other.digest == entry.digest
                || image
                    .as_ref()
                    .is_some_and(|image| self.id_of(other).is_ok_and(|id| id == image.id))
        };
        let all: Vec<Descriptor> = index
            .manifests
            .iter()
            .filter(|other| same(other))
            .cloned()
            .collect();
        let by_name = names_match(&entry, text);
        let goes: Vec<&Descriptor> = if by_name {
            all.iter()
                .filter(|other| names_match(other, text))
                .collect()
        } else {
            all.iter().collect()
        };
        let named = |entries: &[&Descriptor]| {
            entries
                .iter()
                .filter_map(|entry| entry.annotations.get(REF_NAME).cloned())
                .collect::<Vec<_>>()
        };
        if !by_name && named(&goes).len() > 1 && force == Force::No {
            return Err(Fail::conflict(format!(
                "image `{text}` has several names: {}",
                named(&goes)
                    .iter()
                    .map(|name| short(name))
                    .collect::<Vec<_>>()
                    .join(", ")
            ))
            .hint("remove them one by one, or all with --force")
            .into());
        }
        let last = goes.len() == all.len();
        if last
            && force == Force::No
            && let Some(image) = &image
            && let Some(user) = used.iter().find(|user| user.image == image.id.to_string())
        {
            return Err(Fail::conflict(format!(
                "image `{text}` is used by the container `{}`",
                user.container
            ))
            .hint(format!(
                "remove that first with `rl rm {}`, or use --force",
                user.container
            ))
            .into());
        }

        let mut removed: Vec<Removed> = named(&goes)
            .iter()
            .map(|name| Removed::Untagged(short(name)))
            .collect();
        let goes: Vec<Descriptor> = goes.into_iter().cloned().collect();
        index.manifests.retain(|other| !goes.contains(other));
        self.write_index(&index)?;
        if last {
            let litter = self.remove_unused(&index, &all, image.as_ref(), used)?;
            removed.push(Removed::Deleted(match image {
                Some(image) => image.id,
                None => entry.digest,
            }));
            drop(lock);
            drop(litter); // deleting a large tree takes time; nobody needs to wait for it
        }
        Ok(removed)
    }

    /// Takes names away from the image that `text` means, all where none are given; the image stays. Returns them
    /// in docker's short form.
    ///
    /// # Errors
    /// `NotFound` when there is no such image, or it does not have a name.
    pub fn untag(&self, text: &str, names: &[Reference]) -> Result<Vec<String>> {
        let _lock = self.lock()?;
        let mut index = self.read_index()?;
        let Some(entry) = self.entry(&index, text)?.cloned() else {
            return Err(Fail::not_found(format!("no image `{text}`"))
                .hint("`rl images` lists them")
                .into());
        };
        let id = self.id_of(&entry)?;
        let mut gone = Vec::new();
        let mut kept = entry.clone();
        for other in std::mem::take(&mut index.manifests) {
            let same = self.id_of(&other).is_ok_and(|other| other == id);
            let name = other.annotations.get(REF_NAME).cloned();
            match name.filter(|_| same) {
                Some(name)
                    if names.is_empty() || names.iter().any(|given| given.to_string() == name) =>
                {
                    kept = other;
                    gone.push(name);
                }
                Some(_) | None => index.manifests.push(other),
            }
        }
        if let Some(missing) = names.iter().find(|name| !gone.contains(&name.to_string())) {
            return Err(Fail::not_found(format!(
                "the image `{text}` does not have the name `{}`",
                missing.familiar()
            ))
            .into());
        }
        let listed = |entry: &Descriptor| self.id_of(entry).is_ok_and(|other| other == id);
        if !index.manifests.iter().any(listed) {
            set_name(&mut index, kept, None);
        }
        self.write_index(&index)?;
        Ok(gone.iter().map(|name| short(name)).collect())
    }

    /// Removes all that `rl` keeps below its directory, and nothing else that may be there. Containers are gone already.
    ///
    /// # Errors
    /// `Conflict` when another command is at work; the system's.
    pub fn reset(&self) -> Result<()> {
        let root = self.store.root();
        if !root.exists() {
            return Ok(());
        }
        let lock = self.lock()?;
        if super::scratch::is_busy(&self.store)? {
            return Err(
                Fail::conflict("another `rl` is fetching or removing images")
                    .hint("try again when it is done")
                    .into(),
            );
        }
        // The list of images first: what is left by a crash is then litter, and no image.
        remove_file(&self.index_path())?;
        // Where a program or a server keeps the files, an open one holds its directory: the lock lies in one.
        let in_use: Vec<_> = STORED
            .iter()
            .map(|name| root.join(name))
            .filter_map(|path| remove_file(&path).err().map(|error| (path, error)))
            .collect();
        drop(lock);
        for (path, error) in in_use {
            if sys::errno_of(&error) != Some(Errno::NOTEMPTY) {
                return Err(error);
            }
            match remove_file(&path) {
                // It goes when the server has heard that the lock is closed. The directory is as good as empty.
                Err(error) if sys::errno_of(&error) == Some(Errno::NOTEMPTY) => {}
                other => other?,
            }
        }
        Ok(())
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

    /// Writes a small blob where it is missing; returns its digest.
    fn write_blob(&self, content: &[u8]) -> Result<Digest> {
        let digest = Digest::of(content);
        let path = self.blob_path(&digest);
        // Written again even when it is there: it costs little and repairs a damaged one.
        sys::fs::write_atomically(&path, &self.aside(), content)
            .with_context(|| format!("writing `{}`", path.display()))?;
        Ok(digest)
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

    fn write_index(&self, index: &Index) -> Result<()> {
        let path = self.index_path();
        let text = serde_json::to_vec_pretty(index).context("writing the list of images")?;
        super::reserve::write(&path, &self.aside(), &text)
            .with_context(|| format!("writing `{}`", path.display()))
    }

    /// The entry that `text` means.
    fn entry<'i>(&self, index: &'i Index, text: &str) -> Result<Option<&'i Descriptor>> {
        let text = &meant(index, text);
        let mut entries = index.manifests.iter();
        if let Some(entry) = entries.find(|entry| names_match(entry, text)) {
            return Ok(Some(entry));
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = hex
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if !is_hex || !(SHORTEST_ID..=64).contains(&hex.len()) {
            return Ok(None);
        }
        self.entry_by_id(index, hex)
    }

    /// The entry of the one image whose id begins with `hex`.
    fn entry_by_id<'i>(&self, index: &'i Index, hex: &str) -> Result<Option<&'i Descriptor>> {
        let mut found: Option<(&Descriptor, Digest)> = None;
        for entry in &index.manifests {
            // A damaged image is found by its manifest's digest, so that it can be removed.
            let id = self.id_of(entry).unwrap_or_else(|_| entry.digest.clone());
            if !id.hex().starts_with(hex) && entry.digest.hex() != hex {
                continue;
            }
            match &found {
                Some((_, other)) if *other != id => {
                    return Err(Fail::usage(format!(
                        "`{hex}` is the beginning of several image ids"
                    ))
                    .hint("give more digits; `rl images --no-trunc` shows them")
                    .into());
                }
                Some(_) => {}
                None => found = Some((entry, id)),
            }
        }
        Ok(found.map(|(entry, _)| entry))
    }

    fn id_of(&self, entry: &Descriptor) -> Result<Digest> {
        Ok(self.read_manifest(entry)?.config.digest)
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

/// Whether `text` is a name of this entry: the same tag, or the same repository and digest.
fn names_match(entry: &Descriptor, text: &str) -> bool {
    let (Some(name), Ok(wanted)) = (name_of(entry), Reference::parse(text)) else {
        return false;
    };
    if (&name.registry, &name.repository) != (&wanted.registry, &wanted.repository) {
        return false;
    }
    match &wanted.digest {
        None => name.digest.is_none() && name.tag == wanted.tag,
        Some(digest) => {
            entry.digest == *digest
                || name.digest.as_ref() == Some(digest)
                || entry.annotations.get(PULLED) == Some(&digest.to_string())
        }
    }
}

/// The name of an image that is here for a short one that is not: by an alias, or of a registry that is searched.
fn meant(index: &Index, text: &str) -> String {
    let is_here = |text: &str| {
        let mut entries = index.manifests.iter();
        entries.any(|entry| names_match(entry, text))
    };
    if is_here(text) || !is_short(text) {
        return text.to_owned();
    }
    // Only a pull needs to know that the files with the answer are broken.
    let meaning = Registries::load()
        .ok()
        .and_then(|registries| registries.meaning(text).ok());
    meaning
        .map(Meaning::candidates)
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .find(|name| is_here(name))
        .unwrap_or_else(|| text.to_owned())
}

/// Docker's short form of a stored name.
fn short(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |name| name.familiar())
}

/// Lists `entry` under `name` alone. Another image that had the name stays, nameless if it was its last;
/// the nameless entry of this one goes.
fn set_name(index: &mut Index, mut entry: Descriptor, name: Option<&Reference>) {
    entry.annotations.remove(REF_NAME);
    // A digest says which content is meant; a tag beside it says nothing.
    let text = name.map(|name| match &name.digest {
        Some(_) => Reference {
            tag: None,
            ..name.clone()
        }
        .to_string(),
        None => name.to_string(),
    });
    if let Some(text) = &text {
        let lost: Vec<Descriptor> = index
            .manifests
            .extract_if(.., |other| other.annotations.get(REF_NAME) == Some(text))
            .collect();
        for mut other in lost {
            let named = index
                .manifests
                .iter()
                .any(|kept| kept.digest == other.digest);
            if other.digest != entry.digest && !named {
                other.annotations.remove(REF_NAME);
                index.manifests.push(other);
            }
        }
        entry.annotations.insert(REF_NAME.to_owned(), text.clone());
    }
    let named = index
        .manifests
        .iter()
        .any(|other| other.digest == entry.digest && other.annotations.contains_key(REF_NAME));
    if text.is_none() && named {
        return;
    }
    index
        .manifests
        .retain(|other| other.digest != entry.digest || other.annotations.contains_key(REF_NAME));
    index.manifests.push(entry);
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
