//! `rl logs` and `rl events`: what a container has said, and what happened to it.

use crate::support::Home;
use crate::support::host::Need;

#[test]
fn a_detached_containers_output_is_kept_and_its_streams_stay_apart() {
    let home = Home::with_busybox();
    home.rl("run -d --name talks busybox sh -c")
        .arg("echo out; echo err >&2; printf 'no end'")
        .ok();
    home.rl("wait talks").says("0");
    let output = home.rl("logs talks").ok();
    assert_eq!((&*output.stdout, &*output.stderr), ("out\nno end", "err\n"));
    let followed = home.rl("logs -f talks").ok();
    assert_eq!(followed.stdout, output.stdout);
    let time = home.rl("logs -t --tail 1 talks").ok().stdout;
    assert!(
        time.starts_with("20") && time.ends_with("Z no end"),
        "{time}"
    );
    home.rl("logs --tail 0 talks").says("");
    home.rl("logs --since 1h --until 1h talks").says("");
    home.rl("rm talks").ok();
}

#[test]
fn following_shows_every_line_of_a_container_that_floods_a_rotated_log() {
    let home = Home::with_busybox();
    let signs = home.dir("signs");
    home.rl("run -d --name flood --log-opt max-size=200k --log-opt max-file=2")
        .arg("-v")
        .arg(format!("{}:/signs", signs.display()))
        .args(["busybox", "sh", "-c"])
        .arg("echo 0; until [ -e /signs/go ]; do sleep 0.1; done; seq 1 50000; echo end")
        .ok();
    let mut follower = home.rl("logs -f flood").spawn();
    follower.wait_for_stdout("0");
    std::fs::write(signs.join("go"), "").unwrap();
    let output = follower.wait().code(0);
    let expected: Vec<String> = (0..=50_000)
        .map(|number| number.to_string())
        .chain(["end".to_owned()])
        .collect();
    let seen: Vec<&str> = output.stdout.lines().collect();
    let first = seen.first().and_then(|line| line.parse::<usize>().ok());
    assert_eq!(first, Some(0), "{}", output.stderr);
    assert!(seen == expected, "{} lines", seen.len());
    home.rl("rm -f flood").ok();
}

#[test]
fn a_container_without_a_log_says_so() {
    let home = Home::with_busybox();
    home.rl("run -d --name mute --log-driver none busybox true")
        .ok();
    home.rl("wait mute").ok();
    home.rl("logs mute").fails(125).stderr_has("keeps no log");
    home.rl("logs nobody")
        .fails(125)
        .stderr_has("no container `nobody`");
    home.rl("logs --tail some mute")
        .fails(125)
        .stderr_has("--tail");
    home.rl("logs --since yesterday mute")
        .fails(125)
        .stderr_has("--since");
}

#[test]
fn exec_rename_and_restart_are_events_as_dockers() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run -d --network none --name c busybox sleep 1000")
        .ok();
    home.rl("exec c sh -c").arg("exit 3").fails(3);
    home.rl("exec c /nowhere").fails(127);
    home.rl("rename c d").ok();
    home.rl("restart -t 0 d").ok();
    let events = home.rl("events --since 1h --until 0s --format json").ok();
    let events: Vec<serde_json::Value> = events
        .lines()
        .into_iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let actions: Vec<&str> = events
        .iter()
        .filter(|event| event["Type"] == "container")
        .map(|event| event["Action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "create",
            "start",
            "exec_create: sh -c exit 3",
            "exec_start: sh -c exit 3",
            "exec_die",
            "exec_create: /nowhere",
            "rename",
            "kill",
            "die",
            "stop",
            "start",
            "restart"
        ]
    );
    let attributes = |action: &str| {
        let event = events.iter().find(|event| event["Action"] == action);
        event.unwrap()["Actor"]["Attributes"].clone()
    };
    let died = attributes("exec_die");
    assert_eq!(died["exitCode"], "3");
    assert_eq!(
        died["execID"],
        attributes("exec_start: sh -c exit 3")["execID"]
    );
    let renamed = attributes("rename");
    assert_eq!(
        (&renamed["name"], &renamed["oldName"]),
        (&"d".into(), &"/c".into())
    );
    home.rl("events --since 1h --until 0s --filter event=exec_start --format {{.Action}}")
        .says("exec_start: sh -c exit 3");
    home.rl("rm -f d").ok();
}

/// `RL_TEST_LOG_MIB` is how much the container writes; 64 by default.
#[test]
fn a_container_that_writes_much_costs_little_memory_and_no_line_is_lost() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let mib: u64 = std::env::var("RL_TEST_LOG_MIB").map_or(64, |text| text.parse().unwrap());
    // Lines of 1 KiB.
    let lines = mib << 10;
    let print = format!("BEGIN {{ for (i = 1; i <= {lines}; i++) printf \"%01023d\\n\", i }}");
    let script = format!("awk '{print}'; touch /over; sleep 100000");
    home.rl("run -d --network none --name c --log-opt max-size=16m busybox sh -c")
        .arg(&script)
        .ok();
    let program = crate::life::pid(&home, "c").unwrap();
    let over = std::path::PathBuf::from(format!("/proc/{program}/root/over"));
    // Counts as fast as it comes: what is said is every line, in order, across all rotations.
    let count =
        "$RL logs -f c | awk '$0 + 0 != NR { print \"lost\", NR, $0; exit } END { print NR }'";
    let mut follower = home.sh(count).spawn();
    let begun = std::time::Instant::now();
    while !over.exists() {
        assert!(
            begun.elapsed() < std::time::Duration::from_secs(50 + mib),
            "{mib} MiB"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let monitor = crate::life::monitor(&home, "c").unwrap();
    let kib = crate::life::private(monitor);
    eprintln!(
        "{mib} MiB in {:?}: monitor {kib} KiB private",
        begun.elapsed()
    );
    assert!(kib < 768, "{kib} KiB of private memory");
    home.rl("kill c").ok();
    follower.wait_for_stdout(&format!("{lines}\n"));
    home.rl("rm c").ok();
}
