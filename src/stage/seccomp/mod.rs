//! Docker's seccomp profiles, compiled to the filter that docker would load.
//!
//! Pure: text in, instructions out; [`super::confine`] loads them. The profile's format is docker's
//! (docs.docker.com, "Seccomp security profiles"), its meaning that of moby's `seccomp_linux.go`,
//! runc and libseccomp together, which a test compares with.

mod bpf;
pub mod emulation;
mod prebuilt;
mod syscalls;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::Deserialize;

use crate::error::Fail;
use crate::sys::confine::Instruction;
use bpf::{Case, Condition, Op, Run, Section, Verdict, Width};

/// The profile of a container that names none: equal in effect to the one that docker ships.
pub const DEFAULT_PROFILE: &str = include_str!("default.json");

/// The capabilities that the default profile's rules ask for, sorted.
const DECISIVE_CAPABILITIES: [&str; 14] = [
    "CAP_BPF",
    "CAP_DAC_READ_SEARCH",
    "CAP_PERFMON",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
];

/// The longest program that the kernel takes (`BPF_MAXINSNS`, linux/bpf_common.h).
const MAX_INSTRUCTIONS: usize = 4096;

// linux/seccomp.h
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_NOTIFY: u32 = 0x7fc0_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_DATA: u32 = 0xffff;

// asm-generic/errno*.h
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// An x32 call is an x86-64 one with this bit (asm/unistd.h).
const X32_BIT: u32 = 0x4000_0000;

/// What a filter is made for.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The processor.
    pub machine: Machine,
    /// The container's bounding set, as `CAP_…` names: a profile's rules may depend on it.
    pub capabilities: &'a [String],
    /// The kernel's version and patch level, such as (6, 1).
    pub kernel: (u32, u32),
    /// Somebody answers what the filter asks: `SCMP_ACT_NOTIFY` is allowed.
    pub answered: bool,
}

/// A processor that containers run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// `x86_64`, with i386 and x32 programs.
    X86_64,
    /// `aarch64`, with 32-bit arm programs.
    Aarch64,
}

impl Machine {
    /// The one this program was built for.
    #[cfg(target_arch = "x86_64")]
    pub const HERE: Self = Self::X86_64;
    /// The one this program was built for.
    #[cfg(target_arch = "aarch64")]
    pub const HERE: Self = Self::Aarch64;

    /// As profiles name it: Go's name of the architecture.
    fn go_name(self) -> &'static str {
        match self {
            Machine::X86_64 => "amd64",
            Machine::Aarch64 => "arm64",
        }
    }

    fn native(self) -> Abi {
        match self {
            Machine::X86_64 => Abi::X86_64,
            Machine::Aarch64 => Abi::Aarch64,
        }
    }
}

/// A filter ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// At most 4096 instructions.
    pub program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_LOG`: everything but `ALLOW` goes to the audit log.
    pub log: bool,
    /// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`: no speculation barrier, which costs speed on old kernels.
    pub spec_allow: bool,
    /// It asks somebody: there is a `SCMP_ACT_NOTIFY` in it.
    pub notifies: bool,
    /// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`: who waits for an answer can only be killed.
    pub wait_killable: bool,
}

/// A way to enter the kernel. The discriminant is the column of [`syscalls::TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Abi {
    X86_64 = 0,
    I386 = 1,
    X32 = 2,
    Aarch64 = 3,
    Arm = 4,
}

impl Abi {
    const ALL: [Self; 5] = [
        Self::X86_64,
        Self::I386,
        Self::X32,
        Self::Aarch64,
        Self::Arm,
    ];

    fn machine(self) -> Machine {
        match self {
            Abi::X86_64 | Abi::I386 | Abi::X32 => Machine::X86_64,
            Abi::Aarch64 | Abi::Arm => Machine::Aarch64,
        }
    }

