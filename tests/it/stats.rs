//! `rl stats`, `rl top --cgroup`, and which limits are shown as effective.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::host::Need;
use crate::support::{Home, Output, wait_for};

const SPIN: &str = "while :; do :; done";

fn rows(output: &Output) -> Vec<Value> {
    let lines = output.text().lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn row(home: &Home, name: &str) -> Value {
    let output = home
        .rl("stats --no-stream --format json")
        .arg(name)
        .run()
        .code(0);
    rows(&output).remove(0)
}

/// `12.34%`
fn percent(row: &Value, field: &str) -> f64 {
    let text = row[field].as_str().unwrap();
    let number = text.strip_suffix('%').and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("{field} is `{text}`"))
}

#[test]
fn stats_prints_dockers_table_with_pressures() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run -d --name spin --network none busybox sh -c")
        .arg(SPIN)
        .ok();
    home.rl("run -d --name idle --network none busybox sleep 1000")
        .ok();
    home.rl("create --name never busybox true").ok();
    let table = home.rl("stats --no-stream").run().code(0);
    let heads = table.lines()[0].split("  ").map(str::trim);
    let heads: Vec<&str> = heads.filter(|head| !head.is_empty()).collect();
    assert_eq!(
        heads,
        [
            "CONTAINER ID",
            "NAME",
            "CPU %",
            "MEM USAGE / LIMIT",
            "MEM %",
            "NET I/O",
            "BLOCK I/O",
            "PIDS",
            "CPU PSI",
            "MEM PSI",
            "IO PSI"
        ]
    );
    table
        .stdout_has("spin")
        .stdout_has("idle")
        .stdout_lacks("never");
    let (spin, idle) = (row(&home, "spin"), row(&home, "idle"));
    assert!(percent(&spin, "CPUPerc") > percent(&idle, "CPUPerc"));
    for row in [&spin, &idle] {
        assert_eq!(row["PIDs"], "1");
        assert_eq!(row["NetIO"], "0B / 0B");
        percent(row, "MemPerc");
        assert!(!row["MemUsage"].as_str().unwrap().contains("--"), "{row}");
    }
    // What cannot be known is no number.
    let never = row(&home, "never");
    assert_eq!(
        (&never["CPUPerc"], &never["PIDs"]),
        (&"--".into(), &"--".into())
    );
    let all = home
        .rl("stats --no-stream -a --format {{.Name}}")
        .run()
        .code(0);
    assert_eq!(all.lines(), ["never", "idle", "spin"]);
    home.rl("rm -f spin idle never").ok();
}

#[test]
fn without_a_group_figures_come_from_the_processes() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run -d --name c --cgroups disabled --network host busybox sh -c")
        .arg(format!("sleep 1000 & {SPIN}"))
        .ok();
    wait_for("both processes", || {
        (row(&home, "c")["PIDs"] == "2").then_some(())
    });
    let row = row(&home, "c");
    assert!(percent(&row, "CPUPerc") > 0.0);
    assert!(!row["MemUsage"].as_str().unwrap().starts_with("--"));
    // Nobody counts these for a container that shares a group, or the host's network.
    for field in ["CPUPressure", "BlockIO", "NetIO", "MemWithCache"] {
        assert_eq!(row[field], "--", "{field}");
    }
    home.rl("rm -f c").ok();
}

#[test]
fn a_group_of_its_own_has_pressures() {
    needs!(Need::Ours, Need::Controller("hugetlb"));
    let home = Home::with_busybox();
    home.rl("run -d --name c --network none busybox sleep 1000")
        .ok();
    let row = row(&home, "c");
    percent(&row, "CPUPressure");
    percent(&row, "IOPressure");
    home.rl("rm -f c").ok();
}

