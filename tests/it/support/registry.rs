//! The registries that `scripts/test` started, and one of our own that can be told to lie.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::Home;

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: checked by needs!(Need::Registry)"))
}

/// Address of the registry without encryption: it has `busybox`, and `alpine` where there is one.
pub fn plain() -> String {
    variable("RL_TEST_REGISTRY")
}

/// Address of the one with TLS, whose authority is [`authority`]. It has `busybox`.
pub fn tls() -> String {
    variable("RL_TEST_REGISTRY_TLS")
}

/// The certificate of the authority that signed for [`tls`].
pub fn authority() -> String {
    variable("RL_TEST_REGISTRY_CA")
}

/// Address of the one that wants `user` and `secret`. It has `private/busybox`.
pub fn auth() -> String {
    variable("RL_TEST_REGISTRY_AUTH")
}

/// A name in the plain registry that no other test uses.
pub fn fresh_name(home: &Home) -> String {
    let unique = home
        .path()
        .file_name()
        .expect("it has one")
        .to_string_lossy();
    let unique: String = unique
        .to_lowercase()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    format!("{}/t{unique}", plain())
}

/// Copies `tag` of an OCI layout to `name` by skopeo.
#[track_caller]
pub fn push(home: &Home, layout: &Path, tag: &str, name: &str, options: &[&str]) {
    home.program("skopeo")
        .args(["copy", "--quiet", "--dest-tls-verify=false"])
        .args(options)
        .arg(format!("oci:{}:{tag}", layout.display()))
        .arg(format!("docker://{name}"))
        .ok();
}

/// A server that answers what it was told, true or not.
#[derive(Debug)]
pub struct Liar {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    answers: Mutex<HashMap<String, Answer>>,
    /// Paths that end in this break off in the middle, once.
    break_off: Mutex<Option<String>>,
    sent: AtomicU64,
    /// What the path answers after its first answer.
    then: Mutex<HashMap<String, Answer>>,
    /// All that was asked, in small letters.
    heads: Mutex<String>,
    /// Blobs on their way now, and the most there ever were.
    under_way: AtomicU64,
    most: AtomicU64,
}

#[derive(Debug, Clone)]
struct Answer {
    head: String,
    body: Vec<u8>,
    /// The body is repeated up to this length.
    length: u64,
}

impl Liar {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // The other side may hang up at any time.
                    let _ = state.serve(stream.unwrap());
                });
            }
        });
        let liar = Self { address, state };
        liar.answer("/v2/", 200, "application/json", b"{}");
        liar
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The most blobs that were asked for at the same time.
    pub fn most_at_once(&self) -> u64 {
        self.state.most.swap(0, Ordering::SeqCst)
    }

    /// How many bytes of bodies were sent.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    fn set(&self, path: &str, head: String, body: &[u8], length: u64) {
        let answer = Answer {
            head,
            body: body.to_vec(),
            length,
        };
        self.state
            .answers
            .lock()
            .unwrap()
            .insert(path.to_owned(), answer);
    }

    pub fn answer(&self, path: &str, status: u16, media_type: &str, body: &[u8]) {
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\n");
        self.set(path, head, body, body.len() as u64);
    }

    /// A body of `length` bytes.
    pub fn endless(&self, path: &str, length: u64) {
        let head =
            "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n";
        self.set(path, head.to_owned(), &[b' '; 65_536], length);
    }

    pub fn refuse(&self, path: &str, challenge: &str) {
        self.set(
            path,
            format!("HTTP/1.1 401 X\r\nWWW-Authenticate: {challenge}\r\n"),
            b"",
            0,
        );
    }

    pub fn redirect(&self, path: &str, to: &str) {
        self.set(
            path,
            format!("HTTP/1.1 307 X\r\nLocation: {to}\r\n"),
            b"",
            0,
        );
    }

    /// Once what the path has now was answered, it leads elsewhere.
    pub fn then_redirect(&self, path: &str, to: &str) {
        let answer = Answer {
            head: format!("HTTP/1.1 307 X\r\nLocation: {to}\r\n"),
            body: Vec::new(),
            length: 0,
        };
        let mut then = self.state.then.lock().unwrap();
        then.insert(path.to_owned(), answer);
    }

    /// The header fields of all requests, in small letters.
    pub fn heads(&self) -> String {
        self.state.heads.lock().unwrap().clone()
    }

    /// As [`Liar::endless`], but nobody is told how long.
    pub fn chunked(&self, path: &str, length: u64) {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n";
        // A chunk of 65,536 bytes.
        let chunk = [&b"10000\r\n"[..], &[b' '; 65_536], b"\r\n"].concat();
        self.set(path, head.to_owned(), &chunk, length);
    }

    /// An answer with header fields of one's own, each with its end of line.
    pub fn answer_with(&self, path: &str, head: &str, body: &[u8]) {
        let head = format!("HTTP/1.1 {head}");
        self.set(path, head, body, body.len() as u64);
    }

    /// The next answers for a path that ends in `end` stop in the middle of their bodies.
    pub fn break_off(&self, end: &str) {
        *self.state.break_off.lock().unwrap() = Some(end.to_owned());
    }
}

