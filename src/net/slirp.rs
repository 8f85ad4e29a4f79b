//! The slirp4netns helper: a private 10.0.2.0/24 behind NAT in user space.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::pipe::PipeFlags;

use super::{Ready, Uplink, spawn};
use crate::error::Fail;

/// Its resolver, which asks the host's.
pub const DNS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 0, 2, 3);

/// The container's address.
pub const ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 0, 2, 100);

/// The host, where its loopback was opened.
pub const GATEWAY: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 0, 2, 2);

/// Checks the words of `--network slirp4netns:…`, podman's spelling.
///
/// # Errors
/// [`crate::error::Kind::Usage`] that names the word.
pub fn check(options: &[String]) -> Result<(), Fail> {
    words(options).map(|_| ())
}

fn words(options: &[String]) -> Result<Vec<String>, Fail> {
    let mut words = Vec::new();
    let mut loopback = false;
    let mut mtu = "65520".to_owned();
    for option in options {
        match option.split_once('=') {
            Some(("allow_host_loopback", "true")) => loopback = true,
            Some(("allow_host_loopback", "false")) | Some(("enable_ipv6", "false")) => {}
            Some(("enable_ipv6", "true")) => words.push("--enable-ipv6".to_owned()),
            Some(("mtu", value)) if value.parse::<u16>().is_ok() => mtu = value.to_owned(),
            Some(("outbound_addr", value)) => words.push(format!("--outbound-addr={value}")),
            Some(("outbound_addr6", value)) => words.push(format!("--outbound-addr6={value}")),
            Some((_, _)) | None => {
                return Err(Fail::usage(format!("slirp4netns option `{option}` is not known"))
                    .hint("known are allow_host_loopback=true|false, enable_ipv6=true|false, mtu=N, outbound_addr=A, outbound_addr6=A"));
            }
        }
    }
    words.push(format!("--mtu={mtu}"));
    if !loopback {
        words.push("--disable-host-loopback".to_owned());
    }
    Ok(words)
}

/// Starts slirp4netns for the process `pid`. Source: slirp4netns(1).
pub fn start(program: &Path, options: &[String], pid: rustix::process::Pid) -> Result<Uplink> {
    let (ready, told) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context("making a pipe for slirp4netns")?;
    let (end, keep) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context("making a pipe for slirp4netns")?;
    let mut words = words(options)?;
    words.extend([
        "--configure".to_owned(),
        format!("--ready-fd={}", told.as_raw_fd()),
        format!("--exit-fd={}", end.as_raw_fd()),
        pid.as_raw_nonzero().to_string(),
        "tap0".to_owned(),
    ]);
    let (child, stderr) = spawn(program, &words, &[told.as_fd(), end.as_fd()])?;
    Ok(Uplink {
        child,
        name: "slirp4netns",
        ready: Ready::Byte(ready),
        stderr,
        _exit: Some(keep),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_loopback_is_closed_unless_it_is_opened_by_name() {
        let show = |options: &[&str]| {
            words(
                &options
                    .iter()
                    .map(|&word| word.to_owned())
                    .collect::<Vec<_>>(),
            )
            .map_or_else(|fail| fail.message, |words| words.join(" "))
        };
        assert_eq!(show(&[]), "--mtu=65520 --disable-host-loopback");
        assert_eq!(
            show(&["allow_host_loopback=true", "mtu=1500"]),
            "--mtu=1500"
        );
        assert_eq!(
            show(&["port_handler=x"]),
            "slirp4netns option `port_handler=x` is not known"
        );
    }
}
