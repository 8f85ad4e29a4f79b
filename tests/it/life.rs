//! Containers that live on: detached, stopped, started again, watched, removed.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::host::Need;
use crate::support::image::digest;
use crate::support::{Home, Output, wait_for};

/// What the store says of a container.
pub fn state(home: &Home, name: &str) -> Value {
    let id = std::fs::read_link(home.store().join("names").join(name)).unwrap();
    let path = home.store().join("containers").join(id).join("state.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn status(home: &Home, name: &str) -> String {
    state(home, name)["status"].as_str().unwrap().to_owned()
}

/// Pid 1 of a running container, as the host numbers it.
pub fn pid(home: &Home, name: &str) -> Option<Pid> {
    let pid = state(home, name)["process"]["pid"].as_i64()?;
    Some(Pid::from_raw(i32::try_from(pid).unwrap()))
}

pub fn monitor(home: &Home, name: &str) -> Option<Pid> {
    let pid = state(home, name)["owner"]["pid"].as_i64()?;
    Some(Pid::from_raw(i32::try_from(pid).unwrap()))
}

/// Starts `script` in the background under this name.
#[track_caller]
fn detached(home: &Home, name: &str, options: &str, script: &str) -> String {
    let output = home
        .rl(&format!(
            "run -d --network none --name {name} {options} busybox sh -c"
        ))
        .arg(script)
        .ok();
    output.text().to_owned()
}

/// How many there are, of any kind.
fn count(home: &Home, directory: &str) -> usize {
    std::fs::read_dir(home.store().join(directory))
        .into_iter()
        .flatten()
        .count()
}

#[track_caller]
fn refused(output: &Output, message: &str, hint: &str) {
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    output.stderr_has(message).stderr_has(hint);
}

/// A program that says what it is told to do and goes on; `TERM` ends it with 7.
const POLITE: &str = "trap 'echo got USR1' USR1; trap 'echo got HUP' HUP; trap 'exit 7' TERM; \
                      echo ready; while :; do sleep 0.05; done";
const STUBBORN: &str = "trap '' TERM; while :; do sleep 0.05; done";

#[test]
fn a_detached_container_outlives_the_command_that_prints_its_id() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let id = detached(&home, "c", "", POLITE);
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let process = pid(&home, "c").unwrap();
    kill(process, None).unwrap();
    assert_eq!(status(&home, "c"), "running");
    let monitor = monitor(&home, "c").unwrap();
    let title = std::fs::read_to_string(format!("/proc/{monitor}/cmdline")).unwrap();
    assert!(title.starts_with("rl:[monitor] c"), "{title:?}");
    home.rl("stop c").says("c");
    wait_for("both to end", || {
        (kill(process, None).is_err() && kill(monitor, None).is_err()).then_some(())
    });
    assert_eq!(status(&home, "c"), "exited");
    home.rl("rm").arg(&id).says(&id);
    assert_eq!((count(&home, "containers"), count(&home, "names")), (0, 0));
}

#[test]
fn stop_asks_first_and_kills_after_its_time() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let usr = "trap 'exit 8' USR1; trap 'exit 9' INT; while :; do sleep 0.05; done";
    for (options, script, stop, code, kills) in [
        ("", POLITE, "", 7, false),
        ("--stop-signal USR1", usr, "", 8, false),
        ("--stop-signal USR1", usr, "-s INT", 9, false),
        ("", STUBBORN, "-t 1", 137, true),
        ("--stop-timeout 1", STUBBORN, "", 137, true),
        ("", STUBBORN, "-t 0", 137, false),
        // The kernel spares a pid 1 without a handler; with --init it is pid 2.
        ("", "exec sleep 1000", "-t 1", 137, true),
        ("--init", "exec sleep 1000", "", 143, false),
        // What is ignored by pid 1 and by its children alike.
        ("--init", STUBBORN, "-t 1", 137, true),
    ] {
        detached(&home, "c", options, script);
        // The trap must be set before the signal comes.
        std::thread::sleep(Duration::from_millis(150));
        let begun = Instant::now();
        home.rl(&format!("stop {stop} c")).says("c");
        let took = begun.elapsed();
        let case = format!("{options} {stop}: {took:?}");
        home.rl("wait c").says(&code.to_string());
        assert_eq!(took >= Duration::from_secs(1), kills, "{case}");
        assert!(took < Duration::from_secs(5), "{case}");
        home.rl("stop c").says("c");
        home.rl("rm c").ok();
    }
}

