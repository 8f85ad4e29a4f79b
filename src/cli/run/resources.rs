//! `--memory`, `--cpus`, `--pids-limit` and their kin, for `run`, `create` and `update`. Pure.

use std::path::PathBuf;

use super::RunArgs;
use super::values::{key_value, size};
use crate::cgroup::limits::device_and;
use crate::error::Fail;
use crate::spec::{Cgroup, CgroupMode, Resources};

/// How much a container gets.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ResourceArgs {
    /// Weight of its reads and writes, from 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,

    /// Weight on one disk, as DEVICE:WEIGHT (can be repeated)
    #[arg(long, value_name = "DEVICE:WEIGHT")]
    pub blkio_weight_device: Vec<String>,

    /// Write any file of its control group, such as memory.high=1G (can be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub cgroup_conf: Vec<String>,

    /// Length of a CPU period, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,

    /// CPU time in each period, in microseconds; -1 is without limit
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_quota: Option<i64>,

    /// CPU time in relation to others, 1024 being the usual
    #[arg(short = 'c', long, value_name = "SHARES")]
    pub cpu_shares: Option<u64>,

    /// Number of CPUs, such as 1.5
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<String>,

    /// CPUs it may use, such as 0-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,

    /// Memory nodes it may use, such as 0,1
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,

    /// Limit bytes read in a second from a disk, as DEVICE:RATE (can be repeated)
    #[arg(long, value_name = "DEVICE:RATE")]
    pub device_read_bps: Vec<String>,

    /// Limit reads in a second from a disk, as DEVICE:RATE (can be repeated)
    #[arg(long, value_name = "DEVICE:RATE")]
    pub device_read_iops: Vec<String>,

    /// Limit bytes written in a second to a disk, as DEVICE:RATE (can be repeated)
    #[arg(long, value_name = "DEVICE:RATE")]
    pub device_write_bps: Vec<String>,

    /// Limit writes in a second to a disk, as DEVICE:RATE (can be repeated)
    #[arg(long, value_name = "DEVICE:RATE")]
    pub device_write_iops: Vec<String>,

    /// Not there in cgroup version 2: refused
    #[arg(long, value_name = "SIZE", hide = true)]
    pub kernel_memory: Option<String>,

    /// Limit memory; when it runs out, all of the container is killed
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,

    /// Keep so much memory for it when the machine runs short
    #[arg(long, value_name = "SIZE")]
    pub memory_reservation: Option<String>,

    /// Limit memory and swap together; -1 is without limit
    #[arg(long, value_name = "SIZE")]
    pub memory_swap: Option<String>,

    /// Not there in cgroup version 2: refused
    #[arg(long, value_name = "PERCENT", hide = true)]
    pub memory_swappiness: Option<i64>,

    /// Not there in cgroup version 2: refused
    #[arg(long, hide = true)]
    pub oom_kill_disable: bool,

    /// Limit the number of processes and threads; -1 is without limit
    #[arg(long, visible_alias = "pids", value_name = "NUMBER")]
    pub pids_limit: Option<i64>,
}

/// The control group that the flags describe.
///
/// # Errors
/// `Usage` with the flag and what is wrong with it.
pub fn cgroup(args: &RunArgs) -> Result<Cgroup, Fail> {
    let mode = match args.cgroups.as_deref() {
        None => CgroupMode::Auto,
        // The monitor is never in the container's group.
        Some("enabled" | "no-conmon") => CgroupMode::Enabled,
        Some("disabled" | "inherit") => CgroupMode::Inherit,
        Some("split") => CgroupMode::Split,
        Some(other) => {
            return Err(Fail::usage(format!("--cgroups `{other}` is not known"))
                .hint("known are enabled, inherit, disabled, split and no-conmon"));
        }
    };
    let parent = args
        .cgroup_parent
        .clone()
        .filter(|parent| !parent.is_empty());
    if parent.is_some() && matches!(mode, CgroupMode::Inherit | CgroupMode::Split) {
        return Err(
            Fail::usage("--cgroup-parent and --cgroups exclude each other").hint("leave one out"),
        );
    }
    Ok(Cgroup {
        mode,
        parent,
        resources: resources(&args.resources)?,
        rule: None,
    })
}

