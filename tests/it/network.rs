//! `--network`, `--dns`, `--add-host`: what a container reaches, and what it must not reach.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

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
        home.rl("run --rm --network")
            .args([network, "busybox", "true"])
            .ok();
    }
    // The marker is this home's path in their environment or arguments.
    let marker = home.path().to_string_lossy().into_owned();
    crate::support::wait_for("the helpers to end", || {
        let left = std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            (name.starts_with("pasta") || name.starts_with("slirp4netns"))
                && String::from_utf8_lossy(&environment).contains(&marker)
        });
        (!left).then_some(())
    });
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
