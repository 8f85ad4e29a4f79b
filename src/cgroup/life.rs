//! The group of a container, from when it is made to when it is left; also for one that runs already.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use super::controllers::{
    ROUNDS, await_end, controllers, fetch, hand_down, hand_down_all, hold, move_all,
    not_handed_down,
};
use super::limits::{self, Setting};
use super::place::{Place, is_slice};
use super::scope::{attach, own_scope, refuse_other_ids, start_scope, weights};
use super::systemd::{Manager, Scope};
use super::{Group, SELF, id_of, name, named, of_process};
use crate::error::Fail;
use crate::spec::{Cgroup, CgroupMode, ContainerSpec};

/// How old an empty group must be to be litter for a command that has other things to do.
pub const LITTER: Duration = Duration::from_secs(60);

/// The same for a command that is asked to tidy up.
pub const IDLE: Duration = Duration::from_secs(5);

/// Makes the group of a container and sets its limits. `None`: it stays in the caller's, which is so where nothing
/// asks for one and it would cost a round-trip, or nothing can be had.
///
/// # Errors
/// What keeps a group or a limit that was asked for from being had; nothing is left then.
pub fn make(spec: &ContainerSpec) -> Result<Option<Group>> {
    let cgroup = &spec.cgroup;
    let settings = limits::settings(&cgroup.resources)?;
    let asked = asks(cgroup);
    if cgroup.mode == CgroupMode::Inherit {
        return match asked {
            None => Ok(None),
            Some(flag) => Err(taken_away(flag).into()),
        };
    }
    let place = match Place::find(cgroup) {
        Ok(place) => place,
        Err(why) => {
            return match asked {
                None => Ok(None),
                Some(flag) => Err(why.fail(flag).into()),
            };
        }
    };
    let made = match (place, asked) {
        (Place::Scope(_), None) => return Ok(None),
        (Place::Scope(manager), Some(_)) => in_scope(&manager, spec, &settings),
        (Place::Below(parent), _) => below(&parent, spec, &settings),
    };
    match (made, asked) {
        (Ok(group), _) => Ok(Some(group)),
        // Nobody asked: a full `cgroup.max.descendants` keeps no container from running.
        (Err(_), None) => Ok(None),
        (Err(error), Some(_)) => Err(error),
    }
}

fn taken_away(flag: &str) -> Fail {
    Fail::usage(format!(
        "{flag} needs a group of its own, which --cgroups=inherit and --cgroups=disabled take away"
    ))
    .hint("leave --cgroups out")
}

/// Says what [`make`] would refuse from here, without making anything.
///
/// # Errors
/// What keeps a group or a limit that is asked for from being had.
pub fn check(cgroup: &Cgroup) -> Result<(), Fail> {
    let settings = limits::settings(&cgroup.resources)?;
    let Some(flag) = asks(cgroup) else {
        return Ok(());
    };
    if cgroup.mode == CgroupMode::Inherit {
        return Err(taken_away(flag));
    }
    let by_path = cgroup.parent.as_deref().is_some_and(|name| !is_slice(name));
    if by_path && of_process("self").is_some() {
        return Ok(()); // it may be made until the start
    }
    let (group, made) = match Place::find(cgroup).map_err(|why| why.fail(flag))? {
        Place::Below(group) => (group.path().to_owned(), true),
        Place::Scope(manager) => (manager.root(), false),
    };
    for setting in &settings {
        let wanted = setting.controller();
        if made {
            fetch(wanted, &group);
        }
        // Where nothing can be read, the start knows better.
        let has = std::fs::read_to_string(group.join("cgroup.controllers"))
            .map(|text| text.split_whitespace().any(|name| name == wanted));
        if wanted != "cgroup" && has.is_ok_and(|has| !has) {
            return Err(not_handed_down(setting.flag, wanted, &group));
        }
    }
    Ok(())
}

