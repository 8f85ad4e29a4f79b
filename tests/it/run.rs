//! `rl run`: the program, its exit code, its input and output, its environment, its end.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::host::Need;
use crate::support::image::{Image, Layer};
use crate::support::{Home, source, wait_for};

#[test]
fn the_programs_output_and_exit_code_are_passed_on() {
    let home = Home::with_busybox();
    home.rl("run --rm busybox echo hello").says("hello");
    for code in [0, 1, 42, 125, 126, 127, 255] {
        home.rl("run --rm busybox sh -c")
            .arg(format!("exit {code}"))
            .fails(code);
    }
}

#[test]
fn stdout_and_stderr_stay_apart() {
    let home = Home::with_busybox();
    let output = home
        .rl("run --rm busybox sh -c")
        .arg("echo out; echo err >&2")
        .ok();
    output.stdout_is("out");
    assert_eq!(output.stderr, "err\n");
}

#[test]
fn a_missing_program_is_127_and_one_that_cannot_be_executed_126() {
    let home = Home::with_busybox();
    home.rl("run --rm busybox no-such-program")
        .fails(127)
        .stderr_has("no-such-program");
    home.rl("run --rm busybox /no/such/program")
        .fails(127)
        .stderr_has("/no/such/program");
    home.rl("run --rm busybox /etc/passwd")
        .fails(126)
        .stderr_has_one_of(&["permission denied"]);
    home.rl("run --rm busybox /etc").fails(126);
}

#[test]
fn a_program_killed_by_a_signal_is_128_and_its_number() {
    let home = Home::with_busybox();
    // pid 1 is spared the signals that it does not handle, so the shell's child is killed.
    for (signal, code) in [("KILL", 137), ("TERM", 143), ("SEGV", 139)] {
        home.rl("run --rm --init busybox sh -c")
            .arg(format!("kill -{signal} $$"))
            .fails(code);
    }
}

#[test]
fn stdin_of_any_size_arrives_whole() {
    let home = Home::with_busybox();
    for size in [0, 1, 4096, 65_536, 1_000_003] {
        let counted = home
            .rl("run --rm -i busybox wc -c")
            .stdin(vec![b'x'; size])
            .ok();
        assert_eq!(counted.text().trim(), size.to_string());
    }
    let counted = home
        .rl("run --rm -i --init busybox wc -c")
        .stdin(vec![b'x'; 300_000])
        .ok();
    assert_eq!(counted.text().trim(), "300000");
}

#[test]
fn without_i_there_is_no_stdin() {
    let home = Home::with_busybox();
    home.rl("run --rm busybox wc -c").stdin("secret").says("0");
}

#[test]
fn output_of_megabytes_arrives_whole() {
    let home = Home::with_busybox();
    let output = home
        .rl("run --rm busybox sh -c")
        .arg("yes 0123456789abcde | head -c 8000000")
        .ok();
    assert_eq!(output.stdout.len(), 8_000_000);
}

#[test]
fn a_closed_stdout_ends_the_program_and_not_in_silence() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let script = "set -o pipefail; \"$RL\" run --rm busybox yes | head -n 1; echo ${PIPESTATUS[0]}";
    let output = home
        .program("bash")
        .arg("-c")
        .arg(script)
        .env("RL", crate::support::rl_binary())
        .ok();
    // Killed by SIGPIPE, as pid 1 or not, or told by write(2) that nobody reads.
    assert!(
        ["y\n141\n", "y\n1\n"].contains(&output.stdout.as_str()),
        "{output:?}"
    );
}

#[test]
fn the_environment_is_the_images_and_the_users_and_nothing_of_the_host() {
    let mut home = Home::new();
    let image = Image::busybox().config(json!({ "Env": ["PATH=/bin", "A=image", "B=image"] }));
    home.load(&image, "env:latest");
    home.set("FROM_HOST", "host value");
    let list = home.file(
        "list",
        "# comment\nC=from file\nFROM_HOST\nB=file\n\nNOT_SET_ANYWHERE\n",
    );
    let output = home
        .rl("run --rm -e A=flag -e FROM_HOST -e EMPTY= -e NOT_SET --hostname h --env-file")
        .arg(list)
        .args(["-e", "D=two words", "env:latest", "env"])
        .ok();
    let mut lines = output.lines();
    // How a program can tell that it is in a container, and a habit of podman's.
    lines.retain(|line| !line.starts_with("container=") && *line != "TERM=xterm");
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "A=flag",
            "B=file",
            "C=from file",
            "D=two words",
            "EMPTY=",
            "FROM_HOST=host value",
            "HOME=/root",
            "HOSTNAME=h",
            "PATH=/bin"
        ],
        "{output:?}"
    );
}

