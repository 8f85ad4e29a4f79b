//! What a container must not get: descriptors, capabilities, system calls, `rl`'s own file.

use crate::support::host::Need;
use crate::support::image::{Image, Layer, digest};
use crate::support::{Home, rl_binary};

#[test]
fn the_container_sees_descriptors_0_1_and_2_only() {
    let home = Home::with_busybox();
    // `ls` itself opens the directory as 3.
    let script = match crate::support::under_test() {
        crate::support::UnderTest::Rl => "\"$RL\"".to_owned(),
        crate::support::UnderTest::Podman => format!(
            "podman --root {0}/home/podman --runroot {0}/run/podman --cgroup-manager=cgroupfs --events-backend=file",
            home.path().display()
        ),
    };
    for options in ["", "--init", "--network none", "-i"] {
        let script = format!(
            "exec 10</etc/passwd 251</etc; {script} run --rm {options} busybox sh -c 'ls /proc/self/fd | tr \"\\n\" \" \"'"
        );
        home.program("bash")
            .arg("-c")
            .arg(script)
            .env("RL", rl_binary())
            .says("0 1 2 3 ");
    }
}

/// Docker's default set, as bits: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
/// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const DOCKER: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 10
    | 1 << 13
    | 1 << 18
    | 1 << 27
    | 1 << 29
    | 1 << 31;
const SYS_ADMIN: u64 = 1 << 21;
const NET_ADMIN: u64 = 1 << 12;

fn status(home: &Home, options: &str, field: &str) -> String {
    let output = home
        .rl(&format!("run --rm {options} busybox grep"))
        .arg(format!("^{field}:"))
        .arg("/proc/self/status")
        .ok();
    output
        .text()
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned()
}

fn capabilities(home: &Home, options: &str, field: &str) -> u64 {
    u64::from_str_radix(&status(home, options, field), 16).unwrap()
}

#[test]
fn the_capabilities_are_dockers_default_set() {
    needs!(Need::Ours); // podman's set is smaller
    let home = Home::with_busybox();
    for field in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(capabilities(&home, "", field), DOCKER, "{field}");
    }
    assert_eq!(capabilities(&home, "", "CapInh"), 0);
    assert_eq!(capabilities(&home, "", "CapAmb"), 0);
}

#[test]
fn capabilities_can_be_added_and_dropped() {
    let home = Home::with_busybox();
    let base = capabilities(&home, "", "CapEff");
    assert_eq!(
        capabilities(
            &home,
            "--cap-add SYS_ADMIN --cap-add cap_net_admin",
            "CapEff"
        ),
        base | SYS_ADMIN | NET_ADMIN
    );
    assert_eq!(capabilities(&home, "--cap-drop CHOWN", "CapEff"), base & !1);
    assert_eq!(capabilities(&home, "--cap-drop ALL", "CapBnd"), 0);
    assert_eq!(
        capabilities(&home, "--cap-drop all --cap-add CHOWN", "CapEff"),
        1
    );
    let all = capabilities(&home, "--cap-add ALL", "CapEff");
    assert_eq!(all & (DOCKER | SYS_ADMIN), DOCKER | SYS_ADMIN);
    assert_eq!(capabilities(&home, "--privileged", "CapEff"), all);
    home.rl("run --rm --cap-add NONSENSE busybox true")
        .fails(125)
        .stderr_has_one_of(&["NONSENSE"]);
}

#[test]
fn an_ordinary_user_inside_has_no_capabilities() {
    needs!(Need::Ranges);
    let home = Home::with_busybox();
    assert_eq!(capabilities(&home, "-u 1000", "CapEff"), 0);
    assert_eq!(capabilities(&home, "-u 1000", "CapPrm"), 0);
}

#[test]
fn a_seccomp_filter_is_on_unless_refused() {
    let home = Home::with_busybox();
    assert_eq!(status(&home, "", "Seccomp"), "2");
    assert_eq!(status(&home, "--init", "Seccomp"), "2");
    assert_eq!(
        status(&home, "--security-opt seccomp=unconfined", "Seccomp"),
        "0"
    );
    assert_eq!(status(&home, "--privileged", "Seccomp"), "0");
}

