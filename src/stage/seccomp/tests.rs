//! The compiled filters are run here, and compared with what libseccomp and runc would do.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _};

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use proptest::prelude::*;
use rustix::fs::OFlags;

use super::emulation::Emulation;
use super::*;
use crate::idmap::{Extent, How, Plan};

/// Not for x32 when it was new and libseccomp learnt it; for all since.
const UNSETTLED: &str = "map_shadow_stack";

/// What a filter looks at: number, architecture and arguments of a call.
#[derive(Debug, Clone, Copy)]
struct Call {
    number: u32,
    arch: u32,
    args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let argument = |at: u32| self.args[usize::try_from(at / 8).unwrap()];
        match offset {
            0 => self.number,
            4 => self.arch,
            8 | 12 => 0,
            16.. if offset.is_multiple_of(8) => {
                (argument(offset - 16) & 0xffff_ffff).try_into().unwrap()
            }
            16.. => (argument(offset - 20) >> 32).try_into().unwrap(),
            _ => panic!("loads from {offset}"),
        }
    }
}

/// Runs a program as the kernel does, and counts the instructions.
fn run(program: &[Instruction], call: &Call) -> (u32, usize) {
    let (mut at, mut accumulator) = (0_usize, 0_u32);
    for steps in 1.. {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let holds = match code {
            0x20 => {
                accumulator = call.word(k);
                continue;
            }
            0x54 => {
                accumulator &= k;
                continue;
            }
            0x05 => {
                at += usize::try_from(k).unwrap();
                continue;
            }
            0x06 => return (k, steps),
            0x15 => accumulator == k,
            0x25 => accumulator > k,
            0x35 => accumulator >= k,
            0x45 => accumulator & k != 0,
            _ => panic!("instruction {code:#x}"),
        };
        at += usize::from(if holds { jt } else { jf });
    }
    unreachable!()
}

fn strings(words: &str) -> Vec<String> {
    words.split_whitespace().map(str::to_owned).collect()
}

fn target(capabilities: &[String], machine: Machine) -> Target<'_> {
    Target {
        machine,
        capabilities,
        kernel: (6, 1),
        answered: false,
    }
}

fn compiled(json: &str) -> Result<Filter, Fail> {
    compile(json, &target(&[], Machine::X86_64))
}

fn scmp(abi: Abi) -> ScmpArch {
    match abi {
        Abi::X86_64 => ScmpArch::X8664,
        Abi::I386 => ScmpArch::X86,
        Abi::X32 => ScmpArch::X32,
        Abi::Aarch64 => ScmpArch::Aarch64,
        Abi::Arm => ScmpArch::Arm,
    }
}

/// libseccomp's number. What i386 has a multiplexer for it calls by a made-up one, so that runc takes
/// a newer call for unknown when a profile names nothing else that is as new; that is not copied.
fn number(name: &str, abi: Abi) -> Option<u32> {
    if abi == Abi::I386 && multiplexer(name).is_some() {
        let row = syscalls::TABLE.iter().find(|row| row.0 == name)?;
        return abi.number(row);
    }
    let number = ScmpSyscall::from_name_by_arch(name, scmp(abi)).ok()?;
    u32::try_from(number.as_raw_syscall()).ok()
}

/// What runc makes of a profile: a filter of libseccomp's behind a check for calls that are too new.
struct Reference {
    program: Vec<Instruction>,
    newest: BTreeMap<&'static str, u32>,
    patched: bool,
}

