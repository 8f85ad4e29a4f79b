//! Scopes that systemd makes for us: started, weighed, and entered where only systemd may move a process.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::limits::Setting;
use super::systemd::{self, Manager, Scope, Value};
use super::{Group, SELF, id_of, of_process};
use crate::error::Fail;

/// How long a scope of the last run may keep its name.
const LEAVING: Duration = Duration::from_secs(5);

/// What weighs the container against others must weigh its scope.
pub(super) fn weights(settings: &[Setting]) -> Vec<(&'static str, u64)> {
    let weight = |file: &str, property| {
        let setting = settings.iter().rfind(|setting| setting.file == file)?;
        let number = setting.text.trim_start_matches("default ");
        Some((property, number.parse().ok()?))
    };
    [
        weight("cpu.weight", "CPUWeight"),
        weight("io.weight", "IOWeight"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Gives the scope of a container its new weight: the group has nobody beside it but our own processes.
///
/// # Errors
/// What systemd answers.
pub fn weigh(group: &Group, settings: &[Setting]) -> Result<()> {
    let weights: Vec<_> = weights(settings)
        .into_iter()
        .map(|(name, weight)| (name, Value::Number(weight)))
        .collect();
    let scope = group.path().parent().and_then(Path::file_name);
    let scope = scope
        .and_then(|name| name.to_str())
        .filter(|name| name.ends_with(".scope") && id_of(name).is_some());
    match (scope, Manager::find()) {
        (Some(scope), Some(manager)) if !weights.is_empty() => {
            manager.set_properties(scope, &weights)
        }
        _ => Ok(()),
    }
}

/// Lets systemd move processes into a group in one of its scopes.
pub(super) fn attach(group: &Group, pids: &[i32]) -> Result<()> {
    let part = |path: Option<&Path>| Some(path?.file_name()?.to_str()?.to_owned());
    let unit = part(group.path().parent()).filter(|name| name.ends_with(".scope"));
    match (unit, part(Some(group.path())), Manager::find()) {
        (Some(unit), Some(name), Some(manager)) => manager.attach(&unit, &format!("/{name}"), pids),
        _ => Err(Fail::denied(format!(
            "the way into `{}` leads through a group that is not yours",
            group.path().display()
        ))
        .into()),
    }
}

/// Systemd moves only processes of its caller's own id out of a login session. Those of its own services it moves by
/// itself.
pub(super) fn refuse_other_ids(pids: &[i32]) -> Result<(), Fail> {
    use std::os::unix::fs::MetadataExt as _;
    let me = rustix::process::getuid().as_raw();
    let manager = format!("user@{me}.service");
    let is_near = |path: PathBuf| path.iter().any(|part| part == manager.as_str());
    let first = pids.first().map(ToString::to_string).unwrap_or_default();
    if of_process(&first).is_some_and(is_near) {
        return Ok(());
    }
    let owner = |pid: &i32| std::fs::metadata(format!("/proc/{pid}")).map(|meta| meta.uid());
    let other = pids.iter().find_map(|pid| {
        owner(pid)
            .ok()
            .filter(|uid| *uid != me)
            .map(|uid| (pid, uid))
    });
    match other {
        None => Ok(()),
        Some((pid, uid)) => Err(Fail::denied(format!(
            "its process {pid} runs with the id {uid}, and systemd moves only those with your own"
        ))),
    }
}

/// Asks again while systemd still clears away the scope of the last run: it tells nobody when it has.
pub fn start_scope(manager: &Manager, scope: &Scope<'_>) -> Result<()> {
    let until = Instant::now() + LEAVING;
    loop {
        match manager.start_scope(scope) {
            Err(error)
                if systemd::is_refusal(&error, systemd::EXISTS) && Instant::now() < until =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done,
        }
    }
}

/// The scope that systemd has put us into.
pub(super) fn own_scope(unit: &str) -> Result<Group> {
    let path = of_process("self").filter(|path| path.file_name().is_some_and(|name| name == unit));
    let path = path.ok_or_else(|| {
        Fail::system(format!(
            "systemd says that this process is in `{unit}`, and it is not"
        ))
        .hint("is this a container with another machine's systemd? leave limits out")
    })?;
    Ok(Group::open(&path)?)
}

/// Moves this process to where it may start others in the container's group: the kernel asks for the right over the
/// common ancestor, which a login session has not got. One round-trip, and only then.
///
/// # Errors
/// What systemd answers.
pub fn come_near(group: &Group) -> Result<()> {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let near = || {
        let leaf = group.path().with_file_name(SELF);
        // A container that got its group late has nobody there yet.
        let in_scope = leaf.parent().and_then(Path::extension);
        let leaf = match Group::open(&leaf) {
            Err(_) if in_scope.is_some_and(|ending| ending == "scope") => {
                Group::open(group.path().parent().unwrap_or(&leaf))?.create(SELF)?
            }
            opened => opened?,
        };
        attach(&leaf, &[me])
    };
    // A service that started it lets nobody in; from a scope beside it, what is below is the user's.
    let beside = || {
        let manager = Manager::find().ok_or_else(|| Fail::system("no systemd to ask"))?;
        start_scope(
            &manager,
            &Scope {
                name: &format!("rl.exec-{me}.scope"),
                description: "rl exec",
                pids: &[me],
                slice: None,
                weights: &[],
            },
        )
    };
    near().or_else(|_| beside()).with_context(|| {
        Fail::denied("the container's group cannot be entered from here")
            .hint("run the command from where the container was started")
    })
}
