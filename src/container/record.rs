//! One container on disk: its directory, its name, the lock that says it is alive. See `paths` for the drawing.
//!
//! Who holds `containers/ID/lock` is the container's owner: the monitor, or the command in whose foreground it
//! runs. Waiting for a container means waiting for that process: the next one may have the lock at once.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

use super::state::State;
use super::{disk_error, volumes};
use crate::cgroup::{self, Group};
use crate::error::{self, Fail, Kind};
use crate::idmap::Plan;
use crate::idmap::newuidmap::Helpers;
use crate::paths;
use crate::paths::Store;
use crate::spec::{ContainerSpec, MountSource};
use crate::stage::{self, Job};
use crate::sys;

/// The endings of directories in `tmp/` that are being made, and being removed.
const NEW: &str = ".new";
const REMOVED: &str = ".removed";

/// A container in the store.
#[derive(Debug)]
pub struct Record {
    store: Store,
    /// 64 hexadecimal digits.
    pub id: String,
    read: Mutex<Option<Box<(Version, ContainerSpec)>>>,
}

/// Which `container.json` has been read: every change is a new file.
type Version = (u64, u64, i64, i64);

impl Clone for Record {
    fn clone(&self) -> Self {
        Self::at(&self.store, &self.id)
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        (&self.store, &self.id) == (&other.store, &other.id)
    }
}

impl Eq for Record {}

/// The right to change a container's state, for as long as it lives. Survives an exec when the descriptor does.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// The open file, for handing it on to a monitor.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The lock that a command has handed on.
    #[must_use]
    pub fn from_file(file: File) -> Self {
        Self { file }
    }
}

impl Record {
    /// Makes the directory, with `container.json` and `state.json` in it, and claims the name. Locked.
    ///
    /// # Errors
    /// `Conflict` when the name is taken; the system's. Nothing is left then.
    pub fn create(store: &Store, spec: &ContainerSpec) -> Result<(Self, Lock)> {
        for directory in [store.tmp(), store.containers(), store.names()] {
            store.make(&directory)?;
        }
        let record = Self::at(store, &spec.id);
        let note = record.note();
        if spec.remove {
            File::create(&note).map_err(|error| disk_error(error, &note))?;
        }
        let aside = record.aside(NEW);
        let made = record.fill(spec).and_then(|lock| {
            record.claim_name(&spec.name)?;
            std::fs::rename(&aside, record.dir()).map_err(|error| disk_error(error, &aside))?;
            Ok(lock)
        });
        match made {
            Ok(lock) => Ok((record, lock)),
            Err(error) => {
                let _ = std::fs::remove_dir_all(&aside); // the first error is the one that matters
                let _ = std::fs::remove_file(&note); // as above
                Err(error)
            }
        }
    }

    fn fill(&self, spec: &ContainerSpec) -> Result<Lock> {
        let dir = self.aside(NEW);
        let file = begin(&dir)?;
        for part in ["upper", "work", "merged"] {
            let path = dir.join(part);
            std::fs::create_dir(&path).map_err(|error| disk_error(error, &path))?;
        }
        // What `/` looks like to other users inside is the upper directory's mode.
        rustix::fs::chmod(dir.join("upper"), rustix::fs::Mode::from_raw_mode(0o755))
            .context("opening the root directory")?;
        let text = serde_json::to_vec(spec).context("writing container.json")?;
        std::fs::write(dir.join("container.json"), text)
            .map_err(|error| disk_error(error, &dir))?;
        // The name points here only afterwards; until then nobody looks, and nothing needs to be on the disk.
        let text = serde_json::to_vec(&State::new()).context("writing state.json")?;
        std::fs::write(dir.join("state.json"), text).map_err(|error| disk_error(error, &dir))?;
        Ok(Lock { file })
    }

