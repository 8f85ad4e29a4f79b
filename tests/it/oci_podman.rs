//! Podman with `rl` where it has crun: the same commands side by side must say the same.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::bundle::{is_root, rootfs};
use crate::support::host::Need;

/// What is run, `R` standing for the options that name the root file system; whether its output is compared.
const COMMANDS: &[(&str, bool)] = &[
    ("run --rm R echo hi", true),
    ("run --rm R sh -c 'exit 7'", true),
    ("run --rm R nosuch", false),
    ("run --rm R /etc", false),
    ("run --rm R sh -c 'kill -9 $$'", true),
    (
        "run --rm --user 5:6 R sh -c 'id -u; id -g; grep Cap /proc/self/status'",
        true,
    ),
    (
        "run --rm --user 5:6 --cap-add net_admin R grep Cap /proc/self/status",
        true,
    ),
    ("run --rm --cap-drop all R grep Cap /proc/self/status", true),
    (
        "run --rm --privileged R grep -E 'Cap|Seccomp' /proc/self/status",
        true,
    ),
    (
        "run --rm --security-opt no-new-privileges R grep NoNew /proc/self/status",
        true,
    ),
    (
        "run --rm --security-opt seccomp=unconfined R grep Seccomp: /proc/self/status",
        true,
    ),
    ("run --rm R grep Seccomp: /proc/self/status", true),
    (
        "run --rm --userns keep-id R sh -c 'id -u; tail -n 3 /proc/self/uid_map'",
        true,
    ),
    ("run --rm --hostname other R hostname", true),
    ("run --rm -e A=b -e C R sh -c 'echo $A $C'", true),
    ("run --rm -w /tmp R pwd", true),
    (
        "run --rm --read-only R sh -c 'touch /x 2>&1; touch /tmp/x && echo tmp'",
        true,
    ),
    (
        "run --rm --tmpfs /m:size=1m,mode=700 R sh -c 'stat -c %a /m; grep -c /m /proc/mounts'",
        true,
    ),
    (
        "run --rm -v V:/v R sh -c 'cat /v/file; touch /v/made && echo made'",
        true,
    ),
    ("run --rm -v V:/v:ro R sh -c 'touch /v/x 2>&1'", true),
    ("run --rm -v V/file:/a/file R cat /a/file", true),
    (
        "run --rm --ulimit nofile=100:200 R sh -c 'ulimit -Sn; ulimit -Hn'",
        true,
    ),
    (
        "run --rm --sysctl net.ipv4.ip_forward=1 R cat /proc/sys/net/ipv4/ip_forward",
        true,
    ),
    (
        "run --rm --oom-score-adj 700 R cat /proc/self/oom_score_adj",
        true,
    ),
    ("run --rm --umask 0077 R sh -c umask", true),
    ("run --rm --group-add 20 R id -G", true),
    ("run --rm --device /dev/fuse R ls /dev/fuse", true),
    (
        "run --rm --pid host R sh -c 'test $$ -gt 1 && echo host'",
        true,
    ),
    (
        "run --rm --uts host R sh -c 'test -n \"$(hostname)\" && echo named'",
        true,
    ),
    (
        "run --rm --cgroupns host R sh -c 'tail -n 1 /proc/self/cgroup | grep -c libpod'",
        false,
    ),
    ("run --rm --init R sh -c 'echo $$'", true),
    (
        "run --rm -t R sh -c 'tty; test -c /dev/console && echo console'",
        true,
    ),
    (
        "run --rm --shm-size 1m R sh -c 'grep /dev/shm /proc/mounts | grep -o size=1024k'",
        true,
    ),
    (
        "run --rm --mount type=bind,src=V,dst=/m,ro=true R ls /m",
        true,
    ),
    ("run --rm R sh -c 'ls /dev | grep -v core'", true),
    (
        "run --rm R sh -c 'cut -d\" \" -f2 /proc/mounts | sort -u'",
        true,
    ),
    ("run -d --name long R sleep 1000", false),
    (
        "exec long sh -c 'echo in; hostname >/dev/null; exit 3'",
        true,
    ),
    (
        "exec -u 5 -w /tmp -e X=y long sh -c 'id -u; pwd; echo $X'",
        true,
    ),
    ("exec long nosuch", false),
    ("exec -t long tty", true),
    ("exec -d long sleep 100", false),
    (
        "inspect --format '{{.State.Status}} {{.OCIConfigPath}}' long",
        false,
    ),
    ("ps --format '{{.Names}} {{.Command}}'", true),
    (
        "run --rm --network container:long R sh -c 'echo joined'",
        true,
    ),
    (
        "run --rm --pid container:long R sh -c 'ps | grep -c sleep'",
        false,
    ),
    ("kill --signal USR1 long", true),
    ("stop -t 0 long", true),
    (
        "inspect --format '{{.State.Status}} {{.State.ExitCode}}' long",
        true,
    ),
    ("start long", true),
    ("restart -t 0 long", false),
    ("rm -f -t 0 long", true),
    ("create --name made R echo made", false),
    ("start -a made", true),
    ("wait made", true),
    ("logs made", true),
    ("rm made", true),
    ("run -d --name failing R false", false),
    ("wait failing", true),
    ("rm failing", true),
];

