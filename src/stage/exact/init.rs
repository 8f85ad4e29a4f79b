//! Pid 1 of a container that a `config.json` describes: everything up to the start, the wait for it, and the program.
//!
//! The order is that of the OCI runtime specification, runtime.md, "Lifecycle".

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::init::{self, Host};
use super::super::program::{self, Program};
use super::super::{Order, RootPlan, ToHost, confine, join, root, rootfs, user};
use super::{devices, hooks, mounts};
use crate::error::Fail;
use crate::spec::oci::{self, Kind, Oci, Propagation};
use crate::spec::{ContainerSpec, Process};
use crate::stage::confine::{Groups, Identity};
use crate::sys;
use crate::sys::fs::Root;
use crate::sys::mount::Recursive;
use crate::sys::process::Exit;
use crate::sys::socket::Channel;

/// What the container's root gets where nothing is said: `rslave`, as every runtime has it.
const SLAVE: Propagation = Propagation {
    flag: 1 << 19,
    recursive: true,
};

/// Returns only what went wrong, or how it was ended before its start.
///
/// # Errors
/// Whatever the configuration asks for and the kernel refuses.
pub fn run(host: &mut Host, order: &Order, oci: &Oci, listener: Option<OwnedFd>) -> Result<Exit> {
    let spec = &order.spec;
    let listener =
        UnixListener::from(listener.ok_or_else(|| Fail::system("no socket to wait on"))?);
    if oci.makes(Kind::Time) {
        enter_time(oci)?;
    }
    if oci.makes(Kind::Cgroup) {
        sys::process::unshare(libc::CLONE_NEWCGROUP)?;
    }
    host.wait_mapped()?;
    if let Some((uid, gid)) = order.become_ids {
        match sys::process::become_ids(uid, gid) {
            // A map without root: whoever we are has all capabilities there too.
            Err(error) if error.errno == Errno::INVAL => {}
            done => done?,
        }
    }
    rustix::process::umask(Mode::empty());
    if !oci.no_new_keyring {
        new_keyring(host, spec)?;
    }
    if let Some(line) = init::name_host(order)? {
        host.say(&ToHost::Notice(line), None)?;
    }
    if order.raise_loopback {
        sys::net::raise_loopback()?;
    }
    let root = mount_root(order, oci)?;
    mounts::all(oci, &root, std::mem::take(&mut host.trees))?;
    if !devices::are_the_hosts(oci) {
        devices::make(oci, &root)?;
    }
    for (name, value) in &spec.confinement.sysctls {
        sysctl(name, value)?;
    }
    init::make_cwd(&spec.process, &root)?;
    let terminal = if spec.process.tty {
        let terminal = init::open_terminal(host, &root)?;
        if let Some(size) = oci.console_size {
            sys::tty::set_size(terminal.as_fd(), size.height, size.width);
        }
        Some(terminal)
    } else {
        None
    };
    let mut paths = Vec::new();
    let confinement = &spec.confinement;
    for target in confinement.read_only_paths.iter().cloned() {
        paths.push(rootfs::Op::Protect { target });
    }
    for target in confinement.masked_paths.iter().cloned() {
        paths.push(rootfs::Op::Mask { target });
    }
    rootfs::execute(&paths, &root)?;
    host.say(&ToHost::Hooks, None)?;
    let pid = host.wait_hooks()?;
    let state = |status: &str| state(spec, oci, status, pid);
    hooks::run(
        &oci.hooks.create_container,
        "createContainer",
        &state("creating"),
    )?;
    if spec.read_only {
        rootfs::execute(&[rootfs::Op::ProtectRoot], &root)?;
    }
    enter_root(oci, &root)?;
    drop(root);
    let root = Root::open_trusted(Path::new("/"))?;
    join::enter_cwd(&root, &spec.process.cwd)?;
    let home = home(&root, oci.user.uid);
    drop(root);
    let env = environment(&spec.process, &home);
    let program = Program::find(spec, &env)?;
    program.check()?;
    session(terminal.as_ref())?;
    own_streams(oci.user.uid);
    drop(terminal);
    treat(oci)?;
    confine::limits(&spec.confinement)?;
    host.say(&ToHost::Created, None)?;
    host.leave();
    if let Some(exit) = wait_for_start(host, &listener)? {
        return Ok(exit);
    }
    hooks::run(
        &oci.hooks.start_container,
        "startContainer",
        &state("created"),
    )?;
    become_program(host, spec, oci, &program, oci.tied)
}

