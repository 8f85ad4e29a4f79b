//! Named groups from systemd: a slice of the user's manager, which stays without processes.
//!
//! A slice is systemd's to arrange, so each limit is written twice: as the property that it keeps the file by, and into
//! the file, which is read back. What runs in it has a scope of its own. Source: systemd.resource-control(5),
//! systemd.slice(5): a hyphen in a name would be a slice above.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::limits::{self, Setting};
use super::systemd::{Manager, Property, Value};
use super::{Group, controllers};
use crate::error::Fail;

const BEFORE: &str = "rl_limit_";
const AFTER: &str = ".slice";

/// How long systemd may take to hand one more controller down to a slice: it tells nobody when it has.
const PATIENCE: Duration = Duration::from_secs(5);

/// The slice of a named group.
#[must_use]
pub fn unit(name: &str) -> String {
    format!("{BEFORE}{}{AFTER}", name.replace('-', "\\x2d"))
}

/// The named group of a slice.
#[must_use]
pub fn name_of(unit: &str) -> Option<String> {
    let name = unit.strip_prefix(BEFORE)?.strip_suffix(AFTER)?;
    Some(name.replace("\\x2d", "-"))
}

/// The slice that this group is.
#[must_use]
pub fn of(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    name_of(name).map(|_| name)
}

/// Makes one.
///
/// # Errors
/// The limit that cannot be had, what systemd answers. Nothing is left then.
pub fn make(manager: &Manager, name: &str, settings: &[Setting]) -> Result<Group> {
    let unit = unit(name);
    let root = manager.root();
    let available = handed_down(&root, settings)?;
    let mut all = vec![
        ("Description", Value::Text(format!("rl limit {name}"))),
        ("MemoryAccounting", Value::Flag(true)),
        ("TasksAccounting", Value::Flag(true)),
    ];
    // Without a weight, the controller is handed down only when somebody else needs it.
    for (controller, property) in [("cpu", "CPUWeight"), ("io", "IOWeight")] {
        if available.split_whitespace().any(|one| one == controller) {
            all.push((property, Value::Number(100)));
        }
    }
    all.extend(properties(settings)?);
    manager.start_slice(&unit, &all)?;
    let made = Group::open(&root.join(&unit))
        .map_err(anyhow::Error::from)
        .and_then(|group| write(&group, settings).map(|()| group));
    if made.is_err() {
        let _ = manager.stop(&unit); // the first error is the one that matters
    }
    made
}

/// Gives one that is there these limits: what is not named stays as it is.
///
/// # Errors
/// As [`make`]; the old limits may be lost for those that systemd has taken.
pub fn change(manager: &Manager, group: &Group, settings: &[Setting]) -> Result<()> {
    handed_down(&manager.root(), settings)?;
    let unit = of(group.path()).unwrap_or_default();
    manager.set_properties(unit, &properties(settings)?)?;
    write(group, settings)
}

/// Removes one, and returns when it is gone.
///
/// # Errors
/// What systemd answers.
pub fn remove(manager: &Manager, group: &Group) -> Result<()> {
    let path = group.path();
    let unit = of(path).unwrap_or_default();
    manager.stop(unit)
}

/// What the manager could hand down, when these settings need nothing else.
fn handed_down(root: &Path, settings: &[Setting]) -> Result<String, Fail> {
    let available = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    match settings.iter().find(|one| {
        let wanted = one.controller();
        !available.split_whitespace().any(|name| name == wanted)
    }) {
        None => Ok(available),
        Some(one) => Err(controllers::not_handed_down(
            one.flag,
            one.controller(),
            root,
        )),
    }
}

fn write(group: &Group, settings: &[Setting]) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let missing = || {
        settings
            .iter()
            .any(|one| !one.optional && !group.has(&one.file))
    };
    while missing() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    limits::write_all(group, settings)
}

/// Systemd's properties for files of a group.
///
/// # Errors
/// `Unsupported` for a file that it has no property for; `Usage` for a text that is none.
pub fn properties(settings: &[Setting]) -> Result<Vec<Property>, Fail> {
    let mut all = Vec::new();
    for setting in settings {
        all.extend(property(setting)?);
    }
    Ok(all)
}

fn property(setting: &Setting) -> Result<Vec<Property>, Fail> {
    let text = setting.text.as_str();
    let amount = |property, number: Option<u64>| Some(vec![(property, Value::Number(number?))]);
    let found = match setting.file.as_str() {
        "memory.max" => amount("MemoryMax", bytes(text)),
        "memory.high" => amount("MemoryHigh", bytes(text)),
        "memory.low" => amount("MemoryLow", bytes(text)),
        "memory.min" => amount("MemoryMin", bytes(text)),
        "memory.swap.max" => amount("MemorySwapMax", bytes(text)),
        "pids.max" => amount("TasksMax", bytes(text)),
        "cpu.weight" => amount("CPUWeight", text.parse().ok()),
        "cpu.max" => quota(text),
        "cpuset.cpus" => mask(text).map(|mask| vec![("AllowedCPUs", mask)]),
        "cpuset.mems" => mask(text).map(|mask| vec![("AllowedMemoryNodes", mask)]),
        "io.weight" => weight(text),
        "io.max" => rates(text),
        file => {
            return Err(Fail::unsupported(format!(
                "{}: systemd has no property for {file}, and would not keep it for a named group",
                setting.flag
            ))
            .hint("in a shell that is handed over to you it can be had: systemd-run --user --scope -p Delegate=yes $SHELL"));
        }
    };
    found.ok_or_else(|| {
        Fail::usage(format!(
            "{}: `{text}` makes no sense for {}",
            setting.flag, setting.file
        ))
    })
}

