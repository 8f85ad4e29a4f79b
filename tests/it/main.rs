//! The integration tests: they run the real binary, as an ordinary user, in a fresh home.
//!
//! One binary for all, so that the support code is compiled once; one file for each thing that a user
//! names. `scripts/test` prepares the machine and says where things are in `RL_TEST_…` variables.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(
    clippy::print_stderr,
    reason = "what a failed or skipped test has to say"
)]
#![allow(
    unreachable_pub,
    reason = "`pub` here is for the other files of this binary"
)]

#[macro_use]
mod support;

mod ahead;
mod apt;
mod badinput;
mod blobs;
mod cgroups;
mod check;
mod commit;
mod copy;
mod counts;
mod cp;
mod crash;
mod doctor;
mod egress;
mod emulation;
mod exec;
mod failures;
mod health;
mod ids;
mod images;
mod joined;
mod killed;
mod liars;
mod life;
mod limit;
mod logs;
mod machines;
mod manifests;
mod manual;
mod mounts;
mod namespaces;
mod nettraffic;
mod network;
mod networks;
mod oci;
mod oci_bad;
mod oci_clauses;
mod oci_json;
mod oci_life;
mod oci_podman;
mod oci_root;
mod policy;
mod ports;
mod ps;
mod push;
mod remembered;
mod resume;
mod run;
mod save;
mod security;
mod served;
mod shared;
mod space;
mod squash;
mod stats;
mod survive;
mod terminal;
mod tidy;
mod trees;
mod volumes;

/// A file that is not listed above is never compiled, and its tests never run.
#[test]
fn every_file_of_this_directory_is_listed_here() {
    let here = support::source().join("tests/it");
    let listed = std::fs::read_to_string(here.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(&here).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(
            module == "main" || listed.contains(&format!("mod {module};")),
            "tests/it/{name} is not listed in main.rs"
        );
    }
}
