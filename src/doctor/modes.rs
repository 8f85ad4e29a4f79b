//! What `rl` would choose on this machine, on each side of a container, and what came second. Pure: it reads the checks.

use serde::Serialize;

use super::{Axis, Check, Status};

/// A choice that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mode {
    /// `ids`, `root file system`, `network`, `limits`, `sockets`.
    pub what: String,
    /// What is used.
    pub chosen: String,
    /// The next best, and why it is not used; none where there is no other way.
    pub runner_up: Option<RunnerUp>,
}

/// What is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunnerUp {
    /// What it is.
    pub name: String,
    /// Why it lost.
    pub because: String,
}

/// One rung of a ladder.
struct Rung {
    name: String,
    /// Why it cannot be had.
    missing: Option<String>,
    /// Why one that can be had is below the one before.
    below: &'static str,
}

impl Rung {
    fn new(name: impl Into<String>, missing: Option<String>, below: &'static str) -> Self {
        Self {
            name: name.into(),
            missing,
            below,
        }
    }
}

/// The first rung that holds. The runner-up is the one above, which would be better, else the one below.
fn choose(what: &str, rungs: &[Rung]) -> Option<Mode> {
    let at = rungs.iter().position(|rung| rung.missing.is_none())?;
    let runner_up = match at.checked_sub(1) {
        Some(above) => rungs.get(above).map(|rung| RunnerUp {
            name: rung.name.clone(),
            because: rung.missing.clone().unwrap_or_default(),
        }),
        None => rungs[1..]
            .iter()
            .find(|rung| rung.missing.is_none())
            .map(|rung| RunnerUp {
                name: rung.name.clone(),
                because: rung.below.to_owned(),
            }),
    };
    Some(Mode {
        what: what.to_owned(),
        chosen: rungs[at].name.clone(),
        runner_up,
    })
}