#[test]
fn signals_are_known_by_name_and_number() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    detached(&home, "c", "", POLITE);
    let mut attached = home.rl("attach c").spawn();
    // An attached command shows what comes from now on.
    std::thread::sleep(Duration::from_millis(200));
    for (signal, said) in [
        ("USR1", "got USR1"),
        ("SIGHUP", "got HUP"),
        ("10", "got USR1"),
        ("hup", "got HUP"),
    ] {
        home.rl("kill -s").arg(signal).arg("c").says("c");
        attached.wait_for_stdout(said);
    }
    for signal in ["NOPE", "0", "65", "SIG"] {
        refused(
            &home.rl("kill -s").arg(signal).arg("c").run(),
            "is not a signal",
            "SIGINT",
        );
    }
    home.rl("kill c").says("c");
    attached.wait().code(137);
    home.rl("wait c").says("137");
    refused(
        &home.rl("kill c").run(),
        "container `c` is not running",
        "rl start c",
    );
}

#[test]
fn a_stopped_container_starts_with_what_it_wrote() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let script =
        "echo run >>/kept; cat /kept | wc -l; trap 'exit 0' TERM; while :; do sleep 0.05; done";
    detached(&home, "c", "", script);
    let first = pid(&home, "c").unwrap();
    home.rl("start c").says("c");
    assert_eq!(
        pid(&home, "c").unwrap(),
        first,
        "start of a running one is no error, and changes nothing"
    );
    std::thread::sleep(Duration::from_millis(150));
    home.rl("stop c").ok();
    let mut second = home.rl("start -a c").spawn();
    second.wait_for_stdout("2");
    home.rl("restart c").says("c");
    second.wait().code(0);
    let third = pid(&home, "c").unwrap();
    assert_ne!(third, first);
    std::thread::sleep(Duration::from_millis(150));
    home.rl("stop c").ok();
    home.rl("restart c").says("c");
    std::thread::sleep(Duration::from_millis(150));
    home.rl("stop c").ok();
    let mut fifth = home.rl("start -a c").spawn();
    fifth.wait_for_stdout("5");
    home.rl("rm -f c").says("c");
    fifth.wait().code(137);
}

#[test]
fn a_running_container_is_only_removed_by_force() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    detached(&home, "c", "", POLITE);
    refused(
        &home.rl("rm c").run(),
        "container `c` is running",
        "rl rm -f c",
    );
    let process = pid(&home, "c").unwrap();
    home.rl("rm -f c").says("c");
    assert!(kill(process, None).is_err());
    home.rl("rm -f c").says("");
    refused(&home.rl("rm c").run(), "no container `c`", "rl ps -a");
    assert_eq!(
        (
            count(&home, "containers"),
            count(&home, "names"),
            count(&home, "tmp")
        ),
        (0, 0, 0)
    );
}

#[test]
fn anonymous_volumes_go_with_rm_v_and_with_run_rm() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    for (options, remove, left) in [
        ("-v /data", Some("rm -f c"), 1),
        ("-v /data", Some("rm -f -v c"), 0),
        ("-v /data -v kept:/kept", Some("rm -f -v c"), 1),
        ("-v /data --rm", Some("stop -t 0 c"), 0),
        ("-v /data -v kept:/kept --rm", Some("kill c"), 1),
    ] {
        detached(&home, "c", options, "echo x >/data/file; exec sleep 1000");
        home.rl(remove.unwrap_or_default()).ok();
        wait_for("the container to go", || {
            (count(&home, "containers") == 0).then_some(())
        });
        assert_eq!(count(&home, "volumes"), left, "{options} {remove:?}");
        for entry in std::fs::read_dir(home.store().join("volumes"))
            .into_iter()
            .flatten()
        {
            std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
    }
    home.rl("run --rm --network none -v /data -v kept:/kept busybox touch /data/file /kept/file")
        .ok();
    assert_eq!(count(&home, "volumes"), 1);
    assert!(home.store().join("volumes/kept").exists());
}

#[test]
fn names_are_unique_and_ids_may_be_cut() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let create = |name: &str| {
        home.rl("create --network none --name")
            .arg(name)
            .arg("busybox")
            .run()
    };
    let id = create("database").code(0).text().to_owned();
    refused(
        &create("database"),
        "the name `database` is taken",
        &id[..12],
    );
    assert_eq!(
        count(&home, "containers"),
        1,
        "what was refused leaves nothing"
    );
    refused(
        &home.rl("start databse").run(),
        "no container `databse`",
        "did you mean `database`?",
    );
    refused(
        &home.rl("start zzzzzzz").run(),
        "no container `zzzzzzz`",
        "rl ps -a",
    );
    home.rl("rm").arg(&id[..6]).says(&id[..6]);
    create("database").code(0);
    // Seventeen ids begin with at most sixteen digits: two of them begin alike.
    let ids: Vec<String> = (0..17)
        .map(|n| create(&format!("c{n}")).code(0).text().to_owned())
        .collect();
    let shared = ids
        .iter()
        .find(|id| ids.iter().filter(|other| other[..1] == id[..1]).count() > 1)
        .unwrap();
    refused(
        &home.rl("start").arg(&shared[..1]).run(),
        "containers have ids that begin with",
        "more digits",
    );
    for id in &ids {
        home.rl("rm").arg(id).says(id);
    }
    home.rl("rm database").ok();
    assert_eq!((count(&home, "containers"), count(&home, "names")), (0, 0));
}

