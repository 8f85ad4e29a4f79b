//! `process`: the program, who it is and what it may do, in `config.json` and in the file of `exec --process`.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Deserialize;

use super::linux::{Linux, check_label, is_mapped};
use super::{Rights, wrong};
use crate::error::Fail;
use crate::spec::oci::{self, Affinity, Capabilities, ConsoleSize, IoPriority, Scheduler, User};
use crate::stage::confine::{CAPABILITIES, RLIMITS};

/// `process`, in `config.json` and in the file of `exec --process`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct Process {
    pub terminal: bool,
    pub console_size: Option<ConsoleSize>,
    pub user: User,
    pub args: Option<Vec<String>>,
    pub env: Option<Vec<String>>,
    pub cwd: String,
    pub capabilities: Option<Capabilities>,
    pub rlimits: Option<Vec<Rlimit>>,
    pub no_new_privileges: bool,
    pub apparmor_profile: Option<String>,
    pub oom_score_adj: Option<i32>,
    pub selinux_label: Option<String>,
    pub scheduler: Option<Scheduler>,
    pub io_priority: Option<IoPriority>,
    #[serde(rename = "execCPUAffinity")]
    pub exec_cpu_affinity: Option<Affinity>,
}

/// One entry of `process.rlimits`.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct Rlimit {
    #[serde(rename = "type")]
    pub kind: String,
    pub soft: u64,
    pub hard: u64,
}