#[test]
fn a_path_is_set_where_the_image_has_none() {
    let home = Home::new();
    home.load(&Image::busybox().config(json!({})), "nopath:latest");
    home.rl("run --rm nopath sh -c")
        .arg("echo $PATH")
        .ok()
        .stdout_has("/usr/local/bin")
        .stdout_has("/sbin");
}

#[test]
fn entrypoint_and_command_combine_as_dockers_do() {
    let home = Home::new();
    let config = json!({ "Env": ["PATH=/bin"], "Entrypoint": ["echo", "entry"], "Cmd": ["cmd"] });
    home.load(&Image::busybox().config(config), "entry:latest");
    home.rl("run --rm entry").says("entry cmd");
    home.rl("run --rm entry mine").says("entry mine");
    home.rl("run --rm --entrypoint printf entry %s-%s a b")
        .says("a-b");
    // The image's Cmd belongs to the image's entry point.
    home.rl("run --rm --entrypoint pwd entry").says("/");
    home.rl("run --rm --entrypoint")
        .arg("")
        .args(["entry", "echo", "none"])
        .says("none");
}

#[test]
fn an_image_without_any_command_says_so() {
    let home = Home::new();
    home.load(
        &Image::busybox().config(json!({ "Env": ["PATH=/bin"] })),
        "empty:latest",
    );
    home.rl("run --rm empty")
        .fails(125)
        .stderr_has_one_of(&["no command"]);
}

#[test]
fn a_working_directory_is_made_when_it_is_missing() {
    needs!(Need::Ours); // docker makes it, podman refuses the flag's
    let home = Home::with_busybox();
    home.rl("run --rm --workdir /new/one busybox pwd")
        .says("/new/one");
    home.rl("run --rm --workdir /etc/passwd/x busybox pwd")
        .fails(125)
        .stderr_has("/etc/passwd/x");
}

#[test]
fn the_working_directory_is_the_images_or_the_flags() {
    let home = Home::new();
    let config = json!({ "Env": ["PATH=/bin"], "WorkingDir": "/srv/made" });
    home.load(&Image::busybox().config(config), "cwd:latest");
    home.rl("run --rm cwd pwd").says("/srv/made");
    home.rl("run --rm -w /tmp cwd pwd").says("/tmp");
}

#[test]
fn a_relative_working_directory_is_refused() {
    needs!(Need::Ours); // podman takes it, docker refuses it
    let home = Home::with_busybox();
    home.rl("run --rm -w relative busybox pwd")
        .fails(125)
        .stderr_has("relative");
}

#[test]
fn users_are_looked_up_in_the_image() {
    needs!(Need::Ranges);
    let home = Home::with_busybox();
    let ids = "echo $(id -u):$(id -g):$(id -G)";
    for (user, expected) in [
        ("root", "0:0:0"),
        ("app", "1000:1001:1001 2000"),
        ("1000", "1000:1001:1001 2000"),
        ("app:root", "1000:0:0"),
        ("app:2000", "1000:2000:2000"),
        ("12345", "12345:0:0"),
        ("12345:54321", "12345:54321:54321"),
        (":2000", "0:2000:2000"),
    ] {
        let output = home
            .rl("run --rm -u")
            .args([user, "busybox", "sh", "-c", ids])
            .ok();
        assert_eq!(output.text(), expected, "--user {user}: {output:?}");
    }
}

#[test]
fn the_image_may_name_the_user_and_home_follows() {
    needs!(Need::Ranges);
    let home = Home::new();
    let config = json!({ "Env": ["PATH=/bin"], "User": "app" });
    home.load(&Image::busybox().config(config), "user:latest");
    home.rl("run --rm user sh -c")
        .arg("echo $(id -un) $HOME")
        .says("app /home/app");
    home.rl("run --rm -u 0 user sh -c")
        .arg("echo $(id -un) $HOME")
        .says("root /root");
}

