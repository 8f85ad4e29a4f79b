//! `rl cp`: how the files of a container are reached, and files carried in and out as a tar stream.
//!
//! ```text
//!  rl cp C:/x DIR                      rl:[job] copy
//!     │ a descriptor of C's root ────────▶│ root over the same ids as C
//!     │                                   │ send: opens /x below that root, writes a tar
//!     │◀─────────────────────────── tar ──┘
//!     │ receive: makes the files, as the user
//! ```
//!
//! The other way round the job receives. The job stays in a copy of the host's mount namespace, with the host's
//! processes: nothing in the container sees it, and the container's `/proc` is not used. A running container is
//! reached by `/proc/PID/root`, with all that it has mounted; for one that does not run, the job mounts its root
//! and volumes for itself. All paths go through [`View`]: whatever the container renames, links or mounts
//! meanwhile, no step leads to where the container itself could not go.

pub mod receive;
pub mod send;

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::files;
use super::record::{Lock, Record};
use super::state::Status;
use crate::error::Fail;
use crate::idmap::{self, Available, Plan};
use crate::image::layer::Ids;
use crate::spec::ContainerSpec;
use crate::stage::fuse;
use crate::stage::parent::Aids;
use crate::stage::root::{self, Need};
use crate::stage::{Driver, Layered, RootPlan, rootfs};
use crate::sys;
use crate::sys::fs::Root;
use crate::sys::process::Child;

/// How long another command may be at work in the container.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a lock that nobody can wait for.
const SOON: Duration = Duration::from_millis(10);
/// Links that are followed to the end of one path; the kernel follows as many.
const LINKS: u32 = 40;

/// The files of one container, as long as this lives.
#[derive(Debug)]
pub struct Reach {
    /// Its ids.
    pub plan: Plan,
    /// How owners are kept.
    pub ids: Ids,
    /// What the job needs beside its order, but for its standard streams.
    pub aids: Aids,
    /// What the job has to mount; nothing where the container runs.
    pub mounting: Option<Mounting>,
    /// Who writes the id maps.
    pub available: Available,
    /// The container is not started meanwhile.
    _lock: Option<Lock>,
}

/// The root of a container that does not run, and what stands in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mounting {
    root: RootPlan,
    driver: Driver,
    spec: ContainerSpec,
    volumes: Vec<(String, PathBuf)>,
    layered: Vec<Layered>,
}

/// Finds the way to the files of a container, running or not.
///
/// # Errors
/// `Conflict` when another command is at work in it; the system's.
pub fn reach(record: &Record) -> Result<Reach> {
    let spec = record.spec()?;
    let until = Instant::now() + PATIENCE;
    loop {
        let state = record.state()?;
        if let Some(process) = &state.process
            && !matches!(state.status, Status::Created | Status::Exited)
            && let Some(_held) = process.open()?
        {
            let reached = running(process.pid);
            // Alive after the looking: then its number was its own all the time. One that is about to end has no root any more.
            let is_ending =
                matches!(&reached, Err(error) if sys::errno_of(error) == Some(Errno::NOENT));
            if process.is_alive() && !is_ending {
                return reached.with_context(|| format!("looking at container `{}`", spec.name));
            }
        }
        if let Some(lock) = record.try_lock()? {
            return stopped(record, spec, lock);
        }
        if Instant::now() > until {
            return Err(Fail::conflict(format!(
                "another command is at work in container `{}`",
                spec.name
            ))
            .hint("try again when it has ended")
            .into());
        }
        std::thread::sleep(SOON);
    }
}

fn ids_of(plan: &Plan) -> Ids {
    if plan.is_mapped() {
        Ids::Mapped
    } else {
        Ids::Single
    }
}