    /// As profiles name it.
    fn name(self) -> &'static str {
        match self {
            Abi::X86_64 => "SCMP_ARCH_X86_64",
            Abi::I386 => "SCMP_ARCH_X86",
            Abi::X32 => "SCMP_ARCH_X32",
            Abi::Aarch64 => "SCMP_ARCH_AARCH64",
            Abi::Arm => "SCMP_ARCH_ARM",
        }
    }

    /// linux/audit.h; x32 shares that of x86-64.
    fn audit_arch(self) -> u32 {
        match self {
            Abi::X86_64 | Abi::X32 => 0xc000_003e,
            Abi::I386 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
        }
    }

    /// libseccomp compares half of an x32 argument too.
    fn width(self) -> Width {
        match self {
            Abi::X86_64 | Abi::Aarch64 => Width::Full,
            Abi::I386 | Abi::X32 | Abi::Arm => Width::Half,
        }
    }

    fn first_number(self) -> u32 {
        match self {
            Abi::X32 => X32_BIT,
            Abi::X86_64 | Abi::I386 | Abi::Aarch64 | Abi::Arm => 0,
        }
    }

    fn number(self, row: &syscalls::Row) -> Option<u32> {
        let number = row.1[self as usize];
        (number != syscalls::NONE).then(|| self.first_number() + number)
    }
}

/// Architectures of other machines: a filter here never meets them, so their rules go nowhere.
const ELSEWHERE: [&str; 18] = [
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
];

/// Every architecture that a profile may name, sorted.
#[must_use]
pub fn known_architectures() -> Vec<&'static str> {
    let here = Abi::ALL.into_iter().map(Abi::name);
    let mut all: Vec<&str> = here.chain(ELSEWHERE).collect();
    all.sort_unstable();
    all
}

/// A string of a profile, borrowed from its text unless it has escapes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile<'a> {
    #[serde(borrow)]
    default_action: Text<'a>,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Text<'a>>>,
    arch_map: Option<Vec<ArchMap<'a>>>,
    flags: Option<Vec<Text<'a>>>,
    syscalls: Option<Vec<Rule<'a>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap<'a> {
    #[serde(borrow)]
    architecture: Text<'a>,
    sub_architectures: Option<Vec<Text<'a>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    names: Option<Vec<Text<'a>>>,
    action: Text<'a>,
    errno_ret: Option<u32>,
    args: Option<Vec<Arg<'a>>>,
    includes: Option<When<'a>>,
    excludes: Option<When<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arg<'a> {
    index: u32,
    #[serde(default)]
    value: u64,
    #[serde(default)]
    value_two: u64,
    #[serde(borrow)]
    op: Text<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct When<'a> {
    #[serde(borrow)]
    caps: Option<Vec<Text<'a>>>,
    arches: Option<Vec<Text<'a>>>,
    min_kernel: Option<Text<'a>>,
}

/// A rule that applies here, with its numbers not yet looked up.
#[derive(Debug)]
struct Chosen<'p> {
    rows: Vec<&'p syscalls::Row>,
    multiplexed: Vec<(u32, u32)>,
    cases: Vec<Vec<Condition>>,
    action: u32,
}

/// [`DEFAULT_PROFILE`], compiled; for the default capabilities, and others that make no difference to
/// it, that was done before this program was built.
///
/// # Errors
/// None that a test would not have found.
pub fn default_filter(target: &Target<'_>) -> Result<Filter, Fail> {
    let decisive = |cap: &&String| DECISIVE_CAPABILITIES.binary_search(&cap.as_str()).is_ok();
    let mut decisive = target.capabilities.iter().filter(decisive);
    let usual = decisive.next().is_some_and(|cap| cap == "CAP_SYS_CHROOT");
    if !usual || decisive.next().is_some() || target.kernel < (4, 8) {
        return compile(DEFAULT_PROFILE, target);
    }
    let packed = match target.machine {
        Machine::X86_64 => prebuilt::X86_64,
        Machine::Aarch64 => prebuilt::AARCH64,
    };
    let unpacked = packed.iter().map(|one| {
        let [c1, c0, jt, jf, k @ ..] = one.to_be_bytes();
        Instruction {
            code: u16::from_be_bytes([c1, c0]),
            jt,
            jf,
            k: u32::from_be_bytes(k),
        }
    });
    Ok(Filter {
        program: unpacked.collect(),
        log: false,
        spec_allow: true,
        notifies: false,
        wait_killable: false,
    })
}

