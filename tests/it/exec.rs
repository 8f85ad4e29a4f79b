//! `rl exec`: a second program in a running container is there as the first one is, and gets no more.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::host::Need;
use crate::support::image::{Image, Layer, digest};
use crate::support::{Home, Running, UnderTest, rl_binary, under_test, wait_for};

/// A container `c` that runs until this is dropped.
fn running(home: &Home, options: &str) -> Running {
    let container = home
        .rl(&format!(
            "run --rm --name c {options} busybox sleep 1000000"
        ))
        .spawn();
    ready(home);
    container
}

/// Waits until `c` can be entered.
fn ready(home: &Home) {
    wait_for("the container to run", || {
        home.rl("exec c true").run().status.success().then_some(())
    });
}

#[test]
fn the_namespaces_are_the_containers() {
    needs!(Need::Ours);
    let show = "for n in user mnt net ipc uts cgroup time pid pid_for_children; do readlink /proc/self/ns/$n; done; cut -d. -f1 /proc/self/timens_offsets";
    for options in [
        "--network none",
        "--network host",
        "--network none --pid host --ipc host --uts host --cgroupns host",
        "--network none --time-offset boottime=+30d",
        "--network none --init",
    ] {
        let home = Home::with_busybox();
        let mut container = home
            .rl(&format!("run --rm --name c {options} busybox sh -c"))
            .arg(format!("{show}; echo end; exec sleep 1000000"))
            .spawn();
        let own = container.wait_for_stdout("end\n");
        ready(&home);
        let entered = home
            .rl("exec c sh -c")
            .arg(format!("{show}; echo end"))
            .ok();
        assert_eq!(entered.stdout, own, "{options}");
    }
}

#[test]
fn user_variables_and_directory_are_the_containers_or_what_was_said() {
    needs!(Need::Ranges);
    let mut home = Home::with_busybox();
    home.set("MINE", "my own");
    let file = home.file("vars", "A=file\nF=1\n");
    let _container = running(
        &home,
        "--network none -u app -w /tmp -e A=1 -e B=2 --hostname inside --umask 077",
    );
    for (options, script, expected) in [
        ("", "id -u; id -g; id -G", "1000\n1001\n1001 2000"),
        ("-u root", "id -u; echo $HOME", "0\n/root"),
        ("-u 7:8", "id -u; id -g; echo $HOME", "7\n8\n/"),
        ("", "pwd; umask; hostname", "/tmp\n0077\ninside"),
        ("-w /etc", "pwd", "/etc"),
        ("", "echo $A $B $HOME $HOSTNAME", "1 2 /home/app inside"),
        (
            "-e A=3 -e C=4 -e MINE",
            "echo $A $B $C $MINE",
            "3 2 4 my own",
        ),
        ("-e A", "echo ${A-unset}", "unset"),
        ("--env-file VARS -e F=2", "echo $A $F", "file 2"),
        (
            "",
            "echo ${USER-none} ${LANG-none} ${TERM-none}",
            "none none none",
        ),
    ] {
        let options = options.replace("VARS", file.to_str().unwrap());
        home.rl(&format!("exec {options} c sh -c"))
            .arg(script)
            .says(expected);
    }
    home.rl("exec -u nobody-here c true")
        .fails(125)
        .stderr_has("nobody-here");
    home.rl("exec -w /none c true")
        .fails(125)
        .stderr_has("/none");
    home.rl("exec -w relative c true")
        .fails(125)
        .stderr_has("relative");
}

#[test]
fn exit_codes_are_dockers() {
    let home = Home::with_busybox();
    let _container = running(&home, "--network none");
    for (command, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
    ] {
        home.rl("exec c sh -c").arg(command).fails(code);
    }
    home.rl("exec c no-such-program").fails(127);
    home.rl("exec c /no/such/program").fails(127);
    home.rl("exec c /etc/passwd").fails(126);
    home.rl("exec c").fails(125);
}

