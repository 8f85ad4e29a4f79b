//! Root emulation: whether a container has it, and what its image's programs are told.
//!
//! What is pretended is in `stage::seccomp::emulation`.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::disk_error;
use super::record::Record;
use crate::error::Fail;
use crate::idmap::Plan;
use crate::image::layer_dir;
use crate::spec::{ContainerSpec, Namespace, RootEmulation, Rootfs};
use crate::stage::confine;
use crate::stage::emulation::{self, Memory};
use crate::stage::seccomp::emulation::Emulation;

/// The file for apt, without the slash at the front.
pub const APT: &str = "etc/apt/apt.conf.d/00rl-root-emulation";

/// apt hands downloads to a user of its own and then looks whether it really is that user (APT::Sandbox::User).
const FOR_APT: &str = "// This container has one user id, and `rl` emulates root: there is no user `_apt` that downloads could be made as.\n\
     APT::Sandbox::User \"root\";\n";

/// What is said when a container ends because of it.
pub const LOST: &str = "the process that emulates root has ended, and the container with it";

/// What root only appears to do in this container, with these ids.
#[must_use]
pub fn of(spec: &ContainerSpec, plan: &Plan) -> Option<Emulation> {
    let wanted = match spec.confinement.root_emulation {
        RootEmulation::Auto => is_automatic(plan),
        RootEmulation::Basic | RootEmulation::Full => true,
        RootEmulation::Off => false,
    };
    let emulation = wanted.then(|| Emulation::of(plan))?;
    // Where there are ranges, owners are real.
    let full = spec.confinement.root_emulation == RootEmulation::Full && !plan.is_mapped();
    Some(if full { emulation.in_full() } else { emulation })
}

/// Refuses what cannot be emulated in full, where that is asked for.
///
/// # Errors
/// `Unsupported`, with what stands in the way.
pub fn check(spec: &ContainerSpec, plan: &Plan) -> Result<(), Fail> {
    if spec.confinement.root_emulation != RootEmulation::Full || plan.is_mapped() {
        return Ok(());
    }
    let refuse = |why: &str| {
        Err(
            Fail::unsupported(format!("--root-emulation=full is not possible {why}"))
                .hint("--root-emulation=basic is"),
        )
    };
    if kernel() < emulation::SINCE {
        let (version, patch) = emulation::SINCE;
        return refuse(&format!("before Linux {version}.{patch}"));
    }
    if plan.uids.first().is_none_or(|extent| extent.inner != 0) {
        return refuse("where the one id is not root's: leave --userns out");
    }
    if spec.namespaces.pid != Namespace::Private {
        return refuse("with --pid: the container could reach the process that remembers");
    }
    let serves = |device: &crate::spec::Device| device.host.as_os_str() == "/dev/fuse";
    if spec.devices.iter().any(serves) {
        return refuse("with /dev/fuse: a file system that is served inside would wait for itself");
    }
    if spec
        .confinement
        .rlimits
        .iter()
        .any(|limit| limit.name == "locks")
    {
        return refuse("with --ulimit locks, which tells who is who");
    }
    Ok(())
}

/// What `--root-emulation` takes here.
#[must_use]
pub fn modes(plan: &Plan) -> Vec<&'static str> {
    let mut modes = vec!["auto", "off", "basic"];
    let is_full = !plan.is_mapped()
        && kernel() >= emulation::SINCE
        && plan.uids.first().is_some_and(|extent| extent.inner == 0);
    if is_full {
        modes.push("full");
    }
    modes
}

fn kernel() -> (u32, u32) {
    confine::kernel_version(&rustix::system::uname().release().to_string_lossy())
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
    let emulation = of(spec, plan);
    let others = if emulation.as_ref().is_some_and(Emulation::is_full) {
        "owners and users inside are emulated and remembered"
    } else if emulation.is_some() {
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
    // In full, apt is who it thinks it is.
    if emulation.is_none_or(|emulation| !emulation.is_alone() || emulation.is_full()) {
        return Ok(Vec::new());
    }
    let path = dir.join("apt.conf");
    std::fs::write(&path, FOR_APT).map_err(|error| disk_error(error, &path))?;
    Ok(vec![(path, format!("/{APT}"))])
}

/// Where what is remembered is kept, in full.
///
/// # Errors
/// A layer's name that is none.
pub fn memory(
    record: &Record,
    spec: &ContainerSpec,
    emulation: Option<&Emulation>,
) -> Result<Option<Memory>> {
    if !emulation.is_some_and(Emulation::is_full) {
        return Ok(None);
    }
    Ok(Some(Memory {
        dir: record.dir(),
        layers: layers(record, spec)?,
    }))
}

/// All directories in which owners of a container's files may be noted.
///
/// # Errors
/// A layer's name that is none.
pub fn owners(record: &Record, spec: &ContainerSpec) -> Result<Vec<PathBuf>> {
    let mut all = layers(record, spec)?;
    all.push(record.dir());
    Ok(all)
}

/// The directories of a container's layers, in which owners of links may be noted.
///
/// # Errors
/// A layer's name that is none.
pub fn layers(record: &Record, spec: &ContainerSpec) -> Result<Vec<PathBuf>> {
    let Rootfs::Layers { diff_ids } = &spec.rootfs else {
        return Ok(Vec::new());
    };
    let root = record.store().root().to_owned();
    let of = |diff_id: &String| -> Result<PathBuf> {
        let tree = root.join(layer_dir(diff_id)?);
        Ok(tree.parent().unwrap_or(&tree).to_owned())
    };
    diff_ids.iter().map(of).collect()
}
