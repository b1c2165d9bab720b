//! Log entries as published on `$NEX.logs.<ns>.<node>.<workload id>.<workload name>`, one per line of output.

use serde::{Deserialize, Serialize};

/// Severity, spelled as Go's `slog` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// For developers of the workload.
    Debug,
    /// Ordinary output: a service's stdout, `console.log`.
    Info,
    /// Something to look at: a service's stderr, `console.warn`.
    Warn,
    /// Something failed: `console.error`.
    Error,
}

/// One line of a workload's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The line, without its end.
    pub text: String,
    /// Its severity.
    pub level: Level,
    /// Workload id.
    pub id: String,
}
