//! Images from files: `docker save` archives, OCI archives, directories of either, and root file system tars.
//!
//! An archive is read where it lies; only what is compressed or comes through a pipe is first written to
//! a file under `tmp/`, for the list of images may stand at the end.

mod layout;

pub use layout::CONTAINERD_NAME;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::changes;
use super::config::{History, ImageConfig, RootFs};
use super::entries::{self, Entry, Kind, Reader};
use super::ingest::{self, Expected, Packing, Progress, decompress};
use super::layer::Ids;
use super::manifest::{self, Descriptor, MAX_DOCUMENT, Manifest};
use super::platform::Platform;
use super::policy::{Origin, Policy};
use super::pull::Source;
use super::reference::{Digest, Reference};
use super::scratch::{self, Scratch};
use super::store::add::{self, Added, NewImage, keep_blob, keep_layer};
use super::store::{Images, LayerInfo};
use crate::error::Fail;
use crate::paths::Store;
use layout::{Bringing, Layout};

/// Most members of an archive of images; a thousand images have fewer.
const MAX_MEMBERS: usize = 200_000;
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

/// Loads the images of an archive, a file or a pipe, or of a directory: all, or the one that is called `wanted`
/// there.
///
/// # Errors
/// `Usage` for what is no archive of images, `Corrupt` for a damaged one; those of [`super::pull::bring`].
pub fn load(
    store: &Store,
    input: File,
    wanted: Option<&str>,
    ids: Ids,
    progress: &dyn Progress,
) -> Result<Vec<Loaded>> {
    scratch::sweep(store)?;
    let bringing = Bringing {
        store,
        wanted,
        ids,
        progress,
        path: path_of(&input),
    };
    if input.metadata()?.is_dir() {
        return layout::load_directory(input.into(), &bringing).context("reading the directory");
    }
    let spool = Scratch::unique(store, "load")?;
    let file = plain_file(input, &spool)?;
    let archive = Archive::scan(&file).context("reading the archive")?;
    if archive.members.contains_key("oci-layout") && archive.members.contains_key("index.json") {
        allowed(&Origin::OciArchive(bringing.path.clone()))?;
        layout::load_oci(&archive, &bringing)
    } else if archive.members.contains_key("manifest.json") {
        allowed(&Origin::DockerArchive)?;
        archive.load_docker(&bringing)
    } else {
        Err(Fail::usage(
            "this is not an archive of images: it has neither manifest.json nor index.json",
        )
        .hint("a tar of a root file system becomes an image by `rl import`")
        .into())
    }
}

/// Where an opened file or directory is, without links; none for a pipe.
fn path_of(input: &File) -> Option<PathBuf> {
    let link = format!("/proc/self/fd/{}", input.as_raw_fd());
    std::fs::read_link(link)
        .ok()
        .filter(|path| path.is_absolute())
}

/// Whether the policy lets images from there in.
///
/// # Errors
/// Those of [`Policy::check`].
pub fn allowed(origin: &Origin<'_>) -> Result<()> {
    Policy::load()?.check(origin, None, &|| Ok(Vec::new()))
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
    allowed(&Origin::Tarball)?;
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
        return Err(no_files().into());
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
        blobs: add::Blobs::Keep,
    };
    keep_blob(&images, &blob, &ingested.digest)?;
    let info = LayerInfo::new(ids, ingested.digest.clone(), ingested.report);
    keep_layer(&images, &scratch, &ingested.diff_id, &info)?;
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
    fill(&mut head, |rest, have| file.read_at(rest, have as u64))?;
    Ok(head)
}