#[test]
fn words_after_the_container_belong_to_the_program() {
    let home = Home::with_busybox();
    let _container = running(&home, "--network none");
    home.rl("exec c echo -d --rm -e A --help")
        .says("-d --rm -e A --help");
}

#[test]
fn standard_input_of_any_size_arrives_as_it_was() {
    let home = Home::with_busybox();
    let _container = running(&home, "--network none");
    let bytes: Vec<u8> = (0..50_000_000_u32 / 4)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let expected = digest(&bytes).replace("sha256:", "");
    let output = home.rl("exec -i c sha256sum").stdin(bytes).ok();
    output.stdout_has(&expected);
    // Without -i nothing of it arrives.
    home.rl("exec c wc -c").stdin("not for it").says("0");
    // And what it says comes out, on the right side.
    let output = home.rl("exec c sh -c").arg("echo out; echo err >&2").ok();
    output.stdout_is("out").stderr_has("err");
    assert!(!output.stderr.contains("out"));
}

#[test]
fn a_terminal_has_size_keys_and_an_end() {
    let home = Home::with_busybox();
    let _container = running(&home, "--network none");
    let mut terminal = home.rl("exec -it c sh").in_terminal();
    terminal.wait_for("# ");
    terminal.type_in("tty; stty size; echo $TERM; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all\r");
    terminal.wait_for("/dev/pts/");
    terminal.wait_for("24 80");
    terminal.wait_for("xterm");
    terminal.wait_for("all\r\n");
    assert!(terminal.is_raw());
    terminal.resize(30, 100);
    wait_for("the new size", || {
        terminal.type_in("stty size\r");
        std::thread::sleep(Duration::from_millis(50));
        terminal.screen().contains("30 100").then_some(())
    });
    terminal.type_in("(echo $((6*7)); exec sleep 1000)\r");
    terminal.wait_for("42\r\n");
    terminal.type_in("\x03");
    terminal.wait_for("^C");
    terminal.type_in("exit 5\r");
    assert_eq!(terminal.wait().code(), Some(5));
    assert!(!terminal.is_raw(), "the terminal was left raw");
    home.rl("exec -it c true").fails(125).stderr_has("terminal");
}

#[test]
fn the_confinement_is_the_containers() {
    needs!(Need::Ours);
    let fields = "^(Cap...|Seccomp|Seccomp_filters|NoNewPrivs):";
    for options in [
        "",
        "--cap-drop ALL",
        "--cap-add SYS_PTRACE --security-opt no-new-privileges",
        "--security-opt seccomp=unconfined",
        "--privileged",
    ] {
        let home = Home::with_busybox();
        let _container = running(
            &home,
            &format!("--network none --ulimit nofile=100:200 {options}"),
        );
        let own = home
            .rl("exec c grep -E")
            .args([fields, "/proc/1/status"])
            .ok();
        let entered = home
            .rl("exec c grep -E")
            .args([fields, "/proc/self/status"])
            .ok();
        assert_eq!(entered.stdout, own.stdout, "{options}");
        home.rl("exec c sh -c")
            .arg("ulimit -n; ulimit -Hn")
            .says("100\n200");
        home.rl("exec --privileged c grep -E")
            .args(["^(CapEff|Seccomp|NoNewPrivs):", "/proc/self/status"])
            .says("CapEff:\t000001ffffffffff\nNoNewPrivs:\t0\nSeccomp:\t0");
    }
}

