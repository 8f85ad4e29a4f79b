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
use super::group;
use super::record::{Lock, Record};
use super::state::{Process, State, Status};
use crate::error::Fail;
use crate::idmap::{self, Available};
use crate::paths;
use crate::spec::UserNs;
use crate::sys;

/// When to look again whether a command that is starting or ending a container is through: there is no event for it.
const SOON: Duration = Duration::from_millis(5);

/// How long such a command may take. Starting takes a second on a machine that is very busy.
const PATIENCE: Duration = Duration::from_secs(30);

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
        // Somebody starts it or has just ended it. Waiting for the lock could mean waiting for its end.
        std::thread::sleep(SOON);
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
    super::monitor::spawn(record, &spec.name, lock, watcher, say)?;
    // Whoever watches it is not about to log out.
    if watcher.is_none()
        && let Some(line) = super::logout::notice(record)
    {
        say(&line);
    }
    Ok(())
}

/// Asks the program to end, and kills it after `timeout` when it has not. `None` waits for ever. No restart
/// follows. A container that does not run is left as it is.
///
/// # Errors
/// The system's.
pub fn stop(record: &Record, signal: Option<i32>, timeout: Option<Duration>) -> Result<()> {
    let state = record.state()?;
    if !matches!(state.status, Status::Running | Status::Restarting) {
        return Ok(());
    }
    let spec = record.spec()?;
    let owner = state.owner;
    // First, so that what is looked at afterwards is its last process.
    ask(record, Kind::StayEnded)?;
    let Some((last, process)) = running(found(record)?)? else {
        return settle(owner.as_ref());
    };
    let signal = signal
        .or_else(|| sys::signal::number(&spec.stop_signal))
        .unwrap_or(libc::SIGTERM);
    emit(
        record.store(),
        &Event::container("kill", &spec).with("signal", &signal),
    );
    sys::process::signal_pidfd(&process, signal)?;
    group::let_go_on(&record.id, &last)?;
    if !ended_within(&process, timeout)? {
        group::kill(&record.id, &last, &process)?;
        ended_within(&process, None)?;
    }
    settle(owner.as_ref())?;
    emit(record.store(), &Event::container("stop", &spec));
    Ok(())
}

/// The program's process, when the container runs.
fn running(state: Option<State>) -> Result<Option<(State, OwnedFd)>> {
    let Some(state) = state.filter(|state| state.status == Status::Running) else {
        return Ok(None);
    };
    let process = match &state.process {
        Some(process) => process.open()?,
        None => None,
    };
    Ok(process.map(|process| (state, process)))
}