/// What asks for a group, as the user wrote it.
fn asks(cgroup: &Cgroup) -> Option<&'static str> {
    if let Some(flag) = limits::first_flag(&cgroup.resources) {
        return Some(flag);
    }
    match (&cgroup.parent, cgroup.mode) {
        (Some(_), _) => Some("--cgroup-parent"),
        (None, CgroupMode::Enabled) => Some("--cgroups=enabled"),
        (None, CgroupMode::Split) => Some("--cgroups=split"),
        (None, CgroupMode::Auto | CgroupMode::Inherit) => None,
    }
}

/// Removes a container's group, and with the last one what was arranged above it for limits.
///
/// # Errors
/// As [`Group::remove`].
pub fn leave(group: Group) -> Result<()> {
    let parent = group.path().parent().map(Path::to_owned);
    group.remove()?;
    if let Some(parent) = parent {
        put_back(&parent);
    }
    Ok(())
}

/// Undoes what was arranged in `parent` for limits, when nobody below it needs that.
pub(super) fn put_back(parent: &Path) {
    let is_scope = |path: &Path| {
        path.file_name()
            .and_then(|name| id_of(name.to_str()?))
            .is_some()
    };
    // Systemd clears its own scopes away.
    if !is_scope(parent)
        && let (Ok(parent), Ok(leaf)) = (Group::open(parent), Group::open(&parent.join(SELF)))
    {
        let _ = restore(&parent, &leaf); // the next container arranges it the same way
    }
}

/// Our processes go back to where they were, when no container is left beside them.
fn restore(parent: &Group, leaf: &Group) -> Result<()> {
    // Who has it makes a group just now, or looks for others as we do: the last one sees none.
    let _held = hold(parent)?;
    let is_others = |group: &Group| group.path() != leaf.path();
    if parent.children().iter().any(is_others) {
        return Ok(());
    }
    let enabled = controllers(parent, "cgroup.subtree_control")?;
    let none: Vec<String> = enabled.iter().map(|name| format!("-{name}")).collect();
    parent.write("cgroup.subtree_control", &none.join(" "))?;
    for _ in 0..ROUNDS {
        if leaf.processes()?.is_empty() {
            // Never with force: what still lives there is no container's.
            return rustix::fs::rmdir(leaf.path()).context("removing a cgroup");
        }
        move_all(leaf, parent)?;
    }
    Ok(())
}

/// A group below one that is ours.
fn below(parent: &Group, spec: &ContainerSpec, settings: &[Setting]) -> Result<Group> {
    if settings.is_empty() {
        return make_below(parent, spec, settings);
    }
    let held = hold(parent)?;
    let made = hand_down(parent, settings).and_then(|()| make_below(parent, spec, settings));
    drop(held);
    if made.is_err() {
        put_back(parent.path());
    }
    made
}

fn make_below(parent: &Group, spec: &ContainerSpec, settings: &[Setting]) -> Result<Group> {
    let name = name(&spec.id);
    let group = match parent.create(&name) {
        // Of a monitor that was killed: we hold the container's lock.
        Err(error) if error.errno == Errno::EXIST => {
            Group::open(&parent.path().join(&name))?.remove()?;
            parent.create(&name)
        }
        made => made,
    }
    .map_err(|error| {
        let fail = Fail::denied(format!(
            "no group can be made below `{}`",
            parent.path().display()
        ));
        let fail = if error.errno == Errno::AGAIN {
            fail.hint("it has as many as cgroup.max.descendants allows")
        } else {
            fail
        };
        anyhow::Error::from(error).context(fail)
    })?;
    if let Err(error) = limits::apply(&group, settings) {
        group.remove()?;
        return Err(error);
    }
    Ok(group)
}

/// A group in a scope of its own, which the caller moves into as well.
fn in_scope(manager: &Manager, spec: &ContainerSpec, settings: &[Setting]) -> Result<Group> {
    let unit = format!("{}.scope", name(&spec.id));
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let scope = Scope {
        name: &unit,
        description: &format!("container {}", spec.name),
        pids: &[me],
        slice: spec.cgroup.parent.as_deref(),
        weights: &weights(settings),
    };
    start_scope(manager, &scope)?;
    let scope = own_scope(&unit)?;
    scope.create(SELF)?.enter(me)?;
    hand_down_all(&scope, settings)?;
    below(&scope, spec, settings)
}

