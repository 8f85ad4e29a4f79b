//! `rl:[monitor] NAME`: the parent of one container for as long as it lives.
//!
//! One thread, one poll loop. It owns the container's lock, its output and log, its terminal, its exit code,
//! and starts it again where the restart policy says so. Started by [`spawn`], which hands it the lock; what
//! keeps the first start from succeeding goes back over the same conversation.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::attach::{Kind, Peer};
use super::events::{self, Event};
use super::health::{self, Checks};
use super::logs::{Stream, Writer};
use super::networks::Membership;
use super::record::{Lock, Record};
use super::start::start;
use super::state::{self, State, Status};
use super::{Machine, group};
use crate::cgroup::Group;
use crate::error::{self, Fail};
use crate::net::Uplink;
use crate::paths::{self, Store};
use crate::spec::{ContainerSpec, Restart};
use crate::stage::parent::Running;
use crate::sys;
use crate::sys::process::{Detached, Exit};
use crate::sys::socket::Channel;

/// The word after the program's name that makes it a monitor. Not for people.
pub const MONITOR: &str = "__monitor";

/// How much a watcher may be behind before the container's output waits for it, in bytes.
const BEHIND: usize = 64 << 10;

/// How long a program must have run for the next restart to be as quick as the first. Docker's value.
const STEADY: Duration = Duration::from_secs(10);

/// What the monitor says until the program runs.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// A line for the user.
    Say(String),
    /// The program runs; this is its pid on the host.
    Started(i32),
    /// It does not.
    Failed(Fail),
}

/// Starts a monitor for the container, waits until its program runs, and returns its pid on the host.
/// `watcher` is its first client, which misses nothing.
///
/// # Errors
/// What keeps the program from starting.
pub fn spawn(
    record: &Record,
    name: &str,
    lock: &Lock,
    watcher: Option<&UnixStream>,
    say: &mut dyn FnMut(&str),
) -> Result<i32> {
    let (mut here, there) = Channel::pair().context("making a socket pair")?;
    let null = sys::fs::open_trusted(Path::new("/dev/null"), OFlags::RDWR)?;
    let text = |text: &str| CString::new(text).context("a NUL byte in a path or name");
    let root = record
        .store()
        .root()
        .to_str()
        .context("the store's path is not UTF-8")?;
    super::state::check_reach()?;
    let argv = [
        text(&format!("rl:[monitor] {name}"))?,
        text(MONITOR)?,
        text(root)?,
        text(&record.id)?,
    ];
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(name, value)| {
            use std::os::unix::ffi::OsStrExt as _;
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        })
        .collect();
    let mut fds: Vec<BorrowedFd<'_>> = vec![there.as_fd(), lock.file().as_fd()];
    fds.extend(watcher.map(UnixStream::as_fd));
    let child = sys::process::spawn_detached(&Detached {
        argv: &argv,
        env: &env,
        null: null.as_fd(),
        fds: &fds,
    })?;
    drop(there);
    loop {
        let Some((message, _)) = here.receive().context("listening to the monitor")? else {
            let exit = child.wait()?;
            return Err(Fail::system(format!("the container's monitor ended ({exit:?})")).into());
        };
        match serde_json::from_slice(&message).context("reading what the monitor says")? {
            Report::Say(line) => say(&line),
            Report::Started(pid) => return Ok(pid),
            Report::Failed(fail) => {
                let _ = child.wait(); // it has said everything
                return Err(fail.into());
            }
        }
    }
}

/// The whole of it, for `words` = store, id. Leaves by `_exit`.
pub fn main(words: &[String]) -> ! {
    let code = match run(words) {
        Ok(()) => 0,
        // Whoever waited for the first start was told; later there is `state.json`.
        Err(_) => 125,
    };
    sys::process::exit_now(code)
}

