//! Indexes that are made here: several images under one name, one for each platform. `rl manifest` works on them.
//!
//! ```text
//! manifests/HEX.json   one list; HEX begins the SHA-256 of its name
//! manifests/lock       flock(2) for changes
//! ```
//!
//! A list has the manifests of its images, but not their blobs: those are in the store, or at the registry that the
//! image came from. Nothing is pulled for a list; a push copies what is missing from registry to registry.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::attached;
use super::config::ImageConfig;
use super::ingest::{self, Expected, Progress};
use super::manifest::{self, Descriptor, Document, Format, Manifest};
use super::platform::Platform;
use super::policy::{Origin, Policy};
use super::pull::{self, Registry, Source as _};
use super::push::{Outgoing, Pushed, Shipment, neighbours};
use super::reference::{Digest, Reference};
use super::registry::{Client, ClientOptions, Wanted};
use super::scratch::Scratch;
use super::store::{Images, StoredImage};
use crate::error::Fail;
use crate::paths::Store;
use crate::sys;

/// The version of the files.
const VERSION: u32 = 1;
/// Most bytes of a file: a list has at most [`manifest::MAX_ENTRIES`] manifests, which are small.
const MAX_FILE: u64 = 64 << 20;

/// A list of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// 1.
    pub version: u32,
    /// Its name.
    pub name: Reference,
    /// Notes on the whole.
    pub annotations: BTreeMap<String, String>,
    /// The images.
    pub entries: Vec<Entry>,
}

/// One image of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Digest, platform, notes.
    pub descriptor: Descriptor,
    /// `os.features` of the platform.
    pub os_features: Vec<String>,
    /// `features` of the platform, which only docker's format knows.
    pub features: Vec<String>,
    /// The image's manifest, byte for byte.
    pub manifest: String,
    /// Which registry has it; none where it is in the store.
    pub from: Option<Reference>,
}

/// What the user says of an entry.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// `--annotation`
    pub annotations: BTreeMap<String, String>,
    /// `--os`
    pub os: Option<String>,
    /// `--arch`
    pub architecture: Option<String>,
    /// `--variant`
    pub variant: Option<String>,
    /// `--os-version`
    pub os_version: Option<String>,
    /// `--os-features`
    pub os_features: Vec<String>,
    /// `--features`
    pub features: Vec<String>,
}

impl Changes {
    /// Which image of an index is meant by them.
    fn platform(&self) -> Platform {
        let host = Platform::host();
        let os = self.os.as_deref().unwrap_or(&host.os);
        match (&self.architecture, &self.variant) {
            (None, None) => Platform::of(os, &host.architecture, host.variant.as_deref()),
            (architecture, variant) => Platform::of(
                os,
                architecture.as_deref().unwrap_or(&host.architecture),
                variant.as_deref(),
            ),
        }
        .normal()
    }

    /// Applies them.
    pub fn apply(&self, entry: &mut Entry) {
        let host = Platform::host();
        let known = entry.descriptor.platform.take();
        let mut platform =
            known.unwrap_or_else(|| Platform::of(&host.os, &host.architecture, None));
        if let Some(os) = &self.os {
            platform.os.clone_from(os);
        }
        if let Some(architecture) = &self.architecture
            && *architecture != platform.architecture
        {
            platform.architecture.clone_from(architecture);
            platform.variant = None; // it was one of another processor
        }
        if self.variant.is_some() {
            platform.variant.clone_from(&self.variant);
        }
        if self.os_version.is_some() {
            platform.os_version.clone_from(&self.os_version);
        }
        entry.descriptor.platform = Some(platform);
        for (into, new) in [
            (&mut entry.os_features, &self.os_features),
            (&mut entry.features, &self.features),
        ] {
            if !new.is_empty() {
                into.clone_from(new);
            }
        }
        let annotations = self.annotations.clone();
        entry.descriptor.annotations.extend(annotations);
    }
}

impl Entry {
    /// An image of the store.
    ///
    /// # Errors
    /// `Corrupt` when its manifest is damaged.
    pub fn local(images: &Images, image: &StoredImage) -> Result<Self> {
        let bytes = images.read_blob(&image.manifest_digest)?;
        let kind = image.manifest.kind();
        Self::new(bytes, kind, Some(image.config.platform()), None)
    }

