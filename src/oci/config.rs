//! `config.json`: read and checked, every error with the field it is about.
//!
//! What is a type of the waist's already ([`crate::spec::oci`]) is read as that. Source: OCI runtime specification 1.2.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::Fail;
use crate::spec::oci::{
    self, Affinity, Capabilities, ConsoleSize, Hooks, IdMapping, IoPriority, Kind, Namespace,
    NetDevice, Node, Propagation, Scheduler, TimeOffset, User,
};
use crate::spec::resources::Resources;
use crate::stage::confine::{CAPABILITIES, RLIMITS};

/// A `config.json` as it stands on disk.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct Config {
    pub oci_version: Option<String>,
    pub root: Option<Root>,
    pub process: Option<Process>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub mounts: Option<Vec<Mount>>,
    pub hooks: Option<Hooks>,
    pub annotations: Option<BTreeMap<String, String>>,
    pub linux: Option<Linux>,
}

/// `root`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct Root {
    pub path: String,
    pub readonly: bool,
}

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

/// One entry of `mounts`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct Mount {
    pub destination: String,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub source: Option<String>,
    pub options: Option<Vec<String>>,
    pub uid_mappings: Option<Vec<IdMapping>>,
    pub gid_mappings: Option<Vec<IdMapping>>,
}

/// `linux`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct Linux {
    pub namespaces: Option<Vec<Namespace>>,
    pub uid_mappings: Option<Vec<IdMapping>>,
    pub gid_mappings: Option<Vec<IdMapping>>,
    pub time_offsets: Option<BTreeMap<String, TimeOffset>>,
    pub devices: Option<Vec<Node>>,
    pub net_devices: Option<BTreeMap<String, NetDevice>>,
    pub cgroups_path: Option<String>,
    pub resources: Option<Resources>,
    pub intel_rdt: Option<serde_json::Value>,
    pub sysctl: Option<BTreeMap<String, String>>,
    pub seccomp: Option<Box<RawValue>>,
    pub rootfs_propagation: Option<String>,
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    pub mount_label: Option<String>,
    pub personality: Option<Personality>,
}

/// Refused also where SELinux is off: who asks for a label wants its protection.
fn check_label(field: &str, label: Option<&String>) -> Result<(), Fail> {
    if label.is_none_or(String::is_empty) {
        return Ok(());
    }
    Err(
        Fail::unsupported(format!("{field}: labels of SELinux are not written"))
            .hint("leave it out; podman does with --security-opt label=disable"),
    )
}

/// `linux.personality`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct Personality {
    pub domain: String,
    pub flags: Option<Vec<String>>,
}

/// What of `linux.seccomp` is not the filter itself.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct SeccompListener {
    pub listener_path: Option<String>,
    pub listener_metadata: Option<String>,
}

/// The largest configuration that is read, in bytes.
const MOST: u64 = 64 << 20;

/// Reads a file of JSON.
///
/// # Errors
/// That it is not there, too large, or no such thing: with the field, or line and column.
pub fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    use std::io::Read as _;
    let shown = path.display();
    let file = std::fs::File::open(path)
        .map_err(|error| Fail::not_found(format!("open {shown}: {}", plain(&error))))?;
    let mut text = String::new();
    file.take(MOST + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("reading {shown}"))?;
    if text.len() as u64 > MOST {
        return Err(Fail::usage(format!("{shown} is larger than {MOST} bytes")).into());
    }
    parse(&text).map_err(|fail| anyhow::Error::from(fail).context(format!("{shown}")))
}

/// An error of the operating system in its own words, which those who start runtimes look for.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}

/// The same, out of text.
///
/// # Errors
/// [`crate::error::Kind::Usage`] with the field.
pub fn parse<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Fail> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let why = error.into_inner();
        if path == "." || path == "?" {
            Fail::usage(why.to_string())
        } else {
            Fail::usage(format!("{path}: {why}"))
        }
    })?;
    reader
        .end()
        .map_err(|error| Fail::usage(format!("after the end: {error}")))?;
    Ok(parsed)
}

