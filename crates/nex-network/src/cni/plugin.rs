//! One call of a plugin: parameters in its environment, configuration on its standard input, result on its output.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::{NetworkError, program};

/// What a plugin takes is a tenth of a second; one that waits for a lock of the firewall takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a call is about.
pub(super) struct Call<'a> {
    pub(super) program: &'a Path,
    pub(super) plugin: &'a str,
    pub(super) container: &'a str,
    pub(super) namespace: &'a Path,
    pub(super) interface: &'a str,
    pub(super) arguments: &'a str,
    pub(super) bin_paths: &'a [PathBuf],
}

/// What a plugin says when it fails.
#[derive(Deserialize)]
struct Complaint {
    msg: String,
    #[serde(default)]
    details: String,
}

/// The program of a plugin.
///
/// # Errors
/// When no folder has it.
pub(super) fn program(plugin: &str, bin_paths: &[PathBuf]) -> Result<PathBuf, NetworkError> {
    program::find(plugin, bin_paths.iter().map(PathBuf::as_path))
        .ok_or_else(|| NetworkError::NoPlugin { plugin: plugin.to_owned(), searched: program::told(bin_paths) })
}

impl Call<'_> {
    /// Calls it.
    ///
    /// # Errors
    /// With what the plugin says.
    pub(super) fn run(&self, command: &'static str, configuration: &Value) -> Result<Vec<u8>, NetworkError> {
        let failed = |message: String| NetworkError::Plugin { plugin: self.plugin.to_owned(), command, message };
        let joined = |folders: &[PathBuf]| std::env::join_paths(folders).map_err(|error| failed(error.to_string()));
        let mut plugin = Command::new(self.program);
        // Nothing of the node's own environment: it may hold credentials, and plugins have no need of it.
        plugin.env_clear().current_dir("/");
        plugin.env("PATH", joined(&program::search_path())?);
        plugin.env("CNI_PATH", joined(self.bin_paths)?);
        plugin.env("CNI_COMMAND", command).env("CNI_CONTAINERID", self.container).env("CNI_NETNS", self.namespace);
        plugin.env("CNI_IFNAME", self.interface).env("CNI_ARGS", self.arguments);
        let input = configuration.to_string();
        let outcome = program::run(plugin, input.as_bytes(), PATIENCE).map_err(|error| failed(error.to_string()))?;
        if outcome.success {
            return Ok(outcome.output);
        }
        Err(failed(match serde_json::from_slice::<Complaint>(&outcome.output) {
            Ok(complaint) => format!("{} {}", complaint.msg, complaint.details).trim().to_owned(),
            Err(_) if outcome.complaint.is_empty() => String::from_utf8_lossy(&outcome.output).trim().to_owned(),
            Err(_) => outcome.complaint,
        }))
    }
}
