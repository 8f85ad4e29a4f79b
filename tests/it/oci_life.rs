//! The life of an OCI container: what each command does at each moment, and what it leaves.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::bundle::{Bundle, is_root, ours};
use crate::support::host::Need;
use crate::support::wait_for;

/// A bundle, where one can be run.
macro_rules! bundle {
    () => {{
        needs!(Need::Program("busybox"));
        if !is_root() {
            needs!(Need::Ranges);
        }
        Bundle::new()
    }};
}

/// What runc 1.1.5 and crun 1.8.1 do otherwise, each at another point: docs/oci-conformance.md.
macro_rules! ours_only {
    () => {
        if !ours() {
            crate::support::skip("Debian 12's runc and crun differ here");
            return;
        }
    };
}

fn hook(log: &Path, name: &str, more: &str) -> Value {
    let line = format!("cat >{0}.{name}; echo {name} >>{0}; {more}", log.display());
    json!({"path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/usr/bin:/bin"]})
}

#[test]
fn each_command_knows_the_state() {
    ours_only!();
    let mut bundle = bundle!();
    bundle.script("echo started >/log; exec sleep 1000").write();
    bundle.call(&["start", "x"]).fails(1, "does not exist");
    bundle.call(&["state", "x"]).fails(1, "does not exist");
    bundle.call(&["kill", "x"]).fails(1, "does not exist");
    bundle.call(&["delete", "x"]).fails(1, "does not exist");
    bundle.call(&["delete", "--force", "x"]).ok();

    bundle.call(&["create", "--pid-file", "pid", "x"]).ok();
    let state = bundle.state("x");
    assert_eq!(state["status"], "created");
    let pid = std::fs::read_to_string(bundle.path("b/pid")).unwrap();
    assert_eq!(state["pid"].to_string(), pid);
    assert_eq!(state["id"], "x");
    assert_eq!(state["bundle"], bundle.path("b").to_str().unwrap());
    // The program has not run.
    assert!(!bundle.path("b/rootfs/log").exists());
    bundle.call(&["create", "x"]).fails(1, "already exists");
    bundle.call(&["pause", "y"]).fails(1, "does not exist");

    bundle.call(&["start", "x"]).ok();
    assert_eq!(bundle.status("x"), "running");
    wait_for("the program", || {
        bundle.path("b/rootfs/log").exists().then_some(())
    });
    bundle.call(&["start", "x"]).fails(1, "already running");
    bundle.call(&["delete", "x"]).fails(1, "not stopped");
    assert_eq!(bundle.status("x"), "running");
    bundle
        .call(&["kill", "x", "NOSUCH"])
        .fails(1, "unknown signal");

    bundle.call(&["kill", "x", "KILL"]).ok();
    bundle.wait_for_status("x", "stopped");
    bundle.call(&["kill", "x", "KILL"]).fails(1, "not running");
    bundle.call(&["start", "x"]).fails(1, "stopped");
    bundle
        .call(&["exec", "x", "true"])
        .fails(255, "stopped container");
    bundle.call(&["delete", "x"]).ok();
    assert!(bundle.left().is_empty(), "{:?}", bundle.left());
    // The id may be used again.
    bundle.call(&["create", "x"]).ok();
    bundle.call(&["delete", "--force", "x"]).ok();
    assert!(bundle.left().is_empty(), "{:?}", bundle.left());
}

#[test]
fn the_configuration_is_read_once() {
    let mut bundle = bundle!();
    bundle.script("echo first >/log").write();
    bundle.call(&["create", "x"]).ok();
    bundle.script("echo second >/log").write();
    bundle.call(&["start", "x"]).ok();
    bundle.wait_for_status("x", "stopped");
    assert_eq!(
        std::fs::read_to_string(bundle.path("b/rootfs/log")).unwrap(),
        "first\n"
    );
}

