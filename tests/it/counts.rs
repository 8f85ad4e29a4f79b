//! What the hot paths cost in figures that no machine changes: system calls, processes, instructions, allocations. The
//! figures they may cost are in `tests/counts.txt`. Milliseconds are for `scripts/bench`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::host::Need;
use crate::support::{Home, rl_binary, skip, source};

/// The figures of `tests/counts.txt` by name.
fn allowed() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(source().join("tests/counts.txt")).unwrap();
    text.lines()
        .filter_map(|line| line.split('#').next())
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(name, figure)| (name.to_owned(), figure.trim().parse().unwrap()))
        .collect()
}

/// Fails when one is more than allowed, or so much less that the figure no longer guards anything.
fn within(found: &[(&str, u64)]) {
    let allowed = allowed();
    let wrong: Vec<String> = found
        .iter()
        .map(|(name, count)| (name, *count, allowed[*name]))
        .filter(|(_, count, most)| count > most || count * 10 < most * 8)
        .map(|(name, count, most)| format!("{name} {count}, not {most}"))
        .collect();
    assert!(
        wrong.is_empty(),
        "tests/counts.txt is about something else: {}",
        wrong.join("; ")
    );
}

/// All system calls, new processes and execs in a summary of `strace -f -c`.
fn calls(summary: &Path) -> (u64, u64, u64) {
    let text = std::fs::read_to_string(summary).unwrap();
    let rows = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let count = words.get(3)?.parse::<u64>().ok()?;
        Some(((*words.last()?).to_owned(), count))
    });
    let rows: BTreeMap<String, u64> = rows.collect();
    let of = |names: &[&str]| names.iter().filter_map(|name| rows.get(*name)).sum::<u64>();
    (
        rows["total"],
        of(&["clone", "clone3", "fork", "vfork"]),
        of(&["execve", "execveat"]),
    )
}

fn traced(home: &Home, line: &str) -> (u64, u64, u64) {
    let summary = home.path().join("summary");
    home.program("strace")
        .args(["-f", "-c", "-o"])
        .arg(&summary)
        .arg(rl_binary())
        .args(line.split(' '))
        .ok();
    calls(&summary)
}

/// With one id: strace takes the set-user-id right from newuidmap.
#[test]
fn no_ranges_and_a_start_makes_no_more_calls_than_it_may() {
    needs!(Need::Ours, Need::NoRanges, Need::Program("strace"));
    if cfg!(not(target_env = "musl")) {
        return skip("the figures are those of a build with musl");
    }
    let home = Home::with_busybox();
    let line = "run --rm --network none busybox true";
    home.rl(line).ok(); // the first one makes directories
    let (all, processes, execs) = traced(&home, line);
    within(&[
        ("start.calls", all),
        ("start.processes", processes),
        ("start.execs", execs),
    ]);
    home.rl("run -d --name c --network none busybox sleep 1000")
        .ok();
    let (all, processes, execs) = traced(&home, "exec c true");
    home.rl("rm -f c").ok();
    within(&[
        ("exec.calls", all),
        ("exec.processes", processes),
        ("exec.execs", execs),
    ]);
    within(&[("list.calls", traced(&home, "ps -a").0)]);
}

#[test]
fn the_command_line_takes_no_more_instructions_than_it_may() {
    needs!(Need::Ours, Need::Program("valgrind"));
    if cfg!(not(target_env = "musl")) {
        return skip("the figures are those of a build with musl");
    }
    let home = Home::new();
    let count = |words: &str| {
        let profile = home.path().join("profile");
        let output = home
            .program("valgrind")
            .arg("--tool=callgrind")
            .arg(format!("--callgrind-out-file={}", profile.display()))
            .arg(rl_binary())
            .args(words.split(' '))
            .command()
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let line = text.lines().find(|line| line.contains("Collected : "));
        let line = line.unwrap_or_else(|| panic!("{text}"));
        let instructions = line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        let profile = std::fs::read_to_string(&profile).unwrap();
        (instructions, allocations(&profile))
    };
    let (version, list) = (count("--version"), count("ps -a"));
    let run = count("run --rm --rootfs /nowhere --network none true");
    within(&[
        ("version.instructions", version.0),
        ("list.instructions", list.0),
        ("run.instructions", run.0),
        ("list.allocations", list.1),
        ("run.allocations", run.1),
    ]);
}

/// How often memory was asked for. Source: the format of callgrind's profile: `cfn=(NUMBER) NAME`, the name at its first
/// use only, then `calls=COUNT …`.
fn allocations(profile: &str) -> u64 {
    let name = ") __rustc::__rust_alloc";
    let defined = profile.lines().find(|line| line.ends_with(name)).unwrap();
    let number = defined.split_once('=').unwrap().1.strip_suffix(&name[1..]);
    let called = format!("cfn={}", number.unwrap().trim_end());
    let calls = profile.lines().zip(profile.lines().skip(1));
    calls
        .filter(|(line, _)| line.split(' ').next() == Some(&called))
        .map(|(_, calls)| calls.strip_prefix("calls=").unwrap())
        .map(|calls| calls.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}
