//! `create`, `start`, `run`, `kill`, `delete`: the operations of runtime.md, "Operations".

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Global;
use super::config::{self, Config};
use super::groups::{self, Made, Place};
use super::state::{self, Container, Record, Status};
use super::translate::{self, Asked};
use crate::cgroup::Group;
use crate::container::foreground::{self, Attended};
use crate::container::state::Process;
use crate::error::Fail;
use crate::spec::oci::{Kind, Listener};
use crate::spec::resources::Resources;
use crate::stage::exact::{hooks, parent};
use crate::sys;
use crate::sys::process::Child;

/// What `create` and `run` are told.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CreateArgs {
    /// The bundle's directory
    #[arg(short, long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Send the terminal's other end to this socket
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Write the process id to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Enter the root by chroot, where pivot_root is not possible
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Pass this many descriptors from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// The container's id
    pub id: String,
}

/// What is asked for, read and checked.
struct Plan {
    record: Record,
    cgroups_path: Option<String>,
}

fn plan(args: &CreateArgs, global: &Global) -> Result<Plan> {
    state::check_id(&args.id)?;
    let config_given = args.bundle.clone().unwrap_or_else(|| PathBuf::from("."));
    let bundle = config::bundle(&config_given)?;
    let config: Config = config::read(Path::new("config.json"))?;
    config.check(&bundle, super::rights())?;
    for name in config
        .process
        .iter()
        .flat_map(config::process::Process::unknown_capabilities)
    {
        global.warn(&format!("process.capabilities: there is no `{name}`"));
    }
    let mut preserve_fds = args.preserve_fds;
    let mut given = config.clone();
    if let Some(count) = activated() {
        // The sockets that systemd passes come first (sd_listen_fds(3)).
        preserve_fds += count;
        if let Some(process) = &mut given.process {
            let env = process.env.get_or_insert_default();
            env.push(format!("LISTEN_FDS={count}"));
            env.push("LISTEN_PID=1".to_owned());
        }
    }
    let asked = Asked {
        id: args.id.clone(),
        bundle,
        preserve_fds,
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        tied: global.attended,
    };
    let spec = translate::container(&given, &asked)?;
    check_terminal(&spec, args, global)?;
    for number in 3..3 + preserve_fds {
        if !Path::new(&format!("/proc/self/fd/{number}")).exists() {
            return Err(
                Fail::usage(format!("--preserve-fds: descriptor {number} is not open")).into(),
            );
        }
    }
    let linux = config.linux();
    Ok(Plan {
        record: Record::new(spec, linux.resources.unwrap_or_default()),
        cgroups_path: linux.cgroups_path,
    })
}

/// How many sockets this process was started with by systemd.
fn activated() -> Option<u32> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let own = rustix::process::getpid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs();
    let count = number("LISTEN_FDS").filter(|count| *count > 0)?;
    (number("LISTEN_PID") == Some(own)).then_some(count)
}

fn check_terminal(
    spec: &crate::spec::ContainerSpec,
    args: &CreateArgs,
    global: &Global,
) -> Result<()> {
    let attended = global.attended;
    if spec.process.tty && args.console_socket.is_none() && !attended {
        return Err(Fail::usage(
            "process.terminal: a socket for the terminal is needed: --console-socket",
        )
        .into());
    }
    if !spec.process.tty && args.console_socket.is_some() {
        return Err(Fail::usage("--console-socket: is of no use without process.terminal").into());
    }
    Ok(())
}

/// The runtime's side while a container is made.
struct Making<'a> {
    global: &'a Global,
    container: &'a mut Container,
    scope: Option<(String, String)>,
    console_socket: Option<&'a Path>,
    console: Option<OwnedFd>,
}

