//! A second program in a running container: with the container's namespaces, user, variables and confinement.
//!
//! Knows the container by `state.json` alone, and writes nothing.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::events::Event;
use super::foreground::{self, Attended, Leave};
use super::record::Record;
use super::state::Status;
use super::watch::Keys;
use super::{emit, emulation, group, new_id, settle};
use crate::cgroup::{Group, scope};
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
    /// The keys that leave it, with a terminal; none when empty.
    pub detach_keys: Vec<u8>,
}

/// Runs it and returns its exit code, 0 for a detached one. `spec` is the container's.
///
/// # Errors
/// `Conflict` when the container does not run; what kept the program from starting.
pub fn run(record: &Record, spec: ContainerSpec, command: Command) -> Result<u8> {
    let name = spec.name.clone();
    if command.privileged && spec.egress.is_some() {
        return Err(Fail::usage(format!(
            "--privileged would undo the --egress rules of container `{name}`"
        ))
        .into());
    }
    let state = record.state()?;
    let process = state
        .process
        .clone()
        .filter(|_| state.status == Status::Running)
        .ok_or_else(|| not_running(&name))?;
    let pidfd = process.open()?.ok_or_else(|| not_running(&name))?;
    let look = || anyhow::Ok((Plan::of(process.pid)?, parent::Inside::of(process.pid)?));
    let looked = look();
    // Alive after the looking: then its number was its own all the time. One that is about to end has no namespaces any more.
    let is_ending = matches!(&looked, Err(error) if sys::errno_of(error) == Some(Errno::NOENT));
    if is_ending || has_ended(&pidfd)? {
        return Err(not_running(&name).into());
    }
    let (plan, inside) = looked.with_context(|| format!("looking at container `{name}`"))?;
    let (detached, keys) = (command.detached, command.detach_keys.clone());
    let told = Told::new(&spec, &command.words)?;
    let visit = visit(spec, command, &plan);
    let interactive = visit.spec.process.interactive;
    foreground::check_terminal(&visit.spec.process)?;
    told.tell(record, "exec_create: ");
    let mut background = None;
    if visit.spec.process.tty && interactive && !keys.is_empty() {
        match Background::fork()? {
            Fork::Front(code) => return Ok(code),
            Fork::Keeper(keeper) => background = Some(keeper),
        }
    }
    let null = sys::fs::open_trusted(Path::new("/dev/null"), OFlags::RDWR)?;
    let nothing = |none: bool| none.then(|| null.as_fd());
    let stdio = [nothing(!interactive), nothing(detached), nothing(detached)];
    let group = group::of(&record.id, &state);
    if group.as_ref().is_some_and(Group::is_frozen) {
        return Err(Fail::conflict(format!("container `{name}` is paused"))
            .hint(format!("let it go on first: rl unpause {name}"))
            .into());
    }
    // From here on a signal is the program's, also one that comes before the program can be told.
    let signals = (!detached).then(sys::signal::Queue::all).transpose()?;
    let mut joined = parent::join(visit.clone(), &inside, group.as_ref(), stdio);
    if let (Err(error), Some(group)) = (&joined, &group)
        && sys::errno_of(error) == Some(Errno::ACCESS)
    {
        scope::come_near(group)?;
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
    told.tell(record, "exec_start: ");
    if !detached {
        if let Some(console) = &console {
            sys::tty::copy_size(std::io::stdin().as_fd(), console.as_fd());
        }
        let mut go = || background.take().map_or(Ok(()), Background::go);
        let attended = foreground::supervise(Attended {
            child: &child,
            signals,
            console,
            interactive,
            sig_proxy: true,
            // With a pid namespace of its own the kernel sees to it.
            host: Some(&pidfd),
            membership: None,
            helper: None,
            leave: Some(Leave {
                keys: Keys::new(keys),
                go: &mut go,
            }),
            checks: None,
        });
        if attended.is_err() {
            child.kill();
        }
        let exit = child.wait();
        if let Ok(exit) = &exit {
            told.ended(record, exit.code());
        }
        attended?;
        return Ok(exit?.code());
    }
    child.wait()?;
    Ok(0)
}

/// What those who watch `rl events` get. Source: moby, `daemon/exec.go`.
struct Told {
    event: Event,
    words: String,
}

impl Told {
    fn new(spec: &ContainerSpec, words: &[String]) -> Result<Self> {
        Ok(Self {
            event: Event::container(String::new(), spec).with("execID", &new_id()?),
            words: words.join(" "),
        })
    }

    fn tell(&self, record: &Record, action: &str) {
        let mut event = self.event.clone();
        event.action = format!("{action}{}", self.words);
        emit(record.store(), &event);
    }

    fn ended(&self, record: &Record, code: u8) {
        let mut event = self.event.clone().with("exitCode", &code);
        "exec_die".clone_into(&mut event.action);
        emit(record.store(), &event);
    }
}

/// The process that goes on with the program when the user leaves: the shell waits for another one, which ends then.
/// It is the program's parent, which a process that came later could not be.
struct Background {
    news: OwnedFd,
}

/// Which of the two this is.
enum Fork {
    /// The one that the shell waits for, at its end.
    Front(u8),
    /// The other one, at its beginning.
    Keeper(Background),
}

impl Background {
    /// Returns in the keeper at once, and in front when that has ended or the user leaves.
    fn fork() -> Result<Fork> {
        let (read, news) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("making a pipe")?;
        let front = rustix::process::getpid();
        let Some(keeper) = sys::process::fork()? else {
            drop(read);
            sys::process::die_with_parent()?;
            if rustix::process::getppid() != Some(front) {
                sys::process::exit_now(125);
            }
            return Ok(Fork::Keeper(Self { news }));
        };
        drop(news);
        let signals = sys::signal::Queue::all()?;
        loop {
            let mut fds = [
                PollFd::new(&signals, PollFlags::IN),
                PollFd::new(&read, PollFlags::IN),
            ];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(sys::Error::new("poll()", errno).into()),
            }
            let [signal, news] = fds.map(|fd| !fd.revents().is_empty());
            if signal {
                let signal = signals.wait()?;
                // What the terminal sends has reached the keeper by itself.
                if signal.number != libc::SIGCHLD && !signal.from_kernel {
                    keeper.signal(signal.number)?;
                }
            }
            if news {
                let mut byte = [0_u8];
                let left = rustix::io::retry_on_intr(|| rustix::io::read(&read, &mut byte));
                if left.is_ok_and(|length| length > 0) {
                    return Ok(Fork::Front(0));
                }
                return Ok(Fork::Front(keeper.wait()?.code()));
            }
        }
    }

    /// Goes on without the user, their terminal, and the process in front.
    fn go(self) -> Result<()> {
        let doing = "going on in the background";
        rustix::process::set_parent_process_death_signal(None).context(doing)?;
        rustix::process::setsid().context(doing)?;
        let null = sys::fs::open_trusted(Path::new("/dev/null"), OFlags::RDWR)?;
        rustix::stdio::dup2_stdin(&null).context(doing)?;
        rustix::stdio::dup2_stdout(&null).context(doing)?;
        rustix::stdio::dup2_stderr(&null).context(doing)?;
        rustix::io::write(&self.news, b"L").context(doing)?;
        Ok(())
    }
}

/// What is said of one that does not run.
pub fn not_running(name: &str) -> Fail {
    Fail::conflict(format!("container `{name}` is not running"))
        .hint(format!("start it first: rl start {name}"))
}

/// Whether a process has ended. Source: pidfd_open(2), poll.
///
/// # Errors
/// The system's.
pub fn has_ended(pidfd: &OwnedFd) -> Result<bool> {
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
        emulation: emulation::of(&spec, plan),
        detached: command.detached,
        spec,
    }
}
