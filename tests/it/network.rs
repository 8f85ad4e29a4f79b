//! `--network`, `--dns`, `--add-host`: what a container reaches, and what it must not reach.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;

use crate::ports::{child_named, of_monitor};
use crate::support::Home;
use crate::support::host::Need;

fn test_host() -> String {
    std::env::var("RL_TEST_HOST").expect("checked by needs!")
}

/// A web server on the host's own loopback, for as long as the test runs.
fn loopback_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request); // whatever it asks
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nloopback\n");
        }
    });
    port
}

#[test]
fn none_is_loopback_alone() {
    let home = Home::with_busybox();
    home.rl("run --rm --network none busybox sh -c")
        .arg("ip -o link | cut -d: -f2; ip -o addr | grep -o '127.0.0.1'; ip -o link | grep -o LOOPBACK,UP")
        .says(" lo\n127.0.0.1\nLOOPBACK,UP");
    let port = loopback_server();
    home.rl("run --rm --network none busybox timeout 3 wget -q -O - ")
        .arg(format!("http://127.0.0.1:{port}/"))
        .fails(1);
}

#[test]
fn host_is_the_hosts_network() {
    let home = Home::with_busybox();
    let port = loopback_server();
    home.rl("run --rm --network host busybox timeout 5 wget -q -O -")
        .arg(format!("http://127.0.0.1:{port}/"))
        .says("loopback");
}

fn reaches_the_world(network: &str) {
    let home = Home::with_busybox();
    let url = format!("http://{}/", test_host());
    home.rl("run --rm --network")
        .args([
            network, "busybox", "timeout", "10", "wget", "-q", "-O", "-", &url,
        ])
        .says("hello from the test host");
    let zeros = format!("timeout 10 wget -q -O - {url}zeros | wc -c");
    home.rl("run --rm --network")
        .args([network, "busybox", "sh", "-c", &zeros])
        .says("20000000");
    // It is a stack of its own, with the way out as its only other interface.
    let links = home
        .rl("run --rm --network")
        .args([network, "busybox", "ip", "-o", "link"])
        .ok();
    assert_eq!(links.lines().len(), 2, "{links:?}");
}

fn cannot_reach_the_hosts_loopback(network: &str) {
    let home = Home::with_busybox();
    let port = loopback_server();
    let script = format!(
        "for a in 127.0.0.1 10.0.2.2 169.254.1.1 169.254.1.2 $(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'); do \
         timeout 2 wget -q -O - http://$a:{port}/ 2>/dev/null; done; echo done"
    );
    home.rl("run --rm --network")
        .args([network, "busybox", "sh", "-c", &script])
        .says("done");
}

#[test]
fn pasta_reaches_the_world() {
    needs!(
        Need::TestHost,
        Need::Program("pasta"),
        Need::Writable("/dev/net/tun")
    );
    needs!(Need::Ours); // podman 4.3 does not know pasta
    reaches_the_world("pasta");
}

#[test]
fn slirp4netns_reaches_the_world() {
    needs!(
        Need::TestHost,
        Need::Program("slirp4netns"),
        Need::Writable("/dev/net/tun")
    );
    reaches_the_world("slirp4netns");
}

#[test]
fn pasta_keeps_the_hosts_loopback_closed() {
    needs!(
        Need::Ours,
        Need::Program("pasta"),
        Need::Writable("/dev/net/tun")
    );
    cannot_reach_the_hosts_loopback("pasta");
}

#[test]
fn slirp4netns_keeps_the_hosts_loopback_closed() {
    needs!(Need::Program("slirp4netns"), Need::Writable("/dev/net/tun"));
    cannot_reach_the_hosts_loopback("slirp4netns");
}

#[test]
fn by_default_there_is_a_way_out() {
    needs!(Need::TestHost);
    let home = Home::with_busybox();
    let url = format!("http://{}/", test_host());
    home.rl("run --rm busybox timeout 10 wget -q -O -")
        .arg(&url)
        .says("hello from the test host");
}