    fn new(
        bytes: Vec<u8>,
        kind: &str,
        platform: Option<Platform>,
        from: Option<Reference>,
    ) -> Result<Self> {
        let digest = Digest::of(&bytes);
        let size = bytes.len() as u64;
        let manifest =
            String::from_utf8(bytes).map_err(|_| Fail::corrupt("the manifest is no text"))?;
        Ok(Self {
            descriptor: Descriptor {
                media_type: kind.to_owned(),
                digest,
                size,
                urls: Vec::new(),
                platform,
                artifact_type: None,
                annotations: BTreeMap::new(),
            },
            os_features: Vec::new(),
            features: Vec::new(),
            manifest,
            from,
        })
    }

    fn parsed(&self) -> Result<Manifest> {
        let kind = &self.descriptor.media_type;
        match manifest::parse(self.manifest.as_bytes(), Some(kind))? {
            Document::Manifest(manifest) => Ok(*manifest),
            Document::Index(_) => Err(nested().into()),
        }
    }

    /// What a push sends, and how the index then describes it.
    fn outgoing(&self, format: Option<Format>) -> Result<(Outgoing, Descriptor)> {
        let own = self.parsed()?;
        let is_docker = own.kind() == manifest::DOCKER_MANIFEST;
        let mut descriptor = self.descriptor.clone();
        let mut bytes = self.manifest.clone().into_bytes();
        let manifest = match format {
            Some(format) if is_docker != (format == Format::Docker) => {
                let converted = own.converted(format)?;
                bytes = serde_json::to_vec(&converted).context("describing the image")?;
                descriptor.media_type = converted.kind().to_owned();
                descriptor.digest = Digest::of(&bytes);
                descriptor.size = bytes.len() as u64;
                converted
            }
            Some(_) | None => own,
        };
        let outgoing = Outgoing {
            bytes,
            media_type: manifest.kind().to_owned(),
            config: manifest.config,
            layers: manifest.layers,
        };
        Ok((outgoing, descriptor))
    }
}

fn nested() -> Fail {
    Fail::unsupported("an index within an index is not supported")
        .hint("add the images of the inner one: --all")
}

impl List {
    /// An empty one.
    #[must_use]
    pub fn new(name: Reference) -> Self {
        Self {
            version: VERSION,
            name,
            annotations: BTreeMap::new(),
            entries: Vec::new(),
        }
    }

    /// Adds an image, or says something else of one that is in it.
    ///
    /// # Errors
    /// `Usage` when there are too many.
    pub fn add(&mut self, entry: Entry) -> Result<(), Fail> {
        let digest = &entry.descriptor.digest;
        let mut entries = self.entries.iter();
        let known = entries.position(|other| other.descriptor.digest == *digest);
        match known {
            Some(at) => self.entries[at] = entry,
            None if self.entries.len() >= manifest::MAX_ENTRIES => {
                return Err(Fail::usage(format!(
                    "`{}` has {} images, and more make no sense",
                    self.name.familiar(),
                    manifest::MAX_ENTRIES
                )));
            }
            None => self.entries.push(entry),
        }
        Ok(())
    }

    /// In which words the index is written when nobody chooses: docker's only where all images are docker's.
    fn format(&self) -> Format {
        let docker = |entry: &Entry| {
            entry.descriptor.media_type == manifest::DOCKER_MANIFEST
                && entry.descriptor.annotations.is_empty()
        };
        match self.entries.is_empty()
            || !self.annotations.is_empty()
            || !self.entries.iter().all(docker)
        {
            true => Format::Oci,
            false => Format::Docker,
        }
    }

    /// The index with its images, as registries get them. Where a format is asked for, the images have it, too.
    ///
    /// # Errors
    /// `Unsupported` for what that format cannot say.
    pub fn index(&self, format: Option<Format>) -> Result<(Outgoing, Vec<(Outgoing, &Entry)>)> {
        let kind = match format.unwrap_or_else(|| self.format()) {
            Format::Oci => manifest::OCI_INDEX,
            Format::Docker => manifest::DOCKER_LIST,
        };
        let annotated = |entry: &Entry| !entry.descriptor.annotations.is_empty();
        if format == Some(Format::Docker)
            && (!self.annotations.is_empty() || self.entries.iter().any(annotated))
        {
            return Err(Fail::unsupported("docker's format has no annotations")
                .hint("use OCI's: --format oci")
                .into());
        }
        let (mut described, mut images) = (Vec::new(), Vec::new());
        for entry in &self.entries {
            let (outgoing, descriptor) = entry.outgoing(format)?;
            let mut value = serde_json::to_value(&descriptor).context("describing an image")?;
            for (key, words) in [
                ("os.features", &entry.os_features),
                ("features", &entry.features),
            ] {
                if !words.is_empty() {
                    value["platform"][key] = json!(words);
                }
            }
            described.push(value);
            images.push((outgoing, entry));
        }
        let mut index = json!({
            "schemaVersion": 2,
            "mediaType": kind,
            "manifests": described,
        });
        if !self.annotations.is_empty() {
            index["annotations"] = json!(self.annotations);
        }
        let bytes = serde_json::to_vec(&index).context("describing the list")?;
        let index = Outgoing {
            // An index has neither; the fields of nothing are never looked at.
            config: Descriptor {
                media_type: String::new(),
                digest: Digest::of(b""),
                size: 0,
                urls: Vec::new(),
                platform: None,
                artifact_type: None,
                annotations: BTreeMap::new(),
            },
            layers: Vec::new(),
            media_type: kind.to_owned(),
            bytes,
        };
        Ok((index, images))
    }

