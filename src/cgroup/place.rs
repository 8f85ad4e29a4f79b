//! Where a container's group may stand: below our own group when that is handed over to us, in a scope that systemd
//! makes, or nowhere.
//!
//! ```text
//! handed over to us                  from systemd
//! GROUP/                             …/rl-ID.scope/
//! ├── rl-self   whoever was there,   ├── rl-self   its monitor or command
//! │             monitors, commands   └── rl-ID     the container
//! └── rl-ID     a container
//! ```
//!
//! `rl-self` is made when controllers have to be handed down, which a group with processes of its own may not do.
//! Whoever froze or killed `rl-ID` has never touched the monitor.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::fs::{Access, FlockOperation};
use rustix::io::Errno;

use super::limits::{self, Setting};
use super::systemd::{self, Manager, Scope, Value};
use super::{Group, MOUNT, SELF, id_of, name, named, of_process};
use crate::error::Fail;
use crate::spec::{Cgroup, CgroupMode, ContainerSpec};

/// The line with which an administrator hands all controllers to users.
pub const DELEGATE: &str = "mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' > /etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload, then log in again";

/// The variables by which batch systems tell a job who it is. A container stays in its job's group.
const JOBS: [&str; 7] = [
    "SLURM_JOB_ID",
    "PBS_JOBID",
    "LSB_JOBID",
    "FLUX_JOB_ID",
    "OAR_JOB_ID",
    "COBALT_JOBID",
    "SGE_TASK_ID",
];

/// The variable that says that this is a batch job.
#[must_use]
pub fn batch_job() -> Option<&'static str> {
    JOBS.into_iter()
        .find(|name| std::env::var_os(name).is_some())
}

/// How often a group is emptied until it hands controllers down: others start processes in it meanwhile.
const ROUNDS: usize = 100;

/// How old an empty group must be to be litter for a command that has other things to do.
pub const LITTER: Duration = Duration::from_secs(60);

/// The same for a command that is asked to tidy up.
pub const IDLE: Duration = Duration::from_secs(5);

/// How long a scope of the last run may keep its name.
const LEAVING: Duration = Duration::from_secs(5);

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

/// Where groups can be made.
#[derive(Debug)]
pub enum Place {
    /// Below this group.
    Below(Group),
    /// In a scope of this manager's.
    Scope(Manager),
}

/// Why there is no such place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nowhere {
    /// The tree is not of version 2 alone.
    OldVersion,
    /// A batch job's group, named by this variable, is not ours.
    Job {
        /// Such as `SLURM_JOB_ID`.
        variable: &'static str,
        /// The job's group.
        group: PathBuf,
    },
    /// Our group is somebody else's, and no systemd is there to ask.
    NotOurs {
        /// Our group.
        group: PathBuf,
    },
    /// The group of `--cgroup-parent` cannot be used.
    Parent {
        /// It.
        group: PathBuf,
        /// The system's answer.
        why: String,
    },
}

impl Nowhere {
    /// What to say of it to somebody who asked for `what`.
    #[must_use]
    pub fn fail(&self, what: &str) -> Fail {
        match self {
            Nowhere::OldVersion => Fail::unsupported(format!(
                "{what} cannot be had: the control groups of this machine are {}, which cannot be handed to users",
                if Path::new(MOUNT).join("unified").exists() {
                    "a mix of version 1 and 2"
                } else {
                    "not of version 2"
                }
            ))
            .hint(format!("leave {what} out: containers run without limits here"))
            .hint("your administrator can boot with systemd.unified_cgroup_hierarchy=1")
            .code("RL-C01"),
            Nowhere::Job { variable, group } => Fail::unsupported(format!(
                "{what} cannot be had: this is a batch job ({variable}), and its group `{}` is not yours to divide",
                group.display()
            ))
            .hint("ask the batch system for less: the job's own limits hold for the container too")
            .code("RL-C03"),
            Nowhere::NotOurs { group } => Fail::unsupported(format!(
                "{what} cannot be had: the group `{}` belongs to somebody else, and there is no systemd user session to ask for another",
                group.display()
            ))
            .hint("log in again, or ask your administrator: loginctl enable-linger")
            .hint("without systemd, an administrator can hand a group to you: rl explain RL-C03")
            .code("RL-C03"),
            Nowhere::Parent { group, why } => Fail::denied(format!(
                "{what}: no group can be made below `{}`: {why}",
                group.display()
            ))
            .hint("name a group that is handed over to you, or a slice: --cgroup-parent NAME.slice"),
        }
    }
}

