//! The runtime's side of a start in two steps: namespaces, ids, hooks, and then the word that it may begin.

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;

use super::super::clone;
use super::super::init::socket_number;
use super::super::parent::{INIT, belongs_to, last_words, parse, send, words};
use super::super::{Order, ToHost, ToStage};
use crate::cgroup::Group;
use crate::error::Fail;
use crate::idmap::newuidmap::{self, Helpers};
use crate::idmap::{self, Extent, How, Plan};
use crate::spec::oci::{IdMapping, Kind, Mount, Oci};
use crate::sys;
use crate::sys::guide::Guide;
use crate::sys::mount::Recursive;
use crate::sys::process::{Child, Enter, Sealed};
use crate::sys::socket::Channel;

/// What is done for the container while it is made.
pub trait Runtime {
    /// Puts pid 1 where it is counted, before it looks at where it stands.
    ///
    /// # Errors
    /// Stops the start.
    fn place(&mut self, pid: i32) -> Result<()>;
    /// Takes the other end of its terminal.
    ///
    /// # Errors
    /// Stops the start.
    fn console(&mut self, console: OwnedFd) -> Result<()>;
    /// Runs the hooks, and whatever else needs the namespaces.
    ///
    /// # Errors
    /// Stops the start.
    fn hooks(&mut self, pid: i32) -> Result<()>;
    /// Hears of what was given up.
    fn notice(&mut self, line: &str);
}

/// A container that is to be made.
#[derive(Debug)]
pub struct Creation<'a> {
    /// For pid 1.
    pub order: &'a Order,
    /// Its part that only a `config.json` has.
    pub oci: &'a Oci,
    /// The group it begins in.
    pub group: Option<&'a Group>,
    /// The socket that it waits for its start on.
    pub listener: BorrowedFd<'a>,
}

/// Makes it and returns when only the start is missing.
///
/// # Errors
/// Whatever keeps it from being made; nothing runs then.
pub fn create(creation: &Creation<'_>, runtime: &mut dyn Runtime) -> Result<Child> {
    let spec = &creation.order.spec;
    let title =
        CString::new(format!("rl:[init] {}", spec.name)).context("a name with a NUL byte")?;
    let socket_at = socket_number(spec.process.preserve_fds);
    let argv = words(title, INIT, socket_at);
    let (mut here, there) = Channel::pair().context("making a socket pair")?;
    let joined = Joined::open(creation.oci)?;
    let borrow = |all: &'_ [OwnedFd]| -> Vec<OwnedFd> {
        all.iter().filter_map(|fd| fd.try_clone().ok()).collect()
    };
    let (first, others) = (borrow(&joined.first), borrow(&joined.others));
    let first: Vec<BorrowedFd<'_>> = first.iter().map(|fd| fd.as_fd()).collect();
    let others: Vec<BorrowedFd<'_>> = others.iter().map(|fd| fd.as_fd()).collect();
    let child = clone::sealed(&Sealed {
        namespaces: flags(creation.oci),
        enter: joined.any.then(|| Enter {
            first: &first,
            user: joined.user.as_ref().map(|fd| fd.as_fd()),
            others: &others,
            mounts: joined.mounts,
        }),
        cgroup: creation.group.map(|group| group.as_fd()),
        argv: &argv,
        env: &[],
        socket: there.as_fd(),
        socket_at,
        stdio: [None, None, None],
        // Another one outlives this process; until it is made, the end of the conversation ends it.
        die_with_parent: creation.oci.tied,
    })
    .map_err(|error| match creation.group {
        Some(group) => error.context(format!(
            "starting a process in `{}`",
            group.path().display()
        )),
        None => error,
    })?;
    drop(there);
    match bring_up(creation, &mut here, &child, runtime) {
        Ok(()) => Ok(child),
        Err(error) => {
            let error = last_words(&mut here).unwrap_or(error);
            child.kill();
            let _ = child.wait(); // it is gone either way
            Err(error)
        }
    }
}

