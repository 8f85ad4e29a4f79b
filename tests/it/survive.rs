//! Containers under attack: killed processes, many commands at once, damaged files, a full disk, a reboot.
//! `RL_TEST_ROUNDS` raises the number of rounds.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::life::{monitor, pid, state};
use crate::support::host::{Need, find};
use crate::support::{Home, Output, Running, wait_for};

/// Different numbers every time, without a crate for it: the standard library seeds its hashers with some.
fn random(below: u64) -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish() % below
}

fn one<T: Copy>(of: &[T]) -> T {
    of[usize::try_from(random(of.len() as u64)).unwrap()]
}

fn rounds(most: u64) -> u64 {
    std::env::var("RL_TEST_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(most)
}

/// In the words, the paths or the environment of everything that this home runs.
fn mark(home: &Home) -> String {
    home.path()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    words: String,
    parent: i32,
}

/// The user's processes that have a command line.
fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter_map(|pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name))?;
                line.split_whitespace().next()?.parse::<i32>().ok()
            };
            Some(Process {
                pid: Pid::from_raw(pid),
                words: String::from_utf8_lossy(&words).replace('\0', " "),
                parent: field("PPid:")?,
            })
        })
        .filter(|process| !process.words.is_empty())
        .collect()
}

/// What belongs to this home and runs.
fn ours(home: &Home) -> Vec<Process> {
    let mark = mark(home);
    let mut found = processes();
    found.retain(|process| {
        let environment = std::fs::read(format!("/proc/{}/environ", process.pid));
        process.words.contains(&mark)
            || String::from_utf8_lossy(&environment.unwrap_or_default()).contains(&mark)
    });
    found
}

fn is_helper(process: &Process) -> bool {
    let program = process.words.split(' ').next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default();
    ["pasta", "slirp4netns", "fuse-overlayfs"]
        .iter()
        .any(|helper| name.starts_with(helper))
}

/// Everything that no container owns, as lines; only for a home without containers.
fn litter(home: &Home) -> String {
    let mut lines = Vec::new();
    for process in ours(home) {
        lines.push(format!("process {} {}", process.pid, process.words));
    }
    let all = processes();
    for process in all.iter().filter(|process| is_helper(process)) {
        let parent = all
            .iter()
            .find(|other| other.pid.as_raw() == process.parent);
        if !parent
            .is_some_and(|parent| parent.words.starts_with("rl") || parent.words.contains("/rl "))
        {
            lines.push(format!("orphan {} {}", process.pid, process.words));
        }
    }
    let mark = mark(home);
    for process in &all {
        let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", process.pid));
        for line in table
            .unwrap_or_default()
            .lines()
            .filter(|line| line.contains(&mark))
        {
            lines.push(format!("mount in {}: {line}", process.pid));
        }
    }
    let store = home.store();
    let runtime = home.path().join("run/rl");
    for directory in ["containers", "names", "volumes", "tmp"]
        .map(|name| store.join(name))
        .iter()
        .chain([&runtime])
    {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if ["helpers.json", "ids"]
                .iter()
                .any(|name| entry.file_name() == *name)
            {
                continue; // what the helpers can do, kept until the next boot
            }
            lines.push(format!("file {}", entry.path().display()));
        }
    }
    lines.join("\n")
}

