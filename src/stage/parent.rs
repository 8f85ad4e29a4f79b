//! The host's side of a start: clones pid 1 into its namespaces, maps the ids, brings the network, answers.
//!
//! It has one thread from the clone on, mounts nothing, and leaves nothing behind when a start fails.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::init::socket_number;
use super::stand_in;
use super::{Driver, Job, Order, RootPlan, ToHost, ToStage, Visit, clone, emulation};
use crate::cgroup::Group;
use crate::error::{Fail, Kind};
use crate::idmap::ahead::Ahead;
use crate::idmap::living::Entry;
use crate::idmap::newuidmap::Helpers;
use crate::idmap::{self, Plan};
use crate::net::joined::Target;
use crate::net::named::client::Lease;
use crate::net::publish::Reserved;
use crate::net::{self, Chosen, Uplink};
use crate::spec::{Bound, Publish};
use crate::sys;
use crate::sys::process::{Child, Enter, Exit, Sealed};
use crate::sys::socket::Channel;

/// The word after the program's name that makes it pid 1 of a container. Not for people.
pub const INIT: &str = "__init";

/// The word that makes it a job. Not for people.
pub const JOB: &str = "__job";

/// What a start needs beside the order.
#[derive(Debug)]
pub struct Launch<'a> {
    /// For pid 1.
    pub order: &'a Order,
    /// The id maps.
    pub plan: &'a Plan,
    /// Who writes them.
    pub helpers: Option<&'a Helpers>,
    /// The network.
    pub network: &'a Chosen,
    /// The network namespace that is joined, with [`Chosen::Joined`].
    pub target: Option<&'a Target>,
    /// The control group that pid 1 begins in; the caller's own where there is none.
    pub group: Option<&'a Group>,
    /// The ports to publish.
    pub ports: &'a [Publish],
    /// What becomes descriptor 0, 1, 2; the caller's own where there is none.
    pub stdio: [Option<BorrowedFd<'a>>; 3],
}

/// A started container.
#[derive(Debug)]
pub struct Running {
    /// Pid 1 inside.
    pub child: Child,
    /// The other end of its terminal.
    pub console: Option<OwnedFd>,
    /// Held back from before the program runs: what is sent to a command that has just said so is for the program.
    pub signals: Option<sys::signal::Queue>,
    /// The ports that lead to it.
    pub ports: Vec<Bound>,
    /// For starts beside it.
    entry: Option<Entry>,
    uplink: Option<Uplink>,
    /// Who serves parts of its root file system, the lowest first.
    pub(super) fuse: Vec<Child>,
    /// Who emulates its root in full.
    emulation: Option<Child>,
}

impl Running {
    /// The process that carries its packets; its end leaves the container without a network.
    #[must_use]
    pub fn helper(&self) -> Option<&Uplink> {
        self.uplink.as_ref()
    }

    /// The process that emulates its root; the container cannot go on without it.
    #[must_use]
    pub fn emulation(&self) -> Option<&Child> {
        self.emulation.as_ref()
    }

    /// Waits for the end of pid 1; the second answer is whether the container ended for want of who emulates its root.
    /// That counts as killed, whatever a program said: to a call that nobody judges the kernel answers `ENOSYS`, and one
    /// that gives up over it may be quicker than who kills it.
    ///
    /// # Errors
    /// waitid(2)'s.
    pub fn wait(&self) -> (sys::Result<Exit>, bool) {
        let exit = self.child.wait();
        if self.lost_emulation() {
            (exit.map(|_| Exit::Signal(libc::SIGKILL)), true)
        } else {
            (exit, false)
        }
    }

    /// Whether that process did not end as it should, after the last program; for a time after that. It hangs up a moment
    /// before it counts as ended, so this waits; one that is stopped is not waited for long.
    fn lost_emulation(&self) -> bool {
        let Some(process) = &self.emulation else {
            return false;
        };
        let mut fds = [PollFd::new(&process.pidfd, PollFlags::IN)];
        let patience = rustix::time::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        let ended = rustix::event::poll(&mut fds, Some(&patience)).is_ok_and(|count| count > 0);
        ended && process.wait().is_ok_and(|exit| exit != Exit::Code(0))
    }

