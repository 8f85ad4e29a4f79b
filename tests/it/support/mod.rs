//! A fresh home for each test, `rl` (or podman) run in it, and what it said.

pub mod bundle;
pub mod host;
pub mod image;
pub mod pty;
pub mod registry;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

/// Leaves the test when this machine cannot do what it needs; says why, and is counted.
macro_rules! needs {
    ($($need:expr),+ $(,)?) => {
        $(if let Err(reason) = $crate::support::host::Need::check(&$need) {
            $crate::support::skip(&reason);
            return;
        })+
    };
}

/// Which program the tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnderTest {
    Rl,
    Podman,
}

pub fn under_test() -> UnderTest {
    match std::env::var("RL_UNDER_TEST").as_deref() {
        Ok("podman") => UnderTest::Podman,
        _ => UnderTest::Rl,
    }
}

/// The checkout, or the copy of it that the test user can read.
pub fn source() -> PathBuf {
    PathBuf::from(
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into()),
    )
}

/// Records that this test cannot run here.
pub fn skip(reason: &str) {
    let name = std::env::var("NEXTEST_TEST_NAME")
        .ok()
        .or_else(|| std::thread::current().name().map(str::to_owned))
        .unwrap_or_default();
    eprintln!("SKIP: {name}: {reason}");
    if let Some(directory) = std::env::var_os("RL_TEST_HOMES") {
        let mut file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(Path::new(&directory).join("skips"))
            .unwrap();
        // One write, so that tests side by side do not mix their lines.
        file.write_all(format!("{name}: {reason}\n").as_bytes())
            .unwrap();
    }
}

/// Waits until `condition` gives something; fails the test after 20 seconds.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited 20 s for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A user's home that nobody used before. Goes, with all that is in it, at the end of the test.
#[derive(Debug)]
pub struct Home {
    directory: tempfile::TempDir,
    env: BTreeMap<OsString, OsString>,
}

impl Home {
    /// Empty, on disk, with a runtime directory and the variables of a plain login.
    pub fn new() -> Self {
        assert!(
            !nix::unistd::geteuid().is_root(),
            "the tests are for an ordinary user, not for root: use scripts/test"
        );
        let parent =
            std::env::var_os("RL_TEST_HOMES").map_or_else(|| "/var/tmp".into(), PathBuf::from);
        // Short: paths of sockets below it have 107 bytes in all.
        let directory = tempfile::Builder::new()
            .prefix("h.")
            .tempdir_in(parent)
            .unwrap();
        let path = |name: &str| directory.path().join(name).into_os_string();
        let mut env = BTreeMap::from([
            ("HOME".into(), path("home")),
            ("XDG_RUNTIME_DIR".into(), path("run")),
            ("TMPDIR".into(), path("tmp")),
            ("LANG".into(), "C.UTF-8".into()),
            (
                "PATH".into(),
                "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into(),
            ),
            ("USER".into(), std::env::var_os("USER").unwrap_or_default()),
        ]);
        for name in ["home", "run", "tmp"] {
            let path = directory.path().join(name);
            std::fs::create_dir(&path).unwrap();
            rustix::fs::chmod(&path, 0o700.into()).unwrap();
        }
        if under_test() == UnderTest::Podman {
            let registries = directory.path().join("registries.conf");
            let mut text = "unqualified-search-registries = [\"docker.io\"]\n".to_owned();
            for name in ["RL_TEST_REGISTRY", "RL_TEST_REGISTRY_AUTH"] {
                if let Ok(address) = std::env::var(name) {
                    text += &format!("[[registry]]\nlocation = \"{address}\"\ninsecure = true\n");
                }
            }
            std::fs::write(&registries, text).unwrap();
            env.insert("CONTAINERS_REGISTRIES_CONF".into(), registries.into());
        }
        Self { directory, env }
    }

    /// A fresh home that has the image `busybox` (see [`image::busybox`]).
    pub fn with_busybox() -> Self {
        let home = Self::new();
        home.load_busybox();
        home
    }

    /// A fresh home that has Alpine under the name `alpine`. Call after `needs!(Need::Alpine)`.
    pub fn with_alpine() -> Self {
        let home = Self::new();
        let root = std::env::var("RL_TEST_ALPINE").expect("checked by needs!");
        home.rl("import").arg(root).arg("alpine").ok();
        home
    }

    pub fn load_busybox(&self) {
        self.rl("load -i").arg(image::busybox()).ok();
    }

