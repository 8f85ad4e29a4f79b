//! Pid 1 of a container, before it becomes the user's program: mounts, names, terminal, confinement, exec.
//!
//! It runs from a sealed mount of `rl`'s file, has one thread, and talks to nobody but [`super::parent`].
//! With `--init` it stays: starts the program, passes signals on, reaps.

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::confine::{self, Groups, Identity};
use super::{Order, ToHost, ToStage, rootfs, user};
use crate::error::{self, Fail, Kind};
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
}

impl Host {
    /// The end that was passed as descriptor `fd`.
    ///
    /// # Errors
    /// When it is not open: somebody else started this process.
    pub fn from_inherited(fd: RawFd) -> Result<Self> {
        let channel = Channel::from_fd(sys::process::inherited(fd)?);
        Ok(Self {
            channel: Some(channel),
            mapped: false,
            network_ready: false,
            root: None,
        })
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

    /// Whether the parent is still there to die with: in a pid namespace of its own a process cannot ask.
    fn check_alive(&mut self) -> Result<()> {
        let channel = self.channel()?;
        let mut fds = [PollFd::new(channel, PollFlags::empty())];
        let now = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match rustix::event::poll(&mut fds, Some(&now)) {
            Ok(0) | Err(Errno::INTR) => Ok(()),
            Ok(_) | Err(_) => Err(Fail::system("the parent is gone").into()),
        }
    }

    fn channel(&mut self) -> Result<&mut Channel> {
        self.channel
            .as_mut()
            .ok_or_else(|| Fail::system("the conversation is over").into())
    }

    fn wait_until(&mut self, arrived: impl Fn(&Self) -> bool) -> Result<()> {
        while !arrived(self) {
            match self.hear()? {
                ToStage::Mapped => self.mapped = true,
                ToStage::NetworkReady => self.network_ready = true,
                ToStage::RootMounted { path } => self.root = Some(path),
                ToStage::Start(_) | ToStage::Work(_) => {
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
    let ToStage::Start(order) = host.hear()? else {
        return Err(Fail::system("no order").into());
    };
    let spec = &order.spec;
    if let Some(offsets) = spec.namespaces.time {
        enter_time(offsets)?;
    }
    sys::mount::make_all_slave()?;
    // Before: the kernel answers EACCES to an overlay whose owner has no id yet.
    host.wait_mapped()?;
    let mut notices = Vec::new();
    let root = rootfs::mount_root(&order.root, order.driver, &mut notices, |why| {
        overlay_refused(host, why)
    })
    .context("mounting the root file system")?;
    for notice in notices {
        host.say(&ToHost::Notice(notice), None)?;
    }
    if let Some((uid, gid)) = order.become_ids {
        sys::process::become_ids(uid, gid)?;
    }
    rustix::process::umask(Mode::empty());
    name_host(&order)?;
    if order.raise_loopback {
        sys::net::raise_loopback()?;
    }
    rootfs::execute(&rootfs::ops(&order), &root)?;
    let terminal = if spec.process.tty {
        Some(open_terminal(host, &root)?)
    } else {
        None
    };
    let identity = who(&order, &root)?;
    make_cwd(&spec.process, &root)?;
    if spec.read_only {
        rootfs::execute(&[rootfs::Op::ProtectRoot], &root)?;
    }
    sys::mount::pivot(root.as_fd())?;
    drop(root);
    enter_cwd(&spec.process)?;
    if order.wait_for_network {
        host.wait_until(|host| host.network_ready)?;
    }
    let env = environment(&order, &identity);
    let args = spec.process.args();
    let program = Program {
        path: find_program(&args[0], &env)?,
        argv: c_strings(&args)?,
        env: c_strings(&env)?,
    };
    rustix::process::umask(Mode::from_raw_mode(spec.process.umask));
    if let Some(terminal) = &terminal {
        // With --init the program's own process takes the terminal; without, this one is the program's.
        if !spec.init {
            sys::tty::control(terminal.as_fd())?;
        }
        take_stdio(terminal)?;
    }
    drop(terminal);
    sys::process::close_on_exec_from(3 + i32::try_from(spec.process.preserve_fds).unwrap_or(0))?;
    let ids = Identity {
        uid: identity.user.uid,
        gid: identity.user.gid,
        groups: identity.groups.clone(),
    };
    confine::apply(&spec.confinement, &ids)?;
    // A change of ids has taken it away (PR_SET_PDEATHSIG(2const)).
    sys::process::die_with_parent(libc::SIGKILL)?;
    host.check_alive()?;
    if spec.init {
        return stay(host, &program, spec.process.tty);
    }
    sys::process::reset_signals();
    Err(not_started(
        &program,
        &sys::process::exec(&program.path, &program.argv, &program.env),
    ))
}

/// What is executed.
struct Program {
    path: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
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

fn overlay_refused(host: &mut Host, why: &str) -> Result<PathBuf> {
    host.say(
        &ToHost::OverlayRefused {
            why: why.to_owned(),
        },
        None,
    )?;
    host.wait_until(|host| host.root.is_some())?;
    host.root
        .take()
        .ok_or_else(|| Fail::system("no root").into())
}

fn name_host(order: &Order) -> Result<()> {
    let spec = &order.spec;
    if spec.namespaces.uts != Namespace::Private {
        return Ok(());
    }
    if let Some(name) = &spec.hostname {
        nix::unistd::sethostname(name)
            .with_context(|| format!("setting the host name `{name}`"))?;
    }
    if let Some(name) = &spec.domainname {
        sys::process::set_domain_name(name)?;
    }
    Ok(())
}

fn open_terminal(host: &mut Host, root: &Root) -> Result<OwnedFd> {
    let doing = "opening a terminal";
    let master = root
        .open(Path::new("/dev/pts/ptmx"), OFlags::RDWR | OFlags::NOCTTY)
        .context(doing)?;
    sys::tty::unlock(master.as_fd()).context(doing)?;
    let terminal = sys::tty::peer(master.as_fd()).context(doing)?;
    rootfs::bind_console(root, terminal.as_fd()).context("binding /dev/console")?;
    host.say(&ToHost::Console, Some(&master))?;
    Ok(terminal)
}

fn take_stdio(terminal: &OwnedFd) -> Result<()> {
    let doing = "giving the program its terminal";
    rustix::stdio::dup2_stdin(terminal).context(doing)?;
    rustix::stdio::dup2_stdout(terminal).context(doing)?;
    rustix::stdio::dup2_stderr(terminal).context(doing)
}

/// The program's user, and how its groups are set.
struct Who {
    user: user::User,
    groups: Groups,
}

fn who(order: &Order, root: &Root) -> Result<Who> {
    let process = &order.spec.process;
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
    if let Some((uid, gid)) = order.only_ids {
        if user.uid != uid {
            return Err(Fail::unsupported(format!(
                "cannot run as user {} of the container: only one user id is available, {uid}",
                user.uid
            ))
            .hint(format!("run as that one: -u {uid}"))
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

fn make_cwd(process: &Process, root: &Root) -> Result<()> {
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

/// The program's environment: docker's defaults, then the image's and the user's; the last of a name wins.
fn environment(order: &Order, who: &Who) -> Vec<String> {
    let process = &order.spec.process;
    let mut env =
        vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    if process.tty {
        env.push("TERM=xterm".to_owned());
    }
    env.push("container=rl".to_owned());
    if let Some(name) = &order.spec.hostname {
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

/// The file that `name` means, searched in the container's `PATH`, as execvp(3) does.
fn find_program(name: &str, env: &[String]) -> Result<CString> {
    let not_found = |message: String| -> anyhow::Error {
        Fail::new(Kind::CommandNotFound, message)
            .hint("check the spelling, and that the image contains it")
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
    let path = env
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default();
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

fn not_started(program: &Program, error: &sys::Error) -> anyhow::Error {
    let shown = program.path.to_string_lossy().into_owned();
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

/// `--init`: starts the program, passes signals on, reaps what is left to pid 1, ends when the program ends.
fn stay(host: &mut Host, program: &Program, tty: bool) -> Result<Exit> {
    let signals = sys::signal::Queue::all()?;
    let Some(child) = sys::process::fork()? else {
        if tty {
            sys::tty::control(std::io::stdin().as_fd())?;
        }
        sys::process::reset_signals();
        return Err(not_started(
            program,
            &sys::process::exec(&program.path, &program.argv, &program.env),
        ));
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
