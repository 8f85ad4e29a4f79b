//! A container whose standard streams are the caller's: start, pass signals and the terminal, wait.
//!
//! One thread, one poll loop. The container lives and dies with this process.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::time::Timespec;

use super::events::Event;
use super::health::Checks;
use super::networks::Membership;
use super::record::Record;
use super::start::start;
use super::state::{self, State, Status};
use super::watch::Keys;
use super::{Machine, RunOptions, group, write_new};
use crate::cgroup::Group;
use crate::error::Fail;
use crate::net::Uplink;
use crate::spec::Process;
use crate::stage::parent::Running;
use crate::sys;
use crate::sys::process::Child;

/// So many Ctrl-C kill a program that ignores them, as docker's command gives up then.
const INTERRUPTS: u32 = 3;
/// How long a program may go on when its terminal has vanished: as long as `docker stop` waits.
const AFTER_HANGUP: Duration = Duration::from_secs(10);

/// Starts the container and waits for its end.
///
/// # Errors
/// What kept it from starting.
pub fn run(
    record: &Record,
    machine: &mut Machine,
    options: &RunOptions,
    say: &mut dyn FnMut(&str),
) -> Result<u8> {
    let group = group::make(&record.spec()?)?;
    machine.begin_ids(false);
    let result = run_in(record, machine, options, group.as_ref(), say);
    if group::end(record, group) {
        super::emit(record.store(), &Event::container("oom", &record.spec()?));
    }
    result
}

fn run_in(
    record: &Record,
    machine: &mut Machine,
    options: &RunOptions,
    group: Option<&Group>,
    say: &mut dyn FnMut(&str),
) -> Result<u8> {
    let mut membership = Membership::reserve(record)?;
    let process = record.spec()?.process;
    let null = sys::fs::open_trusted(Path::new("/dev/null"), OFlags::RDWR)?;
    let stdin = (!process.interactive).then(|| null.as_fd());
    check_terminal(&process)?;
    let (order, mut running) = start(
        record,
        machine,
        group,
        membership.as_mut(),
        [stdin, None, None],
        say,
    )?;
    let (console, signals) = (running.console.take(), running.signals.take());
    if let Some(membership) = &membership {
        membership.tell("connect");
    }
    let watched = running.helper().map(Uplink::watch).transpose();
    let lose_network = &mut || {
        let helper = running.helper();
        if let Some((who, why)) = helper.and_then(|one| one.lost(&running.child.pidfd)) {
            lose(record, who, why, say);
        }
    };
    let result = note(record, &running, group).and_then(|()| {
        let watched = watched?;
        if let Some(path) = &options.pidfile {
            write_new(path, &running.child.pid.as_raw_nonzero().to_string())?;
        }
        supervise(Attended {
            child: &running.child,
            signals,
            console,
            interactive: process.interactive,
            sig_proxy: options.sig_proxy,
            host: running.emulation().map(|process| &process.pidfd),
            membership: membership.as_mut(),
            helper: watched.as_ref().map(|watched| Helper {
                watched,
                lost: &mut *lose_network,
            }),
            leave: None,
            checks: Checks::begin(record, &order.spec),
        })
    });
    if result.is_err() {
        running.child.kill();
    }
    let (exit, is_lost) = running.wait();
    if is_lost {
        say(super::emulation::LOST);
    }
    running.leave();
    if let Some(membership) = &membership {
        membership.tell("disconnect");
    }
    result?;
    Ok(exit?.code())
}

/// Lets others see that it runs. Not synced: after a crash of the machine nothing of it is left anyway.
fn note(record: &Record, running: &Running, group: Option<&Group>) -> Result<()> {
    super::emit(record.store(), &Event::container("start", &record.spec()?));
    let mut state = State::read(&record.dir())?;
    state.status = Status::Running;
    state.cgroup = group.map(|group| group.path().to_owned());
    state.started = Some(state::now());
    state.process = state::Process::of(running.child.pid.as_raw_nonzero().get()).ok();
    state.owner = state::Process::of(rustix::process::getpid().as_raw_nonzero().get()).ok();
    state.ports.clone_from(&running.ports);
    write(record, &state)
}

fn write(record: &Record, state: &State) -> Result<()> {
    let (path, aside) = (
        record.dir().join("state.json"),
        record.dir().join("state.json.new"),
    );
    let text = serde_json::to_vec(state).context("writing state.json")?;
    let written = std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, &path));
    written.map_err(|error| super::disk_error(error, &path))
}