    /// Making the link is the claim: it fails when there is one.
    fn claim_name(&self, name: &str) -> Result<()> {
        let link = self.store.names().join(name);
        for _ in 0..2 {
            match std::os::unix::fs::symlink(&self.id, &link) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    let holder = std::fs::read_link(&link).unwrap_or_default();
                    let mut making = holder.clone().into_os_string();
                    making.push(NEW);
                    if self.store.containers().join(&holder).exists()
                        || self.store.tmp().join(making).exists()
                    {
                        let id = holder
                            .to_string_lossy()
                            .chars()
                            .take(12)
                            .collect::<String>();
                        return Err(Fail::conflict(format!(
                            "the name `{name}` is taken by container {id}"
                        ))
                        .hint(format!(
                            "choose another --name, or remove that container: rl rm {name}"
                        ))
                        .into());
                    }
                    // Its container is gone: a command was killed between the two.
                    let _ = std::fs::remove_file(&link); // the second round says why, if it must
                }
                Err(error) => return Err(disk_error(error, &link)),
            }
        }
        Err(Fail::conflict(format!(
            "the name `{name}` is being taken by another command"
        ))
        .into())
    }

    /// The container that `text` means: a full id, a name, or a unique beginning of an id.
    ///
    /// # Errors
    /// `NotFound` with names that are near; `Conflict` when several ids begin so.
    pub fn find(store: &Store, text: &str) -> Result<Self> {
        let record = |id: &str| Self::at(store, id);
        let is_hex = !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase());
        if is_hex && text.len() == 64 && store.container(text).is_dir() {
            return Ok(record(text));
        }
        if crate::spec::is_name(text)
            && let Ok(id) = std::fs::read_link(store.names().join(text))
            && let Some(id) = id.to_str()
            && store.container(id).is_dir()
        {
            return Ok(record(id));
        }
        let ids = ids(store)?;
        let found: Vec<&String> = if is_hex {
            ids.iter().filter(|id| id.starts_with(text)).collect()
        } else {
            Vec::new()
        };
        match found.as_slice() {
            [id] => Ok(record(id)),
            [] => Err(not_found(store, text).into()),
            several => Err(Fail::conflict(format!(
                "{} containers have ids that begin with `{text}`",
                several.len()
            ))
            .hint("give more digits, or the name")
            .into()),
        }
    }

    /// The container with this full id, whether there is one or not.
    #[must_use]
    pub fn at(store: &Store, id: &str) -> Self {
        Self {
            store: store.clone(),
            id: id.to_owned(),
            read: Mutex::new(None),
        }
    }

    /// All containers, in no order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn all(store: &Store) -> Result<Vec<Self>> {
        Ok(ids(store)?
            .into_iter()
            .map(|id| Self::at(store, &id))
            .collect())
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.store.container(&self.id)
    }

    /// The store it is in.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What it is. Read once, as long as it does not change.
    ///
    /// # Errors
    /// `Corrupt` with the file's name when it cannot be understood.
    pub fn spec(&self) -> Result<ContainerSpec> {
        let path = self.dir().join("container.json");
        let meta = std::fs::metadata(&path).map_err(|error| self.missing(error, &path))?;
        let version = (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = &*read
            && read.0 == version
        {
            return Ok(read.1.clone());
        }
        let spec = self.read_spec()?;
        *read = Some(Box::new((version, spec.clone())));
        Ok(spec)
    }

    /// [`Self::spec`] for those who ask once.
    ///
    /// # Errors
    /// The same.
    pub fn read_spec(&self) -> Result<ContainerSpec> {
        let path = self.dir().join("container.json");
        let text = std::fs::read(&path).map_err(|error| self.missing(error, &path))?;
        let spec: ContainerSpec = serde_json::from_slice(&text).map_err(|error| {
            Fail::corrupt(format!("`{}` is damaged: {error}", path.display()))
                .hint("remove the container: rl rm -f; its image and volumes stay")
        })?;
        spec.check()?;
        Ok(spec)
    }

    /// What it does now.
    ///
    /// # Errors
    /// As [`State::read`].
    pub fn state(&self) -> Result<State> {
        match State::read(&self.dir()) {
            Ok(state) => Ok(state.settled()),
            Err(error) if self.dir().exists() => Err(error),
            Err(_) => Err(self.gone().into()),
        }
    }

    /// Why a file of it cannot be read: another command has removed all of it, or something is wrong.
    fn missing(&self, error: std::io::Error, path: &Path) -> anyhow::Error {
        if self.dir().exists() {
            return anyhow::Error::from(error).context(
                Fail::corrupt(format!("`{}` cannot be read", path.display()))
                    .hint("remove the container: rl rm -f; its image and volumes stay"),
            );
        }
        self.gone().into()
    }

    /// `error` of work in its files, or that it is gone, when another command has removed it under the work.
    #[must_use]
    pub fn or_gone(&self, error: anyhow::Error) -> anyhow::Error {
        if self.dir().exists() {
            return error;
        }
        self.gone().into()
    }

    fn gone(&self) -> Fail {
        let id: String = self.id.chars().take(12).collect();
        Fail::not_found(format!("container {id} was removed by another command"))
    }

    /// Takes the lock when nobody has it.
    ///
    /// # Errors
    /// The system's.
    pub fn try_lock(&self) -> Result<Option<Lock>> {
        let file = self.lock_file()?;
        match file.try_lock() {
            // It was opened before it was removed: the lock of nothing.
            Ok(()) if !self.dir().exists() => Err(self.gone().into()),
            Ok(()) => Ok(Some(Lock { file })),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(error).context("locking a container"),
        }
    }

    fn lock_file(&self) -> Result<File> {
        let path = self.dir().join("lock");
        // For writing: NFS locks nothing else (flock(2)).
        File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| self.missing(error, &path))
    }

    /// The note that lets a killed command's `--rm` container be found quickly.
    fn note(&self) -> PathBuf {
        self.store.tmp().join(format!("{}.container", self.id))
    }

    /// Removes everything of it. The lock shows that nobody is at work in it.
    ///
    /// # Errors
    /// The system's, with the path that stays.
    pub fn remove(&self, lock: Lock, plan: &Plan, helpers: Option<&Helpers>) -> Result<()> {
        let name = self.spec().ok().map(|spec| spec.name);
        // Of a monitor or command that was killed.
        let left = State::read(&self.dir()).ok().and_then(|state| state.cgroup);
        if let Some(path) = left.filter(|path| path.ends_with(cgroup::name(&self.id)))
            && let Ok(group) = Group::open(&path)
        {
            let _ = group.remove(); // the sweep of groups tries again
        }
        // Others see all of it or nothing. What is killed from here on is finished by the next sweep.
        let aside = self.aside(REMOVED);
        std::fs::rename(self.dir(), &aside)
            .with_context(|| format!("removing `{}`", self.dir().display()))?;
        for path in paths::of_container(&self.id).into_iter().flatten() {
            let _ = std::fs::remove_file(path); // a monitor that was killed leaves it
        }
        let names = match name {
            Some(name) => vec![self.store.names().join(name)],
            // Its description is damaged: the name that leads to it is found the long way.
            None => links_to(&self.store, &self.id),
        };
        for link in names {
            if std::fs::read_link(&link).is_ok_and(|id| id.to_str() == Some(&self.id)) {
                let _ = std::fs::remove_file(&link); // a dangling name is no claim
            }
        }
        let _ = std::fs::remove_file(self.note()); // a stale one is swept by the next command
        remove_dir(&aside, plan, helpers)?;
        // On a network file system the open lock has kept its directory.
        drop(lock);
        if aside.exists() {
            remove_dir(&aside, plan, helpers)?;
        }
        Ok(())
    }

    /// Where its directory is before it is whole, and after it has been removed.
    fn aside(&self, ending: &str) -> PathBuf {
        self.store.tmp().join(format!("{}{ending}", self.id))
    }

    /// Removes the volumes that were made for it alone.
    ///
    /// # Errors
    /// The system's, with the path that stays.
    pub fn remove_volumes(
        &self,
        spec: &ContainerSpec,
        plan: &Plan,
        helpers: Option<&Helpers>,
    ) -> Result<()> {
        for name in anonymous_volumes(spec) {
            match volumes::remove(&self.store, &name, Some(&self.id), plan, helpers) {
                // Docker's and ours: one that was never used was never made. Another container may use it by name.
                Err(error) if matches!(error::kind(&error), Kind::NotFound | Kind::Conflict) => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Keeps others from changing its description, whether it runs or not.
    ///
    /// # Errors
    /// The system's.
    pub fn lock_description(&self) -> Result<File> {
        let path = self.dir().join("container.lock");
        let file = File::create(&path).map_err(|error| self.missing(error, &path))?;
        file.lock()
            .with_context(|| format!("locking `{}`", path.display()))?;
        Ok(file)
    }

    /// Writes its description anew. Only under [`Record::lock_description`].
    ///
    /// # Errors
    /// The system's.
    pub fn describe(&self, spec: &ContainerSpec) -> Result<()> {
        let text = serde_json::to_vec(spec).context("writing container.json")?;
        let path = self.dir().join("container.json");
        sys::fs::write_atomically(&path, &self.dir().join("container.json.new"), &text)
            .map_err(|error| self.or_gone(disk_error(error, &path)))
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// `Conflict` when that is taken; the system's.
    pub fn rename(&self, name: &str) -> Result<()> {
        let _lock = self.lock_description()?;
        let mut spec = self.spec()?;
        self.claim_name(name)?;
        let old = std::mem::replace(&mut spec.name, name.to_owned());
        if let Err(error) = self.describe(&spec) {
            let _ = std::fs::remove_file(self.store.names().join(name)); // the first error is the one that matters
            return Err(error);
        }
        let _ = std::fs::remove_file(self.store.names().join(old)); // a dangling name is no claim
        Ok(())
    }
}

/// The volumes that were made for this container alone.
#[must_use]
pub fn anonymous_volumes(spec: &ContainerSpec) -> Vec<String> {
    let volumes = spec.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume { volume, .. } => Some(volume),
        MountSource::Bind { .. } | MountSource::Image { .. } | MountSource::Tmpfs { .. } => None,
    });
    volumes
        .filter(|volume| volume.starts_with(&spec.id))
        .cloned()
        .collect()
}

/// Makes the directory with its lock, which is held from then on.
fn begin(dir: &Path) -> Result<File> {
    use std::os::unix::fs::MetadataExt as _;
    let path = dir.join("lock");
    loop {
        match std::fs::create_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|error| disk_error(error, dir))?,
        }
        let file = match File::create(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            made => made.map_err(|error| disk_error(error, &path))?,
        };
        file.lock()
            .with_context(|| format!("locking `{}`", path.display()))?;
        // A sweep that came between making and locking has taken it for litter, and has finished by now.
        if file.metadata().is_ok_and(|meta| meta.nlink() > 0) {
            return Ok(file);
        }
    }
}

