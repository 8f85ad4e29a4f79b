//! `rl limit` and the figures of groups, from every kind of login: host programs under limits, named groups, rules.

use crate::guest::{DEV, HAND, Login, Store};

/// The logins that limits are had from: systemd's, and one that an administrator handed over.
fn everywhere(name: &str, check: impl Fn(&Store)) {
    for login in [
        DEV,
        Login { via: "su", ..DEV },
        Login {
            via: "service",
            ..DEV
        },
        HAND,
    ] {
        check(&Store::new(login, &format!("{name}-{}", login.via)));
    }
}

/// What is left of groups for host programs.
const LEFT: &str = r#"
left() { find /sys/fs/cgroup \( -name 'rl[-_]limit*' -o -name 'rl-in-*' -o -path "/sys/fs/cgroup/hand/$$/rl-self" \) 2>/dev/null; }
own() { echo "/sys/fs/cgroup$(sed -n s/^0:://p "/proc/$1/cgroup")"; }
export -f own
"#;

#[test]
fn a_host_program_is_under_its_limits_and_killed_at_them() {
    everywhere("single", |store| {
        store
            .sh(&format!(
                r#"{LEFT}
                rl limit --memory 64m --pids 20 --cpus 0.5 -- bash -c 'cd "$(own self)"; cat memory.max pids.max cpu.max memory.oom.group'
                code=0
                rl limit --memory 32m --memory-swap 32m -- bash -c 'sleep 4004 >/dev/null 2>&1 & dd if=/dev/zero of=/dev/null bs=96M count=1; echo survived' || code=$?
                echo $code
                not pgrep -xf 'sleep 4004'
                sleep 1000 & pid=$!
                rl limit --pid $pid --memory 80m
                cat "$(own $pid)/memory.max"
                kill $pid; wait || true
                rl limit --pids 5 -- true # who comes next sweeps
                rl limit rm nobody || true
                wait_for is '' left
                "#
            ))
            .ok()
            .stdout_is("67108864\n20\n50000 100000\n1\n137\n83886080");
    });
}

#[test]
fn a_named_group_is_made_changed_entered_listed_and_removed_with_or_without_systemd() {
    everywhere("named", |store| {
        store
            .sh(&format!(
                r#"{LEFT}
                name=work-1.x
                rl limit $name --memory 64m --cpus 1.5 | sed "s/$name/NAME/"
                rl limit ls --format '{{{{.Name}}}} {{{{.Processes}}}} {{{{.MemoryLimit}}}} {{{{.CPULimit}}}} {{{{.PIDsLimit}}}}' | sed "s/$name/NAME/"
                rl limit --in $name -- sleep 5005 & inside=$!
                sleep 1000 & outside=$!
                rl limit --pid $outside $name
                wait_for is 2 rl limit ls --format '{{{{.Processes}}}}'
                rl limit $name --pids 30 --memory 70m >/dev/null
                group=$(rl limit ls --format '{{{{.Cgroup}}}}')
                cat "$group/memory.max" "$group/pids.max" "$group/cpu.max"
                [[ $(own $inside) == "$group"* && $(own $outside) == "$group"* ]]
                # A container below it is bounded by it.
                rl limit --in $name -- rl run -d --name c --memory 500m busybox sleep 1000 >/dev/null
                rl inspect --format '{{{{.EffectiveLimits.Memory.Value}}}}' c
                rl stats --no-stream --format '{{{{.MemUsage}}}}' c | grep -o '/ .*'
                rl rm -f c
                not rl limit rm $name 2>/dev/null
                rl limit rm -f $name >/dev/null
                not wait $inside
                not wait $outside
                rl limit ls -q
                wait_for is '' left
                "#
            ))
            .ok()
            .stdout_is(
                "NAME\nNAME 0 64MiB 1.50 -\n73400320\n30\n150000 100000\n73400320\n/ 70MiB\nc",
            );
    });
}

