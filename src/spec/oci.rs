//! What only an OCI `config.json` can ask for: the part of a container that has no word on our command line. Pure.
//!
//! Names and meanings are those of the OCI runtime specification 1.2 (config.md, config-linux.md). What both worlds
//! know (host name, arguments, sysctls, masked paths, …) stands in [`super::ContainerSpec`] itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The rest of a `config.json`, checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Oci {
    /// `ociVersion`, as it was written.
    pub version: String,
    /// The bundle's directory, absolute.
    pub bundle: PathBuf,
    /// `linux.namespaces`, each kind once. What is not listed is the runtime's own.
    pub namespaces: Vec<Namespace>,
    /// `linux.uidMappings`.
    pub uid_mappings: Vec<IdMapping>,
    /// `linux.gidMappings`.
    pub gid_mappings: Vec<IdMapping>,
    /// `linux.timeOffsets`, by the name of the clock: `monotonic`, `boottime`.
    pub time_offsets: BTreeMap<String, TimeOffset>,
    /// `mounts`, in order.
    pub mounts: Vec<Mount>,
    /// `linux.rootfsPropagation`.
    pub propagation: Option<Propagation>,
    /// `linux.devices`.
    pub devices: Vec<Node>,
    /// `process.user`.
    pub user: User,
    /// `process.consoleSize`.
    pub console_size: Option<ConsoleSize>,
    /// `process.apparmorProfile`.
    pub apparmor: Option<String>,
    /// `process.scheduler`.
    pub scheduler: Option<Scheduler>,
    /// `process.ioPriority`.
    pub io_priority: Option<IoPriority>,
    /// `process.execCPUAffinity`: only for what joins the container.
    pub affinity: Option<Affinity>,
    /// `hooks`.
    pub hooks: Hooks,
    /// `linux.seccomp.listenerPath` and what is told there.
    pub seccomp_listener: Option<Listener>,
    /// `linux.personality`.
    pub personality: Option<Personality>,
    /// `linux.netDevices`: the host's name of an interface, and its name inside.
    pub net_devices: BTreeMap<String, NetDevice>,
    /// `--no-pivot`: the root is moved and entered by chroot(2).
    pub no_pivot: bool,
    /// `--no-new-keyring`: the caller's session keyring stays.
    pub no_new_keyring: bool,
    /// It ends when the `rl runtime run` that waits for it is killed.
    pub tied: bool,
}

impl Oci {
    /// The entry of a kind, when it is listed.
    #[must_use]
    pub fn namespace(&self, kind: Kind) -> Option<&Namespace> {
        self.namespaces.iter().find(|one| one.kind == kind)
    }

    /// Whether the container gets a new namespace of this kind.
    #[must_use]
    pub fn makes(&self, kind: Kind) -> bool {
        self.namespace(kind).is_some_and(|one| one.path.is_none())
    }
}

/// The kinds of namespaces, by the specification's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it: namespaces(7)")]
pub enum Kind {
    User,
    Mount,
    Pid,
    Network,
    Ipc,
    Uts,
    Cgroup,
    Time,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::User,
        Self::Mount,
        Self::Pid,
        Self::Network,
        Self::Ipc,
        Self::Uts,
        Self::Cgroup,
        Self::Time,
    ];

    /// Its name in `config.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::User => "user",
            Kind::Mount => "mount",
            Kind::Pid => "pid",
            Kind::Network => "network",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
            Kind::Cgroup => "cgroup",
            Kind::Time => "time",
        }
    }

    /// Its file in `/proc/PID/ns`.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Kind::Mount => "mnt",
            Kind::Network => "net",
            Kind::User | Kind::Pid | Kind::Ipc | Kind::Uts | Kind::Cgroup | Kind::Time => {
                self.name()
            }
        }
    }
}

/// One entry of `linux.namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// `type`.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The file that names the one to join; a new one without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// One line of an id map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdMapping {
    /// The first id inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// The first id outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// How far a clock of a new time namespace is ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeOffset {
    /// Seconds.
    pub secs: i64,
    /// Billionths of a second on top.
    pub nanosecs: u32,
}

