//! The command's side of a container that has a monitor: shows its output, passes input, keys and signals.
//!
//! One thread, one poll loop. Leaving does not end the container.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::attach::{Kind, Peer};
use super::record::Record;
use crate::error::Fail;
use crate::paths;
use crate::sys;

/// How to watch.
#[derive(Debug, Clone)]
pub struct Watch {
    /// The container has a terminal.
    pub tty: bool,
    /// What is typed goes to the program.
    pub input: bool,
    /// Signals to this command go to the program.
    pub sig_proxy: bool,
    /// The keys that leave; none when empty.
    pub detach_keys: Vec<u8>,
}

/// How watching ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// The program ended with this code.
    Ended(u8),
    /// The user left; it runs on.
    Detached,
}

/// Connects to the monitor of a running container.
///
/// # Errors
/// `Conflict` when it has none.
pub fn connect(record: &Record, name: &str) -> Result<UnixStream> {
    let path = paths::monitor_socket(&record.id)?;
    let error = match UnixStream::connect(&path) {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    // One that was started with -d has a monitor as long as it runs.
    let fail = if record.spec()?.detached {
        Fail::conflict(format!(
            "container `{name}` cannot be reached: its socket `{}` has gone",
            path.display()
        ))
        .hint("set XDG_RUNTIME_DIR and RL_RUNTIME_DIR as they were when it was started; or something has cleaned the directory")
        .hint(format!("all but attach goes on working; to attach again: rl restart {name}"))
        .code("RL-F07")
    } else {
        Fail::conflict(format!("container `{name}` has no monitor to attach to"))
            .hint("it runs in the foreground of another command, or another runtime directory (XDG_RUNTIME_DIR) was in use when it was started")
    };
    Err(anyhow::Error::from(error).context(fail))
}

/// Watches until the program ends or the user leaves.
///
/// # Errors
/// When the terminal or the monitor fails.
pub fn watch(record: &Record, stream: UnixStream, how: &Watch) -> Result<Left> {
    let signals = sys::signal::Queue::all()?;
    let stdin = std::io::stdin();
    let terminal = how.tty && how.input && sys::tty::is_terminal(&stdin);
    // Undone when this returns, whatever happened.
    let _raw = if terminal {
        Some(sys::tty::Raw::enter(stdin.as_fd())?)
    } else {
        None
    };
    let mut peer = Peer::new(stream).context("preparing the monitor's socket")?;
    let mut keys = Keys::new(how.detach_keys.clone());
    let mut input = how.input;
    if how.tty {
        say_size(&mut peer);
    }
    let mut exit = None;
    let mut output_gone = false;
    loop {
        let reads_input = input && peer.waiting() < super::attach::MOST;
        let out = if peer.waiting() > 0 {
            PollFlags::OUT
        } else {
            PollFlags::empty()
        };
        let mut fds = vec![
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(&peer.stream, PollFlags::IN | out),
        ];
        if reads_input {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(sys::Error::new("poll()", errno).into()),
        }
        let happened: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        if !happened[0].is_empty() {
            let signal = signals.wait()?;
            if signal.number == libc::SIGWINCH && how.tty {
                say_size(&mut peer);
            } else if !matches!(signal.number, libc::SIGCHLD | libc::SIGWINCH) {
                if how.sig_proxy {
                    pass(record, signal.number);
                } else if matches!(signal.number, libc::SIGINT | libc::SIGTERM | libc::SIGHUP) {
                    return Ok(Left::Detached);
                }
            }
        }
        if !happened[1].is_empty() {
            let _ = peer.send(); // a monitor that is gone shows below
            let mut failed = None;
            let open = peer
                .receive(|kind, body| match kind {
                    Kind::Exit => exit = body.first().copied(),
                    Kind::Output | Kind::Error if !output_gone => {
                        if let Err(error) = show(kind, body) {
                            failed = Some(error);
                        }
                    }
                    Kind::Output
                    | Kind::Error
                    | Kind::Input
                    | Kind::EndOfInput
                    | Kind::Size
                    | Kind::StayEnded
                    | Kind::Die
                    | Kind::Wait
                    | Kind::Check
                    | Kind::Done => {}
                })
                .context("listening to the monitor")?;
            match failed {
                // Nobody reads any more; the program goes on, as it does under docker.
                Some(error) if error.kind() == std::io::ErrorKind::BrokenPipe => output_gone = true,
                Some(error) => {
                    return Err(
                        anyhow::Error::from(error).context("writing the container's output")
                    );
                }
                None => {}
            }
            if let Some(code) = exit {
                return Ok(Left::Ended(code));
            }
            if !open {
                // Killed, or gone before it could say: what was written down is what is known.
                return super::lifecycle::wait(record).map(Left::Ended);
            }
        }
        if happened.get(2).is_some_and(|events| !events.is_empty()) {
            let mut buffer = [0_u8; 16 << 10];
            match rustix::io::read(&stdin, &mut buffer) {
                Ok(0) | Err(Errno::IO) => {
                    input = false;
                    peer.say(Kind::EndOfInput, &[]).ok(); // a monitor that is gone shows on its socket
                }
                Ok(length) => {
                    let (bytes, leave) = keys.filter(&buffer[..length]);
                    peer.say(Kind::Input, &bytes).ok(); // as above
                    if leave {
                        return Ok(Left::Detached);
                    }
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(sys::Error::new("read(standard input)", errno).into()),
            }
        }
    }
}

fn show(kind: Kind, body: &[u8]) -> std::io::Result<()> {
    if kind == Kind::Error {
        return std::io::stderr().lock().write_all(body);
    }
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(body)?;
    stdout.flush()
}

fn say_size(peer: &mut Peer) {
    if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdin())
        && size.ws_row != 0
    {
        let [a, b] = size.ws_row.to_ne_bytes();
        let [c, d] = size.ws_col.to_ne_bytes();
        peer.say(Kind::Size, &[a, b, c, d]).ok(); // a monitor that is gone shows on its socket
    }
}

fn pass(record: &Record, signal: i32) {
    let process = record
        .state()
        .ok()
        .and_then(|state| state.process?.open().ok()?);
    if let Some(process) = process {
        let _ = sys::process::signal_pidfd(&process, signal); // one that has just ended needs none
    }
}

/// Finds the keys that leave in what is typed.
#[derive(Debug)]
pub struct Keys {
    wanted: Vec<u8>,
    seen: usize,
}

impl Keys {
    /// Looks for these; for none when empty.
    #[must_use]
    pub fn new(wanted: Vec<u8>) -> Self {
        Self { wanted, seen: 0 }
    }

    /// What goes on to the program, and whether the keys were complete. Their beginning is held back until it
    /// is known not to be them.
    pub fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for &byte in typed {
            if self.wanted.get(self.seen) == Some(&byte) {
                self.seen += 1;
                if self.seen == self.wanted.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.wanted[..self.seen]);
            self.seen = usize::from(self.wanted.first() == Some(&byte));
            if self.seen == 0 {
                passed.push(byte);
            }
        }
        (passed, false)
    }
}

