//! What a helper's program can do: asked once, remembered for as long as the file stays the same.

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
    options: Vec<String>,
}

/// Whether `--help` of the program names this option. One that cannot be asked knows no option.
#[must_use]
pub fn knows(program: &Path, option: &str) -> bool {
    options(program).iter().any(|known| known == option)
}

fn options(program: &Path) -> Vec<String> {
    let Ok(meta) = std::fs::metadata(program) else {
        return Vec::new();
    };
    let file = paths::runtime_dir().map(|dir| dir.join("helpers.json"));
    let mut known: Known = file
        .as_ref()
        .ok()
        .and_then(|file| std::fs::read(file).ok())
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let same = |found: &&Program| {
        (found.size, found.mtime_s, found.mtime_ns)
            == (meta.size(), meta.mtime(), meta.mtime_nsec())
    };
    if let Some(found) = known.programs.get(program).filter(same) {
        return found.options.clone();
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
    let program_now = Program {
        size: meta.size(),
        mtime_s: meta.mtime(),
        mtime_ns: meta.mtime_nsec(),
        options: options.clone(),
    };
    known.programs.insert(program.to_owned(), program_now);
    if let (Ok(file), Ok(text)) = (file, serde_json::to_vec(&known)) {
        // Asked again next time when it cannot be written. A name of our own: others may write at the same time.
        let aside = file.with_extension(std::process::id().to_string());
        let _ = sys::fs::write_atomically(&file, &aside, &text);
    }
    options
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
    }
}