/// What the flags ask for.
///
/// # Errors
/// `Usage` with the flag and what is wrong with it.
pub fn resources(args: &ResourceArgs) -> Result<Resources, Fail> {
    refuse_gone(args)?;
    let bytes = |flag: &str, text: &Option<String>| {
        let text = text.as_deref();
        let parse = |text: &str| {
            size(text).map_err(|why| Fail::usage(format!("{flag} `{text}` makes no sense: {why}")))
        };
        // Docker's 0 is as if it were not there.
        text.map(parse)
            .transpose()
            .map(|bytes| bytes.filter(|bytes| *bytes > 0))
    };
    let rates = |flag: &str, list: &[String], is_size: IsSize| {
        list.iter()
            .map(|text| rate(flag, text, is_size))
            .collect::<Result<Vec<_>, _>>()
    };
    let conf = args.cgroup_conf.iter().map(|text| {
        let (key, value) = key_value("--cgroup-conf", text)?;
        if value.is_empty() {
            return Err(Fail::usage(format!(
                "--cgroup-conf `{text}` has no value behind the `=`"
            )));
        }
        Ok((key, value))
    });
    Ok(Resources {
        memory: bytes("--memory", &args.memory)?,
        memory_reservation: bytes("--memory-reservation", &args.memory_reservation)?,
        memory_swap: match args.memory_swap.as_deref() {
            Some("-1") => Some(-1),
            _ => bytes("--memory-swap", &args.memory_swap)?
                .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        },
        nano_cpus: args
            .cpus
            .as_deref()
            .map(nano)
            .transpose()?
            .filter(|nano| *nano > 0),
        cpu_shares: args.cpu_shares.filter(|shares| *shares > 0),
        cpu_period: args.cpu_period.filter(|period| *period > 0),
        cpu_quota: args.cpu_quota.filter(|quota| *quota != 0),
        cpuset_cpus: args.cpuset_cpus.clone().filter(|list| !list.is_empty()),
        cpuset_mems: args.cpuset_mems.clone().filter(|list| !list.is_empty()),
        pids: args
            .pids_limit
            .map(|most| if most == 0 { -1 } else { most }),
        blkio_weight: args.blkio_weight.filter(|weight| *weight > 0),
        blkio_weight_device: args
            .blkio_weight_device
            .iter()
            .map(|text| {
                let (path, number) = pair("--blkio-weight-device", text)?;
                let weight = number
                    .parse()
                    .map_err(|_| not_a_number("--blkio-weight-device", text))?;
                Ok((path, weight))
            })
            .collect::<Result<_, Fail>>()?,
        device_read_bps: rates("--device-read-bps", &args.device_read_bps, IsSize::Yes)?,
        device_write_bps: rates("--device-write-bps", &args.device_write_bps, IsSize::Yes)?,
        device_read_iops: rates("--device-read-iops", &args.device_read_iops, IsSize::No)?,
        device_write_iops: rates("--device-write-iops", &args.device_write_iops, IsSize::No)?,
        conf: conf.collect::<Result<_, _>>()?,
    })
}

/// What version 2 of the control groups has no place for.
fn refuse_gone(args: &ResourceArgs) -> Result<(), Fail> {
    let gone = |flag: &str, why: &str, hint: &str| {
        Err(Fail::unsupported(format!("{flag} cannot be had: {why}"))
            .hint(hint)
            .code("RL-C04"))
    };
    if args.oom_kill_disable {
        return gone(
            "--oom-kill-disable",
            "control groups of version 2 cannot keep the kernel from killing",
            "to slow a program down before it is killed: --cgroup-conf memory.high=SIZE",
        );
    }
    if args.kernel_memory.is_some() {
        return gone(
            "--kernel-memory",
            "control groups of version 2 count the kernel's memory with the program's own",
            "--memory limits both",
        );
    }
    // Docker's -1 is as if it were not there.
    if args.memory_swappiness.is_some_and(|percent| percent != -1) {
        return gone(
            "--memory-swappiness",
            "control groups of version 2 have no swappiness of their own",
            "to limit swap: --memory-swap",
        );
    }
    Ok(())
}

/// Whether a number may have a unit of size.
#[derive(Clone, Copy)]
enum IsSize {
    Yes,
    No,
}

fn rate(flag: &str, text: &str, is_size: IsSize) -> Result<(PathBuf, u64), Fail> {
    let (path, number) = pair(flag, text)?;
    let rate = match is_size {
        IsSize::Yes => size(number).ok(),
        IsSize::No => number.parse().ok(),
    };
    rate.map(|rate| (path, rate))
        .ok_or_else(|| not_a_number(flag, text))
}