    /// Ends what worked for the container, after its end.
    pub fn release(self) {
        if let Some(uplink) = self.uplink {
            uplink.stop();
        }
        Self::end(self.fuse, self.emulation);
    }

    /// The same, for a process that ends now: a helper that holds no ports is left to die alone. The kernel takes
    /// longer to take its interface away (40 ms) than to run the container.
    pub fn leave(self) {
        match self.uplink {
            // Published ports are held by a helper, which has to let them go.
            Some(uplink) if self.ports.is_empty() => uplink.child.kill(),
            Some(uplink) => uplink.stop(),
            None => {}
        }
        Self::end(self.fuse, self.emulation);
    }

    fn end(servers: Vec<Child>, emulation: Option<Child>) {
        for child in emulation.into_iter().chain(servers) {
            child.kill();
            let _ = child.wait(); // it is gone either way
        }
    }
}

/// Starts a container and returns when its program runs. `ids` are those that are being mapped already. `lease` are its places on named networks. `say` gets the lines that announce a degraded mode;
/// `copy_root` makes the copy of the layers that is used when no overlay can be mounted.
///
/// # Errors
/// What pid 1 or a helper reports; nothing of the container is left then.
pub fn start(
    launch: &Launch<'_>,
    ids: Option<Ahead>,
    lease: Option<&mut Lease>,
    say: &mut dyn FnMut(&str),
    copy_root: &mut dyn FnMut(&RootPlan) -> Result<PathBuf>,
) -> Result<Running> {
    let spec = &launch.order.spec;
    let title =
        CString::new(format!("rl:[init] {}", spec.name)).context("a name with a NUL byte")?;
    let argv = words(title, INIT, socket_number(spec.process.preserve_fds));
    // Before there is anything to clean up.
    let ports = net::publish::reserve(launch.ports)?;
    let (mut here, there) = Channel::pair().context("making a socket pair")?;
    let others: Vec<BorrowedFd<'_>> = launch.target.iter().map(|one| one.net.as_fd()).collect();
    let sealed = Sealed {
        namespaces: clone::flags(launch),
        enter: launch.target.map(|target| Enter {
            first: &[],
            user: target.owner.as_ref().map(|(user, _)| user.as_fd()),
            others: &others,
            mounts: false,
        }),
        cgroup: launch.group.map(|group| group.as_fd()),
        argv: &argv,
        // What the program sees of its first environment is `/proc/1/environ`: nothing of the caller's.
        env: &[],
        socket: there.as_fd(),
        socket_at: socket_number(spec.process.preserve_fds),
        stdio: launch.stdio,
        die_with_parent: true,
    };
    let (child, ids) = clone::pid1(sealed, launch, ids)?;
    drop(there);
    let mut running = Running {
        child,
        console: None,
        signals: None,
        ports: Vec::new(),
        entry: None,
        uplink: None,
        fuse: Vec::new(),
        emulation: None,
    };
    match bring_up(
        launch,
        ids,
        lease,
        ports,
        &mut here,
        &mut running,
        say,
        copy_root,
    ) {
        Ok(()) => Ok(running),
        Err(error) => {
            // What pid 1 says of its own end explains more than that it is gone.
            let error = last_words(&mut here).unwrap_or(error);
            running.child.kill();
            let _ = running.child.wait(); // it is gone either way
            running.release();
            Err(error)
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "one start, told in one place")]
fn bring_up(
    launch: &Launch<'_>,
    ids: Option<Ahead>,
    mut lease: Option<&mut Lease>,
    mut ports: Vec<Reserved>,
    here: &mut Channel,
    running: &mut Running,
    say: &mut dyn FnMut(&str),
    copy_root: &mut dyn FnMut(&RootPlan) -> Result<PathBuf>,
) -> Result<()> {
    let spec = &launch.order.spec;
    send(here, &ToStage::Start(Box::new(launch.order.clone())))?;
    // Those of a container on named networks are opened when it is there.
    let helped = match &lease {
        Some(_) => Vec::new(),
        None => std::mem::take(&mut ports),
    };
    let ahead = launch.order.ahead.as_ref();
    let pid = running.child.pid;
    if ahead.is_none() {
        running.uplink = net::start(launch.network, helped, None, pid)?;
    }
    match ids {
        Some(ids) => running.entry = ids.finish(&spec.id, pid)?,
        None if clone::shares_ids(launch) => {}
        None => idmap::apply(pid, launch.plan, launch.helpers)?,
    }
    if let Some(lease) = &mut lease {
        lease.plug(running.child.pid.as_raw_nonzero().get())?;
    }
    send(here, &ToStage::Mapped)?;
    let mut network = false;
    if let Some(link) = ahead {
        // It serves no ports: see `Link::plan`.
        network = link_made(here)?;
        let link = network.then_some(link);
        running.uplink = net::start(launch.network, Vec::new(), link, running.child.pid)?;
    }
    if network || !launch.network.is_awaited() {
        running.signals = Some(sys::signal::Queue::all()?);
    }
    loop {
        if !network && !has_message(here)? {
            if let Some(uplink) = &mut running.uplink {
                running.ports = uplink.wait_ready()?;
                running.signals = Some(sys::signal::Queue::all()?);
                send(here, &ToStage::NetworkReady)?;
            }
            if let Some(lease) = &mut lease {
                lease.wait()?;
                running.ports = lease.publish(std::mem::take(&mut ports))?;
                for line in std::mem::take(&mut lease.notices) {
                    say(&line);
                }
                running.signals = Some(sys::signal::Queue::all()?);
                send(here, &ToStage::NetworkReady)?;
            }
            network = true;
        }
        let Some((message, fd)) = here.receive().context("listening to pid 1")? else {
            return Ok(());
        };
        match parse(&message)? {
            ToHost::Console => {
                if let Some(console) = &fd {
                    sys::tty::copy_size(std::io::stdin().as_fd(), console.as_fd());
                }
                running.console = fd;
            }
            ToHost::Failed(fail) => return Err(fail.into()),
            ToHost::Notice(line) => say(&line),
            ToHost::OverlayRefused { why, which } => {
                let path = stand_in::mount_otherwise(launch, which, running, &why, say, copy_root)?;
                send(here, &ToStage::RootMounted { path })?;
            }
            ToHost::EmulationWanted => {
                let (Some(memory), Some(listener)) = (&launch.order.memory, fd) else {
                    return Err(Fail::system("nobody asked for emulation").into());
                };
                let roots_move = spec.confinement.may_move_roots();
                let pid = running.child.pid.as_raw_nonzero().get();
                let process =
                    emulation::start(pid, &spec.name, &spec.id, memory, &listener, roots_move)?;
                running.emulation = Some(process);
            }
            ToHost::SquashWanted { which } => {
                let plan = stand_in::plan(launch, which)?;
                match super::fuse::squash_of(plan, running.child.pid) {
                    Ok(child) => {
                        running.fuse.push(child);
                        send(here, &ToStage::SquashMounted)?;
                    }
                    Err(error) if launch.order.driver != Driver::Auto => return Err(error),
                    Err(error) => {
                        say(&format!(
                            "{error:#}: unpacking it for this container, which takes time and space (rl explain RL-F04)"
                        ));
                        let path = stand_in::copied(running, plan, copy_root)?;
                        send(here, &ToStage::RootMounted { path })?;
                    }
                }
            }
            ToHost::Done(_)
            | ToHost::LinkMade(_)
            | ToHost::Hooks
            | ToHost::Created
            | ToHost::Listener => {
                return Err(Fail::system("pid 1 gave an answer to no question").into());
            }
        }
    }
}

/// Waits until pid 1 has made the interface of the order, or could not.
fn link_made(here: &mut Channel) -> Result<bool> {
    let Some((message, _)) = here.receive().context("listening to pid 1")? else {
        return Err(Fail::system(Gone.to_string()).into());
    };
    match parse(&message)? {
        ToHost::LinkMade(made) => Ok(made),
        ToHost::Failed(fail) => Err(fail.into()),
        ToHost::Console
        | ToHost::EmulationWanted
        | ToHost::Notice(_)
        | ToHost::SquashWanted { .. }
        | ToHost::OverlayRefused { .. }
        | ToHost::Hooks
        | ToHost::Created
        | ToHost::Listener
        | ToHost::Done(_) => Err(Fail::system("pid 1 spoke out of turn").into()),
    }
}

/// The word that makes it go into a running container. Not for people.
pub const JOIN: &str = "__join";

/// The namespaces of a container that are not ours.
#[derive(Debug)]
pub struct Inside {
    /// Those that do not belong to `user`.
    first: Vec<OwnedFd>,
    user: Option<OwnedFd>,
    others: Vec<OwnedFd>,
}

impl Inside {
    /// As [`Inside::of_any`], of a container that `rl` has made: it has a user namespace of its own.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: i32) -> Result<Self> {
        let inside = Self::of_any(pid)?;
        if inside.user.is_none() {
            return Err(Fail::system("the container has no user namespace of its own").into());
        }
        Ok(inside)
    }

    /// Those of the process `pid`, which the caller holds a pidfd of: when that says afterwards that the process
    /// still lives, these are its own. What it shares with us is left out: joining it needs rights over it.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of_any(pid: i32) -> Result<Self> {
        let open = |kind: &str| -> Result<Option<OwnedFd>> {
            let path = format!("/proc/{pid}/ns/{kind}");
            let theirs = match sys::fs::open_trusted(Path::new(&path), OFlags::RDONLY) {
                // KERNEL(5.6): there are no time namespaces before.
                Err(error) if error.errno == Errno::NOENT && kind == "time" => return Ok(None),
                opened => opened?,
            };
            let there = rustix::fs::fstat(&theirs).with_context(|| format!("looking at {path}"))?;
            let ours = format!("/proc/self/ns/{kind}");
            let here =
                rustix::fs::stat(ours.as_str()).with_context(|| format!("looking at {ours}"))?;
            let same = (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino);
            Ok((!same).then_some(theirs))
        };
        let user = open("user")?;
        let (mut first, mut others) = (Vec::new(), Vec::new());
        for kind in ["mnt", "net", "ipc", "uts", "cgroup", "time", "pid"] {
            let Some(namespace) = open(kind)? else {
                continue;
            };
            match &user {
                Some(user) if !belongs_to(namespace.as_fd(), user.as_fd()) => {
                    first.push(namespace);
                }
                Some(_) | None => others.push(namespace),
            }
        }
        Ok(Self {
            first,
            user,
            others,
        })
    }
}

