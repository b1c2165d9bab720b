//! Requests and replies of the control interface, one module a command.
//!
//! Shapes, field names and field order are those of Go Nex 0.2.7; fields of 0.3.0-rc1 and ours come after them and
//! are optional. `null` where a list, map or text is expected reads as empty: Go writes it for nil.

pub mod auction;
pub mod deploy;
pub mod info;
pub mod lame_duck;
pub mod limits;
pub mod ping;
pub mod stop;
pub mod workload_ping;

use serde::{Deserialize, Deserializer};

/// Reads `null` as the type's default.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