/// Makes a group for processes that run already, and moves them there until none is left outside. `what` needs it. The first
/// of them lives as long as the container.
/// `owner` goes into its scope as well: systemd would clear it away with the last process, and what the kernel has
/// written there.
///
/// # Errors
/// Why it cannot be had.
pub fn adopt(
    spec: &ContainerSpec,
    what: &str,
    owner: Option<i32>,
    processes: &mut dyn FnMut() -> Vec<i32>,
) -> Result<Group> {
    // The command's own service is no place for a container that was started elsewhere.
    let wanted = Cgroup {
        mode: CgroupMode::Enabled,
        ..spec.cgroup.clone()
    };
    let group = match Place::find(&wanted).map_err(|why| why.fail(what))? {
        Place::Below(parent) => below(&parent, spec, &[])?,
        Place::Scope(manager) => {
            let unit = format!("{}.scope", name(&spec.id));
            let all = processes();
            refuse_other_ids(&all)?;
            // One that has ended meanwhile is refused, and all with it: the first one lives as long as the container.
            let mut pids: Vec<i32> = all.into_iter().take(1).collect();
            pids.extend(owner);
            let scope = Scope {
                name: &unit,
                description: &format!("container {}", spec.name),
                pids: &pids,
                slice: spec.cgroup.parent.as_deref(),
                weights: &[], // this is for those who ask for no limit
            };
            start_scope(&manager, &scope)?;
            let first = pids.first().map(ToString::to_string).unwrap_or_default();
            let path = of_process(&first)
                .filter(|path| path.file_name().is_some_and(|name| name == unit.as_str()))
                .ok_or_else(|| Fail::system("systemd has not moved the container"))?;
            let scope = Group::open(&path)?;
            let group = scope.create(&name(&spec.id))?;
            if let Some(owner) = owner {
                scope.create(SELF)?.enter(owner)?;
            }
            group
        }
    };
    gather(&group, processes)?;
    Ok(group)
}

/// Moves processes into a group until none is left outside. What is moved stays there, whatever happens to the rest.
///
/// # Errors
/// Why one cannot be moved.
pub fn gather(group: &Group, processes: &mut dyn FnMut() -> Vec<i32>) -> Result<()> {
    let mut refused = None;
    let mut moved = Vec::new();
    for _ in 0..ROUNDS {
        let outside = processes().into_iter().filter(|pid| {
            of_process(&pid.to_string()).is_some_and(|path| !path.starts_with(group.path()))
        });
        let mut far = Vec::new();
        let mut left = false;
        // What they fork from now on is born where they stand.
        for pid in outside {
            left = true;
            if moved.contains(&pid) {
                await_end(pid);
            }
            match group.enter(pid) {
                Ok(()) => moved.push(pid),
                Err(error) if error.errno == Errno::SRCH => {}
                Err(error) if matches!(error.errno, Errno::ACCESS | Errno::PERM) => far.push(pid),
                Err(error) => return Err(error.into()),
            }
        }
        if !left {
            return Ok(());
        }
        if far.is_empty() {
            continue;
        }
        refuse_other_ids(&far)?;
        // One that has ended meanwhile is refused, and all with it: the next round knows better.
        refused = attach(group, &far).err();
    }
    Err(refused.unwrap_or_else(|| {
        Fail::conflict("it starts processes faster than they can be moved").into()
    }))
}

/// Removes groups of containers that were left by processes that were killed. One that is being made has nobody in it
/// either, so only those go that are older than `least`. Cheap, and without a word to systemd, which clears its
/// scopes away by itself.
pub fn sweep(least: Duration) {
    let Ok(Place::Below(parent)) = Place::find(&Cgroup::default()) else {
        return;
    };
    named::sweep(&parent);
    for group in parent.children() {
        let is_containers = group
            .path()
            .file_name()
            .and_then(|name| id_of(name.to_str()?))
            .is_some();
        let age = std::fs::metadata(group.path())
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if is_containers && age.is_some_and(|age| age > least) && !group.is_populated() {
            let _ = leave(group); // the next sweep tries again
        }
    }
}
