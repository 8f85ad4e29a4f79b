//! Where an OCI container is counted: `linux.cgroupsPath`, made by ourselves or asked of systemd.
//!
//! Source: OCI runtime specification, config-linux.md, "Cgroups Path"; runc's `docs/systemd.md` for the form
//! `slice:prefix:name`.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::cgroup::systemd::{Manager, Scope};
use crate::cgroup::{self, Group, exact};
use crate::error::Fail;
use crate::spec::resources::Resources;
use crate::sys;

/// Who makes groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// We do.
    Files,
    /// systemd does.
    Systemd,
    /// Nobody: the container stays in the caller's.
    Nobody,
}

/// Where a container is counted, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// The group's directory; none where it is in the caller's.
    pub path: Option<PathBuf>,
    /// The highest group that was made for it: those down to its own go with it, where nobody else is in them.
    pub top: Option<PathBuf>,
    /// The unit of systemd's that the group lies in.
    pub scope: Option<String>,
}

impl Place {
    /// The group, if there is one and it is still there.
    #[must_use]
    pub fn group(&self) -> Option<Group> {
        Group::open(self.path.as_deref()?).ok()
    }

    /// The group.
    ///
    /// # Errors
    /// That there is none, for `what`.
    pub fn need(&self, what: &str) -> Result<Group> {
        let Some(path) = &self.path else {
            return Err(Fail::unsupported(format!(
                "cannot {what}: the container has no control group of its own"
            ))
            .hint("set linux.cgroupsPath to a place that is yours, or use --systemd-cgroup")
            .into());
        };
        Group::open(path).with_context(|| format!("cannot {what}"))
    }

    /// Removes the group and the unit; what still lives in it is killed.
    ///
    /// # Errors
    /// When a process does not end.
    pub fn remove(&self) -> Result<()> {
        if let Some(group) = self.group() {
            group.remove()?;
        }
        if let (Some(top), Some(path)) = (&self.top, &self.path) {
            for above in path.ancestors().skip(1) {
                // Somebody else's group may stand in it.
                if !above.starts_with(top) || rustix::fs::rmdir(above).is_err() {
                    break;
                }
            }
        }
        if let Some(scope) = &self.scope
            && let Some(manager) = Manager::find()
        {
            // It ends with its last process, maybe just now.
            let _ = manager.stop(scope);
        }
        Ok(())
    }
}

/// The group for a container, made but for what systemd has to be asked for.
#[derive(Debug)]
pub enum Made {
    /// Here it is, and the highest group that was made on the way.
    Group(Group, PathBuf),
    /// When there is a process: slice and name.
    Scope(String, String),
    /// The container stays where its caller is.
    None,
}

/// Makes the group of `path` (`linux.cgroupsPath`) with these limits.
///
/// # Errors
/// That it cannot be had although it was asked for.
pub fn make(
    maker: Maker,
    path: Option<&str>,
    id: &str,
    resources: &Resources,
    tolerant: bool,
) -> Result<Made> {
    let path = path.filter(|path| !path.is_empty());
    match maker {
        Maker::Nobody => {
            if resources.limits() {
                return Err(Fail::usage(
                    "linux.resources: limits need a control group, and --cgroup-manager=disabled makes none",
                )
                .into());
            }
            Ok(Made::None)
        }
        Maker::Systemd => scope(path, id).map(|(slice, name)| Made::Scope(slice, name)),
        Maker::Files => {
            if !cgroup::is_v2() {
                if resources.limits() {
                    return Err(Fail::unsupported(
                        "linux.resources: this machine's cgroups are of version 1, or of both: only version 2 is supported",
                    )
                    .hint("an administrator can boot with systemd.unified_cgroup_hierarchy=1")
                    .into());
                }
                return Ok(Made::None);
            }
            let wanted = path.is_some() || resources.limits();
            match files(path, id) {
                Ok((group, top)) => match limit(&group, resources) {
                    Ok(()) => Ok(Made::Group(group, top)),
                    Err(error) => {
                        let _ = group.remove(); // the error says more
                        Err(error)
                    }
                },
                // Where nobody has handed a group over, a container without limits does without.
                Err(error)
                    if (!wanted || (tolerant && !resources.limits()))
                        && matches!(
                            sys::errno_of(&error),
                            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS)
                        ) =>
                {
                    Ok(Made::None)
                }
                Err(error) => Err(error),
            }
        }
    }
}

fn limit(group: &Group, resources: &Resources) -> Result<()> {
    exact::write(group, &exact::settings(resources)?)
}

