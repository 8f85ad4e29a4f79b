//! Which ids a container has, and how they get mapped: the user's ranges through `newuidmap` and
//! `newgidmap`, else one id (docs/design: the ladder). Decides here, acts in [`apply`].

pub mod ahead;
pub mod changed;
pub mod living;
pub mod newuidmap;
pub mod ranges;
pub mod trial;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::error::Fail;
use crate::paths::{Owners, Store};
use crate::spec::UserNs;
use newuidmap::{Helpers, find_helpers};
use ranges::{Range, user_names};

/// One line of an id map: `count` ids from `inner` on are `host` and following. Source: user_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First id inside.
    pub inner: u32,
    /// First id on the host.
    pub host: u32,
    /// How many.
    pub count: u32,
}

/// How the maps are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// By the two setuid programs.
    Helpers,
    /// By ourselves, one id; `setgroups` is denied.
    Single,
    /// By ourselves as root, all ids as they are.
    Identity,
}

/// The id maps of one user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Lines of `uid_map`.
    pub uids: Vec<Extent>,
    /// Lines of `gid_map`.
    pub gids: Vec<Extent>,
    /// Who writes them.
    pub how: How,
}

/// Which uid the process that sets the container up has to take on inside.
impl Plan {
    /// The maps of a running process, as `/proc` shows them to us.
    ///
    /// # Errors
    /// When the process is gone, or its maps are empty.
    pub fn of(pid: i32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))
        };
        let map = |file: &str| -> Result<Vec<Extent>> {
            let extents: Option<Vec<Extent>> = read(file)?.lines().map(extent).collect();
            extents
                .filter(|extents| !extents.is_empty())
                .with_context(|| format!("understanding /proc/{pid}/{file}"))
        };
        Ok(Self {
            uids: map("uid_map")?,
            gids: map("gid_map")?,
            how: if read("setgroups")?.trim() == "deny" {
                How::Single
            } else {
                How::Helpers
            },
        })
    }

    /// Whether several ids are there: ownership is real then.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.how != How::Single
    }

    /// The map for work on a container's files: one id is root's there, whoever it is in the container, for it is what the
    /// image says of root's files.
    #[must_use]
    pub fn for_files(&self) -> Self {
        let mut plan = self.clone();
        if plan.how == How::Single {
            let extents = plan.uids.iter_mut().chain(&mut plan.gids);
            extents.for_each(|extent| extent.inner = 0);
        }
        plan
    }

    /// The id inside that stands for the caller's `host` id; `None` when it is not mapped.
    #[must_use]
    pub fn inner_uid(&self, host: u32) -> Option<u32> {
        inner(&self.uids, host)
    }

    /// As [`Plan::inner_uid`], for groups.
    #[must_use]
    pub fn inner_gid(&self, host: u32) -> Option<u32> {
        inner(&self.gids, host)
    }

    /// Whether the group `gid` exists inside.
    #[must_use]
    pub fn has_gid(&self, gid: u32) -> bool {
        self.gids
            .iter()
            .any(|extent| gid >= extent.inner && gid - extent.inner < extent.count)
    }
}

/// One line of a map. Source: user_namespaces(7).
fn extent(line: &str) -> Option<Extent> {
    let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
    Some(Extent {
        inner: numbers.next()??,
        host: numbers.next()??,
        count: numbers.next()??,
    })
}

fn inner(extents: &[Extent], host: u32) -> Option<u32> {
    let extent = extents
        .iter()
        .find(|extent| host >= extent.host && host - extent.host < extent.count)?;
    Some(extent.inner + (host - extent.host))
}

/// What the ladder has to stand on.
#[derive(Debug)]
pub struct Available {
    /// Ranges of `/etc/subuid` or NSS.
    pub uids: Vec<Range>,
    /// Ranges of `/etc/subgid` or NSS.
    pub gids: Vec<Range>,
    /// Lines of the user's in these files that cannot be used, and why.
    pub wrong: Vec<String>,
    /// Both helpers, or why not.
    pub helpers: Result<Helpers, Fail>,
    /// All user ids of the namespace that we are in.
    pub own_uids: Vec<Extent>,
    /// All its group ids.
    pub own_gids: Vec<Extent>,
}

