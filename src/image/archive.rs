//! Images from files: `docker save` archives, OCI archives, and root file system tars.
//!
//! An archive is read where it lies; only what is compressed or comes through a pipe is first written to
//! a file under `tmp/`, for the list of images may stand at the end.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::changes;
use super::config::{History, ImageConfig, RootFs};
use super::entries::{Entry, Kind, Reader};
use super::ingest::{self, Expected, Packing, Progress, decompress, read_failed};
use super::layer::Ids;
use super::manifest::{self, Descriptor, Document, MAX_DOCUMENT, Manifest};
use super::platform::Platform;
use super::pull::{self, Source};
use super::reference::{Digest, Reference};
use super::scratch::{self, Scratch};
use super::store::{self, Added, Images, LayerInfo, NewImage, REF_NAME};
use crate::error::Fail;
use crate::paths::Store;

/// Most members of an archive of images; a thousand images have fewer.
const MAX_MEMBERS: usize = 200_000;
/// How docker's and containerd's archives name an image in full.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// How many links lead from one member to another.
const LINKS: usize = 8;

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// All names that the archive gives it; may be none.
    pub names: Vec<Reference>,
    /// Its id.
    pub id: Digest,
}

/// What `rl import` is told beside the tar.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The image's name.
    pub reference: Option<Reference>,
    /// Instructions, see [`changes::apply`].
    pub changes: Vec<String>,
    /// A comment for the history.
    pub message: Option<String>,
    /// What the programs in it are made for; this machine by default.
    pub platform: Option<Platform>,
}

/// Loads all images of an archive, a file or a pipe.
///
/// # Errors
/// `Usage` for what is no archive of images, `Corrupt` for a damaged one; those of [`pull::bring`].
pub fn load(store: &Store, input: File, ids: Ids, progress: &dyn Progress) -> Result<Vec<Loaded>> {
    scratch::sweep(store)?;
    let spool = Scratch::unique(store, "load")?;
    let file = plain_file(input, &spool)?;
    let archive = Archive::scan(&file).context("reading the archive")?;
    if archive.members.contains_key("oci-layout") && archive.members.contains_key("index.json") {
        archive.load_oci(store, ids, progress)
    } else if archive.members.contains_key("manifest.json") {
        archive.load_docker(store, ids, progress)
    } else {
        Err(Fail::usage(
            "this is not an archive of images: it has neither manifest.json nor index.json",
        )
        .hint("a tar of a root file system becomes an image by `rl import`")
        .into())
    }
}

/// Makes an image of one layer from the tar of a root file system, compressed or not.
///
/// # Errors
/// `Usage` for an empty input or a wrong change, `Corrupt` for what is no tar.
pub fn import(
    store: &Store,
    input: File,
    options: &ImportOptions,
    ids: Ids,
    progress: &dyn Progress,
) -> Result<Digest> {
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let now = jiff::Timestamp::now().to_string();
    let mut config = ImageConfig {
        created: Some(now.clone()),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os: platform.os.clone(),
        ..ImageConfig::default()
    };
    for change in &options.changes {
        changes::apply(&mut config.config, change)?;
    }
    scratch::sweep(store)?;
    let images = Images::open(store);
    images.prepare()?;
    let scratch = Scratch::unique(store, "import")?;
    let mut source = tar_stream(input, &scratch)?;
    let blob = scratch.path().join("blob");
    // The digest is not known yet; a display needs some name for the layer.
    let shown = progress.layer(&Digest::of(b""), None);
    let ingested = ingest::ingest(
        &mut source,
        Some(&blob),
        &scratch.path().join("fs"),
        ids,
        &Expected::default(),
        shown.as_ref(),
    )
    .context("importing the file system")?;
    source.finish()?;
    if ingested.report.entries == 0 {
        return Err(Fail::usage("the tar has no files")
            .hint("give the tar of a root file system, or `-` and pipe one in")
            .into());
    }
    config.rootfs = RootFs {
        kind: "layers".to_owned(),
        diff_ids: vec![ingested.diff_id.clone()],
    };
    config.history = vec![History {
        created: Some(now),
        created_by: Some("rl import".to_owned()),
        comment: options.message.clone(),
        ..History::default()
    }];
    let config_bytes = serde_json::to_vec(&config).context("describing the image")?;
    let layer = layer_descriptor(ingested.digest.clone(), ingested.size, ingested.packing);
    let manifest_bytes = manifest_of(&config_bytes, vec![layer])?;
    let new = NewImage {
        manifest: &manifest_bytes,
        media_type: manifest::OCI_MANIFEST,
        config: &config_bytes,
        name: options.reference.as_ref(),
        pulled: None,
    };
    store::keep_blob(&images, &blob, &ingested.digest)?;
    let info = LayerInfo::new(ids, ingested.digest.clone(), ingested.report);
    store::keep_layer(&images, &scratch, &ingested.diff_id, &info)?;
    let added = images.add(&new)?;
    shown.done();
    match added {
        Added::Done(image) => Ok(image.id),
        Added::Missing(_) => Err(Fail::conflict("the new layer was removed at once")
            .hint("another `rl rmi` or `rl image prune` is at work: try again")
            .into()),
    }
}