#[test]
fn wait_prints_the_code_to_everyone_who_asks() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    for options in ["", "--rm"] {
        detached(
            &home,
            "c",
            options,
            "while ! [ -e /go ]; do sleep 0.05; done; exit 42",
        );
        let waiting: Vec<_> = (0..5).map(|_| home.rl("wait c").spawn()).collect();
        std::thread::sleep(Duration::from_millis(300));
        let process = pid(&home, "c").unwrap();
        // From outside: exec comes later, and /proc needs no id of the container.
        home.rl("kill -s WINCH c").ok();
        let go = format!("/proc/{process}/root/go");
        let made = home
            .sh("nsenter -U --preserve-credentials -t $0 touch $1 2>&1")
            .arg(process.to_string())
            .arg(&go)
            .run();
        if made.status.code() != Some(0) {
            std::fs::write(&go, "").unwrap_or_else(|error| panic!("{error} {made:?}"));
        }
        for waiter in waiting {
            waiter.wait().code(0).stdout_is("42");
        }
        if options.is_empty() {
            home.rl("wait c c").says("42\n42");
            home.rl("rm c").ok();
        }
    }
    refused(
        &home.rl("wait nobody").run(),
        "no container `nobody`",
        "rl ps -a",
    );
}

#[test]
fn what_fails_is_started_again_as_often_as_asked() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let begun = Instant::now();
    detached(
        &home,
        "f",
        "--restart on-failure:4",
        "echo x >>/runs; exit 3",
    );
    home.rl("wait f").says("3");
    // 0.1 + 0.2 + 0.4 + 0.8 s: the pauses grow.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1500), "{took:?}");
    let state = state(&home, "f");
    assert_eq!(
        (&state["restarts"], &state["status"]),
        (&4.into(), &"exited".into())
    );
    home.rl("run --network none --name g --restart on-failure:4 busybox true")
        .ok();
    assert_eq!(self::state(&home, "g")["restarts"], 0);
}

#[test]
fn a_restart_leaves_nothing_open_in_the_monitor() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let open = |name: &str| {
        let directory = format!("/proc/{}/fd", monitor(&home, name).unwrap());
        let mut targets: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap())
            .map(|target| target.display().to_string())
            // Numbers of pipes and sockets, and what is the container's own.
            .map(|target| {
                target
                    .split(['[', '/'])
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect();
        targets.sort();
        targets
    };
    let script = "echo x >>/runs; [ $(wc -l </runs) -gt 3 ] || exit 1; echo up; sleep 1000";
    for name in ["fresh", "again"] {
        let script = script.replace("-gt 3", if name == "fresh" { "-gt 0" } else { "-gt 3" });
        detached(&home, name, "--restart on-failure:4", &script);
        wait_for("the last run", || {
            let logs = home.rl(&format!("logs {name}")).ok();
            logs.stdout.contains("up").then_some(())
        });
    }
    assert_eq!(state(&home, "again")["restarts"], 3);
    assert_eq!(open("again"), open("fresh"));
    home.rl("rm -f fresh again").ok();
}

#[test]
fn always_comes_back_until_it_is_stopped() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    for policy in ["always", "unless-stopped"] {
        detached(&home, "c", &format!("--restart {policy}"), POLITE);
        let mut last = pid(&home, "c").unwrap();
        for _ in 0..3 {
            kill(last, Signal::SIGKILL).unwrap();
            last = wait_for("its restart", || pid(&home, "c").filter(|now| *now != last));
        }
        home.rl("stop -t 0 c").ok();
        assert_eq!(status(&home, "c"), "exited");
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(status(&home, "c"), "exited", "{policy}: stopped is stopped");
        assert!(kill(last, None).is_err());
        home.rl("start c").ok();
        home.rl("kill c").ok();
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(status(&home, "c"), "exited", "{policy}: killed is stopped");
        home.rl("rm c").ok();
        // While it waits for its next start.
        detached(&home, "c", &format!("--restart {policy}"), "exit 1");
        std::thread::sleep(Duration::from_millis(1200));
        home.rl("stop c").ok();
        assert_eq!(status(&home, "c"), "exited");
        home.rl("rm c").ok();
        detached(&home, "c", &format!("--restart {policy}"), "exit 1");
        std::thread::sleep(Duration::from_millis(700));
        home.rl("rm -f c").says("c");
    }
    assert_eq!(count(&home, "containers"), 0);
}

