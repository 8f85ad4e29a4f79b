//! What a group uses, how hard it is pressed, and what bounds it. Reads only.
//!
//! Parsers over the kernel's files, and functions that read the files of one directory. A file that is not there
//! (a controller that was not handed down, an older kernel, a group that has gone) is `None`, never 0. Sources:
//! the kernel's `admin-guide/cgroup-v2.rst` and `accounting/psi.rst`; cgroups(7), proc_pid_net(5).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where version 2 is mounted, and which part of the tree that mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The mount point.
    top: PathBuf,
    /// The group that the mount point is; `/` but in containers.
    root: String,
}

impl Tree {
    /// The first cgroup2 mount; none where only version 1 is mounted.
    #[must_use]
    pub fn find() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/mountinfo").ok()?)
    }

    /// Source: proc_pid_mountinfo(5).
    fn parse(mountinfo: &str) -> Option<Self> {
        mountinfo.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            if after.split(' ').next() != Some("cgroup2") {
                return None;
            }
            let mut fields = before.split(' ').skip(3);
            Some(Self {
                root: fields.next()?.to_owned(),
                top: PathBuf::from(fields.next()?),
            })
        })
    }

    /// The mount point, above which nothing can be seen.
    #[must_use]
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// The directory of the group that this process is in; none when it lies outside of what is mounted.
    #[must_use]
    pub fn of_process(&self, pid: i32) -> Option<PathBuf> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        self.directory(group(&text)?)
    }

    /// The directory of the group with this path, as `/proc/PID/cgroup` writes it.
    #[must_use]
    pub fn directory(&self, group: &str) -> Option<PathBuf> {
        let below = group.strip_prefix(self.root.trim_end_matches('/'))?;
        if !(below.is_empty() || below.starts_with('/')) || below.split('/').any(|one| one == "..")
        {
            return None;
        }
        Some(match below.trim_matches('/') {
            "" => self.top.clone(),
            below => self.top.join(below),
        })
    }
}

/// The path of the version 2 group in the text of `/proc/PID/cgroup`.
#[must_use]
pub fn group(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    // A group that was removed under its last process.
    Some(path.strip_suffix(" (deleted)").unwrap_or(path))
}

/// The container's own group, when this process is in it or below it: the part of the path down to the last
/// component that has the container's whole id. A scope of systemd's has it too, and the monitor beside the group.
#[must_use]
pub fn own(directory: &Path, id: &str) -> Option<PathBuf> {
    if id.is_empty() {
        return None;
    }
    let holds = |path: &&Path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().contains(id))
    };
    directory.ancestors().find(holds).map(Path::to_owned)
}

/// What one group and those below it use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Block devices.
    pub io: Option<Io>,
    /// How often memory was short.
    pub events: Option<Events>,
    /// What its processes wait for.
    pub pressure: Pressure,
}

/// `cpu.stat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Time used, in microseconds.
    pub used_us: u64,
    /// Of it in programs, in microseconds.
    pub user_us: u64,
    /// Of it in the kernel, in microseconds.
    pub system_us: u64,
    /// Time that a limit has withheld, in microseconds; none without the controller.
    pub throttled_us: Option<u64>,
}

/// `memory.current` and `memory.stat`, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is charged, page cache with it.
    pub charged: u64,
    /// Page cache; none where only the processes were asked.
    pub cache: Option<u64>,
    /// Page cache that nobody has used for a while, and that goes first.
    pub inactive_cache: u64,
    /// The programs' own: heaps and stacks.
    pub anonymous: u64,
}

impl Memory {
    /// What docker shows: without the page cache that goes first. Source: docker/cli, `calculateMemUsageUnixNoCache`.
    #[must_use]
    pub fn used(&self) -> u64 {
        match self.charged.checked_sub(self.inactive_cache) {
            Some(used) if self.inactive_cache < self.charged => used,
            _ => self.charged,
        }
    }
}

