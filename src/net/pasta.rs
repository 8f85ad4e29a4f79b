//! The pasta helper (passt): copies the host's address and routes into the container, no NAT.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::pipe::PipeFlags;
use rustix::process::Pid;

use super::ahead::Link;
use super::names::{self, Host};
use super::publish::Reserved;
use super::{Chosen, Ready, Uplink, probe, spawn};
use crate::error::Fail;
use crate::spec::{Bound, Protocol};

/// Where the container finds the host's name server when that one listens on loopback only.
pub const DNS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);

/// What it is started with, as far as its version decides.
pub fn with(program: PathBuf, options: Vec<String>) -> Chosen {
    Chosen::Pasta {
        maps_host: probe::knows(&program, MAP_GUEST),
        program,
        options,
    }
}

/// What an administrator can do where [`is_forbidden`].
pub const REMEDY: &str = "ln -s /etc/apparmor.d/usr.bin.passt /etc/apparmor.d/disable/ && apparmor_parser -R /etc/apparmor.d/usr.bin.passt";

/// Whether AppArmor confines this program by the profile that Debian 12 has: it may look at no other process, so that it cannot
/// open their namespaces, and would not see their end either. Newer packages have a profile of pasta's own, which lets it. Which
/// ones are loaded, the kernel tells root alone; this is what would be loaded.
pub fn is_forbidden(program: &Path) -> bool {
    let enforces = std::fs::read("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|enabled| enabled.starts_with(b"Y"));
    let has = |name: &str| {
        Path::new("/etc/apparmor.d")
            .join(name)
            .symlink_metadata()
            .is_ok()
    };
    enforces
        && program.starts_with("/usr/bin")
        && has("usr.bin.passt")
        && !has("usr.bin.pasta")
        && !has("disable/usr.bin.passt")
}

/// The option of newer ones for what [`HOST`] is.
const MAP_GUEST: &str = "--map-guest-addr";

/// Where a newer pasta leads to the host's own address, which is the container's, too. Podman's value.
pub const HOST: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 2);

/// Whether `--map-gw` is said: the gateway's address is the host's loopback then.
pub fn maps_gateway(options: &[String]) -> bool {
    Given::read(options).map_gw
}

/// Starts pasta for the process `pid`, whose interface is there already with `ahead`. Source: pasta(1).
pub fn start(
    program: &Path,
    options: &[String],
    maps_host: bool,
    ports: Vec<Reserved>,
    ahead: Option<&Link>,
    pid: Pid,
) -> Result<Uplink> {
    let (ready, told) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context("making a pipe for pasta")?;
    let given = Given::read(options);
    let mut words = ["--foreground", "--quiet"].map(str::to_owned).to_vec();
    words.extend(match ahead {
        Some(link) => vec!["--ns-ifname".to_owned(), link.name.clone()],
        None => vec!["--config-net".to_owned()],
    });
    if rustix::process::geteuid().is_root() {
        // Else it becomes `nobody`, who may not enter what belongs to root.
        words.extend(["--runas", "0"].map(str::to_owned));
    }
    if !given.map_gw {
        // Closed by default: the gateway's address leads to the host's loopback otherwise.
        words.push("--no-map-gw".to_owned());
    }
    if maps_host && !given.words.iter().any(|word| word == MAP_GUEST) {
        words.extend([MAP_GUEST.to_owned(), HOST.to_string()]);
    }
    let bound: Vec<Bound> = ports.iter().map(|port| port.bound).collect();
    words.extend(port_words(&bound, &given.words)?);
    // Only then: it rewrites the sender of every answer, also of one that was asked directly.
    if names::reachable_servers(&Host::files().resolv_conf).is_empty() {
        words.extend(["--dns-forward".to_owned(), DNS.to_string()]);
    }
    // It writes its number when the interface is configured and packets flow. Newer ones close all but the first three.
    words.extend(["--pid", "/proc/self/fd/1"].map(str::to_owned));
    words.extend(given.words);
    words.push(pid.as_raw_nonzero().to_string());
    let (child, stderr) = spawn(program, &words, Some(told.as_fd()), &[])?;
    Ok(Uplink {
        child,
        name: "pasta",
        ahead: ahead.is_some(),
        since: std::time::Instant::now(),
        program: program.to_owned(),
        ready: Ready::Byte(ready),
        stderr,
        _exit: None,
        carried: None,
        reserved: ports,
        api: None,
        doors: None,
    })
}

/// The words of `--network pasta:…`, podman's spelling: pasta's own, separated by commas, and `--map-gw`, which
/// only takes our `--no-map-gw` away.
struct Given {
    words: Vec<String>,
    map_gw: bool,
}

impl Given {
    fn read(options: &[String]) -> Self {
        let mut given = Self {
            words: Vec::new(),
            map_gw: false,
        };
        for option in options {
            if option == "--map-gw" {
                given.map_gw = true;
                continue;
            }
            let (key, value) = option
                .split_once('=')
                .map_or((option.as_str(), None), |(key, value)| (key, Some(value)));
            given.words.push(key.to_owned());
            given.words.extend(value.map(str::to_owned));
        }
        given
    }
}

