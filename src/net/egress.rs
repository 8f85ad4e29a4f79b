//! `--egress`: packet rules in the container's own network namespace, made by its pid 1 before the program is there.
//!
//! What is not allowed is refused at once, whatever the protocol: DNS, IPv6 and ICMP too. Packets of `AF_PACKET` sockets pass no
//! rules, and the rules can be taken away: so programs there have neither `CAP_NET_RAW` nor `CAP_NET_ADMIN`, and in
//! a user namespace of their own they have no rights over this network namespace. See nft(8), `inet` and `output`.

use std::net::IpAddr;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::nft::{self, Header, Meta, Policy};
use crate::error::Fail;
use crate::spec::Protocol;
use crate::sys::netlink::{Family, Message, Netlink};

/// The capabilities that would undo it.
pub const FORBIDDEN: [&str; 2] = ["CAP_NET_ADMIN", "CAP_NET_RAW"];

/// Where packets may go; see [`crate::spec::Allowed`], with names looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The address.
    pub address: IpAddr,
    /// So many bits of it.
    pub length: u8,
    /// Of the other side.
    pub port: Option<u16>,
    /// Of the packet.
    pub protocol: Option<Protocol>,
}

const CHAIN: &str = "egress";

/// Lets nothing out of this process's network namespace but what `rules` say, and answers.
///
/// # Errors
/// `Unsupported` where the kernel has not what it takes: then nothing may start.
pub fn close(rules: &[Rule]) -> Result<()> {
    // Without any packet rules in the kernel there is no such socket.
    let netfilter = Netlink::open(Family::Netfilter).map_err(missing)?;
    let mut messages = vec![
        nft::table(),
        nft::chain(CHAIN, 3, 0, "filter", Policy::Drop),
        nft::rule(CHAIN, |list| {
            let mut name = [0; 16];
            name[..2].copy_from_slice(b"lo");
            nft::accept(nft::is(nft::meta(list, Meta::OutputName), &name))
        }),
        nft::rule(CHAIN, |list| nft::accept(nft::is_answer(list))),
    ];
    // How neighbours and routers are found in IPv6: RFC 4861.
    for kind in [133_u8, 135, 136] {
        messages.push(nft::rule(CHAIN, |list| {
            let list = nft::is(nft::meta(list, Meta::Protocol), &[58]);
            nft::accept(nft::is(
                nft::payload(list, Header::Transport, 0, 1),
                &[kind],
            ))
        }));
    }
    for rule in rules {
        let protocols: &[Option<u8>] = match (rule.protocol, rule.port) {
            (Some(Protocol::Tcp), _) => &[Some(6)],
            (Some(Protocol::Udp), _) => &[Some(17)],
            (None, Some(_)) => &[Some(6), Some(17)],
            (None, None) => &[None],
        };
        for protocol in protocols {
            messages.push(nft::rule(CHAIN, |list| allow(list, rule, *protocol)));
        }
    }
    messages.push(nft::rule(CHAIN, nft::reject));
    nft::commit(&netfilter, messages).map_err(missing)
}

fn missing(error: crate::sys::Error) -> anyhow::Error {
    anyhow::Error::from(error).context(
        Fail::unsupported("--egress needs nf_tables with ct and reject in the kernel")
            .hint("ask your administrator: modprobe -a nf_tables nft_ct nft_reject_inet")
            .hint("or do without a network: --network none")
            .code("RL-N09"),
    )
}

fn allow(list: Message, rule: &Rule, protocol: Option<u8>) -> Message {
    let (family, offset, bytes) = match rule.address {
        IpAddr::V4(address) => (2, 16, address.octets().to_vec()),
        IpAddr::V6(address) => (10, 24, address.octets().to_vec()),
    };
    let mut list = nft::is(nft::meta(list, Meta::Family), &[family]);
    let length = u32::try_from(bytes.len()).unwrap_or(16);
    let bits = bits(rule.length, bytes.len());
    list = nft::mask(nft::payload(list, Header::Network, offset, length), &bits);
    let wanted: Vec<u8> = bytes
        .iter()
        .zip(&bits)
        .map(|(byte, bit)| byte & bit)
        .collect();
    list = nft::is(list, &wanted);
    if let Some(protocol) = protocol {
        list = nft::is(nft::meta(list, Meta::Protocol), &[protocol]);
    }
    if let Some(port) = rule.port {
        list = nft::is(
            nft::payload(list, Header::Transport, 2, 2),
            &port.to_be_bytes(),
        );
    }
    nft::accept(list)
}

/// The first `length` bits of `bytes` bytes.
fn bits(length: u8, bytes: usize) -> Vec<u8> {
    let byte = |at: usize| match usize::from(length).saturating_sub(at * 8) {
        whole @ 8.. => {
            let _ = whole;
            0xff
        }
        part => !(0xff_u8 >> part),
    };
    (0..bytes).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bits_are_set() {
        assert_eq!(bits(0, 4), [0, 0, 0, 0]);
        assert_eq!(bits(8, 4), [0xff, 0, 0, 0]);
        assert_eq!(bits(20, 4), [0xff, 0xff, 0xf0, 0]);
        assert_eq!(bits(31, 4), [0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(bits(32, 4), [0xff; 4]);
        assert_eq!(bits(1, 16)[..2], [0x80, 0]);
        assert_eq!(bits(128, 16), [0xff; 16]);
    }
}
