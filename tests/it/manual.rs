//! The manual says what the program says, and its links lead somewhere.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::host::Need;
use crate::support::{rl_binary, source};

#[test]
fn the_reference_of_commands_is_what_rl_says() {
    needs!(Need::Ours);
    let made = Command::new("bash")
        .arg(source().join("scripts/docs"))
        .arg(rl_binary())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let here = std::fs::read_to_string(source().join("docs/cli.md")).unwrap();
    let made = String::from_utf8(made.stdout).unwrap();
    let line = made.lines().zip(here.lines()).find(|(new, old)| new != old);
    assert!(
        made == here,
        "docs/cli.md is not what `rl` says: run scripts/docs (first difference: {line:?})"
    );
}

/// The targets of `[text](target)`, without the place in the page.
fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}

fn pages(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(pages(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

#[test]
fn links_of_the_manual_lead_to_files() {
    let mut all = pages(&source().join("docs"));
    assert!(!all.is_empty());
    all.push(source().join("README.md"));
    for page in all {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            assert!(
                page.parent().unwrap().join(link).exists(),
                "{} links to `{link}`, which is not there",
                page.display()
            );
        }
    }
}

/// `file.rs::a_test_of_that_name`, as the pages name their guards.
#[test]
fn guards_that_the_manual_names_exist() {
    let mut files = Vec::new();
    for directory in ["src", "tests"] {
        read_all(&source().join(directory), &mut files);
    }
    let mut named = 0;
    for page in ["architecture.md", "cve.md"] {
        let text = std::fs::read_to_string(source().join("docs").join(page)).unwrap();
        for word in text.split('`').filter(|word| word.contains(".rs::")) {
            let (file, name) = word.split_once("::").unwrap();
            let function = format!("fn {name}(");
            named += 1;
            assert!(
                files
                    .iter()
                    .any(|(path, code)| path.ends_with(file) && code.contains(&function)),
                "docs/{page} names `{word}`, which is not there"
            );
        }
    }
    assert!(named > 10, "the pages name their guards");
}

/// Paths and texts of the Rust files below `directory`.
fn read_all(directory: &Path, files: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            files.push((path, text));
        }
    }
}
