//! The conversation between a monitor and those who watch its container: frames over a Unix socket.
//!
//! ```text
//! kind (1 byte) · length (4 bytes, native order) · body
//! to the monitor:    I input · E end of input · S size (rows, columns: 2 × u16) · X stay ended · D die
//!                    W wait: no output, only the exit code · H check its health now
//! from the monitor:  O standard output · R standard error · C exit code (1 byte) · K done
//! ```

use std::io::Read as _;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;

/// The longest body; a frame with more is a mistake.
pub const MOST: usize = 64 << 10;

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes for the program's standard input.
    Input,
    /// There will be no more of them.
    EndOfInput,
    /// The terminal's new size.
    Size,
    /// The user wants it to stay ended: no restart. Answered by [`Kind::Done`].
    StayEnded,
    /// As [`Kind::StayEnded`], and the program is killed.
    Die,
    /// This watcher wants the exit code and no output.
    Wait,
    /// Its health is to be checked. Answered by [`Kind::Done`] with 0 when it is well.
    Check,
    /// Bytes of its standard output.
    Output,
    /// Bytes of its standard error.
    Error,
    /// Its exit code.
    Exit,
    /// What was asked for is done.
    Done,
}

const KINDS: [(u8, Kind); 11] = [
    (b'I', Kind::Input),
    (b'E', Kind::EndOfInput),
    (b'S', Kind::Size),
    (b'X', Kind::StayEnded),
    (b'D', Kind::Die),
    (b'W', Kind::Wait),
    (b'H', Kind::Check),
    (b'O', Kind::Output),
    (b'R', Kind::Error),
    (b'C', Kind::Exit),
    (b'K', Kind::Done),
];

/// Appends a frame to what waits to be sent.
pub fn append(to: &mut Vec<u8>, kind: Kind, body: &[u8]) {
    for part in body.chunks(MOST).chain(body.is_empty().then_some(body)) {
        let letter = KINDS
            .iter()
            .find(|(_, known)| *known == kind)
            .map_or(b'?', |(letter, _)| *letter);
        to.push(letter);
        to.extend_from_slice(&u32::try_from(part.len()).unwrap_or(0).to_ne_bytes());
        to.extend_from_slice(part);
    }
}

/// One end, for a process with a poll loop.
#[derive(Debug)]
pub struct Peer {
    /// Non-blocking.
    pub stream: UnixStream,
    received: Vec<u8>,
    waiting: Vec<u8>,
}

impl Peer {
    /// The end that `stream` is.
    ///
    /// # Errors
    /// fcntl(2).
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            received: Vec::new(),
            waiting: Vec::new(),
        })
    }

    /// Puts a frame into the queue and sends what the other side takes now.
    ///
    /// # Errors
    /// When the other side is gone.
    pub fn say(&mut self, kind: Kind, body: &[u8]) -> std::io::Result<()> {
        append(&mut self.waiting, kind, body);
        self.send()
    }

    /// Bytes that the other side has not taken yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sends what the other side takes now.
    ///
    /// # Errors
    /// When it is gone.
    pub fn send(&mut self) -> std::io::Result<()> {
        while !self.waiting.is_empty() {
            match rustix::net::send(
                &self.stream,
                &self.waiting,
                rustix::net::SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => drop(self.waiting.drain(..sent)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to(4096);
        }
        Ok(())
    }

    /// Takes what has arrived; false when the other side has closed.
    ///
    /// # Errors
    /// recv(2); `InvalidData` for what is no frame.
    pub fn receive(&mut self, mut handle: impl FnMut(Kind, &[u8])) -> std::io::Result<bool> {
        let mut buffer = [0_u8; 16 << 10];
        let open = match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                self.received.extend_from_slice(&buffer[..length]);
                true
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                ) =>
            {
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => return Err(error),
        };
        let mut at = 0;
        while let Some(head) = self.received.get(at..at + 5) {
            let length = u32::from_ne_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let kind = KINDS
                .iter()
                .find(|(letter, _)| *letter == head[0])
                .map(|(_, kind)| *kind);
            let Some(kind) = kind.filter(|_| length <= MOST) else {
                return Err(std::io::ErrorKind::InvalidData.into());
            };
            let Some(body) = self.received.get(at + 5..at + 5 + length) else {
                break;
            };
            handle(kind, body);
            at += 5 + length;
        }
        self.received.drain(..at);
        if self.received.is_empty() {
            self.received.shrink_to(4096);
        }
        Ok(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_whole_however_they_are_cut() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut here = Peer::new(here).unwrap();
        let mut there = Peer::new(there).unwrap();
        let long = vec![7; 3 * MOST + 1];
        here.say(Kind::Output, &long).unwrap();
        here.say(Kind::Exit, &[9]).unwrap();
        drop(here.say(Kind::EndOfInput, &[]));
        let (mut bytes, mut kinds) = (0, Vec::new());
        while kinds.last() != Some(&Kind::EndOfInput) {
            here.send().unwrap();
            there
                .receive(|kind, body| {
                    bytes += body.len();
                    if kinds.last() != Some(&kind) {
                        kinds.push(kind);
                    }
                })
                .unwrap();
        }
        assert_eq!(bytes, long.len() + 1);
        assert_eq!(kinds, [Kind::Output, Kind::Exit, Kind::EndOfInput]);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let (here, there) = UnixStream::pair().unwrap();
        rustix::io::write(&here, b"?\0\0\0\0").unwrap();
        assert!(Peer::new(there).unwrap().receive(|_, _| ()).is_err());
    }
}
