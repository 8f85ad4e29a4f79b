//! `rl:[monitor] NAME`: the parent of one container for as long as it lives.
//!
//! One thread, one poll loop. It owns the container's lock, its output and log, its terminal, its exit code,
//! and starts it again where the restart policy says so. Started by [`spawn`], which hands it the lock; what
//! keeps the first start from succeeding goes back over the same conversation.

mod serve;

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::attach::{Kind, Peer};
use super::events::{self, Event};
use super::health::Checks;
use super::logs::Writer;
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
use crate::sys;
use crate::sys::process::{Detached, Exit};
use crate::sys::socket::Channel;

/// The word after the program's name that makes it a monitor. Not for people.
pub const MONITOR: &str = "__monitor";

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
        machine.begin_ids(true);
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
        let (exit, is_lost) = running.wait();
        if is_lost {
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