/// Waits until whoever held the container has written down its end and let go. Not for the lock: the next one
/// who starts the container may have it by then.
fn settle(owner: Option<&Process>) -> Result<()> {
    if let Some(owner) = owner
        && let Some(owner) = owner.open()?
    {
        ended_within(&owner, None)?;
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

/// The monitor of a container, if it has one.
///
/// # Errors
/// Without a runtime directory.
pub fn monitor(record: &Record) -> Result<Option<Peer>> {
    let stream = UnixStream::connect(paths::monitor_socket(&record.id)?).ok(); // nobody listens
    stream
        .map(Peer::new)
        .transpose()
        .context("talking to the monitor")
}

/// Tells the monitor that no restart is wanted, or more, and waits until it has understood. False when there is
/// none: nobody restarts it then.
fn ask(record: &Record, what: Kind) -> Result<bool> {
    let Some(mut peer) = monitor(record)? else {
        return Ok(false);
    };
    // Without output, which could be much.
    if peer.say(Kind::Wait, &[]).is_err() || peer.say(what, &[]).is_err() {
        return Ok(false);
    }
    // A monitor that ends meanwhile restarts nothing either.
    listen(&mut peer, Kind::Done).map(|_| true)
}

/// Waits until the monitor says `what`, and returns the first byte of it; `None` when it ends before.
///
/// # Errors
/// The system's.
pub fn listen(peer: &mut Peer, what: Kind) -> Result<Option<u8>> {
    loop {
        let mut fds = [PollFd::new(&peer.stream, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(sys::Error::new("poll(monitor)", errno).into()),
        }
        let mut said = None;
        let open = peer
            .receive(|kind, body| {
                if kind == what {
                    said = Some(body.first().copied().unwrap_or_default());
                }
            })
            .context("listening to the monitor")?;
        if said.is_some() || !open {
            return Ok(said);
        }
    }
}

/// The state; `None` when the container is gone.
fn found(record: &Record) -> Result<Option<State>> {
    match record.state() {
        Ok(state) => Ok(Some(state)),
        Err(_) if !record.dir().exists() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends a signal to the program. One that is meant to end it cancels restarts, as in docker.
///
/// # Errors
/// `Conflict` when it does not run.
pub fn kill(record: &Record, signal: i32) -> Result<()> {
    let spec = record.spec()?;
    let Some((state, mut process)) = running(Some(record.state()?))? else {
        return Err(
            Fail::conflict(format!("container `{}` is not running", spec.name))
                .hint(format!("rl start {}", spec.name))
                .into(),
        );
    };
    let stop = sys::signal::number(&spec.stop_signal).unwrap_or(libc::SIGTERM);
    if signal == libc::SIGKILL || signal == stop {
        ask(record, Kind::StayEnded)?;
        // It may have been restarted since: now it cannot be any more.
        match running(found(record)?)? {
            Some((_, last)) => process = last,
            None => return settle(state.owner.as_ref()),
        }
    }
    emit(
        record.store(),
        &Event::container("kill", &spec).with("signal", &signal),
    );
    sys::process::signal_pidfd(&process, signal)?;
    if signal == stop {
        group::let_go_on(&record.id, &state)?;
    }
    if signal == libc::SIGKILL {
        ended_within(&process, None)?;
        settle(state.owner.as_ref())?;
    }
    Ok(())
}

/// The file that who waits for a container makes, and keeps open over the end of the container.
const EXIT: &str = "exit";

/// Leaves the exit code to those who wait for a container that is about to be removed.
pub fn bequeath(record: &Record, code: u8) {
    let will = std::fs::File::options()
        .append(true)
        .open(record.dir().join(EXIT));
    // Mostly nobody waits, and there is no such file.
    let _ = will.and_then(|mut will| std::io::Write::write_all(&mut will, &[code]));
}

/// Waits for the end of the container and returns its exit code; at once when it does not run.
///
/// # Errors
/// `NotFound` when it is removed meanwhile.
pub fn wait(record: &Record) -> Result<u8> {
    let mut code = [0_u8];
    loop {
        let state = record.state()?;
        if state.status == Status::Created && record.try_lock()?.is_none() {
            // Somebody starts it: that takes no longer than a start does.
            std::thread::sleep(SOON);
            continue;
        }
        if !matches!(state.status, Status::Running | Status::Restarting) {
            return Ok(state.exit_code);
        }
        // From the monitor the code can be had even when the container goes with its end.
        if let Some(mut peer) = monitor(record)?
            && peer.say(Kind::Wait, &[]).is_ok()
            && let Some(code) = listen(&mut peer, Kind::Exit)?
        {
            return Ok(code);
        }
        // A command in whose foreground it runs leaves the code there before it removes the container.
        let will = std::fs::File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(record.dir().join(EXIT));
        settle(state.owner.as_ref())?;
        if let Ok(mut will) = will
            && let Ok(code) = std::io::Read::read_exact(&mut will, &mut code).map(|()| code[0])
        {
            return Ok(code);
        }
        // One whose owner was killed is through with its last process.
        if let Some((_, process)) = running(found(record)?)? {
            ended_within(&process, None)?;
        }
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
    let until = std::time::Instant::now() + PATIENCE;
    let lock = loop {
        if !record.dir().exists() {
            // A `--rm` container, or another command was quicker.
            return Ok(());
        }
        match record.try_lock() {
            Ok(Some(lock)) => break lock,
            Ok(None) => {}
            Err(_) if !record.dir().exists() => return Ok(()),
            Err(error) => return Err(error),
        }
        let state = record.state();
        let runs = state
            .as_ref()
            .is_ok_and(|state| matches!(state.status, Status::Running | Status::Restarting));
        if force == Force::No {
            // What is damaged can be removed as well, when nobody is at work in it.
            if runs || std::time::Instant::now() > until {
                let name = name(record);
                return Err(Fail::conflict(format!("container `{name}` is running"))
                    .hint(format!(
                        "stop it first: rl stop {name}; or kill and remove it: rl rm -f {name}"
                    ))
                    .into());
            }
        } else {
            // The monitor may know of a process that a damaged record does not name, and the other way round.
            ask(record, Kind::Die)?;
            if let Some((state, process)) = running(state.ok())? {
                group::kill(&record.id, &state, &process)?;
                ended_within(&process, None)?;
            }
            if std::time::Instant::now() > until {
                return Err(Fail::conflict(format!(
                    "another command is at work in container `{}` and does not end",
                    name(record)
                ))
                .hint("end that command, and try again")
                .into());
            }
        }
        // Who holds it starts it, or is about to let go. Waiting for the lock could mean waiting for its end.
        std::thread::sleep(SOON);
    };
    if force == Force::No {
        // What is damaged goes by force only: it might be worth a look.
        record.state().context("remove it with --force")?;
    }
    let spec = record.spec().ok();
    let available = Available::of(record.store());
    let userns = spec
        .as_ref()
        .map_or(UserNs::Auto, |spec| spec.userns.clone());
    let (plan, _) = idmap::plan(&userns, &available)?;
    let helpers = available.helpers.as_ref().ok();
    if let (Some(spec), Volumes::Remove) = (&spec, volumes) {
        record.remove_volumes(spec, &plan, helpers)?;
    }
    record.remove(lock, &plan, helpers)?;
    if let Some(spec) = &spec {
        emit(record.store(), &Event::container("destroy", spec));
    }
    Ok(())
}

fn name(record: &Record) -> String {
    record
        .spec()
        .map_or_else(|_| record.id.chars().take(12).collect(), |spec| spec.name)
}
