//! Which namespaces a container has of its own, and how user and group ids are mapped.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Whose namespace is used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode", content = "of")]
pub enum Namespace {
    /// A new one.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Another container's, by id or name.
    Container(String),
    /// One that a file of `/proc/PID/ns` or a bind mount names.
    Path(PathBuf),
}

/// `--ipc`: docker knows more than private and host here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shm {
    /// A `/dev/shm` of its own.
    #[default]
    Private,
    /// The host's (`--ipc=host`).
    Host,
    /// None at all (`--ipc=none`).
    None,
}

/// The namespaces of a container; the user and mount namespaces are always its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Namespaces {
    /// `--pid`.
    pub pid: Namespace,
    /// `--ipc`.
    pub ipc: Namespace,
    /// `/dev/shm`, which follows `--ipc`.
    pub shm: Shm,
    /// `--uts`.
    pub uts: Namespace,
    /// `--cgroupns`.
    pub cgroup: Namespace,
    /// `--time-offset`: a time namespace is made only when one of these is given.
    pub time: Option<TimeOffsets>,
}

/// How far the container's clocks are ahead. Source: time_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TimeOffsets {
    /// Seconds added to `CLOCK_MONOTONIC`.
    pub monotonic_s: i64,
    /// Seconds added to `CLOCK_BOOTTIME`.
    pub boottime_s: i64,
}

/// `--userns`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode")]
pub enum UserNs {
    /// The ladder: container root is the user, 1…n the user's ranges; else one id (design, section 4).
    #[default]
    Auto,
    /// The user keeps their own ids inside, or gets the ones named here.
    KeepId {
        /// Id inside; the user's own by default.
        uid: Option<u32>,
        /// Group id inside; the user's own by default.
        gid: Option<u32>,
    },
    /// The user's own id is not mapped; all ids are subordinate.
    NoMap,
    /// As `Auto`: without root there is no container in the host's user namespace.
    Host,
}

/// Settings of the kernel that an IPC namespace has for itself, as those below `fs.mqueue` are. Source: ipc_namespaces(7).
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Whether a setting, with dots between its parts, belongs to the IPC namespace.
#[must_use]
pub fn is_of_ipc(sysctl: &str) -> bool {
    IPC_SYSCTLS.contains(&sysctl) || sysctl.starts_with("fs.mqueue.")
}
