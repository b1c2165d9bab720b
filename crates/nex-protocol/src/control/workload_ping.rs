//! WPING: where the workloads of a namespace run. Nodes that have none of them stay silent.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::null_as_default;

/// Reply to WPING.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WorkloadPingResponse {
    /// Public nkey of the node.
    pub node_id: String,
    /// Public curve key to seal environments for.
    pub target_xkey: String,
    /// Version of nex.
    pub version: String,
    /// Tags of the node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub tags: BTreeMap<String, String>,
    /// Time since the node started.
    pub uptime: String,
    /// The workloads that were asked for. Go Nex calls them machines, for each has one.
    #[serde(deserialize_with = "null_as_default")]
    pub running_machines: Vec<WorkloadPingMachine>,
}

/// A workload as WPING tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WorkloadPingMachine {
    /// Workload id.
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `native`, `v8` or `wasm`.
    pub r#type: String,
    /// State of its machine, ours: `running`, `starting`, `backoff`…
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Time since deploy, ours.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uptime: String,
    /// Restarts so far, ours.
    pub restarts: u32,
}

impl WorkloadPingMachine {
    /// Whether it is what was asked for: the id exactly, or the name without regard to case.
    pub fn is_meant_by(&self, asked: &str) -> bool {
        self.id == asked || self.name.eq_ignore_ascii_case(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_compare_exactly_and_names_without_regard_to_case() {
        let machine = WorkloadPingMachine { id: "abc".into(), name: "Echo".into(), ..WorkloadPingMachine::default() };
        assert!(machine.is_meant_by("abc") && machine.is_meant_by("eCHO"));
        assert!(!machine.is_meant_by("ABC") && !machine.is_meant_by("ech"));
    }
}