#[test]
fn groups_can_be_added_by_name_and_number() {
    needs!(Need::Ranges);
    let home = Home::with_busybox();
    let output = home
        .rl("run --rm --group-add extra --group-add 777 busybox id -G")
        .ok();
    let groups: Vec<_> = output.text().split(' ').collect();
    for group in ["0", "777", "2000"] {
        assert!(groups.contains(&group), "{output:?}");
    }
}

#[test]
fn host_and_domain_name_are_the_containers_own() {
    let home = Home::with_busybox();
    home.rl("run --rm --hostname web busybox hostname")
        .says("web");
    home.rl("run --rm --hostname web busybox sh -c")
        .arg("echo $(cat /etc/hostname) $(grep -w web /etc/hosts | head -n 1 | wc -l)")
        .says("web 1");
    let default = home.rl("run --rm busybox hostname").ok();
    assert!(
        default.text().len() == 12 && default.text().bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{default:?}"
    );
}

#[test]
fn the_domain_name_can_be_set() {
    needs!(Need::Ours); // podman 4.3 has no such flag
    let home = Home::with_busybox();
    home.rl("run --rm --domainname example.org busybox cat /proc/sys/kernel/domainname")
        .says("example.org");
}

#[test]
fn a_read_only_root_refuses_writes_but_not_on_tmpfs() {
    let home = Home::with_busybox();
    home.rl("run --rm --read-only busybox sh -c")
        .arg("echo x > /file || echo refused; echo x > /dev/shm/file && echo shm")
        .ok()
        .stdout_is("refused\nshm");
    home.rl("run --rm --read-only --tmpfs /tmp busybox sh -c")
        .arg("echo x > /tmp/file && cat /tmp/file")
        .says("x");
}

#[test]
fn the_program_is_pid_1_and_sees_only_its_own() {
    let home = Home::with_busybox();
    home.rl("run --rm busybox sh -c").arg("echo $$").says("1");
    let output = home.rl("run --rm busybox ps -o pid,args").ok();
    let pids: Vec<_> = output
        .lines()
        .iter()
        .skip(1)
        .map(|line| line.trim().to_owned())
        .collect();
    assert_eq!(pids, ["1 ps -o pid,args"], "{output:?}");
}

#[test]
fn init_reaps_what_others_left() {
    let home = Home::with_busybox();
    // The inner shell dies before its child, which becomes a child of pid 1; a zombie would be found, too.
    let script = "sh -c 'usleep 100000 & exec true'; i=0; \
                  while pidof usleep >/dev/null; do i=$((i+1)); [ $i -lt 500 ] || { ps; exit 1; }; sleep 0.02; done";
    home.rl("run --rm --init busybox sh -c").arg(script).ok();
    home.rl("run --rm --init busybox sh -c")
        .arg("echo $(( $$ > 1 ))")
        .says("1");
    home.rl("run --rm --init busybox sh -c")
        .arg("exit 7")
        .fails(7);
}

#[test]
fn signals_are_forwarded() {
    let home = Home::with_busybox();
    for (signal, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGUSR1, "USR1"),
    ] {
        for init in ["", "--init"] {
            let script = format!(
                "trap 'echo got {name}; exit 3' {name}; echo ready; while :; do sleep 0.05; done"
            );
            let mut running = home
                .rl(&format!("run --rm {init} busybox sh -c"))
                .arg(script)
                .spawn();
            running.wait_for_stdout("ready");
            running.signal(signal);
            running.wait().code(3).stdout_has(&format!("got {name}"));
        }
    }
}

#[test]
fn rm_leaves_nothing() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run --rm busybox sh -c").arg("echo x > /file").ok();
    home.rl("run --rm busybox false").fails(1);
    home.rl("run --rm busybox no-such-program").fails(127);
    for place in [
        home.store().join("containers"),
        home.path().join("run/rl"),
        home.store().join("tmp"),
    ] {
        let left: Vec<_> = std::fs::read_dir(&place)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| !name.to_string_lossy().contains("lock"))
            .filter(|name| name != "helpers.json" && name != "ids") // what the helpers can do, kept until the next boot
            .collect();
        assert!(left.is_empty(), "{}: {left:?}", place.display());
    }
}