/// The container goes on without a network; who looks at it is told.
fn lose(record: &Record, who: &str, why: String, say: &mut dyn FnMut(&str)) {
    say(&why);
    let noted = State::read(&record.dir()).and_then(|mut state| {
        state.error = Some(why);
        state.ports.clear();
        write(record, &state)
    });
    if let Err(error) = noted {
        say(&format!("`rl inspect` does not know it: {error:#}"));
    }
    if let Ok(spec) = record.spec() {
        let event = Event::container("network_lost", &spec).with("helper", who);
        super::emit(record.store(), &event);
    }
}

/// A terminal needs one on our side.
///
/// # Errors
/// `Usage` when it has none.
pub fn check_terminal(process: &Process) -> Result<(), Fail> {
    if process.tty && process.interactive && !sys::tty::is_terminal(&std::io::stdin()) {
        return Err(
            Fail::usage("-t needs a terminal, and standard input is none")
                .hint("leave -t out: -i alone takes a pipe or a file"),
        );
    }
    Ok(())
}

/// A program whose standard streams are the caller's.
#[derive(Debug)]
pub struct Attended<'a> {
    /// The program's process, or its container's first.
    pub child: &'a Child,
    /// Signals that were held back since before it ran.
    pub signals: Option<sys::signal::Queue>,
    /// The other end of its terminal.
    pub console: Option<OwnedFd>,
    /// What is typed goes there.
    pub interactive: bool,
    /// Signals to this command go to the program.
    pub sig_proxy: bool,
    /// A process at whose end the program is killed.
    pub host: Option<&'a OwnedFd>,
    /// Its container's place on named networks.
    pub membership: Option<&'a mut Membership>,
    /// The process that carries its packets.
    pub helper: Option<Helper<'a>>,
    /// How the user leaves it.
    pub leave: Option<Leave<'a>>,
    /// The checks of its health.
    pub checks: Option<Checks>,
}

/// A process that the program can go on without.
pub struct Helper<'a> {
    /// Readable when it has ended.
    pub watched: &'a OwnedFd,
    /// What is done when it ends first.
    pub lost: &'a mut dyn FnMut(),
}

impl std::fmt::Debug for Helper<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Helper")
            .field("watched", &self.watched)
            .finish_non_exhaustive()
    }
}

/// Leaving a program that goes on.
pub struct Leave<'a> {
    /// The keys that ask for it.
    pub keys: Keys,
    /// Puts this process into the background: its terminal is somebody else's afterwards.
    pub go: &'a mut dyn FnMut() -> Result<()>,
}

impl std::fmt::Debug for Leave<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leave")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

