//! Where a container is counted, and how much it gets: `--cgroups`, `--memory` and their kin.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a container's processes are counted, and how much they get.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cgroup {
    /// `--cgroups`.
    #[serde(default)]
    pub mode: CgroupMode,
    /// `--cgroup-parent`: a slice of systemd's, or a path below the mount.
    #[serde(default)]
    pub parent: Option<String>,
    /// The limits.
    #[serde(default)]
    pub resources: Resources,
    /// The rule that has set limits which no flag has: its file and line.
    #[serde(default)]
    pub rule: Option<String>,
}

/// `--cgroups`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupMode {
    /// A group of its own where limits ask for it, or where it costs nothing.
    #[default]
    Auto,
    /// A group of its own in any case.
    Enabled,
    /// None: it stays in the caller's.
    Inherit,
    /// A group of its own, below the caller's.
    Split,
}

/// How much a container gets, as the user said it. Source: docker's `HostConfig.Resources`; the files that it
/// becomes are `cgroup::limits`'.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// `--memory`, in bytes.
    pub memory: Option<u64>,
    /// `--memory-reservation`, in bytes.
    pub memory_reservation: Option<u64>,
    /// `--memory-swap`: memory and swap together, in bytes; -1 is without limit.
    pub memory_swap: Option<i64>,
    /// `--cpus`, in billionths.
    pub nano_cpus: Option<u64>,
    /// `--cpu-shares`, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// `--cpu-period`, in microseconds.
    pub cpu_period: Option<u64>,
    /// `--cpu-quota`, in microseconds; -1 is without limit.
    pub cpu_quota: Option<i64>,
    /// `--cpuset-cpus`, such as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// `--cpuset-mems`.
    pub cpuset_mems: Option<String>,
    /// `--pids-limit`; -1 is without limit.
    pub pids: Option<i64>,
    /// `--blkio-weight`, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// `--blkio-weight-device`: a block device of the host and its weight.
    pub blkio_weight_device: Vec<(PathBuf, u16)>,
    /// `--device-read-bps`: a block device of the host and bytes in a second.
    pub device_read_bps: Vec<(PathBuf, u64)>,
    /// `--device-write-bps`.
    pub device_write_bps: Vec<(PathBuf, u64)>,
    /// `--device-read-iops`: operations in a second.
    pub device_read_iops: Vec<(PathBuf, u64)>,
    /// `--device-write-iops`.
    pub device_write_iops: Vec<(PathBuf, u64)>,
    /// `--cgroup-conf`: a file of the group and its text.
    pub conf: BTreeMap<String, String>,
}

impl Resources {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
