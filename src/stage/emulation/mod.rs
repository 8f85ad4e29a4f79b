//! The process that remembers for a container with one id what its root sets: `--root-emulation=full`.
//!
//! ```text
//!  command or monitor                pid 1, or the program of an exec            rl:[emulation]
//!     │◀── EmulationWanted + listener ──│ loads the filter                          │
//!     │ spawn_sealed ──────────────────────────────────────────────────────────────▶│ in the container's user and
//!     │ Emulate(watch) + listener, /proc, owners, socket ───────────────────────────▶│ mount namespace, the host's pids
//!     │                                 │ setresuid(…), execve(…) ── a notice ──────▶│ [`judge`]
//!     │                                 │◀───────────────────────────────── answer ──│
//! ```
//!
//! It has one thread and one loop, is the child of whoever keeps the container, and dies with that. The container has no
//! number for it and cannot reach it. It reaches what the container reaches: its root directory is the container's (or the
//! caller's, after a chroot), no magic link is followed for a path of the container's, and it has no descriptor of the
//! host but `/proc`, by which it finds its callers, and the file of [`side`]. It decides nothing that matters for safety: what it lets
//! happen, the container's root may do without it. See docs/design/006-emulation-in-full.md.

pub mod identity;
mod judge;
pub mod note;
pub mod side;

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::init::Host;
use super::parent;
use super::{ToHost, ToStage};
use crate::error::Fail;
use crate::paths;
use crate::sys;
use crate::sys::process::{Child, Enter, Sealed};
use crate::sys::socket::Channel;
use identity::Identities;
use side::Side;

/// The word that makes it this process. Not for people.
pub const EMULATION: &str = "__emulate";

/// Programs of `exec` at once, beyond which no more are watched.
const LISTENERS: usize = 4096;

/// To look at callers, stand at their root, and note on files that their own root could change: `CAP_DAC_OVERRIDE`,
/// `CAP_DAC_READ_SEARCH`, `CAP_FOWNER`, `CAP_FSETID`, `CAP_SYS_CHROOT`, `CAP_SYS_PTRACE`.
const NEEDED: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 18 | 1 << 19;

/// The first kernel that has all of it (`SECCOMP_ADDFD_FLAG_SEND`).
pub const SINCE: (u32, u32) = (5, 14);

/// Where the container's memory is, on the host's side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Memory {
    /// The container's own directory, with the `owners` that is written.
    pub dir: PathBuf,
    /// The directories of its layers, each with the `owners` that is read.
    pub layers: Vec<PathBuf>,
}

/// What the process has to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Watch {
    /// What the layers say of links and other files without attributes.
    pub layers: Vec<String>,
    /// Programs inside may change their root directory without a chroot(2).
    pub roots_move: bool,
}

/// Starts it for the container whose pid 1 is `pid`.
///
/// # Errors
/// The system's.
pub fn start(
    pid: i32,
    name: &str,
    id: &str,
    memory: &Memory,
    listener: &OwnedFd,
    roots_move: bool,
) -> Result<Child> {
    let doing = "starting the process that emulates root";
    let title = CString::new(format!("rl:[emulation] {name}")).context("a name with a NUL byte")?;
    let argv = parent::words(title, EMULATION, 3);
    let namespace = |kind: &str| {
        sys::fs::open_trusted(Path::new(&format!("/proc/{pid}/ns/{kind}")), OFlags::RDONLY)
    };
    let (user, mounts) = (namespace("user")?, namespace("mnt")?);
    let null = sys::fs::open_trusted(Path::new("/dev/null"), OFlags::RDWR)?;
    let processes = sys::fs::open_trusted(Path::new("/proc"), OFlags::PATH | OFlags::DIRECTORY)?;
    let owners = rustix::fs::open(
        memory.dir.join(side::FILE),
        OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::from_raw_mode(0o600),
    )
    .with_context(|| format!("opening `{}`", memory.dir.join(side::FILE).display()))?;
    let layers = Side::of(memory.layers.iter().map(PathBuf::as_path))
        .context("reading who the links of the image belong to")?;
    let path = paths::emulation_socket(id)?;
    let _ = std::fs::remove_file(&path); // of a container that was killed
    let socket =
        UnixListener::bind(&path).with_context(|| format!("listening on `{}`", path.display()))?;
    let (mut here, there) = Channel::pair().context("making a socket pair")?;
    let child = sys::process::spawn_sealed(&Sealed {
        namespaces: 0,
        enter: Some(Enter {
            first: &[],
            user: Some(user.as_fd()),
            others: &[mounts.as_fd()],
            mounts: true,
        }),
        cgroup: None,
        argv: &argv,
        env: &[],
        socket: there.as_fd(),
        socket_at: 3,
        stdio: [Some(null.as_fd()), Some(null.as_fd()), Some(null.as_fd())],
        die_with_parent: true,
    })
    .context(doing)?;
    drop(there);
    let watch = Watch {
        layers: layers.lines(),
        roots_move,
    };
    let told = || -> Result<()> {
        let text =
            serde_json::to_vec(&ToStage::Emulate(Box::new(watch))).context("writing a message")?;
        here.send(&text, Some(listener.as_fd()))?;
        for fd in [processes.as_fd(), owners.as_fd(), socket.as_fd()] {
            let text = serde_json::to_vec(&ToStage::Descriptor).context("writing a message")?;
            here.send(&text, Some(fd))?;
        }
        // It says when it looks, and why it does not.
        match here.receive()? {
            None => Err(Fail::system("it ended").into()),
            Some((message, _)) => match parent::parse(&message)? {
                ToHost::Done(_) => Ok(()),
                ToHost::Failed(fail) => Err(fail.into()),
                ToHost::OverlayRefused { .. }
                | ToHost::SquashWanted { .. }
                | ToHost::LinkMade(_)
                | ToHost::Console
                | ToHost::EmulationWanted
                | ToHost::Hooks
                | ToHost::Created
                | ToHost::Listener
                | ToHost::Notice(_) => Err(Fail::system("it answered as pid 1").into()),
            },
        }
    };
    match told() {
        Ok(()) => Ok(child),
        Err(error) => {
            child.kill();
            let _ = child.wait(); // it is gone either way
            Err(error.context(doing))
        }
    }
}

