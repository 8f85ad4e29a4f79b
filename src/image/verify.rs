//! Whether what the store has of images is what its digests say, and making it so.
//!
//! A blob is read and digested. A tree has no digest: its layer is unpacked anew under `tmp/` and compared with it, file by file.
//! A wrong blob is fetched again from where its image came from; a wrong tree is replaced by the new one. Prints nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::ingest::{self, Expected, Silent};
use super::layer::Ids;
use super::manifest::Descriptor;
use super::pull;
use super::reference::{Digest, Reference};
use super::registry::ClientOptions;
use super::scratch::Scratch;
use super::space::{Part, Space};
use super::store::add::{keep_blob, keep_layer};
use super::store::{Images, LayerInfo, PULLED, Usage, name_of};
use crate::error;
use crate::paths::Store;
use crate::stage::emulation::note::{self, Note};
use crate::sys;
use crate::sys::fs::Root;

/// How much to look at, and whether to touch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct How {
    /// Layers are not read: no digest of theirs is compared, and no tree.
    pub is_quick: bool,
    /// Repair what can be.
    pub repairs: bool,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Finding {
    /// What, and what is wrong with it.
    pub problem: String,
    /// What the user can do, or what `--repair` does.
    pub remedy: String,
    /// It was wrong, and is right now.
    pub repaired: bool,
}

/// What `--repair` does, for the remedy.
pub const REPAIR: &str = "rl system check --repair";

impl Finding {
    /// What the user has to see to.
    pub fn new(problem: String, remedy: impl Into<String>) -> Self {
        Self {
            problem,
            remedy: remedy.into(),
            repaired: false,
        }
    }

    /// What can be repaired, and is when asked for; what resists is said.
    pub fn mend(
        how: How,
        problem: String,
        does: &str,
        repair: impl FnOnce() -> Result<()>,
    ) -> Self {
        let mut finding = Self::new(problem, format!("{does}: {REPAIR}"));
        if how.repairs {
            match repair() {
                Ok(()) => {
                    does.clone_into(&mut finding.remedy);
                    finding.repaired = true;
                }
                Err(error) => finding.problem = format!("{}; {error:#}", finding.problem),
            }
        }
        finding
    }
}

/// What is needed for it.
pub struct Asked<'a> {
    /// Whose images.
    pub store: &'a Store,
    /// How much.
    pub how: How,
    /// How ownership is kept by those who unpack now.
    pub ids: Ids,
    /// All containers.
    pub used: &'a [Usage],
    /// A container that stands on this tree now: then it cannot be replaced.
    pub standing: &'a dyn Fn(&Digest) -> Option<String>,
    /// How to talk to the registry of an image.
    pub client: &'a dyn Fn(&Reference) -> Result<ClientOptions>,
}

/// Looks at all blobs and trees.
///
/// # Errors
/// When the store cannot be read at all.
pub fn images(asked: &Asked<'_>) -> Result<Vec<Finding>> {
    let mut verify = Verify {
        asked,
        images: Images::open(asked.store),
        findings: Vec::new(),
        known: BTreeMap::new(),
    };
    if let Err(error) = verify.images.read_index() {
        let again = "move it away, and pull or load the images again";
        return Ok(vec![Finding::new(said(&error), again)]);
    }
    verify.blobs()?;
    verify.trees()?;
    verify.unused()?;
    Ok(verify.findings)
}

/// The first line of an error as the user would see it.
#[must_use]
pub fn said(error: &anyhow::Error) -> String {
    let text = error::report(error);
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("rl: ").unwrap_or(line).to_owned()
}

/// A blob that images need.
struct Needed {
    blob: Descriptor,
    /// It is read whenever the image is.
    is_document: bool,
    /// It is a manifest, which registries have apart.
    is_manifest: bool,
    /// The images, as the user calls them.
    images: BTreeSet<String>,
    /// Where it came from.
    from: Vec<Reference>,
}

/// A tree that images or containers need.
struct Tree {
    layer: Option<Descriptor>,
    whose: BTreeSet<String>,
}

struct Verify<'a> {
    asked: &'a Asked<'a>,
    images: Images,
    findings: Vec<Finding>,
    /// What is wrong with a blob, where something is; it is read once.
    known: BTreeMap<Digest, Option<String>>,
}

