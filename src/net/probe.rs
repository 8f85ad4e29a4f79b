//! What a helper's program can do, and whether it has come up here: remembered for as long as the file stays the same.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::paths;
use crate::sys;

/// What is remembered of all helpers, by path.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    programs: BTreeMap<PathBuf, Program>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Program {
    size: u64,
    mtime_s: i64,
    mtime_ns: i64,
    /// What its help names; none before it was asked.
    #[serde(default)]
    options: Option<Vec<String>>,
    #[serde(default)]
    standing: Standing,
}

/// How far a helper is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is waited for.
    #[default]
    New,
    /// It has brought a network up.
    CameUp,
    /// It was let come later, and failed at once: it is waited for from now on.
    Late,
}

/// Whether `--help` of the program names this option. One that cannot be asked knows no option.
#[must_use]
pub fn knows(program: &Path, option: &str) -> bool {
    options(program).iter().any(|known| known == option)
}

fn options(program: &Path) -> Vec<String> {
    if let Some(options) = recall(program).and_then(|known| known.options) {
        return options;
    }
    let Ok(output) = Command::new(program)
        .arg("--help")
        .env_clear()
        .stdin(Stdio::null())
        .output()
    else {
        return Vec::new();
    };
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let options = named(&text);
    remember(program, |known| known.options = Some(options.clone()));
    options
}

/// Whether this program has brought a network up here, and has not failed since.
#[must_use]
pub fn has_come_up(program: &Path) -> bool {
    recall(program).is_some_and(|known| known.standing == Standing::CameUp)
}

/// Notes how this program has done.
pub fn note(program: &Path, standing: Standing) {
    let before = recall(program).map_or(Standing::New, |known| known.standing);
    if before != standing && before != Standing::Late {
        remember(program, |known| known.standing = standing);
    }
}

fn file() -> Option<PathBuf> {
    paths::runtime_dir()
        .ok()
        .map(|dir| dir.join("helpers.json"))
}

fn read() -> Known {
    file()
        .and_then(|file| std::fs::read(file).ok())
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

/// What is known of this very file.
fn recall(program: &Path) -> Option<Program> {
    let meta = std::fs::metadata(program).ok()?;
    let same = |found: &Program| {
        (found.size, found.mtime_s, found.mtime_ns)
            == (meta.size(), meta.mtime(), meta.mtime_nsec())
    };
    read().programs.remove(program).filter(same)
}

fn remember(program: &Path, change: impl FnOnce(&mut Program)) {
    let Ok(meta) = std::fs::metadata(program) else {
        return;
    };
    let mut now = recall(program).unwrap_or(Program {
        size: meta.size(),
        mtime_s: meta.mtime(),
        mtime_ns: meta.mtime_nsec(),
        options: None,
        standing: Standing::New,
    });
    change(&mut now);
    let mut known = read();
    known.programs.insert(program.to_owned(), now);
    if let (Some(file), Ok(text)) = (file(), serde_json::to_vec(&known)) {
        // Found out again next time when it cannot be written. A name of our own: others may write at the same time.
        let aside = file.with_extension(std::process::id().to_string());
        let _ = sys::fs::write_atomically(&file, &aside, &text);
    }
}

/// The long options in a text of help.
fn named(help: &str) -> Vec<String> {
    let mut options: Vec<String> = help
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | '=' | '[' | ']'))
        .filter(|word| word.len() > 2 && word.starts_with("--"))
        .map(str::to_owned)
        .collect();
    options.sort_unstable();
    options.dedup();
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_from_the_help() {
        let help =
            "  -t, --tcp-ports SPEC\tTCP\n  --map-gw[=X]\n Without PID or --netns, run -- x\n";
        assert_eq!(named(help), ["--map-gw", "--netns", "--tcp-ports"]);
    }

    #[test]
    fn a_program_that_is_not_there_knows_nothing() {
        assert!(!knows(Path::new("/no/such/program"), "--help"));
        assert!(!has_come_up(Path::new("/no/such/program")));
    }
}
