//! `rl limit`: host programs under limits, named groups, and rules for containers.

use crate::support::host::{Need, controllers, top_group};
use crate::support::{Home, wait_for};

/// The one controller that is really there on every machine that the tests run on.
const LIMIT: &str = "--cgroup-conf hugetlb.2MB.max=4M";

fn group_of(text: &str) -> &str {
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap()
}

#[test]
fn the_program_is_itself_under_limits() {
    needs!(Need::Ours, Need::Controller("hugetlb"));
    let home = Home::new();
    let limited = |script: &str| {
        home.rl("limit")
            .args(LIMIT.split(' '))
            .args(["--", "sh", "-c", script])
    };
    let output = limited("cat; cat /proc/self/cgroup; echo bad >&2; exit 7")
        .stdin("typed\n")
        .run()
        .code(7);
    output.stdout_has("typed\n").stderr_has("bad\n");
    let group = group_of(output.text());
    assert!(group.contains("/rl-limit."), "{group}");
    limited("cat /sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/hugetlb.2MB.max")
        .says("4194304\n");
    // The same process: whoever waits for rl waits for the program.
    home.sh("$RL limit --cgroup-conf hugetlb.2MB.max=4M -- sh -c 'echo $$' & echo $!; wait")
        .run()
        .code(0)
        .lines()
        .windows(2)
        .for_each(|pair| assert_eq!(pair[0], pair[1]));
    let output = home
        .sh("$RL limit --cgroup-conf hugetlb.2MB.max=4M -- sh -c 'kill -TERM $$'; echo $?")
        .run();
    output.stdout_has("143\n");
    for (program, code) in [("nosuchprogram", 127), ("/etc/passwd", 126)] {
        home.rl("limit")
            .args(LIMIT.split(' '))
            .args(["--", program])
            .fails(code)
            .stderr_has(program);
    }
    // The next one removes what this one left.
    let last = format!("/sys/fs/cgroup{group}");
    home.rl("limit ls").ok();
    limited("true").ok();
    assert!(!std::path::Path::new(&last).exists(), "{last}");
}

/// Runs a script in a group where nobody else is, `$GROUP`; nothing may be left below it.
fn alone(home: &Home, name: &str, script: &str) {
    let name = format!("{name}-{}", std::process::id());
    let group = top_group().unwrap().join(name);
    std::fs::create_dir(&group).unwrap();
    let script = format!(
        "GROUP={}; echo $$ >$GROUP/cgroup.procs; LIMIT='{LIMIT}'\n{script}",
        group.display()
    );
    let output = home.sh(&script).run();
    let below = std::fs::read_dir(&group).unwrap().flatten();
    let left: Vec<_> = below.map(|entry| entry.path()).collect();
    let left: Vec<_> = left.iter().filter(|path| path.is_dir()).collect();
    for path in &left {
        let _ = std::fs::remove_dir(path); // the assertion tells of it
    }
    wait_for("the group to be empty", || std::fs::remove_dir(&group).ok());
    output.code(0).stdout_is("");
    assert!(left.is_empty(), "{left:?}");
}

/// Each end is the last one's and takes the controllers back.
#[test]
fn whoever_ends_takes_nothing_from_one_that_begins() {
    needs!(Need::Ours, Need::Controller("hugetlb"));
    let script = r#"
        limited() { for i in $(seq 150); do
            { $RL limit $1 $LIMIT && $RL limit rm $1; } >/dev/null || echo $1 $i
        done; }
        limited a-$$ & limited b-$$ &
        wait
    "#;
    alone(&Home::new(), "busy", script);
}

/// The group above has handed controllers down by then, and its processes stand in a leaf.
#[test]
fn what_is_refused_leaves_the_groups_as_they_were() {
    needs!(Need::Ours, Need::Controller("hugetlb"));
    let home = Home::with_busybox();
    let script = r#"
        wrong='--cgroup-conf hugetlb.2MB.max=wrong'
        for line in "limit --pid 1 $LIMIT" "limit $wrong -- true" "limit n-$$ $wrong" "run --rm --network none $wrong busybox true"; do
            $RL $line 2>/dev/null && echo "$line: done"
            [ "$(cat $GROUP/cgroup.subtree_control)" = "" ] || echo "$line: the controllers"
            ! [ -e $GROUP/rl-self ] || echo "$line: the leaf"
        done
        true
    "#;
    alone(&home, "refused", script);
}

#[test]
fn a_named_group_is_made_entered_listed_and_removed() {
    needs!(Need::Ours, Need::Controller("hugetlb"));
    let home = Home::new();
    let name = format!("n-{}", std::process::id());
    home.rl("limit")
        .arg(&name)
        .args(LIMIT.split(' '))
        .says(&format!("{name}\n"));
    home.rl("limit ls -q").run().stdout_has(&name);
    let mut inside = home
        .rl("limit --in")
        .arg(&name)
        .args(["--", "sh", "-c", "echo in; exec sleep 1000"])
        .spawn();
    inside.wait_for_stdout("in\n");
    let mut outside = home.program("sleep").arg("1000").spawn();
    home.rl("limit --pid")
        .arg(outside.pid().to_string())
        .arg(&name)
        .ok();
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", outside.pid())).unwrap();
    assert!(group_of(&cgroup).ends_with(&format!("/rl-limit-{name}")));
    let format = "{{.Name}} {{.Processes}}";
    home.rl("limit ls --format")
        .arg(format)
        .run()
        .stdout_has(&format!("{name} 2\n"));
    // Once more is a change.
    home.rl("limit")
        .arg(&name)
        .args(["--cgroup-conf", "hugetlb.2MB.max=6M"])
        .ok();
    let max = format!("/sys/fs/cgroup{}/hugetlb.2MB.max", group_of(&cgroup));
    assert_eq!(std::fs::read_to_string(max).unwrap(), "6291456\n");

    home.rl("limit rm")
        .arg(&name)
        .fails(125)
        .stderr_has("processes are in the group")
        .stderr_has("rl limit rm -f");
    home.rl("limit rm -f").arg(&name).says(&format!("{name}\n"));
    wait_for("both programs killed", || {
        (inside.ended() && outside.ended()).then_some(())
    });
    home.rl("limit rm")
        .arg(&name)
        .fails(125)
        .stderr_has("no group");
    home.rl("limit --in")
        .arg(&name)
        .args(["--", "true"])
        .fails(125)
        .stderr_has("no group");
}

