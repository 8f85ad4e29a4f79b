//! What is done to containers that exist: start, stop, kill, wait, remove.
//!
//! Signals go through pidfds of processes that were compared with what was written down, so none ever hits a
//! stranger. Waiting is for the container's lock or a process's end, never for a time.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::attach::{Kind, Peer};
use super::emit;
use super::events::Event;
use super::monitor;
use super::record::{Lock, Record};
use super::state::{State, Status};
use crate::error::Fail;
use crate::idmap::{self, Available};
use crate::paths;
use crate::spec::{ContainerSpec, MountSource, UserNs};
use crate::sys;

/// What was found when a container was to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It runs now.
    Done,
    /// It ran already.
    Running,
}

/// Starts a container under a monitor. `watcher` gets its output from the first byte on.
///
/// # Errors
/// What keeps the program from starting.
pub fn start(
    record: &Record,
    watcher: Option<&UnixStream>,
    say: &mut dyn FnMut(&str),
) -> Result<Start> {
    let lock = loop {
        if let Some(lock) = record.try_lock()? {
            break lock;
        }
        if matches!(record.state()?.status, Status::Running | Status::Restarting) {
            return Ok(Start::Running);
        }
        // Somebody is about to start or has just ended it: the next look says which.
        drop(record.lock()?);
    };
    start_locked(record, &lock, watcher, say).map(|()| Start::Done)
}

/// As [`start`], for the one who holds the lock.
///
/// # Errors
/// What keeps the program from starting.
pub fn start_locked(
    record: &Record,
    lock: &Lock,
    watcher: Option<&UnixStream>,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let spec = record.spec()?;
    monitor::spawn(record, &spec.name, lock, watcher, say).map(|_| ())
}

/// Asks the program to end, and kills it after `timeout` when it has not. `None` waits for ever. No restart
/// follows. A container that does not run is left as it is.
///
/// # Errors
/// The system's.
pub fn stop(record: &Record, signal: Option<i32>, timeout: Option<Duration>) -> Result<()> {
    let state = record.state()?;
    if state.status == Status::Restarting {
        return stay_ended(record);
    }
    let Some((state, process)) = running(state) else {
        return Ok(());
    };
    let spec = record.spec()?;
    let signal = signal
        .or_else(|| sys::signal::number(&spec.stop_signal))
        .unwrap_or(libc::SIGTERM);
    if state.owner.is_some() {
        stay_ended(record)?;
    }
    emit(
        record.store(),
        &Event::container("kill", &spec).with("signal", &signal),
    );
    sys::process::signal_pidfd(&process, signal)?;
    if !ended_within(&process, timeout)? {
        sys::process::signal_pidfd(&process, libc::SIGKILL)?;
        ended_within(&process, None)?;
    }
    settle(record)?;
    emit(record.store(), &Event::container("stop", &spec));
    Ok(())
}

/// The program's process, when the container runs.
fn running(state: State) -> Option<(State, OwnedFd)> {
    if state.status != Status::Running {
        return None;
    }
    let process = state.process.as_ref()?.open()?;
    Some((state, process))
}

