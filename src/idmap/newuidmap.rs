//! `newuidmap` and `newgidmap`: whether they can do their work, and having them do it. Source: newuidmap(1).

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{MemfdFlags, OFlags, memfd_create};
use rustix::process::Pid;

use super::{Extent, Plan, find_program};
use crate::error::Fail;
use crate::sys;
use crate::sys::process::{Child, Exit};
use crate::sys::tied::Tied;

/// Where the two programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helpers {
    /// `newuidmap`.
    pub newuidmap: PathBuf,
    /// `newgidmap`.
    pub newgidmap: PathBuf,
}

/// Both helpers, found in `PATH` and able to do their work, or which of the known causes stands against it.
///
/// # Errors
/// `RL-S02` when one is missing, `RL-S03` when it has no power.
pub fn find_helpers() -> Result<Helpers, Fail> {
    if rustix::thread::no_new_privs().is_ok_and(|set| set) {
        return Err(Fail::unsupported("this process has no_new_privs set, so newuidmap gains no rights")
            .hint("start rl outside of the sandbox or service that set it (NoNewPrivileges=, bwrap, setpriv)")
            .code("RL-S03"));
    }
    Ok(Helpers {
        newuidmap: find_helper("newuidmap")?,
        newgidmap: find_helper("newgidmap")?,
    })
}

fn find_helper(name: &str) -> Result<PathBuf, Fail> {
    let Some(path) = find_program(name) else {
        return Err(Fail::unsupported(format!("{name} is not installed"))
            .hint("ask your administrator for the package `uidmap` (Debian, Ubuntu) or `shadow-utils` (Fedora, RHEL, SUSE: `shadow`)")
            .code("RL-S02"));
    };
    let powerless = |why: &str| {
        Err(Fail::unsupported(format!("{} {why}", path.display()))
            .hint(format!("ask your administrator to reinstall the package it belongs to, or: chown root:root {0} && chmod u+s {0}", path.display()))
            .code("RL-S03"))
    };
    let Ok(meta) = std::fs::metadata(&path) else {
        return powerless("cannot be looked at");
    };
    let setuid = meta.uid() == 0 && meta.permissions().mode() & 0o4000 != 0;
    let mut buffer = [0_u8; 64];
    let capability = rustix::fs::getxattr(&path, "security.capability", &mut buffer[..])
        .is_ok_and(|length| length > 0);
    if !setuid && !capability {
        return powerless("is neither setuid root nor has file capabilities");
    }
    let nosuid = rustix::fs::statvfs(&path)
        .is_ok_and(|fs| fs.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID));
    if nosuid {
        return powerless("lies on a file system mounted nosuid");
    }
    Ok(path)
}

/// Both programs side by side: each costs a process start.
///
/// # Errors
/// When they cannot be started; RL-S03 when one refuses.
pub(super) fn map(helpers: &Helpers, pid: Pid, plan: &Plan) -> Result<()> {
    finish(Helping::both(helpers, pid, plan)?)
}

/// Waits for both.
///
/// # Errors
/// RL-S03 when one refuses.
pub(super) fn finish(started: [Helping; 2]) -> Result<()> {
    match Helping::finish_all(started)?.first() {
        Some(said) => {
            super::trial::forget();
            Err(refused(said).into())
        }
        None => Ok(()),
    }
}

/// A helper at work. It is not waited for until its exec, as `Command` does: the second one would begin when the first is done,
/// on a machine of two processors.
#[derive(Debug)]
pub(super) struct Helping {
    program: PathBuf,
    child: Child,
    stderr: File,
}

impl Helping {
    /// Both of them, for the process `pid`. Whichever was started has ended when the other one cannot be.
    pub(super) fn both(helpers: &Helpers, pid: Pid, plan: &Plan) -> Result<[Self; 2]> {
        let uids = Self::start(&helpers.newuidmap, pid, &plan.uids)?;
        match Self::start(&helpers.newgidmap, pid, &plan.gids) {
            Ok(gids) => Ok([uids, gids]),
            Err(error) => {
                let _ = uids.finish(); // there is something worse to tell
                Err(error)
            }
        }
    }

    fn start(program: &Path, pid: Pid, extents: &[Extent]) -> Result<Self> {
        let doing = || format!("starting {}", program.display());
        let path = CString::new(program.as_os_str().as_bytes()).with_context(doing)?;
        let words = words(pid, extents);
        let argv: Vec<CString> = std::iter::once(Ok(path.clone()))
            .chain(words.map(CString::new))
            .collect::<Result<_, _>>()
            .with_context(doing)?;
        let stderr = memfd_create("stderr", MemfdFlags::CLOEXEC).with_context(doing)?;
        let null = sys::fs::open_trusted(Path::new("/dev/null"), OFlags::RDWR)?;
        let child = sys::tied::spawn(&Tied {
            program: &path,
            argv: &argv,
            env: &[],
            stdin: null.as_fd(),
            stdout: null.as_fd(),
            stderr: stderr.as_fd(),
            keep: &[],
            join: &[],
            own_mounts: false,
        })
        .with_context(doing)?;
        Ok(Self {
            program: program.to_owned(),
            child,
            stderr: stderr.into(),
        })
    }

    /// Waits for both; what they have to complain of.
    pub(super) fn finish_all(both: [Self; 2]) -> Result<Vec<String>> {
        let said = both.map(Self::finish);
        said.into_iter().filter_map(Result::transpose).collect()
    }

    /// Waits for it; what it has to complain of.
    fn finish(mut self) -> Result<Option<String>> {
        let doing = || format!("waiting for {}", self.program.display());
        let exit = self.child.wait().with_context(doing)?;
        if exit == Exit::Code(0) {
            return Ok(None);
        }
        let mut said = Vec::new();
        self.stderr.rewind().with_context(doing)?;
        self.stderr.read_to_end(&mut said).with_context(doing)?;
        Ok(Some(complaint(&self.program, exit, &said)))
    }
}

/// The words of a helper that maps ids of the process `pid`. Source: newuidmap(1).
fn words(pid: Pid, extents: &[Extent]) -> impl Iterator<Item = String> + use<> {
    let numbers: Vec<u32> = extents
        .iter()
        .flat_map(|extent| [extent.inner, extent.host, extent.count])
        .collect();
    std::iter::once(pid.as_raw_nonzero().get().unsigned_abs())
        .chain(numbers)
        .map(|number| number.to_string())
}

/// What a helper that failed said, without its name.
fn complaint(program: &Path, exit: Exit, stderr: &[u8]) -> String {
    let name = program
        .file_name()
        .unwrap_or(OsStr::new("?"))
        .to_string_lossy();
    let said = String::from_utf8_lossy(stderr);
    let said = said.lines().next().unwrap_or_default().trim();
    let said = said.strip_prefix(&format!("{name}: ")).unwrap_or(said);
    match said {
        "" => format!("{name} fails ({exit:?})"),
        _ => format!("{name} fails: {said}"),
    }
}

pub(super) fn refused(said: &str) -> Fail {
    Fail::unsupported(said)
        .hint("check your lines in /etc/subuid and /etc/subgid: none may overlap another or your own id, and an outer container has to have them all")
        .hint("ask your administrator to look whether newuidmap and newgidmap are setuid root: rl doctor")
        .code("RL-S03")
}
