//! `rl doctor`, `info`, `version`, `completion`: what it says of the machine and of itself.

use crate::machines::on_machine;
use crate::support::host::Need;
use crate::support::{Home, Output};

#[test]
fn the_doctor_finds_a_prepared_machine_well() {
    needs!(Need::Ours, Need::Ranges);
    let home = Home::new();
    let output = home.rl("doctor").ok();
    for topic in ["ids", "overlay", "fuse", "network", "cgroup", "runtime"] {
        output.stdout_has(topic);
    }
}

#[test]
fn the_doctor_names_cause_and_remedy() {
    needs!(Need::Ours, Need::Ranges);
    let mut home = Home::new();
    home.without_programs(&[
        "newuidmap",
        "newgidmap",
        "pasta",
        "slirp4netns",
        "fuse-overlayfs",
    ]);
    let output = home.rl("doctor").run();
    for part in [
        "newuidmap",
        "uidmap",
        "pasta",
        "slirp4netns",
        "fuse-overlayfs",
    ] {
        output.stdout_has(part);
    }
}

#[test]
fn the_doctor_speaks_json() {
    needs!(Need::Ours);
    let home = Home::new();
    let output = home.rl("doctor --json").run();
    let json = output.json();
    let text = json.to_string();
    for part in ["ids", "overlay", "fuse", "tun", "cgroup"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    home.rl("doctor").run().stdout_lacks("\"ids\"");
}

#[test]
fn version_and_info() {
    needs!(Need::Ours);
    let home = Home::new();
    home.rl("--version")
        .ok()
        .stdout_has(env!("CARGO_PKG_VERSION"));
    home.rl("version")
        .ok()
        .stdout_has(env!("CARGO_PKG_VERSION"));
    let info = home.rl("info --format json").ok();
    assert!(info.json().is_object());
    home.rl("info")
        .ok()
        .stdout_has(&home.store().to_string_lossy());
}

#[test]
fn completions_are_made_for_every_shell() {
    needs!(Need::Ours);
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        home.rl("completion").arg(shell).ok().stdout_has("rl");
    }
    home.rl("completion nonsense")
        .fails(125)
        .stderr_has("nonsense");
}

#[test]
fn an_installation_is_one_file_with_its_manual_and_completions() {
    needs!(Need::Ours);
    let home = Home::new();
    let install = crate::support::source().join("scripts/install");
    let output = home.program(&install).arg(crate::support::rl_binary()).ok();
    let prefix = home.path().join("home/.local");
    output.stdout_is(&format!("install: {}/bin/rl", prefix.display()));
    output.stderr_has("is not in PATH");
    for (file, part) in [
        ("share/man/man1/rl.1", ".TH rl 1"),
        ("share/man/man1/rl-run.1", "volume"),
        ("share/man/man1/rl-network-create.1", "subnet"),
        ("share/bash-completion/completions/rl", "complete"),
        ("share/zsh/site-functions/_rl", "#compdef rl"),
        ("share/fish/vendor_completions.d/rl.fish", "complete -c rl"),
    ] {
        let text = std::fs::read_to_string(prefix.join(file)).unwrap();
        assert!(text.contains(part), "{file} lacks {part}");
    }
    home.program(prefix.join("bin/rl")).arg("--version").ok();
    // Once more, over what is there, and to another place.
    home.program(&install)
        .arg(crate::support::rl_binary())
        .env("PREFIX", "/usr")
        .env("DESTDIR", home.path().join("package"))
        .ok();
    assert!(home.path().join("package/usr/bin/rl").is_file());
}

#[test]
fn the_doctor_writes_a_profile_for_this_very_file() {
    needs!(Need::Ours);
    let home = Home::new();
    let output = home.rl("doctor --emit apparmor-profile").ok();
    let path = crate::support::rl_binary();
    output
        .stdout_has(&format!(
            "profile rl \"{}\" flags=(unconfined) {{",
            path.display()
        ))
        .stdout_has("userns,");
    home.rl("doctor --emit nonsense")
        .fails(125)
        .stderr_has("apparmor-profile");
}