    /// The index as JSON for people.
    ///
    /// # Errors
    /// Those of [`List::index`].
    pub fn shown(&self) -> Result<Value> {
        serde_json::from_slice(&self.index(None)?.0.bytes).context("reading the list again")
    }

    /// Digest of the index.
    ///
    /// # Errors
    /// Those of [`List::index`].
    pub fn digest(&self) -> Result<Digest> {
        Ok(self.index(None)?.0.digest())
    }
}

/// The lists of a store.
#[derive(Debug)]
pub struct Lists<'s> {
    store: &'s Store,
}

impl<'s> Lists<'s> {
    /// Those of `store`; nothing is read yet.
    #[must_use]
    pub fn open(store: &'s Store) -> Self {
        Self { store }
    }

    fn dir(&self) -> PathBuf {
        self.store.root().join("manifests")
    }

    fn path(&self, name: &Reference) -> PathBuf {
        let digest = Digest::of(name.to_string().as_bytes());
        self.dir().join(format!("{}.json", &digest.hex()[..32]))
    }

    /// The list with this name.
    ///
    /// # Errors
    /// `Corrupt` when its file is damaged or of a newer `rl`.
    pub fn find(&self, name: &Reference) -> Result<Option<List>> {
        read(&self.path(name))
    }

    /// As [`Lists::find`].
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, name: &Reference) -> Result<List> {
        self.find(name)?.ok_or_else(|| {
            Fail::not_found(format!("no manifest list `{}`", name.familiar()))
                .hint("`rl manifest ls` lists them; `rl manifest create` makes one")
                .into()
        })
    }

    /// All, by name, each with what is wrong with it.
    ///
    /// # Errors
    /// The system's.
    pub fn each(&self) -> Result<Vec<(PathBuf, Result<List>)>> {
        let entries = match std::fs::read_dir(self.dir()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context("reading the manifest lists")?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "json")
                && let Some(list) = read(&path).transpose()
            {
                all.push((path, list));
            }
        }
        all.sort_by_key(|(path, list)| match list {
            Ok(list) => list.name.to_string(),
            Err(_) => path.display().to_string(),
        });
        Ok(all)
    }

    /// Changes a list, or makes it from nothing where `change` does. Returns what is there now.
    ///
    /// # Errors
    /// Those of `change`; the system's.
    pub fn change(
        &self,
        name: &Reference,
        change: impl FnOnce(Option<List>) -> Result<List>,
    ) -> Result<List> {
        let _lock = self.lock()?;
        let list = change(self.find(name)?)?;
        let text = serde_json::to_vec(&list).context("describing the list")?;
        let path = self.path(name);
        sys::fs::write_atomically(&path, &self.dir().join("new"), &text)
            .with_context(|| format!("writing `{}`", path.display()))?;
        Ok(list)
    }

    /// Removes a list; its images stay.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn remove(&self, name: &Reference) -> Result<()> {
        let _lock = self.lock()?;
        self.get(name)?;
        let path = self.path(name);
        std::fs::remove_file(&path).with_context(|| format!("removing `{}`", path.display()))
    }

    fn lock(&self) -> Result<File> {
        let dir = self.dir();
        self.store.make(&dir)?;
        super::scratch::lock_file(&dir.join("lock"), 0o600)
    }
}

fn read(path: &std::path::Path) -> Result<Option<List>> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let damaged = |how: String| {
        Fail::corrupt(format!("the manifest list `{}` {how}", path.display()))
            .hint("remove the file, and make the list again")
    };
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| format!("opening `{}`", path.display()))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("reading `{}`", path.display()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(damaged(format!("has more than {MAX_FILE} bytes")).into());
    }
    let broken = |error: serde_json::Error| damaged(format!("is damaged: {error}"));
    let Versioned { version } = serde_json::from_slice(&bytes).map_err(broken)?;
    if version > VERSION {
        return Err(damaged(format!("has version {version}, this `rl` knows {VERSION}")).into());
    }
    Ok(Some(serde_json::from_slice(&bytes).map_err(broken)?))
}