#[test]
fn a_detached_rm_container_leaves_nothing() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    detached(&home, "c", "--rm", "echo x >/file");
    wait_for("it to go", || {
        (count(&home, "containers") == 0).then_some(())
    });
    wait_for("its name to go", || {
        (count(&home, "names") + count(&home, "tmp") == 0).then_some(())
    });
    let sockets = home.path().join("run/rl");
    wait_for("its socket to go", || {
        let all = std::fs::read_dir(&sockets).into_iter().flatten().flatten();
        // What the id helpers can do is kept until the next boot.
        (all.filter(|entry| entry.file_name() != "ids").count() == 0).then_some(())
    });
    detached(&home, "c", "--rm", POLITE);
    home.rl("stop -t 0 c").says("c");
    assert_eq!(
        count(&home, "containers"),
        0,
        "stop returns when it is gone"
    );
}

#[test]
fn a_timeout_ends_it() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let begun = Instant::now();
    detached(&home, "c", "--timeout 1", STUBBORN);
    home.rl("wait c").says("137");
    let took = begun.elapsed();
    assert!(
        took > Duration::from_millis(900) && took < Duration::from_secs(5),
        "{took:?}"
    );
}

#[test]
fn everyone_who_attaches_sees_the_same_and_gets_the_exit_code() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let script = "trap 'seq 1 20000; echo oops >&2; exit 11' USR1; while :; do sleep 0.05; done";
    detached(&home, "c", "", script);
    let clients: Vec<_> = (0..2)
        .map(|_| home.rl("attach --sig-proxy=false c").spawn())
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    home.rl("kill -s USR1 c").ok();
    let said: Vec<Output> = clients
        .into_iter()
        .map(|client| client.wait().code(11))
        .collect();
    let expected: String = (1..=20000).map(|n| format!("{n}\n")).collect();
    for output in &said {
        assert_eq!(output.stdout, expected);
        assert_eq!(output.stderr, "oops\n");
    }
    refused(
        &home.rl("attach c").run(),
        "container `c` is not running",
        "rl start -a c",
    );
}

#[test]
fn the_detach_keys_leave_it_running_and_its_terminal_follows_ours() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let mut first = home
        .rl("run -it --network none --name c busybox sh")
        .in_terminal();
    first.type_in("stty size; echo is $((40+2))\r");
    first.wait_for("is 42");
    assert!(first.screen().contains("24 80"), "{}", first.screen());
    first.resize(33, 99);
    std::thread::sleep(Duration::from_millis(200));
    first.type_in("stty size\r");
    first.wait_for("33 99");
    first.type_in("\x10\x11");
    assert!(first.wait().success());
    assert!(!first.is_raw());
    assert_eq!(status(&home, "c"), "running");
    let mut second = home.rl("attach --detach-keys ctrl-x,z c").in_terminal();
    std::thread::sleep(Duration::from_millis(300));
    second.type_in("echo again $((40+3)); stty size\r");
    second.wait_for("again 43");
    second.wait_for("24 80");
    second.type_in("\x18z");
    assert!(second.wait().success());
    let mut third = home.rl("attach c").in_terminal();
    std::thread::sleep(Duration::from_millis(300));
    third.type_in("exit 9\r");
    assert_eq!(third.wait().code(), Some(9));
    assert_eq!(status(&home, "c"), "exited");
}

#[test]
fn twenty_megabytes_of_input_and_fifty_of_output_arrive_whole() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let bytes: Vec<u8> = (0..20_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
        .collect();
    let expected = digest(&bytes).replace("sha256:", "");
    let output = home
        .rl("run -i --network none busybox sha256sum")
        .stdin(bytes)
        .ok();
    output.stdout_has(&expected);
    let output = home
        .rl("run --network none --log-driver none busybox sh -c")
        .arg("yes 0123456789abcde | head -c 50000000; exit 3")
        .fails(3);
    assert_eq!(output.stdout.len(), 50_000_000);
    assert!(
        output
            .stdout
            .as_bytes()
            .chunks(16)
            .all(|line| line == b"0123456789abcde\n")
    );
}

