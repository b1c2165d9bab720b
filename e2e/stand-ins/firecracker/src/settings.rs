//! What a test wants of the stand-in: `stand-in.json` beside the program, for a driver clears the environment.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::version::{NoVersion, Version};

/// Name of the file.
pub const FILE: &str = "stand-in.json";

/// Overrides the version of the file, where the environment reaches the stand-in.
pub const VERSION_VARIABLE: &str = "NEX_STAND_IN_VERSION";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    version: Option<String>,
    agent: Option<PathBuf>,
    births: Option<PathBuf>,
    allow_no_seccomp: bool,
    boot_ms: Option<u64>,
    metrics_ms: Option<u64>,
    faults: Faults,
}

/// How the stand-in behaves.
#[derive(Debug)]
pub struct Settings {
    /// What is played.
    pub version: Version,
    /// The agent that the guest starts.
    pub agent: PathBuf,
    /// Folder where entropy that guests were born with is noted; beside each snapshot when none is given.
    pub births: Option<PathBuf>,
    /// `--no-seccomp` is taken.
    pub allow_no_seccomp: bool,
    /// Time from the start of the instance to a guest that listens.
    pub boot_ms: u64,
    /// Time between two lines of metrics.
    pub metrics_ms: u64,
    /// What goes wrong.
    pub faults: Faults,
}

/// What goes wrong.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Ends before the API's socket is there.
    pub die_at_start: bool,
    /// Ends in the middle of the boot.
    pub die_during_boot: bool,
    /// Ends this long after the agent was started.
    pub die_after_ms: Option<u64>,
    /// The monitor takes memory without end, this long after the agent was started.
    pub eat_memory_after_ms: Option<u64>,
    /// The vsock device is accepted, and its socket never made.
    pub never_bind_vsock: bool,
    /// `CONNECT` gets no answer.
    pub never_answer_connect: bool,
    /// `CONNECT` gets an answer that is none.
    pub garbage_for_ok: bool,
    /// The guest's console never stops.
    pub flood_console: bool,
    /// The host has no memory for the machine.
    pub out_of_memory: bool,
    /// The image has no first process.
    pub no_init: bool,
    /// Paths that are answered with 400.
    pub refuse: Vec<String>,
    /// Paths that get no answer.
    pub hang: Vec<String>,
}

/// The stand-in cannot tell how to behave.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Where it is, is not known.
    #[error("the stand-in does not find itself: {0}")]
    Itself(io::Error),
    /// The file is there and cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, io::Error),
    /// The file is not understood.
    #[error("{0} is not understood: {1}")]
    Parse(PathBuf, serde_json::Error),
    /// No such version.
    #[error(transparent)]
    Version(#[from] NoVersion),
}

impl Settings {
    /// From the file beside this program and the environment.
    ///
    /// # Errors
    /// When the file is there and wrong.
    pub fn load() -> Result<Self, SettingsError> {
        let program = std::env::current_exe().map_err(SettingsError::Itself)?;
        let folder = program.parent().unwrap_or(Path::new("/"));
        let file = folder.join(FILE);
        let written = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| SettingsError::Parse(file, error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Written::default(),
            Err(error) => return Err(SettingsError::Read(file, error)),
        };
        let version = std::env::var(VERSION_VARIABLE).ok().or(written.version);
        Ok(Self {
            version: version.map_or(Ok(Version::NEWEST), |version| version.parse())?,
            agent: written.agent.unwrap_or_else(|| folder.join("nex-agent")),
            births: written.births,
            allow_no_seccomp: written.allow_no_seccomp,
            boot_ms: written.boot_ms.unwrap_or(30),
            metrics_ms: written.metrics_ms.unwrap_or(60_000),
            faults: written.faults,
        })
    }
}
