//! `linux.resources.devices`: when the rules are put into force.

use anyhow::Result;

use super::groups::Place;
use crate::cgroup;
use crate::error::Fail;
use crate::spec::resources::Resources;

/// Puts the rules into force for real root. Anybody else cannot make nodes, and opens only devices that were bound (and
/// the kernel takes such programs from nobody else), so that there is nothing to forbid.
///
/// # Errors
/// Root's container has no group that rules could hold for; the kernel's.
pub fn enforce(place: &Place, resources: &Resources) -> Result<()> {
    let rules = &resources.devices;
    // A list that allows everything forbids nothing.
    if rules.iter().all(|rule| rule.allow) || !super::is_real_root() {
        return Ok(());
    }
    match place.group() {
        Some(group) => cgroup::devices::enforce(&group, rules),
        None => Err(Fail::unsupported(
            "linux.resources.devices: the rules cannot be enforced, for the container has no control group of version 2",
        )
        .hint("root's containers could use every device of the host: boot with cgroups of version 2 (systemd.unified_cgroup_hierarchy=1)")
        .hint("or leave the rules out, if that is what is wanted")
        .into()),
    }
}
