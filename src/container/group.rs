//! A container's control group: made before its first process, removed after its last, found again by others.
//!
//! `state.json` remembers it; a group that was made later (`rl pause` of a container without one) is found by the
//! group that pid 1 is in. Whether a container is paused is the kernel's to say, and is written down nowhere.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::emit;
use super::events::Event;
use super::processes;
use super::record::Record;
use super::state::{State, Status};
use super::view::Seen;
use crate::cgroup::{self, Group, controllers, life, limits, place, scope};
use crate::error::{self, Fail};
use crate::spec::{CgroupMode, ContainerSpec, Namespace, Resources, Restart};
use crate::sys;
use crate::sys::process::Child;

/// Makes it; `None` where the container stays in the caller's.
///
/// # Errors
/// What keeps a limit that was asked for from being set.
pub fn make(spec: &ContainerSpec) -> Result<Option<Group>> {
    life::make(spec).map_err(|error| match &spec.cgroup.rule {
        Some(_) => by_rule(error::flatten(&error), spec).into(),
        None => error,
    })
}

/// Checks that it could be made from here.
///
/// # Errors
/// As [`make`].
pub fn check(spec: &ContainerSpec) -> Result<Vec<String>, Fail> {
    let resources = &spec.cgroup.resources;
    let checked = match resources.is_empty() {
        true => Ok(Vec::new()),
        false => limits::check::check(resources, &limits::check::Host::read()),
    };
    checked
        .and_then(|notices| life::check(&spec.cgroup).map(|()| notices))
        .map_err(|fail| by_rule(fail, spec))
}

/// Nobody has typed what stands in a rule.
fn by_rule(mut fail: Fail, spec: &ContainerSpec) -> Fail {
    if let Some(rule) = &spec.cgroup.rule {
        fail.message = format!("with the limits of the rule at `{rule}`: {}", fail.message);
    }
    fail
}

/// The note about a group that a running container got late, which its monitor does not know.
const LATE: &str = "cgroup";

/// Removes it, and says whether the kernel has killed in it because memory ran out. What remains is swept later.
#[must_use]
pub fn end(record: &Record, group: Option<Group>) -> bool {
    let note = record.dir().join(LATE);
    let late = std::fs::read_to_string(&note).ok();
    if late.is_some() {
        let _ = std::fs::remove_file(&note); // the next run writes it anew
    }
    let late = late.and_then(|path| Group::open(Path::new(&path)).ok());
    let killed = late.map(remove).unwrap_or_default();
    group.map(remove).unwrap_or_default() || killed
}

fn remove(group: Group) -> bool {
    let killed = group
        .keyed("memory.events", "oom_kill")
        .is_some_and(|count| count > 0);
    let _ = life::leave(group); // a start, a removal and the sweep of others try again
    killed
}

/// The group of a running container.
#[must_use]
pub fn of(id: &str, state: &State) -> Option<Group> {
    if state.status != Status::Running {
        return None;
    }
    let noted = state
        .cgroup
        .as_ref()
        .and_then(|path| Group::open(path).ok());
    noted.or_else(|| {
        let pid = state.process.as_ref()?.pid;
        let path = cgroup::of_process(&pid.to_string())?;
        let name = cgroup::name(id);
        // The program may have made groups of its own below.
        let own = path
            .ancestors()
            .find(|dir| dir.file_name().is_some_and(|last| last == name.as_str()))?;
        Group::open(own).ok()
    })
}

/// Whether a running container stands still.
#[must_use]
pub fn is_paused(id: &str, state: &State) -> bool {
    of(id, state).is_some_and(|group| group.is_frozen())
}

/// The container's name for messages, and what it does, when it runs.
fn running(record: &Record) -> Result<(ContainerSpec, State)> {
    let spec = record.spec()?;
    let state = record.state()?;
    if state.status == Status::Running {
        return Ok((spec, state));
    }
    let name = &spec.name;
    Err(Fail::conflict(format!("container `{name}` is not running"))
        .hint(format!("rl start {name}"))
        .into())
}

/// Stops all processes of a container where they stand. One without a group gets one first.
///
/// # Errors
/// `Conflict` when it does not run or is paused already; why it can have no group.
pub fn pause(record: &Record) -> Result<()> {
    let (spec, state) = running(record)?;
    let group = whole(record, &state, "rl pause")?;
    if group.is_frozen() {
        let name = &spec.name;
        return Err(
            Fail::conflict(format!("container `{name}` is paused already"))
                .hint(format!("rl unpause {name}"))
                .into(),
        );
    }
    group
        .freeze()
        .with_context(|| format!("pausing `{}`", spec.name))?;
    emit(record.store(), &Event::container("pause", &spec));
    Ok(())
}

