//! What a container has changed (`rl diff`), the layer that this makes (`rl commit`), and its whole tree as
//! a tar (`rl export`). All read the layers themselves, see [`super::tree`]; nothing is stopped, and nothing mounted but a squash file.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::files;
use super::record::Record;
use super::tree::{self, Dir, Found};
use crate::error::Fail;
use crate::image::entries::{Entry, Kind};
use crate::image::pack::{self, Writer};
use crate::spec::Rootfs;
use crate::stage::emulation::side::{Key, Side};
use crate::stage::{RootPlan, fuse};
use crate::sys;

/// Where the files of a container are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// The writable directory; none for `--rootfs`.
    pub upper: Option<PathBuf>,
    /// The trees below it, the topmost first.
    pub lowers: Vec<PathBuf>,
    /// What rl mounts or makes there: paths without the slash at the front.
    pub targets: Vec<String>,
    /// The writable directory has everything, the layers' files too: it is a copy of them.
    #[serde(default)]
    pub complete: bool,
    /// Directories of the container and its layers, where owners of links may be noted.
    #[serde(default)]
    pub owners: Vec<PathBuf>,
    /// The file below it, which the job mounts.
    #[serde(default)]
    pub squash: Option<RootPlan>,
}

impl Place {
    /// The container's.
    ///
    /// # Errors
    /// `Unsupported` for the host's own directories.
    pub fn of(record: &Record) -> Result<Self> {
        let spec = record.spec()?;
        let mut targets: Vec<String> = [
            "dev",
            "proc",
            "sys",
            "etc/hosts",
            "etc/hostname",
            "etc/resolv.conf",
            super::emulation::APT,
        ]
        .map(str::to_owned)
        .to_vec();
        let mounts = spec.mounts.iter().map(|mount| &mount.target);
        let devices = spec.devices.iter().map(|device| &device.target);
        targets.extend(
            mounts
                .chain(devices)
                .map(|target| target.trim_matches('/').to_owned()),
        );
        let mut squash = None;
        let (upper, lowers) = match &spec.rootfs {
            Rootfs::Layers { diff_ids } => {
                let lowers = diff_ids.iter().rev().map(|diff_id| {
                    Ok(record
                        .store()
                        .root()
                        .join(crate::image::layer_dir(diff_id)?))
                });
                (
                    Some(record.dir().join("upper")),
                    lowers.collect::<Result<_>>()?,
                )
            }
            Rootfs::Directory { path } => (None, vec![path.clone()]),
            Rootfs::Squash { .. } => {
                squash = Some(files::root(record, &spec)?.0);
                (
                    Some(record.dir().join("upper")),
                    vec![record.dir().join("squash")],
                )
            }
            Rootfs::Host => {
                return Err(Fail::unsupported(
                    "a container over the host's own directories cannot be copied as a whole",
                )
                .into());
            }
        };
        Ok(Self {
            upper,
            lowers,
            targets,
            complete: files::is_copy(&record.dir()),
            owners: super::emulation::owners(record, &spec)?,
            squash,
        })
    }

    /// Works with it, and with the squash file mounted where there is one and it is looked at: by what compares, and by all
    /// where the container has no copy of its own. For a job.
    ///
    /// # Errors
    /// Those of `work`; of a file that does not mount.
    pub fn with<T>(&self, compares: bool, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let Some(root) = self.squash.as_ref().filter(|_| compares || !self.complete) else {
            return work(self);
        };
        sys::mount::make_all_slave()?;
        let server = fuse::squash_here(root)?;
        let done = work(self);
        server.kill();
        server.wait()?;
        done
    }

    /// The trees that make up the container's, the topmost first.
    fn trees(&self) -> Vec<PathBuf> {
        let lowers = self.lowers.iter().filter(|_| !self.complete);
        self.upper.iter().chain(lowers).cloned().collect()
    }

    fn is_target(&self, path: &[u8]) -> bool {
        path.starts_with(b"dev/") || self.targets.iter().any(|target| target.as_bytes() == path)
    }

    fn upper(&self) -> Result<OwnedFd> {
        let upper = self.upper.as_ref().ok_or_else(|| {
            Fail::unsupported("a container over a plain directory has no changes of its own")
                .hint("`rl export` gives its whole tree")
        })?;
        Ok(sys::fs::open_trusted(
            upper,
            OFlags::RDONLY | OFlags::DIRECTORY,
        )?)
    }
}

/// Docker's letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Added,
    /// It was there.
    Changed,
    /// It is not there any more.
    Deleted,
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Without the slash at the front.
    pub path: Vec<u8>,
    /// How.
    pub change: Change,
    /// A directory that hides what was there.
    pub opaque: bool,
}

