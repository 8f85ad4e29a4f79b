//! Root emulation: whether a container has it, and what its image's programs are told.
//!
//! What is pretended is in `stage::seccomp::emulation`.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::disk_error;
use crate::idmap::Plan;
use crate::spec::{ContainerSpec, RootEmulation};
use crate::stage::seccomp::emulation::Emulation;

/// The file for apt, without the slash at the front.
pub const APT: &str = "etc/apt/apt.conf.d/00rl-root-emulation";

/// apt hands downloads to a user of its own and then looks whether it really is that user (APT::Sandbox::User).
const FOR_APT: &str = "// This container has one user id, and `rl` emulates root: there is no user `_apt` that downloads could be made as.\n\
     APT::Sandbox::User \"root\";\n";

/// What root only appears to do in this container, with these ids.
#[must_use]
pub fn of(spec: &ContainerSpec, plan: &Plan) -> Option<Emulation> {
    let wanted = match spec.confinement.root_emulation {
        RootEmulation::Auto => is_automatic(plan),
        RootEmulation::Basic => true,
        RootEmulation::Off => false,
    };
    wanted.then(|| Emulation::of(plan))
}

/// Whether it is on where nothing is said: one id is there, and it is root's.
#[must_use]
pub fn is_automatic(plan: &Plan) -> bool {
    !plan.is_mapped() && plan.uids.iter().any(|extent| extent.inner == 0)
}

/// What is instead of several ids, for the line that says so.
#[must_use]
pub fn instead(spec: &ContainerSpec, plan: &Plan) -> String {
    if plan.is_mapped() {
        return "running with all ids as they are".to_owned();
    }
    let one = match plan.uids.first().map_or(0, |extent| extent.inner) {
        0 => "one id".to_owned(),
        uid => format!("one id, which is user {uid} inside"),
    };
    let others = if of(spec, plan).is_some() {
        "owners and users inside are emulated: they can be set, and nothing comes of it"
    } else {
        "owners inside the container are not kept apart"
    };
    format!("running with {one}; other {others}")
}

/// Files for programs that look closer than the emulation goes, written to the container's directory, with their places.
///
/// # Errors
/// The system's.
pub fn drop_ins(emulation: Option<&Emulation>, dir: &Path) -> Result<Vec<(PathBuf, String)>> {
    if emulation.is_none_or(|emulation| !emulation.is_alone()) {
        return Ok(Vec::new());
    }
    let path = dir.join("apt.conf");
    std::fs::write(&path, FOR_APT).map_err(|error| disk_error(error, &path))?;
    Ok(vec![(path, format!("/{APT}"))])
}
