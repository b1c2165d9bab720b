//! The machine: what may be asked of it when.
//!
//! ```text
//! configured --InstanceStart--> running <--PATCH /vm--> paused --/snapshot/create--> paused
//!     |                                                   ^
//!     +---------/snapshot/load (nothing configured)-------+
//! ```
//! A load that fails is fatal, as in Firecracker: the answer goes out and the process ends.

mod image;
mod resources;
mod running;
mod snapshot;
mod tap;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::body::{BackendType, MachineUpdate, SnapshotLoad};
use crate::api::{Action, Answer, Refusal};
use crate::guest::{self, Boot, Guest};
use crate::monitor::Started;
use crate::settings::{Faults, Settings};
use crate::version::Version;
use resources::Resources;

/// What Firecracker ends with when something went wrong that is not the guest's end.
const FAILED: i32 = 1;

/// One machine.
pub(crate) struct Machine {
    started: Started,
    settings: Settings,
    resources: Resources,
    /// Something was configured that a snapshot would bring.
    touched: bool,
    guest: Option<Guest>,
    mmds: Value,
    log: Option<File>,
    metrics: Option<File>,
    serial: Option<File>,
    fatal: Option<i32>,
}

/// Writes lines of metrics as Firecracker does: each counts from the one before, but for system calls that were refused.
async fn tell_metrics(mut file: File, every_ms: u64) {
    let line = json!({
        "utc_timestamp_ms": 0,
        "block": { "read_bytes": 4096, "write_bytes": 512, "rate_limiter_throttled_events": 1, "event_fails": 0 },
        "block_root": { "read_bytes": 4096 },
        "net": { "rx_bytes_count": 0, "tx_bytes_count": 0, "rx_rate_limiter_throttled": 0, "tx_rate_limiter_throttled": 0 },
        "vsock": { "rx_bytes_count": 100, "tx_bytes_count": 50, "muxer_event_fails": 0 },
        "seccomp": { "num_faults": 0 },
        "vcpu": { "failures": 0 },
    });
    loop {
        tokio::time::sleep(Duration::from_millis(every_ms)).await;
        // Nobody may read them.
        if writeln!(file, "{line}").is_err() {
            return;
        }
    }
}

impl Machine {
    /// One that has nothing yet.
    pub(crate) fn new(started: Started, settings: Settings) -> Self {
        Self {
            started,
            settings,
            resources: Resources::default(),
            touched: false,
            guest: None,
            mmds: Value::Null,
            log: None,
            metrics: None,
            serial: None,
            fatal: None,
        }
    }

    /// What goes wrong.
    pub(crate) fn faults(&self) -> &Faults {
        &self.settings.faults
    }

    /// What is played.
    pub(crate) fn version(&self) -> Version {
        self.settings.version
    }

    /// What the process is to end with once the answer is out.
    pub(crate) fn fatal(&self) -> Option<i32> {
        self.fatal
    }

    /// Opens what the command line names.
    pub(crate) fn log_to(&mut self, log: Option<&str>, metrics: Option<&str>) -> Result<(), String> {
        let open = |path: &str| self.open_output(Path::new(path)).map_err(|error| format!("{path}: {error}"));
        let (log, metrics) = (log.map(open).transpose()?, metrics.map(open).transpose()?);
        (self.log, self.metrics) = (log, metrics);
        Ok(())
    }

    /// A line of the monitor's own log: it goes where the guest's console goes while no file was named.
    pub(crate) fn note(&mut self, what: &str) {
        let line = format!("[{}:main] {what}\n", self.started.id);
        let _ = match &mut self.log {
            Some(log) => log.write_all(line.as_bytes()),
            None => io::stdout().write_all(line.as_bytes()),
        };
    }

    /// A file or pipe that is written to. Early versions do not make it.
    fn open_output(&self, path: &Path) -> io::Result<File> {
        let makes = self.version() >= Version::SERIAL;
        OpenOptions::new().read(true).append(true).create(makes).open(path)
    }