#[test]
fn rm_leaves_nothing_when_killed_by_a_signal() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let mut running = home
        .rl("run --rm busybox sh -c")
        .arg("echo ready; exec sleep 1000")
        .spawn();
    running.wait_for_stdout("ready");
    // sleep is pid 1 and has no handler, so that TERM does nothing: docker's behaviour; KILL cannot be forwarded.
    running.signal(Signal::SIGKILL);
    running.wait();
    home.rl("run --rm busybox true").ok();
    wait_for("the container's files to go with the next command", || {
        home.rl("run --rm busybox true").ok();
        let left = std::fs::read_dir(home.store().join("containers"))
            .into_iter()
            .flatten()
            .count();
        (left == 0).then_some(())
    });
}

#[test]
fn cidfile_and_pidfile_are_written() {
    let home = Home::with_busybox();
    let (cid, pid) = (home.path().join("cid"), home.path().join("pid"));
    let mut running = home
        .rl("run --rm -i --cidfile")
        .arg(&cid)
        .arg("--pidfile")
        .arg(&pid)
        .args(["busybox", "sh", "-c", "echo ready; cat"])
        .spawn();
    running.wait_for_stdout("ready");
    let id = std::fs::read_to_string(&cid).unwrap();
    assert!(
        id.trim().len() == 64 && id.trim().bytes().all(|byte| byte.is_ascii_hexdigit()),
        "`{id}`"
    );
    let pid = wait_for("the pid file", || {
        std::fs::read_to_string(&pid)
            .ok()
            .filter(|text| !text.is_empty())
    });
    // For a moment it has none, while the shell becomes `cat`.
    let comm = wait_for("a command line", || {
        let text = std::fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).unwrap();
        (!text.is_empty()).then_some(text)
    });
    assert!(
        comm.starts_with("cat\0") || comm.starts_with("sh\0-c\0"),
        "`{comm}`"
    );
    running.wait().code(0);
    // A file that is there already may be of another container.
    home.rl("run --rm --cidfile")
        .arg(&cid)
        .args(["busybox", "true"])
        .fails(125)
        .stderr_has("cid");
}

#[test]
fn descriptors_are_passed_on_when_asked_for() {
    let home = Home::with_busybox();
    let program = match crate::support::under_test() {
        crate::support::UnderTest::Rl => "\"$RL\"".to_owned(),
        crate::support::UnderTest::Podman => format!(
            "podman --root {0}/home/podman --runroot {0}/run/podman --cgroup-manager=cgroupfs --events-backend=file",
            home.path().display()
        ),
    };
    let script = format!(
        "echo from four > f; {program} run --rm --preserve-fds 2 busybox sh -c 'cat <&4' 3</dev/null 4<f"
    );
    home.sh(&script).says("from four");
}

#[test]
fn a_name_is_taken_once() {
    let home = Home::with_busybox();
    let mut first = home
        .rl("run --rm -i --name one busybox sh -c")
        .arg("echo ready; cat")
        .spawn();
    first.wait_for_stdout("ready");
    home.rl("run --rm --name one busybox true")
        .fails(125)
        .stderr_has("one");
    first.wait().code(0);
    home.rl("run --rm --name one busybox true").ok();
}

#[test]
fn limits_of_the_process_can_be_set() {
    let home = Home::with_busybox();
    home.rl("run --rm --ulimit nofile=100:200 --ulimit core=0 busybox sh -c")
        .arg("ulimit -n; ulimit -H -n; ulimit -c")
        .says("100\n200\n0");
}

#[test]
fn sysctls_of_its_own_namespaces_can_be_set() {
    let home = Home::with_busybox();
    home.rl("run --rm --network none --sysctl net.ipv4.ip_forward=1 --sysctl kernel.shmmni=77 busybox cat")
        .args(["/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shmmni"])
        .says("1\n77");
}

#[test]
fn many_start_side_by_side() {
    let home = Home::with_busybox();
    let running: Vec<_> = (0..12)
        .map(|number| {
            home.rl("run --rm --network none busybox echo")
                .arg(number.to_string())
                .spawn()
        })
        .collect();
    for (number, one) in running.into_iter().enumerate() {
        one.wait().code(0).stdout_is(&number.to_string());
    }
}

#[test]
fn a_directory_can_be_the_root_file_system() {
    let home = Home::new();
    let root = home.dir("root");
    home.file("layer.tar", Layer::new().with_busybox().finish());
    home.program("tar")
        .arg("-xf")
        .arg(home.path().join("layer.tar"))
        .arg("-C")
        .arg(&root)
        .ok();
    home.rl("run --rm --rootfs")
        .arg(&root)
        .args(["/bin/sh", "-c", "echo written > /file; cat /file"])
        .says("written");
    assert_eq!(
        std::fs::read_to_string(root.join("file")).unwrap(),
        "written\n"
    );
}