fn pair<'a>(flag: &str, text: &'a str) -> Result<(PathBuf, &'a str), Fail> {
    device_and(text).ok_or_else(|| {
        Fail::usage(format!("{flag} `{text}` is not DEVICE:NUMBER"))
            .hint(format!("such as {flag} /dev/sda:100"))
    })
}

fn not_a_number(flag: &str, text: &str) -> Fail {
    Fail::usage(format!("{flag} `{text}` has no number behind the `:`"))
        .hint(format!("such as {flag} /dev/sda:100"))
}

/// Billionths of a CPU.
fn nano(text: &str) -> Result<u64, Fail> {
    let refused =
        || Fail::usage(format!("--cpus `{text}` is not a number")).hint("such as 2 or 0.5");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(refused());
    }
    if fraction.len() > 9 {
        return Err(refused().hint("nine digits after the point are the most"));
    }
    let part = |text: &str| {
        if text.is_empty() {
            Ok(0)
        } else {
            text.parse::<u64>().map_err(|_| refused())
        }
    };
    part(whole)?
        .checked_mul(1_000_000_000)
        .and_then(|nano| nano.checked_add(part(&format!("{fraction:0<9}")).ok()?))
        .ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::table;

    #[test]
    fn limits_are_read_as_docker_reads_them() {
        table(
            |spec| {
                let r = spec.cgroup.resources;
                (r.memory, r.memory_swap, r.nano_cpus, r.pids, r.cpu_shares)
            },
            &[
                ("", "(None, None, None, None, None)"),
                (
                    "-m 64m --memory-swap -1 --cpus 1.5 --pids-limit 7 -c 512",
                    "(Some(67108864), Some(-1), Some(1500000000), Some(7), Some(512))",
                ),
                (
                    "--memory 0 --cpus .5 --pids-limit 0",
                    "(None, None, Some(500000000), Some(-1), None)",
                ),
                (
                    "--memory lots",
                    "error: --memory `lots` makes no sense: give a size such as 512k, 64m, 1g or a number of bytes",
                ),
                ("--cpus x", "error: --cpus `x` is not a number"),
                ("--cpus -1", "error: --cpus `-1` is not a number"),
                (
                    "--cpus 99999999999999999999",
                    "error: --cpus `99999999999999999999` is not a number",
                ),
                (
                    "--oom-kill-disable",
                    "error: --oom-kill-disable cannot be had: control groups of version 2 cannot keep the kernel from killing",
                ),
                (
                    "--memory-swappiness 10",
                    "error: --memory-swappiness cannot be had: control groups of version 2 have no swappiness of their own",
                ),
                ("--memory-swappiness -1", "(None, None, None, None, None)"),
                (
                    "--kernel-memory 1g",
                    "error: --kernel-memory cannot be had: control groups of version 2 count the kernel's memory with the program's own",
                ),
            ],
        );
    }

    #[test]
    fn rates_of_disks_and_files_of_the_group_are_read() {
        table(
            |spec| {
                let r = spec.cgroup.resources;
                (r.device_read_bps, r.device_write_iops, r.conf)
            },
            &[
                (
                    "--device-read-bps /dev/sda:1mb --device-write-iops /dev/sda:10 --cgroup-conf memory.high=1G",
                    r#"([("/dev/sda", 1048576)], [("/dev/sda", 10)], {"memory.high": "1G"})"#,
                ),
                (
                    "--device-read-bps sda:1",
                    "error: --device-read-bps `sda:1` is not DEVICE:NUMBER",
                ),
                (
                    "--device-write-iops /dev/sda:1mb",
                    "error: --device-write-iops `/dev/sda:1mb` has no number behind the `:`",
                ),
                (
                    "--cgroup-conf memory.high",
                    "error: --cgroup-conf `memory.high` has no value behind the `=`",
                ),
            ],
        );
    }

    #[test]
    fn groups_are_chosen_by_podmans_words() {
        table(
            |spec| (spec.cgroup.mode, spec.cgroup.parent),
            &[
                ("--cgroups no-conmon", "(Enabled, None)"),
                ("--cgroups disabled", "(Inherit, None)"),
                ("--cgroup-parent a.slice", r#"(Auto, Some("a.slice"))"#),
                (
                    "--cgroups inherit --cgroup-parent a.slice",
                    "error: --cgroup-parent and --cgroups exclude each other",
                ),
                ("--cgroups some", "error: --cgroups `some` is not known"),
            ],
        );
    }
}
