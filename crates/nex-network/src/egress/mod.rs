//! Where guests may go, in the words of nft.
//!
//! Order of judgement: other guests are refused, then what is denied; nameservers and what a rule names by its one
//! address are let through; metadata services are refused; what a rule opens by its network is let through; what is
//! not public is refused; the rest passes, unless only what is allowed may. [`EgressPolicy`] writes the chains that
//! say so, once for every place that enforces them; it neither knows nor touches a host.

mod address;
mod rule;

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::Ipv4Subnet;
use rule::Target;
pub use rule::{EgressRule, InvalidRule};

/// What is said to a guest whose packet is refused: its connect fails at once, not after minutes.
pub(crate) const REFUSE: &str = "reject with icmpx type admin-prohibited";

/// Where the guests of a node may go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EgressPolicy {
    /// Refuses everything that `allow` does not name.
    pub deny_all: bool,
    /// What is opened of that which is closed by default.
    pub allow: Vec<EgressRule>,
    /// What is closed whatever is allowed.
    pub deny: Vec<EgressRule>,
}

impl EgressPolicy {
    /// Whether the host, or a port of it, is open to guests.
    pub(crate) fn opens_host(&self) -> bool {
        self.ports_of_host(&self.allow).next().is_some()
    }

    fn ports_of_host<'a>(&self, rules: &'a [EgressRule]) -> impl Iterator<Item = Option<u16>> + 'a {
        rules.iter().filter(|rule| rule.target() == Target::Host).map(EgressRule::port)
    }

    /// Statements for packets to the host, which `to_host` matches: what is done to those that a rule denies, and to
    /// those that one allows.
    pub(crate) fn host_statements(&self, to_host: &str, denied: &str, allowed: &str) -> String {
        let mut text = String::new();
        for (rules, verdict) in [(&self.deny, denied), (&self.allow, allowed)] {
            for port in self.ports_of_host(rules) {
                let _ = writeln!(text, "    {to_host}{} {verdict}", port_match(port));
            }
        }
        text
    }

    /// Statements for packets that are addressed to one of the host's own addresses other than the gateway's. None
    /// passes but what is named by its one address: a rule on a network does not mean the host in it.
    pub(crate) fn local_statements(&self, nameservers: &[Ipv4Addr]) -> String {
        let mut text = String::new();
        statements(&mut text, self.deny.iter(), REFUSE);
        nameserver_statement(&mut text, nameservers);
        statements(&mut text, self.allow.iter().filter(|rule| rule.is_one_address()), "accept");
        let _ = writeln!(text, "    {REFUSE}");
        text
    }

    /// Statements for packets that go beyond the host. `guests` is the network of all guests.
    pub(crate) fn beyond_statements(&self, nameservers: &[Ipv4Addr], guests: Option<Ipv4Subnet>) -> String {
        let mut text = String::new();
        if let Some(guests) = guests {
            let _ = writeln!(text, "    ip daddr {guests} {REFUSE}");
        }
        statements(&mut text, self.deny.iter(), REFUSE);
        nameserver_statement(&mut text, nameservers);
        let (one, many): (Vec<_>, Vec<_>) = self.allow.iter().partition(|rule| rule.is_one_address());
        statements(&mut text, one.into_iter(), "accept");
        let _ = writeln!(text, "    ip daddr {{ {} }} {REFUSE}", listed(address::METADATA.iter()));
        statements(&mut text, many.into_iter(), "accept");
        if !self.deny_all {
            let _ = writeln!(text, "    ip daddr {{ {} }} {REFUSE}", listed(address::NOT_PUBLIC.iter()));
            // What address translation does not understand cannot come back.
            let _ = writeln!(text, "    meta l4proto {{ tcp, udp, icmp }} accept");
        }
        let _ = writeln!(text, "    {REFUSE}");
        text
    }
}

/// A statement for each rule on addresses.
fn statements<'a>(text: &mut String, rules: impl Iterator<Item = &'a EgressRule>, verdict: &str) {
    for rule in rules {
        let Target::Network(network) = rule.target() else { continue };
        let whom = if network.prefix() == 0 { String::new() } else { format!("ip daddr {network}") };
        let _ = writeln!(text, "    {whom}{} {verdict}", port_match(rule.port()));
    }
}

fn nameserver_statement(text: &mut String, nameservers: &[Ipv4Addr]) {
    if !nameservers.is_empty() {
        let _ = writeln!(text, "    ip daddr {{ {} }}{} accept", listed(nameservers.iter()), port_match(Some(53)));
    }
}

fn port_match(port: Option<u16>) -> String {
    port.map_or_else(String::new, |port| format!(" meta l4proto {{ tcp, udp }} th dport {port}"))
}

fn listed<T: ToString>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(json: &str) -> EgressPolicy {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_policy_is_read_from_configuration() {
        assert_eq!(policy("{}"), EgressPolicy::default());
        let read = policy(r#"{"deny_all": true, "allow": ["host:4222", "10.0.0.0/8"]}"#);
        assert!(read.deny_all && read.opens_host());
        assert!(serde_json::from_str::<EgressPolicy>(r#"{"allowed": []}"#).is_err(), "an unknown key is told of");
        let error = serde_json::from_str::<EgressPolicy>(r#"{"allow": ["nats.example.com"]}"#).unwrap_err();
        assert!(error.to_string().contains("write its address"), "{error}");
    }

    #[test]
    fn a_network_opens_neither_metadata_nor_the_host() {
        let wide = policy(r#"{"allow": ["0.0.0.0/0"]}"#);
        let beyond = wide.beyond_statements(&[], None);
        let (metadata, opened) = (beyond.find("169.254.169.254").unwrap(), beyond.find(" accept").unwrap());
        assert!(metadata < opened, "{beyond}");
        assert!(!wide.local_statements(&[]).contains("accept"));
        let one = policy(r#"{"allow": ["169.254.169.254:80"]}"#).beyond_statements(&[], None);
        assert!(one.find("dport 80 accept").unwrap() < one.find("100.100.100.200").unwrap(), "{one}");
    }

    #[test]
    fn other_guests_and_what_is_denied_come_first() {
        let guests = "192.168.127.0/24".parse().unwrap();
        let text = policy(r#"{"allow": ["192.168.0.0/16"], "deny": ["192.168.1.1"]}"#)
            .beyond_statements(&[Ipv4Addr::new(192, 168, 1, 1)], Some(guests));
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert!(lines[0].starts_with("ip daddr 192.168.127.0/24 reject"), "{text}");
        assert!(lines[1].starts_with("ip daddr 192.168.1.1/32 reject"), "{text}");
        assert!(lines[2].contains("dport 53 accept"), "{text}");
    }
}
