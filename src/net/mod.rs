//! How a container reaches the world: which helper, when it is ready, and the names it can look up.

pub mod ahead;
pub mod doors;
pub mod egress;
mod forward;
pub mod joined;
pub mod link;
pub mod named;
pub mod names;
mod nft;
mod pasta;
mod probe;
pub mod publish;
mod slirp;

use std::ffi::CString;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;

use crate::error::Fail;
use crate::idmap::find_program;
use crate::spec::{Bound, HostPort, Network, Port, Protocol, Publish};
use crate::sys;
use crate::sys::process::Child;
use crate::sys::tied::Tied;
use ahead::Link;
use named::Endpoint;
use probe::Standing;
use publish::Reserved;

/// What was chosen for one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// The host's own network.
    Host,
    /// Loopback only.
    None,
    /// pasta, at this path.
    Pasta {
        /// Absolute path.
        program: PathBuf,
        /// The user's own words for it.
        options: Vec<String>,
        /// It can lead an address of its own to the host's (passt 2024_08_21 and later).
        maps_host: bool,
    },
    /// slirp4netns, at this path.
    Slirp {
        /// Absolute path.
        program: PathBuf,
        /// `key=value`.
        options: Vec<String>,
    },
    /// A network namespace that is there already: [`joined::Target`].
    Joined,
    /// Named networks, which [`named`] serves.
    Named {
        /// Where the container is; empty before [`named::client::Lease::reserve`].
        endpoints: Vec<Endpoint>,
    },
}

impl Chosen {
    /// Whether the container gets a network namespace of its own.
    #[must_use]
    pub fn is_private(&self) -> bool {
        !matches!(self, Chosen::Host | Chosen::Joined)
    }

    /// What of these ports does not work as it does elsewhere, one line each.
    #[must_use]
    pub fn caveats(&self, ports: &[Publish]) -> Vec<String> {
        let udp: Vec<&Publish> = ports
            .iter()
            .filter(|port| port.port.protocol == Protocol::Udp)
            .collect();
        match self {
            // Seen with passt 2023-03; those that know the option are later.
            Chosen::Pasta {
                maps_host: false, ..
            } if udp.iter().any(|port| match port.host {
                HostPort::Any => true,
                HostPort::Fixed { port: host } => host > port.port.number,
                HostPort::Among { last, .. } => last > port.port.number,
            }) =>
            {
                vec!["this pasta does not answer the host itself on a UDP port that leads to a lower one; other machines it does".to_owned()]
            }
            Chosen::Slirp { options, .. }
                if !udp.is_empty()
                    && slirp::opens_ports(options)
                    && !slirp::addresses(options).loopback =>
            {
                vec!["slirp4netns does not answer on UDP ports of the host's 127.0.0.1; on its other addresses it does".to_owned()]
            }
            Chosen::Host
            | Chosen::None
            | Chosen::Joined
            | Chosen::Pasta { .. }
            | Chosen::Slirp { .. }
            | Chosen::Named { .. } => Vec::new(),
        }
    }

    /// The helper's program.
    #[must_use]
    pub fn program(&self) -> Option<&Path> {
        match self {
            Chosen::Pasta { program, .. } | Chosen::Slirp { program, .. } => Some(program),
            Chosen::Host | Chosen::None | Chosen::Joined | Chosen::Named { .. } => None,
        }
    }

    /// Whether the user has not told the helper anything.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        match self {
            Chosen::Pasta { options, .. } | Chosen::Slirp { options, .. } => options.is_empty(),
            Chosen::Host | Chosen::None | Chosen::Joined | Chosen::Named { .. } => true,
        }
    }

    /// Whether a helper carries its packets.
    #[must_use]
    pub fn has_helper(&self) -> bool {
        matches!(self, Chosen::Pasta { .. } | Chosen::Slirp { .. })
    }

    /// Whether ports of the host can lead there.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.has_helper() || matches!(self, Chosen::Named { .. })
    }

    /// Whether the program has to wait until packets can flow.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.has_helper() || matches!(self, Chosen::Named { .. })
    }
}

