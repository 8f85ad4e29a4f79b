//! Where a container's files come from: its root and what is laid over other directories, as plans for the stage.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::disk_error;
use super::record::Record;
use crate::error::Fail;
use crate::idmap::{self, Plan};
use crate::image::layer::Ids;
use crate::image::squash::unpack::unpack;
use crate::paths::Store;
use crate::spec::{ContainerSpec, MountSource, Rootfs, WritableLayer};
use crate::stage::{self, Driver, Job, Layered, RootPlan, SquashFile};

/// Where the container's root file system comes from, and how it is mounted.
///
/// # Errors
/// When a squash file or directory is not what it should be.
pub fn root(record: &Record, spec: &ContainerSpec) -> Result<(RootPlan, Driver)> {
    let dir = record.dir();
    let plan = plan(record.store(), &dir, &spec.rootfs)?;
    // What was begun as a copy goes on as one: an overlay would bring deleted files back.
    let driver = if is_copy(&dir) {
        Driver::Copy
    } else {
        driver()?
    };
    Ok((plan, driver))
}

/// What is laid over each other for mounts beside the root: images, and directories with a layer of the container's above.
///
/// # Errors
/// As [`root`].
pub fn layered(record: &Record, spec: &ContainerSpec) -> Result<Vec<Layered>> {
    let store = record.store();
    let mut all = Vec::new();
    for (position, mount) in spec.mounts.iter().enumerate() {
        let dir = record.dir().join("layered").join(position.to_string());
        let (plan, below, copy_up) = match (&mount.source, &mount.layer) {
            (MountSource::Image { files, .. }, _) => (plan(store, &dir, files)?, None, false),
            (MountSource::Bind { path, .. }, Some(layer)) => {
                (over(store, &dir, layer), Some(path.clone()), false)
            }
            (
                MountSource::Volume {
                    volume, copy_up, ..
                },
                Some(layer),
            ) => {
                let path = store.volume_data(volume);
                (over(store, &dir, layer), Some(path), *copy_up)
            }
            (MountSource::Bind { .. } | MountSource::Volume { .. }, None)
            | (MountSource::Tmpfs { .. }, _) => continue,
        };
        all.push(Layered {
            target: mount.target.clone(),
            plan,
            below,
            fresh: dir.strip_prefix(store.root()).unwrap_or(&dir).to_owned(),
            copy_up,
        });
    }
    Ok(all)
}

/// One directory below, another one above.
fn over(store: &Store, dir: &Path, layer: &WritableLayer) -> RootPlan {
    let (upper, work) = match layer {
        WritableLayer::Fresh => (relative(store, dir, "upper"), relative(store, dir, "work")),
        WritableLayer::Kept { upper, work } => (upper.clone(), work.clone()),
    };
    RootPlan::Overlay {
        base: store.root().to_owned(),
        lowers: vec![relative(store, dir, "lower")],
        upper,
        work,
        merged: relative(store, dir, "merged"),
        squash: None,
    }
}

/// These files, and what is written over them in directories below `dir`.
fn plan(store: &Store, dir: &Path, files: &Rootfs) -> Result<RootPlan> {
    Ok(match files {
        Rootfs::Layers { diff_ids } => RootPlan::Overlay {
            base: store.root().to_owned(),
            lowers: diff_ids
                .iter()
                .map(|diff_id| crate::image::layer_dir(diff_id))
                .collect::<Result<_>>()?,
            upper: relative(store, dir, "upper"),
            work: relative(store, dir, "work"),
            merged: relative(store, dir, "merged"),
            squash: None,
        },
        Rootfs::Squash { path } => {
            let found = crate::image::squash::Squash::look(path)?;
            if let Some(name) = found.foreign
                && !stage::fuse::has_squashfuse()
            {
                return Err(Fail::unsupported(format!(
                    "`{}` is packed with {name}, which only squashfuse reads, and that is not installed",
                    path.display()
                ))
                .hint("ask your administrator for the package `squashfuse`")
                .hint("or pack it anew with zstd or gzip: mksquashfs … -comp zstd")
                .code("RL-F06")
                .into());
            }
            let mount = relative(store, dir, "squash");
            store.make(&dir.join("squash"))?;
            RootPlan::Overlay {
                base: store.root().to_owned(),
                lowers: vec![mount.clone()],
                upper: relative(store, dir, "upper"),
                work: relative(store, dir, "work"),
                merged: relative(store, dir, "merged"),
                squash: Some(stage::SquashFile {
                    file: path.clone(),
                    offset: found.offset,
                    mount,
                }),
            }
        }
        Rootfs::Directory { path } => {
            if !path.is_dir() {
                return Err(
                    Fail::usage(format!("`{}` is not a directory", path.display()))
                        .hint("--rootfs takes the directory of a root file system")
                        .into(),
                );
            }
            RootPlan::Directory { path: path.clone() }
        }
        Rootfs::Host => RootPlan::Host {
            dir: dir.to_owned(),
        },
    })
}

