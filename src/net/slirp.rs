//! The slirp4netns helper: a private 10.0.2.0/24 behind NAT in user space.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::pipe::PipeFlags;
use serde_json::{Value, json};

use super::ahead::Link;
use super::publish::{self, Reserved};
use super::{Ready, Uplink, spawn};
use crate::error::Fail;
use crate::paths;
use crate::spec::{Bound, HostPort, Port};

/// How often another port is tried when somebody was quicker.
const TRIES: usize = 16;

/// Its addresses. Source: slirp4netns(1), `--cidr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The container's.
    pub container: Ipv4Addr,
    /// The host's loopback, where that was opened.
    pub gateway: Ipv4Addr,
    /// Its resolver, which asks the host's.
    pub dns: Ipv4Addr,
    /// Whether the gateway leads to the host's loopback.
    pub loopback: bool,
}

/// The addresses with these options.
#[must_use]
pub fn addresses(options: &[String]) -> Addresses {
    let base = options
        .iter()
        .filter_map(|option| network(option.strip_prefix("cidr=")?))
        .next_back()
        .unwrap_or(Ipv4Addr::new(10, 0, 2, 0));
    let at = |offset: u32| Ipv4Addr::from(u32::from(base).saturating_add(offset));
    let loopback = options
        .iter()
        .rfind(|option| option.starts_with("allow_host_loopback="));
    Addresses {
        container: at(100),
        gateway: at(2),
        dns: at(3),
        loopback: loopback.is_some_and(|option| option.ends_with("=true")),
    }
}

/// The network of `10.0.2.0/24`. Source: slirp4netns, `parse_cidr()`: it must have room for its addresses.
fn network(cidr: &str) -> Option<Ipv4Addr> {
    let (address, length) = cidr.split_once('/')?;
    let address: Ipv4Addr = address.parse().ok()?;
    let length: u32 = length
        .parse()
        .ok()
        .filter(|length| (1..=25).contains(length))?;
    let mask = u32::MAX << (32 - length);
    (u32::from(address) & !mask == 0).then_some(address)
}

/// Whether it opens the published ports itself, and keeps the sender's address; else `rl:[ports]` does, which is quicker, and
/// what podman's word for it means.
#[must_use]
pub fn opens_ports(options: &[String]) -> bool {
    let mut said = options
        .iter()
        .filter_map(|option| option.strip_prefix("port_handler="));
    said.next_back() == Some("slirp4netns")
}

/// Checks the words of `--network slirp4netns:…`, podman's spelling.
///
/// # Errors
/// [`crate::error::Kind::Usage`] that names the word.
pub fn check(options: &[String]) -> Result<(), Fail> {
    words(options).map(|_| ())
}

fn words(options: &[String]) -> Result<Vec<String>, Fail> {
    let mut words = Vec::new();
    let mut mtu = "65520".to_owned();
    for option in options {
        let wrong = |why: &str| Fail::usage(format!("slirp4netns option `{option}`: {why}"));
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "allow_host_loopback" if matches!(value, "true" | "false") => {}
            "enable_ipv6" if value == "false" => {}
            "enable_ipv6" if value == "true" => words.push("--enable-ipv6".to_owned()),
            "allow_host_loopback" | "enable_ipv6" => return Err(wrong("give true or false")),
            "mtu" => match value.parse::<u16>() {
                Ok(68..=65521) => value.clone_into(&mut mtu),
                Ok(_) | Err(_) => return Err(wrong("give a number from 68 to 65521")),
            },
            "cidr" if network(value).is_some() => words.push(format!("--cidr={value}")),
            "cidr" => {
                return Err(wrong(
                    "give a network such as 10.0.2.0/24, of at least 128 addresses",
                ));
            }
            // An interface's name is allowed too; which ones there are is slirp4netns's to say.
            "outbound_addr" if !value.is_empty() => {
                words.push(format!("--outbound-addr={value}"));
            }
            "outbound_addr6" if !value.is_empty() => {
                words.push(format!("--outbound-addr6={value}"));
            }
            "outbound_addr" | "outbound_addr6" => return Err(wrong("give an address")),
            "port_handler" if matches!(value, "rootlesskit" | "slirp4netns") => {}
            "port_handler" => return Err(wrong("give rootlesskit or slirp4netns")),
            _ => {
                return Err(Fail::usage(format!("slirp4netns option `{option}` is not known"))
                    .hint("known are allow_host_loopback=true|false, cidr=NETWORK, enable_ipv6=true|false, mtu=N, outbound_addr=A, outbound_addr6=A, port_handler=rootlesskit|slirp4netns"));
            }
        }
    }
    words.push(format!("--mtu={mtu}"));
    if !addresses(options).loopback {
        words.push("--disable-host-loopback".to_owned());
    }
    Ok(words)
}

/// The interface that it serves.
pub const INTERFACE: &str = "tap0";

/// Starts slirp4netns for the process `pid`, whose interface is there already with `ahead`. Source: slirp4netns(1).
pub fn start(
    program: &Path,
    options: &[String],
    ports: Vec<Reserved>,
    ahead: Option<&Link>,
    pid: rustix::process::Pid,
) -> Result<Uplink> {
    let (ready, told) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context("making a pipe for slirp4netns")?;
    let (end, keep) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context("making a pipe for slirp4netns")?;
    let mut words = words(options)?;
    let api = if ports.is_empty() || !opens_ports(options) {
        None
    } else {
        let path = paths::runtime_dir()?.join(format!("slirp.{}", pid.as_raw_nonzero()));
        let text = path
            .to_str()
            .context("the runtime directory's name is not UTF-8")?;
        words.push(format!("--api-socket={text}"));
        Some(path)
    };
    if ahead.is_none() {
        words.push("--configure".to_owned());
    }
    words.extend([
        format!("--ready-fd={}", told.as_raw_fd()),
        format!("--exit-fd={}", end.as_raw_fd()),
        pid.as_raw_nonzero().to_string(),
        INTERFACE.to_owned(),
    ]);
    let (child, stderr) = spawn(program, &words, None, &[told.as_fd(), end.as_fd()])?;
    Ok(Uplink {
        child,
        name: "slirp4netns",
        ahead: ahead.is_some(),
        since: std::time::Instant::now(),
        program: program.to_owned(),
        ready: Ready::Byte(ready),
        stderr,
        _exit: Some(keep),
        carried: (api.is_none() && !ports.is_empty())
            .then(|| (pid, addresses(options).container.into())),
        reserved: ports,
        api,
        doors: None,
    })
}