impl Verify<'_> {
    fn how(&self) -> How {
        self.asked.how
    }

    /// Blobs that are missing or damaged. A manifest that was repaired may show more that is.
    fn blobs(&mut self) -> Result<()> {
        let mut seen = BTreeSet::new();
        loop {
            let needed: Vec<Needed> = self
                .needed()?
                .into_values()
                .filter(|needed| seen.insert(needed.blob.digest.clone()))
                .collect();
            if needed.is_empty() {
                break;
            }
            for needed in needed {
                if let Some(wrong) = self.wrong(&needed) {
                    self.repair_blob(&needed, &wrong);
                }
            }
        }
        Ok(())
    }

    /// All blobs that the images need, as far as their manifests can be read.
    fn needed(&self) -> Result<BTreeMap<Digest, Needed>> {
        let index = self.images.read_index()?;
        let mut all = BTreeMap::new();
        for entry in &index.manifests {
            let name = name_of(entry);
            let shown = match &name {
                Some(name) => name.familiar(),
                None => entry.digest.to_string(),
            };
            // What was never at a registry is not looked for there.
            let from =
                name.filter(|name| name.digest.is_some() || entry.annotations.contains_key(PULLED));
            let mut add = |blob: &Descriptor, is_document, is_manifest| {
                let needed = all.entry(blob.digest.clone()).or_insert_with(|| Needed {
                    blob: blob.clone(),
                    is_document,
                    is_manifest,
                    images: BTreeSet::new(),
                    from: Vec::new(),
                });
                needed.images.insert(shown.clone());
                needed.from.extend(from.clone());
            };
            add(entry, true, true);
            if let Ok(manifest) = self.images.read_manifest(entry) {
                add(&manifest.config, true, false);
                let config = self.images.read_image(&index, entry).ok();
                let dropped = config.map(|image| super::dropped::of(&self.images, &image));
                let dropped = dropped.unwrap_or_default();
                for layer in &manifest.layers {
                    if dropped
                        .iter()
                        .all(|(known, _)| known.digest != layer.digest)
                    {
                        add(layer, false, false);
                    }
                }
            }
        }
        Ok(all)
    }

    fn wrong(&mut self, needed: &Needed) -> Option<String> {
        let path = self.images.blob_path(&needed.blob.digest);
        let length = match std::fs::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Some("is missing".to_owned());
            }
            Err(error) => return Some(format!("cannot be read: {error}")),
        };
        if length != needed.blob.size {
            let size = needed.blob.size;
            return Some(format!("is damaged: it has {length} bytes, not {size}"));
        }
        if self.how().is_quick && !needed.is_document {
            return None;
        }
        let wrong = match digest_of(&path) {
            Ok(digest) if digest == needed.blob.digest => None,
            Ok(_) => Some("is damaged: its content is not what its name says".to_owned()),
            Err(error) => Some(format!("cannot be read: {error}")),
        };
        self.known.insert(needed.blob.digest.clone(), wrong.clone());
        wrong
    }

    fn repair_blob(&mut self, needed: &Needed, wrong: &str) {
        let digest = &needed.blob.digest;
        let path = self.images.blob_path(digest);
        let images: Vec<&str> = needed.images.iter().map(String::as_str).collect();
        let problem = format!("image {}: `{}` {wrong}", images.join(", "), path.display());
        let finding = if needed.from.is_empty() {
            let again = "make or load it again; that one is removed by: rl rmi";
            Finding::new(problem, format!("{again} {}", images.join(" ")))
        } else {
            Finding::mend(self.how(), problem, "it is fetched again", || {
                let scratch = Scratch::claim(self.asked.store, &format!("blob-{}", digest.hex()))?;
                let aside = scratch.path().join("blob");
                let mut last = Ok(());
                for from in &needed.from {
                    let options = (self.asked.client)(from)?;
                    last =
                        pull::fetch_blob(from, &needed.blob, needed.is_manifest, &options, &aside);
                    if last.is_ok() {
                        return keep_blob(&self.images, &aside, digest);
                    }
                }
                last
            })
        };
        if finding.repaired {
            self.known.insert(digest.clone(), None);
        } else {
            self.known.insert(digest.clone(), Some(wrong.to_owned()));
        }
        self.findings.push(finding);
    }

    fn trees(&mut self) -> Result<()> {
        let mut trees: BTreeMap<Digest, Tree> = BTreeMap::new();
        let mut add = |diff_id: &Digest, layer: Option<&Descriptor>, whose: String| {
            let tree = trees.entry(diff_id.clone()).or_insert_with(|| Tree {
                layer: None,
                whose: BTreeSet::new(),
            });
            tree.layer = tree.layer.take().or_else(|| layer.cloned());
            tree.whose.insert(whose);
        };
        for (name, image) in self.images.each()? {
            // What is wrong with the others was found among the blobs, or is this.
            let image = match image {
                Ok(image) => image,
                Err(error) => {
                    let problem = format!("image {name}: {}", said(&error));
                    if self.findings.iter().all(|finding| finding.repaired) {
                        let again = format!("rl rmi {name}, and fetch it again");
                        self.findings.push(Finding::new(problem, again));
                    }
                    continue;
                }
            };
            if !image.layers_present && self.asked.store.squash_of(image.id.hex()).is_file() {
                continue; // it is run as one file
            }
            let layers = image.config.rootfs.diff_ids.iter();
            for (diff_id, layer) in layers.zip(&image.manifest.layers) {
                add(diff_id, Some(layer), format!("image {name}"));
            }
        }
        for user in self.asked.used {
            for diff_id in user.diff_ids.iter().flat_map(|text| Digest::parse(text)) {
                add(&diff_id, None, format!("container {}", user.container));
            }
        }
        for (diff_id, tree) in trees {
            let Some(wrong) = self.wrong_tree(&diff_id, &tree)? else {
                continue;
            };
            let whose: Vec<&str> = tree.whose.iter().map(String::as_str).collect();
            let whose = whose.join(", ");
            let problem = format!("{whose}: layer {} {wrong}", diff_id.short());
            let finding = match self.blob_of(&tree) {
                None => Finding::new(problem, "pull or load its image again"),
                Some(_) if let Some(name) = (self.asked.standing)(&diff_id) => Finding::new(
                    problem,
                    format!("stop what runs on it first: rl stop {name}; then: {REPAIR}"),
                ),
                Some(layer) => Finding::mend(self.how(), problem, "it is unpacked again", || {
                    self.replace(&diff_id, &layer)
                }),
            };
            self.findings.push(finding);
        }
        Ok(())
    }

    /// The layer as it was transferred, when it is here and whole.
    fn blob_of(&self, tree: &Tree) -> Option<Descriptor> {
        let layer = tree.layer.as_ref()?;
        let is_whole = match self.known.get(&layer.digest) {
            Some(wrong) => wrong.is_none(),
            None => self.images.blob_path(&layer.digest).exists(),
        };
        is_whole.then(|| layer.clone())
    }

    fn wrong_tree(&self, diff_id: &Digest, tree: &Tree) -> Result<Option<String>> {
        let dir = self.images.layer_dir(diff_id);
        let info = match self.images.layer(diff_id) {
            Ok(Some(info)) if dir.join("fs").is_dir() => info,
            Ok(_) => return Ok(Some("is missing".to_owned())),
            Err(error) => return Ok(Some(format!("is damaged: {}", said(&error)))),
        };
        // With one id nobody can make a tree of several.
        let can_compare = info.ids == Ids::Single || self.asked.ids == Ids::Mapped;
        if self.how().is_quick || !can_compare {
            return Ok(None);
        }
        let Some(layer) = self.blob_of(tree) else {
            return Ok(None);
        };
        let (scratch, _) = self.unpack(diff_id, &layer, info.ids)?;
        let lacks_devices = info.ids == Ids::Single && info.report.skipped_devices > 0;
        let (old, new) = (dir.join("fs"), scratch.path().join("fs"));
        let found = difference(&old, &new, lacks_devices)
            .with_context(|| format!("comparing `{}`", dir.display()))?;
        Ok(found.map(|found| format!("is damaged: {found}")))
    }

    /// The layer anew, in a place of its own.
    fn unpack(
        &self,
        diff_id: &Digest,
        layer: &Descriptor,
        ids: Ids,
    ) -> Result<(Scratch, LayerInfo)> {
        let scratch = Scratch::claim(self.asked.store, diff_id.hex())?;
        let path = self.images.blob_path(&layer.digest);
        let file = File::open(&path).with_context(|| format!("opening `{}`", path.display()))?;
        let expected = Expected {
            diff_id: Some(diff_id.clone()),
            ..Expected::default()
        };
        let tree = scratch.path().join("fs");
        let ingested = ingest::ingest(file, None, &tree, ids, &expected, &Silent)
            .with_context(|| format!("unpacking layer {}", layer.digest.short()))?;
        let info = LayerInfo::new(ids, layer.digest.clone(), ingested.report);
        Ok((scratch, info))
    }

    /// Puts a new tree into the place of the old one, which may be missing.
    fn replace(&self, diff_id: &Digest, layer: &Descriptor) -> Result<()> {
        let (scratch, info) = self.unpack(diff_id, layer, self.asked.ids)?;
        let aside = Scratch::unique(self.asked.store, "removed")?;
        let (place, old) = (self.images.layer_dir(diff_id), aside.path().join("old"));
        let moved = |done: std::io::Result<()>| match done {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => done.with_context(|| format!("moving `{}`", place.display())),
        };
        moved(std::fs::rename(&place, &old))?;
        keep_layer(&self.images, &scratch, diff_id, &info)?;
        // One that started meanwhile may stand on the old tree, which then must stay.
        if old.exists()
            && let Some(name) = (self.asked.standing)(diff_id)
        {
            moved(std::fs::rename(&place, aside.path().join("new")))?;
            moved(std::fs::rename(&old, &place))?;
            anyhow::bail!("the container `{name}` was started meanwhile");
        }
        Ok(())
    }

    /// What is here for nobody. Another command at work may be about to need it.
    fn unused(&mut self) -> Result<()> {
        let parts = self.images.unused(self.asked.used)?;
        if parts.is_empty() || super::scratch::is_busy(self.asked.store)? {
            return Ok(());
        }
        let space = Space::of(self.asked.store)?;
        let bytes: u64 = parts.iter().filter_map(|part| space.bytes(part)).sum();
        let trees = parts.iter().filter(|part| matches!(part, Part::Tree(_)));
        let trees = trees.count();
        let problem = format!(
            "{trees} layers and {} blobs are of no image ({} MB): a command that fetched or removed one was killed",
            parts.len() - trees,
            bytes.div_ceil(1_000_000)
        );
        let finding = Finding::mend(self.how(), problem, "they are removed", || {
            self.images.remove_all_unused(self.asked.used)?;
            Ok(())
        });
        self.findings.push(finding);
        Ok(())
    }
}