/// So many ports are named one by one: of a longer list pasta takes what it gets, as ranges.
const NAMED: usize = 512;

/// `-t`, `-u`, and that nothing is forwarded out of the namespace unless the user says so.
fn port_words(ports: &[Bound], given: &[String]) -> Result<Vec<String>, Fail> {
    let mut words = Vec::new();
    for (short, long, protocol) in [
        ("-t", "--tcp-ports", Some(Protocol::Tcp)),
        ("-u", "--udp-ports", Some(Protocol::Udp)),
        ("-T", "--tcp-ns", None),
        ("-U", "--udp-ns", None),
    ] {
        let mine: Vec<&Bound> = ports
            .iter()
            .filter(|port| Some(port.port.protocol) == protocol)
            .collect();
        let is_given = given.iter().any(|word| word == short || word == long);
        if mine.is_empty() && !is_given {
            words.extend([short.to_owned(), "none".to_owned()]);
        }
        refuse_overlap(&mine)?;
        for spec in specs(&mine) {
            words.extend([short.to_owned(), spec]);
        }
    }
    Ok(words)
}

/// pasta knows ports by number alone, whatever the address.
fn refuse_overlap(ports: &[&Bound]) -> Result<(), Fail> {
    let mut numbers: Vec<u16> = ports.iter().map(|port| port.host).collect();
    numbers.sort_unstable();
    let Some(pair) = numbers.windows(2).find(|pair| pair[0] == pair[1]) else {
        return Ok(());
    };
    Err(Fail::unsupported(format!(
        "pasta cannot publish port {} on two addresses at once",
        pair[0]
    ))
    .hint("publish it on all addresses: leave the address out")
    .hint("or, for IPv4, use --network slirp4netns"))
}

/// `ADDRESS/8000:80`, or ranges where there are very many.
fn specs(ports: &[&Bound]) -> Vec<String> {
    let mut specs = Vec::new();
    let mut at = 0;
    while let Some(first) = ports.get(at) {
        let length = if ports.len() <= NAMED {
            1
        } else {
            1 + ports[at..]
                .windows(2)
                .take_while(|pair| {
                    pair[0].address == pair[1].address
                        && pair[0].host.checked_add(1) == Some(pair[1].host)
                        && pair[0].port.number.checked_add(1) == Some(pair[1].port.number)
                })
                .count()
        };
        let last = ports[at + length - 1];
        let range = |first: u16, last: u16| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        };
        let address = first
            .address
            .map_or_else(String::new, |address| format!("{address}/"));
        specs.push(format!(
            "{address}{}:{}",
            range(first.host, last.host),
            range(first.port.number, last.port.number)
        ));
        at += length;
    }
    specs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Port;

    fn bound(address: Option<&str>, host: u16, number: u16, protocol: Protocol) -> Bound {
        Bound {
            address: address.map(|text| text.parse().unwrap()),
            host,
            port: Port { number, protocol },
        }
    }

    #[test]
    fn ports_are_told_to_pasta_in_its_words() {
        let show = |ports: &[Bound], given: &[&str]| {
            let given: Vec<String> = given.iter().map(|&word| word.to_owned()).collect();
            port_words(ports, &given).map_or_else(|fail| fail.message, |words| words.join(" "))
        };
        let one = bound(None, 8080, 80, Protocol::Tcp);
        let six = bound(Some("::1"), 5353, 53, Protocol::Udp);
        assert_eq!(show(&[], &[]), "-t none -u none -T none -U none");
        assert_eq!(
            show(&[one, six], &[]),
            "-t 8080:80 -u ::1/5353:53 -T none -U none"
        );
        assert_eq!(
            show(&[], &["-T", "5432", "--tcp-ports", "1"]),
            "-u none -U none"
        );
        assert_eq!(
            show(
                &[one, bound(Some("127.0.0.1"), 8080, 81, Protocol::Tcp)],
                &[]
            ),
            "pasta cannot publish port 8080 on two addresses at once"
        );
        let many: Vec<Bound> = (1000..2000)
            .map(|host| bound(None, host, host + 1, Protocol::Tcp))
            .chain([bound(None, 5000, 1, Protocol::Tcp)])
            .collect();
        assert_eq!(
            show(&many, &[]),
            "-t 1000-1999:1001-2000 -t 5000:1 -u none -T none -U none"
        );
    }

    #[test]
    fn the_gateway_is_mapped_when_it_is_said() {
        let given = Given::read(&["--map-gw", "--mtu=1500", "-T", "1"].map(str::to_owned));
        assert!(given.map_gw);
        assert_eq!(given.words, ["--mtu", "1500", "-T", "1"]);
        assert!(!Given::read(&[]).map_gw);
    }
}
