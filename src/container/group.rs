//! A container's control group: made before its first process, removed after its last, found again by others.
//!
//! `state.json` remembers it; a group that was made later (`rl pause` of a container without one) is found by the
//! group that pid 1 is in. Whether a container is paused is the kernel's to say, and is written down nowhere.

use anyhow::Result;

use super::state::{State, Status};
use crate::cgroup::{self, Group, place};
use crate::spec::ContainerSpec;

/// Makes it; `None` where the container stays in the caller's.
///
/// # Errors
/// What keeps a limit that was asked for from being set.
pub fn make(spec: &ContainerSpec) -> Result<Option<Group>> {
    place::make(spec)
}

/// Removes it, and says whether the kernel has killed in it because memory ran out. What remains is swept later.
#[must_use]
pub fn end(group: Option<Group>) -> bool {
    let Some(group) = group else { return false };
    let killed = group
        .keyed("memory.events", "oom_kill")
        .is_some_and(|count| count > 0);
    let _ = group.remove(); // a start, a removal and the sweep of others try again
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
