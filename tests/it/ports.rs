//! `-p`, `-P`, `rl port`: what of a container is reached through the host.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use crate::support::host::Need;
use crate::support::{Home, wait_for};

const NETWORKS: [&str; 3] = [
    "pasta",
    "slirp4netns",
    "slirp4netns:port_handler=slirp4netns",
];

/// A container that answers on port 80 with its host's name.
fn web(home: &Home, name: &str, flags: &str) {
    home.rl(&format!("run -d --name {name} {flags} busybox sh -c"))
        .arg("mkdir /www; echo I am $0 >/www/index.html; exec httpd -f -p 80 -h /www")
        .arg(name)
        .ok();
}

/// What a web server says; nothing while it does not.
fn get(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.contains("I am").then_some(answer)
}

fn public(home: &Home, name: &str, port: &str) -> String {
    let output = home.rl("port").args([name, port]).ok();
    let lines = output.lines();
    lines.first().unwrap().replace("0.0.0.0", "127.0.0.1")
}

#[test]
fn a_published_port_answers_and_is_the_same_after_a_restart() {
    needs!(
        Need::Ours,
        Need::Program("pasta"),
        Need::Program("slirp4netns"),
        Need::Writable("/dev/net/tun")
    );
    for network in NETWORKS {
        let home = Home::with_busybox();
        // One that is free now is asked for by number afterwards.
        web(&home, "first", &format!("--network {network} -p 80"));
        let address = public(&home, "first", "80");
        wait_for("an answer", || get(&address)).contains("first");
        home.rl("rm -f first").ok();
        let number = address.rsplit(':').next().unwrap();
        web(&home, "web", &format!("--network {network} -p {number}:80"));
        wait_for("an answer", || get(&address));
        home.rl("ps")
            .ok()
            .stdout_has(&format!("0.0.0.0:{number}->80/tcp"));
        home.rl("port web")
            .ok()
            .stdout_has(&format!("80/tcp -> 0.0.0.0:{number}"));
        let inspect = home.rl("inspect web").ok().json();
        let shown = &inspect[0]["NetworkSettings"]["Ports"]["80/tcp"][0];
        assert_eq!(shown["HostPort"], number, "{inspect}");
        let asked = &inspect[0]["HostConfig"]["PortBindings"]["80/tcp"][0];
        assert_eq!(asked["HostPort"], number, "{inspect}");
        home.rl("restart -t 0 web").ok();
        wait_for("an answer after the restart", || get(&address));
        home.rl("stop -t 0 web").ok();
        home.rl("port web").says("");
        // Nobody has it any more.
        drop(TcpListener::bind(&address).unwrap());
        home.rl("rm web").ok();
    }
}

