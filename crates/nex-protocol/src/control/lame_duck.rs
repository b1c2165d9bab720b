//! LAMEDUCK: a node takes no new work, lets what runs go on for a while, then leaves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::null_as_default;

/// Request to enter lame duck mode. Go Nex sends no body; everything in here is ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LameDuckRequest {
    /// Signed claim whose subject is the node; needed when the node has `valid_issuers`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub node_jwt: String,
    /// Milliseconds until the node ends its workloads and leaves, instead of those of its configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
}

/// The node is in lame duck mode.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LameDuckResponse {
    /// Public nkey of the node.
    pub node_id: String,
    /// Always true.
    pub success: bool,
    /// Milliseconds until the node leaves, ours.
    pub leaves_in_ms: u64,
}