fn running(pid: i32) -> Result<Reach> {
    let open =
        |name: &str, flags| sys::fs::open_trusted(Path::new(&format!("/proc/{pid}/{name}")), flags);
    let root = open("root", OFlags::PATH | OFlags::DIRECTORY)?;
    let here = sys::fs::open_trusted(Path::new("/"), OFlags::PATH | OFlags::DIRECTORY)?;
    let place = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    // Only who is in the user namespace of a FUSE mount may use it (fuse_allow_current_process() in the kernel). For
    // all other files a namespace beside the container's is as good, and nothing in the container has rights over it.
    let fuse = rustix::fs::fstatfs(&root).is_ok_and(|stat| stat.f_type == FUSE);
    if !fuse && place(&root)? == place(&here)? {
        return Err(
            Fail::conflict("its first process still has the host's root directory")
                .hint("try again when it has started")
                .into(),
        );
    }
    let user = if fuse {
        Some(open("ns/user", OFlags::RDONLY)?)
    } else {
        None
    };
    let plan = Plan::of(pid)?;
    Ok(Reach {
        ids: ids_of(&plan),
        plan,
        aids: Aids {
            root: Some(root),
            user,
            ..Aids::default()
        },
        mounting: None,
        available: Available::probe(),
        _lock: None,
    })
}

/// `FUSE_SUPER_MAGIC`, statfs(2).
const FUSE: rustix::fs::FsWord = 0x6573_5546;

fn stopped(record: &Record, spec: ContainerSpec, lock: Lock) -> Result<Reach> {
    let available = Available::of(record.store());
    let (plan, _) = idmap::plan(&spec.userns, &available)?;
    let (root, driver) = files::root(record, &spec)?;
    Ok(Reach {
        ids: ids_of(&plan),
        plan,
        aids: Aids::default(),
        mounting: Some(Mounting {
            root,
            driver,
            volumes: super::volumes::make_all(record.store(), &spec)?,
            layered: files::layered(record, &spec)?,
            spec,
        }),
        available,
        _lock: Some(lock),
    })
}

/// What the job works in.
#[derive(Debug)]
pub struct Mounted {
    /// The container's root.
    pub root: Root,
    /// Who serves it, the lowest part first.
    fuse: Vec<Child>,
}

impl Mounted {
    /// The root that came as a descriptor, or else is mounted here. For a job.
    ///
    /// # Errors
    /// The system's.
    pub fn new(mounting: Option<&Mounting>, root: Option<OwnedFd>, ids: Ids) -> Result<Self> {
        let Some(mounting) = mounting else {
            let root = root.ok_or_else(|| Fail::system("no root to work in"))?;
            return Ok(Self {
                root: Root::from_fd(root),
                fuse: Vec::new(),
            });
        };
        sys::mount::make_all_slave()?;
        let mut fuse = Vec::new();
        let driver = mounting.driver;
        let mut serve = |plan: &RootPlan, need: Need<'_>| {
            if let Need::Squash(squash) = need {
                return match fuse::squash_here(plan) {
                    Ok(child) => {
                        fuse.push(child);
                        Ok(squash.mount.clone())
                    }
                    Err(error) if driver != Driver::Auto => Err(error),
                    Err(_) => files::copy_here(plan, ids), // its start will say why
                };
            }
            let without = driver == Driver::Copy;
            match (!without).then(|| fuse::overlay_here(plan)) {
                Some(Ok((path, child))) => {
                    fuse.push(child);
                    Ok(path)
                }
                Some(Err(error)) if driver == Driver::FuseOverlayfs => Err(error),
                Some(Err(_)) | None => files::copy_here(plan, ids),
            }
        };
        let root = root::mount_root(&mounting.root, driver, &mut Vec::new(), |need| {
            serve(&mounting.root, need)
        })
        .context("mounting the container's root file system")?;
        for layered in &mounting.layered {
            root::mount_layered(layered, &root, driver, |need| serve(&layered.plan, need))
                .with_context(|| format!("mounting `{}`", layered.target))?;
        }
        let mounts = &mounting.spec.mounts;
        let steps = rootfs::volumes(mounts, &mounting.volumes, &mounting.layered);
        rootfs::execute(&steps, &root)?;
        if mounting.spec.read_only {
            rootfs::execute(&[rootfs::Op::ProtectRoot], &root)?;
        }
        Ok(Self { root, fuse })
    }

    /// Works in it and unmounts it.
    ///
    /// # Errors
    /// Those of `work`; the system's.
    pub fn with<T>(self, container: String, work: impl FnOnce(&View) -> Result<T>) -> Result<T> {
        let Self { root, fuse } = self;
        let view = View::Inside(root, container);
        let done = work(&view);
        if let (false, View::Inside(root, _)) = (fuse.is_empty(), view) {
            // What fuse-overlayfs still holds back is written before it ends.
            let synced = reopen(&root).and_then(rustix::fs::syncfs);
            drop(root);
            for one in fuse.into_iter().rev() {
                one.kill();
                one.wait()?;
            }
            synced.map_err(|errno| sys::Error::new("syncfs", errno))?;
        }
        done
    }
}

