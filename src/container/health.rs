//! Health checks: when one is due, its process, and what its end says of the container. Docker's rules.
//!
//! ```text
//!  owner (monitor, or the command in front)            rl:[health] NAME
//!     │ clone3, exec; a pipe ───────────────────────────▶│ as `rl exec`: joins, starts the check
//!     │◀──────────────────────────── what the check says ─┤
//!     │◀────────────────────────────── its exit code ─────┘
//!     ▼ containers/ID/health.json, `health_status: …`
//! ```
//!
//! [`Checks`] never blocks: its owner polls what [`Checks::descriptors`] names, up to [`Checks::deadline`], and then
//! calls [`Checks::step`]. Source of the rules: moby, `daemon/health.go`.

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde_json::json;

use super::attach::Kind;
use super::events::Event;
use super::exec::{self, Command};
use super::group;
use super::record::Record;
use super::state::{self, Process, Status};
use super::view::HealthState;
use super::{emit, lifecycle};
use crate::error::{self, Fail};
use crate::paths::Store;
use crate::spec::{ContainerSpec, Health};
use crate::sys;
use crate::sys::process::{Child, Detached};

/// The word after the program's name that makes it a check. Not for people.
pub const HEALTH: &str = "__health";

/// So much of what a check says is kept, in bytes. Docker's value.
const MOST_SAID: usize = 4096;
/// So many checks are remembered. Docker's value.
const REMEMBERED: usize = 5;
/// How long the process of a check may live after what it had started was killed.
const GRACE: Duration = Duration::from_secs(1);
/// The exit code of a check that was killed or did not start. Docker's value.
const NONE: i32 = -1;

/// The health checks of one run of a container, for the one who holds its lock.
#[derive(Debug)]
pub struct Checks {
    record: Record,
    spec: ContainerSpec,
    health: Health,
    begun: Instant,
    state: HealthState,
    due: Option<Instant>,
    check: Option<Check>,
    /// The result goes to `health.json`.
    noted: bool,
}

/// One check that runs.
#[derive(Debug)]
struct Check {
    child: Child,
    output: Option<OwnedFd>,
    said: Vec<u8>,
    is_cut: bool,
    start: String,
    /// Whether the start period was over when it began.
    counts: bool,
    /// It took too long.
    is_killed: bool,
    until: Option<Instant>,
}

impl Checks {
    /// Begins with the container's program; none where no health check is asked for.
    #[must_use]
    pub fn begin(record: &Record, spec: &ContainerSpec) -> Option<Self> {
        let mut checks = Self::of(record, spec)?;
        checks.noted = true;
        checks.rest();
        checks.note();
        Some(checks)
    }

    fn of(record: &Record, spec: &ContainerSpec) -> Option<Self> {
        let health = spec.health.clone()?;
        // What earlier runs have said stays, as in docker.
        let before = std::fs::read(path(record))
            .ok()
            .and_then(|text| serde_json::from_slice::<HealthState>(&text).ok());
        Some(Self {
            record: record.clone(),
            spec: spec.clone(),
            health,
            begun: Instant::now(),
            state: HealthState {
                status: "starting".to_owned(),
                failing_streak: 0,
                log: before.map(|state| state.log).unwrap_or_default(),
            },
            due: None,
            check: None,
            noted: false,
        })
    }

