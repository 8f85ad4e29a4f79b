//! Reading a file that grows: its complete lines, and waiting for more without asking again and again.
//!
//! Knows neither logs nor events, and never writes.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// What is read at once.
const BLOCK: usize = 64 << 10;
/// A longer line is nothing of ours: it is given out in pieces of this length.
const LONGEST: usize = 1 << 20;

/// Which file it is, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity(u64, u64);

impl Identity {
    /// Of an open file; cannot be given to another one while that is open.
    ///
    /// # Errors
    /// The system's.
    pub fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self(meta.dev(), meta.ino()))
    }

    /// Of the file with this name, if there is one.
    ///
    /// # Errors
    /// The system's.
    pub fn at(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::symlink_metadata(path) {
            Ok(meta) => Ok(Some(Self(meta.dev(), meta.ino()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The complete lines of a file that may grow.
#[derive(Debug)]
pub struct Lines {
    file: File,
    buffer: Vec<u8>,
    /// The part of `buffer` that was not given out.
    begin: usize,
    /// Up to where `buffer` has no line break after `begin`.
    scanned: usize,
    /// Where in the file `buffer[begin]` is from.
    position: u64,
}

impl Lines {
    /// The lines from this offset on, which is the beginning of one.
    #[must_use]
    pub fn new(file: File, position: u64) -> Self {
        Self {
            file,
            buffer: Vec::new(),
            begin: 0,
            scanned: 0,
            position,
        }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The offset behind the last line that was given out.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next line without its line break; `None` while there is no complete one.
    ///
    /// # Errors
    /// The system's.
    pub fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            let fresh = &self.buffer[self.scanned..];
            if let Some(found) = fresh.iter().position(|byte| *byte == b'\n') {
                let end = self.scanned + found;
                return Ok(Some(self.give(end, end + 1)));
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() - self.begin >= LONGEST {
                return Ok(Some(self.give(self.scanned, self.scanned)));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn give(&mut self, end: usize, next: usize) -> &[u8] {
        let begin = std::mem::replace(&mut self.begin, next);
        self.scanned = next;
        self.position += (next - begin) as u64;
        &self.buffer[begin..end]
    }

    /// Reads on; false at the end of the file.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.begin);
        self.begin = 0;
        self.scanned = self.buffer.len();
        let offset = self.position + self.buffer.len() as u64;
        let known = self.buffer.len();
        self.buffer.resize(known + BLOCK, 0);
        let read = loop {
            match self.file.read_at(&mut self.buffer[known..], offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        let length = *read.as_ref().unwrap_or(&0);
        self.buffer.truncate(known + length);
        if read? > 0 {
            return Ok(true);
        }
        // The beginning of a line is read again when more is there: on a full disk it is taken back.
        self.buffer.clear();
        self.scanned = 0;
        // Somebody has emptied the file.
        if self.file.metadata()?.len() < self.position {
            self.position = 0;
            return Ok(true);
        }
        Ok(false)
    }
}

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Something in the directory is different.
    Changed,
    /// The writer has ended.
    Ended,
    /// Nobody wants the lines any more.
    Closed,
    /// It is later than that.
    Late,
}

/// Waits for changes in a directory.
#[derive(Debug)]
pub struct Watch<'a> {
    /// None when the user has no inotify instances left: then the clock must do.
    inotify: Option<OwnedFd>,
    /// Becomes readable when the writer ends.
    pub end: Option<OwnedFd>,
    /// Where the lines go: a pipe that nobody reads ends the wait.
    pub sink: Option<BorrowedFd<'a>>,
}

impl<'a> Watch<'a> {
    /// Begins to watch. What happens from now on ends a later [`Watch::wait`].
    ///
    /// # Errors
    /// The system's.
    pub fn new(dir: &Path, sink: Option<BorrowedFd<'a>>) -> Result<Self> {
        let inotify = match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(inotify) => {
                let flags = WatchFlags::MODIFY
                    | WatchFlags::CREATE
                    | WatchFlags::MOVED_TO
                    | WatchFlags::DELETE_SELF;
                match inotify::add_watch(&inotify, dir, flags) {
                    Ok(_) => Some(inotify),
                    Err(Errno::NOSPC) => None,
                    Err(errno) => {
                        return Err(errno).with_context(|| format!("watching `{}`", dir.display()));
                    }
                }
            }
            Err(Errno::MFILE) => None,
            Err(errno) => return Err(errno).context("watching for changes"),
        };
        Ok(Self {
            inotify,
            end: None,
            sink,
        })
    }

    /// Waits until something happens, or until `deadline`.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&self, deadline: Option<Timestamp>) -> Result<Woken> {
        loop {
            let left = deadline.map(|deadline| deadline.duration_since(Timestamp::now()));
            if left.is_some_and(|left| left.is_negative() || left.is_zero()) {
                return Ok(Woken::Late);
            }
            let mut timeout = left.map(|left| Timespec {
                tv_sec: left.as_secs(),
                tv_nsec: left.subsec_nanos().into(),
            });
            let tick = Timespec {
                tv_sec: 0,
                tv_nsec: 200_000_000,
            };
            if self.inotify.is_none() && timeout.is_none_or(|timeout| timeout > tick) {
                timeout = Some(tick);
            }
            let mut fds = Vec::with_capacity(3);
            let mut meanings = Vec::with_capacity(3);
            let mut add = |fd, flags, meaning| {
                fds.push(PollFd::from_borrowed_fd(fd, flags));
                meanings.push(meaning);
            };
            // What was written before the end comes before the end.
            if let Some(inotify) = &self.inotify {
                add(inotify.as_fd(), PollFlags::IN, Woken::Changed);
            }
            if let Some(sink) = self.sink {
                add(sink, PollFlags::empty(), Woken::Closed);
            }
            if let Some(end) = &self.end {
                add(end.as_fd(), PollFlags::IN, Woken::Ended);
            }
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) if self.inotify.is_none() => return Ok(Woken::Changed),
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno).context("waiting for changes"),
            }
            let woken = std::iter::zip(&fds, meanings).find_map(|(fd, meaning)| {
                let happened = fd.revents();
                // An empty file or a terminal is always ready; only a lost reader counts.
                let counts = match meaning {
                    Woken::Closed => happened.intersects(PollFlags::ERR),
                    Woken::Changed | Woken::Ended | Woken::Late => !happened.is_empty(),
                };
                counts.then_some(meaning)
            });
            match woken {
                Some(Woken::Changed) => {
                    self.drain()?;
                    return Ok(Woken::Changed);
                }
                Some(woken) => return Ok(woken),
                // Only a hung-up terminal gets here: nobody reads it.
                None => return Ok(Woken::Closed),
            }
        }
    }

    /// Forgets the events: they are only a reason to look.
    fn drain(&self) -> Result<()> {
        let mut events = [0_u8; 4096];
        let Some(inotify) = &self.inotify else {
            return Ok(());
        };
        loop {
            match rustix::io::read(inotify, &mut events) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context("watching for changes"),
            }
        }
    }
}
