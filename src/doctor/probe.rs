//! Children that try what a container will do: `rl __probe NAME …`, one thread each, answer on stdout.

use std::io::{BufRead as _, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use crate::sys;
use crate::sys::mount::Parameter;

pub use crate::idmap::trial::PROBE;

/// No probe may hang: a file system's server can be away. In milliseconds.
static PATIENCE: AtomicU64 = AtomicU64::new(3000);

/// Begins what is said of a probe that was not waited for.
pub const NO_ANSWER: &str = "no answer in";

/// From now on no probe is waited for longer than this.
pub fn lose_patience_after(patience: Duration) {
    let millis = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    PATIENCE.store(millis, Ordering::Relaxed);
}

/// What a child found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All that was tried worked; something to say of it.
    Works(String),
    /// This call failed.
    Fails {
        /// The kernel's answer; 0 when there is none.
        errno: i32,
        /// The call, as strace would print it, with the answer.
        call: String,
    },
}

/// A child under way.
#[derive(Debug)]
pub struct Running {
    child: Result<Child, String>,
}

/// Starts `rl __probe` with `words`.
pub fn start(words: &[&str]) -> Running {
    let mut command = Command::new("/proc/self/exe");
    command.arg(PROBE).args(words);
    spawn(&mut command)
}

/// Starts a program for what it prints.
pub fn spawn(command: &mut Command) -> Running {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    Running {
        child: child.map_err(|error| error.to_string()),
    }
}

impl Running {
    /// Waits for a probe's answer.
    pub fn finish(self) -> Outcome {
        let failed = |call: String| Outcome::Fails { errno: 0, call };
        match self.output() {
            Ok((out, err)) => serde_json::from_str(&out)
                .unwrap_or_else(|_| failed(format!("the probe said nothing: {}", err.trim()))),
            Err(error) => failed(error),
        }
    }

    /// Waits for a program; what it wrote to stdout and stderr.
    pub fn output(self) -> Result<(String, String), String> {
        let mut child = self.child?;
        let start = Instant::now();
        let patience = Duration::from_millis(PATIENCE.load(Ordering::Relaxed));
        // What a probe writes fits into a pipe, so it can end before anybody reads.
        while child
            .try_wait()
            .map_err(|error| error.to_string())?
            .is_none()
        {
            if start.elapsed() > patience {
                let _ = child.kill(); // it may have ended just now
                return Err(format!("{NO_ANSWER} {} ms", patience.as_millis()));
            }
            std::thread::sleep(Duration::from_micros(300));
        }
        let (mut out, mut err) = (Vec::new(), Vec::new());
        if let Some(mut pipe) = child.stdout.take() {
            let _ = pipe.read_to_end(&mut out); // a part is as good
        }
        if let Some(mut pipe) = child.stderr.take() {
            let _ = pipe.read_to_end(&mut err);
        }
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((text(out), text(err)))
    }
}

/// The child's work: `words` are what follows [`PROBE`] on the command line. The process must have one thread.
pub fn probe(words: &[String]) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["namespaces"] => namespaces(),
        ["overlay", dir] => overlay(Path::new(dir)),
        ["proc"] => proc(),
        ["proc-inner"] => proc_inner(),
        ["sys"] => fresh_sys(),
        ["ids"] => ids(),
        _ => Err(anyhow::anyhow!("no such probe")),
    };
    let outcome = match done {
        Ok(said) => Outcome::Works(said),
        Err(error) => Outcome::Fails {
            errno: sys::errno_of(&error).map_or(0, rustix::io::Errno::raw_os_error),
            call: crate::error::flatten(&error).message,
        },
    };
    let text = serde_json::to_string(&outcome).unwrap_or_default();
    // Nobody to tell when the parent is gone.
    let _ = writeln!(std::io::stdout(), "{text}");
    ExitCode::SUCCESS
}

