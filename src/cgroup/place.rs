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

use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::Access;

use super::systemd::{self, Manager};
use super::{Group, MOUNT, SELF, of_process};
use crate::error::Fail;
use crate::spec::{Cgroup, CgroupMode};

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

pub(super) fn is_slice(name: &str) -> bool {
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
pub(super) enum Ours {
    /// It was handed over to us.
    Yes,
    /// It can be written, but systemd arranges it: a group below it is left alone, controllers that are handed down
    /// may be taken back.
    Writable,
    /// It cannot be written, or is another's.
    No,
}

impl Ours {
    pub(super) fn look(group: &Path) -> Self {
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

/// Whether limits can be set in a container's group: the one above it is not systemd's to arrange.
#[must_use]
pub fn takes_limits(group: &Group) -> bool {
    let parent = group.path().parent();
    parent.is_some_and(|parent| Ours::look(parent) == Ours::Yes)
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