/// How mounts propagate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propagation {
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE` of mount(2).
    pub flag: u64,
    /// The mounts below too.
    pub recursive: bool,
}

/// One entry of `mounts`, with its options sorted out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// `destination`, absolute inside.
    pub target: String,
    /// `type`; `bind` for a bind mount whatever was written.
    pub kind: String,
    /// `source`; absolute on the host for a bind mount.
    pub source: String,
    /// What the options say.
    pub options: Options,
    /// `uidMappings` of an id-mapped mount.
    pub uid_mappings: Vec<IdMapping>,
    /// `gidMappings` of an id-mapped mount.
    pub gid_mappings: Vec<IdMapping>,
}

/// The options of a mount. Source: config.md, "Linux mount options".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// `bind` or `rbind`; whether the mounts below come along.
    pub bind: Option<bool>,
    /// `remount`: only the attributes of what is there change.
    pub remount: bool,
    /// `MOUNT_ATTR_*` of mount_setattr(2) that are set on this mount.
    pub set: u64,
    /// Those that are taken away.
    pub clear: u64,
    /// Those that are set on this mount and all below.
    pub set_all: u64,
    /// Those that are taken away from this mount and all below.
    pub clear_all: u64,
    /// `rw` was written: a wish that a read-only source does not have to fulfil.
    pub writable: bool,
    /// Flags of the file system itself: `sync`, `dirsync`, `lazytime`, …
    pub flags: Vec<String>,
    /// Propagations, in order.
    pub propagation: Vec<Propagation>,
    /// `tmpcopyup`: what the root has at the target is copied in.
    pub copy_up: bool,
    /// `idmap` or `ridmap`; whether the mounts below are meant too.
    pub idmap: Option<bool>,
    /// What the file system itself is told: `size=64m`.
    pub data: Vec<String>,
}

/// Source: linux/mount.h.
const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x0020_0000;

/// Name, what it sets, what it clears. The access time is a field, not a bit: `relatime` is the value 0.
const ATTRIBUTES: [(&str, u64, u64); 18] = [
    ("ro", RDONLY, 0),
    ("rw", 0, RDONLY),
    ("nosuid", NOSUID, 0),
    ("suid", 0, NOSUID),
    ("nodev", NODEV, 0),
    ("dev", 0, NODEV),
    ("noexec", NOEXEC, 0),
    ("exec", 0, NOEXEC),
    ("noatime", NOATIME, ATIME),
    ("atime", 0, ATIME),
    ("relatime", 0, ATIME),
    ("norelatime", 0, ATIME),
    ("strictatime", STRICTATIME, ATIME),
    ("nostrictatime", 0, ATIME),
    ("nodiratime", NODIRATIME, 0),
    ("diratime", 0, NODIRATIME),
    ("nosymfollow", NOSYMFOLLOW, 0),
    ("symfollow", 0, NOSYMFOLLOW),
];

/// Source: sys/mount.h.
const PROPAGATIONS: [(&str, u64); 4] = [
    ("unbindable", 1 << 17),
    ("private", 1 << 18),
    ("slave", 1 << 19),
    ("shared", 1 << 20),
];

/// Flags that a file system is told by their names. Source: fsconfig(2), fs/fs_context.c.
const FLAGS: [&str; 10] = [
    "async",
    "dirsync",
    "iversion",
    "lazytime",
    "mand",
    "noiversion",
    "nolazytime",
    "nomand",
    "silent",
    "sync",
];

/// Words that ask for nothing.
const NOTHING: [&str; 4] = ["acl", "defaults", "loud", "noacl"];

impl Options {
    /// Sorts out the words. What is no known option is the file system's.
    #[must_use]
    pub fn parse(words: &[String]) -> Self {
        let mut options = Self::default();
        for word in words {
            options.take(word);
        }
        options
    }

    fn take(&mut self, word: &str) {
        match word {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(false),
            "ridmap" => self.idmap = Some(true),
            _ if NOTHING.contains(&word) => {}
            _ if FLAGS.contains(&word) => self.flags.push(word.to_owned()),
            _ => {
                if let Some((set, clear)) = attribute(word) {
                    self.writable = (self.writable && word != "ro") || word == "rw";
                    self.set = (self.set & !clear) | set;
                    self.clear = (self.clear & !set) | clear;
                } else if let Some((set, clear)) = word.strip_prefix('r').and_then(attribute) {
                    self.set_all = (self.set_all & !clear) | set;
                    self.clear_all = (self.clear_all & !set) | clear;
                } else if let Some(propagation) = Propagation::parse(word) {
                    self.propagation.push(propagation);
                } else {
                    self.data.push(word.to_owned());
                }
            }
        }
    }

    /// Every word that has a meaning of its own, sorted: what `features` lists.
    #[must_use]
    pub fn known() -> Vec<String> {
        let mut all: Vec<String> = ATTRIBUTES
            .iter()
            .flat_map(|(name, ..)| [(*name).to_owned(), format!("r{name}")])
            .collect();
        for (name, _) in PROPAGATIONS {
            all.extend([name.to_owned(), format!("r{name}")]);
        }
        all.extend(FLAGS.iter().chain(&NOTHING).map(|word| (*word).to_owned()));
        for word in ["bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap"] {
            all.push(word.to_owned());
        }
        all.sort_unstable();
        all
    }
}

fn attribute(word: &str) -> Option<(u64, u64)> {
    let found = ATTRIBUTES.iter().find(|(name, ..)| *name == word);
    found.map(|(_, set, clear)| (*set, *clear))
}

impl Propagation {
    /// `private`, `rslave` and the like.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        let flag = |name: &str| {
            let found = PROPAGATIONS.iter().find(|(known, _)| *known == name);
            found.map(|(_, flag)| *flag)
        };
        let of = |name: &str, recursive| flag(name).map(|flag| Self { flag, recursive });
        of(word, false).or_else(|| of(word.strip_prefix('r')?, true))
    }
}

/// One entry of `linux.devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// `c`, `u`, `b` or `p`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it stands inside.
    pub path: String,
    /// Major number; not for `p`.
    pub major: Option<u32>,
    /// Minor number; not for `p`.
    pub minor: Option<u32>,
    /// Permissions; 0666 by default.
    pub file_mode: Option<u32>,
    /// Its owner inside.
    pub uid: Option<u32>,
    /// Its group inside.
    pub gid: Option<u32>,
}