/// A manifest for a configuration and layers that came without one.
fn manifest_of(config: &[u8], layers: Vec<Descriptor>) -> Result<Vec<u8>> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(manifest::OCI_MANIFEST.to_owned()),
        config: descriptor(
            manifest::OCI_CONFIG,
            Digest::of(config),
            config.len() as u64,
        ),
        layers,
        annotations: std::collections::BTreeMap::new(),
    };
    serde_json::to_vec(&manifest).context("describing the image")
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        urls: Vec::new(),
        platform: None,
        artifact_type: None,
        annotations: std::collections::BTreeMap::new(),
    }
}

fn layer_descriptor(digest: Digest, size: u64, packing: Packing) -> Descriptor {
    let suffix = match packing {
        Packing::Gzip => "+gzip",
        Packing::Zstd => "+zstd",
        Packing::Plain | Packing::Xz | Packing::Bzip2 => "",
    };
    descriptor(&format!("{}{suffix}", manifest::OCI_LAYER), digest, size)
}

/// The first bytes of a seekable file, which stays where it is.
fn head_of(file: &File) -> Result<[u8; 6]> {
    let mut head = [0; 6];
    let mut have = 0;
    while have < head.len() {
        match file.read_at(&mut head[have..], have as u64)? {
            0 => break,
            count => have += count,
        }
    }
    Ok(head)
}

/// The input as a regular file: itself, or a copy in `spool`.
fn regular(mut input: File, spool: &Scratch) -> Result<File> {
    let meta = input.metadata()?;
    if meta.is_dir() {
        return Err(is_a_directory().into());
    }
    if meta.is_file() && input.stream_position()? == 0 {
        return Ok(input);
    }
    let mut copy = new_file(spool, "input")?;
    io::copy(&mut input, &mut copy).map_err(|error| spool_failed(&copy, error))?;
    Ok(copy)
}

fn is_a_directory() -> Fail {
    Fail::usage("this is a directory, not an archive")
        .hint("pack it first, or use `rl run --rootfs DIR`")
}

/// The archive as an uncompressed regular file.
fn plain_file(input: File, spool: &Scratch) -> Result<File> {
    let mut file = regular(input, spool)?;
    if file.metadata()?.len() == 0 {
        return Err(Fail::usage("the archive is empty").into());
    }
    let packing = Packing::of(&head_of(&file)?);
    if packing == Packing::Plain {
        return Ok(file);
    }
    let mut plain = new_file(spool, "plain")?;
    file.rewind()?;
    match packing {
        Packing::Xz | Packing::Bzip2 => {
            let mut child = external(packing, file, Stdio::from(plain.try_clone()?))?;
            check_external(packing, &mut child)?;
        }
        Packing::Plain | Packing::Gzip | Packing::Zstd => {
            let (_, mut reader) = decompress(file)?;
            io::copy(&mut reader, &mut plain).map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    spool_failed(&plain, error)
                }
                _ if error.raw_os_error().is_some() => read_failed(error),
                _ => Fail::corrupt(format!("the archive cannot be decompressed: {error}"))
                    .hint("it may be incomplete: fetch or save it again")
                    .into(),
            })?;
        }
    }
    Ok(plain)
}

fn new_file(spool: &Scratch, name: &str) -> Result<File> {
    let path = spool.path().join(name);
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("making `{}`", path.display()))
}

fn spool_failed(file: &File, error: io::Error) -> anyhow::Error {
    use std::os::fd::AsFd as _;
    match rustix::io::Errno::from_io_error(&error) {
        Some(errno @ (rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT)) => {
            super::layer::disk_full(file.as_fd(), "a copy of the archive", errno).into()
        }
        _ => anyhow::Error::from(error).context("copying the archive"),
    }
}

