//! What a container shares with the host and what is its own: user, mount, PID, network, IPC, UTS, cgroup, time.

use crate::support::Home;
use crate::support::host::Need;

fn host_namespace(name: &str) -> String {
    let link = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    link.to_string_lossy().into_owned()
}

#[test]
fn every_namespace_is_the_containers_own() {
    let home = Home::with_busybox();
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let output = home
            .rl("run --rm --network none --cgroupns private busybox readlink")
            .arg(format!("/proc/self/ns/{name}"))
            .ok();
        assert!(
            output.text().starts_with(&format!("{name}:[")),
            "{output:?}"
        );
        assert_ne!(output.text(), host_namespace(name), "{name}");
    }
}

#[test]
fn a_flag_shares_the_hosts() {
    let home = Home::with_busybox();
    for (flag, name) in [
        ("--network=host", "net"),
        ("--uts=host", "uts"),
        ("--pid=host", "pid"),
        ("--cgroupns=host", "cgroup"),
    ] {
        let output = home
            .rl("run --rm")
            .args([flag, "busybox", "readlink"])
            .arg(format!("/proc/self/ns/{name}"))
            .ok();
        assert_eq!(output.text(), host_namespace(name), "{flag}");
    }
}

#[test]
fn docker_and_podman_may_name_what_is_so_anyway() {
    let home = Home::with_busybox();
    for (flag, name, words) in [
        ("--pid", "pid", &["private"][..]),
        ("--ipc", "ipc", &["private", "shareable", "none"]),
        ("--uts", "uts", &["private"]),
        ("--cgroupns", "cgroup", &["private"]),
    ] {
        for word in words {
            for spelling in [
                vec![format!("{flag}={word}")],
                vec![flag.into(), word.to_string()],
            ] {
                let output = home
                    .rl("run --rm --network none")
                    .args(&spelling)
                    .args(["busybox", "readlink"])
                    .arg(format!("/proc/self/ns/{name}"))
                    .ok();
                assert!(
                    output.text().starts_with(&format!("{name}:[")),
                    "{output:?}"
                );
                assert_ne!(output.text(), host_namespace(name), "{spelling:?}");
            }
        }
    }
    home.rl("run --rm --network none --pid none busybox true")
        .fails(125);
}

#[test]
fn with_the_hosts_pids_the_host_is_seen() {
    let home = Home::with_busybox();
    let own = std::process::id().to_string();
    home.rl("run --rm --pid host busybox sh -c")
        .arg(format!("[ -d /proc/{own} ] && echo seen"))
        .says("seen");
    home.rl("run --rm busybox sh -c")
        .arg(format!("[ -d /proc/{own} ] || echo hidden"))
        .says("hidden");
}

#[test]
fn ipc_is_apart() {
    let home = Home::with_busybox();
    home.rl("run --rm --ipc none busybox sh -c")
        .arg("[ ! -d /dev/shm ] || grep -c ' /dev/shm ' /proc/self/mounts")
        .ok();
    needs!(Need::Ours); // podman wants a /dev/mqueue on the host
    let output = home
        .rl("run --rm --ipc host busybox readlink /proc/self/ns/ipc")
        .ok();
    assert_eq!(output.text(), host_namespace("ipc"));
    let name = format!("rl-test-{}", std::process::id());
    let host = std::path::Path::new("/dev/shm").join(&name);
    std::fs::write(&host, "host").unwrap();
    let private = home
        .rl("run --rm busybox sh -c")
        .arg(format!("cat /dev/shm/{name} 2>/dev/null || echo none"))
        .run();
    let shared = home
        .rl("run --rm --ipc host busybox cat")
        .arg(format!("/dev/shm/{name}"))
        .run();
    std::fs::remove_file(&host).unwrap();
    private.code(0).stdout_is("none");
    shared.code(0).stdout_is("host");
}

#[test]
fn the_host_keeps_its_name() {
    let home = Home::with_busybox();
    let before = nix::unistd::gethostname().unwrap();
    home.rl("run --rm --hostname other --cap-add SYS_ADMIN busybox sh -c")
        .arg("hostname changed && hostname")
        .says("changed");
    assert_eq!(nix::unistd::gethostname().unwrap(), before);
    home.rl("run --rm --uts host busybox hostname")
        .says(before.to_str().unwrap());
}

#[test]
fn the_cgroup_is_the_root_of_its_own_view() {
    let home = Home::with_busybox();
    let output = home
        .rl("run --rm --cgroupns private busybox grep ^0:: /proc/self/cgroup")
        .ok();
    assert!(
        output.text() == "0::/" || !output.text().contains("rl-test"),
        "{output:?}"
    );
}

#[test]
fn clocks_can_be_set_ahead() {
    needs!(Need::Ours, Need::Kernel("/proc/self/ns/time"));
    let home = Home::with_busybox();
    let up = || {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        text.split('.').next().unwrap().parse::<i64>().unwrap()
    };
    let before = up();
    let output = home.rl("run --rm --network none --time-offset boottime=1000000,monotonic=5000 busybox cat /proc/uptime /proc/self/timens_offsets").ok();
    let inside: i64 = output.stdout.split('.').next().unwrap().parse().unwrap();
    assert!(
        (before + 1_000_000..=up() + 1_000_000).contains(&inside),
        "{before} {output:?}"
    );
    let offsets: Vec<_> = output
        .stdout
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .collect();
    assert_eq!(
        offsets,
        [["monotonic", "5000", "0"], ["boottime", "1000000", "0"]]
    );
    let output = home
        .rl("run --rm --network none --time-offset boottime=+30d busybox cat /proc/uptime")
        .ok();
    let inside: i64 = output.stdout.split('.').next().unwrap().parse().unwrap();
    assert!(inside >= before + 30 * 86_400, "{output:?}");
    let plain = home
        .rl("run --rm --network none busybox readlink /proc/self/ns/time")
        .ok();
    assert_eq!(
        plain.text(),
        host_namespace("time"),
        "no offset, no namespace"
    );
    home.rl("run --rm --time-offset realtime=5 busybox true")
        .fails(125)
        .stderr_has("realtime");
    home.rl("run --rm --time-offset boottime=soon busybox true")
        .fails(125)
        .stderr_has("soon");
}

#[test]
fn a_container_inside_a_container_has_room() {
    let home = Home::with_busybox();
    home.rl("run --rm --security-opt seccomp=unconfined --cap-add SYS_ADMIN busybox unshare -m -p -f --mount-proc sh -c").arg("echo $$").says("1");
}
