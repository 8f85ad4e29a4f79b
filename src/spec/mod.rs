//! The waist: everything that is known of one container before it is started, as plain data.
//!
//! Command-line flags, Docker API requests and OCI `config.json` files all become a [`ContainerSpec`];
//! all that is below sees nothing else. No I/O here. Field names and meanings follow the OCI runtime
//! specification (config.md, config-linux.md) where it has the thing.

mod egress;
mod mounts;
pub mod oci;
mod ports;
pub mod resources;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Fail;
pub use egress::{Allowed, Destination, Egress};
pub use mounts::{Mount, MountSource, WritableLayer};
pub use ports::{Bound, HostPort, Port, Protocol, Publish};

/// The version of the stored form. A newer one than this is refused, never guessed at.
pub const VERSION: u32 = 1;

/// One container, completely described.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// [`VERSION`].
    pub version: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// The name that the user gave or that was made up: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
    pub name: String,
    /// The image it came from; none for `--rootfs`.
    pub image: Option<Image>,
    /// Where its root file system comes from.
    pub rootfs: Rootfs,
    /// Nothing below the root can be written, but for volumes and tmpfs.
    pub read_only: bool,
    /// The program.
    pub process: Process,
    /// `rl`'s own pid 1 reaps and forwards signals; the program is its child.
    pub init: bool,
    /// Host name; the first 12 digits of the id when the UTS namespace is private and none is given.
    pub hostname: Option<String>,
    /// NIS domain name, as `domainname(1)` shows it.
    pub domainname: Option<String>,
    /// What is mounted over the root, in the order given by the user.
    pub mounts: Vec<Mount>,
    /// Device nodes of the host that are bound in.
    pub devices: Vec<Device>,
    /// Which namespaces are its own.
    pub namespaces: Namespaces,
    /// How user and group ids are mapped.
    pub userns: UserNs,
    /// How it reaches the world.
    pub network: Network,
    /// `-p`: which of its ports are reached through the host.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// `-P`: every port of `expose` that `publish` leaves out gets one of the host's.
    #[serde(default)]
    pub publish_all: bool,
    /// The ports it serves, by `--expose` and the image's `EXPOSE`.
    #[serde(default)]
    pub expose: Vec<Port>,
    /// `--egress`; everywhere without.
    #[serde(default)]
    pub egress: Option<Egress>,
    /// What goes into `/etc/hosts` and `/etc/resolv.conf`.
    pub names: Names,
    /// What the program may not do.
    pub confinement: Confinement,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: u64,
    /// `--annotation`.
    pub annotations: BTreeMap<String, String>,
    /// `--label` over the image's.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to stop: a name (`SIGTERM`) or a number.
    pub stop_signal: String,
    /// `--rm`: the container goes when its program ends.
    pub remove: bool,
    /// It has a monitor of its own and outlives the command that starts it.
    #[serde(default)]
    pub detached: bool,
    /// What happens when its program ends.
    #[serde(default)]
    pub restart: Restart,
    /// Seconds between asking it to stop and killing it; docker's 10.
    #[serde(default = "stop_timeout")]
    pub stop_timeout_s: u32,
    /// Where its output is kept.
    #[serde(default)]
    pub log: Log,
    /// How it is found out whether it works.
    #[serde(default)]
    pub health: Option<Health>,
    /// Seconds after which it is killed (`--timeout`).
    #[serde(default)]
    pub timeout_s: Option<u64>,
    /// Its control group.
    #[serde(default)]
    pub cgroup: Cgroup,
    /// What only a `config.json` can say; none for what people start.
    #[serde(default)]
    pub oci: Option<Box<oci::Oci>>,
}

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

fn stop_timeout() -> u32 {
    10
}

/// `--restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "policy")]
pub enum Restart {
    /// It stays ended.
    #[default]
    No,
    /// Started again after a failure, at most so often; 0 means always.
    OnFailure {
        /// The most restarts in a row.
        most: u32,
    },
    /// Started again until it is removed or stopped; after a reboot too.
    Always,
    /// As `Always`, but what the user has stopped stays down after a reboot.
    UnlessStopped,
}