/// The manifest or index that a registry has under a name, as it came; what was it that answered.
///
/// # Errors
/// The registry's.
pub fn remote(name: &Reference, options: &ClientOptions) -> Result<(Client, String, Vec<u8>)> {
    let endpoints = options.registries.endpoints(name)?;
    let mut last = None;
    for endpoint in &endpoints {
        let mut options = options.clone();
        if endpoint.insecure {
            options.insecure.push(endpoint.registry.clone());
        }
        let client = Client::new(&endpoint.registry, options)?;
        match client.manifest(&endpoint.repository, Wanted::of(name)) {
            Ok(fetched) => return Ok((client, endpoint.repository.clone(), fetched.bytes)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Fail::not_found("registries.conf leaves no place to ask").into()))
}

/// The images that a registry has under a name: of an index all, or the one that `changes` mean.
///
/// # Errors
/// The registry's; `Unsupported` for an index within an index.
pub fn entries(
    name: &Reference,
    options: &ClientOptions,
    all: bool,
    changes: &Changes,
) -> Result<Vec<Entry>> {
    let (client, repository, bytes) = remote(name, options)?;
    let from = Some(name.clone());
    let index = match manifest::parse(&bytes, None)? {
        Document::Manifest(manifest) => {
            let config = pull::read_config(&client, &repository, &manifest.config)?;
            let platform = ImageConfig::parse(&config, &manifest)?.platform();
            return Ok(vec![Entry::new(
                bytes,
                manifest.kind(),
                Some(platform),
                from,
            )?]);
        }
        Document::Index(index) => index,
    };
    let chosen: Vec<&Descriptor> = if all {
        index
            .manifests
            .iter()
            .filter(|one| one.is_image())
            .collect()
    } else {
        vec![index.choose(&changes.platform())?]
    };
    let mut entries = Vec::new();
    for descriptor in chosen {
        let fetched = client.manifest(&repository, Wanted::Digest(&descriptor.digest))?;
        let Document::Manifest(manifest) = manifest::parse(&fetched.bytes, None)? else {
            return Err(nested().into());
        };
        let platform = descriptor.platform.clone();
        let mut entry = Entry::new(fetched.bytes, manifest.kind(), platform, from.clone())?;
        entry
            .descriptor
            .annotations
            .clone_from(&descriptor.annotations);
        entries.push(entry);
    }
    Ok(entries)
}

/// How a list is pushed.
pub struct ListPush<'p> {
    /// Where to.
    pub target: &'p Reference,
    /// In the words of which format.
    pub format: Option<Format>,
    /// Its images, too.
    pub all: bool,
    /// How to talk to the registry of this name.
    pub client: &'p dyn Fn(&Reference) -> Result<ClientOptions>,
}

impl std::fmt::Debug for ListPush<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ListPush({})", self.target)
    }
}

/// Pushes a list, its images first.
///
/// # Errors
/// The registries'; `Corrupt` when an image's blobs are gone.
pub fn push(
    store: &Store,
    list: &List,
    how: &ListPush<'_>,
    progress: &dyn Progress,
) -> Result<Pushed> {
    let target = how.target;
    let (index, entries) = list.index(how.format)?;
    let options = (how.client)(target)?;
    options.registries.endpoints(target)?; // what is blocked is blocked
    let client = Client::new(&target.registry, options)?;
    let pushing = || format!("pushing `{}`", target.familiar());
    if how.all {
        for (outgoing, entry) in &entries {
            push_image(store, (outgoing, entry), how, &client, progress).with_context(pushing)?;
        }
    }
    let digest = client
        .put_manifest(target, &index.media_type, &index.bytes)
        .with_context(pushing)?;
    for note in client.take_notes() {
        progress.message(&note);
    }
    let size = index.bytes.len() as u64;
    Ok(Pushed { digest, size })
}

