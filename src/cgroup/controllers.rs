//! How controllers come down to a group: asked for in each group above, which must have no processes of its own then.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::Timespec;

use super::limits::Setting;
use super::place::{DELEGATE, Ours};
use super::{Group, MOUNT, SELF};
use crate::error::Fail;
use crate::sys;

/// How often a group is emptied until it hands controllers down: others start processes in it meanwhile.
pub(super) const ROUNDS: usize = 100;
/// How long one round waits for a process that ends.
const ENDING: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// Lets a group that exists have the controllers that these settings need.
///
/// # Errors
/// Which one is not handed down, and where it stops.
pub fn equip(group: &Group, settings: &[Setting]) -> Result<()> {
    match group.path().parent() {
        Some(parent) if !settings.is_empty() => {
            let parent = Group::open(parent)?;
            let _held = hold(&parent)?;
            hand_down_all(&parent, settings)
        }
        _ => Ok(()),
    }
}

/// The lock of a group that hands controllers down, until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    _lock: Group,
}

/// Keeps whoever ends from taking back what is handed down, until a group below is there: nothing is taken back from
/// beside one.
///
/// # Errors
/// That the group is gone, or the file system has no locks.
pub(super) fn hold(group: &Group) -> Result<Held> {
    // Opened anew: the lock ends with this, not with the caller's own.
    let own = Group::open(group.path())?;
    rustix::fs::flock(&own, FlockOperation::LockExclusive)
        .with_context(|| format!("locking `{}`", group.path().display()))?;
    Ok(Held { _lock: own })
}

