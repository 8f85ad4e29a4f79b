//! What the program may not do: limits, ids, capabilities, the system call filter, in the kernel's order.
//!
//! [`apply`] acts and is the last thing before execve(2); all else is pure. Hidden and read-only paths
//! are only named here: mounting is the work of the root file system.

use std::io::Write as _;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Resource;

use super::seccomp::emulation::Emulation;
use super::seccomp::{self, Filter, Machine, Target};
use crate::error::Fail;
use crate::spec::{Confinement, Rlimit, Seccomp, oci};
use crate::sys;

/// Who the program is, in ids of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id: real, effective and saved.
    pub uid: u32,
    /// Group id: real, effective and saved.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Groups,
}

/// Supplementary groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Groups {
    /// Exactly these.
    Set(Vec<u32>),
    /// As they are: asked for, or the only way because setgroups(2) is denied.
    Keep,
}

/// The kernel's capabilities; the position is the number. Source: linux/capability.h, Linux 5.9 and later.
pub const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container keeps when nothing else is said: docker's list, sorted.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Hidden by default, as docker does; [`default_masked_paths`] adds those that depend on the machine.
pub const DEFAULT_MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Not writable by default, as docker does.
pub const DEFAULT_READ_ONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The limits of `--ulimit` by docker's names.
pub const RLIMITS: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

const CAP_SYS_ADMIN: u64 = 1 << 21;

/// [`DEFAULT_MASKED_PATHS`], and the thermal counters of this machine's processors: they tell what
/// its other users do.
#[must_use]
pub fn default_masked_paths() -> Vec<String> {
    let mut paths: Vec<String> = DEFAULT_MASKED_PATHS
        .iter()
        .map(|path| (*path).to_owned())
        .collect();
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default(); // no /sys, no counters
    for cpu in cpu_list(&possible) {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle");
        if std::path::Path::new(&path).exists() {
            paths.push(path);
        }
    }
    paths
}