/// `io.stat`, all devices together, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Io {
    /// Read.
    pub read: u64,
    /// Written.
    pub written: u64,
}

/// `memory.events`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Events {
    /// Times that it was slowed down at `memory.high`.
    pub high: u64,
    /// Times that it stood at `memory.max`.
    pub max: u64,
    /// Processes that were killed.
    pub oom_kill: u64,
}

/// The three pressures; none without an own group, or on a kernel that does not keep them (`psi=0`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// `cpu.pressure`.
    pub cpu: Option<Stall>,
    /// `memory.pressure`.
    pub memory: Option<Stall>,
    /// `io.pressure`.
    pub io: Option<Stall>,
}

/// How much of the last ten seconds was lost, in hundredths of a percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stall {
    /// At least one task waited.
    pub some: u32,
    /// All of them did; none where the kernel does not say (cpu before 5.13).
    pub full: Option<u32>,
}

/// Reads everything of the group `directory`.
#[must_use]
pub fn usage(directory: &Path) -> Usage {
    let text = |name: &str| read(directory, name);
    let number = |name: &str| text(name)?.trim().parse().ok();
    let charged: Option<u64> = number("memory.current");
    let stat = text("memory.stat");
    Usage {
        cpu: text("cpu.stat").as_deref().and_then(cpu),
        memory: charged
            .zip(stat)
            .and_then(|(charged, stat)| memory(charged, &stat)),
        pids: number("pids.current"),
        io: text("io.stat").as_deref().map(io),
        events: text("memory.events").as_deref().and_then(events),
        pressure: pressure(directory),
    }
}

/// The pressures of the group `directory`; of the whole machine for the top one.
#[must_use]
pub fn pressure(directory: &Path) -> Pressure {
    let stall = |name: &str| stall(&read(directory, name)?);
    Pressure {
        cpu: stall("cpu.pressure"),
        memory: stall("memory.pressure"),
        io: stall("io.pressure"),
    }
}

/// The pressures of the whole machine.
#[must_use]
pub fn machine_pressure() -> Pressure {
    let stall = |name: &str| stall(&read(Path::new("/proc/pressure"), name)?);
    Pressure {
        cpu: stall("cpu"),
        memory: stall("memory"),
        io: stall("io"),
    }
}

fn read(directory: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(directory.join(name)).ok() // see the module's first lines
}

/// `KEY NUMBER` lines.
fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.strip_prefix(' ')?.trim().parse().ok()
}

fn cpu(text: &str) -> Option<Cpu> {
    Some(Cpu {
        used_us: field(text, "usage_usec")?,
        user_us: field(text, "user_usec")?,
        system_us: field(text, "system_usec")?,
        throttled_us: field(text, "throttled_usec"),
    })
}

fn memory(charged: u64, stat: &str) -> Option<Memory> {
    Some(Memory {
        charged,
        cache: Some(field(stat, "file")?),
        inactive_cache: field(stat, "inactive_file")?,
        anonymous: field(stat, "anon")?,
    })
}

fn events(text: &str) -> Option<Events> {
    Some(Events {
        high: field(text, "high")?,
        max: field(text, "max")?,
        oom_kill: field(text, "oom_kill")?,
    })
}

/// `8:0 rbytes=1 wbytes=2 …`: a line for each device, none before the first byte.
fn io(text: &str) -> Io {
    let sum = |key: &str| {
        let numbers = text
            .split_whitespace()
            .filter_map(|word| word.strip_prefix(key)?.parse().ok());
        numbers.fold(0, u64::saturating_add)
    };
    Io {
        read: sum("rbytes="),
        written: sum("wbytes="),
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn stall(text: &str) -> Option<Stall> {
    let average = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let average = line.strip_prefix(" avg10=")?.split(' ').next()?;
        hundredths(average)
    };
    Some(Stall {
        some: average("some")?,
        full: average("full"),
    })
}

/// `12.34` → 1234.
fn hundredths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.')?;
    if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: u32 = whole.parse().ok()?;
    whole.checked_mul(100)?.checked_add(part.parse().ok()?)
}

