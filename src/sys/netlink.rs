//! Messages to the kernel about interfaces, addresses, routes and packet rules: netlink(7).
//!
//! The rights that count are those of whoever sends, not only those of whoever opened the socket, when a message
//! is sent to an explicit address (`NETLINK_SKB_DST` in the kernel's net/netlink/af_netlink.c). So a process of
//! the user's outside may use sockets that were opened inside two of their user namespaces, and move a `veth` from
//! one to the other, which nobody inside either of them can.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{Error, Result};

/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST: u16 = 5;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_EXCL`.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_ROOT | NLM_F_MATCH`: all there are.
const DUMP: u16 = 0x300;
/// `NLM_F_APPEND`.
pub const APPEND: u16 = 0x800;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Which part of the kernel is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// rtnetlink(7): interfaces, addresses, routes.
    Route,
    /// nfnetlink: nf_tables.
    Netfilter,
}

/// One message, while it is written.
#[derive(Debug)]
pub struct Message {
    /// For errors: what it asks for.
    what: String,
    bytes: Vec<u8>,
}

impl Message {
    /// A message of the type `kind`, to be answered; `what` says in errors what was tried.
    #[must_use]
    pub fn new(what: impl Into<String>, kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
        Self {
            what: what.into(),
            bytes,
        }
    }

    /// The opening or end of a batch: it is not answered.
    #[must_use]
    pub fn mark(kind: u16) -> Self {
        let mut message = Self::new("nf_tables batch", kind, 0);
        message.bytes[6..8].copy_from_slice(&1_u16.to_ne_bytes());
        message
    }

    /// Appends the fixed part of the body.
    #[must_use]
    pub fn body(mut self, body: &[u8]) -> Self {
        self.bytes.extend_from_slice(body);
        self.pad();
        self
    }

    /// Appends an attribute.
    #[must_use]
    pub fn put(mut self, kind: u16, value: &[u8]) -> Self {
        self.attribute(kind, value);
        self
    }

