//! What a node's configuration asks of its machine, in the words of this crate: filled in by whoever reads configurations.

use std::path::{Path, PathBuf};

/// What a node needs.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// MicroVMs; none for a node without a sandbox.
    pub machines: Option<Machines>,
    /// `nex-agent`, for a node without a sandbox.
    pub agent: Program,
    /// Agents to keep ready.
    pub pool_size: usize,
    /// Whether JavaScript functions are asked for by name.
    pub javascript: bool,
    /// Deno, which runs them.
    pub deno: Program,
    /// Whether the node is to bring its own NATS server.
    pub own_nats: bool,
    /// `nats-server`.
    pub nats_server: Program,
    /// Where the node keeps its state.
    pub state_dir: PathBuf,
}

/// A program: where it may be, and where it would be put.
#[derive(Debug, Clone)]
pub struct Program {
    /// Its file name.
    pub name: &'static str,
    /// The key of the configuration that names it.
    pub key: &'static str,
    /// Where the configuration or the environment says it is. Then it is looked for nowhere else.
    pub configured: Option<PathBuf>,
    /// Folders to look in, in this order.
    pub search: Vec<PathBuf>,
    /// Folder to install it in when nothing is configured; has to be one of those that are looked in.
    pub install_dir: PathBuf,
}

/// MicroVMs.
#[derive(Debug, Clone)]
pub struct Machines {
    /// What runs them.
    pub monitor: Monitor,
    /// Their kernel.
    pub kernel: PathBuf,
    /// The kernel's initramfs, when it has one.
    pub initrd: Option<PathBuf>,
    /// Their root image.
    pub root_image: PathBuf,
    /// What a root image is built of here; none where this release's files are not there.
    pub guest_programs: Option<GuestPrograms>,
    /// Memory of one, MiB.
    pub memory_mib: u64,
    /// Room for what one writes to disk, MiB.
    pub scratch_mib: u64,
    /// Their network.
    pub network: Network,
}

/// What runs microVMs.
#[derive(Debug, Clone)]
pub enum Monitor {
    /// Firecracker.
    Firecracker {
        /// `firecracker`.
        firecracker: Program,
        /// `jailer`.
        jailer: Program,
        /// Whether it is used, which only root can.
        jailed: bool,
        /// User ids that machines would share with somebody: where the host gives them away, and to whom.
        shared_users: Vec<String>,
    },
    /// QEMU.
    Qemu {
        /// `qemu-system-…`.
        qemu: Program,
    },
}

/// What runs in a root image, linked statically.
#[derive(Debug, Clone)]
pub struct GuestPrograms {
    /// `nex-agent`.
    pub agent: PathBuf,
    /// `nex-init`.
    pub init: PathBuf,
}

/// How microVMs get a network.
#[derive(Debug, Clone)]
pub enum Network {
    /// They have none.
    None,
    /// The node makes it.
    Builtin,
    /// Plugins make it.
    Cni(Cni),
    /// By plugins when they are all there, else by the node.
    Auto(Cni),
}

/// Network plugins.
#[derive(Debug, Clone)]
pub struct Cni {
    /// Folders to look for them in.
    pub search: Vec<PathBuf>,
    /// Folder to install them in.
    pub install_dir: PathBuf,
    /// Folder of the network descriptions.
    pub conf_dir: PathBuf,
    /// Name of the network.
    pub network_name: String,
    /// Addresses to give out, CIDR.
    pub subnet: String,
    /// DNS servers.
    pub nameservers: Vec<String>,
}

impl Program {
    /// Where it is, whether or not it can be executed.
    pub fn find(&self) -> Option<PathBuf> {
        match &self.configured {
            Some(path) => path.exists().then(|| path.clone()),
            None => self.search.iter().map(|folder| folder.join(self.name)).find(|path| path.is_file()),
        }
    }

    /// Where it would be installed.
    pub fn target(&self) -> PathBuf {
        self.configured.clone().unwrap_or_else(|| self.install_dir.join(self.name))
    }
}

impl Cni {
    /// The plugins of a microVM's network.
    pub const PLUGINS: [&'static str; 3] = ["ptp", "host-local", "tc-redirect-tap"];

    /// Where a plugin is.
    pub fn find(&self, plugin: &str) -> Option<PathBuf> {
        self.search.iter().map(|folder| folder.join(plugin)).find(|path| path.is_file())
    }

    /// The description of the network.
    pub fn conflist_path(&self) -> PathBuf {
        self.conf_dir.join(format!("{}.conflist", self.network_name))
    }

    /// Whether all of it is there.
    pub fn complete(&self) -> bool {
        Self::PLUGINS.iter().all(|plugin| self.find(plugin).is_some()) && self.conflist_path().is_file()
    }
}

/// Whether a file may be executed by somebody.
pub(crate) fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