/// Bytes received and sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

/// What went over the interfaces of the network that this process sees, loopback aside.
#[must_use]
pub fn traffic(pid: i32) -> Option<Traffic> {
    interfaces(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?)
}

fn interfaces(text: &str) -> Option<Traffic> {
    let mut sum = Traffic::default();
    for line in text.lines().skip(2) {
        let (name, numbers) = line.split_once(':')?;
        let mut numbers = numbers.split_whitespace().map(|word| word.parse::<u64>());
        let (received, sent) = (numbers.next()?.ok()?, numbers.nth(7)?.ok()?);
        if name.trim() != "lo" {
            sum.received = sum.received.saturating_add(received);
            sum.sent = sum.sent.saturating_add(sent);
        }
    }
    Some(sum)
}

/// A bound, and the group that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound<T> {
    /// The bound.
    pub value: T,
    /// The directory of the group that sets it.
    pub group: PathBuf,
}

/// A share of processor time: so many microseconds in every period of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Microseconds.
    pub quota_us: u64,
    /// Microseconds, not 0.
    pub period_us: u64,
}

impl Quota {
    /// In thousandths of a processor.
    #[must_use]
    pub fn millis(self) -> u64 {
        let millis = u128::from(self.quota_us) * 1000 / u128::from(self.period_us.max(1));
        u64::try_from(millis).unwrap_or(u64::MAX)
    }
}

/// What really bounds a group: for each resource the tightest bound of itself and all above it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// `memory.max`, in bytes.
    pub memory: Option<Bound<u64>>,
    /// `memory.high`, in bytes: above it the group is slowed down.
    pub memory_high: Option<Bound<u64>>,
    /// `memory.swap.max`, in bytes.
    pub swap: Option<Bound<u64>>,
    /// `cpu.max`.
    pub cpu: Option<Bound<Quota>>,
    /// `cpuset.cpus.effective`, which the kernel has worked out.
    pub cpus: Option<String>,
    /// `pids.max`: processes and threads.
    pub pids: Option<Bound<u64>>,
    /// `hugetlb.SIZE.max`, in bytes, by size.
    pub huge_pages: BTreeMap<String, Bound<u64>>,
}

/// The bounds of the group `directory`, looked for up to `top`.
#[must_use]
pub fn limits(directory: &Path, top: &Path) -> Limits {
    let mut limits = Limits {
        cpus: groups(directory, top)
            .filter_map(|group| read(group, "cpuset.cpus.effective"))
            .map(|text| text.trim().to_owned())
            .find(|text| !text.is_empty()),
        ..Limits::default()
    };
    for group in groups(directory, top) {
        let number = |name: &str| maximum(&read(group, name)?);
        for (kept, name) in [
            (&mut limits.memory, "memory.max"),
            (&mut limits.memory_high, "memory.high"),
            (&mut limits.swap, "memory.swap.max"),
            (&mut limits.pids, "pids.max"),
        ] {
            tighten(kept, number(name), group, |value| *value);
        }
        let quota = read(group, "cpu.max").as_deref().and_then(quota);
        tighten(&mut limits.cpu, quota, group, |quota| quota.millis());
        for (size, bytes) in huge_pages(group) {
            let mut kept = limits.huge_pages.remove(&size);
            tighten(&mut kept, Some(bytes), group, |value| *value);
            limits
                .huge_pages
                .extend(kept.map(|bound| (size.clone(), bound)));
        }
    }
    limits
}

/// The group and those above it, the nearest first.
fn groups<'a>(directory: &'a Path, top: &'a Path) -> impl Iterator<Item = &'a Path> {
    directory
        .ancestors()
        .take_while(move |path| path.starts_with(top))
}