    /// The directory that everything of this home is in: `home`, `run`, `tmp`, and what the test puts there.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where `rl` keeps its files.
    pub fn store(&self) -> PathBuf {
        self.path().join("home/.local/share/rl")
    }

    /// Writes a file of the test's and names it.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it has one")).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Makes a directory of the test's and names it.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Sets a variable for every command of this home.
    pub fn set(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.env.insert(name.into(), value.as_ref().to_owned());
    }

    /// Unsets a variable for every command of this home.
    pub fn unset(&mut self, name: &str) {
        self.env.remove(OsStr::new(name));
    }

    /// A `PATH` in which these programs are missing.
    pub fn without_programs(&mut self, missing: &[&str]) {
        let farm = self.dir("bin");
        for directory in ["/usr/bin", "/bin", "/usr/sbin", "/sbin"] {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let name = entry.file_name();
                if !missing.iter().any(|missing| name == *missing) {
                    // Taken already by an earlier directory.
                    let _ = std::os::unix::fs::symlink(entry.path(), farm.join(name));
                }
            }
        }
        self.set("PATH", farm);
    }

    /// `rl` with the words of `line`; more, with any content, by [`Run::arg`].
    pub fn rl(&self, line: &str) -> Run {
        let mut run = self.program(match under_test() {
            UnderTest::Rl => rl_binary(),
            UnderTest::Podman => "podman".into(),
        });
        if under_test() == UnderTest::Podman {
            run = run
                .arg("--root")
                .arg(self.path().join("home/podman"))
                .arg("--runroot")
                .arg(self.path().join("run/podman"))
                .args([
                    "--cgroup-manager=cgroupfs",
                    "--events-backend=file",
                    "--log-level=error",
                ]);
        }
        run.args(line.split_whitespace())
    }

    /// Another program with this home's environment.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Run {
        let mut run = Run::new(program);
        run.command
            .env_clear()
            .envs(&self.env)
            .current_dir(self.path());
        run
    }

    /// Runs a shell line of the host with this home's environment and `$RL` as the program under test.
    pub fn sh(&self, script: &str) -> Run {
        self.program("sh")
            .arg("-c")
            .arg(script)
            .env("RL", rl_binary())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let path = self.path();
        if std::fs::remove_dir_all(path).is_ok() {
            return;
        }
        // Files of subordinate ids can only be removed by the root of a user namespace that has them.
        let script =
            "umount --recursive --lazy \"$1\" 2>/dev/null; chmod -R u+rwX \"$1\"; rm -rf \"$1\"";
        for map in [&["--map-auto"][..], &[]] {
            let removed = Command::new("unshare")
                .args(["--user", "--map-root-user", "--mount"])
                .args(map)
                .args(["sh", "-c", script, "sh"])
                .arg(path)
                .stderr(Stdio::null())
                .status();
            if removed.is_ok_and(|status| status.success()) && !path.exists() {
                return;
            }
        }
    }
}

/// The `rl` under test: one that the user owns, as users do.
pub fn rl_binary() -> PathBuf {
    std::env::var_os("RL_BIN")
        .or_else(|| std::env::var_os("NEXTEST_BIN_EXE_rl"))
        .map_or_else(|| env!("CARGO_BIN_EXE_rl").into(), PathBuf::from)
}

/// A command that has not been started yet.
#[derive(Debug)]
pub struct Run {
    command: Command,
    shown: String,
    stdin: Vec<u8>,
}