/// `process.user`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// File mode creation mask; 0022 by default.
    pub umask: Option<u32>,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
}

/// `process.capabilities`: names of the five sets of capabilities(7).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names say it: capabilities(7)")]
pub struct Capabilities {
    pub bounding: Vec<String>,
    pub effective: Vec<String>,
    pub permitted: Vec<String>,
    pub inheritable: Vec<String>,
    pub ambient: Vec<String>,
}

impl Capabilities {
    /// Each set by its name.
    #[must_use]
    pub fn sets(&self) -> [(&'static str, &[String]); 5] {
        [
            ("bounding", &self.bounding),
            ("effective", &self.effective),
            ("permitted", &self.permitted),
            ("inheritable", &self.inheritable),
            ("ambient", &self.ambient),
        ]
    }
}

/// `process.consoleSize`, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ConsoleSize {
    pub height: u16,
    pub width: u16,
}

/// `process.scheduler`. Source: sched_setattr(2).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    /// `SCHED_OTHER` and the like.
    pub policy: String,
    /// For `SCHED_OTHER` and `SCHED_BATCH`, -20 to 19.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`, 1 to 99.
    pub priority: i32,
    /// `SCHED_FLAG_*`.
    pub flags: Vec<String>,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub runtime: u64,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub deadline: u64,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub period: u64,
}

