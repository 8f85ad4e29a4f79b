//! Control groups: where a container's stands, what is written into it, pausing, changing, and what is refused.
//!
//! Here the tree has no controllers but hugetlb: what needs none is tested here, the limits themselves in the
//! virtual machine.

use std::path::{Path, PathBuf};

use crate::life::state;
use crate::support::host::Need;
use crate::support::{Home, wait_for};

/// The container's own group, as it is written down.
pub fn group(home: &Home, name: &str) -> PathBuf {
    let path = state(home, name)["cgroup"].clone();
    PathBuf::from(path.as_str().unwrap_or_else(|| panic!("no group: {path}")))
}

fn read(group: &Path, file: &str) -> String {
    let text = std::fs::read_to_string(group.join(file)).unwrap();
    text.trim().to_owned()
}

/// A container that counts in a file, ten times a second.
fn counting(home: &Home, name: &str, options: &str) -> PathBuf {
    let dir = home.dir("counted");
    home.rl(&format!(
        "run -d --name {name} --network none {options} -v {}:/c busybox sh -c",
        dir.display()
    ))
    .arg("trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i >/c/now; sleep 0.1; done")
    .ok();
    let file = dir.join("now");
    wait_for("the first count", || file.exists().then_some(()));
    file
}

#[test]
fn a_container_has_a_group_and_sees_nothing_above_it() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run -d --name web --network none busybox sleep 1000")
        .ok();
    let group = group(&home, "web");
    let id = home.rl("ps -q --no-trunc").ok().text().trim().to_owned();
    assert!(group.ends_with(format!("rl-{id}")), "{}", group.display());
    home.rl("exec web sh -c")
        .arg("grep ^0:: /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.type; mkdir /sys/fs/cgroup/x")
        .run()
        .stdout_is("0::/\ndomain")
        .stderr_has("Read-only");
    // Pid 1, and the program of an exec as long as it runs; never the monitor.
    let mut exec = home.rl("exec web sh -c").arg("echo up; sleep 1000").spawn();
    exec.wait_for_stdout("up");
    let inside = read(&group, "cgroup.procs").lines().count();
    assert!(inside >= 2, "{inside}");
    let owner = state(&home, "web")["owner"]["pid"].to_string();
    assert!(!read(&group, "cgroup.procs").lines().any(|pid| pid == owner));
    home.rl("rm -f web").ok();
    assert!(!group.exists(), "{}", group.display());
}

#[test]
fn groups_go_with_their_containers_in_every_way() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let path = "run --rm --name one --network none busybox sleep 1000";
    let running = home.rl(path).spawn();
    let first = wait_for("the state of the first", || {
        let state = home.rl("ps -q").run();
        (!state.text().trim().is_empty()).then(|| group(&home, "one"))
    });
    running.signal(nix::sys::signal::Signal::SIGKILL);
    running.wait();
    // The next command sweeps what was left.
    home.rl("run --rm --network none busybox true").ok();
    assert!(!first.exists());
    home.rl("run -d --name two --network none busybox sleep 1000")
        .ok();
    let second = group(&home, "two");
    let owner = state(&home, "two")["owner"]["pid"].as_i64().unwrap();
    let owner = nix::unistd::Pid::from_raw(i32::try_from(owner).unwrap());
    nix::sys::signal::kill(owner, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_for("the end of the second", || {
        home.rl("ps -q").ok().text().trim().is_empty().then_some(())
    });
    home.rl("start two").ok();
    assert_eq!(group(&home, "two"), second);
    home.rl("stop -t 0 two").ok();
    assert!(!second.exists());
}

#[test]
fn who_tidies_up_takes_empty_groups_along() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run -d --name web --network none busybox sleep 1000")
        .ok();
    let lives = group(&home, "web");
    for (digit, command) in [
        ("a", "system check --quick --repair"),
        ("b", "system prune --force"),
    ] {
        // As of a container whose command and store are gone.
        let left = lives.with_file_name(format!("rl-{}", digit.repeat(64)));
        std::fs::create_dir(&left).unwrap();
        wait_for(command, || {
            home.rl(command).ok();
            (!left.exists()).then_some(())
        });
    }
    assert!(lives.exists());
    home.rl("rm -f web").ok();
}

