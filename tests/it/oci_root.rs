//! What only root can start: containerd with `rl` in runc's place. `scripts/test-oci` runs it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::support::bundle::{Bundle, is_root, rootfs};
use crate::support::host::Need;
use crate::support::wait_for;

/// A containerd of our own, on a private socket.
struct Containerd {
    dir: tempfile::TempDir,
    child: Child,
}

impl Containerd {
    fn start() -> Self {
        let parent = std::env::var_os("RL_TEST_HOMES").unwrap_or_else(|| "/var/tmp".into());
        let dir = tempfile::Builder::new()
            .prefix("c.")
            .tempdir_in(parent)
            .unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{}\"\n[ttrpc]\naddress = \"{}\"\n",
            at("root"),
            at("state"),
            at("sock"),
            at("ttrpc"),
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        rootfs(&dir.path().join("rootfs"));
        std::os::unix::fs::symlink(crate::support::rl_binary(), dir.path().join("runc")).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("containerd")
            .args(["-c", &at("config.toml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Self { dir, child };
        wait_for("containerd", || {
            daemon.ctr(&["version"]).status.success().then_some(())
        });
        daemon
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ctr(&self, words: &[&str]) -> Output {
        Command::new("ctr")
            .arg("-a")
            .arg(self.path("sock"))
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn run(&self, options: &[&str], id: &str, command: &[&str]) -> Output {
        let (runc, root) = (self.path("runc"), self.path("rootfs"));
        let mut words = vec![
            "run",
            "--runtime",
            "io.containerd.runc.v2",
            "--runc-binary",
            runc.to_str().unwrap(),
        ];
        words.extend(options);
        words.extend(["--env", "PATH=/bin", "--rootfs", root.to_str().unwrap(), id]);
        words.extend(command);
        self.ctr(&words)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[test]
fn containerd_runs_executes_pauses_and_kills() {
    if !is_root() {
        return; // scripts/nextest.toml leaves these out for ordinary users
    }
    needs!(
        Need::Program("containerd"),
        Need::Program("ctr"),
        Need::Program("busybox")
    );
    let daemon = Containerd::start();
    let done = daemon.run(&["--rm"], "one", &["sh", "-c", "echo hello; exit 4"]);
    assert_eq!(
        (done.status.code(), text(&done.stdout).as_str()),
        (Some(4), "hello"),
        "{done:?}"
    );
    let done = daemon.run(&["--rm"], "two", &["nosuch"]);
    assert!(
        text(&done.stderr).contains("executable file not found in $PATH"),
        "{done:?}"
    );
    let done = daemon.run(
        &["--rm", "--privileged"],
        "three",
        &["grep", "CapEff", "/proc/self/status"],
    );
    assert!(done.status.success(), "{done:?}");
    let done = daemon.run(
        &["--rm", "--seccomp"],
        "four",
        &["grep", "Seccomp:", "/proc/self/status"],
    );
    assert_eq!(text(&done.stdout), "Seccomp:\t2", "{done:?}");

    let long = daemon.run(&["-d"], "long", &["sleep", "1000"]);
    assert!(long.status.success(), "{long:?}");
    let state = || {
        let listed = daemon.ctr(&["task", "ls"]);
        let listed = text(&listed.stdout);
        let line = listed
            .lines()
            .find(|line| line.starts_with("long"))
            .unwrap_or_default();
        line.split_whitespace()
            .last()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(state(), "RUNNING");
    // It stays until its word is read: ctr gives up on the output of what ends before it looks.
    let go = daemon.path("rootfs").join("go");
    let script = "echo in; until test -e /go; do sleep 0.02; done; exit 5";
    let words = ["task", "exec", "--exec-id", "e", "long", "sh", "-c", script];
    let mut exec = Command::new("ctr")
        .arg("-a")
        .arg(daemon.path("sock"))
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let output = exec.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
    std::fs::write(go, "").unwrap();
    assert_eq!(
        (exec.wait().unwrap().code(), line.as_str()),
        (Some(5), "in\n")
    );
    assert!(daemon.ctr(&["task", "pause", "long"]).status.success());
    assert_eq!(state(), "PAUSED");
    assert!(daemon.ctr(&["task", "resume", "long"]).status.success());
    assert_eq!(state(), "RUNNING");
    assert!(daemon.ctr(&["task", "metrics", "long"]).status.success());
    assert!(
        daemon
            .ctr(&["task", "kill", "-s", "SIGKILL", "long"])
            .status
            .success()
    );
    wait_for("its end", || (state() == "STOPPED").then_some(()));
    daemon.ctr(&["task", "rm", "long"]);
    assert!(daemon.ctr(&["container", "rm", "long"]).status.success());
    let group = Path::new("/sys/fs/cgroup/default");
    assert!(!group.exists(), "{} is left", group.display());
}

/// Slurm's daemon clears away as root what users have started: nothing that a user wrote there may be done as root.
#[test]
fn root_acts_on_a_users_container_with_that_users_rights() {
    if !is_root() {
        return; // scripts/nextest.toml leaves these out for ordinary users
    }
    const USER: u32 = 12345;
    let mut bundle = Bundle::new();
    let told = bundle.path("told");
    std::fs::create_dir(&told).unwrap();
    rustix::fs::chmod(&told, 0o777.into()).unwrap();
    let hook = format!("id -u >{}/poststop", told.display());
    bundle.config["hooks"] =
        serde_json::json!({"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}]});
    bundle.script("true").write();
    // No group: the one of this root could not be removed by that user.
    bundle
        .call(&["--cgroup-manager", "disabled", "run", "--keep", "x"])
        .ok();
    let state = bundle.path("state");
    for path in ["x/state.json", "x/lock", "x", ""] {
        std::os::unix::fs::chown(state.join(path), Some(USER), Some(0)).unwrap();
    }
    assert_eq!(bundle.status("x"), "stopped");
    let listed = bundle.call(&["list"]).ok().stdout();
    assert!(listed.ends_with(&USER.to_string()), "{listed}");
    bundle.call(&["delete", "x"]).ok();
    let ran = std::fs::read_to_string(told.join("poststop")).unwrap();
    assert_eq!(ran.trim(), USER.to_string());
    assert!(!state.join("x").exists());
    // And makes nothing there: the user could change what is run.
    bundle
        .call(&["run", "y"])
        .fails(1, "are user 12345's, who can change");
    assert!(!state.join("y").exists());

    // Another user does nothing there at all.
    let rl = crate::support::rl_binary();
    let other = Command::new("setpriv")
        .args(["--reuid=12346", "--regid=12346", "--clear-groups"])
        .arg(rl)
        .arg("runtime")
        .arg("--root")
        .arg(&state)
        .args(["state", "x"])
        .output()
        .unwrap();
    assert!(
        text(&other.stderr).contains("are user 12345's"),
        "{other:?}"
    );
}

#[test]
fn an_interface_of_the_hosts_becomes_the_containers() {
    if !is_root() {
        return; // scripts/nextest.toml leaves these out for ordinary users
    }
    let mut bundle = Bundle::new();
    bundle.config["linux"]["netDevices"] = serde_json::json!({"given": {"name": "eth7"}});
    bundle
        .script("ls /sys/class/net | sort; cat /sys/class/net/eth7/address")
        .write();
    bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({"destination": "/sys", "type": "sysfs", "source": "sysfs"}));
    bundle.write();
    let runtime = bundle.command(&["run", "x"]);
    // In a network of its own, which goes with the interface that is given away and its other end.
    let line = "ip link add given address 02:00:00:00:00:07 type veth peer name stays; exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", line, "sh"])
        .arg(runtime.get_program())
        .args(runtime.get_args())
        .current_dir(bundle.path("b"))
        .output()
        .unwrap();
    assert_eq!(
        text(&output.stdout),
        "eth7\nlo\n02:00:00:00:00:07",
        "{output:?}"
    );
}
