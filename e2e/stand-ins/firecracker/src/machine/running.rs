//! What may be asked of a machine that runs or is paused.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::{Machine, snapshot};
use crate::api::body::{DriveUpdate, SnapshotCreate};
use crate::api::{Action, Answer, Refusal};
use crate::version::Version;

impl Machine {
    pub(super) fn handle_running(&mut self, action: Action) -> Result<Answer, Refusal> {
        let Some(guest) = &self.guest else { return Err(Refusal::new("there is no guest")) };
        match action {
            Action::Pause => guest.pause(),
            Action::Resume => guest.resume(),
            Action::CtrlAltDel => guest.ctrl_alt_del(),
            Action::CreateSnapshot(create) => self.snapshot(&create)?,
            Action::FlushMetrics => {
                if let Some(metrics) = &mut self.metrics {
                    let line = json!({ "utc_timestamp_ms": 0, "api_server": {}, "vmm": { "panic_count": 0 } });
                    let written = writeln!(metrics, "{line}");
                    written.map_err(|error| Refusal::new(format!("Internal VMM error: Metrics error: {error}")))?;
                }
            }
            Action::TellBalloonStats => return self.tell_balloon_stats(),
            Action::TellHinting => {
                self.hinting_enabled()?;
                return Ok(Answer::Json(json!({ "host_cmd": 0, "guest_cmd": null })));
            }
            Action::Hinting => self.hinting_enabled()?,
            Action::PatchBalloon(update) => {
                let most = self.resources.config.machine.mem_size_mib;
                let balloon = self.resources.config.balloon.as_mut().ok_or_else(no_balloon)?;
                if u64::from(update.amount_mib) > most {
                    return Err(Refusal::new("Balloon update error: Amount of pages requested is too large."));
                }
                balloon.amount_mib = update.amount_mib;
            }
            Action::PatchBalloonStats(update) => {
                let balloon = self.resources.config.balloon.as_mut().ok_or_else(no_balloon)?;
                if (balloon.stats_polling_interval_s == 0) != (update.stats_polling_interval_s == 0) {
                    let what = "Statistics cannot be enabled/disabled after activation.";
                    return Err(Refusal::new(format!("Balloon update error: {what}")));
                }
                balloon.stats_polling_interval_s = update.stats_polling_interval_s;
            }
            Action::PatchDrive(update) => self.update_drive(update)?,
            Action::PatchNetwork(update) => {
                let networks = &mut self.resources.config.networks;
                let network = networks.iter_mut().find(|network| network.iface_id == update.iface_id);
                let network = network.ok_or_else(|| {
                    Refusal::new("Network config error: Unable to update the net device: device not found")
                })?;
                network.rx_rate_limiter = update.rx_rate_limiter.or(network.rx_rate_limiter.take());
                network.tx_rate_limiter = update.tx_rate_limiter.or(network.tx_rate_limiter.take());
            }
            Action::TellMmds if self.resources.config.mmds.is_some() => return Ok(self.tell_mmds()),
            Action::Mmds(value) if self.resources.config.mmds.is_some() => self.put_mmds(value)?,
            Action::PatchMmds(value) if self.resources.config.mmds.is_some() => self.patch_mmds(&value)?,
            Action::TellMmds | Action::Mmds(_) | Action::PatchMmds(_) => {
                return Err(Refusal::new("MMDS error: The MMDS data store is not initialized."));
            }
            Action::Drive(_) | Action::Network(_) | Action::Pmem(_) | Action::Unplug
                if self.version() >= Version::HOTPLUG =>
            {
                let what = if self.started.pci { "the stand-in does not play hotplug" } else { "PCI is not enabled" };
                return Err(Refusal::new(what));
            }
            _ => {
                let late = "The requested operation is not supported after starting the microVM.";
                return Err(Refusal::new(late));
            }
        }
        Ok(Answer::Done)
    }

    fn tell_balloon_stats(&self) -> Result<Answer, Refusal> {
        let balloon = self.resources.config.balloon.as_ref().ok_or_else(no_balloon)?;
        if balloon.stats_polling_interval_s == 0 {
            return Err(Refusal::new("Internal VMM error: Received stats query when stats are disabled."));
        }
        let memory = self.resources.config.machine.mem_size_mib * 1024 * 1024;
        Ok(Answer::Json(json!({
            "target_pages": u64::from(balloon.amount_mib) * 256,
            "actual_pages": u64::from(balloon.amount_mib) * 256,
            "target_mib": balloon.amount_mib,
            "actual_mib": balloon.amount_mib,
            "free_memory": memory / 2,
            "total_memory": memory,
            "available_memory": memory / 2,
        })))
    }

    fn hinting_enabled(&self) -> Result<(), Refusal> {
        let balloon = self.resources.config.balloon.as_ref().ok_or_else(no_balloon)?;
        if balloon.free_page_hinting {
            return Ok(());
        }
        Err(Refusal::new("Balloon update error: Attempting to use hinting when not enabled"))
    }

    fn update_drive(&mut self, update: DriveUpdate) -> Result<(), Refusal> {
        let refused = |what: &str| {
            let hint = "Please verify the request arguments.";
            Refusal::new(format!("Drive config error: Unable to patch the block device: {what} {hint}"))
        };
        let drives = &mut self.resources.config.drives;
        let drive = drives.iter_mut().find(|drive| drive.drive_id == update.drive_id);
        let drive = drive.ok_or_else(|| refused("device not found"))?;
        if update.path_on_host.is_none() && update.rate_limiter.is_none() {
            return Err(refused("Running method expected different backend."));
        }
        if let Some(path) = update.path_on_host {
            let writes = !drive.is_read_only.unwrap_or(false);
            let opened = std::fs::OpenOptions::new().read(true).write(writes).open(Path::new(&path));
            opened.map_err(|error| refused(&format!("{error} {path}")))?;
            drive.path_on_host = Some(path);
        }
        drive.rate_limiter = update.rate_limiter.or(drive.rate_limiter.take());
        Ok(())
    }

    fn snapshot(&mut self, create: &SnapshotCreate) -> Result<(), Refusal> {
        let refused = |what: String| Refusal::new(format!("Create snapshot error: {what}"));
        let Some(guest) = &self.guest else { return Err(refused("there is no guest".to_owned())) };
        if !guest.is_paused() {
            let what = "Cannot save the microVM state: Operation not allowed";
            return Err(refused(format!("{what}: save/restore unavailable while running")));
        }
        let linked = guest.is_linked();
        let arguments = guest.arguments().to_owned();
        snapshot::create(self.version(), create, &self.resources.config, arguments, linked)
            .map_err(|error| refused(error.to_string()))?;
        guest.reset_connections();
        Ok(())
    }
}

fn no_balloon() -> Refusal {
    Refusal::new("Balloon update error: No balloon device found.")
}
