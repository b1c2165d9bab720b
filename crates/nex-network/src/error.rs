//! What goes wrong with networks, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::Ipv4Subnet;
use crate::subnet::{MOST_SLOTS, slots_of};

/// A network that cannot be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The process may not make networks.
    #[error(
        "the networks of microVMs take root, or the capabilities net_admin and sys_admin: run the node with them, or \
         set \"network\": \"none\""
    )]
    NotPermitted,
    /// A program is not there.
    #[error("there is no program {program} in {searched}: install it (Debian and Ubuntu: apt-get install {package})")]
    NoProgram {
        /// Its name.
        program: &'static str,
        /// Where it was looked for.
        searched: String,
        /// The package that has it.
        package: &'static str,
    },
    /// The system has no tap devices.
    #[error("/dev/net/tun cannot be opened: load the kernel's module tun (modprobe tun), or give the node that device")]
    NoTap(#[source] io::Error),
    /// The firewall refused rules.
    #[error("nft cannot {what}: {message}")]
    Firewall {
        /// What was to be done.
        what: &'static str,
        /// What nft said.
        message: String,
    },
    /// Another process has the journal.
    #[error("another node uses the folder {0}: each node takes a state directory of its own")]
    InUse(PathBuf),
    /// The journal cannot be read or written.
    #[error("cannot use the journal of networks at {path}")]
    Journal {
        /// What cannot be used.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A network in which guests cannot be.
    #[error("{subnet} cannot be the network of microVMs: {why}. Set another one as cni.subnet")]
    Unsuitable {
        /// The network.
        subnet: Ipv4Subnet,
        /// What it is.
        why: &'static str,
    },
    /// The host reaches something else at these addresses.
    #[error(
        "the network of microVMs {subnet} collides with the host's route {route} ({link}): set one that is free as \
         cni.subnet"
    )]
    Collision {
        /// The network.
        subnet: Ipv4Subnet,
        /// The route.
        route: Ipv4Subnet,
        /// The link it leads to.
        link: String,
    },
    /// Another node has these addresses.
    #[error(
        "the network of microVMs {subnet} collides with {taken} of another node on this host (nft table {table}): give \
         each node its own cni.subnet"
    )]
    Neighbour {
        /// The network.
        subnet: Ipv4Subnet,
        /// The other node's.
        taken: Ipv4Subnet,
        /// The other node's table.
        table: String,
    },
    /// No slot is free.
    #[error("all {} networks for microVMs that fit into {subnet} are taken: {}", subnet.slots(), larger(subnet))]
    Exhausted {
        /// The network.
        subnet: Ipv4Subnet,
    },
    /// No number is free.
    #[error("all {MOST_SLOTS} networks for microVMs that a node can have are taken")]
    TooMany,
    /// The configuration of the plugins cannot be used.
    #[error("the CNI network {name} cannot be used: {why}")]
    Conflist {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// A plugin is not there.
    #[error("there is no CNI plugin {plugin} in {searched}: {}, or set \"network\": \"builtin\"", remedy(plugin))]
    NoPlugin {
        /// Its type.
        plugin: String,
        /// Where it was looked for.
        searched: String,
    },
    /// A plugin failed.
    #[error("the CNI plugin {plugin} failed at {command}: {message}")]
    Plugin {
        /// Its type.
        plugin: String,
        /// ADD or DEL.
        command: &'static str,
        /// What it said.
        message: String,
    },
    /// What the plugins made is no network for a microVM.
    #[error("the CNI network {name} made no network for a microVM: {why}")]
    Unusable {
        /// Its name.
        name: String,
        /// What is missing.
        why: String,
    },
    /// The system refused.
    #[error("cannot {what}")]
    System {
        /// What was to be done.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl NetworkError {
    /// For `map_err`: the system refused to do this.
    pub(crate) fn system<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::System { what, source: source.into() }
    }
}

fn larger(subnet: &Ipv4Subnet) -> String {
    match subnet.prefix().checked_sub(1) {
        Some(prefix) if slots_of(prefix) > subnet.slots() => {
            format!("set a larger one as cni.subnet (a /{prefix} holds {}), or a smaller pool", slots_of(prefix))
        }
        _ => "a node can have no more".into(),
    }
}

fn remedy(plugin: &str) -> &'static str {
    match plugin {
        "tc-redirect-tap" => {
            "build it from its source (github.com/awslabs/tc-redirect-tap, with Go) and name its folder in cni.bin_path"
        }
        _ => {
            "install it (Debian, Ubuntu: apt-get install containernetworking-plugins) and name its folder in cni.bin_path"
        }
    }
}
