//! Pid 1 of a container, before it becomes the user's program: mounts, names, terminal, confinement, exec.
//!
//! It runs from a sealed mount of `rl`'s file, has one thread, and talks to nobody but [`super::parent`].
//! With `--init` it stays: starts the program, passes signals on, reaps.

use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::program::{self, Program};
use super::{Order, ToHost, ToStage, confine, exact, root, rootfs};
use crate::error::{self, Fail};
use crate::net::egress;
use crate::spec::{Namespace, Process, TimeOffsets};
use crate::sys;
use crate::sys::fs::Root;
use crate::sys::process::Exit;
use crate::sys::socket::Channel;

/// The conversation with the parent.
#[derive(Debug)]
pub struct Host {
    /// None when the conversation is over.
    channel: Option<Channel>,
    mapped: bool,
    network_ready: bool,
    root: Option<PathBuf>,
    squash: bool,
    /// Id-mapped sources of mounts, by their positions.
    pub trees: Vec<(usize, OwnedFd)>,
    hooks_done: Option<i32>,
}

impl Host {
    /// The end that a descriptor is.
    #[must_use]
    pub fn from_channel(channel: Channel) -> Self {
        Self {
            channel: Some(channel),
            mapped: false,
            network_ready: false,
            root: None,
            squash: false,
            trees: Vec::new(),
            hooks_done: None,
        }
    }

    /// The end that was passed as descriptor `fd`.
    ///
    /// # Errors
    /// When it is not open: somebody else started this process.
    pub fn from_inherited(fd: RawFd) -> Result<Self> {
        let channel = Channel::from_fd(sys::process::inherited(fd)?);
        Ok(Self::from_channel(channel))
    }