#[test]
fn containers_that_come_and_go_are_followed() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let mut all = home
        .rl("stats --interval 0.1 --format {{.Name}}:{{.PIDs}}")
        .spawn();
    home.rl("run -d --name late busybox sleep 1000").ok();
    all.wait_for_stdout("late:1");
    let mut one = home
        .rl("stats --interval 0.1 late --format {{.PIDs}}")
        .spawn();
    one.wait_for_stdout("1\n");
    home.rl("pause late").ok();
    home.rl("stats --no-stream late --format {{.PIDs}}")
        .says("1\n");
    home.rl("unpause late").ok();
    home.rl("kill late").ok();
    one.wait_for_stdout("--\n");
    assert!(!one.ended());
    home.rl("rm -f late").ok();
    // Nothing is left to be looked at.
    one.wait().code(0);
    assert!(!all.ended());
    all.signal(Signal::SIGINT);
    all.wait();
}

#[test]
fn mistakes_are_said_before_anything_is_waited_for() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    for (line, said) in [
        ("stats nosuch", "no container `nosuch`"),
        ("stats --format {{.Nope}}", "no field `Nope`"),
        ("stats --interval 0", "0.1 to 86400"),
        ("top --cgroup", "needs a terminal"),
        ("top --cgroup x", "--cgroup"),
    ] {
        home.rl(line).fails(125).stderr_has(said);
    }
}

#[test]
fn on_a_terminal_stats_redraws_and_ends_by_ctrl_c() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run -d --name c busybox sleep 1000").ok();
    let mut terminal = home.rl("stats --interval 0.1").in_terminal();
    terminal.wait_for("CONTAINER ID");
    wait_for("a second table in the same place", || {
        (terminal.screen().matches("\u{1b}[HCONTAINER ID").count() > 1).then_some(())
    });
    terminal.type_in("\u{3}");
    assert!(!terminal.wait().success());
    assert!(!terminal.is_raw());
    assert!(!terminal.screen().contains("rl:"), "{}", terminal.screen());
    home.rl("rm -f c").ok();
}

#[test]
fn the_tightest_limit_of_all_groups_above_is_shown() {
    needs!(Need::Ours, Need::Controller("hugetlb"));
    let home = Home::with_busybox();
    let outer = format!("outer-{}", std::process::id());
    let rl = crate::support::rl_binary();
    home.rl("limit --cgroup-conf hugetlb.2MB.max=8M")
        .arg(&outer)
        .ok();
    let within = |line: &str| {
        home.rl("limit --in")
            .arg(&outer)
            .arg("--")
            .arg(&rl)
            .args(line.split_whitespace())
    };
    within("run -d --name free --network none busybox sleep 1000").ok();
    within(
        "run -d --name tight --network none --cgroup-conf hugetlb.2MB.max=4M busybox sleep 1000",
    )
    .ok();
    within(
        "run -d --name wide --network none --cgroup-conf hugetlb.2MB.max=16M busybox sleep 1000",
    )
    .ok();
    let bound = |output: &Output, pointer: &str| {
        let json = output.json();
        let json = json.pointer(pointer).unwrap_or(&json).clone();
        let group = json["2MB"]["SetBy"].as_str().unwrap_or_default().to_owned();
        (json["2MB"]["Value"].as_u64(), group)
    };
    for (name, value, by_outer) in [
        ("free", 8 << 20, true),
        ("tight", 4 << 20, false),
        ("wide", 8 << 20, true),
    ] {
        let output = home
            .rl("inspect --format")
            .arg("{{json .EffectiveLimits.HugePages}}")
            .arg(name)
            .run()
            .code(0);
        let (bytes, group) = bound(&output, "");
        assert_eq!(bytes, Some(value), "{name}");
        assert_eq!(
            group.ends_with(&format!("rl-limit-{outer}")),
            by_outer,
            "{name}: {group}"
        );
    }
    let info = within("info --format json").run().code(0);
    let (bytes, group) = bound(&info, "/EffectiveLimits/HugePages");
    assert_eq!(bytes, Some(8 << 20));
    assert!(group.ends_with(&format!("rl-limit-{outer}")), "{group}");
    within("info")
        .run()
        .code(0)
        .stdout_has("2MB pages:        8MiB, by /");
    home.rl("rm -f free tight wide").ok();
    home.rl("limit rm").arg(&outer).ok();
}

