//! OCI bundles, and the runtime that runs them: ours, or with `RL_OCI_RUNTIME` another one, for ordinary users and for root.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// A bundle in a directory of its own, with the state of its containers beside it.
#[derive(Debug)]
pub struct Bundle {
    directory: tempfile::TempDir,
    /// What will be `config.json`.
    pub config: Value,
}

/// The runtime under test: `rl`, or a name such as `crun`.
pub fn runtime() -> String {
    std::env::var("RL_OCI_RUNTIME").unwrap_or_else(|_| "rl".to_owned())
}

/// Whether that is `rl`.
pub fn ours() -> bool {
    runtime() == "rl"
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The applets of BusyBox that scripts here use.
const APPLETS: [&str; 45] = [
    "sh", "cat", "echo", "env", "id", "ls", "mount", "touch", "test", "true", "false", "sleep",
    "hostname", "grep", "sed", "awk", "head", "tail", "readlink", "stat", "mkdir", "mknod", "ip",
    "ps", "pwd", "uname", "ionice", "sort", "wc", "tr", "cut", "tty", "stty", "dd", "chmod",
    "chown", "find", "ln", "rm", "rmdir", "kill", "umount", "nc", "chroot", "mkfifo",
];

pub fn rootfs(at: &Path) {
    for name in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        std::fs::create_dir_all(at.join(name)).unwrap();
    }
    let busybox = super::host::find("busybox").expect("busybox");
    std::fs::copy(busybox, at.join("bin/busybox")).unwrap();
    for name in APPLETS {
        std::os::unix::fs::symlink("busybox", at.join("bin").join(name)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:5:6::/home/app:/bin/sh\n";
    std::fs::write(at.join("etc/passwd"), passwd).unwrap();
}

impl Bundle {
    pub fn new() -> Self {
        let parent =
            std::env::var_os("RL_TEST_HOMES").map_or_else(|| "/var/tmp".into(), PathBuf::from);
        let directory = tempfile::Builder::new()
            .prefix("o.")
            .tempdir_in(parent)
            .unwrap();
        rustix::fs::chmod(directory.path(), 0o755.into()).unwrap();
        let bundle = Self {
            directory,
            config: base(),
        };
        std::fs::create_dir(bundle.path("b")).unwrap();
        rootfs(&bundle.path("b/rootfs"));
        bundle
    }

    /// A path below its directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// The program: a line for the shell.
    pub fn script(&mut self, line: &str) -> &mut Self {
        self.config["process"]["args"] = json!(["sh", "-c", line]);
        self
    }

    pub fn write(&self) {
        let text = serde_json::to_string_pretty(&self.config).unwrap();
        std::fs::write(self.path("b/config.json"), text).unwrap();
    }

    /// The runtime with these words, in the bundle.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = match runtime().as_str() {
            "rl" => {
                let mut command = Command::new(super::rl_binary());
                command.arg("runtime");
                command
            }
            other => Command::new(other),
        };
        command
            .arg("--root")
            .arg(self.path("state"))
            .args(words)
            .current_dir(self.path("b"))
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn call(&self, words: &[&str]) -> Answer {
        // A container that is left running keeps pipes open: files have an end.
        // The one before may belong to somebody else now: runtimes give it to the program's user.
        let file = |name: &str| {
            let _ = std::fs::remove_file(self.path(name)); // there is none the first time
            std::fs::File::create(self.path(name)).unwrap()
        };
        let status = self
            .command(words)
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .status()
            .unwrap();
        let read = |name: &str| std::fs::read(self.path(name)).unwrap();
        Answer(Output {
            status,
            stdout: read("stdout"),
            stderr: read("stderr"),
        })
    }

    /// Writes the configuration and runs it as the container `id`.
    pub fn run(&self, id: &str) -> Answer {
        self.write();
        self.call(&["run", id])
    }

    /// Its state as JSON; `Null` when there is none.
    pub fn state(&self, id: &str) -> Value {
        let answer = self.call(&["state", id]);
        serde_json::from_slice(&answer.0.stdout).unwrap_or_default()
    }

    pub fn status(&self, id: &str) -> String {
        let state = self.state(id);
        state["status"].as_str().unwrap_or_default().to_owned()
    }

    /// What is left of containers.
    pub fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("state"));
        let names = entries.into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect()
    }

    pub fn wait_for_status(&self, id: &str, status: &str) {
        super::wait_for(status, || (self.status(id) == status).then_some(()));
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for id in self.left() {
            let _ = self.call(&["delete", "--force", &id]); // a test that failed has not
        }
        // Files of subordinate ids can only be removed by the root of a user namespace that has them.
        if !is_root() {
            let _ = Command::new("unshare")
                .args(["--map-auto", "--map-root-user", "rm", "-rf"])
                .arg(self.path("b"))
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// What a runtime answered.
#[derive(Debug)]
pub struct Answer(pub Output);

impl Answer {
    pub fn code(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).trim().to_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).trim().to_owned()
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code(), 0, "{}", self.shown());
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert_eq!(self.code(), 0, "{}", self.shown());
        assert_eq!(self.stdout(), text, "{}", self.shown());
        self
    }

    /// Failed with this code, and (where it is ours) for this reason.
    #[track_caller]
    pub fn fails(self, code: i32, reason: &str) -> Self {
        assert_ne!(self.code(), 0, "{}", self.shown());
        if ours() {
            assert_eq!(self.code(), code, "{}", self.shown());
            assert!(self.stderr().contains(reason), "{}", self.shown());
        }
        self
    }

    pub fn shown(&self) -> String {
        format!(
            "{}\n-- stdout\n{}\n-- stderr\n{}",
            self.0.status,
            self.stdout(),
            self.stderr()
        )
    }
}

/// The least that has all namespaces, with a user namespace for who is not root.
fn base() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "clause",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"},
            ],
        },
    });
    if !is_root() {
        let linux = &mut config["linux"];
        linux["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user"}));
        let (first, count) = super::host::range().unwrap_or((0, 0));
        let map = |own: u32| {
            let mut all = vec![json!({"containerID": 0, "hostID": own, "size": 1})];
            if count > 0 {
                all.push(json!({"containerID": 1, "hostID": first, "size": count}));
            }
            Value::from(all)
        };
        linux["uidMappings"] = map(nix::unistd::geteuid().as_raw());
        linux["gidMappings"] = map(nix::unistd::getegid().as_raw());
    }
    config
}
