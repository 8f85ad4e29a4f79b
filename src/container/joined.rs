//! `--network container:NAME` and `ns:PATH`: whose network is joined, with which ids, and what else is shared.

use std::path::PathBuf;

use anyhow::Result;

use super::exec::has_ended;
use super::record::Record;
use super::state::Status;
use super::{Machine, hostname};
use crate::error::{self, Fail, Kind};
use crate::net::Chosen;
use crate::net::joined::Target;
use crate::paths::Store;
use crate::spec::{ContainerSpec, Namespace, Network, UserNs};

/// A container may join one that has joined another, and so on, so often.
const DEPTH: usize = 16;

/// For a container that joins another one's network: names it by its id, and takes the ids and the host name from it.
///
/// # Errors
/// `NotFound`.
pub fn settle(store: &Store, spec: &mut ContainerSpec) -> Result<()> {
    let Network::Container { id } = &spec.network else {
        return Ok(());
    };
    let record = Record::find(store, id)?;
    let theirs = record.spec()?;
    if spec.namespaces.uts == Namespace::Private && theirs.namespaces.uts == Namespace::Private {
        spec.hostname = Some(hostname(&theirs));
    }
    if matches!(spec.userns, UserNs::Auto) {
        spec.userns = theirs.userns;
    }
    spec.network = Network::Container { id: record.id };
    super::egress::inherit(spec, theirs.egress, &theirs.name)?;
    Ok(())
}

impl Machine {
    /// Opens the network namespace that the container joins, if it does.
    ///
    /// # Errors
    /// When it is not there, may not be entered, or has other ids than the container is to have.
    pub fn join(
        &mut self,
        store: &Store,
        spec: &ContainerSpec,
        say: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let (target, what) = match &spec.network {
            Network::Container { id } => of_container(store, id)?,
            Network::Path { path } => {
                let what = format!("`{}`", path.display());
                (Target::open(path, &what)?, what)
            }
            Network::Auto
            | Network::Pasta { .. }
            | Network::Slirp4netns { .. }
            | Network::Host
            | Network::None
            | Network::Named { .. } => return Ok(()),
        };
        let Some(target) = target else {
            self.network = Chosen::Host;
            return Ok(());
        };
        if let Some((_, theirs)) = &target.owner
            && (&theirs.uids, &theirs.gids) != (&self.plan.uids, &self.plan.gids)
        {
            let me = rustix::process::getuid().as_raw();
            let is_open = matches!(spec.network, Network::Path { .. })
                && matches!(spec.userns, UserNs::Auto | UserNs::Host);
            if !is_open || theirs.is_mapped() || theirs.inner_uid(me).is_none() {
                return Err(Fail::conflict(format!(
                    "{what} belongs to a user namespace with other ids than the container is to have"
                ))
                .hint("who joins a network has the ids of its owner: give the same --userns")
                .into());
            }
            say(&format!(
                "{what} belongs to a user namespace with one id: running with that"
            ));
            self.plan = theirs.clone();
        }
        self.target = Some(target);
        Ok(())
    }
}

/// The namespace of a running container, and its name in messages.
fn of_container(store: &Store, id: &str) -> Result<(Option<Target>, String)> {
    let record = Record::find(store, id).map_err(|error| {
        if error::kind(&error) == Kind::NotFound {
            let short = id.get(..12).unwrap_or(id);
            Fail::not_found(format!(
                "the container whose network is joined is gone: {short}"
            ))
            .hint("make this one anew, with another --network")
            .into()
        } else {
            error
        }
    })?;
    let (name, state) = (record.spec()?.name, record.state()?);
    let not_running = || {
        Fail::conflict(format!(
            "cannot join the network of container `{name}`, which is not running"
        ))
        .hint(format!("start it first: rl start {name}"))
    };
    let process = state
        .process
        .filter(|_| state.status == Status::Running)
        .ok_or_else(not_running)?;
    let pidfd = process.open()?.ok_or_else(not_running)?;
    let what = format!("the network of container `{name}`");
    let path = PathBuf::from(format!("/proc/{}/ns/net", process.pid));
    let target = Target::open(&path, &what);
    // Alive after the looking: then its number was its own all the time.
    if has_ended(&pidfd)? {
        return Err(not_running().into());
    }
    Ok((target?, what))
}

/// The files under `/etc` that a container shares with the one whose network it joins; `None` when it joins none.
///
/// # Errors
/// When that one is gone.
pub fn etc(store: &Store, spec: &ContainerSpec) -> Result<Option<Vec<(PathBuf, String)>>> {
    let Some(mut id) = joins(spec) else {
        return Ok(None);
    };
    let mut dir = PathBuf::new();
    for _ in 0..DEPTH {
        let record = Record::find(store, &id)?;
        dir = record.dir();
        match joins(&record.spec()?) {
            Some(next) => id = next,
            None => break,
        }
    }
    let is_kept = |name: &str| {
        (name == "hosts" && spec.names.keep_hosts)
            || (name == "resolv.conf" && spec.names.keep_resolv_conf)
    };
    let files = ["hostname", "hosts", "resolv.conf"].into_iter();
    Ok(Some(
        files
            .filter(|name| !is_kept(name) && dir.join(name).exists())
            .map(|name| (dir.join(name), format!("/etc/{name}")))
            .collect(),
    ))
}

fn joins(spec: &ContainerSpec) -> Option<String> {
    match &spec.network {
        Network::Container { id } => Some(id.clone()),
        Network::Auto
        | Network::Pasta { .. }
        | Network::Slirp4netns { .. }
        | Network::Host
        | Network::None
        | Network::Path { .. }
        | Network::Named { .. } => None,
    }
}

/// How many containers have to be started before this one; their networks are joined.
#[must_use]
pub fn depth(record: &Record) -> usize {
    let mut next = record.spec().ok().and_then(|spec| joins(&spec));
    let mut depth = 0;
    while let Some(id) = next.filter(|_| depth < DEPTH) {
        depth += 1;
        let record = Record::find(record.store(), &id).ok(); // what is gone joins nothing
        next = record.and_then(|record| joins(&record.spec().ok()?));
    }
    depth
}