impl Place {
    /// Looks for one.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(cgroup: &Cgroup) -> Result<Self, Nowhere> {
        let own = of_process("self").ok_or(Nowhere::OldVersion)?;
        let slice = cgroup.parent.as_deref().filter(|name| is_slice(name));
        if let (Some(parent), None) = (&cgroup.parent, slice) {
            return named(parent);
        }
        let base = above_self(&own);
        // A group without limits asks nothing of the one above.
        let plain = cgroup.resources.is_empty() && cgroup.mode == CgroupMode::Auto;
        let fits = match Ours::look(base) {
            Ours::Yes => true,
            Ours::Writable => plain,
            Ours::No => false,
        };
        if slice.is_none()
            && fits
            && let Ok(group) = Group::open(base)
        {
            return Ok(Place::Below(group));
        }
        if let Some(variable) = batch_job() {
            return Err(Nowhere::Job {
                variable,
                group: own,
            });
        }
        match Manager::find() {
            Some(manager) if cgroup.mode != CgroupMode::Split => Ok(Place::Scope(manager)),
            _ => Err(Nowhere::NotOurs { group: own }),
        }
    }
}

/// Our own processes may have been put into a leaf: containers go beside it.
fn above_self(own: &Path) -> &Path {
    match own.parent() {
        Some(parent) if own.file_name().is_some_and(|name| name == SELF) => parent,
        _ => own,
    }
}

fn is_slice(name: &str) -> bool {
    name.ends_with(".slice") && !name.contains('/')
}

/// The group of `--cgroup-parent`, made where it is missing, as docker does.
fn named(parent: &str) -> Result<Place, Nowhere> {
    let path = Path::new(MOUNT).join(parent.trim_start_matches('/'));
    let refused = |why: String| Nowhere::Parent {
        group: path.clone(),
        why,
    };
    if Path::new(parent)
        .components()
        .any(|part| part == std::path::Component::ParentDir)
    {
        return Err(refused("`..` leads out of it".to_owned()));
    }
    std::fs::create_dir_all(&path).map_err(|error| refused(error.to_string()))?;
    if !can_write(&path) {
        return Err(refused("it belongs to somebody else".to_owned()));
    }
    let group = Group::open(&path).map_err(|error| refused(error.to_string()))?;
    Ok(Place::Below(group))
}

fn can_write(group: &Path) -> bool {
    let can = |path: &Path| rustix::fs::access(path, Access::WRITE_OK).is_ok();
    can(group) && can(&group.join("cgroup.procs")) && can(&group.join("cgroup.subtree_control"))
}

/// Whether a group is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ours {
    /// It was handed over to us.
    Yes,
    /// It can be written, but systemd arranges it: a group below it is left alone, controllers that are handed down
    /// may be taken back.
    Writable,
    /// It cannot be written, or is another's.
    No,
}

impl Ours {
    fn look(group: &Path) -> Self {
        if can_write(group) {
            Self::handed_over(group, &systemd::is_delegated)
        } else {
            Ours::No
        }
    }

    /// Being able to write is not enough below a systemd. Source: systemd's `CGROUP_DELEGATION.md`.
    fn handed_over(group: &Path, delegated: &dyn Fn(&Path) -> Option<bool>) -> Self {
        let name = |dir: &Path| {
            let name = dir.file_name().and_then(|name| name.to_str());
            name.unwrap_or_default().to_owned()
        };
        let above = || {
            group
                .ancestors()
                .take_while(|dir| *dir != Path::new(MOUNT) && dir.parent().is_some())
        };
        let is_unit = |dir: &&Path| {
            let name = name(dir);
            [".service", ".scope", ".slice"]
                .iter()
                .any(|ending| name.ends_with(ending))
        };
        let Some(unit) = above().find(is_unit) else {
            return Ours::Yes; // by hand, or by a batch system
        };
        let by_user_manager = above().any(|dir| name(dir).starts_with("user@"));
        match delegated(unit) {
            Some(true) => Ours::Yes,
            _ if by_user_manager => Ours::Writable,
            _ => Ours::No,
        }
    }
}

