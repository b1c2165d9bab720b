//! Where HTTP may go: an operator's rules, and the addresses that are nobody's business by default.
//!
//! [`Egress::permits`] judges an address that is about to be connected to, never a name alone, so that neither a
//! redirect nor a name that changes its address gets past it. What is denied stays denied whatever is allowed; what is
//! allowed opens addresses that are closed by default. The metadata services of clouds are opened by a rule that names
//! their address only: a rule on names trusts whoever answers for the name.

mod address;
mod rule;

use std::net::IpAddr;

pub use rule::{EgressRule, InvalidRule};

use crate::Failure;

/// The rules of a node.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    allow: Vec<EgressRule>,
    deny: Vec<EgressRule>,
    allow_only: bool,
}

impl Egress {
    /// What is allowed, what is denied, and whether nothing else is allowed.
    pub fn new(allow: Vec<EgressRule>, deny: Vec<EgressRule>, allow_only: bool) -> Self {
        Self { allow, deny, allow_only }
    }

    /// Whether a rule of the operator opens this address, meant for this host.
    pub fn opens(&self, host: &str, address: IpAddr, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let (address, _) = address::unwrapped(address);
        self.allow.iter().any(|rule| rule.matches(&host, Some(address), port))
    }

    /// Whether a connection to this address, meant for this host, may be made.
    pub fn permits(&self, host: &str, address: IpAddr, port: u16) -> Result<(), Failure> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        // An address may stand in for another one; neither may be forbidden.
        let (address, inner) = address::unwrapped(address);
        let meant = [Some(address), inner];
        let meets = |rule: &EgressRule, address: Option<IpAddr>| rule.matches(&host, address, port);
        if self.deny.iter().any(|rule| meant.iter().any(|address| meets(rule, *address))) {
            return Err(Failure::denied(format!("the node's deny list has {host}:{port} or its address")));
        }
        let metadata = meant.iter().flatten().any(|address| address::is_metadata(*address));
        if self.allow.iter().any(|rule| meets(rule, Some(address)) && (!metadata || rule.is_one_address())) {
            return Ok(());
        }
        if self.allow_only {
            return Err(Failure::denied(format!("the node's allow list does not have {host}:{port}")));
        }
        match meant.iter().flatten().find_map(|address| address::not_public(*address)) {
            Some(kind) => Err(Failure::denied(format!("{host} is at a {kind} address, which the node does not allow"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(allow: &[&str], deny: &[&str]) -> Egress {
        let rules = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Egress::new(rules(allow), rules(deny), false)
    }

    fn ok(egress: &Egress, host: &str, address: &str, port: u16) -> bool {
        egress.permits(host, address.parse().unwrap(), port).is_ok()
    }

    #[test]
    fn addresses_that_are_not_public_are_denied_by_default() {
        let open = egress(&[], &[]);
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.1.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "192.88.99.1",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001:db8::1",
            "3fff::1",
            "100::1",
            "2001:2::1",
            "2001::1",
            "5f00::1",
            "4000::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2002:0a00:1::1",
        ] {
            assert!(!ok(&open, "h.example", bad, 80), "{bad}");
        }
        for good in [
            "1.1.1.1",
            "8.8.8.8",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "2606:4700::1111",
            "2a00::1",
            "64:ff9b::8.8.8.8",
            "::ffff:8.8.8.8",
            "2002:808:808::1",
        ] {
            assert!(ok(&open, "h.example", good, 80), "{good}");
        }
    }

    #[test]
    fn allow_opens_and_deny_wins() {
        let rules =
            egress(&["10.1.0.0/16", "internal.example:8080", "*.corp.example"], &["10.1.9.9", "bad.corp.example"]);
        assert!(ok(&rules, "x", "10.1.2.3", 80));
        assert!(ok(&rules, "x", "::ffff:10.1.2.3", 80), "the mapped form is the same address");
        assert!(!ok(&rules, "x", "10.2.2.3", 80));
        assert!(!ok(&rules, "x", "10.1.9.9", 80));
        assert!(!ok(&rules, "x", "::ffff:10.1.9.9", 80));
        assert!(!ok(&rules, "x", "64:ff9b::10.1.9.9", 80));
        assert!(ok(&rules, "INTERNAL.example.", "192.168.0.1", 8080));
        assert!(!ok(&rules, "internal.example", "192.168.0.1", 80));
        assert!(ok(&rules, "a.corp.example", "192.168.0.1", 80));
        assert!(ok(&rules, "a.b.corp.example", "192.168.0.1", 80));
        assert!(!ok(&rules, "corp.example", "192.168.0.1", 80));
        assert!(!ok(&rules, "evilcorp.example", "192.168.0.1", 80));
        assert!(!ok(&rules, "bad.corp.example", "8.8.8.8", 80));
        assert!(!ok(&rules, "bad.corp.example.", "8.8.8.8", 80));
        assert!(!ok(&rules, "Bad.Corp.example", "8.8.8.8", 80));
    }

    #[test]
    fn a_rule_on_names_does_not_open_metadata() {
        let rules = egress(&["*.nip.io"], &[]);
        assert!(ok(&rules, "10.0.0.1.nip.io", "10.0.0.1", 80));
        assert!(!ok(&rules, "a.nip.io", "169.254.169.254", 80));
        assert!(!ok(&rules, "a.nip.io", "::ffff:169.254.169.254", 80));
        assert!(!ok(&rules, "a.nip.io", "fd00:ec2::254", 80));
        assert!(ok(&egress(&["169.254.169.254:80"], &[]), "169.254.169.254", "169.254.169.254", 80));
        assert!(!ok(&egress(&["169.254.169.254:80"], &[]), "169.254.169.254", "169.254.169.254", 81));
    }

    #[test]
    fn denying_the_unlisted_leaves_the_listed() {
        let only = Egress::new(vec!["api.example.com".parse().unwrap()], Vec::new(), true);
        assert!(ok(&only, "api.example.com", "8.8.8.8", 443));
        assert!(!ok(&only, "example.com", "8.8.8.8", 443));
    }
}
