//! Decisions over numbers, as classic BPF: what the kernel runs at every system call.
//!
//! Written from the last instruction to the first, for jumps lead forwards only and their targets are
//! then known. Knows the layout of `struct seccomp_data`, nothing of names and profiles.

use crate::sys::confine::Instruction;

// linux/bpf_common.h
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const IF_GREATER_OR_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// linux/seccomp.h: struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; }
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// How far a conditional jump may lead: 255, less room for the jumps put in between.
const REACH: usize = 250;

/// How an argument is compared. Source: seccomp_rule_add(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `argument & value == second`
    MaskedEqual,
}

/// One comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, 0 to 5.
    pub index: u32,
    /// How.
    pub op: Op,
    /// With what; the mask of [`Op::MaskedEqual`].
    pub value: u64,
    /// What [`Op::MaskedEqual`] compares with.
    pub second: u64,
}

impl Condition {
    /// Whether an argument satisfies it.
    #[must_use]
    pub fn holds(&self, argument: u64) -> bool {
        match self.op {
            Op::Equal => argument == self.value,
            Op::NotEqual => argument != self.value,
            Op::Less => argument < self.value,
            Op::LessOrEqual => argument <= self.value,
            Op::Greater => argument > self.value,
            Op::GreaterOrEqual => argument >= self.value,
            Op::MaskedEqual => argument & self.value == self.second,
        }
    }
}

/// What is answered when all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// A `SECCOMP_RET_…` value.
    pub action: u32,
}

/// What is answered to one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The same whatever its arguments.
    Always(u32),
    /// The first case that holds, else the action at the end.
    Cases(Vec<Case>, Width, u32),
}

/// How much of an argument counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// The low half: 32-bit ABIs.
    Half,
    /// All 64 bits.
    Full,
}

/// From this number on, up to the next run, this holds. The first run starts at 0.
pub type Run<T> = (u32, T);

/// One architecture of the kernel: its `AUDIT_ARCH_…` value and its calls.
pub type Section = (u32, Vec<Run<Verdict>>);

/// The whole filter: the first section is the fastest; a foreign architecture gets `foreign`.
#[must_use]
pub fn program(sections: &[Section], foreign: u32) -> Vec<Instruction> {
    let mut out = Assembler::default();
    let mut next = out.answer(foreign);
    let entries: Vec<usize> = sections
        .iter()
        .rev()
        .map(|(_, runs)| {
            let tree = out.tree(runs, &mut |out, verdict| out.verdict(verdict));
            out.load(NUMBER, tree)
        })
        .collect();
    for ((arch, _), entry) in sections.iter().rev().zip(entries) {
        next = out.branch(IF_EQUAL, *arch, entry, next);
    }
    out.load(ARCH, next);
    out.code.reverse();
    out.code
}

/// The code so far, last instruction first. A place is an index into it, and stays valid.
#[derive(Debug, Default)]
struct Assembler {
    code: Vec<Instruction>,
    /// The nearest place that returns an action.
    answers: Vec<(u32, usize)>,
}