/// Nothing is left, when killed commands' work has been finished by the next one.
#[track_caller]
fn clean(home: &Home, after: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        home.rl("rm -f nobody").ok();
        let left = litter(home);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left after {after}:\n{left}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends by itself, within the time that `Running::wait` gives, and never by a mistake of ours.
#[track_caller]
fn sane(running: Running, after: &str) -> Output {
    let output = running.wait();
    assert!(
        !output.stderr.contains("panicked") && output.status.code() != Some(101),
        "{after}: {output:?}"
    );
    output
}

fn start_of(home: &Home, verb: &str, options: &str, name: &str) -> Running {
    let script = "trap 'exit 0' TERM; sleep 1000 & while :; do sleep 0.05; done";
    home.rl(&format!("{verb} --name {name} {options} busybox sh -c"))
        .arg(script)
        .arg(name)
        .spawn()
}

/// What `rl ps` says of it; nothing when it is not there.
fn listed(home: &Home, name: &str) -> Option<String> {
    let table = home.rl("ps -a --format").arg("{{.Names}} {{.State}}").ok();
    let line = table
        .lines()
        .into_iter()
        .find_map(|line| line.strip_prefix(name));
    line.map(|state| state.trim().to_owned())
}

#[test]
fn whatever_is_killed_nothing_is_left_and_nothing_untrue_is_said() {
    needs!(Need::Ours);
    let mut home = Home::with_busybox();
    let name = mark(&home);
    let mut networks = vec!["--network none"];
    for (program, option) in [
        ("pasta", "--network pasta"),
        ("slirp4netns", "--network slirp4netns"),
    ] {
        if Need::Program(program).check().is_ok() {
            networks.push(option);
        }
    }
    let drivers: &[&str] =
        if find("fuse-overlayfs").is_some() && Need::Writable("/dev/fuse").check().is_ok() {
            &["auto", "auto", "auto", "fuse-overlayfs"]
        } else {
            &["auto"]
        };
    let begun = Instant::now();
    let (mut hits, mut done) = (0, 0);
    let mut tally = std::collections::BTreeMap::new();
    for round in 0..rounds(40) {
        if std::env::var_os("RL_TEST_ROUNDS").is_none() && begun.elapsed() > Duration::from_secs(40)
        {
            break;
        }
        done += 1;
        home.set("RL_STORAGE_DRIVER", one(drivers));
        let options = format!(
            "{} {}",
            one(&networks),
            one(&[
                "",
                "",
                "--rm",
                "--restart always",
                "-v /data",
                "--init",
                "-v /data --rm"
            ])
        );
        let verb = one(&[
            "run -d", "start", "stop", "restart", "rm -v", "rm -f -v", "kill",
        ]);
        let victim = one(&["command", "monitor", "pid 1", "helper"]);
        let restarting = options.contains("--restart") && options.contains("--rm");
        assert!(!restarting, "never offered");
        let case = format!("round {round}: `{verb}` of `{options}`, {victim} killed");
        if verb != "run -d" {
            let first = if verb == "start" || verb == "rm -v" {
                "create"
            } else {
                "run -d"
            };
            let made = sane(start_of(&home, first, &options, &name), &case);
            assert_eq!(made.status.code(), Some(0), "{case}: {made:?}");
        }
        let command = match verb {
            "run -d" => start_of(&home, verb, &options, &name),
            "stop" | "restart" => home.rl(&format!("{verb} -t 1 {name}")).spawn(),
            _ => home.rl(&format!("{verb} {name}")).spawn(),
        };
        std::thread::sleep(Duration::from_micros(random(90_000)));
        let target = match victim {
            "command" => Some(command.pid()),
            _ => ours(&home)
                .into_iter()
                .chain(processes().into_iter().filter(is_helper))
                .find(|process| match victim {
                    "monitor" => process.words.starts_with(&format!("rl:[monitor] {name}")),
                    "pid 1" => {
                        process.words.starts_with(&format!("rl:[init] {name}"))
                            || (process.words.starts_with("sh ") && process.words.contains(&name))
                    }
                    _ => {
                        is_helper(process)
                            && std::fs::read_to_string(format!("/proc/{}/cmdline", process.parent))
                                .is_ok_and(|words| words.contains(&name))
                    }
                })
                .map(|process| process.pid),
        };
        if let Some(target) = target {
            let hit = u64::from(kill(target, Signal::SIGKILL).is_ok());
            hits += hit;
            *tally.entry(victim).or_insert(0) += hit;
        }
        sane(command, &case);
        // What is said becomes true: a moment later, as processes need one to end.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let said = listed(&home, &name);
            let runs = ours(&home).iter().any(|process| {
                process.words.starts_with("sh ") && process.words.contains(&name)
                    || process.words.contains("init -- sh")
            });
            let init = ours(&home)
                .iter()
                .any(|process| process.words.starts_with("rl:[init]"));
            let agrees = match said.as_deref() {
                Some("running") => runs || init,
                Some("restarting") => true,
                Some("created" | "exited") | None => !runs && !init,
                Some(other) => panic!("{case}: {other}"),
            };
            if agrees {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{case}: ps says {said:?}, and there are {:?}",
                ours(&home)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        home.rl("rm -f -v").arg(&name).ok();
        clean(&home, &case);
    }
    home.rl("system check --repair").ok();
    home.rl("system check").says("nothing is wrong");
    eprintln!("{done} rounds, {tally:?} killed, {:?}", begun.elapsed());
    assert!(hits * 4 > done, "only {hits} kills in {done} rounds");
    home.rl("run --rm --network none busybox echo fine")
        .says("fine");
}

#[test]
fn twenty_commands_at_once_say_nothing_that_one_alone_would_not() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let names = ["alpha", "beta", "gamma"].map(|name| format!("{name}-{}", mark(&home)));
    let allowed = [
        "no container `",
        "no container or image `",
        "the container is named `",
        "was removed by another command",
        "is not running",
        "is running",
        "is taken by container",
        "is being taken by another command",
        // While `commit` takes it, as with docker.
        "is paused",
    ];
    for round in 0..rounds(3).min(200) {
        let mut waiting = Vec::new();
        let mut commands = Vec::new();
        for _ in 0..20 {
            std::thread::sleep(Duration::from_micros(random(700)));
            let name = &names[usize::try_from(random(3)).unwrap()];
            let other = &names[usize::try_from(random(3)).unwrap()];
            match random(19) {
                0..=2 => commands.push(start_of(&home, "run -d", "--network none", name)),
                3 => commands.push(home.rl("start").arg(name).spawn()),
                4 => commands.push(home.rl("stop -t 1").arg(name).spawn()),
                5 => commands.push(home.rl("kill").arg(name).spawn()),
                6 => commands.push(home.rl("rm").arg(name).spawn()),
                7 => commands.push(home.rl("rm -f").arg(name).spawn()),
                8 => commands.push(home.rl("restart -t 0").arg(name).spawn()),
                9 => commands.push(home.rl("ps -a").spawn()),
                10 => commands.push(home.rl("rename").args([name, other]).spawn()),
                11 => commands.push(home.rl("exec").arg(name).arg("true").spawn()),
                12 => commands.push(home.rl("inspect").arg(name).spawn()),
                13 => commands.push(home.rl("logs").arg(name).spawn()),
                14 => commands.push(home.rl("top").arg(name).spawn()),
                15 => commands.push(home.rl("diff").arg(name).spawn()),
                16 => commands.push(home.rl(&format!("cp {name}:/bin/sh -")).spawn()),
                17 => commands.push(home.rl("commit -q").args([name, "made"]).spawn()),
                _ => waiting.push(home.rl("wait").arg(name).spawn()),
            }
        }
        let mut outputs: Vec<Output> = commands
            .into_iter()
            .map(|command| sane(command, "twenty at once"))
            .collect();
        home.rl("rm -f -v").args(&names).ok();
        outputs.extend(waiting.into_iter().map(|command| sane(command, "waiting")));
        for output in outputs {
            let fine =
                output.stderr.is_empty() || allowed.iter().any(|text| output.stderr.contains(text));
            assert!(fine, "round {round}: {output:?}");
        }
        clean(&home, &format!("round {round} of twenty at once"));
    }
    home.rl("system check").says("nothing is wrong");
}

#[test]
fn a_damaged_record_is_named_and_can_be_removed_and_others_go_on() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let (bad, good) = (
        format!("bad-{}", mark(&home)),
        format!("good-{}", mark(&home)),
    );
    assert_eq!(
        sane(start_of(&home, "run -d", "--network none", &good), "")
            .status
            .code(),
        Some(0)
    );
    for file in ["state.json", "container.json"] {
        for damage in ["empty", "half", "zeros", "other", "newer", "missing"] {
            for runs in [false, true] {
                let case = format!("{file} {damage}, runs: {runs}");
                let made = sane(
                    start_of(
                        &home,
                        if runs { "run -d" } else { "create" },
                        "--network none",
                        &bad,
                    ),
                    &case,
                );
                let path = home.store().join("containers").join(made.text()).join(file);
                let process = runs.then(|| pid(&home, &bad).unwrap());
                let text = std::fs::read(&path).unwrap();
                match damage {
                    "empty" => std::fs::write(&path, "").unwrap(),
                    "half" => std::fs::write(&path, &text[..text.len() / 2]).unwrap(),
                    "zeros" => std::fs::write(&path, vec![0; text.len()]).unwrap(),
                    "other" => std::fs::write(&path, "[\"\u{1b}[31m\"]").unwrap(),
                    "newer" => {
                        let mut json: Value = serde_json::from_slice(&text).unwrap();
                        json["version"] = json!(9999);
                        std::fs::write(&path, json.to_string()).unwrap();
                    }
                    _ => std::fs::remove_file(&path).unwrap(),
                }
                let verb = if runs { "kill" } else { "start" };
                let refused = home.rl(verb).arg(&bad).run();
                assert_ne!(refused.status.code(), Some(0), "{case}");
                assert!(
                    refused.stderr.contains(file) && refused.stderr.contains("rm -f")
                        || damage == "newer" && refused.stderr.contains("newer"),
                    "{case}: {refused:?}"
                );
                assert!(!refused.stderr.contains('\u{1b}'), "{case}");
                assert_eq!(listed(&home, &good).as_deref(), Some("running"), "{case}");
                home.rl("rm -f").arg(&bad).says(&bad);
                if let Some(process) = process {
                    wait_for(&case, || kill(process, None).is_err().then_some(()));
                }
            }
        }
    }
    home.rl("rm -f").arg(&good).ok();
    clean(&home, "damage");
}

