//! Control groups with real controllers: limits hold, what is not delegated is refused, nothing is left.

use crate::guest::{DEV, HAND, Login, ROOT, Store};
use crate::support::Output;

/// The group of the container `$1`, as the host sees it, from its pid 1.
pub const GROUP: &str = r#"
group() { echo "/sys/fs/cgroup$(sed -n s/^0:://p "/proc/$(rl inspect --format '{{.State.Pid}}' "$1")/cgroup")"; }
export -f group
"#;

/// The same script where systemd hands out groups, and where an administrator did so by hand; the same must come of it.
pub fn in_both(name: &str, script: &str, check: impl Fn(&Output)) {
    for login in [DEV, HAND] {
        let store = Store::new(login, &format!("{name}-{}", login.via));
        check(&store.sh(&format!("{GROUP}{script}")).ok());
    }
}

#[test]
fn a_memory_limit_kills_the_whole_container_at_the_limit_and_not_before() {
    in_both(
        "memory",
        r#"
        limits=(--memory 48m --memory-swap 48m)
        rl run --rm "${limits[@]}" busybox dd if=/dev/zero of=/dev/null bs=24M count=1 2>/dev/null
        echo "below: $?"
        code=0
        rl run --name m "${limits[@]}" busybox sh -c 'sleep 1000 & dd if=/dev/zero of=/dev/null bs=96M count=1; echo survived' || code=$?
        echo "above: $code"
        rl inspect --format '{{.State.OOMKilled}} {{.State.ExitCode}} {{.State.Status}}' m
        rl events --since 0 --until "$(($(date +%s) + 1))" --filter container=m --format '{{.Action}}' | grep -x -e oom -e die
        rl run --rm busybox true # and the next is not hit
        "#,
        |output| {
            output.stdout_is("below: 0\nabove: 137\ntrue 137 exited\noom\ndie");
        },
    );
}

#[test]
fn a_fork_bomb_stops_at_the_limit_of_processes() {
    in_both(
        "pids",
        r#"
        rl run -d --name bomb --pids-limit 30 busybox sh -c 'bomb() { bomb | bomb & }; bomb; exec sleep 1000' 2>&1 >/dev/null
        group=$(group bomb)
        cat $group/pids.max
        wait_for grep -q '^max [1-9]' $group/pids.events
        test "$(cat $group/pids.peak 2>/dev/null || cat $group/pids.current)" -le 30
        rl rm -f bomb
        test ! -e $group
        "#,
        |output| {
            output.stdout_is("30\nbomb");
        },
    );
}

