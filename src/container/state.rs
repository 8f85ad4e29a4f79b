//! `state.json`: what a container is doing, and whether that can still be true.
//!
//! Written by the one process that holds the container's lock (its monitor, or the command in the foreground
//! of which it runs); read by everybody. A process is known by number, start time and boot, so that neither a
//! reboot nor a number used again is taken for it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::Fail;
use crate::spec::Bound;
use crate::sys;

/// The version of the stored form.
const VERSION: u32 = 1;

/// What became of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`VERSION`]; a newer one is refused.
    pub version: u32,
    /// What it does. See [`State::settled`] for what to show.
    pub status: Status,
    /// RFC 3339, UTC: when it was made.
    pub created: String,
    /// RFC 3339, UTC: when its program last started.
    pub started: Option<String>,
    /// RFC 3339, UTC: when its program last ended.
    pub finished: Option<String>,
    /// The program's exit code, 128 + n after signal n; 0 before the first end.
    pub exit_code: u8,
    /// What kept it from starting the last time.
    pub error: Option<String>,
    /// How often the restart policy has started it again.
    pub restarts: u32,
    /// Stopped by the user: `unless-stopped` keeps it down.
    pub stopped: bool,
    /// Pid 1 of the container, as the host numbers it.
    pub process: Option<Process>,
    /// Who holds the container: its monitor or its command.
    pub owner: Option<Process>,
    /// The directory of its own control group, while it has one.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// The kernel killed its program the last time, because memory ran out.
    #[serde(default)]
    pub oom_killed: bool,
    /// Ports of the host that lead to the program while it runs.
    #[serde(default)]
    pub ports: Vec<Bound>,
}

/// The stages of a container's life, docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Made, never started.
    Created,
    /// Its program runs.
    Running,
    /// It ended and will be started again.
    Restarting,
    /// Its program ended.
    Exited,
}

impl Status {
    /// Docker's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Restarting => "restarting",
            Status::Exited => "exited",
        }
    }
}

/// One process and no other. Source: proc_pid_stat(5), field 22; random(4), `boot_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Number on the host.
    pub pid: i32,
    /// Clock ticks after boot.
    pub start: u64,
    /// Which boot.
    pub boot: String,
}

impl Process {
    /// The living process with this number.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(pid: i32) -> Result<Self> {
        let doing = || format!("looking at process {pid}");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(doing)?;
        let start = start_time(&stat).with_context(doing)?;
        Ok(Self {
            pid,
            start,
            boot: boot_id()?.to_owned(),
        })
    }

    /// Opens it, if it is still the same and has not ended.
    ///
    /// # Errors
    /// Where processes cannot be opened at all: a number alone may be somebody else's by now.
    pub fn open(&self) -> Result<Option<std::os::fd::OwnedFd>, Fail> {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid.max(0)) else {
            return Ok(None);
        };
        match sys::process::open(pid) {
            // Opened first, compared afterwards: what the descriptor means cannot change any more.
            Ok(fd) => Ok(self.is_alive().then_some(fd)),
            Err(error) if matches!(error.errno, Errno::NOSYS | Errno::PERM) => {
                Err(no_pidfds(&error))
            }
            Err(_) => Ok(None),
        }
    }

    /// Whether it is still the same and has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        // Where it did not start in this boot, its number is somebody else's.
        if boot_id().ok() != Some(self.boot.as_str()) {
            return false;
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let state = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.trim_start().chars().next());
        start_time(&stat) == Some(self.start) && !matches!(state, None | Some('Z' | 'X'))
    }
}

/// What is said where processes cannot be opened.
fn no_pidfds(error: &sys::Error) -> Fail {
    Fail::unsupported(format!(
        "a container that runs by itself cannot be reached here: {error}"
    ))
    .hint("run it in the foreground: rl run --rm")
    .hint("Linux 5.3 or later has the call; an outer container's system call filter may hide it")
    .code("RL-K06")
}