fn wrong(field: impl std::fmt::Display, why: impl std::fmt::Display) -> Fail {
    Fail::usage(format!("{field}: {why}"))
}

/// What of the machine and the caller decides whether a configuration can be had.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// The caller may do what root may: no user namespace is needed.
    pub admin: bool,
    /// The kernel enforces AppArmor profiles.
    pub apparmor: bool,
}

impl Config {
    /// The kinds of namespaces that are listed, and the part of it that is Linux'.
    #[must_use]
    pub fn linux(&self) -> Linux {
        self.linux.clone().unwrap_or_default()
    }

    /// Everything that can be known before anything is made.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self, bundle: &Path, rights: Rights) -> Result<(), Fail> {
        version(self.oci_version.as_deref().unwrap_or_default())?;
        let root = self
            .root
            .as_ref()
            .filter(|root| !root.path.is_empty())
            .ok_or_else(|| wrong("root.path", "must be set"))?;
        let path = bundle.join(&root.path);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                return Err(wrong(
                    "root.path",
                    format!("`{}` is no directory", path.display()),
                ));
            }
            Err(error) => {
                return Err(wrong(
                    "root.path",
                    format!("`{}`: {}", path.display(), plain(&error)),
                ));
            }
        }
        let linux = self.linux();
        let namespaces = linux.namespaces.as_deref().unwrap_or_default();
        check_namespaces(namespaces, &linux, rights)?;
        let has = |kind| namespaces.iter().any(|one| one.kind == kind);
        let process = self
            .process
            .as_ref()
            .ok_or_else(|| wrong("process", "must be set"))?;
        process.check("process", &linux, rights)?;
        for (field, text) in [
            ("hostname", &self.hostname),
            ("domainname", &self.domainname),
        ] {
            let Some(text) = text.as_ref().filter(|text| !text.is_empty()) else {
                continue;
            };
            if !has(Kind::Uts) {
                return Err(wrong(field, "needs a uts namespace in linux.namespaces"));
            }
            if text.len() > 64 {
                return Err(wrong(field, "must not have more than 64 bytes"));
            }
        }
        for (at, mount) in self.mounts.iter().flatten().enumerate() {
            mount.check(&format!("mounts[{at}]"))?;
        }
        if let Some(hooks) = &self.hooks {
            check_hooks(hooks)?;
        }
        if !has(Kind::Mount)
            && (self.mounts.iter().flatten().next().is_some()
                || linux.masked_paths.iter().flatten().next().is_some()
                || linux.readonly_paths.iter().flatten().next().is_some()
                || root.readonly)
        {
            return Err(wrong(
                "linux.namespaces",
                "without a mount namespace nothing can be mounted, masked or made read-only: it would be on the host",
            ));
        }
        linux.check(&has)
    }
}

fn version(text: &str) -> Result<(), Fail> {
    if text.is_empty() {
        return Err(wrong("ociVersion", "must be set"));
    }
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u32>> = core.split('.').map(|part| part.parse().ok()).collect();
    match numbers.as_slice() {
        [Some(1), Some(_), Some(_)] => Ok(()),
        [Some(_), Some(_), Some(_)] => Err(wrong(
            "ociVersion",
            format!("`{text}` is not a version 1 of the specification"),
        )),
        _ => Err(wrong(
            "ociVersion",
            format!("`{text}` is no version such as 1.2.0"),
        )),
    }
}