impl Process {
    /// `field` is where it stands; `linux` says which ids there are.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self, field: &str, linux: &Linux, rights: Rights) -> Result<(), Fail> {
        let args = self.args.as_deref().unwrap_or_default();
        if args.is_empty() {
            return Err(wrong(format!("{field}.args"), "must not be empty"));
        }
        for (name, words) in [
            ("args", args),
            ("env", self.env.as_deref().unwrap_or_default()),
        ] {
            if let Some(at) = words.iter().position(|word| word.contains('\0')) {
                return Err(wrong(format!("{field}.{name}[{at}]"), "has a NUL byte"));
            }
        }
        if args[0].is_empty() {
            return Err(wrong(format!("{field}.args[0]"), "must not be empty"));
        }
        if !self.cwd.starts_with('/') {
            let why = if self.cwd.is_empty() {
                "must be set".to_owned()
            } else {
                format!("`{}` is not an absolute path", self.cwd)
            };
            return Err(wrong(format!("{field}.cwd"), why));
        }
        self.check_user(field, linux)?;
        let mut seen = BTreeSet::new();
        for (at, limit) in self.rlimits.iter().flatten().enumerate() {
            let here = format!("{field}.rlimits[{at}]");
            if rlimit(&limit.kind).is_none() {
                return Err(wrong(
                    format!("{here}.type"),
                    format!("there is no `{}`", limit.kind),
                ));
            }
            if !seen.insert(&limit.kind) {
                return Err(wrong(
                    format!("{here}.type"),
                    format!("`{}` is listed twice", limit.kind),
                ));
            }
            if limit.soft > limit.hard {
                return Err(wrong(format!("{here}.soft"), "must not be above hard"));
            }
        }
        if self
            .oom_score_adj
            .is_some_and(|score| !(-1000..=1000).contains(&score))
        {
            return Err(wrong(
                format!("{field}.oomScoreAdj"),
                "must be from -1000 to 1000",
            ));
        }
        let profile = self.apparmor_profile.as_deref().unwrap_or_default();
        if !profile.is_empty() && !rights.apparmor {
            return Err(Fail::unsupported(format!(
                "{field}.apparmorProfile: this kernel does not enforce such"
            )));
        }
        check_label(
            &format!("{field}.selinuxLabel"),
            self.selinux_label.as_ref(),
        )?;
        self.check_treatment(field)
    }

    fn check_user(&self, field: &str, linux: &Linux) -> Result<(), Fail> {
        let user = &self.user;
        let uids = linux.uid_mappings.as_deref().unwrap_or_default();
        let gids = linux.gid_mappings.as_deref().unwrap_or_default();
        let mut ids = vec![
            (format!("{field}.user.uid"), user.uid, uids, "uidMappings"),
            (format!("{field}.user.gid"), user.gid, gids, "gidMappings"),
        ];
        for (at, gid) in user.additional_gids.iter().enumerate() {
            let name = format!("{field}.user.additionalGids[{at}]");
            ids.push((name, *gid, gids, "gidMappings"));
        }
        for (name, id, map, list) in ids {
            if id == u32::MAX {
                return Err(wrong(name, format!("{id} stands for no id")));
            }
            if !map.is_empty() && !is_mapped(map, id) {
                return Err(wrong(name, format!("{id} is not mapped by linux.{list}")));
            }
        }
        if user.umask.is_some_and(|umask| umask > 0o777) {
            return Err(wrong(
                format!("{field}.user.umask"),
                "must not be above 0777 (511)",
            ));
        }
        Ok(())
    }

    fn check_treatment(&self, field: &str) -> Result<(), Fail> {
        if let Some(scheduler) = &self.scheduler {
            let field = format!("{field}.scheduler");
            let policy = scheduler.policy.as_str();
            if !oci::POLICIES.iter().any(|(name, _)| *name == policy) {
                return Err(wrong(
                    format!("{field}.policy"),
                    format!("there is no `{policy}`"),
                ));
            }
            for (at, flag) in scheduler.flags.iter().enumerate() {
                if !oci::SCHEDULER_FLAGS.iter().any(|(name, _)| name == flag) {
                    return Err(wrong(
                        format!("{field}.flags[{at}]"),
                        format!("there is no `{flag}`"),
                    ));
                }
            }
            if !(-20..=19).contains(&scheduler.nice) {
                return Err(wrong(format!("{field}.nice"), "must be from -20 to 19"));
            }
            let real_time = ["SCHED_FIFO", "SCHED_RR"].contains(&policy);
            if scheduler.priority != 0 && !real_time {
                return Err(wrong(
                    format!("{field}.priority"),
                    "is for SCHED_FIFO and SCHED_RR only",
                ));
            }
            if real_time && !(1..=99).contains(&scheduler.priority) {
                return Err(wrong(format!("{field}.priority"), "must be from 1 to 99"));
            }
            let times = [scheduler.runtime, scheduler.deadline, scheduler.period];
            if policy != "SCHED_DEADLINE" && times != [0, 0, 0] {
                return Err(wrong(
                    field,
                    "runtime, deadline and period are for SCHED_DEADLINE only",
                ));
            }
        }
        if let Some(io) = &self.io_priority {
            let field = format!("{field}.ioPriority");
            if !oci::IO_CLASSES.iter().any(|(name, _)| *name == io.class) {
                return Err(wrong(
                    format!("{field}.class"),
                    format!("there is no `{}`", io.class),
                ));
            }
            if io.priority > 7 {
                return Err(wrong(format!("{field}.priority"), "must be from 0 to 7"));
            }
        }
        if let Some(affinity) = &self.exec_cpu_affinity {
            for (name, list) in [("initial", &affinity.initial), ("final", &affinity.after)] {
                if let Some(list) = list.as_deref().filter(|list| !list.is_empty())
                    && crate::cgroup::limits::numbers(list).is_none()
                {
                    return Err(wrong(
                        format!("{field}.execCPUAffinity.{name}"),
                        format!("`{list}` is no list such as 0-2,4"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Names of capabilities that nobody knows. The specification asks for a warning.
    #[must_use]
    pub fn unknown_capabilities(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .capabilities
            .iter()
            .flat_map(|sets| sets.sets())
            .flat_map(|(_, names)| names)
            .filter(|name| !CAPABILITIES.contains(&name.as_str()))
            .cloned()
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Our own name of a limit: `nofile` for `RLIMIT_NOFILE`.
#[must_use]
pub fn rlimit(kind: &str) -> Option<&'static str> {
    let name = kind.strip_prefix("RLIMIT_")?.to_ascii_lowercase();
    let found = RLIMITS.iter().find(|(known, _)| *known == name);
    found.map(|(known, _)| *known)
}
