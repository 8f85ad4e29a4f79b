//! Ranges of addresses: written as `10.89.0.0/24`, compared, and given out. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// So many addresses are looked through before a range counts as full.
const MOST: u128 = 1 << 17;

/// A range of addresses, written as its first address and the length of what is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Cidr {
    /// The first address.
    pub base: IpAddr,
    /// How many bits are the same in all.
    pub length: u8,
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.length)
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("`{text}` is not a range of addresses"))
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

impl Cidr {
    /// Reads `ADDRESS/LENGTH`; bits behind the length are dropped, as docker does.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let base: IpAddr = address.parse().ok()?;
        let length: u8 = length.parse().ok()?;
        let cidr = Self { base, length };
        (length <= cidr.width()).then(|| cidr.with(bits(base) & !cidr.hosts()))
    }

    fn width(self) -> u8 {
        if self.base.is_ipv4() { 32 } else { 128 }
    }

    /// The bits that differ.
    fn hosts(self) -> u128 {
        let free = u32::from(self.width() - self.length);
        1_u128.checked_shl(free).map_or(u128::MAX, |bit| bit - 1)
    }

    fn with(self, bits: u128) -> Self {
        Self {
            base: self.address(bits),
            ..self
        }
    }

    fn address(self, bits: u128) -> IpAddr {
        match self.base {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(bits).unwrap_or(u32::MAX))),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(bits)),
        }
    }

    /// The address that is `offset` behind the first.
    #[must_use]
    pub fn nth(self, offset: u128) -> Option<IpAddr> {
        (offset <= self.hosts()).then(|| self.address(bits(self.base) + offset))
    }

    /// Whether the address is one of these.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.base.is_ipv4() == address.is_ipv4() && bits(address) & !self.hosts() == bits(self.base)
    }

    /// Whether some address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }

    /// Whether a host of the range `subnet` can have it: neither the first address nor, for IPv4, the last.
    #[must_use]
    pub fn is_host(self, address: IpAddr) -> bool {
        let offset = bits(address) - bits(self.base).min(bits(address));
        self.contains(address) && offset != 0 && (address.is_ipv6() || offset != self.hosts())
    }

    /// The lowest address of `range`, in this subnet, that nobody has.
    #[must_use]
    pub fn free(self, range: Self, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        (0..=range.hosts().min(MOST))
            .filter_map(|offset| range.nth(offset))
            .find(|address| self.is_host(*address) && !used.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        Cidr::parse(text).expect(text)
    }

    #[test]
    fn ranges_are_read_and_shown() {
        for (text, shown) in [
            ("10.89.0.0/24", "10.89.0.0/24"),
            ("10.89.0.7/24", "10.89.0.0/24"),
            ("fd00:1::9/64", "fd00:1::/64"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(cidr(text).to_string(), shown);
        }
        for bad in [
            "10.0.0.0",
            "10.0.0.0/33",
            "x/8",
            "::/129",
            "10.0.0.0/-1",
            "/",
        ] {
            assert!(Cidr::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn ranges_overlap_when_one_holds_the_other() {
        for (one, other, expected) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.0.0.0/24", "10.0.1.0/24", false),
            ("0.0.0.0/0", "fd00::/8", false),
            ("fd00::/8", "fd12::/64", true),
        ] {
            assert_eq!(cidr(one).overlaps(cidr(other)), expected, "{one} {other}");
            assert_eq!(cidr(other).overlaps(cidr(one)), expected, "{one} {other}");
        }
    }

    #[test]
    fn the_lowest_free_address_is_given_out_until_none_is_left() {
        let subnet = cidr("10.0.0.0/29");
        let mut used = BTreeSet::from(["10.0.0.1".parse().unwrap()]);
        for last in 2..=6 {
            let next = subnet.free(subnet, &used).unwrap();
            assert_eq!(next, IpAddr::from([10, 0, 0, last]));
            used.insert(next);
        }
        assert_eq!(subnet.free(subnet, &used), None);
        let range = cidr("10.0.0.4/30");
        used.remove(&IpAddr::from([10, 0, 0, 2]));
        assert_eq!(subnet.free(range, &used), None);
        let six = cidr("fd00::/64");
        assert_eq!(six.free(six, &BTreeSet::new()), "fd00::1".parse().ok());
    }
}