impl parent::Runtime for Making<'_> {
    fn place(&mut self, pid: i32) -> Result<()> {
        if let Some((slice, name)) = &self.scope {
            let resources = &self.container.record.resources;
            self.container.record.place = groups::enter_scope(slice, name, pid, resources)?;
        }
        let record = &self.container.record;
        super::devices::enforce(&record.place, &record.resources)
    }

    fn console(&mut self, console: OwnedFd) -> Result<()> {
        match self.console_socket {
            Some(path) => send_console(path, &console),
            None => {
                self.console = Some(console);
                Ok(())
            }
        }
    }

    fn hooks(&mut self, pid: i32) -> Result<()> {
        self.container.record.process = Some(Process::of(pid)?);
        let oci = self.container.record.spec.oci.clone().unwrap_or_default();
        for (name, device) in &oci.net_devices {
            super::netdev::give(name, device.name.as_deref().unwrap_or(name), pid)
                .with_context(|| format!("linux.netDevices[{name}]: moving it"))?;
        }
        if oci.hooks.prestart.is_empty() && oci.hooks.create_runtime.is_empty() {
            return Ok(());
        }
        self.container.write()?;
        let told = self.container.told(Status::Creating, pid).to_string();
        hooks::run(&oci.hooks.prestart, "prestart", &told)?;
        hooks::run(&oci.hooks.create_runtime, "createRuntime", &told)
    }

    fn notice(&mut self, line: &str) {
        self.global.warn(line);
    }
}

fn send_console(path: &Path, console: &OwnedFd) -> Result<()> {
    let stream = state::connect(path).context("--console-socket")?;
    sys::socket::send_with_fd(&stream, b"/dev/ptmx", console.as_fd()).with_context(|| {
        format!(
            "--console-socket: sending the terminal to `{}`",
            path.display()
        )
    })
}

/// Makes a container. The second value is its process, the third the terminal that was sent nowhere.
fn make(args: &CreateArgs, global: &Global) -> Result<(Container, Child, Option<OwnedFd>)> {
    let plan = plan(args, global)?;
    let mut container = global.store().claim(plan.record)?;
    let mut made_place = Place::default();
    let done = make_claimed(
        args,
        global,
        plan.cgroups_path.as_deref(),
        &mut container,
        &mut made_place,
    );
    match done {
        Ok((child, console)) => Ok((container, child, console)),
        Err(error) => {
            // Its failure says more than what cannot be cleared away.
            let told = container.told(Status::Stopped, 0).to_string();
            let oci = container.record.spec.oci.clone().unwrap_or_default();
            if container.record.process.is_some() {
                hooks::try_all(&oci.hooks.poststop, "poststop", &told, &mut |line| {
                    global.warn(line);
                });
            }
            if container.record.place == Place::default() {
                container.record.place = made_place;
            }
            let _ = container.record.place.remove();
            let _ = container.forget();
            Err(error)
        }
    }
}

fn make_claimed(
    args: &CreateArgs,
    global: &Global,
    cgroups_path: Option<&str>,
    container: &mut Container,
    made_place: &mut Place,
) -> Result<(Child, Option<OwnedFd>)> {
    let listener = container.listen()?;
    let made = groups::make(
        global.maker,
        cgroups_path,
        &args.id,
        &container.record.resources,
        global.tolerant,
    )?;
    let (group, scope): (Option<Group>, _) = match made {
        Made::Group(group, top) => {
            let place = Place {
                path: Some(group.path().to_owned()),
                top: Some(top),
                scope: None,
            };
            container.record.place = place.clone();
            *made_place = place;
            (Some(group), None)
        }
        Made::Scope(slice, name) => (None, Some((slice, name))),
        Made::None => (None, None),
    };
    let order = translate::order(&container.record.spec);
    let oci = container.record.spec.oci.clone().unwrap_or_default();
    let creation = parent::Creation {
        order: &order,
        oci: &oci,
        group: group.as_ref(),
        listener: listener.as_fd(),
    };
    let mut making = Making {
        global,
        container,
        scope,
        console_socket: args.console_socket.as_deref(),
        console: None,
    };
    let child = parent::create(&creation, &mut making)?;
    let console = making.console;
    drop(listener);
    let mut finish = || -> Result<()> {
        container.record.process = Some(Process::of(child.pid.as_raw_nonzero().get())?);
        container.write()?;
        write_pid_file(args.pid_file.as_deref(), &child)
    };
    match finish() {
        Ok(()) => Ok((child, console)),
        Err(error) => {
            child.kill();
            let _ = child.wait(); // it is gone either way
            Err(error)
        }
    }
}

