//! Every kind of login: what a container needs is there, or done without.

use crate::guest::{DEV, Login, Store, VISITOR};

/// Starts, looks, goes in, stops; the program sees the signal.
const LIFE: &str = r#"
rl run -d --name c busybox sh -c 'trap "echo asked to end; exit 3" TERM; echo started; while true; do sleep 0.1; done'
wait_for is started rl logs c
rl exec c cat /proc/1/comm
rl ps --format '{{.Names}} {{.State}}'
rl stop c
rl logs c
rl wait c
rl rm c
"#;
const LIVED: &str = "sh\nc running\nc\nstarted\nasked to end\n3\nc";

fn lives(user: &'static str, via: &'static str) {
    let store = Store::new(Login { user, via }, &format!("life-{via}"));
    let output = store.sh(LIFE).ok();
    let (id, rest) = output.text().split_once('\n').unwrap();
    assert_eq!((id.len(), rest), (64, LIVED), "{output:?}");
    store
        .sh("rl run --rm busybox sh -c 'exit 9'")
        .fails(9)
        .stdout_is("");
}

#[test]
fn a_container_lives_in_a_login_session() {
    lives("dev", "ssh");
}

#[test]
fn a_container_lives_in_a_service_of_the_user() {
    lives("dev", "service");
}

#[test]
fn a_container_lives_after_su() {
    lives("dev", "su");
}

#[test]
fn a_container_lives_without_any_login() {
    lives("dev", "bare");
}

#[test]
fn a_container_of_a_user_without_ids_lives_in_a_login_session() {
    lives("nosub", "ssh");
}

#[test]
fn a_container_of_a_user_without_ids_lives_in_a_service_of_the_user() {
    lives("nosub", "service");
}

#[test]
fn a_container_of_a_user_without_ids_lives_after_su() {
    lives("nosub", "su");
}

#[test]
fn a_container_of_a_user_without_ids_lives_without_any_login() {
    lives("nosub", "bare");
}

#[test]
fn one_login_sees_and_stops_what_another_started() {
    let store = Store::new(DEV, "between");
    let logins = ["ssh", "su", "bare"];
    for (starts, looks) in logins.iter().zip(["service", "ssh", "su"]) {
        store
            .sh_via(starts, "rl run -d -i --name c busybox cat")
            .ok();
        store
            .sh_via(looks, "rl exec c true; rl stop -t 0 c; rl wait c; rl rm c")
            .ok()
            .stdout_is("c\n137\nc");
    }
}

#[test]
fn a_terminal_over_ssh_becomes_the_containers() {
    let store = Store::new(DEV, "tty");
    store
        .sh_on_terminal("stty rows 20 cols 71; rl run --rm -it busybox sh -c 'tty; stty size'")
        .ok()
        .stdout_has("/dev/pts/0")
        .stdout_has("20 71");
    store
        .sh_on_terminal("rl run -d --name c busybox sleep 1000 >/dev/null; rl exec -it c tty")
        .ok()
        .stdout_has("/dev/pts/");
}

#[test]
fn the_doctor_sees_what_systemd_delegates() {
    let found = |via: &'static str| {
        let doctor = Login { via, ..DEV }.sh("rl doctor").ok();
        doctor
            .stdout_has("version 2")
            .stdout_has("lingering is on")
            .stdout_has("users 100000:65536")
            .stdout_has("/run/user/1000/bus");
        doctor.stdout
    };
    for via in ["ssh", "service", "su", "bare"] {
        let said = found(via);
        assert!(
            said.contains("controllers               cpu memory pids "),
            "{via}: {said}"
        );
        assert!(
            said.contains("not handed to you: io cpuset"),
            "{via}: {said}"
        );
        // Also the service's own group, which can be written: systemd arranges it.
        assert!(
            said.contains("is not ours, but systemd gives one out"),
            "{via}: {said}"
        );
    }
    Login::ssh("nosub")
        .sh("rl doctor")
        .ok()
        .stdout_has("lingering is off")
        .stdout_has("loginctl enable-linger nosub");
}

#[test]
fn a_container_that_would_end_at_logout_is_announced_with_the_remedy() {
    const REMEDY: &str = "loginctl enable-linger";
    let limited = "rl run -d --name c --memory 64m busybox sleep 100000 >/dev/null";
    let goes = Store::new(VISITOR, "goes-with-login");
    let said = goes.sh(limited).ok();
    said.stderr_has("container `c` ends with your last logout")
        .stderr_has(REMEDY);
    assert_eq!(said.stderr.trim().lines().count(), 1, "{said:?}");
    goes.sh("rl stop -t 0 c >/dev/null; rl start c >/dev/null; rl rm -f c >/dev/null")
        .ok()
        .stderr_has(REMEDY);
    // A job's end is its batch system's matter; what is watched is nobody's surprise.
    let in_service = "rl run -d --name c busybox sleep 100000 >/dev/null";
    for (variables, is_said) in [("", true), ("SLURM_JOB_ID=7 ", false)] {
        let script = format!("{variables}{in_service}; rl rm -f c >/dev/null");
        let output = goes.sh_via("service", &script).ok();
        assert_eq!(output.stderr.contains(REMEDY), is_said, "{output:?}");
    }
    let output = goes.sh("rl run --rm --memory 64m busybox true").ok();
    assert!(!output.stderr.contains(REMEDY), "{output:?}");
    // Who lingers loses nothing, and of a login that logind does not know it ends nothing.
    let stays = Store::new(DEV, "stays");
    for via in ["ssh", "service", "su", "bare"] {
        let output = stays
            .sh_via(via, &format!("{limited}; rl rm -f c >/dev/null"))
            .ok();
        assert!(!output.stderr.contains(REMEDY), "{via}: {output:?}");
    }
    let output = goes
        .sh_via(
            "bare",
            "rl run -d --name c busybox sleep 100000 >/dev/null; rl rm -f c >/dev/null",
        )
        .ok();
    assert!(!output.stderr.contains(REMEDY), "{output:?}");
}