fn check_namespaces(all: &[Namespace], linux: &Linux, rights: Rights) -> Result<(), Fail> {
    let mut seen = BTreeSet::new();
    for (at, one) in all.iter().enumerate() {
        if !seen.insert(one.kind) {
            return Err(wrong(
                format!("linux.namespaces[{at}].type"),
                format!("`{}` is listed twice", one.kind.name()),
            ));
        }
        if let Some(path) = &one.path {
            let field = format!("linux.namespaces[{at}].path");
            if path.as_os_str().is_empty() {
                return Err(wrong(field, "must not be empty"));
            }
            if !path.is_absolute() {
                return Err(wrong(
                    field,
                    format!("`{}` is not absolute", path.display()),
                ));
            }
            if !path.exists() {
                return Err(wrong(
                    field,
                    format!("`{}`: no such file or directory", path.display()),
                ));
            }
        }
    }
    let user = all.iter().find(|one| one.kind == Kind::User);
    let makes_user = user.is_some_and(|one| one.path.is_none());
    for (name, map) in [
        ("uidMappings", &linux.uid_mappings),
        ("gidMappings", &linux.gid_mappings),
    ] {
        let map = map.as_deref().unwrap_or_default();
        let field = format!("linux.{name}");
        check_map(map, &field)?;
        if makes_user && map.is_empty() {
            return Err(wrong(
                field,
                "must be set: a new user namespace is asked for",
            ));
        }
        if user.is_none() && !map.is_empty() {
            return Err(wrong(field, "needs a user namespace in linux.namespaces"));
        }
        if user.is_some() && !makes_user && !map.is_empty() {
            return Err(wrong(
                field,
                "must not be set: the user namespace that is joined has its own",
            ));
        }
    }
    if user.is_none() && !rights.admin {
        return Err(wrong(
            "linux.namespaces",
            "a user namespace is needed by who is not root",
        )
        .hint("rl runtime spec --rootless makes a configuration with one"));
    }
    let time = all.iter().find(|one| one.kind == Kind::Time);
    for (clock, offset) in linux.time_offsets.iter().flatten() {
        let field = format!("linux.timeOffsets.{clock}");
        if !["monotonic", "boottime"].contains(&clock.as_str()) {
            return Err(wrong(field, "is not one of monotonic, boottime"));
        }
        if time.is_none_or(|one| one.path.is_some()) {
            return Err(wrong(
                field,
                "needs a new time namespace in linux.namespaces",
            ));
        }
        if offset.nanosecs >= 1_000_000_000 {
            return Err(wrong(
                format!("{field}.nanosecs"),
                "must be less than 1000000000",
            ));
        }
    }
    Ok(())
}

/// The kernel takes no more lines (user_namespaces(7)).
const MOST_EXTENTS: usize = 340;

fn check_map(map: &[IdMapping], field: &str) -> Result<(), Fail> {
    if map.len() > MOST_EXTENTS {
        return Err(wrong(
            field,
            format!("the kernel takes at most {MOST_EXTENTS} lines"),
        ));
    }
    for (at, one) in map.iter().enumerate() {
        let here = format!("{field}[{at}]");
        if one.size == 0 {
            return Err(wrong(format!("{here}.size"), "must not be 0"));
        }
        for (name, first) in [("containerID", one.container_id), ("hostID", one.host_id)] {
            if first.checked_add(one.size).is_none() {
                return Err(wrong(
                    format!("{here}.{name}"),
                    "the range goes beyond the largest id",
                ));
            }
        }
        let overlap = |first: u32, other: u32, other_size: u32| {
            u64::from(first) < u64::from(other) + u64::from(other_size)
                && u64::from(other) < u64::from(first) + u64::from(one.size)
        };
        for before in &map[..at] {
            if overlap(one.container_id, before.container_id, before.size)
                || overlap(one.host_id, before.host_id, before.size)
            {
                return Err(wrong(here, "overlaps one before it"));
            }
        }
    }
    Ok(())
}

