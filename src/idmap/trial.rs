//! Whether the helpers really write the user's maps: they can be in place and yet be refused, by the kernel or by their own
//! rules. A child in a user namespace of its own is what they are tried on.
//!
//! What worked is noted in the runtime directory, so that it is tried once in a login; what did not is tried again by each
//! command, for it may have been mended.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use rustix::process::Pid;

use super::Plan;
use super::newuidmap::{self, Helpers, Helping};
use super::ranges::Range;
use crate::error::Fail;
use crate::paths;

/// The first word that makes `rl` a child that tries something.
pub const PROBE: &str = "__probe";

/// A child without ids, and the helpers that write its maps.
#[derive(Debug)]
pub struct Trial {
    child: Child,
    stdin: ChildStdin,
    helpers: [Helping; 2],
}

/// What came of it.
#[derive(Debug)]
pub enum Verdict {
    /// What the child said, who had the ids in the end.
    Mapped(String),
    /// A helper refused; in its words.
    Refused(String),
}

/// Has the helpers write the maps of `plan` for a child.
///
/// # Errors
/// When there is no user namespace to try it in, or no process.
pub fn start(helpers: &Helpers, plan: &Plan) -> std::io::Result<Trial> {
    let mut child = Command::new("/proc/self/exe")
        .args([PROBE, "ids"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    let stdin = child.stdin.take().ok_or_else(gone)?;
    let mut stdout = child.stdout.take().ok_or_else(gone)?;
    let mut ready = String::new();
    // One byte at a time would do; what comes later is read when the child has ended.
    BufReader::with_capacity(6, &mut stdout).read_line(&mut ready)?;
    child.stdout = Some(stdout);
    // Without a user namespace the question does not arise, and that is said elsewhere.
    if ready.trim() != "ready" {
        child.wait()?;
        return Err(gone());
    }
    match Helping::both(helpers, Pid::from_child(&child), plan) {
        Ok(helpers) => Ok(Trial {
            child,
            stdin,
            helpers,
        }),
        Err(error) => {
            drop(stdin); // the child waits for it
            child.wait()?;
            Err(std::io::Error::other(error))
        }
    }
}

impl Trial {
    /// Waits for the end.
    ///
    /// # Errors
    /// The system's, for the processes.
    pub fn finish(self) -> std::io::Result<Verdict> {
        let said = Helping::finish_all(self.helpers).map_err(std::io::Error::other)?;
        drop(self.stdin); // the child waits for it
        let output = self.child.wait_with_output()?;
        Ok(match said.is_empty() {
            true => Verdict::Mapped(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Verdict::Refused(said.join("; ")),
        })
    }
}

/// Why the helpers cannot map these ranges, if so. This process asks once.
pub fn refusal(helpers: &Helpers, uids: &[Range], gids: &[Range], plan: &Plan) -> Option<Fail> {
    static FOUND: OnceLock<Option<Fail>> = OnceLock::new();
    let find = || {
        let note = paths::runtime_dir().ok().map(|dir| dir.join("ids"));
        let all = circumstances(helpers, uids, gids);
        if let (Some(note), Some(all)) = (&note, &all)
            && std::fs::read_to_string(note).is_ok_and(|noted| noted == *all)
        {
            return None;
        }
        // What keeps it from being tried will keep the container from starting, and be told then.
        match start(helpers, plan).and_then(Trial::finish).ok()? {
            Verdict::Refused(said) => Some(newuidmap::refused(&said)),
            Verdict::Mapped(_) => {
                if let (Some(note), Some(all)) = (note, all) {
                    let _ = std::fs::write(note, all); // without it, it is tried again
                }
                None
            }
        }
    };
    FOUND.get_or_init(find).clone()
}

/// Forgets what was noted: a helper was refused after all.
pub fn forget() {
    if let Ok(dir) = paths::runtime_dir() {
        let _ = std::fs::remove_file(dir.join("ids")); // there may be none
    }
}

/// All that decides whether they can; `None` where it cannot be seen.
fn circumstances(helpers: &Helpers, uids: &[Range], gids: &[Range]) -> Option<String> {
    let namespace = std::fs::read_link("/proc/self/ns/user").ok()?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mut text = format!("{}\n", namespace.display());
    // The rights that a program can gain, and whether calls are filtered.
    for line in status
        .lines()
        .filter(|line| line.starts_with("CapBnd:") || line.starts_with("Seccomp"))
    {
        let _ = writeln!(text, "{line}"); // a string takes it
    }
    for program in [&helpers.newuidmap, &helpers.newgidmap] {
        let meta = std::fs::metadata(program).ok()?;
        let (inode, changed) = (meta.ino(), (meta.ctime(), meta.ctime_nsec()));
        let _ = writeln!(text, "{} {inode} {changed:?}", program.display());
    }
    let _ = writeln!(text, "{uids:?}\n{gids:?}");
    Some(text)
}
