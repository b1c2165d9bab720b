//! What a machine is configured with, checked when it is set, as Firecracker opens everything at that moment.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::tap::{self, TapError};
use crate::api::Refusal;
use crate::api::body::{
    Balloon, BootSource, CpuTemplate, Drive, Entropy, HugePages, MachineConfig, MachineUpdate, MmdsConfig, Network,
    Pmem, Vsock,
};

/// Longest command line of a kernel, with what Firecracker adds.
const LONGEST_ARGUMENTS: usize = 2048;

const MOST_VCPUS: u8 = 32;

/// The part that a snapshot keeps.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Config {
    pub(super) machine: MachineConfig,
    pub(super) boot: Option<BootSource>,
    pub(super) drives: Vec<Drive>,
    pub(super) networks: Vec<Network>,
    pub(super) vsock: Option<Vsock>,
    pub(super) entropy: Option<Entropy>,
    pub(super) balloon: Option<Balloon>,
    pub(super) mmds: Option<MmdsConfig>,
    pub(super) pmem: Vec<Pmem>,
}

impl Config {
    /// As `GET /vm/config` tells it.
    pub(super) fn told(&self) -> Value {
        json!({
            "balloon": self.balloon,
            "boot-source": self.boot,
            "cpu-config": null,
            "drives": self.drives,
            "entropy": self.entropy,
            "logger": null,
            "machine-config": self.machine,
            "metrics": null,
            "mmds-config": self.mmds,
            "network-interfaces": self.networks,
            "pmem": self.pmem,
            "vsock": self.vsock,
        })
    }

    /// The image that the guest runs from: the root device, else the first drive.
    pub(super) fn root(&self) -> Option<&str> {
        let root = self.drives.iter().find(|drive| drive.is_root_device).or(self.drives.first());
        root.and_then(|drive| drive.path_on_host.as_deref())
    }
}

/// The configuration, and what is open for it.
#[derive(Debug, Default)]
pub(super) struct Resources {
    pub(super) config: Config,
    listener: Option<UnixListener>,
    open: Vec<(String, File)>,
}

impl Resources {
    pub(super) fn update_machine(&mut self, update: &MachineUpdate) -> Result<(), Refusal> {
        let refused = |what: &str| Err(Refusal::new(format!("Machine config error: {what}")));
        let old = &self.config.machine;
        let new = MachineConfig {
            vcpu_count: update.vcpu_count.unwrap_or(old.vcpu_count),
            mem_size_mib: update.mem_size_mib.unwrap_or(old.mem_size_mib),
            smt: update.smt.unwrap_or(old.smt),
            cpu_template: match update.cpu_template {
                None => old.cpu_template,
                Some(CpuTemplate::None) => None,
                Some(template) => Some(template),
            },
            track_dirty_pages: update.track_dirty_pages.unwrap_or(old.track_dirty_pages),
            huge_pages: update.huge_pages.unwrap_or(old.huge_pages),
        };
        let odd = new.vcpu_count > 1 && new.vcpu_count % 2 == 1;
        if new.vcpu_count == 0 || new.vcpu_count > MOST_VCPUS || new.smt && odd {
            return refused("the number of vCPUs is not from 1 to 32, or odd with SMT");
        }
        if new.mem_size_mib == 0 || new.huge_pages == HugePages::TwoMebibytes && new.mem_size_mib % 2 == 1 {
            return refused("The memory size (MiB) is either 0, or not a multiple of the configured page size.");
        }
        if self.config.balloon.as_ref().is_some_and(|balloon| u64::from(balloon.amount_mib) > new.mem_size_mib) {
            return refused("The memory size (MiB) is smaller than the previously set balloon device target size.");
        }
        self.config.machine = new;
        Ok(())
    }