#[test]
fn after_a_reboot_nothing_runs_and_no_stranger_is_hit() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let name = mark(&home);
    for verb in ["stop", "start", "restart", "rm", "rm -f", "wait"] {
        sane(start_of(&home, "run -d", "--network none", &name), verb);
        let (process, watch) = (pid(&home, &name).unwrap(), monitor(&home, &name).unwrap());
        let mut before = state(&home, &name);
        kill(watch, Signal::SIGKILL).unwrap();
        wait_for("the container to end", || {
            kill(process, None).is_err().then_some(())
        });
        // Numbers are used again: now they mean somebody else.
        let mut stranger = home.program("sleep").arg("1000").spawn();
        for key in ["process", "owner"] {
            before[key]["pid"] = json!(stranger.pid().as_raw());
            before[key]["boot"] = json!("00000000-0000-0000-0000-000000000000");
        }
        let id = std::fs::read_link(home.store().join("names").join(&name)).unwrap();
        let path = home.store().join("containers").join(id).join("state.json");
        std::fs::write(path, before.to_string()).unwrap();
        assert_eq!(listed(&home, &name).as_deref(), Some("exited"));
        home.rl(verb).arg(&name).ok();
        assert!(!stranger.ended(), "{verb} hit a stranger");
        home.rl("rm -f").arg(&name).ok();
        assert!(!stranger.ended(), "rm -f hit a stranger");
        drop(stranger);
        clean(&home, verb);
    }
}

