//! Writes images of the store into archives and directories that other tools read.
//!
//! ```text
//! docker-archive   an OCI layout with a manifest.json beside it, as docker writes since version 25: read as
//!                  `docker load`, `docker-archive:` and `oci-archive:`
//! oci-archive      an OCI layout as a tar
//! oci-dir          an OCI layout
//! docker-dir       `dir:` of skopeo and podman, one image, in docker's format
//! ```
//!
//! Blobs are copied byte for byte and digested on the way: what is damaged here is not passed on.
//!
//! Sources: OCI image specification, image-layout.md; docker's image specification v1.3; containers/image, directory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{AtFlags, CWD, OFlags};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::archive::CONTAINERD_NAME;
use super::entries::{Entry, Kind};
use super::manifest::{self, Descriptor, Format};
use super::pack::Writer;
use super::push::Outgoing;
use super::reference::{Digest, Reference};
use super::store::{Images, REF_NAME, StoredImage};
use crate::error::Fail;

/// The kinds of archive and directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// What `docker save` writes.
    DockerArchive,
    /// An OCI layout as a tar.
    OciArchive,
    /// An OCI layout.
    OciDir,
    /// Of skopeo's `dir:`.
    DockerDir,
}

/// An image and how it is called in what is written.
#[derive(Debug, Clone)]
pub struct Saved {
    /// The image.
    pub image: StoredImage,
    /// Its names.
    pub names: Vec<Reference>,
    /// `ref.name` in a layout in place of names.
    pub label: Option<String>,
}

/// Where files of an archive or directory go.
trait Place {
    fn small(&mut self, name: &str, bytes: &[u8]) -> Result<()>;
    /// A blob; false when it is there already.
    fn blob(&mut self, name: &str, blob: &Descriptor, images: &Images) -> Result<()>;
}

struct Tar<W: Write> {
    writer: Writer<W>,
    written: Vec<String>,
}

impl<W: Write> Tar<W> {
    fn entry(&mut self, name: &str, size: u64) -> io::Result<()> {
        let entry = Entry {
            path: name.as_bytes().to_vec(),
            mode: 0o644,
            size,
            ..Entry::default()
        };
        self.writer.header(&entry)
    }
}

impl<W: Write> Place for Tar<W> {
    fn small(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        if self.written.iter().any(|known| known == name) {
            return Ok(());
        }
        self.written.push(name.to_owned());
        self.entry(name, bytes.len() as u64)?;
        self.writer.content(bytes, bytes.len() as u64)?;
        Ok(())
    }

    fn blob(&mut self, name: &str, blob: &Descriptor, images: &Images) -> Result<()> {
        if self.written.iter().any(|known| known == name) {
            return Ok(());
        }
        self.written.push(name.to_owned());
        let mut source = Checked::open(images, blob)?;
        self.entry(name, blob.size)?;
        self.writer.content(&mut source, blob.size)?;
        source.check()
    }
}

struct Dir<'d>(&'d Path);

impl Dir<'_> {
    /// Written aside and renamed: a reader sees all of a file or none.
    fn put(&mut self, name: &str, mut source: impl Read) -> Result<()> {
        let path = self.0.join(name);
        let failed = || format!("writing `{}`", path.display());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(failed)?;
        }
        let aside = self.0.join(".rl-new");
        let done = (|| {
            let mut file = File::create(&aside)?;
            io::copy(&mut source, &mut file)?;
            file.sync_all()?;
            std::fs::rename(&aside, &path)
        })();
        if done.is_err() {
            let _ = std::fs::remove_file(&aside); // the first error is the one that matters
        }
        done.with_context(failed)
    }
}

impl Place for Dir<'_> {
    fn small(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.put(name, bytes)
    }

    fn blob(&mut self, name: &str, blob: &Descriptor, images: &Images) -> Result<()> {
        let there = std::fs::metadata(self.0.join(name));
        if there.is_ok_and(|meta| meta.is_file() && meta.len() == blob.size) {
            return Ok(());
        }
        let mut source = Checked::open(images, blob)?;
        self.put(name, &mut source)?;
        let checked = source.check();
        if checked.is_err() {
            let _ = std::fs::remove_file(self.0.join(name)); // the damage is what matters
        }
        checked
    }
}

/// A blob of the store that is digested while it is read.
struct Checked<'b> {
    file: io::Take<File>,
    hash: Sha256,
    blob: &'b Descriptor,
}

impl<'b> Checked<'b> {
    fn open(images: &Images, blob: &'b Descriptor) -> Result<Self> {
        let path = images.blob_path(&blob.digest);
        let file = File::open(&path)
            .with_context(|| format!("opening `{}`", path.display()))
            .map_err(|error| error.context(damaged(blob, "cannot be read")))?;
        if file.metadata()?.len() != blob.size {
            return Err(damaged(blob, "is damaged").into());
        }
        Ok(Self {
            file: file.take(blob.size),
            hash: Sha256::new(),
            blob,
        })
    }