    pub(super) fn set_boot(&mut self, boot: BootSource) -> Result<(), Refusal> {
        let refused = |what: String| Refusal::new(format!("Boot source error: {what}"));
        File::open(&boot.kernel_image_path)
            .map_err(|error| refused(format!("The kernel file cannot be opened: {error}")))?;
        if let Some(initrd) = &boot.initrd_path {
            File::open(initrd).map_err(|error| refused(format!("The initrd file cannot be opened: {error}")))?;
        }
        let arguments = boot.boot_args.as_deref().unwrap_or_default();
        let bad = arguments.len() >= LONGEST_ARGUMENTS || !arguments.chars().all(|c| c.is_ascii_graphic() || c == ' ');
        if bad {
            return Err(refused("The kernel command line is invalid: too long, or not of printable ASCII".to_owned()));
        }
        self.config.boot = Some(boot);
        Ok(())
    }

    pub(super) fn set_drive(&mut self, drive: Drive) -> Result<(), Refusal> {
        let refused = |what: String| Refusal::new(format!("Drive config error: {what}"));
        let others = self.config.drives.iter().filter(|other| other.drive_id != drive.drive_id);
        if drive.is_root_device && others.clone().any(|other| other.is_root_device) {
            return Err(refused("A root block device already exists!".to_owned()));
        }
        if drive.is_root_device && self.config.pmem.iter().any(|pmem| pmem.root_device) {
            return Err(refused("the root device is a pmem device already".to_owned()));
        }
        let file =
            open_drive(&drive).map_err(|what| refused(format!("Unable to create the virtio block device: {what}")))?;
        self.keep(format!("drive {}", drive.drive_id), file);
        match self.config.drives.iter_mut().find(|other| other.drive_id == drive.drive_id) {
            Some(old) => *old = drive,
            None if drive.is_root_device => self.config.drives.insert(0, drive),
            None => self.config.drives.push(drive),
        }
        Ok(())
    }

    pub(super) fn set_network(&mut self, network: Network) -> Result<(), Refusal> {
        let refused = |what: String| Refusal::new(format!("Network config error: {what}"));
        if let Some(mac) = &network.guest_mac {
            if !is_mac(mac) {
                return Err(Refusal::body(format!("invalid value: string \"{mac}\", expected a MAC address")));
            }
            let taken = |other: &&Network| other.iface_id != network.iface_id && other.guest_mac == network.guest_mac;
            if self.config.networks.iter().any(|other| taken(&other)) {
                return Err(refused(format!("The MAC address is already in use: {mac}")));
            }
        }
        if let Some(mtu) = network.mtu.filter(|mtu| *mtu < 68) {
            return Err(refused(format!("Could not create the network device: MTU {mtu} is out of range [68, 65535]")));
        }
        let name = format!("network {}", network.iface_id);
        self.open.retain(|(kept, _)| *kept != name);
        let tap = tap::open(&network.host_dev_name).map_err(|error| refused(tap_failure(&error)))?;
        self.keep(name, tap);
        self.config.networks.retain(|other| other.iface_id != network.iface_id);
        self.config.networks.push(network);
        Ok(())
    }

    /// Binds the socket at once: connections wait in it until the guest runs.
    pub(super) fn set_vsock(&mut self, vsock: Vsock, binds: bool) -> Result<(), Refusal> {
        let refused =
            |what: String| Refusal::new(format!("Vsock config error: Cannot create backend for vsock device: {what}"));
        if vsock.guest_cid < 3 {
            return Err(refused(format!("the guest's CID {} is reserved: 3 is the first", vsock.guest_cid)));
        }
        if let Some(old) = self.config.vsock.take() {
            self.listener = None;
            let _ = std::fs::remove_file(old.uds_path);
        }
        if binds {
            let bound = bind(&vsock.uds_path);
            self.listener =
                Some(bound.map_err(|error| refused(format!("Error binding to the host-side Unix socket: {error}")))?);
        }
        self.config.vsock = Some(vsock);
        Ok(())
    }

    pub(super) fn set_balloon(&mut self, balloon: Balloon) -> Result<(), Refusal> {
        if u64::from(balloon.amount_mib) > self.config.machine.mem_size_mib {
            return Err(Refusal::new("Balloon config error: Amount of pages requested is too large."));
        }
        self.config.balloon = Some(balloon);
        Ok(())
    }

