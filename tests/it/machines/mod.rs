//! Machines that give less: each row of the table is made for real, and each command is tried on it.
//!
//! What only root can take away is taken by `scripts/as-user`, which scripts/test lets these tests start.

pub mod judge;
pub mod table;

use std::path::Path;

use crate::support::host::Need;
use crate::support::{Home, Run, image, rl_binary, source};
use judge::{check, inner};
use table::{COMMANDS, HOST, Row};

/// Starts `scripts/as-user`, as root, with these options.
pub fn as_user(options: &[&str], dir: &Path) -> Run {
    let root = std::env::var_os("RL_TEST_AS_ROOT").expect("checked by needs!");
    let host = std::env::var("RL_TEST_ROOT_PID").expect("set beside it");
    Run::new(root)
        .args(["--reuid", "0", "--regid", "0", "--clear-groups"])
        // From the host's own mounts, not from those of the session that the tests are in.
        .args(["nsenter", "--target", &host, "--mount", "env", "-i"])
        .args(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
        .arg(source().join("scripts/as-user"))
        .args(options)
        .arg("--dir")
        .arg(dir)
        .arg("--")
}

/// The user's shell. `$outer` runs what follows in another container; podman's begins with `$in_podman`.
const OUTER: &str = r#"
cd "$DIR"; mkdir -p -m 700 tmp home inner
export TMPDIR=$DIR/tmp HOME=$DIR/home RL_ROOT=$DIR/store outer=
# A directory of its own: podman goes into the mounts of whatever else of the user's podman finds in the usual one.
podman_run=${XDG_RUNTIME_DIR:-}/p$$
podman="env XDG_RUNTIME_DIR=$podman_run podman --root $DIR/podman --runroot $podman_run --cgroup-manager=cgroupfs --events-backend=file"
in_podman() {
  mkdir -m 700 "$podman_run"
  $podman load -q -i "$ARCHIVE" >/dev/null
  echo "$podman run --rm --network none -e RL -e ARCHIVE -e DIR=/inner -e TMPDIR=/inner -e HOME=/inner -e RL_ROOT=/inner/store \
    -v $DIR/inner:/inner -v $RL:$RL:ro -v $ARCHIVE:$ARCHIVE:ro $1 busybox"
}
"#;

fn outer(row: &Row) -> String {
    format!(
        "{OUTER}{}\n$outer sh -c \"$INNER\"\n[ ! -d \"$podman_run\" ] || $podman unshare rm -rf podman inner; rm -rf \"$podman_run\" 2>/dev/null; true\n",
        row.before
    )
}

fn try_row(name: &str) {
    needs!(Need::Ours, Need::AsRoot);
    let number = HOST
        .iter()
        .position(|row| row.name == name)
        .expect("a row of this name");
    let row = &HOST[number];
    for program in ["podman", "bwrap"] {
        if row.before.contains(program) {
            needs!(Need::Program(program));
        }
    }
    // Made and removed by root: it is not a home of ours.
    let dir = std::env::temp_dir().join(format!("m.{}.{number}", std::process::id()));
    let registry = std::env::var("RL_TEST_REGISTRY").unwrap_or_default();
    let mut output = as_user(row.made, &dir)
        .arg("env")
        .arg(format!("RL={}", rl_binary().display()))
        .arg(format!("REGISTRY={registry}"))
        .arg(format!("ARCHIVE={}", image::busybox().display()))
        .arg(format!("INNER={}", inner(row, &COMMANDS)))
        .args(["sh", "-c"])
        .arg(outer(row))
        .ok();
    // The scripts are known; what they said is what matters.
    output.shown = row.name.to_owned();
    check(row, &COMMANDS, &output);
}

/// One test for each row, so that they run side by side and by name.
macro_rules! rows {
    ($($name:ident)+) => {
        $(#[test] fn $name() { try_row(stringify!($name)); })+
        #[test]
        fn every_row_is_a_test() {
            let rows: Vec<&str> = HOST.iter().map(|row| row.name).collect();
            assert_eq!(rows, [$(stringify!($name)),+]);
        }
    };
}

rows! {
    nothing_is_missing
    without_ranges
    no_newuidmap
    ranges_that_overlap
    more_ranges_than_the_kernel_takes
    neither_ranges_nor_any_helper
    no_new_privs
    no_dev_fuse
    no_dev_net_tun
    no_overlay
    neither_overlay_nor_fuse
    no_runtime_directory
    a_runtime_directory_that_is_gone
    no_control_groups
    an_unwritable_home
    a_home_mounted_noexec
    a_store_mounted_noexec_without_overlay_and_fuse
    a_store_mounted_nosuid_and_nodev
    a_full_disk
    no_inodes
    a_user_without_a_name
    an_id_above_65535_and_thirty_groups
    thirty_groups
    a_closed_umask
    a_read_only_sys
    no_user_namespaces_left
    no_mount_namespaces_left
    no_network_namespaces_left
    a_kernel_without_user_namespaces
    an_outer_filter_that_forbids_user_namespaces
    an_outer_filter_that_hides_user_namespaces
    no_openat2
    no_openat2_by_eperm
    no_fsopen
    no_mount_setattr
    no_clone3
    no_close_range
    no_pidfd_open
    none_of_the_newer_calls
    inside_bubblewrap
    inside_unshare
    inside_podman
    inside_podman_as_it_comes
}

#[test]
fn the_manual_has_this_table() {
    let page = source().join("docs/machines.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&page, table::page()).unwrap();
    }
    let here = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(
        here == table::page(),
        "docs/machines.md is not the table of tests/it/machines: UPDATE_EXPECT=1 writes it"
    );
}

/// Runs a shell line of `/bin/sh` on such a machine, with `$RL` and `$DIR`.
pub fn on_machine(options: &[&str], name: &str, line: &str) -> Run {
    let dir = std::env::temp_dir().join(format!("m.{}.{name}", std::process::id()));
    as_user(options, &dir)
        .arg("env")
        .arg(format!("RL={}", rl_binary().display()))
        .arg(format!("ARCHIVE={}", image::busybox().display()))
        .args(["sh", "-euc"])
        .arg(format!("{OUTER}\n{line}"))
}

#[test]
fn many_users_run_one_file_from_a_read_only_directory() {
    needs!(Need::Ours, Need::AsRoot);
    let home = Home::new();
    let shared = home.dir("shared");
    std::fs::copy(rl_binary(), shared.join("rl")).unwrap();
    for path in [home.path().to_owned(), shared.clone()] {
        rustix::fs::chmod(&path, 0o755.into()).unwrap();
    }
    let read_only = format!(
        "mount --bind {0} {0}; mount -o remount,bind,ro {0}",
        shared.display()
    );
    let line = format!(
        "rl={}/rl; $rl load -q -i $ARCHIVE >/dev/null 2>&1; touch $rl.new 2>/dev/null && exit 9
         for i in 1 2 3 4 5 6 7; do $rl run --rm busybox echo $i 2>/dev/null & done; wait; $rl system reset -f >/dev/null 2>&1",
        shared.display()
    );
    let users: [(&str, &[&str]); 3] = [
        ("ids", &[]),
        ("none", &["--no-ids"]),
        ("nobody", &["--uid", "61234"]),
    ];
    let running: Vec<_> = users
        .iter()
        .map(|(name, options)| {
            on_machine(
                &[options, &["--prepare", &read_only][..]].concat(),
                name,
                &line,
            )
            .spawn()
        })
        .collect();
    for one in running {
        let output = one.wait().code(0);
        let mut lines = output.lines();
        lines.sort_unstable();
        assert_eq!(lines, ["1", "2", "3", "4", "5", "6", "7"], "{output:?}");
    }
}

#[test]
fn without_a_terminal_one_is_refused_and_all_else_works() {
    needs!(Need::Ours, Need::AsRoot);
    let line = "\"$RL\" load -q -i \"$ARCHIVE\" >/dev/null; setsid \"$RL\" run --rm -i busybox cat </dev/null; setsid \"$RL\" run --rm -i busybox echo hi </dev/null; \"$RL\" system reset -f >/dev/null";
    on_machine(&[], "tty", line).says("hi");
}

#[test]
fn ranges_that_are_spoilt_and_mended_leave_files_as_they_are() {
    needs!(Need::Ours, Need::AsRoot);
    // A list that the user can spoil, seen by nobody else.
    let own_list =
        "cp /etc/subuid list && chown \"$AS_USER\" list && mount --bind list /etc/subuid";
    let line = r#"
rl() { "$RL" "$@"; }
seen() { rl run --rm -v data:/data busybox stat -c '%u %a' /data/of-1000; }
rl load -q -i "$ARCHIVE" >/dev/null
rl run --rm -v data:/data busybox sh -c 'mkdir -m 700 /data/of-1000 && chown 1000 /data/of-1000'
rl create --name old busybox sh -c 'wc -l </proc/self/uid_map' >/dev/null
rl start -a old; seen
rl create --name gone busybox sh -c 'mkdir -p -m 700 /x/y && chown -R 1000 /x && chmod 700 /x' >/dev/null; rl start -a gone
cp list good; seq 1 400 | awk '{ print "rl-test:" 300000 + 2 * $1 ":1" }' | cat good - >list
rl start -a old 2>&1; seen 2>/dev/null
rl cp old:/etc/passwd copied && rl commit -q old changed >/dev/null && [ -s copied ] && echo usable
rl rm gone 2>&1 | grep -o 'rl explain RL-S10' || true
cat good >list
rl start -a old; seen
rl rm old >/dev/null; rl system check --repair >/dev/null || true; rl system check; rl system reset -f >/dev/null"#;
    let output = on_machine(&["--prepare", own_list], "spoilt", line).ok();
    let one_id = "rl: newuidmap fails: write to uid_map failed: Invalid argument: running with one id; other owners and users inside are emulated: they can be set, and nothing comes of it (rl explain RL-S03)";
    let expected = [
        "2",
        "1000 700",
        one_id,
        "1",
        "65534 700",
        "usable",
        "rl explain RL-S10",
        "2",
        "1000 700",
        "nothing is wrong",
    ];
    assert_eq!(output.lines(), expected, "{output:?}");
}
