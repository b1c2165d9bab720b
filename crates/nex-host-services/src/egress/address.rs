//! Which addresses are public, and which are another address in disguise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address in its plainest form, and the IPv4 address that a translator along the way would make of it.
pub(super) fn unwrapped(address: IpAddr) -> (IpAddr, Option<IpAddr>) {
    let IpAddr::V6(six) = address else { return (address, None) };
    if let Some(four) = six.to_ipv4_mapped() {
        return (IpAddr::V4(four), None);
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7] = six.segments();
    let four = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
    };
    let inner = match (s0, s1) {
        // NAT64, and the translated form of SIIT.
        (0x64, 0xff9b) if (s2, s3, s4, s5) == (0, 0, 0, 0) => four(s6, s7),
        (0, 0) if (s2, s3, s4, s5) == (0, 0, 0xffff, 0) => four(s6, s7),
        // IPv4-compatible, long deprecated; and 6to4.
        (0, 0) if (s2, s3, s4, s5) == (0, 0, 0, 0) && s6 != 0 => four(s6, s7),
        (0x2002, _) => four(s1, s2),
        _ => None,
    };
    (address, inner)
}

/// Whether a cloud keeps its machines' credentials there.
pub(super) fn is_metadata(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            [[169, 254, 169, 254], [169, 254, 170, 2], [100, 100, 100, 200], [168, 63, 129, 16], [192, 0, 0, 192]]
                .contains(&address.octets())
        }
        IpAddr::V6(address) => matches!(address.segments(), [0xfd00, 0xec2, ..] | [0xfd20, 0xce, ..]),
    }
}

/// What an address is when it is not public.
pub(super) fn not_public(address: IpAddr) -> Option<&'static str> {
    if is_metadata(address) {
        return Some("metadata");
    }
    match address {
        IpAddr::V4(address) => four(address),
        IpAddr::V6(address) => six(address),
    }
}

fn four(address: Ipv4Addr) -> Option<&'static str> {
    Some(match address.octets() {
        [0, ..] => "unspecified",
        [10, ..] | [192, 168, ..] => "private",
        [172, second, ..] if second & 0xf0 == 16 => "private",
        [100, second, ..] if second & 0xc0 == 64 => "shared",
        [127, ..] => "loopback",
        [169, 254, ..] => "link-local",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "documentation",
        [192, 0, 0, _] | [192, 88, 99, _] | [198, 18 | 19, ..] => "reserved",
        [first, ..] if first & 0xf0 == 0xe0 => "multicast",
        [first, ..] if first & 0xf0 == 0xf0 => "reserved",
        _ => return None,
    })
}

fn six(address: Ipv6Addr) -> Option<&'static str> {
    Some(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "unspecified",
        [0, 0, 0, 0, 0, 0, 0, 1] => "loopback",
        // The public IPv4 Internet by way of a translator: what is inside is judged too.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => return None,
        [first, ..] if first & 0xffc0 == 0xfe80 => "link-local",
        [first, ..] if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => "private",
        [first, ..] if first & 0xff00 == 0xff00 => "multicast",
        [0x2001, 0xdb8, ..] => "documentation",
        [0x3fff, second, ..] if second & 0xf000 == 0 => "documentation",
        // Teredo, benchmarks, ORCHID and the rest of the protocol assignments.
        [0x2001, second, ..] if second & 0xfe00 == 0 => "reserved",
        [first, ..] if first & 0xe000 == 0x2000 => return None,
        _ => "reserved",
    })
}