#[test]
fn the_hosts_own_programs_run_without_any_image() {
    needs!(Need::Ours);
    let home = Home::new();
    home.rl("run --rm host echo hello").says("hello");
    home.rl("run --rm host id -u").says("0");
    home.rl("run --rm host sh -c")
        .arg("touch /usr/bin/rl-test-mark && ls /usr/bin/rl-test-mark && ls -A /home /tmp | wc -l")
        .ok();
    assert!(
        !std::path::Path::new("/usr/bin/rl-test-mark").exists(),
        "the host was written to"
    );
}

#[test]
fn alpine_runs() {
    needs!(Need::Alpine);
    let home = Home::with_alpine();
    home.rl("run --rm alpine apk --version")
        .ok()
        .stdout_has("apk-tools");
    home.rl("run --rm alpine id -un").says("root");
    home.rl("run --rm alpine sh -c")
        .arg(". /etc/os-release; echo $ID")
        .says("alpine");
}

#[test]
fn a_made_up_name_that_is_taken_is_made_up_again() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run --network none --name mine busybox true").ok();
    let names = home.store().join("names");
    let holder = std::fs::read_link(names.join("mine")).unwrap();
    // Two of three of the names that there are: five runs meet none of them once in 240 times.
    let source = std::fs::read_to_string(source().join("src/cli/run/names.rs")).unwrap();
    let lists: Vec<Vec<&str>> = source
        .split('"')
        .map(|text| text.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.len() > 50 && words[0].starts_with("ab"))
        .collect();
    let [adjectives, surnames] = &lists[..] else {
        panic!("two lists of words are expected, not {}", lists.len());
    };
    for adjective in adjectives {
        for surname in surnames.iter().take(surnames.len() * 2 / 3) {
            std::os::unix::fs::symlink(&holder, names.join(format!("{adjective}_{surname}")))
                .unwrap();
        }
    }
    for _ in 0..5 {
        home.rl("run --rm --network none busybox true").ok();
    }
    home.rl("run --rm --network none --name mine busybox true")
        .fails(125)
        .stderr_has("taken");
}

#[test]
fn the_store_may_have_any_path() {
    needs!(Need::Ours);
    let home = Home::new();
    let long = format!("{}/{}", "x".repeat(120), "y".repeat(110));
    for name in [
        "a space",
        "co:lon",
        "com,ma",
        "back\\slash",
        "line\nbreak",
        "é",
        &long,
    ] {
        let store = home.dir(name);
        let rl = |line: &str| home.rl("--root").arg(&store).args(line.split(' '));
        rl("load -i").arg(crate::support::image::busybox()).ok();
        rl("run --rm --network none -v kept:/v busybox sh -c")
            .arg("echo ok >/v/x; cat /v/x")
            .says("ok");
        rl("run --rm --network none host sh -c")
            .arg("touch /usr/x && echo ok")
            .says("ok");
        // fuse-overlayfs itself splits at the colon.
        if name != "co:lon" && Need::check(&Need::Program("fuse-overlayfs")).is_ok() {
            rl("run --rm --network none busybox echo ok")
                .env("RL_STORAGE_DRIVER", "fuse-overlayfs")
                .says("ok");
        }
    }
}

#[test]
fn what_the_caller_keeps_private_is_readable_inside() {
    needs!(Need::Ours, Need::Ranges);
    let home = Home::with_busybox();
    home.sh("umask 077; \"$RL\" run --rm --network none -u app busybox sh -c 'cat /etc/hosts /etc/hostname /etc/resolv.conf >/dev/null && umask'")
        .says("0022");
}

#[test]
fn a_working_directory_that_was_removed_is_no_reason_to_fail() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let gone = home.dir("gone");
    let script = |words: &str| {
        home.sh(&format!(
            "rmdir ../gone; \"$RL\" run --rm --network none {words}"
        ))
        .cwd(&gone)
    };
    script("busybox echo ok").says("ok");
    std::fs::create_dir(&gone).unwrap();
    script("-v .:/x busybox ls /x").fails(125);
}