fn reopen(root: &Root) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(root, ".", flags, Mode::empty())
}

/// Where paths are looked up.
#[derive(Debug)]
pub enum View {
    /// On the host, from this directory, as the user sees it.
    Host(OwnedFd),
    /// In a container of this name: its root is `/`.
    Inside(Root, String),
}

impl View {
    /// The host, from the working directory.
    ///
    /// # Errors
    /// open(2).
    pub fn host() -> Result<Self> {
        let here = sys::fs::open_trusted(Path::new("."), OFlags::PATH | OFlags::DIRECTORY)
            .context("opening the working directory")?;
        Ok(Self::Host(here))
    }

    /// Opens a path; a slash at its end asks for a directory.
    ///
    /// # Errors
    /// openat2(2).
    pub fn open(&self, path: &Path, flags: OFlags) -> sys::Result<OwnedFd> {
        match self {
            Self::Host(at) => {
                let as_usual = ResolveFlags::empty();
                sys::fs::openat2(at.as_fd(), path, flags, Mode::empty(), as_usual)
            }
            Self::Inside(root, _) => root.open(path, flags),
        }
    }

    /// The path for messages.
    #[must_use]
    pub fn show(&self, path: &Path) -> String {
        let text = path.as_os_str().as_bytes();
        let text = String::from_utf8_lossy(text);
        match self {
            Self::Host(_) => text.escape_debug().to_string(),
            Self::Inside(_, name) => format!("{name}:{}", text.escape_debug()),
        }
    }

    /// The directory and the name that `path` ends at when links are followed; what it names need not be there.
    fn end_of(&self, path: &Path) -> Result<(PathBuf, Vec<u8>)> {
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            let name = path.file_name().map(|name| name.as_bytes().to_vec());
            let name =
                name.ok_or_else(|| Fail::usage(format!("`{}` names no file", self.show(&path))))?;
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            };
            let directory = OFlags::PATH | OFlags::DIRECTORY;
            let at = self.open(&parent, directory).map_err(|error| {
                let shown = self.show(&parent);
                let fail = match error.errno {
                    Errno::NOENT => Fail::not_found(format!("there is no directory `{shown}`"))
                        .hint("make it first: only the last part of a destination is made"),
                    _ => Fail::usage(format!("cannot enter `{shown}`")),
                };
                anyhow::Error::from(error).context(fail)
            })?;
            match rustix::fs::readlinkat(&at, OsStr::from_bytes(&name), Vec::new()) {
                Ok(text) => path = parent.join(OsStr::from_bytes(text.to_bytes())),
                Err(Errno::INVAL | Errno::NOENT) => return Ok((parent, name)),
                Err(errno) => {
                    let call = format!("readlinkat({:?})", self.show(&path));
                    return Err(sys::Error::new(call, errno).into());
                }
            }
        }
        Err(sys::Error::new(format!("openat2({:?})", self.show(&path)), Errno::LOOP).into())
    }
}