#[test]
fn list_and_state_are_runcs() {
    ours_only!();
    let mut bundle = bundle!();
    bundle.config["annotations"] = json!({"org.example.a": "b"});
    bundle.script("sleep 1000").write();
    if ours() {
        bundle.call(&["list", "--format", "json"]).says("null");
    }
    bundle.call(&["create", "one"]).ok();
    let listed: Value =
        serde_json::from_str(&bundle.call(&["list", "-f", "json"]).ok().stdout()).unwrap();
    assert_eq!(listed[0]["id"], "one");
    assert_eq!(listed[0]["status"], "created");
    bundle.call(&["list", "-q"]).says("one");
    let table = bundle.call(&["list"]).ok().stdout();
    if ours() {
        let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(head, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    }
    assert_eq!(bundle.state("one")["annotations"]["org.example.a"], "b");
    bundle.call(&["start", "one"]).ok();
    let pid = bundle.state("one")["pid"].as_i64().unwrap();
    let pids: Vec<i64> =
        serde_json::from_str(&bundle.call(&["ps", "-f", "json", "one"]).ok().stdout()).unwrap();
    assert_eq!(pids, [pid]);
}

#[test]
fn hooks_run_in_their_order_and_places() {
    ours_only!();
    let mut bundle = bundle!();
    let log = bundle.path("b/rootfs/log");
    let outside = |name: &str| hook(&log, name, "");
    bundle.config["hooks"] = json!({
        "prestart": [outside("prestart")],
        "createRuntime": [outside("createRuntime")],
        // In the container's namespaces, and yet the runtime's file system.
        "createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", format!("cat >{0}.createContainer; echo createContainer >>{0}; hostname >{0}.name", log.display())], "env": ["PATH=/usr/bin:/bin"]}],
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat >/log.startContainer; echo startContainer >>/log; env >/log.env"], "env": ["ONLY=this", "PATH=/bin"]}],
        "poststart": [outside("poststart")],
        "poststop": [outside("poststop"), outside("poststop2")],
    });
    bundle.script("echo program >>/log; sleep 1000").write();
    let text = || std::fs::read_to_string(&log).unwrap();
    let told = |name: &str| -> Value {
        let text = std::fs::read_to_string(format!("{}.{name}", log.display())).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    bundle.call(&["create", "x"]).ok();
    assert_eq!(text(), "prestart\ncreateRuntime\ncreateContainer\n");
    let pid = bundle.state("x")["pid"].clone();
    for name in ["prestart", "createRuntime"] {
        let state = told(name);
        assert_eq!(state["pid"], pid, "{name}: {state}");
        assert_eq!(state["id"], "x");
        assert_eq!(state["bundle"], bundle.path("b").to_str().unwrap());
        if ours() {
            assert_eq!(state["status"], "creating", "{name}");
        }
    }
    let name = std::fs::read_to_string(format!("{}.name", log.display())).unwrap();
    assert_eq!(name, "clause\n");
    bundle.call(&["start", "x"]).ok();
    wait_for("the program", || text().contains("program").then_some(()));
    let lines: Vec<String> = text().lines().skip(3).map(str::to_owned).collect();
    assert_eq!(lines[0], "startContainer");
    assert!(lines.contains(&"poststart".to_owned()));
    let env = std::fs::read_to_string(format!("{}.env", log.display())).unwrap();
    assert!(env.contains("ONLY=this") && !env.contains("HOME"), "{env}");
    assert_eq!(told("poststart")["status"], "running");
    bundle.call(&["kill", "x", "KILL"]).ok();
    bundle.wait_for_status("x", "stopped");
    assert!(!text().contains("poststop"));
    bundle.call(&["delete", "x"]).ok();
    assert!(text().ends_with("poststop\npoststop2\n"), "{}", text());
    assert_eq!(told("poststop")["status"], "stopped");
}

#[test]
fn a_failing_hook_undoes_what_was_made() {
    ours_only!();
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = bundle!();
        let log = bundle.path("b/log");
        bundle.config["hooks"] = json!({
            kind: [hook(&log, "bad", "exit 3")],
            "poststop": [hook(&log, "poststop", "")],
        });
        bundle.script("echo ran >/ran").write();
        bundle
            .call(&["create", "x"])
            .fails(1, &format!("hooks.{kind}[0]"));
        assert!(bundle.left().is_empty(), "{kind}: {:?}", bundle.left());
        assert!(!bundle.path("b/rootfs/ran").exists());
        if ours() {
            assert_eq!(
                std::fs::read_to_string(&log).unwrap(),
                "bad\npoststop\n",
                "{kind}"
            );
        }
    }
    // When the container is there already, it is stopped.
    let mut bundle = bundle!();
    bundle.config["hooks"] = json!({"startContainer": [{"path": "/bin/false"}]});
    bundle.script("echo ran >/ran").write();
    bundle.call(&["create", "x"]).ok();
    bundle
        .call(&["start", "x"])
        .fails(1, "hooks.startContainer[0]");
    bundle.wait_for_status("x", "stopped");
    assert!(!bundle.path("b/rootfs/ran").exists());
    bundle.call(&["delete", "x"]).ok();
}