fn bring_up(
    creation: &Creation<'_>,
    here: &mut Channel,
    child: &Child,
    runtime: &mut dyn Runtime,
) -> Result<()> {
    let oci = creation.oci;
    let pid = child.pid.as_raw_nonzero().get();
    runtime.place(pid)?;
    let order = serde_json::to_vec(&ToStage::Start(Box::new(creation.order.clone())))
        .context("writing a message")?;
    here.send(&order, Some(creation.listener))
        .context("talking to the container's first process")?;
    if oci.makes(Kind::User) {
        map(child.pid, &oci.uid_mappings, &oci.gid_mappings)
            .context("linux.uidMappings and linux.gidMappings: mapping the ids")?;
    }
    for (at, mount) in oci.mounts.iter().enumerate() {
        if mount.options.idmap.is_some() {
            let tree = mapped_tree(mount, child.pid)
                .with_context(|| format!("mounts[{at}]: mapping the ids of `{}`", mount.source))?;
            let text = serde_json::to_vec(&ToStage::Tree { at }).context("writing a message")?;
            here.send(&text, Some(tree.as_fd()))
                .context("talking to the container's first process")?;
        }
    }
    send(here, &ToStage::Mapped)?;
    loop {
        let Some((message, fd)) = here.receive().context("listening to pid 1")? else {
            return Err(
                Fail::system("the container's first process ended without a word")
                    .hint("was it killed? see `dmesg` for the memory killer")
                    .into(),
            );
        };
        match parse(&message)? {
            ToHost::Console => {
                let console = fd.ok_or_else(|| Fail::system("a terminal without descriptor"))?;
                runtime.console(console)?;
            }
            ToHost::Hooks => {
                runtime.hooks(pid)?;
                send(here, &ToStage::HooksDone { pid })?;
            }
            ToHost::Created => return Ok(()),
            ToHost::Notice(line) => runtime.notice(&line),
            ToHost::Failed(fail) => return Err(fail.into()),
            ToHost::OverlayRefused { .. }
            | ToHost::SquashWanted { .. }
            | ToHost::LinkMade(_)
            | ToHost::EmulationWanted
            | ToHost::Listener
            | ToHost::Done(_) => {
                return Err(Fail::system("pid 1 answered as another").into());
            }
        }
    }
}

/// Says over `stream` that the program may begin, and returns when it runs. `answer` gets the descriptor of a filter that
/// notifies.
///
/// # Errors
/// What keeps the program from running, and those of `answer`.
pub fn start(stream: OwnedFd, answer: super::super::confine::Answer<'_>) -> Result<()> {
    let mut here = Channel::from_fd(stream);
    while let Some((message, fd)) = here.receive().context("listening to pid 1")? {
        match parse(&message)? {
            ToHost::Listener => {
                answer(fd.ok_or_else(|| Fail::system("a listener without descriptor"))?)?;
            }
            ToHost::Failed(fail) => return Err(fail.into()),
            ToHost::Console
            | ToHost::Hooks
            | ToHost::Created
            | ToHost::Notice(_)
            | ToHost::OverlayRefused { .. }
            | ToHost::SquashWanted { .. }
            | ToHost::LinkMade(_)
            | ToHost::EmulationWanted
            | ToHost::Done(_) => {
                return Err(Fail::system("pid 1 answered as another").into());
            }
        }
    }
    Ok(())
}

/// The namespaces that are joined by path.
#[derive(Debug, Default)]
struct Joined {
    any: bool,
    first: Vec<OwnedFd>,
    user: Option<OwnedFd>,
    others: Vec<OwnedFd>,
    mounts: bool,
}

impl Joined {
    fn open(oci: &Oci) -> Result<Self> {
        let mut joined = Self::default();
        let mut rest = Vec::new();
        for (at, namespace) in oci.namespaces.iter().enumerate() {
            let Some(path) = &namespace.path else {
                continue;
            };
            let doing = || format!("linux.namespaces[{at}].path: opening `{}`", path.display());
            let fd = sys::fs::open_trusted(path, OFlags::RDONLY).with_context(doing)?;
            let wanted = clone_flag(namespace.kind);
            let found = sys::namespace::kind(fd.as_fd()).map_err(|_| {
                Fail::usage(format!(
                    "linux.namespaces[{at}].path: `{}` is no namespace",
                    path.display()
                ))
            })?;
            if found != wanted {
                return Err(Fail::usage(format!(
                    "linux.namespaces[{at}].path: `{}` is no {} namespace",
                    path.display(),
                    namespace.kind.name()
                ))
                .into());
            }
            if is_ours(fd.as_fd(), namespace.kind) {
                continue;
            }
            joined.any = true;
            match namespace.kind {
                Kind::User => joined.user = Some(fd),
                Kind::Mount => {
                    joined.mounts = true;
                    rest.push(fd);
                }
                Kind::Pid | Kind::Network | Kind::Ipc | Kind::Uts | Kind::Cgroup | Kind::Time => {
                    rest.push(fd);
                }
            }
        }
        for fd in rest {
            match &joined.user {
                Some(user) if !belongs_to(fd.as_fd(), user.as_fd()) => joined.first.push(fd),
                Some(_) | None => joined.others.push(fd),
            }
        }
        Ok(joined)
    }
}

