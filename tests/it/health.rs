//! Health checks: what they find, what is said of it, and what is left of them.

use std::time::{Duration, Instant};

use nix::sys::signal::kill;
use serde_json::{Value, json};

use crate::life::{monitor, pid};
use crate::support::host::Need;
use crate::support::image::Image;
use crate::support::{Home, wait_for};

fn health(home: &Home, name: &str) -> Value {
    let output = home
        .rl("inspect -f")
        .arg("{{json .State.Health}}")
        .arg(name);
    output.ok().json()
}

/// Waits until the container is said to be so.
#[track_caller]
fn becomes(home: &Home, name: &str, status: &str) -> Value {
    wait_for(status, || {
        let health = health(home, name);
        (health["Status"] == status).then_some(health)
    })
}

/// Starts a container in the background that has this check.
fn start(home: &Home, name: &str, check: &str, options: &str) {
    home.rl(&format!(
        "run -d --network none --name {name} {options} --health-cmd"
    ))
    .arg(check)
    .args([
        "busybox",
        "sh",
        "-c",
        "trap 'exit 0' TERM; while :; do sleep 0.05; done",
    ])
    .ok();
}

fn actions(home: &Home) -> Vec<String> {
    let output = home
        .rl("events --since 1h --until 0s --format {{.Action}}")
        .ok();
    output.lines().into_iter().map(str::to_owned).collect()
}

#[test]
fn a_container_is_starting_then_healthy_then_unhealthy_then_healthy_again() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let check = "test -e /ok && echo fine || { echo broken >&2; exit 3; }";
    start(
        &home,
        "c",
        check,
        "--health-interval 50ms --health-retries 3 --health-start-period 1h --health-start-interval 50ms",
    );
    // Failures in the start period do not count.
    let log = wait_for("a failed check", || {
        let health = health(&home, "c");
        (health["Log"].as_array().unwrap().len() == 5).then_some(health)
    });
    assert_eq!(
        (&log["Status"], &log["FailingStreak"]),
        (&json!("starting"), &json!(0))
    );
    assert_eq!(
        (&log["Log"][0]["ExitCode"], &log["Log"][0]["Output"]),
        (&json!(3), &json!("broken\n"))
    );
    home.rl("ps").ok().stdout_has("(health: starting)");
    home.rl("exec c touch /ok").ok();
    let well = becomes(&home, "c", "healthy");
    assert_eq!(well["FailingStreak"], 0);
    home.rl("ps --filter health=healthy")
        .ok()
        .stdout_has("(healthy)");
    home.rl("exec c rm /ok").ok();
    let ill = becomes(&home, "c", "unhealthy");
    assert!(ill["FailingStreak"].as_u64().unwrap() >= 3, "{ill}");
    let log = ill["Log"].as_array().unwrap();
    assert!(
        log.len() == 5
            && log
                .iter()
                .all(|one| one["Start"].is_string() && one["End"].is_string())
    );
    home.rl("exec c touch /ok").ok();
    becomes(&home, "c", "healthy");
    let changes: Vec<String> = actions(&home)
        .into_iter()
        .filter(|action| action.starts_with("health"))
        .collect();
    assert_eq!(
        changes,
        [
            "health_status: healthy",
            "health_status: unhealthy",
            "health_status: healthy"
        ]
    );
    home.rl("rm -f c").ok();
}

#[test]
fn a_check_that_takes_too_long_is_killed_with_all_that_it_started() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    // One in its session, one in another, and one whose parent has gone.
    let check = "sleep 7771 & setsid sleep 7772 & (sleep 7773 &); echo begun; sleep 7774";
    start(
        &home,
        "c",
        check,
        "--init --health-interval 10ms --health-timeout 300ms --health-retries 1",
    );
    let health = becomes(&home, "c", "unhealthy");
    let last = &health["Log"][0];
    assert_eq!(last["ExitCode"], -1);
    assert_eq!(
        last["Output"],
        "Health check exceeded timeout (300ms): begun\n"
    );
    // Whatever is left of the one before when the next has begun would pile up.
    wait_for("more checks", || {
        (self::health(&home, "c")["FailingStreak"].as_u64() >= Some(3)).then_some(())
    });
    let top = home.rl("top c -o args").ok();
    for number in 7771..=7774 {
        // The shell has all of them in its own words.
        let process = format!("sleep {number}");
        let count = top.stdout.lines().filter(|line| *line == process).count();
        assert!(count <= 1, "{}", top.stdout);
    }
    home.rl("stop -t 0 c").ok();
    let left = home.program("pgrep").args(["-f", "sleep 777[1-4]"]).run();
    assert_eq!(left.stdout, "");
    home.rl("rm c").ok();
}

#[test]
fn the_images_check_is_inherited_changed_and_turned_off() {
    needs!(Need::Ours);
    let home = Home::new();
    let image = Image::busybox().config(json!({
        "Env": ["PATH=/bin"], "Cmd": ["sleep", "1000"],
        "Healthcheck": {"Test": ["CMD", "test", "-e", "/ok"], "Interval": 50_000_000, "Retries": 1},
    }));
    home.load(&image, "checked");
    home.rl("run -d --network none --name c checked").ok();
    becomes(&home, "c", "unhealthy");
    home.rl("exec c touch /ok").ok();
    becomes(&home, "c", "healthy");
    home.rl("run -d --network none --name d --health-retries 1000 checked")
        .ok();
    let test = home
        .rl("inspect -f")
        .arg("{{json .Config.Healthcheck}}")
        .arg("d")
        .ok()
        .json();
    assert_eq!(
        (&test["Test"], &test["Retries"]),
        (&json!(["CMD", "test", "-e", "/ok"]), &json!(1000))
    );
    for flag in ["--no-healthcheck", "--health-cmd none"] {
        home.rl(&format!("run -d --network none --name e {flag} checked"))
            .ok();
        assert!(
            home.rl("inspect e").ok().json()[0]["State"]
                .get("Health")
                .is_none()
        );
        home.rl("healthcheck run e")
            .fails(125)
            .stderr_has("has no health check")
            .stderr_has("--health-cmd");
        home.rl("rm -f e").ok();
    }
    home.rl("rm -f c d").ok();
}