#[test]
fn a_hook_that_hangs_is_killed_after_its_time() {
    let mut bundle = bundle!();
    let mut slow = hook(&bundle.path("b/log"), "slow", "exec sleep 1000");
    slow["timeout"] = json!(1);
    bundle.config["hooks"] = json!({"createRuntime": [slow]});
    bundle.script("true").write();
    let begun = Instant::now();
    bundle.call(&["create", "x"]).fails(1, "its timeout");
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert!(bundle.left().is_empty());
}

#[test]
fn exec_runs_another_program() {
    ours_only!();
    let mut bundle = bundle!();
    bundle.script("sleep 1000").write();
    bundle.call(&["create", "x"]).ok();
    bundle.call(&["start", "x"]).ok();
    bundle
        .call(&["exec", "x", "sh", "-c", "echo in; hostname"])
        .says("in\nclause");
    assert_eq!(bundle.call(&["exec", "x", "sh", "-c", "exit 9"]).code(), 9);
    bundle
        .call(&[
            "exec",
            "-e",
            "A=b",
            "--cwd",
            "/tmp",
            "-u",
            "5:6",
            "x",
            "sh",
            "-c",
            "echo $A; pwd; id -u; id -g",
        ])
        .says("b\n/tmp\n5\n6");
    bundle
        .call(&["exec", "x", "nosuch"])
        .fails(255, "executable file not found in $PATH");
    let process = json!({"args": ["sh", "-c", "pwd; umask; grep CapEff /proc/self/status | cut -f2"], "cwd": "/etc", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0, "umask": 63}});
    std::fs::write(bundle.path("b/p.json"), process.to_string()).unwrap();
    let answer = bundle.call(&["exec", "--process", "p.json", "x"]).ok();
    assert_eq!(answer.stdout(), "/etc\n0077\n0000000000000000");
    bundle
        .call(&["exec", "--detach", "--pid-file", "pid", "x", "sleep", "500"])
        .ok();
    let pid = std::fs::read_to_string(bundle.path("b/pid")).unwrap();
    assert!(Path::new("/proc").join(&pid).exists());
    let pids: Vec<i64> =
        serde_json::from_str(&bundle.call(&["ps", "-f", "json", "x"]).ok().stdout()).unwrap();
    assert_eq!(pids.len(), 2, "{pids:?}");
    if ours() {
        bundle
            .call(&[
                "exec",
                "--cap",
                "CAP_SYS_NICE",
                "x",
                "grep",
                "CapEff",
                "/proc/self/status",
            ])
            .says("CapEff:\t0000000020800420");
        if !is_root() {
            bundle
                .call(&["exec", "--user", "99999999", "x", "true"])
                .fails(255, "process.user.uid");
        }
        bundle
            .call(&["exec", "x"])
            .fails(255, "process args cannot be empty");
    }
}

#[test]
fn two_creates_of_one_id_make_one_container() {
    let mut bundle = bundle!();
    bundle.script("sleep 1000").write();
    let mut children: Vec<_> = (0..8)
        .map(|_| {
            let null = std::process::Stdio::null;
            bundle
                .command(&["create", "x"])
                .stdout(null())
                .stderr(null())
                .spawn()
                .unwrap()
        })
        .collect();
    let good = children
        .iter_mut()
        .filter_map(|child| child.wait().unwrap().success().then_some(()))
        .count();
    assert_eq!(good, 1);
    assert_eq!(bundle.status("x"), "created");
}

