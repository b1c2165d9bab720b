//! The networks of microVMs: for each a *slot*, which is a network namespace with a tap in it.
//!
//! [`Network`] makes slots and removes them; [`Slot`] owns one. Slots are made by this crate or by CNI plugins
//! ([`Mode`]), and in both cases the guest can go only where the node's [`EgressPolicy`] lets it. Before anything is
//! made it is written into a journal, so that the next [`Network`] with the same journal removes what a killed one
//! left, and nothing else. Of the host nothing is touched but what docs/networks.md lists. Nothing here knows a VMM:
//! it is given the namespace, the tap and what the guest has to set up.

#[cfg(not(target_os = "linux"))]
compile_error!("the networks of microVMs are made of parts of Linux");

mod builtin;
mod cni;
mod egress;
mod error;
mod firewall;
mod forwarding;
mod host;
mod journal;
mod nameservers;
mod namespace;
mod netlink;
mod network;
mod nft;
mod program;
mod settings;
mod slot;
mod subnet;
mod sysctl;
mod tap;

pub use cni::ready as cni_is_ready;
pub use egress::{EgressPolicy, EgressRule, InvalidRule};
pub use error::NetworkError;
pub use network::Network;
pub use nex_protocol::machine::GuestNetwork;
pub use settings::{Mode, NetworkSettings, Owner};
pub use slot::Slot;
pub use subnet::{InvalidSubnet, Ipv4Subnet};
