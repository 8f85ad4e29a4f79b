//! Hooks: programs that are told the container's state on standard input.
//!
//! Source: OCI runtime specification, config.md, "POSIX-platform Hooks".

use std::io::{Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::error::Fail;
use crate::spec::oci::Hook;
use crate::sys;

/// Runs them one after the other; `kind` is their name in the configuration, `state` the JSON they are told.
///
/// # Errors
/// The first that cannot be started, fails, or takes longer than it may: those behind it are not run.
pub fn run(hooks: &[Hook], kind: &str, state: &str) -> Result<()> {
    for (at, hook) in hooks.iter().enumerate() {
        one(hook, state).with_context(|| format!("hooks.{kind}[{at}]: `{}`", hook.path))?;
    }
    Ok(())
}

/// The same for hooks whose failure stops nothing: `warn` is told of it.
pub fn try_all(hooks: &[Hook], kind: &str, state: &str, warn: &mut dyn FnMut(&str)) {
    for (at, hook) in hooks.iter().enumerate() {
        if let Err(error) = one(hook, state) {
            warn(&format!("hooks.{kind}[{at}]: `{}`: {error:#}", hook.path));
        }
    }
}

fn one(hook: &Hook, state: &str) -> Result<()> {
    let variables = hook
        .env
        .iter()
        .map(|entry| entry.split_once('=').unwrap_or((entry, "")));
    let mut command = Command::new(&hook.path);
    command
        .args(hook.args.iter().skip(1))
        .env_clear()
        .envs(variables)
        .stdin(Stdio::from(told(state)?));
    if let Some(first) = hook.args.first() {
        command.arg0(first);
    }
    let mut child = command.spawn().context("starting it")?;
    if let Some(seconds) = hook.timeout {
        let limit = Duration::from_secs(seconds.unsigned_abs());
        if !ends_within(child.id(), limit)? {
            // It may end in this very moment.
            let _ = child.kill();
            let _ = child.wait();
            return Err(
                Fail::system(format!("killed after {seconds} seconds, its timeout")).into(),
            );
        }
    }
    let status = child.wait().context("waiting for it")?;
    if status.success() {
        Ok(())
    } else {
        Err(Fail::system(format!("it failed ({status})")).into())
    }
}

/// The state as a file in memory: a pipe would wait for a hook that does not read.
fn told(state: &str) -> Result<std::fs::File> {
    let doing = "writing the state for it";
    let fd = rustix::fs::memfd_create("state", rustix::fs::MemfdFlags::CLOEXEC).context(doing)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(state.as_bytes()).context(doing)?;
    file.rewind().context(doing)?;
    Ok(file)
}

/// Whether the child ends in this time.
fn ends_within(child: u32, limit: Duration) -> Result<bool> {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Fail::system("a process without a number"))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).context("watching it")?;
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(sys::Error::new("poll(pidfd)", errno).into()),
        }
    }
}
