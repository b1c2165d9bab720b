//! From method, path and body to what is wanted of the machine.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::body::{
    ActionInfo, ActionType, Balloon, BalloonStatsUpdate, BalloonUpdate, BootSource, CpuConfig, Drive, DriveUpdate,
    Entropy, HintingStart, Logger, MachineConfig, MachineUpdate, Metrics, MmdsConfig, MmdsVersion, Network,
    NetworkUpdate, Pmem, Serial, SnapshotCreate, SnapshotLoad, Vm, VmState, Vsock,
};
use super::{Refusal, newer};
use crate::version::Version;

/// What is wanted.
#[derive(Debug)]
pub(crate) enum Action {
    Describe,
    TellVersion,
    TellConfig,
    TellMachine,
    TellBalloon,
    TellBalloonStats,
    TellHinting,
    TellMmds,
    Machine(MachineConfig),
    PatchMachine(MachineUpdate),
    BootSource(BootSource),
    CpuConfig,
    Drive(Drive),
    PatchDrive(DriveUpdate),
    Network(Network),
    PatchNetwork(NetworkUpdate),
    Vsock(Vsock),
    Entropy(Entropy),
    Balloon(Balloon),
    PatchBalloon(BalloonUpdate),
    PatchBalloonStats(BalloonStatsUpdate),
    Hinting,
    Logger(Logger),
    Metrics(Metrics),
    Mmds(Value),
    PatchMmds(Value),
    MmdsConfig(MmdsConfig),
    Serial(Serial),
    Pmem(Pmem),
    Unplug,
    Start,
    FlushMetrics,
    CtrlAltDel,
    Pause,
    Resume,
    CreateSnapshot(SnapshotCreate),
    LoadSnapshot(SnapshotLoad),
}

/// An action, and whether it was asked for in a way that will go.
#[derive(Debug)]
pub(crate) struct Routed {
    pub(crate) action: Action,
    pub(crate) deprecated: bool,
}

/// Finds out what is wanted.
pub(super) fn route(version: Version, method: &str, path: &str, body: &[u8]) -> Result<Routed, Refusal> {
    let parts: Vec<&str> = path.trim_start_matches('/').split_terminator('/').collect();
    let request = Request { version, method, path: &parts, body };
    if !newer::knows(version, &parts) {
        return Err(request.unknown());
    }
    let mut deprecated = false;
    let action = match method {
        "GET" => request.get()?,
        "PUT" => request.put(&mut deprecated)?,
        "PATCH" => request.patch(&mut deprecated)?,
        "DELETE" => request.delete()?,
        _ => return Err(Refusal::new("Invalid HTTP Method.")),
    };
    Ok(Routed { action, deprecated })
}

struct Request<'a> {
    version: Version,
    method: &'a str,
    path: &'a [&'a str],
    body: &'a [u8],
}

