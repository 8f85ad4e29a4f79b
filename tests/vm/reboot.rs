//! The machine reboots, or loses its power: nothing runs that does not, and what was meant to run comes back.

use crate::guest::{DEV, ROOT, Store, vm};

/// One container of each policy, and two that the user stopped; all of them started once.
const CONTAINERS: &str = r#"
for policy in always unless-stopped on-failure no; do
  rl run -d --name $policy --restart $policy busybox sh -c 'echo up; exec sleep 100000'
done
for policy in always unless-stopped; do
  rl run -d --name $policy-stopped --restart $policy busybox sleep 100000
  rl stop -t 0 $policy-stopped
done
wait_for is 4 bash -c 'rl ps -q | wc -l'
"#;
const ALL_EXITED: &str = "always exited\nalways-stopped exited\nno exited\non-failure exited\n\
    unless-stopped exited\nunless-stopped-stopped exited";
const BROUGHT_BACK: &str = "always running\nalways-stopped running\nno exited\non-failure exited\n\
    unless-stopped running\nunless-stopped-stopped exited";

#[test]
fn after_a_reboot_all_have_exited_and_a_unit_brings_back_what_was_meant_to_run() {
    let store = Store::new(DEV, "reboot");
    store.sh(CONTAINERS).ok();
    store
        .sh("rl create --name by-unit busybox sh -c 'echo started by systemd; exec sleep 100000'")
        .ok();

    vm("reboot").ok();
    store.states().stdout_is(&ALL_EXITED.replace(
        "always-stopped exited\n",
        "always-stopped exited\nby-unit created\n",
    ));
    store.sh("rl ps -q").says("");
    store
        .sh("rl inspect --format '{{.State.Running}} {{.State.Pid}} {{.State.ExitCode}}' always; rl stop always; not rl exec always true 2>&1")
        .ok()
        .stdout_has("false 0 ")
        .stdout_has("not running");

    // The user's systemd does it from the next boot on.
    store
        .sh(r"
            mkdir -p ~/.config/systemd/user
            rl system autostart --unit >~/.config/systemd/user/rl.service
            rl generate systemd by-unit >~/.config/systemd/user/by-unit.service
            rl start always unless-stopped
            systemctl --user enable rl by-unit 2>&1
        ")
        .ok();
    vm("reboot").ok();
    store
        .sh("wait_for systemctl --user is-active rl; wait_for systemctl --user is-active by-unit; wait_for is 'started by systemd' rl logs by-unit")
        .ok();
    store.states().stdout_is(&BROUGHT_BACK.replace(
        "always-stopped running\n",
        "always-stopped running\nby-unit running\n",
    ));
    // They outlive the unit that started them, and its log says which they are.
    store.sh("systemctl --user disable rl by-unit 2>&1").ok();
    ROOT.sh("journalctl -o cat _SYSTEMD_USER_UNIT=rl.service")
        .ok()
        .stdout_has("unless-stopped");
    store.sh("rl exec always true; rl exec by-unit true").ok();
    store
        .sh("systemctl --user stop by-unit; rl inspect --format '{{.State.Status}}' by-unit")
        .says("exited");
}

#[test]
fn after_a_power_cut_the_state_is_whole_and_autostart_brings_back_what_was_meant_to_run() {
    let store = Store::new(DEV, "cut");
    store.sh(CONTAINERS).ok();
    store
        .sh("rl run -d --rm --name swept busybox sleep 100000; sync")
        .ok();
    // At work while the power goes: half made, half removed, half written.
    store
        .sh("setsid bash -c 'for i in {1..1000}; do rl run --name w$i busybox true; rl rm w$((i - 1)); done' >/dev/null 2>&1 &
             wait_for bash -c 'rl ps -a | grep -q w3'")
        .ok();

    vm("cut").ok();
    let after = store
        .sh("rl ps -a --format '{{.Names}} {{.State}}' | sort | grep -v '^w[0-9]'")
        .ok();
    let known = after.text().replace("\nswept exited", "");
    assert_eq!(known, ALL_EXITED, "{after:?}");
    after.stderr_is_empty();
    store.sh("rl ps -q").says("");
    // What was at work is there or not, and can be removed; the next command sweeps the rest.
    store.sh("rl run --rm busybox true; rl rm $(rl ps -a --format '{{.Names}}' | grep '^w[0-9]') >/dev/null || true").ok();
    store.states().stdout_is(ALL_EXITED).stdout_lacks("swept");
    store.sh("rl system autostart").ok();
    store.states().stdout_is(BROUGHT_BACK);
    store.sh("rl exec unless-stopped echo in").says("in");
}