/// All changes, sorted by path.
///
/// # Errors
/// The system's.
pub fn changes(place: &Place) -> Result<Vec<Changed>> {
    let upper = place.upper()?;
    let lower = Dir::open(&place.lowers)?;
    let mut all = Vec::new();
    compare(place, &upper, Some(&lower), place.complete, b"", &mut all)?;
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

/// Returns whether anything below was passed over.
fn compare(
    place: &Place,
    upper: &OwnedFd,
    lower: Option<&Dir>,
    hidden: bool,
    at: &[u8],
    all: &mut Vec<Changed>,
) -> Result<bool> {
    let names = Dir::of(upper.try_clone().context("copying a descriptor")?).names()?;
    let mut passed = false;
    if hidden && let Some(lower) = lower {
        for name in lower.names()? {
            if names.binary_search(&name).is_err() && lower.find(&name)?.is_some() {
                all.push(Changed {
                    path: join(at, &name),
                    change: Change::Deleted,
                    opaque: false,
                });
            }
        }
    }
    for name in &names {
        let path = join(at, name);
        let below = match lower {
            Some(lower) => lower.find(name)?,
            None => None,
        };
        let change = if below.is_some() {
            Change::Changed
        } else {
            Change::Added
        };
        let changed = |change, opaque| Changed {
            path: path.clone(),
            change,
            opaque,
        };
        let (fd, stat) = match tree::look(upper.as_fd(), name)? {
            Found::Nothing => continue,
            Found::Whiteout => {
                if below.is_some() {
                    all.push(changed(Change::Deleted, false));
                }
                continue;
            }
            Found::File(fd, stat) => (fd, stat),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let same = || {
                below
                    .as_ref()
                    .is_some_and(|(old, was, _)| is_copy_of((&fd, &stat), (old, was)))
            };
            if place.is_target(&path) && stat.st_size == 0 && below.is_none() {
                passed = true;
            } else if !(place.complete && same()) {
                all.push(changed(change, false));
            }
            continue;
        }
        let dir = tree::listed(fd.as_fd(), name)?;
        let opaque = tree::hides(&dir);
        let hidden = hidden || opaque;
        let before = all.len();
        let lower_dir = below.as_ref().and_then(|(_, _, dir)| dir.as_ref());
        let left_out = compare(place, &dir, lower_dir, hidden, &path, all)?;
        let silent = all.len() == before;
        let same = below
            .as_ref()
            .is_some_and(|(_, old, dir)| dir.is_some() && alike(old, &stat));
        let ours = silent && below.is_none() && (left_out || place.is_target(&path));
        if ours || (silent && same && (!hidden || place.complete)) {
            passed |= ours;
        } else {
            all.push(changed(change, opaque && below.is_some()));
        }
    }
    Ok(passed)
}

fn alike(a: &Stat, b: &Stat) -> bool {
    (a.st_mode, a.st_uid, a.st_gid) == (b.st_mode, b.st_uid, b.st_gid)
}

/// Whether a file of a copied tree is still as it was copied. Links, devices and FIFOs are copied without their time.
fn is_copy_of(new: (&OwnedFd, &Stat), old: (&OwnedFd, &Stat)) -> bool {
    let ((new_fd, new), (old_fd, old)) = (new, old);
    let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    let text = |fd: &OwnedFd| rustix::fs::readlinkat(fd, c"", Vec::new()).ok();
    alike(new, old)
        && match FileType::from_raw_mode(new.st_mode) {
            FileType::RegularFile => new.st_size == old.st_size && time(new) == time(old),
            FileType::Symlink => text(new_fd) == text(old_fd),
            FileType::Directory
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => new.st_rdev == old.st_rdev,
        }
}

fn join(at: &[u8], name: &[u8]) -> Vec<u8> {
    if at.is_empty() {
        name.to_vec()
    } else {
        [at, b"/", name].concat()
    }
}

/// Writes `A /path` and so on.
///
/// # Errors
/// The system's, the output's.
pub fn print(place: &Place, out: &mut dyn Write) -> Result<()> {
    for Changed { path, change, .. } in changes(place)? {
        let letter: &[u8] = match change {
            Change::Added => b"A /",
            Change::Changed => b"C /",
            Change::Deleted => b"D /",
        };
        out.write_all(&[letter, &path, b"\n"].concat())?;
    }
    Ok(out.flush()?)
}

/// What is known beside the files.
#[derive(Debug, Default)]
pub struct Known {
    /// Paths of files with several names, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Owners of what takes no attributes.
    owners: Side,
}

impl Known {
    /// With the owners that these directories of containers and layers note.
    ///
    /// # Errors
    /// The system's.
    pub fn of(directories: &[PathBuf]) -> Result<Self> {
        let owners = Side::of(directories.iter().map(PathBuf::as_path))
            .context("reading who the container's links belong to")?;
        Ok(Self {
            owners,
            ..Self::default()
        })
    }

    /// Corrects the entry of this file.
    ///
    /// # Errors
    /// statx(2).
    pub fn correct(&self, fd: &OwnedFd, entry: &mut Entry) -> Result<()> {
        if !self.owners.is_empty() {
            let key = Key::of(fd.as_fd(), None).context("looking at a file")?;
            if let Some(note) = self.owners.find(key) {
                pack::noted(note, entry);
            }
        }
        Ok(())
    }
}

/// Writes one file; one that was written under another name becomes a link to that.
///
/// # Errors
/// The output's; what is gone meanwhile is passed over.
pub fn write_file<W: Write>(
    writer: &mut Writer<W>,
    known: &mut Known,
    fd: &OwnedFd,
    path: &[u8],
) -> Result<()> {
    let described = match pack::describe(fd.as_fd(), path) {
        Err(error) if error.errno == Errno::NOENT => return Ok(()),
        described => described?,
    };
    let Some((mut entry, content)) = described else {
        return Ok(());
    };
    known.correct(fd, &mut entry)?;
    let content = content.filter(|_| entry.kind == Kind::File);
    let stat = rustix::fs::fstat(fd).context("looking at a file")?;
    if stat.st_nlink > 1 && entry.kind != Kind::Directory {
        if let Some(first) = known.links.get(&(stat.st_dev, stat.st_ino)) {
            let link = Entry {
                kind: Kind::HardLink,
                link: first.clone(),
                size: 0,
                extents: None,
                xattrs: Vec::new(),
                device: (0, 0),
                ..entry
            };
            return Ok(writer.header(&link)?);
        }
        known
            .links
            .insert((stat.st_dev, stat.st_ino), path.to_vec());
    }
    match content {
        Some(content) => writer.file(&entry, &content)?,
        None => writer.header(&entry)?,
    }
    Ok(())
}

/// Writes all that is below `dir`.
///
/// # Errors
/// As [`write_file`].
pub fn write_below<W: Write>(
    writer: &mut Writer<W>,
    known: &mut Known,
    dir: &Dir,
    at: &[u8],
) -> Result<()> {
    for name in dir.names()? {
        let Some((fd, _, inner)) = dir.find(&name)? else {
            continue;
        };
        let path = join(at, &name);
        write_file(writer, known, &fd, &path)?;
        drop(fd);
        if let Some(inner) = inner {
            write_below(writer, known, &inner, &path)?;
        }
    }
    Ok(())
}

/// Writes the whole tree as a tar.
///
/// # Errors
/// As [`write_file`].
pub fn export(place: &Place, out: impl Write) -> Result<()> {
    let mut writer = Writer::new(std::io::BufWriter::with_capacity(128 << 10, out));
    write_below(
        &mut writer,
        &mut Known::of(&place.owners)?,
        &Dir::open(&place.trees())?,
        b"",
    )?;
    writer.finish()?;
    Ok(())
}

/// Writes the changes as a layer, with its whiteouts in the image's form. Source: OCI image specification, layer.md.
///
/// # Errors
/// As [`write_file`]; `Unsupported` for a file whose name an image takes for a whiteout.
pub fn layer(place: &Place, out: impl Write) -> Result<()> {
    let upper = place.upper()?;
    let mut writer = Writer::new(std::io::BufWriter::with_capacity(128 << 10, out));
    let mut known = Known::of(&place.owners)?;
    let mark = |path: Vec<u8>| Entry {
        path,
        mode: 0o600,
        ..Entry::default()
    };
    for Changed {
        path,
        change,
        opaque,
    } in changes(place)?
    {
        let cut = path
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |slash| slash + 1);
        if change == Change::Deleted {
            writer.header(&mark([&path[..cut], b".wh.", &path[cut..]].concat()))?;
            continue;
        }
        if path[cut..].starts_with(b".wh.") {
            let shown = String::from_utf8_lossy(&path).into_owned();
            return Err(Fail::unsupported(format!(
                "`/{}` cannot be in an image, where such a name stands for a deleted file",
                shown.escape_debug()
            ))
            .hint("give it another name in the container")
            .into());
        }
        let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let name = Path::new(OsStr::from_bytes(&path));
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let fd = match sys::fs::openat2(upper.as_fd(), name, flags, Mode::empty(), below) {
            Ok(fd) => fd,
            // Gone, or become something else, since it was looked at.
            Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        write_file(&mut writer, &mut known, &fd, &path)?;
        if opaque {
            writer.header(&mark([&path[..], b"/.wh..wh..opq"].concat()))?;
        }
    }
    writer.finish()?;
    Ok(())
}
