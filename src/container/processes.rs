//! The processes of a container, as the host and as the container number them.
//!
//! One walk over `/proc`; nothing is executed inside, and nothing that the container wrote is trusted: its
//! `/etc/passwd` is read without leaving its root. Sources: proc_pid_stat(5), proc_pid_status(5).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::view::Seen;
use crate::error::Fail;
use crate::sys::fs::Root;

/// `USER_HZ`, which is 100 on every machine that Linux runs on: times(2).
const TICKS_PER_SECOND: u64 = 100;
/// Most bytes of a container's `/etc/passwd` that are looked at.
const MAX_PASSWD: u64 = 1 << 20;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Name or number of its user, as the container has them.
    pub user: String,
    /// Its number inside.
    pub pid: i32,
    /// Its number on the host.
    pub host_pid: i32,
    /// The number of its parent inside; 0 for one outside.
    pub ppid: i32,
    /// Processor time, in seconds.
    pub cpu_s: u64,
    /// `S`, `R`, `Z` and so on.
    pub state: char,
    /// Resident memory, in KiB.
    pub rss_kib: u64,
    /// The name of the program's file, 15 bytes at most.
    pub name: String,
    /// Program and arguments; `[name]` where there are none.
    pub command: String,
}

/// What is read of one process before it is known whether it is the container's.
#[derive(Debug)]
struct Raw {
    parent: i32,
    state: char,
    /// Ticks of its own.
    ticks: u64,
    /// Ticks of its children that ended and were waited for, and of theirs.
    ticks_children: u64,
    threads: u64,
    name: String,
}

/// What the processes of a container use together, as far as `/proc` tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// Processor time, in microseconds, with that of processes that have ended and were waited for.
    pub cpu_us: u64,
    /// Memory that is not backed by files, in bytes; what is shared is counted once.
    pub memory: u64,
    /// Processes and threads.
    pub threads: u64,
}

/// The sums of several containers, each named by its pid 1, by one walk over `/proc`. None for one that has ended.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn sums(firsts: &[i32]) -> Result<BTreeMap<i32, Sum>> {
    let all = walk()?;
    let own = namespace_of_self();
    let mut spaces: BTreeMap<PathBuf, i32> = BTreeMap::new();
    for first in firsts {
        if let Some(space) = namespace_of(*first).filter(|space| Some(space) != own.as_ref()) {
            // Where one container is in the namespace of another, strangers in it are the other's.
            let is_init = inner_pid(*first, true) == Some(1);
            if is_init || !spaces.contains_key(&space) {
                spaces.insert(space, *first);
            }
        }
    }
    let mut sums: BTreeMap<i32, Sum> = BTreeMap::new();
    for (pid, raw) in &all {
        let Some(first) = container_of(*pid, firsts, &spaces, &all) else {
            continue;
        };
        let sum = sums.entry(first).or_default();
        let ticks = raw.ticks.saturating_add(raw.ticks_children);
        sum.cpu_us += ticks * (1_000_000 / TICKS_PER_SECOND);
        sum.threads += raw.threads;
        sum.memory += memory(*pid);
    }
    Ok(sums)
}

/// The pid 1 of the container that this process belongs to: the nearest of its parents that is one, or that is
/// in the namespace of one.
fn container_of(
    pid: i32,
    firsts: &[i32],
    spaces: &BTreeMap<PathBuf, i32>,
    all: &BTreeMap<i32, Raw>,
) -> Option<i32> {
    let mut one = pid;
    let mut found = None;
    for _ in 0..all.len() + 1 {
        if firsts.contains(&one) {
            return Some(one);
        }
        found = found.or_else(|| spaces.get(&namespace_of(one)?).copied());
        match all.get(&one) {
            Some(raw) if raw.parent > 1 => one = raw.parent,
            Some(_) | None => break,
        }
    }
    found
}