impl Request<'_> {
    fn unknown(&self) -> Refusal {
        Refusal::new(format!("Invalid request method and/or path: {} {}.", self.method, self.path.join("/")))
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let value: Value = serde_json::from_slice(self.body).map_err(Refusal::body)?;
        newer::refuse(self.version, self.path, &value)?;
        // From the text and not from the value: a field that is there twice is refused.
        serde_json::from_slice(self.body).map_err(Refusal::body)
    }

    fn get(&self) -> Result<Action, Refusal> {
        if !self.body.is_empty() {
            return Err(Refusal::new("GET request cannot have a body."));
        }
        match self.path {
            [] => Ok(Action::Describe),
            ["version"] => Ok(Action::TellVersion),
            ["vm", "config"] => Ok(Action::TellConfig),
            ["machine-config"] => Ok(Action::TellMachine),
            ["balloon"] => Ok(Action::TellBalloon),
            ["balloon", "statistics"] => Ok(Action::TellBalloonStats),
            ["balloon", "hinting", "status"] => Ok(Action::TellHinting),
            ["mmds"] => Ok(Action::TellMmds),
            _ => Err(self.unknown()),
        }
    }

    fn put(&self, deprecated: &mut bool) -> Result<Action, Refusal> {
        if self.body.is_empty() {
            return Err(Refusal::new("Empty PUT request."));
        }
        match self.path {
            ["actions"] => Ok(match self.read::<ActionInfo>()?.action_type {
                ActionType::InstanceStart => Action::Start,
                ActionType::FlushMetrics => Action::FlushMetrics,
                ActionType::SendCtrlAltDel => Action::CtrlAltDel,
            }),
            ["balloon"] => self.read().map(Action::Balloon),
            ["boot-source"] => self.read().map(Action::BootSource),
            ["cpu-config"] => self.read::<CpuConfig>().map(|_| Action::CpuConfig),
            ["drives", ..] => {
                let id = self.id()?;
                let drive: Drive = self.read()?;
                same(id, &drive.drive_id)?;
                Ok(Action::Drive(drive))
            }
            ["network-interfaces", ..] => {
                let id = self.id()?;
                let network: Network = self.read()?;
                same(id, &network.iface_id)?;
                Ok(Action::Network(network))
            }
            ["pmem", ..] => {
                let id = self.id()?;
                let pmem: Pmem = self.read()?;
                same(id, &pmem.id)?;
                Ok(Action::Pmem(pmem))
            }
            ["logger"] => self.read().map(Action::Logger),
            ["serial"] => self.read().map(Action::Serial),
            ["metrics"] => self.read().map(Action::Metrics),
            ["machine-config"] => {
                let machine: MachineConfig = self.read()?;
                *deprecated = machine.cpu_template.is_some();
                Ok(Action::Machine(machine))
            }
            ["mmds"] => self.read().map(Action::Mmds),
            ["mmds", "config"] => {
                let config: MmdsConfig = self.read()?;
                *deprecated = config.version == MmdsVersion::V1;
                Ok(Action::MmdsConfig(config))
            }
            ["vsock"] => {
                let vsock: Vsock = self.read()?;
                *deprecated = vsock.vsock_id.is_some();
                Ok(Action::Vsock(vsock))
            }
            ["entropy"] => self.read().map(Action::Entropy),
            ["snapshot", "create"] => self.read().map(Action::CreateSnapshot),
            ["snapshot", "load"] => self.load(deprecated),
            ["snapshot"] => Err(Refusal::new("Missing snapshot operation type.")),
            _ => Err(self.unknown()),
        }
    }

    fn load(&self, deprecated: &mut bool) -> Result<Action, Refusal> {
        let load: SnapshotLoad = self.read()?;
        match (&load.mem_backend, &load.mem_file_path) {
            (Some(_), Some(_)) => {
                let both = "too many fields: either `mem_backend` or `mem_file_path` exclusively is required";
                return Err(Refusal::body(both));
            }
            (None, None) => {
                let none = "missing field: either `mem_backend` or `mem_file_path` is required";
                return Err(Refusal::body(none));
            }
            _ => {}
        }
        *deprecated = load.mem_file_path.is_some() || self.version >= Version::PCI && load.enable_diff_snapshots;
        Ok(Action::LoadSnapshot(load))
    }

    fn patch(&self, deprecated: &mut bool) -> Result<Action, Refusal> {
        match self.path {
            ["balloon", "hinting", "stop"] => return Ok(Action::Hinting),
            ["balloon", "hinting", "start"] if self.body.is_empty() => return Ok(Action::Hinting),
            _ if self.body.is_empty() => return Err(Refusal::new("Empty PATCH request.")),
            _ => {}
        }
        match self.path {
            ["balloon"] => self.read().map(Action::PatchBalloon),
            ["balloon", "statistics"] => self.read().map(Action::PatchBalloonStats),
            ["balloon", "hinting", "start"] => self.read::<HintingStart>().map(|_| Action::Hinting),
            ["drives", ..] => {
                let id = self.id()?;
                let update: DriveUpdate = self.read()?;
                same(id, &update.drive_id)?;
                Ok(Action::PatchDrive(update))
            }
            ["network-interfaces", ..] => {
                let id = self.id()?;
                let update: NetworkUpdate = self.read()?;
                same(id, &update.iface_id)?;
                Ok(Action::PatchNetwork(update))
            }
            ["machine-config"] => {
                let update: MachineUpdate = self.read()?;
                if update == MachineUpdate::default() {
                    return Err(Refusal::new("Empty PATCH request."));
                }
                *deprecated = update.cpu_template.is_some();
                Ok(Action::PatchMachine(update))
            }
            ["mmds"] => self.read().map(Action::PatchMmds),
            ["vm"] => Ok(match self.read::<Vm>()?.state {
                VmState::Paused => Action::Pause,
                VmState::Resumed => Action::Resume,
            }),
            _ => Err(self.unknown()),
        }
    }

    fn delete(&self) -> Result<Action, Refusal> {
        match self.path {
            ["drives" | "pmem" | "network-interfaces", _] if self.version >= Version::HOTPLUG => Ok(Action::Unplug),
            _ => Err(self.unknown()),
        }
    }

    /// The id in the path: letters, digits and underscores. A hyphen, which names of machines may have, is refused.
    fn id(&self) -> Result<&str, Refusal> {
        match self.path {
            [_, id] if id.chars().all(|letter| letter == '_' || letter.is_alphanumeric()) && !id.is_empty() => Ok(id),
            [_] | [_, ""] => Err(Refusal::new("The ID cannot be empty.")),
            [_, _] => Err(Refusal::new("API Resource IDs can only contain alphanumeric characters and underscores.")),
            _ => Err(self.unknown()),
        }
    }
}

fn same(path: &str, body: &str) -> Result<(), Refusal> {
    if path == body {
        return Ok(());
    }
    Err(Refusal::new(format!("The id from the path [{path}] does not match the id from the body [{body}]!")))
}