#[test]
fn without_pasta_slirp4netns_is_taken_and_without_both_the_hosts_network() {
    needs!(
        Need::Ours,
        Need::TestHost,
        Need::Program("slirp4netns"),
        Need::Writable("/dev/net/tun")
    );
    let url = format!("http://{}/", test_host());
    let mut home = Home::with_busybox();
    home.without_programs(&["pasta"]);
    home.rl("run --rm busybox timeout 10 wget -q -O -")
        .arg(&url)
        .says("hello from the test host");
    let mut home = Home::with_busybox();
    home.without_programs(&["pasta", "slirp4netns"]);
    let output = home
        .rl("run --rm busybox timeout 10 wget -q -O -")
        .arg(&url)
        .ok();
    output.stdout_is("hello from the test host");
    output.stderr_has_one_of(&["pasta"]);
    home.rl("run --rm --network pasta busybox true")
        .fails(125)
        .stderr_has("pasta");
}

#[test]
fn the_helper_goes_with_the_container() {
    needs!(
        Need::Ours,
        Need::Program("pasta"),
        Need::Writable("/dev/net/tun")
    );
    let home = Home::with_busybox();
    for network in ["pasta", "slirp4netns"] {
        let started = home
            .rl("run -d --rm --name c --network")
            .args([network, "busybox", "sleep", "1000"])
            .ok();
        let helper = child_named(of_monitor(started.text().trim()), network);
        home.rl("kill c").ok();
        crate::support::wait_for("the helper to end", || {
            (!Path::new(&format!("/proc/{helper}")).exists()).then_some(())
        });
    }
}

/// Newer ones close all that they inherit but the first three descriptors: `close_open_files()` in passt, since 2024.
#[test]
fn a_pasta_that_keeps_three_descriptors_comes_up() {
    needs!(
        Need::Ours,
        Need::Program("pasta"),
        Need::Program("bash"),
        Need::Writable("/dev/net/tun")
    );
    let home = with_pasta(
        "#!/bin/bash\nfor fd in /proc/$$/fd/*; do n=${fd##*/}; [ $n -lt 3 ] || [ $n = 255 ] || eval \"exec $n>&-\"; done\nPATH=/usr/bin:/usr/sbin:/bin exec pasta \"$@\"\n",
        &[],
    );
    for _ in ["waits for it", "does not"] {
        home.rl("run --rm --network pasta busybox sh -c")
            .arg("until ip -o link show eth0 | grep -q LOWER_UP; do sleep 0.01; done; echo up")
            .says("up");
    }
}

#[test]
fn names_can_be_added() {
    let home = Home::with_busybox();
    home.rl("run --rm --network none --add-host db:192.0.2.7 --add-host six:2001:db8::1 busybox sh -c")
        .arg("grep -w db /etc/hosts | cut -c1-9; grep -w six /etc/hosts | cut -c1-11; grep -c localhost /etc/hosts | sed 's/[1-9]/some/'")
        .says("192.0.2.7\n2001:db8::1\nsome");
    home.rl("run --rm --add-host nonsense busybox true")
        .fails(125)
        .stderr_has("nonsense");
}

#[test]
fn name_servers_can_be_given() {
    let home = Home::with_busybox();
    let output = home.rl("run --rm --dns 192.0.2.53 --dns 192.0.2.54 --dns-search example.org --dns-option ndots:3 busybox cat /etc/resolv.conf").ok();
    let servers: Vec<_> = output
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("nameserver"))
        .map(str::to_owned)
        .collect();
    assert_eq!(
        servers,
        ["nameserver 192.0.2.53", "nameserver 192.0.2.54"],
        "{output:?}"
    );
    output
        .stdout_has("search example.org")
        .stdout_has("options ndots:3");
}

#[test]
fn names_of_the_world_are_found() {
    needs!(Need::Debian); // where a Debian root could be made, its mirror has a name
    let home = Home::with_busybox();
    let networks = match crate::support::under_test() {
        crate::support::UnderTest::Rl => &["pasta", "slirp4netns", "host"][..],
        crate::support::UnderTest::Podman => &["slirp4netns", "host"][..],
    };
    for network in networks {
        home.rl("run --rm --network")
            .args([network, "busybox", "nslookup", "deb.debian.org"])
            .ok()
            .stdout_has("Name:");
    }
}