fn push_image(
    store: &Store,
    (outgoing, entry): (&Outgoing, &Entry),
    how: &ListPush<'_>,
    client: &Client,
    progress: &dyn Progress,
) -> Result<()> {
    let images = Images::open(store);
    let target = how.target;
    let mut known = neighbours(&images, &target.registry);
    let source = match &entry.from {
        None => None,
        Some(name) => {
            if name.registry == target.registry {
                let blobs = outgoing.layers.iter().chain([&outgoing.config]);
                known.extend(blobs.map(|blob| (blob.digest.clone(), name.repository.clone())));
            }
            let by_digest = Reference {
                tag: None,
                digest: Some(entry.descriptor.digest.clone()),
                ..name.clone()
            };
            let (client, repository, _) = remote(&by_digest, &(how.client)(name)?)?;
            let digest = &entry.descriptor.digest;
            Policy::load()?.check(&Origin::Registry(name), Some(digest), &|| {
                attached::signatures(&client, &repository, name, digest)
            })?;
            Some((client, repository, Scratch::unique(store, "list")?))
        }
    };
    let elsewhere = |blob: &Descriptor| {
        let Some((client, repository, scratch)) = &source else {
            return Ok(None);
        };
        let from = Registry { client, repository };
        let aside = scratch.path().join(blob.digest.hex());
        let expected = Expected {
            digest: Some(blob.digest.clone()),
            size: Some(blob.size),
            diff_id: None,
        };
        ingest::copy_blob(from.blob(blob)?, &aside, &expected, &ingest::Silent)?;
        let file = File::open(&aside).context("opening what was copied")?;
        std::fs::remove_file(&aside).context("removing what was copied")?;
        Ok(Some(file))
    };
    let shipment = Shipment {
        client,
        images: &images,
        repository: &target.repository,
        known,
        elsewhere: &elsewhere,
    };
    shipment.send(outgoing, progress)?;
    let by_digest = Reference {
        tag: None,
        digest: Some(outgoing.digest()),
        ..target.clone()
    };
    client.put_manifest(&by_digest, &outgoing.media_type, &outgoing.bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str, architecture: &str) -> Entry {
        let config = match kind {
            manifest::DOCKER_MANIFEST => manifest::DOCKER_CONFIG,
            _ => manifest::OCI_CONFIG,
        };
        let text = json!({
            "schemaVersion": 2, "mediaType": kind,
            "config": {"mediaType": config, "digest": Digest::of(architecture.as_bytes()).to_string(), "size": 1},
            "layers": [],
        });
        let platform = Platform::of("linux", architecture, None);
        Entry::new(text.to_string().into_bytes(), kind, Some(platform), None).unwrap()
    }

    fn list(kinds: &[&str]) -> List {
        let mut list = List::new(Reference::parse("l").unwrap());
        for (kind, architecture) in kinds.iter().zip(["amd64", "arm64"]) {
            list.add(entry(kind, architecture)).unwrap();
        }
        list
    }

    #[test]
    fn an_index_speaks_dockers_words_only_when_all_of_it_does() {
        let docker = manifest::DOCKER_MANIFEST;
        let oci = manifest::OCI_MANIFEST;
        for (kinds, format, expected) in [
            (&[docker, docker][..], None, manifest::DOCKER_LIST),
            (&[docker, oci], None, manifest::OCI_INDEX),
            (&[], None, manifest::OCI_INDEX),
            (&[docker, oci], Some(Format::Docker), manifest::DOCKER_LIST),
            (&[docker], Some(Format::Oci), manifest::OCI_INDEX),
        ] {
            let list = list(kinds);
            let (index, images) = list.index(format).unwrap();
            assert_eq!(index.media_type, expected, "{kinds:?}");
            let Document::Index(read) = manifest::parse(&index.bytes, None).unwrap() else {
                panic!("no index");
            };
            for (descriptor, (outgoing, _)) in read.manifests.iter().zip(&images) {
                assert_eq!(descriptor.digest, outgoing.digest());
                assert_eq!(descriptor.media_type, outgoing.media_type);
            }
        }
    }

    #[test]
    fn what_is_said_of_an_image_is_in_the_index() {
        let mut list = list(&[manifest::OCI_MANIFEST, manifest::OCI_MANIFEST]);
        let changes = Changes {
            architecture: Some("arm".to_owned()),
            variant: Some("v7".to_owned()),
            os_features: vec!["x".to_owned()],
            annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            ..Changes::default()
        };
        changes.apply(&mut list.entries[1]);
        let shown = list.shown().unwrap();
        assert_eq!(
            shown["manifests"][1]["platform"],
            json!({"os": "linux", "architecture": "arm", "variant": "v7", "os.features": ["x"]})
        );
        assert_eq!(shown["manifests"][1]["annotations"]["a"], "b");
        assert!(
            list.index(Some(Format::Docker)).is_err(),
            "it cannot say that"
        );
        // The same image again is said anew, not twice.
        list.add(entry(manifest::OCI_MANIFEST, "amd64")).unwrap();
        assert_eq!(list.entries.len(), 2);
    }
}