/// Whether no user of this user namespace may make a network namespace. Source: namespaces(7), "The /proc/sys/user directory".
#[must_use]
pub fn none_left() -> bool {
    std::fs::read_to_string("/proc/sys/user/max_net_namespaces")
        .is_ok_and(|most| most.trim() == "0")
}

/// The code of a helper that does not come up.
pub const HELPER_FAILED: &str = "RL-N02";

/// Chooses for `network` and the ports to publish, without the helpers in `given_up` where nobody named one. What had to
/// be given up is in the second value.
///
/// # Errors
/// `RL-N01`, `RL-N02` when what was asked for by name cannot be had.
pub fn choose(
    network: &Network,
    ports: &[Publish],
    given_up: &[&str],
) -> Result<(Chosen, Option<Fail>)> {
    let (chosen, notice) = by_name(network, given_up)?;
    if let Chosen::Slirp { options, .. } = &chosen {
        slirp::check_ports(options, ports)?;
    }
    match notice {
        // On the host's network the program's own ports are open, not those that were asked for.
        Some(notice) if !ports.is_empty() => Err(Fail {
            message: format!("ports cannot be published: {}", notice.message),
            hints: notice
                .hints
                .into_iter()
                .filter(|hint| !hint.contains("--network none"))
                .chain(["or use --network host, where the program listens on the host itself, without -p".to_owned()])
                .collect(),
            ..notice
        }
        .into()),
        notice => Ok((chosen, notice)),
    }
}

fn by_name(network: &Network, given_up: &[&str]) -> Result<(Chosen, Option<Fail>)> {
    match network {
        Network::Host => Ok((Chosen::Host, None)),
        Network::None => Ok((Chosen::None, None)),
        Network::Pasta { options } => {
            tun()?;
            let program =
                find_program("pasta").ok_or_else(|| missing("pasta is not installed", "passt"))?;
            Ok((pasta::with(program, options.clone()), None))
        }
        Network::Slirp4netns { options } => {
            tun()?;
            let program = find_program("slirp4netns")
                .ok_or_else(|| missing("slirp4netns is not installed", "slirp4netns"))?;
            slirp::check(options)?;
            Ok((
                Chosen::Slirp {
                    program,
                    options: options.clone(),
                },
                None,
            ))
        }
        Network::Auto => Ok(automatic(given_up)),
        Network::Named { .. } => Ok((
            Chosen::Named {
                endpoints: Vec::new(),
            },
            None,
        )),
        Network::Container { .. } | Network::Path { .. } => Ok((Chosen::Joined, None)),
    }
}

fn automatic(given_up: &[&str]) -> (Chosen, Option<Fail>) {
    let find = |name: &str| {
        let program = find_program(name);
        program.filter(|_| !given_up.contains(&name))
    };
    let why = match tun() {
        Ok(()) => match (find("pasta"), find("slirp4netns")) {
            // Forbidden, it is still tried where there is nothing else: what it says then is true.
            (Some(program), other) if other.is_none() || !pasta::is_forbidden(&program) => {
                return (pasta::with(program, Vec::new()), None);
            }
            (_, Some(program)) => {
                return (
                    Chosen::Slirp {
                        program,
                        options: Vec::new(),
                    },
                    None,
                );
            }
            (_, None) if given_up.is_empty() => {
                missing("neither pasta nor slirp4netns is installed", "passt")
            }
            (_, None) => missing("neither pasta nor slirp4netns works here", "passt"),
        },
        Err(fail) => fail,
    };
    (Chosen::Host, Some(why))
}

/// Starts a helper for the named networks' own namespace, which the process `pid` is in. `make` makes an interface there. The
/// second value is the interface that packets leave by, the third why it is not the first choice.
///
/// # Errors
/// What was missing, or the helper's own words.
pub fn share(
    pid: rustix::process::Pid,
    make: &mut dyn FnMut(&Link) -> Result<()>,
) -> Result<(Uplink, &'static str, Option<Fail>)> {
    match share_by(&[], pid, make) {
        Err((Some("pasta"), first)) => match share_by(&["pasta"], pid, make) {
            Ok((uplink, interface)) => Ok((uplink, interface, Some(crate::error::flatten(&first)))),
            // What is said of the second is less than what is said of the first.
            Err(_) => Err(first),
        },
        Ok((uplink, interface)) => Ok((uplink, interface, None)),
        Err((_, error)) => Err(error),
    }
}

