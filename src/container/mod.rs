//! The life of a container: from a checked specification to an exit code.

pub mod attach;
pub mod check;
pub mod convert;
pub mod copy;
pub mod describe;
pub mod diff;
mod egress;
pub mod emulation;
pub mod events;
pub mod exec;
pub mod files;
pub mod follow;
pub mod foreground;
pub mod group;
mod groups;
pub mod health;
pub mod joined;
pub mod lifecycle;
pub mod logout;
pub mod logs;
pub mod measure;
pub mod monitor;
pub mod networks;
mod only_user;
pub mod processes;
pub mod record;
mod start;
pub mod state;
pub mod tree;
pub mod usage;
pub mod view;
pub mod volumes;
pub mod watch;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};

use crate::cgroup::Group;
use crate::error::{Fail, Kind};
use crate::idmap::ahead::Ahead;
use crate::idmap::{self, Available, Plan};
use crate::image::layer::Ids;
use crate::net::{self, names};
use crate::paths::Store;
use crate::spec::{ContainerSpec, MountSource, Namespace, Publish, UserNs};
use crate::stage::{self, Job, Order};
use crate::sys;
use events::Event;
use record::{Lock, Record};

/// What a front end asks for beside the container itself.
#[derive(Debug, Default)]
pub struct RunOptions {
    /// Gets the full id; must not exist.
    pub cidfile: Option<PathBuf>,
    /// Gets the pid of the container's first process, as the host sees it.
    pub pidfile: Option<PathBuf>,
    /// Signals to the command go to the program.
    pub sig_proxy: bool,
    /// Makes up another name when the one in the specification is taken; none when the user chose that one.
    pub another_name: Option<fn() -> String>,
}

/// So many names are made up before one is found to be free.
const NAMES: usize = 100;

/// Makes a container: checks it, names its volumes, writes it down. Nothing of it runs yet.
///
/// # Errors
/// What is wrong with it; nothing is left then.
pub fn create(
    store: &Store,
    mut spec: ContainerSpec,
    options: &RunOptions,
    say: &mut dyn FnMut(&str),
) -> Result<(Record, Lock)> {
    joined::settle(store, &mut spec)?;
    only_user::settle(store, &mut spec)?;
    create_settled(store, spec, options, say)
}

fn create_settled(
    store: &Store,
    mut spec: ContainerSpec,
    options: &RunOptions,
    say: &mut dyn FnMut(&str),
) -> Result<(Record, Lock)> {
    spec.check()?;
    refuse_unbuilt(&spec)?;
    for notice in group::check(&spec)? {
        say(&notice);
    }
    if let Some(path) = &options.cidfile {
        write_new(path, &spec.id)?;
    }
    name_volumes(&mut spec);
    for _ in 0..NAMES {
        match (Record::create(store, &spec), options.another_name) {
            (Err(error), Some(another)) if crate::error::kind(&error) == Kind::Conflict => {
                spec.name = another();
            }
            (made, _) => {
                if made.is_ok() {
                    emit(store, &Event::container("create", &spec));
                }
                return made;
            }
        }
    }
    Record::create(store, &spec)
}

/// Tells those who watch `rl events`.
pub fn emit(store: &Store, event: &Event) {
    let _ = events::emit(store, event); // a full disk must not keep anything else from working
}

/// Runs a container in the foreground and returns the program's exit code. It lives and dies with this
/// process. `say` announces degraded modes.
///
/// # Errors
/// Whatever keeps the program from starting; nothing of the container is left then.
pub fn run(
    store: &Store,
    mut spec: ContainerSpec,
    options: &RunOptions,
    say: &mut dyn FnMut(&str),
) -> Result<u8> {
    joined::settle(store, &mut spec)?;
    only_user::settle(store, &mut spec)?;
    let mut machine = Machine::look(store, &spec, say)?;
    machine.join(store, &spec, say)?;
    record::sweep(store, &machine.plan, machine.helpers());
    let (record, lock) = create_settled(store, spec, options, say)?;
    let spec = record.spec()?;
    let result = foreground::run(&record, &mut machine, options, say);
    if let Ok(code) = &result {
        emit(
            store,
            &Event::container("die", &spec).with("exitCode", code),
        );
        lifecycle::bequeath(&record, *code);
    }
    emit(store, &Event::container("destroy", &spec));
    // The record goes last: while it is there, the next sweep finds what could not be removed.
    let removed = record
        .remove_volumes(&spec, &machine.plan, machine.helpers())
        .and_then(|()| record.remove(lock, &machine.plan, machine.helpers()));
    match (result, removed) {
        (Err(error), Err(second)) => {
            say(&format!("and cleaning up failed: {second:#}"));
            Err(error)
        }
        (result, removed) => removed.and(result),
    }
}