#[test]
fn a_killed_create_leaves_no_process() {
    ours_only!();
    needs!(Need::Ours);
    let mut bundle = bundle!();
    let log = bundle.path("b/log");
    bundle.config["hooks"] =
        json!({"createRuntime": [hook(&log, "slow", "echo $$ >hook; exec sleep 1000")]});
    bundle.script("echo ran >/ran").write();
    let mut child = bundle.command(&["create", "x"]).spawn().unwrap();
    wait_for("the hook", || {
        std::fs::read_to_string(&log)
            .ok()
            .filter(|text| !text.is_empty())
    });
    let told: Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{}.slow", log.display())).unwrap())
            .unwrap();
    let pid = told["pid"].to_string();
    child.kill().unwrap();
    child.wait().unwrap();
    // As with runc, a hook goes on alone.
    let sleeping: i32 = wait_for("the hook's number", || {
        let text = std::fs::read_to_string(bundle.path("b/hook")).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    });
    let sleeping = nix::unistd::Pid::from_raw(sleeping);
    nix::sys::signal::kill(sleeping, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_for("the end of pid 1", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z")).then_some(())
    });
    bundle.call(&["delete", "--force", "x"]).ok();
    assert!(bundle.left().is_empty());
}

/// Takes the descriptor that a runtime sends to a socket, and the bytes that came with it.
fn receive(listener: &UnixListener) -> (OwnedFd, Vec<u8>) {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use std::os::fd::FromRawFd as _;
    let (stream, _) = listener.accept().unwrap();
    let mut bytes = vec![0; 1 << 16];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut slices = [std::io::IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::empty(),
    )
    .unwrap();
    let (length, mut fds) = (message.bytes, Vec::new());
    for one in message.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(all) = one {
            fds.extend(all);
        }
    }
    bytes.truncate(length);
    assert_eq!(fds.len(), 1);
    // SAFETY: the kernel has just made it for this process.
    #[allow(unsafe_code, reason = "a descriptor out of a message")]
    let fd = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    (fd, bytes)
}