/// The last steps, which no file system is needed for.
///
/// # Errors
/// What keeps the program from running.
pub(super) fn become_program(
    host: &mut Host,
    spec: &ContainerSpec,
    oci: &Oci,
    program: &Program,
    tied: bool,
) -> Result<Exit> {
    rustix::process::umask(Mode::from_raw_mode(spec.process.umask));
    sys::process::close_on_exec_from(3 + i32::try_from(spec.process.preserve_fds).unwrap_or(0))?;
    if let Some(profile) = &oci.apparmor {
        apparmor(profile)?;
    }
    let identity = identity(oci);
    if oci.seccomp_listener.is_some() {
        let mut answer = |fd: OwnedFd| host.say(&ToHost::Listener, Some(&fd));
        confine::apply_answered(&spec.confinement, &identity, &mut answer)?;
    } else {
        confine::apply(&spec.confinement, &identity, None, &mut |_| {
            Err(Fail::system("a filter asks, and nobody answers").into())
        })?;
    }
    if tied {
        host.tie()?;
    }
    Err(program.exec())
}

fn identity(oci: &Oci) -> Identity {
    // Where setgroups(2) is denied, the groups are the caller's (user_namespaces(7)); none were asked for.
    let denied = std::fs::read_to_string("/proc/self/setgroups")
        .is_ok_and(|text| text.trim() == "deny")
        && oci.user.additional_gids.is_empty();
    Identity {
        uid: oci.user.uid,
        gid: oci.user.gid,
        groups: if denied {
            Groups::Keep
        } else {
            Groups::Set(oci.user.additional_gids.clone())
        },
    }
}

fn enter_time(oci: &Oci) -> Result<()> {
    let doing = "linux.timeOffsets: setting the clocks of a new time namespace";
    sys::process::unshare(libc::CLONE_NEWTIME).context(doing)?;
    let lines: String = oci
        .time_offsets
        .iter()
        .map(|(clock, by)| format!("{clock} {} {}\n", by.secs, by.nanosecs))
        .collect();
    if !lines.is_empty() {
        std::fs::write("/proc/self/timens_offsets", lines).context(doing)?;
    }
    // The new namespace is for children until it is joined (time_namespaces(7)).
    let namespace =
        sys::fs::open_trusted(Path::new("/proc/self/ns/time_for_children"), OFlags::RDONLY)
            .context(doing)?;
    sys::process::setns(namespace.as_fd(), libc::CLONE_NEWTIME).context(doing)
}

fn new_keyring(host: &mut Host, spec: &ContainerSpec) -> Result<()> {
    let name =
        std::ffi::CString::new(format!("_ses.{}", spec.name)).context("a name with a NUL byte")?;
    match sys::schedule::new_session_keyring(&name) {
        Ok(()) => Ok(()),
        // A kernel without keys has none to hide.
        Err(error) if error.errno == Errno::NOSYS => Ok(()),
        Err(error) if matches!(error.errno, Errno::DQUOT | Errno::PERM) => host.say(
            &ToHost::Notice(format!("the caller's keyring stays: {error}")),
            None,
        ),
        Err(error) => Err(error.into()),
    }
}