/// Whether `user` owns this namespace. What nobody here may know belongs to somebody above.
pub(super) fn belongs_to(namespace: BorrowedFd<'_>, user: BorrowedFd<'_>) -> bool {
    let number = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    sys::namespace::owner(namespace)
        .is_ok_and(|owner| number(owner.as_fd()).is_ok_and(|one| number(user) == Ok(one)))
}

/// Starts a program in a running container and returns when it runs. The second value is the other end of its
/// terminal. A detached one has no terminal, and what is returned has ended by then or is about to.
///
/// # Errors
/// What kept it from starting; nothing of it is left then.
pub fn join(
    visit: Visit,
    inside: &Inside,
    group: Option<&Group>,
    stdio: [Option<BorrowedFd<'_>>; 3],
) -> Result<(Child, Option<OwnedFd>)> {
    let mut nobody = |_| Err(Fail::system("a filter that nobody answers").into());
    join_answered(visit, inside, group, stdio, &mut nobody)
}

/// As [`join`]; `answer` gets the other end of a system call filter that notifies.
///
/// # Errors
/// As [`join`], and those of `answer`.
pub fn join_answered(
    visit: Visit,
    inside: &Inside,
    group: Option<&Group>,
    stdio: [Option<BorrowedFd<'_>>; 3],
    answer: super::confine::Answer<'_>,
) -> Result<(Child, Option<OwnedFd>)> {
    let spec = &visit.spec;
    let title =
        CString::new(format!("rl:[exec] {}", spec.name)).context("a name with a NUL byte")?;
    let socket_at = socket_number(spec.process.preserve_fds);
    let argv = words(title, JOIN, socket_at);
    let (mut here, there) = Channel::pair().context("making a socket pair")?;
    let others: Vec<BorrowedFd<'_>> = inside.others.iter().map(|fd| fd.as_fd()).collect();
    let first: Vec<BorrowedFd<'_>> = inside.first.iter().map(|fd| fd.as_fd()).collect();
    let child = sys::process::spawn_sealed(&Sealed {
        namespaces: 0,
        enter: Some(Enter {
            first: &first,
            user: inside.user.as_ref().map(|user| user.as_fd()),
            others: &others,
            mounts: true,
        }),
        cgroup: group.map(|group| group.as_fd()),
        argv: &argv,
        // As for pid 1: the program's first environment is nothing of the caller's.
        env: &[],
        socket: there.as_fd(),
        socket_at,
        stdio,
        die_with_parent: !visit.detached,
    })?;
    drop(there);
    let id = spec.id.clone();
    let started = || -> Result<Option<OwnedFd>> {
        send(&mut here, &ToStage::Join(Box::new(visit)))?;
        let mut console = None;
        while let Some((message, fd)) = here.receive().context("listening to the process")? {
            match parse(&message)? {
                ToHost::Console => console = fd,
                ToHost::EmulationWanted => {
                    let listener = fd.ok_or_else(|| Fail::system("no listener"))?;
                    emulation::hand_over(&id, &listener)?;
                }
                ToHost::Failed(fail) => return Err(fail.into()),
                ToHost::Listener => {
                    if let Some(fd) = fd {
                        answer(fd)?;
                    }
                }
                ToHost::OverlayRefused { .. }
                | ToHost::SquashWanted { .. }
                | ToHost::Notice(_)
                | ToHost::Hooks
                | ToHost::Created
                | ToHost::LinkMade(_)
                | ToHost::Done(_) => {
                    return Err(Fail::system("a joining process answered as another").into());
                }
            }
        }
        Ok(console)
    };
    match started() {
        Ok(console) => Ok((child, console)),
        Err(error) => {
            let error = last_words(&mut here).unwrap_or(error);
            child.kill();
            child.wait()?;
            Err(error)
        }
    }
}

/// Runs a job to its end and returns its answer. `title` is for `ps`.
///
/// # Errors
/// What the job reports.
pub fn job(job: Job, title: &str, plan: &Plan, helpers: Option<&Helpers>) -> Result<String> {
    job_with(job, title, plan, helpers, Aids::default(), || Ok(()))
}

/// What a job gets beside its order.
#[derive(Debug, Default)]
pub struct Aids {
    /// What becomes descriptor 0 and 1; the caller's own where there is none.
    pub stdio: [Option<OwnedFd>; 2],
    /// A directory to work in.
    pub root: Option<OwnedFd>,
    /// The user namespace to work in, in place of a new one.
    pub user: Option<OwnedFd>,
}

/// As [`job`]; `meanwhile` runs in this process while the job does, at the other ends of its pipes.
///
/// # Errors
/// Those of `meanwhile`, unless it only lost the job; what the job reports.
pub fn job_with(
    job: Job,
    title: &str,
    plan: &Plan,
    helpers: Option<&Helpers>,
    aids: Aids,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<String> {
    let title = CString::new(format!("rl:[job] {title}")).context("a title with a NUL byte")?;
    let argv = words(title, JOB, 3);
    let (mut here, there) = Channel::pair().context("making a socket pair")?;
    let Aids { stdio, root, user } = aids;
    let child = clone::sealed(&Sealed {
        namespaces: if user.is_some() {
            0
        } else {
            libc::CLONE_NEWUSER | libc::CLONE_NEWNS
        },
        // Its mount namespace is a copy of the host's then, too.
        enter: user.as_ref().map(|user| Enter {
            first: &[],
            user: Some(user.as_fd()),
            others: &[],
            mounts: false,
        }),
        cgroup: None,
        argv: &argv,
        // Logins, proxies, certificates and the terminal are named there.
        env: &variables(),
        socket: there.as_fd(),
        socket_at: 3,
        stdio: [
            stdio[0].as_ref().map(|fd| fd.as_fd()),
            stdio[1].as_ref().map(|fd| fd.as_fd()),
            None,
        ],
        die_with_parent: true,
    })?;
    drop((there, stdio));
    let answer = || -> Result<String> {
        let text =
            serde_json::to_vec(&ToStage::Work(Box::new(job))).context("writing a message")?;
        here.send(&text, root.as_ref().map(|fd| fd.as_fd()))
            .context(Gone)?;
        if user.is_none() {
            idmap::apply(child.pid, &plan.for_files(), helpers)?;
        }
        send(&mut here, &ToStage::Mapped)?;
        let met = meanwhile();
        if let Err(error) = met
            && !lost_the_job(&error)
        {
            return Err(error);
        }
        let Some((message, _)) = here.receive().context("listening to the job")? else {
            return Err(Fail::system("the job ended without an answer")
                .hint("was it killed? see `dmesg` for the memory killer")
                .into());
        };
        match parse(&message)? {
            ToHost::Done(text) => Ok(text),
            ToHost::Failed(fail) => Err(fail.into()),
            ToHost::Console
            | ToHost::EmulationWanted
            | ToHost::Notice(_)
            | ToHost::LinkMade(_)
            | ToHost::Hooks
            | ToHost::Created
            | ToHost::Listener
            | ToHost::SquashWanted { .. }
            | ToHost::OverlayRefused { .. } => Err(Fail::system("a job answered as pid 1").into()),
        }
    };
    let answer = answer();
    if answer.is_err() {
        child.kill();
    }
    child.wait()?;
    answer
}

/// Whether a pipe to or from a job broke: the job says why.
fn lost_the_job(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::UnexpectedEof
            )
        })
    })
}

