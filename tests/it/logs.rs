//! `rl logs` and `rl events`: what a container has said, and what happened to it.

use crate::support::Home;

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