fn mount_root(order: &Order, oci: &Oci) -> Result<Root> {
    let RootPlan::Directory { path } = &order.root else {
        return Err(Fail::system("a root that is no directory").into());
    };
    if oci.namespace(Kind::Mount).is_none() {
        return Ok(Root::open_trusted(path)?);
    }
    let propagation = oci.propagation.unwrap_or(SLAVE);
    let depth = if propagation.recursive {
        Recursive::Yes
    } else {
        Recursive::No
    };
    sys::mount::propagate_root(propagation.flag, depth)?;
    // pivot_root(2) takes no root on a shared mount.
    let below = mount_of(path)?;
    sys::mount::propagate(below.as_fd(), 1 << 18, Recursive::No)
        .context("making the mount that the root stands on private")?;
    drop(below);
    root::mount_root(&order.root, order.driver, &mut Vec::new(), |_| {
        Err(Fail::system("a directory needs no help").into())
    })
    .context("root.path: mounting the root file system")
}

/// The root directory of the mount that `path` is on.
fn mount_of(path: &Path) -> Result<OwnedFd> {
    let doing = || format!("finding the mount of `{}`", path.display());
    let mut at = sys::fs::open_trusted(path, OFlags::PATH | OFlags::DIRECTORY)?;
    let number = |fd: &OwnedFd| -> Result<(u64, u64)> {
        let stat = rustix::fs::statx(
            fd,
            "",
            rustix::fs::AtFlags::EMPTY_PATH,
            rustix::fs::StatxFlags::from_bits_retain(0x1000 | 0x100), // STATX_MNT_ID, STATX_INO
        )
        .with_context(doing)?;
        Ok((stat.stx_mnt_id, stat.stx_ino))
    };
    loop {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = rustix::fs::openat(&at, "..", flags, Mode::empty()).with_context(doing)?;
        let (here, there) = (number(&at)?, number(&above)?);
        // The root of all is its own parent.
        if here.0 != there.0 || here == there {
            return Ok(at);
        }
        at = above;
    }
}

fn enter_root(oci: &Oci, root: &Root) -> Result<()> {
    if oci.namespace(Kind::Mount).is_none() {
        return Ok(sys::mount::enter(root.as_fd())?);
    }
    if oci.no_pivot {
        sys::mount::move_to_root(root.as_fd())?;
    } else {
        sys::mount::pivot_from_shared(root.as_fd())?;
    }
    if let Some(propagation) = oci.propagation {
        let depth = if propagation.recursive {
            Recursive::Yes
        } else {
            Recursive::No
        };
        sys::mount::propagate_root(propagation.flag, depth)
            .context("linux.rootfsPropagation: setting it")?;
    }
    Ok(())
}

/// Through the host's /proc: the container's may be missing, and the settings are those of whoever asks.
fn sysctl(name: &str, value: &str) -> Result<()> {
    // Both spellings of sysctl.d(5): the first separator decides.
    let path = match name.find(['.', '/']).and_then(|at| name.get(at..=at)) {
        Some("/") => name.to_owned(),
        _ => name
            .replace('/', "\u{1}")
            .replace('.', "/")
            .replace('\u{1}', "."),
    };
    std::fs::write(PathBuf::from("/proc/sys").join(&path), value)
        .with_context(|| format!("linux.sysctl[{name}]: setting it to `{value}`"))
}

/// The home of a user, by the container's own file; `/` where it is not listed.
pub(super) fn home(root: &Root, uid: u32) -> String {
    let passwd = rootfs::read_text(root, "/etc/passwd").unwrap_or_default(); // an odd file says nothing of anybody
    user::resolve(&uid.to_string(), &passwd, "").map_or_else(|_| "/".to_owned(), |user| user.home)
}

/// The environment as it was given, and `HOME` where it is missing.
pub(super) fn environment(process: &Process, home: &str) -> Vec<String> {
    let mut env = process.env.clone();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    env
}

/// A session of its own, with the terminal if there is one.
pub(super) fn session(terminal: Option<&OwnedFd>) -> Result<()> {
    let Some(terminal) = terminal else {
        // Who leads one already has it.
        let _ = rustix::process::setsid();
        return Ok(());
    };
    sys::tty::control(terminal.as_fd())?;
    program::take_stdio(terminal)
}