#[test]
fn the_program_sees_descriptors_0_1_and_2_only() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let _container = running(&home, "--network none");
    let bash = |script: &str| {
        home.program("bash")
            .args(["-c", script])
            .env("RL", rl_binary())
    };
    for options in ["", "-i", "-d"] {
        // `ls` itself opens the directory as 3.
        let script = format!(
            "exec 10</etc/passwd 251</etc; \"$RL\" exec {options} c sh -c 'ls /proc/self/fd > /tmp/fds.new; mv /tmp/fds.new /tmp/fds'"
        );
        bash(&script).ok();
        let seen = wait_for("the list", || {
            let output = home
                .rl("exec c sh -c")
                .arg("cat /tmp/fds && rm /tmp/fds")
                .run();
            output.status.success().then_some(output.stdout)
        });
        assert_eq!(seen, "0\n1\n2\n3\n", "{options}");
    }
    bash("exec 3</etc/hostname 4</etc; \"$RL\" exec --preserve-fds 1 c sh -c 'cat <&3; ls /proc/self/fd | tr \"\\n\" \" \"'")
        .ok()
        .stdout_has("0 1 2 3 4 ");
}

/// A directory of the host that is open as a descriptor is no way out: CVE-2024-21626.
#[test]
fn no_working_directory_lies_outside() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let _container = running(&home, "--network none --privileged");
    for path in [
        "/proc/self/fd/0",
        "/proc/self/fd/3",
        "/proc/thread-self/fd/0/home",
    ] {
        home.sh(&format!("\"$RL\" exec -i -w {path} c ls -a . </"))
            .fails(125)
            .stderr_has(path);
        home.sh(&format!(
            "\"$RL\" exec -i --preserve-fds 1 -w {path} c ls -a . 3</ </"
        ))
        .fails(125);
    }
    home.sh("cd / && \"$RL\" exec c pwd").says("/");
}

/// A process of the container that watches for `rl` could write to the file it runs from: CVE-2019-5736.
#[test]
fn a_watcher_in_the_container_cannot_write_to_rls_own_file() {
    needs!(Need::Ours);
    let home = Home::new();
    let before = digest(&std::fs::read(rl_binary()).unwrap());
    let watcher = "#!/bin/sh\nwhile :; do for e in /proc/[0-9]*/exe; do echo hacked >> $e; done; done 2>/dev/null\n";
    // A long list of users keeps the entering process busy for as long as it can be attacked.
    let users: String = (2000..30_000)
        .map(|uid| format!("u{uid}:x:{uid}:{uid}::/:/bin/sh\n"))
        .collect();
    let layer = Layer::new().file("watcher", 0o755, watcher).file(
        "etc/passwd",
        0o644,
        users + "root:x:0:0::/root:/bin/sh\n",
    );
    home.load(&Image::on_busybox(vec![layer]), "hostile:latest");
    for options in ["", "--privileged"] {
        let _container = home
            .rl(&format!(
                "run --rm --name c --network none {options} hostile /watcher"
            ))
            .spawn();
        ready(&home);
        home.sh("i=0; while [ $i -lt 200 ]; do \"$RL\" exec c true || exit 1; i=$((i+1)); done")
            .ok();
        // The entry itself leads to `rl`, and to nothing that can be written.
        home.rl("exec c /proc/self/exe").run();
        let after = std::fs::read(rl_binary()).map(|bytes| digest(&bytes));
        assert_eq!(
            after.unwrap(),
            before,
            "rl's own file was changed, {options}"
        );
    }
}

/// Before its program runs, the entering process belongs to nobody inside.
#[test]
fn what_the_command_knows_cannot_be_read_inside() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let mut spy = home
        .rl("run --rm --name c --network none --privileged busybox sh -c")
        .arg("while :; do for p in /proc/[0-9]*; do case $p in /proc/1) ;; *) cat $p/environ $p/cmdline 2>/dev/null | tr '\\0' '\\n' | grep tell-nobody; ls -l $p/root/ $p/cwd/ 2>/dev/null | grep only-on-the-host;; esac; done; done")
        .spawn();
    ready(&home);
    home.file("only-on-the-host", "");
    home.sh("i=0; while [ $i -lt 100 ]; do SECRET=tell-nobody \"$RL\" exec c true || exit 1; i=$((i+1)); done")
        .ok();
    home.rl("exec c echo").arg("marker").ok();
    spy.signal(Signal::SIGKILL);
    wait_for("its end", || spy.ended().then_some(()));
    spy.wait().stdout_is("");
}