/// Compiles a profile in docker's JSON format.
///
/// # Errors
/// [`crate::error::Kind::Usage`]: not JSON (with line and column), an unknown action, operator,
/// architecture or flag, or a filter that is too long for the kernel. Unknown system calls are no
/// error: profiles name calls of newer kernels and other machines.
pub fn compile(json: &str, target: &Target<'_>) -> Result<Filter, Fail> {
    let profile: Profile<'_> = serde_json::from_str(json)
        .map_err(|error| Fail::usage(format!("the seccomp profile cannot be read: {error}")))?;
    let default = action(
        &profile.default_action.0,
        profile.default_errno_ret,
        target.answered,
    )?;
    let (log, spec_allow, wait_killable) = flags(&profile)?;
    let abis = abis(&profile, target.machine)?;
    let rules = chosen(&profile, target)?;

    let mut sections: Vec<Section> = Vec::new();
    for abi in abis {
        let mut runs = runs(abi, &rules, default);
        match sections
            .iter_mut()
            .find(|(arch, _)| *arch == abi.audit_arch())
        {
            Some((_, before)) => {
                // Its numbers lie above those of x86-64, whose last run would reach over them.
                before.retain(|(start, _)| *start < X32_BIT);
                before.append(&mut runs);
            }
            None => sections.push((abi.audit_arch(), runs)),
        }
    }
    // libseccomp's answer to an architecture that the profile does not name.
    let program = bpf::program(&sections, RET_KILL_THREAD);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Fail::usage(format!(
            "the seccomp profile needs {} instructions, and the kernel takes at most {MAX_INSTRUCTIONS}",
            program.len()
        ))
        .hint("use fewer rules that look at arguments"));
    }
    let notifies = default == RET_NOTIFY || rules.iter().any(|rule| rule.action == RET_NOTIFY);
    Ok(Filter {
        program,
        log,
        spec_allow,
        notifies,
        wait_killable: wait_killable && notifies,
    })
}

fn action(name: &str, data: Option<u32>, answered: bool) -> Result<u32, Fail> {
    let data = data.unwrap_or(EPERM) & RET_DATA;
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => RET_TRAP,
        "SCMP_ACT_ERRNO" => RET_ERRNO | data,
        "SCMP_ACT_TRACE" => RET_TRACE | data,
        "SCMP_ACT_LOG" => RET_LOG,
        "SCMP_ACT_ALLOW" => RET_ALLOW,
        "SCMP_ACT_NOTIFY" if answered => RET_NOTIFY,
        "SCMP_ACT_NOTIFY" => {
            return Err(Fail::unsupported(
                "the seccomp profile uses SCMP_ACT_NOTIFY, which needs an agent that answers, and `rl` has none",
            )
            .hint("use SCMP_ACT_ERRNO or SCMP_ACT_ALLOW for those calls"));
        }
        _ => {
            return Err(Fail::usage(format!(
                "the seccomp profile has the unknown action `{name}`"
            ))
            .hint("known are SCMP_ACT_ followed by ALLOW, ERRNO, KILL, KILL_PROCESS, KILL_THREAD, LOG, TRACE or TRAP"));
        }
    })
}

