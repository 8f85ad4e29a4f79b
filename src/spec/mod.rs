//! The waist: everything that is known of one container before it is started, as plain data.
//!
//! Command-line flags, Docker API requests and OCI `config.json` files all become a [`ContainerSpec`];
//! all that is below sees nothing else. No I/O here. Field names and meanings follow the OCI runtime
//! specification (config.md, config-linux.md) where it has the thing.

mod cgroup;
mod confinement;
mod egress;
mod inherit;
mod life;
mod mounts;
mod namespaces;
mod network;
pub mod oci;
mod ports;
pub mod resources;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Fail;
pub use cgroup::{Cgroup, CgroupMode, Resources};
pub use confinement::{Confinement, Rlimit, RootEmulation, Seccomp};
pub use egress::{Allowed, Destination, Egress};
pub use inherit::ImageDefaults;
pub use life::{Health, Log, Restart};
pub use mounts::{Mount, MountSource, WritableLayer};
pub use namespaces::{Namespace, Namespaces, Shm, TimeOffsets, UserNs, is_of_ipc};
pub use network::{Joined, Names, Network};
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

fn stop_timeout() -> u32 {
    10
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

impl ContainerSpec {
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

    pub(super) fn spec() -> ContainerSpec {
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