/// Whether these ports are such as it can forward: it has no IPv6 there.
///
/// # Errors
/// `Unsupported` that names the first one that is not.
pub fn check_ports(options: &[String], ports: &[crate::spec::Publish]) -> Result<(), Fail> {
    if !opens_ports(options) {
        return Ok(());
    }
    let Some(six) = ports
        .iter()
        .find(|port| port.address.is_some_and(|address| address.is_ipv6()))
    else {
        return Ok(());
    };
    Err(Fail::unsupported(format!(
        "slirp4netns cannot publish port {} on an IPv6 address",
        six.port
    ))
    .hint("leave port_handler=slirp4netns out, use --network pasta, or an IPv4 address"))
}

/// Has the helper open the ports, and tells which ones they are.
pub fn forward(api: &Path, ports: Vec<Reserved>) -> Result<Vec<Bound>> {
    ports
        .into_iter()
        .map(|port| forward_one(api, port))
        .collect()
}

fn forward_one(api: &Path, port: Reserved) -> Result<Bound> {
    let wanted = port.wanted;
    let mut next = port;
    let mut tries = 0;
    loop {
        let mut bound = next.bound;
        // Its own socket shares a port with nobody.
        drop(next);
        let address = match bound.address {
            Some(IpAddr::V4(address)) => address,
            Some(IpAddr::V6(_)) | None => Ipv4Addr::UNSPECIFIED,
        };
        bound.address = Some(IpAddr::V4(address));
        let answer = ask(
            api,
            &json!({"execute": "add_hostfwd", "arguments": {
                "proto": bound.port.protocol.word(),
                "host_addr": address.to_string(),
                "host_port": bound.host,
                "guest_port": bound.port.number,
            }}),
        )?;
        let Some(refused) = answer.get("error") else {
            return Ok(bound);
        };
        tries += 1;
        let is_open = !matches!(wanted.host, HostPort::Fixed { .. });
        if is_open && tries < TRIES {
            next = publish::reserve_one(&wanted)?;
            continue;
        }
        let on_host = Port {
            number: bound.host,
            ..bound.port
        };
        // Who has it, if somebody has it.
        return Err(match publish::reserve_one(&wanted) {
            Err(error) => error,
            Ok(_) => Fail::network(format!(
                "slirp4netns did not publish port {on_host}: {refused}"
            ))
            .into(),
        });
    }
}

/// One question to slirp4netns. Source: slirp4netns(1), API SOCKET: a connection for each.
fn ask(api: &Path, question: &Value) -> Result<Value> {
    let doing = "telling slirp4netns which ports to open";
    let mut stream = UnixStream::connect(api).context(doing)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .context(doing)?;
    stream
        .write_all(question.to_string().as_bytes())
        .and_then(|()| stream.shutdown(Shutdown::Write))
        .context(doing)?;
    let mut answer = String::new();
    stream
        .take(4096)
        .read_to_string(&mut answer)
        .context(doing)?;
    serde_json::from_str(&answer).context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(options: &[&str]) -> Vec<String> {
        options.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn host_loopback_is_closed_unless_it_is_opened_by_name() {
        let show = |options: &[&str]| {
            words(&list(options)).map_or_else(|fail| fail.message, |words| words.join(" "))
        };
        for (options, expected) in [
            (&[][..], "--mtu=65520 --disable-host-loopback"),
            (&["allow_host_loopback=true", "mtu=1500"], "--mtu=1500"),
            (
                &[
                    "cidr=192.168.9.0/24",
                    "enable_ipv6=true",
                    "port_handler=rootlesskit",
                ],
                "--cidr=192.168.9.0/24 --enable-ipv6 --mtu=65520 --disable-host-loopback",
            ),
            (
                &["mtu=9"],
                "slirp4netns option `mtu=9`: give a number from 68 to 65521",
            ),
            (
                &["enable_ipv6=maybe"],
                "slirp4netns option `enable_ipv6=maybe`: give true or false",
            ),
            (
                &["cidr=10.0.0.1/24"],
                "slirp4netns option `cidr=10.0.0.1/24`: give a network such as 10.0.2.0/24, of at least 128 addresses",
            ),
            (&["x=1"], "slirp4netns option `x=1` is not known"),
        ] {
            assert_eq!(show(options), expected);
        }
    }

    #[test]
    fn addresses_follow_the_network() {
        let plain = addresses(&[]);
        assert_eq!(plain.container, Ipv4Addr::new(10, 0, 2, 100));
        assert!(!plain.loopback);
        let other = addresses(&list(&["cidr=192.168.9.0/24", "allow_host_loopback=true"]));
        assert_eq!(other.dns, Ipv4Addr::new(192, 168, 9, 3));
        assert!(other.loopback);
        assert!(!opens_ports(&list(&["port_handler=rootlesskit"])));
        assert!(opens_ports(&list(&[
            "port_handler=rootlesskit",
            "port_handler=slirp4netns"
        ])));
    }
}
