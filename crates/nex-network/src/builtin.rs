//! A slot that is made here, by system calls.
//!
//! ```text
//! host                            | namespace
//! nx<tag>-<n>  192.168.127.0/31 ==== uplink 192.168.127.1/31    tap0 192.0.0.1/30 --- guest 192.0.0.2
//! ```
//! What is inside is the same in every slot, hardware addresses included, so that a guest that was snapshotted in one
//! goes on in another. The inner network is of the block for translators between networks (RFC 7335), which nobody
//! reaches anything at: whatever a guest is to reach, its own network is not in the way.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

use crate::firewall::Rules;
use crate::netlink::Netlink;
use crate::nft::Nft;
use crate::settings::Owner;
use crate::{NetworkError, namespace, sysctl, tap};

/// The device for the VMM, in the namespace.
pub(crate) const TAP: &str = "tap0";
/// The namespace's way out.
pub(crate) const UPLINK: &str = "uplink";
/// The guest's address.
pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// The guest's gateway.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
/// The prefix of their network.
pub(crate) const PREFIX: u8 = 30;
/// The guest's hardware address: local, "nex" in letters.
pub(crate) const GUEST_MAC: [u8; 6] = [0x02, b'n', b'e', b'x', 0, 2];
/// The gateway's.
const GATEWAY_MAC: [u8; 6] = [0x02, b'n', b'e', b'x', 0, 1];

/// With this begin the names of a node's links on the host.
pub(crate) fn links(tag: &str) -> String {
    format!("nx{tag}-")
}

/// The name of a slot's link on the host. 13 letters at most, of the 15 that the kernel takes.
pub(crate) fn link(tag: &str, slot: u32) -> String {
    format!("{}{slot:x}", links(tag))
}

/// Whether a link is that of a slot, of any node.
pub(crate) fn is_link_of_a_slot(name: &str) -> bool {
    let Some((tag, slot)) = name.strip_prefix("nx").and_then(|rest| rest.split_once('-')) else { return false };
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    tag.len() == 6 && hex(tag) && !slot.is_empty() && hex(slot)
}

/// What a slot is made from.
pub(crate) struct Plan<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) link: &'a str,
    pub(crate) host_end: Ipv4Addr,
    pub(crate) end: Ipv4Addr,
    pub(crate) mtu: u16,
    pub(crate) owner: Option<Owner>,
}

/// Makes it. What was made until an error is left to [`unmake`].
///
/// # Errors
/// When the system refuses something.
pub(crate) fn make(plan: &Plan<'_>, rules: &Rules, nft: &Nft) -> Result<(), NetworkError> {
    let failed = |what: &str| NetworkError::system::<io::Error>(format!("{what} of {}", plan.namespace));
    let host = File::open("/proc/thread-self/ns/net").map_err(failed("find the host's side"))?;
    namespace::make(plan.namespace, || {
        tap::make(TAP, plan.owner).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => NetworkError::NoTap(source),
            _ => failed("make the tap")(source),
        })?;
        set_up_inside(plan, host.as_fd()).map_err(failed("set up the links"))?;
        nft.apply("make the rules of a microVM's network", &rules.namespace(plan.host_end, plan.end))?;
        // Last, so that no packet is passed on that no rule has seen.
        sysctl::set(sysctl::IP_FORWARD, "1")
    })?;
    sysctl::without_ipv6(plan.link)?;
    // What the guest sends. What comes back arrives at links of the host: see `forwarding`.
    sysctl::pass_on(plan.link, true)?;
    let set_up_outside = || {
        let mut netlink = Netlink::open()?;
        let link = netlink.link(plan.link)?.index;
        netlink.add_address(link, plan.host_end, 31)?;
        netlink.bring_up(link, None, None)
    };
    set_up_outside().map_err(failed("set up the host's link"))
}

fn set_up_inside(plan: &Plan<'_>, host: BorrowedFd<'_>) -> io::Result<()> {
    let mtu = u32::from(plan.mtu);
    let mut netlink = Netlink::open()?;
    netlink.add_veth(UPLINK, mtu, plan.link, host)?;
    let tap = netlink.link(TAP)?.index;
    netlink.add_address(tap, GATEWAY, PREFIX)?;
    netlink.bring_up(tap, Some(GATEWAY_MAC), Some(mtu))?;
    netlink.add_neighbour(tap, GUEST, GUEST_MAC)?;
    let uplink = netlink.link(UPLINK)?.index;
    netlink.add_address(uplink, plan.end, 31)?;
    netlink.bring_up(uplink, None, None)?;
    netlink.add_default_route(uplink, plan.host_end)
}

/// Removes what there is of a slot.
///
/// # Errors
/// When the system refuses something.
pub(crate) fn unmake(namespace: &str, link: &str) -> Result<(), NetworkError> {
    // The link first: it would go with the namespace, but at some time later, and its address is to be free at once.
    let removed = Netlink::open().and_then(|mut netlink| netlink.remove_link(link));
    removed.map_err(NetworkError::system(format!("remove the link {link}")))?;
    namespace::remove(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_slots_are_known_by_their_names() {
        assert!(is_link_of_a_slot(&link("0a1b2c", 300)));
        for other in ["eth0", "nx0", "nx0a1b2c-", "nx0a1b2-1", "nxfooooo-1", "xnx0a1b2c-1"] {
            assert!(!is_link_of_a_slot(other), "{other}");
        }
    }
}
