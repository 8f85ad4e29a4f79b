//! Named networks: containers find each other by name, and nobody else.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::host::Need;
use crate::support::{Home, wait_for};

/// A home with busybox and these networks.
fn home(networks: &[&str]) -> Home {
    let home = Home::with_busybox();
    for network in networks {
        home.rl(&format!("network create {network}")).ok();
    }
    home
}

/// A container that serves its own name on port 80.
fn web(home: &Home, name: &str, network: &str) {
    home.rl(&format!(
        "run -d --name {name} --network {network} busybox sh -c"
    ))
    .arg(
        "mkdir /www; echo \"I am $NAME\" >/www/index.html; exec httpd -f -p 80 -h /www"
            .replace("$NAME", name),
    )
    .ok();
    home.rl(&format!("exec {name} sh -c"))
        .arg("until wget -q -O /dev/null http://127.0.0.1/; do :; done")
        .ok();
}

/// What a new container on `network` gets from `url`.
fn fetch(home: &Home, network: &str, url: &str) -> crate::support::Output {
    home.rl(&format!(
        "run --rm --network {network} busybox timeout 10 wget -q -O - http://{url}/"
    ))
    .run()
}

/// Processes of this home's networks, as the words they were started with.
fn processes(home: &Home) -> Vec<Pid> {
    let store = home.store();
    let words = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok();
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            words(*pid).is_some_and(|words| {
                let mut words = words.split('\0');
                words.next() == Some("rl:[network]")
                    && words.nth(1).map(PathBuf::from).as_deref() == Some(store.as_path())
            })
        })
        .map(Pid::from_raw)
        .collect()
}

/// Removes all containers: then nothing of the networks is left.
fn end(home: &Home) {
    home.sh("\"$RL\" rm -f $(\"$RL\" ps -aq)").ok();
    wait_until_gone(home);
}

fn wait_until_gone(home: &Home) {
    wait_for("the network process to end", || {
        processes(home).is_empty().then_some(())
    });
}

#[test]
fn containers_on_one_network_find_each_other_by_name() {
    let home = home(&["--subnet 10.200.1.0/24 front"]);
    web(&home, "web", "front --network-alias www --hostname other");
    for name in ["web", "www", "WEB", "10.200.1.2"] {
        fetch(&home, "front", name).stdout_is("I am web\n");
    }
    let id: String = home
        .rl("inspect -f {{.Id}} web")
        .ok()
        .text()
        .chars()
        .take(12)
        .collect();
    fetch(&home, "front", &id).stdout_is("I am web\n");
    home.rl("run --rm --network front busybox ping -c 1 -W 5 web")
        .ok();
    home.rl("run --rm --network front busybox nslookup 10.200.1.2")
        .ok()
        .stdout_has("name = web");
    // Whoever is renamed or gone is so at once.
    home.rl("rename web shop").ok();
    fetch(&home, "front", "shop").stdout_is("I am web\n");
    fetch(&home, "front", "web").code(1);
    home.rl("stop -t 0 shop").ok();
    fetch(&home, "front", "shop").code(1);
    home.rl("start shop").ok();
    let address = home
        .rl("inspect -f")
        .arg("{{.NetworkSettings.Networks.front.IPAddress}}")
        .arg("shop")
        .ok();
    assert_eq!(address.text(), "10.200.1.2");
    home.rl("rm -f shop").ok();
    wait_until_gone(&home);
}

#[test]
fn networks_are_kept_apart() {
    let home = home(&[
        "--subnet 10.200.2.0/24 front",
        "--subnet 10.200.3.0/24 back",
    ]);
    web(&home, "web", "front");
    fetch(&home, "back", "web").code(1);
    let script = "ip route; timeout 2 wget -q -O - http://10.200.2.2/; echo $?; timeout 2 nslookup web 10.200.2.1 | grep -c 10.200.2.2";
    let other = home
        .rl("run --rm --network back busybox sh -c")
        .arg(script)
        .run();
    other
        .stdout_has("default via 10.200.3.1")
        .stdout_lacks("I am web");
    assert_eq!(other.lines().last(), Some(&"0"), "{other:?}");
    // With the right to set routes and to make up packets it is no different.
    home.rl("run --rm --cap-add NET_ADMIN --cap-add NET_RAW --network back busybox sh -c")
        .arg("ip route add 10.200.2.0/24 via 10.200.3.1; timeout 2 wget -q -O - http://10.200.2.2/; echo no")
        .ok()
        .stdout_is("no\n");
    // One that is on both sees both, and is no way from one to the other.
    home.rl("run --rm --network front,back busybox sh -c")
        .arg("wget -q -O - http://web/; ip -o -4 addr | grep -c eth")
        .says("I am web\n2");
    end(&home);
}