/// Removes a container's group, and with the last one what was arranged above it for limits.
///
/// # Errors
/// As [`Group::remove`].
pub fn leave(group: Group) -> Result<()> {
    let parent = group.path().parent().map(Path::to_owned);
    group.remove()?;
    let is_scope = |path: &Path| {
        path.file_name()
            .and_then(|name| id_of(name.to_str()?))
            .is_some()
    };
    // Systemd clears its own scopes away.
    if let Some(parent) = parent.filter(|parent| !is_scope(parent))
        && let Ok(leaf) = Group::open(&parent.join(SELF))
    {
        let _ = restore(&Group::open(&parent)?, &leaf); // the next container arranges it the same way
    }
    Ok(())
}

/// Our processes go back to where they were, when no container is left beside them.
fn restore(parent: &Group, leaf: &Group) -> Result<()> {
    // Who has it makes a group just now, or looks for others as we do: the last one sees none.
    rustix::fs::flock(parent, FlockOperation::LockExclusive)
        .with_context(|| format!("locking `{}`", parent.path().display()))?;
    let is_others = |group: &Group| group.path() != leaf.path();
    if parent.children().iter().any(is_others) {
        return Ok(());
    }
    let enabled = controllers(parent, "cgroup.subtree_control")?;
    let none: Vec<String> = enabled.iter().map(|name| format!("-{name}")).collect();
    parent.write("cgroup.subtree_control", &none.join(" "))?;
    for _ in 0..ROUNDS {
        let processes = leaf.processes()?;
        if processes.is_empty() {
            // Never with force: what still lives there is no container's.
            return rustix::fs::rmdir(leaf.path()).context("removing a cgroup");
        }
        for pid in processes {
            match parent.enter(pid) {
                Err(error) if error.errno != Errno::SRCH => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A group below one that is ours.
fn below(parent: &Group, spec: &ContainerSpec, settings: &[Setting]) -> Result<Group> {
    if !settings.is_empty() {
        // Until it is made: whoever ends meanwhile may not undo what it needs.
        rustix::fs::flock(parent, FlockOperation::LockExclusive)
            .with_context(|| format!("locking `{}`", parent.path().display()))?;
    }
    hand_down(parent, settings)?;
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

/// Whether limits can be set in a container's group: the one above it is not systemd's to arrange.
#[must_use]
pub fn takes_limits(group: &Group) -> bool {
    let parent = group.path().parent();
    parent.is_some_and(|parent| Ours::look(parent) == Ours::Yes)
}

/// Lets a group that exists have the controllers that these settings need.
///
/// # Errors
/// Which one is not handed down, and where it stops.
pub fn equip(group: &Group, settings: &[Setting]) -> Result<()> {
    match group.path().parent() {
        Some(parent) => hand_down(&Group::open(parent)?, settings),
        None => Ok(()),
    }
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
    for _ in 0..ROUNDS {
        let outside = processes().into_iter().filter(|pid| {
            of_process(&pid.to_string()).is_some_and(|path| !path.starts_with(group.path()))
        });
        let mut far = Vec::new();
        let mut left = false;
        // What they fork from now on is born where they stand.
        for pid in outside {
            left = true;
            match group.enter(pid) {
                Ok(()) => {}
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

/// Lets systemd move processes into a group in one of its scopes.
fn attach(group: &Group, pids: &[i32]) -> Result<()> {
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

/// Systemd moves only processes of its caller's own id out of a login session. Those of its own services it moves by
/// itself.
fn refuse_other_ids(pids: &[i32]) -> Result<(), Fail> {
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
fn own_scope(unit: &str) -> Result<Group> {
    let path = of_process("self").filter(|path| path.file_name().is_some_and(|name| name == unit));
    let path = path.ok_or_else(|| {
        Fail::system(format!(
            "systemd says that this process is in `{unit}`, and it is not"
        ))
        .hint("is this a container with another machine's systemd? leave limits out")
    })?;
    Ok(Group::open(&path)?)
}

/// What a group hands down, and could.
fn controllers(group: &Group, file: &str) -> Result<BTreeSet<String>> {
    let text = group.read(file)?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Lets the groups below have the controllers that these settings need; with one of them, all there are: `stats`
/// then counts everything.
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
    for setting in settings {
        let wanted = setting.controller();
        if wanted != "cgroup" && !available.contains(wanted) {
            return Err(not_handed_down(setting.flag, wanted, group.path()).into());
        }
    }
    if available.is_subset(&enabled) {
        return Ok(());
    }
    let all = plus(available.iter().map(String::as_str));
    for _ in 0..ROUNDS {
        match group.write("cgroup.subtree_control", &all) {
            Ok(()) => return Ok(()),
            Err(error) if error.errno == Errno::BUSY => empty(group)?,
            Err(error) => {
                // One that nobody needs may be what is in the way.
                let needed = settings
                    .iter()
                    .map(Setting::controller)
                    .filter(|name| *name != "cgroup");
                let needed = plus(needed);
                let done = group.write("cgroup.subtree_control", &needed);
                return done.map_err(|_| error).with_context(|| {
                    format!("handing controllers down from `{}`", group.path().display())
                });
            }
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
fn fetch(controller: &str, group: &Path) {
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

fn plus<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names
        .map(|name| format!("+{name}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Puts all processes of a group into a leaf of it: its limits hold for them as before.
fn empty(group: &Group) -> Result<()> {
    let leaf = match group.create(SELF) {
        Err(error) if error.errno == Errno::EXIST => Group::open(&group.path().join(SELF)),
        made => made,
    }?;
    for pid in group.processes()? {
        match leaf.enter(pid) {
            Ok(()) => {}
            Err(error) if error.errno == Errno::SRCH => {}
            Err(error) => {
                return Err(anyhow::Error::from(error).context(format!(
                    "moving process {pid} out of the way, into `{}`",
                    leaf.path().display()
                )));
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_has_to_hand_a_group_over() {
        let user = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service";
        let notes = |dir: &Path| -> Option<bool> {
            let name = dir.file_name()?.to_str()?;
            match name {
                "given.scope" => Some(true),
                "not.scope" => Some(false),
                _ => None,
            }
        };
        for (group, ours) in [
            (format!("{user}/app.slice/given.scope"), Ours::Yes),
            (format!("{user}/app.slice/given.scope/deep"), Ours::Yes),
            (format!("{user}/app.slice/not.scope"), Ours::Writable),
            (format!("{user}/app.slice/mine.service"), Ours::Writable),
            (format!("{user}/app.slice"), Ours::Writable),
            (
                "/sys/fs/cgroup/user.slice/user-0.slice/session-3.scope".to_owned(),
                Ours::No,
            ),
            ("/sys/fs/cgroup/by-hand/leaf".to_owned(), Ours::Yes),
            ("/sys/fs/cgroup".to_owned(), Ours::Yes),
        ] {
            let path = Path::new(&group);
            assert_eq!(Ours::handed_over(path, &notes), ours, "{group}");
        }
    }

    #[test]
    fn containers_stand_beside_our_own_processes() {
        assert_eq!(above_self(Path::new("/a/b/rl-self")), Path::new("/a/b"));
        assert_eq!(above_self(Path::new("/a/b")), Path::new("/a/b"));
    }

    #[test]
    fn every_refusal_names_what_was_asked_for_and_a_way_out() {
        let group = PathBuf::from("/sys/fs/cgroup/x");
        for why in [
            Nowhere::OldVersion,
            Nowhere::Job {
                variable: "SLURM_JOB_ID",
                group: group.clone(),
            },
            Nowhere::NotOurs {
                group: group.clone(),
            },
            Nowhere::Parent {
                group,
                why: "no".to_owned(),
            },
        ] {
            let fail = why.fail("--memory");
            assert!(fail.message.contains("--memory"), "{fail:?}");
            assert!(!fail.hints.is_empty(), "{fail:?}");
        }
    }
}
