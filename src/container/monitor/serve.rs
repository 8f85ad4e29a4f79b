//! The poll loop of a monitor: the program, its streams and log, and those who watch.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::{Client, Monitor, Streams, timespec};
use crate::container::attach::Kind;
use crate::container::events::{self, Event};
use crate::container::health::{self, Checks};
use crate::container::logs::Stream;
use crate::error::Fail;
use crate::stage::parent::Running;
use crate::sys;

/// How much a watcher may be behind before the container's output waits for it, in bytes.
const BEHIND: usize = 64 << 10;

impl Monitor {
    /// The poll loop of one run: until the program has ended and its output is taken.
    pub(super) fn serve(&mut self, running: &Running, streams: &mut Streams) -> Result<()> {
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
                    crate::container::emit(self.record.store(), &event);
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

    pub(super) fn welcome(&mut self) {
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
    pub(super) fn pause(&mut self, delay: Duration) -> Result<()> {
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
