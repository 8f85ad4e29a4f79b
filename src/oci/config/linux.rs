//! `linux`: namespaces, ids, devices and all that only this kernel has.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Rights, parse, wrong};
use crate::error::Fail;
use crate::spec::is_of_ipc;
use crate::spec::oci::{IdMapping, Kind, Namespace, NetDevice, Node, Propagation, TimeOffset};
use crate::spec::resources::Resources;

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
pub(super) fn check_label(field: &str, label: Option<&String>) -> Result<(), Fail> {
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

pub(super) fn check_namespaces(
    all: &[Namespace],
    linux: &Linux,
    rights: Rights,
) -> Result<(), Fail> {
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

pub(super) fn check_map(map: &[IdMapping], field: &str) -> Result<(), Fail> {
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

pub(super) fn is_mapped(map: &[IdMapping], id: u32) -> bool {
    map.iter()
        .any(|one| id >= one.container_id && id - one.container_id < one.size)
}

impl Linux {
    pub(super) fn check(&self, has: &dyn Fn(Kind) -> bool) -> Result<(), Fail> {
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
    let needs = if is_of_ipc(&dotted) {
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
