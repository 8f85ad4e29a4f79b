//! What containers use, and what they may: figures of their groups, or of their processes where a container has
//! no group of its own.
//!
//! Reads only. Whatever cannot be known is none: a container that does not run has no figures, one in a shared
//! group no pressure, one in the host's network no traffic.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use super::processes;
use super::state::Process;
use super::view::Seen;
use crate::cgroup::account::{self, Events, Io, Limits, Memory, Pressure, Traffic, Tree};

/// What one container used up to a moment.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The moment.
    pub at: Instant,
    /// Its own group; none when it shares one.
    pub group: Option<PathBuf>,
    /// Processor time since its start, in microseconds.
    pub cpu_us: Option<u64>,
    /// Processor time that a limit has withheld, in microseconds.
    pub throttled_us: Option<u64>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Block devices.
    pub io: Option<Io>,
    /// Its network, loopback aside.
    pub traffic: Option<Traffic>,
    /// How often memory was short.
    pub events: Option<Events>,
    /// What its processes wait for.
    pub pressure: Pressure,
    /// What bounds it.
    pub limits: Limits,
}

impl Reading {
    /// Processor time since `before`, in hundredths of a percent of one processor.
    #[must_use]
    pub fn cpu_since(&self, before: &Reading) -> Option<u64> {
        // Less than before: it was started again, or a process has taken its time along.
        let used = self.cpu_us?.checked_sub(before.cpu_us?)?;
        let passed = self.at.checked_duration_since(before.at)?.as_micros();
        let share = (u128::from(used) * 10_000).checked_div(passed)?;
        u64::try_from(share).ok()
    }
}

/// The machine, as far as figures need it.
#[derive(Debug)]
pub struct Machine {
    /// Memory, in bytes.
    pub memory: u64,
    tree: Option<Tree>,
    network: Option<PathBuf>,
}

impl Machine {
    /// Looks at it.
    #[must_use]
    pub fn look() -> Self {
        let info = rustix::system::sysinfo();
        Self {
            memory: info.totalram.saturating_mul(u64::from(info.mem_unit)),
            tree: Tree::find(),
            network: network("self"),
        }
    }

    /// The group of a process and what bounds it. With the id of a container, that container's own group, if it
    /// has one.
    #[must_use]
    pub fn bounds(&self, pid: i32, id: &str) -> Option<(PathBuf, Limits)> {
        let directory = self.tree.as_ref()?.of_process(pid)?;
        let group = account::own(&directory, id).unwrap_or(directory);
        let limits = self.limits(&group);
        Some((group, limits))
    }

    fn limits(&self, group: &std::path::Path) -> Limits {
        self.tree
            .as_ref()
            .map_or_else(Limits::default, |tree| account::limits(group, tree.top()))
    }

    /// The figures of those that run, by id.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn read(&self, subjects: &[Subject]) -> Result<BTreeMap<String, Reading>> {
        let mut readings = BTreeMap::new();
        let mut incomplete: Vec<(i32, String)> = Vec::new();
        for subject in subjects {
            let pid = subject.process.as_ref().map(|process| process.pid);
            let Some(reading) = self.read_one(subject, pid) else {
                continue;
            };
            // Without its controller a group does not know; its processes do.
            let knows =
                reading.cpu_us.is_some() && reading.memory.is_some() && reading.pids.is_some();
            if let Some(pid) = pid.filter(|_| !knows) {
                incomplete.push((pid, subject.id.clone()));
            }
            readings.insert(subject.id.clone(), reading);
        }
        if !incomplete.is_empty() {
            let firsts: Vec<i32> = incomplete.iter().map(|(pid, _)| *pid).collect();
            let sums = processes::sums(&firsts)?;
            for (pid, id) in incomplete {
                if let (Some(reading), Some(sum)) = (readings.get_mut(&id), sums.get(&pid)) {
                    fill(reading, sum);
                }
            }
        }
        Ok(readings)
    }

    /// What its group says, and its network.
    fn read_one(&self, subject: &Subject, pid: Option<i32>) -> Option<Reading> {
        let directory = match pid {
            Some(pid) => self.tree.as_ref().and_then(|tree| tree.of_process(pid)),
            None => subject.group.clone().filter(|group| group.is_dir()),
        };
        let group = match &subject.group {
            Some(group) => Some(group.clone()),
            None => directory
                .as_deref()
                .and_then(|directory| account::own(directory, &subject.id)),
        };
        let usage = group.as_deref().map(account::usage).unwrap_or_default();
        let at = Instant::now();
        let traffic = pid.and_then(|pid| {
            network(pid)
                .filter(|network| Some(network) != self.network.as_ref())
                .and_then(|_| account::traffic(pid))
        });
        // What was written down is older than this look: one that has ended meanwhile has no figures.
        match &subject.process {
            Some(process) if !process.is_alive() => return None,
            None if directory.is_none() => return None,
            Some(_) | None => {}
        }
        Some(Reading {
            at,
            cpu_us: usage.cpu.map(|cpu| cpu.used_us),
            throttled_us: usage.cpu.and_then(|cpu| cpu.throttled_us),
            memory: usage.memory,
            pids: usage.pids,
            io: usage.io,
            traffic,
            events: usage.events,
            pressure: usage.pressure,
            limits: group
                .as_ref()
                .or(directory.as_ref())
                .map(|group| self.limits(group))
                .unwrap_or_default(),
            group,
        })
    }
}

