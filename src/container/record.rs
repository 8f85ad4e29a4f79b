//! One container on disk: its directory, its name, the lock that says it is alive. See `paths` for the drawing.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::error::Fail;
use crate::idmap::{Helpers, Plan};
use crate::paths::Store;
use crate::spec::ContainerSpec;
use crate::stage::{self, Job};
use crate::sys;

/// `state.json`: what became of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// 1.
    pub version: u32,
    /// Exit code of the program, when it has ended.
    pub exit_code: Option<u8>,
    /// RFC 3339, UTC.
    pub created: String,
    /// RFC 3339, UTC.
    pub finished: Option<String>,
}

/// A container that this process has made and holds.
#[derive(Debug)]
pub struct Record {
    store: Store,
    id: String,
    name: String,
    remove: bool,
    /// Locked for as long as this process owns the container.
    lock: File,
    lock_path: PathBuf,
}

impl Record {
    /// Claims the name and makes the directory, with `container.json` in it.
    ///
    /// # Errors
    /// `Conflict` when the name is taken; the system's.
    pub fn create(store: &Store, spec: &ContainerSpec) -> Result<Self> {
        for directory in [store.tmp(), store.containers(), store.names()] {
            store.make(&directory)?;
        }
        let lock_path = store.tmp().join(format!("{}.container", spec.id));
        let lock = claim(&lock_path)?;
        let record = Self {
            store: store.clone(),
            id: spec.id.clone(),
            name: spec.name.clone(),
            remove: spec.remove,
            lock,
            lock_path,
        };
        match record.fill(spec) {
            Ok(()) => Ok(record),
            Err(error) => {
                let _ = std::fs::remove_file(&record.lock_path); // the first error is the one that matters
                Err(error)
            }
        }
    }

    fn fill(&self, spec: &ContainerSpec) -> Result<()> {
        self.claim_name()?;
        let made = (|| -> Result<()> {
            let dir = self.dir();
            for part in ["", "upper", "work", "merged"] {
                let path = dir.join(part);
                std::fs::create_dir(&path)
                    .map_err(|error| crate::container::disk_error(error, &path))?;
            }
            // What `/` looks like to other users inside is the upper directory's mode.
            rustix::fs::chmod(dir.join("upper"), rustix::fs::Mode::from_raw_mode(0o755))
                .context("opening the root directory")?;
            let text = serde_json::to_vec(spec).context("writing container.json")?;
            std::fs::write(dir.join("container.json"), text)
                .map_err(|error| crate::container::disk_error(error, &dir))
        })();
        if made.is_err() {
            let _ = std::fs::remove_file(self.store.names().join(&self.name)); // the first error is the one that matters
            let _ = std::fs::remove_dir_all(self.dir()); // as above
        }
        made
    }

    /// Making the link is the claim: it fails when there is one.
    fn claim_name(&self) -> Result<()> {
        let link = self.store.names().join(&self.name);
        for _ in 0..2 {
            match std::os::unix::fs::symlink(&self.id, &link) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    let holder = std::fs::read_link(&link).unwrap_or_default();
                    if self.store.containers().join(&holder).exists() {
                        let id = holder
                            .to_string_lossy()
                            .chars()
                            .take(12)
                            .collect::<String>();
                        return Err(Fail::conflict(format!(
                            "the name `{}` is taken by container {id}",
                            self.name
                        ))
                        .hint("choose another --name, or remove that container")
                        .into());
                    }
                    // Its container is gone: a command was killed between the two.
                    let _ = std::fs::remove_file(&link); // the second round says why, if it must
                }
                Err(error) => return Err(crate::container::disk_error(error, &link)),
            }
        }
        Err(Fail::conflict(format!(
            "the name `{}` is being taken by another command",
            self.name
        ))
        .into())
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.store.container(&self.id)
    }

    /// Whether it goes when its program ends.
    #[must_use]
    pub fn goes(&self) -> bool {
        self.remove
    }

    /// Writes what became of it, and lets go of it.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(self, state: &State) -> Result<()> {
        let text = serde_json::to_vec(state).context("writing state.json")?;
        let path = self.dir().join("state.json");
        sys::fs::write_atomically(&path, &self.dir().join("state.json.new"), &text)
            .map_err(|error| crate::container::disk_error(error, &path))?;
        std::fs::remove_file(&self.lock_path).ok(); // a stale one is swept by the next command
        drop(self.lock);
        Ok(())
    }

    /// Removes everything of it.
    ///
    /// # Errors
    /// The system's, with the path that stays.
    pub fn remove(self, plan: &Plan, helpers: Option<&Helpers>) -> Result<()> {
        remove_dir(&self.dir(), plan, helpers)?;
        release_name(&self.store, &self.id, &self.name);
        let _ = std::fs::remove_file(&self.lock_path); // a stale one is swept by the next command
        drop(self.lock);
        Ok(())
    }
}