fn run(words: &[String]) -> Result<()> {
    let [root, id] = words else {
        return Err(Fail::usage("a monitor is started by rl itself").into());
    };
    let mut channel = Channel::from_fd(sys::process::inherited(3)?);
    let lock = Lock::from_file(std::fs::File::from(sys::process::inherited(4)?));
    let mut monitor = match Monitor::prepare(root, id) {
        Ok(monitor) => monitor,
        Err(error) => {
            let text = serde_json::to_vec(&Report::Failed(error::flatten(&error)))?;
            let _ = channel.send(&text, None); // whoever started us may be gone
            return Err(error);
        }
    };
    monitor.report = Some(channel);
    let done = monitor.live();
    if let Ok(socket) = paths::monitor_socket(id) {
        let _ = std::fs::remove_file(socket); // one that nobody listens on is replaced by the next
    }
    monitor.part(lock, done)
}

/// One watcher.
#[derive(Debug)]
struct Client {
    peer: Peer,
    /// It has closed its end.
    gone: bool,
    /// It wants no output.
    quiet: bool,
    /// It waits for a health check to end.
    awaits_check: bool,
}

impl Client {
    fn new(stream: UnixStream) -> Result<Self> {
        Ok(Self {
            peer: Peer::new(stream).context("preparing a watcher's socket")?,
            gone: false,
            quiet: false,
            awaits_check: false,
        })
    }
}

struct Monitor {
    record: Record,
    spec: ContainerSpec,
    state: State,
    log: Writer,
    signals: sys::signal::Queue,
    listener: Option<UnixListener>,
    report: Option<Channel>,
    clients: Vec<Client>,
    /// While the program runs.
    checks: Option<Checks>,
    stay_ended: bool,
    /// A command wants the program killed.
    die: bool,
    /// The control group of this run.
    group: Option<Group>,
    /// The container's place on named networks, while it runs.
    membership: Option<Membership>,
}

impl Monitor {
    fn prepare(root: &str, id: &str) -> Result<Self> {
        let record = Record::find(&Store::at(PathBuf::from(root)), id)?;
        let mut clients = Vec::new();
        if let Ok(fd) = sys::process::inherited(5) {
            clients.push(Client::new(UnixStream::from(fd))?);
        }
        let spec = record.spec()?;
        Ok(Self {
            state: State::read(&record.dir())?,
            log: Writer::open(&record.dir(), &spec.log)?,
            signals: sys::signal::Queue::all()?,
            listener: None,
            report: None,
            checks: None,
            stay_ended: false,
            die: false,
            group: None,
            membership: None,
            clients,
            spec,
            record,
        })
    }

    /// Runs the container, again and again where it is to be restarted.
    fn live(&mut self) -> Result<()> {
        self.state.owner =
            state::Process::of(rustix::process::getpid().as_raw_nonzero().get()).ok();
        self.state.stopped = false;
        self.state.restarts = 0;
        let mut delay = FIRST_DELAY;
        loop {
            let begun = Instant::now();
            let ended = self.once();
            self.leave_group();
            let code = match ended {
                Ok(exit) => exit.code(),
                Err(error) => {
                    let fail = error::flatten(&error);
                    self.state.error = Some(fail.message.clone());
                    self.state.status = if self.state.started.is_none() {
                        Status::Created
                    } else {
                        Status::Exited
                    };
                    self.state.exit_code = fail.kind.exit_code();
                    self.state.process = None;
                    self.state.owner = None;
                    self.note();
                    self.tell(&Report::Failed(fail));
                    return Err(error);
                }
            };
            self.state.status = Status::Exited;
            self.state.exit_code = code;
            self.state.finished = Some(state::now());
            self.state.process = None;
            if self.state.oom_killed {
                self.emit("oom", None);
            }
            self.state.ports.clear();
            self.emit("die", Some(code));
            let again =
                !self.stay_ended && wants_restart(self.spec.restart, code, self.state.restarts);
            if !again {
                self.state.owner = None;
                return self.state.write(&self.record.dir());
            }
            if begun.elapsed() >= STEADY {
                (delay, self.state.restarts) = (FIRST_DELAY, 0);
            }
            self.state.status = Status::Restarting;
            self.state.restarts += 1;
            self.note();
            self.pause(delay)?;
            delay = (delay * 2).min(Duration::from_secs(60));
            if self.stay_ended {
                self.state.status = Status::Exited;
                self.state.owner = None;
                return self.state.write(&self.record.dir());
            }
        }
    }