impl State {
    /// One request a connection.
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            let mut heads = self.heads.lock().unwrap();
            heads.push_str(&line.to_lowercase());
            heads.push('\n');
        }
        let mut words = request.split(' ');
        let method = words.next().unwrap_or_default();
        let path = words
            .next()
            .unwrap_or_default()
            .split('?')
            .next()
            .unwrap_or_default();
        let known = self.answers.lock().unwrap().get(path).cloned();
        if let Some(next) = self.then.lock().unwrap().remove(path) {
            self.answers.lock().unwrap().insert(path.to_owned(), next);
        }
        let answer = known.unwrap_or_else(|| Answer {
            head: "HTTP/1.1 404 X\r\nContent-Type: application/json\r\n".to_owned(),
            body: b"{\"errors\":[{\"code\":\"NAME_UNKNOWN\",\"message\":\"unknown\"}]}".to_vec(),
            length: 56,
        });
        let breaks = self
            .break_off
            .lock()
            .unwrap()
            .as_ref()
            .is_some_and(|end| path.ends_with(end));
        let mut stream = stream;
        let length = match answer.head.contains("Transfer-Encoding") {
            true => String::new(),
            false => format!("Content-Length: {}\r\n", answer.length),
        };
        write!(stream, "{}{length}Connection: close\r\n\r\n", answer.head)?;
        let is_blob = path.contains("/blobs/");
        if is_blob {
            let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            // Long enough for all that may come at once to be there.
            std::thread::sleep(std::time::Duration::from_millis(100));
            self.under_way.fetch_sub(1, Ordering::SeqCst);
        }
        let mut left = match (method, breaks) {
            ("HEAD", _) => 0,
            (_, true) => answer.length / 2,
            (_, false) => answer.length,
        };
        while left > 0 {
            let count = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(answer.body.len());
            stream.write_all(&answer.body[..count])?;
            self.sent.fetch_add(count as u64, Ordering::Relaxed);
            left -= count as u64;
        }
        Ok(())
    }
}

/// A line to a server that is cut, stands still, and is metered, as one may wish.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    /// A connection that passes more one way is cut, or stands still.
    limit: AtomicU64,
    /// How often that still happens.
    left: AtomicU64,
    stalls: bool,
    /// From the server, on all connections.
    received: AtomicU64,
}

impl Line {
    /// Passes everything on to `target`, but ends a connection as soon as more than `limit` bytes went one way,
    /// the first `cuts` times that happens.
    pub fn cut(target: &str, limit: u64, cuts: u64) -> Self {
        Self::start(target, limit, cuts, false)
    }

    /// Passes everything on to `target`, but no more than `limit` bytes of a connection, which stays open.
    pub fn stalled(target: &str, limit: u64) -> Self {
        Self::start(target, limit, u64::MAX, true)
    }

    fn start(target: &str, limit: u64, left: u64, stalls: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let rules = Arc::new(Rules {
            limit: AtomicU64::new(limit),
            left: AtomicU64::new(left),
            stalls,
            received: AtomicU64::new(0),
        });
        let line = Self {
            address,
            rules: Arc::clone(&rules),
        };
        let target = target.to_owned();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect(&target).unwrap();
                for (from, to, is_answer) in [(&client, &server, false), (&server, &client, true)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let rules = Arc::clone(&rules);
                    std::thread::spawn(move || rules.pass_on(from, to, is_answer));
                }
            }
        });
        line
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether all cuts were made.
    pub fn is_done(&self) -> bool {
        self.rules.left.load(Ordering::SeqCst) == 0
    }

    /// A good line from now on. Returns the bytes that came from the server until then.
    pub fn mend(&self) -> u64 {
        self.rules.limit.store(u64::MAX, Ordering::SeqCst);
        self.rules.received.swap(0, Ordering::SeqCst)
    }

    /// Ends every connection from now on.
    pub fn sever(&self) {
        self.rules.left.store(u64::MAX, Ordering::SeqCst);
        self.rules.limit.store(0, Ordering::SeqCst);
    }

    /// The bytes that came from the server.
    pub fn received(&self) -> u64 {
        self.rules.received.load(Ordering::SeqCst)
    }
}

impl Rules {
    fn pass_on(&self, mut from: TcpStream, mut to: TcpStream, is_answer: bool) {
        use std::io::Read as _;
        let mut passed = 0;
        let mut buffer = [0; 16_384];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            passed += count as u64;
            if is_answer {
                self.received.fetch_add(count as u64, Ordering::SeqCst);
            }
            let one_less = |left: u64| left.checked_sub(1);
            if passed > self.limit.load(Ordering::SeqCst)
                && self
                    .left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
                    .is_ok()
            {
                if self.stalls {
                    // Until the client goes.
                    let _ = to.read(&mut buffer);
                }
                break;
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        // The other side may be gone already.
        let _ = from.shutdown(std::net::Shutdown::Both);
        let _ = to.shutdown(std::net::Shutdown::Both);
    }
}