/// Lets a paused container go on.
///
/// # Errors
/// `Conflict` when it is not paused.
pub fn unpause(record: &Record) -> Result<()> {
    let (spec, state) = running(record)?;
    let group = of(&record.id, &state).filter(Group::is_frozen);
    let Some(group) = group else {
        return Err(
            Fail::conflict(format!("container `{}` is not paused", spec.name))
                .hint("rl ps shows which are")
                .into(),
        );
    };
    group.thaw()?;
    emit(record.store(), &Event::container("unpause", &spec));
    Ok(())
}

/// A container that stands still for as long as this lives, and goes on as well when this process is killed.
#[derive(Debug)]
pub struct Hold {
    group: Group,
    guard: Child,
    /// On the group's directory: two that read one container do so one after the other.
    _lock: File,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // A container that has ended meanwhile has no group. Where it fails otherwise, the guard fails as well.
        let _ = self.group.thaw();
        self.guard.kill();
        let _ = self.guard.wait(); // it was killed
    }
}

/// Stops a container for `what`, without a word in the events; `None` when it stands already, paused or not running.
///
/// # Errors
/// Why it can have no group; what keeps it from being stopped.
pub fn hold(record: &Record, what: &str) -> Result<Option<Hold>> {
    let state = record.state()?;
    if state.status != Status::Running {
        return Ok(None);
    }
    let group = whole(record, &state, what)?;
    let path = group.path();
    let lock = File::open(path).with_context(|| format!("opening `{}`", path.display()))?;
    lock.lock()
        .with_context(|| format!("locking `{}`", path.display()))?;
    if group.is_frozen() || record.state()?.status != Status::Running {
        return Ok(None);
    }
    let guard = guard(&group)?;
    let hold = Hold {
        group,
        guard,
        _lock: lock,
    };
    hold.group.freeze()?; // what goes wrong lets it go on
    Ok(Some(hold))
}

/// A process that lets the group go on when this one has ended, however. It is beyond the reach of the terminal and
/// of what this process is sent before anything is frozen.
fn guard(group: &Group) -> Result<Child> {
    let us = pidfd_open(getpid(), PidfdFlags::empty()).context("opening this process")?;
    let (ready, begun) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context("making a pipe")?;
    let Some(child) = sys::process::fork()? else {
        let _signals = sys::signal::Queue::all();
        let _ = rustix::process::setsid(); // fails for none that was forked just now
        drop((ready, begun));
        let mut end = [PollFd::new(&us, PollFlags::IN)];
        while rustix::event::poll(&mut end, None) == Err(Errno::INTR) {}
        let _ = group.thaw(); // there is nobody to tell
        sys::process::exit_now(0)
    };
    drop(begun);
    let mut nothing = [0];
    while rustix::io::read(&ready, &mut nothing) == Err(Errno::INTR) {}
    Ok(child)
}

/// Lets it go on when it is paused: a signal that it is to act on has been sent.
pub fn let_go_on(id: &str, state: &State) -> Result<()> {
    match of(id, state).filter(Group::is_frozen) {
        Some(group) => group.thaw(),
        None => Ok(()),
    }
}

/// Kills all processes of a running container. Where it has a group, at once and as one, so that nothing that is
/// started meanwhile is missed.
///
/// # Errors
/// When they do not end.
pub fn kill(id: &str, state: &State, process: &OwnedFd) -> Result<()> {
    if let Some(group) = of(id, state) {
        return group.kill();
    }
    Ok(sys::process::signal_pidfd(process, libc::SIGKILL)?)
}

