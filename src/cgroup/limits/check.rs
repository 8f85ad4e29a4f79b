//! What docker checks before it makes a container: limits that make no sense, or that this machine cannot have.

use anyhow::Result;

use super::numbers;
use crate::error::Fail;
use crate::spec::Resources;

/// The least that docker allows: a program that is started with less dies before it can say why.
pub const LEAST_MEMORY: u64 = 6 << 20;

/// What the machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Bytes of memory; 0 when unknown.
    pub memory: u64,
    /// Numbers of the processors that work.
    pub cpus: Vec<u32>,
    /// Numbers of the memory nodes that work.
    pub mems: Vec<u32>,
}

impl Host {
    /// Looks.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let list = |path: &str| {
            numbers(text(path).trim())
                .filter(|list| !list.is_empty())
                .unwrap_or_else(|| vec![0])
        };
        Self {
            memory: meminfo(&text("/proc/meminfo")),
            cpus: list("/sys/devices/system/cpu/online"),
            mems: list("/sys/devices/system/node/online"),
        }
    }
}

fn meminfo(text: &str) -> u64 {
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

/// Checks what docker checks before it makes a container, and says what will have no effect.
///
/// # Errors
/// `Usage` with the flag and what is wrong with it.
pub fn check(resources: &Resources, host: &Host) -> Result<Vec<String>, Fail> {
    let mut notices = Vec::new();
    memory(resources, host, &mut notices)?;
    cpu(resources, host)?;
    for (flag, text, have, what) in [
        (
            "--cpuset-cpus",
            &resources.cpuset_cpus,
            &host.cpus,
            "processors",
        ),
        (
            "--cpuset-mems",
            &resources.cpuset_mems,
            &host.mems,
            "memory nodes",
        ),
    ] {
        let Some(text) = text else { continue };
        let wanted = numbers(text).ok_or_else(|| {
            Fail::usage(format!("{flag} `{text}` is no list of numbers"))
                .hint("give numbers and ranges: 0-2,4")
        })?;
        if let Some(missing) = wanted.iter().find(|number| !have.contains(number)) {
            return Err(
                Fail::usage(format!("{flag} `{text}`: there is no {missing} here"))
                    .hint(format!("this machine has the {what} {}", shown(have))),
            );
        }
    }
    if let Some(weight) = resources.blkio_weight.filter(|w| !(10..=1000).contains(w)) {
        return Err(Fail::usage(format!(
            "--blkio-weight {weight} is not from 10 to 1000"
        )));
    }
    for (device, weight) in &resources.blkio_weight_device {
        if !(10..=1000).contains(weight) {
            return Err(Fail::usage(format!(
                "--blkio-weight-device {}:{weight} is not from 10 to 1000",
                device.display()
            )));
        }
    }
    resources.conf.keys().try_for_each(|key| conf_key(key))?;
    Ok(notices)
}

/// `0-3` of `[0, 1, 2, 3]`.
fn shown(numbers: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => parts.push((*number, *number)),
        }
    }
    let part = |(first, last): &(u32, u32)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

fn memory(r: &Resources, host: &Host, notices: &mut Vec<String>) -> Result<(), Fail> {
    for (flag, bytes) in [
        ("--memory", r.memory),
        ("--memory-reservation", r.memory_reservation),
    ] {
        let Some(bytes) = bytes else { continue };
        if bytes < LEAST_MEMORY {
            return Err(Fail::usage(format!(
                "{flag} of {bytes} bytes is too little for any program"
            ))
            .hint("the least is 6m"));
        }
        if host.memory > 0 && bytes > host.memory {
            notices.push(format!(
                "{flag} is more than this machine has ({} MiB): it limits nothing",
                host.memory >> 20
            ));
        }
    }
    if let (Some(low), Some(most)) = (r.memory_reservation, r.memory)
        && low > most
    {
        return Err(Fail::usage(format!(
            "--memory-reservation of {low} bytes is more than --memory of {most}"
        ))
        .hint("it is the part of the limit that is kept for the container when memory is short"));
    }
    match (r.memory_swap, r.memory) {
        (None | Some(-1), _) => Ok(()),
        (Some(swap), _) if swap < 0 => Err(Fail::usage(format!(
            "--memory-swap {swap} is not a size, nor -1 for no limit"
        ))),
        (Some(_), None) => Err(Fail::usage("--memory-swap needs --memory")
            .hint("it is the limit of memory and swap together")),
        (Some(swap), Some(memory)) if swap.unsigned_abs() < memory => Err(Fail::usage(format!(
            "--memory-swap of {swap} bytes is less than --memory of {memory}"
        ))
        .hint("it is the limit of memory and swap together; the same value gives no swap")),
        (Some(_), Some(_)) => Ok(()),
    }
}

