//! One layer on its way in: bytes → digest → blob file, and → inflate → DiffID → unpacked tree, at once.
//!
//! Two threads: the caller's reads, digests, stores and inflates; another digests the tar and writes the
//! files. A bounded number of buffers goes round between them. Moves nothing to its final place.

use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::layer::{self, Ids, Report};
use super::reference::Digest;
use crate::error::{Fail, Kind, kind};
use crate::sys::fs::Root;

/// Size of the buffers between the threads, in bytes.
const BUFFER: usize = 256 << 10;
/// How many of them are under way.
const DEPTH: usize = 6;
/// The largest window of a zstd stream, as a power of two: what `zstd -d` takes without being asked.
const ZSTD_WINDOW: u32 = 27;

/// What a display shows of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waits for its turn.
    Waiting,
    /// Bytes come in (and are unpacked at the same time).
    Downloading,
    /// All bytes are there; the rest is unpacked.
    Extracting,
    /// Bytes go out.
    Uploading,
    /// It was there already.
    Exists,
    /// The registry took it from another of its repositories.
    Mounted,
}

/// Where a display of several layers hears what happens; called from several threads.
pub trait Progress: Sync {
    /// A layer that is looked at; `total` in bytes as transferred.
    fn layer(&self, digest: &Digest, total: Option<u64>) -> Box<dyn LayerProgress>;
    /// A line for the user.
    fn message(&self, text: &str);
}

/// One layer's part of a display.
pub trait LayerProgress: Send + Sync {
    /// So many bytes more came in, or went out.
    fn advance(&self, bytes: u64);
    /// What it does now.
    fn phase(&self, phase: Phase);
    /// It is complete; not called after a failure.
    fn done(&self);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn layer(&self, _: &Digest, _: Option<u64>) -> Box<dyn LayerProgress> {
        Box::new(Silent)
    }
    fn message(&self, _: &str) {}
}

impl LayerProgress for Silent {
    fn advance(&self, _: u64) {}
    fn phase(&self, _: Phase) {}
    fn done(&self) {}
}

/// What the layer must be; what is `None` is found out.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Digest of the bytes as they come.
    pub digest: Option<Digest>,
    /// Their number.
    pub size: Option<u64>,
    /// Digest of the tar.
    pub diff_id: Option<Digest>,
}

/// What the layer is.
#[derive(Debug, Clone)]
pub struct Ingested {
    /// Digest of the bytes as they came.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Digest of the tar.
    pub diff_id: Digest,
    /// How the tar was packed.
    pub packing: Packing,
    /// What unpacking did.
    pub report: Report,
}

/// How bytes are packed, by their first ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// Which only `xz` unpacks.
    Xz,
    /// Which nobody here unpacks.
    Bzip2,
}

impl Packing {
    /// What `head`, the first six bytes, say.
    #[must_use]
    pub fn of(head: &[u8]) -> Self {
        if head.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
            || (head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18])
        {
            Self::Zstd // the second is a skippable frame before the first
        } else if head.starts_with(b"\xfd7zXZ\0") {
            Self::Xz
        } else if head.starts_with(b"BZh") {
            Self::Bzip2
        } else {
            Self::Plain
        }
    }
}

/// Unpacks what `source` gives, by its first bytes.
///
/// # Errors
/// `Unsupported` for packings that no layer may have; the source's.
pub fn decompress<'s>(mut source: impl Read + 's) -> Result<(Packing, Box<dyn Read + 's>)> {
    let mut head = [0; 6];
    let mut have = 0;
    while have < head.len() {
        match source.read(&mut head[have..]) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read_failed(error)),
        }
    }
    let packing = Packing::of(&head[..have]);
    let whole = io::Cursor::new(head).take(have as u64).chain(source);
    let buffered = BufReader::with_capacity(BUFFER, whole);
    let reader: Box<dyn Read> = match packing {
        Packing::Plain => Box::new(buffered),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Box::new(decoder)
        }
        Packing::Xz | Packing::Bzip2 => {
            return Err(Fail::unsupported(format!(
                "the layer is packed with {}, which image layers may not be",
                if packing == Packing::Xz {
                    "xz"
                } else {
                    "bzip2"
                }
            ))
            .into());
        }
    };
    Ok((packing, reader))
}

