//! The user's program, seen from inside: who runs it, with which variables, where its file is, why it did not start.
//!
//! For [`super::init`] and [`super::join`] alike. Confines nothing and mounts nothing.

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::confine::{Groups, Identity};
use super::seccomp::emulation::Emulation;
use super::{rootfs, user};
use crate::error::{Fail, Kind};
use crate::spec::{ContainerSpec, Process};
use crate::sys;
use crate::sys::fs::Root;

/// What is executed.
#[derive(Debug)]
pub struct Program {
    path: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// The spec's program with this environment, found as the container sees its files.
    ///
    /// # Errors
    /// `CommandNotFound`, `NotExecutable`.
    pub fn find(spec: &ContainerSpec, env: &[String]) -> Result<Self> {
        let args = spec.process.args();
        let first = args
            .first()
            .ok_or_else(|| Fail::usage("no command given"))?;
        Ok(Self {
            path: find_program(first, env)?,
            argv: c_strings(&args)?,
            env: c_strings(env)?,
        })
    }

    /// Looks whether it can be executed at all: what is waited with is better known before.
    ///
    /// # Errors
    /// `NotExecutable`.
    pub fn check(&self) -> Result<()> {
        let path = self.path.as_c_str();
        let directory = rustix::fs::stat(path).is_ok_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory
        });
        match rustix::fs::access(path, rustix::fs::Access::EXEC_OK) {
            Ok(()) if !directory => Ok(()),
            Ok(()) => {
                Err(self.not_started(&sys::Error::new(format!("access({path:?})"), Errno::ACCESS)))
            }
            Err(errno) => {
                Err(self.not_started(&sys::Error::new(format!("access({path:?})"), errno)))
            }
        }
    }

    /// Becomes the program; returns only what kept it from that.
    #[must_use]
    pub fn exec(&self) -> anyhow::Error {
        sys::process::reset_signals();
        self.not_started(&sys::process::exec(&self.path, &self.argv, &self.env))
    }

    fn not_started(&self, error: &sys::Error) -> anyhow::Error {
        let shown = self.path.to_string_lossy().into_owned();
        let fail = match error.errno {
        Errno::NOENT => Fail::new(Kind::CommandNotFound, format!("cannot execute `{shown}`: its interpreter is not in the container"))
            .hint("a script's first line (#!) or the program's dynamic loader names a file that the image does not have"),
        Errno::ACCESS if rustix::fs::stat(shown.as_str()).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory) => {
            Fail::new(Kind::NotExecutable, format!("`{shown}` is a directory"))
        }
        Errno::ACCESS | Errno::PERM => Fail::new(Kind::NotExecutable, format!("`{shown}` is not executable"))
            .hint("chmod +x it, and check that its file system is not mounted noexec"),
        Errno::NOEXEC => Fail::new(Kind::NotExecutable, format!("`{shown}` is not a program this machine can run"))
            .hint(format!("this machine is {}; is the image for another processor? --platform chooses", std::env::consts::ARCH))
            .hint("a script needs a first line such as #!/bin/sh")
            .code("RL-I02"),
        Errno::TOOBIG => Fail::new(Kind::NotExecutable, "arguments and environment are too long for the kernel"),
        errno => Fail::new(Kind::NotExecutable, format!("cannot execute `{shown}` ({errno})")),
    };
        anyhow::Error::from(error.clone()).context(fail)
    }
}

/// The program's user, and how its groups are set.
#[derive(Debug)]
pub struct Who {
    /// Ids and home.
    pub user: user::User,
    /// Supplementary groups.
    pub groups: Groups,
}

impl Who {
    /// The ids that the kernel knows it by: root's, where others are emulated in full.
    #[must_use]
    pub fn real(&self, emulation: Option<&Emulation>) -> (u32, u32) {
        if emulation.is_some_and(Emulation::is_full) {
            (0, 0)
        } else {
            (self.user.uid, self.user.gid)
        }
    }

    /// For the confinement.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity {
            uid: self.user.uid,
            gid: self.user.gid,
            groups: self.groups.clone(),
        }
    }
}

/// The program's user, by the files of the container. `only_ids` are the only user and group there are, unless others are
/// emulated in full.
///
/// # Errors
/// A name that the files do not have; another user than the only one.
pub fn who(
    process: &Process,
    emulation: Option<&Emulation>,
    only_ids: Option<(u32, u32)>,
    root: &Root,
) -> Result<Who> {
    let only_ids = only_ids.filter(|_| !emulation.is_some_and(Emulation::is_full));
    let passwd = rootfs::read_text(root, "/etc/passwd")?;
    let group = rootfs::read_text(root, "/etc/group")?;
    let mut user = user::resolve(&process.user, &passwd, &group)?;
    let keep = process.groups.iter().any(|group| group == "keep-groups");
    for wanted in process
        .groups
        .iter()
        .filter(|group| *group != "keep-groups")
    {
        user.groups.push(user::group_id(wanted, &group)?);
    }
    if let Some((uid, gid)) = only_ids {
        if user.uid != uid {
            return Err(Fail::unsupported(format!(
                "cannot run as user {} of the container: only one user id is available, {uid}",
                user.uid
            ))
            .hint(format!("run as that one: -u {uid}"))
            .hint(format!(
                "or start a container as the other one, which then is the only one: rl run -u {}",
                user.uid
            ))
            .hint("or get a range of ids: rl explain RL-S01")
            .code("RL-S01")
            .into());
        }
        user.gid = gid;
        return Ok(Who {
            user,
            groups: Groups::Keep,
        });
    }
    let groups = if keep {
        Groups::Keep
    } else {
        Groups::Set(user.groups.clone())
    };
    Ok(Who { user, groups })
}

