//! Getting inside; one file for each process.
//!
//! ```text
//!  command or monitor                               pid 1 of the container
//!  parent.rs                                        init.rs
//!     │ clone3 into all new namespaces ───────────────▶│ executes rl from a sealed mount
//!     │ Start(order) ─────────────────────────────────▶│ mounts the root file system
//!     │ newuidmap ∥ newgidmap                          │ (makes its interface: net/ahead.rs)
//!     │ Mapped ───────────────────────────────────────▶│ /proc /sys /dev, volumes, names
//!     │◀───────────────────────────────────── LinkMade │ (then pasta; else that began with newuidmap)
//!     │◀──────────────────────────────── Console + fd  │ (with a terminal)
//!     │◀──────────────────────── OverlayRefused + why  │ (then fuse-overlayfs, then a copy)
//!     │ RootMounted ──────────────────────────────────▶│
//!     │ NetworkReady ─────────────────────────────────▶│ pivot_root, confine, execve
//!     │◀── end of conversation: the program runs       ▼
//!     │◀── Failed(what, why, remedy)                the user's program
//! ```
//!
//! `rl exec` has the same conversation with a process that goes into a running container: [`join`].
//!
//! The same start serves a [`Job`]: work on files that needs the user's ids, in a user and mount namespace only.

mod clone;
pub mod confine;
pub mod emulation;
pub mod exact;
pub mod fuse;
pub mod init;
pub mod job;
pub mod join;
pub mod parent;
pub mod program;
pub mod root;
pub mod rootfs;
pub mod seccomp;
mod stand_in;
pub mod user;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Fail;
use crate::net::ahead::Link;
use crate::net::egress::Rule;
use crate::spec::ContainerSpec;
use seccomp::emulation::Emulation;

/// Where the root file system comes from, with every path resolved.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootPlan {
    /// Layers below, one writable directory above.
    Overlay {
        /// The directory that `lowers` are relative to: short names keep the options short.
        base: PathBuf,
        /// Trees, the lowest first.
        lowers: Vec<PathBuf>,
        /// The writable directory.
        upper: PathBuf,
        /// overlayfs' own directory, on the same file system.
        work: PathBuf,
        /// Where it is mounted.
        merged: PathBuf,
        /// The file that is the only one of `lowers`, and has to be mounted first.
        #[serde(default)]
        squash: Option<SquashFile>,
    },
    /// A directory as it is.
    Directory {
        /// Its path.
        path: PathBuf,
    },
    /// The host's top directories, each below a writable one.
    Host {
        /// The container's own directory: `root/`, and `upper/NAME`, `work/NAME` for each.
        dir: PathBuf,
    },
}

/// A mount of the spec's that is layers, as the root is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Layered {
    /// The mount's target.
    pub target: String,
    /// Its layers: [`RootPlan::Overlay`].
    pub plan: RootPlan,
    /// A directory that is shown at the only one of the lower ones first: an absolute path on the host.
    pub below: Option<PathBuf>,
    /// A directory of the container's own, relative to the plan's base, that every start empties.
    pub fresh: PathBuf,
    /// What the image has at the target is copied into `below` first, if that is empty.
    pub copy_up: bool,
}

/// A file with a squashfs in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SquashFile {
    /// Its path.
    pub file: PathBuf,
    /// Where the squashfs begins, in bytes.
    pub offset: u64,
    /// The directory that it is mounted on, relative to the plan's `base`.
    pub mount: PathBuf,
}

/// How layers are put over each other (`RL_STORAGE_DRIVER`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// The kernel's overlay, else fuse-overlayfs, else a copy; what is given up is announced.
    #[default]
    Auto,
    /// The kernel's overlay or nothing.
    Overlay,
    /// fuse-overlayfs or nothing.
    FuseOverlayfs,
    /// A copy of all layers for each container.
    Copy,
}

impl Order {
    /// The root, or one of what is layered beside it.
    #[must_use]
    pub fn plan(&self, which: Option<usize>) -> Option<&RootPlan> {
        match which {
            None => Some(&self.root),
            Some(position) => self.layered.get(position).map(|one| &one.plan),
        }
    }
}

impl Driver {
    /// The driver of that name, as podman's `STORAGE_DRIVER` has it; `vfs` is its name for a copy.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "auto" => Some(Driver::Auto),
            "overlay" => Some(Driver::Overlay),
            "fuse-overlayfs" => Some(Driver::FuseOverlayfs),
            "copy" | "vfs" => Some(Driver::Copy),
            _ => None,
        }
    }
}