/// `--log-driver` and `--log-opt`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Log {
    /// Nothing is kept (`none`); else docker's `json-file`.
    pub none: bool,
    /// Bytes after which a new file is begun (`max-size`).
    pub max_size: Option<u64>,
    /// How many files there are at most (`max-file`); 1 by default.
    pub max_files: Option<u32>,
}

/// A health check. What is empty or 0 is the image's, and docker's default where that says nothing either.
/// Source: docker's image configuration, `Healthcheck`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Health {
    /// The words to execute; one that was given as a shell line begins with the image's shell, as `/bin/sh -c`.
    pub command: Vec<String>,
    /// There is none, whatever the image says.
    #[serde(default)]
    pub none: bool,
    /// Nanoseconds between the end of one check and the next; [`Health::NEVER`] leaves it to `rl healthcheck run`.
    pub interval_ns: u64,
    /// Nanoseconds that one may take.
    pub timeout_ns: u64,
    /// Nanoseconds after the start in which failures do not count.
    pub start_period_ns: u64,
    /// Nanoseconds between two checks in the start period, until the first that succeeds.
    #[serde(default)]
    pub start_interval_ns: u64,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

impl Health {
    /// No checks by the clock.
    pub const NEVER: u64 = u64::MAX;

    /// Fills what was left open from the image's, and then with docker's defaults: moby, `daemon/health.go`.
    pub fn fill(&mut self, image: &Self) {
        if self.command.is_empty() {
            self.command.clone_from(&image.command);
        }
        for (own, theirs, default_s) in [
            (&mut self.interval_ns, image.interval_ns, 30),
            (&mut self.timeout_ns, image.timeout_ns, 30),
            (&mut self.start_period_ns, image.start_period_ns, 0),
            (&mut self.start_interval_ns, image.start_interval_ns, 5),
        ] {
            let found = [*own, theirs, default_s * 1_000_000_000];
            *own = found.into_iter().find(|time| *time > 0).unwrap_or_default();
        }
        let found = [self.retries, image.retries, 3];
        self.retries = found.into_iter().find(|count| *count > 0).unwrap_or(3);
    }
}

/// Which image a container came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// As the user wrote it.
    pub reference: String,
    /// `sha256:…` of the image's configuration, docker's image id; empty for `host`.
    pub id: String,
}

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Rootfs {
    /// Unpacked layers, lowest first (the order of `rootfs.diff_ids`), and a private writable one.
    Layers {
        /// `sha256:…` of each uncompressed layer tar.
        diff_ids: Vec<String>,
    },
    /// A directory of the user's, used as it is (and written to).
    Directory {
        /// Absolute path on the host.
        path: PathBuf,
    },
    /// A file with a squashfs in it, or a SIF file, below; a private writable layer above.
    Squash {
        /// Absolute path on the host.
        path: PathBuf,
    },
    /// The host's own programs below, a private writable layer above (`rl run host`).
    Host,
}

/// The program of the container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Process {
    /// `--entrypoint`, else the image's. `Some(empty)` clears the image's.
    pub entrypoint: Option<Vec<String>>,
    /// The words after the image's name, else the image's `Cmd`.
    pub command: Option<Vec<String>>,
    /// `NAME=value`, later ones win. The image's come first.
    pub env: Vec<String>,
    /// Working directory inside; `/` when empty.
    pub cwd: String,
    /// `user[:group]`, names or numbers, looked up in the container's own `/etc/passwd`.
    pub user: String,
    /// `--group-add`: names or numbers, or `keep-groups`.
    pub groups: Vec<String>,
    /// A terminal of its own.
    pub tty: bool,
    /// Standard input is the caller's; else `/dev/null`.
    pub interactive: bool,
    /// How many descriptors from 3 on are passed through.
    pub preserve_fds: u32,
    /// `--umask`, octal; 0022 by default.
    pub umask: u32,
}

impl Process {
    /// Entry point and command as one list: what is executed.
    #[must_use]
    pub fn args(&self) -> Vec<String> {
        let entrypoint = self.entrypoint.iter().flatten();
        entrypoint
            .chain(self.command.iter().flatten())
            .cloned()
            .collect()
    }
}

