//! The rules of the house that a compiler does not know: which module may import which, who does I/O,
//! who prints, where `unsafe` stands, how long a file may be. See docs/architecture.md.

use std::path::{Path, PathBuf};

/// Modules, lowest first; those of one line stand side by side and do not import each other.
const LAYERS: &[&[&str]] = &[
    &["sys"],
    &["error"],
    &["spec", "paths"],
    &["idmap"],
    &["cgroup"],
    &["net", "storage"],
    &["stage"],
    &["image"],
    &["container"],
    &["build"],
    &["doctor"],
    &["cli", "oci", "api"],
];

/// Side by side in [`LAYERS`], and yet one may use the other.
const ALLOWED: &[(&str, &str)] = &[("paths", "spec")];

/// Data and parsers: no files, no processes, no network.
const PURE: &[&str] = &[
    "spec/mod.rs",
    "spec/cgroup.rs",
    "spec/confinement.rs",
    "spec/inherit.rs",
    "spec/life.rs",
    "spec/namespaces.rs",
    "spec/network.rs",
    "spec/egress.rs",
    "spec/mounts.rs",
    "spec/ports.rs",
    "spec/oci.rs",
    "spec/resources.rs",
    "image/reference.rs",
    "image/manifest.rs",
    "build/dockerfile.rs",
];

const LONGEST: usize = 1000;

struct Source {
    path: PathBuf,
    /// `stage` for `src/stage/init.rs`.
    module: String,
    /// Without comments and tests.
    code: String,
    lines: usize,
}

fn sources() -> Vec<Source> {
    let root = crate::support::source().join("src");
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && path.file_stem().is_some_and(|stem| stem != "tests")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(&root).unwrap().to_owned();
                found.push(Source {
                    module: module(&path),
                    code: code(&text),
                    lines: text.lines().count(),
                    path,
                });
            }
        }
    }
    assert!(!found.is_empty(), "no sources under {}", root.display());
    found
}

fn module(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str();
    Path::new(first)
        .file_stem()
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

/// The text without comments, and without the tests, which end every file.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
    text.lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n")
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Every `crate::NAME`, also of `use crate::{a, b::c}`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (start, prefix) in code.match_indices("crate::") {
        let rest = &code[start + prefix.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            let mut first = true;
            for letter in group.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        found.push(std::mem::take(&mut word));
                        first = true;
                    }
                    _ if depth == 0 && first && (letter.is_alphanumeric() || letter == '_') => {
                        word.push(letter);
                    }
                    ':' => first = false,
                    _ => {}
                }
            }
            found.push(word);
        } else {
            found.push(
                rest.chars()
                    .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
                    .collect(),
            );
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for source in sources() {
        if ["main", "lib"].contains(&source.module.as_str()) {
            continue;
        }
        let Some(own) = layer(&source.module) else {
            wrong.push(format!(
                "src/{}: `{}` has no place in the layers of tests/it/tidy.rs",
                source.path.display(),
                source.module
            ));
            continue;
        };
        for import in imports(&source.code) {
            let allowed = import == source.module
                || ALLOWED.contains(&(source.module.as_str(), import.as_str()));
            // A name without a layer is an item of lib.rs, which nobody may use.
            if !allowed && layer(&import).is_none_or(|theirs| theirs >= own) {
                wrong.push(format!(
                    "src/{} imports `{import}`, which does not stand below it",
                    source.path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_import_reader_sees_groups_and_paths() {
    let code = "use crate::error::Fail;\nuse crate::{paths, sys::{fs, mount}, spec};\nlet x = crate::image::y();";
    assert_eq!(imports(code), ["error", "paths", "sys", "spec", "image"]);
}

#[test]
fn data_and_parsers_do_no_io() {
    let forbidden = [
        "std::fs",
        "std::process",
        "std::net::Tcp",
        "std::env",
        "rustix::",
        "nix::",
        "libc::",
        "crate::sys",
    ];
    for source in sources() {
        if PURE.iter().any(|pure| source.path == Path::new(pure)) {
            for word in forbidden {
                assert!(
                    !source.code.contains(word),
                    "src/{} is data, and yet uses `{word}`",
                    source.path.display()
                );
            }
        }
    }
}

#[test]
fn only_sys_is_unsafe() {
    for source in sources() {
        let is_unsafe = source
            .code
            .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .any(|word| word == "unsafe");
        assert!(
            !is_unsafe || source.module == "sys",
            "src/{} contains `unsafe`",
            source.path.display()
        );
    }
}

#[test]
fn only_front_ends_print() {
    for source in sources() {
        // Two hand on what the program in the container says; the last is a child that answers its parent.
        let silent = [
            "container/foreground.rs",
            "container/watch.rs",
            "doctor/probe.rs",
        ];
        if silent.iter().any(|path| source.path == Path::new(path)) {
            continue;
        }
        for word in ["println!", "print!(", "io::stdout()", "io::stderr()"] {
            assert!(
                ["cli", "oci"].contains(&source.module.as_str()) || !source.code.contains(word),
                "src/{} prints (`{word}`): only front ends do",
                source.path.display()
            );
        }
    }
}

#[test]
fn no_file_is_too_long() {
    for source in sources() {
        assert!(
            source.lines <= LONGEST,
            "src/{} has {} lines: split it by what it does",
            source.path.display(),
            source.lines
        );
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    let root = crate::support::source().join("src");
    for source in sources() {
        let text = std::fs::read_to_string(root.join(&source.path)).unwrap();
        assert!(
            text.starts_with("//!") || source.module == "main",
            "src/{} does not open with `//!`",
            source.path.display()
        );
    }
}
