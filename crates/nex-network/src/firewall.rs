//! The rules that are given to nft: in the namespace of a slot, and on the host.
//!
//! In the namespace: what the guest sends must bear its own addresses, goes where the policy lets it, and leaves with
//! the slot's address, so that guests may be alike inside. On the host: the same policy once more for everything that
//! comes from our links, because whoever breaks out of a VMM is in the namespace, not on the host; and what only the
//! host knows, which addresses are its own. Rules of the host speak of our links alone: all else passes them by.

use std::net::Ipv4Addr;

use crate::builtin::{GATEWAY, GUEST, GUEST_MAC, TAP, UPLINK};
use crate::egress::REFUSE;
use crate::{EgressPolicy, Ipv4Subnet};

/// Connections that one guest may have at a time: the host's table of them is one for all.
const MOST_CONNECTIONS: u32 = 4096;

/// In a node's table: the set of its network.
pub(crate) const SUBNET: &str = "subnet";

/// With this begin the names of nodes' tables on a host.
pub(crate) const TABLES: &str = "nex-";

/// What rules follow from.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) policy: EgressPolicy,
    pub(crate) nameservers: Vec<Ipv4Addr>,
    /// The network of our slots; none when plugins choose addresses.
    pub(crate) subnet: Option<Ipv4Subnet>,
}

impl Rules {
    /// The rules of a slot's namespace. Its link has these two ends.
    pub(crate) fn namespace(&self, host_end: Ipv4Addr, end: Ipv4Addr) -> String {
        let mac = mac_text(GUEST_MAC);
        let to_gateway = format!("iifname \"{TAP}\" ip daddr {GATEWAY}");
        // A rule of a port matches protocols that have some; one without must name them for the translation.
        let to_host = format!("dnat ip to {host_end}");
        let to_host =
            self.policy.host_statements(&to_gateway, "return", &format!("meta l4proto {{ tcp, udp }} {to_host}"));
        let beyond = self.policy.beyond_statements(&self.nameservers, self.subnet);
        format!(
            r#"table netdev nex {{
  chain from_guest {{
    type filter hook ingress device "{TAP}" priority 0; policy drop;
    ether saddr != {mac} drop
    ip saddr {GUEST} accept
    arp saddr ip {GUEST} accept
  }}
}}
table inet nex {{
  chain towards {{
    type nat hook prerouting priority dstnat;
{to_host}    iifname "{UPLINK}" ip saddr {host_end} ip daddr {end} dnat ip to {GUEST}
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat;
    oifname "{UPLINK}" snat ip to {end}
  }}
  chain beyond {{
    ip daddr {host_end} ct status dnat accept
{beyond}  }}
  chain passed_on {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct state invalid drop
    iifname "{UPLINK}" oifname "{TAP}" ct status dnat accept
    iifname != "{TAP}" drop
    ct count over {MOST_CONNECTIONS} {REFUSE}
    jump beyond
  }}
  chain inside {{
    type filter hook input priority filter; policy drop;
    iifname "{TAP}" ip daddr {GATEWAY} icmp type echo-request limit rate 50/second accept
    iifname "{TAP}" {REFUSE}
  }}
  chain out_of {{
    type filter hook output priority filter; policy drop;
    ct state established,related accept
  }}
}}
"#
        )
    }

    /// The rules of the host, in place of those that a node of this tag has left.
    pub(crate) fn host(&self, tag: &str) -> String {
        let table = table(tag);
        // Our links are known by their names; those of plugins by what the plugins say.
        let (ours, spoofed, to_gateway, masquerade) = match self.subnet {
            Some(subnet) => (
                format!("\"{}*\"", crate::builtin::links(tag)),
                format!("ip saddr != {subnet} drop"),
                format!("ip daddr {subnet}"),
                format!("    ip saddr {subnet} oifname != \"{}*\" masquerade\n", crate::builtin::links(tag)),
            ),
            None => (
                "@links".to_owned(),
                "iifname . ip saddr != @guests drop".to_owned(),
                "iifname . ip daddr @gateways".to_owned(),
                String::new(),
            ),
        };
        let sets = match self.subnet {
            Some(subnet) => {
                format!("  set {SUBNET} {{ type ipv4_addr; flags interval; elements = {{ {subnet} }}; }}\n")
            }
            None => concat!(
                "  set links { type ifname; }\n",
                "  set guests { type ifname . ipv4_addr; }\n",
                "  set gateways { type ifname . ipv4_addr; }\n"
            )
            .to_owned(),
        };
        let to_host = self.policy.host_statements(&to_gateway, REFUSE, "accept");
        let local = self.policy.local_statements(&self.nameservers);
        let beyond = self.policy.beyond_statements(&self.nameservers, self.subnet);
        format!(
            r#"table inet {table}
delete table inet {table}
table inet {table} {{
{sets}  chain from_guests {{
    meta nfproto != ipv4 drop
    {spoofed}
  }}
  chain arriving {{
    type filter hook prerouting priority raw; policy accept;
    iifname {ours} jump from_guests
  }}
  chain local {{
    ct state established,related accept
{to_host}{local}  }}
  chain to_host {{
    type filter hook input priority filter; policy accept;
    iifname {ours} jump local
  }}
  chain beyond {{
    ct state established,related accept
    oifname {ours} {REFUSE}
{beyond}  }}
  chain passed_on {{
    type filter hook forward priority filter; policy accept;
    iifname {ours} goto beyond
    oifname {ours} ct state established,related accept
    oifname {ours} drop
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat;
{masquerade}  }}
}}
"#
        )
    }
}

/// The name of a node's table.
pub(crate) fn table(tag: &str) -> String {
    format!("{TABLES}{tag}")
}

/// A hardware address as it is written.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