    /// The end: watchers get the exit code, a `--rm` container goes.
    fn part(&mut self, lock: Lock, done: Result<()>) -> Result<()> {
        let code = self.state.exit_code;
        let mut last = Vec::new();
        // Who came while the program ended is told as well.
        for _ in 0..self.clients.len() + 64 {
            let before = self.clients.len();
            self.welcome();
            if self.clients.len() == before {
                break;
            }
        }
        self.listener = None;
        let removed = if self.spec.remove {
            self.remove(lock)
        } else {
            Ok(())
        };
        for mut client in self.clients.drain(..) {
            if client.peer.say(Kind::Exit, &[code]).is_ok() {
                last.push(client);
            }
        }
        // What they have not read yet stays in the socket; only a full one has to be waited for.
        for mut client in last {
            let until = Instant::now() + Duration::from_secs(2);
            while client.peer.waiting() > 0 && Instant::now() < until {
                let mut fds = [PollFd::new(&client.peer.stream, PollFlags::OUT)];
                if rustix::event::poll(&mut fds, Some(&timespec(Duration::from_secs(2)))).is_err()
                    || client.peer.send().is_err()
                {
                    break;
                }
            }
        }
        done.and(removed)
    }

    /// What `--rm` promises; what is left is swept by the next command.
    fn remove(&self, lock: Lock) -> Result<()> {
        let machine = Machine::look(self.record.store(), &self.spec, &mut |_| ())?;
        self.record
            .remove_volumes(&self.spec, &machine.plan, machine.helpers())?;
        self.record.remove(lock, &machine.plan, machine.helpers())
    }

    /// Writes the state down. A full disk keeps no container from running: readers compare what is there with
    /// the processes that live.
    fn note(&self) {
        let _ = self.state.write(&self.record.dir()); // the next change is written again
    }

    /// Tells those who watch `rl events`.
    fn emit(&self, action: &str, exit: Option<u8>) {
        let mut event = Event::container(action, &self.spec);
        if let Some(code) = exit {
            event = event.with("exitCode", &code);
        }
        let _ = events::emit(self.record.store(), &event); // a full disk must not keep a container from running
    }

    fn tell(&mut self, report: &Report) {
        if let (Some(channel), Ok(text)) = (&mut self.report, serde_json::to_vec(report)) {
            let _ = channel.send(&text, None); // whoever started us may be gone
        }
        if !matches!(report, Report::Say(_)) {
            self.report = None;
        }
    }

    /// After a run: its control group goes, and what `rl update` has changed meanwhile holds for the next.
    fn leave_group(&mut self) {
        self.state.oom_killed = group::end(&self.record, self.group.take());
        self.state.cgroup = None;
        if let Ok(spec) = self.record.spec() {
            self.spec = spec;
        }
    }

