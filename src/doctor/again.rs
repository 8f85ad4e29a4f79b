//! After a failure: the axis that it belongs to is looked at again, so that the code names what is the matter with this machine.
//!
//! Which axis that is, is read from the code and the text; only what is found to be wrong is told.

use std::time::Duration;

use super::probe::NO_ANSWER;
use super::{Check, Status, axis};
use crate::error::{Fail, Kind};
use crate::paths::Store;

/// Nobody waits longer for an explanation.
const PATIENCE: Duration = Duration::from_millis(500);

/// Looks at what may be behind `fail`, which is the whole chain of a command that failed. `None` where it says it all.
#[must_use]
pub fn look_again(fail: &Fail, store: &Store) -> Option<Check> {
    if !matches!(fail.kind, Kind::System | Kind::Unsupported) {
        return None;
    }
    let (name, codes) = suspects(fail.code.as_deref(), &fail.message)?;
    super::probe::lose_patience_after(PATIENCE);
    pick(axis(name, store), fail.code.as_deref(), codes)
}

/// What is wrong by these very codes, the failure's own first; else what keeps every container from running.
fn pick(checks: Vec<Check>, own: Option<&str>, codes: &[&str]) -> Option<Check> {
    let rank = |check: &Check| {
        // What did not answer in so short a time may be well, on a busy machine.
        if check.found.contains(NO_ANSWER) {
            return None;
        }
        let is_own = own == Some(check.code.as_str());
        let is_named = codes.contains(&check.code.as_str());
        match (check.status, is_own, is_named) {
            (Status::Works, _, _) | (Status::Less, false, false) => None,
            (_, true, _) => Some(0),
            (_, false, true) => Some(1),
            (Status::Missing, false, false) => Some(2),
        }
    };
    checks
        .into_iter()
        .filter_map(|check| Some((rank(&check)?, check)))
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, check)| check)
}

const NAMESPACES: (&str, &[&str]) = (
    "namespaces",
    &["RL-U01", "RL-U02", "RL-U03", "RL-U04", "RL-U05"],
);
const IDS: (&str, &[&str]) = ("ids", &["RL-S01", "RL-S02", "RL-S03"]);
const STORE: (&str, &[&str]) = ("root file system", &["RL-F05", "RL-F02"]);
const OVERLAY: (&str, &[&str]) = ("root file system", &["RL-F03", "RL-F01"]);
const FUSE: (&str, &[&str]) = ("root file system", &["RL-F04"]);
const UPLINK: (&str, &[&str]) = ("network", &["RL-N01", "RL-N02"]);
const CGROUP: (&str, &[&str]) = ("cgroup", &["RL-C01", "RL-C02", "RL-C03"]);
const SESSION: (&str, &[&str]) = ("session", &["RL-R01"]);
const KERNEL: (&str, &[&str]) = ("kernel", &["RL-K06"]);

