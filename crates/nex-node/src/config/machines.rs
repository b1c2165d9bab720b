//! Keys about microVMs: their monitor, drives, networks and bounds.

use std::path::PathBuf;

use nex_network::Ipv4Subnet;

/// A monitor of microVMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vmm {
    /// Firecracker.
    Firecracker,
    /// QEMU's `microvm` machine.
    Qemu,
}

impl Vmm {
    /// The spelling in the configuration and in the node's tags.
    pub fn as_str(self) -> &'static str {
        match self {
            Vmm::Firecracker => "firecracker",
            Vmm::Qemu => "qemu",
        }
    }
}

/// How the microVMs' networks are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKind {
    /// By CNI where its plugins and the network's description are there, else built in.
    Auto,
    /// By the node itself.
    Builtin,
    /// By plugins of the Container Network Interface.
    Cni,
    /// They have none.
    None,
}

/// The user ids that jailed machines get, one each; their group ids are the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JailerUsers {
    /// The first (`first`, 1900000000).
    pub first: u32,
    /// How many (`count`, 4096).
    pub count: u32,
}

/// Space for what a guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scratch {
    /// In its memory, MiB (`memory_mib`).
    Memory(u64),
    /// On a drive of its own, MiB (`drive_mib`).
    Drive(u64),
}

/// Network of the microVMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cni {
    /// Where the plugins lie.
    pub bin_path: Vec<PathBuf>,
    /// Name of the `conflist`.
    pub network_name: String,
    /// Interface inside the machine.
    pub interface_name: String,
    /// Addresses to give out.
    pub subnet: Ipv4Subnet,
    /// DNS servers.
    pub nameservers: Vec<std::net::Ipv4Addr>,
}

/// Where networks are described for CNI.
pub const CNI_CONF: &str = "/etc/cni/conf.d";

/// Where CNI's plugins are by custom, and where Debian has them.
const CNI_PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

impl Cni {
    /// Folders of the plugins: as configured, else those where they are by custom, and the path.
    pub fn plugins(&self) -> Vec<PathBuf> {
        if !self.bin_path.is_empty() {
            return self.bin_path.clone();
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        CNI_PLUGINS.iter().map(PathBuf::from).chain(std::env::split_paths(&path)).collect()
    }
}

/// A token bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenBucket {
    /// Tokens that may be spent once, at the beginning.
    pub one_time_burst: u64,
    /// Milliseconds in which the bucket fills.
    pub refill_time: u64,
    /// Tokens in a full bucket.
    pub size: u64,
}

/// Limits of a microVM's drives and network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimiters {
    /// Bytes.
    pub bandwidth: Option<TokenBucket>,
    /// Operations.
    pub iops: Option<TokenBucket>,
}
