//! A package installed by `apt-get` inside: it needs ids, network, names, `chown`, `setgroups` and a proper `/dev`.

use crate::machines;
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

/// Packages that make users and groups, set-user-id and set-group-id programs of theirs, a file capability; then one made
/// by rpm, with owners and capabilities in its own archive.
const INSTALL_WITH_ONE_ID: &str = r#"set -e; export DEBIAN_FRONTEND=noninteractive
options='-qq -o Acquire::Check-Valid-Until=false -o Acquire::Check-Date=false'
apt-get $options update
apt-get $options install -y --no-install-recommends openssh-client dbus nginx-light cron iputils-ping libcap2-bin rpm >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
getent group _ssh messagebus crontab | cut -d: -f1
stat -c '%U:%G %a' /usr/bin/crontab /usr/bin/ssh-agent
getcap /usr/bin/ping
dpkg --audit
cat >/tmp/spec <<END
Name: owned
Version: 1
Release: 1
Summary: x
License: x
BuildArch: noarch
%description
x
%install
mkdir -p %{buildroot}/opt/owned
cd %{buildroot}/opt/owned
echo x >theirs; echo x >setid; echo x >capable
%pre
useradd --system --create-home --home-dir /var/lib/owned owned
%post
chown owned /opt/owned/theirs
%files
%dir %attr(2775, root, mail) /opt/owned
%attr(0640, games, mail) /opt/owned/theirs
%attr(4755, root, adm) /opt/owned/setid
%caps(cap_net_raw=ep) /opt/owned/capable
END
rpmbuild --quiet --define '_topdir /tmp/rpm' -bb /tmp/spec >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
rpm --install --nodeps /tmp/rpm/RPMS/noarch/owned-1-1.noarch.rpm >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
rpm --query owned
id -un owned
stat -c '%U:%G %a' /opt/owned/theirs /opt/owned/setid
getcap /opt/owned/capable
"#;
const EXPECTED_WITH_ONE_ID: &str = "_ssh\nmessagebus\ncrontab\nroot:root 2755\nroot:root 2755\n\
    /usr/bin/ping cap_net_raw=ep\nowned-1-1.noarch\nowned\nroot:root 640\nroot:root 4755\n/opt/owned/capable cap_net_raw=ep";

/// The `rl` binary and the kernel, and nothing else: no ranges, none of the programs that `rl` can use.
#[test]
fn neither_ranges_nor_any_helper_and_packages_are_installed() {
    needs!(Need::Ours, Need::AsRoot, Need::Debian);
    let line = format!(
        "export RL_ROOT=$DIR/store; for name in newuidmap pasta slirp4netns fuse-overlayfs squashfuse fusermount3; do ! command -v $name >&2; done
         \"$RL\" import {} debian >/dev/null
         \"$RL\" run --rm debian bash -c '{}'; \"$RL\" system reset -f >/dev/null",
        std::env::var("RL_TEST_DEBIAN").expect("checked by needs!"),
        INSTALL_WITH_ONE_ID.replace('\'', "'\\''"),
    );
    let output = machines::on_machine(&["--no-ids", "--no-helpers"], "apt", &line).ok();
    output.stdout_is(EXPECTED_WITH_ONE_ID);
    output
        .stderr_has("newuidmap is not installed: running with one id")
        .stderr_has("using the host's network");
}

/// Run as the user rl-nosub by scripts/test.
#[test]
fn no_ranges_and_packages_with_users_and_capabilities_are_installed() {
    needs!(Need::Ours, Need::NoRanges, Need::Debian);
    let home = Home::new();
    let root = std::env::var("RL_TEST_DEBIAN").expect("checked by needs!");
    home.rl("import").arg(root).arg("debian").ok();
    home.rl("run --name c --network host debian bash -c")
        .arg(INSTALL_WITH_ONE_ID)
        .says(EXPECTED_WITH_ONE_ID);
    // What apt is told is no part of the container's files.
    let changed = home.rl("diff c").ok();
    changed.stdout_has("A /usr/bin/crontab");
    changed.stdout_lacks("root-emulation");
    home.rl("commit c made").ok();
    home.rl("run --rm --root-emulation off made sh -c")
        .arg("ls /etc/apt/apt.conf.d; getcap /usr/bin/ping")
        .ok()
        .stdout_lacks("root-emulation")
        .stdout_has("cap_net_raw");
}
