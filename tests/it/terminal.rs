//! `-t`: the terminal inside, raw mode and its end, size, Ctrl-C, in a pseudo terminal and in tmux.

use nix::sys::signal::Signal;

use crate::support::host::Need;
use crate::support::{Home, Run, wait_for};

fn shell(home: &Home) -> Run {
    home.rl("run --rm -it --network none busybox sh")
}

#[test]
fn a_shell_prompts_and_answers() {
    let home = Home::with_busybox();
    let mut terminal = shell(&home).in_terminal();
    terminal.wait_for("# ");
    terminal
        .type_in("echo $((6*7)); tty; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all terminals\r");
    terminal.wait_for("42\r\n");
    terminal.wait_for("all terminals\r\n");
    terminal.type_in("ls -l /proc/self/fd/0; exit 5\r");
    assert_eq!(terminal.wait().code(), Some(5));
    assert!(!terminal.is_raw(), "the terminal was left raw");
    let screen = terminal.screen();
    assert!(
        screen.contains("/dev/pts/0") || screen.contains("/dev/console"),
        "{screen}"
    );
}

#[test]
fn the_terminal_is_raw_while_it_runs_and_restored_after() {
    let home = Home::with_busybox();
    let mut terminal = home
        .rl("run --rm -it --network none busybox sh -c")
        .arg("echo ready; read x; exit 0")
        .in_terminal();
    assert!(!terminal.is_raw());
    terminal.wait_for("ready");
    wait_for("raw mode", || terminal.is_raw().then_some(()));
    terminal.type_in("\r");
    assert!(terminal.wait().success());
    assert!(!terminal.is_raw());
}

#[test]
fn the_terminal_is_restored_when_rl_is_told_to_end() {
    needs!(Need::Ours);
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let home = Home::with_busybox();
        let mut terminal = home
            .rl("run --rm -it --network none busybox sh -c")
            .arg("trap 'exit 4' TERM HUP; echo ready; while :; do sleep 0.05; done")
            .in_terminal();
        terminal.wait_for("ready");
        wait_for("raw mode", || terminal.is_raw().then_some(()));
        terminal.signal(signal);
        assert_eq!(
            terminal.wait().code(),
            Some(4),
            "{signal}: {}",
            terminal.screen()
        );
        assert!(!terminal.is_raw(), "{signal}");
    }
}

#[test]
fn the_terminal_is_restored_when_the_container_is_killed() {
    let home = Home::with_busybox();
    let pid = home.path().join("pid");
    let mut terminal = home
        .rl("run --rm -it --network none --pidfile")
        .arg(&pid)
        .args(["busybox", "sh", "-c", "echo ready; sleep 1000"])
        .in_terminal();
    terminal.wait_for("ready");
    let pid = wait_for("the pid file", || {
        std::fs::read_to_string(&pid).ok()?.trim().parse().ok()
    });
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert_eq!(terminal.wait().code(), Some(137));
    assert!(!terminal.is_raw());
}

#[test]
fn an_error_before_the_start_leaves_the_terminal_alone() {
    let home = Home::with_busybox();
    let mut terminal = home
        .rl("run --rm -it --network none busybox no-such-program")
        .in_terminal();
    assert_eq!(terminal.wait().code(), Some(127));
    assert!(!terminal.is_raw());
    terminal.wait_for("no-such-program");
}

#[test]
fn the_size_follows() {
    let home = Home::with_busybox();
    let mut terminal = home
        .rl("run --rm -it --network none busybox sh -c")
        .arg("stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done")
        .in_terminal();
    terminal.wait_for("ready");
    assert!(terminal.screen().contains("24 80"), "{}", terminal.screen());
    terminal.resize(50, 132);
    terminal.wait_for("50 132");
    assert!(terminal.wait().success());
}

#[test]
fn control_c_reaches_the_program_inside() {
    let home = Home::with_busybox();
    let mut terminal = home
        .rl("run --rm -it --network none busybox sh -c")
        .arg("trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.05; done")
        .in_terminal();
    terminal.wait_for("ready");
    wait_for("raw mode", || terminal.is_raw().then_some(()));
    terminal.type_in("\x03");
    terminal.wait_for("interrupted");
    assert_eq!(terminal.wait().code(), Some(9));
}

#[test]
fn control_d_ends_the_shell() {
    let home = Home::with_busybox();
    let mut terminal = shell(&home).in_terminal();
    terminal.wait_for("# ");
    terminal.type_in("\x04");
    assert!(terminal.wait().success());
}

#[test]
fn a_terminal_without_one_outside_is_refused_or_made() {
    let home = Home::with_busybox();
    // `-t` alone, in a pipeline: the program has a terminal, the caller gets its output.
    let output = home
        .rl("run --rm -t --network none busybox sh -c")
        .arg("[ -t 1 ] && echo yes")
        .run();
    assert_eq!(output.text().trim_end_matches('\r'), "yes", "{output:?}");
}

#[test]
fn what_goes_into_a_terminal_comes_from_one() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let refused = |run: Run| {
        let output = run.fails(125);
        assert!(
            output.stderr.contains("the input device is not a TTY"),
            "{output:?}"
        );
    };
    refused(home.rl("run --rm -it --network none busybox true"));
    refused(home.rl("run -it --network none busybox true"));
    home.rl("ps -aq").says("");
    home.rl("create -it --network none busybox true").ok();
    home.rl("run -dit --name c --network none busybox sleep 1000")
        .ok();
    refused(home.rl("exec -it c true"));
    refused(home.rl("attach c"));
    home.rl("exec -dit c true").ok();
    home.rl("exec -i c cat").says("");
    let output = home.rl("exec -t c tty").ok();
    assert!(output.text().starts_with("/dev/"), "{output:?}");
    home.rl("rm -f c").ok();
}