    /// Does what is asked.
    pub(crate) fn handle(&mut self, action: Action) -> Result<Answer, Refusal> {
        match action {
            Action::Describe => Ok(Answer::Json(json!({
                "id": self.started.id,
                "state": self.guest.as_ref().map_or("Not started", Guest::state),
                "vmm_version": self.version().to_string(),
                "app_name": "Firecracker",
            }))),
            Action::TellVersion => Ok(Answer::Json(json!({ "firecracker_version": self.version().to_string() }))),
            Action::TellMachine => Ok(Answer::Json(json!(self.resources.config.machine))),
            Action::TellConfig => Ok(Answer::Json(self.resources.config.told())),
            Action::TellBalloon => {
                let balloon = self.resources.config.balloon.as_ref();
                let balloon = balloon.ok_or_else(|| Refusal::new("Balloon config error: No balloon device found."))?;
                Ok(Answer::Json(json!(balloon)))
            }
            action if self.guest.is_some() => self.handle_running(action),
            action => self.handle_configured(action),
        }
    }

    fn handle_configured(&mut self, action: Action) -> Result<Answer, Refusal> {
        // As in Firecracker, also what is refused in the end counts as configured.
        self.touched |= matches!(
            action,
            Action::BootSource(_)
                | Action::Drive(_)
                | Action::Network(_)
                | Action::Pmem(_)
                | Action::Balloon(_)
                | Action::MmdsConfig(_)
                | Action::Machine(_)
                | Action::PatchMachine(_)
                | Action::Vsock(_)
                | Action::Entropy(_)
        );
        match action {
            Action::Machine(machine) => self.resources.update_machine(&MachineUpdate {
                vcpu_count: Some(machine.vcpu_count),
                mem_size_mib: Some(machine.mem_size_mib),
                smt: Some(machine.smt),
                cpu_template: machine.cpu_template,
                track_dirty_pages: Some(machine.track_dirty_pages),
                huge_pages: Some(machine.huge_pages),
            })?,
            Action::PatchMachine(update) => self.resources.update_machine(&update)?,
            Action::BootSource(boot) => self.resources.set_boot(boot)?,
            Action::Drive(drive) => self.resources.set_drive(drive)?,
            Action::Network(network) => self.resources.set_network(network)?,
            Action::Vsock(vsock) => {
                let binds = !self.settings.faults.never_bind_vsock;
                self.resources.set_vsock(vsock, binds)?;
            }
            Action::Entropy(entropy) => self.resources.config.entropy = Some(entropy),
            Action::Balloon(balloon) => self.resources.set_balloon(balloon)?,
            Action::Pmem(pmem) => self.resources.set_pmem(pmem)?,
            Action::MmdsConfig(config) => self.resources.set_mmds(config)?,
            Action::CpuConfig => {}
            Action::Logger(logger) => {
                if let Some(path) = logger.log_path {
                    let log = self.open_output(&path);
                    self.log = Some(log.map_err(|error| Refusal::new(format!("Logger error: {error}")))?);
                }
            }
            Action::Metrics(metrics) => {
                let refused = |what: String| {
                    let why = "Cannot initialize the metrics system due to bad user input";
                    Refusal::new(format!("Metrics error: {why}: {what}"))
                };
                if self.metrics.is_some() {
                    return Err(refused("Reinitialization of metrics not allowed.".to_owned()));
                }
                let file = self.open_output(&metrics.metrics_path).map_err(|e| refused(e.to_string()))?;
                let own = file.try_clone().map_err(|e| refused(e.to_string()))?;
                tokio::spawn(tell_metrics(own, self.settings.metrics_ms));
                self.metrics = Some(file);
            }
            Action::Serial(serial) => {
                self.serial = match serial.serial_out_path {
                    Some(path) => Some(self.open_output(&path).map_err(|e| Refusal::new(format!("Serial: {e}")))?),
                    None => None,
                };
            }
            Action::Mmds(value) => self.put_mmds(value)?,
            Action::PatchMmds(value) => self.patch_mmds(&value)?,
            Action::TellMmds => return Ok(self.tell_mmds()),
            Action::Start => self.start()?,
            Action::LoadSnapshot(load) => self.load(&load)?,
            _ => {
                let early = "The requested operation is not supported before starting the microVM.";
                return Err(Refusal::new(early));
            }
        }
        Ok(Answer::Done)
    }