    fn check(self) -> Result<()> {
        if Digest::from_sha256(self.hash.finalize().into()) == self.blob.digest {
            return Ok(());
        }
        Err(damaged(self.blob, "is damaged").into())
    }
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

fn damaged(blob: &Descriptor, how: &str) -> Fail {
    Fail::corrupt(format!("{} of the store {how}", blob.digest)).hint(
        "`rl pull --blobs=keep` of the image fetches what is missing of it; `rl rmi` removes what is damaged",
    )
}

/// Writes an archive to `out`; `format` as in [`Outgoing::of`].
///
/// # Errors
/// `Corrupt` when blobs are damaged; the output's.
pub fn archive(
    images: &Images,
    saved: &[Saved],
    form: Form,
    format: Option<Format>,
    out: impl Write,
) -> Result<()> {
    let mut tar = Tar {
        writer: Writer::new(out),
        written: Vec::new(),
    };
    // Skopeo, not being root, may not make directories that the archive does not have: it gives them to root.
    for name in ["blobs/", "blobs/sha256/"] {
        tar.writer.header(&Entry {
            path: name.as_bytes().to_vec(),
            kind: Kind::Directory,
            mode: 0o755,
            ..Entry::default()
        })?;
    }
    tar.small("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut entries = Vec::new();
    let mut manifests = Vec::new();
    for one in saved {
        let outgoing = Outgoing::of(images, &one.image, format)?;
        blobs(&mut tar, images, &outgoing)?;
        entries.extend(index_entries(one, &outgoing, form));
        let place = |blob: &Descriptor| format!("blobs/sha256/{}", blob.digest.hex());
        let tags = one.names.iter().filter(|name| name.digest.is_none());
        manifests.push(json!({
            "Config": place(&outgoing.config),
            "RepoTags": tags.map(Reference::familiar).collect::<Vec<_>>(),
            "Layers": outgoing.layers.iter().map(place).collect::<Vec<_>>(),
        }));
    }
    tar.small("index.json", &serde_json::to_vec(&index(&entries))?)?;
    if form == Form::DockerArchive {
        tar.small("manifest.json", &serde_json::to_vec(&manifests)?)?;
    }
    tar.writer.finish()?.flush()?;
    Ok(())
}

fn blobs(place: &mut dyn Place, images: &Images, outgoing: &Outgoing) -> Result<()> {
    for blob in outgoing.layers.iter().chain([&outgoing.config]) {
        let name = format!("blobs/sha256/{}", blob.digest.hex());
        place.blob(&name, blob, images)?;
    }
    let digest = Digest::of(&outgoing.bytes);
    place.small(&format!("blobs/sha256/{}", digest.hex()), &outgoing.bytes)
}

/// One for each name, or one without.
fn index_entries(saved: &Saved, outgoing: &Outgoing, form: Form) -> Vec<Value> {
    let mut labels: Vec<Value> = match &saved.label {
        Some(label) => vec![json!({ REF_NAME: label })],
        None => saved
            .names
            .iter()
            .map(|name| match form {
                // As docker has it: the tag alone beside the full name.
                Form::DockerArchive => json!({
                    CONTAINERD_NAME: name.to_string(),
                    REF_NAME: name.tag.as_deref().unwrap_or_default(),
                }),
                Form::OciArchive | Form::OciDir | Form::DockerDir => {
                    json!({ REF_NAME: name.to_string() })
                }
            })
            .collect(),
    };
    if labels.is_empty() {
        labels.push(Value::Null);
    }
    labels
        .into_iter()
        .map(|annotations| {
            let mut entry = json!({
                "mediaType": outgoing.media_type,
                "digest": Digest::of(&outgoing.bytes).to_string(),
                "size": outgoing.bytes.len(),
                "platform": saved.image.config.platform(),
            });
            if !annotations.is_null() {
                entry["annotations"] = annotations;
            }
            entry
        })
        .collect()
}

fn index(entries: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": manifest::OCI_INDEX, "manifests": entries })
}

/// Writes into the directory `dir`, which is made where it is missing. An OCI layout that is there gets the images
/// beside its own; one of the same name is replaced.
///
/// # Errors
/// `Usage` when something else is there; those of [`archive`].
pub fn directory(
    images: &Images,
    saved: &[Saved],
    form: Form,
    format: Option<Format>,
    dir: &Path,
) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("making `{}`", dir.display()))?;
    let is_empty = std::fs::read_dir(dir)
        .with_context(|| format!("reading `{}`", dir.display()))?
        .next()
        .is_none();
    let mark = match form {
        Form::DockerDir => "version",
        Form::OciDir | Form::DockerArchive | Form::OciArchive => "oci-layout",
    };
    if !is_empty && !dir.join(mark).is_file() {
        return Err(Fail::usage(format!(
            "`{}` is not empty, and no image of this format",
            dir.display()
        ))
        .hint("name a new directory")
        .into());
    }
    let mut place = Dir(dir);
    if form == Form::DockerDir {
        return flat(&mut place, images, saved, format);
    }
    let mut entries: Vec<Value> = Vec::new();
    let path = dir.join("index.json");
    if path.exists() {
        let bytes =
            std::fs::read(&path).with_context(|| format!("reading `{}`", path.display()))?;
        let mut there: Value = manifest::read(&bytes, "index.json")?;
        if let Some(there) = there["manifests"].as_array_mut() {
            entries.append(there);
        }
    }
    for one in saved {
        let outgoing = Outgoing::of(images, &one.image, format)?;
        blobs(&mut place, images, &outgoing)?;
        for new in index_entries(one, &outgoing, form) {
            let name = |entry: &Value| entry["annotations"][REF_NAME].clone();
            entries.retain(|old| {
                let same_name = name(old) == name(&new);
                !(same_name && (!name(old).is_null() || old["digest"] == new["digest"]))
            });
            entries.push(new);
        }
    }
    place.small("index.json", &serde_json::to_vec_pretty(&index(&entries))?)?;
    place.small("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
}

fn flat(
    place: &mut Dir<'_>,
    images: &Images,
    saved: &[Saved],
    format: Option<Format>,
) -> Result<()> {
    let [one] = saved else {
        return Err(Fail::usage("a directory of this format holds one image")
            .hint("--format oci-dir holds several")
            .into());
    };
    let outgoing = Outgoing::of(images, &one.image, format)?;
    for blob in outgoing.layers.iter().chain([&outgoing.config]) {
        place.blob(blob.digest.hex(), blob, images)?;
    }
    place.small("manifest.json", &outgoing.bytes)?;
    place.small("version", b"Directory Transport Version: 1.1\n")
}

/// An archive file that appears under its name when it is whole. Where the file system can, it has no name before, and nothing is
/// left of it when we are killed.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    /// Where it is written, and its name then; none for what is no regular file.
    aside: Option<(PathBuf, PathBuf)>,
    is_nameless: bool,
}