impl Reference {
    fn new(json: &str, target: &Target<'_>) -> Self {
        let profile: Profile<'_> = serde_json::from_str(json).unwrap();
        let action_of = |name: &str, data: Option<u32>| {
            ScmpAction::from_str(name, Some(data.unwrap_or(1).try_into().unwrap())).unwrap()
        };
        let default = action_of(&profile.default_action.0, profile.default_errno_ret);
        let mut filter = ScmpFilterContext::new(default).unwrap();
        let abis = abis(&profile, target.machine).unwrap();
        for abi in &abis {
            filter.add_arch(scmp(*abi)).unwrap();
        }
        if target.machine != Machine::X86_64 {
            filter.remove_arch(ScmpArch::X8664).unwrap();
        }
        filter.set_ctl_optimize(2).unwrap();
        let mut newest = BTreeMap::new();
        for rule in profile.syscalls.iter().flatten() {
            if !applies(rule, target).unwrap() {
                continue;
            }
            let action = action_of(&rule.action.0, rule.errno_ret);
            for name in rule.names.iter().flatten().chain(&rule.name) {
                for abi in &abis {
                    if let Some(number) = number(&name.0, *abi) {
                        let most = newest.entry(abi.name()).or_insert(0);
                        *most = number.max(*most);
                    }
                }
                let Ok(call) = ScmpSyscall::from_name(&name.0) else {
                    continue;
                };
                if action == default {
                    continue;
                }
                let conditions: Vec<_> = rule
                    .args
                    .iter()
                    .flatten()
                    .map(|arg| condition(arg).unwrap())
                    .collect();
                let groups = alternatives(conditions);
                if groups.is_empty() {
                    filter.add_rule(action, call).unwrap();
                }
                for group in groups {
                    let comparators: Vec<_> = group.iter().map(comparator).collect();
                    filter
                        .add_rule_conditional(action, call, &comparators)
                        .unwrap();
                }
            }
        }
        let mut file = tempfile::tempfile().unwrap();
        filter.export_bpf(&file).unwrap();
        file.rewind().unwrap();
        let mut program = Vec::new();
        file.read_to_end(&mut program).unwrap();
        let program = program.chunks_exact(8).map(|bytes| Instruction {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        });
        Self {
            program: program.collect(),
            newest,
            patched: !matches!(
                default,
                ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_)
            ),
        }
    }

    fn answer(&self, call: &Call) -> u32 {
        let abi = match (call.arch, call.number & X32_BIT) {
            (0xc000_003e, 0) => Some(Abi::X86_64),
            (0xc000_003e, _) => Some(Abi::X32),
            (arch, _) => Abi::ALL.into_iter().find(|abi| abi.audit_arch() == arch),
        };
        let newest = abi.and_then(|abi| self.newest.get(abi.name()));
        if self.patched && newest.is_some_and(|newest| call.number > *newest) {
            return RET_ERRNO | ENOSYS;
        }
        run(&self.program, call).0
    }
}

fn comparator(condition: &Condition) -> ScmpArgCompare {
    let op = match condition.op {
        Op::Equal => ScmpCompareOp::Equal,
        Op::NotEqual => ScmpCompareOp::NotEqual,
        Op::Less => ScmpCompareOp::Less,
        Op::LessOrEqual => ScmpCompareOp::LessOrEqual,
        Op::Greater => ScmpCompareOp::Greater,
        Op::GreaterOrEqual => ScmpCompareOp::GreaterEqual,
        Op::MaskedEqual => {
            let op = ScmpCompareOp::MaskedEqual(condition.value);
            return ScmpArgCompare::new(condition.index, op, condition.second);
        }
    };
    ScmpArgCompare::new(condition.index, op, condition.value)
}

/// The profile without the calls that the installed libseccomp does not know.
fn known_to_libseccomp(json: &str) -> String {
    let mut profile: serde_json::Value = serde_json::from_str(json).unwrap();
    for rule in profile["syscalls"].as_array_mut().unwrap() {
        let names = rule["names"].as_array_mut().unwrap();
        names.retain(|name| {
            let name = name.as_str().unwrap();
            ScmpSyscall::from_name(name).is_ok() && name != UNSETTLED
        });
    }
    profile.to_string()
}

/// Compares the answers to every number that any ABI has, and to some beyond.
fn compare(json: &str, capabilities: &[String], machine: Machine, values: &[u64]) {
    let target = target(capabilities, machine);
    let filter = compile(json, &target).unwrap();
    let reference = Reference::new(json, &target);
    let numbers = (0..600)
        .chain(X32_BIT..X32_BIT + 600)
        .chain(983_039..983_050)
        .chain([0x3fff_ffff, 0x7fff_ffff, 0xc000_0000, u32::MAX - 1]);
    let archs = Abi::ALL
        .map(Abi::audit_arch)
        .into_iter()
        .chain([0xc000_00f3]);
    for arch in archs {
        for number in numbers.clone() {
            for (first, second) in values
                .iter()
                .flat_map(|one| [(*one, 0), (0, *one), (*one, *one)])
            {
                let call = Call {
                    number,
                    arch,
                    args: [first, second, first, 0, 0, 0],
                };
                let (ours, theirs) = (run(&filter.program, &call).0, reference.answer(&call));
                assert_eq!(ours, theirs, "{call:x?} {ours:#x} {theirs:#x}\n{json}");
            }
        }
    }
}

