//! One rule: `host`, an address or a network, and perhaps a port. It is spelled as the rules of functions' HTTP are,
//! without names: what leaves a guest are packets, which bear none.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Ipv4Subnet;

/// The word that means the host, as its guests see it.
const HOST: &str = "host";

/// What is allowed or denied to guests. A port is one of TCP and of UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EgressRule {
    target: Target,
    port: Option<u16>,
}

/// Whom a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The host, which guests reach at their gateway's address.
    Host,
    /// Addresses.
    Network(Ipv4Subnet),
}

/// The text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// Neither of what a rule may be.
    #[error("'{0}' is no rule: host, an address or a network (10.0.0.0/8), and perhaps :port")]
    Malformed(String),
    /// A name, which packets do not bear.
    #[error("'{0}' names a host: networks of microVMs know addresses only, write its address or network")]
    Name(String),
    /// An address of IPv6, which guests do not have.
    #[error("'{0}' is an address of IPv6: networks of microVMs carry IPv4 only, remove the rule")]
    Six(String),
}

impl EgressRule {
    pub(crate) fn target(&self) -> Target {
        self.target
    }

    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether it names one address. Only such a rule opens a metadata service or an address of the host.
    pub(crate) fn is_one_address(&self) -> bool {
        matches!(self.target, Target::Network(network) if network.prefix() == 32)
    }
}

impl FromStr for EgressRule {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || InvalidRule::Malformed(text.to_owned());
        let bare = text.split('/').next().unwrap_or_default();
        if text.starts_with('[') || bare.parse::<Ipv6Addr>().is_ok() {
            return Err(InvalidRule::Six(text.to_owned()));
        }
        let (target, port) = match text.rsplit_once(':') {
            Some((target, port)) => (target, Some(port.parse::<u16>().map_err(|_| malformed())?)),
            None => (text, None),
        };
        if target.eq_ignore_ascii_case(HOST) {
            return Ok(Self { target: Target::Host, port });
        }
        let (address, prefix) = match target.split_once('/') {
            Some((address, prefix)) => (address, prefix.parse::<u8>().map_err(|_| malformed())?),
            None => (target, 32),
        };
        match address.parse::<Ipv4Addr>() {
            Ok(address) => {
                let network = Ipv4Subnet::new(address, prefix).ok_or_else(malformed)?;
                Ok(Self { target: Target::Network(network), port })
            }
            Err(_) if looks_like_name(target) => Err(InvalidRule::Name(text.to_owned())),
            Err(_) => Err(malformed()),
        }
    }
}

/// Whether it is a host name or a suffix of some. Names whose last part is a number are mistyped addresses.
fn looks_like_name(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text).trim_end_matches('.');
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    !number && name.split('.').all(label)
}

impl TryFrom<String> for EgressRule {
    type Error = InvalidRule;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<EgressRule> for String {
    fn from(rule: EgressRule) -> Self {
        rule.to_string()
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            Target::Host => f.write_str(HOST)?,
            Target::Network(network) => network.fmt(f)?,
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
            ("host", "host"),
            ("Host:4222", "host:4222"),
            ("10.0.0.5:4222", "10.0.0.5/32:4222"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8:80", "10.0.0.0/8:80"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(text.parse::<EgressRule>().unwrap().to_string(), same);
        }
    }

    #[test]
    fn what_is_no_rule_is_told_apart() {
        for bad in ["", "*", "*.", "a b", "10.0.0.0/33", "10.0.0", "host:99999", "a:b", "http://a", "10.0.0.1/x"] {
            assert!(matches!(bad.parse::<EgressRule>(), Err(InvalidRule::Malformed(_))), "{bad}");
        }
        for name in ["example.com", "*.example.com:443", "localhost"] {
            assert!(matches!(name.parse::<EgressRule>(), Err(InvalidRule::Name(_))), "{name}");
        }
        for six in ["::1", "fd00::/8", "[::1]:80"] {
            assert!(matches!(six.parse::<EgressRule>(), Err(InvalidRule::Six(_))), "{six}");
        }
    }
}