/// Starts `xz` or `bzip2` on a file.
fn external(packing: Packing, file: File, output: Stdio) -> Result<std::process::Child> {
    let program = program_for(packing);
    Command::new(program)
        .arg("-dc")
        .stdin(file)
        .stdout(output)
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| {
            anyhow::Error::from(error).context(
                Fail::unsupported(format!("cannot decompress: `{program}` does not run")).hint(
                    format!("install the package of `{program}`, or decompress the file elsewhere"),
                ),
            )
        })
}

fn program_for(packing: Packing) -> &'static str {
    match packing {
        Packing::Bzip2 => "bzip2",
        Packing::Plain | Packing::Gzip | Packing::Zstd | Packing::Xz => "xz",
    }
}

fn check_external(packing: Packing, child: &mut std::process::Child) -> Result<()> {
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    Err(Fail::corrupt(format!(
        "the archive cannot be decompressed: `{}` ended with {status}",
        program_for(packing)
    ))
    .into())
}

/// A tar as it comes, or through `xz`.
enum TarStream {
    Direct(io::Chain<io::Take<io::Cursor<[u8; 6]>>, File>),
    Through(Packing, std::process::Child),
}

fn tar_stream(mut input: File, spool: &Scratch) -> Result<TarStream> {
    if input.metadata()?.is_dir() {
        return Err(is_a_directory().into());
    }
    let mut head = [0; 6];
    let mut have = 0;
    while have < head.len() {
        match input.read(&mut head[have..])? {
            0 => break,
            count => have += count,
        }
    }
    let packing = Packing::of(&head[..have]);
    if !matches!(packing, Packing::Xz | Packing::Bzip2) {
        let head = io::Cursor::new(head).take(have as u64);
        return Ok(TarStream::Direct(head.chain(input)));
    }
    // The program needs a file that begins at its beginning.
    let file = if input.rewind().is_ok() {
        input
    } else {
        let mut copy = new_file(spool, "input")?;
        io::copy(&mut (&head[..have]).chain(input), &mut copy)
            .map_err(|error| spool_failed(&copy, error))?;
        copy.rewind()?;
        copy
    };
    let child = external(packing, file, Stdio::piped())?;
    Ok(TarStream::Through(packing, child))
}

impl TarStream {
    fn finish(self) -> Result<()> {
        match self {
            TarStream::Direct(_) => Ok(()),
            TarStream::Through(packing, mut child) => {
                drop(child.stdout.take());
                check_external(packing, &mut child)
            }
        }
    }
}

impl Read for TarStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            TarStream::Direct(input) => input.read(buffer),
            TarStream::Through(_, child) => match &mut child.stdout {
                Some(stdout) => stdout.read(buffer),
                None => Ok(0),
            },
        }
    }
}

/// Where a member's data is.
#[derive(Debug, Clone)]
struct Member {
    offset: u64,
    size: u64,
    /// The member it stands for.
    link: Option<String>,
}

struct Archive<'f> {
    file: &'f File,
    members: HashMap<String, Member>,
}

/// `docker save`'s manifest.json has one of these for each image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default, deserialize_with = "manifest::null_is_empty")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "manifest::null_is_empty")]
    layers: Vec<String>,
}

/// Which part of the archive has which blob.
struct Blobs<'f> {
    file: &'f File,
    places: HashMap<Digest, Member>,
}

impl Source for Blobs<'_> {
    fn blob(&self, layer: &Descriptor) -> Result<Box<dyn Read + '_>> {
        let place = self.places.get(&layer.digest).ok_or_else(|| {
            Fail::corrupt(format!("the archive does not have layer {}", layer.digest))
        })?;
        Ok(Box::new(Section::new(self.file, place)))
    }
}