/// The name of the helper that has failed comes with the error.
fn share_by(
    given_up: &[&str],
    pid: rustix::process::Pid,
    make: &mut dyn FnMut(&Link) -> Result<()>,
) -> Result<(Uplink, &'static str), (Option<&'static str>, anyhow::Error)> {
    let (mut chosen, notice) = automatic(given_up);
    if let Some(why) = notice {
        return Err((None, why.into()));
    }
    let (name, interface) = match chosen {
        Chosen::Pasta { .. } => ("pasta", "uplink0"),
        Chosen::Slirp { .. }
        | Chosen::Host
        | Chosen::None
        | Chosen::Joined
        | Chosen::Named { .. } => ("slirp4netns", slirp::INTERFACE),
    };
    let ahead = Link::plan(&chosen, &[]).map(|link| Link {
        name: interface.to_owned(),
        ..link
    });
    // What cannot be made is the helper's to make.
    let ahead = ahead.filter(|link| make(link).is_ok());
    if let (Chosen::Pasta { options, .. }, None) = (&mut chosen, &ahead) {
        options.push(format!("--ns-ifname={interface}"));
    }
    let started = start(&chosen, Vec::new(), ahead.as_ref(), pid).and_then(|uplink| {
        let mut uplink =
            uplink.ok_or_else(|| missing("neither pasta nor slirp4netns is installed", "passt"))?;
        if ahead.is_some() {
            return Ok((uplink, interface));
        }
        match uplink.wait_ready() {
            Ok(_) => Ok((uplink, interface)),
            Err(error) => {
                uplink.stop();
                Err(error)
            }
        }
    });
    started.map_err(|error| (Some(name), error))
}

fn missing(what: &str, package: &str) -> Fail {
    Fail::unsupported(format!("no network helper: {what}"))
        .hint(format!(
            "ask your administrator for the package `{package}`"
        ))
        .hint("or run with --network host or --network none")
        .code("RL-N02")
}