/// The number, written so that a reader sees it whole.
///
/// # Errors
/// The system's.
pub fn write_pid_file(path: Option<&Path>, child: &Child) -> Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    let doing = || format!("--pid-file: writing `{}`", path.display());
    let name = path
        .file_name()
        .ok_or_else(|| Fail::usage(format!("--pid-file: `{}` is no file", path.display())))?;
    let aside = path.with_file_name(format!(".{}", name.to_string_lossy()));
    let mut file = std::fs::File::create(&aside).with_context(doing)?;
    write!(file, "{}", child.pid.as_raw_nonzero()).with_context(doing)?;
    std::fs::rename(&aside, path).with_context(doing)
}

/// `create`.
///
/// # Errors
/// Whatever keeps it from being made; nothing is left then.
pub fn create(args: &CreateArgs, global: &Global) -> Result<()> {
    make(args, global).map(drop)
}

/// `start`.
///
/// # Errors
/// A state in which it cannot be started; what keeps the program from running.
pub fn start(id: &str, global: &Global) -> Result<()> {
    let container = global.store().open(id)?;
    let _lock = container.lock()?;
    start_locked(&container, global)
}

fn start_locked(container: &Container, global: &Global) -> Result<()> {
    let id = &container.record.id;
    match container.status() {
        Status::Created => {}
        Status::Stopped => {
            return Err(Fail::conflict(format!(
                "cannot start a container that has stopped: `{id}`"
            ))
            .into());
        }
        Status::Running | Status::Paused => {
            return Err(Fail::conflict(format!(
                "cannot start an already running container: `{id}`"
            ))
            .into());
        }
        Status::Creating => {
            return Err(Fail::conflict(format!(
                "cannot start a container that is being made: `{id}`"
            ))
            .into());
        }
    }
    let oci = container.record.spec.oci.clone().unwrap_or_default();
    let pid = container.record.process.as_ref().map_or(0, |one| one.pid);
    let stream = container.connect()?;
    let told = |status| container.told(status, pid);
    let begun = parent::start(stream.into(), &mut |fd| {
        tell_listener(
            oci.seccomp_listener.as_ref(),
            &fd,
            pid,
            &told(Status::Created),
        )
    });
    container.started()?;
    if let Err(error) = begun {
        // runtime.md: a program that does not start leaves a stopped container.
        end(container);
        return Err(error);
    }
    if let Err(error) = hooks::run(
        &oci.hooks.poststart,
        "poststart",
        &told(Status::Running).to_string(),
    ) {
        end(container);
        return Err(error);
    }
    let _ = global;
    Ok(())
}

/// Kills pid 1 and waits until it has ended.
fn end(container: &Container) {
    // Without pidfds nothing was started that lives on.
    if let Ok(Some(pidfd)) = container.open_process() {
        let _ = sys::process::signal_pidfd(&pidfd, libc::SIGKILL); // it may just have ended
        wait_for(&pidfd, 10_000);
    }
}

/// Whether the process ends within so many milliseconds.
fn wait_for(pidfd: &OwnedFd, milliseconds: i64) -> bool {
    let mut fds = [rustix::event::PollFd::new(
        pidfd,
        rustix::event::PollFlags::IN,
    )];
    let timeout = rustix::time::Timespec {
        tv_sec: milliseconds / 1000,
        tv_nsec: (milliseconds % 1000) * 1_000_000,
    };
    matches!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1..))
}

/// Sends the descriptor of a filter to who answers it. Source: config-linux.md, "The Container Process State".
///
/// # Errors
/// connect(2), sendmsg(2).
pub fn tell_listener(
    listener: Option<&Listener>,
    fd: &OwnedFd,
    pid: i32,
    state: &serde_json::Value,
) -> Result<()> {
    let listener = listener.ok_or_else(|| Fail::system("a filter that nobody answers"))?;
    let told = serde_json::json!({
        "ociVersion": state["ociVersion"],
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": listener.metadata,
        "state": state,
    });
    let stream = state::connect(&listener.path).context("linux.seccomp.listenerPath")?;
    sys::socket::send_with_fd(&stream, told.to_string().as_bytes(), fd.as_fd())
        .context("linux.seccomp.listenerPath: sending the filter's descriptor")
}