#[test]
fn a_running_process_gets_limits_of_its_own() {
    needs!(Need::Ours, Need::Controller("hugetlb"));
    let home = Home::new();
    let mut sleep = home.program("sleep").arg("1000").spawn();
    let pid = sleep.pid();
    home.rl("limit --pid")
        .arg(pid.to_string())
        .args(LIMIT.split(' '))
        .ok();
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let group = group_of(&cgroup);
    assert!(group.ends_with(&format!("/rl-limit.{pid}")), "{group}");
    let max = std::fs::read_to_string(format!("/sys/fs/cgroup{group}/hugetlb.2MB.max")).unwrap();
    assert_eq!(max, "4194304\n");
    sleep.signal(nix::sys::signal::Signal::SIGKILL);
    wait_for("its end", || sleep.ended().then_some(()));
    // Swept by whoever comes next.
    home.rl("limit")
        .args(LIMIT.split(' '))
        .args(["--", "true"])
        .ok();
    assert!(!std::path::Path::new(&format!("/sys/fs/cgroup{group}")).exists());
    home.rl("limit")
        .args(LIMIT.split(' '))
        .args(["--", "true"])
        .ok();
}

#[test]
fn what_makes_no_sense_is_refused_with_a_way_out() {
    needs!(Need::Ours);
    let home = Home::new();
    for (line, said) in [
        ("limit", "no program given"),
        ("limit -- true", "no limit given"),
        ("limit name", "no limit given"),
        ("limit --memory lots -- true", "`lots`"),
        ("limit --memory 999999t -- true", "memory"),
        ("limit --cpus -1 -- true", "--cpus"),
        ("limit ../x --memory 1g", "cannot name a group"),
        ("limit name --memory 1g -- true", "exclude each other"),
        ("limit --in name --memory 1g -- true", "exclude each other"),
        ("limit --in name", "no program given"),
        ("limit --pid 1 -- true", "leave the program"),
        ("limit --pid 0 name", "is no process"),
        ("limit --pid 2147483647 name", "there is no process"),
        ("limit --oom-kill-disable -- true", "--oom-kill-disable"),
        ("limit rm", "NAME"),
    ] {
        home.rl(line).fails(125).stderr_has(said);
    }
    // Whose process it is.
    if controllers().iter().any(|one| one == "hugetlb") {
        home.rl("limit --pid 1")
            .args(LIMIT.split(' '))
            .fails(125)
            .stderr_has("process 1 cannot be moved");
    }
}

#[test]
fn a_controller_that_is_not_handed_down_is_named() {
    needs!(Need::Ours, Need::Controller("hugetlb"));
    let home = Home::new();
    let run = home.rl("limit --memory 1g -- true");
    if controllers().iter().any(|one| one == "memory") {
        run.ok();
    } else {
        run.fails(125)
            .stderr_has("--memory cannot be had")
            .stderr_has("`memory`");
    }
}

#[test]
fn rules_give_containers_their_limits() {
    needs!(Need::Ours, Need::Controller("hugetlb"));
    let home = Home::with_busybox();
    let file = home.file(
        "home/.config/rl/limits.toml",
        r#"
            # A comment.
            [[rule]]
            label = "tier=batch*"
            cgroup-conf = { "hugetlb.2MB.max" = "2M" }

            [[rule]]
            image = "busy*"
            name = "w*"
            cgroup-conf = { "hugetlb.2MB.max" = "4M" }
        "#,
    );
    let start = |name: &str, flags: &str| {
        home.rl("run -d --network none --name")
            .arg(name)
            .args(flags.split_whitespace())
            .args(["busybox", "sleep", "1000"])
            .ok();
        let output = home.rl("inspect").arg(name).run().code(0);
        let json = output.json()[0].clone();
        let pages = json["EffectiveLimits"]["HugePages"]["2MB"]["Value"].as_u64();
        let rule = json["LimitsRule"].as_str().map(str::to_owned);
        home.rl("rm -f").arg(name).ok();
        (pages, rule)
    };
    let rule = |line: u32| Some(format!("{}:{line}", file.display()));
    assert_eq!(start("web", ""), (Some(4 << 20), rule(7)));
    assert_eq!(start("x", "--label tier=batch-1"), (Some(2 << 20), rule(3)));
    assert_eq!(
        start("w2", "--cgroup-conf hugetlb.2MB.max=6M"),
        (Some(6 << 20), None)
    );
    assert_eq!(start("other", ""), (None, None));

    home.file(
        "home/.config/rl/limits.toml",
        "[[rule]]\nname = \"*\"\nmemory = \"lots\"\n",
    );
    home.rl("run --rm busybox true")
        .fails(125)
        .stderr_has("limits.toml:3:10: memory `lots` makes no sense");
}