    /// Says something.
    ///
    /// # Errors
    /// When the parent is gone.
    pub fn say(&mut self, message: &ToHost, fd: Option<&OwnedFd>) -> Result<()> {
        let text = serde_json::to_vec(message).context("writing a message")?;
        self.channel()?
            .send(&text, fd.map(|fd| fd.as_fd()))
            .context("talking to the parent")
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// When the parent is gone.
    pub fn hear(&mut self) -> Result<ToStage> {
        self.hear_with_fd().map(|(message, _)| message)
    }

    /// As [`Host::hear`], with the descriptor that came along.
    ///
    /// # Errors
    /// When the parent is gone.
    pub fn hear_with_fd(&mut self) -> Result<(ToStage, Option<OwnedFd>)> {
        let (message, fd) = self
            .channel()?
            .receive()
            .context("listening to the parent")?
            .ok_or_else(|| Fail::system("the parent is gone"))?;
        let message = serde_json::from_slice(&message).context("reading a message")?;
        Ok((message, fd))
    }

    /// Dies with the host's side from now on. Becoming another user has undone what the start had set.
    ///
    /// # Errors
    /// When the host's side is gone already.
    pub fn tie(&self) -> Result<()> {
        // A filter of the user's may refuse the call: the program then outlives a command that is killed.
        let _ = sys::process::die_with_parent();
        let Some(channel) = &self.channel else {
            return Ok(());
        };
        let mut fds = [PollFd::new(channel, PollFlags::RDHUP)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match rustix::event::poll(&mut fds, Some(&now)) {
            Ok(1..) => Err(Fail::system("the parent is gone").into()),
            // The same filter may refuse this call too.
            Ok(0) | Err(_) => Ok(()),
        }
    }

    /// Closes the conversation: another process goes on with it.
    pub fn leave(&mut self) {
        self.channel = None;
    }

    fn channel(&mut self) -> Result<&mut Channel> {
        self.channel
            .as_mut()
            .ok_or_else(|| Fail::system("the conversation is over").into())
    }

    fn wait_until(&mut self, arrived: impl Fn(&Self) -> bool) -> Result<()> {
        while !arrived(self) {
            let (message, fd) = self.hear_with_fd()?;
            match message {
                ToStage::Mapped => self.mapped = true,
                ToStage::HooksDone { pid } => self.hooks_done = Some(pid),
                ToStage::Tree { at } => self.trees.extend(fd.map(|fd| (at, fd))),
                ToStage::NetworkReady => self.network_ready = true,
                ToStage::RootMounted { path } => self.root = Some(path),
                ToStage::SquashMounted => self.squash = true,
                ToStage::Start(_)
                | ToStage::Work(_)
                | ToStage::Join(_)
                | ToStage::Emulate(_)
                | ToStage::Descriptor => {
                    return Err(Fail::system("a second order").into());
                }
            }
        }
        Ok(())
    }

    /// Waits until the ids are mapped.
    ///
    /// # Errors
    /// When the parent is gone.
    pub fn wait_mapped(&mut self) -> Result<()> {
        self.wait_until(|host| host.mapped)
    }

    /// Waits until the runtime's hooks have run; the number of this process as the runtime sees it.
    ///
    /// # Errors
    /// When the parent is gone.
    pub fn wait_hooks(&mut self) -> Result<i32> {
        self.wait_until(|host| host.hooks_done.is_some())?;
        Ok(self.hooks_done.unwrap_or(0))
    }
}

/// The whole of it. Leaves by `_exit` or becomes the program.
pub fn main(fd: RawFd) -> ! {
    let Ok(mut host) = Host::from_inherited(fd) else {
        sys::process::exit_now(125)
    };
    let failed = match run(&mut host) {
        Ok(exit) => sys::process::exit_now(i32::from(exit.code())),
        Err(error) => error,
    };
    let fail = error::flatten(&failed);
    let code = i32::from(fail.kind.exit_code());
    let _ = host.say(&ToHost::Failed(fail), None); // nobody left to tell
    sys::process::exit_now(code)
}

fn run(host: &mut Host) -> Result<Exit> {
    let (ToStage::Start(order), listener) = host.hear_with_fd()? else {
        return Err(Fail::system("no order").into());
    };
    let spec = &order.spec;
    if let Some(oci) = &spec.oci {
        return exact::init::run(host, &order, oci, listener);
    }
    // First: the helper comes up meanwhile.
    let is_ahead = match &order.ahead {
        Some(link) => {
            // What cannot be had is the helper's to make, as everywhere else; it says why if it cannot either.
            let made = link.make().is_ok();
            host.say(&ToHost::LinkMade(made), None)?;
            made
        }
        None => false,
    };
    if let Some(offsets) = spec.namespaces.time {
        enter_time(offsets)?;
    }
    if order.own_group && spec.namespaces.cgroup == Namespace::Private {
        sys::process::unshare(libc::CLONE_NEWCGROUP)?;
    }
    sys::mount::make_all_slave()?;
    // What needs no ids goes on beside those who map them.
    if order.raise_loopback {
        sys::net::raise_loopback()?;
    }
    if let Some(notice) = name_host(&order)? {
        host.say(&ToHost::Notice(notice), None)?;
    }
    // Before: the kernel answers EACCES to an overlay whose owner has no id yet.
    host.wait_mapped()?;
    let mut notices = Vec::new();
    let inside = root::mount_root(&order.root, order.driver, &mut notices, |need| {
        ask_for(host, &need, None)
    })
    .context("mounting the root file system")?;
    for (position, layered) in order.layered.iter().enumerate() {
        root::mount_layered(layered, &inside, order.driver, |need| {
            ask_for(host, &need, Some(position))
        })
        .with_context(|| format!("mounting `{}`", layered.target))?;
    }
    let root = inside;
    for notice in notices {
        host.say(&ToHost::Notice(notice), None)?;
    }
    if let Some((uid, gid)) = order.become_ids {
        sys::process::become_ids(uid, gid)?;
    }
    rustix::process::umask(Mode::empty());
    if let Some(rules) = &order.egress {
        egress::close(rules)?;
    }
    rootfs::execute(&rootfs::ops(&order), &root)?;
    rootfs::add_drop_ins(&order, &root, |notice| {
        host.say(&ToHost::Notice(notice), None)
    })?;
    let terminal = if spec.process.tty {
        Some(open_terminal(host, &root)?)
    } else {
        None
    };
    let who = program::who(
        &spec.process,
        order.emulation.as_ref(),
        order.only_ids,
        &root,
    )?;
    // Whom there is, in the kernel's eyes.
    let (uid, gid) = who.real(order.emulation.as_ref());
    rootfs::give_away(&order, &root, uid, gid)?;
    make_cwd(&spec.process, &root)?;
    if spec.read_only {
        rootfs::execute(&[rootfs::Op::ProtectRoot], &root)?;
    }
    sys::mount::pivot(root.as_fd())?;
    drop(root);
    enter_cwd(&spec.process)?;
    if order.wait_for_network && !is_ahead {
        host.wait_until(|host| host.network_ready)?;
    }
    let program = Program::find(spec, &program::environment(spec, &who))?;
    rustix::process::umask(Mode::from_raw_mode(spec.process.umask));
    if let Some(terminal) = &terminal {
        // With --init the program's own process takes the terminal; without, this one is the program's.
        if !spec.init {
            sys::tty::control(terminal.as_fd())?;
        }
        program::take_stdio(terminal)?;
    }
    drop(terminal);
    sys::process::close_on_exec_from(3 + i32::try_from(spec.process.preserve_fds).unwrap_or(0))?;
    confine::apply(
        &spec.confinement,
        &who.identity(),
        order.emulation.as_ref(),
        &mut |listener| host.say(&ToHost::EmulationWanted, Some(&listener)),
    )?;
    host.tie()?;
    if spec.init {
        return stay(host, &program, spec.process.tty);
    }
    Err(program.exec())
}

fn enter_time(offsets: TimeOffsets) -> Result<()> {
    let doing = "setting the clocks of a new time namespace";
    sys::process::unshare(libc::CLONE_NEWTIME).map_err(|error| {
        anyhow::Error::from(error).context(
            Fail::unsupported("this kernel has no time namespaces")
                .hint("Linux 5.6 or later is needed for --time-offset"),
        )
    })?;
    let text = format!(
        "monotonic {} 0\nboottime {} 0\n",
        offsets.monotonic_s, offsets.boottime_s
    );
    std::fs::write("/proc/self/timens_offsets", text).map_err(|error| {
        anyhow::Error::from(error).context(
            Fail::usage("the kernel refuses these time offsets")
                .hint("a clock may not become negative, nor go beyond about 146 years"),
        )
    })?;
    // The new namespace is for children until it is joined (time_namespaces(7)).
    let namespace =
        sys::fs::open_trusted(Path::new("/proc/self/ns/time_for_children"), OFlags::RDONLY)
            .context(doing)?;
    sys::process::setns(namespace.as_fd(), libc::CLONE_NEWTIME).context(doing)
}

fn ask_for(host: &mut Host, need: &root::Need<'_>, which: Option<usize>) -> Result<PathBuf> {
    let why = match need {
        root::Need::Squash(squash) => {
            host.say(&ToHost::SquashWanted { which }, None)?;
            host.squash = false;
            host.wait_until(|host| host.squash || host.root.is_some())?;
            return Ok(host.root.take().unwrap_or_else(|| squash.mount.clone()));
        }
        root::Need::Root { why } => (*why).to_owned(),
    };
    host.say(&ToHost::OverlayRefused { why, which }, None)?;
    host.wait_until(|host| host.root.is_some())?;
    host.root
        .take()
        .ok_or_else(|| Fail::system("no root").into())
}

/// What could not be done is a line for the user.
pub(super) fn name_host(order: &Order) -> Result<Option<String>> {
    let spec = &order.spec;
    if spec.namespaces.uts != Namespace::Private {
        return Ok(None);
    }
    if let Some(name) = &spec.hostname {
        match nix::unistd::sethostname(name) {
            // The namespace is ours: only a filter of what this runs in refuses. Files inside have the name.
            Err(nix::errno::Errno::EPERM) => {
                return Ok(Some(format!(
                    "the host name cannot be set, for an outer container forbids it: sethostname({name:?}): EPERM: keeping that of this machine (rl explain RL-U05)"
                )));
            }
            done => done.with_context(|| format!("setting the host name `{name}`"))?,
        }
    }
    if let Some(name) = &spec.domainname {
        sys::namespace::set_domain_name(name)?;
    }
    Ok(None)
}

/// A new terminal from the container's own devpts; the host gets the other end.
pub(super) fn open_terminal(host: &mut Host, root: &Root) -> Result<OwnedFd> {
    let (master, terminal) = program::new_terminal(root)?;
    rootfs::bind_console(root, terminal.as_fd()).context("binding /dev/console")?;
    host.say(&ToHost::Console, Some(&master))?;
    Ok(terminal)
}

pub(super) fn make_cwd(process: &Process, root: &Root) -> Result<()> {
    if process.cwd.is_empty() {
        return Ok(());
    }
    let made = root.make_dir_all(Path::new(&process.cwd), Mode::from_raw_mode(0o755));
    made.map(drop).map_err(|error| {
        let message = format!(
            "working directory `{}` cannot be made in the container",
            process.cwd
        );
        anyhow::Error::from(error).context(Fail::usage(message))
    })
}

fn enter_cwd(process: &Process) -> Result<()> {
    if process.cwd.is_empty() {
        return Ok(());
    }
    rustix::process::chdir(process.cwd.as_str())
        .with_context(|| format!("entering the working directory `{}`", process.cwd))
}

/// `--init`: starts the program, passes signals on, reaps what is left to pid 1, ends when the program ends.
fn stay(host: &mut Host, program: &Program, tty: bool) -> Result<Exit> {
    let signals = sys::signal::Queue::all()?;
    let Some(child) = sys::process::fork()? else {
        if tty {
            sys::tty::control(std::io::stdin().as_fd())?;
        }
        return Err(program.exec());
    };
    // The conversation ends when the program runs: only the child may keep it open until then.
    host.channel = None;
    loop {
        let signal = signals.wait()?;
        if signal.number == libc::SIGCHLD {
            if let Some(exit) = reap(child.pid) {
                return Ok(exit);
            }
        } else if !signal.from_kernel {
            child.signal(signal.number)?;
        }
    }
}

/// Reaps whatever has ended; the exit of `program` when it is among them.
fn reap(program: rustix::process::Pid) -> Option<Exit> {
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == program => {
                let code = status
                    .exit_status()
                    .and_then(|code| u8::try_from(code).ok());
                let signal = status.terminating_signal();
                return Some(match (code, signal) {
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => continue,
                });
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// For messages: which descriptor the conversation has when `preserved` are passed through.
#[must_use]
pub fn socket_number(preserved: u32) -> RawFd {
    3 + i32::try_from(preserved).unwrap_or(0)
}