/// The digest of a file's content.
///
/// # Errors
/// The system's.
pub fn digest_of(path: &Path) -> std::io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_sha256(hasher.finalize().into())),
            length => hasher.update(&buffer[..length]),
        }
    }
}

/// The first difference between two trees that were unpacked from one layer, in words. Times of directories and of marks for
/// what is deleted do not count: not all of them are the layer's.
///
/// With `lacks_devices` the old one is by an `rl` that left devices out, for which there are files with a note now.
fn difference(old: &Path, new: &Path, lacks_devices: bool) -> Result<Option<String>> {
    let (old, new) = (Root::open_trusted(old)?, Root::open_trusted(new)?);
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let here = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            &path
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let (a, b) = (old.open(here, flags)?, new.open(here, flags)?);
        let (has, mut should) = (names(&a)?, names(&b)?);
        if lacks_devices {
            should.retain(|name| has.contains(name) || !is_noted_device(&b, name));
        }
        if let Some(name) = has.symmetric_difference(&should).next() {
            let path = path.join(OsStr::from_bytes(name));
            let what = if should.contains(name) {
                "is missing"
            } else {
                "does not belong there"
            };
            return Ok(Some(format!("`/{}` {what}", path.display())));
        }
        for name in should {
            let name = OsStr::from_bytes(&name);
            let path = path.join(name);
            match compare(&a, &b, name).with_context(|| format!("reading `/{}`", path.display()))? {
                Same::Directory => todo.push(path),
                Same::Yes => {}
                Same::No(what) => return Ok(Some(format!("`/{}` has {what}", path.display()))),
            }
        }
    }
    Ok(None)
}