#[test]
fn the_default_profile_does_what_docker_does() {
    let json = known_to_libseccomp(DEFAULT_PROFILE);
    let values = [
        0,
        1,
        7,
        8,
        11,
        12,
        13,
        38,
        40,
        44,
        46,
        0x20000,
        0x20008,
        0xffff_ffff,
        1 << 32,
        0x0200_0000,
        0x1000_0000,
        17,
        u64::MAX,
    ];
    for machine in [Machine::X86_64, Machine::Aarch64] {
        for caps in [
            "",
            "CAP_SYS_ADMIN CAP_BPF",
            "CAP_SYS_PTRACE CAP_SYS_TIME CAP_SYS_CHROOT",
        ] {
            compare(&json, &strings(caps), machine, &values);
        }
    }
}

#[test]
fn the_profile_that_podman_ships_does_what_libseccomp_does() {
    // Debian's golang-github-containers-common brings it; another machine has nothing to compare.
    let Ok(json) = std::fs::read_to_string("/usr/share/containers/seccomp.json") else {
        return;
    };
    let json = known_to_libseccomp(&json);
    let values = [0, 1, 5, 16, 40, 1 << 32, 0xffff_ffff];
    for machine in [Machine::X86_64, Machine::Aarch64] {
        compare(&json, &strings("CAP_SYS_CHROOT"), machine, &values);
    }
}

#[test]
fn numbers_agree_with_libseccomp() {
    let mut compared = 0;
    for row in syscalls::TABLE {
        if ScmpSyscall::from_name(row.0).is_err() || row.0 == UNSETTLED {
            continue;
        }
        for abi in Abi::ALL {
            let theirs = number(row.0, abi);
            // The same call under two names; libseccomp has one of them.
            if (row.0, abi) != ("sync_file_range2", Abi::Arm) {
                assert_eq!(abi.number(row), theirs, "{} on {abi:?}", row.0);
            }
            compared += 1;
        }
    }
    assert!(compared > 1800, "{compared}");
    assert!(syscalls::TABLE.is_sorted_by_key(|row| row.0));
}

#[test]
fn the_default_is_what_docker_means_by_it() {
    let filter = compile(DEFAULT_PROFILE, &target(&[], Machine::X86_64)).unwrap();
    let row = |name: &str| syscalls::TABLE.iter().find(|row| row.0 == name).unwrap();
    let answer = |name: &str, args: [u64; 2]| {
        let args = [args[0], args[1], 0, 0, 0, 0];
        let number = Abi::X86_64.number(row(name)).unwrap();
        run(
            &filter.program,
            &Call {
                number,
                arch: 0xc000_003e,
                args,
            },
        )
        .0
    };
    let denied = RET_ERRNO | EPERM;
    let cases = [
        ("read", [0, 0], RET_ALLOW),
        ("mseal", [0, 0], RET_ALLOW),
        ("socket", [libc::AF_INET6, 0], RET_ALLOW),
        ("socket", [libc::AF_VSOCK, 0], denied),
        ("socket", [libc::AF_ALG, 0], denied),
        ("unshare", [0, 0], denied),
        ("mount", [0, 0], denied),
        ("io_uring_setup", [0, 0], denied),
        ("keyctl", [0, 0], denied),
        ("clone", [libc::CLONE_VM | libc::SIGCHLD, 0], RET_ALLOW),
        ("clone", [libc::CLONE_NEWUSER | libc::SIGCHLD, 0], denied),
        ("clone3", [0, 0], RET_ERRNO | ENOSYS),
        ("file_setattr", [0, 0], RET_ERRNO | ENOSYS),
    ];
    for (name, args, expected) in cases {
        let args = args.map(|arg| u64::try_from(arg).unwrap());
        assert_eq!(answer(name, args), expected, "{name} {args:?}");
    }
    assert!(filter.spec_allow && !filter.log);
}