/// Reads a layer from `source`: its bytes go to the file `blob` where one is named, its files into
/// the directory `tree`, which is made. What `blob` has already are the first bytes of `source`. Nothing can be relied on unless this succeeds.
///
/// # Errors
/// `Corrupt` when it is not what `expected` says, or damaged; RL-F05 when the disk is full; those of
/// [`layer::unpack`]; a [`Fail`] that `source` put into its error.
pub fn ingest(
    source: impl Read,
    blob: Option<&Path>,
    tree: &Path,
    ids: Ids,
    expected: &Expected,
    progress: &dyn LayerProgress,
) -> Result<Ingested> {
    std::fs::create_dir(tree).with_context(|| format!("making `{}`", tree.display()))?;
    let root = Root::open_trusted(tree)?;
    let mut tee = Tee::new(source, blob, expected.size, progress)?;
    progress.phase(Phase::Downloading);
    let (fed, unpacked) = std::thread::scope(|scope| {
        let (full, filled) = sync_channel(DEPTH);
        let (used, empty) = channel();
        let worker = std::thread::Builder::new()
            .name("unpack".to_owned())
            .spawn_scoped(scope, || {
                let mut chunks = Chunks::new(filled, used);
                let (report, side) = layer::unpack(&mut chunks, &root, ids)?;
                side.write_to(tree.parent().unwrap_or(tree))?;
                anyhow::Ok((report, Digest::from_sha256(chunks.hash.finalize().into())))
            });
        let worker = match worker {
            Ok(worker) => worker,
            Err(error) => return (Err(error.into()), Ok(None)),
        };
        let fed = feed(&mut tee, &full, &empty);
        drop(full);
        if matches!(fed, Ok(Some(_))) {
            progress.phase(Phase::Extracting);
        }
        let unpacked = match worker.join() {
            Ok(unpacked) => unpacked.map(Some),
            Err(_) => Err(Fail::system("unpacking broke off: this is a bug in `rl`").into()),
        };
        (fed, unpacked)
    });
    let (packing, (report, diff_id)) = match (fed, unpacked) {
        (Ok(Some(packing)), Ok(Some(unpacked))) => (packing, unpacked),
        // The one that hung up knows why; if the feeder failed, it is the feeder.
        (Err(error), _) | (Ok(_), Err(error)) => {
            // Content with a wrong digest is rarely a good archive; the digest says more. A pipe, which has no
            // expected digest, may have no end either.
            if expected.digest.is_some() && kind(&error) == Kind::Corrupt && tee.drain().is_ok() {
                tee.check(expected)?;
            }
            return Err(error);
        }
        (Ok(_), Ok(_)) => return Err(Fail::system("unpacking ended too early").into()),
    };
    let (digest, size) = tee.check(expected)?;
    if let Some(wanted) = expected
        .diff_id
        .as_ref()
        .filter(|wanted| **wanted != diff_id)
    {
        return Err(Fail::corrupt(format!(
            "layer {digest} unpacks to {diff_id}, but the image says {wanted}"
        ))
        .hint("the image was put together wrongly: ask whoever made it")
        .into());
    }
    Ok(Ingested {
        digest,
        size,
        diff_id,
        packing,
        report,
    })
}

/// Copies a blob to the file `blob`, as [`ingest`] does, and checks it; nothing is unpacked.
///
/// # Errors
/// As [`ingest`].
pub fn copy_blob(
    source: impl Read,
    blob: &Path,
    expected: &Expected,
    progress: &dyn LayerProgress,
) -> Result<(Digest, u64)> {
    let mut tee = Tee::new(source, Some(blob), expected.size, progress)?;
    progress.phase(Phase::Downloading);
    tee.drain().map_err(read_failed)?;
    tee.check(expected)
}

/// Inflates into buffers and sends them; `None` when the other side hung up.
fn feed(
    tee: &mut Tee<'_, impl Read>,
    full: &SyncSender<Option<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<Option<Packing>> {
    let (packing, mut reader) = decompress(&mut *tee)?;
    loop {
        let mut buffer = empty.try_recv().unwrap_or_default();
        buffer.resize(BUFFER, 0);
        let mut have = 0;
        while have < BUFFER {
            match reader.read(&mut buffer[have..]) {
                Ok(0) => break,
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(inflate_failed(error, packing)),
            }
        }
        buffer.truncate(have);
        let last = have < BUFFER;
        if have > 0 && full.send(Some(buffer)).is_err() {
            return Ok(None);
        }
        if last {
            break;
        }
    }
    drop(reader);
    // The digest is over all bytes, also those after the end of the packed stream.
    tee.drain().map_err(read_failed)?;
    let _ = full.send(None); // whoever hung up has an error to tell
    Ok(Some(packing))
}

fn inflate_failed(error: io::Error, packing: Packing) -> anyhow::Error {
    match error.downcast::<Fail>() {
        Ok(fail) => fail.into(),
        Err(error) if packing == Packing::Plain || error.raw_os_error().is_some() => {
            read_failed(error)
        }
        Err(error) => Fail::corrupt(format!("the layer cannot be decompressed: {error}"))
            .hint("fetch it again, or ask whoever made the image")
            .into(),
    }
}

/// An error of a source; a [`Fail`] that was put into it comes out as it was.
pub fn read_failed(error: io::Error) -> anyhow::Error {
    match error.downcast::<Fail>() {
        Ok(fail) => fail.into(),
        Err(error) => anyhow::Error::from(error).context("reading the layer"),
    }
}

/// Where the bytes are kept.
struct Copy<'p> {
    file: std::fs::File,
    path: &'p Path,
    /// As many of the first bytes are in the file already.
    have: u64,
}

