//! `--network container:NAME` and `ns:PATH`: a network that is there already.

use crate::support::host::Need;
use crate::support::{Home, wait_for};

/// `web`, which nothing but its own loopback reaches: it serves `hello` there, once this returns.
fn web(home: &Home, network: &str) {
    let script = "mkdir /www; echo hello >/www/index.html; exec httpd -f -p 127.0.0.1:8000 -h /www";
    home.rl("run -d --name web --hostname webby --add-host db:192.0.2.7 --network")
        .args([network, "busybox", "sh", "-c", script])
        .ok();
    answers(home);
}

fn answers(home: &Home) {
    wait_for("an answer", || {
        let asked = home.rl("exec web").args(ASK).run();
        (asked.stdout == "hello\n").then_some(())
    });
}

const ASK: [&str; 6] = [
    "timeout",
    "5",
    "wget",
    "-q",
    "-O-",
    "http://127.0.0.1:8000/",
];

#[test]
fn a_container_joins_the_network_of_another() {
    let home = Home::with_busybox();
    web(&home, "none");
    home.rl("run --rm --network container:web busybox")
        .args(ASK)
        .says("hello");
    // By its id, and in the background; `exec` goes there too.
    let id = home.rl("inspect -f {{.Id}} web").ok();
    home.rl("run -d --name side --network")
        .args([&format!("container:{}", &id.text()[..12]), "busybox"])
        .args(["sleep", "1000"])
        .ok();
    home.rl("exec side").args(ASK).says("hello");
    home.rl("inspect -f {{.HostConfig.NetworkMode}} side")
        .says(&format!("container:{}", id.text()));
    // One that has joined can be joined.
    home.rl("run --rm --network container:side busybox")
        .args(ASK)
        .says("hello");
    home.rl("rm -f web side").ok();
}

#[test]
fn names_are_shared_and_processes_and_files_are_not() {
    let home = Home::with_busybox();
    web(&home, "none");
    home.rl("run --rm --network container:web busybox sh -c")
        .arg("grep -c '192.0.2.7.*db' /etc/hosts; hostname; ls /sys/class/net; ls -d /www 2>&1 | grep -c 'No such'; echo pid $$")
        .says("1\nwebby\nlo\n1\npid 1");
    home.rl("rm -f web").ok();
}

#[test]
fn who_has_joined_goes_on_without_the_other_and_joins_it_anew_after_a_restart() {
    let home = Home::with_busybox();
    web(&home, "none");
    home.rl("run -d --name side --network container:web busybox sleep 1000")
        .ok();
    home.rl("stop -t 0 web").ok();
    home.rl("exec side ip -o link").ok().stdout_has("LOOPBACK");
    let refused = home.rl("restart -t 0 side").fails(125);
    refused
        .stderr_has("cannot join the network of container `web`, which is not running")
        .stderr_has("rl start web");
    home.rl("start web").ok();
    answers(&home);
    home.rl("start side").ok();
    home.rl("exec side").args(ASK).says("hello");
    home.rl("rm -f web").ok();
    home.rl("exec side true").ok();
    home.rl("stop -t 0 side").ok();
    home.rl("start side").fails(125).stderr_has("is gone");
}

#[test]
fn after_a_reboot_who_is_joined_comes_back_first() {
    needs!(Need::Ours); // autostart is ours
    let home = Home::with_busybox();
    // Enough of them that chance does not have them in order.
    for name in ["a", "b", "c", "d"] {
        home.rl("run -d --restart always --network none --name")
            .args([name, "busybox", "sleep", "1000"])
            .ok();
        home.rl(&format!(
            "run -d --restart always --network container:{name} --name {name}{name} busybox sleep 1000"
        ))
        .ok();
    }
    home.rl("stop -t 0 aa bb cc dd a b c d").ok();
    home.rl("system autostart").ok();
    let running = home.rl("ps -q").ok();
    assert_eq!(running.lines().len(), 8, "{running:?}");
    home.rl("rm -f aa bb cc dd a b c d").ok();
}

#[test]
fn the_network_of_one_on_the_hosts_is_the_hosts() {
    let home = Home::with_busybox();
    home.rl("run -d --name h --network host busybox sleep 1000")
        .ok();
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    home.rl("run --rm --network container:h busybox readlink /proc/self/ns/net")
        .says(own.to_str().unwrap());
    home.rl("rm -f h").ok();
}

#[test]
fn what_does_not_go_with_the_network_of_another_is_refused() {
    needs!(Need::Ours); // podman accepts some, and says it otherwise
    let home = Home::with_busybox();
    for words in [
        "-p 80",
        "-P",
        "--hostname x",
        "--dns 192.0.2.53",
        "--add-host a:192.0.2.1",
        "--expose 80",
    ] {
        home.rl(&format!(
            "run --rm --network container:web {words} busybox true"
        ))
        .fails(125)
        .stderr_has("exclude each other");
    }
    home.rl("run --rm --network container:web busybox true")
        .fails(125)
        .stderr_has("no container `web`");
    home.rl("create --name web --network none busybox true")
        .ok();
    home.rl("run --rm --network container:web busybox true")
        .fails(125)
        .stderr_has("which is not running");
    // Other ids than the owner of the network has: nobody could be root of both.
    home.rl("run -d --name keeper --network none --userns keep-id busybox sleep 1000")
        .ok();
    home.rl("run --rm --network container:keeper --userns keep-id:uid=7,gid=7 busybox true")
        .fails(125)
        .stderr_has("other ids");
    home.rl("run --rm --network container:keeper busybox true")
        .ok();
    home.rl("rm -f keeper").ok();
}

#[test]
fn a_network_namespace_that_the_user_has_made_is_joined() {
    needs!(Need::Ours, Need::Program("unshare")); // podman's root has another user namespace
    let home = Home::with_busybox();
    let mut made = home
        .sh("exec unshare --user --map-root-user --net sh -c 'echo made; exec sleep 1000'")
        .spawn();
    made.wait_for_stdout("made");
    let path = format!("ns:/proc/{}/ns/net", made.pid());
    let namespace = std::fs::read_link(&path[3..]).unwrap();
    let ran = home
        .rl("run --rm --network")
        .args([&path, "busybox", "sh", "-c"])
        .arg("readlink /proc/self/ns/net; ls /sys/class/net; touch /x && stat -c %u /x")
        .ok();
    ran.stdout_is(&format!("{}\nlo\n0", namespace.display()))
        .stderr_has("one id");
    home.rl("run -d --name c --network")
        .args([&path, "busybox", "sleep", "1000"])
        .ok();
    home.rl("inspect -f {{.HostConfig.NetworkMode}} c")
        .says(&path);
    made.signal(nix::sys::signal::Signal::SIGKILL);
    home.rl("exec c readlink /proc/self/ns/net")
        .says(&namespace.display().to_string());
    home.rl("rm -f c").ok();
}

#[test]
fn a_network_namespace_that_cannot_be_joined_is_refused_with_the_reason() {
    needs!(Need::Ours, Need::TestHost);
    let home = Home::with_busybox();
    for (path, why) in [
        ("/no/such/file", "does not exist"),
        ("/etc/passwd", "is no network namespace"),
        ("/proc/self/ns/uts", "is no network namespace"),
        ("/proc/1/ns/net", "EACCES"),
        // Root has made it: `ip netns add`.
        ("/run/netns/rl-test-host", "EPERM"),
    ] {
        home.rl("run --rm --network")
            .args([&format!("ns:{path}"), "busybox", "true"])
            .fails(125)
            .stderr_has(why);
    }
}
