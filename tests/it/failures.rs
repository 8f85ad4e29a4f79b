//! What an ordinary user meets when something is missing: each failure made for real, and code, cause and remedy of what is said.
//!
//! By the axes of `src/doctor/pages.txt`. Others are rows of `machines/table.rs`, or beside what they are about.

use std::io::{Read as _, Write as _};

use serde_json::json;

use crate::doctor::explained;
use crate::machines::on_machine;
use crate::support::host::Need;
use crate::support::image::{Compression, Image};
use crate::support::registry::{self, Liar};
use crate::support::{Home, Output, wait_for};

/// It works with less: one line says why, what is instead, and where to read on; the page has the remedy.
#[track_caller]
fn noticed(output: &Output, code: &str, cause: &str, instead: &str) {
    let end = format!("(rl explain {code})");
    let mut lines = output.stderr.lines();
    assert!(
        lines.any(|line| line.ends_with(&end) && line.contains(cause) && line.contains(instead)),
        "no line with `{cause}`, `{instead}` and {code} in {output:?}"
    );
    let page = Home::new().rl("explain").arg(code).ok();
    page.stdout_has("What to do");
}

/// The doctor's paragraph of a code.
#[track_caller]
fn diagnosed(output: &Output, code: &str, cause: &str, remedy: &str) {
    let text = &output.stdout;
    let (_, rest) = text
        .split_once(&format!("  ({code})\n"))
        .unwrap_or_else(|| panic!("no {code} in {output:?}"));
    let lines = rest.lines().take_while(|line| line.starts_with("        "));
    let paragraph: Vec<&str> = lines.collect();
    let has = |label: &str, part: &str| {
        let mut lines = paragraph.iter();
        lines.any(|line| line.trim_start().starts_with(label) && line.contains(part))
    };
    assert!(has("why:", cause), "{code}: no `{cause}` in {paragraph:?}");
    assert!(
        has("you can:", remedy) || has("your admin can:", remedy),
        "{code}: no `{remedy}` in {paragraph:?}"
    );
}

/// Files of ranges that are the user's own to change, seen by nobody else.
const OWN_RANGES: &str = "for kind in uid gid; do echo rl-test:$RANGE >sub$kind; chmod 644 sub$kind; chown $AS_USER sub$kind; mount --bind sub$kind /etc/sub$kind; done";

fn ranges(lines: &str) -> String {
    OWN_RANGES.replace("$RANGE", lines)
}

// Ids

#[test]
fn a_range_that_contains_the_users_own_id_is_named() {
    needs!(Need::Ours, Need::AsRoot);
    let prepare =
        "echo rl-test:$AS_USER:65536 >subuid; chmod 644 subuid; mount --bind subuid /etc/subuid";
    let line = "$RL load -q -i $ARCHIVE >/dev/null; $RL run --rm --network none busybox true; $RL doctor || true; $RL system reset -f";
    let output = on_machine(&["--prepare", prepare], "own", line).ok();
    noticed(
        &output,
        "RL-S06",
        "contains your own id",
        "running with one id",
    );
    diagnosed(&output, "RL-S06", "the kernel refuses", "correct the line");
}

#[test]
fn ranges_of_two_lines_that_overlap_are_named() {
    needs!(Need::Ours, Need::AsRoot);
    for (second, cause) in [
        ("rl-test:165000:9", "the kernel refuses such a range"),
        ("somebody:165000:9", "another user has the same ids"),
    ] {
        let prepare = ranges(&format!("100000:65536$'\\n'{second}"));
        let line = "$RL load -q -i $ARCHIVE >/dev/null; $RL run --rm --network none busybox wc -l /proc/self/uid_map; $RL doctor || true; $RL system reset -f";
        let output = on_machine(&["--prepare", &prepare], "two", line).ok();
        // The other one is used.
        output.stdout_has("2 /proc/self/uid_map");
        diagnosed(&output, "RL-S06", cause, "correct the line");
    }
}