#[test]
fn the_prebuilt_filters_are_what_the_default_profile_compiles_to() {
    let mut text = String::from(
        "//! The default profile, compiled for the default capabilities: a start need not do it again.\n//!\n\
         //! Data only, from `UPDATE_EXPECT=1 cargo test prebuilt`. Code, jt, jf and k of an instruction in one number.\n",
    );
    for (name, machine) in [("X86_64", Machine::X86_64), ("AARCH64", Machine::Aarch64)] {
        let sets = [
            "CAP_SYS_CHROOT",
            "CAP_CHOWN CAP_SYS_CHROOT CAP_NET_ADMIN CAP_SETUID",
        ]
        .map(strings);
        let [filter, other] =
            sets.map(|set| compile(DEFAULT_PROFILE, &target(&set, machine)).unwrap());
        assert_eq!(filter, other);
        text += &format!(
            "\n/// For [`super::Machine::{machine:?}`].\n#[rustfmt::skip]\npub const {name}: &[u64] = &[\n"
        );
        for row in filter.program.chunks(6) {
            let row: Vec<String> = row
                .iter()
                .map(|one| format!("{:#x}", packed(one)))
                .collect();
            text += &format!("    {},\n", row.join(", "));
        }
        text += "];\n";
    }
    expect_test::expect_file!["prebuilt.rs"].assert_eq(&text);
    let profile: Profile<'_> = serde_json::from_str(DEFAULT_PROFILE).unwrap();
    let whens = profile
        .syscalls
        .iter()
        .flatten()
        .flat_map(|rule| [&rule.includes, &rule.excludes]);
    let caps = whens.flatten().flat_map(|when| when.caps.iter().flatten());
    let mut caps: Vec<&str> = caps.map(|cap| &*cap.0).collect();
    caps.sort_unstable();
    caps.dedup();
    assert_eq!(caps, DECISIVE_CAPABILITIES);
}

#[test]
fn a_prebuilt_filter_is_taken_only_where_it_is_the_same() {
    for machine in [Machine::X86_64, Machine::Aarch64] {
        for (caps, kernel) in [
            ("CAP_SYS_CHROOT", (6, 1)),
            ("", (6, 1)),
            ("CAP_SYS_CHROOT CAP_BPF", (6, 1)),
            ("CAP_SYS_CHROOT", (4, 4)),
        ] {
            let caps = strings(caps);
            let target = Target {
                machine,
                capabilities: &caps,
                kernel,
                answered: false,
            };
            assert_eq!(
                default_filter(&target).unwrap(),
                compile(DEFAULT_PROFILE, &target).unwrap(),
                "{target:?}"
            );
        }
    }
}

fn packed(one: &Instruction) -> u64 {
    u64::from(one.code) << 48 | u64::from(one.jt) << 40 | u64::from(one.jf) << 32 | u64::from(one.k)
}

#[test]
fn the_default_filter_is_short_and_quick() {
    let filter = compile(DEFAULT_PROFILE, &target(&[], Machine::X86_64)).unwrap();
    let most = (0..470)
        .map(|number| {
            let args = [u64::from(number); 6];
            run(
                &filter.program,
                &Call {
                    number,
                    arch: 0xc000_003e,
                    args,
                },
            )
            .1
        })
        .max();
    assert!(most.unwrap() <= 24, "{most:?} steps");
    assert!(filter.program.len() < 700, "{}", filter.program.len());
}

#[test]
fn a_wrong_profile_is_refused_with_what_is_wrong() {
    let cases = [
        (
            "{",
            "the seccomp profile cannot be read: EOF while parsing an object at line 1 column 1",
        ),
        (
            "{}",
            "the seccomp profile cannot be read: missing field `defaultAction` at line 1 column 2",
        ),
        (
            r#"{"defaultAction":"ALLOW"}"#,
            "the seccomp profile has the unknown action `ALLOW`",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["FAST"]}"#,
            "the seccomp profile has the unknown flag `FAST`",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_PDP11"]}"#,
            "the seccomp profile has the unknown architecture `SCMP_ARCH_PDP11`",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            "the seccomp profile uses SCMP_ACT_NOTIFY, which needs an agent that answers, and `rl` has none",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL","args":[{"index":6,"op":"SCMP_CMP_EQ"}]}]}"#,
            "the seccomp profile looks at argument 6, and a system call has arguments 0 to 5",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL","includes":{"minKernel":"new"}}]}"#,
            "the seccomp profile has the minKernel `new`, which is not of the form `4.8`",
        ),
    ];
    for (json, message) in cases {
        assert_eq!(compiled(json).unwrap_err().message, message);
    }
}