impl Available {
    /// Looks at this machine, for files in `store`: where its file system keeps nobody else's, one id is all there is.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        let mut available = Self::probe();
        if store.owners() == Some(Owners::Noted) {
            available.helpers = Err(Fail::unsupported(format!(
                "the file system of `{}` keeps no files of other owners",
                store.root().display()
            ))
            .hint("put the store on a local disk: --root DIR, or RL_ROOT")
            .code("RL-F01"));
        }
        available
    }

    /// Looks at this machine, and has the helpers map the user's ranges once, before anything depends on it.
    #[must_use]
    pub fn probe() -> Self {
        let mut available = Self::look();
        let Ok(helpers) = &available.helpers else {
            return available;
        };
        let (uids, gids) = (&available.uids, &available.gids);
        if uids.is_empty() || gids.is_empty() {
            return available;
        }
        if let Some(fail) = trial::refusal(helpers, uids, gids, &available.all()) {
            available.helpers = Err(fail);
        }
        available
    }

    /// The maps that have all there is.
    #[must_use]
    pub fn all(&self) -> Plan {
        let uid = rustix::process::getuid().as_raw();
        let gid = rustix::process::getgid().as_raw();
        ranged(&UserNs::Auto, self, uid, gid)
    }

    /// The same, where the helpers map it.
    #[must_use]
    pub fn ranged(&self) -> Option<Plan> {
        let has_ranges = !self.uids.is_empty() && !self.gids.is_empty();
        (has_ranges && self.helpers.is_ok()).then(|| self.all())
    }

    /// Looks at this machine, and believes what it sees.
    #[must_use]
    pub fn look() -> Self {
        let uid = rustix::process::getuid().as_raw();
        let names = user_names(uid);
        let gid = rustix::process::getgid().as_raw();
        let mut wrong = Vec::new();
        let mut read = |file: &str, own: u32, group_flag: &str| {
            let lines = ranges::read(Path::new(file), &names, (uid, own), group_flag);
            wrong.extend(lines.wrong.iter().map(|line| format!("{file}: {line}")));
            lines.ranges
        };
        let mut uids = read("/etc/subuid", uid, "");
        let mut gids = read("/etc/subgid", gid, "-g");
        let (own_uids, own_gids) = (own_ids("uid_map"), own_ids("gid_map"));
        // In another container: a file may promise what that one does not have.
        uids.retain(|range| is_had(&own_uids, *range));
        gids.retain(|range| is_had(&own_gids, *range));
        Self {
            uids,
            gids,
            wrong,
            helpers: find_helpers(),
            own_uids,
            own_gids,
        }
    }
}

/// What can be said instead of silently running with less.
pub type Notice = Fail;

/// Chooses the maps for `userns`. With less than asked for, says so in the second value.
///
/// # Errors
/// When `userns` cannot be had without ranges.
pub fn plan(userns: &UserNs, available: &Available) -> Result<(Plan, Option<Notice>)> {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let missing = match &available.helpers {
        Err(fail) => Some(fail.clone()),
        Ok(_) if available.uids.is_empty() || available.gids.is_empty() => {
            Some(no_ranges(available))
        }
        Ok(_) => None,
    };
    let Some(missing) = missing else {
        return Ok((ranged(userns, available, uid, gid), None));
    };
    if uid == 0 && count(&available.own_uids) > 1 && count(&available.own_gids) > 1 {
        let notice =
            Fail::unsupported("started by root, who has no ranges in /etc/subuid and /etc/subgid");
        return Ok((
            Plan {
                uids: as_they_are(&available.own_uids),
                gids: as_they_are(&available.own_gids),
                how: How::Identity,
            },
            Some(notice),
        ));
    }
    let missing = match uid {
        0 => Fail::unsupported("what this runs in has one user or group id itself").code("RL-S01"),
        _ => missing,
    };
    let (inner_uid, inner_gid) = match userns {
        UserNs::Auto | UserNs::Host => (0, 0),
        UserNs::KeepId {
            uid: wanted,
            gid: group,
        } => (wanted.unwrap_or(uid), group.unwrap_or(gid)),
        UserNs::NoMap => {
            return Err(anyhow::Error::from(missing)
                .context("--userns=nomap needs ranges of subordinate ids"));
        }
    };
    let plan = Plan {
        uids: vec![Extent {
            inner: inner_uid,
            host: uid,
            count: 1,
        }],
        gids: vec![Extent {
            inner: inner_gid,
            host: gid,
            count: 1,
        }],
        how: How::Single,
    };
    Ok((plan, Some(missing)))
}

