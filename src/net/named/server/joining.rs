//! How a container gets on a network and off it: bridges, its end of a `veth`, the default route, the way out that all share.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::time::Instant;

use anyhow::Result;

use super::{Bridge, Member, STEADY, Server, members};
use crate::error::{self, Fail};
use crate::net;
use crate::net::link::{self, Pair};
use crate::net::named::config;
use crate::net::named::inside::Container;
use crate::net::named::{Endpoint, Reply};
use crate::spec::Joined;

/// The interface of the bridge's end: 13 of at most 15 bytes.
fn outer(id: &str, network_id: &str) -> String {
    let part = |text: &str| text.get(..6).unwrap_or(text).to_owned();
    format!("v{}{}", part(id), part(network_id))
}

impl Server<'_> {
    pub(super) fn release(&mut self, member: &Member) -> Result<()> {
        self.forward.close(&member.guest.id);
        for endpoint in &member.endpoints {
            link::remove(&self.route, &outer(&member.guest.id, &endpoint.network_id))?;
        }
        self.remove_empty()
    }

    /// Removes the bridges that nobody is on.
    fn remove_empty(&mut self) -> Result<()> {
        let used: BTreeSet<String> = members(&self.clients)
            .flat_map(|member| member.endpoints.iter().map(|one| one.network.clone()))
            .collect();
        let empty: Vec<String> = self
            .bridges
            .keys()
            .filter(|name| !used.contains(*name))
            .cloned()
            .collect();
        for name in empty {
            self.resolver.leave(&name);
            if let Some(bridge) = self.bridges.remove(&name) {
                link::remove(&self.route, &bridge.config.bridge())?;
            }
        }
        Ok(())
    }

    pub(super) fn plug(&mut self, at: usize, pid: i32) -> Result<Reply> {
        let container = Container::of(pid)?;
        let mut notices = Vec::new();
        let Some(mut member) = self.clients[at].member.take() else {
            return Err(Fail::system("a container without a place").into());
        };
        let mut done = Ok(());
        for endpoint in &member.endpoints {
            done = self.join(&member.guest.id, &container, endpoint, &mut notices);
            if done.is_err() {
                break;
            }
        }
        member.container = Some(container);
        let done = done.and_then(|()| settle_route(&mut member));
        let endpoints = member.endpoints.clone();
        self.clients[at].member = Some(member);
        done.map(|()| Reply::Endpoints(endpoints, notices))
    }

    fn join(
        &mut self,
        id: &str,
        container: &Container,
        endpoint: &Endpoint,
        notices: &mut Vec<String>,
    ) -> Result<()> {
        let (bridge, mtu) = self.bridge(&endpoint.network, notices)?;
        link::add_pair(
            &self.route,
            &container.route,
            &Pair {
                outer: &outer(id, &endpoint.network_id),
                bridge,
                inner: &endpoint.interface,
                namespace: container.namespace.as_fd(),
                mac: endpoint.mac,
                mtu,
            },
        )?;
        let inner = &endpoint.interface;
        if let Some((address, length)) = endpoint.ip {
            link::add_address(&container.route, inner, address.into(), length)?;
        }
        if let Some((address, length)) = endpoint.ip6 {
            link::add_address(&container.route, inner, address.into(), length)?;
        }
        link::raise(&container.route, inner)
    }

    /// The bridge of a network, made when it is not there: its number, and how long packets may be.
    fn bridge(&mut self, name: &str, notices: &mut Vec<String>) -> Result<(u32, u32)> {
        if let Some(bridge) = self.bridges.get(name) {
            let (found, is_open) = ((bridge.index, bridge.config.mtu), !bridge.config.internal);
            if is_open {
                self.open(notices);
            }
            return Ok(found);
        }
        let config = config::find(&self.store, name)?;
        let interface = config.bridge();
        link::remove(&self.route, &interface)?;
        let index = link::add_bridge(&self.route, &interface)?;
        for one in &config.subnets {
            link::add_address(&self.route, &interface, one.gateway, one.subnet.length)?;
        }
        link::raise(&self.route, &interface)?;
        if let Some(subnet) = config.subnet(true) {
            let sockets = self.inside.dns(subnet.gateway)?;
            self.resolver.listen(name, sockets);
        }
        if !config.internal {
            self.open(notices);
        }
        let mtu = config.mtu;
        self.bridges
            .insert(name.to_owned(), Bridge { config, index });
        Ok((index, mtu))
    }

    /// Sees to it that there is a way out. Without one containers still reach each other.
    fn open(&mut self, notices: &mut Vec<String>) {
        if self.uplink.is_some() {
            return;
        }
        let pid = self.inside.child.pid;
        let shared = net::share(pid, &mut |link| self.inside.link(link));
        let opened = shared.and_then(|(uplink, interface, why)| {
            if let Some(why) = why {
                let code = why.code.map(|code| format!(" (rl explain {code})"));
                notices.push(format!(
                    "{}: using {}{}",
                    why.message,
                    uplink.name,
                    code.unwrap_or_default()
                ));
            }
            if self.opened.insert(interface) {
                link::open_uplink(&self.netfilter, interface)?;
            }
            Ok(uplink)
        });
        match opened {
            Ok(uplink) => {
                self.uplink = Some(uplink);
                self.uplink_since = Instant::now();
            }
            Err(error) => {
                let fail = error::flatten(&error);
                let code = fail.code.map(|code| format!(" (rl explain {code})"));
                notices.push(format!(
                    "{}: containers on named networks reach each other, but nothing outside{}",
                    fail.message,
                    code.unwrap_or_default()
                ));
            }
        }
    }

    /// The helper has ended. Another one takes its place, unless one that had come up ended soon: then the next container
    /// that comes tries again.
    pub(super) fn lose_uplink(&mut self) -> Result<()> {
        let Some(uplink) = self.uplink.take() else {
            return Ok(());
        };
        // Nobody is at a terminal here. That it failed is noted: the next one is waited for, and passed over if it fails too.
        let _ = uplink.lost(&self.inside.child.pidfd);
        let was_ahead = uplink.ahead;
        uplink.stop();
        for interface in &self.opened {
            link::remove(&self.route, interface)?; // one that was made ahead stays otherwise
        }
        if was_ahead || self.uplink_since.elapsed() > STEADY {
            self.open(&mut Vec::new());
        }
        Ok(())
    }

    pub(super) fn connect(&mut self, id: &str, joined: &Joined) -> Result<Reply> {
        let Some(at) = self.position(id) else {
            return Ok(Reply::Done);
        };
        let Some(mut member) = self.clients[at].member.take() else {
            return Ok(Reply::Done);
        };
        let done = self.connect_member(&mut member, joined);
        let endpoints = member.endpoints.clone();
        self.clients[at].member = Some(member);
        // What did not become a port of its bridge leaves none behind.
        self.remove_empty()?;
        done.map(|notices| Reply::Endpoints(endpoints, notices))
    }

    fn connect_member(&mut self, member: &mut Member, joined: &Joined) -> Result<Vec<String>> {
        if member
            .endpoints
            .iter()
            .any(|one| one.network == joined.network)
        {
            return Err(Fail::conflict(format!(
                "container `{}` is on network `{}` already",
                member.guest.name, joined.network
            ))
            .into());
        }
        let mut notices = Vec::new();
        let endpoint = self.place(&member.guest.id, joined, None, &member.endpoints)?;
        if let Some(container) = &member.container {
            self.join(&member.guest.id, container, &endpoint, &mut notices)?;
        }
        member.endpoints.push(endpoint);
        member.guest.joined.push(joined.clone());
        settle_route(member)?;
        Ok(notices)
    }

    pub(super) fn disconnect(&mut self, id: &str, network: &str) -> Result<Reply> {
        let Some(at) = self.position(id) else {
            return Ok(Reply::Done);
        };
        let Some(member) = &mut self.clients[at].member else {
            return Ok(Reply::Done);
        };
        let found = member
            .endpoints
            .iter()
            .position(|one| one.network == network);
        if let Some(found) = found {
            let endpoint = member.endpoints.remove(found);
            member.guest.joined.retain(|one| one.network != network);
            link::remove(&self.route, &outer(id, &endpoint.network_id))?;
            settle_route(member)?;
        }
        let endpoints = member.endpoints.clone();
        let left: Vec<IpAddr> = endpoints.iter().flat_map(Endpoint::addresses).collect();
        self.forward.keep(id, &left);
        self.remove_empty()?;
        Ok(Reply::Endpoints(endpoints, Vec::new()))
    }
}

/// The way to everywhere is by the first network that has a way out.
fn settle_route(member: &mut Member) -> Result<()> {
    let Some(container) = &member.container else {
        return Ok(());
    };
    let by = member.endpoints.iter().find(|one| !one.internal);
    let name = by.map(|one| one.network.clone());
    if name == member.route {
        return Ok(());
    }
    // The old one went with its interface.
    if let Some(endpoint) = by {
        for gateway in &endpoint.gateways {
            link::default_route(&container.route, *gateway)?;
        }
    }
    member.route = name;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_are_short_enough() {
        assert_eq!(outer(&"a".repeat(64), &"b".repeat(64)), "vaaaaaabbbbbb");
    }
}