fn cpu(r: &Resources, host: &Host) -> Result<(), Fail> {
    if let Some(nano) = r.nano_cpus {
        if r.cpu_period.is_some() || r.cpu_quota.is_some() {
            return Err(
                Fail::usage("--cpus and --cpu-period or --cpu-quota exclude each other")
                    .hint("--cpus 1.5 is --cpu-quota 150000 with the usual period of 100000"),
            );
        }
        let most = host.cpus.len() as u64 * 1_000_000_000;
        if !(10_000_000..=most).contains(&nano) {
            return Err(Fail::usage(format!(
                "--cpus is from 0.01 to {}: this machine has that many",
                host.cpus.len()
            )));
        }
    }
    if let Some(period) = r.cpu_period.filter(|p| !(1000..=1_000_000).contains(p)) {
        return Err(Fail::usage(format!(
            "--cpu-period {period} is not from 1000 to 1000000 microseconds"
        )));
    }
    if let Some(quota) = r.cpu_quota.filter(|quota| *quota != -1 && *quota < 1000) {
        return Err(Fail::usage(format!(
            "--cpu-quota {quota} is less than 1000 microseconds"
        ))
        .hint("-1 is without limit"));
    }
    if let Some(shares) = r.cpu_shares.filter(|shares| *shares > 262_144) {
        return Err(Fail::usage(format!(
            "--cpu-shares {shares} is more than 262144"
        )));
    }
    if let Some(pids) = r.pids.filter(|pids| *pids < -1) {
        return Err(Fail::usage(format!(
            "--pids-limit {pids} is not a number, nor -1 for no limit"
        )));
    }
    Ok(())
}

/// Files that rl itself writes: a group that was changed behind its back could not be frozen or removed.
const OURS: [&str; 6] = [
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.subtree_control",
    "cgroup.type",
    "cgroup.freeze",
    "cgroup.kill",
];

fn conf_key(key: &str) -> Result<(), Fail> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let known = key
        .split_once('.')
        .is_some_and(|(controller, rest)| !controller.is_empty() && !rest.is_empty())
        && key.bytes().all(is_word)
        && !key.contains("..");
    if !known {
        return Err(
            Fail::usage(format!("--cgroup-conf: `{key}` is no file of a group"))
                .hint("give a name such as memory.high, cpu.weight or io.max"),
        );
    }
    if OURS.contains(&key) {
        return Err(Fail::usage(format!(
            "--cgroup-conf: `{key}` is not a limit, rl itself uses it"
        ))
        .hint("rl pause, rl kill and rl limit are for that"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            memory: 4 << 30,
            cpus: vec![0, 1, 3],
            mems: vec![0],
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let none = Resources::default;
        for (resources, message) in [
            (
                Resources {
                    memory: Some(1 << 20),
                    ..none()
                },
                "--memory of 1048576 bytes is too little",
            ),
            (
                Resources {
                    memory_swap: Some(1 << 30),
                    ..none()
                },
                "--memory-swap needs --memory",
            ),
            (
                Resources {
                    memory: Some(2 << 30),
                    memory_swap: Some(1 << 30),
                    ..none()
                },
                "is less than --memory",
            ),
            (
                Resources {
                    memory: Some(1 << 30),
                    memory_reservation: Some(2 << 30),
                    ..none()
                },
                "is more than --memory",
            ),
            (
                Resources {
                    nano_cpus: Some(4_000_000_000),
                    ..none()
                },
                "from 0.01 to 3",
            ),
            (
                Resources {
                    nano_cpus: Some(1),
                    ..none()
                },
                "from 0.01 to 3",
            ),
            (
                Resources {
                    nano_cpus: Some(1_000_000_000),
                    cpu_quota: Some(1),
                    ..none()
                },
                "exclude each other",
            ),
            (
                Resources {
                    cpu_period: Some(1),
                    ..none()
                },
                "--cpu-period 1 ",
            ),
            (
                Resources {
                    cpu_quota: Some(10),
                    ..none()
                },
                "--cpu-quota 10 ",
            ),
            (
                Resources {
                    cpuset_cpus: Some("0-2".to_owned()),
                    ..none()
                },
                "there is no 2 here",
            ),
            (
                Resources {
                    cpuset_cpus: Some("a".to_owned()),
                    ..none()
                },
                "no list of numbers",
            ),
            (
                Resources {
                    cpuset_mems: Some("1".to_owned()),
                    ..none()
                },
                "there is no 1 here",
            ),
            (
                Resources {
                    pids: Some(-2),
                    ..none()
                },
                "--pids-limit -2",
            ),
            (
                Resources {
                    blkio_weight: Some(5),
                    ..none()
                },
                "--blkio-weight 5",
            ),
            (
                Resources {
                    conf: [("cgroup.procs".to_owned(), "1".to_owned())].into(),
                    ..none()
                },
                "rl itself",
            ),
            (
                Resources {
                    conf: [("../memory.max".to_owned(), "1".to_owned())].into(),
                    ..none()
                },
                "no file of a group",
            ),
        ] {
            let fail = check(&resources, &host()).expect_err(message);
            assert!(
                fail.message.contains(message),
                "{message}: {}",
                fail.message
            );
        }
        let much = Resources {
            memory: Some(8 << 30),
            ..none()
        };
        assert_eq!(check(&much, &host()).expect("fine").len(), 1);
    }

    #[test]
    fn lists_of_numbers_are_read_and_shown() {
        assert_eq!(numbers("0-2,4"), Some(vec![0, 1, 2, 4]));
        assert_eq!(shown(&[0, 1, 2, 4]), "0-2,4");
        for bad in ["", "a", "2-1", "1-", "0-99999999"] {
            assert_eq!(numbers(bad), None, "{bad}");
        }
    }
}