#[test]
fn output_at_the_end_is_not_lost() {
    let home = Home::with_busybox();
    for _ in 0..5 {
        let mut terminal = home
            .rl("run --rm -it --network none busybox sh -c")
            .arg("seq 1 3000; echo the end")
            .in_terminal();
        assert!(terminal.wait().success());
        terminal.wait_for("the end");
        terminal.wait_for("\n3000\r\n");
    }
}

/// Whether a process of the container that has this pid file is there.
fn lives(pid_file: &std::path::Path) -> bool {
    let pid = std::fs::read_to_string(pid_file).unwrap();
    std::path::Path::new("/proc").join(pid.trim()).exists()
}

#[test]
fn a_vanished_terminal_ends_the_container() {
    needs!(Need::Program("tmux"), Need::Ours);
    let home = Home::with_busybox();
    let socket = home.path().join("tmux");
    let rl = crate::support::rl_binary();
    // A shell notices; a program without a handler is killed in the end, be it the terminal's or rl's own.
    for (number, words) in [
        "-it busybox sh",
        "-it busybox sleep 1000",
        "-t busybox sleep 1000",
        "busybox sleep 1000",
    ]
    .into_iter()
    .enumerate()
    {
        let pid = home.path().join(format!("pid{number}"));
        let line = format!(
            "'{}' run --rm --network none --pidfile '{}' {words}",
            rl.display(),
            pid.display()
        );
        let tmux = || {
            home.program("tmux")
                .args(["-f", "/dev/null", "-S"])
                .arg(&socket)
        };
        tmux().args(["new-session", "-d", "-s", "a", "sh"]).ok();
        tmux().args(["send-keys", "-t", "a", &line, "Enter"]).ok();
        wait_for("the container to start", || {
            std::fs::read_to_string(&pid)
                .ok()
                .filter(|pid| !pid.trim().is_empty())
        });
        tmux().args(["kill-session", "-t", "a"]).ok();
        wait_for(&format!("the end of {words}"), || {
            (!lives(&pid)).then_some(())
        });
    }
    wait_for("the containers' directories to go", || {
        let containers = std::fs::read_dir(home.store().join("containers")).unwrap();
        (containers.count() == 0).then_some(())
    });
}

#[test]
fn a_hangup_is_ignored_under_nohup() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let mut running = home
        .program("nohup")
        .arg(crate::support::rl_binary())
        .args(["run", "--rm", "--network", "none", "busybox", "sh", "-c"])
        .arg(
            "trap 'echo hung up' HUP; trap 'exit 3' USR1; echo ready; while :; do sleep 0.05; done",
        )
        .spawn();
    running.wait_for_stdout("ready");
    running.signal(Signal::SIGHUP);
    running.signal(Signal::SIGUSR1);
    let output = running.wait().code(3);
    output.stdout_lacks("hung up");
}

#[test]
fn a_program_that_closes_its_terminal_costs_nothing() {
    let home = Home::with_busybox();
    let mut terminal = home
        .rl("run --rm -it --network none busybox sh -c")
        .arg("echo ready; exec </dev/null >/dev/null 2>&1; sleep 1; echo again >/dev/console; sleep 0.2")
        .in_terminal();
    terminal.wait_for("ready");
    terminal.wait_for("again");
    assert!(terminal.wait().success());
    let used =
        nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap();
    assert!(
        used.user_time().tv_sec() + used.system_time().tv_sec() < 1,
        "{used:?}"
    );
}

#[test]
fn control_c_reaches_a_terminal_that_only_shows() {
    let home = Home::with_busybox();
    let mut terminal = home
        .rl("run --rm -t --network none busybox sh -c")
        .arg("trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.05; done")
        .in_terminal();
    terminal.wait_for("ready");
    terminal.type_in("\x03");
    terminal.wait_for("interrupted");
    assert_eq!(terminal.wait().code(), Some(9));
}

#[test]
fn it_works_in_tmux() {
    needs!(Need::Program("tmux"));
    let home = Home::with_busybox();
    let socket = home.path().join("tmux");
    let tmux = || {
        home.program("tmux")
            .arg("-f")
            .arg("/dev/null")
            .arg("-S")
            .arg(&socket)
    };
    let command = match crate::support::under_test() {
        crate::support::UnderTest::Rl => format!("'{}'", crate::support::rl_binary().display()),
        crate::support::UnderTest::Podman => format!(
            "podman --root {0}/home/podman --runroot {0}/run/podman --cgroup-manager=cgroupfs --events-backend=file",
            home.path().display()
        ),
    };
    tmux()
        .args(["new-session", "-d", "-x", "100", "-y", "30", "sh"])
        .ok();
    let screen = || tmux().args(["capture-pane", "-p"]).ok().stdout;
    let see = |text: &str| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !screen().contains(text) {
            assert!(
                std::time::Instant::now() < deadline,
                "no `{text}` on the screen:\n{}",
                screen()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    tmux()
        .args([
            "send-keys",
            &format!("{command} run --rm -it --network none --hostname inside busybox sh; echo back $? $(stty size)"),
            "Enter",
        ])
        .ok();
    see("/ #");
    tmux()
        .args(["send-keys", "echo $(hostname) $(stty size)", "Enter"])
        .ok();
    see("inside 30 100");
    tmux().args(["send-keys", "sleep 1000", "Enter"]).ok();
    see("sleep 1000");
    tmux().args(["send-keys", "C-c", ""]).ok();
    tmux().args(["send-keys", "exit 6", "Enter"]).ok();
    see("back 6 30 100");
    tmux().arg("kill-server").ok();
}