#[test]
fn a_named_group_outlives_its_programs_and_a_reload_of_systemd() {
    let store = Store::new(DEV, "outlives");
    store
        .sh(&format!(
            r#"{LEFT}
            rl limit stays --memory 64m --cpu-shares 512 >/dev/null
            rl limit --in stays -- true
            systemctl --user daemon-reload
            group=$(rl limit ls --format '{{{{.Cgroup}}}}')
            cat "$group/memory.max"
            not rl limit stays --cgroup-conf cpu.idle=1 2>/dev/null
            code=0
            rl limit --in stays -- bash -c 'sleep 6006 >/dev/null 2>&1 & dd if=/dev/zero of=/dev/null bs=160M count=1; echo survived' || code=$?
            echo $code
            not pgrep -xf 'sleep 6006'
            rl limit rm stays
            wait_for is '' left
            "#
        ))
        .ok()
        .stdout_is("67108864\n137\nstays");
    store
        .sh("rl limit disk --device-write-bps /dev/vda:1mb")
        .fails(125)
        .stderr_has("`io`")
        .stderr_has("Delegate=");
    store.sh("rl limit ls -q").says("");
}

#[test]
fn figures_of_containers_and_groups_are_seen_live_and_once() {
    let store = Store::new(DEV, "figures");
    store
            .sh(&format!(
                r#"{LEFT}
                rl run -d --name c --memory 64m --pids-limit 50 --cpus 0.5 busybox sleep 1000 >/dev/null
                rl limit shown --memory 96m >/dev/null
                rl stats --no-stream --format '{{{{.Name}}}} {{{{.PIDs}}}} {{{{.PIDsLimit}}}} {{{{.CPULimit}}}}' c
                rl stats --no-stream --format '{{{{.MemUsage}}}}' c | grep -o '/ .*'
                rl inspect --format '{{{{.EffectiveLimits.Memory.Value}}}} {{{{.EffectiveLimits.Memory.SetBy}}}}' c | grep -c '^67108864 .*/rl-'
                tmux -L "t$$" -f /dev/null new-session -d -x 200 -y 20 "RL_ROOT=$RL_ROOT /srv/rl top --cgroup"
                screen() {{ tmux -L "t$$" capture-pane -p; }}
                wait_for eval 'screen | grep -q "limit:shown"'
                screen | grep -o 'limit:shown'
                tmux -L "t$$" send-keys q
                wait_for eval '! tmux -L "t$$" has-session 2>/dev/null'
                rl limit rm shown
                rl rm -f c
                wait_for is '' left
                "#
            ))
            .ok()
            .stdout_is("c 1 50 0.50\n/ 64MiB\n1\nlimit:shown\nshown\nc");
}

#[test]
fn rules_give_limits_and_are_named_when_they_cannot_be_had() {
    let store = Store::new(DEV, "rules");
    let rule = |line: &str| {
        format!(
            "export XDG_CONFIG_HOME=$RL_ROOT.config; mkdir -p $XDG_CONFIG_HOME/rl; printf '%s\\n' '[[rule]]' 'name = \"r*\"' '{line}' >$XDG_CONFIG_HOME/rl/limits.toml\n"
        )
    };
    store
        .sh(&format!(
            "{}rl run --rm --name ruled busybox cat /sys/fs/cgroup/memory.max; rl run --rm --name other busybox true",
            rule("memory = \"64m\"")
        ))
        .says("67108864");
    for (line, why) in [("cpuset-cpus = \"0\"", "`cpuset`"), ("cpus = 99", "--cpus")] {
        for verb in ["create", "run"] {
            store
                .sh(&format!(
                    "{}rl {verb} --name ruled busybox true",
                    rule(line)
                ))
                .fails(125)
                .stderr_has("limits.toml:1`")
                .stderr_has(why);
        }
    }
    store.sh("rl ps -aq").says("");
}