/// The kernel's list format: `0-3,5`.
fn cpu_list(text: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        Some(first..=last.min(8191))
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// The capabilities of a container, sorted: docker's default, `drop` taken away, `add` put in.
///
/// Names are taken with or without `CAP_` and in any case; `ALL` stands for all of them. What is both
/// added and dropped by its name stays, as in docker; after `--cap-add ALL` or `privileged`, `drop` counts.
///
/// # Errors
/// [`crate::error::Kind::Usage`] for an unknown name, with the nearest known ones.
pub fn resolve(add: &[String], drop: &[String], privileged: bool) -> Result<Vec<String>, Fail> {
    let add = Names::parse(add)?;
    let drop = Names::parse(drop)?;
    let keep = |name: &&str| {
        if privileged || add.all {
            !drop.names.contains(name)
        } else if drop.all {
            add.names.contains(name)
        } else {
            add.names.contains(name)
                || (DEFAULT_CAPABILITIES.contains(name) && !drop.names.contains(name))
        }
    };
    let mut kept: Vec<String> = CAPABILITIES
        .into_iter()
        .filter(keep)
        .map(str::to_owned)
        .collect();
    kept.sort_unstable();
    Ok(kept)
}

#[derive(Debug, Default)]
struct Names {
    all: bool,
    names: Vec<&'static str>,
}

impl Names {
    fn parse(given: &[String]) -> Result<Self, Fail> {
        let mut names = Self::default();
        for text in given {
            let upper = text.trim().to_ascii_uppercase();
            if matches!(upper.as_str(), "ALL" | "CAP_ALL") {
                names.all = true;
                continue;
            }
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            let known = CAPABILITIES.into_iter().find(|known| &known[4..] == bare);
            names.names.push(known.ok_or_else(|| unknown(text, bare))?);
        }
        Ok(names)
    }
}

fn unknown(text: &str, bare: &str) -> Fail {
    let known = CAPABILITIES.map(|known| &known[4..]);
    let distance = |known: &str| {
        // `PTRACE` means SYS_PTRACE, however many letters are missing.
        if bare.len() > 3 && known.contains(bare) {
            0
        } else {
            edits(bare, known)
        }
    };
    let best = known.into_iter().map(distance).min().unwrap_or(usize::MAX);
    let near: Vec<String> = known
        .into_iter()
        .filter(|known| distance(known) == best && best <= 1 + known.len() / 4)
        .take(3)
        .map(|known| format!("`{known}`"))
        .collect();
    let fail = Fail::usage(format!("there is no capability `{text}`"));
    if near.is_empty() {
        fail.hint("capabilities(7) lists them all; write them with or without `CAP_`")
    } else {
        fail.hint(format!("did you mean {}?", near.join(" or ")))
    }
}

/// The Levenshtein distance of two short ASCII words.
fn edits(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

/// One `--ulimit`: `nofile=1024` or `nofile=1024:2048`; -1 is unlimited.
///
/// # Errors
/// [`crate::error::Kind::Usage`]: another shape, an unknown name, soft above hard.
pub fn parse_ulimit(text: &str) -> Result<Rlimit, Fail> {
    let shape = || {
        Fail::usage(format!("`{text}` is not a limit"))
            .hint("write NAME=SOFT or NAME=SOFT:HARD, such as nofile=1024:2048; -1 is unlimited")
    };
    let (name, values) = text.split_once('=').ok_or_else(shape)?;
    let value = |text: &str| match text {
        "-1" | "unlimited" => Some(u64::MAX),
        _ => text.parse().ok(),
    };
    let name = name.to_ascii_lowercase();
    if !RLIMITS.iter().any(|(known, _)| *known == name) {
        let known: Vec<&str> = RLIMITS.iter().map(|(known, _)| *known).collect();
        return Err(Fail::usage(format!("there is no limit `{name}`"))
            .hint(format!("known are {}", known.join(", "))));
    }
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let soft = value(soft).ok_or_else(shape)?;
    let hard = value(hard).ok_or_else(shape)?;
    if soft > hard {
        return Err(Fail::usage(format!(
            "`{text}`: the soft limit is above the hard limit"
        )));
    }
    Ok(Rlimit { name, soft, hard })
}

/// Takes the descriptor by which somebody answers what a filter asks, and returns when somebody will look.
pub type Answer<'a> = &'a mut dyn FnMut(OwnedFd) -> Result<()>;

/// Gives up everything that the program is not to have. The caller has one thread and all
/// capabilities in its own user namespace, and executes the program next. `emulation` is what root only appears to do; in full,
/// `answer` gets the listener of the calls that are judged.
///
/// # Errors
/// A limit that cannot be raised (with the highest possible), an id that is not mapped, a profile
/// that is wrong, and whatever the kernel refuses.
pub fn apply(
    confinement: &Confinement,
    identity: &Identity,
    emulation: Option<&Emulation>,
    answer: Answer<'_>,
) -> Result<()> {
    let filter = filter(confinement, false)?;
    give_up(confinement, identity, emulation, filter, answer)
}

/// As [`apply`], of a profile that asks somebody: `answer` gets the other end.
///
/// # Errors
/// As [`apply`], and those of `answer`.
pub fn apply_answered(
    confinement: &Confinement,
    identity: &Identity,
    answer: Answer<'_>,
) -> Result<()> {
    let filter = filter(confinement, true)?;
    give_up(confinement, identity, None, filter, answer)
}

/// The limits alone: what can fail long before the program starts.
///
/// # Errors
/// A limit that cannot be raised.
pub fn limits(confinement: &Confinement) -> Result<()> {
    if let Some(score) = confinement.oom_score_adj {
        oom_score_adj(score)?;
    }
    confinement.rlimits.iter().try_for_each(rlimit)
}

/// All of it, with the filter that was asked for.
fn give_up(
    confinement: &Confinement,
    identity: &Identity,
    emulation: Option<&Emulation>,
    filter: Option<Filter>,
    answer: Answer<'_>,
) -> Result<()> {
    let full = emulation.is_some_and(Emulation::is_full);
    // Who the program is, is then known to the one who judges; this process is the root that there is.
    let real = if full { &ROOT } else { identity };
    // First what reads or allocates freely: a limit may forbid it later.
    let emulated = emulation.map(|absent| absent.filter(Machine::HERE, &confinement.capabilities));
    limits(confinement)?;
    let kept = mask(&confinement.capabilities)?;
    let existing = drop_bounding_set(kept)?;

    set_ids(real, sys::confine::keep_capabilities)?;
    if full {
        // The number of who a process seems to be: 0 is root.
        sys::notify::begin_as_root()?;
    }

    // Without no_new_privs, only CAP_SYS_ADMIN may load a filter (seccomp(2)). It is gone with execve(2),
    // which gives root the bounding set and everybody else nothing: there is no ambient capability.
    let filters = [emulated, filter].into_iter().flatten();
    let load = if filters.clone().count() > 0 && !confinement.no_new_privileges {
        CAP_SYS_ADMIN
    } else {
        0
    };
    let own = if real.uid == 0 { kept & existing } else { 0 };
    let permitted = sys::confine::permitted_capabilities()?;
    sys::confine::clear_ambient_set()?;
    match &confinement.capability_sets {
        None => sys::confine::capset((own | load) & permitted)?,
        Some(sets) => each_set(sets, load, permitted)?,
    }
    if confinement.no_new_privileges {
        sys::confine::no_new_privs()?;
    }
    // The profile comes last: of two answers with an error number the later filter's counts, so that what the profile
    // refuses stays refused. What it kills, traps or traces does not get as far as an error number (seccomp(2)).
    for filter in filters {
        if let Some(listener) = load_filter(&filter)? {
            answer(listener)?;
            if full {
                set_ids(identity, || Ok(()))?;
            }
        }
    }
    Ok(())
}

/// The five sets as they were asked for, as far as they can be had: the specification says that a container starts
/// without those that its runtime does not have.
fn each_set(sets: &oci::Capabilities, load: u64, had: u64) -> Result<()> {
    let of = |names: &[String]| mask(names).map(|mask| mask & had);
    let (effective, permitted) = (of(&sets.effective)?, of(&sets.permitted)?);
    // What is in no bounding set cannot become inheritable (capset(2)).
    let inheritable = of(&sets.inheritable)? & mask(&sets.bounding)?;
    sys::confine::capset_each(
        (effective & permitted) | (load & had),
        permitted | (load & had),
        inheritable,
    )?;
    let ambient = of(&sets.ambient)? & permitted & inheritable;
    for number in (0..63).filter(|number| ambient & (1 << number) != 0) {
        sys::confine::raise_ambient(number)?;
    }
    Ok(())
}

/// The root of a container with one id.
const ROOT: Identity = Identity {
    uid: 0,
    gid: 0,
    groups: Groups::Keep,
};

/// Groups first, for they need root's rights; `between` comes right before these may go.
fn set_ids(identity: &Identity, between: impl FnOnce() -> sys::Result<()>) -> Result<()> {
    if let Groups::Set(groups) = &identity.groups {
        sys::confine::setgroups(groups)
            .map_err(|error| id_failure(error, "supplementary groups", groups))?;
    }
    sys::confine::setresgid(identity.gid)
        .map_err(|error| id_failure(error, "the group id", &[identity.gid]))?;
    between()?;
    sys::confine::setresuid(identity.uid)
        .map_err(|error| id_failure(error, "the user id", &[identity.uid]))
}

/// The filter that was asked for. A privileged container has one only when a profile was named.
fn filter(confinement: &Confinement, answered: bool) -> Result<Option<Filter>> {
    let release = rustix::system::uname();
    let target = Target {
        machine: Machine::HERE,
        capabilities: &confinement.capabilities,
        kernel: kernel_version(&release.release().to_string_lossy()),
        answered,
    };
    Ok(match &confinement.seccomp {
        Seccomp::Unconfined => None,
        Seccomp::Default if confinement.privileged => None,
        Seccomp::Default => Some(seccomp::default_filter(&target)?),
        Seccomp::Profile { json } => Some(seccomp::compile(json, &target)?),
    })
}

/// Version and patch level of a release such as `6.1.0-13-amd64`; zeros for what is not a number.
#[must_use]
pub fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Returns the listener of a filter that has one.
fn load_filter(filter: &Filter) -> Result<Option<OwnedFd>> {
    let log = if filter.log {
        libc::SECCOMP_FILTER_FLAG_LOG
    } else {
        0
    };
    let speed = if filter.spec_allow {
        libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
    } else {
        0
    };
    if filter.notifies {
        // Whom the other side has heard is not woken by any signal but a deadly one. KERNEL(5.19): unknown before.
        let patient = if filter.wait_killable {
            libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
        } else {
            0
        };
        let listener = match sys::notify::listen(&filter.program, log | speed | patient) {
            Err(error) if error.errno == Errno::INVAL && patient != 0 => {
                sys::notify::listen(&filter.program, log | speed)
            }
            done => done,
        };
        return listener.map(Some).map_err(|error| {
            let busy = error.errno == Errno::BUSY;
            let error = anyhow::Error::from(error);
            if busy {
                return error.context(
                    Fail::unsupported("another program judges the system calls here already")
                        .hint("inside a container whose root is emulated in full: use --root-emulation=basic"),
                );
            }
            error.context("loading the system call filter that notifies")
        });
    }
    match sys::confine::seccomp(&filter.program, log | speed) {
        // Before Linux 4.17 the second flag is unknown, and what it asks for is the rule.
        Err(error) if error.errno == Errno::INVAL && speed != 0 => {
            sys::confine::seccomp(&filter.program, log)
        }
        done => done,
    }
    .context("loading the system call filter")?;
    Ok(None)
}

/// Bit n for capability n.
fn mask(names: &[String]) -> Result<u64, Fail> {
    names.iter().try_fold(0, |mask, name| {
        let number = CAPABILITIES.iter().position(|known| known == name);
        let number = number.ok_or_else(|| unknown(name, name.trim_start_matches("CAP_")))?;
        Ok(mask | 1 << number)
    })
}

/// Takes all but `kept` from the bounding set; returns the capabilities that this kernel knows.
fn drop_bounding_set(kept: u64) -> Result<u64> {
    let mut existing = 0;
    for number in 0..63 {
        let Some(there) = sys::confine::bounding_set_has(number)? else {
            break;
        };
        existing |= 1 << number;
        if there && kept & (1 << number) == 0 {
            sys::confine::drop_from_bounding_set(number)?;
        }
    }
    Ok(existing)
}

fn rlimit(limit: &Rlimit) -> Result<()> {
    let known = RLIMITS.iter().find(|(name, _)| *name == limit.name);
    let (name, resource) =
        known.ok_or_else(|| Fail::usage(format!("there is no limit `{}`", limit.name)))?;
    let value = |number: u64| (number != u64::MAX).then_some(number);
    let refused = match sys::confine::setrlimit(*resource, value(limit.soft), value(limit.hard)) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    if refused.errno != Errno::PERM {
        return Err(refused.into());
    }
    let highest = rustix::process::getrlimit(*resource).maximum;
    let shown = |number: Option<u64>| number.map_or("unlimited".to_owned(), |n| n.to_string());
    let fail = Fail::denied(format!(
        "the hard limit of {name} cannot be {}: the highest possible here is {}",
        shown(value(limit.hard)),
        shown(highest)
    ))
    .hint(format!("use --ulimit {name}={}", highest.map_or(-1, |n| i64::try_from(n).unwrap_or(-1))))
    .hint("an administrator can raise it in /etc/security/limits.conf, or in the service or batch system you are logged in by")
    .code("RL-K05");
    Err(anyhow::Error::from(refused).context(fail))
}

fn oom_score_adj(score: i32) -> Result<()> {
    let path = "/proc/self/oom_score_adj";
    let failed = |errno| sys::Error::new(format!("write({path:?}, {score})"), errno);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstatfs(&fd).map_err(failed)?;
    // An image could have put a file of its own where /proc is missing.
    if stat.f_type != rustix::fs::PROC_SUPER_MAGIC {
        return Err(Fail::unsupported("--oom-score-adj needs /proc inside the container").into());
    }
    let mut file = std::fs::File::from(fd);
    let Err(error) = file.write_all(score.to_string().as_bytes()) else {
        return Ok(());
    };
    let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let failed = anyhow::Error::from(failed(errno));
    if errno != Errno::ACCESS {
        return Err(failed);
    }
    let now = std::fs::read_to_string(path).unwrap_or_default(); // only for the message
    Err(failed.context(
        Fail::denied(format!(
            "--oom-score-adj cannot be {score}: without root it only rises"
        ))
        .hint(format!("the lowest possible here is {}", now.trim())),
    ))
}

/// An id that the user namespace does not have is `EINVAL`, which says nothing to anybody.
fn id_failure(error: sys::Error, what: &str, ids: &[u32]) -> anyhow::Error {
    if error.errno != Errno::INVAL {
        return error.into();
    }
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    let fail = Fail::unsupported(format!(
        "{what} {} cannot be used: the container has no such id",
        ids.join(", ")
    ))
    .hint("`rl doctor` shows how many ids you have, and how to get more")
    .code("RL-S04");
    anyhow::Error::from(error).context(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &str) -> Vec<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_docker_does() {
        let default = DEFAULT_CAPABILITIES.join(" ");
        let without_raw = default.replace("CAP_NET_RAW ", "");
        let with_admin = default.replace("CAP_SYS_CHROOT", "CAP_SYS_ADMIN CAP_SYS_CHROOT");
        let cases = [
            ("", "", default.as_str()),
            ("", "net_raw", &without_raw),
            ("sys_admin", "", &with_admin),
            ("CAP_SYS_ADMIN Sys_Admin", "", &with_admin),
            ("NET_RAW", "net_raw", &default),
            ("", "ALL", ""),
            ("chown kill", "all", "CAP_CHOWN CAP_KILL"),
        ];
        for (add, drop, expected) in cases {
            let resolved = resolve(&strings(add), &strings(drop), false).unwrap();
            assert_eq!(resolved, strings(expected), "+{add} -{drop}");
        }
        assert_eq!(resolve(&strings("ALL"), &[], false).unwrap().len(), 41);
        assert_eq!(resolve(&[], &[], true).unwrap().len(), 41);
        let most = resolve(&strings("all"), &strings("CAP_BPF"), false).unwrap();
        assert!(most.len() == 40 && !most.contains(&"CAP_BPF".to_owned()));
    }

    #[test]
    fn an_unknown_capability_is_refused_with_the_nearest() {
        let cases = [
            ("SYS_ADMN", "did you mean `SYS_ADMIN`?"),
            ("cap_netraw", "did you mean `NET_RAW`?"),
            ("PTRACE", "did you mean `SYS_PTRACE`?"),
            (
                "flying",
                "capabilities(7) lists them all; write them with or without `CAP_`",
            ),
        ];
        for (name, hint) in cases {
            let fail = resolve(&strings(name), &[], false).unwrap_err();
            assert_eq!(fail.message, format!("there is no capability `{name}`"));
            assert_eq!(fail.hints, [hint]);
        }
    }

    #[test]
    fn the_tables_are_sound() {
        assert_eq!(CAPABILITIES[21], "CAP_SYS_ADMIN");
        assert_eq!(mask(&strings("CAP_SYS_ADMIN")).unwrap(), CAP_SYS_ADMIN);
        assert!(DEFAULT_CAPABILITIES.is_sorted());
        assert!(
            DEFAULT_CAPABILITIES
                .iter()
                .all(|name| CAPABILITIES.contains(name))
        );
        assert!(mask(&strings("CAP_NONSENSE")).is_err());
    }

    #[test]
    fn limits_are_read_as_docker_writes_them() {
        let unlimited = u64::MAX;
        let good = [
            ("nofile=1024", ("nofile", 1024, 1024)),
            ("nofile=1024:2048", ("nofile", 1024, 2048)),
            ("core=0:-1", ("core", 0, unlimited)),
            ("CORE=-1", ("core", unlimited, unlimited)),
        ];
        for (text, (name, soft, hard)) in good {
            let name = name.to_owned();
            assert_eq!(
                parse_ulimit(text).unwrap(),
                Rlimit { name, soft, hard },
                "{text}"
            );
        }
        for bad in [
            "nofile",
            "nofile=",
            "nofile=x",
            "nofile=1:2:3",
            "files=1",
            "nofile=2:1",
            "core=-1:5",
            "nofile=-2",
        ] {
            assert!(parse_ulimit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_and_processor_lists_are_parsed() {
        assert_eq!(kernel_version("6.1.0-13-amd64"), (6, 1));
        assert_eq!(kernel_version("5.15-generic"), (5, 15));
        assert_eq!(kernel_version("strange"), (0, 0));
        assert_eq!(cpu_list("0-2,5\n"), [0, 1, 2, 5]);
        assert!(cpu_list("").is_empty());
    }
}
