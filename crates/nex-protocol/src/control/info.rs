//! INFO: one node and the workloads of one namespace on it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limits::WorkloadLimits;
use super::null_as_default;

/// Reply to INFO.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct InfoResponse {
    /// Version of nex.
    pub version: String,
    /// Time since start.
    pub uptime: String,
    /// Public curve key to seal environments for.
    pub public_xkey: String,
    /// Tags of the node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub tags: BTreeMap<String, String>,
    /// The machine's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Workloads of the namespace asked for.
    #[serde(deserialize_with = "null_as_default")]
    pub machines: Vec<MachineSummary>,
    /// Types of workload the node runs.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub supported_workload_types: Vec<String>,
    /// Ready agents in the warm pool (0.3.0-rc1).
    pub available_agents: usize,
    /// Whether one artifact may run twice in a namespace (0.3.0-rc1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_duplicate_workloads: Option<bool>,
    /// The warm pool, ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolSummary>,
}

/// The warm pool of agents, and what it has done since the node started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PoolSummary {
    /// Agents that can be claimed at once.
    pub ready: usize,
    /// Agents that are kept ready now: the pool's size, and more while there is a demand.
    pub target: usize,
    /// Agents that were handed over.
    pub claims: u64,
    /// Of these, those who had to wait for one.
    pub misses: u64,
    /// Preparations that failed.
    pub failures: u64,
    /// Why the last preparation failed; left out once one succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Memory in kB, from `/proc/meminfo`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Memory {
    /// MemTotal.
    pub total: u64,
    /// MemFree.
    pub free: u64,
    /// MemAvailable.
    pub available: u64,
}

/// A workload and where it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MachineSummary {
    /// Workload id, the one that `stop` takes.
    pub id: String,
    /// Whether it runs now (Go Nex always says true).
    pub healthy: bool,
    /// Time since deploy.
    pub uptime: String,
    /// Its namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// What runs.
    pub workload: WorkloadSummary,
}

/// What runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WorkloadSummary {
    /// Name.
    pub name: String,
    /// Text for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Time it ran: since start for a service, in calls for a function.
    pub runtime: String,
    /// `native`, `v8` or `wasm`.
    pub r#type: String,
    /// SHA-256 of the artifact, hex.
    pub hash: String,
    /// Workload id (0.3.0-rc1).
    pub id: String,
    /// Whether it is restarted when it fails (0.3.0-rc1).
    pub essential: bool,
    /// Time since deploy (0.3.0-rc1).
    pub uptime: String,
    /// State of its machine, ours: `running`, `starting`, `backoff`…
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Restarts so far, ours.
    pub restarts: u32,
    /// Agents of a function that take calls, ours; none while nobody calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<u32>,
    /// Subjects that trigger it, ours.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trigger_subjects: Vec<String>,
    /// What it may take, as far as that was asked for, ours.
    #[serde(skip_serializing_if = "WorkloadLimits::is_empty", deserialize_with = "null_as_default")]
    pub limits: WorkloadLimits,
}
