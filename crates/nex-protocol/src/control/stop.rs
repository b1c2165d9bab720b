//! STOP: end a workload. Only the issuer who deployed it may.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::null_as_default;

/// Request to stop a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StopRequest {
    /// Workload id.
    #[serde(deserialize_with = "null_as_default")]
    pub workload_id: String,
    /// Signed claim; its subject is the workload's name (0.2.7) or id (0.3.0-rc1).
    #[serde(deserialize_with = "null_as_default")]
    pub workload_jwt: String,
    /// Node this is meant for (`node_id` in 0.3.0-rc1).
    #[serde(alias = "node_id", deserialize_with = "null_as_default")]
    pub target_node: String,
}

/// The workload is stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StopResponse {
    /// Always true.
    pub stopped: bool,
    /// Workload id.
    pub id: String,
    /// Public key of the issuer.
    pub issuer: String,
    /// Name of the workload.
    pub name: String,
}