#[test]
fn ranges_that_have_changed_are_named_and_images_unpacked_again() {
    needs!(Need::Ours, Need::AsRoot);
    let line = r#"
rl() { "$RL" "$@"; }
rl load -q -i "$ARCHIVE" >/dev/null
rl run --name made --network none busybox sh -c 'mkdir -m 700 /own && echo mine >/own/file && chown -R 1000 /own'
rl commit -q made image >/dev/null; rl rm made >/dev/null
rl run --rm --network none -u 1000 image cat /own/file
for kind in uid gid; do echo rl-test:300000:65536 >sub$kind; done
rl run --rm --network none -u 1000 image cat /own/file || echo "refused"
rl doctor || true
rl system check >/dev/null && exit 9; rl system check --repair >/dev/null
rl run --rm --network none -u 1000 image cat /own/file 2>again; [ ! -s again ]
rl system reset -f && exit 9 || true
for kind in uid gid; do echo rl-test:100000:65536 >sub$kind; done
rl system reset -f; [ ! -e store ]"#;
    let prepare = ranges("100000:65536");
    let output = on_machine(&["--prepare", &prepare], "changed", line).ok();
    let [first, second, .., last] = &output.lines()[..] else {
        panic!("{output:?}")
    };
    assert_eq!((*first, *second, *last), ("mine", "refused", "mine"));
    noticed(
        &output,
        "RL-S07",
        "made with (100000:65536, now 300000:65536)",
        "files of other users are not theirs",
    );
    diagnosed(
        &output,
        "RL-S07",
        "was changed after",
        "rl system check --repair",
    );
    explained(
        &output,
        "RL-S10",
        "not in your ranges now",
        "put the old lines",
    );
}

#[test]
fn groups_that_cannot_be_set_are_named() {
    needs!(Need::Ours, Need::AsRoot);
    let line = r#"
"$RL" load -q -i "$ARCHIVE" >/dev/null
become='echo other:x:7:7::/:/bin/sh >>/etc/passwd; su other -c'
"$RL" run --rm --network none --group-add 1234 busybox true
"$RL" run --rm --network none busybox sh -c "$become 'echo became'"
"$RL" run --rm --network none --root-emulation off busybox sh -c "$become true" && exit 9
"$RL" system reset -f"#;
    let output = on_machine(&["--no-ids"], "setgroups", line).ok();
    output.stdout_is("became");
    output.stderr_has("su: can't set groups: Operation not permitted");
    noticed(
        &output,
        "RL-S08",
        "--group-add 1234: with one id",
        "keeps yours",
    );
}

#[test]
fn a_directory_of_a_group_that_the_container_lacks_is_named() {
    needs!(Need::Ours, Need::AsRoot);
    let prepare =
        "mkdir shared && echo ours >shared/file && chgrp 30001 shared && chmod 770 shared";
    let line = r#"
run() { "$RL" run --rm --network none -v "$DIR/shared:/s" "$@" busybox cat /s/file; }
"$RL" load -q -i "$ARCHIVE" >/dev/null
run && exit 9
run --group-add keep-groups 2>kept; [ ! -s kept ]
"$RL" system reset -f"#;
    let output = on_machine(&["--groups", "3", "--prepare", prepare], "groups", line).ok();
    output.stdout_is("ours");
    output.stderr_has("can't open '/s/file': Permission denied");
    noticed(
        &output,
        "RL-S09",
        "by the group 30001 only",
        "--group-add keep-groups",
    );
}

// File systems and the session

#[test]
fn a_fuse_device_that_is_not_there_is_named() {
    needs!(Need::Ours, Need::AsRoot);
    let on_overlay = "mkdir lower upper work store; mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay store; chown $AS_USER store; chmod 700 store";
    let line = "$RL load -q -i $ARCHIVE >/dev/null; $RL run --rm --network none busybox true; $RL doctor || true; $RL system reset -f";
    let options = ["--hide", "/dev/fuse", "--prepare", on_overlay];
    let output = on_machine(&options, "fuse", line).ok();
    noticed(
        &output,
        "RL-F03",
        "nothing can be mounted by way of /dev/fuse: open(\"/dev/fuse\"): EACCES",
        "copying the image",
    );
    diagnosed(
        &output,
        "RL-F04",
        "the fuse module is not loaded",
        "modprobe fuse && chmod 0666 /dev/fuse",
    );
}