/// The choices that follow from what was found.
pub fn modes(axes: &[Axis]) -> Vec<Mode> {
    let check = |code: &str| {
        axes.iter()
            .flat_map(|axis| &axis.checks)
            .find(|check| check.code == code)
    };
    let found = |code: &str| check(code).map_or(String::new(), |check| check.found.clone());
    // What was not even tried is missing for the reason that came before.
    let missing = |code: &str, otherwise: &str| match check(code) {
        Some(check) => trouble(check),
        None => Some(otherwise.to_owned()),
    };
    if axes.iter().flat_map(|axis| &axis.checks).any(|check| {
        check.axis == "namespaces"
            && check.code.starts_with("RL-U0")
            && check.status == Status::Missing
    }) {
        return Vec::new();
    }
    let ranges = ["RL-S01", "RL-S02", "RL-S03"]
        .into_iter()
        .filter_map(check)
        .find_map(trouble);
    let count = found("RL-S03");
    let ids = [
        Rung::new(
            match ranges {
                None if !count.is_empty() => format!("{count} by newuidmap and newgidmap"),
                _ => "ranges by newuidmap and newgidmap".to_owned(),
            },
            ranges,
            "",
        ),
        Rung::new(
            "one id, and root is emulated",
            None,
            "one user inside, whose ownership of files is a pretence",
        ),
    ];
    let root = [
        Rung::new(
            "overlay by the kernel",
            missing("RL-F03", "no user namespace to try it in"),
            "",
        ),
        Rung::new(
            "fuse-overlayfs",
            missing("RL-F04", "not looked for"),
            "each access goes through a process",
        ),
        Rung::new(
            "a copy of the image for each container",
            None,
            "takes the time and room of a copy",
        ),
    ];
    let tun = missing("RL-N01", "not looked for");
    let helpers = found("RL-N02");
    let helper = |name: &str| match (&tun, helpers.contains(name)) {
        (Some(why), _) => Some(why.clone()),
        (None, true) => None,
        (None, false) => Some("it is not installed".to_owned()),
    };
    let network = [
        Rung::new("pasta", helper("pasta"), ""),
        Rung::new(
            "slirp4netns",
            helper("slirp4netns"),
            "slower, and without the host's IPv6",
        ),
        Rung::new(
            "the host's network",
            None,
            "containers are not apart from the host there",
        ),
    ];
    let v1 = missing("RL-C01", "no control groups");
    let group = v1.clone().or_else(|| missing("RL-C03", "no group is ours"));
    let by_systemd = found("RL-C03").contains("systemd");
    let scope = v1.or_else(
        || match (by_systemd, check("RL-R02").map(|check| check.status)) {
            (true, _) | (_, Some(Status::Works)) => None,
            _ => Some("no systemd of the user's answers".to_owned()),
        },
    );
    let limits = [
        Rung::new(
            "a group below the one that this runs in",
            match by_systemd {
                true => Some(found("RL-C03")),
                false => group,
            },
            "",
        ),
        Rung::new(
            "a scope of the user's systemd, where limits are given",
            scope,
            "a round trip to systemd for each container",
        ),
        Rung::new(
            "none: options that set limits are refused",
            None,
            "nothing is limited",
        ),
    ];
    let sockets = [
        Rung::new(found("RL-R01"), missing("RL-R01", "not looked for"), ""),
        Rung::new(
            "a private directory below /tmp",
            None,
            "what cleans /tmp may remove it",
        ),
    ];
    [
        choose("ids", &ids),
        choose("root file system", &root),
        choose("network", &network),
        choose("limits", &limits),
        choose("sockets", &sockets),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Why a check does not serve; none where it does.
fn trouble(check: &Check) -> Option<String> {
    (check.status != Status::Works)
        .then(|| check.cause.clone().unwrap_or_else(|| check.found.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes(spoilt: &[(&str, &str)]) -> Vec<Axis> {
        let seen = [
            ("ids", "RL-S01", "users 100000:65536"),
            ("ids", "RL-S03", "65537 ids"),
            ("root file system", "RL-F03", "mounted one"),
            ("root file system", "RL-F04", "/usr/bin/fuse-overlayfs"),
            ("network", "RL-N02", "pasta 1, slirp4netns 1.2.0"),
            ("network", "RL-N01", "/dev/net/tun opens"),
            ("cgroup", "RL-C01", "version 2"),
            ("cgroup", "RL-C03", "/sys/fs/cgroup/x"),
            ("session", "RL-R01", "/run/user/1000"),
        ];
        let check = |&(axis, code, found): &(&str, &str, &str)| {
            let check = Check::works(axis, code, "title", found, "");
            match spoilt.iter().find(|(spoilt, _)| *spoilt == code) {
                Some((_, why)) => check.because(Status::Less, *why, "less"),
                None => check,
            }
        };
        vec![Axis {
            name: "all".to_owned(),
            checks: seen.iter().map(check).collect(),
        }]
    }

    fn shown(spoilt: &[(&str, &str)]) -> String {
        let line = |mode: Mode| {
            let second = mode.runner_up.map_or(String::new(), |up| {
                format!(" ({}: {})", up.name, up.because)
            });
            format!("{}: {}{second}\n", mode.what, mode.chosen)
        };
        modes(&axes(spoilt)).into_iter().map(line).collect()
    }

    #[test]
    fn the_best_that_is_there_is_chosen_and_the_next_is_named() {
        expect_test::expect![[r#"
            ids: 65537 ids by newuidmap and newgidmap (one id, and root is emulated: one user inside, whose ownership of files is a pretence)
            root file system: overlay by the kernel (fuse-overlayfs: each access goes through a process)
            network: pasta (slirp4netns: slower, and without the host's IPv6)
            limits: a group below the one that this runs in (none: options that set limits are refused: nothing is limited)
            sockets: /run/user/1000 (a private directory below /tmp: what cleans /tmp may remove it)
        "#]]
        .assert_eq(&shown(&[]));
    }

    #[test]
    fn what_would_be_better_is_named_with_what_is_missing() {
        let spoilt = [
            ("RL-S01", "nobody has set ids aside for you"),
            ("RL-F03", "nfs cannot hold the upper layer of an overlay"),
            ("RL-F04", "the package is missing"),
            ("RL-N01", "the tun module is not loaded"),
            ("RL-C01", "only version 2 can be handed to users safely"),
            ("RL-R01", "this is no login session"),
        ];
        expect_test::expect![[r#"
            ids: one id, and root is emulated (ranges by newuidmap and newgidmap: nobody has set ids aside for you)
            root file system: a copy of the image for each container (fuse-overlayfs: the package is missing)
            network: the host's network (slirp4netns: the tun module is not loaded)
            limits: none: options that set limits are refused (a scope of the user's systemd, where limits are given: only version 2 can be handed to users safely)
            sockets: a private directory below /tmp (/run/user/1000: this is no login session)
        "#]]
        .assert_eq(&shown(&spoilt));
    }
}
