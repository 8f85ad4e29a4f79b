//! What a container may use, from docker's words to the files of a group of version 2, written and read back.
//!
//! Source: cgroup-v2.rst; the OCI runtime specification, config-linux.md; the conversions of weights are those of
//! crun 1.8 and runc 1.1.

pub mod check;

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::io::Errno;

use super::{Group, controllers};
use crate::error::Fail;
use crate::spec::Resources;

/// The kernel's usual period of `cpu.max`, in microseconds.
const PERIOD: u64 = 100_000;

/// One file of a group and what is written into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// What asked for it, as the user wrote it.
    pub flag: &'static str,
    /// The file's name.
    pub file: String,
    /// Its text.
    pub text: String,
    /// Nobody asked: a kernel without the file is none the worse.
    pub optional: bool,
}

impl Setting {
    /// The controller that the file belongs to; `cgroup` for what every group has.
    #[must_use]
    pub fn controller(&self) -> &str {
        self.file.split('.').next().unwrap_or_default()
    }
}

/// The first flag that asks for something.
#[must_use]
pub fn first_flag(resources: &Resources) -> Option<&'static str> {
    let r = resources;
    [
        ("--memory", r.memory.is_some()),
        ("--memory-reservation", r.memory_reservation.is_some()),
        ("--memory-swap", r.memory_swap.is_some()),
        ("--cpus", r.nano_cpus.is_some()),
        ("--cpu-shares", r.cpu_shares.is_some()),
        ("--cpu-period", r.cpu_period.is_some()),
        ("--cpu-quota", r.cpu_quota.is_some()),
        ("--cpuset-cpus", r.cpuset_cpus.is_some()),
        ("--cpuset-mems", r.cpuset_mems.is_some()),
        ("--pids-limit", r.pids.is_some()),
        ("--blkio-weight", r.blkio_weight.is_some()),
        ("--blkio-weight-device", !r.blkio_weight_device.is_empty()),
        ("--device-read-bps", !r.device_read_bps.is_empty()),
        ("--device-write-bps", !r.device_write_bps.is_empty()),
        ("--device-read-iops", !r.device_read_iops.is_empty()),
        ("--device-write-iops", !r.device_write_iops.is_empty()),
        ("--cgroup-conf", !r.conf.is_empty()),
    ]
    .into_iter()
    .find_map(|(flag, asks)| asks.then_some(flag))
}