#[test]
fn a_runtime_directory_that_vanished_keeps_nobody_from_all_but_attach() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run -d --name c --network none busybox sh")
        .args(["-c", "while sleep 0.1; do echo tick; done"])
        .ok();
    std::fs::remove_dir_all(home.path().join("run/rl")).unwrap();
    explained(
        &home.rl("attach c").fails(125),
        "RL-F07",
        "its socket `",
        "rl restart c",
    );
    home.rl("ps --format {{.Names}}").says("c");
    crate::support::wait_for("a line in the log", || {
        home.rl("logs c").ok().stdout.contains("tick").then_some(())
    });
    home.rl("exec c echo inside").says("inside");
    home.rl("run --rm --network none busybox echo another")
        .says("another");
    home.rl("restart -t 0 c").ok();
    let mut attached = home.rl("attach c").spawn();
    attached.wait_for_stdout("tick");
    home.rl("stop -t 0 c").ok();
    attached.wait().code(137);
    home.rl("rm c").ok();
}

#[test]
fn a_session_without_a_bus_is_named() {
    needs!(Need::Ours, Need::AsRoot);
    let line = "$RL doctor || true";
    let output = on_machine(&["--hide", "/run/user"], "bus", line).ok();
    diagnosed(
        &output,
        "RL-R02",
        "its bus does not run",
        "nothing is needed as long as no limits are",
    );
}

// Control groups and the kernel

#[test]
fn options_of_the_older_control_groups_are_refused() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    for (flags, cause, remedy) in [
        (
            "--oom-kill-disable",
            "cannot keep the kernel from killing",
            "memory.high=SIZE",
        ),
        (
            "--kernel-memory 1m",
            "count the kernel's memory",
            "--memory limits both",
        ),
        (
            "--memory-swappiness 3",
            "no swappiness of their own",
            "--memory-swap",
        ),
    ] {
        let run = home.rl(&format!("run --rm --network none {flags} busybox true"));
        explained(&run.fails(125), "RL-C04", cause, remedy);
    }
}

#[test]
fn a_sys_with_hidden_parts_is_shared() {
    needs!(Need::Ours, Need::AsRoot);
    let prepare = "mount -t tmpfs tmpfs /sys/kernel";
    let line = "$RL load -q -i $ARCHIVE >/dev/null; $RL run --rm --network none busybox ls /sys; $RL doctor || true; $RL system reset -f";
    let output = on_machine(&["--prepare", prepare], "sys", line).ok();
    output.stdout_has("devices");
    // Where much else is mounted at the same time the kernel has been seen to give a new one after all.
    if !output.stderr.is_empty() {
        noticed(
            &output,
            "RL-K02",
            "the kernel refuses a new /sys",
            "showing the one that is here",
        );
    }
    diagnosed(
        &output,
        "RL-K02",
        "parts of /sys are hidden",
        "systempaths=unconfined",
    );
}

#[test]
fn a_quota_of_keys_that_is_used_up_keeps_no_container_from_running() {
    needs!(Need::Ours, Need::AsRoot, Need::Kernel("/proc/key-users"));
    // A user of its own: the quota is each user's. add_key(2) until it is refused, by its number on this processor.
    let number = if cfg!(target_arch = "x86_64") {
        248
    } else {
        217
    };
    let line = format!(
        r#"$RL load -q -i $ARCHIVE >/dev/null 2>&1
perl -e '$| = 1; for (1 .. 100000) {{ my ($type, $name, $value) = ("user", "k$_", "x"); if (syscall({number}, $type, $name, $value, 1, -3) < 0) {{ print "refused: $!\n"; exec @ARGV }} }}' \
  $RL run --rm --network none busybox echo runs 2>/dev/null
$RL system reset -f"#
    );
    let output = on_machine(&["--uid", "54399"], "keys", &line).ok();
    output.stdout_is("refused: Disk quota exceeded\nruns");
    let page = Home::new().rl("explain RL-K04").ok();
    page.stdout_has("kernel.keys.maxkeys")
        .stdout_has("It makes no keyring");
}

// Network

#[test]
fn ping_that_may_not_be_sent_is_named() {
    needs!(Need::Ours);
    let home = Home::new();
    // A network namespace begins with the range `1 0`, as the host's does.
    let output = home
        .program("unshare")
        .args(["--map-root-user", "--net"])
        .arg(crate::support::rl_binary())
        .arg("doctor")
        .run();
    diagnosed(
        &output,
        "RL-N04",
        "may not send ICMP echoes",
        "net.ipv4.ping_group_range=0 2147483647",
    );
}