/// What an image's configuration says of the containers made from it.
/// Source: OCI image specification, config.md; docker's additions are kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageDefaults {
    /// `Env`.
    pub env: Vec<String>,
    /// `Entrypoint`.
    pub entrypoint: Option<Vec<String>>,
    /// `Cmd`.
    pub command: Option<Vec<String>>,
    /// `User`.
    pub user: String,
    /// `WorkingDir`.
    pub cwd: String,
    /// `Volumes`: paths inside that get a volume of their own.
    pub volumes: Vec<String>,
    /// `StopSignal`.
    pub stop_signal: Option<String>,
    /// `Labels`.
    pub labels: BTreeMap<String, String>,
    /// `ExposedPorts`: `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// `Healthcheck`, when there is one.
    pub health: Option<Health>,
}

/// A device node of the host, bound into the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path on the host; a directory brings all nodes below it.
    pub host: PathBuf,
    /// Path inside.
    pub target: String,
    /// Some of `r`, `w`, `m`. Without `w` the node is bound read-only; there is no device cgroup.
    pub access: String,
}

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

/// `--network`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode")]
pub enum Network {
    /// The best that works: pasta, slirp4netns, and with a line that says so the host's.
    #[default]
    Auto,
    /// Through the `pasta` helper.
    Pasta {
        /// Extra words for its command line.
        options: Vec<String>,
    },
    /// Through the `slirp4netns` helper.
    Slirp4netns {
        /// `allow_host_loopback=true`, `mtu=…`, `cidr=…`, `enable_ipv6=…`.
        options: Vec<String>,
    },
    /// The host's own network.
    Host,
    /// Loopback only.
    None,
    /// Another container's.
    Container {
        /// Its id or name.
        id: String,
    },
    /// The network namespace that a file names.
    Path {
        /// Path on the host.
        path: PathBuf,
    },
    /// Networks of `rl network create`; none when it was taken off all of them.
    Named {
        /// Which, and how; the first that has a way out gets the default route.
        networks: Vec<Joined>,
    },
}

/// How a container joins a named network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Joined {
    /// The network's name.
    pub network: String,
    /// `--network-alias`.
    pub aliases: Vec<String>,
    /// `--ip`; a free one by default.
    pub ip: Option<Ipv4Addr>,
    /// `--ip6`; a free one by default, where the network has IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// `--mac-address`; made from the address by default.
    pub mac: Option<[u8; 6]>,
}

/// Names and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Names {
    /// `--add-host`: name and address; `host-gateway` is resolved when the network is known.
    pub hosts: Vec<(String, String)>,
    /// `--dns`; the host's servers when empty.
    pub dns: Vec<IpAddr>,
    /// `--dns-search`.
    pub search: Vec<String>,
    /// `--dns-option`.
    pub options: Vec<String>,
    /// `/etc/hosts` of the image stays as it is.
    pub keep_hosts: bool,
    /// `/etc/resolv.conf` of the image stays as it is (`--dns=none`).
    pub keep_resolv_conf: bool,
}

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

impl ContainerSpec {
    /// Takes from the image what the user left open, as docker does it.
    ///
    /// `Env` goes before the user's own; `Cmd` is dropped when the user gave an entry point.
    pub fn inherit(&mut self, image: &ImageDefaults) {
        let process = &mut self.process;
        if process.entrypoint.is_none() {
            process.entrypoint.clone_from(&image.entrypoint);
            if process.command.is_none() {
                process.command.clone_from(&image.command);
            }
        }
        let mut env = image.env.clone();
        env.append(&mut process.env);
        process.env = env;
        if process.user.is_empty() {
            process.user.clone_from(&image.user);
        }
        if process.cwd.is_empty() {
            process.cwd.clone_from(&image.cwd);
        }
        if self.stop_signal.is_empty() {
            self.stop_signal = image.stop_signal.clone().unwrap_or_default();
        }
        self.inherit_health(image.health.as_ref());
        for (key, value) in &image.labels {
            self.labels
                .entry(key.clone())
                .or_insert_with(|| value.clone());
        }
        // An image may name protocols that no helper carries; EXPOSE promises nothing.
        let exposed = image
            .exposed_ports
            .iter()
            .filter_map(|text| text.parse::<Port>().ok());
        self.expose.extend(exposed);
        self.expose.sort_unstable();
        self.expose.dedup();
        for target in &image.volumes {
            if self
                .mounts
                .iter()
                .any(|mount| mount.target.trim_end_matches('/') == target.trim_end_matches('/'))
            {
                continue;
            }
            let volume = MountSource::volume("");
            self.mounts.push(Mount::new(target.clone(), volume));
        }
    }