/// Whether to log, to allow speculation, to wait killably.
fn flags(profile: &Profile<'_>) -> Result<(bool, bool, bool), Fail> {
    let Some(flags) = &profile.flags else {
        return Ok((false, true, false));
    };
    let (mut log, mut spec_allow, mut wait_killable) = (false, false, false);
    for flag in flags {
        match &*flag.0 {
            "SECCOMP_FILTER_FLAG_LOG" => log = true,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => spec_allow = true,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => wait_killable = true,
            // One thread loads the filter.
            "SECCOMP_FILTER_FLAG_TSYNC" => {}
            unknown => {
                return Err(Fail::usage(format!(
                    "the seccomp profile has the unknown flag `{unknown}`"
                )));
            }
        }
    }
    Ok((log, spec_allow, wait_killable))
}

/// The native ABI first, then those that the profile adds and this machine has.
fn abis(profile: &Profile<'_>, machine: Machine) -> Result<Vec<Abi>, Fail> {
    let listed = profile.architectures.iter().flatten();
    let mut names: Vec<&str> = listed.map(|name| &*name.0).collect();
    let maps = profile.arch_map.as_deref().unwrap_or_default();
    if !names.is_empty() && !maps.is_empty() {
        return Err(
            Fail::usage("the seccomp profile has both `architectures` and `archMap`")
                .hint("keep one of them"),
        );
    }
    if let Some(map) = maps
        .iter()
        .find(|map| map.architecture.0 == machine.native().name())
    {
        names.extend(map.sub_architectures.iter().flatten().map(|name| &*name.0));
    }
    let mut abis = vec![machine.native()];
    for name in names {
        let Some(abi) = Abi::ALL.into_iter().find(|abi| abi.name() == name) else {
            if name == "SCMP_ARCH_NATIVE" || ELSEWHERE.contains(&name) {
                continue;
            }
            return Err(Fail::usage(format!(
                "the seccomp profile has the unknown architecture `{name}`"
            )));
        };
        if abi.machine() == machine && !abis.contains(&abi) {
            abis.push(abi);
        }
    }
    Ok(abis)
}

/// The rules whose conditions on capabilities, architecture and kernel hold.
fn chosen(profile: &Profile<'_>, target: &Target<'_>) -> Result<Vec<Chosen<'static>>, Fail> {
    let mut chosen = Vec::new();
    for rule in profile.syscalls.iter().flatten() {
        let action = action(&rule.action.0, rule.errno_ret, target.answered)?;
        let conditions = rule.args.iter().flatten().map(condition);
        let conditions: Vec<Condition> = conditions.collect::<Result<_, _>>()?;
        if !applies(rule, target)? {
            continue;
        }
        let names = rule.name.iter().chain(rule.names.iter().flatten());
        let mut rows = Vec::new();
        let mut multiplexed = Vec::new();
        for name in names {
            let at = syscalls::TABLE.binary_search_by(|(known, _)| (*known).cmp(&*name.0));
            rows.extend(at.ok().map(|at| &syscalls::TABLE[at]));
            multiplexed.extend(multiplexer(&name.0));
        }
        chosen.push(Chosen {
            rows,
            multiplexed,
            cases: alternatives(conditions),
            action,
        });
    }
    Ok(chosen)
}

fn condition(arg: &Arg<'_>) -> Result<Condition, Fail> {
    let op = match &*arg.op.0 {
        "SCMP_CMP_EQ" => Op::Equal,
        "SCMP_CMP_NE" => Op::NotEqual,
        "SCMP_CMP_LT" => Op::Less,
        "SCMP_CMP_LE" => Op::LessOrEqual,
        "SCMP_CMP_GT" => Op::Greater,
        "SCMP_CMP_GE" => Op::GreaterOrEqual,
        "SCMP_CMP_MASKED_EQ" => Op::MaskedEqual,
        unknown => {
            return Err(Fail::usage(format!(
                "the seccomp profile has the unknown operator `{unknown}`"
            )));
        }
    };
    if arg.index > 5 {
        return Err(Fail::usage(format!(
            "the seccomp profile looks at argument {}, and a system call has arguments 0 to 5",
            arg.index
        )));
    }
    Ok(Condition {
        index: arg.index,
        op,
        value: arg.value,
        second: arg.value_two,
    })
}

