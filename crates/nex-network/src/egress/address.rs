//! Which addresses are nobody's business by default. The same ones that the HTTP of functions does not reach.

use std::net::Ipv4Addr;

use crate::Ipv4Subnet;

/// Where clouds keep their machines' credentials.
pub(super) const METADATA: [Ipv4Addr; 5] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// Networks that are not public: unspecified, private, shared, loopback, link-local, reserved, documentation,
/// multicast, broadcast. They do not overlap, which a set of nft demands.
pub(super) const NOT_PUBLIC: [Ipv4Subnet; 15] = [
    Ipv4Subnet::constant([0, 0, 0, 0], 8),
    Ipv4Subnet::constant([10, 0, 0, 0], 8),
    Ipv4Subnet::constant([100, 64, 0, 0], 10),
    Ipv4Subnet::constant([127, 0, 0, 0], 8),
    Ipv4Subnet::constant([169, 254, 0, 0], 16),
    Ipv4Subnet::constant([172, 16, 0, 0], 12),
    Ipv4Subnet::constant([192, 0, 0, 0], 24),
    Ipv4Subnet::constant([192, 0, 2, 0], 24),
    Ipv4Subnet::constant([192, 88, 99, 0], 24),
    Ipv4Subnet::constant([192, 168, 0, 0], 16),
    Ipv4Subnet::constant([198, 18, 0, 0], 15),
    Ipv4Subnet::constant([198, 51, 100, 0], 24),
    Ipv4Subnet::constant([203, 0, 113, 0], 24),
    Ipv4Subnet::constant([224, 0, 0, 0], 4),
    Ipv4Subnet::constant([240, 0, 0, 0], 4),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_whole_and_do_not_overlap() {
        for (index, network) in NOT_PUBLIC.iter().enumerate() {
            assert_eq!(Ipv4Subnet::new(network.address(), network.prefix()), Some(*network));
            assert!(NOT_PUBLIC.iter().skip(index + 1).all(|other| !network.overlaps(other)), "{network}");
        }
    }
}
