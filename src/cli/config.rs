//! `config.toml`: what an administrator or a user has settled for all commands.
//!
//! ```toml
//! additional_stores = ["/srv/rl"]
//! blobs = "drop"
//! ```
//!
//! `/etc/rl/config.toml`, then `$XDG_CONFIG_HOME/rl/config.toml`; of what both have, the user's counts. Text to settings is pure.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::error::Fail;

/// The administrator's.
const SYSTEM: &str = "/etc/rl/config.toml";

/// What becomes of layers as they were transferred, once they are unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Blobs {
    /// They stay, for `push` and `save`
    #[default]
    Keep,
    /// They go, and are fetched again when they are needed
    Drop,
}

/// What the files say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Directories with images that others have put there, in the order in which they are looked at.
    additional_stores: Option<Vec<PathBuf>>,
    /// What becomes of a layer's blob.
    blobs: Option<Blobs>,
}

impl Config {
    /// Reads both files; one that is missing says nothing.
    ///
    /// # Errors
    /// `Usage` with line and column for what makes no sense; the system's.
    pub fn load() -> Result<Self> {
        let own = crate::paths::config_home().map(|dir| dir.join("rl/config.toml"));
        let mut all = Self::default();
        for path in [Some(PathBuf::from(SYSTEM)), own].into_iter().flatten() {
            let text = match std::fs::read_to_string(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                text => text.with_context(|| format!("reading `{}`", path.display()))?,
            };
            all = Self::parse(&path, &text)?.over(all);
        }
        Ok(all)
    }

    /// Directories with images that others have put there.
    #[must_use]
    pub fn additional_stores(&self) -> &[PathBuf] {
        self.additional_stores.as_deref().unwrap_or_default()
    }

    /// What becomes of a layer's blob when no flag says.
    #[must_use]
    pub fn blobs(&self) -> Blobs {
        self.blobs.unwrap_or_default()
    }

    fn over(self, other: Self) -> Self {
        Self {
            additional_stores: self.additional_stores.or(other.additional_stores),
            blobs: self.blobs.or(other.blobs),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Fail> {
        let wrong = |at: Option<usize>, why: &str| {
            let before = text.get(..at.unwrap_or(0)).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            let start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let column = before[start..].chars().count() + 1;
            Fail::usage(format!("{}:{line}:{column}: {why}", path.display()))
                .hint("known are additional_stores = [\"/DIR\"] and blobs = \"keep\" or \"drop\"")
        };
        let config: Self = toml::from_str(text).map_err(|error| {
            let why: Vec<&str> = error.message().lines().collect();
            wrong(error.span().map(|span| span.start), &why.join(", "))
        })?;
        let relative = config
            .additional_stores()
            .iter()
            .find(|dir| !dir.is_absolute());
        if let Some(dir) = relative {
            let shown = dir.display().to_string();
            let why = format!("additional_stores: `{shown}` is no absolute path");
            return Err(wrong(text.find(&shown), &why));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("config.toml"), text).map_err(|fail| fail.message)
    }

    #[test]
    fn the_users_lines_count_where_both_have_them() {
        let system = parse("additional_stores = ['/srv/rl']\nblobs = 'drop'\n").unwrap();
        assert_eq!(system.additional_stores(), [PathBuf::from("/srv/rl")]);
        assert_eq!(system.blobs(), Blobs::Drop);
        let own = parse("additional_stores = []").unwrap().over(system);
        assert_eq!(own.additional_stores(), [] as [PathBuf; 0]);
        assert_eq!(own.blobs(), Blobs::Drop);
        assert_eq!(Config::default().blobs(), Blobs::Keep);
    }

    #[test]
    fn what_makes_no_sense_has_a_line() {
        for (text, expected) in [
            (
                "blobs = 'maybe'",
                "config.toml:1:9: unknown variant `maybe`",
            ),
            ("\nblob = 'drop'", "config.toml:2:1: unknown field `blob`"),
            (
                "additional_stores = ['srv']",
                "config.toml:1:23: additional_stores: `srv` is no absolute path",
            ),
            (
                "additional_stores = '/srv'",
                "config.toml:1:21: invalid type",
            ),
            ("= 1", "config.toml:1:1: "),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.starts_with(expected), "{text}: {message}");
        }
    }
}
