//! What needs the machine for itself: shares of its processors, its setup changed.

use crate::guest::{DEV, HAND, ROOT, Store, VISITOR};
use crate::limits::{GROUP, in_both};

/// A busy loop for each processor, and what its group has used, in microseconds.
const BUSY: &str = "sh -c 'while true; do :; done & while true; do :; done'";
const USED: &str = "used() { sed -n 's/^usage_usec //p' $1/cpu.stat; }\n";

#[test]
fn a_cpu_limit_holds() {
    in_both(
        "cpu",
        &format!(
            r#"{USED}
            rl run -d --name c --cpus 0.4 busybox {BUSY} >/dev/null
            group=$(group c)
            cat $group/cpu.max
            wait_for grep -q 'nr_throttled [1-9]' $group/cpu.stat
            # Both by the guest's clock, over a hundred of the periods of 100 ms.
            from=$(date +%s%N) used=$(used $group)
            periods() {{ sed -n 's/^nr_periods //p' $group/cpu.stat; }}
            until=$(($(periods) + 100))
            wait_for eval '(( $(periods) >= until ))'
            echo "permille: $(( ($(used $group) - used) * 1000000 / ($(date +%s%N) - from) ))"
            "#
        ),
        |output| {
            let (max, permille) = output.text().split_once("\npermille: ").unwrap();
            let permille: u32 = permille.parse().unwrap();
            assert_eq!(max, "40000 100000");
            assert!((380..=420).contains(&permille), "{permille} of 400");
        },
    );
}

/// Hundredths of the processor time of `$one` that `$three` gets. Both are read by one process: on a busy host seconds may lie
/// between two.
const SHARES: &str = r#"
            both() { sed -n 's/^usage_usec //p' $one/cpu.stat $three/cpu.stat; }
            from=($(both))
            wait_for eval '(( $(used $three) - from[1] > 8000000 ))'
            to=($(both))
            echo $(( (to[1] - from[1]) * 100 / (to[0] - from[0]) ))
"#;

#[test]
fn weights_share_the_processors_as_told() {
    in_both(
        "weight",
        &format!(
            r#"{USED}
            # On one processor: over several, the kernel moves them about.
            rl run -d --name one --cgroup-conf cpu.weight=50 busybox taskset 1 {BUSY} >/dev/null
            rl run -d --name three --cgroup-conf cpu.weight=150 busybox taskset 1 {BUSY} >/dev/null
            one=$(group one) three=$(group three)
            {SHARES}
            "#
        ),
        |output| {
            let ratio: u32 = output.text().parse().unwrap();
            assert!((270..=330).contains(&ratio), "{ratio} of 300");
        },
    );
}