/// What this machine gives one container.
#[derive(Debug)]
pub struct Machine {
    available: Available,
    /// The id maps.
    pub plan: Plan,
    /// The network.
    pub network: net::Chosen,
    /// The network namespace that is joined: see [`Machine::join`].
    pub target: Option<net::joined::Target>,
    /// The ports to publish on it.
    pub ports: Vec<Publish>,
    /// Ids that are mapped already, or soon, for the next start.
    ids: Option<Ahead>,
    /// Network helpers that did not come up.
    given_up: Vec<&'static str>,
    /// What the container has to share with the one that this runs in.
    outer: Outer,
}

/// File systems of the kernel's of which it gives out no new one, as inside another container.
#[derive(Debug, Default, Clone, Copy)]
struct Outer {
    /// `/proc`, and with it the processes.
    proc: bool,
    /// `/sys`.
    sys: bool,
}

impl Machine {
    /// Looks, chooses, and says what had to be given up.
    ///
    /// # Errors
    /// When what was asked for by name cannot be had.
    pub fn look(store: &Store, spec: &ContainerSpec, say: &mut dyn FnMut(&str)) -> Result<Self> {
        let available = available(store)?;
        let (plan, notice) = idmap::plan(&spec.userns, &available)?;
        if let Some(notice) = notice.filter(|_| is_news()) {
            say(&degraded(&notice, &emulation::instead(spec, &plan)));
        }
        if let Some(fail) = idmap::changed::look(store, &available) {
            say(&degraded(&fail, "files of other users are not theirs"));
        }
        emulation::check(spec, &plan)?;
        if let Some((fail, instead)) = groups::missing(spec, &plan) {
            say(&degraded(&fail, instead));
        }
        let mut ports = spec.published();
        let (network, notice) = net::choose(&spec.network, &ports, &[])?;
        egress::check(spec, &network, notice.as_ref())?;
        if let Some(notice) = notice {
            say(&degraded(&notice, "using the host's network"));
        }
        if !ports.is_empty() && !network.is_published() {
            // As docker does it, which says so for `host` only.
            let name = view::network(&spec.network);
            say(&format!(
                "published ports are discarded with --network {name}"
            ));
            ports.clear();
        }
        for line in network.caveats(&ports) {
            say(&line);
        }
        Ok(Self {
            available,
            plan,
            network,
            target: None,
            ports,
            ids: None,
            given_up: Vec::new(),
            outer: Outer::default(),
        })
    }

    /// Has the ids mapped while the rest of the start is prepared; those of a network that is joined are there. Only when the
    /// control group is made: beside the helpers, which are setuid, the kernel hands no `cpuset` down. A container that is
    /// `lasting` spares others the helpers.
    pub fn begin_ids(&mut self, lasting: bool) {
        if self.target.is_none() {
            self.ids = Ahead::begin(&self.plan, self.helpers(), lasting);
        }
    }

    /// Who writes the id maps.
    #[must_use]
    pub fn helpers(&self) -> Option<&idmap::newuidmap::Helpers> {
        self.available.helpers.as_ref().ok()
    }
}

/// What ids there are for files in `store`. The first time, a doubtful file system is tried.
fn available(store: &Store) -> Result<Available> {
    let available = Available::of(store);
    if !store.is_doubtful() {
        return Ok(available);
    }
    let (plan, _) = idmap::plan(&UserNs::Auto, &available)?;
    if !plan.is_mapped() {
        return Ok(available);
    }
    let directory = store.tmp();
    store.make(&directory)?;
    let job = Job::Owners { directory };
    let helpers = available.helpers.as_ref().ok();
    let answer = stage::parent::job(job, "owners", &plan, helpers)?;
    store.set_owners(serde_json::from_str(&answer).context("reading a job's answer")?)?;
    Ok(Available::of(store))
}