#[test]
fn an_unknown_network_is_refused() {
    let home = Home::with_busybox();
    home.rl("run --rm --network no-such-net busybox true")
        .fails(125)
        .stderr_has("no-such-net");
}

/// A home in whose `PATH` the program `pasta` is this script.
fn with_pasta(script: &str, missing: &[&str]) -> Home {
    let mut home = Home::with_busybox();
    home.without_programs(&[&["pasta"], missing].concat());
    let program = home.file("bin/pasta", script);
    rustix::fs::chmod(&program, 0o755.into()).unwrap();
    home
}

/// Ends at once, after a while with a word, or is no program at all.
const BROKEN: [&str; 3] = [
    "#!/bin/sh\n[ \"$1\" = --help ] && exit 0\necho 'Something is wrong' >&2\nexit 1\n",
    "#!/bin/sh\n[ \"$1\" = --help ] && exit 0\nsleep 0.3\necho 'Something is wrong' >&2\nexit 1\n",
    "garbage",
];

#[test]
fn a_helper_that_does_not_come_up_is_passed_over_and_said() {
    needs!(
        Need::Ours,
        Need::Program("slirp4netns"),
        Need::Writable("/dev/net/tun")
    );
    for script in BROKEN {
        let home = with_pasta(script, &[]);
        let output = home.rl("run --rm busybox ip -o -4 addr show tap0").ok();
        output.stdout_has("10.0.2.100");
        let said = output.stderr.trim();
        assert_eq!(said.lines().count(), 1, "{said}");
        for part in ["pasta", "using slirp4netns (rl explain RL-N02)"] {
            assert!(said.contains(part), "{said}");
        }
        // In the background, again, and with a port.
        home.rl("run -d --name d -p 127.0.0.1::80 busybox nc -l -p 80 -e echo served")
            .ok()
            .stderr_has("using slirp4netns");
        let place = home.rl("port d 80").ok().text().trim().to_owned();
        let answer = crate::support::wait_for("an answer", || {
            use std::io::Read as _;
            let mut text = String::new();
            let mut stream = std::net::TcpStream::connect(&place).ok()?;
            stream.read_to_string(&mut text).ok()?;
            (!text.is_empty()).then_some(text)
        });
        assert_eq!(answer, "served\n");
        home.rl("wait d").ok();
        home.rl("start d").ok();
        home.rl("rm -f d").ok();
        // Asked for by name, it is an error; so it is where ports would be lost.
        home.rl("run --rm --network pasta busybox true")
            .fails(125)
            .stderr_has("RL-N02");
    }
}

#[test]
fn without_a_helper_that_works_it_is_the_hosts_network() {
    needs!(Need::Ours, Need::Writable("/dev/net/tun"));
    let home = with_pasta(BROKEN[0], &["slirp4netns"]);
    let host = home.sh("readlink /proc/self/ns/net").ok().text().to_owned();
    let output = home.rl("run --rm busybox readlink /proc/self/ns/net").ok();
    output
        .stdout_is(host.trim())
        .stderr_has("Something is wrong")
        .stderr_has("using the host's network (rl explain RL-N02)");
    home.rl("run --rm -p 127.0.0.1::80 busybox true")
        .fails(125)
        .stderr_has("ports cannot be published");
    home.rl("ps -aq").says("");
}

#[test]
fn named_networks_pass_a_broken_helper_over_too() {
    needs!(
        Need::Ours,
        Need::TestHost,
        Need::Program("slirp4netns"),
        Need::Writable("/dev/net/tun")
    );
    let home = with_pasta(BROKEN[0], &[]);
    home.rl("network create n").ok();
    let url = std::env::var("RL_TEST_HOST").expect("checked by needs!");
    let output = home
        .rl("run --rm --network n busybox ping -c1 -W3")
        .arg(url.split(':').next().unwrap_or(&url))
        .run();
    output.stderr_has("using slirp4netns");
}