/// Gives up the claim of container `id` on `name`; somebody else may have taken it over.
fn release_name(store: &Store, id: &str, name: &str) {
    let link = store.names().join(name);
    if std::fs::read_link(&link).is_ok_and(|holder| holder == Path::new(id)) {
        let _ = std::fs::remove_file(&link); // a dangling name is no claim
    }
}

/// As [`release_name`] when nothing tells which name that was: the command was killed between the claim and
/// the description, or between removing the one and the other.
fn release_names(store: &Store, id: &str) {
    for entry in std::fs::read_dir(store.names())
        .into_iter()
        .flatten()
        .flatten()
    {
        if let Some(name) = entry.file_name().to_str() {
            release_name(store, id, name);
        }
    }
}

/// Makes and locks the file at `path`: who can lock it knows that its owner is gone.
fn claim(path: &Path) -> Result<File> {
    loop {
        let file = File::create(path).map_err(|error| crate::container::disk_error(error, path))?;
        file.lock()
            .with_context(|| format!("locking `{}`", path.display()))?;
        // A sweep may have taken the file away between the two.
        use std::os::unix::fs::MetadataExt as _;
        if file.metadata().is_ok_and(|meta| meta.nlink() > 0) {
            return Ok(file);
        }
    }
}

/// Removes a tree that may hold files of subordinate ids: by ourselves where that goes, else from inside a
/// user namespace that has them.
///
/// # Errors
/// With the path that stays.
pub fn remove_dir(dir: &Path, plan: &Plan, helpers: Option<&Helpers>) -> Result<()> {
    match stage::job::remove(dir) {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                sys::errno_of(&error),
                Some(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM)
            ) =>
        {
            let job = Job::Remove {
                paths: vec![dir.to_owned()],
            };
            stage::parent::job(job, "remove", plan, helpers).map(|_| ())
        }
        Err(error) => Err(error),
    }
}

/// Removes the `--rm` containers whose command was killed. Cheap: only the living have an entry in `tmp/`.
pub fn sweep(store: &Store, plan: &Plan, helpers: Option<&Helpers>) {
    let Ok(entries) = std::fs::read_dir(store.tmp()) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Some(id) = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".container"))
        else {
            continue;
        };
        let Ok(file) = File::open(&path) else {
            continue;
        };
        if file.try_lock().is_err() {
            continue;
        }
        let dir = store.container(id);
        let spec = std::fs::read(dir.join("container.json"))
            .ok()
            .and_then(|text| serde_json::from_slice::<ContainerSpec>(&text).ok());
        // Without a description it never started.
        if spec.as_ref().is_none_or(|spec| spec.remove) {
            if remove_dir(&dir, plan, helpers).is_err() {
                continue;
            }
            match spec {
                Some(spec) => release_name(store, id, &spec.name),
                None => release_names(store, id),
            }
        }
        let _ = std::fs::remove_file(&path); // the next sweep tries again
    }
}