fn is_mapped(map: &[IdMapping], id: u32) -> bool {
    map.iter()
        .any(|one| id >= one.container_id && id - one.container_id < one.size)
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

impl Mount {
    fn check(&self, field: &str) -> Result<(), Fail> {
        if self.destination.is_empty() {
            return Err(wrong(format!("{field}.destination"), "must be set"));
        }
        for (name, text) in [
            ("destination", Some(&self.destination)),
            ("source", self.source.as_ref()),
        ] {
            if text.is_some_and(|text| text.contains('\0')) {
                return Err(wrong(format!("{field}.{name}"), "has a NUL byte"));
            }
        }
        let options = oci::Options::parse(self.options.as_deref().unwrap_or_default());
        let kind = self.kind.as_deref().unwrap_or_default();
        let source = self.source.as_deref().unwrap_or_default();
        if (options.bind.is_some() || kind == "bind") && source.is_empty() {
            return Err(wrong(
                format!("{field}.source"),
                "must be set for a bind mount",
            ));
        }
        if options.bind.is_none() && !options.remount && (kind.is_empty() || kind == "none") {
            return Err(wrong(
                format!("{field}.type"),
                "must be set where the options have no bind",
            ));
        }
        let (uids, gids) = (
            self.uid_mappings.as_deref().unwrap_or_default(),
            self.gid_mappings.as_deref().unwrap_or_default(),
        );
        check_map(uids, &format!("{field}.uidMappings"))?;
        check_map(gids, &format!("{field}.gidMappings"))?;
        if uids.is_empty() != gids.is_empty() {
            let name = if uids.is_empty() {
                "uidMappings"
            } else {
                "gidMappings"
            };
            return Err(wrong(
                format!("{field}.{name}"),
                "must be set where the other one is",
            ));
        }
        Ok(())
    }
}

fn check_hooks(hooks: &Hooks) -> Result<(), Fail> {
    for (kind, list) in [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ] {
        for (at, hook) in list.iter().enumerate() {
            let field = format!("hooks.{kind}[{at}]");
            if !hook.path.starts_with('/') {
                let why = format!("`{}` is not an absolute path", hook.path);
                return Err(wrong(format!("{field}.path"), why));
            }
            if hook.timeout.is_some_and(|seconds| seconds <= 0) {
                return Err(wrong(format!("{field}.timeout"), "must be above 0"));
            }
            let words = hook.args.iter().chain(&hook.env);
            if words.chain([&hook.path]).any(|word| word.contains('\0')) {
                return Err(wrong(field, "has a NUL byte"));
            }
        }
    }
    Ok(())
}

impl Linux {
    fn check(&self, has: &dyn Fn(Kind) -> bool) -> Result<(), Fail> {
        for (at, node) in self.devices.iter().flatten().enumerate() {
            let field = format!("linux.devices[{at}]");
            if !node.path.starts_with('/') {
                return Err(wrong(
                    format!("{field}.path"),
                    format!("`{}` is not an absolute path", node.path),
                ));
            }
            if !["c", "u", "b", "p"].contains(&node.kind.as_str()) {
                return Err(wrong(
                    format!("{field}.type"),
                    format!("`{}` is not one of c, b, u, p", node.kind),
                ));
            }
            if node.kind != "p" {
                for (name, number) in [("major", node.major), ("minor", node.minor)] {
                    if number.is_none() {
                        return Err(wrong(format!("{field}.{name}"), "must be set"));
                    }
                }
            }
            if node.file_mode.is_some_and(|mode| mode > 0o7777) {
                // Go's types put the kind of file into the upper bits.
                if node
                    .file_mode
                    .is_some_and(|mode| mode & 0o7000_0000 == 0 && mode > 0o177_777)
                {
                    return Err(wrong(
                        format!("{field}.fileMode"),
                        "must not be above 07777",
                    ));
                }
            }
        }
        for (name, device) in self.net_devices.iter().flatten() {
            let field = format!("linux.netDevices[{name}]");
            if !has(Kind::Network) {
                return Err(wrong(
                    field,
                    "needs a network namespace in linux.namespaces",
                ));
            }
            for text in [Some(name), device.name.as_ref()].into_iter().flatten() {
                if text.is_empty() || text.len() > 15 || text.contains('/') {
                    return Err(wrong(
                        &field,
                        format!("`{text}` is no name of an interface"),
                    ));
                }
            }
        }
        if self.intel_rdt.is_some() {
            return Err(Fail::unsupported(
                "linux.intelRdt: is not supported (resctrl belongs to the root of the host)",
            ));
        }
        for name in self.sysctl.iter().flatten().map(|(name, _)| name) {
            check_sysctl(name, has)?;
        }
        if let Some(text) = &self.rootfs_propagation
            && !text.is_empty()
            && Propagation::parse(text).is_none()
        {
            return Err(wrong(
                "linux.rootfsPropagation",
                format!("`{text}` is not one of shared, slave, private, unbindable"),
            ));
        }
        for (name, list) in [
            ("maskedPaths", &self.masked_paths),
            ("readonlyPaths", &self.readonly_paths),
        ] {
            for (at, path) in list.iter().flatten().enumerate() {
                if !path.starts_with('/') {
                    return Err(wrong(
                        format!("linux.{name}[{at}]"),
                        format!("`{path}` is not an absolute path"),
                    ));
                }
            }
        }
        check_label("linux.mountLabel", self.mount_label.as_ref())?;
        if let Some(personality) = &self.personality {
            if !["LINUX", "LINUX32"].contains(&personality.domain.as_str()) {
                return Err(wrong(
                    "linux.personality.domain",
                    format!("`{}` is not one of LINUX, LINUX32", personality.domain),
                ));
            }
            if personality.flags.iter().flatten().next().is_some() {
                return Err(wrong("linux.personality.flags", "none is supported"));
            }
        }
        if let Some(resources) = &self.resources {
            check_device_rules(resources)?;
            crate::cgroup::exact::settings(resources)?;
        }
        Ok(())
    }

    /// The part of `linux.seccomp` that is about who answers.
    ///
    /// # Errors
    /// What is no such object.
    pub fn seccomp_listener(&self) -> Result<SeccompListener, Fail> {
        let Some(text) = &self.seccomp else {
            return Ok(SeccompListener::default());
        };
        parse(text.get()).map_err(|fail| wrong("linux.seccomp", fail.message))
    }
}

fn check_device_rules(resources: &Resources) -> Result<(), Fail> {
    for (at, rule) in resources.devices.iter().enumerate() {
        let field = format!("linux.resources.devices[{at}]");
        if let Some(kind) = rule.kind.as_deref()
            && !["a", "b", "c", ""].contains(&kind)
        {
            return Err(wrong(
                format!("{field}.type"),
                format!("`{kind}` is not one of a, b, c"),
            ));
        }
        if let Some(access) = &rule.access
            && !access.chars().all(|letter| "rwm".contains(letter))
        {
            return Err(wrong(
                format!("{field}.access"),
                format!("`{access}` is not made of r, w, m"),
            ));
        }
    }
    Ok(())
}

/// Only what belongs to a namespace of the container's may be set. Source: namespaces(7), ipc_namespaces(7).
fn check_sysctl(name: &str, has: &dyn Fn(Kind) -> bool) -> Result<(), Fail> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let field = format!("linux.sysctl[{name}]");
    let dotted = match name.find(['.', '/']).and_then(|at| name.get(at..=at)) {
        Some("/") => name
            .replace('.', "\u{1}")
            .replace('/', ".")
            .replace('\u{1}', "/"),
        _ => name.to_owned(),
    };
    if name.split('/').any(|part| part == "..") || name.contains('\0') {
        return Err(wrong(field, "is no name of a setting"));
    }
    let needs = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        Kind::Ipc
    } else if dotted.starts_with("net.") {
        Kind::Network
    } else if dotted == "kernel.domainname" {
        Kind::Uts
    } else if dotted.starts_with("user.") {
        Kind::User
    } else {
        return Err(wrong(
            field,
            "does not belong to any namespace: it is the host's",
        ));
    };
    if has(needs) {
        Ok(())
    } else {
        Err(wrong(
            field,
            format!("needs a {} namespace in linux.namespaces", needs.name()),
        ))
    }
}

/// Where the bundle is, without links that may change.
///
/// # Errors
/// When it is no directory.
pub fn bundle(given: &Path) -> Result<PathBuf> {
    let fd = crate::sys::fs::open_trusted(
        given,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY,
    )
    .with_context(|| {
        Fail::not_found(format!("the bundle `{}` is no directory", given.display()))
    })?;
    rustix::process::fchdir(fd).context("entering the bundle")?;
    std::env::current_dir().context("finding the bundle")
}
