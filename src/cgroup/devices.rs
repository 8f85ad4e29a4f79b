//! `linux.resources.devices`: rules for devices, compiled to a program of the kernel's that decides over each use.
//!
//! Source: OCI runtime specification, config-linux.md, "Allowed Device list"; linux/bpf.h.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};

use super::Group;
use crate::spec::resources::DeviceRule;
use crate::sys::bpf::{self, Instruction};

// linux/bpf.h
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// One rule, in the kernel's numbers. None stands for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

/// What every container may use: config-linux.md, "Default Devices"; nodes may be made, for using them is another thing.
const DEFAULT: [(i32, i32, i32); 9] = [
    (1, 3, READ | WRITE | MKNOD),
    (1, 5, READ | WRITE | MKNOD),
    (1, 7, READ | WRITE | MKNOD),
    (1, 8, READ | WRITE | MKNOD),
    (1, 9, READ | WRITE | MKNOD),
    (5, 0, READ | WRITE | MKNOD),
    (5, 1, READ | WRITE | MKNOD),
    (5, 2, READ | WRITE | MKNOD),
    (136, -1, READ | WRITE | MKNOD),
];

fn rules(given: &[DeviceRule]) -> Vec<Rule> {
    let number = |value: Option<i64>| {
        value
            .and_then(|one| i32::try_from(one).ok())
            .filter(|one| *one >= 0)
    };
    let translate = |rule: &DeviceRule| Rule {
        allow: rule.allow,
        kind: match rule.kind.as_deref() {
            Some("b") => Some(BLOCK),
            Some("c") => Some(CHARACTER),
            _ => None,
        },
        major: number(rule.major),
        minor: number(rule.minor),
        access: match rule.access.as_deref().filter(|text| !text.is_empty()) {
            None => READ | WRITE | MKNOD,
            Some(text) => [('r', READ), ('w', WRITE), ('m', MKNOD)]
                .into_iter()
                .filter(|(letter, _)| text.contains(*letter))
                .fold(0, |all, (_, bit)| all | bit),
        },
    };
    let mut all: Vec<Rule> = given.iter().map(translate).collect();
    for kind in [BLOCK, CHARACTER] {
        all.push(Rule {
            allow: true,
            kind: Some(kind),
            major: None,
            minor: None,
            access: MKNOD,
        });
    }
    all.extend(DEFAULT.map(|(major, minor, access)| Rule {
        allow: true,
        kind: Some(CHARACTER),
        major: Some(major),
        minor: Some(minor).filter(|minor| *minor >= 0),
        access,
    }));
    all
}

// Registers: 1 is the context, 2 the kind, 3 the access, 4 and 5 the numbers, 6 for work, 0 the answer.
const fn load(to: u8, offset: i16) -> Instruction {
    instruction(0x61, to | 1 << 4, offset, 0) // BPF_LDX | BPF_MEM | BPF_W
}

const fn instruction(code: u8, registers: u8, offset: i16, operand: i32) -> Instruction {
    Instruction {
        code,
        registers,
        offset,
        operand,
    }
}

/// The program: the last rule that says something of an access decides. What none speaks of is forbidden.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    const ANSWER: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
    const EXIT: u8 = 0x95;
    const UNEQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
    const EQUAL: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    const SHIFT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
    const COPY: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
    let mut all = vec![
        load(2, 0),
        instruction(AND, 2, 0, 0xffff),
        load(3, 0),
        instruction(SHIFT, 3, 0, 16),
        load(4, 4),
        load(5, 8),
    ];
    for rule in rules.iter().rev() {
        let mut block = Vec::new();
        for (register, wanted) in [(2, rule.kind), (4, rule.major), (5, rule.minor)] {
            if let Some(wanted) = wanted {
                block.push((UNEQUAL, register, wanted));
            }
        }
        // An allowing rule must allow all of it, a forbidding one forbids a part.
        let outside = !rule.access & (READ | WRITE | MKNOD);
        let (mask, jump) = if rule.allow {
            (outside, UNEQUAL)
        } else {
            (rule.access, EQUAL)
        };
        // Behind the comparisons: copy, and, jump, answer, exit.
        let length = block.len() + 5;
        for (at, (code, register, wanted)) in block.iter().enumerate() {
            let over = i16::try_from(length - at - 1).unwrap_or(0); // at most 7
            all.push(instruction(*code, *register, over, *wanted));
        }
        all.push(instruction(COPY, 6 | 3 << 4, 0, 0));
        all.push(instruction(AND, 6, 0, mask));
        all.push(instruction(jump, 6, 2, 0));
        all.push(instruction(ANSWER, 0, 0, i32::from(rule.allow)));
        all.push(instruction(EXIT, 0, 0, 0));
    }
    all.push(instruction(ANSWER, 0, 0, 0));
    all.push(instruction(EXIT, 0, 0, 0));
    all
}

/// Puts the rules into force for a group. Without any, everything is allowed.
///
/// # Errors
/// The kernel's.
pub fn enforce(group: &Group, given: &[DeviceRule]) -> Result<()> {
    if given.is_empty() {
        return Ok(());
    }
    bpf::attach_devices(group.as_fd(), &program(&rules(given)))
        .context("linux.resources.devices: putting the rules into force")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn decide(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> i32 {
        let memory = [(access << 16) | kind, major, minor];
        let mut r = [0_i64; 11];
        let mut at = 0;
        loop {
            let one = program[at];
            let to = usize::from(one.registers & 15);
            let from = usize::from(one.registers >> 4);
            at += 1;
            let jump = usize::try_from(one.offset).unwrap();
            match one.code {
                0x61 => r[to] = i64::from(memory[jump / 4]),
                0x54 => r[to] &= i64::from(one.operand),
                0x74 => r[to] >>= one.operand,
                0xbc => r[to] = r[from],
                0xb7 => r[to] = i64::from(one.operand),
                0x55 if r[to] != i64::from(one.operand) => at += jump,
                0x15 if r[to] == i64::from(one.operand) => at += jump,
                0x55 | 0x15 => {}
                0x95 => return i32::try_from(r[0]).unwrap(),
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn the_last_rule_that_matches_decides() {
        let given: Vec<DeviceRule> = serde_json::from_str(
            r#"[{"allow":false,"access":"rwm"},
                {"allow":true,"type":"c","major":10,"minor":229,"access":"rw"},
                {"allow":true,"type":"b","major":8,"access":"r"},
                {"allow":false,"type":"b","major":8,"minor":1,"access":"r"}]"#,
        )
        .unwrap();
        let program = program(&rules(&given));
        for (kind, access, major, minor, expected) in [
            (CHARACTER, READ, 1, 3, 1),
            (CHARACTER, READ | WRITE, 1, 3, 1),
            (CHARACTER, READ, 136, 42, 1),
            (CHARACTER, READ, 10, 229, 1),
            (CHARACTER, READ | WRITE, 10, 229, 1),
            (CHARACTER, READ, 10, 200, 0),
            (BLOCK, READ, 8, 0, 1),
            (BLOCK, WRITE, 8, 0, 0),
            (BLOCK, READ | WRITE, 8, 0, 0),
            (BLOCK, READ, 8, 1, 0),
            (BLOCK, MKNOD, 8, 1, 1),
            (BLOCK, READ, 9, 0, 0),
        ] {
            let answer = decide(&program, kind, access, major, minor);
            assert_eq!(answer, expected, "{kind} {access} {major}:{minor}");
        }
    }
}