/// The program's environment: docker's defaults, then the image's and the user's; the last of a name wins.
#[must_use]
pub fn environment(spec: &ContainerSpec, who: &Who) -> Vec<String> {
    let process = &spec.process;
    let mut env =
        vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    if process.tty {
        env.push("TERM=xterm".to_owned());
    }
    env.push("container=rl".to_owned());
    if let Some(name) = &spec.hostname {
        env.push(format!("HOSTNAME={name}"));
    }
    env.push(format!("HOME={}", who.user.home));
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    for entry in &process.env {
        let wanted = name(entry);
        match env.iter_mut().find(|known| name(known) == wanted) {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    env
}

fn c_strings(words: &[String]) -> Result<Vec<CString>> {
    words
        .iter()
        .map(|word| CString::new(word.as_str()).context("a NUL byte in an argument"))
        .collect()
}

/// The shells that people ask for, the likeliest first.
const SHELLS: [&str; 5] = ["sh", "bash", "ash", "dash", "zsh"];

/// What helps when `name` is not there.
fn missing(name: &str, path: &str) -> String {
    let base = name.rsplit('/').next().unwrap_or(name);
    if !SHELLS.contains(&base) {
        return "check the spelling, and that the image contains it".to_owned();
    }
    let there = SHELLS.iter().find(|shell| {
        path.split(':').any(|dir| {
            rustix::fs::access(format!("{dir}/{shell}"), rustix::fs::Access::EXEC_OK).is_ok()
        })
    });
    match there {
        Some(shell) => format!("the image has no `{base}`; it has `{shell}`"),
        None => format!("the image has no `{base}`, nor another shell: name a program that it has"),
    }
}

/// The file that `name` means, searched in the container's `PATH`, as execvp(3) does.
fn find_program(name: &str, env: &[String]) -> Result<CString> {
    let path = env
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default();
    let not_found = |message: String| -> anyhow::Error {
        Fail::new(Kind::CommandNotFound, message)
            .hint(missing(name, path))
            .into()
    };
    if name.is_empty() {
        return Err(not_found("the command is empty".to_owned()));
    }
    if name.contains('/') {
        return match rustix::fs::access(name, rustix::fs::Access::EXISTS) {
            Err(Errno::NOENT | Errno::NOTDIR) => Err(not_found(format!(
                "`{name}` does not exist in the container"
            ))),
            Ok(()) | Err(_) => Ok(CString::new(name)?),
        };
    }
    let mut denied = None;
    for dir in path.split(':') {
        let candidate = if dir.is_empty() {
            format!("./{name}")
        } else {
            format!("{dir}/{name}")
        };
        let is_file = rustix::fs::stat(candidate.as_str()).is_ok_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory
        });
        if !is_file {
            continue;
        }
        if rustix::fs::access(candidate.as_str(), rustix::fs::Access::EXEC_OK).is_ok() {
            return Ok(CString::new(candidate)?);
        }
        denied.get_or_insert(candidate);
    }
    match denied {
        Some(path) => Err(
            Fail::new(Kind::NotExecutable, format!("`{path}` is not executable"))
                .hint("chmod +x it in the image")
                .into(),
        ),
        None => Err(not_found(format!(
            "`{name}` was not found in the container's PATH ({path})"
        ))),
    }
}

/// Makes the terminal standard input, output and error.
///
/// # Errors
/// dup2(2).
pub fn take_stdio(terminal: &OwnedFd) -> Result<()> {
    let doing = "giving the program its terminal";
    rustix::stdio::dup2_stdin(terminal).context(doing)?;
    rustix::stdio::dup2_stdout(terminal).context(doing)?;
    rustix::stdio::dup2_stderr(terminal).context(doing)
}

/// A new terminal of the container's own devpts: the end that is passed out, and the program's.
///
/// # Errors
/// When there is no devpts.
pub fn new_terminal(root: &Root) -> Result<(OwnedFd, OwnedFd)> {
    let doing = "opening a terminal";
    let master = root
        .open(Path::new("/dev/pts/ptmx"), OFlags::RDWR | OFlags::NOCTTY)
        .context(doing)?;
    sys::tty::unlock(master.as_fd()).context(doing)?;
    let terminal = sys::tty::peer(master.as_fd()).context(doing)?;
    Ok((master, terminal))
}
