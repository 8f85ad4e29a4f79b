//! Field for field what runc prints: both runtimes are asked the same of the same bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::bundle::{Bundle, is_root, ours};
use crate::support::host::Need;

/// How an answer of ours may be another one.
#[derive(Debug, Default)]
struct Rules<'a> {
    /// Paths whose values are another with every container or runtime: only their types are compared.
    varies: &'a [&'a str],
    /// Paths below which the answers differ on purpose, and why. One that does not differ is an error, too.
    differs: &'a [(&'a str, &'a str)],
}

/// One runtime in a directory of its own.
struct One<'a> {
    bundle: &'a Bundle,
    words: Vec<String>,
}

impl One<'_> {
    fn ask(&self, words: &[&str]) -> Value {
        let output = Command::new(&self.words[0])
            .args(&self.words[1..])
            .args(words)
            .current_dir(self.bundle.path("b"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{:?} {words:?}: {output:?}",
            self.words
        );
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// What it writes as `config.json`.
    fn spec(&self, words: &[&str]) -> Value {
        let path = self.bundle.path("b/config.json");
        let _ = std::fs::remove_file(&path); // the first time there is none
        self.ask(&[&["spec"], words].concat());
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }
}

/// Every value that holds no other, by its path.
fn leaves(value: &Value, path: &str, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(all) if !all.is_empty() => {
            for (key, value) in all {
                leaves(value, &format!("{path}/{key}"), into);
            }
        }
        Value::Array(all) if all.iter().any(Value::is_object) => {
            for (at, value) in all.iter().enumerate() {
                leaves(value, &format!("{path}/{at}"), into);
            }
        }
        // Sets: the order says nothing.
        Value::Array(all) => {
            let mut all = all.clone();
            all.sort_by_key(Value::to_string);
            into.insert(path.to_owned(), Value::from(all));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            into.insert(path.to_owned(), value.clone());
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn differences(theirs: &Value, ours: &Value, rules: &Rules<'_>) -> Vec<String> {
    let (mut one, mut two) = (BTreeMap::new(), BTreeMap::new());
    leaves(theirs, "", &mut one);
    leaves(ours, "", &mut two);
    let paths: BTreeSet<&String> = one.keys().chain(two.keys()).collect();
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for path in paths {
        let (theirs, ours) = (one.get(path), two.get(path));
        let same = match (theirs, ours) {
            (Some(theirs), Some(ours)) if rules.varies.contains(&path.as_str()) => {
                kind(theirs) == kind(ours)
            }
            (theirs, ours) => theirs == ours,
        };
        let excused = rules
            .differs
            .iter()
            .find(|(below, _)| path == below || path.starts_with(&format!("{below}/")));
        match excused {
            _ if same => {}
            Some((below, _)) => {
                used.insert(*below);
            }
            None => wrong.push(format!("{path}: runc {theirs:?}, rl {ours:?}")),
        }
    }
    for (below, why) in rules.differs {
        if !used.contains(below) {
            wrong.push(format!("{below} does not differ any more: {why}"));
        }
    }
    wrong
}

#[test]
fn every_answer_has_runcs_fields() {
    if !ours() {
        crate::support::skip("compares rl with runc");
        return;
    }
    needs!(Need::Program("busybox"), Need::Program("runc"));
    if !is_root() {
        needs!(Need::Ranges);
    }
    let mut bundle = Bundle::new();
    bundle.config["annotations"] = json!({"org.example.a": "b"});
    bundle.script("exec sleep 1000").write();
    let config = std::fs::read(bundle.path("b/config.json")).unwrap();
    let own = |name: &str| bundle.path(name).display().to_string();
    let rl = crate::support::rl_binary().display().to_string();
    let runc = One {
        bundle: &bundle,
        words: vec!["runc".to_owned(), "--root".to_owned(), own("theirs")],
    };
    let rl = One {
        bundle: &bundle,
        words: vec![rl, "runtime".to_owned(), "--root".to_owned(), own("state")],
    };
    let mut wrong = Vec::new();
    let mut compare = |what: &str, theirs: &Value, ours: &Value, rules: Rules<'_>| {
        assert!(!theirs.is_null() || what.contains("empty"), "{what}");
        for line in differences(theirs, ours, &rules) {
            wrong.push(format!("{what}: {line}"));
        }
    };
    let both = |words: &[&str]| (runc.ask(words), rl.ask(words));

    let (theirs, ours) = both(&["list", "--format", "json"]);
    compare("list, empty", &theirs, &ours, Rules::default());
    let (theirs, ours) = both(&["features"]);
    let newer = "of a later specification than runc 1.1.5 knows";
    let rules = Rules {
        varies: &["/ociVersionMax"],
        differs: &[
            ("/annotations", "runc names itself and libseccomp"),
            ("/linux/cgroup/v1", "rl has none"),
            ("/linux/cgroup/rdma", newer),
            ("/linux/intelRdt", newer),
            ("/linux/mountExtensions", newer),
            ("/linux/namespaces", newer),
            ("/linux/netDevices", newer),
            ("/linux/seccomp/archs", newer),
            ("/linux/seccomp/knownFlags", newer),
            ("/linux/seccomp/supportedFlags", newer),
            ("/linux/selinux/enabled", "no labels"),
            ("/mountOptions", newer),
            ("/potentiallyUnsafeConfigAnnotations", newer),
        ],
    };
    compare("features", &theirs, &ours, rules);
    for words in [&[][..], &["--rootless"]] {
        let (theirs, ours) = (runc.spec(words), rl.spec(words));
        let rules = Rules {
            varies: &["/ociVersion", "/hostname"],
            differs: &[
                ("/linux/maskedPaths", "rl masks what docker does, too"),
                (
                    "/process/capabilities/ambient",
                    "runc's later versions have none either",
                ),
            ],
        };
        compare(&format!("spec {words:?}"), &theirs, &ours, rules);
    }

    std::fs::write(bundle.path("b/config.json"), config).unwrap();
    for runtime in [&runc, &rl] {
        let mut words = runtime.words[1..].to_vec();
        words.extend(["create".to_owned(), "x".to_owned()]);
        // Not by `ask`: pid 1 would keep its pipes open.
        let status = Command::new(&runtime.words[0])
            .args(words)
            .current_dir(bundle.path("b"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{:?}", runtime.words);
    }
    let (theirs, ours) = both(&["state", "x"]);
    let state = Rules {
        varies: &["/pid", "/created", "/ociVersion"], // the last is runc's own
        differs: &[],
    };
    compare("state, created", &theirs, &ours, state);
    both(&["start", "x"]);
    let (theirs, ours) = both(&["state", "x"]);
    let state = Rules {
        varies: &["/pid", "/created", "/ociVersion"], // the last is runc's own
        differs: &[],
    };
    compare("state, running", &theirs, &ours, state);
    let (theirs, ours) = both(&["list", "--format", "json"]);
    let list = Rules {
        varies: &["/0/pid", "/0/created", "/0/ociVersion"],
        differs: &[],
    };
    compare("list", &theirs, &ours, list);
    // Without a control group neither has them.
    if is_root() {
        let (theirs, ours) = both(&["ps", "--format", "json", "x"]);
        let pids = |value: &Value| value.as_array().map_or(0, Vec::len);
        assert_eq!((pids(&theirs), pids(&ours)), (1, 1), "{theirs} {ours}");
        let (theirs, ours) = both(&["events", "--stats", "x"]);
        let events = Rules {
            varies: &[
                "/data/cpu/usage/total",
                "/data/cpu/usage/kernel",
                "/data/cpu/usage/user",
            ],
            differs: &[],
        };
        compare("events", &theirs, &ours, events);
    }
    both(&["delete", "--force", "x"]);
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