/// The policies by name and number. Source: linux/sched.h.
pub const POLICIES: [(&str, u32); 6] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

/// The flags by name and bit. Source: linux/sched.h.
pub const SCHEDULER_FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// `process.ioPriority`. Source: ioprio_set(2).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IoPriority {
    /// One of [`IO_CLASSES`].
    pub class: String,
    /// 0 to 7.
    pub priority: u32,
}

/// The classes by name and number.
pub const IO_CLASSES: [(&str, u32); 3] = [
    ("IOPRIO_CLASS_RT", 1),
    ("IOPRIO_CLASS_BE", 2),
    ("IOPRIO_CLASS_IDLE", 3),
];

/// `process.execCPUAffinity`: lists such as `0-3,7`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Affinity {
    /// Before the process is in the container's group.
    #[serde(rename = "initial", skip_serializing_if = "Option::is_none")]
    pub initial: Option<String>,
    /// Afterwards.
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// `hooks`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Deprecated; before `createRuntime`.
    pub prestart: Vec<Hook>,
    /// In the runtime's namespaces, when the container's are there.
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before its root is entered.
    pub create_container: Vec<Hook>,
    /// Inside, before the program.
    pub start_container: Vec<Hook>,
    /// In the runtime's namespaces, when the program runs.
    pub poststart: Vec<Hook>,
    /// In the runtime's namespaces, after the container was deleted.
    pub poststop: Vec<Hook>,
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute path of the program.
    pub path: String,
    /// Its words, the first included; the path alone without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// `NAME=value`: its whole environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Seconds after which it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

/// Where the descriptor of a filter that notifies is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Listener {
    /// A socket of the host.
    pub path: PathBuf,
    /// What is told along with it.
    pub metadata: String,
}

/// `linux.personality`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Personality {
    /// `LINUX` or `LINUX32`.
    pub domain: String,
}

/// One entry of `linux.netDevices`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetDevice {
    /// Its name inside; the host's without.
    pub name: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Options {
        let words: Vec<String> = text.split(',').map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn options_are_sorted_out() {
        let bind = parsed("rbind,ro,nosuid,rprivate,rro");
        assert_eq!(bind.bind, Some(true));
        assert_eq!((bind.set, bind.set_all), (RDONLY | NOSUID, RDONLY));
        assert!(!bind.writable);
        assert_eq!(bind.propagation, [Propagation::parse("rprivate").unwrap()]);
        let tmpfs = parsed("nosuid,strictatime,mode=755,size=65536k,tmpcopyup,sync");
        assert_eq!(tmpfs.data, ["mode=755", "size=65536k"]);
        assert_eq!(tmpfs.flags, ["sync"]);
        assert_eq!((tmpfs.set, tmpfs.clear), (NOSUID | STRICTATIME, ATIME));
        assert!(tmpfs.copy_up);
        // The later word wins.
        let both = parsed("ro,rw");
        assert_eq!((both.set, both.clear, both.writable), (0, RDONLY, true));
        let both = parsed("rw,ro");
        assert_eq!((both.set, both.clear, both.writable), (RDONLY, 0, false));
        // `ratime` is the recursive `atime`, `relatime` is no recursive anything.
        assert_eq!(parsed("ratime").clear_all, ATIME);
        assert_eq!(parsed("relatime").clear, ATIME);
        assert_eq!(parsed("rrelatime").clear_all, ATIME);
        assert_eq!(parsed("ridmap").idmap, Some(true));
    }

    #[test]
    fn every_word_that_features_lists_is_no_data() {
        for word in Options::known() {
            assert_eq!(parsed(&word).data, Vec::<String>::new(), "{word}");
        }
    }

    #[test]
    fn propagations_have_a_recursive_kin() {
        let slave = Propagation::parse("rslave").unwrap();
        assert_eq!((slave.flag, slave.recursive), (1 << 19, true));
        assert_eq!(Propagation::parse("shared").unwrap().flag, 1 << 20);
        assert_eq!(Propagation::parse("rec"), None);
    }
}
