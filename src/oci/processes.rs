//! Which processes belong to a container: those of its group, or of its pid namespace.

use std::os::unix::fs::MetadataExt as _;

use anyhow::Result;

use super::state::Container;
use crate::cgroup::Group;

/// Their numbers on the host, sorted.
///
/// # Errors
/// When the group has vanished.
pub fn of_container(container: &Container) -> Result<Vec<i32>> {
    let Some(process) = container
        .record
        .process
        .as_ref()
        .filter(|process| process.is_alive())
    else {
        return Ok(Vec::new());
    };
    let mut pids = match container.record.place.group() {
        Some(group) => of_group(&group),
        None => of_namespace(process.pid),
    };
    pids.sort_unstable();
    Ok(pids)
}

fn of_group(group: &Group) -> Vec<i32> {
    let mut pids = group.processes().unwrap_or_default(); // one that vanishes has none
    for child in group.children() {
        pids.extend(of_group(&child));
    }
    pids
}

/// Those of the pid namespace of `pid`, when it is not ours.
fn of_namespace(pid: i32) -> Vec<i32> {
    let number = |pid: &str| {
        let meta = std::fs::metadata(format!("/proc/{pid}/ns/pid")).ok()?;
        Some((meta.dev(), meta.ino()))
    };
    let wanted = number(&pid.to_string());
    if wanted.is_none() || wanted == number("self") {
        return vec![pid];
    }
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|name| number(name) == wanted)
        .filter_map(|name| name.parse().ok())
        .collect()
}
