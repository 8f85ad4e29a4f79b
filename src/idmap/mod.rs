//! Which ids a container has, and how they get mapped: the user's ranges through `newuidmap` and
//! `newgidmap`, else one id (docs/design: the ladder). Decides here, acts in [`apply`].

pub mod changed;
pub mod trial;

use std::ffi::{CString, OsStr};
use std::io::{Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::fs::{MemfdFlags, OFlags, memfd_create};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::error::Fail;
use crate::paths::{Owners, Store};
use crate::spec::UserNs;
use crate::sys;
use crate::sys::process::{Child, Exit, Tied};

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

/// A range that the administrator has set aside: first id and count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First id on the host.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl Range {
    fn end(self) -> u64 {
        u64::from(self.first) + u64::from(self.count)
    }

    fn overlaps(self, other: Self) -> bool {
        u64::from(self.first) < other.end() && u64::from(other.first) < self.end()
    }
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

/// Where the two programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helpers {
    /// `newuidmap`.
    pub newuidmap: PathBuf,
    /// `newgidmap`.
    pub newgidmap: PathBuf,
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
            let lines = ranges(Path::new(file), &names, (uid, own), group_flag);
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

/// The names a user goes by: in `/etc/passwd`, else as the environment or `id` says (LDAP, SSSD).
#[must_use]
pub fn user_names(uid: u32) -> Vec<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default(); // absent in small containers
    let number = uid.to_string();
    let mut names: Vec<String> = passwd
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == number).then(|| name.to_owned())
        })
        .collect();
    if names.is_empty() {
        let asked = Command::new("id").arg("-un").stderr(Stdio::null()).output();
        names.extend(
            asked
                .ok()
                .and_then(|output| String::from_utf8(output.stdout).ok())
                .map(|name| name.trim().to_owned()),
        );
        names.extend(std::env::var("USER").ok());
        names.retain(|name| !name.is_empty());
    }
    names
}

/// What the lines of `/etc/subuid` or `/etc/subgid` come to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Lines {
    /// Those of the user's that can be used.
    pub ranges: Vec<Range>,
    /// Those that cannot, and why.
    pub wrong: Vec<String>,
    /// Those of others that overlap the user's.
    pub shared: Vec<String>,
}

/// The user's ranges in `file`, by name or number; where it has none, what `getsubids` knows (NSS).
fn ranges(file: &Path, names: &[String], ids: (u32, u32), group_flag: &str) -> Lines {
    let text = std::fs::read(file).unwrap_or_default(); // no file, no ranges: announced by the caller
    let mut lines = parse_ranges(&String::from_utf8_lossy(&text), names, ids);
    if lines.ranges.is_empty()
        && uses_nss_for_subids()
        && let Some(name) = names.first()
    {
        lines.ranges = ask_getsubids(name, group_flag);
    }
    lines
}

fn ask_getsubids(name: &str, group_flag: &str) -> Vec<Range> {
    let mut command = Command::new("getsubids");
    if !group_flag.is_empty() {
        command.arg(group_flag);
    }
    let Ok(output) = command.arg(name).stderr(Stdio::null()).output() else {
        return Vec::new();
    };
    // `0: alice 100000 65536`
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(2);
            Some(Range {
                first: fields.next()?.parse().ok()?,
                count: fields.next()?.parse().ok()?,
            })
        })
        .filter(|range| range.count > 0)
        .collect()
}

fn uses_nss_for_subids() -> bool {
    let text = std::fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    text.lines()
        .any(|line| line.trim_start().starts_with("subid:"))
}

/// The ranges in the text of `/etc/subuid` that belong to one of `names` or to the number `uid`, who has the id `own` of this
/// kind. Lines that make no sense are passed over, as newuidmap(1) does, and so are those that the kernel refuses with
/// all others. Source: subuid(5).
#[must_use]
pub fn parse_ranges(text: &str, names: &[String], (uid, own): (u32, u32)) -> Lines {
    let number = uid.to_string();
    let is_mine = |owner: &str| owner == number || names.iter().any(|name| name == owner);
    let mut found = Lines::default();
    let mut others = Vec::new();
    for line in text.lines().map(str::trim) {
        let mut fields = line.split(':');
        let (owner, first, count) = (fields.next(), fields.next(), fields.next());
        let Some(owner) = owner.filter(|owner| !owner.is_empty() && !owner.starts_with('#')) else {
            continue;
        };
        let numbers = |word: Option<&str>| word.and_then(|word| word.trim().parse::<u32>().ok());
        let range = numbers(first).zip(numbers(count));
        let range = range.map(|(first, count)| Range { first, count });
        if !is_mine(owner) {
            others.extend(range.map(|range| (line, range)));
            continue;
        }
        match usable(range, own, &found.ranges) {
            Ok(Some(range)) => found.ranges.push(range),
            Ok(None) => {}
            Err(why) => found.wrong.push(format!("`{line}` {why}")),
        }
    }
    others.retain(|(_, range)| found.ranges.iter().any(|mine| mine.overlaps(*range)));
    found.shared = others.iter().map(|(line, _)| format!("`{line}`")).collect();
    found
}