/// A user namespace with one id, and whatever else `flags` say.
fn enter(flags: i32) -> Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    sys::process::unshare(libc::CLONE_NEWUSER | flags)?;
    for (file, line) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ] {
        let path = format!("/proc/self/{file}");
        std::fs::write(&path, line).with_context(|| format!("write({path:?})"))?;
    }
    Ok(())
}

/// The namespaces that cannot be had, separated by spaces.
fn namespaces() -> Result<String> {
    enter(0)?;
    let kinds = [
        ("mnt", libc::CLONE_NEWNS),
        ("pid", libc::CLONE_NEWPID),
        ("net", libc::CLONE_NEWNET),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("cgroup", libc::CLONE_NEWCGROUP),
        ("time", libc::CLONE_NEWTIME),
    ];
    let refused = kinds
        .into_iter()
        .filter(|(_, flag)| sys::process::unshare(*flag).is_err());
    let refused: Vec<&str> = refused.map(|(name, _)| name).collect();
    Ok(refused.join(" "))
}

/// An overlay in `dir`, used as an unpacked image is: copied up, hidden, made anew.
fn overlay(dir: &Path) -> Result<String> {
    enter(libc::CLONE_NEWNS)?;
    sys::mount::make_all_slave()?;
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let (lower, upper, work) = (path("lower"), path("upper"), path("work"));
    let options = |key| {
        [
            Parameter::Text(key, &lower),
            Parameter::Text("upperdir", &upper),
            Parameter::Text("workdir", &work),
            Parameter::Flag("userxattr"),
        ]
    };
    // KERNEL(6.5): `lowerdir+` is unknown before.
    let merged = dir.join("merged");
    let lay = |key| {
        sys::mount::new("overlay", &options(key), MountAttrFlags::empty())
            .and_then(|mount| mount.attach_trusted(&merged))
    };
    lay("lowerdir+").or_else(|_| lay("lowerdir"))?;
    let file = merged.join("file");
    let inner = merged.join("dir");
    std::fs::OpenOptions::new()
        .append(true)
        .open(&file)
        .context("copying a file up")?;
    std::fs::remove_file(&file).context("hiding a file by a whiteout")?;
    std::fs::remove_dir(&inner).context("hiding a directory")?;
    std::fs::create_dir(&inner)
        .context("making a directory where one was hidden, which needs user.* attributes")?;
    Ok(String::new())
}

/// A `/proc` of its own, which only a process of the new pid namespace can mount.
fn proc() -> Result<String> {
    enter(libc::CLONE_NEWNS | libc::CLONE_NEWPID)?;
    sys::mount::make_all_slave()?;
    match start(&["proc-inner"]).finish() {
        Outcome::Works(said) => Ok(said),
        Outcome::Fails { call, .. } => Err(anyhow::anyhow!(call)),
    }
}

fn proc_inner() -> Result<String> {
    let mount = sys::mount::new("proc", &[], MountAttrFlags::empty())?;
    mount.attach_trusted(Path::new("/proc"))?;
    Ok(String::new())
}

/// A file system of the kernel's that shows a network namespace: only a new one may have it.
fn fresh_sys() -> Result<String> {
    enter(libc::CLONE_NEWNS | libc::CLONE_NEWNET)?;
    sys::mount::make_all_slave()?;
    sys::mount::new("sysfs", &[], MountAttrFlags::empty())?;
    Ok(String::new())
}

/// Waits in a new user namespace until the parent has mapped its ids; says how many there are.
fn ids() -> Result<String> {
    sys::process::unshare(libc::CLONE_NEWUSER)?;
    let mut out = std::io::stdout();
    writeln!(out, "ready")
        .and_then(|()| out.flush())
        .context("telling the parent")?;
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("waiting for the parent")?;
    let map = std::fs::read_to_string("/proc/self/uid_map").context("reading the map")?;
    let counts = map
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    Ok(counts.sum::<u64>().to_string())
}