/// A file without a name in `dir`; `None` where there is no such thing, as on NFS (open(2), `O_TMPFILE`).
fn nameless(dir: &Path) -> Option<File> {
    let flags = OFlags::TMPFILE.bits() | OFlags::CLOEXEC.bits();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .mode(0o666)
        .custom_flags(flags.cast_signed())
        .open(dir)
        .ok()?;
    // It gets its name by this link.
    let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    link.symlink_metadata().ok().map(|_| file)
}

impl NewFile {
    /// Begins to write `path`; a pipe or device that is there is written to.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path) -> Result<Self> {
        let failed = || format!("writing `{}`", path.display());
        let special = std::fs::metadata(path).is_ok_and(|meta| !meta.is_file());
        if special {
            let file = std::fs::OpenOptions::new().write(true).open(path);
            return Ok(Self {
                file: file.with_context(failed)?,
                aside: None,
                is_nameless: false,
            });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = path.with_file_name(format!(".{name}.rl-{}", std::process::id()));
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let nameless = nameless(dir.unwrap_or(Path::new(".")));
        Ok(Self {
            is_nameless: nameless.is_some(),
            file: match nameless {
                Some(file) => file,
                None => File::create(&aside).with_context(failed)?,
            },
            aside: Some((aside, path.to_owned())),
        })
    }

    /// Where to write.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives it the name `aside`, if it has none.
    fn name(&self, aside: &Path) -> io::Result<()> {
        if !self.is_nameless {
            return Ok(());
        }
        match std::fs::remove_file(aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {} // one of our number was killed
        }
        let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, link, CWD, aside, AtFlags::SYMLINK_FOLLOW)?;
        Ok(())
    }

    /// It is whole.
    ///
    /// # Errors
    /// The system's.
    pub fn keep(mut self) -> Result<()> {
        if let Some((aside, path)) = self.aside.take() {
            let kept = self
                .file
                .sync_all()
                .and_then(|()| self.name(&aside))
                .and_then(|()| std::fs::rename(&aside, &path));
            if kept.is_err() {
                let _ = std::fs::remove_file(&aside); // the first error is the one that matters
            }
            kept.with_context(|| format!("writing `{}`", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some((aside, _)) = &self.aside {
            let _ = std::fs::remove_file(aside); // an error is on its way already
        }
    }
}