fn links_to(store: &Store, id: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(store.names())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    entries
        .filter(|link| std::fs::read_link(link).is_ok_and(|target| target.to_str() == Some(id)))
        .collect()
}

fn ids(store: &Store) -> Result<Vec<String>> {
    let dir = store.containers();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading `{}`", dir.display())),
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|id| id.len() == 64)
        .collect())
}

fn not_found(store: &Store, text: &str) -> Fail {
    let fail = Fail::not_found(format!("no container `{text}`"));
    let names = std::fs::read_dir(store.names())
        .into_iter()
        .flatten()
        .flatten();
    let near = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .map(|name| (distance(&name, text), name))
        .filter(|(distance, name)| *distance <= name.len().max(text.len()) / 3 + 1)
        .min();
    match near {
        Some((_, name)) => fail.hint(format!("did you mean `{name}`? rl ps -a lists all")),
        None => fail.hint("rl ps -a lists them"),
    }
}

/// How many letters must be put in, taken out or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let change = corner + usize::from(left != *right);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
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
            let done = stage::parent::job(job, "remove", plan, helpers).map(|_| ());
            match plan.is_mapped() {
                true => done,
                // What was made while there were ranges.
                false => done.context(
                    Fail::denied("there are files of your subordinate ids, which cannot be mapped now")
                        .hint("have the ranges mapped again (rl doctor says what is missing); then rl system check --repair removes them")
                        .code("RL-S10"),
                ),
            }
        }
        // A file in it is open, be it the lock: a network file system keeps it until then, and the next sweep ends it, at the latest.
        Err(error) if sys::errno_of(&error) == Some(rustix::io::Errno::NOTEMPTY) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether [`sweep`] has anything to look at. Cheap.
