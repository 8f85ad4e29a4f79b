//! Root emulation: calls that need more ids than the container has appear to succeed.
//!
//! A filter of its own, so that it goes with any profile or none: see [`super::super::confine`] for the order. It looks
//! at numbers only, remembers nothing, and leaves to the kernel whatever the kernel can do. In full, the calls of native
//! programs that ask or say whose a file or a process is go to [`super::super::emulation`], which remembers.

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::bpf::{self, Case, Condition, Op, Run, Section, Verdict, Width};
use super::{Abi, Filter, Machine, RET_ALLOW, RET_ERRNO, RET_NOTIFY, syscalls};
use crate::idmap::{Extent, Plan};

/// The call is not made, and returns 0.
const PRETEND: u32 = RET_ERRNO;

/// The largest id; the number above it says "leave it as it is".
const LAST: u32 = u32::MAX - 1;
/// As [`LAST`], for calls of 32-bit programs that know ids of 16 bits only.
const LAST_SHORT: u32 = 0xfffe;

// linux/stat.h
const S_IFMT: u64 = 0o170_000;
const S_IFCHR: u64 = 0o020_000;
const S_IFBLK: u64 = 0o060_000;

// linux/prctl.h
const PR_SET_KEEPCAPS: u32 = 8;

/// What a call is looked at for.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// The arguments that are user and group ids.
    Ids(&'static [u32], &'static [u32]),
    /// A list of groups, which the kernel refuses as a whole.
    Groups,
    /// A file to be made: its mode is this argument, the device the next.
    Node(u32),
}

/// The calls, with the capability that lets root make them. What is missing here needs nothing: setfsuid(2) never
/// says that it failed, chmod(2) of the user's own files does what it is told, and `security.capability` is an attribute that
/// the kernel sets for root of any user namespace.
const CALLS: [(&str, &str, Kind); 23] = [
    ("chown", "CAP_CHOWN", Kind::Ids(&[1], &[2])),
    ("chown32", "CAP_CHOWN", Kind::Ids(&[1], &[2])),
    ("fchown", "CAP_CHOWN", Kind::Ids(&[1], &[2])),
    ("fchown32", "CAP_CHOWN", Kind::Ids(&[1], &[2])),
    ("fchownat", "CAP_CHOWN", Kind::Ids(&[2], &[3])),
    ("lchown", "CAP_CHOWN", Kind::Ids(&[1], &[2])),
    ("lchown32", "CAP_CHOWN", Kind::Ids(&[1], &[2])),
    ("mknod", "CAP_MKNOD", Kind::Node(1)),
    ("mknodat", "CAP_MKNOD", Kind::Node(2)),
    ("setgid", "CAP_SETGID", Kind::Ids(&[], &[0])),
    ("setgid32", "CAP_SETGID", Kind::Ids(&[], &[0])),
    ("setgroups", "CAP_SETGID", Kind::Groups),
    ("setgroups32", "CAP_SETGID", Kind::Groups),
    ("setregid", "CAP_SETGID", Kind::Ids(&[], &[0, 1])),
    ("setregid32", "CAP_SETGID", Kind::Ids(&[], &[0, 1])),
    ("setresgid", "CAP_SETGID", Kind::Ids(&[], &[0, 1, 2])),
    ("setresgid32", "CAP_SETGID", Kind::Ids(&[], &[0, 1, 2])),
    ("setresuid", "CAP_SETUID", Kind::Ids(&[0, 1, 2], &[])),
    ("setresuid32", "CAP_SETUID", Kind::Ids(&[0, 1, 2], &[])),
    ("setreuid", "CAP_SETUID", Kind::Ids(&[0, 1], &[])),
    ("setreuid32", "CAP_SETUID", Kind::Ids(&[0, 1], &[])),
    ("setuid", "CAP_SETUID", Kind::Ids(&[0], &[])),
    ("setuid32", "CAP_SETUID", Kind::Ids(&[0], &[])),
];

