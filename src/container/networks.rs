//! A container on named networks: its place there while it runs, and the networks that are added and taken away.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Result;

use super::events::Event;
use super::record::Record;
use super::{emit, write_etc};
use crate::error::Fail;
use crate::net::Chosen;
use crate::net::named::client::{self, Lease};
use crate::net::named::config::{self, Config};
use crate::net::named::{Endpoint, Guest};
use crate::paths::Store;
use crate::spec::{ContainerSpec, Joined, Network};

/// A container's place on its networks, held by its owner for one run.
#[derive(Debug)]
pub struct Membership {
    record: Record,
    lease: Lease,
}

impl AsFd for Membership {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lease.as_fd()
    }
}

impl Membership {
    /// Takes places for the next run; `None` for a container that is on no named network.
    ///
    /// # Errors
    /// What keeps it from one of its networks.
    pub fn reserve(record: &Record) -> Result<Option<Self>> {
        let spec = record.spec()?;
        let Network::Named { networks } = &spec.network else {
            return Ok(None);
        };
        let guest = Guest {
            id: spec.id.clone(),
            name: spec.name.clone(),
            dns: spec.names.dns.clone(),
            joined: networks.clone(),
            before: Vec::new(),
        };
        Ok(Some(Self {
            record: record.clone(),
            lease: Lease::reserve(record.store(), guest)?,
        }))
    }

    /// What the start works with.
    pub fn lease(&mut self) -> &mut Lease {
        &mut self.lease
    }

    /// The network, as names and addresses see it.
    #[must_use]
    pub fn chosen(&self) -> Chosen {
        Chosen::Named {
            endpoints: self.lease.endpoints.clone(),
        }
    }

    /// Tells those who watch `rl events` that it has come (`connect`) or gone (`disconnect`).
    pub fn tell(&self, action: &str) {
        for endpoint in &self.lease.endpoints {
            let event = Event::network(action, &endpoint.network, &endpoint.network_id);
            let store = self.record.store();
            emit(store, &event.with("container", &self.record.id));
        }
    }

    /// The network process has ended, which it does not by itself: another one serves the container from now on.
    /// False when that cannot be; the container goes on alone.
    pub fn renew(&mut self) -> bool {
        let Ok(spec) = self.record.spec() else {
            return false;
        };
        let Network::Named { networks } = &spec.network else {
            return false;
        };
        let old = self.lease.endpoints.clone();
        if self.lease.renew(&spec.name, networks.clone()).is_err() {
            for endpoint in old {
                let event = Event::network("disconnect", &endpoint.network, &endpoint.network_id);
                emit(self.record.store(), &event.with("container", &spec.id));
            }
            return false;
        }
        // What cannot be written now is right after the next start.
        let _ = write_names(&spec, &self.chosen(), &self.record);
        true
    }
}

/// Where a running container is; nowhere when it is on no named network.
///
/// # Errors
/// The runtime directory's.
pub fn endpoints(store: &Store, spec: &ContainerSpec) -> Result<Vec<Endpoint>> {
    if !matches!(spec.network, Network::Named { .. }) {
        return Ok(Vec::new());
    }
    let present = client::present(store)?;
    let mine = present.into_iter().find(|one| one.id == spec.id);
    Ok(mine.map(|one| one.endpoints).unwrap_or_default())
}

/// Puts a container on one more network, at once when it runs.
///
/// # Errors
/// `Conflict` when it is on it already; what keeps it from the network.
pub fn connect(record: &Record, joined: &Joined) -> Result<()> {
    let config = config::find(record.store(), &joined.network)?;
    let joined = Joined {
        network: config.name.clone(),
        ..joined.clone()
    };
    let _lock = record.lock_description()?;
    let mut spec = record.spec()?;
    let name = spec.name.clone();
    let networks = named(&mut spec)?;
    if networks.iter().any(|one| one.network == joined.network) {
        return Err(Fail::conflict(format!(
            "container `{name}` is on network `{}` already",
            joined.network
        ))
        .into());
    }
    networks.push(joined.clone());
    let endpoints = client::connect(record.store(), &record.id, &joined)?;
    changed(record, &spec, endpoints, "connect", &config)
}

/// Takes a container off a network, at once when it runs.
///
/// # Errors
/// `Conflict` when it is not on it.
pub fn disconnect(record: &Record, network: &str) -> Result<()> {
    let _lock = record.lock_description()?;
    let mut spec = record.spec()?;
    let name = spec.name.clone();
    // One that was removed meanwhile is still a name.
    let config = config::find(record.store(), network);
    let network = config
        .as_ref()
        .map_or(network, |config| config.name.as_str());
    let networks = named(&mut spec)?;
    let before = networks.len();
    networks.retain(|one| one.network != network);
    if networks.len() == before {
        return Err(
            Fail::conflict(format!("container `{name}` is not on network `{network}`")).into(),
        );
    }
    let endpoints = client::disconnect(record.store(), &record.id, network)?;
    match config {
        Ok(config) => changed(record, &spec, endpoints, "disconnect", &config),
        Err(_) => record.describe(&spec),
    }
}

/// Its named networks.
fn named(spec: &mut ContainerSpec) -> Result<&mut Vec<Joined>, Fail> {
    let (name, mode) = (spec.name.clone(), super::view::network(&spec.network));
    match &mut spec.network {
        Network::Named { networks } => Ok(networks),
        Network::Auto
        | Network::Pasta { .. }
        | Network::Slirp4netns { .. }
        | Network::Host
        | Network::None
        | Network::Container { .. }
        | Network::Path { .. } => Err(Fail::unsupported(format!(
            "container `{name}` has the network `{mode}`, which goes with no other"
        ))
        .hint("make it with a named network: rl run --network NAME …; others can be added then")),
    }
}

/// Writes down what was done; a running container reads its names anew.
fn changed(
    record: &Record,
    spec: &ContainerSpec,
    endpoints: Option<Vec<Endpoint>>,
    action: &str,
    config: &Config,
) -> Result<()> {
    record.describe(spec)?;
    if let Some(endpoints) = endpoints {
        write_names(spec, &Chosen::Named { endpoints }, record)?;
    }
    let event = Event::network(action, &config.name, &config.id);
    emit(record.store(), &event.with("container", &record.id));
    Ok(())
}

/// Writes what stands in a running container's `/etc` once more.
fn write_names(spec: &ContainerSpec, chosen: &Chosen, record: &Record) -> Result<()> {
    let mut spec = spec.clone();
    spec.hostname = Some(super::hostname(&spec));
    write_etc(&spec, chosen, &record.dir()).map(|_| ())
}