/// Changes what a container gets, now and after every later start. What is not named stays as it is.
///
/// # Errors
/// What makes no sense, what the kernel refuses, and a memory limit below what is in use: the kernel would kill the
/// container for it. Nothing has changed then.
pub fn update(
    record: &Record,
    change: &Resources,
    restart: Option<Restart>,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    // One after the other: each begins with what the last one has left.
    let _lock = record.lock_description()?;
    let mut spec = record.spec()?;
    if restart.is_some_and(|restart| restart != Restart::No) && spec.remove {
        return Err(Fail::usage("--rm and --restart exclude each other")
            .hint("a container that is removed at its end cannot be started again")
            .into());
    }
    let old = spec.cgroup.resources.clone();
    spec.cgroup.resources = limits::merged(&old, change);
    spec.restart = restart.unwrap_or(spec.restart);
    for notice in limits::check::check(&spec.cgroup.resources, &limits::check::Host::read())? {
        say(&notice);
    }
    let state = record.state()?;
    if state.status == Status::Running && spec.cgroup.resources != old {
        let was = limits::settings(&old)?;
        let is = limits::settings(&spec.cgroup.resources)?;
        let news: Vec<_> = is
            .iter()
            .filter(|new| !was.contains(new))
            .cloned()
            .collect();
        // One below a service that systemd arranges was good enough without limits.
        let group = match of(&record.id, &state) {
            Some(poor) if !place::takes_limits(&poor) => {
                let group = adopt(record, &spec, None, "rl update")?;
                poor.remove()?;
                group
            }
            _ => whole(record, &state, "rl update")?,
        };
        controllers::equip(&group, &news)?;
        refuse_too_little(&spec, change, &group)?;
        let done = limits::apply(&group, &news).and_then(|()| scope::weigh(&group, &news));
        if let Err(error) = done {
            let files: Vec<_> = news.iter().map(|new| &new.file).collect();
            let back: Vec<_> = was
                .into_iter()
                .filter(|old| files.contains(&&old.file))
                .collect();
            let _ = limits::apply(&group, &back); // the first error is the one that matters
            return Err(error);
        }
    }
    record.describe(&spec)?;
    emit(record.store(), &Event::container("update", &spec));
    Ok(())
}

/// A limit under what is used and cannot be given back would be the container's end.
fn refuse_too_little(spec: &ContainerSpec, change: &Resources, group: &Group) -> Result<(), Fail> {
    let (Some(limit), Some(held)) = (change.memory, limits::memory_held(group)) else {
        return Ok(());
    };
    if held <= limit {
        return Ok(());
    }
    Err(Fail::conflict(format!(
        "--memory of {} MiB is less than the {} MiB that `{}` uses now, without its page cache: the kernel would kill it",
        limit >> 20,
        held.div_ceil(1 << 20),
        spec.name
    ))
    .hint(format!(
        "to press it without killing it: rl update --cgroup-conf memory.high={limit} {}",
        spec.name
    )))
}

/// The group with all processes of a running container in it; one that was started without gets one now. `what`
/// needs it.
fn whole(record: &Record, state: &State, what: &str) -> Result<Group> {
    let group = of(&record.id, state);
    match (group, &state.cgroup) {
        // Every process was born in it.
        (Some(group), Some(noted)) if group.path() == noted => Ok(group),
        (group, _) => adopt(record, &record.spec()?, group, what),
    }
}

/// `group` is there already when a command before could not move all.
fn adopt(record: &Record, spec: &ContainerSpec, group: Option<Group>, what: &str) -> Result<Group> {
    let seen = Seen::look(record)?;
    if spec.cgroup.mode == CgroupMode::Inherit {
        return Err(Fail::conflict(format!(
            "{what} needs a group of its own for `{}`, which --cgroups=inherit and --cgroups=disabled take away",
            spec.name
        ))
        .hint("make the container anew, without --cgroups")
        .into());
    }
    if spec.namespaces.pid != Namespace::Private {
        return Err(Fail::unsupported(format!(
            "{what} needs a group of its own for `{}`, and without a pid namespace nobody knows its processes",
            spec.name
        ))
        .hint("start it with --cgroups=enabled, or without --pid")
        .into());
    }
    let mut inside = || -> Vec<i32> {
        let mut found = processes::list(&seen).unwrap_or_default(); // none are left when it has ended
        found.sort_by_key(|process| process.pid); // its first one, which lives longest
        found.iter().map(|process| process.host_pid).collect()
    };
    let moved = match group {
        Some(group) => life::gather(&group, &mut inside).map(|()| group),
        None => {
            let owner = record.state()?.owner.map(|owner| owner.pid);
            life::adopt(spec, what, owner, &mut inside)
        }
    };
    if let Ok(group) = &moved {
        let note = record.dir().join(LATE);
        let path = group.path().as_os_str().as_encoded_bytes();
        std::fs::write(&note, path).map_err(|error| super::disk_error(error, &note))?;
    }
    moved.map_err(|error| {
        if error::find(&error).is_some_and(|fail| fail.message.contains(what)) {
            return error;
        }
        error.context(
            Fail::unsupported(format!(
                "{what} needs a group of its own for `{}`, which was started without, and its processes cannot be moved now",
                spec.name
            ))
            .hint("start it with one: rl run --cgroups=enabled …")
            .code("RL-C05"),
        )
    })
}