    /// When [`Checks::step`] has something to do even if no descriptor is ready.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.check {
            Some(check) => check.until,
            None => self.due,
        }
    }

    /// What to poll for reading.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let Some(check) = &self.check else {
            return Vec::new();
        };
        let output = check.output.as_ref().map(|fd| fd.as_fd());
        std::iter::once(check.child.pidfd.as_fd())
            .chain(output)
            .collect()
    }

    /// Has the next check run now; one that runs already is as good.
    pub fn hurry(&mut self) {
        self.due = Some(Instant::now());
    }

    /// Does what is to be done now, and says whether a check has ended, and how: 0 is well.
    pub fn step(&mut self) -> Option<i32> {
        let Some(mut check) = self.check.take() else {
            if self.due.is_some_and(|due| Instant::now() >= due) {
                self.due = None;
                // What stands still is neither well nor ill, as in docker.
                let state = self.record.state();
                if state.is_ok_and(|state| group::is_paused(&self.record.id, &state)) {
                    self.rest();
                    return None;
                }
                if let Err(error) = self.start() {
                    let now = state::now();
                    return Some(self.finish(&now, self.counts(), NONE, &format!("{error:#}")));
                }
            }
            return None;
        };
        check.listen();
        if exec::has_ended(&check.child.pidfd).unwrap_or(true) {
            check.listen();
            let exit = check
                .child
                .wait()
                .map_or(NONE, |exit| i32::from(exit.code()));
            let mut said = String::from_utf8_lossy(&check.said).into_owned();
            if check.is_cut {
                said.push_str("...");
            }
            if check.is_killed {
                let limit = Duration::from_nanos(self.health.timeout_ns);
                said = format!("Health check exceeded timeout ({limit:?}): {said}");
            }
            let code = if check.is_killed { NONE } else { exit };
            return Some(self.finish(&check.start, check.counts, code, &said));
        }
        if check.until.is_some_and(|until| Instant::now() >= until) {
            if check.is_killed {
                check.child.kill();
                check.until = None;
            } else {
                // Its process ends when it has taken the exit status of what is killed: no zombie is left to a
                // container whose first process does not reap.
                kill_all(&check.child);
                check.is_killed = true;
                check.until = Some(Instant::now() + GRACE);
            }
        }
        self.check = Some(check);
        None
    }

    fn counts(&self) -> bool {
        self.begun.elapsed() >= Duration::from_nanos(self.health.start_period_ns)
    }

    /// Waits for the next one.
    fn rest(&mut self) {
        let quick = self.state.status == "starting" && !self.counts();
        let wait = if quick {
            self.health.start_interval_ns
        } else {
            self.health.interval_ns
        };
        self.due = (wait != Health::NEVER)
            .then(|| Instant::now().checked_add(Duration::from_nanos(wait)))
            .flatten();
    }

    fn start(&mut self) -> Result<()> {
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("making a pipe")?;
        rustix::io::ioctl_fionbio(&read, true).context("preparing a pipe")?;
        let null = sys::fs::open_trusted(Path::new("/dev/null"), OFlags::RDWR)?;
        let root = self
            .record
            .store()
            .root()
            .to_str()
            .context("the store's path is not UTF-8")?;
        let title = format!("rl:[health] {}", self.spec.name);
        let argv = [title.as_str(), HEALTH, root, &self.record.id]
            .map(CString::new)
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .context("a NUL byte in a path or name")?;
        let start = state::now();
        let counts = self.counts();
        let child = sys::process::spawn_detached(&Detached {
            argv: &argv,
            env: &[],
            null: null.as_fd(),
            fds: &[write.as_fd()],
        })?;
        self.check = Some(Check {
            child,
            output: Some(read),
            said: Vec::new(),
            is_cut: false,
            start,
            counts,
            is_killed: false,
            until: Instant::now().checked_add(Duration::from_nanos(self.health.timeout_ns)),
        });
        Ok(())
    }

    fn finish(&mut self, start: &str, counts: bool, code: i32, said: &str) -> i32 {
        let before = self.state.status.clone();
        judge(&mut self.state, self.health.retries, counts, code);
        self.state.log.push(json!({
            "Start": start, "End": state::now(), "ExitCode": code, "Output": said,
        }));
        let surplus = self.state.log.len().saturating_sub(REMEMBERED);
        self.state.log.drain(..surplus);
        self.note();
        if self.noted && before != self.state.status {
            let action = format!("health_status: {}", self.state.status);
            // Its name may be another by now.
            let spec = self.record.spec();
            let event = Event::container(action, spec.as_ref().unwrap_or(&self.spec));
            emit(self.record.store(), &event);
        }
        self.rest();
        code
    }

    /// Not synced: after a crash of the machine nothing of it is true. A full disk keeps nothing from running.
    fn note(&self) {
        let aside = self.record.dir().join("health.json.new");
        if let (true, Ok(text)) = (self.noted, serde_json::to_vec(&self.state)) {
            let written = std::fs::write(&aside, text);
            let _ = written.and_then(|()| std::fs::rename(&aside, path(&self.record))); // the next one is written again
        }
    }
}

impl Drop for Checks {
    /// The container has ended: so does its check, whose result means nothing now.
    fn drop(&mut self) {
        if let Some(check) = self.check.take() {
            kill_all(&check.child);
            check.child.kill();
            let _ = check.child.wait(); // it is gone either way
        }
    }
}

impl Check {
    /// Takes what it has said; the pipe never fills, whatever is kept.
    fn listen(&mut self) {
        let mut buffer = [0_u8; 4096];
        // One that says more at once is asked again: others wait for their turn, too.
        for _ in 0..16 {
            let Some(output) = &self.output else { return };
            match rustix::io::read(output, &mut buffer) {
                Ok(0) => self.output = None,
                Ok(length) => {
                    let kept = length.min(MOST_SAID - self.said.len());
                    self.said.extend_from_slice(&buffer[..kept]);
                    self.is_cut |= kept < length;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.output = None,
            }
        }
    }
}

fn path(record: &Record) -> PathBuf {
    record.dir().join("health.json")
}

/// What a check's end makes of the container. Source: moby, `handleProbeResult`.
fn judge(state: &mut HealthState, retries: u32, counts: bool, code: i32) {
    if code == 0 {
        state.failing_streak = 0;
        "healthy".clone_into(&mut state.status);
    } else if counts || state.status != "starting" {
        state.failing_streak = state.failing_streak.saturating_add(1);
        if state.failing_streak >= retries {
            "unhealthy".clone_into(&mut state.status);
        }
    }
}

/// Kills a check with all that it has started: what is in its session, and the children of those. Each is stopped when
/// it is found, so that no new one escapes, and is known by more than its number when it is killed.
fn kill_all(leader: &Child) {
    let session = leader.pid.as_raw_nonzero().get();
    let mut found: Vec<Process> = Vec::new();
    loop {
        let mut is_new = false;
        for (pid, parent, its_session) in processes() {
            let is_known = |pid: i32| pid == session || found.iter().any(|known| known.pid == pid);
            if is_known(pid) || (its_session != session && !is_known(parent)) {
                continue;
            }
            if let Ok(process) = Process::of(pid)
                && let Ok(Some(fd)) = process.open()
            {
                let _ = sys::process::signal_pidfd(&fd, libc::SIGSTOP); // one that is gone is what is wanted
                found.push(process);
                is_new = true;
            }
        }
        if !is_new {
            break;
        }
    }
    for fd in found.iter().filter_map(|process| process.open().ok()?) {
        let _ = sys::process::signal_pidfd(&fd, libc::SIGKILL); // as above
    }
}

/// Number, parent and session of every process. Source: proc_pid_stat(5).
fn processes() -> Vec<(i32, i32, i32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let read = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
        let parent = fields.next()?.parse().ok()?;
        Some((pid, parent, fields.nth(1)?.parse().ok()?))
    };
    entries.filter_map(read).collect()
}