/// What comparing two files of one name has shown.
enum Same {
    Yes,
    /// They are directories whose attributes are the same.
    Directory,
    No(&'static str),
}

fn names(dir: &OwnedFd) -> sys::Result<BTreeSet<Vec<u8>>> {
    let failed = |errno| sys::Error::new("getdents64()", errno);
    let mut names = BTreeSet::new();
    for entry in rustix::fs::Dir::read_from(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.insert(name.to_vec());
        }
    }
    Ok(names)
}

fn compare(a: &OwnedFd, b: &OwnedFd, name: &OsStr) -> Result<Same> {
    let stat = |dir: &OwnedFd| {
        rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| sys::Error::new("fstatat()", errno))
    };
    let (one, other) = (stat(a)?, stat(b)?);
    let kind = FileType::from_raw_mode(other.st_mode);
    if one.st_mode != other.st_mode {
        let is_kind = FileType::from_raw_mode(one.st_mode) == kind;
        return Ok(Same::No(if is_kind {
            "another mode"
        } else {
            "another type"
        }));
    }
    if (one.st_uid, one.st_gid) != (other.st_uid, other.st_gid) {
        return Ok(Same::No("another owner"));
    }
    let is_dir = kind == FileType::Directory;
    if !is_dir && (one.st_size, one.st_rdev) != (other.st_size, other.st_rdev) {
        return Ok(Same::No("another size"));
    }
    let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    let has_time = other.st_size > 0 && !is_dir;
    if has_time && time(&one) != time(&other) {
        return Ok(Same::No("another time"));
    }
    if kind == FileType::Symlink {
        let target = |dir: &OwnedFd| {
            rustix::fs::readlinkat(dir, name, Vec::new())
                .map_err(|errno| sys::Error::new("readlinkat()", errno))
        };
        let is_same = target(a)? == target(b)?;
        return Ok(if is_same {
            Same::Yes
        } else {
            Same::No("another target")
        });
    }
    if !is_dir && kind != FileType::RegularFile {
        return Ok(Same::Yes);
    }
    let open = |dir: &OwnedFd| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(dir, name, flags, Mode::empty())
            .map_err(|errno| sys::Error::new("openat()", errno))
    };
    let (one, other) = (open(a)?, open(b)?);
    use std::os::fd::AsFd as _;
    if attributes(one.as_fd())? != attributes(other.as_fd())? {
        return Ok(Same::No("other attributes"));
    }
    if is_dir {
        return Ok(Same::Directory);
    }
    let is_same = same_content(File::from(one), File::from(other))?;
    Ok(if is_same {
        Same::Yes
    } else {
        Same::No("other content")
    })
}