#[test]
fn a_port_that_is_taken_is_refused_with_who_has_it() {
    needs!(
        Need::Ours,
        Need::Program("pasta"),
        Need::Program("slirp4netns")
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let home = Home::with_busybox();
    for network in NETWORKS {
        for flags in ["--rm", "-d --name left"] {
            home.rl(&format!(
                "run {flags} --network {network} -p {port}:80 busybox true"
            ))
            .fails(125)
            .stderr_has(&format!("port {port}/tcp of the host is taken by"))
            .stderr_has(&format!("process {}", std::process::id()));
        }
    }
    web(&home, "web", "-p 127.0.0.1::80");
    let address = public(&home, "web", "80");
    home.rl(&format!("run --rm -p {address}:80 busybox true"))
        .fails(125)
        .stderr_has("by the container `web`");
    home.rl("ps -aq")
        .ok()
        .lines()
        .len()
        .eq(&1)
        .then_some(())
        .unwrap();
    home.rl("rm -f web").ok();
}

#[test]
fn what_cannot_be_published_says_why() {
    needs!(
        Need::Ours,
        Need::Program("pasta"),
        Need::Program("slirp4netns")
    );
    let home = Home::with_busybox();
    for (flags, part) in [
        ("-p 1:80", "net.ipv4.ip_unprivileged_port_start=1"),
        ("-p 203.0.113.9:8000:80", "no address `203.0.113.9`"),
        ("-p 80:80/sctp", "SCTP"),
        ("-p 8000-8001:80-82", "8000-8001:80-82"),
        (
            "--network slirp4netns:port_handler=slirp4netns -p [::1]:8000:80",
            "IPv6",
        ),
        ("--network container:web -p 80", "exclude each other"),
        ("-p 8000:80 -p 8000:81", "given twice"),
        (
            "--network pasta:--nonsense",
            "unrecognized option '--nonsense'",
        ),
        ("--network slirp4netns:cidr=x", "cidr=x"),
    ] {
        let output = home
            .rl(&format!("run --rm {flags} busybox true"))
            .fails(125);
        output.stderr_has(part);
    }
    for network in ["host", "none"] {
        home.rl(&format!(
            "run --rm --network {network} -p 8000:80 busybox true"
        ))
        .ok()
        .stderr_has("published ports are discarded");
    }
}

#[test]
fn exposed_ports_are_published_on_free_ones() {
    needs!(Need::Ours, Need::Program("pasta"));
    let home = Home::with_busybox();
    web(&home, "web", "-P --expose 80 --expose 53/udp");
    let output = home.rl("port web").ok();
    output
        .stdout_has("80/tcp -> 0.0.0.0:")
        .stdout_has("53/udp -> ");
    let address = public(&home, "web", "80");
    wait_for("an answer", || get(&address));
    home.rl("port web 81").fails(125).stderr_has("81/tcp");
    home.rl("rm -f web").ok();
}

#[test]
fn a_killed_monitor_leaves_no_port_and_a_killed_helper_is_told_of() {
    needs!(
        Need::Ours,
        Need::Program("pasta"),
        Need::Program("slirp4netns")
    );
    for network in NETWORKS {
        let home = Home::with_busybox();
        web(
            &home,
            "web",
            &format!("--network {network} -p 127.0.0.1::80"),
        );
        let address = public(&home, "web", "80");
        wait_for("an answer", || get(&address));
        let id = home.rl("ps -q --no-trunc").ok().text().trim().to_owned();
        let monitor = of_monitor(&id);
        kill(child_named(
            monitor,
            network.split(':').next().unwrap_or(network),
        ));
        wait_for("the news", || {
            let output = home.rl("inspect web").ok().json();
            let error = output[0]["State"]["Error"].as_str().unwrap().to_owned();
            error.contains("has ended").then_some(())
        });
        home.rl("events --since 10m --until 0s")
            .ok()
            .stdout_has("network_lost");
        home.rl("restart -t 0 web").ok();
        let address = public(&home, "web", "80");
        wait_for("an answer after the restart", || get(&address));
        kill(of_monitor(&id));
        wait_for("the port to be free", || TcpListener::bind(&address).ok());
        home.rl("rm -f web").ok();
    }
}

#[test]
fn what_carries_ports_beside_slirp4netns_is_missed_when_it_is_killed() {
    needs!(
        Need::Ours,
        Need::Program("slirp4netns"),
        Need::Writable("/dev/net/tun")
    );
    let home = Home::with_busybox();
    web(
        &home,
        "web",
        "--network slirp4netns -p [::1]::80 -p 127.0.0.1::80",
    );
    for line in home.rl("port web 80").ok().lines() {
        wait_for("an answer, over IPv6 too", || get(line));
    }
    let id = home.rl("ps -q --no-trunc").ok().text().trim().to_owned();
    kill(child_named(of_monitor(&id), "rl:[ports]"));
    wait_for("the news", || {
        let shown = home.rl("inspect -f {{.State.Error}} web").ok();
        shown
            .text()
            .contains("closed until a restart")
            .then_some(())
    });
    home.rl("events --since 10m --until 0s")
        .ok()
        .stdout_has("helper=rl:[ports]");
    home.rl("restart -t 0 web").ok();
    let address = public(&home, "web", "80");
    wait_for("an answer after the restart", || get(&address));
    home.rl("rm -f web").ok();
}

fn arguments(pid: i32) -> Vec<String> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split('\0').map(str::to_owned).collect()
}

fn processes() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The process of the monitor of the container with this id.
pub fn of_monitor(id: &str) -> i32 {
    let found = processes().into_iter().find(|pid| {
        let words = arguments(*pid);
        words[0].starts_with("rl:[monitor]") && words.iter().any(|word| word == id)
    });
    found.unwrap()
}

/// A child whose first word ends with this.
pub fn child_named(parent: i32, name: &str) -> i32 {
    let found = processes().into_iter().find(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let mut rest = stat.rsplit(')').next().unwrap().split_whitespace();
        rest.nth(1) == Some(&parent.to_string()) && arguments(*pid)[0].ends_with(name)
    });
    found.unwrap()
}

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn the_host_has_a_name_inside_and_its_loopback_opens_by_name() {
    needs!(Need::Ours, Need::Program("slirp4netns"));
    let home = Home::with_busybox();
    home.rl("run --rm --network slirp4netns:allow_host_loopback=true,cidr=10.7.0.0/24 busybox grep -w host.docker.internal /etc/hosts")
        .ok()
        .stdout_has("10.7.0.2");
    home.rl("run --rm --network none busybox cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
        .says("0");
}

#[test]
fn proxies_go_along_unless_they_are_refused() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let echo = |flags: &str| {
        home.rl(&format!("run --rm --network none {flags} busybox sh -c"))
            .arg("echo $http_proxy.")
            .env("http_proxy", "http://localhost:3128")
            .ok()
    };
    let output = echo("");
    output.stdout_is("http://localhost:3128.");
    output.stderr_has("the container itself");
    echo("--http-proxy=false").stdout_is(".");
    echo("-e http_proxy=mine").stdout_is("mine.");
}