#[test]
fn a_host_without_a_name_server_is_named() {
    needs!(Need::Ours, Need::AsRoot);
    let prepare = ": >empty && mount --bind empty /etc/resolv.conf";
    let line = "$RL pull -q registry.example.invalid/image && exit 9; $RL doctor || true; $RL system reset -f";
    let output = on_machine(&["--prepare", prepare], "dns", line).ok();
    explained(
        &output,
        "RL-N05",
        "/etc/resolv.conf names no server",
        "nameserver ADDRESS",
    );
    diagnosed(
        &output,
        "RL-N05",
        "no resolver configuration",
        "--dns ADDRESS",
    );
}

#[test]
fn a_published_port_on_which_nobody_can_be_heard_is_named() {
    needs!(
        Need::Ours,
        Need::Writable("/dev/net/tun"),
        Need::Program("pasta")
    );
    let home = Home::with_busybox();
    home.rl("run -d --name c -p 127.0.0.1::80 -p 127.0.0.1::81 -p 127.0.0.1::82 busybox sh -c")
        .arg("httpd -p 127.0.0.1:80; httpd -p 81; exec sleep 1000")
        .ok();
    let listening = |port: &str| {
        let seen = home.rl("exec c cat /proc/net/tcp /proc/net/tcp6").ok();
        let mut lines = seen.lines().into_iter();
        lines
            .any(|line| line.contains(port) && line.contains(" 0A "))
            .then_some(())
    };
    wait_for("both servers", || {
        listening(":0050").and(listening(":0051"))
    });
    let output = home.rl("port c").ok();
    noticed(
        &output,
        "RL-N07",
        "80/tcp may not answer",
        "have it listen on 0.0.0.0 or ::",
    );
    output.stderr_has(
        "82/tcp does not answer: no program inside listens there now (rl explain RL-N07)",
    );
    assert!(!output.stderr.contains("81/tcp"), "{output:?}");
    home.rl("rm -f c").ok();
}

#[test]
fn a_kernel_without_packet_rules_is_named() {
    needs!(Need::Ours, Need::AsRoot);
    let line = r#"
"$RL" load -q -i "$ARCHIVE" >/dev/null
"$RL" run --rm --egress deny busybox true && exit 9
"$RL" network create n >/dev/null
"$RL" run --rm --network n busybox true && exit 9
"$RL" system reset -f"#;
    let options = ["--refuse", "netfilter=EPROTONOSUPPORT"];
    let output = on_machine(&options, "rules", line).ok();
    explained(
        &output,
        "RL-N09",
        "--egress needs nf_tables",
        "modprobe -a nf_tables nft_ct nft_reject_inet",
    );
    explained(
        &output,
        "RL-N09",
        "named networks need nf_tables",
        "nft_masq nft_chain_nat",
    );
}

#[test]
fn a_network_namespace_of_the_machines_root_is_not_entered() {
    needs!(Need::Ours, Need::AsRoot);
    let prepare = ": >theirs && unshare --net=theirs true";
    let line = "$RL load -q -i $ARCHIVE >/dev/null; $RL run --rm --network ns:$DIR/theirs busybox true && exit 9; $RL system reset -f";
    let output = on_machine(&["--prepare", prepare], "ns", line).ok();
    explained(
        &output,
        "RL-N11",
        "lets only its root enter",
        "unshare --user --map-root-user --net",
    );
}

// Images and registries

#[test]
fn a_short_name_that_could_be_several_is_not_guessed() {
    needs!(Need::Ours);
    let home = Home::new();
    home.file(
        "home/.config/containers/registries.conf",
        "unqualified-search-registries = [\"a.invalid\", \"b.invalid\"]\nshort-name-mode = \"enforcing\"\n",
    );
    explained(
        &home.rl("pull tool").fails(125),
        "RL-I01",
        "`tool` could be a.invalid/tool:latest or b.invalid/tool:latest, and there is no terminal",
        "write the full name",
    );
}