/// When a call goes to the process that remembers.
#[derive(Debug, Clone, Copy)]
enum Judged {
    /// Whatever its arguments.
    Always,
    /// When the flags that are this argument ask for a new file.
    Making(u32),
    /// When root could make it: with this capability.
    With(&'static str),
    /// When its first argument is this.
    For(u32),
}

/// The calls of native programs that go there.
const JUDGED: [(&str, Judged); 43] = [
    ("capset", Judged::Always),
    ("chown", Judged::With("CAP_CHOWN")),
    ("chroot", Judged::Always),
    ("creat", Judged::Always),
    ("execve", Judged::Always),
    ("execveat", Judged::Always),
    ("fchown", Judged::With("CAP_CHOWN")),
    ("fchownat", Judged::With("CAP_CHOWN")),
    ("flistxattr", Judged::Always),
    ("fstat", Judged::Always),
    ("getegid", Judged::Always),
    ("geteuid", Judged::Always),
    ("getgid", Judged::Always),
    ("getgroups", Judged::Always),
    ("getresgid", Judged::Always),
    ("getresuid", Judged::Always),
    ("getuid", Judged::Always),
    ("lchown", Judged::With("CAP_CHOWN")),
    ("listxattr", Judged::Always),
    ("llistxattr", Judged::Always),
    ("lstat", Judged::Always),
    ("mkdir", Judged::Always),
    ("mkdirat", Judged::Always),
    ("mknod", Judged::With("CAP_MKNOD")),
    ("mknodat", Judged::With("CAP_MKNOD")),
    ("newfstatat", Judged::Always),
    ("open", Judged::Making(1)),
    ("openat", Judged::Making(2)),
    ("openat2", Judged::Always),
    ("prctl", Judged::For(PR_SET_KEEPCAPS)),
    ("setfsgid", Judged::With("CAP_SETGID")),
    ("setfsuid", Judged::With("CAP_SETUID")),
    ("setgid", Judged::With("CAP_SETGID")),
    ("setgroups", Judged::With("CAP_SETGID")),
    ("setregid", Judged::With("CAP_SETGID")),
    ("setresgid", Judged::With("CAP_SETGID")),
    ("setresuid", Judged::With("CAP_SETUID")),
    ("setreuid", Judged::With("CAP_SETUID")),
    ("setuid", Judged::With("CAP_SETUID")),
    ("stat", Judged::Always),
    ("statx", Judged::Always),
    ("symlink", Judged::Always),
    ("symlinkat", Judged::Always),
];

/// Ids that a user namespace does not have, as first and last.
type Gaps = Vec<(u32, u32)>;

/// What has to be pretended in one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulation {
    uids: Gaps,
    gids: Gaps,
    /// setgroups(2) is denied.
    no_groups: bool,
    /// What is set is remembered.
    #[serde(default)]
    full: bool,
}

