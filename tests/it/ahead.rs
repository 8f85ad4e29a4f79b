//! A container does not wait for its network helper once that has come up here: the interface is there before, and
//! what is sent waits.

use crate::support::host::{self, Need};
use crate::support::{Home, wait_for};

/// A home whose `pasta` (or slirp4netns) does as the file `how` says: `hold` waits until that file is gone, `fail` ends.
fn with_helper(name: &str) -> Home {
    let mut home = Home::with_busybox();
    home.without_programs(&["pasta", "slirp4netns"]);
    let real = host::find(name).expect("checked by needs!");
    let how = home.path().join("how");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --help ] || case $(cat {how} 2>/dev/null) in\n\
         hold) while [ -e {how} ]; do sleep 0.01; done ;;\n\
         fail) echo 'Something is wrong' >&2; exit 1 ;;\nesac\nexec {real} \"$@\"\n",
        how = how.display(),
        real = real.display()
    );
    let program = home.file(&format!("bin/{name}"), script);
    rustix::fs::chmod(&program, 0o755.into()).unwrap();
    home
}

/// Fetches, then says how many segments had to be sent again.
fn fetch(url: &str) -> String {
    format!(
        "echo begun; timeout 20 wget -q -O - {url}; grep ^Tcp: /proc/net/snmp | tail -n 1 | cut -d ' ' -f 13"
    )
}

fn nothing_is_lost(name: &str, urls: &[String]) {
    let home = with_helper(name);
    home.rl("run --rm --network")
        .args([name, "busybox", "true"])
        .ok();
    for url in urls {
        home.file("how", "hold");
        let mut running = home
            .rl("run --rm --network")
            .args([name, "busybox", "sh", "-c", &fetch(url)])
            .spawn();
        // It runs while the helper has not even begun.
        running.wait_for_stdout("begun\n");
        std::fs::remove_file(home.path().join("how")).unwrap();
        let output = running.wait().code(0);
        output
            .stdout_is("begun\nhello from the test host\n0")
            .stderr_is_empty();
    }
}

#[test]
fn with_pasta_the_program_need_not_wait_and_nothing_it_sends_is_lost() {
    needs!(
        Need::Ours,
        Need::TestHost,
        Need::Program("pasta"),
        Need::Writable("/dev/net/tun")
    );
    let host = std::env::var("RL_TEST_HOST").expect("checked by needs!");
    nothing_is_lost("pasta", &[format!("http://{host}/")]);
}

#[test]
fn with_slirp4netns_the_program_need_not_wait_and_nothing_it_sends_is_lost() {
    needs!(
        Need::Ours,
        Need::TestHost,
        Need::Program("slirp4netns"),
        Need::Writable("/dev/net/tun")
    );
    let host = std::env::var("RL_TEST_HOST").expect("checked by needs!");
    nothing_is_lost("slirp4netns", &[format!("http://{host}/")]);
}

/// What a container sees of its interfaces: names, addresses, routes; not how long they have been there.
const SHOW: &str = "ip -o addr | grep -v ' fe80' | awk '{print $2, $3, $4}'; ip route | sort; ip -6 route | grep -v fe80 | awk '/^default/ {print $1, $2, $3}'";

#[test]
fn the_interface_is_the_same_as_the_helper_would_make() {
    needs!(
        Need::Ours,
        Need::Program("pasta"),
        Need::Program("slirp4netns"),
        Need::Writable("/dev/net/tun")
    );
    for name in ["pasta", "slirp4netns"] {
        let home = with_helper(name);
        let seen = || {
            let run = home.rl("run --rm --network");
            run.args([name, "busybox", "sh", "-c", SHOW])
                .ok()
                .text()
                .to_owned()
        };
        let (waited, ahead) = (seen(), seen());
        assert_eq!(waited, ahead, "{name}");
        assert!(waited.contains("default"), "{waited}");
    }
}

#[test]
fn a_helper_that_fails_behind_its_interface_is_told_and_not_trusted_again() {
    needs!(
        Need::Ours,
        Need::Program("pasta"),
        Need::Writable("/dev/net/tun")
    );
    let home = with_helper("pasta");
    home.rl("run --rm busybox true").ok();
    home.file("how", "fail");
    let wait = "until [ -e /v/stop ]; do sleep 0.02; done; exit 3";
    let volume = home.dir("v");
    // A word in the foreground; the program goes on.
    let running = home
        .rl("run --rm --name f -v")
        .arg(format!("{}:/v", volume.display()))
        .args(["busybox", "sh", "-c", wait])
        .spawn();
    let why = wait_for("the loss", || {
        let shown = home.rl("inspect -f {{.State.Error}} f").run();
        shown
            .text()
            .contains("has ended")
            .then(|| shown.text().trim().to_owned())
    });
    assert_eq!(
        why,
        "pasta has ended (Something is wrong): there is no network until a restart"
    );
    std::fs::write(volume.join("stop"), "").unwrap();
    running.wait().code(3).stderr_has(&format!("rl: {why}"));
    home.rl("events --since 0 --until 0s --filter event=network_lost --format {{.Actor.Attributes.name}}")
        .says("f");
    // Now it is waited for again, and passed over.
    home.rl("run --rm busybox true")
        .ok()
        .stderr_has("using the host's network (rl explain RL-N02)");
    // Until it comes up.
    std::fs::remove_file(home.path().join("how")).unwrap();
    home.rl("run --rm busybox true").ok().stderr_is_empty();
}

#[test]
fn a_restart_heals_a_network_that_was_lost_behind_its_interface() {
    needs!(
        Need::Ours,
        Need::TestHost,
        Need::Program("pasta"),
        Need::Writable("/dev/net/tun")
    );
    let home = with_helper("pasta");
    home.rl("run --rm busybox true").ok();
    home.file("how", "fail");
    home.rl("run -d --name d busybox sleep 1000").ok();
    wait_for("the loss", || {
        let shown = home.rl("inspect -f {{.State.Error}} d").run();
        shown.text().contains("Something is wrong").then_some(())
    });
    std::fs::remove_file(home.path().join("how")).unwrap();
    home.rl("restart -t 0 d").ok();
    let host = std::env::var("RL_TEST_HOST").expect("checked by needs!");
    home.rl("exec d timeout 10 wget -q -O -")
        .arg(format!("http://{host}/"))
        .says("hello from the test host");
    home.rl("rm -f d").ok();
}
