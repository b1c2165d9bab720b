//! What a node decides about the networks of its guests, and what a guest is told about its own.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::{EgressPolicy, Ipv4Subnet};

/// How the networks of a node are made.
#[derive(Debug, Clone)]
pub struct NetworkSettings {
    /// Folder of the journal, which is this node's alone. Its path tells this node's links from those of others.
    pub journal_dir: PathBuf,
    /// Who makes the networks.
    pub mode: Mode,
    /// Where guests may go.
    pub egress: EgressPolicy,
    /// Nameservers of guests. None: those of the host, unless the policy denies all that is not allowed.
    pub nameservers: Vec<Ipv4Addr>,
}

/// Who makes the networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// This crate. All guests have the same address and the same gateway.
    Builtin {
        /// The network between the host and its guests' namespaces, a /31 each.
        subnet: Ipv4Subnet,
    },
    /// Plugins of the Container Network Interface.
    Cni {
        /// Folders of the plugins, in order.
        bin_paths: Vec<PathBuf>,
        /// Folder of network configurations (`*.conflist`).
        conf_dir: PathBuf,
        /// The name in the configuration that is meant.
        network_name: String,
        /// What the plugins are to call the link in the namespace.
        interface_name: String,
    },
}

/// Whose a tap is: the user and the group that may open it without privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

impl From<(u32, u32)> for Owner {
    fn from((uid, gid): (u32, u32)) -> Self {
        Self { uid, gid }
    }
}