    /// One run of the program.
    fn once(&mut self) -> Result<Exit> {
        let mut lines = Vec::new();
        let mut say = |line: &str| lines.push(line.to_owned());
        let mut machine = Machine::look(self.record.store(), &self.spec, &mut say)?;
        machine.join(self.record.store(), &self.spec, &mut say)?;
        self.group = group::make(&self.spec)?;
        let mut membership = Membership::reserve(&self.record)?;
        let process = &self.spec.process;
        let null = sys::fs::open_trusted(Path::new("/dev/null"), OFlags::RDWR)?;
        let pipe =
            || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("making a pipe");
        let mut streams = Streams::default();
        let mut stdio: [Option<OwnedFd>; 3] = [None, None, None];
        if !process.tty {
            if process.interactive {
                let (read, write) = pipe()?;
                rustix::io::ioctl_fionbio(&write, true).context("preparing a pipe")?;
                (stdio[0], streams.input) = (Some(read), Some(write));
            }
            let (read, write) = pipe()?;
            (streams.output, stdio[1]) = (Some(read), Some(write));
            let (read, write) = pipe()?;
            (streams.error, stdio[2]) = (Some(read), Some(write));
        }
        let fd = |position: usize| {
            Some(
                stdio[position]
                    .as_ref()
                    .map_or(null.as_fd(), |fd: &OwnedFd| fd.as_fd()),
            )
        };
        let (_, mut running) = start(
            &self.record,
            &mut machine,
            self.group.as_ref(),
            membership.as_mut(),
            [fd(0), fd(1), fd(2)],
            &mut |line| lines.push(line.to_owned()),
        )?;
        drop(stdio);
        for line in lines {
            self.tell(&Report::Say(line));
        }
        let pid = running.child.pid.as_raw_nonzero().get();
        self.state.status = Status::Running;
        self.state.error = None;
        self.state.started = Some(state::now());
        self.state.process = state::Process::of(pid).ok();
        self.state.cgroup = self.group.as_ref().map(|group| group.path().to_owned());
        self.state.ports.clone_from(&running.ports);
        self.state.write(&self.record.dir())?;
        self.emit("start", None);
        self.listen();
        self.tell(&Report::Started(pid));
        streams.console = running.console.take();
        if let Some(console) = &streams.console {
            rustix::io::ioctl_fionbio(console, true).context("preparing the terminal")?;
        }
        if let Some(membership) = &membership {
            membership.tell("connect");
        }
        self.membership = membership;
        streams.helper = running.helper().map(Uplink::watch).transpose()?;
        if let Some(process) = running.emulation() {
            let watched = process.pidfd.try_clone();
            streams.emulation = Some(watched.context("watching the process that emulates root")?);
        }
        self.checks = Checks::begin(&self.record, &self.spec);
        let served = self.serve(&running, &mut streams);
        self.checks = None;
        if served.is_err() {
            running.child.kill();
        }
        let exit = running.child.wait();
        if running.lost_emulation() {
            self.state.error = Some(super::emulation::LOST.to_owned());
        }
        running.release();
        if let Some(membership) = self.membership.take() {
            membership.tell("disconnect");
        }
        served?;
        Ok(exit?)
    }

    /// Takes watchers from now on. Without a place for the socket the container runs all the same.
    fn listen(&mut self) {
        if self.listener.is_some() {
            return;
        }
        let made = paths::monitor_socket(&self.record.id).and_then(|socket| {
            let _ = std::fs::remove_file(&socket); // of a monitor that was killed: we hold the lock
            UnixListener::bind(&socket)
                .with_context(|| format!("listening on `{}`", socket.display()))
        });
        match made {
            Ok(listener) => {
                self.listener = listener.set_nonblocking(true).is_ok().then_some(listener);
            }
            Err(error) => {
                let code = crate::error::find(&error).and_then(|fail| fail.code.as_deref());
                let more = code.map(|code| format!(" (rl explain {code})"));
                self.tell(&Report::Say(format!(
                    "rl attach will not reach it: {error:#}{}",
                    more.unwrap_or_default()
                )));
            }
        }
    }