/// Has image work done by a process that is root of a user namespace with the user's ids. `request` makes its
/// text, told how ownership is kept there; the answer is the job's.
///
/// # Errors
/// The job's.
pub fn image_work(
    store: &Store,
    title: &str,
    request: impl FnOnce(Ids) -> Result<String>,
    say: &mut dyn FnMut(&str),
) -> Result<String> {
    let available = available(store)?;
    let (plan, notice) = idmap::plan(&UserNs::Auto, &available)?;
    if let Some(notice) = notice.filter(|_| is_news()) {
        let instead = if plan.is_mapped() {
            "owners are set as they are"
        } else {
            "other owners than you are noted, not set"
        };
        say(&degraded(&notice, instead));
    }
    let ids = if plan.is_mapped() {
        Ids::Mapped
    } else {
        Ids::Single
    };
    let answer = stage::parent::job(
        Job::Image {
            request: request(ids)?,
        },
        title,
        &plan,
        available.helpers.as_ref().ok(),
    )?;
    // Not in a store that was removed. What is wrong is said when a container needs it.
    if store.layers().exists() {
        let _ = idmap::changed::look(store, &available);
    }
    Ok(answer)
}

/// Whether it has not been said yet that ids are short: a command that pulls and runs meets it twice.
fn is_news() -> bool {
    static SAID: AtomicBool = AtomicBool::new(false);
    !SAID.swap(true, Ordering::Relaxed)
}

/// One line: what is missing, what happens instead, where to read on.
fn degraded(fail: &Fail, instead: &str) -> String {
    let code = fail
        .code
        .as_deref()
        .map(|code| format!(" (rl explain {code})"))
        .unwrap_or_default();
    format!("{}: {instead}{code}", fail.message)
}

fn refuse_unbuilt(spec: &ContainerSpec) -> Result<(), Fail> {
    let namespaces = &spec.namespaces;
    for (flag, namespace) in [
        ("--pid", &namespaces.pid),
        ("--ipc", &namespaces.ipc),
        ("--uts", &namespaces.uts),
        ("--cgroupns", &namespaces.cgroup),
    ] {
        match namespace {
            Namespace::Private | Namespace::Host => {}
            Namespace::Container(_) | Namespace::Path(_) => {
                return Err(Fail::unsupported(format!(
                    "{flag} of another container is not built yet"
                )));
            }
        }
    }
    if spec.userns == UserNs::NoMap {
        return Err(Fail::unsupported("--userns=nomap is not built yet")
            .hint("--userns=auto and --userns=keep-id are"));
    }
    Ok(())
}

/// Fills in what depends on the machine.
fn settle(spec: &mut ContainerSpec, plan: &Plan) {
    if spec.namespaces.uts == Namespace::Private {
        spec.hostname = Some(hostname(spec));
    } else if spec.hostname.is_none() {
        spec.hostname = Some(
            rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
        );
    }
    if matches!(spec.userns, UserNs::KeepId { .. }) && spec.process.user.is_empty() {
        let uid = plan
            .inner_uid(rustix::process::getuid().as_raw())
            .unwrap_or(0);
        let gid = plan
            .inner_gid(rustix::process::getgid().as_raw())
            .unwrap_or(0);
        spec.process.user = format!("{uid}:{gid}");
    }
}

/// The host name of a UTS namespace of its own.
fn hostname(spec: &ContainerSpec) -> String {
    let short = || spec.id.chars().take(12).collect();
    spec.hostname.clone().unwrap_or_else(short)
}

/// Anonymous volumes get a name.
fn name_volumes(spec: &mut ContainerSpec) {
    let id = spec.id.clone();
    for (position, mount) in spec.mounts.iter_mut().enumerate() {
        if let MountSource::Volume { volume, .. } = &mut mount.source
            && volume.is_empty()
        {
            *volume = format!("{id}-{position}");
        }
    }
}

