//! How many user and group ids a container can have.

use super::parse::Tool;
use super::probe::Outcome;
use super::{Check, Host, Status};
use crate::idmap::ranges::Range;
use crate::idmap::trial::{self, Trial, Verdict};
use crate::idmap::{Available, Plan, changed};

const ONE_ID: &str =
    "runs with one id: everything inside belongs to you, and ownership is emulated";

/// What was found, and a real map under way.
pub struct Ids {
    available: Available,
    map: Option<Trial>,
}

/// Looks for ranges and helpers, and has them map a child's ids.
pub fn start() -> Ids {
    let available = Available::look();
    let has_ranges = !available.uids.is_empty() && !available.gids.is_empty();
    let map = match &available.helpers {
        Ok(helpers) if has_ranges => trial::start(helpers, &available.all()).ok(),
        _ => None,
    };
    Ids { available, map }
}

/// How many ids the child has in the end.
fn count(map: Trial) -> Result<u64, String> {
    let said = match map.finish().map_err(|error| error.to_string())? {
        Verdict::Refused(said) => return Err(said),
        Verdict::Mapped(said) => said,
    };
    match serde_json::from_str(&said) {
        Ok(Outcome::Works(count)) => count.parse().map_err(|_| "no map was written".to_owned()),
        Ok(Outcome::Fails { call, .. }) => Err(call),
        Err(error) => Err(format!("the probe said nothing: {error}")),
    }
}

/// The axis `ids`.
pub fn checks(host: &Host, ids: Ids) -> Vec<Check> {
    let Available {
        uids,
        gids,
        wrong,
        helpers,
        own_uids: _,
        own_gids: _,
    } = &ids.available;
    let mut checks = Vec::new();
    if uids.is_empty() || gids.is_empty() {
        checks.extend(no_ranges(host, uids.is_empty(), wrong));
    } else {
        let shown = |ranges: &[Range]| {
            let shown: Vec<String> = ranges
                .iter()
                .map(|range| format!("{}:{}", range.first, range.count))
                .collect();
            shown.join(", ")
        };
        let found = format!("users {}, groups {}", shown(uids), shown(gids));
        let total = |ranges: &[Range]| {
            ranges
                .iter()
                .map(|range| u64::from(range.count))
                .sum::<u64>()
        };
        let check = Check::works(
            "ids",
            "RL-S01",
            "subordinate ids",
            found,
            "maps root inside to you, and all others to these",
        );
        checks.push(check.clone());
        if total(uids).min(total(gids)) < 65_535 {
            let mut small = check.because(
                Status::Less,
                "images have ids up to 65534",
                "refuses an image with a file of an id above the range",
            );
            "RL-S04".clone_into(&mut small.code);
            "size of the ranges".clone_into(&mut small.title);
            checks.push(small.admin(add_ranges(&host.user)));
        }
    }
    if !uids.is_empty() && !gids.is_empty() {
        checks.extend(wrong_lines(wrong));
    }
    checks.extend(shared_lines(host));
    match helpers {
        Ok(helpers) => {
            let found = format!(
                "{}, {}",
                helpers.newuidmap.display(),
                helpers.newgidmap.display()
            );
            checks.push(Check::works(
                "ids",
                "RL-S02",
                "newuidmap and newgidmap",
                found,
                "has them write the maps",
            ));
        }
        Err(fail) => {
            let code = fail.code.as_deref().unwrap_or("RL-S02");
            let check = Check::works("ids", code, "newuidmap and newgidmap", &fail.message, "")
                .because(Status::Less, &fail.message, ONE_ID);
            checks.push(if code == "RL-S02" {
                check.admin(host.install(Tool::Uidmap))
            } else {
                remedies(check, &fail.hints)
            });
        }
    }
    if let Some(map) = ids.map {
        checks.extend(tried(host, count(map)));
    }
    checks.extend(other_ranges(host, &ids.available.all()));
    checks.extend(directory_user(host));
    checks
}

/// Files of the store that were made with other ranges.
fn other_ranges(host: &Host, now: &Plan) -> Option<Check> {
    let noted = host.ids.as_ref()?;
    if now.uids.len() < 2 || changed::holds(noted, now) {
        return None; // without ranges, that is what there is to say
    }
    let found = format!("{}, now {}", changed::shown(noted), changed::shown(now));
    let check = Check::works("ids", "RL-S07", "ranges of the store", found, "").because(
        Status::Less,
        "/etc/subuid or /etc/subgid was changed after the files in the store were made",
        "runs containers in which files of other users are not theirs",
    );
    Some(check.you(changed::REMEDY))
}

