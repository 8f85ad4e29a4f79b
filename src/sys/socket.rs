//! Conversations between two processes of ours: whole messages with descriptors, over a socket pair.
//!
//! A message is a length of 4 bytes (native order) and that many bytes; descriptors travel with the length.

use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// No message of ours is longer: environment and mounts of a container are far below.
const MOST: usize = 64 << 20;

/// One end of a conversation.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Channel {
    /// Two connected ends, both close-on-exec.
    ///
    /// # Errors
    /// socketpair(2).
    pub fn pair() -> std::io::Result<(Self, Self)> {
        let (here, there) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((
            Self {
                stream: here.into(),
            },
            Self {
                stream: there.into(),
            },
        ))
    }

    /// The end that a descriptor is.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { stream: fd.into() }
    }

    /// Sends one message, and a descriptor with it.
    ///
    /// # Errors
    /// `EPIPE` when the other side is gone.
    pub fn send(&mut self, message: &[u8], fd: Option<BorrowedFd<'_>>) -> std::io::Result<()> {
        let length = u32::try_from(message.len())
            .map_err(|_| std::io::ErrorKind::InvalidInput)?
            .to_ne_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let slices = [IoSlice::new(&length), IoSlice::new(message)];
        let sent =
            rustix::net::sendmsg(&self.stream, &slices, &mut ancillary, SendFlags::NOSIGNAL)?;
        let rest = sent.saturating_sub(length.len());
        self.stream.write_all(&message[rest..])
    }

    /// Receives one message; `None` when the other side has closed.
    ///
    /// # Errors
    /// `UnexpectedEof` in the middle of a message; `InvalidData` for a length that nobody here sends.
    pub fn receive(&mut self) -> std::io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
        let mut length = [0_u8; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut slices = [IoSliceMut::new(&mut length)];
            match rustix::net::recvmsg(
                &self.stream,
                &mut slices,
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                // A side that was killed with data unread resets the connection: it is gone all the same.
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                done => break done?.bytes,
            }
        };
        if received == 0 {
            return Ok(None);
        }
        let mut fd = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fds.last().or(fd);
            }
        }
        self.stream.read_exact(&mut length[received..])?;
        let length = u32::from_ne_bytes(length) as usize;
        if length > MOST {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let mut message = vec![0; length];
        self.stream.read_exact(&mut message)?;
        Ok(Some((message, fd)))
    }
}

/// Sends some bytes, and a descriptor with them, to somebody who is none of ours.
///
/// # Errors
/// sendmsg(2).
pub fn send_with_fd(stream: &UnixStream, bytes: &[u8], fd: BorrowedFd<'_>) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let slices = [IoSlice::new(bytes)];
    let sent = rustix::net::sendmsg(stream, &slices, &mut ancillary, SendFlags::NOSIGNAL)?;
    let mut stream = stream;
    stream.write_all(&bytes[sent..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_bring_descriptors() {
        let (mut here, mut there) = Channel::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        here.send(b"first", None).unwrap();
        here.send(&vec![7; 100_000], Some(file.as_fd())).unwrap();
        drop(here);
        assert_eq!(there.receive().unwrap().unwrap().0, b"first");
        let (message, fd) = there.receive().unwrap().unwrap();
        assert_eq!((message.len(), fd.is_some()), (100_000, true));
        assert!(there.receive().unwrap().is_none());
    }
}