    /// The poll loop of one run: until the program has ended and its output is taken.
    fn serve(&mut self, running: &Running, streams: &mut Streams) -> Result<()> {
        let after = |seconds| Instant::now() + Duration::from_secs(seconds);
        let mut deadline = self.spec.timeout_s.map(after);
        let mut asked = false;
        loop {
            let happened = self.wait(Some(&running.child.pidfd), streams, deadline)?;
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                running.child.kill();
                deadline = None;
            }
            if happened.contains_key(&Source::Signal) {
                let signal = self.signals.wait()?;
                // A monitor that is asked to end stops its container, as `rl stop` would: a log-out, a shutdown.
                if matches!(signal.number, libc::SIGTERM | libc::SIGHUP | libc::SIGINT)
                    && !signal.from_kernel
                    && !asked
                {
                    (asked, self.stay_ended) = (true, true);
                    let number =
                        sys::signal::number(&self.spec.stop_signal).unwrap_or(libc::SIGTERM);
                    let event = Event::container("kill", &self.spec).with("signal", &number);
                    super::emit(self.record.store(), &event);
                    running.child.signal(number)?;
                    let patience = after(u64::from(self.spec.stop_timeout_s));
                    deadline = Some(deadline.map_or(patience, |deadline| deadline.min(patience)));
                }
            }
            self.turn(&happened, streams)?;
            if self.die {
                running.child.kill();
            }
            if happened.contains_key(&Source::Program) {
                self.drain(streams)?;
                return Ok(());
            }
            if happened.contains_key(&Source::Emulation) {
                // Nothing inside goes on without it.
                streams.emulation = None;
                running.child.kill();
            }
            if happened.contains_key(&Source::Helper) {
                streams.helper = None;
                let helper = running.helper();
                if let Some((who, why)) = helper.and_then(|one| one.lost(&running.child.pidfd)) {
                    self.lose_network(who, why);
                }
            }
        }
    }

    /// The container goes on without a network; who looks at it is told, and a restart heals it.
    fn lose_network(&mut self, who: &str, why: String) {
        self.state.error = Some(why);
        self.state.ports.clear();
        self.note();
        let event = Event::container("network_lost", &self.spec).with("helper", who);
        let _ = events::emit(self.record.store(), &event); // as in `emit`
    }

    /// Waits until something happens; what, and how.
    fn wait(
        &self,
        program: Option<&OwnedFd>,
        streams: &Streams,
        deadline: Option<Instant>,
    ) -> Result<BTreeMap<Source, PollFlags>> {
        // Output waits for the slowest watcher: nothing is lost and nothing piles up.
        let behind = self
            .clients
            .iter()
            .any(|client| client.peer.waiting() > BEHIND);
        let mut sources = vec![(Source::Signal, self.signals.as_fd(), PollFlags::IN)];
        sources.extend(program.map(|fd| (Source::Program, fd.as_fd(), PollFlags::IN)));
        if let (Some(membership), Some(_)) = (&self.membership, program) {
            sources.push((Source::Network, membership.as_fd(), PollFlags::IN));
        }
        if let Some(helper) = &streams.helper {
            sources.push((Source::Helper, helper.as_fd(), PollFlags::IN));
        }
        if let Some(process) = &streams.emulation {
            sources.push((Source::Emulation, process.as_fd(), PollFlags::IN));
        }
        if let Some(listener) = &self.listener {
            sources.push((Source::Listener, listener.as_fd(), PollFlags::IN));
        }
        for (position, client) in self.clients.iter().enumerate() {
            let output = if client.peer.waiting() > 0 {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            let input = if streams.pending.len() < BEHIND {
                PollFlags::IN
            } else {
                PollFlags::empty()
            };
            sources.push((
                Source::Client(position),
                client.peer.stream.as_fd(),
                output | input,
            ));
        }
        for (source, fd) in [
            (Source::Output, &streams.output),
            (Source::Error, &streams.error),
        ] {
            if let (Some(fd), false) = (fd, behind) {
                sources.push((source, fd.as_fd(), PollFlags::IN));
            }
        }
        if let Some(console) = &streams.console {
            let read = if behind || streams.hung_up {
                PollFlags::empty()
            } else {
                PollFlags::IN
            };
            let write = if streams.pending.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::OUT
            };
            if !(read | write).is_empty() {
                sources.push((Source::Console, console.as_fd(), read | write));
            }
        }
        if let (Some(input), false) = (&streams.input, streams.pending.is_empty()) {
            sources.push((Source::Input, input.as_fd(), PollFlags::OUT));
        }
        let checks = self.checks.as_ref();
        for fd in checks.map(Checks::descriptors).unwrap_or_default() {
            sources.push((Source::Check, fd, PollFlags::IN));
        }
        let due = checks.and_then(Checks::deadline);
        let deadline = deadline.into_iter().chain(due).min();
        let mut fds: Vec<PollFd<'_>> = sources
            .iter()
            .map(|(_, fd, events)| PollFd::from_borrowed_fd(*fd, *events))
            .collect();
        let timeout =
            deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(sys::Error::new("poll()", errno).into()),
        }
        let happened = sources
            .iter()
            .zip(&fds)
            .map(|((source, ..), fd)| (*source, fd.revents()));
        Ok(happened.filter(|(_, events)| !events.is_empty()).collect())
    }

    fn turn(
        &mut self,
        happened: &BTreeMap<Source, PollFlags>,
        streams: &mut Streams,
    ) -> Result<()> {
        for (source, events) in happened {
            match source {
                Source::Signal
                | Source::Program
                | Source::Helper
                | Source::Emulation
                | Source::Check => {}
                Source::Network => {
                    // A container that has just ended needs no networks.
                    if !happened.contains_key(&Source::Program)
                        && self.membership.as_mut().is_some_and(|one| !one.renew())
                    {
                        self.membership = None;
                        self.state.ports.clear();
                        self.note();
                    }
                }
                Source::Listener => self.welcome(),
                Source::Output | Source::Error => {
                    self.take(*source, streams)?;
                }
                Source::Console => {
                    if events.contains(PollFlags::OUT) {
                        streams.feed();
                    }
                    if events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                        self.take(*source, streams)?;
                    }
                }
                Source::Input => streams.feed(),
                Source::Client(position) => {
                    if self.hear(*position, streams).is_err() {
                        // Removed below, when the others have been served under their numbers.
                        self.clients[*position].gone = true;
                    }
                }
            }
        }
        self.check_health();
        self.clients.retain(|client| !client.gone);
        Ok(())
    }

    fn check_health(&mut self) {
        let Some(code) = self.checks.as_mut().and_then(Checks::step) else {
            return;
        };
        for client in self.clients.iter_mut().filter(|client| client.awaits_check) {
            client.awaits_check = false;
            client.gone |= client.peer.say(Kind::Done, &[health::word(code)]).is_err();
        }
    }

    fn welcome(&mut self) {
        if let Some(listener) = &self.listener
            && let Ok((stream, _)) = listener.accept()
            && let Ok(client) = Client::new(stream)
        {
            self.clients.push(client);
        }
    }

    fn hear(&mut self, position: usize, streams: &mut Streams) -> Result<()> {
        let client = &mut self.clients[position];
        client.peer.send()?;
        let (mut stay_ended, mut size, mut end) = (false, None, false);
        let (mut die, mut quiet, mut check) = (false, client.quiet, false);
        let pending = &mut streams.pending;
        let open = client.peer.receive(|kind, body| match kind {
            Kind::Input => pending.extend_from_slice(body),
            Kind::EndOfInput => end = true,
            Kind::Size => size = <[u8; 4]>::try_from(body).ok(),
            Kind::StayEnded => stay_ended = true,
            Kind::Die => (stay_ended, die) = (true, true),
            Kind::Wait => quiet = true,
            Kind::Check => check = true,
            Kind::Output | Kind::Error | Kind::Exit | Kind::Done => {}
        })?;
        if let (Some([a, b, c, d]), Some(console)) = (size, &streams.console) {
            sys::tty::set_size(
                console.as_fd(),
                u16::from_ne_bytes([a, b]),
                u16::from_ne_bytes([c, d]),
            );
        }
        client.quiet = quiet;
        if check && let Some(checks) = &mut self.checks {
            client.awaits_check = true;
            checks.hurry();
        }
        self.die |= die;
        streams.end_of_input |= end;
        streams.feed();
        if stay_ended {
            self.stay_ended = true;
            self.state.stopped = true;
            self.note();
            self.clients[position].peer.say(Kind::Done, &[])?;
        }
        if open {
            Ok(())
        } else {
            Err(Fail::system("a watcher has left").into())
        }
    }

    /// Takes one buffer of the container's output; false when there is nothing now.
    fn take(&mut self, source: Source, streams: &mut Streams) -> Result<bool> {
        let (fd, stream, kind) = match source {
            Source::Error => (&mut streams.error, Stream::Stderr, Kind::Error),
            Source::Console => (&mut streams.console, Stream::Stdout, Kind::Output),
            Source::Output
            | Source::Input
            | Source::Signal
            | Source::Program
            | Source::Network
            | Source::Helper
            | Source::Emulation
            | Source::Listener
            | Source::Check
            | Source::Client(_) => (&mut streams.output, Stream::Stdout, Kind::Output),
        };
        let Some(open) = fd else { return Ok(false) };
        let mut buffer = [0_u8; 16 << 10];
        match rustix::io::read(open.as_fd(), &mut buffer) {
            Ok(0) => *fd = None,
            Ok(length) => {
                self.log.write(stream, &buffer[..length]);
                for client in self.clients.iter_mut().filter(|client| !client.quiet) {
                    client.gone |= client.peer.say(kind, &buffer[..length]).is_err();
                }
                return Ok(true);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EIO: the last process that had the terminal open is gone (pty(7)); writing may still be asked for.
            Err(_) if source == Source::Console => streams.hung_up = true,
            Err(_) => *fd = None,
        }
        Ok(false)
    }

    /// What is still in the pipes. A process that escaped the end of pid 1 cannot exist: nothing more comes.
    fn drain(&mut self, streams: &mut Streams) -> Result<()> {
        for fd in [&streams.output, &streams.error].into_iter().flatten() {
            rustix::io::ioctl_fionbio(fd, true).context("preparing a pipe")?;
        }
        for source in [Source::Output, Source::Error, Source::Console] {
            while self.take(source, streams)? {
                self.catch_up(streams)?;
            }
        }
        self.log.flush();
        Ok(())
    }

    /// Lets watchers that are far behind read before more is taken.
    fn catch_up(&mut self, streams: &mut Streams) -> Result<()> {
        let quiet = Streams::default();
        let until = Instant::now() + Duration::from_secs(10);
        while self
            .clients
            .iter()
            .any(|client| client.peer.waiting() > BEHIND)
            && Instant::now() < until
        {
            let happened = self.wait(None, &quiet, Some(until))?;
            self.turn(&happened, streams)?;
        }
        Ok(())
    }

    /// Waits before a restart; watchers are served meanwhile, and may cancel it.
    fn pause(&mut self, delay: Duration) -> Result<()> {
        let until = Instant::now() + delay;
        let mut none = Streams::default();
        while Instant::now() < until && !self.stay_ended {
            let happened = self.wait(None, &none, Some(until))?;
            if happened.contains_key(&Source::Signal) {
                let signal = self.signals.wait()?;
                self.stay_ended |=
                    matches!(signal.number, libc::SIGTERM | libc::SIGHUP | libc::SIGINT);
            }
            self.turn(&happened, &mut none)?;
        }
        Ok(())
    }
}

