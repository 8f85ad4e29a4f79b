//! What `--egress` means on this machine, now: names become addresses, and a network that cannot be closed is refused.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::error::Fail;
use crate::image::resolver::Resolver;
use crate::net::Chosen;
use crate::net::egress::{FORBIDDEN, Rule};
use crate::spec::{ContainerSpec, Destination, Egress};

/// The longest that a name is looked up.
const LIMIT: Duration = Duration::from_secs(15);

/// The rules; names go into the spec's `/etc/hosts`, for inside nobody answers them.
///
/// # Errors
/// When a name has no address.
pub fn rules(spec: &mut ContainerSpec) -> Result<Option<Vec<Rule>>> {
    let Some(egress) = &spec.egress else {
        return Ok(None);
    };
    let resolver = Resolver::default();
    let mut rules = Vec::new();
    let mut hosts = Vec::new();
    for allowed in &egress.allow {
        let addresses: Vec<(IpAddr, u8)> = match &allowed.to {
            Destination::Network(address, length) => vec![(*address, *length)],
            Destination::Name(name) => {
                let found = resolver
                    .look_up(name, LIMIT)
                    .with_context(|| format!("looking up `--egress allow={allowed}`"))?;
                for address in &found {
                    let entry = (name.clone(), address.to_string());
                    if !hosts.contains(&entry) {
                        hosts.push(entry);
                    }
                }
                let whole = |address: &IpAddr| if address.is_ipv4() { 32 } else { 128 };
                found.iter().map(|one| (*one, whole(one))).collect()
            }
        };
        rules.extend(addresses.into_iter().map(|(address, length)| Rule {
            address,
            length,
            port: allowed.port,
            protocol: allowed.protocol,
        }));
    }
    spec.names.hosts.extend(hosts);
    Ok(Some(rules))
}

/// Whether the rules can hold on this network.
///
/// # Errors
/// `Unsupported` for the host's own, which `why` led to.
pub fn check(spec: &ContainerSpec, network: &Chosen, why: Option<&Fail>) -> Result<(), Fail> {
    if spec.egress.is_none() || *network != Chosen::Host {
        return Ok(());
    }
    let why = why.map_or_else(String::new, |why| format!(": {}", why.message));
    Err(Fail::unsupported(format!(
        "--egress needs a network of the container's own{why}"
    ))
    .hint("pasta or slirp4netns make one: see rl doctor")
    .hint("or do without a network: --network none")
    .code("RL-N02"))
}

/// Makes who joins the network of another container keep that one's rules.
///
/// # Errors
/// `Usage` for rights that would undo them.
pub fn inherit(spec: &mut ContainerSpec, theirs: Option<Egress>, name: &str) -> Result<(), Fail> {
    let Some(egress) = theirs else {
        return Ok(());
    };
    if spec.confinement.privileged {
        return Err(Fail::usage(format!(
            "--privileged would undo the --egress rules of container `{name}`, whose network is joined"
        )));
    }
    spec.egress = Some(egress);
    let capabilities = &mut spec.confinement.capabilities;
    capabilities.retain(|capability| !FORBIDDEN.contains(&capability.as_str()));
    Ok(())
}