/// The ids of our own user namespace. All of them where the kernel does not say.
fn own_ids(file: &str) -> Vec<Extent> {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let found: Vec<Extent> = text.lines().filter_map(extent).collect();
    match found.is_empty() {
        true => vec![Extent {
            inner: 0,
            host: 0,
            count: u32::MAX,
        }],
        false => found,
    }
}

fn count(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| u64::from(extent.count)).sum()
}

/// Whether a namespace with these ids has all of `range`.
fn is_had(own: &[Extent], range: Range) -> bool {
    own.iter().any(|extent| {
        let end = u64::from(extent.inner) + u64::from(extent.count);
        range.first >= extent.inner && u64::from(range.first) + u64::from(range.count) <= end
    })
}

/// The map that gives a namespace below ours every id that ours has, by the same number.
fn as_they_are(own: &[Extent]) -> Vec<Extent> {
    let same = |extent: &Extent| Extent {
        host: extent.inner,
        ..*extent
    };
    own.iter().map(same).collect()
}

fn no_ranges(available: &Available) -> Fail {
    let uid = rustix::process::getuid().as_raw();
    let name = user_names(uid)
        .into_iter()
        .next()
        .unwrap_or_else(|| uid.to_string());
    let file = if available.uids.is_empty() {
        "/etc/subuid"
    } else {
        "/etc/subgid"
    };
    if let Some(wrong) = available.wrong.iter().find(|wrong| wrong.starts_with(file)) {
        return Fail::unsupported(format!("no range of subordinate ids can be used: {wrong}"))
            .hint("ask your administrator to correct the line: a range contains nobody's own id, and overlaps no other")
            .code("RL-S06");
    }
    Fail::unsupported(format!("no range of subordinate ids for `{name}` in {file}"))
        .hint(format!("ask your administrator: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"))
        .code("RL-S01")
}

fn ranged(userns: &UserNs, available: &Available, uid: u32, gid: u32) -> Plan {
    let (uids, gids) = match userns {
        UserNs::Auto | UserNs::Host => (
            around(&available.uids, Some((0, uid))),
            around(&available.gids, Some((0, gid))),
        ),
        UserNs::KeepId {
            uid: inner_uid,
            gid: inner_gid,
        } => (
            around(&available.uids, Some((inner_uid.unwrap_or(uid), uid))),
            around(&available.gids, Some((inner_gid.unwrap_or(gid), gid))),
        ),
        UserNs::NoMap => (around(&available.uids, None), around(&available.gids, None)),
    };
    Plan {
        uids,
        gids,
        how: How::Helpers,
    }
}

/// The ranges laid out from 0 on inside, around the one id `own` = (inside, on the host) if there is one.
fn around(ranges: &[Range], own: Option<(u32, u32)>) -> Vec<Extent> {
    let mut extents = Vec::new();
    let mut inner = 0_u32;
    let mut pending = own;
    for range in ranges {
        let (mut first, mut count) = (range.first, range.count);
        while count > 0 {
            let before = match pending {
                Some((place, host)) if place == inner => {
                    extents.push(Extent {
                        inner,
                        host,
                        count: 1,
                    });
                    inner += 1;
                    pending = None;
                    continue;
                }
                Some((place, _)) => count.min(place - inner),
                None => count,
            };
            // The largest id there is stands for "no id".
            let before = before.min(u32::MAX - inner);
            if before == 0 {
                break;
            }
            extents.push(Extent {
                inner,
                host: first,
                count: before,
            });
            (inner, first, count) = (inner + before, first + before, count - before);
        }
    }
    if let Some((place, host)) = pending {
        extents.push(Extent {
            inner: place,
            host,
            count: 1,
        });
    }
    extents
}