#[test]
fn checks_stop_with_the_container_and_begin_again_with_it() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    start(&home, "c", "echo once >>/count", "--health-interval 50ms");
    becomes(&home, "c", "healthy");
    home.rl("stop c").ok();
    let before = health(&home, "c");
    home.rl("healthcheck run c")
        .fails(125)
        .stderr_has("is not running");
    // Nobody is left who could check.
    assert_eq!(checkers(&home, "c"), 0);
    assert_eq!(health(&home, "c"), before);
    home.rl("restart c").ok();
    becomes(&home, "c", "healthy");
    let word = actions(&home)
        .into_iter()
        .filter(|action| action == "health_status: healthy")
        .count();
    assert_eq!(word, 2, "it was starting in between");
    home.rl("rm -f c").ok();
}

#[test]
fn one_check_can_be_asked_for() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    start(
        &home,
        "c",
        "test -e /ok",
        "--health-interval disable --health-retries 1",
    );
    home.rl("healthcheck run c")
        .fails(1)
        .stdout_is("unhealthy\n");
    assert_eq!(health(&home, "c")["Log"].as_array().unwrap().len(), 1);
    home.rl("exec c touch /ok").ok();
    home.rl("healthcheck run c").says("");
    assert_eq!(health(&home, "c")["Status"], "healthy");
    home.rl("rm -f c").ok();
}

#[test]
fn a_container_in_the_foreground_is_checked_too() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let script = "echo ready; while ! test -e /end; do sleep 0.05; done; exit 4";
    let mut front = home
        .rl("run --rm --network none --name c --health-interval 50ms --health-cmd true busybox sh -c")
        .arg(script)
        .spawn();
    front.wait_for_stdout("ready");
    becomes(&home, "c", "healthy");
    home.rl("healthcheck run c").ok().stderr_has("not noted");
    // Who waits for it learns how it ended, although it is removed then.
    let waiting = home.rl("wait c").spawn();
    wait_for("the waiting", || {
        let id = std::fs::read_link(home.store().join("names/c")).ok()?;
        home.store()
            .join("containers")
            .join(id)
            .join("exit")
            .exists()
            .then_some(())
    });
    home.rl("exec c touch /end").ok();
    front.wait().code(4);
    waiting.wait().code(0).stdout_is("4\n");
    assert_eq!(checkers(&home, "c"), 0);
}

/// How many processes check the health of this home's container.
fn checkers(home: &Home, name: &str) -> usize {
    let words = format!("rl:[health] {name}\0__health\0{}", home.store().display());
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| {
        std::fs::read_to_string(entry.path().join("cmdline"))
            .is_ok_and(|text| text.starts_with(&words))
    })
    .count()
}

#[test]
fn what_makes_no_sense_is_refused() {
    let home = Home::with_busybox();
    for (flags, says) in [
        ("--health-interval 1x --health-cmd true", "`1x`"),
        ("--health-timeout 1us --health-cmd true", "1ms"),
        ("--health-retries -1 --health-cmd true", "-1"),
        ("--no-healthcheck --health-cmd true", "exclude"),
        ("--health-interval 1s", "--health-cmd"),
        ("--health-cmd []", "names no program"),
    ] {
        needs!(Need::Ours);
        home.rl(&format!("create {flags} busybox true"))
            .fails(125)
            .stderr_has(says);
    }
}

#[test]
fn a_check_that_cannot_start_or_says_much_is_a_result() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    start(
        &home,
        "c",
        r#"["CMD", "/nowhere"]"#,
        "--health-interval 20ms --health-retries 1",
    );
    let log = becomes(&home, "c", "unhealthy");
    assert_eq!(log["Log"][0]["ExitCode"], 127);
    assert!(
        log["Log"][0]["Output"]
            .as_str()
            .unwrap()
            .contains("/nowhere"),
        "{log}"
    );
    start(
        &home,
        "d",
        "yes | head -c 300000; yes | head -c 300000 >&2",
        "--health-interval 20ms",
    );
    let log = becomes(&home, "d", "healthy");
    assert_eq!(log["Log"][0]["Output"].as_str().unwrap().len(), 4096 + 3);
    home.rl("rm -f c d").ok();
}

#[test]
fn the_monitor_stays_small_over_many_checks() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    start(
        &home,
        "c",
        "echo n >>/count; yes | head -c 5000",
        "--health-interval 1ms",
    );
    let count = format!("/proc/{}/root/count", pid(&home, "c").unwrap());
    let deadline = Instant::now() + Duration::from_secs(40);
    while std::fs::read(&count).map_or(0, |text| text.len()) < 2 * 100 {
        assert!(Instant::now() < deadline, "100 checks in 40 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    let monitor = monitor(&home, "c").unwrap();
    kill(monitor, None).unwrap();
    let kib = crate::life::private(monitor);
    eprintln!("private memory of the monitor: {kib} KiB");
    assert!(kib < 768, "{kib} KiB of private memory");
    home.rl("rm -f c").ok();
}
