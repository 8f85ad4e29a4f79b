//! Whether the ids of the files in a store still mean the same: it has the map that they were unpacked with, and ranges can be
//! given to somebody else meanwhile.

use anyhow::{Context as _, Result};

use super::{Available, Extent, Plan};
use crate::error::Fail;
use crate::paths::Store;

/// What is to be done about it.
pub const REMEDY: &str = "rl system check --repair unpacks the images again; what volumes and containers have of other users is readable when the old lines of /etc/subuid and /etc/subgid are back";

/// That the user's ranges give files of `store` to other users than those who made them. The first ones that are seen are noted.
#[must_use]
pub fn look(store: &Store, available: &Available) -> Option<Fail> {
    // With one id, whose a file is is noted beside it; that the ranges are gone is said elsewhere.
    let plan = available.ranged()?;
    match noted(store) {
        Some(noted) if !holds(&noted, &plan) => Some(
            Fail::unsupported(format!(
                "your ranges of ids are not those that the files in `{}` were made with ({}, now {})",
                store.root().display(),
                shown(&noted),
                shown(&plan)
            ))
            .hint(REMEDY)
            .code("RL-S07"),
        ),
        Some(noted) if noted == plan => None,
        _ => {
            let _ = note(store, available); // no files are made in a store that cannot be written to
            None
        }
    }
}

/// Takes the ranges of now for those of all files.
///
/// # Errors
/// The system's.
pub fn note(store: &Store, available: &Available) -> Result<()> {
    let Some(plan) = available.ranged() else {
        return Ok(());
    };
    store.set_ids(&serde_json::to_vec(&plan).context("writing an id map")?)
}

/// The map of the files in a store, if any was made.
#[must_use]
pub fn noted(store: &Store) -> Option<Plan> {
    serde_json::from_slice(&store.ids()?).ok()
}

/// Whether whoever had an id has it still.
#[must_use]
pub fn holds(noted: &Plan, plan: &Plan) -> bool {
    is_part(&noted.uids, &plan.uids) && is_part(&noted.gids, &plan.gids)
}

fn is_part(old: &[Extent], new: &[Extent]) -> bool {
    old.iter().all(|extent| {
        let mut left = *extent;
        while left.count > 0 {
            let same = new.iter().find_map(|one| {
                let skip = left.inner.checked_sub(one.inner)?;
                let count = one.count.checked_sub(skip)?;
                (count > 0 && one.host.checked_add(skip)? == left.host).then_some(count)
            });
            let Some(count) = same.map(|count| count.min(left.count)) else {
                return false;
            };
            left = Extent {
                inner: left.inner.saturating_add(count),
                host: left.host.saturating_add(count),
                count: left.count - count,
            };
        }
        true
    })
}

/// The ranges of users on the host.
#[must_use]
pub fn shown(plan: &Plan) -> String {
    let ranges = plan.uids.iter().filter(|extent| extent.count > 1);
    let shown: Vec<String> = ranges
        .map(|extent| format!("{}:{}", extent.host, extent.count))
        .collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_ids_are_no_change_and_others_are() {
        let map = |text: &[(u32, u32, u32)]| -> Vec<Extent> {
            let extents = text.iter();
            extents
                .map(|&(inner, host, count)| Extent { inner, host, count })
                .collect()
        };
        let old = map(&[(0, 7, 1), (1, 100, 10), (11, 500, 5)]);
        for (new, expected) in [
            (old.clone(), true),
            (
                map(&[(0, 7, 1), (1, 100, 4), (5, 104, 6), (11, 500, 50)]),
                true,
            ),
            (map(&[(0, 7, 1), (1, 100, 10)]), false),
            (map(&[(0, 7, 1), (1, 500, 5), (6, 100, 10)]), false),
            (map(&[(0, 7, 1), (1, 300, 10), (11, 500, 5)]), false),
            (map(&[(0, 7, 1)]), false),
        ] {
            assert_eq!(is_part(&old, &new), expected, "{new:?}");
        }
    }
}