#[test]
fn on_a_full_disk_a_container_goes_on() {
    needs!(Need::Ours, Need::SmallDisk);
    let mut home = Home::new();
    let disk = PathBuf::from(std::env::var("RL_TEST_SMALL_DISK").unwrap());
    let store = disk.join(mark(&home));
    home.set("RL_ROOT", &store);
    home.load_busybox();
    // It works in memory of its own, so that only the log and our own files feel the disk.
    let script = "trap 'exit 7' TERM; yes 0123456789abcde | head -c 20000000; echo over >&2; \
                  while :; do sleep 0.05; done";
    let id = home
        .rl("run -d --network none --name c busybox sh -c")
        .arg(script)
        .ok();
    let filler = disk.join(format!("filler-{}", mark(&home)));
    fill(&filler);
    std::thread::sleep(Duration::from_secs(2));
    fill(&filler);
    assert_eq!(listed(&home, "c").as_deref(), Some("running"));
    let mut attached = home.rl("attach c").spawn();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!attached.ended(), "it answers");
    home.rl("stop c").ok();
    attached.wait().code(7);
    assert_eq!(listed(&home, "c").as_deref(), Some("exited"));
    home.rl("rm -f").arg(id.text()).ok();
    std::fs::remove_file(&filler).unwrap();
    home.rl("run --rm --network none busybox echo fine")
        .says("fine");
    let removed = home
        .program("unshare")
        .args(["--user", "--map-root-user", "rm", "-rf"])
        .arg(&store)
        .run();
    drop(removed);
}

/// Writes until there is no room.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    while file.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
}

#[test]
fn two_hundred_containers_live_side_by_side() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let home = &home;
            scope.spawn(move || {
                for number in 0..25 {
                    home.rl(&format!(
                        "run -d --network none --name c{worker}-{number} busybox sleep 1000"
                    ))
                    .ok();
                }
            });
        }
    });
    let started = begun.elapsed();
    assert_eq!(home.rl("ps -q").ok().lines().len(), 200);
    let listed = begun.elapsed() - started;
    let names = home.rl("ps --format {{.Names}}").ok();
    let half = names.lines().len() / 2;
    home.rl("stop -t 0").args(&names.lines()[..half]).ok();
    assert_eq!(home.rl("ps -q").ok().lines().len(), 100);
    assert_eq!(home.rl("ps -aq").ok().lines().len(), 200);
    let stopped = begun.elapsed() - started - listed;
    home.rl("rm -f").args(names.lines()).ok();
    let removed = begun.elapsed() - started - listed - stopped;
    eprintln!(
        "200 containers: started in {started:?}, listed in {listed:?}, 100 stopped in {stopped:?}, all removed in {removed:?}"
    );
    clean(&home, "two hundred");
}
