//! Root emulation: calls that need more ids than the container has appear to succeed.
//!
//! A filter of its own, so that it goes with any profile or none: see [`super::super::confine`] for the order. It looks
//! at numbers only, remembers nothing, and leaves to the kernel whatever the kernel can do.

use serde::{Deserialize, Serialize};

use super::bpf::{self, Case, Condition, Op, Run, Section, Verdict, Width};
use super::{Abi, Filter, Machine, RET_ALLOW, RET_ERRNO, syscalls};
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

/// Ids that a user namespace does not have, as first and last.
type Gaps = Vec<(u32, u32)>;

/// What has to be pretended in one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulation {
    uids: Gaps,
    gids: Gaps,
    /// setgroups(2) is denied.
    no_groups: bool,
}

impl Emulation {
    /// For a user namespace with these ids.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        Self {
            uids: gaps(&plan.uids),
            gids: gaps(&plan.gids),
            no_groups: !plan.is_mapped(),
        }
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
            notifies: false,
            wait_killable: false,
        }
    }

    fn runs(&self, abi: Abi, capabilities: &[String]) -> Vec<Run<Verdict>> {
        let mut calls: Vec<(u32, Verdict)> = CALLS
            .iter()
            .filter(|(_, capability, _)| capabilities.iter().any(|has| has == capability))
            .filter_map(|(name, _, kind)| {
                let is_short = number(abi, &format!("{name}32")).is_some();
                let last = if is_short { LAST_SHORT } else { LAST };
                Some((number(abi, name)?, self.verdict(*kind, last)?))
            })
            .collect();
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