#[test]
fn help_is_on_stdout_and_names_the_flags() {
    needs!(Need::Ours);
    let home = Home::new();
    home.rl("--help")
        .ok()
        .stdout_has("run")
        .stdout_has("pull")
        .stderr_is_empty();
    let output = home.rl("run --help").ok();
    for flag in "-i -t --rm --name -e --env-file -w -u -v --mount --tmpfs --read-only --entrypoint --hostname \
        --domainname --add-host --dns --cap-add --cap-drop --privileged --security-opt --ulimit --sysctl \
        --shm-size --init --network --userns --group-add --pull --platform --label --cidfile --pidfile \
        --preserve-fds --stop-signal --device --annotation --time-offset --pid --ipc --uts --cgroupns"
        .split_whitespace()
    {
        output.stdout_has(flag);
    }
}

#[test]
fn failures_made_for_real_have_code_cause_and_remedy() {
    needs!(Need::Ours, Need::Ranges);
    let home = Home::with_busybox();
    let open = home.dir("open");
    rustix::fs::chmod(&open, 0o777.into()).unwrap();
    let file = home.file("closed.sqsh", "hsqs");
    rustix::fs::chmod(&file, 0.into()).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    home.rl("network create n").ok();
    let run = |words: &str| home.rl(&format!("run --rm {words}"));
    let cases = [
        (
            run("-p 80:80 busybox true"),
            "RL-N03",
            "is root's",
            "-p 8080:80",
        ),
        (
            run(&format!("-p 127.0.0.1:{port}:80 busybox true")),
            "RL-N08",
            "is taken",
            "ss -ltnp",
        ),
        (
            home.rl("pull 127.0.0.1:1/x"),
            "RL-N06",
            "refuses the connection",
            "is the registry running",
        ),
        (
            run("--network n busybox true").env("RL_RUNTIME_DIR", &open),
            "RL-R01",
            "is not yours alone",
            "chmod 700",
        ),
        (
            run("--network none -u 4000000 busybox true"),
            "RL-S04",
            "has no such id",
            "rl doctor",
        ),
        (
            run("--network none --ulimit nofile=999999999 busybox true"),
            "RL-K05",
            "the highest possible here is",
            "limits.conf",
        ),
        (
            run("--network none").arg(&file).arg("true"),
            "RL-I05",
            "you may not read",
            "chmod a+r",
        ),
    ];
    for (run, code, cause, remedy) in cases {
        explained(&run.fails(125), code, cause, remedy);
    }
    home.rl("run -d --name deaf --network none busybox true")
        .env("RL_RUNTIME_DIR", &open)
        .ok()
        .stderr_has("is not yours alone (rl explain RL-R01)");
    home.rl("rm -f deaf").ok();
    drop(taken);
    home.rl("network rm n").ok();
}

/// The message names the cause, what to do, and the page that says more.
#[track_caller]
pub fn explained(output: &Output, code: &str, cause: &str, remedy: &str) {
    output.stderr_has(cause).stderr_has(remedy);
    output.stderr_has("to fix:  ");
    output.stderr_has(&format!("rl explain {code}"));
}

#[test]
fn failures_of_a_poor_machine_have_code_cause_and_remedy() {
    needs!(Need::Ours, Need::AsRoot);
    let setup = "\"$RL\" load -q -i \"$ARCHIVE\" >/dev/null 2>&1; run() { \"$RL\" run --rm \"$@\" busybox true && exit 9 || true; \"$RL\" system reset -f >/dev/null; }; ";
    // The code names the directory, too.
    let poor = |options: &[&str], line: &str, [code, cause, remedy]: [&str; 3]| {
        let output = on_machine(options, code, &format!("{setup}{line}")).ok();
        explained(&output, code, cause, remedy);
    };
    poor(
        &["--no-helpers"],
        "run --network pasta",
        ["RL-N02", "pasta is not installed", "the package `passt`"],
    );
    poor(
        &["--hide", "/dev/net/tun"],
        "run --network pasta",
        ["RL-N01", "needs /dev/net/tun", "modprobe tun"],
    );
    poor(
        &["--no-cgroup"],
        "run --network none --memory 64m",
        [
            "RL-C01",
            "a mix of version 1 and 2",
            "systemd.unified_cgroup_hierarchy=1",
        ],
    );
    poor(
        &["--most", "net=0"],
        "run --network none",
        ["RL-U03", "no more namespaces", "max_*_namespaces"],
    );
}