#[test]
fn unknown_calls_are_skipped_and_old_forms_are_read() {
    let filter = compiled(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_S390X"],"flags":["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls":[{"name":"frobnicate","action":"SCMP_ACT_KILL"},{"name":"re\u0061d","action":"SCMP_ACT_ERRNO","errnoRet":5}]}"#,
    )
    .unwrap();
    let answer = |number, arch| {
        run(
            &filter.program,
            &Call {
                number,
                arch,
                args: [0; 6],
            },
        )
        .0
    };
    assert_eq!(answer(0, 0xc000_003e), RET_ERRNO | 5);
    assert_eq!(answer(1, 0xc000_003e), RET_ALLOW);
    assert_eq!(answer(1, Abi::I386.audit_arch()), RET_KILL_THREAD);
    assert!(filter.log && !filter.spec_allow);
}

#[test]
fn a_multiplexer_is_no_way_around_a_condition() {
    let answer = |default: &str, action: &str, args: &str| {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_{default}","architectures":["SCMP_ARCH_X86"],
                "syscalls":[{{"names":["socket","bind"],"action":"SCMP_ACT_{action}","args":[{args}]}}]}}"#
        );
        let filter = compiled(&json).unwrap();
        [1, 2, 3].map(|which| {
            let call = Call {
                number: 102,
                arch: Abi::I386.audit_arch(),
                args: [which, 0, 0, 0, 0, 0],
            };
            run(&filter.program, &call).0
        })
    };
    let unix = r#"{"index":0,"value":1,"op":"SCMP_CMP_EQ"}"#;
    let (allow, deny) = (RET_ALLOW, RET_ERRNO | EPERM);
    assert_eq!(answer("ERRNO", "ALLOW", ""), [allow, allow, deny]);
    assert_eq!(answer("ERRNO", "ALLOW", unix), [deny, deny, deny]);
    assert_eq!(answer("ALLOW", "ERRNO", ""), [deny, deny, allow]);
    assert_eq!(answer("ALLOW", "ERRNO", unix), [deny, deny, allow]);
}

#[test]
fn a_filter_that_the_kernel_would_refuse_is_refused_here() {
    let rules: Vec<String> = (0..1500)
        .map(|value| {
            format!(
                r#"{{"names":["ioctl"],"action":"SCMP_ACT_KILL","args":[{{"index":1,"value":{value},"op":"SCMP_CMP_EQ"}},{{"index":2,"value":{value},"op":"SCMP_CMP_EQ"}}]}}"#
            )
        })
        .collect();
    let json = |rules: &[String]| {
        format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#,
            rules.join(",")
        )
    };
    assert!(
        compiled(&json(&rules))
            .unwrap_err()
            .message
            .contains("at most 4096")
    );
    // Long enough for jumps that do not fit into eight bits.
    compare(
        &json(&rules[..300]),
        &[],
        Machine::X86_64,
        &[0, 7, 299, 300],
    );
}

/// Rules that differ in everything but the action.
fn rules(ops: &'static [&'static str]) -> impl Strategy<Value = Vec<serde_json::Value>> {
    let names = [
        "socket",
        "personality",
        "clone",
        "read",
        "write",
        "openat",
        "stat64",
        "recvmmsg",
        "mmap2",
        "set_tls",
    ];
    let value = prop_oneof![
        0..4_u64,
        Just(0xffff_ffff),
        Just(1 << 32),
        Just((1 << 32) + 2),
        Just(u64::MAX)
    ];
    let arg = (0..3_u32, prop::sample::select(ops), value.clone(), value).prop_map(|(index, op, value, two)| {
        // A datum outside its mask can never match; libseccomp masks it instead.
        serde_json::json!({"index": index, "op": format!("SCMP_CMP_{op}"), "value": value, "valueTwo": two & value})
    });
    let names = prop::sample::subsequence(names.to_vec(), 1..3);
    let rule = (names, prop::collection::vec(arg, 0..3)).prop_map(|(mut names, args)| {
        // With arguments, libseccomp's answer to the multiplexers of i386 is arbitrary.
        names.retain(|name| args.is_empty() || multiplexer(name).is_none());
        serde_json::json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 7, "args": args})
    });
    prop::collection::vec(rule, 0..8)
}