/// Bytes of one process that no file backs. The kernel counts what is shared once (proc_pid_smaps(5)); before
/// 5.9, and where it may not be asked, every process counts all that it has.
fn memory(pid: i32) -> u64 {
    let kib = |text: &str, fields: [&str; 2]| -> Option<u64> {
        let numbers = fields.map(|field| number(text, field).map(u64::from));
        Some(numbers[0]?.saturating_add(numbers[1]?))
    };
    let exact = read(pid, "smaps_rollup").and_then(|text| kib(&text, ["Pss_Anon:", "Pss_Shmem:"]));
    let rough = || kib(&read(pid, "status")?, ["RssAnon:", "RssShmem:"]);
    // A process that is ending has none.
    exact.or_else(rough).unwrap_or(0).saturating_mul(1024)
}

/// The processes in the pid namespace of a container and below it, by number on the host.
///
/// # Errors
/// `Conflict` when it does not run.
pub fn list(seen: &Seen) -> Result<Vec<Process>> {
    let stopped = || {
        Fail::conflict(format!("container `{}` is not running", seen.spec.name))
            .hint(format!("rl start {}", seen.spec.name))
    };
    let process = seen
        .state
        .process
        .as_ref()
        .filter(|_| seen.is_running())
        .ok_or_else(stopped)?;
    // Kept open: with it the number stays this process's as long as it lives.
    let open = process.open()?.ok_or_else(stopped)?;
    let first = process.pid;
    let namespace = namespace_of(first);
    let is_own = namespace.is_some() && namespace != namespace_of_self();
    let all = walk()?;
    let inside: Vec<i32> = all
        .keys()
        .copied()
        .filter(|pid| belongs(*pid, first, &all, namespace.as_deref().filter(|_| is_own)))
        .collect();
    let ids = Ids::read(first);
    let numbers: BTreeMap<i32, i32> = inside
        .iter()
        .filter_map(|pid| Some((*pid, inner_pid(*pid, is_own)?)))
        .collect();
    let found = inside.iter().filter_map(|pid| {
        let raw = all.get(pid)?;
        let status = read(*pid, "status")?;
        Some(Process {
            user: ids.user(number(&status, "Uid:")?),
            pid: *numbers.get(pid)?,
            host_pid: *pid,
            ppid: numbers.get(&raw.parent).copied().unwrap_or(0),
            cpu_s: raw.ticks / TICKS_PER_SECOND,
            state: raw.state,
            rss_kib: number(&status, "VmRSS:").map_or(0, u64::from),
            name: raw.name.clone(),
            command: command(*pid, &raw.name),
        })
    });
    let found: Vec<Process> = found.collect();
    drop(open);
    if found.is_empty() {
        return Err(stopped().into());
    }
    Ok(found)
}

fn walk() -> Result<BTreeMap<i32, Raw>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")
        .context("reading /proc")?
        .flatten()
    {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // It may end at any moment.
        if let Some(raw) = read(pid, "stat").as_deref().and_then(parse_stat) {
            all.insert(pid, raw);
        }
    }
    Ok(all)
}

fn parse_stat(stat: &str) -> Option<Raw> {
    let (before, after) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Raw {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        ticks: ticks(11)?.saturating_add(ticks(12)?),
        ticks_children: ticks(13)?.saturating_add(ticks(14)?),
        threads: ticks(17)?,
        name: clean(before.split_once('(')?.1),
    })
}

/// In the namespace, or a descendant of one that is. Without a namespace of its own, a descendant of the first.
fn belongs(pid: i32, first: i32, all: &BTreeMap<i32, Raw>, namespace: Option<&Path>) -> bool {
    let mut pid = pid;
    // A chain of parents is shorter than this, unless it was torn while we read.
    for _ in 0..all.len() + 1 {
        let is_in = pid == first
            || namespace.is_some_and(|wanted| namespace_of(pid).is_some_and(|has| has == wanted));
        if is_in {
            return true;
        }
        match all.get(&pid) {
            Some(raw) if raw.parent > 1 => pid = raw.parent,
            Some(_) | None => return false,
        }
    }
    false
}