/// Everything pid 1 has to know, for one start.
fn order(
    record: &Record,
    machine: &Machine,
    group: Option<&Group>,
    membership: Option<&networks::Membership>,
) -> Result<Order> {
    let (store, dir, plan) = (record.store(), record.dir(), &machine.plan);
    let mut spec = record.spec()?;
    // What belongs to another user namespace is seen as the host's is: no sysfs can be mounted of it.
    let is_foreign = |target: &net::joined::Target| target.owner.is_none();
    if machine.network == net::Chosen::Host || machine.target.as_ref().is_some_and(is_foreign) {
        spec.network = crate::spec::Network::Host;
    }
    if machine.outer.proc {
        spec.namespaces.pid = Namespace::Host;
    }
    settle(&mut spec, plan);
    let egress = match machine.network.is_private() {
        true => egress::rules(&mut spec)?,
        false => None,
    };
    let (root, driver) = files::root(record, &spec)?;
    let chosen = membership.map(networks::Membership::chosen);
    let emulation = emulation::of(&spec, plan);
    let etc = match joined::etc(store, &spec)? {
        Some(shared) => shared,
        None => write_etc(&spec, chosen.as_ref().unwrap_or(&machine.network), &dir)?,
    };
    Ok(Order {
        root,
        driver,
        become_ids: None,
        only_ids: (!plan.is_mapped()).then(|| (plan.uids[0].inner, plan.gids[0].inner)),
        drop_ins: emulation::drop_ins(emulation.as_ref(), &dir)?,
        memory: emulation::memory(record, &spec, emulation.as_ref())?,
        emulation,
        has_tty_group: plan.has_gid(5),
        etc,
        volumes: volumes::make_all(store, &spec)?,
        layered: files::layered(record, &spec)?,
        raise_loopback: machine.network.is_private(),
        egress,
        soft_sysctls: if machine.network.is_private() {
            network_sysctls(&spec, plan)
        } else {
            Vec::new()
        },
        ahead: net::ahead::Link::plan(&machine.network, &machine.ports),
        wait_for_network: machine.network.is_awaited(),
        own_group: group.is_some(),
        outer_sys: machine.outer.sys,
        spec,
    })
}

/// Docker's settings of a network namespace: its programs may ping and have ports below 1024, whatever the host says
/// of its own.
fn network_sysctls(spec: &ContainerSpec, plan: &Plan) -> Vec<(String, String)> {
    let first = plan.gids.iter().map(|extent| extent.inner).min();
    let last = plan
        .gids
        .iter()
        .map(|extent| extent.inner.saturating_add(extent.count - 1))
        .max();
    // Both ends have to be groups that exist inside: icmp(7).
    let groups = format!(
        "{} {}",
        first.unwrap_or(0),
        last.unwrap_or(0).min(i32::MAX as u32)
    );
    [
        ("net.ipv4.ping_group_range", groups),
        ("net.ipv4.ip_unprivileged_port_start", "0".to_owned()),
    ]
    .into_iter()
    .filter(|(name, _)| !spec.confinement.sysctls.contains_key(*name))
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// The files that stand over the image's own, and where.
fn write_etc(
    spec: &ContainerSpec,
    network: &net::Chosen,
    dir: &Path,
) -> Result<Vec<(PathBuf, String)>> {
    let host = if *network == net::Chosen::None {
        names::Host::files()
    } else {
        names::Host::read()
    };
    let hostname = spec.hostname.as_deref();
    let mut files = vec![("hostname", format!("{}\n", hostname.unwrap_or_default()))];
    if !spec.names.keep_hosts {
        files.push((
            "hosts",
            names::hosts(&spec.names, network, &host, hostname)?,
        ));
    }
    if !spec.names.keep_resolv_conf {
        files.push((
            "resolv.conf",
            names::resolv_conf(&spec.names, network, &host),
        ));
    }
    let mut etc = Vec::new();
    for (name, text) in files {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|error| disk_error(error, &path))?;
        // Other users inside read them, whatever the caller's umask.
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o644))
            .with_context(|| format!("opening `{}`", path.display()))?;
        etc.push((path, format!("/etc/{name}")));
    }
    Ok(etc)
}

/// Writes a file that must not be there yet.
///
/// # Errors
/// `Conflict` when it is; the system's.
pub fn write_new(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let fail = if error.kind() == std::io::ErrorKind::AlreadyExists {
            Fail::conflict(format!("`{}` exists already", path.display()))
                .hint("remove it, or name another file")
        } else {
            Fail::usage(format!("cannot write `{}`", path.display()))
        };
        anyhow::Error::from(error).context(fail)
    })
}

/// A file of ours that could not be written, with the remedy for a full disk.
pub fn disk_error(error: std::io::Error, path: &Path) -> anyhow::Error {
    let fail = match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => Fail::system(format!(
            "no room left to write `{}`",
            path.display()
        ))
        .hint("free some space or inodes, or keep images and containers elsewhere: --root DIR")
        .code("RL-F05"),
        _ => Fail::system(format!("cannot write `{}`", path.display())),
    };
    anyhow::Error::from(error).context(fail)
}

/// A fresh id: 64 hexadecimal digits.
///
/// # Errors
/// getrandom(2).
pub fn new_id() -> Result<String> {
    let mut bytes = [0_u8; 32];
    sys::random(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