impl Run {
    /// A program with our own environment.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        Self {
            shown: Path::new(program)
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            command: Command::new(program),
            stdin: Vec::new(),
        }
    }

    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&word.as_ref().to_string_lossy());
        self.command.arg(word);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        for word in words {
            self = self.arg(word);
        }
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn cwd(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// What is left of the builder for those who need something rare.
    pub fn command(self) -> Command {
        self.command
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Output {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.shown));
        let mut input = child.stdin.take().expect("piped");
        let bytes = std::mem::take(&mut self.stdin);
        let writer = std::thread::spawn(move || {
            // A program that does not read its input to the end is no error here.
            let _ = input.write_all(&bytes);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Output {
            shown: self.shown,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs it; it must succeed.
    #[track_caller]
    pub fn ok(self) -> Output {
        self.run().code(0)
    }

    /// Runs it; it must succeed and say exactly this (a line break at the end aside).
    #[track_caller]
    pub fn says(self, stdout: &str) {
        self.ok().stdout_is(stdout);
    }

    /// Runs it; it must end with this code.
    #[track_caller]
    pub fn fails(self, code: i32) -> Output {
        self.run().code(code)
    }

    /// Starts it and goes on; its standard input stays open.
    pub fn spawn(mut self) -> Running {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.shown));
        let stdout = Collected::of(child.stdout.take().expect("piped"));
        let stderr = Collected::of(child.stderr.take().expect("piped"));
        Running {
            child,
            shown: self.shown,
            stdout,
            stderr,
        }
    }
}

/// What a running program has said so far.
#[derive(Debug)]
struct Collected {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Collected {
    fn of(mut from: impl std::io::Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self {
            text,
            reader: Some(reader),
        }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.so_far()
    }
}

/// A command that runs. Killed when it is dropped before its end.
#[derive(Debug)]
pub struct Running {
    child: Child,
    shown: String,
    stdout: Collected,
    stderr: Collected,
}

impl Running {
    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id().try_into().expect("a pid"))
    }

    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(self.pid(), signal).unwrap();
    }

    /// Waits until its standard output contains `text`; returns all of it so far.
    #[track_caller]
    pub fn wait_for_stdout(&mut self, text: &str) -> String {
        let found = wait_for_or_end(&mut self.child, || {
            Some(self.stdout.so_far()).filter(|said| said.contains(text))
        });
        found.unwrap_or_else(|| {
            panic!(
                "`{}` did not say `{text}`\n--- stdout\n{}\n--- stderr\n{}",
                self.shown,
                self.stdout.so_far(),
                self.stderr.so_far()
            )
        })
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        self.child.stdin = None;
        let shown = self.shown.clone();
        let status = wait_for(&format!("the end of `{shown}`"), || {
            self.child.try_wait().unwrap()
        });
        Output {
            shown,
            status,
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
        }
    }
}

fn wait_for_or_end<T>(child: &mut Child, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let ended = child.try_wait().unwrap().is_some();
        if let Some(value) = condition() {
            return Some(value);
        }
        if ended {
            // What it said last may still be on its way.
            std::thread::sleep(Duration::from_millis(50));
            return condition();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            // It ended by itself between the two calls.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Output {
    pub shown: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Fails the test and shows everything.
    #[track_caller]
    pub fn wrong(&self, what: &str) -> ! {
        panic!(
            "{what}\n--- command\n{}\n--- {}\n--- stdout\n{}\n--- stderr\n{}",
            self.shown, self.status, self.stdout, self.stderr
        )
    }

    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        if self.status.code() != Some(code) {
            self.wrong(&format!("expected exit code {code}"));
        }
        self
    }

    #[track_caller]
    pub fn stdout_is(&self, expected: &str) -> &Self {
        if self.stdout.trim_end_matches(['\n', '\r']) != expected.trim_end_matches('\n') {
            self.wrong(&format!("expected stdout `{expected}`"));
        }
        self
    }

    #[track_caller]
    pub fn stdout_has(&self, part: &str) -> &Self {
        if !self.stdout.contains(part) {
            self.wrong(&format!("expected `{part}` in stdout"));
        }
        self
    }

    #[track_caller]
    pub fn stdout_lacks(&self, part: &str) -> &Self {
        if self.stdout.contains(part) {
            self.wrong(&format!("expected no `{part}` in stdout"));
        }
        self
    }

    #[track_caller]
    pub fn stderr_has(&self, part: &str) -> &Self {
        if !self.stderr.contains(part) {
            self.wrong(&format!("expected `{part}` in stderr"));
        }
        self
    }

    /// stderr names one of these, whatever the case.
    #[track_caller]
    pub fn stderr_has_one_of(&self, parts: &[&str]) -> &Self {
        let said = self.stderr.to_lowercase();
        if !parts.iter().any(|part| said.contains(&part.to_lowercase())) {
            self.wrong(&format!("expected one of {parts:?} in stderr"));
        }
        self
    }

    #[track_caller]
    pub fn stderr_is_empty(&self) -> &Self {
        if !self.stderr.is_empty() {
            self.wrong("expected nothing on stderr");
        }
        self
    }

    /// The lines of standard output.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    /// Standard output without the last line break.
    pub fn text(&self) -> &str {
        self.stdout.trim_end()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| self.wrong(&format!("not JSON: {error}")))
    }
}