/// All conditions must hold, unless two look at the same argument: then any of them (runc's `matchCall`).
fn alternatives(conditions: Vec<Condition>) -> Vec<Vec<Condition>> {
    let twice = conditions.iter().enumerate().any(|(at, one)| {
        let before = &conditions[..at];
        before.iter().any(|other| other.index == one.index)
    });
    if twice {
        conditions.into_iter().map(|one| vec![one]).collect()
    } else if conditions.is_empty() {
        Vec::new()
    } else {
        vec![conditions]
    }
}

fn applies(rule: &Rule<'_>, target: &Target<'_>) -> Result<bool, Fail> {
    let has = |name: &Text<'_>| target.capabilities.iter().any(|cap| **cap == *name.0);
    let here = |name: &Text<'_>| name.0 == target.machine.go_name();
    if let Some(when) = &rule.excludes
        && (when.arches.iter().flatten().any(here)
            || when.caps.iter().flatten().any(has)
            || at_least(when, target.kernel)?.is_some_and(|newer| newer))
    {
        return Ok(false);
    }
    let Some(when) = &rule.includes else {
        return Ok(true);
    };
    let arches = when.arches.as_deref().unwrap_or_default();
    Ok((arches.is_empty() || arches.iter().any(here))
        && when.caps.iter().flatten().all(has)
        && at_least(when, target.kernel)?.unwrap_or(true))
}

/// Whether the kernel is as new as `minKernel` says, if it says so.
fn at_least(when: &When<'_>, kernel: (u32, u32)) -> Result<Option<bool>, Fail> {
    let Some(text) = &when.min_kernel else {
        return Ok(None);
    };
    let version = text
        .0
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let version: (u32, u32) = version.ok_or_else(|| {
        Fail::usage(format!(
            "the seccomp profile has the minKernel `{}`, which is not of the form `4.8`",
            text.0
        ))
    })?;
    Ok(Some(kernel >= version))
}

/// The call that brings `name` on i386 beside or instead of one of its own, and the value of that
/// call's first argument. Source: linux/net.h, linux/ipc.h.
fn multiplexer(name: &str) -> Option<(u32, u32)> {
    const SOCKETCALL: u32 = 102;
    const IPC: u32 = 117;
    let (call, which) = match name {
        "socket" => (SOCKETCALL, 1),
        "bind" => (SOCKETCALL, 2),
        "connect" => (SOCKETCALL, 3),
        "listen" => (SOCKETCALL, 4),
        "accept" => (SOCKETCALL, 5),
        "getsockname" => (SOCKETCALL, 6),
        "getpeername" => (SOCKETCALL, 7),
        "socketpair" => (SOCKETCALL, 8),
        "send" => (SOCKETCALL, 9),
        "recv" => (SOCKETCALL, 10),
        "sendto" => (SOCKETCALL, 11),
        "recvfrom" => (SOCKETCALL, 12),
        "shutdown" => (SOCKETCALL, 13),
        "setsockopt" => (SOCKETCALL, 14),
        "getsockopt" => (SOCKETCALL, 15),
        "sendmsg" => (SOCKETCALL, 16),
        "recvmsg" => (SOCKETCALL, 17),
        "accept4" => (SOCKETCALL, 18),
        "recvmmsg" => (SOCKETCALL, 19),
        "sendmmsg" => (SOCKETCALL, 20),
        "semop" => (IPC, 1),
        "semget" => (IPC, 2),
        "semctl" => (IPC, 3),
        "semtimedop" => (IPC, 4),
        "msgsnd" => (IPC, 11),
        "msgrcv" => (IPC, 12),
        "msgget" => (IPC, 13),
        "msgctl" => (IPC, 14),
        "shmat" => (IPC, 21),
        "shmdt" => (IPC, 22),
        "shmget" => (IPC, 23),
        "shmctl" => (IPC, 24),
        _ => return None,
    };
    Some((call, which))
}