/// Has the calls of one more program judged, by the process of the running container `id`.
///
/// # Errors
/// When that is gone.
pub fn hand_over(id: &str, listener: &OwnedFd) -> Result<()> {
    let path = paths::emulation_socket(id)?;
    let stream = UnixStream::connect(&path).map_err(|error| {
        anyhow::Error::from(error).context(
            Fail::system("the process that emulates root in this container does not answer")
                .hint("restart the container"),
        )
    })?;
    let mut channel = Channel::from_fd(stream.into());
    channel
        .send(b"one more", Some(listener.as_fd()))
        .context("handing a program over")?;
    // It has it when it hangs up.
    channel.receive().context("handing a program over")?;
    Ok(())
}

/// The whole of it. Leaves by `_exit`.
pub fn main(fd: RawFd) -> ! {
    let Ok(mut host) = Host::from_inherited(fd) else {
        sys::process::exit_now(125)
    };
    let mut emulator = match Emulator::begin(&mut host) {
        Ok(emulator) => emulator,
        Err(error) => {
            let _ = host.say(&ToHost::Failed(crate::error::flatten(&error)), None); // nobody left to tell
            sys::process::exit_now(125)
        }
    };
    let code = match emulator.serve() {
        Ok(()) => 0,
        Err(_) => 125,
    };
    sys::process::exit_now(code)
}

/// A directory, known by what cannot be two.
type RootKey = (u64, u64);

/// All that it knows.
#[derive(Debug)]
struct Emulator {
    /// Filters whose calls come here; each ends with its last process.
    listeners: Vec<Rc<OwnedFd>>,
    socket: UnixListener,
    /// The host's, which is the working directory, too.
    processes: OwnedFd,
    /// The container's root directory, as an `O_PATH` descriptor.
    top: Rc<OwnedFd>,
    /// The root directory that this process has now.
    root: RootKey,
    /// The device of the container's root file system.
    root_device: u64,
    /// Whether somebody may have another one than the container's.
    roots_move: bool,
    identities: Identities,
    side: Side,
    /// Mounts of the container that have been met.
    mounts: HashSet<u64>,
}

