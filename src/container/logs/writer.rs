//! Writes a container's log. One thread, bounded memory, and never in the container's way: what the disk does
//! not take is counted and said later.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::{Stream, path};
use crate::container::disk_error;
use crate::spec::Log;

/// A longer line is cut into parts of this length. Source: moby, `daemon/logger/copier.go`.
const PART: usize = 16 << 10;
/// What is collected before it is written.
const BATCH: usize = 32 << 10;
/// What a reader that lags behind may keep from being deleted: bytes, and files.
const KEPT_BYTES: u64 = 64 << 20;
const KEPT_FILES: u64 = 1000;

/// The log of one container, for its monitor.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    none: bool,
    max_size: Option<u64>,
    max_files: u32,
    /// None after a rotation that found no room.
    file: Option<File>,
    /// Of `file`.
    size: u64,
    /// Complete records that are not in the file yet; empty between two calls.
    batch: Vec<u8>,
    /// The beginning of each stream's line.
    pending: [Vec<u8>; 2],
    /// When this call began, as it is stored.
    time: Vec<u8>,
    /// Records that the disk did not take, and why.
    lost: u64,
    reason: String,
}

impl Writer {
    /// Opens the log in the container's directory, behind what it has from earlier runs.
    ///
    /// # Errors
    /// The system's, with the remedy for a full disk.
    pub fn open(dir: &Path, options: &Log) -> Result<Self> {
        let mut writer = Self {
            dir: dir.to_owned(),
            none: options.none,
            max_size: options.max_size.filter(|size| *size > 0),
            max_files: options.max_files.unwrap_or(1).max(1),
            file: None,
            size: 0,
            batch: Vec::new(),
            pending: [Vec::new(), Vec::new()],
            time: Vec::new(),
            lost: 0,
            reason: String::new(),
        };
        if !writer.none {
            let path = path(dir, 0);
            writer
                .open_file()
                .map_err(|error| disk_error(error, &path))?;
            writer
                .end_torn_line()
                .with_context(|| format!("reading `{}`", path.display()))?;
            // What a reader has kept longer than the last run.
            let mut oldest = writer.max_files;
            while super::path(dir, oldest).exists() {
                oldest += 1;
            }
            writer.trim(oldest);
        }
        Ok(writer)
    }

    /// Notes what the program has written, in pieces of any size.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) {
        if self.none || bytes.is_empty() {
            return;
        }
        self.look_at_the_clock();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.pending[stream as usize].is_empty() && end < PART {
                self.record(stream, line);
            } else {
                self.collect(stream, &line[..end]);
                let mut line = std::mem::take(&mut self.pending[stream as usize]);
                line.push(b'\n');
                self.record(stream, &line);
                line.clear();
                self.pending[stream as usize] = line;
            }
        }
        self.collect(stream, bytes);
        self.put();
    }

    /// Notes what is left of lines without an end: the program has closed its outputs.
    pub fn flush(&mut self) {
        self.look_at_the_clock();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let line = std::mem::take(&mut self.pending[stream as usize]);
            if !line.is_empty() {
                self.record(stream, &line);
            }
        }
        self.put();
        self.say_what_is_lost();
    }

    /// How many records the disk has not taken and the log does not tell of yet.
    #[cfg(test)]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Lets a test put a disk of its own under the log.
    #[cfg(test)]
    pub fn swap_file(&mut self, file: File) -> File {
        std::mem::replace(self.file.as_mut().unwrap(), file)
    }

    fn look_at_the_clock(&mut self) {
        self.time.clear();
        let _ = write!(self.time, "{}", Timestamp::now()); // memory takes everything
    }

    /// Adds the beginning of a line, and records its parts as they fill.
    fn collect(&mut self, stream: Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let pending = &mut self.pending[stream as usize];
            if pending.capacity() == 0 {
                // One more for the line break.
                pending.reserve_exact(bytes.len().clamp(256, PART + 1));
            } else if pending.capacity() < PART + 1
                && pending.len() + bytes.len() > pending.capacity()
            {
                pending.reserve_exact(PART + 1 - pending.len());
            }
            let (now, later) = bytes.split_at(bytes.len().min(PART - pending.len()));
            pending.extend_from_slice(now);
            bytes = later;
            if pending.len() == PART {
                let mut part = std::mem::take(pending);
                let end = whole_characters(&part);
                self.record(stream, &part[..end]);
                part.drain(..end);
                self.pending[stream as usize] = part;
            }
        }
    }

    /// One line, or a part of one.
    fn record(&mut self, stream: Stream, text: &[u8]) {
        if let Some(max_size) = self.max_size
            && self.size + self.batch.len() as u64 >= max_size
        {
            self.put();
            if self.size >= max_size {
                self.rotate();
            }
        }
        encode(&mut self.batch, stream, text, &self.time);
        if self.batch.len() >= BATCH {
            self.put();
        }
    }

    /// Writes the batch, or counts it as lost.
    fn put(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        self.say_what_is_lost();
        if self.lost > 0 {
            self.lost += records(&batch);
        } else if let Err((error, kept)) = self.append(&batch) {
            self.lost += records(&batch[kept..]);
            self.reason = reason(&error);
        }
        batch.clear();
        batch.shrink_to(2 * BATCH);
        self.batch = batch;
    }

    /// A record of our own about those that are missing, once there is room again.
    fn say_what_is_lost(&mut self) {
        if self.lost == 0 {
            return;
        }
        let lines = if self.lost == 1 {
            "line is"
        } else {
            "lines are"
        };
        let text = format!("rl: {} {lines} missing here: {}\n", self.lost, self.reason);
        let mut note = Vec::new();
        encode(&mut note, Stream::Stderr, text.as_bytes(), &self.time);
        match self.append(&note) {
            Ok(()) => self.lost = 0,
            Err((error, _)) => self.reason = reason(&error),
        }
    }

    /// All of `records`; or the error, and how many bytes of whole records are in the file all the same.
    fn append(&mut self, records: &[u8]) -> Result<(), (io::Error, usize)> {
        if self.file.is_none() {
            self.open_file().map_err(|error| (error, 0))?;
        }
        let Some(file) = &mut self.file else {
            return Err((io::ErrorKind::NotFound.into(), 0));
        };
        let mut written = 0;
        while written < records.len() {
            let error = match file.write(&records[written..]) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(length) => {
                    written += length;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let kept = records[..written]
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |end| end + 1);
            if kept < written {
                // A torn record would swallow the next one; when this fails, the next open mends it.
                let _ = file
                    .metadata()
                    .and_then(|meta| file.set_len(meta.len() - (written - kept) as u64));
            }
            self.size += kept as u64;
            return Err((error, kept));
        }
        self.size += written as u64;
        Ok(())
    }

    fn open_file(&mut self) -> io::Result<()> {
        let file = OpenOptions::new()
            .append(true)
            .read(true)
            .create(true)
            .mode(0o600)
            .open(path(&self.dir, 0))?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// A monitor that was killed while it wrote has left the beginning of a record.
    fn end_torn_line(&mut self) -> io::Result<()> {
        let Some(file) = self.file.as_mut().filter(|_| self.size > 0) else {
            return Ok(());
        };
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            let _ = self.append(b"\n"); // no room: the next record is lost with it, and nothing else
        }
        Ok(())
    }

    /// Every file becomes one older, and `log` is new. What fails is tried again at the next record.
    fn rotate(&mut self) {
        // A hole in the row, left by a crash, is filled.
        let mut oldest = 1;
        while path(&self.dir, oldest).exists() {
            oldest += 1;
        }
        for number in (0..oldest).rev() {
            let renamed = std::fs::rename(path(&self.dir, number), path(&self.dir, number + 1));
            if renamed.is_err() && number == 0 {
                return;
            }
        }
        self.file = None;
        self.trim(oldest);
        if let Err(error) = self.open_file() {
            self.reason = reason(&error);
        }
    }

    /// Deletes what is too old, down from `oldest`.
    fn trim(&self, oldest: u32) {
        let most_kept = (KEPT_BYTES / self.max_size.unwrap_or(1)).clamp(1, KEPT_FILES);
        let last = u64::from(self.max_files) + most_kept;
        for number in (self.max_files..=oldest).rev() {
            let path = path(&self.dir, number);
            // Held until it is deleted: a reader that comes now waits, and then sees that it has no name.
            let lock = File::open(&path).map(|file| (file.try_lock(), file));
            let is_read = matches!(lock, Ok((Err(TryLockError::WouldBlock), _)));
            if is_read && u64::from(number) < last {
                // Its reader wants the newer ones too.
                break;
            }
            let _ = std::fs::remove_file(&path); // the next rotation tries again
        }
    }
}