#[test]
fn the_screen_sorts_by_keys_and_gives_the_terminal_back() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run -d --name aaa --network none busybox sleep 1000")
        .ok();
    let mut terminal = home.rl("top --cgroup").in_terminal();
    terminal.wait_for("aaa");
    terminal.wait_for("[q]uit");
    assert!(terminal.is_raw());
    home.rl("run -d --name bbb --network none busybox sleep 1000")
        .ok();
    terminal.wait_for("bbb");
    terminal.type_in("nj");
    // The line below, of which only what has changed is drawn.
    terminal.wait_for("limits");
    terminal.resize(10, 50);
    terminal.type_in("q");
    assert_eq!(terminal.wait().code(), Some(0));
    assert!(!terminal.is_raw());
    // What it wrote last may still be on its way to us.
    terminal.wait_for("\u{1b}[?1049l");
    assert!(terminal.screen().ends_with("\u{1b}[?1049l"));

    for (signal, code) in [
        (Signal::SIGTERM, 143),
        (Signal::SIGHUP, 129),
        (Signal::SIGINT, 130),
    ] {
        let mut terminal = home.rl("top --cgroup").in_terminal();
        terminal.wait_for("aaa");
        terminal.signal(signal);
        assert_eq!(terminal.wait().code(), Some(code));
        assert!(!terminal.is_raw(), "{signal}");
        terminal.wait_for("\u{1b}[?1049l");
        assert!(terminal.screen().ends_with("\u{1b}[?1049l"), "{signal}");
    }
    home.rl("rm -f aaa bbb").ok();
}

#[test]
fn the_screen_works_in_tmux_and_follows_its_size() {
    needs!(Need::Ours, Need::Program("tmux"));
    let home = Home::with_busybox();
    home.rl("run -d --name web --network none busybox sleep 1000")
        .ok();
    let socket = home.path().join("tmux");
    let tmux = || {
        home.program("tmux")
            .arg("-S")
            .arg(&socket)
            .env("TERM", "xterm")
            .args(["-f", "/dev/null"])
    };
    tmux()
        .args([
            "new-session",
            "-d",
            "-s",
            "a",
            "-x",
            "130",
            "-y",
            "12",
            "sh",
        ])
        .ok();
    let line = format!(
        "{} top --cgroup; echo done=$?",
        crate::support::rl_binary().display()
    );
    tmux().args(["send-keys", "-t", "a", &line, "Enter"]).ok();
    let shown = || {
        let output = tmux().args(["capture-pane", "-p", "-t", "a"]).run();
        output.text().to_owned()
    };
    let wide = wait_for("the whole screen", || {
        let text = shown();
        (text.contains("web") && text.contains("WRITE/S")).then_some(text)
    });
    let lines: Vec<&str> = wide.lines().collect();
    assert!(lines[0].starts_with("rl: 1 runs"), "{wide}");
    assert!(lines[1].starts_with("NAME"), "{wide}");
    assert!(lines[2].starts_with("web"), "{wide}");
    assert!(lines[11].starts_with("[q]uit"), "{wide}");
    tmux()
        .args(["resize-window", "-t", "a", "-x", "60", "-y", "8"])
        .ok();
    wait_for("the narrow screen", || {
        let text = shown();
        let last = text.lines().nth(7)?.starts_with("[q]uit");
        (last && !text.contains("WRITE/S") && text.contains("MEMORY")).then_some(())
    });
    tmux().args(["send-keys", "-t", "a", "q"]).ok();
    wait_for("the shell's screen", || {
        let text = shown();
        (text.contains("done=0") && !text.contains("[q]uit")).then_some(())
    });
    tmux().args(["kill-server"]).ok();
    home.rl("rm -f web").ok();
}