#[test]
fn internal_networks_have_no_way_out() {
    needs!(Need::TestHost, Need::TestDns);
    let home = home(&["--internal inside", "outside"]);
    let host = std::env::var("RL_TEST_HOST").unwrap();
    fetch(&home, "outside", &host).stdout_is("hello from the test host\n");
    let zeros = format!("wget -q -O - http://{host}/zeros | wc -c");
    home.rl("run --rm --network outside busybox sh -c")
        .arg(zeros)
        .says("20000000");
    fetch(&home, "inside", &host).code(1);
    home.rl("run --rm --network inside busybox ip route")
        .ok()
        .stdout_lacks("default");
    home.rl("run --rm --cap-add NET_ADMIN --network inside busybox sh -c")
        .arg(format!(
            "ip route add default via $(sed -n 's/nameserver //p' /etc/resolv.conf); timeout 2 wget -q -O - http://{host}/; echo no"
        ))
        .ok()
        .stdout_is("no\n");
    home.rl("run --rm --dns 198.51.100.2 --network inside busybox nslookup some.test")
        .fails(1)
        .stdout_has("NXDOMAIN");
}

#[test]
fn other_names_are_asked_for_outside() {
    needs!(Need::TestDns);
    let home = home(&["front"]);
    let look = |name: &str| {
        home.rl(&format!(
            "run --rm --network front --dns 198.51.100.2 busybox nslookup {name}"
        ))
        .run()
    };
    look("some.test").stdout_has("198.51.100.2");
    look("nothing.invalid").stdout_has("NXDOMAIN");
    // By TCP, as programs do when an answer was cut.
    home.rl("run --rm --network front --dns 198.51.100.2 busybox sh -c")
        .arg(
            "server=$(sed -n 's/nameserver //p' /etc/resolv.conf); \
             printf '\\000\\032\\022\\064\\001\\000\\000\\001\\000\\000\\000\\000\\000\\000\\003big\\004test\\000\\000\\001\\000\\001' \
             | timeout 5 nc $server 53 | tail -c 4 | od -An -tu1",
        )
        .ok()
        .stdout_has("198  51 100   2");
    // Nobody there: an answer all the same.
    home.rl("run --rm --network front --dns 127.0.0.9 busybox nslookup some.test")
        .fails(1)
        .stdout_has("SERVFAIL");
}

#[test]
fn networks_are_joined_and_left_while_a_container_runs() {
    let home = home(&[
        "--subnet 10.200.4.0/24 front",
        "--internal --subnet 10.200.5.0/24 back",
    ]);
    web(&home, "web", "front");
    fetch(&home, "back", "web").code(1);
    home.rl("network connect --alias inner --ip 10.200.5.77 back web")
        .ok();
    fetch(&home, "back", "inner").stdout_is("I am web\n");
    home.rl("exec web cat /etc/hosts /etc/resolv.conf")
        .ok()
        .stdout_has("10.200.5.77\t")
        .stdout_has("nameserver 10.200.5.1");
    home.rl("network connect back web")
        .fails(125)
        .stderr_has("already");
    home.rl("network inspect -f")
        .arg("{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}")
        .arg("back")
        .says("web 10.200.5.77/24");
    home.rl("ps -q --filter network=back")
        .ok()
        .stdout_has(home.rl("ps -q").ok().text());
    home.rl("network disconnect front web").ok();
    fetch(&home, "front", "web").code(1);
    fetch(&home, "back", "web").stdout_is("I am web\n");
    home.rl("exec web ip route").ok().stdout_lacks("default");
    home.rl("network disconnect front web")
        .fails(125)
        .stderr_has("not on network");
    // It stays so over a restart.
    home.rl("restart -t 0 web").ok();
    home.rl("exec web sh -c")
        .arg("ip -o -4 addr show eth0 | grep -c 10.200.5.77")
        .says("1");
    home.rl("events --since 10m --until 0s --filter type=network --format")
        .arg("{{.Action}} {{.Actor.Attributes.name}}")
        .ok()
        .stdout_has("create back")
        .stdout_has("connect back")
        .stdout_has("disconnect front");
    end(&home);
}