impl Assembler {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.code.push(Instruction { code, jt, jf, k });
        self.code.len() - 1
    }

    /// Instructions between the next one to be written and `place`.
    fn distance(&self, place: usize) -> usize {
        self.code.len() - place - 1
    }

    /// A place that returns `action`; one that is in reach is used again.
    fn answer(&mut self, action: u32) -> usize {
        let known = self.answers.iter().position(|(value, _)| *value == action);
        if let Some(known) = known
            && self.distance(self.answers[known].1) < REACH
        {
            return self.answers[known].1;
        }
        let place = self.push(RETURN, 0, 0, action);
        match known {
            Some(known) => self.answers[known].1 = place,
            None => self.answers.push((action, place)),
        }
        place
    }

    /// `place` itself, or a long jump to it.
    fn near(&mut self, place: usize) -> usize {
        let distance = self.distance(place);
        if distance < REACH {
            return place;
        }
        let k = u32::try_from(distance).expect("a program has far fewer than 2^32 instructions");
        self.push(JUMP, 0, 0, k)
    }

    /// `if accumulator OP k then yes else no`.
    fn branch(&mut self, op: u16, k: u32, yes: usize, no: usize) -> usize {
        if yes == no {
            return yes;
        }
        let yes = self.near(yes);
        let no = self.near(no);
        let short = |distance| u8::try_from(distance).expect("`near` brought it into reach");
        let (jt, jf) = (short(self.distance(yes)), short(self.distance(no)));
        self.push(op, jt, jf, k)
    }

    /// Loads a word of `struct seccomp_data` and goes on at `next`.
    fn load(&mut self, offset: u32, next: usize) -> usize {
        self.then(LOAD, offset, next)
    }

    /// An instruction without a jump of its own, and after it `next`.
    fn then(&mut self, code: u16, k: u32, next: usize) -> usize {
        if self.distance(next) > 0 {
            let distance = self.distance(next);
            let far = u32::try_from(distance).expect("as in `near`");
            self.push(JUMP, 0, 0, far);
        }
        self.push(code, 0, 0, k)
    }

    /// A binary search over `runs` for the number in the accumulator.
    fn tree<T>(&mut self, runs: &[Run<T>], leaf: &mut dyn FnMut(&mut Self, &T) -> usize) -> usize {
        match runs {
            [] => unreachable!("the first run starts at 0"),
            [(_, only)] => leaf(self, only),
            _ => {
                let (low, high) = runs.split_at(runs.len() / 2);
                let high_place = self.tree(high, leaf);
                let low_place = self.tree(low, leaf);
                self.branch(IF_GREATER_OR_EQUAL, high[0].0, high_place, low_place)
            }
        }
    }

    fn verdict(&mut self, verdict: &Verdict) -> usize {
        match verdict {
            Verdict::Always(action) => self.answer(*action),
            Verdict::Cases(cases, width, otherwise) => match one_argument(cases, *otherwise) {
                Some((index, runs)) => self.search(index, *width, &runs),
                None => self.cases(cases, *width, *otherwise),
            },
        }
    }

    /// A binary search over the values of one argument.
    fn search(&mut self, index: u32, width: Width, runs: &[(u64, u32)]) -> usize {
        let answer = &mut |out: &mut Self, action: &u32| out.answer(*action);
        let words = by_high_word(runs);
        if width == Width::Half {
            let tree = self.tree(&words[0].1, answer);
            return self.load(low_half(index), tree);
        }
        let tree = self.tree(&words, &mut |out, low| {
            let tree = out.tree(low, answer);
            if low.len() == 1 {
                tree
            } else {
                out.load(low_half(index), tree)
            }
        });
        self.load(low_half(index) + 4, tree)
    }

    /// One case after the other.
    fn cases(&mut self, cases: &[Case], width: Width, otherwise: u32) -> usize {
        let mut next = self.answer(otherwise);
        for case in cases.iter().rev() {
            let mut then = self.answer(case.action);
            for condition in case.conditions.iter().rev() {
                then = self.condition(condition, width, then, next);
            }
            next = then;
        }
        next
    }

    fn condition(&mut self, is: &Condition, width: Width, yes: usize, no: usize) -> usize {
        let (op, yes, no) = match is.op {
            Op::NotEqual => (IF_EQUAL, no, yes),
            Op::Equal | Op::MaskedEqual => (IF_EQUAL, yes, no),
            Op::Greater => (IF_GREATER, yes, no),
            Op::LessOrEqual => (IF_GREATER, no, yes),
            Op::GreaterOrEqual => (IF_GREATER_OR_EQUAL, yes, no),
            Op::Less => (IF_GREATER_OR_EQUAL, no, yes),
        };
        let (mask, value) = match is.op {
            Op::MaskedEqual => (is.value, is.second),
            Op::Equal
            | Op::NotEqual
            | Op::Less
            | Op::LessOrEqual
            | Op::Greater
            | Op::GreaterOrEqual => (u64::MAX, is.value),
        };
        let (mask, value) = (halves(mask), halves(value));
        let mut place = self.branch(op, value.1, yes, no);
        if mask.1 != u32::MAX {
            place = self.then(AND, mask.1, place);
        }
        place = self.load(low_half(is.index), place);
        if width == Width::Half || (mask.0 == 0 && value.0 == 0) {
            return place;
        }
        // The high half decides alone unless it is equal.
        place = self.branch(IF_EQUAL, value.0, place, no);
        if op != IF_EQUAL {
            place = self.branch(IF_GREATER, value.0, yes, place);
        }
        if mask.0 != u32::MAX {
            place = self.then(AND, mask.0, place);
        }
        self.load(low_half(is.index) + 4, place)
    }
}

/// Both machines that are known here are little-endian: the low half comes first.
fn low_half(index: u32) -> u32 {
    ARGS + 8 * index
}

/// High and low.
fn halves(value: u64) -> (u32, u32) {
    let low = u32::try_from(value & 0xffff_ffff).expect("it was masked");
    let high = u32::try_from(value >> 32).expect("it was shifted");
    (high, low)
}

/// The answers by the value of the only argument that the cases look at; `None` when they are of
/// another shape. Many rules for one call (`socket` has 26) become a few comparisons this way.
fn one_argument(cases: &[Case], otherwise: u32) -> Option<(u32, Vec<(u64, u32)>)> {
    let index = cases.first()?.conditions.first()?.index;
    let mut starts = vec![0];
    for case in cases {
        let [only] = case.conditions.as_slice() else {
            return None;
        };
        if only.index != index || only.op == Op::MaskedEqual {
            return None;
        }
        starts.extend([only.value, only.value.saturating_add(1)]);
    }
    starts.sort_unstable();
    starts.dedup();
    let mut runs: Vec<(u64, u32)> = Vec::new();
    for start in starts {
        let case = cases.iter().find(|case| case.conditions[0].holds(start));
        let action = case.map_or(otherwise, |case| case.action);
        if runs.last().is_none_or(|last| last.1 != action) {
            runs.push((start, action));
        }
    }
    Some((index, runs))
}

/// The same decisions in two steps: by the high word, and for each high word by the low one.
fn by_high_word(runs: &[(u64, u32)]) -> Vec<Run<Vec<Run<u32>>>> {
    let mut words: Vec<Run<Vec<Run<u32>>>> = Vec::new();
    for (position, (start, action)) in runs.iter().enumerate() {
        let (high, low) = halves(*start);
        if words.last().is_none_or(|last| last.0 != high) {
            let before = position.checked_sub(1).map(|before| runs[before].1);
            let first = before.filter(|_| low > 0).map(|before| (0, before));
            words.push((high, first.into_iter().collect()));
        }
        let (_, last) = words.last_mut().expect("one was pushed");
        last.push((low, *action));
        // Above this word, until the next run, the action holds whatever the low word says.
        let next = runs.get(position + 1).map(|next| halves(next.0).0);
        if high < u32::MAX && last.len() > 1 && next != Some(high) && next != Some(high + 1) {
            words.push((high + 1, vec![(0, *action)]));
        }
    }
    words
}