/// What a group hands down, and could.
pub(super) fn controllers(group: &Group, file: &str) -> Result<BTreeSet<String>> {
    let text = group.read(file)?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Lets the groups below have the controllers that these settings need; with one of them, all there are: `stats` then
/// counts everything, and a group that runs out of memory is killed as one. Where processes run below already, `cpuset` comes
/// only when it is needed: late, it takes away the processors that they chose (`taskset`). KERNEL(6.2): it keeps these since.
///
/// # Errors
/// The controller that does not come down to here.
pub fn hand_down(group: &Group, settings: &[Setting]) -> Result<()> {
    if settings.is_empty() {
        return Ok(());
    }
    hand_down_all(group, settings)
}

pub(super) fn hand_down_all(group: &Group, settings: &[Setting]) -> Result<()> {
    for setting in settings {
        fetch(setting.controller(), group.path());
    }
    let enabled = controllers(group, "cgroup.subtree_control")?;
    let available = controllers(group, "cgroup.controllers")?;
    let mut needed = BTreeSet::new();
    for setting in settings {
        let wanted = setting.controller();
        if wanted == "cgroup" {
            continue;
        }
        if !available.contains(wanted) {
            return Err(not_handed_down(setting.flag, wanted, group.path()).into());
        }
        needed.insert(wanted.to_owned());
    }
    let leaf = group.path().join(SELF);
    let serves = group.children().iter().any(|below| below.path() != leaf);
    let mut gentle = available.clone();
    gentle.retain(|name| name != "cpuset" || needed.contains(name));
    // One that nobody needs may be what is in the way: `cpuset` beside a setuid program.
    let mut choices = vec![&available, &gentle, &needed];
    if serves {
        choices.remove(0);
    }
    let mut refused = None;
    for choice in choices {
        if choice.is_subset(&enabled) {
            return Ok(());
        }
        match write_down(group, &plus(choice))? {
            Ok(()) => return Ok(()),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        None => Ok(()),
        Some(error) => Err(error)
            .with_context(|| format!("handing controllers down from `{}`", group.path().display())),
    }
}

/// Writes `cgroup.subtree_control`, with the group's own processes moved out of the way. Inside: the kernel's refusal.
fn write_down(group: &Group, words: &str) -> Result<sys::Result<()>> {
    for _ in 0..ROUNDS {
        match group.write("cgroup.subtree_control", words) {
            Err(error) if error.errno == Errno::BUSY => empty(group)?,
            done => return Ok(done),
        }
    }
    Err(Fail::conflict(format!(
        "processes are started in `{}` faster than they can be moved out of the way",
        group.path().display()
    ))
    .hint("a group with processes of its own hands no controllers down: try again when it is quiet")
    .into())
}

/// Hands a controller down from a group above, when that is ours as well and only nobody has done it yet.
pub(super) fn fetch(controller: &str, group: &Path) {
    let has = |dir: &Path| {
        std::fs::read_to_string(dir.join("cgroup.controllers"))
            .is_ok_and(|text| text.split_whitespace().any(|name| name == controller))
    };
    let Some(parent) = group.parent() else { return };
    if has(group) || Ours::look(parent) != Ours::Yes {
        return;
    }
    fetch(controller, parent);
    if let Ok(parent) = Group::open(parent) {
        // What it refuses is said by whoever misses the controller.
        let _ = parent.write("cgroup.subtree_control", &format!("+{controller}"));
    }
}

fn plus(names: &BTreeSet<String>) -> String {
    let words: Vec<String> = names.iter().map(|name| format!("+{name}")).collect();
    words.join(" ")
}

/// One that ends is moved no more, and stands where it is until the scheduler has let it end: waits for that, not long.
/// Source: `cgroup_migrate_add_task()` in the kernel's `kernel/cgroup/cgroup.c`.
pub(super) fn await_end(pid: i32) {
    let opened = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if let Some(pidfd) = opened {
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        // Whoever asks looks again.
        let _ = rustix::event::poll(&mut fds, Some(&ENDING));
    }
}

/// Puts all processes of a group into a leaf of it: its limits hold for them as before.
fn empty(group: &Group) -> Result<()> {
    let leaf = match group.create(SELF) {
        Err(error) if error.errno == Errno::EXIST => Group::open(&group.path().join(SELF)),
        made => made,
    }?;
    move_all(group, &leaf)
}

/// Moves the processes of one group into another; some may have come meanwhile.
pub(super) fn move_all(from: &Group, to: &Group) -> Result<()> {
    for pid in from.processes()? {
        match to.enter(pid) {
            Ok(()) => {}
            Err(error) if error.errno == Errno::SRCH => {}
            Err(error) => {
                return Err(anyhow::Error::from(error).context(format!(
                    "moving process {pid} out of the way, into `{}`",
                    to.path().display()
                )));
            }
        }
    }
    if let Some(pid) = from.processes()?.first() {
        await_end(*pid);
    }
    Ok(())
}

/// Why a limit cannot be had: the group where its controller stops, and who can change that.
#[must_use]
pub fn not_handed_down(flag: &str, controller: &str, group: &Path) -> Fail {
    let has = |dir: &Path| {
        std::fs::read_to_string(dir.join("cgroup.controllers"))
            .is_ok_and(|text| text.split_whitespace().any(|name| name == controller))
    };
    let above = group.ancestors().skip(1);
    let stops = above
        .take_while(|dir| dir.starts_with(MOUNT))
        .find(|dir| has(dir));
    let Some(stops) = stops else {
        return Fail::unsupported(format!(
            "{flag} cannot be had: this kernel has no controller `{controller}` for control groups of version 2"
        ))
        .hint("it was left out of the kernel, or version 1 has it: see /proc/cgroups and /sys/fs/cgroup/cgroup.controllers")
        .code("RL-C02");
    };
    let fail = Fail::unsupported(format!(
        "{flag} cannot be had: the controller `{controller}` is not handed down to you, it stops at `{}`",
        stops.display()
    ))
    .code("RL-C02");
    let by_systemd = stops
        .components()
        .chain(group.components())
        .any(|part| part.as_os_str().to_string_lossy().ends_with(".slice"));
    if by_systemd {
        fail.hint(format!("your administrator can hand it on: {DELEGATE}"))
    } else {
        fail.hint(format!(
            "whoever owns that group can hand it on: echo +{controller} > {}/cgroup.subtree_control",
            stops.display()
        ))
    }
}
