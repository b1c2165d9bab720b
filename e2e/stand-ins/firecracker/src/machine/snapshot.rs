//! Snapshots: a state file that only the same format reads, and a memory file of the machine's size with nothing in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::resources::{Config, Resources};
use crate::api::body::{HugePages, SnapshotCreate, SnapshotLoad, SnapshotType};
use crate::version::Version;

const MAGIC: &str = "firecracker-stand-in";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    magic: String,
    format: u32,
    identity: String,
    arguments: String,
    linked: bool,
    config: Config,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum CreateError {
    #[error("Cannot perform open on the snapshot backing file: {0}")]
    State(io::Error),
    #[error("Cannot perform open on the memory backing file: {0}")]
    Memory(io::Error),
    #[error("Cannot get dirty bitmap: the machine was configured without track_dirty_pages")]
    NotTracked,
}

/// Writes both files.
pub(super) fn create(
    version: Version,
    create: &SnapshotCreate,
    config: &Config,
    arguments: String,
    linked: bool,
) -> Result<(), CreateError> {
    let difference = create.snapshot_type == SnapshotType::Diff;
    if difference && !config.machine.track_dirty_pages && version < Version::PCI {
        return Err(CreateError::NotTracked);
    }
    let state = State {
        magic: MAGIC.to_owned(),
        format: version.snapshot_format(),
        identity: identity().map_err(CreateError::State)?,
        arguments,
        linked,
        config: config.clone(),
    };
    let text = serde_json::to_vec(&state).map_err(|error| CreateError::State(error.into()))?;
    let mut file = overwrite(&create.snapshot_path).map_err(CreateError::State)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(CreateError::State)?;
    let memory = overwrite(&create.mem_file_path).map_err(CreateError::Memory)?;
    memory.set_len(config.machine.mem_size_mib * 1024 * 1024).map_err(CreateError::Memory)
}

fn overwrite(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(true).open(path)
}

/// Names this snapshot, also where its file is known under other names.
fn identity() -> io::Result<String> {
    let mut bytes = [0_u8; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

/// Why a snapshot cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("Failed to get snapshot state from file: Failed to open snapshot file: {0}")]
    Open(io::Error),
    #[error("Failed to get snapshot state from file: Failed to load snapshot state from file: {0}")]
    Parse(String),
    #[error(
        "Failed to get snapshot state from file: Failed to load snapshot state from file: Invalid data version: {0}.0.0"
    )]
    Format(u32),
    #[error("Failed to get snapshot state from file: Unknown Network Device.")]
    UnknownNetwork,
    #[error("Failed to get snapshot state from file: Unknown Vsock Device.")]
    UnknownVsock,
    #[error("Failed to load guest memory: Error creating guest memory from file: Failed to load guest memory: {0}")]
    Memory(io::Error),
    #[error("Failed to load guest memory: the file has {found} bytes, the machine {expected}")]
    Size { found: u64, expected: u64 },
    #[error("Cannot restore hugetlbfs backed snapshot by mapping the memory file. Please use uffd.")]
    HugePages,
    #[error("{0}")]
    Devices(String),
}

/// What a loaded machine goes on with.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) identity: String,
    pub(super) arguments: String,
    /// An agent had its link when the snapshot was made.
    pub(super) linked: bool,
}

/// Reads both files and opens what they name.
pub(super) fn load(
    version: Version,
    load: &SnapshotLoad,
    resources: &mut Resources,
    binds: bool,
) -> Result<Restored, LoadError> {
    let text = std::fs::read(&load.snapshot_path).map_err(LoadError::Open)?;
    let state: State = serde_json::from_slice(&text).map_err(|error| LoadError::Parse(error.to_string()))?;
    if state.magic != MAGIC {
        return Err(LoadError::Parse("Magic value does not match arch".to_owned()));
    }
    if state.format != version.snapshot_format() {
        return Err(LoadError::Format(state.format));
    }
    let mut config = state.config;
    for change in &load.network_overrides {
        let network = config.networks.iter_mut().find(|network| network.iface_id == change.iface_id);
        network.ok_or(LoadError::UnknownNetwork)?.host_dev_name.clone_from(&change.host_dev_name);
    }
    if let Some(change) = &load.vsock_override {
        config.vsock.as_mut().ok_or(LoadError::UnknownVsock)?.uds_path.clone_from(&change.uds_path);
    }
    if config.machine.huge_pages == HugePages::TwoMebibytes {
        return Err(LoadError::HugePages);
    }
    let memory: &PathBuf = match (&load.mem_backend, &load.mem_file_path) {
        (Some(backend), _) => &backend.backend_path,
        (None, Some(path)) => path,
        (None, None) => return Err(LoadError::Memory(io::ErrorKind::NotFound.into())),
    };
    let found = File::open(memory).and_then(|file| file.metadata()).map_err(LoadError::Memory)?.len();
    let expected = config.machine.mem_size_mib * 1024 * 1024;
    if found != expected {
        return Err(LoadError::Size { found, expected });
    }
    config.machine.track_dirty_pages = load.track_dirty_pages || load.enable_diff_snapshots;
    // A restored machine does not know what it was booted from.
    config.boot = None;
    resources.restore(config, binds).map_err(LoadError::Devices)?;
    Ok(Restored { identity: state.identity, arguments: state.arguments, linked: state.linked })
}