/// Gives the standard streams to the user, so that `/dev/stdout` can be opened again.
pub(super) fn own_streams(uid: u32) {
    let streams = [
        rustix::stdio::stdin,
        rustix::stdio::stdout,
        rustix::stdio::stderr,
    ];
    for stream in streams.map(|stream| stream()) {
        let Ok(stat) = rustix::fs::fstat(stream) else {
            continue;
        };
        let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3);
        if stat.st_uid != uid && !is_null {
            let owner = rustix::fs::Uid::from_raw(uid);
            // What belongs to somebody who is not mapped here stays his.
            let _ = rustix::fs::fchown(stream, Some(owner), None);
        }
    }
}

/// How the kernel treats the process beside others.
pub(super) fn treat(oci: &Oci) -> Result<()> {
    if let Some(scheduler) = &oci.scheduler {
        let policy = oci::POLICIES
            .iter()
            .find(|(name, _)| *name == scheduler.policy);
        let flags = oci::SCHEDULER_FLAGS
            .iter()
            .filter(|(name, _)| scheduler.flags.iter().any(|flag| flag == name));
        let attributes = sys::schedule::Attributes {
            policy: policy.map_or(0, |(_, number)| *number),
            flags: flags.fold(0, |all, (_, bit)| all | bit),
            nice: scheduler.nice,
            priority: scheduler.priority.unsigned_abs(),
            runtime: scheduler.runtime,
            deadline: scheduler.deadline,
            period: scheduler.period,
            ..sys::schedule::Attributes::default()
        };
        sys::schedule::set_scheduler(&attributes).context("process.scheduler: setting it")?;
    }
    if let Some(io) = &oci.io_priority {
        let class = oci::IO_CLASSES.iter().find(|(name, _)| *name == io.class);
        sys::schedule::set_io_priority(class.map_or(0, |(_, number)| *number), io.priority)
            .context("process.ioPriority: setting it")?;
    }
    if let Some(personality) = &oci.personality {
        /// `PER_LINUX32` of linux/personality.h.
        const LINUX32: u32 = 8;
        let persona = if personality.domain == "LINUX32" {
            LINUX32
        } else {
            0
        };
        sys::schedule::set_personality(persona).context("linux.personality: setting it")?;
    }
    Ok(())
}

/// Source: the kernel's apparmor interface, `/proc/PID/attr/apparmor/exec`.
fn apparmor(profile: &str) -> Result<()> {
    let text = format!("exec {profile}");
    let own = Path::new("/proc/self/attr/apparmor/exec");
    let path = if own.exists() {
        own
    } else {
        Path::new("/proc/self/attr/exec")
    };
    std::fs::write(path, text)
        .with_context(|| format!("process.apparmorProfile: changing to `{profile}`"))
}

/// The state that hooks are told. Source: runtime.md, "State".
pub(super) fn state(spec: &ContainerSpec, oci: &Oci, status: &str, pid: i32) -> String {
    serde_json::json!({
        "ociVersion": oci.version,
        "id": spec.name,
        "status": status,
        "pid": pid,
        "bundle": oci.bundle,
        "annotations": spec.annotations,
    })
    .to_string()
}

/// Waits for somebody to start the program; how it ends when a signal comes first.
fn wait_for_start(host: &mut Host, listener: &UnixListener) -> Result<Option<Exit>> {
    // Pid 1 would not even notice a signal that it does not handle (pid_namespaces(7)).
    let signals = sys::signal::Queue::all()?;
    loop {
        let mut fds = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(&signals, PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(sys::Error::new("poll(start)", errno).into()),
        }
        if !fds[1].revents().is_empty() {
            let number = signals.wait()?.number;
            let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
            let stops = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
            if !harmless.contains(&number) && !stops.contains(&number) {
                return Ok(Some(Exit::Signal(number)));
            }
        } else if !fds[0].revents().is_empty() {
            let (stream, _) = listener.accept().context("waiting for the start")?;
            *host = Host::from_channel(Channel::from_fd(stream.into()));
            return Ok(None);
        }
    }
}
