//! Whether limits can be set: the cgroup that we are in, and who may hand out others.

use std::path::Path;

use super::parse::{self, Cgroups};
use super::{Check, Host, Status, text};
use crate::cgroup::place::{DELEGATE, Place};
use crate::spec::{Cgroup, CgroupMode};

const AXIS: &str = "cgroup";

/// The axis `cgroup`.
pub fn checks(host: &Host) -> Vec<Check> {
    let layout = Check::works(AXIS, "RL-C01", "version", "", "");
    let old = |found: &str| {
        let check = Check {
            found: found.to_owned(),
            ..layout.clone()
        };
        vec![
            check
                .because(Status::Less, "only version 2 can be handed to users safely", "runs containers without limits, and refuses --memory and its kin")
                .admin("boot with systemd.unified_cgroup_hierarchy=1 (the default of every distribution since 2021)"),
        ]
    };
    let own = match parse::cgroups(&host.mounts, &text("/proc/self/cgroup")) {
        Cgroups::V2(own) => own,
        Cgroups::Hybrid => return old("version 1 controllers, version 2 beside them"),
        Cgroups::V1 => return old("version 1"),
        Cgroups::None => return old("none mounted"),
    };
    let version = Check {
        found: "version 2".to_owned(),
        ..layout
    };
    let mut checks = vec![Check {
        rl_does: "limits, weighs, freezes and kills by group".to_owned(),
        ..version
    }];

    let managed = format!(
        "/sys/fs/cgroup/user.slice/user-{0}.slice/user@{0}.service",
        host.uid
    );
    let place = Check::works(
        AXIS,
        "RL-C03",
        "a group of our own",
        own.display().to_string(),
        "makes a group for each container below it",
    );
    // As for a container that asks for a limit.
    let asks = Cgroup {
        mode: CgroupMode::Enabled,
        ..Cgroup::default()
    };
    let controllers = if let Ok(Place::Below(group)) = Place::find(&asks) {
        checks.push(place);
        group.path().to_owned()
    } else if super::session::bus(host.uid).is_some() && Path::new(&managed).exists() {
        let found = format!("{} is not ours, but systemd gives one out", own.display());
        checks.push(Check {
            found,
            rl_does: "asks systemd for a scope where limits are given".to_owned(),
            ..place
        });
        Path::new(&managed).to_owned()
    } else {
        checks.push(
            place
                .because(Status::Less, "the group belongs to somebody else, and there is no systemd user session to ask", "runs containers without limits, and refuses --memory and its kin")
                .you("start rl by: systemd-run --user --scope -p Delegate=yes rl …")
                .admin(format!("loginctl enable-linger {}", host.user)),
        );
        return checks;
    };
    checks.push(self::controllers(&controllers));
    checks
}

fn controllers(group: &Path) -> Check {
    let have = std::fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    let have: Vec<&str> = have.split_whitespace().collect();
    let missing: Vec<&str> = ["cpu", "memory", "pids", "io", "cpuset"]
        .into_iter()
        .filter(|name| !have.contains(name))
        .collect();
    let found = if have.is_empty() {
        "none".to_owned()
    } else {
        have.join(" ")
    };
    let check = Check::works(
        AXIS,
        "RL-C02",
        "controllers",
        found,
        "limits with all of them",
    );
    if missing.is_empty() {
        return check;
    }
    check
        .because(
            Status::Less,
            format!("not handed to you: {}", missing.join(" ")),
            "refuses the limits that need them",
        )
        .admin(DELEGATE)
}
