//! Packet rules in the words of nf_tables, for one table of the family `inet` (IPv4 and IPv6).
//!
//! Numbers and layouts: `linux/netfilter/nf_tables.h`.

use crate::sys::netlink::{APPEND, CREATE, Message, Netlink};

const NFT: u16 = 10 << 8;
const NEWTABLE: u16 = NFT;
const NEWCHAIN: u16 = NFT | 3;
const NEWRULE: u16 = NFT | 6;
const TABLE: &str = "rl";
/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;

/// What a packet is asked for: the key of a `meta` expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// The name of the interface that it comes by.
    InputName = 6,
    /// The name of the interface that it leaves by.
    OutputName = 7,
    /// `NFPROTO_IPV4` (2) or `NFPROTO_IPV6` (10).
    Family = 15,
    /// TCP (6), UDP (17), ICMPv6 (58).
    Protocol = 16,
}

/// A header of the packet: the base of a `payload` expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Of IP.
    Network = 1,
    /// Of TCP, UDP, ICMP.
    Transport = 2,
}

/// What becomes of packets that no rule concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Drop = 0,
    Accept = 1,
}

/// Makes all of it, or nothing.
pub fn commit(netfilter: &Netlink, messages: Vec<Message>) -> crate::sys::Result<()> {
    // struct nfgenmsg with the subsystem as its resource: NFNL_MSG_BATCH_BEGIN and _END.
    let mark = |kind| Message::mark(kind).body(&[0, 0, 0, 10]);
    let mut batch = vec![mark(16)];
    batch.extend(messages);
    batch.push(mark(17));
    netfilter.batch(batch)
}

/// nf_tables has its numbers in network order.
fn be(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

fn nft(what: &str, kind: u16, flags: u16) -> Message {
    Message::new(format!("netlink(nf_tables {what})"), kind, flags).body(&[INET, 0, 0, 0])
}

/// The table.
pub fn table() -> Message {
    nft("table", NEWTABLE, CREATE).text(1, TABLE)
}

/// A chain at a hook: 2 is what is forwarded, 3 what is sent from here, 4 what leaves.
pub fn chain(name: &str, hook: u32, priority: u32, kind: &str, policy: Policy) -> Message {
    nft(&format!("chain {name}"), NEWCHAIN, CREATE)
        .text(1, TABLE)
        .text(3, name)
        .nest(4, |nest| nest.put(1, &be(hook)).put(2, &be(priority)))
        .put(5, &be(policy as u32))
        .text(7, kind)
}

/// One more rule of a chain.
pub fn rule(chain: &str, expressions: impl FnOnce(Message) -> Message) -> Message {
    nft(&format!("rule in {chain}"), NEWRULE, CREATE | APPEND)
        .text(1, TABLE)
        .text(2, chain)
        .nest(4, expressions)
}

fn expression(list: Message, name: &str, data: impl FnOnce(Message) -> Message) -> Message {
    list.nest(1, |one| one.text(1, name).nest(2, data))
}

/// Loads what is known of a packet into register 1.
pub fn meta(list: Message, key: Meta) -> Message {
    expression(list, "meta", |meta| {
        meta.put(1, &be(1)).put(2, &be(key as u32))
    })
}

/// Loads bytes of a header into register 1.
pub fn payload(list: Message, header: Header, offset: u32, length: u32) -> Message {
    expression(list, "payload", |payload| {
        payload
            .put(1, &be(1))
            .put(2, &be(header as u32))
            .put(3, &be(offset))
            .put(4, &be(length))
    })
}

/// Keeps those bits of register 1, at most 16 bytes.
pub fn mask(list: Message, bits: &[u8]) -> Message {
    let length = u32::try_from(bits.len()).unwrap_or(16);
    let zeros = vec![0; bits.len()];
    expression(list, "bitwise", |bitwise| {
        bitwise
            .put(1, &be(1))
            .put(2, &be(1))
            .put(3, &be(length))
            .nest(4, |mask| mask.put(1, bits))
            .nest(5, |xor| xor.put(1, &zeros))
    })
}

/// Goes on where register 1 is this.
pub fn is(list: Message, value: &[u8]) -> Message {
    compare(list, 0, value)
}

/// Goes on where register 1 is not this.
pub fn is_not(list: Message, value: &[u8]) -> Message {
    compare(list, 1, value)
}

fn compare(list: Message, operator: u32, value: &[u8]) -> Message {
    expression(list, "cmp", |cmp| {
        cmp.put(1, &be(1))
            .put(2, &be(operator))
            .nest(3, |data| data.put(1, value))
    })
}

/// Goes on where the packet belongs to a connection that was accepted.
pub fn is_answer(list: Message) -> Message {
    let list = expression(list, "ct", |ct| ct.put(1, &be(1)).put(2, &be(0)));
    // NF_CT_STATE_BIT(established) | NF_CT_STATE_BIT(related), in the order of this machine
    is_not(mask(list, &6_u32.to_ne_bytes()), &[0; 4])
}

/// The packet goes.
pub fn accept(list: Message) -> Message {
    expression(list, "immediate", |verdict| {
        verdict
            .put(1, &be(0))
            .nest(2, |data| data.nest(2, |code| code.put(1, &be(1))))
    })
}

/// The packet gets the address that it leaves from.
pub fn masquerade(list: Message) -> Message {
    expression(list, "masq", |masq| masq)
}

/// The sender is told that it is forbidden: `NFT_REJECT_ICMPX_UNREACH`, `NFT_REJECT_ICMPX_ADMIN_PROHIBITED`.
pub fn reject(list: Message) -> Message {
    expression(list, "reject", |reject| reject.put(1, &be(2)).put(2, &[3]))
}