#[test]
fn a_container_without_limits_pays_for_no_scope_and_one_with_limits_has_a_group_of_its_own() {
    in_both(
        "tidy",
        r#"
        own=$(sed -n s/^0:://p /proc/self/cgroup)
        rl run -d --name plain busybox sleep 1000 >/dev/null
        id=$(rl run -d --name limited --memory 64m busybox sleep 2002)
        plain=$(group plain) limited=$(group limited)
        case $own in
          */session-*) [[ $plain == */session-*.scope && $limited == */user@1000.service/*.scope/rl-* ]] ;;
          /hand/*) [[ $plain == /sys/fs/cgroup/hand/*/rl-* && $limited == /sys/fs/cgroup/hand/*/rl-* ]] ;;
        esac
        cat $limited/memory.max
        [[ $limited == *$id* ]]
        systemd-cgls --no-pager -l | grep -A1 "rl-$id\( \|\$\)" | grep -c 'sleep 2002'
        rl exec limited true # joins the group, and leaves it as it was
        rl restart -t 0 limited
        wait_for is running rl inspect --format '{{.State.Status}}' limited
        again=$(group limited)
        rl rm -f plain limited
        not ls -d "$limited" "$again" 2>/dev/null
        not grep . <(find /sys/fs/cgroup -name "*$id*")
        "#,
        |output| {
            output.stdout_is("67108864\n1\nlimited\nplain\nlimited");
        },
    );
}

#[test]
fn any_file_of_version_2_can_be_set() {
    in_both(
        "conf",
        r#"
        rl run -d --name c --cgroup-conf memory.high=32M --cgroup-conf pids.max=50 --cgroup-conf cpu.weight=50 \
          --memory-reservation 16m busybox sleep 1000 >/dev/null
        cd "$(group c)"
        cat memory.high pids.max cpu.weight memory.low memory.oom.group
        "#,
        |output| {
            output.stdout_is("33554432\n50\n50\n16777216\n1");
        },
    );
}

#[test]
fn what_systemd_does_not_delegate_is_refused_with_the_line_that_would() {
    let store = Store::new(DEV, "refused");
    for (flag, controller) in [
        ("--device-write-bps /dev/vda:1mb", "io"),
        ("--blkio-weight 100", "io"),
        ("--cpuset-cpus 0", "cpuset"),
        ("--cgroup-conf io.max=1", "io"),
    ] {
        store
            .sh(&format!("rl run --rm {flag} busybox true"))
            .fails(125)
            .stderr_has(&format!("`{controller}`"))
            .stderr_has("Delegate=cpu cpuset io memory pids")
            .stderr_has("`/sys/fs/cgroup/user.slice`");
    }
    store
        .sh("rl ps -aq; find /sys/fs/cgroup/user.slice -name 'rl-*'")
        .says("");
}

#[test]
fn without_a_manager_limits_are_refused_and_containers_run() {
    // Nobody who could be asked: as after `su` to a user who is not logged in and does not linger.
    let login = Login {
        user: "visitor",
        via: "su",
    };
    let store = Store::new(login, "nobody");
    store
        .sh("rl run --rm --memory 64m busybox true")
        .fails(125)
        .stderr_has("--memory")
        .stderr_has("enable-linger");
    store.sh("rl run --rm busybox echo runs").says("runs");
}

#[test]
fn limits_can_be_had_from_every_login_that_has_a_manager() {
    for via in ["ssh", "service", "su", "bare"] {
        let store = Store::new(Login { via, ..DEV }, &format!("from-{via}"));
        store
            .sh("rl run --rm --memory 64m busybox cat /sys/fs/cgroup/memory.max")
            .says("67108864");
    }
}

#[test]
fn a_delegated_scope_is_used_without_asking_systemd_for_another() {
    let store = Store::new(DEV, "scope");
    store
        .sh(&format!(
            r#"{GROUP}
               systemd-run --user --scope --quiet -p Delegate=yes -- bash -euc '
               rl run -d --name c --memory 64m busybox sleep 1000 >/dev/null
               [[ $(group c) == */run-*.scope/rl-* ]] && cat $(group c)/memory.max
               rl rm -f c'"#
        ))
        .ok()
        .stdout_is("67108864\nc");
}

#[test]
fn in_a_batch_job_the_container_stays_in_the_jobs_group() {
    let store = Store::new(HAND, "job");
    store
        .sh(&format!(
            r#"{GROUP}
            export SLURM_JOB_ID=7
            rl run -d --name c --memory 64m busybox sleep 1000 >/dev/null
            [[ $(group c) == /sys/fs/cgroup/hand/$$/rl-* ]]
            rl rm -f c"#
        ))
        .ok();
    // A job whose group is not handed over, though systemd could be asked.
    let store = Store::new(DEV, "job-not-ours");
    store
        .sh("SLURM_JOB_ID=7 rl run --rm --memory 64m busybox true")
        .fails(125)
        .stderr_has("SLURM_JOB_ID");
    store
        .sh(&format!(
            r#"{GROUP}
            SLURM_JOB_ID=7 rl run -d --name c busybox sleep 1000 >/dev/null
            [[ $(group c) == "/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)" ]]
            rl rm -f c"#
        ))
        .ok();
}

#[test]
fn a_killed_monitor_leaves_no_group_behind() {
    in_both(
        "killed",
        r#"
        id=$(rl run -d --name c --memory 64m busybox sleep 1000)
        kill -KILL "$(pgrep -f "monitor.*$id")"
        wait_for is exited rl inspect --format '{{.State.Status}}' c
        rl start c >/dev/null
        rl rm -f c
        not grep . <(find /sys/fs/cgroup -name "*$id*")
        "#,
        |output| {
            output.stdout_is("c");
        },
    );
}

#[test]
fn the_guest_is_what_these_tests_take_it_for() {
    ROOT.sh("stat -f -c %T /sys/fs/cgroup; cat /sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers")
        .ok()
        .stdout_is("cgroup2fs\ncpu memory pids");
}

#[test]
fn a_paused_container_stops_counting_and_goes_on_from_there() {
    in_both(
        "pause",
        r#"
        mkdir -p ~/counted
        rl run -d --name c -v ~/counted:/counted busybox sh -c 'i=0; while true; do i=$((i+1)); echo $i >/counted/new; mv /counted/new /counted/now; done' >/dev/null
        wait_for test -s ~/counted/now
        rl pause c
        rl inspect --format '{{.State.Status}}' c
        now=$(cat ~/counted/now)
        sleep 1
        [[ $(cat ~/counted/now) == "$now" ]]
        rl unpause c
        wait_for eval '(( $(cat ~/counted/now) > now ))'
        rl pause c
        rl rm -f c # frozen processes too
        "#,
        |output| {
            output.stdout_is("c\npaused\nc\nc\nc");
        },
    );
}