/// A path below the mount: absolute there, or below the parent of our own group.
fn files(path: Option<&str>, id: &str) -> Result<(Group, PathBuf)> {
    // Containers of other state directories may have the same id, and nobody asked for a name.
    let own = format!("{id}.{}", rustix::process::getpid().as_raw_nonzero());
    let path = Path::new(path.unwrap_or(&own));
    let inside = |part: Component<'_>| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::RootDir | Component::CurDir => Some(PathBuf::new()),
        Component::ParentDir | Component::Prefix(_) => None,
    };
    let parts: Option<Vec<PathBuf>> = path.components().map(inside).collect();
    let parts = parts.ok_or_else(|| {
        Fail::usage(format!(
            "linux.cgroupsPath: `{}` must not contain `..`",
            path.display()
        ))
    })?;
    let relative: PathBuf = parts.into_iter().collect();
    if relative.as_os_str().is_empty() {
        return Err(Fail::usage("linux.cgroupsPath: is the root of all groups").into());
    }
    let base = if path.is_absolute() {
        PathBuf::from(cgroup::MOUNT)
    } else {
        // Our own has processes, so it can hand nothing down.
        let own = cgroup::of_process("self").unwrap_or_else(|| cgroup::MOUNT.into());
        let mount = Path::new(cgroup::MOUNT);
        let parent = own.parent().filter(|parent| parent.starts_with(mount));
        parent.unwrap_or(mount).to_owned()
    };
    let doing = || {
        format!(
            "linux.cgroupsPath: making `{}`",
            base.join(&relative).display()
        )
    };
    let mut group = Group::open(&base).with_context(doing)?;
    let mut above = base.clone();
    let mut made = false;
    let mut top = None;
    for part in &relative {
        hand_down(&group);
        let next = above.join(part);
        group = match Group::open(&next) {
            Ok(there) => {
                made = false;
                there
            }
            Err(error) if error.errno == Errno::NOENT => {
                made = true;
                top.get_or_insert_with(|| next.clone());
                group.create(&part.to_string_lossy()).with_context(doing)?
            }
            Err(error) => return Err(error).with_context(doing),
        };
        above = next;
    }
    if !made && group.is_populated() {
        return Err(Fail::conflict(format!(
            "linux.cgroupsPath: `{}` has processes already",
            group.path().display()
        ))
        .into());
    }
    let top = top.unwrap_or_else(|| group.path().to_owned());
    Ok((group, top))
}

/// Hands down every controller that can be. What is missing is found where it is needed.
fn hand_down(group: &Group) {
    let controllers = group.read("cgroup.controllers").unwrap_or_default();
    let already = group.read("cgroup.subtree_control").unwrap_or_default();
    for name in controllers.split_whitespace() {
        if !already.split_whitespace().any(|known| known == name) {
            let _ = group.write("cgroup.subtree_control", &format!("+{name}"));
        }
    }
}

/// `slice:prefix:name`, each part with its default.
fn scope(path: Option<&str>, id: &str) -> Result<(String, String)> {
    let root = rustix::process::getuid().is_root();
    let default_slice = if root { "system.slice" } else { "user.slice" };
    let Some(path) = path else {
        return Ok((default_slice.to_owned(), format!("rl-{id}.scope")));
    };
    let parts: Vec<&str> = path.split(':').collect();
    let [slice, prefix, name] = parts.as_slice() else {
        return Err(Fail::usage(format!(
            "linux.cgroupsPath: `{path}` is not of the form slice:prefix:name, which systemd needs"
        ))
        .into());
    };
    let slice = if slice.is_empty() {
        default_slice
    } else {
        slice
    };
    if !slice.ends_with(".slice") {
        return Err(Fail::usage(format!(
            "linux.cgroupsPath: `{slice}` is no slice (its name ends in .slice)"
        ))
        .into());
    }
    let unit = if prefix.is_empty() {
        format!("{name}.scope")
    } else {
        format!("{prefix}-{name}.scope")
    };
    Ok((slice.to_owned(), unit))
}

/// Asks systemd for the scope, with the process in it, and makes the container's own group below.
///
/// # Errors
/// What systemd answers.
pub fn enter_scope(slice: &str, name: &str, pid: i32, resources: &Resources) -> Result<Place> {
    let manager = Manager::find().ok_or_else(|| {
        Fail::unsupported("--systemd-cgroup: there is no systemd to ask")
            .hint("leave --systemd-cgroup out: groups are made as files then")
    })?;
    let scope = Scope {
        name,
        description: "OCI container",
        pids: &[pid],
        slice: Some(slice),
        weights: &[],
    };
    manager.start_scope(&scope)?;
    let mut place = Place {
        path: None,
        top: None,
        scope: Some(name.to_owned()),
    };
    let inside = || -> Result<Group> {
        let path = cgroup::of_process(&pid.to_string())
            .ok_or_else(|| Fail::system("systemd has put the process where it cannot be seen"))?;
        let unit = Group::open(&path)?;
        let own = unit.create("container")?;
        own.enter(pid)?;
        hand_down(&unit);
        limit(&own, resources)?;
        Ok(own)
    };
    match inside() {
        Ok(group) => {
            place.path = Some(group.path().to_owned());
            Ok(place)
        }
        Err(error) => {
            let _ = manager.stop(name); // the error says more
            Err(error)
        }
    }
}
