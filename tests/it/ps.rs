//! `rl ps`, `inspect`, `top`, `rename` and `container prune`: what is seen of containers.

use crate::support::{Home, Running, wait_for};

/// A container in somebody's foreground, up and running.
fn up(home: &Home, options: &str) -> Running {
    let line = format!("run {options} busybox sh -c");
    let mut running = home.rl(&line).arg("echo up; sleep 1000").spawn();
    running.wait_for_stdout("up");
    running
}

#[test]
fn a_running_container_is_listed_and_described() {
    let home = Home::with_busybox();
    home.rl("ps")
        .says("CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES");
    let running = up(
        &home,
        "--rm --name web --network none --label app=x --label tier=front",
    );
    let table = home.rl("ps").ok();
    table
        .stdout_has("busybox")
        .stdout_has("\"sh -c 'echo up; sle…\"");
    assert!(
        table.lines()[1].contains("Up ") && table.lines()[1].ends_with("web"),
        "{table:?}"
    );
    home.rl("ps --format")
        .arg("{{.Names}} {{.State}} {{.Label \"app\"}}")
        .says("web running x");
    home.rl("ps --filter label=app=x --filter status=running --format {{.Names}}")
        .says("web");
    home.rl("container ls -q --filter name=nope").says("");
    let id = home.rl("ps -q --no-trunc").ok().text().trim().to_owned();
    assert_eq!(id.len(), 64);
    let described = home.rl("inspect web").ok().json();
    assert_eq!(described[0]["Id"], id.as_str());
    assert_eq!(described[0]["State"]["Running"], true);
    assert_eq!(described[0]["Config"]["Labels"]["tier"], "front");
    let pid = home.rl("inspect -f {{.State.Pid}}").arg(&id[..12]).ok();
    assert!(
        std::path::Path::new("/proc")
            .join(pid.text().trim())
            .exists()
    );
    home.rl("inspect --type image web")
        .fails(125)
        .stderr_has("web");
    home.rl("inspect -f {{.Name}} web nobody")
        .fails(125)
        .stdout_is("/web");
    home.rl("inspect wbe")
        .fails(125)
        .stderr_has("did you mean `web`");
    running.signal(nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn top_shows_both_numbers_of_every_process() {
    let home = Home::with_busybox();
    let running = up(&home, "--rm --name web --network none");
    let table = home.rl("top web").ok();
    let lines = table.lines();
    let words: Vec<Vec<&str>> = lines
        .iter()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(words[0], ["USER", "PID", "HPID", "PPID", "TIME", "CMD"]);
    assert_eq!(
        (words[1][0], words[1][1], words[1][3]),
        ("root", "1", "0"),
        "{table:?}"
    );
    assert!(
        lines.iter().any(|line| line.ends_with("sleep 1000")),
        "{table:?}"
    );
    let pid = home.rl("inspect -f {{.State.Pid}} web").ok();
    assert_eq!(words[1][2], pid.text().trim());
    home.rl("top web --forest")
        .fails(125)
        .stderr_has("--forest");
    running.signal(nix::sys::signal::Signal::SIGKILL);
    wait_for("the end of web", || {
        home.rl("top web")
            .run()
            .stderr
            .contains("web")
            .then_some(())
    });
}

#[test]
fn a_container_gets_another_name_that_nobody_has() {
    let home = Home::with_busybox();
    let one = up(&home, "--rm --name one --network none");
    let two = up(&home, "--rm --name two --network none");
    home.rl("rename one two").fails(125).stderr_has("taken");
    home.rl("rename one one").fails(125).stderr_has("already");
    home.rl("rename one a/b").fails(125).stderr_has("a/b");
    home.rl("rename one three").says("");
    home.rl("inspect one").fails(125);
    home.rl("ps --format {{.Names}}").says("two\nthree");
    for running in [one, two] {
        running.signal(nix::sys::signal::Signal::SIGKILL);
    }
}

#[test]
fn a_damaged_container_is_named_and_the_others_are_listed() {
    let home = Home::with_busybox();
    let good = up(&home, "--rm --name good --network none");
    for (letter, file) in [("a", "state.json"), ("b", "container.json")] {
        let dir = home.store().join("containers").join(letter.repeat(64));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("lock"), "").unwrap();
        std::fs::write(dir.join(file), "{ torn").unwrap();
    }
    let listed = home.rl("ps -a --format {{.Names}}").ok();
    listed.stdout_is("good");
    listed
        .stderr_has("aaaaaaaaaaaa")
        .stderr_has("bbbbbbbbbbbb")
        .stderr_has("skipped");
    assert_eq!(listed.stderr.lines().count(), 2, "{listed:?}");
    good.signal(nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn prune_removes_what_does_not_run_and_nothing_else() {
    let home = Home::with_busybox();
    let running = up(&home, "--rm --name up --network none");
    home.rl("container prune").stdin("n\n").ok();
    let pruned = home.rl("container prune -f").ok();
    pruned.stdout_is("Total reclaimed space: 0B");
    home.rl("ps -a --format {{.Names}}").says("up");
    running.signal(nix::sys::signal::Signal::SIGKILL);
}