    fn start(&mut self) -> Result<(), Refusal> {
        let refused = |what: String| Refusal::new(format!("Start microvm error: {what}"));
        let boot = self.resources.config.boot.as_ref();
        let boot = boot.ok_or_else(|| refused("Cannot start microvm without kernel configuration.".to_owned()))?;
        if self.settings.faults.out_of_memory {
            let what = "Invalid Memory Configuration: Cannot create mmap region: Cannot allocate memory (os error 12)";
            return Err(refused(what.to_owned()));
        }
        image::check_kernel(Path::new(&boot.kernel_image_path)).map_err(|error| {
            let what = "Cannot load kernel due to invalid memory configuration or invalid kernel image";
            refused(format!(
                "System configuration error: {what}: Kernel Loader: failed to load ELF kernel image: {error}"
            ))
        })?;
        let arguments = boot.boot_args.clone().unwrap_or_else(|| guest::DEFAULT_ARGUMENTS.to_owned());
        let panic = match (self.resources.config.root(), &boot.initrd_path) {
            (Some(root), _) if !image::is_ext4(Path::new(root)) => Some("VFS: Cannot open root device \"vda\""),
            (None, None) => Some("VFS: Unable to mount root fs on unknown-block(0,0)"),
            _ if self.settings.faults.no_init => Some("No working init found"),
            _ => None,
        };
        self.note("The request was executed successfully. Status code: 204 No Content.");
        self.begin(Boot::Cold { arguments, panic: panic.map(str::to_owned) }, true)
    }

    fn load(&mut self, load: &SnapshotLoad) -> Result<(), Refusal> {
        let refused = |what: String| Refusal::new(format!("Load snapshot error: {what}"));
        if self.touched {
            let what = "Loading a microVM snapshot not allowed after configuring boot-specific resources.";
            return Err(refused(what.to_owned()));
        }
        if load.mem_backend.as_ref().is_some_and(|backend| backend.backend_type == BackendType::Uffd) {
            return Err(refused("the stand-in does not play Uffd".to_owned()));
        }
        let version = self.version();
        let binds = !self.settings.faults.never_bind_vsock;
        let restored = snapshot::load(version, load, &mut self.resources, binds).map_err(|error| {
            self.fatal = Some(FAILED);
            refused(format!("Failed to restore from snapshot: {error}"))
        })?;
        let births = self.settings.births.clone();
        let births = births.map_or_else(
            || load.snapshot_path.with_extension("births"),
            |folder| folder.join(format!("{}.births", restored.identity)),
        );
        let boot = Boot::Restored { arguments: restored.arguments, births, linked: restored.linked };
        self.begin(boot, load.resume_vm)
    }

    /// Lets the guest run.
    fn begin(&mut self, boot: Boot, running: bool) -> Result<(), Refusal> {
        let listener = self.resources.take_listener();
        let plan = guest::Plan {
            boot,
            listener,
            agent: self.settings.agent.clone(),
            faults: self.settings.faults.clone(),
            boot_ms: self.settings.boot_ms,
            serial: self.serial.take(),
        };
        let guest = guest::begin(plan, running);
        self.guest = Some(guest.map_err(|error| Refusal::new(format!("Start microvm error: {error}")))?);
        Ok(())
    }

    fn tell_mmds(&self) -> Answer {
        if self.mmds.is_null() { Answer::Json(json!({})) } else { Answer::Json(self.mmds.clone()) }
    }

    fn put_mmds(&mut self, value: Value) -> Result<(), Refusal> {
        if value.to_string().len() > self.started.mmds_limit {
            let message = "MMDS limit exceeded error: The MMDS patch request doesn't fit.".to_owned();
            return Err(Refusal { status: 413, message });
        }
        self.mmds = value;
        Ok(())
    }

    fn patch_mmds(&mut self, patch: &Value) -> Result<(), Refusal> {
        if self.mmds.is_null() {
            return Err(Refusal::new("MMDS error: The MMDS data store is not initialized."));
        }
        let mut merged = self.mmds.clone();
        merge(&mut merged, patch);
        self.put_mmds(merged)
    }
}

/// A JSON merge patch (RFC 7396).
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let Value::Object(into) = into else { return };
    for (name, value) in patch {
        if value.is_null() {
            into.remove(name);
        } else {
            merge(into.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}