impl<'f> Archive<'f> {
    fn scan(file: &'f File) -> Result<Self> {
        let whole = Member {
            offset: 0,
            size: file.metadata()?.len(),
            link: None,
        };
        let mut reader = Reader::new(Counted {
            input: BufReader::with_capacity(64 << 10, Section::new(file, &whole)),
            at: 0,
        });
        let mut entry = Entry::default();
        let mut members = HashMap::new();
        let damaged = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData if error.to_string().starts_with("not a tar") => {
                Fail::usage("this is not an archive of images: it is no tar file").into()
            }
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Fail::corrupt(format!("the archive is damaged: {error}"))
                    .hint("it may be incomplete: fetch or save it again")
                    .into()
            }
            _ => anyhow::Error::from(error),
        };
        while reader.next(&mut entry).map_err(damaged)? {
            let path = normal(&String::from_utf8_lossy(&entry.path));
            let link = String::from_utf8_lossy(&entry.link);
            let link = match entry.kind {
                Kind::File => None,
                Kind::HardLink => Some(normal(&link)),
                Kind::Symlink => {
                    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                    Some(normal(&format!("{parent}/{link}")))
                }
                Kind::Directory
                | Kind::Fifo
                | Kind::CharDevice
                | Kind::BlockDevice
                | Kind::Other => continue,
            };
            let member = Member {
                offset: reader.input().at,
                size: entry.size,
                link,
            };
            members.insert(path, member);
            if members.len() > MAX_MEMBERS {
                return Err(
                    Fail::usage("this is not an archive of images: it has too many files")
                        .hint("a tar of a root file system becomes an image by `rl import`")
                        .into(),
                );
            }
        }
        Ok(Self { file, members })
    }

    fn member(&self, name: &str) -> Result<&Member> {
        let mut name = normal(name);
        for _ in 0..LINKS {
            let Some(member) = self.members.get(&name) else {
                break;
            };
            match &member.link {
                None => return Ok(member),
                Some(link) => name.clone_from(link),
            }
        }
        Err(Fail::corrupt(format!(
            "the archive does not have `{}`",
            name.escape_debug()
        ))
        .into())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let member = self.member(name)?;
        if member.size > MAX_DOCUMENT {
            return Err(Fail::corrupt(format!(
                "`{name}` in the archive has {} bytes, more than {MAX_DOCUMENT}",
                member.size
            ))
            .into());
        }
        let mut content = Vec::new();
        Section::new(self.file, member).read_to_end(&mut content)?;
        Ok(content)
    }

    fn load_docker(&self, store: &Store, ids: Ids, progress: &dyn Progress) -> Result<Vec<Loaded>> {
        let saved: Vec<Saved> =
            manifest::read(&self.read("manifest.json")?, "the archive's manifest.json")?;
        let mut loaded = Vec::new();
        for image in &saved {
            let config_bytes = self.read(&image.config)?;
            let config: ImageConfig = manifest::read(&config_bytes, "the image's configuration")?;
            if config.rootfs.diff_ids.len() != image.layers.len() {
                return Err(Fail::corrupt(format!(
                    "the image has {} layers, but its configuration says {}",
                    image.layers.len(),
                    config.rootfs.diff_ids.len()
                ))
                .into());
            }
            let mut blobs = Blobs {
                file: self.file,
                places: HashMap::new(),
            };
            let mut layers = Vec::new();
            for (name, diff_id) in image.layers.iter().zip(&config.rootfs.diff_ids) {
                let member = self.member(name)?;
                let layer = self.layer(member, diff_id)?;
                blobs.places.insert(layer.digest.clone(), member.clone());
                layers.push(layer);
            }
            let names = image
                .repo_tags
                .iter()
                .map(|name| Reference::parse(name))
                .collect::<Result<Vec<_>, _>>()?;
            let manifest = manifest_of(&config_bytes, layers)?;
            let new = NewImage {
                manifest: &manifest,
                media_type: manifest::OCI_MANIFEST,
                config: &config_bytes,
                name: names.first(),
                pulled: None,
            };
            loaded.push(finish(store, &new, &blobs, &names, ids, progress)?);
        }
        Ok(loaded)
    }

    /// A layer without a descriptor: it is plain as a rule, and then its digest is its DiffID.
    fn layer(&self, member: &Member, diff_id: &Digest) -> Result<Descriptor> {
        let mut head = Vec::new();
        Section::new(self.file, member)
            .take(6)
            .read_to_end(&mut head)?;
        let packing = Packing::of(&head);
        let digest = if packing == Packing::Plain {
            diff_id.clone()
        } else {
            let mut hash = Sha256::new();
            let mut section = Section::new(self.file, member);
            let mut buffer = vec![0; 128 << 10];
            loop {
                match section.read(&mut buffer)? {
                    0 => break Digest::from_sha256(hash.finalize().into()),
                    count => hash.update(&buffer[..count]),
                }
            }
        };
        Ok(layer_descriptor(digest, member.size, packing))
    }

    fn load_oci(&self, store: &Store, ids: Ids, progress: &dyn Progress) -> Result<Vec<Loaded>> {
        let blobs = Blobs {
            file: self.file,
            places: self
                .members
                .iter()
                .filter_map(|(name, member)| {
                    let hex = name.strip_prefix("blobs/sha256/")?;
                    let digest = Digest::parse(&format!("sha256:{hex}")).ok()?; // no blob of ours
                    (member.link.is_none()).then(|| (digest, member.clone()))
                })
                .collect(),
        };
        let index: manifest::Index =
            manifest::read(&self.read("index.json")?, "the archive's index.json")?;
        let mut loaded: Vec<Loaded> = Vec::new();
        for entry in &index.manifests {
            let names: Vec<Reference> = entry_name(entry).into_iter().collect();
            let mut entry = entry.clone();
            let mut depth = 0;
            let (bytes, manifest) = loop {
                let bytes = self.checked(&entry)?;
                match manifest::parse(&bytes, Some(&entry.media_type))? {
                    Document::Manifest(manifest) => break (bytes, manifest),
                    Document::Index(inner) if depth < LINKS => {
                        depth += 1;
                        entry = inner.choose(&Platform::host())?.clone();
                    }
                    Document::Index(_) => {
                        return Err(Fail::corrupt("the archive's indexes lead in a circle").into());
                    }
                }
            };
            let config_bytes = self.checked(&manifest.config)?;
            let media_type = match manifest.media_type.as_deref() {
                Some(said) => said,
                None if entry.media_type.is_empty() => manifest::OCI_MANIFEST,
                None => &entry.media_type,
            };
            let new = NewImage {
                manifest: &bytes,
                media_type,
                config: &config_bytes,
                name: names.first(),
                pulled: None,
            };
            let image = finish(store, &new, &blobs, &names, ids, progress)?;
            match loaded.iter_mut().find(|known| known.id == image.id) {
                Some(known) => known.names.extend(image.names),
                None => loaded.push(image),
            }
        }
        if loaded.is_empty() {
            return Err(Fail::corrupt("the archive has no image").into());
        }
        Ok(loaded)
    }

    /// A manifest or configuration, with its digest checked.
    fn checked(&self, wanted: &Descriptor) -> Result<Vec<u8>> {
        let bytes = self.read(&format!("blobs/sha256/{}", wanted.digest.hex()))?;
        if Digest::of(&bytes) != wanted.digest {
            return Err(Fail::corrupt(format!(
                "the archive's content {} is damaged",
                wanted.digest
            ))
            .hint("fetch or save it again")
            .into());
        }
        Ok(bytes)
    }
}

