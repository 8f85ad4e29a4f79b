//! Groups for host programs, by name: what `cgcreate`, `cgexec` and `cgclassify` do for root.
//!
//! ```text
//! handed over to us                     from systemd
//! GROUP/                                …/rl-limit-PID.scope/
//! ├── rl-self        whoever was there  └── rl-limit-PID    one program and what it starts
//! ├── rl-limit-NAME  a named group
//! └── rl-limit.PID   one program and what it starts
//! ```
//!
//! A named group stays until it is removed, with the machine's next start at the latest. One of a single program is
//! removed by the next `rl limit` after its last process; systemd removes its scope by itself.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use super::limits::{self, Setting};
use super::place::{self, Place};
use super::systemd::Scope;
use super::{Group, MOUNT, SELF, of_process};
use crate::error::Fail;
use crate::spec::Cgroup;

/// Before the name in a group's directory.
const NAMED: &str = "rl-limit-";
/// Before the pid in the directory of a single program's group.
const SINGLE: &str = "rl-limit.";

/// A named group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
}

/// All that can be seen from here: below our own group and below those above it.
#[must_use]
pub fn list() -> Vec<Named> {
    let Some(own) = of_process("self") else {
        return Vec::new();
    };
    let mut found: Vec<Named> = own
        .ancestors()
        .take_while(|dir| dir.starts_with(MOUNT))
        .flat_map(below)
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn below(dir: &Path) -> Vec<Named> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(Named {
            name: name.strip_prefix(NAMED)?.to_owned(),
            path: entry.path(),
        })
    });
    named.filter(|one| one.path.is_dir()).collect()
}

/// The nearest group with this name.
///
/// # Errors
/// `NotFound`.
pub fn find(name: &str) -> Result<Group> {
    let found = lookup(name)?;
    found.ok_or_else(|| {
        Fail::not_found(format!("no group `{name}`"))
            .hint("rl limit ls lists them")
            .hint(format!("rl limit {name} --memory 1g makes one"))
            .into()
    })
}