    /// What `-p` and `-P` ask for together.
    #[must_use]
    pub fn published(&self) -> Vec<Publish> {
        let mut all = self.publish.clone();
        if self.publish_all {
            let open = self
                .expose
                .iter()
                .filter(|port| self.publish.iter().all(|one| one.port != **port));
            all.extend(open.map(|port| Publish {
                address: None,
                host: HostPort::Any,
                port: *port,
            }));
        }
        all
    }

    fn inherit_health(&mut self, image: Option<&Health>) {
        let image = image.filter(|image| !image.none);
        if self.health.is_none() {
            self.health = image.cloned();
        }
        if let Some(health) = &mut self.health {
            health.fill(image.unwrap_or(&Health::default()));
        }
        self.health = self.health.take().filter(|health| !health.none);
    }

    /// Checks what can be checked without looking at the machine.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] that names the field.
    pub fn check(&self) -> Result<(), Fail> {
        if self.version != VERSION {
            return Err(Fail::corrupt(format!(
                "the container's description has version {}, this `rl` knows {VERSION}",
                self.version
            ))
            .hint("it was written by a newer `rl`; use that one"));
        }
        if self.process.args().is_empty() {
            return Err(Fail::usage("no command given, and the image names none")
                .hint("add one: rl run IMAGE COMMAND"));
        }
        if let Some(text) = self
            .process
            .args()
            .iter()
            .chain(&self.process.env)
            .find(|text| text.contains('\0'))
        {
            return Err(Fail::usage(format!(
                "`{}` contains a NUL byte",
                text.escape_debug()
            )));
        }
        if self
            .health
            .as_ref()
            .is_some_and(|health| health.command.is_empty())
        {
            return Err(Fail::usage(
                "how often health is checked is said, but not how: the image has no health check",
            )
            .hint("name the command: --health-cmd COMMAND"));
        }
        if !self.process.cwd.is_empty() && !self.process.cwd.starts_with('/') {
            return Err(Fail::usage(format!(
                "working directory `{}` is not an absolute path",
                self.process.cwd
            )));
        }
        for mount in &self.mounts {
            if !mount.target.starts_with('/') {
                return Err(Fail::usage(format!(
                    "mount target `{}` is not an absolute path",
                    mount.target
                )));
            }
            if mount.target.trim_matches('/').is_empty() {
                return Err(Fail::usage("nothing can be mounted over `/`")
                    .hint("use --rootfs DIR for a root file system of your own"));
            }
        }
        let mut targets: Vec<&str> = self
            .mounts
            .iter()
            .map(|mount| mount.target.trim_end_matches('/'))
            .collect();
        targets.sort_unstable();
        if let Some(pair) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Fail::usage(format!(
                "two mounts have the same target `{}`",
                pair[0]
            )));
        }
        for (name, text, most) in [
            ("host name", &self.hostname, 64),
            ("domain name", &self.domainname, 64),
        ] {
            if let Some(text) = text
                && (text.is_empty() || text.len() > most)
            {
                return Err(Fail::usage(format!(
                    "{name} `{text}` must have 1 to {most} bytes"
                )));
            }
        }
        for (at, one) in self.publish.iter().enumerate() {
            if let Some(port) = self.publish[..at]
                .iter()
                .find_map(|other| one.collides_with(other))
            {
                return Err(Fail::usage(format!(
                    "-p: port {port} of the host is given twice"
                )));
            }
        }
        for limit in &self.confinement.rlimits {
            if limit.soft > limit.hard {
                return Err(Fail::usage(format!(
                    "ulimit {}: the soft limit {} is above the hard limit {}",
                    limit.name, limit.soft, limit.hard
                )));
            }
        }
        Ok(())
    }
}