fn finish(
    store: &Store,
    new: &NewImage<'_>,
    blobs: &Blobs<'_>,
    names: &[Reference],
    ids: Ids,
    progress: &dyn Progress,
) -> Result<Loaded> {
    let image = pull::bring(store, new, blobs, ids, progress)?;
    let images = Images::open(store);
    for name in names.iter().skip(1) {
        images.tag(&image.id, name)?;
    }
    Ok(Loaded {
        names: names.to_vec(),
        id: image.id,
    })
}

/// The name in an OCI archive: in full where containerd or docker wrote it. `ref.name` is often a bare
/// tag, which names nothing.
fn entry_name(entry: &Descriptor) -> Option<Reference> {
    let text = match entry.annotations.get(CONTAINERD_NAME) {
        Some(text) => text,
        None => entry.annotations.get(REF_NAME).filter(|text| {
            let version = text.trim_start_matches('v');
            text.contains(['/', ':'])
                || !(*text == "latest" || version.starts_with(|first: char| first.is_ascii_digit()))
        })?,
    };
    Reference::parse(text).ok() // other tools take names that no registry would
}

/// A path in an archive without `.`, `..` and doubled slashes.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// A part of a file, read without moving the file's position: several threads share the file.
struct Section<'f> {
    file: &'f File,
    at: u64,
    end: u64,
}

