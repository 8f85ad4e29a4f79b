//! How a container reaches the world: the helper, its device, names, ports.

use std::path::Path;
use std::process::Command;

use rustix::fs::{Mode, OFlags};

use super::parse::{self, Tool};
use super::probe::{self, Running};
use super::{Check, Host, Status, text};
use crate::idmap::find_program;

const AXIS: &str = "network";

/// The helpers that are installed, asked for their versions.
#[derive(Debug, Default)]
pub struct Tools {
    running: Vec<(&'static str, Running)>,
}

/// Asks them all at once.
pub fn start_tools() -> Tools {
    let names = ["pasta", "slirp4netns"];
    let found = names
        .into_iter()
        .filter_map(|name| Some((name, find_program(name)?)));
    Tools {
        running: found
            .map(|(name, path)| (name, probe::spawn(Command::new(path).arg("--version"))))
            .collect(),
    }
}

/// The axis `network`.
pub fn checks(host: &Host, tools: Tools) -> Vec<Check> {
    vec![helper(host, tools), tun(), dns(), route(), ports(), ping()]
}

fn helper(host: &Host, tools: Tools) -> Check {
    let version = |(name, running): (&str, Running)| {
        let text = running
            .output()
            .map(|(out, err)| if out.trim().is_empty() { err } else { out });
        let line = text
            .unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        match line.strip_prefix(name) {
            Some(rest) => format!(
                "{name} {}",
                rest.trim_start_matches([' ', ':'])
                    .trim_start_matches("version ")
            ),
            None => format!("{name} {line}"),
        }
    };
    let names: Vec<&str> = tools.running.iter().map(|(name, _)| *name).collect();
    let check = Check::works(AXIS, "RL-N02", "uplink", "", "");
    let Some(first) = names.first() else {
        return Check {
            found: "neither pasta nor slirp4netns is installed".to_owned(),
            ..check
        }
        .because(
            Status::Less,
            "the package is missing",
            "shares the host's network, and says so",
        )
        .you("--network host, or --network none")
        .admin(host.install(Tool::Pasta));
    };
    let rl_does = format!("gives containers a network by {first}");
    let found: Vec<String> = tools.running.into_iter().map(version).collect();
    Check {
        found: found.join(", "),
        rl_does,
        ..check
    }
}

fn tun() -> Check {
    let path = "/dev/net/tun";
    let check = Check::works(
        AXIS,
        "RL-N01",
        "tap device",
        format!("{path} opens"),
        "has the uplink's helper open it in each container",
    );
    match rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => check,
        Err(errno) => Check { found: crate::sys::Error::new(format!("open({path:?})"), errno).to_string(), ..check }
            .because(
                Status::Less,
                "the tun module is not loaded (after an update of the kernel: until the next boot), the device is not for everybody, or an outer container lacks it",
                "shares the host's network, and says so",
            )
            .you("start the outer container with --device /dev/net/tun")
            .admin("modprobe tun && chmod 0666 /dev/net/tun"),
    }
}

fn dns() -> Check {
    let config = text("/etc/resolv.conf");
    let servers = parse::nameservers(&config);
    let check = Check::works(
        AXIS,
        "RL-N05",
        "name servers",
        servers.join(", "),
        "gives containers the same, through the uplink where they are on loopback",
    );
    if !servers.is_empty() {
        return check;
    }
    Check {
        found: "none in /etc/resolv.conf".to_owned(),
        ..check
    }
    .because(
        Status::Less,
        "the host has no resolver configuration",
        "lets names fail, inside and in rl itself",
    )
    .you("--dns ADDRESS, for what runs inside")
    .admin("name a server in /etc/resolv.conf")
}

/// A way out, or a proxy. Nothing is sent.
fn route() -> Check {
    let proxies = [
        "https_proxy",
        "HTTPS_PROXY",
        "http_proxy",
        "HTTP_PROXY",
        "ALL_PROXY",
        "all_proxy",
    ];
    let proxy = proxies
        .into_iter()
        .find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    let has_default = |file: &str, destination: &str, column: usize| {
        text(file).lines().any(|line| {
            let mut words = line.split_whitespace();
            words.nth(column) == Some(destination) && !line.ends_with(" lo")
        })
    };
    let v4 = has_default("/proc/net/route", "00000000", 1);
    let v6 = has_default(
        "/proc/net/ipv6_route",
        "00000000000000000000000000000000",
        0,
    );
    let check = Check::works(AXIS, "RL-N06", "way out", "", "pulls images over it");
    match (proxy, v4, v6) {
        (Some(name), _, _) => Check { found: format!("a proxy: {name}"), ..check },
        (None, true, _) => Check { found: "a default route".to_owned(), ..check },
        (None, false, true) => Check { found: "a default route, IPv6 only".to_owned(), ..check },
        (None, false, false) => Check { found: "no default route and no proxy".to_owned(), ..check }
            .because(Status::Less, "this machine reaches its neighbours only, as nodes of a cluster do", "runs the images that are there")
            .you("pull on a machine with a way out, where the store is shared, or bring the image as a file: rl load")
            .you("set https_proxy, if there is a proxy"),
    }
}

fn ports() -> Check {
    let first: u32 = text("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .trim()
        .parse()
        .unwrap_or(1024);
    let check = Check::works(
        AXIS,
        "RL-N03",
        "low ports",
        format!("from {first} on"),
        "can publish ports from there on",
    );
    if first <= 80 {
        return check;
    }
    check
        .because(Status::Less, format!("ports below {first} are root's"), "refuses to publish those")
        .you("publish a higher port: -p 8080:80")
        .admin("echo net.ipv4.ip_unprivileged_port_start=80 > /etc/sysctl.d/99-rootless.conf && sysctl --system")
}

fn ping() -> Check {
    let range = text("/proc/sys/net/ipv4/ping_group_range");
    let mut bounds = range
        .split_whitespace()
        .filter_map(|word| word.parse::<u64>().ok());
    let (first, last) = (bounds.next().unwrap_or(1), bounds.next().unwrap_or(0));
    let group = u64::from(rustix::process::getgid().as_raw());
    let check = Check::works(
        AXIS,
        "RL-N04",
        "ping",
        if first > last {
            "no group".to_owned() // the kernel's way to say so is `1 0`
        } else {
            format!("groups {first} to {last}")
        },
        "lets `ping` work inside",
    );
    if (first..=last).contains(&group) || !Path::new("/proc/sys/net/ipv4/ping_group_range").exists()
    {
        return check;
    }
    check
        .because(Status::Less, "your group may not send ICMP echoes", "lets `ping` to the outside fail")
        .admin("echo 'net.ipv4.ping_group_range=0 2147483647' > /etc/sysctl.d/99-rootless.conf && sysctl --system")
}