/// The caller's environment.
fn variables() -> Vec<CString> {
    use std::os::unix::ffi::OsStrExt as _;
    let text = |name: &OsStr, value: &OsStr| [name.as_bytes(), b"=", value.as_bytes()].concat();
    std::env::vars_os()
        .filter_map(|(name, value)| CString::new(text(&name, &value)).ok()) // the kernel's have no NUL byte
        .collect()
}

pub fn words(title: CString, role: &str, socket: i32) -> [CString; 3] {
    let word = |text: String| CString::new(text).expect("our own words have no NUL byte");
    [title, word(role.to_owned()), word(socket.to_string())]
}

/// Whether the user namespace is the one that owns a network namespace which is joined.
pub(super) fn send(channel: &mut Channel, message: &ToStage) -> Result<()> {
    let text = serde_json::to_vec(message).context("writing a message")?;
    channel.send(&text, None).context(Gone)
}

/// Pid 1 does not listen any more.
#[derive(Debug)]
struct Gone;

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the container's first process is gone")
    }
}

/// What pid 1 has said of its own failure, if it has: a helper that then fails too only says that it is gone.
pub(super) fn last_words(channel: &mut Channel) -> Option<anyhow::Error> {
    while has_message(channel).ok()? {
        let (message, _) = channel.receive().ok()??;
        match parse(&message) {
            Ok(ToHost::Failed(fail)) => return Some(fail.into()),
            Ok(
                ToHost::Console
                | ToHost::EmulationWanted
                | ToHost::Notice(_)
                | ToHost::LinkMade(_)
                | ToHost::Done(_)
                | ToHost::Hooks
                | ToHost::Created
                | ToHost::Listener
                | ToHost::SquashWanted { .. }
                | ToHost::OverlayRefused { .. },
            ) => {}
            Err(error) => return Some(error),
        }
    }
    None
}

/// Whether pid 1 has said something, or gone.
fn has_message(channel: &Channel) -> Result<bool> {
    let mut fds = [PollFd::new(channel, PollFlags::IN)];
    match rustix::event::poll(
        &mut fds,
        Some(&rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    ) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(sys::Error::new("poll(pid 1)", errno).into()),
    }
}

pub fn parse(message: &[u8]) -> Result<ToHost> {
    // Four bytes are an errno from before the exec (sys::process::spawn_sealed).
    if let Ok(bytes) = <[u8; 4]>::try_from(message) {
        let errno = Errno::from_raw_os_error(i32::from_ne_bytes(bytes));
        let error = sys::Error::new("execveat(sealed copy of rl)", errno);
        return Err(anyhow::Error::from(error).context(
            Fail::new(
                Kind::Unsupported,
                "could not start inside the new namespaces",
            )
            .hint(
                "AppArmor on Ubuntu 23.10 and later takes all rights away there: rl explain RL-U04",
            )
            .code("RL-U04"),
        ));
    }
    serde_json::from_slice(message).context("reading a message")
}