#[test]
fn a_terminal_goes_to_the_console_socket() {
    let mut bundle = bundle!();
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({"height": 33, "width": 44});
    bundle
        .script("tty; stty size; test -c /dev/console && echo console")
        .write();
    bundle.call(&["create", "x"]).fails(1, "--console-socket");
    let socket = bundle.path("c.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    bundle
        .call(&["create", "--console-socket", socket.to_str().unwrap(), "x"])
        .ok();
    let (master, _) = receive(&listener);
    bundle.call(&["start", "x"]).ok();
    let mut file = std::fs::File::from(master);
    let mut text = Vec::new();
    let mut buffer = [0; 1000];
    // The end of a terminal is an error (EIO).
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    assert_eq!(text, "/dev/pts/0\n33 44\nconsole\n");
    bundle.wait_for_status("x", "stopped");
}

#[test]
fn a_terminal_without_a_socket_is_run_on_ours() {
    needs!(Need::Program("script"));
    let mut bundle = bundle!();
    bundle.config["process"]["terminal"] = json!(true);
    bundle.script("tty; read line; echo got $line").write();
    let command = bundle.command(&["run", "x"]);
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let mut child = std::process::Command::new("script")
        .args(["-qec", &words.join(" "), "/dev/null"])
        .current_dir(bundle.path("b"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("/dev/pts/0") && text.contains("got hello"),
        "{text}"
    );
}

#[test]
fn a_filter_that_notifies_reaches_its_listener() {
    let mut bundle = bundle!();
    let socket = bundle.path("n.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": socket, "listenerMetadata": "some words",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    });
    bundle.script("echo on").write();
    bundle.call(&["create", "x"]).ok();
    let mut child = bundle.command(&["start", "x"]).spawn().unwrap();
    let (_fd, bytes) = receive(&listener);
    assert!(child.wait().unwrap().success());
    let told: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(told["fds"], json!(["seccompFd"]));
    assert_eq!(told["metadata"], "some words");
    assert_eq!(told["state"]["id"], "x");
    if ours() {
        assert_eq!(told["pid"], told["state"]["pid"]);
        bundle.call(&["delete", "--force", "x"]).ok();
        bundle.config["linux"]["seccomp"]
            .as_object_mut()
            .unwrap()
            .remove("listenerPath");
        bundle.config["linux"]["seccomp"]
            .as_object_mut()
            .unwrap()
            .remove("listenerMetadata");
        bundle
            .run("x")
            .fails(1, "linux.seccomp.listenerPath: must be set");
    }
}

#[test]
fn namespaces_are_joined_by_path() {
    ours_only!();
    let mut bundle = bundle!();
    bundle.script("hostname; exec sleep 1000").write();
    bundle.call(&["create", "one"]).ok();
    bundle.call(&["start", "one"]).ok();
    let pid = bundle.state("one")["pid"].to_string();
    let path = |kind: &str| format!("/proc/{pid}/ns/{kind}");
    let linux = &mut bundle.config["linux"];
    let mut namespaces = json!([
        {"type": "mount"}, {"type": "network", "path": path("net")}, {"type": "uts", "path": path("uts")},
        {"type": "ipc", "path": path("ipc")}, {"type": "pid", "path": path("pid")}, {"type": "cgroup", "path": path("cgroup")},
    ]);
    if !is_root() {
        namespaces
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user", "path": path("user")}));
        linux.as_object_mut().unwrap().remove("uidMappings");
        linux.as_object_mut().unwrap().remove("gidMappings");
    }
    linux["namespaces"] = namespaces;
    bundle.config.as_object_mut().unwrap().remove("hostname");
    bundle.script("for n in net uts ipc pid cgroup user mnt; do readlink /proc/self/ns/$n; done");
    let said = bundle.run("two").ok().stdout();
    let inside: Vec<&str> = said.lines().collect();
    for (at, kind) in ["net", "uts", "ipc", "pid", "cgroup", "user"]
        .iter()
        .enumerate()
    {
        let wanted = std::fs::read_link(path(kind)).unwrap();
        assert_eq!(inside[at], wanted.to_str().unwrap(), "{kind}");
    }
    assert_ne!(
        inside[6],
        std::fs::read_link(path("mnt")).unwrap().to_str().unwrap()
    );
    // What is no namespace of that kind is refused.
    bundle.config["linux"]["namespaces"][1]["path"] = json!(path("uts"));
    bundle.run("three").fails(1, "linux.namespaces[1].path");
}

#[test]
fn pause_and_resume_stop_all_of_it() {
    ours_only!();
    let mut bundle = bundle!();
    needs!(Need::Controller("hugetlb"));
    bundle.script("sleep 1000").write();
    bundle.call(&["create", "x"]).ok();
    bundle.call(&["start", "x"]).ok();
    bundle.call(&["resume", "x"]).fails(1, "not paused");
    bundle.call(&["pause", "x"]).ok();
    assert_eq!(bundle.status("x"), "paused");
    if ours() {
        bundle
            .call(&["exec", "x", "true"])
            .fails(255, "paused container");
        bundle.call(&["pause", "x"]).fails(1, "not running");
    }
    bundle.call(&["resume", "x"]).ok();
    assert_eq!(bundle.status("x"), "running");
    let answer = bundle.call(&["events", "--stats", "x"]);
    if ours() {
        let told: Value = serde_json::from_str(&answer.ok().stdout()).unwrap();
        assert_eq!(told["type"], "stats");
        assert_eq!(told["data"]["pids"]["current"], 1);
    }
    bundle.call(&["pause", "x"]).ok();
    bundle.call(&["delete", "--force", "x"]).ok();
    assert!(bundle.left().is_empty());
}

#[test]
fn limits_are_changed_while_it_runs() {
    ours_only!();
    needs!(Need::Controller("hugetlb"));
    let mut bundle = bundle!();
    bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}));
    bundle.script("sleep 1000").write();
    bundle.call(&["create", "x"]).ok();
    bundle.call(&["start", "x"]).ok();
    std::fs::write(
        bundle.path("b/r.json"),
        r#"{"unified": {"hugetlb.2MB.max": "2097152"}}"#,
    )
    .unwrap();
    bundle.call(&["update", "--resources", "r.json", "x"]).ok();
    bundle
        .call(&["exec", "x", "cat", "/sys/fs/cgroup/hugetlb.2MB.max"])
        .says("2097152");
    if ours() {
        bundle.call(&["update", "--rootless", "x"]).fails(1, "");
        std::fs::write(bundle.path("b/r.json"), r#"{"pids": {"limit": "x"}}"#).unwrap();
        bundle
            .call(&["update", "-r", "r.json", "x"])
            .fails(1, "pids.limit");
    }
}