#[test]
fn a_detached_program_goes_on_by_itself() {
    let home = Home::with_busybox();
    let mut container = running(&home, "--network none --init");
    let started = Instant::now();
    home.rl("exec -d c sh -c")
        .arg("echo $PPID > /tmp/parent; exec sleep 1000000")
        .says("");
    assert!(started.elapsed() < Duration::from_secs(10));
    let parent = wait_for("the program", || {
        let output = home.rl("exec c cat /tmp/parent").run();
        (output.status.success() && !output.stdout.is_empty()).then_some(output.stdout)
    });
    if under_test() == UnderTest::Rl {
        assert_eq!(parent.trim(), "1");
        home.rl("exec -d c no-such-program").fails(127);
    }
    // It keeps nobody from ending.
    container.signal(Signal::SIGTERM);
    wait_for("the container's end", || container.ended().then_some(()));
}

#[test]
fn the_program_ends_with_its_container() {
    needs!(Need::Ours);
    for options in ["", "--init", "--pid host"] {
        let home = Home::with_busybox();
        let mut container = running(&home, &format!("--network none {options}"));
        let mut program = home
            .rl("exec c sh -c")
            .arg("echo up; exec sleep 1000000")
            .spawn();
        program.wait_for_stdout("up");
        container.signal(Signal::SIGKILL);
        wait_for("the container's end", || container.ended().then_some(()));
        program.wait().code(137);
    }
}

#[test]
fn the_program_ends_with_its_command_and_hears_its_signals() {
    needs!(Need::Ours, Need::Ranges);
    let home = Home::with_busybox();
    let _container = running(&home, "--network none");
    for user in ["root", "app"] {
        let script = "trap 'exit 9' TERM; echo up; while :; do sleep 0.02; done";
        let start = || {
            home.rl(&format!("exec -u {user} c sh -c"))
                .arg(script)
                .spawn()
        };
        let mut program = start();
        program.wait_for_stdout("up");
        program.signal(Signal::SIGTERM);
        program.wait().code(9);

        let mut program = start();
        program.wait_for_stdout("up");
        program.signal(Signal::SIGKILL);
        wait_for("the program's end", || {
            let output = home.rl("exec c ps").ok();
            (!output.stdout.contains("trap")).then_some(())
        });
    }
}

/// Becoming another user undoes the kernel's tie between a process and its parent's death.
#[test]
fn a_container_of_another_user_ends_with_its_command_too() {
    needs!(Need::Ours, Need::Ranges);
    for options in ["-u app", "-u app --init", "-u app --pid host"] {
        let home = Home::with_busybox();
        let mut container = running(&home, &format!("--network none {options}"));
        container.signal(Signal::SIGKILL);
        wait_for("the command's end", || container.ended().then_some(()));
        wait_for("the container's end", || {
            let output = home.rl("exec c true").run();
            output.stderr.contains("is not running").then_some(())
        });
    }
}

#[test]
fn a_container_that_does_not_run_is_said_to() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("exec nothing true")
        .fails(125)
        .stderr_has("no container `nothing`");
    let mut container = home
        .rl("run --rm --name webserver --network none busybox sleep 1000000")
        .spawn();
    wait_for("the container to run", || {
        home.rl("exec webserver true")
            .run()
            .status
            .success()
            .then_some(())
    });
    home.rl("exec websever true")
        .fails(125)
        .stderr_has("did you mean `webserver`");
    // Its command was killed: nobody was left to remove it.
    container.signal(Signal::SIGKILL);
    wait_for("its end", || container.ended().then_some(()));
    wait_for("the refusal", || {
        let output = home.rl("exec webserver true").run();
        output.stderr.contains("is not running").then_some(output)
    })
    .code(125)
    .stderr_has("rl start webserver");
}

