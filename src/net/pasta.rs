//! The pasta helper (passt): copies the host's address and routes into the container, no NAT.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::pipe::PipeFlags;

use super::names::{self, Host};
use super::{Ready, Uplink, spawn};

/// Where the container finds the host's name server when that one listens on loopback only.
pub const DNS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);

/// Starts pasta for the process `pid`. Source: pasta(1).
pub fn start(program: &Path, options: &[String], pid: rustix::process::Pid) -> Result<Uplink> {
    let (ready, told) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context("making a pipe for pasta")?;
    let mut words: Vec<String> = [
        "--foreground",
        "--quiet",
        "--config-net",
        // Closed by default: the gateway's address leads to the host's loopback otherwise.
        "--no-map-gw",
        "-t",
        "none",
        "-u",
        "none",
        "-T",
        "none",
        "-U",
        "none",
    ]
    .map(str::to_owned)
    .to_vec();
    // Only then: it rewrites the sender of every answer, also of one that was asked directly.
    if names::reachable_servers(&Host::read().resolv_conf).is_empty() {
        words.extend(["--dns-forward".to_owned(), DNS.to_string()]);
    }
    // It writes its number when the interface is configured and packets flow.
    words.extend([
        "--pid".to_owned(),
        format!("/proc/self/fd/{}", told.as_raw_fd()),
    ]);
    for option in options {
        let (key, value) = option
            .split_once('=')
            .map_or((option.as_str(), None), |(key, value)| (key, Some(value)));
        words.push(key.to_owned());
        words.extend(value.map(str::to_owned));
    }
    words.push(pid.as_raw_nonzero().to_string());
    let (child, stderr) = spawn(program, &words, &[told.as_fd()])?;
    Ok(Uplink {
        child,
        name: "pasta",
        ready: Ready::Byte(ready),
        stderr,
        _exit: None,
    })
}