/// The bytes of `ctrl-p,ctrl-q` and its kin; `None` for what docker does not know either.
#[must_use]
pub fn parse_keys(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',')
        .map(|key| match key.strip_prefix("ctrl-") {
            Some(rest) => {
                let byte = *rest.as_bytes().first().filter(|_| rest.len() == 1)?;
                match byte {
                    b'a'..=b'z' => Some(byte - b'a' + 1),
                    b'@' => Some(0),
                    b'[' => Some(27),
                    b'\\' => Some(28),
                    b']' => Some(29),
                    b'^' => Some(30),
                    b'_' => Some(31),
                    _ => None,
                }
            }
            None => key
                .as_bytes()
                .first()
                .copied()
                .filter(|byte| key.len() == 1 && byte.is_ascii_graphic()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_leave_are_found_and_nothing_else_is_swallowed() {
        let mut keys = Keys::new(vec![16, 17]);
        assert_eq!(keys.filter(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(&[16]), (Vec::new(), false));
        assert_eq!(keys.filter(b"x"), (vec![16, b'x'], false));
        assert_eq!(keys.filter(&[16, 16, 17, b'z']), (vec![16], true));
    }

    #[test]
    fn keys_are_spelled_as_docker_spells_them() {
        for (text, bytes) in [
            ("ctrl-p,ctrl-q", Some(vec![16, 17])),
            ("a,ctrl-@", Some(vec![b'a', 0])),
            ("", Some(Vec::new())),
            ("ctrl-pp", None),
            ("shift-a", None),
        ] {
            assert_eq!(parse_keys(text), bytes, "{text}");
        }
    }
}