impl Emulation {
    /// For a user namespace with these ids.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        Self {
            uids: gaps(&plan.uids),
            gids: gaps(&plan.gids),
            no_groups: !plan.is_mapped(),
            full: false,
        }
    }

    /// The same, and what is set is remembered.
    #[must_use]
    pub fn in_full(self) -> Self {
        Self { full: true, ..self }
    }

    /// Whether a process remembers what is set.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Whether there is one id only, so that nobody else can be become.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.no_groups
    }

    /// The filter. Calls that the container's own root may not make, for want of a capability, are refused as ever.
    #[must_use]
    pub fn filter(&self, machine: Machine, capabilities: &[String]) -> Filter {
        let mut sections: Vec<Section> = Vec::new();
        for abi in Abi::ALL.into_iter().filter(|abi| abi.machine() == machine) {
            let mut runs = self.runs(abi, capabilities);
            match sections
                .iter_mut()
                .find(|(arch, _)| *arch == abi.audit_arch())
            {
                // x32, whose numbers lie above those of x86-64.
                Some((_, before)) => before.append(&mut runs),
                None => sections.push((abi.audit_arch(), runs)),
            }
        }
        sections.sort_by_key(|(arch, _)| *arch != machine.native().audit_arch());
        Filter {
            program: bpf::program(&sections, RET_ALLOW),
            log: false,
            spec_allow: true,
            notifies: self.full,
            // A call that was half made would be made again for any signal.
            wait_killable: self.full,
        }
    }

    fn runs(&self, abi: Abi, capabilities: &[String]) -> Vec<Run<Verdict>> {
        let has = |capability: &str| capabilities.iter().any(|has| has == capability);
        let mut calls: Vec<(u32, Verdict)> = if self.full && abi == abi.machine().native() {
            JUDGED
                .iter()
                .filter(|(_, when)| !matches!(when, Judged::With(name) if !has(name)))
                .filter_map(|(name, when)| Some((number(abi, name)?, judged(*when))))
                .collect()
        } else {
            CALLS
                .iter()
                .filter(|(_, capability, _)| has(capability))
                .filter_map(|(name, _, kind)| {
                    let is_short = number(abi, &format!("{name}32")).is_some();
                    let last = if is_short { LAST_SHORT } else { LAST };
                    Some((number(abi, name)?, self.verdict(*kind, last)?))
                })
                .collect()
        };
        calls.sort_unstable_by_key(|(number, _)| *number);
        let mut runs = Vec::new();
        let mut next = abi.first_number();
        for (number, verdict) in calls {
            if number > next {
                runs.push((next, Verdict::Always(RET_ALLOW)));
            }
            runs.push((number, verdict));
            next = number + 1;
        }
        runs.push((next, Verdict::Always(RET_ALLOW)));
        runs
    }

    /// None where the kernel needs no help.
    fn verdict(&self, kind: Kind, last: u32) -> Option<Verdict> {
        let cases = match kind {
            Kind::Groups => return self.no_groups.then_some(Verdict::Always(PRETEND)),
            Kind::Ids(uids, gids) => {
                let absent = |index: &u32, gaps: &Gaps| -> Vec<Case> {
                    let gaps = gaps.iter().filter(|(from, _)| *from <= last);
                    gaps.map(|(from, to)| {
                        pretended([
                            at(*index, Op::GreaterOrEqual, (*from).into(), 0),
                            at(*index, Op::LessOrEqual, (*to).min(last).into(), 0),
                        ])
                    })
                    .collect()
                };
                let uids = uids.iter().flat_map(|index| absent(index, &self.uids));
                let gids = gids.iter().flat_map(|index| absent(index, &self.gids));
                uids.chain(gids).collect()
            }
            // Device 0:0 is what overlays mark a removed file with: anybody may make that one.
            Kind::Node(mode) => vec![
                pretended([
                    at(mode, Op::MaskedEqual, S_IFMT, S_IFCHR),
                    at(mode + 1, Op::NotEqual, 0, 0),
                ]),
                pretended([at(mode, Op::MaskedEqual, S_IFMT, S_IFBLK)]),
            ],
        };
        // Ids, modes and devices have 32 bits on every ABI; the kernel drops what stands above.
        (!cases.is_empty()).then_some(Verdict::Cases(cases, Width::Half, RET_ALLOW))
    }
}

fn judged(when: Judged) -> Verdict {
    let flags = match when {
        Judged::Always | Judged::With(_) => return Verdict::Always(RET_NOTIFY),
        Judged::For(value) => {
            let only = Case {
                conditions: vec![at(0, Op::Equal, value.into(), 0)],
                action: RET_NOTIFY,
            };
            return Verdict::Cases(vec![only], Width::Half, RET_ALLOW);
        }
        Judged::Making(flags) => flags,
    };
    let making = [OFlags::CREATE, OFlags::TMPFILE].map(|flag| Case {
        conditions: vec![at(
            flags,
            Op::MaskedEqual,
            flag.bits().into(),
            flag.bits().into(),
        )],
        action: RET_NOTIFY,
    });
    Verdict::Cases(making.to_vec(), Width::Half, RET_ALLOW)
}

fn pretended<const N: usize>(conditions: [Condition; N]) -> Case {
    Case {
        conditions: conditions.to_vec(),
        action: PRETEND,
    }
}

fn at(index: u32, op: Op, value: u64, second: u64) -> Condition {
    Condition {
        index,
        op,
        value,
        second,
    }
}

fn number(abi: Abi, name: &str) -> Option<u32> {
    let at = syscalls::TABLE.binary_search_by(|(known, _)| (*known).cmp(name));
    abi.number(&syscalls::TABLE[at.ok()?])
}

/// What these maps leave out, in ascending order.
fn gaps(extents: &[Extent]) -> Gaps {
    let mut extents: Vec<&Extent> = extents.iter().collect();
    extents.sort_unstable_by_key(|extent| extent.inner);
    let mut gaps = Gaps::new();
    let mut next = 0;
    for extent in extents {
        if extent.inner > next {
            gaps.push((next, extent.inner - 1));
        }
        next = extent.inner.saturating_add(extent.count);
    }
    if next <= LAST {
        gaps.push((next, LAST));
    }
    gaps
}
