//! Starting a container. Where nobody chose the network and its helper does not come up, the next one is taken, and said.

use std::os::fd::BorrowedFd;

use anyhow::Result;

use super::files::copy_root;
use super::networks::Membership;
use super::record::Record;
use super::{Machine, degraded, egress, order};
use crate::cgroup::Group;
use crate::error;
use crate::net::{self, Chosen};
use crate::spec::{Namespace, Network};
use crate::stage::Order;
use crate::stage::parent::{self, Launch, Running};

/// Starts the program; returns what pid 1 was told, too.
///
/// # Errors
/// What kept it from starting; nothing of it is left then.
pub fn start(
    record: &Record,
    machine: &mut Machine,
    group: Option<&Group>,
    mut membership: Option<&mut Membership>,
    stdio: [Option<BorrowedFd<'_>>; 3],
    say: &mut dyn FnMut(&str),
) -> Result<(Order, Running)> {
    let mut ids = machine.ids.take();
    loop {
        let order = order(record, machine, group, membership.as_deref())?;
        let launch = Launch {
            order: &order,
            plan: &machine.plan,
            helpers: machine.helpers(),
            network: &machine.network,
            target: machine.target.as_ref(),
            group,
            ports: &machine.ports,
            stdio,
        };
        let lease = membership.as_deref_mut().map(Membership::lease);
        let started = parent::start(&launch, ids.take(), lease, say, &mut |root| {
            copy_root(root, &machine.plan, machine.helpers())
        });
        match started {
            Ok(running) => return Ok((order, running)),
            Err(error) => step_down(record, machine, error, say)?,
        }
    }
}

/// Takes the next best of what has failed: what the outer container has, where the kernel gives nothing new; another network.
fn step_down(
    record: &Record,
    machine: &mut Machine,
    error: anyhow::Error,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let spec = record.spec()?;
    if let Some(fail) = error::find(&error) {
        let instead = match fail.code.as_deref() {
            // `rl`'s own pid 1 would not be pid 1.
            Some("RL-K01")
                if !machine.outer.proc
                    && spec.namespaces.pid == Namespace::Private
                    && !spec.init =>
            {
                machine.outer.proc = true;
                Some("sharing the processes of what this runs in")
            }
            Some("RL-U03")
                if spec.network == Network::Auto
                    && machine.ports.is_empty()
                    && machine.network.is_private()
                    && net::none_left() =>
            {
                egress::check(&spec, &Chosen::Host, Some(fail))?;
                machine.network = Chosen::Host;
                let fail = error::Fail::unsupported(
                    "the kernel allows no more network namespaces (user.max_net_namespaces)",
                )
                .code("RL-U03");
                say(&degraded(&fail, "using the host's network"));
                return Ok(());
            }
            Some("RL-K02") if !machine.outer.sys => {
                machine.outer.sys = true;
                Some("showing the one that is here")
            }
            _ => None,
        };
        if let Some(instead) = instead {
            say(&degraded(fail, instead));
            return Ok(());
        }
    }
    let failed = match &machine.network {
        Chosen::Pasta { .. } => "pasta",
        Chosen::Slirp { .. } => "slirp4netns",
        Chosen::Host | Chosen::None | Chosen::Joined | Chosen::Named { .. } => return Err(error),
    };
    let why = error::find(&error).filter(|fail| fail.code.as_deref() == Some(net::HELPER_FAILED));
    let (Network::Auto, Some(why)) = (&spec.network, why) else {
        return Err(error);
    };
    machine.given_up.push(failed);
    let (network, _) = net::choose(&spec.network, &machine.ports, &machine.given_up)?;
    egress::check(&spec, &network, Some(why))?;
    let instead = match &network {
        Chosen::Slirp { .. } => "using slirp4netns",
        Chosen::Pasta { .. } => "using pasta",
        Chosen::Host | Chosen::None | Chosen::Joined | Chosen::Named { .. } => {
            "using the host's network"
        }
    };
    say(&degraded(why, instead));
    for line in network.caveats(&machine.ports) {
        say(&line);
    }
    machine.network = network;
    Ok(())
}