fn tun() -> Result<(), Fail> {
    let device = "/dev/net/tun";
    let opened = rustix::fs::open(
        device,
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    opened.map(drop).map_err(|errno| {
        let error = sys::Error::new(format!("open({device:?})"), errno);
        Fail::unsupported(format!("a network of its own needs {device}: {error}"))
            .hint("ask your administrator: modprobe tun && chmod 0666 /dev/net/tun")
            .hint("or run with --network host or --network none")
            .code("RL-N01")
    })
}

/// A helper at work.
#[derive(Debug)]
pub struct Uplink {
    /// The process.
    pub child: Child,
    /// The program's.
    pub name: &'static str,
    /// Its interface was made before it: nobody has seen yet whether it works.
    pub ahead: bool,
    since: Instant,
    program: PathBuf,
    ready: Ready,
    stderr: std::fs::File,
    /// slirp4netns ends when this closes.
    _exit: Option<OwnedFd>,
    /// Ports of the host that are held for it.
    reserved: Vec<Reserved>,
    /// Where slirp4netns is told which ports it forwards.
    api: Option<PathBuf>,
    /// For whom [`doors`] carry the ports, and the address there.
    carried: Option<(rustix::process::Pid, IpAddr)>,
    /// The process that does.
    doors: Option<Child>,
}

/// How long the end of a program may take after its namespaces have gone.
const ENDING: Duration = Duration::from_millis(500);

/// What ends sooner has not come up.
const AT_ONCE: Duration = Duration::from_secs(5);

/// How a helper tells that it is ready.
#[derive(Debug)]
enum Ready {
    /// A byte arrives here.
    Byte(OwnedFd),
}

/// Starts the helper for the process `pid`, if the choice has one, with the ports that are held for it. With `ahead` that
/// interface is there already. It does not wait.
///
/// # Errors
/// When it cannot be started.
pub fn start(
    chosen: &Chosen,
    ports: Vec<Reserved>,
    ahead: Option<&Link>,
    pid: rustix::process::Pid,
) -> Result<Option<Uplink>> {
    match chosen {
        Chosen::Host | Chosen::None | Chosen::Joined | Chosen::Named { .. } => Ok(None),
        Chosen::Pasta {
            program,
            options,
            maps_host,
        } => pasta::start(program, options, *maps_host, ports, ahead, pid).map(Some),
        Chosen::Slirp { program, options } => {
            slirp::start(program, options, ports, ahead, pid).map(Some)
        }
    }
}

impl Uplink {
    /// Waits until packets can flow and the ports are open. Which ones they are is the answer.
    ///
    /// # Errors
    /// When the helper ends instead; with its own words.
    pub fn wait_ready(&mut self) -> Result<Vec<Bound>> {
        self.wait_told()?;
        probe::note(&self.program, Standing::CameUp);
        let ports = std::mem::take(&mut self.reserved);
        let Some(api) = self.api.take() else {
            if let Some((pid, to)) = self.carried {
                self.doors = Some(doors::start(pid, to, &ports)?);
            }
            // pasta has opened them before it told that it is ready.
            return Ok(ports.into_iter().map(|port| port.bound).collect());
        };
        let bound = slirp::forward(&api, ports);
        let _ = std::fs::remove_file(&api); // in the way of nobody
        bound
    }

    fn wait_told(&mut self) -> Result<()> {
        let Ready::Byte(ready) = &self.ready;
        loop {
            let mut fds = [
                PollFd::new(ready, PollFlags::IN),
                PollFd::new(&self.child.pidfd, PollFlags::IN),
            ];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(sys::Error::new("poll(network helper)", errno).into()),
            }
            let (told, ended) = (fds[0].revents(), fds[1].revents());
            if told.contains(PollFlags::IN) {
                let mut byte = [0_u8; 32];
                let length = rustix::io::read(ready, &mut byte)
                    .context("listening to the network helper")?;
                if length > 0 {
                    return Ok(());
                }
            }
            if !ended.is_empty() {
                let exit = self.child.wait()?;
                return Err(self.failure(&format!("{exit:?}")).into());
            }
            if told.contains(PollFlags::HUP) && !told.contains(PollFlags::IN) {
                // The pipe is closed but the helper lives on for a moment: its end says why.
                let exit = self.child.wait()?;
                return Err(self.failure(&format!("{exit:?}")).into());
            }
        }
    }

    /// A descriptor that can be read when the helper has ended, or what carries the ports.
    ///
    /// # Errors
    /// epoll_create1(2), dup(2).
    pub fn watch(&self) -> Result<OwnedFd> {
        let doing = "watching the network helper";
        let Some(doors) = &self.doors else {
            return self.child.pidfd.try_clone().context(doing);
        };
        let both = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC);
        let both = both.context(doing)?;
        for (number, child) in (0..).zip([&self.child, doors]) {
            let data = rustix::event::epoll::EventData::new_u64(number);
            let flags = rustix::event::epoll::EventFlags::IN;
            rustix::event::epoll::add(&both, &child.pidfd, data, flags).context(doing)?;
        }
        Ok(both)
    }

    /// Who has ended while `program` runs, and what is to be said of it. The next start waits for the helper again, and takes
    /// another one if it fails. None when the program ends, too: its namespaces go a moment before it does (`do_exit()` in the
    /// kernel), and a helper that has just begun finds none.
    #[must_use]
    pub fn lost(&self, program: &OwnedFd) -> Option<(&'static str, String)> {
        let mut fds = [PollFd::new(program, PollFlags::IN)];
        let ended = rustix::event::poll(&mut fds, Timespec::try_from(ENDING).ok().as_ref());
        if matches!(ended, Ok(1..)) {
            return None;
        }
        let is_doors = self.doors.as_ref().is_some_and(Child::has_ended);
        if is_doors && !self.child.has_ended() {
            let why = "the process for published ports has ended: they are closed until a restart";
            return Some(("rl:[ports]", why.to_owned()));
        }
        let is_late = self.ahead && self.since.elapsed() < AT_ONCE;
        let standing = if is_late {
            Standing::Late
        } else {
            Standing::New
        };
        probe::note(&self.program, standing);
        let said = match self.said() {
            said if said.is_empty() => said,
            said => format!(" ({said})"),
        };
        let why = format!(
            "{} has ended{said}: there is no network until a restart",
            self.name
        );
        Some((self.name, why))
    }

    /// Its own words, in one line.
    fn said(&self) -> String {
        let mut bytes = [0; 4096];
        let Ok(length) = self.stderr.read_at(&mut bytes, 0) else {
            return "(its words could not be read)".to_owned();
        };
        let said = String::from_utf8_lossy(&bytes[..length]);
        let lines = said
            .lines()
            .map(str::trim)
            // After an option that it does not know, its whole help follows.
            .take_while(|line| !line.starts_with("Usage:"))
            .filter(|line| !line.is_empty() && !line.contains("syslog"));
        lines.collect::<Vec<_>>().join("; ")
    }

    fn failure(&self, exit: &str) -> Fail {
        probe::note(&self.program, Standing::New);
        let said = self.said();
        // It opens its sockets itself: somebody may have been quicker.
        if said.contains("Failed to bind") {
            let lost = self.reserved.iter().find(|port| {
                let word = match port.bound.port.protocol {
                    Protocol::Tcp => "'-t ",
                    Protocol::Udp => "'-u ",
                };
                let number = port.bound.host;
                said.contains(word)
                    && (said.contains(&format!(" {number}:"))
                        || said.contains(&format!("/{number}:")))
            });
            if let Some(port) = lost {
                let on_host = Port {
                    number: port.bound.host,
                    ..port.bound.port
                };
                return publish::taken(port.bound.address, on_host);
            }
        }
        let fail = Fail::unsupported(format!(
            "{} could not set up the network: {said} ({exit})",
            self.name
        ));
        let fail = match self.name == "pasta" && pasta::is_forbidden(&self.program) {
            true => fail
                .hint("AppArmor's profile, as Debian 12 has it, forbids pasta to look at other processes: --network slirp4netns")
                .hint(format!("your administrator: {}", pasta::REMEDY)),
            false => fail,
        };
        fail.hint("try the other helper (--network slirp4netns or --network pasta), --network host, or --network none")
            .code(HELPER_FAILED)
    }

    /// Ends the helper.
    pub fn stop(self) {
        if let Some(api) = &self.api {
            let _ = std::fs::remove_file(api); // it is there only while the ports are opened
        }
        for child in [Some(&self.child), self.doors.as_ref()]
            .into_iter()
            .flatten()
        {
            child.kill();
            let _ = child.wait(); // it is gone either way
        }
    }
}

