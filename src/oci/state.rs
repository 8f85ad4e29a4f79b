//! What is kept of a container between two commands: a directory for each id.
//!
//! ```text
//! ROOT/ID/  state.json · start (the socket of one that is created and not started) · lock
//! ```

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::groups::Place;
use crate::container::state::Process;
use crate::error::Fail;
use crate::spec::ContainerSpec;
use crate::spec::resources::Resources;
use crate::sys;

/// The version of the stored form.
const VERSION: u32 = 1;

/// `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`]; a newer one is refused.
    pub version: u32,
    /// The container's id.
    pub id: String,
    /// RFC 3339, UTC.
    pub created: String,
    /// Pid 1 of the container; none while it is made.
    pub process: Option<Process>,
    /// Where it is counted.
    pub place: Place,
    /// The container.
    pub spec: ContainerSpec,
    /// What limits it.
    pub resources: Resources,
}

/// What `state` and `list` print.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the specification's and runc's")]
pub struct Shown {
    pub oci_version: String,
    pub id: String,
    pub pid: i32,
    pub status: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    pub owner: String,
}

/// The states of runtime.md, and `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// As it is printed.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// The directory that all of them are in.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// One container.
#[derive(Debug)]
pub struct Container {
    dir: PathBuf,
    /// What is known of it.
    pub record: Record,
}

/// Whether `id` can name a container: runc's rule.
///
/// # Errors
/// `Usage`.
pub fn check_id(id: &str) -> Result<(), Fail> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if id.is_empty() || id.len() > 255 || !id.bytes().all(good) || id == "." || id == ".." {
        return Err(Fail::usage(format!(
            "invalid container id `{}`: letters, digits and `_+-.` make one",
            id.escape_debug()
        )));
    }
    Ok(())
}

impl Store {
    /// The one at `root`.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Claims the id: its directory is there afterwards, and it is `creating`.
    ///
    /// # Errors
    /// `Conflict` when it is taken.
    pub fn claim(&self, record: Record) -> Result<Container> {
        check_id(&record.id)?;
        std::fs::create_dir_all(&self.root)
            .with_context(|| format!("making `{}`", self.root.display()))?;
        let dir = self.root.join(&record.id);
        match rustix::fs::mkdir(&dir, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return Err(Fail::conflict(format!(
                    "container with given ID already exists: `{}`",
                    record.id
                ))
                .hint(format!("remove it first: rl runtime delete {}", record.id))
                .into());
            }
            Err(errno) => {
                return Err(sys::Error::new(format!("mkdir({dir:?})"), errno).into());
            }
        }
        let container = Container { dir, record };
        match container.write() {
            Ok(()) => Ok(container),
            Err(error) => {
                let _ = container.forget(); // the error says more
                Err(error)
            }
        }
    }

    /// The container with this id.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt`.
    pub fn open(&self, id: &str) -> Result<Container> {
        check_id(id)?;
        let dir = self.root.join(id);
        let path = dir.join("state.json");
        let text = std::fs::read(&path).map_err(|error| {
            let fail = if error.kind() == std::io::ErrorKind::NotFound {
                Fail::not_found(format!("container does not exist: `{id}`"))
                    .hint("rl runtime list shows those that do; --root names another directory")
            } else {
                Fail::system(format!("`{}` cannot be read", path.display()))
            };
            anyhow::Error::from(error).context(fail)
        })?;
        let record: Record = serde_json::from_slice(&text).map_err(|error| {
            Fail::corrupt(format!("`{}` is damaged: {error}", path.display()))
                .hint(format!("remove it: rl runtime delete --force {id}"))
        })?;
        if record.version > VERSION {
            return Err(Fail::corrupt(format!(
                "`{}` has version {}, this `rl` knows {VERSION}",
                path.display(),
                record.version
            ))
            .hint("it was written by a newer `rl`; use that one")
            .into());
        }
        Ok(Container { dir, record })
    }

    /// The ids that are there, sorted.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten();
        let mut ids: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| {
                check_id(name).is_ok() && self.root.join(name).join("state.json").exists()
            })
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Removes what is left of a container that cannot be read.
    ///
    /// # Errors
    /// The system's.
    pub fn forget_damaged(&self, id: &str) -> Result<()> {
        check_id(id)?;
        forget(&self.root.join(id))
    }

    /// Whether the id is taken.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        check_id(id).is_ok() && self.root.join(id).exists()
    }
}

fn forget(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.with_context(|| format!("removing `{}`", dir.display())),
    }
}

impl Record {
    /// Of a container that is about to be made.
    #[must_use]
    pub fn new(spec: ContainerSpec, resources: Resources) -> Self {
        Self {
            version: VERSION,
            id: spec.id.clone(),
            created: crate::container::state::now(),
            process: None,
            place: Place::default(),
            spec,
            resources,
        }
    }
}