/// Whether this file stands for a device.
fn is_noted_device(dir: &OwnedFd, name: &[u8]) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(dir, OsStr::from_bytes(name), flags, Mode::empty()) else {
        return false;
    };
    let mut value = [0; note::LONGEST];
    rustix::fs::fgetxattr(&file, note::NAME, &mut value[..])
        .ok()
        .and_then(|length| Note::parse(&value[..length]))
        .is_some_and(|note| note.device.is_some())
}

/// All extended attributes that can be seen. Of a note, what it says: there are several spellings, and one that says what is
/// so without it is as none.
fn attributes(fd: BorrowedFd<'_>) -> sys::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut list = vec![0; 64 << 10]; // XATTR_LIST_MAX
    let length = match rustix::fs::listxattr(&*path, &mut list[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(sys::Error::new("listxattr()", errno)),
    };
    let mut all = BTreeMap::new();
    for name in list[..length].split(|byte| *byte == 0) {
        if name.is_empty() {
            continue;
        }
        let mut value = vec![0; 64 << 10]; // XATTR_SIZE_MAX
        // One that may be seen and not read is the kernel's.
        if let Ok(length) = rustix::fs::getxattr(&*path, name, &mut value[..]) {
            let mut value = value[..length].to_vec();
            if name == note::NAME.as_bytes()
                && let Some(note) = Note::parse(&value)
            {
                if note.is_plain() {
                    continue;
                }
                value = note.text(FileType::RegularFile, 0).into_bytes();
            }
            all.insert(name.to_vec(), value);
        }
    }
    Ok(all)
}

fn same_content(mut one: File, mut other: File) -> std::io::Result<bool> {
    let (mut a, mut b) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let have = one.read(&mut a)?;
        if have == 0 {
            return Ok(other.read(&mut b)? == 0);
        }
        match other.read_exact(&mut b[..have]) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            done => done?,
        }
        if a[..have] != b[..have] {
            return Ok(false);
        }
    }
}