const VALUES: [u64; 8] = [
    0,
    1,
    3,
    0xffff_ffff,
    1 << 32,
    (1 << 32) + 2,
    (3 << 32) + 1,
    u64::MAX,
];

/// A map of these ranges: first id inside, count.
fn plan(extents: &[(u32, u32)], how: How) -> Plan {
    let extents: Vec<Extent> = extents
        .iter()
        .map(|(inner, count)| Extent {
            inner: *inner,
            host: 1000,
            count: *count,
        })
        .collect();
    Plan {
        uids: extents.clone(),
        gids: extents,
        how,
    }
}

/// What the emulation answers to a call, on every ABI of x86-64 that has it: `Some(0)` pretends, `None` asks the kernel.
fn emulated(emulation: &Emulation, capabilities: &str, name: &str, args: &[u64]) -> Option<u32> {
    let filter = emulation.filter(Machine::X86_64, &strings(capabilities));
    let row = syscalls::TABLE
        .iter()
        .find(|row| row.0 == name)
        .unwrap_or_else(|| panic!("no call {name}"));
    let mut given = [0; 6];
    given[..args.len()].copy_from_slice(args);
    let mut answers: Vec<u32> = [Abi::X86_64, Abi::I386, Abi::X32]
        .into_iter()
        .filter_map(|abi| {
            let call = Call {
                number: abi.number(row)?,
                arch: abi.audit_arch(),
                args: given,
            };
            Some(run(&filter.program, &call).0)
        })
        .collect();
    answers.dedup();
    let [answer] = answers[..] else {
        panic!("{name}: {answers:x?}");
    };
    (answer != RET_ALLOW).then(|| answer - RET_ERRNO)
}

#[test]
fn what_needs_other_ids_is_pretended_and_the_rest_is_left_to_the_kernel() {
    const PATH: u64 = 0x7fff_1234_5678;
    const SAME: u64 = 0xffff_ffff;
    const SAME_64: u64 = u64::MAX;
    let one = Emulation::of(&plan(&[(0, 1)], How::Single));
    let many = Emulation::of(&plan(&[(1, 65535), (0, 1)], How::Helpers));
    let holed = Emulation::of(&plan(&[(0, 10), (20, 10)], How::Helpers));
    let all = Emulation::of(&plan(&[(0, u32::MAX)], How::Identity));
    let device = u64::from(libc::S_IFBLK | 0o600);
    let tty = u64::from(libc::S_IFCHR | 0o600);
    let fifo = u64::from(libc::S_IFIFO | 0o600);
    let (yes, no) = (Some(0), None);
    let cases: &[(&Emulation, &str, &[u64], Option<u32>)] = &[
        (&one, "chown", &[PATH, 0, 0], no),
        (&one, "chown", &[PATH, 5, 0], yes),
        (&one, "lchown", &[PATH, 0, 5], yes),
        (&one, "fchown", &[3, 5, 0xffff], yes),
        (&one, "fchown", &[3, 0, SAME_64], no),
        (&one, "fchownat", &[3, PATH, 0, 0], no),
        (&one, "fchownat", &[3, PATH, SAME, 5], yes),
        (&one, "fchownat", &[3, PATH, SAME_64, SAME_64], no),
        // 16 bits on i386: "leave it" is another number.
        (&one, "setuid32", &[0xffff], yes),
        (&one, "chown32", &[PATH, 0xffff, SAME], yes),
        (&one, "chown32", &[PATH, SAME, SAME], no),
        (&one, "setuid", &[0], no),
        (&one, "setuid", &[100], yes),
        (&one, "setgid", &[0], no),
        (&one, "setgid", &[0xfffe], yes),
        (&one, "setreuid", &[SAME_64, 7], yes),
        (&one, "setregid", &[SAME_64, SAME_64], no),
        (&one, "setresuid", &[0, 0, 9], yes),
        (&one, "setresuid", &[0, 0, 0], no),
        (&one, "setresgid32", &[SAME, 4, SAME], yes),
        (&one, "setgroups", &[0, 0], yes),
        (&one, "setgroups32", &[2, PATH], yes),
        (&one, "setfsuid", &[7], no),
        (&one, "chmod", &[PATH, 0o4755], no),
        (&one, "setxattr", &[PATH, PATH], no),
        (&one, "capset", &[PATH, PATH], no),
        (&one, "seccomp", &[1, 0, PATH], no),
        (&one, "mknod", &[PATH, device, 0x801], yes),
        (&one, "mknod", &[PATH, tty, 0x501], yes),
        (&one, "mknod", &[PATH, fifo, 0x501], no),
        (&one, "mknod", &[PATH, 0o644, 0x501], no),
        (&one, "mknodat", &[3, PATH, tty, 0x501], yes),
        (&one, "mknodat", &[3, PATH, tty, 0], no),
        (&many, "chown", &[PATH, 5, 65535], no),
        (&many, "chown32", &[PATH, 5, 65536], yes),
        (&many, "setgroups", &[1, PATH], no),
        (&holed, "chown", &[PATH, 9, 20], no),
        (&holed, "chown", &[PATH, 9, 19], yes),
        (&holed, "chown", &[PATH, 30, 9], yes),
        (&all, "fchownat", &[3, PATH, 0xffff_fffe, 5], no),
    ];
    let every = "CAP_CHOWN CAP_MKNOD CAP_SETGID CAP_SETUID";
    for (emulation, name, args, expected) in cases {
        assert_eq!(
            emulated(emulation, every, name, args),
            *expected,
            "{name} {args:x?}"
        );
    }
    // What was taken from the container's root is refused as without emulation.
    for (without, name, args) in [
        ("CAP_MKNOD CAP_SETGID CAP_SETUID", "chown", [PATH, 5, 5]),
        ("CAP_CHOWN CAP_MKNOD CAP_SETUID", "setgroups", [1, PATH, 0]),
        ("CAP_CHOWN CAP_MKNOD CAP_SETGID", "setresuid", [5, 5, 5]),
        ("CAP_CHOWN CAP_SETGID CAP_SETUID", "mknod", [PATH, tty, 3]),
    ] {
        assert_eq!(emulated(&one, every, name, &args), Some(0), "{name}");
        assert_eq!(emulated(&one, without, name, &args), None, "{name}");
    }
}