/// The first executable file called `name` in `PATH` and the places where system programs are.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin:/usr/sbin:/sbin".into());
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|candidate| {
            std::fs::metadata(candidate)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// Maps the ids of the process `pid`, whose user namespace is new.
///
/// # Errors
/// What the helper said, or the kernel's answer to the write.
pub fn apply(pid: Pid, plan: &Plan, helpers: Option<&Helpers>) -> Result<()> {
    let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    match plan.how {
        How::Helpers => {
            let helpers = helpers
                .ok_or_else(|| Fail::system("no id helpers although the plan wants them"))?;
            newuidmap::map(helpers, pid, plan)
        }
        How::Single | How::Identity => {
            if plan.how == How::Single {
                // Without it the kernel refuses an unprivileged gid_map (user_namespaces(7)).
                write(&proc.join("setgroups"), "deny")?;
            }
            write(&proc.join("uid_map"), &lines(&plan.uids))?;
            write(&proc.join("gid_map"), &lines(&plan.gids))
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| {
        anyhow::Error::from(error).context(
            Fail::unsupported(format!("cannot write {}", path.display()))
                .hint("on Ubuntu 23.10 and later AppArmor may forbid it: see `rl explain RL-U04`")
                .code("RL-U04"),
        )
    })
}

fn lines(extents: &[Extent]) -> String {
    extents
        .iter()
        .map(|extent| format!("{} {} {}\n", extent.inner, extent.host, extent.count))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_own_id_stands_where_it_was_asked_for() {
        let ranges = [
            Range {
                first: 100,
                count: 10,
            },
            Range {
                first: 500,
                count: 10,
            },
        ];
        let show = |own| {
            around(&ranges, own)
                .iter()
                .map(|extent| format!("{}:{}:{}", extent.inner, extent.host, extent.count))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(show(Some((0, 7))), "0:7:1 1:100:10 11:500:10");
        assert_eq!(show(Some((4, 7))), "0:100:4 4:7:1 5:104:6 11:500:10");
        assert_eq!(show(Some((12, 7))), "0:100:10 10:500:2 12:7:1 13:502:8");
        assert_eq!(show(Some((5000, 7))), "0:100:10 10:500:10 5000:7:1");
        assert_eq!(show(None), "0:100:10 10:500:10");
    }

    #[test]
    fn ids_translate_inwards() {
        let extents = around(
            &[Range {
                first: 100,
                count: 10,
            }],
            Some((0, 7)),
        );
        let plan = Plan {
            uids: extents.clone(),
            gids: extents,
            how: How::Helpers,
        };
        assert_eq!(plan.inner_uid(7), Some(0));
        assert_eq!(plan.inner_uid(109), Some(10));
        assert_eq!(plan.inner_uid(110), None);
        assert!(plan.has_gid(10) && !plan.has_gid(11));
    }

    #[test]
    fn a_namespace_inside_another_has_no_more_ids_than_that() {
        let own: Vec<Extent> = "0 1001 1\n1 100000 65536\n"
            .lines()
            .filter_map(extent)
            .collect();
        let maps = as_they_are(&own);
        assert_eq!(lines(&maps), "0 0 1\n1 1 65536\n");
        assert_eq!((count(&own), count(&own[..1])), (65_537, 1));
        let range = |first, count| Range { first, count };
        assert!(is_had(&own, range(1, 65_536)) && is_had(&own, range(1000, 10)));
        assert!(!is_had(&own, range(100_000, 65_536)) && !is_had(&own, range(65_000, 1000)));
    }
}