/// Waits until whoever holds the container has written down its end.
fn settle(record: &Record) -> Result<()> {
    match record.lock() {
        Ok(lock) => drop(lock),
        // A `--rm` container is gone by now.
        Err(error) if !record.dir().exists() => drop(error),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Whether the process has ended within `timeout`.
fn ended_within(process: &OwnedFd, timeout: Option<Duration>) -> Result<bool> {
    let until = timeout.map(|timeout| std::time::Instant::now() + timeout);
    loop {
        let left = until.map(|until| {
            let left = until.saturating_duration_since(std::time::Instant::now());
            rustix::time::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        let mut fds = [PollFd::new(process, PollFlags::IN)];
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(sys::Error::new("poll(pidfd)", errno).into()),
        }
    }
}

/// Tells the monitor that no restart is wanted. A container without one has nobody who would restart it.
fn stay_ended(record: &Record) -> Result<()> {
    let Ok(stream) = UnixStream::connect(paths::monitor_socket(&record.id)?) else {
        return Ok(());
    };
    let mut peer = Peer::new(stream).context("talking to the monitor")?;
    if peer.say(Kind::StayEnded, &[]).is_err() {
        return Ok(());
    }
    let mut done = false;
    while !done {
        let mut fds = [PollFd::new(&peer.stream, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(sys::Error::new("poll(monitor)", errno).into()),
        }
        let open = peer
            .receive(|kind, _| done |= kind == Kind::Done)
            .context("listening to the monitor")?;
        // A monitor that ends meanwhile restarts nothing either.
        done |= !open;
    }
    Ok(())
}

/// Sends a signal to the program. One that is meant to end it cancels restarts, as in docker.
///
/// # Errors
/// `Conflict` when it does not run.
pub fn kill(record: &Record, signal: i32) -> Result<()> {
    let spec = record.spec()?;
    let Some((_, process)) = running(record.state()?) else {
        return Err(
            Fail::conflict(format!("container `{}` is not running", spec.name))
                .hint(format!("rl start {}", spec.name))
                .into(),
        );
    };
    let stop = sys::signal::number(&spec.stop_signal).unwrap_or(libc::SIGTERM);
    if signal == libc::SIGKILL || signal == stop {
        stay_ended(record)?;
    }
    emit(
        record.store(),
        &Event::container("kill", &spec).with("signal", &signal),
    );
    sys::process::signal_pidfd(&process, signal)?;
    if signal == libc::SIGKILL {
        ended_within(&process, None)?;
        settle(record)?;
    }
    Ok(())
}

/// Waits for the end of the container and returns its exit code; at once when it does not run.
///
/// # Errors
/// `NotFound` when it is removed meanwhile.
pub fn wait(record: &Record) -> Result<u8> {
    let state = record.state()?;
    if let Some((_, process)) = running(state) {
        ended_within(&process, None)?;
    }
    // Its owner writes the code down before it lets go, or starts it again.
    loop {
        let state = record.state()?;
        if state.status != Status::Running || running(state.clone()).is_some() {
            return Ok(state.exit_code);
        }
        settle(record)?;
    }
}

/// Whether a running container may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// It is killed.
    Yes,
    /// That is an error.
    No,
}

/// Whether anonymous volumes go too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volumes {
    /// They go.
    Remove,
    /// They stay.
    Keep,
}

/// Removes a container.
///
/// # Errors
/// `Conflict` when it runs and `force` does not allow to kill it.
pub fn remove(record: &Record, force: Force, volumes: Volumes) -> Result<()> {
    let state = record.state();
    // A damaged record is what `--force` is for.
    let status = match (&state, force) {
        (Ok(state), _) => state.status,
        (Err(_), Force::Yes) => Status::Exited,
        (Err(_), Force::No) => {
            return Err(state
                .err()
                .unwrap_or_else(|| Fail::system("no state").into())
                .context("remove it with --force"));
        }
    };
    if matches!(status, Status::Running | Status::Restarting) {
        if force == Force::No {
            let name = record
                .spec()
                .map_or_else(|_| record.id.clone(), |spec| spec.name);
            return Err(Fail::conflict(format!("container `{name}` is running"))
                .hint(format!(
                    "stop it first: rl stop {name}; or kill and remove it: rl rm -f {name}"
                ))
                .into());
        }
        stay_ended(record)?;
        if let Some((_, process)) = state.ok().and_then(running) {
            sys::process::signal_pidfd(&process, libc::SIGKILL)?;
            ended_within(&process, None)?;
        }
    }
    let lock = match record.lock() {
        Ok(lock) => lock,
        // A `--rm` container is gone by now.
        Err(_) if !record.dir().exists() => return Ok(()),
        Err(error) => return Err(error),
    };
    let spec = record.spec().ok();
    let available = Available::probe();
    let userns = spec
        .as_ref()
        .map_or(UserNs::Auto, |spec| spec.userns.clone());
    let (plan, _) = idmap::plan(&userns, &available)?;
    let helpers = available.helpers.as_ref().ok();
    if let (Some(spec), Volumes::Remove) = (&spec, volumes) {
        for name in anonymous_volumes(spec) {
            super::record::remove_dir(&record.store().volumes().join(name), &plan, helpers)?;
        }
    }
    record.remove(&lock, &plan, helpers)?;
    if let Some(spec) = &spec {
        emit(record.store(), &Event::container("destroy", spec));
    }
    Ok(())
}

/// The volumes that were made for this container alone.
#[must_use]
pub fn anonymous_volumes(spec: &ContainerSpec) -> Vec<String> {
    let volumes = spec.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume { volume, .. } => Some(volume),
        MountSource::Bind { .. } | MountSource::Tmpfs { .. } => None,
    });
    volumes
        .filter(|volume| volume.starts_with(&spec.id))
        .cloned()
        .collect()
}
