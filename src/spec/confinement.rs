//! What the program may not do: capabilities, system calls, paths, limits of a process.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::oci;

/// What the program may not do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Confinement {
    /// `--privileged`: every capability, no seccomp filter, nothing masked.
    pub privileged: bool,
    /// The capabilities that stay, as `CAP_…` names, sorted.
    pub capabilities: Vec<String>,
    /// The five sets where they are not all the same; `capabilities` is the bounding one then.
    #[serde(default)]
    pub capability_sets: Option<oci::Capabilities>,
    /// The system call filter.
    pub seccomp: Seccomp,
    /// `--root-emulation`.
    #[serde(default)]
    pub root_emulation: RootEmulation,
    /// `--security-opt no-new-privileges`.
    pub no_new_privileges: bool,
    /// Paths that are hidden.
    pub masked_paths: Vec<String>,
    /// Paths that cannot be written.
    pub read_only_paths: Vec<String>,
    /// `--ulimit`.
    pub rlimits: Vec<Rlimit>,
    /// `--sysctl`, as `net.ipv4.ip_forward` → `1`.
    pub sysctls: BTreeMap<String, String>,
    /// `--oom-score-adj`.
    pub oom_score_adj: Option<i32>,
}

impl Confinement {
    /// Whether programs can get another root directory than by chroot(2): by mounts and namespaces of their own.
    #[must_use]
    pub fn may_move_roots(&self) -> bool {
        self.privileged
            || self.seccomp != Seccomp::Default
            || self.capabilities.iter().any(|name| name == "CAP_SYS_ADMIN")
    }
}

/// The system call filter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Seccomp {
    /// Docker's default, in effect.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile of the user's, in docker's JSON format, as text.
    Profile {
        /// The JSON text.
        json: String,
    },
}

/// Whether calls that need ids which are not there appear to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootEmulation {
    /// For the root of a container that has one id; else not.
    #[default]
    Auto,
    /// They do, and nothing is remembered.
    Basic,
    /// They do, and what they say is remembered.
    Full,
    /// They fail.
    Off,
}

/// One resource limit. Source: getrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// As `ulimit` names it in docker: `nofile`, `nproc`, `core`, …
    pub name: String,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is unlimited.
    pub hard: u64,
}