/// Of two equal bounds the nearer one stays: it is the one the user can change.
fn tighten<T>(kept: &mut Option<Bound<T>>, found: Option<T>, group: &Path, measure: fn(&T) -> u64) {
    let Some(value) = found else { return };
    if kept
        .as_ref()
        .is_none_or(|kept| measure(&value) < measure(&kept.value))
    {
        *kept = Some(Bound {
            value,
            group: group.to_owned(),
        });
    }
}

/// `max` is no bound; nor is what hugetlb writes in its place, the greatest multiple of the page's size.
fn maximum(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|number| *number < 1 << 62)
}

/// `QUOTA PERIOD`, or `max PERIOD`.
fn quota(text: &str) -> Option<Quota> {
    let mut words = text.split_whitespace();
    let quota_us = words.next()?.parse().ok()?;
    let period_us = words.next()?.parse().ok().filter(|period| *period > 0)?;
    Some(Quota {
        quota_us,
        period_us,
    })
}

/// `hugetlb.2MB.max` and its kin.
fn huge_pages(group: &Path) -> Vec<(String, u64)> {
    let Ok(entries) = std::fs::read_dir(group) else {
        return Vec::new();
    };
    let found = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(".max")?;
        // `hugetlb.2MB.rsvd.max` bounds reservations.
        if size.contains('.') {
            return None;
        }
        Some((size.to_owned(), maximum(&read(group, &name)?)?))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOUNTS: &str = "\
29 24 0:25 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
30 29 0:26 /job /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw
31 29 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
";

    #[test]
    fn a_group_is_found_below_what_is_mounted() {
        let tree = Tree::parse(MOUNTS).unwrap();
        let top = Path::new("/sys/fs/cgroup/unified");
        assert_eq!(tree.top(), top);
        for (path, expected) in [
            ("/job", Some(top.to_owned())),
            ("/job/a/b", Some(top.join("a/b"))),
            ("/jobs/a", None),
            ("/other", None),
            ("/job/../x", None),
        ] {
            assert_eq!(tree.directory(path), expected, "{path}");
        }
        let whole = Tree::parse("1 0 0:1 / /cg rw - cgroup2 none rw\n").unwrap();
        assert_eq!(whole.directory("/"), Some("/cg".into()));
        assert_eq!(whole.directory("/a"), Some("/cg/a".into()));
        assert_eq!(Tree::parse("31 29 0:27 / /x rw - cgroup cgroup rw\n"), None);
        assert_eq!(group("4:memory:/x\n0::/a b/c (deleted)\n"), Some("/a b/c"));
        assert_eq!(group("4:memory:/x\n"), None);
    }

    #[test]
    fn a_group_is_the_containers_own_when_its_name_has_the_id() {
        let id = "ab".repeat(32);
        for (path, expected) in [
            (format!("/c/user/rl-{id}.scope"), Some("")),
            (format!("/c/user/rl-{id}/init/deeper"), Some("/init/deeper")),
            (format!("/c/rl-{id}.scope/rl-{id}/x"), Some("/x")),
            ("/c/user/session-1.scope".to_owned(), None),
        ] {
            let expected = expected.map(|below| PathBuf::from(path.strip_suffix(below).unwrap()));
            assert_eq!(own(Path::new(&path), &id), expected, "{path}");
        }
        assert_eq!(own(Path::new("/c/x"), ""), None);
    }

    /// The files of a group on Debian 12 (kernel 6.1), shortened.
    const FILES: &[(&str, &str)] = &[
        (
            "cpu.stat",
            "usage_usec 5000123\nuser_usec 4000100\nsystem_usec 1000023\ncore_sched.force_idle_usec 0\n\
             nr_periods 10\nnr_throttled 3\nthrottled_usec 250000\nnr_bursts 0\nburst_usec 0\n",
        ),
        ("memory.current", "104857600\n"),
        (
            "memory.stat",
            "anon 41943040\nfile 52428800\nkernel 1048576\nfile_mapped 4096\ninactive_anon 0\n\
             active_anon 41943040\ninactive_file 31457280\nactive_file 20971520\n",
        ),
        (
            "memory.events",
            "low 0\nhigh 7\nmax 2\noom 1\noom_kill 1\noom_group_kill 1\n",
        ),
        ("pids.current", "12\n"),
        (
            "io.stat",
            "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n\
             259:0 rbytes=1000 wbytes=2000 rios=1 wios=1 dbytes=0 dios=0\n7:0 \n",
        ),
        (
            "cpu.pressure",
            "some avg10=12.34 avg60=1.00 avg300=0.00 total=123\n\
             full avg10=0.05 avg60=0.00 avg300=0.00 total=1\n",
        ),
        (
            "io.pressure",
            "some avg10=100.00 avg60=0.00 avg300=0.00 total=0\n",
        ),
    ];

    fn write(directory: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(directory).unwrap();
        for (name, text) in files {
            std::fs::write(directory.join(name), text).unwrap();
        }
    }

    #[test]
    fn a_group_is_read_whole_and_what_is_missing_is_not_known() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), FILES);
        let usage = usage(directory.path());
        assert_eq!(
            usage.cpu,
            Some(Cpu {
                used_us: 5_000_123,
                user_us: 4_000_100,
                system_us: 1_000_023,
                throttled_us: Some(250_000),
            })
        );
        let memory = usage.memory.unwrap();
        assert_eq!(memory.used(), 70 << 20);
        assert_eq!((memory.charged, memory.anonymous), (100 << 20, 40 << 20));
        assert_eq!(memory.cache, Some(50 << 20));
        assert_eq!(usage.pids, Some(12));
        assert_eq!(
            usage.io,
            Some(Io {
                read: 5096,
                written: 2000
            })
        );
        assert_eq!(
            usage.events,
            Some(Events {
                high: 7,
                max: 2,
                oom_kill: 1
            })
        );
        let stall = |some, full| Some(Stall { some, full });
        assert_eq!(
            usage.pressure,
            Pressure {
                cpu: stall(1234, Some(5)),
                memory: None,
                io: stall(10_000, None),
            }
        );
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(super::usage(empty.path()), Usage::default());
        // Only the cpu's basic figures are there without controllers.
        write(
            empty.path(),
            &[("cpu.stat", "usage_usec 1\nuser_usec 1\nsystem_usec 0\n")],
        );
        let cpu = super::usage(empty.path()).cpu.unwrap();
        assert_eq!((cpu.used_us, cpu.throttled_us), (1, None));
    }

    #[test]
    fn more_old_cache_than_memory_is_not_taken_off() {
        let stat = "anon 1\nfile 9\ninactive_file 9\n";
        assert_eq!(memory(5, stat).unwrap().used(), 5);
        assert_eq!(memory(9, stat).unwrap().used(), 9);
        assert_eq!(memory(10, stat).unwrap().used(), 1);
    }

    #[test]
    fn the_tightest_bound_of_all_above_counts() {
        let top = tempfile::tempdir().unwrap();
        let job = top.path().join("job");
        let step = job.join("step");
        let own = step.join("rl");
        write(
            top.path(),
            &[("cpuset.cpus.effective", "0-7\n"), ("cpu.stat", "")],
        );
        write(
            &job,
            &[
                ("memory.max", "1073741824\n"),
                ("memory.high", "max\n"),
                ("pids.max", "max\n"),
                ("cpu.max", "400000 100000\n"),
                ("cpuset.cpus.effective", "2-5\n"),
                ("hugetlb.2MB.max", "4194304\n"),
                ("hugetlb.2MB.rsvd.max", "0\n"),
            ],
        );
        write(
            &step,
            &[
                ("memory.max", "max\n"),
                ("pids.max", "50\n"),
                ("cpu.max", "150000 50000\n"),
                ("cpuset.cpus.effective", "\n"),
            ],
        );
        write(
            &own,
            &[
                ("memory.max", "2147483648\n"),
                ("memory.swap.max", "0\n"),
                ("pids.max", "50\n"),
                ("cpu.max", "max 100000\n"),
                ("hugetlb.2MB.max", "8388608\n"),
                ("hugetlb.1GB.max", "9223372036854771712\n"),
            ],
        );
        let limits = limits(&own, top.path());
        let bound = |value: u64, group: &Path| {
            Some(Bound {
                value,
                group: group.to_owned(),
            })
        };
        assert_eq!(limits.memory, bound(1 << 30, &job));
        assert_eq!(limits.memory_high, None);
        assert_eq!(limits.swap, bound(0, &own));
        assert_eq!(limits.pids, bound(50, &own));
        let cpu = limits.cpu.unwrap();
        assert_eq!((cpu.value.millis(), cpu.group), (3000, step.clone()));
        assert_eq!(limits.cpus.as_deref(), Some("2-5"));
        assert_eq!(
            limits.huge_pages.into_iter().collect::<Vec<_>>(),
            [("2MB".to_owned(), bound(4 << 20, &job).unwrap())]
        );
        // Nothing above the top is looked at.
        assert_eq!(super::limits(&own, &step).memory, bound(2 << 30, &own));
        assert_eq!(super::limits(top.path(), top.path()).cpus.unwrap(), "0-7");
    }

    #[test]
    fn loopback_is_no_traffic() {
        let text = "Inter-|   Receive                |  Transmit\n face |bytes    packets errs drop\n\
            \x20   lo:  500       5    0    0    0     0          0         0      500       5    0    0    0     0       0          0\n\
            \x20 tap0:70000     700    0    0    0     0          0         0     9000      90    0    0    0     0       0          0\n\
            \x20 eth1: 1       7    0    0    0     0          0         0     2      90    0    0    0     0       0          0\n";
        let sum = interfaces(text).unwrap();
        assert_eq!((sum.received, sum.sent), (70_001, 9002));
        assert_eq!(interfaces("a\nb\nbroken 1 2\n"), None);
        assert_eq!(interfaces("a\nb\neth0: 1 2\n"), None);
    }

    #[test]
    fn this_process_is_accounted_for() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(traffic(pid).is_some());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "(?s).{0,200}") {
            let _ = (Tree::parse(&text), group(&text), cpu(&text), memory(1, &text), events(&text));
            let _ = (io(&text), stall(&text), interfaces(&text), quota(&text), maximum(&text));
        }

        #[test]
        fn lines_of_the_right_form_do_not_either(
            numbers in proptest::collection::vec("[0-9]{1,25}|max|-1|", 16),
        ) {
            let words = numbers.join(" ");
            let dev = format!("a\nb\neth0: {words}\n");
            let _ = (interfaces(&dev), quota(&words), io(&format!("8:0 rbytes={words} wbytes=9")));
            let _ = stall(&format!("some avg10={}.{} avg60=0", numbers[0], numbers[1]));
        }

        #[test]
        fn pressures_are_read_as_the_kernel_writes_them(whole in 0u32..=100, part in 0u32..100) {
            let text = format!("some avg10={whole}.{part:02} avg60=0.00 avg300=0.00 total=0\n");
            prop_assert_eq!(stall(&text).unwrap().some, whole * 100 + part);
        }

        #[test]
        fn all_that_is_written_is_read(used in any::<u64>(), read in any::<u64>(), written in any::<u64>()) {
            let stat = format!("usage_usec {used}\nuser_usec 0\nsystem_usec 0\n");
            prop_assert_eq!(cpu(&stat).unwrap().used_us, used);
            let stat = format!("8:0 rbytes={read} wbytes={written} rios=0 wios=0 dbytes=0 dios=0\n");
            prop_assert_eq!(io(&stat), Io { read, written });
        }
    }
}
