//! `state`, `list`, `ps`, `events`: what is true of containers, in runc's words.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::state::{Container, Shown, Status};
use super::{Global, print};
use crate::cgroup::Group;
use crate::error::Fail;

/// `state`.
///
/// # Errors
/// No such container.
pub fn state(id: &str, global: &Global) -> Result<()> {
    let container = global.store().open(id)?;
    let shown = Shown {
        owner: String::new(), // runc's: only `list` has one
        ..container.shown()
    };
    let shown = serde_json::to_string_pretty(&shown).context("writing JSON")?;
    print(&format!("{shown}\n"))
}

/// `list`.
///
/// # Errors
/// An unknown format.
pub fn list(format: &str, quiet: bool, global: &Global) -> Result<()> {
    let store = global.store();
    let mut all = Vec::new();
    for id in store.ids() {
        match store.open(&id) {
            Ok(container) => all.push(container.shown()),
            // One that was removed meanwhile, or is damaged: the others are listed.
            Err(error) => global.warn(&format!("{id}: {error:#}")),
        }
    }
    if quiet {
        return print(
            &all.iter()
                .map(|one| format!("{}\n", one.id))
                .collect::<String>(),
        );
    }
    match format {
        "table" => {
            let mut table = tabwriter::TabWriter::new(Vec::new()).minwidth(9).padding(3);
            let doing = "writing the table";
            writeln!(table, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER").context(doing)?;
            for one in &all {
                let bundle = one.bundle.display();
                writeln!(
                    table,
                    "{}\t{}\t{}\t{bundle}\t{}\t{}",
                    one.id, one.pid, one.status, one.created, one.owner
                )
                .context(doing)?;
            }
            let text = table.into_inner().map_err(|_| Fail::system(doing))?;
            print(&String::from_utf8_lossy(&text))
        }
        "json" if all.is_empty() => print("null\n"),
        "json" => print(&format!(
            "{}\n",
            serde_json::to_string(&all).context("writing JSON")?
        )),
        other => Err(Fail::usage(format!("invalid format option `{other}`: table or json")).into()),
    }
}

/// `ps`: the processes of a container, as `ps` of the host shows them.
///
/// # Errors
/// It does not run; there is no `ps`.
pub fn ps(id: &str, format: &str, words: &[String], global: &Global) -> Result<()> {
    let container = global.store().open(id)?;
    if container.status() == Status::Stopped {
        return Err(Fail::conflict("container not running").into());
    }
    let pids = super::processes::of_container(&container)?;
    match format {
        "json" => {
            return print(&format!(
                "{}\n",
                serde_json::to_string(&pids).context("writing JSON")?
            ));
        }
        "table" => {}
        other => {
            return Err(
                Fail::usage(format!("invalid format option `{other}`: table or json")).into(),
            );
        }
    }
    let words: Vec<&str> = if words.is_empty() {
        vec!["-ef"]
    } else {
        words.iter().map(String::as_str).collect()
    };
    let output = std::process::Command::new("ps")
        .args(&words)
        .output()
        .context("starting ps")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Fail::system(format!("ps: {}", said.trim())).into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let column = head
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| Fail::usage("couldn't find PID field in ps output"))?;
    let mut shown = format!("{head}\n");
    for line in lines {
        let pid = line.split_whitespace().nth(column);
        let pid: Option<i32> = pid.and_then(|text| text.parse().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            shown.push_str(line);
            shown.push('\n');
        }
    }
    print(&shown)
}

/// `events`: figures, once or again and again, and notices of memory that ran out.
///
/// # Errors
/// It does not run, or has no group.
pub fn events(id: &str, stats: bool, interval: Duration, global: &Global) -> Result<()> {
    let container = global.store().open(id)?;
    if container.status() == Status::Stopped {
        return Err(Fail::conflict(format!("container with id {id} is not running")).into());
    }
    if interval.is_zero() {
        return Err(Fail::usage("duration interval must be greater than 0").into());
    }
    let group = container.record.place.need("show figures")?;
    if stats {
        return print(&event(id, "stats", Some(&figures(&group, &container))));
    }
    let killed = || group.keyed("memory.events", "oom_kill").unwrap_or(0);
    let mut before = killed();
    while container.open_process()?.is_some() {
        let now = killed();
        for _ in before..now {
            print(&event(id, "oom", None))?;
        }
        before = now;
        print(&event(id, "stats", Some(&figures(&group, &container))))?;
        let until = std::time::Instant::now() + interval;
        if let Some(pidfd) = container.open_process()? {
            // Its end is noticed at once.
            let left = until.saturating_duration_since(std::time::Instant::now());
            let timeout = rustix::time::Timespec::try_from(left).ok();
            let mut fds = [rustix::event::PollFd::new(
                &pidfd,
                rustix::event::PollFlags::IN,
            )];
            let _ = rustix::event::poll(&mut fds, timeout.as_ref()); // interrupted: a round earlier
        }
    }
    Ok(())
}

fn event(id: &str, kind: &str, data: Option<&Value>) -> String {
    let mut all = Map::new();
    all.insert("type".to_owned(), json!(kind));
    all.insert("id".to_owned(), json!(id));
    if let Some(data) = data {
        all.insert("data".to_owned(), data.clone());
    }
    format!("{}\n", Value::Object(all))
}