/// The range, none where it is there already, or why the kernel or newuidmap would refuse it.
fn usable(range: Option<Range>, own: u32, known: &[Range]) -> Result<Option<Range>, String> {
    let Some(range) = range.filter(|range| range.count > 0) else {
        return Err("is not NAME:FIRST:COUNT".to_owned());
    };
    // The largest id there is stands for "no id".
    if range.end() >= u64::from(u32::MAX) {
        return Err("goes beyond the last id".to_owned());
    }
    if range.overlaps(Range {
        first: own,
        count: 1,
    }) {
        return Err(format!("contains your own id {own}"));
    }
    if known.contains(&range) {
        return Ok(None);
    }
    match known.iter().find(|other| other.overlaps(range)) {
        Some(other) => Err(format!(
            "overlaps your range {}:{}",
            other.first, other.count
        )),
        None => Ok(Some(range)),
    }
}

/// Both helpers, found in `PATH` and able to do their work, or which of the known causes stands against it.
///
/// # Errors
/// `RL-S02` when one is missing, `RL-S03` when it has no power.
pub fn find_helpers() -> Result<Helpers, Fail> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status.lines().any(|line| {
        line.strip_prefix("NoNewPrivs:")
            .is_some_and(|value| value.trim() == "1")
    }) {
        return Err(Fail::unsupported("this process has no_new_privs set, so newuidmap gains no rights")
            .hint("start rl outside of the sandbox or service that set it (NoNewPrivileges=, bwrap, setpriv)")
            .code("RL-S03"));
    }
    Ok(Helpers {
        newuidmap: find_helper("newuidmap")?,
        newgidmap: find_helper("newgidmap")?,
    })
}

fn find_helper(name: &str) -> Result<PathBuf, Fail> {
    let Some(path) = find_program(name) else {
        return Err(Fail::unsupported(format!("{name} is not installed"))
            .hint("ask your administrator for the package `uidmap` (Debian, Ubuntu) or `shadow-utils` (Fedora, RHEL, SUSE: `shadow`)")
            .code("RL-S02"));
    };
    let powerless = |why: &str| {
        Err(Fail::unsupported(format!("{} {why}", path.display()))
            .hint(format!("ask your administrator to reinstall the package it belongs to, or: chown root:root {0} && chmod u+s {0}", path.display()))
            .code("RL-S03"))
    };
    let Ok(meta) = std::fs::metadata(&path) else {
        return powerless("cannot be looked at");
    };
    let setuid = meta.uid() == 0 && meta.permissions().mode() & 0o4000 != 0;
    let mut buffer = [0_u8; 64];
    let capability = rustix::fs::getxattr(&path, "security.capability", &mut buffer[..])
        .is_ok_and(|length| length > 0);
    if !setuid && !capability {
        return powerless("is neither setuid root nor has file capabilities");
    }
    let nosuid = rustix::fs::statvfs(&path)
        .is_ok_and(|fs| fs.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID));
    if nosuid {
        return powerless("lies on a file system mounted nosuid");
    }
    Ok(path)
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
            run_helpers(pid, plan, helpers)
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

/// Both programs side by side: each costs a process start.
fn run_helpers(pid: Pid, plan: &Plan, helpers: &Helpers) -> Result<()> {
    let both = [
        (&helpers.newuidmap, &plan.uids),
        (&helpers.newgidmap, &plan.gids),
    ];
    let started = both.map(|(program, extents)| Helping::start(program, pid, extents));
    for helping in started.map(|one| one.and_then(Helping::finish)) {
        if let Some(said) = helping? {
            trial::forget();
            return Err(refused(&said).into());
        }
    }
    Ok(())
}

/// A helper at work. It is not waited for until its exec, as `Command` does: the second one would begin when the first is done,
/// on a machine of two processors.
struct Helping<'a> {
    program: &'a Path,
    child: Child,
    stderr: std::fs::File,
}