fn namespace_of(pid: i32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

fn namespace_of_self() -> Option<PathBuf> {
    std::fs::read_link("/proc/self/ns/pid").ok()
}

/// `NSpid` has a number for each namespace, from the reader's inward.
fn inner_pid(pid: i32, is_own: bool) -> Option<i32> {
    let status = read(pid, "status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    let mut numbers = line.split_whitespace().map(str::parse);
    let host = numbers.next()?.ok()?;
    match numbers.next() {
        Some(inner) if is_own => inner.ok(),
        Some(_) | None => Some(host),
    }
}

fn read(pid: i32, file: &str) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).ok()?; // it may have ended
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn number(status: &str, field: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

fn command(pid: i32, name: &str) -> String {
    let line = read(pid, "cmdline").unwrap_or_default();
    let line = line.trim_end_matches('\0').replace('\0', " ");
    if line.is_empty() {
        format!("[{name}]")
    } else {
        clean(&line)
    }
}

/// A container's words cannot steer the terminal.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// The users of a container.
#[derive(Debug)]
struct Ids {
    /// First id inside, first id outside, how many.
    map: Vec<(u32, u32, u32)>,
    names: BTreeMap<u32, String>,
}

impl Ids {
    fn read(first: i32) -> Self {
        let root = Root::open_trusted(Path::new(&format!("/proc/{first}/root")));
        let passwd = root
            .and_then(|root| root.read(Path::new("etc/passwd"), MAX_PASSWD))
            .ok()
            .flatten()
            .unwrap_or_default(); // numbers do
        Self::parse(
            &read(first, "uid_map").unwrap_or_default(),
            &String::from_utf8_lossy(&passwd),
        )
    }

    fn parse(map: &str, passwd: &str) -> Self {
        let extent = |line: &str| {
            let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
            Some((numbers.next()??, numbers.next()??, numbers.next()??))
        };
        let mut names = BTreeMap::new();
        for line in passwd.lines() {
            let mut fields = line.split(':');
            if let (Some(name), Some(Ok(uid))) = (fields.next(), fields.nth(1).map(str::parse)) {
                names.entry(uid).or_insert_with(|| clean(name));
            }
        }
        Self {
            map: map.lines().filter_map(extent).collect(),
            names,
        }
    }

    /// The name inside of a user of the host's.
    fn user(&self, host: u32) -> String {
        let inner = self.map.iter().find_map(|(inside, outside, count)| {
            let offset = host.checked_sub(*outside).filter(|offset| offset < count)?;
            inside.checked_add(offset)
        });
        match inner {
            Some(uid) => self.names.get(&uid).cloned().unwrap_or(uid.to_string()),
            None => "?".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_behind_a_hostile_name() {
        let stat = "7 (a) R\u{1b}(b) S 3 0 0 0 0 0 0 0 0 0 250 50 7 8 20 0 4 0 99";
        let raw = parse_stat(stat).unwrap();
        assert_eq!((raw.state, raw.parent, raw.ticks), ('S', 3, 300));
        assert_eq!((raw.ticks_children, raw.threads), (15, 4));
        assert_eq!(raw.name, "a) R?(b");
        assert!(parse_stat("7").is_none());
    }

    #[test]
    fn users_are_named_as_the_container_does() {
        let ids = Ids::parse(
            "         0       1000          1\n         1     100000      65536\n",
            "root:x:0:0::/:/bin/sh\nroot2:x:0:0::/:\nwww:x:33:33::/:\nbroken\n",
        );
        for (host, name) in [
            (1000, "root"),
            (100_032, "www"),
            (100_000, "1"),
            (0, "?"),
            (165_536, "?"),
        ] {
            assert_eq!(ids.user(host), name, "{host}");
        }
    }
}
