//! Log entries as published on `$NEX.logs.<ns>.<node>.<workload id>.<workload name>`, one per line of output.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Severity, spelled as Go's `slog` spells it.
///
/// Go Nex also sends levels between these (`INFO+2`, `WARN+1`); they read as the one they are above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE", try_from = "String")]
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

/// The text names no level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no log level: use DEBUG, INFO, WARN or ERROR")]
pub struct UnknownLevel(pub String);

impl TryFrom<String> for Level {
    type Error = UnknownLevel;

    fn try_from(text: String) -> Result<Self, UnknownLevel> {
        let (name, offset) = text.split_at(text.find(['+', '-']).unwrap_or(text.len()));
        let base = match name.to_ascii_uppercase().as_str() {
            "DEBUG" => -4_i32,
            "INFO" => 0,
            "WARN" => 4,
            "ERROR" => 8,
            _ => return Err(UnknownLevel(text)),
        };
        let offset = if offset.is_empty() { Ok(0) } else { offset.parse::<i32>() };
        match offset.map(|offset| base.saturating_add(offset)) {
            Ok(..0) => Ok(Self::Debug),
            Ok(0..4) => Ok(Self::Info),
            Ok(4..8) => Ok(Self::Warn),
            Ok(8..) => Ok(Self::Error),
            Err(_) => Err(UnknownLevel(text)),
        }
    }
}

/// One line of a workload's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    /// The line, without its end.
    pub text: String,
    /// Its severity.
    pub level: Level,
    /// Workload id.
    pub id: String,
}