/// What one ABI's calls get, from its first number to the end.
fn runs(abi: Abi, rules: &[Chosen<'_>], default: u32) -> Vec<Run<Verdict>> {
    let mut calls: Vec<(u32, usize, Option<u32>)> = Vec::new();
    let mut newest = None;
    for (position, rule) in rules.iter().enumerate() {
        let numbers = rule.rows.iter().filter_map(|row| abi.number(row));
        newest = newest.max(numbers.clone().max());
        // A rule that says what is said anyway is none (runc), even where another one disagrees.
        if rule.action == default {
            continue;
        }
        calls.extend(numbers.map(|number| (number, position, None)));
        if abi == Abi::I386 {
            let through = rule.multiplexed.iter();
            calls.extend(through.map(|(number, which)| (*number, position, Some(*which))));
        }
    }
    calls.sort_unstable();

    let mut runs: Vec<Run<Verdict>> = Vec::new();
    let mut add = |start: u32, verdict: Verdict| {
        if runs.last().is_none_or(|last| last.1 != verdict) {
            runs.push((start, verdict));
        }
    };
    let mut next = abi.first_number();
    for group in calls.chunk_by(|one, other| one.0 == other.0) {
        let number = group[0].0;
        if number > next {
            add(next, Verdict::Always(default));
        }
        add(number, verdict(abi, rules, group, default));
        next = number + 1;
    }
    if newest.is_none_or(|newest| next <= newest) {
        add(next, Verdict::Always(default));
    }
    // Calls newer than the profile do not exist for the program, so that it falls back to older ones,
    // where EPERM would make it give up (runc's patchbpf).
    if let Some(newest) = newest {
        let unknown = if is_permissive(default) {
            default
        } else {
            RET_ERRNO | ENOSYS
        };
        add(newest + 1, Verdict::Always(unknown));
    }
    if abi == Abi::X86_64 {
        add(X32_BIT, Verdict::Always(RET_KILL_THREAD));
    }
    runs
}

/// A rule without conditions wins; else the rules' cases in the profile's order.
fn verdict(
    abi: Abi,
    rules: &[Chosen<'_>],
    group: &[(u32, usize, Option<u32>)],
    default: u32,
) -> Verdict {
    let mut cases = Vec::new();
    for (_, position, which) in group {
        let rule = &rules[*position];
        let first_argument = which.map(|which| Condition {
            index: 0,
            op: Op::Equal,
            value: u64::from(which),
            second: 0,
        });
        match first_argument {
            None if rule.cases.is_empty() => return Verdict::Always(rule.action),
            None => cases.extend(rule.cases.iter().map(|conditions| Case {
                conditions: conditions.iter().map(|one| fitted(*one, abi)).collect(),
                action: rule.action,
            })),
            // The arguments are behind a pointer, where no filter can look. What would have to hold for
            // the call to be let through cannot be known to hold; libseccomp lets it through.
            Some(_) if !rule.cases.is_empty() && is_permissive(rule.action) => {}
            Some(which) => cases.push(Case {
                conditions: vec![which],
                action: rule.action,
            }),
        }
    }
    if cases.is_empty() {
        Verdict::Always(default)
    } else {
        Verdict::Cases(cases, abi.width(), default)
    }
}

/// Whether the call is made, or may be.
fn is_permissive(action: u32) -> bool {
    matches!(action & !RET_DATA, RET_ALLOW | RET_LOG | RET_TRACE)
}

/// A 32-bit ABI has the low half of every number only.
fn fitted(mut condition: Condition, abi: Abi) -> Condition {
    if abi.width() == Width::Half {
        condition.value &= 0xffff_ffff;
        condition.second &= 0xffff_ffff;
    }
    condition
}