#[test]
fn kill_all_reaches_every_process() {
    ours_only!();
    let mut bundle = bundle!();
    bundle.script("sleep 1000 & sleep 1000 & wait").write();
    bundle.call(&["create", "x"]).ok();
    bundle.call(&["start", "x"]).ok();
    let count = || {
        let text = bundle.call(&["ps", "-f", "json", "x"]).stdout();
        serde_json::from_str::<Vec<i64>>(&text).map_or(0, |pids| pids.len())
    };
    wait_for("three processes", || (count() == 3).then_some(()));
    bundle.call(&["kill", "--all", "x", "KILL"]).ok();
    bundle.wait_for_status("x", "stopped");
}

#[test]
fn descriptors_are_passed_on_request_only() {
    let mut bundle = bundle!();
    bundle
        .script("ls /proc/self/fd | tr '\\n' ' '; cat <&3")
        .write();
    std::fs::write(bundle.path("b/in"), "from outside\n").unwrap();
    let words = bundle.command(&["run", "--preserve-fds", "1", "x"]);
    let line: Vec<String> = std::iter::once(words.get_program())
        .chain(words.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    // 4 is open, and stays outside.
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("{} 3<in 4<in", line.join(" "))])
        .current_dir(bundle.path("b"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.ends_with("from outside\n"), "{output:?}");
    if ours() {
        assert!(text.starts_with("0 1 2 3 4 from"), "{text}"); // 4 is ls's own
        bundle
            .call(&["run", "--preserve-fds", "9", "x"])
            .fails(1, "--preserve-fds");
    }
}

#[test]
fn errors_go_to_the_log_as_json() {
    let mut bundle = bundle!();
    bundle.config["process"]["args"] = json!(["nosuch"]);
    bundle.write();
    let log = bundle.path("log.json");
    let mut command = bundle.command(&[]);
    command.args([
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        "json",
        "create",
        "x",
    ]);
    assert!(!command.output().unwrap().status.success());
    let text = std::fs::read_to_string(&log).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "error");
    assert!(last["msg"].as_str().unwrap().contains("nosuch"), "{last}");
    assert!(last["time"].is_string());
}

#[test]
fn the_runtime_answers_to_its_names() {
    ours_only!();
    needs!(Need::Ours);
    let mut bundle = bundle!();
    bundle.script("echo named").write();
    for name in ["runc", "crun", "rl-runtime"] {
        let link = bundle.path(name);
        std::os::unix::fs::symlink(crate::support::rl_binary(), &link).unwrap();
        let output = std::process::Command::new(&link)
            .args(["--root", bundle.path("state").to_str().unwrap(), "run", "x"])
            .current_dir(bundle.path("b"))
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "named\n",
            "{name}: {output:?}"
        );
    }
    let features: Value = serde_json::from_str(&bundle.call(&["features"]).ok().stdout()).unwrap();
    assert_eq!(features["linux"]["cgroup"]["v1"], false);
    assert!(
        features["mountOptions"]
            .as_array()
            .unwrap()
            .contains(&json!("rro"))
    );
    assert_eq!(features["linux"]["namespaces"].as_array().unwrap().len(), 8);
    // What `spec` writes runs.
    std::fs::remove_file(bundle.path("b/config.json")).unwrap();
    let words: &[&str] = if is_root() {
        &["spec"]
    } else {
        &["spec", "--rootless"]
    };
    bundle.call(words).ok();
    bundle.call(words).fails(1, "exists");
    let text = std::fs::read_to_string(bundle.path("b/config.json")).unwrap();
    bundle.config = serde_json::from_str(&text).unwrap();
    bundle.config["process"]["terminal"] = json!(false);
    bundle.script("echo from spec");
    bundle.run("y").says("from spec");
}

#[test]
fn a_container_ends_with_the_run_that_waits_for_it() {
    ours_only!();
    let mut bundle = bundle!();
    bundle.script("sleep 1000 & echo up; wait").write();
    let mut run = bundle.command(&["run", "x"]);
    let mut run = run.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let output = run.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
    assert_eq!(line, "up\n");
    run.kill().unwrap(); // SIGKILL, which it can pass on to nobody
    run.wait().unwrap();
    bundle.wait_for_status("x", "stopped");
    bundle.call(&["delete", "x"]).ok();
    // One that was left alone goes on.
    bundle.call(&["run", "--detach", "y"]).ok();
    assert_eq!(bundle.status("y"), "running");
    bundle.call(&["delete", "--force", "y"]).ok();
}