impl<'a> Helping<'a> {
    fn start(program: &'a Path, pid: Pid, extents: &[Extent]) -> Result<Self> {
        let doing = || format!("starting {}", program.display());
        let path = CString::new(program.as_os_str().as_bytes()).with_context(doing)?;
        let words = words(pid.as_raw_nonzero().get().unsigned_abs(), extents);
        let argv: Vec<CString> = std::iter::once(Ok(path.clone()))
            .chain(words.map(CString::new))
            .collect::<Result<_, _>>()
            .with_context(doing)?;
        let stderr = memfd_create("stderr", MemfdFlags::CLOEXEC).with_context(doing)?;
        let null = sys::fs::open_trusted(Path::new("/dev/null"), OFlags::RDWR)?;
        let child = sys::process::spawn_tied(&Tied {
            program: &path,
            argv: &argv,
            env: &[],
            stdin: null.as_fd(),
            stdout: null.as_fd(),
            stderr: stderr.as_fd(),
            keep: &[],
            join: &[],
            own_mounts: false,
        })
        .with_context(doing)?;
        Ok(Self {
            program,
            child,
            stderr: stderr.into(),
        })
    }

    /// Waits for it; what it has to complain of.
    fn finish(mut self) -> Result<Option<String>> {
        let doing = || format!("waiting for {}", self.program.display());
        let exit = self.child.wait().with_context(doing)?;
        if exit == Exit::Code(0) {
            return Ok(None);
        }
        let mut said = Vec::new();
        self.stderr.rewind().with_context(doing)?;
        self.stderr.read_to_end(&mut said).with_context(doing)?;
        Ok(Some(complaint(self.program, &format!("{exit:?}"), &said)))
    }
}

/// The words of a helper that maps ids of the process `pid`. Source: newuidmap(1).
fn words(pid: u32, extents: &[Extent]) -> impl Iterator<Item = String> + use<> {
    let numbers: Vec<u32> = extents
        .iter()
        .flat_map(|extent| [extent.inner, extent.host, extent.count])
        .collect();
    std::iter::once(pid)
        .chain(numbers)
        .map(|number| number.to_string())
}

/// What a helper that failed said, without its name.
fn complaint(program: &Path, exit: &str, stderr: &[u8]) -> String {
    let name = program
        .file_name()
        .unwrap_or(OsStr::new("?"))
        .to_string_lossy();
    let said = String::from_utf8_lossy(stderr);
    let said = said.lines().next().unwrap_or_default().trim();
    let said = said.strip_prefix(&format!("{name}: ")).unwrap_or(said);
    match said {
        "" => format!("{name} fails ({exit})"),
        _ => format!("{name} fails: {said}"),
    }
}

fn refused(said: &str) -> Fail {
    Fail::unsupported(said)
        .hint("check your lines in /etc/subuid and /etc/subgid: none may overlap another or your own id, and an outer container has to have them all")
        .hint("ask your administrator to look whether newuidmap and newgidmap are setuid root: rl doctor")
        .code("RL-S03")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_number_and_nonsense_is_passed_over() {
        let names = ["alice".to_owned()];
        let text = "bob:1:2\nalice:100000:65536\n1000:300000:10\nalice:x:1\nalice:5\nalice:100000:65536\nalice:900:200\nalice:4294967000:1000\n\n";
        let found = parse_ranges(text, &names, (1000, 1000));
        assert_eq!(
            found.ranges,
            [
                Range {
                    first: 100_000,
                    count: 65536
                },
                Range {
                    first: 300_000,
                    count: 10
                }
            ]
        );
    }

    #[test]
    fn lines_that_cannot_be_used_are_named() {
        let names = ["alice".to_owned()];
        let lines = parse_ranges(
            "# bob\nalice:100000:65536\nalice:165535:9\nalice:900:200\nalice:4294967000:1000\nalice:5\nbob:165000:1000\neve:165536:9",
            &names,
            (7, 1000),
        );
        assert_eq!(lines.ranges.len(), 1);
        assert_eq!(
            lines.wrong,
            [
                "`alice:165535:9` overlaps your range 100000:65536",
                "`alice:900:200` contains your own id 1000",
                "`alice:4294967000:1000` goes beyond the last id",
                "`alice:5` is not NAME:FIRST:COUNT",
            ]
        );
        assert_eq!(lines.shared, ["`bob:165000:1000`"]);
    }

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