/// The process of one check, for `words` = store, id. Leaves by `_exit`.
pub fn main(words: &[String]) -> ! {
    let Ok(owner) = sys::process::inherited(3) else {
        sys::process::exit_now(125)
    };
    let code = match check(words, &owner) {
        Ok(code) => code,
        Err(error) => {
            let text = format!("{}\n", error::report(&error));
            let _ = rustix::io::write(&owner, text.as_bytes()); // nobody left to tell
            error::kind(&error).exit_code()
        }
    };
    sys::process::exit_now(i32::from(code))
}

/// What the check says goes to `owner`.
fn check(words: &[String], owner: &OwnedFd) -> Result<u8> {
    let [root, id] = words else {
        return Err(Fail::usage("a health check is started by rl itself").into());
    };
    rustix::stdio::dup2_stdout(owner).context("taking the pipe")?;
    rustix::stdio::dup2_stderr(owner).context("taking the pipe")?;
    let record = Record::find(&Store::at(PathBuf::from(root)), id)?;
    let spec = record.spec()?;
    let health = spec.health.clone().context("no health check")?;
    let command = Command {
        words: health.command,
        env: spec.process.env.clone(),
        ..Command::default()
    };
    exec::run(&record, spec, command)
}

/// How a check that was asked for has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// It found the container well.
    pub is_well: bool,
    /// What the container is now, in docker's word.
    pub status: String,
    /// Whether the result was written down: not in a container without a monitor.
    pub is_noted: bool,
}

/// Has a check run now and waits for its end.
///
/// # Errors
/// `Conflict` when the container does not run, `Usage` when it has no check.
pub fn run(record: &Record) -> Result<Answer> {
    let spec = record.spec()?;
    let Some(mut checks) = Checks::of(record, &spec) else {
        return Err(
            Fail::usage(format!("container `{}` has no health check", spec.name))
                .hint("give it one when it is made: --health-cmd COMMAND")
                .into(),
        );
    };
    if record.state()?.status != Status::Running {
        return Err(exec::not_running(&spec.name).into());
    }
    if let Some(mut peer) = lifecycle::monitor(record)? {
        peer.say(Kind::Wait, &[])
            .and_then(|()| peer.say(Kind::Check, &[]))
            .context("talking to the monitor")?;
        let answer = lifecycle::listen(&mut peer, Kind::Done)?;
        let code = answer.ok_or_else(|| exec::not_running(&spec.name))?;
        let state = std::fs::read(path(record)).context("reading health.json")?;
        let state: HealthState = serde_json::from_slice(&state).context("reading health.json")?;
        return Ok(Answer {
            is_well: code == 0,
            status: state.status,
            is_noted: true,
        });
    }
    checks.hurry();
    loop {
        if let Some(code) = checks.step() {
            let status = if code == 0 { "healthy" } else { "unhealthy" };
            return Ok(Answer {
                is_well: code == 0,
                status: status.to_owned(),
                is_noted: false,
            });
        }
        let left = checks
            .deadline()
            .map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| rustix::time::Timespec::try_from(left).ok());
        let descriptors = checks.descriptors();
        let mut fds: Vec<PollFd<'_>> = descriptors
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(sys::Error::new("poll()", errno).into()),
        }
    }
}

/// The word of [`Kind::Done`] after a check.
#[must_use]
pub fn word(code: i32) -> u8 {
    u8::from(code != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_when_the_start_is_over_and_success_makes_them_forgotten() {
        let mut state = HealthState {
            status: "starting".to_owned(),
            failing_streak: 0,
            log: Vec::new(),
        };
        for (counts, code, status, streak) in [
            (false, 1, "starting", 0),
            (false, NONE, "starting", 0),
            (true, 1, "starting", 1),
            (true, 0, "healthy", 0),
            // One that was well once has no start any more.
            (false, 1, "healthy", 1),
            (true, 2, "unhealthy", 2),
            (true, 1, "unhealthy", 3),
            (true, 0, "healthy", 0),
        ] {
            judge(&mut state, 2, counts, code);
            assert_eq!(
                (state.status.as_str(), state.failing_streak),
                (status, streak),
                "{counts} {code}"
            );
        }
    }
}