/// What `run` is told beside what `create` is.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub create: CreateArgs,
    /// Return when the program runs
    #[arg(short, long)]
    detach: bool,
    /// Keep the container when its program has ended
    #[arg(long)]
    keep: bool,
    /// Do not become the parent of what the container leaves (accepted, nothing changes)
    #[arg(long)]
    no_subreaper: bool,
}

/// `run`; the program's exit code.
///
/// # Errors
/// As `create` and `start`.
pub fn run(args: &RunArgs, global: &Global) -> Result<u8> {
    let mut global = global.clone();
    global.attended = !args.detach;
    let (container, child, console) = make(&args.create, &global)?;
    let started = {
        let _lock = container.lock()?;
        start_locked(&container, &global)
    };
    if let Err(error) = started {
        child.kill();
        let _ = child.wait(); // it is gone either way
        destroy(&container, &global)?;
        return Err(error);
    }
    if args.detach {
        return Ok(0);
    }
    let code = attend(&child, console)?;
    if !args.keep {
        destroy(&container, &global)?;
    }
    Ok(code)
}

/// Passes signals and the terminal until a program of ours ends; its exit code.
///
/// # Errors
/// The system's.
pub fn attend(child: &Child, console: Option<OwnedFd>) -> Result<u8> {
    if let Some(console) = &console {
        sys::tty::copy_size(std::io::stdin().as_fd(), console.as_fd());
    }
    let interactive = console.is_none() || sys::tty::is_terminal(&std::io::stdin());
    foreground::supervise(Attended {
        child,
        signals: None,
        console,
        interactive,
        sig_proxy: true,
        host: None,
        helper: None,
        membership: None,
        leave: None,
        checks: None,
    })?;
    Ok(child.wait()?.code())
}

/// `kill`.
///
/// # Errors
/// A signal that does not exist; a container that does not run.
pub fn kill(id: &str, signal: &str, all: bool, global: &Global) -> Result<()> {
    let number = sys::signal::number(signal)
        .ok_or_else(|| Fail::usage(format!("unknown signal `{signal}`")))?;
    let container = global.store().open(id)?;
    let status = container.status();
    let shares_pids = container
        .record
        .spec
        .oci
        .as_ref()
        .is_some_and(|oci| oci.namespace(Kind::Pid).is_none());
    if all || (shares_pids && number == libc::SIGKILL) {
        return kill_all(&container, number);
    }
    let process = container
        .open_process()?
        .filter(|_| status != Status::Stopped);
    let Some(pidfd) = process else {
        return Err(Fail::conflict("container not running")
            .hint(format!("`{id}` is {}", status.word()))
            .into());
    };
    sys::process::signal_pidfd(&pidfd, number)?;
    if status == Status::Paused && number == libc::SIGKILL {
        // A frozen process dies when it thaws; of version 2 it dies at once.
        wait_for(&pidfd, 100);
    }
    Ok(())
}

fn kill_all(container: &Container, number: i32) -> Result<()> {
    if let Some(group) = container.record.place.group() {
        return kill_group(&group, number);
    }
    let Some(pidfd) = container.open_process()? else {
        return Ok(());
    };
    let pid = container.record.process.as_ref().map_or(0, |one| one.pid);
    for other in super::processes::of_container(container)? {
        if other != pid
            && let Some(other) = rustix::process::Pid::from_raw(other)
            && let Ok(fd) = rustix::process::pidfd_open(other, rustix::process::PidfdFlags::empty())
        {
            sys::process::signal_pidfd(&fd, number)?;
        }
    }
    Ok(sys::process::signal_pidfd(&pidfd, number)?)
}