impl Emulator {
    fn begin(host: &mut Host) -> Result<Self> {
        // Root of the user namespace, which it may not have been when it was started.
        let _ = sys::process::become_ids(0, 0); // one id, which it is already
        let (ToStage::Emulate(watch), Some(listener)) = host.hear_with_fd()? else {
            return Err(Fail::system("no order").into());
        };
        let mut next = || -> Result<OwnedFd> {
            match host.hear_with_fd()? {
                (ToStage::Descriptor, Some(fd)) => Ok(fd),
                _ => Err(Fail::system("a descriptor is missing").into()),
            }
        };
        let (processes, owners, socket) = (next()?, next()?, next()?);
        rustix::process::umask(Mode::empty());
        let top = sys::fs::open_trusted(Path::new("/"), OFlags::PATH | OFlags::DIRECTORY)?;
        let root = rustix::fs::fstat(&top).context("looking at the root directory")?;
        rustix::process::fchdir(&processes).context("entering /proc")?;
        let mut side = Side::default();
        side.add_lines(&watch.layers);
        side.keep_in(File::from(owners))
            .context("reading who the container's links belong to")?;
        sys::notify::wake_synchronously(listener.as_fd());
        sys::confine::no_new_privs()?;
        sys::confine::clear_ambient_set()?;
        sys::confine::capset(NEEDED)?;
        // Becoming root has undone it.
        host.tie()?;
        host.say(&ToHost::Done(String::new()), None)?;
        Ok(Self {
            listeners: vec![Rc::new(listener)],
            socket: UnixListener::from(socket),
            processes,
            top: Rc::new(top),
            root: (root.st_dev, root.st_ino),
            root_device: root.st_dev,
            roots_move: watch.roots_move,
            identities: Identities::default(),
            side,
            mounts: HashSet::new(),
        })
    }

    /// Returns when the last program has ended.
    fn serve(&mut self) -> Result<()> {
        while !self.listeners.is_empty() {
            let (more, ready) = {
                let mut fds = vec![PollFd::new(&self.socket, PollFlags::IN)];
                fds.extend(
                    self.listeners
                        .iter()
                        .map(|one| PollFd::new(one, PollFlags::IN)),
                );
                match rustix::event::poll(&mut fds, None) {
                    Ok(_) => {}
                    Err(Errno::INTR) => continue,
                    Err(errno) => return Err(sys::Error::new("poll()", errno).into()),
                }
                let happened: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
                (!happened[0].is_empty(), happened[1..].to_vec())
            };
            for (position, happened) in ready.iter().enumerate().rev() {
                if happened.contains(PollFlags::IN) {
                    self.one(position)?;
                } else if !happened.is_empty() {
                    self.listeners.swap_remove(position);
                }
            }
            if more {
                // A command that has died meanwhile has nothing to hand over.
                let _ = self.take_over();
            }
        }
        Ok(())
    }

    fn one(&mut self, position: usize) -> Result<()> {
        let listener = Rc::clone(&self.listeners[position]);
        let Some(notice) = sys::notify::receive(listener.as_fd())? else {
            return Ok(());
        };
        self.judge(listener.as_fd(), &notice)
    }

    fn take_over(&mut self) -> Result<()> {
        let (stream, _) = self.socket.accept().context("taking a program over")?;
        // Who connects is the user, and sends at once; a command that was stopped must not stop the container.
        let wait = std::time::Duration::from_secs(5);
        stream
            .set_read_timeout(Some(wait))
            .context("taking a program over")?;
        let mut channel = Channel::from_fd(stream.into());
        if let Some((_, Some(listener))) = channel.receive().context("taking a program over")?
            && self.listeners.len() < LISTENERS
        {
            sys::notify::wake_synchronously(listener.as_fd());
            self.listeners.push(Rc::new(listener));
        }
        Ok(())
    }

    /// A directory of the caller's in `/proc`, by which it is looked at. Trusted: no word of it is the container's.
    fn of_caller(&self, pid: i32, what: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        rustix::fs::openat(
            &self.processes,
            format!("{pid}/{what}"),
            flags,
            Mode::empty(),
        )
    }

    /// Makes the caller's root directory this process's.
    fn stand_at_root_of(&mut self, pid: i32) -> Result<(), Errno> {
        if !self.roots_move {
            return Ok(());
        }
        let root = self.of_caller(pid, "root", OFlags::PATH | OFlags::DIRECTORY)?;
        self.stand_at(&root)
    }

    fn stand_at(&mut self, root: &OwnedFd) -> Result<(), Errno> {
        let stat = rustix::fs::fstat(root)?;
        if (stat.st_dev, stat.st_ino) == self.root {
            return Ok(());
        }
        rustix::process::fchdir(root)?;
        let changed = rustix::process::chroot(".");
        rustix::process::fchdir(&self.processes)?;
        changed?;
        self.root = (stat.st_dev, stat.st_ino);
        Ok(())
    }
}

/// Whose the file behind an `O_PATH` descriptor seems to be, by its attribute; for a working directory of `/proc`.
fn attribute(path: &str) -> Result<Option<note::Note>, Errno> {
    let mut text = [0_u8; note::LONGEST];
    match rustix::fs::getxattr(path, note::NAME, &mut text[..]) {
        Ok(length) => Ok(note::Note::parse(&text[..length])),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::RANGE) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The path of one of this process's own descriptors, in such a directory.
fn own(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd as _;
    format!("self/fd/{}", fd.as_raw_fd())
}