impl Container {
    /// Writes `state.json`, so that a reader sees the old or the new.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self) -> Result<()> {
        let text = serde_json::to_vec(&self.record).context("writing state.json")?;
        let path = self.dir.join("state.json");
        // No sync: what is here does not outlive the machine's next start, for it names processes.
        let aside = self.dir.join("state.json.new");
        std::fs::write(&aside, text)
            .and_then(|()| std::fs::rename(&aside, &path))
            .with_context(|| format!("writing `{}`", path.display()))
    }

    /// Holds off every other command that changes it, for as long as it lives.
    ///
    /// # Errors
    /// The system's; `NotFound` when it was removed meanwhile.
    pub fn lock(&self) -> Result<OwnedFd> {
        let path = self.dir.join("lock");
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)) {
            Err(Errno::NOENT) => {
                let id = &self.record.id;
                return Err(Fail::not_found(format!("container does not exist: `{id}`")).into());
            }
            done => done.with_context(|| format!("opening `{}`", path.display()))?,
        };
        rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::LockExclusive))
            .with_context(|| format!("locking `{}`", path.display()))?;
        Ok(fd)
    }

    /// A pidfd of pid 1, if it lives.
    ///
    /// # Errors
    /// `RL-K06` where no process can be held on to.
    pub fn open_process(&self) -> Result<Option<OwnedFd>> {
        match &self.record.process {
            Some(process) => Ok(process.open()?),
            None => Ok(None),
        }
    }

    /// What it does now.
    #[must_use]
    pub fn status(&self) -> Status {
        let Some(process) = &self.record.process else {
            return Status::Creating;
        };
        if !process.is_alive() {
            return Status::Stopped;
        }
        if self.dir.join("start").exists() {
            return Status::Created;
        }
        let frozen = self
            .record
            .place
            .group()
            .is_some_and(|group| group.is_frozen());
        if frozen {
            Status::Paused
        } else {
            Status::Running
        }
    }

    /// What `state` and `list` say of it.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let status = self.status();
        let record = &self.record;
        let oci = record.spec.oci.as_deref();
        let rootfs = match &record.spec.rootfs {
            crate::spec::Rootfs::Directory { path } => path.clone(),
            crate::spec::Rootfs::Layers { .. }
            | crate::spec::Rootfs::Squash { .. }
            | crate::spec::Rootfs::Host => PathBuf::new(),
        };
        let pid = match status {
            Status::Stopped | Status::Creating => 0,
            Status::Created | Status::Running | Status::Paused => {
                record.process.as_ref().map_or(0, |process| process.pid)
            }
        };
        Shown {
            oci_version: oci.map(|oci| oci.version.clone()).unwrap_or_default(),
            id: record.id.clone(),
            pid,
            status: status.word().to_owned(),
            bundle: oci.map(|oci| oci.bundle.clone()).unwrap_or_default(),
            rootfs,
            created: record.created.clone(),
            annotations: record.spec.annotations.clone(),
            owner: self.owner(),
        }
    }

    fn owner(&self) -> String {
        use std::os::unix::fs::MetadataExt as _;
        let uid = std::fs::metadata(&self.dir).map_or(0, |meta| meta.uid());
        let names = crate::idmap::ranges::user_names(uid);
        names.into_iter().next().unwrap_or_else(|| uid.to_string())
    }

    /// The state that hooks and listeners are told. Source: runtime.md, "State".
    #[must_use]
    pub fn told(&self, status: Status, pid: i32) -> serde_json::Value {
        let oci = self.record.spec.oci.as_deref();
        serde_json::json!({
            "ociVersion": oci.map(|oci| oci.version.as_str()).unwrap_or_default(),
            "id": self.record.id,
            "status": status.word(),
            "pid": pid,
            "bundle": oci.map(|oci| oci.bundle.clone()).unwrap_or_default(),
            "annotations": self.record.spec.annotations,
        })
    }

    /// The socket that pid 1 will wait on.
    ///
    /// # Errors
    /// bind(2).
    pub fn listen(&self) -> Result<UnixListener> {
        let dir = sys::fs::open_trusted(&self.dir, OFlags::PATH | OFlags::DIRECTORY)?;
        UnixListener::bind(short(&dir, "start")).context("making the socket for the start")
    }

    /// Speaks to pid 1, which waits for its start.
    ///
    /// # Errors
    /// connect(2).
    pub fn connect(&self) -> Result<UnixStream> {
        let dir = sys::fs::open_trusted(&self.dir, OFlags::PATH | OFlags::DIRECTORY)?;
        UnixStream::connect(short(&dir, "start")).context("reaching the container's first process")
    }

    /// It is started: the socket goes.
    ///
    /// # Errors
    /// The system's.
    pub fn started(&self) -> Result<()> {
        std::fs::remove_file(self.dir.join("start")).context("noting that it is started")
    }

    /// Removes its directory.
    ///
    /// # Errors
    /// The system's.
    pub fn forget(&self) -> Result<()> {
        forget(&self.dir)
    }
}

/// An address for a socket in `dir`, however long the path of that is: sun_path has 108 bytes (unix(7)).
fn short(dir: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

/// Connects to a socket of somebody else's, however long its path is.
///
/// # Errors
/// connect(2), with the path.
pub fn connect(path: &Path) -> Result<UnixStream> {
    let doing = || format!("connecting to `{}`", path.display());
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path
        .file_name()
        .ok_or_else(|| Fail::usage(format!("`{}` is no socket", path.display())))?;
    let dir =
        sys::fs::open_trusted(parent, OFlags::PATH | OFlags::DIRECTORY).with_context(doing)?;
    UnixStream::connect(short(&dir, &name.to_string_lossy())).with_context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_runcs() {
        for good in ["a", "0", "A_b+c-d.e", "..."] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "/",
            "a b",
            "ä",
            "a\n",
            &"x".repeat(256),
        ] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