fn kill_group(group: &Group, number: i32) -> Result<()> {
    if number == libc::SIGKILL {
        return group.kill();
    }
    for pid in group.processes().unwrap_or_default() {
        if let Some(pid) = rustix::process::Pid::from_raw(pid)
            && let Ok(fd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        {
            sys::process::signal_pidfd(&fd, number)?;
        }
    }
    for child in group.children() {
        kill_group(&child, number)?;
    }
    Ok(())
}

/// `delete`.
///
/// # Errors
/// A container that runs, without `force`.
pub fn delete(id: &str, force: bool, global: &Global) -> Result<()> {
    let store = global.store();
    let container = match store.open(id) {
        Ok(container) => container,
        Err(_) if force && !store.has(id) => return Ok(()),
        Err(error) if force && crate::error::kind(&error) == crate::error::Kind::Corrupt => {
            return store.forget_damaged(id);
        }
        Err(error) => return Err(error),
    };
    let _lock = container.lock()?;
    match container.status() {
        Status::Stopped => {}
        // Nothing of the user's runs yet: runc deletes those too.
        Status::Created => end(&container),
        Status::Creating | Status::Running | Status::Paused if force => {
            if container.status() == Status::Paused
                && let Some(group) = container.record.place.group()
            {
                let _ = group.kill(); // what is frozen dies with its group
            }
            end(&container);
        }
        status @ (Status::Creating | Status::Running | Status::Paused) => {
            return Err(Fail::conflict(format!(
                "cannot delete container `{id}` that is not stopped: {}",
                status.word()
            ))
            .hint(format!(
                "kill it first: rl runtime kill {id} KILL, or use --force"
            ))
            .into());
        }
    }
    destroy(&container, global)
}

/// Removes all that `create` has made, and runs the last hooks.
fn destroy(container: &Container, global: &Global) -> Result<()> {
    let oci = container.record.spec.oci.clone().unwrap_or_default();
    if oci.namespace(Kind::Pid).is_none() && container.record.place.path.is_none() {
        // Who shares the host's processes may have left some.
        let _ = kill_all(container, libc::SIGKILL);
    }
    container.record.place.remove()?;
    container.forget()?;
    let told = container.told(Status::Stopped, 0).to_string();
    hooks::try_all(&oci.hooks.poststop, "poststop", &told, &mut |line| {
        global.warn(line);
    });
    Ok(())
}

/// `pause` and `resume`.
///
/// # Errors
/// Another state than that, no control group.
pub fn freeze(id: &str, stand: bool, global: &Global) -> Result<()> {
    let container = global.store().open(id)?;
    let _lock = container.lock()?;
    let status = container.status();
    let what = if stand { "pause" } else { "resume" };
    match (stand, status) {
        (true, Status::Running | Status::Created) | (false, Status::Paused) => {}
        _ => {
            let why = if stand { "not running" } else { "not paused" };
            return Err(
                Fail::conflict(format!("cannot {what} `{id}`: container {why}"))
                    .hint(format!("it is {}", status.word()))
                    .into(),
            );
        }
    }
    let group = container.record.place.need(what)?;
    if stand { group.freeze() } else { group.thaw() }
}

/// The resources as they are after a change.
///
/// # Errors
/// A state in which nothing can be changed, what the kernel refuses.
pub fn update(id: &str, change: &Resources, global: &Global) -> Result<()> {
    let mut container = global.store().open(id)?;
    let _lock = container.lock()?;
    if container.status() == Status::Stopped {
        return Err(Fail::conflict("container not running").into());
    }
    let settings = crate::cgroup::exact::settings(change)?;
    if settings.is_empty() {
        return Ok(());
    }
    let group = container.record.place.need("update")?;
    if let Some(memory) = &change.memory
        && memory.check_before_update == Some(true)
        && let Some(limit) = memory.limit.filter(|limit| *limit > 0)
        && let Some(used) = group
            .read("memory.current")
            .ok()
            .and_then(|text| text.parse::<i64>().ok())
        && limit < used
    {
        return Err(Fail::conflict(format!(
            "linux.resources.memory.limit: {limit} bytes are less than the {used} that are used"
        ))
        .into());
    }
    crate::cgroup::exact::write(&group, &settings)?;
    super::update::merge(&mut container.record.resources, change);
    container.write()
}