#[test]
fn an_image_without_a_shell_is_said_to_have_none() {
    needs!(Need::Ours);
    let home = Home::new();
    let program = std::fs::read(crate::support::host::find("busybox").unwrap()).unwrap();
    let layer = Layer::new()
        .dir("bin", 0o755)
        .file("bin/sleep", 0o755, program);
    let image = Image {
        layers: vec![layer.finish()],
        config: serde_json::json!({ "Cmd": ["/bin/sleep", "1000000"] }),
    };
    home.load(&image, "bare:latest");
    let _container = home.rl("run --rm --name c --network none bare").spawn();
    wait_for("the container to run", || {
        home.rl("exec c sleep 0")
            .run()
            .status
            .success()
            .then_some(())
    });
    home.rl("exec c sh")
        .fails(127)
        .stderr_has("the image has no `sh`, nor another shell");
    home.rl("exec c /bin/bash")
        .fails(127)
        .stderr_has("the image has no `bash`");
}

#[test]
fn no_ranges_and_exec_still_works() {
    needs!(Need::Ours, Need::NoRanges);
    let home = Home::with_busybox();
    let _container = running(&home, "--network none");
    home.rl("exec c id -u").says("0");
    home.rl("exec -u 1000 c true")
        .fails(125)
        .stderr_has("RL-S01");
    home.rl("exec -i c cat").stdin("through").says("through");
}

/// The same without a race: `rl` itself is kept waiting inside. Writing to it fails anyway while any `rl` runs;
/// its mode shows that the mount refuses.
#[test]
fn rls_own_file_is_on_a_read_only_mount_inside() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let _container = running(&home, "--network none --privileged");
    let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut command = home.rl("exec -i c /proc/self/exe __join 0").command();
    let mut waiting = command
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    let script = "for p in /proc/[0-9]*; do case $(readlink $p/exe) in */busybox|'') ;; *) \
                  chmod 755 $p/exe;; esac; done";
    wait_for("the attempt", || {
        let output = home.rl("exec c sh -c").arg(script).run();
        assert!(!output.stderr.contains("Permission"), "{output:?}");
        output
            .stderr
            .contains("Read-only file system")
            .then_some(())
    });
    waiting.kill().unwrap();
    waiting.wait().unwrap();
}

#[test]
fn the_keys_that_leave_leave_the_program_alone() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let _container = running(&home, "--network none");
    let script = "echo ready; read line; echo got $line; echo >/left; until test -e /go; do sleep 0.05; done; echo >/over; exit 3";
    for (flags, keys) in [("", "\x10\x11"), ("--detach-keys ctrl-x,q", "\x18q")] {
        let mut terminal = home
            .rl(&format!("exec -it {flags} c sh -c"))
            .arg(script)
            .in_terminal();
        terminal.wait_for("ready");
        terminal.type_in("hello\r");
        terminal.wait_for("got hello");
        terminal.type_in(keys);
        assert!(terminal.wait().success());
        assert!(!terminal.is_raw());
        home.rl("exec c touch /go").ok();
        wait_for("the program to go on to its end", || {
            home.rl("exec c test -e /over")
                .run()
                .status
                .success()
                .then_some(())
        });
        let events = "events --since 1h --until 0s --filter event=exec_die --format";
        wait_for("its end to be told", || {
            let output = home.rl(events).arg("{{.Actor.Attributes.exitCode}}").ok();
            output.lines().contains(&"3").then_some(())
        });
        home.rl("exec c rm /go /over /left").ok();
    }
    // Without keys the program's end is the command's.
    let mut terminal = home
        .rl("exec -it c sh -c")
        .arg("echo ready; exit 6")
        .in_terminal();
    assert_eq!(terminal.wait().code(), Some(6));
    let killed = home
        .rl("exec -it c sh -c")
        .arg("echo ready; sleep 4567")
        .in_terminal();
    killed.wait_for("ready");
    killed.signal(Signal::SIGKILL);
    wait_for("the program to go with its command", || {
        let left = home.rl("top c -o args").ok();
        (!left.stdout.contains("4567")).then_some(())
    });
}
