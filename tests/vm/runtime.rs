//! `rl runtime` where systemd hands out the groups: the user's own, and root's.

use crate::guest::{DEV, Login, Made, ROOT};

/// A bundle whose program shows its limits, run to its end; then one that stays, seen as a unit, changed, and deleted.
fn lives(login: Login, spec: &str, slice: &str, systemctl: &str, group_of: &str) {
    let output = login
        .sh(&format!(
            r#"
            work=$(mktemp -d) && cd "$work"
            mkdir -p show/rootfs stay && tar -xf /srv/busybox.tar -C show/rootfs
            cd show && rl runtime spec {spec} && cd ..
            limits='"resources":{{"memory":{{"limit":67108864}},"pids":{{"limit":50}},"cpu":{{"quota":20000,"period":100000}}}}'
            # What the template has of it, by itself, is not what is tried here.
            tr -d '\n\t' <show/config.json | sed 's|"terminal": *true|"terminal":false|; s|,"resources": *{{[^}}]*}}[^}}]*}}||; s|"cgroupsPath": *"[^"]*",||' >plain.json
            sed 's|"args": *\["sh"\]|"args":["sh","-c","cd /sys/fs/cgroup; cat memory.max pids.max cpu.max"]|; s|"linux": *{{|"linux":{{"cgroupsPath":"{slice}:rl:show",'"$limits"',|' plain.json >show/config.json
            rl runtime --systemd-cgroup run --bundle show show </dev/null
            cp -a show/rootfs stay/rootfs
            sed 's|"args": *\["sh"\]|"args":["sleep","1000"]|; s|"linux": *{{|"linux":{{"cgroupsPath":"{slice}:rl:stay",'"$limits"',|' plain.json >stay/config.json
            rl runtime --systemd-cgroup create --bundle stay stay </dev/null >/dev/null 2>&1
            rl runtime start stay
            {systemctl} is-active rl-stay.scope
            pid=$(rl runtime state stay | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
            group=/sys/fs/cgroup$(sed -n s/^0:://p "/proc/$pid/cgroup")
            [[ $group == */{slice}/rl-stay.scope* ]] || echo "it is in $group"
            rl runtime update --memory 33554432 stay
            cat "{group_of}/memory.max"
            rl runtime pause stay && rl runtime state stay | grep -o '"status": *"[a-z]*"' | tr -d ' '
            rl runtime resume stay
            rl runtime delete --force stay
            wait_for test ! -e "$group"
            {systemctl} is-active rl-stay.scope || true
            cd / && rm -rf "$work"
            "#
        ))
        .ok();
    output
        .stdout_is("67108864\n50\n20000 100000\nactive\n33554432\n\"status\":\"paused\"\ninactive");
}

#[test]
fn the_users_systemd_makes_the_groups() {
    lives(DEV, "--rootless", "app.slice", "systemctl --user", "$group");
}

#[test]
fn roots_systemd_makes_the_groups() {
    lives(ROOT, "", "system.slice", "systemctl", "$group");
}

#[test]
fn a_profile_of_apparmor_confines_the_program() {
    let _made = Made::new(
        r"printf 'profile rl-vm flags=(attach_disconnected,mediate_deleted) {\n file,\n capability,\n network,\n mount,\n umount,\n pivot_root,\n signal,\n ptrace,\n unix,\n deny /**/denied r,\n deny /denied r,\n}\n' >/tmp/rl-vm.profile
          apparmor_parser -r /tmp/rl-vm.profile",
        "apparmor_parser -R /tmp/rl-vm.profile",
    );
    let output = DEV
        .sh(r#"
            work=$(mktemp -d) && cd "$work"
            mkdir rootfs && tar -xf /srv/busybox.tar -C rootfs && echo no >rootfs/denied && echo yes >rootfs/allowed
            rl runtime spec --rootless
            tr -d '\n\t' <config.json | sed 's|"terminal": *true|"terminal":false|; s|"process": *{|"process":{"apparmorProfile":"rl-vm",|; s|"args": *\["sh"\]|"args":["sh","-c","cat /proc/self/attr/current /allowed; cat /denied"]|' >new.json
            mv new.json config.json
            rl runtime run confined </dev/null || echo "exit code $?"
            sed -i s/rl-vm/rl-none/ config.json
            rl runtime run confined </dev/null || echo "exit code $?"
            cd / && rm -rf "$work"
            "#)
        .ok();
    output.stdout_is("rl-vm (enforce)\nyes\nexit code 1\nexit code 1");
    output.stderr_has("Permission denied");
    output.stderr_has("rl-none");
}