#[test]
fn an_image_for_another_processor_is_named_before_the_start() {
    needs!(Need::Ours);
    let home = Home::new();
    let other = if cfg!(target_arch = "x86_64") {
        "arm64"
    } else {
        "amd64"
    };
    let layout = home.dir("layout");
    home.dir("layout/blobs/sha256");
    let image = Image::busybox();
    let mut descriptor = image.manifest(&layout, other, Compression::Gzip);
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "other"});
    home.file("layout/oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    home.file(
        "layout/index.json",
        json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string(),
    );
    home.rl("load -q -i").arg(&layout).ok();
    // The label lies: the programs are this machine's, and so it is no reason to stop.
    let output = home.rl("run --rm --network none other echo ran").ok();
    output.stdout_is("ran");
    if std::fs::read_dir("/proc/sys/fs/binfmt_misc").is_ok_and(|entries| entries.count() > 2) {
        return; // somebody has registered interpreters
    }
    noticed(
        &output,
        "RL-I02",
        &format!("is for linux/{other}, this machine is linux/"),
        "its programs may not run",
    );
    // And one that tells the truth.
    home.rl("create --name c --network none other /foreign")
        .ok();
    let foreign: [&[u8]; 3] = [
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xff\xff\x01\0\0\0",
        &[0; 40],
        &[0; 4096],
    ];
    let program = home.file("foreign", foreign.concat());
    rustix::fs::chmod(&program, 0o755.into()).unwrap();
    home.rl("cp").arg(&program).arg("c:/foreign").ok();
    explained(
        &home.rl("start -a c").fails(126),
        "RL-I02",
        "not a program this machine can run",
        "--platform chooses",
    );
}

#[test]
fn an_image_without_a_variant_for_this_machine_is_refused() {
    needs!(Need::Ours, Need::Registry, Need::Program("skopeo"));
    let home = Home::with_busybox();
    let name = registry::fresh_name(&home);
    home.rl("push -q busybox").arg(&name).ok();
    let output = home.rl("pull --platform linux/s390x").arg(&name).fails(125);
    output
        .stderr_has("only, not for linux/s390x")
        .stderr_has("rl explain RL-I02");
}

#[test]
fn what_registries_refuse_is_told_apart() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let liar = Liar::start();
    let address = liar.address().to_string();
    liar.answer_with(
        "/v2/busy/manifests/latest",
        "429 Too Many Requests\r\nRetry-After: 9999\r\n",
        b"",
    );
    let output = home.rl("pull").arg(format!("{address}/busy")).fails(125);
    explained(&output, "RL-I03", "too many", "try again in 9999 s");
    // A password that has become old.
    home.file(
        "home/.docker/config.json",
        json!({"auths": {registry::auth(): {"auth": "dXNlcjpvbGQ="}}}).to_string(),
    );
    let output = home
        .rl("pull")
        .arg(format!("{}/private/busybox", registry::auth()))
        .fails(125);
    explained(&output, "RL-I03", "config.json", "rl login");
}

#[test]
fn a_registry_that_speaks_plain_http_is_named() {
    needs!(Need::Ours, Need::TestHost);
    // Not on loopback, where plain HTTP is tried: the host's end of the cable to the test host.
    let listener = std::net::TcpListener::bind("198.51.100.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The client may have gone at the first byte that is no TLS.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let home = Home::new();
    let output = home.rl("pull").arg(format!("{address}/x")).fails(125);
    explained(
        &output,
        "RL-I03",
        "answers plain HTTP, not HTTPS",
        "--tls-verify=false",
    );
}

#[test]
fn an_image_that_the_policy_forbids_is_refused_by_its_rule() {
    needs!(Need::Ours);
    let home = Home::new();
    home.file(
        "home/.config/containers/policy.json",
        json!({"default": [{"type": "reject"}], "transports": {"docker": {"": [{"type": "insecureAcceptAnything"}]}}}).to_string(),
    );
    let archive = home.file("image.tar", Image::busybox().docker_archive("image"));
    let output = home.rl("load -i").arg(&archive).fails(125);
    explained(
        &output,
        "RL-I04",
        "is not allowed on this machine (",
        "containers-policy.json(5)",
    );
    output.stderr_has("policy.json, `default`)");
}