#[test]
fn a_paused_container_stands_still_and_goes_on() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let file = counting(&home, "web", "");
    home.rl("pause web").says("web");
    let before = std::fs::read_to_string(&file).unwrap();
    home.rl("ps --format")
        .arg("{{.State}} {{.Status}}")
        .ok()
        .stdout_has("paused Up ")
        .stdout_has("(Paused)");
    home.rl("ps -q --filter status=running").says("");
    home.rl("inspect -f")
        .arg("{{.State.Status}} {{.State.Paused}} {{.State.Running}}")
        .arg("web")
        .says("paused true true");
    home.rl("exec web true")
        .fails(125)
        .stderr_has("rl unpause web");
    home.rl("pause web").fails(125).stderr_has("paused already");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    home.rl("container unpause web").says("web");
    home.rl("unpause web").fails(125).stderr_has("not paused");
    wait_for("the next count", || {
        (std::fs::read_to_string(&file).unwrap() != before).then_some(())
    });
    // The signal is acted on, not only sent.
    home.rl("pause web").ok();
    home.rl("stop -t 60 web").ok();
    home.rl("inspect -f {{.State.ExitCode}} web").says("7");
    home.rl("pause web").fails(125).stderr_has("not running");
    home.rl("start web").ok();
    home.rl("pause web").ok();
    home.rl("kill web").ok();
    home.rl("start web").ok();
    home.rl("pause web").ok();
    home.rl("rm -f web").ok();
    home.rl("events --since 1h --until 0s --format {{.Action}}")
        .ok()
        .stdout_has("pause\n")
        .stdout_has("unpause\n");
}

#[test]
fn what_is_changed_holds_now_and_after_a_restart() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run -d --name web --network none --cgroup-conf cgroup.max.depth=5 busybox sleep 1000")
        .ok();
    let path = group(&home, "web");
    assert_eq!(read(&path, "cgroup.max.depth"), "5");
    home.rl("update --cgroup-conf cgroup.max.descendants=9 --restart always web")
        .says("web");
    assert_eq!(read(&path, "cgroup.max.descendants"), "9");
    // Neither overwrites the other.
    let home = &home;
    std::thread::scope(|scope| {
        for what in [
            "--cgroup-conf cgroup.max.depth=3",
            "--cgroup-conf cgroup.max.descendants=4",
            "--restart on-failure:2",
        ] {
            scope.spawn(move || home.rl(&format!("update {what} web")).ok());
        }
    });
    home.rl("restart -t 0 web").ok();
    let path = group(home, "web");
    assert_eq!(read(&path, "cgroup.max.depth"), "3");
    assert_eq!(read(&path, "cgroup.max.descendants"), "4");
    home.rl("inspect -f {{.HostConfig.RestartPolicy.Name}} web")
        .says("on-failure");
    // What the kernel refuses changes nothing.
    home.rl(
        "update --cgroup-conf cgroup.max.depth=7 --cgroup-conf cgroup.max.descendants=wrong web",
    )
    .fails(125)
    .stderr_has("cgroup.max.descendants");
    assert_eq!(read(&path, "cgroup.max.depth"), "3");
    home.rl("update web")
        .fails(125)
        .stderr_has("nothing to change");
    home.rl("rm -f web").ok();
}

#[test]
fn a_controller_that_is_handed_to_us_limits() {
    let has = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if !has.split_whitespace().any(|name| name == "hugetlb") {
        crate::support::skip("the kernel has no hugetlb controller here");
        return;
    }
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run --rm --network none --cgroup-conf hugetlb.2MB.max=4M busybox cat /sys/fs/cgroup/hugetlb.2MB.max")
        .says("4194304");
    // Without limits before, and with the processes of this session in the way.
    home.rl("run -d --name web --network none busybox sleep 1000")
        .ok();
    home.rl("update --cgroup-conf hugetlb.2MB.max=6M web").ok();
    assert_eq!(read(&group(&home, "web"), "hugetlb.2MB.max"), "6291456");
    home.rl("rm -f web").ok();
}