#[test]
fn twenty_at_once_get_twenty_addresses_and_all_names() {
    let home = home(&["--subnet 10.200.6.0/24 crowd"]);
    let starts: Vec<_> = (0..20)
        .map(|number| {
            home.rl(&format!(
                "run -d --name one{number} --network crowd busybox sleep 1000"
            ))
            .spawn()
        })
        .collect();
    for start in starts {
        start.wait().code(0);
    }
    let listed = home
        .rl("network inspect -f")
        .arg("{{range .Containers}}{{.IPv4Address}} {{end}}")
        .arg("crowd")
        .ok();
    let addresses: BTreeSet<&str> = listed.text().split_whitespace().collect();
    assert_eq!(addresses.len(), 20, "{addresses:?}");
    assert_eq!(processes(&home).len(), 2, "one process, and its inside");
    // Each reaches each.
    let looks: Vec<_> = (0..20)
        .map(|number| {
            home.rl(&format!("exec one{number} sh -c"))
                .arg("for n in $(seq 0 19); do ping -c 1 -W 5 one$n >/dev/null && echo $n; done | wc -l")
                .spawn()
        })
        .collect();
    for look in looks {
        look.wait().code(0).stdout_is("20");
    }
    end(&home);
}

#[test]
fn a_killed_network_process_is_replaced_and_leaves_nothing() {
    let home = home(&["--subnet 10.200.7.0/24 front"]);
    web(&home, "web", "front");
    home.rl("rename web shop").ok();
    let mut foreground = home
        .rl("run --rm -i --network front busybox sh -c")
        .arg("echo begun; read line; wget -q -O - http://shop/")
        .spawn();
    foreground.wait_for_stdout("begun");
    let before: BTreeSet<Pid> = processes(&home).into_iter().collect();
    assert_eq!(before.len(), 2);
    for pid in &before {
        let _ = kill(*pid, Signal::SIGKILL); // the second goes with the first
    }
    wait_for("another network process", || {
        let now: BTreeSet<Pid> = processes(&home).into_iter().collect();
        let listed = home
            .rl("network inspect -f")
            .arg("{{len .Containers}}")
            .arg("front")
            .ok();
        (now.len() == 2 && now.is_disjoint(&before) && listed.text() == "2").then_some(())
    });
    wait_for("the container to be reached again", || {
        (fetch(&home, "front", "shop").text() == "I am web").then_some(())
    });
    foreground.wait().code(0).stdout_has("I am web");
    // A container that is killed with its monitor gives its place back.
    home.rl("rm -f shop").ok();
    wait_until_gone(&home);
    web(&home, "web", "front");
    fetch(&home, "front", "web").stdout_is("I am web\n");
    let monitor = crate::life::monitor(&home, "web").unwrap();
    kill(monitor, Signal::SIGKILL).unwrap();
    wait_until_gone(&home);
    home.rl("start web").ok();
    fetch(&home, "front", "web").stdout_is("I am web\n");
    end(&home);
}

#[test]
fn ipv6_addresses_are_given_where_they_are_asked_for() {
    needs!(Need::Kernel("/proc/net/if_inet6"));
    let home = home(&["--ipv6 --subnet fd00:aaaa::/64 --subnet 10.200.8.0/24 six"]);
    web(&home, "web", "six --ip6 fd00:aaaa::99");
    fetch(&home, "six", "[fd00:aaaa::99]").stdout_is("I am web\n");
    home.rl("run --rm --network six busybox nslookup -type=aaaa web")
        .ok()
        .stdout_has("fd00:aaaa::99");
    end(&home);
}

#[test]
fn places_are_chosen_as_asked() {
    let home = home(&[
        "--subnet 10.200.9.0/24 --gateway 10.200.9.254 --ip-range 10.200.9.64/30 --opt mtu=1400 net",
    ]);
    let script = "ip -o -4 addr show eth0 | grep -o '10[0-9./]*' | head -1; cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu; ip route | head -1";
    home.rl("run --rm --network net busybox sh -c")
        .arg(script)
        .says("10.200.9.64/24\n02:42:0a:c8:09:40\n1400\ndefault via 10.200.9.254 dev eth0 ");
    home.rl("run --rm --network net --ip 10.200.9.9 --mac-address 92:d0:c6:0a:29:33 busybox sh -c")
        .arg(script)
        .says("10.200.9.9/24\n92:d0:c6:0a:29:33\n1400\ndefault via 10.200.9.254 dev eth0 ");
    home.rl("run -d --name first --network net --ip 10.200.9.9 busybox sleep 1000")
        .ok();
    for (ip, message) in [
        ("10.200.9.9", "in use by container `first`"),
        ("10.200.9.254", "in use by its gateway"),
        ("10.200.10.1", "is not an address of the network `net`"),
    ] {
        home.rl(&format!("run --rm --network net --ip {ip} busybox true"))
            .fails(125)
            .stderr_has(message);
    }
    end(&home);
}

