//! The side of those who talk to the network process: owners of containers, and commands that ask or change.
//!
//! Whoever finds none starts one, under a lock, with the listening socket already open: nobody waits for it.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;

use super::server::NETWORK;
use super::{Endpoint, Guest, Present, Reply, Request};
use crate::error::Fail;
use crate::net::publish::Reserved;
use crate::paths::{self, Store};
use crate::spec::{Bound, Joined};
use crate::sys;
use crate::sys::process::Detached;
use crate::sys::socket::Channel;

/// How often a process that ends just then is replaced.
const TRIES: usize = 5;

/// A container's place on its networks, for as long as this lives.
#[derive(Debug)]
pub struct Lease {
    channel: Channel,
    store: Store,
    guest: Guest,
    pid: Option<i32>,
    /// The host's sockets: whoever serves the networks next gets them too.
    ports: Vec<Reserved>,
    /// Where it is.
    pub endpoints: Vec<Endpoint>,
    /// Lines for the user.
    pub notices: Vec<String>,
}

impl std::os::fd::AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Lease {
    /// Takes addresses for a container.
    ///
    /// # Errors
    /// What keeps it from a network; what keeps the network process from starting.
    pub fn reserve(store: &Store, guest: Guest) -> Result<Self> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut channel = reach(store)?;
            let request = Request::Reserve(Box::new(guest.clone()));
            match exchange(&mut channel, &request) {
                Ok(Some(Reply::Endpoints(endpoints, notices))) => {
                    return Ok(Self {
                        channel,
                        store: store.clone(),
                        guest,
                        pid: None,
                        ports: Vec::new(),
                        endpoints,
                        notices,
                    });
                }
                Ok(Some(reply)) => return Err(unexpected(reply)),
                // It was about to end.
                Ok(None) if tries < TRIES => {}
                Ok(None) => return Err(gone().into()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Names the container's first process; [`Lease::wait`] has the answer.
    ///
    /// # Errors
    /// When the network process is gone.
    pub fn plug(&mut self, pid: i32) -> Result<()> {
        self.pid = Some(pid);
        say(&mut self.channel, &Request::Plug { pid })
    }

    /// Waits until the container is on its networks.
    ///
    /// # Errors
    /// What keeps it from them.
    pub fn wait(&mut self) -> Result<()> {
        match hear(&mut self.channel)? {
            Some(Reply::Endpoints(endpoints, notices)) => {
                self.endpoints = endpoints;
                self.notices = notices;
                Ok(())
            }
            Some(reply) => Err(unexpected(reply)),
            None => Err(gone().into()),
        }
    }

    /// Opens ports of the host that lead to the container. Which ones they are is the answer: none where all its
    /// networks are internal, which a notice says.
    ///
    /// # Errors
    /// `Conflict` when somebody has one; when the network process is gone.
    pub fn publish(&mut self, ports: Vec<Reserved>) -> Result<Vec<Bound>> {
        if ports.is_empty() {
            return Ok(Vec::new());
        }
        if self.endpoints.iter().all(|one| one.internal) {
            self.notices.push(
                "published ports are discarded: the container is on internal networks alone"
                    .to_owned(),
            );
            return Ok(Vec::new());
        }
        for port in &ports {
            port.listen()?;
        }
        self.ports = ports;
        self.hand_over()?;
        Ok(self.ports.iter().map(|port| port.bound).collect())
    }

    fn hand_over(&mut self) -> Result<()> {
        for port in &self.ports {
            let request = Request::Publish(port.bound);
            let text = serde_json::to_vec(&request).context("writing a message")?;
            self.channel
                .send(&text, Some(port.as_fd()))
                .map_err(|error| anyhow::Error::from(error).context(gone()))?;
            match hear(&mut self.channel)? {
                Some(Reply::Done) => {}
                Some(reply) => return Err(unexpected(reply)),
                None => return Err(gone().into()),
            }
        }
        Ok(())
    }

    /// After the network process was killed: another one, and the same places again, under the name and on the networks
    /// that the container has now.
    ///
    /// # Errors
    /// What keeps the container from them; it goes on without networks then.
    pub fn renew(&mut self, name: &str, joined: Vec<Joined>) -> Result<()> {
        name.clone_into(&mut self.guest.name);
        self.guest.joined = joined;
        self.guest.before = std::mem::take(&mut self.endpoints);
        let mut next = Self::reserve(&self.store, self.guest.clone())?;
        if let Some(pid) = self.pid {
            next.plug(pid)?;
            next.wait()?;
        }
        next.ports = std::mem::take(&mut self.ports);
        next.hand_over()?;
        *self = next;
        Ok(())
    }
}

impl Drop for Lease {
    /// The ports are free when it is over: the container's next start may want the same.
    fn drop(&mut self) {
        if !self.ports.is_empty() {
            let _ = exchange(&mut self.channel, &Request::Withdraw); // one that is gone has closed them
        }
    }
}

fn gone() -> Fail {
    Fail::system("the network process has ended unexpectedly")
        .hint("was it killed? try again; see `dmesg` for the memory killer")
}

fn unexpected(reply: Reply) -> anyhow::Error {
    match reply {
        Reply::Failed(fail) => fail.into(),
        Reply::Endpoints(..) | Reply::Present(_) | Reply::Done => {
            Fail::system("the network process answered something else").into()
        }
    }
}

fn say(channel: &mut Channel, request: &Request) -> Result<()> {
    let text = serde_json::to_vec(request).context("writing a message")?;
    channel
        .send(&text, None)
        .map_err(|error| anyhow::Error::from(error).context(gone()))
}

fn hear(channel: &mut Channel) -> Result<Option<Reply>> {
    let Some((message, _)) = channel
        .receive()
        .context("listening to the network process")?
    else {
        return Ok(None);
    };
    let reply =
        serde_json::from_slice(&message).context("reading what the network process says")?;
    Ok(Some(reply))
}

/// `None` when it ends instead.
fn exchange(channel: &mut Channel, request: &Request) -> Result<Option<Reply>> {
    let text = serde_json::to_vec(request).context("writing a message")?;
    if channel.send(&text, None).is_err() {
        return Ok(None);
    }
    hear(channel)
}

/// Whether there is a process that serves networks now, and a connection to it.
fn find(store: &Store) -> Result<Option<Channel>> {
    let (socket, _) = paths::network_socket(store)?;
    // No file, or nobody behind it.
    Ok(UnixStream::connect(socket)
        .ok()
        .map(|stream| Channel::from_fd(stream.into())))
}

fn reach(store: &Store) -> Result<Channel> {
    if let Some(channel) = find(store)? {
        return Ok(channel);
    }
    let (socket, lock) = paths::network_socket(store)?;
    let _lock = lock_file(&lock)?;
    if let Some(channel) = find(store)? {
        return Ok(channel);
    }
    let _ = std::fs::remove_file(&socket); // of a process that was killed
    let listener = UnixListener::bind(&socket)
        .with_context(|| format!("listening on `{}`", socket.display()))?;
    start(store, &listener)?;
    find(store)?.ok_or_else(|| gone().into())
}

/// The lock of those who start and end the process.
pub(super) fn lock_file(path: &Path) -> Result<File> {
    let locked = File::options()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|file| file.lock().map(|()| file));
    locked.with_context(|| format!("locking `{}`", path.display()))
}

fn start(store: &Store, listener: &UnixListener) -> Result<()> {
    let null = sys::fs::open_trusted(Path::new("/dev/null"), OFlags::RDWR)?;
    let root = store
        .root()
        .to_str()
        .context("the store's path is not UTF-8")?;
    let text = |text: &str| CString::new(text).context("a NUL byte in a path");
    let argv = [text("rl:[network]")?, text(NETWORK)?, text(root)?];
    let env: Vec<CString> = std::env::vars_os()
        .filter(|(name, _)| {
            matches!(
                name.to_str(),
                Some("RL_RUNTIME_DIR" | "XDG_RUNTIME_DIR" | "PATH" | "HOME" | "TMPDIR")
            )
        })
        .filter_map(|(name, value)| {
            use std::os::unix::ffi::OsStrExt as _;
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok() // the kernel's have no NUL byte
        })
        .collect();
    sys::process::spawn_detached(&Detached {
        argv: &argv,
        env: &env,
        null: null.as_fd(),
        fds: &[listener.as_fd()],
    })
    .map(|_| ())
    .context("starting the network process")
}

/// Who is on which network; nobody when no process serves them.
///
/// # Errors
/// The runtime directory's.
pub fn present(store: &Store) -> Result<Vec<Present>> {
    let Some(mut channel) = find(store)? else {
        return Ok(Vec::new());
    };
    match exchange(&mut channel, &Request::List)? {
        Some(Reply::Present(present)) => Ok(present),
        Some(reply) => Err(unexpected(reply)),
        None => Ok(Vec::new()),
    }
}

/// Tells the new name of a container, if anybody has to know it.
///
/// # Errors
/// The runtime directory's.
pub fn rename(store: &Store, id: &str, name: &str) -> Result<()> {
    let request = Request::Rename {
        id: id.to_owned(),
        name: name.to_owned(),
    };
    change(store, &request).map(|_| ())
}

/// Puts a running container on one more network. Where it is now is the answer; `None` when it is on none that is
/// served, so that nothing has to be done before its next start.
///
/// # Errors
/// What keeps it from that.
pub fn connect(store: &Store, id: &str, joined: &Joined) -> Result<Option<Vec<Endpoint>>> {
    change(
        store,
        &Request::Connect {
            id: id.to_owned(),
            joined: Box::new(joined.clone()),
        },
    )
}

/// Takes a running container off a network, with the answer of [`connect`].
///
/// # Errors
/// The kernel's.
pub fn disconnect(store: &Store, id: &str, network: &str) -> Result<Option<Vec<Endpoint>>> {
    change(
        store,
        &Request::Disconnect {
            id: id.to_owned(),
            network: network.to_owned(),
        },
    )
}

fn change(store: &Store, request: &Request) -> Result<Option<Vec<Endpoint>>> {
    let Some(mut channel) = find(store)? else {
        return Ok(None);
    };
    match exchange(&mut channel, request)? {
        Some(Reply::Endpoints(endpoints, _)) => Ok(Some(endpoints)),
        Some(Reply::Done) | None => Ok(None),
        Some(reply) => Err(unexpected(reply)),
    }
}