#[test]
fn calls_that_need_an_administrator_are_refused() {
    let home = Home::with_busybox();
    home.rl("run --rm busybox sh -c")
        .arg("unshare -m true 2>/dev/null || echo refused")
        .says("refused");
    home.rl("run --rm busybox sh -c")
        .arg("mount -t tmpfs x /tmp 2>/dev/null || echo refused")
        .says("refused");
    home.rl("run --rm busybox sh -c")
        .arg("nsenter -t 1 -m true 2>/dev/null || echo refused")
        .says("refused");
}

#[test]
fn a_profile_of_the_users_is_obeyed() {
    let home = Home::with_busybox();
    let profile = home.file(
        "profile.json",
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
        "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    home.rl("run --rm --security-opt")
        .arg(format!("seccomp={}", profile.display()))
        .args([
            "busybox",
            "sh",
            "-c",
            "mkdir /x 2>/dev/null || echo refused",
        ])
        .says("refused");
    home.rl("run --rm --security-opt seccomp=/no/such/file busybox true")
        .fails(125)
        .stderr_has("/no/such/file");
    let broken = home.file("broken.json", "{");
    home.rl("run --rm --security-opt")
        .arg(format!("seccomp={}", broken.display()))
        .args(["busybox", "true"])
        .fails(125);
}

#[test]
fn no_new_privileges_is_an_option() {
    let home = Home::with_busybox();
    assert_eq!(status(&home, "", "NoNewPrivs"), "0");
    assert_eq!(
        status(&home, "--security-opt no-new-privileges", "NoNewPrivs"),
        "1"
    );
}

#[test]
fn an_unknown_security_option_is_refused() {
    let home = Home::with_busybox();
    home.rl("run --rm --security-opt magic=on busybox true")
        .fails(125)
        .stderr_has("magic");
}

/// A process of the container that is its own user could write to the file it runs from: CVE-2019-5736.
#[test]
fn no_image_can_write_to_rls_own_file() {
    needs!(Need::Ours);
    let home = Home::new();
    let before = digest(&std::fs::read(rl_binary()).unwrap());
    let script = "#!/proc/self/exe\n";
    let watcher = "#!/bin/sh\ni=0; while [ $i -lt 60 ]; do for e in /proc/[0-9]*/exe; do \
                   case $(readlink $e) in */busybox) ;; *) echo hacked 2>/dev/null >> $e; cat /bin/busybox 2>/dev/null > $e;; esac; done; i=$((i+1)); done\n";
    let layer = Layer::new()
        .file("script", 0o755, script)
        .file("watcher", 0o755, watcher)
        .symlink("exe", "/proc/self/exe");
    let image = Image::on_busybox(vec![layer]);
    home.load(&image, "hostile:latest");
    for command in ["/proc/self/exe", "/script", "/exe", "/proc/1/exe"] {
        // It may run (it is `rl`, inside), or be refused; it may not write.
        home.rl("run --rm --network none hostile")
            .arg(command)
            .run();
        home.rl("run --rm --network none --init hostile")
            .arg(command)
            .run();
        home.rl("run --rm --network none --entrypoint")
            .arg(command)
            .args(["hostile", "sh", "-c", "true"])
            .run();
    }
    for options in [
        "",
        "--init",
        "--privileged --init",
        "--pid host",
        "--privileged --pid host",
    ] {
        home.rl(&format!(
            "run --rm --network none {options} hostile /watcher"
        ))
        .run();
        let after = std::fs::read(rl_binary()).map(|bytes| digest(&bytes));
        assert_eq!(
            after.unwrap(),
            before,
            "rl's own file was changed with `{options}`"
        );
    }
}

#[test]
fn the_hosts_files_are_out_of_reach() {
    let home = Home::with_busybox();
    let secret = home.file("secret", "of the host");
    let path = secret.display();
    for way in [
        format!("cat {path}"),
        format!("cat /proc/1/root{path}"),
        format!("cat /proc/1/cwd/../../../../../../../..{path}"),
        format!(
            "cd /proc/self/fd && for f in *; do cat $f/../../../../../../../..{path}; done; false"
        ),
        format!("chroot / cat {path}"),
    ] {
        let output = home.rl("run --rm busybox sh -c").arg(&way).run();
        assert!(!output.stdout.contains("of the host"), "{way}: {output:?}");
    }
}

/// What a layer says is only ever done below its own root.
#[test]
fn hostile_layers_touch_nothing_outside() {
    let home = Home::new();
    let victim = home.dir("victim");
    home.file("victim/file", "untouched");
    let path = victim.to_str().unwrap();
    let short = &path[1..];
    let up = "../".repeat(12);
    let cases: Vec<(&str, Layer)> = vec![
        (
            "dotdot",
            Layer::new().file(&format!("{up}{short}/new"), 0o644, "x"),
        ),
        (
            "absolute",
            Layer::new().file(&format!("{path}/new"), 0o644, "x"),
        ),
        (
            "link",
            Layer::new()
                .symlink("way", path)
                .file("way/new", 0o644, "x"),
        ),
        (
            "link to a file",
            Layer::new()
                .symlink("way", &format!("{path}/file"))
                .file("way", 0o644, "x"),
        ),
        (
            "hard link",
            Layer::new()
                .hard_link("way", &format!("{up}{short}/file"))
                .file("way", 0o644, "x"),
        ),
        (
            "absolute hard link",
            Layer::new()
                .hard_link("way", &format!("{path}/file"))
                .file("way", 0o644, "x"),
        ),
        (
            "hard link through a link",
            Layer::new()
                .symlink("dir", path)
                .hard_link("way", "dir/file")
                .file("way", 0o644, "x"),
        ),
        (
            "relative link",
            Layer::new()
                .symlink("way", &format!("{up}{short}"))
                .file("way/new", 0o644, "x"),
        ),
        (
            "whiteout",
            Layer::new()
                .symlink("way", path)
                .file("way/.wh.file", 0o644, ""),
        ),
        (
            "opaque",
            Layer::new()
                .symlink("way", path)
                .file("way/.wh..wh..opq", 0o644, ""),
        ),
        (
            "directory over a link",
            Layer::new()
                .symlink("way", path)
                .dir("way", 0o777)
                .file("way/new", 0o644, "x"),
        ),
    ];
    for (name, layer) in cases {
        let image = Image {
            layers: vec![layer.finish()],
            config: serde_json::json!({ "Cmd": ["/x"] }),
        };
        let archive = home.file("image.tar", image.docker_archive("hostile:latest"));
        home.rl("load -q -i").arg(&archive).run();
        home.rl("run --rm --network none hostile").run();
        let left: Vec<_> = std::fs::read_dir(&victim)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["file"], "{name}");
        assert_eq!(
            std::fs::read_to_string(victim.join("file")).unwrap(),
            "untouched",
            "{name}"
        );
    }
    // And the store is as good as before.
    home.load_busybox();
    home.rl("run --rm busybox echo fine").says("fine");
}

#[test]
fn device_nodes_in_a_layer_are_no_devices() {
    let home = Home::new();
    let layer = Layer::new()
        .dir("d", 0o755)
        .device("d/mem", 1, 1)
        .device("d/disk", 254, 0);
    let archive = home.file(
        "image.tar",
        Image::on_busybox(vec![layer]).docker_archive("devices:latest"),
    );
    // Leaving them out and refusing the layer are both right; opening one is not.
    if home.rl("load -q -i").arg(archive).run().status.success() {
        home.rl("run --rm devices sh -c")
            .arg("cat /d/mem /d/disk 2>/dev/null | head -c 1 | wc -c")
            .says("0");
    }
}

#[test]
fn privileged_is_still_only_the_users_own_power() {
    let home = Home::with_busybox();
    let output = home
        .rl("run --rm --privileged busybox sh -c")
        .arg("echo 1 > /proc/sys/kernel/panic && echo written")
        .run();
    assert!(!output.stdout.contains("written"), "{output:?}");
}
