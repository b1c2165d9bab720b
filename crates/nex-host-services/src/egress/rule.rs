//! One rule: a host's name (exact, or `*.` and a suffix), an address or a network, and perhaps a port.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A host, address or network that is allowed or denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressRule {
    target: Target,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Name(String),
    /// With its leading dot.
    Suffix(String),
    Network(IpAddr, u8),
}

/// The text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no rule: a host name, *.suffix, address or network (10.0.0.0/8), and perhaps :port")]
pub struct InvalidRule(pub String);

impl EgressRule {
    /// Whether the rule speaks of this host (in lower case) or address, at this port.
    pub(super) fn matches(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        if self.port.is_some_and(|of| of != port) {
            return false;
        }
        match (&self.target, address) {
            (Target::Name(name), _) => host == name,
            (Target::Suffix(suffix), _) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            (Target::Network(network, length), Some(address)) => within(*network, *length, address),
            (Target::Network(..), None) => false,
        }
    }

    /// Whether it names one address, not a network or a name.
    pub(super) fn is_one_address(&self) -> bool {
        match self.target {
            Target::Network(IpAddr::V4(_), length) => length == 32,
            Target::Network(IpAddr::V6(_), length) => length == 128,
            Target::Name(_) | Target::Suffix(_) => false,
        }
    }
}

fn within(network: IpAddr, length: u8, address: IpAddr) -> bool {
    let length = u32::from(length);
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

impl FromStr for EgressRule {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| InvalidRule(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<EgressRule> {
    // IPv6 has colons of its own, so with a port it stands in brackets.
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, after) = rest.split_once(']')?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port.parse().ok()?),
            None if after.is_empty() => None,
            None => return None,
        };
        return Some(EgressRule { target: network(inside)?, port });
    }
    let address = text.split('/').next().unwrap_or_default();
    if address.parse::<Ipv6Addr>().is_ok() {
        return Some(EgressRule { target: network(text)?, port: None });
    }
    let (target, port) = match text.rsplit_once(':') {
        Some((target, port)) => (target, Some(port.parse::<u16>().ok()?)),
        None => (text, None),
    };
    if let Some(target) = network(target) {
        return Some(EgressRule { target, port });
    }
    let host = target.trim_end_matches('.').to_ascii_lowercase();
    let (suffix, name) = match host.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, host.as_str()),
    };
    // A last part of digits alone would be a mistyped address: names of hosts have none.
    let last_is_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if name.len() > 253 || last_is_number || !name.split('.').all(label) {
        return None;
    }
    let target = if suffix { Target::Suffix(format!(".{name}")) } else { Target::Name(name.to_owned()) };
    Some(EgressRule { target, port })
}

fn network(text: &str) -> Option<Target> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = length.unwrap_or(longest);
    if length > longest {
        return None;
    }
    // Addresses are judged in their plain form, so a rule on a mapped one is a rule on what it maps to.
    match address {
        IpAddr::V6(six) if length >= 96 => Some(match six.to_ipv4_mapped() {
            Some(four) => Target::Network(IpAddr::V4(four), length.saturating_sub(96)),
            None => Target::Network(address, length),
        }),
        _ => Some(Target::Network(address, length)),
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Name(name) => f.write_str(name)?,
            Target::Suffix(suffix) => write!(f, "*{suffix}")?,
            Target::Network(address @ IpAddr::V6(_), length) if self.port.is_some() => {
                write!(f, "[{address}/{length}]")?
            }
            Target::Network(address, length) => write!(f, "{address}/{length}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written() {
        for (text, same) in [
            ("Example.COM", "example.com"),
            ("*.example.com:443", "*.example.com:443"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("127.0.0.1:8080", "127.0.0.1/32:8080"),
            ("10.0.0.0/8:80", "10.0.0.0/8:80"),
            ("::1", "::1/128"),
            ("fd00::/8", "fd00::/8"),
            ("[::1]:80", "[::1/128]:80"),
            ("[fd00::/8]:80", "[fd00::/8]:80"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("localhost", "localhost"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(text.parse::<EgressRule>().unwrap().to_string(), same);
        }
        for bad in [
            "",
            "*",
            "*.",
            "a b",
            "10.0.0.0/33",
            "::/129",
            "10.0.0",
            "a:b",
            "a:99999",
            "[::1",
            "[::1]80",
            "a..b",
            "http://a",
        ] {
            assert!(bad.parse::<EgressRule>().is_err(), "{bad}");
        }
    }
}
