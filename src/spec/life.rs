//! The life of a container once it runs: restarts, its log, its health checks.

use serde::{Deserialize, Serialize};

/// `--restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "policy")]
pub enum Restart {
    /// It stays ended.
    #[default]
    No,
    /// Started again after a failure, at most so often; 0 means always.
    OnFailure {
        /// The most restarts in a row.
        most: u32,
    },
    /// Started again until it is removed or stopped; after a reboot too.
    Always,
    /// As `Always`, but what the user has stopped stays down after a reboot.
    UnlessStopped,
}

/// `--log-driver` and `--log-opt`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Log {
    /// Nothing is kept (`none`); else docker's `json-file`.
    pub none: bool,
    /// Bytes after which a new file is begun (`max-size`).
    pub max_size: Option<u64>,
    /// How many files there are at most (`max-file`); 1 by default.
    pub max_files: Option<u32>,
}

/// A health check. What is empty or 0 is the image's, and docker's default where that says nothing either.
/// Source: docker's image configuration, `Healthcheck`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Health {
    /// The words to execute; one that was given as a shell line begins with the image's shell, as `/bin/sh -c`.
    pub command: Vec<String>,
    /// There is none, whatever the image says.
    #[serde(default)]
    pub none: bool,
    /// Nanoseconds between the end of one check and the next; [`Health::NEVER`] leaves it to `rl healthcheck run`.
    pub interval_ns: u64,
    /// Nanoseconds that one may take.
    pub timeout_ns: u64,
    /// Nanoseconds after the start in which failures do not count.
    pub start_period_ns: u64,
    /// Nanoseconds between two checks in the start period, until the first that succeeds.
    #[serde(default)]
    pub start_interval_ns: u64,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

impl Health {
    /// No checks by the clock.
    pub const NEVER: u64 = u64::MAX;

    /// Fills what was left open from the image's, and then with docker's defaults: moby, `daemon/health.go`.
    pub fn fill(&mut self, image: &Self) {
        if self.command.is_empty() {
            self.command.clone_from(&image.command);
        }
        for (own, theirs, default_s) in [
            (&mut self.interval_ns, image.interval_ns, 30),
            (&mut self.timeout_ns, image.timeout_ns, 30),
            (&mut self.start_period_ns, image.start_period_ns, 0),
            (&mut self.start_interval_ns, image.start_interval_ns, 5),
        ] {
            let found = [*own, theirs, default_s * 1_000_000_000];
            *own = found.into_iter().find(|time| *time > 0).unwrap_or_default();
        }
        let found = [self.retries, image.retries, 3];
        self.retries = found.into_iter().find(|count| *count > 0).unwrap_or(3);
    }
}
