//! A second program in a running container: with the container's namespaces, user, variables and confinement.
//!
//! Knows the container by `state.json` alone, and writes nothing.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::foreground::{self, Attended};
use super::record::Record;
use super::state::Status;
use super::{group, settle};
use crate::cgroup::{Group, place};
use crate::error::{self, Fail};
use crate::idmap::Plan;
use crate::spec::{ContainerSpec, Seccomp};
use crate::stage::{Visit, confine, parent};
use crate::sys;

/// What is run, and how it differs from the container's own program.
#[derive(Debug, Default)]
pub struct Command {
    /// The words.
    pub words: Vec<String>,
    /// Its whole environment but for the defaults: the container's variables are among them.
    pub env: Vec<String>,
    /// The container's when there is none.
    pub cwd: Option<String>,
    /// The container's when there is none.
    pub user: Option<String>,
    /// A terminal of its own.
    pub tty: bool,
    /// Standard input is the caller's; else `/dev/null`.
    pub interactive: bool,
    /// Nobody waits for it, and its output goes nowhere.
    pub detached: bool,
    /// All capabilities and no filter.
    pub privileged: bool,
    /// How many descriptors from 3 on are passed through.
    pub preserve_fds: u32,
}

/// Runs it and returns its exit code, 0 for a detached one. `spec` is the container's.
///
/// # Errors
/// `Conflict` when the container does not run; what kept the program from starting.
pub fn run(record: &Record, spec: ContainerSpec, command: Command) -> Result<u8> {
    let name = spec.name.clone();
    let state = record.state()?;
    let process = state
        .process
        .clone()
        .filter(|_| state.status == Status::Running)
        .ok_or_else(|| not_running(&name))?;
    let pidfd = process.open().ok_or_else(|| not_running(&name))?;
    let look = || anyhow::Ok((Plan::of(process.pid)?, parent::Inside::of(process.pid)?));
    let looked = look();
    // Alive after the looking: then its number was its own all the time.
    if has_ended(&pidfd)? {
        return Err(not_running(&name).into());
    }
    let (plan, inside) = looked.with_context(|| format!("looking at container `{name}`"))?;
    let detached = command.detached;
    let visit = visit(spec, command, &plan);
    let interactive = visit.spec.process.interactive;
    foreground::check_terminal(&visit.spec.process)?;
    let null = sys::fs::open_trusted(Path::new("/dev/null"), OFlags::RDWR)?;
    let nothing = |none: bool| none.then(|| null.as_fd());
    let stdio = [nothing(!interactive), nothing(detached), nothing(detached)];
    let group = group::of(&record.id, &state);
    if group.as_ref().is_some_and(Group::is_frozen) {
        return Err(Fail::conflict(format!("container `{name}` is paused"))
            .hint(format!("let it go on first: rl unpause {name}"))
            .into());
    }
    let mut joined = parent::join(visit.clone(), &inside, group.as_ref(), stdio);
    if let (Err(error), Some(group)) = (&joined, &group)
        && sys::errno_of(error) == Some(Errno::ACCESS)
    {
        place::come_near(group)?;
        joined = parent::join(visit, &inside, Some(group), stdio);
    }
    let (child, console) = joined.map_err(|error| {
        // What has a name and a remedy explains itself.
        if error::find(&error).is_some() {
            error
        } else if has_ended(&pidfd).unwrap_or(false) {
            not_running(&name).into()
        } else {
            error.context(format!("entering container `{name}`"))
        }
    })?;
    drop(inside);
    if !detached {
        if let Some(console) = &console {
            sys::tty::copy_size(std::io::stdin().as_fd(), console.as_fd());
        }
        let attended = foreground::supervise(Attended {
            child: &child,
            signals: None,
            console,
            interactive,
            sig_proxy: true,
            // With a pid namespace of its own the kernel sees to it.
            host: Some(&pidfd),
        });
        if attended.is_err() {
            child.kill();
        }
        let exit = child.wait();
        attended?;
        return Ok(exit?.code());
    }
    child.wait()?;
    Ok(0)
}

fn not_running(name: &str) -> Fail {
    Fail::conflict(format!("container `{name}` is not running"))
        .hint(format!("start it first: rl start {name}"))
}

/// Whether a process has ended. Source: pidfd_open(2), poll.
fn has_ended(pidfd: &OwnedFd) -> Result<bool> {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let now = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&now)))
        .map(|count| count > 0)
        .context("looking whether the container runs")
}

/// The container with this program in place of its own.
fn visit(mut spec: ContainerSpec, command: Command, plan: &Plan) -> Visit {
    settle(&mut spec, plan);
    let process = &mut spec.process;
    process.entrypoint = None;
    process.command = Some(command.words);
    process.env = command.env;
    if let Some(cwd) = command.cwd {
        process.cwd = cwd;
    }
    if let Some(user) = command.user {
        process.user = user;
    }
    process.tty = command.tty && !command.detached;
    process.interactive = command.interactive && !command.detached;
    process.preserve_fds = command.preserve_fds;
    spec.init = false;
    if command.privileged {
        let confinement = &mut spec.confinement;
        confinement.privileged = true;
        confinement.capabilities = confine::CAPABILITIES.map(str::to_owned).to_vec();
        confinement.seccomp = Seccomp::Unconfined;
        confinement.no_new_privileges = false;
    }
    Visit {
        only_ids: (!plan.is_mapped()).then(|| (plan.uids[0].inner, plan.gids[0].inner)),
        detached: command.detached,
        spec,
    }
}
