//! PING: who is there. Also the shape of an auction's bid.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::null_as_default;

/// What a node says of itself to PING and AUCTION.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PingResponse {
    /// Public nkey of the node, `N…`.
    pub node_id: String,
    /// Group of nodes this one belongs to.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub nexus: String,
    /// Version of nex.
    pub version: String,
    /// Time since start, as [`crate::uptime`] prints it.
    pub uptime: String,
    /// Public curve key to seal environments for, `X…`.
    pub target_xkey: String,
    /// Tags of the configuration, and the node's own under `nex.`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub tags: BTreeMap<String, String>,
    /// Workloads on the node.
    pub running_machines: usize,
}

impl PingResponse {
    /// Whether a tag has this value, whatever the case of the letters.
    pub fn tag_is(&self, tag: &str, value: &str) -> bool {
        self.tags.get(tag).is_some_and(|v| v.eq_ignore_ascii_case(value))
    }
}

/// Tags that a node sets by itself.
pub mod tag {
    /// Name of the node, from the configuration or made up.
    pub const NODE_NAME: &str = "node_name";
    /// Operating system, in Go's spelling.
    pub const OS: &str = "nex.os";
    /// Architecture, in Go's spelling (`amd64`, `arm64`).
    pub const ARCH: &str = "nex.arch";
    /// Number of logical processors.
    pub const CPU_COUNT: &str = "nex.cpucount";
    /// `true` when workloads run without a sandbox.
    pub const UNSAFE: &str = "nex.unsafe";
    /// What runs the microVMs that workloads live in, ours.
    pub const VMM: &str = "nex.vmm";
    /// `true` on a node whose microVMs run without Firecracker's jailer, ours.
    pub const UNJAILED: &str = "nex.unjailed";
    /// What bounds no microVM by itself on this node, for want of control groups: `memory,processes` or `processes`, ours.
    pub const UNBOUNDED: &str = "nex.unbounded";
    /// How it runs them: `kvm`, or `tcg` where that is missing, ours.
    pub const ACCELERATOR: &str = "nex.accelerator";
    /// `true` when the node takes no new work.
    pub const LAME_DUCK: &str = "nex.lameduck";
}

/// This machine's architecture as Go spells it.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_nexus_and_tags_are_left_out() {
        let response = PingResponse {
            node_id: "N1".into(),
            version: "0.1.0".into(),
            uptime: "5s".into(),
            target_xkey: "X1".into(),
            ..PingResponse::default()
        };
        assert_eq!(
            serde_json::to_string(&response).unwrap(),
            r#"{"node_id":"N1","version":"0.1.0","uptime":"5s","target_xkey":"X1","running_machines":0}"#
        );
    }

    #[test]
    fn a_go_reply_with_null_tags_decodes() {
        let response: PingResponse = serde_json::from_str(r#"{"node_id":"N1","tags":null,"later":1}"#).unwrap();
        assert!(response.tags.is_empty());
    }
}