#[test]
fn networks_are_made_listed_and_removed_in_dockers_words() {
    let home = Home::with_busybox();
    let id = home
        .rl("network create --label team=red --subnet 10.200.11.0/24 one")
        .ok();
    assert_eq!(id.text().len(), 64);
    home.rl("network create two").ok();
    home.rl("network ls --format {{.Name}}:{{.Driver}}")
        .says("one:bridge\ntwo:bridge");
    home.rl("network ls -q --no-trunc --filter label=team=red")
        .says(id.text());
    let one = home.rl("network inspect one").ok().json();
    assert_eq!(one[0]["IPAM"]["Config"][0]["Gateway"], "10.200.11.1");
    assert_eq!(one[0]["Internal"], false);
    for (line, message) in [
        ("network create one", "already"),
        (
            "network create --subnet 10.200.0.0/16 big",
            "overlaps with 10.200.11.0/24 of the network `one`",
        ),
        ("network create host", "means something else"),
        ("network create -d macvlan x", "bridges only"),
        ("network create --opt colour=red x", "not known"),
        ("network create --subnet nonsense x", "not a range"),
        ("network inspect nothing", "no network `nothing`"),
        ("network rm nothing", "no network `nothing`"),
        (
            "run --rm --network nothing busybox true",
            "no network `nothing`",
        ),
        (
            "run --rm --ip 10.0.0.9 busybox true",
            "needs a named network",
        ),
    ] {
        home.rl(line).fails(125).stderr_has(message);
    }
    home.rl("run -d --name user --network one busybox sleep 1000")
        .ok();
    home.rl("network rm one")
        .fails(125)
        .stderr_has("in use by user");
    home.rl("network prune -f").says("Deleted Networks:\ntwo\n");
    home.rl("rm -f user").ok();
    home.rl("run -d --name plain --network none busybox sleep 1000")
        .ok();
    home.rl("network connect one plain")
        .fails(125)
        .stderr_has("goes with no other");
    home.rl("network rm -f one nothing").says("one");
    home.rl("network ls -q").says("");
    end(&home);
}

/// Where the host serves a container's port.
fn public(home: &Home, name: &str, port: &str) -> String {
    let output = home.rl("port").args([name, port]).ok();
    output.lines()[0].replace("0.0.0.0", "127.0.0.1")
}

/// The body of what a web server says; nothing while it does not.
fn get(address: &str, path: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    body(stream)
}

fn body(mut stream: TcpStream) -> Option<Vec<u8>> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let line = std::str::from_utf8(&answer[..head]).ok()?.lines().next()?;
    line.contains(" 200 ").then_some(())?;
    Some(answer.split_off(head + 4))
}

fn digest(home: &Home, bytes: Vec<u8>) -> String {
    home.program("sha256sum")
        .stdin(bytes)
        .ok()
        .text()
        .to_owned()
}

#[test]
fn published_ports_carry_all_that_is_sent_both_ways() {
    needs!(Need::Ours);
    let home = home(&["--subnet 10.200.12.0/24 front"]);
    web(&home, "web", "front -p 127.0.0.1::80");
    let address = public(&home, "web", "80");
    home.rl("exec web dd if=/dev/urandom of=/www/big bs=1M count=50")
        .ok();
    let there = home
        .rl("exec web sh -c")
        .arg("cat /www/big | sha256sum")
        .ok();
    // One that asks and does not read stops nobody, and loses nothing.
    let mut slow = TcpStream::connect(&address).unwrap();
    slow.write_all(b"GET /big HTTP/1.0\r\n\r\n").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(get(&address, "/").unwrap(), b"I am web\n"));
        }
    });
    let fetched = get(&address, "/big").unwrap();
    assert_eq!(fetched.len(), 50 << 20);
    assert_eq!(digest(&home, fetched), there.text());
    assert_eq!(digest(&home, body(slow).unwrap()), there.text());
    // The answer comes after the end of what was sent.
    home.rl("run -d --name sum --network front -p 127.0.0.1::81 busybox nc -ll -p 81 -e sha256sum")
        .ok();
    let address = public(&home, "sum", "81");
    let sent: Vec<u8> = (0..50_u32 << 18).flat_map(u32::to_ne_bytes).collect();
    let answer = wait_for("an answer", || {
        let mut stream = TcpStream::connect(&address).ok()?;
        stream.write_all(&sent).ok()?;
        stream.shutdown(Shutdown::Write).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        (!answer.is_empty()).then_some(answer)
    });
    assert_eq!(answer.trim_end(), digest(&home, sent));
    end(&home);
}