#[test]
fn what_is_not_handed_down_is_refused_and_nothing_is_left() {
    let has = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if has.split_whitespace().any(|name| name == "memory") {
        crate::support::skip(
            "the tree has a memory controller: the virtual machine's tests are for that",
        );
        return;
    }
    needs!(Need::Ours);
    let home = Home::with_busybox();
    for (flags, controller) in [
        ("--memory 64m", "memory"),
        ("--cpus 0.5", "cpu"),
        ("--cpuset-cpus 0", "cpuset"),
        ("--pids-limit 10", "pids"),
        ("--blkio-weight 100", "io"),
        ("--cgroup-conf memory.high=1G", "memory"),
    ] {
        for how in ["--rm", "-d"] {
            home.rl(&format!("run {how} --network none {flags} busybox true"))
                .fails(125)
                .stderr_has(&format!("`{controller}`"))
                .stderr_has(flags.split(' ').next().unwrap())
                .stderr_has("RL-C02");
        }
    }
    home.rl("ps -aq").says("");
}

#[test]
fn limits_that_make_no_sense_are_refused_before_anything_is_made() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    for (flags, message) in [
        ("--memory 1m", "--memory"),
        ("--memory nonsense", "--memory"),
        ("--memory 64m --memory-swap 32m", "--memory-swap"),
        ("--memory-swap 1g", "needs --memory"),
        (
            "--memory 64m --memory-reservation 128m",
            "--memory-reservation",
        ),
        ("--cpus 100000", "--cpus"),
        ("--cpus 1 --cpu-quota 5000", "exclude"),
        ("--cpuset-cpus 60000", "there is no 60000 here"),
        ("--cpuset-mems 900", "there is no 900 here"),
        ("--blkio-weight 5000", "--blkio-weight"),
        ("--device-read-bps /dev/null:1mb", "no block device"),
        ("--device-write-iops /dev/none:1", "/dev/none"),
        ("--oom-kill-disable", "version 2"),
        ("--kernel-memory 1g", "version 2"),
        ("--memory-swappiness 50", "version 2"),
        ("--cgroup-conf cgroup.procs=1", "rl itself"),
        ("--cgroup-conf ../x=1", "no file"),
        ("--cgroup-conf cgroup.nothing=1", "cgroup.nothing"),
        ("--cgroups sometimes", "--cgroups"),
        ("--cgroup-parent /rl-test-of-nobody/x", "--cgroup-parent"),
        ("--cgroup-parent ../x", "--cgroup-parent"),
    ] {
        home.rl(&format!("run --rm --network none {flags} busybox true"))
            .fails(125)
            .stderr_has(message);
    }
    home.rl("ps -aq").says("");
}

#[test]
fn without_a_group_of_its_own_it_has_no_limits_and_no_pause() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run -d --name web --network none --cgroups=disabled busybox sleep 1000")
        .ok();
    assert!(state(&home, "web")["cgroup"].is_null());
    home.rl("pause web").fails(125).stderr_has("--cgroups");
    home.rl("rm -f web").ok();
    home.rl(
        "run --rm --network none --cgroups=inherit --cgroup-conf cgroup.max.depth=1 busybox true",
    )
    .fails(125)
    .stderr_has("--cgroup-conf");
}

#[test]
fn a_named_parent_is_made_and_used() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap();
    // Beside us: whoever moves processes out of the way does it to all tests.
    let above = Path::new(own).parent().unwrap().join("named-parent");
    home.rl(&format!(
        "run -d --name web --network none --cgroup-parent {} busybox sleep 1000",
        above.display()
    ))
    .ok();
    let parent = group(&home, "web").parent().unwrap().to_owned();
    assert!(parent.ends_with("named-parent"), "{}", parent.display());
    home.rl("inspect -f {{.HostConfig.CgroupParent}} web")
        .says(above.to_str().unwrap());
    home.rl("rm -f web").ok();
    std::fs::remove_dir(&parent).unwrap();
}

#[test]
fn on_a_machine_with_version_1_limits_are_errors_that_say_so() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let script = "mount -t tmpfs tmpfs /sys/fs/cgroup && mkdir /sys/fs/cgroup/unified && exec \"$RL\" \"$@\"";
    for flags in ["--memory=64m", "--pids-limit=5", "--cgroups=enabled"] {
        let inside = home
            .program("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .args(["run", "--rm", "--network", "none", flags, "busybox", "true"])
            .env("RL", crate::support::rl_binary());
        inside
            .fails(125)
            .stderr_has("a mix of version 1 and 2")
            .stderr_has("RL-C01");
    }
}