#[test]
fn in_full_calls_of_native_programs_are_judged_and_those_of_others_pretended() {
    let full = Emulation::of(&plan(&[(0, 1)], How::Single)).in_full();
    let every = "CAP_CHOWN CAP_MKNOD CAP_SETGID CAP_SETUID";
    let filter = full.filter(Machine::X86_64, &strings(every));
    assert!(filter.notifies && filter.program.len() < MAX_INSTRUCTIONS);
    let answer = |abi: Abi, name: &str, args: [u64; 3]| {
        let row = syscalls::TABLE.iter().find(|row| row.0 == name).unwrap();
        let [a, b, c] = args;
        let call = Call {
            number: abi.number(row).unwrap(),
            arch: abi.audit_arch(),
            args: [a, b, c, 0, 0, 0],
        };
        run(&filter.program, &call).0
    };
    let (read, make) = (0, u64::from(OFlags::CREATE.bits()));
    let directory = u64::from(OFlags::DIRECTORY.bits());
    let nameless = u64::from(OFlags::TMPFILE.bits());
    for (name, args, expected) in [
        ("stat", [8, 8, 0], RET_NOTIFY),
        ("statx", [0, 8, 0], RET_NOTIFY),
        ("chown", [8, 0, 0], RET_NOTIFY),
        ("getuid", [0; 3], RET_NOTIFY),
        ("open", [8, read, 0], RET_ALLOW),
        ("open", [8, make, 0], RET_NOTIFY),
        ("openat", [3, 8, directory], RET_ALLOW),
        ("openat", [3, 8, make | 1], RET_NOTIFY),
        ("openat", [3, 8, nameless | 1], RET_NOTIFY),
        ("prctl", [8, 1, 0], RET_NOTIFY),
        ("prctl", [15, 8, 0], RET_ALLOW),
        ("read", [3, 8, 8], RET_ALLOW),
        ("chmod", [8, 0o4755, 0], RET_ALLOW),
    ] {
        assert_eq!(
            answer(Abi::X86_64, name, args),
            expected,
            "{name} {args:x?}"
        );
    }
    for abi in [Abi::I386, Abi::X32] {
        assert_eq!(answer(abi, "chown", [8, 5, 5]), RET_ERRNO);
        assert_eq!(answer(abi, "chown", [8, 0, 0]), RET_ALLOW);
        assert_eq!(answer(abi, "stat", [8, 8, 0]), RET_ALLOW);
        assert_eq!(answer(abi, "setuid", [5, 0, 0]), RET_ERRNO);
    }
    let without = full.filter(Machine::X86_64, &strings("CAP_MKNOD"));
    let chown = Call {
        number: 92,
        arch: Abi::X86_64.audit_arch(),
        args: [8, 5, 5, 0, 0, 0],
    };
    assert_eq!(run(&without.program, &chown).0, RET_ALLOW);
}