/// What is measured: a container, or a group of host programs.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The container's id; a group's directory.
    pub id: String,
    /// What the user calls it.
    pub name: String,
    /// Pid 1 of a running container.
    pub process: Option<Process>,
    /// The group, where it is known without asking a process.
    pub group: Option<PathBuf>,
    /// It stands still.
    pub paused: bool,
}

impl From<&Seen> for Subject {
    fn from(seen: &Seen) -> Self {
        Self {
            id: seen.spec.id.clone(),
            name: seen.spec.name.clone(),
            process: seen.state.process.clone().filter(|_| seen.is_running()),
            group: None,
            paused: seen.paused,
        }
    }
}

/// Looks at containers again and again, and so knows what they do at the moment.
#[derive(Debug)]
pub struct Sampler {
    /// The machine.
    pub machine: Machine,
    before: BTreeMap<String, Reading>,
}

/// One of them at one look.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What was looked at.
    pub subject: Subject,
    /// Its figures; none when it does not run.
    pub reading: Option<Reading>,
    /// Its figures at the look before.
    pub before: Option<Reading>,
    /// Memory that really bounds it, in bytes: the tightest bound of all groups above, or the machine's.
    pub memory_limit: u64,
}

impl Sampler {
    /// One that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            machine: Machine::look(),
            before: BTreeMap::new(),
        }
    }

    /// Looks once more.
    ///
    /// # Errors
    /// As [`Machine::read`].
    pub fn look(&mut self, subjects: Vec<Subject>) -> Result<Vec<Sample>> {
        let mut readings = self.machine.read(&subjects)?;
        let samples = subjects.into_iter().map(|subject| {
            let reading = readings.get(&subject.id).cloned();
            let bound = reading
                .as_ref()
                .and_then(|reading| reading.limits.memory.as_ref())
                .map_or(u64::MAX, |bound| bound.value);
            Sample {
                before: self.before.remove(&subject.id),
                subject,
                reading,
                memory_limit: bound.min(self.machine.memory),
            }
        });
        let samples = samples.collect();
        std::mem::swap(&mut self.before, &mut readings);
        Ok(samples)
    }
}

impl Sample {
    /// Processor time since the look before, in hundredths of a percent of one processor.
    #[must_use]
    pub fn cpu(&self) -> Option<u64> {
        self.reading.as_ref()?.cpu_since(self.before.as_ref()?)
    }

    /// How fast a counter has grown since the look before, in a second.
    #[must_use]
    pub fn rate(&self, counter: impl Fn(&Reading) -> Option<u64>) -> Option<u64> {
        let (now, before) = (self.reading.as_ref()?, self.before.as_ref()?);
        let grown = counter(now)?.checked_sub(counter(before)?)?;
        let passed = now.at.checked_duration_since(before.at)?.as_micros();
        let rate = (u128::from(grown) * 1_000_000).checked_div(passed)?;
        u64::try_from(rate).ok()
    }

    /// Memory in use, to what it may use, in hundredths of a percent.
    #[must_use]
    pub fn memory_share(&self) -> Option<u64> {
        let used = u128::from(self.reading.as_ref()?.memory?.used());
        let share = (used * 10_000).checked_div(u128::from(self.memory_limit))?;
        u64::try_from(share).ok()
    }
}

/// Puts in what the group did not know.
fn fill(reading: &mut Reading, sum: &processes::Sum) {
    if reading.cpu_us.is_none() {
        reading.cpu_us = Some(sum.cpu_us);
        reading.at = Instant::now();
    }
    reading.pids = reading.pids.or(Some(sum.threads));
    reading.memory = reading.memory.or(Some(Memory {
        charged: sum.memory,
        cache: None,
        inactive_cache: 0,
        anonymous: sum.memory,
    }));
}

fn network(pid: impl std::fmt::Display) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn reading(at: Instant, cpu_us: Option<u64>) -> Reading {
        Reading {
            at,
            group: None,
            cpu_us,
            throttled_us: None,
            memory: None,
            pids: None,
            io: None,
            traffic: None,
            events: None,
            pressure: Pressure::default(),
            limits: Limits::default(),
        }
    }

    #[test]
    fn the_share_of_a_processor_is_time_used_to_time_passed() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        for (before, after, expected) in [
            (Some(0), Some(3_000_000), Some(15_000)),
            (Some(5), Some(5), Some(0)),
            (Some(9), Some(5), None),
            (None, Some(5), None),
            (Some(1), None, None),
        ] {
            let share = reading(later, after).cpu_since(&reading(start, before));
            assert_eq!(share, expected, "{before:?} {after:?}");
        }
        // No time has passed.
        assert_eq!(
            reading(start, Some(1)).cpu_since(&reading(start, Some(0))),
            None
        );
    }

    #[test]
    fn processes_fill_what_the_group_does_not_know() {
        let mut one = reading(Instant::now(), Some(7));
        let sum = processes::Sum {
            cpu_us: 1,
            memory: 2,
            threads: 3,
        };
        fill(&mut one, &sum);
        assert_eq!((one.cpu_us, one.pids), (Some(7), Some(3)));
        assert_eq!(one.memory.unwrap().used(), 2);
        assert_eq!(one.memory.unwrap().cache, None);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(Machine::look().memory > 0);
    }
}
