//! A process that goes into a running container and becomes the program of `rl exec`.
//!
//! ```text
//!  rl exec                      guide                        this process
//!     │ clone3 ──────────────────▶│ joins the user namespace
//!     │                           │ copies the host's mounts, seals rl's file in the copy
//!     │                           │ joins the rest
//!     │                           │ clone3(CLONE_PARENT) ───────▶│ executes rl from the sealed mount
//!     │◀─────────────────── pid ──┘ ends                         │
//!     │ Join(visit) ────────────────────────────────────────────▶│ user, directory, program
//!     │◀──────────────────────────────────────────── Console + fd│ (with a terminal)
//!     │◀── end of conversation: the program runs                 ▼ confine, execve
//! ```
//!
//! The guide's part is `sys::process::spawn_sealed`. It is needed because a pid namespace is only joined by
//! children, and because the container's file system has no `rl` to execute. This process is a child of the
//! command's although it has a number in the container: exit status and signals need nobody between.
//! A detached program is a grandchild whose parent ends at once, so the container's pid 1 gets it: a zombie of a
//! container whose first process does not reap stays in that container, and never keeps it from ending, as one that
//! waits for a process of the host would.
//!
//! Nothing of the host's is reachable here: the guide closed all descriptors but standard input, output and error,
//! those that are passed on by number, and the conversation. Whoever traces this process inside needs the
//! rights that it has itself, until it has given them up.

use std::os::fd::{AsFd as _, RawFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags};

use super::init::Host;
use super::program::{self, Program};
use super::{ToHost, ToStage, confine};
use crate::error::{self, Fail};
use crate::sys;
use crate::sys::fs::Root;

/// The whole of it. Leaves by `_exit` or becomes the program.
pub fn main(fd: RawFd) -> ! {
    let Ok(mut host) = Host::from_inherited(fd) else {
        sys::process::exit_now(125)
    };
    let Err(failed) = run(&mut host) else {
        sys::process::exit_now(0) // the parent half of a detached start
    };
    let fail = error::flatten(&failed);
    let code = i32::from(fail.kind.exit_code());
    let _ = host.say(&ToHost::Failed(fail), None); // nobody left to tell
    sys::process::exit_now(code)
}

/// Returns without an error only where another process has taken over.
fn run(host: &mut Host) -> Result<()> {
    let ToStage::Join(visit) = host.hear()? else {
        return Err(Fail::system("no order").into());
    };
    let spec = &visit.spec;
    if let Some(oci) = &spec.oci {
        return super::exact::join::run(host, &visit, oci);
    }
    let process = &spec.process;
    // Where setns(2) has put us: the root of the container's mount namespace.
    let root = Root::open_trusted(Path::new("/"))?;
    let terminal = if process.tty {
        let (master, terminal) = program::new_terminal(&root)?;
        host.say(&ToHost::Console, Some(&master))?;
        Some(terminal)
    } else {
        None
    };
    let who = program::who(process, visit.emulation.as_ref(), visit.only_ids, &root)?;
    enter_cwd(&root, &process.cwd)?;
    drop(root);
    let program = Program::find(spec, &program::environment(spec, &who))?;
    rustix::process::umask(Mode::from_raw_mode(process.umask));
    if visit.detached {
        if sys::process::fork()?.is_some() {
            host.leave();
            return Ok(());
        }
        rustix::process::setsid().context("making a session")?;
    }
    if let Some(terminal) = &terminal {
        sys::tty::control(terminal.as_fd())?;
        program::take_stdio(terminal)?;
    }
    drop(terminal);
    sys::process::close_on_exec_from(3 + i32::try_from(process.preserve_fds).unwrap_or(0))?;
    confine::apply(
        &spec.confinement,
        &who.identity(),
        visit.emulation.as_ref(),
        &mut |listener| host.say(&ToHost::EmulationWanted, Some(&listener)),
    )?;
    if !visit.detached {
        host.tie()?;
    }
    Err(program.exec())
}

/// Enters the working directory, by a way that stays below the container's root: no magic link of `/proc` leads
/// to a directory that came in as an open descriptor (CVE-2024-21626).
pub(super) fn enter_cwd(root: &Root, cwd: &str) -> Result<()> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    let doing = || {
        Fail::usage(format!(
            "cannot enter the directory `{cwd}` of the container"
        ))
        .hint("choose another one: -w DIR")
    };
    let directory = root
        .open(Path::new(cwd), OFlags::PATH | OFlags::DIRECTORY)
        .with_context(doing)?;
    rustix::process::fchdir(directory).with_context(doing)?;
    // What is not below the root has no path: the kernel says `(unreachable)/…` then (getcwd(2)).
    let path = rustix::process::getcwd(Vec::new()).with_context(doing)?;
    if path.as_bytes().first() != Some(&b'/') {
        return Err(Fail::denied(format!("`{cwd}` leads out of the container")).into());
    }
    Ok(())
}