#[must_use]
pub fn wants_sweep(store: &Store) -> bool {
    let entries = std::fs::read_dir(store.tmp()).into_iter().flatten();
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        [".container", NEW, REMOVED]
            .iter()
            .any(|ending| name.ends_with(ending))
    })
}

/// Finishes what killed commands have begun: containers half made or half removed, and `--rm` containers whose
/// owner was killed. Cheap: only they have something in `tmp/`.
pub fn sweep(store: &Store, plan: &Plan, helpers: Option<&Helpers>) {
    let Ok(entries) = std::fs::read_dir(store.tmp()) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if let Some(id) = name.strip_suffix(NEW).or(name.strip_suffix(REMOVED)) {
            sweep_half(store, &path, id, plan, helpers);
            continue;
        }
        let Some(id) = name.strip_suffix(".container") else {
            continue;
        };
        let record = Record::at(store, id);
        let lock = match record.try_lock() {
            Ok(Some(lock)) => lock,
            Ok(None) => continue,
            // Its directory is not there, or not yet: only an old note is litter.
            Err(_) => {
                let old = entry
                    .metadata()
                    .and_then(|meta| meta.modified())
                    .ok()
                    .and_then(|time| time.elapsed().ok());
                if old.is_some_and(|age| age > std::time::Duration::from_secs(60)) {
                    let _ = std::fs::remove_file(&path); // the next sweep tries again
                }
                continue;
            }
        };
        // One that was made with `create --rm` and never started waits for its start.
        let waits = record.state().is_ok_and(|state| {
            state.status == super::state::Status::Created
                && state.owner.is_none()
                && state.started.is_none()
        }) && record.spec().is_ok_and(|spec| spec.detached);
        if !waits {
            if let Ok(spec) = record.spec() {
                let _ = record.remove_volumes(&spec, plan, helpers); // what resists stays
            }
            let _ = record.remove(lock, plan, helpers); // the next sweep tries again
        }
    }
}

/// A directory in `tmp/` that a command was killed over.
fn sweep_half(store: &Store, path: &Path, id: &str, plan: &Plan, helpers: Option<&Helpers>) {
    // Whoever is at work there holds its lock. One that is made may not have it yet, one that is removed no longer.
    let lock = File::open(path.join("lock")).ok();
    if lock.as_ref().is_some_and(|lock| lock.try_lock().is_err()) {
        return;
    }
    if lock.is_none() || path.extension().is_some_and(|ending| ending == &NEW[1..]) {
        let age = std::fs::metadata(path).and_then(|meta| meta.modified());
        let age = age.ok().and_then(|time| time.elapsed().ok());
        if age.is_none_or(|age| age < std::time::Duration::from_secs(2)) {
            return;
        }
    }
    if !path.exists() {
        return; // it was finished in the meantime
    }
    for link in links_to(store, id) {
        let _ = std::fs::remove_file(link); // a dangling name is no claim
    }
    let _ = std::fs::remove_file(store.tmp().join(format!("{id}.container"))); // as above
    let _ = remove_dir(path, plan, helpers); // the next sweep tries again
}