/// The axis of a failure, and the codes of it that could be behind.
fn suspects(code: Option<&str>, text: &str) -> Option<(&'static str, &'static [&'static str])> {
    // The room on the disk has nothing to do with it.
    if text.contains("quota is used up") {
        return None;
    }
    if let Some(code) = code {
        return match code {
            "RL-U01" | "RL-U02" | "RL-U03" | "RL-U04" | "RL-U05" => Some(NAMESPACES),
            "RL-K01" | "RL-K02" => Some(("namespaces", &["RL-K01"])),
            "RL-S01" | "RL-S02" | "RL-S03" | "RL-S06" => Some(IDS),
            "RL-F01" | "RL-F03" => Some(OVERLAY),
            "RL-F02" | "RL-F05" => Some(STORE),
            "RL-F04" | "RL-F06" => Some(FUSE),
            "RL-R01" | "RL-R02" => Some(SESSION),
            // With groups of version 1 the others follow from that.
            "RL-C01" => Some(("cgroup", &["RL-C01"])),
            "RL-C02" | "RL-C03" => Some(CGROUP),
            "RL-N01" | "RL-N02" => Some(UPLINK),
            "RL-K06" => Some(KERNEL),
            _ => None, // it is not about the machine, or no probe knows more
        };
    }
    // What is more telling stands first.
    let table: [(&str, (&str, &[&str])); 22] = [
        ("newuidmap", IDS),
        ("newgidmap", IDS),
        ("uid_map", NAMESPACES),
        ("gid_map", NAMESPACES),
        ("CLONE_NEW", NAMESPACES),
        ("setns(", NAMESPACES),
        ("/dev/net/tun", UPLINK),
        ("pasta", UPLINK),
        ("slirp4netns", UPLINK),
        ("/dev/fuse", FUSE),
        ("\"overlay\"", OVERLAY),
        ("/sys/fs/cgroup", CGROUP),
        ("No space left on device", STORE),
        ("quota exceeded", STORE),
        ("Read-only file system", STORE),
        ("runtime directory", SESSION),
        ("ENOSYS", KERNEL),
        ("Function not implemented", KERNEL),
        ("mount(", NAMESPACES),
        ("sethostname", NAMESPACES),
        ("fsconfig(", NAMESPACES),
        ("move_mount(", NAMESPACES),
    ];
    table
        .into_iter()
        .find(|(part, _)| text.contains(part))
        .map(|(_, suspects)| suspects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leads_to_its_axis() {
        let cases = [
            (Some("RL-U02"), "anything", Some("namespaces")),
            (Some("RL-C02"), "--memory cannot be had", Some("cgroup")),
            (Some("RL-S04"), "an id above the range", None),
            (Some("RL-F05"), "your quota is used up while writing", None),
            (Some("RL-I03"), "the registry refused", None),
            (
                None,
                "starting: clone3(CLONE_NEWUSER|CLONE_NEWNS): EPERM",
                Some("namespaces"),
            ),
            (
                None,
                "newuidmap: write to uid_map failed: Operation not permitted",
                Some("ids"),
            ),
            (
                None,
                "cannot write /proc/7/uid_map: Permission denied",
                Some("namespaces"),
            ),
            (None, "open(\"/dev/net/tun\"): ENOENT", Some("network")),
            (
                None,
                "fsconfig(\"overlay\", CREATE): EINVAL",
                Some("root file system"),
            ),
            (
                None,
                "write: No space left on device (os error 28)",
                Some("root file system"),
            ),
            (
                None,
                "write(\"/sys/fs/cgroup/x/memory.max\"): EACCES",
                Some("cgroup"),
            ),
            (
                None,
                "cannot make the runtime directory `/run/user/7/rl`",
                Some("session"),
            ),
            (
                None,
                "pidfd_open(): ENOSYS (Function not implemented)",
                Some("kernel"),
            ),
            (None, "no container `c`", None),
        ];
        for (code, text, expected) in cases {
            assert_eq!(
                suspects(code, text).map(|(axis, _)| axis),
                expected,
                "{code:?} {text}"
            );
        }
    }

    #[test]
    fn what_has_nothing_to_do_with_it_is_not_told() {
        let check = |code, status| {
            Check::works("network", code, "a thing", "seen", "").because(status, "a cause", "less")
        };
        let ping = check("RL-N04", Status::Less);
        let tun = check("RL-N01", Status::Less);
        let helper = check("RL-N02", Status::Less);
        let all = || vec![ping.clone(), tun.clone(), helper.clone()];
        let code = |found: Option<Check>| found.map(|check| check.code);
        assert_eq!(code(pick(all(), None, UPLINK.1)).as_deref(), Some("RL-N01"));
        assert_eq!(
            code(pick(all(), Some("RL-N02"), UPLINK.1)).as_deref(),
            Some("RL-N02")
        );
        assert_eq!(code(pick(vec![ping.clone()], None, UPLINK.1)), None);
        let mut late = helper.clone();
        late.found = format!("{NO_ANSWER} 500 ms");
        assert_eq!(code(pick(vec![late], None, UPLINK.1)), None);
        let broken = check("RL-N07", Status::Missing);
        assert_eq!(
            code(pick(vec![ping, broken], None, UPLINK.1)).as_deref(),
            Some("RL-N07")
        );
    }
}