/// Passes signals and the terminal until the program ends; its exit status is still to be taken.
///
/// # Errors
/// The system's.
pub fn supervise(attended: Attended<'_>) -> Result<()> {
    let child = attended.child;
    let signals = match attended.signals {
        Some(signals) => signals,
        None => sys::signal::Queue::all()?,
    };
    let stdin = std::io::stdin();
    let interactive = attended.interactive;
    let caller = Caller::here();
    let console = attended.console;
    let has_console = console.is_some();
    let mut host = attended.host;
    let (mut membership, mut helper) = (attended.membership, attended.helper);
    let (mut leave, mut checks) = (attended.leave, attended.checks);
    // Undone when this returns, whatever happened.
    let mut raw = if has_console && interactive {
        Some(sys::tty::Raw::enter(stdin.as_fd())?)
    } else {
        None
    };
    let mut pump = match console {
        Some(console) => Some(Pump::new(console, interactive)?),
        None => None,
    };
    let mut interrupts = 0;
    let mut deadline: Option<Instant> = None;
    loop {
        let mut fds = vec![
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(&child.pidfd, PollFlags::IN),
            // Nothing is asked of the program's own twice.
            PollFd::new(
                host.unwrap_or(&child.pidfd),
                host.map_or(PollFlags::empty(), |_| PollFlags::IN),
            ),
            // It says nothing by itself: only its end is of interest.
            PollFd::from_borrowed_fd(
                membership
                    .as_ref()
                    .map_or(child.pidfd.as_fd(), |one| one.as_fd()),
                membership
                    .as_ref()
                    .map_or(PollFlags::empty(), |_| PollFlags::IN),
            ),
            PollFd::new(
                helper.as_ref().map_or(&child.pidfd, |one| one.watched),
                helper
                    .as_ref()
                    .map_or(PollFlags::empty(), |_| PollFlags::IN),
            ),
        ];
        if let Some(pump) = &pump {
            fds.push(PollFd::new(&pump.console, pump.console_events()));
            if pump.wants_input() {
                fds.push(PollFd::new(&stdin, PollFlags::IN));
            }
        }
        let ours = fds.len();
        let checked = checks.as_ref().map(Checks::descriptors).unwrap_or_default();
        fds.extend(
            checked
                .iter()
                .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
        );
        let due = checks.as_ref().and_then(Checks::deadline);
        let left = deadline.into_iter().chain(due).min();
        let left = left.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok()); // what overflows never comes
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(sys::Error::new("poll()", errno).into()),
        }
        let happened: Vec<PollFlags> = fds[..ours].iter().map(PollFd::revents).collect();
        drop((fds, checked));
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            child.kill();
            deadline = None;
        }
        if let Some(checks) = &mut checks {
            checks.step();
        }
        let mut gone = false;
        if !happened[0].is_empty() {
            let signal = signals.wait()?;
            // What the terminal sends (Ctrl-C) reaches a program in the same process group by itself; one that
            // has a terminal of its own is in another session.
            let is_ours = has_console || !signal.from_kernel;
            match signal.number {
                libc::SIGCHLD => {}
                libc::SIGWINCH => {
                    if let Some(pump) = &pump {
                        sys::tty::copy_size(stdin.as_fd(), pump.console.as_fd());
                    }
                }
                libc::SIGHUP if caller.ignores_hangup => {}
                libc::SIGHUP if caller.has_vanished() => gone = true,
                number => {
                    if number == libc::SIGINT && signal.from_kernel {
                        // A pid 1 without a handler does not notice Ctrl-C; who types it this often means it.
                        interrupts += 1;
                        if interrupts == INTERRUPTS {
                            child.kill();
                        }
                    }
                    if attended.sig_proxy && is_ours {
                        child.signal(number)?;
                    }
                }
            }
        }
        if let Some(pump) = &mut pump {
            if happened.get(5).is_some_and(|events| !events.is_empty()) {
                gone |= pump.turn(happened[5])? == Outside::Gone;
            }
            if happened.get(6).is_some_and(|events| !events.is_empty()) {
                match pump.read_input(&stdin, leave.as_mut().map(|leave| &mut leave.keys))? {
                    Outside::There => {}
                    Outside::Gone => gone = true,
                    Outside::Left => {
                        drop(raw.take());
                        if let Some(leave) = leave.take() {
                            (leave.go)()?;
                        }
                        pump.input_open = false;
                    }
                }
            }
        }
        if happened[1].is_empty()
            && happened[3].contains(PollFlags::IN)
            && let Some(one) = &mut membership
            && !one.renew()
        {
            membership = None;
        }
        if happened[1].is_empty()
            && happened[4].contains(PollFlags::IN)
            && let Some(one) = helper.take()
        {
            (one.lost)();
        }
        if host.is_some() && happened[2].contains(PollFlags::IN) {
            host = None;
            child.kill();
        }
        if !happened[1].is_empty() {
            if let Some(pump) = &mut pump {
                pump.drain()?;
            }
            return Ok(());
        }
        if gone && deadline.is_none() {
            // Nobody sees or types any more: the terminal inside hangs up, too, and who does not care is killed.
            pump = None;
            child.signal(libc::SIGHUP)?;
            child.signal(libc::SIGCONT)?;
            deadline = Some(Instant::now() + AFTER_HANGUP);
        }
    }
}

/// The caller's side of a hang-up: a window that is closed, a connection that is lost.
struct Caller {
    ignores_hangup: bool,
    had_terminal: bool,
}

impl Caller {
    fn here() -> Self {
        Self {
            // nohup(1).
            ignores_hangup: sys::signal::is_ignored(libc::SIGHUP),
            had_terminal: has_terminal(),
        }
    }

    fn has_vanished(&self) -> bool {
        self.had_terminal && !has_terminal()
    }
}