#[test]
fn a_weight_that_was_changed_holds_against_the_neighbours() {
    in_both(
        "reweight",
        &format!(
            r#"{USED}
            rl run -d --name one --cgroup-conf cpu.weight=100 busybox taskset 1 {BUSY} >/dev/null
            rl run -d --name three --cgroup-conf cpu.weight=100 busybox taskset 1 {BUSY} >/dev/null
            rl update --cgroup-conf cpu.weight=50 one >/dev/null
            rl update --cgroup-conf cpu.weight=150 three >/dev/null
            one=$(group one) three=$(group three)
            [[ $three == /sys/fs/cgroup/hand/* ]] || wait_for is 150 cat "$three/../cpu.weight"
            {SHARES}
            "#
        ),
        |output| {
            let ratio: u32 = output.text().parse().unwrap();
            assert!((270..=330).contains(&ratio), "{ratio} of 300");
        },
    );
}

/// The group hands down less than it could, as when a setuid program was beside it at the first start.
#[test]
fn what_runs_keeps_its_processors_when_others_get_limits() {
    let store = Store::new(HAND, "processors");
    store
        .sh(&format!(
            r#"{GROUP}
            rl run -d --name c --cgroup-conf cpu.weight=100 busybox sleep 1000 >/dev/null
            echo -cpuset >$(dirname $(group c))/cgroup.subtree_control
            pid=$(rl inspect --format '{{{{.State.Pid}}}}' c)
            taskset -p 1 $pid >/dev/null
            rl update --cgroup-conf cpu.weight=50 c >/dev/null
            rl run --rm --cgroup-conf cpu.weight=50 busybox true
            taskset -p $pid | sed 's/.*: //'
            rl rm -f c >/dev/null
            "#
        ))
        .says("1");
}

/// 6 MB to the disk at 1 MB a second.
const IO: &str = r#"
    rl run -d --name c --device-write-bps /dev/vda:1mb busybox sh -c 'sleep 1; dd if=/dev/zero of=/file bs=64k count=96 conv=fsync; echo written; sleep 1000' >/dev/null
    group=$(group c)
    cut -d ' ' -f 3 $group/io.max
    wrote() { sed -n "s/^$(cat /sys/block/vda/dev) .*wbytes=\([0-9]*\).*/\1/p" $group/io.stat; }
    wait_for eval '[[ $(wrote) -gt 500000 ]]'
    from=$(date +%s%N) wrote=$(wrote)
    wait_for eval '[[ $(wrote) -gt 5500000 ]]'
    echo "permille: $(( ($(wrote) - wrote) * 1000000000 / ($(date +%s%N) - from) * 1000 / 1048576 ))"
    wait_for eval 'rl logs c 2>/dev/null | grep -q written'
"#;

fn io_limit_holds(store: &Store) {
    let output = store.sh(&format!("{GROUP}{IO}")).ok();
    let (max, permille) = output.text().split_once("\npermille: ").unwrap();
    let permille: u32 = permille.parse().unwrap();
    assert_eq!(max, "wbps=1048576");
    assert!((500..=1100).contains(&permille), "{permille} of 1000");
}

#[test]
fn an_io_limit_holds_where_io_is_handed_over_by_hand() {
    io_limit_holds(&Store::new(HAND, "io-hand"));
}

#[test]
fn an_administrators_line_makes_io_and_processors_ours_to_limit() {
    let store = Store::new(DEV, "delegate");
    // The line that `rl doctor` prints.
    let line = DEV
        .sh("rl doctor | sed -n 's/^ *your admin can: \\(mkdir .*daemon-reload\\), then log in again$/\\1/p'")
        .ok();
    assert!(line.text().contains("Delegate="), "{line:?}");
    ROOT.sh(&format!("{}; systemctl restart user@1000", line.text()))
        .ok();
    let _undo = Undo(
        "rm /etc/systemd/system/user@.service.d/delegate.conf; systemctl daemon-reload; systemctl restart user@1000",
    );
    DEV.sh("rl doctor")
        .ok()
        .stdout_has("cpuset cpu io memory pids");
    io_limit_holds(&store);
    store
        .sh("rl run --rm --cpuset-cpus 1 busybox cat /sys/fs/cgroup/cpuset.cpus.effective; rl run --rm --cpuset-cpus 7 busybox true")
        .fails(125)
        .stdout_is("1")
        .stderr_has("7");
}

/// An administrator's script, run at the end of a test.
struct Undo(&'static str);

impl Drop for Undo {
    fn drop(&mut self) {
        let output = ROOT.sh(self.0).run();
        if !output.status.success() {
            eprintln!("{}: {}", self.0, output.stderr);
        }
    }
}

/// Logs in, starts a container of this kind, and logs out: then it is in this state, and `rl` says so.
fn after_logout(store: &Store, options: &str, state: &str) {
    let session = store
        .sh_alone(&format!(
            "rl run -d --name c {options} busybox sleep 100000 >/dev/null; sed 's/.*session-\\(.*\\).scope/\\1/' /proc/self/cgroup"
        ))
        .ok();
    // Said beforehand where it ends, and only there.
    let is_said = session.stderr.contains("ends ");
    assert_eq!(is_said, state != "running 0", "{options}: {session:?}");
    ROOT.sh(&format!(
        "wait_for bash -c '! loginctl show-session {} -p State 2>/dev/null | grep -vq closing'",
        session.text()
    ))
    .ok();
    // Asked by somebody who does not log in for it.
    store
        .sh_via(
            "su",
            &format!(
                "wait_for is '{state}' rl inspect --format '{{{{.State.Status}}}} {{{{.State.ExitCode}}}}' c
                 rl rm -f c >/dev/null"
            ),
        )
        .ok();
}

#[test]
fn whether_containers_survive_a_logout_is_what_the_manual_says() {
    let lingers = Store::new(DEV, "lingers");
    let goes = Store::new(VISITOR, "goes");
    let (runs, ended) = ("running 0", "exited 137");
    let limit = "--memory 64m"; // and so a scope of the user's systemd, not the session's
    after_logout(&lingers, "", runs);
    after_logout(&lingers, limit, runs);
    after_logout(&goes, "", runs);
    after_logout(&goes, limit, ended);

    ROOT.sh("mkdir -p /etc/systemd/logind.conf.d; printf '[Login]\\nKillUserProcesses=yes\\n' >/etc/systemd/logind.conf.d/kill.conf; systemctl restart systemd-logind").ok();
    let _undo = Undo("rm /etc/systemd/logind.conf.d/kill.conf; systemctl restart systemd-logind");
    after_logout(&lingers, "", ended);
    after_logout(&lingers, limit, runs);
    after_logout(&goes, "", ended);
}
