//! An IPv4 network, and the pairs of addresses that slots take of it.
//!
//! Each slot takes a /31 (RFC 3021): the even address is the host's end of the slot's link, the odd one the
//! namespace's.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Slots that one node has at most, however large its network is.
pub(crate) const MOST_SLOTS: u32 = 1 << 16;

/// An IPv4 network. Bits behind its prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

/// The text is no IPv4 network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no IPv4 network: write it as 192.168.127.0/24")]
pub struct InvalidSubnet(pub String);

impl Ipv4Subnet {
    /// The network of a node that is told no other.
    pub const DEFAULT: Self = Self::constant([192, 168, 127, 0], 24);

    /// The network of an address; none when the prefix is longer than 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        let rest = 32_u32.checked_sub(u32::from(prefix))?;
        let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
        Some(Self { address: Ipv4Addr::from_bits(address.to_bits() & mask), prefix })
    }

    /// A network of constants. The address must have no bits behind the prefix.
    pub(crate) const fn constant(address: [u8; 4], prefix: u8) -> Self {
        let [a, b, c, d] = address;
        Self { address: Ipv4Addr::new(a, b, c, d), prefix }
    }

    /// Its first address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The length of its prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the address is in it.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        Self::new(address, self.prefix) == Some(*self)
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// How many slots fit.
    pub fn slots(&self) -> u32 {
        slots_of(self.prefix)
    }

    /// The two ends of a slot's link: the host's, the namespace's. None when it does not fit.
    pub(crate) fn pair(&self, slot: u32) -> Option<(Ipv4Addr, Ipv4Addr)> {
        let host = self.address.to_bits().checked_add(slot.checked_mul(2)?)?;
        (slot < self.slots()).then_some((Ipv4Addr::from_bits(host), Ipv4Addr::from_bits(host | 1)))
    }
}

/// How many slots a network with this prefix holds.
pub(crate) fn slots_of(prefix: u8) -> u32 {
    let bits = 31_u32.checked_sub(u32::from(prefix));
    bits.map_or(0, |bits| 1_u32.checked_shl(bits).unwrap_or(0).min(MOST_SLOTS))
}

impl FromStr for Ipv4Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = || {
            let (address, prefix) = text.split_once('/')?;
            Self::new(address.parse().ok()?, prefix.parse().ok()?)
        };
        parsed().ok_or_else(|| InvalidSubnet(text.to_owned()))
    }
}

impl TryFrom<String> for Ipv4Subnet {
    type Error = InvalidSubnet;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Ipv4Subnet> for String {
    fn from(subnet: Ipv4Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Ipv4Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Ipv4Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn networks_are_read_and_written() {
        assert_eq!(subnet("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(subnet("0.0.0.0/0").to_string(), "0.0.0.0/0");
        assert_eq!(subnet("10.1.2.3/32").to_string(), "10.1.2.3/32");
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "::/0", "10.0.0.0/8/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<Ipv4Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn slots_take_pairs_that_do_not_overlap() {
        let net = subnet("192.168.127.0/24");
        assert_eq!(net.slots(), 128);
        assert_eq!(net.pair(0), Some((Ipv4Addr::new(192, 168, 127, 0), Ipv4Addr::new(192, 168, 127, 1))));
        assert_eq!(net.pair(127), Some((Ipv4Addr::new(192, 168, 127, 254), Ipv4Addr::new(192, 168, 127, 255))));
        assert_eq!(net.pair(128), None);
        assert_eq!(subnet("10.0.0.0/32").slots(), 0);
        assert_eq!(subnet("10.0.0.0/31").slots(), 1);
        assert_eq!(subnet("0.0.0.0/0").slots(), MOST_SLOTS);
    }

    #[test]
    fn overlap_is_mutual() {
        for (one, other, overlap) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.2.0.0/16", false),
            ("10.1.0.0/16", "10.1.255.255/32", true),
            ("0.0.0.0/0", "1.2.3.4/32", true),
        ] {
            assert_eq!(subnet(one).overlaps(&subnet(other)), overlap);
            assert_eq!(subnet(other).overlaps(&subnet(one)), overlap);
        }
    }
}
