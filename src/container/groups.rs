//! Groups that a container does not have: said before it starts, for inside it only looks like a file that is refused.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

use super::emulation;
use crate::error::Fail;
use crate::idmap::{How, Plan};
use crate::spec::{ContainerSpec, MountSource};
use crate::stage::seccomp::emulation::Emulation;

const KEEP: &str = "keep-groups";

/// What is missing, and what happens instead.
#[must_use]
pub fn missing(spec: &ContainerSpec, plan: &Plan) -> Option<(Fail, &'static str)> {
    let groups = &spec.process.groups;
    let keeps = groups.iter().any(|group| group == KEEP);
    match plan.how {
        _ if keeps => None,
        How::Single if groups.is_empty() => None,
        How::Single
            if emulation::of(spec, plan)
                .is_some_and(|emulation| Emulation::is_full(&emulation)) =>
        {
            None
        }
        How::Single => Some((
            Fail::unsupported(format!(
                "--group-add {}: with one id the kernel lets nobody set groups",
                groups.join(", ")
            ))
            .code("RL-S08"),
            "the container keeps yours",
        )),
        How::Helpers => lost(spec),
        How::Identity => None,
    }
}

/// A directory or file of the host's that is the user's by a group alone, which the container will not have.
fn lost(spec: &ContainerSpec) -> Option<(Fail, &'static str)> {
    let mut paths = spec
        .mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Bind { path, .. } => Some(path),
            MountSource::Volume { .. } | MountSource::Image { .. } | MountSource::Tmpfs { .. } => {
                None
            }
        })
        .peekable();
    paths.peek()?;
    let own = rustix::process::getuid().as_raw();
    let primary = rustix::process::getgid();
    let mine = rustix::process::getgroups().unwrap_or_default(); // then there is nothing to lose
    let (path, gid) = paths.find_map(|path| {
        let meta = std::fs::metadata(path).ok()?; // what is wrong with it is said when it is mounted
        let group = mine.iter().find(|group| group.as_raw() == meta.gid())?;
        let is_lost = meta.uid() != own && *group != primary && is_for_group(&meta);
        is_lost.then_some((path, meta.gid()))
    })?;
    let fail = Fail::unsupported(format!(
        "`{}` is open to you by the group {gid} only, which the container does not have",
        path.display()
    ));
    Some((
        fail.code("RL-S09"),
        "programs inside are refused: --group-add keep-groups keeps your groups",
    ))
}

/// Whether its group may do more with it than all others.
fn is_for_group(meta: &Metadata) -> bool {
    let mode = meta.mode();
    (mode >> 3) & 7 & !(mode & 7) != 0
}
