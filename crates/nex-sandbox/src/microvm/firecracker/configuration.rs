//! What a machine is made of: the files in its root folder, and what Firecracker is told of them, in this order: size,
//! kernel, drives, network, vsock, randomness, balloon.

use std::io;
use std::path::Path;

use nex_protocol::machine::LINK_PORT;

use super::api::Api;
use super::jail::Root;
use super::{VSOCK, model, snapshot};
use crate::PrepareError;
use crate::microvm::{MachineSettings, ScratchSpace, scratch};

/// The guest's number on its vsock. Each machine has a vsock of its own: all may have the same.
const GUEST_CID: u32 = 3;

/// Gives a machine what all of them share.
pub(super) fn share(root: &Root, settings: &MachineSettings) -> io::Result<()> {
    let shared = settings.machines_dir.with_extension("shared");
    root.share(&settings.root_image, "root.ext4", &shared)?;
    root.share(&settings.kernel, "kernel", &shared)?;
    settings.initrd.as_ref().map_or(Ok(()), |initrd| root.share(initrd, "initrd", &shared))
}

/// Gives it the rest: its scratch drive, and the snapshot that it is restored from.
pub(super) fn fill(root: &Root, settings: &MachineSettings, snapshot: Option<&Path>) -> io::Result<()> {
    let shared = settings.machines_dir.with_extension("shared");
    if let Some(blank) = settings.blank_drive()? {
        let drive = root.path.join(snapshot::SCRATCH);
        match snapshot {
            // The guest has mounted it already: it must be as it was.
            Some(folder) => scratch::copy(&folder.join(snapshot::SCRATCH), &drive)?,
            None => blank.copy_to(&drive)?,
        }
        root.own(snapshot::SCRATCH)?;
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
) -> Result<(), PrepareError> {
    let limiter = settings.rate_limiter;
    let size = model::MachineConfiguration { vcpu_count: settings.vcpus, mem_size_mib: settings.memory_mib };
    api.put("/machine-config", &size).await?;
    let boot = model::BootSource {
        kernel_image_path: "kernel",
        boot_args: boot_arguments(settings),
        initrd_path: settings.initrd.is_some().then_some("initrd"),
    };
    api.put("/boot-source", &boot).await?;
    let drive = |id, path, root: bool| model::Drive {
        drive_id: id,
        path_on_host: path,
        is_root_device: root,
        is_read_only: root,
        rate_limiter: limiter,
    };
    api.put("/drives/root", &drive("root", "root.ext4", true)).await?;
    if matches!(settings.scratch, ScratchSpace::Drive { .. }) {
        api.put("/drives/scratch", &drive("scratch", snapshot::SCRATCH, false)).await?;
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
    let balloon = model::Balloon { amount_mib: 0, deflate_on_oom: true, stats_polling_interval_s: 0 };
    api.put("/balloon", &balloon).await
}

pub(super) fn boot_arguments(settings: &MachineSettings) -> String {
    // Firecracker itself adds the root drive and its devices.
    let init = if settings.initrd.is_some() { "rdinit=/sbin/nex-init" } else { "init=/sbin/nex-init" };
    let mut text = format!(
        "console=ttyS0 reboot=k panic=1 pci=off quiet {init} nex.link=vsock:{LINK_PORT} {} nex.log={}",
        settings.scratch.argument(),
        settings.log_filter.replace(char::is_whitespace, "")
    );
    if !settings.boot_arguments.is_empty() {
        text.push(' ');
        text.push_str(&settings.boot_arguments);
    }
    text
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