#[test]
fn the_emulation_knows_both_machines_and_leaves_foreign_ones_alone() {
    let one = Emulation::of(&plan(&[(0, 1)], How::Single));
    for machine in [Machine::X86_64, Machine::Aarch64] {
        let filter = one.filter(machine, &strings("CAP_CHOWN"));
        let call = Call {
            number: 54, // fchownat of aarch64; on x86-64 setsockopt
            arch: machine.native().audit_arch(),
            args: [3, 0, 5, 5, 0, 0],
        };
        let expected = match machine {
            Machine::X86_64 => RET_ALLOW,
            Machine::Aarch64 => RET_ERRNO,
        };
        assert_eq!(run(&filter.program, &call).0, expected);
        let foreign = Call { arch: 1, ..call };
        assert_eq!(run(&filter.program, &foreign).0, RET_ALLOW);
    }
}

#[test]
fn every_operator_does_what_libseccomp_does() {
    for op in ["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"] {
        for value in VALUES {
            let rule = serde_json::json!({"names": ["read", "mmap2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7,
                "args": [{"index": 1, "op": format!("SCMP_CMP_{op}"), "value": value, "valueTwo": value}]});
            let json = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule],
                "architectures": ["SCMP_ARCH_X86"]});
            compare(&json.to_string(), &[], Machine::X86_64, &VALUES);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_profile_does_what_libseccomp_does(
        mut rules in rules(&["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"]),
        default in prop::sample::select(vec!["SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS"]),
        archs in prop::sample::subsequence(vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], 0..=3),
    ) {
        // libseccomp 2.5.4 mixes several conditional rules for one call up, so each has one here.
        let mut seen: Vec<serde_json::Value> = Vec::new();
        for rule in &mut rules {
            let names = rule["names"].as_array_mut().unwrap();
            names.retain(|name| !seen.contains(name));
            seen.append(&mut names.clone());
            let mut indices = Vec::new();
            rule["args"].as_array_mut().unwrap().retain(|arg| {
                let first = !indices.contains(&arg["index"]);
                indices.push(arg["index"].clone());
                first
            });
        }
        let json = serde_json::json!({"defaultAction": default, "architectures": archs, "syscalls": rules}).to_string();
        compare(&json, &[], Machine::X86_64, &VALUES);
    }

    #[test]
    fn any_profile_does_what_it_says(rules in rules(&["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"])) {
        let json = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}).to_string();
        let filter = compiled(&json).unwrap();
        let profile: Profile<'_> = serde_json::from_str(&json).unwrap();
        for row in syscalls::TABLE.iter().filter(|row| json.contains(row.0)) {
            let Some(number) = Abi::X86_64.number(row) else { continue };
            for args in VALUES.iter().flat_map(|one| VALUES.map(|two| [*one, two, *one, 0, 0, 0])) {
                let holds = |one: &Condition| one.holds(args[one.index as usize]);
                let matches = profile.syscalls.iter().flatten().any(|rule| {
                    let conditions = rule.args.iter().flatten().map(|arg| condition(arg).unwrap()).collect();
                    let cases = alternatives(conditions);
                    rule.names.iter().flatten().any(|name| name.0 == row.0)
                        && (cases.is_empty() || cases.iter().any(|case| case.iter().all(holds)))
                });
                let answer = run(&filter.program, &Call { number, arch: 0xc000_003e, args }).0;
                assert_eq!(answer, if matches { RET_ERRNO | 7 } else { RET_ALLOW }, "{} {args:x?}\n{json}", row.0);
            }
        }
    }
}