/// A reader that digests, counts, limits and copies what goes through it.
struct Tee<'p, R> {
    source: R,
    hash: Sha256,
    count: u64,
    limit: Option<u64>,
    blob: Option<Copy<'p>>,
    progress: &'p dyn LayerProgress,
}

impl<'p, R: Read> Tee<'p, R> {
    fn new(
        source: R,
        blob: Option<&'p Path>,
        limit: Option<u64>,
        progress: &'p dyn LayerProgress,
    ) -> Result<Self> {
        let blob = match blob {
            None => None,
            Some(path) => {
                let file = std::fs::OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o644)
                    .open(path)
                    .with_context(|| format!("making `{}`", path.display()))?;
                let have = file.metadata()?.len();
                Some(Copy { file, path, have })
            }
        };
        Ok(Self {
            source,
            hash: Sha256::new(),
            count: 0,
            limit,
            blob,
            progress,
        })
    }

    /// Reads to the end.
    fn drain(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn check(&mut self, expected: &Expected) -> Result<(Digest, u64)> {
        let digest = Digest::from_sha256(self.hash.finalize_reset().into());
        if let Some(wanted) = expected.digest.as_ref().filter(|wanted| **wanted != digest) {
            return Err(Fail::corrupt(format!(
                "layer {wanted} is damaged: what came has the digest {digest}"
            ))
            .hint("try again; if it stays so, the registry or something on the way changes the content")
            .into());
        }
        Ok((digest, self.count))
    }
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        let chunk = &buffer[..count];
        self.count += count as u64;
        if let Some(limit) = self.limit {
            let fail = if count == 0 && self.count < limit {
                Some(format!(
                    "the layer ends after {} of {limit} bytes",
                    self.count
                ))
            } else if self.count > limit {
                Some(format!(
                    "the layer is longer than the {limit} bytes it should have"
                ))
            } else {
                None
            };
            if let Some(message) = fail {
                return Err(io::Error::other(Fail::corrupt(message).hint("try again")));
            }
        }
        self.hash.update(chunk);
        if let Some(Copy { file, path, have }) = &mut self.blob {
            // Of this chunk, what is not in the file yet.
            let new = usize::try_from(self.count.saturating_sub(*have)).unwrap_or(usize::MAX);
            let new = &chunk[count - new.min(count)..];
            file.write_all(new).map_err(|error| {
                use std::os::fd::AsFd as _;
                match Errno::from_io_error(&error) {
                    Some(errno @ (Errno::NOSPC | Errno::DQUOT)) => io::Error::other(
                        layer::disk_full(file.as_fd(), &path.to_string_lossy(), errno),
                    ),
                    _ => io::Error::other(Fail::system(format!(
                        "writing `{}`: {error}",
                        path.display()
                    ))),
                }
            })?;
        }
        self.progress.advance(count as u64);
        Ok(count)
    }
}

/// The tar as the unpacking thread reads it; digests each buffer as it comes.
struct Chunks {
    filled: Receiver<Option<Vec<u8>>>,
    used: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    ended: bool,
    hash: Sha256,
}

impl Chunks {
    fn new(filled: Receiver<Option<Vec<u8>>>, used: Sender<Vec<u8>>) -> Self {
        Self {
            filled,
            used,
            current: Vec::new(),
            at: 0,
            ended: false,
            hash: Sha256::new(),
        }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let count = chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&chunk[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() && !self.ended {
            let used = std::mem::take(&mut self.current);
            if used.capacity() > 0 {
                let _ = self.used.send(used); // the feeder may be done and need none
            }
            self.at = 0;
            match self.filled.recv() {
                Ok(Some(chunk)) => {
                    self.hash.update(&chunk);
                    self.current = chunk;
                }
                Ok(None) => self.ended = true,
                // The feeder failed, and tells why.
                Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}