#[test]
fn what_was_created_can_be_started_and_watched() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let id = home
        .rl("create -i --network none --name c busybox sh -c")
        .arg("echo out; echo err >&2; read line; echo got $line; exit 5")
        .ok();
    assert_eq!(status(&home, "c"), "created");
    home.rl("wait c").says("0");
    home.rl("stop c").says("c");
    assert_eq!(status(&home, "c"), "created");
    let output = home
        .rl("start -ai")
        .arg(id.text())
        .stdin("hello\n")
        .fails(5);
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\ngot hello\n", "err\n")
    );
    refused(
        &home.rl("start -a c d").run(),
        "one container",
        "without them",
    );
}

#[test]
fn a_container_that_cannot_start_says_why_and_leaves_nothing() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run -d --network none --name c busybox no-such-program")
        .fails(127)
        .stderr_has("no-such-program");
    assert_eq!((count(&home, "containers"), count(&home, "names")), (0, 0));
    home.rl("create --network none --name c busybox no-such-program")
        .ok();
    home.rl("start c").fails(127).stderr_has("no-such-program");
    assert_eq!(status(&home, "c"), "created");
    home.rl("rm c").ok();
}

/// The private memory of a process in KiB, but for the pages of the program's own file: those are what the loader wrote addresses
/// into, four times as many in the debug build under test as in a release build.
pub fn private(process: Pid) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{process}/smaps")).unwrap();
    let (mut is_program, mut kib) = (false, 0);
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [range, _, _, _, inode, ..] if range.contains('-') => is_program = inode != "0",
            ["Anonymous:", count, "kB"] if !is_program => kib += count.parse::<u64>().unwrap(),
            _ => {}
        }
    }
    kib
}

#[test]
fn the_monitor_stays_small_under_a_hundred_megabytes_of_output() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let script = "yes 0123456789abcde | head -c 100000000; echo done >/done; \
                  trap 'exit 0' TERM; while :; do sleep 0.05; done";
    detached(&home, "c", "--log-opt max-size=1m", script);
    let monitor = monitor(&home, "c").unwrap();
    let done = format!("/proc/{}/root/done", pid(&home, "c").unwrap());
    let seen = std::path::PathBuf::from(done);
    let deadline = Instant::now() + Duration::from_secs(50);
    while !seen.exists() {
        assert!(Instant::now() < deadline, "100 MB in 50 s");
        std::thread::sleep(Duration::from_millis(50));
    }
    let kib = private(monitor);
    eprintln!("private memory of the monitor: {kib} KiB");
    assert!(kib < 768, "{kib} KiB of private memory");
    home.rl("rm -f c").ok();
}

#[test]
fn a_monitor_that_is_told_to_end_stops_its_container_and_kills_it_in_the_end() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    detached(&home, "c", "--restart always", POLITE);
    wait_for("the program", || {
        home.rl("logs c")
            .ok()
            .stdout
            .contains("ready")
            .then_some(())
    });
    kill(monitor(&home, "c").unwrap(), Signal::SIGTERM).unwrap();
    home.rl("wait c").says("7");
    detached(&home, "d", "--restart always --stop-timeout 1", STUBBORN);
    kill(monitor(&home, "d").unwrap(), Signal::SIGTERM).unwrap();
    home.rl("wait d").says("137");
    // The user has not stopped it: after a reboot it comes again.
    assert_eq!(state(&home, "d")["stopped"], false);
    home.rl("rm c d").ok();
}

#[test]
fn who_waits_for_a_container_in_the_foreground_gets_its_code() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let mut front = home
        .rl("run --rm --network none --name c busybox sh -c")
        .arg("echo up; trap 'exit 9' TERM; while :; do sleep 0.05; done")
        .spawn();
    front.wait_for_stdout("up");
    let id = std::fs::read_link(home.store().join("names/c")).unwrap();
    let waits: Vec<_> = (0..3).map(|_| home.rl("wait c").spawn()).collect();
    wait_for("somebody to wait", || {
        let will = home.store().join("containers").join(&id).join("exit");
        will.exists().then_some(())
    });
    home.rl("kill -s TERM c").ok();
    front.wait().code(9);
    // The first is there; the others have waited, too, or came too late for a container that is gone.
    let outputs: Vec<Output> = waits
        .into_iter()
        .map(super::support::Running::wait)
        .collect();
    assert!(
        outputs.iter().any(|output| output.stdout == "9\n"),
        "{outputs:?}"
    );
    for output in outputs {
        assert!(
            output.stdout == "9\n" || output.stderr.contains("no container"),
            "{output:?}"
        );
    }
}
