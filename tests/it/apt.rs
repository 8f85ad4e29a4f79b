//! A package installed by `apt-get` inside: it needs ids, network, names, `chown`, `setgroups` and a proper `/dev`.

use crate::support::host::Need;
use crate::support::{Home, UnderTest, under_test};

/// `hello`, and `cron`, which makes a group and a set-group-id program.
const INSTALL: &str = "set -e; export DEBIAN_FRONTEND=noninteractive; \
    options='-qq -o Acquire::Check-Valid-Until=false -o Acquire::Check-Date=false -o APT::Sandbox::Seteuid=1'; \
    apt-get $options update; apt-get $options install -y --no-install-recommends hello cron >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }; \
    hello; stat -c '%U:%G %a' /usr/bin/crontab; getent group crontab | cut -d: -f1; su -s /bin/sh nobody -c 'id -un'";
const EXPECTED: &str = "Hello, world!\nroot:crontab 2755\ncrontab\nnobody";

fn install(network: &str) {
    let home = Home::new();
    let root = std::env::var("RL_TEST_DEBIAN").expect("checked by needs!");
    home.rl("import").arg(root).arg("debian").ok();
    let output = home
        .rl("run --rm --network")
        .args([network, "debian", "bash", "-c", INSTALL])
        .ok();
    output.stdout_is(EXPECTED);
}

#[test]
fn a_package_is_installed_through_pasta() {
    needs!(
        Need::Ours,
        Need::Debian,
        Need::Ranges,
        Need::Program("pasta"),
        Need::Writable("/dev/net/tun")
    );
    install("pasta");
}

#[test]
fn a_package_is_installed_through_slirp4netns() {
    needs!(
        Need::Debian,
        Need::Ranges,
        Need::Program("slirp4netns"),
        Need::Writable("/dev/net/tun")
    );
    install("slirp4netns");
}

#[test]
fn a_package_is_installed_through_the_hosts_network() {
    needs!(Need::Debian, Need::Ranges);
    assert!(matches!(under_test(), UnderTest::Rl | UnderTest::Podman));
    install("host");
}