/// How many records these are: inside of one a line break is `\n`.
fn records(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

fn reason(error: &io::Error) -> String {
    match rustix::io::Errno::from_io_error(error) {
        Some(rustix::io::Errno::NOSPC) => "the disk was full".to_owned(),
        Some(rustix::io::Errno::DQUOT) => "the disk quota was used up".to_owned(),
        _ => error.to_string(),
    }
}

/// Where to cut so that no character of UTF-8 is torn; never 0.
fn whole_characters(text: &[u8]) -> usize {
    for back in 1..=text.len().min(3) {
        let length = match text[text.len() - back] {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if length > back && text.len() > back {
            text.len() - back
        } else {
            text.len()
        };
    }
    text.len()
}

/// Adds a record as docker spells it. Source: moby, `daemon/logger/jsonfilelog/jsonlog`.
fn encode(into: &mut Vec<u8>, stream: Stream, text: &[u8], time: &[u8]) {
    into.extend_from_slice(b"{\"log\":\"");
    for chunk in text.utf8_chunks() {
        escape(into, chunk.valid());
        if !chunk.invalid().is_empty() {
            // Docker writes one for each byte.
            for _ in chunk.invalid() {
                into.extend_from_slice(b"\\ufffd");
            }
        }
    }
    into.extend_from_slice(b"\",\"stream\":\"");
    into.extend_from_slice(stream.word().as_bytes());
    into.extend_from_slice(b"\",\"time\":\"");
    into.extend_from_slice(time);
    into.extend_from_slice(b"\"}\n");
}

fn escape(into: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (at, byte) in bytes.iter().copied().enumerate() {
        let short = match byte {
            b'"' => Some(b'"'),
            b'\\' => Some(b'\\'),
            b'\n' => Some(b'n'),
            b'\r' => Some(b'r'),
            0..0x20 | b'<' | b'>' | b'&' => None,
            // U+2028 and U+2029: line breaks in JavaScript.
            0xe2 if matches!(bytes.get(at + 1..at + 3), Some([0x80, 0xa8 | 0xa9])) => {
                into.extend_from_slice(&bytes[plain..at]);
                into.extend_from_slice(b"\\u202");
                into.push(HEX[usize::from(bytes[at + 2] & 0xf)]);
                plain = at + 3;
                continue;
            }
            _ => continue,
        };
        into.extend_from_slice(&bytes[plain..at]);
        plain = at + 1;
        match short {
            Some(letter) => into.extend_from_slice(&[b'\\', letter]),
            None => {
                into.extend_from_slice(b"\\u00");
                into.push(HEX[usize::from(byte >> 4)]);
                into.push(HEX[usize::from(byte & 0xf)]);
            }
        }
    }
    into.extend_from_slice(&bytes[plain..]);
}