impl<'f> Section<'f> {
    fn new(file: &'f File, member: &Member) -> Self {
        Self {
            file,
            at: member.offset,
            end: member.offset.saturating_add(member.size),
        }
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Knows how far it was read.
struct Counted<R> {
    input: R,
    at: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.at += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::super::ingest::Silent;
    use super::super::store::Force;
    use super::*;
    use crate::error::{Kind as FailKind, kind};
    use serde_json::json;
    use std::io::Write as _;

    /// A store with nothing in it.
    struct Home(tempfile::TempDir, Store);

    impl Home {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::at(dir.path().join("rl"));
            Self(dir, store)
        }

        fn file(&self, content: &[u8]) -> File {
            let mut file = tempfile::tempfile_in(self.0.path()).unwrap();
            file.write_all(content).unwrap();
            file.rewind().unwrap();
            file
        }

        fn load(&self, content: &[u8]) -> Result<Vec<Loaded>> {
            load(&self.1, self.file(content), Ids::Single, &Silent)
        }

        fn import(&self, content: &[u8], options: &ImportOptions) -> Result<Digest> {
            import(&self.1, self.file(content), options, Ids::Single, &Silent)
        }

        fn images(&self) -> Images {
            Images::open(&self.1)
        }

        /// Nothing half-made is left.
        fn is_tidy(&self) {
            let litter: Vec<_> = std::fs::read_dir(self.1.tmp()).unwrap().collect();
            assert!(litter.is_empty(), "{litter:?}");
        }
    }

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn config_of(layers: &[&[u8]]) -> Vec<u8> {
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|tar| Digest::of(tar).to_string())
            .collect();
        json!({
            "architecture": Platform::host().architecture, "os": "linux",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes()
    }

    /// Two layers, the second a link to the first as old dockers wrote it, two names.
    fn docker_archive() -> Vec<u8> {
        let layer = tar_of(&[("etc/name", b"one")]);
        let upper = tar_of(&[("etc/other", b"two")]);
        let config = config_of(&[&layer, &upper, &layer]);
        let manifest = json!([{
            "Config": "c.json", "RepoTags": ["one:1", "two:2"],
            "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar"],
        }]);
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in [
            ("a/layer.tar", &layer[..]),
            ("b/layer.tar", &gzip(&upper)),
            ("c.json", &config),
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content).unwrap();
        }
        let mut link = tar::Header::new_ustar();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder
            .append_link(&mut link, "c/layer.tar", "../a/layer.tar")
            .unwrap();
        let text = manifest.to_string();
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        builder
            .append_data(&mut header, "manifest.json", text.as_bytes())
            .unwrap();
        builder.into_inner().unwrap()
    }

    fn oci_archive(name: &str, layer_blob: &[u8]) -> Vec<u8> {
        let layer = tar_of(&[("bin/x", b"x")]);
        let config = config_of(&[&layer]);
        let blob = gzip(&layer);
        let manifest = manifest_of(
            &config,
            vec![layer_descriptor(
                Digest::of(&blob),
                blob.len() as u64,
                Packing::Gzip,
            )],
        )
        .unwrap();
        let mut entry = descriptor(
            manifest::OCI_MANIFEST,
            Digest::of(&manifest),
            manifest.len() as u64,
        );
        entry
            .annotations
            .insert(REF_NAME.to_owned(), name.to_owned());
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
        let path = |content: &[u8]| format!("blobs/sha256/{}", Digest::of(content).hex());
        tar_of(&[
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
            ("index.json", index.as_bytes()),
            (&path(&manifest), &manifest),
            (&path(&config), &config),
            (&path(&blob), layer_blob),
        ])
    }

    fn good_oci_archive(name: &str) -> Vec<u8> {
        oci_archive(name, &gzip(&tar_of(&[("bin/x", b"x")])))
    }

    #[test]
    fn a_docker_archive_is_loaded_compressed_or_not() {
        let plain = docker_archive();
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        for archive in [plain.clone(), gzip(&plain), zstd] {
            let home = Home::new();
            let loaded = home.load(&archive).unwrap();
            assert_eq!(loaded.len(), 1);
            assert_eq!(loaded[0].names.len(), 2);
            let image = home.images().find("two:2", None).unwrap().unwrap();
            assert_eq!(image.id, loaded[0].id);
            assert_eq!(image.names.len(), 2);
            assert!(image.layers_present);
            assert_eq!(home.images().size_unpacked(&image).unwrap(), 9);
            let upper = home.images().layer_dir(&image.config.rootfs.diff_ids[1]);
            assert_eq!(std::fs::read(upper.join("fs/etc/other")).unwrap(), b"two");
            home.is_tidy();
        }
    }

    #[test]
    fn an_oci_archive_is_loaded_under_its_full_name() {
        for (name, found) in [
            ("docker.io/library/a:1", Some("a:1")),
            ("a:1", Some("a:1")),
            ("a", Some("a")),
            ("latest", None),
            ("v3.2", None),
        ] {
            let home = Home::new();
            let loaded = home.load(&good_oci_archive(name)).unwrap();
            let names: Vec<String> = loaded[0].names.iter().map(Reference::familiar).collect();
            match found {
                Some(found) => assert!(home.images().find(found, None).unwrap().is_some()),
                None => assert!(names.is_empty(), "{names:?}"),
            }
            let id = loaded[0].id.hex();
            assert!(home.images().find(&id[..12], None).unwrap().is_some());
            home.is_tidy();
        }
    }