/// Whether `name` can name a container or volume, as docker has it: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ContainerSpec {
        ContainerSpec {
            version: VERSION,
            id: "0".repeat(64),
            name: "test".to_owned(),
            image: None,
            rootfs: Rootfs::Host,
            read_only: false,
            process: Process {
                command: Some(vec!["sh".to_owned()]),
                ..Process::default()
            },
            init: false,
            hostname: None,
            domainname: None,
            mounts: Vec::new(),
            devices: Vec::new(),
            namespaces: Namespaces::default(),
            userns: UserNs::Auto,
            network: Network::Auto,
            publish: Vec::new(),
            publish_all: false,
            expose: Vec::new(),
            egress: None,
            names: Names::default(),
            confinement: Confinement::default(),
            shm_size: 64 << 20,
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
            stop_signal: String::new(),
            remove: false,
            detached: false,
            restart: Restart::No,
            stop_timeout_s: 10,
            log: Log::default(),
            health: None,
            timeout_s: None,
            cgroup: Cgroup::default(),
            oci: None,
        }
    }

    fn words(text: &str) -> Option<Vec<String>> {
        Some(text.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn the_image_fills_what_the_user_left_open() {
        let image = ImageDefaults {
            env: vec!["A=image".to_owned()],
            entrypoint: words("/entry"),
            command: words("default args"),
            user: "app".to_owned(),
            ..ImageDefaults::default()
        };
        for (entrypoint, command, args) in [
            (None, None, "/entry default args"),
            (None, words("mine"), "/entry mine"),
            (words("/other"), None, "/other"),
            (words("/other"), words("mine"), "/other mine"),
            (words(""), words("mine"), "mine"),
        ] {
            let mut spec = spec();
            spec.process.entrypoint = entrypoint;
            spec.process.command = command;
            spec.process.env = vec!["A=mine".to_owned()];
            spec.inherit(&image);
            assert_eq!(spec.process.args().join(" "), args);
            assert_eq!(spec.process.env, ["A=image", "A=mine"]);
            assert_eq!(spec.process.user, "app");
        }
    }

    #[test]
    fn a_health_check_is_the_users_then_the_images_then_dockers() {
        let image = Health {
            command: vec!["image".to_owned()],
            timeout_ns: 7,
            ..Health::default()
        };
        let own = |command: &str, none| Health {
            command: words(command).unwrap_or_default(),
            none,
            interval_ns: 9,
            ..Health::default()
        };
        for (user, image, command) in [
            (None, None, None),
            (None, Some(&image), Some("image")),
            (Some(own("mine", false)), Some(&image), Some("mine")),
            (Some(own("", false)), Some(&image), Some("image")),
            (Some(own("", true)), Some(&image), None),
        ] {
            let mut spec = spec();
            let interval = user.as_ref().map_or(30_000_000_000, |_| 9);
            spec.health = user;
            spec.inherit_health(image);
            assert_eq!(
                spec.health
                    .as_ref()
                    .map(|health| health.command.join(" "))
                    .as_deref(),
                command
            );
            if let Some(health) = spec.health {
                let rest = (
                    health.interval_ns,
                    health.timeout_ns,
                    health.start_interval_ns,
                    health.retries,
                );
                assert_eq!(rest, (interval, 7, 5_000_000_000, 3));
            }
        }
        let mut nothing = spec();
        nothing.health = Some(own("", false));
        nothing.inherit_health(None);
        assert!(nothing.check().expect_err("refused").hints[0].contains("--health-cmd"));
    }

    #[test]
    fn the_check_names_what_is_wrong() {
        let mut no_command = spec();
        no_command.process.command = None;
        assert!(
            no_command
                .check()
                .expect_err("refused")
                .message
                .contains("no command")
        );
        let mut relative = spec();
        relative.process.cwd = "tmp".to_owned();
        assert!(
            relative
                .check()
                .expect_err("refused")
                .message
                .contains("`tmp`")
        );
        let mut long = spec();
        long.hostname = Some("x".repeat(65));
        assert!(long.check().is_err());
        assert!(spec().check().is_ok());
    }

    #[test]
    fn names_are_dockers() {
        for good in ["a", "web-1", "A_b.c"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a/b", "ä", ".a", "a b"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
