//! What a machine is made of: the files in its root folder, and what Firecracker is told of them, in this order: size,
//! kernel, drives, network, vsock, randomness, balloon.

use std::io;
use std::path::Path;

use nex_protocol::machine::LINK_PORT;

use super::api::Api;
use super::jail::Root;
use super::{VSOCK, model, snapshot};
use crate::PrepareError;
use crate::microvm::scratch::DRIVE;
use crate::microvm::{MachineSettings, ScratchSpace, scratch};

/// The guest's number on its vsock. Each machine has a vsock of its own: all may have the same.
const GUEST_CID: u32 = 3;

/// The kernel in a machine's root folder.
pub(super) const KERNEL: &str = "kernel";

/// Its initramfs there.
pub(super) const INITRD: &str = "initrd";

/// The root image there.
pub(super) const ROOT_IMAGE: &str = "root.ext4";

/// Gives a machine what all of them share.
pub(super) fn share(root: &Root, settings: &MachineSettings) -> io::Result<()> {
    let shared = settings.machines_dir.with_extension("shared");
    root.share(&settings.root_image, ROOT_IMAGE, &shared)?;
    root.share(&settings.kernel, KERNEL, &shared)?;
    settings.initrd.as_ref().map_or(Ok(()), |initrd| root.share(initrd, INITRD, &shared))
}

/// Gives it the rest: its scratch drive, and the snapshot that it is restored from.
pub(super) fn fill(root: &Root, settings: &MachineSettings, snapshot: Option<&Path>) -> io::Result<()> {
    let shared = settings.machines_dir.with_extension("shared");
    if let Some(blank) = settings.blank_drive()? {
        let drive = root.path.join(DRIVE);
        match snapshot {
            // The guest has mounted it already: it must be as it was.
            Some(folder) => scratch::copy(&folder.join(DRIVE), &drive)?,
            None => blank.copy_to(&drive)?,
        }
        root.own(DRIVE)?;
    }
    if let Some(folder) = snapshot {
        root.share(&folder.join(snapshot::STATE), snapshot::STATE, &shared)?;
        root.share(&folder.join(snapshot::MEMORY), snapshot::MEMORY, &shared)?;
    }
    Ok(())
}

pub(super) async fn configure(
    api: &mut Api,
    settings: &MachineSettings,
    tap: Option<&str>,
    reports_free_pages: bool,
) -> Result<(), PrepareError> {
    let limiter = settings.rate_limiter;
    let size = model::MachineConfiguration { vcpu_count: settings.vcpus, mem_size_mib: settings.memory_mib };
    api.put("/machine-config", &size).await?;
    let boot = model::BootSource {
        kernel_image_path: KERNEL,
        boot_args: boot_arguments(settings),
        initrd_path: settings.initrd.is_some().then_some(INITRD),
    };
    api.put("/boot-source", &boot).await?;
    let drive = |id, path, root: bool| model::Drive {
        drive_id: id,
        path_on_host: path,
        is_root_device: root,
        is_read_only: root,
        rate_limiter: limiter,
    };
    api.put("/drives/root", &drive("root", ROOT_IMAGE, true)).await?;
    if matches!(settings.scratch, ScratchSpace::Drive { .. }) {
        api.put("/drives/scratch", &drive("scratch", DRIVE, false)).await?;
    }
    if let Some(tap) = tap {
        let interface = model::NetworkInterface {
            iface_id: "eth0",
            host_dev_name: tap.to_owned(),
            rx_rate_limiter: limiter,
            tx_rate_limiter: limiter,
        };
        api.put("/network-interfaces/eth0", &interface).await?;
    }
    api.put("/vsock", &model::Vsock { guest_cid: GUEST_CID, uds_path: VSOCK }).await?;
    api.put("/entropy", &model::Entropy {}).await?;
    // Empty: for who wants to take memory back from outside. A guest in need gets it before it would kill a process.
    // Asked to, its driver tells which memory the guest has freed, and Firecracker gives that back to the host.
    let balloon = model::Balloon {
        amount_mib: 0,
        deflate_on_oom: true,
        stats_polling_interval_s: 0,
        free_page_reporting: reports_free_pages.then_some(true),
    };
    api.put("/balloon", &balloon).await
}

pub(super) fn boot_arguments(settings: &MachineSettings) -> String {
    // Firecracker itself adds the root drive and its devices.
    settings.kernel_line("reboot=k panic=1 pci=off", "", &format!("vsock:{LINK_PORT}"))
}

pub(super) fn create() -> model::SnapshotCreate {
    model::SnapshotCreate { snapshot_path: snapshot::STATE, mem_file_path: snapshot::MEMORY }
}

pub(super) fn load() -> model::SnapshotLoad {
    model::SnapshotLoad {
        snapshot_path: snapshot::STATE,
        mem_backend: model::MemoryBackend { backend_type: "File", backend_path: snapshot::MEMORY },
        resume_vm: true,
    }
}