#[test]
fn exec_runs_on_the_processors_of_its_affinity() {
    ours_only!();
    let mut bundle = bundle!();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    // The last one: with one processor alone nothing could be told apart.
    let last = list.unwrap().trim().rsplit([',', '-']).next().unwrap();
    let all = list.unwrap().trim();
    bundle.config["process"]["execCPUAffinity"] = json!({"initial": last, "final": last});
    bundle.script("sleep 1000").write();
    bundle.call(&["create", "x"]).ok();
    bundle.call(&["start", "x"]).ok();
    let own = "grep Cpus_allowed_list /proc/self/status | cut -f2";
    bundle.call(&["exec", "x", "sh", "-c", own]).says(last);
    // Only of what joins: pid 1 has all.
    let first = "grep Cpus_allowed_list /proc/1/status | cut -f2";
    bundle.call(&["exec", "x", "sh", "-c", first]).says(all);
    bundle.call(&["delete", "--force", "x"]).ok();
}

#[test]
fn sockets_that_systemd_passes_reach_the_program() {
    ours_only!();
    let mut bundle = bundle!();
    bundle
        .script("echo $LISTEN_FDS $LISTEN_PID $$; cat <&3")
        .write();
    let file = bundle.path("b/passed");
    std::fs::write(&file, "through 3\n").unwrap();
    let runtime = bundle.command(&["run", "x"]);
    // As systemd does: the number of the process that it executes.
    let line = "export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<passed; exec \"$@\"";
    let output = std::process::Command::new("sh")
        .args(["-c", line, "sh"])
        .arg(runtime.get_program())
        .args(runtime.get_args())
        .current_dir(bundle.path("b"))
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(shown, "1 1 1\nthrough 3\n", "{output:?}");
}

#[test]
fn without_pivot_root_the_root_is_the_bundles() {
    let mut bundle = bundle!();
    bundle
        .script("cd ..; pwd; ls -d /bin/busybox; test -e /etc/os-release || echo alone")
        .write();
    bundle
        .call(&["run", "--no-pivot", "x"])
        .says("/\n/bin/busybox\nalone");
}

/// A user without subordinate ids (rl-nosub) has one id, and that is enough for a bundle.
#[test]
fn no_ranges_a_bundle_runs_with_ones_own_id() {
    use std::os::unix::fs::MetadataExt as _;
    ours_only!();
    needs!(Need::Program("busybox"));
    let mut bundle = Bundle::new();
    bundle.script("id -u; id -g; echo written >/file; echo $$; exit 3");
    let answer = bundle.run("x");
    assert_eq!(
        (answer.code(), answer.stdout().as_str()),
        (3, "0\n0\n1"),
        "{}",
        answer.shown()
    );
    let file = std::fs::metadata(bundle.path("b/rootfs/file")).unwrap();
    assert_eq!(file.uid(), nix::unistd::geteuid().as_raw());

    bundle.script("sleep 1000").write();
    bundle.call(&["create", "x"]).ok();
    bundle.call(&["start", "x"]).ok();
    bundle
        .call(&[
            "exec",
            "x",
            "sh",
            "-c",
            "id -u; test -d /proc/1 && echo seen",
        ])
        .says("0\nseen");
    bundle.call(&["kill", "x", "KILL"]).ok();
    bundle.wait_for_status("x", "stopped");
    bundle.call(&["delete", "x"]).ok();

    let plain = bundle.config.clone();
    bundle.config["process"]["user"]["uid"] = json!(5);
    bundle
        .run("y")
        .fails(1, "process.user.uid: 5 is not mapped by linux.uidMappings");
    // Where somebody else's ids are asked for, newuidmap says no.
    bundle.config = plain;
    for name in ["uidMappings", "gidMappings"] {
        let more = json!({"containerID": 1, "hostID": 100_000, "size": 10});
        bundle.config["linux"][name]
            .as_array_mut()
            .unwrap()
            .push(more);
    }
    bundle.run("y").fails(
        1,
        "linux.uidMappings and linux.gidMappings: mapping the ids",
    );
    assert!(bundle.left().is_empty(), "{:?}", bundle.left());
}