/// The hints of a failure, each to whom it is for.
fn remedies(check: Check, hints: &[String]) -> Check {
    hints.iter().fold(check, |check, hint| {
        match hint.strip_prefix("ask your administrator to ") {
            Some(line) => check.admin(line),
            None => check.you(hint),
        }
    })
}

/// Lines that are passed over while others are used.
fn wrong_lines(wrong: &[String]) -> Option<Check> {
    let first = wrong.first()?;
    let check = Check::works("ids", "RL-S06", "lines of the ranges", first, "").because(
        Status::Less,
        "the kernel refuses such a range",
        "passes over the line, and uses your others",
    );
    Some(check.admin(CORRECT))
}

const CORRECT: &str =
    "correct the line in an editor: a range contains nobody's own id, and overlaps no other";

/// Ids that two users have.
fn shared_lines(host: &Host) -> Option<Check> {
    let names = crate::idmap::ranges::user_names(host.uid);
    let found = ["/etc/subuid", "/etc/subgid"]
        .into_iter()
        .find_map(|file| {
            let lines = crate::idmap::ranges::parse_ranges(
                &super::text(file),
                &names,
                (host.uid, host.uid),
            );
            Some(format!("{file}: {} overlaps yours", lines.shared.first()?))
        })?;
    let check = Check::works("ids", "RL-S06", "ids of your own", found, "").because(
        Status::Less,
        "another user has the same ids: containers of both can change each other's files",
        "uses the range",
    );
    Some(check.admin(CORRECT))
}

/// Neither file nor name service has a range that can be used.
pub fn no_ranges(host: &Host, users: bool, wrong: &[String]) -> Vec<Check> {
    let file = if users { "/etc/subuid" } else { "/etc/subgid" };
    let root = "runs with the host's own ids, for you are root";
    let does = if host.uid == 0 { root } else { ONE_ID };
    if let Some(wrong) = wrong.iter().find(|wrong| wrong.starts_with(file)) {
        let check = Check::works("ids", "RL-S06", "subordinate ids", wrong, "");
        let check = check.because(Status::Less, "the kernel refuses such a range", does);
        return vec![check.admin(CORRECT)];
    }
    let found = format!("none for {} in {file}", host.user);
    let cause = "nobody has set ids aside for you";
    let check = Check::works("ids", "RL-S01", "subordinate ids", found, "");
    vec![
        check
            .because(Status::Less, cause, does)
            .admin(add_ranges(&host.user)),
    ]
}

fn add_ranges(user: &str) -> String {
    // 100000 may be somebody else's; usermod refuses nothing, so the administrator has to look.
    format!(
        "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}   (choose ids that no other line of /etc/subuid has)"
    )
}

/// A map was really written, or not.
pub fn tried(host: &Host, result: Result<u64, String>) -> Vec<Check> {
    match result {
        Ok(count) => vec![Check::works(
            "ids",
            "RL-S03",
            "a map written",
            format!("{count} ids"),
            "does it for each container",
        )],
        Err(said) => {
            let check = Check::works("ids", "RL-S03", "a map written", &said, "").because(
                Status::Less,
                "the helpers refuse: a range overlaps your own id or is not yours, they lack root's rights, or an outer container lacks the ids",
                ONE_ID,
            );
            let reinstall = format!(
                "{} (again: it restores the setuid bits), and check your lines in /etc/subuid and /etc/subgid",
                host.install(Tool::Uidmap)
            );
            vec![check.admin(reinstall)]
        }
    }
}

/// Someone whom only a name service knows.
fn directory_user(host: &Host) -> Vec<Check> {
    let number = host.uid.to_string();
    let passwd = super::text("/etc/passwd");
    if passwd
        .lines()
        .any(|line| line.split(':').nth(2) == Some(&number))
    {
        return Vec::new();
    }
    let found = format!("{} (uid {number}) is not in /etc/passwd", host.user);
    let does = "looks ids up by number and by the name that `id` or USER say; asks `getsubids` where nsswitch.conf has a line `subid:`";
    vec![Check::works(
        "ids",
        "RL-S05",
        "user of a directory service",
        found,
        does,
    )]
}