/// A size as the kernel reads it: `max`, or a number with K, M, G or T behind.
fn bytes(text: &str) -> Option<u64> {
    if text == "max" {
        return Some(u64::MAX);
    }
    let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// `QUOTA PERIOD` in microseconds becomes microseconds in a second.
fn quota(text: &str) -> Option<Vec<Property>> {
    let (quota, period) = text.split_once(' ').unwrap_or((text, "100000"));
    let period: u64 = period.parse().ok().filter(|period| *period > 0)?;
    let in_a_second = match quota {
        "max" => u64::MAX,
        quota => quota.parse::<u64>().ok()?.checked_mul(1_000_000)? / period,
    };
    Some(vec![
        ("CPUQuotaPerSecUSec", Value::Number(in_a_second)),
        ("CPUQuotaPeriodUSec", Value::Number(period)),
    ])
}

fn mask(list: &str) -> Option<Value> {
    let numbers = limits::numbers(list)?;
    let mut bytes = vec![0; *numbers.last()? as usize / 8 + 1];
    for number in numbers {
        bytes[number as usize / 8] |= 1 << (number % 8);
    }
    Some(Value::Mask(bytes))
}

fn device(number: &str) -> String {
    format!("/dev/block/{number}")
}

/// `100`, `default 100`, `8:0 100`.
fn weight(text: &str) -> Option<Vec<Property>> {
    let (of, weight) = text.split_once(' ').unwrap_or(("default", text));
    let weight = weight.parse().ok()?;
    Some(vec![if of == "default" {
        ("IOWeight", Value::Number(weight))
    } else {
        ("IODeviceWeight", Value::Devices(vec![(device(of), weight)]))
    }])
}

/// `8:0 rbps=1048576 wiops=max`.
fn rates(text: &str) -> Option<Vec<Property>> {
    let (of, rates) = text.split_once(' ')?;
    let rate = |rate: &str| {
        let (key, most) = rate.split_once('=')?;
        let property = match key {
            "rbps" => "IOReadBandwidthMax",
            "wbps" => "IOWriteBandwidthMax",
            "riops" => "IOReadIOPSMax",
            "wiops" => "IOWriteIOPSMax",
            _ => return None,
        };
        Some((property, Value::Devices(vec![(device(of), bytes(most)?)])))
    };
    rates.split(' ').map(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(file: &str, text: &str) -> Setting {
        Setting {
            flag: "--x",
            file: file.to_owned(),
            text: text.to_owned(),
            optional: false,
        }
    }

    #[test]
    fn a_slice_has_the_name_of_its_group_and_no_slice_above() {
        assert_eq!(unit("a-b.c"), "rl_limit_a\\x2db.c.slice");
        assert_eq!(name_of(&unit("a-b.c")).as_deref(), Some("a-b.c"));
        for other in ["app.slice", "rl-limit-1.scope", "rl_limit_x.scope"] {
            assert_eq!(name_of(other), None);
        }
    }

    #[test]
    fn files_become_properties() {
        let number = |name, number| vec![(name, Value::Number(number))];
        let at_disk = |name, number| {
            let device = ("/dev/block/8:0".to_owned(), number);
            (name, Value::Devices(vec![device]))
        };
        for (file, text, expected) in [
            ("memory.max", "67108864", number("MemoryMax", 64 << 20)),
            ("memory.high", "1G", number("MemoryHigh", 1 << 30)),
            ("memory.swap.max", "max", number("MemorySwapMax", u64::MAX)),
            ("pids.max", "7", number("TasksMax", 7)),
            ("cpu.weight", "50", number("CPUWeight", 50)),
            ("io.weight", "default 50", number("IOWeight", 50)),
            ("io.weight", "8:0 50", vec![at_disk("IODeviceWeight", 50)]),
            (
                "cpu.max",
                "75000 50000",
                vec![
                    ("CPUQuotaPerSecUSec", Value::Number(1_500_000)),
                    ("CPUQuotaPeriodUSec", Value::Number(50_000)),
                ],
            ),
            (
                "cpuset.cpus",
                "0-1,9",
                vec![("AllowedCPUs", Value::Mask(vec![3, 2]))],
            ),
            (
                "io.max",
                "8:0 rbps=5 wiops=max",
                vec![
                    at_disk("IOReadBandwidthMax", 5),
                    at_disk("IOWriteIOPSMax", u64::MAX),
                ],
            ),
        ] {
            let found = properties(&[setting(file, text)]);
            assert_eq!(found, Ok(expected), "{file} {text}");
        }
        for (file, text) in [
            ("memory.max", "lots"),
            ("memory.max", "99999999T"),
            ("cpu.max", "1 0"),
            ("cpuset.cpus", ""),
            ("io.max", "8:0"),
            ("cpu.idle", "1"),
        ] {
            let refused = properties(&[setting(file, text)]).unwrap_err();
            assert!(refused.message.contains(file), "{refused:?}");
        }
    }
}