/// Whether this session has a terminal. Source: tty(4): opening `/dev/tty` fails without one.
fn has_terminal() -> bool {
    sys::fs::open_trusted(Path::new("/dev/tty"), OFlags::RDWR | OFlags::NOCTTY).is_ok()
}

/// Whether the caller's terminal is still there, as reading and writing tell.
#[derive(PartialEq, Eq)]
enum Outside {
    There,
    Gone,
    /// The user wants to go.
    Left,
}

/// Carries bytes between the caller's terminal and the container's.
struct Pump {
    console: OwnedFd,
    /// Held, for without any other end the console would be ready (`POLLHUP`) all the time; the program may open
    /// its terminal again.
    _other_end: OwnedFd,
    /// Typed, not yet taken by the container.
    pending: Vec<u8>,
    input_open: bool,
    output_open: bool,
}

impl Pump {
    fn new(console: OwnedFd, interactive: bool) -> Result<Self> {
        // A program that does not read must not keep us from showing what it writes.
        rustix::fs::fcntl_setfl(&console, OFlags::RDWR | OFlags::NONBLOCK)
            .context("preparing the terminal")?;
        Ok(Self {
            _other_end: sys::tty::peer(console.as_fd())?,
            console,
            pending: Vec::new(),
            input_open: interactive,
            output_open: true,
        })
    }

    fn console_events(&self) -> PollFlags {
        let read = if self.output_open {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        if self.pending.is_empty() {
            read
        } else {
            read | PollFlags::OUT
        }
    }

    fn wants_input(&self) -> bool {
        self.input_open && self.pending.is_empty()
    }

    fn turn(&mut self, events: PollFlags) -> Result<Outside> {
        if events.contains(PollFlags::OUT) {
            self.write_pending();
        }
        if events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
            && self.show()? == Shown::Nowhere
        {
            return Ok(Outside::Gone);
        }
        Ok(Outside::There)
    }

    fn write_pending(&mut self) {
        match rustix::io::write(&self.console, &self.pending) {
            Ok(written) => drop(self.pending.drain(..written)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // The container's side is gone; its end comes next.
            Err(_) => self.pending.clear(),
        }
    }

    /// Shows one buffer of what the container wrote.
    fn show(&mut self) -> Result<Shown> {
        let mut buffer = [0_u8; 16 << 10];
        match rustix::io::read(&self.console, &mut buffer) {
            Ok(0) => self.output_open = false,
            Ok(length) => {
                let mut stdout = std::io::stdout().lock();
                let written = stdout
                    .write_all(&buffer[..length])
                    .and_then(|()| stdout.flush());
                let Err(error) = written else {
                    return Ok(Shown::Some);
                };
                return match Errno::from_io_error(&error) {
                    // Nobody reads any more; the program goes on, as it does under docker.
                    Some(Errno::PIPE) => Ok(Shown::Nothing),
                    // The terminal has hung up.
                    Some(Errno::IO) => Ok(Shown::Nowhere),
                    _ => Err(anyhow::Error::from(error).context("writing to the terminal")),
                };
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.output_open = false,
        }
        Ok(Shown::Nothing)
    }

    fn read_input(&mut self, stdin: &std::io::Stdin, keys: Option<&mut Keys>) -> Result<Outside> {
        let mut buffer = [0_u8; 4096];
        match rustix::io::read(stdin, &mut buffer) {
            Ok(length @ 1..) => {
                let mut left = false;
                match keys {
                    Some(keys) => {
                        let (typed, done) = keys.filter(&buffer[..length]);
                        self.pending.extend(typed);
                        left = done;
                    }
                    None => self.pending.extend_from_slice(&buffer[..length]),
                }
                self.write_pending();
                if left {
                    return Ok(Outside::Left);
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // In raw mode no key ends the input: the terminal has hung up (termios(3)).
            Ok(0) | Err(Errno::IO) => {
                self.input_open = false;
                return Ok(Outside::Gone);
            }
            Err(errno) => return Err(sys::Error::new("read(standard input)", errno).into()),
        }
        Ok(Outside::There)
    }

    fn drain(&mut self) -> Result<()> {
        while self.output_open && self.show()? == Shown::Some {}
        Ok(())
    }
}

/// What became of the container's output.
#[derive(PartialEq, Eq)]
enum Shown {
    Some,
    /// There is none now.
    Nothing,
    /// There is no terminal to show it on.
    Nowhere,
}
