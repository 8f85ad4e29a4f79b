//! `--egress`: nothing leaves a container but what was allowed, by whatever protocol and on whatever network.

use std::io::Read as _;
use std::net::TcpStream;

use crate::support::host::Need;
use crate::support::{Home, wait_for};

/// The test host serves HTTP and DNS.
const HOST: &str = "198.51.100.2";
const HOST6: &str = "[2001:db8:51::2]";

/// Says of each way to the test host whether it is open.
const LOOK: &str = "
    said() { if [ $1 = 0 ]; then echo \"$2 open\"; else echo \"$2 closed\"; fi; }
    timeout 5 wget -q -O /dev/null http://198.51.100.2/ 2>/dev/null; said $? tcp
    timeout 5 nslookup some.test 198.51.100.2 >/dev/null 2>&1; said $? dns
    timeout 5 nslookup some.test >/dev/null 2>&1; said $? resolver
    timeout 5 wget -q -O /dev/null 'http://[2001:db8:51::2]/' 2>/dev/null; said $? ipv6
    timeout 5 ping -c 1 -W 2 198.51.100.2 >/dev/null 2>&1; said $? ping";

fn needs_network() -> bool {
    [
        Need::Ours,
        Need::TestHost,
        Need::TestDns,
        Need::Program("pasta"),
        Need::Program("slirp4netns"),
        Need::Writable("/dev/net/tun"),
    ]
    .iter()
    .all(|need| need.check().is_ok())
}

macro_rules! needs_network {
    () => {
        if !needs_network() {
            crate::support::skip("no network helpers, no tun or no test host");
            return;
        }
    };
}

fn look(home: &Home, network: &str, rules: &[&str]) -> Vec<String> {
    let mut run = home.rl("run --rm --network").arg(network);
    for rule in rules {
        run = run.args(["--egress", rule]);
    }
    let output = run.args(["busybox", "sh", "-c", LOOK]).ok();
    output
        .lines()
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// Without `--egress` this is open, so that what is closed below is closed by it.
fn with_networks(check: impl Fn(&Home, &str)) {
    let home = Home::with_busybox();
    home.rl("network create --ipv6 n").ok();
    for network in ["pasta", "slirp4netns", "n"] {
        check(&home, network);
    }
}

#[test]
fn nothing_leaves_that_was_not_allowed() {
    needs_network!();
    with_networks(|home, network| {
        let open = look(home, network, &[]);
        assert_eq!(open[..2], ["tcp open", "dns open"], "{network}");
        let closed = [
            "tcp closed",
            "dns closed",
            "resolver closed",
            "ipv6 closed",
            "ping closed",
        ];
        assert_eq!(look(home, network, &["deny"]), closed, "{network}");
        // Told at once, and not by silence.
        home.rl("run --rm --egress deny --network")
            .args([network, "busybox", "timeout", "5", "wget", "-O", "-"])
            .arg(format!("http://{HOST}/"))
            .fails(1)
            .stderr_has("can't connect");
        let only_web = look(home, network, &["allow=198.51.100.2:80"]);
        assert_eq!(only_web[0], "tcp open", "{network}");
        assert_eq!(only_web[1..], closed[1..], "{network}");
        let wrong = [
            "allow=198.51.100.2:80/udp",
            "allow=198.51.100.3,[2001:db8::/32]:81",
            "deny",
        ];
        assert_eq!(look(home, network, &wrong), closed, "{network}");
        let all = look(home, network, &["allow=198.51.100.0/24"]);
        assert_eq!(all[..2], ["tcp open", "dns open"], "{network}");
        let dns = look(home, network, &["allow=198.51.100.2:53/udp"]);
        assert_eq!(dns[..2], ["tcp closed", "dns open"], "{network}");
    });
}

#[test]
fn ipv6_is_allowed_by_address_and_prefix() {
    needs_network!();
    let home = Home::with_busybox();
    if look(&home, "pasta", &[])[3] != "ipv6 open" {
        crate::support::skip("no IPv6 to the test host");
        return;
    }
    for rule in [
        format!("allow={HOST6}:80"),
        "allow=[2001:db8:51::/64]".to_owned(),
    ] {
        let seen = look(&home, "pasta", &[&rule]);
        assert_eq!(
            (&*seen[0], &*seen[3]),
            ("tcp closed", "ipv6 open"),
            "{rule}"
        );
    }
}

#[test]
fn loopback_and_answers_go_on() {
    needs_network!();
    with_networks(|home, network| {
        home.rl("run --rm --egress deny --network")
            .args([network, "busybox", "sh", "-c"])
            .arg("nc -l -p 99 -e echo inner & while ! nc 127.0.0.1 99 </dev/null; do usleep 20000; done")
            .says("inner");
        // Published ports are answered.
        home.rl("run -d --name d --egress deny -p 127.0.0.1::80 --network")
            .args([network, "busybox", "sh", "-c"])
            .arg("while :; do nc -l -p 80 -e echo served; done")
            .ok();
        let place = home.rl("port d 80").ok().text().trim().to_owned();
        let answer = wait_for("an answer", || {
            let mut text = String::new();
            let mut stream = TcpStream::connect(&place).ok()?;
            stream.read_to_string(&mut text).ok()?;
            (!text.is_empty()).then_some(text)
        });
        assert_eq!(answer, "served\n", "{network}");
        // Other programs in it, and its next start, are held by the same rules.
        let closed = |home: &Home| {
            home.rl("exec d timeout 5 wget -q -O -")
                .arg(format!("http://{HOST}/"))
                .fails(1);
        };
        closed(home);
        home.rl("restart -t 0 d").ok();
        closed(home);
        home.rl("exec --privileged d true")
            .fails(125)
            .stderr_has("--egress");
        home.rl("inspect d -f")
            .arg("{{json .HostConfig.Egress}}")
            .says("[\"deny\"]");
        // So is who joins its network.
        home.rl("run --rm --network container:d busybox sh -c")
            .arg(LOOK)
            .ok()
            .stdout_has("tcp closed")
            .stdout_lacks("open");
        home.rl("run --rm --privileged --network container:d busybox true")
            .fails(125)
            .stderr_has("--egress");
        home.rl("rm -f d").ok();
    });
}

#[test]
fn a_program_cannot_take_the_rules_away() {
    needs_network!();
    let home = Home::with_busybox();
    let held = |run: crate::support::Run| {
        let output = run.ok();
        let bits = u64::from_str_radix(output.text().trim(), 16).unwrap();
        // CAP_NET_ADMIN and CAP_NET_RAW, capabilities(7).
        bits & (1 << 12 | 1 << 13)
    };
    let bounds = "sed -n 's/^CapBnd:\\t//p' /proc/self/status";
    let with = |flags: &str| home.rl(flags).args(["busybox", "sh", "-c", bounds]);
    assert_ne!(
        held(with("run --rm --network pasta --cap-add NET_ADMIN,NET_RAW")),
        0
    );
    assert_eq!(held(with("run --rm --network pasta --egress deny")), 0);
    home.rl("run -d --name d --network pasta --egress deny busybox sleep 1000")
        .ok();
    assert_eq!(
        held(with(
            "run --rm --network container:d --cap-add NET_ADMIN,NET_RAW"
        )),
        0
    );
    assert_eq!(held(home.rl("exec d").args(["sh", "-c", bounds])), 0);
    home.rl("rm -f d").ok();
    // Nor in a user namespace of its own, where all capabilities are its own.
    home.rl(
        "run --rm --network pasta --egress deny --security-opt seccomp=unconfined busybox sh -c",
    )
    .arg("unshare -U -r sh -c 'id -u; ip link set lo down || echo refused'")
    .ok()
    .stdout_is("0\nrefused");
    for words in [
        "--cap-add NET_ADMIN",
        "--cap-add cap_net_raw",
        "--cap-add ALL",
        "--privileged",
        "--network host",
        "--network none",
        "--network ns:/proc/self/ns/net",
        "--network pasta:-T,80",
        "--network pasta:--udp-ns=53",
    ] {
        home.rl("create --egress deny")
            .args(words.split(' '))
            .args(["busybox", "true"])
            .fails(125)
            .stderr_has("--egress");
    }
}

#[test]
fn containers_on_a_network_are_closed_to_each_other_too() {
    needs_network!();
    let home = Home::with_busybox();
    home.rl("network create --subnet 10.123.7.0/24 n").ok();
    home.rl("network create --subnet 10.123.8.0/24 m").ok();
    home.rl("run -d --name web --network n:ip=10.123.7.9 busybox sh -c")
        .arg("while :; do nc -l -p 80 -e echo web; done")
        .ok();
    let ask = |rule: &str| {
        home.rl("run --rm --network n --egress")
            .args([rule, "busybox", "sh", "-c"])
            .arg("for i in 1 2 3 4 5; do timeout 3 nc 10.123.7.9 80 </dev/null && exit; usleep 200000; done; echo closed")
            .ok()
            .text()
            .trim()
            .to_owned()
    };
    assert_eq!(ask("allow=10.123.7.9:80"), "web");
    assert_eq!(ask("deny"), "closed");
    assert_eq!(ask("allow=10.123.7.9:81"), "closed");
    // The network's name server passes questions on: it is closed, too; and a network that comes later is.
    home.rl("run -d --name d --network n --egress deny busybox sleep 1000")
        .ok();
    home.rl("exec d timeout 5 nslookup web").fails(1);
    home.rl("network connect m d").ok();
    home.rl("exec d sh -c")
        .arg("ip -o -4 addr | grep -c 10.123.8; timeout 5 nslookup web 10.123.8.1 >/dev/null 2>&1 || echo closed")
        .says("1\nclosed");
    home.rl("rm -f d web").ok();
}

#[test]
fn what_cannot_be_closed_is_not_started() {
    needs!(Need::Ours, Need::Writable("/dev/net/tun"));
    let mut home = Home::with_busybox();
    home.rl("run --rm --egress allow=x.localhost:80 busybox grep x.localhost /etc/hosts")
        .ok()
        .stdout_has("127.0.0.1");
    home.rl("run --rm --egress allow=no-such-name.invalid busybox true")
        .fails(125)
        .stderr_has("no-such-name.invalid");
    for (rule, expected) in [
        ("", "is not known"),
        ("open", "known are deny and allow="),
        ("allow=", "neither a name nor an address"),
        ("allow=::1", "in brackets"),
        ("allow=10.0.0.0/40", "no length"),
        ("allow=host:0", "no port"),
    ] {
        home.rl("create --egress")
            .args([rule, "busybox", "true"])
            .fails(125)
            .stderr_has(expected);
    }
    // Never on the host's network, whatever is missing.
    home.without_programs(&["pasta", "slirp4netns"]);
    home.rl("run --rm --egress deny busybox true")
        .fails(125)
        .stderr_has("--egress needs a network of the container's own")
        .stderr_has("RL-N02");
    let broken = home.file("bin/pasta", "#!/bin/sh\nexit 1\n");
    rustix::fs::chmod(&broken, 0o755.into()).unwrap();
    home.rl("run --rm --egress deny busybox true")
        .fails(125)
        .stderr_has("--egress needs a network of the container's own");
    home.rl("ps -aq").says("");
}