/// Everything pid 1 has to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// What the container is.
    pub spec: ContainerSpec,
    /// Its root file system.
    pub root: RootPlan,
    /// How layers are put over each other.
    pub driver: Driver,
    /// The ids to take on before anything is made inside: container root, where that is not the caller.
    pub become_ids: Option<(u32, u32)>,
    /// The only user and group there are: `setgroups` is denied and other ids do not exist.
    pub only_ids: Option<(u32, u32)>,
    /// What root only appears to do.
    pub emulation: Option<Emulation>,
    /// Where that is remembered, in full.
    #[serde(default)]
    pub memory: Option<emulation::Memory>,
    /// Group 5 (tty) is mapped.
    pub has_tty_group: bool,
    /// Host files that stand at `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`.
    pub etc: Vec<(PathBuf, String)>,
    /// Host files that stand at these paths where the image has the directory.
    pub drop_ins: Vec<(PathBuf, String)>,
    /// The directory of every named volume in the spec's mounts.
    pub volumes: Vec<(String, PathBuf)>,
    /// What has to be laid over each other for one of the spec's mounts, beside the root.
    pub layered: Vec<Layered>,
    /// The loopback interface has to be brought up.
    pub raise_loopback: bool,
    /// Where packets may go; everywhere without.
    pub egress: Option<Vec<Rule>>,
    /// Kernel settings of the new network namespace that make it more useful, and are none the user asked for.
    pub soft_sysctls: Vec<(String, String)>,
    /// The interface to make at once; the answer is [`ToHost::LinkMade`].
    #[serde(default)]
    pub ahead: Option<Link>,
    /// The program starts only after [`ToStage::NetworkReady`], but for an interface that was made ahead.
    pub wait_for_network: bool,
    /// Pid 1 begins in a control group of its own, where its view of the tree begins as well.
    pub own_group: bool,
    /// The `/sys` of what this runs in is shown: the kernel gives out no new one.
    pub outer_sys: bool,
}

/// What a process that goes into a running container has to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Visit {
    /// What the container is, with this program in place of its own.
    pub spec: ContainerSpec,
    /// As [`Order::only_ids`].
    pub only_ids: Option<(u32, u32)>,
    /// As [`Order::emulation`].
    pub emulation: Option<Emulation>,
    /// Nobody waits for the program: it becomes a child of the container's pid 1.
    pub detached: bool,
}

/// What the host side says.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToStage {
    /// What to build.
    Start(Box<Order>),
    /// Which program to run in the container that was joined.
    Join(Box<Visit>),
    /// Which work to do.
    Work(Box<Job>),
    /// The ids are mapped.
    Mapped,
    /// The answer to [`ToHost::OverlayRefused`]: the root is mounted, or its copy is at this path.
    RootMounted {
        /// The directory that is the root now.
        path: PathBuf,
    },
    /// The answer to [`ToHost::SquashWanted`].
    SquashMounted,
    /// Packets flow.
    NetworkReady,
    /// An id-mapped copy of the source of one of `mounts` comes with this message ([`exact`]).
    Tree {
        /// Which of them.
        at: usize,
    },
    /// The runtime's hooks have run ([`exact`]).
    HooksDone {
        /// Pid 1 of the container, as the runtime sees it.
        pid: i32,
    },
    /// Whose calls to judge, by the listener that comes along; three descriptors follow: see [`emulation`].
    Emulate(Box<emulation::Watch>),
    /// One of these comes with this message.
    Descriptor,
}

/// What the inside says. Silence and the end of the conversation mean that the program runs.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToHost {
    /// The kernel will not mount this overlay.
    OverlayRefused {
        /// The call and the answer.
        why: String,
        /// Which of [`Order::layered`]; the root, where it is none.
        which: Option<usize>,
    },
    /// Its squash file has to be mounted; the directory for it is shared.
    SquashWanted {
        /// As above.
        which: Option<usize>,
    },
    /// Whether the interface of [`Order::ahead`] is there for its helper.
    LinkMade(bool),
    /// The terminal's other end comes with this message.
    Console,
    /// All is mounted: the runtime's hooks may run ([`exact`]).
    Hooks,
    /// All is made, and only the start is missing ([`exact`]).
    Created,
    /// The descriptor by which a system call filter is answered comes with this message ([`exact`]).
    Listener,
    /// The listener of the filter comes with this message: calls wait for a process that judges them.
    EmulationWanted,
    /// Something had to be given up: a line for the user.
    Notice(String),
    /// A job's result, as JSON.
    Done(String),
    /// It could not be done.
    Failed(Fail),
}

/// Work on files that needs the user's subordinate ids. It runs as root of a user namespace of its own, with
/// a private mount namespace and the host's network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Job {
    /// Removes these trees.
    Remove {
        /// Absolute paths below the store.
        paths: Vec<PathBuf>,
    },
    /// Copies the lower trees, lowest first, into one.
    Flatten {
        /// Absolute paths, lowest first.
        lowers: Vec<PathBuf>,
        /// An existing directory.
        into: PathBuf,
    },
    /// Makes the files of a squash file.
    Unsquash {
        /// It.
        squash: SquashFile,
        /// An existing, empty directory; absolute.
        into: PathBuf,
        /// There is one id: owners are noted.
        notes_owners: bool,
    },
    /// Tries whether a file in this directory can be another's.
    Owners {
        /// In the store.
        directory: PathBuf,
    },
    /// Image work; the text is known to the one who asked for it.
    Image {
        /// JSON.
        request: String,
    },
}
