//! What follows the header of an answer: blobs as streams, small documents whole. Nothing is hashed here.

use std::io::Read;
use std::time::{Duration, Instant};

use super::transport::IDLE_LIMIT;
use super::trouble::is_passing;

/// A blob on its way.
#[derive(Debug)]
pub struct BlobStream {
    /// Where the stream begins: what was asked for, or 0 when the server cannot resume and starts over.
    pub offset: u64,
    /// The bytes.
    pub body: BlobBody,
}

/// A server that sends less than this while it is waited for one [`Patience::idle`](super::Patience) is as good as silent.
const TRICKLE: u64 = 16 << 10;

/// The bytes of a blob: exactly as many as its descriptor says, or an error.
pub struct BlobBody {
    reader: ureq::BodyReader<'static>,
    left: u64,
    host: String,
    idle: Duration,
    /// How long the server was waited for, and what came of that; begun anew once it was enough.
    waited: Duration,
    came: u64,
}

impl std::fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobBody({}, {} left)", self.host, self.left)
    }
}

impl BlobBody {
    /// The first `size` bytes of `body`, and nothing after them.
    #[must_use]
    pub fn new(body: ureq::Body, size: u64, host: String, idle: Duration) -> Self {
        Self {
            reader: body.into_reader(),
            left: size,
            host,
            idle,
            waited: Duration::ZERO,
            came: 0,
        }
    }

    /// Whether the server only pretends to send. The time in which nobody read is not counted.
    fn trickles(&mut self, since: Instant, count: usize) -> bool {
        self.waited += since.elapsed();
        self.came += count as u64;
        if self.came >= TRICKLE {
            self.waited = Duration::ZERO;
            self.came = 0;
        }
        self.waited > self.idle
    }
}

impl Read for BlobBody {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            // The end must be seen for the connection to be used again, and nothing may follow.
            return match self.reader.read(&mut [0]) {
                Ok(1..) => Err(std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    format!("`{}` sends more than the blob's size", self.host),
                )),
                Ok(0) | Err(_) => Ok(0),
            };
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let end = buffer.len().min(most);
        let since = Instant::now();
        let count = self
            .reader
            .read(&mut buffer[..end])
            .map_err(|error| while_reading(&error, &self.host))?;
        if count == 0 {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                format!("`{}` ended {} bytes too early", self.host, self.left),
            ));
        }
        self.left -= count as u64;
        if self.left > 0 && self.trickles(since, count) {
            return Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!(
                    "`{}` sent next to nothing for {} s",
                    self.host,
                    self.idle.as_secs()
                ),
            ));
        }
        Ok(count)
    }
}

/// Whether a [`BlobBody`]'s error is the network's, so that the rest is worth asking for.
#[must_use]
pub fn is_resumable(error: &std::io::Error) -> bool {
    is_passing(error)
}

fn while_reading(error: &std::io::Error, host: &str) -> std::io::Error {
    let timed_out = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<ureq::Error>())
        .is_some_and(|error| matches!(error, ureq::Error::Timeout(_)));
    if timed_out {
        return std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("`{host}` sent nothing for {} s", IDLE_LIMIT.as_secs()),
        );
    }
    std::io::Error::new(error.kind(), format!("reading from `{host}`: {error}"))
}

/// All of a small body, however large the server claims it to be.
///
/// # Errors
/// [`std::io::ErrorKind::InvalidData`] for more than `limit` bytes; the network's.
pub fn read_all(
    body: ureq::Body,
    limit: u64,
    host: &str,
    until: Instant,
) -> std::io::Result<Vec<u8>> {
    let too_much = || {
        std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("`{host}` sends more than {limit} bytes"),
        )
    };
    if body.content_length().is_some_and(|length| length > limit) {
        return Err(too_much());
    }
    let mut reader = body.into_reader();
    let mut bytes = Vec::new();
    let mut part = vec![0; 16 << 10];
    loop {
        let count = reader
            .read(&mut part)
            .map_err(|error| while_reading(&error, host))?;
        if count == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&part[..count]);
        if bytes.len() as u64 > limit {
            return Err(too_much());
        }
        // Each byte may come in time and all of them never.
        if Instant::now() > until + IDLE_LIMIT {
            return Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("`{host}` is too slow"),
            ));
        }
    }
}