#[test]
fn a_container_that_got_its_group_late_is_known_to_have_run_out_of_memory() {
    in_both(
        "late",
        r#"
        # Bigger and bigger, once it may.
        rl run -d --name late busybox sh -c 'while ! test -e /go; do sleep 0.01; done; dd if=/dev/zero of=/dev/null bs=96M count=1; echo survived' >/dev/null
        rl update --memory 32m --memory-swap 32m late >/dev/null
        cat "$(group late)/memory.max"
        rl exec late touch /go
        rl wait late
        rl inspect --format '{{.State.OOMKilled}}' late
        rl events --since 0 --until "$(($(date +%s) + 1))" --filter container=late --format '{{.Action}}' | grep -x -e oom -e die
        id=$(rl inspect --format '{{.Id}}' late)
        rl rm late
        wait_for eval "! find /sys/fs/cgroup -name '*$id*' | grep -q ."
        "#,
        |output| {
            output.stdout_is("33554432\n137\ntrue\noom\ndie\nlate");
        },
    );
}

#[test]
fn what_cannot_be_had_is_refused_when_the_container_is_made() {
    let store = Store::new(DEV, "create");
    for (flags, why) in [
        ("--memory 1m", "6m"),
        ("--cpuset-cpus 64", "--cpuset-cpus"),
        ("--cpus 99", "--cpus"),
        ("--cpuset-cpus 0", "`cpuset`"),
        ("--device-write-bps /dev/vda:1mb", "`io`"),
        ("--device-write-bps /dev/nosuch:1mb", "/dev/nosuch"),
        ("--cgroups=disabled --memory 64m", "--cgroups=disabled"),
        ("--cgroups=split --memory 64m", "belongs to somebody else"),
    ] {
        store
            .sh(&format!("rl create {flags} busybox true"))
            .fails(125)
            .stderr_has(why);
    }
    store.sh("rl ps -aq").says("");
}

#[test]
fn the_place_of_a_group_is_the_users_to_choose() {
    let store = Store::new(DEV, "parent");
    store
        .sh(&format!(
            r#"{GROUP}
            rl run -d --name sliced --cgroup-parent mine.slice --memory 64m busybox sleep 1000 >/dev/null
            [[ $(group sliced) == */user@1000.service/mine.slice/rl-*.scope/rl-* ]]
            own=$(sed -n s/^0:://p /proc/self/cgroup)
            for mode in inherit disabled; do
              rl run -d --name $mode --cgroups=$mode busybox sleep 1000 >/dev/null
              [[ $(group $mode) == /sys/fs/cgroup$own ]]
            done
            rl run --rm --cgroup-parent /user.slice busybox true && exit 1
            rl rm -f sliced inherit disabled >/dev/null
            systemctl --user stop mine.slice
            "#
        ))
        .ok()
        .stderr_has("`/sys/fs/cgroup/user.slice`");
    let store = Store::new(HAND, "parent-hand");
    store
        .sh(&format!(
            r#"{GROUP}
            rl run -d --name c --cgroup-parent /hand/deep$$ --memory 64m busybox sleep 1000 >/dev/null
            [[ $(group c) == /sys/fs/cgroup/hand/deep$$/rl-* ]]
            cat "$(group c)/memory.max"
            rl rm -f c
            rmdir /sys/fs/cgroup/hand/deep$$
            "#
        ))
        .says("67108864\nc");
}

#[test]
fn the_tree_is_tidy_while_containers_run_and_as_it_was_afterwards() {
    in_both(
        "tree",
        r#"
        groups() { find /sys/fs/cgroup -type d \( -path '*/app.slice/rl*' -o -path "*/hand/$$/*" \) -printf '%P\n' | sort; }
        groups
        a=$(rl run -d --name a --memory 64m busybox sleep 7001)
        b=$(rl run -d --name b --pids-limit 9 busybox sleep 7002)
        top=$(group a); top=${top%/rl-*}; top=${top#/sys/fs/cgroup}
        # The container below its group, its monitor in the leaf.
        systemd-cgls --no-pager -l "$top" | grep -A1 "rl-$a\( \|\$\)" | grep -c 'sleep 7001'
        grep -q . "/sys/fs/cgroup$top/rl-self/cgroup.procs" && echo monitor
        rl rm -f a b >/dev/null
        wait_for is '' groups
        "#,
        |output| {
            output.stdout_is("1\nmonitor");
        },
    );
}