    /// Appends an attribute that is text with a NUL byte behind it.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.put(kind, &[value.as_bytes(), b"\0"].concat())
    }

    /// Appends an attribute whose value is attributes.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        self = fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn is_answered(&self) -> bool {
        self.bytes[6] & 4 != 0
    }

    fn finish(&mut self, sequence: u32) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// A socket in the network namespace that it was opened in.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Netlink {
    /// A socket of this process's network namespace.
    ///
    /// # Errors
    /// socket(2).
    pub fn open(family: Family) -> Result<Self> {
        let protocol = match family {
            // NETLINK_ROUTE is 0, the default.
            Family::Route => None,
            Family::Netfilter => Some(NETFILTER),
        };
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .map_err(|errno| Error::new("socket(AF_NETLINK)", errno))?;
        Ok(Self { fd })
    }

    /// The socket that another process has opened.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The socket itself, for handing it on.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Sends one message and waits for the answer.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ask(&self, message: Message) -> Result<()> {
        self.batch(vec![message])
    }

    /// Sends several messages in one go and waits for all answers.
    ///
    /// # Errors
    /// The kernel's first refusal, with what it refused.
    pub fn batch(&self, mut messages: Vec<Message>) -> Result<()> {
        let mut bytes = Vec::new();
        for (message, sequence) in messages.iter_mut().zip(1..) {
            message.finish(sequence);
            bytes.extend_from_slice(&message.bytes);
        }
        let first = messages.first().map_or("", |message| &message.what);
        self.send(&bytes, first)?;
        let mut missing = messages.iter().filter(|one| one.is_answered()).count();
        let mut buffer = vec![0; 16 << 10];
        while missing > 0 {
            let length = self.receive(&mut buffer, first)?;
            for answer in Answers(&buffer[..length]) {
                if answer.kind != ERROR {
                    continue;
                }
                let code = answer.body.get(..4).and_then(|code| code.try_into().ok());
                let code = i32::from_ne_bytes(code.unwrap_or_default());
                if code != 0 {
                    let at = usize::try_from(answer.sequence).unwrap_or(0).max(1) - 1;
                    let what = messages.get(at).map_or(first, |message| &message.what);
                    return Err(Error::new(what, Errno::from_raw_os_error(-code)));
                }
                missing = missing.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// Sends one message and returns the body of the first answer.
    ///
    /// # Errors
    /// The kernel's.
    pub fn get(&self, mut message: Message) -> Result<Vec<u8>> {
        // An answer is enough: no acknowledgement behind it.
        message.bytes[6..8].copy_from_slice(&1_u16.to_ne_bytes());
        message.finish(1);
        self.send(&message.bytes, &message.what)?;
        let mut buffer = vec![0; 32 << 10];
        let length = self.receive(&mut buffer, &message.what)?;
        let answer = Answers(&buffer[..length]).next();
        match answer {
            Some(answer) if answer.kind == ERROR => {
                let code = answer.body.get(..4).and_then(|code| code.try_into().ok());
                let code = i32::from_ne_bytes(code.unwrap_or_default());
                Err(Error::new(message.what, Errno::from_raw_os_error(-code)))
            }
            Some(answer) => Ok(answer.body.to_vec()),
            None => Err(Error::new(message.what, Errno::BADMSG)),
        }
    }

    /// Asks for all there are of something, and returns the bodies of the answers.
    ///
    /// # Errors
    /// The kernel's.
    pub fn dump(&self, mut message: Message) -> Result<Vec<Vec<u8>>> {
        message.bytes[6..8].copy_from_slice(&(1 | DUMP).to_ne_bytes());
        message.finish(1);
        self.send(&message.bytes, &message.what)?;
        let mut bodies = Vec::new();
        let mut buffer = vec![0; 32 << 10];
        loop {
            let length = self.receive(&mut buffer, &message.what)?;
            for answer in Answers(&buffer[..length]) {
                match answer.kind {
                    DONE => return Ok(bodies),
                    ERROR => {
                        let code = answer.body.get(..4).and_then(|code| code.try_into().ok());
                        let code = i32::from_ne_bytes(code.unwrap_or_default());
                        return Err(Error::new(message.what, Errno::from_raw_os_error(-code)));
                    }
                    _ => bodies.push(answer.body.to_vec()),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8], what: &str) -> Result<()> {
        // The explicit address is what makes the sender's rights count; see above.
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.fd, bytes, SendFlags::empty(), &kernel)
            .map(|_| ())
            .map_err(|errno| Error::new(what, errno))
    }

    fn receive(&self, buffer: &mut [u8], what: &str) -> Result<usize> {
        loop {
            match rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((length, _)) => return Ok(length),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::new(what, errno)),
            }
        }
    }
}

/// The attributes in a body, behind its fixed part: kind and value.
#[derive(Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..4)?;
        let length = usize::from(u16::from_ne_bytes(header[..2].try_into().ok()?));
        let kind = u16::from_ne_bytes(header[2..].try_into().ok()?) & !NESTED;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// One answer of the kernel's.
struct Answer<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The answers in one datagram.
struct Answers<'a>(&'a [u8]);

impl<'a> Iterator for Answers<'a> {
    type Item = Answer<'a>;

    fn next(&mut self) -> Option<Answer<'a>> {
        let header = self.0.get(..HEADER)?;
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(header[4..6].try_into().ok()?);
        let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer {
            kind,
            sequence,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let mut message = Message::new("test", 16, CREATE)
            .text(3, "ab")
            .nest(18, |inner| inner.put(1, &7_u32.to_ne_bytes()));
        message.finish(9);
        let length = message.bytes.len();
        assert_eq!(length, 16 + 8 + 4 + 8);
        let answers: Vec<_> = Answers(&message.bytes).collect();
        assert_eq!(
            (answers.len(), answers[0].kind, answers[0].sequence),
            (1, 16, 9)
        );
        assert_eq!(&answers[0].body[..8], &[7, 0, 3, 0, b'a', b'b', 0, 0]);
        assert_eq!(answers[0].body[8..10], 12_u16.to_ne_bytes());
        let inner = 7_u32.to_ne_bytes();
        let nested = [&8_u16.to_ne_bytes(), &1_u16.to_ne_bytes(), &inner[..]].concat();
        let attributes: Vec<_> = Attributes(answers[0].body).collect();
        assert_eq!(attributes, [(3, &b"ab\0"[..]), (18, &nested[..])]);
    }

    #[test]
    fn what_is_cut_short_is_no_answer() {
        let mut message = Message::new("test", 2, 0).body(&[0; 4]);
        message.finish(1);
        for end in 0..message.bytes.len() {
            assert_eq!(Answers(&message.bytes[..end]).count(), 0, "{end}");
        }
        for end in 0..8 {
            let attribute = [8, 0, 3, 0, b'a', b'b', 0, 0];
            assert_eq!(Attributes(&attribute[..end]).count(), 0, "{end}");
        }
    }
}