fn lookup(name: &str) -> Result<Option<Group>> {
    let own = of_process("self").unwrap_or_default();
    let paths = own.ancestors().take_while(|dir| dir.starts_with(MOUNT));
    for path in paths.map(|dir| dir.join(format!("{NAMED}{name}"))) {
        match Group::open(&path) {
            Ok(group) => return Ok(Some(group)),
            Err(error) if error.errno == Errno::NOENT => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Makes a named group, or gives one that is there these limits: what is not named stays as it is.
///
/// # Errors
/// Why there is no place for it; the limit that cannot be had. A new group is removed again then.
pub fn set(name: &str, asked: &str, settings: &[Setting]) -> Result<Group> {
    if let Some(group) = lookup(name)? {
        limits::apply(&group, settings)?;
        return Ok(group);
    }
    match Place::find(&Cgroup::default()).map_err(|why| why.fail(asked))? {
        Place::Below(parent) => make(&parent, &format!("{NAMED}{name}"), settings),
        // systemd removes a scope with its last process, and so there is nothing that could have the name.
        Place::Scope(_) => Err(Fail::unsupported(format!(
            "the group `{name}` would be gone at once: systemd keeps none without processes, and your login session is not handed over to you"
        ))
        .hint("start a shell that is handed over: systemd-run --user --scope -p Delegate=yes $SHELL")
        .hint("one program alone needs no name: rl limit --memory 1g -- PROGRAM")
        .code("RL-C03")
        .into()),
    }
}

/// Puts a process into a new group of its own.
///
/// # Errors
/// As [`set`]; why the process cannot be moved.
pub fn single(pid: i32, asked: &str, settings: &[Setting]) -> Result<Group> {
    match Place::find(&Cgroup::default()).map_err(|why| why.fail(asked))? {
        Place::Below(parent) => {
            sweep(&parent);
            let group = make(&parent, &format!("{SINGLE}{pid}"), settings)?;
            if let Err(error) = enter(&group, pid) {
                group.remove()?;
                return Err(error);
            }
            Ok(group)
        }
        Place::Scope(manager) => {
            let unit = format!("{NAMED}{pid}.scope");
            place::start_scope(
                &manager,
                &Scope {
                    name: &unit,
                    description: &format!("rl limit {pid}"),
                    pids: &[pid],
                    slice: None,
                    weights: &place::weights(settings),
                },
            )?;
            let path = of_process(&pid.to_string())
                .filter(|path| path.file_name().is_some_and(|name| name == unit.as_str()))
                .ok_or_else(|| {
                    Fail::system(format!(
                        "systemd says that process {pid} is in `{unit}`, and it is not"
                    ))
                })?;
            let scope = Group::open(&path)?;
            // Limits on the scope itself are systemd's to set.
            let group = scope.create(&format!("{SINGLE}{pid}"))?;
            group.enter(pid)?;
            place::hand_down(&scope, settings)?;
            limits::apply(&group, settings)?;
            Ok(group)
        }
    }
}

fn make(parent: &Group, name: &str, settings: &[Setting]) -> Result<Group> {
    place::hand_down(parent, settings)?;
    let group = match parent.create(name) {
        // Of a process that had the same number.
        Err(error) if error.errno == Errno::EXIST && name.starts_with(SINGLE) => {
            Group::open(&parent.path().join(name))?.remove()?;
            parent.create(name)
        }
        made => made,
    };
    let group = group.with_context(|| {
        Fail::denied(format!(
            "no group can be made below `{}`",
            parent.path().display()
        ))
    })?;
    if let Err(error) = limits::apply(&group, settings) {
        group.remove()?;
        return Err(error);
    }
    Ok(group)
}

/// Moves a process into a group. One that hands controllers down, for a container that was started in it, takes
/// processes in its leaf only.
///
/// # Errors
/// Whose process it is; that it is gone.
pub fn enter(group: &Group, pid: i32) -> Result<()> {
    let done = match group.enter(pid) {
        Err(error) if error.errno == Errno::BUSY => {
            let leaf = match group.create(SELF) {
                Err(error) if error.errno == Errno::EXIST => Group::open(&group.path().join(SELF)),
                made => made,
            };
            leaf.and_then(|leaf| leaf.enter(pid))
        }
        done => done,
    };
    done.map_err(|error| {
        let fail = match error.errno {
            Errno::SRCH => Fail::not_found(format!("there is no process {pid}")),
            Errno::ACCESS | Errno::PERM => Fail::denied(format!(
                "process {pid} cannot be moved into `{}`: it is not yours, or it stands outside of what is handed over to you",
                group.path().display()
            ))
            .hint("both groups must lie below one that you may write: systemd-run --user --scope -p Delegate=yes $SHELL"),
            _ => Fail::system(format!("process {pid} cannot be moved into `{}`", group.path().display())),
        };
        anyhow::Error::from(error).context(fail)
    })
}

/// Removes what single programs have left.
fn sweep(parent: &Group) {
    for child in parent.children() {
        let is_single = child
            .path()
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(SINGLE));
        // A program that is about to enter has just made it: it is younger than this command.
        let pid = child
            .path()
            .extension()
            .and_then(|pid| pid.to_str()?.parse::<u32>().ok());
        let lives = pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
        if is_single && !lives && !child.is_populated() {
            let _ = child.remove(); // the next command tries again
        }
    }
}

/// Removes what single programs have left, wherever groups are made from here.
pub fn sweep_all() {
    if let Ok(Place::Below(parent)) = Place::find(&Cgroup::default()) {
        sweep(&parent);
    }
}

/// Removes a named group.
///
/// # Errors
/// `Conflict` when processes are in it, unless they are to be killed.
pub fn remove(name: &str, force: bool) -> Result<()> {
    let group = find(name)?;
    if !force && group.is_populated() {
        return Err(
            Fail::conflict(format!("processes are in the group `{name}`"))
                .hint(format!(
                    "wait for them, or kill them too: rl limit rm -f {name}"
                ))
                .into(),
        );
    }
    group.remove()
}