#[test]
fn published_udp_ports_answer_each_sender() {
    needs!(Need::Ours, Need::Program("perl"));
    let home = home(&["--subnet 10.200.13.0/24 front"]);
    home.rl("run -d --name echo --network front -p 127.0.0.1::53/udp host perl -e")
        .arg(
            "use Socket; socket(S, PF_INET, SOCK_DGRAM, 0) or die; bind(S, sockaddr_in(53, INADDR_ANY)) or die; \
             while ($from = recv(S, $m, 65535, 0)) { ($p, $a) = sockaddr_in($from); send(S, inet_ntoa($a) . \" $m\", 0, $from) }",
        )
        .ok();
    let address = public(&home, "echo", "53/udp");
    let client = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(&address).unwrap();
        socket
            .set_read_timeout(Some(std::time::Duration::from_millis(200)))
            .unwrap();
        socket
    };
    let clients = [client(), client()];
    for (number, socket) in clients.iter().enumerate() {
        for text in [format!("from {number}"), number.to_string().repeat(9000)] {
            let answer = wait_for("an answer", || {
                socket.send(text.as_bytes()).ok()?;
                let mut answer = vec![0; 65535];
                let length = socket.recv(&mut answer).ok()?;
                let answer = String::from_utf8(answer[..length].to_vec()).unwrap();
                // One that was asked for twice may come late.
                answer.ends_with(&format!(" {text}")).then_some(answer)
            });
            // The container sees the bridge's address.
            assert_eq!(answer, format!("10.200.13.1 {text}"));
        }
    }
    end(&home);
}

#[test]
fn published_ports_are_told_kept_and_closed() {
    needs!(Need::Ours);
    let home = home(&["--subnet 10.200.14.0/24 front", "--internal back"]);
    web(&home, "web", "front -p 80");
    let address = public(&home, "web", "80");
    let number = address.rsplit(':').next().unwrap().to_owned();
    let answers = || (get(&address, "/")? == b"I am web\n").then_some(());
    wait_for("an answer", answers);
    home.rl("ps")
        .ok()
        .stdout_has(&format!("0.0.0.0:{number}->80/tcp"));
    home.rl(&format!(
        "run --rm --network front -p {number}:80 busybox true"
    ))
    .fails(125)
    .stderr_has("is taken by the container `web`");
    // Who connects while the network process is replaced is served by the next one.
    let before: BTreeSet<Pid> = processes(&home).into_iter().collect();
    for pid in &before {
        let _ = kill(*pid, Signal::SIGKILL); // the second goes with the first
    }
    wait_for("an answer from another process", answers);
    let now: BTreeSet<Pid> = processes(&home).into_iter().collect();
    assert!(now.is_disjoint(&before));
    // They lead into the networks that it is on, unless these are internal.
    home.rl("network connect back web").ok();
    home.rl("network disconnect front web").ok();
    assert_eq!(get(&address, "/"), None);
    home.rl("network connect front web").ok();
    assert_eq!(get(&address, "/").unwrap(), b"I am web\n");
    home.rl("run -d --name inner --network back -p 80 busybox sleep 1000")
        .ok()
        .stderr_has("published ports are discarded: the container is on internal networks alone");
    home.rl("port inner").says("");
    // Nobody has it once the container has ended; the next run may want the same at once.
    home.rl("rm -f web").ok();
    drop(TcpListener::bind(&address).unwrap());
    web(&home, "web", &format!("front -p {number}:80"));
    for _ in 0..3 {
        home.rl("restart -t 0 web").ok();
        wait_for("an answer after a restart", answers);
    }
    let monitor = crate::life::monitor(&home, "web").unwrap();
    kill(monitor, Signal::SIGKILL).unwrap();
    wait_for("the port to be free", || TcpListener::bind(&address).ok());
    end(&home);
}