    pub(super) fn set_pmem(&mut self, pmem: Pmem) -> Result<(), Refusal> {
        let refused = |what: String| Refusal::new(format!("Pmem config error: {what}"));
        let others = self.config.pmem.iter().filter(|other| other.id != pmem.id);
        let rooted = others.clone().any(|other| other.root_device)
            || self.config.drives.iter().any(|drive| drive.is_root_device);
        if pmem.root_device && rooted {
            return Err(refused("there is a root device already".to_owned()));
        }
        open(&pmem.path_on_host, pmem.read_only).map_err(|error| refused(error.to_string()))?;
        self.config.pmem.retain(|other| other.id != pmem.id);
        self.config.pmem.push(pmem);
        Ok(())
    }

    pub(super) fn set_mmds(&mut self, config: MmdsConfig) -> Result<(), Refusal> {
        let refused = |what: &str| Err(Refusal::new(format!("MMDS config error: {what}")));
        let local = |address: Ipv4Addr| address.is_link_local() && !matches!(address.octets(), [_, _, 0 | 255, _]);
        if config.ipv4_address.is_some_and(|address| !local(address)) {
            return refused("The MMDS IPv4 address is not link local.");
        }
        if config.network_interfaces.is_empty() {
            return refused("The list of network interface IDs that allow forwarding MMDS requests is empty.");
        }
        let known = |id: &String| self.config.networks.iter().any(|network| network.iface_id == *id);
        if !config.network_interfaces.iter().all(known) {
            return refused("an interface of the list is not configured");
        }
        self.config.mmds = Some(config);
        Ok(())
    }

    /// Opens everything that a restored configuration names.
    pub(super) fn restore(&mut self, config: Config, binds: bool) -> Result<(), String> {
        let failed = |what: String| format!("Failed to build microVM from snapshot: Failed to restore devices: {what}");
        for drive in &config.drives {
            let file = open_drive(drive).map_err(|what| failed(format!("Block: Virtio backend error: {what}")))?;
            self.keep(format!("drive {}", drive.drive_id), file);
        }
        for network in &config.networks {
            let tap =
                tap::open(&network.host_dev_name).map_err(|error| failed(format!("Net: {}", tap_failure(&error))))?;
            self.keep(format!("network {}", network.iface_id), tap);
        }
        if let Some(vsock) = config.vsock.as_ref().filter(|_| binds) {
            let bound = bind(&vsock.uds_path);
            self.listener = Some(bound.map_err(|error| {
                failed(format!("VsockUnixBackend: Error binding to the host-side Unix socket: {error}"))
            })?);
        }
        self.config = config;
        Ok(())
    }

    /// The socket of the vsock device, for the guest.
    pub(super) fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }

    fn keep(&mut self, name: String, file: File) {
        self.open.retain(|(kept, _)| *kept != name);
        self.open.push((name, file));
    }
}

fn bind(path: &str) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn open(path: &str, read_only: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(!read_only).open(Path::new(path))
}

fn open_drive(drive: &Drive) -> Result<File, String> {
    // A drive that says neither is one that can be written to in Firecracker; the description demands that it says.
    let (Some(path), None, Some(read_only)) = (&drive.path_on_host, &drive.socket, drive.is_read_only) else {
        return Err("Invalid block config.".to_owned());
    };
    let opened = open(path, read_only);
    opened.map_err(|error| format!("Virtio backend error: Error manipulating the backing file: {error} {path}"))
}

fn tap_failure(error: &TapError) -> String {
    format!("Could not create the network device: Open tap device failed: {error}")
}

fn is_mac(text: &str) -> bool {
    let mut parts = 0;
    let hex = text.split(':').all(|part| {
        parts += 1;
        part.len() == 2 && part.chars().all(|digit| digit.is_ascii_hexdigit())
    });
    hex && parts == 6
}
