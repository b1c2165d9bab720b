//! What workloads may take, and what becomes of those that fail.

use std::time::Duration;

/// What all workloads together may take; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeLimits {
    /// Workloads at a time.
    pub max_workloads: u64,
    /// Sum of the artifacts of all workloads, bytes.
    pub max_total_bytes: u64,
    /// Size of one artifact, bytes.
    pub max_workload_bytes: u64,
}

/// The most that one workload may ask for. None: what a workload has that asks for nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkloadCaps {
    /// Thousandths of a processor (`max_cpu_millis`, the most `vcpu_count` of a microVM).
    pub cpu_millis: Option<u64>,
    /// Memory, MiB (`max_memory_mib`, the most `memsize_mib` of a microVM).
    pub memory_mib: Option<u64>,
    /// Agents of one function (`max_instances`, `functions.max_instances`).
    pub instances: Option<u64>,
    /// Time of one call, milliseconds (`max_timeout_ms`, `functions.timeout_ms`).
    pub timeout_ms: Option<u64>,
}

/// When failed workloads are started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Delay before the first restart (`base_ms`, 500).
    pub base: Duration,
    /// Longest delay (`cap_ms`, 60000).
    pub cap: Duration,
    /// Restarts without a stable spell between them before it is given up; 0 for no limit (`max_attempts`, 30).
    pub max_attempts: u32,
    /// Running as long as this forgets earlier failures (`stable_ms`, 60000).
    pub stable: Duration,
}

/// Limits of functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionLimits {
    /// Time a call has from its arrival to its reply (`timeout_ms`, 5000).
    pub timeout: Duration,
    /// Calls that one agent of a function runs at a time (`concurrency`, 32).
    pub concurrency: u32,
    /// Calls of one function that may wait for their turn (`max_pending`, 1024).
    pub max_pending: usize,
    /// Bytes of messages that all functions together hold, running and waiting (`max_pending_bytes`, 256 MiB).
    pub max_pending_bytes: u64,
    /// Agents that one function has at most (`max_instances`, 1).
    pub max_instances: u32,
    /// Time without a call after which a function has no agents (`idle_timeout_ms`, 300000); zero keeps them.
    pub idle_timeout: Duration,
    /// Largest JavaScript source, bytes (`script_max_bytes`, 1 MiB).
    pub script_bytes: u64,
}