/// A helper's process: tied to this one, its standard error kept for messages.
fn spawn(
    program: &Path,
    words: &[String],
    stdout: Option<BorrowedFd<'_>>,
    keep: &[BorrowedFd<'_>],
) -> Result<(Child, std::fs::File)> {
    let doing = || format!("starting {}", program.display());
    let path = CString::new(std::os::unix::ffi::OsStrExt::as_bytes(program.as_os_str()))
        .with_context(doing)?;
    let argv: Vec<CString> = std::iter::once(Ok(path.clone()))
        .chain(words.iter().map(|word| CString::new(word.as_str())))
        .collect::<Result<_, _>>()
        .with_context(doing)?;
    let stderr = std::fs::File::from(
        rustix::fs::memfd_create("stderr", rustix::fs::MemfdFlags::CLOEXEC).with_context(doing)?,
    );
    let null = sys::fs::open_trusted(Path::new("/dev/null"), rustix::fs::OFlags::RDWR)?;
    let env = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    let child = sys::tied::spawn(&Tied {
        program: &path,
        argv: &argv,
        env: &env,
        stdin: null.as_fd(),
        stdout: stdout.unwrap_or(null.as_fd()),
        stderr: stderr.as_fd(),
        keep,
        join: &[],
        own_mounts: false,
    })
    .with_context(|| {
        Fail::unsupported(format!("{} cannot be started", program.display()))
            .hint("another one first in PATH, --network host, or --network none")
            .code(HELPER_FAILED)
    })?;
    Ok((child, stderr))
}
