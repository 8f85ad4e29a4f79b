//! What a container has said: docker's `json-file`, one JSON object to a line.
//!
//! ```text
//! containers/ID/log        {"log":"text\n","stream":"stdout","time":"2025-01-31T12:00:00.123456789Z"}
//! containers/ID/log.1 …    older ones, after a rotation; the highest number is the oldest
//! ```
//!
//! A line of the program longer than 16 KiB is several records, and only the last of them ends in `\n`.
//! The monitor writes ([`Writer`]), everybody else reads ([`read`]). A reader holds a shared flock(2) on the
//! file it is in; a rotation deletes nothing from there on, within limits, so that no line is missed.

mod reader;
mod writer;

pub use reader::{Item, Query, read};
pub use writer::Writer;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Which of its outputs a program has written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output; everything, with a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn word(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Entry<'a> {
    /// A line with its line break, or a part of one without.
    #[serde(borrow, rename = "log")]
    pub text: Cow<'a, str>,
    /// Where it was written to.
    pub stream: Stream,
    /// RFC 3339, UTC, with as many digits as it needs.
    #[serde(borrow)]
    pub time: Cow<'a, str>,
}

impl<'a> Entry<'a> {
    /// Reads one; `None` for what a crash has torn.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok() // what it was meant to be nobody knows
    }
}

/// The file that is `number` rotations old.
fn path(dir: &Path, number: u32) -> PathBuf {
    match number {
        0 => dir.join("log"),
        number => dir.join(format!("log.{number}")),
    }
}

#[cfg(test)]
mod tests;