/// Says beforehand that what is started by itself could not be reached afterwards.
///
/// # Errors
/// That.
pub fn check_reach() -> Result<(), Fail> {
    sys::process::open(rustix::process::getpid())
        .map(drop)
        .map_err(|error| no_pidfds(&error))
}

/// Field 22; the name in field 2 may contain anything, a parenthesis too.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// Which boot this is; no process lives over two.
fn boot_id() -> Result<&'static str> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(known) = BOOT.get() {
        return Ok(known);
    }
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    Ok(BOOT.get_or_init(|| text.trim().to_owned()))
}

/// Now, as it is stored.
#[must_use]
pub fn now() -> String {
    jiff::Timestamp::now().to_string()
}

impl State {
    /// A container that was just made.
    #[must_use]
    pub fn new() -> Self {
        Self {
            version: VERSION,
            status: Status::Created,
            created: now(),
            started: None,
            finished: None,
            exit_code: 0,
            error: None,
            restarts: 0,
            stopped: false,
            process: None,
            owner: None,
            cgroup: None,
            oom_killed: false,
            ports: Vec::new(),
        }
    }

    /// Reads the one in the container's directory.
    ///
    /// # Errors
    /// `Corrupt` with the file's name when it is not what this `rl` writes.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("state.json");
        let text = std::fs::read(&path).map_err(|error| {
            anyhow::Error::from(error).context(
                Fail::corrupt(format!("`{}` cannot be read", path.display()))
                    .hint("remove the container: rl rm -f; its image and volumes stay"),
            )
        })?;
        let state: Self = serde_json::from_slice(&text).map_err(|error| {
            Fail::corrupt(format!("`{}` is damaged: {error}", path.display()))
                .hint("remove the container: rl rm -f, its image and volumes stay")
        })?;
        if state.version > VERSION {
            return Err(Fail::corrupt(format!(
                "`{}` has version {}, this `rl` knows {VERSION}",
                path.display(),
                state.version
            ))
            .hint("it was written by a newer `rl`; use that one")
            .into());
        }
        Ok(state)
    }

    /// Writes it, so that a reader sees the old or the new. Only for the one who holds the lock.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join("state.json");
        let text = serde_json::to_vec(self).context("writing state.json")?;
        sys::fs::write_atomically(&path, &dir.join("state.json.new"), &text)
            .map_err(|error| super::disk_error(error, &path))
    }

    /// What is true now: a container whose process and owner are both gone has ended, whatever was written last.
    #[must_use]
    pub fn settled(mut self) -> Self {
        let alive = |process: &Option<Process>| process.as_ref().is_some_and(Process::is_alive);
        let gone = match self.status {
            Status::Running => !alive(&self.process) && !alive(&self.owner),
            Status::Restarting => !alive(&self.owner),
            Status::Created | Status::Exited => false,
        };
        if gone {
            self.status = Status::Exited;
            // Nobody was left to see how: killed, as far as anyone can tell.
            self.exit_code = 137;
            self.process = None;
            self.error.get_or_insert_with(|| {
                "its monitor was killed, or the machine was restarted".to_owned()
            });
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_more_than_its_number() {
        let me = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.is_alive() && me.open().unwrap().is_some());
        let older = Process {
            start: me.start - 1,
            ..me.clone()
        };
        let rebooted = Process {
            boot: "another".to_owned(),
            ..me
        };
        for other in [older, rebooted] {
            assert!(!other.is_alive() && other.open().unwrap().is_none());
        }
    }

    #[test]
    fn the_start_time_is_found_behind_a_hostile_name() {
        let stat = "7 (a) b) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(start_time(stat), Some(4242));
        assert_eq!(start_time("7"), None);
    }

    #[test]
    fn what_was_written_before_a_reboot_is_not_believed() {
        let mut state = State::new();
        state.status = Status::Running;
        state.process = Some(Process {
            pid: 1,
            start: 1,
            boot: "another".to_owned(),
        });
        let settled = state.settled();
        assert_eq!((settled.status, settled.exit_code), (Status::Exited, 137));
    }
}
