//! A container's place on a network: its addresses, its interface, its MAC address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Result;

use super::{Member, Server, members};
use crate::error::Fail;
use crate::net::named::config::{self, Config, Subnet};
use crate::net::named::{Endpoint, Guest, Reply};
use crate::spec::Joined;

impl Server<'_> {
    pub(super) fn reserve(&mut self, at: usize, guest: Guest) -> Result<Reply> {
        let mut endpoints = Vec::new();
        for joined in &guest.joined {
            let before = guest
                .before
                .iter()
                .find(|one| one.network == joined.network);
            endpoints.push(self.place(&guest.id, joined, before, &endpoints)?);
        }
        self.clients[at].member = Some(Member {
            guest,
            endpoints: endpoints.clone(),
            container: None,
            route: None,
        });
        Ok(Reply::Endpoints(endpoints, Vec::new()))
    }

    /// Chooses a container's place on one network; `others` are those it has already.
    pub(super) fn place(
        &self,
        id: &str,
        joined: &Joined,
        before: Option<&Endpoint>,
        others: &[Endpoint],
    ) -> Result<Endpoint> {
        let config = match self.bridges.get(&joined.network) {
            Some(bridge) => bridge.config.clone(),
            None => config::find(&self.store, &joined.network)?,
        };
        let used: BTreeMap<IpAddr, String> = members(&self.clients)
            .filter(|member| member.guest.id != id)
            .flat_map(|member| {
                let here = member
                    .endpoints
                    .iter()
                    .filter(|one| one.network == config.name);
                here.flat_map(Endpoint::addresses)
                    .map(|address| (address, member.guest.name.clone()))
            })
            .collect();
        let wanted = [joined.ip.map(IpAddr::V4), joined.ip6.map(IpAddr::V6)];
        let (mut ip, mut ip6) = (None, None);
        for (is_v4, wanted) in [true, false].into_iter().zip(wanted) {
            let Some(subnet) = config.subnet(is_v4) else {
                if let Some(wanted) = wanted {
                    return Err(Fail::usage(format!(
                        "{wanted}: the network `{}` has no IPv6",
                        config.name
                    ))
                    .hint("make it with --ipv6")
                    .into());
                }
                continue;
            };
            let before = before
                .into_iter()
                .flat_map(Endpoint::addresses)
                .find(|one| one.is_ipv4() == is_v4 && subnet.subnet.is_host(*one));
            match address(&config, subnet, wanted, before, &used)? {
                IpAddr::V4(address) => ip = Some((address, subnet.subnet.length)),
                IpAddr::V6(address) => ip6 = Some((address, subnet.subnet.length)),
            }
        }
        let taken: BTreeSet<&str> = others.iter().map(|one| one.interface.as_str()).collect();
        let interface = (0..=others.len())
            .map(|number| format!("eth{number}"))
            .find(|name| !taken.contains(name.as_str()))
            .unwrap_or_default();
        // Docker's: a prefix of its own, then the address.
        let mut mac = [2, 0x42, 0, 0, 0, 0];
        if let Some((address, _)) = ip {
            mac[2..].copy_from_slice(&address.octets());
        }
        Ok(Endpoint {
            network: config.name,
            network_id: config.id,
            interface,
            aliases: joined.aliases.clone(),
            ip,
            ip6,
            gateways: config.subnets.iter().map(|one| one.gateway).collect(),
            mac: joined.mac.unwrap_or(mac),
            internal: config.internal,
        })
    }
}

/// The address that a container gets on one subnet.
fn address(
    config: &Config,
    subnet: &Subnet,
    wanted: Option<IpAddr>,
    before: Option<IpAddr>,
    used: &BTreeMap<IpAddr, String>,
) -> Result<IpAddr, Fail> {
    if let Some(wanted) = wanted {
        if !subnet.subnet.is_host(wanted) {
            return Err(Fail::usage(format!(
                "{wanted} is not an address of the network `{}`, which has {}",
                config.name, subnet.subnet
            )));
        }
        let holder = if wanted == subnet.gateway {
            Some("its gateway".to_owned())
        } else {
            used.get(&wanted).map(|name| format!("container `{name}`"))
        };
        return match holder {
            Some(holder) => Err(Fail::conflict(format!(
                "address {wanted} of the network `{}` is in use by {holder}",
                config.name
            ))
            .hint("choose another, or none: then a free one is taken")),
            None => Ok(wanted),
        };
    }
    if let Some(before) = before.filter(|one| *one != subnet.gateway && !used.contains_key(one)) {
        return Ok(before);
    }
    let mut taken: BTreeSet<IpAddr> = used.keys().copied().collect();
    taken.insert(subnet.gateway);
    let range = subnet.range.unwrap_or(subnet.subnet);
    subnet.subnet.free(range, &taken).ok_or_else(|| {
        Fail::conflict(format!(
            "the network `{}` has no free address left in {range}",
            config.name
        ))
        .hint("make a larger one: rl network create --subnet")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::net::named::subnet::Cidr;

    #[test]
    fn addresses_are_given_out_once() {
        let subnet = Subnet {
            subnet: Cidr::parse("10.1.0.0/29").unwrap(),
            gateway: "10.1.0.1".parse().unwrap(),
            range: None,
        };
        let config = Config {
            version: 1,
            name: "net".to_owned(),
            id: String::new(),
            created: String::new(),
            subnets: vec![subnet.clone()],
            internal: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            mtu: 1500,
        };
        let ip = |last: u8| IpAddr::from([10, 1, 0, last]);
        let used = BTreeMap::from([(ip(2), "web".to_owned()), (ip(4), "db".to_owned())]);
        let show = |wanted, before, used: &BTreeMap<_, _>| {
            address(&config, &subnet, wanted, before, used)
                .map_or_else(|fail| fail.message, |address| address.to_string())
        };
        assert_eq!(show(None, None, &used), "10.1.0.3");
        assert_eq!(show(None, Some(ip(6)), &used), "10.1.0.6");
        assert_eq!(show(None, Some(ip(2)), &used), "10.1.0.3");
        assert_eq!(show(Some(ip(5)), None, &used), "10.1.0.5");
        assert_eq!(
            show(Some(ip(2)), None, &used),
            "address 10.1.0.2 of the network `net` is in use by container `web`"
        );
        assert_eq!(
            show(Some(ip(1)), None, &used),
            "address 10.1.0.1 of the network `net` is in use by its gateway"
        );
        assert_eq!(
            show(Some(ip(9)), None, &used),
            "10.1.0.9 is not an address of the network `net`, which has 10.1.0.0/29"
        );
        let full = (2..=6).map(|last| (ip(last), String::new())).collect();
        assert_eq!(
            show(None, None, &full),
            "the network `net` has no free address left in 10.1.0.0/29"
        );
    }
}