    #[test]
    fn what_is_no_archive_of_images_is_refused_and_leaves_nothing() {
        let docker = docker_archive();
        let lost = tar_of(&[("manifest.json", br#"[{"Config":"gone.json","Layers":[]}]"#)]);
        let damaged = oci_archive("a:1", &gzip(&tar_of(&[("bin/x", b"y")])));
        let mut flipped = gzip(&docker);
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0xff;
        for (name, content, expected, say) in [
            ("empty", Vec::new(), FailKind::Usage, "empty"),
            ("text", b"hello".repeat(1000), FailKind::Usage, "no tar"),
            (
                "a root",
                tar_of(&[("bin/sh", b"x")]),
                FailKind::Usage,
                "manifest.json",
            ),
            (
                "truncated",
                docker[..docker.len() / 3].to_vec(),
                FailKind::Corrupt,
                "damaged",
            ),
            (
                "truncated gzip",
                gzip(&docker)[..600].to_vec(),
                FailKind::Corrupt,
                "decompress",
            ),
            ("flipped gzip", flipped, FailKind::Corrupt, ""),
            ("lost config", lost, FailKind::Corrupt, "gone.json"),
            ("wrong layer", damaged, FailKind::Corrupt, "digest"),
        ] {
            let home = Home::new();
            let error = home.load(&content).expect_err(name);
            let text = crate::error::report(&error);
            assert_eq!(kind(&error), expected, "{name}: {text}");
            assert!(text.contains(say), "{name}: {text}");
            home.is_tidy();
            assert!(home.images().list().unwrap().is_empty());
        }
    }

    #[test]
    fn a_root_file_system_becomes_an_image() {
        let tar = tar_of(&[("etc/os-release", b"ID=x")]);
        let home = Home::new();
        let options = ImportOptions {
            reference: Some(Reference::parse("mine").unwrap()),
            changes: vec!["CMD [\"/x\"]".to_owned(), "ENV A=1".to_owned()],
            message: Some("by hand".to_owned()),
            platform: None,
        };
        let id = home.import(&gzip(&tar), &options).unwrap();
        let image = home.images().find("mine", None).unwrap().unwrap();
        assert_eq!(image.id, id);
        assert_eq!(image.config.rootfs.diff_ids, [Digest::of(&tar)]);
        assert_eq!(
            image.config.config.cmd.as_deref(),
            Some(&["/x".to_owned()][..])
        );
        assert_eq!(image.config.history[0].comment.as_deref(), Some("by hand"));
        assert!(image.manifest.layers[0].media_type.ends_with("+gzip"));
        assert!(image.layers_present);
        // The same again, plain: the layer is there, the image is another.
        home.import(&tar, &options).unwrap();
        assert_eq!(home.images().list().unwrap().len(), 2);
        home.is_tidy();
    }

    #[test]
    fn imports_of_wrong_things_fail_and_leave_nothing() {
        let tar = tar_of(&[("a", &[7; 5000])]);
        for (name, content) in [
            ("empty", Vec::new()),
            ("text", b"hello".repeat(500)),
            ("truncated", tar[..1000].to_vec()),
            ("truncated gzip", gzip(&tar)[..40].to_vec()),
        ] {
            let home = Home::new();
            let error = home
                .import(&content, &ImportOptions::default())
                .expect_err(name);
            assert_ne!(kind(&error), FailKind::System, "{name}: {error:#}");
            home.is_tidy();
            assert_eq!(
                std::fs::read_dir(home.1.layers()).unwrap().count(),
                0,
                "{name}"
            );
        }
    }

    #[test]
    fn images_are_found_tagged_and_removed_as_in_docker() {
        let home = Home::new();
        let images = home.images();
        let id = home.load(&docker_archive()).unwrap().remove(0).id;
        let other = home
            .load(&good_oci_archive("other:1"))
            .unwrap()
            .remove(0)
            .id;
        images
            .tag(&id, &Reference::parse("three").unwrap())
            .unwrap();
        assert_eq!(images.list().unwrap().len(), 2);
        let image = images.find("three", None).unwrap().unwrap();
        assert_eq!(image.names.len(), 3);
        let by_digest = format!("one@{}", image.manifest_digest);
        assert!(images.find(&by_digest, None).unwrap().is_some());
        assert!(images.find("elsewhere", None).unwrap().is_none());
        let foreign = Platform::parse("linux/s390x").unwrap();
        assert!(images.find("three", Some(&foreign)).unwrap().is_none());

        // A name that moves to another image leaves the first without it.
        images
            .tag(&other, &Reference::parse("three").unwrap())
            .unwrap();
        assert_eq!(images.find("three", None).unwrap().unwrap().id, other);
        assert_eq!(images.find("one:1", None).unwrap().unwrap().names.len(), 2);

        let error = images
            .remove(id.hex(), Force::No, &[])
            .expect_err("two names");
        assert_eq!(kind(&error), FailKind::Conflict);
        let user = store::Usage {
            container: "web".to_owned(),
            image: id.to_string(),
            diff_ids: vec![image.config.rootfs.diff_ids[0].to_string()],
        };
        let removed = images
            .remove("one:1", Force::No, std::slice::from_ref(&user))
            .unwrap();
        assert_eq!(removed, [store::Removed::Untagged("one:1".to_owned())]);
        let error = images
            .remove("two:2", Force::No, std::slice::from_ref(&user))
            .expect_err("used");
        assert!(error.to_string().contains("web"), "{error}");
        let removed = images.remove("two:2", Force::Yes, &[user]).unwrap();
        assert_eq!(removed.len(), 2);
        assert!(images.layer_dir(&image.config.rootfs.diff_ids[0]).exists());
        assert!(!images.layer_dir(&image.config.rootfs.diff_ids[1]).exists());
        images.remove(other.hex(), Force::Yes, &[]).unwrap();
        assert!(images.list().unwrap().is_empty());
        let blobs = home.1.images().join("blobs/sha256");
        assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0);
        home.is_tidy();
    }

    #[test]
    fn a_damaged_store_says_what_to_do_and_can_be_cleaned() {
        let home = Home::new();
        let images = home.images();
        home.load(&good_oci_archive("a:1")).unwrap();
        let image = images.find("a:1", None).unwrap().unwrap();
        let config = images.blob_path(&image.id);
        std::fs::write(&config, "{}").unwrap();
        let error = images.find("a:1", None).expect_err("damaged");
        let report = crate::error::report(&error);
        assert!(
            report.contains(config.to_str().unwrap()) && report.contains("rl rmi"),
            "{report}"
        );
        images.remove("a:1", Force::No, &[]).unwrap();
        assert!(images.list().unwrap().is_empty());

        // The layer stayed, for a damaged image does not say which it had; loading again is enough.
        home.load(&good_oci_archive("a:1")).unwrap();
        let layer = images
            .layer_dir(&image.config.rootfs.diff_ids[0])
            .join("layer.json");
        std::fs::write(&layer, r#"{"version": 99}"#).unwrap();
        let error = images.size_unpacked(&image).expect_err("newer");
        assert!(crate::error::report(&error).contains("newer"));

        std::fs::write(home.1.images().join("index.json"), "{").unwrap();
        let error = images.list().expect_err("damaged");
        assert_eq!(kind(&error), FailKind::Corrupt);
        assert!(crate::error::report(&error).contains("index.json"));
    }

    #[test]
    fn a_layer_that_vanished_is_unpacked_from_its_blob() {
        let home = Home::new();
        home.load(&good_oci_archive("a:1")).unwrap();
        let image = home.images().find("a:1", None).unwrap().unwrap();
        let layer = home.images().layer_dir(&image.config.rootfs.diff_ids[0]);
        std::fs::remove_dir_all(&layer).unwrap();
        // The archive's own copy is damaged now, so what comes is the stored blob.
        home.load(&oci_archive("a:1", b"nothing")).unwrap();
        assert!(layer.join("fs/bin/x").exists());
        // Both damaged: the error is the source's, and nothing is kept.
        std::fs::remove_dir_all(&layer).unwrap();
        std::fs::write(
            home.images().blob_path(&image.manifest.layers[0].digest),
            "x",
        )
        .unwrap();
        home.load(&oci_archive("a:1", b"nothing"))
            .expect_err("damaged");
        assert!(!layer.exists());
        home.load(&good_oci_archive("a:1")).unwrap();
        assert!(layer.join("fs/bin/x").exists());
        home.is_tidy();
    }
}