/// The numbers of a list such as `0-2,4`. Source: cpuset(7), "List format", without strides.
#[must_use]
pub fn numbers(text: &str) -> Option<Vec<u32>> {
    /// No kernel is built for more.
    const MOST: u32 = 1 << 16;
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse::<u32>().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        all.extend(first..=last);
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

/// The files and texts for what was asked. Looks up the numbers of block devices, and nothing else.
///
/// # Errors
/// `Usage` for a device that is none.
pub fn settings(resources: &Resources) -> Result<Vec<Setting>, Fail> {
    plan(resources, &block_device)
}

fn plan(
    r: &Resources,
    device: &dyn Fn(&'static str, &Path) -> Result<String, Fail>,
) -> Result<Vec<Setting>, Fail> {
    let mut all = Vec::new();
    let mut add = |flag: &'static str, file: &str, text: String| {
        all.push(Setting {
            flag,
            file: file.to_owned(),
            text,
            optional: false,
        });
    };
    if let Some(bytes) = r.memory {
        add("--memory", "memory.max", bytes.to_string());
    }
    if let Some(bytes) = r.memory_reservation {
        add("--memory-reservation", "memory.low", bytes.to_string());
    }
    match (r.memory_swap, r.memory) {
        (Some(-1), _) => add("--memory-swap", "memory.swap.max", "max".to_owned()),
        // Version 2 counts swap alone, docker both together.
        (Some(both), Some(memory)) => {
            let swap = both.unsigned_abs().saturating_sub(memory);
            add("--memory-swap", "memory.swap.max", swap.to_string());
        }
        _ => {}
    }
    if let Some(shares) = r.cpu_shares.filter(|shares| *shares > 0) {
        add("--cpu-shares", "cpu.weight", cpu_weight(shares).to_string());
    }
    if let Some(nano) = r.nano_cpus {
        let quota = nano / (1_000_000_000 / PERIOD);
        add("--cpus", "cpu.max", format!("{quota} {PERIOD}"));
    } else if r.cpu_quota.is_some() || r.cpu_period.is_some() {
        let quota = r.cpu_quota.filter(|quota| *quota > 0);
        let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        let flag = if r.cpu_quota.is_some() {
            "--cpu-quota"
        } else {
            "--cpu-period"
        };
        let period = r.cpu_period.unwrap_or(PERIOD);
        add(flag, "cpu.max", format!("{quota} {period}"));
    }
    if let Some(list) = &r.cpuset_cpus {
        add("--cpuset-cpus", "cpuset.cpus", list.clone());
    }
    if let Some(list) = &r.cpuset_mems {
        add("--cpuset-mems", "cpuset.mems", list.clone());
    }
    if let Some(most) = r.pids {
        let text = if most > 0 {
            most.to_string()
        } else {
            "max".to_owned()
        };
        add("--pids-limit", "pids.max", text);
    }
    if let Some(weight) = r.blkio_weight {
        add("--blkio-weight", "io.weight", io_weight(weight).to_string());
    }
    for (path, weight) in &r.blkio_weight_device {
        let flag = "--blkio-weight-device";
        let text = format!("{} {}", device(flag, path)?, io_weight(*weight));
        add(flag, "io.weight", text);
    }
    let mut rates: BTreeMap<String, (&'static str, Vec<String>)> = BTreeMap::new();
    for (flag, key, list) in [
        ("--device-read-bps", "rbps", &r.device_read_bps),
        ("--device-write-bps", "wbps", &r.device_write_bps),
        ("--device-read-iops", "riops", &r.device_read_iops),
        ("--device-write-iops", "wiops", &r.device_write_iops),
    ] {
        for (path, rate) in list {
            let rate = if *rate == 0 {
                "max".to_owned()
            } else {
                rate.to_string()
            };
            let of = rates
                .entry(device(flag, path)?)
                .or_insert((flag, Vec::new()));
            of.1.push(format!("{key}={rate}"));
        }
    }
    for (number, (flag, rates)) in rates {
        add(flag, "io.max", format!("{number} {}", rates.join(" ")));
    }
    for (file, text) in &r.conf {
        add("--cgroup-conf", file, text.clone());
    }
    // Docker's default: as much swap as memory. A kernel that does not count swap has no such file.
    if let (Some(memory), None) = (r.memory, r.memory_swap)
        && !r.conf.contains_key("memory.swap.max")
    {
        all.push(Setting {
            flag: "--memory",
            file: "memory.swap.max".to_owned(),
            text: memory.to_string(),
            optional: true,
        });
    }
    Ok(all)
}

/// Shares of version 1, from 2 to 262144 with 1024 as the usual, become a weight from 1 to 10000: the ratio of two
/// containers stays. Source: crun, `src/libcrun/cgroup-internal.h`.
fn cpu_weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

/// A weight from 10 to 1000 becomes one from 1 to 10000. Source: runc, `ConvertBlkIOToIOWeightValue`.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990
}

/// `8:0` of `/dev/sda`.
fn block_device(flag: &'static str, path: &Path) -> Result<String, Fail> {
    let shown = path.display();
    let meta = std::fs::metadata(path)
        .map_err(|error| Fail::usage(format!("{flag}: `{shown}` cannot be looked at: {error}")))?;
    if !meta.file_type().is_block_device() {
        return Err(Fail::usage(format!("{flag}: `{shown}` is no block device"))
            .hint("name the whole disk, such as /dev/sda: lsblk lists them"));
    }
    let number = meta.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    Ok(format!("{major}:{minor}"))
}

/// Writes the settings, and reads back what became of them. All processes of a group die when memory runs out, so
/// that no half of a program stays.
///
/// # Errors
/// What the kernel answers, for the flag that asked.
pub fn apply(group: &Group, settings: &[Setting]) -> Result<()> {
    write_all(group, settings)?;
    let named = settings
        .iter()
        .any(|setting| setting.file == "memory.oom.group");
    if !named && group.has("memory.oom.group") {
        group.write("memory.oom.group", "1")?;
    }
    Ok(())
}

/// The same, for a group in which memory that runs out is another's to deal with.
///
/// # Errors
/// As [`apply`].
pub fn write_all(group: &Group, settings: &[Setting]) -> Result<()> {
    for setting in settings {
        match write(group, setting) {
            Err(_) if setting.optional => {}
            done => done?,
        }
    }
    Ok(())
}

fn write(group: &Group, setting: &Setting) -> Result<()> {
    let Setting {
        flag, file, text, ..
    } = setting;
    let refused = |why: String| {
        Fail::usage(format!(
            "{flag}: the kernel does not take `{text}` for {file}: {why}"
        ))
    };
    if let Err(error) = group.write(file, text) {
        let fail = match error.errno {
            Errno::NOENT if !group.has("cgroup.procs") => Fail::conflict(format!(
                "the group `{}` has vanished",
                group.path().display()
            )),
            Errno::NOENT if controller_is_there(group, setting.controller()) => Fail::unsupported(
                format!("{flag}: this kernel has no file {file} in its control groups"),
            )
            .hint("to see what there is: rl exec CONTAINER ls /sys/fs/cgroup"),
            Errno::NOENT => controllers::not_handed_down(flag, setting.controller(), group.path()),
            Errno::NODEV | Errno::NXIO if file.starts_with("io.") => {
                refused("limits are for whole disks, not for partitions".to_owned())
                    .hint("lsblk shows which disk a partition is on")
            }
            errno => refused(std::io::Error::from(errno).to_string()),
        };
        return Err(fail.into());
    }
    // A file that can only be written says nothing.
    let Ok(back) = group.read(file) else {
        return Ok(());
    };
    if *flag == "--cgroup-conf" || has_taken(file, text, &back) {
        return Ok(());
    }
    Err(refused(format!("it says `{}` afterwards", back.replace('\n', "; "))).into())
}

fn controller_is_there(group: &Group, controller: &str) -> bool {
    controller == "cgroup"
        || group
            .read("cgroup.controllers")
            .is_ok_and(|text| text.split_whitespace().any(|name| name == controller))
}

/// Whether a file says what was written into it: memory is counted in pages, lists are put in order, a device is one
/// line of several.
fn has_taken(file: &str, wrote: &str, says: &str) -> bool {
    if file.starts_with("memory.") {
        let page = rustix::param::page_size() as u64;
        let rounded = wrote.parse::<u64>().map(|bytes| bytes / page * page);
        return match rounded {
            // What is more than any machine has is no limit.
            Ok(bytes) => says.parse() == Ok(bytes) || (says == "max" && bytes > 1 << 60),
            Err(_) => wrote == says,
        };
    }
    if file.starts_with("cpuset.") {
        return numbers(wrote).is_some() && numbers(wrote) == numbers(says);
    }
    if file.starts_with("io.") {
        let (device, values) = wrote.split_once(' ').unwrap_or(("default", wrote));
        return says.lines().any(|line| {
            line.strip_prefix(device).is_some_and(|rest| {
                let has: Vec<&str> = rest.split_whitespace().collect();
                values.split(' ').all(|value| has.contains(&value))
            })
        }) || (device == "default" && wrote == says)
            // A line in which nothing is limited is left out.
            || values.split(' ').all(|value| value.ends_with("=max"));
    }
    wrote == says
}

/// What holds after `change`: what that does not name stays as it is.
#[must_use]
pub fn merged(old: &Resources, change: &Resources) -> Resources {
    fn newer<T: Clone>(old: &Option<T>, new: &Option<T>) -> Option<T> {
        new.as_ref().or(old.as_ref()).cloned()
    }
    // One device after the other: a rate for another one leaves the first alone.
    fn rates<T: Copy>(old: &[(PathBuf, T)], new: &[(PathBuf, T)]) -> Vec<(PathBuf, T)> {
        let stays = |(path, _): &&(PathBuf, T)| !new.iter().any(|(named, _)| named == path);
        old.iter().filter(stays).chain(new).cloned().collect()
    }
    let quota = change.cpu_quota.is_some() || change.cpu_period.is_some();
    let mut conf = old.conf.clone();
    conf.extend(change.conf.clone());
    Resources {
        memory: newer(&old.memory, &change.memory),
        memory_reservation: newer(&old.memory_reservation, &change.memory_reservation),
        memory_swap: newer(&old.memory_swap, &change.memory_swap),
        // The two are one file: who names one of them replaces the other.
        nano_cpus: newer(&old.nano_cpus, &change.nano_cpus)
            .filter(|_| !quota || change.nano_cpus.is_some()),
        cpu_shares: newer(&old.cpu_shares, &change.cpu_shares),
        cpu_period: newer(&old.cpu_period, &change.cpu_period)
            .filter(|_| change.nano_cpus.is_none() || change.cpu_period.is_some()),
        cpu_quota: newer(&old.cpu_quota, &change.cpu_quota)
            .filter(|_| change.nano_cpus.is_none() || change.cpu_quota.is_some()),
        cpuset_cpus: newer(&old.cpuset_cpus, &change.cpuset_cpus),
        cpuset_mems: newer(&old.cpuset_mems, &change.cpuset_mems),
        pids: newer(&old.pids, &change.pids),
        blkio_weight: newer(&old.blkio_weight, &change.blkio_weight),
        blkio_weight_device: rates(&old.blkio_weight_device, &change.blkio_weight_device),
        device_read_bps: rates(&old.device_read_bps, &change.device_read_bps),
        device_write_bps: rates(&old.device_write_bps, &change.device_write_bps),
        device_read_iops: rates(&old.device_read_iops, &change.device_read_iops),
        device_write_iops: rates(&old.device_write_iops, &change.device_write_iops),
        conf,
    }
}

/// What of a group's memory the kernel cannot take back by itself, in bytes; `None` without the controller.
#[must_use]
pub fn memory_held(group: &Group) -> Option<u64> {
    let used: u64 = group.read("memory.current").ok()?.parse().ok()?;
    let stat = group.read("memory.stat").ok()?;
    let of = |key: &str| super::keyed(&stat, key).unwrap_or_default();
    let cache = of("active_file") + of("inactive_file") + of("slab_reclaimable");
    Some(used.saturating_sub(cache))
}

/// A block device's path, and a number behind the last colon: `/dev/sda:1mb`.
#[must_use]
pub fn device_and(text: &str) -> Option<(PathBuf, &str)> {
    let (path, value) = text.rsplit_once(':')?;
    (path.starts_with("/dev/") && !value.is_empty()).then(|| (PathBuf::from(path), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(resources: &Resources) -> String {
        let device = |_: &'static str, path: &Path| {
            Ok(if path == Path::new("/dev/sda") {
                "8:0"
            } else {
                "8:16"
            }
            .to_owned())
        };
        let all = plan(resources, &device).expect("fine");
        let shown = all
            .iter()
            .map(|setting| format!("{}={}", setting.file, setting.text));
        shown.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn dockers_words_become_files_of_version_2() {
        let none = Resources::default;
        for (resources, expected) in [
            (none(), ""),
            (
                Resources {
                    memory: Some(64 << 20),
                    ..none()
                },
                "memory.max=67108864; memory.swap.max=67108864",
            ),
            (
                Resources {
                    memory: Some(64 << 20),
                    memory_swap: Some(64 << 20),
                    memory_reservation: Some(32 << 20),
                    ..none()
                },
                "memory.max=67108864; memory.low=33554432; memory.swap.max=0",
            ),
            (
                Resources {
                    memory: Some(64 << 20),
                    memory_swap: Some(-1),
                    ..none()
                },
                "memory.max=67108864; memory.swap.max=max",
            ),
            (
                Resources {
                    nano_cpus: Some(1_500_000_000),
                    ..none()
                },
                "cpu.max=150000 100000",
            ),
            (
                Resources {
                    cpu_quota: Some(50_000),
                    ..none()
                },
                "cpu.max=50000 100000",
            ),
            (
                Resources {
                    cpu_quota: Some(-1),
                    cpu_period: Some(20_000),
                    ..none()
                },
                "cpu.max=max 20000",
            ),
            (
                Resources {
                    cpu_shares: Some(1024),
                    pids: Some(-1),
                    blkio_weight: Some(500),
                    ..none()
                },
                "cpu.weight=39; pids.max=max; io.weight=4950",
            ),
            (
                Resources {
                    device_read_bps: vec![
                        ("/dev/sda".into(), 1 << 20),
                        ("/dev/sdb".into(), 2 << 20),
                    ],
                    device_write_iops: vec![("/dev/sda".into(), 100)],
                    blkio_weight_device: vec![("/dev/sda".into(), 10)],
                    ..none()
                },
                "io.weight=8:0 1; io.max=8:0 rbps=1048576 wiops=100; io.max=8:16 rbps=2097152",
            ),
            (
                Resources {
                    cpuset_cpus: Some("0-1".to_owned()),
                    conf: [("memory.high".to_owned(), "1G".to_owned())].into(),
                    ..none()
                },
                "cpuset.cpus=0-1; memory.high=1G",
            ),
        ] {
            assert_eq!(texts(&resources), expected);
        }
    }

    #[test]
    fn a_change_leaves_alone_what_it_does_not_name() {
        let none = Resources::default;
        let old = Resources {
            memory: Some(64 << 20),
            nano_cpus: Some(1_000_000_000),
            device_read_bps: vec![("/dev/sda".into(), 1), ("/dev/sdb".into(), 2)],
            ..none()
        };
        let change = Resources {
            cpu_quota: Some(50_000),
            device_read_bps: vec![("/dev/sdb".into(), 3)],
            ..none()
        };
        assert_eq!(
            texts(&merged(&old, &change)),
            "memory.max=67108864; cpu.max=50000 100000; io.max=8:0 rbps=1; io.max=8:16 rbps=3; memory.swap.max=67108864"
        );
        assert_eq!(merged(&old, &none()), old);
        let back = merged(&merged(&old, &change), &old);
        assert_eq!(
            (back.cpu_quota, back.nano_cpus),
            (None, Some(1_000_000_000))
        );
    }

    #[test]
    fn weights_keep_their_range() {
        for (shares, weight) in [
            (2, 1),
            (1024, 39),
            (262_144, 10_000),
            (1, 1),
            (999_999, 10_000),
        ] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
        assert_eq!((io_weight(10), io_weight(1000)), (1, 10_000));
    }

    #[test]
    fn what_the_kernel_took_is_recognized() {
        for (file, wrote, says, taken) in [
            ("memory.max", "67108865", "67108864", true),
            ("memory.max", "67108864", "max", false),
            ("memory.swap.max", "max", "max", true),
            ("cpu.max", "50000 100000", "50000 100000", true),
            ("cpuset.cpus", "0,1", "0-1", true),
            ("cpuset.cpus", "0-1", "0", false),
            ("io.weight", "4950", "default 4950", true),
            ("io.weight", "8:0 1", "default 100\n8:0 1", true),
            (
                "io.max",
                "8:0 rbps=1 wiops=2",
                "8:0 rbps=1 wbps=max riops=max wiops=2",
                true,
            ),
            ("io.max", "8:0 rbps=1", "8:16 rbps=1", false),
            ("pids.max", "7", "max", false),
        ] {
            assert_eq!(has_taken(file, wrote, says), taken, "{file} {wrote} {says}");
        }
    }
}