/// Reads until `buffer` is full or the input ends; returns how many bytes there are.
fn fill(
    buffer: &mut [u8],
    mut read: impl FnMut(&mut [u8], usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match read(&mut buffer[have..], have) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

/// An input with its first block put back.
type Peeked<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

/// The first block of an input, looked at and put back: what is no archive is refused before any of it is kept,
/// for a pipe may have no end.
fn peek<R: Read>(mut input: R) -> Result<(Packing, Peeked<R>)> {
    let mut head = vec![0; entries::HEADER];
    let have = fill(&mut head, |rest, _| input.read(rest))?;
    let packing = Packing::of(&head[..have]);
    let block = <&[u8; entries::HEADER]>::try_from(&head[..]).is_ok_and(entries::is_header);
    if have == head.len() && head.iter().all(|byte| *byte == 0) {
        return Err(no_files().into());
    }
    // An empty input has a message of its own.
    if packing == Packing::Plain && !block && have > 0 {
        return Err(Fail::usage("this is no archive: it is no tar file, compressed or not").into());
    }
    head.truncate(have);
    Ok((packing, io::Cursor::new(head).chain(input)))
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
    let (_, mut input) = peek(input)?;
    let mut copy = new_file(spool, "input")?;
    io::copy(&mut input, &mut copy).map_err(|error| spool_failed(&copy, error))?;
    Ok(copy)
}

fn no_files() -> Fail {
    Fail::usage("the tar has no files")
        .hint("give the tar of a root file system, or `-` and pipe one in")
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
            let (_, reader) = decompress(file)?;
            let (_, mut reader) = peek(reader)?;
            io::copy(&mut reader, &mut plain).map_err(|error| {
                if error.raw_os_error().is_some() {
                    return spool_failed(&plain, error);
                }
                Fail::corrupt(format!("the archive cannot be decompressed: {error}"))
                    .hint("it may be incomplete: fetch or save it again")
                    .into()
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
    Direct(Peeked<File>),
    Through(Packing, std::process::Child),
}

fn tar_stream(mut input: File, spool: &Scratch) -> Result<TarStream> {
    if input.metadata()?.is_dir() {
        return Err(is_a_directory().into());
    }
    let from_start = input.stream_position().is_ok_and(|at| at == 0);
    let (packing, mut peeked) = peek(input)?;
    if !matches!(packing, Packing::Xz | Packing::Bzip2) {
        return Ok(TarStream::Direct(peeked));
    }
    // The program needs a file that begins at its beginning.
    let file = if from_start {
        let (_, mut file) = peeked.into_inner();
        file.rewind()?;
        file
    } else {
        let mut copy = new_file(spool, "input")?;
        io::copy(&mut peeked, &mut copy).map_err(|error| spool_failed(&copy, error))?;
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

impl Source for Archive<'_> {
    fn blob(&self, layer: &Descriptor) -> Result<Box<dyn Read + '_>> {
        let member = self.member(&format!("blobs/sha256/{}", layer.digest.hex()))?;
        Ok(Box::new(Section::new(self.file, member)))
    }
}

impl Layout for Archive<'_> {
    fn read(&self, name: &str) -> Result<Vec<u8>> {
        self.read(name)
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
        let damaged = |error: io::Error| {
            let kind = error.kind();
            if kind == io::ErrorKind::InvalidData && error.to_string().starts_with("not a tar") {
                Fail::usage("this is not an archive of images: it is no tar file").into()
            } else if matches!(
                kind,
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) {
                Fail::corrupt(format!("the archive is damaged: {error}"))
                    .hint("it may be incomplete: fetch or save it again")
                    .into()
            } else {
                anyhow::Error::from(error)
            }
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

    fn load_docker(&self, bringing: &Bringing<'_>) -> Result<Vec<Loaded>> {
        let saved: Vec<Saved> =
            manifest::read(&self.read("manifest.json")?, "the archive's manifest.json")?;
        let mut loaded = Vec::new();
        for image in &saved {
            let names = image
                .repo_tags
                .iter()
                .map(|name| Reference::parse(name))
                .collect::<Result<Vec<_>, _>>()?;
            if !bringing.wants(None, &names) {
                continue;
            }
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
            let manifest = manifest_of(&config_bytes, layers)?;
            let new = NewImage {
                manifest: &manifest,
                media_type: manifest::OCI_MANIFEST,
                config: &config_bytes,
                name: names.first(),
                pulled: None,
                blobs: add::Blobs::Keep,
            };
            loaded.push(bringing.finish(&new, &blobs, &names)?);
        }
        bringing.found(loaded)
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