/// Whether we are in it already: the kernel takes a second joining of a user namespace for an error.
fn is_ours(namespace: BorrowedFd<'_>, kind: Kind) -> bool {
    let own = rustix::fs::stat(Path::new("/proc/self/ns").join(kind.file()));
    let there = rustix::fs::fstat(namespace);
    matches!((own, there), (Ok(own), Ok(there)) if (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino))
}

/// Source: clone(2).
fn clone_flag(kind: Kind) -> i32 {
    match kind {
        Kind::User => libc::CLONE_NEWUSER,
        Kind::Mount => libc::CLONE_NEWNS,
        Kind::Pid => libc::CLONE_NEWPID,
        Kind::Network => libc::CLONE_NEWNET,
        Kind::Ipc => libc::CLONE_NEWIPC,
        Kind::Uts => libc::CLONE_NEWUTS,
        Kind::Cgroup => libc::CLONE_NEWCGROUP,
        Kind::Time => libc::CLONE_NEWTIME,
    }
}

/// What is made by the clone. Cgroup and time namespaces are made by pid 1: the one begins at the group it stands in by
/// then, the other gets its offsets first.
fn flags(oci: &Oci) -> i32 {
    let made = |kind: &Kind| oci.makes(*kind);
    let by_clone = [
        Kind::User,
        Kind::Mount,
        Kind::Pid,
        Kind::Network,
        Kind::Ipc,
        Kind::Uts,
    ];
    by_clone
        .into_iter()
        .filter(made)
        .fold(0, |all, kind| all | clone_flag(kind))
}

fn extents(mappings: &[IdMapping]) -> Vec<Extent> {
    let extent = |one: &IdMapping| Extent {
        inner: one.container_id,
        host: one.host_id,
        count: one.size,
    };
    mappings.iter().map(extent).collect()
}

/// Writes the maps of the new user namespace of `pid`, with whatever right there is. Source: user_namespaces(7).
fn map(pid: rustix::process::Pid, uids: &[IdMapping], gids: &[IdMapping]) -> Result<()> {
    let single = |mappings: &[IdMapping], own: u32| matches!(mappings, [one] if one.size == 1 && one.host_id == own);
    let by_right = has_right(6) && has_right(7); // CAP_SETGID, CAP_SETUID
    let alone = single(uids, rustix::process::getuid().as_raw())
        && single(gids, rustix::process::getgid().as_raw());
    let (how, helpers): (How, Option<Helpers>) = if by_right {
        (How::Identity, None)
    } else if alone {
        (How::Single, None)
    } else {
        (How::Helpers, Some(newuidmap::find_helpers()?))
    };
    let plan = Plan {
        uids: extents(uids),
        gids: extents(gids),
        how,
    };
    idmap::apply(pid, &plan, helpers.as_ref())
}

/// Whether this process has the capability with this number.
#[must_use]
pub fn has_right(number: u8) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.bits() & (1 << number) != 0)
}

/// A detached copy of a mount's source whose ids are mapped, by the mount's own maps or the container's.
fn mapped_tree(mount: &Mount, pid: rustix::process::Pid) -> Result<OwnedFd> {
    let depth = |recursive| {
        if recursive {
            Recursive::Yes
        } else {
            Recursive::No
        }
    };
    let bind = mount.options.bind.ok_or_else(|| {
        Fail::unsupported(
            "only a bind mount can be id-mapped: what is mounted anew has the container's ids",
        )
    })?;
    let tree = sys::mount::clone_trusted(Path::new(&mount.source), depth(bind))?;
    let user = if mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty() {
        let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
        sys::fs::open_trusted(Path::new(&path), OFlags::RDONLY)?
    } else {
        namespace_with(&mount.uid_mappings, &mount.gid_mappings)?
    };
    let all = mount.options.idmap.unwrap_or(false);
    sys::mount::map_ids(tree.made()?, user.as_fd(), depth(all)).map_err(|error| {
        let fail = Fail::unsupported("the kernel does not map the ids of this mount")
            .hint("it needs rights over the file system (root of the host), and a file system that can do it: mount_setattr(2)");
        anyhow::Error::from(error).context(fail)
    })?;
    Ok(tree.made()?.try_clone_to_owned()?)
}

/// A user namespace with these maps, kept by nobody but the descriptor.
fn namespace_with(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd> {
    let guide = Guide::send()?;
    map(guide.pid(), uids, gids)?;
    let path = format!("/proc/{}/ns/user", guide.pid().as_raw_nonzero());
    Ok(sys::fs::open_trusted(Path::new(&path), OFlags::RDONLY)?)
}
