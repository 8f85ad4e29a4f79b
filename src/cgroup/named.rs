//! Groups for host programs, by name: what `cgcreate`, `cgexec` and `cgclassify` do for root.
//!
//! ```text
//! handed over to us                     from systemd
//! GROUP/                                …/rl-limit-PID.scope/
//! ├── rl-self        whoever was there  └── rl-limit.PID    one program and what it starts
//! ├── rl-limit-NAME  a named group      …/rl_limit_NAME.slice/
//! └── rl-limit.PID   one program        └── rl-in-NAME-PID.scope/
//!                                           └── rl-limit.PID
//! ```
//!
//! A named group stays until it is removed, with the machine's next start at the latest. One of a single program is
//! removed by the next `rl limit` or start of a container after its last process; systemd removes its scope by itself.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use super::limits::{self, Setting};
use super::place::Place;
use super::systemd::{Manager, Scope};
use super::{Group, MOUNT, SELF, of_process, slice};
use super::{controllers, life, scope};
use crate::error::Fail;
use crate::spec::{Cgroup, CgroupMode};

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

/// As for a container with a limit.
fn wanted() -> Cgroup {
    Cgroup {
        mode: CgroupMode::Enabled,
        ..Cgroup::default()
    }
}

/// All that can be seen from here: below our own group and below those above it, and the slices of our systemd.
#[must_use]
pub fn list() -> Vec<Named> {
    let Some(own) = of_process("self") else {
        return Vec::new();
    };
    let mut found: Vec<Named> = own
        .ancestors()
        .take_while(|dir| dir.starts_with(MOUNT))
        .map(Path::to_owned)
        .chain(Manager::find().map(|manager| manager.root()))
        .flat_map(|dir| below(&dir))
        .collect();
    found.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    found.dedup();
    found
}

fn below(dir: &Path) -> Vec<Named> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let by_hand = name
            .strip_prefix(NAMED)
            .filter(|name| !name.ends_with(".scope"))
            .map(str::to_owned);
        Some(Named {
            name: by_hand.or_else(|| slice::name_of(&name))?,
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
    let above = own.ancestors().take_while(|dir| dir.starts_with(MOUNT));
    let slices = Manager::find().map(|manager| manager.root().join(slice::unit(name)));
    let paths = above.map(|dir| dir.join(format!("{NAMED}{name}")));
    for path in paths.chain(slices) {
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
        if slice::of(group.path()).is_some() {
            slice::change(&manager()?, &group, settings)?;
        } else {
            controllers::equip(&group, settings)?;
            limits::apply(&group, settings)?;
        }
        return Ok(group);
    }
    match Place::find(&wanted()).map_err(|why| why.fail(asked))? {
        Place::Below(parent) => make(&parent, &format!("{NAMED}{name}"), settings),
        Place::Scope(manager) => slice::make(&manager, name, settings),
    }
}

fn manager() -> Result<Manager> {
    Manager::find().ok_or_else(|| {
        Fail::unsupported("there is no systemd user session to ask")
            .hint("log in again, or ask your administrator: loginctl enable-linger")
            .code("RL-C03")
            .into()
    })
}

/// Puts a process into a new group of its own.
///
/// # Errors
/// As [`set`]; why the process cannot be moved.
pub fn single(pid: i32, asked: &str, settings: &[Setting]) -> Result<Group> {
    match Place::find(&wanted()).map_err(|why| why.fail(asked))? {
        Place::Below(parent) => {
            sweep(&parent);
            let group = make(&parent, &format!("{SINGLE}{pid}"), settings)?;
            if let Err(error) = enter(&group, pid) {
                life::leave(group)?;
                return Err(error);
            }
            Ok(group)
        }
        Place::Scope(manager) => in_scope(
            &manager,
            &format!("{NAMED}{pid}.scope"),
            None,
            pid,
            settings,
        ),
    }
}

/// Puts a process into a scope of its own.
fn in_scope(
    manager: &Manager,
    unit: &str,
    slice: Option<&str>,
    pid: i32,
    settings: &[Setting],
) -> Result<Group> {
    scope::start_scope(
        manager,
        &Scope {
            name: unit,
            description: &format!("rl limit {pid}"),
            pids: &[pid],
            slice,
            weights: &scope::weights(settings),
        },
    )?;
    let path = of_process(&pid.to_string())
        .filter(|path| path.file_name().is_some_and(|name| name == unit))
        .ok_or_else(|| {
            Fail::system(format!(
                "systemd says that process {pid} is in `{unit}`, and it is not"
            ))
        })?;
    let scope = Group::open(&path)?;
    // Limits on the scope itself are systemd's to set.
    let group = scope.create(&format!("{SINGLE}{pid}"))?;
    group.enter(pid)?;
    controllers::hand_down_all(&scope, settings)?;
    limits::apply(&group, settings)?;
    Ok(group)
}

fn make(parent: &Group, name: &str, settings: &[Setting]) -> Result<Group> {
    let held = controllers::hold(parent)?;
    let made =
        controllers::hand_down(parent, settings).and_then(|()| make_below(parent, name, settings));
    drop(held);
    if made.is_err() {
        life::put_back(parent.path());
    }
    made
}

fn make_below(parent: &Group, name: &str, settings: &[Setting]) -> Result<Group> {
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
    if let Some(slice) = slice::of(group.path()) {
        // There already: nothing else has a scope of this name.
        if of_process(&pid.to_string()).is_some_and(|own| own.starts_with(group.path())) {
            return Ok(());
        }
        let name = slice::name_of(slice).unwrap_or_default();
        let unit = format!("rl-in-{name}-{pid}.scope");
        return in_scope(&manager()?, &unit, Some(slice), pid, &[]).map(|_| ());
    }
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
pub fn sweep(parent: &Group) {
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
            let _ = life::leave(child); // the next command tries again
        }
    }
}

/// Removes what single programs have left, wherever groups are made from here.
pub fn sweep_all() {
    if let Ok(Place::Below(parent)) = Place::find(&wanted()) {
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
    match slice::of(group.path()) {
        None => life::leave(group),
        Some(_) => {
            if group.is_populated() {
                group.kill()?;
            }
            slice::remove(&manager()?, &group)
        }
    }
}