/// The delay before the first restart; doubled each time. Docker's value.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// Whether a program that ended with `code` is started once more.
fn wants_restart(policy: Restart, code: u8, restarts: u32) -> bool {
    match policy {
        Restart::No => false,
        Restart::OnFailure { most } => code != 0 && (most == 0 || restarts < most),
        Restart::Always | Restart::UnlessStopped => true,
    }
}

fn timespec(duration: Duration) -> rustix::time::Timespec {
    rustix::time::Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Where something can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Signal,
    Program,
    Network,
    Helper,
    Emulation,
    Listener,
    Check,
    Output,
    Error,
    Console,
    Input,
    Client(usize),
}

/// The container's streams, as the monitor holds them.
#[derive(Debug, Default)]
struct Streams {
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    error: Option<OwnedFd>,
    console: Option<OwnedFd>,
    /// Ready when the network's helper has ended.
    helper: Option<OwnedFd>,
    /// Ready when the process that emulates root has ended.
    emulation: Option<OwnedFd>,
    /// Nobody has the terminal open.
    hung_up: bool,
    /// Typed, not yet taken by the program.
    pending: Vec<u8>,
    /// After `pending` there is nothing more.
    end_of_input: bool,
}

impl Streams {
    /// Gives the program what it takes now.
    fn feed(&mut self) {
        let Some(to) = self.input.as_ref().or(self.console.as_ref()) else {
            self.pending.clear();
            return;
        };
        while !self.pending.is_empty() {
            match rustix::io::write(to, &self.pending) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // It has closed its input.
                Err(_) => self.pending.clear(),
            }
        }
        if self.end_of_input {
            self.input = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_are_dockers() {
        for (policy, code, restarts, again) in [
            (Restart::No, 1, 0, false),
            (Restart::OnFailure { most: 0 }, 1, 9, true),
            (Restart::OnFailure { most: 2 }, 1, 1, true),
            (Restart::OnFailure { most: 2 }, 1, 2, false),
            (Restart::OnFailure { most: 2 }, 0, 0, false),
            (Restart::Always, 0, 100, true),
            (Restart::UnlessStopped, 137, 0, true),
        ] {
            assert_eq!(
                wants_restart(policy, code, restarts),
                again,
                "{policy:?} {code} {restarts}"
            );
        }
    }
}