/// In the shape of runc's `types.Stats`, out of the files of a group of version 2.
fn figures(group: &Group, container: &Container) -> Value {
    let number = |file: &str| -> Option<u64> {
        let text = group.read(file).ok()?;
        if text == "max" {
            return Some(u64::MAX);
        }
        text.parse().ok()
    };
    let keyed = |file: &str| -> BTreeMap<String, u64> {
        let text = group.read(file).unwrap_or_default();
        let pair = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.parse().ok()?))
        };
        text.lines().filter_map(pair).collect()
    };
    let cpu = keyed("cpu.stat");
    let of = |key: &str| cpu.get(key).copied().unwrap_or(0);
    let mut throttling = Map::new();
    for (name, key, factor) in [
        ("periods", "nr_periods", 1),
        ("throttledPeriods", "nr_throttled", 1),
        ("throttledTime", "throttled_usec", 1000),
    ] {
        if of(key) != 0 {
            throttling.insert(name.to_owned(), json!(of(key) * factor));
        }
    }
    let entry = |prefix: &str| {
        let mut all = Map::new();
        for (name, file) in [
            ("limit", format!("{prefix}.max")),
            ("usage", format!("{prefix}.current")),
            ("max", format!("{prefix}.peak")),
        ] {
            let value = number(&file).unwrap_or(0);
            if name == "limit" || value != 0 {
                all.insert(name.to_owned(), json!(value));
            }
        }
        let failed = group.keyed(&format!("{prefix}.events"), "max").unwrap_or(0);
        all.insert("failcnt".to_owned(), json!(failed));
        Value::Object(all)
    };
    let mut pids = Map::new();
    for (name, file) in [("current", "pids.current"), ("limit", "pids.max")] {
        if let Some(value) = number(file).filter(|value| *value != u64::MAX) {
            pids.insert(name.to_owned(), json!(value));
        }
    }
    let processes = super::processes::of_container(container).unwrap_or_default();
    if !pids.contains_key("current") {
        pids.insert("current".to_owned(), json!(processes.len()));
    }
    let hugetlb: Map<String, Value> = huge_pages()
        .into_iter()
        .map(|size| {
            let mut all = Map::new();
            for (name, file) in [("usage", "current"), ("max", "peak")] {
                let value = number(&format!("hugetlb.{size}.{file}")).unwrap_or(0);
                if value != 0 {
                    all.insert(name.to_owned(), json!(value));
                }
            }
            let failed = group.keyed(&format!("hugetlb.{size}.events"), "max");
            all.insert("failcnt".to_owned(), json!(failed.unwrap_or(0)));
            (size, Value::Object(all))
        })
        .collect();
    let mut memory = Map::new();
    let raw = keyed("memory.stat");
    if let Some(cache) = raw.get("file").filter(|cache| **cache != 0) {
        memory.insert("cache".to_owned(), json!(cache));
    }
    memory.insert("usage".to_owned(), entry("memory"));
    memory.insert("swap".to_owned(), entry("memory.swap"));
    for name in ["kernel", "kernelTCP"] {
        memory.insert(name.to_owned(), json!({"limit": 0, "failcnt": 0}));
    }
    if !raw.is_empty() {
        memory.insert("raw".to_owned(), json!(raw));
    }
    json!({
        "cpu": {
            "usage": {
                "total": of("usage_usec") * 1000,
                "kernel": of("system_usec") * 1000,
                "user": of("user_usec") * 1000,
            },
            "throttling": throttling,
        },
        // What only version 1 has is zero there, too.
        "cpuset": {
            "cpu_exclusive": 0,
            "mem_exclusive": 0,
            "mem_hardwall": 0,
            "memory_migrate": 0,
            "memory_pressure": 0,
            "memory_spread_page": 0,
            "memory_spread_slab": 0,
            "sched_load_balance": 0,
            "sched_relax_domain_level": 0,
        },
        "memory": memory,
        "pids": pids,
        "blkio": block_io(group),
        "hugetlb": hugetlb,
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// The sizes of the machine's huge pages, as control groups write them: `2MB`, `1GB`.
fn huge_pages() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages");
    let sizes = entries.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        let kib: u64 = kib.parse().ok()?;
        Some(match kib {
            1_048_576.. => format!("{}GB", kib >> 20),
            1024.. => format!("{}MB", kib >> 10),
            _ => format!("{kib}KB"),
        })
    });
    sizes.collect()
}

/// `io.stat` in the shape of version 1's lists.
fn block_io(group: &Group) -> Value {
    let text = group.read("io.stat").unwrap_or_default();
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else {
            continue;
        };
        let device = |op: &str, value: u64| {
            json!({
                "major": major.parse::<u64>().unwrap_or(0),
                "minor": minor.parse::<u64>().unwrap_or(0),
                "op": op,
                "value": value,
            })
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => bytes.push(device("Read", value)),
                "wbytes" => bytes.push(device("Write", value)),
                "rios" => operations.push(device("Read", value)),
                "wios" => operations.push(device("Write", value)),
                _ => {}
            }
        }
    }
    let mut all = Map::new();
    if !bytes.is_empty() {
        all.insert("ioServiceBytesRecursive".to_owned(), json!(bytes));
    }
    if !operations.is_empty() {
        all.insert("ioServicedRecursive".to_owned(), json!(operations));
    }
    Value::Object(all)
}