fn driver() -> Result<Driver> {
    let text = std::env::var("RL_STORAGE_DRIVER").unwrap_or_default();
    Driver::parse(&text).ok_or_else(|| {
        Fail::usage(format!("RL_STORAGE_DRIVER=`{text}` is not known"))
            .hint("known are auto, overlay, fuse-overlayfs and copy")
            .into()
    })
}

/// Short names keep overlay's options short.
fn relative(store: &Store, dir: &Path, name: &str) -> PathBuf {
    dir.strip_prefix(store.root()).unwrap_or(dir).join(name)
}

/// The copy of the layers, or of a squash file, that stands in for an overlay.
pub fn copy_root(
    plan: &RootPlan,
    ids: &Plan,
    helpers: Option<&idmap::newuidmap::Helpers>,
) -> Result<PathBuf> {
    copy_once(plan, |lowers, squash, into| {
        let into = into.to_owned();
        let job = match squash.cloned() {
            Some(squash) => Job::Unsquash {
                squash,
                into,
                notes_owners: !ids.is_mapped(),
            },
            None => Job::Flatten { lowers, into },
        };
        stage::parent::job(job, "copy", ids, helpers).map(|_| ())
    })
}

/// As [`copy_root`], in a job that has the container's ids already.
pub fn copy_here(plan: &RootPlan, ids: Ids) -> Result<PathBuf> {
    copy_once(plan, |lowers, squash, into| match squash {
        Some(squash) => unsquash(squash, into, ids == Ids::Single),
        None => stage::job::flatten(&lowers, into),
    })
}

/// [`Job::Unsquash`]. What an ordinary user cannot make, devices, is left out.
pub fn unsquash(squash: &SquashFile, into: &Path, notes_owners: bool) -> Result<()> {
    let ids = if notes_owners {
        Ids::Single
    } else {
        Ids::Mapped
    };
    unpack(squash, into, ids).map(drop)
}

/// Has the layers copied, the lowest first, unless that was done before: the copy is the container's own by then.
fn copy_once(
    plan: &RootPlan,
    copy: impl FnOnce(Vec<PathBuf>, Option<&SquashFile>, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let RootPlan::Overlay {
        base,
        lowers,
        upper,
        squash,
        ..
    } = plan
    else {
        return Err(Fail::unsupported(
            "this root cannot be copied: no overlay can be mounted over it",
        )
        .code("RL-F03")
        .into());
    };
    let into = base.join(upper);
    let dir = into.parent().unwrap_or(base);
    if is_copy(dir) {
        return Ok(into);
    }
    // An overlay does not inherit it; a copy is where it is.
    let flags = rustix::fs::statvfs(dir).map(|fs| fs.f_flag);
    if flags.is_ok_and(|flags| flags.contains(rustix::fs::StatVfsMountFlags::NOEXEC)) {
        return Err(Fail::unsupported(format!(
            "no program of a copy of the image could be run: `{}` is on a file system mounted noexec",
            dir.display()
        ))
        .hint("keep images and containers elsewhere: --root DIR or RL_ROOT")
        .code("RL-F02")
        .into());
    }
    let note = dir.join(COPY);
    let has_changes = std::fs::read_dir(&into).map_or(true, |mut entries| entries.next().is_some());
    if has_changes && !note.exists() {
        return Err(Fail::unsupported(
            "the container's changes were made over an overlay, and a copy of the image would replace them",
        )
        .hint("start it as it was started first: see RL_STORAGE_DRIVER, and rl doctor")
        .into());
    }
    std::fs::write(&note, "begun\n").map_err(|error| disk_error(error, &note))?;
    let lowers = lowers.iter().map(|lower| base.join(lower)).collect();
    copy(lowers, squash.as_ref(), &into)?;
    std::fs::write(&note, COPIED).map_err(|error| disk_error(error, &note))?;
    Ok(into)
}

/// The file of a container that says how far the copy of its layers is.
const COPY: &str = "copy";
const COPIED: &str = "done\n";

/// Whether the writable directory of the container at `dir` has all of its image's files.
pub fn is_copy(dir: &Path) -> bool {
    std::fs::read_to_string(dir.join(COPY)).is_ok_and(|text| text == COPIED)
}