/// One user of podman's, with a runtime.
struct Podman<'a> {
    home: &'a Path,
    runtime: &'a str,
}

impl Podman<'_> {
    fn call(&self, line: &str) -> (i32, String) {
        let home = self.home.display();
        let line = line
            .replace(" R ", &format!(" --rootfs {home}/root "))
            .replace(" V", &format!(" {home}/volume"))
            .replace("src=V", &format!("src={home}/volume"));
        let network = if line.contains("--network") || !line.contains("--rootfs") {
            ""
        } else {
            "--network none"
        };
        let line = match line.split_once(' ') {
            Some((verb, rest)) => format!("{verb} {network} {rest}"),
            None => line,
        };
        let script = format!(
            "podman --root {home}/s/{0} --runroot {home}/run/{0} --tmpdir {home}/tmp/{0} --cgroup-manager cgroupfs --events-backend file --runtime {1} {line}",
            Path::new(self.runtime)
                .file_name()
                .unwrap()
                .to_string_lossy(),
            self.runtime
        );
        let out = std::fs::File::create(self.home.join("out")).unwrap();
        let status = Command::new("sh")
            .args(["-c", &script])
            .env("XDG_RUNTIME_DIR", self.home.join("run"))
            .env("HOME", self.home)
            .stdin(Stdio::null())
            .stderr(out.try_clone().unwrap())
            .stdout(out)
            .status()
            .unwrap();
        let text = std::fs::read_to_string(self.home.join("out")).unwrap();
        (status.code().unwrap_or(-1), text)
    }
}

impl Podman<'_> {
    /// Podman keeps its user namespace by a process that waits.
    fn end(&self) {
        let name = Path::new(self.runtime).file_name().unwrap();
        let places = [
            self.home.join("tmp").join(name),
            self.home.join("run/libpod/tmp"),
        ];
        for place in places {
            let text = std::fs::read_to_string(place.join("pause.pid")).unwrap_or_default();
            if let Ok(pid) = text.trim().parse() {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}

#[test]
fn podman_does_the_same_with_rl_as_with_crun() {
    needs!(
        Need::Ours,
        Need::Ranges,
        Need::Program("podman"),
        Need::Program("crun"),
        Need::Program("busybox"),
        Need::Controller("hugetlb"),
    );
    assert!(!is_root());
    let parent = std::env::var_os("RL_TEST_HOMES").unwrap_or_else(|| "/var/tmp".into());
    let home = tempfile::Builder::new()
        .prefix("p.")
        .tempdir_in(parent)
        .unwrap();
    let path = home.path();
    rootfs(&path.join("root"));
    for name in ["run", "volume", "tmp", "s"] {
        std::fs::create_dir(path.join(name)).unwrap();
    }
    std::fs::write(path.join("volume/file"), "in the volume\n").unwrap();
    let rl = path.join("rl-runtime");
    std::os::unix::fs::symlink(crate::support::rl_binary(), &rl).unwrap();
    let (rl, crun) = (
        Podman {
            home: path,
            runtime: rl.to_str().unwrap(),
        },
        Podman {
            home: path,
            runtime: "/usr/bin/crun",
        },
    );
    let mut wrong = Vec::new();
    for (line, compared) in COMMANDS {
        let (mine, theirs) = (rl.call(line), crun.call(line));
        let same = mine.0 == theirs.0 && (!compared || mine.1 == theirs.1);
        if !same {
            wrong.push(format!(
                "{line}\n  rl:   {} {:?}\n  crun: {} {:?}",
                mine.0, mine.1, theirs.0, theirs.1
            ));
        }
    }
    // What crun cannot do in a group that podman has not been given by systemd.
    for line in [
        "run -d --name frozen R sleep 1000",
        "pause frozen",
        "unpause frozen",
        "rm -f -t 0 frozen",
    ] {
        let (code, text) = rl.call(line);
        if code != 0 {
            wrong.push(format!("{line}: {code} {text}"));
        }
    }
    for podman in [&rl, &crun] {
        podman.call("rm -fa -t 0");
        podman.end();
    }
    let _ = Command::new("unshare")
        .args(["--map-auto", "--map-root-user", "rm", "-rf"])
        .arg(path)
        .status();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
